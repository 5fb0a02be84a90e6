"""The Niño 3.4 index, by which winters and months are called El Niño or La Niña.

`load_pacific_sst` and `load_enso` label their fields here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sklrp.geo.areas import in_latitudes, in_longitudes

NINO34_LAT, NINO34_LON = (-5.0, 5.0), (190.0, 240.0)  # 5 S-5 N, 170 W-120 W


def nino34_mask(latitude: NDArray, longitude: NDArray) -> NDArray[np.bool_]:
    """Return which cells of a grid have their centre in the Niño 3.4 box."""
    return np.outer(in_latitudes(latitude, NINO34_LAT), in_longitudes(longitude, NINO34_LON))


def label_index(
    index: NDArray[np.floating], threshold: float, neutral: bool
) -> tuple[NDArray[np.int64], NDArray[np.str_], NDArray[np.bool_]]:
    """Return the classes of the samples that are kept, their names, and which are kept."""
    target = np.where(index < -threshold, 0, np.where(index > threshold, 2, 1))
    names = np.array(["La Niña", "neutral", "El Niño"])
    if neutral:
        return target, names, np.ones(len(index), dtype=bool)
    keep = target != 1
    return target[keep] // 2, names[[0, 2]], keep
