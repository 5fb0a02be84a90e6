"""Where arrays lie, in memory or in files, and whether what is written would meet what is read.

`explain` asks before it writes to `out`, and `sklrp.geo.write` before it replaces a file.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sklrp._stored import find_mapping, find_memmap, offset_in_file

_MOST_WORK = 10**6  # steps, after which arrays are taken to meet
_MAPPINGS = "/proc/self/maps"  # of Linux: which file lies where in memory


def check_apart(out: Any, name: str, X: Any, label: str) -> None:
    """Raise an error if relevance would be written over the samples.

    Parameters
    ----------
    out : object or None
        The array that is written to; or several of them, in tuples or dicts. None is a new one.
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

    Notes
    -----
    Some samples cannot be traced: those that were copied, such as rows of HDF5 in a generator, or
    a memmap in `dask.array.from_array`; and those that a function in a graph of dask, or code of
    the user's, reads by itself. Only Linux tells the file of a tensor, and of a memmap whose file
    has lost its name.
    """
    if out is None:
        return
    for one, its in _name_arrays(out, name):
        for other, of in _name_arrays(X, label):
            place = _find_met(one, other)
            if place is None:
                continue
            if isinstance(place.where, torch.device):
                kind = "tensor" if isinstance(one, Tensor) else "array"
                raise ValueError(f"{its} lies in the memory of {of}: give another {kind}.")
            if not place.name:
                raise ValueError(
                    f"{its} is what {of} is read from: the samples would be written over. Give "
                    "another array."
                )
            raise ValueError(
                f"{its} lies in the file of {of}, {place.name}: the samples would be written "
                "over. Give an array in another file."
            )


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
    read = functools.cache(_read_mappings)
    places = (place for one in _list_held(fields) for place in _find_places(one, read))
    return {place.name for place in places if place.name}


def lies_in(source: str, path: str | os.PathLike[str]) -> bool:
    """Tell whether a file would be gone with another one, or with the folder that it is in.

    Parameters
    ----------
    source : str
        The file, which may be gone, or no file at all, such as an address.
    path : str or path-like
        The other file or folder.

    Returns
    -------
    bool
        The answer. Of another hard link of a file it is no.
    """
    target = _identify(path)
    if target is None or _identify(source) is None:
        return False
    place, there = os.path.realpath(source), os.path.realpath(path)
    if os.path.isfile(place) and os.stat(place).st_nlink > 1:
        return os.path.normcase(place) == os.path.normcase(there)
    while _identify(place) != target:
        if place == (place := os.path.dirname(place)):
            return False
    return True


def _name_arrays(X: Any, name: str) -> Iterator[tuple[Any, str]]:
    """Yield the arrays of a tuple or a dict with their names, or the one array."""
    if isinstance(X, Mapping):
        for key, value in X.items():
            yield value, f"{name}[{key!r}]"
    elif isinstance(X, tuple):
        for k, value in enumerate(X):
            yield value, f"{name}[{k}]"
    elif hasattr(X, "drop_vars") and hasattr(X, "coords"):  # of xarray
        data = getattr(getattr(X, "variable", None), "_data", None)
        yield (data if isinstance(data, np.ndarray) else X.drop_vars(list(X.coords))), name
    else:
        yield X, name


class _Extent(NamedTuple):
    """Which bytes of a memory or a file the values of an array are."""

    begin: int
    low: int
    high: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    n_bytes: int

    def move(self, shift: int) -> _Extent:
        """Return the same bytes elsewhere."""
        begin, low, high = (place + shift for place in (self.begin, self.low, self.high))
        return self._replace(begin=begin, low=low, high=high)


class _Itself:
    """An object that is equal to none but itself, kept so that no other has its address."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


class _Place(NamedTuple):
    """Where the values of an array lie: an array is written over where two places meet."""

    where: Any  # the device of a memory, a file by its device and inode, a store, an object
    inside: Any = None  # the name of what lies there; None for bytes
    extent: _Extent | None = None  # None if it is not known, or all
    name: str = ""  # of the file, in errors

    def meets(self, other: _Place) -> bool:
        """Tell whether two places have a value in common."""
        if self.where != other.where:
            return False
        if self.inside is not None and other.inside is not None:
            return bool(self.inside == other.inside)
        return self.extent is None or other.extent is None or _meet(self.extent, other.extent)


