"""What handlers of layers ask of shapes: axes behind the channels, an axis by its number.

The errors name the layer, and what to put before it.
"""

from __future__ import annotations

import torch
from torch import nn

from sklrp.propagation.registry import HANDLERS
from sklrp.propagation.tape import Step
from sklrp.rules import Signal


def spatial_shape(step: Step, signal: Signal) -> torch.Size:
    """Return the shape behind the axes of samples and channels, as the layer's type has it."""
    n_spatial, shape = int(base_name(step.layer)[-2]), signal.x.shape
    if len(shape) != n_spatial + 2:
        raise ValueError(
            f"Layer {step.name!r} ({base_name(step.layer)}) takes samples of {n_spatial + 1} "
            f"axes, channels first, got {len(shape) - 1}, of shape {tuple(shape[1:])}; put "
            "nn.Unflatten before it."
        )
    return shape[2:]


def own_dim(step: Step, signal: Signal, dim: int) -> int:
    """Return where a handler, which has the samples first, finds an axis of the network's."""
    dim = range(signal.x.dim())[dim]
    if dim == signal.axis:
        raise TypeError(
            f"Relevance through {base_name(step.layer)} {step.name!r} is not supported: with "
            f"dim={dim} it acts along the axis of the samples; choose another axis."
        )
    return dim + 1 if dim < signal.axis else dim


def base_name(layer: nn.Module) -> str:
    """Return the name of the registered type that a layer is of."""
    return next(c.__name__ for c in type(layer).__mro__ if c in HANDLERS)
