"""Profiles of maps, of the input and of untrained maps along the axes of a sample.

The tests of fading memory, borders and periods compare them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class AlongAxes:
    """Maps, samples and maps of untrained networks, laid out on the axes of a sample.

    A profile is the share of absolute values at each position of an axis.

    Parameters
    ----------
    maps, samples : ndarray of shape (n_samples, *axes)
        The maps, and what they explain.
    nulls : ndarray of shape (n_networks, n_samples, *axes)
        Maps of the same samples by untrained networks.
    """

    def __init__(self, maps: NDArray, samples: NDArray, nulls: NDArray) -> None:
        self.maps = maps
        self.samples = samples
        self.nulls = nulls

    def of_maps(self, axis: int) -> NDArray[np.float64]:
        """Return the profile of each map, (n_samples, n_positions)."""
        return _profiles(self.maps, axis)

    def of_input(self, axis: int) -> NDArray[np.float64]:
        """Return the mean profile of the samples, (n_positions,)."""
        return _profiles(self.samples, axis).mean(axis=0)

    def of_nulls(self, axis: int) -> NDArray[np.float64]:
        """Return the mean profile of each untrained network, (n_networks, n_positions)."""
        return np.stack([_profiles(maps, axis).mean(axis=0) for maps in self.nulls])


def _profiles(maps: NDArray, axis: int) -> NDArray[np.float64]:
    """Return each sample's profile along an axis of a sample; zeros where its map is zero."""
    other = tuple(i + 1 for i in range(maps.ndim - 1) if i != axis)
    sums = np.abs(maps).sum(axis=other, dtype=np.float64)
    total = sums.sum(axis=1, keepdims=True)
    return np.divide(sums, total, out=np.zeros_like(sums), where=total > 0)
