"""Steps, the registry of their handlers, and the generic step that serves every rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sklrp import rules
from sklrp.rules import Signal, ZBox

CAUSES = ("bias", "epsilon", "padding", "initial_state", "dropped")

Pull = Callable[[Tensor, "Kept | None"], Tensor]
Handler = Callable[["Step", Signal], tuple[Signal, Pull]]


@dataclass
class Step:
    """One layer of the compiled network: what a handler is given.

    Attributes
    ----------
    name : str
        The path of the layer in the network.
    layer : nn.Module
        The layer; a handler reads it and leaves it as it is.
    handler : callable
        The function registered for the type of the layer.
    kind : str or None, default=None
        ``"conv"``, ``"dense"`` or ``"recurrent"`` for a layer with weights, which takes a rule.
    rule : Rule or None, default=None
        The rule of a layer with weights.
    epsilon : float, default=0.0
        The stabiliser: the rule's own or the call's.
    weight, bias : Tensor or None, default=None
        The weights of an affine layer, with an adjacent batch normalisation folded in.
    n_directions : int, default=1
        For the pooling of states: the directions of the recurrent layer before it.
    folded : bool, default=False
        Whether a batch normalisation is folded into ``weight`` and ``bias``.
    first : bool, default=False
        Whether this is the first layer with weights in execution order.
    maps : dict
        The weights' maps computed so far; see :meth:`map_weight`.
    """

    name: str
    layer: nn.Module
    handler: Handler
    kind: str | None = None
    rule: Any = None
    epsilon: float = 0.0
    weight: Any = None
    bias: Any = None
    n_directions: int = 1
    folded: bool = False
    first: bool = False
    maps: dict[Any, Tensor] = field(default_factory=dict)

    def map_weight(self, key: Any, function: Callable[[Tensor], Tensor], weight: Tensor) -> Tensor:
        """Return ``function(weight)``, computed once per call of :func:`explain`."""
        if key not in self.maps:
            self.maps[key] = function(weight)
        return self.maps[key]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the computed weights out of what is sent to another process."""
        return {**self.__dict__, "maps": {}}


class Kept(dict[str, Tensor]):
    """Relevance that a layer did not pass on: cause mapped to ``(n_targets, n_samples)``."""

    def add(self, cause: str, relevance: Tensor) -> None:
        """Add ``relevance``, summed over everything but targets and samples, to ``cause``."""
        amount = relevance.flatten(2).sum(2) if relevance.dim() > 2 else relevance
        self[cause] = self[cause] + amount if cause in self else amount


HANDLERS: dict[type[nn.Module], tuple[Handler, str | None]] = {}


def register(
    *layer_types: type[nn.Module], kind: str | None = None
) -> Callable[[Handler], Handler]:
    """Register the decorated function as the handler of layer types.

    A handler takes the :class:`Step` and the :class:`~sklrp.rules.Signal` that enters the layer,
    and returns the signal that leaves it and a function ``pull(relevance, kept)``. That function
    takes the relevance of the layer's output, ``(n_targets, *output.shape)``, returns the
    relevance of its input, ``(n_targets, *input.shape)``, and, unless ``kept`` is None, adds what
    it does not pass on to it, by cause.

    Parameters
    ----------
    *layer_types : type
        Subclasses of ``nn.Module``. A subclass of them is handled too, unless it overrides
        ``forward``.
    kind : {"conv", "dense", "recurrent"} or None, default=None
        What the layer is to a composite, if it has weights and takes a rule.

    Returns
    -------
    callable
        The decorator.

    Examples
    --------
    >>> from torch import nn
    >>> from sklrp.propagation import register
    >>> class Negate(nn.Module):
    ...     def forward(self, x):
    ...         return -x
    >>> @register(Negate)
    ... def negate(step, signal):
    ...     return signal.apply(step.layer.forward), lambda relevance, kept: relevance
    """

    def decorate(handler: Handler) -> Handler:
        for layer_type in layer_types:
            HANDLERS[layer_type] = (handler, kind)
        return handler

    return decorate


@dataclass(frozen=True)
class Operand:
    """One input of an affine map: ``forward(x, weight, bias)`` and its adjoint in ``x``."""

    signal: Signal
    weight: Tensor
    forward: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    adjoint: Callable[[Tensor, Tensor], Tensor]


