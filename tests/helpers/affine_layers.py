"""Every affine layer in its settings, and every rule: what the rules are tested on.

Also what ``tests/differences.py`` prints its first table from.
"""

from __future__ import annotations

from torch import nn

from sklrp.composites import Composite
from sklrp.rules import AlphaBeta, Epsilon, Flat, Gamma, WSquare, ZBox, Zero, ZPlus
from tests.helpers.parameters import randomised

RULES = [
    Zero(),
    Epsilon(),
    Epsilon(epsilon=0.3),
    Gamma(),
    Gamma(gamma=2.0, epsilon=0.1),
    AlphaBeta(),
    AlphaBeta(alpha=1.5, beta=0.5, epsilon=0.0),
    AlphaBeta(alpha=1.0, beta=0.0),
    AlphaBeta(renormalize=True),
    ZPlus(),
    WSquare(),
    Flat(),
    ZBox(low=-4.0, high=5.0),
]

LAYERS = {
    "linear": (lambda bias: nn.Linear(5, 4, bias=bias), (5,)),
    "conv1d": (lambda bias: nn.Conv1d(2, 3, 3, bias=bias), (2, 7)),
    "conv1d-stride-padding": (
        lambda bias: nn.Conv1d(2, 3, 3, stride=2, padding=2, bias=bias),
        (2, 8),
    ),
    "conv1d-dilation-groups": (
        lambda bias: nn.Conv1d(4, 4, 2, dilation=2, padding=1, groups=2, bias=bias),
        (4, 6),
    ),
    "conv1d-same-even-dilated": (
        lambda bias: nn.Conv1d(1, 2, 4, dilation=1, padding="same", bias=bias),
        (1, 7),
    ),
    "conv1d-valid": (lambda bias: nn.Conv1d(1, 2, 3, padding="valid", bias=bias), (1, 5)),
    "conv1d-circular": (
        lambda bias: nn.Conv1d(2, 2, 3, padding=2, padding_mode="circular", bias=bias),
        (2, 5),
    ),
    "conv1d-reflect-same": (
        lambda bias: nn.Conv1d(2, 2, 4, padding="same", padding_mode="reflect", bias=bias),
        (2, 6),
    ),
    "conv1d-replicate-stride": (
        lambda bias: nn.Conv1d(2, 2, 3, stride=2, padding=2, padding_mode="replicate", bias=bias),
        (2, 6),
    ),
    "conv1d-only-padding-seen": (lambda bias: nn.Conv1d(1, 2, 2, padding=3, bias=bias), (1, 3)),
    "conv2d": (lambda bias: nn.Conv2d(2, 2, 3, bias=bias), (2, 4, 5)),
    "conv2d-stride-uneven": (
        lambda bias: nn.Conv2d(1, 3, (3, 2), stride=(2, 3), padding=(1, 0), bias=bias),
        (1, 6, 7),
    ),
    "conv2d-dilation-groups": (
        lambda bias: nn.Conv2d(2, 4, 2, dilation=(1, 2), padding=(1, 2), groups=2, bias=bias),
        (2, 4, 4),
    ),
    "conv2d-depthwise-same": (
        lambda bias: nn.Conv2d(3, 3, 3, padding="same", groups=3, bias=bias),
        (3, 4, 3),
    ),
    "conv2d-circular": (
        lambda bias: nn.Conv2d(1, 2, 3, padding=(1, 2), padding_mode="circular", bias=bias),
        (1, 4, 4),
    ),
    "conv2d-reflect": (
        lambda bias: nn.Conv2d(1, 2, 3, padding=(2, 1), padding_mode="reflect", bias=bias),
        (1, 4, 4),
    ),
    "conv2d-replicate-same": (
        lambda bias: nn.Conv2d(1, 2, (3, 5), padding="same", padding_mode="replicate", bias=bias),
        (1, 3, 4),
    ),
    "conv3d": (lambda bias: nn.Conv3d(1, 2, 2, padding=1, bias=bias), (1, 2, 3, 2)),
    "conv3d-stride-groups": (
        lambda bias: nn.Conv3d(2, 2, (1, 2, 3), stride=(1, 2, 1), groups=2, bias=bias),
        (2, 2, 4, 3),
    ),
    "conv3d-circular": (
        lambda bias: nn.Conv3d(1, 1, 3, padding=1, padding_mode="circular", bias=bias),
        (1, 3, 2, 3),
    ),
    "conv3d-replicate": (
        lambda bias: nn.Conv3d(
            1, 1, 2, padding=1, dilation=2, padding_mode="replicate", bias=bias
        ),
        (1, 2, 3, 3),
    ),
}


def build(name, bias=True, seed=0):
    make, shape = LAYERS[name]
    return randomised(make(bias), seed), shape


def on_first(rule, rest=None):
    """`rule` on the first layer and another one above, for the engine and for the reference."""
    rest = Epsilon() if rest is None else rest
    composite = Composite([("tested", rule, "first"), ("rest", rest, "all")])
    return composite, lambda name, module: rule if name == "0" else rest
