"""Handlers of changes in place: what memory holds after it was written into, in whole or in part.

The tape changes nothing: the handler returns all values of the memory, new where they were
written. Relevance of what was written goes to where it came from, the rest to what was there
before. Importing this module registers the handlers; `sklrp.propagation.recording` calls them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sklrp._copies import find_all
from sklrp.propagation.bounds import monotone
from sklrp.propagation.handlers.operands import is_nonnegative, standing, sum_to, value_of
from sklrp.propagation.nested import swap_signals
from sklrp.propagation.registry import COMPLEX, READING, WRITING, mark, register
from sklrp.propagation.tape import Kept, Pull, Step
from sklrp.rules import Signal


@register(WRITING, bounds=monotone)
@mark(COMPLEX)
def _write_through(step: Step, memory: Any, values: Any, places: Any) -> tuple[Signal, Pull]:
    """Write values into some places of memory."""
    return _written(memory, values, places.index)


@register(READING, bounds=monotone)
@mark(COMPLEX)
def _look(step: Step, memory: Signal, places: Any) -> tuple[Signal, Pull]:
    """Take what a view shows of memory."""
    index, shape = places.index, memory.x.shape
    flat = index.flatten()

    def pull(relevance: Tensor, kept: Kept | None) -> Tensor:
        back = relevance.new_zeros(len(relevance), shape.numel())
        back.index_add_(1, flat, relevance.reshape(len(relevance), -1))
        return back.reshape(len(relevance), *shape)

    samples = None if memory.samples is None else memory.samples.flatten()[index]
    out = Signal(
        memory.x.flatten()[index],
        memory.nonnegative,
        **standing(memory),
        sigmoid=memory.sigmoid,
        samples=samples,
    )
    return out, pull


@register("__setitem__", bounds=monotone)
@mark(COMPLEX)
def _set_item(step: Step, target: Any, index: Any, value: Any) -> tuple[Signal, Pull]:
    """Write values into the places of an index, among which may be masks of the input."""
    masks, x = find_all(Signal, (index,)), value_of(target)
    index = swap_signals(index, value_of)
    places = torch.arange(x.numel(), device=x.device).reshape(x.shape)[index]
    if places.unique().numel() < places.numel():
        raise TypeError("it writes several values into one place")
    out, pull = _written(target, value, places)
    if not isinstance(target, Signal) and not isinstance(value, Signal):
        if len(masks) > 1 or masks[0].x.shape != x.shape:
            raise TypeError("it writes constants into a constant, by a mask of another shape")
        out = replace(out, samples=masks[0].samples)

    def pull_all(relevance: Tensor, kept: Kept | None) -> Any:
        passed = pull(relevance, kept)
        parts = passed if isinstance(passed, tuple) else (passed,)
        n_own = isinstance(target, Signal)
        passed = (*parts[:n_own], *(None,) * len(masks), *parts[n_own:])
        return passed if len(passed) > 1 else passed[0]

    return out, pull_all


@register("copy", "fill", bounds=monotone)
@mark(COMPLEX)
def _copy(step: Step, target: Any, value: Any, *args: Any) -> tuple[Signal, Pull]:
    """Write into all of a tensor."""
    x = value_of(target)
    return _written(target, value, torch.arange(x.numel(), device=x.device).reshape(x.shape))


@register("zero", bounds=monotone)
@mark(COMPLEX)
def _zero(step: Step, target: Signal) -> tuple[Signal, Pull]:
    return _copy(step, target, 0.0)


def _written(memory: Any, values: Any, places: Tensor) -> tuple[Signal, Pull]:
    """Return what memory holds when values are written into places of it."""
    before, flat = value_of(memory), places.flatten()
    shape = before.shape
    new = torch.as_tensor(value_of(values), dtype=before.dtype, device=before.device)
    # Values may have axes of length one in front, which the places do not.
    own = new.shape[max(0, new.dim() - places.dim()) :]
    new = new.reshape(own).expand(places.shape)
    x = before.flatten().index_copy(0, flat, new.flatten())
    signals = [v for v in (memory, values) if isinstance(v, Signal)]

    def pull(relevance: Tensor, kept: Kept | None) -> Any:
        rest = (
            relevance.reshape(len(relevance), -1).index_fill(1, flat, 0.0).reshape(relevance.shape)
        )
        back = []
        for value, part in ((memory, rest), (values, relevance - rest)):
            if isinstance(value, Signal):
                back.append(part)
            elif kept is not None:
                kept.add("dropped", part)
        if isinstance(values, Signal):
            arrived = back[-1].reshape(len(relevance), -1)[:, flat]
            arrived = arrived.reshape(len(relevance), *places.shape)
            back[-1] = sum_to(arrived, own).reshape(len(relevance), *values.x.shape)
        return tuple(back) if len(back) != 1 else back[0]

    known = [v for v in (memory, values) if not isinstance(v, Signal) or v.x.numel()]
    return Signal(
        x.reshape(shape),
        all(map(is_nonnegative, known)),
        **standing(*signals),
        samples=_samples_of(memory, values, places, own),
    ), pull


def _samples_of(memory: Any, values: Any, places: Tensor, own: torch.Size) -> Tensor | None:
    """Return the samples of memory that was written into, while probing; -1 for constants."""
    found = [v.samples for v in (memory, values) if isinstance(v, Signal)]
    like = next((samples for samples in found if samples is not None), None)
    if like is None:
        return None
    whose = like.new_full(value_of(memory).shape, -1)
    if isinstance(memory, Signal) and memory.samples is not None:
        whose = memory.samples.to(whose)
    if isinstance(values, Signal) and values.samples is not None:
        given = values.samples.to(whose).reshape(own).expand(places.shape).flatten()
        whose = whose.flatten().index_copy(0, places.flatten(), given).reshape(whose.shape)
    return whose
