"""Which samples labels are of, where coordinates or dates say so.

A label belongs to the sample of its own time, and not to that which happens to stand at its place.
What takes labels, weights or scores beside samples calls `match_samples` first.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklrp._coordinate_marks import has_dates
from sklrp._sample_times import find_date_index


def match_samples(labels: Any, X: Any, name: str) -> Any:
    """Return labels in the order of the samples, where both know which samples they are of.

    They know it by the coordinate of the samples' dimension in xarray, or by the dates of an index
    in pandas. Everything else is taken by position, as everywhere in scikit-learn.

    Parameters
    ----------
    labels : object
        Labels, values, weights or groups, one for each sample along the first axis.
    X : object
        The samples.
    name : str
        What errors call the labels.

    Returns
    -------
    object
        The labels; in the order of X if they came in another one.

    Raises
    ------
    ValueError
        If they are of other samples.
    """
    if isinstance(labels, list):
        try:
            np.shape(labels)
        except ValueError:
            raise ValueError(
                f"{name} is a list whose entries differ in length: give one value for each sample."
            ) from None
        except (TypeError, RuntimeError):  # of tensors that NumPy cannot read
            pass
    its, known, which = _find_marks(labels, X)
    if its is None or known is None or its.equals(known):
        return labels
    found = find_order(its, known)
    if found is None:
        raise ValueError(_say_others(name, which, its, known))
    if hasattr(labels, "iloc"):
        return labels.iloc[found]
    return labels.isel({labels.dims[0]: found})


def match_target(target: Any, X: Any, name: str = "target") -> Any:
    """Return a target whose labels of samples are in their order.

    Masks and weights over a network's output are not of samples, though their dimensions may have
    the names of those of X: they are taken as they are, and count by position.

    Parameters
    ----------
    target : object
        The target, as ``explain`` takes it.
    X : object
        The samples.
    name : str, default="target"
        What errors call it.

    Returns
    -------
    object
        The target.

    Raises
    ------
    ValueError
        If its labels are of other samples, or if a mask has the axes or coordinates of X in
        another order.
    """
    if _is_of_xarray(target) and _is_of_xarray(X):
        dim = target.dims[0] if len(target.dims) == 1 else None
        is_of_samples = dim in (next(iter(X.dims), None), "time", "sample")
        if not is_of_samples and not (dim in X.coords and has_dates(X[dim])):
            _check_order(target, X, name)
            return target
    return match_samples(target, X, name)


def _check_order(mask: Any, X: Any, name: str) -> None:
    """Refuse a mask with the axes or coordinates of X in another order: which is meant?"""
    if hasattr(mask, "data_vars"):
        return
    fields = next(iter(X.data_vars.values()), X) if hasattr(X, "data_vars") else X
    order = tuple(dim for dim in fields.dims if dim in mask.dims)
    own = tuple(dim for dim in mask.dims if dim in order)
    if own != order and [mask.sizes[dim] for dim in own] == [mask.sizes[dim] for dim in order]:
        raise ValueError(
            f"{name} has the dimensions {own}, and X has them as {order}, but a mask counts by "
            f"position: put it in the order of the network's output, {name}.transpose(..., "
            f"*{order}), or pass np.asarray({name}) if it is."
        )
    for dim in (dim for dim in mask.dims if dim in mask.indexes and dim in X.indexes):
        its, known = mask.indexes[dim], X.indexes[dim]
        if not its.equals(known) and its.sort_values().equals(known.sort_values()):
            raise ValueError(
                f"{name} has the {dim} of X in another order, but a mask counts by position: "
                f"put it in the order of the network's output, {name}.sel({dim}=X.{dim}), or "
                f"pass np.asarray({name}) if it is."
            )


def check_same_samples(labels: Any, X: Any, name: str) -> None:
    """Raise an error unless labels are of the samples, in their order, as far as both know.

    Parameters
    ----------
    labels : object
        Labels that are handed on as they are, such as those of a pipeline.
    X : object
        The samples.
    name : str
        What errors call the labels.

    Raises
    ------
    ValueError
        If they are of other samples, or in another order.
    """
    if match_samples(labels, X, name) is not labels:
        its, known, which = _find_marks(labels, X)
        raise ValueError(_say_others(name, which, its, known))


def find_order(its: Any, known: Any) -> NDArray[np.intp] | None:
    """Return where the marks of one index of pandas are in another; None if they are others."""
    if its.equals(known):
        return np.arange(len(known))
    if len(its) != len(known) or not its.is_unique:
        return None
    found: NDArray[np.intp] = its.get_indexer(known)  # -1 also for what cannot be compared
    return None if (found < 0).any() else found


def _find_marks(labels: Any, X: Any) -> tuple[Any, Any, str]:
    """Return what marks the samples of labels and of X, None if one does not say; and its name."""
    if not _is_of_xarray(labels) and not hasattr(labels, "iloc"):
        return None, None, ""
    dim = next(iter(labels.dims), None) if _is_of_xarray(labels) else None
    if dim is not None and _is_of_xarray(X) and dim in X.dims:
        if dim in labels.coords and dim in X.coords:
            return labels.get_index(dim), X.get_index(dim), str(dim)
        return None, None, ""
    return find_date_index(labels), find_date_index(X), "its dates"


def _is_of_xarray(data: Any) -> bool:
    return hasattr(data, "dims") and hasattr(data, "coords")


def _say_others(name: str, which: str, its: Any, known: Any) -> str:
    """Say where labels are of other samples than X, and what to do."""
    texts = [(_as_text(own), _as_text(of_x)) for own, of_x in zip(its, known, strict=False)]
    at = next((k for k, (own, of_x) in enumerate(texts) if own != of_x), None)
    if len(its) != len(known):
        differ = f"it has {len(its)} of them, X {len(known)}"
    elif at is None:  # of two calendars, or numbers and text
        differ = f"it has them as {type(its[0]).__name__}, X as {type(known[0]).__name__}"
    else:
        differ = f"at position {at} it has {texts[at][0]}, X {texts[at][1]}"
    remedy = f"{name}.sel({which}=X.{which})" if which.isidentifier() else f"{name}.loc[...]"
    return (
        f"{name} is of other samples than X, by {which}: {differ}. Select those of X in their "
        f"order, {remedy}, or pass plain values, np.asarray({name}), if they belong together by "
        "position."
    )


def _as_text(mark: Any) -> str:
    """Write a date without its zeros, anything else as it is."""
    return re.sub(r"[T ]00:00:00(\.0+)?$", "", str(mark))
