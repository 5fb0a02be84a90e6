"""The pictures of findings: fact and artifact maps, profiles, a statistic beside its null."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklrp._checks import check_field_mask, import_optional
from sklrp.diagnostics.findings import Finding
from sklrp.diagnostics.maps import artifact_map
from sklrp.diagnostics.positions import EDGE
from sklrp.drawing import fields

# Colours of Okabe and Ito, which people of every colour vision can tell apart.
_MAP, _INPUT, _NULL = "#D55E00", "0.2", "#0072B2"


class ArtifactDisplay:
    """The picture of a `Finding`.

    Make it with `from_estimator` or `from_finding`. A finding of `artifact_map` shows the mean
    map, what of it is fact and what is artifact, with the same limits, symmetric about zero; one
    with profiles those of the map, the input and untrained networks, with what the test looks at
    marked; one with layers how similarity falls as they are randomised; any other its statistic
    and interval beside the null.

    Parameters
    ----------
    finding : Finding
        What a test found.
    lat, lon : array-like or None, default=None
        Of maps of fields, latitudes of the rows and longitudes of the columns in degrees.
    land : array-like of bool or None, default=None
        True at cells of a field that have no value, which are drawn grey. Rows of features hold
        the cells that are not land.

    Attributes
    ----------
    finding, lat, lon, land
        The same.
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

    def __init__(
        self, finding: Finding, *, lat: Any = None, lon: Any = None, land: Any = None
    ) -> None:
        self.finding = finding
        self.lat = lat
        self.lon = lon
        self.land = land

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, *, ax: Any = None, **kwargs: Any
    ) -> ArtifactDisplay:
        """Compute fact and artifact map and draw them.

        Parameters
        ----------
        estimator : estimator
            A fitted classifier with ``explain``, or a pipeline that ends in one. A
            `sklrp.geo.GridVectorizer` among its steps gives coordinates and land.
        X : array-like of shape (n_samples, ...)
            The samples.
        ax : matplotlib.axes.Axes, array of Axes or None, default=None
            As in `plot`.
        **kwargs : dict
            Further parameters of `sklrp.diagnostics.artifact_map`, such as ``rule``.

        Returns
        -------
        ArtifactDisplay
            The display, drawn.
        """
        lat, lon, land = fields.find_grid(estimator, X)
        finding = artifact_map(estimator, X, **kwargs)
        return cls(finding, lat=lat, lon=lon, land=land).plot(ax=ax)

    @classmethod
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

    def plot(self, *, ax: Any = None) -> ArtifactDisplay:
        """Draw the panels.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, array of Axes or None, default=None
            Three for maps, one for each axis of a sample for profiles, else one; None makes a
            figure.

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
        if "fact" in finding:
            self._draw_maps(ax)
        elif "profiles" in finding:
            self._draw_profiles(ax)
        elif "layer_similarity" in finding:
            self._draw_layers(self._panels(ax, 1)[0])
        else:
            self._draw_null(self._panels(ax, 1)[0])
        return self

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

    def _draw_maps(self, ax: Any) -> None:
        finding = self.finding
        names = ("mean", "fact", "artifact")
        titles = ("mean map", "fact: exceeds the null", "artifact: the rest")
        maps = [self._place(finding[name]) for name in names]
        panels = self._panels(ax, 3, 3.6, 3.2)
        limit = max(float(np.nanmax(np.abs(m))) for m in maps) or 1.0
        for panel, name, title, values in zip(panels, names, titles, maps, strict=True):
            panel.set_title(title, fontsize="medium")
            if values.ndim == 2:
                lat = fields.check_coordinate(self.lat, "lat", values.shape[0])
                lon = fields.check_coordinate(self.lon, "lon", values.shape[1])
                edges = fields.find_edges(values.shape, lat, lon)
                self.artists_[name] = fields.draw_field(
                    panel, values, edges, "RdBu_r", -limit, limit
                )
                fields.dress_axes(panel, lat is not None, edges)
            else:
                positions = np.arange(max(values.size, 1))
                self.artists_[name] = panel.bar(positions, values.ravel(), color=_MAP, width=1)
                panel.set_ylim(-1.05 * limit, 1.05 * limit)
                panel.set_xlabel("feature")
        if maps[0].ndim > 1:
            bar = self.figure_.colorbar(self.artists_["artifact"], ax=list(panels), shrink=0.8)
            grey = "; grey: land" if np.isnan(maps[0]).any() else ""
            bar.set_label(f"share of relevance\nsame limits in all panels{grey}")

    def _place(self, values: NDArray) -> NDArray:
        """Return a map as a field, channels summed, land missing; or as it is."""
        values = np.squeeze(values)
        land = check_field_mask(self.land, "land")
        if land is not None and values.shape == (np.count_nonzero(~land),):
            full = np.full(land.shape, np.nan)
            full[~land] = values
            return full
        if values.ndim > 2:  # channels first
            values = values.sum(axis=0)
        if land is None or land.shape != values.shape:
            return values
        return np.where(land, np.nan, values)

    def _draw_profiles(self, ax: Any) -> None:
        finding = self.finding
        panels = self._panels(ax, len(finding.profiles))
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
            panel.set_xlabel(f"{_name_axis(axis, len(panels))} (axis {axis} of a sample)")
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
        panel.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize="small")
        panel.set_ylim(0, 1.05)
        panel.set_ylabel("|cosine| with the map")
        panel.set_xlabel("randomised up to this layer")
        panel.set_title(f"{finding.name}: {finding.verdict}", loc="left", fontsize="medium")

    def _draw_null(self, panel: Any) -> None:
        finding = self.finding
        null = np.asarray(finding.null, dtype=float)
        null = null[np.isfinite(null)]
        if len(null) > 1 and np.ptp(null) > 0:
            self.artists_["null"] = panel.hist(
                null, bins=min(20, max(5, len(null) // 4)), color=_NULL, alpha=0.6, label="null"
            )[2]
        elif len(null):
            self.artists_["null"] = panel.axvline(null[0], color=_NULL, ls="--", label="null")
        low, high = finding.interval
        self.artists_["interval"] = panel.axvspan(low, high, color=_MAP, alpha=0.25)
        self.artists_["statistic"] = panel.axvline(
            finding.statistic, color=_MAP, label="map and 95 % interval"
        )
        panel.set_yticks([])
        panel.set_xlabel(finding.name)
        panel.set_title(f"{finding.name}: {finding.verdict}", loc="left", fontsize="medium")
        panel.legend(frameon=False, fontsize="small")


def _name_axis(axis: int, n_axes: int) -> str:
    """Name the positions along an axis of a sample, as far as its number of axes tells."""
    names = {2: ("row", "column"), 3: ("channel", "row", "column")}
    return names[n_axes][axis] if n_axes in names else "position"


def _find_peaks(profile: NDArray, period: int) -> NDArray[np.intp]:
    """Return the positions, a period apart, that hold most of a profile."""
    sums = [profile[first::period].mean() for first in range(period)]
    return np.arange(int(np.argmax(sums)), len(profile), period)
