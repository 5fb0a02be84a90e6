"""What a planted case is, and where all of them are registered.

The files beside this one register their cases by `planted`; `tests/planted.py` diagnoses them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import nn

from sklrp.diagnostics import diagnose

VERDICTS = ("artifact", "undecided", "fact", "refused")


@dataclass(frozen=True)
class Case:
    """A fitted model, samples to diagnose it with, and how they are explained.

    `true_cells` is True where the target really depends on a cell, of a sample's shape.
    """

    model: Any
    X: np.ndarray
    y: np.ndarray
    X_train: np.ndarray | None = None
    y_train: np.ndarray | None = None
    rule: Any = "epsilon"
    target: Any = None
    relevance: np.ndarray | None = None
    groups: np.ndarray | None = None
    true_cells: np.ndarray | None = None


@dataclass(frozen=True)
class Planted:
    """How a case is made of a seed, and the verdict that is right.

    `kind` is the way in which verdicts may fail here; `also` are other verdicts that are honest.
    """

    make: Callable[[int], Case]
    truth: str
    kind: str
    why: str
    also: tuple[str, ...] = ()

    def __call__(self, seed: int) -> Case:
        """Train a model from a seed."""
        return self.make(seed)


CASES: dict[str, Planted] = {}


def planted(name: str, truth: str, *, kind: str, why: str, also: tuple[str, ...] = ()):
    """Register the decorated function, which makes the case of a seed."""
    assert name not in CASES, name
    assert {truth, *also} <= set(VERDICTS), name

    def register(make):
        CASES[name] = Planted(make, truth, kind, why, also)
        return make

    return register


def report(case: Case, seed: int):
    """Diagnose a case, without the tests that train."""
    made = {"rule": case.rule} if case.relevance is None else {"relevance": case.relevance}
    return diagnose(
        case.model,
        case.X,
        case.y,
        target=case.target,
        X_train=case.X_train,
        y_train=case.y_train,
        **made,
        groups=case.groups,
        n_refits=0,
        max_samples=50,
        n_permutations=20,
        random_state=seed,
    )


def halves(X, y, seed, n_test=0.5):
    """Return training samples, held-out samples and the labels of both, classes in proportion."""
    classes = y if np.issubdtype(np.asarray(y).dtype, np.integer) else None
    return train_test_split(X, y, test_size=n_test, stratify=classes, random_state=seed)


def fit(model, X, y, seed, *, rule="epsilon", n_test=0.5, **entries):
    """Train an estimator on some of the samples and keep the others."""
    X_train, X_test, y_train, y_test = halves(X, y, seed, n_test)
    model.set_params(random_state=seed).fit(X_train, y_train)
    return Case(model, X_test, y_test, X_train, y_train, rule=rule, **entries)


def fit_module(build, X, y, seed, *, rule="epsilon", n_test=0.5, training=None, **entries):
    """Build a bare torch module, train it on some of the samples and keep the others."""
    X_train, X_test, y_train, y_test = halves(X, y, seed, n_test)
    module = train(build, X_train, y_train, seed, **(training or {}))
    return Case(module, X_test, y_test, X_train, y_train, rule=rule, **entries)


def train(build, X, y, seed, *, epochs=30, lr=0.003, batch=50, weight_decay=0.0):
    """Return a torch module trained on labels or, if they are not integers, on values."""
    values = torch.from_numpy(np.asarray(y))
    is_class = not values.is_floating_point()
    inputs = torch.from_numpy(np.asarray(X, dtype=np.float32))
    values = values if is_class else values.float().reshape(len(X), *np.shape(y)[1:])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = build()
        optimizer = torch.optim.Adam(module.parameters(), lr=lr, weight_decay=weight_decay)
        for _ in range(epochs):
            for rows in torch.randperm(len(inputs)).split(batch):
                optimizer.zero_grad()
                out = module(inputs[rows])
                if is_class:
                    loss = nn.functional.cross_entropy(out, values[rows])
                else:
                    loss = nn.functional.mse_loss(out.reshape(values[rows].shape), values[rows])
                loss.backward()
                optimizer.step()
    return module.eval()
