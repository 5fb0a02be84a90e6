"""The base of the estimators that are trained by gradient: their parameters and their training.

Multilayer perceptrons, convolutional and LSTM networks derive from it. A training parameter is
declared here, once, for all of them.
"""

from __future__ import annotations

import copy
import functools
import math
import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import EarlyStopping
from skorch.history import History
from torch import Tensor, nn

from sklrp._checks import check_sizes, is_positive_integer
from sklrp._constraints import COUNT, NOT_NEGATIVE, PROBABILITY, Interval
from sklrp._random_stream import RandomStream, draw_seed, fit_state
from sklrp._sklearn import StrOptions
from sklrp._stored import Stored
from sklrp._warnings import warn_user
from sklrp.classifiers.base import NetworkEstimator
from sklrp.classifiers.batches import comes_in_windows, make_dataset
from sklrp.classifiers.chance import neighbours_agree
from sklrp.classifiers.net import PENALTIES, TrainingNet
from sklrp.classifiers.parameters import param
from sklrp.classifiers.saved import is_random_state
from sklrp.classifiers.settings import (
    check_callbacks,
    check_device,
    check_dtype,
    check_optimizer,
    check_skorch_names,
    optimizer_params,
)
from sklrp.modules import ACTIVATIONS

# What max_epochs="auto" stands for: at least so many passes, and so many steps of the optimizer;
# and the loss of an epoch after which it ends. Measured by `python -m tests.defaults`.
_EPOCHS, _STEPS, _ENOUGH = 25, 300, 0.005

# A training of fewer steps is no trial; one that lowers the loss of the best constant output by
# less than this share of it has not left chance.
_TRIED, _LEFT_CHANCE = 50, 0.03


def makes_single_epochs(estimator: GradientEstimator) -> bool:
    """Tell that there is a `partial_fit`, or raise the error of its absence."""
    if estimator.early_stopping:
        raise AttributeError(
            "partial_fit makes a single epoch, so it does not go with early_stopping=True: use "
            "fit with warm_start=True, or set early_stopping=False."
        )
    return True


