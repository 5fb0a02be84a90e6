r"""The formula of LRP on an affine map, for every rule; docs/theory.md shows it.

A rule is a sum of parts, and an affine map has one input or several (a recurrent layer has two:
its inputs and its states). With the maps of a part's terms written :math:`f(x)` and :math:`g(w)`,

.. math:: d_j = \sum_{\text{terms}} \sum_i f(x)_i\, g(w)_{ij} + g(b)_j, \qquad
          R_i = \sum_{\text{parts}} \sum_{\text{terms}} f(x)_i \sum_j g(w)_{ij}\,
          \mathrm{share}_j \frac{R_j}{s(d_j)} .

:func:`split` is the left equation, :meth:`Split.ratio` the fraction and :func:`gather` the right
one. :mod:`sklrp.propagation.sharing` calls them, or their faster twins in
:mod:`sklrp.propagation.fast`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from sklrp.propagation.tape import Kept, Step
from sklrp.rules import InputMap, Part, Signal, WeightMap

Terms = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Operand:
    """One input of an affine map: ``forward(x, weight, bias)`` and its adjoint in ``x``.

    Both return tensors of their own. Where `few_channels` is set, they take as long for some more
    channels, which are the second axis of ``x`` and of the weight.
    """

    signal: Signal
    weight: Tensor
    forward: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    adjoint: Callable[[Tensor, Tensor], Tensor]
    few_channels: bool = False
    maps: dict[InputMap, Tensor | None] = field(default_factory=dict)

    def map_input(self, function: InputMap) -> Tensor | None:
        """Return a map of the input, computed once."""
        if function not in self.maps:
            self.maps[function] = function(self.signal)
        return self.maps[function]


@dataclass
class Split:
    """A part of a rule on given activations: its denominator, and its terms for each operand.

    The denominator is computed when it is needed, as a new tensor if it is `own`. Its `sign` is
    that of all values where relevance may come, 0 if it is not known.
    """

    share: float | Tensor
    denominator: Callable[[], Tensor]
    epsilon: float
    bias: Tensor | None = None
    terms: Sequence[Terms] = ()
    sign: int = 0
    own: bool = False
    times: float = field(default=1.0, kw_only=True)  # what the denominator is multiplied by

    @cached_property
    def stable(self) -> Tensor:
        """The denominator, with epsilon added."""
        denominator = self.denominator()
        if not (self.sign and self.epsilon and self.times == 1.0):
            return stabilize(denominator, self.epsilon, self.times)
        if not self.own:
            return denominator + self.sign * self.epsilon
        # By convolutions of some kinds a sum of positive products comes out below zero.
        denominator = denominator.clamp_(min=0) if self.sign > 0 else denominator.clamp_(max=0)
        return denominator.add_(self.sign * self.epsilon)

    def contributions(self) -> Tensor:
        """Return the denominator as the sum of its terms alone, without epsilon and bias."""
        if self.own:
            found = self.stable - self.stable.sign() * self.epsilon
        else:
            found = self.denominator() * self.times if self.times != 1.0 else self.denominator()
        return found if self.bias is None else found - self.bias

    def acts_on(self, relevance: Tensor) -> bool:
        """Return whether there is relevance where the part acts."""
        if not isinstance(self.share, Tensor):
            return True
        return bool((self.share * relevance).abs_().sum())

    def ratio(self, relevance: Tensor, last: bool = False) -> Tensor:
        """Return the part's share of ``relevance`` over the denominator: share R_j / s(d_j)."""
        # If that is the last use of the split, the ratio may take the memory of the denominator.
        if isinstance(self.share, Tensor):
            relevance = self.share * relevance
        stable = self.stable
        own = last and bool(self.epsilon) and relevance.dtype == stable.dtype
        if own and relevance.shape == (1, *stable.shape):
            ratio = divide(relevance[0], stable, self.epsilon, out=stable)[None]
        else:
            ratio = divide(relevance, stable, self.epsilon)
        constant = isinstance(self.share, Tensor) or self.share == 1.0
        return ratio if constant else ratio.mul_(self.share)


def split(
    step: Step,
    key: str,
    operands: Sequence[Operand],
    bias: Tensor | None,
    z: Tensor,
    n_spatial: int,
) -> list[Split]:
    """Return the parts of the step's rule on an affine map.

    Parameters
    ----------
    step : Step
        The step, with its rule and epsilon.
    key : str
        What tells the maps of several affine maps of one step apart.
    operands : list of Operand
        The inputs of the map.
    bias : Tensor or None
        The bias.
    z : Tensor
        The output.
    n_spatial : int
        The number of axes behind the channels in ``z``.

    Returns
    -------
    list of Split
        One for each part.
    """
    splits = []
    for p, part in enumerate(step.rule.parts()):
        terms = [find_terms(step, (key, p, k), part.terms, o) for k, o in enumerate(operands)]
        b = map_bias(part, bias)
        denominator = partial(sum_products, operands, terms, b)
        epsilon = step.epsilon if part.stabilize else 0.0
        b = None if b is None else channelwise(b, n_spatial)
        splits.append(Split(share_of(part, z), denominator, epsilon, b, terms, own=True))
    return splits


