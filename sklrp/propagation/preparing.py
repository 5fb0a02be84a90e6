"""Preparing a call: the network compiled, the target decoded, the samples shared among chunks.

:mod:`.run` says what is asked by a :class:`Request`, and is given a :class:`Ready`. A network with
a forward of its own is tried in the quickest way first: by what earlier calls know of it, by one
probe, by two. :func:`begin` lets few samples, or the first chunk, tell whether a way was right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sklrp._warnings import hold_warnings, warn_user
from sklrp.propagation.bounds import bound
from sklrp.propagation.chunk import PreparedCall
from sklrp.propagation.compilation import compile_plan
from sklrp.propagation.defence import Defence
from sklrp.propagation.inputs import Inputs, Intake, is_floating
from sklrp.propagation.known_networks import forget
from sklrp.propagation.layer_outputs import AskedLayer, find_values
from sklrp.propagation.plans import Plan
from sklrp.propagation.probing import Probe
from sklrp.propagation.references import find_at_target, read_reference
from sklrp.propagation.sizes import Sizes, find_sizes, fit_batch_size, measure
from sklrp.propagation.targets import Function, Target, WeightedSum, decode_target
from sklrp.rules import ZBox

# So few maps are checked when they are explained: other runs beforehand would take longer.
_FEW_MAPS = 16

# On how many copies of a sample a network is probed; the first chunk is to have another number.
_PROBED = 2


@dataclass(frozen=True)
class Request:
    """What is asked of a network.

    Attributes
    ----------
    module : nn.Module
        The network.
    inputs : Inputs
        All samples.
    intake : Intake
        How the network takes them.
    jobs : int
        How many workers share the chunks.
    rule, epsilon, contrast, batch_size, check, reference : object
        As in :func:`sklrp.explain`.
    target : object
        What is explained, as it was given, but for the name of an output.
    key : str or None
        The name of the output that is explained.
    classes : ndarray of shape (n_outputs,) or None
        The labels of the outputs.
    bounds : (low, high) or None
        The bounds of the input for z-box rules that have none of their own.
    layers : tuple of AskedLayer
        The layers at whose outputs relevance is asked for.
    details : bool
        Whether to tell where relevance went.
    """

    module: nn.Module
    inputs: Inputs
    intake: Intake
    jobs: int
    _: KW_ONLY
    rule: Any
    epsilon: float
    contrast: bool
    batch_size: int | None
    check: bool | str
    reference: Any
    target: Any
    key: str | None
    classes: NDArray[Any] | None
    bounds: tuple[Any, Any] | None
    layers: tuple[AskedLayer, ...]
    details: bool


@dataclass(frozen=True)
class Ready:
    """A call of which all is known but the relevance.

    Attributes
    ----------
    request : Request
        What was asked.
    call : PreparedCall
        What all chunks share.
    target : object
        What is explained, decoded.
    axis : tuple of int
        The length of the axis of targets, if there is one.
    at_zero : ndarray or None
        The score that a map of zeros stands for.
    spans : list of slice
        The chunks.
    warnings : tuple
        What is to be warned of if it is done so.
    """

    request: Request
    call: PreparedCall
    target: Any
    axis: tuple[int, ...]
    at_zero: NDArray[np.float64] | None
    spans: list[slice]
    warnings: tuple[Any, ...] = ()

    @property
    def n_targets(self) -> int:
        """How many maps each sample has."""
        return math.prod(self.axis)

    def tasks(self) -> Iterator[tuple[Any, Any, bool]]:
        """Yield the samples of each chunk, their target, and whether it is the first."""
        for span in self.spans:
            own = self.target[span] if isinstance(self.target, np.ndarray) else self.target
            yield self.request.inputs.take(span), own, span.start == 0


def attempt(request: Request) -> Iterator[Ready]:
    """Yield a call as it is prepared; the next is for where the one before proves wrong.

    Parameters
    ----------
    request : Request
        What is asked.

    Yields
    ------
    Ready
        The call: of what earlier calls know, of one probe, and of two.
    """
    may_know = request.jobs == 1  # what earlier calls found is not sent to workers
    ways: list[Callable[[], Ready | None]] = [partial(_prepare_call, request)]
    if may_know:
        ways.insert(0, partial(_prepare_quickly, request))
    for way in ways:
        for _ in range(2):  # what an earlier call knows may hold no more
            ready, held, error = _run_way(way)
            if ready is not None:
                yield replace(ready, warnings=held)
            is_recalled = ready is not None and ready.call.plan.origin.recalled
            has_forgotten = may_know and (is_recalled or error) and forget(request.module)
            if not (is_recalled or has_forgotten):  # another thread may have forgotten it before
                break
        if error is not None and way is ways[-1]:  # in doubt two probes decide
            _warn(held)
            raise error


def _run_way(way: Callable[[], Ready | None]) -> tuple[Ready | None, Any, Exception | None]:
    """Return a call, the warnings that came with it, and what was raised in its place."""
    with hold_warnings() as held:
        try:
            return way(), held, None
        except Exception as error:
            return None, held, error


def begin(attempts: Iterable[Ready]) -> tuple[Ready, list[Any]]:
    """Check a call on few samples, and explain the first chunk if it is to confirm the plan.

    Parameters
    ----------
    attempts : iterable of Ready
        The call as it is prepared, in one way after the other.

    Returns
    -------
    ready : Ready
        The call in the way that proved right.
    first : list
        What the first chunk gave; empty if it is not explained.
    """
    for ready in attempts:
        origin, inputs = ready.call.plan.origin, ready.request.inputs
        if not origin.is_tentative:
            break
        with suppress(Exception):
            _check_few(ready)
            first = ready.call.explain(*next(ready.tasks()))
            if origin.once and not origin.is_trusted and len(ready.spans) > 1:
                # The largest value or the last step may stand at the end.
                ready.call.check(inputs.take([-1]), alone=True)
            known = origin.known
            if origin.recalled and known is not None and ready.call.plan.varies != known.varies:
                continue  # weights that forward computes are others now
            _warn(ready.warnings)
            return ready, [first]
    _warn(ready.warnings)
    _check_few(ready)
    return ready, []


def _check_few(ready: Ready) -> None:
    """Check a call on two samples, unless its first chunk is what is checked."""
    call, inputs = ready.call, ready.request.inputs
    if call.defence.needs_probe and not call.defence.at_once:
        call.check(inputs.take([0, -1] if inputs.n_samples > 1 else [0, 0]))


def _warn(held: Iterable[Any]) -> None:
    """Pass on warnings that were held back."""
    for warning in held:
        warn_user(*warning)


def _prepare_quickly(request: Request) -> Ready | None:
    """Return a call whose network was probed once, if the first chunk can tell the rest."""
    # Other integers are for probes to find, two samples are as many as the probe has, and of the
    # same sample more than one tell nothing.
    inputs = request.inputs
    many = inputs.n_samples > _PROBED and all(map(is_floating, inputs.arrays))
    if many and any(bool((a[0] != a[1]).any()) for a in inputs.take([0, _PROBED])):
        ready = _prepare_call(request, once=True)
        if not ready.call.plan.origin.once or ready.spans[0].stop > _PROBED:
            return ready
    return None


def _prepare_call(request: Request, once: bool = False) -> Ready:
    """Compile the network, decode the target and share the samples among chunks."""
    intake, n_samples = request.intake, request.inputs.n_samples
    plan = _prepare_plan(request, once)
    sizes = _find_sizes(plan, request)
    target = decode_target(request.target, request.classes, n_samples, sizes.shape)
    if request.contrast:
        _check_contrast(target, sizes.shape, request.reference)
    at_zero = _find_at_zero(request, sizes.shape, target)
    n_outputs = math.prod(sizes.shape)
    axis = (n_outputs,) if isinstance(target, str) else ()
    spans, defence = _share_samples(request, plan, sizes, math.prod(axis))
    call = PreparedCall(
        plan, intake, request.contrast, request.details, defence, n_outputs, request.layers
    )
    return Ready(request, call, target, axis, at_zero, spans)


def _prepare_plan(request: Request, once: bool) -> Plan:
    """Compile the network, and find what does not depend on the samples: sizes and bounds."""
    inputs = request.inputs
    plan = compile_plan(
        request.module, request.rule, request.epsilon, request.bounds,
        Probe(inputs, request.intake, once, recalls=request.jobs == 1), key=request.key,
        watched=frozenset(path for layer in request.layers for path in layer.paths),
    )  # fmt: skip
    if plan.twins is None:
        _check_one_input(inputs)
    if plan.sizes is None and inputs.single and not plan.tail:
        plan.sizes = find_sizes(plan.steps, tuple(inputs.arrays[0].shape[1:]))
    if plan.lacks_boxes:
        _find_boxes(plan, request)
    return plan


def _check_one_input(inputs: Inputs) -> None:
    """Refuse several inputs of a chain of layers, or one by another name than torch's."""
    names = inputs.names or ["input"]  # torch's layers and nn.Sequential call it so
    if len(inputs.arrays) > 1 or names != ["input"]:
        raise TypeError(
            f"X must be one array, which is what an nn.Sequential or a layer takes, got "
            f"{', '.join(inputs.labels)}; of batches with labels pass the samples alone, "
            "(batch[0] for batch in X)."
        )


