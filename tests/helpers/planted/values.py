"""Regressions: values, several of them, and fields as targets, by bare modules and skorch.

Registers cases in which skill is of values.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetRegressor
from torch import nn

from sklrp import explain
from sklrp.datasets import make_lorenz96, make_rainfall_runoff
from tests.helpers.planted.fields import patch, smooth
from tests.helpers.planted.registry import Case, fit_module, halves, planted

SHAPE = (20, 20)


def dense(*widths, flatten=False):
    """Return a maker of dense layers with ReLU between them."""

    def build():
        layers = [nn.Flatten()] if flatten else []
        for i, (n_in, n_out) in enumerate(pairwise(widths)):
            layers += ([nn.ReLU()] if i else []) + [nn.Linear(n_in, n_out)]
        return nn.Sequential(*layers)

    return build


def convolutions():
    """Make a network of convolutions with one output."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 1),
    )


def scale(y):
    """Return values with mean 0 and variance 1."""
    return ((y - y.mean(axis=0)) / y.std(axis=0)).astype(np.float32)


def indices(seed, masks, n_samples=600, background=None):
    """Return fields of which each patch follows an index, and the indices with noise."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n_samples, *SHAPE)).astype(np.float32)
    X = X if background is None else background(rng, n_samples, SHAPE)
    index = rng.standard_normal((n_samples, len(masks)))
    for k, mask in enumerate(masks):
        X[:, mask] += 0.7 * index[:, [k]]
    return X, scale(index + 0.3 * rng.standard_normal(index.shape))


def valued_fields(seed, **params):
    """Return fields, an index with noise on it, and the patch that follows the index."""
    mask = patch(SHAPE, (5, 10), (11, 16))
    return *indices(seed, [mask], **params), mask


@planted(
    "values, MLP", "fact", kind="regression", why="a patch follows the index that is predicted"
)
def values_mlp(seed):
    X, y, mask = valued_fields(seed)
    build = dense(400, 32, 1, flatten=True)
    return fit_module(build, X, y, seed, true_cells=mask, training={"epochs": 20})


@planted(
    "values, CNN", "fact", kind="regression", why="a patch follows the index that is predicted"
)
def values_cnn(seed):
    X, y, mask = valued_fields(seed)
    training = {"epochs": 15}
    return fit_module(convolutions, X[:, None], y, seed, true_cells=mask[None], training=training)


@planted(
    "values, skorch", "fact", kind="regression", why="a patch follows the index that is predicted"
)
def values_skorch(seed):
    X, y, mask = valued_fields(seed)
    X_train, X_test, y_train, y_test = halves(X, y, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = NeuralNetRegressor(
            dense(400, 32, 1, flatten=True)(),
            optimizer=torch.optim.Adam,
            lr=0.003,
            max_epochs=20,
            batch_size=50,
            verbose=0,
        ).fit(X_train, y_train)
    return Case(net, X_test, y_test, X_train, y_train, true_cells=mask)


@planted(
    "values on a smooth field",
    "fact",
    kind="neighbours of a signal",
    why="cells beside the patch share its noise, and are rightly used to take it away",
    also=("undecided",),
)
def values_smooth(seed):
    X, y, mask = valued_fields(seed, background=smooth)
    build = dense(400, 32, 1, flatten=True)
    return fit_module(build, X, y, seed, true_cells=mask, training={"epochs": 20})


@planted("Lorenz-96", "fact", kind="regression", why="the tendency follows from four sites")
def lorenz(seed):
    X, y, truth = make_lorenz96(1200, random_state=seed)
    X = scale(X)
    used = truth.any(axis=0)
    training = {"epochs": 60, "lr": 0.005}
    return fit_module(
        dense(12, 64, 64, 1), X, scale(y)[:, None], seed, true_cells=used, training=training
    )


class Streamflow(nn.Module):
    """An LSTM that reads days of weather."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(2, 16, batch_first=True)
        self.head = nn.Linear(16, 1)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


@planted("rainfall and runoff", "fact", kind="regression", why="streamflow follows the weather")
def runoff(seed):
    X, y, _ = make_rainfall_runoff(600, n_days=30, random_state=seed)
    X = ((X - X.mean(axis=(0, 1))) / X.std(axis=(0, 1))).astype(np.float32)
    training = {"epochs": 30, "lr": 0.01}
    return fit_module(Streamflow, X, scale(y)[:, None], seed, n_test=200, training=training)


@planted("diabetes", "fact", kind="regression", why="half of the variance is explained")
def diabetes(seed):
    X, y = load_diabetes(return_X_y=True)
    X = StandardScaler().fit_transform(X).astype(np.float32)
    training = {"epochs": 30, "weight_decay": 1e-3}
    return fit_module(dense(10, 16, 1), X, scale(y)[:, None], seed, training=training)


def of_three_outputs(seed):
    """Train on three indices, and explain the second."""
    masks = [patch(SHAPE, (r, r + 5), (c, c + 5)) for r, c in ((1, 2), (6, 13), (14, 5))]
    X, y = indices(seed, masks)
    build = dense(400, 32, 3, flatten=True)
    training = {"epochs": 20}
    return fit_module(build, X, y, seed, target=1, true_cells=masks[1], training=training)


@planted("three outputs", "fact", kind="several outputs", why="the second is explained")
def three_outputs(seed):
    return of_three_outputs(seed)


@planted(
    "three outputs, maps of another",
    "artifact",
    kind="several outputs",
    why="the second is asked for, and the maps are of the first",
)
def other_output(seed):
    case = of_three_outputs(seed)
    return replace(case, relevance=explain(case.model, case.X, rule="epsilon", target=0))


@planted(
    "a field as target",
    "fact",
    kind="gridded target",
    why="an index for every cell of a coarse field is predicted, and one is explained",
)
def field_ahead(seed):
    masks = [
        patch(SHAPE, (row, row + 5), (column, column + 4))
        for row in range(0, 20, 5)
        for column in range(0, 20, 4)
    ]
    X, y = indices(seed, masks)

    def build():
        return nn.Sequential(nn.Flatten(), nn.Linear(400, 64), nn.ReLU(), Gridded(64, (4, 5)))

    entries = {"target": (1, 2), "true_cells": masks[7], "training": {"epochs": 20}}
    return fit_module(build, X, y.reshape(-1, 4, 5), seed, **entries)


class Gridded(nn.Module):
    """A dense layer whose output is a field."""

    def __init__(self, n_in, shape):
        super().__init__()
        self.dense = nn.Linear(n_in, int(np.prod(shape)))
        self.field = nn.Unflatten(1, shape)

    def forward(self, x):
        return self.field(self.dense(x))


@planted("values permuted", "artifact", kind="regression", why="values have no relation to X")
def permuted_values(seed):
    X, y, mask = valued_fields(seed)
    y = np.random.default_rng(seed).permutation(y)
    build = dense(400, 32, 1, flatten=True)
    none = np.zeros_like(mask)
    return fit_module(build, X, y, seed, true_cells=none, training={"epochs": 20})


@planted("values permuted, CNN", "artifact", kind="regression", why="values have no relation to X")
def permuted_values_cnn(seed):
    X, y, mask = valued_fields(seed)
    y = np.random.default_rng(seed).permutation(y)
    none = np.zeros_like(mask)[None]
    return fit_module(convolutions, X[:, None], y, seed, true_cells=none, training={"epochs": 8})
