"""How often ``diagnose`` is right on cases whose truth is known (``helpers/planted``).

``python -m tests.planted`` diagnoses every case with seven seeds and prints how often the verdict
is right, by seeds and by kind. The verdict was tuned on seeds 0 to 4; seeds 5 and 6 were left for
the proof. A run that was cut off goes on where it stopped if it is given ``--keep`` again.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from scipy.stats import beta

from sklrp.diagnostics import skill_map
from tests.helpers.pages import put_tables
from tests.helpers.planted import CASES, VERDICTS, report

TUNED, HELD_OUT = (0, 1, 2, 3, 4), (5, 6)


def grade(name, seed, with_cells=False):
    """Diagnose one case, and return what is to be known of it."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # a flat rule says by itself that its maps are degenerate
    start = time.perf_counter()
    case = CASES[name](seed)
    trained = time.perf_counter()
    found = {"name": name, "seed": seed, "verdict": "refused", "reasons": [], "tests": {}}
    try:
        result = report(case, seed)
    except (TypeError, ValueError) as error:
        found["reasons"] = [f"{type(error).__name__}: {error}"]
    else:
        found["verdict"], found["reasons"] = result.verdict, list(result.reasons)
        found["tests"] = {
            test.name: [test.verdict, float(test.statistic)] for test in result.tests.values()
        }
    found["s_train"], found["s_diagnose"] = trained - start, time.perf_counter() - trained
    if with_cells and case.true_cells is not None and found["verdict"] != "refused":
        found["cells"] = grade_cells(case, seed)
    return found


def grade_cells(case, seed):
    """Return how many cells the skill map finds that are true, and that are not."""
    found = skill_map(
        case.model,
        case.X,
        case.y,
        X_train=case.X_train,
        groups=case.groups,
        target=case.target,
        random_state=seed,
    )
    true = case.true_cells
    return {
        "true": int(true.sum()),
        "found": int((found.true & true).sum()),
        "wrong": int((found.true & ~true).sum()),
    }


def is_right(result):
    """Return whether a verdict is the truth, or one that is honest too."""
    planted = CASES[result["name"]]
    return result["verdict"] in (planted.truth, *planted.also)


def run(seeds, names, jobs=1, keep=None, with_cells=False):
    """Return what was found of every case and seed; print it, and keep it in a file of lines."""
    known = {}
    if keep is not None and keep.exists():
        lines = map(json.loads, keep.read_text(encoding="utf-8").splitlines())
        known = {(line["name"], line["seed"]): line for line in lines}
    todo = [(name, seed) for name in names for seed in seeds if (name, seed) not in known]
    results = Parallel(n_jobs=jobs, return_as="generator_unordered")(
        delayed(grade)(name, seed, with_cells) for name, seed in todo
    )
    for result in results:
        known[result["name"], result["seed"]] = result
        print(line_of(result), flush=True)
        if keep is not None:
            with keep.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")
    return [known[name, seed] for name in names for seed in seeds]


def line_of(result):
    """Return a result in a line."""
    planted = CASES[result["name"]]
    cells = result.get("cells")
    return (
        f"{' ' if is_right(result) else '!'} {planted.truth:<9} {result['name']:<43} seed "
        f"{result['seed']}: {result['verdict']:<9} {', '.join(result['reasons'])[:160]} "
        f"({result['s_train']:.1f} s + {result['s_diagnose']:.1f} s)"
        + (f" cells {cells['found']}/{cells['true']}, {cells['wrong']} wrong" if cells else "")
    )


def rate(n, total):
    """Return a rate with its upper 95 % bound (Clopper and Pearson), in words."""
    bound = 1.0 if n == total else beta.ppf(0.95, n + 1, total - n)
    return f"{n} of {total} ({n / total:.0%}, at most {bound:.0%})"


def confusion(results):
    """Return the verdicts by truth as lines of markdown, with the rates of what is wrong."""
    verdicts = [v for v in VERDICTS if any(r["verdict"] == v for r in results)]
    cells = Counter((CASES[r["name"]].truth, r["verdict"]) for r in results)
    labels = {"artifact": "planted artifact", "fact": "sound map", "undecided": "cannot be told"}
    lines = [
        f"| truth | {' | '.join(verdicts)} |",
        "|---|" + "---|" * len(verdicts),
        *(
            f"| {label} | {' | '.join(str(cells[truth, v]) for v in verdicts)} |"
            for truth, label in labels.items()
            if any(cells[truth, v] for v in verdicts)
        ),
        "",
    ]

    def count(truth, verdict):
        of_truth = [r for r in results if CASES[r["name"]].truth == truth]
        wrong = [r for r in of_truth if r["verdict"] == verdict and not is_right(r)]
        return rate(len(wrong), len(of_truth)) if of_truth else "none of none"

    n_right = sum(map(is_right, results))
    n_exact = sum(r["verdict"] == CASES[r["name"]].truth for r in results)
    undecided = sum(r["verdict"] == "undecided" and not is_right(r) for r in results)
    return [
        *lines,
        f"Right: {n_right} of {len(results)} ({n_right / len(results):.1%}), of which "
        f"{n_right - n_exact} honest without being the truth (undecided, or refused).",
        f"Wrong: sound maps called artifacts {count('fact', 'artifact')}; artifacts called facts "
        f"{count('artifact', 'fact')}; undecided without need {undecided}.",
        "",
    ]


