"""Drawing of fields: cells, coordinates in degrees, outlines and contours of the input.

What `picture` and `RelevanceDisplay` draw fields with.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklrp._warnings import warn_user

MISSING = "0.72"  # the grey of land and missing cells


def cell_edges(centres: NDArray) -> NDArray:
    """Return the edges of cells, halfway between the centres."""
    if len(centres) == 1:
        return centres[0] + np.array([-0.5, 0.5])
    half = np.diff(centres) / 2
    return np.concatenate([centres[:1] - half[:1], centres[:-1] + half, centres[-1:] + half[-1:]])


def find_edges(shape: tuple[int, ...], lat: Any, lon: Any) -> tuple[NDArray, NDArray]:
    """Return the edges of columns and of rows, in degrees or else in cells."""
    if lat is None:
        return np.arange(shape[1] + 1) - 0.5, np.arange(shape[0] + 1) - 0.5
    x, y = cell_edges(lon), cell_edges(lat)
    if 1 in shape and max(shape) > 1:  # a single row or column has cells as wide as long
        half = 0.5 * (np.ptp(x) if shape[0] == 1 else np.ptp(y)) / max(shape) * np.array([-1, 1])
        x, y = (x, lat[0] + half) if shape[0] == 1 else (lon[0] + half, y)
    return x, np.clip(y, -90, 90)


def find_centres(shape: tuple[int, ...], lat: Any, lon: Any) -> tuple[NDArray, NDArray]:
    """Return the centres of columns and of rows, in degrees or else in cells."""
    return (np.arange(shape[1]), np.arange(shape[0])) if lat is None else (lon, lat)


def draw_field(
    ax: Any, values: NDArray, edges: tuple[NDArray, NDArray], cmap: str, low: float, high: float
) -> Any:
    """Draw the cells of a field, missing ones in grey, and return the mesh."""
    import matplotlib as mpl
    from matplotlib.colors import ListedColormap

    shown = np.ma.masked_invalid(values)
    colors = mpl.colormaps.get_cmap(cmap)
    options: dict[str, Any] = {"rasterized": True, **find_transform(ax)}
    if not options.get("transform"):
        colors = colors.with_extremes(bad=MISSING)
    elif shown.mask.any():  # cartopy hides half the globe in the colour of masked cells
        grey = np.ma.masked_array(np.ones(shown.shape), ~np.ma.getmaskarray(shown))
        ax.pcolormesh(*edges, grey, cmap=ListedColormap([MISSING]), **options)
    return ax.pcolormesh(*edges, shown, cmap=colors, vmin=low, vmax=high, **options)


def find_levels(inputs: list[Any], n_levels: int) -> NDArray:
    """Return levels of contours for several fields, symmetric about zero and without it."""
    from matplotlib.ticker import MaxNLocator

    values = np.abs(np.concatenate([np.ravel(field) for field in inputs]))
    largest = float(values[np.isfinite(values)].max(initial=0.0))
    if largest == 0:
        return np.array([])
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
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0, "viridis"
    low, high = float(values.min()), float(values.max())
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


def has_projection(ax: Any) -> bool:
    """Tell whether Axes are of cartopy, without importing it."""
    return hasattr(ax, "projection")


def find_transform(ax: Any) -> dict[str, Any]:
    """Return the parameter by which axes of cartopy, which are loaded then, take degrees."""
    if not has_projection(ax):
        return {}
    return {"transform": sys.modules["cartopy.crs"].PlateCarree()}


def draw_coast(ax: Any) -> None:
    """Draw coastlines and degrees on axes of cartopy; warn where cartopy cannot load the coast."""
    from cartopy.feature import COASTLINE

    grid = ax.gridlines(draw_labels=["left", "bottom"], linewidth=0.3, color="0.5")
    grid.xlabel_style = grid.ylabel_style = {"size": "small"}
    try:
        list(COASTLINE.with_scale("110m").geometries())
    except OSError as error:
        warn_user(
            f"cartopy cannot load its coastlines, which takes the network once ({error}): they "
            "are left out.",
        )
    else:
        ax.coastlines("110m", linewidth=0.6)


def dress_axes(ax: Any, degrees: bool, edges: tuple[NDArray, NDArray]) -> None:
    """Set the axes of a field: equal scales, north or the first row up, ticks in degrees."""
    if has_projection(ax):
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
        is_wide = np.ptp(axis.get_view_interval()) > 100  # parts of a circle: 30, 60, 90, 120, 180
        steps = [1, 1.2, 1.8, 3, 6, 9, 10] if is_wide else [1, 1.5, 2, 3, 6, 10]
        axis.set_major_locator(MaxNLocator(nbins=n, steps=steps))
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
