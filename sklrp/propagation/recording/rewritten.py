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
    if call.base in ("clamp", "clamp_min", "clamp_max") and call.nodes.depend(_bounds_of(call)):
        return _CLAMPS[call.base]
    if call.base == "div" and call.kwargs.get("rounding_mode") and not call.only_integers:
        return _divide_and_round
    if call.base == "pow" and not call.nodes.depend(call.args[:1]):
        return None if call.name == "pow_" else _exponential
    if call.base == "einsum":
        return find_einsum(call)
    return _REWRITTEN.get(call.name)


def _second(call: FunctionCall, name: str = "other") -> Any:
    """Return the second operand of a call."""
    return call.args[1] if len(call.args) > 1 else call.kwargs.get(name)


def _bounds_of(call: FunctionCall) -> list[Any]:
    """Return what a clamp is given behind its input."""
    return [*call.args[1:], *(v for name, v in call.kwargs.items() if name != "input")]


# Functions that convert their input first, where they are given a dtype.
_CONVERTING = frozenset(
    [
        "cumprod",
        "cumsum",
        "log_softmax",
        "logcumsumexp",
        "mean",
        "nanmean",
        "nansum",
        "prod",
        "softmax",
        "softmin",
        "sum",
    ]
)


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


def _clamp_by_signals(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """Clamp by signals: the larger and the smaller of two."""
    low = input if min is None else torch.maximum(input, _tensor_like(min, input))
    return low if max is None else torch.minimum(low, _tensor_like(max, input))


def _tensor_like(value: Any, other: Tensor) -> Tensor:
    """Return a number as a tensor of another's type, and a tensor as it is."""
    return value if isinstance(value, Tensor) else torch.full_like(other, value)


_CLAMPS: dict[str, Callable[..., Any]] = {
    "clamp": _clamp_by_signals,
    "clamp_min": lambda input, min: _clamp_by_signals(input, min),
    "clamp_max": lambda input, max: _clamp_by_signals(input, None, max),
}


def _divide_and_round(input: Any, other: Any, *, rounding_mode: str) -> Tensor:
    return (torch.floor if rounding_mode == "floor" else torch.trunc)(input / other)


def _times_logarithm(logarithm: Callable[[Tensor], Tensor], zero: float) -> Callable[..., Tensor]:
    """Return what multiplies by a logarithm, 0 where the first factor is."""

    def multiply(input: Any, other: Any) -> Tensor:
        one = input if isinstance(input, Tensor) else torch.full_like(other, input)
        return one * logarithm(torch.where(one == 0, zero, other))

    return multiply


def _hypotenuse(input: Tensor, other: Tensor) -> Tensor:
    return torch.sqrt(input**2 + other**2)


def _mean_of_numbers(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Average what is not missing."""
    count = (~input.isnan()).sum(dim, keepdim)
    return input.nansum(dim, keepdim) / count


def _both_ends(input: Tensor, *, dim: Any = None, keepdim: bool = False) -> Any:
    """Return the smallest and the largest, as torch.aminmax does."""
    ends = torch.amin(input, dim, keepdim), torch.amax(input, dim, keepdim)
    return torch.return_types.aminmax(ends)


def _matrix_power(input: Tensor, n: int) -> Tensor:
    if n < 1:
        raise TypeError("powers below one are inverses of matrices; write a linear solve")
    return reduce(torch.matmul, [input] * n)


def _gradient(
    input: Tensor, *, spacing: Any = 1.0, dim: Any = None, edge_order: int = 1
) -> list[Tensor]:
    """Take central differences, and one-sided ones at the edges."""
    dims = range(input.dim()) if dim is None else [dim] if isinstance(dim, int) else dim
    steps = list(spacing) if isinstance(spacing, list | tuple) else [spacing] * len(dims)
    if edge_order != 1 or any(isinstance(h, Tensor) and h.dim() for h in steps):
        raise TypeError("pass numbers as spacing, and leave out edge_order")
    return [_differences(input, d, h) for d, h in zip(dims, steps, strict=True)]


def _differences(x: Tensor, dim: int, step: Any) -> Tensor:
    one, n = 1, x.shape[dim]
    inner = (x.narrow(dim, 2, n - 2) - x.narrow(dim, 0, n - 2)) / (2 * step)
    ends = [(x.narrow(dim, i + 1, one) - x.narrow(dim, i, one)) / step for i in (0, n - 2)]
    return torch.cat([ends[0], inner, ends[1]], dim)


def _exponential(base: Any, exponent: Tensor) -> Tensor:
    """Raise a constant to a power that is a signal."""
    return torch.exp(exponent * torch.as_tensor(base).log())


def _outer(input: Tensor, vec2: Tensor) -> Tensor:
    return input.unsqueeze(1) * vec2


def _addr(input: Any, vec1: Tensor, vec2: Tensor, beta: float = 1, alpha: float = 1) -> Any:
    return _addmm(input, vec1.unsqueeze(1), vec2.unsqueeze(0), beta, alpha)


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
    "addr": _addr,
    "aminmax": _both_ends,
    "baddbmm": _baddbmm,
    "cdist": _pairs_apart,
    "cosine_similarity": _similarity_of_rows,
    "broadcast_tensors": _broadcast,
    "chain_matmul": lambda *matrices: reduce(torch.matmul, matrices),
    "dot": _dot,
    "gradient": _gradient,
    "hypot": _hypotenuse,
    "ldexp": lambda input, other: input * torch.pow(2.0, other),
    "__rpow__": lambda input, other: _exponential(other, input),
    "inner": lambda input, other: torch.matmul(input, other.mT if other.dim() > 1 else other),
    "lerp": _lerp,
    "linalg_diagonal": lambda A, offset=0, dim1=-2, dim2=-1: torch.diagonal(A, offset, dim1, dim2),
    "linalg_matrix_power": _matrix_power,
    "linalg_matmul": lambda input, other: torch.matmul(input, other),
    "linalg_multi_dot": lambda tensors: reduce(torch.matmul, tensors),
    "linalg_vecdot": lambda x, y, dim=-1: (x * y).sum(dim),
    "multi_head_attention_forward": attend_by_heads,
    "matrix_power": _matrix_power,
    "mv": lambda input, vec: torch.matmul(input, vec),
    "nanmean": _mean_of_numbers,
    "outer": _outer,
    "normalize": _normalize,
    "pairwise_distance": _rows_apart,
    "scaled_dot_product_attention": attend,
    "softmin": _softmin,
    "special_softmax": lambda input, dim, dtype=None: torch.softmax(input, dim, dtype=dtype),
    "std_mean": _beside_mean(torch.std),
    "tensordot": _tensordot,
    "var_mean": _beside_mean(torch.var),
    "special_xlog1py": _times_logarithm(torch.log1p, 0.0),
    "xlogy": _times_logarithm(torch.log, 1.0),
}
