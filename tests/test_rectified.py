"""ReLUs that write over what they are given: where they may, and that maps stay the same."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sklrp
from sklrp import rules
from sklrp.propagation import compilation
from tests.helpers.comparing import assert_close


def _network(*between: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(
            nn.Conv2d(2, 5, 3, padding=1),
            nn.ReLU(),
            *copy.deepcopy(between),
            nn.Conv2d(5, 4, 3),
            nn.ReLU(),
        ),
        *(nn.Flatten(), nn.LazyLinear(6), nn.ReLU(), nn.Linear(6, 3)),
    )


class ByHand(nn.Module):
    """The layers of a sequence in a forward of its own."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        for layer in self.layers:
            match layer:
                case nn.ReLU():
                    x = F.relu(x, layer.inplace)
                case nn.Flatten():
                    x = x.view(len(x), -1)
                case _:
                    x = layer(x)
        return x


WAYS = {"sequence": lambda net: net, "by hand": ByHand}

NETWORKS = {
    "nothing": (),
    "largest": (nn.MaxPool2d(2),),
    "overlapping": (nn.MaxPool2d(3, 2, padding=1),),
    "means": (nn.AvgPool2d(2), nn.Dropout()),
    "normalisation": (nn.BatchNorm2d(5),),
    "sigmoid": (nn.Sigmoid(),),
}
RULES = [
    *("epsilon", "epsilon_plus", "epsilon_alpha2_beta1_flat", "gamma", "alpha_beta", "z_plus"),
    *(
        "zero",
        "w_square",
        "flat",
        rules.ZBox(-3.0, 3.0),
        rules.AlphaBeta(3.0, 2.0, renormalize=True),
    ),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("between", NETWORKS)
@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.filterwarnings("ignore:The flat rule on the dense first layer")
def test_maps_and_what_is_kept_are_the_same_without(between, rule, way, monkeypatch):
    net = _network(*NETWORKS[between])
    X = np.random.default_rng(0).normal(size=(6, 2, 8, 8))
    X[0], X[1, :, :4] = 0, 1
    net(torch.zeros(1, 2, 8, 8))
    net = WAYS[way](net).double().eval()
    for epsilon in (0.1, 0.0):
        for target in (None, "all"):
            options = {"rule": rule, "epsilon": epsilon, "target": target}
            found = [sklrp.explain(net, part, **options) for part in (X, X[2:3])]
            found.append(_tell(net, X, options))
            with monkeypatch.context() as patch:
                patch.setattr(compilation, "mark_rectified", lambda links, output: None)
                plain = [sklrp.explain(net, part, **options) for part in (X, X[2:3])]
                plain.append(_tell(net, X, options))
            for one, other in zip(found, plain, strict=True):
                assert_close(one, other)


def _tell(net, X, options):
    """Return all details of all layers in one array."""
    _, details = sklrp.explain(net, X, **options, return_details=True)
    amounts = [layer[name] for layer in details.layers for name in sorted(layer) if name in KEPT]
    return np.stack(amounts)


KEPT = ("relevance", "bias", "epsilon", "padding", "dropped")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("between", "rule", "marked"),
    [
        ("largest", "epsilon", [True, True, True]),
        ("largest", "alpha_beta", [True, True, True]),
        ("normalisation", "gamma", [True, True, True]),
        # Relevance comes to zeros: a sigmoid makes one half of them, and these rules ask for no
        # activations, or for their distance from bounds.
        ("sigmoid", "epsilon", [False, True, True]),
        ("largest", "w_square", [False, False, False]),
        ("largest", rules.ZBox(-3.0, 3.0), [False, False, False]),
    ],
)
def test_where_they_write(between, rule, marked, way):
    net = _network(*NETWORKS[between])
    net(torch.zeros(1, 2, 8, 8))
    X = np.random.default_rng(0).normal(size=(3, 2, 8, 8)).astype(np.float32)
    steps = sklrp.plan(WAYS[way](net).eval(), rule, X).steps
    assert [step.in_place for step in steps if step.label == "ReLU"] == marked
    weighted = [step.rectified for step in steps if step.kind is not None]
    assert weighted == [*marked, False]


def test_no_score_is_written_over():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.ReLU())
    assert [step.in_place for step in sklrp.plan(net, "epsilon").steps] == [
        False,
        True,
        False,
        False,
    ]


