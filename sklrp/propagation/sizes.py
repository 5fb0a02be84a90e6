"""Sizes of a network's values, and how many samples a chunk is to have by them.

Sizes of a chain are known without a run. Where a chain holds a layer that is not in the table, one
sample is run instead; other networks have been run by the recorder. :mod:`.preparing` asks for
both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import nn

from sklrp.modules import EchoState, GaussianNoise, StatePooling, Sweep
from sklrp.propagation.inputs import Intake
from sklrp.propagation.registry import PASSING, SHARING
from sklrp.propagation.tape import Step, Tape

Shape = tuple[int, ...]


class _Budget(NamedTuple):
    """What a chunk may take, in bytes.

    Attributes
    ----------
    tensor : int
        The largest tensor: it stays within the caches of a CPU, and far below a GPU's memory.
    chunk : int
        All that is held for the way back, where a chunk has more than a few samples.
    step : int
        What the chunk's steps hold on average at least, whatever the other two say: a step costs
        the same calls of Python for few samples as for many.
    """

    tensor: int
    chunk: int
    step: int


_BUDGETS = {
    "cpu": _Budget(8 * 2**20, 48 * 2**20, 7 * 2**16),
    "cuda": _Budget(256 * 2**20, 4 * 2**30, 16 * 2**20),
}

# Chunks of so few samples, whose largest tensor takes half a budget at most, are not cut: what
# fewer would save, they would cost in time.
_FEW_ROWS = 16

# The largest tensor takes so many budgets where more samples gain more than caches do. That is so
# of relevance of several targets, and of an input so many times larger than all that the network
# makes of it: hardly anything but products reads or writes that input.
_LARGER, _WIDE = 1.5, 8

# So it is of a recurrence up to so many samples: it consists of products of single states, which
# are slow for few. Relevance goes back by some steps at a time, so that fewer tensors are held.
_RECURRENT_ROWS = 256


class Sizes(NamedTuple):
    """Numbers of values, of one sample.

    Attributes
    ----------
    shape : tuple of int
        The shape of the output.
    largest : int
        The number of values in the largest tensor.
    made : tuple of int
        The number of values in the outputs of each step.
    """

    shape: Shape
    largest: int
    made: tuple[int, ...]

    def count_held(self, steps: Sequence[Step]) -> int:
        """Return how many values are held, once all steps are run, for relevance to come back.

        Parameters
        ----------
        steps : list of Step
            The steps, of which some hand on the memory of what they are given.

        Returns
        -------
        int
            The number, of one sample.
        """
        # A layer holds its input and its output. One is the other of the next, and counts once.
        return sum(
            n
            for step, n in zip(steps, self.made, strict=True)
            if not (step.merged or step.in_place or step.handler in PASSING | SHARING)
        )


def measure(tape: Tape) -> Sizes:
    """Return the sizes of a network that was run on some samples."""
    # Behind a head that is stepped over, the output may be laid out anew, its values in order.
    shape = tape.shape if tape.returned is None else tape.returned.shape
    n_samples = len(tape.scores)
    made = (sum(map(math.prod, record.shapes)) for record in tape.records)
    return Sizes(
        tuple(shape[1:]),
        -(-tape.largest // n_samples),
        tuple(-(-n_values // n_samples) for n_values in made),
    )


def find_sizes(steps: Sequence[Step], shape: Shape) -> Sizes | None:
    """Return the sizes of a chain without a run.

    Parameters
    ----------
    steps : list of Step
        The steps of a chain.
    shape : tuple of int
        The shape of a sample.

    Returns
    -------
    Sizes or None
        The sizes; None if a layer's are unknown, or the sample does not fit: a run says what is
        wrong.
    """
    n_inputs, made = math.prod(shape), []
    for step in steps:
        found = next((_SIZES[t] for t in type(step.layer).__mro__ if t in _SIZES), None)
        after = None if found is None else found(step.layer, shape)
        if after is None or min(after, default=1) < 1:
            return None
        shape = after
        made.append(math.prod(after))
    return Sizes(shape, max(n_inputs, *made), tuple(made))


def fit_batch_size(
    sizes: Sizes, steps: Sequence[Step], intake: Intake, n_targets: int, fewest: int
) -> int:
    """Return how many samples a chunk is to have, such that memory stays bounded.

    Parameters
    ----------
    sizes : Sizes
        The sizes of the values of one sample.
    steps : list of Step
        The steps.
    intake : Intake
        On which device and in which dtype the network computes.
    n_targets : int
        The number of maps of each sample.
    fewest : int
        How many samples there is room for in any case, at least 1.

    Returns
    -------
    int
        The number.
    """
    budget = _BUDGETS["cpu" if intake.device.type == "cpu" else "cuda"]
    # Relevance of all targets lies side by side.
    largest = sizes.largest * n_targets * intake.dtype.itemsize
    batch_size, larger = budget.tensor // largest, int(_LARGER * budget.tensor) // largest
    if any(step.kind == "recurrent" for step in steps):
        return max(fewest, batch_size, min(_RECURRENT_ROWS, larger))
    if n_targets > 1 or sizes.largest >= _WIDE * max(sizes.made, default=1):
        batch_size = larger
    # Most is held where the way back begins, beside what arrives at a step and what it passes.
    held = sizes.count_held(steps) * intake.dtype.itemsize + 2 * largest
    few = min(_FEW_ROWS, budget.tensor // 2 // largest)
    batch_size = min(batch_size, max(budget.chunk // held, few))
    return max(fewest, batch_size, budget.step * len(steps) // held)


def _keeps_shape(layer: Any, shape: Shape) -> Shape:
    return shape


def _after_linear(layer: Any, shape: Shape) -> Shape | None:
    fits = bool(shape) and shape[-1] == layer.in_features
    return (*shape[:-1], layer.out_features) if fits else None


def _after_conv(layer: Any, shape: Shape) -> Shape | None:
    channels, *size = shape
    if channels != layer.in_channels or len(size) != len(layer.kernel_size):
        return None
    if layer.padding == "same":
        return layer.out_channels, *size
    padding = 0 if layer.padding == "valid" else layer.padding
    return layer.out_channels, *_slide(layer, size, padding, layer.dilation)


def _after_pool(layer: Any, shape: Shape) -> Shape | None:
    channels, *size = shape
    if layer.ceil_mode or len(size) != int(type(layer).__name__[-2]):
        return None
    return channels, *_slide(layer, size, layer.padding, getattr(layer, "dilation", 1))


def _slide(layer: Any, size: Sequence[int], padding: Any, dilation: Any) -> list[int]:
    """Return how often a window fits along each axis."""

    def each(value: Any) -> Any:
        return value if isinstance(value, tuple) else (value,) * len(size)

    rows = zip(
        size, each(padding), each(dilation), each(layer.kernel_size), each(layer.stride),
        strict=True,
    )  # fmt: skip
    return [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in rows]


def _after_flatten(layer: Any, shape: Shape) -> Shape | None:
    return (math.prod(shape),) if (layer.start_dim, layer.end_dim) == (1, -1) else None


def _after_unflatten(layer: Any, shape: Shape) -> Shape | None:
    size = layer.unflattened_size
    fits = len(shape) == layer.dim == 1 and math.prod(size) == shape[0]
    return tuple(size) if fits and isinstance(size, tuple | list) else None


def _after_sweep(layer: Sweep, shape: Shape) -> Shape | None:
    turns = layer.sweep in ("right", "left")
    return None if len(shape) != 2 else shape[::-1] if turns else shape


def _after_recurrent(layer: Any, shape: Shape) -> Shape | None:
    """Return the shape of the states of all steps, which pooling is to follow."""
    if not layer.batch_first or len(shape) != 2 or shape[1] != layer.input_size:
        return None
    size = layer.proj_size or layer.hidden_size
    if layer.num_layers * layer.hidden_size > shape[0] * size:  # the last states have more values
        return None
    return shape[0], size * (1 + layer.bidirectional)


def _after_echo_state(layer: EchoState, shape: Shape) -> Shape | None:
    fits = len(shape) == 2 and shape[1] == layer.input_size
    return (shape[0] - layer.washout, layer.hidden_size) if fits else None


def _after_state_pooling(layer: StatePooling, shape: Shape) -> Shape | None:
    return shape[1:] if len(shape) == 2 else None


_SIZES: dict[type[nn.Module], Callable[[Any, Shape], Shape | None]] = {
    nn.Linear: _after_linear,
    nn.Flatten: _after_flatten,
    nn.Unflatten: _after_unflatten,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _after_conv),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), _after_pool),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), _after_pool),
    **dict.fromkeys((nn.Identity, GaussianNoise), _keeps_shape),
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d), _keeps_shape),
    Sweep: _after_sweep,
    **dict.fromkeys((nn.LSTM, nn.GRU, nn.RNN), _after_recurrent),
    EchoState: _after_echo_state,
    StatePooling: _after_state_pooling,
    **dict.fromkeys((nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh), _keeps_shape),
    **dict.fromkeys((nn.Sigmoid, nn.Softplus), _keeps_shape),
}
