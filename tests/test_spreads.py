"""Normalisations written by hand, and deviations and norms as features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sklrp
from sklrp import Composite, Epsilon
from tests.helpers.comparing import assert_close
from tests.helpers.parameters import randomised

CAUSES = ("bias", "epsilon", "padding", "initial_state", "dropped")


class Block(nn.Module):
    """A dense layer, a function of a sequence, and two more layers."""

    def __init__(self, run):
        super().__init__()
        self.run = run
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 4)
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(torch.tanh(self.second(self.run(self, self.first(x)))).mean(1))


def explain_by(run, X, product="all"):
    model = randomised(Block(run))
    rule = Composite([("all", Epsilon(), "all")], product=product)
    relevance, details = sklrp.explain(
        model, X, target="all", rule=rule, epsilon=0.0, return_details=True
    )
    kept = sum(layer[cause] for layer in details.layers for cause in CAUSES)
    size = max(1.0, *(float(np.abs(layer.relevance).max()) for layer in details.layers))
    assert np.abs(relevance.sum((2, 3)) + kept - details.score).max() <= 1e-9 * size
    assert_close(details.score, model(torch.from_numpy(X)).detach())
    return relevance


X = np.random.default_rng(0).normal(size=(3, 5, 3))


def layer_norm(scale):
    """Return layer normalisation as scale(centred, x) writes it, with the layer's own weights."""
    return lambda self, x: (
        scale(x - x.mean(-1, keepdim=True), x) * self.norm.weight + self.norm.bias
    )


