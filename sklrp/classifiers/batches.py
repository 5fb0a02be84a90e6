"""The data of a training as tensors: the dataset, its batches, and where it lies.

Estimators make the dataset; `TrainingNet` slices its batches, and moves it to the accelerator
once where there is room.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch.dataset import Dataset
from torch import Tensor

from sklrp._devices import as_tensor
from sklrp._random_stream import RandomStream
from sklrp._stored import Stored

_WINDOW_BYTES = 2**26  # of samples that are mixed, where they can only be read in blocks


class BatchIterator:
    """Slice batches from the tensors of a dataset.

    Parameters
    ----------
    dataset : skorch.dataset.Dataset
        Dataset whose ``X`` is a tensor or a dict of tensors and whose ``y`` is a tensor or None.
    batch_size : int, default=128
        Number of samples of a batch; the last one may be smaller.
    shuffle : bool, default=False
        Whether every pass goes through the samples in a new order.
    drop_last : bool, default=False
        Whether to leave out a last batch that is smaller than the others.
    device : torch.device, str or None, default=None
        Where the data is kept; it is moved there once. None (default): it stays where it is.
    stream : RandomStream or None, default=None
        What the orders are drawn from. None (default): torch's global generator.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int = 128,
        shuffle: bool = False,
        drop_last: bool = False,
        device: torch.device | str | None = None,
        stream: RandomStream | None = None,
    ) -> None:
        move = functools.partial(torch.as_tensor, device=device)
        self.dataset = dataset
        self.X = dataset.X if device is None else _map(move, dataset.X)
        self.y = dataset.y if device is None or dataset.y is None else move(dataset.y)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.stream = stream

    def __len__(self) -> int:
        n_samples = len(self.dataset)
        return n_samples // self.batch_size if self.drop_last else -(-n_samples // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        X, order = self.X, None
        if self.shuffle:
            with nullcontext() if self.stream is None else self.stream:
                X, order = self._draw_order()
        for i in range(len(self)):
            place = slice(i * self.batch_size, (i + 1) * self.batch_size)
            rows: Any = place if order is None else order[place]
            take = functools.partial(pick, rows=rows, place=place)
            yield _map(take, X), None if self.y is None else take(self.y)

    def _draw_order(self) -> tuple[Any, Tensor]:
        """Return the samples, in windows if they are in blocks, and an order of them."""
        samples = _parts(self.X)[0]
        if isinstance(samples, Stored) and not samples.is_picked:
            windows = _Windows(samples)
            return _replace(self.X, samples, windows), windows.order
        order = torch.randperm(len(self.dataset))  # on the CPU: every device sees the same order
        return self.X, order if isinstance(samples, Stored) else order.to(samples.device)


class _Windows:
    """Samples in random order that can only be read in blocks: a few blocks at a time are mixed.

    Parameters
    ----------
    samples : Stored
        The samples.
    """

    def __init__(self, samples: Stored) -> None:
        self._samples, self._number = samples, -1
        self._window = np.empty(0)
        n_blocks = len(samples.edges) - 1
        if not comes_in_windows(samples):  # as samples in memory
            self.order = torch.randperm(len(samples))
            self._ends = np.array([len(samples)])
            return
        row_bytes = max(1, samples.nbytes // len(samples))
        windows: list[list[Tensor]] = [[]]
        size = 0
        for block in torch.randperm(n_blocks).tolist():
            rows = torch.arange(int(samples.edges[block]), int(samples.edges[block + 1]))
            if windows[-1] and size + len(rows) * row_bytes > _WINDOW_BYTES:
                windows.append([])
                size = 0
            windows[-1].append(rows)
            size += len(rows) * row_bytes
        mixed = [torch.cat(parts)[torch.randperm(sum(map(len, parts)))] for parts in windows]
        self.order = torch.cat(mixed)
        self._ends = np.cumsum([len(rows) for rows in mixed])

    def take(self, place: slice) -> Tensor:
        """Return the samples of a batch by its place in the order; batches come in order."""
        start, stop = place.start, min(place.stop, len(self.order))
        parts = []
        while start < stop:
            number = int(np.searchsorted(self._ends, start, side="right"))
            begin, end = (int(self._ends[number - 1]) if number else 0), int(self._ends[number])
            if number != self._number:
                self._number, self._window = number, self._samples[self.order[begin:end]]
            parts.append(self._window[start - begin : min(stop, end) - begin])
            start = min(stop, end)
        return torch.from_numpy(np.concatenate(parts))


def comes_in_windows(X: Any) -> bool:
    """Tell whether samples are too many to be mixed at once, and can only be read in blocks."""
    return isinstance(X, Stored) and not X.is_picked and X.nbytes > _WINDOW_BYTES


def make_dataset(
    X: NDArray | Stored,
    y: NDArray,
    sample_weight: NDArray | None = None,
    *,
    dtype: torch.dtype,
) -> Dataset:
    """Return a skorch dataset of tensors for `TrainingNet.train`.

    Parameters
    ----------
    X : ndarray or Stored of shape (n_samples, n_features)
        Samples; those that are read part by part stay where they are.
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Integer labels from 0, or values.
    sample_weight : ndarray of shape (n_samples,) or None, default=None
        Factor of each sample's loss.
    dtype : torch.dtype
        The floating dtype of the network.

    Returns
    -------
    skorch.dataset.Dataset
        The data; with weights its ``X`` is a dict of ``X`` and ``sample_weight``.
    """
    samples = X if isinstance(X, Stored) else torch.tensor(X, dtype=dtype)
    targets = torch.tensor(y, dtype=dtype if y.dtype.kind == "f" else torch.int64)
    if sample_weight is None:
        return Dataset(samples, targets)
    weights = torch.tensor(sample_weight, dtype=dtype)
    return Dataset({"X": samples, "sample_weight": weights}, targets)


def find_home(dataset: Dataset, device: torch.device) -> torch.device | None:
    """Return the accelerator if the data takes at most half of its free memory, else None."""
    parts = [*_parts(dataset.X), *_parts(dataset.y)]
    if any(isinstance(part, Stored) for part in parts):
        return None
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


def _replace(X: Any, old: Any, new: Any) -> Any:
    """Return samples, with or without weights, with another object in place of one."""
    return _map(lambda part: new if part is old else part, X)


def pick(x: Any, rows: Any, place: slice) -> Any:
    """Return rows of an array, in any order by the fastest function there is."""
    if isinstance(x, _Windows):
        return x.take(place)
    if isinstance(x, Tensor):
        return x.index_select(0, rows) if isinstance(rows, Tensor) else x[rows]
    found = x[rows]
    if not isinstance(found, np.ndarray):
        return found
    return as_tensor(found)
