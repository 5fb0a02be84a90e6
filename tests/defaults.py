"""What the estimators reach at their defaults, beside baselines that anyone tries first.

``python -m tests.defaults`` fits every estimator without any parameter but the layout of the
samples on small real tasks, and prints accuracies (or R² and errors) and seconds of the processor.
Then it changes one default at a time where the goal is not reached, and prints that beside it.
ItalyPowerDemand and BasicMotions come in the wheel of aeon, which need not be importable: ``pip
install --no-deps aeon``, or ``pip install --no-deps --target DIR aeon`` and ``--aeon DIR``. A run
that was cut off goes on where it stopped if it is given ``--keep`` again.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_iris,
    load_wine,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import accuracy_score, r2_score, root_mean_squared_error
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

import sklrp
from sklrp.datasets import load_pacific_sst, make_squares
from tests.helpers.pages import put_tables

NETWORKS = ("MLP", "CNN", "LSTM", "ESN")
LACK = 0.03  # how much less than the better baseline a default may reach
OTHERS = {
    "LSTM, `bidirectional=True`": ("LSTM", {"bidirectional": True}),
    "LSTM, `hidden_size=256`": ("LSTM", {"hidden_size": 256}),
    "LSTM, `lr=0.01`": ("LSTM", {"lr": 0.01}),
    "LSTM, `pooling='mean'`": ("LSTM", {"pooling": "mean"}),
    "LSTM, `weight_decay=0.001`": ("LSTM", {"weight_decay": 0.001}),
    "LSTM, `dropout=0.3`": ("LSTM", {"dropout": 0.3}),
    "ESN, `leak_rate=0.4`": ("ESN", {"leak_rate": 0.4}),
    "ESN, `ridge='auto'`": ("ESN", {"ridge": "auto"}),
    "ESN, `input_scale=0.5`": ("ESN", {"input_scale": 0.5}),
    "ESN, `pooling='mean'`": ("ESN", {"pooling": "mean"}),
    "ESN, `pooling='max'`": ("ESN", {"pooling": "max"}),
    "ESN, `leak_first_step=False`": ("ESN", {"leak_first_step": False}),
    "ESN, `bias_scale=0.3`": ("ESN", {"bias_scale": 0.3}),
    "ESN, `bias_scale=1`": ("ESN", {"bias_scale": 1.0}),
}
OF_OTHERS = ("wine", "BasicMotions", "GunPoint")


def flat(X):
    """Return samples as rows."""
    return X.reshape(len(X), -1)


def in_folds(X, y, seed, splitter=StratifiedKFold, n_splits=3):
    """Return the parts to train on and to predict, as often as there are folds."""
    splits = splitter(n_splits, shuffle=True, random_state=seed).split(X, y)
    return [(X[train], y[train], X[test], y[test]) for train, test in splits]


def standardised(load, seed, splitter=StratifiedKFold):
    """Return folds of a table whose columns are standardised in the training part."""
    parts = []
    for X_train, y_train, X_test, y_test in in_folds(*load(return_X_y=True), seed, splitter):
        scaler = StandardScaler().fit(X_train)
        parts.append((scaler.transform(X_train), y_train, scaler.transform(X_test), y_test))
    return parts


def digits(seed, shape=(8, 8)):
    """Return one fold of three of the digits, a third to predict."""
    X, y = load_digits(return_X_y=True)
    return in_folds(X.reshape(-1, *shape) / 16, y, seed)[:1]


def squares(seed):
    """Return images of 24 x 24 pixels; at 100 x 100 a CNN and an LSTM take minutes."""
    X, y, _ = make_squares(150, size=24, random_state=seed)
    return [(X[:200], y[:200], X[200:], y[200:])]


def of_aeon(name, seed, root=None):
    """Return the archive's own split of series ``(n, n_channels, n_steps)``."""
    if root is None:
        spec = importlib.util.find_spec("aeon")
        if spec is None:
            raise ImportError(f"{name} comes with aeon: pip install --no-deps aeon, or --aeon DIR")
        root = Path(spec.origin).parents[1]
    parts = []
    for part in ("TRAIN", "TEST"):
        path = Path(root) / "aeon" / "datasets" / "data" / name / f"{name}_{part}.ts"
        lines = path.read_text(encoding="utf-8").lower().partition("@data")[2].split()
        rows = [line.split(":") for line in lines]
        series = [[[float(v) for v in channel.split(",")] for channel in row[:-1]] for row in rows]
        parts += [np.array(series), np.array([row[-1] for row in rows])]
    return [tuple(parts)]


