"""What the handlers of torch functions share: values, samples and adjoints of their operands.

:mod:`.arithmetic`, :mod:`.copies` and :mod:`.reductions` use it. An operand of a torch function is
a signal or a constant (a number or a tensor). Signals come in the network's own layout. While a
network is probed, ``signal.samples`` tells which sample each value belongs to, and a function that
mixes samples is refused by a ``TypeError``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sklrp.propagation.handlers.adjoints import pull_gradients
from sklrp.rules import Signal


def function_name(step: Any) -> str:
    """Return the name of the torch function of a step."""
    return step.name.rpartition(".")[2]


def value_of(operand: Any) -> Any:
    """Return the activations of a signal, or the constant itself."""
    return operand.x if isinstance(operand, Signal) else operand


def is_nonnegative(operand: Any) -> bool:
    """Return whether a signal is known to be nowhere negative, or a constant is not."""
    if isinstance(operand, Signal):
        return operand.nonnegative
    return bool(torch.as_tensor(operand).min() >= 0)


def broadcast_samples(shape: torch.Size, *operands: Any) -> Tensor | None:
    """Return the samples of an elementwise function's output, None when not probing."""
    found = [
        s.samples.broadcast_to(shape)
        for s in operands
        if isinstance(s, Signal) and s.samples is not None
    ]
    if any(not torch.equal(found[0], other) for other in found[1:]):
        raise TypeError("it mixes samples: their axes do not match")
    return found[0] if found else None


def sum_to(relevance: Tensor, shape: torch.Size) -> Tensor:
    """Sum relevance ``(n_targets, ...)`` over the axes along which ``shape`` was broadcast."""
    extra = relevance.dim() - 1 - len(shape)
    wide = relevance.sum_to_size(len(relevance), *(1,) * extra, *shape)
    return wide.reshape(len(relevance), *shape)


def adjoint_at(function: Callable[[Tensor], Any], x: Tensor) -> Callable[[Any], Tensor]:
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
