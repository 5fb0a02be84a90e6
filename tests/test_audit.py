"""The audit: each mistake is named, its repaired twin is not, and sound models raise no alarm."""

import functools

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_iris
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier, NeuralNetRegressor
from torch import nn

import sklrp
from sklrp import CNNClassifier, Composite, Epsilon, LSTMClassifier, MLPClassifier
from sklrp.datasets import make_squares
from sklrp.diagnostics import Audit, audit
from sklrp.diagnostics.audit import find_mistakes
from sklrp.diagnostics.audited import CHECKS, mistake
from sklrp.diagnostics.explained import Explained
from tests.helpers import models

LAND = np.zeros((12, 16), dtype=bool)
LAND[3:9, 2:7] = True


@functools.cache
def fields():
    """Return smooth fields of two classes with land, cut in halves, and a network."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices(LAND.shape)
    pattern = np.sin(rows / 3) * np.cos(columns / 2 + 1) + 0.5 * (rows > 6)
    y = rng.permutation(np.repeat([0, 1], 100))
    X = rng.normal(size=(200, *LAND.shape)) + np.where(y, 1, -1)[:, None, None] * pattern
    X = np.where(LAND, 0.0, X)
    clf = MLPClassifier((16,), max_epochs=20, random_state=0).fit(X[:100], y[:100])
    return clf, X[:100], X[100:], y[:100], y[100:]


@functools.cache
def digits():
    """Return digits as images, cut in halves, and a network of ten classes."""
    X, y = load_digits(return_X_y=True)
    X = X.reshape(-1, 8, 8) / 16
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=0)
    clf = CNNClassifier((8,), input_shape=(1, 8, 8), max_epochs=15, random_state=0)
    return clf.fit(X_train, y_train), X_train, X_test, y_train, y_test


def own(**params):
    clf, _, X, *_ = fields()
    return sklrp.explain(clf, X, **params)


def of_class(label):
    return own(target=label)


def rows(values):
    return np.reshape(values, (-1, 1, 1))


def small_module(*last, n_outputs=3, seed=0):
    """Return a module whose logits spread by some units, with layers behind them."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, n_outputs), *last)
    with torch.no_grad():
        for layer in net[:3:2]:
            layer.weight.mul_(4)
    return net.double().eval()


def table(n=60, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 6))


def through(net, X):
    """Return gradient times input of the largest output, as it comes out of the network."""
    x = torch.from_numpy(X).requires_grad_(True)
    net(x).max(dim=1).values.sum().backward()
    return (x.grad * x).detach().numpy()


def trained_net(module, criterion):
    X, y = table(200), (table(200)[:, 0] > 0).astype(np.int64)
    net = NeuralNetClassifier(
        module, criterion=criterion, max_epochs=2, train_split=None, verbose=0
    )
    return net.fit(X, y), X[:50]


def biased_regression(bias):
    net = nn.Linear(6, 1).double()
    with torch.no_grad():  # the bias cancels against a mean of the input that is never 0
        net.weight.fill_(1.0)
        net.bias.fill_(-6 * bias)
    return net, table() + bias


def dropping(p):
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Dropout(p), nn.Linear(12, 2)).double()


def gridded(fixed):
    """Return a network of five outputs, the last of which says nothing if it is on land."""
    net = small_module(n_outputs=5)
    if fixed:
        with torch.no_grad():
            net[2].weight[4] = 0
    return NeuralNetRegressor(net, verbose=0).initialize(), table()


# By mistake: what is passed to audit with the mistake, and repaired.
clf, X_train, X, y_train, y_test = fields()
sums = (1, 2)


def _filled(value):
    return np.where(LAND, value, X)


