"""Rule epsilon against Captum's LRP (Kokhlikyan et al. 2020), where it is installed.

Captum hooks modules, so its networks call all but reshapes through modules, and add by a module of
its own. It has no rule for LSTMs and refuses them.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sklrp import explain
from tests.helpers.comparing import assert_close
from tests.helpers.networks import build, draw
from tests.helpers.parameters import randomised

lrp = pytest.importorskip(
    "captum.attr._core.lrp",
    exc_type=ImportError,
    reason="captum is not installed (pip install captum)",
)
rules = pytest.importorskip("captum.attr._utils.lrp_rules")
modules = pytest.importorskip("captum.attr._utils.custom_modules")

EPSILON = 1e-3
EXACT = 1e-9


class CNN(nn.Module):
    """Strides, groups, padding and both kinds of pooling."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.max = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=1, groups=2)
        self.tanh2 = nn.Tanh()
        self.mean = nn.AvgPool2d(2, stride=1)
        self.out = nn.Linear(6 * 2 * 2, 3)

    def forward(self, x):
        x = self.max(self.relu1(self.conv1(x)))
        x = self.mean(self.tanh2(self.conv2(x)))
        return self.out(x.flatten(1))


class Branches(nn.Module):
    """A residual sum with a convolution on its shortcut, and another without."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
        self.shortcut = nn.Conv2d(2, 4, 1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.add1, self.add2 = modules.Addition_Module(), modules.Addition_Module()
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        x = self.add1(self.relu1(self.conv1(x)), self.shortcut(x))
        x = self.add2(self.relu2(self.conv2(x)), x)
        return self.out(self.mean(x).flatten(1))


NETWORKS = {
    "mlp": (
        lambda: nn.Sequential(
            nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.Tanh(), nn.Dropout(), nn.Linear(7, 3)
        ),
        (6,),
    ),
    "cnn": (CNN, (2, 12, 12)),
    "branches": (Branches, (2, 6, 6)),
}


def by_peer(model, X, target, epsilon=EPSILON):
    """Relevance of one output, by Captum, which changes its modules: a copy of the network."""
    model = copy.deepcopy(model)
    for layer in model.modules():
        if type(layer) in lrp.SUPPORTED_LAYERS_WITH_RULES:
            # A maximum has one term; Captum adds epsilon to it all the same, unless told not to.
            is_max = isinstance(layer, nn.MaxPool2d)
            tiny = torch.finfo(next(model.parameters()).dtype).tiny
            layer.rule = rules.EpsilonRule(tiny if is_max else epsilon)
    x = torch.from_numpy(X).requires_grad_()
    return lrp.LRP(model).attribute(x, target=target).detach().numpy()


def both(network, dtype=torch.float64):
    """Return our relevance of each output of a network, and Captum's."""
    constructor, shape = NETWORKS[network]
    model = randomised(constructor()).to(dtype)
    X = np.random.default_rng(1).normal(size=(4, *shape))
    X = X.astype(np.float64 if dtype == torch.float64 else np.float32)
    expected = np.stack([by_peer(model, X, target) for target in range(3)], axis=1)
    return explain(model, X, target="all", rule="epsilon", epsilon=EPSILON), expected


@pytest.mark.parametrize("network", NETWORKS)
def test_rule_epsilon(network):
    assert_close(*both(network), 1e-12)


# Relevance of a network without biases sums to the explained score. What forward does between its
# modules is the gradient's in Captum: its smallest and largest sum over the score.
WRONG_IN_SILENCE = {
    "LeNet": (0.0, 0.0),  # a log-softmax at the end
    "ResNet": (-98.9, 579.8),  # functional additions
    "Highway": (-12.4, 21.0),  # products of gates and signals
}


@pytest.mark.parametrize("network", WRONG_IN_SILENCE)
def test_networks_that_the_peer_gets_wrong(network):
    model, X = build(network, bias=False), draw(network, 20)
    options = {"target": 0, "rule": "zero", "epsilon": EXACT}
    ours, details = explain(model, X, **options, return_details=True)
    assert_close(ours.reshape(20, -1).sum(axis=1) / details.score, np.ones(20), 1e-6)
    with torch.no_grad():
        start = model(torch.from_numpy(X))[:, 0].numpy()
    ratios = by_peer(model, X, 0, EXACT).reshape(20, -1).sum(axis=1) / start
    expected = WRONG_IN_SILENCE[network]
    np.testing.assert_allclose([ratios.min(), ratios.max()], expected, rtol=0.01, atol=0.05)
