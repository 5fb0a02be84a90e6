"""Explaining batches that come one after another, as from a generator that reads files.

`explain` of models and of estimators calls :func:`explain_piecemeal` for what it cannot take rows
of: each batch is explained when it comes, and only its relevance is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklrp._overlaps import check_apart
from sklrp._rows import count_samples, map_batches
from sklrp._stored import release
from sklrp.propagation.details import Details, LayerDetails, LayerList
from sklrp.propagation.tape import CAUSES
from sklrp.propagation.targets import join_labels, split_labels


class _Part:
    """The place of some samples in a larger array, which may be in a file."""

    def __init__(self, whole: Any, start: int, n_samples: int) -> None:
        self._whole, self._start = whole, start
        self.shape = (n_samples, *whole.shape[1:])
        self.dtype = whole.dtype

    def __setitem__(self, rows: slice, values: Any) -> None:
        self._whole[self._start + rows.start : self._start + rows.stop] = values


def explain_piecemeal(
    explain: Callable[..., Any],
    batches: Iterator[Any],
    *,
    target: Any,
    has_labels: bool,
    out: Any = None,
    **options: Any,
) -> Any:
    """Explain batches of samples one after another.

    Parameters
    ----------
    explain : callable
        Explains one batch; takes what `sklrp.explain` takes.
    batches : iterator
        The batches, each a valid ``X``.
    target : object
        The target of all samples.
    has_labels : bool
        Whether the model's outputs have labels, so that a list in `target` holds such.
    out : array or None, default=None
        Where relevance is written; None returns it.
    **options : dict
        The other parameters of `sklrp.explain`.

    Returns
    -------
    ndarray, Tensor, tuple or dict, or (relevance, details)
        As `sklrp.explain` returns them, of all batches.

    Raises
    ------
    ValueError
        If there are no batches, or more or fewer samples than `out` or `target` have.
    """
    key, labels = split_labels(target, has_labels)
    limits = {"target": None if labels is None else len(labels)}
    if out is not None:
        limits["out"] = count_samples(out)
    done = 0
    parts: list[Any] = []
    details: list[Details] = []

    def explain_one(batch: Any) -> Any:
        n_samples = count_samples(batch)
        stop = done + n_samples
        _check_lengths(stop, limits, is_last=False)
        check_apart(out, "out", batch, "X")
        found = explain(
            batch,
            target=target if labels is None else join_labels(key, labels[done:stop]),
            out=None if out is None else _part_of(out, done, n_samples),
            **options,
        )
        if isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], Details):
            found, said = found
            details.append(said)
        if parts:
            _check_alike(found, parts[0])
        return n_samples, found

    for n_samples, found in map_batches(explain_one, batches):
        if out is None:
            parts.append(found)
        for place in _list_of(out):  # what was written goes to its file
            release(place)
        done += n_samples
    _check_lengths(done, limits, is_last=True)
    relevance = _join_relevance(parts) if out is None else out
    return (relevance, _join_details(details, target)) if details else relevance


def _check_lengths(n_samples: int, limits: dict[str, int | None], *, is_last: bool) -> None:
    """Raise an error if labels or places are too few, or in the end too many."""
    for name, limit in limits.items():
        if limit is not None and (n_samples > limit or (is_last and n_samples < limit)):
            least = "" if is_last else "at least "
            raise ValueError(
                f"{name} has the length {limit}, but the batches of X hold {least}{n_samples} "
                f"samples: give a {name} of as many."
            )


def _check_alike(found: Any, first: Any) -> None:
    """Raise an error, before more is explained, if relevance cannot be joined to that before."""
    for one, other in zip(_list_of(found), _list_of(first), strict=True):
        if one.shape[1:] != other.shape[1:]:
            raise ValueError(
                f"X has samples whose relevance has the shape {tuple(one.shape[1:])}, but in its "
                f"first batch {tuple(other.shape[1:])}: give all samples in one shape."
            )


def _list_of(out: Any) -> list[Any]:
    """Return the arrays that are written to, one for each input."""
    if out is None:
        return []
    if isinstance(out, Mapping):
        return list(out.values())
    return list(out) if isinstance(out, tuple) else [out]


def _part_of(out: Any, start: int, n_samples: int) -> Any:
    """Return the place of a batch in an array, or in each of several."""
    if isinstance(out, Mapping):
        return {name: _part_of(one, start, n_samples) for name, one in out.items()}
    if isinstance(out, tuple):
        return tuple(_part_of(one, start, n_samples) for one in out)
    if isinstance(out, np.ndarray | Tensor):
        return out[start : start + n_samples]
    return _Part(out, start, n_samples)


def _join_relevance(parts: Sequence[Any]) -> Any:
    """Return relevance of batches as that of all samples."""
    one = parts[0]
    if isinstance(one, Mapping):
        return {name: _join_relevance([part[name] for part in parts]) for name in one}
    if isinstance(one, tuple):
        return tuple(_join_relevance(list(values)) for values in zip(*parts, strict=True))
    return torch.cat(list(parts)) if isinstance(one, Tensor) else np.concatenate(parts)


def _join_details(details: Sequence[Details], given: Any) -> Details:
    """Return details of batches as those of all samples; a target that was given is of all."""
    one = details[0]
    names = [n for n in ("score", "rest", "reference", "reference_share") if n in one]
    found = {name: np.concatenate([part[name] for part in details]) for name in names}
    layers = []
    for of_batches in zip(*(part.layers for part in details), strict=True):
        amounts = {
            name: np.concatenate([layer[name] for layer in of_batches])
            for name in ("relevance", *CAUSES)
        }
        layers.append(LayerDetails(**{**of_batches[0], **amounts}))
    at_layers = {
        name: np.concatenate([part.layer_relevance[name] for part in details])
        for name in one.layer_relevance
    }
    # Weights of as many outputs as a batch has samples have the shape of labels of these.
    is_of_each = one.target is not given and np.shape(one.target)[:1] == np.shape(one.score)[:1]
    target = np.concatenate([part.target for part in details]) if is_of_each else one.target
    rest = {name: v for name, v in one.items() if name not in (*found, "layers", "target")}
    return Details(
        **{
            **rest,
            **found,
            "target": target,
            "layers": LayerList(layers, at_layers),
            "layer_relevance": at_layers,
        }
    )
