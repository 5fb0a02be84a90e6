"""Profiles of maps along the axes of a sample.

`focus_curve` and the tests of positions call it.
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
