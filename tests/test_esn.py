"""Echo state networks: reservoir, readout in closed form, and relevance against a rewrite."""

from __future__ import annotations

import functools
import pickle
import re

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, make_classification
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import GridSearchCV
from torch import nn

import sklrp
from sklrp import Composite, ESNClassifier, ESNRegressor, RelevanceTransformer, datasets
from sklrp.classifiers.ridge import LeastSquares
from sklrp.modules import EchoState, StatePooling, make_esn
from sklrp.rules import AlphaBeta, Epsilon, Flat, Gamma, WSquare, ZBox, Zero, ZPlus
from tests.helpers.comparing import assert_close, assert_same_to_rounding
from tests.helpers.reference import (
    Kept,
    Neuron,
    affine_relevance,
    numpy,
    rule_epsilon,
    share_by_contribution,
    share_out,
    state_pooling_matrix,
    sweep,
    unsweep,
)

RULES = [
    Zero(),
    Epsilon(),
    Epsilon(epsilon=0.1),
    Gamma(epsilon=0.01),
    AlphaBeta(),
    AlphaBeta(renormalize=True),
    ZPlus(),
    WSquare(),
    Flat(),
    ZBox(low=-4.0, high=4.0),
]
SPLITS = ["contribution", "leak_rate"]
SHAPE = (5, 3)


def network(shape=SHAPE, n_outputs=3, seed=0, **params):
    """A small network whose reservoir and readout are drawn."""
    torch.manual_seed(seed)
    params = {"n_reservoir": 4, "leak_rate": 0.3, "input_scale": 1.0, "bias_scale": 0.3, **params}
    return make_esn(shape, n_outputs, density=0.6, **params).double().eval()


def samples(n_samples=3, shape=SHAPE, seed=1):
    return np.random.default_rng(seed).normal(size=(n_samples, int(np.prod(shape))))


# --- A rewrite for one sample, in float64, step by step and neuron by neuron -----------------


def forward(layer, u):
    """States x_0, ..., x_T and for each step the activation and the leak."""
    w_in, w_res = numpy(layer.weight_in), numpy(layer.weight_res)
    b = np.zeros(len(w_in)) if layer.bias is None else numpy(layer.bias)
    states, steps = [np.zeros(len(w_in))], []
    for t, u_t in enumerate(u):
        leak = 1.0 if t == 0 and not layer.leak_first_step else layer.leak_rate
        act = np.tanh(w_in @ u_t + w_res @ states[-1] + b)
        states.append((1 - leak) * states[-1] + leak * act)
        steps.append((act, leak))
    return np.array(states), steps


def reservoir_relevance(layer, u, of_states, rule, epsilon):
    """Relevance of the inputs `u` when the states x_1, ..., x_T are given some from outside."""
    states, steps = forward(layer, u)
    n_units, n_inputs = layer.weight_in.shape
    weights = np.hstack([numpy(layer.weight_in), numpy(layer.weight_res)])
    b = np.zeros(n_units) if layer.bias is None else numpy(layer.bias)
    neurons = [Neuron(np.arange(weights.shape[1]), w, b[j], j) for j, w in enumerate(weights)]
    eps = rule_epsilon(rule, epsilon)
    bounds = (None, None)
    if isinstance(rule, ZBox):
        bounds = (
            np.r_[np.full(n_inputs, rule.low), -np.ones(n_units)],
            np.r_[np.full(n_inputs, rule.high), np.ones(n_units)],
        )
    received, kept, r = np.zeros_like(u), Kept(), np.zeros(n_units)
    for t in range(len(u) - 1, -1, -1):
        act, leak = steps[t]
        r = r + of_states[t]
        if layer.leak_split == "leak_rate":
            r_act, r_before = leak * r, (1 - leak) * r
        else:
            r_act, r_before = np.zeros(n_units), np.zeros(n_units)
            for j in range(n_units):
                parts = np.array([leak * act[j], (1 - leak) * states[t, j]])
                (r_act[j], r_before[j]), lost = share_out(r[j], parts, 0.0, eps)
                kept.add(lost)
        inputs = np.concatenate([u[t], states[t]])
        passed, lost = affine_relevance(rule, neurons, inputs, r_act, epsilon, *bounds)
        kept.add(lost)
        received[t], r = passed[:n_inputs], r_before + passed[n_inputs:]
    kept.initial_state += r.sum()
    return received, kept


