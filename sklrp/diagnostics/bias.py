"""Ask how much of the score does not reach the input, and which layers keep it.

`diagnose` asks it of every map; `bias_share` is it alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sklrp._constraints import constrained
from sklrp.diagnostics.explained import CONSTRAINTS, Explained
from sklrp.diagnostics.findings import Finding, bootstrap

_NEXT_TO_NOTHING = 0.1  # of the score: a convention
KEPT_BY = ("bias", "epsilon", "padding", "initial_state", "dropped")


@constrained(CONSTRAINTS)
def bias_share(
    model: Any,
    X: ArrayLike,
    *,
    target: Any = None,
    max_samples: int | None = 100,
    random_state: int | np.random.RandomState | None = None,
    grid: Any = None,
    **explain_params: Any,
) -> Finding:
    r"""Return where relevance went that did not reach the input.

    .. math:: s = |f(x) - \sum_i R_i| \; / \; |f(x)|

    What biases, epsilon, padding, the initial state and dropped relevance kept, layer by layer,
    adds up to the difference of the score and the map's sum. The verdict is artifact where the
    map's sum is under a tenth of the score (the interval of the median of the ratio): next to
    nothing of the score is shown. It is fact where the interval of s is below 0.5, and undecided
    else: a map that holds half of the score can still be right, and one that holds all of it
    wrong.

    Parameters
    ----------
    model : estimator, skorch net, nn.Module, Pipeline, search or FrozenEstimator
        The fitted model, as `sklrp.explain` takes it; the maps are of what enters its network.
    X : array-like of shape (n_samples, ...)
        The samples.
    target : None, label, int or array-like of shape (n_samples,), default=None
        What is explained: a label, or the index of an output. None (default): the predicted class
        of each sample, or the only output.
    max_samples : int or None, default=100
        At most so many samples are explained, drawn at random. None: all.
    random_state : int, RandomState instance or None, default=None
        Determines which.
    grid : GridVectorizer, DataArray, Bunch, (latitude, longitude) or None, default=None
        Where the cells of fields are. None (default): what the model or X says.
    **explain_params : dict
        Parameters of ``explain``, such as ``rule``.

    Returns
    -------
    Finding
        With ``layers``, their names, ``causes`` and ``kept``, the median over samples of what each
        cause kept at each layer as a share of the score, of shape ``(n_layers, n_causes)``.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    S. Bach et al., "On pixel-wise explanations for non-linear classifier decisions by layer-wise
    relevance propagation", PLoS ONE 10(7), 2015: relevance of biases.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklrp import MLPClassifier
    >>> from sklrp.diagnostics import bias_share
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(bias=False, max_epochs=5, random_state=0).fit(X, y)
    >>> bias_share(clf, X).statistic < 1e-3
    True
    """
    return find_kept(
        Explained(
            model,
            X,
            target=target,
            grid=grid,
            max_samples=max_samples,
            random_state=random_state,
            **explain_params,
        )
    )


def find_kept(explained: Explained) -> Finding:
    """Add up what did not reach the input."""
    details = explained.details
    score = np.where(details.score == 0, np.finfo(float).tiny, details.score)
    arrived = explained.relevance.reshape(len(score), -1).sum(axis=1)
    missing = np.abs(1 - arrived / score)
    layers = [layer for layer in details.layers if any(layer[c].any() for c in KEPT_BY)]
    kept = np.array([[np.median(layer[c] / score) for c in KEPT_BY] for layer in layers])
    interval = bootstrap(missing, explained.rng("bias"), np.median)
    verdict = "fact" if interval[1] < 0.5 else "undecided"
    shown = bootstrap(np.abs(arrived / score), explained.rng("bias"), np.median)
    if shown[1] < _NEXT_TO_NOTHING:
        verdict = "artifact"
    names = np.array([layer.name for layer in layers])
    reading = "of the score is missing from the map (median over samples)"
    if "reference_share" in details and np.any(details.reference_share):
        share = np.median(np.abs(details.reference_share) / np.abs(score))
        reading += f"; the reference, which no cell can explain, has {share:.2g} times as much"
    return explained.finding(
        name="bias",
        question="How much of the score does not reach the input?",
        statistic=float(np.median(missing)),
        interval=interval,
        null=np.empty(0),
        verdict=verdict,
        reading=reading,
        advice=""
        if verdict == "fact"
        else f"The map's sum is {np.median(np.abs(arrived / score)):.2g} of the score, next to "
        "nothing: lower epsilon, and see which layers keep it."
        if verdict == "artifact"
        else (
            "Biases take much of the score, so the map's sum means little: train with bias=False "
            "or bias='nonpositive', or centre the input."
        ),
        layers=names,
        causes=KEPT_BY,
        kept=kept.reshape(len(layers), len(KEPT_BY)),
        table={"layer": names, **{c: kept[:, i] for i, c in enumerate(KEPT_BY)}}
        if layers
        else {"layer": names},
    )