def pacific(seed):
    """Return folds of 50 winters: the fields, in units of one deviation, and their index in K."""
    data = load_pacific_sst(neutral=True)
    X = np.asarray(data.data)
    return [
        (train / train.std(), y_train, test / train.std(), y_test)
        for train, y_train, test, y_test in in_folds(X, data.index, seed, KFold, 5)
    ]


CLASSES = {
    "digits, 8 × 8": digits,
    "wine": functools.partial(standardised, load_wine),
    "breast cancer": functools.partial(standardised, load_breast_cancer),
    "iris": functools.partial(standardised, load_iris),
    "BasicMotions": functools.partial(of_aeon, "BasicMotions"),
    "ItalyPowerDemand": functools.partial(of_aeon, "ItalyPowerDemand"),
    "GunPoint": functools.partial(of_aeon, "GunPoint"),
    "squares, 24 × 24": squares,
    "digits, 64 steps": functools.partial(digits, shape=(64,)),
}
VALUES = {
    "diabetes": functools.partial(standardised, load_diabetes, splitter=KFold),
    "Pacific, Niño 3.4": pacific,
}
BASELINES = {
    "logistic regression": LogisticRegression(max_iter=2000),
    "1-NN": KNeighborsClassifier(1),
    "ridge": RidgeCV(np.logspace(-3, 5, 33)),
    "5-NN": KNeighborsRegressor(5),
}


def make(model, task, seed, X):
    """Return a model at its defaults and the samples as it takes them."""
    if model in BASELINES:
        return BASELINES[model], flat(X)
    kind = "Classifier" if task in CLASSES else "Regressor"
    model, changed = OTHERS.get(model, (model, {}))
    params = {"random_state": seed, **changed}
    is_series = X.ndim == 3 and "×" not in task and task in CLASSES
    if model == "MLP":
        X = flat(X)
    elif is_series and model == "CNN":
        params["input_shape"] = X.shape[1:]
    elif is_series:
        X = X.transpose(0, 2, 1)
    return getattr(sklrp, model + kind)(**params), X


def grade(task, model, seed, root=None):
    """Fit a model on every part of a task, and return what it reaches and how long it takes."""
    load = CLASSES.get(task) or VALUES[task]
    if getattr(load, "func", None) is of_aeon:
        load = functools.partial(load, root=root)
    truths, predictions, seconds, kept, warned = [], [], [], [], 0
    for X_train, y_train, X_test, y_test in load(seed):
        estimator, samples = make(model, task, seed, X_train)
        start = time.process_time()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            estimator.fit(samples, y_train)
        seconds.append(time.process_time() - start)
        warned += any(issubclass(w.category, ConvergenceWarning) for w in caught)
        truths.append(y_test)
        samples = make(model, task, seed, X_test)[1]
        predictions.append(estimator.predict(samples))
        if model.startswith("ESN") and task in OF_OTHERS:
            kept.append(share_of_biases(estimator, samples[:100]))
    truth, prediction = np.concatenate(truths), np.concatenate(predictions)
    found = {"task": task, "model": model, "seed": seed, "warned": warned}
    found["seconds"] = float(np.mean(seconds))
    if kept:
        found["kept"] = float(np.mean(kept))
    if task in CLASSES:
        return {**found, "score": accuracy_score(truth, prediction)}
    rmse = root_mean_squared_error(truth, prediction)
    return {**found, "score": r2_score(truth, prediction), "rmse": rmse}


def share_of_biases(estimator, X):
    """Return what biases keep of the relevance, as a multiple of the score; a median."""
    details = estimator.explain(X, return_details=True)[1]
    kept = sum(layer.bias for layer in details.layers)
    return float(np.median(np.abs(kept / details.score)))


def run(seeds, tasks, root=None, keep=None):
    """Return what every model reaches in every task with every seed, kept in a file of lines."""
    known = {}
    if keep is not None and keep.exists():
        lines = map(json.loads, keep.read_text(encoding="utf-8").splitlines())
        known = {(r["task"], r["model"], r["seed"]): r for r in lines}
    asked = [
        (task, model, seed)
        for task in tasks
        for model in (*models(task), *(OTHERS if task in OF_OTHERS else ()))
        for seed in seeds
    ]
    for key in asked:
        if key in known:
            continue
        known[key] = grade(*key, root=root)
        print(json.dumps(known[key], ensure_ascii=False), flush=True)
        if keep is not None:
            with keep.open("a", encoding="utf-8") as file:
                file.write(json.dumps(known[key]) + "\n")
    return [known[key] for key in asked]


