"""Maps of networks from other seeds and halves: what is common, by hand and on planted cases."""

import pickle

import numpy as np
import pytest
import torch
from scipy.stats import ttest_1samp
from sklearn.frozen import FrozenEstimator
from skorch import NeuralNetRegressor
from torch import nn

from sklrp import MLPClassifier
from sklrp.datasets import make_squares
from sklrp.diagnostics.explained import Explained
from sklrp.diagnostics.other_networks import train_again
from sklrp.diagnostics.stability import _interval_of_pairs, compare_cells, find_stable


@pytest.fixture(scope="module")
def squares():
    X, y, mask = make_squares(n_per_class=100, size=20, random_state=0)
    return {"X_train": X[:120], "y_train": y[:120]}, X[120:], y[120:], mask


@pytest.fixture(scope="module")
def mlp(squares):
    clf = MLPClassifier((16,), max_epochs=15, random_state=0).fit(*squares[0].values())
    clf.predict(squares[1][:1])  # skorch turns to evaluation mode, and stays there
    return clf


def test_cells_by_hand():
    """Nine networks; scipy's t test; Benjamini and Hochberg, by hand."""
    rng = np.random.default_rng(0)
    mean = np.zeros((4, 5))
    mean[1, 1:4], mean[2] = 1.0, -0.5
    maps = mean + 0.3 * rng.normal(size=(9, 4, 5))
    this = mean + 0.3 * rng.normal(size=(4, 5))
    this[1, 1] = -1.0  # against the others
    this[3, 4] = 2.0  # alone
    found = compare_cells(this, maps)
    t, p = ttest_1samp(maps.reshape(9, 20), 0)
    np.testing.assert_allclose(found["stability"].ravel(), t)
    np.testing.assert_allclose(found["spread"], maps.std(axis=0, ddof=1))
    order = np.argsort(p)
    passed = np.flatnonzero(p[order] <= 0.05 * np.arange(1, 21) / 20)
    agree = np.isin(np.arange(20), order[: passed.max() + 1]).reshape(4, 5)
    marked = np.abs(this) > np.abs(this).mean()
    same = this * maps.mean(axis=0) > 0
    np.testing.assert_array_equal(found["common"], marked & agree & same)
    np.testing.assert_array_equal(found["own"], marked & ~(agree & same))
    assert found["own"][1, 1]
    assert found["own"][3, 4]
    assert found["common"][1, 2]
    assert found["share"] == pytest.approx(
        np.abs(this)[found["common"]].sum() / np.abs(this).sum()
    )
    assert found["agreement"][1, 2] == 1


def test_equal_networks_agree_where_they_have_relevance():
    one = np.array([0.0, 0.5, -0.5, 0.0])
    found = compare_cells(one, np.repeat(one[np.newaxis], 4, axis=0))
    np.testing.assert_array_equal(found["common"], one != 0)
    assert found["stability"][0] == 0
    assert found["share"] == 1


def test_a_learned_map_is_stable(squares, mlp):
    data, X, y, mask = squares
    before, state = pickle.dumps(mlp), torch.get_rng_state()
    explained = Explained(mlp, X, y, **data, rule="epsilon", random_state=0)
    found = find_stable(explained, 4)
    assert found.name == "stable"
    assert found.verdict == "fact", found
    assert found.interval[0] <= found.statistic <= found.interval[1]
    assert found.maps.shape == (4, 20, 20)
    for name in ("mean", "spread", "stability", "agreement", "common", "own"):
        assert found[name].shape == (20, 20), name
    np.testing.assert_allclose(found.mean, found.maps.mean(axis=0))
    np.testing.assert_allclose(found.correlation, np.corrcoef(found.maps.reshape(4, -1)))
    upper = found.correlation[np.triu_indices(4, 1)]
    assert found.statistic == pytest.approx(upper.mean())
    assert found.halves.shape == (2,)
    assert found.skill.shape == (4,)
    assert found.skill.min() > 0.9
    low, high = found.half_skill.min(), found.half_skill.max()
    assert f"of halves {low:.2f} to {high:.2f}, this one's {mlp.score(X, y):.2f}" in found.reading
    assert found.common[mask].mean() > 0.5
    assert found.common[~mask].mean() < 0.05
    assert not (found.common & found.own).any()
    assert pickle.dumps(mlp) == before
    assert torch.equal(torch.get_rng_state(), state)
    again = find_stable(Explained(mlp, X, y, **data, rule="epsilon", random_state=0), 4)
    np.testing.assert_array_equal(again.maps, found.maps)


