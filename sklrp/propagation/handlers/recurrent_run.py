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
So whatever does not depend on the step behind is done at once for all steps: torch's fused kernel
gives the states, one product the gates, one product the relevance of the inputs; the recursion
itself needs one product with the recurrent weights and three small operations a step. To this end
time leads: activations are (n_steps, n_samples, n_units), the relevance of states is (n_steps,
n_targets, n_samples, n_units), both in the order in which the direction runs.

References
----------
.. [Arras2017] Arras et al., "Explaining recurrent neural network predictions in sentiment
   analysis", WASSA 2017.
.. [Arras2019] Arras et al., "Explaining and interpreting LSTMs", LNCS 11700, 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sklrp._checks import say_layer
from sklrp.modules import EchoState
from sklrp.propagation.fast import gather, merge
from sklrp.propagation.formula import Operand, Split, account, divide, stabilize
from sklrp.propagation.sharing import prepare, share_product
from sklrp.propagation.tape import Kept, Step
from sklrp.rules import Signal, ZBox, x_one

_FUSED: dict[str, Callable[..., Any]] = {
    "LSTM": torch.lstm,
    "GRU": torch.gru,
    "tanh": torch.rnn_tanh,
    "relu": torch.rnn_relu,
}


class Trace(NamedTuple):
    """What an LSTM computed on its way, all (n_steps, n_samples, n_units)."""

    i: Tensor
    f: Tensor
    z: Tensor  # the pre-activation of the candidate g
    new: Tensor  # i * g
    cells: Tensor  # one more than steps: the initial one comes first


