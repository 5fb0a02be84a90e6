"""Displays: what their artists hold, what labels say, and what is refused."""

import copy
import subprocess
import sys
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import sklrp
from sklrp import CNNClassifier, ESNClassifier, LSTMClassifier, MLPClassifier
from sklrp._models import unwrap
from sklrp._rows import take_rows
from sklrp.datasets import load_pacific_sst
from sklrp.diagnostics.findings import Finding
from sklrp.drawing.fields import cell_edges, write_latitude, write_longitude
from sklrp.drawing.panels import say_class
from sklrp.drawing.sample_names import name_samples
from sklrp.geo import GridVectorizer, composites
from sklrp.geo.places import check_centres
from sklrp.metrics import pixel_flipping_curve
from sklrp.plotting import (
    ArtifactDisplay,
    HistoryDisplay,
    PixelFlippingDisplay,
    RelevanceDisplay,
)
from tests.helpers import models

mpl.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")
LAT, LON = np.array([-10.0, 0.0, 10.0]), np.array([170.0, 180.0, 190.0, 200.0])


@pytest.fixture(autouse=True)
def closed_figures():
    """Close the figures of a test, and see that it left matplotlib's settings as they were."""
    before = dict(mpl.rcParams)
    yield
    for number in plt.get_fignums():
        plt.figure(number).draw_without_rendering()  # what cannot be drawn shows here
    plt.close("all")
    assert dict(mpl.rcParams) == before


@pytest.fixture(scope="module")
def maps():
    return np.random.default_rng(0).normal(size=(6, 3, 4))


class Drawn(ClassifierMixin, BaseEstimator):
    """A classifier that predicts the first value of a sample, and whose maps are the samples."""

    classes_ = np.array([0, 1])

    def __init__(self, factor=1.0):
        self.factor = factor

    def fit(self, X, y):
        return self

    def __sklearn_is_fitted__(self):
        return True

    def predict(self, X):
        return np.asarray(X).reshape(len(X), -1)[:, 0].astype(int)

    def explain(self, X, *, rule="auto", **params):
        return self.factor * np.asarray(X, dtype=float) * {"auto": 1, "epsilon": -2}[rule]


def image_of(display, row=0, view=0):
    """Return the values that a panel's mesh shows, and its limits."""
    image = display.artists_[row * display.axes_.shape[1] + view]["image"]
    return np.ma.filled(image.get_array().astype(float), np.nan), image.get_clim()


def label_of(bar):
    return bar.ax.get_xlabel() + bar.ax.get_ylabel()


def said(bar):
    return label_of(bar).replace("\n", " ").replace("\u00a0", " ")


def told(display):
    """Return all that labels and the foot say of the colours."""
    notes = "; ".join([*map(said, display.colorbars_), *display.notes_])
    return notes.replace("\u00a0", " ")


# Fields


def test_lazy_maps_and_samples_are_computed_once(maps):
    xr = pytest.importorskip("xarray")
    pytest.importorskip("dask")
    computed = []

    def lazy(name):
        field = xr.DataArray(maps[:2], dims=("time", "lat", "lon"))
        field = field.assign_coords(lat=[0.0, 1.0, 2.0], lon=[0.0, 1.0, 2.0, 3.0]).chunk()

        def compute(block):
            computed.append(name)
            return block

        return field.copy(data=field.data.map_blocks(compute, dtype=float, meta=field.data._meta))

    views = {"one": lazy("one"), "two": lazy("two")}
    display = RelevanceDisplay.from_relevance(views, lazy("X"), show_input=True)
    assert sorted(computed) == ["X", "one", "two"]
    np.testing.assert_array_equal(display.panels[1][0].mean, maps[0])


def test_figures_inside_figures_and_units(maps):
    left, right = plt.figure(figsize=(12, 4), layout="constrained").subfigures(1, 2)
    for figure, limits in ((left, "shared"), (right, "panel")):
        display = RelevanceDisplay.from_relevance(
            maps[:2], unit="relevance (K)", limits=limits, ax=figure.subplots(2, 1)
        )
        assert display.figure_ is figure
        assert {said(bar).partition(";")[0] for bar in display.colorbars_} == {"relevance (K)"}


def test_fields_of_samples(maps):
    display = RelevanceDisplay.from_relevance(maps[:2], labels=["warm", "cold"])
    limit = np.abs(maps[:2]).max()
    for row in range(2):
        values, limits = image_of(display, row)
        np.testing.assert_array_equal(values, maps[row])
        assert limits == (-limit, limit)
    assert display.axes_.shape == (2, 1)
    assert [ax.get_title() for ax in display.axes_.ravel()] == ["sample 0: warm", "sample 1: cold"]
    assert len(display.colorbars_) == 1
    assert said(display.colorbars_[0]) == "relevance; same limits in all panels"
    assert display.colorbars_[0].extend == "neither"
    bottom, top = display.axes_[0, 0].get_ylim()
    assert bottom > top  # the first row is at the top, as in an image


@pytest.mark.sweep(1)
@pytest.mark.parametrize(
    ("limits", "n_bars", "words"),
    [
        ("shared", 1, "same limits in all panels"),
        ("view", 2, "same limits in this column"),
        ("panel", 4, "limits of this panel alone"),
        (0.5, 1, "limits as given; values beyond are clipped"),
    ],
)
def test_limits(maps, limits, n_bars, words):
    views = {"one": maps[:2], "other": 5 * maps[2:4]}
    display = RelevanceDisplay.from_relevance(views, limits=limits)
    size = np.abs([views["one"], views["other"]]).max(axis=(2, 3)).T  # (row, view)
    expected = {
        "shared": np.full((2, 2), size.max()),
        "view": np.broadcast_to(size.max(axis=0), (2, 2)),
        "panel": size,
        0.5: np.full((2, 2), 0.5),
    }[limits]
    np.testing.assert_array_equal(display.limits_, expected)
    for row, view in np.ndindex(2, 2):
        assert image_of(display, row, view)[1] == (-expected[row, view], expected[row, view])
    assert len(display.colorbars_) == n_bars
    assert all(words in said(bar) for bar in display.colorbars_)
    assert [ax.get_title() for ax in display.axes_[0]] == ["one\nsample 0", "other\nsample 0"]


def test_clipping_is_said(maps):
    display = RelevanceDisplay.from_relevance(maps[:1], clip=0.25)
    assert display.limits_[0, 0] == np.quantile(np.abs(maps[0]), 0.75)
    assert "outermost 25 % clipped" in said(display.colorbars_[0])
    assert display.colorbars_[0].extend == "both"
    sparse = np.zeros((1, 3, 4))
    sparse[0, 1, 1] = 3
    display = RelevanceDisplay.from_relevance(sparse, clip=0.25)  # the quantile is 0
    assert display.limits_[0, 0] == 3
    assert "clipped" not in said(display.colorbars_[0])


def test_zero_maps_have_limits():
    display = RelevanceDisplay.from_relevance(np.zeros((1, 3, 4)))
    assert display.limits_[0, 0] == 1


@pytest.mark.parametrize("flip", [1, -1])
def test_coordinates(maps, flip):
    """Rows are where their latitude is, whichever comes first."""
    display = RelevanceDisplay.from_relevance(maps[:1, ::flip], lat=LAT[::flip], lon=LON)
    edges = display.artists_[0]["image"].get_coordinates()
    values, _ = image_of(display)
    order = np.argsort(edges[:-1, 0, 1] + edges[1:, 0, 1])  # from south to north
    np.testing.assert_array_equal(values[order], maps[0])
    ax = display.axes_[0, 0]
    assert ax.get_ylim() == (-15, 15)
    assert ax.get_xlim() == (165, 205)
    write = ax.xaxis.get_major_formatter()
    assert [write(x) for x in (170, 180, 190)] == ["170°E", "180°", "170°W"]
    assert ax.yaxis.get_major_formatter()(-10) == "10°S"


def test_degrees():
    assert [write_latitude(v) for v in (30, 0, -1e-14, -2.5)] == ["30°N", "0°", "0°", "2.5°S"]
    east = [-190, -180, -10, 0, 179.5, 180, 190, 360, 370]
    words = ["170°E", "180°", "10°W", "0°", "179.5°E", "180°", "170°W", "0°", "10°E"]
    assert [write_longitude(v) for v in east] == words
    for given in ([350, 355, 0, 5], [-10, -5, 0, 5], [170, 175, -180, -175]):
        steps = np.diff(check_centres(given, "lon", 4))
        np.testing.assert_allclose(steps, 5)
    np.testing.assert_array_equal(cell_edges(np.array([0.0, 2.0, 6.0])), [-1, 1, 4, 8])


def test_poles_end_at_90(maps):
    lat = np.array([-90.0, 0.0, 90.0])
    display = RelevanceDisplay.from_relevance(maps[:1], lat=lat, lon=LON)
    assert display.axes_[0, 0].get_ylim() == (-90, 90)


