"""Permutation tests of many cells at once: which samples may be exchanged, and what that shows.

`skill_map` hands over the contributions of cells to scores, one row a sample, and the labels; this
file permutes the labels among exchangeable units and returns statistics and p-values. It knows
nothing of networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.std import tqdm

from sklrp._stored import MEMORY_BYTES, take_blocks

_CHUNK_VALUES = 2**21  # statistics of permutations that are in memory at once


@dataclass(frozen=True)
class Exchange:  # numpydoc ignore=PR02
    """Which samples may be exchanged under the null hypothesis.

    Parameters
    ----------
    n_samples : int
        The number of samples.
    groups : ndarray of shape (n_samples,) or None, default=None
        The unit that each sample belongs to, as codes from 0; labels move with units.
    block_length : int, default=1
        The number of neighbours in a block, of samples in order of time; 1 for plain samples.
    slots : ndarray of shape (n_places, n_slots) or None, default=None
        Which samples are at each place in the order of time, -1 where none is: places are what
        blocks are made of, and what is at one stays together. None (default): one sample each, in
        the order of samples.
    place : str, default="sample"
        What a place is: a "sample", a "time" of several, or a "run" without a gap.
    widening : float, default=1.0
        How much larger the errors of the statistics are than permuted labels show.
    """

    n_samples: int
    groups: NDArray[np.intp] | None = None
    block_length: int = 1
    slots: NDArray[np.intp] | None = None
    place: str = "sample"
    widening: float = 1.0

    @property
    def n_places(self) -> int:
        """The number of samples, or of places with several."""
        return self.n_samples if self.slots is None else len(self.slots)

    @property
    def n_units(self) -> int:
        """The number of units that are permuted."""
        if self.groups is not None:
            return int(self.groups.max()) + 1
        return math.ceil(self.n_places / self.block_length)

    @property
    def units(self) -> NDArray[np.intp]:
        """The number of the unit that each sample belongs to."""
        if self.groups is not None:
            return self.groups
        of_place = np.arange(self.n_places) // self.block_length
        if self.slots is None:
            return of_place
        found = np.empty(self.n_samples, dtype=np.intp)
        taken = self.slots >= 0
        found[self.slots[taken]] = np.broadcast_to(of_place[:, None], self.slots.shape)[taken]
        return found

    @property
    def words(self) -> str:
        """What is exchanged, in words."""
        if self.groups is not None:
            return "1 group" if self.n_units == 1 else f"{self.n_units} groups, whole"
        n, place = self.n_places, self.place
        if self.n_units == 1 and n > 1:
            return f"1 block of all {n} {place}s"
        if self.block_length > 1:
            up_to = "up to " if n % self.block_length else ""
            return f"{self.n_units} blocks of {up_to}{self.block_length} neighbouring {place}s"
        if place == "sample":
            return "1 sample" if n == 1 else f"{n} single samples"
        return f"{n} {place}{'' if n == 1 else 's'}, whole, of {self.n_samples} samples"

    def draw(self, rng: np.random.Generator, n_draws: int) -> NDArray[np.intp]:
        """Return permutations, (n_draws, n_samples): whose label each sample takes."""
        if self.groups is not None:
            return np.stack([self._permute_groups(rng) for _ in range(n_draws)])
        if self.block_length == 1:
            places = rng.permuted(np.tile(np.arange(self.n_places), (n_draws, 1)), axis=1)
        else:
            places = np.stack([self._permute_blocks(rng) for _ in range(n_draws)])
        if self.slots is None:
            return places
        return np.stack([self._fill(self.slots, self.slots[order]) for order in places])

    def _permute_blocks(self, rng: np.random.Generator) -> NDArray[np.intp]:
        # The series is cut at a random phase, so that no place is at a block's edge every time.
        start = int(rng.integers(self.block_length))
        rows = np.roll(np.arange(self.n_places), -start)
        blocks = [
            rows[first : first + self.block_length]
            for first in range(0, self.n_places, self.block_length)
        ]
        shuffled = np.concatenate([blocks[i] for i in rng.permutation(len(blocks))])
        found = np.empty_like(shuffled)
        found[rows] = shuffled
        return found

    def _fill(self, slots: NDArray[np.intp], source: NDArray[np.intp]) -> NDArray[np.intp]:
        # Where one place lacks what the other has, the rest is handed out in the order of places.
        found = np.empty(self.n_samples, dtype=np.intp)
        both = (slots >= 0) & (source >= 0)
        found[slots[both]] = source[both]
        found[slots[(slots >= 0) & ~both]] = source[(source >= 0) & ~both]
        return found

    def _permute_groups(self, rng: np.random.Generator) -> NDArray[np.intp]:
        # Units of one size exchange their samples in order; a unit of another size keeps to its
        # own kind.
        assert self.groups is not None
        order = np.argsort(self.groups, kind="stable")
        members = np.split(order, np.flatnonzero(np.diff(self.groups[order])) + 1)
        found = np.arange(self.n_samples)
        sizes = np.array([len(m) for m in members])
        for size in np.unique(sizes):
            alike = np.flatnonzero(sizes == size)
            for one, other in zip(alike, rng.permutation(alike), strict=True):
                found[members[one]] = members[other]
        return found

    def log_permutations(self) -> float:
        """Return the logarithm of the number of distinct permutations of the units."""
        if self.groups is None:
            return math.lgamma(self.n_units + 1)
        _, sizes = np.unique(self.groups, return_counts=True)
        _, alike = np.unique(sizes, return_counts=True)
        return sum(math.lgamma(n + 1) for n in alike)


@dataclass
class CellTest:
    """What a permutation test found, cell by cell.

    Attributes
    ----------
    skill : ndarray of shape (n_cells,)
        The statistic: the covariance of contributions with the labels, in units of the score.
    error : ndarray of shape (n_cells,)
        Its standard error.
    z : ndarray of shape (n_cells,)
        Statistic over standard error.
    p_value : ndarray of shape (n_cells,)
        Two-sided, adjusted for the family of all cells (maxT, step-down).
    q_value : ndarray of shape (n_cells,)
        The estimated share of false discoveries among cells of this |z| and more.
    largest : ndarray of shape (n_permutations,)
        The largest |z| of each permutation.
    """

    skill: NDArray[np.float64]
    error: NDArray[np.float64]
    z: NDArray[np.float64]
    p_value: NDArray[np.float64]
    q_value: NDArray[np.float64]
    largest: NDArray[np.float64] = field(repr=False)


class _Centred:
    """Contributions less their means, of which large ones are never in memory whole.

    Parameters
    ----------
    phi : ndarray of shape (n_samples, n_cells)
        The contributions.
    factor : float or None, default=None
        What they are multiplied by; None is one.
    """

    def __init__(self, phi: NDArray, factor: float | None = None) -> None:
        self._phi = phi
        self._factor = None if factor is None else phi.dtype.type(factor)
        self.n_cells, self.dtype = phi.shape[1], phi.dtype
        self._whole: NDArray | None = None
        if phi.nbytes <= MEMORY_BYTES:
            values = self._scaled(phi)
            self.mean = values.mean(axis=0, dtype=np.float64)
            self._whole = values - self.mean.astype(phi.dtype)
            return
        self.mean = np.zeros(self.n_cells)
        for _, part in take_blocks(phi):
            self.mean += self._scaled(part).sum(axis=0, dtype=np.float64)
        self.mean /= len(phi)

    def _scaled(self, phi: NDArray) -> NDArray:
        return phi if self._factor is None else self._factor * phi

    def blocks(self) -> Iterator[tuple[slice, NDArray]]:
        """Yield rows, with their places."""
        # Squares of values far from zero would cancel in a variance: means are taken off.
        if self._whole is not None:
            yield slice(None), self._whole
            return
        for rows, part in take_blocks(self._phi):
            yield rows, self._scaled(part) - self.mean.astype(self.dtype)


class ClassScores:
    r"""Statistics of contributions to the scores of classes.

    With :math:`\psi_{nk} = \pi_k (\phi_{nk} - \sum_c \pi_c \phi_{nc})`, :math:`\pi` the shares of
    the classes,

    .. math:: T = \sum_k \overline{\psi_{\cdot k}}^{\,k}, \qquad
              v = \sum_k s^2_k(\psi_{\cdot k}) / n_k,

    the mean over the samples of class k and the variance among them. T is the mean of
    :math:`\phi_{n y_n} - \sum_c \pi_c \phi_{nc}` over all samples. Each permutation has its own v
    (Welch): a cell whose contributions spread more in one class is no evidence.

    Parameters
    ----------
    codes : ndarray of shape (n_samples,)
        The class of each sample, from 0.
    phi : list of ndarray of shape (n_samples, n_cells)
        The :math:`\psi` of each class, or what makes it by a factor.
    factors : list of float or None, default=None
        What each is multiplied by; None is one.
    """

    def __init__(
        self, codes: NDArray[np.intp], phi: list[NDArray], factors: list[float] | None = None
    ) -> None:
        self.codes = codes
        of_each: list[Any] = [None] * len(phi) if factors is None else list(factors)
        self.psi = [_Centred(p, factor) for p, factor in zip(phi, of_each, strict=True)]
        self.n_cells = phi[0].shape[1]

    def __call__(self, rows: NDArray[np.intp]) -> tuple[NDArray, NDArray]:
        """Return statistics and variances, each (n_draws, n_cells), of permutations."""
        labels = self.codes[rows]
        total = np.zeros((len(rows), self.n_cells))
        variance = np.zeros_like(total)
        for k, psi in enumerate(self.psi):
            n = np.count_nonzero(self.codes == k)
            chosen = (labels == k).astype(psi.dtype)
            sums, squares = _sum_up(psi, chosen)
            m = sums / n
            total += m + psi.mean
            variance += np.maximum(squares - n * m**2, 0.0) / (n * (n - 1))
        return total, variance


def _sum_up(
    phi: _Centred, weights: NDArray, of_squares: NDArray | None = None
) -> tuple[NDArray, NDArray]:
    """Return weighted sums over samples, (n_draws, n_cells), of contributions and of squares."""
    of_squares = weights if of_squares is None else of_squares
    sums: Any = 0
    squares: Any = 0
    for rows, part in phi.blocks():
        sums = sums + weights[:, rows] @ part
        squares = squares + of_squares[:, rows] @ part**2
    return sums, squares


class ValueScores:
    r"""Statistics of contributions to a predicted value.

    .. math:: T = \overline{(y - \bar y) \phi}, \qquad
              v = (\overline{(y - \bar y)^2 (\phi - \bar\phi)^2} - T^2) / (n - 1) .

    Parameters
    ----------
    values : ndarray of shape (n_samples,)
        The true values.
    phi : ndarray of shape (n_samples, n_cells)
        The contributions.
    """

    def __init__(self, values: NDArray[np.float64], phi: NDArray) -> None:
        self.values = values - values.mean()
        self.phi = _Centred(phi)
        self.n_cells = phi.shape[1]

    def __call__(self, rows: NDArray[np.intp]) -> tuple[NDArray, NDArray]:
        """Return statistics and variances, each (n_draws, n_cells), of permutations."""
        n = len(self.values)
        y = self.values[rows].astype(self.phi.dtype)
        sums, of_squares = _sum_up(self.phi, y, y**2)
        total, squares = (found.astype(np.float64) / n for found in (sums, of_squares))
        return total, np.maximum(squares - total**2, 0.0) / (n - 1)


class JointScores:
    r"""Statistics of contributions to several values together, as one score of the truth.

    .. math:: T = \overline{t}, \qquad v = (\overline{t^2} - T^2) / (n - 1), \qquad
              t_n = \sum_k (y_{nk} - \bar y_k) (\phi_{nk} - \bar\phi_k) .

    Parameters
    ----------
    values : ndarray of shape (n_samples, n_values)
        The true values.
    phi : list of ndarray of shape (n_samples, n_cells)
        The contributions to each.
    """

    def __init__(self, values: NDArray[np.float64], phi: list[NDArray]) -> None:
        self.values = values - values.mean(axis=0)
        self.phi = [_Centred(p) for p in phi]
        self.n_cells = phi[0].shape[1]

    def __call__(self, rows: NDArray[np.intp]) -> tuple[NDArray, NDArray]:
        """Return statistics and variances, each (n_draws, n_cells), of permutations."""
        n = len(self.values)
        y = self.values.T[:, rows].astype(self.phi[0].dtype)  # (n_values, n_draws, n_samples)
        total = np.zeros((len(rows), self.n_cells))
        squares = np.zeros_like(total)
        for parts in zip(*(phi.blocks() for phi in self.phi), strict=True):
            of = parts[0][0]
            for k, (_, phi) in enumerate(parts):
                total += y[k][:, of] @ phi
                squares += y[k][:, of] ** 2 @ phi**2
                for m in range(k):
                    squares += 2 * ((y[k][:, of] * y[m][:, of]) @ (phi * parts[m][1]))
        total /= n
        return total, np.maximum(squares / n - total**2, 0.0) / (n - 1)


class SeveralScores:
    """Statistics of several families, side by side in one.

    Parameters
    ----------
    parts : list of ValueScores
        The families.
    """

    def __init__(self, parts: list[Any]) -> None:
        self.parts = parts
        self.n_cells = sum(part.n_cells for part in parts)

    def __call__(self, rows: NDArray[np.intp]) -> tuple[NDArray, NDArray]:
        """Return statistics and variances, each (n_draws, n_cells), of permutations."""
        found = [part(rows) for part in self.parts]
        return tuple(np.concatenate(kind, axis=1) for kind in zip(*found, strict=True))  # type: ignore[return-value]


Scores = ClassScores | ValueScores | JointScores | SeveralScores


def permutation_test(
    scores: Scores,
    exchange: Exchange,
    rng: np.random.Generator,
    n_permutations: int,
    watch: Callable[[NDArray], None] | None = None,
    progress: bool = False,
) -> CellTest:
    """Test every cell against permutations of the labels, with control of the whole family.

    Parameters
    ----------
    scores : ClassScores, ValueScores, JointScores or SeveralScores
        What gives statistics and variances of permutations.
    exchange : Exchange
        Which samples may be exchanged.
    rng : numpy.random.Generator
        What permutations are drawn from.
    n_permutations : int
        How many, beside the labels as they are.
    watch : callable or None, default=None
        Is handed z, (n, n_cells), of the labels as they are and then of all permutations.
    progress : bool, default=False
        Whether to show a progress bar.

    Returns
    -------
    CellTest
        Statistics and p-values.

    References
    ----------
    P. Westfall, S. Young, "Resampling-based multiple testing", Wiley 1993, algorithm 2.8 (maxT,
    step-down); J. Storey, "A direct approach to false discovery rates", J. R. Stat. Soc. B 64,
    2002; A. Janssen, "Studentized permutation tests for non-i.i.d. hypotheses", Stat. Probab.
    Lett. 36, 1997 (Welch).
    """
    n = exchange.n_samples
    total, variance = scores(np.arange(n)[None])
    skill, error = total[0], np.sqrt(variance[0])
    floor = 1e-6 * error.max(initial=0.0)  # rounding, in cells that contribute nothing
    z = _studentise(skill, error, floor)
    if watch is not None:
        watch(z[np.newaxis])
    size = np.abs(z)
    order = np.argsort(size)  # step-down: the family of a cell is all that are no larger
    ranked = size[order]
    exceeded = np.zeros(len(z))
    beyond = np.zeros(len(z))
    largest = []
    per_chunk = max(1, _CHUNK_VALUES // max(scores.n_cells, n))
    bar = tqdm(total=n_permutations, unit="permutation", desc="skill_map", disable=not progress)
    for start in range(0, n_permutations, per_chunk):
        rows = exchange.draw(rng, min(per_chunk, n_permutations - start))
        total, variance = scores(rows)
        null = _studentise(total, np.sqrt(variance, out=variance), floor) * exchange.widening
        if watch is not None:
            watch(null)
        null = np.abs(null)[:, order]
        largest.append(null.max(axis=1))
        found = np.sort(null, axis=1)
        beyond += sum(len(z) - np.searchsorted(row, ranked, side="left") for row in found)
        np.maximum.accumulate(null, axis=1, out=null)
        exceeded += (null >= ranked * (1 - 1e-9)).sum(axis=0)
        bar.update(len(rows))
    bar.close()
    p_ranked = (1 + exceeded) / (1 + n_permutations)
    p_ranked = np.maximum.accumulate(p_ranked[::-1])[::-1]
    # Cells are independent or not: the mean number of null cells beyond c over those found there.
    n_found = len(z) - np.searchsorted(ranked, ranked, side="left")
    q_ranked = np.minimum(beyond / n_permutations / n_found, 1.0)
    q_ranked = np.minimum.accumulate(q_ranked)
    p_value, q_value = np.empty(len(z)), np.empty(len(z))
    p_value[order], q_value[order] = p_ranked, q_ranked
    return CellTest(skill, error, z, p_value, q_value, np.concatenate(largest))


def _studentise(total: NDArray, error: NDArray, floor: float) -> NDArray:
    return np.divide(total, error, out=np.zeros_like(total), where=error > floor)
