"""What acts on a network in training alone: noise on its input, bounds of its biases.

The builders of networks put `input_layers` first; `TrainingNet` bounds the biases after every step
and penalises the first weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sklrp._constraints import NOT_NEGATIVE, constrained

_AFFINE = (nn.Linear, nn.Conv1d, nn.Conv2d)


class GaussianNoise(nn.Module):
    """Add Gaussian noise in training; in evaluation return the input as it is.

    Parameters
    ----------
    std : float, default=0.1
        Standard deviation of the noise, in units of the input.
    """

    @constrained({"std": [NOT_NEGATIVE]})
    def __init__(self, std: float = 0.1) -> None:
        super().__init__()
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        """Return the input, in training with noise from torch's generator of its device."""
        return x + self.std * torch.randn_like(x) if self.training else x

    def extra_repr(self) -> str:
        """Show the standard deviation in the network's ``repr``."""
        return f"std={self.std}"


def input_layers(noise: float, dropout: float) -> list[tuple[str, nn.Module]]:
    """Return the named layers that disturb the input in training, none where there is nothing."""
    layers: list[tuple[str, nn.Module]] = []
    if noise:
        layers.append(("input_noise", GaussianNoise(noise)))
    if dropout:
        layers.append(("input_dropout", nn.Dropout(dropout)))
    return layers


@constrained({"network": [nn.Module]})
def first_weights(network: nn.Module) -> list[Tensor]:
    """Return the weights by which the first weighted layer takes the input, without biases.

    Parameters
    ----------
    network : torch.nn.Module
        A network of this package.

    Returns
    -------
    list of Tensor
        The weight of a dense or convolutional layer, or the input weights of an LSTM's first
        layer, one for each direction.
    """
    first = next(m for m in network.modules() if isinstance(m, (*_AFFINE, nn.LSTM)))
    if isinstance(first, nn.LSTM):
        return [p for name, p in first.named_parameters() if name.startswith("weight_ih_l0")]
    return [first.weight]


@torch.no_grad()
@constrained({"network": [nn.Module]})
def bound_biases(network: nn.Module) -> None:
    """Set positive biases to zero, so that they cannot create relevance.

    In an LSTM only the candidate (the third of torch's four gates) is bounded: the other gates
    receive no relevance, and the forget gate needs its bias to remember.

    Parameters
    ----------
    network : torch.nn.Module
        A network of this package, changed in place.
    """
    for layer in network.modules():
        if isinstance(layer, nn.LSTM):
            candidate = slice(2 * layer.hidden_size, 3 * layer.hidden_size)
            for name, parameter in layer.named_parameters():
                if name.startswith("bias"):
                    parameter[candidate].clamp_(max=0)
        elif isinstance(layer, _AFFINE) and layer.bias is not None:
            layer.bias.clamp_(max=0)
