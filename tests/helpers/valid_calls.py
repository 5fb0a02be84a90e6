"""A valid call of every public callable, so that one parameter at a time can be made bad.

`public_callables` finds them by introspection, from the modules that ``docs/api.md`` lists.
`make_calls` pairs each with its valid arguments; one that is in neither `ARGUMENTS` nor `LEFT_OUT`
is an error, so that a new function is tried from its first day.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from joblib import parallel_config
from sklearn.base import BaseEstimator
from torch import nn

import sklrp
from sklrp import diagnostics, geo, metrics, modules, plotting
from sklrp.classifiers.base import NetworkEstimator
from tests.helpers.fields import make_field

ROOT = Path(__file__).parents[2]

# Callables that are not tried, and why.
LEFT_OUT = {
    r"sklrp\.propagation\.(?!explain|plan)[\w.]+": "for handlers, called in every chunk",
    r"sklrp\.rules\.(Part|Signal)(\..*)?": "what rules are made of, in the inner loop",
    r"sklrp\.diagnostics\.(ArtifactReport|Audit|Finding|FocusCurve|Mistake)": "results, not made "
    "by users; their methods are tried",
    r".*\.(get_params|set_params|get_metadata_routing|set_output)": "scikit-learn's own",
    r".*\.set_\w+_request": "scikit-learn's own",
    r".*\.(forward|inverse|standardise|extra_repr|reset_parameters)": "torch's own protocol",
    r"sklrp\.plotting\.RelevanceDisplay": "made by its methods from_..., which are tried",
    r"sklrp\.Rule(\..*)?": "abstract: its subclasses are tried",
    r"sklrp\.Composite\.resolve": "called by the engine, with its own layers",
    r"sklrp\.\w+\.resolve_epsilon": "called by the engine, with its own epsilon",
}

# Data


@functools.cache
def task() -> dict[str, Any]:
    """Return a small task: samples, labels, values, fields, maps, and models of them."""
    rng = np.random.default_rng(0)
    y = np.arange(24) % 2
    X = rng.normal(size=(24, 6)) + y[:, None]
    clf = sklrp.MLPClassifier((4,), max_epochs=3, random_state=0).fit(X, y)
    reg = sklrp.MLPRegressor((4,), max_epochs=3, random_state=0).fit(X, X[:, 0])
    fields = make_field(24).fillna(0.0)
    geo_clf = sklrp.MLPClassifier((4,), max_epochs=3, random_state=0)
    vectorizer = geo.GridVectorizer().fit(fields)
    geo_clf.fit(vectorizer.transform(fields), y)
    series = rng.normal(size=(24, 10, 2)) + y[:, None, None]
    lstm = sklrp.LSTMClassifier(3, max_epochs=1, random_state=0).fit(series, y)
    return {
        "series": series,
        "lstm": lstm,
        "X": X, "y": y, "values": X[:, 0], "clf": clf, "reg": reg, "maps": clf.explain(X),
        "fields": fields, "geo": geo_clf, "vectorizer": vectorizer, "mask": np.arange(6) < 3,
        "folder": Path(tempfile.mkdtemp(prefix="sklrp_bad_")),
    }  # fmt: skip


@functools.cache
def finding() -> Any:
    """Return a map of artifacts."""
    t = task()
    return diagnostics.artifact_map(
        t["clf"], t["X"], t["y"], n_permutations=3, max_samples=10, random_state=0
    )


@functools.cache
def report() -> Any:
    """Return a diagnosis."""
    t = task()
    return diagnostics.diagnose(t["clf"], t["X"], t["y"], n_permutations=3, random_state=0)


@functools.cache
def curve() -> Any:
    """Return a curve of focus."""
    t = task()
    est = sklrp.MLPClassifier((3,), max_epochs=1, random_state=0)
    return diagnostics.focus_curve(
        est, "weight_decay", [0.0, 0.1], t["X"], t["y"], mask=t["mask"], cv=2
    )


@functools.cache
def flips() -> Any:
    """Return a curve of flipping."""
    t = task()
    return metrics.pixel_flipping_curve(t["clf"], t["X"], t["maps"], steps=2, random_state=0)


@functools.cache
def display() -> Any:
    """Return a display of maps."""
    return plotting.RelevanceDisplay.from_relevance(task()["maps"][:1])


@functools.cache
def saved() -> Path:
    """Return the path of a saved estimator."""
    path = task()["folder"] / "model.sklrp"
    sklrp.save(task()["clf"], path)
    return path


# Valid arguments, beyond defaults


def of_model(**more: Any) -> Callable[[], dict[str, Any]]:
    """Return what makes the arguments of a function that takes a model and samples."""
    return lambda: {"model": task()["clf"], "X": task()["X"], **more}


def of_series(**more: Any) -> Callable[[], dict[str, Any]]:
    """Return what makes the arguments of a test of positions."""
    return lambda: {"model": task()["lstm"], "X": task()["series"], **more}


def of_estimator(*names: str, **more: Any) -> Callable[[], dict[str, Any]]:
    """Return what makes the arguments of a metric, which calls the model an estimator."""
    return lambda: {"estimator": task()["clf"], **{name: task()[name] for name in names}, **more}


def labelled(**more: Any) -> Callable[[], dict[str, Any]]:
    """Return what makes the arguments of a test that takes labels too."""
    return lambda: {**of_model(**more)(), "y": task()["y"]}


def of_task(**names: str) -> Callable[[], dict[str, Any]]:
    """Return what makes arguments of values of the task."""
    return lambda: {name: task()[key] for name, key in names.items()}


def plain(**arguments: Any) -> Callable[[], dict[str, Any]]:
    """Return what makes the arguments as they are."""
    return lambda: arguments


SMALL = {"max_samples": 10, "random_state": 0}
BOX = {"lat": (-5.0, 5.0), "lon": (350.0, 355.0)}
SHAPES: dict[str, Any] = {"input_shape": (3, 4), "n_outputs": 2}

ARGUMENTS: dict[str, Callable[[], dict[str, Any]]] = {
    "sklrp.Composite": plain(rules=[("all", sklrp.Epsilon(), "all")]),
    "sklrp.RelevanceTransformer": of_task(estimator="clf"),
    "sklrp.available_rules": plain(),
    "sklrp.check_rule": plain(rule="gamma"),
    "sklrp.explain": of_model(),
    "sklrp.plan": of_model(),
    "sklrp.from_keras": lambda: {"path": ROOT / "tests/data/keras3.keras"},
    "sklrp.load": lambda: {"path": saved()},
    "sklrp.save": lambda: {"estimator": task()["clf"], "path": task()["folder"] / "saved.sklrp"},
    "sklrp.metrics.make_relevance_scorer": plain(metric="sparseness"),
    "sklrp.metrics.pixel_flipping_curve": of_estimator("X", steps=2, n_repeats=1),
    "sklrp.metrics.pixel_flipping_score": of_estimator("X", steps=2, n_repeats=1),
    "sklrp.metrics.faithfulness_correlation": of_estimator("X", n_subsets=3),
    "sklrp.metrics.conservation_error": lambda: {
        "relevance": task()["maps"], "score": task()["maps"].sum(axis=1)},
    "sklrp.metrics.relevance_mass": of_task(relevance="maps", mask="mask"),
    "sklrp.metrics.relevance_rank": of_task(relevance="maps", mask="mask"),
    "sklrp.metrics.sparseness": of_task(relevance="maps"),
    "sklrp.metrics.max_sensitivity": of_estimator("X", n_draws=1),
    "sklrp.metrics.class_sensitivity": of_estimator("X"),
    "sklrp.metrics.randomization_similarity": of_estimator("X"),
    "sklrp.metrics.skill_mass": of_estimator("X", "y", n_permutations=19),
    "sklrp.diagnostics.artifact_map": labelled(n_permutations=3, **SMALL),
    "sklrp.diagnostics.audit": of_model(**SMALL),
    "sklrp.diagnostics.bias_share": of_model(**SMALL),
    "sklrp.diagnostics.degeneracy": of_model(**SMALL),
    "sklrp.diagnostics.diagnose": labelled(n_permutations=3, **SMALL),
    "sklrp.diagnostics.equivariance_test": of_series(refit=False, **SMALL),
    "sklrp.diagnostics.focus_curve": lambda: {
        "estimator": sklrp.MLPClassifier((3,), max_epochs=1, random_state=0),
        "param_name": "weight_decay", "param_range": [0.0, 0.1], "cv": 2,
        **of_task(X="X", y="y", mask="mask")()},
    "sklrp.diagnostics.position_profile": of_series(n_permutations=3, **SMALL),
    "sklrp.diagnostics.randomization_test": of_model(n_permutations=3, **SMALL),
    "sklrp.diagnostics.skill_map": labelled(n_permutations=19, random_state=0),
    "sklrp.preprocessing.InputCapper": plain(),
    "sklrp.preprocessing.InputMasker": plain(),
    "sklrp.geo.AnomalyTransformer": plain(),
    "sklrp.geo.GridVectorizer": plain(),
    "sklrp.geo.box_mask": of_task(data="fields"),
    "sklrp.geo.box_mean": of_task(data="fields"),
    "sklrp.geo.box_share": lambda: {"relevance": task()["fields"], **BOX},
    "sklrp.geo.box_sum": of_task(data="fields"),
    "sklrp.geo.composites": of_task(relevance="fields", y_true="y", y_pred="y"),
    "sklrp.geo.cosine_weights": lambda: {"lat": task()["fields"].lat},
    "sklrp.geo.explain": of_task(estimator="geo", data="fields", vectorizer="vectorizer"),
    "sklrp.geo.pattern_correlation": lambda: {
        "one": task()["fields"][0], "other": task()["fields"][1]},
    "sklrp.geo.relevance_to_xarray": lambda: {
        "relevance": np.ones((24, 12)), "grid": task()["vectorizer"]},
    "sklrp.geo.select_box": of_task(data="fields"),
    "sklrp.geo.write": lambda: {
        "fields": task()["fields"], "path": task()["folder"] / "fields.nc"},
    "sklrp.plotting.ArtifactDisplay": lambda: {"finding": finding()},
    "sklrp.plotting.FocusCurveDisplay": lambda: {"curve": curve()},
    "sklrp.plotting.HistoryDisplay": lambda: {"history": task()["clf"].history_},
    "sklrp.plotting.PixelFlippingDisplay": lambda: {"curves": {"maps": flips()}},
    "sklrp.plotting.RelevanceDisplay": lambda: {
        "panels": display().panels, "frame": display().frame},
    "sklrp.plotting.ArtifactDisplay.from_estimator": labelled(n_permutations=3, **SMALL),
    "sklrp.plotting.ArtifactDisplay.from_finding": lambda: {"finding": finding()},
    "sklrp.plotting.FocusCurveDisplay.from_curve": lambda: {"curve": curve()},
    "sklrp.plotting.FocusCurveDisplay.from_estimator": lambda: ARGUMENTS[
        "sklrp.diagnostics.focus_curve"](),
    "sklrp.plotting.HistoryDisplay.from_estimator": of_estimator(),
    "sklrp.plotting.HistoryDisplay.from_history": lambda: {"history": task()["clf"].history_},
    "sklrp.plotting.PixelFlippingDisplay.from_curve": lambda: {"curve": flips()},
    "sklrp.plotting.PixelFlippingDisplay.from_estimator": of_estimator("X", steps=2, n_repeats=1),
    "sklrp.plotting.RelevanceDisplay.from_estimator": lambda: {
        "estimator": task()["clf"], "X": task()["X"][:2]},
    "sklrp.plotting.RelevanceDisplay.from_relevance": lambda: {"relevance": task()["maps"][:2]},
    "sklrp.datasets.load_enso": lambda: {
        "path": make_field(48).assign_coords(lon=[195.0, 205.0, 215.0, 225.0]),
        "base_period": None},
    "sklrp.datasets.load_pacific_sst": plain(),
    "sklrp.datasets.make_attribution_benchmark": plain(n_samples=6),
    "sklrp.datasets.make_frames": plain(n_samples=4),
    "sklrp.datasets.make_lorenz96": plain(n_samples=3, n_sites=8),
    "sklrp.datasets.make_rainfall_runoff": plain(n_samples=3, n_days=5),
    "sklrp.datasets.make_squares": plain(n_per_class=3, size=6),
    "sklrp.datasets.make_suppressor": plain(n_per_class=3, size=8),
    "sklrp.datasets.make_watermark": plain(n_per_class=3, size=8),
    "sklrp.datasets.make_xor": plain(n_per_class=3, size=8),
    "sklrp.modules.EchoState": plain(input_size=2, hidden_size=5),
    "sklrp.modules.GaussianNoise": plain(),
    "sklrp.modules.RememberingLSTM": plain(input_size=2, hidden_size=3, forget_bias=1.0),
    "sklrp.modules.StatePooling": plain(),
    "sklrp.modules.Sweep": plain(),
    "sklrp.modules.TargetUnits": plain(mean=np.zeros(2), scale=np.ones(2)),
    "sklrp.modules.bound_biases": plain(network=nn.Sequential(nn.Linear(3, 2))),
    "sklrp.modules.first_weights": plain(network=nn.Sequential(nn.Linear(3, 2))),
    "sklrp.modules.in_target_units": plain(
        network=functools.partial(modules.make_mlp, 3, 2), mean=np.zeros(2), scale=np.ones(2)),
    "sklrp.modules.make_cnn": plain(input_shape=(1, 8, 8), n_outputs=2, channels=(2,)),
    "sklrp.modules.make_esn": plain(**SHAPES, n_reservoir=5),
    "sklrp.modules.make_lstm": plain(**SHAPES, hidden_size=3),
    "sklrp.modules.make_mlp": plain(n_features=3, n_outputs=2, hidden_layer_sizes=(3,)),
    "sklrp.modules.widest_activation": plain(
        network=nn.Sequential(nn.Linear(3, 2)), n_features=3),
}  # fmt: skip
for _name in ("curve", "score"):
    _of = f"sklrp.metrics.pixel_flipping_{_name}"
    ARGUMENTS[_of] = functools.partial(
        lambda make: {**make(), "relevance": task()["maps"]}, ARGUMENTS[_of]
    )
_of = "sklrp.metrics.faithfulness_correlation"
ARGUMENTS[_of] = functools.partial(
    lambda make: {**make(), "relevance": task()["maps"]}, ARGUMENTS[_of]
)

# Arguments of the constructors of estimators that make their training short, and of methods.
QUICK: dict[str, dict[str, Any]] = {
    "MLP": {"hidden_layer_sizes": (3,), "max_epochs": 1},
    "CNN": {"channels": (2,), "input_shape": (1, 6), "max_epochs": 1},
    "LSTM": {"hidden_size": 2, "max_epochs": 1},
    "ESN": {"n_reservoir": 5},
}
METHODS: dict[str, tuple[str, ...]] = {
    "fit": ("X", "y"), "partial_fit": ("X", "y"), "fit_transform": ("X", "y"),
    "score": ("X", "y"), "transform": ("X",), "predict": ("X",), "predict_proba": ("X",),
    "predict_log_proba": ("X",), "decision_function": ("X",), "explain": ("X",),
    "get_feature_names_out": (), "inverse_transform": ("X",), "plot": (), "to_frame": (),
    "validate": (), "parts": (), "to_html": ("path",),
}  # fmt: skip


def public_callables() -> Iterator[tuple[str, Any, type | None]]:
    """Yield the name of every public callable, the callable, and its class if it is a method."""
    text = (ROOT / "docs/api.md").read_text("utf-8")
    seen: set[Any] = set()
    for module_name in re.findall(r"^ +(sklrp[.\w]*)$", text, flags=re.MULTILINE):
        module = importlib.import_module(module_name)
        for name in module.__all__:
            found = getattr(module, name)
            if not callable(found) or inspect.ismodule(found) or id(found) in seen:
                continue
            seen.add(id(found))
            yield f"{module_name}.{name}", found, None
            if inspect.isclass(found):
                for method, function in _methods(found):
                    if (key := getattr(function, "__func__", function)) not in seen:
                        seen.add(key)
                        yield f"{module_name}.{name}.{method}", function, found


def _methods(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield the public methods that a class has of this package."""
    for name, function in inspect.getmembers(cls, callable):
        owner = next((base for base in cls.__mro__ if name in vars(base)), object)
        if not name.startswith("_") and owner.__module__.startswith("sklrp"):
            yield name, function


