"""Similarity of two maps of each sample.

The metrics that explain again compare maps by it, as does the test of randomised layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import uniform_filter
from scipy.stats import rankdata

from sklrp._checks import check_maps
from sklrp._wording import say_value
from sklrp.geo.places import put_in_order, samples_first

SIMILARITIES = ("spearman", "pearson", "cosine", "ssim")
Similarity = str | Callable[[NDArray, NDArray], Any]
_WINDOW = 7


def compare_maps(
    one: ArrayLike,
    other: ArrayLike,
    similarity: Similarity = "spearman",
    *,
    absolute: bool = False,
) -> NDArray[np.float64]:
    """Return how similar two maps of each sample are.

    A constant map has no order and no direction. Two constant maps say the same: their similarity
    is 1. A constant map and another have a similarity of 0. For the cosine this holds for maps of
    zeros. Differences within the rounding of the maps' dtype count as none. Structural similarity
    is made for maps of one sign, and may call a map similar to its negative.

    Parameters
    ----------
    one, other : array-like of shape (n_samples, ...)
        The maps.
    similarity : {"spearman", "pearson", "cosine", "ssim"} or callable, default="spearman"
        Rank correlation; correlation; cosine; or structural similarity (Wang et al. 2004) of maps
        that are divided by their largest absolute value, with uniform windows of 7 pixels along
        the last two axes (the only axis of a flat map). A function of both arrays returns one
        value per sample.
    absolute : bool, default=False
        Whether to compare absolute values.

    Returns
    -------
    ndarray of shape (n_samples,)
        The similarity, in [-1, 1], without unit.

    Raises
    ------
    ValueError
        If the shapes differ, a map is not finite or the similarity is unknown.
    """
    one = samples_first(one)
    other = put_in_order(other, one, "the other maps")
    dtypes = np.asarray(one).dtype, np.asarray(other).dtype
    one, other = check_maps(one), check_maps(other)
    if one.shape != other.shape:
        raise ValueError(f"maps of shapes {one.shape} and {other.shape} cannot be compared.")
    if absolute:
        one, other = np.abs(one), np.abs(other)
    if callable(similarity):
        values = np.asarray(similarity(one, other), dtype=np.float64)
        if values.shape != (len(one),):
            raise ValueError(
                f"similarity must return one value for each of {len(one)} samples, got the shape "
                f"{values.shape}."
            )
        return values
    if similarity not in SIMILARITIES:
        raise ValueError(
            f"similarity must be one of {SIMILARITIES} or a function, got {say_value(similarity)}."
        )
    one, other = _to_largest(one), _to_largest(other)
    if similarity == "ssim":
        return _structural(one, other)
    one, other = one.reshape(len(one), -1), other.reshape(len(other), -1)
    if similarity == "cosine":
        empty = [~maps.any(axis=1) for maps in (one, other)]
        values = _row_cosines(one, other)
    else:
        empty = [is_constant(one, 1.0, dtypes[0])[:, 0], is_constant(other, 1.0, dtypes[1])[:, 0]]
        rank = similarity == "spearman"
        values = correlate(*(rankdata(m, axis=1) if rank else m for m in (one, other)))
    return np.where(empty[0] & empty[1], 1.0, np.where(empty[0] | empty[1], 0.0, values))


def correlate(one: NDArray, other: NDArray) -> NDArray[np.float64]:
    """Return Pearson's correlation of each pair of rows, 0 where one of them is constant."""
    return _row_cosines(_centre(one), _centre(other))


def is_constant(values: NDArray, size: Any, dtype: np.dtype) -> NDArray[np.bool_]:
    """Tell for each row, (n, 1), whether it varies by no more than a dtype resolves at `size`."""
    resolution = np.finfo(dtype if dtype.kind == "f" else np.float64).eps
    return np.ptp(values, axis=1, keepdims=True) <= 1000 * resolution * size


def _centre(rows: NDArray) -> NDArray:
    """Return rows less their mean, scaled; zero where they are constant but for rounding."""
    flat = is_constant(rows, np.abs(rows).max(axis=1, keepdims=True), rows.dtype)
    return np.where(flat, 0.0, _to_largest(rows - rows.mean(axis=1, keepdims=True)))


def _to_largest(maps: NDArray) -> NDArray:
    """Return maps divided by their largest absolute value; maps of zeros stay as they are."""
    size = np.abs(maps).max(axis=tuple(range(1, maps.ndim)), keepdims=True)
    return maps / np.where(size == 0, 1.0, size)


def _row_cosines(one: NDArray, other: NDArray) -> NDArray[np.float64]:
    """Return the cosine of each pair of rows, 0 where one of them is zero."""
    size = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    dot = (one * other).sum(axis=1)
    return np.divide(dot, size, out=np.zeros(len(size)), where=size > 0).clip(-1, 1)


def _structural(one: NDArray, other: NDArray) -> NDArray[np.float64]:
    """Return the mean structural similarity of maps within [-1, 1], over windows inside them."""
    axes = tuple(range(1, one.ndim))[-2:]
    edge = min(one.shape[axis] for axis in axes)
    if edge < _WINDOW:
        raise ValueError(
            f"similarity='ssim' needs maps of at least {_WINDOW} values along the last two axes, "
            f"got the shape {one.shape[1:]}: use 'spearman', 'pearson' or 'cosine'."
        )
    inside = tuple(
        slice(_WINDOW // 2, -(_WINDOW // 2)) if axis in axes else slice(None)
        for axis in range(one.ndim)
    )
    window = [_WINDOW if axis in axes else 1 for axis in range(one.ndim)]

    def average(maps: NDArray) -> NDArray:
        return uniform_filter(maps, window)[inside]

    n_values = _WINDOW ** len(axes)
    unbiased = n_values / (n_values - 1)
    mean_one, mean_other = average(one), average(other)
    var_one = unbiased * (average(one * one) - mean_one**2)
    var_other = unbiased * (average(other * other) - mean_other**2)
    covariance = unbiased * (average(one * other) - mean_one * mean_other)
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # of Wang et al. for a range of 2, from -1 to 1
    index = (2 * mean_one * mean_other + c1) * (2 * covariance + c2)
    index /= (mean_one**2 + mean_other**2 + c1) * (var_one + var_other + c2)
    return index.mean(axis=tuple(range(1, one.ndim)))
