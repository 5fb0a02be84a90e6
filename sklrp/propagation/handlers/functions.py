"""Handlers of torch functions that are no layers: copies, arithmetic, reductions, products.

Handlers here get signals in the network's own layout; while a network is probed, ``samples`` tells
which sample each value belongs to, and a function that mixes samples is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sklrp.propagation.handlers.activations import pass_on
from sklrp.propagation.handlers.reshaping import pull_gradients
from sklrp.propagation.registry import HANDLERS, NUMERIC, PASSING, SOURCED, register
from sklrp.propagation.sharing import Split, account, contribute, share_product
from sklrp.propagation.tape import Kept, Pull, Step, find_signals
from sklrp.rules import Signal


def swap(value: Any, pick: Callable[[Signal], Any]) -> Any:
    """Return nested arguments with ``pick(signal)`` in place of each signal."""
    if isinstance(value, Signal):
        return pick(value)
    if isinstance(value, tuple | list):
        return rebuild(value, (swap(v, pick) for v in value))
    if isinstance(value, dict):
        return {k: swap(v, pick) for k, v in value.items()}
    return value


def rebuild(like: Any, values: Iterable[Any]) -> Any:
    """Return values in a tuple, a named tuple or a list."""
    return type(like)(*values) if hasattr(like, "_fields") else type(like)(values)


def _tensor(signal: Signal) -> Tensor:
    return signal.x


def _spread(shape: torch.Size, *signals: Any) -> Tensor | None:
    """Return the samples of an elementwise function's output, while probing."""
    found = [
        s.samples.broadcast_to(shape)
        for s in signals
        if isinstance(s, Signal) and s.samples is not None
    ]
    if any(not torch.equal(found[0], other) for other in found[1:]):
        raise TypeError("it mixes samples: their axes do not match")
    return found[0] if found else None


def _sum_to(relevance: Tensor, shape: torch.Size) -> Tensor:
    """Sum relevance ``(n_targets, ...)`` over the axes along which ``shape`` was broadcast."""
    extra = relevance.dim() - 1 - len(shape)
    wide = relevance.sum_to_size(len(relevance), *(1,) * extra, *shape)
    return wide.reshape(len(relevance), *shape)


def _adjoint(function: Callable[[Tensor], Any], x: Tensor) -> Callable[[Any], Tensor]:
    """Return the adjoint of a linear function at ``x``, for relevance with leading targets."""

    def adjoint(relevance: Any) -> Tensor:
        arrived = relevance if isinstance(relevance, tuple) else (relevance,)
        dtype = next(r.dtype for r in arrived if r is not None)
        with torch.enable_grad():  # the gradient of a linear map is its adjoint
            leaf = x.detach().to(dtype).requires_grad_()  # tokens are integers
            out = function(leaf)
        outs = out if isinstance(out, tuple | list) else [out]
        pairs = [(o, r) for o, r in zip(outs, arrived, strict=True) if r is not None]
        return pull_gradients([o for o, _ in pairs], leaf, [r for _, r in pairs])[0]

    return adjoint


@register(
    "view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "contiguous", "clone",
    "detach", "data", "view_as", "reshape_as", "ravel", "alias", "positive", "real",
)  # fmt: skip
def _reshape(step: Step, source: Signal, *args: Any, **kwargs: Any) -> tuple[Signal, Pull]:
    source = replace(source, x=source.x.contiguous())  # `view` meets channels last, the user's not
    out, shape = _copied(step, source, *args, **kwargs), source.x.shape
    others = len(find_signals((args, kwargs)))  # of view_as, which take no relevance

    def pull(relevance: Tensor, kept: Kept | None) -> Any:
        back = relevance.reshape(len(relevance), *shape)
        return (back, *(None,) * others) if others else back

    return out, pull


