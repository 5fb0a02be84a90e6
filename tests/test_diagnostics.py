"""The tests of maps, against plain rewrites, maps made to show a pattern, and planted cases."""

import pickle
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import t as student
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklrp import MLPClassifier
from sklrp._streams import Streams
from sklrp.datasets import make_squares
from sklrp.diagnostics import (
    artifact_map,
    bias_share,
    degeneracy,
    diagnose,
    equivariance_test,
    position_profile,
    randomization_test,
)
from sklrp.diagnostics.common_form import as_shares, cosines
from sklrp.diagnostics.constant_cells import fixed_cells
from sklrp.diagnostics.explained import Explained
from sklrp.diagnostics.fact_map import split_map
from sklrp.diagnostics.findings import Finding, bootstrap, judge
from sklrp.diagnostics.nulls import NULLS
from sklrp.diagnostics.outliers import outlying_cells
from sklrp.diagnostics.positions import positions
from sklrp.diagnostics.randomization import compare_with_null
from sklrp.diagnostics.report import ArtifactReport
from sklrp.diagnostics.skill import skill
from sklrp.plotting import ArtifactDisplay
from tests.helpers import planted as planted_cases

SHAPE = (20, 20)


@pytest.fixture(scope="module")
def squares():
    X, y, mask = make_squares(n_per_class=60, size=20, random_state=0)
    return X[:60], y[:60], X[60:], y[60:], mask


@pytest.fixture(scope="module")
def mlp(squares):
    X, y = squares[:2]
    clf = MLPClassifier((32,), max_epochs=20, random_state=0).fit(X, y)
    clf.predict(X[:1])  # skorch turns to evaluation mode at the first prediction, and stays there
    return clf


class Drawn(ClassifierMixin, BaseEstimator):
    """A classifier whose maps are given; null models have other maps."""

    classes_ = np.array([0, 1])
    module_ = torch.nn.Linear(1, 1)

    def __init__(self, maps, nulls=None, score=1.0):
        self.maps, self.nulls, self.score = maps, nulls, score
        self.is_fitted_ = True
        self.input_shape_ = maps.shape[1:]

    def fit(self, X, y):
        return self

    def predict(self, X):
        return np.zeros(len(X), dtype=int)

    def explain(self, X, *, target=None, return_details=False, **params):
        maps = self.maps[: len(X)]
        trained = getattr(self, "weight", None) is None or self.weight == self.module_.weight
        if self.nulls is not None and not trained:
            maps = self.nulls[: len(X)]
        score = np.full(len(X), self.score)
        details = type("Details", (), {"score": score, "layers": []})
        return (maps, details) if return_details else maps


def drawn(maps, nulls=None, X=None, y=None):
    """Explain samples with the given maps, and with other maps by random networks."""
    estimator = Drawn(maps, nulls)
    estimator.module_ = torch.nn.Linear(1, 1)
    estimator.weight = estimator.module_.weight.item()
    X = np.ones_like(maps) if X is None else X
    return Explained(estimator, X, y, random_state=0)


# The common form of maps


def test_maps_are_normalised():
    maps = np.array([[1.0, -3.0], [0.0, 0.0], [1e300, 1e300]])
    expected = [[-0.25, 0.75], [0, 0], [0.5, 0.5]]
    np.testing.assert_allclose(as_shares(maps, [-1.0, 1.0, 2.0]), expected, rtol=1e-6)


def test_cosines():
    one = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    other = np.array([[0.0, 2.0], [3.0, 3.0], [1.0, 0.0]])
    np.testing.assert_allclose(cosines(one, other), [0, 1, np.nan])


def test_bootstrap_covers_the_mean():
    values = np.random.default_rng(0).normal(3.0, 2.0, size=400)
    low, high = bootstrap(values, np.random.default_rng(1))
    half = 1.96 * values.std() / 20
    np.testing.assert_allclose([low, high], values.mean() + np.array([-half, half]), atol=0.04)


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((0.91, 0.95), "artifact"), ((0.1, 0.5), "fact"), ((0.5, 0.95), "undecided")],
)
def test_judge(interval, verdict):
    assert judge(interval, artifact_above=0.9, fact_below=0.6) == verdict


