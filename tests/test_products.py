"""The shortcut of the engine changes nothing: products by magnitudes, and the layout of images.

All rules on all layers with it and without; layers of 300 inputs, where alpha-beta's denominators
follow from the sum of magnitudes; rules of other input and weight maps, which the engine must take
as they are.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from sklrp import Composite, explain, rules
from sklrp.modules import StatePooling
from sklrp.propagation import fast, formula
from sklrp.rules import AlphaBeta, Epsilon, Gamma, Part, Rule, Signed, WSquare, ZBox, ZPlus
from tests.helpers.affine_layers import LAYERS, RULES
from tests.helpers.parameters import randomised
from tests.helpers.reference import assert_explained


def inputs(n_features):
    """Return dense and sparse samples, blank ones and ones of a single value."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(6, n_features))
    X[1] *= rng.random(n_features) < 0.01
    X[2] = np.abs(X[2])
    X[3:] = 0.0
    X[4, 7], X[5, 7] = 2.0, -2.0
    return X


@pytest.mark.parametrize("epsilon", [0.0, 1e-6, 0.1])
@pytest.mark.parametrize(
    "rule",
    [Gamma(), Gamma(1000.0), AlphaBeta(), AlphaBeta(renormalize=True), ZPlus()],
    ids=repr,
)
@pytest.mark.parametrize("bias", [True, False])
def test_many_signed_inputs(rule, epsilon, bias):
    model = nn.Sequential(
        randomised(nn.Linear(300, 3, bias=bias), 0), nn.ReLU(), randomised(nn.Linear(3, 2), 1)
    )
    rows = Composite([("all", rule, "all")])
    assert_explained(model, inputs(300), rows, lambda *_: rule, epsilon=epsilon)


@pytest.mark.parametrize("epsilon", [0.0, 1e-6, 0.1])
@pytest.mark.parametrize("rule", [AlphaBeta(), AlphaBeta(renormalize=True)], ids=repr)
def test_many_nonnegative_inputs(rule, epsilon):
    """The negative part is what the magnitudes leave of z, also where a ReLU wrote over z."""
    model = nn.Sequential(
        *(randomised(nn.Linear(4, 300), 0), nn.ReLU(), randomised(nn.Linear(300, 3), 1)),
        *(nn.ReLU(), randomised(nn.Linear(3, 2), 2)),
    )
    with torch.no_grad():
        model[2].weight[0].abs_()  # of one sign alone
        model[2].bias[0] = 0.0
    rows = Composite([("all", rule, "all")])
    X = np.random.default_rng(0).normal(size=(6, 4))
    assert_explained(model, X, rows, lambda *_: rule, epsilon=epsilon)


@pytest.mark.parametrize("n_channels", [1, 3, 4])
@pytest.mark.parametrize("rule", [Gamma(), AlphaBeta(), ZBox(-3, 3), ZPlus(), WSquare()], ids=repr)
def test_terms_of_few_channels_are_one(rule, n_channels, monkeypatch):
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(n_channels, 5, 3, padding=1), nn.ReLU(), nn.Flatten()),
        nn.LazyLinear(3),
    )
    X = np.random.default_rng(0).uniform(-3, 3, size=(5, n_channels, 6, 7)).astype(np.float32)
    net(torch.from_numpy(X))
    rows = Composite([("first", rule, "first"), ("all", Epsilon(), "all")])
    found = explain(net, X, rule=rows, target="all")
    monkeypatch.setattr(fast, "ENABLED", False)
    expected = explain(net.double(), X.astype(float), rule=rows, target="all")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


class Copy(Rule):
    """A rule of the same parts, in plain functions that the engine does not know."""

    def __init__(self, rule=None):
        self.rule = rule

    def parts(self):
        def copied(part):
            terms = tuple(
                (lambda signal, f=f: f(signal), lambda weight, g=g: g(weight))
                for f, g in part.terms
            )
            bias = None if part.bias is None else lambda b, g=part.bias: g(b)
            return part._replace(terms=terms, bias=bias)

        return tuple(map(copied, self.rule.parts()))