def explain_sample(net, x, target, rule, epsilon):
    """Relevance of one sample, and what the reservoir kept; rule epsilon on the readout."""
    layer, pooling = net.reservoir, net.state.pooling
    u = sweep(x.reshape(net.sequence.unflattened_size), net.sweep.sweep)
    states = forward(layer, u)[0][1:]
    pooled = states[layer.washout :]
    matrix = state_pooling_matrix(pooled, pooling, layer.hidden_size)
    x_state = matrix @ pooled.ravel()
    b = np.zeros(net.output.out_features) if net.output.bias is None else numpy(net.output.bias)
    w = numpy(net.output.weight)[target]
    neuron = [Neuron(np.arange(len(w)), w, b[target], 0)]
    score = w @ x_state + b[target]
    r, _ = affine_relevance(Epsilon(), neuron, x_state, np.array([score]), epsilon)
    if pooling == "mean":
        r, _ = share_by_contribution(matrix, np.zeros(len(matrix)), pooled, r, epsilon)
    else:
        r = (matrix.T @ r).reshape(pooled.shape)
    of_states = np.zeros_like(states)
    of_states[layer.washout :] = r
    relevance, kept = reservoir_relevance(layer, u, of_states, rule, epsilon)
    return unsweep(relevance, net.sweep.sweep).ravel(), kept, score


def assert_explained(net, X, rule, epsilon=1e-6):
    """Hold all targets of all samples, and what the reservoir kept, against the rewrite."""
    composite = Composite([("reservoir", rule, "recurrent"), ("readout", Epsilon(), "all")])
    found, details = sklrp.explain(
        net, X, target="all", rule=composite, epsilon=epsilon, return_details=True
    )
    assert found.shape == (len(X), net.output.out_features, X.shape[1])
    of_reservoir = next(layer for layer in details.layers if layer.name == "reservoir")
    for i, x in enumerate(X):
        for k in range(found.shape[1]):
            relevance, kept, score = explain_sample(net, x, k, rule, epsilon)
            assert_close(found[i, k], relevance, 1e-9)
            assert_close(details.score[i, k], score, 1e-12)
            for cause in ("bias", "epsilon", "initial_state", "dropped"):
                assert_close(of_reservoir[cause][i, k], getattr(kept, cause), 1e-9)


@pytest.mark.sweep(7)
@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("leak_split", SPLITS)
@pytest.mark.parametrize("bias_scale", [0.0, 0.3])
def test_rules(rule, leak_split, bias_scale):
    for leak_first_step in (True, False):
        net = network(
            leak_split=leak_split, bias_scale=bias_scale, leak_first_step=leak_first_step
        )
        for X in (samples(), np.abs(samples())):
            assert_explained(net, X, rule, epsilon=1e-3)


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
@pytest.mark.parametrize("washout", [0, 2, 4])
def test_pooling_and_washout(pooling, washout):
    for rule in (Epsilon(), ZPlus()):
        net = network(pooling=pooling, washout=washout)
        assert_explained(net, samples(), rule)


@pytest.mark.parametrize("way", ["down", "up", "right", "left"])
def test_sweeps(way):
    assert_explained(network(sweep=way), samples(), Epsilon())


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (6, 1), (2, 300)])
def test_sizes(shape):
    """One step, one input, and so many inputs that rules go by magnitudes; one unit."""
    for rule in (Epsilon(), Gamma(), AlphaBeta(epsilon=0.01), ZPlus()):
        for n_reservoir in (1, 3):
            net = network(shape, n_reservoir=n_reservoir, input_scale=0.1, leak_split="leak_rate")
            assert_explained(net, samples(2, shape), rule)


