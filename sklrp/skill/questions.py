"""What the skill map asks: which outputs of a model answer for the truth, classes or values.

`skill_map` makes a `Question` of the labels it is given; contributions and statistics follow it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp
from sklearn.utils.extmath import randomized_svd

from sklrp._checks import as_values, check_not_one_hot, flatten_column, look_up
from sklrp._missing import as_plain_array
from sklrp._model_parts import is_regression
from sklrp._wording import say_value
from sklrp.skill.permutations import ClassScores, JointScores, SeveralScores, ValueScores

_MOST_OUTPUTS = 64  # of a regression, each with a map of its own
_MOST_PATTERNS, _ENOUGH_VARIANCE = 8, 0.9  # of a field of predictions


@dataclass(frozen=True)
class Question:
    """What of the outputs is explained, and how it is held against the truth."""

    combine: NDArray[np.float64]  # (n_combinations, n_outputs)
    truth: NDArray  # codes of classes, or values (n_samples, n_values)
    shares: NDArray[np.float64] | None  # of the classes; None of a regression
    lead: tuple[int, ...] = ()  # axes of the result before those of a sample
    is_joint: bool = False  # whether the combinations are one question
    said: str = ""  # what the user should know of it
    columns: NDArray | None = None  # the output of each sample's class
    one: int | None = None  # the output of the class that is held against all others

    def scores(self, phi: list[NDArray]) -> Any:
        """Return the statistics of contributions."""
        if self.is_joint:
            return JointScores(self.truth, phi)
        if self.shares is None:
            values = self.truth.reshape(len(self.truth), -1)
            parts = [ValueScores(values[:, k], p) for k, p in enumerate(phi)]
            return parts[0] if len(parts) == 1 else SeveralScores(parts)
        if len(phi) == 1:  # of two classes the one contribution is the other's negative
            both = self.shares[0] * self.shares[1]
            return ClassScores(self.truth, [phi[0], phi[0]], [-both, both])
        return ClassScores(self.truth, phi)

    def losses(self, outputs: NDArray) -> NDArray[np.float64]:
        """Return what samples lose by outputs that miss the truth, (n_samples, n_questions)."""
        if self.shares is None:
            losses = (outputs @ self.combine.T - self.truth) ** 2
            return losses.sum(axis=1, keepdims=True) if self.is_joint else losses
        if outputs.shape[1] == 1:
            outputs = np.concatenate([np.zeros_like(outputs), outputs], axis=1)
        logs = log_softmax(outputs, axis=1)
        if self.one is None:
            return -np.take_along_axis(logs, self.columns[:, None], axis=1)  # type: ignore[index]
        others = logsumexp(np.delete(logs, self.one, axis=1), axis=1)
        return -np.where(self.columns == self.one, logs[:, self.one], others)[:, None]

    def numbers(self) -> NDArray[np.float64]:
        """Return the truth as numbers, for its correlation in time."""
        if self.shares is None:
            return self.truth.reshape(len(self.truth), -1).astype(np.float64)
        return (self.truth[:, None] == np.arange(len(self.shares))).astype(np.float64)


def question_of(model: Any, samples: NDArray, labels: NDArray, target: Any) -> Question:
    """Find out whether the truth is classes or values, and which outputs it belongs to."""
    n_outputs = model.outputs(samples[:1]).shape[1]
    if not is_regression(model.network):
        check_not_one_hot("y", labels, n_outputs)
    is_column = labels.ndim == 2 and labels.shape[1] == 1
    flat = labels[:, 0] if is_column else labels
    classes = _find_classes(model, samples, flat, n_outputs)
    labels = flat if classes is None else flatten_column("y", labels)
    if classes is None:
        return _question_of_values(model, samples, labels, target)
    if labels.ndim > 1:
        raise ValueError(
            f"y must hold one label for each sample, or a value for each of {n_outputs} outputs, "
            f"got the shape {labels.shape}."
        )
    codes = check_known(labels, classes, n_outputs)
    if target is None:
        return _question_of_classes(codes, classes, n_outputs)
    asked = as_plain_array(target, "target")
    found, unknown = look_up(asked, classes, exact=True)
    if asked.ndim or unknown:
        raise ValueError(f"target={target!r} is not one of the classes {classes.tolist()}.")
    return _question_of_class(codes, int(found[0]), len(classes), n_outputs)


def check_known(labels: NDArray, classes: NDArray, n_outputs: int) -> NDArray[np.intp]:
    """Return where labels stand among the classes of a model.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,)
        The truth of each sample.
    classes : ndarray of shape (n_classes,)
        The labels that the model knows.
    n_outputs : int
        The number of the network's outputs.

    Returns
    -------
    ndarray of shape (n_samples,)
        The positions.

    Raises
    ------
    ValueError
        If a label is unknown.
    """
    codes, unknown = look_up(labels, classes)
    if unknown and labels.dtype.kind == "f" and (labels[np.isfinite(labels)] % 1 != 0).any():
        raise ValueError(
            f"y holds values such as {unknown}, but the {n_outputs} outputs of the network are "
            f"taken for classes, as it is no regressor and y has the shape {labels.shape}: give y "
            f"the values of all outputs, of shape ({len(labels)}, {n_outputs}), and say by target "
            "which output is explained."
        )
    if unknown:
        remedy = ""
        if labels.dtype.kind in "OU":
            remedy = " Of text, np.unique(y, return_inverse=True)[1]."
        elif np.isin(labels, np.arange(len(classes))).all():
            remedy = (
                " If these are the places of the labels in that order, give the labels: "
                f"np.array({classes.tolist()})[y]."
            )
        raise ValueError(
            f"y has the unknown labels {unknown}; the classes of the model are {classes.tolist()}."
            f"{remedy}"
        )
    return codes


def _find_classes(model: Any, samples: NDArray, labels: NDArray, n_outputs: int) -> NDArray | None:
    """Return the classes of a model, None if it predicts values."""
    if is_regression(model.network):
        return None
    if n_outputs == 1 and getattr(model, "classes", None) is None:
        # A bare network of one output: two labels are classes told apart by its sign.
        return np.unique(labels) if _looks_like_classes(labels) else None
    if labels.ndim > 1 and labels.size == len(samples) * n_outputs:
        return None  # as many values as outputs
    if sum(n > 1 for n in model.output_shape(samples)) > 1:
        return None  # the cells of a field are no classes
    return model.classes_for(samples)


def _question_of_classes(codes: NDArray, classes: NDArray, n_outputs: int) -> Question:
    """Ask for all classes; those without a held-out sample are left out."""
    counts = np.bincount(codes, minlength=len(classes))
    present = np.flatnonzero(counts)
    _check_counts(counts[present], classes[present])
    shares = counts / len(codes)
    if len(classes) == 2:
        combine = np.array([[1.0]]) if n_outputs == 1 else np.array([[-1.0, 1.0]])
        return Question(combine, codes, shares, columns=codes)
    combine = shares[present, None] * (np.eye(len(classes))[present] - shares)
    if len(present) == 2:
        combine = combine[1:] / (shares[present[0]] * shares[present[1]])
    return Question(combine, np.searchsorted(present, codes), shares[present], columns=codes)


def _question_of_class(codes: NDArray, k: int, n_classes: int, n_outputs: int) -> Question:
    """Ask for one class against all others."""
    binary = (codes == k).astype(np.intp)
    counts = np.bincount(binary, minlength=2)
    _check_counts(counts[counts > 0], np.array(["others", "target"])[counts > 0])
    if n_outputs == 1:
        combine = np.array([[2.0 * k - 1]])
        return Question(combine, binary, counts / len(codes), columns=codes, one=k)
    others = np.bincount(codes, minlength=n_classes).astype(float)
    others[k] = 0
    combine = -others / others.sum()
    combine[k] = 1.0
    return Question(combine[None], binary, counts / len(codes), columns=codes, one=k)


def _question_of_values(model: Any, samples: NDArray, labels: NDArray, target: Any) -> Question:
    """Ask for values of a regression: each, one, a weighted sum, or all of a field together.

    Of several outputs, labels may also be the values of the target alone.
    """
    shape = labels.shape[1:] or (1,)
    values = as_values("y", labels.reshape(len(labels), -1)).astype(np.float64)
    n_outputs = model.outputs(samples[:1]).shape[1]
    of_target = target is not None and values.shape[1] == 1 < n_outputs
    if of_target:
        shape = model.output_shape(samples)
    elif values.shape[1] != n_outputs:
        raise ValueError(
            f"y has {values.shape[1]} values for each sample, but the network {n_outputs} outputs."
        )
    if target is None and (n_outputs > _MOST_OUTPUTS or len(shape) > 1):
        return _question_of_fields(model, samples, values)
    asked = np.eye(n_outputs) if target is None else _weights_of(target, shape)[np.newaxis]
    if of_target:
        truth = _all_finite(values)
    else:
        needed = asked.any(axis=0)
        truth = _all_finite(values[:, needed]) @ asked[:, needed].T
    _check_varies(truth)
    return Question(asked, truth, None, (len(asked),) if len(asked) > 1 else ())


def _question_of_fields(model: Any, samples: NDArray, values: NDArray) -> Question:
    """Ask for all outputs together, by the leading patterns of what is predicted."""
    known = ~np.isnan(values).all(axis=0)  # a field may have no value on land, in any sample
    if not known.any():
        raise ValueError("y has no value at all: every value is NaN.")
    patterns, share = _leading_patterns(model.outputs(samples)[:, known])
    truth = _all_finite(values[:, known]) @ patterns.T
    _check_varies(truth)
    asked = np.zeros((len(patterns), len(known)))
    asked[:, known] = patterns
    said = (
        f"the {len(known)} outputs are tested together, by the {len(asked)} leading patterns of "
        f"the predictions, {share:.0%} of their variance"
    )
    return Question(asked, truth, None, is_joint=True, said=said)


def _all_finite(values: NDArray) -> NDArray:
    """Return values, or raise an error if some are none."""
    if not np.isfinite(values).all():
        bad = ~np.isfinite(values).all(axis=1)
        remedy = "leave such samples out."
        if bad.all():  # then nothing would be left
            remedy = (
                "leave out the outputs without values, or give target, an output that has them."
            )
        raise ValueError(
            f"y has NaN or infinite values in {bad.sum()} of {len(values)} samples: {remedy}"
        )
    return values


def _check_varies(truth: NDArray) -> None:
    if (np.ptp(truth, axis=0) == 0).any():
        raise ValueError(
            "y is constant: there is no skill to decompose. Hold out samples of which it differs, "
            "or give target, an output that does."
        )


def _weights_of(target: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the weight of each output in what target asks for."""
    size = math.prod(shape)
    wanted = (
        f"target must be the number of an output, 0 to {size - 1}, a tuple of its indices in the "
        f"shape {shape}, or an array of that shape: a mask, or weights"
    )
    index = target if isinstance(target, tuple) else (target,)
    if all(isinstance(k, Integral) and not isinstance(k, bool) for k in index):
        full = shape if isinstance(target, tuple) else (size,)
        if len(index) != len(full) or not all(
            0 <= k < n for k, n in zip(index, full, strict=True)
        ):
            raise ValueError(f"{wanted}; got {say_value(target)}.")
        weights = np.zeros(full)
        weights[index] = 1.0
        return weights.ravel()
    given = as_plain_array(target, "target")
    if given.shape not in (shape, (size,)) or given.dtype.kind not in "biuf":
        raise ValueError(f"{wanted}; got {type(target).__name__} of shape {given.shape}.")
    weights = given.astype(np.float64).ravel()
    if not np.isfinite(weights).all() or not weights.any():
        raise ValueError("target must be finite and not 0 everywhere: mark an output at least.")
    return weights


