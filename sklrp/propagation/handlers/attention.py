r"""Handlers of softmax inside a network: the weights of an attention.

What the weights are is the composite's ``attention``. Under ``"attnlrp"`` they are signals, and
the softmax :math:`s(x)` hands on relevance by its Taylor decomposition at :math:`x`,

.. math:: R_i = x_i \sum_j \frac{\partial s_j}{\partial x_i} \frac{R_j}{s_j}
              = x_i \Big(R_i - s_i \sum_j R_j\Big) ,

whose bias :math:`s_j - \sum_i x_i\, \partial s_j / \partial x_i` keeps the rest. Under
``"constant"`` and ``"cp"`` the weights are held constant: in products they take nothing, and what
reaches them elsewhere is kept as that of a bias. Importing this module registers the handlers.

References
----------
.. [Achtibat2024c] Achtibat et al., "AttnLRP: attention-aware layer-wise relevance propagation for
   Transformers", ICML 2024: proposition 3.1.
.. [Ali2022d] Ali et al., "XAI for Transformers: better explanations through conservative
   propagation", ICML 2022: section 4, attention heads.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sklrp.propagation.formula import Split, account, known
from sklrp.propagation.handlers.operands import own_dim
from sklrp.propagation.handlers.products import multiply_matrices
from sklrp.propagation.registry import INNER, mark, register
from sklrp.propagation.tape import Kept, Pull, Step
from sklrp.rules import Signal


@register(nn.Softmax, nn.Softmax2d, nn.Softmin, any_axis=True)
def _softmax(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    layer: Any = step.layer
    dim = _softmax_dim(step, signal, -3 if isinstance(layer, nn.Softmax2d) else layer.dim)
    return _soften(step, -signal.x if isinstance(layer, nn.Softmin) else signal.x, dim)


def _soften(step: Step, x: Tensor, dim: int) -> tuple[Signal, Pull]:
    """Return the softmax of ``x`` as what the composite says of attention's weights."""
    weights = x.softmax(dim)
    if step.attention == "attnlrp":
        return Signal(weights, nonnegative=True), _by_taylor(x, weights, dim)

    def keep(relevance: Tensor, kept: Kept | None) -> None:
        if kept is not None:
            kept.add("bias", relevance)

    return Signal(weights, nonnegative=True, gate=True, sigmoid=True, held=True), keep


_ALONG_THE_LAST = nn.Softmax(-1)


@register("softmax_matmul")
@mark(INNER)
def _softmax_matmul(step: Step, scores: Any, value: Any) -> tuple[Signal, Pull]:
    """Multiply the softmax of scores over the last axis, and values."""
    if not isinstance(scores, Signal):
        return multiply_matrices(step, scores.softmax(-1), value)
    dim = own_dim(replace(step, layer=_ALONG_THE_LAST), scores, -1)

    def soften() -> tuple[Signal, Pull]:
        weights, pull = _soften(step, scores.x, dim)
        return weights.but(samples=scores.samples), pull

    # The weights are as many as the scores, and are not held: the way back finds them again.
    out, _ = multiply_matrices(step, soften()[0], value)
    z = out.x

    def pull(relevance: Tensor, kept: Kept | None) -> Any:
        weights, to_scores = soften()
        back = multiply_matrices(step, weights, value, z)[1](relevance, kept)
        of_weights, *others = back if isinstance(back, tuple) else (back,)
        passed = None if of_weights is None else to_scores(of_weights, kept)
        return (passed, *others) if others else passed

    return out, pull


@register(nn.LogSoftmax, any_axis=True)
def _log_softmax(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    """Take the logarithm too, which shares by contribution to it and keeps the bias."""
    dim, x = _softmax_dim(step, signal, step.layer.dim), signal.x
    z = x.log_softmax(dim)
    decompose = _by_taylor(x, z.exp(), dim)

    def pull(relevance: Tensor, kept: Kept | None) -> Tensor:
        split = Split(1.0, known(z), step.epsilon)
        ratio = split.ratio(relevance)
        if kept is not None:
            account(kept, relevance, [split], [ratio])
            kept.add("bias", ratio * (z - 1.0))
        return decompose(ratio, kept)

    return Signal(z), pull


def _by_taylor(x: Tensor, weights: Tensor, dim: int) -> Pull:
    """Return what pulls relevance through a softmax over ``dim``; its bias keeps the rest."""

    def pull(relevance: Tensor, kept: Kept | None) -> Tensor:
        # What an infinite score masks has no weight and gets no relevance: 0 times it is 0.
        finite = x if bool(x.sum().isfinite()) else x.masked_fill(x.isinf(), 0.0)
        total = relevance.sum(dim + 1, keepdim=True)
        passed = torch.addcmul(relevance, weights, total, value=-1).mul_(finite)
        if kept is not None:
            kept.add("bias", relevance - passed)
        return passed

    return pull


def _softmax_dim(step: Step, signal: Signal, dim: Any) -> int:
    if dim is None:  # as torch chooses it
        dim = 0 if signal.x.dim() in (0, 1, 3) else 1
    return own_dim(step, signal, dim)
