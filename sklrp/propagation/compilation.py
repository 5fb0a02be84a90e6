"""Compilation: from a network and a rule to a plan.

:mod:`.preparing` and :mod:`.explaining` call :func:`compile_plan`. A
nested ``nn.Sequential`` of supported layers is a chain, compiled from its layers alone; any other
network is run under a recorder on few samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from sklrp._checks import say_layer, say_name
from sklrp._copies import copy_module
from sklrp._torch import get_children, overrides_functions
from sklrp._warnings import warn_user
from sklrp._wording import say_value
from sklrp.composites import Composite, check_rule, with_bounds
from sklrp.modules import EchoState, StatePooling
from sklrp.propagation.first_layers import (
    group_uses,
    link_chain,
    link_steps,
    mark_first,
    mark_shifts,
)
from sklrp.propagation.folding import fold_back, fold_forward, fold_recorded
from sklrp.propagation.known_networks import NOTHING_KNOWN, Known, Origin, recall
from sklrp.propagation.layer_outputs import find_ends
from sklrp.propagation.plans import Plan
from sklrp.propagation.probing import Probe, probe_network, probe_once
from sklrp.propagation.recording.twin import Twins, make_twin
from sklrp.propagation.rectified import mark_rectified
from sklrp.propagation.registry import (
    HANDLERS,
    Entry,
    check_hooks,
    find_entry,
    find_head,
    is_built_in,
    is_plain_sequence,
)
from sklrp.propagation.tape import Step
from sklrp.rules import AlphaBeta, Flat, Part, Rule, ZBox, ZPlus

_SEQUENCE = (nn.LSTM, nn.GRU, nn.RNN, EchoState)


def compile_plan(
    module: nn.Module,
    rule: Any,
    epsilon: float,
    bounds: tuple[Any, Any] | None = None,
    probe: Probe | None = None,
    strict: bool = True,
    key: str | None = None,
    watched: frozenset[str] = frozenset(),
) -> Plan:
    """Resolve the rules of a network, batch normalisations folded into their neighbours.

    Parameters
    ----------
    module : nn.Module
        The network.
    rule : str, Rule or Composite
        The rule.
    epsilon : float
        The epsilon of the call.
    bounds : (low, high) or None, default=None
        The bounds of the input for z-box rules that have none of their own.
    probe : Probe or None, default=None
        What gives samples to probe a network that is not a chain of layers.
    strict : bool, default=True
        Whether z-box without bounds is an error, not a warning.
    key : str or None, default=None
        The name of the output that is explained.
    watched : frozenset of str, default=frozenset()
        The paths of modules whose outputs are to be noted.

    Returns
    -------
    Plan
        The resolved plan.
    """
    composite = check_rule(rule)
    _check_weights(module)
    leaves = list(_leaves(module, ""))
    head, tail = _take_head(leaves)
    entries = [find_entry(layer) for _, layer in leaves]
    if all(entry is not None for entry in entries):
        if key is not None:
            raise ValueError(
                "target must be an index, a mask, weights or a function, and no name, got "
                f"{key!r}: the network is an nn.Sequential of layers and returns one tensor."
            )
        steps = _compile_chain(leaves, entries, epsilon)
        own = [(name, _in_evaluation_mode(layer)) for name, layer in leaves]
        extended = any(not is_built_in(step.handler) for step in steps)
        plan = Plan(steps, head, layers=own, is_extended=extended, tail=tail)
        links, output = link_chain(steps), len(steps)
        if watched:
            ends = find_ends(module, steps, len(leaves), head)
            plan.ends = {path: ends[path] for path in watched & ends.keys()}
    elif probe is None:
        unknown = ", ".join(
            f"{say_layer(name)} ({type(layer).__name__})"
            if name
            else f"the network itself ({type(layer).__name__})"
            for (name, layer), entry in zip(leaves, entries, strict=True)
            if entry is None
        )
        raise ValueError(
            "Without X, only an nn.Sequential of supported layers can be planned; not supported: "
            f"{unknown}. Pass X, a few samples, to see what its forward does, or register a "
            "handler for it with sklrp.propagation.register."
        )
    else:
        plan = _compile_recorded(module, epsilon, probe, key, watched)
        assert plan.route is not None
        links, output = link_steps(plan.steps, plan.route), plan.route.output
    for step in plan.steps:
        step.product, step.attention = composite.product, composite.attention
    mark_first(links)
    _assign_rules(module, plan.steps, composite, epsilon, bounds, strict)
    mark_shifts(links)
    if not plan.exact:
        mark_rectified(links, output)
    return plan


# Layers that do the same in training and in evaluation mode, and remember nothing.
_MODELESS = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Flatten, nn.Unflatten, nn.Identity, nn.ReLU,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
)  # fmt: skip


def _in_evaluation_mode(layer: nn.Module) -> nn.Module:
    """Return a layer as it acts in evaluation mode, the user's own where that is the same."""
    entry = HANDLERS.get(type(layer))
    remembers_nothing = entry is not None and is_built_in(entry.handler)
    if type(layer) in _MODELESS or (not layer.training and remembers_nothing):
        return layer
    twin: nn.Module = make_twin(layer)
    return twin


