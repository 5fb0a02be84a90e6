r"""Handler of the reservoir of an echo state network.

A state is the sum of what is left of the state before and of the activation, :math:`x_t =
(1 - \alpha) x_{t-1} + \alpha \tanh z_t`. Its relevance is split between the two either by
contribution, as :math:`(1 - \alpha) x_{t-1} / s(x_t)` to :math:`\alpha \tanh z_t / s(x_t)`, or by
the leak rate, as :math:`1 - \alpha` to :math:`\alpha`. The activation's part passes the tanh and
is shared by the rule among the inputs :math:`(u_t, x_{t-1})` of :math:`z_t`. To the recursion this
is a recurrent layer like any other; see :mod:`sklrp.propagation.handlers.recurrent_run`.

References
----------
.. [LandtHayen2022] M. Landt-Hayen, P. Kröger, M. Claus, W. Rath, "Layer-wise relevance propagation
   for echo state networks applied to Earth system variability", arXiv 2210.09958, 2022 (the split
   by the leak rate, with the z-plus rule).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sklrp.modules import EchoState
from sklrp.propagation.bounds import boxed
from sklrp.propagation.formula import divide, stabilize
from sklrp.propagation.handlers.recurrent import (
    bounds_of_states,
    check_sequence,
    hand_back,
    reshape,
    run_layers,
)
from sklrp.propagation.handlers.recurrent_run import Run
from sklrp.propagation.handlers.recurrent_steps import Flow, Kernels, linear_of_steps, start_states
from sklrp.propagation.registry import register
from sklrp.propagation.tape import Kept, Pull, Step
from sklrp.rules import Signal


@register(EchoState, kind="recurrent", bounds=bounds_of_states)
def _reservoir(step: Step, sequence: Signal) -> tuple[tuple[Signal, Signal], Pull]:
    check_sequence(step, sequence, 3, 0)
    washout = step.layer.washout
    out, (last,), pull_back = run_layers(step, boxed(step, sequence), [], [[""]], ReservoirRun)

    def pull(relevance: Any, kept: Kept | None) -> Any:
        of_states, of_last = relevance
        if of_states is not None and washout:
            zeros = of_states.new_zeros(*of_states.shape[:2], washout, of_states.shape[-1])
            of_states = torch.cat([zeros, of_states], dim=2)
        return hand_back([sequence], pull_back(of_states, [of_last], kept), kept)

    return (reshape(out, lambda v: v[:, washout:]), replace(last, axis=1)), pull


class ReservoirTrace(NamedTuple):
    """What a reservoir computed on its way, all (n_steps, n_samples, n_units) but the leaks."""

    z: Tensor
    new: Tensor  # leak * tanh(z)
    leaks: Tensor  # (n_steps,)
    states: Tensor


class ReservoirRun(Run):
    """A reservoir, run forward on a chunk."""

    def _weights(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        layer = self.step.layer
        return layer.weight_in, layer.weight_res, layer.bias, None

    def _bias(self, rows: slice) -> Any:
        return self.b_ih

    def _forward(self) -> Sequence[Tensor]:
        """Return the states, the initial one first; keep a trace."""
        recurrent = self.w_hh.t()
        z = linear_of_steps(self.signal.x, self.w_ih, self.b_ih).contiguous()
        new = torch.empty_like(z)
        first, rest = self.step.layer.leaks
        leaks = z.new_full((len(z),), rest)
        leaks[0] = first
        states = start_states(self.starts[0], len(z))
        kernels = Kernels(states[0])
        zs, news, x, by, keep = map(kernels.steps, (z, new, states, leaks, 1.0 - leaks))
        with np.errstate(all="ignore"):
            for t, now in enumerate(z):
                now.addmm_(states[t], recurrent)
                kernels.tanh(zs[t], out=news[t])
                kernels.multiply(news[t], by[t], out=news[t])
                kernels.add_product(news[t], x[t], keep[t], out=x[t + 1])
        self.trace = ReservoirTrace(z, new, leaks, states[1:])
        return (states,)

    def flow(self) -> Flow:
        """Split a state into what is left of the one before and the activation."""
        z, new, leaks, states = self.trace
        keep = (1.0 - leaks)[:, None, None]
        if self.step.layer.leak_split == "leak_rate":
            shares = (v.expand_as(z) for v in (1.0 - keep, keep))
        else:
            epsilon = self.step.epsilon
            stable = stabilize(states, epsilon)
            shares = (divide(v, stable, epsilon) for v in (new, self.h_prev.x * keep))
        to_new, to_prev = shares
        return Flow(slice(None), z, self.b_ih, to_new.unsqueeze(-2), to_prev)
