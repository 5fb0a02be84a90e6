"""Tests of a map that are functions of their own: degeneracy, biases and equivariance."""

import numpy as np
import pytest

from sklrp.diagnostics import bias_share, degeneracy, equivariance_test
from tests.helpers.drawn_maps import Drawn


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


def test_maps_that_are_not_finite_are_refused():
    maps = np.ones((5, 12))
    maps[2, 3] = np.inf
    with pytest.raises(ValueError, match="infinite values in 1 of 5"):
        degeneracy(Drawn(maps), np.ones((5, 12)))


def test_bias_share_adds_up(mlp, squares):
    found = bias_share(mlp, squares[2], rule="epsilon", max_samples=None)
    maps, details = mlp.explain(squares[2], rule="epsilon", return_details=True)
    missing = np.abs(1 - maps.sum(axis=(1, 2)) / details.score)
    assert found.statistic == pytest.approx(np.median(missing))
    kept = np.array([[layer[c] for c in found.causes] for layer in details.layers])
    np.testing.assert_allclose(kept.sum(axis=(0, 1)), details.score - maps.sum(axis=(1, 2)))
    assert set(found.to_frame().columns) == {"layer", *found.causes}


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
    data = {"X_train": X, "y_train": y, "n_refits": 3, "random_state": 0}
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
