"""RelevanceTransformer: features, folds, cache, search.

A linear classifier that counts its trainings stands for the network; the end has real ones.
"""

import errno
import functools
import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
import xarray as xr
from packaging.version import Version
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, clone, is_classifier
from sklearn.compose import ColumnTransformer
from sklearn.datasets import make_classification
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    ShuffleSplit,
    StratifiedKFold,
    TimeSeriesSplit,
    cross_val_score,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils import Bunch, check_random_state, get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data
from skorch import NeuralNet, NeuralNetClassifier
from skorch.callbacks import Callback
from torch import nn

import sklrp
from sklrp import (
    CNNClassifier,
    Composite,
    Epsilon,
    Gamma,
    LSTMClassifier,
    MLPClassifier,
    RelevanceTransformer,
    ZPlus,
)
from sklrp._memory import Hasher, hold_lock
from sklrp._models import unwrap
from sklrp._network_cache import identify
from sklrp.geo import AnomalyTransformer, GridVectorizer
from tests.helpers import models
from tests.helpers.comparing import assert_same_to_rounding

RULES = [
    "auto",
    "zero",
    "epsilon",
    "gamma",
    "alpha_beta",
    "z_plus",
    "w_square",
    "z_box",
]


class LinearClassifier(ClassifierMixin, BaseEstimator):
    """A one-layer network, with weight times value as relevance, that notes its trainings.

    ``random_state`` shifts the weights, so that two seeds give two networks.
    """

    def __init__(self, C=1.0, log=None, delay=0.0, extra=None, random_state=None):
        self.C = C
        self.log = log
        self.delay = delay
        self.extra = extra
        self.random_state = random_state

    def fit(self, X, y, sample_weight=None):
        X, y = validate_data(self, X, y, allow_nd=True, ensure_2d=False)
        if self.log is not None:
            with open(self.log, "a") as file:
                file.write(f"{os.getpid()}\n")
        time.sleep(self.delay)
        X = X.reshape(len(X), -1)
        self.n_features_in_ = X.shape[1]
        linear = LogisticRegression(C=self.C, tol=1e-6, max_iter=1000)
        linear.fit(X.astype(float), y, sample_weight=sample_weight)
        self.classes_ = linear.classes_
        weights, bias = linear.coef_, linear.intercept_
        if len(self.classes_) == 2:
            weights, bias = np.vstack([-weights, weights]), np.hstack([-bias, bias])
        if self.random_state is not None:
            weights = weights + check_random_state(self.random_state).normal(size=weights.shape)
        self.weights_, self.bias_ = weights, bias
        return self

    def decision_function(self, X):
        check_is_fitted(self)
        X = validate_data(
            self, X, reset=False, allow_nd=True, ensure_2d=False, skip_check_array=True
        )
        return np.asarray(X, dtype=float).reshape(len(X), -1) @ self.weights_.T + self.bias_

    def predict(self, X):
        return self.classes_[self.decision_function(X).argmax(axis=1)]

    def explain(
        self,
        X,
        *,
        target=None,
        rule="auto",
        epsilon=1e-6,
        contrast=False,
        batch_size=None,
        n_jobs=None,
        progress=False,
        return_details=False,
    ):
        score = self.decision_function(X)
        X = np.asarray(X)
        weights = np.maximum(self.weights_, 0) if rule == "z_plus" else self.weights_
        relevance = X.reshape(len(X), 1, -1) * weights / (1 + epsilon)
        if target == "all":
            relevance = relevance.reshape(len(X), len(weights), *X.shape[1:])
        else:
            rows = np.arange(len(X))
            index = score.argmax(axis=1) if target is None else [*self.classes_].index(target)
            relevance, score = relevance[rows, index].reshape(X.shape), score[rows, index]
        relevance = relevance.astype(np.result_type(X.dtype, np.float32), copy=False)
        return (relevance, Bunch(score=score)) if return_details else relevance


class ConvolutionalClassifier(LinearClassifier):
    def __init__(self, C=1.0, log=None, input_shape=None):
        super().__init__(C=C, log=log)
        self.input_shape = input_shape


class RecurrentClassifier(ConvolutionalClassifier):
    def __init__(self, C=1.0, log=None, input_shape=None, sweep="down"):
        super().__init__(C=C, log=log, input_shape=input_shape)
        self.sweep = sweep


class Unhashable:
    """A parameter that can be copied but not pickled."""

    def __init__(self):
        self.lock = threading.Lock()

    def __deepcopy__(self, memo):
        return self


@pytest.fixture
def log(tmp_path):
    return str(tmp_path / "trainings")


@pytest.fixture
def memory(tmp_path):
    return str(tmp_path / "memory")


def count(log):
    """Return how often networks were trained, in all processes."""
    if not os.path.exists(log):
        return 0
    with open(log) as file:
        return len(file.readlines())


def make_data(n_samples=90, n_features=12, n_classes=3, random_state=0):
    return make_classification(
        n_samples,
        n_features,
        n_informative=6,
        n_classes=n_classes,
        random_state=random_state,
    )


ENVIRONMENT = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(sklrp.__file__))}
X, y = make_data()
LABELS = np.array(["cold", "mild", "warm"])


@parametrize_with_checks([RelevanceTransformer(LinearClassifier())])
def test_estimator_checks_linear(estimator, check):
    check(estimator)


# Features


@pytest.mark.parametrize("target", [None, "mild", "all"])
def test_features_are_relevance(target):
    transformer = RelevanceTransformer(LinearClassifier(), target=target, epsilon=0.5)
    features = transformer.fit(X, LABELS[y]).transform(X)
    expected = LinearClassifier().fit(X, LABELS[y]).explain(X, target=target, epsilon=0.5)
    assert_same_to_rounding(features, expected.reshape(len(X), -1))
    names = [f"x{i}" for i in range(12)]
    if target == "all":
        names = [f"{label}_{name}" for label in LABELS for name in names]
    assert transformer.get_feature_names_out().tolist() == names
    np.testing.assert_array_equal(transformer.classes_, LABELS)
    assert_same_to_rounding(transformer.fit_transform(X, LABELS[y]), features)


def test_numbered_classes_are_named():
    transformer = RelevanceTransformer(LinearClassifier(), target="all").fit(X, y)
    assert transformer.get_feature_names_out()[[0, 12, 35]].tolist() == [
        "class0_x0",
        "class1_x0",
        "class2_x11",
    ]


@pytest.mark.parametrize(
    "network", [LinearClassifier(), MLPClassifier(max_epochs=2, random_state=0)]
)
def test_a_class_named_all_is_explained_with_the_others(network):
    labels = np.array(["all", "mild", "none"])
    transformer = RelevanceTransformer(network, target="all")
    features = transformer.fit_transform(X, labels[y])
    expected = clone(network).fit(X, y).explain(X, target="all")
    assert_same_to_rounding(features, expected.reshape(90, 36))
    assert transformer.get_feature_names_out()[[0, 12]].tolist() == ["all_x0", "mild_x0"]


def test_names_that_clash():
    frame = pd.DataFrame(X[:, :2], columns=["b_c", "c"])
    transformer = RelevanceTransformer(LinearClassifier(), target="all")
    transformer.fit(frame, np.where(y == 0, "a", "a_b"))
    assert transformer.transform(frame).shape == (90, 4)
    clash = r"'a_b_c' .* \[\('a', 'b_c'\), \('a_b', 'c'\)\].*Rename"
    with pytest.raises(ValueError, match=clash):
        transformer.get_feature_names_out()
    if Version(sklearn.__version__) >= Version("1.9"):  # before, names are left out
        with pytest.raises(ValueError, match=clash):
            transformer.set_output(transform="pandas").transform(frame)
    assert transformer.set_params(target=None).get_feature_names_out().tolist() == ["b_c", "c"]


