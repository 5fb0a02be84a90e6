"""The picture of relevance: maps of fields, colours behind signals, bars of features.

`sklrp.plotting` makes it public.
"""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklrp._constraints import AXES, Interval, constrained
from sklrp._devices import to_host
from sklrp._frame import Frame
from sklrp._missing import mask_to_nan
from sklrp._outputs import asks_for_all
from sklrp._sklearn import HasMethods, StrOptions
from sklrp._wording import say_value
from sklrp.drawing import captions, fields, series, sheet
from sklrp.drawing.overlays import Overlay, marks_of
from sklrp.drawing.panels import Panel, View, make_panels
from sklrp.drawing.picture import DIVERGING, draw_cells, draw_map, find_reach, panel_sizes
from sklrp.drawing.views import (
    check_alike,
    explain_views,
    given_views,
    hint_at_contrast,
)

_OVER = ("outline", "stipple", "hatch", "spread")  # what is drawn over maps, or beside them
_MOST_COLUMNS = {"field": 3, "sequence": 1, "table": 3}  # of panels, where there is one view
_SHOWN: dict[str, list[Any]] = {
    "kind": [str],
    "layout": [str],
    "shape": ["array-like", None],
}


class RelevanceDisplay:
    """Relevance of samples, or its mean over samples, by rule or by estimator.

    Make it with `from_estimator` or `from_relevance`. Red speaks for the class, blue against it;
    limits are symmetric about zero, and the colour bar says what they mean and whose they are.
    A title has the date of its sample where the samples know it, else its number. Below each panel
    a line says the class, the rule, and the sum of its relevance with its units; what holds for
    all panels, such as what dots are, stands at the foot of the figure.
    Fields are drawn cell by cell, north up where their latitudes are known, with land and missing
    cells in grey; sequences as colours behind the signals; tables as bars of the features that
    have most relevance.

    Parameters
    ----------
    panels : list of list of Panel
        Maps and titles: a list for each rule or estimator, all of one length.
    frame : Frame
        What a sample is: its layout, the places of its cells, its names.
    unit : str, default="relevance"
        What the colours, or the length of bars, mean.
    outline : ndarray of bool or None, default=None
        Cells of a field whose border is drawn.
    hidden : list of float or None, default=None
        The share of each view's absolute relevance that lies on land and is not drawn. None
        (default): no land is known.
    overlays : list of list of list of Overlay, or None, default=None
        The marks over each panel, in the order of `panels`.
    spread : ndarray of shape (n_rows, *frame.shape) or None, default=None
        How far maps of other seeds are spread, which a column of its own shows for fields.
    hint : str, default=""
        What to try instead, which the foot says too.

    Attributes
    ----------
    panels : list of list of Panel
        The same; ``panels[view][row].maps``, ``.mean`` and ``.title`` are what is drawn.
    frame, unit, outline, hidden, overlays, spread, hint
        The same.
    figure_ : matplotlib.figure.Figure
        The figure.
    axes_ : ndarray of matplotlib.axes.Axes
        The panels, (n_rows, n_views), one column more on the left for the input if it is shown,
        and one on the right for the spread.
    artists_ : list of dict of str to artist
        Of each panel in the order of ``axes_.ravel()``: ``"image"``, ``"line"`` or ``"lines"``,
        ``"contours"``, ``"outline"``, ``"bars"``, ``"spread"``, ``"size"`` and ``"marks"`` (a dict
        by style), as far as they are drawn.
    colorbars_ : list of matplotlib.colorbar.Colorbar
        The colour bars.
    notes_ : list of str
        What the foot of the figure says; of Axes that are given, the line below the last row.
    limits_ : ndarray of shape (n_rows, n_views)
        The largest value of each panel's colours or horizontal axis; the smallest is its negative.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklrp.plotting import RelevanceDisplay
    >>> maps = [[[1.0, -2.0], [0.0, 4.0]]]
    >>> display = RelevanceDisplay.from_relevance(maps, lat=[-5, 5], lon=[175, 185])
    >>> print(display.limits_, display.axes_[0, 0].get_title())
    [[4.]] sample 0
    >>> plt.close(display.figure_)
    """

    figure_: Any
    axes_: NDArray[np.object_]
    artists_: list[dict[str, Any]]
    colorbars_: list[Any]
    notes_: list[str]
    limits_: NDArray[np.float64]

    def __init__(
        self,
        panels: list[list[Panel]],
        *,
        frame: Frame,
        unit: str = "relevance",
        outline: NDArray | None = None,
        hidden: list[float] | None = None,
        overlays: list[list[list[Overlay]]] | None = None,
        spread: NDArray | None = None,
        hint: str = "",
    ) -> None:
        self.panels = panels
        self.frame = frame
        self.unit = unit
        self.outline = outline
        self.hidden = hidden
        self.overlays = overlays
        self.spread = spread
        self.hint = hint

    @property
    def layout(self) -> str:
        """What a sample is: "field", "sequence" or "table"."""
        return self.frame.layout

    @property
    def lat(self) -> NDArray | None:
        """The latitudes of the rows of a field in degrees, None if they are not known."""
        return self.frame.centres[0]

    @property
    def lon(self) -> NDArray | None:
        """The longitudes of the columns of a field in degrees, None if they are not known."""
        return self.frame.centres[1]

    @classmethod
    @constrained(_SHOWN, skip_nested=False)
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike | None = None,
        *,
        rule: Any = "auto",
        target: Any = None,
        kind: str = "samples",
        epsilon: float = 1e-6,
        contrast: bool = False,
        reference: Any = None,
        grid: Any = None,
        layout: str = "auto",
        shape: tuple[int, ...] | None = None,
        land: Any = None,
        feature_names: Any = None,
        each_channel: bool = False,
        by_column: bool = False,
        **kwargs: Any,
    ) -> RelevanceDisplay:
        """Explain samples and draw their relevance.

        Parameters
        ----------
        estimator : estimator, skorch net, nn.Module, pipeline or search, or list or dict of them
            A fitted model, as `sklrp.explain` takes it; behind the steps of a pipeline the maps
            are of what enters the network. Several are drawn side by side, by the names of a
            dict.
        X : DataArray, Dataset or array-like of shape (n_samples, ...)
            The samples. Where fields of xarray, the arrays of `sklrp.datasets.load_pacific_sst`
            or a `sklrp.geo.GridVectorizer` among the steps know their grid, maps are drawn on it.
        y : array-like of shape (n_samples,) or None, default=None
            Their classes: means are over the samples that are predicted correctly. None (default)
            takes all.
        rule : str, Rule, Composite, or list or dict of them, default="auto"
            The rule, see ``explain``. Several are drawn side by side.
        target : object, default=None
            What is explained: a class or the index of an output, or one for each sample; or what
            `sklrp.explain` makes a number of several outputs of, such as a cell or a region of a
            field. None (default): the predicted class of each sample, or the only output.
        kind : {"samples", "class_mean", "mean"}, default="samples"
            A panel for each sample, for the mean over those predicted as each class, or for the
            mean over all.
        epsilon : float, default=1e-6
            Stabiliser of rules that have none of their own, see ``explain``.
        contrast : bool, default=False
            Whether to explain the target's logit minus the largest of the others.
        reference : {"mean", "zero"}, float, array-like or None, default=None
            The value that a map of zeros stands for, which the label names, see ``explain``.
        grid : GridVectorizer, DataArray, Bunch or None, default=None
            What else knows the grid: a fitted vectorizer, a field, or the Bunch of
            `load_pacific_sst` or `load_enso`. None (default): X, or the steps of a pipeline.
        layout : {"auto", "field", "sequence", "table"}, default="auto"
            What a sample is. ``"auto"`` takes samples on a grid, and two long axes, for a field;
            what one-dimensional convolutions read, and a recurrent network over at least four
            times as many steps as variables, for a sequence; rows for a table.
        shape : tuple of int or None, default=None
            The shape that rows of features have as samples. None (default): the network's.
        land : DataArray or array-like of bool or None, default=None
            True at cells of a field that have no value, which are drawn grey. Rows of features may
            hold all cells, or those that are not land. None (default): what the grid says.
        feature_names : array-like of str or None, default=None
            Names of features. None (default): those that the network, the steps before it or the
            columns of X have. With `each_channel` those of the channels, with `by_column` those
            of the columns.
        each_channel : bool, default=False
            Whether the channels of fields, such as several variables, are drawn side by side. By
            default their sum is drawn.
        by_column : bool, default=False
            Whether the relevance of features is summed over the column of X that they came from,
            such as what a `OneHotEncoder` made of one.
        **kwargs : dict
            ``normalize``, ``lat``, ``lon``, ``outline``, ``stipple``, ``hatch``, ``spread`` and
            ``steps``, as in `from_relevance`, and the parameters of `plot`.

        Returns
        -------
        RelevanceDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If a parameter is malformed, or no sample is predicted correctly.
        """
        if asks_for_all(target):
            raise ValueError(
                f"target={target!r} gives a map for each class: draw one class at a time."
            )
        options = dict(kwargs)
        lat, lon = options.pop("lat", None), options.pop("lon", None)
        if lat is not None or lon is not None:
            grid = (lat, lon)
        normalize = options.pop("normalize", None)
        over = {name: options.pop(name, None) for name in _OVER}
        views = explain_views(
            estimator,
            X,
            y,
            kind=kind,
            rule=rule,
            normalize=normalize,
            place={
                "grid": grid,
                "layout": layout,
                "shape": shape,
                "land": land,
                "feature_names": feature_names,
                "steps": options.pop("steps", None),
            },
            params={
                "target": target,
                "epsilon": epsilon,
                "contrast": contrast,
                "reference": reference,
            },
            each_channel=each_channel,
            by_column=by_column,
        )
        unit = captions.say_unit(
            estimator,
            target,
            reference,
            has_classes=views[0].labels is not None,
            contrast=contrast,
            is_share=normalize is not None,
            by_column=by_column,
        )
        prepared = _prepare(views, kind, unit, normalize, over, each_channel=each_channel)
        return cls(**prepared, hint=hint_at_contrast(views, contrast)).plot(**options)

    @classmethod
    @constrained({**_SHOWN, "ax": AXES, "unit": [str, None]}, skip_nested=False)
    def from_relevance(
        cls,
        relevance: Any,
        X: Any = None,
        *,
        labels: ArrayLike | None = None,
        kind: str = "samples",
        layout: str = "auto",
        shape: tuple[int, ...] | None = None,
        channels: str = "first",
        grid: Any = None,
        land: Any = None,
        feature_names: Any = None,
        unit: str | None = None,
        normalize: str | None = None,
        lat: ArrayLike | None = None,
        lon: ArrayLike | None = None,
        outline: Any = None,
        stipple: Any = None,
        hatch: Any = None,
        spread: Any = None,
        steps: ArrayLike | None = None,
        each_channel: bool = False,
        ax: Any = None,
        **kwargs: Any,
    ) -> RelevanceDisplay:
        """Draw relevance that has been computed.

        Parameters
        ----------
        relevance : array-like of shape (n_samples, ...), or dict of them
            The maps; NaN marks missing cells. The entries of a dict, and the variables of an
            `xarray.Dataset`, are drawn side by side by name. An `xarray.DataArray` brings its
            latitudes and longitudes along. What `sklrp.geo.composites` returns is drawn as the
            mean of each class, with its count.
        X : array-like of relevance's shape, dict of them or None, default=None
            The samples, which contours, signals and the input's column need. Where they know
            their grid, maps without one are drawn on it. Fields of xarray must have the places of
            relevance, as must `land` and `outline`; they may be in another order.
        labels : array-like of shape (n_samples,) or None, default=None
            The class of each sample, for titles and for ``kind="class_mean"``.
        kind : {"samples", "class_mean", "mean"}, default="samples"
            A panel for each sample, for the mean over each class, or for the mean over all.
        layout : {"auto", "field", "sequence", "table"}, default="auto"
            What a sample is: ``"auto"`` is a table for rows, a sequence for a single axis beside
            axes of length 1, else a field.
        shape : tuple of int or None, default=None
            The shape that rows of features have as samples.
        channels : {"first", "last"}, default="first"
            Where the channels of a field are, over which relevance is summed, or the variables of
            a sequence.
        grid : GridVectorizer, DataArray, Bunch or None, default=None
            What else knows the grid: a fitted vectorizer, a field, or the Bunch of
            `load_pacific_sst` or `load_enso`.
        land : DataArray or array-like of bool or None, default=None
            True at cells of a field that have no value, which are drawn grey. Rows of features may
            hold all cells, or those that are not land.
        feature_names : array-like of str or None, default=None
            Names of the features of a table, or of the variables of a sequence.
        unit : str or None, default=None
            What the colour bars call the values, such as ``"relevance (K)"``. None (default): what
            the attributes of fields say, as `sklrp.geo.explain` writes them, or "relevance".
        normalize : {None, "l1"}, default=None
            ``"l1"`` divides each map by its sum of absolute values, which makes networks of
            different scores comparable.
        lat : array-like of shape (n_rows,) or None, default=None
            Latitude of the rows of a field in degrees north, rising or falling.
        lon : array-like of shape (n_columns,) or None, default=None
            Longitude of the columns in degrees east, of any convention.
        outline : DataArray or array-like of bool or None, default=None
            Cells of a field whose border is drawn, such as a box of interest.
        stipple : Finding, array-like of bool, dict of them or None, default=None
            Cells, steps or features that are marked by dots, or by stars at bars: a mask of a
            sample or of a field's cells, one for all panels or one for each row of them; or what
            `artifact_map` (its facts) or `skill_map` (cells that carry skill, by the rate of false
            discoveries) found, which is of all maps together: panels of classes or samples have
            the same dots. A dict has one for each entry of `relevance`. Dots of large grids are
            thinned regularly.
        hatch : Finding, array-like of bool, dict of them or None, default=None
            The same for hatching. Of `artifact_map` it shows what is used and says nothing alone,
            of `skill_map` what misleads.
        spread : DataArray or array-like or None, default=None
            How far maps differ from seed to seed, such as their standard deviation: of a field's
            mean maps, one for all panels or one for each, drawn on the right in a column of its
            own.
        steps : array-like of shape (n_steps,) or None, default=None
            Where the steps of a sequence are, rising. None (default) counts them from 0.
        each_channel : bool, default=False
            Whether the channels of fields, such as several variables, are drawn side by side, by
            their `feature_names`. By default their sum is drawn.
        ax : matplotlib.axes.Axes, array of Axes or None, default=None
            As in `plot`.
        **kwargs : dict
            Further parameters of `plot`.

        Returns
        -------
        RelevanceDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If shapes do not fit or a parameter is malformed.
        """
        views = given_views(
            relevance,
            X,
            labels,
            normalize=normalize,
            grid=grid,
            lat=lat,
            lon=lon,
            layout=layout,
            shape=shape,
            channels=channels,
            land=land,
            names=feature_names,
            steps=steps,
            each_channel=each_channel,
        )
        over = {"outline": outline, "stipple": stipple, "hatch": hatch, "spread": spread}
        unit = captions.read_unit(relevance) if unit is None else unit
        prepared = _prepare(views, kind, unit, normalize, over, each_channel=each_channel)
        return cls(**prepared).plot(ax=ax, **kwargs)

    @constrained(
        {
            "n_features": [Interval(Integral, None, None, closed="neither")],
            "clip": [Real],
            "cmap": [str, HasMethods(["set_bad", "__call__"])],
            "limits": [Interval(Real, 0, None, closed="neither"), StrOptions(set(sheet.LIMITS))],
            "ax": AXES,
            "contours": ["boolean", Interval(Integral, 0, None, closed="left")],
            "show_input": ["boolean"],
        }
    )
    def plot(
        self,
        ax: Any = None,
        *,
        limits: str | float = "shared",
        clip: float = 0.0,
        cmap: str = DIVERGING,
        contours: bool | int = False,
        show_input: bool = False,
        n_features: int = 10,
        projection: Any = None,
    ) -> RelevanceDisplay:
        """Draw the panels.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, array of Axes or None, default=None
            One for each panel, row by row; Axes of cartopy may have any projection. None
            (default) makes a figure.
        limits : {"shared", "view", "panel"} or float, default="shared"
            Which panels have the same limits: all, the panels of a rule or estimator, or none; or
            the limit itself.
        clip : float, default=0.0
            Share of the largest absolute values, in [0, 1), that may lie beyond the limits and
            have the outermost colour, such as 0.001. Bars are not clipped, and limits that are
            given are kept.
        cmap : str or matplotlib.colors.Colormap, default="RdBu_r"
            A diverging colour map.
        contours : bool or int, default=False
            Whether the contours of the input, or how many of them, are drawn over fields: solid
            above zero, dashed below.
        show_input : bool, default=False
            Whether the input of fields has a column of its own, on the left.
        n_features : int, default=10
            How many features of a table are drawn.
        projection : cartopy.crs.Projection or None, default=None
            How the globe is drawn, such as ``cartopy.crs.Robinson(180)``: fields in degrees have
            coastlines then. Needs cartopy. None (default): plain axes, or those in `ax`.

        Returns
        -------
        RelevanceDisplay
            The display itself.

        Raises
        ------
        ValueError
            If a parameter is out of range, or there is not an Axes for each panel.
        """
        sheet.check_limits(limits, clip)
        sheet.check_colours(cmap)
        if n_features < 1:
            raise ValueError(f"n_features must be at least 1, got {say_value(n_features)}.")
        filled = [panel for panels in self.panels for panel in panels if len(panel.maps)]
        if (contours or show_input) and (not self.frame.is_field or filled[0].samples is None):
            raise ValueError(
                f"contours={contours!r} and show_input={show_input!r} draw the input of fields: "
                f"pass X along with the relevance, and layout='field', got layout={self.layout!r}."
            )
        if projection is not None and (ax is not None or not self.frame.has_degrees):
            raise ValueError(
                "projection makes axes for fields in degrees: pass lat and lon or fields of "
                "xarray, and no ax."
            )
        if isinstance(projection, str | type):
            raise ValueError(
                f"projection must be one of cartopy's, such as cartopy.crs.Robinson(180), got "
                f"{projection!r}. Without cartopy leave it out: maps have degrees all the same."
            )
        places = self._lay_out(ax, bool(show_input), n_features, projection)
        panels = {place: self.panels[place[1]][place[0]] for place in places}
        if self.layout == "table":
            notes = self._draw_tables(panels, limits, n_features, cmap)
        else:
            self._draw_maps(panels, limits, clip, cmap)
            step = self._draw_contours(panels, int(contours)) if contours else None
            notes = self._add_colorbars(panels, limits, clip, step)
        self._add_notes(notes, places, is_own=ax is None)
        if show_input:
            self._draw_inputs()
        if self.spread is not None:
            self._draw_spread(places)
        if projection is not None:
            for one in self.axes_.ravel():
                fields.draw_coast(one)
        sheet.make_room(list(self.axes_.ravel()))
        return self

    def _lay_out(
        self, ax: Any, show_input: bool, n_features: int, projection: Any
    ) -> list[sheet.Place]:
        """Make the Axes, say where there is no sample, and return the places of all others."""
        n_rows, n_views = len(self.panels[0]), len(self.panels)
        columns, sizes = _MOST_COLUMNS[self.layout], panel_sizes(self.frame, n_features)
        n_columns = n_views + show_input + (self.spread is not None)
        self.axes_ = sheet.make_axes(ax, n_rows, n_columns, columns, sizes, projection)
        if not self.frame.has_degrees and any(map(fields.has_projection, self.axes_.ravel())):
            raise ValueError(
                "Axes of a projection need to know where the cells are: pass lat and lon, or a "
                "field of xarray."
            )
        self.figure_ = self.axes_[0, 0].figure
        self.artists_ = [{} for _ in range(self.axes_.size)]
        self.colorbars_ = []
        self.limits_ = np.full((n_rows, n_views), np.nan)
        places = []
        for row, view in np.ndindex(n_rows, n_views):
            ax, panel = self._axes_of(row, view)[0], self.panels[view][row]
            said = f"{panel.view}\n{panel.title}" if panel.view else panel.title
            ax.set_title(sheet.as_text(said), fontsize="medium")
            if len(panel.maps):
                places.append((row, view))
            else:
                ax.text(0.5, 0.5, "no sample", ha="center", va="center", transform=ax.transAxes)
                ax.set_xticks([])
                ax.set_yticks([])
        return places

    def _axes_of(self, row: int, view: int) -> tuple[Any, dict[str, Any]]:
        """Return the Axes of a panel and the dict of its artists."""
        n_columns = self.axes_.shape[1]
        # The input is on the left, the spread on the right.
        column = view + n_columns - len(self.panels) - (self.spread is not None)
        return self.axes_[row, column], self.artists_[row * n_columns + column]

    def _draw_tables(
        self,
        panels: dict[sheet.Place, Panel],
        limits: str | float,
        n_features: int,
        cmap: str,
    ) -> list[str]:
        """Draw bars of the features with most relevance; return what holds for all panels."""
        shown, rest = series.rank_features([panel.maps for panel in panels.values()], n_features)
        notes = []
        if any(len(panel.maps) > 1 for panel in panels.values()):
            notes.append("bar: mean; thin line: ± 1 standard deviation; tick: mean |relevance|")
        if len(panels) > 1:
            notes.append("features in the order of all panels together")
        if rest > 5e-5:
            notes.append(f"{100 * rest:.2g}\u00a0% of |relevance| on features not shown")
        for group in sheet.group_places(list(panels), limits):
            reach = [find_reach(self.frame, panels[place].maps, shown) for place in group]
            limit, cut = sheet.find_limit(np.concatenate(reach), limits, 0.0)
            said = [sheet.say_limits(group, len(panels), limits), cut]
            notes.append(captions.say_marks(self._marks(group), self.layout))
            for place in group:
                ax, artists = self._axes_of(*place)
                self.limits_[place] = limit
                options: dict[str, Any] = {"limit": limit, "cmap": cmap, "features": shown}
                options["overlays"] = self._over(place)
                artists.update(draw_map(ax, self.frame, panels[place].maps, **options))
                own = [self.unit, panels[place].caption, *said]
                sheet.add_caption(ax, "; ".join(filter(None, own)))
        return [*notes, self.hint]

    def _draw_maps(
        self, panels: dict[sheet.Place, Panel], limits: str | float, clip: float, cmap: str
    ) -> None:
        """Draw fields or sequences, groups of panels with the same limits."""
        for group in sheet.group_places(list(panels), limits):
            reach = [find_reach(self.frame, panels[place].maps) for place in group]
            limit, _ = sheet.find_limit(np.concatenate(reach), limits, clip)
            for place in group:
                ax, artists = self._axes_of(*place)
                self.limits_[place] = limit
                options: dict[str, Any] = {"limit": limit, "cmap": cmap, "outline": self.outline}
                options["overlays"] = self._over(place)
                panel = panels[place]
                artists.update(draw_map(ax, self.frame, panel.maps, panel.samples, **options))
                sheet.add_caption(ax, panel.caption)

    def _draw_contours(self, panels: dict[sheet.Place, Panel], n_contours: int) -> float | None:
        """Draw contours of the input over fields; return their step, None where there are none."""
        samples = {place: panel.mean_sample for place, panel in panels.items()}
        levels = fields.find_levels(list(samples.values()), 6 if n_contours == 1 else n_contours)
        for place, values in samples.items():
            ax, artists = self._axes_of(*place)
            artists["contours"] = fields.draw_contours(ax, values, *self.frame.centres, levels)
        return float(levels[-1] - levels[-2]) if len(levels) > 1 else None

    def _add_colorbars(
        self,
        panels: dict[sheet.Place, Panel],
        limits: str | float,
        clip: float,
        step: float | None,
    ) -> list[str]:
        """Add a colour bar for each group of panels; return what their labels do not say."""
        notes = []
        for group in sheet.group_places(list(panels), limits):
            reach = [find_reach(self.frame, panels[place].maps) for place in group]
            values = np.concatenate(reach)
            _, cut = sheet.find_limit(values, limits, clip)
            bar, left = sheet.add_colorbar(
                [self._axes_of(*place)[0] for place in group],
                self._axes_of(*group[0])[1]["image"],
                [self.unit, sheet.say_limits(group, len(panels), limits), cut],
                "both" if cut else "neither",
                "bottom" if len(self.panels) > 1 and len({v for _, v in group}) == 1 else "right",
            )
            self.colorbars_.append(bar)
            notes += left
            notes.append(captions.say_grey([panels[p].maps for p in group], self.frame.land))
            if self.hidden is not None:
                views = sorted({view for _, view in group})
                notes.append(captions.say_hidden([self.hidden[view] for view in views]))
            if step is not None and any(self._axes_of(*place)[1]["contours"] for place in group):
                notes.append(f"contours: input every {step:g}, none at 0, dashed below")
            notes.append(captions.say_marks(self._marks(group), self.layout))
        return [*notes, self.hint]

    def _add_notes(self, notes: list[str], places: list[sheet.Place], *, is_own: bool) -> None:
        """Write what holds for all panels at the foot of a figure that is this display's own."""
        self.notes_ = list(dict.fromkeys(filter(None, notes)))
        text = "; ".join(self.notes_)
        if text and is_own:
            sheet.add_foot(self.figure_, text)
        elif text:
            last_row = max(row for row, _ in places)
            sheet.add_caption(self._axes_of(*min(p for p in places if p[0] == last_row))[0], text)

    def _over(self, place: sheet.Place) -> list[Overlay]:
        """Return the marks over a panel."""
        return [] if self.overlays is None else self.overlays[place[1]][place[0]]

    def _marks(self, group: list[sheet.Place]) -> list[Overlay]:
        """Return the marks over all panels of a group."""
        return [mark for place in group for mark in self._over(place)]

    def _draw_spread(self, places: list[sheet.Place]) -> None:
        """Draw on the right how far maps differ from seed to seed, with limits of its own."""
        assert self.spread is not None
        largest = float(np.nanmax(self.spread, initial=0.0)) or 1.0
        drawn: dict[str, Any] = {}
        for row in sorted({row for row, _ in places}):
            ax, drawn = self.axes_[row, -1], self.artists_[(row + 1) * self.axes_.shape[1] - 1]
            values = self.spread[row]
            drawn.update(draw_cells(ax, self.frame, values, "cividis", 0.0, largest, self.outline))
            said = sheet.as_text(f"spread over seeds\n{self.panels[0][row].title}")
            ax.set_title(said, fontsize="medium")
        label = "spread over seeds, in the unit of the maps"
        axes = list(self.axes_[:, -1])
        self.colorbars_.append(sheet.add_colorbar(axes, drawn["image"], [label], "neither")[0])

    def _draw_inputs(self) -> None:
        """Draw the input of each row on the left, all with the same limits."""
        inputs = {
            row: panel.mean_sample
            for row, panel in enumerate(self.panels[0])
            if panel.mean_sample is not None and len(panel.maps)
        }
        low, high, cmap = fields.find_range(list(inputs.values()))
        drawn: dict[str, Any] = {}
        for row, values in inputs.items():
            ax, drawn = self.axes_[row, 0], self.artists_[row * self.axes_.shape[1]]
            drawn.update(draw_cells(ax, self.frame, values, cmap, low, high, self.outline))
            said = sheet.as_text(f"input\n{self.panels[0][row].title}")
            ax.set_title(said, fontsize="medium")
        axes = list(self.axes_[:, 0])
        self.colorbars_.append(
            sheet.add_colorbar(axes, drawn["image"], ["input"], "neither", "left")[0]
        )


