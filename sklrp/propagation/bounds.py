"""Bounds of what enters a layer, for the z-box rule: a pass of its own over a network.

Only layers with the z-box rule need bounds, and the samples do not matter to them. So the plan
finds them once per call, before any sample is explained: it runs the network on the two corners of
the box that the input lies in, in place of samples, first the lower and then the upper one.
:func:`follow` runs one step so. What a layer does to a box it says when it is registered, by
``register(..., bounds=...)``: :func:`monotone`, :func:`turning`, :func:`linear`, or a function of
its own with the handler's arguments, which returns the corners of the outputs. Where nothing is
said bounds are unknown, which is NaN here, and a z-box rule behind such a layer is refused unless
it has bounds of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklrp._checks import say_layer
from sklrp._copies import find_all
from sklrp._devices import to_host
from sklrp.propagation.nested import swap_signals
from sklrp.propagation.sample_rows import count_runs, sort_rows
from sklrp.propagation.tape import Handler, Pull, Step, run_handler
from sklrp.rules import Signal, ZBox


def monotone(step: Step, *args: Any, **kwargs: Any) -> Any:
    """Say that each output rises, or that each falls, with all values that it depends on.

    It goes into ``register(..., bounds=monotone)``.

    Parameters
    ----------
    step : Step
        The step.
    *args, **kwargs : object
        The arguments of the handler, with the corners of a box in the signals.

    Returns
    -------
    Signal, or a tuple of them
        The outputs, with the corners of their boxes.
    """
    outputs, _ = run_handler(step, step.handler, args, kwargs)
    if not is_known((args, kwargs)):
        return unknown(outputs)
    signals = find_all(Signal, outputs)
    axes = dict(zip(map(id, signals), _sample_axes(step, signals), strict=True))

    def ordered(signal: Signal) -> Signal:
        low, high = corners(signal, axes[id(signal)])
        return box(signal, torch.minimum(low, high), torch.maximum(low, high), axes[id(signal)])

    return swap_signals(outputs, ordered)


def turning(turn: float | Callable[[Any], float]) -> Callable[..., Signal]:
    """Say that an elementwise function is monotone on either side of one point.

    It goes into ``register(..., bounds=turning(0.0))``.

    Parameters
    ----------
    turn : float or callable
        Where the function turns, or a function of the layer that returns it.

    Returns
    -------
    callable
        What ``register`` takes as ``bounds``.
    """

    def bounds(step: Step, signal: Signal) -> Signal:
        if not is_known(signal):
            return unknown(step.handler(step, signal)[0])
        low, high = corners(signal)
        # The extremes lie at the ends, or at the point of the box that is nearest to the turn.
        nearest = torch.maximum(low, high.clamp(max=turn(step.layer) if callable(turn) else turn))
        outs = [step.handler(step, replace(signal, x=x))[0] for x in (low, high, nearest)]
        found = torch.stack([out.x for out in outs])
        return box(outs[0], found.amin(0), found.amax(0))

    return bounds


def linear(step: Step, signal: Signal, *args: Any) -> Signal:
    """Say that a layer is the affine map of its registered weights.

    It goes into ``register(..., weights=..., bounds=linear)``.

    Parameters
    ----------
    step : Step
        The step.
    signal : Signal
        The corners of a box.
    *args : object
        Further arguments of the handler.

    Returns
    -------
    Signal
        The corners of the output's box.
    """
    low, high = corners(signal)
    # Its middle goes through the map, and half its width through the map of |w| without bias.
    bias = None if step.bias is None else torch.zeros_like(step.bias)
    spread = replace(step, weight=step.weight.abs(), bias=bias, rule=None, maps={})
    middle, _ = step.handler(replace(step, rule=None), replace(signal, x=(low + high) / 2), *args)
    reach, _ = step.handler(spread, replace(signal, x=(high - low) / 2), *args)
    return box(middle, middle.x - reach.x, middle.x + reach.x)


def follow(
    step: Step, handler: Handler, args: Any, kwargs: Any, of_first: Any = None
) -> tuple[Any, Pull]:
    """Run a step on the corners of boxes, and give it the box of its input if its rule asks.

    Parameters
    ----------
    step : Step
        The step; its ``box`` is set.
    handler : callable
        The handler, another than the step's own for what is folded into a neighbour.
    args, kwargs : object
        The arguments, with the corners of a box in the signals.
    of_first : Rule or None, default=None
        The rule whose bounds those of the network's input are: layers that see the input first
        and have this rule are given what follows from them.

    Returns
    -------
    outputs : Signal, or a tuple of them
        The outputs, with corners.
    pull : callable
        What must not be called.
    """
    n_runs = max((count_runs(signal.axis) for signal in find_all(Signal, args)), default=1)
    if n_runs > 1 and isinstance(step.layer, torch.nn.Module):
        # Where samples come repeatedly, their parts are laid side by side as long as it acts.

        def sort(value: Any, back: bool) -> Any:
            return swap_signals(
                value,
                lambda s: replace(s, x=sort_rows(s.x, 2, n_runs, back), axis=int(s.axis)),
            )

        outputs, pull = follow(step, handler, sort(args, False), kwargs, of_first)
        return sort(outputs, True), pull
    asked = not step.from_numbers or step.rule == of_first
    if isinstance(step.rule, ZBox) and isinstance(args[0], Signal) and asked:
        args = (_enter(step, args[0], step.from_numbers), *args[1:])
    if handler is not step.handler:  # it changes nothing
        return run_handler(step, handler, args, kwargs)
    if step.bounds is None:
        return unknown(run_handler(step, handler, args, kwargs)[0]), _never
    return step.bounds(step, *args, **kwargs), _never


def _never(relevance: Any, kept: Any) -> Any:
    raise AssertionError("relevance of a box")  # pragma: no cover


def _enter(step: Step, signal: Signal, from_input: bool) -> Signal:
    """Give a step with the z-box rule the bounds of its input, its rule's own first."""
    known, rule = is_known(signal), step.rule
    low, high = corners(signal)
    if from_input and not known:  # its rule's own bounds are those of the network's input
        raise ValueError(
            f"The z-box rule on {say_layer(step.name)} needs bounds, and none follow from those "
            "of the network's input: a layer before it does not say what it does to them "
            "(register that layer with bounds=...), the input holds integers (pass floats), or "
            "the bounds do not have its shape. Or choose another rule."
        )
    if not from_input:
        if not known and (rule.low is None or rule.high is None):
            raise ValueError(_unbounded(step))
        low = low if rule.low is None else bound(rule.low, low).expand_as(low)
        high = high if rule.high is None else bound(rule.high, high).expand_as(high)
    step.box = low, high
    return box(signal, low, high)