def test_land_is_grey_and_what_it_hides_is_said(maps):
    land = np.zeros((3, 4), dtype=bool)
    land[0, :2] = True
    display = RelevanceDisplay.from_relevance(maps[:1], land=land)
    values, limits = image_of(display)
    np.testing.assert_array_equal(values, np.where(land, np.nan, maps[0]))
    assert limits[1] == np.abs(maps[0][~land]).max()
    image = display.artists_[0]["image"]
    np.testing.assert_allclose(image.get_cmap()(np.ma.masked), mpl.colors.to_rgba("0.72"))
    share = np.abs(maps[0][land]).sum() / np.abs(maps[0]).sum()
    assert f"grey: land; {100 * share:.2g} % of |relevance| on land, not shown" in told(display)
    quiet = RelevanceDisplay.from_relevance(np.where(land, 0, maps[:1]), land=land)
    assert "not shown" not in told(quiet)
    missing = RelevanceDisplay.from_relevance(np.where(land, np.nan, maps[:1]))
    np.testing.assert_array_equal(image_of(missing)[0], values)
    assert "grey: missing" in told(missing)


def test_rows_of_ocean_cells_are_put_in_their_places(maps):
    land = np.zeros((3, 4), dtype=bool)
    land[1, 1] = True
    expected = np.where(land, np.nan, maps[0])
    for rows in (maps[:1].reshape(1, 12), maps[:1, ~land]):
        display = RelevanceDisplay.from_relevance(rows, land=land)
        np.testing.assert_array_equal(image_of(display)[0], expected)


def test_channels_are_summed(maps):
    stack = np.stack([maps, 2 * maps], axis=1)
    for given, where in ((stack, "first"), (np.moveaxis(stack, 1, -1), "last")):
        display = RelevanceDisplay.from_relevance(given[:1], channels=where)
        np.testing.assert_allclose(image_of(display)[0], 3 * maps[0])
        assert "summed over 2 channels" in said(display.colorbars_[0])


