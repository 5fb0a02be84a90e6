"""How much each cell of the data tells about the labels by itself, whatever a network makes of it.

The tests of an architecture's patterns compare maps with it: relevance that is missing where the
data say as much as elsewhere is missing by the architecture's doing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control
from sklearn.feature_selection import f_classif, f_regression

from sklrp.diagnostics.explained import Explained

_ALPHA = 0.05  # the rate of false discoveries


def find_information(explained: Explained) -> NDArray[np.float64] | None:
    """Return the share of each cell in what single cells tell, None if that is nothing."""
    # Of each cell it is the share of its variance that labels explain, less what chance explains
    # of so many samples.
    if explained.all_y is None:
        return None
    n = len(explained.all_X)
    samples = explained.all_X.reshape(n, -1).astype(np.float64)
    truth = explained.truth
    varies = np.ptp(samples, axis=0) > 0
    told = np.zeros(samples.shape[1])
    if not varies.any():
        return None
    if explained.classes is None:
        (f, p), degrees = f_regression(samples[:, varies], truth.astype(float)), 1
    else:
        (f, p), degrees = f_classif(samples[:, varies], truth), len(np.unique(truth)) - 1
    explained_share = degrees * f / (degrees * f + n - degrees - 1)
    told[varies] = np.nan_to_num(explained_share, nan=0.0, posinf=1.0) - degrees / (n - 1)
    # Of many cells without information some tell a little by chance.
    found = np.zeros(len(told), dtype=bool)
    found[varies] = false_discovery_control(np.nan_to_num(p, nan=1.0)) <= _ALPHA
    told = np.where(found, told, 0.0)
    if not told.any():
        return None
    return (told / told.sum()).reshape(explained.X.shape[1:])
