"""Cases whose truth is known: artifacts that were planted, and sound maps.

Each entry of ``CASES`` trains a classifier from a seed. ``tests/planted.py`` diagnoses all of them
for the documentation, ``tests/test_diagnostics.py`` the quick ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import sklrp
from sklrp import CNNClassifier, ESNClassifier, LSTMClassifier, MLPClassifier
from sklrp.datasets import make_squares
from sklrp.diagnostics import diagnose

SIZE = 50


@dataclass(frozen=True)
class Case:
    """A fitted classifier, samples it was not trained on, and how to explain them."""

    estimator: object
    X: np.ndarray
    y: np.ndarray
    rule: object


def squares(seed, size=SIZE, **params):
    X, y, _ = make_squares(n_per_class=200, size=size, random_state=seed, **params)
    return X.astype(np.float32), y


def fit(clf, X, y, rule, seed, labels=None):
    """Train on half of the samples, or on other labels of them, and keep the other half."""
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.5, stratify=y, random_state=seed)
    if labels == "permuted":  # within each class, so that not even chance relates old and new
        rng, new = np.random.default_rng(seed), y.copy()
        for label in np.unique(y):
            new[rng.permutation(np.flatnonzero(y == label))[::2]] = 1 - label
        y = new
    clf.set_params(random_state=seed).fit(X, y)
    return Case(clf, X_test, y_test, rule)


def mlp(**params):
    return MLPClassifier((16, 16), max_epochs=30, **params)


def cnn(size=SIZE, **params):
    return CNNClassifier((8, 16), input_shape=(1, size, size), max_epochs=6, **params)


def lstm(size=SIZE, **params):
    return LSTMClassifier(32, input_shape=(size, size), sweep="right", max_epochs=20, **params)


def esn(**params):
    return ESNClassifier(input_shape=(100, 100), **{"sweep": "right", "leak_rate": 0.01, **params})


def land(X, value):
    """Fill a third of the cells with one value, as where there is no sea."""
    rows, columns = np.indices(X.shape[1:])
    X = X.copy()
    X[:, (rows // 7 + columns // 9) % 3 == 0] = value
    return X


def outliers(X, seed):
    """Give a twentieth of the cells values a hundred times as large."""
    rng = np.random.default_rng(seed)
    cells = rng.random(X.shape[1:]) < 0.05
    X = X.copy()
    X[:, cells] = rng.normal(scale=10.0, size=X[:, cells].shape)
    return X


def fields(seed, uniform=False, shape=(40, 48), n_samples=400):
    """Make smooth noise plus or minus a smooth pattern, or one value, all over the field."""
    rng = np.random.default_rng(seed)
    noise = gaussian_filter(rng.standard_normal((n_samples, *shape)), (0, 2, 2))
    pattern = gaussian_filter(rng.standard_normal(shape), 6, mode="wrap")
    pattern = np.full(shape, 0.6) if uniform else 0.5 * pattern / pattern.std()
    y = rng.permutation(np.repeat([0, 1], n_samples // 2))
    sign = np.where(y == 1, 1, -1)[:, None, None]
    return (noise / noise.std() + sign * pattern).astype(np.float32), y


def field_cnn(**params):
    return CNNClassifier(input_shape=(1, 40, 48), max_epochs=15, lr=0.002, **params)


def wide_mlp(**params):
    return MLPClassifier((64,), max_epochs=60, lr=0.0005, **params)


def digits():
    X, y = load_digits(return_X_y=True)
    return (X / 16).astype(np.float32), y


def cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return StandardScaler().fit_transform(X), y


FLAT_FIRST = sklrp.Composite([("first", sklrp.Flat(), "first"), ("rest", sklrp.Epsilon(), "all")])

ARTIFACTS = {
    "ESN, z-plus forgets the readout": lambda s: fit(esn(), *squares(s, 100), "z_plus", s),
    "ESN, leak swept from the wrong side": lambda s: fit(
        esn(leak_rate=0.5), *squares(s, 100), "epsilon", s
    ),
    "LSTM forgets the early square": lambda s: fit(
        lstm(100, forget_bias=-1.0), *squares(s, 100), "epsilon", s
    ),
    "flat first layer of an MLP": lambda s: fit(mlp(), *squares(s), FLAT_FIRST, s),
    "w_square on an MLP": lambda s: fit(mlp(), *squares(s), "w_square", s),
    "MLP, permuted labels": lambda s: fit(mlp(), *squares(s), "epsilon", s, "permuted"),
    "CNN, permuted labels": lambda s: fit(cnn(), *squares(s), "auto", s, "permuted"),
    "padding starves the border": lambda s: fit(
        field_cnn(kernel_size=9, pooling="avg", hidden_layer_sizes=()),
        *fields(s, uniform=True),
        "auto",
        s,
    ),
    "stride grid": lambda s: fit(
        field_cnn(stride=2, padding="valid", pooling=None), *fields(s), "auto", s
    ),
    "MLP, input not centred": lambda s: fit(
        wide_mlp(), squares(s)[0] + 1, squares(s)[1], "epsilon", s
    ),
    "MLP, fields in degrees": lambda s: fit(
        wide_mlp(), fields(s)[0] + 10, fields(s)[1], "epsilon", s
    ),
    "fill value on land": lambda s: fit(
        wide_mlp(), land(fields(s)[0], -3.0), fields(s)[1], "epsilon", s
    ),
    "outliers not capped": lambda s: fit(
        mlp(), outliers(squares(s)[0], s), squares(s)[1], "epsilon", s
    ),
}
SOUND = {
    "MLP epsilon": lambda s: fit(mlp(), *squares(s), "epsilon", s),
    "CNN auto": lambda s: fit(cnn(), *squares(s), "auto", s),
    "CNN epsilon": lambda s: fit(cnn(), *squares(s), "epsilon", s),
    "LSTM mean": lambda s: fit(lstm(pooling="mean"), *squares(s), "epsilon", s),
    "LSTM last": lambda s: fit(lstm(), *squares(s), "epsilon", s),
    "ESN": lambda s: fit(esn(), *squares(s, 100), "epsilon", s),
    "ESN from the other side": lambda s: fit(
        esn(sweep="left", leak_rate=0.02), *squares(s, 100), "epsilon", s
    ),
    "fields MLP": lambda s: fit(wide_mlp(), *fields(s), "epsilon", s),
    "fields CNN": lambda s: fit(field_cnn(), *fields(s), "auto", s),
    "land at zero": lambda s: fit(wide_mlp(), land(fields(s)[0], 0.0), fields(s)[1], "epsilon", s),
    "digits MLP": lambda s: fit(mlp(), *digits(), "epsilon", s),
    "digits CNN": lambda s: fit(
        CNNClassifier((8, 16), input_shape=(1, 8, 8), max_epochs=15), *digits(), "auto", s
    ),
    "digits LSTM": lambda s: fit(
        LSTMClassifier(32, input_shape=(8, 8), max_epochs=20), *digits(), "epsilon", s
    ),
    "breast cancer MLP": lambda s: fit(mlp(), *cancer(), "epsilon", s),
}
CASES = {**ARTIFACTS, **SOUND}


def truth(name):
    """Return the right verdict on a case."""
    return "artifact" if name in ARTIFACTS else "fact"


def report(case, seed):
    """Diagnose a case, without the tests that train."""
    return diagnose(
        case.estimator,
        case.X,
        case.y,
        rule=case.rule,
        n_refits=0,
        max_samples=50,
        random_state=seed,
    )
