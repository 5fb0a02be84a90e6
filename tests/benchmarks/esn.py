"""Echo state networks: how fast they are explained, and what the forerunner's task shows of them.

``python -m tests.benchmarks.esn`` prints the maps' figures on the synthetic squares of arXiv
2210.09958 and 2302.12317 (a trained network against the same reservoir with a random readout; leak
rate against the direction of the sweep) and the speed. The rows of speed are also among those of
``python -m tests.benchmarks``.
"""

from __future__ import annotations

import argparse
import copy
import functools
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import nn

from sklrp import ESNClassifier, explain
from sklrp.datasets import make_squares
from sklrp.modules import make_esn

from .engine import gradient
from .measure import Row, median_times, threads

RULES = ("z_plus", "epsilon", "gamma")
SPLITS = ("leak_rate", "contribution")
LEAKS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5)
SWEEPS = ("right", "left")
EPSILON = 1e-6
REACH = {"epsilon": "≤ 1.0", "z_plus": "≤ 1.6", "gamma": "≤ 2.5", "alpha_beta": "≤ 2.5"}


def bench_esn(quick: bool = False) -> list[Row]:
    """Return the time of explanations of an image's columns, against three other things.

    Parameters
    ----------
    quick : bool, default=False
        Whether to take a small network.

    Returns
    -------
    list of dict
        Rows of ``what``, ``case``, ``rule``, ``ratio`` and ``reach``.
    """
    n, size, n_units, few = (8, 10, 6, 2) if quick else (256, 100, 300, 4)
    torch.manual_seed(0)
    model = make_esn((size, size), 2, n_reservoir=n_units, sweep="right").eval()
    rng = np.random.default_rng(0)
    X = rng.normal(scale=0.3, size=(n, size * size)).astype(np.float32)
    ours = {
        rule: functools.partial(explain, model, X, rule=rule, epsilon=EPSILON)
        for rule in ("epsilon", "gamma", "alpha_beta", "z_plus")
    }
    loop = functools.partial(explain_in_a_loop, model, X[:few])
    np.testing.assert_allclose(loop(), ours["z_plus"]()[:few], rtol=0, atol=1e-4)  # the same work
    yardstick = functools.partial(gradient, model, X)
    t = median_times({**ours, "yardstick": yardstick, "loop": loop}, 1 if quick else 7)
    case = f"ESN ({n}, {size}, {size}, {n_units})"
    rows = [
        {
            "what": "explain / forward + gradient", "case": case, "rule": rule,
            "ratio": t[rule] / t["yardstick"], "reach": REACH.get(rule, ""),
        }
        for rule in ours
    ]  # fmt: skip
    what, ratio = "per-sample NumPy loop / explain", t["loop"] * n / few / t["z_plus"]
    rows.append({"what": what, "case": case, "rule": "z_plus", "ratio": ratio, "reach": "≥ 80"})
    return rows


def explain_in_a_loop(model: nn.Sequential, X: np.ndarray) -> np.ndarray:
    """Return z-plus relevance as published: sample by sample, contributions as matrices.

    At every step all contributions to all units are written down, their negative part is set to
    zero, and every column is divided by its sum. Relevance starts at the largest score.
    """
    layer: Any = model.reservoir
    w_in, w_res, b = (v.numpy() for v in (layer.weight_in, layer.weight_res, layer.bias))
    w_out, b_out = (p.detach().numpy() for p in model.output.parameters())
    w_u, w_x, leak, n_units = w_in.T, w_res.T, np.float32(layer.leak_rate), len(b)
    relevance = np.empty_like(X)
    for n, sample in enumerate(X):
        u = sample.reshape(model.sequence.unflattened_size).T  # columns are the steps
        x = np.zeros((len(u) + 1, n_units), X.dtype)
        act = np.empty((len(u), n_units), X.dtype)
        for t in range(len(u)):
            act[t] = np.tanh(u[t] @ w_u + x[t] @ w_x + b)
            x[t + 1] = (1 - leak) * x[t] + leak * act[t]
        scores = w_out @ x[-1] + b_out
        k = scores.argmax()
        r = _share(x[-1, :, None], w_out[k][:, None], b_out[k : k + 1], scores[k : k + 1])
        passed = np.empty_like(u)
        for t in reversed(range(len(u))):
            stable = x[t + 1] + np.where(x[t + 1] < 0, -EPSILON, EPSILON).astype(X.dtype)
            r_act, r_before = leak * act[t] / stable * r, (1 - leak) * x[t] / stable * r
            inputs = np.concatenate([u[t], x[t]])[:, None]
            shared = _share(inputs, np.concatenate([w_u, w_x]), b, r_act)
            passed[t], r = shared[: u.shape[1]], r_before + shared[u.shape[1] :]
        relevance[n] = passed.T.ravel()
    return relevance


