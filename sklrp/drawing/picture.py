"""The one picture of maps: a field, a signal over its relevance, or bars, as their frame says.

`draw_map` draws it on Axes. The displays of this folder and of the diagnostics call it, so that
the same maps look the same everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklrp._frame import Frame
from sklrp.drawing import fields, series
from sklrp.drawing.overlays import Overlay, draw_overlays

DIVERGING = "RdBu_r"  # red speaks for the class, blue against it
MOST_BARS = 10


def draw_map(
    ax: Any,
    frame: Frame,
    maps: NDArray,
    samples: NDArray | None = None,
    *,
    limit: float,
    cmap: str = DIVERGING,
    outline: NDArray[np.bool_] | None = None,
    features: NDArray[np.intp] | None = None,
    overlays: Sequence[Overlay] = (),
) -> dict[str, Any]:
    """Draw one map, or the mean of several, and return the artists by name.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Where to draw; Axes of cartopy may have any projection.
    frame : Frame
        What a sample is.
    maps : ndarray of shape (n, *frame.shape)
        The maps, as `Frame.bring` returns them.
    samples : ndarray of the shape of maps, or None, default=None
        What they explain: the signal of a sequence.
    limit : float
        The largest value of the colours, or of the horizontal axis of bars; the smallest is its
        negative. See `find_reach`.
    cmap : str or matplotlib.colors.Colormap, default="RdBu_r"
        A diverging colour map.
    outline : ndarray of bool of shape frame.shape, or None, default=None
        Cells of a field whose border is drawn.
    features : ndarray of int or None, default=None
        Which features of a table have bars, from the top. None (default): the features
        of most mean absolute relevance.
    overlays : sequence of Overlay, default=()
        Marks over the map.

    Returns
    -------
    dict of str to artist
        ``"image"`` and ``"outline"`` of a field, ``"image"`` and ``"line"`` (of several variables
        ``"lines"``) of a sequence, ``"bars"``, ``"spread"`` and ``"size"`` of a table; and
        ``"marks"``, a dict by style, where there are overlays.
    """
    if frame.layout == "table" and features is None:
        features, _ = series.rank_features([maps], MOST_BARS)
    if frame.is_field:
        artists = draw_cells(ax, frame, maps.mean(axis=0), cmap, -limit, limit, outline)
    elif frame.layout == "sequence":
        artists = _draw_sequence(ax, frame, maps, samples, limit, cmap)
    else:
        artists = _draw_table(ax, frame, maps, features, limit, cmap)
    if overlays:
        artists["marks"] = draw_overlays(
            ax, frame, overlays, features=features, bars=artists.get("bars")
        )
    return artists


def draw_cells(
    ax: Any,
    frame: Frame,
    values: NDArray,
    cmap: str,
    low: float,
    high: float,
    outline: NDArray[np.bool_] | None = None,
) -> dict[str, Any]:
    """Draw the cells of a field, north or the first row up; return the artists by name."""
    edges = fields.find_edges(values.shape, *frame.centres)
    artists = {"image": fields.draw_field(ax, values, edges, cmap, low, high)}
    if outline is not None:
        artists["outline"] = fields.draw_outline(ax, outline, edges)
    fields.dress_axes(ax, frame.has_degrees, edges)
    return artists


def find_reach(
    frame: Frame, maps: NDArray, features: NDArray[np.intp] | None = None
) -> NDArray[np.float64]:
    """Return the absolute values that `draw_map` shows of maps; the largest is a limit for all."""
    if frame.layout != "table":
        return np.abs(maps.mean(axis=0)).ravel()
    if features is None:
        features, _ = series.rank_features([maps], MOST_BARS)
    return np.array([series.bar_extent(maps, features)])


def panel_sizes(frame: Frame, n_features: int = MOST_BARS) -> dict[int, tuple[float, float]]:
    """Return a width and height in inches of panels, by how many are side by side.

    Parameters
    ----------
    frame : Frame
        What a sample is.
    n_features : int, default=10
        How many features of a table are drawn.

    Returns
    -------
    dict of int to (float, float)
        Sizes; of more panels than the last, the last.
    """
    shape = frame.shape
    if frame.layout == "table":
        return {1: (4.2, 1.5 + 0.26 * min(n_features, shape[0]))}
    if frame.layout == "sequence":
        height = 1.9 if len(shape) == 1 else 1.3 + 0.45 * min(shape[0], 12)
        return {n: (max(7.5 / n, 2.6), height) for n in (1, 2, 3)}
    x, y = (np.ptp(edges) for edges in fields.find_edges(shape, *frame.centres))
    ratio = 0.88 * float(np.clip(y / x, 0.3, 1.6))
    return {n: (w, w * ratio + 0.7) for n, w in {1: 5.5, 2: 4.2, 3: 3.4, 4: 2.6}.items()}


def _draw_sequence(
    ax: Any, frame: Frame, maps: NDArray, samples: NDArray | None, limit: float, cmap: str
) -> dict[str, Any]:
    """Draw each signal over the relevance of its steps."""
    steps = np.arange(frame.shape[-1]) if frame.steps is None else frame.steps
    mean, signal = maps.mean(axis=0), None if samples is None else samples.mean(axis=0)
    ax.set_xlabel("step")
    if frame.steps is None:
        ax.xaxis.get_major_locator().set_params(integer=True)
    if mean.ndim == 2:
        image, lines = series.draw_variables(ax, signal, mean, steps, frame.names, cmap, limit)
        return {"image": image, "lines": lines}
    image, line = series.draw_signal(ax, signal, mean, steps, cmap, limit)
    ax.set_ylabel("relevance" if samples is None else "input")
    return {"image": image, "line": line}


def _draw_table(
    ax: Any, frame: Frame, maps: NDArray, features: Any, limit: float, cmap: str
) -> dict[str, Any]:
    """Draw features as bars, with their names."""
    names = frame.names or [f"feature {i}" for i in range(maps.shape[1])]
    artists = series.draw_bars(ax, maps, features, [names[i] for i in features], cmap)
    ax.set_xlim(-1.05 * limit, 1.05 * limit)
    return artists
