"""Twins of modules: what a recorded network runs on, in place of the user's own.

`.recorder` asks for one for each run, so that nothing of the user's module is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any, NamedTuple
from weakref import ref

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
from sklrp.propagation.recording.snapshots import Held, take_snapshot
from sklrp.propagation.recording.tensors import storage_of
from sklrp.propagation.registry import check_hooks, find_entry, runs_as


def make_twin(network: nn.Module) -> Any:
    """Return a network that shares parameters with another, and nothing that changes.

    Parameters
    ----------
    network : nn.Module
        The network; it is not changed.

    Returns
    -------
    nn.Module
        The twin, in evaluation mode.

    Raises
    ------
    TypeError
        If a module has forward hooks, or is compiled code.
    """
    return _make(network).module


class Twins:
    """The twins of a network; one that a run left as it was serves the next run.

    Parameters
    ----------
    network : nn.Module
        The network; it is not changed.
    idle : list or None, default=None
        Twins that earlier calls left, of which each thread takes one.
    source : Held or None, default=None
        What the network held when they were made.

    Attributes
    ----------
    source : Held or None
        The same of its first twin; None where not all of it is seen to change.
    """

    def __init__(
        self, network: nn.Module, idle: list[Any] | None = None, source: Held | None = None
    ) -> None:
        self.network = network
        self.idle: list[_Twin] = [] if idle is None else idle
        self.source = source

    @cached_property
    def owners(self) -> dict[int, str]:
        """The storages of the network's parameters mapped to their names."""
        return {storage_of(p): name for name, p in self.network.named_parameters()}

    @cached_property
    def registered(self) -> set[int]:
        """The storages of the network's buffers."""
        return {storage_of(b) for b in self.network.buffers()}

    @contextmanager
    def lend(self, recorder: Any = None) -> Iterator[Any]:
        """Give a run a twin, of which a recorder runs the layers that have a handler."""
        try:
            twin = self.idle.pop()
        except IndexError:
            twin = _Twin(self.network)
            if self.source is None:
                self.source = twin.source
            elif not self.source.is_the_same():  # changed meanwhile by another thread
                twin.is_for_once = True
        twin.ear.recorder, twin.ear.snapshots = recorder, twin.snapshots
        is_as_made = False
        try:
            yield twin.module
            is_as_made = twin.is_as_made() and not twin.is_for_once
        finally:
            twin.ear.recorder, twin.ear.snapshots = None, {}
            if is_as_made:
                self.idle.append(twin)
            else:
                twin.release()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the twins, which another process makes itself."""
        return {"network": self.network, "idle": [], "source": None}


class _Ear:
    """What all modules of a twin tell what they do."""

    def __init__(self) -> None:
        self.recorder: Any = None
        # Layers as they were at their last call, by their paths; lent, as they hold the modules.
        self.snapshots: dict[str, tuple[nn.Module, Held]] = {}


class _Twin:
    """A twin, and what its modules held when it was made."""

    def __init__(self, network: nn.Module) -> None:
        self.ear, self.is_for_once = _Ear(), False
        self.snapshots: dict[str, tuple[nn.Module, Held]] = {}
        self.module, modules, sources, is_simple = _make(network, self.ear)
        self._held = Held(modules) if is_simple else None
        self.source = Held(sources) if is_simple and sources else None

    def is_as_made(self) -> bool:
        """Return whether no module holds anything else than when the twin was made."""
        return self._held is not None and self._held.is_the_same()

    def release(self) -> None:
        """Take from the modules what they tell the recorder by: some make circles of it."""
        for module in self.module.modules():
            vars(module).pop("forward", None)


class _Made(NamedTuple):
    """A twin as it was made."""

    module: Any
    modules: list[nn.Module]  # all that it consists of
    sources: list[nn.Module]  # those of the network; none if one of them holds the network
    is_simple: bool  # whether it holds nothing that is not seen to change


def _make(network: nn.Module, ear: _Ear | None = None) -> _Made:
    """Return a twin, whose layers tell the recorder if there is an ear."""
    memo: dict[int, Any] = {}  # the twins so far, by the identity of their modules
    sources: list[nn.Module] = []
    is_simple, is_circular = True, False

    def twin_of(module: nn.Module, path: str) -> Any:
        nonlocal is_simple, is_circular
        module = unwrap_compiled(module)
        if id(module) in memo:
            is_circular |= module is sources[0]
            return memo[id(module)]
        sources.append(module)
        _check_module(module, path)
        twin = memo[id(module)] = object.__new__(type(module))
        # The twin is known before its parts are copied: one of them may refer to it.
        vars(twin).update(_copy_state(module, path, copies))
        if ear is not None:
            is_simple &= "forward" not in vars(twin)
            vars(twin)["forward"] = _watch(twin, path, ear)
        return twin

    copies = StateCopies(twin_of)
    made = twin_of(network, "")
    modules = list(memo.values())
    # The two know each other: what they hold would wait for the collector, which takes longer
    # than a forward pass where a process has imported much.
    memo.clear()
    copies.forget()
    return _Made(made, modules, [] if is_circular else sources, is_simple and copies.are_simple)


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


def _watch(module: nn.Module, path: str, ear: _Ear) -> Callable[..., Any]:
    """Return a forward that runs the twin's own, and tells the recorder."""
    # A reshape of the network is recorded as the function that it calls, in the network's layout.
    is_layer = find_entry(module) is not None and not isinstance(module, nn.Flatten | nn.Unflatten)
    encodes = type(module).forward is nn.TransformerEncoder.forward and runs_as(
        module, nn.TransformerEncoder
    )
    own = vars(module).get("forward")
    module_of = ref(module)  # it holds this function

    def record(recorder: Any, twin: Any, args: Any, kwargs: Any) -> Any:
        if twin.training:
            raise recorder.refusals.training_mode(path, twin)
        run = partial(encode, twin) if encodes else own or type(twin).forward.__get__(twin)
        recorder.refusals.enter(path, twin)
        try:
            if not (is_layer and recorder.depends(args, kwargs)):
                return run(*args, **kwargs)
            layer, held = ear.snapshots.get(path, (twin, None))
            if held is None or not held.is_the_same():
                # A handler reads a layer with the forward of its type, and its attributes as now.
                layer = take_snapshot(twin)
                ear.snapshots[path] = layer, Held([twin])
            with DisableTorchFunction():
                return recorder.layer(path, layer, args, kwargs, partial(run, *args, **kwargs))
        finally:
            recorder.refusals.leave()

    def forward(*args: Any, **kwargs: Any) -> Any:
        recorder = ear.recorder
        twin: Any = module_of()
        if recorder is None:
            return (own or type(twin).forward.__get__(twin))(*args, **kwargs)
        if path in recorder.watched:
            return recorder.watch(path, lambda: record(recorder, twin, args, kwargs), args, kwargs)
        return record(recorder, twin, args, kwargs)

    return forward
