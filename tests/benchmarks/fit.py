"""Time of training and prediction: ``python tests/benchmarks/fit.py``.

Every figure is a ratio of medians over interleaved repeats after one warm-up. All trainings of a
case do the same work: the same network, batches, epochs, optimizer and clipping in float32. The
epochs are the default of 50 on the small table, and fewer where one takes long.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import sklearn
import skorch
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier as SklearnMLP
from skorch import NeuralNetClassifier
from skorch.callbacks import GradientNormClipping
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sklrp import CNNClassifier, LSTMClassifier, MLPClassifier

CLIP = 1.0


@dataclass
class Case:
    """A training: a classifier, its data and the same network in plain torch."""

    name: str
    clf: Any
    X: np.ndarray
    y: np.ndarray
    network: Callable[[], nn.Module]

    @property
    def is_table(self) -> bool:
        """Whether scikit-learn's perceptron and the ratios to reach on tables apply."""
        return isinstance(self.clf, MLPClassifier)

    @property
    def clips(self) -> bool:
        """Whether the norm of the gradient is limited to ``CLIP``."""
        return isinstance(self.clf, LSTMClassifier)


class PlainLSTM(nn.Module):
    """The last state of an LSTM over 28 steps, and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(28, 64, batch_first=True)
        self.output = nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.output(self.lstm(x.unflatten(1, (28, 28)))[1][0][-1])


def plain_mlp(n_features: int) -> nn.Module:
    """Return the perceptron as one writes it in torch."""
    return nn.Sequential(nn.Linear(n_features, 100), nn.ReLU(), nn.Linear(100, 2))


def plain_cnn() -> nn.Module:
    """Return the convolutional network as one writes it in torch."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 2)),
    )


def make_cases() -> list[Case]:
    """Return the trainings: two tables, images and sequences of 28 x 28."""
    rng = np.random.default_rng(0)

    def case(
        name: str,
        clf: Any,
        shape: tuple[int, int],
        network: Callable[[], nn.Module],
        epochs: int,
        batch_size: int,
    ) -> Case:
        X = rng.normal(size=shape).astype(np.float32)
        y = (X[:, :3].sum(axis=1) > 0).astype(int)
        clf.set_params(
            max_epochs=epochs, batch_size=batch_size, lr=0.003, device="cpu", random_state=0
        )
        return Case(name, clf, X, y, network)

    large, small = (functools.partial(plain_mlp, n) for n in (100, 20))
    cnn = CNNClassifier((16, 32), input_shape=(1, 28, 28))
    lstm = LSTMClassifier(64, input_shape=(28, 28), gradient_clip_value=CLIP)
    return [
        case("MLP 50000 x 100", MLPClassifier((100,)), (50_000, 100), large, 2, 200),
        case("MLP 2000 x 20", MLPClassifier((100,)), (2_000, 20), small, 50, 200),
        case("CNN 1000 x 28 x 28", cnn, (1_000, 784), plain_cnn, 2, 128),
        case("LSTM 1000 x 28 x 28", lstm, (1_000, 784), PlainLSTM, 5, 128),
    ]


def fit_in_torch(case: Case, **adam: Any) -> nn.Module:
    """Train by a loop in plain torch that slices tensors."""
    X, y = torch.from_numpy(case.X), torch.from_numpy(case.y)
    network = case.network()
    optimizer = torch.optim.Adam(network.parameters(), lr=case.clf.lr, **adam)
    for _ in range(case.clf.max_epochs):
        for rows in torch.randperm(len(X)).split(case.clf.batch_size):
            optimizer.zero_grad()
            cross_entropy(network(X[rows]), y[rows]).backward()
            if case.clips:
                nn.utils.clip_grad_norm_(network.parameters(), CLIP)
            optimizer.step()
    return network


def fit_in_skorch(case: Case) -> NeuralNetClassifier:
    """Train by skorch's default loop and loader, shuffled and without a validation split."""
    net = NeuralNetClassifier(
        case.network,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=case.clf.lr,
        max_epochs=case.clf.max_epochs,
        batch_size=case.clf.batch_size,
        iterator_train__shuffle=True,
        train_split=None,
        callbacks=[GradientNormClipping(CLIP)] if case.clips else None,
        verbose=0,
    )
    return net.fit(case.X, case.y)