def _check_weights(module: nn.Module) -> None:
    """Refuse weights of a type that may compute something else with them than torch does."""
    tensors = (*module.named_parameters(), *module.named_buffers())
    for name, tensor in tensors:
        if overrides_functions(type(tensor)) and not is_lazy(tensor):
            kind = type(tensor).__name__
            raise TypeError(
                f"Relevance through {name!r} is not supported: it is of the type {kind}, whose "
                "own __torch_function__ may compute something else with it than the layer says; "
                "set it to a plain nn.Parameter(tensor.as_subclass(torch.Tensor))."
            )


def _compile_chain(
    leaves: list[tuple[str, nn.Module]], entries: Sequence[Entry | None], epsilon: float
) -> list[Step]:
    """Compile nested ``nn.Sequential`` of supported layers."""
    steps: list[Step] = []
    for (name, layer), entry in zip(leaves, entries, strict=True):
        if is_parametrized(layer):  # reading its weights may update buffers in training mode
            layer = copy_module(layer).eval()
        step = make_step(name, layer, entry, epsilon)
        previous = steps[-1] if steps else None
        before = None if previous is None else previous.layer
        if isinstance(layer, StatePooling) != isinstance(before, _SEQUENCE):
            raise TypeError(
                f"{say_layer(name, start=True)}, {type(layer).__name__} behind "
                f"{type(before).__name__}: a recurrent layer returns a tuple, and "
                "sklrp.modules.StatePooling takes one; in an nn.Sequential the one "
                "must follow the other directly."
            )
        # A normalisation is folded into the layer before it, else into the one after it, else it
        # stays a step of its own.
        if previous is not None and fold_back(previous, step):
            continue
        if previous is not None and fold_forward(previous, step):
            steps.pop()
        steps.append(step)
    if steps and isinstance(steps[-1].layer, _SEQUENCE):
        raise TypeError(
            f"The network ends with the recurrent layer {say_name(steps[-1].name)}, which returns "
            "a tuple; let sklrp.modules.StatePooling follow it."
        )
    return steps


def _take_head(leaves: list[tuple[str, nn.Module]]) -> tuple[str | None, list[nn.Module]]:
    """Take a softmax or sigmoid off the end, and return its name and what lays its output out.

    Scores are taken before it: relevance starts at the logits.
    """
    k = len(leaves)
    while k and isinstance(leaves[k - 1][1], (nn.Dropout, nn.Identity, nn.Flatten, nn.Unflatten)):
        k -= 1
    head = find_head(leaves[k - 1][1]) if k else None
    tail: list[nn.Module] = [
        layer for _, layer in leaves[k:] if isinstance(layer, nn.Flatten | nn.Unflatten)
    ]
    if head is not None and all(find_entry(layer) is not None for layer in tail):
        del leaves[k - 1 :]
        return head, tail
    while leaves and isinstance(leaves[-1][1], (nn.Dropout, nn.Identity)):
        leaves.pop()
    return None, []


def _compile_recorded(
    module: nn.Module, epsilon: float, probe: Probe, key: str | None, watched: frozenset[str]
) -> Plan:
    """Compile a network by running it on few samples, if no earlier call has done so."""
    # What two probes have found does for one.
    ways = (True, False) if probe.once else (False,)
    signatures = [(probe.signature(once), key, watched) for once in ways]
    recalled = recall(module, signatures) if probe.recalls else None
    signature, known = recalled or (signatures[0], _find(module, probe, key, watched))
    steps = known.make_steps(partial(make_step, epsilon=epsilon))
    fold_recorded(link_steps(steps, known.route), known.route.output)
    return Plan(
        steps, known.head, known.sizes, varies=known.varies, exact=known.exact, key=key,
        watched=watched, twins=Twins(module, known.idle, known.source), route=known.route,
        origin=Origin(known, signature, recalled is not None) if probe.recalls else NOTHING_KNOWN,
    )  # fmt: skip


def _find(module: nn.Module, probe: Probe, key: str | None, watched: frozenset[str]) -> Known:
    """Return what a probe finds."""
    entries: dict[int, Entry] = {}

    def make(name: str, layer: Any, entry: Entry) -> Step:
        step = make_step(name, layer, entry, 0.0)
        entries[id(step)] = entry
        return step

    twins = Twins(module)
    find = probe_once if probe.once else probe_network
    return Known.of(find(twins, make, probe, key, watched), entries, twins)


