"""Streamflow of a catchment with snow, from the rain and the temperature of the days before.

Users and the calibration of the diagnostics call `make_rainfall_runoff`, a task with a known
memory for networks that read sequences.
"""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np
from sklearn.utils import check_random_state

from sklrp._sklearn import Interval, validate_params

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["make_rainfall_runoff"]

_SPIN_UP = 400  # days before the first of a sample, in which the stores find their levels
_MELT = 3.0  # mm a day and degree above freezing
_CAPACITY = 150.0  # mm of the soil store at which all that enters leaves again
_DRAIN, _SHAPE = 0.25, 4.0  # the share of the store that leaves in a day, and its exponent
_EVAPORATION = 0.12  # mm a day and degree above freezing
_RANGE = 1e-3  # step of the finite differences, in mm and degrees


@validate_params(
    {
        "n_samples": [Interval(Integral, 1, None, closed="left")],
        "n_days": [Interval(Integral, 2, None, closed="left")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def make_rainfall_runoff(
    n_samples: int = 2000,
    *,
    n_days: int = 90,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    r"""Make series of weather, the streamflow at their end, and how it depends on every day.

    A task of regression for sequences, with a known memory. A catchment stores snow and soil
    water. Of the precipitation P and the temperature T of a day, all below freezing is stored as
    snow; snow melts at 3 mm a day and degree; rain and melt M fill the soil store W, from which
    water evaporates and flows off,

    .. math:: W \leftarrow W + M - E(T) - Q, \qquad Q = 0.25 \, W \, (W / 150)^4 .

    The target is :math:`\log(Q + 0.01)` of the last day, Q in mm. Rain of a few days ago matters
    at once; a cold winter's snow months later, when it melts; rain in a full store more than rain
    in an empty one. A linear model sees half of it.

    Parameters
    ----------
    n_samples : int, default=2000
        Number of series, each of its own weather and season.
    n_days : int, default=90
        Days of a series. What fell before them is in the stores, and is not in X.
    random_state : int, RandomState instance or None, default=None
        Determines the weather. Pass an int for reproducible output.

    Returns
    -------
    X : ndarray of shape (n_samples, n_days, 2)
        Precipitation in mm a day and temperature in degrees Celsius, the oldest day first.
    y : ndarray of shape (n_samples,)
        The logarithm of the streamflow of the last day.
    truth : ndarray of shape (n_samples, n_days, 2)
        The derivative of y with respect to every value of X, by finite differences of the model.

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    References
    ----------
    The stores are those of the HBV model in their simplest form: S. Bergström, "The HBV model",
    in V. P. Singh (ed.), Computer Models of Watershed Hydrology, 1995; F. Kratzert et al.,
    "Rainfall-runoff modelling using long short-term memory (LSTM) networks", Hydrol. Earth Syst.
    Sci. 22, 2018.

    Examples
    --------
    >>> from sklrp.datasets import make_rainfall_runoff
    >>> X, y, truth = make_rainfall_runoff(100, random_state=0)
    >>> X.shape, y.shape, bool((truth[:, -1, 0] >= 0).all())
    ((100, 90, 2), (100,), True)
    """
    rng = check_random_state(random_state)
    weather = _draw_weather(rng, n_samples, _SPIN_UP + n_days)
    start = np.zeros((2, n_samples))
    start = _run(start, weather[:, :_SPIN_UP])[0]
    X = weather[:, _SPIN_UP:]
    y = _run(start, X)[1]
    truth = np.empty_like(X)
    # What follows a changed day alone has to be run anew: from the stores of the day before.
    stores = [start]
    for day in range(n_days):
        stores.append(_run(stores[-1], X[:, day : day + 1])[0])
    for day in range(n_days):
        for variable in range(2):
            moved = X[:, day:].copy()
            moved[:, 0, variable] += _RANGE
            truth[:, day, variable] = (_run(stores[day], moved)[1] - y) / _RANGE
    return X, y, truth


def _draw_weather(rng: np.random.RandomState, n_samples: int, n_days: int) -> NDArray[np.float64]:
    """Return precipitation and temperature, with seasons, wet spells and warm spells."""
    day = rng.uniform(0, 365, (n_samples, 1)) + np.arange(n_days)
    season = -np.cos(2 * np.pi * day / 365)  # the coldest day is the first of the year
    spell = np.empty((n_samples, n_days, 2))
    spell[:, 0] = rng.standard_normal((n_samples, 2))
    for i in range(1, n_days):
        noise = rng.standard_normal((n_samples, 2))
        spell[:, i] = [0.6, 0.85] * spell[:, i - 1] + np.sqrt([1 - 0.6**2, 1 - 0.85**2]) * noise
    wet = spell[..., 0] > 0.5
    rain = np.where(wet, rng.gamma(0.8, 8.0, (n_samples, n_days)), 0.0)
    temperature = 6 + 10 * season + 4 * spell[..., 1]
    return np.stack([rain, temperature], axis=-1)


def _run(stores: NDArray, weather: NDArray) -> tuple[NDArray, NDArray]:
    """Return the stores after some days, and the logarithm of the last day's streamflow."""
    snow, water = stores
    flow = np.zeros(len(weather))
    for rain, temperature in np.moveaxis(weather, (1, 2), (0, 1)):
        warm = np.maximum(temperature, 0.0)
        # Between -1 and +1 degrees a part falls as snow, so that small changes change little.
        frozen = np.clip((1 - temperature) / 2, 0.0, 1.0) * rain
        snow = snow + frozen
        melt = np.minimum(snow, _MELT * warm)
        snow = snow - melt
        water = water + rain - frozen + melt
        water = np.maximum(water - _EVAPORATION * warm, 0.0)
        flow = np.minimum(_DRAIN * water * (water / _CAPACITY) ** _SHAPE, water)
        water = water - flow
    return np.stack([snow, water]), np.log(flow + 0.01)
