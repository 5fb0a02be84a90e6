"""What probes found of networks, kept for later calls on them.

To probe a network with a forward of its own takes as long as to explain a few samples. What is
found are its steps and how values go between them, and no number: weights are read anew in each
call. :mod:`.compilation` asks :func:`recall` before it probes, and :mod:`.run` keeps by
:func:`remember` what a call has confirmed. A later call holds its own runs to it, as it does to a
probe of its own; where they disagree, :mod:`.preparing` lets the network be probed again.
"""

from __future__ import annotations

import gc
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple
from weakref import ref

from torch import Tensor, nn

from sklrp.propagation.probing import MakeStep, Probed, Witness
from sklrp.propagation.recording.snapshots import Held
from sklrp.propagation.recording.tensors import storage_of
from sklrp.propagation.recording.twin import Twins
from sklrp.propagation.registry import Entry, is_built_in
from sklrp.propagation.sizes import Sizes, measure
from sklrp.propagation.tape import Route, Step

# How many findings are kept, and how many bytes one may hold beside the network's own.
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
    is_built_in : bool
        Whether all handlers are of this package. Others may lose relevance for some values alone.
    n_bytes : int
        The size of the tensors that are not the network's own: of constants, and of weights that
        forward computes.
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
    is_built_in: bool
    n_bytes: int

    @classmethod
    def of(cls, found: Probed, entries: dict[int, Entry], twins: Twins) -> Known:
        """Return what a probe found; ``entries`` are those of its steps, by their identity."""
        tape = found.tape
        steps = [(record.step, entries[id(record.step)]) for record in tape.records]
        made = [
            tensor
            for step, _ in steps
            for tensor in (vars(step.layer) if isinstance(step.layer, nn.Module) else {}).values()
            if isinstance(tensor, Tensor) and storage_of(tensor) not in twins.owners
        ]
        constants = [t for witness in found.witnesses for _, t in witness.constants]
        for step, _ in steps:
            step.weight = step.bias = None  # they are read anew
        return cls(
            steps, tape.route, tape.head, measure(tape), found.varies, found.exact,
            found.witnesses, twins.idle, twins.source,
            all(is_built_in(entry.handler) for _, entry in steps),
            sum(t.nbytes for t in (*made, *constants)),
        )  # fmt: skip

    def make_steps(self, make_step: MakeStep) -> list[Step]:
        """Return the steps anew: their layers read as they are now."""
        steps = []
        for probed, entry in self.steps:
            step = make_step(probed.name, probed.layer, entry)
            step.axes, step.has_state = probed.axes, probed.has_state
            steps.append(step)
        return steps


@dataclass(frozen=True)
class Origin:
    """What a plan goes by: a finding that is kept for later calls, or one that was.

    Attributes
    ----------
    known : Known or None, default=None
        What probes found; None if no other call is to know.
    signature : Hashable, default=None
        What later calls ask for it by.
    recalled : bool, default=False
        Whether an earlier call found it.
    """

    known: Known | None = None
    signature: Hashable = None
    recalled: bool = False

    @property
    def once(self) -> bool:
        """Whether the network was probed once."""
        return self.known is not None and len(self.known.witnesses) == 1

    @property
    def is_tentative(self) -> bool:
        """Whether the run of the first chunk is to confirm the plan."""
        return self.once or self.recalled

    @property
    def is_trusted(self) -> bool:
        """Whether an earlier call has seen that the steps lose no relevance and make none."""
        return self.recalled and self.known is not None and self.known.is_built_in

    def witness_beside(self, n_samples: int) -> Witness:
        """Return what a run of some samples is to agree with: a probe of another number."""
        witnesses = () if self.known is None else self.known.witnesses
        return next(one for one in witnesses if one.n_samples != n_samples)


NOTHING_KNOWN = Origin()


class _Entry:
    """What is kept of a network, and whether a call has asked for it of late."""

    def __init__(self, owner: ref[nn.Module], known: Known) -> None:
        self.owner, self.known, self.is_old = owner, known, False


# By the identity of the network, and the signature.
_KNOWN: dict[tuple[int, Hashable], _Entry] = {}


def recall(network: nn.Module, signatures: Sequence[Hashable]) -> tuple[Hashable, Known] | None:
    """Return what is known of a network, if it holds what it held then, and the signature.

    Parameters
    ----------
    network : nn.Module
        The network.
    signatures : sequence of hashable
        What it may be known by, the best first.

    Returns
    -------
    (signature, Known) or None
        None where nothing is known.
    """
    for key in _keys_of(network):
        entry = _KNOWN.get(key)
        if entry is not None and not _holds(entry, network):
            _let_go(key)
    for signature in signatures:
        found = _KNOWN.get((id(network), signature))
        if found is not None:
            found.is_old = False
            return signature, found.known
    return None


def remember(network: nn.Module, origin: Origin, varies: bool) -> None:
    """Keep what was found of a network for as long as it lives, or others push it out.

    Parameters
    ----------
    network : nn.Module
        The network.
    origin : Origin
        What was found, and whether it may be kept.
    varies : bool
        Whether layers had other attributes in any run.
    """
    known = origin.known
    if known is None or known.source is None or known.n_bytes > _MOST_BYTES:
        return
    key = id(network), origin.signature
    _KNOWN.pop(key, None)  # what was last asked for comes last
    _KNOWN[key] = _Entry(ref(network, partial(_owner_is_gone, key)), known._replace(varies=varies))
    for oldest in list(_KNOWN)[:-_MOST]:
        _let_go(oldest)


def forget(network: nn.Module) -> bool:
    """Let go of all that is known of a network; return whether there was anything."""
    keys = _keys_of(network)
    for key in keys:
        _let_go(key)
    return bool(keys)


def forget_all() -> None:
    """Let go of all that is known, so that the next call on any network probes it."""
    for key in list(_KNOWN):
        _let_go(key)


def _keys_of(network: nn.Module) -> list[tuple[int, Hashable]]:
    return [key for key in list(_KNOWN) if key[0] == id(network)]


def _holds(entry: _Entry, network: nn.Module) -> bool:
    """Return whether what is kept is of a network, and of what it holds now."""
    source = entry.known.source
    return entry.owner() is network and source is not None and source.is_the_same()


def _owner_is_gone(key: tuple[int, Hashable], owner: ref[nn.Module]) -> None:
    """Let go of what is known of a network that is no more."""
    found = _KNOWN.get(key)
    if found is not None and found.owner is owner:  # another may have its identity by now
        _let_go(key)


def _let_go(key: tuple[int, Hashable]) -> None:
    """Let go of what is kept under a key, and of its twins, which else wait for the collector."""
    entry = _KNOWN.pop(key, None)
    idle = [] if entry is None else entry.known.idle
    with suppress(IndexError):  # another thread may take one
        while True:
            idle.pop().release()


def _age(phase: str, info: dict[str, int]) -> None:
    """Let go, before a full collection, of what no call has asked for since the last one.

    A hook of a parameter, for one, may refer to the network, which then lives on in what is kept.
    """
    if phase == "start" and info["generation"] == 2:
        for key, entry in list(_KNOWN.items()):
            if entry.is_old:
                _let_go(key)
            entry.is_old = True


gc.callbacks.append(_age)
