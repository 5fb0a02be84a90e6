"""Rules and presets against zennit (Anders et al. 2021), where it is installed.

zennit needs torchvision, gigabytes for what is not used here; it therefore is no dependency of the
tests, and these are skipped without it. Where its conventions differ it is told ours: no epsilon
in the denominators of w-square, flat and z-box, and no bias in that of w-square.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference import assert_close, randomised
from torch import nn

from sklrp.propagation import explain
from sklrp.rules import AlphaBeta, Epsilon, Flat, Gamma, WSquare, ZBox, Zero, ZPlus

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


def largest_difference(name, rule, composite):
    model, shape = NETWORKS[name]
    model = randomised(model)
    X = np.random.default_rng(1).normal(size=(4, *shape))
    X[0] = np.abs(X[0])
    expected = np.stack([by_peer(model, X, composite, target) for target in range(3)], axis=1)
    given = explain(model, X, target="all", rule=rule, epsilon=EPSILON)
    return assert_close(given, expected, 1e-8)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("rule", "make"), RULES, ids=[repr(rule) for rule, _ in RULES])
def test_rule(rule, make, network):
    largest_difference(network, rule, everywhere(make()))


PRESETS = {
    "epsilon_plus": lambda **options: composites.EpsilonPlus(**options),
    "epsilon_alpha2_beta1": lambda **options: composites.EpsilonAlpha2Beta1(**options),
    "epsilon_plus_flat": lambda **options: composites.EpsilonPlusFlat(
        first_map=[(types.Linear, peer.Flat(stabilizer=0.0))], **options
    ),
    "epsilon_alpha2_beta1_flat": lambda **options: composites.EpsilonAlpha2Beta1Flat(
        first_map=[(types.Linear, peer.Flat(stabilizer=0.0))], **options
    ),
}


@pytest.mark.parametrize("network", ["mlp", "cnn", "cnn-bn"])
@pytest.mark.parametrize("preset", PRESETS)
def test_preset(preset, network):
    composite = PRESETS[preset](
        epsilon=EPSILON, stabilizer=EPSILON, canonizers=[canonizers.SequentialMergeBatchNorm()]
    )
    largest_difference(network, preset, composite)


@pytest.mark.parametrize("network", ["cnn", "cnn-bn"])
def test_preset_with_a_box(network):
    from sklrp.composites import check_rule

    composite = composites.EpsilonGammaBox(
        **BOX,
        epsilon=EPSILON,
        stabilizer=EPSILON,
        first_map=[(types.Convolution, peer.ZBox(**BOX, stabilizer=0.0))],
        canonizers=[canonizers.SequentialMergeBatchNorm()],
    )
    rule = check_rule("epsilon_gamma_box", bounds=(BOX["low"], BOX["high"]))
    largest_difference(network, rule, composite)