def test_a_unit_by_hand():
    """One unit, two steps, leak 1/2, w_in = 2, w_res = 1, b = 1/2, readout 4.

    u = (1/4, 0): z_1 = 1, x_1 = tanh(1) / 2 =: a; z_2 = a + 1/2, x_2 = a / 2 + tanh(z_2) / 2 =: c.
    The state gets R = 4 c. By contribution the first state gets 4 (a / 2) from the leak, and of
    the activation's 2 tanh(z_2) its share a / z_2. Of what it has, r, all is its activation's,
    of which the input gets 1/2 and the bias 1/2.
    """
    net = network((2, 1), 1, n_reservoir=1, leak_rate=0.5, bias=False)
    with torch.no_grad():
        for value, to in zip(
            (net.reservoir.weight_in, net.reservoir.weight_res, net.reservoir.bias,
             net.output.weight), (2.0, 1.0, 0.5, 4.0), strict=True,
        ):  # fmt: skip
            value.fill_(to)
    a = np.tanh(1.0) / 2
    z = a + 0.5
    r = 2 * a + 2 * np.tanh(z) * a / z
    x = np.array([[0.25, 0.0]])
    relevance, details = sklrp.explain(net, x, rule="zero", return_details=True)
    np.testing.assert_allclose(relevance, [[r / 2, 0.0]], rtol=1e-12)
    np.testing.assert_allclose(details.layers[2].bias, [r / 2 + np.tanh(z) / z], rtol=1e-12)
    # By the leak rate half of everything stays with the state before, and in the end with x_0.
    net.reservoir.leak_split = "leak_rate"
    relevance, details = sklrp.explain(net, x, rule="zero", return_details=True)
    score = 4 * (a / 2 + np.tanh(z) / 2)
    r = score / 2 + score / 2 * a / z
    np.testing.assert_allclose(relevance, [[r / 4, 0.0]], rtol=1e-12)
    np.testing.assert_allclose(details.layers[2].initial_state, [r / 2], rtol=1e-12)


@pytest.mark.parametrize("rule", ["epsilon", "gamma", "z_plus"])
@pytest.mark.parametrize("leak_split", SPLITS)
def test_conservation_without_biases(rule, leak_split):
    """All relevance arrives where nothing has a bias, but for what leaks into x_0."""
    params = {"leak_split": leak_split, "leak_first_step": leak_split == "contribution"}
    # So many inputs that every unit has one that speaks for it, to which z-plus can turn.
    net = network((20, 24), n_reservoir=30, bias_scale=0.0, bias=False, **params)
    X = samples(8, (20, 24))
    relevance, details = sklrp.explain(net, X, rule=rule, epsilon=1e-12, return_details=True)
    np.testing.assert_allclose(relevance.sum(1), details.score, rtol=1e-6)


def test_rows_do_not_depend_on_their_batch():
    net, X = network((9, 4), n_reservoir=20), samples(7, (9, 4))
    together = sklrp.explain(net, X, target="all", rule="z_plus")
    for size in (1, 3):
        part = sklrp.explain(net, X, target="all", rule="z_plus", batch_size=size)
        np.testing.assert_allclose(part, together, rtol=0, atol=1e-12)


def test_nothing_to_share():
    """No input and no bias: every state is zero, and no rule gives NaN."""
    net = network(bias_scale=0.0)
    for rule in RULES:
        assert_explained(net, np.zeros((2, 15)), rule, epsilon=0.0)


def test_a_forward_of_its_own():
    """A reservoir in a written network, its states given to the layers behind both ways."""

    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.reservoir = EchoState(3, 4, washout=1)
            self.output = nn.Linear(4, 2)

        def forward(self, x):
            states, last = self.reservoir(x)
            return self.output(states.mean(1)) + self.output(last[0])

    net = Written().double()
    X = samples().reshape(3, *SHAPE)
    found, details = sklrp.explain(net, X, rule="z_plus", return_details=True)
    kept = sum(
        layer[cause] for layer in details.layers for cause in ("bias", "epsilon", "initial_state")
    )
    np.testing.assert_allclose(found.sum((1, 2)) + kept, details.score, rtol=1e-10)
    assert "EchoState" in repr(sklrp.plan(net, "z_plus", X))


