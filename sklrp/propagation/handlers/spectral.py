r"""Handlers of complex numbers: Fourier transforms, and what a network computes with their values.

A network takes real numbers and returns real ones. What is complex between is a real linear map of
real and imaginary parts, and it is explained as that one map: with :math:`z = A x` the values at
which it becomes real again, :math:`R_i = x_i \sum_j A_{ji} R_j / s(z_j)`. The complex steps of the
map each apply the conjugate transpose of theirs, without a stabiliser of their own, so that the
result is that of the whole. Complex relevance holds that of the real part and that of the
imaginary part of a value; their sum is the relevance of the value. A product of several signals
gives each an equal part. Importing this module registers the handlers; the recorder finds them by
the functions' names, for calls that take or make complex numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sklrp.propagation.formula import Split, account, known
from sklrp.propagation.handlers.linear_maps import Linear
from sklrp.propagation.registry import complex_name, register
from sklrp.propagation.tape import Kept, Pull, Step
from sklrp.rules import Signal

_TRANSFORMS = [f"fft_{inverse}{kind}fft{axes}" for inverse in ("", "i") for kind in ("", "r", "h")
               for axes in ("", "2", "n")]  # fmt: skip
# What is linear in all its signals together; the absolute value is linear in the size of its own.
_LINEAR = (
    *_TRANSFORMS, "stft", "istft", "real", "imag", "conj", "conj_physical", "adjoint", "H",
    "mH", "view_as_real",
    "view_as_complex", "complex", "to", "type", "cfloat", "cdouble", "add", "sub", "rsub", "neg",
    "sum", "mean", "cumsum", "diff", "index_add", "scatter_add", "abs",
)  # fmt: skip
# What is linear in each of its signals.
_PRODUCTS = frozenset(["mul", "div", "matmul", "bmm", "rmatmul", "einsum", "linear", "kron"])


class _Resolved(Linear):
    """A function whose values are what they say: torch may put off a sign or a conjugate."""

    def __call__(self, values: Sequence[Tensor]) -> Tensor:
        """Apply the function."""
        return super().__call__(values).resolve_conj().resolve_neg()


@register(*map(complex_name, (*_LINEAR, *sorted(_PRODUCTS))))
def _follow(step: Step, *args: Any, **kwargs: Any) -> tuple[Signal, Pull]:
    is_product = step.function in _PRODUCTS
    factors = [s for s in args if isinstance(s, Signal)]
    fixed = [s for s in factors if s.gate] if is_product else []
    if len(fixed) == len(factors):  # alone, a gate is scaled as a signal is
        fixed = []
    if step.function == "div" and isinstance(args[1], Signal):
        fixed.append(args[1])  # a denominator counts as a constant
    function = _Resolved(step, args, kwargs, fixed)
    n_moving = len(function.moving)
    if is_product and n_moving > 1 and step.product not in ("all", "half"):
        raise TypeError(
            f"under product={step.product!r} a product of complex numbers has no shares; use "
            "product='all' or 'half'"
        )
    z = function(function.values)
    constant = function.at_zero()

    def pull(relevance: Tensor, kept: Kept | None) -> Any:
        ratio = _ratio(step, z, constant, relevance, kept)
        back = function.adjoint(ratio)
        parts = [
            _times(s.x, r.resolve_conj().resolve_neg())
            for s, r in zip(function.moving, back, strict=True)
        ]
        if is_product and n_moving > 1:
            parts = [part / n_moving for part in parts]
        return function.in_order(parts)

    return function.signal(z), pull


def _ratio(
    step: Step, z: Tensor, constant: Tensor, relevance: Tensor, kept: Kept | None
) -> Tensor:
    """Return relevance over what it is shared by: where values become real with epsilon."""
    if not z.is_complex():
        split = Split(1.0, known(z), step.epsilon, constant)
        ratio = split.ratio(relevance)
        if kept is not None:
            account(kept, relevance, [split], [ratio])
        return ratio
    parts = torch.view_as_real(relevance) / _stable(z)
    if kept is not None:
        kept.add("bias", parts * torch.view_as_real(constant))
    return torch.view_as_complex(parts)


def _times(x: Tensor, ratio: Tensor) -> Tensor:
    """Return values times ratios; of complex numbers the two parts apart."""
    if not x.is_complex():
        return x * ratio
    return torch.view_as_complex(torch.view_as_real(ratio) * _stable(x))


def _stable(z: Tensor) -> Tensor:
    """Return real and imaginary parts, moved away from zero by what no sum of them shows."""
    # What is divided by them was multiplied by them before: the ratio comes back as it was.
    parts = torch.view_as_real(z)
    least = math.sqrt(torch.finfo(parts.dtype).tiny)
    return parts + torch.copysign(parts.new_tensor(least), parts)
