"""Which values take what a maximum or an order passes on: the winner, and those that equal it.

The handlers of pooling, of reductions, of choices, of orders and of pooled states ask. Values that
differ by rounding alone are equal: over a constant area (land, ice, a capped field) a convolution
has equal sums, and which of them rounds to the larger changes with the size of the batch. If
the winner took all, the map of a sample would change with what stands beside it. So equal values
share.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# In roundings of the sample's largest absolute value: the gap up to which values are equal, some
# five times what sums over a constant area differ by, and the gap from which the smaller takes
# nothing. Between them its weight falls evenly, so that no rounding makes a map jump.
_EQUAL, _SMALLER = 16, 64


def size_of_samples(x: Tensor, axis: int = 0) -> Tensor:
    """Return the largest absolute value of each sample, with axes of one for the rest."""
    rest = [i for i in range(x.dim()) if i != axis]
    size = x.abs()
    return size.amax(rest, keepdim=True) if rest else size


def weigh_largest(values: Tensor, largest: Tensor, size: Tensor) -> Tensor:
    """Return the weights at which values share what the largest among them stands for.

    Parameters
    ----------
    values : Tensor
        Some of those that compete, or all.
    largest : Tensor, broadcastable to values
        The largest of those that compete.
    size : Tensor, broadcastable to largest
        The largest absolute value of each value's sample, as `size_of_samples` gives it. Where it
        is infinite, equal values alone share.

    Returns
    -------
    Tensor
        One for the largest and its equals, zero elsewhere; they share in proportion to it.
    """
    return weigher(largest, size)(values)


def weigher(largest: Tensor, size: Tensor, zeros_share: bool = True) -> Callable[..., Tensor]:
    """Return what weighs values beside a part of the largest, as :func:`weigh_largest` does all.

    Parameters
    ----------
    largest, size : Tensor
        As there.
    zeros_share : bool, default=True
        Whether zeros share with a largest value that is within rounding of them. If not, no value
        may be negative; where all are zero, all weights are.

    Returns
    -------
    callable
        ``weigh(values, lay)`` returns their weights, a new tensor. ``lay`` puts the largest value
        of each window beside the values that compete for it; by default they stand there.
    """
    finfo = torch.finfo(largest.dtype)
    rounding = (size * finfo.eps).clamp(min=finfo.tiny)
    smaller, slope = largest - rounding * _SMALLER, 1 / (rounding * (_SMALLER - _EQUAL))
    if not zeros_share:
        smaller.clamp_(min=0)
    finite = size.isfinite()
    all_finite = bool(finite.all())

    def weigh(values: Tensor, lay: Callable[[Tensor], Tensor] = lambda v: v) -> Tensor:
        weights = (values - lay(smaller)).mul_(slope).clamp_(0, 1)
        if all_finite:
            return weights
        return torch.where(finite, weights, (values == lay(largest)).to(weights))

    return weigh


def share_among_equals(relevance: Tensor, x: Tensor, dim: int, axis: int) -> Tensor:
    """Share what values get among those that equal them along an axis.

    Parameters
    ----------
    relevance : Tensor of shape (n_targets, *x.shape)
        What each value got by its place in an order.
    x : Tensor
        The values.
    dim : int
        The axis along which they were put in order.
    axis : int
        The axis of the samples.

    Returns
    -------
    Tensor of shape (n_targets, *x.shape)
        The same in sum; values that differ by rounding have the mean of theirs.
    """
    ordered, order = x.sort(dim)
    n = x.shape[dim]
    size = size_of_samples(x, axis)
    gap = torch.where(size.isfinite(), size * torch.finfo(x.dtype).eps * _EQUAL, 0.0)
    differs = ordered.narrow(dim, 1, n - 1) > ordered.narrow(dim, 0, n - 1) + gap
    if n < 2 or bool(differs.all()):
        return relevance
    group = torch.zeros_like(order)
    group.narrow(dim, 1, n - 1).copy_(differs.cumsum(dim))
    # Where each value's group is, in the values' own order.
    group = torch.empty_like(order).scatter_(dim, order, group)
    many = group.expand(len(relevance), *group.shape)
    sums = torch.zeros_like(relevance).scatter_add_(dim + 1, many, relevance)
    counts = torch.zeros_like(x).scatter_add_(dim, group, torch.ones_like(x))
    return (sums / counts.clamp_min(1.0)).gather(dim + 1, many)
