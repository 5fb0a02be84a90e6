"""Samples far from those that a network was trained on, of which nothing else would tell.

Fields as downloaded and a model of their anomalies have the same shape. Whatever explains or tests
given samples calls `warn_if_far` once; the command line, which reads them in parts, `say_far`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sklrp._missing import as_gapped_array
from sklrp._stored import Stored, take_blocks
from sklrp._warnings import warn_user

_MOST_OUTSIDE = 0.01  # of all values
_AT_ONCE = 100  # samples that are read where they are not in memory

Range = tuple[float, float]


def warn_if_far(
    model: Any, entering: Any, enter_train: Callable[[], Any] | None = None, name: str = "X"
) -> None:
    """Warn if samples lie far outside what a model was trained on.

    Parameters
    ----------
    model : Model or PlainModel
        The model; its network's ``input_range_`` is the range of all values in ``fit``.
    entering : array-like of shape (n_samples, ...)
        What enters the network for the samples. Of several inputs nothing is said.
    enter_train : callable or None, default=None
        Returns what entered it in training, (n_train, ...), for a network without
        ``input_range_``. None (default): nothing is said of such a network.
    name : str, default="X"
        What the warning calls the samples.
    """
    if model.takes_integers:  # indices, such as of words
        return
    known = range_in_training(model)
    if known is None and enter_train is not None:
        known = _range_of(enter_train())
    if known is not None and (said := say_far(entering, known, name, model.before is not None)):
        warn_user(said)


def range_in_training(model: Any) -> Range | None:
    """Return the range of all values that a network was trained on, None if it keeps none."""
    return getattr(model.network, "input_range_", None)


def say_far(entering: Any, known: Range, name: str, behind_steps: bool) -> str:
    """Say in words that samples lie far outside a range; nothing if they do not.

    Parameters
    ----------
    entering : array-like of shape (n_samples, ...)
        What enters the network.
    known : tuple of float
        The least and the largest value in training.
    name : str
        Where the samples are from.
    behind_steps : bool
        Whether steps before the network have made them.

    Returns
    -------
    str
        The words, empty if all is well.
    """
    X = _numbers_of(entering)
    if X is None:
        return ""
    low, high = known
    # New samples reach a little further than those in training: half as far again is far.
    margin = (high - low) / 2
    n_outside = sum(
        np.count_nonzero((part < low - margin) | (part > high + margin))
        for _, part in take_blocks(X)
    )
    share = n_outside / X.size
    if share <= _MOST_OUTSIDE:
        return ""
    least, most = np.nanmin(X), np.nanmax(X)
    if np.isinf([least, most]).any():  # which is refused, by name
        return ""
    made, advice = "in", "what it was trained on, such as anomalies or scaled values"
    if behind_steps:
        made = "that the model's steps make of"
        advice = "data in the units and of the kind that it was fitted on"
    return (
        f"{share:.0%} of the values {made} {name} ({least:.4g} to {most:.4g}) lie "
        f"far outside those that the model was trained on ({low:.4g} to {high:.4g}): give it "
        f"{advice}."
    )


def _range_of(entering: Any) -> Range | None:
    """Return the range of samples, None if they have none."""
    X = None if entering is None else _numbers_of(entering)
    return None if X is None or np.isnan(X).all() else (float(np.nanmin(X)), float(np.nanmax(X)))


def _numbers_of(entering: Any) -> Any:
    """Return samples as an array of numbers, None if they are none."""
    if isinstance(entering, tuple | Mapping):
        return None
    if isinstance(entering, Stored):
        rows = np.linspace(0, len(entering) - 1, min(len(entering), _AT_ONCE)).astype(np.intp)
        entering = entering[rows]
    X = as_gapped_array(entering, "X")
    return X if X.ndim and X.size and X.dtype.kind in "iuf" else None
