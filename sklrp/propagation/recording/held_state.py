"""Copies of what a module holds beside its tensors: lists, objects, methods, functions.

A forward may count, collect or remember in any of them, and nothing of the user's module is to
change. :mod:`.twin` asks :class:`StateCopies` for the attributes of the modules that it makes.
"""

from __future__ import annotations

import copy
import functools
import random
import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from sklrp.propagation.nested import rebuild

# What a forward cannot change, or is not meant to: a copy of a data set may be large.
_SHARED = (
    type(None), bool, int, float, complex, str, bytes, type, range, slice, types.ModuleType,
    types.BuiltinFunctionType, Tensor, torch.Generator, torch.Size, torch.dtype, torch.device,
    Dataset, DataLoader, torch.optim.Optimizer,
)  # fmt: skip
# What most attributes are, told by type alone.
_ATOMS = frozenset([*_SHARED, nn.Parameter])
# What nearly all others are, told before what takes longer to tell.
_DICTS = frozenset([dict, OrderedDict])
_CONTAINERS = frozenset([*_DICTS, tuple, list, set])
# What every module has of torch, most of it empty and none of it shared with others.
_OF_TORCH = frozenset(name for name, value in vars(nn.Module()).items() if type(value) in _DICTS)
# Their shallow copies would share the state that drawing a number moves on.
_RANDOM = (np.random.Generator, np.random.RandomState, random.Random)


class StateCopies:
    """Copies of attributes, in which the copies of modules stand for the modules.

    Parameters
    ----------
    module_copy : callable
        ``module_copy(module, path)`` returns the copy of a module.
    """

    def __init__(self, module_copy: Callable[[nn.Module, str], nn.Module]) -> None:
        self.module_copy = module_copy
        self.are_simple = True  # whether what they hold is seen at once: no container in another
        # By identity; the originals are kept, so that their identity is not given away.
        self._done: dict[int, tuple[Any, Any]] = {}

    def forget(self) -> None:
        """Let go of all originals and copies, and of what copies modules."""
        self._done.clear()
        del self.module_copy

    def of_all(self, held: dict[str, Any], path: str) -> dict[str, Any]:
        """Return the copies of attributes by name, of which most are what they are."""
        done, made = self._done, held.copy()
        for name, value in held.items():
            kind = type(value)
            if kind in _ATOMS or (kind is tuple and _ATOMS.issuperset(map(type, value))):
                continue
            if name in _OF_TORCH and kind in _DICTS and not value:
                made[name] = kind()
            elif kind in _DICTS and not value and id(value) not in done:
                made[name] = kind()
                done[id(value)] = value, made[name]
            else:
                made[name] = self.of(value, f"{path}.{name}" if path else name)
        return made

    def of(self, value: Any, path: str) -> Any:
        """Return the copy of an attribute, the same one wherever the attribute is met again."""
        if type(value) in _ATOMS:
            return value
        if id(value) in self._done:
            return self._done[id(value)][1]
        kind = type(value)
        if kind in _CONTAINERS:
            if all(map(_is_atom, value.values() if kind in _DICTS else value)):
                # As those of parameters are.
                copied = value if kind is tuple else value.copy()
                self._done[id(value)] = value, copied
                return copied
            if kind is list and all(type(v) is list and all(map(_is_atom, v)) for v in value):
                # As those of the names of a recurrent layer's weights are.
                copied = [self.of(v, path) for v in value]
                self._done[id(value)] = value, copied
                return copied
        else:
            if isinstance(value, weakref.ProxyTypes):  # such as a child's, of its parent
                return weakref.proxy(self.of(value.__dir__.__self__, path))
            if isinstance(value, nn.Module):
                return self.module_copy(value, path)
            if isinstance(value, _SHARED):
                return value
        self._done[id(value)] = value, value  # until its parts are known: it may hold itself
        made = self._make(value, path)
        self._done[id(value)] = value, made
        self.are_simple &= made is value
        return made

    def _make(self, value: Any, path: str) -> Any:
        """Return a new copy of a value that may hold others."""
        if type(value) is set:
            return value.copy()
        if type(value) in (dict, OrderedDict):
            return type(value)((k, self.of(v, f"{path}.{k}")) for k, v in value.items())
        if isinstance(value, types.MethodType):
            return self._bind(value, path)
        if isinstance(value, types.FunctionType):
            return self._with_cells(value, path)
        if isinstance(value, weakref.ref):
            found = value()
            return weakref.ref(self.of(found, path)) if isinstance(found, nn.Module) else value
        if isinstance(value, functools.partial):
            args, kwargs = self.of(value.args, path), self.of(value.keywords, path)
            return type(value)(self.of(value.func, path), *args, **kwargs)
        if isinstance(value, tuple):
            parts = [self.of(v, f"{path}.{i}") for i, v in enumerate(value)]
            same = all(one is other for one, other in zip(value, parts, strict=True))
            return value if same else rebuild(value, parts)
        if isinstance(value, _RANDOM):
            return copy.deepcopy(value)
        return self._copy_object(value, path)

    def _bind(self, method: types.MethodType, path: str) -> Any:
        """Return a bound method of the copy of the object that it is bound to."""
        owner, function = self.of(method.__self__, path), method.__func__
        name = getattr(function, "__name__", "")
        # A copy of a module may have a forward of its own, which is then the one to call.
        if getattr(type(owner), name, None) is function:
            return getattr(owner, name)
        return types.MethodType(function, owner)

    def _with_cells(self, function: types.FunctionType, path: str) -> types.FunctionType:
        """Return a function that sees copies of what it closes over."""
        cells = function.__closure__ or ()
        found = [_content(cell) for cell in cells]
        copied = [self.of(content, path) for content in found]
        if all(one is other for one, other in zip(found, copied, strict=True)):
            return function
        made = types.FunctionType(
            function.__code__,
            function.__globals__,
            function.__name__,
            function.__defaults__,
            tuple(types.CellType(content) for content in copied),
        )
        made.__kwdefaults__ = function.__kwdefaults__
        vars(made).update(vars(function))
        return made

    def _copy_object(self, value: Any, path: str) -> Any:
        """Return a copy of a container or of an object with attributes, and of what it holds."""
        try:
            made = copy.copy(value)
        except Exception:  # a lock, an open file, something of C++: it is what it is
            return value
        if made is value:
            return value
        self._done[id(value)] = value, made  # it may hold itself
        if isinstance(made, dict):
            made.update({key: self.of(held, f"{path}.{key}") for key, held in value.items()})
        elif isinstance(made, list | deque):
            for i, held in enumerate(value):
                made[i] = self.of(held, f"{path}.{i}")
        if _has_plain_attributes(value):
            for name, held in list(_attributes(made)):
                object.__setattr__(made, name, self.of(held, f"{path}.{name}"))
        return made


def _is_atom(value: Any) -> bool:
    """Return whether a value is one that a forward cannot change, or refers to a tensor."""
    kind = type(value)
    return kind in _ATOMS or (kind is weakref.ref and isinstance(value(), Tensor))


def _content(cell: types.CellType) -> Any:
    """Return what a function closes over, None where there is nothing yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _has_plain_attributes(value: Any) -> bool:
    """Return whether an object is all in its attributes, so that it says nothing of copies."""
    kind = type(value)
    if kind is types.SimpleNamespace:
        return True
    own = any(hasattr(kind, name) for name in ("__copy__", "__deepcopy__"))
    return not own and kind.__reduce_ex__ is object.__reduce_ex__


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of an object, also those in slots."""
    yield from getattr(value, "__dict__", {}).items()
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)
