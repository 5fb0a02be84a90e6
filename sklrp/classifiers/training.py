"""Training: a skorch net that slices tensors by batch, and what it is made of.

`TrainingNet` is an ordinary `skorch.NeuralNetClassifier` on logits. It differs from skorch's
default in what changes its speed but not what it learns: batches are sliced from tensors, which
lie on the device if they fit there, in place of being collated sample by sample; callbacks are
notified of batches only if they listen, and nothing is formatted that nobody reads. Sample
weights travel in the batch.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import functools
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, EpochScoring, PrintLog
from skorch.dataset import Dataset
from skorch.helper import predefined_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sklrp.modules import bound_biases, first_weights, widest_activation

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adadelta": torch.optim.Adadelta,
    "adagrad": torch.optim.Adagrad,
    "adam": torch.optim.Adam,
    "adamax": torch.optim.Adamax,
    "adamw": torch.optim.AdamW,
    "lbfgs": torch.optim.LBFGS,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}
_FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
_FUSED_ALTERNATIVES = ("fused", "foreach", "differentiable", "capturable")

# Elements of the widest activation in one chunk of a prediction: 4 MiB of float32 stays in a
# processor's cache; an accelerator wants more at once.
_CHUNK_ELEMENTS = {"cpu": 2**20}
_CHUNK_ELEMENTS_ACCELERATOR = 2**26


class StopTraining(KeyboardInterrupt):
    """A callback ends the training. Apart from it, an interrupt is the user's and is passed on."""


