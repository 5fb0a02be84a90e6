"""Networks whose parameters are trained by gradient, and layers that recurrent ones share."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from sklrp.modules.regularisation import input_layers

SWEEPS = ("down", "up", "right", "left")
STATE_POOLINGS = ("last", "mean", "max")


class Sweep(nn.Module):
    """Turn an image into a sequence of rows or columns.

    Parameters
    ----------
    sweep : {"down", "up", "right", "left"}, default="down"
        What the steps of the sequence are: ``"down"`` the rows from the first to the last (the
        time steps of a sequence), ``"up"`` the rows backwards, ``"right"`` the columns from left
        to right, ``"left"`` the columns from right to left.
    """

    def __init__(self, sweep: str = "down") -> None:
        super().__init__()
        if sweep not in SWEEPS:
            raise ValueError(f"sweep must be one of {SWEEPS}, got {sweep!r}.")
        self.sweep = sweep

    def forward(self, x: Tensor) -> Tensor:
        """Return the steps of images, ``(n, height, width) -> (n, n_steps, n_step_features)``."""
        if self.sweep in ("right", "left"):
            x = x.transpose(1, 2)
        return x.flip(1) if self.sweep in ("up", "left") else x

    def inverse(self, steps: Tensor) -> Tensor:
        """Return images from steps, ``(n, n_steps, n_step_features) -> (n, height, width)``."""
        if self.sweep in ("up", "left"):
            steps = steps.flip(1)
        return steps.transpose(1, 2) if self.sweep in ("right", "left") else steps

    def extra_repr(self) -> str:
        """Show the direction in the network's ``repr``."""
        return repr(self.sweep)


class StatePooling(nn.Module):
    """Reduce the states of a recurrent layer over time to one vector.

    Parameters
    ----------
    pooling : {"last", "mean", "max"}, default="last"
        ``"last"`` takes the state after the last step (of a bidirectional layer: after the last
        step of either direction), ``"mean"`` and ``"max"`` pool the states of all steps.
    """

    def __init__(self, pooling: str = "last") -> None:
        super().__init__()
        if pooling not in STATE_POOLINGS:
            raise ValueError(f"pooling must be one of {STATE_POOLINGS}, got {pooling!r}.")
        self.pooling = pooling

    def forward(self, output_and_state: tuple[Tensor, Any]) -> Tensor:
        """Return the pooled states of a recurrent layer, ``(n, n_directions * hidden_size)``."""
        output, state = output_and_state
        if isinstance(state, tuple):  # an nn.LSTM's comes with its cell's
            state = state[0]
        if self.pooling == "mean":
            return output.mean(1)
        if self.pooling == "max":
            return output.amax(1)
        n_directions = output.shape[-1] // state.shape[-1]
        return torch.cat(tuple(state[-n_directions:]), dim=-1)

    def extra_repr(self) -> str:
        """Show the kind of pooling in the network's ``repr``."""
        return repr(self.pooling)


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}
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


