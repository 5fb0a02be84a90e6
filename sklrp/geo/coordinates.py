"""Coordinates of fields: time, latitude or longitude of given data, in degrees, or as dates.

Everything that takes fields of xarray asks here; `sklrp._coordinate_marks` says what marks which.
"""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sklrp._checks import import_optional
from sklrp._coordinate_marks import ANGLES, KINDS, RADIANS, has_dates, rank_coordinate
from sklrp._wording import say_value

if TYPE_CHECKING:
    from xarray import DataArray, Dataset


def is_field(data: Any) -> bool:
    """Tell whether data is of xarray, without importing it."""
    return hasattr(data, "dims") and hasattr(data, "coords")


def is_dataset(data: Any) -> bool:
    """Tell whether data is an `xarray.Dataset`, without importing xarray."""
    return hasattr(data, "data_vars")


def check_field(data: Any, user: str, name: str = "data") -> None:
    """Raise an error unless data is a DataArray or a Dataset; `name` is the parameter's."""
    if not is_field(data):
        raise TypeError(
            f"{user} needs an xarray.DataArray or Dataset as {name}, whose coordinates say what "
            f"its axes are, got {type(data).__name__}: wrap it, xarray.DataArray(values, "
            "dims=..., coords=...)."
        )


def check_numbers(data: Any, name: str = "data") -> None:
    """Raise an error unless all values of a DataArray or Dataset are real numbers."""
    for field in data.data_vars.values() if is_dataset(data) else [data]:
        if field.dtype.kind not in "fiub":
            own = f"the variable {field.name!r} of {name}" if is_dataset(data) else name
            remedy = "convert it, .astype(float)"
            if is_dataset(data):
                remedy = f"{remedy}, or drop it, .drop_vars({str(field.name)!r})"
            if field.dtype.kind == "c":
                remedy = "take its part that is meant, .real or abs(...)"
            raise ValueError(f"{own} must hold real numbers, got dtype {field.dtype}: {remedy}.")


def find_coordinate(data: DataArray | Dataset, kind: str) -> str:
    """Return the name of the dimension that is "time", "latitude" or "longitude"."""
    # The standard name decides; without one the units (or, for time, a type of dates), then CF's
    # attribute axis, then common names. Several that are as good are refused.
    ranks = {name: rank_coordinate(data[name], kind) for name in data.dims if name in data.coords}
    best = min((rank for rank in ranks.values() if rank is not None), default=None)
    found = [str(name) for name, rank in ranks.items() if rank is not None and rank == best]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"ambiguous {kind}: {' and '.join(map(repr, found))} can both be it. Give the "
            f"attribute standard_name={kind!r} to the one that is, or drop the others."
        )
    raise ValueError(f"data has no {kind} coordinate. {_explain_absence(data, kind)}")


def _explain_absence(data: DataArray | Dataset, kind: str) -> str:
    """Say what there is instead of a coordinate, and what to do."""
    example = KINDS[kind].example
    for name in data.coords:
        if data[name].ndim > 1 and rank_coordinate(data[name], kind) is not None:
            return (
                f"{name!r} has the dimensions {data[name].dims}, but a one-dimensional "
                f"{kind} is needed: regrid to a rectilinear grid first."
            )
        if data[name].ndim == 0 and rank_coordinate(data[name], kind) is not None:
            return (
                f"{name!r} is a single value, not a dimension: select with a list, "
                f"data.isel({name}=[0]), or data.expand_dims({str(name)!r})."
            )
        if name not in data.dims and rank_coordinate(data[name], kind) is not None:
            dim = data[name].dims[0]
            stacked = "stack with create_index=False and " if name in data.indexes else ""
            return (
                f"{name!r} lies along {dim!r} and is no dimension: {stacked}make it one, "
                f"data.swap_dims({dim}={str(name)!r})."
            )
    for name in data.dims:
        if name not in data.coords and str(name).lower() in KINDS[kind].names:
            return (
                f"The dimension {name!r} has no coordinate: add one, "
                f"data.assign_coords({name}=...)."
            )
    return (
        f"Of the dimensions {tuple(data.dims)} none has a coordinate with "
        f"standard_name={kind!r} or a name such as {example!r}: rename one, or set its attribute "
        "standard_name."
    )


def in_degrees(coordinate: DataArray, kind: str) -> NDArray:
    """Return latitudes or longitudes in degrees: as they are, or from radians by their units."""
    units = coordinate.attrs.get("units")
    unit = None if units is None else str(units).lower()
    values = plain_values(coordinate)
    if values.dtype.kind not in "fiu":
        raise ValueError(
            f"{coordinate.name!r} must hold numbers of degrees, got {coordinate.dtype}: give the "
            f"centres of cells, data.assign_coords({coordinate.name}=...)."
        )
    if unit in RADIANS:
        return np.degrees(values.astype(np.float64))
    if unit in ANGLES or unit in KINDS[kind].units:
        return values
    raise ValueError(
        f"{coordinate.name!r} is in {units!r}, which is no {kind} in degrees: give {kind}s in "
        f"degrees, data.assign_coords({coordinate.name}=...), or its attribute units as "
        f"{KINDS[kind].units[0]!r} if they are."
    )


