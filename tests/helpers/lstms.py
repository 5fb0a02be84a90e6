"""Small LSTM classifiers, their samples, and the rules they are explained by."""

from __future__ import annotations

import numpy as np
from torch import nn

from sklrp.composites import Composite
from sklrp.modules import StatePooling
from sklrp.rules import AlphaBeta, Epsilon, Flat, Gamma, WSquare, ZBox, Zero, ZPlus
from tests.helpers.parameters import randomised

RULES = [
    Zero(),
    Epsilon(),
    Epsilon(epsilon=0.1),
    Gamma(epsilon=0.01),
    AlphaBeta(),
    ZPlus(),
    WSquare(),
    Flat(),
    ZBox(low=-4.0, high=4.0),
]


def network(num_layers=1, bidirectional=False, pooling="last", bias=True, seed=0, hidden=3):
    """LSTM on 2 features, its pooled states through a hidden layer to 3 scores."""
    units = hidden * (2 if bidirectional else 1)
    return randomised(
        nn.Sequential(
            nn.LSTM(2, hidden, num_layers, bias, batch_first=True, bidirectional=bidirectional),
            StatePooling(pooling),
            nn.Linear(units, 3),
        ),
        seed,
    )


def samples(n_samples=2, n_steps=4, seed=1):
    return np.random.default_rng(seed).normal(size=(n_samples, n_steps, 2))


def by_place(rule):
    """`rule` on the LSTM and epsilon on the head, for the engine and for the reference."""
    composite = Composite([("lstm", rule, "recurrent"), ("head", Epsilon(), "all")])
    return composite, lambda name, layer: rule if isinstance(layer, nn.LSTM) else Epsilon()
