"""Scores and sums of relevance are held against the network's own plain forward."""

from __future__ import annotations

import re
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sklrp
from sklrp.propagation import register
from sklrp.propagation.defence import EVERY, Defence
from sklrp.propagation.plans import Plan
from sklrp.propagation.registry import HANDLERS
from tests.helpers.parameters import randomised


class Odd(nn.Module):
    """A layer whose handler, in these tests, is wrong in some way."""

    def forward(self, x):
        return 2 * x


class Behind(nn.Module):
    """The same network with a forward of its own."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x) + 0.0


def wrong_value(step, signal):
    return signal.apply(lambda x: 2.001 * x), lambda relevance, kept: relevance


def wrong_for_some(step, signal):
    def function(x):
        return torch.where(x[:, :1] > 10, 3.0, 2.0) * x

    return signal.apply(function), lambda relevance, kept: relevance


def lost(step, signal):
    return signal.apply(step.layer.forward), lambda relevance, kept: relevance / 2


def made(step, signal):
    return signal.apply(step.layer.forward), lambda relevance, kept: relevance * 1.01


def right(step, signal):
    return signal.apply(step.layer.forward), lambda relevance, kept: relevance


@pytest.fixture
def handle():
    """Register handlers of `Odd`, and put the table back."""
    yield lambda handler: register(Odd)(handler)
    HANDLERS.pop(Odd, None)


def build(by_hand, dtype=torch.float64):
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), Odd(), nn.Linear(3, 2))
    return (Behind(randomised(net)) if by_hand else randomised(net)).to(dtype)


def draw(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 4))


both_ways = pytest.mark.parametrize("by_hand", [False, True], ids=["chain", "by hand"])


@both_ways
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_samples", [1, 2, 10, 100])
def test_another_score_is_refused_by_the_layer(handle, by_hand, dtype, n_samples):
    handle(wrong_value)
    layer = "net.2" if by_hand else "2"
    with pytest.raises(TypeError, match=f"through layer '{re.escape(layer)}'.*not supported"):
        sklrp.explain(build(by_hand, dtype), draw(n_samples), rule="epsilon")


@both_ways
@pytest.mark.parametrize("handler", [lost, made])
@pytest.mark.parametrize("n_samples", [1, 5, 40])  # watched on their own way back, or before
def test_relevance_that_is_lost_or_made_is_refused_by_the_layer(
    handle, by_hand, handler, n_samples
):
    handle(handler)
    layer = "net.2" if by_hand else "2"
    with pytest.raises(TypeError, match=rf"'{re.escape(layer)}' \(Odd\).*`kept`"):
        sklrp.explain(build(by_hand), draw(n_samples), rule="epsilon")


@both_ways
def test_where_no_relevance_starts_none_is_lost_in_silence(handle, by_hand):
    handle(lost)
    model = build(by_hand)
    last = model.net[3] if by_hand else model[3]
    with torch.no_grad():
        last.weight[0], last.bias[:] = 0.0, torch.tensor([0.0, 1e3])
    with pytest.raises(TypeError, match=r"\(Odd\).*`kept`"):
        sklrp.explain(model, draw(5), target=0, rule="epsilon")


@both_ways
def test_a_layer_of_ones_own_may_hold_complex_numbers(handle, by_hand):
    """A table of turns, as rotary positions have it: what it means is the handler's."""
    handle(right)
    model = build(by_hand)
    odd = model.net[2] if by_hand else model[2]
    expected = sklrp.explain(model, draw(5), rule="epsilon")
    odd.register_buffer("turns", torch.ones(3, dtype=torch.complex128))
    np.testing.assert_array_equal(sklrp.explain(model, draw(5), rule="epsilon"), expected)


DIFFERENCES = {
    "function": {"target": lambda out: out[:, 1] - out[:, 0]},
    "weights": {"target": np.array([-1.0, 1.0])},
    "contrast": {"target": 1, "contrast": True},
}


