r"""Relevance through one direction of one recurrent layer: the recursion back in time.

To relevance all cells are alike. A state is the sum of a candidate and of what is left of the
state before: :math:`c_t = i_t g_t + f_t c_{t-1}` in an LSTM, :math:`h_t = (1 - z_t) n_t + z_t
h_{t-1}` in a GRU, the candidate alone in a plain RNN. A state's relevance is split by contribution;
the candidate's part passes its activation and is shared by the rule among the inputs
:math:`(x_t, h_{t-1})` of the affine map before it. Gates get nothing unless ``step.product`` says
so; then their part passes the sigmoid and is shared in the same way. In a GRU the recurrent
contributions to the candidate are :math:`r_j w_{ij} h_i`.

All of this is linear in the relevance of the states, with coefficients that are known beforehand.
So whatever does not depend on the step behind is done at once for all steps: torch's fused kernel
gives the states, one product the gates, one product the relevance of the inputs; the recursion
itself needs one product with the recurrent weights and three small kernels a step. To this end
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

from sklrp.propagation.step import (
    Kept,
    Operand,
    Split,
    Step,
    account,
    divide,
    gather,
    prepare,
    share_product,
    stabilize,
)
from sklrp.rules import Signal, ZBox, x_one

_FUSED: dict[str, Callable[..., Any]] = {
    "LSTM": torch.lstm,
    "GRU": torch.gru,
    "tanh": torch.rnn_tanh,
    "relu": torch.rnn_relu,
}


class Flow(NamedTuple):
    """Where the relevance of a cell's state goes at every step, by the gates' activations.

    ``z`` are the pre-activations that get relevance, those of the gates in ``rows`` of the weights,
    and ``bias`` is their bias. ``new`` is each one's share, (n_steps, n_samples, n_gates, n_units),
    and ``prev`` that of the state before.
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

    Its ``h`` are the states, (n_steps, n_samples, n_units), and ``ends`` the last state and an
    LSTM's last cell state, (n_samples, n_units).

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
        self.step, self.suffix = step, suffix
        self.mode = _mode(step.layer)
        self.reverse = suffix.endswith("_reverse")
        self.time = torch.arange(len(signal.x), device=signal.x.device)[:, None]
        self.last = None if lengths is None else lengths - 1
        names = ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if step.layer.bias else ()))
        weights = [getattr(step.layer, name + suffix).detach() for name in names]
        self.w_ih, self.w_hh, *biases = weights
        self.b_ih, self.b_hh = biases or (None, None)
        self.size = self.w_hh.shape[1]

        values = (signal.x, signal.low, signal.high, signal.seen)
        x, low, high, seen = (None if v is None else self._turn(v) for v in values)
        assert x is not None
        self.signal = Signal(x.contiguous(), signal.nonnegative, low, high, seen)
        zero = x.new_zeros(x.shape[1], self.size)
        self.starts = list(starts) or [zero] * (2 if self.mode == "LSTM" else 1)
        hx = [start[None].contiguous() for start in self.starts]
        states, *last = _FUSED[self.mode](
            self.signal.x, hx if self.mode == "LSTM" else hx[0], weights, bool(biases), 1,
            0.0, False, False, False,
        )  # fmt: skip
        # LSTM and tanh keep states within (-1, 1), a GRU's lie between those and the initial one.
        bound = self.starts[0].abs().clamp(min=1.0) if starts else x.new_ones(1, self.size)
        low, high = (None, None) if self.mode == "relu" else (-bound[None], bound[None])
        nonnegative = self.mode == "relu" and bool((self.starts[0] >= 0).all())
        before = torch.cat([self.starts[0][None], states[:-1]])
        self.h_prev = Signal(before, nonnegative, low, high)
        self.h = Signal(self._turn(states), self.mode == "relu", low, high)
        if self.last is not None:
            traces = [states, self.trace[3][1:]] if self.mode == "LSTM" else [states]
            last = [v.take_along_dim(self.last[None, :, None], 0) for v in traces]
        end, *cell = [v[0] for v in last]
        low, high = (None if v is None else v[0] for v in (low, high))
        self.ends = [Signal(end, self.h.nonnegative, low, high), *map(Signal, cell)]

    def _turn(self, v: Tensor, dim: int = 0) -> Tensor:
        """Turn time, on axis ``dim``, around if the direction does; padding stays at the end."""
        if not self.reverse:
            return v
        if self.last is None:
            return v.flip(dim)
        index = torch.where(self.time <= self.last, self.last - self.time, self.time)[..., None]
        return v.take_along_dim(index[(None,) * dim], dim)

    def flow(self) -> Flow:
        """Return where the relevance of the states goes."""
        if self.mode == "LSTM":
            return self._flow_of_lstm()
        if self.mode == "GRU":
            return self._flow_of_gru()
        (z,) = self._affine(slice(None))
        return Flow(slice(None), z, self._bias(slice(None)), torch.ones_like(z).unsqueeze(-2))

    @cached_property
    def trace(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The run of an LSTM: gates i and f, i * g, all cell states, g's pre-activations."""
        size = self.size
        opening, z = self._affine(slice(2 * size), slice(2 * size, 3 * size))
        i, f = opening.sigmoid_().chunk(2, dim=-1)
        new = _tanh(z).mul_(i)
        cells = new.new_empty(len(new) + 1, *new.shape[1:])
        cells[0] = self.starts[1]
        scan = _Scan(self.starts[1])
        steps = scan.steps(cells)
        for i_g, forget, before, cell in zip(*map(scan.steps, (new, f)), steps[:-1], steps[1:]):
            scan.add_product(i_g, forget, before, out=cell)
        return i, f, new, cells, z

    def _flow_of_lstm(self) -> Flow:
        """Gates i, f, g, o: ``c = i * g + f * c_prev``, ``h = o * tanh(c)``."""
        step, size = self.step, self.size
        i, f, new, cells, z = self.trace
        c, c_prev = cells[1:], cells[:-1]
        stable = stabilize(c, step.epsilon)
        to_new, to_prev = (divide(v, stable, step.epsilon) for v in (new, f * c_prev))
        rows = slice(2 * size, 3 * size)
        if step.product == "all":
            return Flow(rows, z, self._bias(rows), to_new.unsqueeze(-2), to_prev)
        (every,) = self._affine(slice(None))
        o = every[..., 3 * size :].sigmoid()
        to_i, to_f, to_o = (
            torch.zeros_like(c) + share_product(step, gate, value)
            for gate, value in ((i, z.tanh()), (f, c_prev), (o, c.tanh()))
        )
        shares = torch.stack([to_i * to_new, to_f * to_prev, to_new - to_i * to_new, to_o], dim=-2)
        keep = 1.0 - to_o
        return Flow(
            slice(None), every, self._bias(slice(None)), shares, to_prev - to_f * to_prev, keep
        )

    def _flow_of_gru(self) -> Flow:
        """Gates r, z, n: ``n = tanh(w x + b + r * (u h_prev + c))``, ``h = (1-z) * n + z * h_prev``."""
        step, size, h_prev = self.step, self.size, self.h_prev.x
        rows = slice(2 * size, 3 * size)
        b_x, b_h = (None if b is None else b[rows] for b in (self.b_ih, self.b_hh))
        (gates,) = self._affine(slice(2 * size))
        r, z = gates.sigmoid().chunk(2, dim=-1)
        recurrent = linear(h_prev, self.w_hh[rows], b_h)
        candidate = linear(self.signal.x, self.w_ih[rows], b_x).addcmul_(r, recurrent)
        bias = None if b_x is None or b_h is None else torch.addcmul(b_x, r, b_h)
        n = _tanh(candidate)
        new, prev = torch.addcmul(n, z, n, value=-1), z * h_prev
        stable = stabilize(new + prev, step.epsilon)
        to_new, to_prev = (divide(v, stable, step.epsilon) for v in (new, prev))
        if step.product == "all":
            return Flow(rows, candidate, bias, to_new.unsqueeze(-2), to_prev, reset=r)
        of_new, of_prev = share_product(step, 1.0 - z, n), share_product(step, z, h_prev)
        of_recurrent = share_product(step, r, recurrent if b_h is None else recurrent - b_h)
        to_z = of_new * to_new + of_prev * to_prev
        shares = torch.stack([torch.zeros_like(r), to_z, to_new - of_new * to_new], dim=-2)
        if bias is not None:
            bias = torch.cat([self._bias(slice(2 * size)).expand_as(gates), bias], dim=-1)
        return Flow(
            slice(None),
            torch.cat([gates, candidate], dim=-1),
            bias,
            shares,
            to_prev - of_prev * to_prev,
            reset=torch.cat([torch.ones_like(gates), r], dim=-1),
            reset_share=of_recurrent,
        )

    def _bias(self, rows: slice) -> Any:
        return None if self.b_ih is None or self.b_hh is None else (self.b_ih + self.b_hh)[rows]

    def _affine(self, *slices: slice) -> list[Tensor]:
        """Return the pre-activations of some gates, by one product for inputs and states."""
        inputs = torch.cat([self.signal.x, self.h_prev.x], dim=-1)
        weight = torch.cat([self.w_ih, self.w_hh], dim=1)
        return [linear(inputs, weight[rows], self._bias(rows)) for rows in slices]

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
        reset = None if _is_blind(step.rule) else flow.reset
        operands = self._operands(flow, reset)
        splits = prepare(step, self.suffix, operands, flow.bias, flow.z)
        coefficients = [split.ratio(flow.new.flatten(-2)) for split in splits]
        factor, own = reset, flow.new
        if flow.reset_share is not None:
            # What the reset gate takes of the recurrent part of the candidate is passed on by it.
            size = self.size
            part = sum(
                ratio[..., 2 * size :] * operands[1].forward(mapped, weight, None)[..., 2 * size :]
                for ratio, split in zip(coefficients, splits, strict=True)
                for mapped, weight in split.terms[1]
            )
            own = flow.new.clone()
            own[..., 0, :] = flow.reset_share * part
            coefficients = [split.ratio(own.flatten(-2)) for split in splits]
            factor = torch.ones_like(flow.z) if reset is None else reset.clone()
            factor[..., 2 * size :] *= 1.0 - flow.reset_share

        n_steps, n_samples, _ = self.h.x.shape
        hidden = flow.z.new_zeros(n_steps, n_targets, n_samples, self.size)
        if relevance is not None:
            hidden.copy_(self._turn(relevance, 1).movedim(0, 1))
        cells = hidden if flow.keep is None else torch.zeros_like(hidden)
        for states, end in zip((hidden, cells), ends, strict=False):
            if end is not None:
                self._inject(states, end)
        starts = [torch.zeros_like(hidden[0]) for _ in self.starts]
        backward = coefficients if factor is None else [c * factor for c in coefficients]
        _recur(flow, splits, backward, hidden, cells, starts)

        sources = cells.unsqueeze(-2)
        if flow.keep is not None:
            sources = torch.stack([cells, cells, cells, hidden], dim=-2)
        sources = sources.movedim(0, 1)
        ratios = [
            (c.unflatten(-1, own.shape[-2:]) * sources).flatten(-2) for c in coefficients
        ]
        if kept is not None:
            account(kept, (own * sources).flatten(-2), splits, ratios)
            if flow.prev is not None:
                gates = slice(None if flow.keep is None else -1)
                lost = 1.0 - flow.new[..., gates, :].sum(-2) - flow.prev
                kept.add("epsilon" if step.epsilon else "dropped", lost * cells.movedim(0, 1))
        return self._turn(gather(splits, ratios, 0, operands[0]), 1), starts

    def _operands(self, flow: Flow, reset: Tensor | None) -> list[Operand]:
        """Return the inputs and the states as the operands of the affine map."""

        def recurrent(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            z = linear(x, weight, bias)
            return z if reset is None else z * reset

        operands = [
            Operand(self.signal, self.w_ih[flow.rows], linear, _adjoint),
            Operand(self.h_prev, self.w_hh[flow.rows], recurrent, _adjoint),
        ]
        if isinstance(self.step.rule, ZBox) and any(o.signal.low is None for o in operands):
            raise TypeError(
                f"The z-box rule on layer {self.step.name!r} ({self.step.layer}) needs the bounds "
                "of its states and inputs, but those behind a ReLU in a recurrent layer have "
                "none; give the layer another rule."
            )
        return operands

    def _inject(self, states: Tensor, end: Tensor) -> None:
        """Add the relevance of the last state where that state is."""
        if self.last is None:
            states[-1] += end
        else:
            index = self.last[None, None, :, None].expand(1, *end.shape)
            states.scatter_add_(0, index, end[None])


def _recur(
    flow: Flow,
    splits: Sequence[Split],
    coefficients: Sequence[Tensor],
    hidden: Tensor,
    cells: Tensor,
    starts: Sequence[Tensor],
) -> None:
    """Run back in time: from the relevance that states got from outside to all that they get.

    ``hidden`` and ``cells``, the same tensor where a cell has but one state, and ``starts`` are
    overwritten.
    """
    n_steps, n_targets, n_samples, size = cells.shape
    n_gates = flow.new.shape[-2]
    # Loops are shortest over tensors of the same shape: axes of length one are left out.
    gate = (1,) if n_gates > 1 else ()
    state = (*((n_targets,) if n_targets > 1 else ()), n_samples, *gate, size)
    product, ratio = (cells.new_empty(n_targets * n_samples, n * size) for n in (1, n_gates))
    scan = _Scan(product.view(state))
    to_cell = slice(None if flow.keep is None else n_gates - 1)
    (back,), (gates,) = (
        scan.steps(v[None])
        for v in (product.view(state), ratio.view(*state[: -1 - len(gate)], *((n_gates,) * len(gate)), size))
    )

    def by_step(v: Tensor) -> Sequence[Any]:
        return scan.steps(v.expand(n_steps, n_samples, size).reshape(n_steps, n_samples, *gate, size))

    every = scan.steps(cells.view(n_steps, *state))
    c = [*scan.steps(starts[-1].view(1, *state)), *every]
    h = [
        *scan.steps(starts[0].view(1, *state)),
        *(every if hidden is cells else scan.steps(hidden.view(n_steps, *state))),
    ]
    prev, keep = (None if v is None else by_step(v) for v in (flow.prev, flow.keep))
    parts = [
        (
            scan.steps(coefficient.unflatten(-1, (n_gates, size)) if gate else coefficient),
            [(by_step(mapped), weight) for mapped, weight in split.terms[1]],
        )
        for coefficient, split in zip(coefficients, splits, strict=True)
    ]
    with np.errstate(all="ignore"):
        for t in range(n_steps - 1, -1, -1):
            cell, before = c[t + 1], h[t]
            if keep is not None:
                scan.add_product(cell, keep[t], h[t + 1], out=cell)
            if prev is not None:
                scan.add_product(c[t], prev[t], cell, out=c[t])
            for coefficient, terms in parts:
                if keep is None:
                    scan.multiply(coefficient[t], cell, out=gates)
                else:
                    scan.multiply(coefficient[t][:, to_cell], cell, out=gates[..., to_cell, :])
                    scan.multiply(coefficient[t][:, -1:], h[t + 1], out=gates[..., -1:, :])
                for mapped, weight in terms:
                    torch.mm(ratio, weight, out=product)
                    scan.add_product(before, mapped[t], back, out=before)


class _Scan:
    """The kernels of a recursion over steps, on tensors in the shape of ``state``.

    On a CPU they are NumPy's, on the same memory: those start in a third of the time of torch's.
    """

    def __init__(self, state: Tensor) -> None:
        self.on_cpu = state.device.type == "cpu"
        self.multiply: Callable[..., Any] = np.multiply if self.on_cpu else torch.mul
        self.scratch = torch.empty_like(state).numpy() if self.on_cpu else None

    def steps(self, v: Tensor) -> Sequence[Any]:
        """Return a tensor's steps as what the kernels take."""
        return list(v.numpy()) if self.on_cpu else v.unbind()

    def add_product(self, base: Any, a: Any, b: Any, out: Any) -> None:
        """Write ``base + a * b`` to ``out``."""
        if self.on_cpu:
            np.add(base, np.multiply(a, b, out=self.scratch), out=out)
        else:
            torch.addcmul(base, a, b, out=out)


def _tanh(z: Tensor) -> Tensor:
    """Return the hyperbolic tangent, on a CPU by a function that is three times as fast there."""
    if z.device.type != "cpu":
        return z.tanh()
    e = (z + z).clamp_(max=60.0).expm1_()
    return e.div_(e + 2.0)


def _mode(layer: Any) -> str:
    """Return the kind of cell of a layer."""
    if isinstance(layer, nn.LSTM | nn.LSTMCell):
        return "LSTM"
    return "GRU" if isinstance(layer, nn.GRU | nn.GRUCell) else layer.nonlinearity


def _is_blind(rule: Any) -> bool:
    """Return whether a rule looks at the weights alone: w-square and flat."""
    return all(input_map is x_one for part in rule.parts() for input_map, _ in part.terms)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``F.linear`` of (n_steps, n_samples, n_inputs), on a CPU as a convolution of width 1.

    oneDNN, which does those, is twice as fast as the linear algebra behind ``F.linear`` on some
    processors, and nowhere slower.
    """
    if x.dtype != torch.float32 or not x.is_cpu or not torch.backends.mkldnn.is_available():
        return F.linear(x, weight, bias)
    x = x.unsqueeze(2).permute(0, 3, 1, 2)  # channels last
    return F.conv2d(x, weight[:, :, None, None], bias).permute(0, 2, 3, 1).squeeze(2)


def _adjoint(ratio: Tensor, weight: Tensor) -> Tensor:
    """Return the adjoint of ``linear``, for (n_targets, n_steps, n_samples, n_outputs)."""
    return linear(ratio.flatten(0, 1), weight.t()).unflatten(0, ratio.shape[:2])
