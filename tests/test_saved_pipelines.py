"""Pipelines in files: the same to the bit, unknown steps refused, and nothing believed."""

import contextlib
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.decomposition import PCA, FastICA, IncrementalPCA, TruncatedSVD
from sklearn.feature_selection import SelectFwe, SelectKBest, VarianceThreshold, f_regression
from sklearn.frozen import FrozenEstimator
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.random_projection import GaussianRandomProjection

import sklrp
from sklrp import CNNClassifier, MLPClassifier, MLPRegressor, RelevanceTransformer, geo
from sklrp.preprocessing import InputCapper, InputMasker
from tests.helpers.forging import rewrite
from tests.test_hostile_files import bounded  # noqa: F401  (a fixture)
from tests.test_persistence import change_path, same, through_file

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 6))
Y = np.where(X[:, 0] > 0, "warm", "cold")
GAPS = X.copy()
GAPS[[3, 5], [2, 0]] = np.nan
TABLE = pd.DataFrame(
    {"a": X[:, 0], "b": X[:, 1], "c": RNG.choice(["u", "v", "w"], 60), "d": RNG.choice([3, 7], 60)}
)
NET = MLPClassifier((4,), max_epochs=2, random_state=0)
BINS = {"n_bins": 4}
if Version(sklearn.__version__) >= Version("1.7"):  # which warns without it, until 1.9
    BINS["quantile_method"] = "averaged_inverted_cdf"

STEPS = [
    StandardScaler(),
    StandardScaler(with_std=False),
    StandardScaler(with_mean=False, with_std=False),
    MinMaxScaler(),
    MaxAbsScaler(),
    RobustScaler(with_scaling=False),
    Normalizer(),
    Binarizer(),
    PolynomialFeatures((1, 2), interaction_only=True),
    QuantileTransformer(n_quantiles=5),
    PowerTransformer(),
    PowerTransformer(standardize=False),
    FunctionTransformer(),
    KBinsDiscretizer(encode="onehot-dense", **BINS),
    KBinsDiscretizer(encode="ordinal", **BINS),
    PCA(3, random_state=0),
    PCA(0.9, whiten=True),
    IncrementalPCA(2),
    TruncatedSVD(2, random_state=0),
    GaussianRandomProjection(3, random_state=0),
    VarianceThreshold(),
    SelectKBest(f_regression, k=2),
    SelectFwe(alpha=0.5),
    InputCapper(-1, 1),
    InputCapper(quantile=0.9, per_feature=True),
    InputMasker(np.arange(6) < 3),
    FrozenEstimator(StandardScaler().fit(X)),
    make_pipeline(StandardScaler(), PCA(2)),
    FeatureUnion([("a", PCA(2)), ("b", StandardScaler()), ("c", "drop")]),
    ColumnTransformer(
        [("a", StandardScaler(), [0, 1]), ("b", "drop", slice(2, 3)), ("c", "passthrough", [4])],
        remainder=MinMaxScaler(),
    ),
    ColumnTransformer(
        [("a", make_pipeline(StandardScaler()), np.arange(6) < 2)], remainder="passthrough"
    ),
]
FILLING = [
    SimpleImputer(),
    SimpleImputer(strategy="constant", fill_value=3.0, add_indicator=True),
    KNNImputer(add_indicator=True),
    InputMasker(partly_missing="mask"),
]
ENCODERS = [
    OneHotEncoder(sparse_output=False),
    OneHotEncoder(min_frequency=25, handle_unknown="infrequent_if_exist", drop="first"),
    OneHotEncoder(drop="if_binary"),
    OrdinalEncoder(),
    OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, min_frequency=25),
    make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(sparse_output=False)),
]


