"""NumPy's masked arrays, in everything that takes data: missing, or refused by name.

What is below a mask is the fill value of a file and no data, whatever it is.
"""

from __future__ import annotations

import re

import dask.array
import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline

import sklrp
from sklrp import ESNClassifier, MLPClassifier, MLPRegressor, RelevanceTransformer, metrics
from sklrp._missing import as_gapped_array, as_plain_array, forbid_masked, mask_to_nan
from sklrp.diagnostics import audit, diagnose, skill_map
from sklrp.geo import GridVectorizer, box_mask, composites, cosine_weights, relevance_to_xarray
from sklrp.metrics.similarity import compare_maps
from sklrp.plotting import RelevanceDisplay
from sklrp.preprocessing import InputCapper, InputMasker
from sklrp.rules import ZBox

matplotlib.use("Agg")

N, D = 24, 6
FILL = 1e20


def make_masked(values, at=(..., 0)):
    mask = np.zeros(np.shape(values), dtype=bool)
    mask[at] = True
    return np.ma.masked_array(np.where(mask, FILL, values), mask)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, D))
    return X, (X[:, 1] > 0).astype(int)


@pytest.fixture(scope="module")
def clf(data):
    return MLPClassifier((4,), max_epochs=2, random_state=0).fit(*data)


def forms(masked):
    """Return a masked array in the forms in which it may come."""
    yield masked
    yield list(masked)
    yield dask.array.from_array(masked, chunks=-1)
    yield make_masked(masked.data.astype(np.float32))


def test_to_nan(data):
    right = data[0].copy()
    right[:, 0] = np.nan
    for form in forms(make_masked(data[0])):
        np.testing.assert_allclose(mask_to_nan(form), right, rtol=1e-6)
    np.testing.assert_array_equal(mask_to_nan(np.ma.masked_array([1, 2], [0, 1])), [1, np.nan])
    assert mask_to_nan(make_masked(data[0].astype(np.float32))).dtype == np.float32


def test_a_mask_of_nothing_is_no_mask(data, clf):
    X, y = data
    free, labels = np.ma.masked_array(X), np.ma.masked_array(y)
    assert type(forbid_masked(free, "X")) is np.ndarray
    again = MLPClassifier((4,), max_epochs=2, random_state=0).fit(
        free, labels, np.ma.masked_array(np.ones(N))
    )
    np.testing.assert_array_equal(again.explain(free), clf.explain(X))
    np.testing.assert_array_equal(again.predict(free), clf.predict(X))
    assert type(again.explain(free)) is np.ndarray


@pytest.mark.parametrize("estimator", [MLPClassifier((4,), max_epochs=1), ESNClassifier(5)])
def test_fit_refuses(data, estimator):
    X, y = data
    for form in forms(make_masked(X)):
        with pytest.raises(ValueError, match="X is a masked array with 24 of 144 values masked"):
            estimator.fit(form, y)
    with pytest.raises(ValueError, match=r"y is a masked array.*X\[~y.mask\]"):
        estimator.fit(X, np.ma.masked_array(y, [True] + [False] * (N - 1)))
    with pytest.raises(ValueError, match="sample_weight is a masked array"):
        estimator.fit(X, y, make_masked(np.ones(N), 0))


def test_models_refuse(data, clf):
    X, y = data
    network = torch.nn.Sequential(torch.nn.Linear(D, 2)).double()
    for form in forms(make_masked(X)):
        for call in (
            clf.predict,
            clf.predict_proba,
            clf.decision_function,
            clf.explain,
            lambda form: sklrp.explain(clf, form),
            lambda form: sklrp.explain(network, form),
            lambda form: clf.score(form, y),
            lambda form: clf.partial_fit(form, y),
            lambda form: RelevanceTransformer(clf).fit(form, y),
            lambda form: RelevanceTransformer(clf).fit(X, y).transform(form),
            lambda form: diagnose(clf, form, y),
            lambda form: skill_map(clf, form, y),
            lambda form: skill_map(clf, X, y, X_train=form),
            lambda form: audit(clf, form, y),
            lambda form: metrics.max_sensitivity(clf, form),
            lambda form: metrics.pixel_flipping_score(clf, form, X),
            lambda form: RelevanceDisplay.from_estimator(clf, form),
        ):
            with pytest.raises(ValueError, match="is a masked array"):
                call(form)
    for call in (
        lambda y: diagnose(clf, X, y),
        lambda y: skill_map(clf, X, y),
        lambda y: RelevanceTransformer(clf).fit(X, y),
        lambda y: clf.explain(X, target=y),
        lambda y: skill_map(clf, X, data[1], groups=y),
        lambda y: sklrp.explain(clf.module_, X, target=y),
    ):
        with pytest.raises(ValueError, match="is a masked array"):
            call(np.ma.masked_array(y, [True] + [False] * (N - 1)))


def test_rules_refuse(data, clf):
    with pytest.raises(ValueError, match="low of ZBox is a masked array"):
        clf.explain(data[0], rule=ZBox(make_masked(np.full(D, -9.0)), 9))


