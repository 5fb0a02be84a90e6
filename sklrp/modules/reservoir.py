r"""The echo state network: a fixed random reservoir of leaky units, read out linearly.

`ESNClassifier` builds its network by `make_esn`. The layer is

.. math:: z_t = W_\mathrm{in} u_t + W_\mathrm{res} x_{t-1} + b, \qquad
          x_t = (1 - \alpha) x_{t-1} + \alpha \tanh z_t, \qquad x_0 = 0 .

References
----------
.. [Jaeger2001] H. Jaeger, "The 'echo state' approach to analysing and training recurrent neural
   networks", GMD report 148, 2001.
.. [Jaeger2007] H. Jaeger, M. Lukoševičius, D. Popovici, U. Siewert, "Optimization and applications
   of echo state networks with leaky-integrator neurons", Neural Networks 20(3), 2007, equation 2.
"""

from __future__ import annotations

from collections import OrderedDict
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from sklrp._checks import check_axes, check_option
from sklrp._constraints import NOT_NEGATIVE, SHARE, Interval, constrained
from sklrp.modules.sequences import SWEEPS, StatePooling, Sweep

LEAK_SPLITS = ("contribution", "leak_rate")
_CONSTRAINTS: dict[str, list[Any]] = {
    "leak_rate": [SHARE],
    "spectral_radius": [NOT_NEGATIVE],
    "density": [SHARE],
    "input_scale": [NOT_NEGATIVE],
    "bias_scale": [NOT_NEGATIVE],
    "leak_first_step": ["boolean"],
    "washout": [Interval(Integral, 0, None, closed="left")],
}


