"""Handlers of the layers that move, copy and pad values, and what handlers ask of shapes."""

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
from sklrp.propagation.registry import HANDLERS, register
from sklrp.propagation.tape import Kept, Pull, Step
from sklrp.rules import Signal, x_one


def copied(signal: Signal, function: Callable[[Tensor], Tensor]) -> Signal:
    """Return the signal behind a function that copies values: what is known goes with them."""
    seen = None if signal.seen is None else function(signal.seen)
    return replace(signal, x=function(signal.x), seen=seen, low=None, high=None, lengths=None)


def pull_gradients(outs: Any, leaves: Any, relevance: Any) -> tuple[Tensor, ...]:
    """Pull relevance with leading targets through an autograd graph, to each leaf.

    Parameters
    ----------
    outs, leaves : Tensor or list of Tensor
        The ends of the graph. The gradient of a linear map is its adjoint, that of a maximum gives
        all to the winner.
    relevance : Tensor or list of Tensor, each of shape (n_targets, *out.shape)
        The relevance of ``outs``.

    Returns
    -------
    tuple of Tensor, each of shape (n_targets, *leaf.shape)
        The relevance of ``leaves``.
    """
    arrived = [relevance] if isinstance(relevance, Tensor) else relevance
    rows = [
        torch.autograd.grad(outs, leaves, list(target), retain_graph=True)
        for target in zip(*arrived, strict=True)
    ]
    parts = zip(*rows, strict=True)
    return tuple(part[0][None] if len(part) == 1 else torch.stack(part) for part in parts)


def adjoint_of(function: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the adjoint of a function that is linear in each sample, for samples like x's."""

    def adjoint(relevance: Tensor) -> Tensor:
        flat = relevance.flatten(0, 1)
        with torch.enable_grad():  # the gradient of a linear map is its adjoint
            anywhere = x.new_zeros(flat.shape[0], *x.shape[1:]).requires_grad_()
            (grad,) = torch.autograd.grad(function(anywhere), anywhere, flat)
        return grad.unflatten(0, relevance.shape[:2])

    return adjoint


@register(nn.Flatten, nn.Unflatten, bounds=monotone)
def _reshape(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    shape = signal.x.shape
    out = copied(signal, step.layer.forward)
    if out.x.shape[0] != shape[0]:
        raise TypeError(
            f"Layer {step.name!r} ({step.layer}) reshapes the axis of the samples; start at axis "
            "1."
        )
    return out, lambda relevance, kept: relevance.reshape(-1, *shape)


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
    cells = torch.arange(n_cells, dtype=torch.float64, device=padded.device).reshape(1, 1, *size)
    source = F.pad(cells, list(pads), mode).long().flatten()
    flat = padded.flatten(-n_spatial)
    out = flat.new_zeros(*flat.shape[:-1], n_cells).index_add_(-1, source, flat)
    return out.unflatten(-1, tuple(size))


def spatial_shape(step: Step, signal: Signal) -> torch.Size:
    """Return the shape behind the axes of samples and channels, as the layer's type has it."""
    n_spatial, shape = int(base_name(step.layer)[-2]), signal.x.shape
    if len(shape) != n_spatial + 2:
        raise ValueError(
            f"Layer {step.name!r} ({base_name(step.layer)}) takes samples of {n_spatial + 1} "
            f"axes, channels first, got {len(shape) - 1}, of shape {tuple(shape[1:])}; put "
            "nn.Unflatten before it."
        )
    return shape[2:]


def own_dim(step: Step, signal: Signal, dim: int) -> int:
    """Return where a handler, which has the samples first, finds an axis of the network's."""
    dim = range(signal.x.dim())[dim]
    if dim == signal.axis:
        raise TypeError(
            f"Relevance through {base_name(step.layer)} {step.name!r} is not supported: with "
            f"dim={dim} it acts along the axis of the samples; choose another axis."
        )
    return dim + 1 if dim < signal.axis else dim


def base_name(layer: nn.Module) -> str:
    """Return the name of the registered type that a layer is of."""
    return next(c.__name__ for c in type(layer).__mro__ if c in HANDLERS)