@pytest.mark.parametrize("name", DIFFERENCES)
@pytest.mark.parametrize("n_samples", [1, 16, 40])
def test_a_small_difference_of_large_outputs_is_explained(name, n_samples):
    """Rounding of the outputs, temperatures in kelvins, is no loss beside what is on its way."""
    model = Behind(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
    randomised(model)
    with torch.no_grad():
        model.net[2].bias.fill_(288.0)
        model.net[2].weight.mul_(1e-3)
    model.float()
    X = draw(n_samples).astype(np.float32)
    found = sklrp.explain(model, X, rule="epsilon", **DIFFERENCES[name])
    plain = sklrp.explain(model.net, X, rule="epsilon", **DIFFERENCES[name])
    np.testing.assert_allclose(found, plain, atol=1e-5 * np.abs(plain).max())


@pytest.mark.parametrize("n_samples", [1, 5, 16])
def test_what_is_lost_is_no_small_part_of_an_offset(handle, n_samples):
    handle(lost)
    target = {"target": lambda out: 1e-2 * out[:, 0] + 1e3}
    with pytest.raises(TypeError, match=r"\(Odd\).*`kept`"):
        sklrp.explain(build(True), draw(n_samples), rule="epsilon", **target)


@pytest.mark.parametrize(("n_samples", "runs"), [(2, [2]), (4, [4]), (40, [3, 1, 37])])
def test_few_samples_are_run_once_behind_the_probes(n_samples, runs, monkeypatch):
    found = []
    recorder = Plan._recorder

    def note(self, n_samples, **options):
        found.append(n_samples)
        return recorder(self, n_samples, **options)

    monkeypatch.setattr(Plan, "_recorder", note)
    model = build(True)
    del model.net[2]
    alone = sklrp.explain(model, draw(n_samples), rule="epsilon")
    assert found == runs
    together = sklrp.explain(model, draw(80), rule="epsilon")
    np.testing.assert_allclose(alone, together[:n_samples], rtol=1e-9, atol=1e-12)


@both_ways
def test_what_is_right_is_not_refused(handle, by_hand):
    handle(right)
    for check in (True, False, "auto"):
        sklrp.explain(build(by_hand), draw(70), rule="gamma", check=check)


@both_ways
def test_true_compares_every_sample(handle, by_hand):
    handle(wrong_for_some)
    net, X = build(by_hand), draw(10)
    first = net.net[0] if by_hand else net[0]
    weight = first.weight[0].detach().numpy()
    X[5] = 100 * weight / (weight @ weight)  # the first hidden value is about 100
    for check in ("auto", False):
        sklrp.explain(net, X, rule="epsilon", check=check)
    with pytest.raises(TypeError, match="not supported"):
        sklrp.explain(net, X, rule="epsilon", check=True)
    with pytest.raises(TypeError, match="not supported"):  # first and last are compared
        sklrp.explain(net, X[:6], rule="epsilon", check=False)


def test_the_last_of_many_samples_is_compared(handle):
    handle(wrong_for_some)
    net, X = build(True), draw(40)
    weight = net.net[0].weight[0].detach().numpy()
    X[-1] = 100 * weight / (weight @ weight)
    with pytest.raises(TypeError, match="not supported"):
        sklrp.explain(net, X, rule="epsilon", check=False)


@pytest.mark.parametrize("wrong", [lost, made])
def test_the_way_back_of_many_samples_is_checked(handle, wrong):
    handle(wrong)
    for options in ({}, {"batch_size": 1}, {"target": "all"}):
        with pytest.raises(TypeError, match=r"\(Odd\).*`kept`"):
            sklrp.explain(build(True), draw(40), rule="epsilon", **options)


def test_two_of_each_large_chunk_are_compared(monkeypatch):
    found = []
    compare = Defence.compare

    def note(self, tape, chunk, rows=EVERY):
        found.append((len(chunk[0]), list(range(len(chunk[0])))[rows]))
        compare(self, tape, chunk, rows)

    monkeypatch.setattr(Defence, "compare", note)
    net = randomised(nn.Sequential(nn.Linear(4, 2)))
    sklrp.explain(net, draw(128), batch_size=64)
    assert found == [(64, [0, 63])] * 2
    found.clear()
    sklrp.explain(net, draw(20), batch_size=10)
    assert found == [(10, [0, 9])]
    found.clear()
    sklrp.explain(net, draw(128), batch_size=64, check=False)
    assert found == [(64, [0, 63])]
    found.clear()
    sklrp.explain(net, draw(6), batch_size=3, check=True)
    assert found == [(3, [0, 1, 2])] * 2


class SlopeOfChunk(nn.Module):
    """A function with another argument in each chunk."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.b(F.leaky_relu(self.a(x), 0.05 * len(x)))


def test_chunks_with_arguments_of_their_own_are_compared_as_a_whole(monkeypatch):
    found = []

    def note(self, tape, chunk, rows=EVERY):
        found.append(len(chunk[0][rows]))

    monkeypatch.setattr(Defence, "compare", note)
    sklrp.explain(randomised(SlopeOfChunk()), draw(7), batch_size=4, rule="epsilon")
    assert found == [3, 1, 4]


@pytest.mark.parametrize("check", [None, 1, "all", "True"])
def test_unknown_check_is_refused(check):
    with pytest.raises(ValueError, match="check must be 'auto', True or False"):
        sklrp.explain(nn.Sequential(nn.Linear(4, 2)), draw(2), check=check)


def test_estimators_take_check():
    X, y = draw(20), np.arange(20) % 2
    clf = sklrp.MLPClassifier((3,), max_epochs=1, random_state=0).fit(X, y)
    np.testing.assert_array_equal(clf.explain(X, check=True), clf.explain(X, check=False))
    np.testing.assert_array_equal(sklrp.explain(clf, X, check=True), clf.explain(X))


def test_rounding_is_not_refused():
    """Scores in float32 that are the small difference of large numbers."""
    net = randomised(nn.Sequential(nn.Linear(4, 50), nn.ReLU(), nn.Linear(50, 1))).float()
    with torch.no_grad():
        X = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
        net[2].weight *= 1e4
        net[2].bias -= net(X[:1])[0]  # the first score is rounding alone
    sklrp.explain(net, X, rule="epsilon", check=True)
    sklrp.explain(Behind(net), X, rule="epsilon", check=True)


class Head(nn.Module):
    def __init__(self, net, head):
        super().__init__()
        self.net, self.head = net, head

    def forward(self, x):
        return self.head(self.net(x))


@pytest.mark.parametrize("head", [nn.Softmax(1), nn.Sigmoid(), nn.LogSoftmax(1), nn.LogSigmoid()])
def test_saturated_heads_hide_nothing(handle, head):
    net = build(by_hand=False)
    with torch.no_grad():
        net[3].weight.abs_().mul_(20)
        net[3].weight[0] *= -1
    handle(right)
    sklrp.explain(Head(net, head), draw(5), rule="epsilon")
    handle(wrong_value)
    with pytest.raises(TypeError, match=r"layer 'net\.2'"):
        sklrp.explain(Head(net, head), draw(5), rule="epsilon")


@both_ways
@pytest.mark.parametrize("n_samples", [5, 40])  # with a balance of the steps, and without
def test_what_a_layer_holds_is_freed_when_relevance_has_passed_it(handle, by_hand, n_samples):
    held, alive = weakref.WeakSet(), []

    def noting(step, signal):
        x = 2 * signal.x
        held.add(x)

        def pull(relevance, kept):
            alive.append(sum(x is not None for x in held))
            return relevance * bool(len(x))

        return replace(signal, x=x), pull

    handle(noting)
    net = build(False)
    net.insert(1, Odd())
    net.insert(1, Odd())
    sklrp.explain(Behind(net) if by_hand else net, draw(n_samples), check=False, rule="epsilon")
    assert alive[-3:] == [3, 2, 1]


class MaskOfTheFirst(nn.Module):
    """Words of all sentences masked by the first sentence, by integers."""

    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(9, 3), nn.Linear(3, 2)

    def forward(self, tokens):
        mask = (tokens[0] > 3).to(self.head.weight.dtype)
        return self.head((self.words(tokens) * mask[:, None]).mean(1))


def test_samples_mixed_by_integers_are_refused():
    X = np.array([[5, 3, 2, 7], [1, 8, 4, 4]])
    with pytest.raises(TypeError, match=r"mixes|another way"):
        sklrp.explain(randomised(MaskOfTheFirst()), X, rule="epsilon")


def test_the_network_is_left_as_it_was(handle):
    """Also where its weights are moved to tell rounding from a mistake."""
    handle(wrong_value)
    net = build(by_hand=False).train()
    before = [(p, p.data_ptr(), p.clone()) for p in net.parameters()]
    with pytest.raises(TypeError, match="not supported"):
        sklrp.explain(net, draw(5), rule="epsilon")
    for (p, place, values), now in zip(before, net.parameters(), strict=True):
        assert p is now
        assert p.data_ptr() == place
        assert torch.equal(p, values)
    assert all(layer.training for layer in net.modules())


class RoundedBetween(nn.Module):
    """A network of double precision with a step that is computed in single precision."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 40), nn.Linear(40, 3)

    def forward(self, x):
        return self.b(F.relu(self.a(x)).float().double())


@pytest.mark.parametrize("rule", ["epsilon", "w_square", "z_plus", "alpha_beta"])
@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_a_step_of_single_precision_rounds_as_such(rule, n):
    net = randomised(RoundedBetween()).double()
    plain = nn.Sequential(net.a, nn.ReLU(), net.b)
    for seed in range(5):
        X = np.random.default_rng(seed).normal(size=(n, 6))
        found = sklrp.explain(net, X, rule=rule, target="all", check=True)
        expected = sklrp.explain(plain, X, rule=rule, target="all")
        np.testing.assert_allclose(found, expected, atol=1e-5 * abs(expected).max())


class Remembering(nn.Module):
    """A layer whose handler keeps what it passes on."""

    def forward(self, x):
        return x


def test_relevance_is_the_callers_alone():
    held = []

    def remember(step, signal):
        def pull(relevance, kept):
            held.append(relevance.clone())
            return held[-1]

        return signal, pull

    own = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    X = draw(7).astype(np.float32)
    first, second = (sklrp.explain(own, X, rule="epsilon") for _ in range(2))
    first[...] = 0
    np.testing.assert_array_equal(sklrp.explain(own, X, rule="epsilon"), second)
    register(Remembering)(remember)
    try:
        found = sklrp.explain(nn.Sequential(Remembering(), *own), X, rule="epsilon", check=False)
        expected = found.copy()
        for tensor in held:
            tensor.zero_()
        np.testing.assert_array_equal(found, expected)
    finally:
        del HANDLERS[Remembering]
