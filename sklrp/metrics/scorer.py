"""Metrics as scorers of scikit-learn: choose a rule by the quality of its maps."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn import get_config
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch
from sklearn.utils.metadata_routing import MetadataRequest

from sklrp._checks import suggest
from sklrp.metrics.flipping import (
    faithfulness_correlation,
    pixel_flipping_curve,
    pixel_flipping_score,
)
from sklrp.metrics.maps import conservation_error, relevance_mass, relevance_rank, sparseness
from sklrp.metrics.sensitivity import (
    class_sensitivity,
    max_sensitivity,
    randomization_similarity,
)


class _Metric(NamedTuple):
    """How a metric is called, and whether its higher values are the better ones."""

    function: Callable[..., Any]
    inputs: str  # "maps", "maps and score", "network and maps" or "network"
    sign: int


_METRICS = {
    "class_sensitivity": _Metric(class_sensitivity, "network", -1),
    "conservation_error": _Metric(conservation_error, "maps and score", -1),
    "faithfulness_correlation": _Metric(faithfulness_correlation, "network and maps", 1),
    "max_sensitivity": _Metric(max_sensitivity, "network", -1),
    "pixel_flipping": _Metric(pixel_flipping_score, "network and maps", 1),
    "randomization_similarity": _Metric(randomization_similarity, "network", -1),
    "relevance_mass": _Metric(relevance_mass, "maps", 1),
    "relevance_rank": _Metric(relevance_rank, "maps", 1),
    "sparseness": _Metric(sparseness, "maps", 1),
}
_GIVEN = {"X", "estimator", "explain", "orders", "relevance", "score"}  # by the scorer
_EXPLAIN_PARAMS = ("rule", "epsilon", "contrast")  # of a scorer for a classifier
_TRANSFORMER_PARAMS = (*_EXPLAIN_PARAMS, "target", "batch_size", "n_jobs")


def make_relevance_scorer(
    metric: str | Callable[..., Any], *, greater_is_better: bool | None = None, **kwargs: Any
) -> RelevanceScorer:
    """Make a scikit-learn scorer that grades the relevance maps of an estimator.

    Use it as ``scoring`` of :class:`~sklearn.model_selection.GridSearchCV` or
    :func:`~sklearn.model_selection.cross_validate`, on a :class:`~sklrp.RelevanceTransformer`, on
    a classifier with ``explain``, or on a pipeline with either of them. The maps are explained by
    the transformer's own ``rule``, ``epsilon``, ``contrast`` and ``target``, before ``aggregate``
    and ``normalize``. Greater is always better: metrics of which less is better are negated.

    Parameters
    ----------
    metric : str or callable
        ``"class_sensitivity"``, ``"conservation_error"``, ``"faithfulness_correlation"``,
        ``"max_sensitivity"``, ``"pixel_flipping"``, ``"randomization_similarity"`` (mean
        absolute similarity over the layers), ``"relevance_mass"``, ``"relevance_rank"`` or
        ``"sparseness"``; one of these functions; or a function ``metric(relevance, **kwargs)`` of
        the maps of all samples that returns one number or one per sample.
    greater_is_better : bool or None, default=None
        Whether higher values of the metric are better; None what is known of a metric of this
        module, and True for others.
    **kwargs : dict
        Parameters of the metric, such as ``steps`` or a ``mask`` for all samples; ``target``, the
        class explained; and, to grade a classifier, which has no such parameters of its own,
        ``rule``, ``epsilon`` and ``contrast``.

    Returns
    -------
    RelevanceScorer
        A function ``scorer(estimator, X, y=None, **metadata)`` that returns the mean over the
        samples. With scikit-learn's metadata routing, ``scorer.set_score_request(mask=True)`` asks
        for a mask for each sample, see there.

    Raises
    ------
    ValueError
        If there is no such metric.
    TypeError
        If the metric has no such parameter.

    Examples
    --------
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklrp import MLPClassifier, RelevanceTransformer
    >>> from sklrp.datasets import make_squares
    >>> from sklrp.metrics import make_relevance_scorer
    >>> X, y, mask = make_squares(n_per_class=50, size=10, random_state=0)
    >>> relevance = RelevanceTransformer(MLPClassifier(max_epochs=10, random_state=0))
    >>> search = GridSearchCV(
    ...     relevance,
    ...     {"rule": ["epsilon", "w_square"]},
    ...     scoring=make_relevance_scorer("relevance_mass", mask=mask),
    ...     cv=2,
    ... )
    >>> search.fit(X, y).best_params_
    {'rule': 'epsilon'}
    """
    return RelevanceScorer(metric, greater_is_better, kwargs)


class RelevanceScorer:
    """A scorer that grades relevance maps; made by `make_relevance_scorer`.

    Parameters
    ----------
    metric : str or callable
        The metric.
    greater_is_better : bool or None
        Whether higher values are better, None for the metric's own direction.
    kwargs : dict
        Parameters of the metric and of the explanation.
    """

    def __init__(
        self,
        metric: str | Callable[..., Any],
        greater_is_better: bool | None,
        kwargs: dict[str, Any],
    ) -> None:
        self.metric = metric
        self.greater_is_better = greater_is_better
        self.kwargs = dict(kwargs)
        self._metric = _find_metric(metric)
        self._known = _name_parameters(self._metric.function)
        self._check_names(self.kwargs)
        self._requests: dict[str, bool | str | None] = {}
        if self._takes_mask() and "mask" not in self.kwargs:
            self._requests["mask"] = None

    def __call__(self, estimator: Any, X: Any, y: Any = None, **metadata: Any) -> float:
        """Return the mean of the metric over samples, such that greater is better.

        Parameters
        ----------
        estimator : estimator
            A fitted `RelevanceTransformer`, classifier with ``explain``, or pipeline or search
            with one of them.
        X : array-like of shape (n_samples, n_features) or (n_samples, *sample_shape)
            The samples.
        y : ignored
            Here for scikit-learn.
        **metadata : dict
            Further parameters of the metric, such as ``mask``.

        Returns
        -------
        float
            The score.

        Raises
        ------
        ValueError
            If a parameter is missing, is given twice or is invalid.
        TypeError
            If nothing in the estimator explains.
        """
        twice = sorted(set(metadata) & set(self.kwargs))
        if twice:
            raise ValueError(
                f"{', '.join(twice)} is a parameter of {self!r} and was passed as metadata too: "
                "leave out one of them."
            )
        self._check_names(metadata)
        kwargs = {**self.kwargs, **metadata}
        if self._takes_mask() and kwargs.get("mask") is None:
            raise ValueError(
                f"{self!r} needs a mask: one for all samples as make_relevance_scorer(..., "
                "mask=mask); or one for each as metadata, with set_config("
                "enable_metadata_routing=True), scorer.set_score_request(mask=True) and "
                "cross_validate(..., params={'mask': masks}) or search.fit(X, y, mask=masks)."
            )
        network, X, settings = _find_network(estimator, X)
        for name in (*_EXPLAIN_PARAMS, "target"):
            if name in kwargs and name in settings:
                raise ValueError(
                    f"{name} is a parameter of {self!r} and of the transformer that it grades: "
                    "set it there only."
                )
            if name in kwargs:
                settings[name] = kwargs.pop(name)
        target = settings.pop("target", None)
        if isinstance(target, str) and target == "all":
            raise ValueError(
                "target='all' makes a map of every class, but a scorer grades one map per sample: "
                "set target=None, for the predicted class, or a label."
            )
        labels = network.predict(X) if target is None else target
        values = self._grade(network, X, labels, settings, kwargs)
        better = self.greater_is_better
        sign = self._metric.sign if better is None else 2 * bool(better) - 1
        return float(sign * np.mean(values))

    def set_score_request(self, **requests: bool | str | None) -> RelevanceScorer:
        """Ask for metadata, such as a mask for each sample: ``set_score_request(mask=True)``.

        The metadata is then passed to ``cross_validate(..., params={"mask": masks})`` or
        ``search.fit(X, y, mask=masks)``, has one entry per sample and is split as X is.

        Parameters
        ----------
        **requests : dict
            By parameter of the metric: True to ask for it, a string to ask for metadata of that
            name, False to ignore it, None to raise an error where it is passed.

        Returns
        -------
        RelevanceScorer
            The scorer itself.

        Raises
        ------
        RuntimeError
            If metadata routing is not enabled.
        TypeError
            If the metric has no such parameter.
        """
        if not get_config()["enable_metadata_routing"]:
            raise RuntimeError(
                "set_score_request needs scikit-learn's metadata routing: call "
                "sklearn.set_config(enable_metadata_routing=True) before."
            )
        self._check_names(requests)
        asked = {**self._requests, **requests}
        self._make_request(asked)  # raises an error if a value is invalid
        self._requests = asked
        return self

    def get_metadata_routing(self) -> MetadataRequest:
        """Return what metadata the scorer asks for.

        Returns
        -------
        MetadataRequest
            The request.
        """
        return self._make_request(self._requests)

    def _make_request(self, asked: dict[str, bool | str | None]) -> MetadataRequest:
        request = MetadataRequest(owner=repr(self))
        for name, alias in asked.items():
            request.score.add_request(param=name, alias=alias)
        return request

    def _accept_sample_weight(self) -> bool:
        """Tell scikit-learn's searches that samples are not weighted."""
        return False

    def __repr__(self) -> str:
        better = self.greater_is_better
        shown: dict[str, Any] = {} if better is None else {"greater_is_better": better}
        shown.update((name, _shorten(value)) for name, value in self.kwargs.items())
        metric = repr(self.metric) if isinstance(self.metric, str) else self._name
        words = [metric, *(f"{name}={value}" for name, value in shown.items())]
        return f"make_relevance_scorer({', '.join(words)})"

    def _grade(
        self,
        network: Any,
        X: Any,
        labels: Any,
        settings: dict[str, Any],
        kwargs: dict[str, Any],
    ) -> Any:
        """Return the values of the metric."""
        function, inputs = self._metric.function, self._metric.inputs
        if inputs == "network":
            values = function(network, X, target=labels, **kwargs, **settings)
            # The same map with another sign has survived the randomisation just as well.
            return np.abs(values.similarity) if isinstance(values, Bunch) else values
        if inputs == "maps and score":
            maps, details = network.explain(X, target=labels, return_details=True, **settings)
            return function(maps, details["score"], **kwargs)
        maps = network.explain(X, target=labels, **settings)
        if inputs == "maps":
            return function(maps, **kwargs)
        return function(network, X, maps, target=labels, **kwargs)

    @property
    def _name(self) -> str:
        return getattr(self._metric.function, "__name__", repr(self._metric.function))

    def _takes_mask(self) -> bool:
        return self._known is not None and "mask" in self._known

    def _check_names(self, params: dict[str, Any]) -> None:
        """Raise an error if the metric has no such parameters, as far as is known."""
        if self._known is None:
            return
        for name in params:
            if name not in self._known:
                raise TypeError(
                    f"the metric {self._name} has no parameter {name!r}; it "
                    f"takes {sorted(self._known)}.{suggest(name, self._known)}"
                )


