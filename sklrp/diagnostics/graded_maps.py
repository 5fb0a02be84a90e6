"""The pictures of `skill_map`, `artifact_map` and stability: maps, marked by what cells are.

`ArtifactDisplay` draws with them. Marks mean the same in all: an outline goes round cells that
carry the skill, dots say that something is found there, crossed lines that a cell misleads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklrp._checks import import_optional
from sklrp._frame import Frame
from sklrp.diagnostics.findings import Finding
from sklrp.drawing import captions, sheet
from sklrp.drawing.overlays import Overlay, find_mask, make_handles
from sklrp.drawing.picture import DIVERGING, draw_map, panel_sizes
from sklrp.drawing.series import rank_features

MOST_OUTPUTS = 6  # that have a panel
MOST_BARS = 20
# Colours of Okabe and Ito, which people of every colour vision can tell apart.
_MAP, _INPUT, _NULL = "#D55E00", "0.2", "#0072B2"


def say_skill(finding: Finding, frame: Frame, output: int | None = None) -> str:
    """Return the answer of a skill map in one sentence.

    Parameters
    ----------
    finding : Finding
        What `skill_map` found.
    frame : Frame
        What a sample is.
    output : int or None, default=None
        Of several outputs, which one.

    Returns
    -------
    str
        The sentence.
    """
    at = () if output is None else (output,)
    true = find_mask(frame, finding.true[at], "true")
    n_cells, n_true = _count_cells(frame), int(true.sum())
    cells = _name_cells(frame)
    if n_true or finding.p_skill <= finding.alpha:
        held = f"(family-wise p\u00a0≤\u00a0{_write_p(finding.alpha)})"
        if n_true:
            return f"{n_true} of {n_cells} {cells} carry the skill {held}"
        return f"The skill is real, but none of {n_cells} {cells} is told from none {held}"
    return (
        f"No skill beyond that of permuted labels (p = {_write_p(finding.p_skill)}): "
        f"none of {n_cells} {cells} is told from none"
    )


def say_grades(finding: Finding, frame: Frame) -> str:
    """Return the answer of an artifact map in one sentence.

    Parameters
    ----------
    finding : Finding
        What `artifact_map` found.
    frame : Frame
        What a sample is.

    Returns
    -------
    str
        The sentence.
    """
    fact, missed = (find_mask(frame, finding[name], name).sum() for name in ("fact", "missed"))
    cells = _name_cells(frame)
    decides = _say_way(finding, cells)
    if not fact + missed:
        return (
            f"{decides}No {cells} are told from such as know nothing, so the map cannot be graded"
        )
    shares = [
        f"{_percent(finding.mass)} of the map",
        f"{_percent(finding.input_mass)} of the input",
    ]
    null = _finite(finding.null_mass)
    if null.size:
        low, high = _percent(null.min()), _percent(null.max())
        null_share = low if low == high else f"{low} to {high}"
        shares.append(f"{null_share} of untrained networks' maps")
    return (
        f"{decides}{fact} of {fact + missed} {cells} found to carry skill stand out in the map. "
        f"The {fact + missed} hold {', '.join(shares[:-1])} and {shares[-1]}"
    )


def _say_way(finding: Finding, cells: str) -> str:
    """Return a sentence of the number that decides, nothing where there is none."""
    way = finding.get("way", np.nan)
    if finding.get("by_mass") or np.isnan(way):
        return ""
    rival = {"input": "the input"}.get(finding.rival, finding.rival)
    return (
        f"All {cells} weighed by skill, the map is {way:.2f} of the way from {rival} to the "
        f"network's contributions (true: {finding.verdict}). "
    )


def draw_skill(finding: Finding, frame: Frame, ax: Any = None) -> tuple[Any, dict[str, Any]]:
    """Draw a skill map, a panel for each output.

    Parameters
    ----------
    finding : Finding
        What `skill_map` found.
    frame : Frame
        What a sample is.
    ax : matplotlib.axes.Axes, array of Axes or None, default=None
        One for each output; None makes a figure.

    Returns
    -------
    axes : ndarray of matplotlib.axes.Axes
        The panels.
    artists : dict of str to artist
        ``"skill"``, of several outputs ``"skill0"``, ..., and ``"marks"``, the same by style.
    """
    several = finding.skill.ndim > len(frame.entering)
    outputs: list[int | None] = [None]
    if several:
        outputs = list(range(min(len(finding.skill), MOST_OUTPUTS)))
    sizes = {n: (w, h + 0.5) for n, (w, h) in panel_sizes(frame, MOST_BARS).items()}
    axes = sheet.make_axes(ax, len(outputs), 1, 3, sizes).ravel()
    artists: dict[str, Any] = {}
    marked: list[Overlay] = []
    for panel, output in zip(axes, outputs, strict=True):
        at = () if output is None else (output,)
        marks = _mark_skill(finding, frame, at)
        marked += marks
        label = (
            f"skill (units of the score); all sum to {finding.skill[at].sum():.3g}; detectable "
            f"from {np.median(finding.detectable[at]):.2g} on (median)"
        )
        drawn = _draw_one(panel, frame, finding.skill[at], marks, label)
        end = "" if output is None else str(output)
        artists["skill" + end], artists["marks" + end] = _main_artist(drawn), drawn["marks"]
        said = say_skill(finding, frame, output)
        _set_title(panel, said if output is None else f"output {output}: {said}")
    _add_legend(axes, frame, marked, own=ax is None)
    if several and len(finding.skill) > len(outputs):
        left_out = f"The first {len(outputs)} of {len(finding.skill)} outputs"
        axes[0].figure.suptitle(left_out, fontsize="medium")
    return axes, artists


def draw_grades(finding: Finding, frame: Frame, ax: Any = None) -> tuple[Any, dict[str, Any]]:
    """Draw the mean map by its grades, the skill map, and the map's mass beside its nulls'.

    Parameters
    ----------
    finding : Finding
        What `artifact_map` found.
    frame : Frame
        What a sample is.
    ax : array of 3 matplotlib.axes.Axes or None, default=None
        Where to draw; None makes a figure.

    Returns
    -------
    axes : ndarray of matplotlib.axes.Axes
        The panels.
    artists : dict of str to artist
        ``"mean"`` and ``"skill"``, ``"marks"`` of the first (by style), ``"mass"``,
        ``"input_mass"`` and ``"null_mass"``.
    """
    axes = _lay_out_grades(frame) if ax is None else np.atleast_1d(np.asarray(ax, object)).ravel()
    if len(axes) != 3:
        raise ValueError(f"ax must hold 3 Axes, one for each panel, got {len(axes)}.")
    marks = _mark_grades(finding, frame)
    carries = [mark for mark in marks if mark.style in ("outline", "crosshatch")]
    features = None
    if frame.layout == "table":
        features, _ = rank_features([frame.bring(finding.mean[np.newaxis])], MOST_BARS)
    shares = "mean relevance (share of map)"
    mean = _draw_one(axes[0], frame, finding.mean, marks, shares, features)
    skill = _draw_one(
        axes[1], frame, finding.skill, carries, "skill (units of the score)", features
    )
    if features is not None:
        axes[1].tick_params(labelleft=False)
    _set_title(axes[0], "What the map shows")
    _set_title(axes[1], f"Where the skill is: {_outlined(finding)}")
    artists = {"mean": _main_artist(mean), "marks": mean["marks"], "skill": _main_artist(skill)}
    artists |= draw_mass(axes[2], finding)
    if ax is None:
        said = sheet.wrap(say_grades(finding, frame), 6.5)
        axes[0].figure.suptitle(said, fontsize="large")
    _add_legend(axes[:1], frame, marks, own=ax is None)
    return axes, artists


def draw_stable(finding: Finding, frame: Frame, ax: Any = None) -> tuple[Any, dict[str, Any]]:
    """Draw the mean map of several networks, and how far they are spread.

    Parameters
    ----------
    finding : Finding
        What `diagnose` found of stability.
    frame : Frame
        What a sample is.
    ax : array of 2 matplotlib.axes.Axes or None, default=None
        Where to draw; None makes a figure.

    Returns
    -------
    axes : ndarray of matplotlib.axes.Axes
        The panels.
    artists : dict of str to artist
        ``"mean"``, ``"spread"`` and ``"marks"`` (by style).
    """
    axes = sheet.make_axes(ax, *((2, 1) if frame.layout == "sequence" else (1, 2)), 1,
                           panel_sizes(frame, MOST_BARS)).ravel()  # fmt: skip
    marks = [
        _mark(frame, finding.common, "stipple", "any such network's: they agree, this one too"),
        _mark(frame, finding.own, "hatch", "this network's own"),
    ]
    features = None
    if frame.layout == "table":
        features, _ = rank_features([frame.bring(finding.mean[np.newaxis])], MOST_BARS)
        axes[1].tick_params(labelleft=False)
    n = len(finding.maps)
    mean = _draw_one(axes[0], frame, finding.mean, marks, "mean relevance", features)
    spread = _draw_one(
        axes[1], frame, finding.spread, (), "standard deviation", features, signed=False
    )
    _set_title(axes[0], f"Mean of {n} networks: {_percent(finding.share)} of this map is common")
    _set_title(axes[1], f"Spread over {n} networks")
    _add_legend(axes, frame, marks, own=ax is None)
    return axes, {
        "mean": _main_artist(mean), "spread": _main_artist(spread), "marks": mean["marks"]
    }  # fmt: skip


def draw_mass(ax: Any, finding: Finding) -> dict[str, Any]:
    """Draw the map's mass on cells that carry the skill, the input's and the nulls' below.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Where to draw.
    finding : Finding
        What `artifact_map` found.

    Returns
    -------
    dict of str to artist
        ``"mass"``, ``"input_mass"`` and, if there are nulls, ``"null_mass"``.
    """
    null = _finite(finding.null_mass)
    artists = {
        "mass": ax.plot([finding.mass], [2], "o", color=_MAP, ms=9)[0],
        "input_mass": ax.plot([finding.input_mass], [1], "s", color=_INPUT, ms=7)[0],
    }
    rows = {2: "this map", 1: "the input"}
    if null.size:
        ax.hlines(0, null.min(), null.max(), color=_NULL, lw=1.5)
        artists["null_mass"] = ax.plot(
            null, np.zeros(len(null)), "o", color=_NULL, ms=5, mfc="none"
        )[0]
        rows[0] = "networks that\nlearned nothing"
    ax.set_yticks(list(rows), list(rows.values()))
    ax.set_ylim(min(rows) - 0.6, 2.6)
    ax.set_xlim(0, 1.08 * max(finding.mass, finding.input_mass, null.max(initial=0.0), 1e-3))
    ax.grid(axis="x", color="0.9")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g}\u00a0%")
    ax.set_xlabel("share of |relevance|, and of the input's |departure from its mean|")
    _set_title(ax, "How much of the map is outlined")
    return artists


def _outlined(finding: Finding) -> str:
    """Say how much of the skill is outlined, of what adds to it: the rest takes from the sum."""
    adds = np.maximum(np.nan_to_num(finding.skill), 0.0)
    share = adds[finding.fact | finding.missed].sum() / (adds.sum() or 1.0)
    return f"{_percent(share)} of positive skill outlined"


def _mark_skill(finding: Finding, frame: Frame, at: tuple[int, ...]) -> list[Overlay]:
    """Return the marks over a skill map, with their counts if there is one output."""
    marks = {
        "stipple": ("true_fdr", f"carries skill (false discoveries ≤ {finding.alpha:.0%})"),
        "outline": (
            "true",
            f"carries skill (family-wise p\u00a0≤\u00a0{_write_p(finding.alpha)})",
        ),
        "crosshatch": ("misleading", "misleading: speaks against the truth"),
    }
    made = [
        _mark(frame, finding[name][at], style, label) for style, (name, label) in marks.items()
    ]
    if at:
        return [mark._replace(label=marks[mark.style][1]) for mark in made]
    return made


def _mark_grades(finding: Finding, frame: Frame) -> list[Overlay]:
    """Return the marks over a map that is graded."""
    missed = find_mask(frame, finding.missed, "missed").sum()
    dots = "a star" if frame.layout == "table" else "dots"
    without = f"; without {dots} it does not stand out in the map ({missed})" if missed else ""
    causes = {
        name: find_mask(frame, cells & finding.unsupported, name).sum()
        for name, cells in finding.causes.items()
    }
    known = ", ".join(f"{n} {name}" for name, n in causes.items() if n)
    known = f": {known}" if known else ""
    return [
        _mark(frame, finding.fact, "stipple", "fact: it carries skill, and stands out in the map"),
        _mark(frame, finding.unsupported, "hatch", "used, alone it says nothing", known),
        _mark(frame, finding.fact | finding.missed, "outline", "carries the skill", without),
        _mark(frame, finding.misleading, "crosshatch", "misleading: speaks against the truth"),
    ]


def _mark(frame: Frame, mask: Any, style: str, label: str, end: str = "") -> Overlay:
    """Return a mark whose label counts its cells."""
    drawn = find_mask(frame, mask, style)
    return Overlay(style, drawn, f"{label} ({np.count_nonzero(drawn)}){end}")


def _draw_one(
    ax: Any,
    frame: Frame,
    values: NDArray,
    marks: Sequence[Overlay],
    label: str,
    features: NDArray[np.intp] | None = None,
    *,
    signed: bool = True,
) -> dict[str, Any]:
    """Draw one map with its marks and its colour bar, from zero or symmetric about it."""
    from matplotlib.ticker import MaxNLocator

    maps = frame.bring(values[np.newaxis])
    limit = float(np.nanmax(np.abs(maps), initial=0.0)) or 1.0
    if frame.layout == "table" and features is None:
        features, _ = rank_features([maps], MOST_BARS)
    artists: dict[str, Any] = {
        "marks": {},
        **draw_map(
            ax, frame, maps, limit=limit, cmap=DIVERGING if signed else "cividis",
            features=features, overlays=marks,
        ),
    }  # fmt: skip
    if frame.layout == "table":
        n_bars = len(artists["bars"])
        left_out = "" if n_bars == maps.shape[1] else f"; the {n_bars} largest"
        ax.set_xlabel(sheet.wrap(label + left_out, sheet.size_of(ax)[0]), fontsize="small")
        ax.set_xlim(-1.15 * limit, 1.15 * limit)  # room for stars
        return artists
    if not signed:
        artists["image"].set_clim(0, limit)
    if frame.is_field and frame.n_channels > 1:
        label += f"; summed over {frame.n_channels} channels"
    label = "; ".join(filter(None, [label, captions.say_grey([maps], frame.land)]))
    if frame.layout == "sequence":
        ax.set_ylabel("variable" if len(frame.shape) > 1 else sheet.as_text(label.split(" (")[0]))
    beside = ax.inset_axes([1.03, 0, 0.04 if frame.is_field else 0.02, 1])  # as high as the map
    # Of a number that does not depend on the height, which the layout changes after it made room.
    ticks = MaxNLocator(5, steps=[1, 2, 5, 10])
    bar = ax.figure.colorbar(artists["image"], cax=beside, ticks=ticks)
    bar.set_label(sheet.wrap(label, max(sheet.size_of(ax)[1], 1.8)), fontsize="small")
    return artists


def _lay_out_grades(frame: Frame) -> NDArray[np.object_]:
    """Return the Axes of a figure: two maps, and the mass below them."""
    plt = import_optional("matplotlib.pyplot", extra="plot", user="ArtifactDisplay")

    sizes = panel_sizes(frame, MOST_BARS)
    if frame.layout == "sequence":
        width, height = sizes[1]
        figure = plt.figure(figsize=(width + 1.2, 2 * height + 2.9), layout="constrained")
        grid = figure.add_gridspec(3, 1, height_ratios=[height, height, 1.5])
        return np.array([figure.add_subplot(grid[row, 0]) for row in range(3)])
    width, height = (1.15 * inches for inches in sizes[min(2, max(sizes))])
    figure = plt.figure(figsize=(2 * width + 1.6, height + 2.9), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=[height, 1.5])
    places = [grid[0, 0], grid[0, 1], grid[1, :]]
    return np.array([figure.add_subplot(place) for place in places])


def _add_legend(axes: Any, frame: Frame, marks: Sequence[Overlay], *, own: bool) -> None:
    """Add a legend of marks below: of the figure, if it is our own, else of the first panel."""
    handles = make_handles(
        list({mark.style: mark for mark in marks if mark.n_cells}.values()), frame.layout
    )
    style = {"handles": handles, "fontsize": "small", "frameon": False}
    if own and handles:
        figure = axes[0].figure
        n_columns = 2 if figure.get_figwidth() > 6 else 1
        figure.legend(loc="outside lower center", ncols=n_columns, **style)
    elif handles:
        below = -(0.9 if axes[0].get_xlabel() else 0.4) / sheet.size_of(axes[0])[1]
        axes[0].legend(loc="upper left", bbox_to_anchor=(0, below), borderaxespad=0, **style)


def _set_title(ax: Any, said: str) -> None:
    ax.set_title(sheet.wrap(said, 0.85 * sheet.size_of(ax)[0]), fontsize="medium")


def _main_artist(drawn: dict[str, Any]) -> Any:
    return drawn["bars"] if "bars" in drawn else drawn["image"]


def _count_cells(frame: Frame) -> int:
    """Return how many cells, steps or features are drawn, land left out."""
    return int(find_mask(frame, np.ones(frame.entering, dtype=bool), "true").sum())


def _name_cells(frame: Frame) -> str:
    return {"field": "cells", "sequence": "steps", "table": "features"}[frame.layout]


def _percent(share: float) -> str:
    return f"{100 * share:.{0 if share >= 0.095 else 1}f}\u00a0%"


def _write_p(p: float) -> str:
    """Write a p-value as journals do, without its leading zero."""
    return f"{p:.2g}".removeprefix("0") if p >= 1e-4 else "< .0001"


def _finite(values: Any) -> NDArray[np.float64]:
    found = np.asarray(values, dtype=np.float64).ravel()
    return found[np.isfinite(found)]
