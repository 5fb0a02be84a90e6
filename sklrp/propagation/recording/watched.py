"""What the modules that are watched return: at which values of the tape relevance is read off.

The recorder tells :class:`WatchedCalls` when such a module returns, and the tape writer puts what
it found on the tape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from sklrp.propagation.layer_outputs import (
    CONSTANT,
    INTEGERS,
    PASSED_ON,
    behind_head,
    of_neighbour,
)
from sklrp.propagation.recording.tensors import Node, Nodes
from sklrp.propagation.tape import Record, Returned


class WatchedCalls:
    """The tensors that watched modules returned, call by call.

    Parameters
    ----------
    nodes : Nodes
        The network's tensors that depend on the input.
    """

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._calls: dict[str, list[list[Returned]]] = {}

    def note(self, path: str, out: Any, given: set[int]) -> None:
        """Note what a module returned; `given` are the values among its arguments."""
        nodes = [self._nodes.get(tensor) for tensor in _tensors_in(out)]
        self._calls.setdefault(path, []).append([_returned_as(node, given) for node in nodes])

    def settle(
        self, records: Sequence[Record], behind: set[int], head: str | None
    ) -> dict[str, list[list[Returned]]]:
        """Return the calls; values behind the scores, and those within folded layers, are none."""
        calls, self._calls = self._calls, {}
        if not calls:
            return {}
        steps = {n: record.step for record in records for n in record.outputs}

        def settle(returned: Returned) -> Returned:
            step = None if returned.number is None else steps.get(returned.number)
            if step is not None and step.output_of is not None:
                return of_neighbour(step.name, step.output_of)
            return behind_head(str(head)) if returned.number in behind else returned

        return {path: [list(map(settle, c)) for c in found] for path, found in calls.items()}


def _returned_as(node: Node | None, given: set[int]) -> Returned:
    """Return the value of a tensor that a module returned, or why it has none."""
    if node is None:
        return CONSTANT
    if node.number < 0 or not node.signal.x.is_floating_point():
        return INTEGERS
    return PASSED_ON if node.number in given else Returned(node.number)


def _tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors that a module returned, one of a packed sequence."""
    if isinstance(value, PackedSequence):
        return [value.data]
    if isinstance(value, tuple | list):
        return [tensor for v in value for tensor in _tensors_in(v)]
    if isinstance(value, dict):
        return [tensor for v in value.values() for tensor in _tensors_in(v)]
    return [value] if isinstance(value, Tensor) else []