@pytest.mark.parametrize("rule", [Gamma(), AlphaBeta(), ZPlus()], ids=repr)
def test_any_maps_are_taken_as_they_are(rule):
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(300, 8), nn.ReLU(), nn.Linear(8, 2))
    conv = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True), nn.Conv2d(4, 3, 2)),
        *(nn.Flatten(), nn.Linear(3, 2)),
    )
    for model, X in ((dense, inputs(300)), (conv, inputs(36).reshape(-1, 1, 6, 6))):
        found, expected = (
            explain(model.double(), X, rule=Composite([("all", r, "all")]), target="all")
            for r in (rule, Copy(rule))
        )
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
        assert np.abs(found).max() > 0


def test_parts_without_relevance_are_left_out(monkeypatch):
    """After a ReLU, gamma has no relevance to pass where pre-activations are negative."""
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1, bias=False)).double()
    with torch.no_grad():
        model[0].bias.fill_(9.0)
        model[2].weight.abs_()
    divisions = []
    divide = formula.divide

    def counted(*args, **kwargs):
        divisions.append(args)
        return divide(*args, **kwargs)

    monkeypatch.setattr(formula, "divide", counted)
    explain(model, np.ones((2, 4)), rule=Composite([("all", Gamma(), "all")]))
    assert len(divisions) == 2


def test_a_small_negative_part_is_not_lost_in_the_positive_one():
    model = nn.Sequential(nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -1e-9]], dtype=torch.float64))
    relevance = explain(model, np.ones((1, 2)), rule="alpha_beta", epsilon=0.0)
    np.testing.assert_allclose(relevance, [[2.0 - 2e-9, -1.0 + 1e-9]], rtol=1e-12)


