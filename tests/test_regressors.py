"""The regressors: targets in their own units, references, several outputs, bad input, files."""

import inspect
import re

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from skorch.callbacks import EpochScoring
from torch import nn

import sklrp
from sklrp import (
    CNNRegressor,
    ESNRegressor,
    LSTMRegressor,
    MLPRegressor,
    RelevanceTransformer,
)
from sklrp.cli import main
from sklrp.diagnostics import diagnose, skill_map

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 12))
# Two targets of units that are far apart, and far from zero.
Y = np.stack([3 * X[:, 0] + 100, 2e-6 * (X[:, 1] - X[:, 2]) - 1e-5], axis=1)
CAUSES = ("bias", "epsilon", "padding", "initial_state", "dropped")
SMALL = {
    "mlp": MLPRegressor((16,), max_epochs=8, lr=0.01, random_state=0),
    "cnn": CNNRegressor((4,), hidden_layer_sizes=(8,), max_epochs=3, random_state=0),
    "lstm": LSTMRegressor(8, max_epochs=3, random_state=0),
    "esn": ESNRegressor(40, random_state=0),
}
EACH = pytest.mark.parametrize("name", list(SMALL))


def small(name, **params):
    return clone(SMALL[name]).set_params(**params)


@EACH
@pytest.mark.parametrize("reference", ["mean", "zero", "value", "values"])
def test_what_is_explained_is_the_prediction_less_the_reference(name, reference):
    reg = small(name).fit(X, Y)
    # By hand, the mean of y where it is asked for.
    values = {
        "mean": Y.mean(axis=0),
        "zero": np.zeros(2),
        "value": np.zeros(2),
        "values": Y[3],
    }[reference]
    given = {"value": 0.0, "values": Y[3].tolist()}.get(reference, reference)
    relevance, details = reg.explain(
        X[:7], target="all", reference=given, return_details=True, check=True
    )
    difference = reg.predict(X[:7]) - values
    kept = sum(layer[cause] for layer in details.layers for cause in CAUSES)
    total = relevance.sum(axis=2) + kept + details.reference_share
    for k in range(2):  # whose units differ
        size = np.abs(Y[:, k]).max()
        np.testing.assert_allclose(total[:, k], difference[:, k], atol=1e-9 * size)
        np.testing.assert_allclose(details.score[:, k], difference[:, k], atol=1e-12 * size)
    np.testing.assert_array_equal(details.reference, np.tile(values, (7, 1)))
    np.testing.assert_allclose(details.reference_share, np.tile(Y.mean(0) - values, (7, 1)))
    assert "from the reference" in repr(details)
    for k in range(2):
        single = reg.explain(X[:7], target=k, reference=given)
        np.testing.assert_allclose(single, relevance[:, k], rtol=1e-9, atol=1e-18)
    mixed = reg.explain(X[:7], target=[0, 1, 0, 1, 1, 0, 0], reference=given)
    np.testing.assert_allclose(mixed[[1, 3]], relevance[[1, 3], 1], rtol=1e-9, atol=1e-18)


