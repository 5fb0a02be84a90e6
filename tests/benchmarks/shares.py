"""Where the time of an explanation goes: ``python -m tests.benchmarks.shares``.

Each row holds the time of ``explain`` and of its parts, in units of the yardstick: one forward
pass and the gradient. The products of matrices and the convolutions are those of the rule, so
that their column bounds what any engine can reach that has torch compute them one by one. Beside
it stands what the row is to reach.
``--write docs/benchmarks.md`` puts the table between its markers in that file.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch.profiler import ProfilerActivity, profile

from sklrp import check_rule, explain
from sklrp.modules import make_esn

from . import esn, networks
from .engine import (
    BOX,
    ByHand,
    gradient,
    make_cases,
    make_lstm_cases,
    make_yardstick,
    quiet,
)
from .measure import find_place, machine, median_times, threads, write

MARKERS = ("<!-- shares -->", "<!-- /shares -->")

# Words of the names of torch's kernels; what has none of them is computed value by value.
KINDS = {
    "products": {
        *(
            "mm",
            "addmm",
            "bmm",
            "baddbmm",
            "mv",
            "addmv",
            "dot",
            "matmul",
            "linear",
            "convolution",
        ),
        *("conv2d", "rnn", "lstm", "attention"),
    },
    "moves": {
        *("copy", "cat", "fill", "zero", "index", "gather", "scatter", "select", "slice", "empty"),
        *("view", "as", "strided", "transpose", "expand", "clone", "pad", "unbind", "stack", "to"),
        *("permute", "reshape", "unflatten", "resize", "narrow", "split", "chunk", "detach", "t"),
    },
}
PARTS = ("products", "value by value", "moves", "Python")


def take_apart(ours: Callable[[], Any], yardstick: Callable[[], Any], repeats: int) -> list[float]:
    """Return the time of an explanation and of its parts over that of the yardstick."""
    t = median_times({"ours": ours, "yardstick": yardstick}, repeats)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(repeats):
            ours()
    parts = dict.fromkeys(PARTS, 0.0)
    for event in found.key_averages():
        if event.key.startswith("aten::"):
            parts[find_kind(event.key)] += event.self_cpu_time_total / 1e6 / repeats
    # Torch's profiler sees no Python: it is what remains of the time without the profiler.
    parts["Python"] = max(0.0, t["ours"] - sum(parts.values()))
    return [t["ours"] / t["yardstick"], *(parts[part] / t["yardstick"] for part in PARTS)]


def find_kind(kernel: str) -> str:
    """Return what kind of work a kernel of torch does."""
    words = set(kernel.removeprefix("aten::").split("_"))
    return next((kind for kind, known in KINDS.items() if words & known), "value by value")


def make_rows(
    quick: bool,
) -> Iterator[tuple[str, str, str, Callable[[], Any], Callable[[], Any]]]:
    """Yield case, rule, what to reach, the explanation and its yardstick."""
    for k, case in enumerate(make_cases(quick)):
        model, X = case.model.eval().requires_grad_(False), case.X
        yardstick = make_yardstick(case)
        for rule, reach in case.reach.items():
            given = check_rule(rule, bounds=BOX)
            yield case.name, rule, reach, partial(explain, model, X, rule=given), yardstick
        if k < 3:
            name, ours = f"{case.name}, forward by hand", partial(explain, ByHand(model), X)
            yield name, "epsilon", "", partial(ours, rule="epsilon"), yardstick
    rng = np.random.default_rng(0)
    for name, reach, lstm, X in make_lstm_cases(quick):
        ours = partial(explain, lstm, X, rule="epsilon")
        yield name, "epsilon", reach, ours, partial(gradient, lstm, X)
    n, size, n_units = (8, 10, 6) if quick else (256, 100, 300)
    model = make_esn((size, size), 2, n_reservoir=n_units, sweep="right").eval()
    X = rng.normal(scale=0.3, size=(n, size * size)).astype(np.float32)
    case_name = f"ESN ({n}, {size}, {size}, {n_units})"
    for rule, reach in esn.REACH.items():
        ours = partial(explain, model, X, rule=rule)
        yield case_name, rule, reach, ours, partial(gradient, model, X)
    written = networks.SMALL if quick else networks.TRANSFORMERS
    cases = [
        (name, make(), n, shape, networks.REACH) for name, (make, n, shape) in written.items()
    ]
    for name, network, n, shape, reach in [*cases, *networks.make_published(quick)]:
        model = network.eval().requires_grad_(False)
        X = rng.normal(size=(n, *shape)).astype(np.float32)
        ours = partial(explain, model, X, rule="epsilon")
        yield f"{name}, {n} samples", "epsilon", reach, ours, partial(gradient, model, X)


def main() -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.shares", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="does it run? no figures")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--write", type=Path, metavar="FILE", help="a file with the two markers")
    options = parser.parse_args()
    if options.write and options.quick:
        parser.error("--quick gives no figures to write")
    if options.write:
        find_place(options.write, MARKERS)
    start = time.perf_counter()
    lines = [
        f"{machine(options.threads)}:",
        "",
        f"| case | rule | reach | explain | {' | '.join(PARTS)} |",
    ]
    lines.append("|---" * (4 + len(PARTS)) + "|")
    print("\n".join(lines), flush=True)
    with threads(options.threads), quiet():
        for case, rule, reach, ours, yardstick in make_rows(options.quick):
            values = take_apart(ours, yardstick, 1 if options.quick else 5)
            cells = [case, rule, reach, *(f"{v:.2f}" for v in values)]
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    print(f"\n{time.perf_counter() - start:.0f} s in all")
    if options.write:
        write(options.write, "\n".join(lines), MARKERS)


if __name__ == "__main__":
    main()
