"""Probing a network with a forward of its own: its steps, found by runs on few samples.

:mod:`sklrp.propagation.compilation` compiles such a network by :func:`probe_network`. It is run on
two copies of a sample and on three of another; whatever differs depends on the input, or on the
number of samples. A constant must not, nor the way that forward takes.

The run of the first chunk may stand for the second of these: :func:`probe_once` runs the network
on copies of a sample that is in no chunk, and :meth:`Witness.compare` holds the chunk against it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sklrp.propagation.inputs import Inputs, Intake, is_floating
from sklrp.propagation.other_values import WAYS, make_other
from sklrp.propagation.recording.recorder import Recorder
from sklrp.propagation.recording.refusals import OTHER_WAY
from sklrp.propagation.recording.snapshots import is_changed
from sklrp.propagation.recording.tape_writer import MakeStep
from sklrp.propagation.recording.twin import Twins
from sklrp.propagation.registry import count_registered
from sklrp.propagation.tape import Tape
from sklrp.rules import Signal

_ROUNDING = 1000.0  # how many of its smallest steps a constant may differ in from run to run

# The inputs of a network, and as the arguments of its forward.
Sample = tuple[Sequence[Signal], Any, dict[str, Any]]


class Probe:
    """The samples on which a network is probed.

    Parameters
    ----------
    inputs : Inputs
        All samples.
    intake : Intake
        How the network takes them.
    once : bool, default=False
        Whether the network is probed once, as the run of the first chunk is to confirm the plan.
        It takes `recalls` too.
    recalls : bool, default=False
        Whether what an earlier call found will do.
    """

    def __init__(
        self, inputs: Inputs, intake: Intake, once: bool = False, recalls: bool = False
    ) -> None:
        assert recalls or not once  # what is kept for later calls is what a run is held to
        self.inputs, self.intake, self.once, self.recalls = inputs, intake, once, recalls
        every = range(len(inputs.arrays))
        self.floats = frozenset(i for i in every if is_floating(inputs.arrays[i]))
        self.integers = frozenset(every) - self.floats

    def signature(self, once: bool) -> Hashable:
        """Return what is the same for all probes, or all pairs of them, that find the same."""
        arrays = [(tuple(a.shape[1:]), str(a.dtype)) for a in self.inputs.arrays]
        intake = replace(self.intake, names=None)
        return (*arrays, *self.inputs.labels, intake, once, count_registered())

    def first(self, n_samples: int) -> Sample:
        """Return copies of the first sample."""
        return self.intake.to_signals(self.inputs.take([0] * n_samples))

    def other(
        self, n_samples: int, moved: frozenset[int] = frozenset(), way: str = WAYS[0]
    ) -> tuple[Sample, frozenset[int]]:
        """Return copies of another sample, and in which inputs it differs from the first."""
        # Floats are other ones, and so are integers in the inputs that are to be moved.
        changed, rows = moved | self.floats, []
        for i, array in enumerate(self.inputs.arrays):
            rows.append((make_other(array, way) if i in changed else array[-1:])[[0] * n_samples])
        return self.intake.to_signals(rows), changed | self._differ()

    def last(self, n_samples: int) -> tuple[Sample, frozenset[int]]:
        """Return copies of the last sample, and in which inputs it differs from the first."""
        sample = self.intake.to_signals(self.inputs.take([-1] * n_samples))
        return sample, self._differ()

    def _differ(self) -> frozenset[int]:
        """Return the inputs in which the last sample differs from the first."""
        arrays = enumerate(self.inputs.arrays)
        return frozenset(i for i, array in arrays if (array[-1] != array[0]).any())


class Run(NamedTuple):
    """A run of the network on a probe."""

    tape: Tape
    recorder: Recorder
    changed: frozenset[int] = frozenset()  # the inputs that differed from the first sample

    def agrees_with(self, other: Run) -> bool:
        """Return whether forward took the same way in another run."""
        return self._calls == other._calls and self.tape.route.agrees_with(other.tape.route)

    @property
    def _calls(self) -> Any:
        """What was called, and the constants that steps refer to, by their names."""
        steps = [(r.step.name, r.step.handler) for r in self.tape.records]
        return steps, [name for name, _ in self.recorder.constants]


class Witness(NamedTuple):
    """What a probe knows that a run on other samples, and on more of them, is to agree with."""

    constants: list[tuple[str, Tensor]]
    n_samples: int

    def compare(self, recorder: Recorder) -> None:
        """Refuse a network whose constants differ in another run."""
        others, n_others = recorder.constants, recorder.writer.n_samples
        if [name for name, _ in self.constants] != [name for name, _ in others]:
            raise TypeError(OTHER_WAY)
        for (name, one), (_, changed) in zip(self.constants, others, strict=True):
            if not _same_constant(one, changed, self.n_samples, n_others):
                raise TypeError(
                    f"A tensor that enters {name!r} changes with the network's input, but was "
                    "computed from it by something other than torch functions (NumPy, scripted "
                    "or custom code), which relevance cannot follow."
                )


class Probed(NamedTuple):
    """What probing a network found.

    Attributes
    ----------
    tape : Tape
        The run on the first sample.
    varies : bool
        Whether layers, or functions that are like layers, differ from call to call.
    exact : bool
        Whether the network changes tensors in place that it also uses through others.
    witnesses : tuple of Witness
        What another run is to agree with, if it is of another number of samples.
    """

    tape: Tape
    varies: bool
    exact: bool
    witnesses: tuple[Witness, ...]


def probe_once(
    twins: Twins,
    make_step: MakeStep,
    probe: Probe,
    key: str | None = None,
    watched: frozenset[str] = frozenset(),
) -> Probed:
    """Run a network on two copies of a sample whose floats are all others, as `probe_network`."""

    def run(exact: bool) -> Probed:
        sample, _ = probe.other(2)
        recorder = Recorder(twins, 2, make_step=make_step, exact=exact, key=key, watched=watched)
        tape = recorder.run(*sample)
        witness = Witness(recorder.constants, 2)
        return Probed(tape, False, recorder.writer.needs_exact, (witness,))

    # Most networks change nothing in place that they use elsewhere: it costs less to ask first.
    with suppress(Exception):
        found = run(exact=False)
        if not found.exact:
            return found
    return run(exact=True)


def probe_network(
    twins: Twins,
    make_step: MakeStep,
    probe: Probe,
    key: str | None = None,
    watched: frozenset[str] = frozenset(),
) -> Probed:
    """Run a network on probes, and refuse what changes with them.

    Parameters
    ----------
    twins : Twins
        What runs in place of the network.
    make_step : callable
        What makes a step from its name, its layer and its entry.
    probe : Probe
        The samples.
    key : str or None, default=None
        The name of the output that is explained.
    watched : frozenset of str, default=frozenset()
        The paths of modules whose outputs are noted.

    Returns
    -------
    Probed
        The run on the first sample, and what differs in others.

    Raises
    ------
    TypeError
        If forward takes another way for another sample, or computes something from its input out
        of sight.
    """

    def run(sample: Sample, changed: frozenset[int] = frozenset()) -> Run:
        recorder = Recorder(
            twins, len(sample[0][0].x), make_step=make_step, key=key, watched=watched
        )
        return Run(recorder.run(*sample), recorder, changed)

    first = run(probe.first(2))
    others = list(_run_on_others(run, probe, first))
    for other in others:
        if not first.agrees_with(other):
            raise TypeError(OTHER_WAY)
        Witness(first.recorder.constants, 2).compare(other.recorder)
    _check_untold(first, probe, frozenset().union(*(other.changed for other in others)))
    exact = any(run.recorder.writer.needs_exact for run in (first, *others))
    varies = any(_varies(first, other) for other in others)
    witnesses = Witness(first.recorder.constants, 2), Witness(others[0].recorder.constants, 3)
    return Probed(first.tape, varies, exact, witnesses)


def _varies(first: Run, other: Run) -> bool:
    """Return whether a layer has other attributes, or a function other arguments."""
    pairs = zip(first.tape.records, other.tape.records, strict=True)
    layers = ((one.step.layer, changed.step.layer) for one, changed in pairs)
    return any(isinstance(one, nn.Module) and is_changed(one, two) for one, two in layers)


def _run_on_others(run: Callable[..., Run], probe: Probe, first: Run) -> Iterator[Run]:
    """Yield runs on other samples: of all inputs, else with the integers of each alone."""
    # Which integers a network takes is not known: one that fails for some, or goes another way, is
    # tried with others. Floats lie between those of the samples: a network that fails for them
    # may use them as indices.
    taken = frozenset[int]()
    for group in (probe.integers, *(frozenset([i]) for i in sorted(probe.integers))):
        if group <= taken:
            continue
        for way in WAYS:
            other = _try(run, *probe.other(3, group, way))
            if other is not None and first.agrees_with(other):
                taken |= group
                yield other
                break
    if not taken:
        other = _try(run, *probe.other(3)) if probe.floats else None
        yield other or run(*probe.last(3))


def _try(run: Callable[..., Run], sample: Sample, changed: frozenset[int]) -> Run | None:
    """Return a run on a sample that the network may not take, None if it does not."""
    try:
        return run(sample, changed)
    except Exception:  # whatever the network raises for values that it does not know
        return None


def _check_untold(first: Run, probe: Probe, changed: frozenset[int]) -> None:
    """Refuse constants of unknown origin where no other sample could tell what they depend on."""
    untold = [label for i, label in enumerate(probe.inputs.labels) if i not in changed]
    unknown = first.recorder.writer.unknown
    if untold and unknown:
        raise TypeError(
            f"A tensor that enters {unknown[0]!r} was computed by something other than torch "
            f"functions (NumPy, scripted or custom code), and whether it depends on "
            f"{untold[0]} cannot be told: the network takes no other values there. Pass samples "
            "that differ, or compute it by torch functions."
        )


def _same_constant(one: Tensor, other: Tensor, n_one: int, n_other: int) -> bool:
    """Return whether a constant is the same with some number of samples as with another."""
    if one.dim() != other.dim():
        return False
    for axis, (n, m) in enumerate(zip(one.shape, other.shape, strict=True)):
        if (
            n and n_other * n == n_one * m
        ):  # what is made for each sample, such as an initial state
            first, second = one.narrow(axis, 0, 1), other.narrow(axis, 0, 1)
            for whole, part in ((one, first), (other, second)):
                if one.is_floating_point() and not _are_same_numbers(whole, part.expand_as(whole)):
                    return False  # it tells the samples apart by their places
            one, other = first, second
        elif n != m:  # it is as long as a sequence is
            one, other = (tensor.narrow(axis, 0, min(n, m)) for tensor in (one, other))
    return _are_same_numbers(one, other)


def _are_same_numbers(one: Tensor, other: Tensor) -> bool:
    """Return whether constants are equal to rounding, and NaN where NaN stands for missing."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if torch.equal(one, other):
        return True
    same = (one == other) | (one.isnan() & other.isnan())
    if one.is_floating_point() or one.is_complex():
        # Learnt queries are multiplied sample by sample: rounding differs with their number.
        size = one.abs().nan_to_num(posinf=0.0).max()
        same |= (one - other).abs() <= _ROUNDING * torch.finfo(one.dtype).eps * size
    return bool(same.all())
