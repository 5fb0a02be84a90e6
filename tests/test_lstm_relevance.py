"""Relevance through LSTMs, against a step-by-step rewrite of Arras et al. 2017."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sklrp.modules import StatePooling, Sweep
from sklrp.propagation import explain
from sklrp.rules import AlphaBeta, Epsilon, Flat, ZBox
from tests.helpers.comparing import assert_close
from tests.helpers.lstms import RULES, by_place, network, samples
from tests.helpers.parameters import randomised
from tests.helpers.reference import assert_explained, explain_sample, lstm_forward


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_reference_is_torch(num_layers, bidirectional, bias):
    """The rewrite's gate order (i, f, g, o) and directions are torch's."""
    model, X = network(num_layers, bidirectional, bias=bias), samples()
    with torch.no_grad():
        states = model[0](torch.from_numpy(X))[0].numpy()
    for x, expected in zip(X, states, strict=True):
        assert_close(lstm_forward(model[0], x)[0], expected, 1e-12)


@pytest.mark.sweep(3)
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
def test_architectures(num_layers, bidirectional, pooling):
    for rule in (Epsilon(), AlphaBeta(epsilon=0.01)):
        for epsilon in (1e-6, 0.05):
            model = network(num_layers, bidirectional, pooling)
            assert_explained(model, samples(1), *by_place(rule), epsilon=epsilon)


@pytest.mark.sweep(6)
@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_rules(rule, bias, bidirectional):
    """Every rule on the affine map of the cell, with initial state, bias and epsilon."""
    model = network(2, bidirectional, "mean", bias)
    for X in (samples(1), np.abs(samples(1))):
        assert_explained(model, X, *by_place(rule), epsilon=1e-3)


def test_batch_of_sequences_of_one_step():
    assert_explained(network(2, True), samples(5, 1), "epsilon", epsilon_everywhere)


def epsilon_everywhere(name, layer):
    return Epsilon()


def test_bounds_per_feature_and_step():
    """z-box: the bounds of the data on layer 0, (-1, 1) on states and deeper layers."""
    rng = np.random.default_rng(2)
    X = samples(2)
    low, high = X.min(0) - rng.uniform(0.1, 1.0, size=(4, 2)), X.max(0) + 0.5
    for model in (network(2), network(1, True, "mean")):
        assert_explained(model, X, *by_place(ZBox(low, high)))
        assert_explained(model, X, *by_place(ZBox(low[0] - 3.0, 4.0)))


@pytest.mark.parametrize("sweep", ["down", "up", "right", "left"])
def test_sweeps(sweep):
    """Rows or columns of images as steps; relevance lies where the image's pixels lie."""
    features = 3 if sweep in ("down", "up") else 4
    model = randomised(
        nn.Sequential(
            nn.Unflatten(1, (4, 3)),
            Sweep(sweep),
            nn.LSTM(features, 3, batch_first=True),
            StatePooling(),
            nn.Tanh(),
            nn.Linear(3, 2),
        )
    )
    X = np.random.default_rng(3).normal(size=(2, 12))
    assert_explained(model, X, "epsilon", epsilon_everywhere)


def test_convolution_below_and_dropout_between_layers():
    """Dropout between the layers of an LSTM in training mode has no say in an explanation."""
    model = network(2)
    model[0].dropout = 0.5
    X = samples()
    expected = explain(model, X)
    model.train()
    np.testing.assert_array_equal(explain(model, X), expected)
    assert model.training
    assert model[0].training


