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
from sklrp._wording import say_value


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
        means, scales = _read_units("mean", mean), _read_units("scale", scale)
        if means.shape != scales.shape:
            raise ValueError(
                f"mean has the shape {means.shape}, but scale {scales.shape}: give one of each "
                "for every output."
            )
        if not (scales > 0).all():
            raise ValueError(f"scale must be positive, got {say_value(scale)}.")
        self.register_buffer("mean", torch.tensor(means))
        self.register_buffer("scale", torch.tensor(scales))

    def forward(self, x: Tensor) -> Tensor:
        """Return standardised outputs in the targets' units."""
        return x * self.scale + self.mean

    def standardise(self, values: Tensor) -> Tensor:
        """Return values in the targets' units as standardised outputs."""
        return (values - self.mean) / self.scale


def _read_units(name: str, values: Any) -> NDArray[np.float64]:
    """Return the numbers of outputs, or raise an error that names them."""
    found = as_plain_array(values, name, np.float64)
    if found.ndim != 1 or not found.size or not np.isfinite(found).all():
        raise ValueError(
            f"{name} must hold a finite number for each output, got {say_value(values, 80)}."
        )
    return found


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
    module = network()
    if not isinstance(module, nn.Sequential):
        raise TypeError(
            f"network must return a torch.nn.Sequential, got {type(module).__name__} from "
            f"{getattr(network, '__name__', network)}()."
        )
    module.add_module("units", TargetUnits(mean, scale))
    return module
