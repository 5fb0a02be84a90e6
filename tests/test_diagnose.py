"""`diagnose` as a whole: which tests it runs, of what models and data, and its verdicts."""

import pickle
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklrp import Epsilon, ESNClassifier, MLPClassifier
from sklrp.diagnostics import diagnose
from tests.helpers import planted as planted_cases

SHAPE = (20, 20)
PATTERNS = {"constant", "outliers", "suppressor", "fading", "border", "grid"}
OF_NETWORKS = {"randomization", "readout", "bias", "coherent", "outliers", "fading", "border"}
OF_NETWORKS |= {"grid"}
ALWAYS = {"skilled", "true", "degeneracy", "used", "audit"} | OF_NETWORKS | PATTERNS


@pytest.fixture(scope="module")
def held_out(squares):
    """Return the held-out samples, their labels, and the training samples."""
    X_train, _, X, y, _ = squares
    return {"X": X, "y": y, "X_train": X_train, "random_state": 0}


# Which tests are run


def test_all_tests(mlp, squares, held_out):
    mask, before = squares[4], pickle.dumps(mlp)
    report = diagnose(mlp, rule="epsilon", mask=mask, **held_out)
    assert pickle.dumps(mlp) == before
    assert report.verdict == "fact", report
    assert set(report.tests) == ALWAYS | {"mask"}
    assert list(report.questions) == ["skilled", "true", "learned", "used", "coherent"]
    for test in report.tests.values():
        assert test.verdict in ("fact", "artifact", "undecided")
        assert bool(test.advice) == (test.verdict != "fact")
        assert test.interval[0] <= test.statistic <= test.interval[1] or test.name == "border"
        assert len(test.to_frame())
        assert test.name in repr(test)
    assert report.assumptions == report.picture.assumptions


@pytest.mark.slow
def test_tests_that_train(mlp, squares, held_out):
    y_train, before = squares[1], pickle.dumps(mlp)
    report = diagnose(mlp, y_train=y_train, n_refits=2, **held_out)
    assert set(report.tests) == ALWAYS | {"labels", "equivariance"}
    assert report.questions["placed"].name == "equivariance"
    assert len(report.tests["labels"].similarity) == 2
    assert report.questions["placed"].similarity.shape == (2, 60)
    assert pickle.dumps(mlp) == before
    without = diagnose(mlp, n_refits=2, **held_out)
    assert set(without.tests) == ALWAYS
    assert without.assumptions[-1] == (
        "Tests that train clones were left out, as X_train and y_train were not both given."
    )


@pytest.mark.slow
def test_without_labels_no_map_is_a_fact(mlp, squares):
    report = diagnose(mlp, squares[2], rule="epsilon", random_state=0)
    assert set(report.tests) == ALWAYS - {"skilled", "true", "suppressor"}
    assert report.verdict == "undecided"
    assert report.picture is None
    assert "y was not given" in report.assumptions[0]
    assert report.sentence in repr(report)
    assert "the network is skilled" in report.sentence
    # What can be said is said.
    off = diagnose(mlp, squares[2], rule=Epsilon(1e10), random_state=0)
    assert (off.verdict, off.reasons) == ("artifact", ["bias"])


def test_a_map_of_next_to_nothing_is_an_artifact(mlp, held_out):
    """All else is well: the map's shape is right, and no ratio tells that it sums to 1e-20."""
    report = diagnose(mlp, rule=Epsilon(1e10), **held_out)
    assert (report.verdict, report.reasons) == ("artifact", ["bias"])
    assert "lower epsilon" in report.sentence


def test_an_interrupted_diagnosis_changes_nothing(mlp, held_out, monkeypatch):
    before = pickle.dumps(mlp)

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("sklrp.diagnostics.diagnosis.find_patterns", interrupt)
    with pytest.raises(KeyboardInterrupt):
        diagnose(mlp, **held_out)
    assert pickle.dumps(mlp) == before


