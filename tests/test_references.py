"""References: what a map of zeros stands for, of every network and wherever it can be said."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from skorch import NeuralNetRegressor
from torch import nn

import sklrp
from sklrp import MLPClassifier, MLPRegressor, RelevanceTransformer
from sklrp.cli import main
from tests.helpers.comparing import assert_close

RNG = np.random.default_rng(3)
X = RNG.normal(size=(60, 6))
Y = np.stack([5 * X[:, 0] + 30, X[:, 1] - 2], axis=1)
CAUSES = ("bias", "epsilon", "padding", "initial_state", "dropped")


def field_network():
    """Return a network of fields: (n, 3, 2) of 6 values."""
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6), nn.Unflatten(1, (3, 2))]
    return nn.Sequential(*layers).double()


def row_network():
    return nn.Sequential(*list(field_network())[:3])


@pytest.fixture(scope="module")
def regressor():
    return MLPRegressor((8,), max_epochs=5, random_state=0).fit(X, Y)


def accounted(relevance, details):
    """Return the sum of all that makes the score."""
    shape = details.score.shape
    kept = sum(layer[cause] for layer in details.layers for cause in CAUSES)
    flat = relevance.reshape(*shape, -1).sum(axis=-1)
    return flat + kept + details.rest + details.reference_share


FIELD = np.arange(6.0).reshape(3, 2) - 2
MASK = np.array([[True, False], [True, True], [False, False]])
WEIGHTS = np.linspace(-1, 1, 6).reshape(3, 2)


@pytest.mark.parametrize(
    ("target", "of"),
    [
        ((1, 0), lambda y: y[:, 1, 0]),
        (MASK, lambda y: y[:, MASK].sum(1)),
        (WEIGHTS, lambda y: (y * WEIGHTS).sum((1, 2))),
        (lambda y: y.flatten(1).amax(1), lambda y: y.reshape(len(y), -1).max(1)),
        (lambda y: y[:, 0].square().sum(1), lambda y: (y[:, 0] ** 2).sum(1)),
        ("all", lambda y: y.reshape(len(y), -1)),
    ],
)
@pytest.mark.parametrize("reference", ["zero", 2.5, FIELD])
def test_what_is_explained_is_the_difference_of_two_targets(target, of, reference):
    """The target of the output less the target of the reference; the map is as ever."""
    network = field_network()
    relevance, details = sklrp.explain(
        network, X, target=target, reference=reference, return_details=True, check=True
    )
    plain, without = sklrp.explain(network, X, target=target, return_details=True)
    np.testing.assert_array_equal(relevance, plain)
    with torch.no_grad():
        output = network(torch.from_numpy(X)).numpy()
    value = np.broadcast_to(0.0 if isinstance(reference, str) else reference, output.shape)
    assert_close(details.score, of(output) - of(value))
    assert_close(details.reference, of(value))
    assert_close(accounted(relevance, details), of(output) - of(value))
    assert "reference" not in without


def test_labels_and_predicted_outputs():
    """One reference for each output: that of the output that a sample is explained for."""
    network, values = row_network(), np.arange(6.0)
    chosen = RNG.integers(0, 6, size=60)
    with torch.no_grad():
        output = network(torch.from_numpy(X)).numpy()
    for target, index in ((chosen, chosen), (None, output.argmax(1)), (4, np.full(60, 4))):
        _, details = sklrp.explain(
            network, X, target=target, reference=values, return_details=True
        )
        np.testing.assert_array_equal(details.reference, values[index])
        np.testing.assert_array_equal(details.target, index)
        assert_close(details.score, output[np.arange(60), index] - values[index])


def test_logits_of_a_classifier():
    labels = np.where(X[:, 0] > 0, "wet", "dry")
    clf = MLPClassifier((6,), max_epochs=3, random_state=0).fit(X, labels)
    logits = clf.decision_function(X)
    logits = np.stack([-logits, logits], axis=1) if logits.ndim == 1 else logits
    one, details = clf.explain(X, target="wet", reference=[1.0, -0.5], return_details=True)
    plain, own = clf.explain(X, target="wet", return_details=True)
    np.testing.assert_array_equal(one, plain)
    np.testing.assert_allclose(details.score, own.score + 0.5, rtol=1e-12)
    assert set(details.reference) == {-0.5}
    predicted = sklrp.explain(clf, X, reference="zero", return_details=True)[1]
    assert set(predicted.target) == {"wet", "dry"}
    with pytest.raises(ValueError, match="reference='mean' is of the regressors"):
        sklrp.explain(clf, X, reference="mean")
    with pytest.raises(ValueError, match=r"leave reference=1\.0 out"):
        clf.explain(X, reference=1.0, contrast=True)


def test_regressors_by_any_entry(regressor):
    """`sklrp.explain` hands the reference on, of a pipeline too; its default is the mean."""
    pipeline = make_pipeline("passthrough", regressor)
    for reference in ("mean", "zero", 0.0, [31.0, -2.0]):
        for model in (regressor, pipeline):
            found = sklrp.explain(model, X, target="all", reference=reference, return_details=True)
            own = regressor.explain(X, target="all", reference=reference, return_details=True)
            np.testing.assert_array_equal(found[0], own[0])
            np.testing.assert_array_equal(found[1].reference_share, own[1].reference_share)
    _, details = sklrp.explain(regressor, X, target=0, return_details=True)
    np.testing.assert_allclose(details.reference, Y[:, 0].mean())
    net = NeuralNetRegressor(row_network, train_split=None, verbose=0).initialize()
    _, details = sklrp.explain(net, X, target=1, reference=0.25, return_details=True)
    assert set(details.reference_share) == {-0.25}


def test_numbers_of_any_kind(regressor):
    """A number may be an array without axes, and rounded to single precision."""
    largest = np.float32(Y[:, 0].max())
    largest = np.nextafter(largest, np.float32(np.inf)) if largest <= Y[:, 0].max() else largest
    for number in (np.array(31.5), torch.tensor(31.5), largest):
        _, details = regressor.explain(X, target=0, reference=number, return_details=True)
        np.testing.assert_allclose(details.reference, float(number))
    with pytest.raises(ValueError, match="outside the targets of the training data"):
        regressor.explain(X, target=0, reference=1.001 * float(largest))


BAD = [
    ("median", "must be .*'zero' or a number, got 'median'"),
    ("Mean", "must be .*'zero' or a number, got 'Mean'"),
    (np.nan, "reference must be finite, got nan"),
    (-np.inf, "reference must be finite, got -inf"),
    ([1.0, np.nan], "reference must be finite"),
    (True, "got True"),
    ({"mean": 1}, "got {'mean': 1}"),
    (["a", "b"], r"got \['a', 'b'\]"),
    (1j, "got 1j"),
    ([], r"got \[\]"),
    ([30.0, -2.0, 0.0], "one number for each of the . outputs, got an array of shape"),
]


@pytest.mark.parametrize(("reference", "message"), BAD)
def test_references_that_are_none(reference, message, regressor, monkeypatch, tmp_path):
    """Refused before anything is explained or trained, wherever a reference may be given."""
    ran = "sklrp.propagation.run.PreparedCall.explain"
    monkeypatch.setattr(ran, lambda *args, **kwargs: pytest.fail("explained"))
    monkeypatch.setattr("sklrp.transformer.train_network", lambda *args: pytest.fail("trained"))
    entries = [
        lambda: sklrp.explain(regressor, X, target=0, reference=reference),
        lambda: sklrp.explain(row_network(), X, target=0, reference=reference),
        lambda: RelevanceTransformer(MLPRegressor(), reference=reference, target=0).fit(X, Y),
        lambda: sklrp.plotting.RelevanceDisplay.from_estimator(
            regressor, X[:3], target=0, reference=reference
        ),
    ]
    for entry in entries:
        with pytest.raises(ValueError, match=message):
            entry()


def test_out_of_range_before_training(monkeypatch, regressor):
    """A number is held against the targets; that of an output that is not explained is not."""
    trained = []
    monkeypatch.setattr(
        "sklrp.transformer.train_network", lambda network, *args: trained.append(1) or regressor
    )
    for target, reference in ((0, 1e3), ("all", 29.0), (1, 29.0), (0, [-99.0, -2.0])):
        features = RelevanceTransformer(MLPRegressor(), target=target, reference=reference)
        with pytest.raises(ValueError, match="outside the targets of the training data"):
            features.fit(X, Y)
    assert not trained
    RelevanceTransformer(MLPRegressor(), target=0, reference=29.0).fit(X, Y)
    assert trained


def test_features_are_shares_of_the_score_less_the_reference(regressor, tmp_path):
    features = RelevanceTransformer(
        MLPRegressor((8,), max_epochs=5, random_state=0), target=0, normalize="score",
        reference="zero",
    ).fit(X, Y)  # fmt: skip
    relevance, details = features.estimator_.explain(
        X, target=0, reference="zero", return_details=True
    )
    np.testing.assert_allclose(features.transform(X), relevance / details.score[:, None])
    assert np.abs(features.transform(X) - features.set_params(reference="mean").transform(X)).max()
    features.set_params(reference="zero")
    sklrp.save(features, tmp_path / "features.safetensors")
    same = sklrp.load(tmp_path / "features.safetensors")
    assert same.reference == "zero"
    np.testing.assert_array_equal(same.transform(X), features.transform(X))


@pytest.mark.parametrize("lazy", [False, True])
def test_fields_name_their_reference(lazy, tmp_path):
    xr = pytest.importorskip("xarray")
    pytest.importorskip("dask")
    axes = {"time": np.arange(40), "lat": [0.0, 2, 4], "lon": [0.0, 2]}
    data = xr.DataArray(X[:40].reshape(40, 3, 2), axes, list(axes))
    model = make_pipeline(
        sklrp.geo.GridVectorizer(), MLPRegressor((8,), max_epochs=5, random_state=0)
    ).fit(data, Y[:40])
    given = data.chunk({"time": 16}) if lazy else data
    maps = sklrp.geo.explain(model, given, target=0)
    assert maps.attrs["reference"] == "mean"
    means = Y[:40].mean(axis=0)
    assert maps.attrs["reference_value"] == pytest.approx(means[0])
    every = sklrp.geo.explain(model, given, target="all")
    np.testing.assert_allclose(every.attrs["reference_value"], means)
    other = sklrp.geo.explain(model, given, target=0, reference=31.5)
    assert other.attrs["reference"] == [31.5, 31.5]
    assert other.attrs["reference_value"] == 31.5
    xr.testing.assert_equal(other, maps)
    sklrp.geo.write(other, tmp_path / "maps.nc")
    with pytest.raises(ValueError, match="outside the targets"):
        sklrp.geo.explain(model, given, target=0, reference=1e6)
    with pytest.raises(ValueError, match="outside the targets"):
        sklrp.geo.explain(model, given, target=np.zeros(40, int), reference=1e6)
    for target, known in (
        (np.full(2, 0.5), means.mean()),
        (np.array([True, True]), means.sum()),
        (lambda output: output[:, 1] - output[:, 0], means[1] - means[0]),
    ):
        attrs = sklrp.geo.explain(model, given, target=target).attrs
        assert attrs["reference_value"] == pytest.approx(known)
    network = make_pipeline(model[0], row_network())
    reference = [1.0, 4.0, 0.0, 0.0, 0.0, 1.0]
    halves = sklrp.geo.explain(network, given, target=np.full(6, 0.5), reference=reference)
    assert halves.attrs["reference_value"] == 3.0
    assert "reference" not in sklrp.geo.explain(network, given, target=0).attrs
    assert sklrp.geo.explain(network, given, target=0, reference=1.5).attrs["reference"] == 1.5
    with pytest.raises(ValueError, match="reference='mean' is of the regressors"):
        sklrp.geo.explain(network, given, target=0, reference="mean")


def test_command_line(regressor, tmp_path):
    xr = pytest.importorskip("xarray")
    model, data = str(tmp_path / "model.safetensors"), tmp_path / "data.nc"
    one = MLPRegressor((8,), max_epochs=5, random_state=0).fit(X, Y[:, 0])
    sklrp.save(one, model)
    xr.DataArray(X, dims=("sample", "feature"), name="x").to_netcdf(data)

    def run(value):
        words = ["explain", model, str(data), "-o", str(tmp_path / "out.nc")]
        return CliRunner().invoke(main, [*words, "--reference", value])

    for value, known in (("31.5", 31.5), ("mean", Y[:, 0].mean()), ("zero", 0.0)):
        done = run(value)
        assert done.exit_code == 0, done.output
        with xr.open_dataset(tmp_path / "out.nc") as found:
            attrs = found["relevance"].attrs
        assert attrs["reference_value"] == pytest.approx(known)
        assert attrs["reference"] == (31.5 if value == "31.5" else value)
        (tmp_path / "out.nc").unlink()
    for value, message in (
        ("median", "--reference must be mean, zero or a finite number, got 'median'"),
        ("nan", "--reference must be mean, zero or a finite number, got 'nan'"),
        ("1e9", "outside the targets of the training data"),
    ):
        done = run(value)
        assert done.exit_code != 0
        assert message in done.output
        assert [path.name for path in tmp_path.glob("out*")] == []


def test_label_of_a_display(regressor):
    pytest.importorskip("matplotlib")
    draw = sklrp.plotting.RelevanceDisplay.from_estimator
    for reference, said in ((None, ""), ("mean", ", from the mean"), (31.5, ", from 31.5")):
        display = draw(regressor, X[:2], target=0, reference=reference)
        assert display.unit.startswith(f"relevance for output 0{said}")
        assert said or "from" not in display.unit


def test_other_estimators_have_none():
    """What explains itself and takes no reference is not asked with one."""

    class Own(Ridge):
        def explain(self, X, *, target=None, rule="auto"):
            return np.zeros_like(X)

    model = Own().fit(X, Y[:, 0])
    assert not sklrp.explain(model, X).any()
    with pytest.raises(TypeError, match="reference"):
        sklrp.explain(model, X, reference="zero")


# --- Targets of outputs, as features ---------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [(1, 0), MASK, WEIGHTS, lambda y: y.flatten(1).amax(1)],
    ids=["index", "mask", "weights", "function"],
)
def test_regions_as_features(target):
    """A transformer takes the targets of a module that explain takes."""
    features = RelevanceTransformer(field_network(), target=target, reference=1.0)
    found = features.fit(X).transform(X)
    np.testing.assert_array_equal(found, sklrp.explain(field_network(), X, target=target))
    assert features.get_feature_names_out().tolist() == [f"x{i}" for i in range(6)]


def test_several_outputs_of_a_regressor_as_features(regressor):
    features = RelevanceTransformer(MLPRegressor((8,), max_epochs=5, random_state=0))
    for target in ([True, True], [0.5, -2.0], 1, lambda values: values.amax(1)):
        found = features.set_params(target=target).fit(X, Y).transform(X)
        np.testing.assert_array_equal(found, features.estimator_.explain(X, target=target))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, "does not say which of the 2 outputs"),
        (2, r"must lie in 0\.\.1"),
        ("warm", "the index of an output"),
        ([False, False], "an empty region"),
        ([True, False, True], "must have the output's shape"),
    ],
)
def test_targets_of_a_regressor_before_training(target, message, monkeypatch):
    monkeypatch.setattr("sklrp.transformer.train_network", lambda *args: pytest.fail("trained"))
    features = RelevanceTransformer(MLPRegressor(), target=target)
    with pytest.raises(ValueError, match=message):
        features.fit(X, Y)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, "say what is explained"),
        (3, "a tuple of 2 indices"),
        ((5, 0), "lies outside the output"),
        (MASK[:2], "must have the output's shape"),
        (np.zeros((3, 2), dtype=bool), "an empty region"),
        ("warm", "no name"),
    ],
)
def test_targets_of_a_module_in_fit(target, message):
    with pytest.raises(ValueError, match=message):
        RelevanceTransformer(field_network(), target=target).fit(X)


def test_targets_of_a_frozen_regressor_in_fit(regressor):
    for params in ({"target": 7}, {"target": 0, "reference": 1e6}, {"target": None}):
        with pytest.raises(ValueError, match=r"target|reference"):
            RelevanceTransformer(FrozenEstimator(regressor), **params).fit(X)
