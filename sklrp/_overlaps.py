"""Where arrays lie, in memory or in files, and whether what is written would meet what is read.

`explain` asks before it writes to `out`, and `sklrp.geo.write` before it replaces a file.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklrp._stored import find_mapping, find_memmap, offset_in_file


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
    if hasattr(fields, "to_dataset"):
        parts = [fields.variable, *(c.variable for c in fields.coords.values())]
    else:
        parts = list(getattr(fields, "variables", {}).values())
    named = {part.encoding.get("source") for part in [fields, *parts] if hasattr(part, "encoding")}
    found = {str(source) for source in named if source}
    for part in parts:
        found |= _find_behind(getattr(part, "_data", None))  # `data` would read it
    graph = fields.__dask_graph__() if hasattr(fields, "__dask_graph__") else None
    for task in _list_tasks(graph):
        found |= _find_behind(task)
    return found


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


def _share_memory(one: Any, other: Any) -> bool:
    """Tell whether the bounds of two arrays or tensors in memory overlap."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return bool(np.may_share_memory(one, other))
    spans = [_find_span(one), _find_span(other)]
    if spans[0] is None or spans[1] is None or spans[0][0] != spans[1][0]:
        return False
    return spans[0][1] < spans[1][2] and spans[1][1] < spans[0][2]


def _find_span(X: Any) -> tuple[torch.device, int, int] | None:
    """Return the device of an array or a tensor, and the addresses where it begins and ends."""
    if isinstance(X, np.ndarray) and X.size:
        steps = [(n - 1) * stride for n, stride in zip(X.shape, X.strides, strict=True)]
        begin = X.ctypes.data + sum(step for step in steps if step < 0)
        end = X.ctypes.data + sum(step for step in steps if step > 0) + X.itemsize
        return torch.device("cpu"), begin, end
    is_plain = isinstance(X, Tensor) and X.layout == torch.strided
    if is_plain and not (X.is_meta or X.is_nested) and X.numel():
        last = sum((n - 1) * stride for n, stride in zip(X.shape, X.stride(), strict=True))
        return X.device, X.data_ptr(), X.data_ptr() + (last + 1) * X.element_size()
    return None


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
        begins = [_place_in_file(array) for array in (out, X)]
        return begins[0][0] < begins[1][1] and begins[1][0] < begins[0][1]
    if _is_of("h5py", out):
        return _is_of("h5py", X) and (
            out == X or (out.name == X.name and _is_same_file(file or "", X.file.filename))
        )
    if not _is_of("zarr", out):
        return False
    if file is None:  # a store in memory, or far away
        return _is_of("zarr", X) and out.path == X.path and bool(out.store == X.store)
    return any(_is_same_file(file, other) for other in _list_files(X))


def _list_files(X: Any) -> Iterable[str]:
    """Return the files of samples of any kind."""
    file = find_file(X)
    return find_sources(X) if file is None else [file]


def _place_in_file(X: np.ndarray) -> tuple[int, int]:
    """Return where a part of a mapped file begins and ends."""
    span: Any = _find_span(X)  # not None, as no mapping is empty
    begin = offset_in_file(X) - X.ctypes.data
    return begin + span[1], begin + span[2]


def _is_same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):  # one of them is not there
        return False


def _list_tasks(graph: Any) -> Iterator[Any]:
    """Yield the tasks of a graph of dask, of those that are all alike one."""
    layers = {} if graph is None else getattr(graph, "layers", {"": graph})
    for layer in layers.values():
        is_alike = hasattr(layer, "output_indices")  # a Blockwise, which would have to be made
        yield from (layer[key] for key in itertools.islice(layer, 1 if is_alike else None))


def _find_behind(X: Any) -> set[str]:
    """Return the files behind what a task or a variable holds, by what wraps them."""
    ahead, found = [X], set()
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
                found.add(os.fspath(file))
            ahead += [getattr(one, "array", None), getattr(one, "_array", None)]
        elif (path := find_file(one)) is not None:
            found.add(path)
    return found
