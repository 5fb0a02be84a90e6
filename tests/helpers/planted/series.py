"""Series read step by step: networks whose informative steps are known, and steps that do nothing.

Registers cases of LSTMs and ESNs on sequences of a few features.
"""

from __future__ import annotations

import numpy as np

from sklrp import ESNClassifier, LSTMClassifier
from tests.helpers.planted.registry import fit, planted

STEPS, FEATURES = 60, 3


def series(seed, first, strength=1.0, n_samples=400, n_steps=STEPS, length=10):
    """Make noise of which one feature tells the classes apart in some steps."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n_samples, n_steps, FEATURES)).astype(np.float32)
    y = rng.permutation(np.repeat([0, 1], n_samples // 2))
    mask = np.zeros((n_steps, FEATURES), dtype=bool)
    mask[first : first + length, 1] = True
    X[:, mask] += strength * np.where(y == 1, 1, -1)[:, None]
    return X, y, mask


def lstm(**params):
    params = {"max_epochs": 15, **params}
    return LSTMClassifier(16, input_shape=(STEPS, FEATURES), **params)


@planted("series, LSTM", "fact", kind="sound network", why="ten late steps tell the class")
def series_lstm(seed):
    X, y, mask = series(seed, 45)
    return fit(lstm(), X, y, seed, true_cells=mask)


@planted("series, LSTM mean", "fact", kind="sound network", why="the first steps tell the class")
def series_lstm_mean(seed):
    X, y, mask = series(seed, 0)
    return fit(lstm(pooling="mean"), X, y, seed, true_cells=mask)


@planted(
    "short series, LSTM mean",
    "fact",
    kind="sound network",
    why="four of 20 steps tell the class, in the middle",
)
def short_series(seed):
    X, y, mask = series(seed, 8, n_steps=20, length=4)
    model = LSTMClassifier(16, input_shape=(20, FEATURES), pooling="mean", max_epochs=15)
    return fit(model, X, y, seed, true_cells=mask)


@planted(
    "series, ESN",
    "fact",
    kind="a signal at an ESN's end",
    why="the last steps tell the class",
)
def series_esn(seed):
    X, y, mask = series(seed, 48)
    model = ESNClassifier(200, leak_rate=0.3, input_shape=(STEPS, FEATURES), ridge=1e-2)
    return fit(model, X, y, seed, true_cells=mask)


@planted(
    "LSTM mean, 20 steps that do nothing",
    "artifact",
    kind="steps that do nothing",
    why="most of the map lies on the first 20 steps, as a mean of states reads them most often",
)
def dead_steps(seed):
    X, y, mask = series(seed, 45)
    # Gates that all start open keep what the first steps brought; the default's do not.
    model = lstm(pooling="mean", forget_bias=np.log(STEPS), lr=0.003, batch_size=32)
    return fit(model, X, y, seed, true_cells=mask)


@planted("series, LSTM on noise", "artifact", kind="no skill", why="no step tells the class")
def series_noise(seed):
    X, y, mask = series(seed, 20, 0.0)
    return fit(lstm(), X, y, seed, true_cells=np.zeros_like(mask))
