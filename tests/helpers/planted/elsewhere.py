"""Maps that were made elsewhere, handed over as `relevance=`: sound ones and others.

Registers cases in which the network is sound, and the maps are or are not of it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from sklrp.datasets import make_watermark, make_xor
from tests.helpers.planted.mechanisms import cnn as small_cnn
from tests.helpers.planted.mechanisms import mlp as small_mlp
from tests.helpers.planted.mechanisms import moving, moving_cnn, tell_apart
from tests.helpers.planted.networks import cnn, digits, mlp, on_squares
from tests.helpers.planted.registry import fit, planted
from tests.helpers.planted.tables import columns


def gradients(model, X, baselines, shares, classes):
    """Return (x - baseline) times the gradient part of the way, averaged over the shares."""
    module, total = model.module_, 0.0
    rows, bases = (torch.from_numpy(v.reshape(len(v), -1)) for v in (X, baselines))
    for k, share in enumerate(shares):
        base = bases[[k % len(bases)]]
        point = (base + share * (rows - base)).requires_grad_()
        score = module(point)[torch.arange(len(X)), torch.from_numpy(classes)].sum()
        total = total + (rows - base) * torch.autograd.grad(score, point)[0]
    return (total / len(shares)).numpy().reshape(X.shape)


def handed_over(case, make, seed):
    """Return a case with maps that `make` draws of the case, its classes and a generator."""
    rng = np.random.default_rng(seed)
    classes = np.searchsorted(case.model.classes_, case.model.predict(case.X))
    return replace(case, relevance=make(case, classes, rng).astype(np.float32))


def integrated(case, classes, rng):
    return gradients(case.model, case.X, np.zeros_like(case.X[:1]), np.linspace(0, 1, 20), classes)


def expected(case, classes, rng):
    draws = rng.permutation(case.X_train)[:40]
    return gradients(case.model, case.X, draws, rng.random(40), classes)


@planted(
    "integrated gradients, MLP",
    "fact",
    kind="map made elsewhere",
    why="the map sums to the score and lies on the square",
)
def integrated_mlp(seed):
    return handed_over(on_squares(mlp(), seed), integrated, seed)


@planted(
    "integrated gradients, CNN",
    "fact",
    kind="map made elsewhere",
    why="the map sums to the score and lies on the square",
)
def integrated_cnn(seed):
    return handed_over(on_squares(cnn(), seed), integrated, seed)


@planted(
    "expected gradients, MLP",
    "fact",
    kind="map made elsewhere",
    why="the map sums to the score and lies on the square",
)
def expected_mlp(seed):
    return handed_over(on_squares(mlp(), seed), expected, seed)


@planted(
    "expected gradients of digits",
    "fact",
    kind="map made elsewhere",
    why="ten classes, nearly all right",
)
def expected_digits(seed):
    return handed_over(fit(mlp(), *digits(), seed), expected, seed)


@planted(
    "expected gradients, XOR",
    "fact",
    kind="map made elsewhere",
    why="both places are shown",
)
def expected_xor(seed):
    return handed_over(tell_apart(make_xor, small_cnn(), seed), expected, seed)


@planted(
    "weights of a linear model",
    "fact",
    kind="map made elsewhere",
    why="what a linear model adds up is known exactly; it has no network",
)
def linear(seed):
    X, y, mask = columns(seed)
    case = fit(LogisticRegression(C=0.1), X, y, seed, true_cells=mask)

    def contributions(case, classes, rng):
        sign = np.where(classes == 1, 1, -1)[:, None]
        return sign * case.model.coef_ * (case.X - case.X_train.mean(axis=0))

    return handed_over(case, contributions, seed)


@planted(
    "random map",
    "artifact",
    kind="map made elsewhere",
    why="relevance is drawn at random",
)
def random_map(seed):
    return handed_over(on_squares(mlp(), seed), lambda c, k, rng: rng.normal(size=c.X.shape), seed)


@planted(
    "random map of a CNN",
    "artifact",
    kind="map made elsewhere",
    why="relevance is drawn at random, and positive",
)
def random_positive_map(seed):
    return handed_over(on_squares(cnn(), seed), lambda c, k, rng: rng.random(c.X.shape), seed)


@planted(
    "size of the input",
    "artifact",
    kind="map made elsewhere",
    why="the map is the input's absolute value",
)
def input_map(seed):
    return handed_over(on_squares(mlp(), seed), lambda c, k, rng: np.abs(c.X), seed)


@planted(
    "size of the input of digits",
    "artifact",
    kind="map made elsewhere",
    why="the map is the input",
)
def digits_input(seed):
    return handed_over(fit(mlp(), *digits(), seed), lambda c, k, rng: np.abs(c.X), seed)


@planted(
    "mirrored maps",
    "artifact",
    kind="map made elsewhere",
    why="the axes of the map are in another order than the input's",
)
def mirrored(seed):
    return handed_over(on_squares(mlp(), seed), lambda *args: integrated(*args)[:, :, ::-1], seed)


@planted(
    "maps of an untrained network",
    "artifact",
    kind="map made elsewhere",
    why="the maps are of the network as it was before training",
)
def untrained(seed):
    case = on_squares(mlp(), seed)
    start = (
        mlp(random_state=seed).set_params(max_epochs=1, lr=1e-12).fit(case.X_train, case.y_train)
    )

    def of_start(case, classes, rng):
        return integrated(replace(case, model=start), classes, rng)

    return handed_over(case, of_start, seed)


@planted(
    "maps of another class",
    "artifact",
    kind="wrong class",
    why="every map is of a class that the network did not predict",
)
def other_class(seed):
    def of_other(case, classes, rng):
        return integrated(case, (classes + rng.integers(1, 10, len(classes))) % 10, rng)

    return handed_over(fit(mlp(), *digits(), seed), of_other, seed)


@planted(
    "maps of the other class",
    "artifact",
    kind="wrong class",
    why="of two classes, the map is of the one that was not predicted",
)
def opposite_class(seed):
    return handed_over(on_squares(mlp(), seed), lambda c, k, rng: integrated(c, 1 - k, rng), seed)


@planted(
    "maps of other samples",
    "artifact",
    kind="map of another sample",
    why="maps of digits were shuffled",
)
def shuffled(seed):
    return handed_over(
        fit(mlp(), *digits(), seed), lambda c, k, rng: rng.permutation(expected(c, k, rng)), seed
    )


@planted(
    "maps of other samples, an object that moves",
    "artifact",
    kind="map of another sample",
    why="maps were shuffled, and the object is elsewhere",
)
def shuffled_places(seed):
    case = fit(moving_cnn(), *moving(seed), seed)
    return handed_over(case, lambda c, k, rng: rng.permutation(integrated(c, k, rng)), seed)


@planted(
    "size of the input, watermark",
    "artifact",
    kind="watermark",
    why="the map is the input's absolute value: it shows the watermark",
)
def watermark_input(seed):
    case = tell_apart(make_watermark, small_mlp(), seed)
    return handed_over(case, lambda c, k, rng: np.abs(c.X), seed)
