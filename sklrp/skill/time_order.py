"""Samples put into the order of their times: which share one, where gaps are, what recurs.

`sklrp.skill.exchanges` makes blocks of these places, and `sklrp.skill.block_lengths` asks how
alike neighbours are in this order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sklrp._sample_times import SampleTimes

_EVEN = 1.5  # times the usual step: longer ones are gaps (months differ by a tenth)
_FEWEST_RUNS, _OF_ONE_LENGTH = 4, 0.8  # of runs between gaps that recur, such as winters
_MOST_SLOTS = 4  # times as many places for members as there are samples
_FORGOTTEN = 1e-4  # a product of correlations that adds nothing


@dataclass(frozen=True)
class TimeOrder:  # numpydoc ignore=PR02
    """Samples in the order of their times.

    Parameters
    ----------
    name : str
        What the coordinate is called.
    slots : ndarray of shape (n_times, n_slots)
        Which samples are of each time, one slot for each member, -1 where there is none.
    steps : ndarray of shape (n_times,)
        The times, in usual steps.
    was_sorted : bool
        Whether the samples came in this order.
    knows_members : bool, default=True
        Whether what is in a slot is the same member at all times.
    """

    name: str
    slots: NDArray[np.intp]
    steps: NDArray[np.float64]
    was_sorted: bool
    knows_members: bool = True

    @property
    def n_times(self) -> int:
        """The number of different times."""
        return len(self.slots)

    @property
    def has_members(self) -> bool:
        """Whether several samples share a time."""
        return self.slots.shape[1] > 1

    @property
    def moved(self) -> NDArray[np.intp] | None:
        """The slots, None if every sample has a time of its own and came in this order."""
        return None if self.was_sorted and not self.has_members else self.slots

    @cached_property
    def gaps(self) -> NDArray[np.float64] | None:
        """How many steps lie between times, None if there is one between all neighbours."""
        gaps = np.diff(self.steps)
        return None if _are_even(gaps) else gaps

    @cached_property
    def runs(self) -> NDArray[np.intp] | None:
        """Which samples are in each run of times between gaps, None unless such runs recur."""
        if self.gaps is None:
            return None
        parts = np.split(np.arange(self.n_times), np.flatnonzero(self.gaps > _EVEN) + 1)
        sizes = np.array([len(part) for part in parts])
        inner = sizes[1:-1]
        if len(sizes) < _FEWEST_RUNS:
            return None
        usual = int(np.bincount(inner).argmax())
        if usual < 2 or (inner == usual).mean() < _OF_ONE_LENGTH:
            return None
        found = np.full((len(parts), sizes.max(), self.slots.shape[1]), -1, dtype=np.intp)
        for k, part in enumerate(parts):
            # The first run may lack its start, any other its end.
            own = found[k, -len(part) :] if k == 0 else found[k, : len(part)]
            own[...] = self.slots[part]
        return found.reshape(len(parts), -1)

    @cached_property
    def run_of_time(self) -> NDArray[np.intp]:
        """The number of the run that each time is in."""
        gaps = np.diff(self.steps)
        return np.concatenate([[0], np.cumsum(gaps > _EVEN)])

    def lost(self, product: float, places: NDArray[np.intp]) -> float:
        """Return the share of the variance that blocks of one place lose, times their length.

        Parameters
        ----------
        product : float
            The product of the correlations of labels and contributions, from one step to the next.
        places : ndarray of shape (n_times,)
            The number of the place that each time is in: what is in one stays together.

        Returns
        -------
        float
            The share, by all pairs of times, each as far apart as it is.
        """
        shared = crossed = 0.0
        for lag, _, weights in self._pairs(product):
            shared += float(weights.sum())
            crossed += float(weights @ (places[lag:] - places[:-lag]))
        return 2 * crossed / (self.n_times + 2 * shared)

    def widening(self, of_labels: float, of_cells: float, length: int) -> float:
        """Return by how much the errors of permuted labels are too small, as a ratio.

        Parameters
        ----------
        of_labels, of_cells : float
            The correlations of labels and contributions, from one step to the next.
        length : int
            The number of times in a block.

        Returns
        -------
        float
            1 where steps are even and members known. Elsewhere a label moves from between longer
            gaps to between shorter ones, or from one member to another, and products of both lose
            some of what neighbours share.
        """
        n = self.n_times
        if (self.gaps is None and self.knows_members) or of_labels * of_cells <= 0:
            return 1.0
        true = kept = 1.0
        for lag, apart, both in self._pairs(of_labels * of_cells):
            moved = float((of_labels**apart).mean() * (of_cells**apart).mean())
            true += 2 / n * float(both.sum())
            kept += 2 / n * len(apart) * moved * max(1 - lag / length, 0.0)
        if not self.knows_members:
            kept = 1 + (kept - 1) / self.slots.shape[1]
        return math.sqrt(true / kept)

    def _pairs(
        self, product: float
    ) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.float64]]]:
        """Yield each lag, how many steps its pairs are apart, and what correlations leave them."""
        for lag in range(1, self.n_times):
            apart = self.steps[lag:] - self.steps[:-lag]
            left = product**apart
            if left.max() < _FORGOTTEN:
                return
            yield lag, apart, left


def order_by_time(times: SampleTimes) -> TimeOrder:
    """Return samples in the order of their times.

    Parameters
    ----------
    times : SampleTimes
        The time of each sample.

    Returns
    -------
    TimeOrder
        The samples by time, and of one time by member, or else in the order in which they came.
    """
    moments, of_sample = np.unique(times.values, return_inverse=True)
    of_sample = of_sample.ravel()
    slot = _take_members(of_sample, times.member)
    steps_back = np.count_nonzero(np.diff(times.values) < 0)
    knows = slot is not None
    if slot is None:  # one member after another, or time after time, says which is which
        slot = _count_up(of_sample)
        knows = steps_back in (0, slot.max())
    slots = np.full((len(moments), slot.max() + 1), -1, dtype=np.intp)
    slots[of_sample, slot] = np.arange(len(of_sample))
    gaps = np.diff(moments)
    step = float(np.quantile(gaps, 0.25, method="lower")) if len(gaps) else 1.0
    return TimeOrder(times.name, slots, (moments - moments[0]) / step, steps_back == 0, knows)


def _take_members(
    of_sample: NDArray[np.intp], member: NDArray[np.intp]
) -> NDArray[np.intp] | None:
    """Return the member of each sample, None where they do not tell those of one time apart."""
    kinds, codes = np.unique(member, return_inverse=True)
    n, n_times = len(of_sample), of_sample.max() + 1
    pairs = of_sample * len(kinds) + codes.ravel()
    few = len(kinds) * n_times <= _MOST_SLOTS * n
    return codes.ravel() if few and len(np.unique(pairs)) == n else None


def _count_up(of_sample: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return how many samples of its time come before each."""
    order = np.argsort(of_sample, kind="stable")
    starts = np.flatnonzero(np.diff(of_sample[order], prepend=-1))
    n = len(order)
    found = np.empty(n, dtype=np.intp)
    found[order] = np.arange(n) - np.repeat(starts, np.diff(starts, append=n))
    return found


def _are_even(gaps: NDArray[np.float64]) -> bool:
    return not len(gaps) or bool(gaps.max() <= _EVEN and gaps.min() >= 1 / _EVEN)
