"""Boxes of latitude and longitude, weights of area, and means and sums over them.

`sklrp.geo` makes these functions public; the data sets take their index and their box here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklrp._checks import check_option, import_optional
from sklrp._coordinate_marks import find_kind
from sklrp._keywords import named
from sklrp._missing import as_plain_array
from sklrp._wording import say_value
from sklrp.geo.coordinates import (
    check_field,
    check_numbers,
    find_coordinate,
    full_turn,
    in_degrees,
    is_dataset,
    is_field,
    is_marked,
)

if TYPE_CHECKING:
    from xarray import DataArray, Dataset

_TOLERANCE = 1e-4  # degrees: the last digit of a longitude in float32 is 3e-5


@named
def cosine_weights(lat: Any) -> Any:
    r"""Return weights proportional to the area of cells on a regular grid.

    .. math:: w = \cos \varphi

    Cells of one size in degrees shrink towards the poles: means over an area of a field (a
    temperature, a mean relevance map) want these weights. The relevance of a cell is a share of
    the score and thus already a sum over the cell: its sums want none.

    Parameters
    ----------
    lat : array-like, DataArray or Dataset
        Latitudes in degrees, of any shape; or a field, whose latitude coordinate is taken.

    Returns
    -------
    ndarray or DataArray
        The weights in [0, 1], without unit, of the shape and coordinates of the latitudes.

    Raises
    ------
    ValueError
        If a latitude lies beyond ±90 degrees, or a field has none; or if three or more latitudes
        without units look like radians or like the numbers of cells.

    Notes
    -----
    The metrics of :mod:`sklrp.metrics` take arrays and know of no areas. To let a cell count by
    its area, hand them on: ``relevance_mass(relevance, mask, weights=weights)``.

    Examples
    --------
    >>> from sklrp.geo import cosine_weights
    >>> print(cosine_weights([-60.0, 0.0, 90.0]))
    [0.5 1.  0. ]
    """
    if is_field(lat):
        degrees = lat
        if is_dataset(lat) or lat.ndim != 1 or lat.name not in lat.dims:
            degrees = lat[find_coordinate(lat, "latitude")]
        _check_plausible(degrees, None)
        weights = degrees.copy(data=_cosine(in_degrees(degrees, "latitude")))
        weights.attrs = {"long_name": "cosine of latitude", "units": "1"}
        return weights.rename("weights")
    if lat is None or isinstance(lat, bool | np.bool_ | str | complex):
        raise TypeError(
            f"lat must be latitudes in degrees, got {say_value(lat)}; data['lat'] has them."
        )
    values = as_plain_array(lat, "lat")
    if values.dtype.kind == "c":
        raise TypeError(f"lat must be real numbers, got an array of {values.dtype}.")
    values = as_plain_array(values, "lat", np.float64)
    _check_plain(np.ravel(values))
    return _cosine(values)


def _check_plain(latitude: NDArray[np.float64]) -> None:
    """Raise an error if an array, which has no units, looks like counts or radians."""
    if latitude.size < 3 or not np.isfinite(latitude).all():
        return
    if _are_radians([latitude]):
        looks, remedy = "radians", "np.degrees(lat)"
    elif _are_counts(latitude):
        looks, remedy = "the numbers of cells, 0, 1, 2, ...", "the latitudes of the cells"
    else:
        return
    raise ValueError(
        f"lat looks like {looks}, but must be in degrees: pass {remedy}. If these are degrees, "
        "say so by the units of a coordinate, "
        "xr.DataArray(lat, dims='lat', name='lat', attrs={'units': 'degrees_north'})."
    )


def _check_plausible(latitude: DataArray, longitude: DataArray | None) -> None:
    """Raise an error if coordinates cannot be degrees, or look like counts or radians.

    Those whose units or standard name say what they are are believed, within their limits.
    """
    named = [(latitude, "latitude", 90.0)]
    named += [] if longitude is None else [(longitude, "longitude", 720.0)]
    for coordinate, kind, limit in named:
        if find_kind(coordinate) not in (kind, None):
            raise ValueError(
                f"{coordinate.name!r} is the {find_kind(coordinate)}, but {kind}s are needed."
            )
        degrees = in_degrees(coordinate, kind).astype(np.float64)
        beyond = degrees[~(np.abs(degrees) <= limit + _TOLERANCE)]
        if beyond.size:
            raise ValueError(
                f"{kind}s must be in [-{limit:g}, {limit:g}] degrees, got {beyond[0]:g} in "
                f"{coordinate.name!r}: are they metres, or counts of cells? Give degrees, "
                f"data.assign_coords({coordinate.name}=...)."
            )
    if any(is_marked(coordinate) for coordinate, *_ in named):
        return
    found = [np.ravel(coordinate.values).astype(np.float64) for coordinate, *_ in named]
    if not all(map(len, found)):
        return
    if all(map(_are_counts, found)) and max(map(len, found)) > 2:
        what, unit = "the numbers of cells, 0, 1, 2, ...", "degrees_north"
    elif _are_radians(found):
        what, unit = "radians", "radians"
    else:
        return
    names = " and ".join(repr(coordinate.name) for coordinate, *_ in named)
    raise ValueError(
        f"{names} look like {what}, and no units say that they are degrees: give the cells' "
        f"degrees, data.assign_coords({latitude.name}=...), or say what they are by the "
        f"attribute units of {latitude.name!r}, such as {unit!r}."
    )


def _are_counts(values: NDArray[np.float64]) -> bool:
    """Tell whether values count cells from 0 or 1, up or down."""
    values = values if values[0] <= values[-1] else values[::-1]
    return values[0] in (0, 1) and np.array_equal(values, values[0] + np.arange(len(values)))


def _are_radians(found: list[NDArray[np.float64]]) -> bool:
    """Tell whether coordinates are within a turn in radians and look like degrees made radians."""
    largest = [np.abs(values).max() - 1e-6 for values in found]
    values = np.concatenate(found)
    if largest[0] > np.pi / 2 or largest[-1] > 2 * np.pi or _are_decimals(values):
        return False
    # Degrees are decimals of a few digits, and so are radians once they are degrees.
    if _are_decimals(np.degrees(values)):
        return True
    spans = [np.ptp(values) for values in found]
    return len(spans) == 2 and bool(spans[0] > np.pi / 2 and spans[1] > np.pi)


def _are_decimals(values: NDArray[np.float64]) -> bool:
    return bool(np.allclose(values, values.round(3), rtol=0, atol=1e-5))


def _cosine(degrees: NDArray) -> NDArray[np.float64]:
    degrees = np.asarray(degrees, dtype=np.float64)
    beyond = degrees[~(np.abs(degrees) <= 90 + _TOLERANCE)]
    if beyond.size:
        raise ValueError(
            f"lat: latitudes must be in [-90, 90] degrees, got {beyond[0]:g}: are they in other "
            "units, or is this the longitude?"
        )
    return np.where(np.abs(degrees) >= 90, 0.0, np.cos(np.radians(degrees)))


def in_latitudes(values: ArrayLike, bounds: tuple[float, float] | None) -> NDArray[np.bool_]:
    """Tell which latitudes lie within bounds, given in either order and included."""
    degrees = np.asarray(values, dtype=np.float64)
    if bounds is None:
        return np.ones(degrees.shape, dtype=bool)
    low, high = sorted(_check_bounds("lat", bounds))
    if low < -90 or high > 90:
        raise ValueError(f"lat must be two latitudes in [-90, 90], got {say_value(bounds)}.")
    return (degrees >= low - _TOLERANCE) & (degrees <= high + _TOLERANCE)


def in_longitudes(values: ArrayLike, bounds: tuple[float, float] | None) -> NDArray[np.bool_]:
    """Tell which longitudes lie eastward from the first bound to the second, both included."""
    degrees = np.asarray(values, dtype=np.float64)
    if bounds is None:
        return np.ones(degrees.shape, dtype=bool)
    west, east = _check_bounds("lon", bounds)
    if abs(east - west) >= 360:
        return np.ones(degrees.shape, dtype=bool)
    eastward = (degrees - west + _TOLERANCE) % 360
    return eastward <= (east - west) % 360 + 2 * _TOLERANCE


def _check_bounds(name: str, bounds: Any) -> tuple[float, float]:
    """Return two finite numbers, or raise an error."""
    try:
        low, high = (
            float(bound) for bound in bounds if not isinstance(bound, bool | str | complex)
        )
    except (TypeError, ValueError, OverflowError, RuntimeError):  # of a tensor without data
        low = high = np.nan
    if not np.isfinite([low, high]).all():
        raise ValueError(
            f"{name} must be None or two numbers in degrees, got {say_value(bounds)}."
        )
    return low, high


def _locate(
    data: DataArray | Dataset,
    lat: tuple[float, float] | None,
    lon: tuple[float, float] | None,
) -> dict[str, NDArray[np.intp]]:
    """Return the positions of a box along the dimensions of latitude and of longitude."""
    lat_dim, lon_dim = find_coordinate(data, "latitude"), find_coordinate(data, "longitude")
    _check_plausible(data[lat_dim], data[lon_dim])
    longitudes = in_degrees(data[lon_dim], "longitude").astype(np.float64)
    circle = np.sort(longitudes % 360)
    if np.isclose(np.diff(circle, append=circle[:1] + 360), 0, atol=_TOLERANCE).any():
        raise ValueError(
            f"{lon_dim!r} has the same meridian twice (a cyclic point, such as 0 and 360 "
            f"degrees), which would count double: drop it, data.isel({lon_dim}=slice(None, -1))."
        )
    positions = {
        lat_dim: np.flatnonzero(in_latitudes(in_degrees(data[lat_dim], "latitude"), lat)),
        lon_dim: np.flatnonzero(in_longitudes(longitudes, lon)),
    }
    for bounds, (dim, found) in zip((lat, lon), positions.items(), strict=True):
        if not found.size:
            values = data[dim].values
            raise ValueError(
                f"the box has no cell: no value of {dim!r} lies in {bounds!r}; they run from "
                f"{values.min():g} to {values.max():g}."
            )
    return positions


@named
def box_mask(
    data: DataArray | Dataset,
    *,
    lat: tuple[float, float] | None = None,
    lon: tuple[float, float] | None = None,
) -> DataArray:
    """Return which cells of a grid have their centre in a box.

    Parameters
    ----------
    data : DataArray or Dataset
        A field on the grid, with one-dimensional latitude and longitude, found by their CF
        attributes or names.
    lat : (float, float) or None, default=None
        The southern and northern edge in degrees, in either order. None: all latitudes.
    lon : (float, float) or None, default=None
        The western and eastern edge in degrees, in any convention: the box lies eastward of the
        first, so that ``(350, 10)`` and ``(-10, 10)`` are the same 20 degrees across the prime
        meridian, and ``(170, -170)`` crosses the date line. None: all longitudes.

    Returns
    -------
    DataArray
        True in the box, over the dimensions of latitude and longitude.

    Raises
    ------
    ValueError
        If no cell lies in the box, an edge is no number, or a coordinate is missing, ambiguous or
        holds a meridian twice.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from sklrp.geo import box_mask
    >>> grid = xr.DataArray(np.zeros((2, 4)), {"lat": [0, 45], "lon": [0, 90, 180, 270]})
    >>> print(box_mask(grid, lat=(-10, 10), lon=(-90, 0)).values)
    [[ True False False  True]
     [False False False False]]
    """
    xr = import_optional("xarray", extra="geo", user="sklrp.geo")

    check_field(data, "box_mask")
    positions = _locate(data, lat, lon)
    inside = np.zeros([data.sizes[dim] for dim in positions], dtype=bool)
    inside[np.ix_(*positions.values())] = True
    return xr.DataArray(inside, {dim: data[dim] for dim in positions}, list(positions))


@named
def select_box(
    data: DataArray | Dataset,
    *,
    lat: tuple[float, float] | None = None,
    lon: tuple[float, float] | None = None,
) -> Any:
    """Return the part of a field whose cells have their centre in a box.

    Parameters
    ----------
    data : DataArray or Dataset
        The field.
    lat, lon : (float, float) or None, default=None
        The edges, see :func:`box_mask`.

    Returns
    -------
    DataArray or Dataset
        The part. Latitudes stay in their order. Where the box crosses the seam of the grid,
        longitudes are put in order from the western edge eastward and go on beyond it: 355, 360,
        365.

    Raises
    ------
    ValueError
        See :func:`box_mask`.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from sklrp.geo import select_box
    >>> grid = xr.DataArray(np.zeros((2, 4)), {"lat": [0, 45], "lon": [0, 90, 180, 270]})
    >>> print(select_box(grid, lon=(-90, 0)).lon.values)
    [270 360]
    """
    check_field(data, "select_box")
    positions = _locate(data, lat, lon)
    lon_dim = list(positions)[1]
    part = data.isel(positions)
    # Unsigned ones have no differences.
    longitudes = in_degrees(part[lon_dim], "longitude").astype(np.float64)
    if lon is None or len(longitudes) == data.sizes[lon_dim]:
        return part
    eastward = (longitudes - lon[0] + _TOLERANCE) % 360
    order = np.argsort(eastward, kind="stable")
    if np.array_equal(order, np.arange(len(order))[::-1]) and (np.diff(longitudes) < 0).all():
        return part  # westward without a seam
    turns = np.cumsum(np.diff(longitudes[order], prepend=longitudes[order[0]]) < 0)
    part = part.isel({lon_dim: order})
    moved = (part[lon_dim].values + full_turn(part[lon_dim]) * turns).astype(part[lon_dim].dtype)
    return part.assign_coords({lon_dim: part[lon_dim].copy(data=moved)})


@named
def box_mean(
    data: DataArray | Dataset,
    *,
    lat: tuple[float, float] | None = None,
    lon: tuple[float, float] | None = None,
    mask: DataArray | None = None,
    weights: str | DataArray | None = "cosine",
) -> Any:
    r"""Return the mean over a box, by area.

    .. math:: \bar x = \sum_i w_i x_i \; / \; \sum_i w_i

    over the cells of the box that are not missing.

    Parameters
    ----------
    data : DataArray or Dataset
        The field; dask-backed data stays lazy.
    lat, lon : (float, float) or None, default=None
        The edges of the box, see :func:`box_mask`.
    mask : DataArray of bool or None, default=None
        The cells of the box that count, such as an ocean. None (default): all of them.
    weights : "cosine", DataArray or None, default="cosine"
        What a cell counts: ``"cosine"`` the cosine of its latitude; an array over (some of) the
        dimensions of the field, such as areas in square metres. None (default): 1 each.

    Returns
    -------
    DataArray or Dataset
        The mean over latitude and longitude, in the units of the data and with its attributes;
        NaN where all cells are missing.

    Raises
    ------
    ValueError
        See :func:`box_mask`.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from sklrp.geo import box_mean
    >>> sst = xr.DataArray([[3.0, 3.0], [0.0, 0.0]], {"lat": [0, 60], "lon": [190, 240]})
    >>> float(box_mean(sst, lat=(60, 0), lon=(-170, -120)))
    2.0
    """
    check_field(data, "box_mean")
    check_numbers(data)
    part, weight, dims = _weigh_box(data, lat, lon, mask, weights)
    return part.weighted(weight).mean(dims, keep_attrs=True)


@named
def box_sum(
    data: DataArray | Dataset,
    *,
    lat: tuple[float, float] | None = None,
    lon: tuple[float, float] | None = None,
    mask: DataArray | None = None,
    weights: str | DataArray | None = None,
) -> Any:
    r"""Return the sum over a box, such as what a region contributes to the explained score.

    .. math:: s = \sum_i w_i x_i

    over the cells of the box that are not missing. Unlike in :func:`box_mean`, cells count 1 each
    unless told otherwise: the relevance of a cell is a share of the score, whatever its area, so
    that the sums of boxes which cover the grid add up to the sum of the map.

    Parameters
    ----------
    data : DataArray or Dataset
        The field; dask-backed data stays lazy.
    lat, lon : (float, float) or None, default=None
        The edges of the box, see :func:`box_mask`.
    mask : DataArray of bool or None, default=None
        The cells of the box that count. None (default): all of them.
    weights : "cosine", DataArray or None, default=None
        What a cell counts, see :func:`box_mean`.

    Returns
    -------
    DataArray or Dataset
        The sum over latitude and longitude, in the units of the data times those of the weights
        and with the attributes of the data; NaN where all cells are missing.

    Raises
    ------
    ValueError
        See :func:`box_mask`.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from sklrp.geo import box_sum
    >>> relevance = xr.DataArray([[3.0, np.nan], [1.0, 2.0]], {"lat": [0, 60], "lon": [190, 240]})
    >>> float(box_sum(relevance)), float(box_sum(relevance, weights="cosine"))
    (6.0, 4.5)
    """
    xr = import_optional("xarray", extra="geo", user="sklrp.geo")

    check_field(data, "box_sum")
    check_numbers(data)
    part, weight, dims = _weigh_box(data, lat, lon, mask, weights)
    with xr.set_options(keep_attrs=True):
        return (part * weight).sum(dims, min_count=1)


@named
def box_share(
    relevance: DataArray | Dataset,
    *,
    lat: tuple[float, float] | None = None,
    lon: tuple[float, float] | None = None,
    mask: DataArray | None = None,
    part: str = "positive",
    weights: str | DataArray | None = None,
) -> Any:
    r"""Return the share of each map's relevance that lies in a box.

    .. math:: M = \sum_{i \in box} w_i R_i^+ \; / \; \sum_i w_i R_i^+

    :func:`sklrp.metrics.relevance_mass` for boxes. A uniform map has the share of the valid cells
    that lie in the box: compare with it.

    Parameters
    ----------
    relevance : DataArray or Dataset
        The maps; dask-backed ones stay lazy.
    lat, lon : (float, float) or None, default=None
        The edges of the box, see :func:`box_mask`.
    mask : DataArray of bool or None, default=None
        The cells of the box that count. None (default): all of them. All cells count in the
        divisor.
    part : {"positive", "absolute", "signed"}, default="positive"
        Which relevance counts: ``"positive"`` the evidence for the class; ``"absolute"`` all of
        it; ``"signed"`` the net relevance in the box as a share of all, sum R / sum abs(R).
    weights : "cosine", DataArray or None, default=None
        What a cell counts, see :func:`box_mean`.

    Returns
    -------
    DataArray or Dataset
        The share, without unit: in [0, 1], signed in [-1, 1]; 0 for a map that has no relevance of
        this part at all, NaN for one that is missing everywhere.

    Raises
    ------
    ValueError
        If `part` is unknown; and see :func:`box_mask`.

    Examples
    --------
    >>> import xarray as xr
    >>> from sklrp.geo import box_share
    >>> relevance = xr.DataArray([[3.0, -1.0], [1.0, 0.0]], {"lat": [0, 60], "lon": [190, 240]})
    >>> [float(box_share(relevance, lat=(-5, 5), part=p)) for p in ("positive", "signed")]
    [0.75, 0.4]
    """
    check_field(relevance, "box_share", "relevance")
    check_numbers(relevance, "relevance")
    check_option("part", part, ("positive", "absolute", "signed"))
    counted: Any = relevance.clip(min=0) if part == "positive" else abs(relevance)
    total = box_sum(counted, weights=weights)
    inside = relevance if part == "signed" else counted
    inside = box_sum(inside, lat=lat, lon=lon, mask=mask, weights=weights)
    share = (inside.fillna(0.0) / total.where(total > 0, 1.0)).where(total.notnull())
    for field in share.data_vars.values() if is_dataset(share) else [share]:
        field.attrs = {"long_name": f"share of the {part} relevance", "units": "1"}
    return share


@named
def pattern_correlation(
    one: DataArray, other: DataArray, *, weights: str | DataArray | None = "cosine"
) -> DataArray:
    r"""Return the centred correlation of two fields over their cells, weighted by area.

    .. math:: r = \frac{\sum_i w_i (a_i - \bar a)(b_i - \bar b)}
              {\sqrt{\sum_i w_i (a_i - \bar a)^2 \sum_i w_i (b_i - \bar b)^2}}

    Use it to ask whether two seeds, rules or architectures point at the same places. Cells that
    are missing in either field are left out.

    Parameters
    ----------
    one, other : DataArray
        Fields, such as maps or composites, on the same grid; other dimensions are kept.
    weights : "cosine", DataArray or None, default="cosine"
        What a cell counts: the cosine of its latitude, weights of your own, or all the same.

    Returns
    -------
    DataArray
        The correlation in [-1, 1], without unit; NaN where a field is constant.

    Raises
    ------
    TypeError
        If a field is no DataArray.
    ValueError
        If a field has no latitude or longitude, or the two lie on other grids.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from sklrp.geo import pattern_correlation
    >>> places = {"lat": [0.0, 60.0], "lon": [0.0, 90.0]}
    >>> one = xr.DataArray([[1.0, 2.0], [3.0, np.nan]], places, ("lat", "lon"))
    >>> print(f"{pattern_correlation(one, 2 - one).item():.3f}")
    -1.000
    """
    xr = import_optional("xarray", extra="geo", user="sklrp.geo")

    for name, field in (("one", one), ("other", other)):
        if not is_field(field) or is_dataset(field):
            raise TypeError(f"{name} must be an xarray.DataArray, got {type(field).__name__}.")
        check_numbers(field, name)
    places = list(_locate(one, None, None)), list(_locate(other, None, None))
    if sorted(map(str, places[0])) != sorted(map(str, places[1])):
        raise ValueError(
            f"one has the dimensions {places[0]}, but other {places[1]}: rename those of one of "
            "them, other.rename(...)."
        )
    one, weight, dims = _weigh_box(one, None, None, None, weights)
    weight, one, other = _align("one and other", weight, one, other)
    one, other = one.where(other.notnull()), other.where(one.notnull())
    varies = (one.max(dims) > one.min(dims)) & (other.max(dims) > other.min(dims))
    one, other = (f / abs(f).max(dims) for f in (one, other))  # whose squares do not underflow
    found = xr.corr(one, other, dims, weights=weight).where(varies)
    found.attrs = {"long_name": "pattern correlation", "units": "1"}
    return found


def _weigh_box(
    data: DataArray | Dataset,
    lat: tuple[float, float] | None,
    lon: tuple[float, float] | None,
    mask: DataArray | None,
    weights: str | DataArray | None,
) -> tuple[Any, Any, list[str]]:
    """Return the part of the data in a box, the weights of its cells, and its dimensions."""
    xr = import_optional("xarray", extra="geo", user="sklrp.geo")

    positions = _locate(data, lat, lon)
    lat_dim = next(iter(positions))
    for field in data.data_vars.values() if is_dataset(data) else [data]:
        if not set(positions) <= set(field.dims):
            raise ValueError(
                f"the variable {field.name!r} has the dimensions {field.dims}, without "
                f"{' and '.join(map(repr, positions))}: select those that have both."
            )
    weight: Any
    if weights is None:
        weight = xr.DataArray(1.0)
    elif is_field(weights):
        weight = weights
    elif isinstance(weights, str) and weights == "cosine":
        weight = cosine_weights(data[lat_dim])
    else:
        raise ValueError(
            f"weights must be 'cosine', a DataArray or None, got {say_value(weights)}."
        )
    if mask is not None:
        check_field(mask, "the box", "mask")
        weight = weight * mask
    weight, data = _align("mask, weights and data", weight, data)
    here = {dim: found for dim, found in positions.items() if dim in weight.dims}
    return data.isel(positions), weight.isel(here).fillna(0.0), list(positions)


def _align(names: str, *fields: Any) -> Any:
    """Return fields whose coordinates are the same, or raise an error."""
    xr = import_optional("xarray", extra="geo", user="sklrp.geo")

    try:
        return xr.align(*fields, join="exact")
    except ValueError as error:
        raise ValueError(
            f"{names} must lie on one grid, with the same coordinates: take the one's from the "
            f"other, or reindex_like the other. ({error})"
        ) from error