@pytest.mark.parametrize("epsilon", [0.0, 1e-6])
@pytest.mark.parametrize("weak", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("first", [nn.ReLU(), nn.Identity()], ids=str)
@pytest.mark.parametrize("rule", [AlphaBeta(), AlphaBeta(renormalize=True), ZPlus()], ids=repr)
def test_a_weak_sign_is_not_lost_among_many_contributions(rule, first, weak, epsilon):
    rng = np.random.default_rng(0)
    net = nn.Sequential(first, nn.Linear(300, 3, bias=False), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        net[1].weight.abs_()
        net[1].weight[1, 0] = -weak * net[1].weight[1].sum()  # 0 and 2 are of one sign alone
    X = rng.random((20, 300)).astype(np.float32) + 0.1
    X[10:] *= rng.random((10, 300)) < 0.02  # of many weights few contribute
    rows = Composite([("all", rule, "all")])
    found = explain(net, X, rule=rows, epsilon=epsilon, target=0, check=True)
    expected = explain(net.double(), X.astype(float), rule=rows, epsilon=epsilon, target=0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_chunks_with_and_without_magnitudes_keep_their_own_maps_of_weights():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(300, 4), nn.Linear(4, 1)).double()
    X = np.random.default_rng(0).normal(size=(8, 300))
    X[2] = 0.0  # whose contributions are of the bias's sign alone
    expected = explain(net, X, rule="alpha_beta", batch_size=8)
    for batch_size in (1, 2, 4):
        found = explain(net, X, rule="alpha_beta", batch_size=batch_size)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


class Uneven(Rule):
    """Parts of two terms and of one, and a term of ones."""

    def parts(self):
        both = ((rules.x_pos, rules.w_pos), (rules.x_neg, rules.w_neg))
        ones = ((rules.x_one, torch.square), (rules.x, rules.w))
        return (Part(0.5, both), Part(0.25, ((rules.x, rules.w),)), Part(0.25, ones))


@pytest.mark.parametrize("n_channels", [1, 3])
def test_parts_of_uneven_terms_are_added_channel_by_channel(n_channels, monkeypatch):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(n_channels, 5, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    X = np.random.default_rng(0).normal(size=(4, n_channels, 6, 7))
    net.double()(torch.from_numpy(X))
    rows = Composite([("first", Uneven(), "first"), ("all", Epsilon(), "all")])
    found = explain(net, X, rule=rows)
    monkeypatch.setattr(fast, "ENABLED", False)
    expected = explain(net, X, rule=rows)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def test_maps_of_signed_weights():
    values = torch.tensor([-2.0, 0.0, 3.0])
    assert Signed(2.0, 5.0)(values).tolist() == [-10.0, 0.0, 6.0]
    assert Signed(1.0, -1.0)(values).tolist() == [2.0, 0.0, 3.0]
    assert Signed(1.0, 1.0)(values) is values
    assert Signed(2.0, 5.0).opposite == Signed(5.0, 2.0)
    assert values.tolist() == [-2.0, 0.0, 3.0]


def test_blank_samples_of_huge_relevance():
    """Nothing overflows where a part does not act and its denominator vanishes."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)).float()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 1.0], [-1e-20, 1e-20]]))
        model[1].weight.copy_(torch.tensor([[1e30, 1e30]]))
    relevance = explain(
        model, np.array([[2.0, 1.0]], np.float32), rule=Composite([("all", Gamma(), "all")])
    )
    assert np.isfinite(relevance).all()


# --- Everything without the shortcut --------------------------------------------------------

RECURRENT = {
    "lstm": (lambda: nn.LSTM(3, 4, batch_first=True), (5, 3)),
    "bidirectional": (lambda: nn.LSTM(3, 2, 2, batch_first=True, bidirectional=True), (4, 3)),
    "gru": (lambda: nn.GRU(3, 4, batch_first=True), (5, 3)),
    "rnn": (lambda: nn.RNN(3, 4, batch_first=True), (5, 3)),
}
WIDE = {
    "wide": (lambda: nn.Linear(300, 3), (300,)),
    "wide convolution": (lambda: nn.Conv2d(30, 2, 3, padding=1), (30, 4, 4)),
    "transposed": (lambda: nn.ConvTranspose1d(2, 3, 3, stride=2, padding=1), (2, 4)),
}
CELLS = {name: (partial(make, True), shape) for name, (make, shape) in LAYERS.items()}


def explain_both_ways(monkeypatch, rule, name):
    """Return relevance and details of a layer below a head, with the shortcut and without."""
    make, shape = (CELLS | WIDE | RECURRENT)[name]
    torch.manual_seed(0)
    behind = StatePooling("mean") if name in RECURRENT else nn.Flatten()
    X = np.random.default_rng(0).normal(size=(2, *shape))
    body = nn.Sequential(make(), behind).double()
    with torch.no_grad():
        width = body(torch.from_numpy(X)).shape[1]
    # An activation before the layer makes its input known to be nonnegative, or not.
    found = []
    for activation in (nn.Identity(), nn.ReLU()):
        net = randomised(nn.Sequential(activation, *body, nn.Linear(width, 2)), 1)
        for enabled in (True, False):
            monkeypatch.setattr(fast, "ENABLED", enabled)
            found.append(explain(net, X, rule=rule, target="all", return_details=True))
    return found


@pytest.mark.sweep(25)
@pytest.mark.filterwarnings("ignore:The flat rule on the dense first layer")
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", CELLS | WIDE | RECURRENT)
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_all_rules_and_layers_without_the_shortcut(monkeypatch, rule, name):
    signed, signed_off, positive, positive_off = explain_both_ways(monkeypatch, rule, name)
    for (one, details), (other, expected) in ((signed, signed_off), (positive, positive_off)):
        scale = max(1.0, np.abs(other).max())
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11 * scale)
        for layer, same in zip(details.layers, expected.layers, strict=True):
            for cause in ("bias", "epsilon", "padding", "initial_state", "dropped"):
                scale = max(1.0, np.abs(same[cause]).max())
                np.testing.assert_allclose(
                    layer[cause], same[cause], rtol=1e-9, atol=1e-10 * scale
                )


def test_the_switch_turns_the_shortcut_off(monkeypatch):
    """Without it, the magnitudes are not computed, nor is z taken for a denominator."""
    calls = []
    monkeypatch.setattr(fast, "magnitude", lambda *args: calls.append(args))
    net = randomised(nn.Sequential(nn.Linear(300, 3)))
    monkeypatch.setattr(fast, "ENABLED", False)
    explain(net, inputs(300), rule="alpha_beta")
    assert not calls
    monkeypatch.setattr(fast, "ENABLED", True)
    explain(net, inputs(300), rule="alpha_beta")
    assert calls