class BatchIterator:
    """Slice batches from the tensors of a dataset.

    Parameters
    ----------
    dataset : skorch.dataset.Dataset
        Dataset whose ``X`` is a tensor or a dict of tensors and whose ``y`` is a tensor or None.
    batch_size : int, default=128
        Number of samples of a batch; the last one may be smaller.
    shuffle : bool, default=False
        Whether every pass goes through the samples in a new order, drawn from torch's generator.
    drop_last : bool, default=False
        Whether to leave out a last batch that is smaller than the others.
    device : torch.device, str or None, default=None
        Where the data is kept; it is moved there once. None leaves it where it is.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int = 128,
        shuffle: bool = False,
        drop_last: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        move = functools.partial(torch.as_tensor, device=device)
        self.dataset = dataset
        self.X = dataset.X if device is None else _map(move, dataset.X)
        self.y = dataset.y if device is None or dataset.y is None else move(dataset.y)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last

    def __len__(self) -> int:
        n_samples = len(self.dataset)
        return n_samples // self.batch_size if self.drop_last else -(-n_samples // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        order = None
        if self.shuffle:  # drawn on the CPU, so that every device sees the same order
            order = torch.randperm(len(self.dataset)).to(_parts(self.X)[0].device)
        for i in range(len(self)):
            rows: Any = slice(i * self.batch_size, (i + 1) * self.batch_size)
            if order is not None:
                rows = order[rows]
            take = functools.partial(_take, rows=rows)
            yield _map(take, self.X), None if self.y is None else take(self.y)


class WeightedCrossEntropy(nn.CrossEntropyLoss):
    """Cross-entropy, averaged over a batch with each sample's weight.

    Parameters
    ----------
    label_smoothing : float, default=0.0
        Share of each label that is spread over all classes.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__(label_smoothing=label_smoothing)

    def forward(
        self, logits: Tensor, labels: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Return the mean of the samples' losses, each times its weight if there are weights."""
        if sample_weight is None:
            return super().forward(logits, labels)
        smoothing = self.label_smoothing
        losses = cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        return (losses * sample_weight).mean()


class QuietPrintLog(PrintLog):
    """Print a line per epoch, and do not even format it where nobody would see it."""

    def on_epoch_end(self, net: NeuralNetClassifier, **kwargs: Any) -> None:
        """Print the line if the net is verbose or there is a sink of the user's."""
        if net.verbose or self.sink is not print:
            super().on_epoch_end(net, **kwargs)


class TrainingNet(NeuralNetClassifier):
    """A skorch net on logits, with per-sample weights, penalties and a quiet loop.

    Parameters
    ----------
    module : callable
        Builds the network; skorch calls it without arguments.
    n_classes : int
        Number of classes; the net's labels are ``0, ..., n_classes - 1``.
    dtype : torch.dtype
        Floating dtype of the parameters.
    l1 : float, default=0.0
        Factor of the sum of the absolute weights (not biases) in the training loss.
    l1_first, l2_first : float, default=0.0
        Factors of the sum of the absolute and of the squared weights of the first layer alone.
    nonpositive_bias : bool, default=False
        Whether biases are kept at most zero, see `bound_biases`.
    **kwargs : dict
        What `skorch.NeuralNetClassifier` takes.
    """

    def __init__(
        self,
        module: Callable[[], nn.Module],
        *,
        n_classes: int,
        dtype: torch.dtype,
        l1: float = 0.0,
        l1_first: float = 0.0,
        l2_first: float = 0.0,
        nonpositive_bias: bool = False,
        **kwargs: Any,
    ) -> None:
        defaults = {
            "criterion": WeightedCrossEntropy,
            "iterator_train": BatchIterator,
            "iterator_train__shuffle": True,
            "iterator_valid": BatchIterator,
            "train_split": None,
            "classes": list(range(n_classes)),
        }
        super().__init__(module, **{**defaults, **kwargs})
        self.n_classes = n_classes
        self.dtype = dtype
        self.l1 = l1
        self.l1_first = l1_first
        self.l2_first = l2_first
        self.nonpositive_bias = nonpositive_bias

    def train(self, dataset: Dataset, epochs: int, valid: Dataset | None = None) -> TrainingNet:
        """Go on training for at most ``epochs`` passes over ``dataset``.

        Parameters
        ----------
        dataset : skorch.dataset.Dataset
            Training data, see `make_dataset`.
        epochs : int
            Number of passes; callbacks may end the training earlier.
        valid : skorch.dataset.Dataset or None, default=None
            Validation data, scored after each epoch.

        Returns
        -------
        self : TrainingNet
            The net, trained.

        Raises
        ------
        ValueError
            If the training diverged. After this or any other error the parameters, the
            optimizer's state and the history are again as they were.
        """
        parts = (self.module_, self.optimizer_)
        states = [copy.deepcopy(part.state_dict()) for part in parts]
        n_epochs = len(self.history)
        self.train_split = None if valid is None else predefined_split(valid)
        try:
            self.notify("on_train_begin", X=dataset, y=dataset.y)
            with contextlib.suppress(StopTraining):
                self.fit_loop(dataset, epochs=epochs)
            self.notify("on_train_end", X=dataset, y=dataset.y)
            self._check_parameters()
        except BaseException:
            for part, state in zip(parts, states, strict=True):
                part.load_state_dict(state)
            del self.history[n_epochs:]
            raise
        finally:
            self.train_split = None  # keeps the validation data out of pickles
        return self

    def _check_parameters(self) -> None:
        """Raise an error if the training has diverged."""
        if not all(torch.isfinite(parameter).all() for parameter in self.module_.parameters()):
            raise ValueError(
                f"The training diverged: after {len(self.history)} epochs the network's "
                f"parameters are not finite. Standardise X, or use a smaller lr (now {self.lr})."
            )

    # What skorch calls

    def get_default_callbacks(self) -> list[tuple[str, Callback]]:
        """Return skorch's, with cheaper ones for the accuracy and for the printing."""
        accuracy = EpochScoring(_accuracy, name="valid_acc", lower_is_better=False)
        callbacks = dict(super().get_default_callbacks())
        return list({**callbacks, "valid_acc": accuracy, "print_log": QuietPrintLog()}.items())

    def initialize_module(self) -> TrainingNet:
        """Build the network in the net's dtype."""
        super().initialize_module()
        self.module_.to(self.dtype)
        if self.nonpositive_bias:
            bound_biases(self.module_)
        return self

    def get_iterator(self, dataset: Dataset, training: bool = False) -> Iterable[Any]:
        """Return batches for training, or chunks that fit the cache for prediction."""
        kwargs = self.get_params_for("iterator_train" if training else "iterator_valid")
        if training:
            kwargs.setdefault("batch_size", self.batch_size)
        elif "batch_size" not in kwargs:
            X = dataset.X["X"] if isinstance(dataset.X, Mapping) else dataset.X
            self._set_training(False)
            device_type = torch.device(self.device).type
            budget = _CHUNK_ELEMENTS.get(device_type, _CHUNK_ELEMENTS_ACCELERATOR)
            n_rows = budget // widest_activation(self.module_, X.shape[1])
            kwargs["batch_size"] = max(32, n_rows)
        if kwargs["batch_size"] == -1:  # skorch's word for all
            kwargs["batch_size"] = len(dataset)
        validating = self.train_split is not None  # every epoch; a prediction takes a row once
        if "device" not in kwargs and (training or validating):
            kwargs["device"] = _find_home(dataset, torch.device(self.device))
        return (self.iterator_train if training else self.iterator_valid)(dataset, **kwargs)

    def infer(self, x: Any, **fit_params: Any) -> Tensor:
        """Return the logits of one batch, with or without sample weights."""
        if isinstance(x, Mapping):
            x = x["X"]
        return self.module_(torch.as_tensor(x).to(self.device, self.dtype))

    def train_step(self, batch: Any, **fit_params: Any) -> dict[str, Any]:
        """Make a step of the optimizer, and keep to the bounds of the biases."""
        step = super().train_step(batch, **fit_params)
        if self.nonpositive_bias:
            bound_biases(self.module_)
        return step

    def get_loss(
        self, y_pred: Tensor, y_true: Tensor, X: Any = None, training: bool = False
    ) -> Tensor:
        """Return the weighted mean cross-entropy of one batch, in training with the penalties."""
        weight = X["sample_weight"].to(self.device) if isinstance(X, Mapping) else None
        loss = self.criterion_(y_pred, y_true.to(self.device), weight)
        if training and self.l1:
            weights = (p for p in self.module_.parameters() if p.ndim > 1)
            loss = loss + self.l1 * sum(weight.abs().sum() for weight in weights)
        if training and (self.l1_first or self.l2_first):
            for weight in first_weights(self.module_):
                loss = loss + self.l1_first * weight.abs().sum()
                loss = loss + self.l2_first * weight.square().sum()
        return loss

    def run_single_epoch(
        self,
        iterator: Any,
        training: bool,
        prefix: str,
        step_fn: Callable[..., Any],
        **params: Any,
    ) -> None:
        """Run skorch's loop, or the same without a notification and a record for every batch."""
        if iterator is None or any(_listens(cb, training) for _, cb in self.callbacks_):
            super().run_single_epoch(iterator, training, prefix, step_fn, **params)
            return
        losses, sizes = [], []
        for batch in iterator:
            losses.append(step_fn(batch, **params)["loss"].detach())
            sizes.append(len(batch[1]))
        if losses:
            loss = np.average(torch.stack(losses).cpu().numpy(), weights=sizes)
            self.history.new_batch()
            self.history.record_batch(f"{prefix}_loss", float(loss))
            self.history.record_batch(f"{prefix}_batch_size", sum(sizes))
        self.history.record(f"{prefix}_batch_count", len(losses))

    def notify(self, method_name: str, **cb_kwargs: Any) -> None:
        """Notify the callbacks, and tell an interrupt that one of them raises from the user's."""
        getattr(self, method_name)(self, **cb_kwargs)
        for _, callback in self.callbacks_:
            try:
                getattr(callback, method_name)(self, **cb_kwargs)
            except KeyboardInterrupt as interrupt:
                if _raised_by(callback, interrupt):
                    raise StopTraining from None
                raise

    def _set_training(self, training: bool = True) -> None:
        # Walking through the modules for every batch costs more than a small layer.
        if self.module_.training != training:
            super()._set_training(training)


class RandomStream:
    """Let torch's generators of one device run from ``start``, and put them back on leaving.

    Streams of several threads wait for one another, as they share torch's generators.

    Parameters
    ----------
    device : torch.device
        The device whose generator is used beside the CPU's.
    start : int or dict
        A seed, or the ``state`` at which an earlier stream ended.

    Attributes
    ----------
    state : dict
        State of the generators at the end, by device type.
    """

    _lock = threading.RLock()

    def __init__(self, device: torch.device, start: int | dict[str, Tensor]) -> None:
        self.device = device
        self.state: dict[str, Tensor] = {}
        self._start = start
        self._saved: dict[str, Tensor] = {}

    def __enter__(self) -> RandomStream:
        self._lock.acquire()
        self._saved = self._get()
        if isinstance(self._start, dict):
            self._set(self._start)
        else:
            torch.default_generator.manual_seed(self._start)
            if self.device.type == "cuda":
                with torch.cuda.device(self.device):
                    torch.cuda.manual_seed(self._start)
            elif self.device.type != "cpu":
                getattr(torch, self.device.type).manual_seed(self._start)
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self.state = self._get()
            self._set(self._saved)
        finally:
            self._lock.release()

    def _arguments(self) -> tuple[Any, ...]:
        return () if self.device.type == "mps" else (self.device,)

    def _get(self) -> dict[str, Tensor]:
        state = {"cpu": torch.get_rng_state()}
        if self.device.type != "cpu":
            module = getattr(torch, self.device.type)
            state[self.device.type] = module.get_rng_state(*self._arguments())
        return state

    def _set(self, state: Mapping[str, Tensor]) -> None:
        torch.set_rng_state(state["cpu"])
        if self.device.type in state and self.device.type != "cpu":
            module = getattr(torch, self.device.type)
            module.set_rng_state(state[self.device.type], *self._arguments())


def make_dataset(X: Tensor, y: np.ndarray, sample_weight: np.ndarray | None = None) -> Dataset:
    """Return a skorch dataset of tensors for `TrainingNet.train`.

    Parameters
    ----------
    X : Tensor of shape (n_samples, n_features)
        Samples.
    y : ndarray of shape (n_samples,)
        Integer labels from 0.
    sample_weight : ndarray of shape (n_samples,) or None, default=None
        Factor of each sample's loss.

    Returns
    -------
    skorch.dataset.Dataset
        The data; with weights its ``X`` is a dict of ``X`` and ``sample_weight``.
    """
    labels = torch.tensor(y, dtype=torch.int64)
    if sample_weight is None:
        return Dataset(X, labels)
    return Dataset({"X": X, "sample_weight": torch.tensor(sample_weight, dtype=X.dtype)}, labels)


def check_device(device: str | torch.device, name: str = "device") -> torch.device:
    """Return the device to compute on.

    Parameters
    ----------
    device : str or torch.device
        ``"auto"`` is the current CUDA device if there is one, else the CPU.
    name : str, default="device"
        Name of the parameter, for the error.

    Returns
    -------
    torch.device
        The device, usable.

    Raises
    ------
    ValueError
        If there is no such device.
    """
    if isinstance(device, str) and device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        resolved = torch.device(device)
        if resolved.type == "meta":
            raise RuntimeError("the meta device holds no data")
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        available = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            available.append("mps")
        raise ValueError(
            f"{name}={str(device)!r} cannot be used: {str(error).splitlines()[0]}. Available "
            f"here are {available}; use one of them or 'auto'."
        ) from error
    return resolved


def check_dtype(dtype: Any, X_dtype: np.dtype, device: torch.device) -> torch.dtype:
    """Return the floating dtype to compute in.

    Parameters
    ----------
    dtype : "auto", str, numpy dtype or torch dtype
        ``"auto"`` is ``X_dtype`` on the CPU and float32 on an accelerator.
    X_dtype : numpy.dtype
        Dtype of the validated X, float32 or float64.
    device : torch.device
        Device to compute on.

    Returns
    -------
    torch.dtype
        ``torch.float32`` or ``torch.float64``.

    Raises
    ------
    ValueError
        If ``dtype`` is anything else.
    """
    if isinstance(dtype, str) and dtype == "auto":
        dtype = X_dtype if device.type == "cpu" else np.float32
    name = str(dtype).removeprefix("torch.")
    if not isinstance(dtype, (str, torch.dtype)):
        try:
            name = np.dtype(dtype).name
        except TypeError:
            name = repr(dtype)
    if name not in ("float32", "float64"):
        raise ValueError(f"dtype must be 'auto', 'float32' or 'float64', got {dtype!r}.")
    if name == "float64" and device.type == "mps":
        raise ValueError(
            "dtype='float64' is not available on device='mps': use 'auto' or 'float32'."
        )
    return getattr(torch, name)


def check_optimizer(
    optimizer: str | type[torch.optim.Optimizer],
) -> type[torch.optim.Optimizer]:
    """Return the class of the optimizer.

    Parameters
    ----------
    optimizer : str or subclass of torch.optim.Optimizer
        Name, a key of ``OPTIMIZERS``, or the class itself.

    Returns
    -------
    type
        Subclass of `torch.optim.Optimizer`.

    Raises
    ------
    ValueError
        If there is no such name.
    TypeError
        If it is neither a name nor an optimizer's class.
    """
    if isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer):
        return optimizer
    if isinstance(optimizer, str):
        if optimizer in OPTIMIZERS:
            return OPTIMIZERS[optimizer]
        raise ValueError(
            f"optimizer={optimizer!r} is unknown{_suggest(optimizer, OPTIMIZERS)} Use one of "
            f"{sorted(OPTIMIZERS)} or a subclass of torch.optim.Optimizer."
        )
    raise TypeError(
        f"optimizer must be one of {sorted(OPTIMIZERS)} or a subclass of torch.optim.Optimizer, "
        f"got {optimizer!r}; give its arguments as optimizer__<name>=..."
    )


