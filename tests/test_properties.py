"""Properties that all rules share, on random networks and input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from sklrp.composites import Composite
from sklrp.modules import StatePooling
from sklrp.propagation import explain
from sklrp.rules import AlphaBeta, Epsilon, Flat, Gamma, WSquare, ZBox, Zero, ZPlus
from tests.helpers.comparing import assert_close
from tests.helpers.parameters import randomised

pytestmark = pytest.mark.filterwarnings("ignore:The flat rule on the dense first layer")

RULES = [
    Zero(),
    Epsilon(),
    Gamma(),
    Gamma(gamma=10.0, epsilon=0.0),
    AlphaBeta(),
    AlphaBeta(alpha=3.0, beta=2.0, epsilon=0.0),
    AlphaBeta(renormalize=True),
    ZPlus(),
    WSquare(),
    Flat(),
    ZBox(low=-1e4, high=1e4),
]
CAUSES = ("bias", "epsilon", "padding", "initial_state", "dropped")

few = settings(
    derandomize=True,
    deadline=None,
    max_examples=4,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
more = settings(few, max_examples=8)
seeds = st.integers(0, 2**16)
# Among them zeros, repeated values and values of very different size.
values = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-12, -1e4, 1e4]),
    st.floats(-1e4, 1e4, allow_subnormal=False),
)


def inputs(*shape):
    return hnp.arrays(np.float64, (3, *shape), elements=values)


def normal(seed, *shape):
    return np.random.default_rng([seed, 1]).normal(size=shape)


def dense(seed, bias=True):
    return randomised(
        nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)),
        seed,
        bias,
    )


def convolutional(seed, bias=True):
    return randomised(
        nn.Sequential(
            nn.Conv1d(1, 3, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(3, 2, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(6, 3),
        ),
        seed,
        bias,
    )


def recurrent(seed, bias=True):
    return randomised(
        nn.Sequential(
            nn.LSTM(2, 3, bias=bias, batch_first=True, bidirectional=True),
            StatePooling("mean"),
            nn.Linear(6, 3),
        ),
        seed,
        bias,
    )


NETWORKS = {
    "dense": (dense, (4,)),
    "convolutional": (convolutional, (1, 8)),
    "recurrent": (recurrent, (4, 2)),
}
every_rule = pytest.mark.parametrize("rule", RULES, ids=repr)
every_network = pytest.mark.parametrize("network", NETWORKS)


@pytest.mark.sweep(5)
@every_rule
@every_network
def test_shape_finiteness_and_account(rule, network):
    """For any finite input: relevance of X's shape, finite, and with what was kept the score."""
    build, shape = NETWORKS[network]

    @more
    @given(inputs(*shape), seeds, st.sampled_from([0.0, 1e-6, 1.0]))
    def holds(X, seed, epsilon):
        relevance, details = explain(
            build(seed), X, target="all", rule=rule, epsilon=epsilon, return_details=True
        )
        assert relevance.shape == (3, 3, *shape)
        assert np.isfinite(relevance).all()
        total = relevance.reshape(3, 3, -1).sum(2)
        size = np.abs(relevance).reshape(3, 3, -1).sum(2) + np.abs(details.score) + 1.0
        for layer in details.layers:
            for cause in CAUSES:
                assert np.isfinite(layer[cause]).all()
                total = total + layer[cause]
                size = size + np.abs(layer[cause])
        # the terms may be far larger than the score, where denominators almost vanish
        assert (np.abs(total - details.score) <= 1e-9 * size).all()

    holds()


@pytest.mark.sweep(5)
@every_rule
@every_network
def test_samples_do_not_see_each_other(rule, network):
    build, shape = NETWORKS[network]

    @few
    @given(seeds, st.permutations(range(3)))
    def holds(seed, order):
        model, X = build(seed), normal(seed, 3, *shape)
        options = {"rule": rule, "epsilon": 1e-3}
        together = explain(model, X, target=1, **options)
        for company in (list(order), [0], [0, 0, 1, 2, 1]):
            assert_close(explain(model, X[company], target=1, **options), together[company])

    holds()


@pytest.mark.sweep(5)
@every_rule
@every_network
def test_linear_in_the_score(rule, network):
    """A score scaled in the last layer, with a zero rule there, scales all relevance alike."""
    build, shape = NETWORKS[network]
    composite = Composite([("head", Zero(), "last"), ("body", rule, "all")])

    @few
    @given(seeds, st.floats(-8.0, 8.0).filter(lambda factor: abs(factor) > 1e-3))
    def holds(seed, factor):
        model = build(seed)
        X = normal(seed, 2, *shape)
        before = explain(model, X, target=0, rule=composite)
        with torch.no_grad():
            model[-1].weight[0] *= factor
            model[-1].bias[0] *= factor
        assert_close(explain(model, X, target=0, rule=composite), factor * before)

    holds()


@pytest.mark.sweep(5)
@every_rule
@every_network
def test_contrast_is_a_difference(rule, network):
    """Two scores: target minus rival is the relevance of one less that of the other.

    Relevance is linear in the relevance that the output starts with.
    """
    build, shape = NETWORKS[network]

    @few
    @given(seeds)
    def holds(seed):
        model = build(seed)
        X = normal(seed, 2, *shape)
        with torch.no_grad():
            scores = model(torch.from_numpy(X)).numpy()
        rival = np.argsort(scores, axis=1)[:, -2]
        everything = explain(model, X, target="all", rule=rule, epsilon=1e-3)
        given = explain(model, X, rule=rule, epsilon=1e-3, contrast=True)
        rows = np.arange(2)
        assert_close(
            given, everything[rows, scores.argmax(1)] - everything[rows, rival], tolerance=1e-8
        )

    holds()