PAIRS = {
    "target": {
        "an index outside": (
            lambda: (*gridded(False), {"target": 5}),
            lambda: (*gridded(False), {"target": 4}),
        ),
        "an output without values": (
            lambda: (*gridded(True), {"target": 4}),
            lambda: (*gridded(True), {"target": 3}),
        ),
        "labels from 1": (
            lambda: (small_module(), table(), {"target": 1 + predicted(small_module(), table())}),
            lambda: (small_module(), table(), {"target": predicted(small_module(), table())}),
        ),
        "the label beside": (
            lambda: (*digits()[0::2][:2], {"target": (digits()[4] + 1) % 10, "y": digits()[4]}),
            lambda: (*digits()[0::2][:2], {"target": digits()[4], "y": digits()[4]}),
        ),
    },
    "trained_on": {
        "all": (
            lambda: (clf, X_train, {"X_train": X_train}),
            lambda: (clf, X, {"X_train": X_train}),
        ),
        "one, in single precision": (
            lambda: (
                clf,
                np.concatenate([X[:30], X_train[3:4].astype(np.float32)]),
                {"X_train": X_train},
            ),
            lambda: (clf, X[:31].astype(np.float32), {"X_train": X_train}),
        ),
    },
    "fill_value": {
        "-10 in training": (
            lambda: (clf, X, {"X_train": np.where(LAND, -10.0, X_train)}),
            lambda: (clf, X, {"X_train": X_train}),
        ),
        "clouds that move": (
            lambda: (clf, clouds(X, 0.0), {"X_train": clouds(X_train, -4.0)}),
            lambda: (clf, clouds(X, 0.0), {"X_train": clouds(X_train, 0.0)}),
        ),
    },
    "undeclared_fill": {
        "land": (lambda: (clf, _filled(-999.0), {}), lambda: (clf, _filled(0.0), {})),
        "clouds": (lambda: (clf, clouds(X, 1e20), {}), lambda: (clf, clouds(X, 0.0), {})),
    },
    "preprocessing": {
        "degrees": (
            lambda: (small_module(), table(seed=1) + 15.0, {"X_train": table()}),
            lambda: (small_module(), table(seed=1) + 2.0, {"X_train": table()}),
        ),
        "not divided": (
            lambda: (clf, X / 255, {"X_train": X_train}),
            lambda: (clf, X / 5, {"X_train": X_train}),
        ),
    },
    "biases": {
        "a readout that cancels": (
            lambda: (*biased_regression(20.0), {}),
            lambda: (*biased_regression(0.1), {}),
        ),
    },
    "training_mode": {
        "dropout": (
            lambda: (dropping(0.5).train(), table(), {}),
            lambda: (dropping(0.5).eval(), table(), {}),
        ),
        "dropout of nothing": (
            lambda: (dropping(0.5).train(), table(), {}),
            lambda: (dropping(0.0).train(), table(), {}),
        ),
    },
    "epsilon": {
        "1e10": (
            lambda: (clf, X, {"rule": Epsilon(1e10)}),
            lambda: (clf, X, {"rule": Epsilon(1e-6)}),
        ),
        "1e3 in the first layer": (
            lambda: (clf, X, {"rule": first(Epsilon(1e3))}),
            lambda: (clf, X, {"rule": first(Epsilon(1e-2))}),
        ),
    },
    "softmax": {
        "gradients of it": (
            lambda: (small_module(nn.Softmax(1)), table(), {"relevance": softened(nn.Softmax(1))}),
            lambda: (small_module(nn.Softmax(1)), table(), {"relevance": softened()}),
        ),
        "sums of it": (
            lambda: (small_module(nn.Softmax(1)), table(), {"relevance": softened(as_sums=True)}),
            lambda: (
                small_module(nn.Softmax(1)),
                table(),
                {"relevance": sklrp.explain(small_module(nn.Softmax(1)), table())},
            ),
        ),
        "paths through it": (
            lambda: (small_module(nn.Softmax(1)), table(), {"relevance": paths(nn.Softmax(1))}),
            lambda: (small_module(nn.Softmax(1)), table(), {"relevance": paths()}),
        ),
        "outside of the network": (
            lambda: (small_module(), table(), {"relevance": paths(nn.Softmax(1))}),
            lambda: (small_module(), table(), {"relevance": paths()}),
        ),
        "trained twice": (
            lambda: (*trained_net(small_module(nn.Softmax(1)), nn.CrossEntropyLoss), {}),
            lambda: (*trained_net(small_module(nn.Softmax(1)), nn.NLLLoss), {}),
        ),
    },
    "not_finite": {
        "NaN": (
            lambda: (clf, X, {"relevance": np.where(rows(np.arange(100) == 3), np.nan, own())}),
            lambda: (clf, X, {"relevance": own()}),
        ),
    },
    "vanished": {
        "zeros": (
            lambda: (clf, X, {"relevance": np.where(rows(np.arange(100) < 20), 0.0, own())}),
            lambda: (clf, X, {"relevance": np.where(rows(np.arange(100) < 5), 0.0, own())}),
        ),
        "epsilon elsewhere": (
            lambda: (clf, X, {"relevance": own(rule=Epsilon(1e10))}),
            lambda: (clf, X, {"relevance": own(rule=Epsilon(1e-2))}),
        ),
    },
    "same_map": {
        "the mean": (
            lambda: (clf, X, {"relevance": np.tile(own().mean(axis=0), (100, 1, 1))}),
            lambda: (clf, X, {"relevance": own() + own().mean(axis=0)}),
        ),
        "the first times scores": (
            lambda: (clf, X, {"relevance": own()[:1] * own().sum(axis=sums, keepdims=True)}),
            lambda: (clf, X, {"relevance": own() * 3}),
        ),
        "of the first of each ten": (
            lambda: (clf, X, {"relevance": np.repeat(own()[::10], 10, axis=0)}),
            lambda: (clf, X, {"relevance": own()}),
        ),
    },
    "input_as_map": {
        name: (
            lambda form=form: (clf, X, {"relevance": form(X)}),
            lambda form=form: (
                clf,
                X,
                {"relevance": own() + 1e-4 * form(X)},
            ),
        )
        for name, form in {
            "X": lambda samples: samples,
            "a multiple": lambda samples: -255 * samples,
            "its departures": lambda samples: samples - samples.mean(axis=0),
        }.items()
    },
    "signed_sum": {
        "to 1": (
            lambda: (clf, X, {"relevance": own() / own().sum(axis=sums, keepdims=True)}),
            lambda: (clf, X, {"relevance": own() / own().sum(axis=sums).mean()}),
        ),
    },
    "norm_divided": {
        name: (
            lambda norm=norm: (clf, X, {"relevance": own() / rows(norm(own().reshape(100, -1)))}),
            lambda norm=norm: (clf, X, {"relevance": own() / norm(own().reshape(100, -1)).max()}),
        )
        for name, norm in {
            "absolute sum": lambda maps: np.abs(maps).sum(axis=1),
            "Euclidean": lambda maps: np.linalg.norm(maps, axis=1),
            "largest": lambda maps: np.abs(maps).max(axis=1),
        }.items()
    },
    "sign_lost": {
        "absolute values": (
            lambda: (clf, X, {"relevance": np.abs(own())}),
            lambda: (clf, X, {"relevance": own()}),
        ),
        "squares": (
            lambda: (clf, X, {"relevance": own() ** 2}),
            lambda: (clf, X, {"relevance": own() * np.abs(own())}),
        ),
        "absolute values of another method": (
            lambda: (
                small_module(),
                table(),
                {"relevance": np.abs(softened())},
            ),
            lambda: (small_module(), table(), {"relevance": softened()}),
        ),
        "the sign of the score": (
            lambda: (
                small_module(n_outputs=1),
                table(),
                {"relevance": as_scores(of_value())},
            ),
            lambda: (small_module(n_outputs=1), table(), {"relevance": of_value()}),
        ),
        "positive parts": (
            lambda: (clf, X, {"relevance": own().clip(min=0)}),
            lambda: (clf, X, {"relevance": own(rule="z_plus")}),
        ),
        "negative": (
            lambda: (small_module(n_outputs=1), table(), {"relevance": -of_value()}),
            lambda: (small_module(n_outputs=1), table(), {"relevance": of_value()}),
        ),
    },
    "wrong_class": {
        "one of all": (
            lambda: (clf, X, {"relevance": of_class(1)}),
            lambda: (clf, X, {"relevance": of_class(1), "target": 1}),
        ),
        "of ten": (
            lambda: (*digits()[0::2][:2], {"relevance": digit_maps((digits()[4] + 3) % 10)}),
            lambda: (
                *digits()[0::2][:2],
                {"relevance": digit_maps(digits()[4]), "y": digits()[4]},
            ),
        ),
    },
    "other_samples": {
        "shuffled": (
            lambda: (clf, X, {"relevance": np.random.default_rng(0).permutation(own())}),
            lambda: (clf, X, {"relevance": own()}),
        ),
        "a third in reverse": (
            lambda: (clf, X, {"relevance": np.concatenate([own()[32::-1], own()[33:]])}),
            lambda: (clf, X, {"relevance": own()}),
        ),
        "one later": (
            lambda: (*digits()[0::2][:2], {"relevance": np.roll(digit_maps(None), 1, axis=0)}),
            lambda: (*digits()[0::2][:2], {"relevance": digit_maps(None)}),
        ),
    },
    "other_cells": {
        "two columns": (
            lambda: (small_module(), table(), {"relevance": swapped(softened(), 1, 4)}),
            lambda: (small_module(), table(), {"relevance": swapped(softened(), 1, 1)}),
        ),
        "two pixels": (
            lambda: (clf, X, {"relevance": swapped(own(), 10, 170)}),
            lambda: (clf, X, {"relevance": own()}),
        ),
        "columns by name": (
            lambda: (small_module(), table(), {"relevance": softened()[:, [2, 0, 1, 3, 4, 5]]}),
            lambda: (small_module(), table(), {"relevance": softened()}),
        ),
    },
    "flipped": {
        "north down": (
            lambda: (clf, X, {"relevance": own()[:, ::-1]}),
            lambda: (clf, X, {"relevance": own()[:, ::-1][:, ::-1]}),
        ),
        "longitudes from -180": (
            lambda: (clf, X, {"relevance": np.roll(own(), 8, axis=2)}),
            lambda: (clf, X, {"relevance": own()}),
        ),
        "columns as rows": (
            lambda: (clf, X, {"relevance": own().swapaxes(1, 2).reshape(X.shape)}),
            lambda: (clf, X, {"relevance": own()}),
        ),
    },
    "inverted_mask": {
        "on land": (
            lambda: (clf, X, {"relevance": np.where(LAND, noise(), 0.0)}),
            lambda: (clf, X, {"relevance": np.where(LAND, 0.0, own())}),
        ),
    },
}