def test_normalized_maps(maps):
    display = RelevanceDisplay.from_relevance(maps, kind="mean", normalize="l1")
    shares = maps / np.abs(maps).sum(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(image_of(display)[0], shares.mean(axis=0))
    assert "share of the map's |relevance|" in said(display.colorbars_[0])


def test_outline_runs_along_the_cells(maps):
    mask = np.zeros((3, 4), dtype=bool)
    mask[1, 1:3] = True
    display = RelevanceDisplay.from_relevance(maps[:1], outline=mask)
    lines = np.array(display.artists_[0]["outline"].get_segments())
    assert len(lines) == 6  # the edges of a box of 1 x 2 cells
    assert lines.reshape(-1, 2).min(axis=0).tolist() == [0.5, 0.5]
    assert lines.reshape(-1, 2).max(axis=0).tolist() == [2.5, 1.5]


def test_contours_and_input(maps):
    display = RelevanceDisplay.from_relevance(
        maps[:2], 2 * maps[:2], contours=4, show_input=True, lat=LAT, lon=LON
    )
    assert display.axes_.shape == (2, 2)
    np.testing.assert_array_equal(image_of(display)[0], 2 * maps[0])
    np.testing.assert_array_equal(image_of(display, 0, 1)[0], maps[0])
    inputs = image_of(display)[1]
    assert inputs == (-2 * np.abs(maps[:2]).max(), 2 * np.abs(maps[:2]).max())
    levels = display.artists_[1]["contours"].levels
    assert 0 not in levels
    assert "contours: input every" in told(display)
    assert label_of(display.colorbars_[1]) == "input"
    positive = RelevanceDisplay.from_relevance(maps[:1], maps[:1] ** 2, show_input=True)
    assert image_of(positive)[1] == ((maps[0] ** 2).min(), (maps[0] ** 2).max())
    flat = RelevanceDisplay.from_relevance(maps[:1], np.zeros((1, 3, 4)), contours=True)
    assert flat.artists_[0]["contours"] is None


def test_coordinates_of_xarray(maps):
    xr = pytest.importorskip("xarray")
    coords = {"latitude": LAT[::-1], "longitude": LON}
    field = xr.DataArray(maps[:, ::-1], coords, dims=("time", "latitude", "longitude"))
    display = RelevanceDisplay.from_relevance(field.transpose("longitude", "time", "latitude"))
    np.testing.assert_array_equal(display.lat, LAT[::-1])
    np.testing.assert_array_equal(image_of(display, 2)[0], maps[2, ::-1])
    single = RelevanceDisplay.from_relevance(field[0])
    np.testing.assert_array_equal(image_of(single)[0], maps[0, ::-1])


def test_fields_of_a_vectorizer(maps):
    xr = pytest.importorskip("xarray")
    coords = {"lat": LAT, "lon": LON, "time": np.arange(6)}
    field = xr.DataArray(maps.copy(), coords, dims=("time", "lat", "lon"))
    field[:, 0, 1] = np.nan
    net = MLPClassifier((4,), max_epochs=1, random_state=0)
    pipeline = make_pipeline(GridVectorizer(), net).fit(field, [0, 1] * 3)
    display = RelevanceDisplay.from_estimator(pipeline, field, kind="mean")
    expected = pipeline[0].inverse_transform(net.explain(pipeline[0].transform(field)))
    np.testing.assert_allclose(image_of(display)[0], np.asarray(expected).mean(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(display.lat, LAT)
    rows = maps.reshape(6, 12)
    net = CNNClassifier((2,), input_shape=(1, 3, 4), max_epochs=1).fit(rows, [0, 1] * 3)
    display = RelevanceDisplay.from_estimator(net, field.fillna(0)[:1])
    np.testing.assert_array_equal(display.lon, LON)


@pytest.mark.parametrize("layout", ["features", "grid"])
@pytest.mark.parametrize("dataset", [True, False])
def test_fields_of_several_variables(maps, layout, dataset):
    """They are summed where there are any, and land is where there is none of them."""
    xr = pytest.importorskip("xarray")
    coords = {"lat": LAT, "lon": LON, "time": np.arange(6)}
    sst = xr.DataArray(maps.copy(), coords, dims=("time", "lat", "lon"))
    ssh = -sst
    sst[:, 0, :2], ssh[:, 0, 1:3] = np.nan, np.nan
    data = xr.Dataset({"sst": sst, "ssh": ssh})
    params = {"layout": layout}
    if not dataset:
        data = data.to_dataarray("level").transpose("time", "level", "lat", "lon")
        params["channel_dim"] = "level"
    kind = MLPClassifier if layout == "features" else CNNClassifier
    net = kind((4,), max_epochs=1, random_state=0)
    pipeline = make_pipeline(GridVectorizer(**params), net).fit(data, [0, 1] * 3)
    display = RelevanceDisplay.from_estimator(pipeline, data, kind="mean")
    relevance = net.explain(pipeline[0].transform(data))
    if layout == "features":
        full = np.zeros((6, 2, 3, 4))
        full[:, np.asarray(pipeline[0].mask_)] = relevance
        relevance = full
    expected = relevance.mean(axis=0).sum(axis=0)
    expected[0, 1] = np.nan
    np.testing.assert_allclose(image_of(display)[0], expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(display.lat, LAT)
    assert "grey: land" in told(display)


def test_the_samples_of_fields_are_those_of_time(maps):
    xr = pytest.importorskip("xarray")
    coords = {"time": np.arange(6), "lat": LAT, "lon": LON}
    field = xr.DataArray(maps, coords, dims=("time", "lat", "lon"))
    levels = xr.concat([field, 2 * field], "level").transpose("level", "time", ...)
    display = RelevanceDisplay.from_relevance(levels)
    np.testing.assert_allclose(image_of(display, 4)[0], 3 * maps[4])
    classes = levels.rename(level="target").assign_coords(target=[0, 1])
    with pytest.raises(ValueError, match="a map of every class for each sample: draw one class"):
        RelevanceDisplay.from_relevance(classes.transpose("time", ...))
    wide = xr.concat([field[:, :, :1]] * 70, "lon").assign_coords(lon=np.arange(70.0))
    net = MLPClassifier((4,), max_epochs=1, random_state=0)
    pipeline = make_pipeline(GridVectorizer(), net).fit(wide, [0, 1] * 3)
    wide = wide.transpose("lon", "lat", "time")  # 70 long, but 6 samples
    assert RelevanceDisplay.from_estimator(pipeline, wide).axes_.shape == (6, 1)


def test_composites_say_class_and_count(maps):
    xr = pytest.importorskip("xarray")
    coords = {"time": np.arange(6), "lat": LAT, "lon": LON}
    field = xr.DataArray(maps, coords, dims=("time", "lat", "lon"))
    found = composites(field, ["a", "a", "b", "b", "b", "b"], ["a", "b", "b", "b", "b", "a"])
    display = RelevanceDisplay.from_relevance(found)
    titles = [ax.get_title() for ax in display.axes_.ravel()]
    assert titles == ["a (n = 1 correct)", "b (n = 3 correct)"]
    np.testing.assert_allclose(image_of(display, 1)[0], maps[2:5].mean(axis=0))
    display = RelevanceDisplay.from_relevance(found["mean"])
    assert [ax.get_title() for ax in display.axes_.ravel()] == ["a", "b"]


def test_composites_of_one_class_are_not_named_after_another(maps):
    """The map of "a" over samples of "b" is no map of "b"."""
    xr = pytest.importorskip("xarray")
    coords = {"time": np.arange(6), "lat": LAT, "lon": LON}
    attrs = {"long_name": "relevance", "units": "logit", "target": "a"}
    field = xr.DataArray(maps, coords, ("time", "lat", "lon"), attrs=attrs)
    y = ["a", "a", "b", "b", "b", "b"]
    both = xr.concat([field, -field], "target").assign_coords(target=["a", "b"])
    both = both.transpose("time", ...).assign_attrs(target="every class")
    for one in (field, both.sel(target="a")):
        found = composites(one, y, y)
        np.testing.assert_allclose(found["mean"].sel(target="b"), maps[2:].mean(axis=0))
        assert found["mean"].attrs["long_name"].startswith("mean relevance for a over correctly")
        display = RelevanceDisplay.from_relevance(found)
        titles = [ax.get_title() for ax in display.axes_.ravel()]
        assert titles == [
            "samples of a, for a (n = 2 correct)",
            "samples of b, for a (n = 4 correct)",
        ]
        assert "relevance for a" in display.colorbars_[0].ax.get_ylabel().replace("\n", " ")


def test_the_colour_bar_says_unit_and_target(maps):
    xr = pytest.importorskip("xarray")
    coords = {"time": np.arange(6), "lat": LAT, "lon": LON}
    attrs = {"long_name": "relevance", "units": "logit", "target": "El Niño"}
    field = xr.DataArray(maps, coords, ("time", "lat", "lon"), attrs=attrs)

    def label(*args, **kwargs):
        display = RelevanceDisplay.from_relevance(*args, **kwargs)
        plt.close(display.figure_)
        return display.colorbars_[0].ax.get_ylabel().replace("\n", " ")

    assert label(field).startswith("relevance for El Niño (logit)")
    assert label({"one": field, "two": -field}).startswith("relevance for El Niño (logit)")
    other = field.assign_attrs(target="La Niña")
    assert not label({"one": field, "two": other}).startswith("relevance for")
    assert label(field, unit="mine").startswith("mine")
    assert label(maps).startswith("relevance")
    whole, shares = (
        RelevanceDisplay.from_relevance(field, normalize=normalize).axes_[0, 0].get_xlabel()
        for normalize in (None, "l1")
    )
    assert whole.endswith(" logits")
    assert "sum" in shares
    assert "logit" not in shares  # a share has no unit


def test_a_dataset_is_drawn_by_variable(maps):
    xr = pytest.importorskip("xarray")
    coords = {"time": np.arange(2), "lat": LAT, "lon": LON}
    field = xr.DataArray(maps[:2], coords, dims=("time", "lat", "lon"))
    data = xr.Dataset({"sst": field, "ssh": -field})
    display = RelevanceDisplay.from_relevance(data, 2 * data, show_input=True)
    np.testing.assert_array_equal(image_of(display, 1, 2)[0], -maps[1])
    assert display.axes_[0, 2].get_title() == "ssh\nsample 0"


def test_fields_of_other_places_are_refused(maps):
    xr = pytest.importorskip("xarray")
    coords = {"time": np.arange(6), "lat": LAT, "lon": LON}
    field = xr.DataArray(maps, coords, dims=("time", "lat", "lon"))
    moved = field.assign_coords(lat=LAT + 1)
    net = CNNClassifier((2,), input_shape=(1, 3, 4), max_epochs=1).fit(maps, [0, 1] * 3)
    for params in (
        {"X": moved},
        {"land": moved[0] > 0},
        {"outline": moved[0] > 0},
        {"relevance": {"a": field, "b": moved}},
    ):
        name = "b" if "relevance" in params else next(iter(params))
        with pytest.raises(ValueError, match=f"{name} has other latitudes than the samples"):
            RelevanceDisplay.from_relevance(**{"relevance": field, **params})
    with pytest.raises(ValueError, match="outline has other latitudes than the samples"):
        RelevanceDisplay.from_estimator(net, field[:1], outline=moved[0] > 0)


def test_fields_in_another_order_are_put_in_place(maps):
    """Land, outlines, inputs and other maps may be turned: coordinates say where they are."""
    xr = pytest.importorskip("xarray")
    coords = {"time": np.arange(6), "lat": LAT, "lon": LON}
    field = xr.DataArray(maps, coords, dims=("time", "lat", "lon"))
    turned = field.sortby("lat", ascending=False)
    display = RelevanceDisplay.from_relevance(
        {"a": field, "b": turned},
        turned,
        land=turned[0] > 0,
        outline=turned[0] > 0,
        show_input=True,
        kind="mean",
    )
    expected = np.where(maps[0] > 0, np.nan, maps.mean(axis=0))
    for view in range(3):
        np.testing.assert_allclose(image_of(display, 0, view)[0], expected)
    np.testing.assert_array_equal(display.outline, maps[0] > 0)
    mask = (field[0] > 0).transpose("lon", "lat")
    display = RelevanceDisplay.from_relevance(field, land=mask, outline=mask, kind="mean")
    np.testing.assert_array_equal(np.isnan(image_of(display)[0]), maps[0] > 0)
    net = CNNClassifier((2,), input_shape=(1, 3, 4), max_epochs=1).fit(maps, [0, 1] * 3)
    display = RelevanceDisplay.from_estimator(net, field[:1], outline=turned[0] > 0)
    np.testing.assert_array_equal(display.outline, maps[0] > 0)


@pytest.mark.parametrize("shape", [(1, 4), (3, 1), (1, 1)])
def test_fields_of_a_single_row_or_column(maps, shape):
    xr = pytest.importorskip("xarray")
    coords = {"time": [0], "lat": LAT[: shape[0]], "lon": LON[: shape[1]]}
    field = xr.DataArray(maps[:1, : shape[0], : shape[1]], coords, dims=("time", "lat", "lon"))
    display = RelevanceDisplay.from_relevance(field)
    np.testing.assert_array_equal(image_of(display)[0], field[0])
    ax = display.axes_[0, 0]
    side = 10 if max(shape) > 1 else 1  # as wide as the cells are long
    assert np.ptp(ax.get_xlim()) == side * shape[1]
    assert np.ptp(ax.get_ylim()) == side * shape[0]


def test_pixels_are_no_degrees(maps):
    xr = pytest.importorskip("xarray")
    coords = {"y": np.arange(3), "x": np.arange(4)}
    display = RelevanceDisplay.from_relevance(xr.DataArray(maps, coords, dims=("n", "y", "x")))
    assert display.lat is None


def test_missing_cells_of_means_are_said(maps):
    given = maps.copy()
    given[2, 1, 1] = np.nan
    display = RelevanceDisplay.from_relevance(given, kind="mean")
    assert "grey: missing in at least one map" in told(display)
    X = maps[:2].copy()
    X[1] = np.nan
    display = RelevanceDisplay.from_relevance(maps[:2], X, show_input=True, contours=True)
    assert display.artists_[3]["contours"] is None
    display = RelevanceDisplay.from_relevance(
        maps[:1], np.full((1, 3, 4), 2.0), show_input=True, contours=True
    )
    assert "contours" not in told(display)


def test_axes_of_a_projection_get_a_transform(maps, monkeypatch):
    """The axes of cartopy are told that coordinates are degrees; no other axes are."""
    told = []
    crs = SimpleNamespace(PlateCarree=lambda: "degrees")
    monkeypatch.setitem(sys.modules, "cartopy.crs", crs)
    _, ax = plt.subplots()
    ax.projection = "any"
    mesh = ax.pcolormesh
    ax.pcolormesh = lambda *args, transform, **kwargs: (
        told.append(transform) or mesh(*args, **kwargs)
    )
    RelevanceDisplay.from_relevance(maps[:1], lat=LAT, lon=LON, ax=ax)
    assert told == ["degrees"]
    missing = maps[:1].copy()
    missing[0, 1, 1] = np.nan
    display = RelevanceDisplay.from_relevance(missing, lat=LAT, lon=LON, ax=ax)
    # Cartopy wraps at its seam only if masked cells are transparent: missing ones apart.
    assert display.artists_[0]["image"].get_cmap()(np.ma.masked)[-1] == 0
    grey = ax.collections[-2]
    np.testing.assert_array_equal(~np.ma.getmaskarray(grey.get_array()), np.isnan(missing[0]))
    np.testing.assert_allclose(grey.get_cmap()(0.5), mpl.colors.to_rgba("0.72"))
    with pytest.raises(ValueError, match="Axes of a projection need to know where the cells are"):
        RelevanceDisplay.from_relevance(maps[:1], ax=ax)
    with pytest.raises(ValueError, match=r"such as cartopy\.crs\.Robinson\(180\), got 'robinson'"):
        RelevanceDisplay.from_relevance(maps[:1], lat=LAT, lon=LON, projection="robinson")
    with pytest.raises(ValueError, match=r"got <class 'type'>"):  # a class, and no instance
        RelevanceDisplay.from_relevance(maps[:1], lat=LAT, lon=LON, projection=type)


# Groups of samples, estimators and rules


def make_samples():
    X = np.random.default_rng(0).normal(size=(6, 3, 4))
    X[:, 0, 0] = [0, 0, 1, 1, 1, 0]  # the class predicted
    return X, np.array([0, 1, 1, 1, 1, 0])  # the second is predicted wrongly


def test_class_means_over_correct_samples():
    X, y = make_samples()
    display = RelevanceDisplay.from_estimator(Drawn(), X, y, kind="class_mean")
    for row, rows in enumerate(([0, 5], [2, 3, 4])):
        np.testing.assert_allclose(image_of(display, row)[0], X[rows].mean(axis=0))
    titles = [ax.get_title() for ax in display.axes_.ravel()]
    assert titles == ["class 0 (n = 2 correct)", "class 1 (n = 3 correct)"]
    assert said(display.colorbars_[0]).startswith("relevance for the predicted class (logits)")
    display = RelevanceDisplay.from_estimator(Drawn(), X, kind="class_mean", target=1)
    titles = [ax.get_title() for ax in display.axes_.ravel()]
    assert titles == ["predicted class 0 (n = 3)", "predicted class 1 (n = 3)"]
    assert said(display.colorbars_[0]).startswith("relevance for class 1 (logits)")
    display = RelevanceDisplay.from_estimator(Drawn(), X, y, kind="mean")
    np.testing.assert_allclose(image_of(display)[0], X[[0, 2, 3, 4, 5]].mean(axis=0))


def test_wrong_predictions_are_said():
    X, y = make_samples()
    display = RelevanceDisplay.from_estimator(Drawn(), X[:2], y[:2])
    titles = [ax.get_title() for ax in display.axes_.ravel()]
    assert titles == ["sample 0: class 0", "sample 1: class 0 (wrong, is class 1)"]


def test_class_without_a_correct_sample():
    X, y = make_samples()
    display = RelevanceDisplay.from_estimator(
        Drawn(), X[:2], y[:2] * 0 + [0, 1], kind="class_mean"
    )
    assert display.axes_[1, 0].get_title() == "class 1 (n = 0 correct)"
    assert display.axes_[1, 0].texts[0].get_text() == "no sample"
    assert np.isnan(display.limits_[1, 0])
    with pytest.raises(ValueError, match="no sample is predicted correctly"):
        RelevanceDisplay.from_estimator(Drawn(), X[1:2], y[1:2], kind="mean")


def test_rules_side_by_side():
    X, _ = make_samples()
    display = RelevanceDisplay.from_estimator(Drawn(), X[:2], rule=["auto", "epsilon"])
    np.testing.assert_array_equal(image_of(display, 1, 0)[0], X[1])
    np.testing.assert_array_equal(image_of(display, 1, 1)[0], -2 * X[1])
    assert display.axes_[0, 1].get_title() == "epsilon\nsample 0: class 0"


def test_estimators_side_by_side():
    X, _ = make_samples()
    display = RelevanceDisplay.from_estimator({"one": Drawn(), "ten": Drawn(10)}, X[:1])
    np.testing.assert_array_equal(image_of(display, 0, 1)[0], 10 * X[0])
    assert display.axes_[0, 1].get_title().startswith("ten\n")


@pytest.mark.slow
def test_networks_of_all_kinds_are_drawn_alike():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 6, 5)).astype(np.float32)
    y = np.where(X[:, 2, 2] > 0, "warm", "cold")
    common = {"max_epochs": 2, "random_state": 0}
    rows = X.reshape(30, 30)
    nets = {
        "CNN": CNNClassifier((4,), input_shape=(1, 6, 5), **common),
        "LSTM": LSTMClassifier(4, input_shape=(6, 5), sweep="right", **common),
        "ESN": ESNClassifier(20, input_shape=(6, 5), random_state=0),
    }
    nets = {name: make_pipeline(StandardScaler(), net).fit(rows, y) for name, net in nets.items()}
    display = RelevanceDisplay.from_estimator(nets, rows[:2])
    scaled = nets["LSTM"][:-1].transform(rows[:2])
    expected = nets["LSTM"][-1].explain(scaled)[1].reshape(6, 5)
    np.testing.assert_allclose(image_of(display, 1, 1)[0], expected)
    nets["MLP"] = MLPClassifier((4,), **common).fit(rows, y)
    with pytest.raises(ValueError, match=r"different forms cannot be drawn side by side.*shape"):
        RelevanceDisplay.from_estimator(nets, rows[:2])
    assert RelevanceDisplay.from_estimator(nets, rows[:2], shape=(6, 5)).axes_.shape == (2, 4)


# Models of every kind


@pytest.mark.sweep(3)
@pytest.mark.parametrize("name", [*models.MODELS, *models.SINGLE])
def test_any_model_is_drawn(name):
    """The maps are those of the bare network inside, for what enters it."""
    kind = models.make(name)
    rows = slice(3)
    display = RelevanceDisplay.from_estimator(kind.model, take_rows(kind.X, rows), rule="epsilon")
    expected = sklrp.explain(kind.network, kind.entered[rows], rule="epsilon")
    for row, panel in enumerate(display.panels[0]):
        np.testing.assert_allclose(panel.maps[0], expected[row], rtol=1e-4, atol=1e-6)
    assert display.frame.names == kind.names
    titles = [ax.get_title() for ax in display.axes_.ravel()]
    unit = display.axes_[0, 0].get_xlabel().replace("\n", " ")
    if kind.labels is None:
        assert titles == ["sample 0", "sample 1", "sample 2"]
        assert unit.startswith("relevance for the output;")
        return
    with torch.no_grad():
        outputs = kind.network(torch.from_numpy(kind.entered[rows]).double()).numpy()
    labels = [say_class(label) for label in kind.labels[outputs.argmax(axis=1)]]
    assert titles == [f"sample {i}: {label}" for i, label in enumerate(labels)]
    assert unit.startswith("relevance for the predicted class (logits);")


@pytest.mark.parametrize("name", models.REFUSED)
def test_models_that_are_refused(name):
    build, error, message = models.REFUSED[name]
    model = build()
    either = message.replace("network, model", "network, (model|estimator)")
    for draw in (RelevanceDisplay.from_estimator, PixelFlippingDisplay.from_estimator):
        with pytest.raises(error, match=either):
            draw(model, models.X)
    with pytest.raises(error, match=message):
        HistoryDisplay.from_estimator(model)


def test_a_network_without_classes():
    kind = models.make("one output: module")
    with pytest.raises(ValueError, match=r"y tells which samples .* pass y=None"):
        RelevanceDisplay.from_estimator(kind.model, kind.X[:2], [0, 1])
    with pytest.raises(ValueError, match="kind='class_mean' needs to know the class"):
        RelevanceDisplay.from_estimator(kind.model, kind.X[:2], kind="class_mean")


# Sources that know a grid

SOURCES = [
    "array",
    "rows and a Bunch",
    "field",
    "field southward",
    "field turned",
    "pipeline",
    "pipeline southward",
    "pipeline turned",
    "pipeline of images turned",
]


def make_source(source):
    """Return a model, samples and what else is passed, of one task from each source of a grid."""
    sst = load_pacific_sst(fill_land=0.1)
    X, y = sst.data[:8], sst.target[:8]
    net = MLPClassifier((3,), max_epochs=1, random_state=0)
    if source == "array":
        return net.fit(X, y), X, {}
    if source == "rows and a Bunch":
        rows = np.asarray(X).reshape(8, -1)
        return net.fit(rows, y), rows, {"grid": sst}
    xr = pytest.importorskip("xarray")
    coords = {"time": np.arange(8), "lat": sst.latitude, "lon": sst.longitude}
    values = np.where(sst.land_mask, np.nan, np.asarray(X))
    samples = xr.DataArray(values, coords, dims=("time", "lat", "lon"))
    samples = samples[:, ::-1] if "southward" in source else samples
    samples = samples.transpose("time", "lon", "lat") if "turned" in source else samples
    first = FunctionTransformer(lambda field: field.fillna(0.1).values)
    if "pipeline" in source:
        first = GridVectorizer(layout="grid" if "images" in source else "features")
    return make_pipeline(first, net).fit(samples, y), samples, {}


@pytest.mark.sweep(2)
@pytest.mark.parametrize("source", SOURCES)
def test_fields_from_every_source_are_north_up(source):
    """Every cell of a map is drawn where its latitude and longitude are, and land is grey."""
    sst = load_pacific_sst()
    model, X, given = make_source(source)
    display = RelevanceDisplay.from_estimator(model, X[:2], **given)
    assert display.layout == "field"
    relevance = sklrp.explain(unwrap(model).network, unwrap(model).enter(X[:2]))[1]
    places = np.indices((18, 30))  # the row and column of each value, in the samples' order
    places = places[:, ::-1] if "southward" in source else places
    places = places.swapaxes(1, 2) if "turned" in source else places
    if "pipeline" in source and "images" not in source:
        places = places[:, ~sst.land_mask[tuple(places)]]
    expected = np.full((18, 30), np.nan)
    expected[tuple(places.reshape(2, -1))] = relevance.ravel()
    expected[sst.land_mask] = np.nan

    values, _ = image_of(display, 1)
    corners = display.artists_[1]["image"].get_coordinates()
    east, north = np.moveaxis(corners[1:, 1:] + corners[:-1, :-1], -1, 0) / 2
    columns = np.round((east % 360 - sst.longitude[0]) / 5).astype(int)
    rows = np.round((north - sst.latitude[0]) / 5).astype(int)
    drawn = np.full((18, 30), 99.0)
    drawn[rows, columns] = values
    np.testing.assert_allclose(drawn, expected, rtol=1e-5)
    ax = display.axes_[1, 0]
    assert ax.get_ylim() == (-25, 65)
    assert ax.yaxis.get_major_formatter()(60) == "60°N"
    assert "grey: land" in told(display)


def test_relevance_on_the_grid_of_its_samples():
    sst = load_pacific_sst()
    relevance = np.asarray(sst.data[:2])
    ocean = np.where(sst.land_mask, np.nan, relevance[0])
    for given in ({"X": sst.data[:2]}, {"grid": sst}):
        display = RelevanceDisplay.from_relevance(relevance, **given)
        np.testing.assert_array_equal(display.lat, sst.latitude)
        np.testing.assert_array_equal(image_of(display)[0], ocean)
    display = RelevanceDisplay.from_relevance(relevance, grid=(sst.latitude, sst.longitude))
    np.testing.assert_array_equal(image_of(display)[0], relevance[0])
    rows = relevance[:, ~sst.land_mask]
    display = RelevanceDisplay.from_relevance(rows, grid=sst, outline=sst.nino34_mask)
    np.testing.assert_array_equal(image_of(display)[0], ocean)
    np.testing.assert_array_equal(display.outline, sst.nino34_mask)


# Sequences


def test_signal_over_its_relevance():
    rng = np.random.default_rng(0)
    relevance, X = rng.normal(size=(2, 2, 7))
    steps = np.arange(7) / 2
    display = RelevanceDisplay.from_relevance(
        relevance[:, None], X[:, None], steps=steps, labels=[0, 1]
    )
    assert display.layout == "sequence"
    for row in range(2):
        np.testing.assert_array_equal(image_of(display, row)[0].ravel(), relevance[row])
        line = display.artists_[row]["line"]
        np.testing.assert_array_equal(line.get_xydata(), np.stack([steps, X[row]], axis=1))
        assert display.axes_[row, 0].get_ylabel() == "input"
    assert display.axes_[0, 0].get_xlim() == (-0.25, 3.25)
    alone = RelevanceDisplay.from_relevance(relevance, layout="sequence")
    np.testing.assert_array_equal(alone.artists_[1]["line"].get_ydata(), relevance[1])
    assert alone.axes_[0, 0].get_ylabel() == "relevance"


def test_sequences_of_classifiers():
    X = np.random.default_rng(0).normal(size=(20, 12)).astype(np.float32)
    y = (X[:, 3] > 0).astype(int)
    for net in (LSTMClassifier(4, max_epochs=1), CNNClassifier((4,), max_epochs=1)):
        net.set_params(random_state=0).fit(X, y)
        display = RelevanceDisplay.from_estimator(net, X[:1])
        assert display.layout == "sequence"
        np.testing.assert_allclose(image_of(display)[0].ravel(), net.explain(X[:1])[0])


@pytest.mark.parametrize("where", ["first", "last"])
def test_variables_of_a_sequence(where):
    """Each variable is a signal over the colours of its relevance."""
    relevance = np.random.default_rng(0).normal(size=(1, 3, 7))
    given = relevance if where == "first" else relevance.transpose(0, 2, 1)
    display = RelevanceDisplay.from_relevance(
        given, layout="sequence", channels=where, feature_names=["u", "v", "w"]
    )
    np.testing.assert_array_equal(image_of(display)[0], relevance[0])
    assert [text.get_text() for text in display.axes_[0, 0].get_yticklabels()] == ["u", "v", "w"]
    assert display.artists_[0]["lines"] == []
    X = 10 * given + 3
    display = RelevanceDisplay.from_relevance(given, X, layout="sequence", channels=where)
    for row, line in enumerate(display.artists_[0]["lines"]):
        heights = line.get_ydata() - row  # downwards, as the axis is
        assert np.corrcoef(heights, relevance[0, row])[0, 1] == pytest.approx(-1)
        assert (heights.min(), heights.max()) == pytest.approx((-0.4, 0.4))


# Tables


def test_bars_of_features():
    relevance = np.array([[1.0, 0.0, -4.0, 0.5], [3.0, 0.0, 2.0, 0.5]])
    display = RelevanceDisplay.from_relevance(
        relevance, kind="mean", n_features=2, feature_names=["a", "b", "c", "d"]
    )
    artists, ax = display.artists_[0], display.axes_[0, 0]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["c", "a"]  # means of |R|: 3, 2
    assert [bar.get_width() for bar in artists["bars"]] == [-1, 2]
    np.testing.assert_array_equal(artists["size"].get_xdata(), [3, 2])
    spread = np.array(artists["spread"].get_segments())[:, :, 0]
    mean, std = np.array([-1, 2]), relevance[:, [2, 0]].std(axis=0, ddof=1)
    np.testing.assert_allclose(spread, np.transpose([mean - std, mean + std]))
    assert display.limits_[0, 0] == 1 + std[0]
    assert ax.get_xlim() == (-1.05 * (1 + std[0]), 1.05 * (1 + std[0]))
    assert "bar: mean; thin line: ± 1 standard deviation" in told(display)
    assert "9.1 % of |relevance| on features not shown" in told(display)  # 0.5 of 5.5
    assert ax.get_ylim() == (1.5, -0.5)  # the largest at the top


def test_names_of_features():
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(20, 3)), columns=["p", "q", "r"])
    net = MLPClassifier((4,), max_epochs=1, random_state=0).fit(X, X["p"] > 0)
    for estimator in (net, GridSearchCV(net, {"lr": [0.01]}, cv=2).fit(X, X["p"] > 0)):
        display = RelevanceDisplay.from_estimator(estimator, X[:2])
        names = {text.get_text() for text in display.axes_[0, 0].get_yticklabels()}
        assert names == {"p", "q", "r"}
        assert display.notes_ == ["features in the order of all panels together"]


