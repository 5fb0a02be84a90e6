"""Streamflow of a catchment with snow, from the rain and the temperature of the days before.

Users and the calibration of the diagnostics call `make_rainfall_runoff`, a task with a known
memory for networks that read sequences.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING

import numpy as np

from sklrp._constraints import Interval, constrained
from sklrp._streams import make_legacy_rng

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["make_rainfall_runoff"]

_SPIN_UP = 400  # days before the first of a sample, in which the stores find their levels
_SLOW_SPIN_UP = 3  # the same for groundwater, in times of its recession
_MELT = 3.0  # mm a day and degree above freezing
_CAPACITY = 150.0  # mm of the soil store at which all that enters leaves again
_DRAIN, _SHAPE = 0.25, 4.0  # the share of the store that leaves in a day, and its exponent
_EVAPORATION = 0.12  # mm a day and degree above freezing
_LEAST_FLOW = 0.01  # mm a day, so that a dry bed has a logarithm


@constrained(
    {
        "n_samples": [Interval(Integral, 1, None, closed="left")],
        "n_days": [Interval(Integral, 2, None, closed="left")],
        "groundwater": [Interval(Real, 0, 1, closed="left")],
        "recession": [Interval(Real, 1, None, closed="left")],
    }
)
def make_rainfall_runoff(
    n_samples: int = 2000,
    *,
    n_days: int = 90,
    groundwater: float = 0.0,
    recession: float = 200.0,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    r"""Make series of weather, the streamflow at their end, and how it depends on every day.

    A task of regression for sequences, with a known memory. A catchment stores snow and soil
    water. Of the precipitation P and the temperature T of a day, all below freezing is stored as
    snow; snow melts at 3 mm a day and degree; rain and melt M fill the soil store W, from which
    water evaporates and runs off,

    .. math:: W \leftarrow W + M - E(T) - R, \qquad R = 0.25 \, W \, (W / 150)^4 .

    The target is :math:`\log(Q + 0.01)` of the last day, with the streamflow Q in mm. Without
    groundwater :math:`Q = R`. Otherwise a share g of the runoff goes through a third store G,

    .. math:: Q = (1 - g) \, R + G / \tau, \qquad G \leftarrow G + g \, R - G / \tau .

    Rain of a few days ago matters at once; a cold winter's snow months later, when it melts; rain
    in a full store more than rain in an empty one. A linear model sees half of it. Every summer
    empties the soil: without groundwater nothing that fell a year ago matters. With a slow
    groundwater store it does.

    Parameters
    ----------
    n_samples : int, default=2000
        Number of series, each of its own weather and season.
    n_days : int, default=90
        Days of a series. What fell before them is in the stores, and is not in X.
    groundwater : float, default=0.0
        The share g of the runoff that goes through the groundwater, below 1.
    recession : float, default=200.0
        The time tau in which the groundwater sinks to a share of 1/e if nothing enters, in days.
    random_state : int, RandomState instance or None, default=None
        Determines the weather. Pass an int for reproducible output.

    Returns
    -------
    X : ndarray of shape (n_samples, n_days, 2)
        Precipitation in mm a day and temperature in degrees Celsius, the oldest day first.
    y : ndarray of shape (n_samples,)
        The logarithm of the streamflow of the last day.
    truth : ndarray of shape (n_samples, n_days, 2)
        The derivative of y with respect to every value of X: the adjoint of the model.

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
    rng = make_legacy_rng(random_state)
    spin_up = max(_SPIN_UP, round(_SLOW_SPIN_UP * recession)) if groundwater else _SPIN_UP
    weather = _draw_weather(rng, n_samples, spin_up + n_days)
    settings = groundwater, recession
    start = _run(np.zeros((3, n_samples)), weather[:, :spin_up], *settings)[0][-1]
    X = weather[:, spin_up:]
    stores, y = _run(start, X, *settings)
    return X, y, _differentiate_run(np.concatenate([start[None], stores]), X, y, *settings)


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


def _run(
    stores: NDArray, weather: NDArray, groundwater: float = 0.0, recession: float = 200.0
) -> tuple[NDArray, NDArray]:
    """Return the stores after each day, and the logarithm of the last day's streamflow."""
    snow, water, slow = stores
    after = []
    flow = np.zeros(len(weather))
    for rain, temperature in np.moveaxis(weather, (1, 2), (0, 1)):
        warm = np.maximum(temperature, 0.0)
        frozen = _frozen(temperature) * rain
        snow = snow + frozen
        melt = np.minimum(snow, _MELT * warm)
        snow = snow - melt
        water = np.maximum(water + rain - frozen + melt - _EVAPORATION * warm, 0.0)
        runoff = np.minimum(_DRAIN * water * (water / _CAPACITY) ** _SHAPE, water)
        water = water - runoff
        flow = (1 - groundwater) * runoff + slow / recession
        slow = slow + groundwater * runoff - slow / recession
        after.append([snow, water, slow])
    return np.array(after), np.log(flow + _LEAST_FLOW)


def _frozen(temperature: NDArray) -> NDArray:
    """Return the share that falls as snow: a part between -1 and +1 degrees, without a jump."""
    return np.clip((1 - temperature) / 2, 0.0, 1.0)


def _differentiate_run(
    stores: NDArray, weather: NDArray, y: NDArray, groundwater: float, recession: float
) -> NDArray[np.float64]:
    """Return the derivative of the last day's logarithm, from the last day back to the first.

    `stores` holds those before each day and after the last. The model is `_run`, line by line.
    """
    d_flow = 1 / np.exp(y)
    d_snow, d_water, d_slow = np.zeros((3, len(y)))
    found = np.empty_like(weather)
    for day in reversed(range(weather.shape[1])):
        snow, water, _ = stores[day]
        rain, temperature = weather[:, day].T
        warm = np.maximum(temperature, 0.0)
        share = _frozen(temperature)
        snow = snow + share * rain
        melts_whole = snow < _MELT * warm
        melt = np.minimum(snow, _MELT * warm)
        water = water + (1 - share) * rain + melt - _EVAPORATION * warm
        wet = water > 0
        wetness = np.maximum(water, 0.0) / _CAPACITY
        slope = np.where(
            _DRAIN * wetness**_SHAPE < 1, _DRAIN * (1 + _SHAPE) * wetness**_SHAPE, 1.0
        )
        d_runoff = (1 - groundwater) * d_flow + groundwater * d_slow - d_water
        d_slow = d_flow / recession + d_slow * (1 - 1 / recession)
        d_water = (d_water + d_runoff * slope) * wet
        d_melt = d_water - d_snow
        d_warm = d_melt * _MELT * ~melts_whole - _EVAPORATION * d_water
        d_snow = d_snow + d_melt * melts_whole
        partly = (share > 0) & (share < 1)
        found[:, day, 0] = share * d_snow + (1 - share) * d_water
        found[:, day, 1] = -0.5 * partly * rain * (d_snow - d_water) + d_warm * (temperature > 0)
        d_flow = np.zeros_like(y)
    return found
