"""The four classifiers on the device, and what asks them: all as with the same network of the CPU.

`tests/test_devices.py` runs this file, with float64 on the device and without. The networks
compute in float32, as on every accelerator.
"""

from __future__ import annotations

import copy
import pickle

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from sklearn.model_selection import cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sklrp
from sklrp import CNNClassifier, ESNClassifier, LSTMClassifier, MLPClassifier
from sklrp.datasets import make_squares
from sklrp.diagnostics import artifact_map, audit, diagnose, skill_map
from sklrp.metrics import (
    conservation_error,
    faithfulness_correlation,
    make_relevance_scorer,
    max_sensitivity,
    pixel_flipping_score,
    randomization_similarity,
    relevance_mass,
    relevance_rank,
    skill_mass,
    sparseness,
)
from sklrp.plotting import RelevanceDisplay
from sklrp.preprocessing import InputCapper, InputMasker
from tests.helpers.simulated_device import NAME, holds_float64

ALL, LABELS, MASK = make_squares(n_per_class=40, size=10, random_state=0)
ALL = ALL.astype(np.float32)
X, y = ALL[::2], LABELS[::2]  # trained on
X_NEW, Y_NEW = ALL[1::2], LABELS[1::2]
WEIGHT = np.linspace(0.5, 1.5, len(y), dtype=np.float32)
KINDS = {
    "mlp": (MLPClassifier, {"hidden_layer_sizes": (8,), "max_epochs": 8}),
    "cnn": (CNNClassifier, {"max_epochs": 3}),
    "lstm": (LSTMClassifier, {"hidden_size": 6, "max_epochs": 3}),
    "esn": (ESNClassifier, {"n_reservoir": 20}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
trained_by_gradient = pytest.mark.parametrize("kind", ["mlp", "cnn", "lstm"])


def make(kind, device=NAME, **params):
    cls, own = KINDS[kind]
    return cls(**{**own, **params}, device=device, random_state=0)


def there(values):
    """Return values as a tensor of the device."""
    return torch.as_tensor(np.asarray(values)).to(NAME)


def assert_near(found, expected, tolerance=1e-3):
    found, expected = (np.asarray(v, dtype=float) for v in (found, expected))
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def assert_alike(one, other):
    """Hold two classifiers against each other: parameters, predictions and maps."""
    for mine, its in zip(one.module_.parameters(), other.module_.parameters(), strict=True):
        assert_near(mine.detach().cpu(), its.detach().cpu())
    assert_near(one.predict_proba(X_NEW), other.predict_proba(X_NEW))
    assert_near(one.explain(X_NEW, target="all"), other.explain(X_NEW, target="all"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Each kind as trained on the device, and the same network loaded to the CPU."""
    found = {}
    for kind in KINDS:
        clf = make(kind).fit(X, y)
        path = tmp_path_factory.mktemp("models") / f"{kind}.sklrp"
        sklrp.save(clf, path)
        found[kind] = clf, sklrp.load(path, device="cpu")
    return found


@every_kind
def test_fit_is_that_of_the_cpu(kind, pairs):
    clf = pairs[kind][0]
    parameters = list(clf.module_.parameters())
    assert all(p.device.type == NAME and p.dtype == torch.float32 for p in parameters)
    assert_alike(clf, make(kind, "cpu").fit(X, y))
    np.testing.assert_array_equal(
        clf.predict(X_NEW), clf.classes_[clf.predict_proba(X_NEW).argmax(1)]
    )
    assert isinstance(clf.explain(X_NEW), np.ndarray)


@trained_by_gradient
def test_early_stopping(kind):
    models = [make(kind, device, early_stopping=True).fit(X, y) for device in (NAME, "cpu")]
    assert_alike(*models)
    accuracy = [model.history_[:, "valid_acc"] for model in models]
    assert accuracy[0] == accuracy[1]


@trained_by_gradient
def test_partial_fit_and_warm_start(kind):
    models = []
    for device in (NAME, "cpu"):
        model = make(kind, device, warm_start=True)
        model.partial_fit(X, y, classes=[0, 1], sample_weight=WEIGHT)
        models.append(model.partial_fit(X[::-1], y[::-1]).fit(X, y))
    assert_alike(*models)


@pytest.mark.parametrize(
    "params",
    [
        {"iterator_train__device": NAME},
        {"iterator_train__device": "cpu"},
        {"optimizer": "sgd"},
        {"optimizer": "lbfgs", "lr": 0.1, "max_epochs": 1},
        {"optimizer": "rmsprop", "weight_decay": 1e-3},
        {"l1": 1e-3, "l1_first": 1e-3, "l2_first": 1e-3, "bias": "nonpositive"},
        {"class_weight": "balanced"},
    ],
)
def test_settings(params):
    there_only = [name for name in params if "device" in name]
    on_cpu = {name: value for name, value in params.items() if name not in there_only}
    assert_alike(make("mlp", **params).fit(X, y), make("mlp", "cpu", **on_cpu).fit(X, y))


def test_float64():
    clf = make("mlp", dtype="float64")
    if holds_float64():
        clf.fit(X, y)
        assert_near(
            clf.explain(X_NEW), make("mlp", "cpu", dtype="float64").fit(X, y).explain(X_NEW), 1e-9
        )
        return
    with pytest.raises(
        ValueError, match=r"(?s)float64.*not available on device='simulated'.*float32"
    ):
        clf.fit(X, y)


def test_a_float64_file(tmp_path):
    """The dtype stays that of the training, so a device without it refuses."""
    clf = make("mlp", "cpu", dtype="float64").fit(X, y)
    sklrp.save(clf, tmp_path / "x.sklrp")
    if holds_float64():
        assert_alike(sklrp.load(tmp_path / "x.sklrp", device=NAME), clf)
        return
    with pytest.raises(ValueError, match=r"(?s)float64.*fit with dtype='auto' or 'float32'"):
        sklrp.load(tmp_path / "x.sklrp", device=NAME)


@every_kind
def test_save_load_copy(kind, pairs, tmp_path):
    clf, on_cpu = pairs[kind]
    sklrp.save(clf, tmp_path / "there.sklrp")
    sklrp.save(on_cpu, tmp_path / "here.sklrp")
    copies = [
        sklrp.load(tmp_path / "there.sklrp"),
        sklrp.load(tmp_path / "here.sklrp", device=NAME),
        pickle.loads(pickle.dumps(clf)),
        copy.deepcopy(clf),
    ]
    for other in copies:
        assert next(other.module_.parameters()).device.type == NAME
        np.testing.assert_array_equal(other.explain(X_NEW), clf.explain(X_NEW))
    assert_alike(on_cpu, clf)
    if kind == "esn":
        return
    gone_on = [model.partial_fit(X, y) for model in (*copies, copy.deepcopy(on_cpu))]
    for other in gone_on[1:]:
        assert_alike(other, gone_on[0])


@every_kind
def test_dropout_and_the_callers_generators(kind):
    """A seed gives the same network, whatever the generators and the default device are."""
    own = {"dropout": 0.5} if kind in ("mlp", "cnn") else {}
    for device in (NAME, "cpu"):
        first = make(kind, device, **own).fit(X, y)
        torch.manual_seed(7)
        states = torch.get_rng_state(), torch.simulated.get_rng_state()
        with torch.device(NAME):
            second = make(kind, device, **own).fit(X, y)
        np.testing.assert_array_equal(second.explain(X_NEW), first.explain(X_NEW))
        for before, after in zip(
            states, (torch.get_rng_state(), torch.simulated.get_rng_state()), strict=True
        ):
            assert torch.equal(before, after)


@every_kind
def test_tensors_of_the_device(kind, pairs):
    """Whatever takes arrays takes tensors, wherever they are."""
    clf, on_cpu = pairs[kind]
    expected = on_cpu.explain(X_NEW, target=Y_NEW)
    for model in (clf, on_cpu):
        assert_near(model.explain(there(X_NEW), target=there(Y_NEW)), expected)
        assert_near(model.explain(X_NEW, target=list(there(Y_NEW))), expected)
        np.testing.assert_array_equal(model.predict(there(X_NEW)), on_cpu.predict(X_NEW))
        assert model.score(there(X_NEW), there(Y_NEW)) == on_cpu.score(X_NEW, Y_NEW)
    one = there(X_NEW).requires_grad_()
    assert_near(clf.explain(one, target=there(1)), on_cpu.explain(X_NEW, target=1))
    for device in (NAME, "cpu"):
        given = make(kind, device).fit(there(X), there(y), sample_weight=there(WEIGHT))
        assert_alike(given, make(kind, "cpu").fit(X, y, sample_weight=WEIGHT))
    rows = there(X.reshape(len(X), -1))
    assert make("mlp").partial_fit(rows, there(y), classes=there([0, 1])).n_features_in_ == 100


# What asks a model. Every question is asked with arrays and with tensors.

as_given = pytest.mark.parametrize("give", [np.asarray, there], ids=["arrays", "tensors"])


@as_given
@every_kind
def test_skill_map(kind, give, pairs):
    clf, on_cpu = pairs[kind]
    options = {"n_permutations": 19, "alpha": 0.1, "random_state": 0}
    target = there(1) if give is there else 1
    found = skill_map(clf, give(X_NEW), give(Y_NEW), X_train=give(X), target=target, **options)
    expected = skill_map(on_cpu, X_NEW, Y_NEW, X_train=X, target=1, **options)
    for values in ("skill", "z"):
        assert_near(found[values], expected[values])


@as_given
@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_artifact_map(kind, give, pairs):
    clf, on_cpu = pairs[kind]
    options = {"n_permutations": 4, "alpha": 0.2, "max_samples": 20, "random_state": 0}
    found = artifact_map(clf, give(X_NEW), give(Y_NEW), **options)
    expected = artifact_map(on_cpu, X_NEW, Y_NEW, **options)
    for values in ("mean", "skill"):
        assert_near(found[values], expected[values])


@as_given
def test_diagnose(give, pairs):
    clf, on_cpu = pairs["mlp"]
    given = {"mask": MASK, "X_train": X, "y_train": y}
    options = {"random_state": 0, "n_permutations": 19, "max_samples": 20}
    found = diagnose(
        clf, give(X_NEW), give(Y_NEW), **{k: give(v) for k, v in given.items()}, **options
    )
    expected = diagnose(on_cpu, X_NEW, Y_NEW, **given, **options)
    assert list(found.tests) == list(expected.tests)
    for name, test in expected.tests.items():
        assert found.tests[name].verdict == test.verdict, name


@as_given
@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_audit(kind, give, pairs):
    clf, on_cpu = pairs[kind]
    maps = on_cpu.explain(X_NEW)
    found = audit(clf, give(X_NEW), give(maps), y=give(Y_NEW), X_train=give(X))
    expected = audit(on_cpu, X_NEW, maps, y=Y_NEW, X_train=X)
    assert [m.name for m in found.mistakes] == [m.name for m in expected.mistakes]
    assert set(found.checked) == set(expected.checked)


@as_given
@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_metrics(kind, give, pairs):
    clf, on_cpu = pairs[kind]
    maps = on_cpu.explain(X_NEW)
    score = np.ones(len(maps))
    weights = np.linspace(1.0, 2.0, MASK.size, dtype=np.float32).reshape(MASK.shape)
    assert_near(relevance_mass(give(maps), give(MASK)), relevance_mass(maps, MASK), 1e-6)
    assert_near(
        relevance_mass(give(maps), give(MASK), weights=give(weights)),
        relevance_mass(maps, MASK, weights=weights),
        1e-6,
    )
    assert_near(relevance_rank(give(maps), give(MASK)), relevance_rank(maps, MASK), 1e-6)
    assert_near(sparseness(give(maps)), sparseness(maps), 1e-6)
    if give is np.asarray or holds_float64():
        assert_near(
            conservation_error(give(maps), give(score)), conservation_error(maps, score), 1e-6
        )
    groups = np.arange(MASK.size).reshape(MASK.shape) // 10
    asked = {"target": Y_NEW, "groups": groups}
    given = {name: give(value) for name, value in asked.items()}
    for metric in (pixel_flipping_score, faithfulness_correlation):
        assert_near(
            metric(clf, give(X_NEW), give(maps), **given, random_state=0),
            metric(on_cpu, X_NEW, maps, **asked, random_state=0),
            1e-2,
        )
    for metric, tolerance in ((max_sensitivity, 1e-2), (skill_mass, 1e-2)):
        second = (Y_NEW,) if metric is skill_mass else ()
        found = metric(clf, give(X_NEW), *map(give, second), random_state=0)
        assert_near(found, metric(on_cpu, X_NEW, *second, random_state=0), tolerance)


@as_given
def test_randomization(give, pairs):
    clf, on_cpu = pairs["mlp"]
    found = randomization_similarity(clf, give(X_NEW), target=give(Y_NEW), random_state=0)
    expected = randomization_similarity(on_cpu, X_NEW, target=Y_NEW, random_state=0)
    assert_near(found.similarity, expected.similarity, 1e-2)


@as_given
@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_transformer(kind, give, pairs):
    clf, on_cpu = pairs[kind]
    regions = np.arange(MASK.size).reshape(MASK.shape) // 10
    found = sklrp.RelevanceTransformer(clf, aggregate=give(regions)).fit(give(X), give(y))
    expected = sklrp.RelevanceTransformer(on_cpu, aggregate=regions).fit(X, y)
    assert_near(found.transform(give(X_NEW)), expected.transform(X_NEW))


@as_given
def test_bounds_and_what_stands_before_a_network(give):
    low, high = X.min(0), X.max(0)
    linear = make("mlp", hidden_layer_sizes=()).fit(X, y)
    box = sklrp.ZBox(give(low.ravel()), give(high.ravel()))
    expected = linear.explain(X_NEW, rule=sklrp.ZBox(low.ravel(), high.ravel()))
    np.testing.assert_array_equal(linear.explain(give(X_NEW), rule=box), expected)
    assert "tensor" not in repr(box)
    for step in (InputCapper(), InputMasker(mask=give(MASK))):
        plain = InputMasker(mask=MASK) if isinstance(step, InputMasker) else InputCapper()
        np.testing.assert_array_equal(
            step.fit(give(X)).transform(give(X_NEW)), plain.fit(X).transform(X_NEW)
        )
    rows, new = X.reshape(len(X), -1), X_NEW.reshape(len(X_NEW), -1)
    pipe = make_pipeline(StandardScaler(), make("mlp")).fit(rows, y)
    found = sklrp.explain(pipe, give(new), target=give(Y_NEW))
    assert_near(found, sklrp.explain(pipe, new, target=Y_NEW), 1e-9)


@as_given
def test_displays(give, pairs):
    clf, on_cpu = pairs["mlp"]
    shown = RelevanceDisplay.from_estimator(
        clf, give(X_NEW[:3]), give(Y_NEW[:3]), outline=give(MASK)
    )
    expected = RelevanceDisplay.from_estimator(on_cpu, X_NEW[:3], Y_NEW[:3], outline=MASK)
    assert_near(shown.limits_, expected.limits_)
    plt.close("all")


def test_scorers_and_cross_validation():
    scoring = {
        "mass": make_relevance_scorer("relevance_mass", mask=there(MASK)),
        "accuracy": "accuracy",
    }
    found, expected = (
        cross_validate(make("mlp", device), ALL, LABELS, cv=2, scoring=scoring)
        for device in (NAME, "cpu")
    )
    for name in scoring:
        assert_near(found[f"test_{name}"], expected[f"test_{name}"])
