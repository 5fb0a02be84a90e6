"""Running the steps: validation, chunks, workers, details."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed, effective_n_jobs
from sklearn.exceptions import NotFittedError
from sklearn.utils import Bunch
from sklearn.utils.validation import check_is_fitted
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from tqdm.std import tqdm

from sklrp.propagation.inputs import NUMPY_DTYPES, Inputs, is_finite, is_floating
from sklrp.propagation.plan import Plan, compile_plan
from sklrp.propagation.step import CAUSES, Tape, bound
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


def explain(
    model: Any,
    X: Any,
    *,
    target: Any = None,
    rule: Any = "auto",
    epsilon: float = 1e-6,
    contrast: bool = False,
    batch_size: int | None = None,
    n_jobs: int | None = None,
    progress: bool = False,
    return_details: bool = False,
) -> Any:
    r"""Explain a fitted network: relevance of each value of ``X`` for a score, by LRP.

    Relevance starts at the score of the target (a logit) and is passed back layer by layer, by the
    rule of each layer. It is in units of that score. The network acts as in evaluation mode and is
    not changed.

    Parameters
    ----------
    model : estimator, skorch net or torch.nn.Module
        A fitted classifier of this package, a fitted skorch ``NeuralNet``, or any module whose
        ``forward`` is made of supported layers and functions (``sklrp.propagation.supported()``).
    X : array-like or Tensor of shape (n_samples, ...), tuple or dict of them
        The input, as the model takes it: a tuple for ``forward(*X)``, a dict for ``forward(**X)``.
    target : None, label, array-like of shape (n_samples,) or "all", default=None
        What is explained: None the predicted class of each sample (or the only output), a label,
        one label per sample, or every class (also where a class is named "all"). The labels of a
        bare module are the indices of its outputs, and so are those of a skorch net whose classes
        are numbers: a net of a single output has target 0 alone.
    rule : str, Rule or Composite, default="auto"
        See :func:`sklrp.check_rule`.
    epsilon : float, default=1e-6
        The stabiliser of the rules without one of their own, at least 0, in units of
        pre-activations.
    contrast : bool, default=False
        Explain the target's logit minus the largest of the others.
    batch_size : int or None, default=None
        Samples per chunk; None chooses it such that memory stays bounded.
    n_jobs : int or None, default=None
        Number of joblib workers that share the chunks; for machines with many cores.
    progress : bool, default=False
        Whether to show a progress bar.
    return_details : bool, default=False
        Whether to return ``(relevance, details)``.

    Returns
    -------
    relevance : ndarray or Tensor of X's shape
        The relevance, in X's floating dtype (the model's, if X holds integers). With
        ``target="all"`` of shape (n_samples, n_classes, ...). A tensor if X is one; of several
        inputs a tuple or a dict, as they came.
    details : Bunch
        Only with ``return_details``. ``score`` of shape (n_samples,) or (n_samples, n_classes) and
        ``target`` likewise; ``head``, the name of a softmax or sigmoid at the end that was stepped
        over, or None; ``layers``, a list in execution order of Bunches with ``name``,
        ``layer``, ``rule``, the sum of ``relevance`` at the layer's input, and what the layer
        kept: ``bias``, ``epsilon``, ``padding``, ``initial_state``, ``dropped``, arrays like
        ``score``. The score is the sum of the relevance of X and of all that was kept.

    Raises
    ------
    TypeError
        If a layer or a function is not supported; it is named, with the layer that calls it.
    ValueError
        If ``X``, ``target`` or another parameter is malformed.
    NotFittedError
        If a skorch net is not initialized.

    Notes
    -----
    Scores are taken before a softmax or sigmoid at the end. The relevance of a regression starts
    at the value of the output: its reference is an output of zero. To explain the difference from
    another reference, train on ``y - reference``, or subtract it from the bias of the last layer.

    References
    ----------
    Bach et al. 2015; Arras et al. 2017 for LSTMs; arXiv 2302.12317 for what the maps are worth.

    Examples
    --------
    >>> import numpy as np, torch, sklrp
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 2, bias=False)).double()
    >>> X = np.ones((4, 3))
    >>> relevance, details = sklrp.explain(net, X, rule="zero", return_details=True)
    >>> relevance.shape
    (4, 3)
    >>> bool(np.allclose(relevance.sum(axis=1), details.score))
    True
    """
    options = {
        "target": target, "rule": rule, "epsilon": epsilon, "contrast": contrast,
        "batch_size": batch_size, "n_jobs": n_jobs, "progress": progress,
        "return_details": return_details,
    }  # fmt: skip
    if hasattr(model, "explain") and not isinstance(model, nn.Module):
        return model.explain(X, **options)
    module = _find_module(model)
    classes = np.asarray(() if module is model else getattr(model, "classes_", ()))
    if classes.dtype.kind in "iufb":  # skorch's own labels are the indices of outputs
        return explain_network(module, X, **options)
    first = next(iter(X.values())) if isinstance(X, Mapping) else X
    options["target"] = encode_target(target, classes, len(first))
    result = explain_network(module, X, **options)
    if return_details:
        result[1].target = classes[result[1].target]
    return result


def _find_module(model: Any) -> nn.Module:
    """Return the network of a model."""
    if isinstance(model, nn.Module):
        return model
    if not hasattr(model, "module"):
        raise TypeError(
            "model must be a classifier of sklrp, a skorch net or a torch.nn.Module, got "
            f"{type(model).__name__}."
        )
    if not isinstance(getattr(model, "module_", None), nn.Module):
        raise NotFittedError(
            f"This {type(model).__name__} is not fitted yet; call fit, or initialize."
        )
    return model.module_


def plan(model: Any, rule: Any = "auto", X: Any = None, *, epsilon: float = 1e-6) -> Plan:
    """Resolve which rule acts on which layer, before anything is explained.

    Print the result to check a composite. Choices that make a map degenerate are warned of.

    Parameters
    ----------
    model : estimator, skorch net or torch.nn.Module
        As in :func:`explain`.
    rule : str, Rule or Composite, default="auto"
        As in :func:`explain`.
    X : array-like, tuple or dict of them, or None, default=None
        A few samples, needed where the network is not an ``nn.Sequential`` of supported layers:
        its ``forward`` is run on the first of them.
    epsilon : float, default=1e-6
        As in :func:`explain`.

    Returns
    -------
    Plan
        The steps in execution order: ``steps``, each with ``name``, ``layer``, ``kind``, ``rule``
        and ``epsilon``. It prints as a table.

    Warns
    -----
    UserWarning
        For the flat rule on a dense first layer, z-box without bounds, and z-plus on every layer
        of a network with one output.

    Examples
    --------
    >>> import torch, sklrp
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> sklrp.plan(net, "gamma")
    layer  type    rule
    0      Linear  Gamma()
    1      ReLU
    2      Linear  Gamma()
    """
    is_estimator = not isinstance(model, nn.Module) and hasattr(model, "explain")
    if is_estimator and not hasattr(model, "module_"):
        check_is_fitted(model)
    module = _unwrapped(model.module_ if is_estimator else _find_module(model))
    _check_number("epsilon", epsilon, minimum=0.0)
    dtype, device = _dtype_and_device(module)
    sample = None
    if X is not None and not is_estimator:
        inputs = Inputs(X, integers=_has_embeddings(module))
        call = _Call(
            None, inputs.names, inputs.integers, dtype, device, False, False, None
        )  # fmt: skip

        def sample(n: int) -> Any:
            return call.signals(inputs.probe(n))

    with _plain_arithmetic(device):
        bounds = getattr(model, "input_range_", None)
        return compile_plan(module, rule, float(epsilon), bounds, sample, strict=False)


def encode_target(target: Any, classes: np.ndarray, n_samples: int) -> Any:
    """Return a target given in labels as None, ``"all"`` or output indices.

    Parameters
    ----------
    target : None, label, array-like of shape (n_samples,) or "all"
        The target.
    classes : ndarray of shape (n_classes,)
        The labels in the order of the outputs, sorted.
    n_samples : int
        The number of samples.

    Returns
    -------
    None, "all", int or ndarray of shape (n_samples,)
        The target of a bare module.

    Raises
    ------
    ValueError
        If a label is unknown or the shape is wrong.
    """
    if target is None or (isinstance(target, str) and target == "all"):
        return target
    labels = np.asarray(target)
    if labels.dtype == object and not all(isinstance(v, Hashable) for v in labels.flat):
        raise ValueError(f"target must be None, 'all', a label or labels, got {target!r}.")
    if labels.ndim > 1 or (labels.ndim == 1 and len(labels) != n_samples):
        raise ValueError(
            f"target must be None, 'all', one label or {n_samples} labels, one per sample, got an "
            f"array of shape {labels.shape}."
        )
    positions = {label: k for k, label in enumerate(classes.tolist())}
    unknown = sorted({repr(v) for v in labels.ravel().tolist() if v not in positions})
    if unknown:
        raise ValueError(
            f"target has the unknown label{'s' * (len(unknown) > 1)} {', '.join(unknown)}; the "
            f"classes are {classes.tolist()}, or 'all', or None for the predicted class."
        )
    index = np.array([positions[v] for v in labels.ravel().tolist()], dtype=np.int64)
    return index if labels.ndim else int(index[0])


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
    _check_number("epsilon", epsilon, minimum=0.0)
    flags = {"contrast": contrast, "progress": progress, "return_details": return_details}
    for name, flag in flags.items():
        if not isinstance(flag, bool | np.bool_):
            raise ValueError(f"{name} must be True or False, got {flag!r}.")
    if n_jobs is not None and (isinstance(n_jobs, bool) or not isinstance(n_jobs, Integral)):
        raise ValueError(f"n_jobs must be None or an integer, -1 for all cores, got {n_jobs!r}.")
    if batch_size is not None:
        _check_number("batch_size", batch_size, minimum=1, integral=True)
    module = _unwrapped(module)
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


def _unwrapped(module: nn.Module) -> nn.Module:
    """Return the network that ``torch.compile`` or ``nn.DataParallel`` wraps."""
    wrapped: Any = module
    while isinstance(wrapped, nn.DataParallel) or hasattr(wrapped, "_orig_mod"):
        wrapped = wrapped.module if isinstance(wrapped, nn.DataParallel) else wrapped._orig_mod
    return wrapped


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


def _check_number(name: str, value: Any, *, minimum: float, integral: bool = False) -> None:
    kinds = (int, np.integer) if integral else (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, kinds) or not minimum <= value < math.inf:
        what = "an integer" if integral else "a finite number"
        raise ValueError(f"{name} must be {what} of at least {minimum:g}, got {value!r}.")


def _check_target(target: Any, n_samples: int, n_outputs: int) -> np.ndarray | str | None:
    """Return the target of a bare module as None, ``"all"`` or one output index per sample."""
    if target is None or (isinstance(target, str) and target == "all"):
        return target
    index = np.asarray(target)
    if (
        index.dtype.kind not in "iu"
        or index.ndim > 1
        or (index.ndim == 1 and len(index) != n_samples)
    ):
        raise ValueError(
            f"target must be None, 'all', the index of an output or {n_samples} indices, one per "
            f"sample, got {target!r}."
        )
    if ((index < 0) | (index >= n_outputs)).any():
        raise ValueError(
            f"target must lie in 0..{n_outputs - 1}, the outputs of the network, got {target!r}."
        )
    return np.full(n_samples, index, dtype=np.int64)