def by_kind(results):
    """Return how many verdicts are right, for each kind of case, as lines of markdown."""
    lines = ["| kind | truth | cases | right | wrong verdicts |", "|---|---|---|---|---|"]
    kinds = dict.fromkeys((CASES[r["name"]].kind, CASES[r["name"]].truth) for r in results)
    for kind, truth in sorted(kinds):
        of_kind = [
            r for r in results if (CASES[r["name"]].kind, CASES[r["name"]].truth) == (kind, truth)
        ]
        wrong = Counter(r["verdict"] for r in of_kind if not is_right(r))
        lines.append(
            f"| {kind} | {truth} | {len({r['name'] for r in of_kind})} | "
            f"{sum(map(is_right, of_kind))} of {len(of_kind)} | "
            + ", ".join(f"{v} {n}" for v, n in wrong.most_common())
            + " |"
        )
    return lines


def by_case(results):
    """Return the verdicts of each case and the tests that convict, as lines of markdown."""
    lines = [
        "| case | truth | verdicts | tests that convict | why |",
        "|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(r["name"] for r in results):
        of_case = [r for r in results if r["name"] == name]
        verdicts = Counter(r["verdict"] for r in of_case)
        reasons = Counter(x for r in of_case if r["verdict"] == "artifact" for x in r["reasons"])
        lines.append(
            f"| {name} | {' or '.join((CASES[name].truth, *CASES[name].also))} | "
            + ", ".join(f"{v} {n}" for v, n in verdicts.most_common())
            + " | "
            + ", ".join(f"{r} {n}" for r, n in reasons.most_common())
            + f" | {CASES[name].why} |"
        )
    return lines


def cells(results):
    """Return how the true cells were found, as lines of markdown."""
    graded = [(r["name"], r["cells"]) for r in results if "cells" in r]
    if not graded:
        return []
    n_wrong = sum(c["wrong"] > 0 for _, c in graded)
    with_truth = [c for _, c in graded if c["true"]]
    found = [c["found"] / c["true"] for c in with_truth]
    lines = ["| case | true cells | found | wrong cells |", "|---|---|---|---|"]
    for name in dict.fromkeys(name for name, _ in graded):
        of_case = [c for n, c in graded if n == name]
        mean = {key: np.mean([c[key] for c in of_case]) for key in ("true", "found", "wrong")}
        lines.append(
            f"| {name} | {mean['true']:.0f} | {mean['found']:.0f} | {mean['wrong']:.1f} |"
        )
    return [
        "## True cells",
        "",
        f"Maps with any cell called true where the target does not depend on it: "
        f"{rate(n_wrong, len(graded))}. Of the cells that are true {np.mean(found):.0%} were "
        "found in the mean.",
        "",
        *lines,
    ]


def write(results):
    """Return the tables as markdown."""
    lines = []
    for title, seeds in (("Held-out seeds", HELD_OUT), ("Seeds that were looked at", TUNED)):
        of_seeds = [r for r in results if r["seed"] in seeds]
        if of_seeds:
            lines += [f"## {title}", "", *confusion(of_seeds), *by_kind(of_seeds), ""]
    lines += ["## Cases", "", *by_case(results), "", *cells(results)]
    return "\n".join(lines).rstrip() + "\n"


def main():
    """Run the suite from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.planted", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[*TUNED, *HELD_OUT])
    parser.add_argument(
        "--cases", nargs="*", metavar="WORDS", help="cases whose name, kind or truth has the words"
    )
    parser.add_argument("--jobs", type=int, default=1, help="number of processes")
    parser.add_argument("--cells", action="store_true", help="grade the skill map's cells too")
    parser.add_argument("--keep", type=Path, help="a file that keeps results, to go on with")
    parser.add_argument("--write", type=Path, help="put the tables between the marks of this page")
    options = parser.parse_args()
    names = choose(options.cases)
    if options.cases == []:
        for name in names:
            print(f"{CASES[name].truth:<9} {CASES[name].kind:<28} {name}")
        return
    tables = write(run(options.seeds, names, options.jobs, options.keep, options.cells))
    print("\n" + tables)
    if options.write:
        put_tables(options.write, tables)


def choose(words):
    """Return the names of cases that have any of the words in name or kind; all without words."""
    if not words:
        return list(CASES)
    return [
        name
        for name, planted in CASES.items()
        if any(word in (name, planted.truth) or word in f"{name} {planted.kind}" for word in words)
    ]


if __name__ == "__main__":
    main()
