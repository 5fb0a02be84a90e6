"""Metrics of maps alone: conservation, relevance on a mask, sparseness.

They take arrays and know of no network; scorers and the diagnostics call them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklrp._checks import check_maps, check_mask, check_weights
from sklrp._constraints import constrained
from sklrp._matching import match_samples
from sklrp._missing import as_plain_array
from sklrp._sklearn import StrOptions
from sklrp.geo.places import put_in_order, samples_first
from sklrp.metrics.catalogue import metric

__all__ = ["conservation_error", "relevance_mass", "relevance_rank", "sparseness"]

_PARTS = {"part": [StrOptions({"positive", "absolute", "signed"})]}


@metric("maps and score", "lower", "does the relevance sum to the explained score?")
@constrained({"relevance": ["array-like"], "score": ["array-like"], "relative": ["boolean"]})
def conservation_error(
    relevance: ArrayLike, score: ArrayLike, *, relative: bool = True
) -> NDArray[np.float64]:
    r"""Return how much of the explained score the relevance of the input misses.

    .. math:: E = |f(x) - \sum_i R_i| \; / \; |f(x)|

    Lower is better, 0 is exact conservation. Without biases, LRP's epsilon, gamma and z-plus rules
    conserve; what biases, epsilon, padding and initial states kept is missing here and listed in
    the details of ``explain``. Conservation certifies nothing: a map that conserves to the last
    digit can ignore the network's readout.

    Parameters
    ----------
    relevance : array-like of shape (n_samples, ...)
        The maps; with a score per class of shape ``(n_samples, n_classes, ...)``.
    score : array-like of shape (n_samples,) or (n_samples, n_classes)
        The explained score f(x), as in ``explain(..., return_details=True)[1].score``.
    relative : bool, default=True
        Whether to divide by the score's absolute value.

    Returns
    -------
    ndarray of the shape of score
        The error, in ``[0, inf)``; a share of the score or, with ``relative=False``, in units of
        it. Where the score is 0, the relative error is 0 if the relevance sums to 0 too, else inf.

    Raises
    ------
    ValueError
        If the shapes do not fit, or a value is not finite.

    References
    ----------
    S. Bach et al., "On pixel-wise explanations for non-linear classifier decisions by layer-wise
    relevance propagation", PLoS ONE 10(7), 2015, equation 2.

    Examples
    --------
    >>> from sklrp.metrics import conservation_error
    >>> print(conservation_error([[1.0, 2.0], [1.0, 1.0]], [4.0, 2.0]))
    [0.25 0.  ]
    """
    relevance = samples_first(relevance)
    maps = check_maps(relevance)
    scores = as_plain_array(match_samples(score, relevance, "score"), "score", np.float64)
    if scores.ndim not in (1, 2) or scores.shape != maps.shape[: scores.ndim]:
        raise ValueError(
            f"score has the shape {scores.shape}, but must have one value per map: "
            f"({len(maps)},), or (n_samples, n_classes) where relevance has an axis of classes; "
            f"relevance has the shape {maps.shape}."
        )
    if not np.isfinite(scores).all():
        raise ValueError("score has NaN or infinite values: explain finite scores.")
    error = np.abs(scores - maps.reshape(*scores.shape, -1).sum(axis=-1))
    if not relative:
        return error
    size = np.abs(scores)
    unbounded = np.where(error == 0, 0.0, np.inf)
    return np.divide(error, size, out=unbounded, where=size > 0)


@metric("maps", "higher", "how much relevance lies on a known mask?")
@constrained(
    {
        "relevance": ["array-like"],
        "mask": ["array-like"],
        "weights": ["array-like", None],
        **_PARTS,
    }
)
def relevance_mass(
    relevance: ArrayLike,
    mask: ArrayLike,
    *,
    part: str = "positive",
    weights: ArrayLike | None = None,
) -> NDArray[np.float64]:
    r"""Return the share of each map's relevance that lies on a mask.

    .. math:: M = \sum_{i \in mask} w_i R_i^+ \; / \; \sum_i w_i R_i^+

    Higher is better where the mask marks what the class really depends on. A uniform map has the
    mask's share of the area: compare with it.

    Parameters
    ----------
    relevance : array-like of shape (n_samples, ...)
        The maps.
    mask : array-like of bool, of the shape of one map or of relevance
        True where relevance belongs; one mask for all samples or one for each. Axes of length 1
        may be left out, and it or the maps may be flat. Where both are DataArrays, it is put in
        place by its coordinates.
    part : {"positive", "absolute", "signed"}, default="positive"
        Which relevance counts: ``"positive"`` the evidence for the class, :math:`R^+`, as in the
        paper; ``"absolute"`` all of it, :math:`|R|`; ``"signed"`` the net relevance on the mask as
        a share of all, :math:`\sum_{mask} R \,/\, \sum |R|`.
    weights : array-like of the shape of one map or None, default=None
        What a feature counts, such as the area of its cell (`sklrp.geo.cosine_weights`), where
        relevance is taken as a density. None (default): all features count alike, as relevance is
        a share of the score already.

    Returns
    -------
    ndarray of shape (n_samples,)
        The share, without unit: in [0, 1], signed in [-1, 1]. It is 0 for a map that has no
        relevance of this part at all.

    Raises
    ------
    ValueError
        If the mask is empty or of another shape, a map is not finite, or the weights are of
        another shape or negative.

    References
    ----------
    L. Arras, A. Osman, W. Samek, "CLEVR-XAI: A benchmark dataset for the ground truth evaluation
    of neural network explanations", Information Fusion 81, 2022: relevance mass accuracy.

    Examples
    --------
    >>> from sklrp.metrics import relevance_mass
    >>> relevance = [[3.0, 1.0, -4.0]]
    >>> for part in ("positive", "absolute", "signed"):
    ...     print(relevance_mass(relevance, [True, False, True], part=part))
    [0.75]
    [0.875]
    [-0.125]
    """
    relevance = samples_first(relevance)
    maps = check_maps(relevance)
    inside = check_mask(put_in_order(mask, relevance, "mask"), maps.shape)
    if weights is not None:
        weights = put_in_order(weights, relevance, "weights")
        counted = check_weights(weights, maps.shape[1:])
        if not (counted.reshape(1, -1) * inside).any(axis=1).all():
            raise ValueError(
                "weights are 0 on all of the mask, so that no relevance can lie on it: mark cells "
                "that count, or give those weights above 0."
            )
        maps = maps * counted
    return weighted_share(maps, inside, part)


@metric("maps", "higher", "do the most relevant features lie on it?")
@constrained({"relevance": ["array-like"], "mask": ["array-like"], **_PARTS})
def relevance_rank(
    relevance: ArrayLike, mask: ArrayLike, *, part: str = "positive"
) -> NDArray[np.float64]:
    r"""Return the share of a mask that the most relevant features cover.

    With a mask of K features and :math:`P_K` the K most relevant ones,

    .. math:: A = |P_K \cap mask| \; / \; K

    Higher is better where the mask marks what the class really depends on; a random map has the
    mask's share of the area. Features that tie at the K-th place count with their probability of
    being among the first K in random order, so that no position is favoured.

    Parameters
    ----------
    relevance : array-like of shape (n_samples, ...)
        The maps.
    mask : array-like of bool, of the shape of one map or of relevance
        True where relevance belongs; one mask for all samples or one for each. Axes of length 1
        may be left out, and it or the maps may be flat. Where both are DataArrays, it is put in
        place by its coordinates.
    part : {"positive", "absolute", "signed"}, default="positive"
        By what features are ranked: ``"positive"`` by :math:`R^+`, in which all that is not
        positive ties; ``"absolute"`` by :math:`|R|`; ``"signed"`` by R itself.

    Returns
    -------
    ndarray of shape (n_samples,)
        The share, in [0, 1], without unit. A constant map, such as one of zeros, has the mask's
        share of the area.

    Raises
    ------
    ValueError
        If the mask is empty or of another shape, or a map is not finite.

    References
    ----------
    L. Arras, A. Osman, W. Samek, "CLEVR-XAI: A benchmark dataset for the ground truth evaluation
    of neural network explanations", Information Fusion 81, 2022: relevance rank accuracy.

    Examples
    --------
    >>> from sklrp.metrics import relevance_rank
    >>> print(relevance_rank([[3.0, 1.0, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0]], [1, 1, 0, 0]))
    [0.5 0.5]
    """
    relevance = samples_first(relevance)
    maps = check_maps(relevance)
    inside = check_mask(put_in_order(mask, relevance, "mask"), maps.shape)
    values = _take_part(maps.reshape(len(maps), -1), part)
    size = np.broadcast_to(inside.sum(axis=1), len(values))
    ranked = np.sort(values, axis=1)[:, ::-1]
    threshold = ranked[np.arange(len(ranked)), size - 1][:, None]
    above, tied = values > threshold, values == threshold
    # The places that are left go to the features that tie, at least one, in random order: each of
    # them has the same chance, so the expected number of hits is exact.
    places = size - above.sum(axis=1)
    hits = (above & inside).sum(axis=1) + places * (tied & inside).sum(axis=1) / tied.sum(axis=1)
    return hits / size


@metric("maps", "higher", "how few features hold the relevance?")
@constrained({"relevance": ["array-like"]})
def sparseness(relevance: ArrayLike) -> NDArray[np.float64]:
    r"""Return the Gini index of each map: how few features hold the relevance.

    With the absolute values in rising order, :math:`|R|_{(1)} \le \dots \le |R|_{(N)}`,

    .. math:: G = 1 - 2 \sum_{k=1}^N \frac{|R|_{(k)}}{\sum_i |R_i|} \, \frac{N - k + 1/2}{N}

    Higher is sparser, and easier to read; whether it is truer is not said. It is 0 where all
    features have the same absolute relevance and 1 - 1/N where one of them has it all.

    Parameters
    ----------
    relevance : array-like of shape (n_samples, ...)
        The maps.

    Returns
    -------
    ndarray of shape (n_samples,)
        The Gini index, in [0, 1), without unit; 0 for a map of zeros.

    Raises
    ------
    ValueError
        If a map is not finite.

    References
    ----------
    N. Hurley, S. Rickard, "Comparing measures of sparsity", IEEE Transactions on Information
    Theory 55(10), 2009, table I; for relevance: P. Chalasani et al., "Concise explanations of
    neural networks using adversarial training", ICML 2020.

    Examples
    --------
    >>> from sklrp.metrics import sparseness
    >>> print(sparseness([[0.0, 0.0, 0.0, 1.0], [1.0, -1.0, 1.0, 1.0]]))
    [0.75 0.  ]
    """
    maps = check_maps(samples_first(relevance))
    size = np.sort(np.abs(maps.reshape(len(maps), -1)), axis=1)
    largest = size[:, -1:]
    size = size / np.where(largest == 0, 1.0, largest)  # the sum does not overflow
    n_features = size.shape[1]
    weights = 2 * np.arange(1, n_features + 1) - n_features - 1  # the formula above, rearranged
    total = n_features * size.sum(axis=1)
    return np.divide(size @ weights, total, out=np.zeros(len(size)), where=total > 0)


def weighted_share(maps: NDArray[np.float64], weights: NDArray, part: str) -> NDArray[np.float64]:
    """Return the share of a part of each map's relevance on cells, (n, n_cells), by weights."""
    maps = maps.reshape(len(maps), -1)
    largest = np.abs(maps).max(axis=1, keepdims=True)
    maps = maps / np.where(largest == 0, 1.0, largest)  # sums neither over- nor underflow
    total = _take_part(maps, "absolute" if part == "signed" else part).sum(axis=1)
    mass = (_take_part(maps, part) * weights).sum(axis=1)
    return np.divide(mass, total, out=np.zeros(len(maps)), where=total > 0)


def _take_part(maps: NDArray[np.float64], part: str) -> NDArray[np.float64]:
    """Return the positive part, the absolute value, or the maps themselves."""
    if part == "positive":
        return np.maximum(maps, 0)
    return np.abs(maps) if part == "absolute" else maps
