"""A memory of joblib as a shelf: things on it are found by a hash of all that they depend on.

`_network_cache` keeps trained networks on one, `_kept` results of what takes long. Here is how
things are hashed by their value, wherever that lies, and the lock behind which one process makes
what is not there yet.
"""

from __future__ import annotations

import io
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from cloudpickle import CloudPickler
from joblib import Memory
from joblib.hashing import NumpyHasher
from sklearn.utils.validation import check_memory
from torch import Tensor

from sklrp._files import make_lock, replacing
from sklrp._sample_times import find_date_index
from sklrp._stored import in_array
from sklrp._warnings import warn_user


class Shelf:
    """Things of one kind in a memory.

    Parameters
    ----------
    memory : None, str, path or joblib.Memory
        The memory; None keeps nothing.
    kind : str
        What the things are, the name of their folder.
    """

    def __init__(self, memory: Any, kind: str) -> None:
        self.memory = check_memory(str(memory) if isinstance(memory, Path) else memory)
        self._kind = kind
        self._store = getattr(self.memory, "store_backend", None)

    @property
    def keeps(self) -> bool:
        """Whether anything is kept: a memory that is not joblib's is thought to."""
        return self._store is not None or not isinstance(self.memory, Memory)

    def find_or_make(
        self,
        key: str,
        make: Callable[[], Any],
        what: str,
        *,
        load: Callable[[bytes], Any] = pickle.loads,
        dump: Callable[[Any], bytes] = pickle.dumps,
    ) -> Any:
        """Return a thing from the memory if it is there; else make and keep it.

        Parameters
        ----------
        key : str
            The hash of what it depends on.
        make : callable
            Returns the thing.
        what : str
            What warnings call it.
        load, dump : callable
            Make it of bytes, and bytes of it.

        Returns
        -------
        object
            The thing.

        Warns
        -----
        UserWarning
            If it cannot be read, or not be kept, so that it is made again each time.
        """
        if self._store is None:
            return self.memory.cache(lambda key: make())(key)
        item = ["sklrp", self._kind, key]
        with hold_lock(Path(self._store.location, *item)):
            if self._store.contains_item(item):
                try:
                    return load(self._store.load_item(item))
                except Exception as error:
                    warn_not_kept(f"{what} in {self.memory} cannot be read", error)
            made = make()
            try:
                self._keep(item, dump(made))
            except Exception as error:
                warn_not_kept(f"{what} cannot be kept in {self.memory}", error)
        return made

    def _keep(self, item: list[str], content: bytes) -> None:
        """Put bytes on the shelf, whole or not at all."""
        store: Any = self._store
        if self.memory.backend != "local":
            store.dump_item(item, content)
            return
        # What joblib writes stays half-written after an error, of which it warns in its own words.
        with replacing(Path(store.location, *item, "output.pkl")) as part:
            joblib.dump(content, part, compress=store.compress)


def warn_not_kept(fact: str, error: Exception) -> None:
    """Warn that something will be made again, and say what helps."""
    said: Any = error
    if isinstance(error, OSError):  # without the file, so that it is said once
        said = error.strerror or error
        advice = "Make room there, or give a folder that can be written to"
    else:
        advice = (
            "Use parameters that can be pickled, with their classes and functions in a module of "
            "their own"
        )
    warn_user(f"{fact} ({type(error).__name__}: {said}). {advice}; or set memory=None.")


def hash_each(parts: dict[Any, Any], hasher: type[Hasher]) -> str:
    """Return a hash of parts, each of them by its value.

    Parts are hashed one by one: whether two of them are one object or equal ones makes no
    difference. Data are hashed as contiguous arrays, since equal data frames, memory maps and
    slices differ, with what says of which samples and places they are.

    Parameters
    ----------
    parts : dict
        The parts by name.
    hasher : type
        What hashes a part.

    Returns
    -------
    str
        The hash.
    """
    digests = [(str(name), hasher().hash(_by_value(part))) for name, part in parts.items()]
    return hasher().hash(sorted(digests))


