r"""Handlers of recurrent layers and of the pooling of their states.

References
----------
.. [Arras2017] Arras et al., "Explaining recurrent neural network predictions in sentiment
   analysis", WASSA 2017.
.. [Arras2019] Arras et al., "Explaining and interpreting LSTMs", LNCS 11700, 2019.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sklrp.modules import StatePooling
from sklrp.propagation.step import (
    Kept,
    Operand,
    Pull,
    Step,
    account,
    bounded,
    contribute,
    divide,
    gather,
    prepare,
    register,
    stabilize,
)
from sklrp.rules import Signal


@register(nn.LSTM, kind="recurrent")
def _lstm(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    layer: Any = step.layer
    pulls: list[list[Pull]] = []
    signal = bounded(step, signal)
    for k in range(layer.num_layers):
        runs = [_lstm_run(step, signal, k, reverse) for reverse in range(1 + layer.bidirectional)]
        pulls.append([pull for _, pull in runs])
        x = torch.cat([states for states, _ in runs], dim=-1)
        one = x.new_ones(()).expand(1, *x.shape[1:])  # states lie in (-1, 1)
        signal = Signal(x, low=-one, high=one)

    def pull(relevance: Tensor, kept: Kept | None) -> Tensor:
        for runs in reversed(pulls):
            halves = relevance.split(layer.hidden_size, dim=-1)
            relevance = sum(
                pull_run(half, kept) for pull_run, half in zip(runs, halves, strict=True)
            )  # type: ignore[assignment]
        return relevance

    return signal, pull


def _lstm_run(step: Step, signal: Signal, k: int, reverse: int) -> tuple[Tensor, Pull]:
    """Run one direction of one LSTM layer; relevance by Arras et al., signal takes all.

    The fused kernel gives all states, so all gates come from one product over samples and times;
    the recursion back in time needs one product with the recurrent weights a step, and the
    relevance of the inputs is one product at the end.
    """
    layer: Any = step.layer
    suffix = f"l{k}{'_reverse' if reverse else ''}"
    w_ih, w_hh = (
        getattr(layer, f"{name}_{suffix}").detach() for name in ("weight_ih", "weight_hh")
    )
    biases = (
        [getattr(layer, f"{b}_{suffix}").detach() for b in ("bias_ih", "bias_hh")]
        if layer.bias
        else []
    )
    if reverse:
        signal = replace(signal.apply(lambda v: v.flip(1)), nonnegative=signal.nonnegative)
    x, size = signal.x, layer.hidden_size
    start = x.new_zeros(1, x.shape[0], size)
    h = torch.lstm(
        x, (start, start), [w_ih, w_hh, *biases], layer.bias, 1, 0.0, False, False, True
    )[0]
    h_prev = torch.cat([h.new_zeros(h.shape[0], 1, size), h[:, :-1]], dim=1)
    bias = biases[0] + biases[1] if biases else None
    gates = F.linear(x, w_ih, bias) + F.linear(h_prev, w_hh)
    i, f, z, _ = gates.split(size, dim=-1)
    i, f, new = i.sigmoid(), f.sigmoid(), z.tanh()
    c = torch.empty_like(new)
    for t in range(x.shape[1]):
        c[:, t] = i[:, t] * new[:, t] + (f[:, t] * c[:, t - 1] if t else 0.0)
    c_prev = torch.cat([c.new_zeros(c.shape[0], 1, size), c[:, :-1]], dim=1)
    stable = stabilize(c, step.epsilon)
    to_new, to_prev = (divide(v, stable, step.epsilon) for v in (i * new, f * c_prev))

    candidate = slice(2 * size, 3 * size)
    one = h.new_ones(()).expand(1, *h.shape[1:])
    operands = [
        Operand(signal, w_ih[candidate], F.linear, torch.matmul),
        Operand(Signal(h_prev, low=-one, high=one), w_hh[candidate], F.linear, torch.matmul),
    ]
    candidate_bias = None if bias is None else bias[candidate]

    def pull(relevance: Tensor, kept: Kept | None) -> Tensor:
        relevance = relevance.flip(2) if reverse else relevance
        splits = prepare(step, suffix, operands, candidate_bias, z)
        r_h, r_c = torch.zeros_like(relevance[:, :, 0]), torch.zeros_like(relevance[:, :, 0])
        cells, ratios = [], []
        for t in reversed(range(relevance.shape[2])):
            cell = r_c + r_h + relevance[:, :, t]
            r_new, r_c = to_new[:, t] * cell, to_prev[:, t] * cell
            ratio = [split.ratio(r_new, np.s_[:, t]) for split in splits]
            r_h = sum(  # type: ignore[assignment]
                mapped[:, t] * (r @ weight)
                for split, r in zip(splits, ratio, strict=True)
                for mapped, weight in split.terms[1]
            )
            cells.append(cell)
            ratios.append(ratio)
        stacked = [torch.stack(part[::-1], dim=2) for part in zip(*ratios, strict=True)]
        if kept is not None:
            cell = torch.stack(cells[::-1], dim=2)
            account(kept, to_new * cell, splits, stacked)
            cause = "epsilon" if step.epsilon else "dropped"
            kept.add(cause, (1.0 - to_new - to_prev) * cell)
            kept.add("initial_state", r_h + r_c)
        r_x = gather(splits, stacked, 0, operands[0])
        return r_x.flip(2) if reverse else r_x

    return (h.flip(1) if reverse else h), pull


@register(StatePooling)
def _state_pooling(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    x, pooling = signal.x, step.layer.pooling
    low, high = (None if v is None else v[:, 0] for v in (signal.low, signal.high))
    if pooling == "mean":
        z, n_steps = x.mean(1), x.shape[1]
        return Signal(z, low=low, high=high), contribute(
            step, x, z, lambda ratio: ratio[:, :, None] / n_steps
        )
    n_samples, n_steps, n_states = x.shape
    if pooling == "max":
        index = x.max(dim=1).indices
    else:  # the last step of a backward run is the first in time
        index = torch.full((n_samples, n_states), n_steps - 1, device=x.device)
        index[:, n_states // step.n_directions :] = 0
    index = index[:, None]

    def pull(relevance: Tensor, kept: Kept | None) -> Tensor:
        out = relevance.new_zeros(relevance.shape[0], *x.shape)
        return out.scatter_(
            2, index.expand(relevance.shape[0], *index.shape), relevance[:, :, None]
        )

    return Signal(x.gather(1, index)[:, 0], low=low, high=high), pull
