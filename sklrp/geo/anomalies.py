"""Anomalies of fields: what is left of them without season, trend and scale.

`AnomalyTransformer` is the first step of a pipeline on fields; `load_enso` uses it too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from sklrp._checks import import_optional
from sklrp._constraints import Interval, ShortErrors
from sklrp._keywords import named
from sklrp._matching import check_same_samples
from sklrp._sklearn import StrOptions, fit_context
from sklrp._wording import say_value
from sklrp.geo.coordinates import (
    check_field,
    check_numbers,
    even_chunks,
    find_dates,
    find_period,
    is_dataset,
)
from sklrp.geo.fill_values import without_sentinels
from sklrp.geo.grid import check_grid, make_template, warn_of_other_fields

if TYPE_CHECKING:
    from xarray import DataArray, Dataset

_GROUP = "group"  # the dimension of the months or days of a climatology
_DAYS_PER_DECADE = 3652.5
_STANDARD = {"standard", "gregorian", "proleptic_gregorian"}  # the same since 1582


class AnomalyTransformer(
    ShortErrors,  # type: ignore[call-arg]
    TransformerMixin,
    BaseEstimator,
    auto_wrap_output_keys=None,
):
    r"""Turn fields into their anomalies: departures from a climatology, and from a trend.

    Put it before :class:`GridVectorizer` in a pipeline, so that what is "usual" is learnt from the
    training fold alone. For a field x at the time t in the month (or on the day) m

    .. math::

        a_t = \min(c, \max(-c, \; (x_t - \bar x_m - b \, (t - \bar t)) \, / \, \sigma_m))

    with the mean :math:`\bar x_m` and, with `standardize`, the standard deviation
    :math:`\sigma_m` of the reference period, the slope b of the trend, with `detrend`, the middle
    :math:`\bar t` of the reference period and the `cap` c; all of them for each cell.

    Parameters
    ----------
    climatology : {"month", "dayofyear"} or None, default="month"
        Over which samples means and standard deviations are taken: all of the same calendar
        month, or of the same calendar day, where 29 February counts as the 28th. None: over all
        samples.
    reference : (date, date) or None, default=None
        First and last date of the reference period, both included, as text such as
        ``("1980", "2009")`` or as dates of the data's own type. None (default): all times
        of ``fit``.
    detrend : bool, default=False
        Whether to subtract a linear trend: the least-squares slope of each cell over all times of
        ``fit``, with a mean of its own for each month or day. It goes on beyond these times.
    standardize : bool, default=False
        Whether to divide by the standard deviation, with the number of samples as its divisor. A
        constant cell is divided by 1.
    cap : float or None, default=None
        Largest absolute anomaly, in units of the output: larger ones are set to it, so that
        outliers, such as at the edge of sea ice, do not attract the relevance. None (default): no
        cap.

    Attributes
    ----------
    mean_ : DataArray or Dataset
        The climatology, with a first dimension ``"group"`` of months (1 to 12), of days (as
        month times 100 plus day) or of length 1.
    std_ : DataArray or Dataset
        The standard deviations, only with `standardize`.
    slope_ : DataArray or Dataset
        The trend in units of the data per decade, only with `detrend`.

    See Also
    --------
    sklrp.geo.GridVectorizer : Fields as samples of features, the next step.

    Notes
    -----
    Data in dask is reduced chunk by chunk in ``fit``, and stays lazy in ``transform`` and
    ``inverse_transform``. Missing values stay missing, and are left out of means.

    References
    ----------
    M. Landt-Hayen, P. Kröger, M. Claus, W. Rath, arXiv:2210.09958, caps anomalies at 5 K.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from sklrp.geo import AnomalyTransformer
    >>> time = np.arange("1980-01", "1982-01", dtype="datetime64[M]").astype("datetime64[ns]")
    >>> season = 10 * np.sin(np.arange(24) * np.pi / 6)
    >>> sst = xr.DataArray(season + (np.arange(24) >= 12), {"time": time}, name="sst")
    >>> anomaly = AnomalyTransformer().fit_transform(sst)
    >>> print(anomaly[[0, 6, 12, 18]].values)
    [-0.5 -0.5  0.5  0.5]
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "climatology": [StrOptions({"month", "dayofyear"}), None],
        "reference": "no_validation",  # type: ignore[dict-item]
        "detrend": ["boolean"],
        "standardize": ["boolean"],
        "cap": [Interval(Real, 0, None, closed="neither"), None],
    }

    @named
    def __init__(
        self,
        *,
        climatology: str | None = "month",
        reference: tuple[Any, Any] | None = None,
        detrend: bool = False,
        standardize: bool = False,
        cap: float | None = None,
    ) -> None:
        self.climatology = climatology
        self.reference = reference
        self.detrend = detrend
        self.standardize = standardize
        self.cap = cap

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: DataArray | Dataset, y: Any = None) -> AnomalyTransformer:
        """Learn the climatology and, if asked for, the trend and the standard deviations.

        Parameters
        ----------
        X : DataArray or Dataset
            Fields over a time of dates, NaN where missing. Each variable of a Dataset for itself.
        y : None
            Ignored; present for pipelines.

        Returns
        -------
        self : AnomalyTransformer
            The fitted transformer.

        Raises
        ------
        TypeError
            If X is no DataArray or Dataset.
        ValueError
            If X has no time or one without a calendar, or no sample in the reference period; if
            a value is infinite.
        """
        xr = import_optional("xarray", extra="geo", user="sklrp.geo")

        check_field(X, "AnomalyTransformer", "X")
        check_same_samples(y, X, "y")
        time = find_dates(X)
        _check_over_time(X, time)
        X = without_sentinels(even_chunks(X))
        if not X.sizes[time]:
            raise ValueError(f"X has no samples along {time!r}: give at least one.")
        reference = find_period(X, time, self.reference, "reference")
        codes = self._encode_times(X[time])
        groups = np.unique(codes[reference])
        if self.standardize:
            self._check_counts(codes[reference])
        if self.detrend and np.unique(codes, return_counts=True)[1].max() < 2:
            raise ValueError(
                f"detrend=True needs at least 2 samples of some {self.climatology or 'field'}, "
                f"but each of the {len(codes)} is of another: a trend cannot be told from the "
                "climatology. Give more years, or a coarser climatology."
            )
        origin = X[time].values[reference[0]]
        days = _count_days(X[time], origin)
        middle = days[reference].mean()
        slope = None
        if self.detrend:
            decades = (days - middle) / _DAYS_PER_DECADE
            (slope,) = _compute(_fit_slope(X, time, codes, decades))
            X = xr.apply_ufunc(  # not a product of all times and cells, where X is in dask
                lambda x, slope, decades: x - slope * decades,
                X,
                slope,
                xr.Variable(time, decades),
                dask="parallelized",
                output_dtypes=[np.float64],
                keep_attrs=True,
            )
        part, codes = X.isel({time: reference}), codes[reference]
        mean, *std = _compute(*_fit_moments(part, time, codes, self.standardize))

        self.time_ = time
        self.groups_ = groups
        self.mean_ = mean
        for name in ("std_", "slope_"):
            self.__dict__.pop(name, None)
        if std:
            self.std_ = std[0].where(std[0] > 1e-10 * abs(mean), 1.0)  # but for rounding
        if slope is not None:
            self.slope_ = slope
        self._middle = origin, middle
        self._calendar = X[time].dt.calendar
        self._template = make_template(X, time)
        return self

    def transform(self, X: DataArray | Dataset) -> Any:
        """Return the anomalies.

        Parameters
        ----------
        X : DataArray or Dataset
            Fields on the grid of those in ``fit``, at any times.

        Returns
        -------
        DataArray or Dataset
            The anomalies in the form, the floating dtype and, but for the units of standardised
            ones ("1"), with the attributes of X.

        Raises
        ------
        TypeError
            If X is no DataArray or Dataset.
        ValueError
            If its grid or calendar differs from that in ``fit``, or a month or day was not in the
            reference period.
        """
        result = self._apply(partial(_remove, cap=self.cap), X)
        warn_of_other_fields(self._template, X)
        if self.standardize:
            for field in _variables(result):
                field.attrs["units"] = "1"
        return result

    def inverse_transform(self, X: DataArray | Dataset) -> Any:
        """Return the fields that have these anomalies; what `cap` took is lost.

        Parameters
        ----------
        X : DataArray or Dataset
            Anomalies, as ``transform`` returns them.

        Returns
        -------
        DataArray or Dataset
            The fields, with the attributes that they had in ``fit``.

        Raises
        ------
        TypeError
            If X is no DataArray or Dataset.
        ValueError
            See ``transform``.
        """
        result = self._apply(_restore, X)
        for field in _variables(result):  # those of a Dataset may come in another order
            known = self._template[field.name] if is_dataset(result) else self._template
            field.attrs = dict(known.attrs)
        return result

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Return the names of the variables, for pipelines.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Ignored: the fields in ``fit`` give the names.

        Returns
        -------
        ndarray of shape (n_variables,)
            The names of the variables of a Dataset, or the name of the DataArray.
        """
        check_is_fitted(self)
        names = [str(field.name or "x") for field in _variables(self._template)]
        return np.array(names, dtype=object)

    def set_output(self, *, transform: str | None = None) -> AnomalyTransformer:
        """Accept what a pipeline asks of all its steps: fields stay fields.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"} or None, default=None
            Ignored.

        Returns
        -------
        self : AnomalyTransformer
            The transformer itself.
        """
        return self

    def _apply(self, function: Callable[..., NDArray], X: DataArray | Dataset) -> Any:
        """Apply a function of a field and what was fitted, chunk by chunk if X is in dask."""
        xr = import_optional("xarray", extra="geo", user="sklrp.geo")

        check_is_fitted(self)
        check_field(X, "AnomalyTransformer", "X")
        check_numbers(X, "X")
        X = without_sentinels(X)
        time = find_dates(X)
        if time != self.time_:
            raise ValueError(f"time was {self.time_!r} in fit, got {say_value(time)}: rename it.")
        check_grid(self._template, X, time)
        self._check_calendar(X[time])
        codes = self._encode_times(X[time])
        unknown = np.setdiff1d(codes, self.groups_)
        if unknown.size:
            raise ValueError(
                f"the {self.climatology} {unknown[0]} was not in the reference period, which has "
                f"{self.groups_.tolist()}: there is no climatology for it. Fit on whole years, or "
                "take climatology=None."
            )
        of_time = X[time].variable
        position = xr.Variable(of_time.dims, np.searchsorted(self.groups_, codes))
        origin, middle = self._middle
        decades = np.zeros(len(codes))
        slope = xr.zeros_like(self.mean_.isel({_GROUP: 0}, drop=True))
        if self.detrend:
            decades = (_count_days(X[time], origin) - middle) / _DAYS_PER_DECADE
            slope = self.slope_
        result = xr.apply_ufunc(
            function,
            X.transpose(time, ...),
            position,
            xr.Variable(of_time.dims, decades),
            self.mean_,
            self.std_ if self.standardize else xr.ones_like(self.mean_),
            slope,
            input_core_dims=[[], [], [], [_GROUP], [_GROUP], []],
            join="override",
            keep_attrs=True,
            dask="parallelized",
            output_dtypes=[np.float64],
        )

        def finish(found: Any, given: Any) -> Any:
            dtype = given.dtype if given.dtype.kind == "f" else np.float64
            return found.transpose(*given.dims).astype(dtype, copy=False)

        if is_dataset(X):
            return result.map(lambda found: finish(found, X[found.name]), keep_attrs=True)
        return finish(result, X)

    def _check_calendar(self, time: DataArray) -> None:
        """Raise an error unless times are in the calendar of those in fit."""
        known, given = self._calendar, time.dt.calendar
        if known != given and not {known, given} <= _STANDARD:
            raise ValueError(
                f"the calendar of {time.name!r} was {known!r} in fit, "
                f"got {say_value(given)}: convert it, "
                f"data.convert_calendar({known!r}), or fit anew."
            )

    def _encode_times(self, time: DataArray) -> NDArray[np.int64]:
        """Return the month (1 to 12) or the day (month times 100 plus day) of each time."""
        if self.climatology is None:
            return np.zeros(time.size, dtype=np.int64)
        month = time.dt.month.values.astype(np.int64)
        if self.climatology == "month":
            return month
        codes = 100 * month + time.dt.day.values
        return np.where((codes == 229) & (time.dt.calendar != "360_day"), 228, codes)

    def _check_counts(self, codes: NDArray[np.int64]) -> None:
        """Raise an error if a group has a single sample, which has no deviation."""
        groups, counts = np.unique(codes, return_counts=True)
        if counts.min() < 2:
            raise ValueError(
                f"standardize=True needs at least 2 samples of each {self.climatology or 'field'} "
                f"in the reference period, got 1 of {groups[counts.argmin()]}: give a longer "
                "period, or a coarser climatology."
            )


def _remove(
    x: NDArray,
    position: NDArray,
    decades: NDArray,
    mean: NDArray,
    std: NDArray,
    slope: NDArray,
    cap: float | None,
) -> NDArray:
    """Return anomalies of fields with time first; groups are last in `mean` and `std`."""
    position = position.ravel()
    anomalies = x - np.moveaxis(mean, -1, 0)[position]
    anomalies -= slope * decades
    anomalies /= np.moveaxis(std, -1, 0)[position]
    return anomalies if cap is None else np.clip(anomalies, -cap, cap, out=anomalies)


def _restore(
    x: NDArray,
    position: NDArray,
    decades: NDArray,
    mean: NDArray,
    std: NDArray,
    slope: NDArray,
) -> NDArray:
    """Return the fields of anomalies with time first."""
    position = position.ravel()
    fields = x * np.moveaxis(std, -1, 0)[position]
    fields += np.moveaxis(mean, -1, 0)[position]
    fields += slope * decades
    return fields


def _check_over_time(X: DataArray | Dataset, time: str) -> None:
    """Raise an error unless all variables are numbers over time."""
    fields = _variables(X)
    usable = [f.name for f in fields if time in f.dims and f.dtype.kind in "fiub"]
    for field in fields:
        if time not in field.dims or field.dtype.kind not in "fiub":
            raise ValueError(
                f"the variable {field.name!r} must hold numbers over {time!r}, but has the "
                f"dimensions {field.dims} and dtype {field.dtype}: "
                + (f"select those that do, data[{usable}]." if usable else "none of them does.")
            )


def _variables(data: DataArray | Dataset) -> list[DataArray]:
    """Return the variables of a Dataset, or the DataArray itself."""
    fields: Any = data.data_vars.values() if is_dataset(data) else [data]
    return list(fields)


def _count_days(time: DataArray, origin: Any) -> NDArray[np.float64]:
    """Return the days since a date, in the calendar of both."""
    values = time.values
    try:
        if np.issubdtype(values.dtype, np.datetime64):
            return (values - origin) / np.timedelta64(1, "D")
        return np.array([(date - origin).total_seconds() / 86400 for date in values])
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the calendar of {time.name!r}, {time.dt.calendar!r}, is not that of fit: convert "
            f"it, data.convert_calendar(...). ({error})"
        ) from error


def _fit_moments(X: Any, time: str, codes: NDArray[np.int64], spread: bool) -> list[Any]:
    """Return the mean and, if asked for, the standard deviation of each group of times."""
    near, sums = _sum_groups(X, time, codes, np.zeros(len(codes)), ("n", "x", "xx")[: 2 + spread])
    count = sums["n"].where(sums["n"] > 0)
    mean = sums["x"] / count
    fitted = [near + mean]
    if spread:
        fitted.append((sums["xx"] / count - mean**2).clip(min=0) ** 0.5)
    groups = np.unique(codes)
    return [f.transpose(_GROUP, ...).assign_coords({_GROUP: groups}) for f in fitted]


def _fit_slope(X: Any, time: str, codes: NDArray[np.int64], decades: NDArray[np.float64]) -> Any:
    """Return the least-squares slope per decade, with a mean of its own for each group."""
    # Equal to a regression on the groups' indicators and time (Frisch, Waugh and Lovell).
    t = decades.copy()
    for group in np.unique(codes):
        t[codes == group] -= t[codes == group].mean()
    _, sums = _sum_groups(X, time, codes, t, ("n", "x", "t", "tt", "tx"))
    mean = sums["t"] / sums["n"].where(sums["n"] > 0, 1)
    products = (sums["tx"] - mean * sums["x"]).sum(_GROUP)
    squares = (sums["tt"] - mean * sums["t"]).sum(_GROUP)
    return products / squares.where(squares > 1e-12)


def _sum_groups(
    X: Any, time: str, codes: NDArray[np.int64], t: NDArray[np.float64], terms: tuple[str, ...]
) -> tuple[Any, dict[str, Any]]:
    """Return a sample, and sums over each group of departures from it, chunk by chunk."""
    xr = import_optional("xarray", extra="geo", user="sklrp.geo")

    # Departures x from a sample of the cell, as squares of kelvins would cancel.
    near = X.isel({time: 0}, drop=True).fillna(0).astype(np.float64).compute()
    groups, positions = np.unique(codes, return_inverse=True)
    lengths = X.chunksizes[time] if X.chunks else (X.sizes[time],)
    ends = np.cumsum(lengths)
    total: Any = 0.0
    for end, length in zip(ends, lengths, strict=True):
        at = slice(end - length, end)
        total = total + xr.apply_ufunc(
            partial(_sum_chunk, n_groups=len(groups), terms=terms),
            X.isel({time: at}),
            near,
            xr.Variable(time, positions[at]),
            xr.Variable(time, t[at]),
            input_core_dims=[[time], [], [time], [time]],
            output_core_dims=[[_GROUP, "term"]],
            dask="parallelized",
            output_dtypes=[np.float64],
            dask_gufunc_kwargs={"output_sizes": {_GROUP: len(groups), "term": len(terms)}},
        )
    return near, {name: total.isel(term=i) for i, name in enumerate(terms)}


def _sum_chunk(
    x: NDArray,
    near: NDArray,
    positions: NDArray[np.intp],
    t: NDArray[np.float64],
    *,
    n_groups: int,
    terms: tuple[str, ...],
) -> NDArray[np.float64]:
    """Return sums of terms such as "tx" over the times of each group; time is last in x."""
    sums = np.zeros((*x.shape[:-1], n_groups, len(terms)))
    for group in np.unique(positions):
        at = positions == group
        departures = x[..., at] - near[..., None]
        valid = ~np.isnan(departures)
        factors = {"n": valid, "x": np.where(valid, departures, 0.0), "t": t[at] * valid}
        for i, term in enumerate(terms):
            product = factors[term[0]]
            if len(term) == 2:
                product = product * factors[term[1]]
            sums[..., group, i] = product.sum(axis=-1)
    return sums


def _compute(*fields: Any) -> tuple[Any, ...]:
    """Return fields in memory; those in dask are computed at once, in one pass over the data."""
    if not any(field.chunks for field in fields):
        return fields
    import dask

    return dask.compute(*fields)
