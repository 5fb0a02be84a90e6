"""How samples lie on their axis: each once, in blocks of parts, or over and over.

A network may fold another axis into that of the samples: the parts of a sample then lie side by
side, or all samples lie there once for each part, as behind ``torch.cat([a, b])`` or a view of
``(n_steps * n_samples, ...)``. The recorder finds out, and whatever counts relevance by sample
or looks for a sample's rows asks here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Folded(int):
    """The number of an axis that holds all samples over and over, in so many runs."""

    n_runs: int

    def __new__(cls, axis: int, n_runs: int) -> Folded:
        """Return the number."""
        own = super().__new__(cls, axis)
        own.n_runs = n_runs
        return own

    def __getnewargs__(self) -> Any:
        """Return what a copy or a pickle is made of."""
        return int(self), self.n_runs


def count_runs(axis: int) -> int:
    """Return how often all samples come on an axis."""
    return axis.n_runs if isinstance(axis, Folded) else 1


def fold_like(axis: int, like: int) -> int:
    """Return the number of an axis on which samples lie as on another one."""
    return Folded(axis, like.n_runs) if isinstance(like, Folded) else int(axis)


def number_rows(n_rows: int, n_samples: int, n_runs: int, device: Any = None) -> Tensor | None:
    """Return the sample of each row; None if there cannot be so many rows."""
    if not n_rows or n_rows % (n_samples * n_runs):
        return None
    one = torch.arange(n_samples, device=device, dtype=torch.float32)
    if n_rows == n_samples:  # as it nearly always is, and for each value of a probe
        return one
    return one.repeat_interleave(n_rows // (n_samples * n_runs)).repeat(n_runs)


def without_repeats(samples: Tensor) -> Tensor:
    """Return the samples of values with length 1 on each axis along which memory is repeated."""
    # Compared by broadcasting, a few numbers say what those of all values would.
    for axis, (n, stride) in enumerate(zip(samples.shape, samples.stride(), strict=True)):
        if n > 1 and stride == 0:
            samples = samples.narrow(axis, 0, 1)
    return samples


def sort_rows(tensor: Tensor, n_samples: int, n_runs: int, back: bool = False) -> Tensor:
    """Return rows with the parts of each sample side by side, or ``back`` from there in runs."""
    if n_runs == 1:
        return tensor
    n_parts = len(tensor) // (n_samples * n_runs)
    shape = (n_samples, n_runs) if back else (n_runs, n_samples)
    return tensor.unflatten(0, (*shape, n_parts)).transpose(0, 1).flatten(0, 2)
