"""What metrics ask of a model: the maps of samples, or their scores.

The metrics that explain again use a `Subject`, those that replace features `find_scores`. Both
take every kind of model that `sklrp.explain` takes, or a function in its place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from sklrp import propagation
from sklrp._checks import as_samples, check_maps, like
from sklrp._matching import match_target
from sklrp._missing import as_plain_array
from sklrp._model_parts import Model, is_regression
from sklrp._models import holds_network, unwrap
from sklrp._rows import take_rows
from sklrp._wording import say_value
from sklrp.propagation.readings import Reading, read_target

RESPONSES = ("decision_function", "predict_proba")


class Chosen(NamedTuple):  # numpydoc ignore=PR02
    """What is explained of samples.

    Parameters
    ----------
    reading : Reading
        The model whose outputs the target is of, or whose only output is the number it makes.
    labels : ndarray of shape (n_samples,) or None
        The label of each sample; None of a single output, and where several make one number.
    """

    reading: Reading
    labels: NDArray | None

    @property
    def target(self) -> Any:
        """What `explain` is asked for."""
        return self.reading.asked(self.labels)

    def of(self, rows: Any, n_copies: int) -> Any:
        """Return what `explain` is asked for of some samples, each of them several times."""
        labels = None if self.labels is None else np.repeat(self.labels[rows], n_copies)
        return self.reading.asked(labels)


class Subject:
    """Samples that enter a network, and the maps that explain them.

    Parameters
    ----------
    model : model or callable
        What `unwrap` takes, or a function that returns the maps of samples.
    X : array-like of shape (n_samples, ...)
        The samples as the model takes them.

    Attributes
    ----------
    model : Model or None
        The model taken apart, None of a function.
    network : estimator, skorch net, nn.Module or callable
        The network, or the function.
    X : array-like of shape (n_samples, ...)
        The samples as given.
    samples : ndarray of shape (n_samples, ...)
        What enters the network.
    """

    def __init__(self, model: Any, X: Any) -> None:
        self.X = X
        self.model: Any = None  # of a function
        if isinstance(model, Model):
            self.model = model
        elif not is_function(model):
            self.model = unwrap(model)
        self._entered = X if self.model is None else _enter_array(self.model, X)
        integers = self.model is not None and self.model.takes_integers
        self.samples = as_samples(self._entered, integers=integers)
        self.network = model if self.model is None else self.model.network

    @functools.cached_property
    def labels(self) -> NDArray | None:
        """The labels of the outputs, None of a single one, of a function and of a regression."""
        return None if self.model is None else self.labels_of(self.model)

    def labels_of(self, model: Model) -> NDArray | None:
        """Return the labels of a model's outputs, None of a single one."""
        if model.has_explain and not (is_regression(model.network) and model.has_module):
            return model.classes
        n_outputs = model.outputs(self.given(self.samples[:1])).shape[1]
        if n_outputs == 1:
            return None
        return np.arange(n_outputs) if model.classes is None else model.classes

    def choose(self, target: Any, name: str = "target") -> Chosen:
        """Return what is explained of the samples, by default the predicted class of each."""
        if isinstance(target, str) and target == "all":
            raise ValueError(
                f"{name}='all' makes a map of every class or output, but a metric grades one map "
                f"of each sample: give {name}=None, or one class or output."
            )
        target = match_target(target, self.X, name)
        found = Reading(self.model, target, target)
        if self.model is not None and not isinstance(target, Integral):  # of a table of outputs
            one = self.given(self.samples[:1])
            found = read_target(self.model, one, target, len(self.samples), name)
        if found.number is not None or callable(target):  # which an explainer may take as it is
            return Chosen(found, None)
        if found.target is None:
            return Chosen(found, None if self.model is None else self._predict(found.model))
        n_samples = len(self.samples)
        labels = as_plain_array(found.target, name)
        if labels.shape not in ((), (n_samples,)):
            raise ValueError(
                f"{name} must be None, one label or {n_samples} labels, one per sample, got "
                f"an array of shape {labels.shape}."
            )
        return Chosen(found, np.broadcast_to(labels, n_samples))

    def _predict(self, model: Model) -> NDArray | None:
        """Return the predicted class of each sample, None of a single output."""
        samples = self.given(self.samples)
        if model.has_explain and model.reading is None:
            # Which output of several a regressor explains, its own explain says.
            labelled = not is_regression(model.network) and hasattr(model.network, "predict")
            return model.predict(samples) if labelled else None
        model.check_one_output(samples)
        labels = self.labels_of(model)
        return None if labels is None else labels[model.outputs(samples).argmax(axis=1)]

    def given(self, samples: NDArray) -> Any:
        """Return samples in the form in which they enter: a table keeps its names."""
        return like(self._entered, samples)

    def maps(
        self,
        samples: NDArray,
        target: Any,
        params: dict[str, Any],
        *,
        network: Any = None,
        explain: Callable[..., Any] | None = None,
    ) -> NDArray:
        """Return the maps of samples, checked, in their own dtype."""
        # They are of the model's network or another one in its place, by another
        # function ``explain(network, X, **params)`` if one is given.
        network = self.network if network is None else network
        by = explain_by(network) if explain is None else functools.partial(explain, network)
        if target is not None:
            params = {**params, "target": target}
        maps = np.asarray(by(self.given(samples), **params))
        check_maps(maps)
        if len(maps) != len(samples):
            raise ValueError(
                f"explain must return one map for each of {len(samples)} samples, got {len(maps)}."
            )
        return maps


