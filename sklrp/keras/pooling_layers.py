"""Builders of Keras's pooling and upsampling layers.

`.assembly` finds them in the table of `.blueprints`. With padding ``"same"`` an average is of the
cells that are there, and a maximum too.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from sklrp.keras.blueprints import Blueprint, Function, Part, Shape, applies, builds
from sklrp.keras.conv_layers import same_pads, split_shape, take_layout
from sklrp.keras.layer_config import LayerConfig

_AVERAGE = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
_MAXIMUM = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
_AVERAGES: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_MAXIMA: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def pool_same(x: Tensor, size: Shape, strides: Shape, average: bool) -> Tensor:
    """Pool an input, channels first, with windows that reach over its ends."""
    # Where the end is padded by one cell more than the start, torch's `ceil_mode` lets the last
    # window reach over it; windows that move by one cell start one earlier, the first is cut off.
    n_axes = len(size)
    pads = same_pads(x.shape[2:], size, strides, (1,) * n_axes)
    if average and n_axes == 3 and any(n < k for n, k in zip(x.shape[2:], size, strict=True)):
        # torch takes no window here that is larger than the field: a mean with zeros around, of
        # which a part is there.
        widths = [width for pair in reversed(pads) for width in pair]
        there = F.pad(x.new_ones(1, 1, *x.shape[2:]), widths)
        share = F.avg_pool3d(there, size, strides)
        return F.avg_pool3d(F.pad(x, widths), size, strides) / share
    uneven = [left != right for left, right in pads]
    first = [u and s == 1 for u, s in zip(uneven, strides, strict=True)]
    padding = [pair[1] if f else pair[0] for pair, f in zip(pads, first, strict=True)]
    options: dict[str, Any] = {"count_include_pad": False} if average else {}
    pool = (_AVERAGES if average else _MAXIMA)[n_axes]
    out = pool(x, size, strides, padding, ceil_mode=any(uneven), **options)
    for axis, n in enumerate(first, start=2):
        out = out.narrow(axis, 1, out.shape[axis] - 1) if n else out
    return out


@builds(
    "MaxPooling1D", "MaxPooling2D", "MaxPooling3D", "MaxPool1D", "MaxPool2D", "MaxPool3D",
    "AveragePooling1D", "AveragePooling2D", "AveragePooling3D", "AvgPool1D", "AvgPool2D",
    "AvgPool3D",
)  # fmt: skip
def _build_pooling(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    n, average = int(layer.kind[-2]), layer.kind.startswith("A")
    layout = take_layout(layer)
    split_shape(layer, shapes[0], layout, n)
    size = layer.take_sizes("pool_size", n, 2)
    unset = layer.take("strides", None) is None
    strides = size if unset else layer.take_sizes("strides", n)
    if layer.take_choice("padding", ("valid", "same"), "valid") == "same":
        function = Function(pool_same, size=size, strides=strides, average=average)
        return Blueprint([Part(function, layout)])
    return Blueprint([Part((_AVERAGE if average else _MAXIMUM)[n](size, strides), layout)])


def global_average(x: Tensor, axes: Shape, keepdim: bool) -> Tensor:
    """Return the mean over the spatial axes."""
    return x.mean(dim=axes, keepdim=keepdim)


def average_of_steps(x: Tensor, mask: Tensor, keepdim: bool) -> Tensor:
    """Return the mean over the steps that are not masked."""
    there = mask.to(x.dtype).unsqueeze(-1)
    return (x * there).sum(1, keepdim=keepdim) / there.sum(1, keepdim=keepdim)


def global_maximum(x: Tensor, axes: Shape, keepdim: bool) -> Tensor:
    """Return the largest value over the spatial axes."""
    return x.amax(dim=axes, keepdim=keepdim)


@builds(
    *(f"Global{what}{n}D" for what in ("AveragePooling", "MaxPooling", "AvgPool", "MaxPool")
      for n in (1, 2, 3))
)  # fmt: skip
def _build_global_pooling(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    n, average = int(layer.kind[-2]), layer.kind.startswith("GlobalA")
    moved = take_layout(layer) == "moved"
    split_shape(layer, shapes[0], "moved" if moved else "keras", n)
    axes = tuple(range(1, n + 1)) if moved else tuple(range(2, n + 2))
    keepdim = layer.take_flag("keepdims", False)
    function = global_average if average else global_maximum
    if n == 1 and average and layer.masked:
        if not moved:
            layer.refuse("its input has masked steps, and its channels are first.")
        return applies(average_of_steps, "keras", "use", keepdim=keepdim)
    masks = "use" if n == 1 and average else "drop"
    return applies(function, "keras", masks, axes=axes, keepdim=keepdim)


@builds("UpSampling1D", "UpSampling2D", "UpSampling3D")
def _build_upsampling(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    n = int(layer.kind[-2])
    layout = take_layout(layer) if n > 1 else "moved"
    split_shape(layer, shapes[0], layout, n)
    factors = tuple(float(f) for f in layer.take_sizes("size", n, 2))
    modes = ("nearest", "bilinear") if n == 2 else ("nearest",)
    mode = layer.take_choice("interpolation", modes, "nearest")
    options = {"align_corners": False} if mode == "bilinear" else {}
    return Blueprint([Part(nn.Upsample(scale_factor=factors, mode=mode, **options), layout)])
