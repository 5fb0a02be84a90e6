"""Running a plan on all samples: validation, chunks, workers, details."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed, effective_n_jobs
from sklearn.utils import Bunch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from tqdm.std import tqdm

from sklrp._checks import check_flags, check_jobs, check_number
from sklrp._models import without_wrapper
from sklrp.propagation.inputs import NUMPY_DTYPES, Inputs, is_finite, is_floating
from sklrp.propagation.planning import Plan, compile_plan
from sklrp.propagation.sharing import bound
from sklrp.propagation.tape import CAUSES, Tape
from sklrp.propagation.targets import _check_target
from sklrp.rules import Signal, ZBox

# The largest activation of a chunk stays within the caches of a CPU, and far below a GPU's memory.
_CHUNK_BYTES = {"cpu": 4 * 2**20, "cuda": 256 * 2**20}


# Products of single states, of which a recurrence over many steps consists, are slow for fewer.
_RECURRENT_ROWS = 8


@dataclass
class _Call:
    """What every chunk of one call of :func:`explain` shares; it travels to workers."""

    plan: Plan | None
    names: list[str] | None
    integers: bool
    dtype: torch.dtype
    device: torch.device
    contrast: bool
    details: bool
    bounds: tuple[Any, Any] | None

    def to_tensor(self, chunk: Any) -> Tensor:
        """Return a chunk of an input as the network takes it."""
        dtype = self.dtype if is_floating(chunk) or not self.integers else None
        if not isinstance(chunk, Tensor):  # a copy: never an alias of the user's memory
            kind = chunk.dtype if dtype is None else NUMPY_DTYPES[dtype]
            chunk = torch.from_numpy(np.array(chunk, dtype=kind, order="C"))
        return chunk.detach().to(device=self.device, dtype=dtype)

    def signals(self, chunk: Sequence[Any]) -> tuple[list[Signal], Any, dict[str, Any]]:
        """Return the inputs as signals, and as the arguments of forward."""
        signals = [
            Signal(x) if x.is_floating_point() else Signal(x, gate=True)
            for x in map(self.to_tensor, chunk)
        ]
        if len(signals) == 1 and signals[0].x.is_floating_point():
            signals[0] = self._bounded(signals[0].x)
        if self.names is None:
            return signals, tuple(signals), {}
        return signals, (), dict(zip(self.names, signals, strict=True))

    def _bounded(self, x: Tensor) -> Signal:
        """Return the input as a signal, with its bounds if there is a z-box rule."""
        steps = self.plan.steps if self.plan is not None else []
        rules = [step.rule for step in steps if step.kind is not None]
        if not any(isinstance(rule, ZBox) for rule in rules):
            return Signal(x)
        if isinstance(rules[0], ZBox):
            low, high = rules[0].low, rules[0].high
        elif self.bounds is not None:
            low, high = self.bounds
        else:
            return Signal(x)
        return Signal(x, low=bound(low, x), high=bound(high, x))

    def run(self, chunk: Sequence[Any]) -> Tape:
        """Run the network on a chunk."""
        assert self.plan is not None
        return self.plan.run(*self.signals(chunk))

    def explain(
        self, chunk: Sequence[Any], target: np.ndarray | str | None
    ) -> tuple[list[Tensor], dict[str, Any] | None]:
        """Return the relevance of a chunk's inputs, targets first, and the details."""
        signals, args, kwargs = self.signals(chunk)
        assert self.plan is not None
        tape = self.plan.run(signals, args, kwargs)
        scores = tape.scores
        if not is_finite(scores):
            bad = int((~scores.isfinite()).any(1).sum())
            raise ValueError(
                f"The network's output is NaN or infinite for {bad} of {len(scores)} samples; "
                "look for NaN in its weights, or scale X."
            )
        targets = self._targets(scores, target)
        relevance, score = self._start(scores, targets)
        arrived, layers = tape.pull(relevance, self.details)
        if all(r is None for r in arrived):
            raise ValueError(
                "The network's output does not depend on X in any way that relevance can follow; "
                "there is nothing to explain."
            )
        passed = [
            torch.zeros(len(targets), *s.x.shape, dtype=self.dtype, device=self.device)
            if r is None
            else r
            for r, s in zip(arrived, signals, strict=True)
        ]
        if not all(map(is_finite, passed)):
            raise ValueError(
                "Relevance is not finite: denominators vanish under this rule; use a larger "
                "epsilon, or compute in float64."
            )
        if not self.details:
            return passed, None
        zeros = np.zeros(targets.shape)
        return passed, {
            "score": score.cpu().numpy(),
            "target": targets.cpu().numpy(),
            "layers": [
                (zeros, {})
                if layer is None
                else (layer[0].cpu().numpy(), {k: v.cpu().numpy() for k, v in layer[1].items()})
                for layer in layers
            ],
        }

    def _targets(self, scores: Tensor, target: np.ndarray | str | None) -> Tensor:
        """Return the explained outputs, ``(n_targets, n_samples)``."""
        n_samples, n_outputs = scores.shape
        if target is None:
            return scores.argmax(1)[None]
        if isinstance(target, str):
            return torch.arange(n_outputs, device=scores.device)[:, None].expand(
                n_outputs, n_samples
            )
        return torch.tensor(target, device=scores.device)[None]

    def _start(self, scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the relevance of the outputs, and the explained scores."""
        scores = scores.expand(len(targets), *scores.shape)
        index = targets[..., None]
        score = scores.gather(2, index)
        relevance = torch.zeros_like(scores).scatter_(2, index, score)
        if self.contrast:
            others = scores.scatter(2, index, -torch.inf)
            best = others.argmax(2, keepdim=True)
            relevance.scatter_(2, best, -scores.gather(2, best))
            score = score - scores.gather(2, best)
        return relevance, score[..., 0]


def _explain_chunk(
    call: _Call, chunk: Sequence[Any], target: np.ndarray | str | None, n_threads: int
) -> Any:
    # A worker thread brings OpenMP threads of its own: they are limited for that thread alone.
    in_thread = threading.current_thread() is not threading.main_thread()
    torch.get_num_threads()
    limits = (
        threadpool_limits(n_threads, user_api="openmp")
        if in_thread and n_threads
        else nullcontext()
    )
    with limits, _plain_arithmetic(call.device):
        return call.explain(chunk, target)


@contextmanager
def _plain_arithmetic(device: torch.device) -> Iterator[None]:
    """Compute without autograd and in the network's own precision, whatever the caller's modes."""
    autocast = torch.autocast(device.type, enabled=False)
    with torch.inference_mode(False), torch.no_grad(), autocast:
        yield


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
    bounds: tuple[float, float] | None = None,
) -> Any:
    """Explain a bare network; see :func:`explain`.

    Parameters
    ----------
    module : nn.Module
        The network.
    X : array-like or Tensor of shape (n_samples, ...), tuple or dict of them
        The input, as the network takes it.
    target, rule, epsilon, contrast, batch_size, n_jobs, progress, return_details : object
        As in :func:`explain`, targets as indices of outputs.
    bounds : (low, high) or None, default=None
        The bounds of ``X`` for z-box rules that have none of their own.

    Returns
    -------
    ndarray or Tensor, or (relevance, details)
        As in :func:`explain`.
    """
    check_number("epsilon", epsilon, minimum=0.0)
    check_flags(contrast=contrast, progress=progress, return_details=return_details)
    check_jobs(n_jobs)
    if batch_size is not None:
        check_number("batch_size", batch_size, minimum=1, integral=True)
    module = without_wrapper(module)
    inputs = Inputs(X, integers=_has_embeddings(module))
    dtype, device = _dtype_and_device(module)
    call = _Call(
        None, inputs.names, inputs.integers, dtype, device, bool(contrast), bool(return_details),
        bounds,
    )  # fmt: skip
    n_samples = inputs.n_samples
    with _plain_arithmetic(device):
        call.plan = compile_plan(
            module, rule, float(epsilon), bounds, lambda n: call.signals(inputs.probe(n))
        )
        probe = call.plan.probe or call.run(inputs.take(slice(1)))
        call.plan.probe = None
    n_outputs = probe.scores[0].numel()
    largest = -(-probe.largest // len(probe.scores))
    target = _check_target(target, n_samples, n_outputs)
    if contrast and n_outputs < 2:
        raise ValueError("contrast=True needs a network of at least two outputs, got one.")
    n_targets = n_outputs if isinstance(target, str) else 1
    jobs = effective_n_jobs(n_jobs) if device.type == "cpu" else 1
    if batch_size is None:
        budget = _CHUNK_BYTES["cpu" if device.type == "cpu" else "cuda"]
        n_bytes = largest * dtype.itemsize * n_targets
        batch_size = budget // n_bytes
        if any(step.kind == "recurrent" for step in call.plan.steps):
            batch_size = max(batch_size, min(_RECURRENT_ROWS, 4 * budget // n_bytes))
        batch_size = min(max(1, batch_size), -(-n_samples // jobs))
    chunks = np.array_split(np.arange(n_samples), -(-n_samples // int(batch_size)))

    every = isinstance(target, str)
    out = inputs.make_outputs((n_targets,) if every else (), dtype)
    spans = [slice(int(a[0]), int(a[-1]) + 1) for a in chunks]
    tasks = (
        (
            call,
            inputs.take(span),
            target[span] if isinstance(target, np.ndarray) else target,
            max(1, (os.cpu_count() or 1) // jobs),
        )
        for span in spans
    )
    if jobs == 1:
        results = (_explain_chunk(*task[:3], 0) for task in tasks)
    else:
        # Parametrized modules, such as those with weight norm, cannot be sent to a process.
        shared = "sharedmem" if any(map(is_parametrized, module.modules())) else None
        results = Parallel(n_jobs=n_jobs, return_as="generator", require=shared)(
            delayed(_explain_chunk)(*task) for task in tasks
        )
    records = []
    with tqdm(total=n_samples, unit="sample", desc="explain", disable=not progress) as bar:
        for span, (parts, record) in zip(spans, results, strict=True):
            for array, relevance in zip(out, parts, strict=True):
                relevance = relevance.movedim(0, 1) if every else relevance[0]
                is_tensor = isinstance(array, Tensor)
                array[span] = relevance.to(array) if is_tensor else relevance.cpu().numpy()
            records.append(record)
            bar.update(span.stop - span.start)
    relevance = inputs.join(out)
    return (relevance, _details(call.plan, records, every)) if return_details else relevance


def _has_embeddings(module: nn.Module) -> bool:
    return any(isinstance(m, nn.Embedding | nn.EmbeddingBag) for m in module.modules())


def _dtype_and_device(module: nn.Module) -> tuple[torch.dtype, torch.device]:
    """Return the one floating dtype and the one device of a network."""
    dtypes = {p.dtype for p in module.parameters()} or {torch.float64}
    devices = {p.device for p in module.parameters()} or {torch.device("cpu")}
    if len(dtypes) > 1 or not dtypes <= set(NUMPY_DTYPES):
        raise TypeError(
            f"The network's parameters must be of float32 or float64, and all of the same, got "
            f"{sorted(map(str, dtypes))}; call .float() or .double() on a copy of it."
        )
    if len(devices) > 1:
        raise ValueError(
            f"The network's parameters must be on one device, got {sorted(map(str, devices))}; "
            "move it with .to(device)."
        )
    if torch.device("meta") in devices:
        raise ValueError(
            "The network's parameters are on the device 'meta' and hold no values; load them."
        )
    return dtypes.pop(), devices.pop()


def _details(plan: Plan, records: Sequence[Any], every_target: bool) -> Bunch:
    """Join the details of the chunks."""

    def join(arrays: Sequence[np.ndarray]) -> np.ndarray:
        joined = np.concatenate(arrays, axis=1)
        return joined.T.copy() if every_target else joined[0]

    score = join([record["score"] for record in records])
    layers = []
    for position, step in enumerate(plan.steps):
        parts = [record["layers"][position] for record in records]
        # Where no relevance arrived, a chunk has nothing under a cause.
        kept = {
            cause: join([k.get(cause, np.zeros_like(r)) for r, k in parts]) for cause in CAUSES
        }
        layers.append(
            Bunch(
                name=step.name,
                layer=step.label,
                rule=step.rule,
                relevance=join([r for r, _ in parts]),
                **kept,
            )
        )
    target = join([record["target"] for record in records])
    return Bunch(score=score, target=target, head=plan.head, layers=layers)
