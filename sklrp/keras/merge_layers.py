"""Builders of Keras's layers that join several inputs.

`.assembly` finds them in the table of `.blueprints`. Inputs of unequal numbers of axes are joined
as Keras does: axes are added behind that of the samples.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor

from sklrp.keras.blueprints import Blueprint, Shape, applies, builds
from sklrp.keras.layer_config import LayerConfig


def _same_axes(inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Return inputs with equally many axes."""
    n = max(x.dim() for x in inputs)
    return [x.reshape(len(x), *(1,) * (n - x.dim()), *x.shape[1:]) if x.dim() < n else x
            for x in inputs]  # fmt: skip


def add(*inputs: Tensor) -> Tensor:
    """Return the sum."""
    return reduce(torch.add, _same_axes(inputs))


def subtract(one: Tensor, other: Tensor) -> Tensor:
    """Return the difference."""
    one, other = _same_axes((one, other))
    return one - other


def multiply(*inputs: Tensor) -> Tensor:
    """Return the product."""
    return reduce(torch.mul, _same_axes(inputs))


def average(*inputs: Tensor) -> Tensor:
    """Return the mean of the inputs."""
    return add(*inputs) / len(inputs)


def maximum(*inputs: Tensor) -> Tensor:
    """Return the largest input, value by value."""
    return reduce(torch.maximum, _same_axes(inputs))


def minimum(*inputs: Tensor) -> Tensor:
    """Return the smallest input, value by value."""
    return reduce(torch.minimum, _same_axes(inputs))


_MERGES: dict[str, Any] = {
    "Add": add,
    "Subtract": subtract,
    "Multiply": multiply,
    "Average": average,
    "Maximum": maximum,
    "Minimum": minimum,
}


@builds(*_MERGES)
def _build_merge(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    if layer.kind == "Subtract" and len(shapes) != 2:
        layer.malformed(f"it has {len(shapes)} inputs.")
    # Values meet place by place, in either layout, unless axes are added.
    level = len({len(shape) for shape in shapes}) == 1
    return applies(_MERGES[layer.kind], "any" if level else "keras", "refuse")


def concatenate(*inputs: Tensor, axis: int) -> Tensor:
    """Join the inputs along an axis."""
    return torch.cat(inputs, axis)


@builds("Concatenate")
def _build_concatenate(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    (axis,) = layer.take_ints("axis", -1)
    n = len(shapes[0])
    if not -n <= axis < n or axis % n == 0:
        layer.malformed(f"axis={axis} for inputs of {n} axes.")
    if axis % n == n - 1 and n > 2:  # channels, which may be first
        return applies(concatenate, "moved", "refuse", axis=1)
    return applies(concatenate, "keras", "refuse", axis=axis % n)


def dot_product(one: Tensor, other: Tensor, axes: tuple[int, int]) -> Tensor:
    """Sum the products along an axis of each; the other axes of both stand behind one another."""
    rows = one.movedim(axes[0], -1)
    columns = other.movedim(axes[1], 1)
    left, right = rows.shape[1:-1], columns.shape[2:]
    product = rows.flatten(1, -2) if one.dim() > 2 else rows.unsqueeze(1)
    product = product @ columns.reshape(len(other), columns.shape[1], -1)
    return product.reshape(len(one), *left, *right) if left or right else product.flatten(1)


@builds("Dot")
def _build_dot(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    layer.take_choice("normalize", (False,), False)
    axes = layer.take_ints("axes")
    axes = axes * 2 if len(axes) == 1 else axes
    good = len(shapes) == len(axes) == 2
    if not good or not all(
        -len(s) <= a < len(s) and a % len(s) for a, s in zip(axes, shapes, strict=False)
    ):
        layer.malformed(f"axes={list(axes)} for inputs of shapes {shapes}.")
    own = tuple(a % len(s) for a, s in zip(axes, shapes, strict=True))
    return applies(dot_product, "keras", "refuse", axes=own)