@register(
    "permute", "transpose", "movedim", "t", "T", "mT", "adjoint", "flip", "fliplr", "flipud",
    "roll", "rot90", "narrow", "select", "index_select", "gather", "take_along_dim",
    "__getitem__", "expand", "expand_as", "broadcast_to", "repeat", "tile", "repeat_interleave",
    "unfold", "diagonal", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "tril", "triu",
)  # fmt: skip
def _copy(step: Step, source: Signal, *args: Any, **kwargs: Any) -> tuple[Any, Pull]:
    out = _copied(step, source, *args, **kwargs)
    others = len(find_signals((args, kwargs)))  # indices, which take no relevance
    options = swap((args, kwargs), _tensor)
    adjoint = _adjoint(lambda x: step.layer(x, *options[0], **options[1]), source.x)

    def pull(relevance: Any, kept: Kept | None) -> Any:
        back = adjoint(relevance)
        return (back, *(None,) * others) if others else back

    return out, pull


@register("split", "chunk", "tensor_split", "unbind", "split_with_sizes", "unsafe_chunk")
def _split(step: Step, source: Signal, *args: Any, **kwargs: Any) -> tuple[Any, Pull]:
    pieces = _copied(step, source, *args, **kwargs)
    adjoint = _adjoint(lambda x: step.layer(x, *args, **kwargs), source.x)
    return pieces, lambda relevance, kept: adjoint(relevance)


def _copied(step: Step, source: Signal, *args: Any, **kwargs: Any) -> Any:
    """Apply a function that copies values, to all that is known of them."""
    args, kwargs = swap((args, kwargs), _tensor)

    def apply(tensor: Tensor | None) -> Any:
        return None if tensor is None else step.layer(tensor, *args, **kwargs)

    out, samples = apply(source.x), apply(source.samples)
    low, high = (
        None if v is None else apply(v.expand_as(source.x).contiguous())
        for v in (source.low, source.high)
    )

    def signal(i: Any) -> Signal:
        parts: list[Any] = [out, low, high, samples]
        x, bottom, top, whose = (v if v is None or i is None else v[i] for v in parts)
        return replace(
            source, x=x, low=bottom, high=top, samples=whose, seen=None, lengths=None, axis=0
        )

    return signal(None) if isinstance(out, Tensor) else tuple(map(signal, range(len(out))))


@register("cat", "stack", "hstack", "vstack", "dstack", "column_stack")
def _join(step: Step, pieces: Any, *args: Any, **kwargs: Any) -> tuple[Signal, Pull]:
    signals = find_signals(pieces)

    def apply(pick: Callable[[Signal], Any], constant: Callable[[Tensor], Tensor]) -> Tensor:
        values = [pick(p) if isinstance(p, Signal) else constant(p) for p in pieces]
        return step.layer(values, *args, **kwargs)

    out = apply(_tensor, lambda v: v)
    samples = None
    if any(s.samples is not None for s in signals):

        def nobody(v: Tensor) -> Tensor:
            return torch.full_like(v, -1, dtype=torch.double)

        samples = apply(lambda s: nobody(s.x) if s.samples is None else s.samples, nobody)
    low = high = None
    if all(s.low is not None and s.high is not None for s in signals):
        low = apply(lambda s: s.low.expand_as(s.x), lambda v: v)  # type: ignore[union-attr]
        high = apply(lambda s: s.high.expand_as(s.x), lambda v: v)  # type: ignore[union-attr]
    nonnegative = len(signals) == len(pieces) and all(s.nonnegative for s in signals)

    def pull(relevance: Tensor, kept: Kept | None) -> Any:
        with torch.enable_grad():
            leaves = [s.x.detach().requires_grad_() for s in signals]
            following = iter(leaves)
            joined = apply(lambda s: next(following), lambda v: v)
        if kept is not None and len(signals) < len(pieces):
            constant = apply(lambda s: torch.zeros_like(s.x), torch.ones_like)
            kept.add("padding", relevance * constant)
        back = pull_gradients(joined, leaves, relevance)
        return back if len(back) > 1 else back[0]

    gate = all(s.gate for s in signals)
    return Signal(out, nonnegative, low, high, gate=gate, samples=samples), pull


