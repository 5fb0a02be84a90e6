"""Whose memory a tensor lies in, and what was changed in place.

Forward may change tensors of its own in place, but nothing of the user's: parameters, buffers and
the input stay as they are. What a recorded step refers to must keep its values, and what was
changed through one view must not be used through another. The recorder asks :class:`Memory` before
and after each function that it runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from sklrp.propagation.nested import find_tensors


class Memory:
    """The storages that a run made, those that steps refer to, and those that went stale."""

    def __init__(self) -> None:
        self._own: set[int] = set()  # made in this run
        self._used: set[int] = set()  # of constants that steps refer to
        # Changed in place. The tensors are kept, so that their place in memory is not reused.
        self._stale: dict[int, Tensor] = {}

    def is_stale(self, tensors: Iterable[Tensor]) -> bool:
        """Return whether one of the tensors was changed through another view of its memory."""
        return bool(self._stale) and any(storage_of(t) in self._stale for t in tensors)

    def claim(self, out: Any, inputs: Iterable[Tensor]) -> None:
        """Note what a function made, in memory other than that of its inputs."""
        made = {storage_of(tensor) for tensor in find_tensors(out)}
        if made:
            self._own |= made - {storage_of(tensor) for tensor in inputs}

    def is_own(self, tensor: Tensor) -> bool:
        """Return whether a tensor lies in memory that this run made."""
        return storage_of(tensor) in self._own

    def use(self, *tensors: Tensor) -> None:
        """Note that a step refers to constants."""
        self._used |= set(map(storage_of, tensors))

    def prepare_change(self, target: Tensor) -> None:
        """Give a constant that forward is about to change memory of its own, if steps use it."""
        if storage_of(target) in self._used:
            self.move(target, target.detach().clone())
            self._own.add(storage_of(target))

    def move(self, target: Tensor, values: Tensor) -> None:
        """Let a tensor of the network hold other values; other views of the old ones are stale."""
        self._stale[storage_of(target)] = target.detach()
        target.data = values


def storage_of(tensor: Tensor) -> int:
    """Return where the values of a tensor lie."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # of torch.vmap, sparse or quantized
        return -id(tensor)
