"""Boxes and weights of area, relevance as fields, and composites."""

import os
import re

import numpy as np
import pytest
import torch
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from skorch import NeuralNet, NeuralNetClassifier, NeuralNetRegressor
from torch import nn

import sklrp
from sklrp import CNNClassifier, Epsilon, Gamma, MLPClassifier, MLPRegressor, metrics
from sklrp.diagnostics import skill_map
from sklrp.geo import (
    AnomalyTransformer,
    GridVectorizer,
    box_mask,
    box_mean,
    box_share,
    box_sum,
    composites,
    cosine_weights,
    explain,
    pattern_correlation,
    relevance_to_xarray,
    select_box,
    write,
)
from tests.helpers import models
from tests.helpers.comparing import assert_same_to_rounding
from tests.helpers.fields import LAND, assert_same_fields, make_field, two_variables
from tests.helpers.stores import open_by_path

LAT = np.arange(-88.0, 89.0, 8.0)
LON = np.arange(0.0, 360.0, 10.0)


def make_globe(lat=LAT, lon=LON):
    """Return two fields on the globe, one cell missing, with a value that the place decides."""
    lat, lon = np.asarray(lat), np.asarray(lon)
    values = np.sin(np.radians(lat))[:, None] + np.cos(np.radians(lon)) * lat[:, None] / 90
    values = np.stack([values, 2 * values + 1])
    values[:, (abs(lat) < 1).nonzero()[0][:, None], (lon % 360 == 200).nonzero()[0]] = np.nan
    coords = {"time": [0, 1], "lat": lat, "lon": lon}
    return xr.DataArray(values, coords, ["time", "lat", "lon"], name="sst", attrs={"units": "K"})


GLOBES = {
    "0-360": make_globe(),
    "-180-180": make_globe(lon=np.arange(-180.0, 180.0, 10.0)),
    "north first": make_globe(lat=LAT[::-1]),
    "westward": make_globe(lon=LON[::-1]),
    "float32": make_globe(LAT.astype(np.float32), LON.astype(np.float32)),
    "lon first": make_globe().transpose("lon", "time", "lat"),
    "named": make_globe().rename(lat="latitude", lon="longitude"),
    "marked": make_globe()
    .rename(lat="v", lon="u")
    .assign_coords(v=("v", LAT, {"axis": "Y"}), u=("u", LON, {"units": "degrees_east"})),
    "dask": make_globe().chunk(lat=5, lon=7),
}


# --- boxes and weights ------------------------------------------------------------------------


def plain_box(field, lat, lon):
    """Return the values of the cells in a box and their weights, cell by cell, on `make_globe`."""
    values, weights = [], []
    for i, phi in enumerate(LAT):
        for j, lam in enumerate(LON):
            turns = [lam + 360 * k for k in (-2, -1, 0, 1, 2)]
            west, east = lon if lon[1] >= lon[0] else (lon[0], lon[1] + 360)
            inside = min(lat) <= phi <= max(lat) and any(west <= turn <= east for turn in turns)
            if inside and not np.isnan(field[0, i, j]):
                values.append(field[:, i, j])
                weights.append(np.cos(np.radians(phi)))
    return np.array(values), np.array(weights)[:, None]


@pytest.mark.sweep(9)
@pytest.mark.parametrize("globe", GLOBES)
@pytest.mark.parametrize(
    ("lat", "lon"),
    [
        ((-5, 5), (190, 240)),
        ((5, -5), (-170, -120)),
        ((-30, 48), (350, 10)),
        ((-30, 48), (-10, 10)),
        ((20, 90), (170, -170)),
        ((-90, 90), (0, 360)),
        ((-88, -88), (-180, 180)),
        ((0, 0), (210, 210)),
    ],
)
def test_boxes_as_rewritten(globe, lat, lon):
    field, reference = GLOBES[globe], make_globe().values
    values, weights = plain_box(reference, lat, lon)
    mean = (values * weights).sum(axis=0) / weights.sum()
    atol = 1e-6 if field.dtype == np.float32 else 1e-9  # sums of both signs, rounded on their way
    assert_allclose(box_mean(field, lat=lat, lon=lon), mean, rtol=1e-6, atol=atol)
    assert_allclose(box_sum(field, lat=lat, lon=lon), values.sum(axis=0), rtol=1e-6, atol=atol)
    weighted = box_sum(field, lat=lat, lon=lon, weights="cosine")
    assert_allclose(weighted, (values * weights).sum(axis=0), rtol=1e-6, atol=1e-6)
    plain = box_mean(field, lat=lat, lon=lon, weights=None)
    assert_allclose(plain, values.mean(axis=0), rtol=1e-6, atol=atol)
    positive = reference[~np.isnan(reference)].reshape(2, -1).clip(min=0).sum(axis=1)
    share = values.clip(min=0).sum(axis=0) / positive
    assert_allclose(box_share(field, lat=lat, lon=lon), share, rtol=1e-6, atol=1e-9)
    assert (box_mean(field, lat=lat, lon=lon).chunks is not None) == (globe == "dask")
    assert box_mean(field, lat=lat, lon=lon).attrs == {"units": "K"}
    part = select_box(field, lat=lat, lon=lon)
    assert_allclose(
        part.sum(part.dims[1:] if globe != "lon first" else ("lon", "lat")),
        values.sum(axis=0),
        rtol=1e-6,
        atol=1e-9,
    )
    assert box_mask(field, lat=lat, lon=lon).sum() == part[{"time": 0}].size