def _by_value(part: Any) -> Any:
    """Return data as arrays, with coordinates, dates and masks; anything else as it is."""
    if isinstance(part, Tensor):
        return part
    if hasattr(part, "coords") and hasattr(part, "dims"):  # of xarray
        is_one = not hasattr(part, "data_vars")
        named = {**part.coords, None: part} if is_one else part.variables
        fields = [(n, v.dims, np.ascontiguousarray(v.values), v.attrs) for n, v in named.items()]
        return getattr(part, "name", None), part.attrs, fields
    if not hasattr(part, "__array__") or not np.ndim(part):
        return part
    if isinstance(part, np.ma.MaskedArray):
        return np.ascontiguousarray(part.data), np.ma.getmaskarray(part)
    values = np.ascontiguousarray(in_array(part))
    dates = find_date_index(part)
    return values if dates is None else (values, dates.to_numpy())


def _reduce_code(code: types.CodeType) -> tuple[Any, ...]:
    """Return the parts of code, without the file and the lines that it stands in."""
    bare = code.replace(co_filename="", co_firstlineno=1, co_linetable=b"")
    _, parts = CloudPickler.dispatch_table[types.CodeType](bare)
    return type, parts


class Hasher(NumpyHasher):
    """Joblib's hash, which takes functions and classes that cannot be imported for what they do.

    Those of a script, a notebook or a function body have no name that holds in other processes,
    and mean something else after an edit. Cloudpickle finds what they are made of, but its bytes
    are no identity: they hold a random mark of each class, file names and line numbers, and tell
    one text from an equal one. Joblib's hash goes by values alone.
    """

    dispatch = NumpyHasher.dispatch.copy()
    dispatch[frozenset] = lambda self, obj: self.save(set(obj))  # sets are sorted
    dispatch_table = CloudPickler.dispatch_table.new_child({types.CodeType: _reduce_code})

    def reducer_override(self, obj: Any) -> Any:
        """Return the parts of a function or class that cannot be imported, as a reduction."""
        if not isinstance(obj, type | types.FunctionType) or is_importable(obj):
            return NotImplemented
        if isinstance(obj, type):
            return type, (obj.__qualname__, obj.__bases__), _find_members(obj)
        reduced = CloudPickler(io.BytesIO()).reducer_override(obj)
        if reduced is NotImplemented:
            return NotImplemented
        attributes, slots = reduced[2]
        parts = ("__closure__", "__defaults__", "__kwdefaults__", "__globals__")
        state = {"attributes": attributes, **{name: slots[name] for name in parts}}
        return type, (obj.__qualname__, obj.__code__), state


def is_importable(obj: Any) -> bool:
    """Return whether every process finds a class or function under its name."""
    module = getattr(obj, "__module__", None)
    if module == "builtins":
        return True
    found: Any = sys.modules.get(module) if module and module != "__main__" else None
    for name in getattr(obj, "__qualname__", "").split("."):
        found = getattr(found, name, None)
    return found is obj


def _find_members(cls: type) -> dict[str, Any]:
    """Return what a class defines, without what Python or a base adds to it by itself."""
    made_by_python = {"__annotate__", "__annotate_func__", "_abc_impl"}
    code = types.FunctionType | staticmethod | classmethod | property
    return {
        name: member
        for name, member in vars(cls).items()
        if name not in made_by_python and (name[:2] != "__" or isinstance(member, code))
    }


@contextmanager
def hold_lock(folder: Path) -> Iterator[None]:
    """Let one thread of one process at a time work on a folder.

    The system frees the lock of a process that dies. Where there are no locks, as on some network
    file systems, or no folder, as in a remote store, nothing is locked: work may be done twice.

    Parameters
    ----------
    folder : Path
        The folder, which is made if it is not there.

    Yields
    ------
    None
        While the lock is held.
    """
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(make_lock(folder / "lock"))
        except OSError:
            pass
        yield
