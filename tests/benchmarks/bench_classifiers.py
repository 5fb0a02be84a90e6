"""Ratios of time to plain torch: ``python tests/benchmarks/bench_classifiers.py``.

Every figure is a ratio within one run, of medians over interleaved repeats after one warm-up, on
one thread: ``fit`` to a plain loop that slices tensors, ``predict_proba`` to a direct forward
pass, ``explain`` to a forward pass with the gradient of the score with respect to the input.
"""

from __future__ import annotations

import os
import platform
import statistics
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import sklearn
import skorch
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sklrp import CNNClassifier, LSTMClassifier, MLPClassifier, explain

N_REPEATS = 5


def ratios(yardstick, **others):
    """Return the median times of ``others`` over that of ``yardstick``."""
    functions = {"yardstick": yardstick, **others}
    times = {name: [] for name in functions}
    for repeat in range(N_REPEATS + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if repeat:  # the first is a warm-up
                times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {name: medians[name] / medians["yardstick"] for name in others}


def make_table(n_samples, n_features, seed=0):
    """Return a table of two classes in float32."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_samples, n_features)).astype(np.float32)
    return X, (X[:, :3].sum(axis=1) > 0).astype(int)


def plain_fit(X, y, epochs, batch_size):
    """Train the MLP by a loop in plain torch."""
    x, labels = torch.from_numpy(X), torch.from_numpy(y)
    net = nn.Sequential(nn.Linear(X.shape[1], 100), nn.ReLU(), nn.Linear(100, 2))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.003)
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for rows in order.split(batch_size):
            optimizer.zero_grad()
            cross_entropy(net(x[rows]), labels[rows]).backward()
            optimizer.step()


def bench_fit():
    """Time the training of an MLP on tables."""
    for n_samples, n_features in ((50_000, 100), (2_000, 20)):
        X, y = make_table(n_samples, n_features)
        epochs = 2 if n_samples > 10_000 else 20
        clf = MLPClassifier((100,), max_epochs=epochs, batch_size=200, random_state=0)
        found = ratios(
            lambda X=X, y=y, epochs=epochs: plain_fit(X, y, epochs, 200),
            fit=lambda X=X, y=y, clf=clf: clf.fit(X, y),
        )
        print(f"fit, MLP {n_samples} x {n_features}, batch 200: {found['fit']:.2f}")


def bench_predict():
    """Time the prediction of 50 000 rows."""
    X, y = make_table(50_000, 100)
    clf = MLPClassifier((100,), max_epochs=1, random_state=0).fit(X, y)
    x = torch.from_numpy(X)

    @torch.no_grad()
    def forward():
        clf.module_(x).softmax(1).numpy()

    found = ratios(forward, predict=lambda: clf.predict_proba(X))
    print(f"predict_proba, MLP 50000 x 100: {found['predict']:.2f}")


def bench_explain():
    """Time the relevance of the classifiers' networks."""
    rng = np.random.default_rng(0)
    cases = {
        "MLP 2700-128-64-2, 1024 samples": (MLPClassifier((128, 64)), (1024, 2700)),
        "CNN 1 x 28 x 28, 256 samples": (
            CNNClassifier((16, 32), input_shape=(1, 28, 28)),
            (256, 784),
        ),
        "CNN 1 x 100 x 100, 256 samples": (
            CNNClassifier((16, 32), input_shape=(1, 100, 100)),
            (256, 10_000),
        ),
        "LSTM 64, 100 x 10, 256 samples": (
            LSTMClassifier(64, input_shape=(100, 10)),
            (256, 1000),
        ),
    }
    rules = ["epsilon", "epsilon_plus", "epsilon_alpha2_beta1_flat", "gamma", "alpha_beta"]
    print("\nexplain | " + " | ".join(rules))
    for name, (clf, shape) in cases.items():
        X = rng.normal(size=shape).astype(np.float32)
        clf.set_params(max_epochs=1).fit(X[:64], np.arange(64) % 2)
        net = clf.module_.eval().requires_grad_(False)

        def gradient(X=X, net=net):
            x = torch.from_numpy(X).clone().requires_grad_()
            scores = net(x)
            torch.autograd.grad(scores.max(1).values.sum(), x)

        # A flat first layer of an MLP warns; it is another rule's work there.
        fitting = [r for r in rules if "flat" not in r or "MLP" not in name]
        found = ratios(
            gradient, **{r: lambda r=r, X=X, net=net: explain(net, X, rule=r) for r in fitting}
        )
        print(f"{name} | " + " | ".join(f"{found[r]:.2f}" if r in found else "-" for r in rules))


def main():
    """Print the machine and all figures."""
    torch.set_num_threads(1)
    versions = [
        f"{package.__name__} {package.__version__}" for package in (torch, skorch, sklearn)
    ]
    print(f"{os.cpu_count()} cores, one thread, Python {platform.python_version()}, {versions}\n")
    bench_fit()
    bench_predict()
    bench_explain()


if __name__ == "__main__":
    main()
