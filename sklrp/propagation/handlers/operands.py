"""What handlers ask of a step and of what it is given: names, shapes, values and samples.

A handler of a layer has the samples on the first axis; errors about shapes name the layer and what
to put before it. An operand of a torch function is a signal, in the network's own layout, or a
constant, a number or a tensor. While a network is probed, ``signal.samples`` tells which sample
each value belongs to, and a function that mixes samples is refused by a ``TypeError``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sklrp._checks import say_layer
from sklrp.propagation.registry import HANDLERS
from sklrp.propagation.sample_rows import without_repeats
from sklrp.propagation.tape import Pull, Step
from sklrp.rules import Signal


def base_name(layer: nn.Module) -> str:
    """Return the name of the registered type that a layer is of."""
    kind = type(layer)
    if kind in HANDLERS:  # as it nearly always is
        return kind.__name__
    return next(c.__name__ for c in kind.__mro__ if c in HANDLERS)


def spatial_shape(step: Step, signal: Signal) -> torch.Size:
    """Return the shape behind the axes of samples and channels, as the layer's type has it."""
    n_spatial, shape = int(base_name(step.layer)[-2]), signal.x.shape
    if len(shape) != n_spatial + 2:
        raise ValueError(
            f"{say_layer(step.name, start=True)} ({base_name(step.layer)}) takes samples of "
            f"{n_spatial + 1} axes, channels first, got {len(shape) - 1}, of shape "
            f"{tuple(shape[1:])}; put nn.Unflatten before it."
        )
    return shape[2:]


def own_dim(step: Step, signal: Signal, dim: int) -> int:
    """Return where a handler, which has the samples first, finds an axis of the network's."""
    dim = range(signal.x.dim())[dim]
    if dim == signal.axis:
        raise TypeError(
            f"Relevance through {base_name(step.layer)} {step.name!r} is not supported: with "
            f"dim={dim} it acts along the axis of the samples; choose another axis."
        )
    return dim + 1 if dim < signal.axis else dim


def value_of(operand: Any) -> Any:
    """Return the activations of a signal, or the constant itself."""
    return operand.x if isinstance(operand, Signal) else operand


def is_nonnegative(operand: Any) -> bool:
    """Return whether a signal is known to be nowhere negative, or a constant is not."""
    if isinstance(operand, Signal):
        return operand.nonnegative
    if isinstance(operand, complex) or (isinstance(operand, Tensor) and operand.is_complex()):
        return False
    return bool((torch.as_tensor(operand) >= 0).all())


def standing(*sources: Signal) -> dict[str, Any]:
    """Return what a function's output is in products: a gate, held, a mask if all sources are."""
    return {
        "gate": all(s.gate for s in sources),
        "held": all(s.held or s.mask for s in sources),
        "mask": all(s.mask for s in sources),
        "position": tell_positions(sources),
    }


def tell_positions(sources: Sequence[Signal]) -> bool:
    """Return whether what is computed of signals is positions: of some, and else of masks."""
    return any(s.position for s in sources) and all(s.position or s.mask for s in sources)


def broadcast_samples(shape: torch.Size, *operands: Any) -> Tensor | None:
    """Return the samples of an elementwise function's output, None when not probing."""
    found = [
        s.samples.broadcast_to(shape)
        for s in operands
        if isinstance(s, Signal) and s.samples is not None
    ]
    known = [without_repeats(samples) for samples in found]
    if any(_mismatch(known[0], other) for other in known[1:]):
        raise TypeError("it mixes samples: their axes do not match")
    sizes = [samples.numel() for samples in known]
    return found[sizes.index(min(sizes))] if found else None


def _mismatch(one: Tensor, other: Tensor) -> bool:
    """Return whether two operands' samples differ; those of one shape are often one tensor."""
    is_one = one.data_ptr() == other.data_ptr() and one.shape == other.shape
    if is_one and one.stride() == other.stride():
        return False
    return bool((one != other).any())


def follow_samples(
    function: Callable[[Sequence[Tensor]], Tensor], signals: Sequence[Signal]
) -> Tensor | None:
    """Return the samples of what a linear function makes of signals, None when not probing."""
    # Values of one sample at a time are put in, zeros for all others: what changes is of that
    # sample. What none of them changes is of no sample: -1.
    known = [s.samples for s in signals if s.samples is not None]
    if not known:
        return None
    zero = function([torch.zeros_like(s.x) for s in signals])
    found = torch.full(zero.shape, -1, dtype=torch.float32, device=zero.device)
    last = max((float(s.max()) for s in known if s.numel()), default=-1.0)
    for number in range(int(last) + 1):
        changed = function([_only(s, number) for s in signals]) != zero
        if bool((changed & (found >= 0)).any()):
            raise TypeError("it mixes samples")
        found = found.masked_fill(changed, number)
    return found


def _only(signal: Signal, number: int) -> Tensor:
    """Return numbers without any order where a signal is of one sample, and zeros elsewhere."""
    x = signal.x
    if signal.samples is None:
        return torch.zeros_like(x)
    steps = torch.arange(1, x.numel() + 1, device=x.device, dtype=torch.float32)
    return ((0.618034 * steps) % 1.0 + 0.5).reshape(x.shape).to(x) * (signal.samples == number)


def refuse_mask(step: Step) -> Pull:
    """Return the pull of a function that compares or searches: its output may select alone."""

    def pull(relevance: Any, kept: Any) -> Any:
        raise TypeError(
            f"Relevance through the comparison {step.name!r} is not supported; use it as a mask "
            "or an index only."
        )

    return pull


def sum_to(relevance: Tensor, shape: torch.Size) -> Tensor:
    """Sum relevance ``(n_targets, ...)`` over the axes along which ``shape`` was broadcast."""
    extra = relevance.dim() - 1 - len(shape)
    wide = relevance.sum_to_size(len(relevance), *(1,) * extra, *shape)
    return wide.reshape(len(relevance), *shape)
