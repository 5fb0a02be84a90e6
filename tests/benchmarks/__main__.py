"""Print every row of the tables of speed and memory: ``python -m tests.benchmarks``.

Each time is a ratio to a named other thing in the same run: medians of interleaved repeats, which
pytest-benchmark and asv do not offer, as they finish one function before they start the next.
``--write docs/benchmarks.md`` puts the tables between the markers of that file.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from . import engine, esn, exponents, fit, memory, networks, rows, skill
from .measure import Row, find_place, machine, threads, write

MARKERS = ("<!-- benchmarks -->", "<!-- /benchmarks -->")
SECTIONS: dict[str, list[Callable[..., list[Row]]]] = {
    "Explaining": [
        engine.bench_presets,
        engine.bench_lstm,
        engine.bench_ways,
        engine.bench_shortcut,
        engine.bench_defence,
        networks.bench_transformers,
        networks.bench_published,
        rows.bench_lstm_loop,
        esn.bench_esn,
    ],
    "Exponents": [exponents.bench_exponents],
    "Memory": [memory.bench_memory],
    "Skill map": [skill.bench_skill],
    "Training and prediction": [fit.bench_fit, fit.bench_predict, rows.bench_search],
    "Start": [rows.bench_import, rows.bench_start],
}
ONE_THREAD = {"Memory", "Skill map", "Start"}  # processes of their own


def run(quick: bool, n_threads: int) -> Iterator[tuple[str, list[Row]]]:
    """Yield the sections and their rows, measured with that many threads."""
    for title, functions in SECTIONS.items():
        if n_threads > 1 and title in ONE_THREAD:
            continue
        with threads(n_threads):
            yield title, [row for function in functions for row in function(quick=quick)]


def is_met(row: Row) -> bool | None:
    """Return whether a row reaches what it should; None where nothing is set."""
    if not row.get("reach"):
        return None
    sign, bound = row["reach"].split()[:2]
    return row["ratio"] <= float(bound) if sign == "≤" else row["ratio"] >= float(bound)


def table(title: str, found: list[Row]) -> str:
    """Return rows as a table in markdown."""
    lines = [f"### {title}", "", "| what | case | rule | measured | reach | met |"]
    lines.append("|---|---|---|---|---|---|")
    for row in found:
        value = f"{row['ratio']:.3g} {row.get('unit', '')}".strip()
        met = {True: "yes", False: "no", None: ""}[is_met(row)]
        cells = [row["what"], row["case"], row.get("rule", ""), value, row.get("reach", ""), met]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="does it run? no figures")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--write", type=Path, metavar="FILE", help="a file with the two markers")
    options = parser.parse_args()
    if options.write:
        if options.quick:
            parser.error("--quick gives no figures to write")
        find_place(options.write, MARKERS)
    start, parts = time.perf_counter(), []
    for n_threads in options.threads:
        note = " (tiny cases under the names of the full ones)" if options.quick else ""
        parts.append(f"{machine(n_threads)}{note}:")
        print(parts[-1], flush=True)
        for title, found in run(options.quick, n_threads):
            parts.append(table(title, found))
            print(f"\n{parts[-1]}", flush=True)
    print(f"\n{time.perf_counter() - start:.0f} s in all")
    if options.write:
        write(options.write, "\n\n".join(parts), MARKERS)


if __name__ == "__main__":
    main()
