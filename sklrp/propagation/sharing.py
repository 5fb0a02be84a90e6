"""How relevance is shared: by the rule of a step on an affine map, by contribution, by a gate.

Handlers of layers call these functions. :func:`prepare` is the one entry to the formula: by its
shortcut (:mod:`sklrp.propagation.fast`), or as it is written (:mod:`sklrp.propagation.formula`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sklrp.propagation import fast, formula
from sklrp.propagation.bounds import boxed
from sklrp.propagation.formula import Operand, Split, account, divide, known, stabilize
from sklrp.propagation.tape import Kept, Pull, Step
from sklrp.rules import Signal


def prepare(
    step: Step,
    key: str,
    operands: Sequence[Operand],
    bias: Tensor | None,
    z: Tensor,
    n_spatial: int = 0,
) -> list[Split]:
    """Return the splits of the step's rule on the affine map of ``operands`` to ``z``."""
    way = fast if fast.ENABLED else formula
    splits = way.split(step, key, operands, bias, z, n_spatial)
    return _renormalized(splits) if getattr(step.rule, "renormalize", False) else splits


def _renormalized(splits: Sequence[Split]) -> list[Split]:
    """Let an output give its relevance to those parts alone that have contributions there."""
    found = [split.denominator() for split in splits]
    shares = [s.share * (d != 0).to(d.dtype) for s, d in zip(splits, found, strict=True)]
    total: Any = sum(shares)
    total = torch.where(total == 0, 1.0, total)
    return [
        replace(s, share=share / total, denominator=known(d), own=False)
        for s, share, d in zip(splits, shares, found, strict=True)
    ]


def affine(
    step: Step,
    signal: Signal,
    forward: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    adjoint: Callable[[Tensor, Tensor], Tensor],
    n_spatial: int = 0,
    few_channels: bool = False,
    pointwise: bool = False,
) -> tuple[Signal, Pull]:
    """Apply the rule of the step to an affine map; what a handler of such a layer returns.

    Parameters
    ----------
    step : Step
        The step; its ``weight`` and ``bias`` come from ``register(..., weights=...)``.
    signal : Signal
        The input.
    forward : callable
        ``forward(x, weight, bias)`` is the map, a tensor of its own. It must be linear in the
        weight, and add the bias: it is also called with maps of both, and without a bias.
    adjoint : callable
        ``adjoint(ratio, weight)`` pulls ``(n_targets, *output.shape)`` back to ``(n_targets,
        *input.shape)``; it returns a tensor of its own.
    n_spatial : int, default=0
        The number of axes behind the channels in the output.
    few_channels : bool, default=False
        Whether the map takes as long for some more channels, on the second axes of input and
        weight.
    pointwise : bool, default=False
        Whether the map is a product of matrices that takes weights as they lie in memory.

    Returns
    -------
    out : Signal
        The output.
    pull : callable
        What pulls relevance back through the layer.
    """
    if step.weight is None:
        raise TypeError(
            f"Layer {step.name!r} has no weights that are known: "
            f"register({type(step.layer).__name__}, weights=...)."
        )
    weight = step.weight
    if step.rule is not None and not pointwise:
        weight = step.map_weight("layout", fast.lay_out, weight)
    operand = Operand(boxed(step, signal), weight, forward, adjoint, few_channels)
    if step.rule is None and n_spatial == 2:
        # While a network is probed there are few samples, and many weights to lay out for them.
        few = not pointwise and signal.x.numel() < weight.numel()
        z = fast.lay_out(forward(signal.x.contiguous() if few else signal.x, weight, step.bias))
    else:
        z = forward(signal.x, weight, step.bias)

    def pull(relevance: Tensor, kept: Kept | None) -> Tensor:
        splits = prepare(step, "", [operand], step.bias, z, n_spatial)
        # Behind a ReLU no relevance comes to outputs below zero: half of gamma is left out.
        splits = [split for split in splits if split.acts_on(relevance)]
        ratios = [split.ratio(relevance, last=kept is None) for split in splits]
        if kept is not None:
            account(kept, relevance, splits, ratios)
        if not splits:
            return relevance.new_zeros(len(relevance), *signal.x.shape)
        return fast.gather(splits, ratios, 0, operand)

    # What is computed from weights that are held constant is held too: attention's talking heads.
    return Signal(z, gate=signal.held, held=signal.held), pull


def contribute(
    step: Step,
    x: Tensor,
    z: Tensor,
    adjoint: Callable[[Tensor], Tensor],
    bias: Tensor | None = None,
) -> Pull:
    """Share by contribution, the epsilon rule without weights, on a fixed linear map.

    Parameters
    ----------
    step : Step
        The step.
    x, z : Tensor
        The input and the output of the map.
    adjoint : callable
        ``adjoint(ratio)`` pulls ``(n_targets, *z.shape)`` back to ``(n_targets, *x.shape)``; it
        may write over the ratio.
    bias : Tensor or None, default=None
        What the map adds, in a shape that broadcasts with ``z``.

    Returns
    -------
    callable
        What pulls relevance back.
    """

    def pull(relevance: Tensor, kept: Kept | None) -> Tensor:
        split = Split(1.0, known(z), step.epsilon, bias)
        ratio = split.ratio(relevance, last=kept is None)  # R_j / s(z_j)
        if kept is not None:
            account(kept, relevance, [split], [ratio])
        return x * adjoint(ratio)

    return pull


def share_product(step: Step, gate: Tensor, signal: Tensor) -> Tensor | float:
    """Return the share of a gate in the relevance of its product with a signal.

    Parameters
    ----------
    step : Step
        The step, whose ``product`` is the variant.
    gate, signal : Tensor
        The two factors.

    Returns
    -------
    Tensor or float
        The share: 0 for ``"all"``, 1/2 for ``"half"``, ``gate / s(gate + signal)`` for ``"prop"``,
        and the same of the absolute values for ``"abs"``.

    References
    ----------
    Arras et al. 2019, section 3: LRP-all, LRP-prop, LRP-abs and LRP-half.
    """
    if step.product == "all":
        return 0.0
    if step.product == "half":
        return 0.5
    if step.product == "abs":
        gate, signal = gate.abs(), signal.abs()
    return divide(gate, stabilize(gate + signal, step.epsilon), step.epsilon)