def check_same(model, samples, tmp_path):
    """Hold a fitted pipeline against the one that comes out of its file; return that."""
    loaded = through_file(model, tmp_path)
    same(loaded.predict_proba(samples), model.predict_proba(samples))
    same(sklrp.explain(loaded, samples), sklrp.explain(model, samples))
    again = through_file(loaded, tmp_path)
    same(again.predict_proba(samples), model.predict_proba(samples))
    return loaded


def fit(model, samples, y=Y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # f_regression of labels, bins of few samples
        return model.fit(samples, y)


@pytest.mark.sweep(6)
@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
def test_steps_come_back_to_the_bit(step, tmp_path):
    y = np.arange(60) % 2 if isinstance(step, SelectKBest) else Y
    model = fit(Pipeline([("step", clone(step)), ("network", NET)]), X, y)
    loaded = check_same(model, X, tmp_path)
    assert repr(loaded) == repr(model)
    unfitted = through_file(clone(model), tmp_path)
    same(fit(unfitted, X, y).predict_proba(X), model.predict_proba(X))


@pytest.mark.parametrize("step", FILLING, ids=lambda step: type(step).__name__)
def test_steps_that_fill_gaps(step, tmp_path):
    check_same(fit(make_pipeline(clone(step), NET), GAPS), GAPS, tmp_path)


@pytest.mark.sweep(3)
@pytest.mark.parametrize(
    "columns", [["c", "d"], make_column_selector("[cd]")], ids=["names", "selector"]
)
@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda step: type(step).__name__)
def test_columns_of_tables(encoder, columns, tmp_path):
    rows = [("numbers", StandardScaler(), ["b"]), ("categories", clone(encoder), columns)]
    model = make_pipeline(ColumnTransformer(rows, remainder="passthrough"), NET)
    loaded = check_same(fit(model, TABLE), TABLE, tmp_path)
    assert list(loaded[0].get_feature_names_out()) == list(model[0].get_feature_names_out())
    with pytest.raises(ValueError, match="columns are missing"):
        loaded.predict(TABLE[["a", "b", "c"]])


def test_tables_stay_tables(tmp_path):
    rows = [("numbers", StandardScaler(), ["a"])]
    model = make_pipeline(ColumnTransformer(rows), NET).set_output(transform="pandas")
    loaded = check_same(fit(model, TABLE), TABLE, tmp_path)
    pd.testing.assert_frame_equal(loaded[:-1].transform(TABLE), model[:-1].transform(TABLE))


def test_relevance_as_features(tmp_path):
    model = make_pipeline(StandardScaler(), RelevanceTransformer(NET), LogisticRegression())
    loaded = through_file(model.fit(X, Y), tmp_path)
    same(loaded.predict_proba(X), model.predict_proba(X))
    around = RelevanceTransformer(make_pipeline(StandardScaler(), NET)).fit(X, Y)
    same(through_file(around, tmp_path).transform(X), around.transform(X))


@pytest.mark.parametrize("first", [PCA(2), SelectKBest(k=2)])
def test_maps_of_fewer_features_than_enter(first, tmp_path):
    """Steps inside the transformer change how many features enter the network."""
    around = RelevanceTransformer(make_pipeline(first, NET), target="all").fit(X, Y)
    loaded = through_file(around, tmp_path)
    assert loaded.map_shape_ == (2,) != around.sample_shape_
    same(loaded.transform(X), around.transform(X))
    assert list(loaded.get_feature_names_out()) == list(around.get_feature_names_out())
    frozen = RelevanceTransformer(FrozenEstimator(around.estimator_)).fit(X, Y)
    same(through_file(frozen, tmp_path).transform(X), frozen.transform(X))


@pytest.mark.parametrize("last", [LinearRegression(), Ridge(), LinearRegression(positive=True)])
def test_regressions_keep_their_dtype(last, tmp_path):
    network = MLPRegressor((3,), max_epochs=2, random_state=0)
    model = make_pipeline(RelevanceTransformer(network), last).fit(X, X[:, 0])
    loaded = through_file(model, tmp_path)
    for samples in (X, X.astype(np.float32)):
        same(loaded.predict(samples), model.predict(samples))


