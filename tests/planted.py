"""How often ``diagnose`` is right on cases whose truth is known (``helpers/planted_cases.py``).

``python -m tests.planted`` diagnoses every case with five seeds and prints how often the verdict
is right. The limits of the tests were chosen on seeds 0 to 2; seeds 3 and 4 were left for the
proof.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter
from pathlib import Path

import torch

from tests.helpers.planted_cases import CASES, report, truth

TUNED, HELD_OUT = (0, 1, 2), (3, 4)


def run(seeds, names):
    """Return the verdicts and reasons of every case and seed, and print them."""
    found = {}
    for name in names:
        for seed in seeds:
            start = time.perf_counter()
            result = report(CASES[name](seed), seed)
            found[name, seed] = result.verdict, result.reasons
            print(
                f"{truth(name):<9} {name:<36} seed {seed}: {result.verdict:<9} "
                f"{', '.join(result.reasons)} ({time.perf_counter() - start:.0f} s)",
                flush=True,
            )
    return found


def write(found):
    """Return the confusion tables and the cases as markdown."""
    lines = []
    for title, seeds in (("Seeds 3 and 4 (held out)", HELD_OUT), ("Seeds 0 to 2", TUNED)):
        cells = Counter(
            (truth(name), verdict) for (name, seed), (verdict, _) in found.items() if seed in seeds
        )
        n_right = sum(n for (true, verdict), n in cells.items() if true == verdict)
        n_sound = sum(n for (true, _), n in cells.items() if true == "fact")
        false = cells["fact", "artifact"]
        if not n_sound:
            continue
        lines += [
            f"## {title}",
            "",
            "| truth | artifact | undecided | fact |",
            "|---|---|---|---|",
            *(
                f"| {label} | "
                + " | ".join(str(cells[true, v]) for v in ("artifact", "undecided", "fact"))
                + " |"
                for true, label in (("artifact", "planted artifact"), ("fact", "sound map"))
            ),
            "",
            f"{n_right} of {sum(cells.values())} verdicts are right "
            f"({n_right / sum(cells.values()):.0%}); {false} of {n_sound} sound maps are called "
            f"artifacts ({false / n_sound:.0%}).",
            "",
        ]
    lines += [
        "## Cases",
        "",
        "| case | truth | verdicts | tests that convict |",
        "|---|---|---|---|",
    ]
    for name in dict.fromkeys(name for name, _ in found):
        results = [result for (n, _), result in sorted(found.items()) if n == name]
        verdicts = Counter(verdict for verdict, _ in results)
        reasons = Counter(r for verdict, rs in results if verdict == "artifact" for r in rs)
        lines.append(
            f"| {name} | {truth(name)} | "
            + ", ".join(f"{v} {n}" for v, n in verdicts.most_common())
            + " | "
            + ", ".join(f"{r} {n}" for r, n in reasons.most_common())
            + " |"
        )
    return "\n".join(lines) + "\n"


def main():
    """Run the suite from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.planted", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[*TUNED, *HELD_OUT])
    parser.add_argument("--cases", nargs="+", default=list(CASES), metavar="NAME")
    parser.add_argument("--write", type=Path, help="put the tables between the marks of this page")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # a flat rule says by itself that its maps are degenerate
    tables = write(run(options.seeds, options.cases))
    print("\n" + tables)
    if options.write:
        page = options.write.read_text(encoding="utf-8")
        head, rest = page.split("<!-- tables -->", 1)
        tail = rest.split("<!-- /tables -->", 1)[1]
        page = f"{head}<!-- tables -->\n{tables}<!-- /tables -->{tail}"
        options.write.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
