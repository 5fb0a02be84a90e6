"""Writing the tape of a recorded run: running a handler, and noting it as a step.

The recorder says what is to be run, as an :class:`Operation`; the writer gives its handler the
signals of the arguments, records the step, and returns tensors to the network. While the network
is probed it makes the steps; afterwards it follows the steps of the plan, and a network that takes
another way is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sklrp._copies import find_all
from sklrp.propagation.nested import rebuild, swap_signals
from sklrp.propagation.recording.aliases import Buffers, Layout
from sklrp.propagation.recording.batch_axes import SampleAxes, move_axis, move_pull
from sklrp.propagation.recording.refusals import Refusals
from sklrp.propagation.recording.snapshots import is_changed, is_equal
from sklrp.propagation.recording.tensors import Memory, Node, Nodes, storage_of
from sklrp.propagation.recording.twin import Twins
from sklrp.propagation.recording.watched import WatchedCalls
from sklrp.propagation.registry import (
    HANDLERS,
    NEW,
    NUMERIC,
    PASSING,
    READING,
    WRITING,
    Entry,
    find_head,
)
from sklrp.propagation.sample_rows import fold_like
from sklrp.propagation.tape import Call, Pull, Record, Step, Tape, run_handler
from sklrp.rules import Signal

# What stands for a batch normalisation that is folded into its neighbour.
_IDENTITY = HANDLERS[nn.Identity].handler

# What may return a tensor as it was. A layer of the user's own that does so may have changed it.
_UNCHANGED = PASSING | {HANDLERS["to"].handler}

MakeStep = Callable[[str, Any, Entry], Step]
Own = Callable[[], Any]


class Operation(NamedTuple):
    """A layer or a torch function that is to become a step."""

    name: str
    layer: Any
    entry: Entry
    is_layer: bool = True  # its handler takes the samples first; a function's, as they lie

    @property
    def takes_packed(self) -> bool:
        """Whether it takes packed sequences: recurrent layers alone do."""
        return self.is_layer and self.entry.kind == "recurrent"


class TapeWriter:
    """The steps of one run, and the network's tensors between them.

    Parameters
    ----------
    twins : Twins
        What runs in place of the network, and knows which memory is its own.
    n_samples : int
        The number of samples of the chunk.
    refusals : Refusals
        The words of what is refused.
    steps : sequence of Step or None
        The steps of the plan, which the run must follow; None while the network is probed.
    make_step : callable or None
        While probing, what makes a step from its name, its layer and its entry.
    call : callable or None
        What runs a step in place of its handler alone.
    exact : bool
        Whether the network's own tensors are to be what torch makes of them, sharing memory as
        the network knows it; else they share it with the tape's.
    notes : bool
        Whether constants are noted, and the sample of each value, also where the run follows a
        plan.

    Attributes
    ----------
    nodes : Nodes
        The tensors that depend on the input.
    samples : SampleAxes
        Where the samples are in them.
    watched_calls : WatchedCalls
        What modules that are watched returned.
    memory : Memory
        What is known of the memory of tensors.
    buffers : Buffers
        While exact, what the tape knows of memory that several tensors share.
    needs_exact : bool
        Whether the network changes tensors in place that are used by other views, or later; in a
        probe that is not exact, whether it might.
    varies : bool
        Whether a layer had other attributes than the plan's.
    constants : list of (str, Tensor)
        The constants that steps refer to, if they are noted, with the names of the steps.
    unknown : list of str
        The steps that refer to constants which no function seen has made.
    same : dict of int to int
        While exact, the values that are others, which torch returned as they were.
    """

    def __init__(
        self,
        twins: Twins,
        n_samples: int,
        refusals: Refusals,
        steps: Sequence[Step] | None,
        make_step: MakeStep | None,
        call: Call | None,
        exact: bool,
        notes: bool,
    ) -> None:
        self.n_samples = n_samples
        self.refusals = refusals
        self.steps = steps
        self.is_probing = steps is None
        self.notes, self.varies = notes or self.is_probing, False
        self.samples = SampleAxes(n_samples, refusals, self.notes)
        self.make_step = make_step
        self.call = call or run_handler
        self.nodes = Nodes()
        self.watched_calls = WatchedCalls(self.nodes)
        self.memory = Memory()
        self.exact, self.needs_exact = exact, False
        self.buffers = Buffers()
        self._returned: set[int] = set()  # tensors that functions returned as they were
        self.same: dict[int, int] = {}
        # While not exact a probe knows which memory no other tensor lies in: what is not here.
        self._may_share: set[int] = set()
        self.twins = twins
        self.constants: list[tuple[str, Tensor]] = []
        self.unknown: list[str] = []
        self._records: list[Record] = []
        self._starts: list[int] = []
        self._before_heads: dict[int, Node] = {}

    def start(self, signal: Signal) -> Tensor:
        """Return the tensor that the network gets for an input."""
        tensor = signal.x.detach().clone() if self.exact else signal.x.detach()
        self.samples.shapes.append(tuple(tensor.shape[1:]))
        if self.samples.are_told:
            signal = signal.but(samples=self.samples.number("X", tensor, 0))
        node = self.nodes.add(tensor, signal, tensor.is_floating_point())
        if self.exact:
            self.buffers.join(tensor, node)
        self._starts.append(node.number)
        return tensor

    def apply(
        self, operation: Operation, args: Any, kwargs: Any = None, own: Own | None = None
    ) -> Any:
        """Run a handler on the signals of the arguments, and record it as a step."""
        # While exact, `own` is run too: what torch itself computes on the network's own tensors.
        nodes: list[Node] = []
        args = [self._to_signals(operation, v, nodes) for v in args]
        kwargs = {k: self._to_signals(operation, v, nodes) for k, v in (kwargs or {}).items()}
        name, layer, entry, is_layer = operation
        step = self._next_step(name, layer, entry)
        try:
            handler = _IDENTITY if step.merged else entry.handler
            outputs, pull = self.call(step, handler, args, kwargs)
        except (RuntimeError, IndexError) as error:
            shapes = [tuple(node.signal.x.shape) for node in nodes]
            kind = str(layer) if isinstance(layer, nn.Module) else "a function"
            raise ValueError(
                f"X does not fit {name!r} ({kind}), which got shapes {shapes}: {error}"
                f"{'. ' + self.samples.probe_note if self.is_probing else ''}"
            ) from error
        except TypeError as error:
            # Handlers of layers refuse in whole sentences, handlers of functions say why.
            refusal = self.refusals.because(str(error)) if is_layer else None
            raise refusal or self.refusals.unsupported(step.function, str(error)) from error
        return self._record(step, pull, nodes, outputs, is_layer, own)

    def hold(self, constant: Tensor) -> Tensor:
        """Return a constant as steps may refer to it, whatever the network does to it later."""
        self.memory.use(constant)
        if self.exact and self.memory.is_own(constant):
            return constant.detach().clone()
        return constant.detach()

    def follow_changes(self, tensors: Iterable[Tensor]) -> bool:
        """Bring nodes up to date of tensors whose memory was changed through others."""
        behind = []
        for tensor in tensors if self.exact else ():
            if self.buffers.is_moved(tensor):
                raise self.refusals.unsupported(
                    "set_", "it gives a tensor the memory of another; assign that one"
                )
            if self.buffers.is_behind(tensor):
                behind.append(tensor)
        for tensor in behind:
            self._catch_up(tensor)
        return bool(behind)

    def prepare_change(self, target: Tensor) -> None:
        """Note that the network is about to change a tensor in place."""
        if not self.exact:
            node = self.nodes.get(target)
            on_tape = node is not None and node.number >= 0
            self.needs_exact |= not on_tape or storage_of(target) in self._may_share
            return
        if Layout.of(target).overlaps:
            raise self.refusals.unsupported(
                "in place", "it changes a tensor whose values share places in memory; clone it"
            )
        # Without `exact`, the target would share memory with what is used elsewhere.
        self.needs_exact |= id(target) in self._returned or self.nodes.share(target)
        held = self.buffers.prepare_change(target)
        if held is not None:
            self.memory.claim(held, [])

    def change(self, target: Tensor, node: Node) -> None:
        """Let a node stand for a tensor that was changed in place."""
        self.nodes[target] = node
        if self.exact:
            self._returned.discard(id(target))
            self.same.pop(node.number, None)
            self.buffers.change(target, node)

    def _catch_up(self, tensor: Tensor) -> None:
        """Make a tensor of what its memory holds now, by steps of their own."""
        self.needs_exact = True
        buffer: Any = self.buffers.of(tensor)
        written = [buffer.value, *(node for node, _ in buffer.changes)]
        if any(isinstance(node, Node) and node.number < 0 for node in written):
            self.nodes.add_integers(tensor, copy=True)
            self.buffers.join(tensor)
            return
        for node, layout in buffer.changes:
            value = self._apply_to_memory(WRITING, buffer.value, node, buffer.place(layout))
            buffer.value = self.nodes[value]
        buffer.changes.clear()
        if Layout.of(tensor) == buffer.layout:
            self.nodes[tensor] = buffer.value
        else:
            places = buffer.place(Layout.of(tensor))
            self._apply_to_memory(READING, buffer.value, places, own=lambda: tensor)
        self.buffers.join(tensor)

    def _apply_to_memory(self, name: str, *args: Any, own: Own | None = None) -> Tensor:
        """Run a handler on the values of shared memory."""
        if args[-1] is None:
            raise self.refusals.unsupported(
                name, "tensors share memory in a way that is not known; change a clone of one"
            )
        path = self.refusals.path_of(name)
        out: Tensor = self.apply(Operation(path, None, HANDLERS[name], False), args, own=own)
        return out

    def note(self, name: str, value: Any) -> None:
        """Remember a constant, if they are noted: it must not depend on the input."""
        # Parameters do not. Others may have been computed from the input outside torch;
        # `..probing` compares them between two runs.
        if self.notes:
            for tensor in find_all(Tensor, value):
                place = storage_of(tensor)
                if place in self.twins.owners:
                    continue
                self.constants.append((name, tensor.detach().clone()))
                if place not in self.twins.registered and not self.memory.is_own(tensor):
                    self.unknown.append(name)

    def finish(self, output: Tensor) -> Tape:
        """Return the tape, and let go of all tensors."""
        node = self.nodes.get(output)
        if node is None or node.signal.mask:
            raise ValueError(
                "The network's output does not depend on its input in any way that relevance can "
                "follow; there is nothing to explain. What scripted code (torch.jit), NumPy or "
                "another library computes from it is not seen: compute it by torch functions."
            )
        if output.is_complex():
            raise TypeError(
                "The network returns complex numbers, and relevance is of real ones; let it "
                "return their .abs(), .real or torch.view_as_real of them."
            )
        if self.steps is not None and len(self._records) != len(self.steps):
            raise TypeError(str(self.refusals.other_way()))
        before, head, behind = self._before_head(node)
        x = before.signal.x
        lacks_samples = self.n_samples > 1 and x.shape[:1] != (
            self.n_samples,
        )  # one may be squeezed
        if node.signal.axis or lacks_samples:
            raise ValueError(
                "The network must return outputs of shape (n_samples, ...), got "
                f"{tuple(output.shape)} for {self.n_samples} samples; permute its output, so that "
                "the samples come first."
            )
        scores = x.reshape(self.n_samples, -1)
        calls = self.watched_calls.settle(self._records, behind, head)
        records, self._records = self._records, []
        # Forward's closures know the writer and the writer knows the tensors: break the circle.
        self.nodes.clear()
        self._before_heads.clear()
        return Tape(
            records, tuple(self._starts), before.number, x.shape, scores, head, self.nodes.largest,
            node.signal.x, calls, self.same,
        )  # fmt: skip

    def _before_head(self, node: Node) -> tuple[Node, str | None, set[int]]:
        """Return what enters a softmax or sigmoid at the end, which, and the values behind it."""
        makers = {record.outputs[0]: record for record in self._records}
        record, behind = makers.get(node.number), {node.number}
        while record is not None and record.step.handler in PASSING:
            behind.add(record.inputs[0])
            record = makers.get(record.inputs[0])
        head = None if record is None else find_head(record.step.layer)
        if record is None or head is None:
            return node, None, set()
        before = self._before_heads[record.inputs[0]]
        same = before.signal.axis == 0 and before.signal.x.numel() == node.signal.x.numel()
        return (before, head, behind) if same else (node, None, set())

    def _to_signals(self, operation: Operation, value: Any, nodes: list[Node]) -> Any:
        """Return nested arguments with signals in place of tensors, whose nodes are collected."""
        if isinstance(value, Tensor):
            found = self.nodes.get(value)
            if found is None:
                self.note(operation.name, value)
                return self.hold(value)
            if not self.exact and storage_of(value) != storage_of(found.signal.x):
                self.needs_exact = True  # it was given other memory by what torch does not show
            value = found
        if isinstance(value, Node):
            node = value
            if node.is_packed and not operation.takes_packed:
                raise self.refusals.unsupported(
                    operation.name, "of a packed sequence; unpack it before"
                )
            nodes.append(node)
            signal = node.signal
            return self._with_samples_first(operation, signal) if operation.is_layer else signal
        if isinstance(value, (tuple, list)):
            return rebuild(value, (self._to_signals(operation, v, nodes) for v in value))
        if isinstance(value, dict):
            return {k: self._to_signals(operation, v, nodes) for k, v in value.items()}
        if operation.entry.handler in NUMERIC and isinstance(value, int | float):
            number = torch.tensor(float(value))
            self.memory.claim(number, ())
            self.note(operation.name, number)
        return value

    def _with_samples_first(self, operation: Operation, signal: Signal) -> Signal:
        """Return a signal with the samples on the first axis, as handlers of layers take it."""
        name, layer, entry, _ = operation
        if signal.axis == signal.x.dim() - 1 and isinstance(layer, nn.Linear):
            raise self.refusals.unsupported(name, "it acts along the axis of the samples")
        if signal.samples is not None:
            signal = signal.but(samples=None)
        if not signal.axis:
            return signal
        if not entry.any_axis and entry.kind != "recurrent":
            raise self.refusals.unsupported(
                name, "the samples are not on the first axis; permute its input"
            )
        return move_axis(signal, signal.axis, 0)

    def _next_step(self, name: str, layer: Any, entry: Entry) -> Step:
        """Return a new step while probing, else the plan's next one, which must be the same."""
        if self.steps is None:
            assert self.make_step is not None
            return self.make_step(name, layer, entry)
        position = len(self._records)
        if position >= len(self.steps):
            raise self.refusals.other_way()
        step = self.steps[position]
        if (step.name, step.kind) != (name, entry.kind) or step.handler is not entry.handler:
            raise self.refusals.other_way()
        if step.layer is None:  # a function, which is not sent to another process
            step.layer = layer
        if isinstance(layer, nn.Module) and is_changed(step.layer, layer):
            if type(step.layer) is not type(layer):
                raise self.refusals.other_way()
            self.varies = True
            return self._as_called(step, layer, entry)
        return step

    def _as_called(self, step: Step, layer: nn.Module, entry: Entry) -> Step:
        """Return a step for this call alone, whose layer has other attributes than the probe's."""
        if entry.weights is None:
            return replace(step, layer=layer)
        own, planned = (entry.weights(one) for one in (layer, step.layer))
        if all(map(is_equal, own, planned)):
            return replace(step, layer=layer)
        if step.folded or step.merged:
            raise self.refusals.unsupported(
                step.name,
                "its weights change from call to call, and a batch normalisation is folded with "
                "them; leave its weights as they are, or the normalisation out",
            )
        weight, bias = (None if tensor is None else tensor.detach() for tensor in own)
        return replace(step, layer=layer, weight=weight, bias=bias, maps={})

    def _record(
        self, step: Step, pull: Pull, nodes: list[Node], outputs: Any, is_layer: bool,
        own: Own | None,
    ) -> Any:  # fmt: skip
        """Record a step that was run, and return its outputs as the network is to see them."""
        signals = find_all(Signal, outputs)
        if self.is_probing and not self.exact and step.handler not in NEW:
            values = (*(node.signal for node in nodes), *signals)
            self._may_share.update(storage_of(signal.x) for signal in values)
        input_axes = tuple([node.signal.axis for node in nodes])
        if self.is_probing or (self.samples.are_told and not is_layer):
            known = tuple(node.signal.axis for node in nodes if node.number >= 0)
            axes = self.samples.find(step.name, signals, known or input_axes, is_layer)
            step.axes = axes if self.is_probing else step.axes
        axes = step.axes
        active = is_layer or any(node.active for node in nodes)
        held, found = self._run_own(own, None if is_layer else signals, len(signals))
        made = [
            self._hand_out(step, signal, axis, is_layer, active, one)
            for signal, axis, one in zip(signals, axes, found, strict=True)
        ]
        if is_layer and (any(input_axes) or any(axes)):
            pull = move_pull(pull, input_axes, axes)
        if find_head(step.layer) is not None:
            self._before_heads[nodes[0].number] = nodes[0]
        self._records.append(
            Record(
                step, pull, tuple([node.number for node in nodes]),
                tuple([node.number for _, node in made]),
                tuple([node.signal.x.shape for _, node in made]),
                input_axes, axes, fold_like(0, axes[0]) if is_layer else axes[0],
            )
        )  # fmt: skip
        if held is not None:
            return held
        if isinstance(outputs, Signal):
            return made[0][0]
        tensors = {id(signal): tensor for signal, (tensor, _) in zip(signals, made, strict=True)}
        result = swap_signals(outputs, lambda signal: tensors[id(signal)])
        # x.max(1) returns a named tuple, whose .values forward may ask for.
        named = isinstance(result, tuple) and getattr(torch.return_types, step.function, None)
        return named(result) if named else result

    def _hand_out(
        self, step: Step, signal: Signal, axis: int, is_layer: bool, active: bool,
        own: Tensor | None,
    ) -> tuple[Tensor, Node]:  # fmt: skip
        """Return the network's own tensor of an output, and its node."""
        out = move_axis(signal, 0, axis) if is_layer and axis else signal
        samples = out.samples
        if self.samples.are_told and (is_layer or samples is not None):
            samples = self.samples.number(step.name, out.x, axis)
        if out.axis is not axis or out.samples is not samples:
            out = out.but(axis=axis, samples=samples)
        rows = out.x.shape[axis] if out.x.dim() else 1
        if rows % self.n_samples or not rows:  # h[:5] says so for more than five samples alone
            raise self.refusals.unsupported(
                step.name, f"its output has {rows} rows for {self.n_samples} samples"
            )
        before = None if own is None else self.nodes.get(own)
        if own is None:
            own = out.x.detach()
            own = own.clone(memory_format=torch.contiguous_format) if self.exact else own
        node = self.nodes.add(own, out, active)
        if before is not None:
            self._returned.add(id(own))
            if step.handler in _UNCHANGED:
                self.same[node.number] = before.number
        if self.exact:
            self.buffers.join(own, node)
        return own, node

    def _run_own(
        self, own: Own | None, signals: list[Signal] | None, n_signals: int
    ) -> tuple[Any, list[Any]]:
        """Return what torch itself makes of the network's tensors, and the tensors in it."""
        if not self.exact or own is None:
            return None, [None] * n_signals
        held = own()
        found: list[Any] = find_all(Tensor, held)
        if len(found) != n_signals:
            return None, [None] * n_signals
        if isinstance(held, Tensor) and signals and held.shape != signals[0].x.shape:
            held = held.view(signals[0].x.shape)  # one sample keeps its axis when it is squeezed
            found = [held]
        return held, found
