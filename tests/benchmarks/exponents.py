"""How the time of `explain` grows with samples, features and steps: exponents of a power law.

Each is the slope of a line through the logarithms of sizes and times. The other rows are ratios,
which hide it, as the yardstick grows too; the cost of an archive is estimated from these.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from sklrp import explain
from sklrp.modules import make_esn

from .engine import make_cnn, make_lstm
from .measure import Row, median_times


class Growth(NamedTuple):
    """What grows, of which network.

    ``make`` returns the network and the shape of its input for a size.
    """

    what: str
    case: str
    sizes: tuple[int, ...]
    make: Callable[[int], tuple[nn.Module, tuple[int, ...]]]


def _make_mlp(n_features: int) -> nn.Module:
    hidden = nn.Linear(n_features, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU()
    return nn.Sequential(*hidden, nn.Linear(64, 2))


def _make_esn(n_inputs: int, n_steps: int) -> nn.Module:
    return make_esn((n_inputs, n_steps), 2, n_reservoir=200, sweep="right")


GROWTHS = [
    Growth("samples", "MLP 2700-128-64-2", (512, 2048, 8192),
           lambda n: (_make_mlp(2700), (n, 2700))),
    Growth("samples", "CNN 1x28x28", (64, 256, 1024),
           lambda n: (make_cnn(28), (n, 1, 28, 28))),
    Growth("samples", "LSTM, 100 steps of 10", (64, 256, 1024),
           lambda n: (make_lstm(10, 64), (n, 100, 10))),
    Growth("samples", "ESN, 50 steps of 50", (64, 256, 1024),
           lambda n: (_make_esn(50, 50), (n, 2500))),
    Growth("features", "MLP, 512 samples", (1000, 4000, 16000),
           lambda n: (_make_mlp(n), (512, n))),
    Growth("features", "CNN, 64 fields", (28**2, 56**2, 112**2),
           lambda n: (make_cnn(round(n**0.5)), (64, 1, round(n**0.5), round(n**0.5)))),
    Growth("features of a step", "LSTM, 64 samples of 50 steps", (64, 256, 1024),
           lambda n: (make_lstm(n, 64), (64, 50, n))),
    Growth("features of a step", "ESN, 64 samples of 50 steps", (64, 256, 1024),
           lambda n: (_make_esn(n, 50), (64, n * 50))),
    Growth("steps", "LSTM, 64 samples of 10 features", (50, 200, 800),
           lambda n: (make_lstm(10, 64), (64, n, 10))),
    Growth("steps", "ESN, 64 samples of 10 features", (50, 200, 800),
           lambda n: (_make_esn(10, n), (64, 10 * n))),
]  # fmt: skip


def bench_exponents(quick: bool = False) -> list[Row]:
    """Return the exponents at which the time of rule epsilon grows.

    Parameters
    ----------
    quick : bool, default=False
        Whether to take the smallest size of each and a half of it.

    Returns
    -------
    list of dict
        Rows of ``what``, ``case``, ``rule`` and ``ratio``, the exponent.
    """
    return [_measure(growth, quick) for growth in GROWTHS]


def _measure(growth: Growth, quick: bool) -> Row:
    """Return the row of what grows."""
    sizes = (growth.sizes[0] // 4, growth.sizes[0]) if quick else growth.sizes
    rng, functions = np.random.default_rng(0), {}
    for size in sizes:
        torch.manual_seed(0)
        model, shape = growth.make(size)
        X = rng.standard_normal(shape, dtype=np.float32)
        model = model.eval().requires_grad_(False)
        functions[str(size)] = partial(explain, model, X, rule="epsilon")
    times = median_times(functions, 1 if quick else 3)
    exponent, _ = np.polyfit(np.log(sizes), np.log(list(times.values())), 1)
    numbers = f"{', '.join(map(str, sizes[:-1]))} and {sizes[-1]}"
    return {
        "what": f"exponent of time against {growth.what}",
        "case": f"{growth.case}: {numbers}", "rule": "epsilon", "ratio": float(exponent),
    }  # fmt: skip
