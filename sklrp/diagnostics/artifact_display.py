"""The pictures of findings: graded maps, profiles, a statistic beside its null.

`Finding.plot` and `ArtifactReport.plot` draw with `ArtifactDisplay`, and so do users who pass a
model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklrp._checks import import_optional
from sklrp._constraints import AXES, constrained
from sklrp._frame import Frame, make_frame
from sklrp.diagnostics.borders import EDGE
from sklrp.diagnostics.fact_map import artifact_map
from sklrp.diagnostics.findings import Finding, drawn_by
from sklrp.diagnostics.graded_maps import draw_grades, draw_skill, draw_stable
from sklrp.drawing import sheet
from sklrp.drawing.fields import write_latitude, write_longitude
from sklrp.geo.places import Grid, move_grid

# Colours of Okabe and Ito, which people of every colour vision can tell apart.
_MAP, _INPUT, _NULL = "#D55E00", "0.2", "#0072B2"


@drawn_by
class ArtifactDisplay:
    """The picture of a `Finding`.

    Make it with `from_estimator` or `from_finding`. A finding of `artifact_map` shows the mean
    map by its grades, the skill map, and how much of the map is where the skill is; dots are
    facts, an outline goes round cells that carry skill, hatched cells say nothing alone. One of
    `skill_map` shows the skill of cells, a panel for each output. One with profiles shows how the
    map, the input and untrained maps are shared out along each axis, and marks what the test
    looks at; one with layers, how similarity falls as they are randomised; any other, its
    statistic and interval beside every draw of the null.

    Parameters
    ----------
    finding : Finding
        What a test found.
    lat, lon : array-like or None, default=None
        Of maps of fields, latitudes of the rows and longitudes of the columns in degrees. None
        (default): what the finding knows of the samples.
    land : array-like of bool or None, default=None
        True at cells of a field that have no value, which are drawn grey. Rows of features hold
        the cells that are not land. None (default): what the finding knows of the samples.

    Attributes
    ----------
    finding, lat, lon, land
        The same, or what the finding knows.
    figure_ : matplotlib.figure.Figure
        The figure.
    axes_ : ndarray of matplotlib.axes.Axes
        The panels.
    artists_ : dict of str to artist
        Images or lines by name.
    """

    figure_: Any
    axes_: NDArray[np.object_]
    artists_: dict[str, Any]

    @constrained({"finding": [Finding]})
    def __init__(
        self, finding: Finding, *, lat: Any = None, lon: Any = None, land: Any = None
    ) -> None:
        self.finding = finding
        self._frame = _find_frame(finding, lat, lon, land)
        self.lat = self._frame.latitude
        self.lon = self._frame.longitude
        self.land = self._frame.land

    @classmethod
    @constrained({"ax": AXES}, skip_nested=False)
    def from_estimator(
        cls, model: Any, X: Any, y: Any, *, ax: Any = None, **kwargs: Any
    ) -> ArtifactDisplay:
        """Grade the cells of a map and draw them.

        Parameters
        ----------
        model : estimator, skorch net, nn.Module, Pipeline, search or FrozenEstimator
            The fitted model, as `sklrp.explain` takes it. A `sklrp.geo.GridVectorizer` among its
            steps gives coordinates and land.
        X : array-like of shape (n_samples, ...)
            Samples that the model was not trained on.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Their labels or values.
        ax : matplotlib.axes.Axes, array of Axes or None, default=None
            As in `plot`.
        **kwargs : dict
            Further parameters of `sklrp.diagnostics.artifact_map`, such as ``rule``.

        Returns
        -------
        ArtifactDisplay
            The display, drawn.
        """
        return cls.from_finding(artifact_map(model, X, y, **kwargs), ax=ax)

    @classmethod
    @constrained({"finding": [Finding], "ax": AXES})
    def from_finding(cls, finding: Finding, *, ax: Any = None) -> ArtifactDisplay:
        """Draw a finding.

        Parameters
        ----------
        finding : Finding
            What a test found.
        ax : matplotlib.axes.Axes, array of Axes or None, default=None
            As in `plot`.

        Returns
        -------
        ArtifactDisplay
            The display, drawn.
        """
        return cls(finding).plot(ax=ax)

    @constrained({"ax": AXES})
    def plot(self, *, ax: Any = None) -> ArtifactDisplay:
        """Draw the panels.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, array of Axes or None, default=None
            Three for graded maps, one for each output of a skill map and for each axis of a
            sample for profiles, else one; None makes a figure.

        Returns
        -------
        ArtifactDisplay
            The display itself.

        Raises
        ------
        ValueError
            If there is not an Axes for each panel.
        """
        finding = self.finding
        self.artists_ = {}
        if "missed" in finding:
            self._keep(*draw_grades(finding, self._frame, ax))
        elif "stability" in finding:
            self._keep(*draw_stable(finding, self._frame, ax))
        elif "true_fdr" in finding:
            self._keep(*draw_skill(finding, self._frame, ax))
        elif "profiles" in finding:
            self._draw_profiles(ax)
        elif "layer_similarity" in finding:
            self._draw_layers(self._panels(ax, 1)[0])
        else:
            self._draw_null(self._panels(ax, 1)[0])
        return self

    def _keep(self, axes: Any, artists: dict[str, Any]) -> None:
        """Set `axes_`, `figure_` and `artists_`."""
        self.axes_, self.figure_, self.artists_ = axes, axes[0].figure, artists

    def _panels(self, ax: Any, n: int, width: float = 4.6, height: float = 2.8) -> Any:
        """Set `axes_` and `figure_`, one panel beside the other."""
        plt = import_optional("matplotlib.pyplot", extra="plot", user="ArtifactDisplay")

        if ax is None:
            _, ax = plt.subplots(1, n, figsize=(width * n, height), layout="constrained")
        self.axes_ = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
        if len(self.axes_) != n:
            raise ValueError(f"ax must hold {n} Axes, one for each panel, got {len(self.axes_)}.")
        self.figure_ = self.axes_[0].figure
        return self.axes_

    def _draw_profiles(self, ax: Any) -> None:
        finding = self.finding
        panels = self._panels(ax, len(finding.profiles))
        names = self._frame.axis_names
        kinds = {
            "map": (finding.profiles, _MAP, "-"),
            "input": (finding.input_profiles, _INPUT, ":"),
            "untrained": (finding.null_profiles, _NULL, "--"),
        }
        for axis, panel in enumerate(panels):
            for name, (profiles, color, style) in kinds.items():
                profile = profiles[axis]
                line = panel.plot(
                    np.arange(len(profile)), profile, color=color, ls=style, label=name
                )[0]
                self.artists_[f"{name}{axis}"] = line
            panel.set_xlabel(sheet.as_text(f"{names[axis]} (axis {axis} of a sample)"))
            _write_degrees(panel, names[axis], self._frame)
            panel.set_ylim(bottom=0)
        panels[0].set_ylabel("share of |relevance|, of |input|")
        panels[0].legend(frameon=False, fontsize="small")
        panels[0].set_title(f"{finding.name}: {finding.verdict}", loc="left", fontsize="medium")
        if finding.name in ("border", "grid"):
            marked = panels[finding.axis]
            profile = finding.profiles[finding.axis]
            if finding.name == "border":
                ends = [(-0.5, EDGE - 0.5), (len(profile) - EDGE - 0.5, len(profile) - 0.5)]
                self.artists_["marks"] = [
                    marked.axvspan(*end, color=_MAP, alpha=0.15, lw=0) for end in ends
                ]
            else:
                self.artists_["marks"] = [
                    marked.axvline(place, color=_MAP, lw=0.6, alpha=0.5)
                    for place in _find_peaks(profile, finding.period)
                ]
            said = f"{finding.statistic:.3g}, untrained {finding.usual:.3g}"
            if finding.name == "grid":
                said = f"period {finding.period}: {said}"
            marked.set_title(said, loc="right", fontsize="small")

    def _draw_layers(self, panel: Any) -> None:
        finding = self.finding
        names = ["trained", *finding.layers]
        values = [1.0, *finding.layer_similarity]
        self.artists_["similarity"] = panel.plot(range(len(names)), values, "o-", color=_MAP)[0]
        if len(finding.null):
            usual = float(np.mean(finding.null))
            self.artists_["null"] = panel.axhline(
                usual, color=_NULL, ls="--", label="random pairs"
            )
            panel.legend(frameon=False, fontsize="small")
        shown = list(map(sheet.as_text, names))
        panel.set_xticks(range(len(names)), shown, rotation=30, ha="right", fontsize="small")
        panel.set_ylim(0, 1.05)
        panel.set_ylabel("|cosine| with the map")
        panel.set_xlabel("randomised up to this layer")
        panel.set_title(f"{finding.name}: {finding.verdict}", loc="left", fontsize="medium")

    def _draw_null(self, panel: Any) -> None:
        """Draw the statistic with its interval, and every draw of the null below it."""
        finding = self.finding
        null = np.asarray(finding.null, dtype=float).ravel()
        null = np.sort(null[np.isfinite(null)])
        if len(null) and null[0] == null[-1]:  # one value, such as chance
            null = null[:1]
        low, high = finding.interval
        self.artists_["interval"] = panel.hlines(1, low, high, color=_MAP, lw=2.5, alpha=0.5)
        self.artists_["statistic"] = panel.plot([finding.statistic], [1], "o", color=_MAP, ms=8)[0]
        rows = [(1, "found,\n95 % interval")]
        if len(null):
            # Draws of about the same value stand side by side, not on top of each other.
            height = np.zeros(1) if len(null) == 1 else 0.5 * ((0.618 * np.arange(len(null))) % 1)
            self.artists_["null"] = panel.plot(
                null, height - height.mean(), "o", color=_NULL, mfc="none", ms=5, alpha=0.8
            )[0]
            rows.append((0, "null" if len(null) == 1 else f"null, {len(null)} draws"))
        panel.set_yticks(*zip(*rows, strict=True))
        panel.set_ylim(-0.5 if len(null) else 0.5, 1.5)
        values = np.concatenate([null, [finding.statistic], np.asarray(finding.interval, float)])
        values = values[np.isfinite(values)]
        if values.size:
            margin = 0.08 * np.ptp(values) or 0.1 * abs(values[0]) or 1.0
            panel.set_xlim(values.min() - margin, values.max() + margin)
        said = f"{finding.statistic:.3g} [{low:.3g}, {high:.3g}]: {finding.reading}"
        panel.set_xlabel(sheet.wrap(said, sheet.size_of(panel)[0]), fontsize="small")
        panel.set_title(f"{finding.name}: {finding.verdict}", loc="left", fontsize="medium")


def _find_frame(finding: Finding, lat: Any, lon: Any, land: Any) -> Frame:
    """Return what the samples behind a finding are, by what is known and what is given."""
    known: Frame | None = finding.get("frame")
    if known is not None and lat is None and lon is None and land is None:
        return known
    grid = seen = None
    shape: tuple[int, ...] = (1,)
    if known is not None:
        shape, seen = known.entering, known.seen
        if known.is_field:
            grid = Grid(
                known.cells, known.latitude, known.longitude, known.land, known.valid, known.turned
            )
    elif "skill" in finding:
        shape = np.shape(finding.skill)
    elif "profiles" in finding:
        shape = tuple(map(len, finding.profiles))
    return make_frame(shape, seen=seen, grid=move_grid(grid, lat, lon), land=land)


def _write_degrees(panel: Any, name: str, frame: Frame) -> None:
    """Write positions along a horizontal axis in degrees, if they are known."""
    write = {"latitude": write_latitude, "longitude": write_longitude}.get(name)
    centres = {"latitude": frame.latitude, "longitude": frame.longitude}.get(name)
    if write is None or centres is None:
        return
    from matplotlib.ticker import FuncFormatter

    def say(position: float, _: Any = None) -> str:
        at = round(position)
        return write(centres[at]) if 0 <= at < len(centres) else ""

    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.xaxis.set_major_formatter(FuncFormatter(say))


def _find_peaks(profile: NDArray, period: int) -> NDArray[np.intp]:
    """Return the positions, a period apart, that hold most of a profile."""
    sums = [profile[first::period].mean() for first in range(period)]
    return np.arange(int(np.argmax(sums)), len(profile), period)