def plain_values(coordinate: DataArray) -> NDArray:
    """Return the values of a coordinate, those of pandas' types as objects."""
    if isinstance(coordinate.dtype, np.dtype):
        return coordinate.values
    return np.asarray(coordinate.to_index(), dtype=object)


def full_turn(coordinate: DataArray) -> float:
    """Return 360 degrees in the units of a longitude."""
    units = str(coordinate.attrs.get("units")).lower()
    return 2 * np.pi if units in RADIANS else 360


def is_marked(coordinate: DataArray) -> bool:
    """Tell whether units or a standard name say what a coordinate is, and not its name alone."""
    units = coordinate.attrs.get("units")
    return "standard_name" in coordinate.attrs or units not in (None, "", "1")


def find_dates(data: DataArray | Dataset) -> str:
    """Return the name of the time dimension, whose values must be dates."""
    name = find_coordinate(data, "time")
    if not isinstance(data[name].dtype, np.dtype):
        remedy = {"period": "to_timestamp()", "datetime64": "tz_localize(None)"}
        kind = str(data[name].dtype).partition("[")[0]
        dates = f"data.indexes[{name!r}].{remedy[kind]}" if kind in remedy else "..."
        raise ValueError(
            f"the time coordinate {name!r} is of pandas' type {data[name].dtype}: give it plain "
            f"dates, data.assign_coords({name}={dates})."
        )
    if not has_dates(data[name]):
        raise ValueError(
            f"the time coordinate {name!r} has no calendar: its values are {data[name].dtype}, "
            "not dates. Give it the attributes units='days since ...' and calendar, and decode "
            "them with xarray.decode_cf; or open the file with decode_times=True."
        )
    unknown = np.flatnonzero(data[name].isnull())
    if unknown.size:
        raise ValueError(
            f"the time coordinate {name!r} has no date (NaT) at the position {unknown[0]}, one of "
            f"{unknown.size}: leave these samples out, data.isel({name}=data.{name}.notnull())."
        )
    return name


def even_chunks(data: DataArray | Dataset) -> Any:
    """Return a Dataset whose variables in dask have the same chunks; anything else as it is."""
    return data.unify_chunks() if is_dataset(data) else data


def find_sample_dim(data: DataArray | Dataset, sample_dim: str | None) -> str:
    """Return the dimension of the samples: the one that is named, or time."""
    if sample_dim is not None:
        if sample_dim not in data.dims:
            raise ValueError(
                f"sample_dim={sample_dim!r} is no dimension of the data, which has "
                f"{tuple(data.dims)}."
            )
        return sample_dim
    by_name = [str(name) for name in data.dims if name in ("time", "sample")]
    marked = [
        n for n in data.dims if n in data.coords and rank_coordinate(data[n], "time") is not None
    ]
    if marked:
        return find_coordinate(data, "time")
    if len(by_name) == 1:
        return by_name[0]
    raise ValueError(
        f"ambiguous dimension: none of {tuple(data.dims)} is marked as time, so that it is open "
        "which one counts the samples. Name it: sample_dim=...; of a single field, "
        "data.expand_dims('time')."
    )


def find_period(
    data: DataArray | Dataset, time: str, period: tuple[Any, Any] | None, name: str
) -> np.ndarray:
    """Return the positions of the times from ``period[0]`` to ``period[1]``, both included."""
    xr = import_optional("xarray", extra="geo", user="sklrp.geo")

    n_times = data.sizes[time]
    if period is None:
        return np.arange(n_times)
    try:
        start, stop = (str(end) if isinstance(end, Integral) else end for end in period)
    except (TypeError, ValueError):
        raise ValueError(
            f"{name} must be None or a pair such as ('1980', '2009'), got {say_value(period)}."
        ) from None
    positions = xr.DataArray(np.arange(n_times), {time: data[time]}, [time]).sortby(time)
    try:
        found = positions.sel({time: slice(start, stop)}).values
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{name}={period!r} cannot be compared with times of {data[time].dtype}: give dates "
            f"as text, such as ('1980', '2009-12'). ({error})"
        ) from error
    if not found.size:
        first, last = (str(positions[time].values[i])[:10] for i in (0, -1))
        raise ValueError(
            f"no sample lies in {name}={period!r}: the data runs from {first} to {last}. Choose "
            f"a period within it, or {name}=None for all of it."
        )
    return np.sort(found)
