"""Adjoints by autograd, for functions that move or weigh values without weights of their own.

Handlers of pooling, reshaping and torch functions call these. The gradient of a linear map is its
adjoint, that of a maximum gives all to the winner.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def pull_gradients(outs: Any, leaves: Any, relevance: Any) -> tuple[Tensor, ...]:
    """Pull relevance with leading targets through an autograd graph, to each leaf.

    Parameters
    ----------
    outs, leaves : Tensor or list of Tensor
        The ends of the graph. The gradient of a linear map is its adjoint, that of a maximum gives
        all to the winner.
    relevance : Tensor or list of Tensor, each of shape (n_targets, *out.shape)
        The relevance of ``outs``.

    Returns
    -------
    tuple of Tensor, each of shape (n_targets, *leaf.shape)
        The relevance of ``leaves``.
    """
    arrived = [relevance] if isinstance(relevance, Tensor) else relevance
    rows = [
        torch.autograd.grad(outs, leaves, list(target), retain_graph=True)
        for target in zip(*arrived, strict=True)
    ]
    parts = zip(*rows, strict=True)
    return tuple(part[0][None] if len(part) == 1 else torch.stack(part) for part in parts)


def adjoint_of(function: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the adjoint of a function that is linear in each sample, for samples like x's."""

    def adjoint(relevance: Tensor) -> Tensor:
        flat = relevance.flatten(0, 1)
        with torch.enable_grad():  # the gradient of a linear map is its adjoint
            anywhere = x.new_zeros(flat.shape[0], *x.shape[1:]).requires_grad_()
            (grad,) = torch.autograd.grad(function(anywhere), anywhere, flat)
        return grad.unflatten(0, relevance.shape[:2])

    return adjoint


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
