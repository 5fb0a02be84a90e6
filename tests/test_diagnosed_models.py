"""Every kind of model is diagnosed, and findings know the grid of what was explained."""

import pickle

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.pipeline import make_pipeline
from sklearn.utils import Bunch
from skorch import NeuralNetClassifier, NeuralNetRegressor
from torch import nn

from sklrp import CNNClassifier, LSTMClassifier, MLPClassifier, explain
from sklrp.datasets import load_pacific_sst
from sklrp.diagnostics import (
    artifact_map,
    degeneracy,
    diagnose,
    equivariance_test,
    focus_curve,
    randomization_test,
)
from sklrp.diagnostics.explained import Explained
from sklrp.diagnostics.nulls import NULLS
from sklrp.diagnostics.other_networks import draw_null
from sklrp.diagnostics.report import CONVICT
from sklrp.geo import GridVectorizer, box_mask
from sklrp.plotting import ArtifactDisplay
from tests.helpers import models
from tests.helpers.comparing import assert_same_to_rounding

FEW = {"n_permutations": 3, "max_samples": 12, "random_state": 0}
CODES = np.arange(60) % 3
VALUES = models.SCALED @ [1.0, -1.0, 0.5, 0.0]
TRAINS = {"labels", "equivariance"}  # tests for which clones are trained


def truth(kind):
    return VALUES if kind.labels is None else kind.labels[CODES]


@pytest.mark.sweep(3)
@pytest.mark.parametrize("name", [*models.MODELS, *models.SINGLE])
def test_every_kind_of_model_is_diagnosed(name):
    """What is found is found of the bare network too, to the rounding of its precision."""
    kind = models.make(name)
    report = diagnose(kind.model, kind.X, truth(kind), **FEW)
    bare = kind.network
    expected = diagnose(bare, kind.entered, VALUES if kind.labels is None else CODES, **FEW)
    assert list(report.tests) == list(expected.tests)
    for test, found in report.tests.items():
        assert found.statistic == pytest.approx(
            expected.tests[test].statistic, rel=1e-3, abs=1e-4, nan_ok=True
        )
        assert found.frame.names == kind.names
    for name in ("mean", "skill"):
        assert_same_to_rounding(
            report.picture[name].astype(float), expected.picture[name].astype(float), 1e-3
        )
    assert report.assumptions == expected.assumptions


@pytest.mark.parametrize("name", models.REFUSED)
def test_what_is_no_model_is_refused(name):
    build, error, message = models.REFUSED[name]
    with pytest.raises(error, match=message):
        degeneracy(build(), models.SCALED)


@pytest.mark.sweep(2)
@pytest.mark.parametrize(
    "name",
    [
        "estimator",
        "estimator of a table",
        "skorch classifier",
        "skorch net in single precision",
        "pipeline of tables",
        "search in a pipeline",
        "one output: skorch regressor",
        "one output: pipeline with a skorch regressor",
    ],
)
def test_clones_are_trained_where_that_can_be(name):
    kind = models.make(name)
    torch_state = torch.get_rng_state()
    data = {"X_train": kind.X, "y_train": truth(kind)}
    one, other = (
        randomization_test(kind.model, kind.X, null="labels", **data, **FEW) for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert one.name == "labels"
    assert np.isfinite(one.statistic)
    assert one.statistic == other.statistic


@pytest.mark.sweep(1)
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("module", "Sequential has no fit"),
        ("frozen estimator", "a FrozenEstimator is not trained again"),
        ("pipeline with a frozen estimator", "a FrozenEstimator is not trained again"),
    ],
)
def test_tests_that_train_are_left_out_where_nothing_can_be_trained(name, reason, tmp_path):
    kind = models.make(name)
    data = {"X_train": kind.X[:48], "y_train": truth(kind)[:48]}
    report = diagnose(kind.model, kind.X[48:], truth(kind)[48:], n_refits=1, **data, **FEW)
    assert not TRAINS & set(report.tests)
    said = report.assumptions[-1]
    assert said.startswith("Tests that train clones were left out")
    assert reason in said
    assert said in repr(report)
    assert said in report.to_html(tmp_path / "report.html").read_text()
    for ask in (
        lambda: randomization_test(kind.model, kind.X, truth(kind), null="labels", **FEW),
        lambda: artifact_map(kind.model, kind.X, truth(kind), null="labels", **FEW),
    ):
        with pytest.raises(TypeError, match=f"null='labels' trains clones.*{reason}"):
            ask()