def _find_met(out: Any, X: Any) -> _Place | None:
    """Return a place in which samples lie that would be written over."""
    read = functools.cache(_read_mappings)
    read_from = [place for one in _list_held(X) for place in _find_places(one, read)]
    in_memory = all(isinstance(place.where, torch.device) for place in read_from)
    for one in (out, *_list_virtual(out)):
        for place in _find_places(one, (lambda: []) if in_memory else read, is_written=True):
            if any(place.meets(other) for other in read_from):
                return place
    return None


def _find_places(
    X: Any, read: Callable[[], list[_Mapping] | None], is_written: bool = False
) -> Iterator[_Place]:
    """Yield where the values of an array lie, or those of a file; nothing of another object."""
    if isinstance(X, np.ndarray | Tensor):
        extent = _find_extent(X)
        if extent is None:
            return
        yield _Place(X.device if isinstance(X, Tensor) else torch.device("cpu"), extent=extent)
        mapping = None if _owns_memory(X) else _find_file(X, extent.begin, read())
        if mapping is not None and not (is_written and mapping.is_private):
            yield _Place(mapping.where, None, extent.move(mapping.shift), mapping.name)
    elif isinstance(X, str | os.PathLike):
        where = _identify(X)
        if where is not None:
            yield _Place(where, name=os.fspath(X))
    elif _is_of("h5py", X) and hasattr(X, "file"):
        import h5py

        # By its address in the file: a data set may have several names.
        known, offset, name = h5py.h5o.get_info(X.id), X.id.get_offset(), X.file.filename
        size = X.id.get_storage_size()
        extent = None if offset is None else _make_extent(offset, (size,), (1,), 1)
        yield _Place(_identify(name) or known.fileno, known.addr, extent, str(name))
    elif _is_of("zarr", X) and hasattr(X, "store"):
        folder = os.path.join(_find_root(X.store) or "", X.path)
        where = _identify(folder) if os.path.isabs(folder) else None
        if where is None:
            yield _Place(X.store, X.path, name=f"{X.store}/{X.path}")
        else:
            yield _Place(where, name=folder)
    elif _is_array(X):
        yield _Place(_Itself(X))


