"""Peak memory of an explanation, measured in a process of its own (Linux only)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sklrp import explain
from sklrp.modules import make_esn

from .engine import gradient, make_cnn, make_vgg
from .measure import Row
from .networks import Encoder, VisionTransformer

MIB = 2**20
# Freed memory goes back to the system at once, so that one measurement does not hide in another's.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
STATUS = Path("/proc/self/status")


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, int]]] = {
    "CNN 1x28x28": (partial(make_cnn, 28), (1, 28, 28), (256, 1024)),
    "VGG-like 3x64x64": (make_vgg, (3, 64, 64), (32, 128)),
    "transformer encoder": (Encoder, (50, 64), (256, 1024)),
    "ViT-tiny 3x224x224": (VisionTransformer, (3, 224, 224), (8, 32)),
    "ESN 1000 steps, 300 units": (partial(make_esn, (1000, 3), 2), (3000,), (32, 128)),
}


def bench_memory(quick: bool = False) -> list[Row]:
    """Return the peak memory of rule epsilon over that of a forward pass with its gradient.

    Parameters
    ----------
    quick : bool, default=False
        Whether to measure the small network alone, on few samples.

    Returns
    -------
    list of dict
        Rows of ``what``, ``case``, ``ratio``, ``unit`` and ``reach``; none where the system does
        not tell the peak of a process.
    """
    if not STATUS.exists():
        return []
    rows = []
    for name in list(CASES)[: 1 if quick else None]:
        few, many = (32, 64) if quick else CASES[name][2]
        peak = _in_a_process(name, few, many)
        for n, found in ((few, peak["few"]), (many, peak["many"])):
            case = f"{name}, {n} samples"
            ratio = found["unchunked"] / found["yardstick"]
            rows.append(_row("peak in one chunk / yardstick", case, ratio, "≤ 1.3"))
            above = found["default"] / MIB
            rows.append(_row("peak above the output, default chunks", case, above, "≤ 60", "MiB"))
        growth = peak["many"]["default"] / peak["few"]["default"]
        what = f"peak above the output, {many // few} times the samples / once"
        rows.append(_row(what, name, growth, "≤ 1.1"))
    return rows


def _row(what: str, case: str, ratio: float, reach: str, unit: str = "") -> Row:
    return {
        "what": what, "case": case, "rule": "epsilon", "ratio": ratio, "reach": reach, "unit": unit
    }  # fmt: skip


def _in_a_process(name: str, few: int, many: int) -> dict[str, dict[str, float]]:
    """Return the bytes of each kind of work on few and many samples."""
    root = Path(__file__).parents[__name__.count(".")]
    out = subprocess.run(
        [sys.executable, "-m", __name__, name, str(few), str(many)],
        cwd=root,
        env=os.environ | ENVIRONMENT,
        check=True,
        capture_output=True,
    )
    return json.loads(out.stdout)


def _measure(name: str, few: int, many: int) -> dict[str, dict[str, float]]:
    constructor, shape, _ = CASES[name]
    torch.manual_seed(0)
    model = constructor().eval()
    found = {}
    for label, n in (("few", few), ("many", many)):
        X = np.random.default_rng(0).normal(size=(n, *shape)).astype(np.float32)
        works: dict[str, Callable[[np.ndarray], Any]] = {
            "yardstick": lambda X: gradient(model, X),
            "unchunked": lambda X: explain(model, X, rule="epsilon", batch_size=len(X)),
            "default": lambda X: explain(model, X, rule="epsilon"),
        }
        found[label] = {key: _peak(work, X) for key, work in works.items()}
        found[label]["default"] -= X.nbytes
    return found


def _peak(work: Callable[[np.ndarray], Any], X: np.ndarray) -> float:
    """Return the bytes that some work takes at most beyond what is there before it."""
    work(X[:1])
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = status("VmRSS")
    work(X)
    return status("VmHWM") - before


def status(key: str) -> float:
    """Return a number of bytes that the system tells of this process."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(f"{key}:"))
    return 1024.0 * int(line.split()[1])


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
