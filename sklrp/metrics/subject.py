"""What metrics ask of a model: the maps of samples, or their scores.

The metrics that explain again use a `Subject`, those that replace features `find_scores`. Both
take every kind of model that `sklrp.explain` takes, or a function in its place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from sklrp import propagation
from sklrp._checks import as_samples, check_maps, like
from sklrp._matching import match_samples
from sklrp._missing import as_plain_array
from sklrp._models import Model, holds_network, is_regression, unwrap

RESPONSES = ("decision_function", "predict_proba")


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
        if self.model is None or self.model.has_explain:
            return None if self.model is None else self.model.classes
        n_outputs = self._outputs.shape[1]
        if n_outputs == 1:
            return None
        return np.arange(n_outputs) if self.model.classes is None else self.model.classes

    @functools.cached_property
    def _outputs(self) -> NDArray:
        if self.model is None:
            raise TypeError("a function of samples has no outputs.")
        return self.model.outputs(self.given(self.samples))

    def choose(self, target: Any) -> NDArray | None:
        """Return the label explained of each sample, None where there is but one output."""
        # The default of `target`, None, is the predicted class.
        n_samples = len(self.samples)
        if target is not None:
            labels = as_plain_array(match_samples(target, self.X, "target"), "target")
            if labels.shape not in ((), (n_samples,)):
                raise ValueError(
                    f"target must be None, one label or {n_samples} labels, one per sample, got "
                    f"an array of shape {labels.shape}."
                )
            return np.broadcast_to(labels, n_samples)
        if self.model is None:
            return None
        if self.model.has_explain:
            labelled = not is_regression(self.model.network) and hasattr(
                self.model.network, "predict"
            )
            return self.model.predict(self.given(self.samples)) if labelled else None
        return None if self.labels is None else self.labels[self._outputs.argmax(axis=1)]

    def given(self, samples: NDArray) -> Any:
        """Return samples in the form in which they enter: a table keeps its names."""
        return like(self._entered, samples)

    def maps(
        self,
        samples: NDArray,
        target: NDArray | None,
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
            f"X holds {len(entered)} inputs, but a metric that takes a model needs a network of "
            "one: explain X, and grade the maps of each input by metrics of maps alone."
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
    integers : bool
        Whether samples may be indices that a network looks up.
    """

    entered: Any
    compute: Callable[[Any], NDArray]
    classes: NDArray | None
    integers: bool = False


def find_scores(model: Any, X: Any, response: str) -> Scores:
    """Return what gives the scores of a model, or a function, for samples as it takes them."""
    # A classifier that neither is a network nor holds one is asked as it is: only maps need
    # a network.
    if is_function(model):
        return Scores(X, lambda X: np.asarray(model(X)), None)
    is_classifier = any(hasattr(model, name) for name in RESPONSES)
    if is_classifier and not isinstance(model, type) and not holds_network(model):
        return _ask(model, X, response)
    opened = unwrap(model)
    entered, network, integers = _enter_array(opened, X), opened.network, opened.takes_integers
    has_method = (
        opened.has_explain
        and not opened.is_net
        and any(hasattr(network, name) for name in RESPONSES)
    )
    if response != "predict_proba" and not has_method:
        return Scores(entered, opened.outputs, opened.classes, integers)
    compute = _ask(network, entered, response).compute
    return Scores(entered, lambda X: compute(opened.typed(X)), opened.classes, integers)


def _ask(classifier: Any, X: Any, response: str) -> Scores:
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

    return Scores(X, compute, classes)
