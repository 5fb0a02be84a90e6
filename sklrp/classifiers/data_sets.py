"""Data sets of torch and skorch as samples and targets, which `fit` takes in place of X and y.

The estimators call :func:`take_pairs` before they look at either.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import skorch.dataset
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from sklrp._devices import to_host
from sklrp._stored import Stored, split_into_blocks


def take_pairs(X: Any, y: Any) -> tuple[Any, Any]:
    """Return samples and targets of a data set; of anything else X and y as they are.

    Parameters
    ----------
    X : object
        What was passed as samples. The items of a data set are pairs of a sample and its target,
        or samples alone.
    y : array-like or None
        What was passed as targets; None takes those of the data set.

    Returns
    -------
    X : object
        The samples: those of a data set are read when they are used.
    y : object
        The targets, in memory.

    Raises
    ------
    TypeError
        If samples come one after another only, which training for several epochs cannot use.
    ValueError
        If the data set has no targets, or its items have no sample.
    """
    if isinstance(X, DataLoader):
        raise TypeError(
            "X is a DataLoader, whose batches estimators make themselves: pass X.dataset, and "
            "batch_size as a parameter."
        )
    if isinstance(X, Iterator | IterableDataset):
        raise TypeError(
            f"X is a {type(X).__name__}, which yields its batches once, but fit goes over them "
            "several times and in another order: call partial_fit(X_part, y_part) for each batch, "
            "or write them into a file, np.lib.format.open_memmap, and pass that."
        )
    if not isinstance(X, Dataset):
        return X, y
    if isinstance(X, TensorDataset):
        tensors = [to_host(tensor) for tensor in X.tensors]
        return tensors[0], tensors[1] if y is None and len(tensors) > 1 else y
    if isinstance(X, skorch.dataset.Dataset) and not isinstance(X.X, dict | list | tuple):
        return to_host(X.X), X.y if y is None else y
    return _read_items(X), _read_targets(X) if y is None else y


def _read_items(data: Any) -> Stored:
    """Return the samples of a data set of items."""
    if not len(data):
        raise ValueError(f"X is a {type(data).__name__} of no samples: pass some.")
    first = _sample_of(data, 0)

    def pick(rows: NDArray[np.intp]) -> NDArray:
        return np.stack([_sample_of(data, int(row)) for row in rows])

    shape = (len(data), *first.shape)
    edges = split_into_blocks(shape, first.dtype, None)
    return Stored(lambda a, b: pick(np.arange(a, b)), edges, shape, first.dtype, pick)


def _sample_of(data: Any, row: int) -> NDArray:
    """Return a sample of a data set."""
    item = data[row]
    sample = np.asarray(to_host(item[0] if isinstance(item, tuple | list) else item))
    if sample.dtype.kind not in "fiub":
        raise ValueError(
            f"X is a {type(data).__name__} whose items are no pairs (x, y) of an array and its "
            f"target, got {type(item).__name__}: wrap it in one that returns such pairs."
        )
    return sample


def _read_targets(data: Any) -> NDArray:
    """Return the targets of all samples of a data set, which takes a pass over it."""
    if not isinstance(data[0], tuple | list) or len(data[0]) < 2:
        raise ValueError(
            f"X is a {type(data).__name__} whose items have no target, and y is None: pass y, or "
            "a data set of pairs (x, y)."
        )
    return np.asarray([to_host(data[row][1]) for row in range(len(data))])
