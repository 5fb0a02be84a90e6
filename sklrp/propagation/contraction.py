"""A layer that sums products of a signal and its weights by the letters of their axes.

Torch has none. Recording makes one of an einsum that no linear layer does, and the handlers of
affine layers explain it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Contraction(nn.Module):
    """An einsum of a signal and weights.

    Parameters
    ----------
    weight : Tensor
        The weights.
    equation : str
        The letters of the signal, of the weights and of the output, as ``"bix,xoi->bxo"``. Letters
        that the weights do not have are at the front of the signal and of the output, in the same
        order, that of the samples among them.
    """

    def __init__(self, weight: Tensor, equation: str) -> None:
        super().__init__()
        self.weight = weight
        self.equation = equation

    @property
    def letters(self) -> tuple[str, str, str]:
        """The letters of the signal, of the weights and of the output."""
        terms, _, out = self.equation.partition("->")
        own, weight = terms.split(",")
        return own, weight, out

    def forward(self, x: Tensor) -> Tensor:
        """Return the sums."""
        return torch.einsum(self.equation, x, self.weight)

    def extra_repr(self) -> str:
        """Return what the layer prints itself with."""
        return repr(self.equation)
