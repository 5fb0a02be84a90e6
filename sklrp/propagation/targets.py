"""What is explained: labels or indices of outputs, checked and decoded."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np


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
    if target is None or (isinstance(target, str) and target == "all"):
        return target
    labels = np.asarray(target)
    if labels.dtype == object and not all(isinstance(v, Hashable) for v in labels.flat):
        raise ValueError(f"target must be None, 'all', a label or labels, got {target!r}.")
    if labels.ndim > 1 or (labels.ndim == 1 and len(labels) != n_samples):
        raise ValueError(
            f"target must be None, 'all', one label or {n_samples} labels, one per sample, got an "
            f"array of shape {labels.shape}."
        )
    positions = {label: k for k, label in enumerate(classes.tolist())}
    unknown = sorted({repr(v) for v in labels.ravel().tolist() if v not in positions})
    if unknown:
        raise ValueError(
            f"target has the unknown label{'s' * (len(unknown) > 1)} {', '.join(unknown)}; the "
            f"classes are {classes.tolist()}, or 'all', or None for the predicted class."
        )
    index = np.array([positions[v] for v in labels.ravel().tolist()], dtype=np.int64)
    return index if labels.ndim else int(index[0])


def _check_target(target: Any, n_samples: int, n_outputs: int) -> np.ndarray | str | None:
    """Return the target of a bare module as None, ``"all"`` or one output index per sample."""
    if target is None or (isinstance(target, str) and target == "all"):
        return target
    index = np.asarray(target)
    if (
        index.dtype.kind not in "iu"
        or index.ndim > 1
        or (index.ndim == 1 and len(index) != n_samples)
    ):
        raise ValueError(
            f"target must be None, 'all', the index of an output or {n_samples} indices, one per "
            f"sample, got {target!r}."
        )
    if ((index < 0) | (index >= n_outputs)).any():
        raise ValueError(
            f"target must lie in 0..{n_outputs - 1}, the outputs of the network, got {target!r}."
        )
    return np.full(n_samples, index, dtype=np.int64)