@register("pad")
def _pad(
    step: Step, source: Signal, pad: Any, mode: str = "constant", value: float | None = None
) -> tuple[Signal, Pull]:
    def apply(x: Tensor, fill: float | None) -> Tensor:
        return F.pad(x, pad, mode, fill) if mode == "constant" else F.pad(x, pad, mode)

    out = source.apply(lambda x: apply(x, value), source.nonnegative and (value or 0) >= 0)
    if source.samples is not None:
        out = replace(out, samples=apply(source.samples, -1.0))
    if mode == "constant" and source.axis == 0:
        seen = source.x.new_ones(1, *source.x.shape[1:]) if source.seen is None else source.seen
        if apply(seen, 0.0).shape[0] == 1:
            out = replace(out, seen=apply(seen, 0.0))
    adjoint = _adjoint(lambda x: apply(x, 0.0), source.x)

    def pull(relevance: Tensor, kept: Kept | None) -> Tensor:
        if kept is not None and mode == "constant":
            kept.add("padding", relevance * (1.0 - apply(torch.ones_like(source.x), 0.0)))
        return adjoint(relevance)

    return replace(out, gate=source.gate), pull


@register("to", "type", "type_as", "float", "double", "half", "bfloat16", "cpu", "cuda")
def _convert(step: Step, source: Signal, *args: Any, **kwargs: Any) -> tuple[Signal, Pull]:
    x, (args, kwargs) = source.x, swap((args, kwargs), _tensor)
    out = step.layer(x, *args, **kwargs)
    if not isinstance(out, Tensor) or (x.is_floating_point() and not out.is_floating_point()):
        raise TypeError("a conversion to integers passes no relevance")
    others = len(find_signals((args, kwargs)))

    def pull(relevance: Tensor, kept: Kept | None) -> Any:
        back = relevance.to(device=x.device, dtype=x.dtype)
        return (back, *(None,) * others) if others else back

    low, high = (None if v is None else v.to(out) for v in (source.low, source.high))
    return replace(source, x=out, low=low, high=high), pull


@register("add")
def _add(step: Step, a: Any, b: Any, *, alpha: float = 1) -> tuple[Signal, Pull]:
    return _combine(step, a, b, 1, alpha)


@register("sub")
def _sub(step: Step, a: Any, b: Any, *, alpha: float = 1) -> tuple[Signal, Pull]:
    return _combine(step, a, b, 1, -alpha)


@register("rsub")
def _rsub(step: Step, a: Any, b: Any, *, alpha: float = 1) -> tuple[Signal, Pull]:
    return _combine(step, b, a, 1, -alpha)


def _combine(step: Step, a: Any, b: Any, *factors: float) -> tuple[Signal, Pull]:
    """Add two operands: relevance is shared by contribution, a constant's is that of a bias."""
    operands = (a, b)
    values = [
        _value(v) if factor == 1 else _value(v) * factor
        for v, factor in zip(operands, factors, strict=True)
    ]
    z = values[0] + values[1]
    pairs = list(zip(operands, values, strict=True))
    signals = [(v, value) for v, value in pairs if isinstance(v, Signal)]
    constant = next((value for v, value in pairs if not isinstance(v, Signal)), None)

    def pull(relevance: Tensor, kept: Kept | None) -> Any:
        if not z.is_floating_point() and len(signals) == 1:  # the place of a token in a table
            return _sum_to(relevance, signals[0][0].x.shape)
        split = Split(1.0, lambda: z, step.epsilon, constant)
        ratio = split.ratio(relevance)
        if kept is not None:
            account(kept, relevance, [split], [ratio])
        back = tuple(_sum_to(ratio * value, v.x.shape) for v, value in signals)
        return back if len(back) > 1 else back[0]

    sources = [v for v, _ in signals]
    growing = all(factor > 0 for factor in factors)
    low = high = None
    if growing and all(v.low is not None and v.high is not None for v in sources):
        low, high = (
            sum(
                (getattr(v, end) if isinstance(v, Signal) else v) * factor
                for v, factor in zip(operands, factors, strict=True)
            )
            for end in ("low", "high")
        )
    nonnegative = all(map(_is_nonnegative, operands)) and all(factor >= 0 for factor in factors)
    gate = all(v.gate for v in sources)
    samples = _spread(z.shape, *sources)
    return Signal(z, nonnegative, low, high, gate=gate, samples=samples), pull


@register("mul")
def _mul(step: Step, a: Any, b: Any) -> tuple[Signal, Pull]:
    if not isinstance(a, Signal) or not isinstance(b, Signal):
        source, factor = (a, b) if isinstance(a, Signal) else (b, a)
        return _scale(source, lambda x: x * factor, _is_nonnegative(factor))
    return _product(step, a, b, a.x * b.x, (a.x, b.x))