def test_relevance_settings_hold_after_fit():
    transformer = RelevanceTransformer(LinearClassifier()).fit(X, y)
    first = transformer.transform(X)
    second = transformer.set_params(epsilon=1.0, rule="z_plus").transform(X)
    assert not np.allclose(first, second)
    with pytest.raises(ValueError, match="rule must be one of"):
        transformer.set_params(rule="zplus").transform(X)
    with pytest.raises(ValueError, match=r"target .* must be None"):
        transformer.set_params(rule="auto", target=7).transform(X)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("normalize", [None, "l1", "max", "score"])
def test_precision_is_kept(dtype, normalize):
    transformer = RelevanceTransformer(
        LinearClassifier(), normalize=normalize, aggregate=[0, 1] * 6
    )
    assert transformer.fit_transform(X.astype(dtype), y).dtype == dtype


@pytest.mark.parametrize("target", [None, "all"])
@pytest.mark.parametrize("aggregate", [None, [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2]])
def test_normalize(target, aggregate):
    plain = RelevanceTransformer(LinearClassifier(), target=target, aggregate=aggregate).fit(X, y)
    maps = plain.transform(X).reshape(len(X), -1, 12 if aggregate is None else 3)
    score = plain.estimator_.decision_function(X)
    score = score[:, :, None] if target == "all" else score.max(axis=1).reshape(-1, 1, 1)
    for normalize, size in {
        "l1": np.abs(maps).sum(axis=2, keepdims=True),
        "max": np.abs(maps).max(axis=2, keepdims=True),
        "score": score,
    }.items():
        features = clone(plain).set_params(normalize=normalize).fit(X, y).transform(X)
        np.testing.assert_allclose(features, (maps / size).reshape(len(X), -1), rtol=1e-10)


@pytest.mark.parametrize("normalize", ["l1", "max", "score"])
def test_empty_maps_stay_empty(normalize):
    network = LinearClassifier().fit(X, y)
    network.bias_ = np.zeros(3)
    transformer = RelevanceTransformer(FrozenEstimator(network), normalize=normalize).fit(X, y)
    np.testing.assert_array_equal(transformer.transform(np.zeros((2, 12))), 0)


# Aggregation

SHAPED = [
    # estimator, shape of a sample in X, its shape for the estimator, axes
    (LinearClassifier(), (3, 4), (3, 4), {"row": 0, "time": 0, "column": 1, "channel": 1}),
    (LinearClassifier(), (2, 2, 3), (2, 2, 3), {"channel": 0, "row": 1, "column": 2}),
    (LinearClassifier(), (12,), (12,), {}),
    (ConvolutionalClassifier(), (12,), (1, 12), {"channel": 0, "time": 1}),
    (ConvolutionalClassifier(), (3, 4), (1, 3, 4), {"channel": 0, "row": 1, "column": 2}),
    (ConvolutionalClassifier(input_shape=(2, 6)), (12,), (2, 6), {"channel": 0, "time": 1}),
    (
        ConvolutionalClassifier(input_shape=(1, 3, 4)),
        (3, 4),
        (1, 3, 4),
        {"channel": 0, "row": 1, "column": 2},
    ),
    (
        ConvolutionalClassifier(input_shape=(2, 2, 3)),
        (12,),
        (2, 2, 3),
        {"channel": 0, "row": 1, "column": 2},
    ),
    (RecurrentClassifier(), (12,), (12, 1), {"row": 0, "time": 0, "column": 1, "channel": 1}),
    (
        RecurrentClassifier(),
        (1, 4, 3),
        (4, 3),
        {"row": 0, "time": 0, "column": 1, "channel": 1},
    ),
    (
        RecurrentClassifier(input_shape=(4, 3)),
        (12,),
        (4, 3),
        {"row": 0, "time": 0, "column": 1, "channel": 1},
    ),
    (
        RecurrentClassifier(input_shape=(4, 3), sweep="up"),
        (4, 3),
        (4, 3),
        {"row": 0, "time": 0, "column": 1, "channel": 1},
    ),
    (
        RecurrentClassifier(input_shape=(4, 3), sweep="left"),
        (4, 3),
        (4, 3),
        {"row": 0, "time": 1, "column": 1, "channel": 0},
    ),
    (
        FrozenEstimator(RecurrentClassifier(input_shape=(4, 3), sweep="right").fit(X, y)),
        (12,),
        (4, 3),
        {"row": 0, "time": 1, "column": 1, "channel": 0},
    ),
]


@pytest.mark.sweep(12)
@pytest.mark.parametrize("aggregate", ["channel", "row", "column", "time"])
@pytest.mark.parametrize(("estimator", "given", "shape", "axes"), SHAPED)
def test_aggregate_axis(estimator, given, shape, axes, aggregate, log):
    if not isinstance(estimator, FrozenEstimator):
        estimator = clone(estimator).set_params(log=log)
    transformer = RelevanceTransformer(estimator, aggregate=aggregate)
    shaped = X.reshape(-1, *given)
    if aggregate not in axes:
        with pytest.raises(
            ValueError, match=f"aggregate='{aggregate}' needs samples with such an"
        ):
            transformer.fit(shaped, y)
        assert count(log) == 0
        return
    features = transformer.fit(shaped, y).transform(shaped)
    axis = axes[aggregate]
    relevance = transformer.estimator_.explain(X).reshape(-1, *shape)
    others = tuple(1 + i for i in range(len(shape)) if i != axis)
    np.testing.assert_allclose(features, relevance.sum(axis=others), atol=1e-12)
    names = [f"{aggregate}{i}" for i in range(shape[axis])]
    assert transformer.get_feature_names_out().tolist() == names
    assert_same_to_rounding(features, transformer.transform(X))  # flat samples do as well


def test_aggregate_advises_what_the_estimator_has():
    with pytest.raises(ValueError, match=r"Pass X of shape \(n_samples, height, width\), or"):
        RelevanceTransformer(MLPClassifier(), aggregate="row").fit(X, y)
    with pytest.raises(ValueError, match=r"width\), set input_shape in the estimator, or"):
        RelevanceTransformer(ConvolutionalClassifier(), aggregate="row").fit(X, y)


