"""Clusters of neighbouring cells, as evidence for a region and for no single cell of it.

`decompose_skill` hands `ClusterTest` to the permutation test, which shows it the z of the labels
as they are and of every permutation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import norm

_FORMING = float(norm.isf(0.005))  # |z| from which cells form clusters: one in a hundred by chance


@dataclass(frozen=True)
class Neighbours:  # numpydoc ignore=PR02
    """Which cells of a sample are neighbours.

    Parameters
    ----------
    laid : tuple of int
        The lengths of the axes along which cells lie.
    valid : ndarray of bool or None, default=None
        Of that shape: the places of cells, where there are more places than cells.
    channel_axis : int or None, default=None
        The axis along which cells are no neighbours.
    round_axis : int or None, default=None
        The axis whose last cells are next to the first, such as the longitude of a globe.
    """

    laid: tuple[int, ...]
    valid: NDArray[np.bool_] | None = None
    channel_axis: int | None = None
    round_axis: int | None = None


class ClusterTest:
    """Test the mass of clusters, the sum of their |z|, against the largest of each permutation.

    A cluster is of neighbouring cells whose |z| is above 2.6 and of one sign. One that is larger
    than chance would make it in any place says that *some* of its cells are not empty: it leaks
    over the border of what is true.

    Parameters
    ----------
    near : Neighbours
        Which cells are neighbours.
    n_cells : int
        How many cells a sample has.

    References
    ----------
    E. Bullmore et al., "Global, voxel, and cluster tests, by theory and permutation", IEEE Trans.
    Med. Imaging 18, 1999; S. Smith, T. Nichols, "Threshold-free cluster enhancement", NeuroImage
    44, 2009.
    """

    def __init__(self, near: Neighbours, n_cells: int) -> None:
        self._near = near
        self._n_cells = n_cells
        self._largest: list[NDArray] = []
        self._found: NDArray | None = None
        self._masses = np.zeros(1)

    def __call__(self, z: NDArray) -> None:
        """Take z, (n, n_cells): first of the labels as they are, then of permutations."""
        n_parts = z.shape[1] // self._n_cells  # outputs, side by side
        parts = z.reshape(-1, self._n_cells)
        labels, masses = self._label(parts)
        if self._found is None:
            self._found, self._masses = labels.reshape(-1), masses
            return
        owner = np.zeros(len(masses), dtype=np.intp)
        where = labels > 0
        owner[labels[where]] = np.nonzero(where)[0] // n_parts
        largest = np.zeros(len(z))
        np.maximum.at(largest, owner[1:], masses[1:])
        self._largest.append(largest)

    def _label(self, z: NDArray) -> tuple[NDArray, NDArray]:
        """Return the number of each cell's cluster, from 1 on, and the masses by number."""
        full = np.zeros((len(z), *self._near.laid))
        places = self._near.valid
        full[:, ... if places is None else places] = z.reshape(
            (len(z), *self._near.laid) if places is None else (len(z), -1)
        )
        structure = np.ones((1, *(1 if k == self._near.channel_axis else 3
                                  for k in range(full.ndim - 1))))  # fmt: skip
        middle = [(3 - n) // 2 for n in structure.shape]
        structure = np.pad(structure, [(m, m) for m in middle])
        above, n_above = ndimage.label(full > _FORMING, structure)
        below, n_below = ndimage.label(full < -_FORMING, structure)
        labels = above + np.where(below > 0, below + n_above, 0)
        n_labels = n_above + n_below
        if self._near.round_axis is not None:
            labels = _join_ends(labels, full, self._near.round_axis + 1, n_labels)
        masses = np.bincount(labels.ravel(), np.abs(full).ravel(), minlength=n_labels + 1)
        masses[0] = 0
        back = labels.reshape(len(z), -1) if places is None else labels[:, places]
        return back, masses

    def result(self, shape: tuple[int, ...]) -> dict[str, NDArray]:
        """Return ``labels``, and the ``mass``, ``size``, ``sign`` and ``p_value`` of clusters.

        Parameters
        ----------
        shape : tuple of int
            The shape of the labels.

        Returns
        -------
        dict of str to ndarray
            Labels are 1 for the cluster of the largest mass, and so on; 0 in no cluster.
        """
        assert self._found is not None
        numbers = np.flatnonzero(self._masses)
        numbers = numbers[np.argsort(-self._masses[numbers], kind="stable")]
        rank = np.zeros(len(self._masses), dtype=np.intp)
        rank[numbers] = np.arange(1, len(numbers) + 1)
        labels = rank[self._found]
        largest = np.sort(np.concatenate(self._largest))
        mass = self._masses[numbers]
        n_beyond = len(largest) - np.searchsorted(largest, mass * (1 - 1e-9), side="left")
        return {
            "labels": labels.reshape(shape),
            "mass": mass,
            "size": np.bincount(labels, minlength=len(numbers) + 1)[1:],
            "p_value": (1 + n_beyond) / (1 + len(largest)),
        }


def _join_ends(labels: NDArray, z: NDArray, axis: int, n_labels: int) -> NDArray:
    """Give clusters one number that meet where the last column is next to the first."""
    parent = np.arange(n_labels + 1)

    def find(k: int) -> int:
        while parent[k] != k:
            k = parent[k]
        return k

    first, last = labels.take(0, axis), labels.take(-1, axis)
    same = z.take(0, axis) * z.take(-1, axis) > 0
    pairs = np.unique(np.stack([first, last], -1)[(first > 0) & (last > 0) & same], axis=0)
    for one, other in pairs.tolist():
        one, other = find(one), find(other)
        parent[max(one, other)] = min(one, other)
    return np.array([find(k) for k in range(n_labels + 1)])[labels]
