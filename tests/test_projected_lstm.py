"""LSTMs that project their states (`proj_size`): against gradients of plain loops, in float64.

With gates held constant and each tanh replaced by a factor that is held constant, an LSTM is a
linear map, so that rule zero is gradient times input of a loop that torch differentiates.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import sklrp
from sklrp import AlphaBeta, Composite, Epsilon, Flat, Gamma, ZBox, ZPlus
from sklrp.propagation.handlers import recurrent_run
from tests.helpers.comparing import assert_close

CAUSES = ("bias", "epsilon", "padding", "initial_state", "dropped")


@pytest.fixture(autouse=True, params=["at once", "step by step"])
def way(request, monkeypatch):
    """Run torch's kernel, or follow the cells in blocks of few steps as with many samples."""
    if request.param == "step by step":
        monkeypatch.setattr(recurrent_run, "_MANY", 0)
        monkeypatch.setattr(recurrent_run, "_BLOCK_BYTES", 2000)


class Projected(nn.Module):
    def __init__(self, n_layers=1, bidirectional=False, packed=False):
        super().__init__()
        self.lstm = nn.LSTM(
            3, 5, n_layers, batch_first=True, proj_size=2, bidirectional=bidirectional
        )
        self.last = nn.Linear(4 * (1 + bidirectional), 2)
        self.packed = packed

    def forward(self, x):
        states, (last, _) = self.lstm(x)
        n_ways = 1 + self.lstm.bidirectional
        ends = last[-n_ways:].transpose(0, 1).flatten(1)
        return self.last(torch.cat([states.mean(1), ends], 1))


def build(*options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Projected(*options).double()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.5)
    return model.eval()


def scaled(z):
    """Apply tanh as a factor that is held constant."""
    return z * (z.tanh() / z).detach()


def run_direction(lstm, suffix, x):
    """Return the states of one direction, by a loop in which the gates are constants."""
    w_ih, w_hh, b_ih, b_hh, w_hr = (
        getattr(lstm, name + suffix)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    )
    steps = range(x.shape[1])
    h, c = x.new_zeros(len(x), 2), x.new_zeros(len(x), 5)
    states = {}
    for t in reversed(steps) if suffix.endswith("reverse") else steps:
        z = x[:, t] @ w_ih.t() + h @ w_hh.t() + b_ih + b_hh
        i, f, g, o = z.chunk(4, 1)
        c = i.sigmoid().detach() * scaled(g) + f.sigmoid().detach() * c
        h = (o.sigmoid().detach() * scaled(c)) @ w_hr.t()
        states[t] = h
    return torch.stack([states[t] for t in steps], 1), h


def run_plainly(model, x):
    lstm = model.lstm
    for k in range(lstm.num_layers):
        ways = ("", "_reverse") if lstm.bidirectional else ("",)
        runs = [run_direction(lstm, f"_l{k}{way}", x) for way in ways]
        x = torch.cat([states for states, _ in runs], 2)
    return model.last(torch.cat([x.mean(1), *(end for _, end in runs)], 1))


def draw(n_samples=4):
    return np.random.default_rng(0).normal(size=(n_samples, 6, 3))


@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_zero_is_the_gradient_of_a_loop_with_constant_gates(n_layers, bidirectional):
    model, X = build(n_layers, bidirectional), draw()
    x = torch.tensor(X, requires_grad=True)
    scores = run_plainly(model, x)
    relevance, details = sklrp.explain(
        model, X, target="all", rule="zero", epsilon=0.0, return_details=True
    )
    assert_close(details.score, scores.detach())
    for k in range(2):
        (gradient,) = torch.autograd.grad(scores[:, k].sum(), x, retain_graph=True)
        assert_close(relevance[:, k], (x * gradient).detach())
    kept = sum(layer[cause] for layer in details.layers for cause in CAUSES)
    assert_close(relevance.sum((2, 3)) + kept, details.score)


@pytest.mark.sweep(3)
@pytest.mark.parametrize("product", ["all", "half", "abs"])
@pytest.mark.parametrize(
    "rule", [Epsilon(0.1), Gamma(), AlphaBeta(), ZPlus(), Flat(), ZBox(-5.0, 5.0)], ids=str
)
def test_all_relevance_is_accounted_for(rule, product):
    composite = Composite([("all", rule, "recurrent"), ("rest", Epsilon(), "all")], product)
    relevance, details = sklrp.explain(
        build(2, True), draw(), target=1, rule=composite, return_details=True
    )
    kept = sum(layer[cause] for layer in details.layers for cause in CAUSES)
    assert_close(relevance.sum((1, 2)) + kept, details.score)
    assert np.abs(relevance).max() > 0


def test_a_projection_by_ones_changes_nothing():
    """With the identity as its projection it is a plain LSTM, by every rule and product."""
    torch.manual_seed(0)
    plain = nn.LSTM(3, 4, batch_first=True).double()
    projected = nn.LSTM(3, 5, batch_first=True, proj_size=4).double()
    with torch.no_grad():  # the fifth unit is there, and none looks at it
        nn.init.zeros_(projected.weight_hr_l0)
        projected.weight_hr_l0[:, :4] = torch.eye(4)
        for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
            own = getattr(projected, name).unflatten(0, (4, 5))
            own[:, :4] = getattr(plain, name).unflatten(0, (4, 4))
    last = nn.Linear(4, 2).double()
    networks = [
        nn.Sequential(lstm, sklrp.modules.StatePooling("last"), last)
        for lstm in (plain, projected)
    ]
    for product in ("all", "half", "prop", "abs"):
        for rule in (Epsilon(0.0), Gamma(epsilon=0.0)):
            composite = Composite([("all", rule, "all")], product)
            found = [
                sklrp.explain(network, draw(), target=0, rule=composite, epsilon=0.0)
                for network in networks
            ]
            assert_close(*found)


def test_packed_sequences_are_as_long_as_they_say():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 5, batch_first=True, proj_size=2, bidirectional=True)
            self.last = nn.Linear(4, 2)

        def forward(self, x, lengths):
            packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
            _, (ends, _) = self.lstm(packed)
            return self.last(torch.cat([ends[0], ends[1]], 1))

    torch.manual_seed(0)
    model, X, lengths = Packed().double(), draw(3), np.array([6, 2, 4])
    relevance, _ = sklrp.explain(model, (X, lengths), target=1, rule="zero", epsilon=0.0)
    for x, n, given in zip(X, lengths, relevance, strict=True):
        alone, _ = sklrp.explain(
            model, (x[None, :n], np.array([n])), target=1, rule="zero", epsilon=0.0
        )
        assert_close(given[:n], alone[0])
        assert not given[n:].any()