def predicted(net, samples):
    return net(torch.from_numpy(samples)).detach().numpy().argmax(axis=1)


def clouds(samples, value):
    """Cover a tenth of the cells, others in each sample."""
    return np.where(np.random.default_rng(7).random(samples.shape) < 0.1, value, samples)


def first(rule):
    return Composite([("first", rule, "first"), ("rest", Epsilon(1e-6), "all")])


def softened(*last, as_sums=False):
    """Return maps through a softmax, or those that start at its value."""
    net = small_module(*last)
    if not as_sums:
        return through(net, table())
    maps = sklrp.explain(net, table())
    chance = torch.softmax(net(torch.from_numpy(table())), 1).max(dim=1).values.detach().numpy()
    return maps / maps.sum(axis=1, keepdims=True) * chance[:, None]


def paths(*last):
    """Return integrated gradients of the largest output, from one sample: sums are differences."""
    net, X = small_module(*last), torch.from_numpy(table())
    largest = torch.arange(len(X)), net(X).argmax(dim=1)
    away, gradient = X - 0.5, torch.zeros_like(X)
    for step in (np.arange(100) + 0.5) / 100:
        x = (0.5 + step * away).requires_grad_(True)
        gradient += torch.autograd.grad(net(x)[largest].sum(), x)[0] / 100
    return (away * gradient).detach().numpy()


