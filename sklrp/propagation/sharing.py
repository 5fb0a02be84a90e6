"""How an affine map shares relevance among its inputs: the generic step that serves every rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklrp import rules
from sklrp.propagation.tape import Kept, Pull, Step
from sklrp.rules import InputMap, Part, Signal, Signed, WeightMap, ZBox


@dataclass(frozen=True)
class Operand:
    """One input of an affine map: ``forward(x, weight, bias)`` and its adjoint in ``x``.

    The adjoint returns a tensor of its own.
    """

    signal: Signal
    weight: Tensor
    forward: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    adjoint: Callable[[Tensor, Tensor], Tensor]
    maps: dict[InputMap, Tensor | None] = field(default_factory=dict)

    def map_input(self, function: InputMap) -> Tensor | None:
        """Return a map of the input, computed once."""
        if function not in self.maps:
            self.maps[function] = function(self.signal)
        return self.maps[function]


@dataclass
class Split:
    """A part of a rule on given activations: its denominator, and its terms for each operand.

    The denominator is computed when it is needed.
    """

    share: float | Tensor
    denominator: Callable[[], Tensor]
    epsilon: float
    bias: Tensor | None = None
    terms: Sequence[Sequence[tuple[Tensor, Tensor]]] = ()
    up: Signed | None = None  # of a part that is exact by magnitudes

    @cached_property
    def stable(self) -> Tensor:
        """The denominator, with epsilon added."""
        return stabilize(self.denominator(), self.epsilon)

    def acts_on(self, relevance: Tensor) -> bool:
        """Return whether there is relevance where the part acts."""
        if not isinstance(self.share, Tensor):
            return True
        return bool((self.share * relevance).abs_().sum())

    def ratio(self, relevance: Tensor, at: Any = ...) -> Tensor:
        """Return the share of ``relevance`` over the denominator, at an index of it."""
        share = self.share[at] if isinstance(self.share, Tensor) else self.share
        if isinstance(share, Tensor) or share != 1.0:
            relevance = share * relevance
        return divide(relevance, self.stable[at], self.epsilon)


def prepare(
    step: Step,
    key: str,
    operands: Sequence[Operand],
    bias: Tensor | None,
    z: Tensor,
    n_spatial: int = 0,
) -> list[Split]:
    """Return the splits of the step's rule on the affine map of ``operands`` to ``z``."""
    parts = step.rule.parts()
    renormalize = getattr(step.rule, "renormalize", False)
    size = magnitude(step, key, parts, operands, bias, z.shape[-1 - n_spatial])
    bias = None if bias is None else channelwise(bias, n_spatial)
    splits = []

    def known() -> Tensor:
        return z

    for p, part in enumerate(parts):
        up = opposed(part)
        b = None if part.bias is None or bias is None else part.bias(bias)
        terms = [find_terms(step, (key, p, k), part, o) for k, o in enumerate(operands)]
        if part.terms == ((rules.x, rules.w),) and part.bias == rules.w:
            denominator: Callable[[], Tensor] = known  # and exact
        elif size is not None:
            denominator = partial(by_magnitude, part, z, size)
        else:
            denominator = partial(sum_products, operands, terms, b)
        share: float | Tensor = part.share
        if part.sign:
            share = ((z > 0) if part.sign > 0 else (z < 0)).to(z.dtype)
            share = share if part.share == 1.0 else part.share * share
        if renormalize:
            share = share * (denominator() != 0).to(z.dtype)
        epsilon = step.epsilon if part.stabilize else 0.0
        splits.append(Split(share, denominator, epsilon, b, terms, up if is_exact(part) else None))
    if renormalize:
        total: Any = sum(split.share for split in splits)
        total = torch.where(total == 0, 1.0, total)
        splits = [replace(split, share=split.share / total) for split in splits]
    return splits


def sum_products(
    operands: Sequence[Operand],
    terms: Sequence[Sequence[tuple[Tensor, Tensor]]],
    bias: Tensor | None,
) -> Tensor:
    """Return the sum of the products of all terms, and the bias."""
    products = [
        operand.forward(mapped, weight, None)
        for operand, pairs in zip(operands, terms, strict=True)
        for mapped, weight in pairs
    ]
    return sum(products[1:], start=products[0] if bias is None else products[0] + bias)


def opposed(part: Part) -> Signed | None:
    """Return the weight map that a part pairs with x+, if it pairs the opposite one with x-."""
    # With a = up.pos and b = up.neg the numerator of such a part, as of gamma and alpha-beta, is
    #     x+ up(w) + x- down(w) = (a + b)/2 x w + (a - b)/2 |x| |w| .
    # So z and one more product, that of magnitudes, give the denominators of all parts; and two
    # adjoints do for all.
    match part.terms:
        case ((rules.x_pos, Signed(a, b) as up), (rules.x_neg, Signed(c, d))):
            return up if (a, b) == (d, c) and part.bias == up else None
    return None