@pytest.mark.parametrize("target", [[True, True], [0.25, -3.0e5]])
def test_a_sum_of_outputs(target):
    reg = small("mlp", bias=False).fit(X, Y)
    relevance, details = reg.explain(
        X, target=target, reference="zero", epsilon=0.0, return_details=True
    )
    weights = np.asarray(target, dtype=float)
    # Relevance is linear in the outputs where no rule stabilises.
    expected = np.einsum("k,nkf->nf", weights, reg.explain(X, target="all", epsilon=0.0))
    np.testing.assert_allclose(relevance, expected, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(details.score, reg.predict(X) @ weights, rtol=1e-9)
    np.testing.assert_allclose(details.reference_share, Y.mean(axis=0) @ weights)
    assert details.target == target


def test_without_biases_the_map_alone_is_the_difference_from_the_mean():
    reg = small("mlp", bias=False).fit(X, Y)
    relevance = reg.explain(X, target="all", epsilon=0.0)
    difference = reg.predict(X) - Y.mean(axis=0)
    np.testing.assert_allclose(relevance.sum(axis=2), difference, rtol=1e-9, atol=1e-11)


def test_a_linear_network_by_hand():
    y = Y[:, 0]
    reg = MLPRegressor((), max_epochs=4, bias=False, random_state=0).fit(X, y)
    weight = reg.module_[0].weight.detach().numpy()[0]
    np.testing.assert_allclose(reg.explain(X, epsilon=0.0), X * weight * y.std(), rtol=1e-10)
    np.testing.assert_allclose(reg.predict(X), y.mean() + X @ weight * y.std(), rtol=1e-12)


@EACH
def test_standardised_by_hand(name):
    """Units change nothing but units: a network on standardised targets is the same one."""
    weight = RNG.integers(0, 4, size=len(X)).astype(float)
    mean = np.average(Y, axis=0, weights=weight)
    scale = np.sqrt(np.average((Y - mean) ** 2, axis=0, weights=weight))
    reg = small(name).fit(X, Y, sample_weight=weight)
    plain = small(name).fit(X, (Y - mean) / scale, sample_weight=weight)
    np.testing.assert_allclose(reg.target_mean_, mean, rtol=1e-12)
    np.testing.assert_allclose(reg.target_scale_, scale, rtol=1e-12)
    for k in range(2):
        expected = mean[k] + scale[k] * plain.predict(X)[:, k]
        np.testing.assert_allclose(reg.predict(X)[:, k], expected, atol=1e-5 * scale[k])
        # Rounding in the training grows; that of the maps of one network would not.
        maps = reg.explain(X[:9], target=k) - scale[k] * plain.explain(X[:9], target=k)
        assert np.abs(maps).max() < 1e-4 * scale[k]
    with torch.no_grad():
        outputs = reg.module_(torch.from_numpy(X)).numpy()
    np.testing.assert_array_equal(outputs, reg.predict(X))
    np.testing.assert_array_equal(outputs, reg.net_.predict(X))


@pytest.mark.parametrize("weighted", [False, True])
def test_the_echo_state_network_is_ridge_regression_of_its_states(weighted):
    weight = RNG.uniform(0, 2, size=len(X)) if weighted else None
    reg = small("esn", ridge=1e-3).fit(X, Y, sample_weight=weight)
    *reservoir, _, _ = reg.module_
    with torch.no_grad():
        states = nn.Sequential(*reservoir)(torch.from_numpy(X)).numpy()
    ridge = Ridge(alpha=1e-3, solver="svd").fit(states, Y, sample_weight=weight)
    np.testing.assert_allclose(reg.predict(X), ridge.predict(states), rtol=1e-7)
    for k in range(2):  # one at a time
        single = small("esn", ridge=1e-3).fit(X, Y[:, k], sample_weight=weight)
        np.testing.assert_allclose(single.predict(X), reg.predict(X)[:, k], rtol=1e-9)
        np.testing.assert_allclose(
            single.explain(X[:5]),
            reg.explain(X[:5], target=k),
            rtol=1e-6,
            atol=1e-9 * Y[:, k].std(),
        )


def test_it_learns_targets_of_any_units():
    reg = MLPRegressor((32,), max_epochs=100, lr=0.02, random_state=0).fit(X, Y)
    assert reg.score(X, Y) > 0.98
    assert reg.score(X, Y) == pytest.approx(r2_score(Y, reg.predict(X)))
    constant = small("mlp").fit(X, np.full(len(X), 7.0))
    assert constant.target_scale_ == 1
    assert np.abs(constant.predict(X) - 7).max() < 2


def test_shapes_of_y_and_of_predictions():
    assert small("mlp").fit(X, Y[:, 0]).predict(X).shape == (90,)
    assert small("mlp").fit(X, Y[:, :1]).predict(X).shape == (90, 1)
    assert small("mlp").fit(X.astype("f4"), Y).predict(X.astype("f4")).dtype == np.float32


def test_parameters_are_those_of_the_classifiers():
    for kind in ("MLP", "CNN", "LSTM", "ESN"):
        regressor, classifier = (getattr(sklrp, kind + end) for end in ("Regressor", "Classifier"))
        own, others = (list(inspect.signature(c).parameters) for c in (regressor, classifier))
        others.remove("class_weight")
        assert own == others
        assert not re.search("class_|classes|label|logit", regressor.__doc__)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["warm", "cold"] * 45, "got 'warm': for classes use MLPClassifier"),
        (Y[:, 0] > 100, "got True: for classes use MLPClassifier"),
        (np.array(["warm", 1.0] * 45, dtype=object), "got 'warm'"),
        (np.array(["2020-01-01"] * 90, "M8[D]"), "y must hold the numbers"),
        (Y[:, 0] * 1j, "y must hold the numbers"),
        (np.where(Y[:, 0] > 100, np.nan, 1.0), r"contains NaN.*isna\(y\), X\[keep\]"),
        (np.where(Y > 100, np.nan, Y), r"contains NaN.*isna\(y\)\.any\(axis=1\), X"),
        (np.zeros((90, 2, 2)), r"\(90, 2, 2\), but .* y\.reshape\(len\(y\), -1\).*GridVectorizer"),
    ],
)
def test_targets_that_are_none(y, message):
    reg = small("mlp")
    with pytest.raises(ValueError, match=message):
        reg.fit(X, y)
    assert not hasattr(reg, "net_")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "target=None does not say which of the 2 outputs"),
        ({"target": 2}, r"must lie in 0\.\.1"),
        ({"target": -1}, r"must lie in 0\.\.1"),
        ({"target": "x"}, "the index of an output"),
        ({"target": [1.0, 0.0, 1.0]}, "must have the output's shape"),
        ({"target": [False, False]}, "an empty region"),
        ({"target": [False, True], "reference": 100.0}, "of output 1"),
        ({"target": 0, "reference": "median"}, "'mean', 'zero' or a number, got 'median'"),
        ({"target": 0, "reference": True}, "got True"),
        ({"target": 0, "reference": None}, "got None"),
        ({"target": 0, "reference": np.nan}, "must be finite, got nan"),
        ({"target": 0, "reference": [1.0, 2.0, 3.0]}, "each of the 2 outputs"),
        ({"target": 0, "reference": 1e9}, "outside the targets of the training data"),
        ({"target": "all", "reference": 100.0}, "of output 1"),
    ],
)
def test_targets_and_references_that_are_none(params, message, monkeypatch):
    reg = small("mlp").fit(X, Y)
    monkeypatch.setattr(
        "sklrp.classifiers.base.explain_network", lambda *_, **__: pytest.fail("explained")
    )
    with pytest.raises(ValueError, match=message):
        reg.explain(X, **params)