def test_training_goes_on(tmp_path):
    model = make_pipeline(StandardScaler(), NET).fit(X, Y)
    loaded = through_file(model, tmp_path)
    for one in (model, loaded):
        one[-1].partial_fit(one[:-1].transform(X), Y)
    same(loaded.predict_proba(X), model.predict_proba(X))


def test_what_a_search_found_is_saved(tmp_path):
    search = GridSearchCV(
        make_pipeline(StandardScaler(), NET), {"mlpclassifier__lr": [0.01]}, cv=2
    )
    search.fit(X, Y)
    for model in (search, FrozenEstimator(search), make_pipeline(None, search)):
        loaded = through_file(model, tmp_path)
        assert isinstance(loaded, Pipeline)
        same(loaded.predict_proba(X), search.predict_proba(X))


# Fields


def make_fields(kind):
    """Return four years of a field with land, of each kind of container, calendar and dtype."""
    dates = xr.date_range("1980-01-01", periods=48, freq="MS", use_cftime=kind == "noleap",
                          calendar="noleap" if kind == "noleap" else "standard")  # fmt: skip
    values = 20 + RNG.normal(size=(48, 4, 5))
    values[:, 0, 0] = np.nan
    field = xr.DataArray(
        values.astype(np.float32 if kind == "float32" else np.float64),
        {
            "time": dates,
            "lat": ("lat", np.array([-5, 0, 5, 10], np.float32), {"units": "degrees_north"}),
            "lon": ("lon", [0.0, 5, 10, 15, 20], {"units": "degrees_east"}),
            "height": 2.0,
        },
        ("time", "lat", "lon"),
        "sst",
        {"units": "K", "valid_range": np.array([-5.0, 50.0])},
    )
    if kind == "levels":
        return field.stack(cell=("lat", "lon")).dropna("cell")
    if kind == "dataset":
        return xr.Dataset({"sst": field, "ssh": 2 * field}, attrs={"source": "made up"})
    return field.assign_coords(area=(("lat", "lon"), RNG.random((4, 5))))


ANOMALIES = [
    geo.AnomalyTransformer(),
    geo.AnomalyTransformer(
        standardize=True, detrend=True, cap=2.0, reference=("1980", np.datetime64("1982-12"))
    ),
    geo.AnomalyTransformer(climatology=None),
]


@pytest.mark.sweep(3)
@pytest.mark.parametrize("kind", ["plain", "noleap", "float32", "levels", "dataset"])
@pytest.mark.parametrize("anomalies", ANOMALIES, ids=["months", "all options", "one mean"])
def test_climatology_mask_and_grid_come_back(kind, anomalies, tmp_path):
    fields = make_fields(kind)
    if kind == "noleap" and anomalies.reference is not None:
        anomalies = clone(anomalies).set_params(reference=("1980", "1982"))
    y = np.where(RNG.normal(size=48) > 0, "a", "b")
    model = make_pipeline(clone(anomalies), geo.GridVectorizer(), NET).fit(fields, y)
    loaded = through_file(model, tmp_path)
    xr.testing.assert_identical(geo.explain(loaded, fields), geo.explain(model, fields))
    same(loaded.predict_proba(fields), model.predict_proba(fields))
    for name in ("mean_", "std_", "slope_"):
        assert hasattr(loaded[0], name) == hasattr(model[0], name)
        if hasattr(model[0], name):
            xr.testing.assert_identical(getattr(loaded[0], name), getattr(model[0], name))
    xr.testing.assert_identical(loaded[1].mask_, model[1].mask_)
    same(loaded[1].get_feature_names_out(), model[1].get_feature_names_out())
    moved = fields.isel(time=slice(0, 5))
    name = "cell" if kind == "levels" else "lon"
    with pytest.raises(ValueError, match="grid differs"):
        loaded.predict(moved.isel({name: slice(1, None)}))