def find_terms(
    step: Step, key: Any, pairs: Sequence[tuple[InputMap, WeightMap]], operand: Operand
) -> Terms:
    """Return the maps of the input and of the weights whose products make up a numerator."""
    return [
        (mapped, map_as_laid(step, (*key, t), weight_map, operand.weight))
        for t, (input_map, weight_map) in enumerate(pairs)
        if (mapped := operand.map_input(input_map)) is not None
    ]


def map_as_laid(step: Step, key: Any, function: WeightMap, weight: Tensor) -> Tensor:
    """Return a map of a layer's weights, laid out in memory as they are."""

    def mapped(weight: Tensor) -> Tensor:
        found = function(weight)
        # Of one input channel torch forgets that it lies last, and so do all values behind.
        same = found.stride() == weight.stride()
        return found if same else torch.empty_like(weight, dtype=found.dtype).copy_(found)

    return step.map_weight(key, mapped, weight)


def map_bias(part: Part, bias: Tensor | None) -> Tensor | None:
    """Return what the bias adds to the denominator of a part, None for nothing."""
    return None if part.bias is None or bias is None else part.bias(bias)


def share_of(part: Part, z: Tensor) -> float | Tensor:
    """Return the share of a part: a number, or one for each output if it acts on one sign."""
    if not part.sign:
        return part.share
    acts = ((z > 0) if part.sign > 0 else (z < 0)).to(z.dtype)
    return acts if part.share == 1.0 else part.share * acts


def known(denominator: Tensor) -> Callable[[], Tensor]:
    """Return a function that returns a denominator that is there already."""
    return lambda: denominator


def sum_products(
    operands: Sequence[Operand], terms: Sequence[Terms], bias: Tensor | None
) -> Tensor:
    """Return the sum of the products of all terms, and the bias."""
    products: list[Tensor] = []
    for operand, pairs in zip(operands, terms, strict=True):
        for mapped, weight in pairs:
            products.append(operand.forward(mapped, weight, None if products else bias))
    return sum(products[1:], start=products[0])


def gather(splits: Sequence[Split], ratios: Sequence[Tensor], k: int, operand: Operand) -> Tensor:
    """Return the relevance of operand ``k``: input map times the adjoint of the ratios."""
    pulled = [
        (mapped, weight, ratio)
        for split, ratio in zip(splits, ratios, strict=True)
        for mapped, weight in split.terms[k]
    ]
    return sum_adjoints(pulled, operand)


def sum_adjoints(pulled: Sequence[tuple[Tensor, Tensor, Tensor]], operand: Operand) -> Tensor:
    """Return the sum of ``mapped * adjoint(ratio, weight)`` over ``(mapped, weight, ratio)``."""
    (mapped, weight, ratio), *others = pulled
    passed = operand.adjoint(ratio, weight).mul_(mapped)
    for mapped, weight, ratio in others:
        passed.addcmul_(operand.adjoint(ratio, weight), mapped)
    return passed


def account(
    kept: Kept, relevance: Tensor, splits: Sequence[Split], ratios: Sequence[Tensor]
) -> None:
    """Add to ``kept`` what biases and epsilon took of ``relevance``, and what passed nowhere."""
    # Of R_j = ratio_j s(d_j), with s(d) = d + epsilon sign(d), the terms of d take what is passed,
    # the bias's term takes ratio_j g(b)_j, and the last term is what epsilon absorbs.
    if kept.sum_of is not None:
        passed = [
            ratio * split.contributions() for split, ratio in zip(splits, ratios, strict=True)
        ]
        kept.add_rest(relevance, passed)
        return
    dropped = relevance
    for split, ratio in zip(splits, ratios, strict=True):
        given = ratio * split.stable
        dropped = dropped - given
        if split.bias is not None:
            kept.add("bias", ratio * split.bias)
        if split.epsilon:  # ratio_j sign(d_j), whose size is ratio_j's and whose sign is given's
            kept.add("epsilon", torch.copysign(ratio, given, out=given).mul_(split.epsilon))
    kept.add("dropped", dropped)


def stabilize(z: Tensor, epsilon: float, times: float = 1.0) -> Tensor:
    """Return ``times * z + epsilon * sign(z)``, with sign(0) = +1.

    Parameters
    ----------
    z : Tensor
        Denominators.
    epsilon : float
        The stabiliser, at least 0.
    times : float, default=1.0
        What the denominators are multiplied by, more than 0.

    Returns
    -------
    Tensor of z's shape
        The stabilised denominators; ``z`` itself for an epsilon of 0, once.
    """
    # A Python scalar in torch.where would become a float32 epsilon, wrong by 1e-9 in float64.
    if not epsilon:
        return z if times == 1.0 else times * z
    return torch.copysign(z.new_tensor(epsilon), z).add_(z, alpha=times)


def divide(relevance: Tensor, stable: Tensor, epsilon: float, out: Tensor | None = None) -> Tensor:
    """Return ``relevance / stable``, and 0 where that is 0/0 or not representable.

    Parameters
    ----------
    relevance : Tensor of stable's shape, or with targets before it
        The numerators.
    stable : Tensor
        The denominators, from :func:`stabilize`.
    epsilon : float
        The epsilon that they were stabilised with.
    out : Tensor or None, default=None
        Where the ratios are written; None makes a new tensor.

    Returns
    -------
    Tensor of relevance's shape
        The ratios.
    """
    ratio = torch.div(relevance, stable, out=out)
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
