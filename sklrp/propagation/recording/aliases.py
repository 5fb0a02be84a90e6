"""Tensors that share memory: what a change through one of them means for the others.

A network may write into a view, and use what the view is of: ``h.view(-1).relu_()``, ``h[:, 0] =
1``. On the tape nothing is ever changed. So `.tape_writer` keeps the values of shared memory in
:class:`Buffers`, and notes there what was written where. A tensor that is used again after the
memory was changed through another one is made from these values, by steps of its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from sklrp.propagation.recording.tensors import ByTensor, Node, storage_of


class Layout(NamedTuple):
    """Where in its memory the values of a tensor lie."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> Layout:
        """Return the layout of a tensor."""
        offset = int(tensor.storage_offset())
        return cls(tensor.shape, tensor.stride(), offset, tensor.dtype)

    @property
    def overlaps(self) -> bool:
        """Whether several values may lie in one place, as those of `expand` and `unfold` do."""
        reach = 0  # of the axes with smaller strides
        for stride, n in sorted(zip(self.stride, self.shape, strict=True)):
            if n > 1 and stride <= reach:
                return True
            reach += stride * (n - 1)
        return False


class Places:
    """Which values of a buffer a tensor has, as indices of the buffer's own, flattened."""

    # No tensor itself: a constant among a step's arguments is compared between two probes.
    def __init__(self, index: Tensor) -> None:
        self.index = index


class Buffer:
    """The memory of one storage, and what the tape knows of its values.

    Parameters
    ----------
    tensor : Tensor
        A tensor that lies in it.
    value : Node or None
        The value of the tape that the tensor is; None for a constant.

    Attributes
    ----------
    layout : Layout
        How `value` lies in the memory.
    value : Node, Tensor or None
        The value of the tape that filled the memory, or what it was before the first change, if
        it did not depend on the network's input; None while it does not.
    changes : list of (Node, Layout)
        What was written since, and where.
    version : int
        How often it was changed.
    """

    def __init__(self, tensor: Tensor, value: Node | None) -> None:
        self.layout = Layout.of(tensor)
        self.value: Node | Tensor | None = value
        self.changes: list[tuple[Node, Layout]] = []
        self.version = 0
        self._storage = tensor.untyped_storage()  # kept, so that its place is not reused

    def place(self, layout: Layout) -> Places | None:
        """Return which values a layout has; None if some of them are unknown."""
        if layout.dtype != self.layout.dtype:
            return None
        device = self._storage.device
        n_values = self._storage.nbytes() // self.layout.dtype.itemsize
        order = torch.full((n_values,), -1, device=device)
        own = order.as_strided(*self.layout[:3])
        own.copy_(torch.arange(own.numel(), device=device).reshape(own.shape))
        index = order.as_strided(*layout[:3]).clone()
        return None if bool((index < 0).any()) else Places(index)


class Buffers:
    """The memory of all tensors of a run that the network can hold."""

    def __init__(self) -> None:
        self._buffers: WeakValueDictionary[int, Buffer] = WeakValueDictionary()
        # The buffer of each tensor that is known, the version that its node has, and its layout.
        self._known: ByTensor[tuple[Buffer, int, Layout]] = ByTensor()

    def join(self, tensor: Tensor, value: Node | None = None) -> None:
        """Note a tensor whose node is up to date; in new memory it tells the buffer's values."""
        if storage_of(tensor) < 0:  # it has no memory of its own, as within torch.vmap
            return
        buffer = self.of(tensor)
        if buffer is None:
            buffer = Buffer(tensor, value)
            self._buffers[storage_of(tensor)] = buffer
        self._known[tensor] = buffer, buffer.version, Layout.of(tensor)

    def of(self, tensor: Tensor) -> Buffer | None:
        """Return the buffer that a tensor lies in."""
        return self._buffers.get(storage_of(tensor))

    def is_behind(self, tensor: Tensor) -> bool:
        """Return whether a tensor's memory was changed through another one since its node."""
        buffer = self.of(tensor)
        if buffer is None or not buffer.version:
            return False
        known = self._known.get(tensor)
        return known is None or known[1] != buffer.version

    def is_moved(self, tensor: Tensor) -> bool:
        """Return whether a tensor was given other memory by what torch does not show."""
        known = self._known.get(tensor)
        return known is not None and known[::2] != (self.of(tensor), Layout.of(tensor))

    def prepare_change(self, target: Tensor) -> Tensor | None:
        """Keep what constant memory holds, before something of the tape is written into it."""
        if self.of(target) is None:
            self.join(target)
        buffer: Any = self.of(target)
        if buffer.value is None:
            plain = torch.empty(0, dtype=target.dtype, device=target.device)
            held = plain.set_(target.untyped_storage(), buffer.layout.offset, *buffer.layout[:2])
            buffer.value = held.clone()
            return buffer.value
        return None

    def change(self, target: Tensor, node: Node) -> None:
        """Note that a node was written into the memory of a tensor."""
        buffer: Any = self.of(target)
        layout = Layout.of(target)
        if layout == buffer.layout:
            buffer.value = node
            buffer.changes.clear()
        else:
            buffer.changes.append((node, layout))
        buffer.version += 1
        self._known[target] = buffer, buffer.version, layout