def _share(x: np.ndarray, w: np.ndarray, b: np.ndarray, relevance: np.ndarray) -> np.ndarray:
    """Return the relevance of inputs ``(n_inputs, 1)`` by their positive contributions."""
    contributions = np.maximum(x * w, 0)
    total = contributions.sum(axis=0) + np.maximum(b, 0) + x.dtype.type(EPSILON)
    return (contributions / total * relevance).sum(axis=1)


class Task:
    """The squares, 80 % of them to fit on, and where the squares are."""

    def __init__(self, quick: bool) -> None:
        n_per_class, size = (20, 20) if quick else (250, 100)
        self.n_reservoir = 20 if quick else 300
        X, y, self.square = make_squares(n_per_class, size=size, random_state=0)
        parts = train_test_split(X, y, test_size=0.2, stratify=y, random_state=0)
        self.X, self.X_test, self.y, self.y_test = parts
        mean = X.mean(0)
        self.distractor = (mean > 0.25) & ~self.square

    def fit(self, **params: Any) -> ESNClassifier:
        """Return a network fitted to the task."""
        clf = ESNClassifier(self.n_reservoir, random_state=0, **params)
        return clf.fit(self.X, self.y)

    def explain(self, model: nn.Module, rule: str) -> tuple[np.ndarray, float]:
        """Return the mean map of the true class, and the median share of the score in a map."""
        flat = self.X_test.reshape(len(self.X_test), -1)
        relevance, details = explain(
            model, flat, target=self.y_test, rule=rule, return_details=True
        )
        conserved = float(np.median(relevance.sum(1) / details.score))
        return relevance.mean(0).reshape(self.square.shape), conserved

    def share(self, relevance: np.ndarray, where: np.ndarray) -> float:
        """Return the share of a map's absolute relevance that lies somewhere."""
        return float(np.abs(relevance[where]).sum() / np.abs(relevance).sum())


def compare_readouts(quick: bool = False) -> list[dict[str, Any]]:
    """Return what maps tell of the readout, at a leak rate of 0.01 without a leak at first.

    Parameters
    ----------
    quick : bool, default=False
        Whether to take a small network and few images.

    Returns
    -------
    list of dict
        For each scale of biases, rule and split of the leak: the absolute cosine of the mean map
        of the true class with that of the same reservoir with a random readout, the shares of the
        mean map on the square that tells the classes apart and on a distractor, and the median
        sum of a map over the score.
    """
    task, found = Task(quick), []
    for bias_scale in (0.1, 0.0):
        for split in SPLITS:
            model = task.fit(
                leak_rate=0.01, leak_first_step=False, sweep="right", leak_split=split,
                bias_scale=bias_scale, fit_intercept=bias_scale > 0,
            ).module_  # fmt: skip
            null: Any = copy.deepcopy(model)
            generator = torch.Generator().manual_seed(0)
            with torch.no_grad():
                for parameter in null.output.parameters():
                    parameter.normal_(generator=generator)
            for rule in RULES:
                map_, conserved = task.explain(model, rule)
                other, _ = task.explain(null, rule)
                cosine = (map_ * other).sum() / np.sqrt((map_**2).sum() * (other**2).sum())
                found.append(
                    {
                        "bias_scale": bias_scale,
                        "rule": rule,
                        "leak_split": split,
                        "|cosine|": abs(float(cosine)),
                        "square": task.share(map_, task.square),
                        "distractor": task.share(map_, task.distractor),
                        "sum / score": conserved,
                    }
                )
    return found


def compare_leaks(quick: bool = False) -> list[dict[str, Any]]:
    """Return what the leak rate and the direction of the sweep do to accuracy and relevance.

    Parameters
    ----------
    quick : bool, default=False
        Whether to take a small network, few images and two leak rates.

    Returns
    -------
    list of dict
        For each leak rate and sweep the accuracy on images not seen in the fit, and the share of
        the mean maps of rules epsilon and z-plus on the square that tells the classes apart.
    """
    task, found = Task(quick), []
    for sweep in SWEEPS:
        for leak_rate in LEAKS[:2] if quick else LEAKS:
            clf = task.fit(leak_rate=leak_rate, sweep=sweep)
            row = {
                "sweep": sweep,
                "leak_rate": leak_rate,
                "accuracy": float(clf.score(task.X_test, task.y_test)),
            }
            for rule in ("epsilon", "z_plus"):
                row[f"square, {rule}"] = task.share(
                    task.explain(clf.module_, rule)[0], task.square
                )
            found.append(row)
    return found


def write_table(rows: list[dict[str, Any]]) -> str:
    """Return rows of the same keys as a table in markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    for row in rows:
        lines.append([f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.esn", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="does it run? no figures")
    quick = parser.parse_args().quick
    with threads(1):
        for function in (compare_readouts, compare_leaks, bench_esn):
            title = (function.__doc__ or "").splitlines()[0].removeprefix("Return ")
            print(f"{title}\n\n{write_table(function(quick=quick))}\n", flush=True)


if __name__ == "__main__":
    main()
