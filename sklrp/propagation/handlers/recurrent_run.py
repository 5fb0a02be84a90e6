r"""Relevance through one direction of one recurrent layer: the recursion back in time.

The handlers in :mod:`.recurrent` and :mod:`.echo_state` make a :class:`Run` for each direction of
each layer: the constructor runs it forward on a chunk, ``pull`` takes relevance back through it.

To relevance all cells are alike. A state is the sum of a candidate and of what is left of the
state before:

.. math:: c_t = i_t g_t + f_t c_{t-1} \text{ (LSTM)}, \quad h_t = (1 - z_t) n_t + z_t h_{t-1}
          \text{ (GRU)}, \quad h_t = \tanh z_t \text{ (RNN: the candidate alone)}.

Its relevance is split by contribution, :math:`R_{g_t} = i_t g_t / s(c_t) \, R_{c_t}` and
:math:`R_{c_{t-1}} = f_t c_{t-1} / s(c_t) \, R_{c_t}`. The candidate's part passes its activation
and is shared by the rule among the inputs :math:`(x_t, h_{t-1})` of the affine map before it. An
LSTM's output passes its gate and its tanh: :math:`R_{c_t} \mathrel{+}= R_{h_t}`. Gates get nothing
unless ``step.product`` says so; then their part passes the sigmoid and is shared in the same way.
In a GRU the recurrent contributions to the candidate are :math:`r_j w_{ij} h_i`.

All of this is linear in the relevance of the states, with coefficients that are known beforehand.
So whatever does not depend on the step behind is done at once for many steps: the shares of what
a state was made of, and the relevance of the inputs, by one product; the recursion itself, in
:mod:`.recurrent_steps`, needs one product with the recurrent weights and three small operations a
step. On a CPU so many steps are taken at once as its caches hold. To this end time leads:
activations are (n_steps, n_samples, n_units), the relevance of states is (n_steps, n_targets,
n_samples, n_units), both in the order in which the direction runs.

References
----------
.. [Arras2017] Arras et al., "Explaining recurrent neural network predictions in sentiment
   analysis", WASSA 2017.
.. [Arras2019] Arras et al., "Explaining and interpreting LSTMs", LNCS 11700, 2019.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sklrp._checks import say_layer
from sklrp.modules import EchoState
from sklrp.propagation.fast import gather
from sklrp.propagation.formula import Operand, Split, account, divide, stabilize
from sklrp.propagation.handlers.recurrent_steps import (
    Flow,
    Kernels,
    Relevance,
    adjoint_of_steps,
    linear_of_steps,
    on_cpu,
    recur,
    start_states,
    tanh,
)
from sklrp.propagation.sharing import prepare, share_product
from sklrp.propagation.tape import Kept, Step
from sklrp.rules import Signal, ZBox, x_one

_FUSED: dict[str, Callable[..., Any]] = {
    "LSTM": torch.lstm,
    "GRU": torch.gru,
    "tanh": torch.rnn_tanh,
    "relu": torch.rnn_relu,
}

# The relevance of so many steps is found at once on a CPU: a few such tensors stay in its caches.
_BLOCK_BYTES = 2 * 2**20

# For so many values of a state an LSTM is run step by step on a CPU.
_MANY = 1024


class Trace(NamedTuple):
    """What an LSTM computed on its way, all (n_steps, n_samples, n_units)."""

    z: Tensor  # the pre-activation of the candidate g
    new: Tensor  # i * g
    prev: Tensor  # f * c_prev
    cells: Tensor  # one more than steps: the initial one comes first


class Run:
    """One direction of one recurrent layer, run forward on a chunk.

    Its ``h`` are the states, in the order of the input, and ``ends`` the last state and an LSTM's
    last cell state, (n_samples, n_units).

    Parameters
    ----------
    step : Step
        The step of the layer.
    suffix : str
        The end of the names of the weights, which tells the direction.
    signal : Signal of shape (n_steps, n_samples, n_inputs)
        The input.
    starts : list of Tensor of shape (n_samples, n_units)
        The initial state, and that of the cell; empty for zeros.
    lengths : Tensor of shape (n_samples,) or None
        How many steps each sample has; None if all.
    """

    def __init__(
        self,
        step: Step,
        suffix: str,
        signal: Signal,
        starts: Sequence[Tensor],
        lengths: Tensor | None,
    ) -> None:
        self.step, self.suffix, self.mode = step, suffix, _mode(step.layer)
        self.reverse = suffix.endswith("_reverse")
        self.last = None if lengths is None else lengths - 1
        self.w_ih, self.w_hh, self.b_ih, self.b_hh = self._weights()
        n_features = self.w_ih.shape[1]
        if signal.x.shape[-1] != n_features:  # torch's own LSTM reads what lies behind in memory
            raise RuntimeError(f"a step has {n_features} features, got {signal.x.shape[-1]}")
        # The units of a cell, and those of a state, which an LSTM may project to fewer.
        n_states = self.w_hh.shape[1]
        self.w_hr = self._projection()
        self.size = n_states if self.w_hr is None else self.w_hr.shape[1]

        values = (signal.x, signal.low, signal.high, signal.seen)
        x, low, high, seen = (None if v is None else self._turn(v) for v in values)
        assert x is not None
        self.signal = Signal(x.contiguous(), signal.nonnegative, low, high, seen)
        sizes = (n_states, self.size) if self.mode == "LSTM" else (n_states,)
        self.starts = list(starts) or [x.new_zeros(x.shape[1], size) for size in sizes]
        states, *last = self._forward()

        positive = self.mode == "relu"
        low, high = self._bounds(given=bool(starts))
        box = (None, None) if low is None or high is None else (low[None], high[None])
        self.h = Signal(self._turn(states[1:]), positive, *box)
        # The recursion takes h_{t-1} at step t: the states one step later, the initial one first.
        never = positive and bool((self.starts[0] >= 0).all())
        self.h_prev = Signal(states[:-1], never, *box)
        end, *cell = self._at_the_end(states, last)
        self.ends = [Signal(end, positive, low, high), *map(Signal, cell)]

    def _bounds(self, given: bool) -> tuple[Tensor | None, Tensor | None]:
        """Return the bounds that the cell sets to its states, whatever its input is."""
        if self.mode == "relu":
            return None, None
        # LSTM and tanh stay within (-1, 1), a GRU between that and its initial state.
        start = self.starts[0]
        high = start.new_ones(1, self.size)
        if self.w_hr is not None:
            high = high @ self.w_hr.abs().t()
        high = torch.maximum(start.abs(), high) if given else high
        return -high, high

    def _at_the_end(self, states: Tensor, last: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the last state, and an LSTM's last cell state, of each sample's own length."""
        if self.last is None:
            return [states[-1], *last]
        traces = [states, self.trace.cells] if self.mode == "LSTM" else [states]
        return [v[1:].take_along_dim(self.last[None, :, None], 0)[0] for v in traces]

    def _weights(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Return the weights of inputs and of states, and the biases of both."""
        layer = self.step.layer
        names = ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if layer.bias else ()))
        w_ih, w_hh, *biases = (getattr(layer, name + self.suffix).detach() for name in names)
        return w_ih, w_hh, *(biases or (None, None))

    def _projection(self) -> Tensor | None:
        """Return the weights by which an LSTM projects its states, None without."""
        weight = getattr(self.step.layer, f"weight_hr{self.suffix}", None)
        return None if weight is None else weight.detach()

    def _forward(self) -> Sequence[Tensor]:
        """Return the states, the initial one first, and an LSTM's last cell state."""
        if self.mode == "LSTM" and on_cpu(cell := self.starts[1]) and cell.numel() >= _MANY:
            self.trace, states = self._follow()
            return states, self.trace.cells[-1]
        hx = [start[None].contiguous() for start in self.starts]
        own = (self.w_ih, self.w_hh, self.b_ih, self.b_hh, self.w_hr)
        weights = [v for v in own if v is not None]
        states, _, *last = _FUSED[self.mode](
            self.signal.x, hx if self.mode == "LSTM" else hx[0], weights, self.b_ih is not None, 1,
            0.0, False, False, False,
        )  # fmt: skip
        return torch.cat([self.starts[0][None], states]), *(v[0] for v in last)

    def _follow(self) -> tuple[Trace, Tensor]:
        """Run an LSTM step by step on a CPU; return its trace, and the states as they start.

        torch's fused kernel keeps the gates to itself, and to compute them again takes half its
        time. It starts faster, though, which counts with few samples.
        """
        size, x = self.size, self.signal.x
        w_ih, w_hh, bias = map(self._gates_first, (self.w_ih, self.w_hh, self._bias(slice(None))))
        z, new, prev = (x.new_empty(*x.shape[:2], size) for _ in range(3))
        states, cells = (start_states(v, len(x)) for v in self.starts)
        output = torch.empty_like(cells[0]).numpy()  # before a projection
        recurrent = w_hh.t()
        kept = [list(v.numpy()) for v in (new, prev, cells[:-1], cells[1:], states[1:])]
        with np.errstate(all="ignore"):
            for span in self._spans(4 * size):
                of_inputs = linear_of_steps(x[span], w_ih, bias)
                sigmoids = of_inputs[..., : 3 * size]
                cut = [list(v.numpy()) for v in of_inputs.chunk(4, dim=-1)]
                steps = zip(
                    of_inputs, sigmoids, states[span], states[1:][span],
                    *cut, *(v[span] for v in kept), strict=True,
                )  # fmt: skip
                for gates, opened, before, after, i, f, o, g, i_g, f_c, c_prev, c, h in steps:
                    gates.addmm_(before, recurrent)
                    opened.sigmoid_()
                    np.multiply(np.tanh(g, i_g), i, i_g)
                    np.multiply(f, c_prev, f_c)
                    np.add(i_g, f_c, c)
                    if self.w_hr is None:
                        np.multiply(np.tanh(c, h), o, h)
                    else:
                        np.multiply(np.tanh(c, output), o, output)
                        torch.mm(torch.from_numpy(output), self.w_hr.t(), out=after)
                z[span] = of_inputs[..., 3 * size :]
        return Trace(z, new, prev, cells), states

    def _gates_first(self, v: Any) -> Any:
        """Return an LSTM's weights or biases in the order i, f, o, g, that of g last."""
        i_f, g, o = (slice(k * self.size, n * self.size) for k, n in ((0, 2), (2, 3), (3, 4)))
        return None if v is None else torch.cat([v[i_f], v[o], v[g]])

    def _turn(self, v: Tensor, dim: int = 0) -> Tensor:
        """Turn time, on axis ``dim``, around if the direction does; padding stays at the end."""
        if not self.reverse or v.shape[dim] == 1:  # one step, or bounds of all steps alike
            return v
        if self.last is None:
            return v.flip(dim)
        time = torch.arange(v.shape[dim], device=v.device)[:, None]
        index = torch.where(time <= self.last, self.last - time, time)[..., None]
        return v.take_along_dim(index[(None,) * dim], dim)

    def _bias(self, rows: slice) -> Any:
        return None if self.b_ih is None or self.b_hh is None else (self.b_ih + self.b_hh)[rows]

    def _affine(self, *slices: slice) -> list[Tensor]:
        """Return the pre-activations of some gates, by one product for inputs and states."""
        inputs = torch.cat([self.signal.x, self.h_prev.x], dim=-1)
        weight = torch.cat([self.w_ih, self.w_hh], dim=1)
        return [linear_of_steps(inputs, weight[rows], self._bias(rows)) for rows in slices]

    @cached_property
    def trace(self) -> Any:
        """What an LSTM computed, found from its states: ``c = i * g + f * c_prev``."""
        if self.mode != "LSTM":
            return ()
        size = self.size
        # i and f, then g; the output gate is not needed to follow the cell.
        opening, z = self._affine(slice(2 * size), slice(2 * size, 3 * size))
        i, f = opening.sigmoid_().chunk(2, dim=-1)
        new = tanh(z).mul_(i)
        cells = start_states(self.starts[1], len(new))
        kernels = Kernels(self.starts[1])
        c, n, by = (kernels.steps(v) for v in (cells, new, f))
        with np.errstate(all="ignore"):
            for t in range(len(n)):
                kernels.add_product(n[t], by[t], c[t], out=c[t + 1])
        return Trace(z, new, f * cells[:-1], cells)

    def _spans(self, n_values: int) -> Iterator[slice]:
        """Yield spans of steps, in each of whose tensors are ``n_values`` for step and sample."""
        n_steps, n_samples = self.signal.x.shape[:2]
        n_bytes = n_samples * n_values * self.signal.x.element_size()
        size = max(1, _BLOCK_BYTES // n_bytes) if on_cpu(self.signal.x) else n_steps
        return (slice(first, min(first + size, n_steps)) for first in range(0, n_steps, size))

    def during(self, span: slice) -> Run:
        """Return the run of some steps alone."""
        n_steps = len(self.signal.x)

        def cut(v: Tensor | None) -> Any:
            """Cut what has a value for each step, and of states the initial one besides."""
            if v is None or len(v) < n_steps:
                return v
            return v[span.start : span.stop + len(v) - n_steps]

        def cut_signal(signal: Signal) -> Signal:
            values = {name: cut(getattr(signal, name)) for name in ("x", "low", "high", "seen")}
            return replace(signal, **values)

        trace = self.trace and type(self.trace)(*map(cut, self.trace))
        part = copy.copy(self)
        part.trace = trace
        part.signal, part.h_prev = map(cut_signal, (self.signal, self.h_prev))
        part.last = None if self.last is None else self.last - span.start
        return part

    def flow(self) -> Flow:
        """Return where the relevance of the states goes."""
        if self.mode == "LSTM":
            return self._flow_of_lstm()
        if self.mode == "GRU":
            return self._flow_of_gru()
        (z,) = self._affine(slice(None))
        return Flow(slice(None), z, self._bias(slice(None)), torch.ones_like(z).unsqueeze(-2))

    def _flow_of_lstm(self) -> Flow:
        """Gates i, f, g, o: ``c = i * g + f * c_prev``, ``h = o * tanh(c)``.

        By default ``R_g = i * g / s(c) * R_c`` and ``R_c_prev = f * c_prev / s(c) * R_c``. Where
        gates take a share q of a product, i takes ``q * R_g``, f ``q * R_c_prev``, o ``q * R_h``.
        """
        step, size, (z, new, prev, cells) = self.step, self.size, self.trace
        c, c_prev, rows = cells[1:], cells[:-1], slice(2 * size, 3 * size)
        stable = stabilize(c, step.epsilon)
        to_new, to_prev = (divide(v, stable, step.epsilon) for v in (new, prev))
        if step.product == "all":
            return Flow(rows, z, self._bias(rows), to_new.unsqueeze(-2), to_prev)
        (z_all,) = self._affine(slice(None))
        i, f, _, o = z_all.sigmoid().chunk(4, dim=-1)
        of_new, of_prev, of_h = (
            torch.zeros_like(c) + share_product(step, gate, value)
            for gate, value in ((i, tanh(z)), (f, c_prev), (o, tanh(c)))
        )
        to_i, to_f = of_new * to_new, of_prev * to_prev
        shares = torch.stack([to_i, to_f, to_new - to_i, of_h], dim=-2)
        return Flow(
            slice(None), z_all, self._bias(slice(None)), shares, to_prev - to_f, keep=1.0 - of_h
        )

    def _flow_of_gru(self) -> Flow:
        """Gates r, z, n: ``n = tanh(w x + b + r * (u h_prev + c))``, ``h = (1 - z) n + z h_prev``.

        By default ``R_n = (1 - z) n / s(h) * R_h`` and ``R_h_prev = z h_prev / s(h) * R_h``. Where
        gates take a share, z takes one of both, and r one of the recurrent part of ``R_n``.
        """
        step, size, h_prev = self.step, self.size, self.h_prev.x
        rows = slice(2 * size, 3 * size)
        b_x, b_h = (None if b is None else b[rows] for b in (self.b_ih, self.b_hh))
        (gates,) = self._affine(slice(2 * size))
        r, z = gates.sigmoid().chunk(2, dim=-1)
        recurrent = linear_of_steps(h_prev, self.w_hh[rows], b_h)
        candidate = linear_of_steps(self.signal.x, self.w_ih[rows], b_x).addcmul_(r, recurrent)
        bias = None if b_x is None or b_h is None else torch.addcmul(b_x, r, b_h)
        n = tanh(candidate)
        new, prev = torch.addcmul(n, z, n, value=-1), z * h_prev
        stable = stabilize(new + prev, step.epsilon)
        to_new, to_prev = (divide(v, stable, step.epsilon) for v in (new, prev))
        if step.product == "all":
            return Flow(rows, candidate, bias, to_new.unsqueeze(-2), to_prev, reset=r)
        to_z_of_new = share_product(step, 1.0 - z, n) * to_new
        to_z_of_prev = share_product(step, z, h_prev) * to_prev
        of_recurrent = share_product(step, r, recurrent if b_h is None else recurrent - b_h)
        shares = [torch.zeros_like(r), to_z_of_new + to_z_of_prev, to_new - to_z_of_new]
        if bias is not None:
            bias = torch.cat([self._bias(slice(2 * size)).expand_as(gates), bias], dim=-1)
        return Flow(
            slice(None),
            torch.cat([gates, candidate], dim=-1),
            bias,
            torch.stack(shares, dim=-2),
            to_prev - to_z_of_prev,
            reset=torch.cat([torch.ones_like(gates), r], dim=-1),
            reset_share=of_recurrent,
        )

    def pull(
        self,
        n_targets: int,
        relevance: Tensor | None,
        ends: Sequence[Tensor | None],
        kept: Kept | None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the relevance of the input and of the initial state.

        Parameters
        ----------
        n_targets : int
            The number of explained targets.
        relevance : Tensor of shape (n_targets, n_steps, n_samples, n_units) or None
            The relevance of the states.
        ends : list of Tensor of shape (n_targets, n_samples, n_units) or None
            The relevance of the last state, and of the cell's.
        kept : Kept or None
            Where to add what is not passed on, the samples on the axis behind time.

        Returns
        -------
        relevance : Tensor of shape (n_targets, n_steps, n_samples, n_inputs)
            The relevance of the input.
        starts : list of Tensor of shape (n_targets, n_samples, n_units)
            The relevance of the initial state, and of the cell's.
        """
        size = self.size * (1 if self.step.product == "all" else 4)
        turned = None if relevance is None else self._turn(relevance, 1)
        passed: list[Tensor] = []
        starts: list[Tensor] = []
        for span in reversed(list(self._spans(n_targets * size))):
            part = self.during(span)
            arrived = None if turned is None else turned[:, span]
            found, starts = part._pull_span(n_targets, arrived, ends, starts, kept)
            passed.append(found)
        whole = passed[0] if len(passed) == 1 else torch.cat(passed[::-1], dim=1)
        return self._turn(whole, 1), starts

    def _pull_span(
        self,
        n_targets: int,
        relevance: Tensor | None,
        ends: Sequence[Tensor | None],
        behind: Sequence[Tensor],
        kept: Kept | None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Pull relevance through a run of some steps; see :meth:`pull`.

        ``behind`` is what the steps behind gave their initial states; empty for the last steps.
        """
        step, flow = self.step, self.flow()
        # Rules that look at the weights alone do not see that the reset gate scales some.
        reset = None if _is_blind(step.rule) else flow.reset
        operands = self._operands(flow, reset)
        splits = prepare(step, self.suffix, operands, flow.bias, flow.z)
        new, factor = self._give_reset_gate(flow, reset, operands[1], splits)
        # What one unit of a state's relevance becomes at the pre-activations, over s(z): the
        # affine map behind gives each input its contribution times that.
        coefficients = [split.ratio(new.flatten(-2)) for split in splits]

        hidden, units, cells = self._arrived(flow, n_targets, relevance, ends, behind)
        starts = [torch.zeros_like(v[0]) for v in (hidden, cells)[: len(self.starts)]]
        backward = coefficients if factor is None else [c * factor for c in coefficients]
        projection = None if self.w_hr is None else _Projection(self)
        project = None if projection is None else projection.pull
        recur(flow, splits, backward, Relevance(hidden, units, cells, starts), project)

        # Now the relevance of all states is known, and the inputs get theirs in one product.
        sources = cells.unsqueeze(-2)  # the state that gives relevance to each gate
        if flow.keep is not None:  # i, f and g get theirs from the cell, o from the state
            sources = torch.stack([cells, cells, cells, units], dim=-2)
        sources = sources.movedim(0, 1)
        ratios = [(c.unflatten(-1, new.shape[-2:]) * sources).flatten(-2) for c in coefficients]
        if kept is not None:
            account(kept, (new * sources).flatten(-2), splits, ratios)
            self._account_for_cells(kept, flow, cells)
            if projection is not None:
                projection.account(kept, hidden)
        return gather(splits, ratios, 0, operands[0]), starts

    def _give_reset_gate(
        self, flow: Flow, reset: Tensor | None, recurrent: Operand, splits: Sequence[Split]
    ) -> tuple[Tensor, Tensor | None]:
        """Return the shares of the gates, and what the state before gets of each one's part.

        Where ``step.product`` gives gates a share, a GRU's reset gate takes its own of what the
        candidate gives its recurrent part.
        """
        if flow.reset_share is None:
            return flow.new, reset
        candidate = slice(2 * self.size, None)
        coefficients = [split.ratio(flow.new.flatten(-2)) for split in splits]
        part = sum(
            coefficient[..., candidate] * recurrent.forward(v, weight, None)[..., candidate]
            for coefficient, split in zip(coefficients, splits, strict=True)
            for v, weight in split.terms[1]
        )
        new = flow.new.clone()
        new[..., 0, :] = flow.reset_share * part
        factor = torch.ones_like(flow.z) if reset is None else reset.clone()
        factor[..., candidate] *= 1.0 - flow.reset_share
        return new, factor

    def _arrived(
        self,
        flow: Flow,
        n_targets: int,
        relevance: Tensor | None,
        ends: Sequence[Tensor | None],
        behind: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the relevance that states, outputs and cells get from outside the recursion.

        A state is the cell's output, unless it is projected; both are then the same tensor. Where
        the output gate takes nothing, the output's relevance is the cell's: one tensor too.
        """
        n_steps, n_samples, n_states = self.h_prev.x.shape
        hidden = flow.z.new_zeros(n_steps, n_targets, n_samples, n_states)
        if relevance is not None:
            hidden.copy_(relevance.movedim(0, 1))
        units = hidden
        if self.w_hr is not None:
            units = hidden.new_zeros(n_steps, n_targets, n_samples, self.size)
        cells = units if flow.keep is None else torch.zeros_like(units)
        for states, start in zip((hidden, cells), behind, strict=False):
            states[-1] += start
        for states, end in zip((hidden, cells), ends, strict=False):
            if end is None:
                continue
            if self.last is not None:
                self._inject(states, end, self.last)
            elif not behind:
                states[-1] += end
        return hidden, units, cells

    def _account_for_cells(self, kept: Kept, flow: Flow, cells: Tensor) -> None:
        """Add to ``kept`` what is lost where a state is split: epsilon's share of s(c_t)."""
        if flow.prev is None:  # nothing is split
            return
        of_cell = flow.new if flow.keep is None else flow.new[..., :-1, :]
        lost = 1.0 - of_cell.sum(-2) - flow.prev
        kept.add("epsilon" if self.step.epsilon else "dropped", lost * cells.movedim(0, 1))

    def _operands(self, flow: Flow, reset: Tensor | None) -> list[Operand]:
        """Return the inputs and the states as the operands of the affine map."""

        def recurrent(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            z = linear_of_steps(x, weight, bias)
            return z if reset is None else z * reset

        operands = [
            Operand(self.signal, self.w_ih[flow.rows], linear_of_steps, adjoint_of_steps),
            Operand(self.h_prev, self.w_hh[flow.rows], recurrent, adjoint_of_steps),
        ]
        if isinstance(self.step.rule, ZBox) and any(o.signal.low is None for o in operands):
            raise TypeError(
                f"The z-box rule on {say_layer(self.step.name)} ({self.step.layer}) needs the "
                "bounds of its inputs and states, and states behind a ReLU have none; give "
                "the layer another rule."
            )
        return operands

    @staticmethod
    def _inject(states: Tensor, end: Tensor, last: Tensor) -> None:
        """Add the relevance of the last state of each sample where these steps have it."""
        inside = (last >= 0) & (last < len(states))
        index = last.clamp(0, len(states) - 1)[None, None, :, None].expand(1, *end.shape)
        states.scatter_add_(0, index, (end * inside[:, None])[None])


class _Projection:
    """The affine map from the outputs of an LSTM's cells to its states, ``h = w_hr (o tanh c)``.

    Parameters
    ----------
    run : Run
        The run of the layer.
    """

    def __init__(self, run: Run) -> None:
        assert run.w_hr is not None
        size = run.size
        (gate,) = run._affine(slice(3 * size, 4 * size))
        x = gate.sigmoid_() * tanh(run.trace.cells[1:])
        one = x.new_ones(1, 1, size)
        operand = Operand(Signal(x, False, -one, one), run.w_hr, linear_of_steps, adjoint_of_steps)
        z = linear_of_steps(x, run.w_hr)
        self.splits = prepare(run.step, f"{run.suffix}_hr", [operand], None, z)
        self.coefficients = [split.ratio(torch.ones_like(z)) for split in self.splits]

    def pull(self, t: int, relevance: Tensor) -> Tensor:
        """Return the relevance of the outputs at one step, from that of the states."""
        passed = []
        for split, coefficient in zip(self.splits, self.coefficients, strict=True):
            for mapped, weight in split.terms[0]:
                own = mapped[t] if len(mapped) > 1 else mapped[0]
                passed.append(own * torch.matmul(relevance * coefficient[t], weight))
        return sum(passed[1:], start=passed[0])

    def account(self, kept: Kept, hidden: Tensor) -> None:
        """Add to ``kept`` what the rule keeps of the relevance of all states."""
        relevance = hidden.movedim(0, 1)
        ratios = [relevance * coefficient for coefficient in self.coefficients]
        account(kept, relevance, self.splits, ratios)


def _is_blind(rule: Any) -> bool:
    """Return whether a rule looks at the weights alone: w-square and flat."""
    return all(input_map is x_one for part in rule.parts() for input_map, _ in part.terms)


def _mode(layer: Any) -> str:
    """Return the kind of cell of a layer."""
    if isinstance(layer, nn.LSTM | nn.LSTMCell):
        return "LSTM"
    if isinstance(layer, EchoState):
        return "ESN"
    return "GRU" if isinstance(layer, nn.GRU | nn.GRUCell) else layer.nonlinearity
