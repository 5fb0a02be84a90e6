"""Twins of modules: what a recorded network runs on, in place of the user's own.

`.recorder` makes one for a run, so that nothing of the user's module is touched.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from sklrp._torch import (
    CHILDREN,
    COMPILED_CALL,
    DisableTorchFunction,
    get_children,
    unwrap_compiled,
)
from sklrp.propagation.recording.attentions import encode
from sklrp.propagation.recording.held_state import StateCopies
from sklrp.propagation.recording.snapshots import take_snapshot
from sklrp.propagation.registry import check_hooks, find_entry, runs_as


def make_twin(network: nn.Module, recorder: Any = None) -> Any:
    """Return a network that shares parameters with another, and nothing that changes.

    Parameters
    ----------
    network : nn.Module
        The network; it is not changed.
    recorder : Recorder or None, default=None
        What is told where ``forward`` is, and runs the layers that have a handler; None for a
        network that runs plainly.

    Returns
    -------
    nn.Module
        The twin, in evaluation mode.

    Raises
    ------
    TypeError
        If a module has forward hooks, or is compiled code.
    """
    memo: dict[int, Any] = {}  # the twins so far, by the identity of their modules

    def twin_of(module: nn.Module, path: str) -> Any:
        module = unwrap_compiled(module)
        if id(module) in memo:
            return memo[id(module)]
        _check_module(module, path)
        twin = memo[id(module)] = object.__new__(type(module))
        # The twin is known before its parts are copied: one of them may refer to it.
        vars(twin).update(_copy_state(module, path, copies))
        if recorder is not None:
            own = vars(twin).get("forward") or type(module).forward.__get__(twin)
            fast = type(module).forward is nn.TransformerEncoder.forward
            if fast and runs_as(module, nn.TransformerEncoder):  # its fast path is not recorded
                own = partial(encode, twin)
            vars(twin)["forward"] = _watch(twin, own, path, recorder)
        return twin

    copies = StateCopies(twin_of)
    made = twin_of(network, "")
    # The two know each other: what they hold would wait for the collector, which takes longer
    # than a forward pass where a process has imported much.
    memo.clear()
    copies.forget()
    return made


def release_twin(twin: nn.Module) -> None:
    """Take from a twin that has run what its modules tell the recorder by, a circle each."""
    for module in twin.modules():
        vars(module).pop("forward", None)


def _check_module(module: nn.Module, path: str) -> None:
    """Refuse a module whose forward is hidden in compiled code, or that has hooks."""
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError(
            f"Relevance through {path or 'the network'!r} of type {type(module).__name__} is not "
            "supported: what it calls is hidden in compiled code; pass the original module."
        )
    check_hooks(module, path)


def _copy_state(module: nn.Module, path: str, copies: StateCopies) -> dict[str, Any]:
    """Return the attributes of a twin, which share tensors with the module and nothing else."""
    # Children first: an attribute may hold one of them too, which then keeps its own path.
    children = {
        name: copies.of(child, f"{path}.{name}" if path else name)
        for name, child in get_children(module).items()
    }
    state = {**vars(module), CHILDREN: None}
    return copies.of_all(state, path) | {
        CHILDREN: children, "training": False, COMPILED_CALL: None
    }  # fmt: skip


def _watch(
    twin: nn.Module, run: Callable[..., Any], path: str, recorder: Any
) -> Callable[..., Any]:
    """Return a forward that runs the twin's own, and tells the recorder."""
    # A reshape of the network is recorded as the function that it calls, in the network's layout.
    is_layer = find_entry(twin) is not None and not isinstance(twin, nn.Flatten | nn.Unflatten)
    layer: nn.Module | None = None

    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal layer
        if twin.training:
            raise recorder.refusals.training_mode(path, twin)
        if is_layer and recorder.depends(args, kwargs):
            # What a handler reads has the layer's own forward, and its attributes as they are now.
            layer = take_snapshot(twin, layer)
            with recorder.refusals.at(path, twin), DisableTorchFunction():
                return recorder.layer(path, layer, args, kwargs, partial(run, *args, **kwargs))
        with recorder.refusals.at(path, twin):
            return run(*args, **kwargs)

    return partial(recorder.watch, path, forward) if path in recorder.watched else forward
