"""Layers that are refused by name, each with what to use instead.

Importing this module registers a handler for them that raises the error.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from sklrp.propagation.registry import REFUSING, mark, register

_RANDOM_WINDOWS = "it draws its windows at random; use AdaptiveMaxPool"

REMEDIES = {
    nn.FractionalMaxPool2d: _RANDOM_WINDOWS,
    nn.FractionalMaxPool3d: _RANDOM_WINDOWS,
}


@register(*REMEDIES)
@mark(REFUSING)
def refuse(step: Any, *args: Any) -> Any:
    """Refuse a layer by name, with what to do."""
    layer_type, why = next((t, w) for t, w in REMEDIES.items() if isinstance(step.layer, t))
    raise TypeError(
        f"Relevance through {layer_type.__name__} {step.name!r} is not supported: {why}, or "
        "register a handler for it with sklrp.propagation.register."
    )