def of_value():
    return sklrp.explain(small_module(n_outputs=1), table())


def as_scores(maps):
    """Return the size of maps, with the signs of the scores."""
    scores = small_module(n_outputs=1)(torch.from_numpy(table())).detach().numpy()
    return np.abs(maps) * np.sign(scores)


def swapped(maps, i, j):
    """Return maps with two cells exchanged."""
    flat = maps.reshape(len(maps), -1).copy()
    flat[:, [i, j]] = flat[:, [j, i]]
    return flat.reshape(maps.shape)


def digit_maps(target):
    return sklrp.explain(digits()[0], digits()[2], target=target)


def noise():
    return np.random.default_rng(1).normal(size=X.shape)


# What a mistake brings about: an output that is the same for all samples has no relevance.
FOLLOWS = {"an output without values": ["vanished"]}
CASES = [(name, kind) for name, kinds in PAIRS.items() for kind in kinds]


def run(make):
    model, samples, params = make()
    return audit(model, samples, random_state=0, **params)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_mistake_is_named(name, kind):
    found = run(PAIRS[name][kind][0])
    assert found.names == [name, *FOLLOWS.get(kind, [])], found
    assert name in repr(found)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_repaired_twin_is_not(name, kind):
    found = run(PAIRS[name][kind][1])
    assert found.names == [], found
    assert name in found.checked


