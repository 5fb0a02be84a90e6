"""Explaining a bare network on all samples: share the chunks among workers, join what comes.

The classifiers and :mod:`sklrp.propagation.explaining` call :func:`explain_network`, which has the
call made ready by :mod:`.preparing`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from joblib import effective_n_jobs
from threadpoolctl import threadpool_limits
from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from tqdm.std import tqdm

from sklrp._checks import check_flags, check_jobs, check_number
from sklrp._model_parts import without_wrapper
from sklrp._outputs import split_key
from sklrp._wording import say_value
from sklrp._workers import run_on_workers
from sklrp.propagation.chunk import PreparedCall
from sklrp.propagation.details import Details, LayerDetails, LayerList
from sklrp.propagation.inputs import Inputs, Intake
from sklrp.propagation.known_networks import remember
from sklrp.propagation.layer_outputs import LayerArrays, read_layers
from sklrp.propagation.plans import Plan
from sklrp.propagation.preparing import Ready, Request, attempt, begin
from sklrp.propagation.references import check_reference
from sklrp.propagation.results import DetailArrays, Layout, Results
from sklrp.propagation.uncompiled import UNCOMPILED


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
    key, output = split_key(target) if classes is None else (None, target)
    inputs = Inputs(X, finite)
    intake = Intake.of(module, inputs)
    jobs = effective_n_jobs(n_jobs) if intake.device.type == "cpu" else 1
    request = Request(
        module, inputs, intake, jobs, rule=rule, epsilon=float(epsilon), contrast=bool(contrast),
        batch_size=batch_size, check=check, reference=reference, target=output, key=key,
        classes=classes, bounds=bounds, layers=named, details=return_details,
    )  # fmt: skip
    with plain_arithmetic(intake.device):
        attempts = attempt(request)
        ready = next(attempts)
        axis = ready.axis
        results = Results(inputs, axis, intake.dtype, layout, out)
        ready, first = begin(chain([ready], attempts))
        if ready.axis != axis:  # the network has other outputs than in an earlier call
            results = Results(inputs, ready.axis, intake.dtype, layout, out)
        plan, every = ready.call.plan, bool(ready.axis)
        at_layers = LayerArrays(inputs.n_samples, every, inputs.floating_dtype(intake.dtype))
        kept = DetailArrays(inputs.n_samples, ready.n_targets, len(plan.steps), every)
        chunks = chain(first, _explain_chunks(ready, len(first), n_jobs))
        try:
            _put_chunks(ready, chunks, results, at_layers, kept, bool(progress))
        except Exception:
            with suppress(Exception):  # the first error is what counts
                results.finish()  # what waits for the rest of its chunk is found already
            raise
        results.finish()
        remember(module, plan.origin, plan.varies)
    if not return_details:
        return results.relevance
    details = _make_details(plan, kept, at_layers.by_name)
    at_zero = ready.at_zero
    if at_zero is not None:
        at_zero = at_zero[details.target] if ready.target is None else at_zero
        details.refer_to(at_zero, -at_zero)
    _name_target(details, target, classes)
    return results.relevance, details


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
        raise ValueError(f"check must be 'auto', True or False, got {say_value(check)}.")
    if batch_size is not None:
        check_number("batch_size", batch_size, minimum=1, integral=True)
    return check if isinstance(check, str) else bool(check)


def _put_chunks(
    ready: Ready,
    chunks: Iterable[tuple[Any, dict[str, Any] | None]],
    results: Results,
    at_layers: LayerArrays,
    kept: DetailArrays,
    progress: bool,
) -> None:
    """Write relevance and details where they belong, chunk by chunk, as they are found."""
    # A handler that is not of this package may keep what it returned.
    may_keep = ready.request.jobs == 1 and not ready.call.defence.needs_probe
    n_samples = ready.spans[-1].stop
    with tqdm(total=n_samples, unit="sample", desc="explain", disable=not progress) as bar:
        for span, (parts, found) in zip(ready.spans, chunks, strict=True):
            results.put(span, parts, may_keep)
            if found is not None:
                at_layers.put(span, found.pop("outputs"))
                kept.put(span, found)
            bar.update(span.stop - span.start)


@contextmanager
def plain_arithmetic(device: torch.device) -> Iterator[None]:
    """Compute without autograd and in the network's own precision, whatever the caller's modes."""
    autocast = torch.autocast(device.type, enabled=False)
    with torch.inference_mode(False), torch.no_grad(), autocast, UNCOMPILED:
        yield


def _explain_chunks(ready: Ready, n_done: int, n_jobs: int | None) -> Iterator[Any]:
    """Yield the relevance and the details of each chunk that is not done, in order."""
    call, request, tasks = ready.call, ready.request, islice(ready.tasks(), n_done, None)
    if request.jobs == 1:
        return (call.explain(*task) for task in tasks)
    # Parametrized modules, such as those with weight norm, cannot be sent to a process.
    shared = "sharedmem" if any(map(is_parametrized, request.module.modules())) else None
    n_threads = max(1, (os.cpu_count() or 1) // request.jobs)
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
