"""Explaining a bare network on all samples: prepare the call, share the chunks, join what comes.

The classifiers and :mod:`sklrp.propagation.explaining` call :func:`explain_network`.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from joblib import effective_n_jobs
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from tqdm.std import tqdm

from sklrp._checks import check_flags, check_jobs, check_number
from sklrp._model_parts import without_wrapper
from sklrp._outputs import split_key
from sklrp._warnings import hold_warnings, warn_user
from sklrp._workers import run_on_workers
from sklrp.propagation.bounds import bound
from sklrp.propagation.chunk import PreparedCall
from sklrp.propagation.compilation import compile_plan
from sklrp.propagation.defence import Defence
from sklrp.propagation.details import Details, LayerDetails, LayerList
from sklrp.propagation.inputs import Inputs, Intake, is_floating
from sklrp.propagation.known_networks import forget, remember
from sklrp.propagation.layer_outputs import (
    AskedLayer,
    LayerArrays,
    find_values,
    read_layers,
)
from sklrp.propagation.plans import Plan
from sklrp.propagation.probing import Probe
from sklrp.propagation.references import check_reference, find_at_target, read_reference
from sklrp.propagation.results import DetailArrays, Layout, Results
from sklrp.propagation.sizes import Sizes, find_sizes, measure
from sklrp.propagation.targets import Function, Target, WeightedSum, decode_target
from sklrp.rules import ZBox


class Budget(NamedTuple):
    """What a chunk may take, in bytes.

    Attributes
    ----------
    tensor : int
        The largest tensor: it stays within the caches of a CPU, and far below a GPU's memory.
    chunk : int
        All that is held for the way back, where a chunk has more than a few samples.
    step : int
        What the chunk's steps hold on average at least, whatever the other two say: a step costs
        the same calls of Python for few samples as for many.
    """

    tensor: int
    chunk: int
    step: int


_BUDGETS = {
    "cpu": Budget(4 * 2**20, 48 * 2**20, 7 * 2**16),
    "cuda": Budget(256 * 2**20, 4 * 2**30, 16 * 2**20),
}

# Chunks of so few samples are not cut: what fewer would save, they would cost in time.
_FEW_ROWS = 16

# So few maps are checked when they are explained: other runs beforehand would take longer.
_FEW_MAPS = 16

# On how many copies of a sample a network is probed; the first chunk is to have another number.
_PROBED = 2

# Products of single states, of which a recurrence over many steps consists, are slow for few. It
# looks back at some steps at a time, so that fewer tensors of all steps are held at once.
_RECURRENT_ROWS, _RECURRENT_BUDGETS = 256, 3


def explain_network(
    module: nn.Module,
    X: Any,
    *,
    target: Any,
    rule: Any,
    epsilon: float,
    contrast: bool,
    batch_size: int | None,
    n_jobs: int | None,
    progress: bool,
    return_details: bool,
    check: bool | str = "auto",
    layers: Any = None,
    reference: Any = None,
    out: Any = None,
    classes: np.ndarray | None = None,
    bounds: tuple[float, float] | None = None,
    finite: bool = False,
    layout: Layout | None = None,
) -> Any:
    """Explain a bare network; see :func:`explain`.

    Parameters
    ----------
    module : nn.Module
        The network.
    X : array-like or Tensor of shape (n_samples, ...), tuple or dict of them
        The input, as the network takes it.
    target, rule, epsilon, contrast, batch_size, n_jobs, progress, return_details : object
        As in :func:`explain`.
    check : bool or "auto", default="auto"
        As in :func:`explain`.
    layers : list of str or None, default=None
        As in :func:`explain`; unless None, the details are returned.
    reference : "zero", float, array-like or None, default=None
        As in :func:`explain`.
    out : array, tuple or dict of them, or None, default=None
        As in :func:`explain`.
    classes : ndarray of shape (n_outputs,) or None, default=None
        The labels of the outputs; None if targets are given, and told, as indices of outputs.
    bounds : (low, high) or None, default=None
        The bounds of ``X`` for z-box rules that have none of their own.
    finite : bool, default=False
        Whether ``X`` has been checked for NaN.
    layout : Layout or None, default=None
        How an estimator returns relevance; None returns it as ``X`` is.

    Returns
    -------
    ndarray or Tensor, or (relevance, details)
        As in :func:`explain`.
    """
    check_flags(contrast=contrast, progress=progress, return_details=return_details)
    check = _check_settings(epsilon, n_jobs, check, batch_size)
    module = without_wrapper(module)
    named = read_layers(layers, module)
    if reference is not None:
        check_reference(reference, has_mean=False)
    return_details = bool(return_details) or layers is not None
    asked = target
    key, target = split_key(target) if classes is None else (None, target)
    inputs = Inputs(X, finite)
    intake = Intake.of(module, inputs)
    jobs = effective_n_jobs(n_jobs) if intake.device.type == "cpu" else 1
    with plain_arithmetic(intake.device):
        prepare = partial(
            _prepare_call, module, inputs, intake, named, target=target, rule=rule,
            epsilon=float(epsilon), contrast=bool(contrast), batch_size=batch_size, jobs=jobs,
            details=return_details, check=check, reference=reference, classes=classes,
            bounds=bounds, key=key,
        )  # fmt: skip
        attempts = _attempts(prepare, inputs, module if jobs == 1 else None)
        ready = next(attempts)
        axis = ready.axis
        results = Results(inputs, axis, intake.dtype, layout, out)
        ready, first = _begin(chain([ready], attempts), inputs)
        if ready.axis != axis:  # the network has other outputs than in an earlier call
            results = Results(inputs, ready.axis, intake.dtype, layout, out)
        plan, target, at_zero = ready.call.plan, ready.target, ready.at_zero
        every = bool(ready.axis)
        at_layers = LayerArrays(inputs.n_samples, every, inputs.floating_dtype(intake.dtype))
        kept = DetailArrays(inputs.n_samples, ready.n_targets, len(plan.steps), every)
        chunks = chain(first, _explain_chunks(ready, inputs, len(first), n_jobs, module))
        try:
            _put_chunks(ready.spans, chunks, results, at_layers, kept, bool(progress))
        except Exception:
            with suppress(Exception):  # the first error is what counts
                results.finish()  # what waits for the rest of its chunk is found already
            raise
        results.finish()
        remember(module, plan.origin, plan.varies)
    if not return_details:
        return results.relevance
    details = _make_details(plan, kept, at_layers.by_name)
    if at_zero is not None:
        at_zero = at_zero[details.target] if target is None else at_zero
        details.refer_to(at_zero, -at_zero)
    _name_target(details, asked, classes)
    return results.relevance, details


@dataclass(frozen=True)
class Ready:
    """A call of which all is known but the relevance.

    Attributes
    ----------
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
    jobs : int
        How many workers share them.
    warnings : tuple
        What is to be warned of if it is done so.
    """

    call: PreparedCall
    target: Any
    axis: tuple[int, ...]
    at_zero: NDArray[np.float64] | None
    spans: list[slice]
    jobs: int
    warnings: tuple[Any, ...] = ()

    @property
    def n_targets(self) -> int:
        """How many maps each sample has."""
        return math.prod(self.axis)

    def tasks(self, inputs: Inputs) -> Iterator[tuple[Any, Any, bool]]:
        """Yield the samples of each chunk, their target, and whether it is the first."""
        for span in self.spans:
            own = self.target[span] if isinstance(self.target, np.ndarray) else self.target
            yield inputs.take(span), own, span.start == 0


def _prepare_call(
    module: nn.Module, inputs: Inputs, intake: Intake, named: tuple[AskedLayer, ...], *,
    target: Any, rule: Any, epsilon: float, contrast: bool, batch_size: int | None,
    jobs: int, details: bool, check: bool | str, reference: Any,
    classes: np.ndarray | None, bounds: Any, key: str | None, once: bool = False,
) -> Ready:  # fmt: skip
    """Compile the network, decode the target and share the samples among chunks."""
    watched = frozenset(path for layer in named for path in layer.paths)
    probe = Probe(inputs, intake, once, recalls=jobs == 1)
    plan = _prepare_plan(module, rule, epsilon, bounds, probe, key, watched)
    sizes = _find_sizes(plan, inputs, intake, named)
    shape = sizes.shape
    n_outputs = math.prod(shape)
    target = decode_target(target, classes, inputs.n_samples, shape)
    if contrast:
        _check_contrast(target, shape, reference)
    at_zero = None if reference is None else _refer(reference, shape, target, inputs.n_samples)
    axis = (n_outputs,) if isinstance(target, str) else ()
    n_targets = math.prod(axis)
    # A probe has held as many samples as a first chunk of more than it, but one target.
    smallest = 1 if batch_size is None and n_targets == 1 else _PROBED + 1
    if batch_size is None:
        batch_size = _choose_batch_size(plan, intake, sizes, n_targets)
        batch_size = min(batch_size, -(-inputs.n_samples // jobs))
    few = (
        jobs == 1 and inputs.n_samples <= batch_size and inputs.n_samples * n_targets <= _FEW_MAPS
    )
    trusted = plan.origin.is_trusted  # as it is of later chunks
    begins = plan.origin.once and not few and not trusted and batch_size >= smallest
    spans = _cut(inputs.n_samples, int(batch_size), _PROBED + 1 if begins else 0)
    defence = Defence(plan, intake, check)
    defence = replace(defence, at_once=(few or begins or trusted) and defence.needs_probe)
    call = PreparedCall(plan, intake, contrast, details, defence, n_outputs, named)
    return Ready(call, target, axis, at_zero, spans, jobs)


def _prepare_quickly(prepare: Callable[..., Ready], inputs: Inputs) -> Ready | None:
    """Return a call whose network was probed once, if the first chunk can tell the rest."""
    # Other integers are for probes to find, two samples are as many as the probe has, and of the
    # same sample more than one tell nothing.
    many = inputs.n_samples > _PROBED and all(map(is_floating, inputs.arrays))
    if many and any(bool((a[0] != a[1]).any()) for a in inputs.take([0, _PROBED])):
        ready = prepare(once=True)
        if not ready.call.plan.origin.once or ready.spans[0].stop > _PROBED:
            return ready
    return None


def _attempts(
    prepare: Callable[..., Ready], inputs: Inputs, module: nn.Module | None
) -> Iterator[Ready]:
    """Yield a call as it is prepared; the next is for where the one before proves wrong.

    Parameters
    ----------
    prepare : callable
        What prepares it.
    inputs : Inputs
        All samples.
    module : nn.Module or None
        The network, of which earlier calls may know something; None for several workers.

    Yields
    ------
    Ready
        The call: of what earlier calls know, of one probe, and of two.
    """
    ways: list[Callable[[], Ready | None]] = [prepare]
    if module is not None:
        ways.insert(0, partial(_prepare_quickly, prepare, inputs))
    for way in ways:
        for _ in range(2):  # what an earlier call knows may hold no more
            ready, held, error = _run_way(way)
            if ready is not None:
                yield replace(ready, warnings=held)
            is_recalled = ready is not None and ready.call.plan.origin.recalled
            has_forgotten = module is not None and (is_recalled or error) and forget(module)
            if not (is_recalled or has_forgotten):  # another thread may have forgotten it before
                break
        if error is not None and way is prepare:  # in doubt two probes decide
            _warn(held)
            raise error


def _run_way(way: Callable[[], Ready | None]) -> tuple[Ready | None, Any, Exception | None]:
    """Return a call, the warnings that came with it, and what was raised in its place."""
    with hold_warnings() as held:
        try:
            return way(), held, None
        except Exception as error:
            return None, held, error


def _begin(attempts: Iterable[Ready], inputs: Inputs) -> tuple[Ready, list[Any]]:
    """Check a call on few samples, and explain the first chunk if it is to confirm the plan."""
    few = [0, -1] if inputs.n_samples > 1 else [0, 0]

    def check(call: PreparedCall) -> None:
        if call.defence.needs_probe and not call.defence.at_once:
            call.check(inputs.take(few))

    for ready in attempts:
        plan = ready.call.plan
        if not plan.origin.is_tentative:
            break
        with suppress(Exception):
            check(ready.call)
            first = ready.call.explain(*next(ready.tasks(inputs)))
            if plan.origin.once and not plan.origin.is_trusted and len(ready.spans) > 1:
                # The largest value or the last step may stand at the end.
                ready.call.check(inputs.take([-1]), alone=True)
            known = plan.origin.known
            if plan.origin.recalled and known is not None and plan.varies != known.varies:
                continue  # weights that forward computes are others now
            _warn(ready.warnings)
            return ready, [first]
    _warn(ready.warnings)
    check(ready.call)
    return ready, []


def _warn(held: Iterable[Any]) -> None:
    """Pass on warnings that were held back."""
    for warning in held:
        warn_user(*warning)


def _name_target(details: Details, asked: Any, classes: np.ndarray | None) -> None:
    """Say in details what was explained: labels if the outputs have some, else as asked."""
    if details.target is None:
        details.target = asked
    elif classes is not None:
        details.target = classes[details.target]


def _check_settings(epsilon: Any, n_jobs: Any, check: Any, batch_size: Any) -> bool | str:
    """Return `check` in one form, if it and the numbers are what they may be."""
    check_number("epsilon", epsilon, minimum=0.0)
    check_jobs(n_jobs)
    if not (isinstance(check, bool | np.bool_) or (isinstance(check, str) and check == "auto")):
        raise ValueError(f"check must be 'auto', True or False, got {check!r}.")
    if batch_size is not None:
        check_number("batch_size", batch_size, minimum=1, integral=True)
    return check if isinstance(check, str) else bool(check)


def _put_chunks(
    spans: Sequence[slice],
    chunks: Iterable[tuple[Any, dict[str, Any] | None]],
    results: Results,
    at_layers: LayerArrays,
    kept: DetailArrays,
    progress: bool,
) -> None:
    """Write relevance and details where they belong, chunk by chunk, as they are found."""
    n_samples = spans[-1].stop
    with tqdm(total=n_samples, unit="sample", desc="explain", disable=not progress) as bar:
        for span, (parts, found) in zip(spans, chunks, strict=True):
            results.put(span, parts)
            if found is not None:
                at_layers.put(span, found.pop("outputs"))
                kept.put(span, found)
            bar.update(span.stop - span.start)


def _refer(
    reference: Any, shape: tuple[int, ...], target: Target, n_samples: int
) -> NDArray[np.float64]:
    """Return the score that a map of zeros stands for; of each output for predicted ones."""
    values = read_reference(reference, shape)
    return values.ravel() if target is None else find_at_target(values, target, n_samples)


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


@contextmanager
def plain_arithmetic(device: torch.device) -> Iterator[None]:
    """Compute without autograd and in the network's own precision, whatever the caller's modes."""
    autocast = torch.autocast(device.type, enabled=False)
    with torch.inference_mode(False), torch.no_grad(), autocast:
        yield


def _prepare_plan(
    module: nn.Module, rule: Any, epsilon: float, bounds: Any, probe: Probe, key: str | None,
    watched: frozenset[str],
) -> Plan:  # fmt: skip
    """Compile the network, and find what does not depend on the samples: sizes and bounds."""
    inputs, intake = probe.inputs, probe.intake
    plan = compile_plan(module, rule, epsilon, bounds, probe, key=key, watched=watched)
    if plan.sizes is None and inputs.single and not plan.tail:
        plan.sizes = find_sizes(plan.steps, tuple(inputs.arrays[0].shape[1:]))
    if plan.lacks_boxes:
        _find_boxes(plan, bounds, inputs, intake)
    return plan


def _find_sizes(plan: Plan, inputs: Inputs, intake: Intake, named: Sequence[AskedLayer]) -> Sizes:
    """Return the sizes of the values of one sample."""
    if plan.sizes is not None and not named:
        return plan.sizes
    alone = plan.run(*intake.to_signals(inputs.take(slice(1))))
    find_values(named, alone)  # what cannot be given is refused before anything is explained
    return plan.sizes or measure(alone)


def _find_boxes(plan: Plan, bounds: Any, inputs: Inputs, intake: Intake) -> None:
    """Find the bounds that follow, for z-box rules, from those of the network's input."""
    tensors = [intake.to_tensor(part) for part in inputs.take([0, 0])]
    firsts = [
        step.rule if isinstance(step.rule, ZBox) else None for step in plan.steps if step.first
    ]
    found: dict[int, Any] = {}
    # Layers that see the input first may each have bounds of their own for it.
    for rule in dict.fromkeys(firsts):
        ends = bounds if rule is None else (rule.low, rule.high)
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


