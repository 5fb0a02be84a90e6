"""Draw a network anew, so that it has learned nothing.

`randomization_similarity` gives a network's layers their start one after another, the null models
of `sklrp.diagnostics` all of them or the last one, and `skill_mass` all of them. A start is what
the layer's own ``reset_parameters`` draws, such as an LSTM's with its open forget gates.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from skorch import NeuralNet
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sklrp._copies import copy_module, results_in
from sklrp._model_parts import Model
from sklrp._models import unwrap
from sklrp._random_stream import RandomStream
from sklrp._torch import find_start
from sklrp.modules import bound_biases

_BEHIND = ".parametrizations."
_ESTIMATES = 20  # passes after which power iterations, of a spectral norm, have settled


def list_layers(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the layers of a network that have a start of their own, with their names."""
    return [
        (name, layer)
        for name, layer in module.named_modules()
        if not isinstance(layer, parametrize.ParametrizationList) and _starts(layer)
    ]


def check_layers(network: Any) -> None:
    """Raise an error unless a network has layers whose parameters can be drawn anew."""
    if not isinstance(network, nn.Module) and not hasattr(network, "module_"):
        raise TypeError(
            f"{type(network).__name__} has no network to randomise: pass a model with a "
            "torch.nn.Module as module_, or the module itself."
        )
    if not list_layers(unwrap(network).module):
        raise ValueError(f"the network of {type(network).__name__} has no layer with parameters.")


def draw_anew(model: Model, seed: int) -> nn.Module:
    """Return a network as it was before training, in double precision on the CPU."""
    # A network in single precision or on an accelerator so gets the same draws.
    fresh = copy_module(model.module).cpu().double()
    plain = {
        layer: _without_parametrizations(layer)
        for layer in fresh.modules()
        if parametrize.is_parametrized(layer)
    }
    with torch.no_grad(), RandomStream(torch.device("cpu"), seed):
        for parameter in itertools.chain.from_iterable(
            module.parameters() for module in (fresh, *plain.values())
        ):
            if parameter.is_floating_point():
                parameter.fill_(torch.nan)  # what stays so had no start
        # As constructors do, children before their parents. Of the layers that share a parameter
        # the first has the last word.
        for layer in reversed(list(fresh.modules())):
            start = find_start(plain.get(layer, layer))
            if start is not None:
                start()
            if layer in plain:
                _parametrize(layer, plain[layer])
        _check_drawn(fresh)
        # A net with bias="nonpositive" bounds its biases before training, too.
        if getattr(getattr(model.network, "net_", None), "nonpositive_bias", False):
            bound_biases(fresh)
    return fresh


def restart(model: Model, seed: int, which: slice = slice(None)) -> None:
    """Give all or some of a network's layers their start, in place."""
    layers, starts = list_layers(model.module), list_layers(draw_anew(model, seed))
    for (_, layer), (_, start) in list(zip(layers, starts, strict=True))[which]:
        take_start(layer, start)


def with_start(model: Model, seed: int, which: slice = slice(None)) -> Any:
    """Return a copy of a network, of whose layers all or some are as before training."""
    fresh = replace(model, network=copy_network(model.network))
    restart(fresh, seed, which)
    return fresh.network


def copy_network(network: Any) -> Any:
    """Return a copy of a network that is only asked, without the optimizer that trained it."""
    # Skorch copies a net by way of bytes, with an optimizer twice as large as the network.
    net = getattr(network, "net_", network)
    known = results_in(unwrap(network).module)
    if not isinstance(net, NeuralNet):
        return copy.deepcopy(network, known)
    fresh = object.__new__(type(net))
    known |= {id(net): fresh, id(net.history): net.history}
    state = {name: value for name, value in vars(net).items() if name != "optimizer_"}
    vars(fresh).update(copy.deepcopy(state, known))
    return copy.deepcopy(network, known)


@torch.no_grad()
def take_start(layer: nn.Module, fresh: nn.Module) -> None:
    """Give a layer the parameters and buffers of the same layer of a fresh network."""
    for tensor, start in zip(_own_tensors(layer), _own_tensors(fresh), strict=True):
        tensor.copy_(start)


def _starts(layer: nn.Module) -> bool:
    """Tell whether a layer has parameters, or buffers that it draws or resets itself."""
    if parametrize.is_parametrized(layer) or any(True for _ in layer.parameters(recurse=False)):
        return True
    return find_start(layer) is not None and any(True for _ in layer.buffers(recurse=False))


def _own_tensors(layer: nn.Module) -> Iterator[Tensor]:
    """Yield the parameters and buffers of a layer, also behind a parametrization."""
    yield from layer.parameters(recurse=False)
    yield from layer.buffers(recurse=False)
    if parametrize.is_parametrized(layer):
        for behind in _parametrizations(layer).values():
            yield from behind.parameters(recurse=False)
            yield from behind.buffers()


def _parametrizations(layer: Any) -> dict[str, parametrize.ParametrizationList]:
    return dict(layer.parametrizations.items())


def _without_parametrizations(layer: nn.Module) -> nn.Module:
    """Return a copy of a layer of the type that it had before it was parametrized."""
    # torch's `remove_parametrizations` on a copy takes them from the original, too.
    plain = copy_module(layer)
    values = {name: getattr(layer, name).detach().clone() for name in _parametrizations(layer)}
    plain.__class__ = parametrize.type_before_parametrizations(layer)
    del plain.parametrizations
    for name, value in values.items():
        plain.register_parameter(name, nn.Parameter(value))
    return plain


def _parametrize(layer: nn.Module, plain: nn.Module) -> None:
    """Give a parametrized layer the parameters of the plain one, as registration does."""
    for name, parameter in plain.named_parameters(recurse=False):
        if name not in _parametrizations(layer):
            dict(layer.named_parameters(recurse=False))[name].copy_(parameter)
            continue
        behind = _parametrizations(layer)[name]
        if parameter.isnan().any():
            continue  # refused by name
        fresh = parametrize.ParametrizationList(list(behind), parameter)
        for original, start in zip(
            behind.parameters(recurse=False), fresh.parameters(recurse=False), strict=True
        ):
            original.copy_(start)
        is_training = behind.training
        behind.train()
        for _ in range(_ESTIMATES if any(True for _ in behind.buffers()) else 0):
            behind()
        behind.train(is_training)


def _check_drawn(fresh: nn.Module) -> None:
    """Raise an error that names the first parameter without a start."""
    layers = dict(fresh.named_modules())
    for path, parameter in fresh.named_parameters():
        if not (parameter.is_floating_point() and parameter.isnan().any()):
            continue
        owner, _, name = path.partition(_BEHIND)[0].rpartition(".")
        if _BEHIND in path:
            owner, name = path.split(_BEHIND)
        kind = type(layers[owner]).__name__
        where = f"layer {owner!r} ({kind})" if owner else f"the network itself ({kind})"
        raise TypeError(
            f"The network cannot be drawn anew: parameter {name!r} of {where} has no start. Give "
            f"{kind}, or a module around it, a method reset_parameters() that draws {name!r} as "
            "__init__ does."
        )
