"""Metrics as scorers of scikit-learn: choose a rule by the quality of its maps.

Searches and cross-validation call a scorer with a fitted model and the samples of a fold; it
explains them, calls the metric and turns the sign so that greater is better.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.metadata_routing import MetadataRequest
from sklearn.utils.validation import check_is_fitted

from sklrp._checks import suggest
from sklrp._constraints import constrained
from sklrp._frame import frame_of
from sklrp._keywords import say_keyword, say_rule
from sklrp._models import unwrap
from sklrp._wording import say_value
from sklrp.metrics.catalogue import METRICS, Metric
from sklrp.metrics.subject import Subject, explain_by

_GIVEN = {"X", "estimator", "explain", "orders", "relevance", "score", "y"}  # by the scorer
_EXPLAIN_PARAMS = ("rule", "epsilon", "contrast")  # of a scorer for a classifier
_TRANSFORMER_PARAMS = (*_EXPLAIN_PARAMS, "target", "reference", "batch_size", "n_jobs")


@constrained({"greater_is_better": ["boolean", None]})
def make_relevance_scorer(
    metric: str | Callable[..., Any], *, greater_is_better: bool | None = None, **kwargs: Any
) -> RelevanceScorer:
    """Make a scikit-learn scorer that grades the relevance maps of an estimator.

    Use it as ``scoring`` of :class:`~sklearn.model_selection.GridSearchCV` or
    :func:`~sklearn.model_selection.cross_validate`. It grades a
    :class:`~sklrp.RelevanceTransformer`, alone or in a pipeline, and every model that
    :func:`sklrp.explain` takes. The maps are explained by the transformer's own ``rule``,
    ``epsilon``, ``contrast``, ``target`` and ``reference``, before ``aggregate`` and
    ``normalize``. Greater is always better: metrics of which less is better are negated.

    Parameters
    ----------
    metric : str or callable
        A function of :mod:`sklrp.metrics` or its name, such as ``"relevance_mass"``; or a function
        ``metric(relevance, **kwargs)`` of the maps of all samples that returns one number or one
        per sample. ``"randomization_similarity"`` is the mean absolute similarity over the layers.
    greater_is_better : bool or None, default=None
        Whether higher values of the metric are better. None (default): as the table of
        :mod:`sklrp.metrics` says, and True for a function of your own.
    **kwargs : dict
        Parameters of the metric, such as ``steps`` or a ``mask`` for all samples, which may be of
        a field's cells, latitude by longitude; ``target``, what is explained; and ``rule``,
        ``epsilon`` and ``contrast`` to grade a model that is no transformer with its own.

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
        self._known = _name_parameters(self._metric)
        self._check_names(self.kwargs)
        self._requests: dict[str, bool | str | None] = {}
        if self._takes_mask() and "mask" not in self.kwargs:
            self._requests["mask"] = None

    def __call__(self, estimator: Any, X: Any, y: Any = None, **metadata: Any) -> float:
        """Return the mean of the metric over samples, such that greater is better.

        Parameters
        ----------
        estimator : model
            A fitted `RelevanceTransformer`, alone or in a pipeline or search; or any model that
            `sklrp.explain` takes.
        X : array-like of shape (n_samples, n_features) or (n_samples, *sample_shape)
            The samples.
        y : array-like of shape (n_samples, ...) or None, default=None
            The truth, for metrics that hold maps against it (``"skill_mass"``); else ignored.
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
            If there is no network in the model, or several of them.
        """
        params = self._join(metadata)
        model, settings = _open(estimator)
        for name in (*_EXPLAIN_PARAMS, "target"):
            if name in params and name in settings:
                raise ValueError(
                    f"{name} is a parameter of {self!r} and of the transformer that it grades: "
                    "set it there only."
                )
            if name in params:
                settings[name] = params.pop(name)
        target = settings.pop("target", None)
        if isinstance(target, str) and target == "all":
            raise ValueError(
                "target='all' makes a map of every class, but a scorer grades one map per sample: "
                "set target=None, for the predicted class, or a label."
            )
        values = self._grade(Subject(unwrap(model), X), y, target, settings, params)
        value = float(np.mean(values))
        better = self.greater_is_better
        if better is None:
            better = self._metric.better == "higher"
        return value if better else -value

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

    def _join(self, metadata: dict[str, Any]) -> dict[str, Any]:
        """Return the scorer's own parameters and those passed as metadata, checked."""
        twice = sorted(set(metadata) & set(self.kwargs))
        if twice:
            raise ValueError(
                f"{', '.join(twice)} is a parameter of {self!r} and was passed as metadata too: "
                "leave out one of them."
            )
        self._check_names(metadata)
        params = {**self.kwargs, **metadata}
        if self._takes_mask() and params.get("mask") is None:
            raise ValueError(
                f"{self!r} needs a mask: one for all samples as make_relevance_scorer(..., "
                "mask=mask); or one for each as metadata, with set_config("
                "enable_metadata_routing=True), scorer.set_score_request(mask=True) and "
                "cross_validate(..., params={'mask': masks}) or search.fit(X, y, mask=masks)."
            )
        return params

    def _grade(
        self,
        subject: Subject,
        y: Any,
        target: Any,
        settings: dict[str, Any],
        kwargs: dict[str, Any],
    ) -> Any:
        """Return the values of the metric."""
        metric, network = self._metric, subject.network
        X, chosen = subject.given(subject.samples), subject.choose(target).target
        if "mask" in kwargs:
            frame = frame_of(subject.model, subject.X, X[:1])
            kwargs = {**kwargs, "mask": frame.take_mask(kwargs["mask"])}
        if metric.takes == "model and truth":
            if y is None:
                raise ValueError(
                    f"{self!r} holds maps against the truth: pass y, as scorer(estimator, X, y) "
                    "or search.fit(X, y)."
                )
            # As they were given: training samples enter the model as X does, and one label as
            # target asks for the skill of one class.
            settings = {**settings, "target": target}
            values = metric.function(subject.model, subject.X, y, **kwargs, **settings)
        elif metric.takes == "model":
            values = metric.function(network, X, target=chosen, **kwargs, **settings)
        elif metric.takes == "maps and score":
            settings = {**settings, "target": chosen, "return_details": True}
            maps, details = explain_by(network)(X, **settings)
            values = metric.function(maps, details["score"], **kwargs)
        else:
            maps = subject.maps(subject.samples, chosen, settings)
            if metric.takes == "maps":
                values = metric.function(maps, **kwargs)
            else:
                values = metric.function(network, X, maps, target=chosen, **kwargs)
        if metric.entry is not None:
            values = values[metric.entry]
        # A map that only changes its sign has survived just as well.
        return np.abs(values) if metric.better == "near 0" else values

    @property
    def _name(self) -> str:
        return getattr(self._metric.function, "__name__", repr(self._metric.function))

    def _takes_mask(self) -> bool:
        return self._known is not None and "mask" in self._known

    def _check_names(self, params: dict[str, Any]) -> None:
        """Raise an error if the metric has no such parameters, as far as is known."""
        if self._known is None:
            return
        unknown = {name: value for name, value in params.items() if name not in self._known}
        for name in unknown:
            raise TypeError(
                f"the metric {self._name} has no parameter {name!r}; it takes "
                f"{sorted(self._known)}.{say_rule(unknown) or say_keyword(name, self._known)}"
            )