def boxed(step: Step, signal: Signal) -> Signal:
    """Return the signal with the bounds of the step's z-box rule; any other rule needs none."""
    rule, x = step.rule, signal.x
    if not isinstance(rule, ZBox) or (step.first and signal.low is not None):
        return signal
    if step.box is None:
        low = signal.low if rule.low is None else bound(rule.low, x)
        high = signal.high if rule.high is None else bound(rule.high, x)
        if low is None or high is None:
            raise ValueError(_unbounded(step))
    else:
        low, high = step.box
        # The parts of a sample may lie side by side on the samples' axis, with bounds for each.
        if 1 < len(low) < len(x):
            times, n_runs = len(x) // len(low), count_runs(signal.axis)
            ends = (v.repeat(times, *(1,) * (x.dim() - 1)) for v in (low, high))
            low, high = (sort_rows(v, times, n_runs, back=True) for v in ends)
    return replace(signal, low=low, high=high)


def _unbounded(step: Step) -> str:
    return (
        f"The z-box rule on {say_layer(step.name)} needs bounds, and none follow from those of "
        "the network's input; pass ZBox(low=..., high=...) there."
    )


def bound(value: Any, like: Tensor) -> Tensor:
    """Return a bound of z-box in the shape of one sample."""
    bound = torch.from_numpy(np.array(to_host(value), dtype=float)).to(like)
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


def corners(signal: Signal, axis: int = 0) -> tuple[Tensor, Tensor]:
    """Return the lower and the upper corner that a signal holds in place of samples."""
    n_runs = count_runs(axis)
    if n_runs > 1:
        both = signal.x.unflatten(axis, (n_runs, 2, -1))
        low, high = (both.select(axis + 1, k).flatten(axis, axis + 1) for k in range(2))
        return low, high
    low, high = signal.x.chunk(2, axis)
    return low, high


def box(like: Signal, low: Tensor, high: Tensor, axis: int = 0) -> Signal:
    """Return a signal that holds two corners in place of samples."""
    n_runs = count_runs(axis)
    if n_runs > 1:
        ends = [end.unflatten(axis, (n_runs, -1)) for end in (low, high)]
        x = torch.stack(ends, axis + 1).flatten(axis, axis + 2)
    else:
        x = torch.cat([low, high], axis)
    return replace(like, x=x, low=None, high=None)


def is_known(value: Any) -> bool:
    """Return whether the boxes of all signals in nested arguments are known."""
    # Indices are of the samples: what they choose has no bounds of its own.
    return all(
        signal.x.is_floating_point() and not bool(signal.x.isnan().any())
        for signal in find_all(Signal, value)
    )


def unknown(outputs: Any) -> Any:
    """Return outputs of which no bounds are known."""

    def blank(signal: Signal) -> Signal:
        x = signal.x
        return (
            replace(signal, x=torch.full_like(x, torch.nan)) if x.is_floating_point() else signal
        )

    return swap_signals(outputs, blank)


def _sample_axes(step: Step, signals: list[Signal]) -> tuple[int, ...]:
    """Return the axis of the samples in each output of a handler."""
    if isinstance(step.layer, torch.nn.Module) or len(step.axes) != len(signals):
        return (0,) * len(signals)
    return step.axes
