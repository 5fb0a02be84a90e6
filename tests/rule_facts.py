"""Where the maps of each rule and architecture lie, beside the input and untrained networks.

``python -m tests.rule_facts --write docs/rule_facts.md`` trains the four classifiers on images
with a square and on winters of the Pacific, grades the maps of every rule with `diagnose`, and
writes the page's tables. It takes some ten minutes on one core.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import torch

from sklrp import CNNClassifier, ESNClassifier, LSTMClassifier, MLPClassifier
from sklrp.datasets import load_pacific_sst, make_squares
from sklrp.diagnostics import diagnose
from tests.helpers.pages import put_tables

RULES = ("auto", "epsilon", "z_plus", "alpha_beta", "gamma", "w_square", "flat")
TASKS = ("squares", "Pacific")


def take_task(task):
    """Return training and held-out samples, and the cells of which the truth is known."""
    if task == "squares":
        X, y, mask = make_squares(n_per_class=125, size=50, random_state=0)
        return X[:150], y[:150], X[150:], y[150:], mask
    winters = load_pacific_sst()
    X, y = winters.data, winters.target_names[winters.target]
    return X[::2], y[::2], X[1::2], y[1::2], winters.nino34_mask


def make_networks(task):
    """Return untrained classifiers that learn the task."""
    if task == "squares":
        return {
            "MLP": MLPClassifier((32,), max_epochs=20, random_state=0),
            "CNN": CNNClassifier((8, 16), max_epochs=20, random_state=0),
            "LSTM": LSTMClassifier(32, max_epochs=40, random_state=0),
            "ESN": ESNClassifier(300, sweep="right", leak_rate=0.01, random_state=0),
        }
    return {
        "MLP": MLPClassifier((64,), max_epochs=60, lr=5e-4, random_state=0),
        "CNN": CNNClassifier((8, 16), max_epochs=50, random_state=0),
        "LSTM": LSTMClassifier(32, max_epochs=40, random_state=0),
        "ESN": ESNClassifier(random_state=0),
    }


def grade(task, rules=RULES, names=None, n_permutations=20):
    """Return a row of numbers for each network and rule.

    Parameters
    ----------
    task : {"squares", "Pacific"}
        What the networks learn.
    rules : sequence of str
        The rules.
    names : sequence of str or None, default=None
        The networks. None (default): all four.
    n_permutations : int, default=20
        Number of untrained networks.

    Returns
    -------
    list of dict
        ``network``, ``rule``, ``skill``, ``true`` (how many cells), ``known`` (how many of them
        in the mask), ``map``, ``input``, ``untrained`` (least and largest), ``verdict`` and
        ``reasons``.
    """
    X_train, y_train, X, y, mask = take_task(task)
    rows = []
    for name, network in make_networks(task).items():
        if names is not None and name not in names:
            continue
        network.fit(X_train, y_train)
        for rule in rules:
            report = diagnose(
                network,
                X,
                y,
                X_train=X_train,
                rule=rule,
                n_permutations=n_permutations,
                random_state=0,
            )
            row = {"network": name, "rule": rule, "skill": float((network.predict(X) == y).mean())}
            cells = report.picture
            if cells is not None:
                true = cells.fact | cells.missed
                row |= {
                    "true": int(true.sum()),
                    "known": int(true[mask].sum()),
                    "map": float(cells.mass),
                    "input": float(cells.input_mass),
                    "untrained": (float(cells.null_mass.min()), float(cells.null_mass.max())),
                }
            rows.append(row | {"verdict": report.verdict, "reasons": list(report.reasons)})
    return rows


def tabulate(rows, mask):
    """Return rows as lines of markdown."""
    lines = [
        f"| network | held-out accuracy | true cells (of the {mask.sum()} known) | rule | map | "
        "input | untrained | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    shown = set()
    for row in rows:
        first = row["network"] not in shown
        shown.add(row["network"])
        head = f"| {row['network']} | {row['skill']:.2f} " if first else "| | "
        if "true" not in row:
            lines.append(f"{head}| | {row['rule']} | | | | {row['verdict']} |")
            continue
        head += f"| {row['true']} ({row['known']}) " if first else "| "
        low, high = row["untrained"]
        why = f": {', '.join(row['reasons'])}" if row["verdict"] != "fact" else ""
        lines.append(
            f"{head}| {row['rule']} | {row['map']:.2f} | {row['input']:.2f} | "
            f"{low:.2f} to {high:.2f} | {row['verdict']}{why} |"
        )
    return lines


def main():
    """Grade all rules from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.rule_facts", description=__doc__)
    parser.add_argument("--write", type=Path, help="put the tables between the marks of this page")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # a flat rule says by itself that its maps are degenerate
    lines = []
    for task in TASKS:
        start = time.perf_counter()
        title = "Images with a square" if task == "squares" else "Winters of the Pacific"
        rows = grade(task)
        lines += [f"## {title}", "", *tabulate(rows, take_task(task)[-1]), ""]
        print("\n".join(lines[-len(rows) - 5 :]), f"\n{time.perf_counter() - start:.0f} s")
    if options.write:
        put_tables(options.write, "\n".join(lines))


if __name__ == "__main__":
    main()
