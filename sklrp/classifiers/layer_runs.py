"""How the net inside an estimator runs its network, layer by layer where that is quicker.

Layers that draw take their numbers from a stream of the estimator's own, and images have their
channels last. Nothing here changes a result. :mod:`sklrp.classifiers.net` calls it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sklrp._quick_images import in_quick_order, take_largest
from sklrp._random_stream import RandomStream
from sklrp._torch import runs_plainly
from sklrp.modules import GaussianNoise

QUIET = ("torch.", "skorch.", "sklrp.")  # whose losses, optimizers and callbacks draw nothing


def run_in_parts(network: nn.Module, x: Any, stream: RandomStream | None, of_images: bool) -> Any:
    """Return what a network makes of a batch: what draws draws from a stream, if there is one."""
    if type(network) is nn.Sequential and runs_plainly(network):
        for layer in in_quick_order(network) if of_images else network:
            x = run_in_parts(layer, x, stream, of_images)
        return x
    if of_images and type(network) is nn.Unflatten:
        return network(x).to(memory_format=torch.channels_last)
    if of_images and type(network) is nn.MaxPool2d and runs_plainly(network):
        return take_largest(network, x)
    if stream is None:
        return network(x)
    if runs_plainly(network):
        # The stream sees every operation of what is inside, so that the commonest have a shortcut.
        if type(network) is nn.Dropout:
            return stream.drop(x, network.p)
        if type(network) is GaussianNoise:
            return x + network.std * stream.normal_like(x)
        if not may_draw(network):
            return network(x)
    with stream:
        return network(x)


def is_of_images(network: nn.Module, device: str, dtype: torch.dtype) -> bool:
    """Tell whether a network pools images on a CPU, which is quicker with the channels last."""
    # In double precision it is not, and without pooling the dense layer behind the convolutions
    # puts the channels first again, which takes longer than was gained.
    kinds = {type(layer) for layer in network.modules()}
    return (
        torch.device(device).type == "cpu"
        and dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and nn.Conv2d in kinds
        and bool(kinds & {nn.MaxPool2d, nn.AvgPool2d})
    )


def may_draw(network: nn.Module) -> bool:
    """Tell whether a network may draw in training: it drops, adds noise, or has users' layers."""
    return any(
        not type(layer).__module__.startswith(QUIET)
        or any(getattr(layer, name, 0) for name in ("p", "std", "dropout"))
        for layer in network.modules()
    )