@pytest.mark.parametrize("part", ["positive", "absolute", "signed"])
def test_the_share_is_the_relevance_mass(part):
    field = make_globe().fillna(0.0)
    mask = box_mask(field, lat=(-30, 30), lon=(120, 280))
    expected = metrics.relevance_mass(field.values, mask.values, part=part)
    found = box_share(field, lat=(-30, 30), lon=(120, 280), part=part)
    assert_allclose(found, expected, atol=1e-12)
    assert found.attrs == {"long_name": f"share of the {part} relevance", "units": "1"}
    weights = cosine_weights(field)
    expected = metrics.relevance_mass((field * weights).values, mask.values, part=part)
    assert_allclose(box_share(field, mask=mask, part=part, weights="cosine"), expected, atol=1e-12)
    assert_array_equal(box_share(field * 0, lat=(-30, 30), part=part), [0, 0])
    field[1] = np.nan
    assert_array_equal(box_share(field * 0, lat=(-30, 30), part=part), [0, np.nan])


def test_boxes_of_several_variables_and_own_weights():
    field = make_globe()
    data = xr.Dataset({"a": field, "b": -field})
    box = {"lat": (-30, 30), "lon": (0, 90)}
    xr.testing.assert_allclose(box_mean(data, **box).b, -box_mean(field, **box).rename("b"))
    area = cosine_weights(field) * xr.ones_like(field.lon)
    xr.testing.assert_allclose(box_mean(field, **box, weights=3 * area), box_mean(field, **box))
    ocean = field[0].notnull() & (field.lon < 45)
    narrow = box_mean(field, lat=(-30, 30), lon=(0, 44))
    xr.testing.assert_allclose(box_mean(field, **box, mask=ocean), narrow)
    land = field.where(field.lon > 100)
    assert box_sum(land, **box).isnull().all()
    assert box_mean(land, **box).isnull().all()


def test_selected_longitudes_go_on_over_the_seam():
    assert select_box(GLOBES["0-360"], lon=(-20, 10)).lon.values.tolist() == [340, 350, 360, 370]
    part = select_box(GLOBES["-180-180"], lon=(160, 200))
    assert part.lon.values.tolist() == [160, 170, 180, 190, 200]
    assert select_box(GLOBES["westward"], lon=(10, 30)).lon.values.tolist() == [30, 20, 10]
    assert select_box(GLOBES["0-360"], lat=(0, 10)).lon.size == 36
    unsigned = make_globe(lon=LON.astype(np.uint16))
    assert select_box(unsigned, lon=(-20, 10)).lon.values.tolist() == [340, 350, 360, 370]


def test_weights_are_areas():
    weights = cosine_weights(GLOBES["named"])
    assert weights.dims == ("latitude",)
    assert_allclose(weights, np.cos(np.radians(LAT)))
    assert_allclose(cosine_weights(make_globe().lat), np.cos(np.radians(LAT)))
    assert cosine_weights([-90, 90]).tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"must be in \[-90, 90\] degrees, got 100"):
        cosine_weights(LON)


@pytest.mark.parametrize(
    ("data", "box", "message"),
    [
        (make_globe(), {"lat": (1, 2)}, "the box has no cell: no value of 'lat' lies in"),
        (make_globe(), {"lat": (-100, 2)}, r"two latitudes in \[-90, 90\]"),
        (make_globe(), {"lon": 3}, "lon must be None or two numbers in degrees, got 3"),
        (make_globe(), {"lon": (0, np.nan)}, "lon must be None or two numbers"),
        (make_globe(), {"weights": "area"}, "weights must be 'cosine', a DataArray or None"),
        (make_globe(), {"weights": np.ones(23)}, "weights must be 'cosine', a DataArray or None"),
        (
            make_globe().to_dataset().assign(time_bnds=(("time", "nbnds"), np.zeros((2, 2)))),
            {},
            r"the variable 'time_bnds' has the dimensions \('time', 'nbnds'\), without 'lat' and",
        ),
        (make_globe(), {"mask": make_globe(lat=LAT + 1)[0] > 0}, "must lie on one grid"),
        (make_globe(lon=np.append(LON, 360)), {}, "'lon' has the same meridian twice"),
        (make_globe().drop_vars("lat"), {}, "The dimension 'lat' has no coordinate"),
        (make_globe().rename(lat="a"), {}, "no latitude coordinate. Of the dimensions"),
        (make_globe().rename(time="lats"), {}, "ambiguous latitude: 'lats' and 'lat' can both"),
        (make_globe().rename(lat="y"), {}, "no latitude coordinate. Of the dimensions"),
        (
            make_globe()
            .rename(lat="j")
            .drop_vars("j")
            .assign_coords(lat=(("j", "lon"), np.zeros((23, 36)))),
            {},
            "'lat' has the dimensions .*regrid",
        ),
    ],
)
def test_bad_boxes(data, box, message):
    with pytest.raises(ValueError, match=message):
        box_mean(data, **box)


def test_boxes_need_fields():
    with pytest.raises(TypeError, match="box_mean needs an xarray"):
        box_mean(np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"part must be one of .*got 'negative'"):
        box_share(make_globe(), part="negative")