@pytest.mark.parametrize("flat", [True, False])
def test_aggregate_regions(flat):
    regions = np.array([["sea", "land", "sea", "ice"]] * 3)
    transformer = RelevanceTransformer(
        LinearClassifier(), target="all", aggregate=regions.ravel() if flat else regions
    )
    shaped = X.reshape(-1, 3, 4)
    features = transformer.fit_transform(shaped, LABELS[y])
    relevance = transformer.estimator_.explain(shaped, target="all")
    expected = [
        relevance[:, i, regions == region].sum(axis=1)
        for i in range(3)
        for region in ("ice", "land", "sea")
    ]
    np.testing.assert_allclose(features, np.transpose(expected), atol=1e-12)
    names = transformer.get_feature_names_out().tolist()
    assert names[:4] == ["cold_ice", "cold_land", "cold_sea", "mild_ice"]
    transformer.set_params(aggregate=np.arange(12) // 6, target=None).fit(X, y)
    assert transformer.get_feature_names_out().tolist() == ["region0", "region1"]


def test_pandas_in_and_out():
    frame = pd.DataFrame(X, columns=[f"sst{i}" for i in range(12)], index=np.arange(90) + 1000)
    transformer = RelevanceTransformer(LinearClassifier()).set_output(transform="pandas")
    for features in (transformer.fit_transform(frame, y), transformer.transform(frame)):
        pd.testing.assert_index_equal(features.columns, frame.columns)
        pd.testing.assert_index_equal(features.index, frame.index)
        assert_same_to_rounding(features, LinearClassifier().fit(X, y).explain(X))
    assert transformer.feature_names_in_.tolist() == frame.columns.tolist()
    transformer.set_params(cv=3)
    assert transformer.fit_transform(frame, y).shape == (90, 12)
    with pytest.raises(ValueError, match="feature names should match"):
        transformer.transform(frame[frame.columns[::-1]])
    shaped = RelevanceTransformer(LinearClassifier(), aggregate="row").set_output(
        transform="pandas"
    )
    assert [*shaped.fit_transform(X.reshape(-1, 3, 4), y).columns] == ["row0", "row1", "row2"]


# Out-of-fold


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("memory_", [False, True])
def test_out_of_fold(n_jobs, memory_, memory, log):
    transformer = RelevanceTransformer(
        LinearClassifier(log=log),
        cv=3,
        target="all",
        memory=memory if memory_ else None,
        n_jobs=n_jobs,
    )
    features = transformer.fit_transform(X, y)
    assert count(log) == 4
    for train, test in StratifiedKFold(3).split(X, y):
        network = LinearClassifier().fit(X[train], y[train])
        expected = network.explain(X[test], target="all").reshape(len(test), -1)
        np.testing.assert_allclose(features[test], expected, rtol=1e-12)
    inside = LinearClassifier().fit(X, y).explain(X, target="all").reshape(90, -1)
    assert_same_to_rounding(transformer.transform(X), inside)
    assert_same_to_rounding(transformer.fit(X, y).transform(X), inside)
    transformer.set_params(rule="z_plus").fit_transform(X, y)
    assert count(log) == (4 if memory_ else 9)


def test_out_of_fold_takes_weights_and_groups():
    weights, groups = np.linspace(0.1, 2, 90), np.repeat(np.arange(9), 10)
    transformer = RelevanceTransformer(LinearClassifier(), cv=GroupKFold(3))
    features = transformer.fit_transform(X, y, sample_weight=weights, groups=groups)
    for train, test in GroupKFold(3).split(X, y, groups):
        network = LinearClassifier().fit(X[train], y[train], sample_weight=weights[train])
        np.testing.assert_allclose(features[test], network.explain(X[test]), rtol=1e-12)
    with pytest.raises(TypeError, match="groups"):
        transformer.set_params(cv=None).fit_transform(X, y, groups=groups)


def test_out_of_fold_trains_nothing_frozen(log):
    network = LinearClassifier(log=log).fit(X, y)
    transformer = RelevanceTransformer(FrozenEstimator(network), cv=3)
    assert_same_to_rounding(transformer.fit_transform(X, y), network.explain(X))
    assert count(log) == 1


@pytest.mark.parametrize(
    ("cv", "message"),
    [
        (TimeSeriesSplit(3), "each sample into exactly one test fold"),
        (ShuffleSplit(3, random_state=0), "each sample into exactly one test fold"),
        (KFold(3), r"no training sample of the classes \[0\] in fold 0"),
    ],
)
def test_unfit_folds(cv, message, log):
    transformer = RelevanceTransformer(LinearClassifier(log=log), cv=cv)
    order = np.argsort(y, kind="stable")
    data = X[order], np.repeat([0, 1, 2], 30)
    with pytest.raises(ValueError, match=message):
        transformer.fit_transform(*data)
    assert count(log) == 0
    transformer.fit(*data)


# Cache


def test_memory_trains_once_per_network(memory, log):
    weights = np.linspace(0.1, 2, 90)
    transformer = RelevanceTransformer(LinearClassifier(log=log), memory=memory)
    features = transformer.fit_transform(X, y)
    for settings in (
        {"rule": "z_plus", "target": "all", "normalize": "l1"},
        {"epsilon": 0.1, "contrast": True, "batch_size": 3, "n_jobs": 1, "cv": 3},
        {"aggregate": np.arange(12) // 2},
        {"rule": Gamma(), "memory": joblib.Memory(memory, verbose=0)},
        {"memory": joblib.Memory(memory, verbose=0, mmap_mode="r")},
    ):
        clone(transformer).set_params(**settings).fit(X, y)
    order = np.asfortranarray(X)
    with_slice = np.repeat(X, 2, axis=0)[::2]
    for equal in (order, with_slice, X.tolist()):
        assert_same_to_rounding(clone(transformer).fit(equal, y).transform(X), features)
    clone(transformer).fit(X, y.tolist())
    assert count(log) == 1
    for i, (params, fit_params, data) in enumerate(
        [
            ({"estimator__C": 0.5}, {}, (X, y)),
            ({"random_state": 0}, {}, (X, y)),
            ({}, {"sample_weight": weights}, (X, y)),
            ({}, {"sample_weight": weights[::-1]}, (X, y)),
            ({}, {}, (X + 1, y)),
            ({}, {}, (X, (y + 1) % 3)),
            ({}, {}, (X, LABELS[y])),
            ({}, {}, (X.astype(np.float32), y)),
            ({}, {}, (X.reshape(-1, 3, 4), y)),
        ]
    ):
        for _ in range(2):
            clone(transformer).set_params(**params).fit(*data, **fit_params)
        assert count(log) == 2 + i


@pytest.mark.parametrize("kind", [str, os.fspath, joblib.Memory])
def test_memory_may_be_cleared_and_reduced(kind, tmp_path, log):
    location = tmp_path / "memory"
    memory = joblib.Memory(location, verbose=0)
    given = memory if kind is joblib.Memory else location if kind is os.fspath else str(location)
    transformer = RelevanceTransformer(LinearClassifier(log=log), memory=given)
    transformer.fit(X, y).fit(X, y)
    assert count(log) == 1
    memory.reduce_size(items_limit=0)
    transformer.fit(X, y).fit(X, y)
    assert count(log) == 2
    memory.clear(warn=False)
    transformer.fit(X, y).fit(X, y)
    assert count(log) == 3


def test_memory_without_a_place_keeps_nothing(log):
    transformer = RelevanceTransformer(LinearClassifier(log=log), memory=joblib.Memory(None))
    transformer.fit(X, y).fit(X, y)
    assert count(log) == 2


def test_memory_of_another_kind(log):
    class Lasting:
        def cache(self, function):
            def cached(key):
                if key not in store:
                    store[key] = function(key)
                return store[key]

            return cached

    store = {}
    transformer = RelevanceTransformer(LinearClassifier(log=log), memory=Lasting())
    transformer.fit(X, y).fit(X, y)
    assert count(log) == 1
    transformer.fit(X + 1, y)
    assert count(log) == len(store) == 2


def test_memory_keeps_names(memory, log):
    frame = pd.DataFrame(X, columns=[f"sst{i}" for i in range(12)])
    renamed = frame.set_axis([f"ssh{i}" for i in range(12)], axis=1)
    transformer = RelevanceTransformer(LinearClassifier(log=log), memory=memory)
    for data in (frame, renamed, frame.iloc[::1].copy(), pd.concat([frame, frame])[:90], renamed):
        transformer.fit(data, pd.Series(y)).transform(data)
        for estimator in (transformer, transformer.estimator_):
            assert estimator.feature_names_in_.tolist() == data.columns.tolist()
    assert count(log) == 2
    assert not hasattr(transformer.fit(X, y).estimator_, "feature_names_in_")
    assert count(log) == 3


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_memory_ignores_what_is_no_feature_name(n_jobs, memory, log):
    numbered = pd.DataFrame(X)
    named = numbered.set_axis([str(i) for i in range(12)], axis=1)
    network = LinearClassifier(log=log)
    cached = RelevanceTransformer(network, memory=memory, cv=3, n_jobs=n_jobs)
    for data, trainings in ((numbered, 4), (named, 8), (X, 8)):
        uncached = clone(cached).set_params(estimator__log=None, memory=None)
        features = cached.fit_transform(data, y)
        assert_same_to_rounding(features, uncached.fit_transform(data, y))
        names = getattr(uncached.estimator_, "feature_names_in_", "none")
        np.testing.assert_array_equal(
            getattr(cached.estimator_, "feature_names_in_", "none"), names
        )
        assert count(log) == trainings


@pytest.mark.parametrize("package", ["numpy", "sklearn", "skorch", "torch"])
def test_memory_knows_versions(package, monkeypatch):
    before = identify(LinearClassifier(), X, y, {})
    monkeypatch.setattr(sys.modules[package], "__version__", "0.0")
    assert identify(LinearClassifier(), X, y, {}) != before


def test_memory_knows_dates_and_places(memory):
    """A climatology is of months, so that equal values at other times make another network."""

    def make_field(month, longitude):
        time = np.datetime64("1980-01") + np.arange(month, month + 24).astype("m8[M]")
        coords = {"time": time.astype("datetime64[ns]"), "lon": 90.0 * np.arange(4) + longitude}
        values = np.random.default_rng(0).normal(size=(24, 4))
        return xr.DataArray(values, coords, ("time", "lon"), name="sst")

    steps = AnomalyTransformer(), GridVectorizer(), MLPClassifier((4,), max_epochs=1)
    cached = RelevanceTransformer(make_pipeline(*steps), memory=memory, random_state=0)
    labels = np.arange(24) % 2
    for place in ((0, 0.0), (3, 0.0), (0, 180.0)):
        field = make_field(*place)
        plain = clone(cached).set_params(memory=None).fit(field, labels)
        assert_same_to_rounding(cached.fit(field, labels).transform(field), plain.transform(field))


def test_what_steps_are_given_has_rows():
    transformer = RelevanceTransformer(make_pipeline(StandardScaler(), LinearClassifier()))
    fields = xr.Dataset({"a": (("time", "x"), X), "b": (("time", "x"), X)})
    with pytest.raises(TypeError, match=r"X is an xarray.Dataset.*to_dataarray"):
        transformer.fit(fields, y)
    with pytest.raises(ValueError, match=r"at least one sample, got the shape \(0, "):
        transformer.fit(X, y).transform(X[:0])


def test_memory_hands_out_copies(memory):
    transformer = RelevanceTransformer(LinearClassifier(), memory=memory)
    networks = [clone(transformer).fit(X, y).estimator_ for _ in range(3)]
    networks[0].weights_[:] = networks[1].weights_[:] = 0
    assert networks[2].weights_.any()
    assert clone(transformer).fit(X, y).estimator_.weights_.any()


def test_what_cannot_be_hashed_is_trained_uncached(memory, log):
    transformer = RelevanceTransformer(
        LinearClassifier(log=log, extra=Unhashable()), memory=memory
    )
    for i in range(2):
        with pytest.warns(
            UserWarning, match=r"without the cache .* cannot be hashed .* module of"
        ):
            transformer.fit(X, y)
        assert count(log) == i + 1
    expected = LinearClassifier().fit(X, y).explain(X)
    assert_same_to_rounding(transformer.transform(X), expected)


def test_what_cannot_be_read_is_trained_anew(memory, log):
    transformer = RelevanceTransformer(LinearClassifier(log=log), memory=memory).fit(X, y)
    store = joblib.Memory(memory, verbose=0).store_backend
    key = identify(clone(transformer.estimator), X, y, {})
    path = os.path.join(store.location, "sklrp", "networks", key, "output.pkl")
    with open(path, "wb") as file:
        file.write(b"no pickle")
    with pytest.warns(UserWarning, match="cannot be read"):
        transformer.fit(X, y)
    transformer.fit(X, y)
    assert count(log) == 2


class ForgetfulClassifier(LinearClassifier):
    def fit(self, X, y):
        self.function_ = lambda: None
        return super().fit(X, y)


def test_what_cannot_be_kept_is_trained_again(memory, log):
    transformer = RelevanceTransformer(ForgetfulClassifier(log=log), memory=memory)
    for _ in range(2):
        with pytest.warns(UserWarning, match="cannot be kept in .*<lambda>.*memory=None"):
            transformer.fit(X, y)
    assert count(log) == 2
    assert callable(transformer.estimator_.function_)


def test_lambdas_are_known_by_their_code(memory, log):
    def make(power, offset=0):
        return lambda value: value**power + offset

    def other(power, offset=0):
        return lambda value: value**power - offset

    for extra in (make(2), make(2), make(2, 0), make(3), make(2, 1), other(2), other(2)):
        network = LinearClassifier(log=log, extra=extra)
        RelevanceTransformer(network, memory=memory).fit(X, y)
    assert count(log) == 4


def test_code_is_taken_apart():
    def hash_class(scale):
        class Parent:
            bias = 1.0

        class Callback(Parent):
            table = frozenset({"a", "b"})

            def __init__(self):
                super().__init__()

            @property
            def scale(self):
                return scale

            @staticmethod
            def apply(x):
                return np.exp(x) if x in {"a", "b"} else Callback

        return [Hasher().hash(value) for value in (Callback, Callback())]

    assert hash_class(1.0) == hash_class(1.0)
    assert not set(hash_class(1.0)) & set(hash_class(2.0))
    assert Hasher().hash(functools.partial(np.sum, axis=0)) == Hasher().hash(
        functools.partial(np.sum, axis=0)
    )


IDENTIFY = """
import sys
from sklrp._memory import Hasher

words = {"calm", "warm", "cold", "el niño"}
table = {"b": 1, "a": {"x", "y"}}

class Parent:
    kinds = frozenset({"one", "two", "three"})

class Step(Parent):
    def __call__(self, x, *, power=OFFSET):
        def inside(y):
            return [table[key] if y in words else Step for key in table]
        return inside(x)

print(Hasher().hash(Step), Hasher().hash(Step()), Hasher().hash([lambda x: x in words, Step]))
"""


RUN_EACH = "import runpy, sys; [runpy.run_path(p, run_name='__main__') for p in sys.argv[1:]]"


@pytest.mark.slow
def test_code_is_known_in_other_processes(tmp_path):
    """Whatever the seed of hashes, the file and the lines; and edits are seen, also inside."""
    edits = [("OFFSET", "2"), ("OFFSET", "3"), ("y in words", "y not in words")]
    edits += [('"b": 1', '"b": 2'), ('"three"', '"four"')]
    scripts = []
    for i, (old, new) in enumerate([edits[0], *edits]):
        text = IDENTIFY.replace(old, new).replace("OFFSET", "2")
        scripts.append(tmp_path / f"script{i}.py")
        scripts[i].write_text("# moved down\n" * i + text, encoding="utf-8")
    found = []
    for seed, command in enumerate(([scripts[0]], ["-c", RUN_EACH, *scripts[1:]])):
        environment = {**ENVIRONMENT, "PYTHONHASHSEED": str(seed)}
        run = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, check=True, env=environment
        )
        found += [line.split() for line in run.stdout.splitlines()]
    assert len(found) == len(scripts)
    assert found[0] == found[1]
    for of_step in map(set, zip(*found, strict=True)):
        assert len(of_step) == len(edits)


@pytest.mark.parametrize("prefer", ["threads", "processes"])
def test_workers_wait_for_each_other(prefer, memory, log):
    transformer = RelevanceTransformer(LinearClassifier(log=log, delay=0.3), memory=memory)
    joblib.Parallel(n_jobs=2, prefer=prefer)(
        joblib.delayed(clone(transformer).fit)(X, y) for _ in range(4)
    )
    assert count(log) == 1


@pytest.mark.slow
def test_lock_is_freed_by_death(tmp_path):
    script = (
        "import sys, pathlib, sklrp._memory as cache\n"
        "with cache.hold_lock(pathlib.Path(sys.argv[1])):\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    assert holder.stdout.readline().strip() == b"locked"

    def take():
        with hold_lock(tmp_path):
            return time.monotonic()

    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(take)
        time.sleep(0.2)
        assert not taken.done()
        killed = time.monotonic()
        holder.kill()
        assert taken.result(timeout=10) >= killed
    holder.communicate()


def test_lock_is_optional(tmp_path):
    (tmp_path / "file").touch()
    with hold_lock(tmp_path / "file" / "no_folder"):
        pass


@pytest.mark.skipif(os.name == "nt", reason="there is no flock")
def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", fail)
    with hold_lock(tmp_path), hold_lock(tmp_path):
        pass


# Search


def make_search(transformer, n_jobs=1, rules=RULES):
    pipeline = Pipeline([("relevance", transformer), ("clf", LogisticRegression(max_iter=1000))])
    return GridSearchCV(pipeline, {"relevance__rule": rules}, cv=5, n_jobs=n_jobs)


@pytest.mark.sweep(1)
@pytest.mark.parametrize("frame", [False, True])
@pytest.mark.parametrize(
    ("n_jobs", "cached", "trainings"), [(1, True, 6), (2, True, 6), (1, False, 41)]
)
def test_search_trains_each_network_once(n_jobs, cached, trainings, frame, memory, log):
    data = pd.DataFrame(X, columns=[f"sst{i}" for i in range(12)]) if frame else X
    network = LinearClassifier(log=log, random_state=0)
    transformer = RelevanceTransformer(network, memory=memory if cached else None)
    search = make_search(transformer, n_jobs).fit(data, y)
    assert count(log) == trainings
    plain = make_search(RelevanceTransformer(LinearClassifier(random_state=0))).fit(data, y)
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"]
    )
    names = search.best_estimator_["relevance"].get_feature_names_out()
    assert names[0] == ("sst0" if frame else "x0")


SCRIPT = """
import sys
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklrp import RelevanceTransformer

memory, log, part = sys.argv[1:]
power = 1

def note(log):
    with open(log, "a") as file:
        file.write("trained\\n")

class Scale:
    def __call__(self, X):
        return X ** power

class Network(ClassifierMixin, BaseEstimator):
    def __init__(self, log=None, scale=None, shift=None):
        self.log, self.scale, self.shift = log, scale, shift

    def fit(self, X, y):
        note(self.log)
        self.linear_ = LogisticRegression(max_iter=1000).fit(self.scale(X), self.shift(y))
        self.classes_ = self.linear_.classes_
        return self

    def explain(self, X, *, target=None, rule="auto", epsilon=1e-6, contrast=False,
                batch_size=None, n_jobs=None, progress=False, return_details=False):
        return self.scale(X) * self.linear_.coef_[0] * len(rule)

if __name__ == "__main__":
    X, y = make_classification(60, 4, random_state=0)
    cached = RelevanceTransformer(Network(log, Scale(), lambda y: y), memory=memory)
    assert isinstance(cached.fit(X, y).estimator_, Network)
    print(len(open(log).readlines()))
    scores = []
    uncached = clone(cached).set_params(memory=None)
    searches = [(cached, 2), (cached, 1), (uncached, 1)] if part == "first" else [(cached, 1)]
    for transformer, n_jobs in searches:
        pipeline = Pipeline([("relevance", transformer), ("clf", LogisticRegression())])
        rules = ["auto", "zero", "epsilon", "gamma", "alpha_beta", "z_plus", "w_square", "flat"]
        search = GridSearchCV(pipeline, {"relevance__rule": rules}, cv=5, n_jobs=n_jobs).fit(X, y)
        assert isinstance(search.best_estimator_["relevance"].estimator_, Network)
        scores.append(search.cv_results_["mean_test_score"])
        print(len(open(log).readlines()))
    assert all(np.array_equal(score, scores[0]) for score in scores)
    power = 3
    cached.fit(X, y)
    print(len(open(log).readlines()))
"""


@pytest.mark.slow
def test_search_with_classes_of_a_script(tmp_path, memory, log):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    counts = []
    for part in ("first", "second"):
        run = subprocess.run(
            [sys.executable, script, memory, log, part],
            capture_output=True,
            text=True,
            check=False,
            env=ENVIRONMENT,
        )
        assert run.returncode == 0, run.stderr
        assert "UserWarning" not in run.stderr
        counts.append([int(n) for n in run.stdout.split()])
    # A fit; the search with workers, in one process, uncached; a fit after a global that the code
    # reads has changed. The second run finds all networks of the first.
    assert counts == [[1, 6, 6, 47, 48], [48, 48, 48]]


# Parameters


def test_frozen_is_not_trained(log, memory):
    network = LinearClassifier(log=log).fit(X, y)
    for memory_ in (None, memory):
        transformer = RelevanceTransformer(
            FrozenEstimator(network), memory=memory_, random_state=0
        )
        make_search(transformer).fit(X + 1, y)
        features = transformer.fit(X + 1, y).transform(X)
        assert_same_to_rounding(features, network.explain(X))
        assert transformer.score(X, y) == network.score(X, y)
    assert count(log) == 1
    with pytest.raises(NotFittedError):
        RelevanceTransformer(FrozenEstimator(LinearClassifier())).fit(X, y)
    with pytest.raises(
        ValueError, match="X has 11 features, but the frozen estimator is expecting 12"
    ):
        transformer.fit(X[:, :11], y)


def test_frozen_needs_no_labels():
    network = LinearClassifier().fit(X, y)
    frozen = RelevanceTransformer(FrozenEstimator(network), cv=3)
    assert_same_to_rounding(frozen.fit(X).transform(X), network.explain(X))
    assert_same_to_rounding(frozen.fit_transform(X + 1), network.explain(X + 1))
    assert frozen.score(X, y) == network.score(X, y)
    assert not get_tags(frozen).target_tags.required
    assert get_tags(RelevanceTransformer(network)).target_tags.required


def test_random_state_is_handed_on():
    network = LinearClassifier()
    plain = LinearClassifier(random_state=7).fit(X, y).explain(X)
    features = RelevanceTransformer(network, random_state=7).fit(X, y).transform(X)
    assert_same_to_rounding(features, plain)
    assert network.random_state is None
    rng = np.random.RandomState(0)
    seeded = RelevanceTransformer(network, random_state=rng)
    first, second = (seeded.fit(X, y).transform(X) for _ in range(2))
    assert not np.allclose(first, second)
    kept = RelevanceTransformer(LinearClassifier(random_state=7)).fit(X, y)
    assert_same_to_rounding(kept.transform(X), plain)
    RelevanceTransformer(ConvolutionalClassifier(), random_state=0).fit(X, y)  # has none


def test_weights_reach_the_network():
    weights = np.linspace(0.1, 2, 90)
    expected = LinearClassifier().fit(X, y, sample_weight=weights).explain(X)
    transformer = RelevanceTransformer(LinearClassifier())
    assert_same_to_rounding(transformer.fit(X, y, sample_weight=weights).transform(X), expected)
    assert_same_to_rounding(transformer.fit_transform(X, y, sample_weight=weights), expected)
    pipeline = make_pipeline(transformer, LogisticRegression(max_iter=1000))
    pipeline.fit(X, y, relevancetransformer__sample_weight=weights)
    assert_same_to_rounding(pipeline[0].transform(X), expected)
    with pytest.raises(TypeError, match="unknown"):
        transformer.fit(X, y, unknown=1)
    plain = transformer.fit(X, y)
    assert plain.score(X, y, sample_weight=weights) == plain.estimator_.score(X, y, weights)


@config_context(enable_metadata_routing=True)
def test_weights_are_routed():
    weights, groups = np.linspace(0.1, 2, 90), np.repeat(np.arange(9), 10)
    network = LinearClassifier().set_fit_request(sample_weight=True)
    network = network.set_score_request(sample_weight=True)
    expected = LinearClassifier().fit(X, y, sample_weight=weights).explain(X)
    transformer = RelevanceTransformer(network)
    assert_same_to_rounding(transformer.fit(X, y, sample_weight=weights).transform(X), expected)
    assert transformer.score(X, y, sample_weight=weights) == transformer.estimator_.score(
        X, y, weights
    )
    last = LogisticRegression(max_iter=1000).set_fit_request(sample_weight=False)
    pipeline = make_pipeline(transformer, last).fit(X, y, sample_weight=weights)
    assert_same_to_rounding(pipeline[0].transform(X), expected)
    folded = clone(transformer).set_params(cv=GroupKFold(3))
    features = folded.fit_transform(X, y, sample_weight=weights, groups=groups)
    assert not np.allclose(features, expected)
    folded.fit_transform(X, y, groups=groups)
    unset = RelevanceTransformer(LinearClassifier())
    with pytest.raises(ValueError, match="sample_weight"):
        unset.fit(X, y, sample_weight=weights)
    with pytest.raises(ValueError, match="sample_weight"):
        unset.fit(X, y).score(X, y, sample_weight=weights)


def test_rule_parameters_are_searchable():
    composite = Composite([("conv", Gamma(), "conv"), ("rest", Epsilon(), "all")])
    transformer = RelevanceTransformer(LinearClassifier(), rule=Gamma())
    assert transformer.get_params()["rule__gamma"] == 0.25
    assert clone(transformer).set_params(rule__gamma=1.0).rule == Gamma(1.0)
    assert transformer.rule == Gamma()
    conv = clone(transformer).set_params(rule=composite, rule__conv__gamma=0.5, estimator__C=2.0)
    assert conv.get_params()["rule__conv__gamma"] == 0.5
    assert conv.estimator.C == 2.0
    pipeline = make_pipeline(transformer, LogisticRegression(max_iter=1000))
    grid = {"relevancetransformer__rule__gamma": [0.1, 1.0]}
    assert GridSearchCV(pipeline, grid, cv=2).fit(X, y).best_params_
    with pytest.raises(
        ValueError, match=r"'rule__gamma' cannot be set: rule='gamma'.*rule=Gamma\(\)"
    ):
        transformer.set_params(rule="gamma", rule__gamma=1.0)
    with pytest.raises(ValueError, match="Invalid parameter"):
        transformer.set_params(rules="gamma")


BAD_PARAMS = [
    (
        {"estimator": LogisticRegression()},
        TypeError,
        "LogisticRegression does not explain itself: estimator must be",
    ),
    ({"estimator": LinearClassifier}, TypeError, "got the class LinearClassifier itself"),
    ({"estimator": FrozenEstimator(LogisticRegression())}, TypeError, "does not explain itself"),
    ({"estimator": make_pipeline(StandardScaler())}, TypeError, "StandardScaler has no method"),
    ({"estimator": None}, ValueError, "'estimator' parameter"),
    ({"rule": "zplus"}, ValueError, "rule must be one of.*got 'zplus'"),
    ({"rule": 3}, TypeError, "rule must be one of"),
    ({"rule": Gamma(gamma=-1.0)}, ValueError, "gamma"),
    ({"epsilon": -1.0}, ValueError, "'epsilon' parameter"),
    ({"epsilon": "small"}, ValueError, "'epsilon' parameter"),
    ({"epsilon": np.nan}, ValueError, "'epsilon' parameter"),
    ({"contrast": "yes"}, ValueError, "'contrast' parameter"),
    ({"target": 5}, ValueError, r"target .* labels \[0, 1, 2\], got 5"),
    ({"target": "al"}, ValueError, "target .* got 'al'"),
    ({"target": [0, 1]}, ValueError, "target"),
    ({"aggregate": "rows"}, ValueError, "'aggregate' parameter"),
    ({"aggregate": "row"}, ValueError, "needs samples with such an axis"),
    ({"aggregate": np.zeros((4, 3))}, ValueError, "one label per feature.*got the shape"),
    ({"aggregate": np.arange(11)}, ValueError, "one label per feature.*got the shape"),
    ({"aggregate": [np.nan] * 12}, ValueError, "none of them missing"),
    ({"aggregate": np.array([None, "a"] * 6)}, ValueError, "none of them missing"),
    ({"normalize": "l2"}, ValueError, "'normalize' parameter"),
    ({"cv": 1}, ValueError, "'cv' parameter"),
    ({"memory": 3}, ValueError, "'memory' parameter"),
    ({"batch_size": 0}, ValueError, "'batch_size' parameter"),
    ({"n_jobs": 0.5}, ValueError, "'n_jobs' parameter"),
    ({"random_state": -1}, ValueError, "'random_state' parameter"),
]


@pytest.mark.parametrize(("params", "error", "message"), BAD_PARAMS)
def test_bad_parameters(params, error, message, log):
    params = {"estimator": LinearClassifier(log=log), **params}
    with pytest.raises(error, match=message):
        RelevanceTransformer(**params).fit(X, y)
    assert count(log) == 0


BAD_DATA = [
    (np.where(X > 1, np.nan, X), y, "NaN"),
    (np.where(X > 1, np.inf, X), y, "infinity"),
    (X[0], y, "Reshape your data"),
    (X[:0], y[:0], "minimum of 1 is required"),
    (X[:, :0], y, "minimum of 1 is required"),
    (X.astype(complex), y, "Complex data"),
    (np.full(X.shape, "warm"), y, "X must hold numbers, got dtype"),
    (X, y[:50], "inconsistent numbers of samples"),
    (X, None, "requires y"),
    (X, y + 0.5, "Unknown label type"),
    (X, np.where(y > 0, np.nan, y), "NaN"),
]


@pytest.mark.parametrize(("X", "y", "message"), BAD_DATA)
def test_bad_data(X, y, message, log):
    with pytest.raises(ValueError, match=message):
        RelevanceTransformer(LinearClassifier(log=log)).fit(X, y)
    assert count(log) == 0


class FailingClassifier(LinearClassifier):
    """Fails to be trained on any data of more than ``C`` samples, after the checks."""

    def fit(self, X, y):
        super().fit(X, y)
        if len(X) > self.C:
            raise RuntimeError("no convergence")
        return self


@pytest.mark.parametrize("method", ["fit", "fit_transform"])
def test_failed_fit_changes_nothing(method):
    frame = pd.DataFrame(X[:, :4], columns=["a", "b", "c", "d"])
    transformer = RelevanceTransformer(FailingClassifier(C=60))
    with pytest.raises(RuntimeError, match="no convergence"):
        getattr(transformer, method)(frame, y)
    for call in (transformer.transform, transformer.get_feature_names_out):
        with pytest.raises(NotFittedError):
            call(frame)
    features = transformer.fit(X[:50], y[:50]).transform(X)
    for data in (frame, X.reshape(-1, 3, 4)):
        with pytest.raises(RuntimeError, match="no convergence"):
            getattr(transformer, method)(data, y)
        assert not hasattr(transformer, "feature_names_in_")
        assert transformer.sample_shape_ == (12,)
        np.testing.assert_array_equal(transformer.transform(X), features)


def test_failed_fold_changes_nothing():
    class FailingInFolds(LinearClassifier):
        def fit(self, X, y):
            if len(X) < 90:
                raise RuntimeError("no convergence")
            return super().fit(X, y)

    transformer = RelevanceTransformer(FailingInFolds(), cv=3)
    with pytest.raises(RuntimeError, match="no convergence"):
        transformer.fit_transform(X, y)
    with pytest.raises(NotFittedError):
        transformer.transform(X)


def test_score_refuses_labels_of_no_class():
    order = np.argsort(y, kind="stable")
    transformer = RelevanceTransformer(LinearClassifier())
    with pytest.raises(ValueError, match=r"labels \[2\].*classes \[0, 1\].*StratifiedKFold"):
        transformer.fit(X[y < 2], y[y < 2]).score(X, y)
    with pytest.raises(ValueError, match="stratified folds"):
        cross_val_score(transformer, X[order], np.repeat([0, 1, 2], 30), cv=3, error_score="raise")
    scores = cross_val_score(transformer, X[order], y[order], cv=StratifiedKFold(3))
    expected = cross_val_score(LinearClassifier(), X[order], y[order], cv=3)
    np.testing.assert_array_equal(scores, expected)


def test_other_samples():
    transformer = RelevanceTransformer(LinearClassifier())
    for method in (transformer.transform, transformer.get_feature_names_out):
        with pytest.raises(NotFittedError):
            method(X)
    with pytest.raises(NotFittedError):
        transformer.score(X, y)
    transformer.fit(X.reshape(-1, 3, 4), y)
    with pytest.raises(ValueError, match=r"X has 11 features, but .* expecting 12 features"):
        transformer.transform(X[:, :11])
    with pytest.raises(ValueError, match="input_features"):
        transformer.get_feature_names_out(["a", "b"])


def test_copies_are_equal(tmp_path):
    transformer = RelevanceTransformer(LinearClassifier(), rule=ZPlus(), memory=str(tmp_path)).fit(
        X, y
    )
    features = transformer.transform(X)
    joblib.dump(transformer, tmp_path / "transformer")
    for copy in (pickle.loads(pickle.dumps(transformer)), joblib.load(tmp_path / "transformer")):
        np.testing.assert_array_equal(copy.transform(X), features)
        assert copy.rule == ZPlus()
    again = clone(transformer)
    assert not hasattr(again, "estimator_")
    np.testing.assert_array_equal(again.fit(X, y).transform(X), features)


# With the networks of this package


@pytest.mark.sweep(6)
@parametrize_with_checks([RelevanceTransformer(MLPClassifier())])
def test_estimator_checks(estimator, check):
    check(estimator)


NETWORKS = [
    MLPClassifier(max_epochs=3, random_state=0),
    CNNClassifier(channels=(4,), input_shape=(1, 3, 4), max_epochs=3, random_state=0),
    LSTMClassifier(hidden_size=4, input_shape=(3, 4), max_epochs=3, random_state=0),
]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: type(network).__name__)
def test_networks(network, memory):
    shaped = X.reshape(-1, 3, 4).astype(np.float32)
    plain = clone(network).fit(shaped, LABELS[y])
    transformer = RelevanceTransformer(
        network, target="all", rule="z_plus", memory=memory, batch_size=40, contrast=True
    )
    features = transformer.fit(shaped, LABELS[y]).transform(shaped)
    expected = plain.explain(shaped, target="all", rule="z_plus", batch_size=40, contrast=True)
    assert features.dtype == np.float32
    assert_same_to_rounding(features, expected.reshape(90, -1))
    again = clone(transformer).set_params(aggregate="row", rule="epsilon", normalize="score")
    features = again.fit_transform(shaped, LABELS[y])  # from the cache
    assert again.get_feature_names_out().tolist() == [
        f"{label}_row{i}" for label in LABELS for i in range(3)
    ]
    relevance, details = plain.explain(
        shaped, target="all", rule="epsilon", contrast=True, return_details=True
    )
    expected = relevance.sum(axis=3) / details.score[..., None]
    np.testing.assert_allclose(features, expected.reshape(90, -1), rtol=1e-3, atol=1e-5)
    assert again.score(shaped, LABELS[y]) == plain.score(shaped, LABELS[y])
    copy = pickle.loads(pickle.dumps(again))
    np.testing.assert_array_equal(copy.transform(shaped), features)