def test_contrast_is_of_classes():
    with pytest.raises(ValueError, match="contrast=True compares classes"):
        sklrp.explain(small("mlp").fit(X, Y[:, 0]), X[:2], contrast=True)


def test_weights_of_zero_alone_and_other_numbers_of_targets():
    with pytest.raises(ValueError, match=r"(?i)sample.weights? must"):
        small("mlp").fit(X, Y, sample_weight=np.zeros(90))
    with pytest.raises(ValueError, match="1 targets, but the training so far had 2"):
        small("mlp").fit(X, Y).partial_fit(X, Y[:, 0])


def test_training_goes_on():
    once = small("mlp", max_epochs=4).fit(X, Y)
    parts = small("mlp")
    for _ in range(4):
        parts.partial_fit(X, Y)
    np.testing.assert_array_equal(once.predict(X), parts.predict(X))
    warm = small("mlp", max_epochs=2, warm_start=True).fit(X, Y).fit(X, Y)
    np.testing.assert_array_equal(once.predict(X), warm.predict(X))
    mean = warm.target_mean_
    warm.fit(X, Y + np.array([50, 0]))
    assert warm.target_mean_ is mean
    np.testing.assert_allclose(warm.target_range_[0], [Y[:, 0].min(), Y[:, 0].max() + 50])


def test_early_stopping_and_callbacks_in_the_units_of_the_targets():
    scoring = EpochScoring("neg_root_mean_squared_error", on_train=True, name="rmse")
    reg = small("mlp", early_stopping=True, callbacks=[("rmse", scoring)]).fit(X, Y[:, :1])
    assert {"train_loss", "valid_loss", "rmse"} <= set(reg.history_[-1])
    assert reg.history_[0, "rmse"] < -0.5  # of a deviation of 3, not of 1
    with pytest.raises(ValueError, match="criterion__label_smoothing"):
        small("mlp", criterion__label_smoothing=0.1).fit(X, Y)


@EACH
@pytest.mark.parametrize("y", [Y, Y[:, 0]], ids=["several", "one"])
def test_files(name, y, tmp_path):
    reg = small(name).fit(X, y)
    sklrp.save(reg, tmp_path / "reg.safetensors")
    same = sklrp.load(tmp_path / "reg.safetensors")
    np.testing.assert_array_equal(same.predict(X), reg.predict(X))
    np.testing.assert_array_equal(
        same.explain(X, target="all", reference="zero"),
        reg.explain(X, target="all", reference="zero"),
    )
    if name != "esn":
        after = [r.partial_fit(X, y).predict(X) for r in (reg, same)]
        np.testing.assert_array_equal(*after)
    reg.target_scale_ = -reg.target_scale_
    sklrp.save(reg, tmp_path / "reg.safetensors")
    with pytest.raises(ValueError, match=r"target_scale_ of .*Regressor is malformed"):
        sklrp.load(tmp_path / "reg.safetensors")