# Randomisation


def test_randomization_is_the_cosine_with_random_networks():
    """A linear network under the epsilon rule: R = x * w, so that all is known in closed form."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 6)), np.repeat([0, 1], 20)
    clf = MLPClassifier((), bias=False, max_epochs=3, random_state=0).fit(X, y)
    found = randomization_test(clf, X, rule="zero", n_permutations=4, random_state=7)
    target = clf.predict(X)
    maps = X * clf.module_[-1].weight.detach().numpy()[target]
    seeds = Streams(7).seeds("null network", 4)
    for similarity, seed in zip(found.similarity, seeds, strict=True):
        generator = torch.Generator().manual_seed(int(seed))
        weight = torch.empty(2, 6, dtype=torch.float64)
        weight = weight.uniform_(-(6**-0.5), 6**-0.5, generator=generator).numpy()
        other = X * weight[target]
        size = np.linalg.norm(maps, axis=1) * np.linalg.norm(other, axis=1)
        np.testing.assert_allclose(
            similarity, np.abs((maps * other).sum(axis=1)) / size, rtol=1e-5
        )
    assert found.statistic == pytest.approx(found.similarity.mean())


@pytest.mark.filterwarnings("ignore:.*flat")
def test_randomization_verdicts(mlp, squares):
    X = squares[2]
    assert randomization_test(mlp, X, rule="epsilon", random_state=0).verdict == "fact"
    flat = randomization_test(
        mlp, X, rule=planted_cases.FLAT_FIRST, null="readout", random_state=0
    )
    assert flat.verdict == "artifact"
    data = {"X_train": squares[0], "y_train": squares[1]}
    labels = randomization_test(mlp, X, null="labels", n_permutations=2, **data)
    alone = randomization_test(mlp, X, rule="epsilon", n_permutations=1, random_state=0)
    assert re.search(
        r"maps of 1 network before .*they explain \d+ % of the squared", alone.reading
    )
    assert labels.name == "labels"
    assert labels.verdict == "fact"


def test_randomization_of_labels_needs_training_data(mlp, squares):
    with pytest.raises(ValueError, match="X_train=None: null='labels' trains clones"):
        randomization_test(mlp, *squares[2:4], null="labels", n_permutations=1)
    with pytest.raises(ValueError, match="y_train=None: null='labels' trains clones"):
        randomization_test(mlp, squares[2], null="labels", X_train=squares[0], n_permutations=1)


def test_null_maps_without_relevance_are_left_out():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(10, 12))
    explained = drawn(maps, np.zeros_like(maps))
    found = compare_with_null(explained, NULLS["network"], 3)
    assert np.isnan(found.similarity).all()
    assert found.verdict == "undecided"
    assert "3 more had no relevance" in found.reading


# Fact map and artifact map


def test_artifact_map_is_a_t_test_per_cell(mlp, squares):
    X = squares[2]
    found = artifact_map(mlp, X, n_permutations=12, max_samples=None, random_state=3)
    explained = Explained(mlp, X, random_state=3)
    maps = explained.maps.mean(axis=0, dtype=float)
    nulls = explained.null_maps("network", 12).mean(axis=1, dtype=float)
    nulls = nulls[[bool(n.any()) for n in nulls]]
    k = len(nulls)
    z = (maps - nulls.mean(axis=0)) / (nulls.std(axis=0, ddof=1) * np.sqrt(1 + 1 / k))
    p = 2 * student.sf(np.abs(z), k - 1).ravel()
    order = np.argsort(p)  # Benjamini and Hochberg, by hand
    corrected = np.minimum.accumulate((p[order] * p.size / np.arange(1, p.size + 1))[::-1])[::-1]
    expected = np.empty(p.size)
    expected[order] = np.minimum(corrected, 1)
    np.testing.assert_allclose(found.p_value.ravel(), expected, rtol=1e-6)
    np.testing.assert_allclose(found.fact + found.artifact, found.mean, atol=1e-12)
    assert (found.fact[~found.significant] == 0).all()


def test_artifact_map_finds_the_square_and_little_else():
    X, y, mask = make_squares(n_per_class=100, size=40, random_state=0)
    clf = MLPClassifier((32,), max_epochs=20, random_state=0).fit(X, y)
    found = artifact_map(clf, X, random_state=0)
    assert found.verdict == "fact"
    assert found.significant[mask].all()
    assert found.significant[~mask].mean() < 0.05


def test_artifact_map_of_an_untrained_network_is_empty(squares):
    """One more draw of the null: with a false discovery rate of 5 %, mostly nothing is found."""
    X, y = squares[:2]
    shares = []
    for seed in range(8):
        clf = MLPClassifier((32,), max_epochs=1, lr=1e-9, random_state=seed).fit(X, y)
        shares.append(artifact_map(clf, squares[2], n_permutations=30, random_state=0).statistic)
    assert np.median(shares) == 0
    assert max(shares) < 0.05


def test_artifact_map_needs_three_nulls(mlp, squares):
    with pytest.raises(ValueError, match="n_permutations"):
        artifact_map(mlp, squares[2], n_permutations=2)
    maps = np.random.default_rng(0).normal(size=(5, 8))
    with pytest.raises(ValueError, match="only 0 of n_permutations=4"):
        split_map(drawn(maps, np.zeros_like(maps)), "network", 4)


# Degenerate maps and cells


@pytest.mark.parametrize("kind", ["zero", "constant", "the input", "equal for all samples", None])
def test_degeneracy(kind):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 15))
    maps = {
        "zero": np.zeros_like(X),
        "constant": np.ones_like(X) * rng.normal(size=(30, 1)),
        "the input": 3 * np.abs(X),
        "equal for all samples": np.ones((30, 1)) * rng.normal(size=15),
        None: X * rng.normal(size=15),
    }[kind]
    found = degeneracy(Drawn(maps), X)
    assert found.verdict == ("fact" if kind is None else "artifact")
    if kind is not None:
        assert found.shares[kind] == 1
        assert f"100 % of the maps are {kind}" in found.advice


def test_equal_samples_have_equal_maps():
    """Maps that are alike because the samples are say nothing against the rule."""
    rng = np.random.default_rng(0)
    X = 1 + 1e-3 * rng.normal(size=(20, 30))
    assert degeneracy(Drawn(X * rng.normal(size=30)), X).verdict == "fact"


def test_degeneracy_of_classes():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 10))
    estimator = Drawn(X * rng.normal(size=10))
    estimator.classes_ = np.arange(3)
    assert degeneracy(estimator, X).shares["equal for all classes"] == 1


def test_relevance_on_fixed_cells():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 10))
    X[:, 0] = -5.0
    maps = np.ones_like(X)
    found = fixed_cells(drawn(maps, X=X))
    assert found.statistic == pytest.approx(0.1)
    assert found.verdict == "artifact"
    np.testing.assert_array_equal(found.cells, np.arange(10) == 0)
    maps[:, 0] = 0
    assert fixed_cells(drawn(maps, X=X)).verdict == "fact"
    X[:, 0] = 0
    assert fixed_cells(drawn(maps, X=X)).verdict == "fact"
    assert fixed_cells(drawn(np.ones_like(X), X=X)).verdict == "artifact"  # as flat rules do


def test_relevance_on_outliers():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 100))
    X[:, 7] *= 1000
    maps = X * rng.normal(size=100)
    assert outlying_cells(drawn(maps, maps, X=X), 3).verdict == "artifact"
    elsewhere = np.delete(maps, 7, axis=1)
    elsewhere = np.insert(elsewhere, 7, 0, axis=1)
    assert outlying_cells(drawn(maps, elsewhere, X=X), 3).verdict == "fact"  # it was learned


def test_bias_share_adds_up(mlp, squares):
    found = bias_share(mlp, squares[2], rule="epsilon", max_samples=None)
    maps, details = mlp.explain(squares[2], rule="epsilon", return_details=True)
    missing = np.abs(1 - maps.sum(axis=(1, 2)) / details.score)
    assert found.statistic == pytest.approx(np.median(missing))
    kept = np.array([[layer[c] for c in found.causes] for layer in details.layers])
    np.testing.assert_allclose(kept.sum(axis=(0, 1)), details.score - maps.sum(axis=(1, 2)))
    assert set(found.to_frame().columns) == {"layer", *found.causes}


# Positions


def find_positions(maps, nulls, X=None):
    X = np.ones_like(maps) if X is None else X
    return {f.name: f for f in positions(drawn(maps, nulls, X=X), 4)}


def test_fading_memory_is_found():
    rng = np.random.default_rng(0)
    faded = 0.8 ** np.arange(30)[::-1] * rng.uniform(0.5, 1.5, size=(40, 20, 30))
    spread = rng.uniform(0.5, 1.5, size=(40, 20, 30))
    found = find_positions(faded, 1.01 * faded)["fading"]
    assert found.verdict == "artifact"
    assert found.axis == 1
    assert found.statistic == pytest.approx(1, abs=0.02)
    assert find_positions(spread, faded)["fading"].statistic == pytest.approx(0, abs=0.02)
    assert find_positions(spread, faded)["fading"].verdict == "fact"
    assert find_positions(faded, spread)["fading"].verdict == "fact"  # it was learned


def test_borders_are_found():
    rng = np.random.default_rng(0)
    plain = rng.uniform(0.5, 1.5, size=(40, 20, 30))
    edge, starved = plain.copy(), plain.copy()
    edge[:, :, [0, 1, -2, -1]] *= 3
    starved[:, :2] *= 0.2
    starved[:, -2:] *= 0.2
    assert find_positions(edge, edge * 1.01)["border"].verdict == "artifact"
    assert find_positions(starved, starved * 1.01)["border"].verdict == "artifact"
    assert find_positions(edge, plain)["border"].verdict == "fact"
    assert find_positions(plain, edge)["border"].verdict == "fact"
    assert find_positions(plain, plain * 1.01)["border"].verdict == "fact"


@pytest.mark.parametrize("period", [2, 3, 4])
def test_grids_are_found(period):
    rng = np.random.default_rng(0)
    plain = rng.uniform(0.5, 1.5, size=(40, 25, 31))
    comb = plain.copy()
    comb[:, ::period] *= 2
    found = find_positions(comb, comb * 1.01)["grid"]
    assert (found.verdict, found.axis, found.period) == ("artifact", 0, period)
    assert find_positions(plain, plain * 1.01)["grid"].verdict == "fact"
    assert find_positions(comb, plain)["grid"].verdict == "fact"
    assert find_positions(comb, comb * 1.01, X=comb)["grid"].verdict == "fact"  # so is the input


def test_positions_need_neighbours(mlp, squares):
    flat = squares[2].reshape(-1, 400)
    clf = MLPClassifier((4,), max_epochs=1, random_state=0).fit(flat, squares[3])
    with pytest.raises(ValueError, match="no axis of at least 8"):
        position_profile(clf, flat)
    found = position_profile(mlp, squares[2], n_permutations=3)
    assert [part.name for part in found.parts] == ["fading", "border", "grid"]
    assert [len(profile) for profile in found.profiles] == [20, 20]


# Equivariance


def test_equivariance_without_refit():
    """An elementwise network follows every object; one with places of its own does not."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(12, 9, 9))

    class Elementwise(Drawn):
        def explain(self, X, *, target=None, return_details=False, **params):
            maps = X**3 * self.maps
            return maps, type("Details", (), {"score": np.ones(len(X)), "layers": []})

    for place, verdict in ((1.0, "fact"), (np.arange(9.0) ** 8, "artifact")):
        estimator = Elementwise(np.ones((12, 9, 9)) * place)
        for transform in ("flip", "shift", "permute"):
            found = equivariance_test(
                estimator, X, transform=transform, refit=False, random_state=1, n_refits=2
            )
            assert found.similarity.shape == (2, 12)
            if verdict == "fact":
                assert found.statistic == pytest.approx(0, abs=1e-6)
            elif transform == "flip":
                assert found.statistic > 0.3