def test_every_mistake_has_a_pair():
    assert set(PAIRS) == set(CHECKS)


@pytest.mark.sweep(6)
@pytest.mark.parametrize("name", [*models.MODELS, *models.SINGLE])
def test_sound_models_raise_no_alarm(name):
    kind = models.make(name)
    n = len(kind.X) // 2
    train, held_out = (part(kind.X, n) for part in (first_rows, last_rows))
    relevance = sklrp.explain(kind.model, held_out)
    for maps in (None, relevance):
        found = audit(kind.model, held_out, maps, X_train=train, random_state=0)
        assert found.names == [], found


def first_rows(samples, n):
    return samples.iloc[:n] if hasattr(samples, "iloc") else samples[:n]


def last_rows(samples, n):
    return samples.iloc[n:] if hasattr(samples, "iloc") else samples[n:]


def of_squares(estimator):
    samples, labels, _ = make_squares(n_per_class=100, size=20, random_state=0)
    return estimator.fit(samples[:100], labels[:100]), samples, 100


def of_digits(estimator):
    return estimator, np.concatenate(digits()[1:3]), len(digits()[1])


SOUND = {
    "squares, MLP": lambda: of_squares(MLPClassifier(max_epochs=10, random_state=0)),
    "squares, CNN": lambda: of_squares(
        CNNClassifier((4,), input_shape=(1, 20, 20), max_epochs=10, random_state=0)
    ),
    "squares, LSTM": lambda: of_squares(
        LSTMClassifier(16, input_shape=(20, 20), max_epochs=20, random_state=0)
    ),
    "squares, ESN": lambda: of_squares(sklrp.ESNClassifier(100, random_state=0)),
    "digits, CNN": lambda: of_digits(digits()[0]),
}


@functools.cache
def sound(name):
    return SOUND[name]()


@pytest.mark.sweep(2)
@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("rule", ["auto", "epsilon", "z_plus"])
def test_sound_maps_raise_no_alarm_by_any_rule(name, rule):
    model, samples, n = sound(name)
    relevance = sklrp.explain(model, samples[n:], rule=rule)
    for told in ("auto", rule):
        found = audit(
            model, samples[n:], relevance, X_train=samples[:n], rule=told, random_state=0
        )
        assert found.names == [], found


