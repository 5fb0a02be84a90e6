"""Recurrent layers written step by step, for what torch's own cannot do.

`.recurrent_layers` makes them of Keras layers with other activations than torch's, of GRUs that
reset before the product, and where steps are masked: there a sample keeps its state.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RecurrentLoop(nn.Module):
    """The loop over steps; subclasses say what one step does.

    Parameters
    ----------
    n_in, units : int
        The sizes of the input and of the state.
    activation, gate : nn.Module
        What the state and the gates go through.
    has_bias : bool
        Whether there are biases.
    resets_after : bool
        Of a GRU, whether the reset gate acts behind the product with the weights.
    zeros_where_masked : bool
        Whether the output is 0 at masked steps, not that of the last step before.
    """

    kind_of_layers = "recurrent"  # what composites call the products with the weights
    n_gates: int
    n_states = 1

    def __init__(
        self,
        n_in: int,
        units: int,
        activation: nn.Module,
        gate: nn.Module,
        *,
        has_bias: bool,
        resets_after: bool,
        zeros_where_masked: bool,
    ) -> None:
        super().__init__()
        self.units = units
        self.resets_after = resets_after
        self.zeros_where_masked = zeros_where_masked
        size = self.n_gates * units
        self.kernel = nn.Parameter(torch.empty(size, n_in))
        self.recurrent = nn.Parameter(torch.empty(size, units))
        shape = (2, size) if resets_after else (size,)
        self.bias = nn.Parameter(torch.empty(shape)) if has_bias else None
        self.activation = activation
        self.gate = gate

    def reset_parameters(self) -> None:
        """Draw the parameters as Keras does before training."""
        nn.init.xavier_uniform_(self.kernel)
        nn.init.orthogonal_(self.recurrent)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(
        self, x: Tensor, states: tuple[Tensor, ...], mask: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        zeros = x.new_zeros(len(x), self.units)
        states = states or (zeros,) * self.n_states
        outputs, last = [], zeros
        for t in range(x.shape[1]):
            new = self.step(x[:, t], *states)
            if mask is None:
                states, last = new, new[0]
                outputs.append(last)
                continue
            there = mask[:, t].unsqueeze(1)
            states = tuple(torch.where(there, n, old) for n, old in zip(new, states, strict=True))
            last = torch.where(there, new[0], last)
            outputs.append(torch.where(there, new[0], zeros) if self.zeros_where_masked else last)
        return torch.stack(outputs, 1), states

    def step(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Return the states after a step, the output first."""
        raise NotImplementedError

    def project(self, x: Tensor, h: Tensor) -> Tensor:
        """Return what the input and the state give to the gates: one sum, as in torch's layers."""
        weight = torch.cat([self.kernel, self.recurrent], 1)
        return F.linear(torch.cat([x, h], 1), weight, self.bias)


class SimpleLoop(RecurrentLoop):
    """A simple recurrent layer: h = activation(W x + U h + b)."""

    n_gates = 1

    def step(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Return the states after a step."""
        return (self.activation(self.project(x, states[0])),)


class LSTMLoop(RecurrentLoop):
    """An LSTM, its gates in the order of Keras: input, forget, cell, output."""

    n_gates = 4
    n_states = 2

    def reset_parameters(self) -> None:
        """Draw the parameters as Keras does before training, the forget gates open."""
        super().reset_parameters()
        if self.bias is not None:
            nn.init.ones_(self.bias[self.units : 2 * self.units])

    def step(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Return the states after a step."""
        h, c = states
        i, f, g, o = self.project(x, h).chunk(4, 1)
        c = self.gate(f) * c + self.gate(i) * self.activation(g)
        return self.gate(o) * self.activation(c), c


class GRULoop(RecurrentLoop):
    """A GRU, its gates in the order of Keras: update, reset, state."""

    n_gates = 3

    def step(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Return the states after a step."""
        (h,) = states
        own: Tensor | None = self.bias
        other: Tensor | None = None
        if own is not None and self.resets_after:
            own, other = own[0], own[1]
        z, r, g = F.linear(x, self.kernel, own).chunk(3, 1)
        if self.resets_after:
            uz, ur, ug = F.linear(h, self.recurrent, other).chunk(3, 1)
            z, r = self.gate(z + uz), self.gate(r + ur)
            new = self.activation(g + r * ug)
        else:
            gates, last = self.recurrent.split([2 * self.units, self.units])
            uz, ur = F.linear(h, gates).chunk(2, 1)
            z, r = self.gate(z + uz), self.gate(r + ur)
            new = self.activation(g + F.linear(r * h, last))
        return (z * h + (1 - z) * new,)
