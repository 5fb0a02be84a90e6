"""What the defaults of a training stand for, and the warning of one that has not left chance."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from sklrp import (
    ESNClassifier,
    LSTMClassifier,
    LSTMRegressor,
    MLPClassifier,
    MLPRegressor,
)
from sklrp.classifiers.batches import make_dataset
from sklrp.classifiers.chance import neighbours_agree
from sklrp.modules import RememberingLSTM
from tests.defaults import OTHERS, make, share_of_biases, write

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 6))
NOISE = RNG.normal(size=120)


@pytest.mark.sweep(1)
@pytest.mark.parametrize(
    ("n_samples", "batch_size", "n_epochs"),
    [(10, 10, 300), (32, 32, 300), (40, 32, 150), (150, 32, 60), (2000, 50, 25)],
)
def test_budget_in_steps(n_samples, batch_size, n_epochs):
    X = np.random.default_rng(1).normal(size=(n_samples, 2))
    y = X[:, 0]
    reg = MLPRegressor(dropout=0.5, random_state=0).fit(X, y)
    assert reg.n_iter_ == n_epochs
    assert reg.history_[0, "train_batch_count"] == -(-n_samples // batch_size)


def test_budget_counts_the_batches_that_are_made():
    params = {"iterator_train__batch_size": 60, "random_state": 0}
    reg = MLPRegressor(dropout=0.5, **params).fit(X, X[:, 0])
    assert reg.n_iter_ == 150


def test_auto_ends_when_there_is_little_left_to_learn():
    y = X[:, 0] > 0
    clf = MLPClassifier(random_state=0, lr=0.03).fit(X * 3, y)
    losses = clf.history_[:, "train_loss"]
    assert losses[-1] < 0.005 <= min(losses[:-1])
    assert clf.n_iter_ < 50
    same = MLPClassifier(random_state=0, lr=0.03, max_epochs=clf.n_iter_ + 5).fit(X * 3, y)
    assert same.n_iter_ == clf.n_iter_ + 5  # a given number is made
    np.testing.assert_array_equal(same.history_[: clf.n_iter_, "train_loss"], losses)


def test_auto_goes_on_by_as_much_again():
    reg = MLPRegressor(dropout=0.5, random_state=0, warm_start=True).fit(X, X[:, 0])
    assert reg.n_iter_ == 75
    assert reg.fit(X, X[:, 0]).n_iter_ == 150


@pytest.mark.sweep(2)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("Estimator", [MLPClassifier, LSTMClassifier, MLPRegressor, LSTMRegressor])
def test_chance_is_said(Estimator, weighted):
    y = X[:, 0] > 0.5 if hasattr(Estimator, "predict_proba") else X[:, 0]
    weight = np.linspace(0.5, 2, 120) if weighted else None
    estimator = Estimator(4, lr=1e-7, max_epochs=15, random_state=0)
    with pytest.warns(ConvergenceWarning, match=r"not left chance after 15 epochs, 60 steps") as w:
        estimator.fit(X[:, :2], y, weight)
    assert w[0].filename == __file__
    estimator.set_params(lr=0.01).fit(X[:, :2], y, weight)


def test_nothing_is_said_of_noise():
    MLPRegressor(lr=1e-7, random_state=0).fit(X, NOISE)
    MLPClassifier(lr=1e-7, random_state=0).fit(X, NOISE > 0)
    MLPRegressor(lr=1e-7, random_state=0).fit(X, np.full(120, 3.0))
    MLPClassifier(lr=1e-7, class_weight={True: 1e-4}, random_state=0).fit(X, X[:, 0] > 0)


def test_neighbours_agree():
    assert neighbours_agree(X[:, :1], X[:, :1])
    assert neighbours_agree(X[:, :1], np.column_stack([X[:, 0] * 1e6, X[:, 0]]))
    assert neighbours_agree(X[:, :1], (X[:, 0] > 0).astype(int) * 2)
    assert not neighbours_agree(X, NOISE[:, None])
    assert not neighbours_agree(X[:3], X[:3, :1])


def test_short_trainings_and_single_epochs_are_not_tried():
    y = X[:, 0] > 0
    MLPClassifier(lr=1e-7, max_epochs=2, random_state=0).fit(X[:, :2], y)
    clf = MLPClassifier(lr=1e-7, random_state=0)
    for _ in range(20):
        clf.partial_fit(X[:, :2], y)


def test_too_sure_is_not_chance():
    """A network may be right in 4 of 5 samples at a loss far above that of a constant."""
    y = X[:, 0] > 0
    wrong = RNG.permutation(120) < 24
    clf = MLPClassifier((), random_state=0, max_epochs=30).fit(X, y)
    samples = torch.tensor(50 * X), torch.tensor((y ^ wrong).astype(np.int64))
    data = make_dataset(samples[0].numpy(), samples[1].numpy(), dtype=samples[0].dtype)
    network = clf.module_(samples[0])
    assert torch.nn.functional.cross_entropy(network, samples[1]) > 1
    assert clf.net_.skill(data) > 0.1


def test_skill_is_the_share_of_the_constants_loss():
    reg = MLPRegressor(max_epochs=20, random_state=0).fit(X, X[:, 0])
    data = make_dataset(X, X[:, :1], dtype=torch.float64)
    left = reg.predict(X) - X[:, 0]
    best = min(
        np.mean((s * (reg.predict(X) - X[:, 0].mean()) + X[:, 0].mean() - X[:, 0]) ** 2)
        for s in np.logspace(-2, 0, 9)
    )
    assert np.mean(left**2) < X[:, 0].var()
    np.testing.assert_allclose(reg.net_.skill(data), 1 - best / X[:, 0].var())


def test_memories_of_every_length():
    torch.manual_seed(0)
    lstm = RememberingLSTM(3, 500, n_steps=50, num_layers=2, bidirectional=True)
    for end in ("l0", "l0_reverse", "l1", "l1_reverse"):
        sums = getattr(lstm, f"bias_ih_{end}") + getattr(lstm, f"bias_hh_{end}")
        write, forget = sums[:500].detach(), sums[500:1000].detach()
        torch.testing.assert_close(write, -forget)
        times = forget.exp().double()
        assert 1 <= times.min() < 2 < 48 < times.max() <= 49
        assert abs(times.mean() - 25) < 3 * 48 / np.sqrt(12 * 500)
        weight = getattr(lstm, f"weight_ih_{end}").detach()
        assert abs(weight.var() * weight.shape[1] - 1) < 0.05
    assert "n_steps=50" in repr(lstm)
    RememberingLSTM(3, 4, n_steps=1)
    for wrong in ({}, {"forget_bias": 1.0, "n_steps": 3}):
        with pytest.raises(ValueError, match="takes one of forget_bias and n_steps"):
            RememberingLSTM(3, 4, **wrong)


@pytest.mark.parametrize("model", OTHERS)
def test_a_setting_beside_the_defaults_changes_one(model):
    network, changed = OTHERS[model]
    estimator, _ = make(model, "wine", 3, X)
    assert type(estimator).__name__ == f"{network}Classifier"
    now, before = estimator.get_params(), type(estimator)().get_params()
    assert {name for name in now if now[name] != before[name]} == {*changed, "random_state"}
    assert len(changed) == 1


def test_table_marks_what_is_below_the_goal():
    scores = {"logistic regression": 0.9, "1-NN": 0.8, "MLP": 0.9, "CNN": 0.9}
    scores |= {"LSTM": 0.86, "ESN": 0.875} | dict.fromkeys(OTHERS, 0.88)
    last = list(OTHERS)[-1]
    scores[last] = 0.5
    one = {"task": "wine", "seed": 0, "seconds": 1.0, "warned": 0}
    results = [{**one, "model": model, "score": score} for model, score in scores.items()]
    for result in results:
        if result["model"].startswith("ESN"):
            result["kept"] = 0.257
    lines = write(results).splitlines()
    assert "| LSTM, defaults | 0.860 (!), 1.0 s |" in lines
    assert "| ESN, defaults | 0.875, 0.26 |" in lines
    assert f"| {last} | 0.500 (!), 0.26 |" in lines
    assert sum("(!)" in line for line in lines) == 3


def test_share_of_biases():
    clf = ESNClassifier(30, random_state=0).fit(X, X[:, 0] > 0)
    relevance, details = clf.explain(X, return_details=True)
    stabilised = sum(layer.epsilon for layer in details.layers)
    kept = details.score - relevance.sum(axis=1) - stabilised
    expected = np.median(np.abs(kept / details.score))
    assert expected > 0.01
    np.testing.assert_allclose(share_of_biases(clf, X), expected, rtol=1e-6)