# Labels and notes


def test_labels_are_two_lines_and_the_foot_says_the_rest(maps):
    land = np.zeros((3, 4), dtype=bool)
    land[0, 0] = True
    unit = (
        "mean relevance over correctly predicted samples for the predicted class of each sample "
        "(logit)"
    )
    options = {"land": land, "stipple": ~land, "lat": LAT, "lon": LON}
    for clip in (0.0, 0.25):
        display = RelevanceDisplay.from_relevance(
            maps[:2], maps[:2], unit=unit, clip=clip, contours=True, **options
        )
        label = label_of(display.colorbars_[0])
        assert label.startswith("mean relevance (logit)")
        assert label.count("\n") <= 1
        foot = display.figure_.get_supxlabel().replace("\n", " ")
        assert foot == "; ".join(display.notes_)
        for words in (
            "grey:\u00a0land",
            "on land, not shown",
            "contours: input",
            "dots: as given",
        ):
            assert words in foot
        assert foot.startswith(f"colours: {unit}")
        assert "same limits in all panels" in told(display)
        assert ("outermost 25 % clipped" in told(display)) == bool(clip)


def test_notes_of_given_axes_stand_below_the_last_row(maps):
    land = np.zeros((3, 4), dtype=bool)
    land[0, 0] = True
    figure, axes = plt.subplots(2, 2, figsize=(9, 9))
    display = RelevanceDisplay.from_relevance(
        {"one": maps[:2], "two": maps[:2]}, land=land, ax=axes
    )
    assert display.notes_[0] == "grey:\u00a0land"
    assert figure.get_supxlabel() == ""
    said = ["grey:\u00a0land" in ax.get_xlabel() for ax in axes.ravel()]
    assert said == [False, False, True, False]


