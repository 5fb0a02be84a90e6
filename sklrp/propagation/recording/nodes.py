"""The network's tensors that depend on its input, and what is known of each.

The recorder asks of every argument of a call whether it is one of them. Tensors are known by
identity, as forward holds them, and weakly: what forward lets go of is forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from sklrp.propagation.nested import find_tensors
from sklrp.rules import Signal


class Node(NamedTuple):
    """A tensor that depends on the network's input."""

    number: int  # of the value on the tape; negative if it is not there
    signal: Signal  # in the network's own layout, the samples on ``signal.axis``
    order: Tensor | None = None  # the network's own tensor has its samples permuted like this
    active: bool = True  # whether it depends on activations, and not on tokens or lengths alone

    @property
    def is_packed(self) -> bool:
        """Whether it is a packed sequence, or its samples are reordered to be packed."""
        return self.order is not None or self.signal.lengths is not None


class Nodes:
    """A mapping of tensors to nodes, which numbers the values of the tape.

    Attributes
    ----------
    largest : int
        The number of elements of the largest value so far.
    """

    def __init__(self) -> None:
        self.largest = 0
        self._n_values = 0
        self._nodes = WeakIdKeyDictionary()

    def __getitem__(self, tensor: Tensor) -> Node:
        """Return the node of a tensor that depends on the input."""
        return self._nodes[tensor]

    def __setitem__(self, tensor: Tensor, node: Node) -> None:
        """Let a tensor stand for a node."""
        self._nodes[tensor] = node

    def get(self, tensor: Tensor) -> Node | None:
        """Return the node of a tensor, None if it does not depend on the input."""
        return self._nodes.get(tensor)

    def of(self, tensors: Sequence[Tensor]) -> list[Node]:
        """Return the nodes of those tensors that depend on the input."""
        return [node for v in tensors if (node := self._nodes.get(v)) is not None]

    def depend(self, value: Any) -> bool:
        """Return whether a tensor among nested values depends on the input."""
        tensors = [value] if isinstance(value, Tensor) else find_tensors(value)
        return bool(self.of(tensors))

    def add(self, tensor: Tensor, signal: Signal, active: bool = True) -> Node:
        """Return the node of the tape's next value."""
        node = self._nodes[tensor] = Node(self._n_values, signal, None, active)
        self._n_values += 1
        self.largest = max(self.largest, tensor.numel())
        return node

    def add_integers(self, tensor: Tensor, nonnegative: bool = False) -> None:
        """Note integers or masks that were computed from the input, off the tape.

        They may be used; relevance that reaches them is refused when it is pulled.
        """
        self._nodes[tensor] = Node(-1, Signal(tensor, nonnegative, gate=True), None, False)

    def clear(self) -> None:
        """Let go of all tensors."""
        self._nodes.clear()
