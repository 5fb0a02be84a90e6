"""How long blocks of neighbours must be, of samples whose order is one of time.

`sklrp.skill.exchanges` asks here. Labels and contributions are compared with those of the samples
after them; blocks are as long as the memory that both share.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft
from scipy.optimize import brentq
from scipy.stats import norm

from sklrp._stored import MEMORY_BYTES, make_zeros, release, take_blocks
from sklrp.skill.time_order import TimeOrder

_CUT_OFF = 0.05  # of the variance of a statistic, by the borders of blocks
_FALSE_ALARM = 0.01  # the probability that contributions in random order seem correlated
_LONGER = 3  # times: a tail that the noise of long lags does not make
_TRANSFORMED_VALUES = 2**22  # at once
_ASKED_CELLS = 1024  # whose correlation over all lags is found
_MOST = 0.99  # of a correlation: beyond it no record is long enough


class Memory(NamedTuple):
    """How long labels and contributions remember, and so how long blocks must be."""

    length: int  # of times, or of runs, in a block
    rho: float  # the correlation from one time to the next
    widening: float = 1.0  # by which the errors of permuted labels are too small
    in_runs: bool = False  # whether the length counts runs


def estimate_block(
    labels: ArrayLike, contributions: NDArray, classes: NDArray[np.intp] | None = None
) -> tuple[int, float]:
    r"""Return a length of blocks for samples in order of time, and the correlation behind it.

    Let :math:`a_k` be the product of the autocorrelations of the labels and of the contributions
    at lag k: only if both are correlated in time does their product mislead a permutation test.
    The variance of the statistic is then :math:`1 + 2 \sum_k a_k` times larger than of independent
    samples. Of pairs k apart, blocks of length L keep the share :math:`1 - k / L`, so that
    permuted labels lack :math:`2 \sum_k a_k k / L` of this variance. L is the smallest by which
    this is at most a twentieth, of :math:`a_k = \rho^{2k}`; or of all lags until one cannot be
    told from 0 if these ask for far more: a slow change under noise has a small :math:`a_1` and a
    long tail. It is 1 where :math:`\rho` cannot be told from 0.

    Parameters
    ----------
    labels : array-like of shape (n_samples,) or (n_samples, n_columns)
        The labels, as numbers.
    contributions : ndarray of shape (n_samples, n_cells)
        The contributions.
    classes : ndarray of shape (n_samples,) or None, default=None
        The class of each sample, from 0, whose mean contributions are taken off: samples sorted by
        class are alike in what tells the classes, which is no correlation in time.

    Returns
    -------
    length : int
        The number of samples in a block.
    rho : float
        The correlation.
    """
    n = len(contributions)
    truth = _centred(np.asarray(labels, dtype=np.float64).reshape(n, -1), None)
    found = _find_memory(truth, _centred(contributions, classes))
    return found.length, found.rho


def estimate_in_time(
    labels: NDArray,
    contributions: NDArray,
    classes: NDArray[np.intp] | None,
    order: TimeOrder,
) -> Memory:
    r"""Return how long labels and contributions remember, of samples whose times are known.

    Neighbours are those in time. Where steps differ, :math:`\rho` is that of the usual step, of
    which the mean over all neighbours :math:`\overline{\rho^g}`, g steps apart, is as large as
    the correlation found; all pairs of times count as far apart as they are. Members of an
    ensemble, or other samples of one time, are compared with themselves at the next time, and so
    are their sums. Runs that recur, such as winters, are places of their own if blocks would be
    as long as they are; they are compared with one another as well.

    Parameters
    ----------
    labels, contributions, classes : ndarray
        As in `estimate_block`.
    order : TimeOrder
        The samples in the order of their times.

    Returns
    -------
    Memory
        The length of blocks and the correlation behind it.
    """
    truth = _centred(np.asarray(labels, dtype=np.float64).reshape(len(labels), -1), None)
    parts = _centred(contributions, classes)
    found = _estimate_places(truth, parts, order.slots, order)
    if order.runs is None:
        return found
    # A cycle of the seasons, in which slots differ, is not what lasts from year to year.
    length = _estimate_places(truth, parts, order.runs, None).length
    per_run = order.runs.shape[1] // order.slots.shape[1]
    if length == 1 and found.length < per_run:
        return found
    across = order.lost(min(found.rho, _MOST) ** 2, order.run_of_time) if found.rho > 0 else 0.0
    length = max(length, math.ceil(across / _CUT_OFF))
    return Memory(length, found.rho, in_runs=True)


def come_in_runs(truth: NDArray, order: TimeOrder | None) -> bool:
    """Tell whether classes last from one sample, or time, to the next.

    Parameters
    ----------
    truth : ndarray of shape (n_samples, n_classes)
        The classes, as numbers.
    order : TimeOrder or None
        The samples in the order of their times; None: as they are.

    Returns
    -------
    bool
        Whether they do, beyond what labels in random order do.
    """
    if order is None:
        return bool(_lag1(_centred(truth, None)).max() > _noise(len(truth)))
    labels = _lay_out(_centred(truth, None), order.slots)
    limit = _noise_of_mean(labels) if order.has_members else _noise(order.n_times)
    return bool(_lag1(labels, order.slots >= 0).max() > limit)


def _estimate_places(
    truth: NDArray, parts: NDArray, slots: NDArray[np.intp], order: TimeOrder | None
) -> Memory:
    """Return the memory of places, by what is in their slots and by its sums."""
    filled = slots >= 0
    own, its = _lay_out(truth, slots), _lay_out(parts, slots)
    found = _find_memory(own, its, filled, order)
    if slots.shape[1] == 1:
        return found
    of_labels, of_cells = (x.reshape(*slots.shape, -1).sum(axis=1) for x in (own, its))
    return max(found, _find_memory(of_labels, of_cells, order=order))


def _lay_out(centred: NDArray, slots: NDArray[np.intp]) -> NDArray:
    """Return series with a column for each slot and column, less its mean; 0 where none is."""
    n, n_slots = slots.shape
    if n_slots == 1 and (slots[:, 0] == np.arange(n)).all():
        return centred
    shape, width = (n, n_slots * centred.shape[1]), centred.shape[1]
    is_large = n * shape[1] * centred.itemsize > MEMORY_BYTES
    found = make_zeros(shape, centred.dtype) if is_large else np.zeros(shape, centred.dtype)
    counts = (slots >= 0).sum(axis=0)
    means = np.zeros((n_slots, width))
    for rows, part in take_blocks(found):
        taken, own = slots[rows], part.reshape(-1, n_slots, width)
        own[taken >= 0] = centred[taken[taken >= 0]]
        found[rows] = own.reshape(part.shape)
        means += own.sum(axis=0, dtype=np.float64)
        if is_large:
            release(found)
    if n_slots == 1:
        return found
    means /= np.maximum(counts, 1)[:, None]
    for rows, part in take_blocks(found):
        own = part.reshape(-1, n_slots, width) - means.astype(centred.dtype)
        found[rows] = np.where(slots[rows][..., None] >= 0, own, 0).reshape(part.shape)
        if is_large:
            release(found)
    return found


def _find_memory(
    truth: NDArray,
    parts: NDArray,
    filled: NDArray[np.bool_] | None = None,
    order: TimeOrder | None = None,
) -> Memory:
    """Return the length of blocks of rows, of several slots each, and the correlation."""
    n = len(parts)
    n_slots = 1 if filled is None else filled.shape[1]
    own, its = _lag1(truth, filled), _lag1(parts, filled)
    weights = np.einsum("ij,ij->j", parts, parts)
    of_cells = weights.reshape(n_slots, -1).sum(axis=0)
    keep = of_cells > 0
    if n < 3 or not keep.any():
        return Memory(1, 0.0)
    rho_labels = float(own.max())
    rho_cells = float(np.average(its[keep], weights=of_cells[keep]))
    noise = _noise_of_mean(parts)
    of_labels = _noise(n) if n_slots == 1 else _noise_of_mean(truth)
    # One slow cell among many others is seen by itself.
    least = its - norm.isf(_FALSE_ALARM / len(its)) * np.sqrt(np.clip(1 - its**2, 0, 1) / n)
    slowest = int(np.where(keep, least, -np.inf).argmax())
    is_slow = rho_cells > noise or least[slowest] > 0
    if least[slowest] > rho_cells:
        rho_cells = float(its[slowest])
    is_slow = is_slow and rho_labels >= of_labels
    gaps = None if order is None else order.gaps
    rho_labels, rho_cells = (_of_one_step(max(r, 0.0), gaps) for r in (rho_labels, rho_cells))
    rho = math.sqrt(rho_labels * rho_cells)
    if not is_slow:
        return Memory(1, rho)
    rho = min(rho, _MOST)
    if order is None or gaps is None:
        ideal = 2 * rho**2 / (1 - rho**4)
    else:
        ideal = order.lost(rho**2, np.arange(n))
    asked = np.flatnonzero(weights > 0)
    asked = asked[:: max(1, len(asked) // _ASKED_CELLS)]
    n_columns = truth.shape[1] // n_slots
    labels = truth[:, int(own.argmax()) :: n_columns]
    seen = _lost_by_lags(labels, parts, asked, of_labels, noise)
    length = max(math.ceil((seen if seen > _LONGER * ideal else ideal) / _CUT_OFF), 1)
    wider = 1.0 if order is None else order.widening(rho_labels, rho_cells, length)
    return Memory(length, rho, wider)


def _of_one_step(r: float, gaps: NDArray[np.float64] | None) -> float:
    """Return the correlation from one step to the next, of a mean one between neighbours."""
    if gaps is None or r <= 0:
        return r
    r = min(r, _MOST)
    return float(brentq(lambda rho: np.mean(rho**gaps) - r, 0.0, 1.0))


def _noise(n: int) -> float:
    """Return the lag-1 autocorrelation that a series without any hardly exceeds."""
    return 2 / math.sqrt(n)


def _noise_of_mean(parts: NDArray) -> float:
    """Return the mean lag-1 autocorrelation that cells in random order hardly exceed.

    The variance of the sum of products of neighbours is that of products of any two samples.
    """
    some, n = slice(None, None, max(1, parts.shape[1] // _ASKED_CELLS)), len(parts)
    gram: Any = 0.0
    total = of_rows = 0.0
    for _, part in take_blocks(parts):
        own = part[:, some].astype(np.float64)
        whole = n < own.shape[1]  # few samples of many cells, which are one block
        gram = gram + (own @ own.T if whole and len(own) == n else own.T @ own)
        sizes = (own**2).sum(axis=1)
        total += sizes.sum()
        of_rows += (sizes**2).sum()
    squares = (gram**2).sum() - of_rows
    if total == 0:
        return math.inf
    return float(norm.isf(_FALSE_ALARM) * math.sqrt(max(squares, 0.0) / n) / total)


def _lost_by_lags(
    labels: NDArray, parts: NDArray, columns: NDArray[np.intp], of_labels: float, noise: float
) -> float:
    """Return the share of the variance that blocks of length 1 lose, times 2, by all lags."""
    n = len(parts)
    most = n // 4
    own = _autocorrelations(labels, np.arange(labels.shape[1]), most)
    its = _autocorrelations(parts, columns, most)
    told = (own > of_labels) & (its > noise)
    last = int(told.argmin()) if not told.all() else most
    product = (own * its)[:last]
    lags = np.arange(1, last + 1)
    return float(2 * (lags * product).sum() / (1 + 2 * product.sum()))


def _autocorrelations(
    centred: NDArray, columns: NDArray[np.intp], n_lags: int
) -> NDArray[np.float64]:
    """Return the mean autocorrelation of columns at lags from 1, weighted by their variances."""
    size = fft.next_fast_len(len(centred) + n_lags, real=True)
    power: Any = 0.0
    at_once = max(1, _TRANSFORMED_VALUES // size)
    for first in range(0, len(columns), at_once):
        series = centred[:, columns[first : first + at_once]]
        power = power + (np.abs(fft.rfft(series, size, axis=0)) ** 2).sum(axis=1)
    covariance = fft.irfft(power, size)[: n_lags + 1]
    return covariance[1:] / covariance[0] if covariance[0] > 0 else np.zeros(n_lags)


def _centred(series: NDArray, classes: NDArray[np.intp] | None) -> NDArray:
    """Return a series less its mean, or less the mean of each sample's class."""
    if series.nbytes > MEMORY_BYTES:
        return _centred_in_file(series, classes)
    if classes is None:
        return series - series.mean(axis=0)
    found = np.empty_like(series)
    for label in np.unique(classes):
        rows = classes == label
        found[rows] = series[rows] - series[rows].mean(axis=0)
    return found


