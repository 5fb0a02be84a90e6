"""Samples with other values, which a network takes as it takes those that it is to explain.

What a network computes from its input out of sight looks like a constant until the input changes.
:mod:`.probing` runs it on a sample and on another, which differs wherever it may: floats, indices
and masks, also where all samples are one, or are 0, 0.5 or 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

# Other values are taken from so many samples at most.
_ROWS = 64
_GOLDEN = (5**0.5 - 1) / 2

# Ways to other integers. The first changes which are equal, but may give an index too large
# for its place; the others take what other samples have there, or else the next one.
WAYS = ("spread", "down", "up")


def make_other(array: Any, way: str) -> Any:
    """Return another sample than the first, of one row.

    Parameters
    ----------
    array : ndarray or Tensor of shape (n_samples, ...)
        All samples.
    way : {"spread", "down", "up"}
        How to come to other integers.

    Returns
    -------
    ndarray or Tensor of shape (1, ...)
        The last sample, with values that differ from both its own and the first sample's, but lie
        among the others at their place where there are any.
    """
    n = len(array)
    rows = _as_numpy(array[[*range(min(n, _ROWS)), n - 1]])
    first, last = rows[:1], rows[-1:]
    if rows.dtype == bool:
        other = _flip_mask(first)
    elif rows.dtype.kind in "iu":
        other = _spread_integers(first) if way == "spread" else _step_integers(rows, way)
    else:
        other = _move_floats(rows, last)
    if not isinstance(array, Tensor):
        return other.astype(array.dtype)
    return torch.from_numpy(other).to(device=array.device, dtype=array.dtype)


def _as_numpy(rows: Any) -> np.ndarray:
    if isinstance(rows, Tensor):
        rows = rows.detach().cpu()
        return (rows.double() if rows.is_floating_point() else rows).numpy()
    return np.asarray(rows)


def _flip_mask(first: np.ndarray) -> np.ndarray:
    """Return the opposite mask, but for its first value: a mask of nothing may not be taken."""
    other = ~first
    if other.size > 1:
        other.flat[0] = first.flat[0]
    return other


def _spread_integers(first: np.ndarray) -> np.ndarray:
    """Return other integers, of which others are equal: pairs where there were none."""
    flat = first.ravel()
    if (flat == flat[0]).all():
        steps = 1 + np.arange(flat.size, dtype=flat.dtype) % 2
        other = np.where(flat >= steps, flat - np.minimum(steps, flat), flat + steps)
    else:
        other = np.where(flat > 0, flat - (flat > 0), flat + 1)
        before = other[0:-1:2]
        other[1::2] = np.where(before != flat[1::2], before, other[1::2])
    return other.reshape(first.shape)


def _step_integers(rows: np.ndarray, way: str) -> np.ndarray:
    """Return other integers: those of other samples at their place, or the next ones."""
    first, low, high = rows[:1], rows.min(0, keepdims=True), rows.max(0, keepdims=True)
    smaller, larger = first - (first > 0), first + 1
    if way == "down":
        nearest = np.where(rows < first, rows, low).max(0, keepdims=True)
        other = np.where((low < first) & (nearest != 0), nearest, smaller)
        return np.where(first > 0, other, larger)
    nearest = np.where(rows > first, rows, high).min(0, keepdims=True)
    return np.where(high > first, nearest, larger)


def _move_floats(rows: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return floats between those of the samples, none of which stays where it was."""
    # Steps of unequal size: sums, means, norms and ratios of the values change too.
    steps = 0.2 + 0.25 * (_GOLDEN * np.arange(1, last.size + 1) % 1.0).reshape(last.shape)
    low, high = rows.min(0, keepdims=True), rows.max(0, keepdims=True)
    target = np.where(last - low > high - last, low, high)
    # Where all samples agree the value shrinks, so that an index among floats stays one.
    target = np.where(low < high, target, np.where(last == 0, 1.0, 0.0))
    return last + steps * (target - last)