@pytest.mark.parametrize("kind", [nn.GRU, nn.RNN])
@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
def test_states_of_other_layers_are_pooled(kind, pooling):
    torch.manual_seed(0)
    layer, head = kind(3, 4, batch_first=True, bidirectional=True), nn.Linear(8, 2)
    net = nn.Sequential(layer, StatePooling(pooling), head).double()

    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = layer, head

        def forward(self, x):
            out, h = self.layer(x)
            ways = {"mean": out.mean(1), "max": out.amax(1), "last": torch.cat([h[0], h[1]], 1)}
            return self.head(ways[pooling])

    X = samples().reshape(3, *SHAPE)
    expected = sklrp.explain(Written(), X, rule="gamma")
    np.testing.assert_allclose(sklrp.explain(net, X, rule="gamma"), expected, atol=1e-14)


# --- The reservoir ----------------------------------------------------------------------------


def test_states_are_those_of_the_formula():
    for leak_first_step in (True, False):
        layer = network(leak_first_step=leak_first_step).reservoir
        X = samples().reshape(3, *SHAPE)
        output, last = layer(torch.from_numpy(X))
        for u, states in zip(X, numpy(output), strict=True):
            assert_close(states, forward(layer, u)[0][1:], 1e-12)
        np.testing.assert_array_equal(numpy(last[0]), numpy(output[:, -1]))


@pytest.mark.parametrize("n_units", [1, 2, 50])
@pytest.mark.parametrize("density", [0.01, 0.3, 1.0])
def test_what_a_reservoir_is_drawn_from(n_units, density):
    torch.manual_seed(1)
    params = {"density": density, "spectral_radius": 0.7, "input_scale": 0.2, "bias_scale": 0.4}
    layer = EchoState(400, n_units, **params).double()
    weight = numpy(layer.weight_res)
    assert np.abs(np.linalg.eigvals(weight)).max() == pytest.approx(0.7, rel=1e-4)
    assert ((weight != 0).sum(1) == max(1, round(density * n_units))).all()
    for value, scale in ((layer.weight_in, 0.2), (layer.bias, 0.4)):
        assert value.abs().max() <= scale * (1 + 1e-6)
    assert numpy(layer.weight_in).std() == pytest.approx(0.2 / np.sqrt(3), rel=0.1)
    assert not list(layer.parameters())
    assert EchoState(2, 3, bias_scale=0.0).bias is None


def test_a_reservoir_is_differentiable():
    net = network().requires_grad_()
    x = torch.from_numpy(samples()).requires_grad_()
    assert torch.autograd.gradcheck(net, (x,))


def test_epsilon_zero_is_gradient_times_input_of_a_linear_reservoir():
    """Where tanh is the identity the rule of epsilon zero is gradient times input."""
    net = network(bias_scale=0.0, bias=False)
    x = 1e-6 * torch.from_numpy(samples())
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(net(x)[:, 1].sum(), x)
    found = sklrp.explain(net, numpy(x), target=1, rule="zero")
    np.testing.assert_allclose(found, numpy(x * gradient), rtol=1e-6)


# --- The readout ------------------------------------------------------------------------------


def fit_ridge(X, Y, *, weight=None, ridge=0.0, fit_intercept=True):
    """Return what the readout is fitted to, of all samples at once."""
    sums = LeastSquares(X.shape[1], Y.shape[1])
    sums.add(X, Y, weight)
    return sums.solve(ridge, fit_intercept)


