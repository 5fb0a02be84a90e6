"""Drawing of signals over their relevance, and of features as bars.

What `picture` draws sequences and tables with.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklrp.drawing.fields import MISSING, cell_edges
from sklrp.drawing.sheet import as_text

_ROW_SHARE = 0.8  # of a row's height, which a signal takes


def draw_signal(
    ax: Any, signal: NDArray | None, values: NDArray, steps: NDArray, cmap: str, limit: float
) -> tuple[Any, Any]:
    """Draw the relevance of each step as the colour behind the signal; return mesh and line."""
    import matplotlib as mpl

    # Without a signal the line is the relevance itself.
    line = ax.plot(steps, values if signal is None else signal, color="black", lw=1.2)[0]
    if signal is None:
        ax.set_ylim(-1.05 * limit, 1.05 * limit)
    low, high = ax.get_ylim()
    edges = cell_edges(steps)
    mesh = ax.pcolormesh(
        edges,
        [low, high],
        np.ma.masked_invalid(values[np.newaxis]),
        cmap=mpl.colormaps.get_cmap(cmap).with_extremes(bad=MISSING),
        vmin=-limit,
        vmax=limit,
        zorder=0,
        rasterized=True,
    )
    ax.set_xlim(edges[0], edges[-1])
    ax.set_ylim(low, high)
    return mesh, line


def draw_variables(
    ax: Any,
    signals: NDArray | None,
    values: NDArray,
    steps: NDArray,
    names: list[str] | None,
    cmap: str,
    limit: float,
) -> tuple[Any, list[Any]]:
    """Draw the relevance of several variables, one above the other; return mesh and lines."""
    # Each signal is a line over its row, which it spans from its smallest to its largest value.
    import matplotlib as mpl

    n_variables = len(values)
    mesh = ax.pcolormesh(
        cell_edges(steps),
        np.arange(n_variables + 1) - 0.5,
        np.ma.masked_invalid(values),
        cmap=mpl.colormaps.get_cmap(cmap).with_extremes(bad=MISSING),
        vmin=-limit,
        vmax=limit,
        rasterized=True,
    )
    lines = []
    for row, signal in enumerate(() if signals is None else signals):
        low, high = np.nanmin(signal), np.nanmax(signal)
        height = 0.5 - (signal - low) / (high - low) if high > low else np.zeros(len(signal))
        lines += ax.plot(steps, row + _ROW_SHARE * height, color="black", lw=1.0)
    for border in np.arange(1, n_variables) - 0.5:
        ax.axhline(border, color="white", lw=1.5)
    ax.set_ylim(n_variables - 0.5, -0.5)
    if names is None:
        ax.set_ylabel("variable")
        ax.yaxis.get_major_locator().set_params(integer=True)
    else:
        ax.set_yticks(range(n_variables), list(map(as_text, names)))
    return mesh, lines


def rank_features(views: list[NDArray], n_features: int) -> tuple[NDArray[np.intp], float]:
    """Return the features of most mean absolute relevance, and the share that the others hold."""
    size = np.mean([np.abs(maps).mean(axis=0) for maps in views if len(maps)], axis=0)
    order = np.argsort(-size, kind="stable")[:n_features]
    total = size.sum()
    return order, float(1 - size[order].sum() / total) if total > 0 else 0.0


def draw_bars(
    ax: Any, maps: NDArray, order: NDArray[np.intp], names: list[str], cmap: str
) -> dict[str, Any]:
    """Draw the mean relevance of features as bars, and how it spreads; return the artists."""
    import matplotlib as mpl

    maps = maps[:, order]
    mean, places = maps.mean(axis=0), np.arange(len(order))
    colors = mpl.colormaps.get_cmap(cmap)(np.where(mean < 0, 0.12, 0.88))
    artists = {"bars": ax.barh(places, mean, color=colors, height=0.7)}
    if len(maps) > 1:
        spread = maps.std(axis=0, ddof=1)
        artists["spread"] = ax.hlines(
            places, mean - spread, mean + spread, color="0.25", lw=1.3, label="± 1 std. dev."
        )
        artists["size"] = ax.plot(
            np.abs(maps).mean(axis=0), places, "|", color="black", ms=9, label="mean |relevance|"
        )[0]
    ax.axvline(0, color="0.25", lw=0.8)
    ax.set_yticks(places, list(map(as_text, names)))
    ax.set_ylim(len(order) - 0.5, -0.5)
    return artists


def bar_extent(maps: NDArray, order: NDArray[np.intp]) -> float:
    """Return the largest absolute value that the bars of maps reach."""
    maps = maps[:, order]
    if not len(maps):
        return 0.0
    spread = maps.std(axis=0, ddof=1) if len(maps) > 1 else 0.0
    reach = np.maximum(np.abs(maps.mean(axis=0)) + spread, np.abs(maps).mean(axis=0))
    return float(reach.max())
