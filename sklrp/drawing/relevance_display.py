"""The picture of relevance: maps of fields, colours behind signals, bars of features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklrp._checks import check_field_mask
from sklrp.drawing import fields, series, sheet
from sklrp.drawing.forms import Form, form_of
from sklrp.drawing.panels import (
    Panel,
    View,
    check_relevance,
    explain_views,
    find_names,
    name_several,
    prepare,
    say_class,
)

_DATA = ("normalize", "lat", "lon", "outline", "steps")
_MOST_COLUMNS = {
    "field": 3,
    "sequence": 1,
    "table": 3,
}  # of panels, where a view has them to itself


class RelevanceDisplay:
    """Relevance of samples, or its mean over samples, by rule or by estimator.

    Make it with `from_estimator` or `from_relevance`. Red speaks for the class, blue against it;
    limits are symmetric about zero, and the colour bar says whose they are and what is clipped.
    Fields are drawn cell by cell with missing cells in grey, sequences as colours behind the
    signal, tables as bars of the features that have most relevance.

    Parameters
    ----------
    panels : list of list of Panel
        Maps and titles: a list for each rule or estimator, all of one length.
    layout : {"field", "sequence", "table"}
        What a sample is.
    unit : str, default="relevance"
        What the colours, or the length of bars, mean.
    lat, lon : ndarray or None, default=None
        Centres of the rows and of the columns of a field in degrees.
    outline : ndarray of bool or None, default=None
        Cells of a field whose border is drawn.
    names : list of str or None, default=None
        Names of the features of a table, or of the variables of a sequence.
    steps : ndarray or None, default=None
        Where the steps of a sequence are, None counts them.
    hidden : list of float or None, default=None
        The share of each view's absolute relevance that lies on land, and is not drawn.

    Attributes
    ----------
    panels : list of list of Panel
        The same; ``panels[view][row].maps``, ``.mean`` and ``.title`` are what is drawn.
    layout, unit, lat, lon, outline, names, steps, hidden
        The same.
    figure_ : matplotlib.figure.Figure
        The figure.
    axes_ : ndarray of matplotlib.axes.Axes
        The panels, (n_rows, n_views), one column more on the left for the input if it is shown.
    artists_ : list of dict of str to artist
        Of each panel in the order of ``axes_.ravel()``: ``"image"``, ``"line"``, ``"contours"``,
        ``"outline"``, ``"bars"``, ``"spread"`` and ``"size"``, as far as they are drawn.
    colorbars_ : list of matplotlib.colorbar.Colorbar
        The colour bars.
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
    limits_: NDArray[np.float64]

    def __init__(
        self,
        panels: list[list[Panel]],
        *,
        layout: str,
        unit: str = "relevance",
        lat: NDArray | None = None,
        lon: NDArray | None = None,
        outline: NDArray | None = None,
        names: list[str] | None = None,
        steps: NDArray | None = None,
        hidden: list[float] | None = None,
    ) -> None:
        self.panels = panels
        self.layout = layout
        self.unit = unit
        self.lat = lat
        self.lon = lon
        self.outline = outline
        self.names = names
        self.steps = steps
        self.hidden = hidden

    @classmethod
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
        layout: str = "auto",
        shape: tuple[int, ...] | None = None,
        land: ArrayLike | None = None,
        feature_names: Any = None,
        **kwargs: Any,
    ) -> RelevanceDisplay:
        """Explain samples and draw their relevance.

        Parameters
        ----------
        estimator : estimator, or list or dict of them
            A fitted classifier with ``explain``, or a pipeline or a search that ends in one, whose
            maps are of what enters the classifier. Several are drawn side by side, by the names
            of a dict.
        X : array-like of shape (n_samples, ...)
            The samples; of an `xarray.DataArray` (..., latitude, longitude), as of a
            `sklrp.geo.GridVectorizer` among the steps, the coordinates are taken too.
        y : array-like of shape (n_samples,) or None, default=None
            Their classes. Means are over the samples that are predicted correctly; None takes all.
        rule : str, Rule, Composite, or list or dict of them, default="auto"
            The rule, see ``explain``. Several are drawn side by side.
        target : None, label or array-like of shape (n_samples,), default=None
            The class explained, None the predicted class of each sample.
        kind : {"samples", "class_mean", "mean"}, default="samples"
            A panel for each sample, for the mean over those predicted as each class, or for the
            mean over all.
        epsilon : float, default=1e-6
            Stabiliser of rules that have none of their own, see ``explain``.
        contrast : bool, default=False
            Whether to explain the target's logit minus the largest of the others.
        layout : {"auto", "field", "sequence", "table"}, default="auto"
            What a sample is; ``"auto"`` takes what the classifier takes it for, and two long axes
            as a field.
        shape : tuple of int or None, default=None
            The shape that rows of features have as samples; None is that of the classifier.
        land : array-like of bool or None, default=None
            True at cells of a field that have no value, which are drawn grey. Rows of features may
            hold all cells, or those that are not land. None is what a
            `sklrp.geo.GridVectorizer` among the steps leaves out.
        feature_names : array-like of str or None, default=None
            Names of features; None takes those that the classifier or X's columns have.
        **kwargs : dict
            ``normalize``, ``lat``, ``lon``, ``outline`` and ``steps``, as in `from_relevance`, and
            the parameters of `plot`.

        Returns
        -------
        RelevanceDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If a parameter is malformed, or no sample is predicted correctly.
        """
        if isinstance(target, str) and target == "all":
            raise ValueError("target='all' gives a map for each class: draw one class at a time.")
        one = next(iter(name_several(estimator, "estimator").values()))
        lat, lon, its_land = fields.find_grid(one, X)
        grid = (lat, lon)
        land = its_land if land is None else fields.take_mask(land, grid, "land")
        missing = check_field_mask(land, "land")
        if layout == "auto" and lat is not None:
            layout = "field"
        params = {"epsilon": epsilon, "contrast": contrast}
        views, classifiers = explain_views(estimator, X, y, kind, rule, target, params)
        forms = [
            form_of(classifier, view.relevance.shape[1:], layout, shape, missing)
            for classifier, view in zip(classifiers, views, strict=True)
        ]
        if feature_names is None:
            feature_names = find_names(X, classifiers[0], views[0].relevance.shape[1])
        whose = "the predicted class" if target is None else "the classes given as target"
        if target is not None and np.ndim(target) == 0:
            whose = f"class {target}"
        unit = f"relevance for {whose}"
        score = "difference of logits" if contrast else "logits"
        places = {"lat": lat, "lon": lon} if lat is not None else {}
        options = {**places, **kwargs}
        data = {name: options.pop(name) for name in _DATA if name in options}
        if "outline" in data:
            data["outline"] = fields.take_mask(data["outline"], grid, "outline")
        prepared = prepare(
            views, forms, kind, missing, unit=unit, score=score, names=feature_names, **data
        )
        return cls(**prepared).plot(**options)

    @classmethod
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
        land: ArrayLike | None = None,
        feature_names: Any = None,
        unit: str = "relevance",
        normalize: str | None = None,
        lat: ArrayLike | None = None,
        lon: ArrayLike | None = None,
        outline: ArrayLike | None = None,
        steps: ArrayLike | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> RelevanceDisplay:
        """Draw relevance that has been computed.

        Parameters
        ----------
        relevance : array-like of shape (n_samples, ...), or dict of them
            The maps; NaN marks missing cells. Those of a dict, and the variables of an
            `xarray.Dataset`, are drawn side by side by name. Of an `xarray.DataArray` the
            latitudes and longitudes are taken too. What `sklrp.geo.composites` returns is drawn as
            the mean of each class, with its count.
        X : array-like of relevance's shape, dict of them or None, default=None
            The samples, which contours, signals and the input's column need. Fields of xarray
            must be on the grid of those of relevance, as must `land` and `outline`.
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
        land : array-like of bool or None, default=None
            True at cells of a field that have no value, which are drawn grey. Rows of features may
            hold all cells, or those that are not land.
        feature_names : array-like of str or None, default=None
            Names of the features of a table, or of the variables of a sequence.
        unit : str, default="relevance"
            What the colour bars call the values, such as ``"relevance (K)"``.
        normalize : {None, "l1"}, default=None
            ``"l1"`` divides each map by its sum of absolute values, which makes networks of
            different scores comparable.
        lat : array-like of shape (n_rows,) or None, default=None
            Latitude of the rows of a field in degrees north, rising or falling.
        lon : array-like of shape (n_columns,) or None, default=None
            Longitude of the columns in degrees east, of any convention.
        outline : array-like of bool or None, default=None
            Cells of a field whose border is drawn, such as a box of interest.
        steps : array-like of shape (n_steps,) or None, default=None
            Where the steps of a sequence are, rising; None counts them from 0.
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
        several = isinstance(relevance, Mapping) and not fields.is_composite(relevance)
        named = relevance if several else {"": relevance}
        if not named:
            raise ValueError("relevance is empty: pass at least one array of maps.")
        views = []
        grid: Any = (None, None)  # of the first of the maps that has one
        samples = None
        for name, maps in named.items():
            maps, groups, counts = fields.name_classes(maps)
            titles = None if groups is None else [say_class(group) for group in groups]
            if titles and counts:
                titles = [f"{t} (n = {n} correct)" for t, n in zip(titles, counts, strict=True)]
            maps, *its_grid = fields.find_degrees(maps)
            grid = its_grid if grid[0] is None else grid
            fields.check_places(its_grid, grid, str(name) or "relevance")
            maps = check_relevance(maps)
            if isinstance(X, Mapping) or (X is not None and samples is None):
                samples = X[name] if isinstance(X, Mapping) else X
                samples = np.asarray(fields.take_places(samples, grid, "X"), dtype=np.float64)
            if samples is not None and samples.shape != maps.shape:
                raise ValueError(
                    f"X must have the shape of relevance, {maps.shape}, got {samples.shape}."
                )
            classes = None if labels is None else np.asarray(labels)
            if classes is not None and classes.shape != (len(maps),):
                raise ValueError(
                    f"labels must hold one label for each of {len(maps)} samples, got the shape "
                    f"{classes.shape}."
                )
            titles = titles if labels is None else None
            views.append(View(str(name), maps, samples, classes, None, titles=titles))
        lat, lon = grid[0] if lat is None else lat, grid[1] if lon is None else lon
        outline = fields.take_mask(outline, grid, "outline")
        missing = check_field_mask(fields.take_mask(land, grid, "land"), "land")
        if layout == "auto" and lat is not None:
            layout = "field"
        forms = [Form(v.relevance.shape[1:], layout, shape, channels, missing) for v in views]
        prepared = prepare(
            views,
            forms,
            kind,
            missing,
            unit=unit,
            score="",
            names=feature_names,
            normalize=normalize,
            lat=lat,
            lon=lon,
            outline=outline,
            steps=steps,
        )
        return cls(**prepared).plot(ax=ax, **kwargs)

    def plot(
        self,
        ax: Any = None,
        *,
        limits: str | float = "shared",
        clip: float = 0.0,
        cmap: str = "RdBu_r",
        contours: bool | int = False,
        show_input: bool = False,
        n_features: int = 10,
    ) -> RelevanceDisplay:
        """Draw the panels.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, array of Axes or None, default=None
            One for each panel, row by row; those of cartopy may have any projection. None makes a
            figure.
        limits : {"shared", "view", "panel"} or float, default="shared"
            Which panels have the same limits: all, those of a rule or estimator, or none; or the
            limit itself.
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
        if n_features < 1:
            raise ValueError(f"n_features must be at least 1, got {n_features!r}.")
        filled = [panel for panels in self.panels for panel in panels if len(panel.maps)]
        if (contours or show_input) and (self.layout != "field" or filled[0].samples is None):
            raise ValueError(
                "contours and show_input draw the input of fields: pass X along with the "
                f"relevance, and layout='field', got layout={self.layout!r}."
            )
        n_rows, n_views = len(self.panels[0]), len(self.panels)
        self.axes_ = sheet.make_axes(
            ax, n_rows, n_views + show_input, _MOST_COLUMNS[self.layout], self._sizes(n_features)
        )
        if self.lat is None and any(fields.has_projection(one) for one in self.axes_.ravel()):
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
            if len(self.panels[view][row].maps):
                places.append((row, view))
            else:
                self._leave_empty(row, view)
        if self.layout == "table":
            self._draw_tables(places, limits, n_features, cmap)
        else:
            self._draw_maps(places, limits, clip, cmap, int(contours))
        if show_input:
            self._draw_inputs()
        return self

    def _sizes(self, n_features: int) -> dict[int, tuple[float, float]]:
        """Return a width and height in inches for each number of panels side by side."""
        shape = self.panels[0][0].maps.shape[1:]
        if self.layout == "table":
            return {1: (4.2, 1.5 + 0.26 * min(n_features, shape[0]))}
        if self.layout == "sequence":
            height = 1.9 if len(shape) == 1 else 1.3 + 0.2 * min(shape[0], 12)
            return {n: (max(7.5 / n, 2.6), height) for n in (1, 2, 3)}
        x, y = (np.ptp(edges) for edges in fields.find_edges(shape, self.lat, self.lon))
        ratio = 0.88 * float(np.clip(y / x, 0.3, 1.6))
        return {n: (w, w * ratio + 0.7) for n, w in {1: 5.5, 2: 4.2, 3: 3.4, 4: 2.6}.items()}

    def _axes_of(self, row: int, view: int) -> tuple[Any, dict[str, Any]]:
        """Return the Axes of a panel and the dict of its artists."""
        n_columns = self.axes_.shape[1]
        column = view + n_columns - len(self.panels)  # the input is on the left
        return self.axes_[row, column], self.artists_[row * n_columns + column]

    def _set_title(self, ax: Any, name: str, panel: Panel) -> None:
        ax.set_title(f"{name}\n{panel.title}" if name else panel.title, fontsize="medium")

    def _leave_empty(self, row: int, view: int) -> None:
        """Say that a group has no sample."""
        ax, _ = self._axes_of(row, view)
        self._set_title(ax, self.panels[view][row].view, self.panels[view][row])
        ax.text(0.5, 0.5, "no sample", ha="center", va="center", transform=ax.transAxes)
        ax.set_xticks([])
        ax.set_yticks([])

    def _draw_tables(
        self, places: list[sheet.Place], limits: str | float, n_features: int, cmap: str
    ) -> None:
        panels = {place: self.panels[place[1]][place[0]] for place in places}
        shown, rest = series.rank_features([panel.maps for panel in panels.values()], n_features)
        names = self.names or [f"feature {i}" for i in range(self.panels[0][0].maps.shape[1])]
        for group in sheet.group_places(places, limits):
            reach = np.array([series.bar_extent(panels[place].maps, shown) for place in group])
            limit, cut = sheet.find_limit(reach, limits, 0.0)
            notes = [self.unit, sheet.say_limits(group, len(places), limits), cut]
            if any(len(panels[place].maps) > 1 for place in group):
                notes.append("mean; thin line ± 1 standard deviation, tick mean |relevance|")
            if len(places) > 1:
                notes.append("features in the order of all panels together")
            if rest > 0:
                notes.append(f"{100 * rest:.2g}\u00a0% of |relevance| on features not shown")
            for place in group:
                ax, artists = self._axes_of(*place)
                self._set_title(ax, panels[place].view, panels[place])
                artists.update(
                    series.draw_bars(
                        ax, panels[place].maps, shown, [names[i] for i in shown], cmap
                    )
                )
                self.limits_[place] = limit
                ax.set_xlim(-1.05 * limit, 1.05 * limit)
                label = "; ".join(note for note in notes if note)
                ax.set_xlabel(sheet.wrap(label, sheet.size_of(ax)[0]), fontsize="small")

    def _draw_maps(
        self,
        places: list[sheet.Place],
        limits: str | float,
        clip: float,
        cmap: str,
        n_contours: int,
    ) -> None:
        panels = {place: self.panels[place[1]][place[0]] for place in places}
        levels = np.array([])
        if n_contours:
            levels = fields.find_levels(
                [panel.mean_sample for panel in panels.values()],
                6 if n_contours == 1 else n_contours,
            )
        for group in sheet.group_places(places, limits):
            values = np.concatenate([np.abs(panels[place].mean).ravel() for place in group])
            limit, cut = sheet.find_limit(values, limits, clip)
            for place in group:
                ax, artists = self._axes_of(*place)
                panel = panels[place]
                self._set_title(ax, panel.view, panel)
                self.limits_[place] = limit
                if self.layout == "sequence":
                    self._draw_sequence(ax, panel, limit, cmap, artists)
                    continue
                self._draw_field(ax, panel.mean, cmap, -limit, limit, artists)
                if n_contours:
                    artists["contours"] = fields.draw_contours(
                        ax, panel.mean_sample, self.lat, self.lon, levels
                    )
            views = {view for _, view in group}
            hidden = (
                max((self.hidden[view] for view in views), default=0.0) if self.hidden else 0.0
            )
            notes = [self.unit, sheet.say_limits(group, len(places), limits), cut]
            if not np.isfinite(values).all():
                means = not self.hidden and any(len(panels[place].maps) > 1 for place in group)
                grey = "land" if self.hidden else "missing"
                notes.append(f"grey: {grey}{' in at least one map' if means else ''}")
            if hidden >= 0.0005:
                most = "up to " if len(views) > 1 else ""
                notes.append(f"{most}{100 * hidden:.2g}\u00a0% of |relevance| on land, not shown")
            if any(self._axes_of(*place)[1].get("contours") for place in group):
                step = levels[-1] - levels[-2]
                notes.append(f"contours: input every {step:g}, none at 0, dashed below")
            self.colorbars_.append(
                sheet.add_colorbar(
                    [self._axes_of(*place)[0] for place in group],
                    self._axes_of(*group[0])[1]["image"],
                    "; ".join(note for note in notes if note),
                    "both" if cut else "neither",
                    "bottom" if len(self.panels) > 1 and len(views) == 1 else "right",
                )
            )

    def _draw_field(
        self, ax: Any, values: NDArray, cmap: str, low: float, high: float, artists: dict[str, Any]
    ) -> None:
        edges = fields.find_edges(values.shape, self.lat, self.lon)
        artists["image"] = fields.draw_field(ax, values, edges, cmap, low, high)
        if self.outline is not None:
            artists["outline"] = fields.draw_outline(ax, self.outline, edges)
        fields.dress_axes(ax, self.lat is not None, edges)

    def _draw_sequence(
        self, ax: Any, panel: Panel, limit: float, cmap: str, artists: dict[str, Any]
    ) -> None:
        steps = np.arange(panel.maps.shape[-1]) if self.steps is None else self.steps
        if panel.maps.ndim == 3:
            artists["image"], artists["lines"] = series.draw_variables(
                ax, panel.mean_sample, panel.mean, steps, self.names, cmap, limit
            )
        else:
            artists["image"], artists["line"] = series.draw_signal(
                ax, panel.mean_sample, panel.mean, steps, cmap, limit
            )
            ax.set_ylabel("relevance" if panel.samples is None else "input")
        ax.set_xlabel("step")

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
            self._draw_field(ax, values, cmap, low, high, drawn)
            self._set_title(ax, "input", self.panels[0][row])
        axes = list(self.axes_[:, 0])
        self.colorbars_.append(
            sheet.add_colorbar(axes, drawn["image"], "input", "neither", "left")
        )