def test_progress_is_shown_on_request_only(mlp, squares, capsys):
    X, y = squares[2:4]
    options = {"n_permutations": 3, "max_samples": 10, "random_state": 0}
    report = diagnose(mlp, X, y, **options)
    assert capsys.readouterr() == ("", "")
    assert str(diagnose(mlp, X, y, progress=True, **options)) == str(report)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.search(r"diagnose: 100%.* (\d+)/\1 ", captured.err)


# Random numbers


@pytest.mark.slow
def test_diagnose_repeats_itself(mlp, squares, held_out):
    options = {**held_out, "y_train": squares[1], "n_refits": 1, "n_permutations": 5}
    one, other = (diagnose(mlp, **options).to_frame() for _ in range(2))
    assert one.equals(other)


@pytest.mark.slow
def test_diagnose_with_workers(mlp, squares, held_out):
    options = {**held_out, "y_train": squares[1], "n_refits": 1, "n_permutations": 3}
    options["max_samples"] = 20
    one, other = (diagnose(mlp, n_jobs=n, **options).to_frame() for n in (None, 2))
    np.testing.assert_allclose(one.statistic, other.statistic, rtol=1e-6)


@pytest.mark.parametrize(("rule", "expected"), [("epsilon", "fact"), ("z_plus", "artifact")])
@pytest.mark.slow
def test_verdicts_do_not_depend_on_the_seed(squares, held_out, rule, expected):
    esn = ESNClassifier(50, sweep="right", leak_rate=0.05, random_state=0).fit(*squares[:2])
    reports = [diagnose(esn, rule=rule, **{**held_out, "random_state": s}) for s in range(3)]
    assert [report.verdict for report in reports] == [expected] * 3


# Models and data


def test_diagnose_takes_pipelines(squares):
    X, y, X_test, y_test, _ = squares
    clf = MLPClassifier((8,), max_epochs=20, random_state=0)
    pipeline = make_pipeline(FunctionTransformer(lambda X: 2 * X), clf).fit(X, y)
    one = diagnose(pipeline, X_test, y_test, X_train=X, random_state=0)
    other = diagnose(pipeline[-1], 2 * X_test, y_test, X_train=2 * X, random_state=0)
    pd.testing.assert_frame_equal(one.to_frame(), other.to_frame(), rtol=1e-9)


@pytest.mark.sweep(1)
@pytest.mark.parametrize("labels", [np.array(["no", "yes"]), np.array([3, 7])])
def test_diagnose_takes_tables_and_any_labels(labels):
    """Tables with names are explained with their names, which scikit-learn would warn about."""
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    X, y = (X - X.mean()) / X.std(), labels[y]
    clf = MLPClassifier((8,), max_epochs=10, random_state=0).fit(X[:300], y[:300])
    data = {"X_train": X[:300], "y_train": y[:300], "n_refits": 1}
    report = diagnose(clf, X[300:], y[300:], rule="epsilon", random_state=0, **data)
    assert report.verdict == "fact", report
    assert not {"fading", "equivariance"} & set(report.tests)  # a table has no positions
    assert "labels" in report.tests
    assert report.picture.fact.shape == (30,)
    assert len(report.plot().artists_["mean"].datavalues) == 20
    plt.close("all")


def test_more_classes_than_two():
    X, y = load_iris(return_X_y=True)
    _, rows = np.unique(X, axis=0, return_index=True)  # one flower is there twice
    rows = np.random.default_rng(0).permutation(rows)
    X, y = (X[rows] - X.mean(axis=0)) / X.std(axis=0), y[rows]
    clf = MLPClassifier((16,), max_epochs=40, random_state=0).fit(X[::2], y[::2])
    report = diagnose(clf, X[1::2], y[1::2], X_train=X[::2], random_state=0, contrast=True)
    assert report.tests["skilled"].null == pytest.approx(1 / 3)
    assert report.tests["degeneracy"].verdict == "fact"


