"""Which values take what a maximum passes on: the largest, and those that equal it.

The handlers of pooling, of reductions, of choices and of pooled states ask. Values that differ by
rounding alone are equal: over a constant area (land, ice, a capped field) a convolution has equal
sums, and which of them rounds to the larger changes with the size of the batch. If the winner
took all, the map of a sample would change with what stands beside it. So equal values share.
"""

from __future__ import annotations

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
    finfo = torch.finfo(values.dtype)
    rounding = (size * finfo.eps).clamp(min=finfo.tiny)
    smaller = largest - rounding * _SMALLER
    weights = (values - smaller).mul_(1 / (rounding * (_SMALLER - _EQUAL))).clamp_(0, 1)
    finite = size.isfinite()
    if bool(finite.all()):
        return weights
    return torch.where(finite, weights, (values == largest).to(weights))
