"""Every kind of model that the package takes, of one small task, and those that it refuses.

Each kind holds the same network, or says which one it holds: what is computed of the model must
equal what is computed of the bare network and of what enters it. `make(name)` builds a kind once;
`MODELS` and `SINGLE` name the kinds of three outputs and of one, `REFUSED` what is no model, which
`refused(name)` builds.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    TunedThresholdClassifierCV,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNet, NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
from torch import nn

import sklrp
from sklrp import MLPClassifier

COLUMNS = ["sst", "wind", "slp", "olr"]
ONE_VALUE = {"weight_decay": [1e-3]}  # a search over it finds the network that is trained alone


class ExplainedNet(NeuralNetClassifier):
    """A skorch net as users make it a classifier with a method ``explain``."""

    def explain(self, X: Any, **params: Any) -> Any:
        """Explain samples by the module."""
        return sklrp.explain(self.module_, X, **params)


class Kind(NamedTuple):
    """A model, samples as it takes them, and what is inside."""

    model: Any
    X: Any
    labels: NDArray | None  # of the outputs, None of a single one
    network: nn.Module  # the bare network inside, in double precision
    entered: NDArray  # what enters it
    names: list[str] | None = None  # of the features that enter it


def _task() -> tuple[NDArray, NDArray]:
    """Return 60 samples of four features on several scales, and their three classes."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    X = rng.normal(size=(60, 4)) + np.eye(4)[y] * 2
    return X * [1.0, 10.0, 0.1, 3.0] + [0.0, 5.0, 1.0, -2.0], np.array(["a", "b", "c"])[y]


X, y = _task()
FRAME = pd.DataFrame(X, columns=COLUMNS)
SCALED = StandardScaler().fit_transform(X)
INDICES = np.arange(3)


def _mlp(**params: Any) -> MLPClassifier:
    return MLPClassifier((6,), max_epochs=10, weight_decay=1e-3, random_state=0, **params)


@functools.cache
def _fitted() -> MLPClassifier:
    return _mlp().fit(SCALED, y)


def _network(n_outputs: int = 3) -> nn.Module:
    """Return the network that most kinds hold, or one with a single output."""
    if n_outputs == 3:
        return copy.deepcopy(_fitted().module_).double()
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return net


def _alone(model: Any, samples: Any = None, **changes: Any) -> Kind:
    """Return a model that is a network itself, without steps before it."""
    samples = SCALED if samples is None else samples
    kind = Kind(model, samples, INDICES, _network(), SCALED)
    return kind._replace(**changes)


def _behind_steps(model: Any, samples: Any = X, **changes: Any) -> Kind:
    """Return a model fitted on raw samples, whose steps scale what enters the network."""
    kind = Kind(model.fit(samples, y), samples, _fitted().classes_, _network(), SCALED)
    return kind._replace(**changes)


def _net(kind: type[NeuralNet], n_outputs: int = 3, dtype: torch.dtype = torch.float64) -> Any:
    """Return an initialised skorch net with the network's parameters."""
    criterion = {} if issubclass(kind, NeuralNetClassifier) else {"criterion": nn.MSELoss}
    if issubclass(kind, NeuralNetBinaryClassifier):
        criterion = {}
    net = kind(_network(n_outputs).to(dtype), train_split=None, verbose=0, **criterion)
    net.initialize()
    if isinstance(net, NeuralNetClassifier):
        net.classes_inferred_ = INDICES
    return net


def _single_precision(net: Any) -> Kind:
    return _alone(net, SCALED.astype(np.float32), entered=SCALED.astype(np.float32))


def _of_one_output(model: Any, samples: Any = SCALED) -> Kind:
    return Kind(model, samples, None, _network(1), SCALED)


def _behind_columns() -> Kind:
    """Return a pipeline that scales two columns and puts them behind the other two."""
    columns = ColumnTransformer(
        [("as_is", "passthrough", ["olr", "sst"]), ("scaled", StandardScaler(), ["slp", "wind"])]
    )
    model = make_pipeline(columns, StandardScaler(), _mlp()).fit(FRAME, y)
    names = ["as_is__olr", "as_is__sst", "scaled__slp", "scaled__wind"]
    network = copy.deepcopy(model[-1].module_).double()
    return Kind(model, FRAME, model.classes_, network, SCALED[:, [3, 0, 2, 1]], names)


