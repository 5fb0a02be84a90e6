"""The skorch net inside every estimator: its loop, its loss with penalties, its callbacks.

An estimator makes it, trains it with `TrainingNet.train` and predicts with `TrainingNet.outputs`;
everything else in it is called by skorch.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from skorch import NeuralNet, NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import Callback, EpochScoring, PrintLog
from skorch.dataset import Dataset
from skorch.helper import predefined_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sklrp._checks import is_positive_integer
from sklrp._random_stream import RandomStream
from sklrp._skorch import LazyModes
from sklrp._stored import Stored
from sklrp._wording import say_value, shorten
from sklrp.classifiers.batches import BatchIterator, find_home, pick
from sklrp.classifiers.layer_runs import QUIET, is_of_images, may_draw, run_in_parts
from sklrp.modules import bound_biases, first_weights, widest_activation

# Elements of the widest activation of networks that have predicted. An attribute would be a part
# of their state, which no prediction may change: whoever hashes a network would find another one.
_WIDEST: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()

# Elements of the widest activation in one chunk of a prediction: 4 MiB of float32 stay in a
# processor's cache; an accelerator wants more at once.
_CHUNK_ON_CPU, _CHUNK_ON_ACCELERATOR = 2**20, 2**26


class TrainingNet(LazyModes, NeuralNet):
    """A skorch net with per-sample weights, penalties and a quiet loop; the base of two.

    Parameters
    ----------
    module : callable
        Builds the network; skorch calls it without arguments.
    dtype : torch.dtype
        Floating dtype of the parameters.
    penalties : dict of str to float or None, default=None
        Factors of the terms of the training loss that `PENALTIES` names; None (default): no term.
    nonpositive_bias : bool, default=False
        Whether biases are kept at most zero, see `bound_biases`.
    **kwargs : dict
        What `skorch.NeuralNet` takes.
    """

    _of_images = False  # whether there is a quicker way through the network's images

    def __init__(
        self,
        module: Callable[[], nn.Module],
        *,
        dtype: torch.dtype,
        penalties: Mapping[str, float] | None = None,
        nonpositive_bias: bool = False,
        **kwargs: Any,
    ) -> None:
        defaults = {
            "iterator_train": BatchIterator,
            "iterator_train__shuffle": True,
            "iterator_valid": BatchIterator,
            "train_split": None,
        }
        super().__init__(module, **{**defaults, **kwargs})
        self.dtype = dtype
        self.penalties = dict(penalties or {})
        self.nonpositive_bias = nonpositive_bias
        self.enough = 0.0  # mean loss of an epoch below which a training ends
        self.stream: RandomStream | None = None  # what a training draws from; else from torch's
        self._layers_draw = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take on what a pickle holds, in which L-BFGS leaves out what it steps on."""
        super().__setstate__(state)
        optimizer = getattr(self, "optimizer_", None)
        if isinstance(optimizer, torch.optim.LBFGS):
            known = inspect.signature(torch.optim.LBFGS).parameters
            options = {name: v for name, v in optimizer.defaults.items() if name in known}
            whole = torch.optim.LBFGS(optimizer.param_groups[0]["params"], **options)
            whole.__setstate__(optimizer.__getstate__())
            self.optimizer_ = whole

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
        stream = self.stream
        self._layers_draw = stream is not None and may_draw(self.module_)
        try:
            # The stream sees every operation, which costs time: only what may draw is inside.
            with stream if stream and self._runs_others() else contextlib.nullcontext():
                self.notify("on_train_begin", X=dataset, y=dataset.y)
                with contextlib.suppress(_StopTraining):
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
            self.stream, self._layers_draw = None, False
        return self

    @torch.no_grad()
    def outputs(self, X: NDArray | Stored) -> Tensor:
        """Return the network's outputs in evaluation mode, on the CPU.

        Beside a small network the data set and the iterator of skorch's ``forward_iter`` take
        most of the time: here samples are sliced.

        Parameters
        ----------
        X : ndarray or Stored of shape (n_samples, n_features)
            Samples, in memory or read chunk by chunk.

        Returns
        -------
        Tensor of shape (n_samples, n_outputs)
            The outputs.
        """
        self.set_evaluating()
        size = getattr(self, "iterator_valid__batch_size", None)
        if size is None:
            size = self._choose_chunk(X.shape[1])
        size = _count_at_once("iterator_valid", size, len(X))
        places = [slice(start, start + size) for start in range(0, len(X), size)]
        parts = [self.infer(pick(X, place, place)).cpu() for place in places]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _choose_chunk(self, n_features: int) -> int:
        """Return how many samples a prediction takes at once."""
        on_cpu = torch.device(self.device).type == "cpu"
        budget = _CHUNK_ON_CPU if on_cpu else _CHUNK_ON_ACCELERATOR
        if self.module_ not in _WIDEST:
            self.set_evaluating()
            _WIDEST[self.module_] = widest_activation(self.module_, n_features)
        return max(32, budget // _WIDEST[self.module_])

    @torch.no_grad()
    def skill(self, dataset: Dataset) -> float:
        """Return by how much the network's loss is less than the best constant output's.

        Parameters
        ----------
        dataset : skorch.dataset.Dataset
            The data.

        Returns
        -------
        float
            The share of that loss, at most 1; 1 where a constant is all there is to learn.
            Outputs are shrunk towards the constant where this lowers the loss: a network that is
            often right, but too sure, has skill.
        """
        self.set_evaluating()
        constant = self.best_constant(dataset)
        shrunk = (0.0, *np.logspace(-2, 0, 9))
        sums = np.zeros(len(shrunk))
        for x, y in self.get_iterator(dataset):
            surplus = self.infer(x) - constant
            losses = [self.get_loss(constant + share * surplus, y, X=x) for share in shrunk]
            sums += len(y) * torch.stack(losses).cpu().double().numpy()
        if sums[0] < 0.05 * len(dataset):  # nearly all weight is on one class, or one value
            return 1.0
        return float(1 - sums.min() / sums[0])

    def best_constant(self, dataset: Dataset) -> Tensor:
        """Return the output of the least loss among those that do not depend on X."""
        raise NotImplementedError

    def _runs_others(self) -> bool:
        """Tell whether users' own optimizers, losses or callbacks take part, which may draw."""
        parts = [self.optimizer_, self.criterion_, *(callback for _, callback in self.callbacks_)]
        kinds = [*map(type, parts), *(vars(kind).get("train_step") for kind in type(self).__mro__)]
        return not all(kind is None or kind.__module__.startswith(QUIET) for kind in kinds)

    def _check_parameters(self) -> None:
        """Raise an error if the training has diverged."""
        what = None
        if not all(torch.isfinite(parameter).all() for parameter in self.module_.parameters()):
            what = "the network's parameters are"
        elif self.history and not np.isfinite(self.history[-1].get("train_loss", 0.0)):
            what = "its loss is"  # Adam then makes steps of 0, for ever
        if what is not None:
            raise ValueError(
                f"The training diverged: after {len(self.history)} epochs {what} not finite. "
                f"Standardise X, or use a smaller lr (now {self.lr})."
            )

    # What skorch calls

    def get_default_callbacks(self) -> list[tuple[str, Callback]]:
        """Return skorch's, with a cheaper one for the printing."""
        cheaper = {"print_log": _QuietPrintLog()}
        return list({**dict(super().get_default_callbacks()), **cheaper}.items())

    def initialize_optimizer(self, *args: Any, **kwargs: Any) -> TrainingNet:
        """Make the optimizer; what it says of its arguments is said of the parameters."""
        try:
            super().initialize_optimizer(*args, **kwargs)
        except (TypeError, ValueError) as error:
            given = {f"optimizer__{k}": v for k, v in self.get_params_for("optimizer").items()}
            raise ValueError(
                f"the optimizer {self.optimizer.__name__} takes none of "
                f"{say_value(given, 200)}: {shorten(str(error))}. Change the parameter "
                "that is meant, or leave it out."
            ) from error
        return self

    def initialize_module(self) -> TrainingNet:
        """Build the network in the net's dtype."""
        super().initialize_module()
        self._of_images = is_of_images(self.module_, self.device, self.dtype)
        self.module_.to(self.dtype)
        if self.nonpositive_bias:
            bound_biases(self.module_)
        return self

    def get_iterator(self, dataset: Dataset, training: bool = False) -> Iterable[Any]:
        """Return batches for training, or chunks that fit the cache for prediction."""
        name = "iterator_train" if training else "iterator_valid"
        kwargs = self.get_params_for(name)
        if training:
            kwargs.setdefault("batch_size", self.batch_size)
            kwargs["stream"] = self.stream
        elif "batch_size" not in kwargs:
            X = dataset.X["X"] if isinstance(dataset.X, Mapping) else dataset.X
            kwargs["batch_size"] = self._choose_chunk(X.shape[1])
        kwargs["batch_size"] = _count_at_once(name, kwargs["batch_size"], len(dataset))
        validating = self.train_split is not None  # every epoch; a prediction takes a row once
        if "device" not in kwargs and (training or validating):
            kwargs["device"] = find_home(dataset, torch.device(self.device))
        return (self.iterator_train if training else self.iterator_valid)(dataset, **kwargs)

    def infer(self, x: Any, **fit_params: Any) -> Tensor:
        """Return the outputs of one batch, with or without sample weights."""
        if isinstance(x, Mapping):
            x = x["X"]
        inputs = torch.as_tensor(x).to(self.device, self.dtype)
        stream = self.stream if self._layers_draw and self.module_.training else None
        if stream is None and not self._of_images:
            return self.module_(inputs)
        return run_in_parts(self.module_, inputs, stream, self._of_images)

    def train_step(self, batch: Any, **fit_params: Any) -> dict[str, Any]:
        """Make a step of the optimizer, and keep to the bounds of the biases."""
        step = super().train_step(batch, **fit_params)
        if self.nonpositive_bias:
            bound_biases(self.module_)
        return step

    def get_loss(
        self, y_pred: Tensor, y_true: Tensor, X: Any = None, training: bool = False
    ) -> Tensor:
        """Return the weighted mean loss of one batch, in training with the penalties."""
        weight = X["sample_weight"].to(self.device) if isinstance(X, Mapping) else None
        loss = self.criterion_(y_pred, y_true.to(self.device), weight)
        if training:
            for name, factor in self.penalties.items():
                if factor:
                    loss = loss + factor * PENALTIES[name](self.module_)
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
        if iterator is None or any(_follows_batches(cb, training) for _, cb in self.callbacks_):
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
                    raise _StopTraining from None
                raise
        if method_name == "on_epoch_end" and self.history[-1, "train_loss"] < self.enough:
            raise _StopTraining


class ClassifierNet(TrainingNet, NeuralNetClassifier):
    """A net on logits, which minimises the cross-entropy.

    Parameters
    ----------
    module : callable
        Builds the network; skorch calls it without arguments.
    n_classes : int
        Number of classes; the net's labels are ``0, ..., n_classes - 1``.
    **kwargs : dict
        What `TrainingNet` takes.
    """

    def __init__(self, module: Callable[[], nn.Module], *, n_classes: int, **kwargs: Any) -> None:
        defaults = {"criterion": WeightedCrossEntropy, "classes": list(range(n_classes))}
        super().__init__(module, **{**defaults, **kwargs})
        self.n_classes = n_classes

    def best_constant(self, dataset: Dataset) -> Tensor:
        """Return the logarithms of the classes' shares."""
        y, weight = dataset.y, None
        if isinstance(dataset.X, Mapping):
            weight = dataset.X["sample_weight"].double()
        totals = torch.bincount(y, weights=weight, minlength=self.n_classes)
        shares = (totals / totals.sum()).clamp(min=1e-12)  # a class may be absent
        return shares.log().to(self.device, self.dtype)

    def get_default_callbacks(self) -> list[tuple[str, Callback]]:
        """Return skorch's, with cheaper ones for the accuracy and for the printing."""
        callbacks = {**dict(super().get_default_callbacks()), "valid_acc": _make_accuracy()}
        return list(callbacks.items())


class RegressorNet(TrainingNet, NeuralNetRegressor):
    """A net on targets in their own units, which minimises the error of standardised ones.

    Parameters
    ----------
    module : callable
        Builds the network, which ends in a `TargetUnits`; skorch calls it without arguments.
    **kwargs : dict
        What `TrainingNet` takes.
    """

    def __init__(self, module: Callable[[], nn.Module], **kwargs: Any) -> None:
        super().__init__(module, **{"criterion": WeightedSquaredError, **kwargs})

    def best_constant(self, dataset: Dataset) -> Tensor:
        """Return the weighted mean of each target."""
        y = dataset.y
        if isinstance(dataset.X, Mapping):
            weight = dataset.X["sample_weight"][:, None]
            return ((weight * y).sum(0) / weight.sum()).to(self.device)
        return y.mean(0).to(self.device)

    def get_loss(self, y_pred: Tensor, y_true: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the weighted mean loss of standardised targets."""
        standardise = self.module_[-1].standardise
        y_true = y_true.to(y_pred)
        return super().get_loss(standardise(y_pred), standardise(y_true), *args, **kwargs)


# What a training minimises


class WeightedSquaredError(nn.Module):
    """Squared error, averaged over outputs, and over a batch with each sample's weight."""

    def __init__(self) -> None:  # without parameters, which that of torch would take
        super().__init__()

    def forward(
        self, outputs: Tensor, targets: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Return the mean of the samples' losses, each times its weight if there are weights."""
        losses = (outputs - targets).square().mean(1)
        return (losses if sample_weight is None else losses * sample_weight).mean()


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


def _size_of_weights(network: nn.Module) -> Tensor:
    return torch.stack([p.abs().sum() for p in network.parameters() if p.ndim > 1]).sum()


def _size_of_first_weights(network: nn.Module) -> Tensor:
    return torch.stack([weight.abs().sum() for weight in first_weights(network)]).sum()


def _squares_of_first_weights(network: nn.Module) -> Tensor:
    return torch.stack([weight.square().sum() for weight in first_weights(network)]).sum()


# What parameters of the classifiers of these names add to the training loss, biases left out.
PENALTIES: dict[str, Callable[[nn.Module], Tensor]] = {
    "l1": _size_of_weights,
    "l1_first": _size_of_first_weights,
    "l2_first": _squares_of_first_weights,
}


# Callbacks


class _StopTraining(KeyboardInterrupt):
    """A callback ends the training. Apart from it, an interrupt is the user's and is passed on."""


class _QuietPrintLog(PrintLog):
    """Print a line per epoch, and do not even format it where nobody would see it."""

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """Print the line if the net is verbose or there is a sink of the user's."""
        if net.verbose or self.sink is not print:
            super().on_epoch_end(net, **kwargs)


def _make_accuracy() -> EpochScoring:
    """Return a callback that scores the validation data, at less cost than skorch's."""
    return EpochScoring(_score_accuracy, name="valid_acc", lower_is_better=False)


def _score_accuracy(net: NeuralNet, X: Any, y: np.ndarray) -> float:
    """Return the share of right predictions, without checks that take longer than the count."""
    predictions = [logits.argmax(1) for logits in net.forward_iter(X)]
    return float((torch.cat(predictions).cpu().numpy() == y).mean())


def _count_at_once(iterator: str, size: Any, n_samples: int) -> int:
    """Return how many samples an iterator takes at once, all for skorch's -1; refuse no count."""
    size = n_samples if size == -1 else size
    if not is_positive_integer(size):
        raise ValueError(
            f"{iterator}__batch_size must be an integer of at least 1, or -1 for all samples, "
            f"got {size!r}."
        )
    return int(size)


def _follows_batches(callback: Callback, training: bool) -> bool:
    """Tell whether a callback takes part in the batches of the training or the validation."""
    if isinstance(callback, EpochScoring) and callback.on_train != training:
        return False
    return any(
        getattr(type(callback), method) is not getattr(Callback, method)
        for method in ("on_batch_begin", "on_batch_end")
    )


def _raised_by(callback: Callback, interrupt: KeyboardInterrupt) -> bool:
    """Tell whether one of the callback's own methods raised the interrupt to end the training."""
    # Ctrl-C arrives wherever Python happens to be, practically never in a callback's few lines.
    traceback = interrupt.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and traceback.tb_frame.f_locals.get("self") is callback
