"""What a target reads of a network's output: labels of outputs, or one number made of several.

Metrics and diagnostics follow the score that :func:`~sklrp.explain` explains. They ask
:func:`read_target`, and go on with a model whose outputs are those that the target is of: one
number where a cell, a region, weights or a function makes one, and the outputs of a name. Maps
are made by :func:`~sklrp.explain` with the target as it was given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklrp._checks import as_values
from sklrp._model_parts import Model, is_regression
from sklrp._outputs import pick_output, split_key
from sklrp._rows import take_rows
from sklrp.propagation.targets import (
    Function,
    Shape,
    WeightedSum,
    decode_target,
    evaluate_target,
)


@dataclass(frozen=True)
class OneNumber:
    """What a target makes of a network's output.

    Attributes
    ----------
    key : str or None
        The name of the output that is meant.
    shape : tuple of int
        The shape of a sample's output.
    target : WeightedSum or Function
        What is made of it.
    labels : ndarray or None, default=None
        The labels of the outputs, where they may stand for classes.
    """

    key: str | None
    shape: Shape
    target: WeightedSum | Function
    labels: NDArray | None = None

    @property
    def output_shape(self) -> Shape:
        """The shape of what is made of a sample's output."""
        return (1,)

    def __call__(self, output: Any) -> Tensor:
        """Return the number, ``(n_samples, 1)``, of what the network returns."""
        picked = pick_output(output, self.key)
        return evaluate_target(picked.reshape(len(picked), -1), self.target)[:, None]

    def of_truth(self, y: Any) -> Any:
        """Return the truth of the number: y itself, or made of y that is like the output."""
        values = np.asarray(y)
        size = math.prod(self.shape)
        if values.size != len(values) * size or values.ndim < 2:
            self._refuse_labels(values)
            return y
        values = as_values("y", values.reshape(len(values), size)).astype(np.float64)
        if isinstance(self.target, WeightedSum):  # a field may have no value elsewhere, on land
            needed = self.target.weights != 0
            found: NDArray = values[:, needed] @ self.target.weights[needed]
            return found
        return evaluate_target(torch.from_numpy(values), self.target).numpy()

    def _refuse_labels(self, values: NDArray) -> None:
        """Raise an error if y holds classes, of which no number can be made."""
        if self.labels is None or (values.dtype.kind == "f" and self.labels.dtype.kind != "f"):
            return
        if np.isin(values, self.labels).all():
            raise ValueError(
                f"y holds labels of classes, but target makes a number of the {self.shape[0]} "
                "outputs, which has values: give y its true values, as floats; or a label as "
                "target, with contrast=True for a difference of two."
            )


@dataclass(frozen=True)
class Named:
    """The output of a name, of a network that returns several, and its shape."""

    key: str
    output_shape: Shape

    def __call__(self, output: Any) -> Tensor:
        """Return the outputs, ``(n_samples, n_outputs)``, of what the network returns."""
        picked = pick_output(output, self.key)
        return picked.reshape(len(picked), -1)


@dataclass(frozen=True)
class Reading:
    """A model whose outputs are those that a target is of.

    Attributes
    ----------
    model : Model
        The model; its only output is the number, where several outputs make one.
    target : object
        What is explained of its outputs: None, labels or indices; None of a number.
    given : object
        The target as it was given.
    """

    model: Any
    target: Any
    given: Any

    @property
    def number(self) -> OneNumber | None:
        """What is made of several outputs, None where a single one is explained."""
        reading = getattr(self.model, "reading", None)
        return reading if isinstance(reading, OneNumber) else None

    def asked(self, labels: Any) -> Any:
        """Return what `explain` is asked for, given what is explained of each sample."""
        reading = getattr(self.model, "reading", None)
        if isinstance(reading, OneNumber) or callable(self.target):
            return self.given
        if isinstance(reading, Named):
            return reading.key if labels is None else (reading.key, labels)
        return labels