def test_several_inputs(data):
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.out = torch.nn.Linear(D, 2, dtype=torch.float64)

        def forward(self, a, b):
            return self.out(a + b)

    with pytest.raises(ValueError, match=r"X\[1\] is a masked array"):
        sklrp.explain(Two(), (data[0], make_masked(data[0])))


def test_pipelines_fill_what_is_masked(data):
    X, y = data
    gaps = np.where(make_masked(X, (slice(3), 0)).mask, np.nan, X)
    right = make_pipeline(SimpleImputer(), MLPClassifier((4,), max_epochs=1, random_state=0))
    right.fit(gaps, y)
    masked = make_masked(X, (slice(3), 0))
    np.testing.assert_array_equal(sklrp.explain(right, masked), sklrp.explain(right, gaps))
    features = RelevanceTransformer(right).fit(gaps, y).transform(gaps)
    np.testing.assert_array_equal(
        RelevanceTransformer(right).fit(masked, y).transform(masked), features
    )


def test_transformers(data):
    X, _ = data
    masked, gaps = make_masked(X), X.copy()
    gaps[:, 0] = np.nan
    for form in forms(masked):
        np.testing.assert_allclose(
            InputMasker().fit_transform(form), np.nan_to_num(gaps), rtol=1e-6
        )
        np.testing.assert_allclose(GridVectorizer().fit_transform(form), X[:, 1:], rtol=1e-6)
        capper = InputCapper(quantile=1).fit(form)
        assert capper.high_ == pytest.approx(X[:, 1:].max())
    grid = make_masked(X.reshape(N, 2, 3), (slice(None), 0, 0))
    vectorizer = GridVectorizer(layout="grid").fit(grid)
    np.testing.assert_array_equal(vectorizer.mask_, ~grid.mask[0])
    assert vectorizer.transform(grid)[:, 0, 0].tolist() == [0.0] * N
    relevance = make_masked(vectorizer.transform(grid), (slice(None), 1, 1))
    assert np.isnan(vectorizer.inverse_transform(relevance)[:, 1, 1]).all()
    with pytest.raises(ValueError, match=r"mask is a masked array.*filled\(False\)"):
        InputMasker(np.ma.masked_array([True] * D, [True] + [False] * (D - 1))).fit(X)


def test_metrics_refuse(data):
    maps = np.abs(data[0])
    mask = np.arange(D) < 3
    masked = make_masked(maps)
    for call in (
        lambda: metrics.relevance_mass(masked, mask),
        lambda: metrics.relevance_rank(masked, mask),
        lambda: metrics.sparseness(masked),
        lambda: metrics.conservation_error(masked, np.ones(N)),
        lambda: compare_maps(maps, masked),
    ):
        with pytest.raises(ValueError, match=r"in the same 1 of 6 cells.*land.*nan_to_num"):
            call()
    unknown = np.ma.masked_array(mask, np.arange(D) == 0)
    with pytest.raises(ValueError, match=r"mask is a masked array.*filled\(False\)"):
        metrics.relevance_mass(maps, unknown)
    with pytest.raises(ValueError, match="weights is a masked array"):
        metrics.relevance_mass(maps, mask, weights=make_masked(np.ones(D)))
    with pytest.raises(ValueError, match="score is a masked array"):
        metrics.conservation_error(maps, make_masked(np.ones(N), 0))
    free = metrics.relevance_mass(np.ma.masked_array(maps), np.ma.masked_array(mask))
    np.testing.assert_allclose(free, maps[:, :3].sum(1) / maps.sum(1))


def test_metrics_name_land(data):
    maps = np.abs(data[0])
    land = maps.copy()
    land[:, :2] = np.nan
    with pytest.raises(ValueError, match="2 of 6 cells of each, which look like land"):
        metrics.relevance_mass(land, np.arange(D) < 3)
    land[0, 3] = np.nan
    with pytest.raises(ValueError, match=r"24 of 24 maps: where the input is missing.*land"):
        metrics.relevance_mass(land, np.arange(D) < 3)
    with pytest.raises(ValueError, match=r"mask must hold booleans.*NaN in 2 of 6 cells.*land"):
        metrics.relevance_mass(maps, np.where(np.arange(D) < 2, np.nan, 1.0))
    with pytest.raises(ValueError, match=r"weights must be finite.*0 on land"):
        metrics.relevance_mass(maps, np.ones(D), weights=np.where(np.arange(D) < 2, np.nan, 1.0))


def test_geo(data):
    field = xr.DataArray(
        data[0].reshape(N, 2, 3), {"time": np.arange(N), "lat": [0.0, 5], "lon": [0.0, 5, 9]}
    )
    masked = make_masked(field.values, (slice(None), 0, 0))
    assert relevance_to_xarray(masked, field).isnull().values[:, 0, 0].all()
    with pytest.raises(ValueError, match="y_true is a masked array"):
        composites(field, np.ma.masked_array(data[1], data[1] == 0), data[1])
    with pytest.raises(ValueError, match="lat is a masked array"):
        cosine_weights(make_masked([0.0, 5.0], 0))
    np.testing.assert_allclose(cosine_weights(np.ma.masked_array([0.0, 60.0])), [1, 0.5])
    lazy = xr.DataArray(dask.array.from_array(masked, chunks=(6, -1, -1)), field.coords)
    np.testing.assert_array_equal(
        GridVectorizer().fit_transform(lazy), field.values.reshape(N, -1)[:, 1:]
    )
    assert box_mask(field, lat=(-1, 1)).values.sum() == 3