def test_one_unit_one_step_by_hand():
    """One unit, one step, all gates open at 1/2.

    With i, f, o of zero weights i = f = o = 1/2; g = tanh(z), z = 2 x_1 - x_2 + b = 1 with
    x = (1, 1.5), b = 1/2; c = g / 2, h = tanh(c) / 2. Everything of the score arrives at g
    (c_0 = 0): R_g = h. The rule shares it as (2, -1.5, 0 from h_0) over z = 1, the bias
    takes 1/2.
    """
    model = nn.Sequential(nn.LSTM(2, 1, batch_first=True), StatePooling(), nn.Linear(1, 1, False))
    model = model.double()
    with torch.no_grad():
        for parameter in model[0].parameters():
            parameter.zero_()
        model[0].weight_ih_l0[2] = torch.tensor([2.0, -1.0])
        model[0].weight_hh_l0[2] = 3.0
        model[0].bias_ih_l0[2] = 0.75
        model[0].bias_hh_l0[2] = -0.25
        model[2].weight.fill_(4.0)
    h = np.tanh(np.tanh(1.0) / 2.0) / 2.0
    x = np.array([[[1.0, 1.5]]])
    relevance, details = explain(model, x, rule="zero", return_details=True)
    np.testing.assert_allclose(relevance[0, 0], [8.0 * h, -6.0 * h], rtol=1e-12)
    np.testing.assert_allclose(details.layers[0].bias, [2.0 * h], rtol=1e-12)
    np.testing.assert_allclose(details.layers[0].initial_state, [0.0], atol=1e-12)
    # flat: a third each for x_1, x_2 and the initial state
    relevance, details = explain(model, x, rule=by_place(Flat())[0], return_details=True)
    np.testing.assert_allclose(relevance[0, 0], [4.0 * h / 3.0] * 2, rtol=1e-5)
    np.testing.assert_allclose(details.layers[0].initial_state, [4.0 * h / 3.0], rtol=1e-5)


def test_forget_gate_carries_relevance_to_the_past():
    """With g = 0 at the last step, all relevance of the last state belongs to the first step."""
    model = network(1, bias=False)
    X = samples(1, 2)
    X[:, 1] = 0.0
    with torch.no_grad():
        model[0].weight_hh_l0[6:9] = 0.0  # g sees the input alone
    relevance = explain(model, X, rule="zero")
    np.testing.assert_array_equal(relevance[:, 1], 0.0)
    assert np.abs(relevance[:, 0]).max() > 0.05


def test_zero_sequence_at_epsilon_zero():
    """No bias and no input: every state is 0 and nothing can be shared; no NaN."""
    model = network(2, True, "mean", bias=False)
    X = np.zeros((1, 3, 2))
    for rule in RULES:
        assert_explained(model, X, *by_place(rule), epsilon=0.0)


def test_conservation_without_bias():
    """Without biases and with a small epsilon the relevance of the inputs is the score."""
    model = network(2, True, "mean", bias=False)
    with torch.no_grad():
        model[2].bias.zero_()
    relevance, details = explain(
        model, samples(8, 6), epsilon=1e-12, rule="epsilon", return_details=True
    )
    np.testing.assert_allclose(relevance.sum((1, 2)), details.score, rtol=1e-6)


def test_rows_do_not_depend_on_their_batch():
    model, X = network(2, True, "max"), samples(7, 5)
    together = explain(model, X, target="all")
    alone = np.concatenate([explain(model, x[None], target="all") for x in X])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        explain(model, X, target="all", batch_size=3), together, rtol=0, atol=1e-12
    )


def test_contrast_and_targets():
    model, X = network(1, True), samples(6)
    targets = np.array([0, 1, 2, 2, 1, 0])
    relevance = explain(model, X, target=targets, contrast=True)
    for x, t, given in zip(X, targets, relevance, strict=True):
        expected = explain_sample(model, x, t, epsilon_everywhere, contrast=True)
        assert_close(given, expected.relevance)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([nn.LSTM(2, 3), StatePooling(), nn.Linear(3, 2)], "batch_first"),
        ([nn.LSTM(2, 3, batch_first=True), nn.Linear(3, 2)], "a recurrent layer returns a tuple"),
        ([nn.Linear(2, 3), StatePooling(), nn.Linear(3, 2)], "StatePooling"),
    ],
)
def test_unsupported_recurrence_is_refused(layers, message):
    with pytest.raises(TypeError, match=message):
        explain(nn.Sequential(*layers).double(), samples())