# Names of samples


def dated(times, **attrs):
    """Return a field for each time."""
    xr = pytest.importorskip("xarray")
    values = np.random.default_rng(0).normal(size=(len(times), 3, 4))
    coords = {"time": ("time", times, attrs), "lat": LAT, "lon": LON}
    return xr.DataArray(values, coords, ("time", "lat", "lon"))


def calendar(name):
    xr = pytest.importorskip("xarray")
    pytest.importorskip("cftime")
    return xr.date_range("1997-12-16", periods=3, freq="MS", calendar=name, use_cftime=True)


@pytest.mark.parametrize(
    ("times", "names"),
    [
        (["1997-12-01", "1998-01-01"], ["December 1997", "January 1998"]),
        (["1998-01-01", "1997-12-01"], ["January 1998", "December 1997"]),  # in any order
        (["1997-12-16", "1997-12-17"], ["1997-12-16", "1997-12-17"]),
        (["1997-12-01", "1997-12-02"], ["1997-12-01", "1997-12-02"]),
        (["1997-12-16"], ["1997-12-16"]),
        (["1997-12-16", "1998-01-16"], ["1997-12-16", "1998-01-16"]),  # of days, perhaps
        (
            ["1997-12-16T12", "1998-01-16T12", "1998-02-15"],  # of CMIP6
            ["December 1997", "January 1998", "February 1998"],
        ),
        (
            ["1997-11-30", "1997-12-31", "1998-01-31"],
            ["November 1997", "December 1997", "January 1998"],
        ),
        (["1997-12-16T06", "1997-12-16T12"], ["1997-12-16 06:00", "1997-12-16 12:00"]),
        (["1997-12-16T06:00:30"], ["1997-12-16 06:00:30"]),
        (["1997-12-16", "1997-12-16"], ["sample 0, 1997-12-16", "sample 1, 1997-12-16"]),
    ],
)
def test_titles_have_dates_as_precise_as_the_data(times, names):
    field = dated(np.array(times, "M8[ns]"))
    display = RelevanceDisplay.from_relevance(field)
    assert [ax.get_title() for ax in display.axes_.ravel()] == names
    labelled = RelevanceDisplay.from_relevance(field, labels=["warm"] * len(times))
    assert labelled.axes_[0, 0].get_title() == f"{names[0]}: warm"
    plain = RelevanceDisplay.from_relevance(field.values, field)  # its samples know
    assert plain.axes_[0, 0].get_title() == names[0]


