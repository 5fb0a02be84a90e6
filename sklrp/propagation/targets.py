"""What is explained: labels or indices of outputs, or one number made of several of them.

:func:`decode_target` is called once per call of ``explain``, when the shape of the output is
known; :mod:`.start` lets relevance start as it says.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklrp._checks import look_up, suggest
from sklrp._devices import to_host
from sklrp._missing import as_plain_array
from sklrp._outputs import split_key
from sklrp._wording import say_value

_MOST_SHOWN = 8  # of labels, in an error
_MOST_OUTPUTS = 64  # of a gridded output, each with a map of its own

Shape = tuple[int, ...]


class WeightedSum(NamedTuple):
    """A weighted sum of outputs: one of a gridded output, a region, or any weights."""

    weights: np.ndarray  # (n_outputs,)


class Function(NamedTuple):
    """A function of the output, a tensor of shape (n_samples, *shape) in, (n_samples,) out."""

    function: Callable[[Tensor], Tensor]
    shape: Shape


class _FunctionError(ValueError):
    """A function of the output fails, or returns what it must not."""


# What is explained, decoded: None the largest output, "all", or one output of each sample.
Target = WeightedSum | Function | np.ndarray | str | None


def encode_target(target: Any, classes: np.ndarray, n_samples: int) -> Any:
    """Return a target given in labels as None, ``"all"`` or output indices.

    Parameters
    ----------
    target : None, label, array-like of shape (n_samples,) or "all"
        The target.
    classes : ndarray of shape (n_classes,)
        The labels in the order of the outputs, sorted.
    n_samples : int
        The number of samples.

    Returns
    -------
    None, "all", int or ndarray of shape (n_samples,)
        The target of a bare module.

    Raises
    ------
    ValueError
        If a label is unknown or the shape is wrong.
    """
    if _is_open(target):
        return target
    _refuse_coordinates(target)
    labels = as_plain_array(target, "target")
    if labels.shape not in ((), (n_samples,)):
        raise ValueError(
            f"target must be None, 'all', one label or {n_samples} labels, one per sample, got an "
            f"array of shape {labels.shape}."
        )
    index, unknown = look_up(labels, classes, exact=True)
    if unknown:
        raise ValueError(
            f"target has the unknown label{'s' * (', ' in unknown)} {unknown}; the classes are "
            f"{classes.tolist()}, or 'all', or None for the predicted class."
            + suggest(unknown.split(", ")[0].strip("'"), map(str, classes.tolist()))
        )
    return index if labels.ndim else int(index[0])


def split_labels(target: Any, has_labels: bool) -> tuple[str | None, NDArray | None]:
    """Return the label or index of each sample that a target holds, and of which output they are.

    Parameters
    ----------
    target : object
        The target, as ``explain`` takes it.
    has_labels : bool
        Whether the outputs have labels; without any, booleans and floats are made of outputs.

    Returns
    -------
    key : str or None
        The name of the output; None without one.
    labels : ndarray of shape (n_samples,) or None
        The labels; None if the target is one for all samples.
    """
    key, rest = (None, target) if has_labels else split_key(target)
    if rest is None or isinstance(rest, str | tuple | dict) or callable(rest):
        return None, None
    values = np.asarray(to_host(rest))
    if values.ndim != 1 or (values.dtype.kind in "bf" and not has_labels):
        return None, None
    return key, values


def join_labels(key: str | None, labels: NDArray) -> Any:
    """Return the target of such labels: of the output of a name, or of the only one."""
    return labels if key is None else (key, labels)


def decode_target(target: Any, classes: np.ndarray | None, n_samples: int, shape: Shape) -> Target:
    """Return what is explained, for an output of a given shape.

    Parameters
    ----------
    target : object
        The target, in labels if there are ``classes``, else in indices of outputs, a mask or
        weights over them; or a function of the output.
    classes : ndarray of shape (n_outputs,) or None
        The labels of the outputs.
    n_samples : int
        The number of samples.
    shape : tuple of int
        The shape of a sample's output.

    Returns
    -------
    None, "all", ndarray of shape (n_samples,), WeightedSum or Function
        The target.

    Raises
    ------
    ValueError
        If nothing is asked of a gridded output, or what is asked does not fit the output.
    """
    n_outputs = math.prod(shape)
    if callable(target):
        return Function(target, shape)
    if _is_open(target):
        _check_open(target, shape)
        return target
    if classes is not None:
        index = np.asarray(encode_target(target, classes, n_samples))
        if (index >= n_outputs).any():
            raise ValueError(
                f"target must lie among the {n_outputs} outputs of the network, got "
                f"{_show(target)}."
            )
        return np.full(n_samples, index, dtype=np.int64)
    _refuse_coordinates(target)
    is_grid = len(shape) > 1 and n_outputs > 1
    if isinstance(target, tuple) and (is_grid or len(target) == 1):
        return _at_index(target, shape)
    values = as_plain_array(target, "target")
    over_outputs = values.dtype.kind in "bf" or (is_grid and values.ndim > 1)
    # As many whole floats as samples and as outputs may be indices that became floats.
    is_either = values.dtype.kind == "f" and values.shape == shape == (n_samples,)
    if over_outputs and not (is_either and (values % 1 == 0).all()):
        return _over_outputs(values, shape)
    if is_grid or values.dtype.kind not in "iu" or values.shape not in ((), (n_samples,)):
        raise ValueError(f"target must be {_wanted(shape, n_samples)}; got {_show(target)}.")
    if ((values < 0) | (values >= n_outputs)).any():
        raise ValueError(
            f"target must lie in 0..{n_outputs - 1}, the outputs of the network, got "
            f"{_show(target)}."
        )
    return np.full(n_samples, values, dtype=np.int64)


def evaluate_target(outputs: Tensor, target: WeightedSum | Function) -> Tensor:
    """Return the explained number of each sample.

    Parameters
    ----------
    outputs : Tensor of shape (n_samples, n_outputs)
        The outputs.
    target : WeightedSum or Function
        What is explained of them.

    Returns
    -------
    Tensor of shape (n_samples,)
        The numbers.

    Raises
    ------
    ValueError
        If a function fails, or returns anything else than a number for each sample.
    """
    if isinstance(target, WeightedSum):
        return outputs @ torch.from_numpy(target.weights).to(outputs)
    n_samples = len(outputs)
    # A copy: the function may change its argument in place, but not what it is a leaf of.
    argument = outputs.reshape(n_samples, *target.shape).clone()
    try:
        found = target.function(argument)
    except _FunctionError:  # of the function inside a regressor's
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise _FunctionError(
            f"target, a function of the output, failed with {type(error).__name__}: {error}. It "
            f"takes a tensor of shape {(n_samples, *target.shape)} and must reduce all axes but "
            "the first in torch's operations, as output.flatten(1).sum(1) does."
        ) from error
    shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
    if shape != (n_samples,):
        raise _FunctionError(
            "target, a function of the output, takes a tensor of shape "
            f"{(n_samples, *target.shape)}, and must return one of shape ({n_samples},), a number "
            f"for each sample; got {shape}. Reduce all axes but the first, as "
            "output.flatten(1).sum(1) does."
        )
    return found.to(outputs.dtype)


def _is_open(target: Any) -> bool:
    """Return whether a target names no output: the predicted one, or all."""
    return target is None or (isinstance(target, str) and target == "all")


def _refuse_coordinates(target: Any) -> None:
    """Refuse a dict by what takes one."""
    if isinstance(target, dict):
        raise TypeError(
            "target must be an array or a list, an index, a label, a name or a function, got "
            f"{say_value(target, 200)}: labels along the output's coordinates are for "
            "sklrp.geo.explain(..., output=field). Here give a mask over the output, such as "
            "sklrp.geo.box_mask(field, lat=..., lon=...) makes."
        )


def _check_open(target: Any, shape: Shape) -> None:
    """Refuse to choose by itself, or to make very many maps, where the output is a grid."""
    n_outputs = math.prod(shape)
    if len(shape) < 2 or n_outputs == 1:
        return
    if target is None:
        raise ValueError(
            f"target=None, but the network returns {n_outputs} values of shape {shape} for each "
            f"sample: say what is explained, {_wanted(shape)}."
        )
    if n_outputs > _MOST_OUTPUTS:
        raise ValueError(
            f"target='all' would make a map of each of {n_outputs} outputs, at most "
            f"{_MOST_OUTPUTS} of a gridded output are made at once: give target, "
            f"{_wanted(shape)}."
        )


def _show(target: Any) -> str:
    """Return a target as an error tells it: of many labels the different ones, of more a few."""
    if isinstance(target, tuple) or np.ndim(target) != 1 or len(target) <= _MOST_SHOWN:
        return repr(target)
    different = list(dict.fromkeys(np.asarray(target).tolist()))
    more = ", ..." if len(different) > _MOST_SHOWN else ""
    return f"{len(target)} values, {', '.join(map(repr, different[:_MOST_SHOWN]))}{more}"


def _wanted(shape: Shape, n_samples: int | None = None) -> str:
    """Return in words what a target may be."""
    if len(shape) > 1:
        index = f"a tuple of {len(shape)} indices"
    else:
        each = "" if not n_samples else f" or {n_samples} indices, one per sample"
        index = f"None, 'all', the index of an output{each}"
    return (
        f"{index}, a boolean mask or weights of shape {shape or (1,)}, or a function of the output"
    )


def _at_index(index: tuple[Any, ...], shape: Shape) -> WeightedSum:
    """Return one output of a grid. An index outside it is not clipped: it would be another's."""
    is_index = [isinstance(k, Integral) and not isinstance(k, bool | np.bool_) for k in index]
    axes = shape or (1,)
    if len(index) != len(axes) or not all(is_index):
        raise ValueError(f"target must be {_wanted(shape)}; got {say_value(index)}.")
    for axis, (k, n) in enumerate(zip(index, axes, strict=True)):
        if not 0 <= k < n:
            raise ValueError(
                f"target={tuple(map(int, index))} lies outside the output, of shape {axes}: "
                f"index {int(k)} of axis {axis} must lie in 0..{n - 1}."
            )
    weights = np.zeros(axes)
    weights[index] = 1.0
    return WeightedSum(weights.ravel())


def _over_outputs(values: np.ndarray, shape: Shape) -> WeightedSum:
    """Return the sum over a mask, or the sum with weights."""
    kind = "a boolean mask" if values.dtype.kind == "b" else "weights"
    axes = shape or (1,)
    if values.shape != axes:
        raise ValueError(
            f"target must have the output's shape {axes} as {kind} over it, got the shape "
            f"{values.shape}."
        )
    if values.dtype.kind not in "biuf" or not np.isfinite(values).all():
        raise ValueError(
            f"target must hold finite numbers alone as {kind} over the output, got "
            f"{say_value(values.tolist())}."
        )
    if not values.any():
        raise ValueError(
            f"target, {kind} over the output, is {'False' if kind != 'weights' else '0'} "
            "everywhere, an empty region: mark an output at least."
        )
    return WeightedSum(values.astype(np.float64).ravel())