class Flow(NamedTuple):
    """Where the relevance of a cell's state goes at every step.

    ``z`` are the pre-activations that get relevance, those of the gates in ``rows`` of the
    weights, and ``bias`` is their bias. ``new`` is the share of each, (n_steps, n_samples,
    n_gates, n_units), and ``prev`` that of the state before.
    """

    rows: slice
    z: Tensor
    bias: Tensor | None
    new: Tensor
    prev: Tensor | None = None
    keep: Tensor | None = None  # what an LSTM's output gate, the last one, leaves to the cell
    reset: Tensor | None = None  # a GRU's reset gate, which scales the candidate's recurrent part
    reset_share: Any = None  # and what it takes of the relevance of that part


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
        self.h = Signal(self._turn(states), positive, *box)
        # The recursion takes h_{t-1} at step t: the states one step later, the initial one first.
        before = torch.cat([self.starts[0][None], states[:-1]])
        self.h_prev = Signal(before, positive and bool((self.starts[0] >= 0).all()), *box)
        end, *cell = [v[0] for v in self._at_the_end(states, last)]
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
            return last
        traces = [states, self.trace.cells[1:]] if self.mode == "LSTM" else [states]
        return [v.take_along_dim(self.last[None, :, None], 0) for v in traces]

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
        """Return the states of all steps, and the last one, (1, n_samples, n_units)."""
        hx = [start[None].contiguous() for start in self.starts]
        own = (self.w_ih, self.w_hh, self.b_ih, self.b_hh, self.w_hr)
        weights = [v for v in own if v is not None]
        return _FUSED[self.mode](
            self.signal.x, hx if self.mode == "LSTM" else hx[0], weights, self.b_ih is not None, 1,
            0.0, False, False, False,
        )  # fmt: skip

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
    def trace(self) -> Trace:
        """What an LSTM computed: ``c = i * g + f * c_prev``."""
        size = self.size
        # i and f, then g; the output gate is not needed to follow the cell.
        opening, z = self._affine(slice(2 * size), slice(2 * size, 3 * size))
        i, f = opening.sigmoid_().chunk(2, dim=-1)
        new = _tanh(z).mul_(i)
        cells = new.new_empty(len(new) + 1, *new.shape[1:])
        cells[0] = self.starts[1]
        kernels = Kernels(self.starts[1])
        c, n, by = (kernels.steps(v) for v in (cells, new, f))
        with np.errstate(all="ignore"):
            for t in range(len(n)):
                kernels.add_product(n[t], by[t], c[t], out=c[t + 1])
        return Trace(i, f, z, new, cells)

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
        step, size, (i, f, z, new, cells) = self.step, self.size, self.trace
        c, c_prev, rows = cells[1:], cells[:-1], slice(2 * size, 3 * size)
        stable = stabilize(c, step.epsilon)
        to_new, to_prev = (divide(v, stable, step.epsilon) for v in (new, f * c_prev))
        if step.product == "all":
            return Flow(rows, z, self._bias(rows), to_new.unsqueeze(-2), to_prev)
        (z_all,) = self._affine(slice(None))
        o = z_all[..., 3 * size :].sigmoid()
        of_new, of_prev, of_h = (
            torch.zeros_like(c) + share_product(step, gate, value)
            for gate, value in ((i, _tanh(z)), (f, c_prev), (o, _tanh(c)))
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
        n = _tanh(candidate)
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
        step, flow = self.step, self.flow()
        # Rules that look at the weights alone do not see that the reset gate scales some.
        reset = None if _is_blind(step.rule) else flow.reset
        operands = self._operands(flow, reset)
        splits = prepare(step, self.suffix, operands, flow.bias, flow.z)
        new, factor = self._give_reset_gate(flow, reset, operands[1], splits)
        # What one unit of a state's relevance becomes at the pre-activations, over s(z): the
        # affine map behind gives each input its contribution times that.
        coefficients = [split.ratio(new.flatten(-2)) for split in splits]

        hidden, units, cells = self._arrived(flow, n_targets, relevance, ends)
        starts = [torch.zeros_like(v[0]) for v in (hidden, cells)[: len(self.starts)]]
        backward = coefficients if factor is None else [c * factor for c in coefficients]
        projection = None if self.w_hr is None else _Projection(self)
        _recur(flow, splits, backward, _Relevance(hidden, units, cells, starts), projection)

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
        return self._turn(gather(splits, ratios, 0, operands[0]), 1), starts

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
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the relevance that states, outputs and cells get from outside the recursion.

        A state is the cell's output, unless it is projected; both are then the same tensor. Where
        the output gate takes nothing, the output's relevance is the cell's: one tensor too.
        """
        n_steps, n_samples, n_states = self.h.x.shape
        hidden = flow.z.new_zeros(n_steps, n_targets, n_samples, n_states)
        if relevance is not None:
            hidden.copy_(self._turn(relevance, 1).movedim(0, 1))
        units = hidden
        if self.w_hr is not None:
            units = hidden.new_zeros(n_steps, n_targets, n_samples, self.size)
        cells = units if flow.keep is None else torch.zeros_like(units)
        for states, end in zip((hidden, cells), ends, strict=False):
            if end is not None:
                self._inject(states, end)
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
            Operand(self.signal, self.w_ih[flow.rows], linear_of_steps, _adjoint),
            Operand(self.h_prev, self.w_hh[flow.rows], recurrent, _adjoint),
        ]
        if isinstance(self.step.rule, ZBox) and any(o.signal.low is None for o in operands):
            raise TypeError(
                f"The z-box rule on {say_layer(self.step.name)} ({self.step.layer}) needs the "
                "bounds of its inputs and states, and states behind a ReLU have none; give "
                "the layer another rule."
            )
        return operands

    def _inject(self, states: Tensor, end: Tensor) -> None:
        """Add the relevance of the last state where that state is."""
        if self.last is None:
            states[-1] += end
        else:
            index = self.last[None, None, :, None].expand(1, *end.shape)
            states.scatter_add_(0, index, end[None])


class _Relevance(NamedTuple):
    """The relevance of the states, of the outputs of cells, of cells, and of what they start as.

    Some of them may be the same tensor; see :meth:`Run._arrived`.
    """

    hidden: Tensor
    units: Tensor
    cells: Tensor
    starts: Sequence[Tensor]


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
        x = gate.sigmoid_() * _tanh(run.trace.cells[1:])
        one = x.new_ones(1, 1, size)
        operand = Operand(Signal(x, False, -one, one), run.w_hr, linear_of_steps, _adjoint)
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


class _Views(NamedTuple):
    """What the recursion takes at each step, as :class:`Kernels` take it.

    ``c[t + 1]``, ``u[t + 1]`` and ``h[t + 1]`` are the relevance of cells, outputs and states
    behind step ``t``, ``c[0]`` and ``h[0]`` that of the initial ones.
    """

    h: Sequence[Any]
    u: Sequence[Any]
    c: Sequence[Any]
    prev: Sequence[Any] | None
    keep: Sequence[Any] | None
    parts: Sequence[tuple[Any, Sequence[tuple[Any, Tensor]]]]  # coefficients, maps and weights


def _recur(
    flow: Flow,
    splits: Sequence[Split],
    coefficients: Sequence[Tensor],
    relevance: _Relevance,
    projection: _Projection | None,
) -> None:
    """Run back in time: from the relevance that states got from outside to all that they get.

    The tensors of ``relevance`` are overwritten.
    """
    n_steps, n_targets, n_samples, size = relevance.cells.shape
    cells, n_states = relevance.cells, relevance.hidden.shape[-1]
    n_gates = flow.new.shape[-2]
    # Small operations start fastest on tensors of one shape: axes of length one are left out.
    targets = (n_targets,) if n_targets > 1 else ()
    gates, gate = ((n_gates,), (1,)) if n_gates > 1 else ((), ())
    state = (*targets, n_samples, *gate, n_states)
    ratio = cells.new_empty(n_targets * n_samples, n_gates * size)
    product = cells.new_empty(n_targets * n_samples, n_states)
    of_cell = Kernels(cells.new_empty(*targets, n_samples, *gate, size))
    kernels = Kernels(product.view(state))
    (ratio_view,) = kernels.steps(ratio.view(1, *targets, n_samples, *gates, size))
    (product_view,) = kernels.steps(product.view(1, *state))
    shapes = (*targets, n_samples, *gate), (n_samples, *gates, size)
    h, u, c, prev, keep, parts = _views(kernels, shapes, flow, splits, coefficients, relevance)
    with np.errstate(all="ignore"):
        for t in range(n_steps - 1, -1, -1):
            cell = c[t + 1]
            if projection is not None:
                relevance.units[t] += projection.pull(t, relevance.hidden[t])
            if keep is not None:  # R_c += keep * R_u; without it they are one tensor
                of_cell.add_product(cell, keep[t], u[t + 1], out=cell)
            if prev is not None:  # R_c_prev += prev * R_c
                of_cell.add_product(c[t], prev[t], cell, out=c[t])
            for coefficient, terms in parts:
                if keep is None:  # ratio = coefficient * R_c, at all gates
                    kernels.multiply(coefficient[t], cell, out=ratio_view)
                else:  # the output gate, the last one, gets from R_u
                    kernels.multiply(coefficient[t][:, :-1], cell, out=ratio_view[..., :-1, :])
                    kernels.multiply(coefficient[t][:, -1:], u[t + 1], out=ratio_view[..., -1:, :])
                for v, weight in terms:  # R_h_prev += map(h_prev) * (ratio @ map(w))
                    torch.mm(ratio, weight, out=product)
                    kernels.add_product(h[t], v[t], product_view, out=h[t])


def _views(
    kernels: Kernels,
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    flow: Flow,
    splits: Sequence[Split],
    coefficients: Sequence[Tensor],
    relevance: _Relevance,
) -> _Views:
    """Cut all tensors into steps; ``shapes`` are a state's without its units, and all gates'."""
    before, ratio = shapes
    hidden, units, cells, starts = relevance
    n_steps, _, n_samples, _ = cells.shape
    gate = (1,) if len(ratio) > 2 else ()

    def states(v: Tensor, start: Tensor) -> list[Any]:
        both = start.view(1, *before, -1), v.view(n_steps, *before, -1)
        return [one for tensor in both for one in kernels.steps(tensor)]

    def shares(v: Tensor) -> Sequence[Any]:
        wide = v.expand(n_steps, n_samples, v.shape[-1])
        return kernels.steps(wide.reshape(n_steps, n_samples, *gate, v.shape[-1]))

    c = states(cells, starts[-1])
    if hidden is cells:
        h = [*kernels.steps(starts[0].view(1, *before, -1)), *c[1:]]
    else:
        h = states(hidden, starts[0])
    u = h if units is hidden else c
    if units is not hidden and units is not cells:
        u = states(units, torch.zeros_like(units[0]))
    prev, keep = (None if v is None else shares(v) for v in (flow.prev, flow.keep))
    parts = [
        (
            kernels.steps(coefficient.view(n_steps, *ratio)),
            [(shares(v), weight) for v, weight in terms],
        )
        for coefficient, terms in merge(splits, coefficients, 1)
    ]
    return _Views(h, u, c, prev, keep, parts)


class Kernels:
    """Operations on a state at one step, for recursions over steps.

    On a CPU they are NumPy's, on torch's memory: those start in a third of the time.

    Parameters
    ----------
    state : Tensor
        A state, whose shape those have that are added to.
    """

    def __init__(self, state: Tensor) -> None:
        self.on_cpu = _on_cpu(state)
        library: Any = np if self.on_cpu else torch
        self.multiply: Callable[..., Any] = library.multiply
        self.tanh: Callable[..., Any] = library.tanh
        self.scratch = torch.empty_like(state).numpy() if self.on_cpu else None

    def steps(self, v: Tensor) -> Sequence[Any]:
        """Return the steps of a tensor as the operations take them."""
        return list(v.numpy()) if self.on_cpu else v.unbind()

    def add_product(self, base: Any, a: Any, b: Any, out: Any) -> None:
        """Write ``base + a * b`` to ``out``."""
        if self.on_cpu:
            np.add(base, np.multiply(a, b, self.scratch), out)
        else:
            torch.addcmul(base, a, b, out=out)


def _tanh(z: Tensor) -> Tensor:
    """Return the hyperbolic tangent; NumPy's is ten times as fast as torch's on a CPU."""
    return torch.from_numpy(np.tanh(z.numpy())) if _on_cpu(z) else z.tanh()


def _on_cpu(v: Tensor) -> bool:
    return v.device.type == "cpu"


def linear_of_steps(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``F.linear`` of (n_steps, n_samples, n_inputs), on a CPU as a convolution."""
    if bias is not None and bias.dim() > 1:  # a GRU's depends on its reset gate
        return linear_of_steps(x, weight).add_(bias)
    # oneDNN, which does those, is twice as fast as what torch takes for F.linear on AMD's CPUs.
    if x.dtype != torch.float32 or not _on_cpu(x) or not torch.backends.mkldnn.is_available():
        return F.linear(x, weight, bias)
    x = x.unsqueeze(2).permute(0, 3, 1, 2)  # channels last
    return F.conv2d(x, weight[:, :, None, None], bias).permute(0, 2, 3, 1).squeeze(2)


def _adjoint(ratio: Tensor, weight: Tensor) -> Tensor:
    """Return the adjoint of that map, for (n_targets, n_steps, n_samples, n_outputs)."""
    return linear_of_steps(ratio.flatten(0, 1), weight.t()).unflatten(0, ratio.shape[:2])


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