@pytest.mark.parametrize("network", NETWORKS[:2], ids=lambda network: type(network).__name__)
def test_networks_out_of_fold_and_frozen(network, memory):
    cv = StratifiedKFold(3, shuffle=True, random_state=0)
    transformer = RelevanceTransformer(network, cv=cv, memory=memory, random_state=1)
    features = transformer.fit_transform(X, y)
    for train, test in cv.split(X, y):
        fold = clone(network).set_params(random_state=1).fit(X[train], y[train])
        np.testing.assert_allclose(features[test], fold.explain(X[test]), rtol=1e-6, atol=1e-9)
    frozen = RelevanceTransformer(FrozenEstimator(transformer.estimator_), cv=cv, random_state=2)
    assert_same_to_rounding(frozen.fit_transform(X, y), transformer.transform(X))


class Counter(Callback):
    def __init__(self, log):
        self.log = log

    def on_train_begin(self, net, **kwargs):
        with open(self.log, "a") as file:
            file.write("trained\n")


GRIDS = {
    "MLPClassifier": {"relevance__rule": RULES},
    "CNNClassifier": {
        "relevance__rule": [Composite([("conv", Gamma(), "conv"), ("rest", Epsilon(), "all")])],
        "relevance__rule__conv__gamma": [0.1, 0.2, 0.5, 1.0],
        "relevance__epsilon": [1e-6, 0.1],
    },
}


