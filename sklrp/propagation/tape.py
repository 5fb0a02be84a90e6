"""What a run of a network leaves: its steps in order, and how relevance is pulled back.

A :class:`Step` is a layer of the compiled network, which a handler is given. A :class:`Tape` is
one run on a chunk, of the chain or by the recorder, and pulls relevance from its scores to its
inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sklrp.propagation.sample_rows import count_runs

CAUSES = ("bias", "epsilon", "padding", "initial_state", "dropped")
REST = "rest"  # of all causes, where they are not told apart


Pull = Callable[[Any, "Kept | None"], Any]


Handler = Callable[..., tuple[Any, Pull]]


@dataclass
class Step:
    """One layer of the compiled network: what a handler is given.

    Attributes
    ----------
    name : str
        The path of the layer in the network.
    layer : nn.Module or callable
        The layer, which a handler reads and leaves as it is, or the torch function.
    handler : callable
        The function registered for the type of the layer.
    kind : str or None, default=None
        ``"conv"``, ``"dense"`` or ``"recurrent"`` for a layer with weights, which takes a rule.
    rule : Rule or None, default=None
        The rule of a layer with weights.
    epsilon : float, default=0.0
        The stabiliser: the rule's own or the call's.
    weight, bias : Tensor or None, default=None
        The weights of an affine layer, as it was registered to read them, once per plan; an
        adjacent batch normalisation is folded in. Handlers leave them as they are.
    fold : {"rows", "columns", "scale"} or None, default=None
        How a batch normalisation is folded; see :func:`register`.
    bounds : callable or None, default=None
        What the layer does to a box; see :func:`register`.
    box : (Tensor, Tensor) or None, default=None
        The bounds of the input of a layer with the z-box rule, where they follow from others.
    product : {"all", "prop", "abs", "half"}, default="all"
        How a product of a gate and a signal shares its relevance; see
        :class:`~sklrp.Composite`.
    attention : {"attnlrp", "constant", "cp"}, default="attnlrp"
        What the weights of an attention are; see :class:`~sklrp.Composite`.
    axes : tuple of int, default=(0,)
        Where the network has the samples in the outputs of the step.
    folded : bool, default=False
        Whether a batch normalisation is folded into ``weight`` and ``bias``.
    merged : bool, default=False
        Whether this is a batch normalisation that is folded into its neighbour.
    output_of : str or None, default=None
        The neighbour to which the output of the step belongs, as the two are folded into one; None
        where the output is the layer's own.
    first : bool, default=False
        Whether this is a layer with weights that sees the input before any other has.
    from_numbers : bool, default=False
        Whether it is first, and sees numbers of the input and no vectors of tokens: the bounds of
        a z-box rule are then in units of the network's input.
    has_state : bool, default=False
        Whether a constant factor has values of its own for each sample, as an initial state has.
    shifted : bool, default=False
        Whether a z-box rule follows: constants that are added before take no relevance.
    rectified : bool, default=False
        Whether no relevance is to come to outputs that are zero behind a ReLU, which may have
        written over them.
    in_place : bool, default=False
        Whether this is such a ReLU, which may write over what it is given.
    is_one_sided : bool, default=False
        Whether a run found an output with hardly any contributions of one sign. Runs in other
        threads may note it too: it spares them an attempt, and changes maps by rounding alone.
    maps : dict
        The weights' maps computed so far; see :meth:`map_weight`.
    """

    name: str
    layer: Any
    handler: Handler
    kind: str | None = None
    rule: Any = None
    epsilon: float = 0.0
    weight: Any = None
    bias: Any = None
    fold: str | None = None
    bounds: Callable[..., Any] | None = None
    box: tuple[Tensor, Tensor] | None = None
    product: str = "all"
    attention: str = "attnlrp"
    axes: tuple[int, ...] = (0,)
    folded: bool = False
    merged: bool = False
    output_of: str | None = None
    first: bool = False
    from_numbers: bool = False
    has_state: bool = False
    shifted: bool = False
    rectified: bool = False
    in_place: bool = False
    is_one_sided: bool = False
    maps: dict[Any, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The type of the layer, or the name of the torch function."""
        if isinstance(self.layer, nn.Module):
            return type(self.layer).__name__
        return self.function

    @property
    def function(self) -> str:
        """The name of the torch function, at the end of the path."""
        return self.name.rpartition(".")[2]

    def map_weight(self, key: Any, function: Callable[[Tensor], Tensor], weight: Tensor) -> Tensor:
        """Return ``function(weight)``, computed once per call of :func:`explain`."""
        known = self.maps.get(key)
        if known is None or not _is_same(known[0], weight):
            known = self.maps[key] = weight, function(weight)
        return known[1]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what another process computes itself, and functions, which do not pickle."""
        layer = self.layer if isinstance(self.layer, nn.Module) else None
        return {**self.__dict__, "maps": {}, "layer": layer, "bounds": None}


def _is_same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are the same memory, as views of one layer's weights are."""
    return one is other or (one.data_ptr() == other.data_ptr() and one.shape == other.shape)


