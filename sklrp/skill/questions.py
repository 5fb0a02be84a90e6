"""What the skill map asks: which outputs of a model answer for the truth, classes or values.

`skill_map` makes a `Question` of the labels it is given; contributions and statistics follow it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklrp._models import is_regression
from sklrp.skill.permutations import (
    ClassScores,
    SeveralScores,
    ValueScores,
)

_MOST_OUTPUTS = 64  # of a regression, whose cells are all tested


@dataclass(frozen=True)
class Question:
    """What of the outputs is explained, and how it is held against the truth."""

    combine: NDArray[np.float64]  # (n_combinations, n_outputs)
    truth: NDArray  # codes of classes, or values (n_samples, n_values)
    shares: NDArray[np.float64] | None  # of the classes; None of a regression
    lead: tuple[int, ...] = ()  # axes of the result before those of a sample

    def scores(self, phi: list[NDArray]) -> ClassScores | ValueScores | SeveralScores:
        """Return the statistics of contributions."""
        if self.shares is None:
            values = self.truth.reshape(len(self.truth), -1)
            parts = [ValueScores(values[:, k], p) for k, p in enumerate(phi)]
            return parts[0] if len(parts) == 1 else SeveralScores(parts)
        if len(phi) == 1:  # of two classes the one contribution is the other's negative
            both = self.shares[0] * self.shares[1]
            factor = phi[0].dtype.type(both)
            return ClassScores(self.truth, [-factor * phi[0], factor * phi[0]])
        return ClassScores(self.truth, phi)

    def columns(self) -> NDArray[np.float64]:
        """Return the truth as numbers, for its correlation in time."""
        if self.shares is None:
            return self.truth.reshape(len(self.truth), -1).astype(np.float64)
        return (self.truth[:, None] == np.arange(len(self.shares))).astype(np.float64)


def question_of(model: Any, samples: NDArray, labels: NDArray, target: Any) -> Question:
    """Find out whether the truth is classes or values, and which outputs it belongs to."""
    n_outputs = model.outputs(samples[:1]).shape[1]
    classes = _find_classes(model, samples, labels, n_outputs)
    if classes is None:
        return _question_of_values(labels, n_outputs, target)
    if labels.ndim > 1:
        raise ValueError(f"y must hold one label for each sample, got the shape {labels.shape}.")
    known = {label: k for k, label in enumerate(classes.tolist())}
    unknown = sorted({repr(v) for v in labels.tolist() if v not in known})
    if unknown:
        raise ValueError(
            f"y has the unknown labels {', '.join(unknown[:5])}; the classes of the model are "
            f"{classes.tolist()}."
        )
    codes = np.array([known[v] for v in labels.tolist()])
    if target is None:
        return _question_of_classes(codes, classes, n_outputs)
    if target not in known:
        raise ValueError(f"target={target!r} is not one of the classes {classes.tolist()}.")
    return _question_of_class(codes, known[target], len(classes), n_outputs)


def _find_classes(model: Any, samples: NDArray, labels: NDArray, n_outputs: int) -> NDArray | None:
    """Return the classes of a model, None if it predicts values."""
    if is_regression(model.network):
        return None
    if n_outputs == 1 and getattr(model, "classes", None) is None:
        # A bare network of one output: two labels are classes told apart by its sign.
        return np.unique(labels) if _looks_like_classes(labels) else None
    if labels.shape == (len(samples), n_outputs):
        return None  # as many values as outputs
    return model.classes_for(samples)


def _question_of_classes(codes: NDArray, classes: NDArray, n_outputs: int) -> Question:
    """Ask for all classes; those without a held-out sample are left out."""
    counts = np.bincount(codes, minlength=len(classes))
    present = np.flatnonzero(counts)
    _check_counts(counts[present], classes[present])
    shares = counts / len(codes)
    if len(classes) == 2:
        combine = np.array([[1.0]]) if n_outputs == 1 else np.array([[-1.0, 1.0]])
        return Question(combine, codes, shares)
    combine = shares[present, None] * (np.eye(len(classes))[present] - shares)
    if len(present) == 2:
        combine = combine[1:] / (shares[present[0]] * shares[present[1]])
    return Question(combine, np.searchsorted(present, codes), shares[present])


def _question_of_class(codes: NDArray, k: int, n_classes: int, n_outputs: int) -> Question:
    """Ask for one class against all others."""
    binary = (codes == k).astype(np.intp)
    counts = np.bincount(binary, minlength=2)
    _check_counts(counts[counts > 0], np.array(["others", "target"])[counts > 0])
    if n_outputs == 1:
        return Question(np.array([[2.0 * k - 1]]), binary, counts / len(codes))
    others = np.bincount(codes, minlength=n_classes).astype(float)
    others[k] = 0
    combine = -others / others.sum()
    combine[k] = 1.0
    return Question(combine[None], binary, counts / len(codes))


def _question_of_values(labels: NDArray, n_outputs: int, target: Any) -> Question:
    """Ask for values of a regression."""
    values = labels.reshape(len(labels), -1).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("y has NaN or infinite values: leave such samples out.")
    if values.shape[1] != n_outputs:
        raise ValueError(
            f"y has {values.shape[1]} values for each sample, but the network {n_outputs} outputs."
        )
    chosen = np.arange(n_outputs)
    if target is not None:
        if not isinstance(target, int | np.integer) or not 0 <= target < n_outputs:
            raise ValueError(f"target={target!r} must be an output, 0 to {n_outputs - 1}.")
        chosen = chosen[[int(target)]]
    if len(chosen) > _MOST_OUTPUTS:
        raise ValueError(
            f"the network has {n_outputs} outputs, more than {_MOST_OUTPUTS} to test at once: "
            "give target, the index of one."
        )
    values = values[:, chosen]
    if (np.ptp(values, axis=0) == 0).any():
        raise ValueError("y is constant: there is no skill to decompose.")
    lead = (len(chosen),) if len(chosen) > 1 else ()
    return Question(np.eye(n_outputs)[chosen], values, None, lead)


def _looks_like_classes(labels: NDArray) -> bool:
    return labels.dtype.kind in "biuOUS" and len(np.unique(labels)) == 2


def check_truth(y: Any, n_samples: int) -> NDArray:
    """Return the truth of each sample; a single column of it is flat."""
    labels = np.asarray(y)
    if labels.ndim == 0 or len(labels) != n_samples:
        raise ValueError(
            f"y must hold the truth of each of {n_samples} samples, got the shape {labels.shape}."
        )
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def _check_counts(counts: NDArray, classes: NDArray) -> None:
    """Raise an error unless there are two classes with a spread within each."""
    if len(counts) < 2:
        raise ValueError(
            f"y holds the class {classes.tolist()[0]!r} only: skill needs held-out samples of at "
            "least 2 classes."
        )
    if counts.min() < 2:
        raise ValueError(
            f"y has a single sample of the class {classes[counts.argmin()]!r}: two are needed to "
            "know the spread within it; leave it out, or hold out more samples."
        )
