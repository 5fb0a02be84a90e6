"""Rules and presets against zennit (Anders et al. 2021), where it is installed.

zennit needs torchvision, gigabytes for what is not used here; it therefore is no dependency of the
tests, and these are skipped without it. Where its conventions differ it is told ours: no epsilon
in the denominators of w-square, flat and z-box, and no bias in that of w-square. Each network is
explained twice by the engine: as an `nn.Sequential`, and with a forward written by hand.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sklrp.composites import check_rule
from sklrp.propagation import explain
from sklrp.rules import AlphaBeta, Epsilon, Flat, Gamma, WSquare, ZBox, Zero, ZPlus
from tests.helpers.comparing import assert_close
from tests.helpers.networks import build, draw
from tests.helpers.parameters import randomised

peer = pytest.importorskip(
    "zennit.rules",
    exc_type=ImportError,
    reason="zennit is not installed (pip install zennit, in an environment of its own)",
)
composites = pytest.importorskip("zennit.composites", exc_type=ImportError)
canonizers = pytest.importorskip("zennit.canonizers", exc_type=ImportError)
types = pytest.importorskip("zennit.types", exc_type=ImportError)

pytestmark = pytest.mark.filterwarnings("ignore:The flat rule on the dense first layer")

EPSILON = 1e-3
EXACT = 1e-9
BOX = {"low": -5.0, "high": 6.0}

RULES = [
    (Zero(), lambda: peer.Epsilon(epsilon=0.0)),
    (Epsilon(), lambda: peer.Epsilon(epsilon=EPSILON)),
    (Gamma(), lambda: peer.Gamma(gamma=0.25, stabilizer=EPSILON)),
    (Gamma(gamma=3.0), lambda: peer.Gamma(gamma=3.0, stabilizer=EPSILON)),
    (AlphaBeta(), lambda: peer.AlphaBeta(alpha=2.0, beta=1.0, stabilizer=EPSILON)),
    (AlphaBeta(1.5, 0.5), lambda: peer.AlphaBeta(alpha=1.5, beta=0.5, stabilizer=EPSILON)),
    (ZPlus(), lambda: peer.ZPlus(stabilizer=EPSILON)),
    (WSquare(), lambda: peer.WSquare(stabilizer=0.0, zero_params="bias")),
    (Flat(), lambda: peer.Flat(stabilizer=0.0)),
    (ZBox(**BOX), lambda: peer.ZBox(**BOX, stabilizer=0.0)),
]

NETWORKS = {
    "mlp": (
        nn.Sequential(
            nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.Tanh(), nn.Dropout(), nn.Linear(7, 3)
        ),
        (6,),
    ),
    "cnn": (
        nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2),
            nn.GELU(),
            nn.AvgPool2d(2, stride=1),
            nn.Flatten(),
            nn.Linear(4, 3),
        ),
        (2, 8, 8),
    ),
    # zennit leaves normalisations behind that divide by sqrt(1 + eps): the identity if eps is 0
    "cnn-bn": (
        nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1, padding_mode="circular", bias=False),
            nn.BatchNorm2d(3, eps=0.0),
            nn.ReLU(),
            nn.Conv2d(3, 4, 3, dilation=2),
            nn.BatchNorm2d(4, eps=0.0),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16, 5),
            nn.BatchNorm1d(5, eps=0.0),
            nn.ReLU(),
            nn.Linear(5, 3),
        ),
        (1, 8, 8),
    ),
    "cnn1d": (
        nn.Sequential(
            nn.Conv1d(1, 3, 4, padding="same"),
            nn.SiLU(),
            nn.AdaptiveMaxPool1d(5),
            nn.Conv1d(3, 2, 2, padding=1, padding_mode="replicate"),
            nn.Flatten(),
            nn.Linear(12, 3),
        ),
        (1, 9),
    ),
    "cnn3d": (
        nn.Sequential(
            nn.Conv3d(1, 2, 2, padding=1),
            nn.ReLU(),
            nn.AvgPool3d(2),
            nn.Flatten(),
            nn.Linear(16, 3),
        ),
        (1, 4, 4, 4),
    ),
}


FUNCTIONS = {
    nn.ReLU: F.relu,
    nn.Tanh: torch.tanh,
    nn.GELU: F.gelu,
    nn.SiLU: F.silu,
    nn.Flatten: lambda x: x.view(len(x), -1),
}


class ByHand(nn.Module):
    """The layers of an `nn.Sequential`, called in a forward as users write it."""

    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        for layer in self.layers:
            x = FUNCTIONS.get(type(layer), layer)(x)
        return x


FORWARDS = {"sequential": lambda model: model, "by-hand": ByHand}
forwards = pytest.mark.parametrize("forward", FORWARDS)


def by_peer(model, X, composite, target):
    """Relevance of one output, by zennit."""
    x = torch.from_numpy(X).requires_grad_()
    with composite.context(model) as modified:
        scores = modified(x)
        start = torch.zeros_like(scores)
        start[:, target] = scores[:, target].detach()
        (relevance,) = torch.autograd.grad(scores, x, start)
    return relevance.numpy()


def everywhere(rule):
    return composites.LayerMapComposite(
        layer_map=[
            (types.Activation, peer.Pass()),
            (types.AvgPool, peer.Norm(stabilizer=EPSILON)),
            (types.BatchNorm, peer.Pass()),
            (types.Linear, rule),
        ],
        canonizers=[canonizers.SequentialMergeBatchNorm()],
    )


def both(network, forward, rule, composite, dtype=torch.float64):
    """Return our relevance of each output of a network, and zennit's."""
    model, shape = NETWORKS[network]
    model = randomised(model).to(dtype)
    X = np.random.default_rng(1).normal(size=(4, *shape))
    X[0] = np.abs(X[0])
    X = X.astype(np.float64 if dtype == torch.float64 else np.float32)
    expected = np.stack([by_peer(model, X, composite, target) for target in range(3)], axis=1)
    given = explain(FORWARDS[forward](model), X, target="all", rule=rule, epsilon=EPSILON)
    return given, expected


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@forwards
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("rule", "make"), RULES, ids=[repr(rule) for rule, _ in RULES])
def test_rule(rule, make, network, forward):
    assert_close(*both(network, forward, rule, everywhere(make())), 1e-12)


