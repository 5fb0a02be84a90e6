"""The time of training and prediction, against plain torch and the peers.

All trainings of a case do the same work: the same network, batches, epochs, optimizer and clipping
in float32. The epochs are the default of 50 on the small table, and fewer where one takes long.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier as SklearnMLP
from skorch import NeuralNetClassifier
from skorch.callbacks import GradientNormClipping
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sklrp import CNNClassifier, LSTMClassifier, MLPClassifier

from .measure import Row, median_times

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


def make_cases(quick: bool) -> list[Case]:
    """Return the trainings: two tables, images and sequences; or ten samples of each."""
    rng = np.random.default_rng(0)

    def case(
        name: str,
        clf: Any,
        shape: tuple[int, int],
        network: Callable[[], nn.Module],
        epochs: int,
        batch_size: int,
    ) -> Case:
        X = rng.normal(size=(10, shape[1]) if quick else shape).astype(np.float32)
        y = (X[:, :3].sum(axis=1) > 0).astype(int)
        clf.set_params(
            max_epochs=1 if quick else epochs,
            batch_size=5 if quick else batch_size,
            lr=0.003,
            device="cpu",
            random_state=0,
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


def bench_fit(quick: bool = False) -> list[Row]:
    """Return the time of `fit` over that of a raw torch loop, and of the peers.

    Parameters
    ----------
    quick : bool, default=False
        Whether to take ten samples and one repeat.

    Returns
    -------
    list of dict
        Rows of ``what``, ``case``, ``ratio`` and ``reach``, which is empty for peers.
    """
    rows = []
    for case in make_cases(quick):
        functions = {
            "raw": functools.partial(fit_in_torch, case),
            "fused": functools.partial(fit_in_torch, case, fused=True),
            "fit": functools.partial(case.clf.fit, case.X, case.y),
            "skorch": functools.partial(fit_in_skorch, case),
        }
        if case.is_table:
            functions["sklearn"] = functools.partial(fit_in_sklearn, case)
        t = median_times(functions, 1 if quick else 7)
        raw = "raw torch loop"
        rows.append(_row(f"fit / {raw}", case.name, t["fit"] / t["raw"], "≤ 1.0"))
        reach = "≥ 2" if case.is_table else ""
        rows.append(_row("skorch's default / fit", case.name, t["skorch"] / t["fit"], reach))
        rows.append(_row(f"{raw} with fused Adam / {raw}", case.name, t["fused"] / t["raw"]))
        rows.append(_row(f"skorch's default / {raw}", case.name, t["skorch"] / t["raw"]))
        if case.is_table:
            rows.append(_row(f"scikit-learn / {raw}", case.name, t["sklearn"] / t["raw"]))
    return rows


def bench_predict(quick: bool = False) -> list[Row]:
    """Return the time of `predict_proba` over that of one forward pass, and of the peers.

    Parameters
    ----------
    quick : bool, default=False
        Whether to take ten samples and one repeat.

    Returns
    -------
    list of dict
        Rows of ``what``, ``case``, ``ratio`` and ``reach``, which is empty for most.
    """
    rows = []
    for case in make_cases(quick):
        case.clf.set_params(max_epochs=1)
        clf, net, X = case.clf.fit(case.X, case.y), fit_in_skorch(case), case.X
        functions: dict[str, Callable[[], Any]] = {
            "forward": functools.partial(_forward, net.module_.eval(), X),
            "predict": functools.partial(clf.predict_proba, X),
            "skorch": functools.partial(net.predict_proba, X),
        }
        if case.is_table:
            functions["sklearn"] = functools.partial(fit_in_sklearn(case).predict_proba, X)
        t = median_times(functions, 1 if quick else 7)
        names = {"predict": "predict_proba", "skorch": "skorch's default"}
        for key in list(t)[1:]:
            what = f"{names.get(key, 'scikit-learn')} / forward pass"
            reach = "≤ 1.4" if key == "predict" and "2000" in case.name else ""
            rows.append(_row(what, case.name, t[key] / t["forward"], reach))
    return rows


@torch.no_grad()
def _forward(network: nn.Module, X: np.ndarray) -> np.ndarray:
    return network(torch.from_numpy(X)).softmax(1).numpy()


def _row(what: str, case: str, ratio: float, reach: str = "") -> Row:
    return {"what": what, "case": case, "ratio": ratio, "reach": reach}