def _find_metric(metric: Any) -> _Metric:
    """Return a metric given by its name, the name of its function, or a function."""
    named = {**_METRICS, **{m.function.__name__: m for m in _METRICS.values()}}
    if isinstance(metric, str) and metric in named:
        return named[metric]
    if callable(metric):
        known = [m for m in _METRICS.values() if m.function is metric]
        return known[0] if known else _Metric(metric, "maps", 1)
    hint = suggest(metric, named) if isinstance(metric, str) else ""
    raise ValueError(
        f"metric must be one of {sorted(_METRICS)} or a function of maps, got {metric!r}.{hint}"
    )


def _name_parameters(function: Callable[..., Any]) -> set[str] | None:
    """Return what may be set of a metric of this module; None, anything, of other functions."""
    if all(function is not metric.function for metric in _METRICS.values()):
        return None
    functions = [function]
    if function is pixel_flipping_score:
        functions.append(pixel_flipping_curve)
    names = {
        name
        for one in functions
        for name, parameter in inspect.signature(one).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    return (names | {*_EXPLAIN_PARAMS, "target"}) - _GIVEN


def _find_network(estimator: Any, X: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Return the network that explains, its input, and the settings of a transformer around it."""
    estimator = getattr(estimator, "best_estimator_", estimator)
    if isinstance(estimator, Pipeline):
        for _, step in estimator.steps:
            if any(hasattr(e, "explain") for e in (step, getattr(step, "estimator_", None))):
                return _find_network(step, X)
            if step not in (None, "passthrough") and hasattr(step, "transform"):
                X = step.transform(X)
    if hasattr(estimator, "explain"):
        return estimator, X, {}
    network = getattr(estimator, "estimator_", None)
    if not hasattr(network, "explain"):
        raise TypeError(
            f"{type(estimator).__name__} does not explain: a relevance scorer grades a fitted "
            "RelevanceTransformer, a classifier with explain, or a pipeline with one of them."
        )
    params = estimator.get_params(deep=False)
    return network, X, {n: params[n] for n in _TRANSFORMER_PARAMS if n in params}


def _shorten(value: Any) -> str:
    """Return an array's shape, and anything else in full."""
    return f"<array of shape {value.shape}>" if hasattr(value, "shape") else repr(value)
