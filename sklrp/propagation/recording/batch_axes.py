"""Where the samples are: on which axis of the network's tensors, and how handlers get them first.

A handler of a layer takes the samples on the first axis, whatever axis the network has them on;
a handler of a function takes the network's own layout. The tape writer moves the axis to and fro.
While the network is probed, each value carries the number of its sample, and the axis of the
samples in a function's output is read off from these numbers, by :class:`SampleAxes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sklrp.propagation.recording.refusals import Refusals
from sklrp.propagation.sample_rows import (
    Folded,
    count_runs,
    fold_like,
    number_rows,
    without_repeats,
)
from sklrp.propagation.tape import Pull
from sklrp.rules import Signal


class SampleAxes:
    """The axes of the samples in the tensors of one run.

    Parameters
    ----------
    n_samples : int
        The number of samples.
    refusals : Refusals
        The words of what is refused.
    notes : bool
        Whether values carry the number of their sample.

    Attributes
    ----------
    are_told : bool
        Whether these numbers tell where the samples are.
    shapes : list of tuple of int
        The shapes of a sample, of each input.
    """

    def __init__(self, n_samples: int, refusals: Refusals, notes: bool) -> None:
        self.n_samples, self.refusals = n_samples, refusals
        self.are_told = notes and n_samples > 1  # of one, all axes of one could be it
        self.shapes: list[tuple[int, ...]] = []
        self._numbers: dict[Any, Tensor] = {}  # the sample of each value, by shape and axis

    @property
    def probe_note(self) -> str:
        """What to say of a probe that failed."""
        shapes = ", ".join(map(str, self.shapes))
        return (
            f"It was run on {self.n_samples} samples of shape {shapes}, to see where samples are. "
            "Of a single sample, pass X[np.newaxis]; a number of samples that forward fixes must "
            "be read from its input, as len(x)"
        )

    def number(self, name: str, x: Tensor, axis: int) -> Tensor:
        """Return the sample of each value, of which the axis of the samples must hold as many."""
        key = x.shape, axis, count_runs(axis), x.device
        if key not in self._numbers:
            samples = _number_samples(x, axis, self.n_samples)
            if samples is None:
                raise self.refusals.unsupported(name, "its output has no axis of the samples")
            self._numbers[key] = samples
        return self._numbers[key]

    def find(
        self, name: str, signals: Sequence[Signal], input_axes: tuple[int, ...], is_layer: bool
    ) -> tuple[int, ...]:
        """Return where the network is to have the samples in the outputs of a probed step."""
        if is_layer:  # its handler says so, else where they are in the input
            if input_axes == (0,) and count_runs(input_axes[0]) == 1:
                return tuple([int(signal.axis) for signal in signals])
            moved = input_axes[0] if len(signals) == 1 and len(set(input_axes)) == 1 else 0
            if len(set(map(count_runs, input_axes))) > 1:
                raise self.refusals.unsupported(
                    name, "in one of its inputs samples come more often than in another"
                )
            return tuple(fold_like(signal.axis or moved, input_axes[0]) for signal in signals)
        axes = [_find_batch_axis(signal, self.n_samples) for signal in signals]
        if None in axes:
            raise self.refusals.unsupported(
                name, f"it mixes or reorders samples. {self.probe_note}"
            )
        return tuple(axis for axis in axes if axis is not None)


def _number_samples(x: Tensor, axis: int, n_samples: int) -> Tensor | None:
    """Return the sample of each value of ``x``; None if ``axis`` cannot be that of the samples."""
    one = number_rows(x.shape[axis], n_samples, count_runs(axis), x.device)
    if one is None:
        return None
    return one.reshape(-1, *(1,) * (x.dim() - axis - 1)).expand(x.shape)


def _find_batch_axis(signal: Signal, n_samples: int) -> int | None:
    """Return the axis along which the samples of a probed signal are in order; None if on none."""
    samples = signal.samples
    if samples is None:
        return signal.axis
    samples = without_repeats(samples)
    # In order on the first axis, as they nearly always are: a few numbers tell.
    first = samples.shape[:1] == signal.x.shape[:1] == (samples.numel(),) == (n_samples,)
    if first and samples.flatten().tolist() == list(range(n_samples)):
        return 0
    for axis, n in enumerate(signal.x.shape):
        # All samples can come repeatedly only where they change along the axis at all.
        changes = n > n_samples and bool((samples != samples.narrow(axis, 0, 1)).any())
        for n_runs in range(1, n // n_samples + 1 if changes else 2):
            own = Folded(axis, n_runs) if n_runs > 1 else axis
            expected = _number_samples(signal.x, own, n_samples)
            if expected is None:
                continue
            # Negative numbers are of constants, which belong to no sample.
            if bool(((samples == without_repeats(expected)) | (samples < 0)).all()):
                return own
    return None


def move_axis(signal: Signal, source: int, destination: int) -> Signal:
    """Return a signal with an axis moved, where ``axis`` stays what it was."""
    if source == destination:
        return signal

    def move(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.movedim(source, destination)

    return signal.but(
        x=signal.x.movedim(source, destination),
        low=move(signal.low),
        high=move(signal.high),
        seen=move(signal.seen),
    )


def move_pull(pull: Pull, input_axes: tuple[int, ...], output_axes: tuple[int, ...]) -> Pull:
    """Let a pull of a layer, with samples first, act in the network's own layout."""

    def moved_pull(relevance: Any, kept: Any) -> Any:
        passed = pull(_move_relevance(relevance, output_axes, to_front=True), kept)
        return _move_relevance(passed, input_axes, to_front=False)

    return moved_pull


def _move_relevance(relevance: Any, axes: tuple[int, ...], to_front: bool) -> Any:
    """Move the samples of relevance, which has the targets before all axes."""
    parts = relevance if isinstance(relevance, tuple) else (relevance,)
    moved = tuple(
        r if r is None or not axis else r.movedim(*((axis + 1, 1) if to_front else (1, axis + 1)))
        for r, axis in zip(parts, axes, strict=True)
    )
    return moved if len(moved) > 1 else moved[0]
