"""Panels on a sheet: their axes, which of them share limits, colour bars that say so.

`RelevanceDisplay` lays out its panels here.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklrp._checks import import_optional, suggest
from sklrp._wording import say_value

LIMITS = ("shared", "view", "panel")
ROOM = 0.05  # inches, at least, between a caption and a title below it
_LINE = 0.16  # inches that a line of small text is high
_MOST_LINES = 2  # of a colour bar's label
_CAPTION = "caption"  # what marks the line below Axes of cartopy
Place = tuple[int, int]  # row and view of a panel


def check_limits(limits: Any, clip: float) -> None:
    """Raise an error if values cannot be both clipped and within limits that are given."""
    if clip and not isinstance(limits, str):
        raise ValueError(f"clip={clip!r} has no effect on limits={limits!r}: give only one.")
    if not 0 <= clip < 1:
        raise ValueError(f"clip must be in [0, 1), such as 0.001, got {say_value(clip)}.")


def check_colours(cmap: Any) -> None:
    """Raise an error if there is no colour map of a name."""
    mpl = import_optional("matplotlib", extra="plot", user="Drawing")
    if isinstance(cmap, str) and cmap not in mpl.colormaps:
        meant = suggest(cmap, mpl.colormaps)
        raise ValueError(
            "cmap must be the name of a colour map of matplotlib, such as 'RdBu_r', "
            f"got {say_value(cmap)}."
            f"{meant}"
        )


def make_axes(
    ax: Any,
    n_rows: int,
    n_columns: int,
    most_columns: int,
    sizes: dict[int, tuple[float, float]],
    projection: Any = None,
) -> NDArray[np.object_]:
    """Return Axes for rows and columns of panels: the given ones, or Axes of a new figure."""
    n_panels = n_rows * n_columns
    if ax is not None:
        given = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
        if len(given) != n_panels:
            raise ValueError(
                f"ax must hold {n_panels} Axes, one for each panel in {n_rows} rows and "
                f"{n_columns} columns, got {len(given)}."
            )
        return given.reshape(n_rows, n_columns)
    plt = import_optional("matplotlib.pyplot", extra="plot", user="Drawing")

    # A single column is laid out in rows; sizes are in inches, by the number of panels in a row.
    wide, high = n_columns, n_rows
    if n_columns == 1:
        wide = min(n_rows, most_columns)
        high = -(-n_rows // wide)
    width, height = sizes[min(wide, max(sizes))]
    figsize = (width * wide + 1.2, height * high + 0.5)
    _, axes = plt.subplots(
        *(high, wide),
        figsize=figsize,
        layout="constrained",
        squeeze=False,
        subplot_kw={"projection": projection},
    )
    for left_over in axes.ravel()[n_panels:]:
        left_over.remove()
    return axes.ravel()[:n_panels].reshape(n_rows, n_columns)


def group_places(places: list[Place], limits: str | float) -> list[list[Place]]:
    """Return the places of panels that have the same limits."""
    if limits == "view":
        views = sorted({view for _, view in places})
        return [[place for place in places if place[1] == view] for view in views]
    return [[place] for place in places] if limits == "panel" else [places]


def find_limit(values: NDArray, limits: str | float, clip: float) -> tuple[float, str]:
    """Return the limit of absolute values, and what is clipped in words."""
    values = values[np.isfinite(values)]
    largest = float(values.max(initial=0.0))
    if not isinstance(limits, str):
        return float(limits), "values beyond are clipped" if largest > limits else ""
    limit = float(np.quantile(values, 1 - clip)) if values.size else 0.0
    limit = limit or largest or 1.0
    return limit, f"outermost {100 * clip:g}\u00a0% clipped" if largest > limit else ""


def say_limits(places: list[Place], n_panels: int, limits: str | float) -> str:
    """Say whose the limits are, if there are several panels."""
    if not isinstance(limits, str):
        return "limits as given"
    if n_panels == 1:
        return ""
    if len(places) == n_panels:
        return "same limits in all panels"
    return "limits of this panel alone" if len(places) == 1 else "same limits in this column"


def add_colorbar(
    axes: list[Any], image: Any, said: list[str], extend: str, location: str = "right"
) -> tuple[Any, list[str]]:
    """Add the colour bar of panels, and return it with what its label has no room for.

    Parameters
    ----------
    axes : list of Axes
        The panels.
    image : artist
        What the colours are of.
    said : list of str
        What the colours mean, first of all, and what else is to be said.
    extend : {"neither", "both"}
        Whether values lie beyond its ends.
    location : {"right", "left", "bottom"}, default="right"
        Where it is. One below the panels has three ticks, for which there is room.

    Returns
    -------
    bar : Colorbar
        The colour bar.
    left : list of str
        What is to be said elsewhere.
    """
    bar = axes[0].figure.colorbar(image, ax=axes, location=location, extend=extend)
    width, height = size_of(axes[0])
    if location == "bottom":
        limit = image.get_clim()[1]
        bar.set_ticks([-limit, 0, limit], labels=[f"−{limit:.2g}", "0", f"{limit:.2g}"])
    else:
        figure = axes[0].figure  # or one inside another
        width = 0.8 * figure.bbox.height / figure.dpi if len(axes) > 1 else height
    label, left = part_notes(list(filter(None, said)), width)
    bar.set_label(label, fontsize="small")
    return bar, left


def part_notes(said: list[str], inches: float) -> tuple[str, list[str]]:
    """Return a text of at most two lines, beginning with the first note, and what is left."""
    label, *others = said
    left = []
    if count_lines(label, inches) > _MOST_LINES:
        left.append(f"colours: {label}")
        label = _shorten_unit(label, inches)
    letters = count_letters(inches)
    lines = textwrap.wrap(label, letters)
    while others:
        *first, last = lines
        ways = (
            [*first, f"{last}; {others[0]}"],
            [*first, f"{last};", others[0]],
            textwrap.wrap(f"{' '.join(lines)}; {others[0]}", letters),
        )
        fitting = [w for w in ways if len(w) <= _MOST_LINES and max(map(len, w)) <= letters]
        if not fitting:
            break
        lines = fitting[0]
        others.pop(0)
    return as_text("\n".join(lines)), left + others


def _shorten_unit(unit: str, inches: float) -> str:
    """Return what colours mean without whose relevance it is, or as far as there is room."""
    found = re.fullmatch(r"((?:\w+ )?relevance)\b.*?( \([^()]*\))?(?:, .*)?", unit)
    short = unit if found is None else found[1] + (found[2] or "")
    if count_lines(short, inches) > _MOST_LINES:
        short = textwrap.shorten(short, _MOST_LINES * count_letters(inches) - 8, placeholder=" …")
    return short


def add_caption(ax: Any, text: str) -> None:
    """Write a line below Axes, below the label or the line that they have there."""
    said = wrap(text, size_of(ax)[0])
    if not hasattr(ax, "projection"):
        ax.set_xlabel("\n".join(filter(None, [ax.get_xlabel(), said])), fontsize="small")
        return
    # Cartopy's have no label.
    before = next((one for one in ax.texts if one.get_gid() == _CAPTION), None)
    if before is not None:
        before.set_text(f"{before.get_text()}\n{said}")
        return
    where: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
    where |= {"ha": "center", "va": "top", "fontsize": "small", "gid": _CAPTION}
    ax.annotate(said, (0.5, 0), (0, -18), **where)


def add_foot(figure: Any, text: str) -> None:
    """Write lines at the foot of a figure of our own, and give it the height that they take."""
    said = wrap(text, 0.95 * figure.get_figwidth())
    figure.set_figheight(figure.get_figheight() + _LINE * (1 + said.count("\n")))
    figure.supxlabel(said, fontsize="small")


def make_room(axes: list[Any]) -> None:
    """Raise the lower edges of Axes whose captions meet what is below, where no engine does it."""
    figure = axes[0].figure
    if figure.get_layout_engine() is not None:
        return
    for _ in range(4):  # Axes of equal aspect are centred anew, so that once need not do
        boxes = {ax: ax.get_tightbbox() for ax in figure.axes if ax.get_visible()}
        places = {ax: ax.get_position(original=True) for ax in axes}
        raised: dict[float, float] = {}  # the same for all of a row
        for ax, place in places.items():
            missing = _find_top_below(ax, boxes) + ROOM * figure.dpi - boxes[ax].y0
            share = min(missing / figure.bbox.height, place.height / 2)
            raised[place.y0] = max(share, raised.get(place.y0, 0.0))
        if not any(raised.values()):
            return
        for ax, place in places.items():
            up = raised[place.y0]
            ax.set_position([place.x0, place.y0 + up, place.width, place.height - up])
            ax.set_in_layout(True)  # as before: a layout that comes later may move it


def _find_top_below(ax: Any, boxes: dict[Any, Any]) -> float:
    """Return the top, in pixels, of what lies below Axes, minus infinity if nothing does."""
    box, floor = boxes[ax], ax.get_position().y0
    tops = [
        other.y1
        for one, other in boxes.items()
        if one.get_position().y1 <= floor and other.x0 < box.x1 and box.x0 < other.x1
    ]
    return max(tops, default=-np.inf)


def size_of(ax: Any) -> tuple[float, float]:
    """Return the width and height of Axes in inches."""
    box = ax.get_window_extent()
    return box.width / ax.figure.dpi, box.height / ax.figure.dpi


def wrap(text: str, inches: float) -> str:
    """Break a small text into lines of a length, as text for matplotlib."""
    return as_text(textwrap.fill(text, count_letters(inches)))


def count_lines(text: str, inches: float) -> int:
    """Return how many lines of a length a small text takes."""
    return len(textwrap.wrap(text, count_letters(inches)))


def count_letters(inches: float) -> int:
    """Return how many letters of a small text a line has."""
    return max(int(inches / 0.068), 20)


def as_text(said: Any) -> str:
    r"""Return a name as matplotlib takes text: between two ``$`` it would read mathematics."""
    return str(said).replace("$", r"\$")
