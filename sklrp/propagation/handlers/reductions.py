"""Handlers of torch functions that reduce over axes: sum, mean, maximum, minimum.

A sum or a mean shares relevance by contribution; a maximum or a minimum gives all to the winner
and its equals. Importing this module registers the handlers; the recorder finds them by the
functions' names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sklrp.propagation.bounds import monotone
from sklrp.propagation.handlers.largest import size_of_samples, weigh_largest
from sklrp.propagation.handlers.operands import refuse_mask, standing
from sklrp.propagation.registry import SOURCED, mark, register
from sklrp.propagation.sharing import contribute
from sklrp.propagation.tape import Kept, Pull, Step
from sklrp.rules import Signal


@register("mean", "sum", bounds=monotone)
@mark(SOURCED)
def _sum(
    step: Step, source: Signal, dim: Any = None, keepdim: bool = False, *,
    axis: Any = None, dtype: Any = None,
) -> tuple[Signal, Pull]:  # fmt: skip
    dims = axes_of(source, axis if dim is None else dim)
    x, mean = source.x, step.function == "mean"

    def apply(v: Tensor) -> Tensor:
        return v.mean(dims, keepdim) if mean else v.sum(dims, keepdim)

    z = apply(x)
    kept_shape = [1 if i in dims else n for i, n in enumerate(x.shape)]
    n = math.prod(x.shape[i] for i in dims) if mean else 1
    samples = reduced_samples(source, dims, keepdim)
    out = Signal(z, source.nonnegative, **standing(source), samples=samples)

    def adjoint(ratio: Tensor) -> Tensor:
        return (ratio.reshape(len(ratio), *kept_shape) / n).expand(len(ratio), *x.shape)

    return out, contribute(step, x, z, adjoint)


@register("amax", "amin", "max", "min", bounds=monotone)
@mark(SOURCED)
def _extreme(
    step: Step, source: Signal, dim: Any = None, keepdim: bool = False, *, axis: Any = None
) -> tuple[Any, Pull]:
    if isinstance(dim, Signal | Tensor):
        raise TypeError("write torch.maximum or torch.minimum for the larger of two tensors")
    name = step.function
    dims = axes_of(source, axis if dim is None else dim)
    x, n_axes = source.x, source.x.dim()
    rest = [i for i in range(n_axes) if i not in dims]
    # One argmax over several axes: they go to the back and are flattened into one.
    order = [*rest, *dims]
    front = x.permute(*order).flatten(len(rest))
    index = (front.argmax(-1) if name.endswith("max") else front.argmin(-1))[..., None]
    z = front.gather(-1, index)[..., 0]
    shape = [1 if i in dims else n for i, n in enumerate(x.shape)]

    def pull(relevance: Any, kept: Kept | None) -> Tensor:
        relevance = relevance[0] if isinstance(relevance, tuple) else relevance
        turned = 1 if name.endswith("max") else -1  # a minimum is the largest of what is turned
        size = size_of_samples(x, source.axis).permute(*order).flatten(len(rest))
        weights = weigh_largest(front * turned, z[..., None] * turned, size)
        parts = weights / weights.sum(-1, keepdim=True)
        back = (relevance.reshape(len(relevance), *z.shape)[..., None] * parts).unflatten(
            -1, [x.shape[i] for i in dims]
        )
        return back.permute(0, *(1 + order.index(i) for i in range(n_axes)))

    def shaped(v: Tensor) -> Tensor:
        return v.reshape(shape) if keepdim else v

    samples = reduced_samples(source, dims, keepdim)
    known: Any = {**standing(source), "samples": samples}
    values = Signal(shaped(z), source.nonnegative, **known)
    if name.startswith("a"):
        return values, pull
    places = Signal(shaped(index[..., 0]), True, gate=True, mask=True, samples=samples)
    return (values, places), pull  # max and min also return where the winner is


@register("any", "all", "argmax", "argmin", "count_nonzero")
@mark(SOURCED)
def _search(
    step: Step, source: Signal, dim: Any = None, keepdim: bool = False
) -> tuple[Signal, Pull]:
    """Tell whether, where or how many: what comes of it may select, and takes no relevance."""
    name = step.function
    own = {} if name == "count_nonzero" else {"keepdim": keepdim}
    samples = reduced_samples(source, axes_of(source, dim), keepdim)
    x = step.layer(source.x, **({} if dim is None else {"dim": dim, **own}))
    return Signal(x, True, gate=True, mask=True, samples=samples), refuse_mask(step)


def axes_of(source: Signal, dim: Any) -> list[int]:
    """Return the axes that ``dim`` names, as sorted numbers from 0; all for None or ()."""
    n_axes = source.x.dim()
    if dim is None:
        dim = range(n_axes)
    dims = list(dim) if isinstance(dim, Sequence | range) else [dim]
    return sorted(d % n_axes for d in dims or range(n_axes))


def reduced_samples(source: Signal, dims: list[int], keepdim: bool) -> Tensor | None:
    """Return the samples of a reduction's output, while probing; refuse to mix samples."""
    if source.samples is None:
        return None
    least, most = (f(source.samples, dims, keepdim) for f in (torch.amin, torch.amax))
    if not torch.equal(least, most):
        raise TypeError("it reduces over the axis of the samples")
    return most
