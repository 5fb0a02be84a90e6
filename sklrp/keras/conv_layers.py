"""Builders of Keras's convolutions: plain, causal, depthwise, separable and transposed.

`.assembly` finds them in the table of `.blueprints`. Padding ``"same"`` is TensorFlow's: of an odd
number of cells the end gets one more, and how many there are depends on the size of the input,
which is known when the network runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from sklrp.keras.activation_layers import activation_parts
from sklrp.keras.blueprints import (
    Arrays,
    Blueprint,
    Function,
    Part,
    Shape,
    Variable,
    builds,
)
from sklrp.keras.layer_config import REQUIRED, LayerConfig

CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def take_layout(layer: LayerConfig) -> str:
    """Return how a layer with channels takes its inputs, by its ``data_format``."""
    formats = ("channels_last", "channels_first")
    given = layer.take_choice("data_format", (*formats, None), "channels_last")
    return "keras" if given == "channels_first" else "moved"


def split_shape(layer: LayerConfig, shape: Shape, layout: str, n: int) -> tuple[int, Shape]:
    """Return the number of channels and the size of an input with ``n`` spatial axes."""
    if len(shape) != n + 2:
        layer.malformed(f"its input has the shape {shape}, with {n + 2} axes expected.")
    return (shape[-1], shape[1:-1]) if layout == "moved" else (shape[1], shape[2:])


def same_pads(
    size: Sequence[int], kernel: Shape, strides: Shape, dilation: Shape
) -> list[tuple[int, int]]:
    """Return the cells that ``padding="same"`` puts before and behind each axis."""
    pads = []
    for n, k, s, d in zip(size, kernel, strides, dilation, strict=True):
        total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        pads.append((total // 2, total - total // 2))
    return pads


def pad_same(x: Tensor, kernel: Shape, strides: Shape, dilation: Shape) -> Tensor:
    """Pad an input, channels first, as ``padding="same"`` asks for its size."""
    pads = same_pads(x.shape[2:], kernel, strides, dilation)
    flat = [p for pair in reversed(pads) for p in pair]
    return F.pad(x, flat) if any(flat) else x


def pad_before(x: Tensor, n: int) -> Tensor:
    """Pad the start of sequences, channels first."""
    return F.pad(x, [n, 0])


def take_padding(
    layer: LayerConfig, kernel: Shape, strides: Shape, dilation: Shape
) -> tuple[Any, Any]:
    """Return the padding of torch's convolution, and what pads before where it cannot."""
    kinds = ("valid", "same", "causal") if len(kernel) == 1 else ("valid", "same")
    padding = layer.take_choice("padding", kinds, "valid")
    none = (0,) * len(kernel)
    if padding == "causal":
        n_before = dilation[0] * (kernel[0] - 1)
        return none, partial(pad_before, n=n_before) if n_before else None
    if padding == "valid":
        return none, None
    totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if all(s == 1 for s in strides) and not any(total % 2 for total in totals):
        return tuple(total // 2 for total in totals), None
    return none, partial(pad_same, kernel=kernel, strides=strides, dilation=dilation)


def kernel_of_torch(kernel: np.ndarray) -> np.ndarray:
    """Return a kernel (..., inputs, outputs) as torch has it, (outputs, inputs, ...)."""
    return np.moveaxis(kernel, (-1, -2), (0, 1))


def _each_channel(kernel: np.ndarray) -> np.ndarray:
    """Return a depthwise kernel (..., inputs, multiplier) as (inputs * multiplier, 1, ...)."""
    return np.moveaxis(kernel.reshape(*kernel.shape[:-2], 1, -1), (-1, -2), (0, 1))


class Geometry(NamedTuple):
    """What all convolutions have in their config."""

    layout: str
    n_in: int
    kernel: Shape
    strides: Shape
    dilation: Shape
    has_bias: bool


def take_geometry(layer: LayerConfig, shape: Shape, n: int) -> Geometry:
    """Return what all convolutions have, of a layer with n spatial axes."""
    layout = take_layout(layer)
    n_in, _ = split_shape(layer, shape, layout, n)
    sizes = (("kernel_size", REQUIRED), ("strides", 1), ("dilation_rate", 1))
    kernel, strides, dilation = (layer.take_sizes(name, n, default) for name, default in sizes)
    return Geometry(layout, n_in, kernel, strides, dilation, layer.take_flag("use_bias", True))


def _conv_of(
    layer: LayerConfig, shape: Shape, geometry: Geometry, module: nn.Module, before: Any,
    weights: Mapping[str, tuple[Variable, Callable[[np.ndarray], np.ndarray]]], n_out: int,
) -> Blueprint:  # fmt: skip
    """Return the blueprint of a convolution: its weights by torch's names, and its activation."""
    bias = Variable("bias", (n_out,))
    own = [variable for variable, _ in weights.values()]
    bias_name = list(weights)[-1].replace("weight", "bias")

    def fill() -> dict[str, np.ndarray]:
        values = {name: turn(variable.value) for name, (variable, turn) in weights.items()}
        return {**values, bias_name: bias.value} if geometry.has_bias else values

    parts = [Part(module, geometry.layout, before=before), *activation_parts(layer, shape)]
    return Blueprint(parts, Arrays([*own, *[bias] * geometry.has_bias]), fill)


@builds("Conv1D", "Conv2D", "Conv3D", "Convolution1D", "Convolution2D", "Convolution3D")
def _build_conv(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    n = int(layer.kind[-2])
    g = take_geometry(layer, shapes[0], n)
    padding, before = take_padding(layer, g.kernel, g.strides, g.dilation)
    filters, groups = layer.take_size("filters"), layer.take_size("groups", 1)
    if g.n_in % groups or filters % groups:
        layer.malformed(f"groups={groups} does not divide {g.n_in} inputs and {filters} filters.")
    weight = Variable("kernel", (*g.kernel, g.n_in // groups, filters))
    module = CONVOLUTIONS[n](
        g.n_in, filters, g.kernel, g.strides, padding, g.dilation, groups, g.has_bias
    )  # fmt: skip
    weights = {"weight": (weight, kernel_of_torch)}
    return _conv_of(layer, shapes[0], g, module, before, weights, filters)


@builds("DepthwiseConv1D", "DepthwiseConv2D")
def _build_depthwise_conv(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    n = int(layer.kind[-2])
    g = take_geometry(layer, shapes[0], n)
    padding, before = take_padding(layer, g.kernel, g.strides, g.dilation)
    times = layer.take_size("depth_multiplier", 1)
    layer.ignore("groups", "filters")  # of the base class, which Keras 2 writes down
    n_out = g.n_in * times
    weight = Variable("kernel", (*g.kernel, g.n_in, times))
    module = CONVOLUTIONS[n](
        g.n_in, n_out, g.kernel, g.strides, padding, g.dilation, g.n_in, g.has_bias
    )  # fmt: skip
    weights = {"weight": (weight, _each_channel)}
    return _conv_of(layer, shapes[0], g, module, before, weights, n_out)


class SeparableConv(nn.Module):
    """A convolution of each channel, then one that mixes channels at each place.

    Parameters
    ----------
    depthwise : nn.Module
        The first, over the channels apart.
    pointwise : nn.Module
        The second, with kernels of one cell.
    """

    def __init__(self, depthwise: nn.Module, pointwise: nn.Module) -> None:
        super().__init__()
        self.depthwise = depthwise
        self.pointwise = pointwise

    def forward(self, x: Tensor) -> Any:
        return self.pointwise(self.depthwise(x))


@builds("SeparableConv1D", "SeparableConv2D", "SeparableConvolution1D", "SeparableConvolution2D")
def _build_separable_conv(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    n = int(layer.kind[-2])
    g = take_geometry(layer, shapes[0], n)
    padding, before = take_padding(layer, g.kernel, g.strides, g.dilation)
    filters, times = layer.take_size("filters"), layer.take_size("depth_multiplier", 1)
    layer.ignore("groups")
    n_mid = g.n_in * times
    one = Variable("depthwise_kernel", (*g.kernel, g.n_in, times))
    other = Variable("pointwise_kernel", (*(1,) * n, n_mid, filters))
    module = SeparableConv(
        CONVOLUTIONS[n](
            g.n_in, n_mid, g.kernel, g.strides, padding, g.dilation, g.n_in, bias=False
        ),
        CONVOLUTIONS[n](n_mid, filters, 1, bias=g.has_bias),
    )
    weights = {
        "depthwise.weight": (one, _each_channel),
        "pointwise.weight": (other, kernel_of_torch),
    }
    return _conv_of(layer, shapes[0], g, module, before, weights, filters)


def cut_ends(x: Tensor, n_cells: Shape) -> Tensor:
    """Cut cells off the end of each axis of an input, channels first."""
    for axis, n in enumerate(n_cells, start=2):
        x = x.narrow(axis, 0, x.shape[axis] - n)
    return x


@builds(
    "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose",
    "Convolution1DTranspose", "Convolution2DTranspose", "Convolution3DTranspose",
)  # fmt: skip
def _build_conv_transpose(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    """The adjoint of a convolution: where that pads, this cuts, the end one cell more."""
    n = int(layer.kind[-11])
    g = take_geometry(layer, shapes[0], n)
    filters = layer.take_size("filters")
    if layer.take_size("groups", 1) != 1:
        layer.refuse("groups of a transposed convolution are not read.")
    padding, extra, ends = zip(*_take_cuts(layer, g), strict=True)
    weight = Variable("kernel", (*g.kernel, filters, g.n_in))
    module = _TRANSPOSED[n](
        g.n_in, filters, g.kernel, g.strides, padding=padding, output_padding=extra,
        bias=g.has_bias, dilation=g.dilation,
    )  # fmt: skip
    weights = {"weight": (weight, kernel_of_torch)}
    blueprint = _conv_of(layer, shapes[0], g, module, None, weights, filters)
    if any(ends):
        cut = Part(Function(cut_ends, n_cells=ends), g.layout, "_cut")
        blueprint.parts = [blueprint.parts[0], cut, *blueprint.parts[1:]]
    return blueprint


def _take_cuts(layer: LayerConfig, g: Geometry) -> Iterator[tuple[int, int, int]]:
    """Yield what is cut of both ends of each axis, what is added and what is cut at its end."""
    is_same = layer.take_choice("padding", ("valid", "same"), "valid") == "same"
    added: Sequence[int | None] = (None,) * len(g.kernel)
    if layer.take("output_padding", None) is not None:
        given = layer.take_ints("output_padding")
        added = given * len(g.kernel) if len(given) == 1 else given
        if len(added) != len(g.kernel):
            layer.malformed(f"output_padding={given} for {len(g.kernel)} axes.")
    for k, s, d, e in zip(g.kernel, g.strides, g.dilation, added, strict=True):
        if e is not None and not 0 <= e < s:
            layer.malformed(f"output_padding={e} must be below the strides, {s}.")
        reach = d * (k - 1) + 1
        if e is None:
            surplus = reach - s if is_same else min(reach - s, 0)
        else:
            surplus = reach - reach % 2 - e if is_same else -e
        yield max(surplus, 0) // 2, max(-surplus, 0), max(surplus, 0) % 2