class Branches(nn.Module):
    """Dense layers whose values go several ways."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.norm, self.act, self.drop = nn.BatchNorm1d(4), nn.ReLU(inplace=True), nn.Dropout()

    def forward(self, x):
        return self.way(self, x)


def _use_before(net: Branches, x: Tensor) -> Tensor:
    h = net.a(x)
    return net.c(torch.relu(h)) + net.b(h)[:, :3]


def _compare_before(net: Branches, x: Tensor) -> Tensor:
    h = net.a(x)
    y = torch.relu(h)
    return net.c(y * (h > -0.5))


def _add_behind(net: Branches, x: Tensor) -> Tensor:
    h = torch.relu(net.a(x))
    return net.c(torch.relu(net.b(h)) + h)


def _in_two_layers(net: Branches, x: Tensor) -> Tensor:
    h = torch.relu(net.a(x))
    return net.c(h) + net.b(h)[:, :3]


def _return_it(net: Branches, x: Tensor) -> Tensor:
    return torch.relu(net.a(x))


def _return_it_before(net: Branches, x: Tensor) -> Tensor:
    h = net.a(x)
    net.b(torch.relu(h))
    return h


def _return_before_norm(net: Branches, x: Tensor) -> Tensor:
    h = net.a(x)
    net.norm(h)
    return h


def _return_norm(net: Branches, x: Tensor) -> Tensor:
    h = net.norm(net.a(x))
    torch.relu(h)
    return h


def _return_both(net: Branches, x: Tensor) -> dict[str, Tensor]:
    h = net.a(x)
    return {"logits": h, "positive": torch.relu(h)}


def _write_over(net: Branches, x: Tensor) -> Tensor:
    h = net.a(x)
    net.act(h)
    return net.c(h)


def _drop(net: Branches, x: Tensor) -> Tensor:
    h = net.drop(net.act(net.norm(net.a(x))))
    return net.c(net.drop(h))


def _drop_beside(net: Branches, x: Tensor) -> Tensor:
    h = torch.relu(net.a(x))
    return net.c(net.drop(h) + h)


def _relu_6(net: Branches, x: Tensor) -> Tensor:
    return net.c(F.relu6(net.a(x)))


@pytest.mark.parametrize(
    ("way", "marked"),
    [
        (_use_before, [False]),
        (_compare_before, [False]),
        (_add_behind, [False, False]),
        (_in_two_layers, [True]),
        (_return_it, [False]),
        (_return_it_before, [False]),
        (_return_before_norm, []),
        (_return_norm, [False]),
        (_write_over, [True]),
        (_drop, [True]),
        (_drop_beside, [False]),
        (_relu_6, []),
    ],
)
@pytest.mark.filterwarnings("ignore:The flat rule on the dense first layer")
def test_where_they_write_in_branches(way, marked, monkeypatch):
    torch.manual_seed(0)
    net = Branches(way).double().eval()
    nn.init.uniform_(net.norm.running_mean)
    X = np.random.default_rng(0).normal(size=(40, 4))
    steps = sklrp.plan(net, "gamma", X).steps
    assert [step.in_place for step in steps if step.label == "ReLU"] == marked
    found = [sklrp.explain(net, X, rule=rule, batch_size=7) for rule in RULES[:6]]
    monkeypatch.setattr(compilation, "mark_rectified", lambda links, output: None)
    plain = [sklrp.explain(net, X, rule=rule, batch_size=7) for rule in RULES[:6]]
    for one, other in zip(found, plain, strict=True):
        assert_close(one, other)


def test_no_output_of_several_is_written_over():
    net = Branches(_return_both).double().eval()
    X = np.random.default_rng(0).normal(size=(40, 4))
    plain = Branches(lambda net, x: net.a(x))
    plain.load_state_dict(net.state_dict())
    found = sklrp.explain(net, X, target="logits")
    assert_close(found, sklrp.explain(plain.double().eval(), X))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("first", [[], [nn.Flatten()], [nn.Dropout(), nn.Flatten()]])
def test_neither_samples_nor_the_network_are_written_to(first, inplace):
    net = nn.Sequential(
        *first, nn.ReLU(inplace), nn.Linear(4, 4), nn.ReLU(inplace), nn.Linear(4, 2)
    )
    net.double().eval()
    X = np.random.default_rng(0).normal(size=(5, 4))
    before = X.copy(), [p.clone() for p in net.parameters()]
    for samples in (X, torch.from_numpy(X), X[::-1]):
        sklrp.explain(net, samples)
    assert np.array_equal(X, before[0])
    assert all(map(torch.equal, net.parameters(), before[1]))


@pytest.mark.parametrize("epsilon", [1e-6, 1e-9, 1e-12, 0.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zeros_have_no_share_beside_a_small_maximum(dtype, epsilon):
    """A maximum that rounding cannot tell from zero shares with zeros, where these count."""
    conv = nn.Conv2d(1, 1, 1, bias=False)
    net = nn.Sequential(
        conv, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 1, bias=False)
    )
    for layer in (conv, net[4]):
        nn.init.ones_(layer.weight)
    net.to(torch.from_numpy(np.zeros(1, dtype)).dtype)
    X = np.array([[[[1, 0.5, 2.4e-7, -0.5], [0.2, 0.1, -0.4, -0.3]]]], dtype)
    X[..., 2] *= 1 if dtype == np.float32 else 1e-9
    relevance = sklrp.explain(net, X, rule="epsilon", epsilon=epsilon)
    np.testing.assert_allclose(relevance.sum(), net(torch.from_numpy(X)).item(), rtol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_relevance_is_kept_in_single_precision(scale):
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1024, 5)),
    )
    X = np.random.default_rng(0).normal(size=(32, 3, 32, 32), scale=scale).astype(np.float32)
    relevance, details = sklrp.explain(net, X, rule="epsilon", return_details=True, check=True)
    kept = sum(layer[name] for layer in details.layers for name in KEPT[1:])
    gap = relevance.reshape(32, -1).sum(1) + kept - details.score
    assert np.abs(gap).max() < 1e-4 * np.abs(details.score).max()
