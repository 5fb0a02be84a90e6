"""Builders of Keras's layers that move, cut, pad, copy or pass values, and of noise.

`.assembly` finds them in the table of `.blueprints`. Values are in the order of Keras's samples,
channels last: a flattened field is not in the order of torch's.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from sklrp.keras.blueprints import Blueprint, Part, Shape, applies, builds
from sklrp.keras.conv_layers import split_shape, take_layout
from sklrp.keras.layer_config import LayerConfig


@builds(
    "ActivityRegularization", "AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise",
    "Identity", "RandomBrightness", "RandomContrast", "RandomFlip", "RandomRotation",
    "RandomTranslation", "RandomZoom", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D",
)  # fmt: skip
def _build_identity(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    """Noise and changes of the training, which do nothing afterwards."""
    layer.ignore(*layer.options)
    return Blueprint([Part(nn.Identity(), "any")], masks="keep")


def as_vectors(x: Tensor) -> Tensor:
    """Return each sample as a vector."""
    return x.flatten(1) if x.dim() > 1 else x.unsqueeze(1)


def as_vectors_channels_last(x: Tensor) -> Tensor:
    """Return each sample as a vector, its channels last, as Keras does in either format."""
    return x.movedim(1, -1).flatten(1)


@builds("Flatten")
def _build_flatten(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    first = take_layout(layer) == "keras" and len(shapes[0]) > 2
    return applies(as_vectors_channels_last if first else as_vectors)


def reshape_samples(x: Tensor, shape: Shape) -> Tensor:
    """Give each sample a shape."""
    return x.reshape(len(x), *shape)


@builds("Reshape")
def _build_reshape(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    given = layer.take("target_shape")
    shape = tuple(-1 if n is None else n for n in given) if isinstance(given, list) else None
    if shape is None or not all(type(n) is int and (n > 0 or n == -1) for n in shape):
        layer.malformed(f"target_shape={given!r}.")
    return applies(reshape_samples, shape=shape)


def permute(x: Tensor, dims: Shape) -> Tensor:
    """Reorder the axes, that of the samples too."""
    return x.permute(dims)


@builds("Permute")
def _build_permute(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    dims = layer.take_ints("dims")
    if sorted(dims) != list(range(1, len(shapes[0]))):
        layer.malformed(f"dims={list(dims)} for samples of {len(shapes[0]) - 1} axes.")
    return applies(permute, dims=(0, *dims))


def repeat_vector(x: Tensor, n: int) -> Tensor:
    """Repeat vectors along a new axis of steps."""
    return x.unsqueeze(1).repeat(1, n, 1)


@builds("RepeatVector")
def _build_repeat_vector(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    return applies(repeat_vector, n=layer.take_size("n"))


def _take_pairs(layer: LayerConfig, name: str, n: int) -> list[tuple[int, int]]:
    """Return what is added or cut before and behind each of ``n`` axes."""
    given = layer.take(name)
    values = given if isinstance(given, list | tuple) else [given] * n
    if n == 1 and len(values) == 2 and all(type(v) is int for v in values):
        values = [values]  # of one axis: before and behind
    pairs: list[Any] = [list(v) if isinstance(v, list | tuple) else [v, v] for v in values]
    good = all(len(p) == 2 and all(type(v) is int and 0 <= v < 2**31 for v in p) for p in pairs)
    if len(pairs) != n or not good:
        layer.malformed(f"{name}={given!r} for {n} axes.")
    return [(before, behind) for before, behind in pairs]


def pad_zeros(x: Tensor, pads: tuple[int, ...]) -> Tensor:
    """Pad an input, channels first, with zeros; the last axis first, as torch has it."""
    return F.pad(x, pads)


@builds("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D")
def _build_zero_padding(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    n = int(layer.kind[-2])
    layout = take_layout(layer)
    split_shape(layer, shapes[0], layout, n)
    pairs = _take_pairs(layer, "padding", n)
    pads = tuple(v for pair in reversed(pairs) for v in pair)
    return applies(pad_zeros, layout, pads=pads)


def crop(x: Tensor, pairs: tuple[tuple[int, int], ...]) -> Tensor:
    """Cut cells off both ends of each axis of an input, channels first."""
    for axis, (before, behind) in enumerate(pairs, start=2):
        x = x.narrow(axis, before, x.shape[axis] - before - behind)
    return x


@builds("Cropping1D", "Cropping2D", "Cropping3D")
def _build_cropping(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    n = int(layer.kind[-2])
    layout = take_layout(layer)
    split_shape(layer, shapes[0], layout, n)
    return applies(crop, layout, pairs=tuple(_take_pairs(layer, "cropping", n)))
