"""Compilation: from a network and a rule to steps."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from sklrp.composites import Composite, check_rule, with_bounds
from sklrp.modules import StatePooling
from sklrp.propagation.step import HANDLERS, Handler, Step, channelwise
from sklrp.rules import Flat, Rule, ZBox

_SOFTMAX = (nn.Softmax, nn.LogSoftmax)
_AFFINE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORM_OF = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def compile_steps(
    module: nn.Module, rule: Any, epsilon: float, bounds: tuple[Any, Any] | None = None
) -> list[Step]:
    """Return the steps of a network, with their rules, batch normalisation folded in."""
    composite = check_rule(rule)
    leaves = list(_leaves(module, ""))
    while leaves and isinstance(leaves[-1][1], (*_SOFTMAX, nn.Dropout, nn.Identity)):
        leaves.pop()  # scores are taken before a softmax
    steps: list[Step] = []
    for position, (name, layer) in enumerate(leaves):
        handler, kind = _find_handler(name, layer)
        if is_parametrized(layer):  # reading its weights may update buffers in training mode
            layer = copy.deepcopy(layer).eval()
        step = Step(name, layer, handler, kind, epsilon=epsilon)
        previous = steps[-1] if steps else None
        if isinstance(layer, nn.LSTM):
            _check_lstm(step, leaves[position + 1 :])
        elif isinstance(layer, StatePooling):
            if previous is None or not isinstance(previous.layer, nn.LSTM):
                raise TypeError(f"StatePooling {name!r} must follow an nn.LSTM directly.")
            step.n_directions = 1 + previous.layer.bidirectional
        elif isinstance(layer, _BATCH_NORM):
            step.weight, step.bias = _batch_norm_affine(step)
            if previous is not None and _fold_back(previous, step):
                continue
        elif isinstance(layer, _AFFINE):
            step.weight = layer.weight.detach()
            step.bias = None if layer.bias is None else layer.bias.detach()
            if previous is not None and _fold_forward(previous, step):
                steps.pop()
        steps.append(step)
    _assign_rules(module, steps, composite, epsilon, bounds)
    return steps


def _assign_rules(
    module: nn.Module,
    steps: list[Step],
    composite: Composite,
    epsilon: float,
    bounds: tuple[Any, Any] | None,
) -> None:
    """Give each step with weights its rule and its epsilon."""
    weighted = [step for step in steps if step.kind is not None]
    if not weighted:
        raise TypeError(
            f"The network {type(module).__name__} has no layer with weights; there is nothing to "
            "explain."
        )
    resolved = composite.resolve([(step.name, step.layer, step.kind or "") for step in weighted])
    for step, rule in zip(weighted, resolved, strict=True):
        step.first = step is weighted[0]
        if step.first:
            rule = with_bounds(rule, bounds)
        step.rule, step.epsilon = rule, rule.resolve_epsilon(epsilon)
        known = bounds is not None or _has_bounds(weighted[0].rule)
        if isinstance(rule, ZBox) and not known and not _has_bounds(rule):
            raise ValueError(
                f"The z-box rule on layer {step.name!r} needs the bounds of the input; pass "
                "ZBox(low=..., high=...), or explain a classifier of this package, which "
                "remembers them."
            )
    if isinstance(resolved[0], Flat) and weighted[0].kind == "dense":
        warnings.warn(
            f"The flat rule on the dense first layer {weighted[0].name!r} gives every input the "
            "same relevance, whatever the network learned; use 'epsilon', 'w_square' or 'z_box' "
            "there.",
            UserWarning,
            stacklevel=5,
        )


def _has_bounds(rule: Rule) -> bool:
    return isinstance(rule, ZBox) and rule.low is not None and rule.high is not None


def _leaves(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers of nested ``nn.Sequential`` in execution order."""
    everywhere = nn.modules.module
    if everywhere._global_forward_hooks or everywhere._global_forward_pre_hooks:
        raise TypeError(
            "There are forward hooks on all modules, which relevance would not see; remove them "
            "before explaining."
        )
    if module._forward_hooks or module._forward_pre_hooks:
        raise TypeError(
            f"Layer {path or 'the network itself'} ({type(module).__name__}) has forward hooks, "
            "which relevance would not see; remove them before explaining, those of pruning or "
            "old-style weight normalisation by torch's prune.remove and remove_weight_norm."
        )
    if isinstance(module, nn.Sequential) and _runs_as(module, nn.Sequential):
        for name, child in module._modules.items():
            if child is not None:
                yield from _leaves(child, f"{path}.{name}" if path else name)
    else:
        yield path, module


