"""Does the map depend on what was learned? Maps of networks that have lost it."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklrp._sklearn import Interval, StrOptions, validate_params
from sklrp.diagnostics.explained import NULLS, Explained, cosines
from sklrp.diagnostics.findings import Finding, bootstrap, judge
from sklrp.metrics import randomization_similarity

COMMON: dict[str, list[Any] | str] = {
    "estimator": "no_validation",
    "X": "no_validation",
    "y": "no_validation",
    "target": "no_validation",
    "n_permutations": [Interval(Integral, 1, None, closed="left")],
    "max_samples": [Interval(Integral, 1, None, closed="left"), None],
    "n_jobs": [Integral, None],
    "random_state": ["random_state"],
}
_LOST = {
    "network": "whose learned parameters are drawn at random",
    "readout": "whose last layer is drawn at random",
    "labels": "trained on permuted labels",
}
_ADVICE = {
    "network": (
        "The architecture and the input alone give this map: choose a rule that keeps the sign of "
        "contributions, such as rule='epsilon', and compare its map with the null."
    ),
    "readout": (
        "The map shows what the hidden layers see, whatever the readout makes of it: explain with "
        "a rule that keeps the sign of contributions, at least on the dense layers."
    ),
    "labels": (
        "A network that has learned nothing true gives this map: check the labels, train on more "
        "samples or regularise, and choose another rule."
    ),
}


@validate_params({**COMMON, "null": [StrOptions(set(NULLS))]}, prefer_skip_nested_validation=True)
def randomization_test(
    estimator: Any,
    X: ArrayLike,
    y: ArrayLike | None = None,
    *,
    null: str = "network",
    target: Any = None,
    n_permutations: int = 20,
    max_samples: int | None = 100,
    n_jobs: int | None = None,
    random_state: int | np.random.RandomState | None = None,
    **explain_params: Any,
) -> Finding:
    r"""Test whether maps differ from those of networks that have learned nothing.

    .. math:: s = \frac{1}{KN} \sum_{k=1}^K \sum_{n=1}^N \left| \cos(R(x_n), R_k(x_n)) \right|

    over K null models, which explain the same class of the same N samples. A statistic near 1 says
    that the map was there before anything was learned, however well it conserves; near 0, that it
    was learned. The verdict is artifact where the whole interval is above 0.9 and fact where it is
    below 0.6; of `null="readout"`, above 0.97 and below 0.95, as hidden layers that have learned
    the task give similar maps under any readout.

    Parameters
    ----------
    estimator : estimator
        A fitted classifier with ``explain``, or a pipeline that ends in one.
    X : array-like of shape (n_samples, ...)
        Samples, best ones that were not trained on.
    y : array-like of shape (n_samples,) or None, default=None
        Their labels, needed by ``null="labels"`` alone.
    null : {"network", "readout", "labels"}, default="network"
        What a null model has lost: all that was learned (of an echo state network that is the
        readout), the last layer, or the relation of labels and samples, by training a clone on
        permuted ones.
    target : None, label or array-like of shape (n_samples,), default=None
        The class explained: None the predicted class of each sample.
    n_permutations : int, default=20
        Number of null models.
    max_samples : int or None, default=100
        At most so many samples are explained, drawn at random; None explains all.
    n_jobs : int or None, default=None
        Number of joblib's workers; None is one.
    random_state : int, RandomState instance or None, default=None
        Determines the null models.
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
        If a parameter is out of range, or labels are needed and missing.
    TypeError
        If the estimator cannot explain.

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
        estimator,
        X,
        y,
        target=target,
        max_samples=max_samples,
        random_state=random_state,
        n_jobs=n_jobs,
        **explain_params,
    )
    return randomization(explained, null, n_permutations)


def randomization(explained: Explained, null: str, n_draws: int) -> Finding:
    """Compare the maps with those of null models."""
    maps = explained.maps.reshape(len(explained.X), -1)
    others = explained.null_maps(null, n_draws).reshape(n_draws, *maps.shape)
    similarity = np.abs(cosines(maps, others))
    alive = ~np.isnan(similarity).all(axis=1)
    if alive.any():
        draws = np.nanmean(similarity[alive], axis=1)
        interval = bootstrap(draws, np.random.default_rng(0))
        statistic = float(draws.mean())
    else:  # no null model has any relevance: nothing to compare with
        statistic, interval = float("nan"), (0.0, 1.0)
    reading = (
        f"mean |cosine| of maps with those of {alive.sum()} networks {_LOST[null]}"
        f" ({statistic**2:.0%} of the squared map is shown by them)"
    )
    if not alive.all():
        reading += f"; {(~alive).sum()} more had no relevance at all"
    above, below = (0.97, 0.95) if null == "readout" else (0.9, 0.6)
    verdict = judge(interval, artifact_above=above, fact_below=below)
    finding = Finding(
        name="randomization" if null == "network" else null,
        question=f"Is the map that of networks {_LOST[null]}?",
        statistic=statistic,
        interval=interval,
        null=_between(others),
        verdict=verdict,
        reading=reading,
        advice="" if verdict == "fact" else _ADVICE[null],
        similarity=similarity,
        table={"draw": np.arange(n_draws), "similarity": np.nan_to_num(similarity).mean(axis=1)},
    )
    if null == "network":
        layers, cascade = _cascade(explained)
        finding.update(layers=layers, layer_similarity=cascade)
    return finding


def _cascade(explained: Explained) -> tuple[NDArray, NDArray[np.float64]]:
    """Return the layers from the last, and the similarity after each was drawn at random."""
    result = randomization_similarity(
        explained.estimator,
        explained.given(explained.X),
        target=explained.target,
        similarity="cosine",
        random_state=0,
        **explained.params,
    )
    return np.array(result.layers), np.abs(result.similarity).mean(axis=1)


def _between(maps: NDArray) -> NDArray[np.float64]:
    """Return the mean similarity of each null model with the next."""
    if len(maps) < 2:
        return np.empty(0)
    values = np.abs(cosines(maps, np.roll(maps, 1, axis=0)))
    return np.nanmean(values[~np.isnan(values).all(axis=1)], axis=1)
