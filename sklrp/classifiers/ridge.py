"""Ridge regression in closed form, of samples that come part by part, with cross-validation.

Echo state networks fit their readout with it: `LeastSquares` keeps what is known of the samples so
far, in a memory that does not grow with them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import svd

_GRID = np.logspace(-14, 4, 73)  # of "auto", in units of the mean squared singular value


class LeastSquares:
    r"""What a linear fit needs of samples and targets, added part by part.

    Samples of all parts together make the matrix :math:`A = [1, X, Y]`, each row times the root of
    its weight, of which :math:`A = QR` keeps the triangle R. That of more rows is the triangle of
    R above them, so parts give what all samples at once do, to rounding. Normal equations,
    :math:`A^T A = R^T R`, would add up too, but square the condition number, which is large where
    units are alike.

    Parameters
    ----------
    n_features, n_outputs : int
        The number of columns of X and of Y.
    """

    def __init__(self, n_features: int, n_outputs: int) -> None:
        self.n_features, self.n_outputs = n_features, n_outputs
        self.n_samples = 0  # of positive weight
        self.triangle = np.zeros((0, 1 + n_features + n_outputs))
        # Columns are counted from a value among theirs, so that constant ones are exactly zero.
        self.shift: NDArray[np.float64] | None = None
        self._waiting: list[NDArray[np.float64]] = []

    @property
    def state(self) -> dict[str, Any]:
        """What `from_state` takes: the sums, in arrays and numbers."""
        self._compress()
        return {
            "n_features": self.n_features,
            "n_samples": self.n_samples,
            "triangle": self.triangle,
            "shift": self.shift,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> LeastSquares:
        """Return the sums of a state."""
        n_features = state["n_features"]
        sums = cls(n_features, state["triangle"].shape[1] - 1 - n_features)
        sums.n_samples, sums.shift = state["n_samples"], state["shift"]
        sums.triangle = state["triangle"]
        return sums

    def add(
        self,
        X: NDArray[np.float64],
        Y: NDArray[np.float64],
        weight: NDArray[np.float64] | None = None,
    ) -> None:
        """Add samples.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            The features.
        Y : ndarray of shape (n_samples, n_outputs)
            The targets.
        weight : ndarray of shape (n_samples,) or None, default=None
            The weights of the samples, not negative. None (default): all are 1.
        """
        values = np.hstack([X, Y])
        if weight is not None:
            values, weight = values[weight > 0], weight[weight > 0]
        if not len(values):
            return
        if self.shift is None:
            self.shift = np.average(values, axis=0, weights=weight)
        rows = np.hstack([np.ones((len(values), 1)), values - self.shift])
        if weight is not None:
            rows *= np.sqrt(weight)[:, None]
        self.n_samples += len(rows)
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= 4 * rows.shape[1]:
            self._compress()

    def _compress(self) -> None:
        if self._waiting:
            self.triangle = _compress_rows(np.vstack([self.triangle, *self._waiting]))
            self._waiting = []

    def units(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the weighted mean and standard deviation of each target."""
        self._compress()
        first, own = self.triangle[0, 0], self.triangle[:, 1 + self.n_features :]
        with np.errstate(over="ignore"):  # of targets that are too large
            deviation = np.linalg.norm(own[1:], axis=0) / abs(first)
        return self._means()[self.n_features :], deviation

    def _means(self) -> NDArray[np.float64]:
        return self.shift + self.triangle[0, 1:] / self.triangle[0, 0]

    def solve(
        self,
        ridge: float | str,
        fit_intercept: bool,
        units: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        r"""Return the coefficients and the intercept of the least error with an L2 penalty.

        The objective is the one of `sklearn.linear_model.Ridge`,
        :math:`\sum_i w_i \lVert y_i - B x_i - a \rVert^2 + \lambda \lVert B \rVert^2`: an integer
        weight is the same as repeating a sample. The singular values are those of the triangle.

        Parameters
        ----------
        ridge : float or "auto"
            The penalty, at least 0; 0 gives the solution of the least norm. ``"auto"`` takes the
            one of the least error in generalised cross-validation [Golub1979]_, where every sample
            of a positive weight counts once.
        fit_intercept : bool
            Whether to fit the intercept `a`, which is not penalised.
        units : (mean, scale) or None, default=None
            What the targets are counted from and in. None (default): as they are.

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
        self._compress()
        p = self.n_features
        mean, scale = units or (np.zeros(self.n_outputs), np.ones(self.n_outputs))
        means = self._means()
        means[p:] = (means[p:] - mean) / scale
        rows = self.triangle.copy()
        rows[:, 1 + p :] /= scale
        if fit_intercept:
            rows = rows[1:, 1:]  # what is left of a column beside its mean
        else:
            first = self.shift - np.r_[np.zeros(p), mean]
            first[p:] /= scale
            rows = _compress_rows(rows[:, 1:] + rows[:, :1] * first)
            means[:] = 0.0
        u, s, vt = svd(rows[:p, :p], full_matrices=False)
        target = rows[:p, p:]
        projected = u.T @ target
        least = max(self.n_samples, p) * np.finfo(float).eps * s.max(initial=0.0)
        keep = s > least
        s, projected, vt = s[keep], projected[keep], vt[keep]
        if isinstance(ridge, str):
            missed = target - u[:, keep] @ projected
            unexplained = float((missed**2).sum() + (rows[p:, p:] ** 2).sum())
            ridge = _cross_validate(s, projected, unexplained, self.n_samples - fit_intercept)
        coef = ((s / (s**2 + ridge))[:, None] * projected).T @ vt
        return coef, means[p:] - coef @ means[:p], float(ridge)


def _compress_rows(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the triangle of the QR decomposition of rows."""
    return np.asarray(np.linalg.qr(rows, mode="r"))


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