@register("div")
def _div(step: Step, a: Any, b: Any, *, rounding_mode: str | None = None) -> tuple[Signal, Pull]:
    if rounding_mode is not None:
        raise TypeError("a division that rounds passes no relevance")
    if not isinstance(b, Signal):
        return _scale(a, lambda x: x / b, bool(torch.as_tensor(b).min() > 0))
    if isinstance(a, Signal) and b.gate:
        return _product(step, a, b, a.x / b.x, (a.x, b.x.reciprocal()))
    raise TypeError("it divides by a signal; only a gate may divide")


@register("neg")
def _neg(step: Step, source: Signal) -> tuple[Signal, Pull]:
    return _scale(source, torch.neg, False)


def _scale(source: Signal, function: Callable[[Tensor], Tensor], increasing: bool) -> Any:
    """Scale by constants, which passes all relevance."""
    x, shape = function(source.x), source.x.shape
    out = Signal(
        x, source.nonnegative and increasing, gate=source.gate, samples=_spread(x.shape, source)
    )
    if increasing and source.low is not None and source.high is not None:
        out = replace(out, low=function(source.low), high=function(source.high))
    return out, lambda relevance, kept: _sum_to(relevance, shape)


def _product(
    step: Step, a: Signal, b: Signal, z: Tensor, values: tuple[Tensor, Tensor]
) -> tuple[Signal, Pull]:
    """Multiply a gate and a signal: the signal takes all, or what the variant gives it."""
    if not a.gate and not b.gate:
        raise TypeError(
            "it multiplies two signals, neither of which is a gate (a sigmoid, a softmax or a "
            "mask)"
        )
    both = a.gate and b.gate
    first = b.gate  # the signal is the first

    def pull(relevance: Tensor, kept: Kept | None) -> Any:
        if both:
            raise TypeError(
                f"Relevance through {step.name!r}, a product of two gates, is not supported; a "
                "signal must be among its factors."
            )
        signal, gate = (0, 1) if first else (1, 0)
        back: list[Tensor | None] = [None, None]
        if step.product == "all":
            back[signal] = relevance
        else:
            share = share_product(step, values[gate], values[signal])
            back[gate] = relevance * share
            back[signal] = relevance - relevance * share
        return tuple(
            None if r is None else _sum_to(r, v.x.shape) for r, v in zip(back, (a, b), strict=True)
        )

    nonnegative = a.nonnegative and b.nonnegative
    return Signal(z, nonnegative, gate=both, samples=_spread(z.shape, a, b)), pull


@register("clamp", "clamp_min", "clamp_max")
def _clamp(step: Step, source: Signal, *args: Any, **kwargs: Any) -> tuple[Signal, Pull]:
    out = source.apply(lambda x: step.layer(x, *args, **kwargs))
    nonnegative = source.nonnegative or bool(
        (out.x >= 0).all() and _floor(step, args, kwargs) >= 0
    )
    return replace(out, nonnegative=nonnegative, gate=source.gate, samples=source.samples), pass_on


def _floor(step: Step, args: Any, kwargs: Any) -> float:
    """Return the lower bound that a clamp sets."""
    name = step.name.rpartition(".")[2]
    low = kwargs.get("min", args[0] if args and name != "clamp_max" else None)
    return -math.inf if low is None else float(torch.as_tensor(low).min())


@register("gt", "lt", "ge", "le", "eq", "ne", "greater", "less", "greater_equal", "less_equal",
          "not_equal", "isnan", "isfinite", "isinf", "signbit")  # fmt: skip
def _compare(step: Step, *args: Any, **kwargs: Any) -> tuple[Signal, Pull]:
    x = step.layer(*swap(args, _tensor), **swap(kwargs, _tensor))
    samples = _spread(x.shape, *find_signals((args, kwargs)))

    def pull(relevance: Any, kept: Kept | None) -> Any:
        raise TypeError(
            f"Relevance through the comparison {step.name!r} is not supported; use it as a mask "
            "only."
        )

    return Signal(x, True, gate=True, samples=samples), pull