@pytest.mark.parametrize("name", ["noleap", "360_day"])
def test_titles_of_other_calendars(name):
    display = RelevanceDisplay.from_relevance(dated(calendar(name)))
    assert [ax.get_title() for ax in display.axes_.ravel()] == [
        *("January 1998", "February 1998", "March 1998"),
    ]


def test_titles_of_single_fields_months_that_say_so_and_years():
    days = np.array(["1997-12-01", "1998-01-01"], "M8[ns]")

    def title(field):
        return RelevanceDisplay.from_relevance(field).axes_[0, 0].get_title()

    assert title(dated(days)[0]) == "1997-12-01"  # a month, or its first day
    assert title(dated(days, avg_period="0000-01-00 00:00:00")[0]) == "December 1997"
    assert title(dated(np.array(["1997-12", "1998-01"]))) == "December 1997"
    assert title(dated(np.array([1997, 1998])).rename(time="year")) == "1997"
    assert title(dated(np.array([0, 1]))) == "sample 0"  # no dates
    missing = np.array(["NaT", "1998-01-01"], "M8[ns]")
    assert title(dated(missing)) == "sample 0"
    # What all samples share, such as the height of CMIP's fields, names none of them.
    assert title(dated(days).assign_coords(height=2.0)[0]) == "1997-12-01"
    assert title(dated(days).assign_coords(member=3)[0]) == "member 3, 1997-12-01"
    assert title(dated(days).mean("time")) == ""
    # Dates of steps are no samples'.
    steps = dated(days).rename(time="step_time").expand_dims("run").isel(lat=0, lon=0, drop=True)
    assert title(steps) == "sample 0"


def test_titles_tell_members_and_stations_apart():
    pd = pytest.importorskip("pandas")
    xr = pytest.importorskip("xarray")
    days = np.array(["1997-12-16", "1997-12-17"], "M8[ns]")
    fields = xr.concat([dated(days), dated(days)], "member").assign_coords(member=[4, 7])
    stacked = fields.stack(sample=("member", "time")).transpose("sample", ...)
    display = RelevanceDisplay.from_relevance(stacked)
    assert [ax.get_title() for ax in display.axes_.ravel()] == [
        *("member 4, 1997-12-16", "member 4, 1997-12-17"),
        *("member 7, 1997-12-16", "member 7, 1997-12-17"),
    ]
    index = pd.MultiIndex.from_product([["A", "B"], days[:1]], names=["station", "time"])
    names = name_samples(pd.DataFrame({"x": [1, 2]}, index=index), 2)
    assert names == ["station A, 1997-12-16", "station B, 1997-12-16"]


def test_titles_of_what_pandas_knows():
    pd = pytest.importorskip("pandas")

    def names(index):
        return name_samples(pd.DataFrame({"x": range(len(index))}, index=index), len(index))

    assert names(pd.period_range("1997-12", periods=2, freq="M")) == [
        *("December 1997", "January 1998"),
    ]
    assert names(pd.period_range("1997", periods=1, freq="Y")) == ["1997"]
    assert names(pd.period_range("1997-12-16", periods=1, freq="D")) == ["1997-12-16"]
    berlin = pd.date_range("1997-12-16 06:00", periods=1, tz="Europe/Berlin")
    assert names(berlin) == ["1997-12-16 06:00"]
    assert names(pd.CategoricalIndex(pd.to_datetime(["1997-12-16"]))) == ["1997-12-16"]
    assert names(pd.RangeIndex(2)) is None
    assert names(pd.Index(["a", "b"])) is None


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ([0.5, -2.0], "a weighted sum of outputs"),
        ([True, False], "sum of the outputs [0]"),
        ([0, 1, 1], "the classes given as target"),
    ],
)
def test_captions_of_outputs_without_labels(target, said):
    X = np.random.default_rng(0).normal(size=(3, 4)).astype("f4")
    display = RelevanceDisplay.from_estimator(torch.nn.Linear(4, 2), X, target=target)
    assert display.unit == f"relevance for {said} (logits)"


def test_samples_by_name_are_those_of_the_maps():
    maps = np.random.default_rng(0).normal(size=(3, 4))
    named = {"gamma": maps, "epsilon": maps}
    with pytest.raises(ValueError, match=r"no samples for the maps 'epsilon', only \['gamma'\]"):
        RelevanceDisplay.from_relevance(named, {"gamma": maps})
    with pytest.raises(ValueError, match="X is a dict, but relevance is one array"):
        RelevanceDisplay.from_relevance(maps, {"gamma": maps})


@pytest.mark.parametrize("text", [["1997-13", "1997-14"], ["1997-02-31", "1997-03-01"]])
def test_titles_of_digits_that_are_no_dates(text):
    pd = pytest.importorskip("pandas")
    index = pd.Index(text, name="time")
    assert name_samples(pd.DataFrame({"x": [1, 2]}, index=index), 2) is None


@pytest.mark.parametrize("zone", [None, "UTC"])
def test_titles_where_a_date_is_missing(zone):
    pd = pytest.importorskip("pandas")
    index = pd.DatetimeIndex(["1997-12-16", pd.NaT], tz=zone, name="time")
    months = index.tz_localize(None).to_period("M")
    for own in (index, index.astype(object), months):
        assert name_samples(pd.DataFrame({"x": [1, 2]}, index=own), 2) is None


