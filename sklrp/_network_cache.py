"""Training with a memory: no network twice, in however many processes.

`RelevanceTransformer` calls `train_network`. Here is what makes two trainings the same one, by
which a network is kept and found again, and the lock behind which one process trains it.
"""

from __future__ import annotations

import io
import pickle
import sys
import types
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from cloudpickle import CloudPickler
from filelock import FileLock
from joblib import Memory
from joblib.hashing import NumpyHasher
from numpy.typing import NDArray
from sklearn.utils.validation import check_memory

from sklrp._models import unwrap
from sklrp._sklearn import get_feature_names
from sklrp._warnings import warn_user


def train_network(
    network: Any, X: Any, y: NDArray[Any], fit_params: dict[str, Any], memory: Any
) -> Any:
    """Return the trained network, from ``memory`` if it holds it, which else it will.

    Parameters
    ----------
    network : estimator object
        The unfitted network; it may be the one that is trained.
    X : array-like of shape (n_samples, n_features) or (n_samples, *sample_shape)
        The samples, validated.
    y : ndarray of shape (n_samples,)
        The class labels, validated.
    fit_params : dict
        What else ``fit`` of the network is called with.
    memory : None, str, path or joblib.Memory
        Where to keep networks.

    Returns
    -------
    estimator object
        The trained network.
    """

    def fit(key: str | None = None) -> Any:
        return network.fit(X, y, **fit_params)

    memory = check_memory(str(memory) if isinstance(memory, Path) else memory)
    store = getattr(memory, "store_backend", None)
    keeps = not isinstance(memory, Memory) or store is not None
    if not keeps:
        return fit()
    try:
        key = identify(network, X, y, fit_params)
        _, own_code = _dump(network)
    except Exception as error:  # pickling runs the parameters' own code, which may raise anything
        _warn_uncached(
            f"The {type(network).__name__} is trained without the cache of memory, because its "
            "parameters, its data or its fit parameters cannot be hashed",
            error,
        )
        return fit()
    if store is None:
        return memory.cache(fit)(key)
    item = ["sklrp", "networks", key]
    with hold_lock(Path(store.location, *item)):
        if store.contains_item(item):
            try:
                return _Unpickler(io.BytesIO(store.load_item(item)), own_code).load()
            except Exception as error:
                _warn_uncached(f"The {type(network).__name__} of {memory} cannot be read", error)
        fit()
        try:
            trained, code = _dump(network)
            if code.keys() - own_code.keys():
                names = [code[name].__qualname__ for name in code.keys() - own_code.keys()]
                raise pickle.PicklingError(f"no other process can import {names}")
        except Exception as error:
            _warn_uncached(
                f"The trained {type(network).__name__} cannot be kept in {memory}", error
            )
        else:
            store.dump_item(item, trained)
    return network


def _warn_uncached(fact: str, error: Exception) -> None:
    """Warn that a network will be trained again, and say what helps."""
    warn_user(
        f"{fact} ({type(error).__name__}: {error}). Use parameters that can be pickled, with "
        "their classes and functions in a module of their own; or set memory=None.",
    )


def identify(network: Any, X: Any, y: NDArray[Any], fit_params: dict[str, Any]) -> str:
    """Return a hash of all that a trained network depends on.

    Parts are hashed one by one: whether two of them are one object or equal ones makes no
    difference. Data are hashed as contiguous arrays, since equal data frames, memory maps and
    slices differ; the columns' names count where they are feature names, all strings.

    Parameters
    ----------
    network : estimator
        The network before its training.
    X, y : array-like
        What it is trained on.
    fit_params : dict
        What else its `fit` gets.

    Returns
    -------
    str
        The hash.
    """
    inside = type(unwrap(network, fitted=False).network)
    packages = {base.__module__.partition(".")[0] for base in type(network).__mro__}
    packages |= {base.__module__.partition(".")[0] for base in inside.__mro__}
    packages |= {"numpy", "sklearn", "skorch", "torch"}
    parts = {
        "class": type(network),
        "versions": {
            name: str(getattr(sys.modules.get(name), "__version__", None)) for name in packages
        },
        "columns": None if (names := get_feature_names(X)) is None else names.tolist(),
        "X": np.asarray(X),
        "y": y,
        **{f"parameter {name}": value for name, value in network.get_params(deep=False).items()},
        **{f"fit parameter {name}": value for name, value in fit_params.items()},
    }
    digests = []
    for name, part in parts.items():
        plain = np.ascontiguousarray(part) if hasattr(part, "__array__") else part
        digests.append((name, Hasher().hash(plain)))
    return Hasher().hash(sorted(digests))


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
        if not isinstance(obj, type | types.FunctionType) or _is_importable(obj):
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


class _Pickler(pickle.Pickler):
    """A pickler that leaves out functions and classes that cannot be imported, by their hash."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.code: dict[str, Any] = {}

    def persistent_id(self, obj: Any) -> str | None:
        if not isinstance(obj, type | types.FunctionType) or _is_importable(obj):
            return None
        name = Hasher().hash(obj)
        self.code[name] = obj
        return name


class _Unpickler(pickle.Unpickler):
    """Its counterpart, which puts in those of this process."""

    def __init__(self, file: IO[bytes], code: dict[str, Any]) -> None:
        super().__init__(file)
        self.code = code

    def persistent_load(self, name: str) -> Any:
        return self.code[name]


def _dump(network: Any) -> tuple[bytes, dict[str, Any]]:
    """Return a network as bytes, and what of its code they leave out, by hash."""
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(network)
    return file.getvalue(), pickler.code


def _is_importable(obj: Any) -> bool:
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
            stack.enter_context(FileLock(folder / "lock"))
        except (OSError, NotImplementedError):
            pass
        yield
