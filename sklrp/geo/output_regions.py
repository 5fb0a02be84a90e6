"""Regions of a network's own gridded output, by its coordinates.

The output's grid need not be that of the input, so `sklrp.geo.explain` takes it from the user, and
asks `mark_region` which values of the output a target means.
"""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sklrp._checks import import_optional
from sklrp._coordinate_marks import find_kind
from sklrp._warnings import warn_user
from sklrp._wording import shorten
from sklrp.geo.coordinates import full_turn, is_dataset, is_field
from sklrp.geo.grid import CHANNEL

if TYPE_CHECKING:
    from xarray import DataArray, Dataset


_ROUNDING = 2.5e-7  # of a value: what single precision leaves of it


def describe_region(target: dict[str, Any]) -> str:
    """Say in words what a target in coordinates is.

    Parameters
    ----------
    target : dict
        Dimensions of the output mapped to labels.

    Returns
    -------
    str
        The words.
    """
    if not target:
        return "sum over the whole output"
    return "sum over " + ", ".join(f"{d}={_show_labels(labels)}" for d, labels in target.items())


def _show_labels(labels: Any) -> str:
    """Return labels as text, of many the first."""
    if isinstance(labels, slice):
        return repr(labels)
    values = np.asarray(labels, dtype=object)
    return shorten(str(values.tolist() if values.ndim else labels))


def mark_region(
    target: dict[str, Any], output: DataArray | Dataset | None, sample_dim: str
) -> NDArray[np.bool_]:
    """Return which values of the output a target means.

    Parameters
    ----------
    target : dict
        Dimensions of the output mapped to labels: one, a list, a boolean for each value, or a
        slice, both of whose ends count, as in xarray's ``sel``. Labels and ends that differ from
        a value of the grid by rounding are that value. Dimensions that are left out are taken as
        a whole.
    output : DataArray, Dataset or None
        A field with the dimensions, in their order, and the coordinates of a sample's output; of
        a Dataset the variables are the first dimension, ``"variable"``.
    sample_dim : str
        The dimension of samples, of which the first is taken.

    Returns
    -------
    ndarray of bool
        The mask, of the shape of a sample's output.

    Raises
    ------
    TypeError
        If `output` is no field.
    ValueError
        If the target lies outside the output's grid, in part or as a whole.

    Warns
    -----
    UserWarning
        If `output` has no value in a part of the target, as on land.
    """
    xr = import_optional("xarray", extra="geo", user="sklrp.geo")
    if output is None or not is_field(output):
        raise TypeError(
            f"target={target!r} is in coordinates of the network's output: give output, a "
            "DataArray or Dataset on its grid, such as the fields that it was trained to return; "
            f"got {type(output).__name__}."
        )
    if sample_dim in output.dims:
        if not output.sizes[sample_dim]:
            raise ValueError(
                f"output has no sample along {sample_dim!r}: give a field of one at least."
            )
        output = output.isel({sample_dim: 0}, drop=True)
    grid = output.to_dataarray(CHANNEL) if is_dataset(output) else output
    inside = xr.DataArray(np.ones(grid.shape, dtype=bool), dims=grid.dims)
    for dim, labels in target.items():
        inside = inside & _mark_labels(grid, dim, labels)
    found: NDArray[np.bool_] = inside.transpose(*grid.dims).to_numpy()
    missing = grid.isnull().to_numpy()
    n_missing = int((missing & found).sum())
    if n_missing and not missing.all():
        warn_user(
            f"output has no value in {n_missing} of the {found.sum()} places that target marks, "
            "such as on land. What the network returns there is explained too: leave these places "
            "out by a mask over the output, or give an output without gaps if they are meant."
        )
    return found


def _mark_labels(grid: Any, dim: str, labels: Any) -> Any:
    """Return which positions along a dimension have the labels."""
    xr = import_optional("xarray", extra="geo", user="sklrp.geo")
    if dim not in grid.dims or dim not in grid.coords:
        known = [str(d) for d in grid.dims if d in grid.coords]
        raise ValueError(
            f"target names {dim!r}, but output has coordinates along {known} alone, and the "
            f"dimensions {[str(d) for d in grid.dims]}."
        )
    index = grid[dim].to_index()
    said = f"target has {dim}={_show_labels(labels)}"
    ends = f"{index[0]} to {index[-1]}"
    places = xr.DataArray(np.arange(len(index)), {dim: grid[dim].variable}, (dim,))
    try:
        exact = _to_grid(index, labels)
        leaves = isinstance(exact, slice) and _leaves_grid(index, exact)
        chosen = np.atleast_1d(places.sel({dim: exact}).to_numpy())
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"{said}, which is no value of the output's grid, {ends}: give values of its "
            f"coordinate, a boolean for each, or a slice.{_other_turn(grid[dim], labels)}"
        ) from error
    if leaves:
        raise ValueError(
            f"{said}, which leaves the output's grid, {ends}: nothing is clipped; end it at the "
            f"grid's edge, or leave the end out.{_other_turn(grid[dim], labels)}"
        )
    if not len(chosen):
        raise ValueError(
            f"{said}, which marks nothing of the output's grid, {ends}"
            f"{_say_why_empty(grid[dim], index, labels)}."
        )
    marked = np.zeros(len(index), dtype=bool)
    marked[chosen] = True
    return xr.DataArray(marked, dims=(dim,))


