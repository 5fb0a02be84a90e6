"""Tables: networks on columns, of which some tell the class and others are noise.

Registers cases of samples without neighbours, where no test of places applies.
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.preprocessing import StandardScaler

from sklrp import MLPClassifier
from tests.helpers.planted.registry import fit, planted


def scaled(load):
    """Return a table of scikit-learn, its columns standardised."""
    X, y = load(return_X_y=True)
    return StandardScaler().fit_transform(X).astype(np.float32), y


def columns(seed, n_columns=30, n_informative=5, strength=0.6, n_samples=600):
    """Make a table of which the first columns tell the class."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.repeat([0, 1], n_samples // 2))
    X = rng.standard_normal((n_samples, n_columns)).astype(np.float32)
    X[:, :n_informative] += strength * np.where(y == 1, 1, -1)[:, None]
    return X, y, np.arange(n_columns) < n_informative


def mlp(**params):
    return MLPClassifier((16,), **{"max_epochs": 20, **params})


@planted("breast cancer MLP", "fact", kind="table", why="nearly all are right")
def cancer(seed):
    return fit(MLPClassifier((16, 16), max_epochs=30), *scaled(load_breast_cancer), seed)


@planted("wine MLP", "fact", kind="table", why="three classes, nearly all right")
def wine(seed):
    return fit(mlp(max_epochs=40), *scaled(load_wine), seed)


@planted("table with noise columns", "fact", kind="table", why="five of 30 columns are used")
def noise_columns(seed):
    X, y, mask = columns(seed)
    return fit(mlp(), X, y, seed, true_cells=mask)


@planted(
    "table of 200 columns",
    "fact",
    kind="table",
    why="four of 200 columns tell the class, and weigh more than the others",
)
def many_columns(seed):
    X, y, mask = columns(seed, 200, 4, 0.9)
    return fit(mlp(max_epochs=10, weight_decay=0.01), X, y, seed, true_cells=mask)


@planted("table of noise", "artifact", kind="no skill", why="no column tells the class")
def all_noise(seed):
    X, y, mask = columns(seed, strength=0.0)
    return fit(mlp(), X, y, seed, true_cells=np.zeros_like(mask))


@planted(
    "table, columns in their units",
    "artifact",
    kind="a mean everywhere",
    why="columns that say nothing have means of 30 standard deviations",
)
def in_units(seed):
    X, y, mask = columns(seed)
    X[:, 10:] += 30
    return fit(mlp(max_epochs=40), X, y, seed, true_cells=mask)