def _behind_tables() -> Kind:
    """Return a pipeline whose network is fitted on a table with names of columns."""
    model = make_pipeline(StandardScaler(), _mlp()).set_output(transform="pandas")
    return _behind_steps(model, FRAME, names=COLUMNS)


def _halving(model: Any, **params: Any) -> Any:
    return HalvingGridSearchCV(model, ONE_VALUE, cv=2, min_resources=60, **params)


_MODELS: dict[str, Callable[[], Kind]] = {
    "estimator": lambda: _alone(_fitted(), labels=_fitted().classes_),
    "estimator of a table": lambda: _alone(
        _mlp().fit(pd.DataFrame(SCALED, columns=COLUMNS), y),
        pd.DataFrame(SCALED, columns=COLUMNS),
        labels=_fitted().classes_,
        names=COLUMNS,
    ),
    "module": lambda: _alone(_network()),
    "module in training mode": lambda: _alone(_network().train()),
    "module in single precision": lambda: _single_precision(_network().float()),
    "module in parallel": lambda: _alone(nn.DataParallel(_network())),
    "compiled module": lambda: _alone(torch.compile(_network(), backend="eager")),
    "skorch classifier": lambda: _alone(_net(NeuralNetClassifier)),
    "skorch net": lambda: _alone(_net(NeuralNet)),
    "skorch net with explain": lambda: _alone(_net(ExplainedNet)),
    "skorch net with explain in single precision": lambda: _single_precision(
        _net(ExplainedNet, dtype=torch.float32)
    ),
    "skorch net in single precision": lambda: _single_precision(
        _net(NeuralNetClassifier, dtype=torch.float32)
    ),
    "pipeline": lambda: _behind_steps(make_pipeline(StandardScaler(), _mlp())),
    "pipeline in a pipeline": lambda: _behind_steps(
        Pipeline(
            [
                ("one", make_pipeline("passthrough", StandardScaler())),
                ("two", Pipeline([("one", None), ("two", _mlp())])),
            ]
        )
    ),
    "pipeline of one step": lambda: _alone(
        make_pipeline(_mlp()).fit(SCALED, y), labels=_fitted().classes_
    ),
    "pipeline of columns": _behind_columns,
    "pipeline of tables": _behind_tables,
    "pipeline with a skorch net": lambda: _alone(
        Pipeline(
            [("scale", StandardScaler().fit(X)), ("net", _net(NeuralNetClassifier))],
        ),
        X,
    ),
    "pipeline with a module": lambda: _alone(
        Pipeline([("scale", StandardScaler().fit(X)), ("net", _network())]), X
    ),
    "grid search": lambda: _alone(
        GridSearchCV(_mlp(), ONE_VALUE, cv=2).fit(SCALED, y), labels=_fitted().classes_
    ),
    "randomized search": lambda: _alone(
        RandomizedSearchCV(_mlp(), ONE_VALUE, n_iter=1, cv=2).fit(SCALED, y),
        labels=_fitted().classes_,
    ),
    "halving search": lambda: _alone(_halving(_mlp()).fit(SCALED, y), labels=_fitted().classes_),
    "search over a pipeline": lambda: _behind_steps(
        GridSearchCV(
            make_pipeline(StandardScaler(), _mlp()), {"mlpclassifier__lr": [_mlp().lr]}, cv=2
        )
    ),
    "search in a pipeline": lambda: _behind_steps(
        make_pipeline(StandardScaler(), GridSearchCV(_mlp(), ONE_VALUE, cv=2))
    ),
    "frozen estimator": lambda: _alone(FrozenEstimator(_fitted()), labels=_fitted().classes_),
    "frozen pipeline": lambda: _behind_steps(
        FrozenEstimator(make_pipeline(StandardScaler(), _mlp()).fit(X, y))
    ),
    "pipeline with a frozen estimator": lambda: _behind_steps(
        make_pipeline(StandardScaler(), FrozenEstimator(_fitted()))
    ),
}
_SINGLE: dict[str, Callable[[], Kind]] = {
    "module": lambda: _of_one_output(_network(1)),
    "skorch regressor": lambda: _of_one_output(_net(NeuralNetRegressor, 1)),
    "skorch net": lambda: _of_one_output(_net(NeuralNet, 1)),
    "skorch binary classifier": lambda: _of_one_output(_net(NeuralNetBinaryClassifier, 1)),
    "pipeline with a skorch regressor": lambda: _of_one_output(
        Pipeline([("scale", StandardScaler().fit(X)), ("net", _net(NeuralNetRegressor, 1))]), X
    ),
}
MODELS = list(_MODELS)
SINGLE = [f"one output: {name}" for name in _SINGLE]


