"""Drawing of fields: cells, coordinates in degrees, outlines; and the limits of colours."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklrp.geo import GridVectorizer
from sklrp.geo.coordinates import find_coordinate, is_field

MISSING = "0.72"  # the grey of land and missing cells


def check_coordinate(values: ArrayLike | None, name: str, n_cells: int) -> NDArray | None:
    """Return the centres of cells, in order; longitudes in one turn, wherever it begins."""
    if values is None:
        return None
    centres = np.asarray(values, dtype=np.float64)
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
        raise ValueError(
            f"{name} must rise or fall from cell to cell, got {centres[:4]}...: sort the cells."
        )
    return centres


def find_degrees(field: Any) -> tuple[Any, Any, Any]:
    """Return the values of an xarray field, latitude and longitude last, and both coordinates."""
    if not is_field(field):
        return field, None, None
    try:
        lat, lon = (find_coordinate(field, kind) for kind in ("latitude", "longitude"))
    except ValueError:  # a sequence or a table, or it is open which they are
        return field, None, None
    others = [dim for dim in field.dims if dim not in (lat, lon)]
    values = field.transpose(*others, lat, lon).values
    return (
        values if others else values[np.newaxis],
        field.coords[lat].values,
        field.coords[lon].values,
    )


def find_grid(estimator: Any, X: Any) -> tuple[Any, Any, Any]:
    """Return latitudes, longitudes and land that the samples or a vectorizer know, else None."""
    steps = getattr(getattr(estimator, "best_estimator_", estimator), "steps", [])
    land = None
    for _, step in steps:
        if isinstance(step, GridVectorizer) and np.ndim(step.mask_) == 2:
            land = ~np.asarray(step.mask_)
            X = step.mask_
    if not is_field(X):
        return None, None, land
    try:
        names = tuple(find_coordinate(X, kind) for kind in ("latitude", "longitude"))
    except ValueError:  # it has not both
        return None, None, land
    if X.dims[-2:] != names:
        return None, None, land
    return X.coords[names[0]].values, X.coords[names[1]].values, land


def cell_edges(centres: NDArray) -> NDArray:
    """Return the edges of cells, halfway between the centres."""
    if len(centres) == 1:
        return centres[0] + np.array([-0.5, 0.5])
    half = np.diff(centres) / 2
    return np.concatenate([centres[:1] - half[:1], centres[:-1] + half, centres[-1:] + half[-1:]])


def find_edges(shape: tuple[int, int], lat: Any, lon: Any) -> tuple[NDArray, NDArray]:
    """Return the edges of columns and of rows, in degrees or else in cells."""
    if lat is None:
        return np.arange(shape[1] + 1) - 0.5, np.arange(shape[0] + 1) - 0.5
    return cell_edges(lon), np.clip(cell_edges(lat), -90, 90)


def find_centres(shape: tuple[int, int], lat: Any, lon: Any) -> tuple[NDArray, NDArray]:
    """Return the centres of columns and of rows, in degrees or else in cells."""
    return (np.arange(shape[1]), np.arange(shape[0])) if lat is None else (lon, lat)


def draw_field(
    ax: Any, values: NDArray, edges: tuple[NDArray, NDArray], cmap: str, low: float, high: float
) -> Any:
    """Draw the cells of a field, missing ones in grey, and return the mesh."""
    import matplotlib as mpl

    return ax.pcolormesh(
        *edges,
        np.ma.masked_invalid(values),
        cmap=mpl.colormaps[cmap].with_extremes(bad=MISSING),
        vmin=low,
        vmax=high,
        rasterized=True,
        **find_transform(ax),
    )


def find_levels(inputs: list[Any], n_levels: int) -> NDArray:
    """Return levels of contours for several fields, symmetric about zero and without it."""
    from matplotlib.ticker import MaxNLocator

    largest = max(float(np.nanmax(np.abs(field))) for field in inputs)
    levels = np.asarray(MaxNLocator(n_levels, symmetric=True).tick_values(-largest, largest))
    return levels[np.abs(levels) > 1e-9 * largest]


def draw_contours(ax: Any, values: Any, lat: Any, lon: Any, levels: NDArray) -> Any:
    """Draw contours, solid above zero and dashed below; return None where no level is reached."""
    values = np.ma.masked_invalid(values)
    levels = levels[(levels > values.min()) & (levels < values.max())]
    if not len(levels) or min(values.shape) < 2:
        return None
    return ax.contour(
        *find_centres(values.shape, lat, lon),
        values,
        levels=levels,
        colors="black",
        linewidths=0.7,
        linestyles=["dashed" if level < 0 else "solid" for level in levels],
        **find_transform(ax),
    )


def find_range(inputs: list[Any]) -> tuple[float, float, str]:
    """Return the limits and the colour map of inputs: symmetric if they have both signs."""
    values = np.concatenate([np.ravel(field) for field in inputs])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if low < 0 < high:
        return -max(-low, high), max(-low, high), "PuOr_r"
    return low, high, "viridis"


def draw_outline(ax: Any, mask: NDArray, edges: tuple[NDArray, NDArray]) -> Any:
    """Draw the border of a region along the edges of its cells."""
    from matplotlib.collections import LineCollection

    x, y = edges
    padded = np.pad(mask, 1)
    rows, columns = np.nonzero(padded[:, 1:] != padded[:, :-1])
    lines = [[(x[j], y[i - 1]), (x[j], y[i])] for i, j in zip(rows, columns, strict=True)]
    rows, columns = np.nonzero(padded[1:] != padded[:-1])
    lines += [[(x[j - 1], y[i]), (x[j], y[i])] for i, j in zip(rows, columns, strict=True)]
    style: dict[str, Any] = {"colors": "black", "linewidths": 1.1, "capstyle": "projecting"}
    return ax.add_collection(LineCollection(lines, **style, **find_transform(ax)), autolim=False)


def find_transform(ax: Any) -> dict[str, Any]:
    """Return the parameter by which axes of cartopy, which are loaded then, take degrees."""
    if not hasattr(ax, "projection"):
        return {}
    return {"transform": sys.modules["cartopy.crs"].PlateCarree()}


def dress_axes(ax: Any, degrees: bool, edges: tuple[NDArray, NDArray]) -> None:
    """Set the axes of a field: equal scales, north or the first row up, ticks in degrees."""
    if hasattr(ax, "projection"):
        return
    x, y = edges
    ax.set_aspect("equal")
    ax.set_xlim(min(x[0], x[-1]), max(x[0], x[-1]))
    ax.set_ylim((y.min(), y.max()) if degrees else (y.max(), y.min()))
    if not degrees:
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.yaxis.get_major_locator().set_params(integer=True)
        return
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    room = int(np.clip(ax.get_window_extent().width / ax.figure.dpi / 0.7, 2, 6))
    for axis, write, n in ((ax.xaxis, write_longitude, room), (ax.yaxis, write_latitude, 5)):
        axis.set_major_locator(MaxNLocator(nbins=n, steps=[1, 1.5, 2, 3, 6, 10]))
        axis.set_major_formatter(FuncFormatter(write))


def write_latitude(value: float, _position: Any = None) -> str:
    """Write a latitude, such as 30°N."""
    north = round(value, 6)  # a tick may miss zero by a rounding error
    return f"{abs(north):g}°{'N' if north > 0 else 'S' if north < 0 else ''}"


def write_longitude(value: float, _position: Any = None) -> str:
    """Write a longitude of any convention, such as 170°W."""
    east = (round(value, 6) + 180) % 360 - 180
    side = "" if east in (0, -180) else "E" if east > 0 else "W"
    return f"{abs(east):g}°{side}"
