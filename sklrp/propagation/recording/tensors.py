"""What the recorder knows of tensors: which depend on the input, and whose memory they lie in.

The recorder asks :class:`Nodes` of every argument of a call whether it depends on the network's
input. Forward may change tensors of its own in place, but nothing of the user's: parameters,
buffers and the input stay as they are. What a recorded step refers to must keep its values, and
what was changed through one view must not be used through another. So the recorder asks
:class:`Memory` before and after each function that it runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar
from weakref import ref

from torch import Tensor

from sklrp._copies import find_all
from sklrp.rules import Signal

Value = TypeVar("Value")


class ByTensor(Generic[Value]):
    """A mapping of tensors, known by identity and weakly: they go with their last holder."""

    # In place of torch's WeakIdKeyDictionary, which takes several times as long: each function
    # that a network calls asks for each of its tensors.
    def __init__(self) -> None:
        self._held: dict[int, tuple[ref[Tensor], Value]] = {}

    def __setitem__(self, tensor: Tensor, value: Value) -> None:
        """Let a tensor stand for a value."""
        held, key = self._held, id(tensor)

        def forget(gone: ref[Tensor]) -> None:
            found = held.get(key)
            if found is not None and found[0] is gone:
                del held[key]

        held[key] = ref(tensor, forget), value

    def __getitem__(self, tensor: Tensor) -> Value:
        """Return the value of a tensor that has one."""
        return self._held[id(tensor)][1]

    def get(self, tensor: Tensor) -> Value | None:
        """Return the value of a tensor, None if it has none."""
        found = self._held.get(id(tensor))
        return None if found is None or found[0]() is not tensor else found[1]

    def others(self, tensor: Tensor) -> list[Value]:
        """Return the values of all other tensors."""
        return [value for key, (_, value) in self._held.items() if key != id(tensor)]

    def clear(self) -> None:
        """Let go of all values."""
        self._held.clear()


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

    Tensors are known by identity, as forward holds them, and weakly: what forward lets go of is
    forgotten.

    Attributes
    ----------
    largest : int
        The number of elements of the largest value so far.
    """

    def __init__(self) -> None:
        self.largest = 0
        self._n_values = 0
        self._nodes: ByTensor[Node] = ByTensor()

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
        tensors = [value] if isinstance(value, Tensor) else find_all(Tensor, value)
        return bool(self.of(tensors))

    def add(self, tensor: Tensor, signal: Signal, active: bool = True) -> Node:
        """Return the node of the tape's next value."""
        node = self._nodes[tensor] = Node(self._n_values, signal, None, active)
        self._n_values += 1
        self.largest = max(self.largest, tensor.numel())
        return node

    def add_integers(
        self, tensor: Tensor, nonnegative: bool = False, copy: bool = False,
        position: bool = False,
    ) -> Node:  # fmt: skip
        """Note integers or masks that were computed from the input, off the tape."""
        # They may be used; relevance that reaches them is refused when it is pulled.
        values = tensor.clone() if copy else tensor
        signal = Signal(values, nonnegative, gate=True, position=position)
        node = self._nodes[tensor] = Node(-1, signal, None, False)
        return node

    def share(self, tensor: Tensor) -> bool:
        """Return whether another tensor has a value in the same memory as a tensor's."""
        node = self._nodes.get(tensor)
        if node is None:
            return False
        place = storage_of(node.signal.x)
        return any(storage_of(one.signal.x) == place for one in self._nodes.others(tensor))

    def clear(self) -> None:
        """Let go of all tensors."""
        self._nodes.clear()


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
        made = {storage_of(tensor) for tensor in find_all(Tensor, out)}
        if made:
            self._own |= made - {storage_of(tensor) for tensor in inputs}

    def is_own(self, tensor: Tensor) -> bool:
        """Return whether a tensor lies in memory that this run made."""
        return storage_of(tensor) in self._own

    def use(self, *tensors: Tensor) -> None:
        """Note that a step refers to constants."""
        self._used |= set(map(storage_of, tensors))

    def is_used(self, target: Tensor) -> bool:
        """Return whether a step refers to a constant."""
        return storage_of(target) in self._used

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
