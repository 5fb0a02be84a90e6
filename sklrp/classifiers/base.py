"""What the classifiers have in common: parameters, validation, training, prediction."""

from __future__ import annotations

import copy
import functools
import inspect
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from skorch.callbacks import EarlyStopping
from skorch.history import History
from torch import Tensor, nn

from sklrp.classifiers.shapes import check_finite, flatten_samples, write_shape
from sklrp.classifiers.training import (
    RandomStream,
    TrainingNet,
    check_callbacks,
    check_device,
    check_dtype,
    check_names,
    check_optimizer,
    make_dataset,
    optimizer_params,
)
from sklrp.composites import Composite
from sklrp.modules import ACTIVATIONS
from sklrp.propagation.engine import encode_target, explain_network
from sklrp.rules import Rule

_COMMON_PARAMETERS = """\
max_epochs : int, default=50
    Number of passes over the training data in `fit`; `partial_fit` makes one.
batch_size : int or "auto", default="auto"
    Number of samples in a step of the optimizer. ``"auto"`` is a tenth of the samples, at least
    32 and at most 200.
optimizer : str or subclass of torch.optim.Optimizer, default="adam"
    ``"adadelta"``, ``"adagrad"``, ``"adam"``, ``"adamax"``, ``"adamw"``, ``"lbfgs"``,
    ``"nadam"``, ``"radam"``, ``"rmsprop"``, ``"sgd"`` or a class. Its arguments are parameters
    ``optimizer__<name>``.
weight_decay : float, default=0.0
    L2 penalty, as the optimizer defines it.
l1 : float, default=0.0
    Factor of the sum of all absolute weights (biases left out) in the training loss.
early_stopping : bool, default=False
    Whether to set samples aside, to stop when the loss on them no longer falls and to restore the
    parameters of the best epoch.
validation_fraction : float, default=0.1
    Share of the samples that are set aside, stratified by class where the classes are large
    enough. Only with ``early_stopping=True``.
patience : int, default=10
    Number of epochs without a better loss after which the training stops. Only with
    ``early_stopping=True``.
class_weight : dict, "balanced" or None, default=None
    Weight of each class's samples in the loss, 1 for classes that the dict does not name.
    ``"balanced"`` gives every class the same total weight among the samples given.
callbacks : list or None, default=None
    Callbacks of skorch, or tuples ``(name, callback)``; copied. They see the classes as numbers
    from 0. Their arguments are parameters ``callbacks__<name>__<argument>``.
warm_start : bool, default=False
    Whether another `fit` goes on with the network, the optimizer's state and the callbacks of
    the one before. It takes the present `lr`, `batch_size`, `max_epochs`, `l1`, `class_weight`,
    `validation_fraction` and `verbose`, draws only the validation split from `random_state`, and
    ignores `callbacks`. Any other parameter that has changed is an error, as in `partial_fit`.
device : str or torch.device, default="auto"
    ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"`` or ``"auto"``, which is CUDA if there is such
    a device, else the CPU. The training data is moved to a CUDA device once, if it takes at most
    half of the free memory there, and else batch by batch, as with
    ``iterator_train__device="cpu"``.
dtype : {"auto", "float32", "float64"}, default="auto"
    Floating dtype of the network. ``"auto"`` is that of X on the CPU (float64 if X holds
    integers), float32 on an accelerator.
random_state : int, RandomState instance or None, default=None
    Seed of the initial parameters, the order of the samples, dropout and the validation split.
    Torch's and NumPy's global generators are left as they are. None draws a new seed.
verbose : int, default=0
    Whether skorch prints a line per epoch.
**kwargs : dict
    skorch's double-underscore parameters: ``optimizer__<name>``, ``callbacks__<name>``,
    ``callbacks__<name>__<argument>``, ``iterator_train__batch_size``,
    ``iterator_train__shuffle``, ``iterator_train__drop_last``, ``iterator_train__device``,
    ``iterator_valid__batch_size``, ``criterion__label_smoothing``. They are parameters like any
    other, also in `GridSearchCV`.

Attributes
----------
classes_ : ndarray of shape (n_classes,)
    The class labels, sorted, in the order of the network's logits.
n_features_in_ : int
    Number of values of a sample.
feature_names_in_ : ndarray of shape (n_features_in_,)
    Names of the features, if X is a DataFrame of named columns.
input_shape_ : tuple of int
    Shape in which the network takes a sample.
input_range_ : tuple of float
    Smallest and largest value of the training data, the default bounds of `ZBox`.
net_ : skorch.NeuralNetClassifier
    The trained net, on encoded labels ``0, ..., n_classes - 1``.
module_ : torch.nn.Sequential
    Its network: takes ``(n_samples, n_features_in_)``, returns logits ``(n_samples, n_classes)``.
history_ : skorch.history.History
    Losses and times of each epoch.
n_iter_ : int
    Number of epochs of training so far.

Notes
-----
The loss is the cross-entropy, averaged over a batch with the samples' weights, which `fit` scales
to a mean of one. With a single batch per epoch, a weight of two is the same as giving a sample
twice; with several it is so on average only, as the batches differ.\
"""


