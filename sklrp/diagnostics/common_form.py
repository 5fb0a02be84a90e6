"""The common form in which maps of different networks are compared.

Networks that learned different things have scores of different sizes and signs. Divided by their
sums of absolute values, and with the sign of the score, maps tell how relevance is shared out.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_ROUNDING = 1e-6  # of all relevance, in single precision
FEWEST_CELLS = 3  # among fewer, maps of all networks and samples are alike


def as_shares(relevance: NDArray, score: NDArray) -> NDArray[np.float32]:
    """Return maps with the sign of their score, divided by their sum of absolute values."""
    axes = tuple(range(1, relevance.ndim))
    largest = np.abs(relevance).max(axis=axes, keepdims=True)
    maps = relevance / np.where(largest == 0, 1.0, largest)  # sums neither over- nor underflow
    size = np.abs(maps).sum(axis=axes, keepdims=True)
    sign = np.where(np.reshape(score, size.shape) < 0, -1.0, 1.0)
    return (sign * maps / np.where(size == 0, 1.0, size)).astype(np.float32)


def share_on(maps: NDArray, cells: NDArray) -> NDArray[np.float64]:
    """Return the share of each map's absolute values on cells, a flat mask or their weights."""
    sizes = np.abs(maps.reshape(len(maps), -1)).astype(np.float64)
    total = sizes.sum(axis=1)
    return np.divide(sizes @ cells, total, out=np.zeros(len(maps)), where=total > 0)


def are_unsigned(maps: NDArray) -> bool:
    """Tell whether maps have no negative value but for rounding, and so no direction."""
    against = np.abs(np.minimum(maps, 0)).sum(dtype=np.float64)
    return bool(against <= _ROUNDING * np.abs(maps).sum(dtype=np.float64))


def with_relevance(maps: NDArray) -> NDArray[np.bool_]:
    """Tell which of several stacks of maps have any relevance at all."""
    return np.any(maps.reshape(len(maps), -1), axis=1)


def cosines(one: NDArray, other: NDArray) -> NDArray[np.float64]:
    """Return the cosine of flat maps, (..., n_features), NaN where one of them is zero."""
    dot = np.einsum("...i,...i->...", one, other, dtype=np.float64)
    size = np.sqrt(
        np.einsum("...i,...i->...", one, one, dtype=np.float64)
        * np.einsum("...i,...i->...", other, other, dtype=np.float64)
    )
    return np.divide(dot, size, out=np.full(dot.shape, math.nan), where=size > 0)
