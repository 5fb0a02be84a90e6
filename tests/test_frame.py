"""Frames: what a sample is, for every source that knows it."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.compose import ColumnTransformer
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sklrp import CNNClassifier, LSTMClassifier, MLPClassifier, geo
from sklrp._frame import frame_of, make_frame
from sklrp._models import unwrap
from sklrp.datasets import load_pacific_sst
from sklrp.geo import GridVectorizer
from sklrp.geo.places import read_grid

LAT, LON = np.array([-10.0, 0.0, 10.0]), np.array([170.0, 180.0, 190.0, 200.0])
Y = [0, 1] * 3


@pytest.fixture
def maps():
    return np.random.default_rng(0).normal(size=(6, 3, 4))


@pytest.fixture
def field(maps):
    xr = pytest.importorskip("xarray")
    coords = {"time": np.arange(6), "lat": LAT, "lon": LON}
    field = xr.DataArray(maps.copy(), coords, dims=("time", "lat", "lon"), name="sst")
    field[:, 0, 1] = np.nan
    return field


def mlp():
    return MLPClassifier((3,), max_epochs=1, random_state=0)


def look(model, X, **params):
    """Return the frame of a model's samples, and what enters its network."""
    model = unwrap(model)
    entering = model.enter(X)
    return frame_of(model, X, entering, **params), np.asarray(entering)


# Fields


@pytest.mark.parametrize("frozen", [True, False])
def test_a_vectorizer_is_found_in_a_step_that_holds_it(field, frozen):
    field[1, 2, 2] = np.nan  # in one sample: rows do not hold the cells of the field alone
    steps = make_pipeline(GridVectorizer(missing="drop"), StandardScaler()).fit(field)
    model = make_pipeline(FrozenEstimator(steps) if frozen else steps, mlp()).fit(field, Y)
    plain = make_pipeline(*steps, model[-1])
    frame, entering = look(model, field)
    assert frame.land.sum() == 2
    np.testing.assert_array_equal(frame.latitude, LAT)
    np.testing.assert_array_equal(entering, plain[:-1].transform(field))
    np.testing.assert_array_equal(geo.explain(model, field), geo.explain(plain, field))


@pytest.mark.parametrize("layout", ["features", "grid"])
@pytest.mark.parametrize("order", [("time", "lat", "lon"), ("time", "lon", "lat")])
@pytest.mark.parametrize("scale", [True, False])
def test_fields_behind_a_vectorizer(field, layout, order, scale):
    """Maps are latitude by longitude, whatever the order of the data and the steps behind."""
    field = field.transpose(*order)
    steps = [GridVectorizer(layout=layout)]
    net = mlp() if layout == "features" else CNNClassifier((2,), max_epochs=1)
    if scale and layout == "features":
        steps.append(StandardScaler(with_mean=False, with_std=False))
    pipeline = make_pipeline(*steps, net).fit(field, Y)
    frame, entering = look(pipeline, field)
    assert frame.layout == "field"
    np.testing.assert_array_equal(frame.latitude, LAT)
    np.testing.assert_array_equal(frame.longitude, LON)
    expected = field.transpose("time", "lat", "lon").values
    np.testing.assert_array_equal(frame.bring(entering), expected)
    np.testing.assert_array_equal(frame.land, np.isnan(expected[0]))
    assert frame.axes == ((11,) if layout == "features" else field.shape[1:])
    names = {"time": "", "lat": "latitude", "lon": "longitude"}
    if layout == "grid":
        assert frame.axis_names == tuple(names[dim] for dim in order[1:])
    else:
        assert frame.axis_names == ("feature",)


