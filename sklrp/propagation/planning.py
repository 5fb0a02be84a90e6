"""Compilation: from a network and a rule to steps."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from sklrp._torch import get_children
from sklrp.composites import Composite, check_rule, with_bounds
from sklrp.modules import EchoState, StatePooling
from sklrp.propagation.handlers.norms import scale_and_shift
from sklrp.propagation.nested import find_signals
from sklrp.propagation.recording.recorder import Recorder
from sklrp.propagation.recording.refusals import OTHER_WAY
from sklrp.propagation.registry import HEADS, Entry, check_hooks, find_entry, find_head, runs_as
from sklrp.propagation.sharing import channelwise
from sklrp.propagation.tape import Record, Step, Tape
from sklrp.rules import AlphaBeta, Flat, Rule, Signal, ZBox, ZPlus

_SEQUENCE = (nn.LSTM, nn.GRU, nn.RNN, EchoState)
_AFFINE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_WEIGHTED = (*_AFFINE, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORM_OF = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(repr=False)
class Plan:
    """A network with the rule of each step resolved.

    Attributes
    ----------
    steps : list of Step
        The steps in execution order.
    network : nn.Module or None
        The network if its ``forward`` is to be run, None if it is a chain of the steps' layers.
    head : str or None
        The layer at the end that is stepped over, such as a softmax.
    probe : Tape or None
        What the network did with two samples, if its ``forward`` is to be run.
    """

    steps: list[Step]
    network: nn.Module | None = None
    head: str | None = None
    probe: Tape | None = None

    def __repr__(self) -> str:
        """Return a table of the steps."""
        rows = [("layer", "type", "rule")]
        for step in self.steps:
            notes = (
                "" if step.rule is None else repr(step.rule),
                "with its batch normalisation" if step.folded else "",
                "folded into its neighbour" if step.merged else "",
            )
            rows.append((step.name, step.label, "  ".join(filter(None, notes))))
        if self.head is not None:
            over = "stepped over: scores are taken before it"
            heads = [k for k, step in enumerate(self.steps, 1) if find_head(step.layer)]
            if self.network is not None:
                rows[heads[-1]] = (*rows[heads[-1]][:2], over)
            else:
                rows.append(("", self.head, over))
        wide = [max(len(row[i]) for row in rows) for i in range(2)]
        return "\n".join(
            f"{row[0]:{wide[0]}}  {row[1]:{wide[1]}}  {row[2]}".rstrip() for row in rows
        )

    def run(self, inputs: Sequence[Signal], args: Any, kwargs: dict[str, Any]) -> Tape:
        """Run the network on a chunk, in which signals stand for the inputs."""
        if self.network is not None:
            recorder = Recorder(self.network, len(inputs[0].x), self.steps)
            return recorder.run(inputs, args, kwargs)
        value: Any = inputs[0]
        records, n_values, largest = [], 1, value.x.numel()
        sources: tuple[int, ...] = (0,)
        for step in self.steps:
            try:
                value, pull = step.handler(step, value)
            except (RuntimeError, IndexError) as error:
                raise ValueError(
                    f"X with samples of shape {tuple(inputs[0].x.shape[1:])} does not fit layer "
                    f"{step.name!r} ({step.layer}): {error}"
                ) from error
            signals = find_signals(value)
            outputs = tuple(range(n_values, n_values + len(signals)))
            records.append(Record(step, pull, sources, outputs, (0,) * len(sources)))
            sources, n_values = outputs, n_values + len(signals)
            largest = max(largest, *(signal.x.numel() for signal in signals))
        if not isinstance(value, Signal) or value.x.dim() not in (1, 2):
            shape = tuple(value.x.shape) if isinstance(value, Signal) else type(value).__name__
            raise ValueError(
                f"The network must return scores of shape (n_samples, n_outputs), got {shape}; "
                "pool or flatten its output."
            )
        scores = value.x.reshape(len(value.x), -1)  # one output may come without its axis
        return Tape(records, (0,), sources[0], value.x.shape, scores, self.head, largest)


def compile_plan(
    module: nn.Module,
    rule: Any,
    epsilon: float,
    bounds: tuple[Any, Any] | None = None,
    sample: Callable[[int], tuple[Sequence[Signal], Any, dict[str, Any]]] | None = None,
    strict: bool = True,
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
    sample : callable or None, default=None
        What gives the inputs, ``args`` and ``kwargs`` of a chunk of n samples, to probe a network
        that is not a chain of layers.
    strict : bool, default=True
        Whether z-box without bounds is an error, not a warning.

    Returns
    -------
    Plan
        The resolved plan.
    """
    composite = check_rule(rule)
    leaves, head = list(_leaves(module, "")), None
    while leaves and isinstance(leaves[-1][1], (*HEADS, nn.Dropout, nn.Identity)) and head is None:
        head = find_head(leaves.pop()[1])  # scores are taken before a softmax
    entries = [find_entry(layer) for _, layer in leaves]
    if all(entry is not None for entry in entries):
        plan = Plan(_compile_chain(leaves, entries, epsilon), None, head)
    elif sample is None:
        raise ValueError(
            f"{type(module).__name__} is not an nn.Sequential of supported layers: to see what "
            "its forward does, pass X, a few samples."
        )
    else:
        plan = _compile_recorded(module, epsilon, sample)
    for step in plan.steps:
        step.product = composite.product
    _assign_rules(module, plan.steps, composite, epsilon, bounds, strict)
    return plan


