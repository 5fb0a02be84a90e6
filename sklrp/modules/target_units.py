"""The last layer of a regressor's network: from standardised outputs to the targets' units.

Regressors put it behind their network by `in_target_units`; it is never trained.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sklrp._constraints import constrained
from sklrp._missing import as_plain_array


class TargetUnits(nn.Module):
    """Scale and shift each output, by buffers.

    Parameters
    ----------
    mean : ndarray of shape (n_outputs,)
        What an output of 0 becomes.
    scale : ndarray of shape (n_outputs,)
        What an output of 1 adds, positive.
    """

    mean: Tensor
    scale: Tensor

    @constrained({"mean": ["array-like"], "scale": ["array-like"]})
    def __init__(self, mean: NDArray[np.float64], scale: NDArray[np.float64]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("scale", scale)):
            if not np.isfinite(as_plain_array(values, name, np.float64)).all():
                raise ValueError(f"{name} must be finite, got {values!r}.")
        self.register_buffer("mean", torch.tensor(as_plain_array(mean, "mean", np.float64)))
        self.register_buffer("scale", torch.tensor(as_plain_array(scale, "scale", np.float64)))

    def forward(self, x: Tensor) -> Tensor:
        """Return standardised outputs in the targets' units."""
        return x * self.scale + self.mean

    def standardise(self, values: Tensor) -> Tensor:
        """Return values in the targets' units as standardised outputs."""
        return (values - self.mean) / self.scale


@constrained({"network": [callable], "mean": ["array-like"], "scale": ["array-like"]})
def in_target_units(
    network: Callable[[], nn.Module], mean: NDArray[np.float64], scale: NDArray[np.float64]
) -> nn.Sequential:
    """Build a network whose outputs are in the targets' units.

    Parameters
    ----------
    network : callable
        Builds the network of standardised outputs.
    mean, scale : ndarray of shape (n_outputs,)
        See `TargetUnits`.

    Returns
    -------
    torch.nn.Sequential
        The network, with a `TargetUnits` at the end.
    """
    module: Any = network()
    module.add_module("units", TargetUnits(mean, scale))
    return module
