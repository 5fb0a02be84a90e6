"""What a sample is: a field, a sequence or a table, its axes, its grid and its names.

`frame_of` answers for the samples that a model takes, and `make_frame` for arrays alone. The
displays, the diagnostics and the metrics ask here, so that all of them draw the same picture, name
the same axes and take the same masks.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklrp._checks import (
    as_booleans,
    as_tuple,
    check_field_mask,
    check_option,
    is_positive_integer,
    same_layout,
)
from sklrp._missing import as_gapped_array, as_plain_array
from sklrp._model_parts import Model
from sklrp._sample_axes import find_seen, read_layout
from sklrp._wording import say_value
from sklrp.geo.places import (
    Grid,
    check_centres,
    find_places,
    move_grid,
    read_grid,
    take_degrees,
)
from sklrp.geo.vectorizer import GridVectorizer, moves_features, warn_of_listed_cells

LAYOUTS = ("auto", "field", "sequence", "table")
_NO_FIELD = (
    "lat, lon, land and outline are of fields, but samples are drawn as a {}: give shape or "
    "layout='field'."
)


@dataclass(frozen=True, eq=False, repr=False)
class Frame:  # numpydoc ignore=PR02
    """What a sample is.

    A plain value, which can be pickled and copied. Values "of the network's shape" are an array
    with the samples first and then the axes of what enters the network, or flat.

    Parameters
    ----------
    layout : {"field", "sequence", "table"}
        What a sample is.
    entering : tuple of int
        The shape of a sample that enters the network.
    seen : tuple of int
        The shape in which the network sees a sample, such as the ``input_shape`` of a classifier
        whose samples are rows.
    laid : tuple of int
        The lengths of the axes that are drawn, in the order of the samples' own.
    channel_axis : int or None, default=None
        Which of `laid` counts the channels of a field, or the variables of a sequence.
    valid : ndarray of bool or None, default=None
        Of the shape `laid`: the places of the values, where a sample has fewer values than places.
    filled : ndarray of bool or None, default=None
        Of the shape `laid`: True where a channel of a field holds a fill instead of a value.
    land : ndarray of bool or None, default=None
        True at cells without a value in any channel, latitude by longitude.
    latitude, longitude : ndarray or None, default=None
        The centres of a field's cells in degrees.
    turned : bool, default=False
        Whether longitude comes before latitude in `laid`.
    names : list of str or None, default=None
        Names of the features of a table, or of the variables of a sequence.
    steps : ndarray or None, default=None
        Where the steps of a sequence are. None (default) counts them.
    """

    layout: str
    entering: tuple[int, ...]
    seen: tuple[int, ...]
    laid: tuple[int, ...]
    channel_axis: int | None = None
    valid: NDArray[np.bool_] | None = None
    filled: NDArray[np.bool_] | None = None
    land: NDArray[np.bool_] | None = None
    latitude: NDArray | None = None
    longitude: NDArray | None = None
    turned: bool = False
    names: list[str] | None = None
    steps: NDArray | None = None

    def __repr__(self) -> str:
        """Say what a sample is in a line."""
        said = [f"{self.layout} of shape {self.shape}"]
        if self.n_channels > 1:
            said.append(f"{self.n_channels} {'channels' if self.is_field else 'variables'}")
        if self.land is not None:
            said.append(f"{np.count_nonzero(self.land)} cells of land")
        if self.has_degrees:
            said.append("in degrees")
        return f"<Frame: {', '.join(said)}>"

    @property
    def is_field(self) -> bool:
        """Whether a sample is a field."""
        return self.layout == "field"

    @property
    def has_degrees(self) -> bool:
        """Whether the cells of a field have latitudes and longitudes."""
        return self.latitude is not None

    @property
    def n_channels(self) -> int:
        """The number of channels of a field, or of variables of a sequence."""
        return 1 if self.channel_axis is None else self.laid[self.channel_axis]

    @property
    def axes(self) -> tuple[int, ...]:
        """The lengths of a sample's axes as the network sees it, without axes of length 1."""
        # Values of the network's shape can be reshaped to them.
        return _long(self.seen)

    @property
    def axis_names(self) -> tuple[str, ...]:
        """A name for each of `axes`: "latitude", "row", "step", "channel", "feature", ..."""
        names = self._laid_names()
        if _long(self.laid) != self.axes or len(names) != len(self.laid):
            return ("feature",) if len(self.axes) == 1 else ("axis",) * len(self.axes)
        long = [name for name, n in zip(names, self.laid, strict=True) if n != 1]
        return tuple(long or names[-1:])

    @property
    def has_positions(self) -> bool:
        """Whether features have neighbours, as they have in a field or a sequence."""
        return len(self.seen) > 1

    @property
    def cells(self) -> tuple[int, int]:
        """The lengths of a field's two axes, as samples have them."""
        rows, columns = (n for i, n in enumerate(self.laid) if i != self.channel_axis)
        return rows, columns

    @property
    def centres(self) -> tuple[NDArray | None, NDArray | None]:
        """The latitudes and longitudes to draw at, in one turn; an error if they are unsorted."""
        if not self.has_degrees:
            return None, None
        rows, columns = self.shape
        return (
            check_centres(self.latitude, "lat", rows),
            check_centres(self.longitude, "lon", columns),
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a map as it is drawn, channels of a field summed."""
        # Latitude by longitude, or rows by columns; variables by steps, or steps alone; features.
        if self.layout == "table":
            return self.laid
        if self.is_field:
            return self.cells[::-1] if self.turned else self.cells
        steps = [n for i, n in enumerate(self.laid) if i != self.channel_axis]
        return tuple(steps) if self.channel_axis is None else (self.n_channels, *steps)

    def bring(self, values: ArrayLike, channels: str = "sum", *, hide: bool = True) -> NDArray:
        """Return maps or samples in the form that is drawn.

        Parameters
        ----------
        values : array-like of shape (n_samples, ...)
            Values of the network's shape.
        channels : {"sum", "mean", "keep"}, default="sum"
            What becomes of the channels of a field: a cell is missing where all of them are.
        hide : bool, default=True
            Whether land is NaN; of channels that are kept, the land of each.

        Returns
        -------
        ndarray of shape (n_samples, *shape), or (n_samples, n_channels, *shape) of kept channels
            Fields with north or the first row first as samples have it, latitude before longitude;
            variables before steps.
        """
        laid = self._lay_out(as_gapped_array(values, "values", np.float64))
        if self.layout == "table":
            return laid
        if hide and channels == "keep" and self.filled is not None:
            laid = np.where(self.filled, np.nan, laid)
        if self.channel_axis is not None:
            laid = np.moveaxis(laid, 1 + self.channel_axis, 1)
        if not self.is_field:
            return laid
        if self.turned:
            laid = laid.swapaxes(-1, -2)
        if hide and self.land is not None:
            laid = np.where(self.land, np.nan, laid)
        if channels == "keep":
            return laid if self.channel_axis is not None else laid[:, np.newaxis]
        return laid if self.channel_axis is None else _join_channels(laid, channels)

    def share_on_land(self, maps: ArrayLike) -> float:
        """Return which share of absolute relevance lies on land, where it is not drawn.

        Parameters
        ----------
        maps : array-like of shape (n_samples, ...)
            Maps of the network's shape.

        Returns
        -------
        float
            The share, 0 where no land is known.
        """
        if self.land is None:
            return 0.0
        size = np.abs(self.bring(maps, hide=False))
        total = np.nansum(size)
        return float(np.nansum(size[:, self.land]) / total) if total > 0 else 0.0

    def take_mask(self, mask: Any, name: str = "mask") -> NDArray[np.bool_]:
        """Return a mask in the shape of what enters the network.

        Parameters
        ----------
        mask : DataArray or array-like of bool
            A field's cells, of all channels; or the values of a sample; or one of either for each
            sample. A DataArray is put in place by its coordinates, whatever its order and
            orientation; an array has the order of the samples' axes.
        name : str, default="mask"
            What errors call it.

        Returns
        -------
        ndarray of bool of shape entering, or (n_samples, *entering)
            The mask.

        Raises
        ------
        ValueError
            If the mask is of other cells, or holds anything but 0 and 1.
        """
        found = as_booleans(self.in_order(mask, name), name)
        for n_lead in (0, 1):
            inner = found.shape[n_lead:]
            if found.ndim > n_lead and same_layout(inner, self.entering):
                return found.reshape(*found.shape[:n_lead], *self.entering)
            if self.is_field and inner in (self.cells, self.laid):
                return self._take_cells(found, n_lead)
        is_other = self.is_field and self.cells != self.entering
        cells = f"; or that of a field's cells, {_or_of_each(self.cells)}" if is_other else ""
        raise ValueError(
            f"{name} has the shape {found.shape}, but must have the shape of a sample, "
            f"{_or_of_each(self.entering)}{cells}."
        )

    def take_regions(self, regions: Any) -> NDArray:
        """Return labels of a field's cells in the shape of what enters the network.

        Parameters
        ----------
        regions : DataArray or array-like
            A label for each cell of a field, of all channels, or for each value of a sample. A
            DataArray is put in place by its coordinates.

        Returns
        -------
        ndarray
            The labels; those of another shape as they are.

        Raises
        ------
        ValueError
            If a DataArray has other latitudes or longitudes.
        """
        if hasattr(regions, "dims"):
            regions = self.in_order(regions, "regions")
        found = as_plain_array(regions, "regions")
        if found.shape == self.entering or not self.is_field:
            return found
        return self._take_cells(found, 0) if found.shape in (self.cells, self.laid) else found

    def take_field(self, mask: Any, name: str) -> NDArray[np.bool_]:
        """Return a mask of a field's cells as it is drawn.

        Parameters
        ----------
        mask : DataArray or array-like of bool
            The mask: a DataArray is put in place by its coordinates, an array has the order of
            the samples' axes.
        name : str
            What errors call it.

        Returns
        -------
        ndarray of bool of shape (n_latitudes, n_longitudes) or (n_rows, n_columns)
            The mask.

        Raises
        ------
        ValueError
            If the mask is of other cells, or holds anything but 0 and 1.
        """
        if not self.is_field:
            raise ValueError(_NO_FIELD.format(self.layout))
        found = as_booleans(self.in_order(mask, name), name)
        found = found.T if self.turned else found
        if found.shape != self.shape:
            raise ValueError(f"{name} has the shape {found.shape}, but fields have {self.shape}.")
        return found

    def with_names(self, names: Any) -> Frame:
        """Return the frame with other names of features, or of the variables of a sequence."""
        return replace(self, names=_check_feature_names(names, self))

    def _laid_names(self) -> tuple[str, ...]:
        """Name the axes that are drawn, in the order of samples."""
        if self.layout == "table":
            return ("feature",)
        if self.is_field:
            space = ["latitude", "longitude"] if self.has_degrees else ["row", "column"]
            names = space[::-1] if self.turned else space
        else:
            names = ["step"]
        if self.channel_axis is not None:
            names.insert(self.channel_axis, "channel" if self.is_field else "variable")
        return tuple(names)

    def _lay_out(self, values: NDArray) -> NDArray:
        """Return values with the axes `laid`, NaN in places without a value."""
        n_samples = len(values)
        if self.valid is None:
            return values.reshape(n_samples, *self.laid)
        full = np.full((n_samples, *self.laid), np.nan)
        full[:, self.valid] = values.reshape(n_samples, -1)
        return full

    def in_order(self, values: Any, name: str) -> NDArray:
        """Return values whose last axes are in the order of the samples' cells.

        Parameters
        ----------
        values : DataArray or array-like
            A DataArray is put in place by its coordinates; an array has the order already.
        name : str
            What errors call it.

        Returns
        -------
        ndarray
            The values.

        Raises
        ------
        ValueError
            If a DataArray has other latitudes or longitudes.
        """
        values, latitude, longitude = take_degrees(values)
        if not isinstance(values, np.ndarray):  # whose mask stays, for who takes it to refuse
            values = as_plain_array(values, name)
        if latitude is None or longitude is None or not self.is_field:
            return values
        if self.latitude is not None and self.longitude is not None:
            rows = find_places(latitude, self.latitude, name, "latitudes")
            columns = find_places(longitude, self.longitude, name, "longitudes")
            values = values[..., rows[:, np.newaxis], columns]
        return values.swapaxes(-1, -2) if self.turned else values

    def _take_cells(self, mask: NDArray, n_lead: int) -> NDArray:
        """Return what cells, or cells and channels, have in the shape of what enters."""
        lead = mask.shape[:n_lead]
        if mask.shape[n_lead:] != self.laid and self.channel_axis is not None:
            mask = np.expand_dims(mask, n_lead + self.channel_axis)
        mask = np.broadcast_to(mask, (*lead, *self.laid))
        if self.valid is not None:
            mask = mask[..., self.valid]
        return mask.reshape(*lead, *self.entering)


def frame_of(
    model: Model,
    X: Any,
    entering: Any,
    *,
    layout: str = "auto",
    shape: Sequence[int] | None = None,
    land: Any = None,
    grid: Any = None,
    feature_names: Any = None,
    steps: Any = None,
) -> Frame:
    """Find out what the samples of a model are.

    Parameters
    ----------
    model : Model
        The model, as `sklrp._models.unwrap` returns it.
    X : DataArray, Dataset, DataFrame or array-like of shape (n_samples, ...)
        Samples as the model takes them. Fields of xarray, and the arrays of
        `sklrp.datasets.load_pacific_sst`, know their grid.
    entering : array-like of shape (n_samples, ...)
        What enters the network, ``model.enter(X)``; one sample of it will do.
    layout : {"auto", "field", "sequence", "table"}, default="auto"
        What a sample is. ``"auto"``: a field, if it has a grid or two long axes; a sequence, if it
        has one long axis, is read by one-dimensional convolutions, or by a recurrent network over
        at least four times as many steps as variables, or over variables that `feature_names`
        names; a table, if it is a row.
    shape : sequence of int or None, default=None
        The shape that rows of features have as samples. None (default): what the network, or the
        grid, says.
    land : DataArray or array-like of bool or None, default=None
        True at cells of a field that have no value. Rows of features may hold all cells, or those
        that are not land. None (default): what the grid says.
    grid : GridVectorizer, DataArray, Bunch, (latitude, longitude) or None, default=None
        Where the cells are: a fitted vectorizer, a field, the Bunch of `load_pacific_sst` or of
        `load_enso`, or the two coordinates of the cells that are known otherwise. None (default):
        what a vectorizer among the steps before the network, or X, says.
    feature_names : array-like of str or None, default=None
        Names of features, or of the variables of a sequence. None (default): those that the
        network, the steps before it or the columns of X have.
    steps : array-like or None, default=None
        Where the steps of a sequence are, rising. None (default) counts them.

    Returns
    -------
    Frame
        What a sample is.

    Raises
    ------
    TypeError
        If the network takes several inputs.
    ValueError
        If what is given does not fit the samples.
    """
    if isinstance(entering, tuple | Mapping):
        raise TypeError(
            f"X is a {type(entering).__name__}: {model.name} takes several inputs, so that a "
            "sample has no one shape: explain it with sklrp.explain, and draw one input at a "
            "time, RelevanceDisplay.from_relevance."
        )
    sample_shape = _shape_of(entering)[1:]
    if grid is None or isinstance(grid, tuple):
        found = _first_grid(model, X, sample_shape)
        if grid is not None:
            if len(grid) != 2:
                raise ValueError(
                    "grid must be a GridVectorizer, a field, or a pair (lat, lon), "
                    f"got {say_value(grid)}."
                )
            found = move_grid(found, *grid)
    else:
        found = read_grid(grid)
        if found is None:
            raise ValueError(
                "grid must be a fitted GridVectorizer, a DataArray with latitude and longitude, a "
                f"Bunch or a pair (latitude, longitude); {type(grid).__name__} has no grid."
            )
    seen = find_seen(model.network, sample_shape) if shape is None else None
    kind, channels = read_layout(model.network, seen or sample_shape)
    if layout == "auto" and shape is None and kind is not None:
        layout = kind
    elif layout == "auto" and feature_names is not None and found is None and channels == "last":
        # Names for the last axis of what a recurrent network reads say that it holds variables.
        sizes = _long(seen or sample_shape)
        if len(sizes) == 2 and len(as_tuple(feature_names)) == sizes[1]:
            layout = "sequence"
    frame = make_frame(
        sample_shape,
        layout=layout,
        shape=shape,
        seen=seen,
        channels=channels,
        grid=found,
        strict=grid is not None,
        land=land,
        steps=steps,
    )
    if feature_names is not None:
        return frame.with_names(feature_names)
    with contextlib.suppress(ValueError):  # of columns that are no variables of a sequence
        return frame.with_names(model.feature_names(X, math.prod(sample_shape)))
    return frame


def make_frame(
    sample_shape: tuple[int, ...],
    *,
    layout: str = "auto",
    shape: Sequence[int] | None = None,
    seen: tuple[int, ...] | None = None,
    channels: str = "first",
    grid: Grid | None = None,
    strict: bool = True,
    land: Any = None,
    names: Any = None,
    steps: Any = None,
) -> Frame:
    """Find out what samples of a shape are, without a model.

    Parameters
    ----------
    sample_shape : tuple of int
        The shape of a sample.
    layout : {"auto", "field", "sequence", "table"}, default="auto"
        What a sample is.
    shape : sequence of int or None, default=None
        The shape that rows of features have as samples.
    seen : tuple of int or None, default=None
        The shape in which a network sees a sample, if it is another one.
    channels : {"first", "last"}, default="first"
        Where the channels of a field, or the variables of a sequence, are.
    grid : Grid or None, default=None
        Where the cells are.
    strict : bool, default=True
        Whether a grid that does not fit is an error; else it is left out.
    land : DataArray or array-like of bool or None, default=None
        True at cells of a field that have no value. None (default): what the grid says.
    names : array-like of str or None, default=None
        Names of features, or of the variables of a sequence.
    steps : array-like or None, default=None
        Where the steps of a sequence are, rising.

    Returns
    -------
    Frame
        What a sample is.

    Raises
    ------
    ValueError
        If what is given does not fit the samples.
    """
    check_option("layout", layout, LAYOUTS)
    check_option("channels", channels, ("first", "last"))
    given_land = _take_land(land, grid)
    full, valid = _find_full(sample_shape, shape, seen, grid, given_land)
    if grid is not None and not strict and not _fits(grid, full, channels):
        grid = None
    if layout == "auto":
        layout = _find_layout(full, grid)
    if layout != "field" and (given_land is not None or (grid is not None and strict)):
        raise ValueError(_NO_FIELD.format(layout))
    laid, channel_axis = _find_laid(full, layout, channels, grid)
    if seen is None:
        seen = full if len(sample_shape) == 1 and valid is None else sample_shape
    frame = Frame(
        layout=layout,
        entering=sample_shape,
        seen=seen,
        laid=laid,
        channel_axis=channel_axis,
        valid=None if valid is None else valid.reshape(laid),
    )
    if layout == "field":
        frame = _place_cells(frame, grid, given_land)
    if steps is not None:
        frame = replace(frame, steps=_check_positions(steps, frame))
    return frame.with_names(names)


def _or_of_each(shape: tuple[int, ...]) -> str:
    """Return a shape in words, and that of one for each sample."""
    return f"{shape}, or (n_samples, {', '.join(map(str, shape))})"


def _long(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes of a shape that are longer than one, or a single one of length 1."""
    return tuple(n for n in shape if n != 1) or (1,)


def _first_grid(model: Model, X: Any, sample_shape: tuple[int, ...]) -> Grid | None:
    """Return the grid of a vectorizer before the network, or of the samples."""
    steps = [] if model.before is None else [step for _, step in model.before.steps]
    at = [i for i, step in enumerate(steps) if isinstance(step, GridVectorizer)]
    if at:
        vectorizer, after = steps[at[-1]], steps[at[-1] + 1 :]
        if any(moves_features(vectorizer, step) for step in after):
            return None
        warn_of_listed_cells(vectorizer, model.network)
        grid = read_grid(vectorizer)
        if grid is not None and _fits_rows(vectorizer, sample_shape):
            return grid
        return None
    return None if isinstance(X, tuple) else read_grid(X)  # which are several inputs


def _fits_rows(vectorizer: GridVectorizer, sample_shape: tuple[int, ...]) -> bool:
    """Tell whether what enters the network has as many values as the vectorizer gives."""
    mask = np.asarray(vectorizer.mask_)
    size = mask.size if vectorizer.layout == "grid" else np.count_nonzero(mask)
    return math.prod(sample_shape) == size


def _take_land(land: Any, grid: Grid | None) -> NDArray[np.bool_] | None:
    """Return land that is given, latitude by longitude."""
    if land is None:
        return None
    values, latitude, longitude = take_degrees(land)
    found = check_field_mask(values, "land")
    if found is None or grid is None:
        return found
    if latitude is None or longitude is None:  # in the order of the samples' axes
        return found.T if grid.turned else found
    if grid.latitude is not None and grid.longitude is not None:
        rows = find_places(latitude, grid.latitude, "land", "latitudes")
        columns = find_places(longitude, grid.longitude, "land", "longitudes")
        found = found[rows[:, np.newaxis], columns]
    return found


def _find_full(
    sample_shape: tuple[int, ...],
    shape: Sequence[int] | None,
    seen: tuple[int, ...] | None,
    grid: Grid | None,
    land: NDArray[np.bool_] | None,
) -> tuple[tuple[int, ...], NDArray[np.bool_] | None]:
    """Return the shape that samples have with all places, and which of them have a value."""
    size = math.prod(sample_shape)
    valid = grid.valid if grid is not None and shape is None else None
    if valid is not None and size == np.count_nonzero(valid):  # rows of the valid cells
        return valid.shape, None if valid.all() else valid
    ocean = _find_ocean(grid, land)
    if shape is not None:
        sizes = list(shape) if isinstance(shape, list | tuple) else []
        if not sizes or not all(is_positive_integer(size) for size in sizes):
            raise ValueError(
                "shape must be a tuple of numbers of cells, such as (18, 30), "
                f"got {say_value(shape)}."
            )
        full = tuple(map(int, sizes))
    else:
        full = sample_shape if seen is None else seen
        if len(full) == 1:
            full = _unfold_rows(full, grid, ocean)
    if size == math.prod(full):
        return full, None
    if ocean is not None and full == ocean.shape and size == np.count_nonzero(ocean):
        return full, ocean
    raise ValueError(
        f"samples of shape {sample_shape} cannot take the shape {full}: they have {size} values "
        f"each, neither one for each of {math.prod(full)} cells nor one for each cell that is "
        "not missing."
    )


def _find_ocean(grid: Grid | None, land: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """Return the cells that are not land, in the order of the samples' axes."""
    if land is None and grid is not None:
        land = grid.land
    if land is None:
        return None
    return ~land.T if grid is not None and grid.turned else ~land


def _unfold_rows(
    row: tuple[int, ...], grid: Grid | None, ocean: NDArray[np.bool_] | None
) -> tuple[int, ...]:
    """Return the cells of a field if rows hold all of them, or all of the ocean, else the row."""
    if ocean is not None and row[0] in (ocean.size, np.count_nonzero(ocean)):
        return ocean.shape
    return grid.cells if grid is not None and row[0] == math.prod(grid.cells) else row


def _fits(grid: Grid, full: tuple[int, ...], channels: str) -> bool:
    """Tell whether samples have the axes of a grid."""
    if len(full) < 2:
        return False
    long = _long(full)
    if channels == "last" and len(long) == 3:
        long = long[:2]
    return full[-2:] == grid.cells or long[-2:] == grid.cells


def _find_layout(full: tuple[int, ...], grid: Grid | None) -> str:
    if len(full) == 1:
        return "table"
    if grid is not None:
        return "field"
    return "sequence" if len(_long(full)) == 1 else "field"


def _find_laid(
    full: tuple[int, ...], layout: str, channels: str, grid: Grid | None
) -> tuple[tuple[int, ...], int | None]:
    """Return the axes that are drawn, and which of them counts channels or variables."""
    if layout == "table":
        return (math.prod(full),), None
    laid = _long(full)
    if layout == "field" and grid is not None and full[-2:] == grid.cells:
        lead = math.prod(full[:-2])
        return ((lead, *full[-2:]), 0) if lead > 1 else (full[-2:], None)
    most = 2 if layout == "sequence" else 3
    if len(laid) > most or (layout == "field" and len(full) < 2):
        raise ValueError(
            f"samples of shape {full} are no {layout}: a field has two axes, besides its "
            "channels; a sequence one, besides its variables. Give layout, or shape."
        )
    if layout == "field" and len(laid) < 2:
        laid = full[-2:] if channels == "first" else full[:2]
    if len(laid) < most:
        return laid, None
    return laid, 0 if channels == "first" else len(laid) - 1


def _shape_of(samples: Any) -> tuple[int, ...]:
    """Return the shape of samples, of which lists may have rows of several lengths."""
    try:
        return tuple(np.shape(samples))
    except ValueError:
        raise ValueError("X is a list whose rows differ in length: give an array.") from None
    except Exception:  # of the value's own code
        return as_plain_array(samples, "X").shape


def _place_cells(frame: Frame, grid: Grid | None, land: NDArray[np.bool_] | None) -> Frame:
    """Return the frame of a field with its degrees and its land, which must be of its cells."""
    if grid is not None:
        if land is None:
            land = grid.land
        frame = replace(
            frame, latitude=grid.latitude, longitude=grid.longitude, turned=grid.turned
        )
    for name, centres, n in zip(
        ("lat", "lon"), (frame.latitude, frame.longitude), frame.shape, strict=True
    ):
        if centres is not None and len(centres) != n:
            raise ValueError(
                f"{name} must hold the centres of {n} cells, got the shape {np.shape(centres)}."
            )
    if land is not None and land.shape != frame.shape:
        raise ValueError(
            f"land has the shape {land.shape}, but samples are of {frame.shape} ({frame.layout})."
        )
    filled = None
    if grid is not None and grid.filled is not None and grid.filled.shape == frame.laid:
        filled = grid.filled
    return replace(frame, land=land, filled=filled)


def _check_feature_names(names: Any, frame: Frame) -> list[str] | None:
    """Return a name for each feature of a table, or variable of a sequence, if these have any."""
    if names is None or frame.is_field or (frame.layout != "table" and len(frame.shape) == 1):
        return None
    taken = as_tuple(names)
    if len(taken) != frame.shape[0]:
        got = len(taken) or say_value(names)
        raise ValueError(f"feature_names must hold {frame.shape[0]} names, got {got}.")
    return [str(name) for name in taken]


def _check_positions(steps: Any, frame: Frame) -> NDArray:
    """Return where the steps of a sequence are, rising."""
    if frame.layout != "sequence":
        raise ValueError(f"steps are of sequences, but samples are drawn as a {frame.layout}.")
    found, n_steps = as_plain_array(steps, "steps"), frame.shape[-1]
    if found.shape != (n_steps,) or not (found[1:] > found[:-1]).all():
        raise ValueError(
            f"steps must hold {n_steps} rising values, one for each step, got an array of shape "
            f"{found.shape}."
        )
    return found


def _join_channels(fields: NDArray, how: str) -> NDArray:
    """Return the sum, or the mean, over channels, NaN where all of them are missing."""
    there = np.isfinite(fields)
    total = np.where(there, fields, 0.0).sum(axis=1)
    n_there = there.sum(axis=1)
    total = np.where(n_there > 0, total, np.nan)
    return total / np.maximum(n_there, 1) if how == "mean" else total