def _compile_chain(
    leaves: list[tuple[str, nn.Module]], entries: Sequence[Entry | None], epsilon: float
) -> list[Step]:
    """Compile nested ``nn.Sequential`` of supported layers."""
    steps: list[Step] = []
    for (name, layer), entry in zip(leaves, entries, strict=True):
        if is_parametrized(layer):  # reading its weights may update buffers in training mode
            layer = copy.deepcopy(layer).eval()
        step = make_step(name, layer, entry, epsilon)
        previous = steps[-1] if steps else None
        before = None if previous is None else previous.layer
        if isinstance(layer, StatePooling) != isinstance(before, _SEQUENCE):
            raise TypeError(
                f"Layer {name!r}, {type(layer).__name__} behind {type(before).__name__}: a "
                "recurrent layer returns a tuple, and sklrp.modules.StatePooling takes one; in an "
                "nn.Sequential the one must follow the other directly."
            )
        if previous is not None and isinstance(layer, _BATCH_NORM) and _fold_back(previous, step):
            continue
        if previous is not None and _fold_forward(previous, step):
            steps.pop()
        steps.append(step)
    if steps and isinstance(steps[-1].layer, _SEQUENCE):
        raise TypeError(
            f"The network ends with the recurrent layer {steps[-1].name!r}, which returns a "
            "tuple; let sklrp.modules.StatePooling follow it."
        )
    return steps


def _compile_recorded(
    module: nn.Module,
    epsilon: float,
    sample: Callable[[int], tuple[Sequence[Signal], Any, dict[str, Any]]],
) -> Plan:
    """Compile a network by running it on few samples, twice, to tell constants from values."""
    recorders, tapes = [], []
    for n_samples in (2, 3):
        make = partial(make_step, epsilon=epsilon)
        recorder = Recorder(module, n_samples, make_step=make)
        tapes.append(recorder.run(*sample(n_samples)))
        recorders.append(recorder)
    ways = [[(r.step.name, r.step.handler) for r in tape.records] for tape in tapes]
    names = [[name for name, _ in recorder.constants] for recorder in recorders]
    if ways[0] != ways[1] or names[0] != names[1]:
        raise TypeError(OTHER_WAY)
    for (name, one), (_, other) in zip(*(r.constants for r in recorders), strict=True):
        if not _same(one, other):
            raise TypeError(
                f"A tensor that enters {name!r} changes with the network's input, but was "
                "computed from it by something other than torch functions (NumPy, scripted or "
                "custom code), which relevance cannot follow."
            )
    steps = [record.step for record in tapes[0].records]
    _fold_recorded(tapes[0].records)
    return Plan(steps, module, tapes[0].head, tapes[0])


def _same(one: Tensor, other: Tensor) -> bool:
    """Return whether a constant is the same with two samples as with three."""
    if one.dim() != other.dim():
        return False
    for axis, (n, m) in enumerate(zip(one.shape, other.shape, strict=True)):
        if n != m:  # what is made for each sample, such as an initial state
            first, second = one.narrow(axis, 0, 1), other.narrow(axis, 0, 1)
            if one.is_floating_point() and not torch.equal(one, first.expand_as(one)):
                return False  # it tells the samples apart by their places
            one, other = first, second
    return torch.equal(one, other)


def _fold_recorded(records: Sequence[Record]) -> None:
    """Fold batch normalisations into the affine steps that feed them alone, or they feed alone."""
    makers = {index: record for record in records for index in record.outputs}
    users = Counter(index for record in records for index in record.inputs)
    for record in records:
        before = makers.get(record.inputs[0]) if record.inputs else None
        if before is None or users[record.inputs[0]] > 1 or len(before.outputs) > 1:
            continue
        one, other = before.step, record.step
        if isinstance(other.layer, _BATCH_NORM) and not one.merged:
            other.merged = _fold_back(one, other)
        elif isinstance(one.layer, _BATCH_NORM) and not one.merged:
            one.merged = _fold_forward(one, other)