def test_the_interval_holds_the_mean_of_all_pairs():
    """Each correlation is of two networks, so that means of single ones vary too little."""
    rng = np.random.default_rng(0)
    held = []
    for _ in range(200):
        own = rng.beta(4, 4, size=12)  # how much a network has of what is common
        pairs = np.outer(own, own)
        each = (pairs.sum(axis=1) - own**2) / 11
        low, high = _interval_of_pairs(each, rng)
        held.append(low <= 0.25 <= high)
    assert np.mean(held) > 0.85


def test_networks_are_those_of_the_training_data(squares, mlp, monkeypatch):
    """Each is the clone of its seed, on all samples or on one of two halves that share none."""
    data, X, _, _ = squares
    explained = Explained(mlp, X[:10], **data, random_state=0)
    seen = []

    def record(explained, seed, **options):
        seen.append((seed, options["rows"]))
        return train_again(explained, seed, **options)

    monkeypatch.setattr("sklrp.diagnostics.stability.train_again", record)
    found = find_stable(explained, 3)
    assert len({seed for seed, _ in seen}) == 5
    assert [rows is None for _, rows in seen] == [True] * 3 + [False] * 2
    assert sorted([*seen[3][1], *seen[4][1]]) == list(range(120))
    labels = data["y_train"][seen[3][1]]
    assert len(labels) == 60
    assert abs(np.mean(labels == labels[0]) - np.mean(data["y_train"] == labels[0])) < 0.02
    clf = MLPClassifier((16,), max_epochs=15, random_state=seen[1][0]).fit(*data.values())
    np.testing.assert_allclose(found.maps[1], explained.maps_of(clf).mean(axis=0), atol=1e-7)
    assert np.isnan(found.skill).all()


def test_noise_is_each_network_s_own():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(80, 12, 12)), np.arange(80) % 2
    clf = MLPClassifier((64,), max_epochs=3, random_state=0).fit(X[:50], y[:50])
    explained = Explained(clf, X[50:], y[50:], X_train=X[:50], y_train=y[:50], random_state=0)
    found = find_stable(explained, 4)
    assert found.verdict == "undecided"
    assert found.own.sum() > 5 * found.common.sum()
    assert found.advice


@pytest.mark.slow
def test_a_regression(squares):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 6))
    y = X[:, 0] - X[:, 1]
    net = NeuralNetRegressor(
        nn.Linear(6, 1).double(), max_epochs=60, lr=0.1, verbose=0, train_split=None
    )
    net.fit(X[:60], y[:60, np.newaxis])
    explained = Explained(net, X[60:], y[60:], X_train=X[:60], y_train=y[:60], random_state=0)
    found = find_stable(explained, 4)
    assert found.skill.min() > 0.95
    assert "correlation with the truth" in found.reading
    assert np.isfinite(found.stability).all()


def test_what_cannot_be_refitted_is_refused(squares, mlp):
    data, X, y, _ = squares
    with pytest.raises(ValueError, match="X_train=None: n_networks trains clones"):
        find_stable(Explained(mlp, X, y), 4)
    with pytest.raises(TypeError, match="FrozenEstimator is not trained again"):
        find_stable(Explained(FrozenEstimator(mlp), X, y, **data), 4)
    with pytest.raises(ValueError, match=r"n_networks=2 is too few.*at least 3"):
        find_stable(Explained(mlp, X, y, **data), 2)
    few = {**data, "y_train": np.where(np.arange(120) == 7, 1, 0)}
    with pytest.raises(ValueError, match=r"y_train has one sample of the class 1: n_networks"):
        find_stable(Explained(mlp, X, np.zeros(len(X)), **few), 3)
    with pytest.raises(ValueError, match="relevance was made elsewhere"):
        find_stable(Explained(mlp, X, y, relevance=X, **data), 4)


def test_an_interrupt_leaves_everything_as_it_was(squares, mlp, monkeypatch):
    data, X, y, _ = squares
    before, state = pickle.dumps(mlp), torch.get_rng_state()
    explained = Explained(mlp, X, y, **data, random_state=0)

    def interrupt(self, *args, **kwargs):
        torch.rand(3)
        raise KeyboardInterrupt

    monkeypatch.setattr("skorch.NeuralNet.train_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        find_stable(explained, 4)
    assert pickle.dumps(mlp) == before
    assert torch.equal(torch.get_rng_state(), state)