# How scikit-learn validates X; `check_finite` tells more about NaN than it does.
_FORMAT: dict[str, Any] = {
    "dtype": [np.float64, np.float32],
    "order": "C",
    "ensure_all_finite": False,
}

# What may change between two trainings of the same network.
_MAY_CHANGE = frozenset(
    {
        "batch_size",
        "callbacks",
        "class_weight",
        "l1",
        "lr",
        "max_epochs",
        "random_state",
        "validation_fraction",
        "verbose",
        "warm_start",
    }
)

_Method = TypeVar("_Method", bound=Callable[..., Any])


def _undone_on_error(method: _Method) -> _Method:
    """Decorate a method that trains: if it raises, the estimator keeps the attributes it had."""

    @functools.wraps(method)
    def wrapper(self: NetworkClassifier, *args: Any, **kwargs: Any) -> Any:
        before = self.__dict__.copy()
        try:
            return method(self, *args, **kwargs)
        except BaseException:
            self.__dict__ = before
            raise

    return wrapper  # type: ignore[return-value]


def _makes_single_epochs(classifier: NetworkClassifier) -> bool:
    """Tell that there is a `partial_fit`, or raise the error of its absence."""
    if classifier.early_stopping:
        raise AttributeError(
            "partial_fit makes a single epoch, so it does not go with early_stopping=True: use "
            "fit with warm_start=True, or set early_stopping=False."
        )
    return True


