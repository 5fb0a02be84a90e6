"""Whether X tells y: asked before a fit that has not left chance is blamed on its training.

`GradientEstimator` warns of such a fit only where samples that are alike have targets that are
alike: of noise there is nothing to learn, and nothing to warn of.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from sklrp._stored import Stored

_MOST = 1000  # samples that are compared; more would take long


def neighbours_agree(
    X: NDArray | Stored, targets: NDArray, rows: NDArray[np.intp] | None = None
) -> bool:
    """Tell whether the targets of nearest neighbours are correlated beyond chance.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        The samples.
    targets : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Codes of classes from 0, or values.
    rows : ndarray of int or None, default=None
        Which of the samples count. None (default): all.

    Returns
    -------
    bool
        Whether the correlation is at least 0.1 and four times its deviation under independence,
        about the inverse root of the number of samples.
    """
    rows = np.arange(len(X)) if rows is None else rows
    keep = rows[np.linspace(0, len(rows) - 1, min(len(rows), _MOST)).astype(int)]
    X, targets = X[keep], targets[keep]
    if len(X) < 4:
        return False
    values = np.eye(targets.max() + 1)[targets] if targets.ndim == 1 else targets
    values = values - values.mean(axis=0)
    deviation = values.std(axis=0)
    values = values[:, deviation > 0] / (deviation[deviation > 0] if targets.ndim == 2 else 1)
    variance = (values**2).sum()
    if not variance:
        return False
    nearest = NearestNeighbors(n_neighbors=1).fit(X).kneighbors(return_distance=False)[:, 0]
    correlation = (values * values[nearest]).sum() / variance
    return bool(correlation > max(0.1, 4 / np.sqrt(len(X))))