def _find_boxes(plan: Plan, request: Request) -> None:
    """Find the bounds that follow, for z-box rules, from those of the network's input."""
    intake = request.intake
    tensors = [intake.to_tensor(part) for part in request.inputs.take([0, 0])]
    firsts = [
        step.rule if isinstance(step.rule, ZBox) else None for step in plan.steps if step.first
    ]
    found: dict[int, Any] = {}
    # Layers that see the input first may each have bounds of their own for it.
    for rule in dict.fromkeys(firsts):
        ends = request.bounds if rule is None else (rule.low, rule.high)
        corners = [_corners_of(x, ends, alone=len(tensors) == 1) for x in tensors]
        plan.find_boxes(*intake.to_signals(corners), of_first=rule)
        for step in plan.steps:
            if not step.first or step.rule == rule:
                found.setdefault(id(step), step.box)
    for step in plan.steps:
        step.box = found.get(id(step))


def _corners_of(x: Tensor, ends: tuple[Any, Any] | None, alone: bool) -> Tensor:
    """Return the two corners of the box that an input lies in, NaN if it is not known."""
    if not x.is_floating_point():
        return x
    try:
        return torch.cat([bound(end, x).expand_as(x[:1]) for end in ends or (np.nan, np.nan)])
    except ValueError:
        if alone:
            raise
        # The bounds are of another input.
        return x.new_full(x.shape, torch.nan)


