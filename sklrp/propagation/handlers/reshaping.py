"""Handlers of the layers that move, copy and pad values.

Each value of the output is one of the input, or padding; relevance goes back to where the value
came from. Importing this module registers the handlers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sklrp.modules import Sweep
from sklrp.propagation.bounds import monotone
from sklrp.propagation.handlers.adjoints import adjoint_of
from sklrp.propagation.handlers.operands import base_name, spatial_shape
from sklrp.propagation.registry import SHARING, mark, register
from sklrp.propagation.tape import Kept, Pull, Step
from sklrp.rules import Signal, x_one


def copied(signal: Signal, function: Callable[[Tensor], Tensor]) -> Signal:
    """Return the signal behind a function that copies values: what is known goes with them."""
    seen = None if signal.seen is None else function(signal.seen)
    return replace(signal, x=function(signal.x), seen=seen, low=None, high=None, lengths=None)


@register(nn.Flatten, nn.Unflatten, bounds=monotone)
@mark(SHARING)
def _reshape(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    x, shape = signal.x, signal.x.shape
    out = copied(signal, step.layer.forward)
    if out.x.shape[0] != shape[0]:
        raise TypeError(
            f"Layer {step.name!r} ({step.layer}) reshapes the axis of the samples; start at axis "
            "1."
        )
    layout = torch.channels_last
    has_last = x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=layout)

    def pull(relevance: Tensor, kept: Kept | None) -> Tensor:
        back = relevance.reshape(-1, *shape)
        if not has_last:
            return back
        # In the layout of the values, so that layers before this one are as fast back as forth.
        return back.flatten(0, 1).contiguous(memory_format=layout).unflatten(0, back.shape[:2])

    return out, pull


@register(nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, bounds=monotone)
def _shuffle(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    if signal.x.dim() < 3:
        raise ValueError(
            f"Layer {step.name!r} ({base_name(step.layer)}) takes samples with their channels "
            f"first and axes behind, got shape {tuple(signal.x.shape[1:])}; put nn.Unflatten "
            "before it."
        )
    adjoint = adjoint_of(step.layer.forward, signal.x)
    return copied(signal, step.layer.forward), lambda relevance, kept: adjoint(relevance)


@register(Sweep, bounds=monotone)
def _sweep(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    layer: Any = step.layer
    return copied(signal, layer.forward), lambda relevance, kept: layer.inverse(
        relevance.flatten(0, 1)
    ).unflatten(0, relevance.shape[:2])


_MODES = {
    "Zero": "constant",
    "Cons": "constant",
    "Refl": "reflect",
    "Repl": "replicate",
    "Circ": "circular",
}


@register(
    nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d,
    nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d,
    nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d,
    nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d,
    bounds=monotone,
)  # fmt: skip
def _pad(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    layer: Any = step.layer
    mode = _MODES[base_name(layer)[:4]]
    size = spatial_shape(step, signal)
    out = copied(signal, layer.forward)
    if mode == "constant":
        nonnegative = signal.nonnegative and getattr(layer, "value", 0) >= 0
        out = replace(out, nonnegative=nonnegative, seen=F.pad(x_one(signal), layer.padding))

    def pull(relevance: Tensor, kept: Kept | None) -> Tensor:
        flat = unpad(relevance.flatten(0, 1), layer.padding, mode, size)
        passed = flat.unflatten(0, relevance.shape[:2])
        if kept is not None:
            kept.add("padding", relevance.flatten(2).sum(2) - passed.flatten(2).sum(2))
        return passed

    return out, pull


def unpad(padded: Tensor, pads: Sequence[int], mode: str, size: Sequence[int]) -> Tensor:
    """Apply the adjoint of ``F.pad``: relevance of copies goes back to where they came from."""
    if mode == "constant":
        return F.pad(padded, [-p for p in pads])
    n_spatial, n_cells = len(size), math.prod(size)
    # Numbered on the CPU: float32, all that some devices have, counts to 2^24.
    cells = torch.arange(n_cells, dtype=torch.float64).reshape(1, 1, *size)
    source = F.pad(cells, list(pads), mode).long().flatten().to(padded.device)
    flat = padded.flatten(-n_spatial)
    out = flat.new_zeros(*flat.shape[:-1], n_cells).index_add_(-1, source, flat)
    return out.unflatten(-1, tuple(size))