def make_step(name: str, layer: Any, entry: Entry | None, epsilon: float) -> Step:
    """Return the step of a layer or a function, without its rule."""
    assert entry is not None
    weight = bias = None
    if entry.weights is not None:
        try:
            found = entry.weights(layer)
        except TypeError as error:
            raise TypeError(
                f"Relevance through {type(layer).__name__} {say_name(name)} is not supported: "
                f"{error}."
            ) from error
        if not isinstance(found, tuple) or len(found) != 2:
            raise TypeError(
                f"weights of {say_layer(name)} ({type(layer).__name__}) must return (weight, "
                f"bias), with None for the bias if there is none, got {type(found).__name__}."
            )
        weight, bias = found
    return Step(
        name,
        layer,
        entry.handler,
        entry.kind,
        epsilon=epsilon,
        weight=None if weight is None else weight.detach(),
        bias=None if bias is None else bias.detach(),
        fold=entry.fold,
        bounds=entry.bounds,
    )


def _leaves(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers of nested ``nn.Sequential`` in execution order."""
    check_hooks(module, path)
    if is_plain_sequence(module):
        for name, child in get_children(module).items():
            if child is not None:
                yield from _leaves(child, f"{path}.{name}" if path else name)
    else:
        yield path, module


def _assign_rules(
    module: nn.Module,
    steps: list[Step],
    composite: Composite,
    epsilon: float,
    bounds: tuple[Any, Any] | None,
    strict: bool,
) -> None:
    """Give each step with weights its rule and its epsilon, and warn of degenerate choices."""
    weighted = [step for step in steps if step.kind is not None]
    if not weighted:
        raise TypeError(
            f"The network {type(module).__name__} has no layer with weights; there is nothing to "
            "explain."
        )
    last = next(uses for uses in group_uses(weighted) if uses[-1] is weighted[-1])
    resolved = composite.resolve(
        [(step.name, step.layer, step.kind or "") for step in weighted],
        first=[k for k, step in enumerate(weighted) if step.first],
        last=[k for k, step in enumerate(weighted) if any(step is use for use in last)],
    )
    for step, rule in zip(weighted, resolved, strict=True):
        step.rule = with_bounds(rule, bounds) if step.first else rule
        _check_parts(step, step.rule)
        step.epsilon = step.rule.resolve_epsilon(epsilon)
    if bounds is None and not any(_has_bounds(step.rule) for step in weighted if step.first):
        _check_boxes(weighted, strict)
    _warn_of_degenerate_maps(weighted, strict)


def _check_parts(step: Step, rule: Rule) -> None:
    """Refuse a rule without parts: all relevance would end at its layer, in silence."""
    parts = rule.parts()
    is_sequence = isinstance(parts, tuple | list)
    if not is_sequence or not parts or not all(isinstance(part, Part) for part in parts):
        raise TypeError(
            f"parts() of {type(rule).__name__}, the rule of {say_layer(step.name)} "
            f"({step.label}), must return a tuple of at least one sklrp.rules.Part, "
            f"got {say_value(parts)}."
        )


def _check_boxes(weighted: Sequence[Step], strict: bool) -> None:
    """Refuse, or warn of, z-box rules without bounds where the input has none either."""
    for step in weighted:
        if isinstance(step.rule, ZBox) and not _has_bounds(step.rule):
            problem = (
                f"The z-box rule on {say_layer(step.name)} needs the bounds of the input; pass "
                "ZBox(low=..., high=...), or explain a classifier of this package, which "
                "remembers them."
            )
            if strict:
                raise ValueError(problem)
            warn_user(problem)


def _warn_of_degenerate_maps(weighted: Sequence[Step], strict: bool) -> None:
    """Warn of rules that give a map that says little, whatever the network learned."""
    last = weighted[-1]
    flat = [s.name for s in weighted if s.first and s.kind == "dense" and isinstance(s.rule, Flat)]
    for name in dict.fromkeys(flat):
        warn_user(
            f"The flat rule on the dense first layer {say_name(name)} gives every input the same "
            "relevance, whatever the network learned; use 'epsilon', 'w_square' or 'z_box' there."
        )
    one_output = last.weight is not None and len(last.weight) == 1
    if not strict and one_output and all(_is_z_plus(step.rule) for step in weighted):
        warn_user(
            "The z-plus rule on every layer of a network with one output looks at what speaks for "
            "a large output alone, whatever the output's sign: on regression it hides what speaks "
            "against it; use 'epsilon' on the dense layers."
        )


def _is_z_plus(rule: Rule) -> bool:
    return isinstance(rule, ZPlus) or (isinstance(rule, AlphaBeta) and rule.beta == 0)


def _has_bounds(rule: Rule) -> bool:
    return isinstance(rule, ZBox) and rule.low is not None and rule.high is not None
