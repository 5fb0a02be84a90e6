"""What marks a coordinate as time, latitude or longitude: CF's attributes, dates, common names.

`sklrp.geo` looks for the coordinates of fields by these marks, and `sklrp._sample_times` for the
times of samples.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from xarray import DataArray


class _Kind(NamedTuple):
    """How the CF conventions, and those who do without, mark a coordinate."""

    axis: str
    units: tuple[str, ...]
    names: tuple[str, ...]
    example: str


_NORTH = ("degrees_north", "degree_north", "degree_n", "degrees_n", "degreen", "degreesn")
_EAST = ("degrees_east", "degree_east", "degree_e", "degrees_e", "degreee", "degreese")
KINDS = {
    "time": _Kind("T", (), ("time", "t", "date", "valid_time"), "time"),
    "latitude": _Kind("Y", _NORTH, ("lat", "latitude", "nav_lat", "lats", "y"), "lat"),
    "longitude": _Kind("X", _EAST, ("lon", "longitude", "nav_lon", "lons", "long", "x"), "lon"),
}
RADIANS = ("radian", "radians", "rad")
# Units that leave open what an axis is.
ANGLES = (None, "", "1", "degrees", "degree", "deg", *RADIANS)
_PLAIN = ("x", "y")  # names that pixels and metres have too, unless units say degrees
# Names of dimensions and coordinates that count runs of a model, and no cells.
MEMBERS = {
    *("member", "members", "ensemble", "ensemble_member", "ens", "number", "run"),
    *("realization", "realisation", "member_id"),
}


def rank_mark(
    kind: str, name: Hashable, attrs: Mapping[Any, Any], *, is_date: bool = False
) -> int | None:
    """Return how well a coordinate is marked as the kind, 0 best, None not at all."""
    axis, kind_units, names, _ = KINDS[kind]
    standard_name, units = attrs.get("standard_name"), attrs.get("units")
    if standard_name is not None:
        return 0 if standard_name == kind else None
    if units is not None and str(units).lower() in kind_units:
        return 1
    if kind == "time":
        if is_date:
            return 1
        open_units = units is None or " since " in str(units)
    else:
        open_units = units in ANGLES
    if not open_units:
        return None
    if attrs.get("axis") == axis:
        return 2
    word = str(name).lower()
    return 3 if word in names and (word not in _PLAIN or units in ("degrees", "degree")) else None


def rank_coordinate(coordinate: DataArray, kind: str) -> int | None:
    """Return how well a coordinate of xarray is marked as the kind, as `rank_mark` does."""
    return rank_mark(kind, coordinate.name, coordinate.attrs, is_date=has_dates(coordinate))


def find_kind(coordinate: DataArray) -> str | None:
    """Return whether a coordinate is "time", "latitude" or "longitude", None if it is none."""
    return next((kind for kind in KINDS if rank_coordinate(coordinate, kind) is not None), None)


def has_dates(coordinate: DataArray) -> bool:
    """Tell whether a coordinate holds dates of NumPy or of cftime."""
    if not isinstance(coordinate.dtype, np.dtype):  # one of pandas: of intervals, periods, ...
        return False
    if np.issubdtype(coordinate.dtype, np.datetime64):
        return True
    return bool(
        coordinate.dtype == object
        and coordinate.size
        and hasattr(coordinate.values.flat[0], "calendar")
    )