def _find_metric(metric: Any) -> Metric:
    """Return a metric given by its name, the name of its function, or a function."""
    named = {**METRICS, **{m.function.__name__: m for m in METRICS.values()}}
    if isinstance(metric, str) and metric in named:
        return named[metric]
    if callable(metric):
        known = [m for m in METRICS.values() if m.function is metric]
        return known[0] if known else Metric(metric, "maps", "higher", "")
    hint = suggest(metric, named) if isinstance(metric, str) else ""
    raise ValueError(
        f"metric must be one of {sorted(METRICS)} or a function of maps, "
        f"got {say_value(metric)}.{hint}"
    )


def _name_parameters(metric: Metric) -> set[str] | None:
    """Return the parameters of a metric of this package, None of a function of the user's."""
    if metric not in METRICS.values():
        return None
    names = {
        name
        for function in (metric.function, *metric.more)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    return (names | {*_EXPLAIN_PARAMS, "target"}) - _GIVEN


def _open(estimator: Any) -> tuple[Any, dict[str, Any]]:
    """Return the model to grade, and the settings of a transformer around it."""
    found = _find_transformer(estimator)
    if found is None:
        return estimator, {}
    transformer, steps = found
    check_is_fitted(transformer)
    params = transformer.get_params(deep=False)
    settings = {name: params[name] for name in _TRANSFORMER_PARAMS if name in params}
    for name, default in (("reference", None), ("contrast", False)):
        if settings.get(name) is default:  # which an explainer need not have: regressors have none
            settings.pop(name, None)
    model = transformer.estimator_
    if steps:  # they know what the samples are, such as the grid of fields
        named = [(str(i), step) for i, step in enumerate(steps)]
        model = Pipeline([*named, ("network", model)])
    return model, settings


def _find_transformer(model: Any) -> tuple[Any, list[Any]] | None:
    """Return the transformer in a model that makes relevance, and the steps before it."""
    if isinstance(model, FrozenEstimator):
        return _find_transformer(model.estimator)
    if hasattr(model, "best_estimator_"):
        return _find_transformer(model.best_estimator_)
    if isinstance(model, Pipeline):
        steps = [step for _, step in model.steps if step not in (None, "passthrough")]
        for i, step in enumerate(steps):
            found = _find_transformer(step)
            if found is not None:
                return found[0], [*steps[:i], *found[1]]
        return None
    # Of all that transforms, relevance alone is propagated by a rule.
    makes_relevance = all(hasattr(model, name) for name in ("estimator", "rule", "transform"))
    return (model, []) if makes_relevance and not isinstance(model, type) else None


def _shorten(value: Any) -> str:
    """Return an array's shape, and anything else in full."""
    return f"<array of shape {value.shape}>" if hasattr(value, "shape") else repr(value)
