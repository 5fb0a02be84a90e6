"""Metrics against plain loops, numbers worked by hand, degenerate maps; scorers in searches."""

import copy
import functools
import itertools
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import sklearn
import torch
import xarray as xr
from packaging.version import Version
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import SelectKBest
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Bunch
from skorch import NeuralNetClassifier
from torch import nn

import sklrp
from sklrp import CNNClassifier, LSTMClassifier, MLPClassifier, RelevanceTransformer, metrics
from sklrp.datasets import make_squares
from sklrp.geo import GridVectorizer, box_mask
from sklrp.metrics import (
    class_sensitivity,
    conservation_error,
    faithfulness_correlation,
    make_relevance_scorer,
    max_sensitivity,
    pixel_flipping_curve,
    pixel_flipping_score,
    randomization_similarity,
    relevance_mass,
    relevance_rank,
    skill_mass,
    sparseness,
)
from sklrp.metrics.catalogue import METRICS, show_metrics
from sklrp.metrics.similarity import compare_maps

PARTS = {
    "positive": lambda r: max(r, 0.0),
    "absolute": abs,
    "signed": lambda r: r,
}
ALL_METRICS = sorted(METRICS)


def random_maps(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


class LinearClassifier(ClassifierMixin, BaseEstimator):
    """Class means as weights, with weight times value as relevance, less some for another rule."""

    def fit(self, X, y):
        X = np.asarray(X, dtype=float)
        self.classes_ = np.unique(y)
        means = [X[y == label].mean(axis=0) for label in self.classes_]
        self.weights_ = np.stack(means) - X.mean(axis=0)
        return self

    def decision_function(self, X):
        scores = (
            np.asarray(X).reshape(len(X), -1) @ self.weights_.reshape(len(self.weights_), -1).T
        )
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X):
        scores = self.decision_function(X)
        return self.classes_[
            scores.argmax(axis=1) if scores.ndim == 2 else (scores > 0).astype(int)
        ]

    def explain(
        self,
        X,
        *,
        target=None,
        rule="auto",
        epsilon=1e-6,
        contrast=False,
        batch_size=None,
        n_jobs=None,
        return_details=False,
    ):
        X = np.asarray(X)
        target = self.predict(X) if target is None else np.broadcast_to(target, len(X))
        weights = self.weights_[np.searchsorted(self.classes_, target)]
        score = (X * weights).reshape(len(X), -1).sum(axis=1)
        if rule == "flat":
            weights = np.ones_like(weights)
        relevance = X * weights / (1 + epsilon)
        return (relevance, Bunch(score=score)) if return_details else relevance