class Kept(dict[str, Tensor]):
    """Relevance that a layer did not pass on: cause mapped to ``(n_targets, n_samples)``.

    Parameters
    ----------
    n_samples : int
        The number of samples.
    axis : int, default=0
        The axis of the samples in what is added, the targets' axis before it not counted.
    sum_of : callable or None, default=None
        What knows the sum of relevance that arrived, ``sum_of(relevance, axis)``. Unless None,
        the sum over all causes is what counts, and they need not be told apart.
    """

    def __init__(
        self, n_samples: int, axis: int = 0, sum_of: Callable[[Tensor, int], Tensor] | None = None
    ) -> None:
        self.n_samples = n_samples
        self.axis = axis
        self.sum_of = sum_of

    def add(self, cause: str, relevance: Tensor) -> None:
        """Add ``relevance``, summed over everything but targets and samples, to ``cause``."""
        amount = total(relevance, self.n_samples, self.axis)
        self[cause] = self[cause] + amount if cause in self else amount

    def add_rest(self, relevance: Tensor, passed: Sequence[Tensor]) -> None:
        """Add what of ``relevance`` is not passed on, whatever the cause."""
        assert self.sum_of is not None
        rest = self.sum_of(relevance, self.axis)
        for part in passed:
            rest = rest - total(part, self.n_samples, self.axis)
        self[REST] = self[REST] + rest if REST in self else rest


def total(relevance: Tensor, n_samples: int, axis: int = 0) -> Tensor:
    """Return the relevance of each sample, ``(n_targets, n_samples)``."""
    if relevance.is_complex():  # it holds that of real and of imaginary parts
        relevance = torch.view_as_real(relevance.resolve_conj()).sum(-1)
    # The axis of the samples may be longer: their parts lie side by side, or all come repeatedly.
    first = relevance.movedim(axis + 1, 1) if axis else relevance
    n_runs = count_runs(axis) if first.shape[1] != n_samples else 1
    if n_runs > 1:
        first = first.reshape(len(relevance), n_runs, n_samples, -1).sum(1)
    if first.dim() < 3 or first.shape[1] != n_samples:
        first = first.reshape(len(relevance), n_samples, -1)
    return first.sum(tuple(range(2, first.dim())))  # a reshape would copy what has channels last


# What runs a step in place of its handler alone, on the handler and its arguments.
Call = Callable[[Step, Handler, Any, dict[str, Any]], tuple[Any, Pull]]


def run_handler(step: Step, handler: Handler, args: Any, kwargs: Any) -> tuple[Any, Pull]:
    """Return what a handler returns, the outputs and their pull; refuse anything else."""
    found = handler(step, *args, **kwargs)
    if not isinstance(found, tuple) or len(found) != 2 or not callable(found[1]):
        kinds = ", ".join(type(v).__name__ for v in found) if isinstance(found, tuple) else ""
        given = f"({kinds})" if isinstance(found, tuple) else type(found).__name__
        raise TypeError(
            f"The handler of layer {step.name!r} ({step.label}) must return (output, pull), got "
            f"{given}: pull(relevance, kept) is the function that takes relevance back."
        )
    return found


class Route(NamedTuple):
    """Which values the steps of a run take and give, and which is explained, by their numbers."""

    links: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    output: int
    same: Mapping[int, int]  # values that are others, which torch returned as they were

    def agrees_with(self, other: Route) -> bool:
        """Return whether another run took the same way."""
        # What torch returned as it was in one of them may be a copy in the other.
        same = {**self.same, **other.same}
        return self.under(same) == other.under(same)

    def under(self, same: Mapping[int, int]) -> Route:
        """Return the route in which values that are others have the others' numbers."""

        def name(number: int) -> int:
            while number in same:  # the other has a smaller one
                number = same[number]
            return number

        if not same:
            return Route(self.links, self.output, {})
        links = [(tuple(map(name, inputs)), outputs) for inputs, outputs in self.links]
        return Route(tuple(links), name(self.output), {})


