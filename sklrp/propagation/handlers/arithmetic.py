"""Handlers of torch functions that compute: sums, choices, comparisons.

A sum shares relevance by contribution. A choice gives all to the operand that is chosen. Importing
this module registers the handlers; the recorder finds them by the functions' names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sklrp._copies import find_all
from sklrp.propagation.bounds import box, corners, monotone
from sklrp.propagation.formula import Split, account
from sklrp.propagation.handlers.activations import pass_all
from sklrp.propagation.handlers.largest import size_of_samples, weigh_largest
from sklrp.propagation.handlers.operands import (
    broadcast_samples,
    is_nonnegative,
    refuse_mask,
    standing,
    sum_to,
    value_of,
)
from sklrp.propagation.nested import swap_signals
from sklrp.propagation.registry import NEW, NUMERIC, SOURCED, mark, register
from sklrp.propagation.tape import Kept, Pull, Step
from sklrp.rules import Signal


def _sum_bounds(step: Step, a: Any, b: Any, *, alpha: float = 1) -> Signal:
    """Bound a sum: an operand with a negative factor has its least value at its upper bound."""
    name = step.function
    factors = {"add": (1, alpha), "sub": (1, -alpha), "rsub": (-alpha, 1)}[name]
    turned = (
        _swap_corners(v) if isinstance(v, Signal) and factor < 0 else v
        for v, factor in zip((a, b), factors, strict=True)
    )
    return monotone(step, *turned, alpha=alpha)


def _swap_corners(signal: Signal) -> Signal:
    low, high = corners(signal, signal.axis)
    return box(signal, high, low, signal.axis)


@register("add", bounds=_sum_bounds)
@mark(NEW, NUMERIC)
def _add(step: Step, a: Any, b: Any, *, alpha: float = 1) -> tuple[Signal, Pull]:
    return _combine(step, a, b, 1, alpha)


@register("sub", bounds=_sum_bounds)
@mark(NEW, NUMERIC)
def _sub(step: Step, a: Any, b: Any, *, alpha: float = 1) -> tuple[Signal, Pull]:
    return _combine(step, a, b, 1, -alpha)


@register("rsub", bounds=_sum_bounds)
@mark(NUMERIC)
def _rsub(step: Step, a: Any, b: Any, *, alpha: float = 1) -> tuple[Signal, Pull]:
    return _combine(step, b, a, 1, -alpha)


def _combine(step: Step, a: Any, b: Any, *factors: float) -> tuple[Signal, Pull]:
    """Add two operands, each times its factor; a constant keeps its share, as a bias does."""
    operands = (a, b)
    dtype = torch.result_type(value_of(a), value_of(b))
    values = [
        value_of(v) if factor == 1 else _scaled_as(value_of(v), factor, dtype)
        for v, factor in zip(operands, factors, strict=True)
    ]
    z = values[0] + values[1]
    signals = [v for v in operands if isinstance(v, Signal)]
    # 1 - sigmoid(z) is sigmoid(-z), which passes all on.
    is_complement = isinstance(a, int | float) and a == 1 and b.sigmoid and factors[1] == -1

    def pull(relevance: Tensor, kept: Kept | None) -> Any:
        if not z.is_floating_point() and len(signals) == 1:
            # Token indices with an offset into a table: nothing is shared, the index moves.
            return sum_to(relevance, signals[0].x.shape)
        if len(signals) == 1 and (step.shifted or is_complement):
            return sum_to(relevance, signals[0].x.shape)
        parts, total = values, z
        if not z.sum().isfinite():  # infinite values mask, and share in nothing
            parts, taker = _finite_parts(values)
            if taker is not None:
                return _give_all(operands, taker, relevance, kept)
            total = parts[0] + parts[1]
        pairs = list(zip(operands, parts, strict=True))
        constant = next((part for v, part in pairs if not isinstance(v, Signal)), None)
        split = Split(1.0, lambda: total, step.epsilon, constant)
        ratio = split.ratio(relevance)  # R / s(a + b), and each operand gets itself times that
        if kept is not None:
            account(kept, relevance, [split], [ratio])
        back = tuple(sum_to(ratio * x, v.x.shape) for v, x in pairs if isinstance(v, Signal))
        return back if len(back) > 1 else back[0]

    nonnegative = all(map(is_nonnegative, operands)) and all(factor >= 0 for factor in factors)
    samples = broadcast_samples(z.shape, *signals)
    out = Signal(z, nonnegative, **standing(*signals), sigmoid=is_complement, samples=samples)
    return out, pull


def _finite_parts(values: Sequence[Any]) -> tuple[list[Any], int | None]:
    """Return the parts of a sum with zeros for what is infinite, and the one that takes all.

    A part of zeros and infinite values is a mask, as of an attention: all goes to the other one.
    """
    parts = [torch.as_tensor(v) for v in values]
    finite = [part.masked_fill(part.isinf(), 0.0) for part in parts]
    masks = [
        bool(part.isinf().any()) and not bool(rest.any())
        for part, rest in zip(parts, finite, strict=True)
    ]
    return list(finite), masks.index(False) if any(masks) and not all(masks) else None


def _give_all(operands: Any, taker: int, relevance: Tensor, kept: Kept | None) -> Any:
    """Give relevance to one operand of a sum; a constant keeps it."""
    back: list[Tensor | None] = [None for v in operands if isinstance(v, Signal)]
    if not isinstance(operands[taker], Signal):
        if kept is not None:
            kept.add("bias", relevance)
    else:
        passed = sum_to(relevance, operands[taker].x.shape)
        back[taker if len(back) > 1 else 0] = passed
    return tuple(back) if len(back) > 1 else back[0]


def _scaled_as(value: Any, factor: float, dtype: torch.dtype) -> Any:
    """Return an operand of a sum times its factor, in the type of the sum: -1 is no uint8."""
    return (value.to(dtype) if isinstance(value, Tensor) else value) * factor


@register("clamp", "clamp_min", "clamp_max", bounds=monotone)
@mark(NUMERIC, SOURCED)
def _clamp(step: Step, source: Signal, *args: Any, **kwargs: Any) -> tuple[Signal, Pull]:
    out = source.apply(lambda x: step.layer(x, *args, **kwargs))
    nonnegative = source.nonnegative or bool(
        (out.x >= 0).all() and _floor(step, args, kwargs) >= 0
    )
    known: Any = {**standing(source), "samples": source.samples}
    return replace(out, nonnegative=nonnegative, **known), pass_all


def _floor(step: Step, args: Any, kwargs: Any) -> float:
    """Return the lower bound that a clamp sets."""
    name = step.function
    low = kwargs.get("min", args[0] if args and name != "clamp_max" else None)
    return -math.inf if low is None else float(torch.as_tensor(low).min())


@register(
    "gt", "lt", "ge", "le", "eq", "ne", "greater", "less", "greater_equal", "less_equal",
    "not_equal", "isclose", "isin", "isnan", "isfinite", "isinf", "isposinf", "isneginf",
    "signbit", "logical_and", "logical_or", "logical_xor", "logical_not", "bitwise_and",
    "bitwise_or", "bitwise_xor", "bitwise_not", "bool",
)  # fmt: skip
def _compare(step: Step, *args: Any, **kwargs: Any) -> tuple[Signal, Pull]:
    x = step.layer(*swap_signals(args, value_of), **swap_signals(kwargs, value_of))
    samples = broadcast_samples(x.shape, *find_all(Signal, (args, kwargs)))
    return Signal(x, True, gate=True, mask=True, samples=samples), refuse_mask(step)


@register("where", "masked_fill", "maximum", "minimum")
@mark(NUMERIC)
def _where(step: Step, *args: Any, **named: Any) -> tuple[Signal, Pull]:
    order = find_all(Signal, (args, named))
    if "condition" in named:  # the other two are given by position
        at = 1 if step.layer is Tensor.where else 0
        args = (*args[:at], named.pop("condition"), *args[at:])
    args = (*args, *(named.pop(name) for name in ("mask", "value") if name in named))
    if named or len(args) < 2:
        raise TypeError("write it with all of its operands, and nothing else")
    mask, a, b = _choice(step, *args)
    x = torch.where(mask, value_of(a), value_of(b))
    if step.function == "masked_fill":  # it keeps the type of what it fills
        x = x.to(value_of(b).dtype)
    parts = _tied(step, a, b, x) if step.function in ("maximum", "minimum") else (mask, ~mask)

    def pull(relevance: Tensor, kept: Kept | None) -> Any:
        back: dict[int, Tensor] = {}
        for value, chosen in zip((a, b), parts, strict=True):
            if isinstance(value, Signal):
                part = sum_to(relevance * chosen, value.x.shape)
                # One signal may be both: what it gets is a sum, handed over where it comes first.
                back[id(value)] = back[id(value)] + part if id(value) in back else part
            elif kept is not None:
                kept.add("dropped", relevance * chosen)
        passed = tuple(back.pop(id(s), None) for s in order)  # a mask that is a signal gets None
        return passed if len(passed) > 1 else passed[0]

    sources = [v for v in (a, b) if isinstance(v, Signal)]
    nonnegative = is_nonnegative(a) and is_nonnegative(b)
    known = {**standing(*sources), "mask": False}
    return Signal(x, nonnegative, **known, samples=broadcast_samples(x.shape, *order)), pull


def _choice(step: Step, *args: Any) -> tuple[Tensor, Any, Any]:
    """Return a mask, the operand that is taken where it holds, and the one taken elsewhere."""
    name = step.function
    if name == "masked_fill":
        source, mask, value = args
        return value_of(mask), value, source
    if name == "where":
        # As a function it has the mask first, as a method second: x.where(mask, other).
        mask, a, b = (args[1], args[0], args[2]) if step.layer is Tensor.where else args
        return value_of(mask), a, b
    a, b = args
    mask = value_of(a) >= value_of(b) if name == "maximum" else value_of(a) <= value_of(b)
    return mask, a, b


def _tied(step: Step, a: Any, b: Any, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return the part of each of two operands in the larger or the smaller of them."""
    turned = 1 if step.function == "maximum" else -1
    size = torch.stack(
        torch.broadcast_tensors(*(size_of_samples(s.x, s.axis) for s in find_all(Signal, (a, b))))
    ).amax(0)
    one, other = (weigh_largest((value_of(v) * turned).to(z), z * turned, size) for v in (a, b))
    return one / (one + other), other / (one + other)
