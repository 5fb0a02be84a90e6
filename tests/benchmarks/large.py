"""Peak memory at three sizes, for each entry point: ``python -m tests.benchmarks.large``.

Each cell of the table is the peak of a process of its own, with all that Python, torch and
scikit-learn take. It is read from /proc (Linux), as `resource.getrusage` counts what the process
had before it became this one. The samples are a npy file that is mapped to memory; the table
stands in ``docs/large_data.md``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sklrp import ESNClassifier, MLPClassifier, RelevanceTransformer
from sklrp.diagnostics import diagnose, skill_map

from .memory import ENVIRONMENT, MIB, status

SHAPE = (32, 32)
SIZES = (10**3, 10**4, 10**5)
BLOCK = 2**14


def write_samples(path: Path, n_samples: int) -> None:
    """Write samples of two classes to a file."""
    X = np.lib.format.open_memmap(path, "w+", np.float32, (n_samples, *SHAPE))
    for start in range(0, n_samples, BLOCK):
        rng = np.random.default_rng(start)
        part = rng.normal(size=(min(BLOCK, n_samples - start), *SHAPE)).astype(np.float32)
        part[labels_of(n_samples)[start : start + BLOCK] == 1, 8:16, 8:16] += 0.5
        X[start : start + BLOCK] = part
    X.flush()


def labels_of(n_samples: int) -> np.ndarray:
    """Return the class of each sample."""
    return np.random.default_rng(0).integers(0, 2, n_samples)


def read_part(X: np.memmap, rows: slice) -> np.ndarray:
    """Return rows as a user reads them, who maps the file anew for each part."""
    return np.array(np.load(X.filename, mmap_mode="r")[rows])


def train(X: np.ndarray) -> MLPClassifier:
    """Return a network that was trained on a few samples."""
    few = np.array(X[:500])
    return MLPClassifier((32,), max_epochs=5, random_state=0).fit(few, labels_of(len(X))[:500])


def _explain_into_file(X: np.ndarray, folder: Path) -> None:
    out = np.lib.format.open_memmap(folder / f"R{len(X)}.npy", "w+", np.float32, X.shape)
    train(X).explain(X, out=out)


def _explain_batches(X: np.ndarray, folder: Path) -> None:
    out = np.lib.format.open_memmap(folder / f"B{len(X)}.npy", "w+", np.float32, X.shape)
    batches = (read_part(X, slice(i, i + 256)) for i in range(0, len(X), 256))
    train(X).explain(batches, out=out)


def _transform(X: np.ndarray, folder: Path) -> None:
    relevance = RelevanceTransformer(train(X), aggregate="row", random_state=0)
    relevance.fit(np.array(X[:500]), labels_of(len(X))[:500]).transform(X)


def _fit_in_parts(X: np.ndarray, folder: Path) -> None:
    esn, y = ESNClassifier(100, random_state=0), labels_of(len(X))
    for start in range(0, len(X), 5000):
        part = slice(start, start + 5000)
        esn.partial_fit(read_part(X, part), y[part], classes=[0, 1])


def _skill_map(X: np.ndarray, folder: Path) -> None:
    skill_map(train(X), X, labels_of(len(X)), n_draws=8, n_permutations=99, random_state=0)


def _diagnose(X: np.ndarray, folder: Path) -> None:
    diagnose(train(X), X, labels_of(len(X)), random_state=0)


WORKS: dict[str, Callable[[np.ndarray, Path], Any]] = {
    "a network, trained on 500 samples": lambda X, folder: train(X),
    "`explain(X)`, with its result": lambda X, folder: train(X).explain(X),
    "`explain(X, out=file)`": _explain_into_file,
    "`explain(generator, out=file)`": _explain_batches,
    '`explain(X, target="all", return_details=True)`, with its result': lambda X, folder: train(
        X
    ).explain(X, target="all", return_details=True),
    "`predict_proba(X)`": lambda X, folder: train(X).predict_proba(X),
    '`RelevanceTransformer(aggregate="row").transform(X)`': _transform,
    "`MLPClassifier().fit(X, y)`": lambda X, folder: MLPClassifier(
        (32,), max_epochs=1, random_state=0
    ).fit(X, labels_of(len(X))),
    "`ESNClassifier().fit(X, y)`": lambda X, folder: ESNClassifier(100, random_state=0).fit(
        X, labels_of(len(X))
    ),
    "`ESNClassifier().partial_fit` in parts": _fit_in_parts,
    "`skill_map(model, X, y)`": _skill_map,
    "`diagnose(model, X, y)`": _diagnose,
}


def measure(name: str, path: Path) -> float:
    """Return the peak MiB of this process after some work."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        WORKS[name](np.load(path, mmap_mode="r"), Path(folder))
        return status("VmHWM") / MIB


def measure_in_process(name: str, path: Path) -> float:
    """Return the peak MiB of a process of its own."""
    root = Path(__file__).parents[2]
    out = subprocess.run(
        [sys.executable, "-m", f"{__package__}.large", "--one", name, str(path)],
        cwd=root,
        env=os.environ | ENVIRONMENT | {"TMPDIR": str(path.parent)},
        check=True,
        capture_output=True,
        text=True,
    )
    return float(out.stdout.split()[-1])


def print_table(sizes: Sequence[int], only: str) -> None:
    """Measure, and print a row for each entry point."""
    headers = [f"{n:,} ({n * 4 * SHAPE[0] * SHAPE[1] / MIB:.0f} MiB)" for n in sizes]
    print(f"| peak of the process, MiB | {' | '.join(headers)} |")
    print(f"|---|{'---|' * len(headers)}")
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{n}.npy" for n in sizes]
        for path, n in zip(paths, sizes, strict=True):
            write_samples(path, n)
        for name in WORKS:
            if only in name:
                found = [measure_in_process(name, path) for path in paths]
                print(f"| {name} | {' | '.join(f'{v:.0f}' for v in found)} |", flush=True)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.large", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="N")
    parser.add_argument("--only", default="", help="entry points whose names hold this")
    parser.add_argument("--one", nargs=2, help="an entry point and a file, in this process")
    options = parser.parse_args()
    if options.one:
        name, path = options.one
        print(measure(name, Path(path)))
        return
    start = time.perf_counter()
    print_table(options.sizes, options.only)
    print(f"\n{time.perf_counter() - start:.0f} s in all", file=sys.stderr)


if __name__ == "__main__":
    main()
