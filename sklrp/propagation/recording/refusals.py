"""How a recorded network is refused, and where in it the refused call is.

There is one way: the recorder raises what a method of :class:`Refusals` returns. The exception
stops forward there and then. Forward may catch it and go on, so the first refusal is also noted,
and at the end of the run the note decides: the recorder raises a TypeError that says what was
noted. A :class:`Refusal` is no TypeError itself: Python's operators take one from a method as a
reason to try the other operand, and raise a TypeError of their own words.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

FOREIGN = (
    "forward changes a tensor that is not its own (a parameter, a buffer, the input) in place"
)
OVERRIDES = (
    "it takes a tensor of the type {}, whose own __torch_function__ may compute something else; "
    "pass a plain tensor, as tensor.as_subclass(torch.Tensor) is"
)
AUTOCAST = (
    "forward calls it under torch.autocast, and relevance is computed in the network's own "
    "precision; switch autocast off to explain, by torch.autocast(..., enabled=False) in forward"
)
COMPLEX_NUMBERS = (
    "it takes or makes complex numbers, of which Fourier transforms, sums, products with weights, "
    "abs, real and imag are supported"
)
OTHER_WAY = (
    "The network's forward takes another way for these samples than for the first: a branch or a "
    "loop in it depends on the values or the number of the samples, and relevance would not be "
    "comparable. Write it without."
)


class Refusal(Exception):
    """What is not supported; it stops forward."""


class Refusals:
    """The first refusal of a run, and the words of all of them.

    Parameters
    ----------
    network : nn.Module
        The network, which refusals name where no layer is at fault.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.first: Refusal | None = None
        self._places: list[tuple[str, nn.Module]] = []  # the modules whose forward is being run

    @contextmanager
    def at(self, path: str, module: nn.Module) -> Iterator[None]:
        """Note that the forward of a module is being run."""
        self._places.append((path, module))
        try:
            yield
        finally:
            self._places.pop()

    def path_of(self, name: str) -> str:
        """Return the path of a function, in the module whose forward calls it."""
        path = self._places[-1][0] if self._places else ""
        return f"{path}.{name}" if path else name

    def unsupported(self, name: str, why: str = "") -> Refusal:
        """Refuse a function or a layer, which the forward being run calls."""
        path, module = self._places[-1] if self._places else ("", self.network)
        name = name.removeprefix(f"{path}.")
        kind = type(module).__name__
        where = f"layer {path!r} ({kind})" if path else f"the network ({kind})"
        return self.because(
            f"Relevance through {name!r}, which the forward of {where} calls, is not supported"
            f"{': ' + why.rstrip('.') if why else ''}. Use a supported layer or function in its "
            "place (sklrp.propagation.supported() lists them), or register a handler for it with "
            "sklrp.propagation.register."
        )

    def training_mode(self, path: str, module: nn.Module) -> Refusal:
        """Refuse a network that sets its own parts to training mode."""
        return self.because(
            f"Relevance through layer {path!r} ({type(module).__name__}) is not supported: the "
            "network's forward sets it to training mode, and layers are explained as in "
            "evaluation mode. Leave the mode to train() and eval()."
        )

    def other_way(self) -> Refusal:
        """Refuse a network whose steps differ from run to run."""
        return self.because(OTHER_WAY)

    def because(self, message: str) -> Refusal:
        """Refuse with a whole message, and note it."""
        refusal = Refusal(message)
        self.first = self.first or refusal
        return refusal

    def withdraw(self, refusal: Refusal) -> None:
        """Forget a refusal: what was refused is done in another way."""
        if self.first is refusal:
            self.first = None