@functools.cache
def make(name: str) -> Kind:
    """Return a kind of model, one of `MODELS` or `SINGLE`, built once."""
    if name in _MODELS:
        return _MODELS[name]()
    return _SINGLE[name.removeprefix("one output: ")]()


# What is refused: how it is built, the error, and a part of its message.
_binary = y != "a"
REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "voting": (
        lambda: VotingClassifier([("one", _mlp()), ("two", _mlp())]).fit(SCALED, y),
        TypeError,
        r"pass one network, model\.estimators_\[0\]",
    ),
    "bagging": (
        lambda: BaggingClassifier(_mlp(), n_estimators=2).fit(SCALED, y),
        TypeError,
        r"pass one network, model\.estimators_\[0\]",
    ),
    "stacking": (
        lambda: StackingClassifier([("one", _mlp())], cv=2).fit(SCALED, y),
        TypeError,
        r"pass one network, model\.estimators_\[0\]",
    ),
    "calibrated": (
        lambda: CalibratedClassifierCV(_mlp(), cv=2).fit(SCALED, y),
        TypeError,
        r"pass one network, model\.calibrated_classifiers_\[0\]\.estimator",
    ),
    "one versus rest": (
        lambda: OneVsRestClassifier(_mlp()).fit(SCALED, y),
        TypeError,
        r"pass one network, model\.estimators_\[0\]",
    ),
    "tuned threshold": (
        lambda: TunedThresholdClassifierCV(_mlp(), cv=2).fit(SCALED[_binary], y[_binary] == "b"),
        TypeError,
        r"pass one network, model\.estimator_",
    ),
    "calibrated in a pipeline": (
        lambda: make_pipeline(StandardScaler(), CalibratedClassifierCV(_mlp(), cv=2)).fit(X, y),
        TypeError,
        r"pass one network, model\[-1\]\.calibrated_classifiers_\[0\]\.estimator",
    ),
    "another estimator": (
        lambda: LogisticRegression().fit(SCALED, y),
        TypeError,
        "LogisticRegression does not explain itself",
    ),
    "pipeline of another estimator": (
        lambda: make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y),
        TypeError,
        "last step of the Pipeline does not explain itself: LogisticRegression has no",
    ),
    "pipeline without a network": (
        lambda: make_pipeline(StandardScaler(), "passthrough").fit(X, y),
        TypeError,
        "Pipeline that does not end in a network",
    ),
    "unfitted estimator": (_mlp, NotFittedError, "MLPClassifier"),
    "unfitted pipeline": (
        lambda: make_pipeline(StandardScaler(), _mlp()),
        NotFittedError,
        "MLPClassifier",
    ),
    "unfitted search": (
        lambda: GridSearchCV(_mlp(), ONE_VALUE),
        NotFittedError,
        "GridSearchCV",
    ),
    "uninitialised net": (
        lambda: NeuralNetClassifier(_network()),
        NotFittedError,
        "call fit, or initialize",
    ),
    "search without a refit": (
        lambda: GridSearchCV(_mlp(), ONE_VALUE, cv=2, refit=False).fit(SCALED, y),
        TypeError,
        "refit=False",
    ),
    "class": (lambda: MLPClassifier, TypeError, "the class MLPClassifier"),
    "class of modules": (lambda: nn.Linear, TypeError, "the class Linear"),
    "nothing": (lambda: None, TypeError, "NoneType"),
}


@functools.cache
def refused(name: str) -> Any:
    """Return what is no model, one of `REFUSED`, built once."""
    return REFUSED[name][0]()
