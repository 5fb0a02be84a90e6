"""Layers that read an image or a sequence step by step, and the LSTM network made of them.

`LSTMClassifier` builds its network by `make_lstm`; the echo state network of `reservoir.py` has
the same sweep and the same pooling of states.
"""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sklrp._checks import check_axes, check_option
from sklrp._constraints import COUNT, FINITE, constrained
from sklrp._sklearn import StrOptions
from sklrp.modules.perceptron import dense_layers
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
        check_option("sweep", sweep, SWEEPS)
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
        check_option("pooling", pooling, STATE_POOLINGS)
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


class RememberingLSTM(nn.LSTM):
    r"""Long short-term memory that starts with a memory of a given length.

    Use it like an ``nn.LSTM``. `reset_parameters` draws everything as torch does, but for what
    the one parameter given of `forget_bias` and `n_steps` says. With `n_steps` the units start
    with memories of every length [1]_: a unit's forget bias is the logarithm of a time that is
    uniform between 1 and ``n_steps - 1``, its input gate's the negative, so that it averages over
    this time rather than sums. Input weights are uniform with a variance of 1 / (number of
    inputs), so that the gates see standardised input: torch's own have 1 / (3 `hidden_size`),
    and a single value per step hardly moves them.

    Parameters
    ----------
    input_size : int
        Number of features of a step.
    hidden_size : int
        Units of the state, per layer and direction.
    forget_bias : float or None, default=None
        Bias from which every forget gate starts; b remembers for about exp(b) steps.
    n_steps : int or None, default=None
        Length of the sequences.
    **kwargs : dict
        Further parameters of ``nn.LSTM``, such as ``num_layers``.

    Raises
    ------
    ValueError
        If not exactly one of `forget_bias` and `n_steps` is given.

    References
    ----------
    .. [1] C. Tallec and Y. Ollivier, "Can recurrent neural networks warp time?", ICLR 2018,
       equation 16.
    """

    forget_bias: float | None = None  # while torch's `__init__` draws
    n_steps: int | None = None

    @constrained({"forget_bias": [FINITE, None], "n_steps": [COUNT, None]})
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        forget_bias: float | None = None,
        n_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        if (forget_bias is None) == (n_steps is None):
            raise ValueError(
                "RememberingLSTM takes one of forget_bias and n_steps, got "
                f"forget_bias={forget_bias!r} and n_steps={n_steps!r}."
            )
        super().__init__(input_size, hidden_size, **kwargs)
        self.forget_bias, self.n_steps = forget_bias, n_steps
        self._start_memory()

    def reset_parameters(self) -> None:
        """Draw all parameters as they are before training."""
        super().reset_parameters()
        self._start_memory()

    def _start_memory(self) -> None:
        """Draw what differs from torch's start."""
        if self.n_steps is not None:
            self._spread_gates(self.n_steps)
        elif self.forget_bias is not None:
            self._open_gates(self.forget_bias)

    @torch.no_grad()
    def _spread_gates(self, n_steps: int) -> None:
        """Give every unit a time to remember, and input weights that use the input's scale."""
        n_units = self.hidden_size
        for name, parameter in self.named_parameters():
            if name.startswith("weight_ih"):
                bound = math.sqrt(3 / parameter.shape[1])
                parameter.uniform_(-bound, bound)
            elif name.startswith("bias_ih"):
                times = torch.empty(n_units).uniform_(1, max(2, n_steps - 1))
                parameter[n_units : 2 * n_units] = times.log()
                parameter[:n_units] = -times.log()
            elif name.startswith("bias_hh"):
                parameter[: 2 * n_units] = 0.0

    @torch.no_grad()
    def _open_gates(self, forget_bias: float) -> None:
        """Set the bias of every forget gate, the second of torch's four."""
        forget = slice(self.hidden_size, 2 * self.hidden_size)
        for name, bias in self.named_parameters():
            if name.startswith("bias_ih"):
                bias[forget] = forget_bias
            elif name.startswith("bias_hh"):
                bias[forget] = 0.0

    def extra_repr(self) -> str:
        """Show the sizes and the bias in the network's ``repr``."""
        memory = "forget_bias" if self.n_steps is None else "n_steps"
        return f"{super().extra_repr()}, {memory}={getattr(self, memory)}"


@constrained({"forget_bias": [FINITE, StrOptions({"auto"}), None]})
def make_lstm(
    input_shape: tuple[int, ...],
    n_outputs: int,
    *,
    hidden_size: int = 64,
    num_layers: int = 1,
    bidirectional: bool = False,
    sweep: str = "down",
    pooling: str = "last",
    forget_bias: float | str | None = None,
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
    forget_bias : float, "auto" or None, default=None
        Bias from which every forget gate starts; ``"auto"`` draws memories of every length up to
        that of the sequence, see `RememberingLSTM`; ``None`` keeps torch's initialisation.
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
    n_steps, n_step_features = check_axes("input_shape", input_shape, (2,))
    check_option("sweep", sweep, SWEEPS)
    if sweep in ("right", "left"):
        n_steps, n_step_features = n_step_features, n_steps
    make: Callable[..., nn.LSTM] = nn.LSTM
    if isinstance(forget_bias, str):
        make = functools.partial(RememberingLSTM, n_steps=n_steps)
    elif bias and forget_bias is not None:
        make = functools.partial(RememberingLSTM, forget_bias=forget_bias)
    lstm = make(
        n_step_features,
        int(hidden_size),  # torch takes no integers of NumPy
        num_layers=int(num_layers),
        bidirectional=bool(bidirectional),
        bias=bias,
        dropout=dropout if num_layers > 1 else 0.0,
        batch_first=True,
    )
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
    layers += dense_layers(n_units, n_outputs, hidden_layer_sizes, activation, bias, dropout)
    return nn.Sequential(OrderedDict(layers))
