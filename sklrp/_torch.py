"""The private names of torch that this package uses.

No other file touches them, so a release of torch that moves one is mended here;
``tests/test_private_names.py`` tells which one has moved. What follows a network's layers and
functions, in `sklrp.propagation`, imports from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

# The base of what sees every operation of a thread. Without it a training could not draw from
# generators of its own.
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode

# A context in which functions of torch run as they are, unseen by function modes. Without it
# the recorder would see the functions inside a layer that it has recorded as a whole.
DisableTorchFunction = torch._C.DisableTorchFunction

# The attributes in which a module keeps its children and its compiled call. Without them a copy
# of a module shares its children with the original, or runs the original's compiled code.
CHILDREN = "_modules"
COMPILED_CALL = "_compiled_call_impl"

# The attributes in which a module keeps its own parameters and buffers. Without them a layer that
# forward gives other weights would be explained with the old ones.
PARAMETERS = "_parameters"
BUFFERS = "_buffers"

# What a convolution's `forward` calls. Without it a subclass that overrides it would be explained
# as a plain convolution.
CONV_FORWARD = "_conv_forward"

# The names under which function modes see the packing of sequences and `threshold`. Without them
# the recorder does not know these functions and refuses the network.
PACK = "_pack_padded_sequence"
PAD_PACKED = "_pad_packed_sequence"
THRESHOLD = "_threshold"


def get_children(module: nn.Module) -> Mapping[str, nn.Module | None]:
    """Return the children of a module by name."""
    # `named_children` leaves out a child that is used for the second time.
    return module._modules


def get_parameters(module: nn.Module) -> list[torch.Tensor]:
    """Return a module's own parameters: `parameters()` takes ten times as long."""
    return [tensor for tensor in module._parameters.values() if tensor is not None]


def get_tensors(module: nn.Module) -> list[torch.Tensor]:
    """Return a module's own parameters and buffers."""
    buffers = (tensor for tensor in module._buffers.values() if tensor is not None)
    return [*get_parameters(module), *buffers]


def get_hooks(module: nn.Module) -> list[Any]:
    """Return the forward hooks of a module. Without it their effect would be overlooked."""
    before, behind = module._forward_pre_hooks, module._forward_hooks
    return [*before.values(), *behind.values()] if before or behind else []


def runs_plainly(module: nn.Module) -> bool:
    """Return whether calling a module is calling its type's ``forward``, and nothing else."""
    own = vars(module)
    hooks = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    watched = any(own.get(name) for name in hooks)
    return not watched and "forward" not in own and own.get(COMPILED_CALL) is None


def count_changes(tensor: torch.Tensor) -> int:
    """Return how often a tensor was changed in place. Without it another layer would be blamed."""
    return tensor._version


def get_global_hooks() -> list[Any]:
    """Return the forward hooks on all modules, for the same reason."""
    before = nn.modules.module._global_forward_pre_hooks
    behind = nn.modules.module._global_forward_hooks
    return [*before.values(), *behind.values()] if before or behind else []


def overrides_functions(kind: type) -> bool:
    """Tell whether a type of tensors does as it likes with torch's functions."""
    # Parameters and buffers, for which torch switches this off, would be among them without it.
    own = getattr(kind, "__torch_function__", None)
    plain = torch.Tensor.__torch_function__.__func__  # type: ignore[attr-defined]
    return own is not torch._C._disabled_torch_function_impl and (
        getattr(own, "__func__", own) is not plain
    )


def is_compiled(module: nn.Module) -> bool:
    """Tell whether ``torch.compile`` wraps a module, whose own layers are then hidden."""
    return hasattr(module, "_orig_mod")


def unwrap_compiled(module: Any) -> Any:
    """Return the module that ``torch.compile`` wraps, or the module itself."""
    # It is a child, and asking a module for what it lacks takes long.
    wrapped = isinstance(module, nn.Module) and "_orig_mod" in get_children(module)
    return module._orig_mod if wrapped else module


def find_start(layer: nn.Module) -> Callable[[], Any] | None:
    """Return the method by which a layer draws its parameters before training, None without."""
    # Attention and transformers keep theirs private. Without it they could not be drawn anew.
    names = ("reset_parameters", "_reset_parameters")
    return next((getattr(layer, name) for name in names if hasattr(layer, name)), None)


def is_autocast_on(device_type: str) -> bool:
    """Tell whether autocast is on for a type of device, in every release of torch."""
    try:
        return torch.is_autocast_enabled(device_type)
    except TypeError:  # before torch 2.4 it takes no argument, and knows of CUDA alone
        on_cpu = device_type == "cpu"
        return torch.is_autocast_cpu_enabled() if on_cpu else torch.is_autocast_enabled()


def get_arguments(operation: Any) -> set[tuple[str, str]]:
    """Return names and types of an operation's arguments; without it none could be added."""
    return {(argument.name, str(argument.type)) for argument in operation._schema.arguments}


def get_schemas(name: str) -> list[tuple[list[tuple[str, bool, bool]], int]]:
    """Return the ways to call a function in C++; without it their arguments would be guesses."""
    # Of each way the arguments, (name, whether by name alone, whether it may be left out), and the
    # number of tensors that it returns.
    packet = getattr(torch.ops.aten, name, None)
    overloads = [] if packet is None else [getattr(packet, way) for way in packet.overloads()]
    return [
        (
            [(a.name, a.kwarg_only, a.has_default_value()) for a in way._schema.arguments],
            len(way._schema.returns),
        )
        for way in overloads
        if not any(a.is_out for a in way._schema.arguments)
    ]
