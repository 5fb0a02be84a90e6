"""Handlers of the layers with weights that are affine maps: dense layers and convolutions.

Each gives the map and its adjoint to :func:`sklrp.propagation.sharing.affine`, which applies the
rule. Importing this module registers the handlers.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_letters
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sklrp._quick_images import is_of_few_channels, to_few_channels
from sklrp.propagation.bounds import linear
from sklrp.propagation.contraction import Contraction
from sklrp.propagation.handlers.operands import spatial_shape
from sklrp.propagation.handlers.reshaping import unpad
from sklrp.propagation.registry import NEW, mark, register
from sklrp.propagation.sharing import affine
from sklrp.propagation.tape import Pull, Step
from sklrp.rules import Signal


def own_weights(layer: Any) -> tuple[Tensor, Tensor | None]:
    """Return the weight and the bias that a layer calls so."""
    return layer.weight, layer.bias


@register(
    nn.Linear, kind="dense", any_axis=True, weights=own_weights, bounds=linear, fold="rows",
)  # fmt: skip
@mark(NEW)
def _linear(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    if step.folded and signal.x.dim() != 2:
        raise TypeError(
            f"Relevance through the batch normalisation beside Linear {step.name!r} is not "
            f"supported for inputs of {signal.x.dim()} axes; flatten them to (n_samples, "
            "n_features)."
        )
    return affine(step, signal, F.linear, torch.matmul)


@register(Contraction, kind="dense", any_axis=True, weights=lambda layer: (layer.weight, None),
          bounds=linear)  # fmt: skip
def _contraction(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    own, of_weight, out = step.layer.letters
    if own[signal.axis] in of_weight:
        raise TypeError(
            f"Relevance through einsum {step.name!r} is not supported: its weights have values of "
            "their own for each sample; multiply by them."
        )
    # The samples come first, as handlers of layers have them.
    batch = own[signal.axis]
    own, out = (batch + term.replace(batch, "") for term in (own, out))
    targets = next(c for c in ascii_letters if c not in own + of_weight + out)

    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return torch.einsum(f"{own},{of_weight}->{out}", x, weight)

    def adjoint(ratio: Tensor, weight: Tensor) -> Tensor:
        return torch.einsum(f"{targets}{out},{of_weight}->{targets}{own}", ratio, weight)

    return affine(step, signal, forward, adjoint)


# Convolutions pad their channels to those of a register: two terms of so few are one.
_FEW_CHANNELS = 4

_CONV = {
    1: (F.conv1d, F.conv_transpose1d),
    2: (F.conv2d, F.conv_transpose2d),
    3: (F.conv3d, F.conv_transpose3d),
}


@register(
    nn.Conv1d, nn.Conv2d, nn.Conv3d,
    kind="conv", weights=own_weights, bounds=linear, fold="rows",
)  # fmt: skip
@mark(NEW)
def _conv(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    layer: Any = step.layer
    size, kernel = spatial_shape(step, signal), layer.kernel_size
    if _is_pointwise(layer):
        back = _mix_channels_back
        return affine(step, signal, _mix_channels, back, n_spatial=len(size), pointwise=True)
    forward_op, adjoint_op = _CONV[len(size)]
    # Padding that torch's convolution cannot do by itself, nor its adjoint undo, is done before.
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
    # What the stride leaves over at the end, which the transposed convolution must add again.
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
        rows = ratio.flatten(0, 1)
        flat = (
            to_few_channels(rows, weight, padding, layer.dilation)
            if is_of_few_channels(layer, weight)
            else adjoint_op(
                rows, weight, None, layer.stride, padding, extra, layer.groups, layer.dilation
            )
        )
        flat = flat if pads is None else unpad(flat, pads, mode, size)
        return flat.unflatten(0, ratio.shape[:2])

    few = layer.groups == 1 and layer.in_channels <= _FEW_CHANNELS
    return affine(step, signal, forward, adjoint, n_spatial=len(size), few_channels=few)


def _is_pointwise(layer: Any) -> bool:
    """Return whether a convolution is one product of matrices, where torch has a slow one."""
    # With one thread, torch leaves kernels of 1 x 1 on few samples to its oldest convolution.
    each = layer.kernel_size, layer.stride, layer.dilation
    plain = all(set(values) == {1} for values in each) and layer.groups == 1
    flat = layer.padding in ("same", "valid") or not any(layer.padding)
    return plain and flat and isinstance(layer, nn.Conv2d) and layer.weight.device.type == "cpu"


def _mix_channels(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)


def _mix_channels_back(ratio: Tensor, weight: Tensor) -> Tensor:
    return (ratio.movedim(2, -1) @ weight.flatten(1)).movedim(-1, 2)


def _explicit_pads(layer: Any) -> list[int]:
    """Return the padding of a convolution in the order of ``F.pad``, last axis first."""
    if layer.padding == "same":
        totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        pairs = [(total // 2, total - total // 2) for total in totals]
    else:
        amounts = (0,) * len(layer.kernel_size) if layer.padding == "valid" else layer.padding
        pairs = [(p, p) for p in amounts]
    return [p for pair in reversed(pairs) for p in pair]


@register(
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    kind="conv", weights=own_weights, bounds=linear, fold="columns",
)  # fmt: skip
def _conv_transpose(
    step: Step, signal: Signal, output_size: Sequence[int] | None = None
) -> tuple[Signal, Pull]:
    layer: Any = step.layer
    size = spatial_shape(step, signal)
    adjoint_op, forward_op = _CONV[len(size)]
    stride, padding, dilation = layer.stride, layer.padding, layer.dilation
    extra = layer.output_padding
    if output_size is not None:
        extra = [
            wanted - ((n - 1) * s - 2 * p + d * (k - 1) + 1)
            for wanted, n, s, p, d, k in zip(
                output_size[-len(size) :], size, stride, padding, dilation, layer.kernel_size,
                strict=True,
            )
        ]  # fmt: skip

    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return forward_op(x, weight, bias, stride, padding, extra, layer.groups, dilation)

    def adjoint(ratio: Tensor, weight: Tensor) -> Tensor:
        flat = adjoint_op(
            ratio.flatten(0, 1), weight, None, stride, padding, dilation, layer.groups
        )
        for axis, n in enumerate(size, start=2):  # it is longer if output_padding fills a stride
            flat = flat.narrow(axis, 0, n)
        return flat.unflatten(0, ratio.shape[:2])

    return affine(step, signal, forward, adjoint, n_spatial=len(size))