@pytest.mark.parametrize("layout", ["features", "grid"])
def test_several_variables_are_channels(field, layout):
    xr = pytest.importorskip("xarray")
    ssh = -field.fillna(1.0)
    ssh[:, 0, 1:3] = np.nan
    data = xr.Dataset({"sst": field, "ssh": ssh})
    net = mlp() if layout == "features" else CNNClassifier((2,), max_epochs=1)
    pipeline = make_pipeline(GridVectorizer(layout=layout), net).fit(data, Y)
    frame, entering = look(pipeline, data)
    assert frame.n_channels == 2
    kept = frame.bring(entering, "keep")
    both = np.isnan(field.values[0]) & np.isnan(ssh.values[0])
    np.testing.assert_array_equal(frame.land, both)
    filled = field.where(field.notnull(), np.nan if layout == "features" else 0)
    np.testing.assert_array_equal(kept[:, 0], np.where(both, np.nan, filled))
    np.testing.assert_array_equal(
        frame.bring(entering)[:, 0, 2], field.values[:, 0, 2]
    )  # where the second is missing


def test_fields_of_xarray(field):
    whole = field.fillna(0)
    for given in (whole, whole.transpose("time", "lon", "lat"), whole[:, ::-1]):
        net = CNNClassifier((2,), max_epochs=1).fit(given, Y)
        frame, entering = look(net, given)
        np.testing.assert_array_equal(frame.longitude, LON)
        expected = given.transpose("time", "lat", "lon")
        np.testing.assert_array_equal(frame.latitude, expected.lat)
        np.testing.assert_array_equal(frame.bring(entering), expected)
        assert frame.land is None
    fill = FunctionTransformer(lambda X: X.fillna(0).values)
    pipeline = make_pipeline(fill, CNNClassifier((2,), max_epochs=1)).fit(field, Y)
    frame, _ = look(pipeline, field)
    np.testing.assert_array_equal(frame.land, np.isnan(field[0]))


def test_arrays_of_load_pacific_sst():
    sst = load_pacific_sst(fill_land=0.5)
    X, y = sst.data[::2], sst.target[::2]
    scale = make_pipeline(StandardScaler(), mlp())
    flat = make_pipeline(FunctionTransformer(lambda X: np.asarray(X).reshape(len(X), -1)), mlp())
    ocean = make_pipeline(FunctionTransformer(lambda X: np.asarray(X)[:, ~sst.land_mask]), mlp())
    channel = make_pipeline(FunctionTransformer(lambda X: X[:, np.newaxis]), CNNClassifier((2,)))
    for model in (mlp(), CNNClassifier((2,)), LSTMClassifier(2), channel, flat, ocean):
        model.set_params(**{n: 1 for n in model.get_params() if n.endswith("max_epochs")})
        frame, entering = look(model.fit(X, y), X)
        np.testing.assert_array_equal(frame.latitude, sst.latitude)
        np.testing.assert_array_equal(frame.longitude, sst.longitude)
        np.testing.assert_array_equal(frame.land, sst.land_mask)
        expected = np.where(sst.land_mask, np.nan, X)
        np.testing.assert_array_equal(frame.bring(entering), expected)
    rows = X.reshape(len(X), -1)
    frame, _ = look(scale.fit(rows, y), rows)
    assert frame.layout == "table"
    frame, _ = look(scale, rows, grid=sst)
    np.testing.assert_array_equal(frame.land, sst.land_mask)
    assert frame.take_mask(sst.nino34_mask).sum() == 20


@pytest.mark.parametrize("kind", ["vectorizer", "field", "bunch", "pair"])
def test_a_grid_that_is_given(field, kind):
    from sklearn.utils import Bunch

    rows = field.values[:, ~np.isnan(field.values[0])]
    land = np.isnan(field.values[0])
    grid = {
        "vectorizer": GridVectorizer().fit(field),
        "field": field,
        "bunch": Bunch(latitude=LAT, longitude=LON, land_mask=land),
        "pair": (LAT, LON),
    }[kind]
    net = mlp().fit(rows, Y)
    params = {"land": land} if kind == "pair" else {}
    frame, entering = look(net, rows, grid=grid, **params)
    np.testing.assert_array_equal(frame.bring(entering), field)
    assert frame.has_degrees
    with pytest.raises(ValueError, match=r"fields, but samples are drawn as a table"):
        look(mlp().fit(rows[:, :5], Y), rows[:, :5], grid=grid, **params)


