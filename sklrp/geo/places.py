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
from sklrp._missing import as_plain_array
from sklrp.geo.coordinates import find_coordinate, find_sample_dim, is_dataset, is_field
from sklrp.geo.vectorizer import GridVectorizer


class Grid(NamedTuple):
    """The cells of fields, as far as their source knows them.

    ``cells`` and ``valid`` are in the order of the samples' axes, ``land`` is latitude by
    longitude.
    """

    cells: tuple[int, int]  # the lengths of a sample's last two axes
    latitude: NDArray | None = None
    longitude: NDArray | None = None
    land: NDArray[np.bool_] | None = None
    valid: NDArray[np.bool_] | None = None  # the cells that rows of features hold
    turned: bool = False  # whether longitude comes before latitude in the samples


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
    return None if dims is None else (field.coords[dims[0]].values, field.coords[dims[1]].values)


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
    return values, field.coords[dims[0]].values, field.coords[dims[1]].values


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
    valid = stack if vectorizer.layout == "features" else None
    grid = Grid(cells, land=land if land.any() else None, valid=valid)
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
    return field.coords[dims[0]].values, field.coords[dims[1]].values, space != dims