def test_maps_of_fields(tmp_path):
    """Land leaves fewer features than the fields have cells."""
    fields, y = make_fields("plain"), np.where(np.arange(48) % 3 > 0, "a", "b")
    around = RelevanceTransformer(make_pipeline(geo.GridVectorizer(), NET)).fit(fields, y)
    same(through_file(around, tmp_path).transform(fields), around.transform(fields))
    rewrite(
        tmp_path / "model.safetensors",
        lambda manifest, _: manifest["estimator"]["attributes"].update(map_shape_={"tuple": [20]}),
    )
    with pytest.raises(ValueError, match="does not go with its network's n_features_in_=19"):
        sklrp.load(tmp_path / "model.safetensors")


def test_grids_of_arrays_and_images(tmp_path):
    images = RNG.normal(size=(30, 2, 5, 5))
    images[:, :, 0, 0] = np.nan
    vectorizer = geo.GridVectorizer(layout="grid")
    model = make_pipeline(vectorizer, CNNClassifier((2,), max_epochs=1, random_state=0))
    check_same(model.fit(images, np.arange(30) % 2), images, tmp_path)


# What a file does not hold


class Mine(TransformerMixin, BaseEstimator):
    """A step of the user's own."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return X


class OwnScaler(StandardScaler):
    """A subclass of a known step, which may do anything."""


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Mine(), r"^mine=Mine\(\) cannot be saved: .*StandardScaler.*Apply Mine to the data"),
        (OwnScaler(), r"^mine=OwnScaler\(\) cannot be saved"),
        (FastICA(2), r"^mine=FastICA\(n_components=2\) cannot be saved"),
        (FunctionTransformer(np.log1p), r"mine\.func=<ufunc 'log1p'> cannot be saved.* is code"),
        (FunctionTransformer(feature_names_out=len), r"mine\.feature_names_out=<built-in"),
        (SelectKBest(len), r"mine\.score_func=<built-in function len> cannot be saved"),
        (ColumnTransformer([("a", Mine(), [0])]), r"^mine\.a=Mine\(\) cannot be saved"),
        (ColumnTransformer([("a", StandardScaler(), len)]), r"mine\.a=<built-in function len>"),
        (FeatureUnion([("a", Pipeline([("b", Mine())]))]), r"^mine\.a\.b=Mine\(\) cannot"),
        (make_pipeline(Normalizer(), memory="cache"), r"memory='cache' cannot be saved"),
        (StandardScaler(copy="perhaps"), "'copy' parameter of StandardScaler"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_unknown_steps_are_refused_by_name(step, message, tmp_path):
    model = Pipeline([("mine", step), ("network", NET)])
    kind = ValueError if "parameter" in message else TypeError
    with pytest.raises(kind, match=message) as caught:
        sklrp.save(model, tmp_path / "model")
    assert not list(tmp_path.iterdir())
    assert len(str(caught.value)) < 1500


def test_attributes_of_a_users_own_are_refused(tmp_path):
    model = make_pipeline(StandardScaler(), NET).fit(X, Y)
    model[0].note_ = "mine"
    with pytest.raises(TypeError, match="StandardScaler has the attribute 'note_'"):
        sklrp.save(model, tmp_path / "model")
    del model[0].note_
    model[0].mean_[1] = np.nan
    with pytest.raises(ValueError, match="mean_ of StandardScaler is malformed"):
        sklrp.save(model, tmp_path / "model")
    assert not list(tmp_path.iterdir())


# Files that were forged


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """Return the bytes of a file with nearly every step, and of one with a grid."""
    numbers = make_pipeline(StandardScaler(), PolynomialFeatures(2), PCA(3), PowerTransformer())
    rows = [
        ("numbers", numbers, ["a", "b"]),
        ("categories", OneHotEncoder(min_frequency=25, drop="first"), ["c"]),
        ("ordered", OrdinalEncoder(), ["d"]),
        ("bins", KBinsDiscretizer(encode="onehot-dense", **BINS), ["a"]),
        ("filled", SimpleImputer(add_indicator=True), ["b"]),
    ]
    table = make_pipeline(ColumnTransformer(rows), SelectKBest(k=4), clone(NET))
    anomalies = geo.AnomalyTransformer(standardize=True, detrend=True)
    grid = make_pipeline(anomalies, geo.GridVectorizer(), InputCapper(-9, 9), clone(NET))
    fields = make_fields("noleap")
    parts = FeatureUnion([("a", PCA(2)), ("b", StandardScaler())], transformer_weights={"a": 2.0})
    features = make_pipeline(parts, RelevanceTransformer(NET), LogisticRegression())
    path = tmp_path_factory.mktemp("saved") / "model"
    found = {}
    for name, model in (
        ("table", fit(table, TABLE)),
        ("grid", grid.fit(fields, np.arange(48) % 2)),
        ("features", features.fit(X, Y[0] == Y)),
    ):
        sklrp.save(model, path)
        found[name] = path.read_bytes()
    return found


def array(name, value):
    """Return a change of one number of a tensor."""

    def change(manifest, arrays):
        arrays[name].flat[0] = value

    return change


def shape(name, *lengths):
    def change(manifest, arrays):
        arrays[name] = np.ones(lengths, arrays[name].dtype)

    return change


def step_of(manifest, *path):
    """Return the step at a path of names, in the file's JSON."""
    part = manifest["estimator"]
    for name in path:
        rows = part.get("fitted", part["steps"]) if "steps" in part else part["inner"].items()
        part = next(row[1] for row in rows if row[0] == name)
    return part


