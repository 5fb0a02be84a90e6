"""Regions of a network's own gridded output, by its coordinates.

The output's grid need not be that of the input, so `sklrp.geo.explain` takes it from the user, and
asks `mark_region` which values of the output a target means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sklrp._checks import import_optional
from sklrp.geo.coordinates import is_dataset, is_field
from sklrp.geo.grid import CHANNEL

if TYPE_CHECKING:
    from xarray import DataArray, Dataset


def mark_region(
    target: dict[str, Any], output: DataArray | Dataset | None, sample_dim: str
) -> NDArray[np.bool_]:
    """Return which values of the output a target means.

    Parameters
    ----------
    target : dict
        Dimensions of the output mapped to labels: one, a list, or a slice, both of whose ends
        count, as in xarray's ``sel``. Dimensions that are left out are taken as a whole.
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
    """
    xr = import_optional("xarray", extra="geo", user="sklrp.geo")
    if output is None or not is_field(output):
        raise TypeError(
            f"target={target!r} is in coordinates of the network's output: give output, a "
            "DataArray or Dataset on its grid, such as the fields that it was trained to return; "
            f"got {type(output).__name__}."
        )
    if sample_dim in output.dims:
        output = output.isel({sample_dim: 0}, drop=True)
    grid = output.to_dataarray(CHANNEL) if is_dataset(output) else output
    inside = xr.DataArray(np.ones(grid.shape, dtype=bool), dims=grid.dims)
    for dim, labels in target.items():
        inside = inside & _mark_labels(grid, dim, labels)
    found: NDArray[np.bool_] = inside.transpose(*grid.dims).to_numpy()
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
    values = grid[dim].to_numpy()
    ends = f"{values[0]} to {values[-1]}"
    if isinstance(labels, slice):
        _check_ends(values, dim, labels, ends)
    places = xr.DataArray(np.arange(len(values)), {dim: grid[dim].variable}, (dim,))
    try:
        chosen = np.atleast_1d(places.sel({dim: labels}).to_numpy())
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"target has {dim}={labels!r}, which is no value of the output's grid, {ends}: give "
            "values of its coordinate, or a slice."
        ) from error
    if not len(chosen):
        turned = len(values) > 1 and values[0] > values[-1]
        remedy = f"; {dim} falls, so slice(larger, smaller) is meant" if turned else ""
        raise ValueError(
            f"target has {dim}={labels!r}, which marks nothing of the output's grid, {ends}"
            f"{remedy}."
        )
    marked = np.zeros(len(values), dtype=bool)
    marked[chosen] = True
    return xr.DataArray(marked, dims=(dim,))


def _check_ends(values: NDArray, dim: str, labels: slice, ends: str) -> None:
    """Refuse a slice that leaves the grid, which xarray would clip: a cell's own half is kept."""
    if values.dtype.kind not in "iufM":
        return
    known = values.astype("int64" if values.dtype.kind == "M" else "float64")
    margin = np.abs(np.diff(known)).max() / 2 if len(known) > 1 else 0
    for end in (labels.start, labels.stop):
        if end is None:
            continue
        at = end
        if values.dtype.kind == "M":
            at = np.datetime64(end).astype(values.dtype).astype("int64")
        if not known.min() - margin <= at <= known.max() + margin:
            raise ValueError(
                f"target has {dim}={labels!r}, which leaves the output's grid, {ends}: nothing is "
                "clipped; end it at the grid's edge, or leave the end out."
            )
