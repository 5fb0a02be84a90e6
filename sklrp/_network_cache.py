"""Training with a memory: no network twice, in however many processes."""

from __future__ import annotations

import dis
import io
import pickle
import sys
import time
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from joblib import Memory
from joblib.hashing import NumpyHasher
from numpy.typing import NDArray
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_array, check_memory

from sklrp._sklearn import get_feature_names

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


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
    if not keeps or isinstance(network, FrozenEstimator):
        return fit()
    try:
        key = _identify(network, X, y, fit_params)
        _, own_code = _dump(network)
    except Exception as error:  # pickling runs the parameters' own code, which may raise anything
        _warn(
            f"The {type(network).__name__} is trained without the cache of memory, because its "
            "parameters, its data or its fit parameters cannot be hashed",
            error,
        )
        return fit()
    if store is None:
        return memory.cache(fit)(key)
    item = ["sklrp", "networks", key]
    with _lock(Path(store.location, *item)):
        if store.contains_item(item):
            try:
                return _Unpickler(io.BytesIO(store.load_item(item)), own_code).load()
            except Exception as error:
                _warn(f"The {type(network).__name__} of {memory} cannot be read", error)
        fit()
        try:
            trained, code = _dump(network)
            if code.keys() - own_code.keys():
                names = [code[name].__qualname__ for name in code.keys() - own_code.keys()]
                raise pickle.PicklingError(f"no other process can import {names}")
        except Exception as error:
            _warn(f"The trained {type(network).__name__} cannot be kept in {memory}", error)
        else:
            store.dump_item(item, trained)
    return network


def _warn(fact: str, error: Exception) -> None:
    """Warn that a network will be trained again, and say what helps."""
    warnings.warn(
        f"{fact} ({type(error).__name__}: {error}). Use parameters that can be pickled, with "
        "their classes and functions in a module of their own; or set memory=None.",
        stacklevel=2,
    )


def _identify(network: Any, X: Any, y: NDArray[Any], fit_params: dict[str, Any]) -> str:
    """Return a hash of all that a trained network depends on.

    Parts are hashed one by one: whether two of them are one object or equal ones makes no
    difference. Data are hashed as contiguous arrays, since equal data frames, memory maps and
    slices differ; the columns' names count where they are feature names, all strings.
    """
    packages = {base.__module__.partition(".")[0] for base in type(network).__mro__}
    packages |= {"numpy", "skorch", "torch"}
    parts = {
        "class": type(network),
        "versions": {
            name: str(getattr(sys.modules.get(name), "__version__", None)) for name in packages
        },
        "columns": None if (names := get_feature_names(X)) is None else names.tolist(),
        "X": X if isinstance(X, np.ndarray) else check_array(X),
        "y": y,
        **{f"parameter {name}": value for name, value in network.get_params(deep=False).items()},
        **{f"fit parameter {name}": value for name, value in fit_params.items()},
    }
    digests = []
    for name, part in parts.items():
        plain = np.ascontiguousarray(part) if hasattr(part, "__array__") else part
        digests.append((name, _Hasher().hash(plain)))
    return _Hasher().hash(sorted(digests))


class _Hasher(NumpyHasher):
    """Joblib's hash, taking functions and classes that cannot be imported by their code.

    Those of a script, a notebook or a function body have no name that holds in other processes,
    and mean something else after an edit.
    """

    dispatch = NumpyHasher.dispatch.copy()

    def __init__(self) -> None:
        super().__init__()
        self._begun: list[Any] = []

    def save_global(self, obj: Any, name: str | None = None, **kwargs: Any) -> None:
        if _is_importable(obj) or not isinstance(obj, type | types.FunctionType):
            super().save_global(obj, name=name, **kwargs)
        elif any(obj is begun for begun in self._begun):
            self.save(obj.__qualname__)
        else:
            self._begun.append(obj)
            self.save((obj.__qualname__, *(_take_apart(obj))))

    dispatch[type] = save_global
    dispatch[types.FunctionType] = save_global
    dispatch[types.ModuleType] = lambda self, obj: self.save(obj.__name__)
    dispatch[types.CellType] = lambda self, obj: self.save(obj.cell_contents)
    dispatch[types.CodeType] = lambda self, obj: self.save(
        (obj.co_code, obj.co_consts, obj.co_names, obj.co_varnames, obj.co_freevars)
    )
    dispatch[frozenset] = lambda self, obj: self.save(set(obj))
    dispatch[property] = lambda self, obj: self.save((obj.fget, obj.fset, obj.fdel))
    dispatch[staticmethod] = lambda self, obj: self.save(obj.__func__)
    dispatch[classmethod] = lambda self, obj: self.save(obj.__func__)


class _Pickler(pickle.Pickler):
    """A pickler that leaves out functions and classes that cannot be imported, by their hash."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.code: dict[str, Any] = {}

    def persistent_id(self, obj: Any) -> str | None:
        if not isinstance(obj, type | types.FunctionType) or _is_importable(obj):
            return None
        name = _Hasher().hash(obj)
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


def _take_apart(obj: Any) -> tuple[Any, ...]:
    """Return what a function or class does, in parts that can be hashed."""
    if isinstance(obj, type):
        made_by_python = {"__annotate__", "__annotate_func__", "_abc_impl"}
        code = types.FunctionType | staticmethod | classmethod | property
        members = [
            (name, member)
            for name, member in sorted(vars(obj).items())
            if name not in made_by_python and (name[:2] != "__" or isinstance(member, code))
        ]
        return obj.__bases__, members
    values = {
        name: obj.__globals__[name] for name in _find_globals(obj.__code__) & {*obj.__globals__}
    }
    return obj.__code__, obj.__defaults__, obj.__kwdefaults__, obj.__closure__, values


def _find_globals(code: types.CodeType) -> set[str]:
    """Return the global names that code reads, with the functions inside it."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
    inner = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return names.union(*map(_find_globals, inner))


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Let one thread of one process at a time work on a folder.

    The system frees the lock of a process that dies. Where there are no locks, as on some network
    file systems, or no folder, as in a remote store, nothing is locked: work may be done twice.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / "lock", "ab")  # noqa: SIM115  (closed below)
    except OSError:
        yield
        return
    with file:
        locked = _acquire(file)
        try:
            yield
        finally:
            if locked:
                _release(file)


if sys.platform == "win32":

    def _acquire(file: IO[bytes]) -> bool:
        while True:
            try:
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
                return True
            except PermissionError:
                time.sleep(0.05)
            except OSError:
                return False

    def _release(file: IO[bytes]) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:

    def _acquire(file: IO[bytes]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            return False
        return True

    def _release(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)