def attribute(path, name, value):
    def change(manifest, arrays):
        step_of(manifest, *path.split("/"))["attributes"][name] = value

    return change


def param(path, name, value):
    def change(manifest, arrays):
        step_of(manifest, *path.split("/"))["params"][name] = value

    return change


def renamed(path, name):
    def change(manifest, arrays):
        step_of(manifest, *path.split("/"))["class"] = name

    return change


def classes(*values):
    def change(manifest, arrays):
        arrays["logisticregression.classes_"] = np.array(values)

    return change


CT = "columntransformer"
NUMBERS = f"{CT}/numbers"
FITTED = f"{CT}.fitted"
GRID, CLIMATE = "gridvectorizer", "anomalytransformer"
FORGED = {
    "NaN": ("table", array(f"{FITTED}.numbers.standardscaler.mean_", np.nan), "mean_ of Standard"),
    "no scale": ("table", array(f"{FITTED}.numbers.standardscaler.scale_", 0.0), "scale_ of Stan"),
    "shape": (
        "table",
        shape(f"{FITTED}.numbers.standardscaler.var_", 3),
        "var_ of StandardScaler",
    ),
    "axes": ("table", shape(f"{FITTED}.numbers.pca.components_", 3), "components_ of PCA"),
    "dtype": (
        "table",
        lambda _, arrays: arrays.update(
            {f"{FITTED}.numbers.pca.mean_": arrays[f"{FITTED}.numbers.pca.mean_"].astype(int)}
        ),
        "mean_ of PCA is malformed",
    ),
    "count": ("table", attribute(f"{NUMBERS}/pca", "n_components_", 10**12), "components_ of PCA"),
    "type": ("table", attribute(f"{NUMBERS}/pca", "mean_", "x" * 10**6), "mean_ of PCA"),
    "solver": ("table", attribute(f"{NUMBERS}/pca", "_fit_svd_solver", "mine"), "_fit_svd_solver"),
    "terms": (
        "table",
        attribute(f"{NUMBERS}/polynomialfeatures", "n_output_features_", 10**12),
        "n_output_features_ does not go with the degree",
    ),
    "degree": ("table", param(f"{NUMBERS}/polynomialfeatures", "degree", 10**9), "is above 64"),
    "inner class": (
        "table",
        renamed(f"{NUMBERS}/powertransformer/_scaler", "MinMaxScaler"),
        "MinMaxScaler has no parameters|_scaler of PowerTransformer is a MinMaxScaler",
    ),
    "no inner": (
        "table",
        lambda manifest, _: step_of(manifest, CT, "numbers", "powertransformer").pop("inner"),
        "standardize=True does not go with its scaler|extra tensors",
    ),
    "categories": (
        "table",
        attribute(f"{CT}/categories", "categories_", [{"texts": ["object", [1], ["u"]]}]),
        "OneHotEncoder is malformed",
    ),
    "outputs": (
        "table",
        attribute(f"{CT}/categories", "_n_features_outs", [10**9]),
        "_n_features_",
    ),
    "mapping": (
        "table",
        lambda _, arrays: [
            value.fill(9) for name, value in arrays.items() if "_default_to" in name
        ],
        "the infrequent categories of feature 0 are out of bounds",
    ),
    "edges": (
        "table",
        lambda _, arrays: [
            value.__imul__(-1) for name, value in arrays.items() if "bin_edges_" in name
        ],
        "bin_edges_ of KBinsDiscretizer is malformed",
    ),
    "class": ("table", renamed(f"{NUMBERS}/pca", "Popen"), "unknown class 'Popen', but can hold"),
    "a network alone": ("table", renamed(f"{NUMBERS}/pca", "M" * 10**6), "unknown class"),
    "parameter": ("table", param(f"{NUMBERS}/pca", "shell", True), "PCA has no parameters"),
    "value": ("table", param(f"{NUMBERS}/pca", "whiten", 7), "'whiten' parameter of PCA"),
    "attribute": (
        "table",
        attribute(f"{NUMBERS}/pca", "transform", 1),
        r"PCA has the unknown attributes \['transform'\]",
    ),
    "entry": (
        "table",
        lambda manifest, _: step_of(manifest, CT).update(more=1),
        r"ColumnTransformer has the unknown entries \['more'\]",
    ),
    "columns": (
        "table",
        attribute(CT, "_transformer_to_input_indices", {"dict": [["numbers", [10**9]]]}),
        "columns of a step are out of bounds",
    ),
    "function": (
        "table",
        param("selectkbest", "score_func", {"function": "system"}),
        "nothing that sklrp.save writes",
    ),
    "two of a name": (
        "table",
        lambda manifest, _: manifest["estimator"]["steps"].insert(
            0, ["selectkbest", "passthrough"]
        ),
        "two steps of Pipeline have one name",
    ),
    "no steps": (
        "table",
        lambda manifest, _: manifest["estimator"]["steps"].clear(),
        "hold steps",
    ),
    "memory": ("table", lambda m, _: m["estimator"]["params"].update(memory="/"), "memory='/'"),
    "version": (
        "table",
        lambda manifest, _: manifest["versions"].pop("scikit-learn"),
        "do not say by what scikit-learn",
    ),
    "mask": ("grid", shape(f"{GRID}.mask_.sst", 4, 4), "GridVectorizer|conflicting sizes"),
    "no cell": ("grid", lambda _, a: a[f"{GRID}.mask_.sst"].fill(False), "mask_ marks no cell"),
    "share": ("grid", array(f"{GRID}.missing_share_.sst", 2.0), "missing_share_ holds no shares"),
    "cells": ("grid", attribute(GRID, "n_features_in_", 10**12), "does not go with the grid"),
    "climate": ("grid", array(f"{CLIMATE}.mean_.sst", np.inf), "mean_ holds no finite numbers"),
    "spread": ("grid", array(f"{CLIMATE}.std_.sst", 0.0), "std_ holds a deviation"),
    "months": ("grid", array(f"{CLIMATE}.groups_", 99), "groups_ are not sorted"),
    "trend": ("grid", param(CLIMATE, "detrend", False), "slope_ does not go with the parameters"),
    "bound": ("grid", attribute("inputcapper", "low_", {"float": "nan"}), "low_ of InputCapper"),
    "one class": ("features", classes(*[0] * 10**6), "classes_ of LogisticRegression is malf"),
    "twice a class": ("features", classes(1, 1), "classes_ of LogisticRegression is malformed"),
    "classes turned": ("features", classes(1, 0), "classes_ of LogisticRegression is malformed"),
    "more classes": ("features", classes(0, 1, 2), "3 classes_ do not go with coef_ of length 1"),
    "weights": (
        "features",
        param("featureunion", "transformer_weights", "a" * 10**6),
        "transformer_weights of FeatureUnion must be numbers by the names of its steps",
    ),
    "weight": (
        "features",
        param("featureunion", "transformer_weights", {"dict": [["a", "b"]]}),
        "transformer_weights of FeatureUnion must be numbers",
    ),
    "weight of another": (
        "features",
        param("featureunion", "transformer_weights", {"dict": [["c", 1.0]]}),
        "transformer_weights of FeatureUnion must be numbers",
    ),
    "jobs": ("features", param("featureunion", "n_jobs", "many"), "n_jobs of FeatureUnion must"),
    "calendar": (
        "grid",
        attribute(CLIMATE, "_middle", {"tuple": [{"moment": ["mine", True, [1] * 7]}, 1.0]}),
        "malformed|calendar",
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_steps_are_refused_in_short(name, contents, tmp_path, bounded):  # noqa: F811
    kind, change, message = FORGED[name]
    path = tmp_path / "model"
    path.write_bytes(contents[kind])
    rewrite(path, change)
    with pytest.raises(ValueError, match=message) as caught:
        sklrp.load(path)
    assert len(str(caught.value)) < 900 + len(str(path))


@pytest.mark.sweep(1)
@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    value=st.one_of(
        st.none(),
        st.sampled_from(
            [{}, [], "x", -1, 0, 2**70, 0.5, True, {"dict": []}, {"slice": [0, 1, 2]}]
        ),
        st.sampled_from([{"tuple": [0]}, {"array": "no"}, {"slice": [0, 1, 2]}]),
        st.sampled_from([{"moments": ["noleap", True, [1], [[1]]]}]),
        st.sampled_from([{"date": ["datetime64[D]", 3]}]),
        st.sampled_from([{"dtype": "float64"}, {"type": "object"}, {"scalar": ["int8", 999]}]),
    ),
)
@pytest.mark.parametrize("kind", ["table", "grid"])
def test_forged_content_never_raises_anything_else(kind, seed, value, contents, tmp_path_factory):
    path = tmp_path_factory.mktemp("forged") / "model"
    path.write_bytes(contents[kind])
    rewrite(path, lambda manifest, _: change_path(manifest, np.random.default_rng(seed), value))
    with contextlib.suppress(ValueError), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        sklrp.load(path)


def test_another_version_of_scikit_learn_is_said(contents, tmp_path):
    path = tmp_path / "model"
    path.write_bytes(contents["table"])
    rewrite(path, lambda manifest, _: manifest["versions"].update({"scikit-learn": "0.24"}))
    with pytest.warns(
        UserWarning, match=rf"scikit-learn 0\.24, but here is {sklearn.__version__}"
    ):
        loaded = sklrp.load(path)
    assert len(loaded.predict(TABLE)) == len(TABLE)
    rewrite(path, lambda manifest, _: step_of(manifest, "selectkbest")["attributes"].clear())
    rewrite(path, attribute("selectkbest", "n_features_in_", 3))
    with pytest.raises(ValueError, match=r"lacks the attributes.*fitted by scikit-learn 0\.24"):
        sklrp.load(path)
