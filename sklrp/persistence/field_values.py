"""Dates, dtypes, slices and fields of xarray as JSON and arrays, and back.

`.values` hands on to it what neither JSON nor NumPy's numbers and texts have, and takes back what
it made.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn import feature_selection
from sklearn.compose import make_column_selector

from sklrp._checks import import_optional
from sklrp.geo.coordinates import is_dataset, is_field

_DATES = r"(datetime64|timedelta64)(\[(Y|M|W|D|h|m|s|ms|us|ns)\])?"
_MOMENT = ("year", "month", "day", "hour", "minute", "second", "microsecond")
_BUILTINS = {"object": object, "float": float, "int": int, "bool": bool, "str": str}
# What `SelectKBest` and its like rank features by.
_FUNCTIONS = {
    name: getattr(feature_selection, name)
    for name in (
        *("chi2", "f_classif", "f_regression", "r_regression"),
        *("mutual_info_classif", "mutual_info_regression"),
    )
}
_SELECTOR = ("pattern", "dtype_include", "dtype_exclude")


def pack_foreign(value: Any, pack: Callable[[Any, str], Any], put: Callable[[Any], str]) -> Any:
    """Return a value as an object of one key, None if it is of no type known here.

    Parameters
    ----------
    value : object
        The value.
    pack : callable
        Packs a value in it, given what to add to its name.
    put : callable
        Keeps an array of numbers, and returns the name that it has among those of the file.

    Returns
    -------
    dict or None
        What `unpack_foreign` takes.
    """
    if isinstance(value, slice):
        return {"slice": [pack(part, "slice") for part in (value.start, value.stop, value.step)]}
    if isinstance(value, datetime.date):  # and datetime, and pandas' own
        return pack_foreign(np.datetime64(value), pack, put)
    if isinstance(value, np.datetime64 | np.timedelta64):
        return {"date": [value.dtype.name, int(value.astype(np.int64))]}
    if isinstance(value, np.ndarray):
        return _pack_moments(value, put)
    if _is_cftime(value):
        return {"moment": [*_name_calendar(value), _list_parts(value)]}
    if isinstance(value, make_column_selector) and type(value) is make_column_selector:
        return {"selector": [pack(getattr(value, name), name) for name in _SELECTOR]}
    if is_field(value):
        return _pack_fields(value, pack)
    return _pack_name(value)


def _pack_name(value: Any) -> Any:
    """Return a dtype, a type of numbers or a function of scikit-learn by its name."""
    if isinstance(value, np.dtype) and value.kind in "biufO":
        return {"dtype": value.name}
    if isinstance(value, type):
        found = [name for name, known in _BUILTINS.items() if known is value]
        if not found and issubclass(value, np.generic):
            found = [f"numpy.{value.__name__}"]
        return {"type": found[0]} if found and _find_type(found[0]) is value else None
    for name, function in _FUNCTIONS.items():
        if value is function:
            return {"function": name}
    return None


def _pack_moments(array: Any, put: Callable[[Any], str]) -> Any:
    """Return an array of dates by its integers, one of cftime by the parts of each."""
    if array.dtype.kind in "mM":
        return {"dates": [array.dtype.name, put(array.astype(np.int64))]}
    items = array.ravel().tolist()
    if items and all(map(_is_cftime, items)):
        parts = [_list_parts(item) for item in items]
        return {"moments": [*_name_calendar(items[0]), list(array.shape), parts]}
    return None


def _is_cftime(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "cftime" and hasattr(value, "calendar")


def _name_calendar(moment: Any) -> list[Any]:
    return [moment.calendar, bool(moment.has_year_zero)]


def _list_parts(moment: Any) -> list[int]:
    return [int(getattr(moment, part)) for part in _MOMENT]


def _pack_fields(data: Any, pack: Callable[[Any, str], Any]) -> Any:
    """Return a DataArray or Dataset by its variables, coordinates and attributes."""
    levels: dict[int, list[Any]] = {}
    for name, index in data.indexes.items():
        if index.nlevels > 1:
            levels.setdefault(id(index), [data.coords[name].dims[0], list(index.names)])
    apart = {dim for dim, _ in levels.values()}  # made of its levels
    named = [(name, coord) for name, coord in data.coords.items() if name not in apart]
    about = [
        [_pack_variable(name, coord, pack) for name, coord in named],
        [pack(level, "levels") for level in levels.values()],
        pack(dict(data.attrs), "attrs"),
    ]
    if is_dataset(data):
        fields = [_pack_variable(name, field, pack) for name, field in data.data_vars.items()]
        return {"dataset": [fields, *about]}
    return {"dataarray": [_pack_variable(data.name, data, pack), *about]}


def _pack_variable(name: Any, field: Any, pack: Callable[[Any, str], Any]) -> list[Any]:
    label = str(name or "values")
    values = field.values
    return [
        pack(name, label),
        pack(list(field.dims), label),
        pack(values, label),
        pack(dict(field.attrs), f"{label}.attrs"),
    ]


def unpack_foreign(
    tag: Any, content: Any, unpack: Callable[[Any, str], Any], take: Callable[[Any], Any]
) -> Any:
    """Return the value that `pack_foreign` was given.

    Parameters
    ----------
    tag : object
        The key of the object.
    content : object
        Its value.
    unpack : callable
        Unpacks a value in it, given what to add to its name.
    take : callable
        Takes an array out of those of the file, by its name.

    Returns
    -------
    object
        The value; `NotImplemented` if it is nothing that `pack_foreign` returns.
    """
    match tag, content:
        case "slice", [start, stop, step]:
            return slice(*(_bound(unpack(part, "slice")) for part in (start, stop, step)))
        case "date", [str(dtype), int(count)] if re.fullmatch(_DATES, dtype):
            return np.array(count, dtype=np.int64).astype(dtype)[()]
        case "dates", [str(dtype), str(key)] if re.fullmatch(_DATES, dtype):
            counts = take(key)
            return counts.view(dtype) if counts.dtype == np.int64 else NotImplemented
        case "moment", [str(calendar), bool(zero), list(parts)]:
            return _make_moment(calendar, zero, parts)
        case "moments", [str(calendar), bool(zero), list(shape), list(items)]:
            moments = np.empty(len(items), dtype=object)
            for i, parts in enumerate(items):
                moments[i] = _make_moment(calendar, zero, parts)
            return moments.reshape(shape)
        case "dtype", str(name):
            found = np.dtype(name)
            return found if found.kind in "biufO" else NotImplemented
        case "type", str(name):
            return _find_type(name) or NotImplemented
        case "function", str(name):
            return _FUNCTIONS.get(name, NotImplemented)
        case "selector", [_, _, _]:
            values = [unpack(part, name) for part, name in zip(content, _SELECTOR, strict=True)]
            pattern, include, exclude = values
            return make_column_selector(pattern, dtype_include=include, dtype_exclude=exclude)
        case "dataarray" | "dataset", [list(fields), list(coords), list(levels), attrs]:
            return _unpack_fields(tag, fields, coords, levels, unpack(attrs, "attrs"), unpack)
    return NotImplemented


def _bound(value: Any) -> Any:
    if value is not None and type(value) not in (int, str):
        raise ValueError(f"a slice has the bound {str(value)[:80]}")
    return value


def _find_type(name: str) -> type | None:
    """Return a type of Python's or NumPy's numbers and texts by its name."""
    if name in _BUILTINS:
        return _BUILTINS[name]
    found = vars(np).get(name.removeprefix("numpy.")) if name.startswith("numpy.") else None
    return found if isinstance(found, type) and issubclass(found, np.generic) else None


def _make_moment(calendar: str, has_year_zero: bool, parts: Any) -> Any:
    """Return a date of cftime in the type that xarray decodes times to."""
    cftime = import_optional("cftime", extra="geo", user="A date in another calendar")
    if not isinstance(parts, list) or len(parts) != len(_MOMENT) or {*map(type, parts)} != {int}:
        raise ValueError(f"a date is {str(parts)[:80]}, but should have {len(_MOMENT)} integers")
    moment = cftime.datetime(*parts, calendar=calendar, has_year_zero=has_year_zero)
    return cftime.num2date(
        cftime.date2num(moment, "microseconds since 2000-01-01", calendar=calendar),
        "microseconds since 2000-01-01",
        calendar=calendar,
        has_year_zero=has_year_zero,
        only_use_cftime_datetimes=True,
    )


def _unpack_fields(
    tag: str,
    fields: list[Any],
    coords: list[Any],
    levels: list[Any],
    attrs: Any,
    unpack: Callable[[Any, str], Any],
) -> Any:
    """Return a DataArray or Dataset."""
    xr = import_optional("xarray", extra="geo", user="A grid of fields")
    known = dict(_unpack_variable(coord, unpack) for coord in coords)
    made = xr.Dataset(coords=known).coords
    for level in levels:
        dim, names = unpack(level, "levels")
        made = _join_levels(xr, made, dim, names)
    if tag == "dataset":
        given = dict(_unpack_variable(field, unpack) for field in fields)
        return xr.Dataset(given, made, attrs)
    name, (dims, values, _) = _unpack_variable(fields, unpack)
    if not isinstance(name, str | int | None):
        raise ValueError(f"a field has the name {str(name)[:80]}")
    return xr.DataArray(values, made, dims, name, attrs)


def _unpack_variable(packed: Any, unpack: Callable[[Any, str], Any]) -> tuple[Any, Any]:
    name, dims, values, attrs = (unpack(part, "field") for part in packed)
    shape = np.shape(values)
    if not isinstance(dims, list) or len(dims) != len(shape) or not isinstance(attrs, dict):
        raise ValueError(f"the field {str(name)[:80]!r} is malformed: {math.prod(shape)} values")
    return name, (dims, values, attrs)


def _join_levels(xr: Any, coords: Any, dim: Any, names: Any) -> Any:
    """Return coordinates with an index of several levels along a dimension."""
    pd = import_optional("pandas", extra="geo", user="An index of several levels")
    index = pd.MultiIndex.from_arrays([coords[name].values for name in names], names=names)
    others = coords.to_dataset().drop_vars(names).coords
    joined = others.merge(xr.Coordinates.from_pandas_multiindex(index, dim)).coords
    for name in names:
        joined[name].attrs.update(coords[name].attrs)
    return joined
