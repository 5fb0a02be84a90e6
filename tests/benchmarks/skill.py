"""Time and peak memory of `skill_map` and `diagnose` on a large field, in processes of their own.

``python -m tests.benchmarks.skill`` prints the rows alone; `tests.benchmarks` shows them among the
others.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import nn

from sklrp import CNNClassifier, MLPClassifier
from sklrp.diagnostics import diagnose, skill_map

from ..helpers.limits import read_peak
from .measure import Row

CASES = {"MLP, 64 units": 2, "CNN, 8 and 16 filters": 2, "MLP, 64 units, 10 classes": 10}
TO_FIELDS = "MLP, 64 units, to a field of the same shape"
ASKED = [("skill_map", name) for name in (*CASES, TO_FIELDS)]
ASKED += [("diagnose", name) for name in list(CASES)[:2]]
REACH = {"skill_map": "≤ 20", "diagnose": "≤ 60"}  # seconds, of a network of two classes
GIB_OF_KIB = 2**20
MODULE = "tests.benchmarks.skill"  # also where it is run as a script


def bench_skill(quick: bool = False) -> list[Row]:
    """Return the time of one core, and the peak of memory with data and training.

    Parameters
    ----------
    quick : bool, default=False
        Whether to measure the first network alone, on a small field.

    Returns
    -------
    list of dict
        Rows of ``what``, ``case``, ``ratio``, ``unit`` and ``reach``.
    """
    shape, n = ((12, 16), 60) if quick else ((89, 180), 500)
    rows: list[Row] = []
    for what, name in ASKED[: 1 if quick else None]:
        out = subprocess.run(
            [sys.executable, "-m", MODULE, what, name, *map(str, (*shape, n))],
            cwd=Path(__file__).parents[MODULE.count(".")],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=True,
            capture_output=True,
        )
        found = json.loads(out.stdout)
        case = f"{name}: {shape[0]} x {shape[1]} cells, {n} samples{found['said']}"
        reach = REACH[what] if CASES.get(name) == 2 else ""
        rows.append(_row(f"{what}: seconds of one core", case, found["seconds"], reach, "s"))
        rows.append(_row(f"{what}: peak memory, with data", case, found["peak"], "≤ 2", "GiB"))
    return rows


def _row(what: str, case: str, value: float, reach: str, unit: str) -> Row:
    return {"what": what, "case": case, "ratio": value, "reach": reach, "unit": unit}


def _measure(what: str, name: str, shape: tuple[int, int], n: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    X = gaussian_filter(rng.normal(size=(2 * n, *shape)), (0, 4, 4))
    X = (X / X.std()).astype(np.float32)
    model, y = _train_on_fields(X, n, rng) if name == TO_FIELDS else _train(name, X, n, rng)
    asked = {"X_train": X[:n], "random_state": 0, "n_jobs": 1}
    start = time.process_time()
    if what == "skill_map":
        found = skill_map(model, X[n:], y[n:], **asked)
        said = f", {found.n_draws} draws, noise {found.noise:.2f}"
    else:
        said = f", {diagnose(model, X[n:], y[n:], **asked).verdict}"
    seconds = time.process_time() - start
    peak = read_peak() / GIB_OF_KIB
    return {"seconds": seconds, "peak": peak, "said": said}


def _train(name: str, X: NDArray, n: int, rng: np.random.Generator) -> tuple[Any, NDArray]:
    """Return a classifier, trained on n samples, and labels; each adds to a patch of X."""
    shape, n_classes = X.shape[1:], CASES[name]
    y = rng.integers(0, n_classes, 2 * n)
    width = shape[1] // 12
    for k in range(n_classes):
        X[y == k, shape[0] // 3 : shape[0] // 2, width * (k + 1) : width * (k + 2)] += 1
    if name.startswith("MLP"):
        clf = MLPClassifier((64,), max_epochs=5, random_state=0)
    else:
        clf = CNNClassifier((8, 16), input_shape=(1, *shape), max_epochs=2, random_state=0)
    return clf.fit(X[:n], y[:n]), y


def _train_on_fields(X: NDArray, n: int, rng: np.random.Generator) -> tuple[nn.Module, NDArray]:
    """Return a network, trained on n fields, and the fields that it predicts: X and its like."""
    y = X + 0.5 * np.roll(X, 5, axis=2) + 0.3 * rng.normal(size=X.shape).astype(np.float32)
    y = y.reshape(2 * n, -1)
    torch.manual_seed(0)
    size = y.shape[1]
    net = nn.Sequential(nn.Flatten(), nn.Linear(size, 64), nn.ReLU(), nn.Linear(64, size))
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(5):
        for rows in torch.arange(n).split(64):
            optimizer.zero_grad()
            predicted, wanted = net(torch.from_numpy(X)[rows]), torch.from_numpy(y)[rows]
            nn.functional.mse_loss(predicted, wanted).backward()
            optimizer.step()
    return net.eval(), y


def main() -> None:
    """Print the rows, or measure one case for them."""
    if len(sys.argv) > 1:
        what, name, *numbers = sys.argv[1:]
        height, width, n = map(int, numbers)
        torch.set_num_threads(1)
        print(json.dumps(_measure(what, name, (height, width), n)))
        return
    for row in bench_skill():
        print(f"{row['what']}, {row['case']}: {row['ratio']:.3g} {row['unit']}")


if __name__ == "__main__":
    main()
