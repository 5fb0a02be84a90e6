"""Builders of Keras's dense layers and embeddings.

`.assembly` finds them in the table of `.blueprints`.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from sklrp.keras.activation_layers import activation_parts
from sklrp.keras.blueprints import Arrays, Blueprint, Function, Part, Shape, Variable, builds
from sklrp.keras.layer_config import LayerConfig


@builds("Dense")
def _build_dense(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    """A linear map of the last axis: Keras's kernel is the transposed weight."""
    units, has_bias = layer.take_size("units"), layer.take_flag("use_bias", True)
    n_in = shapes[0][-1]
    kernel, bias = Variable("kernel", (n_in, units)), Variable("bias", (units,))

    def fill() -> dict[str, np.ndarray]:
        return {"weight": kernel.value.T, **({"bias": bias.value} if has_bias else {})}

    parts = [Part(nn.Linear(n_in, units, has_bias)), *activation_parts(layer, shapes[0])]
    return Blueprint(parts, Arrays([kernel, bias] if has_bias else [kernel]), fill, "keep")


def as_integers(tokens: Tensor) -> Tensor:
    """Return tokens as the integers that they stand for."""
    return tokens.long() if tokens.is_floating_point() else tokens


def is_token(tokens: Tensor) -> Tensor:
    """Return which steps hold a token: 0 is none."""
    return tokens != 0


@builds("Embedding")
def _build_embedding(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    size = layer.take_size("input_dim"), layer.take_size("output_dim")
    mask = Function(is_token) if layer.take_flag("mask_zero", False) else None
    layer.ignore("input_length")
    table = Variable("embeddings", size)
    part = Part(nn.Embedding(*size), before=as_integers)
    return Blueprint([part], Arrays([table]), lambda: {"weight": table.value}, mask=mask)


def is_there(x: Tensor, value: float) -> Tensor:
    """Return which steps are not masked: those with another value than that."""
    return (x != value).any(-1)


def mask_steps(x: Tensor, value: float) -> Tensor:
    """Return zeros in place of masked steps."""
    return x * (x != value).any(-1, keepdim=True)


@builds("Masking")
def _build_masking(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    value = layer.take_number("mask_value", 0.0)
    part = Part(Function(mask_steps, value=value))
    return Blueprint([part], mask=Function(is_there, value=value))
