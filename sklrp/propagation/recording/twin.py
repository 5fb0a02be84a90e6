"""Twins of modules: what a recorded network runs on, in place of the user's own.

`.recorder` makes one for a run, so that nothing of the user's module is touched.
"""

from __future__ import annotations

import copy
import itertools
from collections import OrderedDict, deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from sklrp._torch import (
    CHILDREN,
    COMPILED_CALL,
    DisableTorchFunction,
    get_children,
    unwrap_compiled,
)
from sklrp.propagation.registry import check_hooks, find_entry

# What a forward may keep things in; the twin has copies.
_CONTAINERS = (list, dict, set, deque, bytearray, SimpleNamespace, np.ndarray, itertools.count)


def make_twin(module: nn.Module, path: str, recorder: Any, memo: dict[int, Any]) -> Any:
    """Return a module that shares parameters with another, and nothing that changes.

    Parameters
    ----------
    module : nn.Module
        The module; it is not changed.
    path : str
        Its path in the network.
    recorder : Recorder
        What is told where ``forward`` is, and runs the layers that have a handler.
    memo : dict
        The twins so far, by the identity of their modules.

    Returns
    -------
    nn.Module
        The twin, in evaluation mode.

    Raises
    ------
    TypeError
        If the module has forward hooks, or is compiled code.
    """
    module = unwrap_compiled(module)
    if id(module) in memo:
        return memo[id(module)]
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError(
            f"Relevance through {path or 'the network'!r} of type {type(module).__name__} is not "
            "supported: what it calls is hidden in compiled code; pass the original module."
        )
    check_hooks(module, path)
    twin = memo[id(module)] = object.__new__(type(module))
    # The twin is known before its parts are copied: one of them may refer to it.
    vars(twin).update(
        _copy_state(module, path, lambda child, at: make_twin(child, at, recorder, memo))
    )
    own: Any = vars(twin).get("forward")
    if getattr(own, "__self__", None) is module:  # a method of the module, set anew
        vars(twin)["forward"] = own = own.__func__.__get__(twin)
    vars(twin)["forward"] = _watch(twin, own or type(module).forward.__get__(twin), path, recorder)
    return twin


def _copy_state(
    module: nn.Module, path: str, twin_of: Callable[[nn.Module, str], nn.Module]
) -> dict[str, Any]:
    """Return the attributes of a twin, which share tensors with the module and nothing else."""

    def copied(value: Any, path: str) -> Any:
        if isinstance(value, nn.Module):
            return twin_of(value, path)
        if type(value) in (list, tuple):
            return type(value)(copied(v, f"{path}.{i}") for i, v in enumerate(value))
        if type(value) in (dict, OrderedDict):
            return type(value)((k, copied(v, f"{path}.{k}")) for k, v in value.items())
        return copy.copy(value) if isinstance(value, _CONTAINERS) else value

    state = {
        name: copied(value, f"{path}.{name}".lstrip("."))
        for name, value in vars(module).items()
        if name != CHILDREN
    }
    state[CHILDREN] = {
        name: copied(child, f"{path}.{name}" if path else name)
        for name, child in get_children(module).items()
    }
    return {**state, "training": False, COMPILED_CALL: None}


def _watch(
    twin: nn.Module, run: Callable[..., Any], path: str, recorder: Any
) -> Callable[..., Any]:
    """Return a forward that runs the twin's own, and tells the recorder."""
    layer: Any = None
    # A reshape of the network is recorded as the function that it calls, in the network's layout.
    if find_entry(twin) is not None and not isinstance(twin, nn.Flatten | nn.Unflatten):
        # What a handler reads has the layer's own forward; what the network calls is recorded.
        layer = object.__new__(type(twin))
        vars(layer).update(vars(twin))

    def forward(*args: Any, **kwargs: Any) -> Any:
        if twin.training:
            raise recorder.refusals.training_mode(path, twin)
        if layer is not None and recorder.depends(args, kwargs):
            with recorder.refusals.at(path, twin), DisableTorchFunction():
                return recorder.layer(path, layer, args, kwargs)
        with recorder.refusals.at(path, twin):
            return run(*args, **kwargs)

    return forward