# Rules that hand on all relevance of a layer without bias; alpha-beta with beta > 0 does not
# where a part is empty, and flat, w-square and z-box never see the bias.
@pytest.mark.parametrize("rule", [Zero(), Epsilon(0.0), Gamma(epsilon=0.0)], ids=repr)
def test_conservation_without_bias(rule):
    """Dense and convolutional networks without bias at epsilon 0."""

    @few
    @given(seeds)
    def holds(seed):
        for build, shape in (NETWORKS["dense"], NETWORKS["convolutional"]):
            X = normal(seed, 3, *shape)
            relevance, details = explain(
                build(seed, bias=False), X, rule=rule, epsilon=0.0, return_details=True
            )
            total = relevance.reshape(3, -1).sum(1)
            dropped = sum(layer.dropped for layer in details.layers)
            assert_close(total + dropped, details.score)
            for layer in details.layers:
                assert not layer.bias.any()
                assert not layer.epsilon.any()
                assert not layer.padding.any()
            assert_close(dropped, 0.0 * dropped, 1e-12)

    holds()


@pytest.mark.parametrize("rule", [WSquare(), Flat(), ZBox(low=-5.0, high=5.0)], ids=repr)
def test_conservation_with_bias(rule):
    """w-square, flat and z-box hand on everything whatever the bias."""

    @few
    @given(seeds)
    def holds(seed):
        for build, shape in (NETWORKS["dense"], NETWORKS["convolutional"]):
            X = normal(seed, 3, *shape)
            relevance, details = explain(build(seed), X, rule=rule, return_details=True)
            assert_close(relevance.reshape(3, -1).sum(1), details.score)
            for layer in details.layers:
                assert_close(sum(layer[cause] for cause in CAUSES), 0.0 * details.score)

    holds()


@pytest.mark.parametrize("rule", [ZPlus(epsilon=0.0), AlphaBeta(epsilon=0.0)], ids=repr)
def test_conservation_with_contributions_of_both_signs(rule):
    """z-plus and alpha-beta hand on everything where no part is empty."""
    model = randomised(nn.Sequential(nn.Linear(8, 4, bias=False)))
    X = normal(0, 20, 8)
    contributions = X[:, None] * model[0].weight.detach().numpy()
    assert (contributions.min(2) < 0).all()
    assert (contributions.max(2) > 0).all()
    relevance, details = explain(
        model, X, target="all", rule=Composite([("all", rule, "all")]), return_details=True
    )
    assert_close(relevance.sum(2), details.score)


@every_rule
def test_permuted_inputs_permute_relevance(rule):
    """Features in another order, with the weights in that order: relevance in that order."""

    @few
    @given(seeds, st.permutations(range(4)))
    def holds(seed, order):
        order = list(order)
        model, permuted = dense(seed), dense(seed)
        with torch.no_grad():
            permuted[0].weight.copy_(model[0].weight[:, order])
        X = normal(seed, 2, 4)
        box = rule
        if isinstance(rule, ZBox):
            low = -5.0 - np.arange(4.0)
            box, rows = ZBox(low, 6.0 * np.ones(4)), ZBox(low[order], 6.0 * np.ones(4))
        else:
            rows = rule
        place = [("rest", Epsilon(), "all")]
        straight = explain(
            model, X, rule=Composite([("first", box, "first"), *place]), target="all", epsilon=0.1
        )
        given = explain(
            permuted,
            X[:, order],
            rule=Composite([("first", rows, "first"), *place]),
            target="all",
            epsilon=0.1,
        )
        assert_close(given, straight[..., order])

    holds()


@every_rule
def test_permuted_neurons_change_nothing(rule):
    """Hidden units in another order."""

    @few
    @given(seeds, st.permutations(range(5)))
    def holds(seed, order):
        order = list(order)
        model, permuted = dense(seed), dense(seed)
        with torch.no_grad():
            permuted[0].weight.copy_(model[0].weight[order])
            permuted[0].bias.copy_(model[0].bias[order])
            permuted[2].weight.copy_(model[2].weight[:, order])
        X = normal(seed, 2, 4)
        options = {"rule": rule, "target": "all", "epsilon": 0.1}
        expected = explain(model, X, **options)
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(
            explain(permuted, X, **options), expected, rtol=0, atol=1e-8 * scale
        )

    holds()


@every_rule
def test_shifted_signals_shift_relevance(rule):
    """A circular convolution does not know where it is."""
    layer = nn.Conv1d(1, 2, 3, padding=1, padding_mode="circular")
    pool = nn.AdaptiveAvgPool1d(1)
    model = randomised(nn.Sequential(layer, nn.ReLU(), pool, nn.Flatten(), nn.Linear(2, 2)))
    composite = Composite([("first", rule, "first"), ("rest", Epsilon(), "all")])

    @few
    @given(seeds, st.integers(0, 5))
    def holds(seed, shift):
        X = normal(seed, 2, 1, 6)
        options = {"rule": composite, "epsilon": 0.1}
        expected = np.roll(explain(model, X, **options), shift, axis=2)
        assert_close(explain(model, np.roll(X, shift, axis=2), **options), expected)

    holds()