@register("where", "masked_fill", "maximum", "minimum")
def _where(step: Step, *args: Any) -> tuple[Signal, Pull]:
    name = step.name.rpartition(".")[2]
    if name == "masked_fill":
        source, mask, value = args
        choice, a, b = mask, value, source
    elif name == "where":
        # As a method it has the mask second: x.where(mask, other).
        choice, a, b = args if _is_mask(args[0]) else (args[1], args[0], args[2])
    else:
        a, b = args
        choice = _value(a) >= _value(b) if name == "maximum" else _value(a) <= _value(b)
    mask = _value(choice)
    x = torch.where(mask, _value(a), _value(b))
    x = x.to(next(s.x for s in (a, b) if isinstance(s, Signal)))
    branches = [(a, mask), (b, ~mask)]
    order = find_signals(args)

    def pull(relevance: Tensor, kept: Kept | None) -> Any:
        back = {}
        for value, chosen in branches:
            if isinstance(value, Signal):
                back[id(value)] = _sum_to(relevance * chosen, value.x.shape)
            elif kept is not None:
                kept.add("dropped", relevance * chosen)
        passed = tuple(back.get(id(s)) for s in order)
        return passed if len(passed) > 1 else passed[0]

    sources = [v for v in (a, b) if isinstance(v, Signal)]
    nonnegative = _is_nonnegative(a) and _is_nonnegative(b)
    gate = all(s.gate for s in sources)
    return Signal(x, nonnegative, gate=gate, samples=_spread(x.shape, *order)), pull


def _value(v: Any) -> Any:
    return v.x if isinstance(v, Signal) else v


def _is_nonnegative(v: Any) -> bool:
    """Return whether a signal is known to be nowhere negative, or a constant is not."""
    return v.nonnegative if isinstance(v, Signal) else bool(torch.as_tensor(v).min() >= 0)


def _is_mask(v: Any) -> bool:
    v = _value(v)
    return isinstance(v, Tensor) and v.dtype == torch.bool


@register("mean", "sum")
def _sum(
    step: Step, source: Signal, dim: Any = None, keepdim: bool = False, *,
    axis: Any = None, dtype: Any = None,
) -> tuple[Signal, Pull]:  # fmt: skip
    dim = _axes(source, axis if dim is None else dim)
    x, mean = source.x, step.name.rpartition(".")[2] == "mean"

    def apply(v: Tensor) -> Tensor:
        return v.mean(dim, keepdim) if mean else v.sum(dim, keepdim)

    z = apply(x)
    kept_shape = [1 if i in dim else n for i, n in enumerate(x.shape)]
    n = math.prod(x.shape[i] for i in dim) if mean else 1
    samples = _reduced_samples(source, dim, keepdim)
    out = Signal(z, source.nonnegative, gate=source.gate, samples=samples)
    if source.low is not None and source.high is not None and source.axis == 0:
        low, high = (apply(v.expand(len(v), *x.shape[1:])) for v in (source.low, source.high))
        out = replace(out, low=low, high=high)

    def adjoint(ratio: Tensor) -> Tensor:
        return (ratio.reshape(len(ratio), *kept_shape) / n).expand(len(ratio), *x.shape)

    return out, contribute(step, x, z, adjoint)