def models(task):
    """Return the names of the models for a task: baselines first."""
    if task == "digits, 64 steps":  # the same values as 8 × 8 to all but the LSTM
        return ["logistic regression", "1-NN", "LSTM"]
    if task in CLASSES:
        return ["logistic regression", "1-NN", *NETWORKS]
    return ["ridge", "5-NN", *NETWORKS]


def table(results, tasks, show):
    """Return a table of markdown, a row for each task; `show` makes a cell of what was found."""
    columns = list(dict.fromkeys(model for task in tasks for model in models(task)))
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for task in tasks:
        of_task = [r for r in results if r["task"] == task]
        if of_task:
            cells = (show([r for r in of_task if r["model"] == m], of_task) for m in columns)
            lines.append(f"| {task} | {' | '.join(cells)} |")
    return [*lines, ""] if len(lines) > 2 else []


def show_accuracy(found, of_task):
    """Return accuracy and seconds of a model, marked where the accuracy is less than it should."""
    if not found:
        return ""
    mean = np.mean([r["score"] for r in found])
    of_baselines = [
        np.mean([r["score"] for r in of_task if r["model"] == m]) for m in models("iris")[:2]
    ]
    cell = f"{mean:.3f}"
    if found[0]["model"] in BASELINES:
        return cell
    mark = "" if mean >= max(of_baselines) - LACK else " (!)"
    return f"{cell}{mark}, {np.mean([r['seconds'] for r in found]):.1f} s"


def show_error(found, of_task):
    """Return R², the error and the seconds of a model."""
    if not found:
        return ""
    score, error, seconds = (np.mean([r[k] for r in found]) for k in ("score", "rmse", "seconds"))
    of_model = "" if found[0]["model"] in BASELINES else f", {seconds:.1f} s"
    return f"{score:.3f}, {error:.3g}{of_model}"


def table_of_others(results):
    """Return a table of what one changed default reaches, a row for each setting."""
    tasks = [task for task in OF_OTHERS if any(r["task"] == task for r in results)]
    lines = [f"| | {' | '.join(tasks)} |", "|---" * (len(tasks) + 1) + "|"]
    for network in ("LSTM", "ESN"):
        changed = [model for model in OTHERS if OTHERS[model][0] == network]
        for model in (network, *changed):
            cells = [f"{model}, defaults" if model == network else model]
            for task in tasks:
                of_task = [r for r in results if r["task"] == task]
                cells.append(show_biases([r for r in of_task if r["model"] == model], of_task))
            lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""] if tasks else []


def show_biases(found, of_task):
    """Return accuracy and, of an echo state network, what biases keep; else the seconds."""
    accuracy, seconds = show_accuracy(found, of_task).split(", ")
    if "kept" in found[0]:
        return f"{accuracy}, {np.mean([r['kept'] for r in found]):.2g}"
    return f"{accuracy}, {seconds}"


def write(results):
    """Return the tables as markdown."""
    seeds = ", ".join(map(str, sorted({r["seed"] for r in results})))
    warned = sum(r["warned"] for r in results)
    return "\n".join(
        [
            f"Mean of seeds {seeds}; {warned} of {len(results)} warned of chance.",
            "",
            *table(results, CLASSES, show_accuracy),
            *table(results, VALUES, show_error),
            *table_of_others(results),
        ]
    )


def main():
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.defaults", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tasks", nargs="+", default=[], help="words of the tasks' names")
    parser.add_argument("--aeon", type=Path, help="the directory that holds the package aeon")
    parser.add_argument("--keep", type=Path, help="a file that keeps results, to go on with")
    parser.add_argument("--write", type=Path, help="put the tables between the marks of this page")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tasks = [
        task
        for task in (*CLASSES, *VALUES)
        if not options.tasks or any(word in task for word in options.tasks)
    ]
    tables = write(run(options.seeds, tasks, options.aeon, options.keep))
    print("\n" + tables)
    if options.write:
        put_tables(options.write, tables)


if __name__ == "__main__":
    main()
