"""El Niño and La Niña in a file of sea-surface temperature that the user has.

`load_enso` reads it; index and labels are computed as for `load_pacific_sst`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import Bunch

from sklrp._checks import import_optional
from sklrp._constraints import Interval, constrained
from sklrp._files import check_regular
from sklrp._missing import as_plain_array
from sklrp._sklearn import StrOptions
from sklrp._wording import say_value
from sklrp.datasets.nino34 import NINO34_LAT, NINO34_LON, label_index, nino34_mask
from sklrp.geo.anomalies import AnomalyTransformer
from sklrp.geo.areas import box_mean, select_box
from sklrp.geo.coordinates import (
    check_numbers,
    find_coordinate,
    find_dates,
    find_period,
    is_dataset,
    is_field,
)
from sklrp.geo.fill_values import mask_impossible

_NAMES = ("sst", "analysed_sst", "tos", "sea_surface_temperature", "surface_temperature", "ts")
_STANDARD_NAMES = ("sea_surface_temperature", "sea_surface_temperature_anomaly")
_DESCR = """\
El Niño and La Niña in {source}
{line}
{n_samples} fields of {variable!r}, {first} to {last}, on a grid of {n_lat} latitudes by {n_lon}
longitudes; {n_land} of its cells are missing in every field. What no temperature can be, such as
HadISST's -1000 for ice, counts as missing.

Fields are anomalies from the mean of their calendar month over {period}{capped}. The index is the
mean over the Niño 3.4 box (5 S-5 N, 170 W-120 W), weighted by the cosine of latitude, minus the
mean of its calendar month over the same period{normalized}. Fields with an index above {threshold}
are labelled "El Niño", those below -{threshold} "La Niña"{rest}.

