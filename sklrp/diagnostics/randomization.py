"""Ask whether the map depends on what was learned: it is compared with null models' maps.

`diagnose` runs this test with each null model; `randomization_test` runs it with one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklrp._constraints import constrained
from sklrp._sklearn import StrOptions
from sklrp.diagnostics.common_form import FEWEST_CELLS, cosines
from sklrp.diagnostics.explained import CONSTRAINTS, Explained
from sklrp.diagnostics.findings import Finding, bootstrap, judge
from sklrp.diagnostics.nulls import NULLS, NullModel
from sklrp.diagnostics.other_networks import check_trainable, null_maps, why_not_drawn
from sklrp.metrics import randomization_similarity
from sklrp.propagation import explain


@constrained({**CONSTRAINTS, "null": [StrOptions(set(NULLS))]})
def randomization_test(
    model: Any,
    X: ArrayLike,
    y: ArrayLike | None = None,
    *,
    null: str = "network",
    X_train: ArrayLike | None = None,
    y_train: ArrayLike | None = None,
    target: Any = None,
    n_permutations: int = 20,
    max_samples: int | None = 100,
    n_jobs: int | None = None,
    memory: Any = None,
    random_state: int | np.random.RandomState | None = None,
    grid: Any = None,
    **explain_params: Any,
) -> Finding:
    r"""Test whether maps differ from the maps of networks that have learned nothing.

    .. math:: s = \frac{1}{KN} \sum_{k=1}^K \sum_{n=1}^N \left| \cos(R(x_n), R_k(x_n)) \right|

    over K null models, which explain the same class of the same N samples. A statistic near 1 says
    that the map was there before anything was learned, however well it conserves; near 0, that it
    was learned. The verdict is artifact where the whole interval is above 0.9 and fact where it is
    below 0.6, or above and below the limits that a null model has of its own.

    Parameters
    ----------
    model : estimator, skorch net, nn.Module, Pipeline, search or FrozenEstimator
        The fitted model, as `sklrp.explain` takes it; the maps are of what enters its network.
    X : array-like of shape (n_samples, ...)
        Samples, best ones that were not trained on.
    y : array-like of shape (n_samples,) or None, default=None
        Their labels or values; they are checked, but the test does not need them.
    null : str, default="network"
        What a null model has lost, the name of a class of `sklrp.diagnostics.nulls`:
        ``"network"``, all that was learned, by drawing every layer anew with its own
        ``reset_parameters``; ``"readout"``, the last layer; ``"labels"``, the relation of labels
        and samples, by training clones on permuted ones.
    X_train, y_train : array-like or None, default=None
        What the model was trained on, as it takes samples; ``null="labels"`` trains clones on it,
        never on `X`. Fitted steps before the network stay as they are.
    target : None, label, int or array-like of shape (n_samples,), default=None
        What is explained: a label, or the index of an output. None (default): the predicted class
        of each sample, or the only output.
    n_permutations : int, default=20
        Number of null models.
    max_samples : int or None, default=100
        At most so many samples are explained, drawn at random. None: all.
    n_jobs : int or None, default=None
        Number of joblib's workers. None (default): one.
    memory : None, str, path or joblib.Memory, default=None
        Where null models are kept, as in scikit-learn's `Pipeline`: after
        an interruption the same call does only what is missing. With ``random_state=None`` it
        takes the seed that the first call has drawn. None (default): nowhere.
    random_state : int, RandomState instance or None, default=None
        Determines the null models.
    grid : GridVectorizer, DataArray, Bunch, (latitude, longitude) or None, default=None
        Where the cells of fields are. None (default): what the model or X says.
    **explain_params : dict
        Parameters of ``explain``, such as ``rule``.

    Returns
    -------
    Finding
        With ``similarity``, the absolute cosines of shape ``(n_permutations, n_samples)``, NaN
        where a null model has no relevance; for ``null="network"`` also ``layers`` and
        ``layer_similarity``, the names of the layers from the last to the first and the mean
        similarity after they, too, were drawn at random. ``null`` is the similarity of pairs of
        null models.

    Raises
    ------
    ValueError
        If a parameter is out of range, or training data are needed and missing.
    TypeError
        If the model cannot be explained, clones of it must be trained and cannot be, or a
        parameter has no start: its layer needs a method ``reset_parameters``.

    References
    ----------
    J. Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018: model parameter and data
    randomization tests; arXiv 2302.12317 for what they find on echo state networks.

    Examples
    --------
    >>> from sklrp import MLPClassifier
    >>> from sklrp.datasets import make_squares
    >>> from sklrp.diagnostics import randomization_test
    >>> X, y, _ = make_squares(n_per_class=50, size=20, random_state=0)
    >>> clf = MLPClassifier(max_epochs=10, random_state=0).fit(X, y)
    >>> randomization_test(clf, X, rule="epsilon", random_state=0).verdict
    'fact'
    >>> randomization_test(clf, X, rule="z_plus", random_state=0).verdict == "fact"
    False
    """
    explained = Explained(
        model,
        X,
        y,
        X_train=X_train,
        y_train=y_train,
        target=target,
        grid=grid,
        max_samples=max_samples,
        random_state=random_state,
        n_jobs=n_jobs,
        memory=memory,
        **explain_params,
    )
    if NULLS[null].trains:
        check_trainable(explained, f"null={null!r}")
    return explained.recall(compare_with_null, NULLS[null], n_permutations)


def compare_with_null(explained: Explained, null: NullModel, n_draws: int) -> Finding:
    """Compare the maps with those of null models."""
    maps = explained.maps.reshape(len(explained.X), -1)
    others = null_maps(explained, null.name, n_draws).reshape(n_draws, *maps.shape)
    similarity = np.abs(cosines(maps, others))
    alive = ~np.isnan(similarity).all(axis=1)
    if alive.any():
        draws = np.nanmean(similarity[alive], axis=1)
        interval = bootstrap(draws, explained.rng(null.finding))
        statistic = float(draws.mean())
    else:  # no null model has any relevance: nothing to compare with
        statistic, interval = float("nan"), (0.0, 1.0)
    reading = (
        f"mean |cosine| with the maps of {alive.sum()} network{'' if alive.sum() == 1 else 's'} "
        f"{null.lost}"
    )
    if alive.any():
        reading += f" (they explain {100 * statistic**2:.0f} % of the squared map)"
    if not alive.all():
        reading += f"; {(~alive).sum()} more had no relevance at all"
    verdict = judge(interval, artifact_above=null.artifact_above, fact_below=null.fact_below)
    if maps.shape[1] < FEWEST_CELLS:
        verdict, reading = "undecided", f"{reading}; among so few cells all maps are alike"
    finding = explained.finding(
        name=null.finding,
        question=f"Do networks {null.lost} give the same map?",
        statistic=statistic,
        interval=interval,
        null=_between(others),
        verdict=verdict,
        reading=reading,
        advice="" if verdict == "fact" else null.advice,
        similarity=similarity,
        table={"draw": np.arange(n_draws), "similarity": np.nan_to_num(similarity).mean(axis=1)},
    )
    if null.by_layer:
        layers, cascade = _cascade(explained)
        finding.update(layers=layers, layer_similarity=cascade)
    return finding


def leave_undecided(explained: Explained) -> Finding:
    """Return the finding on a network that cannot be drawn anew, which says why."""
    null = NULLS["network"]
    return explained.finding(
        name=null.finding,
        question=f"Do networks {null.lost} give the same map?",
        statistic=float("nan"),
        interval=(float("nan"), float("nan")),
        null=np.empty(0),
        verdict="undecided",
        reading="not compared: there are no such networks",
        advice=why_not_drawn(explained),
        similarity=np.empty((0, len(explained.X))),
        table={"draw": np.empty(0, dtype=int), "similarity": np.empty(0)},
    )


def _cascade(explained: Explained) -> tuple[NDArray, NDArray[np.float64]]:
    """Return the layers from the last, and the similarity after each was drawn at random."""
    result = randomization_similarity(
        explained.model.network,
        explained.given(explained.X),
        target=0,  # any: what is explained is known already
        similarity="cosine",
        random_state=explained.seed("layers"),
        explain=lambda *given, target, **params: explain(
            *given, target=explained.asked(explained.target), **params
        ),
        **explained.params,
    )
    return np.array(result.layers), np.abs(result.similarity).mean(axis=1)


def _between(maps: NDArray) -> NDArray[np.float64]:
    """Return the mean similarity of each null model with the next."""
    if len(maps) < 2:
        return np.empty(0)
    values = np.abs(cosines(maps, np.roll(maps, 1, axis=0)))
    return np.nanmean(values[~np.isnan(values).all(axis=1)], axis=1)