def _to_grid(index: Any, labels: Any) -> Any:
    """Return labels with the values of the grid in place of those that differ by rounding."""
    if isinstance(labels, slice):
        start, stop = (_to_grid(index, end) for end in (labels.start, labels.stop))
        return slice(start, stop, labels.step)
    given = np.asarray(labels)
    if index.dtype.kind != "f" or given.dtype.kind not in "iuf" or given.ndim > 1:
        return labels
    values = index.to_numpy().astype(np.float64)
    apart = np.abs(given[..., None] - values)
    nearest = apart.argmin(axis=-1)
    # Of single precision, or sums of decimals; on fine grids less, as it must be one cell alone.
    close = np.maximum(_ROUNDING * np.abs(given), 1e-12 * np.abs(values).max())
    close = np.minimum(close, _smallest_step(values) / 100)
    found = np.where(apart.min(axis=-1) <= close, index.to_numpy()[nearest], given)
    return found if given.ndim else found.item()


def _smallest_step(values: NDArray[np.float64]) -> float:
    """Return how far the nearest two values are apart, infinity of one."""
    steps = np.abs(np.diff(np.sort(values)))
    return float(steps[steps > 0].min(initial=np.inf))


def _leaves_grid(index: Any, labels: slice) -> bool:
    """Tell whether a slice leaves the grid, which xarray would clip; a cell's half is kept."""
    if not (index.is_monotonic_increasing or index.is_monotonic_decreasing):
        return False  # its ends are values of the grid, or `sel` refuses them
    is_cftime = hasattr(index, "calendar")
    if len(index) > 1 and (is_cftime or index.dtype.kind != "O"):
        half = np.abs(np.diff(index)).max() / 2
        half = half if index[0] < index[-1] else -half
        low, high = index[0] - half, index[-1] + half
        index = type(index)([low, *index, high]) if is_cftime else index.insert(0, low)
        index = index if is_cftime else index.insert(len(index), high)
    for end in (labels.start, labels.stop):
        if end is None:
            continue
        # A date such as "2001-03" begins and ends somewhere within the grid, or leaves it.
        if index.slice_locs(end, None)[0] == len(index) or not index.slice_locs(None, end)[1]:
            return True
    return False


def _other_turn(coordinate: Any, labels: Any) -> str:
    """Say what longitudes are called on the grid, where it counts them in the other way."""
    ends = [labels.start, labels.stop] if isinstance(labels, slice) else labels
    flat = np.asarray(ends, dtype=object).ravel()
    given = np.asarray([x for x in flat if isinstance(x, Real)], dtype=np.float64)
    if find_kind(coordinate) != "longitude" or coordinate.dtype.kind not in "iuf":
        return ""
    low, high = float(coordinate.min()), float(coordinate.max())
    turn = full_turn(coordinate)
    for x in given[(given < low) | (given > high)]:
        for turned in (x - turn, x + turn):
            if low <= turned <= high:
                return f" It counts longitudes from {low:g} to {high:g}: {x:g} is {turned:g}."
    return ""


def _say_why_empty(coordinate: Any, index: Any, labels: Any) -> str:
    """Say why a slice is empty, where its ends are the wrong way round."""
    dim = coordinate.name
    if not isinstance(labels, slice) or labels.start is None or labels.stop is None:
        return ""
    if index.is_monotonic_decreasing and len(index) > 1:
        return f"; {dim} falls, so slice(larger, smaller) is meant"
    if not (index.is_monotonic_increasing and labels.start > labels.stop):
        return ""
    if find_kind(coordinate) == "longitude":
        return (
            "; to go over the grid's edge give a boolean for each value, "
            f"({dim} >= {labels.start}) | ({dim} <= {labels.stop})"
        )
    return f"; {dim} rises, so slice(smaller, larger) is meant"
