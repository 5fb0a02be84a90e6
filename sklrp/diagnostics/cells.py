"""Cells that cannot speak for a class: constant ones, offsets, outliers; and degenerate maps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklrp._sklearn import validate_params
from sklrp.diagnostics.explained import Explained, cosines
from sklrp.diagnostics.findings import Finding, bootstrap, judge
from sklrp.diagnostics.randomization import COMMON

_SAME = 0.99  # the cosine of maps that are taken for equal
_CAUSES = ("bias", "epsilon", "padding", "initial_state", "dropped")


@validate_params(COMMON, prefer_skip_nested_validation=True)
def degeneracy(
    estimator: Any,
    X: ArrayLike,
    *,
    target: Any = None,
    max_samples: int | None = 100,
    random_state: int | np.random.RandomState | None = None,
    **explain_params: Any,
) -> Finding:
    """Test whether maps say anything: constant ones, or equal for all samples, do not.

    The statistic is the largest of four shares of the samples: those whose map is zero; constant;
    nearly (cosine above 0.99) that of the next sample of the same class while the samples
    themselves differ more; nearly the input or its absolute values; and, of three or more classes,
    nearly that of the next class. The verdict is artifact above one half and fact below a
    quarter: among few features some maps are alike by chance.

    Parameters
    ----------
    estimator : estimator
        A fitted classifier with ``explain``, or a pipeline that ends in one.
    X : array-like of shape (n_samples, ...)
        The samples.
    target : None, label or array-like of shape (n_samples,), default=None
        The class explained: None the predicted class of each sample.
    max_samples : int or None, default=100
        At most so many samples are explained, drawn at random; None explains all.
    random_state : int, RandomState instance or None, default=None
        Determines which.
    **explain_params : dict
        Parameters of ``explain``, such as ``rule``.

    Returns
    -------
    Finding
        With ``shares``, a dict of the shares by their kind.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    arXiv 2302.12317; L. Sixt, M. Granz, T. Landgraf, "When explanations lie", ICML 2020: rules
    whose maps converge to one.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklrp import MLPClassifier
    >>> from sklrp.diagnostics import degeneracy
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(max_epochs=5, random_state=0).fit(X, y)
    >>> import warnings
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")  # flat warns by itself
    ...     degeneracy(clf, X, rule="flat").shares["constant"]
    1.0
    """
    return find_degenerate(
        Explained(
            estimator,
            X,
            target=target,
            max_samples=max_samples,
            random_state=random_state,
            **explain_params,
        )
    )


def find_degenerate(explained: Explained) -> Finding:
    """Look for maps that say nothing."""
    maps = explained.maps.reshape(len(explained.X), -1)
    samples = explained.X.reshape(maps.shape)
    size = np.abs(maps).max(axis=1)
    kinds = {
        "zero": size == 0,
        "constant": (np.ptp(maps, axis=1) <= 1e-4 * size) & (maps.shape[1] > 1),
        "the input": np.maximum(
            _absent(cosines(maps, samples)), _absent(cosines(np.abs(maps), np.abs(samples)))
        )
        > _SAME,
        "equal for all samples": _equal_samples(explained, maps, samples),
        "equal for all classes": _equal_classes(explained),
    }
    shares = {kind: float(np.mean(found)) for kind, found in kinds.items()}
    worst = max(shares, key=lambda kind: shares[kind])
    interval = bootstrap(kinds[worst].astype(float), np.random.default_rng(0))
    verdict = judge(interval, artifact_above=0.5, fact_below=0.25)
    return Finding(
        name="degeneracy",
        question="Do maps say more than nothing, or always the same?",
        statistic=shares[worst],
        interval=interval,
        null=np.empty(0),
        verdict=verdict,
        reading=f"of the maps are {worst}" if shares[worst] else "no map is degenerate",
        advice=""
        if verdict == "fact"
        else (
            f"Maps are {worst}: choose a rule that uses the input and the sign of the weights, "
            "such as rule='epsilon' (a flat or w_square rule on a dense layer does not)."
        ),
        shares=shares,
        table={"kind": np.array(list(shares)), "share": np.array(list(shares.values()))},
    )


def _absent(values: NDArray) -> NDArray:
    return np.nan_to_num(values, nan=0.0)


def _equal_samples(explained: Explained, maps: NDArray, samples: NDArray) -> NDArray[np.bool_]:
    """Tell which maps equal that of the next sample of the class, though the samples differ."""
    same = np.zeros(len(maps), dtype=bool)
    for label in np.unique(explained.target):
        rows = np.flatnonzero(explained.target == label)
        if len(rows) > 1:
            after = np.roll(rows, 1)
            like = _absent(cosines(maps[rows], maps[after]))
            own = _absent(cosines(samples[rows], samples[after]))
            same[rows] = (like > _SAME) & (1 - like < 0.1 * (1 - own))
    return same


def _equal_classes(explained: Explained) -> NDArray[np.bool_]:
    """Tell which maps equal, but for their sign, that of another class; of two, none does."""
    classes = np.asarray(explained.estimator.classes_)
    n = len(explained.X)
    if len(classes) < 3:
        return np.zeros(n, dtype=bool)
    code = np.searchsorted(classes, explained.target)
    other = classes[(code + 1) % len(classes)]
    samples = explained.given(explained.X)
    maps = explained.estimator.explain(samples, target=other, **explained.params)
    same = _absent(cosines(maps.reshape(n, -1), explained.relevance.reshape(n, -1)))
    # The contrast of one class with another is the negative of theirs: that is no artifact.
    return (same if explained.params.get("contrast") else np.abs(same)) > _SAME


def fixed_cells(explained: Explained) -> Finding:
    """Ask how much relevance lies on cells that hold one value, or nearly, in all samples."""
    samples = explained.all_X.reshape(len(explained.all_X), -1).astype(np.float64)
    mean, spread = np.abs(samples.mean(axis=0)), samples.std(axis=0)
    kinds = {"fixed": spread <= 1e-6 * mean, "offset": mean > 5 * spread}
    limits = {"fixed": 0.05, "offset": 0.5}
    shares = {kind: _share(explained.maps, cells) for kind, cells in kinds.items()}
    kind = max(kinds, key=lambda k: float(shares[k].mean()) / limits[k])
    share, own = shares[kind], _share(explained.X, kinds[kind])
    interval = bootstrap(share, np.random.default_rng(0))
    limit = limits[kind]
    verdict = judge(interval, artifact_above=limit, fact_below=0.8 * limit)
    which = {"fixed": "of one value", "offset": "of a mean above five times their spread"}[kind]
    return Finding(
        name="constant",
        question="Does relevance lie on cells that hardly differ between samples?",
        statistic=float(share.mean()),
        interval=interval,
        null=own,
        verdict=verdict,
        reading=(
            f"of |relevance| on {kinds[kind].sum()} of {kinds[kind].size} cells {which}, which "
            f"hold {own.mean():.0%} of |input|"
        ),
        advice=""
        if verdict == "fact"
        else (
            "Cells that are the same in all samples tell no classes apart: subtract the mean of "
            "the training data, so that offsets and fill values become 0, or mask them "
            "(sklrp.preprocessing.InputMasker)."
        ),
        cells=kinds[kind].reshape(explained.X.shape[1:]),
        table={"share": share, "input": own},
    )


def outlying_cells(explained: Explained, n_draws: int) -> Finding:
    """Ask whether a few cells of large values hold the relevance, whatever was learned."""
    samples = explained.all_X.reshape(len(explained.all_X), -1).astype(np.float64)
    size = np.sqrt((samples**2).mean(axis=0))
    typical = np.median(size[size > 0]) if size.any() else 1.0
    outlying = size > 10 * typical
    if outlying.mean() > 0.1:
        outlying[:] = False  # a tenth of the cells are no outliers
    share = _share(explained.maps, outlying)
    null = np.array([_share(m, outlying).mean() for m in explained.null_maps("network", n_draws)])
    interval = bootstrap(share, np.random.default_rng(0))
    verdict = judge(interval, artifact_above=0.5, fact_below=0.4)
    if np.median(null) < 0.5 * share.mean():
        verdict = "fact"
    return Finding(
        name="outliers",
        question="Do a few cells of large values hold the relevance?",
        statistic=float(share.mean()),
        interval=interval,
        null=null,
        verdict=verdict,
        reading=(
            f"of |relevance| on the {outlying.sum()} of {outlying.size} cells that are more than "
            f"ten times as large as the median cell; untrained {np.median(null):.2f}"
        ),
        advice=""
        if verdict == "fact"
        else (
            "Relevance goes where values are large, learned or not: cap the input "
            "(sklrp.preprocessing.InputCapper) or standardise each cell."
        ),
        cells=outlying.reshape(explained.X.shape[1:]),
        table={"share": share},
    )


def _share(maps: NDArray, cells: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the share of each map's absolute values that lies on some cells."""
    sizes = np.abs(maps.reshape(len(maps), -1)).astype(np.float64)
    total = sizes.sum(axis=1)
    return np.divide(sizes[:, cells].sum(axis=1), total, out=np.zeros(len(maps)), where=total > 0)