def fit_in_sklearn(case: Case) -> SklearnMLP:
    """Train scikit-learn's own perceptron."""
    clf = SklearnMLP(
        (100,),
        learning_rate_init=case.clf.lr,
        batch_size=case.clf.batch_size,
        max_iter=case.clf.max_epochs,
        n_iter_no_change=case.clf.max_epochs + 1,
        alpha=0.0,
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return clf.fit(case.X, case.y)


def bench_fit(n_threads: int = 1, n_repeats: int = 7) -> list[dict[str, Any]]:
    """Return the time of `fit` over that of a raw torch loop, and of the peers.

    Parameters
    ----------
    n_threads : int, default=1
        Number of threads of torch and of the linear algebra.
    n_repeats : int, default=7
        Number of timed repeats, of which the median counts.

    Returns
    -------
    list of dict
        Rows of ``what``, ``case``, ``ratio`` and ``reach``, which is empty for peers.
    """
    rows = []
    for case in make_cases():
        functions = {
            "raw": functools.partial(fit_in_torch, case),
            "fused": functools.partial(fit_in_torch, case, fused=True),
            "fit": functools.partial(case.clf.fit, case.X, case.y),
            "skorch": functools.partial(fit_in_skorch, case),
        }
        if case.is_table:
            functions["sklearn"] = functools.partial(fit_in_sklearn, case)
        t = _median_times(functions, n_threads, n_repeats)
        name = _name(case, n_threads)
        raw = "raw torch loop"
        rows.append(_row(f"fit / {raw}", name, t["fit"] / t["raw"], "≤ 1.0"))
        reach = "≥ 2" if case.is_table else ""
        rows.append(_row("skorch's default / fit", name, t["skorch"] / t["fit"], reach))
        rows.append(_row(f"{raw} with fused Adam / {raw}", name, t["fused"] / t["raw"]))
        rows.append(_row(f"skorch's default / {raw}", name, t["skorch"] / t["raw"]))
        if case.is_table:
            rows.append(_row(f"scikit-learn / {raw}", name, t["sklearn"] / t["raw"]))
    return rows


def bench_predict(n_threads: int = 1, n_repeats: int = 7) -> list[dict[str, Any]]:
    """Return the time of `predict_proba` over that of one forward pass, and of the peers.

    Parameters
    ----------
    n_threads : int, default=1
        Number of threads of torch and of the linear algebra.
    n_repeats : int, default=7
        Number of timed repeats, of which the median counts.

    Returns
    -------
    list of dict
        Rows of ``what``, ``case``, ``ratio`` and ``reach``, which is empty: none is set.
    """
    rows = []
    for case in make_cases():
        case.clf.set_params(max_epochs=1)
        clf, net, X = case.clf.fit(case.X, case.y), fit_in_skorch(case), case.X
        functions: dict[str, Callable[[], Any]] = {
            "forward": functools.partial(_forward, net.module_.eval(), X),
            "predict": functools.partial(clf.predict_proba, X),
            "skorch": functools.partial(net.predict_proba, X),
        }
        if case.is_table:
            functions["sklearn"] = functools.partial(fit_in_sklearn(case).predict_proba, X)
        t = _median_times(functions, n_threads, n_repeats)
        name = _name(case, n_threads)
        names = {"predict": "predict_proba", "skorch": "skorch's default"}
        for key in list(t)[1:]:
            what = f"{names.get(key, 'scikit-learn')} / forward pass"
            rows.append(_row(what, name, t[key] / t["forward"]))
    return rows


@torch.no_grad()
def _forward(network: nn.Module, X: np.ndarray) -> np.ndarray:
    return network(torch.from_numpy(X)).softmax(1).numpy()


def _name(case: Case, n_threads: int) -> str:
    return f"{case.name}, {n_threads} thread{'s' * (n_threads > 1)}"


def _row(what: str, case: str, ratio: float, reach: str = "") -> dict[str, Any]:
    return {"what": what, "case": case, "ratio": ratio, "reach": reach}


def _median_times(
    functions: dict[str, Callable[[], Any]], n_threads: int, n_repeats: int
) -> dict[str, float]:
    """Return the median time of each function, called in turn after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    with _threads(n_threads):
        for repeat in range(n_repeats + 1):
            for name, function in functions.items():
                start = time.perf_counter()
                function()
                if repeat:  # the first is the warm-up
                    times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


@contextlib.contextmanager
def _threads(n_threads: int) -> Iterator[None]:
    """Give torch and the linear algebra that many threads, and put them back on leaving."""
    before = torch.get_num_threads()
    with threadpool_limits(n_threads):
        torch.set_num_threads(n_threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def main() -> None:
    """Print the machine and all rows, with one thread and with two."""
    versions = [f"{p.__name__} {p.__version__}" for p in (torch, skorch, sklearn)]
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, {', '.join(versions)}")
    for n_threads in (1, 2):
        for row in bench_fit(n_threads) + bench_predict(n_threads):
            print(f"{row['what']} | {row['case']} | {row['ratio']:.2f} | {row['reach']}")


if __name__ == "__main__":
    main()
