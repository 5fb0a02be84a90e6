"""Devices of torch: what one can compute in, and the values that lie on it as NumPy's arrays.

NumPy cannot read the memory of an accelerator, so whatever takes labels, weights, masks or maps
hands them to `to_host` first. The engine and the classifiers ask `has_float64` before they make
numbers of double precision. The engine and `skill_map` work chunk by chunk, and ask for
`keep_freed_memory`.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

# The largest block whose freeing tells glibc to keep blocks of that size: 32 MiB with its head.
_KEPT_BYTES = 32 * 2**20 - 4096


@functools.cache
def has_float64(device: torch.device) -> bool:
    """Tell whether a device computes in float64; Apple's MPS and some of Intel's do not."""
    try:
        torch.ones(1, dtype=torch.float64, device=device).sum()
    except (TypeError, RuntimeError):
        return False
    return True


def to_host(values: Any) -> Any:
    """Return a tensor as an array, wherever it lies, and a list of tensors as one of arrays.

    Parameters
    ----------
    values : object
        Whatever was passed. Only tensors and lists or tuples of them change.

    Returns
    -------
    object
        The values. A tensor without axes is a number; a tensor leaves its gradient behind, and
        bfloat16, which NumPy lacks, becomes float32.
    """
    if isinstance(values, Tensor):
        if values.is_meta or values.layout != torch.strided:  # who makes an array of it says so
            return values
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
        return values.numpy()[()]
    if type(values) in (list, tuple) and any(isinstance(v, Tensor) for v in values):
        return type(values)(map(to_host, values))
    return values


def as_tensor(array: NDArray[Any]) -> torch.Tensor:
    """Return a tensor of an array, on its memory where torch takes it and warns of nothing."""
    flags, size = array.flags, array.itemsize
    plain = flags.writeable and flags.aligned and flags.c_contiguous
    plain = plain and all(stride >= 0 and stride % size == 0 for stride in array.strides)
    return torch.from_numpy(array if plain else array.copy(order="C"))


@functools.cache
def keep_freed_memory() -> None:
    """Let the C library keep what a chunk frees, for the next one to take; once in a process.

    glibc hands blocks back to the system if they are larger than any it has seen freed, and a
    page that comes anew takes longer than the work on it: convolutions of a process that has freed
    nothing large took up to twice the time. One large block, untouched, is allocated and freed.
    """
    torch.UntypedStorage(_KEPT_BYTES, device="cpu")  # no tensor: modes of torch fill those