class EchoState(nn.Module):
    """Reservoir of leaky tanh units: a recurrent layer of fixed random weights.

    Use it like an ``nn.RNN`` with ``batch_first=True``. All of it is drawn from torch's global
    generator when it is built, and nothing of it is trained: the weights are buffers.

    Parameters
    ----------
    input_size : int
        Number of features of a step.
    hidden_size : int
        Number of units.
    leak_rate : float, default=0.1
        How much of its state a unit renews in a step, in (0, 1]; a state fades as
        ``(1 - leak_rate) ** n_steps``.
    spectral_radius : float, default=0.8
        Largest absolute eigenvalue of the recurrent weights.
    density : float, default=0.3
        Share of the units that each unit is connected to, rounded, and at least one of them.
    input_scale : float, default=0.1
        Input weights are uniform in ``[-input_scale, input_scale)``.
    bias_scale : float, default=0.1
        The units' biases are uniform in ``[-bias_scale, bias_scale)``; 0 for none.
    leak_first_step : bool, default=True
        Whether the first step starts from a state of zero like any other; otherwise the first
        state is the whole activation, ``tanh(z_1)``.
    washout : int, default=0
        Number of first states that are left out of the output.
    leak_split : {"contribution", "leak_rate"}, default="contribution"
        How the relevance of a state is split between the state before and the activation: in
        proportion to what they contribute, or as ``1 - leak_rate`` to ``leak_rate``.

    Raises
    ------
    ValueError
        If `leak_split` is unknown.
    """

    @constrained(_CONSTRAINTS)
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        leak_rate: float = 0.1,
        spectral_radius: float = 0.8,
        density: float = 0.3,
        input_scale: float = 0.1,
        bias_scale: float = 0.1,
        leak_first_step: bool = True,
        washout: int = 0,
        leak_split: str = "contribution",
    ) -> None:
        super().__init__()
        check_option("leak_split", leak_split, LEAK_SPLITS)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.leak_rate = float(leak_rate)
        self.leak_first_step = leak_first_step
        self.washout = washout
        self.leak_split = leak_split
        weight_in = _uniform(input_scale, hidden_size, input_size)
        weight_res = _draw_recurrent(hidden_size, density, spectral_radius)
        bias = _uniform(bias_scale, hidden_size) if bias_scale else None
        for name, value in (("weight_in", weight_in), ("weight_res", weight_res), ("bias", bias)):
            dtype = torch.get_default_dtype()
            self.register_buffer(name, None if value is None else value.to(dtype))

    weight_in: Tensor
    weight_res: Tensor
    bias: Tensor | None

    @property
    def leaks(self) -> tuple[float, float]:
        """The leak rates of the first step and of all others."""
        return self.leak_rate if self.leak_first_step else 1.0, self.leak_rate

    def forward(self, sequence: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states ``(n, n_steps - washout, hidden_size)`` and the last of them.

        Parameters
        ----------
        sequence : Tensor of shape (n_samples, n_steps, input_size)
            The sequences.

        Returns
        -------
        output : Tensor of shape (n_samples, n_steps - washout, hidden_size)
            The states.
        last : Tensor of shape (1, n_samples, hidden_size)
            The state after the last step.
        """
        recurrent = self.weight_res.t()
        leak, rest = self.leaks
        state = sequence.new_zeros(len(sequence), self.hidden_size)
        states = []
        for z in nn.functional.linear(sequence.transpose(0, 1), self.weight_in, self.bias):
            state = torch.lerp(state, torch.addmm(z, state, recurrent).tanh(), leak)
            states.append(state)
            leak = rest
        return torch.stack(states[self.washout :], dim=1), state[None]

    def extra_repr(self) -> str:
        """Show the sizes and the leak in the network's ``repr``."""
        return f"{self.input_size}, {self.hidden_size}, leak_rate={self.leak_rate}"


@constrained(_CONSTRAINTS)
def make_esn(
    input_shape: tuple[int, ...],
    n_outputs: int,
    *,
    n_reservoir: int = 300,
    leak_rate: float = 0.1,
    spectral_radius: float = 0.8,
    density: float = 0.3,
    input_scale: float = 0.1,
    bias_scale: float = 0.1,
    sweep: str = "down",
    pooling: str = "last",
    washout: int = 0,
    leak_first_step: bool = True,
    leak_split: str = "contribution",
    bias: bool = True,
) -> nn.Sequential:
    """Build an echo state network for sequences or images; its readout is not fitted yet.

    Parameters
    ----------
    input_shape : tuple of int
        ``(n_steps, n_step_features)`` of a sequence or ``(height, width)`` of an image.
    n_outputs : int
        Number of logits.
    n_reservoir : int, default=300
        Number of units of the reservoir.
    leak_rate, spectral_radius, density, input_scale, bias_scale : float
        What the reservoir is drawn from, see `EchoState`.
    sweep : {"down", "up", "right", "left"}, default="down"
        What the steps are, see `Sweep`.
    pooling : {"last", "mean", "max"}, default="last"
        How the states are reduced over the steps, see `StatePooling`.
    washout : int, default=0
        Number of first states that are not pooled.
    leak_first_step : bool, default=True
        Whether the first step leaks like any other, see `EchoState`.
    leak_split : {"contribution", "leak_rate"}, default="contribution"
        How the relevance of a state is split, see `EchoState`.
    bias : bool, default=True
        Whether the readout has a bias.

    Returns
    -------
    torch.nn.Sequential
        Network that maps ``(n_samples, n_features)``, the flattened sequences, to logits
        ``(n_samples, n_outputs)``.

    Raises
    ------
    ValueError
        If `washout` leaves no state.
    """
    input_shape = check_axes("input_shape", input_shape, (2,))
    check_option("sweep", sweep, SWEEPS)
    across = sweep in ("right", "left")
    n_steps, n_step_features = input_shape[::-1] if across else input_shape
    if washout >= n_steps:
        raise ValueError(
            f"washout={washout} leaves none of the {n_steps} states: use a smaller one."
        )
    return nn.Sequential(
        OrderedDict(
            sequence=nn.Unflatten(1, tuple(input_shape)),
            sweep=Sweep(sweep),
            reservoir=EchoState(
                n_step_features,
                n_reservoir,
                leak_rate=leak_rate,
                spectral_radius=spectral_radius,
                density=density,
                input_scale=input_scale,
                bias_scale=bias_scale,
                leak_first_step=leak_first_step,
                washout=washout,
                leak_split=leak_split,
            ),
            state=StatePooling(pooling),
            output=nn.Linear(n_reservoir, n_outputs, bias=bias),
        )
    )


def _uniform(scale: float, *shape: int) -> Tensor:
    """Return draws from ``[-scale, scale)``."""
    return torch.rand(*shape, dtype=torch.float64).mul_(2.0).sub_(1.0).mul_(scale)


def _draw_recurrent(n_units: int, density: float, spectral_radius: float) -> Tensor:
    """Return sparse recurrent weights of a given largest absolute eigenvalue."""
    # As every unit sees another one there is a cycle, so that the eigenvalue is not zero.
    n_seen = max(1, round(density * n_units))
    seen = torch.rand(n_units, n_units, dtype=torch.float64).topk(n_seen, dim=1).indices
    weight = torch.zeros(n_units, n_units, dtype=torch.float64)
    weight.scatter_(1, seen, _uniform(1.0, n_units, n_seen))
    return weight.mul_(spectral_radius / torch.linalg.eigvals(weight).abs().max())
