"""What classifiers have in common: labels and their weights, probabilities, the class explained.

`ESNClassifier` derives from `NetworkClassifier`, the classifiers that are trained by gradient from
`GradientClassifier`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from sklrp._checks import look_up, sort_values
from sklrp._devices import to_host
from sklrp._keywords import named
from sklrp._matching import match_samples
from sklrp._missing import as_plain_array, find_missing, forbid_missing
from sklrp._rows import is_stream
from sklrp._sklearn import StrOptions, fit_context
from sklrp._wording import say_value
from sklrp.classifiers.base import NetworkEstimator, as_weights, undone_on_error
from sklrp.classifiers.gradient import GradientEstimator, makes_single_epochs
from sklrp.classifiers.net import ClassifierNet
from sklrp.classifiers.parameters import param
from sklrp.classifiers.saved import are_labels
from sklrp.composites import Composite
from sklrp.propagation.piecemeal import explain_piecemeal
from sklrp.rules import Rule


def check_classes(y: NDArray, owner: str) -> None:
    """Raise an error unless y holds classes, and say what to do with values."""
    labels = y.flat if y.dtype == object else ()
    plain = (label.item() if isinstance(label, np.generic) else label for label in labels)
    kinds = sorted({type(label).__name__ for label in plain})
    if len(kinds) > 1:
        raise ValueError(
            f"y must hold labels of one type, got {kinds}: give all as text, y.astype(str), or as "
            "integers."
        )
    try:
        check_classification_targets(y)
    except ValueError as error:
        raise ValueError(
            f"{error} To predict values use {owner.removesuffix('Classifier')}Regressor; to make "
            "classes of them, np.where(y > np.median(y), 'high', 'low')."
        ) from None


def _read_classes(classes: ArrayLike) -> NDArray:
    """Return the labels that the classes of all parts have, sorted."""
    found = as_plain_array(classes, "classes")
    if found.ndim != 1 or find_missing(found).any():
        raise ValueError(
            "classes must hold one label for each class, none of them missing, got "
            f"{say_value(classes)} of shape {found.shape}."
        )
    return sort_values(found, "classes")[0]


class NetworkClassifier(ClassifierMixin, NetworkEstimator):  # numpydoc ignore=PR02
    """Base of the classifiers: labels and weights, prediction and explanation.

    Parameters
    ----------
    class_weight : dict, "balanced" or None, default=None
        Weight of each class's samples in the loss, 1 for classes that the dict does not name.
        ``"balanced"`` gives every class the same total weight in the training data. None
        (default): all weights are 1.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The class labels, sorted, in the order of the network's logits.
    net_ : skorch.NeuralNetClassifier
        The trained net, on encoded labels ``0, ..., n_classes - 1``.
    module_ : torch.nn.Sequential
        Its network: takes ``(n_samples, n_features_in_)``, returns logits
        ``(n_samples, n_classes)``.
    """

    class_weight: Mapping[Any, float] | str | None = param(
        default=None, allowed=[dict, StrOptions({"balanced"}), None], may_change=True
    )

    _kept: ClassVar[Mapping[str, Callable[[Any], bool]]] = {"classes_": are_labels}

    @property
    def _n_outputs(self) -> int:
        return len(self.classes_)

    def _net(self, **params: Any) -> ClassifierNet:
        return ClassifierNet(self._network(self._n_outputs), n_classes=self._n_outputs, **params)

    def _check_targets(self, y: Any) -> None:
        """Raise an error if y has a column for each class; `fit` has the labels in one form."""
        shape = y.shape if hasattr(y, "shape") else as_plain_array(y, "y").shape
        if len(shape) == 2 and shape[1] > 1:
            raise ValueError(
                f"y should be a 1d array, got an array of shape {shape} instead: give the label "
                "of each sample; of a column for each class, y.argmax(axis=1)."
            )

    @fit_context(prefer_skip_nested_validation=True)
    @undone_on_error
    def fit(
        self, X: ArrayLike, y: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> NetworkClassifier:
        """Train the network.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, *input_shape)
            The training samples. Those in a file or in chunks, see `sklrp.explain`, are read when
            they are used; so are the items of a data set of torch or skorch.
        y : array-like of shape (n_samples,) or None, default=None
            Their class labels, of at least two classes. None (default): those of the data set.
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
        check_classes(y, type(self).__name__)
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
        self.classes_: NDArray = classes
        return self._train(X, codes, weight, resume=resume)

    def _fit_part(self, X: Any, y: Any, classes: Any, sample_weight: Any, *, resume: bool) -> Any:
        """Go on training with one part of the samples, or begin with it."""
        X, y, sample_weight = self._check_training_data(X, y, sample_weight, reset=not resume)
        check_classes(y, type(self).__name__)
        named = None if classes is None else _read_classes(classes)
        known = self.classes_ if resume else np.unique(y) if named is None else named
        if resume and named is not None and not np.array_equal(named, known):
            raise ValueError(
                f"classes={say_value(named.tolist())} differ from those of the first call, "
                f"{say_value(known.tolist())}: "
                "pass the same, or leave classes out."
            )
        if len(known) < 2:
            raise ValueError(
                f"{type(self).__name__} needs at least 2 classes, got 1 class, "
                f"{known.tolist()}: name all of them in classes=."
            )
        codes = self._encode_labels(y, known)
        weight = self._weigh(codes, sample_weight, known)
        self.classes_ = known
        return self._train(X, codes, weight, resume=resume, epochs=1)

    def _encode_labels(self, y: NDArray, classes: NDArray) -> NDArray[np.int64]:
        """Return the positions of the labels in ``classes``."""
        codes, unknown = look_up(y, classes)
        if unknown:
            raise ValueError(
                f"y has the unknown labels {unknown}; the classes of the training so "
                f"far are {classes.tolist()}. Name all of them in partial_fit(classes=...), or "
                "fit anew with warm_start=False."
            )
        return codes

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
            weights = [self.class_weight.get(label, 1.0) for label in labels]
            if not all(isinstance(w, Real) and not isinstance(w, bool) for w in weights):
                raise TypeError(
                    f"class_weight must hold numbers, got {say_value(self.class_weight)}."
                )
            of_class = np.array(weights, dtype=float)
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
        logits = self._outputs(X)
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
        return self._outputs(X).softmax(1).numpy()

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
        return self._outputs(X).log_softmax(1).numpy()

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
        logits = self._outputs(X)
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
        y = match_samples(to_host(y), X, "y")
        self._check_targets(y)
        forbid_missing(y)
        return super().score(X, y, as_weights(sample_weight, X, y))

    @named
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
        layers: list[str] | None = None,
        reference: str | float | ArrayLike | None = None,
        out: Any = None,
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
        layers : list of str or None, default=None
            Names of layers of `module_`, as in its ``named_modules()``: the relevance at their
            outputs is returned in the details, which are then returned in any case.
        reference : "zero", float, array-like of shape (n_classes,) or None, default=None
            The logit from which that of the class is explained, see `sklrp.explain`: the details
            tell its share. None (default) and ``"zero"``: a logit of zero.
        out : array or None, default=None
            Where relevance is written, of its shape and any floating dtype: an array of NumPy or
            zarr, or a file, `numpy.lib.format.open_memmap`; it is returned. None (default): a new
            array.

        Returns
        -------
        relevance : ndarray of the shape and floating dtype of X
            The relevance. With ``target="all"`` of shape ``(n_samples, n_classes, ...)``.
        details : Bunch
            Only with ``return_details`` or ``layers``: ``score`` and ``target`` (as labels), each
            of shape ``(n_samples,)`` or ``(n_samples, n_classes)``, and ``layers`` and
            ``layer_relevance``, see `sklrp.explain`.

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
        options = {
            "rule": rule,
            "epsilon": epsilon,
            "contrast": contrast,
            "batch_size": batch_size,
            "n_jobs": n_jobs,
            "progress": progress,
            "return_details": return_details,
            "check": check,
            "layers": layers,
            "reference": reference,
            "out": out,
        }
        if is_stream(X):
            return explain_piecemeal(self.explain, X, target=target, has_labels=True, **options)
        relevance, details = self._explain(
            self.module_,
            X,
            lambda n_samples: (target, None),
            classes=self.classes_,
            **options,
        )
        return relevance if details is None else (relevance, details)


