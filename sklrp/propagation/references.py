"""References: the value of an output from which it is explained, where that is not zero.

Relevance starts at the value of an output, so a map of zeros stands for an output of zero. Another
reference shifts the explained score by a constant, in which no value of the input has part: the
map stays as it is, and the constant is told. :mod:`.run`, :mod:`.preparing` and the
regressors, which start at the mean of their targets, read references here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from sklrp._devices import to_host
from sklrp._wording import say_value
from sklrp.propagation.targets import Function, Shape, WeightedSum, evaluate_target


def check_reference(reference: Any, *, has_mean: bool) -> None:
    """Raise an error unless this may be a reference, whatever the shape of the output.

    Parameters
    ----------
    reference : str, float or array-like
        The reference.
    has_mean : bool
        Whether the mean of the targets in training is known.

    Raises
    ------
    ValueError
        If it is another string, no number, or not finite.
    """
    names = ("mean", "zero") if has_mean else ("zero",)
    if isinstance(reference, str):
        if reference == "mean" and not has_mean:
            raise ValueError(
                "reference='mean' is of the regressors of this package, which know the mean of "
                "their targets in training; of other networks give it as a number."
            )
        if reference not in names:
            raise ValueError(
                f"reference must be {', '.join(map(repr, names))} or a number, "
                f"got {say_value(reference)}."
            )
        return
    values = _as_numbers(reference)
    if values is None:
        raise ValueError(
            f"reference must be {', '.join(map(repr, names))}, a number or one number for each "
            f"output, got {say_value(reference)}."
        )
    if not np.isfinite(values).all():
        raise ValueError(f"reference must be finite, got {say_value(reference)}.")


def read_reference(
    reference: Any, shape: Shape, mean: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Return the reference of each output.

    Parameters
    ----------
    reference : {"mean", "zero"}, float or array-like of the output's shape
        The reference: one number for all outputs, or one for each.
    shape : tuple of int
        The shape of a sample's output.
    mean : array-like of the output's shape or None, default=None
        The mean of the targets in training, where it is known.

    Returns
    -------
    ndarray of the output's shape
        The references.

    Raises
    ------
    ValueError
        If the reference is none, see :func:`check_reference`, or has another shape.
    """
    check_reference(reference, has_mean=mean is not None)
    if isinstance(reference, str):
        values = np.zeros(shape) if reference == "zero" else np.asarray(mean)
    else:
        values = np.asarray(_as_numbers(reference))
    if values.shape not in ((), shape, shape or (1,)):
        n = f"each of the {shape[0]} outputs" if len(shape) == 1 else f"each output, {shape}"
        raise ValueError(
            f"reference must be a number or one number for {n}, got an array of shape "
            f"{values.shape}."
        )
    return np.broadcast_to(values.reshape(values.shape and shape), shape).astype(np.float64)


def find_at_target(
    values: NDArray[np.float64], target: WeightedSum | Function | NDArray | str, n_samples: int
) -> NDArray[np.float64]:
    """Return what references make of the explained scores.

    Parameters
    ----------
    values : ndarray of the output's shape
        The reference of each output.
    target : WeightedSum, Function, "all" or ndarray of shape (n_samples,)
        What is explained of the outputs.
    n_samples : int
        The number of samples.

    Returns
    -------
    ndarray of shape (n_samples,) or (n_samples, n_outputs)
        The score that a map of zeros stands for.

    Raises
    ------
    ValueError
        If a function has no finite value there.
    """
    flat = values.ravel()
    if isinstance(target, str):
        return np.tile(flat, (n_samples, 1))
    if isinstance(target, np.ndarray):
        return flat[target]
    score = float(evaluate_target(torch.from_numpy(flat[None]), target)[0])
    if not np.isfinite(score):
        raise ValueError(
            f"target, a function of the output, is {score} at the reference: give another one, "
            "or leave it out."
        )
    return np.full(n_samples, score)


def _as_numbers(reference: Any) -> NDArray | None:
    """Return a reference as an array of real numbers, None if it is something else."""
    if isinstance(reference, bool | bytes | bytearray) or np.ma.is_masked(reference):
        return None
    try:
        values = np.asarray(to_host(reference))
    except Exception:  # rows of several lengths, a tensor without data, a value's own code
        return None
    return values if values.dtype.kind in "iuf" and values.size else None
