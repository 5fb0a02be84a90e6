"""What a picture calls its samples: by their dates, as precisely as the data give them.

The views of `RelevanceDisplay` ask here. A coordinate of xarray or an index of pandas knows the
dates; where there is none, titles count the samples.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from sklrp._coordinate_marks import find_kind
from sklrp._missing import find_missing
from sklrp._sample_times import ISO_DATE, YEARS, Column, columns_along, find_members, rank_times
from sklrp.geo.coordinates import find_sample_dim

_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
_PARTS = ("year", "month", "day", "hour", "minute", "second")
_MONTHLY = "0000-01-00"  # how NOAA's files say of their times that they are months


def name_samples(data: Any, n_samples: int, dim: Any = None) -> list[str] | None:
    """Return what samples are called by their dates.

    Months are "December 1997", days "1997-12-16", hours "1997-12-16 06:00". Members of an
    ensemble, stations and samples of the same date are told apart.

    Parameters
    ----------
    data : object
        The samples: a DataArray or Dataset, a DataFrame or Series, or anything else.
    n_samples : int
        How many samples there are.
    dim : hashable or None, default=None
        The dimension of the samples. None (default): the first that is no latitude or longitude;
        of fields with several that which is marked as time.

    Returns
    -------
    list of str or None
        A name for each sample; None where the data carry no dates.
    """
    is_of_xarray = hasattr(data, "dims") and hasattr(data, "coords")
    if is_of_xarray and dim is None:
        dim = _find_dim(data)
    columns = list(columns_along(data, dim))
    if is_of_xarray and n_samples == 1:  # a single field, whose date has no dimension
        single = [name for name, own in data.coords.items() if own.dims == ()]
        columns += [
            replace(column, is_level=False)  # a height or a level is the same for all samples
            for name in single
            for column in columns_along(data.expand_dims(name), name)
        ]
    columns = [column for column in columns if column.size == n_samples]
    for k in rank_times(columns):
        names = _write_times(columns[k])
        if names is not None:
            others = [column for i, column in enumerate(columns) if i != k]
            return _add_members(names, find_members(others))
    return None


def _find_dim(data: Any) -> Any:
    """Return the dimension of the samples, as the maps that are drawn have it."""
    places = [
        dim
        for dim in data.dims
        if dim in data.coords and find_kind(data[dim]) in ("latitude", "longitude")
    ]
    others = [dim for dim in data.dims if dim not in places]
    if places and len(others) > 1:
        with contextlib.suppress(ValueError):
            return find_sample_dim(data, None)
    return next(iter(others), None)


def _write_times(column: Column) -> list[str] | None:
    """Return the times of a column in words, None if they are no dates."""
    raw = column.raw
    if hasattr(raw, "categories"):
        raw = raw.astype(raw.categories.dtype)
    if column.name.lower() in YEARS and raw.dtype.kind in "iu":
        return [str(year) for year in np.asarray(raw).tolist()]
    if find_missing(np.asarray(raw, dtype=object)).any():
        return None
    if str(raw.dtype).startswith("period"):
        return [_say_text(str(value)) for value in raw]
    if raw.dtype.kind == "M" and getattr(raw, "tz", None) is None:
        values = np.asarray(raw).astype("M8[us]").tolist()
    else:
        values = np.asarray(raw, dtype=object).tolist()
    is_text = all(isinstance(value, str) and ISO_DATE.fullmatch(value) for value in values)
    if values and is_text and column.values.dtype.kind == "M":  # and no digits that are no date
        if all(len(value) == len("1997-12") for value in values):
            return [_say_text(value) for value in values]
        values = np.array(values, "M8[us]").tolist()
    if not values or not all(hasattr(value, "month") for value in values):
        return None
    parts = [tuple(int(getattr(value, part, 0)) for part in _PARTS) for value in values]
    is_monthly = any(
        str(column.attrs.get(name, "")).startswith(_MONTHLY) for name in ("delta_t", "avg_period")
    )
    return _say_dates(parts, is_monthly)


def _say_text(text: str) -> str:
    """Return a period, or a month in ISO 8601, in words."""
    year, _, month = text.partition("-")
    return f"{_MONTHS[int(month) - 1]} {year}" if len(month) == 2 else text


def _say_dates(parts: list[tuple[int, ...]], is_monthly: bool) -> list[str]:
    """Return years, months, days, hours, minutes and seconds as far as they say something."""
    whole_days = not any(any(part[3:]) for part in parts)
    if is_monthly or _are_months(parts, whole_days):
        return [f"{_MONTHS[month - 1]} {year:04d}" for year, month, *_ in parts]
    days = [f"{year:04d}-{month:02d}-{day:02d}" for year, month, day, *_ in parts]
    if whole_days:
        return days
    n_shown = 3 if any(part[5] for part in parts) else 2
    clocks = [":".join(f"{n:02d}" for n in part[3:][:n_shown]) for part in parts]
    return [f"{day} {clock}" for day, clock in zip(days, clocks, strict=True)]


def _are_months(parts: list[tuple[int, ...]], whole_days: bool) -> bool:
    """Tell whether dates stand for months: each for another, all at the same place in it."""
    dates = set(parts)
    days = {part[2] for part in dates}
    if len({part[:2] for part in dates}) < len(dates):
        return False
    if len(dates) > 1 and whole_days and days == {1}:
        return True
    # The middle or the last day of two months may be two days as well.
    return len(dates) > 2 and (days <= {14, 15, 16, 17} or min(days) >= 28)


def _add_members(names: list[str], members: list[Column]) -> list[str]:
    """Return names with the member or station of each, and where that will not do, its number."""
    for column in reversed(members):
        own = np.asarray(column.values).tolist()
        names = [f"{column.name} {one}, {name}" for one, name in zip(own, names, strict=True)]
    count = Counter(names)
    return [f"sample {i}, {name}" if count[name] > 1 else name for i, name in enumerate(names)]