class ExplainedNet(NeuralNetClassifier):
    def explain(self, X, **params):
        return explain(self.module_, X, **params)


def test_a_net_that_explains_itself():
    net = models.make("skorch classifier").model
    own = ExplainedNet(net.module_, train_split=None, verbose=0).initialize()
    own.classes_inferred_ = models.INDICES
    one, other = (diagnose(model, models.SCALED, CODES, **FEW).tests for model in (own, net))
    for name, test in one.items():
        np.testing.assert_allclose(drawn_values(test), drawn_values(other[name]), rtol=1e-6)


def test_moves_of_what_cannot_be_trained():
    signals = np.random.default_rng(0).normal(size=(12, 3, 20))
    net = nn.Sequential(nn.Flatten(), nn.Linear(60, 2)).double()
    with pytest.raises(TypeError, match="refit=True trains clones"):
        equivariance_test(net, signals, np.arange(12) % 2)
    found = equivariance_test(net, signals, refit=False, random_state=0)
    assert found.similarity.shape == (3, 12)


def test_outputs_of_a_regression():
    """With several outputs one is chosen by its index, and `y` may hold one column for each."""
    kind = models.make("one output: skorch regressor")
    net = NeuralNetRegressor(nn.Sequential(nn.Linear(4, 2)).double(), max_epochs=50, verbose=0)
    values = np.stack([VALUES, -VALUES], axis=1)
    net.fit(models.SCALED, values)
    with pytest.raises(ValueError, match="a regression of 2 outputs: choose one by its index"):
        diagnose(net, models.SCALED, values, **FEW)
    report = diagnose(net, models.SCALED, values, target=1, **FEW)
    one = diagnose(net, models.SCALED, values[:, 1], target=1, **FEW)
    skilled = report.tests["skilled"]
    expected = np.corrcoef(net.predict(models.SCALED)[:, 1], -VALUES)[0, 1]
    assert skilled.statistic == pytest.approx(expected)
    assert one.tests["skilled"].statistic == skilled.statistic
    assert skilled.verdict == "fact"
    assert skilled.null == 0
    with pytest.raises(ValueError, match="one value for each of 60"):
        diagnose(net, models.SCALED, np.zeros((60, 3)), target=1)
    with pytest.raises(ValueError, match="y is constant"):
        diagnose(kind.model, kind.X, np.ones(60))


def test_labels_of_a_single_output():
    """Classes of one output are values 0 and 1, also as False and True; names are none."""
    kind, high = models.make("one output: skorch regressor"), VALUES > 0
    asked = [diagnose(kind.model, kind.X, y, **FEW) for y in (high, high.astype(float))]
    assert repr(asked[0]) == repr(asked[1])
    with pytest.raises(ValueError, match="y holds 'high', but the model has values as outputs"):
        diagnose(kind.model, kind.X, np.where(high, "high", "low"), **FEW)