def test_features_that_are_moved_have_no_place(field):
    from sklearn.decomposition import PCA

    pipeline = make_pipeline(GridVectorizer(), PCA(2), mlp()).fit(field, Y)
    frame, _ = look(pipeline, field)
    assert frame.layout == "table"
    assert frame.names == ["pca0", "pca1"]


def test_what_a_frame_hides(field):
    frame, entering = look(
        make_pipeline(GridVectorizer(layout="grid", fill_value=1.0), mlp()).fit(field, Y), field
    )
    on_land = np.abs(entering[:, 0, 1]).sum() / np.abs(entering).sum()
    assert frame.share_on_land(entering) == pytest.approx(on_land)
    assert np.isnan(frame.bring(entering)[:, 0, 1]).all()
    assert not np.isnan(frame.bring(entering, hide=False)).any()


def test_frames_are_plain_values(field):
    frame, entering = look(make_pipeline(GridVectorizer(), mlp()).fit(field, Y), field)
    copy = pickle.loads(pickle.dumps(frame))
    np.testing.assert_array_equal(copy.bring(entering), frame.bring(entering))
    assert repr(copy) == "<Frame: field of shape (3, 4), 1 cells of land, in degrees>"


# Images, sequences, tables


def test_rows_of_a_classifier_are_images(maps):
    rows = maps.reshape(6, 12)
    net = CNNClassifier((2,), input_shape=(1, 3, 4), max_epochs=1).fit(rows, Y)
    for model in (net, GridSearchCV(net, {"lr": [0.1]}, cv=2).fit(rows, Y)):
        frame, _ = look(model, rows)
        assert (frame.layout, frame.axes, frame.has_positions) == ("field", (3, 4), True)
        np.testing.assert_array_equal(frame.bring(rows), maps)
        assert frame.axis_names == ("row", "column")


def test_series_are_signals():
    X = np.random.default_rng(0).normal(size=(6, 36)).astype(np.float32)
    net = CNNClassifier((2,), input_shape=(3, 12), max_epochs=1).fit(X, Y)
    frame, _ = look(net, X, feature_names=["u", "v", "w"])
    assert (frame.layout, frame.axes, frame.names) == ("sequence", (3, 12), ["u", "v", "w"])
    assert frame.axis_names == ("variable", "step")
    np.testing.assert_array_equal(frame.bring(X), X.reshape(6, 3, 12))
    net = LSTMClassifier(2, input_shape=(12, 3), max_epochs=1).fit(X, Y)
    frame, _ = look(net, X)
    assert (frame.layout, frame.axis_names) == ("sequence", ("step", "variable"))
    np.testing.assert_array_equal(frame.bring(X), X.reshape(6, 12, 3).transpose(0, 2, 1))
    frame, _ = look(LSTMClassifier(2, max_epochs=1).fit(X, Y), X)
    assert (frame.layout, frame.axes, frame.has_positions) == ("sequence", (36,), True)
    frame, _ = look(LSTMClassifier(2, input_shape=(6, 6), max_epochs=1).fit(X, Y), X)
    assert frame.layout == "field"


def test_bare_modules():
    conv = torch.nn.Sequential(torch.nn.Conv1d(3, 2, 3), torch.nn.Flatten(), torch.nn.Linear(4, 2))
    X = np.zeros((2, 3, 4), dtype=np.float32)
    frame, _ = look(conv, X)
    assert (frame.layout, frame.axis_names) == ("sequence", ("variable", "step"))
    frame, _ = look(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)), X)
    assert frame.layout == "field"
    with pytest.raises(TypeError, match="takes several inputs"):
        frame_of(unwrap(conv), (X, X), (X, X))


