"""Handlers of the layers without memory: affine layers, activations, pooling, shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sklrp.modules import Sweep
from sklrp.propagation.step import (
    HANDLERS,
    Kept,
    Pull,
    Step,
    affine,
    channelwise,
    contribute,
    register,
)
from sklrp.rules import Signal, x_one


@register(nn.Linear, kind="dense")
def _linear(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    if step.folded and signal.x.dim() != 2:
        raise TypeError(
            f"Relevance through the batch normalisation beside Linear {step.name!r} is not "
            f"supported for inputs of {signal.x.dim()} axes; flatten them to (n_samples, "
            "n_features)."
        )
    return affine(step, signal, F.linear, torch.matmul)


_CONV = {
    1: (F.conv1d, F.conv_transpose1d),
    2: (F.conv2d, F.conv_transpose2d),
    3: (F.conv3d, F.conv_transpose3d),
}


@register(nn.Conv1d, nn.Conv2d, nn.Conv3d, kind="conv")
def _conv(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    layer: Any = step.layer
    size, kernel = _spatial_shape(step, signal), layer.kernel_size
    forward_op, adjoint_op = _CONV[len(size)]
    # Padding that torch's convolution cannot do by itself, nor its adjoint undo, is done before
    # it.
    if layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        pads, padding = None, layer.padding
    else:
        pads, padding = _explicit_pads(layer), (0,) * len(size)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = (
        size
        if pads is None
        else [n + pads[-2 * i - 2] + pads[-2 * i - 1] for i, n in enumerate(size)]
    )
    extra = [
        (n + 2 * p - d * (k - 1) - 1) % s
        for n, p, d, k, s in zip(
            padded, padding, layer.dilation, kernel, layer.stride, strict=True
        )
    ]

    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x = x if pads is None else F.pad(x, pads, mode)
        return forward_op(x, weight, bias, layer.stride, padding, layer.dilation, layer.groups)

    def adjoint(ratio: Tensor, weight: Tensor) -> Tensor:
        flat = adjoint_op(
            ratio.flatten(0, 1),
            weight,
            None,
            layer.stride,
            padding,
            extra,
            layer.groups,
            layer.dilation,
        )
        flat = flat if pads is None else _unpad(flat, pads, mode, size)
        return flat.unflatten(0, ratio.shape[:2])

    return affine(step, signal, forward, adjoint, n_spatial=len(size))


def _explicit_pads(layer: Any) -> list[int]:
    """Return the padding of a convolution in the order of ``F.pad``, last axis first."""
    if layer.padding == "same":
        totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        pairs = [(total // 2, total - total // 2) for total in totals]
    else:
        amounts = (0,) * len(layer.kernel_size) if layer.padding == "valid" else layer.padding
        pairs = [(p, p) for p in amounts]
    return [p for pair in reversed(pairs) for p in pair]


def _unpad(padded: Tensor, pads: Sequence[int], mode: str, size: Sequence[int]) -> Tensor:
    """Apply the adjoint of ``F.pad``: relevance of copies goes back to where they came from."""
    if mode == "constant":
        return F.pad(padded, [-p for p in pads])
    n_spatial, n_cells = len(size), math.prod(size)
    cells = torch.arange(n_cells, dtype=torch.float64, device=padded.device).reshape(1, 1, *size)
    source = F.pad(cells, list(pads), mode).long().flatten()
    flat = padded.flatten(-n_spatial)
    out = flat.new_zeros(*flat.shape[:-1], n_cells).index_add_(-1, source, flat)
    return out.unflatten(-1, tuple(size))


def _pass(relevance: Tensor, kept: Kept | None) -> Tensor:
    return relevance


@register(nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Softplus)
def _nonnegative_activation(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    return signal.apply(_out_of_place(step.layer), nonnegative=True), _pass


@register(
    nn.CELU, nn.ELU, nn.Hardtanh, nn.LeakyReLU, nn.LogSigmoid, nn.SELU, nn.Softsign, nn.Tanh,
)  # fmt: skip
def _activation(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    return signal.apply(_out_of_place(step.layer)), _pass


@register(nn.GELU, nn.Hardswish, nn.Mish, nn.PReLU, nn.SiLU)
def _activation_not_monotone(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    out, pull = _activation(step, signal)
    if out.low is not None and out.high is not None:
        ends = torch.stack([out.low, out.high])
        least = _LEAST.get(_base_name(step.layer), 0.0)
        out = replace(out, low=ends.amin(0).clamp(max=least), high=ends.amax(0).clamp(min=least))
    return out, pull


# The least values of these activations, rounded down; PReLU's is 0 if its slope is negative.
_LEAST = {"GELU": -0.1701, "Hardswish": -0.375, "Mish": -0.309, "SiLU": -0.2785}


def _out_of_place(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    if getattr(layer, "inplace", False):
        return lambda x: layer.forward(x.clone())
    return layer.forward


@register(
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
def _identity(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    return signal, _pass


@register(nn.Flatten, nn.Unflatten)
def _reshape(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    shape = signal.x.shape
    out = signal.apply(step.layer.forward, nonnegative=signal.nonnegative)
    if out.x.shape[0] != shape[0]:
        raise TypeError(
            f"Layer {step.name!r} ({step.layer}) reshapes the axis of the samples; start at axis "
            "1."
        )
    return out, lambda relevance, kept: relevance.reshape(-1, *shape)


@register(Sweep)
def _sweep(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    layer: Any = step.layer
    out = signal.apply(layer.forward, nonnegative=signal.nonnegative)
    return out, lambda relevance, kept: layer.inverse(relevance.flatten(0, 1)).unflatten(
        0, relevance.shape[:2]
    )


@register(
    nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d,
    nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d,
    nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d,
    nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d,
)  # fmt: skip
def _pad(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    layer: Any = step.layer
    modes = {
        "Zero": "constant",
        "Cons": "constant",
        "Refl": "reflect",
        "Repl": "replicate",
        "Circ": "circular",
    }
    mode = next(modes[c.__name__[:4]] for c in type(layer).__mro__ if c.__name__[:4] in modes)
    size = _spatial_shape(step, signal)
    nonnegative = signal.nonnegative and getattr(layer, "value", 0) >= 0

    def pull(relevance: Tensor, kept: Kept | None) -> Tensor:
        flat = _unpad(relevance.flatten(0, 1), layer.padding, mode, size)
        out = flat.unflatten(0, relevance.shape[:2])
        if kept is not None:
            kept.add("padding", relevance.flatten(2).sum(2) - out.flatten(2).sum(2))
        return out

    out = signal.apply(layer.forward, nonnegative=nonnegative)
    if mode == "constant":
        out = replace(out, seen=F.pad(x_one(signal), layer.padding))
    return out, pull


@register(
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
)
def _max_pool(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    layer: Any = step.layer
    if layer.return_indices:
        raise TypeError(
            f"Layer {step.name!r} ({layer}) returns indices beside its output; set "
            "return_indices=False."
        )
    pool = getattr(F, _snake(type_name := _base_name(layer)))
    options = (
        {"output_size": layer.output_size}
        if type_name.startswith("Adaptive")
        else {
            name: getattr(layer, name)
            for name in ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
        }
    )
    x, n_spatial = signal.x, len(_spatial_shape(step, signal))
    out, index = pool(x, **options, return_indices=True)
    index = index.flatten(-n_spatial)
    low, high = (None if v is None else pool(v, **options) for v in (signal.low, signal.high))

    def pull(relevance: Tensor, kept: Kept | None) -> Tensor:
        winners = index.expand(relevance.shape[0], *index.shape)
        flat = relevance.new_zeros(relevance.shape[0], *x.shape[:2], x.shape[2:].numel())
        flat.scatter_add_(-1, winners, relevance.flatten(-n_spatial))
        return flat.unflatten(-1, x.shape[2:])

    return Signal(out, signal.nonnegative, low, high), pull


@register(
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
)
def _avg_pool(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    _spatial_shape(step, signal)
    x = signal.x
    out = signal.apply(step.layer.forward, nonnegative=signal.nonnegative)

    def adjoint(ratio: Tensor) -> Tensor:
        flat = ratio.flatten(0, 1)
        with torch.enable_grad():  # the map is linear, its gradient is its adjoint
            anywhere = x.new_zeros(flat.shape[0], *x.shape[1:]).requires_grad_()
            (grad,) = torch.autograd.grad(step.layer.forward(anywhere), anywhere, flat)
        return grad.unflatten(0, ratio.shape[:2])

    return out, contribute(step, x, out.x, adjoint)


@register(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
def _batch_norm(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    n_spatial = signal.x.dim() - 2
    if n_spatial:
        _spatial_shape(step, signal)
    scale, shift = channelwise(step.weight, n_spatial), channelwise(step.bias, n_spatial)
    out = signal.apply(lambda x: x * scale + shift)
    if out.low is not None and out.high is not None:  # a negative scale swaps the bounds
        low, high = torch.minimum(out.low, out.high), torch.maximum(out.low, out.high)
        out = replace(out, low=low, high=high)
    return out, contribute(step, signal.x, out.x, lambda ratio: ratio * scale, bias=shift)


def _spatial_shape(step: Step, signal: Signal) -> torch.Size:
    """Return the shape behind the axes of samples and channels, as the layer's type has it."""
    n_spatial, shape = int(_base_name(step.layer)[-2]), signal.x.shape
    if len(shape) != n_spatial + 2:
        raise ValueError(
            f"Layer {step.name!r} ({step.layer}) takes samples of {n_spatial + 1} axes, channels "
            f"first, got {len(shape) - 1}, of shape {tuple(shape[1:])}; put nn.Unflatten before "
            "it."
        )
    return shape[2:]


def _base_name(layer: nn.Module) -> str:
    """Return the name of the registered type that a layer is of."""
    return next(c.__name__ for c in type(layer).__mro__ if c in HANDLERS)


def _snake(name: str) -> str:
    """Return the functional's name of a pooling layer: ``MaxPool2d`` is ``max_pool2d``."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