def _leading_patterns(predicted: NDArray) -> tuple[NDArray[np.float64], float]:
    """Return the leading patterns of predictions, which know nothing of the truth."""
    predicted = predicted.astype(np.float64)
    centred = predicted - predicted.mean(axis=0)
    total = float((centred**2).sum())
    if total <= 1e-20 * (predicted**2).sum():  # rounding of the mean
        raise ValueError("the network predicts the same for every sample: it has learned nothing.")
    most = min(_MOST_PATTERNS, *centred.shape)
    _, sizes, patterns = randomized_svd(centred, most, random_state=0)
    shares = np.cumsum(sizes**2) / total
    n = min(int(np.searchsorted(shares, _ENOUGH_VARIANCE)) + 1, most)
    return patterns[:n].astype(np.float64), min(float(shares[n - 1]), 1.0)


def _looks_like_classes(labels: NDArray) -> bool:
    return labels.dtype.kind in "biu" and len(np.unique(labels)) == 2


def check_truth(y: Any, n_samples: int) -> NDArray:
    """Return the truth of each sample."""
    labels = as_plain_array(y, "y")
    if labels.dtype.kind not in "biufOUS":
        raise ValueError(f"y must hold labels or numbers, got values of dtype {labels.dtype}.")
    if labels.ndim == 0 or len(labels) != n_samples:
        raise ValueError(
            f"y must hold the truth of each of {n_samples} samples, got the shape {labels.shape}."
        )
    return labels


def _check_counts(counts: NDArray, classes: NDArray) -> None:
    """Raise an error unless there are two classes with a spread within each."""
    if len(counts) < 2:
        raise ValueError(
            f"y holds the class {classes.tolist()[0]!r} only: skill needs held-out samples of at "
            "least 2 classes."
        )
    if counts.min() < 2:
        rare = classes.tolist()[counts.argmin()]
        raise ValueError(
            f"y has a single sample of the class {rare!r}: two are needed to know the spread "
            "within it; leave it out, or hold out more samples."
        )