class GradientEstimator(NetworkEstimator):  # numpydoc ignore=PR02
    """Base of the estimators whose parameters are all trained by gradient, with skorch.

    A subclass for an architecture declares its parameters, changes the defaults of shared ones,
    and defines `_find_input_shape` and `_architecture`; one for a kind of `y` defines
    `partial_fit` and `_make_splitter`.

    Parameters
    ----------
    lr : float, default=0.003
        Learning rate of the optimizer.
    max_epochs : int or "auto", default="auto"
        Number of passes over the training data in `fit`; `partial_fit` makes one. ``"auto"`` is
        25, or as many as make 300 steps of the optimizer, and ends after an epoch whose mean loss
        is below 0.005 (for values: 0.5 % of their variance), as there is little left to learn.
    batch_size : int or "auto", default="auto"
        Number of samples in a step of the optimizer. ``"auto"`` is a fortieth of the samples, at
        least 32 and at most 200.
    optimizer : str or subclass of torch.optim.Optimizer, default="adam"
        ``"adadelta"``, ``"adagrad"``, ``"adam"``, ``"adamax"``, ``"adamw"``, ``"lbfgs"``,
        ``"nadam"``, ``"radam"``, ``"rmsprop"``, ``"sgd"`` or a class. Its arguments are parameters
        ``optimizer__<name>``.
    weight_decay : float, default=0.0
        L2 penalty, as the optimizer defines it.
    l1 : float, default=0.0
        Factor of the sum of all absolute weights (biases left out) in the training loss.
    l1_first : float, default=0.0
        The same for the weights of the first weighted layer alone; in an LSTM, the input weights
        of its first layer. It keeps the network from leaning on inputs that it can do without.
    l2_first : float, default=0.0
        Factor of the sum of the squares of these weights. It spreads what the network looks at
        over redundant inputs.
    input_noise : float, default=0.0
        Standard deviation of Gaussian noise that is added to the input in training, in units of X.
        It makes weights on single inputs costly, and so spreads and smooths what a network looks
        at.
    input_dropout : float, default=0.0
        Probability with which a value of the input is dropped in training, so that a network
        cannot rest on few of them.
    early_stopping : bool, default=False
        Whether to set samples aside, to stop when the loss on them no longer falls and to restore
        the parameters of the best epoch.
    validation_fraction : float, default=0.1
        Share of the samples that are set aside. Only with ``early_stopping=True``.
    patience : int, default=10
        Number of epochs without a better loss after which the training stops. Only with
        ``early_stopping=True``.
    verbose : int, default=0
        Whether skorch prints a line per epoch.

    Attributes
    ----------
    history_ : skorch.history.History
        Losses and times of each epoch.
    n_iter_ : int
        Number of epochs of training so far.
    """

    hidden_layer_sizes: int | Sequence[int] = param(default=(), allowed=["array-like", COUNT])
    activation: str = param(default="relu", allowed=[StrOptions(set(ACTIVATIONS))])
    bias: bool | str = param(default=True, allowed=["boolean", StrOptions({"nonpositive"})])
    dropout: float = param(default=0.0, allowed=[PROBABILITY])
    lr: float = param(
        default=0.003, allowed=[Interval(Real, 0, 1e6, closed="right")], may_change=True
    )
    max_epochs: int | str = param(
        default="auto", allowed=[StrOptions({"auto"}), COUNT], may_change=True
    )
    batch_size: int | str = param(
        default="auto", allowed=[StrOptions({"auto"}), COUNT], may_change=True
    )
    optimizer: str | type[torch.optim.Optimizer] = param(default="adam", allowed=[str, type])
    weight_decay: float = param(default=0.0, allowed=[NOT_NEGATIVE])
    l1: float = param(default=0.0, allowed=[NOT_NEGATIVE], may_change=True)
    l1_first: float = param(default=0.0, allowed=[NOT_NEGATIVE], may_change=True)
    l2_first: float = param(default=0.0, allowed=[NOT_NEGATIVE], may_change=True)
    input_noise: float = param(default=0.0, allowed=[NOT_NEGATIVE])
    input_dropout: float = param(default=0.0, allowed=[PROBABILITY])
    early_stopping: bool = param(default=False, allowed=["boolean"])
    validation_fraction: float = param(
        default=0.1, allowed=[Interval(Real, 0, 1, closed="neither")], may_change=True
    )
    patience: int = param(default=10, allowed=[COUNT])
    callbacks: Sequence[Any] | None = param(
        default=None, allowed=[list, tuple, None], may_change=True
    )
    warm_start: bool = param(default=False, allowed=["boolean"], may_change=True)
    verbose: int = param(default=0, allowed=["verbose"], may_change=True)

    _kept: ClassVar[Mapping[str, Callable[[Any], bool]]] = {
        "n_iter_": is_positive_integer,
        "_random_stream_state": is_random_state,
    }

    @abstractmethod
    def _architecture(self, n_outputs: int) -> functools.partial[nn.Sequential]:
        """Return what builds the network, with the arguments that other classes do not have."""

    def _network(self, n_outputs: int) -> Callable[[], nn.Module]:
        return functools.partial(
            self._architecture(n_outputs),
            hidden_layer_sizes=check_sizes("hidden_layer_sizes", self.hidden_layer_sizes),
            activation=self.activation,
            bias=bool(self.bias),
            dropout=self.dropout,
            input_noise=self.input_noise,
            input_dropout=self.input_dropout,
        )

    def _own_callbacks(self) -> list[tuple[str, Any]]:
        """Return the callbacks that the parameters ask for."""
        if not self.early_stopping:
            return []
        return [("early_stopping", EarlyStopping(patience=self.patience, load_best=True))]

    def _keep_kwargs(self, kwargs: dict[str, Any]) -> None:
        """Keep skorch's double-underscore parameters; `fit` refuses those that do not exist."""
        self._skorch_params = kwargs

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters, skorch's double-underscore ones included.

        Parameters
        ----------
        deep : bool, default=True
            Whether to return the parameters of estimators among the parameters too.

        Returns
        -------
        dict
            The parameters by name.
        """
        return {**super().get_params(deep=deep), **self._skorch_params}

    def set_params(self, **params: Any) -> GradientEstimator:
        """Set parameters, skorch's double-underscore ones included.

        Parameters
        ----------
        **params : dict
            The parameters by name.

        Returns
        -------
        self : estimator
            The estimator.

        Raises
        ------
        ValueError
            If there is no such parameter. Unknown double-underscore names are refused by `fit`.
        """
        extra = {k for k in params if "__" in k or k in self._skorch_params}
        super().set_params(**{k: v for k, v in params.items() if k not in extra})
        self._skorch_params = {**self._skorch_params, **{k: params[k] for k in extra}}
        return self

    def _resumes(self) -> bool:
        """Tell whether `fit` goes on with the network that there is, unchanged."""
        resume = self.warm_start and hasattr(self, "net_")
        if resume:
            self._check_unchanged()
        return resume

    @abstractmethod
    def _make_splitter(self, targets: NDArray, n_held_out: int, seed: int) -> Any:
        """Return the splitter that sets samples aside, a class of scikit-learn's."""

    def _train(
        self,
        X: NDArray | Stored,
        targets: NDArray,
        weight: NDArray | None,
        *,
        resume: bool,
        epochs: int | None = None,
    ) -> GradientEstimator:
        """Train a new network, or go on with the present one, for `epochs` or `max_epochs`."""
        is_fit = epochs is None
        if is_fit and weight is not None:
            weight = weight * (len(weight) / weight.sum())
        seed = draw_seed(self.random_state)
        rows, held_out = self._split(targets, weight, seed)
        n_train = len(targets) if rows is None else len(rows)
        batch_size = self.batch_size
        if batch_size == "auto":
            batch_size = min(200, max(32, n_train // 40))
        batch_size = min(int(batch_size), n_train)

        if resume:
            net = self.net_
            self._resume(net, batch_size)
        else:
            net = self._make_net(X.dtype)
            net.batch_size = batch_size

        def dataset(rows: NDArray | None) -> Any:
            samples, y, weights = X, targets, weight
            if rows is not None:
                rows = np.sort(rows) if comes_in_windows(X) else rows  # each block is read once
                samples = X.take(rows) if isinstance(X, Stored) else X[rows]
                y, weights = targets[rows], None if weight is None else weight[rows]
            return make_dataset(samples, y, weights, dtype=net.dtype)

        start = self._random_stream_state if resume else seed
        stream = RandomStream(torch.device(net.device), start)
        if not resume:
            with stream:
                net.initialize()
        valid = None if held_out is None else dataset(held_out)
        samples = dataset(rows)
        net.enough = 0.0
        if epochs is None:
            epochs, net.enough = self._budget(net, samples)
        net.stream = stream
        net.train(samples, epochs, valid)
        if is_fit:
            kept = np.arange(len(targets)) if weight is None else np.flatnonzero(weight)
            self._warn_of_chance(net, samples, X, targets, kept)
        self._keep(net, X, resume=resume)
        self.n_iter_ = len(net.history)
        self._random_stream_state: dict[str, Tensor] = stream.state
        self._fixed_params = self._describe_fixed_params()
        return self

    def _budget(self, net: TrainingNet, samples: Any) -> tuple[int, float]:
        """Return how many epochs `fit` makes, and after which loss it ends before."""
        if not isinstance(self.max_epochs, str):
            return self.max_epochs, 0.0
        batches: Any = net.get_iterator(samples, training=True)
        return max(_EPOCHS, math.ceil(_STEPS / max(1, len(batches)))), _ENOUGH

    def _warn_of_chance(
        self,
        net: TrainingNet,
        samples: Any,
        X: NDArray | Stored,
        targets: NDArray,
        rows: NDArray[np.intp],
    ) -> None:
        """Warn if a training has not taken the network beyond a constant, though X tells y."""
        n_steps = sum(net.history[:, "train_batch_count"])
        if n_steps < _TRIED or net.skill(samples) >= _LEFT_CHANCE:
            return
        if neighbours_agree(X, targets, rows):
            warn_user(
                f"{type(self).__name__} has not left chance after {len(net.history)} epochs, "
                f"{n_steps} steps: it predicts its training data no better than a constant does, "
                "and its maps explain nothing, though samples that are alike have a y that is "
                f"alike. Standardise X, or try a larger max_epochs, another lr (now {self.lr}), "
                "fewer penalties or another network.",
                ConvergenceWarning,
            )

    def _split(
        self, targets: NDArray, weight: NDArray | None, seed: int
    ) -> tuple[NDArray | None, NDArray | None]:
        """Return the rows to train on and to validate on; None, None without early stopping."""
        # Samples of weight zero say nothing about the loss, so they stay in the training part.
        if not self.early_stopping:
            return None, None
        weight = np.ones(len(targets)) if weight is None else weight
        weighted, others = np.flatnonzero(weight), np.flatnonzero(weight == 0)
        targets = targets[weighted]
        n_samples = len(targets)
        n_held_out = math.ceil(self.validation_fraction * n_samples)
        if n_held_out >= n_samples:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} leaves none of the {n_samples} "
                "samples to train on: use a smaller one, or early_stopping=False."
            )
        splitter = self._make_splitter(targets, n_held_out, seed)
        rows, held_out = next(splitter.split(targets, targets))
        return np.concatenate([weighted[rows], others]), weighted[held_out]

    def _make_net(self, X_dtype: np.dtype) -> TrainingNet:
        device = check_device(self.device)
        dtype = check_dtype(self.dtype, X_dtype, device)
        optimizer = check_optimizer(self.optimizer)
        params = copy.deepcopy(self._skorch_params)
        callbacks = self._own_callbacks()
        callbacks += check_callbacks(self.callbacks, params, self.early_stopping)
        net = self._net(
            dtype=dtype,
            penalties=self._penalties,
            nonpositive_bias=self.bias == "nonpositive",
            optimizer=optimizer,
            lr=self.lr,
            max_epochs=self.max_epochs,
            callbacks=callbacks,
            device=str(device),
            verbose=int(self.verbose),
            **optimizer_params(optimizer, params, self.weight_decay, device),
        )
        own = super().get_params(deep=False)
        check_skorch_names(net, params, own, type(self).__name__)
        data_device = params.pop("iterator_train__device", "auto")
        if data_device not in ("auto", None):
            params["iterator_train__device"] = check_device(data_device, "iterator_train__device")
        for name, value in params.items():
            setattr(net, name, value)
        return net

    @property
    def _penalties(self) -> dict[str, float]:
        """The factor of each penalty in the training loss."""
        return {name: getattr(self, name) for name in PENALTIES}

    def _resume(self, net: TrainingNet, batch_size: int) -> None:
        """Give a trained net the parameters that may have changed since."""
        if self.lr != net.lr:
            net.set_params(lr=self.lr)
            net.lr = self.lr
        net.batch_size = batch_size
        net.penalties = self._penalties
        net.verbose = int(self.verbose)

    def _describe_fixed_params(self) -> dict[str, str]:
        """Return the parameters that may not change between trainings, as text."""
        described = {}
        for name, value in self.get_params(deep=False).items():
            if name not in self._fields or not self._fields[name].may_change:
                text = str(value) if name in ("device", "dtype") else repr(value)
                described[name] = re.sub(" at 0x[0-9a-f]+", "", text)  # differs after unpickling
        return described

    def _check_unchanged(self) -> None:
        """Raise an error if a parameter has changed that a trained net cannot take."""
        before, now = self._fixed_params, self._describe_fixed_params()
        for name in {**now, **before}:
            old, new = (params.get(name, "(not given)") for params in (before, now))
            if old != new:
                raise ValueError(
                    f"{name}={new} differs from {name}={old} of the training so far, which "
                    "cannot go on with it: set it back, or fit anew with warm_start=False."
                )

    def _restore(self, net: TrainingNet, history: list[dict[str, Any]]) -> None:
        super()._restore(net, history)
        net.history_ = History(history)
        device = torch.device(net.device)
        self._random_stream_state = fit_state(self._random_stream_state, device)
        self._fixed_params = self._describe_fixed_params()

    @property
    def history_(self) -> History:
        """The history of the training: losses and times of each epoch."""
        return self.net_.history