def optimizer_params(
    optimizer: type[torch.optim.Optimizer],
    given: Mapping[str, Any],
    weight_decay: float,
    device: torch.device,
) -> dict[str, Any]:
    """Return the optimizer's arguments that the user has not given.

    Parameters
    ----------
    optimizer : type
        Subclass of `torch.optim.Optimizer`.
    given : mapping of str to object
        Double-underscore parameters.
    weight_decay : float
        L2 penalty, handed to the optimizer if it is not zero.
    device : torch.device
        Device to compute on.

    Returns
    -------
    dict
        Parameters named ``optimizer__<name>``.

    Raises
    ------
    ValueError
        If there is a weight decay and the optimizer has none.
    """
    params: dict[str, Any] = {}
    if weight_decay and "optimizer__weight_decay" not in given:
        if "weight_decay" not in inspect.signature(optimizer).parameters:
            raise ValueError(
                f"weight_decay={weight_decay} is not supported by {optimizer.__name__}: use "
                "weight_decay=0 or another optimizer."
            )
        params["optimizer__weight_decay"] = weight_decay
    chosen = any(f"optimizer__{name}" in given for name in _FUSED_ALTERNATIVES)
    if optimizer in _FUSED and device.type in ("cpu", "cuda") and not chosen:
        params["optimizer__fused"] = True
    return params