def make_calls() -> Iterator[tuple[str, Callable[..., Any], list[inspect.Parameter]]]:
    """Yield the name of a callable, a call of which any argument can be changed, its parameters.

    The defaults of the parameters are what the call has for them.
    """
    for name, found, owner in public_callables():
        if any(re.fullmatch(pattern, name) for pattern in LEFT_OUT):
            continue
        if owner is not None:
            function, valid = _of_method(name, owner)
        elif inspect.isclass(found) and issubclass(found, BaseEstimator):
            function, valid = functools.partial(_fit, found), functools.partial(_valid_for, found)
        else:
            function, valid = found, ARGUMENTS[name]
        signature = inspect.signature(found if owner is None else getattr(owner, found.__name__))
        given = valid()
        parameters = [
            parameter.replace(default=given.get(parameter.name, parameter.default))
            for parameter in signature.parameters.values()
            if parameter.name not in ("self", "cls")
        ]
        yield name, functools.partial(_call, function, valid), parameters


def _call(function: Callable[..., Any], valid: Callable[[], dict[str, Any]], **given: Any) -> Any:
    """Call a function with valid arguments but for those that are given."""
    try:
        with parallel_config("threading"):  # its workers need no start
            return function(**{**valid(), **given})
    finally:
        plt.close("all")