class NetworkClassifier(ClassifierMixin, BaseEstimator, ABC):  # numpydoc ignore=PR01
    """Base of the classifiers: validation, training, prediction and explanation.

    A subclass stores the parameters of its network, names their constraints and defines
    `_find_input_shape` and `_network`. In its docstring, the parameter ``**kwargs`` stands for
    those that all classifiers share.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "bias": ["boolean"],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "lr": [Interval(Real, 0, None, closed="neither")],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "optimizer": [str, type],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "l1": [Interval(Real, 0, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "patience": [Interval(Integral, 1, None, closed="left")],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "callbacks": [list, tuple, None],
        "warm_start": ["boolean"],
        "device": [str, torch.device],
        "dtype": [str, type, np.dtype, torch.dtype],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    classes_: NDArray
    input_range_: tuple[float, float]
    input_shape_: tuple[int, ...]
    n_iter_: int
    net_: TrainingNet
    _fixed_params: dict[str, str]
    _random_stream_state: dict[str, Tensor]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__doc__:
            cls.__doc__ = inspect.cleandoc(cls.__doc__).replace(
                "**kwargs : dict\n    The parameters that all classifiers share.",
                _COMMON_PARAMETERS,
            )

    def __init__(
        self,
        *,
        lr: float,
        max_epochs: int,
        batch_size: int | str,
        optimizer: str | type[torch.optim.Optimizer],
        weight_decay: float,
        l1: float,
        early_stopping: bool,
        validation_fraction: float,
        patience: int,
        class_weight: Mapping[Any, float] | str | None,
        callbacks: Sequence[Any] | None,
        warm_start: bool,
        device: str | torch.device,
        dtype: Any,
        random_state: int | np.random.RandomState | None,
        verbose: int,
        skorch_params: dict[str, Any],
    ) -> None:
        self.lr = lr
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.weight_decay = weight_decay
        self.l1 = l1
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.class_weight = class_weight
        self.callbacks = callbacks
        self.warm_start = warm_start
        self.device = device
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose
        self._skorch_params = skorch_params

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "net_")

    # What a subclass defines

    @abstractmethod
    def _find_input_shape(self, sample_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape in which the network takes samples given in ``sample_shape``."""

    @abstractmethod
    def _network(self, n_outputs: int) -> Callable[[], nn.Module]:
        """Return what builds the network for samples of ``input_shape_``."""

    def _own_callbacks(self) -> list[tuple[str, Any]]:
        """Return the callbacks that the parameters ask for."""
        if not self.early_stopping:
            return []
        return [("early_stopping", EarlyStopping(patience=self.patience, load_best=True))]

    # Parameters

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

    def set_params(self, **params: Any) -> NetworkClassifier:
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

    # Training

    @_fit_context(prefer_skip_nested_validation=True)
    @_undone_on_error
    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> NetworkClassifier:
        """Train the network.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, *input_shape)
            The training samples.
        y : array-like of shape (n_samples,)
            Their class labels, of at least two classes.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weights of the samples, not negative; None weighs all samples the same.

        Returns
        -------
        self : estimator
            The fitted estimator.

        Raises
        ------
        ValueError
            If the data or a parameter is malformed, before any training; or if it diverges.
        """
        resume = self.warm_start and hasattr(self, "net_")
        if resume:
            self._check_fixed_params()
        X, y, sample_weight = self._check_training_data(X, y, sample_weight, reset=not resume)
        classes = self.classes_ if resume else np.unique(y)
        codes = self._encode_labels(y, classes)
        weight = self._weigh(codes, sample_weight, classes)
        present = classes[np.unique(codes if weight is None else codes[weight > 0])].tolist()
        if len(present) < 2:
            raise ValueError(
                f"{type(self).__name__} needs samples of at least 2 classes with a positive "
                f"weight, got {len(present)} class{'es' * (len(present) != 1)} in y, {present}: "
                "add samples of another class, or raise its weight in sample_weight or "
                "class_weight."
            )
        if weight is not None:
            weight = weight * (len(weight) / weight.sum())
        return self._train(X, codes, weight, classes, epochs=self.max_epochs, resume=resume)

    @available_if(_makes_single_epochs)
    @_fit_context(prefer_skip_nested_validation=True)
    @_undone_on_error
    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> NetworkClassifier:
        """Go on training for one epoch over the given samples.

        Use it for data that arrives in parts; there is none with ``early_stopping=True``. On an
        estimator that is not fitted yet it starts the training; n calls with the same samples
        train as ``fit`` with ``max_epochs=n`` does.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, *input_shape)
            Training samples.
        y : array-like of shape (n_samples,)
            Their class labels.
        classes : array-like of shape (n_classes,) or None, default=None
            All labels that will ever occur, needed in the first call if `y` lacks some.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weights of the samples, not negative. Unlike in `fit` they are not scaled, as one part
            does not know the weights of the others.

        Returns
        -------
        self : estimator
            The fitted estimator.

        Raises
        ------
        ValueError
            If the data or a parameter is malformed, before any training; or if it diverges.
        """
        resume = hasattr(self, "net_")
        if resume:
            self._validate_params()  # scikit-learn does so in the first call only
            self._check_fixed_params()
        X, y, sample_weight = self._check_training_data(X, y, sample_weight, reset=not resume)
        known = self.classes_ if resume else np.unique(y if classes is None else classes)
        if resume and classes is not None and not np.array_equal(np.unique(classes), known):
            raise ValueError(
                f"classes={np.unique(classes).tolist()} differ from those of the first call, "
                f"{known.tolist()}."
            )
        if len(known) < 2:
            raise ValueError(
                f"{type(self).__name__} needs at least 2 classes, got 1 class, "
                f"{known.tolist()}: name all of them in classes=."
            )
        codes = self._encode_labels(y, known)
        weight = self._weigh(codes, sample_weight, known)
        return self._train(X, codes, weight, known, epochs=1, resume=resume)

    def _check_training_data(
        self, X: Any, y: Any, sample_weight: Any, *, reset: bool
    ) -> tuple[NDArray, NDArray, NDArray | None]:
        """Return validated samples in two dimensions, labels and weights."""
        X, sample_shape = flatten_samples(X)
        X, y = validate_data(self, X, y, reset=reset, **_FORMAT)
        check_finite(X)
        check_classification_targets(y)
        if sample_shape is None:
            sample_shape = X.shape[1:]
        if reset:
            self.input_shape_ = self._find_input_shape(sample_shape)
        self._check_sample_shape(sample_shape)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(
                sample_weight, X, dtype=np.float64, ensure_non_negative=True
            )
        return X, y, sample_weight

    def _encode_labels(self, y: NDArray, classes: NDArray) -> NDArray[np.int64]:
        """Return the positions of the labels in ``classes``."""
        positions = {label: i for i, label in enumerate(classes.tolist())}
        unknown = sorted({repr(label) for label in y.tolist() if label not in positions})
        if unknown:
            raise ValueError(
                f"y has the unknown labels {', '.join(unknown)}; the classes of the training so "
                f"far are {classes.tolist()}. Name all of them in partial_fit(classes=...), or "
                "fit anew with warm_start=False."
            )
        return np.array([positions[label] for label in y.tolist()], dtype=np.int64)

    def _weigh(
        self, codes: NDArray[np.int64], sample_weight: NDArray | None, classes: NDArray
    ) -> NDArray[np.float64] | None:
        """Return each sample's weight, of its own and of its class, or None if all are one."""
        if self.class_weight is None:
            return sample_weight
        weight = np.ones(len(codes)) if sample_weight is None else sample_weight
        if isinstance(self.class_weight, str):
            totals = np.bincount(codes, weights=weight, minlength=len(classes))
            share = weight.sum() / np.count_nonzero(totals)
            of_class = np.divide(share, totals, out=np.zeros(len(classes)), where=totals > 0)
        else:
            labels = classes.tolist()
            unknown = [label for label in self.class_weight if label not in labels]
            if unknown:
                raise ValueError(f"class_weight names {unknown}, but the classes are {labels}.")
            of_class = np.array(
                [self.class_weight.get(label, 1.0) for label in labels], dtype=float
            )
            if not (np.isfinite(of_class).all() and (of_class >= 0).all()):
                raise ValueError(
                    "class_weight must hold finite weights of at least 0, got "
                    f"{self.class_weight!r}."
                )
        weight = weight * of_class[codes]
        if not weight.any():
            raise ValueError(
                f"class_weight={self.class_weight!r} and sample_weight leave only zero weights."
            )
        return weight

    def _train(
        self,
        X: NDArray,
        codes: NDArray[np.int64],
        weight: NDArray | None,
        classes: NDArray,
        *,
        epochs: int,
        resume: bool,
    ) -> NetworkClassifier:
        """Train a new network, or the one that there is, on validated data."""
        seed = _draw_seed(self.random_state)
        rows, held_out = self._split(codes, weight, seed)
        n_train = len(codes) if rows is None else len(rows)
        batch_size = self.batch_size
        if batch_size == "auto":
            batch_size = min(200, max(32, n_train // 10))
        batch_size = min(int(batch_size), n_train)

        if resume:
            net = self.net_
            self._resume(net, batch_size)
        else:
            net = self._make_net(X.dtype, len(classes), batch_size)

        def dataset(rows: NDArray | None) -> Any:
            samples, labels, weights = X, codes, weight
            if rows is not None:
                samples, labels = X[rows], codes[rows]
                weights = None if weight is None else weight[rows]
            return make_dataset(torch.tensor(samples, dtype=net.dtype), labels, weights)

        start = self._random_stream_state if resume else seed
        with RandomStream(torch.device(net.device), start) as stream:
            if not resume:
                net.initialize()
            valid = None if held_out is None else dataset(held_out)
            net.train(dataset(rows), epochs, valid)
        low, high = self.input_range_ if resume else (math.inf, -math.inf)
        self.input_range_ = (min(low, float(X.min())), max(high, float(X.max())))
        self.classes_ = classes
        self.net_ = net
        self.n_iter_ = len(net.history)
        self._random_stream_state = stream.state
        self._fixed_params = self._describe_fixed_params()
        return self

    def _split(
        self, codes: NDArray[np.int64], weight: NDArray | None, seed: int
    ) -> tuple[NDArray | None, NDArray | None]:
        """Return the rows to train on and those to validate on, or None for all and for none.

        Samples of weight zero tell nothing of the loss, and are left to the training.
        """
        if not self.early_stopping:
            return None, None
        weight = np.ones(len(codes)) if weight is None else weight
        weighted, others = np.flatnonzero(weight), np.flatnonzero(weight == 0)
        codes = codes[weighted]
        n_samples = len(codes)
        n_held_out = math.ceil(self.validation_fraction * n_samples)
        if n_held_out >= n_samples:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} leaves none of the {n_samples} "
                "samples to train on: use a smaller one, or early_stopping=False."
            )
        counts = np.bincount(codes)
        counts = counts[counts > 0]
        stratify = counts.min() >= 2 and min(n_held_out, n_samples - n_held_out) >= len(counts)
        splitter = StratifiedShuffleSplit if stratify else ShuffleSplit
        split = splitter(n_splits=1, test_size=n_held_out, random_state=seed)
        rows, held_out = next(split.split(codes, codes))
        return np.concatenate([weighted[rows], others]), weighted[held_out]

    def _make_net(self, X_dtype: np.dtype, n_outputs: int, batch_size: int) -> TrainingNet:
        """Return a new net, not initialised, after all its parameters have been checked."""
        device = check_device(self.device)
        dtype = check_dtype(self.dtype, X_dtype, device)
        optimizer = check_optimizer(self.optimizer)
        params = copy.deepcopy(self._skorch_params)
        net = TrainingNet(
            self._network(n_outputs),
            n_classes=n_outputs,
            dtype=dtype,
            l1=self.l1,
            optimizer=optimizer,
            lr=self.lr,
            max_epochs=self.max_epochs,
            batch_size=batch_size,
            callbacks=self._own_callbacks() + check_callbacks(self.callbacks),
            device=str(device),
            verbose=int(self.verbose),
            **optimizer_params(optimizer, params, self.weight_decay, device),
        )
        own = super().get_params(deep=False)
        check_names(net, params, own, type(self).__name__)
        data_device = params.pop("iterator_train__device", "auto")
        if data_device not in ("auto", None):
            params["iterator_train__device"] = check_device(data_device, "iterator_train__device")
        for name, value in params.items():
            setattr(net, name, value)
        return net

    def _resume(self, net: TrainingNet, batch_size: int) -> None:
        """Give a trained net the parameters that may have changed."""
        if self.lr != net.lr:
            net.set_params(lr=self.lr)
            net.lr = self.lr
        net.batch_size = batch_size
        net.l1 = self.l1
        net.verbose = int(self.verbose)

    def _describe_fixed_params(self) -> dict[str, str]:
        """Return in words the parameters that may not change while the training goes on."""
        described = {}
        for name, value in self.get_params(deep=False).items():
            if name not in _MAY_CHANGE:
                text = str(value) if name in ("device", "dtype") else repr(value)
                described[name] = re.sub(" at 0x[0-9a-f]+", "", text)  # differs after unpickling
        return described

    def _check_fixed_params(self) -> None:
        """Raise an error if a parameter has changed that a trained net cannot take."""
        before, now = self._fixed_params, self._describe_fixed_params()
        for name in {**now, **before}:
            old, new = (params.get(name, "(not given)") for params in (before, now))
            if old != new:
                raise ValueError(
                    f"{name}={new} differs from {name}={old} of the training so far, which "
                    "cannot go on with it: set it back, or fit anew with warm_start=False."
                )

    # Prediction

    @property
    def module_(self) -> nn.Sequential:
        """The trained network."""
        return self.net_.module_

    @property
    def history_(self) -> History:
        """The history of the training: losses and times of each epoch."""
        return self.net_.history

    def predict(self, X: ArrayLike) -> NDArray:
        """Predict the class of each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, *input_shape)
            The samples.

        Returns
        -------
        ndarray of shape (n_samples,)
            The labels with the largest logit.
        """
        logits = self._logits(X)
        return self.classes_[logits.argmax(1).numpy()]

    def predict_proba(self, X: ArrayLike) -> NDArray[np.floating]:
        """Return the probability of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, *input_shape)
            The samples.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            The softmax of the logits, in the order of `classes_`.
        """
        return self._logits(X).softmax(1).numpy()

    def predict_log_proba(self, X: ArrayLike) -> NDArray[np.floating]:
        """Return the logarithm of the probability of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, *input_shape)
            The samples.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            The logarithms, in the order of `classes_`.
        """
        return self._logits(X).log_softmax(1).numpy()

    def decision_function(self, X: ArrayLike) -> NDArray[np.floating]:
        """Return the logits, which `explain` takes apart.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, *input_shape)
            The samples.

        Returns
        -------
        ndarray of shape (n_samples, n_classes) or (n_samples,)
            The logits, in the order of `classes_`; of two classes the difference of the second
            and the first.
        """
        logits = self._logits(X)
        return (logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits).numpy()

    def _logits(self, X: Any) -> Tensor:
        """Return the logits of samples of any valid form, on the CPU."""
        check_is_fitted(self)
        X, _ = self._check_samples(X)
        X = torch.from_numpy(X) if X.flags.writeable else torch.tensor(X)
        return torch.cat(list(self.net_.forward_iter(X)))

    def _check_samples(self, X: Any) -> tuple[NDArray[np.floating], tuple[int, ...]]:
        """Return validated samples in two dimensions and the shape in which a sample came."""
        X, sample_shape = flatten_samples(X)
        X = validate_data(self, X, reset=False, **_FORMAT)
        check_finite(X)
        if sample_shape is None:
            sample_shape = X.shape[1:]
        self._check_sample_shape(sample_shape)
        return X, sample_shape

    def _check_sample_shape(self, sample_shape: tuple[int, ...]) -> None:
        """Raise an error unless samples of this shape can be laid out as the network's input."""
        shape, flat = self.input_shape_, (math.prod(self.input_shape_),)
        if sample_shape in (shape, (1, *shape), flat) or (1, *sample_shape) == shape:
            return
        forms = [("n_samples", *flat), ("n_samples", *shape)]
        raise ValueError(
            f"X has shape {write_shape(('n_samples', *sample_shape))}, but "
            f"input_shape={self.input_shape_} of {type(self).__name__} expects "
            f"{' or '.join(map(write_shape, forms))}, where a channel axis of length 1 may be "
            "left out: reshape X or change input_shape."
        )

    # Explanation

    def explain(
        self,
        X: ArrayLike,
        *,
        target: Any = None,
        rule: str | Rule | Composite = "auto",
        epsilon: float = 1e-6,
        contrast: bool = False,
        batch_size: int | None = None,
        n_jobs: int | None = None,
        progress: bool = False,
        return_details: bool = False,
    ) -> Any:
        """Return the relevance of each value of X for a class, by layer-wise propagation.

        The relevance of a sample is in units of the explained logit. It is laid out as X is:
        reshaping and sweeping are undone.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, *input_shape)
            The samples.
        target : None, label, array-like of shape (n_samples,) or "all", default=None
            The class that is explained: None the predicted class of each sample, one label for
            all samples, one label for each, or every class (also where a class is named "all").
        rule : str, Rule or Composite, default="auto"
            How relevance is passed on. ``"auto"`` is the z-plus rule on convolutions and the
            epsilon rule on other layers; see `sklrp.available_rules` for the other names.
        epsilon : float, default=1e-6
            Stabiliser of the rules that have none of their own, at least 0, in units of
            pre-activations.
        contrast : bool, default=False
            Whether to explain the target's logit minus the largest of the others.
        batch_size : int or None, default=None
            Number of samples that are explained at once; None takes what keeps memory low.
        n_jobs : int or None, default=None
            Number of joblib's workers; None is one.
        progress : bool, default=False
            Whether to show a progress bar.
        return_details : bool, default=False
            Whether to return how much relevance each layer received and kept.

        Returns
        -------
        relevance : ndarray of the shape and floating dtype of X
            The relevance. With ``target="all"`` of shape ``(n_samples, n_classes, ...)``.
        details : Bunch
            Only with ``return_details=True``: ``score`` and ``target`` (as labels), each of shape
            ``(n_samples,)`` or ``(n_samples, n_classes)``, and ``layers``, see `sklrp.explain`.

        Raises
        ------
        ValueError
            If X, the target, the rule or another parameter is malformed.
        NotFittedError
            If the classifier is not fitted.

        References
        ----------
        Bach et al. 2015; Arras et al. 2017 for LSTMs; arXiv 2302.12317 for what maps are worth.
        """
        check_is_fitted(self)
        given = getattr(X, "dtype", None)
        X, sample_shape = self._check_samples(X)
        dtype = given if isinstance(given, np.dtype) and given.kind == "f" else X.dtype
        result = explain_network(
            self.module_,
            X,
            target=encode_target(target, self.classes_, len(X)),
            rule=rule,
            bounds=self.input_range_,
            epsilon=epsilon,
            contrast=contrast,
            batch_size=batch_size,
            n_jobs=n_jobs,
            progress=progress,
            return_details=return_details,
        )
        relevance, details = result if return_details else (result, None)
        relevance = relevance.reshape(*relevance.shape[:-1], *sample_shape).astype(
            dtype, copy=False
        )
        if details is None:
            return relevance
        details.target = self.classes_[details.target]
        return relevance, details


def _draw_seed(random_state: int | np.random.RandomState | None) -> int:
    """Return a seed for torch, without touching NumPy's global generator."""
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    return int(check_random_state(random_state).randint(2**31 - 1))
