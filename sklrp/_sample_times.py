"""When samples were: the times that a coordinate of xarray or an index of pandas gives them.

`sklrp.skill` puts samples into this order before it asks whether neighbours are alike: shuffled
months are a series all the same. `sklrp._matching` finds the samples of labels by their dates, and
`sklrp._memory` tells data by them. Displays name samples by the columns that `columns_along`
finds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklrp._coordinate_marks import MEMBERS, rank_mark
from sklrp._missing import find_missing

YEARS = ("year", "years")  # the name of the dimension of seasonal or annual means
ISO_DATE = re.compile(r"\d{4}-\d{2}(-\d{2}([ T]\d{2}(:\d{2}(:\d{2}(\.\d+)?)?)?)?)?")


@dataclass(frozen=True)
class SampleTimes:  # numpydoc ignore=PR02
    """The time of each sample.

    Parameters
    ----------
    name : str
        What the coordinate is called.
    values : ndarray of shape (n_samples,)
        Days of dates, or numbers as they are.
    member : ndarray of shape (n_samples,)
        Which of the samples of one time each is, as codes: its member of an ensemble, its station.
        0 where nothing says so.
    """

    name: str
    values: NDArray[np.float64]
    member: NDArray[np.intp]

    def take(self, rows: NDArray[np.intp]) -> SampleTimes:
        """Return the times of some of the samples."""
        return replace(self, values=self.values[rows], member=self.member[rows])


@dataclass(frozen=True)
class Column:  # numpydoc ignore=PR02
    """A coordinate along the samples, of xarray or of pandas.

    Parameters
    ----------
    name : str
        What it is called.
    raw : Index or ndarray
        Its values as they are.
    values : Index or ndarray
        Its values, with dates that are objects, text or categories as dates of NumPy.
    attrs : dict
        Its attributes.
    is_level : bool
        Whether it is a level of an index of pandas.
    """

    name: str
    raw: Any
    values: Any
    attrs: Mapping[Any, Any] = field(default_factory=dict)
    is_level: bool = False  # of an index with several

    @property
    def size(self) -> int:
        """The number of samples."""
        return len(self.values)

    @property
    def rank(self) -> int | None:
        """How well it is marked as time, 0 best, None not at all."""
        dtype = self.values.dtype
        if getattr(dtype, "kind", "") == "M" or str(dtype).startswith("period"):
            return 1
        rank = rank_mark("time", self.name, self.attrs)
        return 4 if rank is None and self.name.lower() in YEARS else rank


def find_times(data: Any, dim: Any = None) -> SampleTimes | None:
    """Return when samples were, as far as they say so themselves.

    Parameters
    ----------
    data : object
        Samples, or their labels: a DataArray or Dataset, a DataFrame or Series, or anything else.
    dim : hashable or None, default=None
        The dimension of the samples. None (default): the first.

    Returns
    -------
    SampleTimes or None
        Dates, or numbers that CF's attributes or a common name mark as time; None where there are
        none. Of several the dimension's own coordinate, or the best marked.

    Raises
    ------
    ValueError
        If some of the times are missing.
    """
    columns = list(columns_along(data, dim))
    for k in rank_times(columns):
        values = _read_times(columns[k])
        if values is None:
            continue
        unknown = np.flatnonzero(~np.isfinite(values))
        if len(unknown):
            raise ValueError(
                f"{len(unknown)} of {len(values)} samples have no time in {columns[k].name!r}, "
                f"the first at position {unknown[0]}: leave them out, or drop this coordinate if "
                "the order of samples means nothing."
            )
        others = [column for i, column in enumerate(columns) if i != k]
        return SampleTimes(columns[k].name, values, _code_members(others, len(values)))
    return None


def dates_along(data: Any, dim: Any = None) -> NDArray[np.datetime64] | None:
    """Return the dates of samples, None where they carry none.

    Parameters
    ----------
    data : object
        Samples, as `find_times` takes them.
    dim : hashable or None, default=None
        The dimension of the samples. None (default): the first.

    Returns
    -------
    ndarray of datetime64 of shape (n_samples,) or None
        The dates, NaT of those that are missing; those of another calendar by its days since 2000.
    """
    columns = list(columns_along(data, dim))
    found = (np.asarray(_as_dates(columns[k].values)) for k in rank_times(columns))
    return next((dates for dates in found if dates.dtype.kind == "M"), None)


def find_date_index(data: Any) -> Any:
    """Return the dates of samples as an index of pandas, None where there are none.

    Parameters
    ----------
    data : object
        A DataFrame or Series, whose index may hold dates; a DataArray or Dataset, of whose
        dimensions one may; or anything else.

    Returns
    -------
    Index or None
        The dates; those of months and other periods are their first moments, those of a zone in
        UTC, those of other calendars are cftime's.
    """
    if hasattr(data, "iloc"):
        found = [data.index]
    elif hasattr(data, "dims") and hasattr(data, "coords"):
        found = [data.get_index(dim) for dim in data.dims if dim in data.coords]
    else:
        return None
    dated = [index for index in map(_read_index, found) if index is not None]
    return dated[0] if len(dated) == 1 else None


def _read_index(index: Any) -> Any:
    """Return an index of dates, read where they are objects or text; None of any other."""
    if hasattr(index, "categories"):
        index = index.astype(index.categories.dtype)
    index = _as_dates(index)
    if index.dtype.kind == "M":
        return index
    values = list(index) if index.dtype.kind == "O" else []
    if values and all(hasattr(value, "calendar") for value in values):
        return index
    dates = _read_dates(values)
    return None if dates is None else type(index)(dates)  # pandas' Index finds its own kind


def rank_times(columns: list[Column]) -> list[int]:
    """Return the positions of the columns that are marked as time, the best marked first."""
    ranked = [(column.rank, k) for k, column in enumerate(columns)]
    return [k for _, k in sorted((rank, k) for rank, k in ranked if rank is not None)]


def find_members(columns: list[Column]) -> list[Column]:
    """Return the columns, beside the time, that tell samples of one time apart."""
    named = [column for column in columns if column.name.lower() in MEMBERS]
    return named or [column for column in columns if column.is_level]


def columns_along(data: Any, dim: Any = None) -> Iterator[Column]:
    """Yield what runs along the samples, the dimension's own coordinate first."""
    if hasattr(data, "dims") and hasattr(data, "coords"):
        dim = next(iter(data.dims), None) if dim is None else dim
        names = [name for name in data.coords if data[name].dims == (dim,)]
        levels = data.indexes[dim].names if dim in data.indexes else ()
        for name in sorted(names, key=lambda name: name != dim):
            own = data[name]
            values = own.values if isinstance(own.dtype, np.dtype) else own.to_index()
            yield Column(str(name), values, _unwrap(values), own.attrs, name in levels)
    elif hasattr(data, "iloc"):
        index = data.index
        for k, name in enumerate(index.names):
            values = index.get_level_values(k)
            name = "index" if name is None else str(name)
            yield Column(name, values, _unwrap(values), is_level=True)


