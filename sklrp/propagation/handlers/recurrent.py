"""Handlers of recurrent layers, of single cells, and of the pooling of states.

The engine finds them in its registry; each direction of a layer is a run of `.recurrent_run`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sklrp.modules import StatePooling
from sklrp.propagation.bounds import box, boxed, monotone, unknown
from sklrp.propagation.handlers.largest import size_of_samples, weigh_largest
from sklrp.propagation.handlers.recurrent_run import Run
from sklrp.propagation.nested import swap_signals
from sklrp.propagation.registry import register
from sklrp.propagation.sample_rows import fold_like
from sklrp.propagation.sharing import contribute
from sklrp.propagation.tape import Kept, Pull, Step
from sklrp.rules import Signal


def bounds_of_states(step: Step, *args: Any) -> Any:
    """Return the bounds that a cell sets to its states, whatever its input is."""

    def states(signal: Signal) -> Signal:
        low, high = signal.low, signal.high
        if low is None or high is None:
            return unknown(signal)
        one = signal.x[: len(signal.x) // 2]
        return box(signal, low.amin(0).expand_as(one), high.amax(0).expand_as(one))

    return swap_signals(step.handler(step, *args)[0], states)


@register(nn.LSTM, nn.GRU, nn.RNN, kind="recurrent", bounds=bounds_of_states)
def _layer(step: Step, sequence: Any, hx: Any = None) -> tuple[Any, Pull]:
    layer, given = step.layer, [sequence, *_states(hx)]
    axis = 0 if layer.batch_first else 1
    for value, own in zip(given, (axis, 1, 1), strict=False):
        check_sequence(step, value, 3, own)
    starts = [v.x.transpose(0, 1) if isinstance(v, Signal) else v for v in given[1:]]
    ways = ("", "_reverse") if layer.bidirectional else ("",)
    suffixes = [[f"_l{k}{way}" for way in ways] for k in range(layer.num_layers)]
    sequences = boxed(step, _as_signal(sequence, axis))
    out, ends, pull_back = run_layers(step, sequences, starts, suffixes)
    out, ends = replace(out, axis=axis), tuple(replace(end, axis=1) for end in ends)

    def pull(relevance: Any, kept: Kept | None) -> Any:
        return hand_back(given, pull_back(relevance[0], relevance[1:], kept), kept)

    return (out, ends if isinstance(layer, nn.LSTM) else ends[0]), pull


@register(nn.LSTMCell, nn.GRUCell, nn.RNNCell, kind="recurrent", bounds=bounds_of_states)
def _cell(step: Step, x: Any, hx: Any = None) -> tuple[Any, Pull]:
    given = [x, *_states(hx)]
    for value in given:
        check_sequence(step, value, 2, 0)
    starts = [(v.x if isinstance(v, Signal) else v)[None] for v in given[1:]]
    sequences = reshape(boxed(step, _as_signal(x, 0)), lambda v: v.unsqueeze(1))
    _, ends, pull_back = run_layers(step, sequences, starts, [[""]])
    ends = tuple(reshape(end, lambda v: v.squeeze(1)) for end in ends)

    def pull(relevance: Any, kept: Kept | None) -> Any:
        r_ends = relevance if isinstance(relevance, tuple) else (relevance,)
        passed = pull_back(None, [None if r is None else r.unsqueeze(2) for r in r_ends], kept)
        return hand_back(given, [r.squeeze(2) for r in passed], kept)

    return (ends if isinstance(step.layer, nn.LSTMCell) else ends[0]), pull


def run_layers(
    step: Step,
    signal: Signal,
    starts: Sequence[Tensor],
    suffixes: Sequence[Sequence[str]],
    make_run: Callable[..., Run] = Run,
) -> tuple[Signal, tuple[Signal, ...], Callable[..., list[Tensor]]]:
    """Run the layers and directions of a recurrent layer.

    Parameters
    ----------
    step : Step
        The step.
    signal : Signal of shape (n_samples, n_steps, n_features)
        The sequences.
    starts : list of Tensor of shape (n_runs, n_samples, n_units)
        The initial states of each layer and direction, and those of cells; empty for zeros.
    suffixes : list of list of str
        For each layer and direction the end of the names of its weights.
    make_run : callable, default=Run
        What runs one direction of one layer.

    Returns
    -------
    out : Signal of shape (n_samples, n_steps, n_directions * n_units)
        The states of the last layer, zero behind a sample's end.
    ends : tuple of Signal of shape (n_samples, n_runs, n_units)
        The states after the last step, and those of cells.
    pull : callable
        Takes the relevance of ``out``, a sequence with that of ``ends``, each or None, and
        ``kept``; returns the relevance of the sequences, of the initial states and of cells.
    """
    x = reshape(signal, lambda v: v.transpose(0, 1))  # time leads
    n_steps = len(x.x)
    lengths = None if signal.lengths is None else signal.lengths.to(x.x.device, torch.int64)
    levels: list[list[Run]] = []
    for row in suffixes:
        first = len(levels) * len(row)
        runs = [
            make_run(step, suffix, x, [start[first + d] for start in starts], lengths)
            for d, suffix in enumerate(row)
        ]
        levels.append(runs)
        x = _side_by_side([run.h for run in runs], -1)
    states = zip(*(run.ends for runs in levels for run in runs), strict=True)
    ends = tuple(
        _side_by_side([reshape(s, lambda v: v.unsqueeze(1)) for s in kind], 1) for kind in states
    )
    valid: Tensor | None = None
    if lengths is not None:
        valid = (torch.arange(n_steps, device=lengths.device)[:, None] < lengths)[..., None]
        x = replace(x, x=torch.where(valid, x.x, 0.0))
    out = reshape(x, lambda v: v.expand(n_steps, -1, -1).transpose(0, 1))
    return replace(out, lengths=signal.lengths), ends, partial(_pull_layers, levels, valid)


def _pull_layers(
    levels: Sequence[Sequence[Run]],
    valid: Tensor | None,
    relevance: Tensor | None,
    r_ends: Sequence[Tensor | None],
    kept: Kept | None,
) -> list[Tensor]:
    """Pull relevance through all layers, the last one first; see :func:`run_layers`.

    ``valid`` tells which steps, (n_steps, n_samples, 1), are of the sequences and not behind them.
    """
    n_targets = next(len(r) for r in (relevance, *r_ends) if r is not None)
    r = None if relevance is None else relevance.transpose(1, 2)  # time before the samples
    own = None if kept is None else Kept(kept.n_samples, axis=fold_like(1, kept.axis))
    if r is not None and valid is not None:
        r = _cut_padding(r, valid, own)
    r_starts: list[list[Tensor]] = []
    for k, runs in reversed(list(enumerate(levels))):
        level_ends = [None if end is None else end[:, :, k * len(runs) :] for end in r_ends]
        r, level_starts = _pull_directions(runs, n_targets, r, level_ends, own)
        r_starts = level_starts + r_starts
    if kept is not None and own is not None:
        for cause, amount in own.items():
            kept.add(cause, amount)
    assert r is not None
    stacked = [torch.stack(kind, dim=2) for kind in zip(*r_starts, strict=True)]
    return [r.transpose(1, 2), *stacked]


def _cut_padding(relevance: Tensor, valid: Tensor, kept: Kept | None) -> Tensor:
    """Return relevance without what arrived behind a sequence's end, where the output is zero."""
    if kept is not None:
        kept.add("padding", relevance * ~valid)
    return relevance * valid


