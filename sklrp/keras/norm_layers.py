"""Builders of Keras's normalisations, and of layers that rescale their input.

`.assembly` finds them in the table of `.blueprints`. A batch normalisation becomes torch's, so
that the engine folds it into its neighbour.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sklrp.keras.blueprints import Arrays, Blueprint, Part, Shape, Variable, applies, builds
from sklrp.keras.layer_config import LayerConfig

_BATCH_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def _take_axes(layer: LayerConfig, shape: Shape) -> tuple[int, ...]:
    """Return the axes of a normalisation, counted from the axis of the samples, in order."""
    axes = layer.take_ints("axis", -1)
    n = len(shape)
    if not all(-n <= axis < n and axis % n for axis in axes):
        layer.malformed(f"axis={list(axes)} for inputs of {n} axes.")
    return tuple(sorted(axis % n for axis in axes))


class OnAxis(nn.Module):
    """A layer of channels, applied to another axis of its input.

    Parameters
    ----------
    layer : nn.Module
        The layer, which takes the axis behind that of the samples.
    axis : int
        The axis that it is applied to.
    """

    def __init__(self, layer: nn.Module, axis: int) -> None:
        super().__init__()
        self.layer = layer
        self.axis = axis

    def forward(self, x: Tensor) -> Any:
        return self.layer(x.movedim(self.axis, 1)).movedim(1, self.axis)


@builds("BatchNormalization", "SyncBatchNormalization", "BatchNormalizationV1",
        "BatchNormalizationV2")  # fmt: skip
def _build_batch_norm(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    shape, axes = shapes[0], _take_axes(layer, shapes[0])
    epsilon = layer.take_number("epsilon", 1e-3)
    center, scale = layer.take_flag("center", True), layer.take_flag("scale", True)
    layer.ignore("momentum", "renorm_momentum", "synchronized")
    if len(axes) != 1 or len(shape) not in _BATCH_NORMS:
        layer.refuse(f"axis={list(axes)} of inputs of {len(shape)} axes; one axis is read.")
    n = shape[axes[0]]
    module: nn.Module = _BATCH_NORMS[len(shape)](n, epsilon)
    layout, path = "moved", ""
    if axes[0] == 1:
        layout = "keras"
    elif axes[0] != len(shape) - 1:
        layout, path, module = "keras", "layer.", OnAxis(module, axes[0])
    gamma, beta = Variable("gamma", (n,)), Variable("beta", (n,))
    mean = Variable("moving_mean", (n,), trainable=False)
    variance = Variable("moving_variance", (n,), trainable=False)
    own = [*[gamma] * scale, *[beta] * center, mean, variance]

    def fill() -> dict[str, np.ndarray]:
        values = {
            "weight": gamma.value if scale else np.ones(n),
            "bias": beta.value if center else np.zeros(n),
            "running_mean": mean.value,
            "running_var": variance.value,
            "num_batches_tracked": np.zeros((), np.int64),
        }
        return {path + name: value for name, value in values.items()}

    return Blueprint([Part(module, layout)], Arrays(own), fill, "keep")


@builds("LayerNormalization")
def _build_layer_norm(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    shape, axes = shapes[0], _take_axes(layer, shapes[0])
    epsilon = layer.take_number("epsilon", 1e-3)
    center, scale = layer.take_flag("center", True), layer.take_flag("scale", True)
    layer.take_choice("rms_scaling", (False,), False)
    if axes != tuple(range(len(shape) - len(axes), len(shape))):
        layer.refuse(f"axis={list(axes)} of inputs of {len(shape)} axes; the last ones are read.")
    own_shape = shape[axes[0] :]
    gamma, beta = Variable("gamma", own_shape), Variable("beta", own_shape)

    def fill() -> dict[str, np.ndarray]:
        values = {"weight": gamma.value if scale else np.ones(own_shape)}
        return {**values, "bias": beta.value} if center else values

    module = nn.LayerNorm(own_shape, epsilon, bias=center)
    own = [*[gamma] * scale, *[beta] * center]
    return Blueprint([Part(module)], Arrays(own), fill, "keep")


@builds("GroupNormalization")
def _build_group_norm(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    shape, axes = shapes[0], _take_axes(layer, shapes[0])
    epsilon = layer.take_number("epsilon", 1e-3)
    center, scale = layer.take_flag("center", True), layer.take_flag("scale", True)
    if len(axes) != 1 or axes[0] not in (1, len(shape) - 1):
        layer.refuse(f"axis={list(axes)}; the first or the last axis of the samples is read.")
    n = shape[axes[0]]
    (groups,) = layer.take_ints("groups", 32)
    groups = n if groups == -1 else groups
    if groups < 1 or n % groups:
        layer.malformed(f"groups={groups} of {n} channels.")
    gamma, beta = Variable("gamma", (n,)), Variable("beta", (n,))

    def fill() -> dict[str, np.ndarray]:
        return {
            "weight": gamma.value if scale else np.ones(n),
            "bias": beta.value if center else np.zeros(n),
        }

    layout = "keras" if axes[0] == 1 else "moved"
    own = [*[gamma] * scale, *[beta] * center]
    return Blueprint([Part(nn.GroupNorm(groups, n, epsilon), layout)], Arrays(own), fill, "keep")


@builds("RMSNormalization")
def _build_rms_norm(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    axes = _take_axes(layer, shapes[0])
    epsilon = layer.take_number("epsilon", 1e-6)
    n = shapes[0][-1]
    if axes != (len(shapes[0]) - 1,):
        layer.refuse(f"axis={list(axes)}; the last axis is read.")
    if not hasattr(nn, "RMSNorm"):
        layer.refuse("it needs torch 2.4 or later.")
    scale = Variable("scale", (n,))
    part = Part(nn.RMSNorm(n, epsilon))
    # Keras's own forgets the mask, as no other normalisation does.
    return Blueprint([part], Arrays([scale]), lambda: {"weight": scale.value}, "drop")


def rescale(x: Tensor, scale: Any, offset: Any) -> Tensor:
    """Return x * scale + offset; numbers, or one of each channel."""
    scale, offset = (
        torch.tensor(v, dtype=x.dtype, device=x.device) if isinstance(v, tuple) else v
        for v in (scale, offset)
    )
    return x * scale + offset


@builds("Rescaling")
def _build_rescaling(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    def take(name: str, default: float) -> Any:
        value = layer.take(name, default)
        if isinstance(value, list) and all(type(v) in (int, float) for v in value):
            return tuple(map(float, value))
        return layer.take_number(name, default)

    return applies(rescale, "keras", "keep", scale=take("scale", 1.0), offset=take("offset", 0.0))


class Standardise(nn.Module):
    """Subtract a mean and divide by a standard deviation, those of the training data.

    Parameters
    ----------
    shape : tuple of int
        The shape of both, which broadcasts against the samples.
    invert : bool
        Whether to undo it: multiply, then add.
    """

    def __init__(self, shape: Shape, invert: bool) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.invert = invert
        self.register_buffer("mean", torch.empty(shape))
        self.register_buffer("std", torch.empty(shape))

    def forward(self, x: Tensor) -> Tensor:
        if self.invert:
            return x * self.std + self.mean
        return (x - self.mean) / self.std


@builds("Normalization")
def _build_normalization(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    shape = shapes[0]
    no_axis = layer.take("axis", -1) is None or layer.take("axis", -1) == []
    axes = () if no_axis else _take_axes(layer, shape)
    invert = layer.take_flag("invert", False)
    own_shape = tuple(shape[axis] for axis in axes)
    broadcast = tuple(n if axis in axes else 1 for axis, n in enumerate(shape))
    given = [layer.take(name, None) for name in ("mean", "variance")]
    module = Standardise(broadcast, invert)
    if given[0] is not None and given[1] is not None:
        mean, variance = (_as_constant(layer, v, own_shape, broadcast) for v in given)
        fill = partial(_standard, mean, variance)
        return Blueprint([Part(module)], Arrays(), fill, "keep")
    first, second = Variable("mean", own_shape, False), Variable("variance", own_shape, False)
    count = Variable("count", (), False)

    def fill_adapted() -> dict[str, np.ndarray]:
        return _standard(first.value.reshape(broadcast), second.value.reshape(broadcast))

    return Blueprint([Part(module)], Arrays([first, second, count]), fill_adapted, "keep")


def _as_constant(layer: LayerConfig, value: Any, own: Shape, broadcast: Shape) -> np.ndarray:
    """Return a mean or a variance that stands in the config, in the shape of the samples."""
    if isinstance(value, dict) and isinstance(value.get("config"), dict):
        value = value["config"].get("value")
    try:
        return np.broadcast_to(np.asarray(value, np.float64), own).reshape(broadcast)
    except (TypeError, ValueError):
        layer.malformed(f"mean or variance {value!r} for values of shape {own}.")


def _standard(mean: np.ndarray, variance: np.ndarray) -> dict[str, np.ndarray]:
    """Return the buffers of ``Standardise``; a variance of 0 is Keras's smallest number."""
    return {"mean": mean, "std": np.maximum(np.sqrt(variance), 1e-7)}