@pytest.mark.parametrize("learns", [True, False])
def test_maps_that_stay_convict_only_if_the_skill_stays(learns):
    """Relevance at a fixed place; networks trained on flipped samples may guess."""

    class Stays(Drawn):
        def __init__(self, maps):
            super().__init__(maps)

        def fit(self, X, y):
            self.flipped_ = X[0, 0, 0] != 5
            return self

        def predict(self, X):
            y = (X.max(axis=(1, 2)) > 7).astype(int)
            return y if learns or not self.flipped_ else 0 * y

    rng = np.random.default_rng(0)
    X, y = rng.uniform(size=(20, 9, 9)), np.arange(20) % 2
    X[:, 4, 4] += 9 * y
    X[:, 0, 0] = 5
    maps = np.ones((20, 9, 9)) * np.arange(9.0) ** 8
    data = {"X_train": X, "y_train": y, "n_refits": 2, "random_state": 0}
    model = Stays(maps).fit(X, y)
    found = equivariance_test(model, X, y, **data)
    assert found.verdict == ("artifact" if learns else "undecided"), found
    np.testing.assert_array_equal(found.skill, 1.0 if learns else 0.5)
    assert ("do not learn" in found.advice) == (not learns)
    assert f"skill {found.skill[0]:.2f} instead of 1.00" in found.reading
    blind = equivariance_test(model, X, **data)
    assert blind.verdict == "artifact"
    assert "skill" not in blind.reading


