r"""Handlers of soft maxima: the logarithm of a sum of exponentials, over axes, running, of two.

A maximum gives all to the winner; a soft one, :math:`z = \log \sum_i e^{x_i}`, shares as its
softmax weighs, :math:`R_i = e^{x_i - z} R`: all of it passes, and most to the largest (Kauffmann
et al. 2020). The weights are its gradient. Importing this module registers the handlers; the
recorder finds them by the functions' names.

References
----------
.. [Kauffmann2020] Kauffmann, Müller, Montavon, "Towards explaining anomalies: a deep Taylor
   decomposition of one-class models", Pattern Recognition 101, 2020: the pooling over distances.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sklrp._copies import find_all
from sklrp.propagation.bounds import monotone
from sklrp.propagation.handlers.adjoints import adjoint_at, pull_gradients
from sklrp.propagation.handlers.operands import broadcast_samples, standing, sum_to, value_of
from sklrp.propagation.handlers.reductions import axes_of, reduced_samples
from sklrp.propagation.registry import SOURCED, mark, register
from sklrp.propagation.tape import Kept, Pull, Step
from sklrp.rules import Signal


@register("logsumexp", bounds=monotone)
@mark(SOURCED)
def _over_axes(step: Step, source: Signal, dim: Any, keepdim: bool = False) -> tuple[Signal, Pull]:
    def apply(x: Tensor) -> Tensor:
        return torch.logsumexp(x, dim, keepdim)

    samples = reduced_samples(source, axes_of(source, dim), keepdim)
    adjoint = adjoint_at(apply, source.x)
    out = Signal(apply(source.x), **standing(source), samples=samples)
    return out, lambda relevance, kept: adjoint(relevance)


@register("logcumsumexp", bounds=monotone)
@mark(SOURCED)
def _running_maximum(step: Step, source: Signal, dim: int) -> tuple[Signal, Pull]:
    if range(source.x.dim())[dim] == source.axis:
        raise TypeError("it runs along the axis of the samples")
    adjoint = adjoint_at(lambda x: torch.logcumsumexp(x, dim), source.x)
    x = torch.logcumsumexp(source.x, dim)
    out = Signal(x, **standing(source), samples=source.samples)
    return out, lambda relevance, kept: adjoint(relevance)


@register("logaddexp", "logaddexp2", bounds=monotone)
def _of_two(step: Step, a: Any, b: Any) -> tuple[Signal, Pull]:
    signals = find_all(Signal, (a, b))
    one, other = (torch.as_tensor(value_of(v)) for v in (a, b))
    z = step.layer(one, other)

    def pull(relevance: Tensor, kept: Kept | None) -> Any:
        with torch.enable_grad():
            leaves = [v.expand(z.shape).detach().requires_grad_() for v in (one, other)]
            out = step.layer(*leaves)
        parts = pull_gradients(out, leaves, relevance)
        back = []
        for value, part in zip((a, b), parts, strict=True):
            if isinstance(value, Signal):
                back.append(sum_to(part, value.x.shape))
            elif kept is not None:
                kept.add("dropped", part)
        return tuple(back) if len(back) > 1 else back[0]

    samples = broadcast_samples(z.shape, *signals)
    return Signal(z, **standing(*signals), samples=samples), pull
