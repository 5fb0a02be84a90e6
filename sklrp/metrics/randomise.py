"""Draw the parameters of a network anew, so that it loses what it has learned.

`randomization_similarity` does so layer by layer, and the null models of `sklrp.diagnostics` for
all layers or the last one.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import nn


def list_layers(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the layers of a network that have parameters of their own, with their names."""
    return [
        (name, layer)
        for name, layer in module.named_modules()
        if _draws_itself(layer) or next(layer.parameters(recurse=False), None) is not None
    ]


def randomise(layer: nn.Module, generator: torch.Generator) -> None:
    """Draw the parameters of a layer anew, as torch draws them before training."""
    # They are uniform within one over the square root of the number of inputs of a unit.
    reset: Any = getattr(layer, "reset_parameters", None)
    if _draws_itself(layer):
        reset(generator=generator)
        return
    parameters = list(layer.parameters(recurse=False))
    matrices = [p for p in parameters if p.ndim > 1]
    if not matrices and reset is not None:
        reset()  # a normalisation starts from constants: nothing is drawn
        return
    n_inputs = getattr(layer, "hidden_size", matrices[0][0].numel() if matrices else 1)
    bound = 1 / math.sqrt(n_inputs)
    with torch.no_grad():
        for parameter in parameters:
            # In double precision, so that a network in single precision gets the same draws.
            drawn = torch.empty(parameter.shape, dtype=torch.float64)
            parameter.copy_(drawn.uniform_(-bound, bound, generator=generator))


def _draws_itself(layer: Any) -> bool:
    """Tell whether a layer can draw its own parameters from a generator."""
    reset = getattr(layer, "reset_parameters", None)
    return reset is not None and "generator" in inspect.signature(reset).parameters