class Split(NamedTuple):
    """A part of a rule on given activations: its denominator, and its terms for each operand."""

    share: float | Tensor
    stable: Tensor  # the denominator, with epsilon added
    epsilon: float
    bias: Tensor | None = None
    terms: Sequence[Sequence[tuple[Tensor, Tensor]]] = ()

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
    splits = []
    renormalize = getattr(step.rule, "renormalize", False)
    for p, part in enumerate(step.rule.parts()):
        b = None if part.bias is None or bias is None else part.bias(bias)
        terms = [
            [
                (mapped, step.map_weight((key, p, k, t), weight_map, operand.weight))
                for t, (input_map, weight_map) in enumerate(part.terms)
                if (mapped := input_map(operand.signal)) is not None
            ]
            for k, operand in enumerate(operands)
        ]
        if part.terms == ((rules.x, rules.w),) and part.bias is rules.w:
            denominator = z  # known, and exact
        else:
            products = [
                operand.forward(mapped, weight, None)
                for operand, pairs in zip(operands, terms, strict=True)
                for mapped, weight in pairs
            ]
            denominator = sum(products[1:], start=products[0])
            if b is not None:
                denominator = denominator + channelwise(b, n_spatial)
        share: float | Tensor = part.share
        if part.sign:
            share = part.share * ((z > 0) if part.sign > 0 else (z < 0)).to(z.dtype)
        b = None if b is None else channelwise(b, n_spatial)
        epsilon = step.epsilon if part.stabilize else 0.0
        if renormalize:
            share = share * (denominator != 0).to(z.dtype)
        splits.append(Split(share, stabilize(denominator, epsilon), epsilon, b, terms))
    if renormalize:
        total: Any = sum(split.share for split in splits)
        total = torch.where(total == 0, 1.0, total)
        splits = [split._replace(share=split.share / total) for split in splits]
    return splits


def gather(splits: Sequence[Split], ratios: Sequence[Tensor], k: int, operand: Operand) -> Tensor:
    """Return the relevance of operand ``k``: input map times the adjoint of the ratios."""
    products = [
        mapped * operand.adjoint(ratio, weight)
        for split, ratio in zip(splits, ratios, strict=True)
        for mapped, weight in split.terms[k]
    ]
    return sum(products[1:], start=products[0])


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
    operand = Operand(bounded(step, signal), step.weight, forward, adjoint)
    z = forward(signal.x, step.weight, step.bias)

    def pull(relevance: Tensor, kept: Kept | None) -> Tensor:
        splits = prepare(step, "", [operand], step.bias, z, n_spatial)
        ratios = [split.ratio(relevance) for split in splits]
        if kept is not None:
            account(kept, relevance, splits, ratios)
        return gather(splits, ratios, 0, operand)

    low, high = interval(operand, step.bias)
    return Signal(z, low=low, high=high), pull


def contribute(
    step: Step,
    x: Tensor,
    z: Tensor,
    adjoint: Callable[[Tensor], Tensor],
    bias: Tensor | None = None,
) -> Pull:
    """Share by contribution, the epsilon rule without weights, on a fixed linear map."""

    def pull(relevance: Tensor, kept: Kept | None) -> Tensor:
        split = Split(1.0, stabilize(z, step.epsilon), step.epsilon, bias)
        ratio = split.ratio(relevance)
        if kept is not None:
            account(kept, relevance, [split], [ratio])
        return x * adjoint(ratio)

    return pull


def stabilize(z: Tensor, epsilon: float) -> Tensor:
    """Return ``z + epsilon * sign(z)``, with sign(0) = +1."""
    return z.sign().add_(0.5).sign_().mul_(epsilon).add_(z) if epsilon else z


def divide(relevance: Tensor, stable: Tensor, epsilon: float) -> Tensor:
    """Return ``relevance / s(z)``, and 0 where that is 0/0 or not representable."""
    if epsilon > 1e-12:
        return relevance / stable
    defined = relevance.abs() < stable.abs() * math.sqrt(torch.finfo(stable.dtype).max)
    return torch.where(defined, relevance, 0.0) / torch.where(defined, stable, 1.0)


def channelwise(bias: Tensor, n_spatial: int) -> Tensor:
    """Return a value per channel in a shape that broadcasts over ``n_spatial`` axes behind."""
    return bias.reshape(-1, *(1,) * n_spatial)


def bounded(step: Step, signal: Signal) -> Signal:
    """Return the signal with the bounds of the step's z-box rule."""
    if not isinstance(step.rule, ZBox) or (step.first and signal.low is not None):
        return signal
    low, high = step.rule.low, step.rule.high
    return replace(
        signal,
        low=signal.low if low is None else bound(low, signal.x),
        high=signal.high if high is None else bound(high, signal.x),
    )


def interval(operand: Operand, bias: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Return the bounds of an affine map's output that follow from those of its input."""
    low, high = operand.signal.low, operand.signal.high
    if low is None or high is None:
        return None, None
    up, down = operand.weight.clamp(min=0), operand.weight.clamp(max=0)
    return (
        operand.forward(low, up, bias) + operand.forward(high, down, None),
        operand.forward(high, up, bias) + operand.forward(low, down, None),
    )


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
