"""Data that mislead readers of maps: suppressors, watermarks, exclusive-or.

Registers cases of `make_suppressor`, `make_watermark` and `make_xor`, whose truth is known per
cell.
"""

from __future__ import annotations

import numpy as np

from sklrp import CNNClassifier, MLPClassifier
from sklrp.datasets import make_suppressor, make_watermark, make_xor
from tests.helpers.planted.registry import fit, planted

SIZE = 16


def tell_apart(make, model, seed, *, rule="epsilon", n_per_class=500, **params):
    """Train on images that `make` returns with the truth per cell."""
    X, y, mask = make(n_per_class, size=SIZE, random_state=seed, **params)
    return fit(model, X.astype(np.float32), y, seed, rule=rule, n_test=300, true_cells=mask)


def mlp(**params):
    return MLPClassifier((32,), **{"max_epochs": 40, "weight_decay": 1e-3, **params})


def cnn(**params):
    return CNNClassifier((8, 16), input_shape=(1, SIZE, SIZE), **{"max_epochs": 15, **params})


@planted(
    "suppressor, MLP",
    "artifact",
    kind="suppressor",
    why="half of the map lies on a patch that says nothing by itself",
)
def suppressor(seed):
    return tell_apart(make_suppressor, mlp(), seed, noise=4.0)


@planted(
    "suppressor, CNN",
    "artifact",
    kind="suppressor",
    why="half of the map lies on a patch that says nothing by itself",
)
def suppressor_cnn(seed):
    return tell_apart(make_suppressor, cnn(max_epochs=30), seed, noise=4.0)


@planted(
    "suppressor in a smooth field",
    "artifact",
    kind="suppressor",
    why="half of the map lies on a patch that says nothing by itself",
)
def suppressor_smooth(seed):
    return tell_apart(make_suppressor, mlp(), seed, noise=4.0, background="correlated")


@planted(
    "XOR, MLP",
    "fact",
    kind="exclusive-or",
    why="no place tells the class alone, both together do",
)
def xor_mlp(seed):
    return tell_apart(make_xor, mlp(), seed)


@planted(
    "XOR, CNN",
    "fact",
    kind="exclusive-or",
    why="no place tells the class alone, both together do",
)
def xor_cnn(seed):
    return tell_apart(make_xor, cnn(), seed, rule="auto")


@planted(
    "watermark, linear",
    "fact",
    kind="watermark",
    why="the network ignores the bright patch that comes with either class",
)
def watermark(seed):
    return tell_apart(make_watermark, mlp(), seed)


@planted(
    "watermark, multiplicative",
    "fact",
    kind="watermark",
    why="the network ignores the bright patch that comes with either class",
)
def watermark_times(seed):
    params = {"mechanism": "multiplicative", "strength": 1.0}
    return tell_apart(make_watermark, cnn(), seed, rule="auto", **params)


@planted(
    "watermark, rotated",
    "fact",
    kind="watermark",
    why="the network ignores the bright patch that comes with either class",
)
def watermark_rotated(seed):
    return tell_apart(make_watermark, mlp(), seed, mechanism="rotated")


def moving(seed, n_samples=800):
    """Make images of a blob at a random place, whose sign is the class."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_samples, 20, 20)).astype(np.float32)
    y = rng.permutation(np.repeat([0, 1], n_samples // 2))
    for image, label, (row, column) in zip(X, y, rng.integers(0, 15, (n_samples, 2)), strict=True):
        image[row : row + 5, column : column + 5] += 2.0 * label - 1.0
    return X, y


def moving_cnn():
    return CNNClassifier((8, 16), input_shape=(1, 20, 20), max_epochs=12)


@planted("object that moves", "fact", kind="sound network", why="a blob tells the class anywhere")
def moving_object(seed):
    return fit(moving_cnn(), *moving(seed), seed, rule="auto")
