"""The data of a training as tensors: the dataset, its batches, and where it lies.

Estimators make the dataset; `TrainingNet` slices its batches, and moves it to the accelerator
once where there is room.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from skorch.dataset import Dataset
from torch import Tensor


class BatchIterator:
    """Slice batches from the tensors of a dataset.

    Parameters
    ----------
    dataset : skorch.dataset.Dataset
        Dataset whose ``X`` is a tensor or a dict of tensors and whose ``y`` is a tensor or None.
    batch_size : int, default=128
        Number of samples of a batch; the last one may be smaller.
    shuffle : bool, default=False
        Whether every pass goes through the samples in a new order, drawn from torch's generator.
    drop_last : bool, default=False
        Whether to leave out a last batch that is smaller than the others.
    device : torch.device, str or None, default=None
        Where the data is kept; it is moved there once. None (default): it stays where it is.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int = 128,
        shuffle: bool = False,
        drop_last: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        move = functools.partial(torch.as_tensor, device=device)
        self.dataset = dataset
        self.X = dataset.X if device is None else _map(move, dataset.X)
        self.y = dataset.y if device is None or dataset.y is None else move(dataset.y)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last

    def __len__(self) -> int:
        n_samples = len(self.dataset)
        return n_samples // self.batch_size if self.drop_last else -(-n_samples // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        order = None
        if self.shuffle:  # drawn on the CPU, so that every device sees the same order
            order = torch.randperm(len(self.dataset)).to(_parts(self.X)[0].device)
        for i in range(len(self)):
            rows: Any = slice(i * self.batch_size, (i + 1) * self.batch_size)
            if order is not None:
                rows = order[rows]
            take = functools.partial(_pick, rows=rows)
            yield _map(take, self.X), None if self.y is None else take(self.y)


def make_dataset(X: Tensor, y: np.ndarray, sample_weight: np.ndarray | None = None) -> Dataset:
    """Return a skorch dataset of tensors for `TrainingNet.train`.

    Parameters
    ----------
    X : Tensor of shape (n_samples, n_features)
        Samples.
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Integer labels from 0, or values.
    sample_weight : ndarray of shape (n_samples,) or None, default=None
        Factor of each sample's loss.

    Returns
    -------
    skorch.dataset.Dataset
        The data; with weights its ``X`` is a dict of ``X`` and ``sample_weight``.
    """
    targets = torch.tensor(y, dtype=X.dtype if y.dtype.kind == "f" else torch.int64)
    if sample_weight is None:
        return Dataset(X, targets)
    return Dataset({"X": X, "sample_weight": torch.tensor(sample_weight, dtype=X.dtype)}, targets)


def find_home(dataset: Dataset, device: torch.device) -> torch.device | None:
    """Return the accelerator if the data takes at most half of its free memory, else None."""
    parts = [*_parts(dataset.X), *_parts(dataset.y)]
    n_bytes = sum(getattr(part, "nbytes", 0) for part in parts)
    return device if 2 * n_bytes <= free_memory(device) else None


def free_memory(device: torch.device) -> int:
    """Return how many bytes of an accelerator can be had, 0 where torch does not tell."""
    if device.type != "cuda":
        return 0
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + cached


def _parts(X: Any) -> list[Any]:
    """Return the arrays of samples with or without weights."""
    return list(X.values()) if isinstance(X, Mapping) else [X]


def _map(function: Callable[[Any], Any], X: Any) -> Any:
    """Return samples, with or without weights, whose arrays went through the function."""
    return {k: function(v) for k, v in X.items()} if isinstance(X, Mapping) else function(X)


def _pick(x: Any, rows: Any) -> Any:
    """Return rows of an array, in any order by the fastest function there is."""
    if isinstance(x, Tensor):
        return x.index_select(0, rows) if isinstance(rows, Tensor) else x[rows]
    found = x[rows]
    if not isinstance(found, np.ndarray):
        return found
    return torch.from_numpy(found if found.flags.writeable else found.copy())