def test_titles_of_estimators_have_the_dates_of_their_samples():
    pd = pytest.importorskip("pandas")
    xr = pytest.importorskip("xarray")
    times = xr.date_range("1997-12-01", periods=12, freq="MS")
    field = dated(times)
    net = MLPClassifier((4,), max_epochs=1, random_state=0)
    pipeline = make_pipeline(GridVectorizer(), net).fit(field, np.arange(12) % 2)
    turned = field.transpose("lat", "time", "lon")
    for X in (field[:2], turned[:, :2]):
        display = RelevanceDisplay.from_estimator(pipeline, X)
        dates = [ax.get_title().partition(":")[0] for ax in display.axes_.ravel()]
        assert dates == ["December 1997", "January 1998"]
    relevance = sklrp.geo.explain(pipeline, field)
    display = RelevanceDisplay.from_relevance(relevance[1:3])
    assert [ax.get_title() for ax in display.axes_.ravel()] == ["January 1998", "February 1998"]
    table = pd.DataFrame(field.values.reshape(12, 12), index=times)
    table.columns = [f"cell {i}" for i in range(12)]
    net.fit(table, np.arange(12) % 2)
    display = RelevanceDisplay.from_estimator(net, table[:2])
    assert display.axes_[1, 0].get_title().startswith("January 1998: class ")


# Axes that are given, and what is refused


def test_given_axes(maps):
    figure, axes = plt.subplots(1, 2)
    display = RelevanceDisplay.from_relevance(maps[:2], ax=axes)
    assert display.figure_ is figure
    assert display.axes_.ravel().tolist() == axes.tolist()
    display.plot(limits="panel")  # once more, in a figure of its own
    assert display.figure_ is not figure


@pytest.mark.sweep(1)
@pytest.mark.parametrize("kind", ["fields", "tables", "constrained"])
def test_captions_do_not_meet_titles_below(maps, kind):
    """On given axes, which are as close as matplotlib puts them, unless an engine spaces them."""
    engine = "constrained" if kind == "constrained" else None
    figure, axes = plt.subplots(3, 2, figsize=(9, 9), layout=engine)
    values = maps[:3].reshape(3, -1) if kind == "tables" else maps[:3]
    options = {"labels": ["one", "two", "three"], "unit": "relevance in units of the model"}
    RelevanceDisplay.from_relevance({"first": values, "second": values}, ax=axes, **options)
    figure.draw_without_rendering()
    for above, below in zip(axes[:-1].ravel(), axes[1:].ravel(), strict=True):
        assert above.get_tightbbox().y0 >= below.get_tightbbox().y1
    if kind == "fields":  # panels of a row stay alike
        left, right = [[ax.get_position().height for ax in column] for column in axes.T]
        np.testing.assert_allclose(left, right)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"kind": "median"}, r"kind must be one of .*, got 'median'"),
        ({"kind": "class_mean"}, "kind='class_mean' needs to know the class"),
        ({"layout": "cube"}, r"layout must be one of .*, got 'cube'"),
        ({"channels": "middle"}, r"channels must be one of \('first', 'last'\), got 'middle'"),
        ({"shape": (5, 5)}, r"cannot take the shape \(5, 5\): they have 12 values"),
        ({"normalize": "l2"}, r"normalize must be one of .*, got 'l2'"),
        ({"limits": "row"}, r"'limits' parameter .* Got 'row'"),
        ({"limits": None}, "'limits' parameter .* Got None"),
        ({"limits": -1.0}, "'limits' parameter .* Got -1.0"),
        ({"clip": 1.0}, r"clip must be in \[0, 1\)"),
        ({"clip": 0.1, "limits": 2.0}, "clip=0.1 has no effect on limits=2.0"),
        (
            {"lat": LAT, "lon": np.array([-175.0, -170.0, 170.0, 175.0])},
            r"got \[-175. -170.  170.  175.\]: .* across the date line by lon % 360",
        ),
        ({"n_features": 0}, "n_features must be at least 1, got 0"),
        (
            {"contours": True},
            "contours=True and show_input=False draw the input of fields: pass X",
        ),
        ({"lat": LAT}, "lat and lon go together"),
        ({"lat": LAT[:2], "lon": LON}, r"lat must hold the centres of 3 cells, .* \(2,\)"),
        ({"lat": LAT * 10, "lon": LON}, "lat must be within -90 and 90, got up to 100"),
        ({"lat": LAT[[0, 2, 1]], "lon": LON}, "lat must rise or fall from cell to cell"),
        ({"lat": LAT, "lon": LON * np.nan}, "lon has NaN"),
        ({"land": np.zeros((4, 3))}, r"land has the shape \(4, 3\), but samples are of \(3, 4\)"),
        ({"land": np.full((3, 4), 0.5)}, "land must be a boolean array"),
        ({"outline": np.zeros((4, 4))}, r"outline has the shape \(4, 4\), but fields"),
        ({"steps": np.arange(4)}, "steps are of sequences"),
        ({"labels": [0, 1]}, "labels must hold one label for each of 6 samples"),
        ({"X": np.zeros((6, 4, 3))}, r"X must have the shape of relevance, \(6, 3, 4\)"),
        ({"layout": "table", "lat": LAT, "lon": LON}, "lat, lon, land and outline are of fields"),
        ({"layout": "table", "feature_names": ["a"]}, "feature_names must hold 12 names, got 1"),
        ({"layout": "sequence", "steps": np.zeros(4)}, "steps must hold 4 rising values"),
    ],
)
def test_malformed_parameters(maps, params, message):
    with pytest.raises(ValueError, match=message):
        RelevanceDisplay.from_relevance(maps, **params)


@pytest.mark.parametrize(
    ("relevance", "message"),
    [
        (np.zeros(4), r"relevance must be an array of shape \(n_samples, ...\)"),
        (np.zeros((0, 3, 4)), "at least one value"),
        (np.full((2, 3), "a"), "must hold real numbers"),
        (np.full((2, 3, 4), np.inf), "has infinite values"),
        (np.full((2, 3, 4), np.nan), "no value but NaN"),
        (np.array([[1.0, np.nan]]), "relevance of a table has NaN"),
        (np.zeros((2, 2, 2, 2, 2)), r"samples of shape \(2, 2, 2, 2\) are no field"),
        (np.zeros((61, 3, 4)), "61 panels are too many"),
        ({}, "relevance is empty"),
        ({"a": np.zeros((2, 3)), "b": np.zeros((1, 3))}, r"same samples, got \[2, 1\] of them"),
    ],
)
def test_malformed_relevance(relevance, message):
    with pytest.raises(ValueError, match=message):
        RelevanceDisplay.from_relevance(relevance)


def test_malformed_estimators():
    X, y = make_samples()
    for axes in (plt.figure().add_subplot(), plt.figure().subplots(1, 3)):
        with pytest.raises(ValueError, match="ax must hold 2 Axes, one for each panel"):
            RelevanceDisplay.from_estimator(Drawn(), X[:2], ax=axes)
    with pytest.raises(TypeError, match="StandardScaler does not explain itself"):
        RelevanceDisplay.from_estimator(StandardScaler(), X)
    with pytest.raises(ValueError, match="y must hold one label for each of 6 samples"):
        RelevanceDisplay.from_estimator(Drawn(), X, y[:2])
    with pytest.raises(ValueError, match="only one may be several"):
        RelevanceDisplay.from_estimator([Drawn(), MLPClassifier()], X, rule=["a", "b"])
    with pytest.raises(ValueError, match="estimator holds 'Drawn' twice"):
        RelevanceDisplay.from_estimator([Drawn(), Drawn(2)], X)
    with pytest.raises(ValueError, match="rule is empty"):
        RelevanceDisplay.from_estimator(Drawn(), X, rule=[])
    with pytest.raises(ValueError, match="target='all' gives a map for each class"):
        RelevanceDisplay.from_estimator(Drawn(), X, target="all")


# Pixel flipping


def test_flipping_curve():
    X = np.random.default_rng(0).normal(size=(5, 6))
    curve = pixel_flipping_curve(lambda X: X.sum(axis=1), X, X, steps=3, random_state=0)
    display = PixelFlippingDisplay.from_curve(curve, score_name="sum (K)", replaced="cells")
    for order in ("most", "least", "random"):
        line = display.lines_["", order]
        np.testing.assert_allclose(line.get_xdata(), curve.fraction)
        np.testing.assert_allclose(line.get_ydata(), curve[order].mean(axis=0))
    error = curve.most.std(axis=0, ddof=1) / np.sqrt(5)
    band = display.bands_["", "most"].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx((curve.most.mean(axis=0) + error).max())
    assert band[:, 1].min() == pytest.approx((curve.most.mean(axis=0) - error).min())
    assert display.ax_.get_ylabel() == "sum (K)"
    assert display.ax_.get_xlabel() == "cells replaced"
    assert display.ax_.get_title() == "mean over 5 samples, ± 1 standard error"
    colors = {line.get_color() for line in display.lines_.values()}
    assert len(colors) == 3


def test_flipping_of_a_single_sample_has_no_band():
    X = np.ones((1, 3))
    curve = pixel_flipping_curve(lambda X: X.sum(axis=1), X, X, orders=("most",))
    display = PixelFlippingDisplay.from_curve({"any": curve})
    assert display.bands_ == {}
    assert display.ax_.get_title() == "1 sample"