def _choose_batch_size(plan: Plan, intake: Intake, sizes: Sizes, n_targets: int) -> int:
    """Return how many samples a chunk is to have."""
    budget = _BUDGETS["cpu" if intake.device.type == "cpu" else "cuda"]
    # Relevance of all targets lies side by side.
    largest = sizes.largest * n_targets * intake.dtype.itemsize
    batch_size = budget.tensor // largest
    if any(step.kind == "recurrent" for step in plan.steps):
        more = min(_RECURRENT_ROWS, _RECURRENT_BUDGETS * budget.tensor // largest)
        return max(1, batch_size, more)
    # Most is held where the way back begins, beside what arrives at a step and what it passes.
    held = sizes.count_held(plan.steps) * intake.dtype.itemsize + 2 * largest
    batch_size = min(batch_size, max(budget.chunk // held, _FEW_ROWS))
    # The first chunk of a network with a forward of its own has as many samples anyway.
    few = _PROBED + 1 if plan.twins is not None and n_targets == 1 else 1
    return max(few, batch_size, budget.step * len(plan.steps) // held)


def _cut(n_samples: int, batch_size: int, n_first: int) -> list[slice]:
    """Return chunks of nearly one size, so that none is too small to compute alike."""
    # But for the first, if it is to be checked as a whole: its samples are few.
    rest = np.arange(n_first, n_samples)
    chunks = np.array_split(rest, -(-len(rest) // batch_size)) if len(rest) else []
    spans = [slice(int(chunk[0]), int(chunk[-1]) + 1) for chunk in chunks]
    return [slice(0, n_first), *spans] if n_first else spans


def _explain_chunks(
    ready: Ready, inputs: Inputs, n_done: int, n_jobs: int | None, module: nn.Module
) -> Iterator[Any]:
    """Yield the relevance and the details of each chunk that is not done, in order."""
    call, tasks = ready.call, islice(ready.tasks(inputs), n_done, None)
    if ready.jobs == 1:
        return (call.explain(*task) for task in tasks)
    # Parametrized modules, such as those with weight norm, cannot be sent to a process.
    shared = "sharedmem" if any(map(is_parametrized, module.modules())) else None
    n_threads = max(1, (os.cpu_count() or 1) // ready.jobs)
    return run_on_workers(
        _explain_in_worker, call, ((*task, n_threads) for task in tasks), n_jobs, require=shared
    )


def _explain_in_worker(
    call: PreparedCall, chunk: Any, target: Any, is_first: bool, n_threads: int
) -> Any:
    # A worker thread brings OpenMP threads of its own: they are limited for that thread alone.
    in_thread = threading.current_thread() is not threading.main_thread()
    torch.get_num_threads()
    limits = threadpool_limits(n_threads, user_api="openmp") if in_thread else nullcontext()
    with limits, plain_arithmetic(call.intake.device):
        return call.explain(chunk, target, is_first)


def _make_details(plan: Plan, kept: DetailArrays, at_layers: dict[str, np.ndarray]) -> Details:
    """Return the details of all samples, with the indices of the outputs that are explained."""
    kept.finish()
    layers = [
        LayerDetails(name=step.name, layer=step.label, rule=step.rule, **arrays)
        for step, arrays in zip(plan.steps, kept.layers, strict=True)
    ]
    return Details(
        score=kept.score, target=kept.target, rest=kept.rest, head=plan.head,
        layers=LayerList(layers, at_layers), layer_relevance=at_layers,
    )  # fmt: skip
