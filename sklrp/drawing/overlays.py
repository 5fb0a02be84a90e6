"""Marks over a map: stippling, hatching and outlines that say of which cells something holds.

`picture.draw_map` draws them over fields, sequences and bars. `RelevanceDisplay` makes them of the
masks it is given, `ArtifactDisplay` of what a test found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.utils import Bunch

from sklrp._frame import Frame
from sklrp.drawing import fields
from sklrp.drawing.sheet import as_text
from sklrp.geo.places import find_places

MOST_DOTS = 1500
_MOST_ALONG = 64  # marks along an axis: more of them would merge
_INK, _HALO = "black", "white"
# What of a finding is shown, in order of preference, and what it says of a cell.
_SHOWN = {
    "stipple": {"fact": "fact", "true_fdr": "carries skill (false discovery rate)"},
    "hatch": {"unsupported": "used, alone it says nothing", "misleading": "misleading"},
}
_Edges = tuple[NDArray, NDArray]


class Overlay(NamedTuple):
    """What is marked on a map: the style, the cells, and what the mark says in a legend."""

    style: str  # a key of STYLES
    mask: NDArray[np.bool_]  # of the shape that is drawn, frame.shape
    label: str

    @property
    def n_cells(self) -> int:
        """How many cells are marked."""
        return int(np.count_nonzero(self.mask))


def find_mask(frame: Frame, values: Any, name: str) -> NDArray[np.bool_]:
    """Return a mask of samples, or of the cells of a field, as it is drawn, land left out.

    Parameters
    ----------
    frame : Frame
        What a sample is.
    values : DataArray or array-like of bool
        The mask, see `Frame.take_mask`. A cell of several channels is marked if any of them is.
    name : str
        What errors call it.

    Returns
    -------
    ndarray of bool of shape (*frame.shape), or (n, *frame.shape) of n masks
        The mask.
    """
    mask = frame.take_mask(values, name)
    several = mask.ndim > len(frame.entering)
    shown = frame.bring(mask if several else mask[np.newaxis]) > 0  # NaN is not
    return shown if several else shown[0]


def marks_of(
    frame: Frame, given: Any, style: str, names: list[str], n_rows: int
) -> list[list[Overlay]]:
    """Return the mark of each panel that users ask for, by a mask or by what a test found.

    Parameters
    ----------
    frame : Frame
        What a sample is.
    given : Finding, DataArray or array-like of bool, or dict of them
        A finding of `artifact_map` or `skill_map`; a mask for all panels or one for each row of
        them; or a dict of either by the names of views.
    style : {"stipple", "hatch"}
        The style, which is the name of the parameter too.
    names : list of str
        The views.
    n_rows : int
        How many panels each view has.

    Returns
    -------
    list of list of Overlay
        For each view, one for each of its panels.

    Raises
    ------
    ValueError
        If masks are of other cells, panels or views.
    """
    if isinstance(given, Mapping) and not isinstance(given, Bunch):
        if set(given) != set(names):
            raise ValueError(
                f"{style} has entries for {list(given)} in a {type(given).__name__}, but the "
                f"panels are of {sorted(names)}: give one for each, or one for all."
            )
        return [marks_of(frame, given[name], style, [name], n_rows)[0] for name in names]
    mask, label = _read_mask(frame, given, style)
    if mask.ndim > len(frame.shape):
        if len(mask) != n_rows:
            raise ValueError(
                f"{style} has {len(mask)} masks, but there are {n_rows} panels: give one "
                "for each, or one for all."
            )
        masks = list(mask)
    else:
        masks = [mask] * n_rows
        if isinstance(given, Bunch) and n_rows * len(names) > 1:
            label += ", of all maps together"  # a class has no grades of its own
    return [[Overlay(style, one, label) for one in masks] for _ in names]


def _read_mask(frame: Frame, given: Any, style: str) -> tuple[NDArray[np.bool_], str]:
    """Return the mask of a finding, or the given one, as it is drawn, and what it means."""
    if not isinstance(given, Bunch):
        return find_mask(frame, given, style), "as given"
    name = next((name for name in _SHOWN[style] if name in given), None)
    if name is None:
        raise ValueError(
            f"{style} takes a finding that has {' or '.join(_SHOWN[style])}, as artifact_map and "
            f"skill_map return it, got {given.get('name', 'a Bunch')!r}."
        )
    its: Frame = given.frame
    mask = find_mask(its, given[name], style)
    (lat, lon), (new_lat, new_lon) = its.centres, frame.centres
    if not (lat is None or lon is None or new_lat is None or new_lon is None):
        rows = find_places(lat, new_lat, style, "latitudes")
        columns = find_places(lon, new_lon, style, "longitudes")
        mask = mask[..., rows[:, np.newaxis], columns]
    if mask.shape[-len(frame.shape) :] != frame.shape:
        raise ValueError(
            f"{style} is a finding about samples of shape {its.shape}, but maps of {frame.shape} "
            "are drawn."
        )
    return mask, _SHOWN[style][name]


def draw_overlays(
    ax: Any,
    frame: Frame,
    overlays: Sequence[Overlay],
    *,
    features: NDArray[np.intp] | None = None,
    bars: Any = None,
) -> dict[str, Any]:
    """Draw marks over a map that is drawn already, and return the artists by style.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Where the map is.
    frame : Frame
        What a sample is.
    overlays : sequence of Overlay
        The marks.
    features : ndarray of int or None, default=None
        The features that a table's bars are of.
    bars : matplotlib.container.BarContainer or None, default=None
        The bars of a table.

    Returns
    -------
    dict of str to artist
        By style; of marks without a cell there is none.
    """
    drawn = {}
    for style, mask, _ in overlays:
        if not mask.any():
            continue
        if frame.layout == "table":
            shown = mask if features is None else mask[features]
            drawn[style] = _mark_bars(ax, style, shown, bars)
            continue
        grid, edges, transform = _lay_on_axes(ax, frame, mask, style)
        drawn[style] = STYLES[style](ax, grid, edges, transform)
    return drawn


def stipple(ax: Any, mask: NDArray[np.bool_], edges: _Edges, transform: Mapping[str, Any]) -> Any:
    """Draw a dot in the middle of cells, of large grids regularly thinned; return the line.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Where to draw.
    mask : ndarray of bool of shape (n_rows, n_columns)
        The cells.
    edges : tuple of ndarray
        The edges of columns and of rows.
    transform : dict
        The parameter ``transform`` of matplotlib's functions, if one is needed.

    Returns
    -------
    matplotlib.lines.Line2D
        The dots.
    """
    x, y = ((e[1:] + e[:-1]) / 2 for e in edges)
    rows, columns = np.nonzero(thin(mask))
    size = float(np.clip(0.3 * _spacing(ax, mask.shape), 1.0, 3.2))
    style = {"ls": "", "marker": "o", "ms": size, "mfc": _INK, "mec": _HALO, "mew": 0.3}
    keep = ax.get_xlim(), ax.get_ylim()
    dots = ax.plot(x[columns], y[rows], **style, **transform)[0]
    if not fields.has_projection(ax):
        ax.set(xlim=keep[0], ylim=keep[1])
    return dots


def hatch(
    ax: Any,
    mask: NDArray[np.bool_],
    edges: _Edges,
    transform: Mapping[str, Any],
    *,
    crossed: bool = False,
) -> Any:
    """Draw parallel lines over cells, from corner to corner; return them.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Where to draw.
    mask : ndarray of bool of shape (n_rows, n_columns)
        The cells.
    edges : tuple of ndarray
        The edges of columns and of rows.
    transform : dict
        The parameter ``transform`` of matplotlib's functions, if one is needed.
    crossed : bool, default=False
        Whether to draw lines of both directions.

    Returns
    -------
    matplotlib.collections.LineCollection
        The lines, which join from cell to cell.
    """
    from matplotlib.collections import LineCollection

    x, y = edges
    rising = ((x[-1] > x[0]) == (y[-1] > y[0])) != ax.yaxis_inverted()
    lines = []
    for along in (rising, not rising) if crossed else (rising,):
        rows, columns = np.nonzero(thin(mask, _on_diagonals if along else _on_antidiagonals, None))
        first, last = (rows, rows + 1) if along else (rows + 1, rows)
        start, end = np.stack([x[columns], y[first]], 1), np.stack([x[columns + 1], y[last]], 1)
        lines.append(np.stack([start, end], 1))
    # The light lines below show where the cells are as dark as the ink.
    ends = np.concatenate(lines)
    collection = LineCollection(
        [*ends, *ends],
        colors=[_HALO] * len(ends) + [_INK] * len(ends),
        linewidths=[1.5] * len(ends) + [0.7] * len(ends),
        zorder=1.5,  # below signals
        **transform,
    )
    return ax.add_collection(collection, autolim=False)


def outline(ax: Any, mask: NDArray[np.bool_], edges: _Edges, transform: Mapping[str, Any]) -> Any:
    """Draw the border of cells and return it."""
    lines = fields.draw_outline(ax, mask, edges)
    if transform and not fields.has_projection(ax):
        lines.set_transform(transform["transform"])
    return lines


def _crosshatch(
    ax: Any, mask: NDArray[np.bool_], edges: _Edges, transform: Mapping[str, Any]
) -> Any:
    return hatch(ax, mask, edges, transform, crossed=True)


STYLES: dict[str, Callable[..., Any]] = {
    "stipple": stipple,
    "hatch": hatch,
    "crosshatch": _crosshatch,
    "outline": outline,
}


def thin(
    mask: NDArray[np.bool_],
    lattice: Callable[..., NDArray] | None = None,
    most: int | None = MOST_DOTS,
) -> NDArray[np.bool_]:
    """Return the cells of a mask that get a mark: those of a regular lattice.

    The density of marks thus says how many cells are meant, as if every one had its own. A patch
    of neighbouring cells that the lattice misses keeps the cell nearest to its middle, so that
    none is lost.

    Parameters
    ----------
    mask : ndarray of bool of shape (n_rows, n_columns)
        The cells.
    lattice : callable or None, default=None
        Tells by row, column, shape and step which cells are on it. None (default): every so many
        rows and columns.
    most : int or None, default=1500
        The largest number of marks; None has no limit.

    Returns
    -------
    ndarray of bool of shape (n_rows, n_columns)
        The cells that get a mark.
    """
    indices: NDArray = np.indices(mask.shape)
    rows, columns = indices[0], indices[1]
    step = -(-max(mask.shape) // _MOST_ALONG)
    lattice = lattice or _on_grid
    kept = mask & lattice(rows, columns, mask.shape, step)
    while most is not None and np.count_nonzero(kept) > most:
        step += 1
        kept = mask & lattice(rows, columns, mask.shape, step)
    patches, n_patches = ndimage.label(mask, np.ones((3, 3)))
    sizes = np.bincount(patches.ravel(), minlength=n_patches + 1)
    sizes[np.unique(patches[kept])] = 0
    sizes[0] = 0
    missed = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
    if most is not None:
        missed = missed[: most - np.count_nonzero(kept)]
    for patch in missed:
        cells = np.argwhere(patches == patch)
        middle = np.abs(cells - cells.mean(axis=0)).sum(axis=1).argmin()
        kept[tuple(cells[middle])] = True
    return kept


def make_handles(overlays: Sequence[Overlay], layout: str) -> list[Any]:
    """Return what a legend shows of marks."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    for style, _, said in overlays:
        label = as_text(said)
        if style == "stipple":
            star = layout == "table"
            handles.append(
                Line2D([], [], ls="", marker="*" if star else "o", color=_INK, label=label,
                       ms=6 if star else 3)
            )  # fmt: skip
        else:
            pattern = {"hatch": "////", "crosshatch": "xxxx"}.get(style)
            handles.append(Patch(fc="none", ec=_INK, hatch=pattern, lw=0.8, label=label))
    return handles