def check_callbacks(callbacks: Any) -> list[Any]:
    """Return a deep copy of callbacks, as skorch changes those that it is given.

    Parameters
    ----------
    callbacks : sequence or None
        Callbacks of skorch, their classes, or tuples ``(name, callback)``.

    Returns
    -------
    list
        The copies.

    Raises
    ------
    TypeError
        If one of them is not a callback.
    """
    callbacks = [] if callbacks is None else callbacks
    if not isinstance(callbacks, Sequence) or isinstance(callbacks, str):
        raise TypeError(
            f"callbacks must be a list of skorch callbacks or tuples (name, callback), got "
            f"{callbacks!r}."
        )
    for item in callbacks:
        callback = item[1] if isinstance(item, tuple) and len(item) == 2 else item
        is_class = isinstance(callback, type) and issubclass(callback, Callback)
        if not (is_class or isinstance(callback, Callback)):
            raise TypeError(
                "callbacks must be a list of skorch callbacks or tuples (name, callback), got "
                f"an item {item!r}."
            )
    return copy.deepcopy(list(callbacks))


def check_names(
    net: TrainingNet, params: Mapping[str, Any], own: Iterable[str], owner: str
) -> None:
    """Raise an error if a parameter is none that the net understands.

    Parameters
    ----------
    net : TrainingNet
        The net that has been given ``params``, not initialised yet.
    params : mapping of str to object
        Parameters beside the estimator's own.
    own : iterable of str
        Names of the estimator's own parameters, for suggestions.
    owner : str
        Name of the estimator's class.

    Raises
    ------
    ValueError
        If there is an unknown name, with the nearest known ones.
    """
    if not params:
        return
    known = {"criterion__label_smoothing", "iterator_valid__batch_size", "optimizer__param_groups"}
    options = ("batch_size", "shuffle", "drop_last", "device")
    known |= {f"iterator_train__{name}" for name in options}
    parts: dict[str, Any] = {"optimizer": net.optimizer}
    for name, callback in net._uniquely_named_callbacks():
        known.add(f"callbacks__{name}")
        if isinstance(callback, Callback):
            known |= {f"callbacks__{name}__{key}" for key in callback.get_params(deep=False)}
        else:
            parts[f"callbacks__{name}"] = callback
    anything: tuple[str, ...] = ()
    for prefix, part in parts.items():
        for argument in inspect.signature(part).parameters.values():
            if argument.kind is argument.VAR_KEYWORD:
                anything = (*anything, f"{prefix}__")
            elif argument.name != "params":
                known.add(f"{prefix}__{argument.name}")
    for name in sorted(set(params) - known):
        if name.startswith(anything):
            continue
        alike = sorted(n for n in known if n.startswith(f"{name.partition('__')[0]}__"))
        hint = f" Known are {alike}." if alike else ""
        raise ValueError(
            f"{owner} got an unexpected parameter {name!r}{_suggest(name, {*known, *own})}{hint}"
        )