def _find_handler(path: str, layer: nn.Module) -> tuple[Handler, str | None]:
    """Return the handler and the kind of a layer, or refuse it by name."""
    for layer_type in type(layer).__mro__:
        if layer_type in HANDLERS and _runs_as(layer, layer_type):
            return HANDLERS[layer_type]
    where = f"layer {path!r}" if path else "the network"
    why = ""
    if isinstance(layer, _SOFTMAX):
        why = " A softmax is stepped over only at the end of the network."
    elif list(layer.children()):
        why = " Its own forward() is not traced: write it as an nn.Sequential of supported layers."
    supported = ", ".join(sorted(t.__name__ for t in HANDLERS))
    raise TypeError(
        f"Relevance through {where} of type {type(layer).__name__} is not supported.{why} "
        f"Supported are nn.Sequential of: {supported}. Register a handler for another type with "
        "sklrp.propagation.register."
    )


def _runs_as(layer: nn.Module, layer_type: type[nn.Module]) -> bool:
    """Return whether a layer computes what ``layer_type`` does: nothing of it is overridden."""
    return all(
        name not in vars(layer)
        and getattr(type(layer), name, None) is getattr(layer_type, name, None)
        for name in ("__call__", "forward", "_conv_forward")
    )


def _check_lstm(step: Step, following: list[tuple[str, nn.Module]]) -> None:
    layer: Any = step.layer
    problems = [
        (layer.proj_size > 0, "has a projection; set proj_size=0"),
        (not layer.batch_first, "has the time axis first; set batch_first=True"),
        (
            not following or not isinstance(following[0][1], StatePooling),
            "returns a tuple; let sklrp.modules.StatePooling follow it directly",
        ),
    ]
    for bad, what in problems:
        if bad:
            raise TypeError(f"Relevance through LSTM {step.name!r} is not supported: it {what}.")


def _batch_norm_affine(step: Step) -> tuple[Tensor, Tensor]:
    """Return scale and shift of a batch normalisation in evaluation mode."""
    layer: Any = step.layer
    if layer.running_mean is None or layer.running_var is None:
        raise TypeError(
            f"Relevance through {type(layer).__name__} {step.name!r} is not supported: it keeps "
            "no running statistics, so a sample's output depends on its batch; set "
            "track_running_stats=True."
        )
    scale = torch.rsqrt(layer.running_var + layer.eps)
    if layer.weight is not None:
        scale = scale * layer.weight.detach()
    shift = -layer.running_mean * scale
    if layer.bias is not None:
        shift = shift + layer.bias.detach()
    return scale, shift


def _fold_back(affine: Step, norm: Step) -> bool:
    """Fold a batch normalisation into the affine step before it, on copies."""
    if not _share_channels(affine, norm, axis=0):
        return False
    scale = norm.weight.reshape(-1, *(1,) * (affine.weight.dim() - 1))
    affine.weight = affine.weight * scale
    affine.bias = norm.bias if affine.bias is None else affine.bias * norm.weight + norm.bias
    affine.folded = True
    return True


def _fold_forward(norm: Step, affine: Step) -> bool:
    """Fold a batch normalisation into the affine step after it, unless padding is between."""
    layer: Any = affine.layer
    padding = getattr(layer, "padding", "valid")
    unpadded = padding == "valid" or (not isinstance(padding, str) and not any(padding))
    if (
        not unpadded
        or getattr(layer, "groups", 1) > 1
        or not _share_channels(affine, norm, axis=1)
    ):
        return False
    n_spatial = affine.weight.dim() - 2
    shift = (affine.weight * channelwise(norm.bias, n_spatial)).flatten(1).sum(1)
    affine.weight = affine.weight * channelwise(norm.weight, n_spatial)
    affine.bias = shift if affine.bias is None else affine.bias + shift
    affine.folded = True
    return True


def _share_channels(affine: Step, norm: Step, axis: int) -> bool:
    """Return whether the channels of a batch normalisation are those of an affine step."""
    return (
        isinstance(affine.layer, _AFFINE)
        and isinstance(norm.layer, _BATCH_NORM)
        and isinstance(norm.layer, _NORM_OF[affine.weight.dim()])
        and affine.weight.shape[axis] == norm.weight.shape[0]
    )
