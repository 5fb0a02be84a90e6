"""One call of a torch function, as the recorder decides on it.

`.recorder` makes one of every function that a network calls, and asks it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sklrp.propagation.nested import find_tensors
from sklrp.propagation.recording.names import by_position, is_in_place, name_of
from sklrp.propagation.recording.nodes import Nodes
from sklrp.propagation.registry import HANDLERS, SOURCED, Entry


class FunctionCall:
    """A torch function with its arguments.

    Parameters
    ----------
    func : callable
        The function, as torch shows it.
    args, kwargs : tuple and dict
        Its arguments.
    nodes : Nodes
        The tensors that depend on the network's input.

    Attributes
    ----------
    name : str
        The name of the function, such as ``relu_``.
    in_place : bool
        Whether the result is written into the first argument.
    base : str
        The name by which handlers and translations are found, such as ``relu``.
    tensors : list of Tensor
        The tensors among the arguments.
    inputs : list of Node
        What is known of those that depend on the network's input.
    entry : Entry or None
        What is registered for the function, None if nothing that serves this call; known once the
        call is in form.
    """

    def __init__(self, func: Any, args: Any, kwargs: dict[str, Any], nodes: Nodes) -> None:
        self.func, self.args, self.kwargs, self.nodes = func, args, kwargs, nodes
        self.name = name_of(func)
        self.in_place = is_in_place(self.name)
        self.base = self.name[:-1] if self.in_place else self.name
        self.tensors = find_tensors((args, kwargs))
        self.inputs = nodes.of(self.tensors)
        self.entry: Entry | None = None

    @property
    def only_integers(self) -> bool:
        """Whether it depends on tokens, lengths or masks alone, to which no relevance goes."""
        return not any(node.active for node in self.inputs)

    def run(self) -> Any:
        """Run the function as it is."""
        return self.func(*self.args, **self.kwargs)

    def bring_into_form(self) -> None:
        """Write the arguments as handlers and translations take them, and find the handler.

        Tensors are given by position. Two calls are what a layer does: the product with a constant
        matrix is a linear layer, and rows picked from a constant table are an embedding.
        """
        depend = self.nodes.depend
        args, self.kwargs = by_position(self.args, self.kwargs)
        if self.base in ("matmul", "mm") and args[1].dim() == 2 and not depend(args[1]):
            self.base, args = "linear", (args[0], args[1].t())
        elif self.base == "__getitem__" and _is_table(args[0]) and depend(args[1]):
            self.base, args = "embedding", (args[1], args[0])
        self.args = args
        entry = HANDLERS.get(self.base)
        if entry is not None and entry.handler in SOURCED and not (args and depend(args[0])):
            entry = None  # it would only look something up in a constant
        self.entry = entry


def _is_table(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 2 and value.is_floating_point()
