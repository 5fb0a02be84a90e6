"""The base of every estimator: parameters, validation of samples, outputs, explanation.

`classifier` and `regressor` add what `y` is, `gradient` how a network is trained, and each
network's own file its architecture; an estimator is one of each.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Set
from numbers import Number
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, check_X_y, validate_data
from torch import Tensor, nn

from sklrp._checks import cut_error, is_positive_integer
from sklrp._constraints import ShortErrors
from sklrp._devices import to_host
from sklrp._matching import match_samples
from sklrp._missing import as_plain_array, forbid_masked, forbid_missing
from sklrp._numbers import is_real
from sklrp._overlaps import check_apart
from sklrp._rows import is_stream, map_batches
from sklrp._sklearn import check_own_params, check_sample_weight, num_samples
from sklrp._stored import Stored, as_stored, is_stored
from sklrp._wording import say_value
from sklrp.classifiers.data_sets import take_pairs
from sklrp.classifiers.diagram import network_block
from sklrp.classifiers.net import TrainingNet
from sklrp.classifiers.parameters import ParameterFields, param
from sklrp.classifiers.sample_shapes import (
    check_even,
    check_finite,
    check_not_single,
    check_sample_shape,
    flatten_samples,
)
from sklrp.classifiers.saved import is_range, is_shape
from sklrp.propagation.chunk import check_outputs
from sklrp.propagation.results import Layout
from sklrp.propagation.run import explain_network

# How scikit-learn validates X; `check_finite` tells more about NaN than it does.
_FORMAT: dict[str, Any] = {
    "dtype": [np.float64, np.float32],
    "order": "C",
    "ensure_all_finite": False,
}

_UNLABELLED = "leave samples without one out, X[~{name}.mask]"
_Method = TypeVar("_Method", bound=Callable[..., Any])


def undone_on_error(method: _Method) -> _Method:
    """Decorate a method that trains: if it raises, the estimator keeps the attributes it had."""

    @functools.wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = self.__dict__.copy()
        try:
            return method(self, *args, **kwargs)
        except BaseException as error:
            self.__dict__ = before
            if isinstance(error, TypeError | ValueError):
                cut_error(error)
            raise

    return wrapper  # type: ignore[return-value]


def as_weights(sample_weight: Any, X: Any, y: Any) -> NDArray[np.float64] | None:
    """Return the weights of samples as finite numbers of at least 0, None if there are none."""
    sample_weight = match_samples(to_host(sample_weight), X, "sample_weight")
    if sample_weight is None:
        return None
    is_other = isinstance(sample_weight, Number | str | bytes | Mapping | Set)
    if is_other and not is_real(sample_weight):
        raise ValueError(
            "sample_weight must be None, or hold a number for each sample, got "
            f"{say_value(sample_weight)}."
        )
    if is_real(sample_weight):  # one for all, as in scikit-learn
        sample_weight = np.full(num_samples(y), float(sample_weight))
    plain = as_plain_array(
        forbid_masked(sample_weight, "sample_weight", _UNLABELLED), "sample_weight", np.float64
    )
    rows = np.empty((num_samples(y), 0))
    weights: NDArray[np.float64] = check_sample_weight(
        plain, rows, dtype=np.float64, ensure_non_negative=True
    )
    if not np.isfinite(weights.sum()):
        bad = np.flatnonzero(~np.isfinite(weights))
        got = f"{weights[bad[0]]} for sample {bad[0]}" if bad.size else f"{weights.max():g}"
        raise ValueError(f"sample_weight must be finite, got {got}: leave such samples out.")
    if not weights.any():
        raise ValueError("sample_weight must have a non-zero value, got 0 for all: leave it out.")
    return weights


class NetworkEstimator(ParameterFields, ShortErrors, BaseEstimator, ABC):  # numpydoc ignore=PR02
    """Base of the estimators: samples in any form, the network, its outputs and relevance.

    A subclass for a kind of `y` defines `fit`, `_check_targets`, `_net` and `_n_outputs`; one for
    an architecture declares its parameters and defines `_find_input_shape`, `_network`,
    `_make_net` and `_train`.

    Parameters
    ----------
    device : str or torch.device, default="auto"
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"`` or ``"auto"``, which is CUDA if there is
        such a device, else the CPU.
    dtype : {"auto", "float32", "float64"}, default="auto"
        Floating dtype of the network. ``"auto"``: on the CPU the dtype of X (float64 if X holds
        integers), on an accelerator float32.
    random_state : int, RandomState instance or None, default=None
        Seed of everything that is drawn: the initial parameters and, in training by gradient, the
        order of the samples, dropout and the validation split. Torch's and NumPy's global
        generators are left as they are. None (default): a new seed at every fit.

    Attributes
    ----------
    n_features_in_ : int
        Number of values of a sample.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X is a DataFrame of named columns.
    input_shape_ : tuple of int
        Shape in which the network takes a sample.
    input_range_ : tuple of float
        Smallest and largest value of the training data, the default bounds of `ZBox`.
    """

    device: str | torch.device = param(default="auto", allowed=[str, torch.device])
    dtype: Any = param(default="auto", allowed=[str, type, np.dtype, torch.dtype])
    random_state: int | np.random.RandomState | None = param(
        default=None, allowed=["random_state"], may_change=True
    )

    # What `sklrp.save` keeps beside the net, and the form of each; of all bases, see `_saved`.
    _kept: ClassVar[Mapping[str, Callable[[Any], bool]]] = {
        "n_features_in_": is_positive_integer,
        "input_shape_": is_shape,
        "input_range_": is_range,
    }
    # What scikit-learn's check of `y` is told.
    _targets: ClassVar[Mapping[str, Any]] = {}

    @property
    def _saved(self) -> dict[str, Callable[[Any], bool]]:
        """What `sklrp.save` keeps of the fitted estimator beside its net, and its form."""
        bases = reversed(type(self).__mro__)
        return {name: form for b in bases for name, form in vars(b).get("_kept", {}).items()}

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "net_")

    def _sk_visual_block_(self) -> Any:
        """Return what scikit-learn's diagram shows: once fitted, the network and its rules."""
        check_is_fitted(self)  # before, scikit-learn draws the estimator alone
        return network_block(self)

    # What a subclass defines

    @abstractmethod
    def _find_input_shape(self, sample_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape in which the network takes samples given in ``sample_shape``."""

    @abstractmethod
    def _network(self, n_outputs: int) -> Callable[[], nn.Module]:
        """Return what builds the network for samples of ``input_shape_``."""

    @abstractmethod
    def _make_net(self, X_dtype: np.dtype) -> TrainingNet:
        """Return a new net, not initialised, after all its parameters have been checked."""

    @abstractmethod
    def _train(
        self,
        X: NDArray,
        targets: NDArray,
        weight: NDArray | None,
        *,
        resume: bool,
        epochs: int | None = None,
    ) -> Any:
        """Train a new network, or go on with the present one; then call `_keep`."""

    # What a subclass for a kind of y defines

    @property
    @abstractmethod
    def _n_outputs(self) -> int:
        """The number of outputs of the network."""

    @abstractmethod
    def _net(self, **params: Any) -> TrainingNet:
        """Return a net, not initialised, that trains the network on the kind's targets."""

    @abstractmethod
    def _check_targets(self, y: Any) -> None:
        """Raise an error unless y, as the user gave it, holds what the network is trained on."""

    @abstractmethod
    def _check_unchanged(self) -> None:
        """Raise an error if the fitted network no longer goes with the parameters."""

    def _restore(self, net: TrainingNet, history: list[dict[str, Any]]) -> None:
        """Take back a net that `sklrp.load` has built; the saved attributes are there already."""
        self.net_ = net

    def _resumes(self) -> bool:
        """Tell whether `fit` continues the training of the present network."""
        return False

    def _goes_on(self) -> bool:
        """Tell whether `partial_fit` goes on with a network, unchanged, or starts one."""
        if not hasattr(self, "net_"):
            return False
        check_own_params(self)  # scikit-learn does so in the first call only
        self._check_unchanged()
        return True

    def _check_training_data(
        self, X: Any, y: Any, sample_weight: Any, *, reset: bool
    ) -> tuple[NDArray, NDArray, NDArray | None]:
        """Return validated samples in two dimensions, targets and weights."""
        X, y = take_pairs(X, y)
        y = match_samples(forbid_masked(to_host(y), "y", _UNLABELLED), X, "y")
        given = X
        stored = as_stored(X) if is_stored(X) else None
        if stored is None:
            check_even(X)
        # Of what is read part by part the first sample stands for all until they are read.
        X, sample_shape = flatten_samples(X if stored is None else stored[:1])
        if not reset and sample_shape is not None:
            self._check_sample_shape(sample_shape)
        self._check_targets(y)
        if y is not None:  # without y scikit-learn says what requires it
            forbid_missing(y)
        if stored is not None:
            X = validate_data(self, X, reset=reset, **_FORMAT)
            places = np.zeros((len(stored), 1))
            with np.errstate(invalid="ignore"):
                y = check_X_y(places, y, estimator=self, **self._targets)[1]
        else:
            with np.errstate(invalid="ignore"):  # infinities of both signs, whose error comes next
                X, y = validate_data(self, X, y, reset=reset, **_FORMAT, **self._targets)
            check_finite(X)
        if sample_shape is None:
            sample_shape = X.shape[1:]
        if reset:
            self.input_shape_ = self._find_input_shape(sample_shape)
        self._check_sample_shape(sample_shape)
        if stored is not None:
            X = self._check_samples(stored)[0]
            X.max()  # reads, and so checks, all of them before anything is trained
        return X, y, as_weights(sample_weight, given, y)

    def _keep(self, net: TrainingNet, X: NDArray | Stored, *, resume: bool) -> None:
        """Remember what the training gave."""
        low, high = self.input_range_ if resume else (math.inf, -math.inf)
        self.input_range_: tuple[float, float] = (
            min(low, float(X.min())),
            max(high, float(X.max())),
        )
        self.net_ = net

    @property
    def module_(self) -> nn.Sequential:
        """The trained network."""
        return self.net_.module_

    def _outputs(self, X: Any) -> Tensor:
        """Return the network's outputs for samples of any valid form, on the CPU."""
        if not self.__sklearn_is_fitted__():
            check_is_fitted(self)  # raises, and takes longer than a small network
        if is_stream(X):
            return torch.cat(list(map_batches(self._outputs, X)))
        X, _ = self._check_samples(X)
        outputs = self.net_.outputs(X)
        check_outputs(
            outputs, "its weights are NaN or too large: fit it anew, with a smaller lr or scaled X"
        )
        return outputs

    def _check_samples(self, X: Any) -> tuple[NDArray[np.floating] | Stored, tuple[int, ...]]:
        """Return validated samples in two dimensions and the shape in which a sample came.

        Those in a file or in chunks are validated when they are read.
        """
        if is_stored(X):
            stored = as_stored(X)
            return stored.map(lambda rows: self._check_samples(rows)[0]), stored.shape[1:]
        if self._is_checked(X):
            check_finite(X)
            return X, X.shape[1:]
        check_even(X)
        check_not_single(X, self.n_features_in_)
        X, sample_shape = flatten_samples(X)
        if sample_shape is not None:  # before scikit-learn, to which samples are rows
            self._check_sample_shape(sample_shape)
        X = validate_data(self, X, reset=False, **_FORMAT)
        check_finite(X)
        if sample_shape is None:
            sample_shape = X.shape[1:]
        self._check_sample_shape(sample_shape)
        return X, sample_shape

    def _is_checked(self, X: Any) -> bool:
        """Tell whether every check but that for NaN would return X as it is."""
        return (
            type(X) is np.ndarray
            and X.ndim == 2
            and X.shape[1] == self.n_features_in_
            and X.size > 0
            and X.dtype in _FORMAT["dtype"]
            and X.flags.c_contiguous
            and not hasattr(self, "feature_names_in_")
        )

    def _check_sample_shape(self, sample_shape: tuple[int, ...]) -> None:
        """Raise an error unless samples of this shape can be laid out as the network's input."""
        check_sample_shape(sample_shape, self.input_shape_, type(self).__name__)

    def _explain(
        self,
        module: nn.Module,
        X: Any,
        decode: Callable[[int], tuple[Any, NDArray | None]],
        *,
        classes: NDArray | None = None,
        **options: Any,
    ) -> tuple[NDArray, Any]:
        """Return the relevance of samples for the outputs of a network, and the details or None.

        `decode` returns, for a number of samples, the target and what an output's unit is worth,
        in the shape of the scores or so that it broadcasts. The options are the other parameters
        of `explain_network`.
        """
        check_apart(options.get("out"), "out", X, "X")
        given = getattr(X, "dtype", None)
        X, sample_shape = self._check_samples(X)
        dtype = given if isinstance(given, np.dtype) and given.kind == "f" else X.dtype
        target, units = decode(len(X))
        result = explain_network(
            module,
            X,
            target=target,
            classes=classes,
            bounds=self.input_range_,
            finite=True,
            layout=Layout(sample_shape, dtype, units),
            **options,
        )
        if options["layers"] is None and not options["return_details"]:
            return result, None
        relevance, details = result
        if units is not None:
            details.rescale(units)
        details.convert(dtype)
        return relevance, details