def test_flipping_of_estimators():
    X = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    net = make_pipeline(StandardScaler(), MLPClassifier((4,), max_epochs=1, random_state=0))
    net.fit(X, X[:, 0] > 0)
    _, ax = plt.subplots()
    display = PixelFlippingDisplay.from_estimator(
        net, X, rule=["epsilon", "z_plus"], random_state=0, ax=ax, steps=5
    )
    assert display.ax_ is ax
    assert set(display.lines_) == {
        ("epsilon", "most"),
        ("epsilon", "least"),
        ("epsilon", "random"),
        ("z_plus", "most"),
        ("z_plus", "least"),
    }
    scaled = net[0].transform(X)
    expected = pixel_flipping_curve(
        net[-1], scaled, net[-1].explain(scaled, rule="z_plus"), steps=5, random_state=0
    )
    np.testing.assert_allclose(display.curves["z_plus"].most, expected.most)
    assert ax.get_ylabel() == "logit of the explained class minus the other's"
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert "z_plus: most relevant first" in labels
    assert labels[-1] == "random order"
    display = PixelFlippingDisplay.from_estimator(
        net, X, orders=("most",), response="predict_proba", groups=[0, 0, 1, 1, 1]
    )
    assert list(display.lines_) == [("auto", "most")]
    assert display.ax_.get_ylabel() == "probability of the explained class"
    assert display.ax_.get_xlabel() == "groups of features replaced"


@pytest.mark.sweep(3)
@pytest.mark.parametrize("name", [*models.MODELS, *models.SINGLE])
def test_flipping_of_any_model(name):
    """The curves are those of the bare network inside, for what enters it."""
    kind = models.make(name)
    params = {"random_state": 0, "steps": 2, "orders": ("most",)}
    display = PixelFlippingDisplay.from_estimator(
        kind.model, take_rows(kind.X, slice(5)), **params
    )
    entered = kind.entered[:5]
    expected = pixel_flipping_curve(
        kind.network, entered, sklrp.explain(kind.network, entered), **params
    )
    np.testing.assert_allclose(display.curves["auto"].most, expected.most, rtol=1e-4, atol=1e-5)
    what = "logit" if unwrap(kind.model).has_explain else "output"
    of_what = "network" if kind.labels is None else "explained class"
    assert display.ax_.get_ylabel() == f"{what} of the {of_what}"


@pytest.mark.parametrize("curve", [{}, {"a": {"most": [1]}}])
def test_no_flipping_curve(curve):
    with pytest.raises(ValueError, match="curve must be what pixel_flipping_curve returns"):
        PixelFlippingDisplay.from_curve(curve)


# History


def test_history():
    history = [{"train_loss": 1 / n, "valid_loss": abs(n - 3) + 0.5} for n in range(1, 6)]
    display = HistoryDisplay.from_history(history)
    np.testing.assert_allclose(display.lines_["train"].get_xydata()[1], [2, 0.5])
    assert display.lines_["valid"].get_ydata()[2] == 0.5
    assert display.best_.get_xdata()[0] == 3
    assert display.ax_.get_yscale() == "linear"
    steep = HistoryDisplay.from_history([{"train_loss": 10.0**-n} for n in range(3)])
    assert steep.ax_.get_yscale() == "log"
    assert steep.best_ is None
    lost = HistoryDisplay.from_history([{"train_loss": 1.0, "valid_loss": np.nan}] * 2)
    assert lost.best_ is None


def test_history_of_estimators():
    X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    net = MLPClassifier((4,), max_epochs=3, random_state=0, early_stopping=True)
    pipeline = make_pipeline(StandardScaler(), net).fit(X, X[:, 0] > 0)
    display = HistoryDisplay.from_estimator(pipeline)
    np.testing.assert_allclose(
        display.lines_["valid"].get_ydata(), [e["valid_loss"] for e in pipeline[-1].history_]
    )
    model = copy.deepcopy(models.make("pipeline with a skorch net").model)
    net = unwrap(model).network.set_params(max_epochs=2)
    net.partial_fit(model[:-1].transform(models.X), np.arange(60) % 3)
    display = HistoryDisplay.from_estimator(model)
    np.testing.assert_allclose(display.lines_["train"].get_ydata(), net.history[:, "train_loss"])
    with pytest.raises(TypeError, match="Sequential has no history_"):
        HistoryDisplay.from_estimator(torch.nn.Sequential(torch.nn.Linear(2, 2)))
    esn = ESNClassifier(10, random_state=0).fit(X, X[:, 0] > 0)
    with pytest.raises(TypeError, match="ESNClassifier has no history_"):
        HistoryDisplay.from_estimator(esn)
    with pytest.raises(ValueError, match="history must have a train_loss for each epoch, got 0"):
        HistoryDisplay.from_history([])


# Findings


@pytest.mark.parametrize("name", ["fading", "border", "grid"])
def test_profiles_with_marks(name):
    profile = np.array([1.0, 5, 1, 1, 4, 1, 1, 5, 1, 1]) / 21  # peaks at 1, 4, 7
    entries = {"profiles": (np.ones(6) / 6, profile), "axis": 1, "period": 3}
    entries |= {"input_profiles": entries["profiles"], "null_profiles": entries["profiles"]}
    finding = Finding(name=name, verdict="artifact", statistic=40.0, null=[2.0, 3.0], **entries)
    display = ArtifactDisplay.from_finding(finding)
    row, column = display.axes_
    assert row.get_xlabel() == "row (axis 0 of a sample)"
    assert column.get_xlabel() == "column (axis 1 of a sample)"
    assert row.get_title(loc="left") == f"{name}: artifact"
    np.testing.assert_array_equal(display.artists_["map1"].get_ydata(), profile)
    if name == "fading":
        assert "marks" not in display.artists_
        return
    marks = display.artists_["marks"]
    assert all(mark.axes is column for mark in marks)
    period = "period 3: " if name == "grid" else ""
    assert column.get_title(loc="right") == f"{period}40, untrained 2.5"
    if name == "border":
        assert [(m.get_x(), m.get_x() + m.get_width()) for m in marks] == [(-0.5, 1.5), (7.5, 9.5)]
    else:
        assert [mark.get_xdata()[0] for mark in marks] == [1, 4, 7]


@pytest.mark.parametrize("rows", [True, False])
def test_findings_of_fields_have_land_and_degrees(maps, rows):
    land = np.zeros((3, 4), dtype=bool)
    land[1, 1] = True
    mean = maps[0][~land] if rows else maps[0]
    grades = ("fact", "missed", "unsupported", "misleading")
    masks = dict.fromkeys(grades, np.zeros(mean.shape, dtype=bool)) | {"fact": mean > 0}
    masses = {"mass": 0.5, "input_mass": 0.2, "null_mass": np.array([0.2, 0.3])}
    finding = Finding(
        name="artifact_map",
        verdict="fact",
        mean=mean,
        skill=2 * mean,
        causes={},
        power=0.9,
        **masks,
        **masses,
    )
    display = ArtifactDisplay(finding, lat=LAT, lon=LON, land=land).plot()
    for name, values in (("mean", maps[0]), ("skill", 2 * maps[0])):
        shown = np.ma.filled(display.artists_[name].get_array().astype(float), np.nan)
        np.testing.assert_array_equal(shown, np.where(land, np.nan, values))
    assert display.axes_[0].get_ylim() == (-15, 15)


def test_findings_of_a_vectorizer(maps):
    xr = pytest.importorskip("xarray")
    coords = {"time": np.arange(6), "lat": LAT, "lon": LON}
    field = xr.DataArray(maps.copy(), coords, dims=("time", "lat", "lon"))
    field[:, 0, 1] = np.nan
    net = MLPClassifier((4,), max_epochs=1, random_state=0)
    pipeline = make_pipeline(GridVectorizer(), net).fit(field, [0, 1] * 3)
    display = ArtifactDisplay.from_estimator(
        pipeline, field, [0, 1] * 3, n_permutations=5, alpha=0.4, random_state=0
    )
    np.testing.assert_array_equal(display.lat, LAT)
    assert np.ma.getmaskarray(display.artists_["mean"].get_array()).sum() == 1
    moved = ArtifactDisplay(display.finding, lat=LAT + 1, lon=LON)  # land stays, and degrees
    np.testing.assert_array_equal(moved.land, display.land)
    np.testing.assert_array_equal(moved.lat, LAT + 1)
    other = np.zeros((3, 4), dtype=bool)
    given = ArtifactDisplay(display.finding, land=other)
    np.testing.assert_array_equal(given.lat, LAT)
    assert not given.land.any()


@pytest.mark.slow
def test_matplotlib_is_imported_only_when_drawing():
    code = "import sys, sklrp.plotting; assert not any('matplotlib' in m for m in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
