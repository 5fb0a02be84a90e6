"""Networks that know nothing: trained on noise or permuted labels, and taken for more.

Registers cases in which no cell can be true, the same for the four architectures.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from sklrp import CNNClassifier, ESNClassifier, LSTMClassifier, MLPClassifier
from tests.helpers.planted.fields import smooth
from tests.helpers.planted.networks import cnn, mlp, squares
from tests.helpers.planted.registry import Case, fit, fit_module, halves, planted, train

SHAPE = (20, 20)
NOTHING = np.zeros(SHAPE, dtype=bool)


def noise(seed, n_samples=400, share=0.5):
    """Return smooth fields and labels that have nothing to do with them."""
    rng = np.random.default_rng(seed)
    y = rng.permutation((np.arange(n_samples) < share * n_samples).astype(int))
    return smooth(rng, n_samples, SHAPE), y


def permuted(model, seed, rule):
    """Train on squares half of whose labels are wrong, in each class."""
    X, y, mask = squares(seed)
    X_train, X_test, y_train, y_test = halves(X, y, seed)
    # Within each class, so that not even chance relates old and new.
    rng, new = np.random.default_rng(seed), y_train.copy()
    for label in (0, 1):
        new[rng.permutation(np.flatnonzero(y_train == label))[::2]] = 1 - label
    model.set_params(random_state=seed).fit(X_train, new)
    return Case(model, X_test, y_test, X_train, new, rule=rule, true_cells=mask)


@planted("MLP, permuted labels", "artifact", kind="no skill", why="half of the labels are wrong")
def permuted_mlp(seed):
    return permuted(mlp(), seed, "epsilon")


@planted("CNN, permuted labels", "artifact", kind="no skill", why="half of the labels are wrong")
def permuted_cnn(seed):
    return permuted(cnn(), seed, "auto")


def trained_on_noise(model, seed, rule="epsilon", target=None, **params):
    """Train on noise."""
    X, y = noise(seed, **params)
    return fit(model, X, y, seed, rule=rule, target=target, true_cells=NOTHING)


@planted("MLP, noise", "artifact", kind="no skill", why="labels are independent of the fields")
def noise_mlp(seed):
    return trained_on_noise(mlp(), seed)


@planted("CNN, noise", "artifact", kind="no skill", why="labels are independent of the fields")
def noise_cnn(seed):
    return trained_on_noise(CNNClassifier((8, 16), input_shape=(1, *SHAPE)), seed, "auto")


@planted("LSTM, noise", "artifact", kind="no skill", why="labels are independent of the fields")
def noise_lstm(seed):
    return trained_on_noise(LSTMClassifier(32, input_shape=SHAPE, max_epochs=10), seed)


@planted("ESN, noise", "artifact", kind="no skill", why="labels are independent of the fields")
def noise_esn(seed):
    return trained_on_noise(ESNClassifier(100, input_shape=SHAPE), seed)


@planted(
    "noise, 15 % of one class",
    "artifact",
    kind="unequal classes",
    why="85 % are right by the larger class alone",
)
def noise_unequal(seed):
    return trained_on_noise(mlp(), seed, share=0.15)


@planted(
    "MLP, noise, target of one class",
    "artifact",
    kind="no skill",
    why="labels are independent of the fields, and half of the maps explain a negative logit",
)
def noise_target(seed):
    return trained_on_noise(mlp(), seed, target=1)


@planted(
    "bare module, noise",
    "artifact",
    kind="no skill",
    why="labels are independent of the fields",
)
def noise_module(seed):
    def build():
        return nn.Sequential(nn.Flatten(), nn.Linear(400, 32), nn.ReLU(), nn.Linear(32, 2))

    return fit_module(build, *noise(seed), seed, true_cells=NOTHING)


@planted(
    "best of 50 seeds",
    "artifact",
    kind="best of many",
    why="the one network of 50 that does best on the very samples that are shown",
    also=("undecided",),
)
def best_of_many(seed):
    X, y = noise(seed, 120)
    X_train, X_test, y_train, y_test = halves(X, y, seed)
    rng = np.random.default_rng(seed)

    def build():
        return nn.Sequential(nn.Flatten(), nn.Linear(400, 8), nn.ReLU(), nn.Linear(8, 2))

    def trained(i):
        rows = rng.choice(60, 30, replace=False)
        return train(build, X_train[rows], y_train[rows], 50 * seed + i, epochs=20, batch=30)

    def accuracy(module):
        with torch.no_grad():
            return np.mean(module(torch.from_numpy(X_test)).argmax(1).numpy() == y_test)

    module = max((trained(i) for i in range(50)), key=accuracy)
    return Case(module, X_test, y_test, X_train, y_train, true_cells=NOTHING)


@planted(
    "training samples explained",
    "artifact",
    kind="training samples",
    why="noise was learned by heart, and the samples shown are those",
    also=("refused",),
)
def by_heart(seed):
    X, y = noise(seed)
    X_train, _, y_train, _ = halves(X, y, seed)
    model = mlp().set_params(random_state=seed, max_epochs=60).fit(X_train, y_train)
    return Case(model, X_train, y_train, X_train, y_train, true_cells=NOTHING)


@planted(
    "half of the samples were trained on",
    "artifact",
    kind="training samples",
    why="noise was learned by heart, and half of the samples shown are those",
    also=("refused",),
)
def half_by_heart(seed):
    X, y = noise(seed)
    X_train, X_test, y_train, y_test = halves(X, y, seed)
    model = MLPClassifier((64,), max_epochs=60, random_state=seed).fit(X_train, y_train)
    X, y = np.concatenate([X_train[:100], X_test[:100]]), np.r_[y_train[:100], y_test[:100]]
    return Case(model, X, y, X_train, y_train, true_cells=NOTHING)