LAYER_NORMS = {
    "var": lambda d, x: d / torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + 1e-5),
    "var, correction": lambda d, x: d / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt(),
    "rsqrt": lambda d, x: d * torch.rsqrt(torch.var(x, -1, False, True) + 1e-5),
    "by hand": lambda d, x: d / torch.sqrt((d * d).mean(-1, keepdim=True) + 1e-5),
    "square": lambda d, x: d * (d.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt(),
    "power": lambda d, x: d * ((d**2).mean(-1, keepdim=True) + 1e-5) ** -0.5,
    "pow": lambda d, x: torch.pow(d.square().mean(-1, keepdim=True) + 1e-5, -0.5) * d,
    "inverse": lambda d, x: d * (1 / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()),
    "reciprocal": lambda d, x: (
        (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt().reciprocal() * d
    ),
    "var_mean": lambda d, x: (
        (x - torch.var_mean(x, -1, correction=0, keepdim=True)[1])
        / torch.sqrt(torch.var_mean(x, -1, False, True)[0] + 1e-5)
    ),
    "mean of squares": lambda d, x: (
        d / (x.square().mean(-1, keepdim=True) - x.mean(-1, keepdim=True) ** 2 + 1e-5).sqrt()
    ),
}  # fmt: skip


@pytest.mark.sweep(6)
@pytest.mark.parametrize("product", ["all", "half", "prop"])
@pytest.mark.parametrize("name", LAYER_NORMS)
def test_layer_normalisation_by_hand_is_the_layer(name, product):
    found = explain_by(layer_norm(LAYER_NORMS[name]), X, product)
    assert_close(found, explain_by(lambda self, x: self.norm(x), X))


OTHERS = {
    # Root mean square, as language models write it.
    "rms": (
        lambda self, x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
        lambda x: (x.square().mean(-1, keepdim=True) + 1e-6).sqrt(),
    ),
    "norm": (
        lambda self, x: x / x.norm(dim=-1, keepdim=True),
        lambda x: x.square().sum(-1, keepdim=True).sqrt(),
    ),
    "vector norm": (
        lambda self, x: x / torch.linalg.norm(x, dim=-1, keepdim=True).clamp(min=1e-6),
        lambda x: x.square().sum(-1, keepdim=True).sqrt(),
    ),
    "first norm": (
        lambda self, x: x / torch.linalg.vector_norm(x, 1, -1, True),
        lambda x: x.abs().sum(-1, keepdim=True),
    ),
    "normalize": (
        lambda self, x: F.normalize(x, dim=-1),
        lambda x: x.square().sum(-1, keepdim=True).sqrt(),
    ),
    "std": (lambda self, x: x / (x.std(1, keepdim=True) + 1e-3),
            lambda x: x.std(1, keepdim=True) + 1e-3),
    "sum": (lambda self, x: x / (1 + x.abs().sum(-1, keepdim=True)),
            lambda x: 1 + x.abs().sum(-1, keepdim=True)),
    "range": (
        lambda self, x: x / (x.amax(-1, keepdim=True) - x.amin(-1, keepdim=True)),
        lambda x: x.amax(-1, keepdim=True) - x.amin(-1, keepdim=True),
    ),
    # Global response normalisation of ConvNeXt V2, before its residual sum.
    "response": (
        lambda self, x: x * (x.norm(dim=1, keepdim=True)
                             / (x.norm(dim=1, keepdim=True).mean(-1, keepdim=True) + 1e-6)),
        lambda x: (x.norm(dim=1, keepdim=True).mean(-1, keepdim=True) + 1e-6)
        / x.norm(dim=1, keepdim=True),
    ),
}  # fmt: skip


@pytest.mark.sweep(5)
@pytest.mark.parametrize("product", ["all", "half", "abs"])
@pytest.mark.parametrize("name", OTHERS)
def test_statistics_are_constants_of_the_sample(name, product):
    """Relevance is gradient times input with the divisor held fixed."""
    run, divisor = OTHERS[name]
    found = explain_by(run, X, product)
    model = randomised(Block(run))
    x = torch.from_numpy(X).requires_grad_()
    h = model.first(x)
    h = h / divisor(h).detach()
    z = model.second(h)
    z = z * (torch.tanh(z) / z).detach()
    out = model.head(z.mean(1))
    expected = [torch.autograd.grad(column.sum(), x, retain_graph=True)[0] for column in out.T]
    assert_close(found, (torch.stack(expected, 1) * x.detach()[:, None]).detach())


FEATURES = {
    "std": (lambda h: h.std(1), 1),
    "std of all": (lambda h: torch.std(h, (1, 2), keepdim=True).expand(-1, 1, 4)[:, 0], 1),
    "var": (lambda h: torch.var(h, dim=1, correction=0), 2),
    "var_mean": (lambda h: torch.var_mean(h, 1)[0], 2),
    "std_mean": (lambda h: torch.std_mean(h, dim=1, keepdim=True)[0][:, 0], 1),
    "norm": (lambda h: h.norm(dim=1), 1),
    "norm of another power": (lambda h: torch.linalg.vector_norm(h, 3, 1), 1),
    "largest": (lambda h: torch.linalg.vector_norm(h, float("inf"), dim=1), 1),
    "distance": (lambda h: F.pairwise_distance(h.mT, 2 * h.mT.roll(1, -1), eps=0.0), 1),
}


# The difference of a distance is a step of its own, which takes epsilon once more.
EPSILONS = [(name, e) for name in FEATURES for e in (0.0, 1e-2) if name != "distance" or not e]


@pytest.mark.parametrize(("name", "epsilon"), EPSILONS)
def test_spreads_as_features_share_by_contribution(name, epsilon):
    """All of it goes on: they are homogeneous, and x df/dx is f times its degree."""
    function, degree = FEATURES[name]

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(8, 2, bias=False)

        def forward(self, x):
            return self.head(torch.cat([x.mean(1), function(x)], 1))

    model, inputs = randomised(Pooled()), np.random.default_rng(1).normal(size=(3, 5, 4))
    relevance = sklrp.explain(model, inputs, target=0, rule="epsilon", epsilon=epsilon)
    x = torch.from_numpy(inputs).requires_grad_()
    pooled = torch.cat([x.mean(1), function(x)], 1)
    weight = model.head.weight[0].detach()
    score = (pooled @ weight)[:, None].detach()

    def stable(z):
        return z + torch.where(z < 0, -epsilon, epsilon).double()

    of_pooled = (pooled * weight * score / stable(score)).detach()
    ratio = of_pooled / stable(pooled.detach())
    scale = torch.ones(8, dtype=torch.double)
    scale[4:] /= degree
    (gradient,) = torch.autograd.grad(pooled, x, ratio * scale)
    assert_close(relevance, (gradient * x).detach())
    if not epsilon:
        assert_close(relevance.sum((1, 2)), score[:, 0])


def test_what_spreads_nothing_gets_nothing():
    class Pooled(nn.Module):
        def forward(self, x):
            return self.head(torch.cat([x.std(1), x.norm(dim=1)], 1))

    model = Pooled()
    model.head = nn.Linear(8, 2)
    relevance = sklrp.explain(model.double(), np.zeros((2, 5, 4)), rule="epsilon")
    np.testing.assert_array_equal(relevance, 0.0)


def test_cosines_and_distances():
    """Similarity to prototypes: denominators are constants; distances share by contribution."""

    class Similar(nn.Module):
        def __init__(self, run):
            super().__init__()
            self.first, self.run = nn.Linear(3, 4, bias=False), run
            self.prototypes = nn.Parameter(torch.zeros(2, 4))

        def forward(self, x):
            return self.run(self.first(x), self.prototypes)

    inputs = X[:, 0]
    by_function = randomised(
        Similar(lambda h, p: F.cosine_similarity(h.unsqueeze(1), p.unsqueeze(0), dim=-1))
    )
    relevance, details = sklrp.explain(
        by_function, inputs, target="all", rule="epsilon", epsilon=0.0, return_details=True
    )
    assert_close(details.score, by_function(torch.from_numpy(inputs)).detach())
    assert_close(relevance.sum(2), details.score)
    h = by_function.first(torch.from_numpy(inputs)).detach()
    weights = F.normalize(by_function.prototypes.detach(), dim=1) / h.norm(dim=1)[:, None, None]
    expected = torch.from_numpy(inputs)[:, None] * (weights @ by_function.first.weight.detach())
    assert_close(relevance, expected.detach())

    distant = randomised(Similar(torch.cdist))
    relevance, details = sklrp.explain(
        distant, inputs, target="all", rule="epsilon", epsilon=0.0, return_details=True
    )
    assert_close(details.score, distant(torch.from_numpy(inputs)).detach())
    kept = sum(layer.bias for layer in details.layers)
    assert_close(relevance.sum(2) + kept, details.score)


REFUSED = {
    "std over samples": (lambda self, x: x / x.std(0), "std.*samples"),
    "std of everything": (lambda self, x: x / x.std(), "std.*samples"),
    "norm of everything": (lambda self, x: x / x.norm(), "norm.*samples"),
    "count": (lambda self, x: x / torch.linalg.vector_norm(x, 0, -1, True), "p=0"),
    "rounding in place": (
        lambda self, x: x.clone().div_(x.norm(dim=-1, keepdim=True), rounding_mode="floor"),
        "rounds",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name):
    run, message = REFUSED[name]
    with pytest.raises(TypeError, match=f"(?s){message}"):
        sklrp.explain(randomised(Block(run)), X, rule="epsilon")