def _lay_on_axes(
    ax: Any, frame: Frame, mask: NDArray[np.bool_], style: str
) -> tuple[NDArray[np.bool_], _Edges, dict[str, Any]]:
    """Return a mask in two axes, the edges of its cells and how they are placed."""
    if frame.is_field:
        return mask, fields.find_edges(mask.shape, *frame.centres), fields.find_transform(ax)
    steps = np.arange(mask.shape[-1]) if frame.steps is None else frame.steps
    x = fields.cell_edges(steps)
    if mask.ndim == 2:
        return mask, (x, np.arange(len(mask) + 1) - 0.5), {}
    across = {"transform": ax.get_xaxis_transform()}  # a step has the height of the panel
    if style in ("stipple", "outline"):  # dots in a row below the signal
        return mask[np.newaxis], (x, np.array([0.0, 0.08 if style == "stipple" else 1.0])), across
    box = ax.get_window_extent()
    n_rows = max(round(len(mask) * box.height / box.width), 1)
    grid = np.repeat(mask[np.newaxis], n_rows, axis=0)  # of cells as high as wide
    return grid, (x, np.linspace(0, 1, n_rows + 1)), across


def _mark_bars(ax: Any, style: str, mask: NDArray[np.bool_], bars: Any) -> list[Any]:
    """Mark bars: by a star at their end, by hatching, or by a frame."""
    marked = [bar for bar, held in zip(bars, mask, strict=True) if held]
    if style == "stipple":
        return [
            ax.annotate(
                "★",
                (bar.get_width(), bar.get_y() + bar.get_height() / 2),
                xytext=(-3 if bar.get_width() < 0 else 3, 0),
                textcoords="offset points",
                ha="right" if bar.get_width() < 0 else "left",
                va="center",
                fontsize="small",
            )
            for bar in marked
        ]
    for bar in marked:
        if style == "outline":
            bar.set(edgecolor=_INK, linewidth=1.4)
        else:
            bar.set_hatch("////" if style == "hatch" else "xxxx")
    return marked


def _spacing(ax: Any, shape: tuple[int, ...]) -> float:
    """Return how far neighbouring dots are apart, in points."""
    box = ax.get_window_extent()
    step = -(-max(shape) // _MOST_ALONG)
    pixels = min(box.width / shape[1], box.height / shape[0]) * step
    return float(pixels * 72 / ax.figure.dpi)


def _on_grid(rows: NDArray, columns: NDArray, shape: tuple[int, ...], step: int) -> NDArray:
    """Tell which cells are in the middle of squares of step by step."""
    on = [
        at % min(step, n) == (min(step, n) - 1) // 2
        for at, n in zip((rows, columns), shape, strict=True)
    ]
    return on[0] & on[1]


def _on_diagonals(rows: NDArray, columns: NDArray, shape: tuple[int, ...], step: int) -> NDArray:
    """Tell which cells are on lines that go one row on with each column."""
    return (rows - columns) % step == 0


def _on_antidiagonals(
    rows: NDArray, columns: NDArray, shape: tuple[int, ...], step: int
) -> NDArray:
    """Tell which cells are on lines that go one row back with each column."""
    return (rows + columns) % step == 0