def is_exact(part: Part) -> bool:
    """Return whether the sum of magnitudes never cancels: where the part acts, z adds to it."""
    # So it is with gamma, but not with alpha-beta, whose parts leave contributions out.
    up = opposed(part)
    return up is not None and min(up.pos, up.neg) > 0 and part.sign * (up.pos - up.neg) > 0


# Where so many contributions of either sign meet, neither's sum is lost in that of magnitudes.
_MANY = 256


def magnitude(
    step: Step,
    key: str,
    parts: Sequence[Part],
    operands: Sequence[Operand],
    bias: Tensor | None,
    n_outputs: int,
) -> Tensor | None:
    """Return the sum of ``|x| |w|`` and ``|b|``, None where denominators are better direct."""
    if not all(map(is_exact, parts)):
        signed = not all(operand.signal.nonnegative for operand in operands)
        many = sum(operand.weight.numel() for operand in operands) >= _MANY * n_outputs
        if not (signed and many and all(map(opposed, parts))):
            return None
    products = []
    for k, operand in enumerate(operands):
        x = operand.map_input(x_abs)
        assert x is not None
        weight = step.map_weight((key, k, "abs"), torch.abs, operand.weight)
        products.append(operand.forward(x, weight, None if k or bias is None else bias.abs()))
    return sum(products[1:], start=products[0])


def x_abs(signal: Signal) -> Tensor:
    """Return the absolute values of the activations."""
    return signal.x if signal.nonnegative else signal.x.abs()


def by_magnitude(part: Part, z: Tensor, size: Tensor) -> Tensor:
    """Return the denominator of a part from the pre-activation and the sum of magnitudes."""
    up = opposed(part)
    assert up is not None
    denominator = (z * ((up.pos + up.neg) / 2)).add_(size, alpha=(up.pos - up.neg) / 2)
    if not is_exact(part):  # rounding, where no contribution is left
        noise = 64 * torch.finfo(z.dtype).eps
        above = denominator.abs().sub_(size, alpha=noise)
        denominator.mul_(above.clamp_(min=0).sign_())  # three times as fast as by a comparison
    return denominator


def find_terms(step: Step, key: Any, part: Part, operand: Operand) -> list[tuple[Tensor, Tensor]]:
    """Return the maps of the input and of the weights whose products make up a numerator."""
    pairs: Sequence[tuple[InputMap, WeightMap]] = part.terms
    up = opposed(part)
    if up is not None and is_exact(part) and not operand.signal.nonnegative:
        half, rest = (up.pos + up.neg) / 2, (up.pos - up.neg) / 2
        pairs = ((rules.x, Signed(half, half)), (x_abs, Signed(rest, -rest)))
    return [
        (mapped, step.map_weight((*key, t), weight_map, operand.weight))
        for t, (input_map, weight_map) in enumerate(pairs)
        if (mapped := operand.map_input(input_map)) is not None
    ]


def gather(splits: Sequence[Split], ratios: Sequence[Tensor], k: int, operand: Operand) -> Tensor:
    """Return the relevance of operand ``k``: input map times the adjoint of the ratios."""
    pulled = [
        (mapped, weight, ratio)
        for split, ratio in zip(splits, ratios, strict=True)
        for mapped, weight in split.terms[k]
    ]
    ups = [split.up for split in splits]
    if len(pulled) == 4 and ups[0] is not None and ups[1] == ups[0].opposite:
        (x, half), (size, rest) = splits[0].terms[k]  # the second part's, but for a sign
        pulled = [(x, half, ratios[0] + ratios[1]), (size, rest, ratios[0] - ratios[1])]
    first, *others = pulled
    passed = operand.adjoint(first[2], first[1]).mul_(first[0])
    for mapped, weight, ratio in others:
        passed.addcmul_(operand.adjoint(ratio, weight), mapped)
    return passed


def account(
    kept: Kept, relevance: Tensor, splits: Sequence[Split], ratios: Sequence[Tensor]
) -> None:
    """Add to ``kept`` what biases and epsilon took of ``relevance``, and what passed nowhere."""
    dropped = relevance
    for split, ratio in zip(splits, ratios, strict=True):
        dropped = dropped - ratio * split.stable
        if split.bias is not None:
            kept.add("bias", ratio * split.bias)
        if split.epsilon:
            kept.add("epsilon", split.epsilon * torch.where(split.stable < 0, -ratio, ratio))
    kept.add("dropped", dropped)


