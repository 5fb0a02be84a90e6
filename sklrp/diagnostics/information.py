"""How much each cell of the data tells about the labels by itself, whatever a network makes of it.

The tests of an architecture's patterns compare maps with it: relevance that is missing where the
data say as much as elsewhere is missing by the architecture's doing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import f, false_discovery_control
from sklearn.feature_selection import f_classif, f_regression

from sklrp.diagnostics.explained import Explained

_ALPHA = 0.05  # the rate of false discoveries


def find_information(explained: Explained) -> NDArray[np.float64] | None:
    """Return the share of each cell in what single cells tell, None if that is nothing."""
    # Of each cell it is the share of its variance that labels explain, less what chance explains
    # of so many samples.
    if explained.all_y is None:
        return None
    n = len(explained.some_X)
    samples = explained.some_X.reshape(n, -1).astype(np.float64)
    truth = explained.truth[explained.some_rows]
    varies = np.ptp(samples, axis=0) > 0
    told = np.zeros(samples.shape[1])
    if not varies.any():
        return None
    with np.errstate(divide="ignore", invalid="ignore"):  # a cell that is the label has no rest
        if explained.classes is None:
            ratio, degrees = f_regression(samples[:, varies], truth.astype(float))[0], 1
        else:
            ratio, degrees = f_classif(samples[:, varies], truth)[0], len(np.unique(truth)) - 1
        share = 1 / (1 + (n - degrees - 1) / (degrees * ratio))
    share = np.nan_to_num(share, nan=0.0)
    # Groups, and blocks of samples that follow each other, are no more than so many samples.
    units = min(explained.n_units, n)
    left = max(units - degrees - 1, 1)
    p = f.sf(share / degrees * left / np.maximum(1 - share, 1e-12), degrees, left)
    told[varies] = share - degrees / max(units - 1, 1)
    # Of many cells without information some tell a little by chance.
    found = np.zeros(len(told), dtype=bool)
    found[varies] = false_discovery_control(p) <= _ALPHA
    told = np.where(found, np.maximum(told, 0.0), 0.0)
    if not told.any():
        return None
    return (told / told.sum()).reshape(explained.X.shape[1:])