def test_names_behind_a_column_transformer():
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(6, 3)), columns=["p", "q", "r"])
    columns = ColumnTransformer([("scale", StandardScaler(), ["q", "p"])])
    frame, _ = look(make_pipeline(columns, mlp()).fit(X, Y), X)
    assert frame.names == ["scale__q", "scale__p"]
    assert (frame.layout, frame.axes, frame.has_positions) == ("table", (2,), False)
    assert frame.axis_names == ("feature",)


# Masks


@pytest.mark.parametrize("layout", ["features", "grid"])
@pytest.mark.parametrize("order", [("time", "lat", "lon"), ("time", "lon", "lat")])
def test_masks_of_fields(field, layout, order):
    """A mask of xarray lies by its coordinates, an array in the order of the samples' axes."""
    data = field.transpose(*order)
    net = mlp() if layout == "features" else CNNClassifier((2,), max_epochs=1)
    frame, entering = look(make_pipeline(GridVectorizer(layout=layout), net).fit(data, Y), data)
    mask = field[0].copy(data=np.arange(12).reshape(3, 4) % 3 == 0)
    expected = frame.take_mask(mask)
    assert expected.shape == entering.shape[1:]
    there = np.where(np.isnan(field[0]), False, mask)
    np.testing.assert_array_equal(frame.bring(expected[np.newaxis])[0] == 1, there)
    turned = mask.transpose("lon", "lat")[::-1, ::-1].assign_coords(lon=lambda m: m.lon - 360)
    own = mask.transpose(*order[1:]).values
    for given in (turned, own, expected, expected.astype(int), expected.ravel()):
        np.testing.assert_array_equal(frame.take_mask(given), expected)
    several = frame.take_mask(np.stack([own, ~own]))
    np.testing.assert_array_equal(several[0], expected)
    assert several.shape == (2, *entering.shape[1:])
    with pytest.raises(ValueError, match=r"mask has other latitudes than the samples"):
        frame.take_mask(mask.assign_coords(lat=LAT + 1))
    message = r"box has the shape \(5, 6\), but must have the shape of a sample, \(.*n_samples, "
    with pytest.raises(ValueError, match=message):
        frame.take_mask(np.zeros((5, 6)), "box")
    with pytest.raises(ValueError, match="box must hold booleans"):
        frame.take_mask(np.full(own.shape, 0.5), "box")


def test_masks_of_several_variables(field):
    xr = pytest.importorskip("xarray")
    data = xr.Dataset({"sst": field, "ssh": field.fillna(0.5)})
    frame, entering = look(make_pipeline(GridVectorizer(), mlp()).fit(data, Y), data)
    mask = np.zeros((3, 4), dtype=bool)
    mask[0, 1:3] = True
    found = frame.take_mask(mask)
    assert found.shape == entering.shape[1:] == (11 + 12,)
    assert found.sum() == 3  # the first cell has one variable alone
    np.testing.assert_array_equal(frame.take_mask(np.stack([mask, mask])), found)


# Arrays alone


def test_frames_of_arrays(maps):
    assert make_frame((4,)).layout == "table"
    assert make_frame((1, 4)).layout == "sequence"
    assert make_frame((3, 4)).layout == "field"
    assert make_frame((4,), layout="sequence").shape == (4,)
    frame = make_frame((3, 4, 2), channels="last")
    assert (frame.shape, frame.n_channels, frame.axis_names) == (
        (3, 4),
        2,
        ("row", "column", "channel"),
    )
    stack = np.stack([maps, np.full_like(maps, np.nan)], axis=-1)
    np.testing.assert_array_equal(frame.bring(stack, "mean"), maps)


def test_sources_without_a_grid():
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame({"latitude": [1.0, 2.0], "longitude": [3.0, 4.0]})
    for source in (table, np.zeros((2, 3)), None, [1, 2]):
        assert read_grid(source) is None