@pytest.fixture(scope="module")
def digits():
    """A network that knows four digits, and samples that it never saw."""
    X, y = load_digits(n_class=4, return_X_y=True)
    X = (X - X.mean(axis=0)) / 16
    clf = MLPClassifier((32,), max_epochs=30, random_state=0).fit(X[:400], y[:400])
    return clf, {"X": X[400:600], "y": y[400:600], "X_train": X[:400], "random_state": 0}


@pytest.mark.sweep(1)
@pytest.mark.parametrize("target", [None, 0, 1, 2, 3])
def test_a_sound_network_is_sound_for_every_class(digits, target):
    """Most samples have a negative logit of a class that they are not of."""
    clf, data = digits
    report = diagnose(clf, rule="epsilon", target=target, **data)
    assert report.verdict == "fact", report
    assert report.tests["used"].reversed_classes == []


# Maps made elsewhere


def integrated_gradients(clf, X, labels, n_steps=32):
    """Return the map of each sample, against an input of zero."""
    columns = torch.from_numpy(np.searchsorted(clf.classes_, labels))
    dtype, total = next(clf.module_.parameters()).dtype, 0.0
    for step in (np.arange(n_steps) + 0.5) / n_steps:
        rows = torch.from_numpy(step * X.reshape(len(X), -1)).to(dtype).requires_grad_()
        scores = clf.module_(rows)
        chosen = scores[torch.arange(len(rows)), columns].sum()
        total = total + torch.autograd.grad(chosen, rows)[0].numpy()
    return (total / n_steps).reshape(X.shape) * X


@pytest.fixture(scope="module")
def gradients(mlp, squares):
    X = squares[2]
    said = mlp.predict(X)
    return integrated_gradients(mlp, X, said), integrated_gradients(mlp, X, 1 - said), said


def test_maps_made_elsewhere(mlp, held_out, gradients):
    report = diagnose(mlp, relevance=gradients[0], **held_out)
    assert report.verdict == "fact", report
    assert set(report.tests) == ALWAYS - OF_NETWORKS
    assert "made elsewhere" in repr(report)
    assert "no other network's" in report.assumptions[-1]
    unsigned = diagnose(mlp, relevance=np.abs(gradients[0]), **held_out)
    assert unsigned.verdict == "fact", unsigned
    assert "both without sign" in unsigned.tests["used"].reading


def another_of_the_class(maps, said):
    moved = np.empty_like(maps)
    for label in np.unique(said):
        moved[said == label] = np.roll(maps[said == label], 1, axis=0)
    return moved


BAD_MAPS = {
    "random": lambda maps, wrong, said: np.random.default_rng(0).normal(size=maps.shape),
    "of other samples": lambda maps, wrong, said: np.roll(maps, 1, axis=0),
    "of others of the class": lambda maps, wrong, said: another_of_the_class(maps, said),
    "of the wrong class": lambda maps, wrong, said: wrong,
    "negated": lambda maps, wrong, said: -maps,
    "transposed": lambda maps, wrong, said: np.swapaxes(maps, 1, 2),
}


@pytest.mark.parametrize("name", BAD_MAPS)
def test_bad_maps_made_elsewhere(mlp, held_out, gradients, name):
    report = diagnose(mlp, relevance=BAD_MAPS[name](*gradients), **held_out)
    assert report.verdict == "artifact", report
    assert "used" in report.reasons


def test_the_size_of_the_input_is_no_map(mlp, held_out):
    report = diagnose(mlp, relevance=np.abs(held_out["X"]), **held_out)
    assert {"true", "used", "degeneracy"} <= set(report.reasons)