@validate_params(COMMON, prefer_skip_nested_validation=True)
def bias_share(
    estimator: Any,
    X: ArrayLike,
    *,
    target: Any = None,
    max_samples: int | None = 100,
    random_state: int | np.random.RandomState | None = None,
    **explain_params: Any,
) -> Finding:
    r"""Return where relevance went that did not reach the input.

    .. math:: s = |f(x) - \sum_i R_i| \; / \; |f(x)|

    What biases, epsilon, padding, the initial state and dropped relevance kept, layer by layer,
    adds up to the difference of the score and the map's sum. A map that holds little of the score
    can still be right (and one that holds all of it wrong): this finding never says artifact. It
    says fact where the interval of the median is below 0.5, and undecided else.

    Parameters
    ----------
    estimator : estimator
        A fitted classifier with ``explain``, or a pipeline that ends in one.
    X : array-like of shape (n_samples, ...)
        The samples.
    target : None, label or array-like of shape (n_samples,), default=None
        The class explained: None the predicted class of each sample.
    max_samples : int or None, default=100
        At most so many samples are explained, drawn at random; None explains all.
    random_state : int, RandomState instance or None, default=None
        Determines which.
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
            estimator,
            X,
            target=target,
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
    layers = [layer for layer in details.layers if any(layer[c].any() for c in _CAUSES)]
    kept = np.array([[np.median(layer[c] / score) for c in _CAUSES] for layer in layers])
    interval = bootstrap(missing, np.random.default_rng(0), np.median)
    verdict = "fact" if interval[1] < 0.5 else "undecided"
    names = np.array([layer.name for layer in layers])
    return Finding(
        name="bias",
        question="How much of the score does not reach the input?",
        statistic=float(np.median(missing)),
        interval=interval,
        null=np.empty(0),
        verdict=verdict,
        reading="of the score is missing from the map (median over samples)",
        advice=""
        if verdict == "fact"
        else (
            "Biases take much of the score, so the map's sum means little: train with bias=False "
            "or bias='nonpositive', or centre the input."
        ),
        layers=names,
        causes=_CAUSES,
        kept=kept.reshape(len(layers), len(_CAUSES)),
        table={"layer": names, **{c: kept[:, i] for i, c in enumerate(_CAUSES)}}
        if layers
        else {"layer": names},
    )