@pytest.mark.sweep(1)
@pytest.mark.parametrize("network", NETWORKS[:2], ids=lambda network: type(network).__name__)
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_networks_in_a_search(network, n_jobs, memory, log):
    network = clone(network).set_params(callbacks=[("counter", Counter(log))])
    frame = pd.DataFrame(X, columns=[f"sst{i}" for i in range(12)])
    search = make_search(RelevanceTransformer(network, memory=memory), n_jobs)
    search.set_params(param_grid=GRIDS[type(network).__name__])
    search.fit(frame, LABELS[y])
    assert len(search.cv_results_["params"]) == 8
    assert count(log) == 6
    if n_jobs == 1:
        cached = search.cv_results_["mean_test_score"]
        search.set_params(estimator__relevance__memory=None).fit(frame, LABELS[y])
        assert count(log) == 6 + 41
        np.testing.assert_array_equal(search.cv_results_["mean_test_score"], cached)
    pipeline = search.best_estimator_
    assert pipeline["relevance"].estimator_.feature_names_in_[0] == "sst0"
    assert pipeline.predict(frame).shape == (90,)


def test_network_parameters_are_searched(memory):
    transformer = RelevanceTransformer(MLPClassifier(max_epochs=2, random_state=0), memory=memory)
    search = make_search(transformer, rules=["epsilon"])
    search.set_params(
        param_grid={
            "relevance__estimator__lr": [0.01, 0.1],
            "relevance__estimator__optimizer__amsgrad": [True],
        }
    )
    best = search.fit(X, y).best_estimator_["relevance"].estimator_
    assert best.lr in (0.01, 0.1)
    assert best.get_params()["optimizer__amsgrad"]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: type(network).__name__)