def _pull_directions(
    runs: Sequence[Run],
    n_targets: int,
    relevance: Tensor | None,
    r_ends: Sequence[Tensor | None],
    kept: Kept | None,
) -> tuple[Tensor, list[list[Tensor]]]:
    """Pull relevance through the directions of one layer, which got the same input."""
    parts = [None] * len(runs) if relevance is None else relevance.chunk(len(runs), dim=-1)
    pulled = []
    for d, run in enumerate(runs):
        last = [None if end is None else end[:, :, d] for end in r_ends]
        pulled.append(run.pull(n_targets, parts[d], last, kept))
    first, *others = (r for r, _ in pulled)
    return sum(others, start=first), [start for _, start in pulled]


def _states(hx: Any) -> list[Any]:
    """Return the initial states as a list, empty if there are none."""
    return [] if hx is None else list(hx) if isinstance(hx, tuple | list) else [hx]


def _as_signal(value: Any, axis: int) -> Signal:
    """Return a signal, or a constant as one that lies in a box without extent."""
    if isinstance(value, Signal):
        return value
    x = value.movedim(axis, 0)
    return Signal(x, low=x, high=x)


def reshape(signal: Signal, function: Callable[[Tensor], Tensor]) -> Signal:
    """Return the signal in another shape."""
    values = (signal.x, signal.low, signal.high, signal.seen)
    x, low, high, seen = (None if v is None else function(v) for v in values)
    assert x is not None
    return replace(signal, x=x, low=low, high=high, seen=seen)