def test_equivariance_of_a_dense_network(mlp, squares):
    X = squares[2]
    data = {"X_train": squares[0], "y_train": squares[1]}
    found = equivariance_test(mlp, X, transform="permute", n_refits=2, random_state=0, **data)
    assert found.verdict == "fact"
    with pytest.raises(ValueError, match="axis=2"):
        equivariance_test(mlp, X, axis=2, **data)
    with pytest.raises(ValueError, match="X_train=None: refit=True trains clones"):
        equivariance_test(mlp, X, squares[3], n_refits=1)


# Skill


def test_skill_is_a_permutation_test():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [60, 20])
    explained = drawn(rng.normal(size=(80, 5)), y=y)
    guess = np.where(rng.random(80) < 0.9, y, 1 - y)
    explained.model.network.predict = lambda X: guess
    found = skill(explained)
    recalls = [(guess == y)[y == label].mean() for label in (0, 1)]
    assert found.statistic == pytest.approx(np.mean(recalls))
    assert found.p_value == pytest.approx(0.001)
    assert found.null.mean() == pytest.approx(0.5, abs=0.01)
    explained.model.network.predict = lambda X: np.zeros(80, dtype=int)  # right for three in four
    assert skill(explained).verdict == "artifact"


def test_skill_of_few_samples_is_undecided():
    y = np.array([0, 1] * 4)
    explained = drawn(np.ones((8, 5)), y=y)
    explained.model.network.predict = lambda X: np.array([0, 1, 0, 1, 0, 1, 1, 0])
    assert skill(explained).verdict == "undecided"


