r"""The shortcut: the formula of :mod:`sklrp.propagation.formula` with fewer products.

:func:`split` and :func:`gather` have the contracts of their twins there, and return the same to
rounding. :mod:`sklrp.propagation.sharing` takes them while ``ENABLED``; ``python -m
tests.benchmarks`` measures what they gain.

Three identities save products. Where a part is all of :math:`x w`, its denominator is the
pre-activation :math:`z` that the forward pass has computed. The numerator of a part that pairs
:math:`x^+` with a weight map :math:`a w^+ + b w^-` and :math:`x^-` with the mirrored one, as in
gamma and alpha-beta, is

.. math:: x^+ (a w^+ + b w^-) + x^- (b w^+ + a w^-)
          = \tfrac{a + b}{2}\, x w + \tfrac{a - b}{2}\, |x| |w| ,

so :math:`z` and one more product, that of magnitudes, give the denominators of all such parts. And
the two parts of gamma, or of alpha-beta, which differ by the sign of the last term, need two
adjoints in place of four.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sklrp import rules
from sklrp.propagation import formula
from sklrp.propagation.formula import (
    Operand,
    Split,
    Terms,
    channelwise,
    find_terms,
    known,
    map_as_laid,
    map_bias,
    share_of,
    sum_products,
)
from sklrp.propagation.tape import Step
from sklrp.rules import Part, Signal, Signed

# Whether the shortcut is taken. A test turns it off and runs all rules and layers without.
ENABLED = True

# With so many weights neither sign's sum is likely to be lost in that of magnitudes.
_MANY = 256

# The share of z in the sum of magnitudes up to which either sign has 1/64 of it, and is not lost.
_MIXED = 31 / 32


@dataclass
class MirroredSplit(Split):
    """A split whose terms are those of ``z`` and of the magnitudes, by the weight map ``up``."""

    up: Signed = rules.w


def split(
    step: Step,
    key: str,
    operands: Sequence[Operand],
    bias: Tensor | None,
    z: Tensor,
    n_spatial: int,
) -> list[Split]:
    """Return the parts of the step's rule, as :func:`sklrp.propagation.formula.split` does."""
    parts = [part for part in step.rule.parts() if not (step.rectified and part.sign < 0)]
    signed = not all(operand.signal.nonnegative for operand in operands)
    size = None
    if all(map(mirrored, parts)) and len(parts) + signed > 1:
        size = magnitude(step, key, parts, operands, bias, z, n_spatial)
    splits: list[Split] = []
    for p, part in enumerate(parts):
        up = None if size is None else mirrored(part)
        terms = []
        for k, operand in enumerate(operands):
            pairs = part.terms
            if up is not None and not operand.signal.nonnegative:
                half, rest = (up.pos + up.neg) / 2, (up.pos - up.neg) / 2
                pairs = ((rules.x, Signed(half, half)), (x_abs, Signed(rest, -rest)))
            name = key, p, k, up  # a chunk without magnitudes has other maps
            found = find_terms(step, name, pairs, operand)
            terms.append(stack(step, name, found, operand) if operand.few_channels else found)
        b = map_bias(part, bias)
        is_z = part.terms == ((rules.x, rules.w),) and part.bias == rules.w
        if is_z:
            denominator = known(z)  # and exact
        elif size is not None:
            denominator = partial(by_magnitude, part, z, size)
        else:
            denominator = partial(sum_products, operands, terms, b)
        share = part.share if step.rectified else share_of(part, z)
        epsilon = step.epsilon if part.stabilize else 0.0
        b = None if b is None else channelwise(b, n_spatial)
        sign = int(step.rectified) if is_z else sign_of(part)
        given = share, denominator, epsilon, b, terms, sign, not is_z
        splits.append(Split(*given) if up is None else MirroredSplit(*given, up))
    return splits


def gather(splits: Sequence[Split], ratios: Sequence[Tensor], k: int, operand: Operand) -> Tensor:
    """Return the relevance of operand ``k``, as :func:`sklrp.propagation.formula.gather` does."""
    # It is that function for the splits of :func:`sklrp.propagation.formula.split`.
    merged = merge(splits, ratios, k)
    pulled = [(mapped, weight, ratio) for ratio, terms in merged for mapped, weight in terms]
    if not operand.few_channels:
        return formula.sum_adjoints(pulled, operand)
    parts = [formula.sum_adjoints([each], operand) for each in pulled]
    n_channels = operand.signal.x.shape[1]
    parts = [
        part if part.shape[2] == n_channels else part.unflatten(2, (-1, n_channels)).sum(2)
        for part in parts
    ]
    return sum(parts[1:], start=parts[0])


