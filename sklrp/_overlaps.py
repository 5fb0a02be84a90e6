"""Where arrays lie, in memory or in files, and whether what is written would meet what is read.

`explain` asks before it writes to `out`, and `sklrp.geo.write` before it replaces a file.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sklrp._stored import find_mapping, find_memmap, offset_in_file

_MOST_WORK = 10**6  # steps, after which arrays are taken to meet


def check_apart(out: Any, name: str, X: Any, label: str) -> None:
    """Raise an error if relevance would be written over the samples.

    Parameters
    ----------
    out : object
        The array that is written to; or several of them, in tuples or dicts.
    name : str
        What errors call it.
    X : object
        The samples, likewise.
    label : str
        What errors call them.

    Raises
    ------
    ValueError
        If they share memory, or a part of a file.
    """
    for one, its in _name_arrays(out, name):
        for other, of in _name_arrays(X, label):
            if _share_memory(one, other):
                kind = "tensor" if isinstance(one, Tensor) else "array"
                raise ValueError(f"{its} lies in the memory of {of}: give another {kind}.")
            if _share_file(one, other):
                file = find_file(one) or getattr(one, "name", "")
                raise ValueError(
                    f"{its} lies in the file of {of}, {file}: the samples would be written over. "
                    "Give an array in another file."
                )


def find_file(X: Any) -> str | None:
    """Return the file, or the folder of zarr, that an array lies in; None in memory or unknown."""
    if isinstance(X, np.ndarray):
        owner = find_memmap(X) if X.size and find_mapping(X) is not None else None
        return None if owner is None or owner.filename is None else os.fspath(owner.filename)
    if _is_of("h5py", X):
        return str(X.file.filename)
    if not _is_of("zarr", X):
        return None
    root = getattr(getattr(X, "store", None), "root", None)  # of a store in a folder
    return None if root is None else os.path.join(root, X.path)


def find_sources(fields: Any) -> set[str]:
    """Return the files that fields of xarray, or an array of dask, are read from.

    Parameters
    ----------
    fields : DataArray, Dataset or dask.array.Array
        The fields. Of those in memory the files are told by the ``encoding`` that xarray gave
        them, which is lost in arithmetic; coordinates keep theirs.

    Returns
    -------
    set of str
        The files, those which can be told; a folder for each array of a zarr store.
    """
    variables = _list_variables(fields)
    named = {
        one.encoding.get("source") for one in [fields, *variables] if hasattr(one, "encoding")
    }
    behind = (
        os.fspath(one) if isinstance(one, Path) else find_file(one) for one in _list_behind(fields)
    )
    return {str(source) for source in (*named, *behind) if source}


def lies_in(source: str, path: Path) -> bool:
    """Tell whether a file is another one, or lies somewhere in that folder.

    Parameters
    ----------
    source : str
        The file, which may be gone, or no file at all, such as an address.
    path : pathlib.Path
        The other file or folder.

    Returns
    -------
    bool
        The answer.
    """
    place = Path(os.path.realpath(source))
    return any(_is_same_file(str(one), str(path)) for one in (place, *place.parents))


def _name_arrays(X: Any, name: str) -> Iterator[tuple[Any, str]]:
    """Yield the arrays of a tuple or a dict with their names, or the one array."""
    if isinstance(X, Mapping):
        for key, value in X.items():
            yield value, f"{name}[{key!r}]"
    elif isinstance(X, tuple):
        for k, value in enumerate(X):
            yield value, f"{name}[{k}]"
    else:
        data = getattr(getattr(X, "variable", None), "_data", None)  # of xarray
        yield (data if isinstance(data, np.ndarray) else X), name


def _is_of(package: str, X: Any) -> bool:
    """Tell whether an object is an array of a package, which need not be there."""
    return type(X).__module__.split(".")[0] == package and hasattr(X, "shape")


class _Extent(NamedTuple):
    """Where the values of an array or a tensor lie, in bytes."""

    device: torch.device
    begin: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    n_bytes: int


def _find_extent(X: Any) -> _Extent | None:
    """Return where an array or a tensor lies; None where it is neither, or holds no values."""
    if isinstance(X, np.ndarray) and X.size:
        return _Extent(torch.device("cpu"), X.ctypes.data, X.shape, X.strides, X.itemsize)
    is_plain = isinstance(X, Tensor) and X.layout == torch.strided
    if is_plain and not (X.is_meta or X.is_nested) and X.numel():
        n_bytes = X.element_size()
        strides = tuple(n * n_bytes for n in X.stride())
        return _Extent(X.device, X.data_ptr(), tuple(X.shape), strides, n_bytes)
    return None


def _share_memory(one: Any, other: Any) -> bool:
    """Tell whether two arrays or tensors in memory have a value in common."""
    a, b = _find_extent(one), _find_extent(other)
    return a is not None and b is not None and a.device == b.device and _meet(a, b)


def _meet(*extents: _Extent) -> bool:
    """Tell whether two arrays have a value in common; one may lie in the gaps of the other."""
    # NumPy finds out by numbers alone: it reads nothing, so that addresses may be of any device.
    share_memory: Callable[..., bool] = np.shares_memory
    views = [
        np.asarray(
            SimpleNamespace(
                __array_interface__={
                    "version": 3,
                    "data": (one.begin, True),
                    "shape": one.shape,
                    "strides": one.strides,
                    "typestr": f"|V{one.n_bytes}",
                }
            )
        )
        for one in extents
    ]
    try:
        return share_memory(*views, max_work=_MOST_WORK)
    except np.exceptions.TooHardError:
        return True


def _share_file(out: Any, X: Any) -> bool:
    """Tell whether writing to an array would change the file of another."""
    file = find_file(out)
    if isinstance(out, np.ndarray):
        if file is None or find_memmap(out).mode == "c":  # which is not written to the file
            return False
        if not isinstance(X, np.ndarray):
            return any(_is_same_file(file, other) for other in _list_files(X))
        of_x = find_file(X)
        if of_x is None or not _is_same_file(file, of_x):
            return False
        return _meet(_extent_in_file(out), _extent_in_file(X))
    if _is_of("h5py", out):
        return any(_is_same_dataset(out, one) for one in (X, *_list_behind(X)))
    if not _is_of("zarr", out):
        return False
    if file is None:  # a store in memory, or far away
        return _is_of("zarr", X) and out.path == X.path and bool(out.store == X.store)
    return any(_is_same_file(file, other) for other in _list_files(X))


def _list_files(X: Any) -> Iterable[str]:
    """Return the files of samples of any kind."""
    file = find_file(X)
    return find_sources(X) if file is None else [file]


def _is_same_dataset(one: Any, other: Any) -> bool:
    """Tell whether two arrays of h5py are one; the second may be anything else."""
    return _is_of("h5py", other) and (
        one == other
        or (one.name == other.name and _is_same_file(one.file.filename, other.file.filename))
    )


def _extent_in_file(X: np.ndarray) -> _Extent:
    """Return where in its file a part of a mapped file lies."""
    found: Any = _find_extent(X)  # not None, as no mapping is empty
    return found._replace(begin=1 + offset_in_file(X))  # at 0 NumPy would make new memory


def _is_same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):  # one of them is not there
        return False


def _list_variables(fields: Any) -> list[Any]:
    """Return the variables of fields of xarray, coordinates too; nothing of another kind."""
    if hasattr(fields, "to_dataset"):
        return [fields.variable, *(one.variable for one in fields.coords.values())]
    return list(fields.variables.values()) if hasattr(fields, "data_vars") else []


def _list_tasks(graph: Any) -> Iterator[Any]:
    """Yield the tasks of a graph of dask, of those that are all alike one."""
    layers = {} if graph is None else getattr(graph, "layers", {"": graph})
    for layer in layers.values():
        is_alike = hasattr(layer, "output_indices")  # a Blockwise, which would have to be made
        yield from (layer[key] for key in itertools.islice(layer, 1 if is_alike else None))


def _list_behind(X: Any) -> Iterator[Any]:
    """Yield what fields of xarray, or an array of dask, hold or read: arrays, and paths of files.

    It is found by what wraps it, among much else that is neither.
    """
    graph = X.__dask_graph__() if hasattr(X, "__dask_graph__") else None
    ahead = [getattr(one, "_data", None) for one in _list_variables(X)]  # `data` would read it
    for task in itertools.chain(ahead, _list_tasks(graph)):
        yield from _look_behind(task)


def _look_behind(X: Any) -> Iterator[Any]:
    """Yield what a task or a variable holds, by what wraps it."""
    ahead = [X]
    while ahead:
        one = ahead.pop()
        if isinstance(one, tuple | list):
            ahead += one
        elif isinstance(one, dict):
            ahead += one.values()
        elif type(one).__module__.startswith("dask."):  # a task, which is a tuple before 2024.12
            ahead += [getattr(one, "args", ()), getattr(one, "value", None)]
            ahead += [getattr(one, "kwargs", None)]
        elif type(one).__module__.startswith("xarray."):
            manager = getattr(getattr(one, "datastore", None), "_manager", None)
            file = next(iter(getattr(manager, "_args", ())), None)
            if isinstance(file, str | os.PathLike):
                yield Path(file)
            ahead += [getattr(one, "array", None), getattr(one, "_array", None)]
        else:
            yield one
