"""Which samples a test may exchange: groups, blocks of neighbours, or single samples.

`decompose_skill` asks here before it permutes labels. Nobody says whether samples are in an order
of time, so that is asked of the data: neighbours are then alike beyond what their classes share.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft
from scipy.stats import norm

from sklrp._checks import sort_values
from sklrp._missing import as_plain_array
from sklrp._stored import MEMORY_BYTES, make_zeros, release, take_blocks
from sklrp._warnings import warn_user
from sklrp.skill.permutations import Exchange
from sklrp.skill.questions import Question

_CUT_OFF = 0.05  # of the variance of a statistic, by the borders of blocks
_FALSE_ALARM = 0.01  # the probability that contributions in random order seem correlated
_FAR_SHORTER = 4  # times: blocks of a quarter of the length lose four times as much variance
_ASKED_FOR_BLOCKS = 8  # combinations of outputs
_LONGER = 3  # times: a tail that the noise of long lags does not make
_TRANSFORMED_VALUES = 2**22  # at once
_ASKED_CELLS = 1024  # whose correlation over all lags is found
_LOADED = (
    "If their order is none of time (sorted by class, as the folds of an unshuffled "
    "StratifiedKFold are, or files put one after another), shuffle X and y together, or give "
    "block_length=1. If it is, hold out more samples, or give groups, such as years or cases."
)


def find_exchange(
    groups: Any,
    block_length: int | str,
    question: Question,
    contributions: list[NDArray],
    assumptions: list[str],
) -> Exchange:
    """Return what is exchanged, with the length of blocks estimated if it is not given.

    Parameters
    ----------
    groups, block_length : array-like or None, int or "auto"
        As in `skill_map`.
    question : Question
        What is asked, and so what the truth is.
    contributions : list of ndarray of shape (n_samples, n_cells)
        The contributions to each combination of outputs.
    assumptions : list of str
        What is taken for granted is added here.

    Returns
    -------
    Exchange
        What is exchanged.
    """
    n = len(question.truth)
    if groups is not None:
        codes = sort_values(groups, "groups")[1]
        assumptions.append("groups are exchangeable")
        return Exchange(n, codes.ravel())
    truth = question.numbers()
    classes = question.truth if question.shares is not None else None
    length, rho = max(
        estimate_block(truth, phi, classes) for phi in contributions[:_ASKED_FOR_BLOCKS]
    )
    if block_length != "auto":
        _warn_of_short_blocks(int(block_length), min(length, n), rho)
        what = "single samples" if block_length == 1 else "blocks of neighbouring samples"
        assumptions.append(f"{what} are exchangeable, as block_length says")
        return Exchange(n, None, int(block_length))
    length = min(length, n)
    assumptions.append(_say_order(length, rho, truth, classes is not None))
    return Exchange(n, None, length)


def _warn_of_short_blocks(given: int, estimated: int, rho: float) -> None:
    """Warn if the blocks that were asked for are far shorter than those that would be taken."""
    if given >= estimated or 1 < given > estimated // _FAR_SHORTER:
        return
    warn_user(
        f"block_length={given} is kept, as asked, but labels and contributions are correlated "
        f"from one sample to the next ({rho:.2f}): 'auto' would permute blocks of {estimated}. If "
        "the samples are in order of time, p-values are far too small.",
    )


def _say_order(length: int, rho: float, truth: NDArray, is_class: bool) -> str:
    """Say what was taken for granted of the order of samples."""
    if length > 1:
        return (
            f"samples in their order are correlated ({rho:.2f} from one to the next): blocks of "
            f"{length} are exchangeable"
        )
    if is_class and _lag1(_centred(truth, None)).max() > _noise(len(truth)):
        return (
            "samples are exchangeable if their order is that of y, whose classes come in runs, "
            "and not of time: within a class no sample was found to be like the next. In an order "
            "of time a step that samples and labels share would look the same: give block_length "
            "or groups"
        )
    return f"samples are exchangeable: no correlation from one to the next was found ({rho:.2f})"


def check_groups_and_blocks(groups: Any, block_length: int | str, n_samples: int) -> None:
    """Raise an error if groups or blocks do not fit the samples, or one another."""
    if groups is not None:
        shape = as_plain_array(groups, "groups").shape
        if shape != (n_samples,):
            raise ValueError(
                f"groups must hold the group of each of {n_samples} samples, got the shape "
                f"{shape}."
            )
        if block_length not in ("auto", 1):
            raise ValueError(
                f"block_length={block_length!r} and groups go together in no test: give one."
            )
    if block_length != "auto" and int(block_length) > n_samples // 2:
        raise ValueError(
            f"block_length={block_length} leaves fewer than two blocks of {n_samples} samples."
        )


def check_units(exchange: Exchange, alpha: float, is_estimated: bool) -> None:
    """Raise an error if there are too few orders of units for a p-value of alpha."""
    if exchange.log_permutations() >= math.log(1 / alpha):
        return
    if exchange.groups is not None:
        remedy = (
            "Labels move among groups of equal size only: hold out more groups, or as many "
            "samples of each."
        )
    elif exchange.block_length == 1:
        remedy = "Hold out more samples."
    elif is_estimated:
        remedy = (
            "Samples are like their neighbours, so that they must be permuted in blocks of "
            f"{exchange.block_length}. {_LOADED}"
        )
    else:
        remedy = "Hold out more samples, or give a smaller block_length if that is right."
    raise ValueError(
        f"there are too few units to permute, {exchange.words}: fewer than {1 / alpha:.0f} "
        f"orders cannot give p <= {alpha:g}. {remedy}"
    )


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
    parts = _centred(contributions, classes)
    own, its = _lag1(truth), _lag1(parts)
    weights = np.einsum("ij,ij->j", parts, parts)
    keep = weights > 0
    if n < 3 or not keep.any():
        return 1, 0.0
    rho_labels = float(own.max())
    rho_cells = float(np.average(its[keep], weights=weights[keep]))
    noise = _noise_of_mean(parts)
    # One slow cell among many others is seen by itself.
    least = its - norm.isf(_FALSE_ALARM / len(its)) * np.sqrt(np.clip(1 - its**2, 0, 1) / n)
    slowest = int(np.where(keep, least, -np.inf).argmax())
    is_slow = rho_cells > noise or least[slowest] > 0
    if least[slowest] > rho_cells:
        rho_cells = float(its[slowest])
    product = max(rho_labels, 0.0) * max(rho_cells, 0.0)
    if rho_labels < _noise(n) or not is_slow:
        return 1, math.sqrt(product)
    rho = min(math.sqrt(product), 0.99)
    ideal = 2 * rho**2 / (1 - rho**4)
    asked = np.flatnonzero(keep)[:: max(1, np.count_nonzero(keep) // _ASKED_CELLS)]
    seen = _lost_by_lags(truth[:, own.argmax()], parts, asked, noise)
    return math.ceil((seen if seen > _LONGER * ideal else ideal) / _CUT_OFF), rho


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
    labels: NDArray, parts: NDArray, columns: NDArray[np.intp], noise: float
) -> float:
    """Return the share of the variance that blocks of length 1 lose, times 2, by all lags."""
    n = len(parts)
    most = n // 4
    own = _autocorrelations(labels[:, None], np.arange(1), most)
    its = _autocorrelations(parts, columns, most)
    told = (own > _noise(n)) & (its > noise)
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


def _lag1(centred: NDArray) -> NDArray[np.float64]:
    """Return the lag-1 autocorrelation of columns, corrected for the bias of short series."""
    n = len(centred)
    variance = np.einsum("ij,ij->j", centred, centred)
    products = np.einsum("ij,ij->j", centred[1:], centred[:-1])
    r = np.divide(products, variance, out=np.zeros(len(variance)), where=variance > 0)
    return (r * n + 1) / (n - 4) if n > 8 else r
