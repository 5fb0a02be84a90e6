"""Folding batch normalisations into the affine layers beside them, on copies of the weights.

The plan calls this when it compiles a network. A normalisation by the statistics of the training
data is an affine map of each channel; folded, it takes part in the rule of its neighbour. What may
be folded into what is said where layers are registered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import nn

from sklrp.propagation.first_layers import Link
from sklrp.propagation.formula import channelwise
from sklrp.propagation.tape import Step

# Which normalisation has its channels where a layer with a weight of so many axes has them.
_NORM_OF = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def fold_recorded(links: Sequence[Link], output: int) -> None:
    """Fold normalisations into the affine steps that feed them alone, or that they feed alone.

    Parameters
    ----------
    links : list of Link
        The steps in execution order.
    output : int
        The value that is explained, which is a use of its own.
    """
    makers = {index: link for link in links for index in link.outputs}
    users = Counter([output, *(index for link in links for index in link.inputs)])
    for link in links:
        before = makers.get(link.inputs[0]) if link.inputs else None
        if before is None or users[link.inputs[0]] > 1 or len(before.outputs) > 1:
            continue
        one, other = before.step, link.step
        if one.merged:
            continue
        if other.fold == "scale":
            other.merged = fold_back(one, other)
        elif one.fold == "scale":
            one.merged = fold_forward(one, other)


def fold_back(affine: Step, norm: Step) -> bool:
    """Fold a normalisation into the affine step before it; return whether it could be."""
    layer: Any = affine.layer
    if affine.fold not in ("rows", "columns"):
        return False
    n_outputs = affine.weight.shape[0] if affine.fold == "rows" else layer.out_channels
    if not _match(affine, norm, n_outputs):
        return False
    # (w x + b) s + t = (s w) x + (s b + t)
    behind = (1,) * (affine.weight.dim() - 2)
    if affine.fold == "rows":
        affine.weight = affine.weight * norm.weight.reshape(-1, 1, *behind)
    else:  # transposed: inputs first, those of all groups, then the outputs of one group
        scale = norm.weight.reshape(layer.groups, 1, -1, *behind)
        affine.weight = (affine.weight.unflatten(0, (layer.groups, -1)) * scale).flatten(0, 1)
    affine.bias = norm.bias if affine.bias is None else affine.bias * norm.weight + norm.bias
    affine.folded, affine.output_of = True, norm.name
    return True


def fold_forward(norm: Step, affine: Step) -> bool:
    """Fold a normalisation into the affine step after it, unless padding is between."""
    layer: Any = affine.layer
    if affine.fold != "rows" or not _match(affine, norm, affine.weight.shape[1]):
        return False
    padding = getattr(layer, "padding", "valid")
    unpadded = padding == "valid" or (not isinstance(padding, str) and not any(padding))
    if not unpadded or getattr(layer, "groups", 1) > 1:
        return False
    # w (s x + t) + b = (w s) x + (w t + b)
    n_spatial = affine.weight.dim() - 2
    shift = (affine.weight * channelwise(norm.bias, n_spatial)).flatten(1).sum(1)
    affine.weight = affine.weight * channelwise(norm.weight, n_spatial)
    affine.bias = shift if affine.bias is None else affine.bias + shift
    affine.folded, norm.output_of = True, affine.name
    return True


def _match(affine: Step, norm: Step, n_channels: int) -> bool:
    """Return whether the channels of a normalisation are those of an affine step."""
    return (
        norm.fold == "scale"
        and isinstance(norm.layer, _NORM_OF[affine.weight.dim()])
        and n_channels == norm.weight.shape[0]
    )
