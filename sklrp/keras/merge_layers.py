"""Builders of Keras's layers that join several inputs.

`.assembly` finds them in the table of `.blueprints`. Inputs of unequal numbers of axes are joined
as Keras does: axes are added behind that of the samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from sklrp.keras.blueprints import Blueprint, Function, Part, Shape, applies, builds
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


def join_masks(*inputs: Tensor, n_inputs: int, every: bool) -> Tensor:
    """Return the steps of every mask behind the inputs, or of any mask."""
    return reduce(torch.logical_and if every else torch.logical_or, inputs[n_inputs:])


def multiply_where_there(*inputs: Tensor, masked: Sequence[bool]) -> Tensor:
    """Return the product: a masked step counts as 1, and is 0 where all are masked (Keras 3)."""
    masks = iter([mask.unsqueeze(-1) for mask in inputs[len(masked) :]])
    factors = [
        torch.where(next(masks), x, 1.0) if has_mask else x
        for x, has_mask in zip(inputs, masked, strict=False)
    ]
    product = reduce(torch.mul, factors)
    if not all(masked):
        return product
    there = reduce(torch.logical_or, inputs[len(masked) :]).unsqueeze(-1)
    return torch.where(there, product, 0.0)


def largest_where_there(*inputs: Tensor, masked: Sequence[bool]) -> Tensor:
    """Return the largest input of those whose step is not masked, as Keras 3 has it."""
    return _fold_where_there(torch.maximum, inputs, masked)


def smallest_where_there(*inputs: Tensor, masked: Sequence[bool]) -> Tensor:
    """Return the smallest input of those whose step is not masked, as Keras 3 has it."""
    return _fold_where_there(torch.minimum, inputs, masked)


def _fold_where_there(
    function: Callable[[Tensor, Tensor], Tensor], inputs: Sequence[Tensor], masked: Sequence[bool]
) -> Tensor:
    """Fold inputs; a masked step takes the value of what it would meet."""
    given = iter([mask.unsqueeze(-1) for mask in inputs[len(masked) :]])
    masks = [next(given) if has_mask else None for has_mask in masked]
    out, there = inputs[0], masks[0]
    for x, mask in zip(inputs[1 : len(masked)], masks[1:], strict=True):
        other = x if mask is None else torch.where(mask, x, out)
        out = function(out if there is None else torch.where(there, out, other), other)
        there = None if mask is None or there is None else there | mask
    return out


_MERGES: dict[str, Any] = {
    "Add": add,
    "Subtract": subtract,
    "Multiply": multiply,
    "Average": average,
    "Maximum": maximum,
    "Minimum": minimum,
}

# Of Keras 3, to which masked values do not count.
_WHERE_THERE: dict[str, Any] = {
    "Multiply": multiply_where_there,
    "Maximum": largest_where_there,
    "Minimum": smallest_where_there,
}


@builds(*_MERGES)
def _build_merge(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    if layer.kind == "Subtract" and len(shapes) != 2:
        layer.malformed(f"it has {len(shapes)} inputs.")
    # Values meet place by place, in either layout, unless axes are added.
    level = len({len(shape) for shape in shapes}) == 1
    function, layout = _MERGES[layer.kind], "any" if level else "keras"
    masked, joins_any = tuple(map(bool, layer.mask_axes)), layer.version >= 3
    if not any(masked):
        return applies(function, layout)
    if not level:
        layer.refuse("its inputs have masked steps, and unequal numbers of axes.")
    # Keras 2 joins the masks that are there, Keras 3 those of all inputs or none.
    has_mask = all(masked) or not joins_any
    mask = Function(join_masks, n_inputs=len(shapes), every=not joins_any) if has_mask else None
    if joins_any and layer.kind in _WHERE_THERE:
        part = Part(Function(_WHERE_THERE[layer.kind], masked=masked))
        return Blueprint([part], masks="all", mask=mask)
    return Blueprint([Part(Function(function), layout)], masks="join", mask=mask)


def concatenate(*inputs: Tensor, axis: int) -> Tensor:
    """Join the inputs along an axis."""
    return torch.cat(inputs, axis)


def concatenate_masks(*inputs: Tensor, masked: Sequence[bool], axis: int, every: bool) -> Tensor:
    """Return the mask of inputs that are joined along an axis; all steps without a mask count."""
    masks = iter(inputs[len(masked) :])
    found = [
        next(masks) if has_mask else torch.ones_like(x[..., 0], dtype=torch.bool)
        for x, has_mask in zip(inputs, masked, strict=False)
    ]
    if axis < inputs[0].dim() - 1:
        return torch.cat(found, axis)
    return reduce(torch.logical_and if every else torch.logical_or, found)


@builds("Concatenate")
def _build_concatenate(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    (axis,) = layer.take_ints("axis", -1)
    n = len(shapes[0])
    if not -n <= axis < n or axis % n == 0:
        layer.malformed(f"axis={axis} for inputs of {n} axes.")
    axis %= n
    masked = tuple(map(bool, layer.mask_axes))
    mask: nn.Module | None = None
    if any(masked):
        # Keras 2 fails where steps with a mask stand behind steps without.
        if {*layer.mask_axes} - {0, n - 1} or (
            layer.version < 3 and axis < n - 1 and not all(masked)
        ):
            layer.refuse("its inputs have masked steps, which Keras does not join.")
        mask = Function(concatenate_masks, masked=masked, axis=axis, every=layer.version < 3)
    if axis == n - 1 and n > 2:  # channels, which may be first
        part = Part(Function(concatenate, axis=1), "moved")
    else:
        part = Part(Function(concatenate, axis=axis))
    return Blueprint([part], masks="join", mask=mask)


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
    return applies(dot_product, "keras", axes=own)
