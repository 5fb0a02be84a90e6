"""Values that stand for "missing" and are no data: fill values, marks such as -1000, infinities.

What learns from fields refuses them by `without_sentinels`. `load_enso` knows that its field is a
temperature, and masks them by `mask_impossible`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sklrp._checks import import_optional
from sklrp.geo.coordinates import is_dataset

if TYPE_CHECKING:
    from xarray import DataArray

_FILLED = 1e19  # netCDF's own fill values are 1e20 and 9.97e36
# Temperatures and anomalies of them, on Earth, in degrees Celsius or kelvins.
_COLDEST, _HOTTEST = -95.0, 400.0
_HOTTEST_POTENTIAL = 5000.0  # air of the stratosphere, brought down to the ground
_CELSIUS, _KELVIN = (-95.0, 70.0), (178.0, 343.0)
_SPLIT = 150.0  # temperatures in kelvins lie above it, those in degrees Celsius below
_UNITS = {
    *("k", "kelvin", "kelvins", "degk", "deg_k", "degree_kelvin", "degrees_kelvin"),
    *("c", "°c", "celsius", "degc", "deg_c", "degree_c", "degrees_c", "degreec"),
    *("degree_celsius", "degrees_celsius", "deg c", "degrees celsius", "degree celsius"),
}
_FAHRENHEIT = {"f", "°f", "degf", "deg_f", "fahrenheit", "degree_fahrenheit"}


def without_sentinels(data: Any) -> Any:
    """Return fields as they are, but raise an error where a value cannot be data.

    Parameters
    ----------
    data : DataArray or Dataset
        Fields; those in dask are checked when they are computed.

    Returns
    -------
    DataArray or Dataset
        The fields.

    Raises
    ------
    ValueError
        If a value is infinite or beyond ±1e19; or beyond -95 and 400 in a field in kelvins or
        degrees Celsius, 5000 of potential temperatures of air.
    """
    if is_dataset(data):
        return data.map(_check_field, keep_attrs=True)
    return _check_field(data)


def check_filled(values: NDArray, name: str) -> NDArray:
    """Return values of any units, or raise an error if one of them is a fill value."""
    return _refuse_beyond(values, name=name, low=-_FILLED, high=_FILLED, units="any units")


def _check_field(field: DataArray) -> Any:
    """Return a variable whose values are checked, at once or in each chunk."""
    xr = import_optional("xarray", extra="geo", user="sklrp.geo")

    if field.dtype.kind not in "fiu":
        return field
    low, high = -_FILLED, _FILLED
    units = field.attrs.get("units", "any units")
    if str(units).lower() in _UNITS:
        low, high = _COLDEST, _HOTTEST_POTENTIAL if _is_potential(field) else _HOTTEST
    check = partial(
        _refuse_beyond, name=repr(field.name or "data"), low=low, high=high, units=units
    )
    if not field.chunks:
        check(field.values)
        return field
    return xr.apply_ufunc(
        check, field, dask="parallelized", output_dtypes=[field.dtype], keep_attrs=True
    )


def _is_potential(field: DataArray) -> bool:
    """Tell whether a field says that it is a potential temperature, and not of the sea."""
    said = f"{field.attrs.get('standard_name')} {field.attrs.get('long_name')}".lower()
    return "potential" in said and "sea" not in said


def _refuse_beyond(values: NDArray, *, name: str, low: float, high: float, units: Any) -> NDArray:
    """Return values, or raise an error unless all lie within limits, or are missing."""
    known = values.compressed() if isinstance(values, np.ma.MaskedArray) else values
    if np.nanmin(known, initial=0) >= low and np.nanmax(known, initial=0) <= high:
        return values
    bad = np.isfinite(values) & ((values < low) | (values > high))
    if not bad.any():
        n_infinite = np.count_nonzero(np.isinf(known))
        raise ValueError(
            f"{name} has infinite values, {n_infinite} of {known.size}: mark missing cells with "
            "NaN, data.where(np.isfinite(data))."
        )
    first = values[bad][0]
    raise ValueError(
        f"{name} has {np.count_nonzero(bad)} values such as {first:g}, which cannot be data in "
        f"{units!s}: they mark missing cells, land or ice. Mask them, "
        f"data.where((data >= {low:g}) & (data <= {high:g})); or they are in other units than "
        "in fit, or than the attribute says: convert them."
    )


def mask_impossible(field: DataArray, name: str) -> Any:
    """Return a temperature that is missing where no temperature can be.

    Parameters
    ----------
    field : DataArray
        The temperature, in degrees Celsius or kelvins, with the samples first.
    name : str
        What errors call it.

    Returns
    -------
    DataArray
        The temperature, lazy if it was.

    Raises
    ------
    ValueError
        If it is in degrees Fahrenheit.
    """
    if str(field.attrs.get("units")).lower() in _FAHRENHEIT:
        raise ValueError(
            f"{name!r} is in {field.attrs['units']!r}: convert it to degrees Celsius, (t - 32) / "
            "1.8, as anomalies are in K."
        )
    low, high = _KELVIN if _is_in_kelvins(field) else _CELSIUS
    return field.where((field >= low) & (field <= high))


def _is_in_kelvins(field: DataArray) -> bool:
    """Tell whether temperatures are in kelvins, by the first sample that has any."""
    # Units do not say it: those of anomalies are K as well.
    for k in range(len(field)):
        values = np.asarray(field[k].values, dtype=np.float64)
        there = values[(values >= _COLDEST) & (values <= _HOTTEST)]
        if there.size:
            return bool(np.median(there) > _SPLIT)
    return False