@pytest.mark.sweep(3)
@pytest.mark.parametrize("weights", ["cosine", None])
@pytest.mark.parametrize("name", GLOBES)
def test_pattern_correlation_is_that_of_the_cells_valid_in_both(name, weights):
    one = GLOBES[name]
    other = one + xr.DataArray(np.random.default_rng(0).normal(size=one.shape), dims=one.dims)
    first = {dim: 3 for dim in one.dims if dim != "time"}
    other = other.where(~(other == other.isel(first)))  # one cell is missing here only
    found = pattern_correlation(one, other.transpose(*one.dims[::-1]), weights=weights)
    assert found.attrs["units"] == "1"
    lat_dim = next(dim for dim in one.dims if dim in ("lat", "latitude", "v"))
    area = np.cos(np.radians(one[lat_dim].astype(float))).broadcast_like(
        one.isel(time=0, drop=True)
    )
    for i in range(2):
        a, b = one.isel(time=i), other.isel(time=i)
        area = area.transpose(*a.dims)
        valid = np.isfinite(a.values) & np.isfinite(b.values)
        w = area.values[valid] if weights else None
        cov = np.cov(a.values[valid], b.values[valid], aweights=w)
        expected = cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1])
        assert_allclose(found.isel(time=i), expected, rtol=1e-9)


def test_pattern_correlation_of_scaled_and_constant_fields():
    one = make_globe()
    assert_allclose(pattern_correlation(one, 3 - 1e-200 * one), np.nan)  # constant to rounding
    assert_allclose(pattern_correlation(one * 1e-200, -one), -1)
    assert_allclose(pattern_correlation(one, one.isel(time=0, drop=True)), 1)
    with pytest.raises(ValueError, match="one and other must lie on one grid"):
        pattern_correlation(one, make_globe(lat=LAT + 1))
    with pytest.raises(ValueError, match="no latitude coordinate"):
        pattern_correlation(one, one.rename(lat="row"))
    with pytest.raises(TypeError, match=r"other must be an xarray\.DataArray, got ndarray"):
        pattern_correlation(one, one.values)


# --- explain ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    """Return fields, labels, and a pipeline that tells a warm corner from a cold one."""
    field = make_field(dtype=np.float32)
    y = np.where(AnomalyTransformer().fit_transform(field)[:, 0, 0] > 0, "El Niño", "La Niña")
    network = MLPClassifier((6,), max_epochs=20, random_state=0)
    pipeline = make_pipeline(AnomalyTransformer(), GridVectorizer(), StandardScaler(), network)
    return field, y, pipeline.fit(field, y)


def test_relevance_is_that_of_the_arrays_in_its_place(fitted, tmp_path):
    field, y, pipeline = fitted
    found = explain(pipeline, field, target="El Niño", rule=Gamma(0.5), epsilon=0.01)
    X = pipeline[:-1].transform(field)
    expected = np.full(field.shape, np.nan, dtype=np.float32)
    expected[:, ~LAND] = pipeline[-1].explain(X, target="El Niño", rule=Gamma(0.5), epsilon=0.01)
    assert_same_to_rounding(found, expected)
    assert found.dtype == np.float32
    assert found.name == "relevance"
    assert found.dims == field.dims
    xr.testing.assert_identical(found.coords.to_dataset(), field.coords.to_dataset())
    assert found.attrs == {
        "long_name": "relevance",
        "units": "logit",
        "sklrp_version": found.attrs["sklrp_version"],
        "rule": "Gamma(gamma=0.5)",
        "epsilon": 0.01,
        "target": "El Niño",
        "contrast": 0,
        "estimator": "MLPClassifier",
    }
    assert field.attrs["units"] == "K"

    turned = field.transpose("lon", "time", "lat")
    assert_same_fields(
        explain(pipeline, turned), explain(pipeline, field).transpose("lon", "time", "lat")
    )
    search = GridSearchCV(pipeline, {"mlpclassifier__max_epochs": [5]}, cv=2).fit(field, y)
    assert explain(search, field).shape == field.shape
    network = make_pipeline(StandardScaler(), pipeline[-1])
    vectorizer = GridVectorizer().fit(field)
    with pytest.raises(TypeError, match="explain needs one GridVectorizer"):
        explain(network, field)
    with pytest.warns(UserWarning, match="far outside"):  # fields as they are, and no anomalies
        alone = explain(pipeline[-1], field, vectorizer=vectorizer)
    expected = pipeline[-1].explain(vectorizer.transform(field))
    assert_same_to_rounding(alone.values[:, ~LAND], expected)


