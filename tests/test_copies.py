"""Networks whose forward keeps a result, graph and all, are asked on copies like any other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import sklrp
from sklrp._copies import copy_module
from sklrp.diagnostics import audit, skill_map
from sklrp.metrics import pixel_flipping_curve


class Keeping(nn.Module):
    """Image features and a readout, which notes what is between the two."""

    def __init__(self, trains: bool = False) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.readout = nn.Linear(4 * 4 * 4, 2)
        self.train(trains)

    def forward(self, x):
        """Return the scores."""
        self.last = self.features(x)
        self.seen = {"all": [self.last.relu()]}
        return self.readout(self.seen["all"][0].flatten(1))


@pytest.fixture
def case():
    torch.manual_seed(0)
    network = Keeping()
    X = np.random.default_rng(0).normal(size=(40, 1, 8, 8)).astype(np.float32)
    network(torch.from_numpy(X))
    return network, X, np.arange(40) % 2


def test_a_copy_is_the_same_and_apart(case):
    network, X, _ = case
    copied = copy_module(network)
    assert torch.equal(copied.last, network.last)
    assert copied.last.is_leaf
    assert not network.last.is_leaf
    assert copied.readout.weight is not network.readout.weight
    assert torch.equal(copied(torch.from_numpy(X)), network(torch.from_numpy(X)))


ASKED = {
    "skill_map": lambda net, X, y: skill_map(net, X, y, n_permutations=19, random_state=0),
    "flipping": lambda net, X, y: pixel_flipping_curve(net, X, sklrp.explain(net, X)),
    "explain": lambda net, X, y: sklrp.explain(net, X),
    "audit": lambda net, X, y: audit(net, X),
}


@pytest.mark.parametrize("question", ASKED)
@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_every_question_is_answered(case, question, trains):
    network, X, y = case
    network.train(trains)
    network(torch.from_numpy(X))
    ASKED[question](network, X, y)
    assert not network.last.is_leaf  # the user's own is as it was


def test_layers_with_weight_norm_that_keep_results():

    chain = nn.Sequential(weight_norm(nn.Linear(4, 3)), nn.ReLU(), nn.Linear(3, 2))
    chain[0].last = chain[0](torch.ones(1, 4))
    assert sklrp.explain(chain, np.ones((2, 4), np.float32)).shape == (2, 4)
