"""Where the cells of samples lie: their degrees, land and order, from whatever knows them.

`read_grid` takes a vectorizer, a field of xarray, or the arrays of a data set. What draws fields,
or takes masks of them, compares places here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklrp._checks import check_field_mask
from sklrp._coordinate_marks import find_kind
from sklrp._matching import find_order
from sklrp._missing import as_plain_array
from sklrp._wording import say_value
from sklrp.geo.coordinates import (
    find_coordinate,
    find_sample_dim,
    in_degrees,
    is_dataset,
    is_field,
)
from sklrp.geo.vectorizer import GridVectorizer


class Grid(NamedTuple):
    """The cells of fields, as far as their source knows them.

    ``cells``, ``valid`` and ``filled`` are in the order of the samples' axes, ``land`` is latitude
    by longitude.
    """

    cells: tuple[int, int]  # the lengths of a sample's last two axes
    latitude: NDArray | None = None
    longitude: NDArray | None = None
    land: NDArray[np.bool_] | None = None
    valid: NDArray[np.bool_] | None = None  # the cells that rows of features hold
    turned: bool = False  # whether longitude comes before latitude in the samples
    filled: NDArray[np.bool_] | None = None  # channel by cell, where a fill stands for no value


def read_grid(source: Any) -> Grid | None:
    """Return the grid that a source knows, None if it knows none.

    Parameters
    ----------
    source : object
        A fitted `GridVectorizer`; a DataArray or Dataset with the samples first; a Bunch or an
        array with latitude, longitude and land_mask; or a pair of latitude and longitude.

    Returns
    -------
    Grid or None
        The grid.
    """
    if isinstance(source, GridVectorizer):
        return _grid_of_vectorizer(source)
    if is_field(source):
        return _grid_of_field(source)
    if isinstance(source, tuple) and len(source) == 2:
        latitude, longitude = source
        land = None
    elif isinstance(source, Mapping | np.ndarray):
        latitude, longitude, land = (
            getattr(source, name, None) for name in ("latitude", "longitude", "land_mask")
        )
    else:
        return None
    if latitude is None or longitude is None:
        return None
    latitude = as_plain_array(latitude, "latitude")
    longitude = as_plain_array(longitude, "longitude")
    for name, degrees in (("latitudes", latitude), ("longitudes", longitude)):
        if degrees.ndim != 1 or not degrees.size:
            raise ValueError(
                f"grid must hold arrays of the {name} of its cells, got "
                f"{say_value(source)} with {name} of shape {degrees.shape}."
            )
    cells = (len(latitude), len(longitude))
    return Grid(cells, latitude, longitude, check_field_mask(land, "land_mask"))


def move_grid(grid: Grid | None, lat: Any, lon: Any) -> Grid | None:
    """Return a grid with latitudes and longitudes that are given."""
    if lat is None and lon is None:
        return grid
    latitude, longitude = lat, lon
    if grid is not None:
        latitude = grid.latitude if lat is None else lat
        longitude = grid.longitude if lon is None else lon
    if latitude is None or longitude is None:
        raise ValueError("lat and lon go together: give both or none.")
    latitude, longitude = as_plain_array(latitude, "lat"), as_plain_array(longitude, "lon")
    if grid is None:
        return Grid((latitude.size, longitude.size), latitude, longitude)
    return grid._replace(latitude=latitude, longitude=longitude)


def find_degrees(field: Any) -> tuple[NDArray, NDArray] | None:
    """Return latitudes and longitudes of a DataArray, None of anything without them."""
    dims = _find_dims(field)
    return None if dims is None else _read_degrees(field, dims)


def take_degrees(field: Any) -> tuple[Any, NDArray | None, NDArray | None]:
    """Return the values of a DataArray, latitude and longitude last, and both coordinates."""
    # Of anything else, or where it is open which dimensions they are, the data itself and None.
    dims = _find_dims(field)
    if dims is None:
        return field, None, None
    others = [dim for dim in field.dims if dim not in dims]
    if len(others) > 1:
        with contextlib.suppress(ValueError):  # its first dimension, as in an array
            samples = find_sample_dim(field, None)
            others = [samples, *(dim for dim in others if dim != samples)]
    values = field.transpose(*others, *dims).values
    return values, *_read_degrees(field, dims)


def _read_degrees(field: Any, dims: tuple[str, str]) -> tuple[NDArray, NDArray]:
    """Return latitudes and longitudes in degrees."""
    latitude, longitude = dims
    return (
        in_degrees(field.coords[latitude], "latitude"),
        in_degrees(field.coords[longitude], "longitude"),
    )


def put_in_order(values: Any, maps: Any, name: str) -> Any:
    """Return values of cells in the order of maps, where both are DataArrays.

    Parameters
    ----------
    values : object
        A mask, weights or other maps. A DataArray may have its dimensions and coordinates in
        another order than maps, or lack some of them; everything else is in order already.
    maps : object
        Maps with the samples first.
    name : str
        What errors call the values.

    Returns
    -------
    object
        The values; a DataArray over all dimensions of a map.

    Raises
    ------
    ValueError
        If the values are of other cells.
    """
    if not _is_data_array(values) or not _is_data_array(maps):
        return values
    values = _rename_space(values, maps)
    known = [dim for dim in values.dims if dim in maps.dims]
    if not known and all(str(dim).startswith("dim_") for dim in values.dims):  # without names
        return values
    strange = [dim for dim in values.dims if dim not in maps.dims and values.sizes[dim] > 1]
    if strange or not known:
        raise ValueError(
            f"{name} has the dimensions {values.dims}, but the maps {maps.dims}: rename them, "
            "select a position of those that maps lack, or pass an array in the maps' order."
        )
    values = values.squeeze([dim for dim in values.dims if dim not in known], drop=True)
    for dim in known:
        values = values.isel({dim: _find_order(values, maps, dim, name)})
    lacking = [dim for dim in maps.dims[1:] if dim not in known]
    values = values.expand_dims({dim: maps.sizes[dim] for dim in lacking})
    return values.transpose(*(dim for dim in maps.dims if dim in values.dims))


def samples_first(maps: Any) -> Any:
    """Return maps with the samples first, if they are a DataArray that says which they are."""
    if not _is_data_array(maps) or maps.ndim < 2:
        return maps
    with contextlib.suppress(ValueError):  # its first dimension, as in an array
        return maps.transpose(find_sample_dim(maps, None), ...)
    return maps


def _is_data_array(data: Any) -> bool:
    return is_field(data) and not is_dataset(data)


def _rename_space(values: Any, maps: Any) -> Any:
    """Return values whose latitude and longitude have the names that they have in the maps."""
    for kind in ("latitude", "longitude"):
        with contextlib.suppress(ValueError):  # one of them has no such coordinate
            its, known = find_coordinate(values, kind), find_coordinate(maps, kind)
            values = values if its == known else values.rename({its: known})
    return values


def _find_order(values: Any, maps: Any, dim: Any, name: str) -> NDArray[np.intp]:
    """Return where the positions of the maps along a dimension are among those of values."""
    n = maps.sizes[dim]
    if dim not in values.coords or dim not in maps.coords:
        if values.sizes[dim] != n:
            raise ValueError(
                f"{name} has {values.sizes[dim]} positions along {dim!r}, the maps {n}: select "
                "those of the maps, or give both their coordinates."
            )
        return np.arange(n)
    kind = find_kind(maps[dim])
    if kind in ("latitude", "longitude"):
        its, known = in_degrees(values[dim], kind), in_degrees(maps[dim], kind)
        return find_places(its, known, name, f"{kind}s")
    found = find_order(values.get_index(dim), maps.get_index(dim))
    if found is None:
        raise ValueError(
            f"{name} has other coordinates along {dim!r} than the maps: select those of the "
            f"maps, {name}.sel({dim}=...), or pass an array in the maps' order."
        )
    return found


def _find_dims(field: Any) -> tuple[str, str] | None:
    """Return the names of latitude and longitude, None of a sequence, a table or an array."""
    if not is_field(field) or is_dataset(field):
        return None
    try:
        return find_coordinate(field, "latitude"), find_coordinate(field, "longitude")
    except ValueError:  # there is none, or it is open which it is
        return None


def check_centres(values: ArrayLike | None, name: str, n_cells: int) -> NDArray | None:
    """Return the centres of cells, in order; longitudes in one turn, wherever it begins."""
    if values is None:
        return None
    centres = as_plain_array(values, name, np.float64)
    if centres.shape != (n_cells,):
        raise ValueError(
            f"{name} must hold the centres of {n_cells} cells, got the shape {centres.shape}."
        )
    if not np.isfinite(centres).all():
        raise ValueError(f"{name} has NaN or infinite values: cells need a place.")
    if name == "lon":
        centres = np.unwrap(centres, period=360)
        centres -= 360 * np.floor((centres.min() + 180) / 360)  # the first is in [-180, 180)
    elif np.abs(centres).max() > 90:
        raise ValueError(f"lat must be within -90 and 90, got up to {np.abs(centres).max():g}.")
    steps = np.diff(centres)
    if not ((steps > 0).all() or (steps < 0).all()):
        order = "go eastward or westward" if name == "lon" else "rise or fall"
        box = "; a box across the date line by lon % 360" if name == "lon" else ""
        raise ValueError(
            f"{name} must {order} from cell to cell, got {np.asarray(values)}: sort the "
            f"cells{box}."
        )
    return centres


def find_places(its: NDArray, known: NDArray, name: str, kind: str) -> NDArray[np.intp]:
    """Return where known latitudes or longitudes are among others, which must be the same."""
    apart = np.abs(np.asarray(its)[np.newaxis] - known[:, np.newaxis])
    if kind == "longitudes":
        apart = np.minimum(apart % 360, -apart % 360)
    if len(its) != len(known) or (apart.min(axis=1) > 1e-3).any():
        raise ValueError(
            f"{name} has other {kind} than the samples, {its[:3]}... and {known[:3]}...: select "
            f"or regrid it, {name}.reindex_like(...)."
        )
    return apart.argmin(axis=1)


def _grid_of_vectorizer(vectorizer: GridVectorizer) -> Grid | None:
    """Return the grid that a vectorizer has learnt, None of a single axis."""
    mask = np.asarray(vectorizer.mask_)
    if mask.ndim < 2:
        return None
    cells = (mask.shape[-2], mask.shape[-1])
    stack = mask.reshape(-1, *cells)  # levels of several variables are channels too
    land: NDArray[np.bool_] = np.logical_not(stack.any(axis=0))  # valid in no channel
    is_flat = vectorizer.layout == "features"
    grid = Grid(
        cells,
        land=land if land.any() else None,
        valid=stack if is_flat else None,
        filled=None if is_flat else ~stack,
    )
    field: Any = vectorizer.mask_
    if not is_field(field):
        return grid
    latitude, longitude, turned = _find_space(field, field.dims[-2:])
    if turned and grid.land is not None:
        grid = grid._replace(land=grid.land.T)
    return grid._replace(latitude=latitude, longitude=longitude, turned=turned)


def _grid_of_field(field: Any) -> Grid | None:
    """Return the grid of samples of xarray, the last two dimensions; land is NaN in all."""
    if is_dataset(field):
        if not field.data_vars:
            return None
        field = next(iter(field.data_vars.values()))
    latitude, longitude, turned = _find_space(field, field.dims[-2:])
    if latitude is None:
        return None
    space = field.dims[-2:]
    missing = field.isnull().all([dim for dim in field.dims if dim not in space])
    land = np.asarray(missing.transpose(*(space[::-1] if turned else space)))
    cells = (field.sizes[space[0]], field.sizes[space[1]])
    return Grid(cells, latitude, longitude, land if land.any() else None, turned=turned)


def _find_space(field: Any, space: tuple[Any, ...]) -> tuple[Any, Any, bool]:
    """Return the degrees of two dimensions, and whether longitude is the first of them."""
    dims = _find_dims(field)
    if dims is None or space not in (dims, dims[::-1]):
        return None, None, False
    return *_read_degrees(field, dims), space != dims
