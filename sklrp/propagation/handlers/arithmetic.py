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

from sklrp.propagation.bounds import box, corners, is_known, monotone, unknown
from sklrp.propagation.formula import Split, account, known
from sklrp.propagation.handlers.activations import pass_all
from sklrp.propagation.handlers.adjoints import adjoint_at
from sklrp.propagation.handlers.operands import (
    broadcast_samples,
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
    # 1 - sigmoid(z) is sigmoid(-z), which passes all on.
    is_complement = isinstance(a, int | float) and a == 1 and b.sigmoid and factors[1] == -1

    def pull(relevance: Tensor, kept: Kept | None) -> Any:
        if not z.is_floating_point() and len(signals) == 1:
            # Token indices with an offset into a table: nothing is shared, the index moves.
            return sum_to(relevance, signals[0][0].x.shape)
        if len(signals) == 1 and (step.shifted or is_complement):
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
    out = Signal(z, nonnegative, gate=gate, sigmoid=is_complement, mask=mask, samples=samples)
    return out, pull


def _scaled_as(value: Any, factor: float, dtype: torch.dtype) -> Any:
    """Return an operand of a sum times its factor, in the type of the sum: -1 is no uint8."""
    return (value.to(dtype) if isinstance(value, Tensor) else value) * factor


def _scaled_bounds(step: Step, a: Any, b: Any, **kwargs: Any) -> Signal:
    """Bound what is scaled by constants or masked; other products of signals are not bounded."""
    if isinstance(a, Signal) and isinstance(b, Signal):
        source = b if a.mask else a
        if step.function == "mul" and a.mask != b.mask and is_known(source):
            out, (low, high) = step.handler(step, a, b)[0], corners(source, source.axis)
            if out.x.shape == source.x.shape:
                return box(out, low.clamp(max=0), high.clamp(min=0), source.axis)
        return unknown(step.handler(step, a, b, **kwargs)[0])
    return monotone(step, a, b, **kwargs)


@register("mul", bounds=_scaled_bounds)
@mark(NUMERIC)
def _mul(step: Step, a: Any, b: Any) -> tuple[Signal, Pull]:
    if not isinstance(a, Signal) or not isinstance(b, Signal):
        source, factor = (a, b) if isinstance(a, Signal) else (b, a)
        if source.sigmoid and _is_state(step, source, factor):
            return _weigh_state(step, source, factor)
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


def _is_state(step: Step, gate: Signal, factor: Any) -> bool:
    """Return whether a constant has values of its own for each sample, as the probe tells."""
    if gate.samples is not None and isinstance(factor, Tensor):
        n_axes = max(gate.x.dim(), factor.dim())
        axis = n_axes - gate.x.dim() + gate.axis
        own = axis - (n_axes - factor.dim())
        step.has_state = own >= 0 and factor.shape[own] > 1
    return step.has_state


def _weigh_state(step: Step, gate: Signal, state: Tensor) -> tuple[Signal, Pull]:
    """Multiply a gate and an initial state, which takes what a signal would, and keeps it."""
    z = gate.x * state

    def pull(relevance: Tensor, kept: Kept | None) -> Tensor | None:
        share = share_product(step, gate.x, state)
        to_gate = relevance * share
        if kept is not None:
            kept.add("bias", relevance - to_gate)
        return None if step.product == "all" else sum_to(to_gate, gate.x.shape)

    return Signal(z, is_nonnegative(state), samples=broadcast_samples(z.shape, gate)), pull


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
    signal, gate = (0, 1) if _reluctance(a) <= _reluctance(b) else (1, 0)
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


@register("matmul", "bmm", "rmatmul")
def _matmul(step: Step, a: Any, b: Any) -> tuple[Signal, Pull]:
    turned = step.function == "rmatmul"
    factors = (b, a) if turned else (a, b)
    signals = find_all(Signal, factors)
    if len(signals) == 2 and not (a.gate or b.gate):
        raise TypeError("it multiplies two signals, neither of which is a gate")
    if any(s.axis != 0 or s.x.dim() < 3 for s in signals):
        raise TypeError("its samples must be on the first of three axes or more")
    # The factor that takes all; the other one is held fixed.
    taking = min(
        (k for k, v in enumerate(factors) if isinstance(v, Signal)),
        key=lambda k: _reluctance(factors[k]),
    )
    left, right = map(value_of, factors)
    z = torch.matmul(left, right)

    def function(x: Tensor) -> Tensor:
        return torch.matmul(left, x) if taking else torch.matmul(x, right)

    source = factors[taking]
    share = contribute(step, source.x, z, adjoint_at(function, source.x))

    def pull(relevance: Tensor, kept: Kept | None) -> Any:
        if len(signals) == 1:
            return share(relevance, kept)
        if step.product == "all" or factors[1 - taking].mask:
            back: tuple[Any, ...] = (share(relevance, kept), None)
            back = back[::-1] if taking else back
        else:
            back = _share_matmul(step, *factors, z, relevance, kept)
        return back[::-1] if turned else back

    samples = _samples_in_front([source, *signals], z.shape)
    all_gates, all_masks = all(s.gate for s in signals), all(s.mask for s in signals)
    return Signal(z, gate=all_gates, mask=all_masks, samples=samples), pull


def _reluctance(signal: Signal) -> int:
    """Return how little a factor takes: a signal takes before a gate, and that before a mask."""
    return signal.gate + signal.mask


def _share_matmul(
    step: Step, a: Signal, b: Signal, z: Tensor, relevance: Tensor, kept: Kept | None
) -> tuple[Tensor, Tensor]:
    """Share with the gate too: by contribution to the sum, then each product among its factors."""
    if a.gate and b.gate:
        raise TypeError(
            f"Relevance through {step.name!r}, a product of two gates, is not supported; a signal "
            "must be among its factors."
        )
    split = Split(1.0, known(z), step.epsilon, None)
    ratio = split.ratio(relevance)
    if kept is not None:
        account(kept, relevance, [split], [ratio])
    to_a, to_b = [], []
    for i in range(a.x.shape[-1]):  # one product of each sum at a time: all would not fit
        one, other = a.x[..., :, i, None], b.x[..., i, None, :]
        gate, signal = (one, other) if a.gate else (other, one)
        total = ratio * (one * other)
        to_gate = total * share_product(step, gate, signal)
        parts = (to_gate, total - to_gate) if a.gate else (total - to_gate, to_gate)
        to_a.append(parts[0].sum(-1))
        to_b.append(parts[1].sum(-2))
    return (
        sum_to(torch.stack(to_a, -1), a.x.shape),
        sum_to(torch.stack(to_b, -2), b.x.shape),
    )


def _samples_in_front(signals: list[Signal], shape: torch.Size) -> Tensor | None:
    """Return the samples of an output that has them on the first axis, None when not probing."""
    samples = next((s.samples for s in signals if s.samples is not None), None)
    if samples is None:
        return None
    return samples.flatten(1)[:, :1].reshape(-1, *(1,) * (len(shape) - 1)).expand(shape)