@pytest.mark.sweep(2)
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("scaled", [False, True])
def test_iris_raises_no_alarm_by_any_method(seed, scaled):
    samples, labels = load_iris(return_X_y=True)
    if scaled:
        samples = StandardScaler().fit_transform(samples)
    train, held_out, y, _ = train_test_split(samples, labels, random_state=seed)
    model = MLPClassifier(max_epochs=20, random_state=seed).fit(train, y)
    maps = {"own": None, "contrast": sklrp.explain(model, held_out, contrast=True)}
    maps["gradient"], maps["from the mean"] = gradient_maps(model.module_, held_out)
    for name, relevance in maps.items():
        found = audit(model, held_out, relevance, X_train=train, random_state=0)
        assert found.names == [], (name, found)


def gradient_maps(module, samples):
    """Return gradients of the predicted class, and integrated gradients from the mean."""
    x = torch.from_numpy(samples).double()
    module = module.double()
    best = module(x).argmax(dim=1, keepdim=True)

    def gradient(point):
        point = point.clone().requires_grad_(True)
        return torch.autograd.grad(module(point).gather(1, best).sum(), point)[0]

    mean = x.mean(dim=0, keepdim=True)
    steps = [gradient(mean + (k + 0.5) / 8 * (x - mean)) for k in range(8)]
    return gradient(x).numpy(), ((x - mean) * sum(steps) / 8).numpy()


def test_coincidences_of_coarse_tables_are_a_note_and_leaks_are_named():
    samples = np.random.default_rng(0).integers(0, 4, size=(300, 6)).astype(float)
    train, held_out = samples[:200], samples[200:]
    net = small_module()
    n_same = sum(any((row == other).all() for other in train) for row in held_out)
    assert n_same > 0  # by chance, which is the same among the training samples
    found = audit(net, held_out, X_train=train)
    assert found.names == []
    assert f"{n_same} of 100 samples are among" in found.notes[0]
    leaked = np.concatenate([held_out, train[:30]])
    assert audit(net, leaked, X_train=train).names == ["trained_on"]


def test_a_softmax_that_is_stepped_over_is_a_note():
    found = audit(small_module(nn.Softmax(1)), table())
    assert found.names == []
    assert "ends in a softmax" in found.notes[0]


def test_what_epsilon_keeps_is_that_of_the_formula():
    """Of one affine unit epsilon keeps eps / (z + eps) of the score: a mistake from half on."""
    net = nn.Linear(6, 1, bias=False).double()
    with torch.no_grad():
        net.weight.fill_(1.0)
    ones = np.ones((20, 6))  # z = 6
    assert audit(net, ones, rule=Epsilon(5.9)).names == []
    found = audit(net, ones, rule=Epsilon(6.1))
    assert found.names == ["epsilon"]
    assert f"loses {6.1 / 12.1:.1%}" in found.mistakes[0].seen
    assert f"sums are {6 / 12.1:.2g} of the score" in found.mistakes[0].seen


def test_biases_are_counted_against_the_score():
    """A sum of six ones and a bias of -6.5 have the score -0.5: the bias is 13 times that."""
    net, _ = biased_regression(6.5 / 6)
    found = audit(net, np.ones((20, 6)))
    assert found.names == ["biases"]
    assert "biases keep 13 times the score (6.5 against 0.5" in found.mistakes[0].seen


def test_a_pipeline_is_audited_by_what_enters_its_network():
    samples, labels = load_iris(return_X_y=True)
    samples = samples + np.random.default_rng(0).normal(scale=1e-3, size=samples.shape)
    train, held_out, y, _ = train_test_split(samples, labels, random_state=0)
    model = make_pipeline(StandardScaler(), MLPClassifier(random_state=0)).fit(train, y)
    maps = sklrp.explain(model, held_out)
    assert audit(model, held_out, maps, X_train=train).names == []
    assert audit(model, 100 * held_out, X_train=train).names == ["preprocessing"]


