"""Targets of several outputs at once, as one number of each sample.

A cell or a region of a gridded output, weights, a function, an output by name: `Explained` asks
`as_one_number`, and goes on with a model that has this number as its only output. Maps are made by
`sklrp.explain` with the target as it was given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklrp._models import Model, take_rows
from sklrp._outputs import pick_output, split_key
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
    """

    key: str | None
    shape: Shape
    target: WeightedSum | Function

    def __call__(self, output: Any) -> Tensor:
        """Return the number, ``(n_samples, 1)``, of what the network returns."""
        picked = pick_output(output, self.key)
        return evaluate_target(picked.reshape(len(picked), -1), self.target)[:, None]

    def of_truth(self, y: Any) -> Any:
        """Return the truth of the number: y itself, or made of y that is like the output."""
        values = np.asarray(y)
        size = math.prod(self.shape)
        if values.size != len(values) * size or values.ndim < 2:
            return y
        values = values.reshape(len(values), size).astype(np.float64)
        if isinstance(self.target, WeightedSum):  # a field may have no value elsewhere, on land
            needed = self.target.weights != 0
            found: NDArray = values[:, needed] @ self.target.weights[needed]
            return found
        return evaluate_target(torch.from_numpy(values), self.target).numpy()


def as_one_number(model: Any, samples: Any, target: Any, n_samples: int) -> OneNumber | None:
    """Return what a target makes of the output, None if it is a class or an output of a table.

    Parameters
    ----------
    model : Model
        The model.
    samples : array-like of shape (n_samples, ...)
        Samples as they enter the network.
    target : object
        The target.
    n_samples : int
        The number of all samples.

    Returns
    -------
    OneNumber or None
        The number.

    Raises
    ------
    ValueError
        If the target does not fit the output.
    """
    if not isinstance(model, Model) or not model.takes_tensors or model.classes is not None:
        return None
    key, rest = split_key(target)
    output = pick_output(model.returned(take_rows(samples, slice(1))), key)
    shape = tuple(output.shape[1:])
    if key is None and len(shape) < 2 and not _is_of_several(rest):
        return None
    decoded = decode_target(rest, None, n_samples, shape)
    if not isinstance(decoded, WeightedSum | Function):
        decoded = _one_output(decoded, math.prod(shape))
    return OneNumber(key, shape, decoded)


def _is_of_several(target: Any) -> bool:
    """Return whether a target of a table of outputs is a function, a mask or weights."""
    if callable(target):
        return True
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
