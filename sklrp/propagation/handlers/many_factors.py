r"""Handlers of products of many factors: over an axis, and running along one.

The factors are of one kind, so each of :math:`n` gets :math:`R / n`, the uniform rule of AttnLRP,
whose case of two is in `.products`. Under a composite's ``product="prop"`` and ``"abs"`` they
share by their values, as two do. Importing this module registers the handlers; the recorder finds
them by the functions' names.

References
----------
.. [Achtibat2024c] Achtibat et al., "AttnLRP: attention-aware layer-wise relevance propagation for
   Transformers", ICML 2024: proposition 3.2.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sklrp.propagation.handlers.adjoints import adjoint_at
from sklrp.propagation.handlers.operands import standing
from sklrp.propagation.handlers.reductions import axes_of, reduced_samples
from sklrp.propagation.registry import SOURCED, mark, register
from sklrp.propagation.sharing import contribute
from sklrp.propagation.tape import Kept, Pull, Step
from sklrp.rules import Signal


@register("prod")
@mark(SOURCED)
def _over_an_axis(
    step: Step, source: Signal, dim: int | None = None, keepdim: bool = False
) -> tuple[Signal, Pull]:
    if dim is None:
        raise TypeError("without dim it mixes the samples; pass dim")
    samples = reduced_samples(source, axes_of(source, dim), keepdim)
    out = Signal(
        source.x.prod(dim, keepdim), source.nonnegative, **standing(source), samples=samples
    )
    return out, _share_factors(step, source.x, lambda v: v.sum(dim, keepdim))


@register("cumprod")
@mark(SOURCED)
def _running_product(step: Step, source: Signal, dim: int) -> tuple[Signal, Pull]:
    if range(source.x.dim())[dim] == source.axis:
        raise TypeError("it runs along the axis of the samples")
    x = source.x.cumprod(dim)
    out = Signal(x, source.nonnegative, **standing(source), samples=source.samples)
    return out, _share_factors(step, source.x, lambda v: v.cumsum(dim))


def _share_factors(step: Step, x: Tensor, add_up: Callable[[Tensor], Tensor]) -> Pull:
    """Share between the factors that `add_up` would add: evenly, or by their values."""
    if step.product in ("prop", "abs"):
        values = x.abs() if step.product == "abs" else x
        return contribute(step, values, add_up(values), adjoint_at(add_up, x))
    count = add_up(torch.ones_like(x))
    adjoint = adjoint_at(add_up, x)

    def pull(relevance: Tensor, kept: Kept | None) -> Tensor:
        return adjoint(relevance / count)

    return pull
