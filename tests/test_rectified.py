"""ReLUs that write over what they are given: where they may, and that maps stay the same."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import sklrp
from sklrp import rules
from sklrp.propagation import planning
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


@pytest.mark.parametrize("between", NETWORKS)
@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.filterwarnings("ignore:The flat rule on the dense first layer")
def test_maps_and_what_is_kept_are_the_same_without(between, rule, monkeypatch):
    net = _network(*NETWORKS[between])
    X = np.random.default_rng(0).normal(size=(6, 2, 8, 8))
    X[0], X[1, :, :4] = 0, 1
    net(torch.zeros(1, 2, 8, 8))
    net.double().eval()
    for epsilon in (0.1, 0.0):
        for target in (None, "all"):
            options = {"rule": rule, "epsilon": epsilon, "target": target}
            found = [sklrp.explain(net, part, **options) for part in (X, X[2:3])]
            found.append(_tell(net, X, options))
            with monkeypatch.context() as patch:
                patch.setattr(planning, "mark_rectified", lambda steps: None)
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
def test_where_they_write(between, rule, marked):
    net = _network(*NETWORKS[between])
    net(torch.zeros(1, 2, 8, 8))
    steps = sklrp.plan(net, rule).steps
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


def test_neither_samples_nor_the_network_are_written_to():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    nn.init.eye_(net[1].weight)
    nn.init.zeros_(net[1].bias)
    X = np.random.default_rng(0).normal(size=(5, 4))
    before = X.copy(), [p.clone() for p in net.parameters()]
    for samples in (X, torch.from_numpy(X), X[::-1]):
        sklrp.explain(net, samples)
    assert np.array_equal(X, before[0])
    assert all(map(torch.equal, net.parameters(), before[1]))