def _find_sizes(plan: Plan, request: Request) -> Sizes:
    """Return the sizes of the values of one sample."""
    if plan.sizes is not None and not request.layers:
        return plan.sizes
    alone = plan.run(*request.intake.to_signals(request.inputs.take(slice(1))))
    find_values(request.layers, alone)  # what cannot be given is refused before all else
    return plan.sizes or measure(alone)


def _check_contrast(target: Target, shape: tuple[int, ...], reference: Any) -> None:
    """Refuse a contrast where no other outputs are rivals of the explained one."""
    if reference is not None:
        raise ValueError(
            "contrast=True explains the difference of two outputs, whose reference is zero: leave "
            f"reference={reference!r} out."
        )
    if math.prod(shape) < 2:
        raise ValueError("contrast=True needs a network of at least two outputs, got one.")
    if len(shape) > 1 or isinstance(target, WeightedSum | Function):
        raise ValueError(
            "contrast=True subtracts the largest of the other scores, of a network with an output "
            f"of shape (n_samples, n_classes), for one of them; here the output has the shape "
            f"{shape}, or several outputs make the score. Say the difference by a function, such "
            "as target=lambda output: output[:, 1] - output[:, 0]."
        )


def _find_at_zero(
    request: Request, shape: tuple[int, ...], target: Target
) -> NDArray[np.float64] | None:
    """Return the score that a map of zeros stands for; of each output for predicted ones."""
    if request.reference is None:
        return None
    values = read_reference(request.reference, shape)
    if target is None:
        return values.ravel()
    return find_at_target(values, target, request.inputs.n_samples)


def _share_samples(
    request: Request, plan: Plan, sizes: Sizes, n_targets: int
) -> tuple[list[slice], Defence]:
    """Return the chunks, and how they are checked: before all others, or the first as a whole."""
    n_samples, intake = request.inputs.n_samples, request.intake
    batch_size, smallest = request.batch_size, _PROBED + 1
    if batch_size is None:
        # A probe has held as many samples as a first chunk of more than it, but one target.
        if n_targets == 1:
            smallest = 1
        fewest = _PROBED + 1 if plan.twins is not None and n_targets == 1 else 1
        batch_size = fit_batch_size(sizes, plan.steps, intake, n_targets, fewest)
        batch_size = min(batch_size, -(-n_samples // request.jobs))
    trusted = plan.origin.is_trusted  # as it is of later chunks
    few = request.jobs == 1 and n_samples <= batch_size and n_samples * n_targets <= _FEW_MAPS
    begins = plan.origin.once and not few and not trusted and batch_size >= smallest
    defence = Defence(plan, intake, request.check)
    at_once = (few or begins or trusted) and defence.needs_probe
    spans = _cut(n_samples, int(batch_size), _PROBED + 1 if begins else 0)
    return spans, replace(defence, at_once=at_once)


def _cut(n_samples: int, batch_size: int, n_first: int) -> list[slice]:
    """Return chunks of nearly one size, so that none is too small to compute alike."""
    # But for the first, if it is to be checked as a whole: its samples are few.
    rest = np.arange(n_first, n_samples)
    chunks = np.array_split(rest, -(-len(rest) // batch_size)) if len(rest) else []
    spans = [slice(int(chunk[0]), int(chunk[-1]) + 1) for chunk in chunks]
    return [slice(0, n_first), *spans] if n_first else spans
