"""Handlers of torch functions that compute: sums, products, choices, comparisons.

A sum shares relevance by contribution. In a product with a gate the signal takes all, unless the
composite's ``product`` says otherwise. A choice gives all to the operand that is chosen. Importing
this module registers the handlers; the recorder finds them by the functions' names.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sklrp.propagation.bounds import box, corners, monotone, unknown
from sklrp.propagation.formula import Split, account
from sklrp.propagation.handlers.activations import pass_all
from sklrp.propagation.handlers.adjoints import adjoint_at
from sklrp.propagation.handlers.operands import (
    broadcast_samples,
    function_name,
    is_nonnegative,
    refuse_mask,
    sum_to,
    value_of,
)
from sklrp.propagation.nested import find_all, swap_signals
from sklrp.propagation.registry import NUMERIC, SOURCED, mark, register
from sklrp.propagation.sharing import contribute, share_product
from sklrp.propagation.tape import Kept, Pull, Step
from sklrp.rules import Signal


def _sum_bounds(step: Step, a: Any, b: Any, *, alpha: float = 1) -> Signal:
    """Bound a sum: an operand with a negative factor has its least value at its upper bound."""
    name = function_name(step)
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
@mark(NUMERIC)
def _add(step: Step, a: Any, b: Any, *, alpha: float = 1) -> tuple[Signal, Pull]:
    return _combine(step, a, b, 1, alpha)


@register("sub", bounds=_sum_bounds)
@mark(NUMERIC)
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
    pairs = list(zip(operands, values, strict=True))
    signals = [(v, value) for v, value in pairs if isinstance(v, Signal)]
    constant = next((value for v, value in pairs if not isinstance(v, Signal)), None)

    def pull(relevance: Tensor, kept: Kept | None) -> Any:
        if not z.is_floating_point() and len(signals) == 1:
            # Token indices with an offset into a table: nothing is shared, the index moves.
            return sum_to(relevance, signals[0][0].x.shape)
        split = Split(1.0, lambda: z, step.epsilon, constant)
        ratio = split.ratio(relevance)  # R / s(a + b), and each operand gets itself times that
        if kept is not None:
            account(kept, relevance, [split], [ratio])
        back = tuple(sum_to(ratio * value, v.x.shape) for v, value in signals)
        return back if len(back) > 1 else back[0]

    nonnegative = all(map(is_nonnegative, operands)) and all(factor >= 0 for factor in factors)
    sources = [v for v, _ in signals]
    gate, mask = all(v.gate for v in sources), all(v.mask for v in sources)
    samples = broadcast_samples(z.shape, *sources)
    return Signal(z, nonnegative, gate=gate, mask=mask, samples=samples), pull


def _scaled_as(value: Any, factor: float, dtype: torch.dtype) -> Any:
    """Return an operand of a sum times its factor, in the type of the sum: -1 is no uint8."""
    return (value.to(dtype) if isinstance(value, Tensor) else value) * factor


def _scaled_bounds(step: Step, a: Any, b: Any, **kwargs: Any) -> Signal:
    """Bound what is scaled by constants; the product of two signals is not bounded."""
    if isinstance(a, Signal) and isinstance(b, Signal):
        return unknown(step.handler(step, a, b, **kwargs)[0])
    return monotone(step, a, b, **kwargs)


@register("mul", bounds=_scaled_bounds)
@mark(NUMERIC)
def _mul(step: Step, a: Any, b: Any) -> tuple[Signal, Pull]:
    if not isinstance(a, Signal) or not isinstance(b, Signal):
        source, factor = (a, b) if isinstance(a, Signal) else (b, a)
        return _scaled(source, lambda x: x * factor, is_nonnegative(factor))
    return _product(step, a, b, a.x * b.x, (a.x, b.x))


@register("div", bounds=_scaled_bounds)
@mark(NUMERIC)
def _div(step: Step, a: Any, b: Any, *, rounding_mode: str | None = None) -> tuple[Signal, Pull]:
    if rounding_mode is not None:
        raise TypeError("a division that rounds passes no relevance")
    if not isinstance(b, Signal):
        return _scaled(a, lambda x: x / b, bool(torch.as_tensor(b).min() > 0))
    if isinstance(a, Signal) and b.gate:
        return _product(step, a, b, a.x / b.x, (a.x, b.x.to(a.x).reciprocal()))
    raise TypeError("it divides by a signal; only a gate may divide")


@register("neg", bounds=monotone)
@mark(SOURCED)
def _neg(step: Step, source: Signal) -> tuple[Signal, Pull]:
    return _scaled(source, torch.neg, False)


def _scaled(source: Signal, function: Callable[[Tensor], Tensor], increasing: bool) -> Any:
    """Scale by constants, which passes all relevance."""
    x, shape = function(source.x), source.x.shape
    out = Signal(
        x,
        source.nonnegative and increasing,
        gate=source.gate,
        mask=source.mask,
        samples=broadcast_samples(x.shape, source),
    )
    return out, lambda relevance, kept: sum_to(relevance, shape)


def _product(
    step: Step, a: Signal, b: Signal, z: Tensor, values: tuple[Tensor, Tensor]
) -> tuple[Signal, Pull]:
    """Multiply a gate and a signal: the signal takes all, or what the variant gives it."""
    if not a.gate and not b.gate:
        raise TypeError(
            "it multiplies two signals, neither of which is a gate (a sigmoid, a softmax or a "
            "mask)"
        )
    # A gate weighs a signal, and a mask selects from either.
    signal, gate = (0, 1) if a.gate + a.mask <= b.gate + b.mask else (1, 0)
    selects = (a, b)[gate].mask
    both = a.gate and b.gate

    def pull(relevance: Tensor, kept: Kept | None) -> Any:
        if both and not selects:
            raise TypeError(
                f"Relevance through {step.name!r}, a product of two gates, is not supported; a "
                "signal must be among its factors."
            )
        back: list[Tensor | None] = [None, None]
        if step.product == "all" or selects:
            back[signal] = relevance
        else:
            share = share_product(step, values[gate].to(z), values[signal])
            back[gate] = relevance * share
            back[signal] = relevance - relevance * share
        return tuple(
            None if r is None else sum_to(r, v.x.shape) for r, v in zip(back, (a, b), strict=True)
        )

    nonnegative, mask = a.nonnegative and b.nonnegative, a.mask and b.mask
    samples = broadcast_samples(z.shape, a, b)
    return Signal(z, nonnegative, gate=both, mask=mask, samples=samples), pull


@register("clamp", "clamp_min", "clamp_max", bounds=monotone)
@mark(NUMERIC, SOURCED)
def _clamp(step: Step, source: Signal, *args: Any, **kwargs: Any) -> tuple[Signal, Pull]:
    out = source.apply(lambda x: step.layer(x, *args, **kwargs))
    nonnegative = source.nonnegative or bool(
        (out.x >= 0).all() and _floor(step, args, kwargs) >= 0
    )
    known: Any = {"gate": source.gate, "mask": source.mask, "samples": source.samples}
    return replace(out, nonnegative=nonnegative, **known), pass_all


def _floor(step: Step, args: Any, kwargs: Any) -> float:
    """Return the lower bound that a clamp sets."""
    name = function_name(step)
    low = kwargs.get("min", args[0] if args and name != "clamp_max" else None)
    return -math.inf if low is None else float(torch.as_tensor(low).min())


@register(
    "gt", "lt", "ge", "le", "eq", "ne", "greater", "less", "greater_equal", "less_equal",
    "not_equal", "isclose", "isin", "isnan", "isfinite", "isinf", "isposinf", "isneginf",
    "signbit", "logical_and", "logical_or", "logical_xor", "logical_not", "bitwise_and",
    "bitwise_or", "bitwise_xor", "bitwise_not",
)  # fmt: skip
def _compare(step: Step, *args: Any, **kwargs: Any) -> tuple[Signal, Pull]:
    x = step.layer(*swap_signals(args, value_of), **swap_signals(kwargs, value_of))
    samples = broadcast_samples(x.shape, *find_all(Signal, (args, kwargs)))
    return Signal(x, True, gate=True, mask=True, samples=samples), refuse_mask(step)


@register("where", "masked_fill", "maximum", "minimum")
@mark(NUMERIC)
def _where(step: Step, *args: Any) -> tuple[Signal, Pull]:
    mask, a, b = _choice(step, *args)
    x = torch.where(mask, value_of(a), value_of(b))
    if function_name(step) == "masked_fill":  # it keeps the type of what it fills
        x = x.to(value_of(b).dtype)
    order = find_all(Signal, args)

    def pull(relevance: Tensor, kept: Kept | None) -> Any:
        back: dict[int, Tensor] = {}
        for value, chosen in ((a, mask), (b, ~mask)):
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
    gate = all(s.gate for s in sources)
    return Signal(x, nonnegative, gate=gate, samples=broadcast_samples(x.shape, *order)), pull


def _choice(step: Step, *args: Any) -> tuple[Tensor, Any, Any]:
    """Return a mask, the operand that is taken where it holds, and the one taken elsewhere."""
    name = function_name(step)
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


@register("matmul", "bmm", "rmatmul")
def _matmul(step: Step, a: Any, b: Any) -> tuple[Signal, Pull]:
    if function_name(step) == "rmatmul":
        a, b = b, a
    signals = find_all(Signal, (a, b))
    if len(signals) == 2 and not (a.gate or b.gate):
        raise TypeError("it multiplies two signals, neither of which is a gate")
    if any(s.axis != 0 or s.x.dim() < 3 for s in signals):
        raise TypeError("its samples must be on the first of three axes or more")
    source = next((s for s in signals if not s.gate), signals[0])  # the other one is held fixed
    z = torch.matmul(value_of(a), value_of(b))
    n_axes = max(value_of(a).dim(), value_of(b).dim())
    if any(s.x.dim() < n_axes for s in signals):  # (N, T, T) @ (N, 1, T, F): each with each
        raise TypeError("it mixes samples: broadcasting moves their axis")

    def function(x: Tensor) -> Tensor:
        return torch.matmul(x if a is source else value_of(a), x if b is source else value_of(b))

    share = contribute(step, source.x, z, adjoint_at(function, source.x))

    def pull(relevance: Tensor, kept: Kept | None) -> Any:
        back = share(relevance, kept)
        return tuple(back if s is source else None for s in signals) if len(signals) > 1 else back

    samples = _samples_in_front([source, *signals], z.shape)
    return Signal(z, gate=all(s.gate for s in signals), samples=samples), pull


def _samples_in_front(signals: list[Signal], shape: torch.Size) -> Tensor | None:
    """Return the samples of an output that has them on the first axis, None when not probing."""
    samples = next((s.samples for s in signals if s.samples is not None), None)
    if samples is None:
        return None
    return samples.flatten(1)[:, :1].reshape(-1, *(1,) * (len(shape) - 1)).expand(shape)