# Bad input


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n_permutations": 0}, ValueError, "n_permutations"),
        ({"max_samples": 0}, ValueError, "max_samples"),
        ({"n_refits": -1}, ValueError, "n_refits"),
        ({"block_length": 0}, ValueError, "block_length"),
        ({"mask": np.ones((3, 3), dtype=bool)}, ValueError, "mask has the shape"),
        ({"mask": np.zeros(SHAPE, dtype=bool)}, ValueError, "mask is empty"),
        ({"mask": np.ones(SHAPE, dtype=bool)}, ValueError, "mask is True everywhere"),
        ({"max_samples": 1}, ValueError, "single map is explained, of 60 samples"),
        ({"X": np.ones((1, *SHAPE)), "y": None}, ValueError, "single map is explained"),
        ({"X": np.ones((60, *SHAPE))}, ValueError, "all 60 samples of X are the same"),
        ({"rule": "epsilom"}, ValueError, "epsilom"),
        ({"y": np.zeros(60)}, ValueError, "y holds the class 0 only"),
        ({"y": np.zeros(3)}, ValueError, "one label for each of 60"),
        ({"groups": np.zeros(3)}, ValueError, "groups"),
        ({"relevance": np.ones((60, 3))}, ValueError, r"relevance has the shape \(60, 3\)"),
        ({"X_train": np.ones((9, 3))}, ValueError, "X_train"),
        ({"target": 7}, ValueError, "unknown labels 7"),
        ({"X": np.full((60, *SHAPE), np.nan)}, ValueError, "NaN"),
        ({"model": MLPClassifier()}, NotFittedError, "not fitted"),
        ({"model": FunctionTransformer()}, TypeError, "does not explain itself"),
    ],
)
def test_bad_input(mlp, squares, change, error, message):
    arguments = {"model": mlp, "X": squares[2], "y": squares[3], **change}
    before = pickle.dumps(mlp)
    with pytest.raises(error, match=message):
        diagnose(**arguments)
    assert pickle.dumps(mlp) == before


# Planted cases: all of them and five seeds by `python -m tests.planted`

QUICK = [
    "flat first layer of an MLP",
    "MLP, permuted labels",
    "MLP, input not centred",
    "fill value on land",
    "outliers not capped",
    "MLP epsilon",
    "CNN epsilon",
    "breast cancer MLP",
]


@pytest.mark.filterwarnings("ignore:.*flat")
@pytest.mark.parametrize("name", QUICK)
@pytest.mark.slow
def test_planted(name):
    report = planted_cases.report(planted_cases.CASES[name](0), 0)
    assert report.verdict == planted_cases.CASES[name].truth, report


def test_maps_of_a_model_without_a_network(squares):
    X, y, X_test, y_test, _ = squares
    rows, rows_test = (samples.reshape(len(samples), -1) for samples in (X, X_test))
    model = LogisticRegression(C=0.01).fit(rows, y)  # of 400 cells, which are asked in blocks
    away = rows_test - rows.mean(axis=0)
    sign = np.where(model.predict(rows_test) == model.classes_[1], 1, -1)[:, np.newaxis]
    options = {"X_train": rows, "random_state": 0}
    sound = diagnose(model, rows_test, y_test, relevance=sign * model.coef_ * away, **options)
    assert sound.verdict == "fact", sound
    assert "There is no network" in sound.assumptions[-1]
    drawn = np.random.default_rng(0).normal(size=rows_test.shape)
    assert diagnose(model, rows_test, y_test, relevance=drawn, **options).verdict == "artifact"
    with pytest.raises(TypeError, match="LogisticRegression does not explain itself"):
        diagnose(model, rows_test, y_test)


def test_too_few_networks_are_refused_before_any_test(mlp, squares, monkeypatch):
    X_train, y_train, X, y = squares[:4]
    ran = []
    monkeypatch.setattr("sklrp.diagnostics.diagnosis.find_skilled", ran.append)
    with pytest.raises(ValueError, match="n_networks=2 is too few"):
        diagnose(mlp, X, y, X_train=X_train, y_train=y_train, n_networks=2)
    assert not ran