@pytest.mark.parametrize("n_samples", [40, 6])
@pytest.mark.parametrize("ridge", [1e-6, 0.5, 30.0])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_ridge_is_that_of_scikit_learn(n_samples, ridge, fit_intercept, weighted):
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(n_samples, 9)) + 3.0, rng.normal(size=(n_samples, 2))
    weight = rng.integers(0, 4, n_samples).astype(float) if weighted else None
    coef, intercept, used = fit_ridge(
        X, Y, weight=weight, ridge=ridge, fit_intercept=fit_intercept
    )
    peer = Ridge(ridge, fit_intercept=fit_intercept, solver="svd").fit(X, Y, weight)
    np.testing.assert_allclose(coef, peer.coef_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(intercept, peer.intercept_, rtol=1e-6, atol=1e-8)
    assert used == ridge
    if weighted:
        repeated = np.repeat(np.arange(n_samples), weight.astype(int))
        again = fit_ridge(X[repeated], Y[repeated], ridge=ridge, fit_intercept=fit_intercept)
        np.testing.assert_allclose(coef, again[0], rtol=1e-7, atol=1e-9)


def test_no_ridge_is_the_solution_of_least_norm():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(30, 4)), rng.normal(size=(30, 2))
    X = np.hstack([X, X[:, :2]])  # units that are alike
    coef, _, _ = fit_ridge(X, Y, fit_intercept=False)
    np.testing.assert_allclose(coef, (np.linalg.pinv(X) @ Y).T, atol=1e-12)


def test_ill_conditioned_states_keep_their_digits():
    """Normal equations lose all digits here: the condition number is 1e9."""
    rng = np.random.default_rng(0)
    X = np.linalg.qr(rng.normal(size=(50, 5)))[0] * np.logspace(0, -9, 5)
    coef, _, _ = fit_ridge(X, X @ np.ones((5, 1)), fit_intercept=False)
    np.testing.assert_allclose(coef, np.ones((1, 5)), rtol=1e-5)


