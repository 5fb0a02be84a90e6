"""The Lorenz-96 model: a circle of sites whose tendency no linear model predicts.

Users and the calibration of the diagnostics call `make_lorenz96`; the truth is the adjoint.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING

import numpy as np

from sklrp._constraints import Interval, constrained
from sklrp._streams import make_legacy_rng

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["make_lorenz96"]

_STEP = 0.05  # of the integration; the error of a step of fourth order is 1e-6 of a state
_LONGEST_INTERVAL = 1e3  # after which nothing is left of a state; it takes a second
_SPIN_UP = 20.0  # after so long a state has forgotten where it began


@constrained(
    {
        "n_samples": [Interval(Integral, 1, None, closed="left")],
        "n_sites": [Interval(Integral, 4, None, closed="left")],
        "forcing": [Interval(Real, 0, None, closed="neither")],
        "lead": [Interval(Real, 0, 2, closed="both")],
        "interval": [Interval(Real, 0, _LONGEST_INTERVAL, closed="right"), None],
        "site": [Interval(Integral, 0, None, closed="left")],
    }
)
def make_lorenz96(
    n_samples: int = 2000,
    *,
    n_sites: int = 12,
    forcing: float = 8.0,
    site: int = 5,
    lead: float = 0.0,
    interval: float | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    r"""Make states of the Lorenz-96 model, what becomes of one site, and what it depends on.

    A task of regression in which a network earns its keep, with a known answer. A state is a
    circle of sites that follow

    .. math:: \frac{dx_k}{dt} = (x_{k+1} - x_{k-2}) \, x_{k-1} - x_k + F .

    The target is the tendency of one site or, with `lead`, its value some time ahead. The tendency
    depends on four sites alone, k-2 to k+1, and mostly on their products.

    Parameters
    ----------
    n_samples : int, default=2000
        Number of states.
    n_sites : int, default=12
        Number of sites, at least 4.
    forcing : float, default=8.0
        F; the model is chaotic from about 5 on.
    site : int, default=5
        The site that is predicted, from 0.
    lead : float, default=0.0
        How far ahead, in units of the model's time (about five days of weather), at most 2; 0 for
        the tendency.
    interval : float or None, default=None
        Time between one sample and the next of a single run, whose samples are correlated in time.
        None (default): every sample comes from a run of its own, and samples are independent.
    random_state : int, RandomState instance or None, default=None
        Determines the states. Pass an int for reproducible output.

    Returns
    -------
    X : ndarray of shape (n_samples, n_sites)
        The states.
    y : ndarray of shape (n_samples,)
        The tendency of the site, or its value after `lead`.
    truth : ndarray of shape (n_samples, n_sites)
        The derivative of the target with respect to each site: of the tendency exact, of the value
        ahead the adjoint (the tangent-linear model along the run). 0 where the target does not
        depend on a site.

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    References
    ----------
    E. N. Lorenz, "Predictability: a problem partly solved", ECMWF Seminar on Predictability, 1996.

    Examples
    --------
    >>> from sklrp.datasets import make_lorenz96
    >>> X, y, truth = make_lorenz96(100, random_state=0)
    >>> truth.any(axis=0).nonzero()[0]
    array([3, 4, 5, 6])
    """
    if site >= n_sites:
        raise ValueError(f"site={site} must be below n_sites={n_sites}: sites count from 0.")
    rng = make_legacy_rng(random_state)
    n_runs = n_samples if interval is None else 1
    x = forcing + rng.standard_normal((n_runs, n_sites))
    x = _integrate(x, _SPIN_UP, forcing)[0]
    if interval is None:
        X = x
    else:
        X = np.empty((n_samples, n_sites))
        for i in range(n_samples):
            X[i] = x[0]
            x = _integrate(x, interval, forcing)[0]
    if lead == 0:
        y = _tendency(X, forcing)[:, site]
        truth = _jacobian(X, np.eye(n_sites)[None])[:, :, site]
        return X, y, truth
    perturbations = np.broadcast_to(np.eye(n_sites), (n_samples, n_sites, n_sites))
    ahead, moved = _integrate(X, lead, forcing, perturbations)
    assert moved is not None
    return X, ahead[:, site], moved[:, :, site]


def _tendency(x: NDArray, forcing: float) -> NDArray:
    """Return dx/dt of states, (..., n_sites)."""
    up, down, two_down = np.roll(x, -1, -1), np.roll(x, 1, -1), np.roll(x, 2, -1)
    return (up - two_down) * down - x + forcing


def _jacobian(x: NDArray, d: NDArray) -> NDArray:
    """Return the derivative of the tendency at x along perturbations d, (n, m, n_sites)."""
    x = x[:, None]
    up, down, two_down = np.roll(x, -1, -1), np.roll(x, 1, -1), np.roll(x, 2, -1)
    d_up, d_down, d_two = np.roll(d, -1, -1), np.roll(d, 1, -1), np.roll(d, 2, -1)
    return (d_up - d_two) * down + (up - two_down) * d_down - d


def _integrate(
    x: NDArray, time: float, forcing: float, d: NDArray | None = None
) -> tuple[NDArray, NDArray | None]:
    """Return states, and perturbations of them, after some time: Runge-Kutta of fourth order."""
    n_steps = max(1, round(time / _STEP))
    h = time / n_steps
    for _ in range(n_steps):
        ks: list[NDArray] = []
        dks: list[NDArray] = []
        for before in (0.0, h / 2, h / 2, h):
            here = x + before * ks[-1] if ks else x
            if d is not None:
                dks.append(_jacobian(here, d + before * dks[-1] if dks else d))
            ks.append(_tendency(here, forcing))
        x = x + h / 6 * (ks[0] + 2 * ks[1] + 2 * ks[2] + ks[3])
        if d is not None:
            d = d + h / 6 * (dks[0] + 2 * dks[1] + 2 * dks[2] + dks[3])
    return x, d
