"""Handlers of torch functions that put values in order or choose among them: sort, topk, median.

The order is taken as it is for the sample, as max pooling takes its winners: a value's relevance
goes back to where the value came from, and values that are equal to rounding share it. Of a
running maximum the last of equals takes it, as torch's index says. Importing this module registers
the handlers; the recorder finds them by the functions' names.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sklrp._copies import find_all
from sklrp.propagation.bounds import monotone
from sklrp.propagation.handlers.adjoints import adjoint_at
from sklrp.propagation.handlers.largest import share_among_equals
from sklrp.propagation.handlers.operands import refuse_mask, standing
from sklrp.propagation.registry import SOURCED, mark, register
from sklrp.propagation.sharing import contribute
from sklrp.propagation.tape import Kept, Pull, Step
from sklrp.rules import Signal


@register(
    "sort", "topk", "kthvalue", "median", "nanmedian", "mode", "cummax", "cummin", bounds=monotone
)
@mark(SOURCED)
def _ordered(step: Step, source: Signal, *args: Any, **kwargs: Any) -> tuple[Any, Pull]:
    """Choose values, and tell their places."""
    found = step.layer(source.x, *args, **kwargs)
    if isinstance(found, Tensor):
        raise TypeError("without dim it mixes the samples; pass dim")
    x, places = found
    dim = _axis_of(step, source, args, kwargs)
    if dim == source.axis:  # of equal samples, as probes are, the order tells nothing
        raise TypeError("it orders the samples")
    samples = source.samples
    if samples is not None:
        keeps = places.dim() == samples.dim()
        samples = samples.gather(dim, places if keeps else places.unsqueeze(dim))
        samples = samples if keeps else samples.squeeze(dim)
    shape, index = source.x.shape, places if places.dim() == source.x.dim() else None
    index = places.unsqueeze(dim) if index is None else index

    def pull(relevance: Any, kept: Kept | None) -> Tensor:
        of_values, of_places = relevance if isinstance(relevance, tuple) else (relevance, None)
        if of_places is not None:
            return refuse_mask(step)(of_places, kept)
        back = of_values.new_zeros(len(of_values), *shape)
        winners = index.expand(len(of_values), *index.shape)
        back.scatter_add_(dim + 1, winners, of_values.reshape(winners.shape))
        if step.function in _RUNNING:
            return back
        return share_among_equals(back, source.x, dim, source.axis)

    values = Signal(x, source.nonnegative, **standing(source), samples=samples)
    return (values, Signal(places, True, gate=True, mask=True, samples=samples)), pull


_RUNNING = frozenset(["cummax", "cummin"])
# Where each function takes its axis by position, behind the input; sort and topk have a default.
_PLACE_OF_DIM = {"sort": 0, "topk": 1, "kthvalue": 1}


def _axis_of(step: Step, source: Signal, args: Any, kwargs: Any) -> int:
    """Return the axis along which a function orders values."""
    place = _PLACE_OF_DIM.get(step.function, 0)
    dim = kwargs.get("dim", args[place] if len(args) > place else -1)
    return range(source.x.dim())[dim]


@register("msort")
@mark(SOURCED)
def _sorted_samples(step: Step, source: Signal) -> Any:
    raise TypeError("it sorts along the first axis; write torch.sort(x, dim)")


@register("argsort")
@mark(SOURCED)
def _argsort(step: Step, source: Signal, *args: Any, **kwargs: Any) -> tuple[Signal, Pull]:
    """Tell an order: what comes of it may index, and takes no relevance."""
    dim = kwargs.get("dim", args[0] if args else -1)
    if range(source.x.dim())[dim] == source.axis:
        raise TypeError("it orders the samples")
    x = step.layer(source.x, *args, **kwargs)
    return Signal(x, True, gate=True, mask=True, samples=source.samples), refuse_mask(step)


@register("quantile", "nanquantile", bounds=monotone)
@mark(SOURCED)
def _quantile(
    step: Step, source: Signal, q: Any, dim: int | None = None, keepdim: bool = False, *,
    interpolation: str = "linear",
) -> tuple[Signal, Pull]:  # fmt: skip
    """Interpolate between two values in order, which share by contribution."""
    if dim is None:
        raise TypeError("without dim it mixes the samples; pass dim")
    if find_all(Signal, q):
        raise TypeError("q depends on the network's input")
    dim = range(source.x.dim())[dim]

    def apply(x: Tensor) -> Tensor:
        out: Tensor = step.layer(x, q, dim, keepdim, interpolation=interpolation)
        return out

    z = apply(source.x)
    samples = None
    if source.samples is not None:
        least, most = source.samples.amin(dim, True), source.samples.amax(dim, True)
        if not torch.equal(least, most):
            raise TypeError("it mixes samples")
        whose = most if keepdim else most.squeeze(dim)
        samples = whose.expand(z.shape)  # quantiles of several q come first
    out = Signal(z, source.nonnegative, **standing(source), samples=samples)
    share = contribute(step, source.x, z, adjoint_at(apply, source.x))

    def pull(relevance: Tensor, kept: Kept | None) -> Tensor:
        return share_among_equals(share(relevance, kept), source.x, dim, source.axis)

    return out, pull