def test_networks_take_weights(network, memory):
    weights = np.where(y == 0, 0.1, 1.0)
    plain = clone(network).fit(X, y, sample_weight=weights)
    transformer = RelevanceTransformer(network, memory=memory)
    for _ in range(2):
        transformer.fit(X, y, sample_weight=weights)
        assert_same_to_rounding(transformer.transform(X), plain.explain(X))
    with config_context(enable_metadata_routing=True):
        with pytest.raises(ValueError, match="sample_weight"):
            transformer.fit(X, y, sample_weight=weights)
        transformer.set_params(estimator=clone(network).set_fit_request(sample_weight=True))
        features = transformer.fit_transform(X, y, sample_weight=weights)
    assert_same_to_rounding(features, plain.explain(X))


# Every kind of model


def labels_for(kind):
    """Return what a kind is trained on: labels, their numbers, or values for each output."""
    network = unwrap(kind.model).network
    if isinstance(network, NeuralNet) and not is_classifier(network):
        return np.eye(3)[np.arange(60) % 3][:, : 1 if kind.labels is None else 3]
    if kind.labels is None:
        return (np.arange(60) % 2).astype(float)
    return kind.labels[np.arange(60) % 3]


@pytest.mark.sweep(12)
@pytest.mark.parametrize("target", [None, "all"])
@pytest.mark.parametrize("name", models.MODELS + models.SINGLE)
def test_every_kind_of_model_is_taken_as_it_is(name, target):
    kind = models.make(name)
    is_module = isinstance(kind.model, nn.Module)
    frozen = kind.model if is_module else FrozenEstimator(kind.model)
    transformer = RelevanceTransformer(frozen, target=target).fit(kind.X)
    assert transformer.estimator_ is frozen
    expected = sklrp.explain(kind.network, kind.entered, target=target)
    features = transformer.transform(kind.X)
    np.testing.assert_allclose(features, expected.reshape(60, -1), rtol=1e-3, atol=1e-5)
    if kind.labels is None:
        assert transformer.classes_ is None
    else:
        np.testing.assert_array_equal(transformer.classes_, kind.labels)
    names = kind.names or [f"x{i}" for i in range(4)]
    if target == "all":
        of_class = "" if kind.labels is not None and kind.labels.dtype.kind == "U" else "class"
        classes = ["output0"] if kind.labels is None else [f"{of_class}{c}" for c in kind.labels]
        names = [f"{label}_{name}" for label in classes for name in names]
    assert transformer.get_feature_names_out().tolist() == names
    table = clone(transformer).set_output(transform="pandas").fit_transform(kind.X)
    np.testing.assert_array_equal(table, features)
    assert [*table.columns] == names