def _valid_for(cls: type) -> dict[str, Any]:
    """Return arguments of a constructor that make a short training."""
    if issubclass(cls, NetworkEstimator):
        kind = next(kind for kind in QUICK if cls.__name__.startswith(kind))
        return {**QUICK[kind], "random_state": 0}
    name = next((key for key in ARGUMENTS if key.endswith(f".{cls.__name__}")), None)
    return {} if name is None else ARGUMENTS[name]()


def _samples_for(cls: type) -> tuple[Any, Any]:
    """Return what a class is fitted on."""
    t = task()
    if cls.__module__.startswith("sklrp.geo"):
        return t["fields"], None
    return t["X"], t["values"] if cls.__name__.endswith("Regressor") else t["y"]


def _fit(cls: type, **given: Any) -> Any:
    """Make an estimator with given parameters, and let it check them, by `fit` if it has one."""
    if issubclass(cls, sklrp.Rule | sklrp.Composite):
        return cls(**{**_valid_for(cls), **given}).validate()
    return cls(**{**_valid_for(cls), **given}).fit(*_samples_for(cls))


def _of_method(name: str, owner: type) -> tuple[Callable[..., Any], Callable[[], dict[str, Any]]]:
    """Return a method of a class, or of a fitted instance, and what makes its arguments."""
    method = name.rpartition(".")[2]
    if name in ARGUMENTS:
        return getattr(owner, method), ARGUMENTS[name]
    instance = _instance(owner)

    def call(**given: Any) -> Any:
        return getattr(_instance(owner) if "fit" in method else instance, method)(**given)

    def valid() -> dict[str, Any]:
        X, y = _samples_for(owner)
        X = instance.transform(X) if method == "inverse_transform" else X
        arguments = {"X": X, "y": y, "path": task()["folder"] / "page.html"}
        return {key: arguments[key] for key in METHODS[method]}

    return call, valid


def _instance(cls: type) -> Any:
    """Return an instance of a class, fitted if it can be."""
    made = {
        "ArtifactReport": report, "Audit": lambda: diagnostics.audit(task()["clf"], task()["X"]),
        "Finding": finding, "FocusCurve": curve, "RelevanceDisplay": display,
    }  # fmt: skip
    if cls.__name__ in made:
        return made[cls.__name__]()
    if issubclass(cls, BaseEstimator) and hasattr(cls, "fit"):
        return _fit(cls)
    return cls(**_valid_for(cls))
