"""The LSTM against a loop in NumPy, trainings of a grid search, and the time of a start."""

from __future__ import annotations

import functools
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from torch import nn

from sklrp import ESNClassifier, MLPClassifier, RelevanceTransformer, ZBox, explain, load, save
from sklrp.modules import StatePooling

from .measure import Row, median_times

EPSILON = 1e-3
RULES = ["epsilon", "gamma", "zero", "alpha_beta", "z_plus", "w_square", ZBox(-5, 5), "auto"]
IMPORT = """
import time, torch, sklearn
start = time.process_time()
import sklrp
print(time.process_time() - start)
"""


def bench_lstm_loop(quick: bool = False) -> list[Row]:
    """Return how much faster an LSTM is explained than by a loop over samples and steps in NumPy.

    The loop is timed on a few samples, and its time scaled to the whole batch.

    Parameters
    ----------
    quick : bool, default=False
        Whether to take a small network.

    Returns
    -------
    list of dict
        One row of ``what``, ``case``, ``ratio`` and ``reach``.
    """
    n, n_steps, n_inputs, n_units, few = (8, 5, 3, 4, 2) if quick else (256, 100, 10, 64, 8)
    torch.manual_seed(0)
    lstm = nn.LSTM(n_inputs, n_units, batch_first=True)
    model = nn.Sequential(lstm, StatePooling("last"), nn.Linear(n_units, 2)).eval()
    X = np.random.default_rng(0).normal(size=(n, n_steps, n_inputs)).astype(np.float32)
    weights = [p.detach().numpy() for p in model.parameters()]

    def loop() -> np.ndarray:
        return np.stack([explain_in_a_loop(x, *weights, epsilon=EPSILON) for x in X[:few]])

    ours = functools.partial(explain, model, X, rule="epsilon", epsilon=EPSILON)
    np.testing.assert_allclose(loop(), ours()[:few], atol=1e-4)  # the same work
    t = median_times({"ours": ours, "loop": loop}, 1 if quick else 7)
    return [
        {
            "what": "per-sample NumPy loop / explain",
            "case": f"LSTM ({n}, {n_steps}, {n_inputs}, {n_units})",
            "rule": "epsilon",
            "ratio": t["loop"] * n / few / t["ours"],
            "reach": "≥ 60",
        }
    ]


def explain_in_a_loop(
    x: np.ndarray,
    w_x: np.ndarray,
    w_h: np.ndarray,
    b_x: np.ndarray,
    b_h: np.ndarray,
    w_out: np.ndarray,
    b_out: np.ndarray,
    epsilon: float,
) -> np.ndarray:
    """Return the relevance of one sample ``(n_steps, n_inputs)`` for its largest score."""
    n_steps, n_units = len(x), w_h.shape[1]
    h = np.zeros((n_steps + 1, n_units), x.dtype)
    c = np.zeros((n_steps + 1, n_units), x.dtype)
    kept, added, z_g = (np.empty((n_steps, n_units), x.dtype) for _ in range(3))
    for t in range(n_steps):
        i, f, z_g[t], o = np.split(w_x @ x[t] + w_h @ h[t] + (b_x + b_h), 4)
        kept[t] = c[t] / (1 + np.exp(-f))
        added[t] = np.tanh(z_g[t]) / (1 + np.exp(-i))
        c[t + 1] = kept[t] + added[t]
        h[t + 1] = np.tanh(c[t + 1]) / (1 + np.exp(-o))
    scores = w_out @ h[-1] + b_out
    r_h = _share(h[-1], w_out, scores, scores * (scores == scores.max()), epsilon)
    r_c = np.zeros(n_units, x.dtype)
    relevance = np.empty_like(x)
    unit = np.eye(n_units, dtype=x.dtype)
    w_xg, w_hg = (w[2 * n_units : 3 * n_units] for w in (w_x, w_h))
    for t in reversed(range(n_steps)):
        r_c = r_c + r_h
        r_g = _share(added[t], unit, c[t + 1], r_c, epsilon)
        r_c = _share(kept[t], unit, c[t + 1], r_c, epsilon)
        relevance[t] = _share(x[t], w_xg, z_g[t], r_g, epsilon)
        r_h = _share(h[t], w_hg, z_g[t], r_g, epsilon)
    return relevance


