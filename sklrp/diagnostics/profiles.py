"""Profiles of maps, of the input and of untrained maps along the axes of a sample.

`focus_curve` shows `axis_profiles`; the tests of fading memory, borders and periods compare the
profiles that `AlongAxes` gives.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklrp._checks import check_maps


def axis_profiles(maps: ArrayLike) -> tuple[NDArray[np.float64], ...]:
    r"""Return how absolute relevance is shared out along each axis of a sample.

    The profile of an axis is, for each of its positions p, the mean over the samples of the share
    of a map's absolute relevance that lies there, summed over all other axes:

    .. math:: P_p = \frac{1}{N} \sum_n \sum_{i \in p} |R_{ni}| \; / \; \sum_i |R_{ni}|

    Maps that are zero everywhere have no shares and are left out. Memory that fades shows as a
    slope along a sweep, padding at the ends, a stride as a comb.

    Parameters
    ----------
    maps : array-like of shape (n_samples, ...)
        The maps, or samples, for the profile of the input.

    Returns
    -------
    tuple of ndarray
        A profile for each axis but the first, of that axis' length. Without unit and not negative;
        it sums to 1, or to 0 if all maps are zero.

    Raises
    ------
    ValueError
        If a map is not finite.

    Examples
    --------
    >>> from sklrp.diagnostics.profiles import axis_profiles
    >>> rows, columns = axis_profiles([[[3.0, -1.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]]])
    >>> print(rows, columns)
    [0.5 0.5] [0.375 0.625]
    """
    size = np.abs(check_maps(maps))
    n_axes = size.ndim - 1
    largest = size.max(axis=tuple(range(1, n_axes + 1)), keepdims=True)
    present = largest.ravel() > 0
    size = size[present] / largest[present]  # the sums do not overflow
    profiles = []
    for axis in range(1, n_axes + 1):
        profile = size.sum(axis=tuple(set(range(1, n_axes + 1)) - {axis}))
        profile /= profile.sum(axis=1, keepdims=True)
        profiles.append(profile.sum(axis=0) / max(len(profile), 1))
    return tuple(profiles)


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
