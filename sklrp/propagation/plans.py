"""The plan: a compiled network, and how it is run on a chunk.

:mod:`.compilation` makes one of a network and a rule. :mod:`.chunk` runs it on each chunk of
samples, :mod:`.defence` and :mod:`.preparing` on few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from html import escape
from typing import Any

from torch import nn

from sklrp._checks import say_layer
from sklrp._copies import find_all
from sklrp.propagation.bounds import follow
from sklrp.propagation.known_networks import NOTHING_KNOWN, Origin
from sklrp.propagation.recording.recorder import Recorder
from sklrp.propagation.recording.refusals import OTHER_WAY
from sklrp.propagation.recording.twin import Twins
from sklrp.propagation.registry import find_head
from sklrp.propagation.sizes import Sizes
from sklrp.propagation.tape import Call, Record, Returned, Route, Step, Tape, run_handler
from sklrp.rules import Rule, Signal, ZBox


@dataclass(repr=False)
class Plan:
    """A network with the rule of each step resolved.

    Attributes
    ----------
    steps : list of Step
        The steps in execution order.
    head : str or None
        The layer at the end that is stepped over, such as a softmax.
    sizes : Sizes or None
        The sizes of the values of one sample; None where only a run tells.
    layers : list of (str, nn.Module)
        The network's own layers if it is a chain, in evaluation mode, up to the head.
    is_extended : bool
        Whether a handler that is not of this package is among those of a chain.
    varies : bool
        Whether functions that are like layers have other arguments from call to call.
    exact : bool
        Whether memory is to be shared in each run as the network knows it.
    key : str or None
        The name of the output that is explained, of a network that returns several by name.
    watched : frozenset of str
        The paths of the modules whose outputs are noted on the tape.
    ends : dict of str to int or Returned
        In a chain, where the modules that are watched end.
    tail : list of nn.Module
        In a chain, what lays the output out anew behind the head.
    twins : Twins or None
        What is run in place of a network with a forward of its own; None of a chain of layers.
    route : Route or None
        Which values the steps of a recorded network take and give: each run is held to it.
    origin : Origin
        What of a recorded network is kept for later calls, or was found by an earlier one.
    """

    steps: list[Step]
    head: str | None = None
    sizes: Sizes | None = None
    layers: Sequence[tuple[str, nn.Module]] = ()
    is_extended: bool = False
    varies: bool = False
    exact: bool = False
    key: str | None = None
    watched: frozenset[str] = frozenset()
    ends: Mapping[str, int | Returned] = field(default_factory=dict)
    tail: Sequence[nn.Module] = ()
    twins: Twins | None = None
    route: Route | None = None
    origin: Origin = NOTHING_KNOWN

    def __repr__(self) -> str:
        """Return a table of the steps."""
        rows = self._rows()
        wide = [max(len(row[i]) for row in rows) for i in range(2)]
        return "\n".join(
            f"{row[0]:{wide[0]}}  {row[1]:{wide[1]}}  {row[2]}".rstrip() for row in rows
        )

    def _repr_html_(self) -> str:
        """Return the table for notebooks, aligned on the left and no higher than a screen."""
        head, *rows = self._rows()
        style = "style='text-align:left;padding:.2em .8em .2em 0'"
        lines = ["".join(f"<th {style}>{escape(text)}</th>" for text in head)]
        lines += ["".join(f"<td {style}>{escape(text)}</td>" for text in row) for row in rows]
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        return f"<div style='max-height:32em;overflow:auto'><table>{body}</table></div>"

    def _rows(self) -> list[tuple[str, str, str]]:
        """Return the header, and a row for each step."""
        rows = [("layer", "type", "rule")]
        for step in self.steps:
            notes = (
                "" if step.rule is None else repr(step.rule),
                "with its batch normalisation" if step.folded else "",
                "folded into its neighbour" if step.merged else "",
            )
            rows.append((step.name, step.label, "  ".join(filter(None, notes))))
        if self.head is not None:
            over = "stepped over: scores are taken before it"
            heads = [k for k, step in enumerate(self.steps, 1) if find_head(step.layer)]
            if self.twins is not None:
                rows[heads[-1]] = (*rows[heads[-1]][:2], over)
            else:
                rows.append(("", self.head, over))
        return rows

    def run(
        self,
        inputs: Sequence[Signal],
        args: Any,
        kwargs: dict[str, Any],
        call: Call = run_handler,
    ) -> Tape:
        """Run the network on a chunk, in which signals stand for the inputs."""
        if self.twins is not None:
            recorder = self._recorder(len(inputs[0].x), call=call)
            tape = self._hold_to_route(recorder.run(inputs, args, kwargs))
            self.varies |= recorder.writer.varies
            return tape
        value, records, largest = _run_chain(self.steps, inputs[0], call)
        if not isinstance(value, Signal) or value.x.shape[:1] != inputs[0].x.shape[:1]:
            shape = tuple(value.x.shape) if isinstance(value, Signal) else type(value).__name__
            raise ValueError(
                f"The network must return outputs of shape (n_samples, ...), got {shape} for "
                f"{len(inputs[0].x)} samples."
            )
        scores = value.x.reshape(len(value.x), -1)  # one output may come without its axis
        output, returned = records[-1].outputs[0], value.x
        for layer in self.tail:
            returned = layer(returned)
        if returned.shape[:1] != value.x.shape[:1]:
            raise ValueError(
                f"The network must return outputs of shape (n_samples, ...), got "
                f"{tuple(returned.shape)} for {len(value.x)} samples."
            )
        calls = {
            path: [[end] if isinstance(end, Returned) else [*map(Returned, records[end].outputs)]]
            for path, end in self.ends.items()
        }
        return Tape(
            records, (0,), output, value.x.shape, scores, self.head, largest,
            returned if self.tail else None, calls,
        )  # fmt: skip

    def run_first(self, inputs: Sequence[Signal], args: Any, kwargs: dict[str, Any]) -> Tape:
        """Run the network on the first chunk, and hold the run against that on the probe."""
        n_samples = len(inputs[0].x)
        witness = self.origin.witness_beside(n_samples)
        recorder = self._recorder(n_samples, notes=True)
        tape = self._hold_to_route(recorder.run(inputs, args, kwargs))
        witness.compare(recorder)
        self.varies |= recorder.writer.varies
        return tape

    def _hold_to_route(self, tape: Tape) -> Tape:
        """Refuse a run whose steps take other values than they did when the plan was made."""
        assert self.route is not None
        if not self.route.agrees_with(tape.route):
            raise TypeError(OTHER_WAY)
        return tape

    def _recorder(self, n_samples: int, **options: Any) -> Recorder:
        """Return what records a run that follows the steps."""
        assert self.twins is not None
        return Recorder(
            self.twins, n_samples, self.steps, exact=self.exact, key=self.key,
            watched=self.watched, **options,
        )  # fmt: skip

    @property
    def lacks_boxes(self) -> bool:
        """Whether a z-box rule needs bounds that follow from those of the network's input."""
        return any(
            isinstance(step.rule, ZBox)
            and (step.rule.low is None or step.rule.high is None or (step.from_numbers and k > 0))
            for k, step in enumerate(self.steps)
        )

    def find_boxes(
        self,
        inputs: Sequence[Signal],
        args: Any,
        kwargs: dict[str, Any],
        of_first: Rule | None,
    ) -> None:
        """Give z-box rules the bounds they lack; see :mod:`sklrp.propagation.bounds`.

        Parameters
        ----------
        inputs : list of Signal
            The inputs, which hold the two corners of a box in place of samples.
        args, kwargs : object
            The inputs as the arguments of ``forward``.
        of_first : Rule or None
            The z-box rule of layers that see the input first, whose bounds the inputs hold.
        """
        call = partial(follow, of_first=of_first)
        if self.twins is not None:
            self._recorder(2, call=call).run(inputs, args, kwargs)
            return
        last = max(k for k, step in enumerate(self.steps) if isinstance(step.rule, ZBox))
        _run_chain(self.steps[: last + 1], inputs[0], call)


def _run_chain(
    steps: Sequence[Step], start: Signal, call: Call = run_handler
) -> tuple[Any, list[Record], int]:
    """Run steps one after the other; return the last value, the records, the largest value."""
    value: Any = start
    records, n_values, largest = [], 1, start.x.numel()
    sources: tuple[int, ...] = (0,)
    for step in steps:
        try:
            value, pull = call(step, step.handler, (value,), {})
        except (RuntimeError, IndexError) as error:
            raise ValueError(
                f"X with samples of shape {tuple(start.x.shape[1:])} does not fit "
                f"{say_layer(step.name)} ({step.layer}): {error}"
            ) from error
        signals = find_all(Signal, value)
        outputs = tuple(range(n_values, n_values + len(signals)))
        shapes = tuple(signal.x.shape for signal in signals)
        axes = (0,) * len(sources), (0,) * len(outputs)
        records.append(Record(step, pull, sources, outputs, shapes, *axes))
        sources, n_values = outputs, n_values + len(signals)
        largest = max(largest, *(signal.x.numel() for signal in signals))
    return value, records, largest
