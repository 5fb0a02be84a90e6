"""Handlers of torch functions that copy values: reshape, index, join, pad, convert.

Each value of the output is one value of an input, or a constant. Relevance goes back to where the
value came from; the adjoint of the function, by autograd, does that for all of them. Importing
this module registers the handlers; the recorder finds them by the functions' names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sklrp._copies import find_all
from sklrp._torch import PAD_PACKED
from sklrp.propagation.bounds import monotone
from sklrp.propagation.handlers.adjoints import adjoint_at, pull_gradients
from sklrp.propagation.handlers.operands import standing, value_of
from sklrp.propagation.nested import swap_signals
from sklrp.propagation.registry import COMPLEX, NEW, PASSING, SHARING, SOURCED, mark, register
from sklrp.propagation.tape import Kept, Pull, Step
from sklrp.rules import Signal


@register(
    "view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "contiguous", "clone",
    "detach", "data", "view_as", "reshape_as", "ravel", "alias", "positive", "real",
    "atleast_1d", "atleast_2d", "atleast_3d", "conj", "conj_physical", "resolve_conj",
    "resolve_neg",
    bounds=monotone,
)  # fmt: skip
@mark(PASSING, SOURCED, COMPLEX)
def _view(step: Step, source: Signal, *args: Any, **kwargs: Any) -> tuple[Signal, Pull]:
    # The affine step lays images out with channels last; the network's own are not, and its
    # `view` would fail on them.
    source = replace(source, x=source.x.contiguous())
    if step.function == "squeeze":
        args, kwargs = _squeezed_axes(source, *args, **kwargs), {}
    out, shape = _copied(step, source, *args, **kwargs), source.x.shape
    return out, _with_others(
        lambda relevance: relevance.reshape(len(relevance), *shape), args, kwargs
    )


def _squeezed_axes(source: Signal, dim: Any = None) -> tuple[tuple[int, ...]]:
    """Return the axes that a squeeze may take: never that of the samples, also of a single one."""
    n_axes = source.x.dim()
    dims = range(n_axes) if dim is None else [dim] if isinstance(dim, int) else dim
    return (tuple(d for d in dims if d % n_axes != source.axis),)


@register("permute", "transpose", "movedim", "t", "T", "mT", bounds=monotone)
@mark(SHARING, SOURCED, COMPLEX)
def _reorder_axes(step: Step, source: Signal, *args: Any, **kwargs: Any) -> tuple[Any, Pull]:
    # What it makes of the sizes 0, 1, 2 ... says which axis comes from where.
    order = step.layer(torch.empty(tuple(range(source.x.dim()))), *args, **kwargs).shape
    back = [0, *(order.index(axis) + 1 for axis in range(len(order)))]
    out = _copied(step, source, *args, **kwargs)
    return out, _with_others(lambda relevance: relevance.permute(back), args, kwargs)


@register(
    "adjoint", "flip", "fliplr", "flipud", "roll", "rot90", "narrow", "select", "index_select",
    "gather", "take_along_dim", "__getitem__", "expand", "expand_as", "broadcast_to", "repeat",
    "tile", "repeat_interleave", "fftshift", "ifftshift", "unfold", "diagonal", "pixel_shuffle",
    "pixel_unshuffle", "channel_shuffle",
    bounds=monotone,
)  # fmt: skip
@mark(SHARING, SOURCED, COMPLEX)
def _rearrange(step: Step, source: Signal, *args: Any, **kwargs: Any) -> tuple[Any, Pull]:
    out = _copied(step, source, *args, **kwargs)
    values = swap_signals((args, kwargs), value_of)
    adjoint = adjoint_at(lambda x: step.layer(x, *values[0], **values[1]), source.x)
    return out, _with_others(adjoint, args, kwargs)


@register("masked_select", bounds=monotone)
@mark(SOURCED)
def _select(step: Step, source: Signal, mask: Any) -> tuple[Any, Pull]:
    """Take the values under a mask of constants, which is the same for all samples."""
    if isinstance(mask, Signal):
        raise TypeError("its mask depends on the network's input; use where or masked_fill")
    return _rearrange(step, source, mask)


@register("tril", "triu", bounds=monotone)
@mark(SOURCED)
def _triangle(step: Step, source: Signal, *args: Any, **kwargs: Any) -> tuple[Signal, Pull]:
    """Keep one triangle of the last two axes; the zeros in the other one are of no sample."""
    if source.axis >= source.x.dim() - 2:
        raise TypeError("it cuts along the axis of the samples, each sample at another place")

    def cut(x: Tensor) -> Tensor:
        return step.layer(x, *args, **kwargs)

    out = replace(_copied(step, source, *args, **kwargs), samples=source.samples)
    if out.samples is not None:
        is_cut = cut(torch.ones_like(source.x)) == 0
        out = replace(out, samples=out.samples.masked_fill(is_cut, -1))
    return out, lambda relevance, kept: cut(relevance)


def _with_others(adjoint: Callable[[Any], Tensor], args: Any, kwargs: Any) -> Pull:
    """Return a pull that gives None to the signals behind the source, such as indices."""
    others = len(find_all(Signal, (args, kwargs)))

    def pull(relevance: Any, kept: Kept | None) -> Any:
        back = adjoint(relevance)
        return (back, *(None,) * others) if others else back

    return pull


@register("split", "chunk", "tensor_split", "unbind", "split_with_sizes", "unsafe_chunk",
          "unsafe_split", "hsplit", "vsplit", "dsplit", bounds=monotone)  # fmt: skip
@mark(SHARING, SOURCED, COMPLEX)
def _split(step: Step, source: Signal, *args: Any, **kwargs: Any) -> tuple[Any, Pull]:
    pieces = _copied(step, source, *args, **kwargs)
    adjoint = adjoint_at(lambda x: step.layer(x, *args, **kwargs), source.x)
    return pieces, lambda relevance, kept: adjoint(relevance)


def _copied(step: Step, source: Signal, *args: Any, **kwargs: Any) -> Any:
    """Apply a function that copies values, to all that is known of them."""
    args, kwargs = swap_signals((args, kwargs), value_of)

    def apply(tensor: Tensor) -> Any:
        return step.layer(tensor, *args, **kwargs)

    out: Any = apply(source.x)
    samples: Any = source.samples
    if samples is not None:
        try:
            samples = apply(samples)
        except RuntimeError:  # repeated in memory, they may have no view in this shape
            samples = apply(samples.contiguous())

    def signal(i: Any) -> Signal:
        x, whose = (v if v is None or i is None else v[i] for v in (out, samples))
        return replace(source, x=x, samples=whose, seen=None, lengths=None, axis=0)

    return signal(None) if isinstance(out, Tensor) else tuple(map(signal, range(len(out))))


@register("cat", "stack", "hstack", "vstack", "dstack", "column_stack", bounds=monotone)
@mark(NEW, COMPLEX)
def _join(step: Step, pieces: Any, *args: Any, **kwargs: Any) -> tuple[Signal, Pull]:
    signals = find_all(Signal, pieces)

    def apply(pick: Callable[[Signal], Any], constant: Callable[[Tensor], Tensor]) -> Tensor:
        values = [pick(p) if isinstance(p, Signal) else constant(p) for p in pieces]
        return step.layer(values, *args, **kwargs)

    out = apply(value_of, value_of)
    samples = None
    if any(s.samples is not None for s in signals):

        def nobody(v: Tensor) -> Tensor:  # constants are of no sample: -1
            return torch.full_like(v, -1, dtype=torch.float32)

        samples = apply(lambda s: nobody(s.x) if s.samples is None else s.samples, nobody)
    nonnegative = len(signals) == len(pieces) and all(s.nonnegative for s in signals)

    def pull(relevance: Tensor, kept: Kept | None) -> Any:
        with torch.enable_grad():
            # Integers among floats take part as numbers.
            leaves = [(s.x if s.x.is_floating_point() else s.x.to(relevance)) for s in signals]
            leaves = [leaf.detach().requires_grad_() for leaf in leaves]
            following = iter(leaves)
            joined = apply(lambda s: next(following), value_of)
        if kept is not None and len(signals) < len(pieces):
            constant = apply(lambda s: torch.zeros_like(s.x), torch.ones_like)
            kept.add("padding", relevance * constant)
        back = pull_gradients(joined, leaves, relevance)
        return back if len(back) > 1 else back[0]

    return Signal(out, nonnegative, **standing(*signals), samples=samples), pull


@register("pad", bounds=monotone)
@mark(SOURCED, COMPLEX)
def _pad_function(
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
    adjoint = adjoint_at(lambda x: apply(x, 0.0), source.x)

    def pull(relevance: Tensor, kept: Kept | None) -> Tensor:
        if kept is not None and mode == "constant":
            kept.add(
                "padding",
                relevance * (1.0 - apply(torch.ones_like(source.x, dtype=relevance.dtype), 0.0)),
            )
        return adjoint(relevance)

    return replace(out, **standing(source)), pull


@register("to", "type", "type_as", "float", "double", "half", "bfloat16", "long", "int", "short",
          "byte", "char", "cpu", "cuda", bounds=monotone)  # fmt: skip
@mark(SOURCED)
def _convert(step: Step, source: Signal, *args: Any, **kwargs: Any) -> tuple[Signal, Pull]:
    x = source.x
    values = swap_signals((args, kwargs), value_of)
    out = step.layer(x, *values[0], **values[1])
    if not isinstance(out, Tensor):
        raise TypeError("it tells a type, and of which is not known")
    if x.is_floating_point() and out.dtype == torch.bool:
        raise TypeError("a conversion to a mask passes no relevance; compare with 0")
    if x.is_floating_point() and out.is_floating_point() and out.itemsize < 4 <= x.itemsize:
        coarse, fine = (str(dtype).removeprefix("torch.") for dtype in (out.dtype, x.dtype))
        raise TypeError(
            f"in {coarse} shares of relevance are too coarse; leave the values in {fine}"
        )
    # Categories among floats: integers of the input are gates, and what an embedding gives the
    # token goes on to the number that it was.
    source = replace(source, gate=source.gate or not out.is_floating_point())
    # Integers and masks get relevance too, as the numbers that they are converted to.
    dtype = x.dtype if x.is_floating_point() else None
    pull = _with_others(lambda relevance: relevance.to(device=x.device, dtype=dtype), args, kwargs)
    # What goes with the values lies where they lie: forward may move them to another device.
    beside = (source.seen, source.samples)
    seen, samples = (None if v is None else v.to(out.device) for v in beside)
    return replace(source, x=out, seen=seen, samples=samples), pull


@register(PAD_PACKED)
def _pad_packed(
    step: Step, source: Signal, lengths: list[int], n_steps: int, axis: int, filling: float
) -> tuple[Signal, Pull]:
    """Cut or fill up sequences to so many steps, and lay them out as the network asks."""
    shape, own = source.x.shape, source.axis
    first, size = source.x.movedim(own, 0), source.x.shape[1 - own]
    n_taken = min(n_steps, size)
    places = torch.arange(n_steps, device=first.device)
    there = places < torch.tensor(lengths, device=first.device)[:, None]
    there = there.reshape(*there.shape, *(1,) * (first.dim() - 2))
    x = first[:, :n_taken]
    if n_steps > size:
        x = torch.cat([x, x.new_zeros(len(x), n_steps - size, *x.shape[2:])], 1)
    x = torch.where(there, x, filling).movedim(0, axis)

    def pull(relevance: Tensor, kept: Kept | None) -> Tensor:
        arrived = relevance.movedim(1 + axis, 1)
        passed = arrived * there
        if kept is not None:
            kept.add("padding", (arrived - passed).movedim(1, 1 + axis))
        back = relevance.new_zeros(len(relevance), *shape).movedim(1 + own, 1)
        back[:, :, :n_taken] = passed[:, :, :n_taken]
        return back.movedim(1, 1 + own)

    return Signal(x, source.nonnegative and filling >= 0, axis=axis), pull