def _suggest(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence, with the nearest known name if there is one."""
    nearest = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else "."


def _find_home(dataset: Dataset, device: torch.device) -> torch.device | None:
    """Return the accelerator if the data takes at most half of its free memory, else None."""
    parts = [*_parts(dataset.X), *_parts(dataset.y)]
    n_bytes = sum(getattr(part, "nbytes", 0) for part in parts)
    return device if 2 * n_bytes <= _free_memory(device) else None


def _free_memory(device: torch.device) -> int:
    """Return how many bytes of an accelerator can be had, 0 where torch does not tell."""
    if device.type != "cuda":
        return 0
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + cached


def _parts(X: Any) -> list[Any]:
    """Return the arrays of samples with or without weights."""
    return list(X.values()) if isinstance(X, Mapping) else [X]


def _map(function: Callable[[Any], Any], X: Any) -> Any:
    """Return samples, with or without weights, whose arrays went through the function."""
    return {k: function(v) for k, v in X.items()} if isinstance(X, Mapping) else function(X)


def _take(x: Any, rows: Any) -> Any:
    """Return rows of an array; `index_select` is the fastest for those in any order."""
    if isinstance(x, Tensor) and isinstance(rows, Tensor):
        return x.index_select(0, rows)
    return x[rows]


def _accuracy(net: NeuralNetClassifier, X: Any, y: np.ndarray) -> float:
    """Return the share of right predictions, without checks that take longer than the count."""
    predictions = [logits.argmax(1) for logits in net.forward_iter(X)]
    return float((torch.cat(predictions).numpy() == y).mean())


def _listens(callback: Callback, training: bool) -> bool:
    """Tell whether a callback takes part in the batches of the training or the validation."""
    if isinstance(callback, EpochScoring) and callback.on_train != training:
        return False
    return any(
        getattr(type(callback), method) is not getattr(Callback, method)
        for method in ("on_batch_begin", "on_batch_end")
    )


def _raised_by(callback: Callback, interrupt: KeyboardInterrupt) -> bool:
    """Tell whether one of the callback's own methods raised the interrupt to end the training.

    Ctrl-C arrives wherever Python happens to be, and practically never in the few lines of a
    callback itself.
    """
    traceback = interrupt.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and traceback.tb_frame.f_locals.get("self") is callback
