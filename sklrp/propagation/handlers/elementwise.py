"""Handlers of elementwise functions that are no layers of torch: powers, exponentials, sines.

They pass relevance on as activations do, all of it, also where the function of 0 is not 0, as with
the sigmoid (Bach et al. 2015; Arras et al. 2017). Importing this module registers the handlers;
the recorder finds them by the functions' names.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from sklrp.propagation.bounds import box, corners, is_known, monotone, turning, unknown
from sklrp.propagation.handlers.activations import activate
from sklrp.propagation.nested import find_all
from sklrp.propagation.registry import NUMERIC, SOURCED, mark, register
from sklrp.propagation.tape import Pull, Step
from sklrp.rules import Signal

# Where a function is monotone, and where it turns; of the others no bounds are known.
_RISING = (
    "exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "sqrt", "sinh", "asinh", "acosh",
    "asin", "atan", "atanh", "erf", "erfinv", "logit", "nan_to_num", "deg2rad", "rad2deg",
    "special_ndtr", "special_log_ndtr",
)  # fmt: skip
_FALLING = ("acos", "erfc")
_TURNING_AT_0 = ("abs", "square", "cosh")
_OTHERS = (
    "sin", "cos", "tan", "sinc", "i0", "special_i0e", "special_i1",
    "special_i1e", "special_erfcx", "special_entr",
)  # fmt: skip
# What is nowhere negative, whatever it is of; and what keeps the sign of its argument.
_NONNEGATIVE = frozenset(["exp", "exp2", "sqrt", "abs", "square", "cosh", "acos", "erfc", "i0"])
_SIGNED = frozenset(["expm1", "log1p", "sinh", "asinh", "asin", "atan", "atanh", "erf"])


def _apply(step: Step, source: Signal, *args: Any, **kwargs: Any) -> tuple[Signal, Pull]:
    """Apply a function of one signal, elementwise."""
    if find_all(Signal, (args, kwargs)):
        raise TypeError("only its first argument may depend on the network's input")
    name = step.function
    nonnegative = name in _NONNEGATIVE or (name in _SIGNED and source.nonnegative)
    return activate(source, lambda x: step.layer(x, *args, **kwargs), nonnegative)


for _names, _bounds in (
    ((*_RISING, *_FALLING), monotone),
    (_TURNING_AT_0, turning(0.0)),
    (_OTHERS, None),
):
    register(*_names, bounds=_bounds)(mark(SOURCED)(_apply))


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
        raise TypeError("its exponent depends on the network's input; only its base may")
    powers = torch.as_tensor(exponent)
    even = powers.numel() == 1 and float(powers) % 2 == 0
    function = partial(step.layer, exponent=exponent)
    out, pull = activate(source, function, even or source.nonnegative)
    if bool((powers < 0).all()):  # an inverse scales as a constant: x * (v + eps) ** -0.5
        out = replace(out, gate=True, held=True)
    return out, pull