def stack(step: Step, key: Any, terms: Terms, operand: Operand) -> Terms:
    """Return terms as one of as many times the channels, where all have the input's shape."""
    inputs, weights = zip(*terms, strict=True)
    if len(terms) == 1 or any(mapped.shape != operand.signal.x.shape for mapped in inputs):
        return terms
    weight = step.map_weight((*key, "stack"), lambda _: lay_out(torch.cat(weights, 1)), weights[0])
    return [(lay_out(torch.cat(inputs, 1)), weight)]


def merge(
    splits: Sequence[Split], ratios: Sequence[Tensor], k: int
) -> Sequence[tuple[Tensor, Terms]]:
    """Return what is to be pulled back to operand ``k``: ratios, each with its terms."""
    match splits:
        case [MirroredSplit(up=first, terms=terms), MirroredSplit(up=other)] if (
            other == first.opposite and len(terms[k]) == 2
        ):
            # r_1 (x w h + |x||w| g) + r_2 (x w h - |x||w| g): two adjoints in place of four.
            whole, rest = terms[k]
            return [(ratios[0] + ratios[1], [whole]), (ratios[0] - ratios[1], [rest])]
    return [(ratio, s.terms[k]) for s, ratio in zip(splits, ratios, strict=True)]


def mirrored(part: Part) -> Signed | None:
    """Return ``up`` if the part is ``x+ * up(w) + x- * mirrored(w) + up(b)``, else None."""
    match part.terms:
        case ((rules.x_pos, Signed(a, b) as up), (rules.x_neg, Signed(c, d))):
            return up if (a, b) == (d, c) and part.bias == up else None
    return None


def sign_of(part: Part) -> int:
    """Return the sign of all contributions of a part, 0 where it is not known."""
    up = mirrored(part)
    if up is None or up.pos * up.neg != 0.0:
        return 0
    return (up.pos > 0) - (up.neg > 0)


def never_cancels(part: Part) -> bool:
    """Return whether, where the part acts, ``z`` adds to the sum of magnitudes."""
    # So it is with gamma, but not with alpha-beta, whose parts leave contributions out.
    up = mirrored(part)
    return up is not None and min(up.pos, up.neg) > 0 and part.sign * (up.pos - up.neg) > 0


def magnitude(
    step: Step,
    key: str,
    parts: Sequence[Part],
    operands: Sequence[Operand],
    bias: Tensor | None,
    z: Tensor,
    n_spatial: int,
) -> Tensor | None:
    """Return the sum of ``|x| |w|`` and ``|b|``, None where denominators are better direct."""
    # All of ``parts`` are mirrored.
    exact = all(map(never_cancels, parts))
    n_weights = sum(operand.weight.numel() for operand in operands)
    if not exact and (step.is_one_sided or n_weights < _MANY * z.shape[-1 - n_spatial]):
        return None
    products = []
    for k, operand in enumerate(operands):
        x = operand.map_input(x_abs)
        assert x is not None
        weight = map_as_laid(step, (key, k, "abs"), torch.abs, operand.weight)
        products.append(operand.forward(x, weight, None if k or bias is None else bias.abs()))
    size = sum(products[1:], start=products[0])
    if exact or bool((z.abs() <= _MIXED * size).all()):
        return size
    step.is_one_sided = True  # other chunks are spared the attempt
    return None


def by_magnitude(part: Part, z: Tensor, size: Tensor) -> Tensor:
    """Return the denominator of a part from the pre-activation and the sum of magnitudes."""
    up = mirrored(part)
    assert up is not None
    return (z * ((up.pos + up.neg) / 2)).add_(size, alpha=(up.pos - up.neg) / 2)


def x_abs(signal: Signal) -> Tensor:
    """Return the absolute values of the activations."""
    return signal.x if signal.nonnegative else signal.x.abs()


def lay_out(weight: Tensor) -> Tensor:
    """Return weights in the memory layout that the activations are to have."""
    # With channels last, convolutions and pooling on a CPU run up to twice as fast.
    fast = ENABLED and weight.dim() == 4 and weight.device.type == "cpu"
    # By strides: with axes of length 1 torch calls both layouts contiguous.
    if not fast or weight.stride()[1:] == (1, weight.shape[3] * weight.shape[1], weight.shape[1]):
        return weight
    return weight.clone(memory_format=torch.channels_last)