@pytest.mark.sweep(5)
@pytest.mark.parametrize("name", models.MODELS + models.SINGLE)
def test_every_kind_of_model_is_trained(name, memory):
    kind = models.make(name)
    targets = labels_for(kind)
    transformer = RelevanceTransformer(kind.model, memory=memory).fit(kind.X, targets)
    if "module" in name or name.startswith("frozen"):
        assert transformer.estimator_ is kind.model
        return
    assert transformer.estimator_ is not kind.model
    with joblib.parallel_config(n_jobs=1):
        alone = clone(kind.model).fit(kind.X, targets)
    model = unwrap(alone)
    expected = sklrp.explain(model.network, model.enter(kind.X))
    features = transformer.transform(kind.X)
    np.testing.assert_allclose(features, expected.reshape(60, -1), rtol=1e-6, atol=1e-9)
    assert len(transformer.get_feature_names_out()) == 4
    again = clone(transformer).fit(kind.X, targets)  # from the memory
    np.testing.assert_array_equal(again.transform(kind.X), features)
    if "halving" not in name:  # which has too few samples in a fold
        folds = clone(transformer).set_params(cv=2).fit_transform(kind.X, targets)
        assert folds.shape == (60, 4)
    if hasattr(alone, "score"):
        assert transformer.score(kind.X, targets) == pytest.approx(alone.score(kind.X, targets))
    else:
        with pytest.raises(TypeError, match="make_relevance_scorer"):
            transformer.score(kind.X, targets)