@register("amax", "amin", "max", "min")
def _max(
    step: Step, source: Signal, dim: Any = None, keepdim: bool = False, *, axis: Any = None
) -> tuple[Any, Pull]:
    if isinstance(dim, Signal | Tensor):
        raise TypeError("write torch.maximum or torch.minimum for the larger of two tensors")
    name = step.name.rpartition(".")[2]
    dims = _axes(source, axis if dim is None else dim)
    x, n_axes = source.x, source.x.dim()
    rest = [i for i in range(n_axes) if i not in dims]
    front = x.permute(*rest, *dims).flatten(len(rest))  # the reduced axes behind, as one
    index = (front.argmax(-1) if name.endswith("max") else front.argmin(-1))[..., None]
    z = front.gather(-1, index)[..., 0]
    shape = [1 if i in dims else n for i, n in enumerate(x.shape)]
    samples = _reduced_samples(source, dims, keepdim)

    def pull(relevance: Any, kept: Kept | None) -> Tensor:
        relevance = relevance[0] if isinstance(relevance, tuple) else relevance
        flat = relevance.new_zeros(len(relevance), *front.shape)
        flat.scatter_(-1, index.expand(len(relevance), *index.shape), relevance.reshape(
            len(relevance), *z.shape)[..., None])  # fmt: skip
        back = flat.unflatten(-1, [x.shape[i] for i in dims])
        places = [*rest, *dims]
        return back.permute(0, *(1 + places.index(i) for i in range(n_axes)))

    low = high = None
    if source.low is not None and source.high is not None and source.axis == 0:
        low, high = (
            getattr(v.expand(len(v), *x.shape[1:]), "a" + name.removeprefix("a"))(dims, keepdim)
            for v in (source.low, source.high)
        )
    values = Signal(
        z.reshape(shape) if keepdim else z,
        source.nonnegative, low, high, gate=source.gate, samples=samples,
    )  # fmt: skip
    if name.startswith("a"):
        return values, pull
    places = index[..., 0]
    return (
        (
            values,
            Signal(places.reshape(shape) if keepdim else places, True, gate=True, samples=samples),
        ),
        pull,
    )


def _axes(source: Signal, dim: Any) -> list[int]:
    n_axes = source.x.dim()
    if dim is None:
        dim = range(n_axes)
    dims = list(dim) if isinstance(dim, Sequence | range) else [dim]
    return sorted(d % n_axes for d in dims or range(n_axes))


def _reduced_samples(source: Signal, dims: list[int], keepdim: bool) -> Tensor | None:
    """Return the samples of a reduction's output, while probing; refuse to mix samples."""
    if source.samples is None:
        return None
    least, most = (f(source.samples, dims, keepdim) for f in (torch.amin, torch.amax))
    if not torch.equal(least, most):
        raise TypeError("it reduces over the axis of the samples")
    return most


@register("matmul", "bmm", "rmatmul")
def _matmul(step: Step, a: Any, b: Any) -> tuple[Signal, Pull]:
    if step.name.rpartition(".")[2] == "rmatmul":
        a, b = b, a
    signals = [s for s in (a, b) if isinstance(s, Signal)]
    if len(signals) == 2 and not (a.gate or b.gate):
        raise TypeError("it multiplies two signals, neither of which is a gate")
    if any(s.axis != 0 or s.x.dim() < 3 for s in signals):
        raise TypeError("its samples must be on the first of three axes or more")
    source = next((s for s in signals if not s.gate), signals[0])
    z = torch.matmul(_value(a), _value(b))

    def function(x: Tensor) -> Tensor:
        return torch.matmul(x if a is source else _value(a), x if b is source else _value(b))

    share = contribute(step, source.x, z, _adjoint(function, source.x))

    def pull(relevance: Tensor, kept: Kept | None) -> Any:
        back = share(relevance, kept)
        return tuple(back if s is source else None for s in signals) if len(signals) > 1 else back

    samples = None
    if any(s.samples is not None for s in signals):
        first = source.samples if source.samples is not None else signals[-1].samples
        assert first is not None
        samples = first.flatten(1)[:, :1].reshape(-1, *(1,) * (z.dim() - 1)).expand(z.shape)
    return Signal(z, gate=all(s.gate for s in signals), samples=samples), pull


@register("_pad_packed_sequence")
def _pad_packed(step: Step, source: Signal, n_steps: int, axis: int) -> tuple[Signal, Pull]:
    """Cut sequences to the longest of the chunk, and lay them out as the network asks."""
    shape, own = source.x.shape, source.axis
    x = source.x.narrow(1 - own, 0, n_steps).movedim(own, axis)

    def pull(relevance: Tensor, kept: Kept | None) -> Tensor:
        back = relevance.new_zeros(len(relevance), *shape)
        back.narrow(2 - own, 0, n_steps).copy_(relevance.movedim(1 + axis, 1 + own))
        return back

    return Signal(x, source.nonnegative, axis=axis), pull


PASSING.update((_reshape, HANDLERS[nn.Identity].handler))
NUMERIC.update((_add, _sub, _rsub, _mul, _div, _clamp, _where))
SOURCED.update((_reshape, _copy, _split, _pad, _convert, _neg, _clamp, _sum, _max))
