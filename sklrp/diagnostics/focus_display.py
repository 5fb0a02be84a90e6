"""The picture of a focus curve: score, share on the mask and profiles over a parameter.

Users make it from an estimator, or from what `focus_curve` found.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklrp._checks import import_optional
from sklrp._constraints import AXES, constrained
from sklrp._wording import say_value
from sklrp.diagnostics.focus import FocusCurve, focus_curve
from sklrp.drawing.sheet import as_text

# Colours of Okabe and Ito, which people of every colour vision can tell apart.
_TEST, _TRAIN, _MASS, _CHANCE = "#0072B2", "#56B4E9", "#D55E00", "0.35"
_LOG_SPAN = 20  # a range of positive values that spans more has a logarithmic axis
_MOST_TICKS = 10  # that stand for values of their own on a logarithmic axis


class FocusCurveDisplay:
    """The score and the place of the relevance over a parameter.

    Make it with `from_estimator` or `from_curve`. One panel shows the score, one the share of the
    relevance on the mask beside what chance and the input alone give, and one, if asked for, how
    relevance is shared out along an axis of a sample for each value.

    Parameters
    ----------
    curve : FocusCurve
        What `sklrp.diagnostics.focus_curve` found.

    Attributes
    ----------
    curve : FocusCurve
        The same.
    figure_ : matplotlib.figure.Figure
        The figure.
    axes_ : ndarray of matplotlib.axes.Axes
        The panels, from the top: score, share on the mask, profile, those that there are.
    lines_ : dict of str to matplotlib.lines.Line2D
        Means over the folds: ``"test"``, ``"train"``, ``"mass"``; and ``"cells"`` and ``"input"``,
        the mask's share of the cells and of the input.
    bands_ : dict of str to artist
        From the smallest to the largest fold: a band, or bars where the values are no numbers.
    image_ : matplotlib.image.AxesImage or None
        The profile: rows are positions; the first column is the input's, then one for each value.
    """

    figure_: Any
    axes_: NDArray[np.object_]
    lines_: dict[str, Any]
    bands_: dict[str, Any]
    image_: Any

    @constrained({"curve": [FocusCurve]})
    def __init__(self, curve: FocusCurve) -> None:
        self.curve = curve

    @classmethod
    @constrained({"ax": AXES}, skip_nested=False)
    def from_estimator(
        cls,
        estimator: Any,
        param_name: str,
        param_range: Iterable[Any],
        X: ArrayLike,
        y: ArrayLike,
        *,
        ax: Any = None,
        profile: int | None = None,
        **kwargs: Any,
    ) -> FocusCurveDisplay:
        """Compute a focus curve and draw it.

        Parameters
        ----------
        estimator : estimator, skorch net, Pipeline or search
            What `sklrp.diagnostics.focus_curve` takes.
        param_name : str
            The parameter.
        param_range : iterable
            Its values.
        X : array-like of shape (n_samples, n_features) or (n_samples, *sample_shape)
            The samples.
        y : array-like of shape (n_samples,)
            Their class labels, or the values of a regression.
        ax : matplotlib.axes.Axes, array of Axes or None, default=None
            As in `plot`.
        profile : int or None, default=None
            As in `plot`.
        **kwargs : dict
            Further parameters of `sklrp.diagnostics.focus_curve`, such as ``mask``.

        Returns
        -------
        FocusCurveDisplay
            The display, drawn.
        """
        curve = focus_curve(estimator, param_name, param_range, X, y, **kwargs)
        return cls.from_curve(curve, ax=ax, profile=profile)

    @classmethod
    @constrained({"curve": [FocusCurve], "ax": AXES})
    def from_curve(
        cls, curve: FocusCurve, *, ax: Any = None, profile: int | None = None
    ) -> FocusCurveDisplay:
        """Draw a focus curve that has been computed.

        Parameters
        ----------
        curve : FocusCurve
            What `sklrp.diagnostics.focus_curve` found.
        ax : matplotlib.axes.Axes, array of Axes or None, default=None
            As in `plot`.
        profile : int or None, default=None
            As in `plot`.

        Returns
        -------
        FocusCurveDisplay
            The display, drawn.
        """
        return cls(curve).plot(ax=ax, profile=profile)

    @constrained({"ax": AXES})
    def plot(self, ax: Any = None, *, profile: int | None = None) -> FocusCurveDisplay:
        """Draw the panels.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, array of Axes or None, default=None
            One for each panel; a single one is divided among them. None makes a figure.
        profile : int or None, default=None
            The axis of a sample, from 0, whose profile is drawn too; axes of length one do not
            count.

        Returns
        -------
        FocusCurveDisplay
            The display itself.

        Raises
        ------
        ValueError
            If there is no such axis of a sample, or not an Axes for each panel.
        """
        n_axes = len(self.curve.profiles)
        if profile is not None and not (isinstance(profile, Integral) and 0 <= profile < n_axes):
            raise ValueError(
                f"profile must be None or an axis of a sample, 0 to {n_axes - 1}, "
                f"got {say_value(profile)}."
            )
        names = ["score"]
        if self.curve.mass is not None:
            names.append("mass")
        if profile is not None:
            names.append("profile")
        self._divide(ax, names)
        self.lines_, self.bands_, self.image_ = {}, {}, None
        for name, panel in zip(names, self.axes_, strict=True):
            if name == "profile":
                self._draw_profile(panel, profile)
            elif name == "mass":
                self._draw_mass(panel)
            else:
                self._draw_scores(panel)
        last = self.axes_[len(names) - 1 - (profile is not None)]
        last.set_xlabel(as_text(self.curve.param_name))
        self.axes_[0].set_title(as_text(self.curve.estimator_name))
        return self

    def _divide(self, ax: Any, names: list[str]) -> None:
        """Set `axes_` and `figure_`: one panel below the other."""
        plt = import_optional("matplotlib.pyplot", extra="plot", user="FocusCurveDisplay")
        from matplotlib.axes import Axes
        from matplotlib.gridspec import GridSpecFromSubplotSpec

        heights = [1.5 if name == "profile" else 1 for name in names]
        if ax is None:
            size = (6.4, 0.8 + 2.1 * sum(heights))
            self.figure_, axes = plt.subplots(
                len(names), 1, figsize=size, height_ratios=heights, layout="constrained"
            )
            self.axes_ = np.atleast_1d(axes)
            return
        if isinstance(ax, Axes) and len(names) > 1:
            ax.set_axis_off()
            place: Any = ax.get_subplotspec()
            grid = GridSpecFromSubplotSpec(
                len(names), 1, place, height_ratios=heights, hspace=0.35
            )
            ax = [ax.figure.add_subplot(grid[i]) for i in range(len(names))]
        self.axes_ = np.atleast_1d(np.asarray(ax, dtype=object))
        if self.axes_.shape != (len(names),):
            raise ValueError(
                f"ax must be one Axes, or an array of {len(names)}, one for each of the panels "
                f"{names}, got {len(self.axes_)}."
            )
        self.figure_ = self.axes_[0].figure

    def _draw_scores(self, panel: Any) -> None:
        curve = self.curve
        self._draw(panel, "train", curve.train_scores, "training", _TRAIN, "s", shift=-0.06)
        self._draw(panel, "test", curve.test_scores, "test", _TEST, "o", shift=0.06)
        panel.set_ylabel(as_text(curve.score_name))
        if "accuracy" in curve.score_name:
            panel.set_ylim(0, 1.04)
        panel.legend(fontsize="small")

    def _draw_mass(self, panel: Any) -> None:
        chance = self.curve.mass_chance
        self._draw(panel, "mass", self.curve.mass, "relevance", _MASS, "o")
        for name, dashes in {"input": (5, 2), "cells": (1, 1.5)}.items():
            self.lines_[name] = panel.axhline(
                chance[name], color=_CHANCE, dashes=dashes, lw=1.3, label=f"share of the {name}"
            )
        panel.set_ylabel("share on the mask")
        panel.set_ylim(bottom=min(0, panel.get_ylim()[0]))
        panel.legend(fontsize="small")

    def _draw(
        self,
        panel: Any,
        name: str,
        values: NDArray,
        label: str,
        color: str,
        marker: str,
        shift: float = 0.0,
    ) -> None:
        """Draw means over the folds, and the range of the folds."""
        places = self._find_places()
        means, low, high = values.mean(axis=1), values.min(axis=1), values.max(axis=1)
        style = {"color": color, "marker": marker, "label": label, "markersize": 5}
        if self._is_numeric():
            order = np.argsort(places)
            places, means, low, high = (a[order] for a in (places, means, low, high))
            (line,) = panel.plot(places, means, **style)
            band = panel.fill_between(places, low, high, color=color, alpha=0.2, lw=0)
            if places[0] > 0 and places[-1] > _LOG_SPAN * places[0]:
                panel.set_xscale("log")
                if len(places) <= _MOST_TICKS:
                    panel.set_xticks(places, [_write(place) for place in places])
                    panel.minorticks_off()
        else:
            (line,) = panel.plot(places + shift, means, ls="none", **style)
            band = panel.vlines(places + shift, low, high, color=color, lw=2)
            panel.set_xticks(places, list(map(as_text, self.curve.param_range)))
            panel.set_xlim(-0.5, len(places) - 0.5)
        self.lines_[name], self.bands_[name] = line, band

    def _draw_profile(self, panel: Any, axis: Any) -> None:
        curve = self.curve
        columns = [curve.input_profiles[axis], *curve.profiles[axis].mean(axis=1)]
        shares = np.stack(columns, axis=1)
        self.image_ = panel.imshow(shares, aspect="auto", cmap="viridis", interpolation="nearest")
        # One position may hold it all.
        limit = float(np.quantile(shares, 0.99)) or float(shares.max()) or 1.0
        self.image_.set_clim(0, limit)
        n_beyond = int((shares > limit).sum())
        panel.axvline(0.5, color="white", lw=3)  # between the input and the maps
        labels = ["input", *(_write(value) for value in curve.param_range)]
        panel.set_xticks(range(len(labels)), list(map(as_text, labels)))
        panel.set_xlabel(f"the input, and the maps for each {curve.param_name}")
        panel.set_ylabel(as_text(f"{curve.axis_names[axis]} (axis {axis} of a sample)"))
        said = f"\n{n_beyond} of {shares.size} values beyond are clipped" if n_beyond else ""
        panel.figure.colorbar(
            self.image_,
            ax=panel,
            extend="max" if n_beyond else "neither",
            label=f"share of |relevance| or |input|{said}",
        )

    def _is_numeric(self) -> bool:
        return all(
            isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(float(value))
            for value in self.curve.param_range
        )

    def _find_places(self) -> NDArray[np.float64]:
        """Return where the values are on the horizontal axis."""
        values = self.curve.param_range
        return np.array(values if self._is_numeric() else range(len(values)), dtype=float)


def _write(value: Any) -> str:
    """Write a value briefly."""
    return f"{value:g}" if isinstance(value, float) else str(value)