The label is a function of the cells in the box, so that the task is no evidence of skill. The
climatology is taken over the base period, whatever part of it is later held out; to learn it
within the training fold, put a sklrp.geo.AnomalyTransformer before the classifier and give it
`sst`.
"""


@constrained(
    {
        "path": "no_validation",  # a field, a file, or several
        "variable": [str, None],
        "region": [Mapping, None],
        "threshold": [Interval(Real, 0, None, closed="left")],
        "normalize": ["boolean"],
        "cap": [Interval(Real, 0, None, closed="neither"), None],
        "months": ["array-like", None],
        "neutral": ["boolean"],
        "chunks": [
            Mapping,
            Interval(Integral, -1, None, closed="left"),
            StrOptions({"auto"}),
            None,
        ],
    }
)
def load_enso(
    path: Any,
    *,
    variable: str | None = None,
    region: Mapping[str, tuple[float, float]] | None = None,
    base_period: tuple[Any, Any] | None = ("1980", "2009"),
    threshold: float = 0.5,
    normalize: bool = True,
    cap: float | None = 5.0,
    months: Sequence[int] | None = None,
    neutral: bool = False,
    chunks: Any = None,
) -> Bunch:
    """Load anomalies of sea-surface temperature from a file, labelled El Niño or La Niña.

    For files such as ``sst.mnmean.nc`` of ERSST v5, which this package does not download: time,
    latitude and longitude are found by their CF attributes or common names, longitudes may be in
    either convention and latitudes in either order, and a dimension of length 1, such as a level,
    is dropped. What no temperature on Earth can be, such as HadISST's -1000 for ice or a fill
    value, is missing. Index and labels follow [1]_.

    Parameters
    ----------
    path : str, Path or Dataset
        A NetCDF file or a zarr store, or a Dataset that is open already, such as one from
        ``xarray.open_mfdataset``.
    variable : str or None, default=None
        Name of the temperature. None (default) finds it by its standard name or a common name
        such as ``"sst"``, or takes the only variable over time, latitude and longitude.
    region : dict or None, default=None
        A box to cut the fields to, such as ``{"lat": (-30, 30), "lon": (120, 290)}``, see
        :func:`sklrp.geo.select_box`. None (default) leaves them whole. The index is taken before.
    base_period : (date, date) or None, default=("1980", "2009")
        First and last date of the period whose monthly means are subtracted, both included. None
        is all of the file.
    threshold : float, default=0.5
        Beyond which index a field is an event: in standard deviations or, with
        ``normalize=False``, in K.
    normalize : bool, default=True
        Whether to divide the index by its standard deviation over the base period.
    cap : float or None, default=5.0
        Largest absolute anomaly in K, so that outliers such as those at the edge of sea ice do
        not attract the relevance; [1]_ then divides by it. None: no cap. The index is not
        capped.
    months : sequence of int or None, default=None
        Calendar months to keep, such as ``[11, 12, 1, 2]``. None (default) keeps all.
    neutral : bool, default=False
        Whether to keep the fields between, as a class of their own.
    chunks : dict, int, "auto" or None, default=None
        How to read the file in chunks by dask, as for ``xarray.open_dataset``: the fields stay
        lazy, only the index is computed. None loads them.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like, with the attributes

        data : DataArray of shape (n_samples, n_latitudes, n_longitudes)
            The anomalies in K on the grid of the file, NaN where missing, in order of time.
        sst : DataArray of shape (n_samples, n_latitudes, n_longitudes)
            The temperature itself, of the same samples.
        target : ndarray of shape (n_samples,)
            The classes as integers, in ascending order of the index.
        target_names : ndarray of shape (n_classes,)
            ``"La Niña"``, ``"neutral"`` if asked for, and ``"El Niño"``.
        index : DataArray of shape (n_samples,)
            The Niño 3.4 index.
        latitude, longitude : ndarray of shape (n_latitudes,) and (n_longitudes,)
            The cells' centres in degrees, in the order and convention of the file.
        land_mask : ndarray of shape (n_latitudes, n_longitudes), dtype=bool
            True where every field of the file is missing.
        nino34_mask : ndarray of shape (n_latitudes, n_longitudes), dtype=bool
            True in the Niño 3.4 box.
        DESCR : str
            Description of the data.
        filename : str or None
            Path of the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If xarray, or what it needs to read the file, is not installed.
    ValueError
        If the file is neither NetCDF nor zarr; its variable, time, latitude or longitude is
        missing or ambiguous; its time has no calendar, or a date twice; the base period or the
        Niño 3.4 box has no data; or a parameter is malformed.

    References
    ----------
    .. [1] M. Landt-Hayen, P. Kröger, M. Claus, W. Rath, "Layer-wise relevance propagation for
       echo state networks applied to Earth system variability", arXiv:2210.09958, 2022.

    Examples
    --------
    >>> from sklrp.datasets import load_enso
    >>> sst = load_enso("sst.mnmean.nc")  # doctest: +SKIP
    >>> X, y = sst.data, sst.target_names[sst.target]  # doctest: +SKIP
    """
    source, name, field = _read(path, variable, chunks)
    time, lat, lon = field.dims
    index = _compute_index(name, field, base_period, normalize)
    if region is not None:
        if not set(region) <= {"lat", "lon"}:
            raise ValueError(
                f"region must have the keys 'lat' and 'lon', got {sorted(map(str, region))}."
            )
        field = select_box(field, **region)
    anomalies = AnomalyTransformer(reference=base_period, cap=cap).fit_transform(field)
    anomalies = anomalies.assign_attrs(long_name=f"anomaly of {name}", units="K")
    anomalies.attrs.pop("standard_name", None)
    land = field.isnull().all(time).compute().values

    at = _find_months(field[time], months)
    target, target_names, keep = label_index(index.values[at], threshold, neutral)
    at = at[keep]
    if not at.size:
        raise ValueError(
            f"no field is left: the index lies within ±{threshold:g} in all of them (months="
            f"{months!r}). Lower threshold, or set neutral=True."
        )
    latitude, longitude = field[lat].values, field[lon].values
    params: dict[str, Any] = {
        "base_period": base_period,
        "threshold": threshold,
        "normalize": normalize,
    }
    return Bunch(
        data=anomalies.isel({time: at}),
        sst=field.isel({time: at}),
        target=target,
        target_names=target_names,
        index=index.isel({time: at}),
        latitude=latitude,
        longitude=longitude,
        land_mask=land,
        nino34_mask=nino34_mask(latitude, longitude),
        DESCR=_describe_fields(
            source, name, field.isel({time: at}), land, cap=cap, neutral=neutral, **params
        ),
        filename=source,
    )


def _read(path: Any, variable: str | None, chunks: Any) -> tuple[str | None, str, Any]:
    """Return the path as text, the name of the temperature and its field, in memory or lazy."""
    source, dataset = _open_dataset(path, chunks)
    closes = chunks is None and not is_field(path)  # what this function has opened, in memory
    try:
        name, field = _find_variable(dataset, variable)
        check_numbers(field, repr(name))
        field = _arrange(name, field)
        if closes:
            field = field.load()
        field = mask_impossible(field, name)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{name!r} of {str(path)!r} cannot be read: {error}") from error
    finally:
        if closes:
            dataset.close()
    return source, name, field


def _compute_index(name: str, field: Any, base_period: Any, normalize: bool) -> Any:
    """Return the Niño 3.4 index of fields, minus its monthly means over the base period."""
    time = field.dims[0]
    base = find_period(field, time, base_period, "base_period")
    nino34 = box_mean(field, lat=NINO34_LAT, lon=NINO34_LON).compute()
    if nino34.isnull().any():
        raise ValueError(
            f"{name!r} has no value in the Niño 3.4 box at "
            f"{nino34[time].values[np.flatnonzero(nino34.isnull())[0]]} (and "
            f"{int(nino34.isnull().sum()) - 1} other times): leave these times out, or look at "
            "how the file marks missing values."
        )
    climatology = AnomalyTransformer(reference=base_period)
    index = climatology.fit(nino34).transform(nino34)
    if normalize:
        spread = float(index[base].std())
        if not spread > 0:
            raise ValueError(
                f"the index does not vary over base_period={base_period!r}, so that it cannot be "
                "normalised: take a longer period, or normalize=False."
            )
        index = index / spread
    return index.rename("nino34").assign_attrs(
        long_name="Niño 3.4 index", units="1" if normalize else "K"
    )


def _describe_fields(
    source: str | None,
    name: str,
    field: Any,
    land: np.ndarray,
    *,
    base_period: Any,
    threshold: float,
    normalize: bool,
    cap: float | None,
    neutral: bool,
) -> str:
    """Return the description of the data."""
    times = field[field.dims[0]].values
    title = f"El Niño and La Niña in {source or 'a dataset'}"
    return _DESCR.format(
        source=source or "a dataset",
        line="-" * len(title),
        n_samples=len(times),
        variable=name,
        first=str(times[0])[:10],
        last=str(times[-1])[:10],
        n_lat=land.shape[0],
        n_lon=land.shape[1],
        n_land=np.count_nonzero(land),
        period="all years" if base_period is None else "{} to {}".format(*base_period),
        capped="" if cap is None else f", set to ±{cap:g} K beyond",
        normalized=", divided by its standard deviation there" if normalize else "",
        threshold=f"{threshold:g}",
        rest=', those between "neutral"' if neutral else "; those between are left out",
    )


def _open_dataset(path: Any, chunks: Any) -> tuple[str | None, Any]:
    """Return the path as text and the dataset."""
    if is_field(path):
        return None, path if is_dataset(path) else path.to_dataset(name=path.name or "sst")
    xr = import_optional("xarray", extra="geo", user="load_enso")
    if not isinstance(path, (str, Path)):
        raise TypeError(f"path must be a str, a Path or a Dataset, got {type(path).__name__}.")
    if "://" in str(path):
        raise ValueError(
            f"path must be a file, got the address {path!r}: open it, "
            "load_enso(xarray.open_dataset(...)), or download it first."
        )
    if not str(path).strip():
        raise ValueError(f"path must name a file, got {say_value(path)}.")
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"there is no file {str(path)!r}. ERSST v5 is the file sst.mnmean.nc of NOAA's "
            "Physical Sciences Laboratory; download it first."
        )
    check_regular(path)
    try:
        store: Any = {"engine": "zarr", "consolidated": False} if path.is_dir() else {}
        return str(path), xr.open_dataset(path, chunks=chunks, **store)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{str(path)!r} cannot be read as a NetCDF file or zarr store: {error}"
        ) from error


def _find_variable(dataset: Any, variable: str | None) -> tuple[str, Any]:
    """Return the name of the temperature and its field, without dimensions of length 1."""
    if variable is not None:
        if variable not in dataset.data_vars:
            raise ValueError(
                f"variable={variable!r} is not in the file, which has {list(dataset.data_vars)}."
            )
        return variable, dataset[variable]
    fields = {str(name): f for name, f in dataset.data_vars.items() if f.ndim >= 3}
    for found in (
        *(
            [n for n, field in fields.items() if field.attrs.get("standard_name") == standard_name]
            for standard_name in _STANDARD_NAMES
        ),
        [name for name in fields if name.lower() in _NAMES],
        list(fields),
    ):
        if len(found) == 1:
            return found[0], fields[found[0]]
        if found:
            raise ValueError(f"several variables may be the temperature: set variable to {found}.")
    raise ValueError(
        f"the file has no field over time, latitude and longitude; it has "
        f"{ {str(name): f.dims for name, f in dataset.data_vars.items()} }."
    )


def _arrange(name: str, field: Any) -> Any:
    """Return a field in order of time, over time, latitude and longitude alone."""
    dims = (
        find_dates(field),
        find_coordinate(field, "latitude"),
        find_coordinate(field, "longitude"),
    )
    others = [dim for dim in field.dims if dim not in dims]
    long = {dim: field.sizes[dim] for dim in others if field.sizes[dim] > 1}
    if long:
        raise ValueError(
            f"ambiguous dimension: {name!r} has {long} beside {dims}: select a position first, "
            f"load_enso(xarray.open_dataset(path).isel({next(iter(long))}=0))."
        )
    field = field.isel(dict.fromkeys(others, 0), drop=True)
    field = field.transpose(*dims).sortby(dims[0])
    doubled = np.flatnonzero(field.indexes[dims[0]].duplicated())
    if doubled.size:
        first = field[dims[0]].values[doubled[0]]
        raise ValueError(
            f"{name!r} has {doubled.size} times more than once, the first {first}: drop one of "
            f"each, load_enso(dataset.drop_duplicates({dims[0]!r})), or average them, "
            f"dataset.groupby({dims[0]!r}).mean()."
        )
    return field


def _find_months(time: Any, months: Sequence[int] | None) -> np.ndarray:
    """Return the positions of the times in these calendar months."""
    if months is None:
        return np.arange(time.size)
    chosen = as_plain_array(months, "months")
    if (
        chosen.dtype.kind not in "iu"
        or chosen.ndim != 1
        or not chosen.size
        or not np.isin(chosen, np.arange(1, 13)).all()
    ):
        raise ValueError(
            f"months must be numbers of calendar months, 1 to 12, got {say_value(months)}."
        )
    return np.flatnonzero(np.isin(time.dt.month.values, chosen))