@pytest.mark.parametrize("name", models.REFUSED)
def test_what_is_no_model_is_refused(name):
    build, error, message = models.REFUSED[name]
    estimator = build()
    if error is NotFittedError or "refit" in name:  # is trained, or trained with another setting
        return
    message = message.replace("model", "estimator")
    if estimator is None or estimator is nn.Linear:  # have no method fit either
        message = "'estimator' parameter of RelevanceTransformer must be an object"
    with pytest.raises(error, match=message):
        RelevanceTransformer(estimator).fit(models.X, models.y)


def test_a_search_must_refit():
    search = GridSearchCV(MLPClassifier(max_epochs=1), {"lr": [0.1]}, cv=2, refit=False)
    with pytest.raises(TypeError, match="refit=False"):
        RelevanceTransformer(search).fit(X, y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_net_is_trained_in_its_dtype(dtype, memory):
    """A module that is a class, whose dtype is known only once it is made."""
    net = NeuralNetClassifier(
        ThreeClasses, module__dtype=dtype, max_epochs=2, train_split=None, verbose=0
    )
    torch.manual_seed(0)
    alone = clone(net).fit(X.astype(str(dtype).removeprefix("torch.")), y)
    torch.manual_seed(0)
    transformer = RelevanceTransformer(net, memory=memory).fit(X, y)
    features = transformer.transform(X)
    assert features.dtype == np.float64
    np.testing.assert_array_equal(features, sklrp.explain(alone, X))
    assert transformer.score(X, y) == alone.score(X.astype(str(dtype).removeprefix("torch.")), y)
    assert not hasattr(net, "module_")


class ThreeClasses(nn.Sequential):
    def __init__(self, dtype):
        super().__init__(nn.Linear(12, 3, dtype=dtype))


def test_steps_may_take_what_a_network_does_not(memory):
    """Texts and gaps, and fewer features inside than outside."""
    frame = pd.DataFrame(X[:, :3], columns=["a", "b", "c"]).assign(kind=LABELS[y])
    frame.loc[3, "a"] = np.nan
    steps = ColumnTransformer(
        [("gaps", SimpleImputer(), ["a", "b"]), ("kinds", OneHotEncoder(), ["kind"])]
    )
    network = MLPClassifier((4,), max_epochs=2, random_state=0)
    transformer = RelevanceTransformer(
        make_pipeline(steps, network), aggregate=[0, 0, 1, 1, 1], memory=memory
    )
    assert transformer.fit(frame, y).transform(frame).shape == (90, 2)
    transformer.set_params(aggregate=None)
    features = transformer.transform(frame)
    entered = steps.fit_transform(frame)
    expected = clone(network).fit(entered, y).explain(entered)
    np.testing.assert_array_equal(features, expected)
    assert transformer.n_features_in_ == 4
    assert transformer.map_shape_ == (5,)
    names = ["gaps__a", "gaps__b", "kinds__kind_cold", "kinds__kind_mild", "kinds__kind_warm"]
    assert transformer.get_feature_names_out().tolist() == names
    with pytest.raises(ValueError, match=r"one label per feature, in the shape \(5,\)"):
        clone(transformer).set_params(aggregate=[0, 1, 0, 1]).fit(frame, y)


def test_axes_of_a_module():
    module = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Flatten(), nn.Linear(12, 2)).double()
    signals = X.reshape(90, 2, 6)
    transformer = RelevanceTransformer(module, aggregate="time").fit(signals)
    expected = sklrp.explain(module, signals).sum(axis=1)
    np.testing.assert_allclose(transformer.transform(signals), expected, atol=1e-12)
    with pytest.raises(ValueError, match="needs samples with such an axis"):
        RelevanceTransformer(module, aggregate="row").fit(signals)
