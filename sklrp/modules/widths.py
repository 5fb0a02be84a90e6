"""How large what a network computes becomes: `TrainingNet` chooses its chunks by it.

It is apart from the networks, as it asks nothing of how they are built.
"""

from __future__ import annotations

import torch
from torch import nn

from sklrp._constraints import COUNT, constrained


@constrained({"network": [nn.Sequential], "n_features": [COUNT]})
def widest_activation(network: nn.Sequential, n_features: int) -> int:
    """Return how many elements the largest activation of one sample has.

    Parameters
    ----------
    network : torch.nn.Sequential
        Network in evaluation mode.
    n_features : int
        Number of features of its input.

    Returns
    -------
    int
        Elements of the widest layer, the input included.
    """
    parameter = next(network.parameters())
    x = torch.zeros(1, n_features, dtype=parameter.dtype, device=parameter.device)
    widest = n_features
    with torch.no_grad():
        for layer in network:
            try:
                x = layer(x)
            except RuntimeError as error:
                raise ValueError(
                    f"n_features={n_features} is not what the network takes: {error}"
                ) from error
            widest = max(widest, (x[0] if isinstance(x, tuple) else x).numel())
    return widest
