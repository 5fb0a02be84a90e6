"""What marks a coordinate as time, latitude or longitude: CF's attributes, dates, common names.

`sklrp.geo` looks for the coordinates of fields by these marks, and `sklrp._sample_times` for the
times of samples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

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


def rank_mark(coordinate: DataArray, kind: str) -> int | None:
    """Return how well a coordinate is marked as the kind, 0 best, None not at all."""
    axis, kind_units, names, _ = KINDS[kind]
    standard_name = coordinate.attrs.get("standard_name")
    units = coordinate.attrs.get("units")
    if standard_name is not None:
        return 0 if standard_name == kind else None
    if units is not None and str(units).lower() in kind_units:
        return 1
    if kind == "time":
        if has_dates(coordinate):
            return 1
        open_units = units is None or " since " in str(units)
    else:
        open_units = units in ANGLES
    if not open_units:
        return None
    if coordinate.attrs.get("axis") == axis:
        return 2
    name = str(coordinate.name).lower()
    return 3 if name in names and (name not in _PLAIN or units in ("degrees", "degree")) else None


def find_kind(coordinate: DataArray) -> str | None:
    """Return whether a coordinate is "time", "latitude" or "longitude", None if it is none."""
    return next((kind for kind in KINDS if rank_mark(coordinate, kind) is not None), None)


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