def make_step(name: str, layer: Any, entry: Entry | None, epsilon: float) -> Step:
    """Return the step of a layer or a function, without its rule."""
    assert entry is not None
    step = Step(name, layer, entry.handler, entry.kind, epsilon=epsilon)
    if isinstance(layer, _BATCH_NORM):
        step.weight, step.bias = _batch_norm_affine(step)
    elif isinstance(layer, _WEIGHTED):
        step.weight = layer.weight.detach()
        step.bias = None if layer.bias is None else layer.bias.detach()
    return step


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
    resolved = composite.resolve([(step.name, step.layer, step.kind or "") for step in weighted])
    for step, rule in zip(weighted, resolved, strict=True):
        step.first = step is weighted[0]
        if step.first:
            rule = with_bounds(rule, bounds)
        step.rule, step.epsilon = rule, rule.resolve_epsilon(epsilon)
        known = bounds is not None or _has_bounds(weighted[0].rule)
        if isinstance(rule, ZBox) and not known and not _has_bounds(rule):
            problem = (
                f"The z-box rule on layer {step.name!r} needs the bounds of the input; pass "
                "ZBox(low=..., high=...), or explain a classifier of this package, which "
                "remembers them."
            )
            if strict:
                raise ValueError(problem)
            _warn(problem)
    if isinstance(resolved[0], Flat) and weighted[0].kind == "dense":
        _warn(
            f"The flat rule on the dense first layer {weighted[0].name!r} gives every input the "
            "same relevance, whatever the network learned; use 'epsilon', 'w_square' or 'z_box' "
            "there."
        )
    last = weighted[-1].weight
    one_output = last is not None and len(last) == 1
    if not strict and one_output and all(map(_is_z_plus, resolved)):
        _warn(
            "The z-plus rule on every layer of a network with one output looks at what speaks for "
            "a large output alone, whatever the output's sign: on regression it hides what speaks "
            "against it; use 'epsilon' on the dense layers."
        )


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=6)


def _is_z_plus(rule: Rule) -> bool:
    return isinstance(rule, ZPlus) or (isinstance(rule, AlphaBeta) and rule.beta == 0)


def _has_bounds(rule: Rule) -> bool:
    return isinstance(rule, ZBox) and rule.low is not None and rule.high is not None


def _leaves(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers of nested ``nn.Sequential`` in execution order."""
    check_hooks(module, path)
    if isinstance(module, nn.Sequential) and runs_as(module, nn.Sequential):
        for name, child in get_children(module).items():
            if child is not None:
                yield from _leaves(child, f"{path}.{name}" if path else name)
    else:
        yield path, module


def _batch_norm_affine(step: Step) -> tuple[Tensor, Tensor]:
    """Return scale and shift of a batch normalisation in evaluation mode."""
    layer: Any = step.layer
    if layer.running_mean is None or layer.running_var is None:
        raise TypeError(
            f"Relevance through {type(layer).__name__} {step.name!r} is not supported: it keeps "
            "no running statistics, so a sample's output depends on its batch; set "
            "track_running_stats=True."
        )
    return scale_and_shift(layer)


def _fold_back(affine: Step, norm: Step) -> bool:
    """Fold a batch normalisation into the affine step before it, on copies."""
    if not _share_channels(affine, norm, axis=0):
        return False
    behind = (1,) * (affine.weight.dim() - 2)
    if isinstance(affine.layer, _AFFINE):
        affine.weight = affine.weight * norm.weight.reshape(-1, 1, *behind)
    else:  # transposed: inputs first, those of all groups, then the outputs of one group
        groups = affine.layer.groups
        scale = norm.weight.reshape(groups, 1, -1, *behind)
        affine.weight = (affine.weight.unflatten(0, (groups, -1)) * scale).flatten(0, 1)
    affine.bias = norm.bias if affine.bias is None else affine.bias * norm.weight + norm.bias
    affine.folded = True
    return True


def _fold_forward(norm: Step, affine: Step) -> bool:
    """Fold a batch normalisation into the affine step after it, unless padding is between."""
    layer: Any = affine.layer
    if not isinstance(layer, _AFFINE):
        return False
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
    layer: Any = affine.layer
    if not isinstance(layer, _WEIGHTED) or not isinstance(norm.layer, _BATCH_NORM):
        return False
    is_affine = isinstance(layer, _AFFINE)
    n_channels = affine.weight.shape[axis] if is_affine else layer.out_channels
    return (
        isinstance(norm.layer, _NORM_OF[affine.weight.dim()])
        and n_channels == norm.weight.shape[0]
    )
