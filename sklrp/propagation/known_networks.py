"""What probes found of networks, kept for later calls on them.

To probe a network with a forward of its own takes as long as to explain a few samples. What is
found are its steps and how values go between them, and no number: weights are read anew in each
call. :mod:`.planning` asks :func:`recall` before it probes, and :mod:`.run` keeps by
:func:`remember` what a call has confirmed. A later call holds its own runs to it, as it does to a
probe of its own; where they disagree, :mod:`.run` lets the network be probed again.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple
from weakref import ref

from torch import nn

from sklrp.propagation.probing import MakeStep, Probed, Witness
from sklrp.propagation.recording.snapshots import Held
from sklrp.propagation.recording.twin import Twins
from sklrp.propagation.registry import Entry
from sklrp.propagation.sizes import Sizes, measure
from sklrp.propagation.tape import Route, Step

# How many findings are kept, and how many bytes of constants one may hold.
_MOST, _MOST_BYTES = 32, 2**24


class Known(NamedTuple):
    """What a probe found of a network.

    Attributes
    ----------
    steps : list of (Step, Entry)
        The steps as they were probed, without rules, and as what each is registered.
    route : Route
        Which values the steps take and give.
    head : str or None
        The layer at the end that is stepped over.
    sizes : Sizes
        The sizes of the values of one sample.
    varies : bool
        Whether layers have other attributes from call to call.
    exact : bool
        Whether memory is to be shared in each run as the network knows it.
    witnesses : tuple of Witness
        What the run of a first chunk is to agree with.
    idle : list
        The twins of the network that wait for a run.
    source : Held or None
        What the network held when it was probed; None where not all of it is seen to change.
    """

    steps: Sequence[tuple[Step, Entry]]
    route: Route
    head: str | None
    sizes: Sizes
    varies: bool
    exact: bool
    witnesses: tuple[Witness, ...]
    idle: list[Any]
    source: Held | None

    @classmethod
    def of(cls, found: Probed, entries: dict[int, Entry], twins: Twins) -> Known:
        """Return what a probe found; ``entries`` are those of its steps, by their identity."""
        tape = found.tape
        return cls(
            [(record.step, entries[id(record.step)]) for record in tape.records],
            tape.route, tape.head, measure(tape), found.varies, found.exact, found.witnesses,
            twins.idle, twins.source,
        )  # fmt: skip

    def make_steps(self, make_step: MakeStep) -> list[Step]:
        """Return the steps anew: their layers read as they are now."""
        steps = []
        for probed, entry in self.steps:
            step = make_step(probed.name, probed.layer, entry)
            step.axes, step.has_state = probed.axes, probed.has_state
            steps.append(step)
        return steps


# By the identity of the network, and the signature.
_KNOWN: dict[Hashable, tuple[ref[nn.Module], Known]] = {}


def recall(network: nn.Module, signature: Hashable) -> Known | None:
    """Return what is known of a network under a signature, if it holds what it held then."""
    key = id(network), signature
    found = _KNOWN.get(key)
    if found is None:
        return None
    owner, known = found
    if owner() is network and known.source is not None and known.source.is_the_same():
        return known
    _let_go(key)
    return None


def remember(network: nn.Module, signature: Hashable, known: Known) -> None:
    """Keep what was found of a network for as long as it lives, or others push it out."""
    size = sum(t.nbytes for witness in known.witnesses for _, t in witness.constants)
    if known.source is None or size > _MOST_BYTES:
        return
    key = id(network), signature
    _KNOWN.pop(key, None)  # what was last asked for comes last
    _KNOWN[key] = ref(network, partial(_owner_is_gone, key)), known
    for oldest in list(_KNOWN)[:-_MOST]:
        _let_go(oldest)


def forget(network: nn.Module, signature: Hashable) -> None:
    """Let go of what is known of a network under a signature."""
    _let_go((id(network), signature))


def forget_all() -> None:
    """Let go of all that is known, so that the next call on any network probes it."""
    for key in list(_KNOWN):
        _let_go(key)


def _owner_is_gone(key: Hashable, owner: ref[nn.Module]) -> None:
    """Let go of what is known of a network that is no more."""
    found = _KNOWN.get(key)
    if found is not None and found[0] is owner:  # another may have its identity by now
        _let_go(key)


def _let_go(key: Hashable) -> None:
    """Let go of what is kept under a key, and of its twins, which else wait for the collector."""
    found = _KNOWN.pop(key, None)
    idle = [] if found is None else found[1].idle
    with suppress(IndexError):  # another thread may take one
        while True:
            idle.pop().release()
