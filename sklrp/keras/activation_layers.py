"""Builders of Keras's activations: layers, and the functions that other layers name.

`.assembly` finds the builders in the table of `.blueprints`; layers with an ``activation`` take it
from :func:`activation_parts`, recurrent ones from :func:`find_activation`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sklrp._checks import suggest
from sklrp.keras.blueprints import Arrays, Blueprint, Function, Part, Shape, Variable, builds
from sklrp.keras.layer_config import LayerConfig, read_layer


def keras2_hard_sigmoid(x: Tensor) -> Tensor:
    """Return clip(0.2 x + 0.5, 0, 1), which Keras 2 calls so; Keras 3 takes relu6(x + 3) / 6."""
    return F.hardsigmoid(x * 1.2)


def exponential(x: Tensor) -> Tensor:
    """Return the exponential of each value."""
    return torch.exp(x)


def squareplus(x: Tensor, b: float = 4.0) -> Tensor:
    """Return (x + sqrt(x² + b)) / 2."""
    return (x + torch.sqrt(x * x + b)) / 2


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "celu": nn.CELU,
    "elu": nn.ELU,
    "exponential": partial(Function, exponential),
    "gelu": nn.GELU,
    "hard_shrink": nn.Hardshrink,
    "hard_sigmoid": nn.Hardsigmoid,
    "hard_silu": nn.Hardswish,
    "hard_swish": nn.Hardswish,
    "hard_tanh": nn.Hardtanh,
    "leaky_relu": partial(nn.LeakyReLU, 0.2),
    "log_sigmoid": nn.LogSigmoid,
    "log_softmax": partial(nn.LogSoftmax, -1),
    "mish": nn.Mish,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "soft_shrink": nn.Softshrink,
    "softmax": partial(nn.Softmax, -1),
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "squareplus": partial(Function, squareplus),
    "swish": nn.SiLU,
    "tanh": nn.Tanh,
    "tanh_shrink": nn.Tanhshrink,
}
_OF_KERAS_2: dict[str, Callable[[], nn.Module]] = {
    "hard_sigmoid": partial(Function, keras2_hard_sigmoid),
}
_ON_LAST_AXIS = ("softmax", "log_softmax")


def name_activation(layer: LayerConfig, option: str = "activation", default: Any = None) -> Any:
    """Return the name of an activation, None for none, a config for a layer in its place."""
    value = layer.take(option, default)
    if isinstance(value, Mapping) and value.get("class_name") == "function":
        value = value.get("config")  # a function by its name, as Keras 3 writes it
    if value is None or value == "linear":
        return None
    if isinstance(value, Mapping):
        return value
    if not isinstance(value, str) or value not in _ACTIVATIONS:
        hint = suggest(value, _ACTIVATIONS) if isinstance(value, str) else ""
        layer.refuse(f"{option}={value!r} is not one of {sorted(_ACTIVATIONS)}.{hint}")
    return value


def make_activation(name: str, version: int) -> nn.Module:
    """Return the module of an activation that Keras knows by name."""
    if version < 3 and name in _OF_KERAS_2:
        return _OF_KERAS_2[name]()
    return _ACTIVATIONS[name]()


def activation_parts(layer: LayerConfig, shape: Shape, default: Any = None) -> list[Part]:
    """Return the parts of a layer's ``activation``: none, or one behind it."""
    named = name_activation(layer, default=default)
    if named is None:
        return []
    if isinstance(named, Mapping):  # a layer in place of a function
        inner = read_layer(named, layer.version, f"activation of {layer}")
        blueprint = _LAYERS[inner.kind](inner, [shape]) if inner.kind in _LAYERS else None
        if blueprint is None or blueprint.arrays.own:
            layer.refuse(f"its activation is {inner}; only activations without weights are read.")
        inner.finish()
        suffix = f"_{inner.kind.lower()}"
        return [part._replace(suffix=suffix) for part in blueprint.parts]
    # A softmax or a sigmoid ends networks: no change of the layout may stand behind it.
    last = named in (*_ON_LAST_AXIS, "sigmoid")
    module = make_activation(named, layer.version)
    return [Part(module, "keras" if last else "any", f"_{named}")]


