"""What explaining an archive costs: ``python -m tests.benchmarks.archive [--quick]``.

Measures CPU seconds of one thread for slices of fields, fits the exponents of time against cells
and samples, and scales them to 40 years of ERA5 at 0.25 degree. Prints the table of
docs/clusters.md; what is extrapolated is said there.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np
import torch

import sklrp

CELLS_OF_ERA5 = 721 * 1440
SAMPLES = {"daily": 40 * 365.25, "hourly": 40 * 365.25 * 24}


def measure(n_samples: int, shape: tuple[int, int], repeats: int) -> float:
    """Return the median CPU seconds of explaining so many fields."""
    X = np.random.default_rng(0).normal(size=(n_samples, *shape)).astype(np.float32)
    model = sklrp.CNNClassifier((16, 32), input_shape=(1, *shape), max_epochs=1, random_state=0)
    model.fit(X[:4], np.arange(4) % 2).explain(X[:2])
    times = []
    for _ in range(repeats):
        before = time.process_time()
        model.explain(X)
        times.append(time.process_time() - before)
    return statistics.median(times)


def fit_exponent(sizes: list[int], times: list[float]) -> float:
    """Return the slope of log time against log size."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def main(quick: bool) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    scale = 8 if quick else 1
    shapes = [
        (91 // scale, 180 // scale),
        (181 // scale, 360 // scale),
        (361 // scale, 720 // scale),
    ]
    cells = [height * width for height, width in shapes]
    by_cells = [measure(12, shape, 3) / 12 for shape in shapes]
    counts = [6, 24, 96]
    by_samples = [measure(n, shapes[0], 3) for n in counts]
    of_cells = fit_exponent(cells, by_cells)
    for n, seconds in zip(cells, by_cells, strict=True):
        print(f"{n} cells: {seconds:.4f} s a sample")
    print(f"exponent against cells {of_cells:.2f}, samples {fit_exponent(counts, by_samples):.2f}")
    of_one = by_cells[-1] * (CELLS_OF_ERA5 / cells[-1]) ** of_cells
    print(f"{CELLS_OF_ERA5} cells, extrapolated: {of_one:.2f} s a sample")
    for name, n in SAMPLES.items():
        print(f"40 years, {name}: {n * of_one / 3600:.1f} core hours")


if __name__ == "__main__":
    main("--quick" in sys.argv)