def affine(
    step: Step,
    signal: Signal,
    forward: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    adjoint: Callable[[Tensor, Tensor], Tensor],
    n_spatial: int = 0,
) -> tuple[Signal, Pull]:
    """Apply the rule of the step to one affine map."""
    weight = step.map_weight(("layout", step.weight), fast_layout, step.weight)
    operand = Operand(bounded(step, signal), weight, forward, adjoint)
    z = forward(signal.x, weight, step.bias)

    def pull(relevance: Tensor, kept: Kept | None) -> Tensor:
        splits = prepare(step, "", [operand], step.bias, z, n_spatial)
        splits = [split for split in splits if split.acts_on(relevance)]
        ratios = [split.ratio(relevance) for split in splits]
        if kept is not None:
            account(kept, relevance, splits, ratios)
        if not splits:
            return relevance.new_zeros(len(relevance), *signal.x.shape)
        return gather(splits, ratios, 0, operand)

    low, high = interval(step, operand, step.bias)
    return Signal(z, low=low, high=high), pull


def fast_layout(weight: Tensor) -> Tensor:
    """Return weights in the memory layout that the activations are to have."""
    # With channels last, convolutions and pooling on a CPU run up to twice as fast.
    fast = weight.dim() == 4 and weight.device.type == "cpu"
    return weight.clone(memory_format=torch.channels_last) if fast else weight


def contribute(
    step: Step,
    x: Tensor,
    z: Tensor,
    adjoint: Callable[[Tensor], Tensor],
    bias: Tensor | None = None,
) -> Pull:
    """Share by contribution, the epsilon rule without weights, on a fixed linear map."""

    def pull(relevance: Tensor, kept: Kept | None) -> Tensor:
        split = Split(1.0, lambda: z, step.epsilon, bias)
        ratio = split.ratio(relevance)
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


def stabilize(z: Tensor, epsilon: float) -> Tensor:
    """Return ``z + epsilon * sign(z)``, with sign(0) = +1."""
    return torch.copysign(z.new_tensor(epsilon), z).add_(z) if epsilon else z


def divide(relevance: Tensor, stable: Tensor, epsilon: float) -> Tensor:
    """Return ``relevance / s(z)``, and 0 where that is 0/0 or not representable."""
    ratio = relevance / stable
    if epsilon > 1e-12:
        return ratio
    limit = math.sqrt(torch.finfo(ratio.dtype).max)
    size = ratio.abs()
    if size.device.type == "cpu" and size.sum() < limit:  # nearly always, and quick to see there
        return ratio
    return ratio.masked_fill_(~(size < limit), 0.0)


def channelwise(bias: Tensor, n_spatial: int) -> Tensor:
    """Return a value per channel in a shape that broadcasts over ``n_spatial`` axes behind."""
    return bias.reshape(-1, *(1,) * n_spatial) if n_spatial else bias


def bounded(step: Step, signal: Signal) -> Signal:
    """Return the signal with the bounds of the step's z-box rule."""
    if not isinstance(step.rule, ZBox) or (step.first and signal.low is not None):
        return signal
    low = signal.low if step.rule.low is None else bound(step.rule.low, signal.x)
    high = signal.high if step.rule.high is None else bound(step.rule.high, signal.x)
    if low is None or high is None:
        raise ValueError(
            f"The z-box rule on layer {step.name!r} needs bounds, and none follow from those of "
            "the network's input; pass ZBox(low=..., high=...) there."
        )
    return replace(signal, low=low, high=high)


def interval(
    step: Step, operand: Operand, bias: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Return the bounds of an affine map's output that follow from those of its input."""
    low, high = operand.signal.low, operand.signal.high
    if low is None or high is None:
        return None, None
    box, key = torch.cat([low, high]), ("box", operand.weight)
    known = step.maps.get(key)
    if known is None or not torch.equal(known, box):  # it is the same for all chunks
        up, down = operand.weight.clamp(min=0), operand.weight.clamp(max=0)
        step.maps["low"] = operand.forward(low, up, bias) + operand.forward(high, down, None)
        step.maps["high"] = operand.forward(high, up, bias) + operand.forward(low, down, None)
        step.maps[key] = box
    return step.maps["low"], step.maps["high"]


def bound(value: Any, like: Tensor) -> Tensor:
    """Return a bound of z-box in the shape of one sample."""
    bound = torch.tensor(np.array(value, dtype=float)).to(like)
    shape = like.shape[1:]
    if bound.numel() == shape.numel() and bound.dim():
        return bound.reshape(1, *shape)
    try:
        return bound.broadcast_to(shape)[None]
    except RuntimeError:
        raise ValueError(
            f"low and high of ZBox must be numbers or arrays in the shape of one sample, "
            f"{tuple(shape)}, got shape {tuple(bound.shape)}."
        ) from None
