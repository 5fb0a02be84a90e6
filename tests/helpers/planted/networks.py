"""Images of squares and digits: sound networks, and rules and settings that spoil their maps.

Registers cases on data without a field behind them; those of other files reuse the makers.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from skorch import NeuralNetClassifier
from torch import nn

import sklrp
from sklrp import CNNClassifier, ESNClassifier, LSTMClassifier, MLPClassifier
from sklrp.datasets import make_squares
from tests.helpers.planted.registry import Case, fit, fit_module, halves, planted

SIZE = 32
FLAT_FIRST = sklrp.Composite([("first", sklrp.Flat(), "first"), ("rest", sklrp.Epsilon(), "all")])


def squares(seed, size=SIZE, n_per_class=150, **params):
    """Return images of squares, their labels and the square that tells them apart."""
    X, y, mask = make_squares(n_per_class=n_per_class, size=size, random_state=seed, **params)
    return X.astype(np.float32), y, mask


def on_squares(model, seed, size=SIZE, *, rule="epsilon", target=None, **params):
    """Train an estimator on squares."""
    X, y, mask = squares(seed, size, **params)
    return fit(model, X, y, seed, rule=rule, target=target, true_cells=mask)


def mlp(**params):
    return MLPClassifier((16, 16), max_epochs=30, **params)


def cnn(size=SIZE, **params):
    return CNNClassifier((8, 16), input_shape=(1, size, size), max_epochs=6, **params)


def lstm(size=SIZE, **params):
    params = {"sweep": "right", "max_epochs": 20, **params}
    return LSTMClassifier(32, input_shape=(size, size), **params)


def esn(size=SIZE, **params):
    params = {"sweep": "right", "leak_rate": 0.02, **params}
    return ESNClassifier(input_shape=(size, size), **params)


def digits():
    X, y = load_digits(return_X_y=True)
    return (X / 16).astype(np.float32), y


def digits_cnn(**params):
    return CNNClassifier((8, 16), input_shape=(1, 8, 8), max_epochs=15, **params)


# Sound


@planted("MLP epsilon", "fact", kind="sound network", why="the square is learned")
def mlp_epsilon(seed):
    return on_squares(mlp(), seed)


@planted("CNN auto", "fact", kind="sound network", why="the square is learned")
def cnn_auto(seed):
    return on_squares(cnn(), seed, rule="auto")


@planted("CNN epsilon", "fact", kind="sound network", why="the square is learned")
def cnn_epsilon(seed):
    return on_squares(cnn(), seed)


@planted("LSTM mean", "fact", kind="sound network", why="every column's state is read")
def lstm_mean(seed):
    return on_squares(lstm(pooling="mean"), seed)


@planted("LSTM last", "fact", kind="sound network", why="its forget gates keep the early square")
def lstm_last(seed):
    return on_squares(lstm(), seed)


@planted("ESN", "fact", kind="sound network", why="its leak is small enough to see the square")
def esn_right(seed):
    return on_squares(esn(), seed)


@planted(
    "ESN from the other side",
    "fact",
    kind="a signal at an ESN's end",
    why="the square comes late: fading is not its only reason to be seen",
)
def esn_left(seed):
    return on_squares(esn(sweep="left", leak_rate=0.04), seed)


@planted(
    "ESN, square in the last columns",
    "fact",
    kind="a signal at an ESN's end",
    why="the signal is where the architecture reads best, and it is the signal",
)
def esn_end(seed):
    X, y, mask = squares(seed)
    X, mask = np.roll(X[..., ::-1], 6, axis=2), np.roll(mask[:, ::-1], 6, axis=1)
    return fit(esn(leak_rate=0.05), X.copy(), y, seed, true_cells=mask)


@planted("digits MLP", "fact", kind="sound network", why="ten classes, nearly all right")
def digits_mlp(seed):
    return fit(mlp(), *digits(), seed)


@planted("digits CNN", "fact", kind="sound network", why="ten classes, nearly all right")
def digits_by_cnn(seed):
    return fit(digits_cnn(), *digits(), seed, rule="auto")


@planted("digits LSTM", "fact", kind="sound network", why="ten classes, nearly all right")
def digits_lstm(seed):
    return fit(LSTMClassifier(32, input_shape=(8, 8), max_epochs=20), *digits(), seed)


@planted(
    "MLP, target of one class",
    "fact",
    kind="signs of a given target",
    why="half of the maps explain a negative logit",
)
def mlp_target(seed):
    return on_squares(mlp(), seed, target=1)


@planted(
    "CNN, target of one class",
    "fact",
    kind="signs of a given target",
    why="half of the maps explain a negative logit",
)
def cnn_target(seed):
    return on_squares(cnn(), seed, target=0)


@planted(
    "LSTM, target of one class",
    "fact",
    kind="signs of a given target",
    why="half of the maps explain a negative logit",
)
def lstm_target(seed):
    return on_squares(lstm(), seed, target=1)


@planted(
    "digits MLP, target of one class",
    "fact",
    kind="signs of a given target",
    why="nine of ten maps explain a negative logit",
)
def digits_target(seed):
    return fit(mlp(), *digits(), seed, target=3)


@planted(
    "CNN, 15 % of one class",
    "fact",
    kind="unequal classes",
    why="a fair share of the rare class is recognised",
)
def unequal(seed):
    X, y, mask = squares(seed, n_per_class=350)
    rare = np.flatnonzero(y == 1)
    keep = np.setdiff1d(np.arange(len(y)), rare[62:])
    model = cnn().set_params(max_epochs=12)
    return fit(model, X[keep], y[keep], seed, rule="auto", true_cells=mask)


@planted("skorch classifier", "fact", kind="models of others", why="the square is learned")
def skorch_mlp(seed):
    X, y, mask = squares(seed, 20)
    X_train, X_test, y_train, y_test = halves(X, y, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = NeuralNetClassifier(
            nn.Sequential(nn.Flatten(), nn.Linear(400, 16), nn.ReLU(), nn.Linear(16, 2)),
            criterion=nn.CrossEntropyLoss,
            optimizer=torch.optim.Adam,
            lr=0.003,
            max_epochs=20,
            batch_size=50,
            verbose=0,
        ).fit(X_train, y_train)
    return Case(net, X_test, y_test, X_train, y_train, true_cells=mask)


@planted("bare module", "fact", kind="models of others", why="the square is learned")
def bare(seed):
    X, y, mask = squares(seed, 20)

    def build():
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(800, 2),
        )

    return fit_module(build, X[:, None], y, seed, true_cells=mask[None], training={"epochs": 8})


@planted(
    "one pixel leaks the class",
    "fact",
    kind="a leaked pixel",
    why="the network knows the class by one pixel alone, and the map says so",
)
def leak(seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(400, 20, 20)).astype(np.float32)
    y = rng.permutation(np.repeat([0, 1], 200))
    X[:, 7, 12] = 4.0 * y - 2.0
    mask = np.zeros((20, 20), dtype=bool)
    mask[7, 12] = True
    return fit(mlp(weight_decay=0.02), X, y, seed, true_cells=mask)


@planted(
    "MLP, ten held-out samples",
    "fact",
    kind="few samples",
    why="the classes are so far apart that ten samples show it",
    also=("undecided",),
)
def few(seed):
    return too_few(seed, 10)


@planted(
    "MLP, six held-out samples",
    "undecided",
    kind="few samples",
    why="the map is sound, but six samples have no more than twenty orders",
    also=("fact", "refused"),
)
def fewer(seed):
    return too_few(seed, 6)


def too_few(seed, n_test):
    """Train on squares, and hold out a few."""
    X, y, mask = squares(seed, n_per_class=100)
    return fit(mlp(), X, y, seed, n_test=n_test, true_cells=mask)


# Artifacts of a rule


@planted(
    "ESN, z-plus forgets the readout",
    "artifact",
    kind="rule",
    why="positive parts of random weights give every network this map",
)
def esn_z_plus(seed):
    return on_squares(esn(), seed, rule="z_plus")


@planted(
    "flat first layer of an MLP",
    "artifact",
    kind="rule",
    why="every cell gets the same share",
)
def flat(seed):
    return on_squares(mlp(), seed, rule=FLAT_FIRST)


@planted("w_square on an MLP", "artifact", kind="rule", why="every sample gets the same map")
def w_square(seed):
    return on_squares(mlp(), seed, rule="w_square")


@planted(
    "z-plus on an MLP",
    "fact",
    kind="rule",
    why="the square has three times its share, and networks that know nothing do not show it",
)
def mlp_z_plus(seed):
    return on_squares(mlp(), seed, rule="z_plus")


@planted(
    "epsilon far above the activations",
    "artifact",
    kind="an epsilon that keeps all",
    why="the map sums to nothing of the score",
)
def huge_epsilon(seed):
    return on_squares(mlp(), seed, rule=sklrp.Epsilon(1e10))


@planted(
    "CNN, epsilon far above the activations",
    "artifact",
    kind="an epsilon that keeps all",
    why="the map sums to nothing of the score",
)
def huge_epsilon_cnn(seed):
    return on_squares(cnn(), seed, rule=sklrp.Epsilon(1e10))


@planted(
    "LSTM, epsilon far above the activations",
    "artifact",
    kind="an epsilon that keeps all",
    why="the map sums to nothing of the score",
)
def huge_epsilon_lstm(seed):
    return on_squares(lstm(), seed, rule=sklrp.Epsilon(1e10))


@planted("w_square on an ESN", "artifact", kind="rule", why="every sample gets the same map")
def w_square_esn(seed):
    return on_squares(esn(leak_rate=0.05), seed, rule="w_square")


# Artifacts of an architecture or of coding


@planted(
    "ESN, leak swept from the wrong side",
    "artifact",
    kind="fading memory",
    why="what comes early is forgotten",
)
def esn_forgets(seed):
    return on_squares(esn(40, leak_rate=0.8), seed, 40)


@planted(
    "LSTM forgets the early square",
    "artifact",
    kind="fading memory",
    why="forget gates that start shut never learn",
)
def lstm_forgets(seed):
    return on_squares(lstm(64, forget_bias=-1.0), seed, 64)


@planted(
    "samples of another sweep",
    "artifact",
    kind="flipped sweep",
    why="samples are mirrored after training: the network looks where nothing is",
)
def flipped(seed):
    case = on_squares(lstm(), seed)
    return Case(
        case.model,
        case.X[..., ::-1].copy(),
        case.y,
        case.X_train,
        case.y_train,
        true_cells=case.true_cells[:, ::-1],
    )


@planted(
    "outliers not capped",
    "artifact",
    kind="outliers",
    why="a twentieth of the cells is a hundred times as large, and noise",
)
def outliers(seed):
    rng = np.random.default_rng(seed)
    X, y, mask = squares(seed)
    cells = (rng.random(mask.shape) < 0.05) & ~mask
    X[:, cells] = rng.normal(scale=10.0, size=X[:, cells].shape)
    return fit(mlp(), X, y, seed, true_cells=mask)


@planted(
    "large values that tell the class",
    "fact",
    kind="large signals",
    why="a few cells are ten times as large, and they are the signal",
)
def large_signal(seed):
    X, y, mask = squares(seed, amplitude=0.1, noise=0.3)
    rng = np.random.default_rng(seed)
    sign = np.where(y == 1, 1, -1)[:, None]
    X[:, mask] = sign * rng.uniform(1, 5, (len(y), mask.sum()))
    return fit(mlp(), X, y, seed, true_cells=mask)


@planted(
    "rare large values that tell the class",
    "fact",
    kind="large signals",
    why="each cell of the patch is silent in seven of ten samples, and loud in the others",
)
def rare_signal(seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(600, 20, 20)).astype(np.float32)
    y = rng.permutation(np.repeat([0, 1], 300))
    mask = np.zeros((20, 20), dtype=bool)
    mask[4:8, 12:16] = True
    sign = np.where(y == 1, 1, -1)[:, None]
    seen = rng.random((600, 16)) < 0.3
    X[:, mask] = sign * seen * 3 * rng.exponential(1.5, (600, 16))
    return fit(mlp(), X, y, seed, true_cells=mask)


@planted(
    "MLP, input not centred",
    "artifact",
    kind="a mean everywhere",
    why="cells count by an offset that all samples share",
)
def not_centred(seed):
    X, y, mask = squares(seed)
    model = MLPClassifier((64,), max_epochs=60, lr=0.0005)
    return fit(model, X + 1, y, seed, true_cells=mask)
