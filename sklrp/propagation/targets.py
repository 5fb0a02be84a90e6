"""What is explained: labels or indices of outputs, checked and decoded.

:func:`decode_target` is called once per call of ``explain``, when the number of outputs is known.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np

from sklrp._missing import as_plain_array


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
    labels = as_plain_array(target, "target")
    if labels.dtype == object and not all(isinstance(v, Hashable) for v in labels.flat):
        raise ValueError(f"target must be None, 'all', a label or labels, got {target!r}.")
    if labels.shape not in ((), (n_samples,)):
        raise ValueError(
            f"target must be None, 'all', one label or {n_samples} labels, one per sample, got an "
            f"array of shape {labels.shape}."
        )
    index = _find_positions(labels.ravel().tolist(), classes.tolist())
    return index if labels.ndim else int(index[0])


def _find_positions(labels: list[Any], classes: list[Any]) -> np.ndarray:
    """Return where labels stand among the classes."""
    positions = {label: k for k, label in enumerate(classes)}
    unknown = sorted({repr(label) for label in labels if label not in positions})
    if unknown:
        raise ValueError(
            f"target has the unknown label{'s' * (len(unknown) > 1)} {', '.join(unknown)}; the "
            f"classes are {classes}, or 'all', or None for the predicted class."
        )
    return np.array([positions[label] for label in labels], dtype=np.int64)


def decode_target(
    target: Any, classes: np.ndarray | None, n_samples: int, n_outputs: int
) -> np.ndarray | str | None:
    """Return None, ``"all"`` or one output index per sample.

    Parameters
    ----------
    target : object
        The target, in labels if there are ``classes``, else in indices of outputs.
    classes : ndarray of shape (n_outputs,) or None
        The labels of the outputs.
    n_samples, n_outputs : int
        The numbers of samples and of outputs.

    Returns
    -------
    None, "all" or ndarray of shape (n_samples,)
        The target.
    """
    if _is_open(target):
        return target
    if classes is not None:
        index = np.asarray(encode_target(target, classes, n_samples))
    else:
        index = as_plain_array(target, "target")
        if index.dtype.kind not in "iu" or index.shape not in ((), (n_samples,)):
            raise ValueError(
                f"target must be None, 'all', the index of an output or {n_samples} indices, one "
                f"per sample, got {target!r}."
            )
    if ((index < 0) | (index >= n_outputs)).any():
        raise ValueError(
            f"target must lie in 0..{n_outputs - 1}, the outputs of the network, got {target!r}."
        )
    return np.full(n_samples, index, dtype=np.int64)


def _is_open(target: Any) -> bool:
    """Return whether a target names no output: the predicted one, or all."""
    return target is None or (isinstance(target, str) and target == "all")
