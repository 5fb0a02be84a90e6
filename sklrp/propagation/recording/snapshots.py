"""Layers as they are when they are called: forward may set their attributes between two calls.

`.twin` takes a snapshot of a layer for each call, if it changed since the last one. The plan's
steps hold the layers of the probe; `.tape_writer` compares a call's layer with the step's, and a
layer that differs is explained as it is in this call.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from operator import is_
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from sklrp._torch import BUFFERS, PARAMETERS

_TENSORS = (PARAMETERS, BUFFERS)
# Values of attributes that can be compared; what else a layer holds, handlers do not read.
_PLAIN = (bool, int, float, str, tuple, list, type(None), torch.dtype)
# Where a layer holds what else it has, such as hooks.
_BESIDE = (dict, OrderedDict, set)
_CONTAINERS = frozenset([*_BESIDE, list])


class Held:
    """What modules hold, by which it is told at once whether they hold the same later.

    The modules themselves are not kept alive.

    Parameters
    ----------
    modules : iterable of nn.Module
        The modules.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        modules = list(modules)
        self._modules = list(map(ref, modules))
        self._types = list(map(type, modules))
        states = [vars(module) for module in modules]
        within = [v for state in states for v in state.values() if type(v) in _CONTAINERS]
        within += [one for v in within if type(v) is list for one in v if type(one) is list]
        self._empty = [v for v in within if not v]  # most of them
        # Each with what it holds; a dict also as its values.
        held: list[tuple[Any, Any]] = []
        for v in (*states, *filter(None, within)):
            held.append((v, list(v)))
            if isinstance(v, dict):
                held.append((v.values(), list(v.values())))
        self._held = held

    def is_the_same(self) -> bool:
        """Return whether all is what it was, by identity, and so is what lists and dicts hold."""
        types = (type(module()) for module in self._modules)
        if any(self._empty) or not all(map(is_, types, self._types)):
            return False
        for held, contents in self._held:
            if len(held) != len(contents) or not all(map(is_, held, contents)):
                return False
        return True


def take_snapshot(layer: nn.Module) -> nn.Module:
    """Return a layer of the same type and attributes."""
    snapshot: nn.Module = object.__new__(type(layer))
    # Its forward is that of its type, which handlers call; the layer's own tells the recorder.
    state = {name: value for name, value in vars(layer).items() if name != "forward"}
    for name, value in state.items():
        if type(value) in (list, dict):  # forward may change them in place
            state[name] = value.copy()
    vars(snapshot).update(state)
    return snapshot


def _are_equal_containers(one: Any, other: Any) -> bool:
    """Return whether two lists or dicts hold the same objects."""
    if type(one) is not type(other) or type(one) not in (list, dict) or len(one) != len(other):
        return False
    if isinstance(one, dict):
        return all(value is other.get(name, other) for name, value in one.items())
    return all(a is b for a, b in zip(one, other, strict=True))


def is_changed(planned: nn.Module, layer: nn.Module) -> bool:
    """Return whether a layer computes with other attributes or weights than the plan's."""
    if planned is layer or _holds_the_same(vars(planned), vars(layer)):
        return False
    one, other = _compared(planned), _compared(layer)
    return one.keys() != other.keys() or not all(
        is_equal(value, other[name]) for name, value in one.items()
    )


def _holds_the_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether of two layers all that can be compared is the same."""
    # So it is nearly always, and told in a part of the time that a comparison takes.
    if one.keys() != other.keys():
        return False
    for name, value in one.items():
        found = other[name]
        if name in _TENSORS:
            same = value is found or _are_equal_containers(value, found)
        else:
            same = value is found or (type(value) is type(found) and type(value) in _BESIDE)
        if not same:
            return False
    return True


def _compared(layer: nn.Module) -> dict[str, Any]:
    """Return the attributes of a layer that can be compared, its parameters among them."""
    state = vars(layer)
    tensors = {k: v for name in _TENSORS for k, v in state[name].items()}
    return tensors | {k: v for k, v in state.items() if isinstance(v, (*_PLAIN, Tensor))}


def is_equal(one: Any, other: Any) -> bool:
    """Return whether two attributes are equal, by their values where these can be compared."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(is_equal, one, other))
    if not isinstance(one, Tensor):
        return not isinstance(one, _PLAIN) or bool(one == other)
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.data_ptr() == other.data_ptr() and one.stride() == other.stride():
        return True
    return torch.equal(one, other)
