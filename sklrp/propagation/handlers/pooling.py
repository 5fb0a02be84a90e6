"""Handlers of the layers that pool, resample, unfold and fold.

A maximum gives all to the winner, an average or an interpolation shares by contribution. Importing
this module registers the handlers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sklrp.propagation.bounds import monotone, unknown
from sklrp.propagation.handlers.adjoints import adjoint_of, pull_gradients
from sklrp.propagation.handlers.operands import spatial_shape
from sklrp.propagation.handlers.reshaping import copied
from sklrp.propagation.registry import register
from sklrp.propagation.sharing import contribute
from sklrp.propagation.tape import Kept, Pull, Step
from sklrp.rules import Signal, x_one


@register(
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
    bounds=monotone,
)
def _max_pool(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    layer: Any = step.layer
    if layer.return_indices:
        raise TypeError(
            f"Layer {step.name!r} ({layer}) returns indices beside its output; set "
            "return_indices=False."
        )
    spatial_shape(step, signal)
    with torch.enable_grad():  # the gradient gives all to the winner
        x = signal.x.detach().requires_grad_()
        out = layer.forward(x)

    def pull(relevance: Tensor, kept: Kept | None) -> Tensor:
        return pull_gradients(out, x, relevance)[0]

    return Signal(out.detach(), signal.nonnegative, gate=signal.gate), pull


@register(
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    bounds=monotone,
)
def _avg_pool(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    spatial_shape(step, signal)
    return _share(step, signal, step.layer.forward)


def _upsampled_bounds(step: Step, signal: Signal) -> Signal:
    if step.layer.mode == "bicubic":  # it has negative weights, and leaves the box
        return unknown(step.handler(step, signal)[0])
    return monotone(step, signal)


@register(nn.Upsample, bounds=_upsampled_bounds)
def _upsample(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    """Copy to the nearest, or interpolate: a linear map, shared by contribution."""
    layer: Any = step.layer
    if layer.mode.startswith("nearest"):
        adjoint = adjoint_of(layer.forward, signal.x)
        return copied(signal, layer.forward), lambda relevance, kept: adjoint(relevance)
    out, pull = _share(step, signal, layer.forward)
    if layer.mode == "bicubic":  # it has negative weights
        out = replace(out, nonnegative=False)
    return out, pull


@register(nn.Fold, bounds=monotone)
def _fold(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    """Overlay blocks: a sum, shared by contribution."""
    return _share(step, signal, step.layer.forward)


@register(nn.Unfold, bounds=monotone)
def _unfold(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    """Copy the values of each window; relevance of its padding is kept."""
    function = step.layer.forward
    adjoint = adjoint_of(function, signal.x)

    def pull(relevance: Tensor, kept: Kept | None) -> Tensor:
        passed = adjoint(relevance)
        if kept is not None:
            kept.add("padding", relevance.flatten(2).sum(2) - passed.flatten(2).sum(2))
        return passed

    return copied(replace(signal, seen=x_one(signal)), function), pull


def _share(
    step: Step, signal: Signal, function: Callable[[Tensor], Tensor]
) -> tuple[Signal, Pull]:
    """Share by contribution to a linear function without negative weights."""
    out = replace(signal.apply(function, nonnegative=signal.nonnegative), gate=signal.gate)
    return out, contribute(step, signal.x, out.x, adjoint_of(function, signal.x))