@pytest.fixture(scope="module")
def squares():
    """Images of 9 x 9 in three classes, of which the place of a bright square tells."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    X = rng.normal(scale=0.3, size=(60, 9, 9))
    masks = np.zeros((60, 9, 9), dtype=bool)
    for i, label in enumerate(y):
        masks[i, 3 * label : 3 * label + 3, 3:6] = True
    X[masks] += 1
    return X, np.array(["a", "b", "c"])[y], masks


@pytest.fixture(scope="module")
def linear(squares):
    X, y, _ = squares
    return LinearClassifier().fit(X, y)


@pytest.fixture(scope="module")
def mlp(squares):
    X, y, _ = squares
    return MLPClassifier((8, 6), max_epochs=30, lr=0.01, random_state=0).fit(X, y)


# Maps alone


@pytest.mark.parametrize("shape", [(5, 6), (5, 3, 6), (5, 3, 2, 4)])
def test_conservation_error_is_the_missing_share(shape):
    maps, score = random_maps(shape), np.array([1.0, -2.0, 0.5, -0.1, 3.0])
    error = conservation_error(maps, score)
    absolute = conservation_error(maps, score, relative=False)
    for i in range(5):
        missing = abs(score[i] - sum(maps[i].ravel().tolist()))
        assert error[i] == pytest.approx(missing / abs(score[i]))
        assert absolute[i] == pytest.approx(missing)


def test_conservation_error_by_class():
    maps, score = random_maps((4, 3, 5)), random_maps((4, 3), seed=1)
    expected = np.abs(score - maps.sum(axis=2)) / np.abs(score)
    np.testing.assert_allclose(conservation_error(maps, score), expected)


def test_conservation_error_of_a_score_of_zero():
    maps = [[0.0, 0.0], [1.0, -1.0], [1.0, 0.0]]
    assert conservation_error(maps, [0.0, 0.0, 0.0]).tolist() == [0.0, 0.0, np.inf]


def test_conservation_error_of_a_network(mlp, squares):
    X = squares[0][:8]
    relevance, details = mlp.explain(X, rule="zero", return_details=True)
    kept = sum(layer.bias for layer in details.layers)
    np.testing.assert_allclose(
        conservation_error(relevance, details.score), np.abs(kept / details.score), atol=1e-9
    )


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("per_sample", [False, True])
def test_relevance_mass_is_the_share_on_the_mask(part, per_sample):
    maps = random_maps((6, 3, 4))
    masks = random_maps((6, 3, 4), seed=1) > 0
    mass = relevance_mass(maps, masks if per_sample else masks[0], part=part)
    for i in range(6):
        mask = masks[i if per_sample else 0]
        inside = total = 0.0
        for r, marked in zip(maps[i].ravel(), mask.ravel(), strict=True):
            inside += PARTS[part](r) if marked else 0.0
            total += abs(r) if part == "signed" else PARTS[part](r)
        assert mass[i] == pytest.approx(inside / total)


@pytest.mark.parametrize("part", PARTS)
def test_weights_count_a_feature_several_times(part):
    maps, mask = random_maps((5, 2, 3)), np.array([[1, 0, 1], [0, 0, 1]], dtype=bool)
    weights = np.array([[1, 2, 3], [0, 2, 1]])
    times = weights.ravel()
    repeated = np.repeat(maps.reshape(5, 6), times, axis=1)
    expected = relevance_mass(repeated, np.repeat(mask.ravel(), times), part=part)
    for given in (weights, weights.ravel(), weights[np.newaxis] * 1e-9):
        found = relevance_mass(maps, mask, part=part, weights=given)
        np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(2), r"weights has the shape \(2,\), but must have that of one map, \(2, 3\)"),
        (-np.ones((2, 3)), "weights must be finite, at least 0 and not all 0"),
        (np.zeros((2, 3)), "weights must be finite"),
        (np.full((2, 3), np.nan), "weights must be finite"),
    ],
)
def test_bad_weights(weights, message):
    with pytest.raises(ValueError, match=message):
        relevance_mass(random_maps((5, 2, 3)), np.ones((2, 3)), weights=weights)


@pytest.mark.parametrize("part", PARTS)
def test_relevance_rank_is_the_mean_over_orders_of_ties(part):
    rng = np.random.default_rng(0)
    maps = rng.integers(-2, 3, size=(12, 6)).astype(float)  # many ties
    masks = rng.random((12, 6)) < 0.5
    masks[:, 0] = True
    rank = relevance_rank(maps, masks, part=part)
    for row, mask, value in zip(maps, masks, rank, strict=True):
        size = mask.sum()
        found = []
        for order in itertools.permutations(range(6)):  # a stable sort keeps the order of ties
            first = sorted(order, key=lambda i: -PARTS[part](row[i]))[:size]
            found.append(mask[first].sum() / size)
        assert value == pytest.approx(np.mean(found))


def test_relevance_rank_by_hand():
    # The two largest of 4, 3, -5, 0 are the first two; the mask marks the first and the third,
    # which by absolute value are the two largest.
    assert relevance_rank([[4.0, 3.0, -5.0, 0.0]], [1, 0, 1, 0]).tolist() == [0.5]
    assert relevance_rank([[4.0, 3.0, -5.0, 0.0]], [1, 0, 1, 0], part="absolute").tolist() == [1]


def test_sparseness_is_the_mean_absolute_difference():
    maps = random_maps((5, 3, 4))
    for row, value in zip(np.abs(maps).reshape(5, 12), sparseness(maps), strict=True):
        difference = sum(abs(a - b) for a in row for b in row)
        assert value == pytest.approx(difference / (2 * 12 * row.sum()))


def test_sparseness_by_hand():
    # One of N has it all: 1 - 1/N. Of (1, 3): 1 - 2 (1/4 * 1.5/2 + 3/4 * 0.5/2) = 1/4.
    assert sparseness([[0.0, 0.0, -2.0, 0.0], [1.0, 1.0, 1.0, -1.0]]).tolist() == [0.75, 0.0]
    assert sparseness([[3.0, -1.0]]).item() == pytest.approx(0.25)
    assert sparseness([[5.0]]).tolist() == [0.0]


@pytest.mark.parametrize("scale", [1e-300, 1.0, 5e307])
def test_maps_of_any_scale(scale):
    maps = random_maps((3, 40)) * scale
    mask = np.arange(40) < 16
    for metric in (
        sparseness,
        lambda m: relevance_mass(m, mask),
        lambda m: relevance_rank(m, mask),
    ):
        np.testing.assert_allclose(metric(maps), metric(maps / scale))


def test_maps_of_zeros():
    maps = np.zeros((2, 3, 4))
    mask = np.zeros((3, 4), dtype=bool)
    mask[0] = True
    for part in PARTS:
        assert relevance_mass(maps, mask, part=part).tolist() == [0, 0]
        np.testing.assert_allclose(relevance_rank(maps, mask, part=part), 1 / 3)
    assert sparseness(maps).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("maps_shape", "mask_shape"),
    [
        ((4, 12), (3, 4)),  # flat maps, such as those of RelevanceTransformer
        ((4, 3, 4), (12,)),
        ((4, 1, 3, 4), (3, 4)),  # a channel axis of length 1 is left out
        ((4, 3, 4), (1, 3, 4)),
        ((4, 1, 3, 4), (4, 3, 4)),
        ((4, 12), (4, 3, 4)),
        ((1, 3, 4), (1, 3, 4)),
        ((3, 3), (3,)),
        ((3, 3), (3, 3)),
    ],
)
def test_masks_may_be_laid_out_otherwise(maps_shape, mask_shape):
    maps, mask = random_maps(maps_shape), random_maps(mask_shape, seed=1) > -0.5
    rows = mask.reshape(len(maps) if mask.size == maps.size else 1, -1)
    np.testing.assert_allclose(
        relevance_mass(maps, mask), relevance_mass(maps.reshape(len(maps), -1), rows)
    )
    np.testing.assert_allclose(relevance_mass(maps, mask.astype(int)), relevance_mass(maps, mask))


@pytest.mark.parametrize("metric", [relevance_mass, relevance_rank])
def test_bad_masks(metric):
    maps = random_maps((4, 3, 5))
    with pytest.raises(ValueError, match=r"mask has the shape \(5, 3\).*\(3, 5\).*\(4, 3, 5\)"):
        metric(maps, np.ones((5, 3), dtype=bool))  # transposed
    with pytest.raises(ValueError, match=r"mask has the shape \(2, 3, 5\)"):
        metric(maps, np.ones((2, 3, 5), dtype=bool))
    with pytest.raises(ValueError, match="mask has the shape"):
        metric(maps, np.ones((3, 4), dtype=bool))
    with pytest.raises(ValueError, match="mask is empty: no feature is marked"):
        metric(maps, np.zeros((3, 5), dtype=bool))
    masks = np.ones((4, 3, 5), dtype=bool)
    masks[2] = False
    with pytest.raises(ValueError, match=r"mask is empty for the samples \[2\]"):
        metric(maps, masks)
    with pytest.raises(ValueError, match=r"mask must hold booleans.*mask > 0\.5"):
        metric(maps, np.full((3, 5), 0.3))
    with pytest.raises(ValueError, match="mask must hold booleans"):
        metric(maps, np.full((3, 5), np.nan))
    with pytest.raises(ValueError, match="'part' parameter"):
        metric(maps, np.ones((3, 5), dtype=bool), part="negative")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_maps_must_be_finite(bad, linear, squares):
    X = squares[0][:4]
    maps = X.copy()
    maps[1, 0, 0] = bad
    for grade in (
        sparseness,
        lambda m: conservation_error(m, np.ones(4)),
        lambda m: relevance_mass(m, np.ones((9, 9), dtype=bool)),
        lambda m: relevance_rank(m, np.ones((9, 9), dtype=bool)),
        lambda m: pixel_flipping_curve(linear, X, m),
        lambda m: pixel_flipping_score(linear, X, m),
        lambda m: faithfulness_correlation(linear, X, m),
        lambda m: max_sensitivity(lambda X: m, X, n_draws=1),
        lambda m: compare_maps(X, m),
    ):
        with pytest.raises(ValueError, match="NaN or infinite values in 1 of 4 maps"):
            grade(maps)
    with pytest.raises(ValueError, match="score has NaN"):
        conservation_error(X, np.full(4, bad))


def test_bad_maps_and_scores():
    with pytest.raises(ValueError, match=r"got the shape \(5,\).*relevance\[np.newaxis\]"):
        sparseness(np.ones(5))
    with pytest.raises(ValueError, match=r"\(0, 5\)"):
        sparseness(np.ones((0, 5)))
    with pytest.raises(ValueError, match=r"score has the shape \(4,\).*\(3,\)"):
        conservation_error(np.ones((3, 5)), np.ones(4))
    with pytest.raises(ValueError, match="score has the shape"):
        conservation_error(np.ones((3, 5, 5)), np.ones((3, 4)))


# Replacing features


def network(seed=0, n_features=12, n_outputs=3):
    """Return a function of samples with a score for each of some classes."""
    weights = np.random.default_rng(seed).normal(size=(n_features, n_outputs))
    return lambda X: np.tanh(np.asarray(X).reshape(len(X), -1) @ weights) + 0.1


def flip_by_hand(predict, x, r, target, labels, counts, baseline, *, descending=True):
    """Return the scores of one sample while its groups are replaced, by lists and loops."""
    names = sorted(set(labels))
    sums = {g: sum(r[i] for i in range(len(r)) if labels[i] == g) for g in names}
    order = sorted(names, key=lambda g: sums[g], reverse=descending)
    scores = []
    for count in counts:
        gone = set(order[:count])
        changed = [baseline[i] if labels[i] in gone else x[i] for i in range(len(x))]
        scores.append(predict(np.array([changed]))[0, target])
    return scores


PATCHES = [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3]  # of an edge of 2 on 3 x 4, row by row


@pytest.mark.parametrize("batch_size", [None, 1, 7])
@pytest.mark.parametrize(
    ("groups", "labels"),
    [
        (None, range(12)),
        (1, range(12)),
        (2, PATCHES),
        (np.reshape([*"aabbccddeeff"], (3, 4)), [*"aabbccddeeff"]),
        ([5, 5, 5, 5, 5, 1, 1, 2, 2, 3, 4, 4], [5, 5, 5, 5, 5, 1, 1, 2, 2, 3, 4, 4]),
    ],
)
def test_pixel_flipping_replaces_one_group_after_another(groups, labels, batch_size):
    X, maps = random_maps((5, 3, 4)), random_maps((5, 3, 4), seed=1)
    predict, target = network(), [0, 2, 1, 1, 0]
    n_groups = len(set(labels))
    curve = pixel_flipping_curve(
        predict, X, maps, target=target, groups=groups, steps=n_groups, batch_size=batch_size
    )
    assert curve.n_flipped.tolist() == list(range(n_groups + 1))
    np.testing.assert_allclose(curve.fraction, np.arange(n_groups + 1) / n_groups)
    assert curve.target.tolist() == target
    for i in range(5):
        one = [X[i].ravel(), maps[i].ravel(), target[i], [*labels], curve.n_flipped, np.zeros(12)]
        np.testing.assert_allclose(curve.most[i], flip_by_hand(predict, *one))
        np.testing.assert_allclose(curve.least[i], flip_by_hand(predict, *one, descending=False))
    np.testing.assert_allclose(curve.random[:, [0, -1]], curve.most[:, [0, -1]])


@pytest.mark.parametrize(
    ("steps", "counts"),
    [
        (1, [0, 12]),
        (5, [0, 2, 5, 7, 10, 12]),
        (100, range(13)),
        ([3, 1], [0, 1, 3]),
        ([0, 12], [0, 12]),
    ],
)
def test_pixel_flipping_steps(steps, counts):
    X, maps = random_maps((3, 12)), random_maps((3, 12), seed=1)
    curve = pixel_flipping_curve(network(), X, maps, target=1, steps=steps, orders=("most",))
    assert curve.n_flipped.tolist() == [*counts]
    assert not {"least", "random"} & set(curve)
    for i in range(3):
        expected = flip_by_hand(network(), X[i], maps[i], 1, range(12), counts, np.zeros(12))
        np.testing.assert_allclose(curve.most[i], expected)


@pytest.mark.parametrize("kind", ["zero", "mean", "number", "sample", "flat", "function"])
def test_pixel_flipping_baselines(kind):
    X, maps = random_maps((4, 3, 4)), random_maps((4, 3, 4), seed=1)
    other = random_maps((3, 4), seed=2)
    baseline, expected = {
        "zero": ("zero", np.zeros((4, 12))),
        "mean": ("mean", np.tile(X.mean(axis=0).ravel(), (4, 1))),
        "number": (-0.5, np.full((4, 12), -0.5)),
        "sample": (other, np.tile(other.ravel(), (4, 1))),
        "flat": (other.ravel(), np.tile(other.ravel(), (4, 1))),
        "function": (lambda X: X[:, ::-1] / 2, (X[:, ::-1] / 2).reshape(4, 12)),
    }[kind]
    curve = pixel_flipping_curve(
        network(), X, maps, target=0, steps=12, orders=("most",), baseline=baseline
    )
    for i in range(4):
        one = [X[i].ravel(), maps[i].ravel(), 0, range(12), range(13), expected[i]]
        np.testing.assert_allclose(curve.most[i], flip_by_hand(network(), *one))


def test_pixel_flipping_draws_whole_samples_as_baseline():
    X, maps = random_maps((2, 3, 4)), random_maps((2, 3, 4), seed=1)
    training = random_maps((5, 3, 4), seed=2)
    last = network()(training)[:, 0]
    curve = pixel_flipping_curve(
        network(), X, maps, target=0, steps=12, baseline=training, random_state=0
    )
    for name in ("most", "least", "random"):
        assert all(any(np.isclose(v, last)) for v in curve[name][:, -1]), name
    n = 3000
    many = pixel_flipping_curve(
        network(), X, maps, target=0, steps=1, baseline=training, n_repeats=n, random_state=0
    )
    np.testing.assert_allclose(many.most[:, -1], last.mean(), atol=4 * last.std() / n**0.5)


def test_pixel_flipping_random_order_is_uniform():
    X = np.eye(4)[:1]  # the score falls when the first feature is drawn: after 1 of 4 in 1/4
    curve = pixel_flipping_curve(
        lambda X: X[:, 0], X, X, orders=("random",), steps=4, n_repeats=4000, random_state=0
    )
    np.testing.assert_allclose(curve.random[0], [1, 0.75, 0.5, 0.25, 0], atol=0.03)
    assert curve.target is None


def test_pixel_flipping_breaks_ties_at_random():
    X = np.ones((4000, 4))
    for maps in (np.zeros((4000, 4)), np.full((4000, 4), -0.1)):
        curve = pixel_flipping_curve(lambda X: X[:, 2], X, maps, steps=4, random_state=0)
        for order in ("most", "least", "random"):
            np.testing.assert_allclose(
                curve[order].mean(axis=0), [1, 0.75, 0.5, 0.25, 0], atol=0.03
            )
        score = pixel_flipping_score(
            lambda X: X[:, 2], X, maps, reference="random", steps=4, random_state=0
        )
        assert abs(score.mean()) < 0.02


def test_pixel_flipping_evaluates_no_copy_twice():
    seen = []

    def predict(X):
        seen.append(X.copy())
        return X.sum(axis=1)

    X = np.array([[1.0, 0, 2, 0, 0, 3], [0, 0, 0, 0, 0, 0]])
    curve = pixel_flipping_curve(predict, X, X, orders=("most",), steps=6)
    assert curve.most.tolist() == [[6, 3, 1, 0, 0, 0, 0], [0] * 7]
    assert len(np.concatenate(seen[1:])) == 5  # the first call is of X itself


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_batches_are_bounded_and_full(batch_size):
    sizes = []

    def predict(X):
        sizes.append(len(X))
        return X.sum(axis=1)

    X = random_maps((7, 10))
    pixel_flipping_curve(predict, X, X, orders=("most",), batch_size=batch_size, steps=10)
    faithfulness_correlation(predict, X, X, batch_size=batch_size, n_subsets=9)
    assert max(sizes) == min(batch_size, 77)
    assert len(sizes) == 2 * -(-7 // batch_size) + -(-77 // batch_size) + -(-63 // batch_size)


def test_pixel_flipping_score_is_the_mean_difference():
    X, maps = random_maps((4, 12)), random_maps((4, 12), seed=1)
    params = {"target": 2, "steps": 5, "groups": [*"aabbccddeeff"], "random_state": 0}
    curve = pixel_flipping_curve(network(), X, maps, **params)
    points = len(curve.n_flipped)
    for i in range(4):
        aopc = sum(curve.most[i, 0] - curve.most[i, k] for k in range(points)) / points
        abpc = sum(curve.least[i, k] - curve.most[i, k] for k in range(points)) / points
        score = pixel_flipping_score(network(), X, maps, **params)
        assert score[i] == pytest.approx(aopc)
        score = pixel_flipping_score(network(), X, maps, reference="least", **params)
        assert score[i] == pytest.approx(abpc)
    score = pixel_flipping_score(network(), X, maps, reference="random", **params)
    with_random = pixel_flipping_curve(network(), X, maps, orders=("most", "random"), **params)
    np.testing.assert_allclose(score, (with_random.random - with_random.most).mean(axis=1))


def test_pixel_flipping_tells_a_right_map_from_a_wrong_one(mlp, squares):
    X, _, _ = squares
    right = mlp.explain(X, rule="epsilon")
    for reference in ("start", "random", "least"):
        params = {"reference": reference, "random_state": 0, "groups": 3}
        score = pixel_flipping_score(mlp, X, right, **params).mean()
        for wrong in (-right, random_maps(X.shape), np.zeros(X.shape)):
            assert score > pixel_flipping_score(mlp, X, wrong, **params).mean() + 0.3


def test_target_and_response_of_an_estimator(mlp, squares):
    X, _, _ = squares
    X, R = X[:6], random_maps((6, 9, 9))
    logits, probabilities = mlp.decision_function(X), mlp.predict_proba(X)
    start = {"orders": ("most",), "steps": 1}
    curve = pixel_flipping_curve(mlp, X, R, **start)
    assert curve.target.tolist() == mlp.predict(X).tolist()
    np.testing.assert_allclose(curve.most[:, 0], logits.max(axis=1))
    curve = pixel_flipping_curve(mlp, X, R, target="b", response="predict_proba", **start)
    np.testing.assert_allclose(curve.most[:, 0], probabilities[:, 1])
    curve = pixel_flipping_curve(mlp, X, R, target=[*"abcabc"], **start)
    np.testing.assert_allclose(curve.most[:, 0], logits[np.arange(6), [0, 1, 2] * 2])
    curve = pixel_flipping_curve(mlp.predict_proba, X, R, target=2, **start)
    np.testing.assert_allclose(curve.most[:, 0], probabilities[:, 2])


def test_the_score_of_two_classes_is_signed():
    X = random_maps((20, 3))
    clf = LogisticRegression().fit(X, np.where(X[:, 0] > 0, "warm", "cold"))
    d = clf.decision_function(X)
    for target, sign in (("warm", 1), ("cold", -1)):
        curve = pixel_flipping_curve(clf, X, X, target=target, steps=1, orders=("most",))
        np.testing.assert_allclose(curve.most[:, 0], sign * d)
    curve = pixel_flipping_curve(clf, X, X, steps=1, orders=("most",))
    assert curve.target.tolist() == clf.predict(X).tolist()


def test_data_frames_keep_their_names():
    X = pd.DataFrame(random_maps((20, 3)), columns=["x", "y", "z"])
    clf = LogisticRegression().fit(X, X["x"] > 0)
    named = pixel_flipping_score(clf, X, X)  # scikit-learn warns where names are lost
    plain = LogisticRegression().fit(X.to_numpy(), X["x"] > 0)
    np.testing.assert_allclose(named, pixel_flipping_score(plain, X.to_numpy(), X.to_numpy()))
    mlp = MLPClassifier((4,), max_epochs=1, random_state=0).fit(X, X["x"] > 0)
    assert max_sensitivity(mlp, X, n_draws=2).shape == (20,)


def test_float32_stays_and_integers_become_floats():
    seen = []

    def predict(X):
        seen.append(X.dtype)
        return X.sum(axis=1)

    for dtype in (np.float32, np.int64):
        X = np.arange(8).reshape(2, 4).astype(dtype)
        curve = pixel_flipping_curve(predict, X, X, steps=4, baseline=0.5)
        assert curve.most[1].tolist() == [22, 15.5, 10, 5.5, 2]
    assert set(seen[: len(seen) // 2]) == {np.dtype(np.float32)}
    assert set(seen[len(seen) // 2 :]) == {np.dtype(np.float64)}


def test_faithfulness_correlation_over_the_subsets_it_draws():
    X, maps = random_maps((3, 3, 4)) + 5, random_maps((3, 3, 4), seed=1)
    copies = []

    def predict(X):
        copies.append(X.copy())
        return network()(X)

    found = faithfulness_correlation(
        predict, X, maps, target=[0, 1, 2], groups=2, subset_size=2, n_subsets=30
    )
    copies = np.concatenate(copies[1:])
    owner = [int(np.argmin([np.sum((c != x) & (c != 0)) for x in X])) for c in copies]
    for i in range(3):
        share, loss = [], []
        for c in (c for c, o in zip(copies, owner, strict=True) if o == i):
            gone = {PATCHES[k] for k in range(12) if c.ravel()[k] == 0}
            assert len(gone) == 2
            share.append(sum(maps[i].ravel()[k] for k in range(12) if PATCHES[k] in gone))
            loss.append(network()(X[i : i + 1])[0, i] - network()(c[None])[0, i])
        assert len(share) == 30
        assert found[i] == pytest.approx(scipy.stats.pearsonr(share, loss).statistic)


def test_faithfulness_correlation_where_there_is_nothing_to_correlate():
    X = random_maps((2, 10)) + 3
    line = X @ np.ones((10, 1))
    assert line.shape == (2, 1)
    for predict, maps in (
        (lambda X: X.sum(axis=1), np.zeros((2, 10))),
        (lambda X: X.sum(axis=1), np.full((2, 10), 0.1)),
        (lambda X: np.ones(len(X)), X),
        (lambda X: 1 + 1e-16 * X.sum(axis=1), X),
        (lambda X: np.ones(len(X)), np.zeros((2, 10))),
    ):
        assert faithfulness_correlation(predict, X, maps, random_state=0).tolist() == [0, 0]


def test_faithfulness_correlation_of_a_linear_model_is_one():
    X, w = random_maps((5, 20)), random_maps(20, seed=1)
    for size in (1, 0.5, 19, 0.001):
        found = faithfulness_correlation(lambda X: X @ w, X, X * w, subset_size=size)
        np.testing.assert_allclose(found, 1)


def test_bad_input_of_flipping(linear, squares):
    X = squares[0][:4]
    curve = pixel_flipping_curve
    with pytest.raises(
        ValueError, match=r"relevance has the shape \(4, 9\).*\(4, 9, 9\).*\(4, 81"
    ):
        curve(linear, X, X[:, 0])
    with pytest.raises(ValueError, match=r"X must be an array.*X\[np.newaxis\]"):
        curve(linear, X[0, 0], X[0, 0])
    with pytest.raises(ValueError, match="target has the unknown labels 'x'; known are"):
        curve(linear, X, X, target="x")
    with pytest.raises(ValueError, match="target must be None, one label or 4 labels"):
        curve(linear, X, X, target=["a", "b"])
    with pytest.raises(ValueError, match="target='a' cannot be chosen"):
        curve(lambda X: X[:, 0, 0], X, X, target="a")
    with pytest.raises(ValueError, match="orders must be some of"):
        curve(linear, X, X, orders=("most", "worst"))
    with pytest.raises(ValueError, match=r"steps must be between 0 and 81.*to 100"):
        curve(linear, X, X, steps=[1, 100])
    with pytest.raises(ValueError, match="steps must be an integer or a list"):
        curve(linear, X, X, steps=[0.5])
    with pytest.raises(ValueError, match=r"groups must be None.*\(9, 9\).*\(3, 3\)"):
        curve(linear, X, X, groups=np.ones((3, 3)))
    with pytest.raises(ValueError, match="'groups' parameter"):
        curve(linear, X, X, groups=0)
    with pytest.raises(ValueError, match=r"baseline has the shape \(3,\)"):
        curve(linear, X, X, baseline=np.ones(3))
    with pytest.raises(ValueError, match="baseline returned an array of shape"):
        curve(linear, X, X, baseline=lambda X: X[0])
    with pytest.raises(ValueError, match="baseline has NaN"):
        curve(linear, X, X, baseline=np.nan)
    with pytest.raises(ValueError, match="'baseline' parameter"):
        curve(linear, X, X, baseline="blur")
    with pytest.raises(ValueError, match="estimator returned NaN or infinite scores"):
        curve(lambda X: np.where(X[:, 0, 0] == 0, np.nan, 1.0), X, X)
    with pytest.raises(ValueError, match="estimator must return scores of shape"):
        curve(lambda X: X, X, X)
    with pytest.raises(TypeError, match="LinearClassifier has no predict_proba"):
        curve(linear, X, X, response="predict_proba")
    with pytest.raises(TypeError, match="StandardScaler does not explain itself"):
        curve(StandardScaler(), X, X)
    with pytest.raises(ValueError, match="reference must be"):
        pixel_flipping_score(linear, X, X, reference="zero")
    with pytest.raises(ValueError, match="subset_size=81 is 81 of 81 groups"):
        faithfulness_correlation(linear, X, X, subset_size=81)


# Similarity


@pytest.mark.parametrize("similarity", ["spearman", "pearson", "cosine"])
@pytest.mark.parametrize("absolute", [False, True])
def test_similarity_by_scipy(similarity, absolute):
    one, other = random_maps((6, 3, 5)), random_maps((6, 3, 5), seed=1)
    one[:, 0] = np.round(one[:, 0])  # ties
    found = compare_maps(one, other, similarity, absolute=absolute)
    for i in range(6):
        a, b = one[i].ravel(), other[i].ravel()
        a, b = (abs(a), abs(b)) if absolute else (a, b)
        expected = {
            "spearman": lambda a, b: scipy.stats.spearmanr(a, b).statistic,
            "pearson": lambda a, b: scipy.stats.pearsonr(a, b).statistic,
            "cosine": lambda a, b: a @ b / (a @ a) ** 0.5 / (b @ b) ** 0.5,
        }[similarity](a, b)
        assert found[i] == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(9, 8), (2, 9, 8), (15,)])
def test_structural_similarity_by_windows(shape):
    one, other = random_maps((2, *shape)), random_maps((2, *shape), seed=1)
    other[1] += 2 * one[1]
    found = compare_maps(one, other, "ssim")
    for i in range(2):
        a, b = one[i] / np.abs(one[i]).max(), other[i] / np.abs(other[i]).max()
        a, b = (m.reshape(-1, *(1, *shape)[-2:]) for m in (a, b))
        height = min(7, a.shape[1])
        values = []
        for c, y, x in np.ndindex(len(a), a.shape[1] - height + 1, a.shape[2] - 6):
            p, q = (m[c, y : y + height, x : x + 7].ravel() for m in (a, b))
            (vp, cov), (_, vq) = np.cov(p, q)
            c1, c2 = 0.02**2, 0.06**2
            index = (2 * p.mean() * q.mean() + c1) * (2 * cov + c2)
            values.append(index / ((p.mean() ** 2 + q.mean() ** 2 + c1) * (vp + vq + c2)))
        assert found[i] == pytest.approx(np.mean(values))


@pytest.mark.parametrize("similarity", ["spearman", "pearson", "cosine", "ssim"])
def test_similarity_of_the_same_and_of_constant_maps(similarity):
    one = random_maps((3, 7, 7))
    np.testing.assert_allclose(compare_maps(one, 3 * one, similarity), 1)
    if similarity != "ssim":
        np.testing.assert_allclose(compare_maps(one, -one, similarity), -1)
    zeros = np.zeros((3, 7, 7))
    assert compare_maps(zeros, zeros, similarity).tolist() == [1, 1, 1]
    assert (np.abs(compare_maps(zeros, one, similarity)) < 0.1).all()
    assert np.isfinite(compare_maps(one * 1e-300, one * 1e300, similarity)).all()
    if similarity in ("spearman", "pearson"):
        noise = 1e-16 * one
        assert compare_maps(0.3 + noise, 7 - noise, similarity).tolist() == [1, 1, 1]
        assert compare_maps(0.3 + noise, one, similarity).tolist() == [0, 0, 0]
        single = (5 + 1e-7 * one).astype(np.float32)
        assert compare_maps(single, single[::-1], similarity).tolist() == [1, 1, 1]


def test_bad_similarity():
    maps = random_maps((3, 4, 6))
    with pytest.raises(ValueError, match=r"similarity must be one of.*'kendall'"):
        compare_maps(maps, maps, "kendall")
    with pytest.raises(ValueError, match=r"at least 7 values.*'spearman'"):
        compare_maps(maps, maps, "ssim")
    with pytest.raises(ValueError, match=r"\(3, 4, 6\) and \(3, 24\)"):
        compare_maps(maps, maps.reshape(3, 24))
    with pytest.raises(ValueError, match="one value for each of 3 samples"):
        compare_maps(maps, maps, lambda a, b: 1.0)
    distance = compare_maps(maps, maps + 2, lambda a, b: -np.abs(a - b).max(axis=(1, 2)))
    np.testing.assert_allclose(distance, -2)


# Explaining again


@pytest.mark.parametrize("relative", [True, False])
def test_max_sensitivity_over_the_moves_it_draws(relative):
    X = random_maps((3, 2, 4))
    seen = []

    def explain(X):
        seen.append(np.asarray(X).copy())
        return np.sin(3 * X)

    found = max_sensitivity(explain, X, radius=0.3, n_draws=5, relative=relative, random_state=0)
    moved = np.concatenate(seen[1:]).reshape(3, 5, 2, 4)
    assert 0.25 < np.abs(moved - X[:, None]).max() <= 0.3
    for i in range(3):
        largest = 0.0
        for j in range(5):
            change = (np.sin(3 * moved[i, j]) - np.sin(3 * X[i])).ravel()
            largest = max(largest, sum(d * d for d in change) ** 0.5)
        size = np.linalg.norm(np.sin(3 * X[i]))
        assert found[i] == pytest.approx(largest / size if relative else largest)


def test_max_sensitivity_of_zero_maps():
    def explain(X):
        return np.where(np.asarray(X) == 0, 0.0, [[1.0, 1.0], [0.0, 0.0]][int(X.max() > 5)])

    assert max_sensitivity(lambda X: np.zeros_like(X), np.ones((2, 3))).tolist() == [0, 0]
    assert max_sensitivity(explain, np.zeros((1, 2))).tolist() == [np.inf]


def test_max_sensitivity_keeps_the_class_and_the_settings(linear, squares):
    X = squares[0][:4]
    calls = []

    class Spy(LinearClassifier):
        def explain(self, X, **params):
            calls.append((len(X), params))
            return super().explain(X, **params)

    spy = copy.copy(linear)
    spy.__class__ = Spy
    far = max_sensitivity(spy, X, radius=5.0, n_draws=3, rule="flat", random_state=0)
    assert [n for n, _ in calls] == [4, 12]
    labels = linear.predict(X)
    np.testing.assert_array_equal(calls[0][1]["target"], labels)
    np.testing.assert_array_equal(calls[1][1]["target"], labels.repeat(3))
    assert calls[1][1]["rule"] == "flat"
    near = max_sensitivity(spy, X, radius=0.05, n_draws=3, rule="flat", random_state=0)
    np.testing.assert_allclose(near, far / 100)  # the map of this rule is the input


def test_class_sensitivity_compares_with_another_class(linear, squares):
    X = squares[0]
    labels = linear.predict(X)
    found = class_sensitivity(
        linear, X, other=np.roll([*"abc"], 1)[np.searchsorted([*"abc"], labels)]
    )
    for i, label in enumerate(labels):
        other = {"a": "c", "b": "a", "c": "b"}[label]
        maps = [linear.explain(X[i : i + 1], target=one).ravel() for one in (label, other)]
        assert found[i] == pytest.approx(scipy.stats.spearmanr(*maps).statistic)
    drawn = class_sensitivity(linear, X, random_state=0)
    pair = [class_sensitivity(linear, X[labels == "a"], other=other) for other in "bc"]
    of_a = drawn[labels == "a"]
    assert all(np.isclose(of_a, pair[0]) | np.isclose(of_a, pair[1]))
    assert all(any(np.isclose(of_a, one)) for one in pair)
    assert class_sensitivity(linear, X, rule="flat").tolist() == pytest.approx([1] * 60)


def test_class_sensitivity_of_two_classes_takes_the_other():
    X = random_maps((10, 5))
    clf = LinearClassifier().fit(X, X[:, 0] > 0)
    found = class_sensitivity(clf, X, target=True)
    np.testing.assert_allclose(found, class_sensitivity(clf, X, target=False, other=True))


class LinearNet(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(81, 5), nn.ReLU(), nn.Linear(5, 3))


def recorded_layers(mlp, X, **params):
    """Return the result and, for every explanation, which layers differ from the trained ones."""
    trained = copy.deepcopy(mlp.module_.state_dict())
    changed, explained = [], []

    def explain(estimator, X, **kwargs):
        state = estimator.module_.state_dict()
        names = [name for name in trained if not torch.equal(trained[name], state[name])]
        changed.append(sorted({name.split(".")[0] for name in names}))
        explained.append((copy.deepcopy(estimator), kwargs))
        return estimator.explain(X, **kwargs)

    result = randomization_similarity(mlp, X, explain=explain, rule="epsilon", **params)
    return result, changed, explained


@pytest.mark.parametrize(
    ("order", "layers", "changed"),
    [
        ("top_down", [2, 1, 0], [[2], [1, 2], [0, 1, 2]]),
        ("bottom_up", [0, 1, 2], [[0], [0, 1], [0, 1, 2]]),
        ("independent", [0, 1, 2], [[0], [1], [2]]),
    ],
)
@pytest.mark.parametrize("similarity", ["spearman", "cosine"])
def test_randomization_goes_from_layer_to_layer(mlp, squares, order, layers, changed, similarity):
    X = squares[0][:7]
    names = ["dense1", "dense2", "output"]
    result, found, explained = recorded_layers(
        mlp, X, order=order, similarity=similarity, random_state=0
    )
    assert result.layers == [names[i] for i in layers]
    assert found == [[]] + [[names[i] for i in step] for step in changed]
    labels = mlp.predict(X)
    maps = mlp.explain(X, rule="epsilon").reshape(7, -1)
    for (network, params), values in zip(explained[1:], result.similarity, strict=True):
        np.testing.assert_array_equal(params["target"], labels)
        others = network.explain(X, target=labels, rule="epsilon").reshape(7, -1)
        for i in range(7):
            if similarity == "spearman":
                expected = scipy.stats.spearmanr(maps[i], others[i]).statistic
            else:
                expected = (
                    maps[i] @ others[i] / np.linalg.norm(maps[i]) / np.linalg.norm(others[i])
                )
            assert values[i] == pytest.approx(expected)


def test_random_parameters_are_the_same_in_any_order(mlp, squares):
    X = squares[0][:5]
    down, up, alone = (
        randomization_similarity(mlp, X, order=order, random_state=3).similarity
        for order in ("top_down", "bottom_up", "independent")
    )
    np.testing.assert_allclose(down[-1], up[-1])
    np.testing.assert_allclose(down[0], alone[2])
    np.testing.assert_allclose(up[0], alone[0])
    other = randomization_similarity(mlp, X, order="top_down", random_state=4).similarity
    assert not np.allclose(down, other)


def test_random_parameters_are_drawn_as_torch_draws_them():
    layers = [
        nn.Linear(50, 40),
        nn.Conv1d(6, 30, 5, groups=2),
        nn.LSTM(20, 30, bidirectional=True),
        nn.BatchNorm1d(9),
    ]
    module = nn.Sequential(*copy.deepcopy(layers)).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(7.0)
    module[3].running_mean.fill_(7.0)
    seen = []

    def explain(module, X, target):
        seen.append(copy.deepcopy(module.state_dict()))
        return X

    X = np.ones((2, 3))
    result = randomization_similarity(
        module, X, target=0, order="bottom_up", explain=explain, random_state=0
    )
    assert result.layers == ["0", "1", "2", "3"]
    for i, layer in enumerate(layers):
        for name, default in layer.named_parameters():
            drawn = seen[-1][f"{i}.{name}"]
            assert drawn.dtype == torch.float64
            if i < 3:
                limit = {0: 50, 1: 15, 2: 30}[i] ** -0.5
                assert drawn.abs().max() <= limit
                assert drawn.std().item() == pytest.approx(limit / 3**0.5, rel=0.3), name
            else:
                assert torch.equal(drawn.float(), default)
    assert torch.equal(seen[-1]["3.running_mean"], torch.zeros(9).double())


def test_a_layer_may_draw_its_own_parameters():
    class Reservoir(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weight", torch.zeros(2, 2))

        def reset_parameters(self, generator=None):
            self.weight.copy_(torch.rand(2, 2, generator=generator) + 100)

    seen = []

    def explain(module, X, target):
        seen.append(module.weight.detach().clone())
        return X

    for _ in range(2):
        randomization_similarity(
            Reservoir(), np.ones((2, 3)), target=0, explain=explain, random_state=0
        )
    assert torch.equal(seen[0], torch.zeros(2, 2))
    assert seen[1].min() >= 100
    assert torch.equal(seen[1], seen[3])


def test_randomization_of_foreign_networks(squares):
    X, y, _ = squares
    X = X.reshape(60, 81).astype(np.float32)
    net = NeuralNetClassifier(LinearNet, max_epochs=1, train_split=None, verbose=0)
    net.fit(X, np.unique(y, return_inverse=True)[1])
    result = randomization_similarity(net, X, explain=sklrp.explain, random_state=0)
    assert result.layers == ["2", "0"]
    module = copy.deepcopy(net.module_)
    labels = module(torch.from_numpy(X)).argmax(1).numpy()
    bare = randomization_similarity(
        module, X, target=labels, explain=sklrp.explain, random_state=0
    )
    np.testing.assert_allclose(bare.similarity, result.similarity, atol=1e-6)


class Words(nn.Module):
    """Three scores of sentences of six words, by the mean of their vectors."""

    def __init__(self):
        super().__init__()
        self.vectors, self.output = nn.Embedding(20, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.output(self.vectors(x).mean(1))


def test_networks_that_look_words_up():
    words = np.random.default_rng(0).integers(1, 20, size=(5, 6))
    network = Words().double()
    maps = sklrp.explain(network, words)
    curve = pixel_flipping_curve(network, words, maps, steps=[1, 6], orders=("most",))
    first = words.copy()
    first[np.arange(5), maps.argmax(axis=1)] = 0
    for samples, scores in zip((words, first, 0 * words), curve.most.T, strict=True):
        outputs = network(torch.from_numpy(samples)).detach().numpy()
        np.testing.assert_allclose(scores, outputs[np.arange(5), curve.target])
    assert class_sensitivity(network, words).shape == (5,)
    assert randomization_similarity(network, words).layers == ["output", "vectors"]
    with pytest.raises(ValueError, match="X holds integers that the network looks up"):
        max_sensitivity(network, words)
    with pytest.raises(ValueError, match="baseline must hold integers"):
        pixel_flipping_score(network, words, maps, baseline=0.5)


class Sum(nn.Module):
    """The sum of the scores of two inputs."""

    def __init__(self):
        super().__init__()
        self.output = nn.Linear(3, 2).double()

    def forward(self, one, other):
        return self.output(one) + self.output(other)


def test_networks_of_several_inputs_are_refused():
    one = random_maps((4, 3))
    for X in ((one, one), {"one": one, "other": one}):
        for call in (
            lambda X: max_sensitivity(Sum(), X),
            lambda X: pixel_flipping_curve(Sum(), X, one),
            lambda X: make_relevance_scorer("sparseness")(Sum(), X),
        ):
            with pytest.raises(ValueError, match=r"X holds 2 inputs.*grade the maps of each"):
                call(X)


def test_probabilities_of_a_skorch_net(squares):
    X, y, _ = squares
    X = X.reshape(60, 81).astype(np.float32)
    net = NeuralNetClassifier(
        LinearNet, criterion=nn.CrossEntropyLoss, max_epochs=1, train_split=None, verbose=0
    ).fit(X, np.unique(y, return_inverse=True)[1])
    start = {"steps": 1, "orders": ("most",)}
    doubles = X.astype(np.float64)  # which the net itself does not take
    curve = pixel_flipping_curve(net, doubles, X, response="predict_proba", **start)
    np.testing.assert_allclose(curve.most[:, 0], net.predict_proba(X).max(axis=1), rtol=1e-5)
    curve = pixel_flipping_curve(net, doubles, X, **start)
    outputs = net.module_(torch.from_numpy(X)).detach().numpy()
    np.testing.assert_allclose(curve.most[:, 0], outputs.max(axis=1), rtol=1e-5)
    with pytest.raises(TypeError, match="LinearNet has no predict_proba"):
        pixel_flipping_curve(net.module_, doubles, X, response="predict_proba")


def test_a_degenerate_map_survives_randomization(mlp, squares):
    X = squares[0][:10]
    with pytest.warns(UserWarning, match="flat rule"):
        flat = randomization_similarity(mlp, X, rule="flat", random_state=0).similarity
    assert (flat == 1).all()
    epsilon = randomization_similarity(mlp, X, rule="epsilon", random_state=0).similarity
    assert epsilon[-1].mean() < 0.3


def test_bad_input_of_explaining(mlp, linear, squares):
    X = squares[0][:4]
    with pytest.raises(ValueError, match=r"other=.a. is the target of 4 samples"):
        class_sensitivity(linear, X, target="a", other="a")
    with pytest.raises(ValueError, match="other has the unknown labels 'x'"):
        class_sensitivity(linear, X, other="x")
    with pytest.raises(ValueError, match="target must be None, one label or 4 labels"):
        class_sensitivity(linear, X, target=["a", "b"])
    single = LinearClassifier().fit(X, np.zeros(4))
    single.predict = lambda X: np.zeros(len(X))
    with pytest.raises(ValueError, match="there is no other"):
        class_sensitivity(single, X)
    with pytest.raises(TypeError, match="LinearClassifier has no network to randomise"):
        randomization_similarity(linear, X)
    for metric in (class_sensitivity, randomization_similarity):
        with pytest.raises(TypeError, match=r"model must be .* of type function"):
            metric(lambda X: X, X)
    with pytest.raises(ValueError, match="no layer with parameters"):
        randomization_similarity(nn.ReLU(), X, target=0, explain=sklrp.explain)
    with pytest.raises(ValueError, match="'order' parameter"):
        randomization_similarity(mlp, X, order="random")
    with pytest.raises(ValueError, match="'similarity' parameter"):
        randomization_similarity(mlp, X, similarity="kendall")
    with pytest.raises(ValueError, match="'radius' parameter"):
        max_sensitivity(mlp, X, radius=0.0)
    with pytest.raises(ValueError, match="one map for each of 4 samples, got 3"):
        max_sensitivity(lambda X: X[:3], X)


# Scorers


def test_every_metric_is_a_scorer_such_that_greater_is_better(linear, mlp, squares):
    X, y, masks = squares
    X, y, masks = X[:24], y[:24], masks[:24]
    labels = mlp.predict(X)
    maps, details = mlp.explain(X, return_details=True)
    expected = {
        "class_sensitivity": -class_sensitivity(mlp, X, random_state=0),
        "conservation_error": -conservation_error(maps, details.score),
        "faithfulness_correlation": faithfulness_correlation(mlp, X, maps, random_state=0),
        "max_sensitivity": -max_sensitivity(mlp, X, random_state=0),
        "pixel_flipping": pixel_flipping_score(mlp, X, maps, target=labels, random_state=0),
        "randomization_similarity": -np.abs(
            randomization_similarity(mlp, X, random_state=0).similarity
        ),
        "relevance_mass": relevance_mass(maps, masks),
        "relevance_rank": relevance_rank(maps, masks),
        "skill_mass": skill_mass(mlp, X, y, random_state=0),
        "sparseness": sparseness(maps),
    }
    assert sorted(expected) == ALL_METRICS
    for name, values in expected.items():
        kwargs = {"mask": masks} if name.startswith("relevance") else {}
        if not kwargs and name not in ("conservation_error", "sparseness"):
            kwargs = {"random_state": 0}
        function = getattr(metrics, name.replace("flipping", "flipping_score"))
        for metric in (name, function, function.__name__):
            scorer = make_relevance_scorer(metric, **kwargs)
            score = scorer(mlp, X, y)
            assert isinstance(score, float)
            assert score == pytest.approx(values.mean()), name
        flipped = make_relevance_scorer(name, greater_is_better=values.mean() < 0, **kwargs)
        assert abs(flipped(mlp, X, y)) == pytest.approx(abs(values.mean()))


def test_a_scorer_of_an_own_metric():
    X = random_maps((10, 4))
    clf = LinearClassifier().fit(X, X[:, 0] > 0)
    largest = make_relevance_scorer(lambda R, axis: R.max(axis=axis), axis=1)
    assert largest(clf, X) == pytest.approx(clf.explain(X).max(axis=1).mean())
    partial = make_relevance_scorer(functools.partial(np.mean, axis=1))
    assert repr(partial) == f"make_relevance_scorer({partial.metric!r})"
    assert partial(clf, X) == pytest.approx(clf.explain(X).mean())
    assert make_relevance_scorer(np.mean, greater_is_better=False)(clf, X) == pytest.approx(
        -clf.explain(X).mean()
    )


@pytest.mark.parametrize("rule", ["epsilon", "flat"])
def test_a_scorer_uses_the_parameters_of_the_transformer(squares, rule):
    X, y, masks = squares
    transformer = RelevanceTransformer(
        LinearClassifier(), target="b", rule=rule, epsilon=1.0, aggregate="row", normalize="l1"
    ).fit(X, y)
    maps = transformer.estimator_.explain(X, target="b", rule=rule, epsilon=1.0)
    score = make_relevance_scorer("relevance_mass", mask=masks)(transformer, X, y)
    assert score == pytest.approx(relevance_mass(maps, masks).mean())
    clf = transformer.estimator_
    settings = {"rule": rule, "epsilon": 1.0, "target": "b"}
    scorer = make_relevance_scorer("conservation_error", **settings)
    assert scorer(clf, X) == pytest.approx(
        make_relevance_scorer("conservation_error")(transformer, X)
    )
    sensitivity = make_relevance_scorer("max_sensitivity", random_state=0)(transformer, X)
    expected = -max_sensitivity(clf, X, random_state=0, **settings).mean()
    assert sensitivity == pytest.approx(expected)
    flipping = make_relevance_scorer("pixel_flipping", random_state=0, groups=3)(transformer, X)
    expected = pixel_flipping_score(clf, X, maps, target="b", random_state=0, groups=3).mean()
    assert flipping == pytest.approx(expected)


def test_scorers_look_into_pipelines_and_searches(squares):
    X, y, _ = squares
    X = X.reshape(60, 81)
    scorer = make_relevance_scorer("pixel_flipping", random_state=0)
    scaler = StandardScaler().fit(X)
    scaled = scaler.transform(X)
    clf = LinearClassifier().fit(scaled, y)
    expected = scorer(clf, scaled)
    pipelines = [
        make_pipeline(StandardScaler(), LinearClassifier()),
        make_pipeline(StandardScaler(), "passthrough", RelevanceTransformer(LinearClassifier())),
        make_pipeline(
            StandardScaler(), RelevanceTransformer(LinearClassifier()), LogisticRegression()
        ),
        make_pipeline(StandardScaler(), RelevanceTransformer(FrozenEstimator(clf))),
    ]
    for pipeline in pipelines:
        assert scorer(pipeline.fit(X, y), X, y) == pytest.approx(expected)
    search = GridSearchCV(
        pipelines[1], {"relevancetransformer__epsilon": [1e-6]}, cv=2, scoring=scorer
    )
    assert scorer(search.fit(X, y), X, y) == pytest.approx(expected)
    selection = make_pipeline(SelectKBest(k=9), LinearClassifier()).fit(X, y)
    kept = selection[0].transform(X)
    assert scorer(selection, X) == pytest.approx(scorer(selection[1], kept))


def test_scorers_open_what_a_transformer_explains(squares):
    X, y, _ = squares
    X = X.reshape(60, 81)
    scaled = StandardScaler().fit_transform(X)
    clf = MLPClassifier((4,), max_epochs=2, random_state=0).fit(scaled, y)
    net = NeuralNetClassifier(copy.deepcopy(clf.module_), train_split=None, verbose=0).initialize()
    scaler = StandardScaler().fit(X)
    for transformer, samples in (
        (RelevanceTransformer(FrozenEstimator(clf)), scaled),
        (RelevanceTransformer(FrozenEstimator(clf), rule="epsilon"), scaled),
        (FrozenEstimator(RelevanceTransformer(FrozenEstimator(clf)).fit(scaled, y)), scaled),
        (make_pipeline(make_pipeline(scaler, RelevanceTransformer(FrozenEstimator(clf)))), X),
    ):
        fitted = transformer.fit(samples, y)
        for name in ("max_sensitivity", "pixel_flipping"):
            scorer = make_relevance_scorer(name, random_state=0)
            rule = {"rule": "epsilon"} if getattr(transformer, "rule", "") == "epsilon" else {}
            plain = make_relevance_scorer(name, random_state=0, **rule)
            assert scorer(fitted, samples) == pytest.approx(plain(clf, scaled))
            assert plain(net, scaled) == pytest.approx(plain(clf, scaled))
    with pytest.raises(NotFittedError, match="RelevanceTransformer"):
        make_relevance_scorer("sparseness")(RelevanceTransformer(clf), scaled)


def test_scorers_take_masks_of_fields(squares):
    values, y, _ = squares
    field = xr.DataArray(
        values,
        dims=("time", "lat", "lon"),
        coords={"time": np.arange(60), "lat": np.linspace(20, -20, 9), "lon": 10.0 * np.arange(9)},
    )
    field = field.where((field.lat < 0) | (field.lon < 60))  # land in the north-east
    model = make_pipeline(GridVectorizer(), MLPClassifier((4,), max_epochs=2, random_state=0))
    model.fit(field, y)
    mask = box_mask(field, lat=(-10, 10), lon=(10, 50))
    entered = model[0].transform(field)
    cells = mask.to_numpy()[np.isfinite(field[0]).to_numpy()]
    assert entered.shape[1] == cells.size < 81
    maps = model[-1].explain(entered)
    for metric in ("relevance_mass", "relevance_rank"):
        expected = getattr(metrics, metric)(maps, cells).mean()
        for given in (mask, mask.to_numpy(), mask[::-1], cells):
            scorer = make_relevance_scorer(metric, mask=given)
            assert scorer(model, field) == pytest.approx(expected)
            features = RelevanceTransformer(FrozenEstimator(model[-1])).fit(entered, y)
            assert scorer(make_pipeline(model[0], features), field) == pytest.approx(expected)


@pytest.mark.sweep(1)
@pytest.mark.parametrize("metric", ["pixel_flipping", "relevance_mass", "conservation_error"])
def test_grid_search_picks_the_rule_of_the_best_maps(metric):
    X, y, mask = make_squares(n_per_class=40, size=10, random_state=0)
    kwargs = {
        "pixel_flipping": {"groups": 2, "random_state": 0},
        "relevance_mass": {"mask": mask},
        "conservation_error": {},
    }[metric]
    clf = MLPClassifier((8,), max_epochs=20, lr=0.02, random_state=0)
    search = GridSearchCV(
        RelevanceTransformer(clf),
        {"rule": ["w_square", "epsilon", "z_plus"]},
        scoring=make_relevance_scorer(metric, **kwargs),
        cv=StratifiedKFold(2),
        error_score="raise",
    ).fit(X, y)
    scores = []
    for rule in ("w_square", "epsilon", "z_plus"):
        folds = []
        for train, test in StratifiedKFold(2).split(X, y):
            fitted = clone(clf).fit(X[train], y[train])
            maps, details = fitted.explain(X[test], rule=rule, return_details=True)
            if metric == "relevance_mass":
                values = relevance_mass(maps, mask)
            elif metric == "conservation_error":
                values = -conservation_error(maps, details.score)
            else:
                values = pixel_flipping_score(fitted, X[test], maps, **kwargs)
            folds.append(values.mean())
        scores.append(np.mean(folds))
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], scores)
    best = ["w_square", "epsilon", "z_plus"][int(np.argmax(scores))]
    assert search.best_params_ == {"rule": best}
    assert best != "w_square" or metric == "conservation_error"


@pytest.mark.sweep(1)
@pytest.mark.parametrize("classifier", [MLPClassifier, CNNClassifier, LSTMClassifier])
def test_cross_validate_grades_classifiers(classifier):
    X, y, mask = make_squares(n_per_class=10, size=10, random_state=0)
    scoring = {
        name: make_relevance_scorer(name, **({"mask": mask} if "relevance" in name else {}))
        for name in ALL_METRICS
    }
    result = cross_validate(
        classifier(max_epochs=2, random_state=0), X, y, cv=2, scoring=scoring, error_score="raise"
    )
    for name in ALL_METRICS:
        assert np.isfinite(result[f"test_{name}"]).all()


def test_masks_are_routed_sample_by_sample(squares):
    X, y, masks = squares
    with config_context(enable_metadata_routing=True):
        scorer = make_relevance_scorer("relevance_mass").set_score_request(mask=True)
        named = make_relevance_scorer("relevance_rank", part="signed")
        named.set_score_request(mask="places")
        folds = StratifiedKFold(3)
        result = cross_validate(
            LinearClassifier(),
            X,
            y,
            cv=folds,
            scoring={"mass": scorer, "rank": named, "sparse": make_relevance_scorer("sparseness")},
            params={"mask": masks, "places": ~masks},
            error_score="raise",
        )
        search = GridSearchCV(
            RelevanceTransformer(LinearClassifier()),
            {"rule": ["flat", "epsilon"]},
            scoring=scorer,
            cv=folds,
            error_score="raise",
        ).fit(X, y, mask=masks)
    for fold, (train, test) in enumerate(folds.split(X, y)):
        clf = LinearClassifier().fit(X[train], y[train])
        mass = relevance_mass(clf.explain(X[test]), masks[test]).mean()
        rank = relevance_rank(clf.explain(X[test]), ~masks[test], part="signed").mean()
        assert result["test_mass"][fold] == pytest.approx(mass)
        assert result["test_rank"][fold] == pytest.approx(rank)
        assert search.cv_results_[f"split{fold}_test_score"][1] == pytest.approx(mass)
    assert search.best_params_ == {"rule": "epsilon"}


def test_routing_has_to_be_asked_for(squares):
    X, y, masks = squares
    scorer = make_relevance_scorer("relevance_mass")
    with pytest.raises(RuntimeError, match="enable_metadata_routing=True"):
        scorer.set_score_request(mask=True)
    with config_context(enable_metadata_routing=True):
        with pytest.raises(Exception, match=r"mask'?\] are passed .*not explicitly set"):
            cross_validate(LinearClassifier(), X, y, cv=2, scoring=scorer, params={"mask": masks})
        with pytest.raises(TypeError, match=r"has no parameter 'masks'.*Did you mean 'mask'"):
            scorer.set_score_request(masks=True)
        with pytest.raises(ValueError, match="alias"):
            scorer.set_score_request(mask="not an identifier")
        assert scorer.get_metadata_routing().score.requests == {"mask": None}
    with pytest.raises(
        ValueError, match=r"needs a mask: one for all.*set_score_request\(mask=True"
    ):
        scorer(LinearClassifier().fit(X, y), X)
    fixed = make_relevance_scorer("relevance_mass", mask=masks[0])
    with pytest.raises(ValueError, match="mask is a parameter of make_relevance_scorer"):
        fixed(LinearClassifier().fit(X, y), X, mask=masks)


def test_sample_weights_pass_by_a_scorer():
    X = random_maps((20, 3))
    y = (X[:, 0] > 0).astype(int)
    for scoring in (
        make_relevance_scorer("sparseness"),
        {"sparse": make_relevance_scorer("sparseness")},
    ):
        search = GridSearchCV(
            MLPClassifier((2,), max_epochs=1, random_state=0),
            {"lr": [0.1]},
            cv=2,
            scoring=scoring,
            refit=False,
            error_score="raise",
        )
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            search.fit(X, y, sample_weight=np.ones(20))
        assert all("does not support sample_weight" in str(one.message) for one in seen)
        assert seen or Version(sklearn.__version__) < Version("1.9")  # scorers get none there


def test_unknown_metrics_and_parameters(linear, squares):
    X, y, _ = squares
    with pytest.raises(
        ValueError, match=r"\['class_sens.*got 'pixel_fliping'. Did you mean 'pixel_f"
    ):
        make_relevance_scorer("pixel_fliping")
    with pytest.raises(ValueError, match=r"metric must be one of.*got 3"):
        make_relevance_scorer(3)
    with pytest.raises(TypeError, match=r"pixel_flipping_score has no parameter 'step'.*'steps'"):
        make_relevance_scorer("pixel_flipping", step=3)
    for name in ("relevance", "X", "orders", "estimator"):
        with pytest.raises(TypeError, match=f"has no parameter '{name}'"):
            make_relevance_scorer("pixel_flipping", **{name: 1})
    with pytest.raises(TypeError, match="LogisticRegression does not explain"):
        make_relevance_scorer("sparseness")(LogisticRegression().fit(X[:, 0], y), X[:, 0])
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(X[:, 0], y)
    with pytest.raises(TypeError, match="Pipeline does not explain"):
        make_relevance_scorer("sparseness")(pipeline, X[:, 0])
    transformer = RelevanceTransformer(LinearClassifier()).fit(X, y)
    with pytest.raises(
        ValueError, match=r"rule is a parameter of make_relevance_scorer.*there only"
    ):
        make_relevance_scorer("sparseness", rule="flat")(transformer, X)
    with pytest.raises(ValueError, match="target='all' makes a map of every class"):
        make_relevance_scorer("sparseness")(transformer.set_params(target="all"), X)


def test_scorers_pickle_and_show_what_they_are():
    scorer = make_relevance_scorer("relevance_mass", mask=np.ones((3, 3)), part="signed")
    assert repr(scorer) == (
        "make_relevance_scorer('relevance_mass', mask=<array of shape (3, 3)>, part='signed')"
    )
    with config_context(enable_metadata_routing=True):
        other = make_relevance_scorer(relevance_rank, greater_is_better=False)
        other.set_score_request(mask="place")
    assert repr(other) == "make_relevance_scorer(relevance_rank, greater_is_better=False)"
    again = pickle.loads(pickle.dumps(other))
    assert repr(again) == repr(other)
    assert again.get_metadata_routing().score.requests == {"mask": "place"}


# All of them


def test_nothing_of_the_callers_is_changed(mlp, squares):
    X, masks = squares[0][:6].copy(), squares[2][:6].copy()
    maps = mlp.explain(X)
    before = X.copy(), maps.copy(), masks.copy(), copy.deepcopy(mlp.module_.state_dict())
    generators = np.random.get_state()[1:3], torch.get_rng_state()  # noqa: NPY002
    for arrays in (X, maps, masks):
        arrays.flags.writeable = False
    pixel_flipping_curve(mlp, X, maps, baseline=lambda X: np.multiply(X, 0, out=X))
    pixel_flipping_curve(mlp, X, maps, baseline=X, n_repeats=2)
    faithfulness_correlation(mlp, X, maps)
    max_sensitivity(mlp, X)
    class_sensitivity(mlp, X)
    randomization_similarity(mlp, X, order="independent")
    conservation_error(maps, np.ones(6))
    relevance_mass(maps, masks)
    relevance_rank(maps, masks)
    sparseness(maps)
    numbers, position = np.random.get_state()[1:3]  # noqa: NPY002
    assert np.array_equal(numbers, generators[0][0])
    assert position == generators[0][1]
    assert torch.equal(torch.get_rng_state(), generators[1])
    np.testing.assert_array_equal(X, before[0])
    np.testing.assert_array_equal(maps, before[1])
    np.testing.assert_array_equal(masks, before[2])
    state = mlp.module_.state_dict()
    assert all(torch.equal(state[name], value) for name, value in before[3].items())


def test_random_state_makes_the_same_numbers_again(mlp, squares):
    X = squares[0][:6]
    maps = mlp.explain(X)
    for grade in (
        lambda s: pixel_flipping_curve(mlp, X, maps, random_state=s).random,
        lambda s: faithfulness_correlation(mlp, X, maps, random_state=s),
        lambda s: max_sensitivity(mlp, X, random_state=s),
        lambda s: randomization_similarity(mlp, X, random_state=s).similarity,
        lambda s: class_sensitivity(mlp, X, random_state=s, similarity="pearson"),
    ):
        np.testing.assert_array_equal(grade(0), grade(0))
        generators = np.random.RandomState(7), np.random.RandomState(7)
        first, again = (grade(generator) for generator in generators)
        np.testing.assert_array_equal(first, again)
        later = [grade(generators[0]) for _ in range(3)]  # an instance goes on
        assert any(not np.array_equal(first, one) for one in later)
        assert any(not np.array_equal(grade(0), grade(s)) for s in (1, 2, 3))


def test_a_sample_does_not_depend_on_the_others(mlp, squares):
    X, _, masks = squares
    X, masks = X[:6], masks[:6]
    maps = mlp.explain(X)
    alone = [slice(i, i + 1) for i in range(6)]
    for grade in (
        lambda s: pixel_flipping_score(mlp, X[s], maps[s]),
        lambda s: relevance_mass(maps[s], masks[s]),
        lambda s: relevance_rank(maps[s], masks[s]),
        lambda s: sparseness(maps[s]),
        lambda s: faithfulness_correlation(mlp, X[s], maps[s], random_state=0),
        lambda s: compare_maps(maps[s], X[s]),
        lambda s: randomization_similarity(mlp, X[s], random_state=0).similarity[1],
    ):
        together = grade(slice(None))
        np.testing.assert_allclose(together, np.concatenate([grade(s) for s in alone]))


def test_every_metric_says_what_is_better_and_where_it_is_from():
    assert show_metrics() in metrics.__doc__
    listed = {metric.function.__name__ for metric in METRICS.values()}
    assert set(metrics.__all__) == {*listed, "make_relevance_scorer", "pixel_flipping_curve"}
    for name in set(metrics.__all__) - {"make_relevance_scorer"}:
        text = getattr(metrics, name).__doc__
        assert "References\n" in text, name
        better = (
            "higher is better",
            "lower is better",
            "closer to 0 is better",
            "higher is spars",
        )
        assert any(b in text.lower() for b in better) or name == "pixel_flipping_curve", name
    for metric in METRICS.values():  # the table and the docstrings say the same
        way = {"near 0": "closer to 0"}.get(metric.better, metric.better)
        assert f"{way} is " in metric.function.__doc__.lower(), metric


# Another implementation: Quantus, where it is installed


@pytest.fixture(scope="module")
def quantus():
    """Return Quantus, which needs OpenCV and scikit-image and is no dependency of the tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("quantus", reason="pip install quantus, in an own environment")


