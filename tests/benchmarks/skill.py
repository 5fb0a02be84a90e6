"""Processor time and peak memory of `skill_map` on a large field, in processes of their own.

``python -m tests.benchmarks.skill`` prints the rows alone; `tests.benchmarks` shows them among the
others.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from sklrp import CNNClassifier, MLPClassifier
from sklrp.diagnostics import skill_map

from .measure import Row

CASES = {"MLP, 64 units": 2, "CNN, 8 and 16 filters": 2, "MLP, 64 units, 10 classes": 10}
GIB_OF_KIB = 2**20


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
    for name in list(CASES)[: 1 if quick else None]:
        out = subprocess.run(
            [sys.executable, "-m", __name__, name, *map(str, (*shape, n))],
            cwd=Path(__file__).parents[__name__.count(".")],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=True,
            capture_output=True,
        )
        found = json.loads(out.stdout)
        case = f"{name}: {shape[0]} x {shape[1]} cells, {n} samples, {found['n_draws']} draws"
        rows.append(_row("seconds of one core", case, found["seconds"], "≤ 100", "s"))
        rows.append(_row("peak memory, with data", case, found["peak"], "≤ 2", "GiB"))
    return rows


def _row(what: str, case: str, value: float, reach: str, unit: str) -> Row:
    return {"what": f"skill_map: {what}", "case": case, "ratio": value, "reach": reach,
            "unit": unit}  # fmt: skip


def _measure(name: str, shape: tuple[int, int], n: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, CASES[name], 2 * n)
    X = gaussian_filter(rng.normal(size=(2 * n, *shape)), (0, 4, 4))
    X = (X / X.std()).astype(np.float32)
    width = shape[1] // 12
    for k in range(CASES[name]):
        X[y == k, shape[0] // 3 : shape[0] // 2, width * (k + 1) : width * (k + 2)] += 1
    if name.startswith("MLP"):
        clf = MLPClassifier((64,), max_epochs=5, random_state=0)
    else:
        clf = CNNClassifier((8, 16), input_shape=(1, *shape), max_epochs=2, random_state=0)
    clf.fit(X[:n], y[:n])
    start = time.process_time()
    found = skill_map(clf, X[n:], y[n:], X_train=X[:n], random_state=0, n_jobs=1)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB_OF_KIB
    return {"seconds": seconds, "peak": peak, "n_draws": found.n_draws}


def main() -> None:
    """Print the rows, or measure one case for them."""
    if len(sys.argv) > 1:
        name, *numbers = sys.argv[1:]
        height, width, n = map(int, numbers)
        torch.set_num_threads(1)
        print(json.dumps(_measure(name, (height, width), n)))
        return
    for row in bench_skill():
        print(f"{row['what']}, {row['case']}: {row['ratio']:.3g} {row['unit']}")


if __name__ == "__main__":
    main()