def make_nets():
    """Return networks of the 9 ocean cells, and the labels of their outputs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(9, 4), nn.Tanh(), nn.Linear(4, 3))
        single = nn.Sequential(nn.Linear(9, 4), nn.Tanh(), nn.Linear(4, 1))
    classifier = NeuralNetClassifier(module).initialize()
    classifier.classes_inferred_ = np.array(["a", "b", "c"])
    return {
        "module": (module, [0, 1, 2]),
        "module of one output": (single, [0]),
        "skorch net": (NeuralNet(module, nn.MSELoss).initialize(), [0, 1, 2]),
        "skorch classifier": (classifier, ["a", "b", "c"]),
        "skorch regressor": (NeuralNetRegressor(single).initialize(), [0]),
    }


@pytest.mark.sweep(4)
@pytest.mark.parametrize("name", make_nets())
@pytest.mark.parametrize("target", [None, "all", "last"])
def test_relevance_of_any_network(fitted, name, target):
    """A net or a module may stand at the end of a pipeline, in a frozen one or in none."""
    field, _, pipeline = fitted
    net, labels = make_nets()[name]
    steps = pipeline[:-1].steps
    target = labels[-1] if target == "last" else target
    expected = sklrp.explain(net, pipeline[:-1].transform(field), target=target)
    model = FrozenEstimator(Pipeline([*steps, ("net", net)]))
    for data in (field, field.chunk(time=20)):
        found = explain(model, data, target=target)
        assert_same_to_rounding(found.values[..., ~LAND], expected)
        assert (found.attrs["estimator"], found.attrs["units"]) == (
            type(net).__name__,
            "unit of the prediction" if name == "skorch regressor" else "logit",
        )
        if target == "all":
            assert found.target.values.tolist() == labels
        if target is None:
            only = name == "skorch regressor"
            said = "the only output" if only else "the predicted class of each sample"
            assert found.attrs["target"] == said
    anomalies = pipeline[0].transform(field)
    found = explain(net, anomalies, vectorizer=pipeline[1], target=target)
    alone = sklrp.explain(net, pipeline[1].transform(anomalies), target=target)
    assert_same_to_rounding(found.values[..., ~LAND], alone)
    with pytest.raises(ValueError, match=r"unknown label 'Modoki'|target"):
        explain(model, field.chunk(time=20), target="Modoki")


@pytest.mark.sweep(5)
@pytest.mark.parametrize("name", models.REFUSED)
def test_models_that_are_refused(name, fitted):
    build, error, message = models.REFUSED[name]
    with pytest.raises(error, match=message):
        explain(build(), fitted[0], vectorizer=fitted[2][1])


@pytest.mark.sweep(3)
@pytest.mark.parametrize("target", [None, "La Niña", "all", "labels"])
@pytest.mark.parametrize("chunks", [{"time": 7}, {"time": 20, "lat": 2}])
def test_relevance_of_dask_is_lazy_and_the_same(fitted, target, chunks):
    field, y, pipeline = fitted
    target = y if target == "labels" else target
    expected = explain(pipeline, field, target=target)
    found = explain(pipeline, field.chunk(chunks), target=target)
    assert found.chunks
    assert found.attrs == expected.attrs
    assert found.dims == expected.dims
    xr.testing.assert_allclose(found.compute(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"target": True}, "unknown label True"),
        ({"target": [True] * 48}, "unknown label True"),
        ({"target": lambda output: output}, "number for each sample"),
    ],
)
def test_what_dask_cannot_be_asked_for_is_refused_before_it_is_computed(params, message, fitted):
    field, y, _ = fitted
    pipeline = make_pipeline(GridVectorizer(), MLPClassifier((4,), max_epochs=1, random_state=0))
    pipeline.fit(field, y == "El Niño")
    pipeline[-1].classes_ = np.array([0, 1])
    with pytest.raises(ValueError, match=message):
        explain(pipeline, field.chunk(time=20), **params)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"contrast": True}, "contrast=True compares classes"),
        ({"target": np.array([False])}, "an empty region"),
        ({"target": (5,)}, "lies outside the output"),
    ],
)
def test_what_a_regression_in_dask_cannot_be_asked_for(params, message, fitted):
    field = fitted[0]
    reg = make_pipeline(GridVectorizer(), MLPRegressor((4,), max_epochs=1, random_state=0))
    reg.fit(field, field.values[:, 2, 3])
    with pytest.raises(ValueError, match=message):
        explain(reg, field.chunk(time=20), **params)


def test_dask_is_explained_by_what_was_fitted_then_and_in_chunks(fitted):
    field, y, _ = fitted

    class Counting(MLPClassifier):
        sizes = []  # noqa: RUF012

        def explain(self, X, **kwargs):
            self.sizes.append(len(X))
            return super().explain(X, **kwargs)

    pipeline = make_pipeline(GridVectorizer(), Counting((4,), max_epochs=2, random_state=0))
    pipeline.fit(field, y)
    before = explain(pipeline, field)
    Counting.sizes.clear()
    lazy = explain(pipeline, field.chunk(time=20))
    assert Counting.sizes == []
    pipeline.set_params(counting__random_state=1).fit(field, y)
    xr.testing.assert_allclose(lazy.compute(), before, rtol=1e-4, atol=1e-6)
    assert sorted(Counting.sizes) == [8, 20, 20]


def test_relevance_of_several_variables(tmp_path):
    data = two_variables()
    y = (data.sst[:, 0, 0] > data.sst[:, 0, 0].mean()).values
    network = CNNClassifier((3,), input_shape=(2, 3, 4), max_epochs=2, random_state=0)
    pipeline = make_pipeline(
        AnomalyTransformer(standardize=True), GridVectorizer(layout="grid"), network
    ).fit(data, y)
    found = explain(pipeline, data, target="all")
    assert found.attrs == data.attrs
    assert found.ssh.dims == ("lon", "time", "target", "lat")
    expected = network.explain(pipeline[:-1].transform(data), target="all")
    assert_allclose(found.ssh.transpose("time", "target", "lat", "lon"), expected[:, :, 1])
    assert_array_equal(found.sst.isnull().any(["time", "target"]), LAND)
    lazy = explain(pipeline, data.chunk(time=20), target="all")
    xr.testing.assert_allclose(lazy.compute(), found, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
@pytest.mark.parametrize("calendar", [None, "noleap"])
def test_relevance_survives_a_file(fitted, tmp_path, suffix, calendar):
    _, y, pipeline = fitted
    field = make_field(calendar=calendar, dtype=np.float32)
    if calendar is not None:
        pipeline = clone(pipeline).fit(field, y)
    path = tmp_path / f"relevance.{suffix}"
    rule = "auto" if calendar else Epsilon(0.1)
    for found in (
        explain(pipeline, field, target=y, contrast=True, rule=rule),
        composites(explain(pipeline, field), y, pipeline.predict(field)),
    ):
        data = found.to_dataset() if isinstance(found, xr.DataArray) else found
        if suffix == "nc":
            data.to_netcdf(path)
        else:
            data.to_zarr(path, mode="w", zarr_format=2)
        with xr.open_dataset(path, engine=None if suffix == "nc" else "zarr") as back:
            xr.testing.assert_identical(back.load(), data)


def test_relevance_in_dask_is_written_in_chunks(fitted, tmp_path):
    field, _, pipeline = fitted
    explain(pipeline, field.chunk(time=13)).to_netcdf(tmp_path / "relevance.nc")
    with xr.open_dataarray(tmp_path / "relevance.nc") as back:
        xr.testing.assert_allclose(back.load(), explain(pipeline, field), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            [GridVectorizer(), LogisticRegression(max_iter=1000)],
            "LogisticRegression has no method explain",
        ),
        ([GridVectorizer(), PCA(9), MLPClassifier()], "PCA is between GridVectorizer and the"),
        ([GridVectorizer(), FunctionTransformer(), MLPClassifier()], "FunctionTransformer is"),
    ],
)
def test_pipelines_that_cannot_be_placed(fitted, steps, message):
    field, y, _ = fitted
    pipeline = make_pipeline(*steps).fit(field, y)
    with pytest.raises(TypeError, match=message):
        explain(pipeline, field)


def test_explain_refuses_other_data(fitted):
    field, y, pipeline = fitted
    with pytest.raises(TypeError, match="explain needs an xarray"):
        explain(pipeline, field.values)
    with pytest.raises(ValueError, match=r"the grid differs: lat\[0\]"):
        explain(pipeline, field.sortby("lat", ascending=False).chunk(time=5))
    with pytest.raises(ValueError, match="target has 3 labels for 48 samples"):
        explain(pipeline, field.chunk(time=5), target=y[:3])
    for params, message in (
        ({"target": "Modoki"}, "unknown label 'Modoki'; the classes are"),
        ({"target": np.where(y == y[0], y, "Modoki")}, "unknown label 'Modoki'"),
        ({"rule": "no"}, "rule must be one of"),
        ({"epsilon": -1.0}, "epsilon must be a finite number of at least 0, got -1.0"),
    ):
        for data in (field, field.chunk(time=5)):  # not first when half of it is computed
            with pytest.raises(ValueError, match=message):
                explain(pipeline, data, **params)
    unfitted = make_pipeline(GridVectorizer().fit(field), MLPClassifier())
    with pytest.raises(NotFittedError):
        explain(unfitted, field.chunk(time=5))
    arrays = GridVectorizer().fit(field.values)
    with pytest.raises(TypeError, match="was fitted on an array"):
        explain(pipeline[-1], field, vectorizer=arrays)


def test_relevance_to_xarray(fitted):
    field, _, pipeline = fitted
    expected = explain(pipeline, field, target="all")
    relevance = pipeline[-1].explain(pipeline[:-1].transform(field), target="all")
    classes = pipeline.classes_
    found = relevance_to_xarray(relevance, pipeline[1], like=field, classes=classes)
    assert_same_to_rounding(found, expected)
    xr.testing.assert_equal(found.coords.to_dataset(), expected.coords.to_dataset())
    dense = np.nan_to_num(expected.values)
    xr.testing.assert_equal(relevance_to_xarray(dense, field, classes=classes), expected)
    found = relevance_to_xarray(dense[:, 1], field, attrs={"units": "1"})
    xr.testing.assert_equal(found, expected[:, 1].drop_vars("target"))
    assert found.attrs["units"] == "1"
    with pytest.raises(ValueError, match="classes has 3 labels"):
        relevance_to_xarray(relevance, pipeline[1], classes=[1, 2, 3])
    with pytest.raises(ValueError, match=r"relevance has the shape \(48, 9\), but the field"):
        relevance_to_xarray(relevance[:, 0], field)
    with pytest.raises(TypeError, match="grid must be a GridVectorizer or a DataArray"):
        relevance_to_xarray(relevance, field.values)


# --- composites -------------------------------------------------------------------------------


def test_composites_as_rewritten():
    rng = np.random.default_rng(0)
    field = make_field()
    y_true = rng.choice(["a", "b", "c"], 48)
    y_pred = np.where(rng.random(48) < 0.7, y_true, "a")
    y_pred[y_true == "c"] = "a"
    for relevance in (field, field.chunk(time=9)):
        found = composites(relevance, y_true, y_pred)
        assert found["target"].values.tolist() == ["a", "b", "c"]
        for k, label in enumerate(["a", "b"]):
            maps = field.values[(y_true == label) & (y_pred == label)]
            assert found["count"].values[k] == len(maps)
            assert_allclose(found["mean"][k], maps.mean(axis=0))
            assert_allclose(found["std"][k], maps.std(axis=0, ddof=1))
        assert found["count"].values[2] == 0
        assert found["mean"][2].isnull().all()
    assert found["mean"].attrs["units"] == "K"
    assert composites(field, y_true, y_pred, classes=["b"]).sizes["target"] == 1
    two = composites(two_variables(), y_true, y_pred)
    assert two["mean"].sizes == {"target": 3, "variable": 2, "lat": 3, "lon": 4}
    xr.testing.assert_allclose(
        two["mean"].sel(variable="sst", drop=True).transpose("target", "lat", "lon"),
        found["mean"].compute().rename("mean"),
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_composites_far_from_zero_and_with_gaps(dtype):
    rng = np.random.default_rng(0)
    values = (1e5 + rng.normal(size=(30, 3, 4))).astype(dtype)
    values[:3, 0, 0] = values[:, 1, 1] = values[1:, 2, 2] = np.nan
    values[:, 0, 3] = 7.0
    field, y = make_field(30).copy(data=values), np.zeros(30)
    for relevance in (field, field.chunk(time=4)):
        found = composites(relevance, y, y).isel(target=0).compute()
        assert found["mean"].dtype == found["std"].dtype == dtype
        expected = field.astype(float)
        assert_allclose(found["mean"], expected.mean("time"), rtol=1e-6)
        spread = found["std"].values
        assert np.isnan(spread[[1, 2], [1, 2]]).all()
        assert spread[0, 3] == 0
        there = np.isfinite(spread)
        assert_allclose(spread[there], np.nanstd(expected.values[:, there], 0, ddof=1))


def test_bad_composites():
    field, y = make_field(), np.repeat([0, 1], 24)
    with pytest.raises(ValueError, match=r"has 48 samples .*but y_true the shape \(3,"):
        composites(field, y[:3], y)
    with pytest.raises(ValueError, match=r"classes has \[2\], which y_true has not"):
        composites(field, y, y, classes=[0, 2])
    with pytest.raises(ValueError, match="a map of every class"):
        composites(field.expand_dims(target=[0, 1]), y, y)


# --- files ------------------------------------------------------------------------------------


def read(path):
    with xr.open_dataset(path, engine="zarr" if path.suffix == ".zarr" else None) as dataset:
        return dataset.load()


@pytest.mark.parametrize("name", ["relevance.nc", "relevance.zarr"])
def test_fields_are_written_whole_or_not_at_all(tmp_path, name):
    field, y = make_field(), np.repeat(["cold", "warm"], 24)
    pipeline = make_pipeline(GridVectorizer(), MLPClassifier((4,), max_epochs=2, random_state=0))
    relevance = explain(pipeline.fit(field, y), field.chunk(time=5))
    path = write(relevance, tmp_path / name)
    assert path == tmp_path / name
    assert_same_fields(read(path).relevance, relevance.compute())
    holed = field.copy()
    holed[40, 0, 0] = np.nan  # found when the other chunks have been explained
    for target in (path, tmp_path / f"other{path.suffix}"):
        with pytest.raises(ValueError, match="the mask changed"):
            write(explain(pipeline, holed.chunk(time=5)), target)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert_same_fields(read(path).relevance, relevance.compute())
    means = composites(relevance, y, y)
    write(means, path)  # in the place of the other
    assert_same_fields(read(path), means.compute())


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_fields_of_one_store_go_into_another(tmp_path, zarr_format):
    field = make_field(dtype=np.float32)
    options = {"zarr_format": zarr_format, "consolidated": False}
    field.chunk(time=9).to_zarr(tmp_path / "in.zarr", **options)
    with xr.open_dataset(tmp_path / "in.zarr", engine="zarr", consolidated=False) as dataset:
        stored = {name: dict(v.encoding) for name, v in dataset.variables.items()}
        for name in ("out.zarr", "out.nc"):
            xr.testing.assert_identical(read(write(dataset.sst, tmp_path / name)).sst, field)
            xr.testing.assert_identical(read(write(dataset, tmp_path / name)).sst, field)
        assert {name: dict(v.encoding) for name, v in dataset.variables.items()} == stored


OPENERS = {
    "lazy": lambda path: xr.open_dataset(path, **how(path)),
    "loaded": lambda path: xr.load_dataset(path, **how(path)),
    "dask": lambda path: xr.open_dataset(path, chunks={}, **how(path)),
    "inline": lambda path: xr.open_dataset(path, chunks={}, inline_array=True, **how(path)),
}


def how(path):
    return {"engine": "zarr", "consolidated": False} if path.suffix == ".zarr" else {}


@pytest.mark.parametrize("kind", OPENERS)
@pytest.mark.parametrize("name", ["f.nc", "f.zarr"])
def test_a_file_that_fields_were_read_from_is_not_replaced(name, kind, fitted, tmp_path):
    field, y, pipeline = fitted
    field = field.rename("sst")
    path = write(field, tmp_path / name)
    (tmp_path / f"link{path.suffix}").symlink_to(name)

    def open_again():
        dataset = OPENERS[kind](path)
        # A field of zarr in memory no longer knows where it is from; a Dataset does.
        return dataset if (name, kind) == ("f.zarr", "loaded") else dataset.sst

    with_anomalies = clone(make_pipeline(AnomalyTransformer(), *(s for _, s in pipeline.steps)))
    with_anomalies.fit(field, y)
    if (name, kind) == ("f.zarr", "loaded"):
        pipeline = make_pipeline(GridVectorizer(), MLPClassifier((4,), max_epochs=2))
        pipeline.fit(field.to_dataset(), y)
        with_anomalies = pipeline
    writes = {
        "itself": lambda: open_again(),
        "relevance": lambda: explain(pipeline, open_again()),
        "computed": lambda: explain(pipeline, open_again()).compute(),
        "of anomalies": lambda: explain(with_anomalies, open_again()).compute(),
    }
    if kind in ("dask", "inline"):
        writes["mean"] = lambda: (2.0 * explain(pipeline, open_again())).mean("time")
    for make in writes.values():
        for there in (path, tmp_path / f"link{path.suffix}"):
            with pytest.raises(ValueError, match=r"path is .* read from: .* another name"):
                write(make(), there)
        write(make(), tmp_path / f"other{path.suffix}")
    xr.testing.assert_identical(read(path).sst, field)


def test_errors_of_the_netcdf_library_name_the_file(tmp_path, monkeypatch):
    path, said = tmp_path / "a.nc", "NetCDF: HDF error"

    def fail(*args, **kwargs):
        raise RuntimeError(said)

    monkeypatch.setattr(xr.DataArray, "to_netcdf", fail)
    with pytest.raises(OSError, match=f"NetCDF: HDF error: '{path}'"):  # as of a full disk
        write(make_field(), path)
    said = "of the network"
    with pytest.raises(RuntimeError, match=said):
        write(make_field(), path)
    assert not list(tmp_path.iterdir())


def test_bad_files(tmp_path):
    field = make_field()
    with pytest.raises(ValueError, match=r"path must end in \.nc \(NetCDF\) or \.zarr, got"):
        write(field, "a.txt")
    with pytest.raises(TypeError, match=r"write needs an xarray\.DataArray or Dataset"):
        write(field.values, tmp_path / "a.nc")
    stacked = field.expand_dims(member=2).stack(sample=("member", "time"))
    for name in ("a.nc", "a.zarr"):
        with pytest.raises(
            ValueError, match=r"of 'member', 'time', .*fields\.unstack\('sample'\)"
        ):
            write(stacked, tmp_path / name)
        with pytest.raises(FileNotFoundError, match="there is no folder"):
            write(field, tmp_path / "nowhere" / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "part",
    [{"compute": False}, {"mode": "a"}, {"region": {"time": slice(2)}}, {"append_dim": "time"}],
)
@pytest.mark.parametrize("name", ["a.nc", "a.zarr"])
def test_only_whole_files_are_written(part, name, tmp_path):
    field = make_field()
    [(parameter, value)] = part.items()
    path = write(field, tmp_path / name, mode="w", compute=True)
    said = f"{re.escape(f'{parameter}={value!r}')} would .* complete: .*"
    with pytest.raises(ValueError, match=said):
        write(field + 1.0, path, **part)
    np.testing.assert_array_equal(read(path)[field.name], field)


@pytest.mark.parametrize("name", ["a.nc", "a.zarr"])
def test_a_group_does_not_replace_the_others(name, tmp_path):
    field = make_field()
    path = write(field, tmp_path / name, group="one")
    with pytest.raises(ValueError, match=r"group='two' would be all that is left of"):
        write(field, path, group="two")
    assert path.exists()


def test_a_store_that_dask_opened_by_its_path_is_not_replaced(tmp_path):
    field = make_field().rename("sst")
    path = write(field, tmp_path / "a.zarr")
    lazy = xr.DataArray(open_by_path(path, component="sst"), dims=field.dims, name="sst")
    with pytest.raises(ValueError, match=r"path is .* read from: .* another name"):
        write(lazy * 2.0, path)


def test_another_hard_link_of_the_source_may_be_replaced(tmp_path):
    field = make_field().rename("sst")
    path, link = write(field, tmp_path / "a.nc"), tmp_path / "b.nc"
    os.link(path, link)
    with xr.open_dataset(path, chunks={}) as dataset:
        write(dataset.sst * 2.0, link)
        with pytest.raises(ValueError, match=r"path is .* read from"):
            write(dataset.sst * 2.0, path)
    xr.testing.assert_identical(read(path).sst, field)
    np.testing.assert_array_equal(read(link).sst, 2.0 * field)


@pytest.mark.parametrize("source", ["a\0b", "a\udcff.nc\ud800", 5])
def test_sources_that_are_no_names_say_nothing(source, tmp_path):
    field = make_field()
    field.encoding = {"source": source}
    for _ in range(2):
        write(field, tmp_path / "a.nc")


def test_what_is_wrong_with_a_lazy_call_is_said_at_once(fitted):
    """And not when half of a file is written."""
    field, _, pipeline = fitted
    lazy = field.chunk(time=20)
    nowhere = sklrp.Composite([("a", sklrp.Gamma(), "no such layer")])
    for wrong, said in (
        ({"rule": nowhere}, "no such layer"),
        ({"rule": sklrp.Composite([("a", sklrp.Gamma(), "conv")])}, "No row"),
        (
            {"target": np.zeros((48, 2))},
            r"48 labels, one per sample, got.* \(48, 2",
        ),
        ({"target": np.ones(48, bool)}, "unknown label True|48"),
        ({"target": (5,)}, "target"),
        ({"target": lambda y: y.sum()}, "a function of the output"),
        ({"epsilon": "a"}, "epsilon"),
        ({"reference": np.zeros(5)}, "reference"),
    ):
        with pytest.raises((TypeError, ValueError), match=said):
            explain(pipeline, lazy, **wrong)


@pytest.mark.parametrize("form", [np.asarray, list, lambda y: xr.DataArray(y, dims="time")])
def test_labels_that_are_true_or_false_are_of_samples(fitted, form):
    field, y, _ = fitted
    truth = np.asarray(y) == "El Niño"
    pipeline = make_pipeline(GridVectorizer(), MLPClassifier((4,), max_epochs=2, random_state=0))
    pipeline.fit(field, truth)
    both = explain(pipeline, field, target="all")
    expected = xr.where(xr.DataArray(truth, dims="time"), both[:, 1], both[:, 0])
    for data in (field, field.chunk(time=20)):
        found = explain(pipeline, data, target=form(truth))
        assert found.attrs["target"] == "a class given for each sample"
        np.testing.assert_allclose(found.values, expected.transpose(*field.dims).values, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda f: f.assign_attrs(units="degC"),
            r"sst is in 'degC', but in 'K' in fit.*units='K'",
        ),
        (lambda f: f.rename("air"), r"'air', but 'sst' in fit.*rename\('sst'\)"),
    ],
)
def test_other_units_and_variables_are_warned_of(fitted, change, said):
    field, y, _ = fitted
    field = field.assign_attrs(units="K")
    pipeline = make_pipeline(GridVectorizer(), MLPClassifier((4,), max_epochs=2, random_state=0))
    pipeline.fit(field, y)
    other = change(field)
    for call in (
        lambda: pipeline.predict(other),
        lambda: explain(pipeline, other),
        lambda: explain(pipeline, other.chunk(time=20)),
        lambda: sklrp.explain(pipeline, other),
        lambda: AnomalyTransformer().fit(field).transform(other),
    ):
        with pytest.warns(UserWarning, match=said):
            call()


def test_units_that_are_the_same_are_not_warned_of(fitted):
    field, _, _ = fitted
    vectorizer = GridVectorizer().fit(field.assign_attrs(units="m s-1"))
    for units in ("m s-1", "m/s", "m s**-1", None):
        other = field.drop_attrs() if units is None else field.assign_attrs(units=units)
        assert vectorizer.transform(other).shape[0] == 48
    table = field.assign_attrs(units="K").to_dataset(name="sst")
    several = GridVectorizer().fit(table)
    with pytest.warns(UserWarning, match="sst is in 'degC'"):
        several.transform(field.assign_attrs(units="degC").to_dataset(name="sst"))


def test_variables_in_other_units_are_warned_of_together(fitted):
    field, _, _ = fitted
    names = ("sst", "air", "soil", "rain")
    known = xr.Dataset({name: field.assign_attrs(units="K") for name in names})
    other = known.copy()
    for name, units in zip(names, ("degC", "degC", "degF", "K"), strict=True):
        other[name] = known[name].assign_attrs(units=units)
    with pytest.warns(UserWarning, match="in fit") as caught:
        GridVectorizer().fit(known).transform(other)
    assert [str(one.message).partition(" in fit")[0] for one in caught] == [
        "sst and air are in 'degC', but in 'K'",
        "soil is in 'degF', but in 'K'",
    ]


def test_lazy_relevance_in_other_units_warns_once(fitted):
    """When it is asked for, and not in each chunk, in whatever thread."""
    field, y, _ = fitted
    pipeline = make_pipeline(GridVectorizer(), MLPClassifier((4,), max_epochs=2, random_state=0))
    pipeline.fit(field.assign_attrs(units="K"), y)
    with pytest.warns(UserWarning, match="in 'degC', but in 'K'"):
        lazy = explain(pipeline, field.assign_attrs(units="degC").chunk(time=20))
    assert lazy.compute().shape == field.shape


def test_composites_of_values_are_refused():
    """Each value would be a class of its own; whole numbers are labels."""
    maps = xr.DataArray(np.ones((4, 3)), dims=("time", "lon"))
    with pytest.raises(ValueError, match=r"y_true holds values, such as 0\.3.*np\.where"):
        composites(maps, [1.0, 0.3, 2.5, 1.0], [1.0, 0.3, 2.5, 1.0])
    assert composites(maps, [1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0]).sizes["target"] == 2


@pytest.mark.parametrize("kind", ["CNN", "LSTM", "ESN"])
def test_networks_that_read_a_list_of_cells_are_warned_of(kind):
    """Neighbours in the list of ocean cells are no neighbours on the map."""
    field = make_field()
    warm = (field[:, 0, 0] > field[:, 0, 0].median()).values
    quick = {"random_state": 0} | ({} if kind == "ESN" else {"max_epochs": 1})
    network = getattr(sklrp, f"{kind}Classifier")(**quick)
    listed = make_pipeline(GridVectorizer(), network).fit(field, warm)
    with pytest.warns(UserWarning, match=rf"layout='grid'\), {kind}Classifier\(...\)\)\. For"):
        explain(listed, field)
    with pytest.warns(UserWarning, match="makes a list of the cells"):
        skill_map(listed, field, warm, n_permutations=99, block_length=1, random_state=0)


def test_networks_that_read_the_grid_or_a_list_are_not_warned_of(recwarn):
    field = make_field()
    warm = (field[:, 0, 0] > field[:, 0, 0].median()).values
    cnn = CNNClassifier((2,), kernel_size=1, pooling=None, max_epochs=1, random_state=0)
    mlp = MLPClassifier((2,), max_epochs=1, random_state=0)
    for steps in ((GridVectorizer(layout="grid"), cnn), (GridVectorizer(), mlp)):
        explain(make_pipeline(*steps).fit(field, warm), field)
    section = field[:, 0]  # one axis of cells is a series
    explain(make_pipeline(GridVectorizer(), clone(cnn)).fit(section, warm), section)
    assert not [str(w.message) for w in recwarn if "list of the cells" in str(w.message)]
