"""The base of every classifier: validation, labels and weights, prediction, explanation.

`ESNClassifier` derives from it directly, the others by way of `GradientClassifier`.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from sklrp._checks import check_representable
from sklrp._devices import to_host
from sklrp._matching import match_samples
from sklrp._missing import forbid_masked
from sklrp._sklearn import StrOptions, check_sample_weight, fit_context
from sklrp.classifiers.diagram import network_block
from sklrp.classifiers.net import TrainingNet
from sklrp.classifiers.parameters import ParameterFields, param
from sklrp.classifiers.sample_shapes import (
    check_finite,
    check_sample_shape,
    flatten_samples,
    is_positive_integer,
)
from sklrp.classifiers.saved import are_labels, is_range, is_shape
from sklrp.composites import Composite
from sklrp.propagation.run import explain_network
from sklrp.rules import Rule

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
        except BaseException:
            self.__dict__ = before
            raise

    return wrapper  # type: ignore[return-value]


class NetworkClassifier(  # numpydoc ignore=PR02
    ClassifierMixin, ParameterFields, BaseEstimator, ABC
):
    """Base of the classifiers: validation, labels and weights, prediction and explanation.

    A subclass declares the parameters of its network and defines `_find_input_shape`, `_network`,
    `_make_net` and `_train`.

    Parameters
    ----------
    class_weight : dict, "balanced" or None, default=None
        Weight of each class's samples in the loss, 1 for classes that the dict does not name.
        ``"balanced"`` gives every class the same total weight in the training data. None
        (default): all weights are 1.
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
        Its network: takes ``(n_samples, n_features_in_)``, returns logits
        ``(n_samples, n_classes)``.
    """

    class_weight: Mapping[Any, float] | str | None = param(
        default=None, allowed=[dict, StrOptions({"balanced"}), None], may_change=True
    )
    device: str | torch.device = param(default="auto", allowed=[str, torch.device])
    dtype: Any = param(default="auto", allowed=[str, type, np.dtype, torch.dtype])
    random_state: int | np.random.RandomState | None = param(
        default=None, allowed=["random_state"], may_change=True
    )

    # What `sklrp.save` keeps of a fitted classifier beside its net, and the form of each.
    _saved: ClassVar[Mapping[str, Callable[[Any], bool]]] = {
        "classes_": are_labels,
        "n_features_in_": is_positive_integer,
        "input_shape_": is_shape,
        "input_range_": is_range,
    }

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
    def _make_net(self, X_dtype: np.dtype, n_outputs: int) -> TrainingNet:
        """Return a new net, not initialised, after all its parameters have been checked."""

    @abstractmethod
    def _train(
        self,
        X: NDArray,
        codes: NDArray[np.int64],
        weight: NDArray | None,
        classes: NDArray,
        *,
        resume: bool,
    ) -> NetworkClassifier:
        """Train a new network, or go on with the present one; then call `_keep`."""

    @abstractmethod
    def _check_unchanged(self) -> None:
        """Raise an error if the fitted network no longer goes with the parameters."""

    def _restore(self, net: TrainingNet, history: list[dict[str, Any]]) -> None:
        """Take back a net that `sklrp.load` has built; the saved attributes are there already."""
        self.net_ = net

    def _resumes(self) -> bool:
        """Tell whether `fit` continues the training of the present network."""
        return False

    @fit_context(prefer_skip_nested_validation=True)
    @undone_on_error
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
            Weights of the samples, not negative. None (default): all samples weigh the same.

        Returns
        -------
        self : estimator
            The fitted estimator.

        Raises
        ------
        ValueError
            If the data or a parameter is malformed, before any training; or if it diverges.
        """
        resume = self._resumes()
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
        return self._train(X, codes, weight, classes, resume=resume)

    def _check_training_data(
        self, X: Any, y: Any, sample_weight: Any, *, reset: bool
    ) -> tuple[NDArray, NDArray, NDArray | None]:
        """Return validated samples in two dimensions, labels and weights."""
        y = match_samples(forbid_masked(to_host(y), "y", _UNLABELLED), X, "y")
        sample_weight = match_samples(sample_weight, X, "sample_weight")
        X, sample_shape = flatten_samples(X)
        if not reset and sample_shape is not None:
            self._check_sample_shape(sample_shape)
        X, y = validate_data(self, X, y, reset=reset, **_FORMAT)
        check_finite(X)
        check_classification_targets(y)
        if sample_shape is None:
            sample_shape = X.shape[1:]
        if reset:
            self.input_shape_ = self._find_input_shape(sample_shape)
        self._check_sample_shape(sample_shape)
        if sample_weight is not None:
            sample_weight = check_sample_weight(
                forbid_masked(to_host(sample_weight), "sample_weight", _UNLABELLED),
                X,
                dtype=np.float64,
                ensure_non_negative=True,
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

    def _keep(self, net: TrainingNet, X: NDArray, classes: NDArray, *, resume: bool) -> None:
        """Remember what the training gave."""
        low, high = self.input_range_ if resume else (math.inf, -math.inf)
        self.input_range_: tuple[float, float] = (
            min(low, float(X.min())),
            max(high, float(X.max())),
        )
        self.classes_ = classes
        self.net_ = net

    @property
    def module_(self) -> nn.Sequential:
        """The trained network."""
        return self.net_.module_

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

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Return the share of samples whose class is predicted.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, *input_shape)
            The samples.
        y : array-like of shape (n_samples,)
            Their classes.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weights of the samples. None (default): all samples weigh the same.

        Returns
        -------
        float
            The accuracy.
        """
        return super().score(X, to_host(y), to_host(sample_weight))

    def _logits(self, X: Any) -> Tensor:
        """Return the logits of samples of any valid form, on the CPU."""
        check_is_fitted(self)
        X, _ = self._check_samples(X)
        X = torch.from_numpy(X) if X.flags.writeable else torch.tensor(X)
        return torch.cat(list(self.net_.forward_iter(X)))

    def _check_samples(self, X: Any) -> tuple[NDArray[np.floating], tuple[int, ...]]:
        """Return validated samples in two dimensions and the shape in which a sample came."""
        X, sample_shape = flatten_samples(X)
        if sample_shape is not None:  # before scikit-learn, to which samples are rows
            self._check_sample_shape(sample_shape)
        X = validate_data(self, X, reset=False, **_FORMAT)
        check_finite(X)
        if sample_shape is None:
            sample_shape = X.shape[1:]
        self._check_sample_shape(sample_shape)
        return X, sample_shape

    def _check_sample_shape(self, sample_shape: tuple[int, ...]) -> None:
        """Raise an error unless samples of this shape can be laid out as the network's input."""
        check_sample_shape(sample_shape, self.input_shape_, type(self).__name__)

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
        check: bool | str = "auto",
    ) -> Any:
        """Return the relevance of each value of X for a class, by layer-wise propagation.

        The relevance of a sample is in units of the explained logit. It is laid out as X is:
        reshaping and sweeping are undone.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, *input_shape)
            The samples.
        target : None, label, array-like of shape (n_samples,) or "all", default=None
            The class that is explained: one label for all samples, one label for each, or every
            class (also where a class is named "all"). None (default): each sample's predicted
            class.
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
            Number of joblib's workers. None (default): one.
        progress : bool, default=False
            Whether to show a progress bar.
        return_details : bool, default=False
            Whether to return how much relevance each layer received and kept.
        check : bool or "auto", default="auto"
            How much is compared with the network's own forward: "auto" a few samples, True all,
            with the relevance of each layer; False the fewest. See `sklrp.explain`.

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
        target = match_samples(target, X, "target")
        given = getattr(X, "dtype", None)
        X, sample_shape = self._check_samples(X)
        dtype = given if isinstance(given, np.dtype) and given.kind == "f" else X.dtype
        result = explain_network(
            self.module_,
            X,
            target=target,
            classes=self.classes_,
            rule=rule,
            bounds=self.input_range_,
            finite=True,
            epsilon=epsilon,
            contrast=contrast,
            batch_size=batch_size,
            n_jobs=n_jobs,
            progress=progress,
            return_details=return_details,
            check=check,
        )
        relevance, details = result if return_details else (result, None)
        if dtype == np.float16:
            check_representable(relevance, dtype, float(np.finfo(dtype).max))
        relevance = relevance.reshape(*relevance.shape[:-1], *sample_shape).astype(
            dtype, copy=False
        )
        return (relevance, details) if return_details else relevance