def _side_by_side(signals: Sequence[Signal], dim: int) -> Signal:
    """Return the states of several runs side by side."""

    def cat(values: Sequence[Any]) -> Any:
        if len(values) == 1 or any(v is None for v in values):
            return values[0] if len(values) == 1 else None
        return torch.cat(list(values), dim)

    x, low, high = map(cat, zip(*((s.x, s.low, s.high) for s in signals), strict=True))
    return Signal(x, all(s.nonnegative for s in signals), low, high)


def hand_back(given: Sequence[Any], passed: Sequence[Tensor], kept: Kept | None) -> Any:
    """Return the relevance of the signals among what the layer got; the rest keeps its own."""
    back = []
    for k, relevance in enumerate(passed):
        if k < len(given) and isinstance(given[k], Signal):
            back.append(relevance)
        elif kept is not None:  # a constant sequence is to the affine map what a bias is
            kept.add("initial_state" if k else "bias", relevance)
    return tuple(back) if len(back) > 1 else back[0]


def check_sequence(step: Step, value: Any, n_axes: int, axis: int) -> None:
    """Refuse an input without an axis of the samples, or with that axis at another place."""
    x = value.x if isinstance(value, Signal) else value
    if x.dim() != n_axes:
        what = "(n_samples, n_steps, n_features)" if n_axes == 3 else "(n_samples, n_features)"
        raise _refusal(step, f"it got a tensor of {x.dim()} axes; batch it, as {what}")
    if isinstance(value, Signal) and value.lengths is None and value.axis != axis:
        remedy = f"; set batch_first={not step.layer.batch_first}" if n_axes == 3 else ""
        raise _refusal(
            step, f"it takes the samples on axis {axis}, but they are on axis {value.axis}{remedy}"
        )


def _refusal(step: Step, why: str) -> TypeError:
    name = type(step.layer).__name__
    return TypeError(f"Relevance through {name} {step.name!r} is not supported: {why}.")


def _pooled_bounds(step: Step, states: Any) -> Signal:
    out, ends = states
    return monotone(step, (out, ends[0] if isinstance(ends, tuple) else ends))  # no cell states


@register(StatePooling, bounds=_pooled_bounds)
def _state_pooling(step: Step, states: Any) -> tuple[Signal, Pull]:
    try:
        out, ends = states
        h, *cells = ends if isinstance(ends, tuple) else (ends,)
    except (TypeError, ValueError):
        raise TypeError(
            f"StatePooling {step.name!r} must follow a recurrent layer directly, whose output and "
            "states it takes."
        ) from None
    none = [None] * len(cells)
    x, pooling = out.x, step.layer.pooling
    if pooling == "last":
        # The states of all layers and directions; those of the last layer are behind.
        n_runs, shape = x.shape[-1] // h.x.shape[-1], h.x.shape

        def last(relevance: Tensor, kept: Kept | None) -> Any:
            back = relevance.new_zeros(len(relevance), *shape)
            back[:, :, -n_runs:] = relevance.unflatten(-1, (n_runs, -1))
            return None, back, *none

        return reshape(replace(h, axis=0), lambda v: v[:, -n_runs:].flatten(1)), last

    if pooling == "mean":
        z, n_steps = x.mean(1), x.shape[1]
        share = contribute(step, x, z, lambda ratio: ratio[:, :, None] / n_steps)
        return Signal(z, out.nonnegative), lambda r, kept: (share(r, kept), None, *none)
    z = x.amax(1, keepdim=True)

    def largest(relevance: Tensor, kept: Kept | None) -> Any:
        weights = weigh_largest(x, z, size_of_samples(x))
        return relevance[:, :, None] * (weights / weights.sum(1, keepdim=True)), None, *none

    return Signal(z[:, 0], out.nonnegative), largest