_LAYERS: dict[str, Callable[[LayerConfig, list[Shape]], Blueprint]] = {}


def _activation_layer(*kinds: str) -> Callable[[Any], Any]:
    """Register a builder of a layer that may also stand as another's activation."""

    def decorate(builder: Any) -> Any:
        _LAYERS.update(dict.fromkeys(kinds, builder))
        return builds(*kinds)(builder)

    return decorate


@builds("Activation")
def _build_activation(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    parts = activation_parts(layer, shapes[0])
    if not parts:
        return Blueprint([Part(nn.Identity(), "any")], masks="keep")
    return Blueprint([part._replace(suffix="") for part in parts], masks="keep")


@_activation_layer("ReLU")
def _build_relu(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    defaults = {"max_value": math.inf, "negative_slope": 0.0, "threshold": 0.0}
    top, slope, threshold = (
        default if layer.take(name, None) is None else layer.take_number(name)
        for name, default in defaults.items()
    )
    if top == math.inf and threshold == 0:
        module: nn.Module = nn.LeakyReLU(slope) if slope else nn.ReLU()
    elif top == math.inf and slope == 0:
        module = nn.Threshold(threshold, 0.0)
    elif threshold == 0 and slope == 0:
        module = nn.Hardtanh(0.0, top)
    else:
        layer.refuse(
            f"max_value={top}, negative_slope={slope} and threshold={threshold} are read one at "
            "a time, not together."
        )
    return Blueprint([Part(module, "any")], masks="keep")


@_activation_layer("LeakyReLU")
def _build_leaky_relu(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    name = "alpha" if "alpha" in layer.options else "negative_slope"  # Keras 2, and 3
    return Blueprint([Part(nn.LeakyReLU(layer.take_number(name, 0.3)), "any")], masks="keep")


@_activation_layer("ELU")
def _build_elu(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    return Blueprint([Part(nn.ELU(layer.take_number("alpha", 1.0)), "any")], masks="keep")


@_activation_layer("ThresholdedReLU")
def _build_thresholded_relu(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    return Blueprint(
        [Part(nn.Threshold(layer.take_number("theta", 1.0), 0.0), "any")], masks="keep"
    )


@_activation_layer("Softmax")
def _build_softmax(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    axes = layer.take_ints("axis", -1)
    if len(axes) != 1:
        layer.refuse(f"axis={list(axes)}; a softmax over one axis is read.")
    return Blueprint([Part(nn.Softmax(axes[0]), "keras")], masks="refuse")


class SlopePerValue(nn.Module):
    """A PReLU with a slope for each value, or for some axes of the samples.

    Parameters
    ----------
    shape : tuple of int
        The shape of the slopes, 1 where an axis shares them.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))

    def reset_parameters(self) -> None:
        """Set all slopes to zero, as Keras does before training."""
        nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, x * self.weight)


@builds("PReLU")
def _build_prelu(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    shared = layer.take("shared_axes", None)
    shape = list(shapes[0][1:])
    for axis in () if shared is None else layer.take_ints("shared_axes"):
        if not 0 < axis <= len(shape):
            layer.malformed(f"shared_axes={shared!r} for samples of {len(shape)} axes.")
        shape[axis - 1] = 1
    alpha = Variable("alpha", tuple(shape))
    of_channels = all(n == 1 for n in shape[:-1])
    if of_channels:
        part = Part(nn.PReLU(shape[-1]), "moved")
    else:
        part = Part(SlopePerValue(tuple(shape)), "keras")

    def fill() -> dict[str, np.ndarray]:
        return {"weight": alpha.value.reshape(-1) if of_channels else alpha.value}

    return Blueprint([part], Arrays([alpha]), fill, "keep")
