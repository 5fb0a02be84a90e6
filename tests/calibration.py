"""How often `skill_map` errs, and what it finds, on data whose truth is known by construction.

``python -m tests.calibration`` draws every row of the tables of ``docs/calibration.md`` some
hundred times (``helpers/calibrating.py``) and writes them there. What each draw found is appended
to a file at once, so that an interrupted run goes on where it was; delete the file to begin anew,
as after a change of what is simulated or tested.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import torch
from joblib import Parallel, delayed

from tests.helpers.calibrating import ROWS, draw
from tests.helpers.calibration_tables import write_tables
from tests.helpers.pages import put_tables

CHUNK = 5  # draws that a worker makes in one go


def read(path):
    """Return what was found, by row and number of the draw; a line cut short is left out."""
    found = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                result = json.loads(line)
            except json.JSONDecodeError:
                continue
            found[result["row"], result["draw"]] = result["found"]
    return found


def draw_chunk(row, numbers):
    """Return the lines of several draws."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [{"row": row, "draw": n, "found": draw(row, n)} for n in numbers]


def run(names, n_draws, path, n_jobs):
    """Make the draws that are missing, and append what they find to the file."""
    known = read(path)
    # Each of these draws makes up to ten maps.
    few = ("states/", "used/")
    wanted = {row: n_draws // 4 if row.startswith(few) else n_draws for row in names}
    missing = {row: [n for n in range(k) if (row, n) not in known] for row, k in wanted.items()}
    # Turn by turn, so that an early look sees all rows.
    tasks = [
        (row, numbers[first : first + CHUNK])
        for first in range(0, n_draws, CHUNK)
        for row, numbers in missing.items()
        if numbers[first : first + CHUNK]
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    start, total, done = time.monotonic(), sum(map(len, missing.values())), 0
    parallel = Parallel(n_jobs=n_jobs, return_as="generator_unordered")
    with path.open("a+b") as file:  # an interrupted run may have left half a line
        file.seek(max(0, file.seek(0, 2) - 1))
        is_cut = file.read() not in (b"", b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" if is_cut else "")
        for lines in parallel(delayed(draw_chunk)(*task) for task in tasks):
            file.writelines(json.dumps(line) + "\n" for line in lines)
            file.flush()
            done += len(lines)
            if done % (20 * CHUNK) < CHUNK:
                print(f"{done} of {total} draws in {time.monotonic() - start:.0f} s", flush=True)


def say_versions():
    """Return the versions of what draws and tests."""
    names = ("sklrp", "torch", "numpy", "scipy", "scikit-learn")
    return "Made with " + ", ".join(f"{name} {version(name)}" for name in names) + ".\n\n"


def main():
    """Run the calibration from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.calibration", description=__doc__)
    parser.add_argument("--draws", type=int, default=200, help="of each row")
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME", help="rows, by prefix")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--results", type=Path, default=Path("build/calibration.jsonl"))
    parser.add_argument("--write", type=Path, default=Path("docs/calibration.md"))
    parser.add_argument("--list", action="store_true", help="print the names of rows, and stop")
    options = parser.parse_args()
    names = [row for row in ROWS if row.startswith(tuple(options.only))]
    if not names:
        parser.error(f"--only {' '.join(options.only)}: no row begins so; --list prints them")
    if options.list:
        print("\n".join(names))
        return
    run(names, options.draws, options.results, options.jobs)
    tables = say_versions() + write_tables(read(options.results))
    print("\n" + tables)
    put_tables(options.write, tables)


if __name__ == "__main__":
    main()