def _identify(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Return what a file or folder has alone, whatever its names; None if it is not there."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # no name that a file can have
        return None
    return found.st_dev, found.st_ino


def _find_root(store: Any) -> str | None:
    """Return the folder of a store of zarr; None if it is in memory, or far away."""
    system = getattr(store, "fs", None)  # of fsspec
    if system is not None and "file" not in np.atleast_1d(system.protocol):
        return None
    root = getattr(store, "root", getattr(store, "path", None))
    return None if root is None else os.path.abspath(root)


def _is_of(package: str, X: Any) -> bool:
    """Tell whether an object is an array of a package, which need not be there."""
    return type(X).__module__.split(".")[0] == package and _is_array(X)


def _is_array(X: Any) -> bool:
    """Tell whether an object is an array of any kind, and neither a dtype nor a number."""
    return not isinstance(X, type) and hasattr(X, "dtype") and bool(getattr(X, "shape", ()))


def _find_extent(X: Any) -> _Extent | None:
    """Return the bytes of an array or a tensor; None where it holds no values of its own."""
    if isinstance(X, np.ndarray):
        begin = X.__array_interface__["data"][0]
        return _make_extent(begin, X.shape, X.strides, X.itemsize) if X.size else None
    if X.layout != torch.strided or X.is_meta or X.is_nested or not X.numel():
        return None
    n_bytes = X.element_size()
    strides = tuple(n * n_bytes for n in X.stride())
    return _make_extent(X.data_ptr(), tuple(X.shape), strides, n_bytes)


def _make_extent(
    begin: int, shape: tuple[int, ...], strides: tuple[int, ...], n_bytes: int
) -> _Extent:
    """Return the bytes of an array by where its first value lies."""
    steps = [(n - 1) * stride for n, stride in zip(shape, strides, strict=True)]
    low = begin + sum(step for step in steps if step < 0)
    high = begin + sum(step for step in steps if step > 0) + n_bytes
    return _Extent(begin, low, high, shape, strides, n_bytes)


def _meet(*extents: _Extent) -> bool:
    """Tell whether two arrays have a value in common; one may lie in the gaps of the other."""
    one, other = extents
    if one.low >= other.high or other.low >= one.high:
        return False
    # NumPy finds out by numbers alone: it reads nothing, so that addresses may be of any device.
    share_memory: Callable[..., bool] = np.shares_memory
    views = [
        np.asarray(
            SimpleNamespace(
                __array_interface__={
                    "version": 3,
                    "data": (1 + one.begin, True),  # at 0 NumPy would make new memory
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


class _Mapping(NamedTuple):
    """A part of a file that lies in memory."""

    begin: int
    end: int
    shift: int  # from an address to a byte of the file
    where: tuple[int, int]
    is_private: bool  # what is written does not reach the file
    name: str


def _read_mappings() -> list[_Mapping] | None:
    """Return the files in memory, in order; None where the system does not tell."""
    try:
        with open(_MAPPINGS, "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        span, rights, offset, device, inode, *path = line.split(None, 5)
        if inode == b"0":  # memory alone
            continue
        begin, end = (int(one, 16) for one in span.split(b"-"))
        where = os.makedev(*(int(one, 16) for one in device.split(b":"))), int(inode)
        name = os.fsdecode(path[0]) if path else ""
        shift = int(offset, 16) - begin
        found.append(_Mapping(begin, end, shift, where, rights.endswith(b"p"), name))
    return found


def _owns_memory(X: Any) -> bool:
    """Tell whether the memory of an array or a tensor was made for it, and is that of no file."""
    while isinstance(X, np.ndarray):
        X = X.base
    if isinstance(X, Tensor):
        return X.device.type != "cpu" or X.untyped_storage().resizable()
    return X is None


def _find_file(X: Any, address: int, mappings: list[_Mapping] | None) -> _Mapping | None:
    """Return the file that a value in memory lies in, if any."""
    if mappings is None:  # then by the name that the file had
        owner: Any = find_memmap(X) if isinstance(X, np.ndarray) else None
        where = None if owner is None or owner.filename is None else _identify(owner.filename)
        if where is None or find_mapping(X) is None:
            return None
        shift = offset_in_file(X) - address
        return _Mapping(0, 0, shift, where, owner.mode == "c", os.fspath(owner.filename))
    k = bisect.bisect_right(mappings, address, key=lambda one: one.begin) - 1
    if k < 0 or address >= mappings[k].end:
        return None
    # Some file systems give one device to files, and another to what is mapped of them.
    found = mappings[k]
    by_name = _identify(found.name)
    if by_name is None or by_name[1] != found.where[1]:  # another has its name by now
        return found
    return found._replace(where=by_name)


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


def _list_held(X: Any) -> Iterator[Any]:
    """Yield what samples or fields hold or read: arrays, and paths of files.

    It is found by what wraps it, among much else that is neither.
    """
    if isinstance(X, list):
        yield from filter(_is_array, X)  # its rows
        return
    if isinstance(X, np.ndarray | Tensor):
        yield X
        return
    variables = _list_variables(X)
    for one in (X, *variables) if variables else ():
        yield one.encoding.get("source")
    ahead = [X]
    if variables:
        ahead = [getattr(one, "_data", None) for one in variables]  # `data` would read it
    graph = X.__dask_graph__() if hasattr(X, "__dask_graph__") else None
    yield from _look_behind(itertools.chain(ahead, _list_tasks(graph)))


def _look_behind(tasks: Iterable[Any]) -> Iterator[Any]:
    """Yield what tasks or variables hold, by what wraps it; a text once."""
    seen: set[Any] = set()
    for task in tasks:
        ahead = [task]
        while ahead:
            one = ahead.pop()
            if isinstance(one, tuple | list):
                ahead += one
            elif isinstance(one, dict):
                ahead += one.values()
            elif isinstance(one, str):
                if one not in seen:
                    yield one
                seen.add(one)
            elif type(one).__module__.startswith("dask."):  # a task, a tuple before 2024.12
                ahead += [getattr(one, name, None) for name in ("args", "value", "kwargs")]
            elif type(one).__module__.startswith("xarray."):
                manager = getattr(getattr(one, "datastore", None), "_manager", None)
                ahead += [next(iter(getattr(manager, "_args", ())), None)]  # a path
                ahead += [getattr(one, "array", None), getattr(one, "_array", None)]
            else:
                yield one
                ahead += _list_virtual(one)
                is_wrapper = _is_array(one) and not isinstance(one, np.ndarray | Tensor)
                if is_wrapper and _Itself(one) not in seen:  # two may hold each other
                    seen.add(_Itself(one))
                    ahead += filter(_is_array, getattr(one, "__dict__", {}).values())


def _list_virtual(X: Any) -> list[Any]:
    """Return what a data set of HDF5 is a view of, if it is one of others."""
    if not _is_of("h5py", X) or not getattr(X, "is_virtual", False):
        return []
    folder = os.path.dirname(X.file.filename)
    return [
        X.file.get(one.dset_name) if one.file_name == "." else os.path.join(folder, one.file_name)
        for one in X.virtual_sources()
    ]