def test_displays_leave_masked_cells_out(data):
    maps = data[0][:2].reshape(2, 2, 3)
    masked = make_masked(maps, (slice(None), 0, 0))
    display = RelevanceDisplay.from_relevance(masked)
    drawn = display.artists_[0]["image"].get_array()
    assert np.ma.getmaskarray(drawn)[0, 0]
    assert np.abs(display.limits_).max() < 10
    with pytest.raises(ValueError, match="labels is a masked array"):
        RelevanceDisplay.from_relevance(maps, labels=np.ma.masked_array([0, 1], [True, False]))


def test_chunks_in_dask_are_computed_once():
    computed = []

    def note(chunk):
        computed.append(chunk.shape)
        return chunk

    source = dask.array.from_array(np.arange(24.0).reshape(8, 3), chunks=(4, 3))
    for take in (as_gapped_array, lambda values: as_plain_array(values, "X")):
        computed.clear()
        lazy = source.map_blocks(note, dtype=float, meta=np.empty((0, 0)))
        np.testing.assert_array_equal(take(lazy), np.arange(24.0).reshape(8, 3))
        assert computed == [(4, 3), (4, 3)]


# Labels


@pytest.mark.parametrize("gap", [float("nan"), np.float32("nan"), None, pd.NA, pd.NaT])
@pytest.mark.parametrize("form", [list, tuple, lambda labels: np.array(labels, dtype=object)])
def test_a_missing_label_is_no_class(gap, form):
    """NumPy makes text of NaN beside text, "nan"."""
    X = np.random.default_rng(0).normal(size=(N, D))
    labels = ["warm", "cold"] * (N // 2)
    clf = MLPClassifier((4,), max_epochs=1, random_state=0).fit(X, labels)
    y = form([*labels[:-1], gap])
    net = MLPClassifier((4,), max_epochs=1, random_state=0)
    for call in (
        lambda: net.fit(X, y),
        lambda: net.partial_fit(X, y, classes=["warm", "cold"]),
        lambda: ESNClassifier(5, random_state=0).fit(X.reshape(N, 2, 3), y),
        lambda: clf.score(X, y),
        lambda: RelevanceTransformer(net).fit(X, y),
        lambda: RelevanceDisplay.from_estimator(clf, X, y, kind="class_mean"),
        lambda: RelevanceDisplay.from_relevance(X, labels=y, kind="class_mean"),
    ):
        with pytest.raises(ValueError, match=rf"Input \w+ contains .* \(1 of {N} values\).*isna"):
            call()
    for call in (lambda: skill_map(clf, X, y), lambda: clf.explain(X, target=y)):
        with pytest.raises(ValueError, match="unknown label"):
            call()
    with pytest.raises(ValueError, match=r"classes must hold .* none of them missing"):
        net.partial_fit(X, labels, classes=form(["warm", "cold", gap]))


@pytest.mark.parametrize("form", [np.asarray, pd.DataFrame])
def test_outputs_that_no_sample_has_are_to_be_left_out(form):
    """Land in a gridded target leaves no sample without a gap; advice that is followed works."""
    rng = np.random.default_rng(0)
    X, whole = rng.normal(size=(N, D)).astype(np.float32), rng.normal(size=(N, 5))
    land, gap, all_gaps = whole.copy(), whole.copy(), whole.copy()
    land[:, :2] = np.nan
    gap[1, 4] = np.nan
    all_gaps[np.arange(N), np.arange(N) % 5] = np.nan
    net = MLPRegressor((4,), max_epochs=1, random_state=0)

    def fails(y):
        with pytest.raises(ValueError, match=r"Input y contains NaN") as error:
            net.fit(X, form(y))
        return str(error.value)

    columns = r"leave out the 2 of 5 columns.*GridVectorizer"
    samples = "leave samples without a target out, keep = ~pd.isna(y).any(axis=1)"
    assert re.search(columns, fails(land))
    assert "leave samples" not in fails(land)
    assert samples in fails(gap)
    assert re.search(
        rf"{columns}.*then leave samples that lack others out, keep", fails(land + gap)
    )
    assert "fill or impute the missing values: no sample" in fails(all_gaps)
    y = form(land)
    code = re.search(r"such as land, (.*), or of fields", fails(land)).group(1)
    net.fit(X, eval(code, {"y": y, "np": np}))
    assert net.predict(X).shape == (N, 3)


def test_a_class_that_is_called_nan_is_a_class():
    X = np.random.default_rng(0).normal(size=(N, D))
    labels = ["nan", "none"] * (N // 2)
    clf = MLPClassifier((4,), max_epochs=1, random_state=0).fit(X, labels)
    assert clf.classes_.tolist() == ["nan", "none"]
