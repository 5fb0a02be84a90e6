"""What a network says about its samples: the shape in which it sees them, and their axes.

`sklrp._frame` asks for fitted networks, the groups of features of a transformer for others too.
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn

_MOST_VARIABLES = 4  # times as many steps as variables make a sequence, not an image


def find_seen(network: Any, sample_shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the shape in which a network sees samples, None if it does not say another one."""
    taken = getattr(network, "input_shape_", None)
    if taken is not None and len(taken) == 2 and len(sample_shape) == 3 and sample_shape[0] > 1:
        return None  # channels that stand below one another in the network's input
    if taken is None or len(taken) < 2 or math.prod(taken) != math.prod(sample_shape):
        return None
    return tuple(taken)


def read_layout(network: Any, seen: tuple[int, ...]) -> tuple[str | None, str]:
    """Return what samples are to a network, None if it does not say, and where channels are."""
    if _is_recurrent(network) and len(seen) == 3:
        return None, "first"
    if _is_recurrent(network):
        # An image is swept too: many steps of few variables tell a sequence from it.
        along_columns = getattr(network, "sweep", "down") in ("right", "left")
        is_long = len(seen) == 2 and seen[0] >= _MOST_VARIABLES * seen[1]
        return "sequence" if is_long and not along_columns else None, "last"
    if len(seen) == 2 and _has_layer(network, nn.Conv1d):
        return "sequence", "first"
    return None, "first"


def name_axes(
    network: Any, sample_shape: tuple[int, ...]
) -> tuple[tuple[int, ...], dict[str, int]]:
    """Find out in which shape a network takes samples, and what their axes may be called.

    Parameters
    ----------
    network : estimator, skorch net or nn.Module
        The network, fitted or not. An estimator with ``input_shape`` is recurrent if it has a
        ``sweep``, and else convolutional.
    sample_shape : tuple of int
        The shape of a sample that enters it.

    Returns
    -------
    shape : tuple of int
        The shape in which it takes a sample.
    axes : dict of str to int
        The number of the axis behind each of "channel", "row", "column" and "time" that the sample
        has; the rows of an image are the steps of a sequence.
    """
    recurrent = _is_recurrent(network)
    shape = getattr(network, "input_shape_", None)
    if shape is None:
        shape = getattr(network, "input_shape", None)
    if shape is None and hasattr(network, "input_shape"):
        shape = _default_shape(recurrent, sample_shape)
    if shape is None or len(shape) < 2 or math.prod(shape) != math.prod(sample_shape):
        shape = sample_shape
    names: dict[int, dict[str, int]] = {
        2: {"row": 0, "time": 0, "column": 1, "channel": 1},
        3: {"channel": 0, "row": 1, "column": 2},
        4: {"channel": 0, "time": 1, "row": 2, "column": 3},
    }
    if not recurrent and (hasattr(network, "input_shape") or _has_layer(network, nn.Conv1d)):
        names[2] = {"channel": 0, "time": 1}
    elif getattr(network, "sweep", None) in ("right", "left"):
        names[2] = {"row": 0, "channel": 0, "column": 1, "time": 1}
    return tuple(shape), names.get(len(shape), {})


def _default_shape(recurrent: bool, sample_shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the shape that an estimator without `input_shape` gives to samples."""
    if not recurrent:
        return (1, *sample_shape) if len(sample_shape) < 3 else None
    if len(sample_shape) == 1:
        return (*sample_shape, 1)
    return sample_shape[1:] if sample_shape[0] == 1 else None


def _is_recurrent(network: Any) -> bool:
    return hasattr(network, "sweep") or _has_layer(network, nn.RNNBase)


def _has_layer(network: Any, kind: type[nn.Module]) -> bool:
    """Tell whether a network has a layer of a kind; what is not fitted has none yet."""
    module = network if isinstance(network, nn.Module) else getattr(network, "module_", None)
    return isinstance(module, nn.Module) and any(isinstance(m, kind) for m in module.modules())
