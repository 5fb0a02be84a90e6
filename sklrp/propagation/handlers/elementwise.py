"""Handlers of elementwise functions that are no layers of torch: powers, exponentials, steps.

They pass relevance on as activations do, all of it, also where the function of 0 is not 0, as with
the sigmoid (Bach et al. 2015; Arras et al. 2017), and where it is flat, as with rounding: take the
value away, and what it was rounded to is gone. A sign is a gate too, so in a product with a signal
the signal takes all. Importing this module registers the handlers; the recorder finds them by the
functions' names.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sklrp._copies import find_all
from sklrp.propagation.bounds import box, corners, is_known, monotone, turning, unknown
from sklrp.propagation.handlers.activations import activate, pass_all
from sklrp.propagation.handlers.operands import broadcast_samples, sum_to
from sklrp.propagation.nested import swap_signals
from sklrp.propagation.registry import NUMERIC, SOURCED, mark, register
from sklrp.propagation.tape import Pull, Step
from sklrp.rules import Signal

# Where a function is monotone, and where it turns; of the others no bounds are known.
_RISING = (
    "exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "sqrt", "sinh", "asinh", "acosh",
    "asin", "atan", "atanh", "erf", "erfinv", "logit", "nan_to_num", "deg2rad", "rad2deg",
    "special_ndtr", "special_log_ndtr", "special_ndtri", "round", "floor", "ceil", "trunc", "sign",
    "special_modified_bessel_i1",
)  # fmt: skip
_FALLING = ("acos", "erfc")
_TURNING_AT_0 = ("abs", "square", "cosh")
_OTHERS = (
    "sin", "cos", "tan", "sinc", "i0", "special_i0e", "special_i1",
    "special_i1e", "special_erfcx", "special_entr", "lgamma", "digamma", "mvlgamma", "frac",
    "special_multigammaln", "special_airy_ai", "special_bessel_j0", "special_bessel_j1",
    "special_bessel_y0", "special_bessel_y1", "special_spherical_bessel_j0",
    "special_modified_bessel_i0", "special_modified_bessel_k0", "special_modified_bessel_k1",
    "special_scaled_modified_bessel_k0", "special_scaled_modified_bessel_k1",
    "fake_quantize_per_tensor_affine", "fake_quantize_per_channel_affine",
)  # fmt: skip
# Functions of several values, one of which may depend on the network's input.
_AMONG_CONSTANTS = (
    "atan2", "copysign", "floor_divide", "fmod", "heaviside", "igamma", "igammac", "polygamma",
    "remainder", "special_polygamma", "special_zeta", "__rfloordiv__", "__rmod__", *(
        f"special_{shifted}chebyshev_polynomial_{kind}"
        for shifted in ("", "shifted_") for kind in "tuvw"
    ), "special_hermite_polynomial_h", "special_hermite_polynomial_he",
    "special_laguerre_polynomial_l", "special_legendre_polynomial_p",
)  # fmt: skip
# What is nowhere negative, whatever it is of; and what keeps the sign of its argument.
_NONNEGATIVE = frozenset(["exp", "exp2", "sqrt", "abs", "square", "cosh", "acos", "erfc", "i0"])
_GATES = frozenset(["sign", "heaviside"])
_SIGNED = frozenset(
    [
        "expm1",
        "log1p",
        "sinh",
        "asinh",
        "asin",
        "atan",
        "atanh",
        "erf",
        "round",
        "floor",
        "ceil",
        "trunc",
        "sign",
        "frac",
    ]
)


def _apply(step: Step, source: Signal, *args: Any, **kwargs: Any) -> tuple[Signal, Pull]:
    """Apply a function of one signal, elementwise."""
    if find_all(Signal, (args, kwargs)):
        raise TypeError("only its first argument may depend on the network's input")
    name = step.function
    nonnegative = name in _NONNEGATIVE or (name in _SIGNED and source.nonnegative)
    return activate(
        source, lambda x: step.layer(x, *args, **kwargs), nonnegative, gate=name in _GATES
    )


for _names, _bounds in (
    ((*_RISING, *_FALLING), monotone),
    (_TURNING_AT_0, turning(0.0)),
    (_OTHERS, None),
):
    register(*_names, bounds=_bounds)(mark(SOURCED)(_apply))


@register(*_AMONG_CONSTANTS)
def _among_constants(step: Step, *args: Any, **kwargs: Any) -> tuple[Signal, Pull]:
    """Apply a function of one signal and constants, elementwise."""
    signals = find_all(Signal, (args, kwargs))
    if len(signals) > 1:
        raise TypeError(
            "only one of its arguments may depend on the network's input"
            + _OF_TWO.get(step.function, "")
        )

    def apply(x: Tensor) -> Tensor:
        own, named = swap_signals((args, kwargs), lambda signal: x)
        out: Tensor = step.layer(*own, **named)
        return out

    return _activate_widely(signals[0], apply, gate=step.function in _GATES)


# What to write where two arguments do.
_OF_TWO = {
    "floor_divide": "; torch.floor(x / y) shares before the step",
    "atan2": "; torch.atan(y / x) gives all to y, as to a numerator",
}


def _activate_widely(
    source: Signal, function: Callable[[Tensor], Tensor], nonnegative: bool = False,
    gate: bool = False,
) -> tuple[Signal, Pull]:  # fmt: skip
    """Apply an elementwise function with constants, along which the values may be repeated."""
    out, _ = activate(source, function, nonnegative, gate)
    shape = source.x.shape
    if out.x.shape == shape:
        return out, pass_all
    samples = broadcast_samples(out.x.shape, source)
    axis = source.axis + out.x.dim() - len(shape)
    return (
        replace(out, samples=samples, seen=None, axis=axis),
        lambda relevance, kept: sum_to(relevance, shape),
    )


@register("bucketize", "searchsorted")
def _find_bin(step: Step, *args: Any, **kwargs: Any) -> tuple[Signal, Pull]:
    """Tell the number of a bin, a category: what an embedding gives it goes to the value."""
    names = ("input", "boundaries") if step.function == "bucketize" else ("edges", "input")
    given = dict(zip(names, args, strict=False))
    source = given.pop("input")
    if not isinstance(source, Signal) or find_all(Signal, (given, kwargs)):
        raise TypeError("its boundaries depend on the network's input; only the values may")

    def apply(x: Tensor) -> Tensor:
        own = swap_signals(args, lambda signal: x.contiguous())  # torch warns where it is not
        out: Tensor = step.layer(*own, **kwargs)
        return out

    return activate(source, apply, nonnegative=True, gate=True)


def _power_bounds(step: Step, source: Signal, exponent: Any) -> Any:
    """Bound a power: it rises where the base is positive, and of an even exponent turns at 0."""
    out, _ = step.handler(step, source, exponent)
    power = float(exponent) if torch.as_tensor(exponent).numel() == 1 else math.nan
    if not is_known(source) or source.axis != 0:
        return unknown(out)
    low, high = corners(source)
    if bool((low >= 0).all()) or (power > 0 and power % 2 == 1):
        return monotone(step, source, exponent)
    if power <= 0 or power % 2:
        return unknown(out)
    ends = torch.stack(corners(out))
    least = torch.where((low < 0) & (high > 0), 0.0, ends.amin(0))
    return box(out, least, ends.amax(0))


@register("pow", "float_power", bounds=_power_bounds)
@mark(NUMERIC, SOURCED)
def _power(step: Step, source: Signal, exponent: Any) -> tuple[Signal, Pull]:
    if isinstance(exponent, Signal):
        raise TypeError(
            "its exponent depends on the network's input; only its base may. Of positive numbers "
            "write torch.exp(exponent * torch.log(base))"
        )
    powers = torch.as_tensor(exponent)
    even = powers.numel() == 1 and float(powers) % 2 == 0
    function = partial(step.layer, exponent=exponent)
    out, pull = _activate_widely(source, function, even or source.nonnegative)
    if bool((powers < 0).all()):  # an inverse scales as a constant: x * (v + eps) ** -0.5
        out = replace(out, gate=True, held=True)
    return out, pull
