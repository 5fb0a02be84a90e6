"""Fields to files, whole or not at all.

`sklrp.geo` makes `write` public; the command line stores fields by it.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sklrp._constraints import constrained
from sklrp._files import replacing
from sklrp._overlaps import find_sources, lies_in
from sklrp.geo.coordinates import check_field, even_chunks, is_dataset, is_field

if TYPE_CHECKING:
    from xarray import DataArray, Dataset

# How values and coordinates are written, whatever the file.
_PACKING = ("units", "calendar", "dtype", "scale_factor", "add_offset", "_FillValue", "bounds")


@constrained()
def write(fields: DataArray | Dataset, path: str | os.PathLike[str], **kwargs: Any) -> Path:
    """Write fields to a NetCDF file or a zarr store that is complete once it is there.

    Lazy relevance is computed while it is written, and an error half-way (a mask that changed, a
    full disk) would leave a file whose end is missing and that opens all the same. Here what was
    at `path` before stays until the new file is whole. Chunks are computed one by one, each by all
    of torch's threads. Under a client of `dask.distributed` its workers compute them, and write a
    zarr store together; for that all of them must reach the folder.

    What is at `path` is replaced as a whole: a zarr store goes with all its groups and variables,
    those that others have added too, as a NetCDF file does. A store that holds anything which
    zarr does not write is left alone.

    Parameters
    ----------
    fields : DataArray or Dataset
        What to write, such as the relevance of `explain` or the result of `composites`.
    path : str or path-like
        A name that ends in ``.nc`` for NetCDF, or in ``.zarr``.
    **kwargs : dict
        Handed on to xarray's ``to_netcdf`` or ``to_zarr``, such as ``encoding``. A part alone
        cannot be written: with ``compute=False``, a ``mode`` that adds, ``region`` or
        ``append_dim``, or as a ``group`` of a file that is there.

    Returns
    -------
    pathlib.Path
        The file or the store.

    Raises
    ------
    TypeError
        If `fields` are not of xarray.
    ValueError
        If the name has another ending, dimensions are stacked, or the fields cannot be computed;
        or if they were read from that file, or only a part would be written.
    OSError
        If the file cannot be written, or the name is that of a folder which is no zarr store, or
        of a store that holds something else.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import xarray as xr
    >>> from sklrp.geo import write
    >>> maps = xr.DataArray([[1.0, 2.0]], dims=("lat", "lon"), name="relevance")
    >>> with TemporaryDirectory() as folder:
    ...     file = write(maps, Path(folder) / "relevance.nc")
    ...     print(xr.load_dataarray(file).equals(maps))
    True
    """
    if hasattr(fields, "skill") and not is_field(fields):  # what skill_map or artifact_map found
        raise TypeError(
            f"write needs fields of xarray, got {type(fields).__name__}, whose arrays are of what "
            "enters the network: put each on the grid, pipeline['gridvectorizer']"
            ".inverse_transform(found.skill, name='skill'), and write that."
        )
    check_field(fields, "write", "fields")
    _check_whole(kwargs, Path(path))
    for field in fields.data_vars.values() if is_dataset(fields) else [fields]:
        if field.dtype.kind == "c":
            raise ValueError(
                f"fields hold complex numbers, {field.dtype}, which neither form has: write "
                "fields.real and fields.imag."
            )
    form = Path(path).suffix.lower()
    if form not in (".nc", ".zarr"):
        raise ValueError(f"path must end in .nc (NetCDF) or .zarr, got {os.fspath(path)!r}.")
    _check_unstacked(fields)
    if not Path(path).absolute().parent.is_dir():  # which to_zarr would make
        raise FileNotFoundError(
            f"there is no folder {os.fspath(Path(path).parent)!r} to write to."
        )
    _check_sources(fields, Path(path))
    is_store = form == ".zarr"
    with replacing(path, is_store=is_store) as part, _schedule(fields, by_workers=is_store):
        store(fields, part, zarr=is_store, **kwargs)
    return Path(path)


def _check_whole(kwargs: dict[str, Any], path: Path) -> None:
    """Raise an error unless all of a file would be written, and at once."""
    if kwargs.get("group") is not None and path.exists():
        raise ValueError(
            f"group={kwargs['group']!r} would be all that is left of {path}: write makes a file "
            "anew. Call the fields' own to_netcdf or to_zarr with mode='a' to add a group."
        )
    remedies = {
        "compute": "leave it out, or keep the fields lazy and write them when they are needed",
        "mode": "leave it out; to add to a file, call the fields' own to_netcdf or to_zarr",
        "region": "call the fields' own to_zarr for a part of a store",
        "append_dim": "call the fields' own to_zarr to add to a store",
    }
    harmless = {"compute": (True,), "mode": ("w", "w-")}
    for name, remedy in remedies.items():
        value = kwargs.get(name)
        if value is not None and value not in harmless.get(name, ()):
            raise ValueError(
                f"{name}={value!r} would leave a part to be written later, or write only a part, "
                f"but write makes a file that is complete: {remedy}."
            )


def _check_sources(fields: DataArray | Dataset, path: Path) -> None:
    """Raise an error if fields come from what would be replaced."""
    if path.exists() and any(lies_in(source, path) for source in find_sources(fields)):
        raise ValueError(
            f"path is {os.fspath(path)!r}, which the fields, their coordinates or what they were "
            "computed from were read from: it would be replaced. Choose another name."
        )


def _check_unstacked(fields: DataArray | Dataset) -> None:
    """Raise an error if a dimension is stacked of several, such as members and times."""
    for dim, index in fields.indexes.items():
        if index.nlevels > 1:
            levels = ", ".join(map(repr, index.names))
            raise ValueError(
                f"{dim!r} is stacked of {levels}, which no file can hold: take it apart, "
                f"fields.unstack({dim!r}), or keep it in a row, fields.reset_index({dim!r})."
            )


def store(fields: DataArray | Dataset, path: Path, *, zarr: bool, **kwargs: Any) -> None:
    """Write fields under a name that is free, packed as before, not in their file's chunks."""
    fields = fields.copy(deep=False)
    variables: Any = fields.variables if is_dataset(fields) else {**fields.coords, None: fields}
    for variable in variables.values():
        encoding = variable.encoding
        variable.encoding = {key: encoding[key] for key in _PACKING if key in encoding}
    if zarr:
        # Of format 2 unless told, as that of strings, such as classes, is not settled in 3.
        fields.to_zarr(path, **{"mode": "w-", "zarr_format": 2, **kwargs})
        return
    try:
        fields.to_netcdf(path, **kwargs)
    except RuntimeError as error:
        if not str(error).startswith("NetCDF:"):  # netCDF4's own, as of a full disk
            raise
        raise OSError(errno.EIO, f"cannot be written, {error}", str(path)) from error


def _schedule(fields: DataArray | Dataset, by_workers: bool) -> AbstractContextManager[Any]:
    """Compute on a cluster's workers if there is one, else one by one."""
    # Threads of this process would go on to write after an error in one of them.
    if not even_chunks(fields).chunks:
        return nullcontext()
    import dask

    if by_workers and _has_client():
        return nullcontext()
    return dask.config.set(scheduler="synchronous")


def _has_client() -> bool:
    """Tell whether dask computes on a cluster."""
    distributed = sys.modules.get("distributed")  # else there is no client
    if distributed is None:
        return False
    try:
        distributed.get_client()
    except ValueError:
        return False
    return True