def preset_by_peer(name):
    """Return zennit's preset of that name, with our conventions in its first layer."""
    options = {"epsilon": EPSILON, "stabilizer": EPSILON}
    options["canonizers"] = [canonizers.SequentialMergeBatchNorm()]
    if name.endswith("_flat"):
        options["first_map"] = [(types.Linear, peer.Flat(stabilizer=0.0))]
    if name.endswith("_box"):
        options |= BOX
        options["first_map"] = [(types.Linear, peer.ZBox(**BOX, stabilizer=0.0))]
    return getattr(composites, name.title().replace("_", ""))(**options)


PRESETS = [
    "epsilon_plus",
    "epsilon_plus_flat",
    "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat",
    "epsilon_gamma_box",
]


@forwards
@pytest.mark.parametrize("network", ["mlp", "cnn", "cnn-bn"])
@pytest.mark.parametrize("preset", PRESETS)
def test_preset(preset, network, forward):
    rule = check_rule(preset, bounds=tuple(BOX.values()))
    assert_close(*both(network, forward, rule, preset_by_peer(preset)), 1e-12)


# Relevance of a network without biases sums to the explained score. zennit hooks modules, so what
# happens between them is the gradient's there: its smallest and largest sum over the score.
WRONG_IN_SILENCE = {
    "LeNet": (0.0, 0.0),  # a log-softmax at the end
    "ShuffleNet": (4.0, 4.0),  # functional concatenations and additions
    "TCN": (8.0, 8.0),
    "Refiner": (0.5, 53.6),
    "Highway": (-34.6, 8.5),  # products of gates and signals
    "CNNLSTM": (-9.6, 0.8),
    "GRUClassifier": (-1.9, 5.4),
}


@pytest.mark.parametrize("network", WRONG_IN_SILENCE)
def test_networks_that_the_peer_gets_wrong(network):
    model, X = build(network, bias=False), draw(network, 20)
    ours, details = explain(model, X, target=0, rule="zero", epsilon=EXACT, return_details=True)
    theirs = by_peer(model, X, everywhere(peer.Epsilon(epsilon=EXACT)), 0)
    ratios = ours.reshape(20, -1).sum(axis=1) / details.score
    assert_close(ratios, np.ones(20), 1e-6)
    with torch.no_grad():
        start = model(torch.from_numpy(X))[:, 0].numpy()
    ratios = theirs.reshape(20, -1).sum(axis=1) / start
    expected = WRONG_IN_SILENCE[network]
    np.testing.assert_allclose([ratios.min(), ratios.max()], expected, rtol=0.01, atol=0.05)