# What is told of a record: the relevance of its inputs, (n_targets, n_samples), and what it kept.
Layer = tuple[Tensor, Kept]


class Record(NamedTuple):
    """A step as it was run on one chunk: between which values, and how relevance is pulled."""

    step: Step
    pull: Pull
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    shapes: tuple[torch.Size, ...]  # of the outputs
    input_axes: tuple[int, ...]  # of the samples
    output_axes: tuple[int, ...]
    kept_axis: int = 0


class Returned(NamedTuple):
    """A tensor that a module of the network returned: its value, or why relevance has none."""

    number: int | None
    why: str = ""


Note = Callable[[Record, Sequence[Any], Sequence[Any], "Kept | None"], None]

# What modules that are watched returned, by their paths, at each of their calls.
Calls = Mapping[str, Sequence[Sequence[Returned]]]


class Tape(NamedTuple):
    """A network as it was run on one chunk; values are numbered as they came about."""

    records: list[Record]
    inputs: tuple[int, ...]
    output: int
    shape: torch.Size  # of the network's output
    scores: Tensor  # the output as (n_samples, n_outputs)
    head: str | None = None
    largest: int = 0
    returned: Tensor | None = None  # what the network returns, behind a head; None: the scores
    calls: Calls | None = None
    same: Mapping[int, int] = {}  # values that are others, which torch returned as they were

    @property
    def route(self) -> Route:
        """Which values the steps take and give."""
        links = tuple([(record.inputs, record.outputs) for record in self.records])
        return Route(links, self.output, self.same)

    def pull(
        self,
        relevance: Tensor,
        details: bool,
        notes: Sequence[Note] = (),
        keep: Callable[[int], Kept] | None = None,
    ) -> tuple[list[Tensor | None], list[Layer | None]]:
        """Pull relevance from the scores back to the inputs, once: the records are used up.

        Parameters
        ----------
        relevance : Tensor of shape (n_targets, n_samples, n_outputs)
            The relevance of the scores.
        details : bool
            Whether to tell where relevance went.
        notes : sequence of callable, default=()
            What is told of each record: the relevance that arrived, that was passed, and kept.
        keep : callable or None, default=None
            Without details, what makes an account of what a record keeps, from the samples' axis.

        Returns
        -------
        relevance : list of Tensor or None
            The relevance of each input, None for one that the scores do not depend on.
        layers : list of (Tensor, Kept) or None
            For each record the relevance of its inputs, (n_targets, n_samples), and what it kept;
            None for one that the relevance does not reach. Empty without details.
        """
        # What a value has received so far, from all steps behind it that use it: R_i is a sum over
        # them. Records are in order of execution, so all of it has come when the value's turn is.
        waiting = {self.output: relevance.reshape(len(relevance), *self.shape)}
        layers: list[Layer | None] = []
        keep = partial(Kept, len(self.scores)) if details else keep
        while self.records:
            record = self.records.pop()  # what it holds is freed when it is done
            arrived = [waiting.pop(index, None) for index in record.outputs]
            if all(r is None for r in arrived):
                layers.append(None)
                continue
            kept = None if keep is None else keep(record.kept_axis)
            passed = record.pull(arrived[0] if len(arrived) == 1 else tuple(arrived), kept)
            passed = passed if isinstance(passed, tuple) else (passed,)
            for note in notes:
                note(record, arrived, passed, kept)
            _hand_on(record, passed, waiting)
            if details:
                assert kept is not None
                layers.append((self._amount(record, passed, relevance), kept))
        return [waiting.get(index) for index in self.inputs], layers[::-1] if details else []

    def _amount(self, record: Record, passed: Sequence[Any], relevance: Tensor) -> Tensor:
        """Return how much relevance the inputs of a record got, ``(n_targets, n_samples)``."""
        n_samples = len(self.scores)
        amounts = (
            total(r, n_samples, axis).to(relevance.device)  # forward may move values to another
            for r, axis in zip(passed, record.input_axes, strict=True)
            if r is not None
        )
        return sum(amounts, relevance.new_zeros(len(relevance), n_samples))


def _hand_on(record: Record, passed: Sequence[Any], waiting: dict[int, Tensor]) -> None:
    """Add what a record passes on to what its inputs have received from other records."""
    for index, r in zip(record.inputs, passed, strict=True):
        if r is None:
            continue
        if index < 0:
            raise TypeError(
                f"Relevance reaches {record.step.name!r} from integers that were computed from "
                "the input in a way that it cannot follow; pass them as an input."
            )
        waiting[index] = waiting[index] + r if index in waiting else r
