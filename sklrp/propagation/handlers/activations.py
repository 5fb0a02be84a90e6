"""Handlers of the elementwise layers, which pass relevance on, and of GLU.

A sigmoid is a gate, that of a GLU too: in a product with a signal, the signal takes all. Importing
this module registers the handlers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sklrp.modules import GaussianNoise
from sklrp.propagation.bounds import box, corners, is_known, monotone, turning, unknown
from sklrp.propagation.handlers.operands import base_name, own_dim
from sklrp.propagation.registry import NEW, PASSING, mark, register
from sklrp.propagation.sharing import share_product
from sklrp.propagation.tape import Kept, Pull, Step
from sklrp.rules import Signal


def pass_all(relevance: Tensor, kept: Kept | None) -> Tensor:
    """Pull relevance through a layer that passes all of it on."""
    return relevance


def activate(
    signal: Signal,
    function: Callable[[Tensor], Tensor],
    nonnegative: bool = False,
    gate: bool = False,
) -> tuple[Signal, Pull]:
    """Apply an elementwise function, which passes relevance on; what its handler returns.

    Parameters
    ----------
    signal : Signal
        The input.
    function : callable
        The function, which leaves its argument as it is.
    nonnegative : bool, default=False
        Whether the output is nowhere negative.
    gate : bool, default=False
        Whether the output is a gate: in a product with a signal, the signal takes all relevance.

    Returns
    -------
    out : Signal
        The output.
    pull : callable
        What passes relevance on as it is.
    """
    out = signal.but(
        x=function(signal.x), nonnegative=nonnegative, gate=gate or signal.gate, low=None,
        high=None, activated=True, sigmoid=False,
    )  # fmt: skip
    return out, pass_all


@register(
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout,
    nn.FeatureAlphaDropout, GaussianNoise, any_axis=True, bounds=monotone,
)  # fmt: skip
@mark(PASSING)
def _identity(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    return signal, pass_all


@register(nn.ReLU, nn.ReLU6, nn.Softplus, any_axis=True, bounds=monotone)
@mark(NEW)
def _nonnegative_activation(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    function = torch.relu_ if step.in_place else _out_of_place(step.layer)
    return activate(signal, function, getattr(step.layer, "beta", 1.0) > 0)


@register(nn.Sigmoid, nn.Hardsigmoid, any_axis=True, bounds=monotone)
@mark(NEW)
def _gate(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    out, pull = activate(signal, _out_of_place(step.layer), True, gate=True)
    return out.but(sigmoid=True), pull


@register(
    nn.Hardshrink, nn.SELU, nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink,
    any_axis=True, bounds=monotone,
)  # fmt: skip
@mark(NEW)
def _signed_activation(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    return activate(signal, _out_of_place(step.layer), signal.nonnegative)


# Where activations turn that are not monotone: those of two slopes at 0, if a slope is negative.
_TURNS = {
    "GELU": -0.7517915246935645,
    "Hardswish": -1.5,
    "Mish": -1.1924312145154953,
    "SiLU": -1.278464542761074,
}
_TURN_OF_GELU_BY_TANH = -0.7524614220710162


def _turn(layer: Any) -> float:
    if getattr(layer, "approximate", "none") == "tanh":
        return _TURN_OF_GELU_BY_TANH
    return _TURNS.get(base_name(layer), 0.0)


@register(
    nn.CELU, nn.ELU, nn.GELU, nn.Hardswish, nn.LeakyReLU, nn.Mish, nn.SiLU,
    any_axis=True, bounds=turning(_turn),
)  # fmt: skip
@mark(NEW)
def _turning_activation(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    return activate(signal, _out_of_place(step.layer), signal.nonnegative)


@register(nn.RReLU, any_axis=True, bounds=turning(0.0))
def _rrelu(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    """Apply the mean slope, as evaluation does, whatever the mode of the layer."""
    layer: Any = step.layer
    slope = (layer.lower + layer.upper) / 2.0
    return activate(signal, lambda x: F.leaky_relu(x, slope), signal.nonnegative)


@register(nn.PReLU, any_axis=True, bounds=turning(0.0))
def _prelu(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    weight: Any = step.layer.weight
    if weight.numel() > 1 and signal.axis != 0:
        raise TypeError(
            f"Relevance through PReLU {step.name!r} with a slope per channel is not supported "
            "where the samples are not on the first axis; permute its input."
        )
    weight = weight.detach()
    return activate(signal, lambda x: F.prelu(x, weight), signal.nonnegative)


@register(nn.LogSigmoid, any_axis=True, bounds=monotone)
def _log_sigmoid(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    return activate(signal, step.layer.forward, False)


@register(nn.Hardtanh, any_axis=True, bounds=monotone)
def _hardtanh(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    layer: Any = step.layer
    nonnegative = layer.min_val >= 0 or (signal.nonnegative and layer.max_val >= 0)
    return activate(signal, _out_of_place(layer), nonnegative)


def _threshold_bounds(step: Step, signal: Signal) -> Signal:
    layer: Any = step.layer
    if layer.value > layer.threshold:  # it falls where the threshold is passed
        return unknown(step.handler(step, signal)[0])
    return monotone(step, signal)


@register(nn.Threshold, any_axis=True, bounds=_threshold_bounds)
def _threshold(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    layer: Any = step.layer
    nonnegative = layer.value >= 0 and (signal.nonnegative or layer.threshold >= 0)
    return activate(signal, _out_of_place(layer), nonnegative)


def _glu_bounds(step: Step, signal: Signal) -> Signal:
    """Bound a product: the lower end by the gate that makes it least, the upper likewise."""
    out, _ = step.handler(step, signal)
    if not is_known(signal):
        return unknown(out)
    dim = own_dim(step, signal, step.layer.dim)
    (low, least), (high, most) = (_halves(end, dim) for end in corners(signal))
    low = torch.minimum(low * least, low * most)
    return box(out, low, torch.maximum(high * least, high * most))


def _halves(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    one, other = x.chunk(2, dim)
    return one, other.sigmoid()


@register(nn.GLU, any_axis=True, bounds=_glu_bounds)
def _glu(step: Step, signal: Signal) -> tuple[Signal, Pull]:
    """Multiply one half by the sigmoid of the other: a signal and its gate."""
    dim = own_dim(step, signal, step.layer.dim)
    z = F.glu(signal.x, dim)
    x, gate = _halves(signal.x, dim)

    def pull(relevance: Tensor, kept: Kept | None) -> Tensor:
        to_gate = relevance * share_product(step, gate, x)
        return torch.cat([relevance - to_gate, to_gate], dim + 1)

    return Signal(z, signal.nonnegative), pull


def _out_of_place(layer: Any) -> Callable[[Tensor], Tensor]:
    if getattr(layer, "inplace", False):
        own, layer = vars(layer), object.__new__(type(layer))
        vars(layer).update(own, inplace=False)
    return layer.forward