def _centred_in_file(series: NDArray, classes: NDArray[np.intp] | None) -> NDArray:
    """Return the same of a long series, in a temporary file."""
    codes = np.zeros(len(series), dtype=np.intp)
    if classes is not None:
        codes = np.unique(classes, return_inverse=True)[1].ravel()
    counts = np.bincount(codes)
    means = np.zeros((len(counts), series.shape[1]))
    for rows, part in take_blocks(series):
        own = codes[rows]
        for code in np.unique(own):
            means[code] += part[own == code].sum(axis=0, dtype=np.float64)
    means /= counts[:, np.newaxis]
    found = make_zeros(series.shape, series.dtype)
    for rows, part in take_blocks(series):
        found[rows] = part - means[codes[rows]].astype(series.dtype)
        release(found)
    return found


def _lag1(centred: NDArray, filled: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Return the lag-1 autocorrelation of columns, corrected for the bias of short series.

    Of several slots it is that of all of them together.
    """
    n, share = len(centred), 1.0
    variance = np.einsum("ij,ij->j", centred, centred)
    products = np.einsum("ij,ij->j", centred[1:], centred[:-1])
    if filled is not None and filled.shape[1] > 1:
        variance, products = (
            x.reshape(filled.shape[1], -1).sum(axis=0) for x in (variance, products)
        )
        pairs = np.count_nonzero(filled[1:] & filled[:-1])
        share = pairs / np.count_nonzero(filled) * n / max(n - 1, 1)
    r = np.divide(products, variance, out=np.zeros(len(variance)), where=variance > 0)
    r = r / share if share > 0 else r
    return (r * n + 1) / (n - 4) if n > 8 else r