def _prepare(
    views: list[View],
    kind: str,
    unit: str,
    normalize: str | None,
    over: dict[str, Any],
    *,
    each_channel: bool,
) -> dict[str, Any]:
    """Return what a display keeps of views, which must be alike."""
    check_alike(views)
    frame = views[0].frame
    if normalize is not None:
        unit += ", share of the map's |relevance|"
    if frame.is_field and frame.n_channels > 1 and not each_channel:
        unit += f", summed over {frame.n_channels} channels"
    panels = make_panels(views, kind)
    n_rows, outline = len(panels[0]), over["outline"]
    return {
        "panels": panels,
        "frame": frame,
        "unit": unit,
        "outline": None if outline is None else frame.take_field(outline, "outline"),
        "hidden": None if frame.land is None else [view.hidden for view in views],
        "overlays": _find_overlays(views, over, n_rows),
        "spread": _take_spread(frame, over["spread"], n_rows),
    }


def _find_overlays(
    views: list[View], over: dict[str, Any], n_rows: int
) -> list[list[list[Overlay]]] | None:
    """Return the marks over each panel of each view, None if there are none."""
    names = [view.name for view in views]
    marks = [
        marks_of(views[0].frame, over[style], style, names, n_rows)
        for style in ("stipple", "hatch")
        if over[style] is not None
    ]
    if not marks:
        return None
    return [
        [[one[view][row] for one in marks] for row in range(n_rows)] for view in range(len(views))
    ]


def _take_spread(frame: Frame, spread: Any, n_rows: int) -> NDArray | None:
    """Return how far maps are spread, a field for each row of panels."""
    if spread is None:
        return None
    if not frame.is_field:
        raise ValueError(f"spread is drawn of fields, but samples are drawn as a {frame.layout}.")
    values = np.asarray(frame.in_order(mask_to_nan(to_host(spread)), "spread"), np.float64)
    if values.shape[-2:] == frame.cells and math.prod(frame.cells) == math.prod(frame.entering):
        values = values.reshape(*values.shape[:-2], *frame.entering)  # rows of features
    if values.shape == frame.entering:
        values = np.broadcast_to(values, (n_rows, *values.shape))
    if values.shape != (n_rows, *frame.entering):
        raise ValueError(
            f"spread has the shape {values.shape}, but must have {frame.entering}, or one field "
            f"for each of {n_rows} panels."
        )
    if (values < 0).any():
        raise ValueError("spread has negative values: give standard deviations, or ranges.")
    return frame.bring(values)