def make_mlp(
    n_features: int,
    n_outputs: int,
    *,
    hidden_layer_sizes: Sequence[int] = (100,),
    activation: str = "relu",
    bias: bool = True,
    dropout: float = 0.0,
    input_noise: float = 0.0,
    input_dropout: float = 0.0,
) -> nn.Sequential:
    """Build a multilayer perceptron.

    Parameters
    ----------
    n_features : int
        Number of features.
    n_outputs : int
        Number of logits.
    hidden_layer_sizes : sequence of int, default=(100,)
        Units of each hidden layer; empty for a linear model.
    activation : str, default="relu"
        Name of the activation, a key of ``ACTIVATIONS``.
    bias : bool, default=True
        Whether the layers have a bias.
    dropout : float, default=0.0
        Probability with which a hidden unit is dropped in training.
    input_noise : float, default=0.0
        Standard deviation of the noise that is added to the input in training.
    input_dropout : float, default=0.0
        Probability with which a value of the input is dropped in training.

    Returns
    -------
    torch.nn.Sequential
        Network that maps ``(n_samples, n_features)`` to logits ``(n_samples, n_outputs)``.
    """
    layers = input_layers(input_noise, input_dropout)
    layers += _dense_layers(n_features, n_outputs, hidden_layer_sizes, activation, bias, dropout)
    return nn.Sequential(OrderedDict(layers))


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
    n_channels, size = input_shape[0], tuple(input_shape[1:])
    n_axes = len(size)
    kernel = _per_axis("kernel_size", kernel_size, n_axes)
    steps = _per_axis("stride", stride, n_axes)
    window = _per_axis("pool_size", pool_size, n_axes)
    if not clip and any(k > s for k, s in zip(kernel, size, strict=True)):
        raise ValueError(
            f"kernel_size={kernel_size!r} is larger than the image, {size}: use a kernel_size "
            f"of at most {min(size)}, or check input_shape={tuple(input_shape)}."
        )
    sides = _sides(padding, kernel)
    modes = _modes(padding_mode, n_axes)

    layers = input_layers(input_noise, input_dropout)
    layers.append(("image", nn.Unflatten(1, tuple(input_shape))))
    for i, n_filters in enumerate(channels, start=1):
        _check_padding(padding, modes, sides, size, i)
        size_before = size
        size = tuple(s + sum(p) for s, p in zip(size, sides, strict=True))
        if any(k > s for k, s in zip(kernel, size, strict=True)):
            raise ValueError(
                f"kernel_size={kernel_size!r} is larger than what reaches convolution {i}, "
                f"{size_before} before padding={padding!r}: use fewer channels, a smaller "
                "kernel_size, stride or pool_size, or padding='same'."
            )
        # torch's convolutions pad both sides of all axes alike
        built_in = len(set(modes)) == 1 and all(before == behind for before, behind in sides)
        if not built_in:
            layers += _padding_layers(i, modes, sides)
        layers.append(
            (
                f"conv{i}",
                _CONV[n_axes](
                    n_channels,
                    n_filters,
                    kernel,
                    stride=steps,
                    padding=tuple(before for before, _ in sides) if built_in else 0,
                    padding_mode=modes[0],
                    bias=bias,
                ),
            )
        )
        size = tuple((s - k) // step + 1 for s, k, step in zip(size, kernel, steps, strict=True))
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
    layers += _dense_layers(n_units, n_outputs, hidden_layer_sizes, activation, bias, dropout)
    return nn.Sequential(OrderedDict(layers))


def make_lstm(
    input_shape: tuple[int, ...],
    n_outputs: int,
    *,
    hidden_size: int = 64,
    num_layers: int = 1,
    bidirectional: bool = False,
    sweep: str = "down",
    pooling: str = "last",
    forget_bias: float | None = None,
    hidden_layer_sizes: Sequence[int] = (),
    activation: str = "relu",
    bias: bool = True,
    dropout: float = 0.0,
    input_noise: float = 0.0,
    input_dropout: float = 0.0,
) -> nn.Sequential:
    """Build a long short-term memory network for sequences or images.

    Parameters
    ----------
    input_shape : tuple of int
        ``(n_steps, n_step_features)`` of a sequence or ``(height, width)`` of an image.
    n_outputs : int
        Number of logits.
    hidden_size : int, default=64
        Units of the recurrent state, per layer and direction.
    num_layers : int, default=1
        Number of recurrent layers.
    bidirectional : bool, default=False
        Whether the sequence is read in both directions.
    sweep : {"down", "up", "right", "left"}, default="down"
        What the steps are, see `Sweep`.
    pooling : {"last", "mean", "max"}, default="last"
        How the states are reduced over the steps, see `StatePooling`.
    forget_bias : float or None, default=None
        Bias from which every forget gate starts; ``None`` keeps torch's initialisation.
    hidden_layer_sizes : sequence of int, default=()
        Units of each dense layer between the state and the logits.
    activation : str, default="relu"
        Name of the dense layers' activation, a key of ``ACTIVATIONS``.
    bias : bool, default=True
        Whether the recurrent and dense layers have a bias.
    dropout : float, default=0.0
        Probability with which a unit is dropped in training: between recurrent layers, of the
        pooled state and of dense layers.
    input_noise : float, default=0.0
        Standard deviation of the noise that is added to the input in training.
    input_dropout : float, default=0.0
        Probability with which a value of the input is dropped in training.

    Returns
    -------
    torch.nn.Sequential
        Network that maps ``(n_samples, n_features)``, the flattened sequences, to logits
        ``(n_samples, n_outputs)``.
    """
    n_step_features = input_shape[0 if sweep in ("right", "left") else 1]
    lstm = nn.LSTM(
        n_step_features,
        hidden_size,
        num_layers=num_layers,
        bidirectional=bidirectional,
        bias=bias,
        dropout=dropout if num_layers > 1 else 0.0,
        batch_first=True,
    )
    if bias and forget_bias is not None:
        _set_forget_bias(lstm, forget_bias)
    layers = input_layers(input_noise, input_dropout)
    layers += [
        ("sequence", nn.Unflatten(1, tuple(input_shape))),
        ("sweep", Sweep(sweep)),
        ("lstm", lstm),
        ("state", StatePooling(pooling)),
    ]
    if dropout:
        layers.append(("dropout", nn.Dropout(dropout)))
    n_units = hidden_size * (2 if bidirectional else 1)
    layers += _dense_layers(n_units, n_outputs, hidden_layer_sizes, activation, bias, dropout)
    return nn.Sequential(OrderedDict(layers))


def widest_activation(network: nn.Sequential, n_features: int) -> int:
    """Return how many elements the largest activation of one sample has.

    Parameters
    ----------
    network : torch.nn.Sequential
        Network in evaluation mode.
    n_features : int
        Number of features of its input.

    Returns
    -------
    int
        Elements of the widest layer, the input included.
    """
    parameter = next(network.parameters())
    x = torch.zeros(1, n_features, dtype=parameter.dtype, device=parameter.device)
    widest = n_features
    with torch.no_grad():
        for layer in network:
            x = layer(x)
            widest = max(widest, (x[0] if isinstance(x, tuple) else x).numel())
    return widest


def _dense_layers(
    n_units: int,
    n_outputs: int,
    hidden_layer_sizes: Sequence[int],
    activation: str,
    bias: bool,
    dropout: float,
) -> list[tuple[str, nn.Module]]:
    """Return the named dense layers from ``n_units`` inputs to the logits."""
    layers: list[tuple[str, nn.Module]] = []
    for i, n_hidden in enumerate(hidden_layer_sizes, start=1):
        layers.append((f"dense{i}", nn.Linear(n_units, n_hidden, bias=bias)))
        layers.append((f"dense_activation{i}", ACTIVATIONS[activation]()))
        if dropout:
            layers.append((f"dense_dropout{i}", nn.Dropout(dropout)))
        n_units = n_hidden
    layers.append(("output", nn.Linear(n_units, n_outputs, bias=bias)))
    return layers


def _per_axis(name: str, value: Any, n_axes: int, minimum: int = 1) -> tuple[int, ...]:
    """Return one value per axis of the image."""
    values = (value,) * n_axes if isinstance(value, Integral) else tuple(value)
    whole = all(isinstance(v, Integral) and int(v) >= minimum for v in values)
    if len(values) != n_axes or not whole:
        raise ValueError(
            f"{name}={value!r} must be one integer of at least {minimum}, or one for each of the "
            f"{n_axes} axes of the image."
        )
    return tuple(int(v) for v in values)


def _sides(padding: Any, kernel: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Return the elements that are added before and behind every axis."""
    if padding == "same":
        return tuple(((k - 1) // 2, k // 2) for k in kernel)
    amounts = _per_axis("padding", 0 if padding == "valid" else padding, len(kernel), minimum=0)
    return tuple((p, p) for p in amounts)


def _modes(padding_mode: Any, n_axes: int) -> tuple[str, ...]:
    """Return one padding mode per axis of the image."""
    modes = (padding_mode,) * n_axes if isinstance(padding_mode, str) else tuple(padding_mode)
    if len(modes) != n_axes or any(mode not in PADDING_MODES for mode in modes):
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


def _set_forget_bias(lstm: nn.LSTM, forget_bias: float) -> None:
    """Start every forget gate, the second of torch's four, from ``forget_bias``."""
    forget = slice(lstm.hidden_size, 2 * lstm.hidden_size)
    with torch.no_grad():
        for name, bias in lstm.named_parameters():
            if name.startswith("bias_ih"):
                bias[forget] = forget_bias
            elif name.startswith("bias_hh"):
                bias[forget] = 0.0