def test_fewer_maps_than_samples_are_looked_at_and_the_result_is_reproducible():
    shuffled = np.random.default_rng(0).permutation(own())
    found = [repr(audit(clf, X, shuffled, max_samples=20, random_state=3)) for _ in range(2)]
    assert found[0] == found[1]
    assert "of 20 maps are those of another sample" in found[0]
    flat = audit(clf, X, shuffled.reshape(100, -1), max_samples=20, random_state=3)
    assert repr(flat) == found[0]


def test_find_mistakes_takes_what_is_explained():
    assert find_mistakes(Explained(clf, X, X_train=X_train, random_state=0)).names == []
    unsigned = Explained(
        clf, X, relevance=np.abs(own()), X_train=X, max_samples=50, random_state=0
    )
    found = find_mistakes(unsigned)
    assert found.names == ["trained_on", "sign_lost"]
    again = audit(clf, X, np.abs(own()), X_train=X, max_samples=50, random_state=0)
    assert repr(found) == repr(again)


def test_all_checks_are_accounted_for():
    found = audit(clf, X)
    assert isinstance(found, Audit)
    assert set(found.checked) | set(found.skipped) == set(CHECKS)
    assert not set(found.checked) & set(found.skipped)
    assert found.skipped["trained_on"] == "X_train was not given"
    assert found.skipped["signed_sum"] == "relevance was not given"


def test_report():
    found = audit(clf, X_train, own(rule=Epsilon(1e10)), X_train=X_train, random_state=0)
    assert found.names == ["trained_on", "vanished"]
    lines = repr(found).splitlines()
    assert lines[0].startswith("Audit: 2 mistakes found, ")
    assert "trained_on: samples that are explained were trained on" in lines
    assert "  seen: 100 of 100 samples are among the 100 of X_train, to rounding." in lines
    assert max(map(len, lines)) < 100
    frame = found.to_frame()
    assert list(frame.index) == list(CHECKS)
    assert frame.loc["trained_on", "outcome"] == "mistake"
    assert frame.loc["target", "outcome"] == "not found"
    assert set(frame.outcome) <= {"mistake", "not found", "skipped"}
    assert audit(clf, X).mistakes == []


def test_a_check_is_one_entry_of_the_table():
    with pytest.raises(ValueError, match="two checks named 'epsilon'"):
        mistake("epsilon", wrong="", remedy="")(lambda a: "")


@pytest.mark.parametrize(
    ("params", "match"),
    [
        (
            lambda: {"relevance": own()[:96]},
            "96 maps, but X 100 samples: the remainder",
        ),
        (lambda: {"relevance": own()[:97]}, "97 maps, but X 100 samples. Explain all"),
        (lambda: {"relevance": own()[:, 1:]}, r"relevance has the shape \(100, 11, 16\)"),
        (lambda: {"relevance": own(target="all")}, "Sum or select axes of classes"),
        (lambda: {"X_train": X_train[:, 1:]}, r"X_train has samples of shape \(11, 16\)"),
        (lambda: {"y": y_test[:50]}, "y must hold one label for each of 100 samples"),
        (lambda: {"max_samples": 0}, "max_samples"),
        (lambda: {"epsilon": -1.0}, "epsilon"),
    ],
)
def test_bad_input_is_refused(params, match):
    with pytest.raises(ValueError, match=match):
        audit(clf, X, **params())


def test_nothing_of_the_model_is_changed():
    net = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    net = net.double().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.random.get_rng_state()
    assert audit(net, table()).names == ["training_mode"]
    assert net.training
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_cap_on_a_long_tail_is_no_fill_value():
    rain = np.random.default_rng(0).lognormal(sigma=1.5, size=(500, 6))
    capped = rain.clip(max=np.quantile(rain, 0.99))
    assert audit(small_module(), capped).names == []
    missing = np.where(rain > np.quantile(rain, 0.99), 999.0, rain)
    assert audit(small_module(), missing).names == ["undeclared_fill"]