def test_an_echo_state_network_that_was_changed_is_not_saved(tmp_path):
    reg = small("esn").fit(X, Y).set_params(leak_rate=0.9)
    with pytest.raises(ValueError, match="leak_rate was changed"):
        sklrp.save(reg, tmp_path / "reg.safetensors")


@pytest.mark.parametrize("target", [1, "all"])
def test_as_features(target, tmp_path):
    features = RelevanceTransformer(small("mlp"), target=target, normalize="score").fit(X, Y)
    expected = features.estimator_.explain(X, target=target).reshape(90, -1)
    assert np.corrcoef(features.transform(X)[0, :12], expected[0, :12])[0, 1] ** 2 > 0.999
    sklrp.save(features, tmp_path / "features.safetensors")
    same = sklrp.load(tmp_path / "features.safetensors")
    np.testing.assert_array_equal(same.transform(X), features.transform(X))
    assert same.get_feature_names_out().tolist() == features.get_feature_names_out().tolist()
    assert same.score(X, Y) == features.score(X, Y)


def test_skill_and_diagnosis():
    reg = MLPRegressor((16,), max_epochs=80, lr=0.02, random_state=0).fit(X, Y)
    new = RNG.normal(size=(80, 12))
    y = np.stack([3 * new[:, 0] + 100, 2e-6 * (new[:, 1] - new[:, 2]) - 1e-5], axis=1)
    for k, cells in ((0, [0]), (1, [1, 2])):
        found = skill_map(reg, new, y, X_train=X, target=k, n_permutations=99, random_state=0)
        assert np.flatnonzero(found.true).tolist() == cells
    report = diagnose(reg, new, y, X_train=X, target=1, n_permutations=10, random_state=0)
    assert report.verdict != "artifact"
    score = sklrp.metrics.make_relevance_scorer("conservation_error")(
        small("mlp", bias=False).fit(X, Y[:, 0]), X, Y[:, 0]
    )
    assert abs(score) < 1e-4


def test_fields():
    xr = pytest.importorskip("xarray")
    axes = {"time": np.arange(40), "lat": [0.0, 2, 4], "lon": [0.0, 2, 4, 6]}
    data = xr.DataArray(RNG.normal(size=(40, 3, 4)), axes, list(axes))
    model = make_pipeline(sklrp.geo.GridVectorizer(), small("mlp"))
    model.fit(data, data.values[:, 1, :2] * 5 + 290)
    maps = sklrp.geo.explain(model, data, target="all")
    assert maps.dims == ("time", "target", "lat", "lon")
    assert maps.attrs["units"] == "unit of the prediction"
    rows = data.values.reshape(40, -1)
    np.testing.assert_array_equal(
        maps.values.reshape(40, 2, -1), model[-1].explain(rows, target="all")
    )


def test_command_line(tmp_path):
    names = ("model.safetensors", "x.npy", "out.npy", "y.txt", "page.html")
    model, data, out, values, page = (str(tmp_path / name) for name in names)
    reg = small("mlp", max_epochs=60).fit(X, Y[:, 0])
    sklrp.save(reg, model)
    new = RNG.normal(size=(60, 12))
    np.save(data, new)
    np.savetxt(values, 3 * new[:, 0] + 100, header="flow", comments="")
    done = CliRunner().invoke(main, ["explain", model, data, "-o", out], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    np.testing.assert_allclose(np.load(out), reg.explain(new), rtol=1e-6)
    words = ["diagnose", model, data, "--labels", values, "-o", page, "--n-permutations", "5"]
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (tmp_path / "y.txt").write_text("warm\n" * 60)
    done = CliRunner().invoke(main, words)
    assert done.exit_code != 0
    assert "must hold numbers" in done.output


def test_scores_are_of_samples_of_their_own_times():
    """Values and weights in another order are put in that of X, as in fit."""
    pd = pytest.importorskip("pandas")
    times = pd.date_range("2001-01-01", periods=90, freq="MS")
    table, weight = pd.DataFrame(X, times), pd.Series(RNG.uniform(0, 2, size=90), times)
    for model, values in (
        (small("mlp"), pd.Series(Y[:, 0], times)),
        (
            sklrp.MLPClassifier((4,), max_epochs=3, random_state=0),
            pd.Series(np.where(X[:, 0] > 0, "a", "b"), times),
        ),
    ):
        model.fit(table, values)
        score = model.score(table, values, weight)
        assert model.score(table, values[::-1], weight[::-1]) == score
        assert model.score(table, values.to_numpy()[::-1], weight) != score