def _share(
    x: np.ndarray, w: np.ndarray, z: np.ndarray, relevance: np.ndarray, epsilon: float
) -> np.ndarray:
    """Return rule epsilon of one map, its messages as a matrix, as the formula is published."""
    stabilised = z + np.where(z < 0, -epsilon, epsilon).astype(z.dtype)
    messages = (w * x) / stabilised[:, None] * relevance[:, None]
    return messages.sum(axis=0)


class CountedMLP(MLPClassifier):
    """A perceptron that counts how often any of its kind is trained."""

    trainings = 0

    def fit(self, X: Any, y: Any, **fit_params: Any) -> CountedMLP:
        """Count, and train."""
        CountedMLP.trainings += 1
        return super().fit(X, y, **fit_params)


def bench_search(quick: bool = False) -> list[Row]:
    """Return the trainings of a grid search over rules, per training that is needed.

    Parameters
    ----------
    quick : bool, default=False
        Whether to search two rules on two folds.

    Returns
    -------
    list of dict
        One row of ``what``, ``case``, ``ratio`` and ``reach``.
    """
    rules, n_folds = (RULES[:2], 2) if quick else (RULES, 5)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 10))
    y = (X[:, 0] > 0).astype(int)
    before = CountedMLP.trainings
    with tempfile.TemporaryDirectory() as memory:
        network = CountedMLP((10,), max_epochs=5, random_state=0)
        steps = [
            ("relevance", RelevanceTransformer(network, memory=memory)),
            ("clf", LogisticRegression()),
        ]
        grid = {"relevance__rule": rules, "relevance__epsilon": [1e-2]}
        GridSearchCV(Pipeline(steps), grid, cv=n_folds, error_score="raise").fit(X, y)
    return [
        {
            "what": "trainings / (k + 1)",
            "case": f"grid of {len(rules)} rules, k = {n_folds} folds",
            "ratio": (CountedMLP.trainings - before) / (n_folds + 1),
            "reach": "≤ 1",
        }
    ]


def bench_import(quick: bool = False) -> list[Row]:
    """Return the CPU seconds of `import sklrp` after the imports of torch and scikit-learn.

    Parameters
    ----------
    quick : bool, default=False
        Whether to import it once.

    Returns
    -------
    list of dict
        One row of ``what``, ``case``, ``ratio``, ``unit`` and ``reach``.
    """
    seconds = [
        float(subprocess.check_output([sys.executable, "-c", IMPORT]))
        for _ in range(1 if quick else 5)
    ]
    return [
        {
            "what": "import sklrp",
            "case": "after torch, sklearn",
            "ratio": statistics.median(seconds),
            "unit": "s",
            "reach": "≤ 0.2",
        }
    ]


def bench_start(quick: bool = False) -> list[Row]:
    """Return the seconds of the command line's help, and the share of a fit that a load takes.

    Parameters
    ----------
    quick : bool, default=False
        Whether to take a small network and one repeat.

    Returns
    -------
    list of dict
        Rows of ``what``, ``case``, ``ratio``, ``unit`` and ``reach``.
    """
    command = [sys.executable, "-m", "sklrp", "--help"]
    seconds = []
    for _ in range(1 if quick else 5):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    n_units = 30 if quick else 1000
    clf = ESNClassifier(n_units, random_state=0)
    X = np.random.default_rng(0).normal(size=(20, 30))
    y = np.arange(20) % 2
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/esn.safetensors"
        save(clf.fit(X, y), file)
        functions = {"fit": functools.partial(clf.fit, X, y), "load": lambda: load(file)}
        t = median_times(functions, 1 if quick else 5)
    help_time = statistics.median(seconds)
    return [
        {
            "what": "python -m sklrp --help", "case": "a process of its own",
            "ratio": help_time, "unit": "s", "reach": "≤ 1",
        },
        {
            "what": "load / fit", "case": f"ESN of {n_units} units, 20 samples",
            "ratio": t["load"] / t["fit"], "reach": "",
        },
    ]  # fmt: skip