@pytest.mark.parametrize("noise", [0.01, 1.0, 10.0])
def test_auto_ridge_minimises_generalised_cross_validation(noise):
    """The penalty is the best of a grid by the definition of the criterion, matrices and all."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 8)) @ np.diag(np.logspace(0, -3, 8))
    Y = X @ rng.normal(size=(8, 2)) + noise * rng.normal(size=(30, 2))

    def gcv(ridge):
        Z, C = X - X.mean(0), Y - Y.mean(0)
        hat = Z @ np.linalg.solve(Z.T @ Z + ridge * np.eye(8), Z.T) + 1 / 30
        return 30 * ((C - hat @ C) ** 2).sum() / np.trace(np.eye(30) - hat) ** 2

    _, _, ridge = fit_ridge(X, Y, ridge="auto")
    grid = np.logspace(-8, 6, 400)
    assert gcv(ridge) <= 1.01 * min(map(gcv, grid))
    peer = RidgeCV(grid).fit(X, Y)  # leaves one out in truth
    assert fit_ridge(X, Y, ridge="auto")[0].shape == peer.coef_.shape


def test_constant_states():
    coef, intercept, ridge = fit_ridge(np.ones((4, 3)), np.eye(2)[[0, 1, 1, 1]], ridge="auto")
    assert not coef.any()
    np.testing.assert_allclose(intercept, [0.25, 0.75])
    assert ridge == 0.0


# --- The classifier ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:400] / 16, y[:400]


def make(**params):
    return ESNClassifier(**{"n_reservoir": 40, "input_shape": (8, 8), "random_state": 0, **params})


def test_the_readout_is_least_squares_on_the_states(digits):
    X, y = digits
    weight = np.random.default_rng(0).integers(0, 3, len(y)).astype(float)
    clf = make(ridge=0.01, pooling="mean", washout=2).fit(X, y, weight)
    net = clf.module_
    states, _ = net.reservoir(net.sweep(net.sequence(torch.from_numpy(X))))
    states = numpy(states.mean(1))
    peer = Ridge(0.01, solver="svd").fit(states, np.eye(10)[y], weight)
    np.testing.assert_allclose(numpy(net.output.weight), peer.coef_, rtol=1e-6, atol=1e-7)
    logits = clf.decision_function(X)
    np.testing.assert_allclose(logits, peer.predict(states), atol=1e-7)
    np.testing.assert_allclose(logits.sum(1), 1.0, atol=1e-9)
    np.testing.assert_allclose(clf.predict_proba(X), torch.tensor(logits).softmax(1), atol=1e-9)
    assert make().fit(X, y).score(X, y) > 0.9


def test_two_classes_are_the_fit_to_signs():
    X, y = make_classification(80, 12, random_state=0)
    clf = make(input_shape=None).fit(X, y)
    net = clf.module_
    _, last = net.reservoir(net.sweep(net.sequence(torch.from_numpy(X))))
    peer = Ridge(1e-6, solver="svd").fit(numpy(last[0]), 2.0 * y - 1.0)
    np.testing.assert_allclose(clf.decision_function(X), peer.predict(numpy(last[0])), atol=1e-6)


@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 5.0, 3: 0.0}])
def test_class_weights_are_sample_weights(class_weight, digits):
    X, y = digits
    clf = make(class_weight=class_weight).fit(X, y)
    factor = np.ones(len(y))
    if class_weight == "balanced":
        factor = len(y) / (10 * np.bincount(y)[y])
    elif class_weight:
        factor = np.array([class_weight.get(label, 1.0) for label in y.tolist()])
    again = make().fit(X, y, factor)
    np.testing.assert_allclose(
        clf.decision_function(X), again.decision_function(X), rtol=1e-6, atol=1e-8
    )


def test_explain_is_that_of_the_network(digits):
    X, y = digits
    clf = make(sweep="right").fit(X, y)
    found, details = clf.explain(X[:6], target="all", rule="z_plus", return_details=True)
    assert found.shape == (6, 10, 64)
    expected = sklrp.explain(clf.module_, X[:6], target="all", rule="z_plus")
    assert_same_to_rounding(found, expected)
    assert_same_to_rounding(sklrp.explain(clf.net_, X[:6], target="all", rule="z_plus"), found)
    np.testing.assert_allclose(details.score, clf.decision_function(X[:6]), atol=1e-12)
    images = clf.explain(X[:6].reshape(6, 8, 8), target=y[:6], rule="z_plus")
    # One class and all classes are products of other sizes, which round differently.
    assert_same_to_rounding(images.reshape(6, 64), found[np.arange(6), y[:6]])
    assert "reservoir  EchoState     ZPlus()" in repr(sklrp.plan(clf, "z_plus"))
    bounded = Composite([("input", ZBox(0.0, 1.0), "first"), ("rest", ZBox(), "all")])
    box = clf.explain(X[:2], rule="z_box")
    assert_same_to_rounding(box, sklrp.explain(clf.module_, X[:2], rule=bounded))


def test_a_seed_gives_the_same_network_and_leaves_the_generators(digits):
    X, y = digits
    torch.manual_seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    clf = make().fit(X, y)
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    torch.rand(5)
    for other in (make().fit(X, y), clone(clf).fit(X, y), pickle.loads(pickle.dumps(clf))):
        np.testing.assert_array_equal(other.decision_function(X), clf.decision_function(X))
        np.testing.assert_array_equal(other.explain(X[:4]), clf.explain(X[:4]))
    assert (make(random_state=1).fit(X, y).decision_function(X) != clf.decision_function(X)).any()
    single = make().fit(X.astype(np.float32), y)
    assert single.module_.output.weight.dtype == torch.float32
    np.testing.assert_allclose(single.decision_function(X), clf.decision_function(X), atol=2e-2)


def test_search_over_rules_and_leaks(digits):
    X, y = digits
    search = GridSearchCV(make(), {"leak_rate": [0.01, 0.3], "ridge": [1e-4, "auto"]}, cv=3)
    assert search.fit(X, y).best_score_ > 0.8
    transformer = RelevanceTransformer(make(), rule="epsilon").fit(X, y)
    assert_same_to_rounding(transformer.transform(X[:5]), make().fit(X, y).explain(X[:5]))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"leak_rate": 0.0}, "'leak_rate' parameter"),
        ({"leak_rate": 1.5}, "'leak_rate' parameter"),
        ({"density": 0.0}, "'density' parameter"),
        ({"ridge": "best"}, "'ridge' parameter .* 'best'"),
        ({"ridge": -1.0}, "'ridge' parameter"),
        ({"leak_split": "half"}, "'leak_split' parameter"),
        ({"washout": 8}, "washout=8 leaves none of the 8 states"),
        ({"input_shape": (2, 4)}, r"X has shape .*\(2, 4\)"),
        ({"input_shape": (4, 4, 4)}, r"\(T, F\) or \(H, W\)"),
    ],
)
def test_parameters_are_checked(params, message, digits):
    with pytest.raises(ValueError, match=message):
        make(**params).fit(*digits)


def test_unknown_names_are_refused():
    names = re.escape("('contribution', 'leak_rate'), got 'half'")
    with pytest.raises(ValueError, match=f"leak_split must be one of {names}"):
        EchoState(2, 3, leak_split="half")


# --- What the forerunner found ----------------------------------------------------------------


def test_memory_fades_with_the_leak_rate():
    """The class is told at the start of the sweep: a fast leak forgets it, unless swept back."""
    X, y, _ = datasets.make_squares(60, size=50, random_state=0)
    score = {
        (leak, way): ESNClassifier(100, leak_rate=leak, sweep=way, random_state=0)
        .fit(X[:80], y[:80])
        .score(X[80:], y[80:])
        for leak in (0.02, 0.3)
        for way in ("right", "left")
    }
    assert score[0.02, "right"] == score[0.02, "left"] == score[0.3, "left"] == 1.0
    assert score[0.3, "right"] < 0.75


# --- Data that come in parts ------------------------------------------------------------------


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("ridge", [0.0, 1e-6, 3.0, "auto"])
def test_triangles_of_parts_are_that_of_all(fit_intercept, ridge):
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(200, 9)) + 3.0, rng.normal(size=(200, 2)) * [1.0, 40.0] - 7.0
    weight = rng.integers(0, 3, 200).astype(float)
    units = (np.array([1.0, -2.0]), np.array([0.5, 30.0]))
    sums = LeastSquares(9, 2)
    for first in range(0, 200, 17):
        part = slice(first, first + 17)
        sums = LeastSquares.from_state(sums.state)
        sums.add(X[part], Y[part], weight[part])
    known = fit_ridge(
        X, (Y - units[0]) / units[1], weight=weight, ridge=ridge, fit_intercept=fit_intercept
    )
    for found, wanted in zip(sums.solve(ridge, fit_intercept, units), known, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)
    mean, deviation = sums.units()
    average = np.average(Y, axis=0, weights=weight)
    np.testing.assert_allclose(mean, average, rtol=1e-12)
    spread = np.sqrt(np.average((Y - average) ** 2, axis=0, weights=weight))
    np.testing.assert_allclose(deviation, spread, rtol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ridge", [1e-3, "auto"])
@pytest.mark.parametrize("kind", ["classifier", "regressor", "without intercept"])
def test_partial_fit_is_fit_on_all_parts(digits, kind, ridge, weighted):
    X, y = digits
    options = {"ridge": ridge, "input_shape": (8, 8), "random_state": 0}
    if kind == "classifier":
        make_one = functools.partial(ESNClassifier, 30, **options)
    else:
        intercept = kind == "regressor"
        make_one = functools.partial(ESNRegressor, 30, fit_intercept=intercept, **options)
        y = np.stack([X[:, 20] * 100, X.sum(axis=1) - 3.0], axis=1)
    weight = np.random.default_rng(1).integers(0, 3, len(y)).astype(float) if weighted else None
    whole, parts = make_one().fit(X, y, weight), make_one()
    for k, part in enumerate(np.array_split(np.arange(len(y)), 4)):
        known = {"classes": np.unique(y)} if kind == "classifier" and k == 0 else {}
        own = None if weight is None else weight[part]
        parts.partial_fit(X[part], y[part], sample_weight=own, **known)
        if k == 2:  # sums travel with the estimator
            parts = pickle.loads(pickle.dumps(parts))
    find = "decision_function" if kind == "classifier" else "predict"
    wanted = getattr(whole, find)(X)
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(getattr(parts, find)(X), wanted, rtol=1e-6, atol=1e-8 * scale)
    np.testing.assert_allclose(parts.ridge_, whole.ridge_)
    np.testing.assert_allclose(parts.input_range_, whole.input_range_)
    np.testing.assert_allclose(
        parts.explain(X[:5], target=1), whole.explain(X[:5], target=1), rtol=1e-5,
        atol=1e-7 * scale,
    )  # fmt: skip
    if kind != "classifier":
        np.testing.assert_allclose(parts.target_mean_, whole.target_mean_)
        np.testing.assert_allclose(parts.target_scale_, whole.target_scale_)
        np.testing.assert_array_equal(parts.target_range_, whole.target_range_)


def test_partial_fit_goes_on_after_fit_and_from_a_file(digits, tmp_path):
    X, y = digits
    half = len(y) // 2
    whole = make().fit(X, y)
    begun = make().fit(X[:half], y[:half])
    sklrp.save(begun, tmp_path / "esn.safetensors")
    for one in (begun, sklrp.load(tmp_path / "esn.safetensors")):
        one.partial_fit(X[half:], y[half:])
        np.testing.assert_allclose(
            one.decision_function(X), whole.decision_function(X), rtol=1e-5, atol=1e-7
        )


def test_what_partial_fit_cannot_go_on_with_is_refused(digits):
    X, y = digits
    clf = make().partial_fit(X[:50], y[:50], classes=range(10))
    with pytest.raises(ValueError, match="differ from those of the first call"):
        clf.partial_fit(X, y, classes=range(9))
    with pytest.raises(ValueError, match="unknown labels 77"):
        clf.partial_fit(X, np.full(len(y), 77))
    with pytest.raises(ValueError, match="leak_rate was changed after the training"):
        clf.set_params(leak_rate=0.7).partial_fit(X, y)
    with pytest.raises(ValueError, match="class_weight='balanced' needs the labels of all"):
        make().set_params(class_weight="balanced").partial_fit(X, y)
    with pytest.raises(ValueError, match="needs at least 2 classes, got 1 class"):
        make().partial_fit(X[:3], [0, 0, 0])
    with pytest.raises(ValueError, match=r"non-zero number|must hold a positive weight"):
        make().partial_fit(X, y, sample_weight=np.zeros(len(y)))


@pytest.mark.parametrize("size", [1e200, 1e300])
def test_a_part_that_is_refused_changes_nothing(digits, size):
    """Also not in place, in the network that goes on."""
    X, _ = digits
    y = X[:, 20]
    reg = ESNRegressor(30, random_state=0).partial_fit(X, y)
    before = reg.predict(X), reg.target_mean_, reg.net_.module
    for train in (reg.partial_fit, reg.fit):
        with pytest.raises(ValueError, match="y holds numbers whose squares are not finite: give"):
            train(X, y * size)
    np.testing.assert_array_equal(reg.predict(X), before[0])
    assert reg.target_mean_ is before[1]
    assert reg.net_.module is before[2]


def test_a_readout_that_cannot_be_solved_changes_nothing(digits, monkeypatch):
    X, _ = digits
    reg = ESNRegressor(30, random_state=0).partial_fit(X, X[:, 20])
    before = reg.predict(X)

    def fail(*args, **kwargs):
        raise np.linalg.LinAlgError("no convergence")

    monkeypatch.setattr("sklrp.classifiers.ridge.svd", fail)
    with pytest.raises(np.linalg.LinAlgError):
        reg.partial_fit(X, 10 * X[:, 20])
    np.testing.assert_array_equal(reg.predict(X), before)