def _enter_array(model: Model, X: Any) -> Any:
    """Return what enters a network, which must be one array."""
    entered = model.enter(X)
    if isinstance(entered, Mapping) or (isinstance(entered, tuple) and not model.has_explain):
        raise ValueError(
            f"X holds {len(entered)} inputs, a {type(entered).__name__}, but a metric that takes "
            "a model needs a network of one: explain X, and grade the maps of each input by "
            "metrics of maps alone."
        )
    return entered


def explain_by(network: Any) -> Callable[..., Any]:
    """Return what explains samples that enter a network; a function of samples does it itself."""
    # A network with a method of its own is asked for no more than is set, as the explain of
    # a user's class may take fewer parameters than `sklrp.explain`.
    if is_function(network):
        return network
    own = None if isinstance(network, nn.Module) else getattr(network, "explain", None)
    return own or functools.partial(propagation.explain, network)


def is_function(model: Any) -> bool:
    """Tell whether a model is a function of samples, and neither a module nor an estimator."""
    return (
        callable(model) and not isinstance(model, type | nn.Module) and not hasattr(model, "fit")
    )


class Scores(NamedTuple):  # numpydoc ignore=PR02
    """What gives the scores of samples.

    Parameters
    ----------
    entered : array-like of shape (n_samples, ...)
        The samples as `compute` takes them.
    compute : callable
        Returns the scores of samples, (n_samples, n_outputs) or (n_samples,).
    classes : ndarray or None
        The labels of the outputs, None where they are their indices.
    target : object
        Which of the scores is followed, in labels; None the largest, or the only one.
    integers : bool
        Whether samples may be indices that a network looks up.
    """

    entered: Any
    compute: Callable[[Any], NDArray]
    classes: NDArray | None
    target: Any
    integers: bool = False


def find_scores(model: Any, X: Any, response: str, target: Any) -> Scores:
    """Return what gives the scores of a model, or a function, for samples as it takes them."""
    # A classifier that neither is a network nor holds one is asked as it is: only maps need
    # a network.
    if is_function(model):
        return Scores(X, lambda X: np.asarray(model(X)), None, target)
    is_classifier = any(hasattr(model, name) for name in RESPONSES)
    if is_classifier and not isinstance(model, type) and not holds_network(model):
        return _ask(model, X, response, target)
    opened = unwrap(model)
    entered, network, integers = _enter_array(opened, X), opened.network, opened.takes_integers
    samples = as_samples(entered, integers=integers)
    found = read_target(opened, samples[:1], target, len(samples))
    if found.model is not opened:
        return _scores_of(found, entered, response, integers)
    if target is None:
        opened.check_one_output(samples[:1])
    has_method = (
        opened.has_explain
        and not opened.is_net
        and any(hasattr(network, name) for name in RESPONSES)
    )
    if response != "predict_proba" and not has_method:
        return Scores(entered, opened.outputs, opened.classes, found.target, integers)
    compute = _ask(network, entered, response, target).compute
    return Scores(
        entered, lambda X: compute(opened.typed(X)), opened.classes, found.target, integers
    )


def _scores_of(found: Reading, entered: Any, response: str, integers: bool) -> Scores:
    """Return the outputs of a name, or the number that a target makes of several."""
    if response == "predict_proba":
        raise ValueError(
            "response='predict_proba' gives a probability of each class, but target is of the "
            f"network's outputs, got {say_value(found.given)}: leave response='auto'."
        )
    if found.number is None:
        return Scores(entered, found.model.outputs, None, found.target, integers)
    return Scores(entered, _number_of(found, entered), None, None, integers)


def _number_of(found: Reading, entered: Any) -> Callable[[Any], NDArray]:
    """Return what gives the number that a target makes of several outputs."""
    network = found.model.network
    if found.model.takes_tensors:
        one = take_rows(entered, slice(1))
        if propagation.plan(network, "epsilon", one, target=found.given).head is not None:
            # The target is of the logits, which stand before the softmax or sigmoid at the end.
            params: dict[str, Any] = {"rule": "epsilon", "return_details": True, "check": False}
            params["target"] = found.given
            return lambda X: propagation.explain(network, X, **params)[1].score
    return lambda X: found.model.outputs(X)[:, 0]


def _ask(classifier: Any, X: Any, response: str, target: Any) -> Scores:
    """Return the scores that a method of a classifier gives, one for each class."""
    methods = RESPONSES if response == "auto" else (response,)
    method = next((name for name in methods if hasattr(classifier, name)), None)
    if method is None:
        raise TypeError(
            f"response={response!r}: {type(classifier).__name__} has no {' or '.join(methods)}. "
            f"Use one of {('auto', *RESPONSES)}, or pass a function of samples as estimator."
        )
    classes = getattr(classifier, "classes_", None)
    classes = None if classes is None else np.asarray(classes)

    def compute(X: Any) -> NDArray:
        outputs = np.asarray(getattr(classifier, method)(X))
        if outputs.ndim == 1 and classes is not None and len(classes) == 2:
            return np.stack([-outputs, outputs], axis=1)
        return outputs

    return Scores(X, compute, classes, target)
