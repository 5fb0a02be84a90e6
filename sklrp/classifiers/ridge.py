"""Ridge regression in closed form, with generalised cross-validation of the penalty.

`ESNClassifier` fits its readout with it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr, svd

_GRID = np.logspace(-14, 4, 73)  # of "auto", in units of the mean squared singular value


def fit_ridge(
    X: NDArray[np.float64],
    Y: NDArray[np.float64],
    *,
    weight: NDArray[np.float64] | None = None,
    ridge: float | str = 0.0,
    fit_intercept: bool = True,
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    r"""Fit a linear map by weighted least squares with an L2 penalty.

    The objective is the one of `sklearn.linear_model.Ridge`,
    :math:`\sum_i w_i \lVert y_i - B x_i - a \rVert^2 + \lambda \lVert B \rVert^2`: an integer
    weight is the same as repeating a sample. The singular values come from a QR decomposition;
    normal equations would square the condition number, which is large where units are alike.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        The features.
    Y : ndarray of shape (n_samples, n_outputs)
        The targets.
    weight : ndarray of shape (n_samples,) or None, default=None
        The weights of the samples, not negative. None (default): all are 1.
    ridge : float or "auto", default=0.0
        The penalty, at least 0; 0 gives the solution of the least norm. ``"auto"`` takes the one
        of the least error in generalised cross-validation, where every sample of a positive weight
        counts once.
    fit_intercept : bool, default=True
        Whether to fit the intercept `a`, which is not penalised.

    Returns
    -------
    coef : ndarray of shape (n_outputs, n_features)
        The coefficients `B`.
    intercept : ndarray of shape (n_outputs,)
        The intercept, zeros without one.
    ridge : float
        The penalty.

    References
    ----------
    .. [Golub1979] G. Golub, M. Heath, G. Wahba, "Generalized cross-validation as a method for
       choosing a good ridge parameter", Technometrics 21(2), 1979, equation 2.3.
    """
    if weight is not None:
        X, Y, weight = X[weight > 0], Y[weight > 0], weight[weight > 0]
    x_mean, y_mean = np.zeros(X.shape[1]), np.zeros(Y.shape[1])
    if fit_intercept:
        x_mean, y_mean = (np.average(v, axis=0, weights=weight) for v in (X, Y))
    X, Y = X - x_mean, Y - y_mean
    if weight is not None:
        root = np.sqrt(weight)[:, None]
        X, Y = X * root, Y * root
    q, r = qr(X, mode="economic")
    u, s, vt = svd(r, full_matrices=False)
    projected = u.T @ (q.T @ Y)
    keep = s > max(X.shape) * np.finfo(float).eps * s.max(initial=0.0)
    s, projected, vt = s[keep], projected[keep], vt[keep]
    if isinstance(ridge, str):
        residual = Y - q @ (u[:, keep] @ projected)
        unexplained = float((residual**2).sum())
        ridge = _cross_validate(s, projected, unexplained, len(X) - fit_intercept)
    coef = ((s / (s**2 + ridge))[:, None] * projected).T @ vt
    return coef, y_mean - coef @ x_mean, float(ridge)


def _cross_validate(
    s: NDArray[np.float64], projected: NDArray[np.float64], unexplained: float, n_free: int
) -> float:
    """Return the penalty of the least generalised cross-validation error, 0 if nothing varies."""
    if not len(s):
        return 0.0
    grid = _GRID * (s**2).mean()
    shrunk = grid[:, None] / (s**2 + grid[:, None])  # what the fit leaves of each component
    error = shrunk**2 @ (projected**2).sum(1) + unexplained
    left = n_free - len(s) + shrunk.sum(1)  # degrees of freedom of the residual
    return float(grid[np.argmin(error / left**2)])