def test_fields_of_values():
    """Targets may have the axes of a field; an output is chosen by its place in the row."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4, 5))
    net = nn.Sequential(nn.Flatten(), nn.Linear(20, 20)).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.eye(20))
    data = {"X_train": X[:20], "target": 7, "rule": "epsilon", "random_state": 0}
    report = diagnose(net, X[20:], X[20:], **data)
    assert report.tests["skilled"].verdict == "fact"
    np.testing.assert_array_equal(np.flatnonzero(report.picture.fact), [7])
    rows = diagnose(net, X[20:], X[20:].reshape(40, 20), **data)
    assert str(rows) == str(report)
    with pytest.raises(ValueError, match="one label for each of 40"):
        diagnose(net, X[20:], np.zeros((40, 3, 5)), **data)


def test_use_of_negative_values():
    """The map of a negative value is followed with its own sign: it names what lowers it."""
    net = nn.Sequential(nn.Linear(6, 1, bias=False)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[4.0, 0, 0, 0, 0, 0.1]]))
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 6))
    values = net(torch.from_numpy(X)).detach().numpy().ravel()
    assert 10 < np.count_nonzero(values < 0) < 30
    report = diagnose(net, X, values, rule="epsilon", n_permutations=5, random_state=0)
    assert report.tests["used"].verdict == "fact", report.tests["used"]
    assert report.tests["used"].statistic > 0.9


def test_several_inputs_are_refused():
    net = nn.Bilinear(2, 2, 2)
    with pytest.raises(TypeError, match="several inputs"):
        degeneracy(net, (np.ones((3, 2)), np.ones((3, 2))))


# Grids


@pytest.fixture(scope="module")
def fields():
    """Fields from south to north with land, an event in a box, and what comes of them."""
    xr = pytest.importorskip("xarray")
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    values = rng.normal(size=(40, 9, 12))
    values[:, 2:5, 3:7] += np.where(y == 1, 2.0, -2.0)[:, None, None]
    coords = {
        "time": np.arange(40),
        "lat": np.linspace(-20, 20, 9),
        "lon": np.arange(150, 270, 10),
    }
    data = xr.DataArray(values, coords, dims=("time", "lat", "lon"))
    land = np.zeros((9, 12), dtype=bool)
    land[6:, :2] = True
    return data.where(~xr.DataArray(land, dims=("lat", "lon"))), y, land


def mlp():
    return MLPClassifier((8,), max_epochs=20, random_state=0)


def check_picture(display, land=None):
    """A field is drawn north up, in degrees, with its land grey."""
    panel = display.axes_[0]
    panel.figure.canvas.draw()
    assert panel.get_ylim() == (-22.5, 22.5)
    assert {tick.get_text()[-1] for tick in panel.get_yticklabels()} <= {"N", "S", "°"}
    assert any(tick.get_text().endswith("W") for tick in panel.get_xticklabels())
    shown = display.artists_["mean"].get_array()
    assert shown.shape == (9, 12)
    if land is not None:
        np.testing.assert_array_equal(np.ma.getmaskarray(shown), land)
    plt.close("all")


@pytest.mark.slow
def test_fields_behind_a_pipeline(fields, tmp_path):
    data, y, land = fields
    pipeline = make_pipeline(GridVectorizer(), mlp()).fit(data, y)
    box = box_mask(data, lat=(-10, 0), lon=(180, 210))
    report = diagnose(pipeline, data, y, mask=box, **{**FEW, "n_permutations": 12})
    check_picture(report.plot(), land)
    check_picture(report.picture.plot(), land)
    check_picture(ArtifactDisplay.from_estimator(pipeline, data, y, n_permutations=3), land)
    assert isinstance(report.plot(), ArtifactDisplay)
    mean = report.picture.mean
    assert mean.shape == (9 * 12 - 6,)
    drawn = report.plot().artists_["mean"].get_array()
    np.testing.assert_array_equal(drawn[~land], mean)
    assert "data:image/png" in report.to_html(tmp_path / "report.html").read_text()
    mask = report.tests["mask"]
    assert mask.verdict == "fact"
    for same in (box.values, box[::-1], box.transpose(), box.values[~land]):
        found = diagnose(pipeline, data, y, mask=same, **FEW).tests["mask"]
        assert found.statistic == mask.statistic
    with pytest.raises(ValueError, match=r"mask has the shape \(5, 6\)"):
        diagnose(pipeline, data, y, mask=np.ones((5, 6), dtype=bool))


@pytest.mark.slow
def test_fields_that_know_their_grid_and_arrays_that_are_told(fields):
    data, y, land = fields
    filled = data.fillna(0.0)
    clf = mlp().fit(filled.values, y)
    vectorizer = GridVectorizer().fit(data)
    bunch = Bunch(latitude=data.lat.values, longitude=data.lon.values, land_mask=land)
    for X, options, hidden in [
        (filled, {}, None),
        (filled.values, {"grid": (data.lat.values, data.lon.values)}, None),
        (filled.values, {"grid": data}, land),
        (filled.values, {"grid": bunch}, land),
        (filled.values, {"grid": vectorizer}, land),
    ]:
        report = diagnose(clf, X, y, **FEW, **options)
        check_picture(report.plot(), hidden)
        profiles = report.tests["fading"].plot()
        assert profiles.axes_[0].get_xlabel() == "latitude (axis 0 of a sample)"
        profiles.figure_.canvas.draw()
        assert profiles.axes_[0].get_xticklabels()[1].get_text() == "20°S"
        check_picture(artifact_map(clf, X, y, **FEW, **options).plot(), hidden)
        plt.close("all")


@pytest.mark.parametrize("grid", ["north", np.zeros((9, 12)), GridVectorizer])
def test_what_is_no_grid_is_refused(fields, grid):
    data, y, _ = fields
    clf = mlp().fit(data.fillna(0.0).values, y)
    with pytest.raises(ValueError, match="grid must be a fitted GridVectorizer"):
        degeneracy(clf, data.fillna(0.0).values, grid=grid)


def test_the_pacific_knows_its_grid():
    pytest.importorskip("eofs")
    pacific = load_pacific_sst()
    clf = mlp().fit(pacific.data, pacific.target)
    report = diagnose(clf, pacific.data, pacific.target, **FEW)
    panel = report.plot().axes_[0]
    assert panel.get_ylim()[0] < panel.get_ylim()[1]
    drawn = report.plot().artists_["mean"].get_array()
    np.testing.assert_array_equal(np.ma.getmaskarray(drawn), pacific.land_mask)
    plt.close("all")


@pytest.mark.parametrize("flat", [True, False])
def test_rows_of_an_image_classifier_are_images(flat):
    X, y = load_digits(n_class=2, return_X_y=True)
    X = X[:40] if flat else X[:40].reshape(-1, 8, 8)
    clf = CNNClassifier((3,), input_shape=(1, 8, 8), max_epochs=2, random_state=0).fit(X, y[:40])
    report = diagnose(clf, X, y[:40], **FEW)
    assert report.plot().artists_["skill"].get_array().shape == (8, 8)
    assert report.plot().axes_[0].get_ylim() == (7.5, -0.5)  # the first row is up
    row, column = report.tests["fading"].plot().axes_
    assert row.get_xlabel() == "row (axis 0 of a sample)"
    assert column.get_xlabel() == "column (axis 1 of a sample)"
    plt.close("all")


def test_several_series_are_several_signals():
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    X = rng.normal(size=(40, 30, 3))
    X[:, 10:15, 1] += np.where(y == 1, 2.0, -2.0)[:, None]
    clf = LSTMClassifier(6, input_shape=(30, 3), max_epochs=2, random_state=0).fit(X, y)
    report = diagnose(clf, X, y, **FEW)
    display = report.plot()
    assert display.artists_["mean"].get_array().shape == (3, 30)
    np.testing.assert_allclose(
        np.ma.getdata(display.artists_["mean"].get_array()), report.picture.mean.T
    )
    assert display.axes_[0].get_xlabel() == "step"
    steps, variables = report.tests["fading"].plot().axes_
    assert steps.get_xlabel() == "step (axis 0 of a sample)"
    assert variables.get_xlabel() == "variable (axis 1 of a sample)"
    plt.close("all")


def test_names_behind_a_pipeline_are_written():
    kind = models.make("pipeline of columns")
    found = artifact_map(kind.model, kind.X, truth(kind), **FEW)
    labels = [tick.get_text() for tick in found.plot().axes_[0].get_yticklabels()]
    assert sorted(labels) == sorted(kind.names)  # the largest comes first
    plt.close("all")


def test_focus_on_a_box(fields):
    """A mask of a field is one of the rows that enter the network."""
    data, y, land = fields
    box = box_mask(data, lat=(-10, 0), lon=(180, 210))
    pipeline = make_pipeline(GridVectorizer(), mlp())
    arguments = ("mlpclassifier__lr", [0.001, 0.01], data, y)
    curve = focus_curve(pipeline, *arguments, mask=box, cv=2)
    rows = focus_curve(pipeline, *arguments, mask=box.values[~land], cv=2)
    assert_same_to_rounding(curve.mass, rows.mass)
    assert curve.mass_chance.cells == pytest.approx(12 / 102)
    assert curve.mass_chance.input < curve.mass.min()
    with pytest.raises(ValueError, match="mask has other latitudes"):
        focus_curve(pipeline, *arguments, mask=box_mask(data[:, 1:], lat=(-10, 0)), cv=2)


def test_focus_of_nets():
    net = models.make("skorch classifier").model
    search = models.make("search over a pipeline")
    curve = focus_curve(net, "lr", [0.01, 0.1], models.SCALED, CODES, mask=[1, 1, 0, 0], cv=2)
    assert curve.estimator_name == "NeuralNetClassifier"
    assert curve.mass.shape == (2, 2)
    name = "estimator__mlpclassifier__max_epochs"
    curve = focus_curve(search.model, name, [1, 2], models.X, models.y, cv=2)
    assert curve.estimator_name == "MLPClassifier"
    regression = models.make("one output: skorch regressor").model
    values = VALUES[:, np.newaxis]
    curve = focus_curve(regression, "max_epochs", [1, 2], models.SCALED, values, cv=2)
    assert curve.score_name == "R²"
    assert curve.axis_names == ("feature",)
    with pytest.raises(TypeError, match="Sequential has no fit: wrap the module"):
        focus_curve(models.make("module").model, "lr", [1], models.SCALED, CODES)


# Random numbers


@pytest.fixture(scope="module")
def reports():
    """Reports of several seeds, of fewer tests and by workers."""
    rng = np.random.default_rng(0)
    y = np.arange(80) % 2
    X = rng.normal(size=(80, 18, 18))
    X[:, 4:9, 4:9] += np.where(y == 1, 0.5, -0.5)[:, None, None]
    X[:, 0] += 10.0  # offsets
    X[:, 12, 12] *= 100.0  # an outlier
    mask = np.zeros((18, 18), dtype=bool)
    mask[4:9, 4:9] = True
    clf = mlp().fit(X[:40], y[:40])

    def report(random_state, **options):
        options = {"mask": mask, "n_permutations": 3, **options}
        data = {"X_train": X[:40], "y_train": y[:40]}
        return diagnose(clf, X[40:], y[40:], random_state=random_state, **data, **options)

    return report


def drawn_values(test):
    return [test.statistic, *test.interval, *np.ravel(test.null)]


def test_the_seed_determines_every_draw(reports):
    one, same, other = (reports(seed).tests for seed in (1, 1, 2))
    for name, test in one.items():
        np.testing.assert_array_equal(drawn_values(test), drawn_values(same[name]))
        # These are 0 of a good map, whatever is drawn; few samples have few medians.
        if name not in ("audit", "degeneracy", "suppressor", "bias"):
            assert drawn_values(test) != drawn_values(other[name]), name


def test_a_test_does_not_depend_on_the_others(reports):
    every = reports(1, n_refits=1).tests
    assert set(every) >= TRAINS
    fewer = reports(1, mask=None).tests
    assert set(fewer) < set(every)
    for name, test in fewer.items():
        np.testing.assert_array_equal(drawn_values(test), drawn_values(every[name]))


# Null models


@pytest.mark.parametrize("null", NULLS.values(), ids=list(NULLS))
def test_a_null_model_has_lost_something(null):
    """What is asked of each of them: another network, words, and a place in the report."""
    kind = models.make("estimator")
    before = pickle.dumps(kind.model)
    data = {"X_train": kind.X, "y_train": truth(kind)}
    explained = Explained(kind.model, kind.X, **data, random_state=0)
    one, same, other = (draw_null(explained, null.name, seed) for seed in (1, 1, 2))
    weights = [
        np.concatenate([p.detach().numpy().ravel() for p in clf.module_.parameters()])
        for clf in (kind.model, one, same, other)
    ]
    np.testing.assert_array_equal(weights[1], weights[2])
    for i, j in ((0, 1), (1, 3)):
        assert not np.array_equal(weights[i], weights[j])
    assert pickle.dumps(kind.model) == before
    found = randomization_test(kind.model, kind.X, null=null.name, **data, **FEW)
    assert found.name == null.finding
    assert null.lost in found.reading
    assert found.advice in ("", null.advice)
    assert (null.finding in CONVICT) == null.convicts