def read_target(
    model: Any, samples: Any, target: Any, n_samples: int, name: str = "target"
) -> Reading:
    """Return the model whose outputs a target is of, and what is explained of them.

    Parameters
    ----------
    model : Model
        The model.
    samples : array-like of shape (n_samples, ...)
        Samples as they enter the network; the first is asked.
    target : object
        The target.
    n_samples : int
        The number of all samples.
    name : str, default="target"
        What errors call the target.

    Returns
    -------
    Reading
        The model and the target.

    Raises
    ------
    ValueError
        If the target does not fit the output.
    """
    if isinstance(target, bool | np.bool_) and not _knows_flags(model):
        raise ValueError(
            f"{name}={target!r} is neither a label nor the index of an output: give a number."
        )
    if not isinstance(model, Model) or not model.has_module:
        return Reading(model, target, target)
    if model.classes is not None or not model.takes_tensors:
        return _read_table(model, samples, target, n_samples)
    key, rest = split_key(target)
    output = pick_output(model.returned(take_rows(samples, slice(1))), key)
    shape = tuple(output.shape[1:])
    if len(shape) < 2 and not _is_of_several(rest):
        return _of_outputs(model, key, rest, target, shape)
    return _make_number(model, key, rest, target, n_samples, shape)


def _knows_flags(model: Any) -> bool:
    """Tell whether the classes of a model are True and False."""
    classes = getattr(model, "classes", None)
    return classes is not None and classes.dtype == bool


def _read_table(model: Model, samples: Any, target: Any, n_samples: int) -> Reading:
    """Return the reading of labelled outputs, or of an estimator's."""
    if not callable(target) and (model.classes is not None or not _is_of_several(target)):
        return Reading(model, target, target)
    output = pick_output(model.returned(take_rows(samples, slice(1))), None)
    shape = tuple(output.shape[1:])
    return _make_number(model, None, target, target, n_samples, shape)


def read_name(model: Model, samples: Any, key: str) -> Named:
    """Return the output of a name, of a network that takes samples like the first of these."""
    output = pick_output(model.returned(take_rows(samples, slice(1))), key)
    return Named(key, tuple(output.shape[1:]))


def _of_outputs(model: Model, key: str | None, rest: Any, target: Any, shape: Shape) -> Reading:
    """Return the reading of a table of outputs, the only one or that of a name."""
    named = model if key is None else replace(model, reading=Named(key, shape))
    return Reading(named, rest, target)


def _make_number(
    model: Model, key: str | None, rest: Any, target: Any, n_samples: int, shape: Shape
) -> Reading:
    """Return the reading of one number."""
    decoded = decode_target(rest, None, n_samples, shape)
    if not isinstance(decoded, WeightedSum | Function):
        if isinstance(decoded, np.ndarray) and len(shape) < 2:  # indices that are floats
            return _of_outputs(model, key, decoded, target, shape)
        decoded = _one_output(decoded, math.prod(shape))
    labels = None
    if len(shape) == 1 and shape[0] > 1 and not is_regression(model.network):
        labels = np.arange(shape[0]) if model.classes is None else model.classes
    return Reading(replace(model, reading=OneNumber(key, shape, decoded, labels)), None, target)


def _is_of_several(target: Any) -> bool:
    """Return whether a target of a table of outputs is a function, a mask or weights."""
    if callable(target):
        return True
    if isinstance(target, tuple):
        return len(target) == 1
    return target is not None and np.asarray(target).dtype.kind in "bf" and np.ndim(target) == 1


def _one_output(decoded: Any, n_outputs: int) -> WeightedSum:
    """Return one output as weights: a diagnosis is of the same number in all samples."""
    one = np.unique(decoded) if isinstance(decoded, np.ndarray) else np.zeros(1, dtype=np.intp)
    if len(one) != 1 or (decoded is None and n_outputs > 1) or isinstance(decoded, str):
        raise ValueError(
            f"target must choose one of {n_outputs} values of the output for all samples: an "
            "index, a mask, weights or a function."
        )
    return WeightedSum(np.eye(n_outputs)[one[0]])
