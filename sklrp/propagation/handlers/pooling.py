"""Handlers of the layers that pool, resample, unfold and fold.

A maximum gives all to the winner and its equals, an average or an interpolation shares by
contribution. Importing this module registers the handlers.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from itertools import product
from operator import itemgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sklrp._copies import find_all
from sklrp.propagation.bounds import monotone, unknown
from sklrp.propagation.handlers.adjoints import adjoint_at, adjoint_of
from sklrp.propagation.handlers.largest import size_of_samples, weigher
from sklrp.propagation.handlers.operands import (
    base_name,
    refuse_mask,
    spatial_shape,
    standing,
    value_of,
)
from sklrp.propagation.handlers.reshaping import copied
from sklrp.propagation.registry import NEW, mark, register
from sklrp.propagation.sharing import contribute
from sklrp.propagation.tape import Kept, Pull, Step
from sklrp.rules import Signal, x_one


@register(
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
    bounds=monotone,
)
@mark(NEW)
def _max_pool(step: Step, signal: Signal) -> tuple[Any, Pull]:
    n_axes = len(spatial_shape(step, signal))
    layer: Any = copy.copy(step.layer)
    layer.return_indices = False
    x = out = signal.x
    sizes = x.shape[2:], layer.forward(x.to("meta")).shape[2:]
    each = enumerate(zip(*sizes, strict=True))
    pairs = [_pairs(layer, axis, n, m) for axis, (n, m) in each]
    for axis in range(n_axes):
        out = _largest_along(out, axis + 2, sizes[1][axis], pairs[axis])

    def pull(relevance: Any, kept: Kept | None) -> Tensor:
        if isinstance(relevance, tuple):
            relevance, of_indices = relevance
            if of_indices is not None:
                return refuse_mask(step)(of_indices, kept)
        return _pull_from_largest(relevance, signal, out, pairs, not step.rectified)

    largest = Signal(out, signal.nonnegative, **standing(signal))
    if not step.layer.return_indices:
        return largest, pull
    indices: Any = step.layer.forward(x)[1]
    return (largest, Signal(indices, True, gate=True, mask=True)), pull


def _largest_along(
    x: Tensor, axis: int, n_windows: int, pairs: Sequence[tuple[slice, slice]]
) -> Tensor:
    """Return the largest value of each window along one axis."""
    # Value by value of all windows, since torch takes many times as long window by window.
    whole: list[tuple[slice, Tensor]] = []
    edges: list[tuple[slice, Tensor]] = []
    for seen, window in pairs:
        values = x[_index_along(axis, seen)]
        if values.shape[axis] != _length(window):  # all values of one window
            values = values.amax(axis, keepdim=True)
        (whole if _length(window) == n_windows else edges).append((window, values))
    if whole:
        found = reduce(torch.maximum, [values for _, values in whole])
        found = found.clone() if edges and len(whole) == 1 else found  # else it is a view of x
    else:
        order = sorted(range(x.dim()), key=x.stride, reverse=True)  # the axes as x has them
        sizes = [n_windows if k == axis else x.shape[k] for k in order]
        found = x.new_full(sizes, -math.inf).permute(*map(order.index, range(x.dim())))
    for window, values in edges:
        here = _index_along(axis, window)
        # A view is assigned to, never changed in place, which not every device does.
        found[here] = torch.maximum(found[here], values)
    return found


def _pull_from_largest(
    relevance: Tensor,
    signal: Signal,
    out: Tensor,
    pairs: Sequence[list[tuple[slice, slice]]],
    zeros_share: bool,
) -> Tensor:
    """Return the relevance of values, of which the largest of each window share its relevance."""
    x = signal.x
    counts = [
        Counter(i for seen, _ in of_axis for i in range(n)[seen])
        for n, of_axis in zip(x.shape[2:], pairs, strict=True)
    ]
    all_seen = all(len(count) == n for n, count in zip(x.shape[2:], counts, strict=True))
    seen_once = all(max(count.values()) == 1 for count in counts)
    # Where no value is negative or outside of all windows, the largest of all is in the output.
    size = size_of_samples(out if signal.nonnegative and all_seen else x)
    weigh = weigher(out, size, zeros_share)
    # A window of zeros that have no share has no weight, nor does it get any relevance.
    least = 0.0 if zeros_share else torch.finfo(x.dtype).tiny
    like = x.expand(len(relevance), *x.shape)
    if x.stride(1) == 1 < x.stride(-1) and _are_tiles(pairs, out.shape[2:]):
        kernel = [len(of_axis) for of_axis in pairs]
        spans = (slice(k * m) for k, m in zip(kernel, out.shape[2:], strict=True))
        tiled: tuple[Any, ...] = (..., *spans)
        part = _pull_from_tiles(relevance, x[tiled], weigh, kernel, least)
        if all_seen:
            return part
        back = torch.zeros_like(like)
        back[tiled] = part
        return back
    places = [
        tuple((..., *slices) for slices in zip(*pair, strict=True)) for pair in product(*pairs)
    ]
    weights = [weigh(x[seen], itemgetter(window)) for seen, window in places]
    if all(
        out[window].shape == weight.shape == out.shape
        for (_, window), weight in zip(places, weights, strict=True)
    ):  # each takes one value of every window
        total = sum(weights[1:], start=weights[0])
    else:
        total = torch.zeros_like(out)
        for (_, window), weight in zip(places, weights, strict=True):
            total[window] = total[window] + weight.sum_to_size(total[window].shape)
    share = relevance / (total.clamp(min=least) if least else total)
    back = torch.empty_like(like) if all_seen and seen_once else torch.zeros_like(like)
    weights.reverse()
    for seen, window in places:
        weight = weights.pop()  # its memory is free for the next
        part = weight.mul_(share[0][window])[None] if len(share) == 1 else share[window] * weight
        back[seen] = part if seen_once else back[seen] + part
    return back


def _are_tiles(pairs: Sequence[list[tuple[slice, slice]]], n_windows: Sequence[int]) -> bool:
    """Return whether windows stand side by side, and a pair holds one value of each of them."""

    def along(k: int, m: int) -> list[tuple[slice, slice]]:
        return [(slice(i, i + (m - 1) * k + 1, k), slice(0, m)) for i in range(k)]

    return all(
        of_axis == along(len(of_axis), m) for of_axis, m in zip(pairs, n_windows, strict=True)
    )


def _pull_from_tiles(
    relevance: Tensor, x: Tensor, weigh: Callable[..., Tensor], kernel: Sequence[int], least: float
) -> Tensor:
    """Return what `_pull_from_largest` does, of tiles whose channels lie last in memory."""
    # Every second value of a row is a few channels, then a gap, over which torch takes several
    # times as long. So rows stay whole, and each of a row's values has its window's beside it.
    *heights, width = kernel
    channels = 1 - x.dim()

    def widen(of_windows: Tensor) -> Tensor:
        last = of_windows.movedim(channels, -1).contiguous()
        last = torch.cat([last] * width, -1)
        return last.unflatten(-1, (width, -1)).flatten(-3, -2).movedim(-1, channels)

    rows = x
    for axis, height in enumerate(heights, channels + 1):
        rows = rows.unflatten(axis, (-1, height)).movedim(axis, 0)
    weights = weigh(rows, widen)
    total = weights
    for _ in heights:
        total = sum(total[1:], start=total[0])
    total = sum((total[..., i::width] for i in range(1, width)), start=total[..., ::width])
    share = widen(relevance / (total.clamp(min=least) if least else total))
    if len(share) == 1:
        back = weights.mul_(share[0])[None]
    else:
        back = weights * share[(slice(None), *[None] * len(heights))]
    for axis in reversed(range(channels + 1, -1)):
        back = back.movedim(1, axis).flatten(axis - 1, axis)
    return back


def _index_along(axis: int, part: slice) -> tuple[slice, ...]:
    """Return the index of a part of one axis."""
    return (slice(None),) * axis + (part,)


def _length(window: slice) -> int:
    return int(window.stop - window.start)


def _options(layer: Any, n_axes: int) -> list[tuple[int, ...]]:
    """Return kernel, stride, padding and dilation along each axis."""
    options = layer.kernel_size, layer.stride, layer.padding, layer.dilation
    return [(o,) * n_axes if isinstance(o, int) else tuple(o) for o in options]


def _pairs(layer: Any, axis: int, n: int, m: int) -> list[tuple[slice, slice]]:
    """Return slices of n values and of the m windows that see them, which pair all of both.

    A pair holds one window with all of its values, or all windows with the same value of each,
    whichever gives fewer pairs.
    """
    if not hasattr(layer, "kernel_size"):  # an adaptive layer, whose windows may differ in size
        return [(slice(i * n // m, -(-(i + 1) * n // m)), slice(i, i + 1)) for i in range(m)]
    kernel, stride, padding, dilation = (o[axis] for o in _options(layer, axis + 1))
    pairs = []
    if m < kernel:
        for i in range(m):
            start = i * stride - padding
            first = start % dilation if start < 0 else start
            pairs.append(
                (slice(first, start + (kernel - 1) * dilation + 1, dilation), slice(i, i + 1))
            )
        return pairs
    for k in range(kernel):
        start = k * dilation - padding
        first = max(-(start // stride), 0)  # the first window whose value lies inside
        last = min((n - 1 - start) // stride, m - 1)
        if first <= last:
            start += first * stride
            seen = slice(start, start + (last - first) * stride + 1, stride)
            pairs.append((seen, slice(first, last + 1)))
    return pairs


@register(
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    bounds=monotone,
)
@mark(NEW)
def _avg_pool(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    spatial_shape(step, signal)
    return _share(step, signal, step.layer.forward)


_POWER_MEANS: dict[Any, Any] = {nn.LPPool1d: F.avg_pool1d, nn.LPPool2d: F.avg_pool2d}
if hasattr(nn, "LPPool3d"):  # since torch 2.4
    _POWER_MEANS[nn.LPPool3d] = F.avg_pool3d


@register(*_POWER_MEANS)
def _power_mean(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    """Sum powers, which share by contribution; power and root pass all, as of single values."""
    layer: Any = step.layer
    n_spatial = len(spatial_shape(step, signal))
    if math.isinf(layer.norm_type):
        raise TypeError(
            f"Relevance through {base_name(layer)} {step.name!r} with norm_type="
            f"{layer.norm_type} is not supported: it is the largest of magnitudes; use MaxPool."
        )
    average = next(f for kind, f in _POWER_MEANS.items() if isinstance(layer, kind))
    kernel = layer.kernel_size
    n_values = math.prod(kernel) if isinstance(kernel, tuple) else kernel**n_spatial

    def sums(v: Tensor) -> Tensor:
        stride = kernel if layer.stride is None else layer.stride
        out: Tensor = average(v, kernel, stride, 0, layer.ceil_mode)
        return out * n_values

    powers = signal.x.pow(layer.norm_type)
    out = signal.apply(layer.forward, signal.nonnegative or layer.norm_type % 2 == 0)
    return out, contribute(step, powers, sums(powers), adjoint_of(sums, signal.x))


@register(nn.MaxUnpool1d, nn.MaxUnpool2d, nn.MaxUnpool3d)
def _unpool(
    step: Step, signal: Signal, indices: Any, output_size: Any = None
) -> tuple[Signal, Pull]:
    """Put values back where a pooling found them; the zeros between them are constants."""
    spatial_shape(step, signal)
    places, n_signals = value_of(indices), len(find_all(Signal, indices))

    def put(v: Tensor) -> Tensor:
        out: Tensor = step.layer.forward(v, places, output_size)
        return out

    adjoint = adjoint_at(put, signal.x)

    def pull(relevance: Tensor, kept: Kept | None) -> Any:
        if kept is not None:
            kept.add("dropped", relevance * (put(torch.ones_like(signal.x)) == 0))
        back = adjoint(relevance)
        return (back, None) if n_signals else back

    return replace(signal.apply(put, signal.nonnegative), **standing(signal)), pull


def _upsampled_bounds(step: Step, signal: Signal) -> Signal:
    if step.layer.mode == "bicubic":  # it has negative weights, and leaves the box
        return unknown(step.handler(step, signal)[0])
    return monotone(step, signal)


@register(nn.Upsample, bounds=_upsampled_bounds)
def _upsample(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    """Copy to the nearest, or interpolate: a linear map, shared by contribution."""
    layer: Any = step.layer
    if layer.mode.startswith("nearest"):
        adjoint = adjoint_of(layer.forward, signal.x)
        return copied(signal, layer.forward), lambda relevance, kept: adjoint(relevance)
    out, pull = _share(step, signal, layer.forward)
    if layer.mode == "bicubic":  # it has negative weights
        out = replace(out, nonnegative=False)
    return out, pull


@register(nn.Fold, bounds=monotone)
def _fold(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    """Overlay blocks: a sum, shared by contribution."""
    return _share(step, signal, step.layer.forward)


@register(nn.Unfold, bounds=monotone)
def _unfold(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    """Copy the values of each window; relevance of its padding is kept."""
    function = step.layer.forward
    adjoint = adjoint_of(function, signal.x)

    def pull(relevance: Tensor, kept: Kept | None) -> Tensor:
        passed = adjoint(relevance)
        if kept is not None:
            kept.add("padding", relevance.flatten(2).sum(2) - passed.flatten(2).sum(2))
        return passed

    return copied(replace(signal, seen=x_one(signal)), function), pull


def _share(
    step: Step, signal: Signal, function: Callable[[Tensor], Tensor]
) -> tuple[Signal, Pull]:
    """Share by contribution to a linear function without negative weights."""
    out = replace(signal.apply(function, nonnegative=signal.nonnegative), gate=signal.gate)
    return out, contribute(step, signal.x, out.x, adjoint_of(function, signal.x))