class GradientClassifier(GradientEstimator, NetworkClassifier):  # numpydoc ignore=PR02
    """Base of the classifiers that are trained by gradient.

    Parameters
    ----------
    validation_fraction : float, default=0.1
        Share of the samples that are set aside, stratified by class where the classes are large
        enough. Only with ``early_stopping=True``.
    callbacks : list or None, default=None
        Callbacks of skorch, or tuples ``(name, callback)``; `fit` copies them. They see the
        classes as numbers from 0. Their arguments are parameters
        ``callbacks__<name>__<argument>``. None (default): no callbacks.
    warm_start : bool, default=False
        Whether another `fit` goes on with the network, the optimizer's state and the callbacks of
        the one before. It takes the present `lr`, `batch_size`, `max_epochs`, `l1`, `l1_first`,
        `l2_first`, `class_weight`, `validation_fraction` and `verbose`, draws only the validation
        split from `random_state`, and ignores `callbacks`. Any other parameter that has changed is
        an error, as in `partial_fit`.
    **kwargs : dict
        Double-underscore parameters of skorch: ``optimizer__<name>``, ``callbacks__<name>``,
        ``callbacks__<name>__<argument>``, ``iterator_train__batch_size``,
        ``iterator_train__shuffle``, ``iterator_train__drop_last``, ``iterator_train__device``,
        ``iterator_valid__batch_size``, ``criterion__label_smoothing``. They are parameters like
        any other, also in `GridSearchCV`.

    Notes
    -----
    The loss is the cross-entropy, averaged over a batch with the samples' weights, which `fit`
    scales to a mean of one. With a single batch per epoch, a weight of two is the same as giving
    a sample twice; with several it is so on average only, as the batches differ.

    The training data is moved to a CUDA device once, if it takes at most half of the free memory
    there, and else batch by batch, as with ``iterator_train__device="cpu"``.
    """

    @available_if(makes_single_epochs)
    @fit_context(prefer_skip_nested_validation=True)
    @undone_on_error
    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> GradientClassifier:
        """Go on training for one epoch over the given samples.

        Use it for data that arrives in parts; it is not available with ``early_stopping=True``.
        On an estimator that is not fitted yet it starts the training; n calls with the same
        samples train as ``fit`` with ``max_epochs=n`` does.

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
        return self._fit_part(X, y, classes, sample_weight, resume=self._goes_on())

    def _make_splitter(self, targets: NDArray, n_held_out: int, seed: int) -> Any:
        counts = np.bincount(targets)
        counts = counts[counts > 0]
        smallest_part = min(n_held_out, len(targets) - n_held_out)
        stratify = counts.min() >= 2 and smallest_part >= len(counts)
        splitter = StratifiedShuffleSplit if stratify else ShuffleSplit
        return splitter(n_splits=1, test_size=n_held_out, random_state=seed)
