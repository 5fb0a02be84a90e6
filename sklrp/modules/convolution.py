"""The convolutional network for signals and images.

`CNNClassifier` builds its network by `make_cnn`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from numbers import Integral
from typing import Any

from torch import nn

from sklrp._checks import (
    MOST,
    as_tuple,
    check_axes,
    check_option,
    check_sizes,
)
from sklrp._constraints import constrained
from sklrp._numbers import is_real
from sklrp._sklearn import StrOptions
from sklrp._wording import say_value
from sklrp.modules.perceptron import ACTIVATIONS, dense_layers
from sklrp.modules.regularisation import input_layers

CONV_POOLINGS = ("max", "avg")
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")

_CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d}
_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}
_PAD: dict[tuple[str, int], Any] = {
    ("zeros", 1): nn.ZeroPad1d,
    ("zeros", 2): nn.ZeroPad2d,
    ("reflect", 1): nn.ReflectionPad1d,
    ("reflect", 2): nn.ReflectionPad2d,
    ("replicate", 1): nn.ReplicationPad1d,
    ("replicate", 2): nn.ReplicationPad2d,
    ("circular", 1): nn.CircularPad1d,
    ("circular", 2): nn.CircularPad2d,
}
_POOL = {
    ("max", 1): nn.MaxPool1d,
    ("max", 2): nn.MaxPool2d,
    ("avg", 1): nn.AvgPool1d,
    ("avg", 2): nn.AvgPool2d,
}


@constrained(
    {
        "batch_norm": ["boolean"],
        "pooling": [StrOptions(set(CONV_POOLINGS)), None],
        "clip": ["boolean"],
    }
)
def make_cnn(
    input_shape: tuple[int, ...],
    n_outputs: int,
    *,
    channels: Sequence[int] = (16, 32),
    kernel_size: int | Sequence[int] = 3,
    stride: int | Sequence[int] = 1,
    pool_size: int | Sequence[int] = 2,
    padding: str | int | Sequence[int] = "same",
    padding_mode: str | Sequence[str] = "zeros",
    pooling: str | None = "max",
    batch_norm: bool = False,
    hidden_layer_sizes: Sequence[int] = (64,),
    activation: str = "relu",
    bias: bool = True,
    dropout: float = 0.0,
    input_noise: float = 0.0,
    input_dropout: float = 0.0,
    clip: bool = False,
) -> nn.Sequential:
    """Build a convolutional network for signals or images.

    Parameters
    ----------
    input_shape : tuple of int
        ``(n_channels, length)`` of a signal or ``(n_channels, height, width)`` of an image.
    n_outputs : int
        Number of logits.
    channels : sequence of int, default=(16, 32)
        Output channels of each convolution.
    kernel_size, stride, pool_size : int or sequence of int
        Windows and steps along every axis of the image, or one for each axis.
    padding : {"same", "valid"}, int or sequence of int, default="same"
        Padding at each side of every axis. ``"same"`` gives outputs of ``ceil(size / stride)``;
        an even kernel is padded by one more behind than before.
    padding_mode : {"zeros", "reflect", "replicate", "circular"} or sequence, default="zeros"
        What the padding repeats, along every axis of the image, or one for each.
    pooling : {"max", "avg"} or None, default="max"
        Pooling after each convolution's activation.
    batch_norm : bool, default=False
        Whether each convolution is followed by batch normalisation.
    hidden_layer_sizes : sequence of int, default=(64,)
        Units of each dense layer between the convolutions and the logits.
    activation : str, default="relu"
        Name of the activation, a key of ``ACTIVATIONS``.
    bias : bool, default=True
        Whether the convolutions and dense layers have a bias.
    dropout : float, default=0.0
        Probability with which a unit is dropped in training, after pooling and in dense layers.
    input_noise : float, default=0.0
        Standard deviation of the noise that is added to the input in training.
    input_dropout : float, default=0.0
        Probability with which a value of the input is dropped in training.
    clip : bool, default=False
        What happens where a window is larger than the image: an error, or, for rows of features
        of any length taken as signals, clipping pooling windows to what is left of the signal
        and letting padded kernels reach beyond it.

    Returns
    -------
    torch.nn.Sequential
        Network that maps ``(n_samples, n_features)``, the flattened images, to logits
        ``(n_samples, n_outputs)``.

    Raises
    ------
    ValueError
        If a kernel or a pooling window is larger than what it is to slide over.
    """
    check_option("activation", activation, list(ACTIVATIONS))
    channels = check_sizes("channels", channels, some=True)
    n_channels, *axes = check_axes("input_shape", input_shape, (2, 3))
    size = tuple(axes)
    n_axes = len(size)
    kernel = _per_axis("kernel_size", kernel_size, n_axes)
    steps = _per_axis("stride", stride, n_axes)
    window = _per_axis("pool_size", pool_size, n_axes)
    if not clip and any(k > s for k, s in zip(kernel, size, strict=True)):
        raise ValueError(
            f"kernel_size={kernel_size!r} is larger than the image, {size}: use a kernel_size "
            f"of at most {min(size)}, or check input_shape={tuple(input_shape)}."
            f"{_say_series(n_channels, size, max(kernel))}"
        )
    sides = _sides(padding, kernel)
    modes = _modes(padding_mode, n_axes)

    layers = input_layers(input_noise, input_dropout)
    layers.append(("image", nn.Unflatten(1, tuple(input_shape))))
    for i, n_filters in enumerate(channels, start=1):
        _check_padding(padding, modes, sides, size, i)
        layers += _convolution(i, (n_channels, n_filters), kernel, steps, sides, modes, bias)
        size = _convolved_size(i, size, kernel, steps, sides, given=(kernel_size, padding))
        if batch_norm:
            layers.append((f"norm{i}", _NORM[n_axes](n_filters)))
        layers.append((f"activation{i}", ACTIVATIONS[activation]()))
        if pooling is not None:
            fitting = tuple(map(min, window, size))
            if fitting != window and not clip:
                raise ValueError(
                    f"pool_size={pool_size!r} is larger than what reaches pooling {i}, {size}: "
                    "use fewer channels, a smaller stride or pool_size, or pooling=None."
                )
            if max(fitting) > 1:
                layers.append((f"pool{i}", _POOL[pooling, n_axes](fitting)))
                size = tuple(s // w for s, w in zip(size, fitting, strict=True))
        if dropout:
            layers.append((f"dropout{i}", nn.Dropout(dropout)))
        n_channels = n_filters

    layers.append(("flatten", nn.Flatten()))
    n_units = n_channels * math.prod(size)
    layers += dense_layers(n_units, n_outputs, hidden_layer_sizes, activation, bias, dropout)
    return nn.Sequential(OrderedDict(layers))


def _say_series(n_channels: int, size: tuple[int, ...], kernel: int) -> str:
    """Say how series of several variables are given, which look like narrow images."""
    if n_channels != 1 or len(size) != 2 or kernel > max(size):
        return ""
    n_variables, n_steps = sorted(size)
    turned = "X.swapaxes(1, 2) and " if size[0] > size[1] else ""
    return (
        f" Series of {n_steps} steps and {n_variables} variables take {turned}"
        f"input_shape=({n_variables}, {n_steps})."
    )


def _convolution(
    i: int,
    n_channels: tuple[int, int],
    kernel: tuple[int, ...],
    steps: tuple[int, ...],
    sides: tuple[tuple[int, int], ...],
    modes: tuple[str, ...],
    bias: bool,
) -> list[tuple[str, nn.Module]]:
    """Return a convolution, behind layers that pad the image where it cannot do so itself."""
    # torch's convolutions pad both sides of all axes alike
    pads_itself = len(set(modes)) == 1 and all(before == behind for before, behind in sides)
    padding = tuple(before for before, _ in sides) if pads_itself else 0
    layer = _CONV[len(kernel)](
        *n_channels, kernel, stride=steps, padding=padding, padding_mode=modes[0], bias=bias
    )
    return [*([] if pads_itself else _padding_layers(i, modes, sides)), (f"conv{i}", layer)]


def _convolved_size(
    i: int,
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    steps: tuple[int, ...],
    sides: tuple[tuple[int, int], ...],
    given: tuple[Any, Any],
) -> tuple[int, ...]:
    """Return the size of what a convolution makes of an image, or raise an error if nothing."""
    padded = tuple(s + sum(p) for s, p in zip(size, sides, strict=True))
    if any(k > s for k, s in zip(kernel, padded, strict=True)):
        kernel_size, padding = given
        raise ValueError(
            f"kernel_size={kernel_size!r} is larger than what reaches convolution {i}, "
            f"{size} before padding={padding!r}: use fewer channels, a smaller "
            "kernel_size, stride or pool_size, or padding='same'."
        )
    return tuple((s - k) // step + 1 for s, k, step in zip(padded, kernel, steps, strict=True))


def _per_axis(name: str, value: Any, n_axes: int, minimum: int = 1) -> tuple[int, ...]:
    """Return one value per axis of the image."""
    values = (value,) * n_axes if isinstance(value, Integral) else as_tuple(value)
    whole = all(is_real(v, Integral) and minimum <= v < MOST for v in values)
    if len(values) != n_axes or not whole:
        raise ValueError(
            f"{name}={say_value(value)} must be one integer of at least {minimum}, or one for "
            f"each of the {n_axes} axes of the image."
        )
    return tuple(int(v) for v in values)


def _sides(padding: Any, kernel: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Return the elements that are added before and behind every axis."""
    if isinstance(padding, str) and padding == "same":
        return tuple(((k - 1) // 2, k // 2) for k in kernel)
    if isinstance(padding, str) and padding == "valid":
        padding = 0
    amounts = _per_axis("padding", padding, len(kernel), minimum=0)
    return tuple((p, p) for p in amounts)


def _modes(padding_mode: Any, n_axes: int) -> tuple[str, ...]:
    """Return one padding mode per axis of the image."""
    modes = (padding_mode,) * n_axes if isinstance(padding_mode, str) else as_tuple(padding_mode)
    known = all(isinstance(mode, str) and mode in PADDING_MODES for mode in modes)
    if len(modes) != n_axes or not known:
        raise ValueError(
            f"padding_mode={padding_mode!r} must be one of {PADDING_MODES}, or one of them for "
            f"each of the {n_axes} axes of the image."
        )
    return modes


def _padding_layers(
    i: int, modes: tuple[str, ...], sides: tuple[tuple[int, int], ...]
) -> list[tuple[str, nn.Module]]:
    """Return a layer for each padding mode, which pads the axes of this mode."""
    layers: list[tuple[str, nn.Module]] = []
    for mode in sorted(set(modes)):
        own = [pair if m == mode else (0, 0) for pair, m in zip(sides, modes, strict=True)]
        pads = [p for pair in reversed(own) for p in pair]
        name = f"pad{i}" if len(set(modes)) == 1 else f"pad{i}_{mode}"
        layers.append((name, _PAD[mode, len(modes)](pads)))
    return layers


def _check_padding(
    padding: Any,
    modes: tuple[str, ...],
    sides: tuple[tuple[int, int], ...],
    size: tuple[int, ...],
    i: int,
) -> None:
    """Raise an error if the image has fewer elements than the padding has to repeat."""
    for mode, pair, length in zip(modes, sides, size, strict=True):
        most = {"reflect": length - 1, "circular": length}.get(mode, math.inf)
        if max(pair) > most:
            raise ValueError(
                f"padding={padding!r} with padding_mode={mode!r} is larger than what reaches "
                f"convolution {i}, {size}: use a smaller padding or kernel_size, or "
                "padding_mode='replicate' or 'zeros'."
            )