def _unwrap(values: Any) -> Any:
    """Return dates that are objects, text or categories as dates of NumPy, others as they are."""
    if hasattr(values, "categories"):
        values = values.astype(values.categories.dtype)
    if getattr(values.dtype, "kind", "O") not in "OTU" or hasattr(values, "to_timestamp"):
        return values
    found = np.asarray(values, dtype=object)
    known = ~find_missing(found)
    dates = np.full(len(found), np.datetime64("NaT", "us"))
    read = _read_dates(list(found[known]))
    if read is None:
        return found
    dates[known] = read
    return dates


def _read_dates(values: list[Any]) -> NDArray[np.datetime64] | None:
    """Return dates of Python, of ISO 8601 or of cftime as NumPy's, None if some are none."""
    if not values:
        return None
    if all(hasattr(value, "calendar") for value in values):
        start = values[0].replace(year=2000, month=1, day=1, hour=0, minute=0, second=0)
        elapsed = [value - start.replace(microsecond=0) for value in values]  # by its calendar
        return np.datetime64("2000-01-01", "us") + np.array(elapsed, dtype="m8[us]")
    if all(isinstance(value, date | np.datetime64) for value in values):
        values = [
            value.astimezone(UTC).replace(tzinfo=None) if getattr(value, "tzinfo", None) else value
            for value in values
        ]
    elif not all(isinstance(value, str) and ISO_DATE.fullmatch(value) for value in values):
        return None
    try:
        return np.array(values, dtype="M8[us]")
    except ValueError:  # digits that are no date
        return None


def _as_dates(values: Any) -> Any:
    """Return periods of pandas, and dates in a zone, as plain dates, others as they are."""
    values = values.to_timestamp() if hasattr(values, "to_timestamp") else values
    return values if getattr(values, "tz", None) is None else values.tz_convert(None)


def _read_times(column: Column) -> NDArray[np.float64] | None:
    """Return times as numbers, NaN of those that are missing; None if they are none."""
    values = np.asarray(_as_dates(column.values))
    if values.dtype.kind == "M":
        dated = values[~np.isnat(values)]
        values = values - (dated.min() if len(dated) else np.datetime64("NaT", "D"))
    if values.dtype.kind == "m":
        return values / np.timedelta64(1, "D")
    if values.dtype.kind in "iuf":
        return values.astype(np.float64)
    return None


def _code_members(columns: list[Column], n_samples: int) -> NDArray[np.intp]:
    """Return codes of what tells samples of one time apart."""
    codes = np.zeros(n_samples, dtype=np.intp)
    for column in find_members(columns):
        own = np.unique(np.asarray(column.values).astype(str), return_inverse=True)[1].ravel()
        codes = codes * (own.max(initial=0) + 1) + own
    return codes
