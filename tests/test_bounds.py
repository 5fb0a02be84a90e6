"""Bounds of z-box: right, or unknown and refused, behind whatever stands before the layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sklrp import Composite, Epsilon, ZBox, explain
from sklrp.propagation import activate, monotone, register, turning
from sklrp.propagation.registry import HANDLERS
from tests.helpers.comparing import assert_close
from tests.helpers.parameters import randomised

EVERYWHERE = Composite([("first", ZBox(-1.0, 2.0), "first"), ("rest", ZBox(), "all")])
INDEX = torch.tensor([2, 0])
PARTS = torch.tensor([[-2.0, 0.5, 1.0, -0.1, 3.0, -1.0]]).double()


class Watch(nn.Identity):
    """A layer that remembers the box it is given."""

    def forward(self, x):
        return x


class Between(nn.Module):
    """A function between two layers with weights, on six values."""

    def __init__(self, function):
        super().__init__()
        self.first, self.watch, self.head = nn.Linear(4, 6), Watch(), nn.LazyLinear(2)
        self.function = function
        self.double().eval()
        with torch.no_grad():
            self(torch.zeros(2, 4).double())

    def forward(self, x):
        y = self.function(self.first(x))
        return self.head(self.watch(y).reshape(len(x), -1))


KNOWN = {
    "negated": lambda x: -x,
    "minus a number": lambda x: x - 2.0,
    "from a number": lambda x: 3.0 - x,
    "minus a part of it": lambda x: x[:, :3] - x[:, 3:],
    "minus twice": lambda x: torch.sub(x[:, :3], x[:, 3:], alpha=2.0),
    "plus a negative multiple": lambda x: torch.add(x[:, :3], x[:, 3:], alpha=-0.5),
    "minus its mean": lambda x: x - x.mean(1, keepdim=True),
    "times a negative number": lambda x: -2.0 * x,
    "times constants of both signs": lambda x: x * PARTS,
    "over a negative number": lambda x: x / -4.0,
    "clamped": lambda x: x.clamp(-0.5, 0.7),
    "joined with its negative": lambda x: torch.cat([x, -x], 1),
    "joined with constants": lambda x: torch.cat([x, PARTS.expand(len(x), -1)], 1),
    "stacked": lambda x: torch.stack([x, 2 * x], 1),
    "reversed": lambda x: x.flip(1),
    "chosen": lambda x: x[:, INDEX],
    "swapped": lambda x: x.reshape(-1, 2, 3).transpose(1, 2),
    "sum": lambda x: x.reshape(-1, 2, 3).sum(1),
    "mean": lambda x: x.reshape(-1, 2, 3).mean(2),
    "largest": lambda x: x.reshape(-1, 2, 3).amax(1),
    "largest by max": lambda x: x.reshape(-1, 2, 3).max(1).values,
    "least of the negative": lambda x: (-x).reshape(-1, 2, 3).amin(1),
    "padded": lambda x: F.pad(x, (1, 2), value=-9.0),
    "gelu": F.gelu,
    "silu": F.silu,
    "silu of the negative": lambda x: F.silu(-x),
    "relu": torch.relu,
    "hardtanh": lambda x: F.hardtanh(x, -0.3, 0.4),
    "threshold": lambda x: F.threshold(x, 0.1, -1.0),
    "layer norm": lambda x: F.layer_norm(x, (6,)),
    "pooled": lambda x: F.avg_pool1d(x[:, None], 2),
    "max pooled": lambda x: F.max_pool1d(-x[:, None], 2),
    "time first": lambda x: (-x.reshape(-1, 3, 2).transpose(0, 1)).transpose(0, 1),
}
UNKNOWN = {
    "where": lambda x: torch.where(x > 0, x, -x),
    "filled": lambda x: x.masked_fill(x < 0, 5.0),
    "larger of two": lambda x: torch.maximum(x[:, :3], x[:, 3:]),
    "gated": lambda x: x * torch.sigmoid(x),
    "weighed": lambda x: x * torch.softmax(x, 1),
    "threshold that rises": lambda x: F.threshold(x, 0.1, 1.0),
}


@pytest.fixture
def boxes():
    """The boxes that `Watch` is given."""
    found = []

    def remember(step, signal):
        found.append(signal.x.chunk(2))
        return signal

    register(Watch, bounds=remember)(lambda step, signal: (signal, lambda r, kept: r))
    yield found
    HANDLERS.pop(Watch)


@pytest.mark.sweep(13)
@pytest.mark.parametrize("name", KNOWN | UNKNOWN)
def test_no_value_leaves_the_box(boxes, name):
    model = randomised(Between((KNOWN | UNKNOWN)[name]))
    X = np.random.default_rng(0).uniform(-1, 2, size=(300, 4))
    X[:16] = np.stack(np.meshgrid(*[[-1.0, 2.0]] * 4), -1).reshape(-1, 4)  # the corners
    if name in UNKNOWN:
        with pytest.raises(ValueError, match=r"z-box rule on layer 'head' needs bounds"):
            explain(model, X, rule=EVERYWHERE)
        return
    relevance, details = explain(model, X, rule=EVERYWHERE, return_details=True)
    ((low, high),) = boxes
    with torch.no_grad():
        values = model.function(model.first(torch.from_numpy(X)))
    assert (values >= low - 1e-12).all()
    assert (values <= high + 1e-12).all()
    kept = sum(layer.epsilon + layer.padding + layer.dropped for layer in details.layers)
    kept = kept + sum(layer.bias for layer in details.layers)
    assert_close(relevance.sum(1) + kept, details.score)


def test_parts_of_a_sample_side_by_side_have_boxes_of_their_own(boxes):
    """Rows of (n_samples * n_parts, n_features): the bounds of each part are its own."""

    class Side(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.watch = nn.Linear(4, 6), Watch()
            self.each, self.head = nn.Linear(2, 3), nn.Linear(9, 2)

        def forward(self, x):
            parts = self.watch(self.first(x).reshape(-1, 2))
            return self.head(self.each(parts).reshape(len(x), -1))

    model = randomised(Side().double())
    X = np.random.default_rng(0).uniform(-1, 2, size=(5, 4))
    relevance = explain(model, X, rule=EVERYWHERE)
    ((low, high),) = boxes
    assert low.shape == (3, 2)
    box = [v.detach().numpy() for v in (low, high)]
    hidden = model.first(torch.from_numpy(X)).detach().numpy().reshape(5, 3, 2)
    assert (hidden >= box[0] - 1e-12).all()
    assert (hidden <= box[1] + 1e-12).all()
    alone = [explain(model, X[k : k + 1], rule=EVERYWHERE)[0] for k in range(5)]
    assert_close(relevance, np.stack(alone))


class Hat(nn.Module):
    def forward(self, x):
        return torch.relu(1 - torch.abs(x))


class Sine(nn.Module):
    def forward(self, x):
        return torch.sin(x)


def behind(layer, bounds):
    """Explain a sample of (.6, .9) by a layer, and a difference of two values times 2."""
    head = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[2.0, -2.0]]))
    register(type(layer), bounds=bounds)(lambda step, s: activate(s, step.layer.forward))
    try:
        return explain(nn.Sequential(layer, head), np.array([[0.6, 0.9]]), rule=ZBox(-2.0, 2.0))
    finally:
        HANDLERS.pop(type(layer))


def test_a_layer_that_turns_by_hand():
    """Of x in [-2, 2] the hat is in [0, 1]: numerators 2 * .4 - 0 and -2 * .1 + 2 * 1."""
    found = behind(Hat(), turning(0.0))
    np.testing.assert_allclose(found, [[0.6 * 0.8 / 2.6, 0.6 * 1.8 / 2.6]], rtol=1e-12)


@pytest.mark.parametrize("layer", [Hat(), Sine()], ids=repr)
def test_a_layer_that_says_nothing_has_unknown_bounds(layer):
    with pytest.raises(ValueError, match=r"layer '1' needs bounds.*register that layer"):
        behind(layer, None)


def test_a_falling_layer_is_monotone():
    class Fall(nn.Module):
        def forward(self, x):
            return 1 - x

    # Of x in [-2, 2] it is in [-1, 3]: numerators 2 * (.4 + 1) and -2 * (.1 - 3).
    found = behind(Fall(), monotone)
    np.testing.assert_allclose(found, [[0.6 * 2.8 / 8.6, 0.6 * 5.8 / 8.6]], rtol=1e-12)


def test_rules_of_their_own_bounds_need_no_others():
    """Behind an unknown layer, a box that is given there is taken."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 3), Sine(), nn.Linear(3, 2)).double()
    rows = [("first", Epsilon(), "first"), ("rest", ZBox(-1.0, 1.0), "all")]
    register(Sine)(lambda step, signal: activate(signal, step.layer.forward))
    try:
        _, details = explain(net, np.ones((2, 2)), rule=Composite(rows), return_details=True)
    finally:
        HANDLERS.pop(Sine)
    assert_close(details.layers[2].relevance, details.score)