# The report


def finding(name, verdict):
    return Finding(
        name=name,
        question="?",
        statistic=0.5,
        interval=(0.4, 0.6),
        null=np.array([0.1]),
        verdict=verdict,
        reading="of <all>",
        advice="" if verdict == "fact" else f"Change {name}.",
        table={"a": np.arange(2)},
    )


@pytest.mark.parametrize(
    ("verdicts", "expected", "reasons"),
    [
        ({"skill": "fact", "fading": "fact"}, "fact", []),
        ({"skill": "undecided", "fading": "fact"}, "undecided", ["skill"]),
        ({"skill": "undecided", "fading": "artifact"}, "artifact", ["fading"]),
        ({"skill": "fact", "bias": "undecided", "equivariance": "artifact"}, "fact", []),
    ],
)
def test_verdict_of_a_report(verdicts, expected, reasons):
    report = ArtifactReport([finding(*v) for v in verdicts.items()], "x")
    assert report.verdict == expected
    assert report.reasons == reasons
    assert report.cautions == [n for n in ("bias", "equivariance") if n in verdicts]
    assert list(report.to_frame().index) == list(verdicts)
    text = repr(report)
    assert text.startswith(expected.upper())
    for name in reasons:
        assert f"Change {name}." in text


def test_diagnose(mlp, squares, tmp_path):
    _, _, X, y, mask = squares
    before = pickle.dumps(mlp)
    report = diagnose(mlp, X, y, rule="epsilon", mask=mask, random_state=0)
    assert pickle.dumps(mlp) == before
    assert report.verdict == "fact", report
    expected = {"skill", "degeneracy", "randomization", "faithfulness", "constant", "outliers"}
    expected |= {"fading", "border", "grid", "mask", "readout", "map", "bias"}
    assert set(report.tests) == expected
    assert report.assumptions == [
        "Tests that train clones were left out, as X_train and y_train are not given."
    ]
    for test in report.tests.values():
        assert test.verdict in ("fact", "artifact", "undecided")
        assert bool(test.advice) == (test.verdict != "fact")
        assert test.interval[0] <= test.statistic <= test.interval[1] or test.name == "border"
        assert len(test.to_frame())
        assert test.name in repr(test)
    page = report.to_html(tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 3
    assert not re.search(r"(src|href)=\"(?!data:)", page)  # nothing outside the file
    for name in report.tests:
        assert f"<b>{name}</b>" in page
    assert "<html" not in report._repr_html_()


def test_few_null_models_cannot_decide_on_a_mask(mlp, squares):
    _, _, X, y, mask = squares
    params = {"rule": "epsilon", "mask": mask, "random_state": 0}
    found = diagnose(mlp, X, y, n_permutations=9, **params).tests["mask"]
    assert found.verdict == "undecided"
    assert "9 untrained networks with relevance are too few to decide" in found.advice
    assert "n_permutations to at least 10" in found.advice
    assert diagnose(mlp, X, y, n_permutations=10, **params).tests["mask"].verdict == "fact"
    off = diagnose(mlp, X, y, n_permutations=9, **{**params, "mask": ~mask}).tests["mask"]
    assert "does not prefer the place" in off.advice


def test_diagnose_repeats_itself(mlp, squares):
    _, _, X, y, _ = squares
    one, other = (diagnose(mlp, X, y, n_refits=1, random_state=5).to_frame() for _ in range(2))
    assert one.equals(other)


def test_diagnose_with_workers(mlp, squares):
    _, _, X, y, _ = squares
    one, other = (
        diagnose(mlp, X, y, n_refits=1, n_permutations=3, random_state=5, n_jobs=n).to_frame()
        for n in (None, 2)
    )
    np.testing.assert_allclose(one.statistic, other.statistic, rtol=1e-6)


def test_diagnose_takes_pipelines(squares):
    X, y, X_test, y_test, _ = squares
    clf = MLPClassifier((8,), max_epochs=20, random_state=0)
    pipeline = make_pipeline(FunctionTransformer(lambda X: 2 * X), clf).fit(X, y)
    one = diagnose(pipeline, X_test, y_test, n_refits=0, random_state=0)
    other = diagnose(pipeline[-1], 2 * X_test, y_test, n_refits=0, random_state=0)
    pd.testing.assert_frame_equal(one.to_frame(), other.to_frame(), rtol=1e-9)


@pytest.mark.parametrize("labels", [np.array(["no", "yes"]), np.array([3, 7])])
def test_diagnose_takes_tables_and_any_labels(labels):
    """Tables with names are explained with their names, which scikit-learn would warn about."""
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    X, y = (X - X.mean()) / X.std(), labels[y]
    clf = MLPClassifier((8,), max_epochs=10, random_state=0).fit(X[:300], y[:300])
    report = diagnose(clf, X[300:], y[300:], rule="epsilon", n_refits=1, random_state=0)
    assert report.verdict == "fact", report
    assert "fading" not in report.tests  # a table has no positions
    assert report.tests["map"].fact.shape == (30,)
    assert report.plot().artists_["fact"].datavalues.shape == (30,)
    plt.close("all")


def test_more_classes_than_two():
    X, y = load_iris(return_X_y=True)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    clf = MLPClassifier((16,), max_epochs=40, random_state=0).fit(X[::2], y[::2])
    report = diagnose(clf, X[1::2], y[1::2], n_refits=0, random_state=0, contrast=True)
    assert report.tests["skill"].null.mean() == pytest.approx(1 / 3, abs=0.02)
    assert report.tests["degeneracy"].verdict == "fact"


def test_displays_show_what_was_found(mlp, squares):
    _, _, X, y, _ = squares
    report = diagnose(mlp, X, y, n_refits=0, random_state=0)
    display = report.plot()
    for name in ("mean", "fact", "artifact"):
        image = display.artists_[name]
        np.testing.assert_array_equal(image.get_array(), report.tests["map"][name])
        low, high = image.get_clim()
        assert low == -high  # symmetric about zero, and the same for all three
        assert high == np.abs(report.tests["map"].mean).max()
    profile = report.tests["fading"].plot()
    np.testing.assert_array_equal(
        profile.artists_["map1"].get_ydata(), report.tests["fading"].profiles[1]
    )
    layers = report.tests["randomization"].plot()
    np.testing.assert_array_equal(
        layers.artists_["similarity"].get_ydata()[1:],
        report.tests["randomization"].layer_similarity,
    )
    statistic = report.tests["skill"].plot().artists_["statistic"]
    assert statistic.get_xdata()[0] == report.tests["skill"].statistic
    one = ArtifactDisplay.from_estimator(mlp, X, random_state=0, n_permutations=5)
    assert one.finding.name == "map"
    with pytest.raises(ValueError, match="3 Axes"):
        report.plot(ax=one.axes_[:2])
    plt.close("all")


def test_an_interrupted_diagnosis_changes_nothing(mlp, squares, monkeypatch):
    _, _, X, y, _ = squares
    before = pickle.dumps(mlp)

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("sklrp.diagnostics.diagnosis.positions", interrupt)
    with pytest.raises(KeyboardInterrupt):
        diagnose(mlp, X, y)
    assert pickle.dumps(mlp) == before


def test_reports_are_not_left_half_written(mlp, squares, tmp_path, monkeypatch):
    report = ArtifactReport([finding("skill", "fact")], "x")
    target = tmp_path / "report.html"
    target.write_text("before")
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        report.to_html(target)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert target.read_text() == "before"
    with pytest.raises(FileNotFoundError):
        report.to_html(tmp_path / "nowhere" / "report.html")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n_permutations": 0}, ValueError, "n_permutations"),
        ({"max_samples": 0}, ValueError, "max_samples"),
        ({"n_refits": -1}, ValueError, "n_refits"),
        ({"mask": np.ones((3, 3), dtype=bool)}, ValueError, "mask has the shape"),
        ({"mask": np.zeros(SHAPE, dtype=bool)}, ValueError, "mask is empty"),
        ({"rule": "epsilom"}, ValueError, "epsilom"),
        ({"y": np.zeros(60)}, ValueError, "holds the class"),
        ({"y": np.zeros(3)}, ValueError, "one label for each of 60"),
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


def test_maps_that_are_not_finite_are_refused():
    maps = np.ones((5, 12))
    maps[2, 3] = np.inf
    with pytest.raises(ValueError, match="infinite values in 1 of 5"):
        degeneracy(Drawn(maps), np.ones((5, 12)))


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
def test_planted(name):
    report = planted_cases.report(planted_cases.CASES[name](0), 0)
    assert report.verdict == planted_cases.CASES[name].truth, report


def test_progress_is_shown_on_request_only(mlp, squares, capsys):
    X, y = squares[2:4]
    options = {"n_permutations": 3, "n_refits": 0, "max_samples": 10, "random_state": 0}
    report = diagnose(mlp, X, y, **options)
    assert capsys.readouterr() == ("", "")
    assert str(diagnose(mlp, X, y, progress=True, **options)) == str(report)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.search(r"diagnose: 100%.* (\d+)/\1 ", captured.err)
