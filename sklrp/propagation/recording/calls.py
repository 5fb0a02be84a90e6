"""One call of a torch function, as the recorder decides on it.

`.recorder` makes one of every function that a network calls, and asks it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from sklrp.propagation.nested import find_tensors
from sklrp.propagation.recording.names import by_position, is_in_place, name_of
from sklrp.propagation.recording.nodes import Node, Nodes
from sklrp.propagation.registry import HANDLERS, SOURCED, Entry


@dataclass
class FunctionCall:
    """A torch function with its arguments.

    Attributes
    ----------
    func : callable
        The function, as torch shows it.
    args, kwargs : tuple and dict
        Its arguments.
    nodes : Nodes
        The tensors that depend on the network's input.
    name : str
        The name of the function, such as ``relu_``.
    base : str
        The name by which handlers and translations are found, such as ``relu``.
    """

    func: Any
    args: Any
    kwargs: dict[str, Any]
    nodes: Nodes
    name: str = ""
    base: str = ""

    def __post_init__(self) -> None:
        self.name = self.name or name_of(self.func)
        self.base = self.base or (self.name[:-1] if self.in_place else self.name)

    @property
    def in_place(self) -> bool:
        """Whether the result is written into the first argument."""
        return is_in_place(self.name)

    @cached_property
    def tensors(self) -> list[Tensor]:
        """The tensors among the arguments."""
        return list(find_tensors((self.args, self.kwargs)))

    @cached_property
    def inputs(self) -> list[Node]:
        """What is known of the arguments that depend on the network's input."""
        return self.nodes.find(self.tensors)

    @property
    def only_integers(self) -> bool:
        """Whether it depends on tokens, lengths or masks alone, to which no relevance goes."""
        return not any(node.active for node in self.inputs)

    @cached_property
    def entry(self) -> Entry | None:
        """What is registered for the function, None if nothing that serves this call."""
        entry = HANDLERS.get(self.base)
        if entry is not None and entry.handler in SOURCED and not self.nodes.find(self.args[:1]):
            return None  # it would only look something up in a constant
        return entry

    def run(self) -> Any:
        """Run the function as it is."""
        return self.func(*self.args, **self.kwargs)

    def in_form(self) -> FunctionCall:
        """Return the call as handlers and translations take it.

        Tensors are given by position. Two calls are what a layer does: the product with a constant
        matrix is a linear layer, and rows picked from a constant table are an embedding.
        """
        base = self.base
        args, kwargs = by_position(self.args, self.kwargs)
        if base in ("matmul", "mm") and args[1].dim() == 2 and not self.nodes.find(args[1]):
            base, args = "linear", (args[0], args[1].t())
        if base == "__getitem__" and _is_table(args[0]) and self.nodes.find(args[1]):
            base, args = "embedding", (args[1], args[0])
        return replace(self, args=args, kwargs=kwargs, base=base)


def _is_table(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 2 and value.is_floating_point()
