"""Torch functions written in terms of others, which have handlers or are layers.

``torch.mv`` is a product of matrices, ``torch.addcmul`` a product and a sum. The recorder runs
what :func:`find_rewritten` returns in place of such a function, and records what that calls; a
function that is supported in this way costs one row in ``_REWRITTEN``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sklrp.propagation.recording.attentions import attend, attend_by_heads
from sklrp.propagation.recording.calls import FunctionCall
from sklrp.propagation.recording.contractions import find_einsum


def find_rewritten(call: FunctionCall) -> Callable[..., Any] | None:
    """Return what to run in place of a function, with its arguments; None for itself."""
    if call.is_complex and call.base in ("einsum", "matmul", "linear"):
        return None
    if call.base in _CONVERTING and call.kwargs.get("dtype") is not None:
        return _converted(call.func)
    if call.base == "matmul":
        second = _second(call)
        return _times_vector if isinstance(second, Tensor) and second.dim() == 1 else None
    if call.base == "linear" and isinstance(_second(call, "weight"), Tensor):
        return _times_one_row if _second(call, "weight").dim() == 1 else None
    if call.base in ("max", "min") and isinstance(_second(call), Tensor):
        return torch.maximum if call.base == "max" else torch.minimum
    if call.base == "pow" and not call.nodes.depend(call.args[:1]):
        return None if call.name == "pow_" else _exponential
    if call.base == "einsum":
        return find_einsum(call)
    return _REWRITTEN.get(call.name)


def _second(call: FunctionCall, name: str = "other") -> Any:
    """Return the second operand of a call."""
    return call.args[1] if len(call.args) > 1 else call.kwargs.get(name)


# Functions that convert their input first, where they are given a dtype.
_CONVERTING = frozenset(["log_softmax", "mean", "softmax", "softmin", "sum"])


def _converted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that converts its input by a step of its own."""

    def convert_first(input: Tensor, *args: Any, dtype: torch.dtype, **kwargs: Any) -> Any:
        return function(input.to(dtype), *args, **kwargs)

    return convert_first


def _times_vector(input: Tensor, other: Tensor) -> Tensor:
    """Multiply by a vector, which is a linear layer of one output."""
    return F.linear(input, other.unsqueeze(0)).squeeze(-1)


def _times_one_row(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a linear layer whose one row of weights has no axis of the outputs."""
    bias = None if bias is None else bias.reshape(1)
    return F.linear(input, weight.unsqueeze(0), bias).squeeze(-1)


def _broadcast(*tensors: Any) -> list[Tensor]:
    tensors = tensors[0] if len(tensors) == 1 and not isinstance(tensors[0], Tensor) else tensors
    shape = torch.broadcast_shapes(*(tensor.shape for tensor in tensors))
    return [tensor.expand(shape) for tensor in tensors]


def _tensordot(a: Tensor, b: Tensor, dims: Any = 2) -> Tensor:
    """Sum over pairs of axes: a product of two matrices, of what is left and what is summed."""
    if isinstance(dims, int):
        dims = [range(a.dim() - dims, a.dim()), range(dims)]
    one, other = (
        [d % v.dim() for d in ([ds] if isinstance(ds, int) else ds)]
        for v, ds in zip((a, b), dims, strict=True)
    )
    left = [d for d in range(a.dim()) if d not in one]
    right = [d for d in range(b.dim()) if d not in other]
    n_summed = prod(a.shape[d] for d in one)
    rows = a.permute(*left, *one).reshape(*(a.shape[d] for d in left), n_summed)
    columns = b.permute(*other, *right).reshape(n_summed, -1)
    return torch.matmul(rows, columns).reshape(*rows.shape[:-1], *(b.shape[d] for d in right))


def _addmm(input: Any, mat1: Tensor, mat2: Tensor, beta: float = 1, alpha: float = 1) -> Any:
    product = torch.matmul(mat1, mat2)
    product = product if alpha == 1 else product * alpha
    return product if beta == 0 else product + (input if beta == 1 else input * beta)


def _addmv(input: Any, mat: Tensor, vec: Tensor, beta: float = 1, alpha: float = 1) -> Any:
    return _addmm(input, mat, vec, beta, alpha)


def _baddbmm(input: Any, batch1: Tensor, batch2: Tensor, beta: float = 1, alpha: float = 1) -> Any:
    return _addmm(input, batch1, batch2, beta, alpha)


def _addcmul(input: Any, tensor1: Any, tensor2: Any, value: float = 1) -> Any:
    product = tensor1 * tensor2
    return input + (product if value == 1 else product * value)


def _addcdiv(input: Any, tensor1: Any, tensor2: Any, value: float = 1) -> Any:
    quotient = tensor1 / tensor2
    return input + (quotient if value == 1 else quotient * value)


def _lerp(input: Any, end: Any, weight: Any) -> Any:
    return input * (1 - weight) + end * weight


def _exponential(base: Any, exponent: Tensor) -> Tensor:
    """Raise a constant to a power that is a signal."""
    return torch.exp(exponent * torch.as_tensor(base).log())


def _outer(input: Tensor, vec2: Tensor) -> Tensor:
    return input.unsqueeze(1) * vec2


def _dot(input: Tensor, other: Tensor) -> Tensor:
    return (input * other).sum(-1)


def _normalize(input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12) -> Tensor:
    return input / torch.linalg.vector_norm(input, p, dim, keepdim=True).clamp_min(eps)


def _similarity_of_rows(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    pair = _broadcast(x1, x2)
    one, other = (torch.linalg.vector_norm(x, 2, dim).clamp_min(eps) for x in pair)
    return (x1 * x2).sum(dim) / one / other


def _rows_apart(
    x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    return torch.linalg.vector_norm(x1 - x2 + eps, p, -1, keepdim)


def _pairs_apart(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: Any = None) -> Tensor:
    return torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)


def _beside_mean(function: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return what computes a deviation and a mean."""

    def both(
        input: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *,
        correction: Any = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        correction = int(unbiased) if correction is None else correction
        deviation = function(input, dim, correction=correction, keepdim=keepdim)
        return deviation, input.mean(dim, keepdim)

    return both


def _softmin(input: Tensor, dim: int, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    return torch.softmax(-input, dim, dtype=dtype)


_REWRITTEN: dict[str, Callable[..., Any]] = {
    "addcdiv": _addcdiv,
    "addcmul": _addcmul,
    "addmm": _addmm,
    "addmv": _addmv,
    "baddbmm": _baddbmm,
    "cdist": _pairs_apart,
    "cosine_similarity": _similarity_of_rows,
    "broadcast_tensors": _broadcast,
    "dot": _dot,
    "__rpow__": lambda input, other: _exponential(other, input),
    "inner": lambda input, other: torch.matmul(input, other.mT if other.dim() > 1 else other),
    "lerp": _lerp,
    "linalg_matmul": lambda input, other: torch.matmul(input, other),
    "linalg_multi_dot": lambda tensors: reduce(torch.matmul, tensors),
    "linalg_vecdot": lambda x, y, dim=-1: (x * y).sum(dim),
    "multi_head_attention_forward": attend_by_heads,
    "mv": lambda input, vec: torch.matmul(input, vec),
    "outer": _outer,
    "normalize": _normalize,
    "pairwise_distance": _rows_apart,
    "scaled_dot_product_attention": attend,
    "softmin": _softmin,
    "special_softmax": lambda input, dim, dtype=None: torch.softmax(input, dim, dtype=dtype),
    "std_mean": _beside_mean(torch.std),
    "tensordot": _tensordot,
    "var_mean": _beside_mean(torch.var),
}