def grade_by_quantus(quantus, name, X, maps, *, model=None, y=None, masks=None, **params):
    """Return the values of a metric of Quantus on images of one channel."""
    metric = getattr(quantus, name)(
        disable_warnings=True, normalise=False, **{"abs": False, **params}
    )
    arrays = {"x_batch": X[:, None], "a_batch": maps[:, None], "y_batch": y, "model": model}
    if y is None:
        arrays["y_batch"] = np.zeros(len(X), dtype=int)
    if masks is not None:
        arrays["s_batch"] = masks[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.array(metric(**arrays, channel_first=True, softmax=False, batch_size=16))


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("baseline", [0.0, 0.7])
def test_pixel_flipping_by_quantus(quantus, mlp, squares, step, baseline):
    X = squares[0][:20]
    maps = mlp.explain(X, rule="epsilon")
    target = np.searchsorted(mlp.classes_, mlp.predict(X))
    single = nn.Sequential(nn.Flatten(), copy.deepcopy(mlp.module_)).float().eval()
    theirs = grade_by_quantus(
        quantus, "PixelFlipping", X, maps, model=single, y=target,
        features_in_step=step, perturb_baseline=baseline,
    )  # fmt: skip
    ours = pixel_flipping_curve(mlp, X, maps, steps=range(0, 82, step), baseline=baseline)
    np.testing.assert_allclose(ours.most[:, 1:], theirs, atol=2e-5)  # theirs are in float32


def test_maps_by_quantus(quantus, squares):
    X, _, masks = squares
    maps = np.abs(random_maps(X.shape))
    for name, ours in (
        ("Sparseness", sparseness(maps)),
        ("RelevanceRankAccuracy", relevance_rank(maps, masks)),
        ("RelevanceMassAccuracy", relevance_mass(maps, masks)),
    ):
        theirs = grade_by_quantus(quantus, name, X, maps, masks=masks)
        np.testing.assert_allclose(ours, theirs, atol=1e-6, err_msg=name)  # they add 1e-7


def test_structural_similarity_by_scikit_image():
    structure = pytest.importorskip("skimage.metrics", reason="pip install scikit-image")
    one, other = random_maps((4, 12, 15)), random_maps((4, 12, 15), seed=1)
    found = compare_maps(one, other, "ssim")
    for i in range(4):
        a, b = one[i] / np.abs(one[i]).max(), other[i] / np.abs(other[i]).max()
        expected = structure.structural_similarity(a, b, data_range=2.0)
        assert found[i] == pytest.approx(expected)
