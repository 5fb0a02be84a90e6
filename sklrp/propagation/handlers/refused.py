"""Layers that are refused by name, each with what to use instead.

Importing this module registers a handler for them that raises the error.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from sklrp.propagation.registry import REFUSING, mark, register

_POWER_MEAN = "it is a power mean of a window, which no rule shares; use AvgPool or MaxPool"
_RANDOM_WINDOWS = "it draws its windows at random; use AdaptiveMaxPool"
_INDICES = "it needs the indices of another layer; use Upsample or ConvTranspose"
_NEIGHBOURS = "it divides by the activity of neighbours; use GroupNorm or BatchNorm"

REMEDIES = {
    nn.Bilinear: "it multiplies two signals; use Linear on their concatenation, or a gate (GLU)",
    nn.LPPool1d: _POWER_MEAN,
    nn.LPPool2d: _POWER_MEAN,
    nn.FractionalMaxPool2d: _RANDOM_WINDOWS,
    nn.FractionalMaxPool3d: _RANDOM_WINDOWS,
    nn.MaxUnpool1d: _INDICES,
    nn.MaxUnpool2d: _INDICES,
    nn.MaxUnpool3d: _INDICES,
    nn.LocalResponseNorm: _NEIGHBOURS,
    nn.CrossMapLRN2d: _NEIGHBOURS,
}
if hasattr(nn, "LPPool3d"):  # since torch 2.4
    REMEDIES[nn.LPPool3d] = _POWER_MEAN


@register(*REMEDIES)
@mark(REFUSING)
def refuse(step: Any, *args: Any) -> Any:
    """Refuse a layer by name, with what to do."""
    layer_type, why = next((t, w) for t, w in REMEDIES.items() if isinstance(step.layer, t))
    raise TypeError(
        f"Relevance through {layer_type.__name__} {step.name!r} is not supported: {why}, or "
        "register a handler for it with sklrp.propagation.register."
    )
