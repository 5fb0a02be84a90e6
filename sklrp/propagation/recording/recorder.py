"""Recording a network whose ``forward`` is written by hand, by intercepting what it calls.

A network is run as its author wrote it, on a *twin*: modules of the same types with attributes of
their own, which share the parameters, are in evaluation mode, and tell the :class:`Recorder` where
``forward`` is. Torch's function mode shows the recorder each torch function that is called in this
thread. Layers with a registered handler and functions on tensors that depend on the input become
the steps of a tape; all else is refused by name. A recorder runs once or twice to probe a network,
and once for every chunk.

Of the alternatives, ``torch.fx`` patches modules for all threads and stops at Python control flow,
``torch.export`` freezes sizes and takes seconds, hooks miss functions; this one sees every call,
in order, with the values of the chunk at hand.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn, strided
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

from sklrp._copies import find_all
from sklrp._outputs import pick_output
from sklrp._torch import (
    DisableTorchFunction,
    get_parameters,
    is_autocast_on,
    overrides_functions,
    unwrap_compiled,
)
from sklrp.propagation.handlers.operands import tell_positions
from sklrp.propagation.nested import swap_signals
from sklrp.propagation.recording.aliases import Layout
from sklrp.propagation.recording.as_layers import LAYERS, to_layer
from sklrp.propagation.recording.calls import (
    LIKENESSES,
    QUESTIONS,
    RANDOM,
    READS,
    RESHAPES,
    FunctionCall,
    is_change,
)
from sklrp.propagation.recording.packed import concerns_packed, pack_again, run_on_packed
from sklrp.propagation.recording.refusals import (
    AUTOCAST,
    COMPLEX_NUMBERS,
    DRAWS,
    FOREIGN,
    OVERRIDES,
    SPARSE,
    Refusal,
    Refusals,
    find_remedy,
)
from sklrp.propagation.recording.rewritten import find_rewritten
from sklrp.propagation.recording.tape_writer import MakeStep, Operation, TapeWriter
from sklrp.propagation.recording.tensors import storage_of
from sklrp.propagation.recording.twin import Twins
from sklrp.propagation.registry import FLOATING, NEW, PASSING, Entry, find_entry, is_torchs
from sklrp.propagation.tape import Call, Step, Tape
from sklrp.rules import Signal


class Recorder(TorchFunctionMode):
    """Record the steps of one run of a network on one chunk.

    Parameters
    ----------
    twins : Twins
        What runs in place of the network, which is not changed.
    n_samples : int
        The number of samples of the chunk.
    steps : sequence of Step or None, default=None
        The steps of the compiled network, which the run must follow; None while it is probed.
    make_step : callable or None, default=None
        While probing, what makes a step from its name, its layer and its entry.
    call : callable or None, default=None
        What runs a step in place of its handler alone, to find bounds.
    exact : bool, default=True
        Whether memory is shared as the network knows it, which costs a second forward pass; a
        network that does not change what it uses elsewhere goes without. A probe that is not
        exact tells whether it might have to be.
    key : str or None, default=None
        The name of the output that is explained, of a network that returns several by name.
    watched : frozenset of str, default=frozenset()
        The paths of the modules whose outputs are noted on the tape.
    notes : bool, default=False
        Whether constants are noted, and the sample of each value, also where the run follows a
        plan.
    """

    def __init__(
        self,
        twins: Twins,
        n_samples: int,
        steps: Sequence[Step] | None = None,
        make_step: MakeStep | None = None,
        call: Call | None = None,
        exact: bool = True,
        key: str | None = None,
        watched: frozenset[str] = frozenset(),
        notes: bool = False,
    ) -> None:
        super().__init__()
        self.watched = watched
        self.twins = twins
        self.refusals = Refusals(unwrap_compiled(twins.network))
        self.writer = TapeWriter(
            twins, n_samples, self.refusals, steps, make_step, call, exact, notes
        )
        self.constants = self.writer.constants
        self.key = key
        self.runs_own = False  # whether a layer's own forward is being run, unrecorded

    def run(self, inputs: Sequence[Signal], args: Any, kwargs: dict[str, Any]) -> Tape:
        """Run the network on ``forward(*args, **kwargs)``, in which signals stand for inputs."""
        tensors = {id(signal): self.writer.start(signal) for signal in inputs}
        args, kwargs = swap_signals((args, kwargs), lambda signal: tensors[id(signal)])
        with self.twins.lend(self) as twin:
            output = self._run_forward(twin, args, kwargs)
        return self.writer.finish(output)

    def _run_forward(self, twin: nn.Module, args: Any, kwargs: dict[str, Any]) -> Tensor:
        """Return the output that is explained; raise what was refused."""
        try:
            with self:
                returned = twin(*args, **kwargs)
            output = pick_output(returned, self.key)
            self._follow_changes("return", [output])
        except Exception as error:
            if self.refusals.first is None:
                if self.writer.is_probing and isinstance(error, RuntimeError | AssertionError):
                    told = str(error).rstrip(".")
                    raise ValueError(
                        f"The network's forward fails: {told}. {self.writer.samples.probe_note}"
                    ) from error
                wrong = _say_inputs(self.refusals.network, args, kwargs)
                if wrong and isinstance(error, TypeError):
                    raise TypeError(wrong) from error
                raise
        refusal = self.refusals.first
        if refusal is not None:  # also if the network's own code caught it
            raise TypeError(str(refusal)) from refusal.__cause__
        return output

    # What the twin asks

    def depends(self, *values: Any) -> bool:
        """Return whether a tensor among nested values depends on the network's input."""
        if self.runs_own:
            return False
        tensors = find_all(Tensor, values)
        with DisableTorchFunction():
            self._follow_changes("forward", tensors)
        return bool(self.writer.nodes.of(tensors))

    def layer(
        self, path: str, layer: nn.Module, args: Any, kwargs: dict[str, Any],
        own: Callable[[], Any],
    ) -> Any:  # fmt: skip
        """Record a layer that has a handler, and return what its forward would."""
        entry = find_entry(layer)
        if entry is None:
            raise self.refusals.unsupported(type(layer).__name__)
        if kwargs:  # handlers take the arguments by position
            bound = inspect.signature(type(layer).forward).bind(layer, *args, **kwargs)
            args = bound.args[1:]
        given = find_all(Tensor, args)
        if _is_autocast_on(given):
            raise self.refusals.unsupported(path, AUTOCAST)
        tensors = [*given, *get_parameters(layer)]  # what a buffer means is the handler's
        if any(map(Tensor.is_complex, tensors)) and entry.handler not in PASSING:
            raise self.refusals.unsupported(path, COMPLEX_NUMBERS)
        packed = args[0] if args and isinstance(args[0], PackedSequence) else None
        operation = Operation(path, layer, self._entry_of(entry))
        if packed is not None:
            out = self.writer.apply(operation, (packed.data, *args[1:]))
            return pack_again(packed, out, self.writer)

        def run_own() -> Any:
            self.runs_own = True
            try:
                return own()
            finally:
                self.runs_own = False

        if self.writer.is_probing and self.writer.exact and _makes_anew(layer, entry, given):
            return self.writer.apply(operation, args)
        # In evaluation mode dropout changes nothing, also where it would in place.
        if entry.handler in PASSING or not getattr(layer, "inplace", False):
            return self.writer.apply(operation, args, own=run_own)
        return self._change(args[0], lambda: self.writer.apply(operation, args, own=run_own))

    def _entry_of(self, entry: Entry) -> Entry:
        """Return a layer's entry, of another kind if the calling module says of which."""
        if entry.kind is None:
            return entry
        # Of the type: asking a module for what it lacks takes long.
        said: str | None = getattr(type(self.refusals.running), "kind_of_layers", None)
        return entry if said is None else entry._replace(kind=said)

    def watch(self, path: str, run: Callable[[], Any], args: Any, kwargs: dict[str, Any]) -> Any:
        """Run the forward of a module on its arguments, and note what it returns."""
        given = {node.number for node in self.writer.nodes.of(find_all(Tensor, (args, kwargs)))}
        out = run()
        if not self.runs_own:
            with DisableTorchFunction():
                self._follow_changes("return", find_all(Tensor, out))
            self.writer.watched_calls.note(path, out, given)
        return out

    # Torch's function mode

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do with a torch function what the first case says that applies."""
        call = FunctionCall(func, args, kwargs or {}, self.writer.nodes)
        odd = next(filter(overrides_functions, types), None)
        if odd is not None:
            raise self.refusals.unsupported(call.name, OVERRIDES.format(odd.__name__))
        looks = call.name not in QUESTIONS and not self._stays_as_is(call)
        if looks and self._follow_changes(call.name, call.tensors):
            call.find_inputs()
        for applies, act in _CASES:
            if applies(self, call):
                return act(self, call)
        call.bring_into_form()
        for applies, act in _CASES_IN_FORM:
            if applies(self, call):
                return act(self, call)
        return self._run_handler(call)

    def _run_plainly(self, call: FunctionCall) -> Any:
        """Run a function that does not depend on the input, if it has no effect elsewhere."""
        if call.name.endswith("dropout"):  # of a constant; forward may be in training mode
            return call.args[0] if call.args else call.kwargs["input"]
        if call.name in RANDOM:
            raise self.refusals.unsupported(call.name, DRAWS)
        changes = is_change(call.name)
        first = call.tensors[0] if call.tensors else None
        target = call.kwargs.get("out", first)
        if target is not None and (changes or "out" in call.kwargs):
            if not self._is_own(target):
                raise self.refusals.unsupported(call.name, FOREIGN)
            # What steps refer to must not change with it: while exact they have copies.
            self.writer.needs_exact |= self.writer.memory.is_used(target)
        out = call.run()
        self._claim(out, call)
        if call.name in RESHAPES and self.writer.exact:
            self.writer.buffers.join(call.tensors[0])
        return out

    def _claim(self, out: Any, call: FunctionCall) -> None:
        """Note what a function made that is not on the tape."""
        self.writer.memory.claim(out, call.tensors)
        for tensor in find_all(Tensor, out) if self.writer.exact else ():
            if self.writer.memory.is_own(tensor) and not self.writer.buffers.of(tensor):
                self.writer.buffers.join(tensor)

    def _read(self, call: FunctionCall) -> Any:
        """Read integers; refuse to read activations."""
        if call.only_integers:
            return call.run()
        raise self.refusals.unsupported(
            call.name, "forward reads values of activations, which relevance cannot follow"
        )

    def _rewrite(self, call: FunctionCall) -> Any:
        """Run the same in terms of other functions, and record those."""
        function: Any = find_rewritten(call)
        try:
            with self:
                return function(*call.args, **call.kwargs)
        except TypeError as error:
            raise self.refusals.unsupported(call.name, str(error)) from error

    def _run_as_layer(self, call: FunctionCall) -> Any:
        """Record a function that does what a layer does, as that layer."""
        try:
            layer, args = to_layer(call.base, call.func, call.args, call.kwargs)
        except TypeError as error:
            raise self.refusals.unsupported(call.name, str(error)) from error
        weights = {k: v for k, v in vars(layer).items() if isinstance(v, Tensor)}
        if not all(v.is_floating_point() for v in weights.values()):
            raise self.refusals.unsupported(
                call.name, "its weights are integers; convert them to floats, and their factor too"
            )
        if self.depends(weights):
            raise self.refusals.unsupported(
                call.name, "its weights are computed from the network's input"
            )
        places = map(storage_of, weights.values())
        names = [self.twins.owners[at] for at in places if at in self.twins.owners]
        # A layer is told by the path of its weights: composites may name it.
        path = names[0].removesuffix(".weight") if names else self.refusals.path_of(call.base)
        vars(layer).update({k: self.writer.hold(v) for k, v in weights.items()})
        if call.in_place:
            vars(layer)["inplace"] = True
        self.writer.note(path, weights)
        return self.layer(path, layer, args, {}, call.run)

    def _run_on_integers(self, call: FunctionCall) -> Any:
        """Run a function of tokens, lengths or masks: by its handler if there is one, or plainly.

        No relevance passes unless a handler leads it back to an input, so any function will do.
        """
        if call.in_place and not self._is_own(call.tensors[0]):
            raise self.refusals.unsupported(call.name, FOREIGN)
        if call.entry is not None and call.entry.handler not in FLOATING:
            try:
                return self._run_in_place(call) if call.in_place else self._run_handler(call)
            except Refusal as refusal:
                self.refusals.withdraw(refusal)
        if call.in_place:
            return self._change_integers(call)
        out = call.run()
        self._claim(out, call)
        sources = [node.signal for node in call.inputs]
        counts = call.base == "cumsum" and all(source.mask for source in sources)
        position = counts or tell_positions(sources)
        for tensor in find_all(Tensor, out):
            self.writer.nodes.add_integers(tensor, copy=self.writer.exact, position=position)
        return out

    def _change_integers(self, call: FunctionCall) -> Any:
        """Change tokens, lengths or masks in place, off the tape."""
        target = call.tensors[0]
        self.writer.needs_exact = True
        self.writer.prepare_change(target)
        out = call.run()
        self.writer.change(target, self.writer.nodes.add_integers(target, copy=self.writer.exact))
        return out

    def _run_in_place(self, call: FunctionCall) -> Any:
        """Compute what a function would write, and let the network's own tensor hold it."""
        target = call.args[0]
        if not self._is_own(target):
            raise self.refusals.unsupported(call.name, FOREIGN)

        def own() -> Tensor:
            call.run()
            return target

        function = getattr(Tensor, call.base, call.func)
        if call.name not in RESHAPES:
            out = self._change(target, lambda: self._run_handler(call, function, own))
            return None if call.name == "__setitem__" else out
        out = self._run_handler(call, function, own)
        if not self.writer.exact:
            self.writer.needs_exact = True
            target.data = out
            self.writer.nodes[target] = self.writer.nodes[out]
        return target

    def _run_handler(self, call: FunctionCall, function: Any = None, own: Any = None) -> Any:
        """Record a function as a step; ``function`` is what its handler calls in its place."""
        assert call.entry is not None
        path = self.refusals.path_of(call.base)
        operation = Operation(path, function or call.func, call.entry, is_layer=False)
        return self.writer.apply(operation, call.args, call.kwargs, own or call.run)

    def _refuse(self, call: FunctionCall, why: str = "") -> Any:
        raise self.refusals.unsupported(call.name, why)

    def _refuse_unknown(self, call: FunctionCall) -> Any:
        if call.is_complex:
            return self._refuse(call, COMPLEX_NUMBERS)
        return self._refuse(call, DRAWS if call.name in RANDOM else find_remedy(call.base))

    def _refuse_out(self, call: FunctionCall) -> Any:
        raise self.refusals.unsupported(
            call.name, "it writes to a tensor given as out; assign its result"
        )

    # Changes in place

    def _follow_changes(self, name: str, tensors: Sequence[Tensor]) -> bool:
        """Bring tensors up to date that were changed through others; return whether any was."""
        if self.writer.memory.is_stale(tensors):  # the probe's did not share memory so
            raise self.refusals.unsupported(
                name, "a tensor that it uses was changed in place through a view of it"
            )
        return self.writer.follow_changes(tensors)

    def _stays_as_is(self, call: FunctionCall) -> bool:
        """Return whether values are written where they are, as `h[:, 1:] += y` does at its end."""
        if call.name != "__setitem__":
            return False
        self.writer.needs_exact |= not self.writer.exact
        if not self.writer.exact:
            return False
        target, index, value = call.args
        if not isinstance(value, Tensor) or storage_of(value) != storage_of(target):
            return False
        if find_all(Tensor, index):
            return False
        call.is_done = Layout.of(target[index]) == Layout.of(value)
        self.writer.needs_exact |= call.is_done
        return call.is_done

    def _is_own(self, tensor: Tensor) -> bool:
        """Return whether forward may change a tensor in place."""
        return self.writer.nodes.depend(tensor) or self.writer.memory.is_own(tensor)

    def _change(self, target: Tensor, run: Callable[[], Tensor]) -> Tensor:
        """Let a tensor of the network hold what is computed in place of changing it."""
        writer, layout = self.writer, (target.shape, target.dtype)
        writer.prepare_change(target)
        out = run()
        node = writer.nodes[out]
        if layout != (node.signal.x.shape, node.signal.x.dtype):
            raise self.refusals.unsupported(
                "in place", "it changes the shape or the type of a tensor"
            )
        if not writer.exact and storage_of(target) != storage_of(out):
            writer.memory.move(target, out)
        writer.change(target, node)
        return target


def _makes_anew(layer: Any, entry: Entry, given: Sequence[Tensor]) -> bool:
    """Return whether a layer with weights returns new memory, in order: a copy stands for it."""
    # A probe then runs it once, by its handler: these take the longest.
    is_new = entry.kind is not None and entry.handler in NEW and is_torchs(layer)
    return is_new and all(map(_is_in_order, (*given, layer.weight)))


def _is_in_order(x: Tensor) -> bool:
    """Return whether a tensor has its axes in order, also those of length 1."""
    # Torch calls a kernel of 1 x 1 contiguous whose strides say channels last, and convolves so.
    step = 1
    for length, stride in zip(reversed(x.shape), reversed(x.stride()), strict=True):
        if stride != step:
            return False
        step *= length
    return True


class Case(NamedTuple):
    """A kind of call: when it is at hand, and what is done."""

    applies: Callable[[Recorder, FunctionCall], bool]
    act: Callable[[Recorder, FunctionCall], Any]


def _is_constant(recorder: Recorder, call: FunctionCall) -> bool:
    # Nothing to record: it does not depend on the input, or asks for a shape or a type alone.
    return not call.inputs or call.name in QUESTIONS


def _is_done(recorder: Recorder, call: FunctionCall) -> bool:
    # It would write values where they are.
    return call.is_done


def _is_autocast(recorder: Recorder, call: FunctionCall) -> bool:
    # Values of few digits, of types that change from function to function.
    return _is_autocast_on(call.tensors)


def _is_autocast_on(tensors: Sequence[Tensor]) -> bool:
    kinds = [tensor.device.type for tensor in tensors]
    return any(map(is_autocast_on, kinds if len(kinds) < 2 else set(kinds)))


def _is_sparse(recorder: Recorder, call: FunctionCall) -> bool:
    # Handlers compute with all values; of most functions sparse tensors have none.
    return any(tensor.layout != strided for tensor in call.tensors)


def _reads_values(recorder: Recorder, call: FunctionCall) -> bool:
    # Values leave torch, as numbers or for a branch: what is done with them is not seen.
    return call.name in READS


def _is_packed(recorder: Recorder, call: FunctionCall) -> bool:
    # Packed tensors are not laid out as their signals: only packing and unpacking know how.
    return concerns_packed(call, recorder.writer.n_samples)


def _writes_out(recorder: Recorder, call: FunctionCall) -> bool:
    # Another tensor would take on the values, whose views are not known.
    return "out" in call.kwargs


def _is_rewritten(recorder: Recorder, call: FunctionCall) -> bool:
    # torch.mv, softmax with a dtype: handlers need not know what others do in its place.
    return not call.in_place and find_rewritten(call) is not None


def _does_as_layer(recorder: Recorder, call: FunctionCall) -> bool:
    # F.conv2d, torch.relu: the handler of the layer serves, and composites find it by type.
    return call.base in LAYERS and not call.is_complex


def _only_likens(recorder: Recorder, call: FunctionCall) -> bool:
    # constant.to(x): takes x's type or shape, and none of its values.
    return call.base in LIKENESSES and not call.nodes.depend(call.args[0])


def _is_on_integers(recorder: Recorder, call: FunctionCall) -> bool:
    # Tokens, lengths and masks get no relevance of their own, so no handler is needed.
    return call.only_integers


def _is_unknown(recorder: Recorder, call: FunctionCall) -> bool:
    # From here on activations are computed with: that takes a handler.
    return call.entry is None


def _is_in_place(recorder: Recorder, call: FunctionCall) -> bool:
    # Steps refer to the values before the change: a new tensor takes the old one's place.
    return call.in_place


# The first case that applies decides. What is left is recorded by the function's handler.
_CASES = (
    Case(_is_done, lambda recorder, call: None),
    Case(_is_constant, Recorder._run_plainly),
    Case(_is_autocast, lambda recorder, call: recorder._refuse(call, AUTOCAST)),
    Case(_is_sparse, lambda recorder, call: recorder._refuse(call, SPARSE)),
    Case(_reads_values, Recorder._read),
    Case(_is_packed, lambda recorder, call: run_on_packed(call, recorder.writer)),
    Case(_writes_out, Recorder._refuse_out),
    Case(_is_rewritten, Recorder._rewrite),
)
# These look at arguments in the form that handlers take; see FunctionCall.bring_into_form.
_CASES_IN_FORM = (
    Case(_does_as_layer, Recorder._run_as_layer),
    Case(_only_likens, Recorder._run_plainly),
    Case(_is_on_integers, Recorder._run_on_integers),
    Case(_is_unknown, Recorder._refuse_unknown),
    Case(_is_in_place, Recorder._run_in_place),
)


def _say_inputs(network: nn.Module, args: Any, kwargs: Any) -> str:
    """Say how many inputs a network takes, "" if it was given them all."""
    try:
        signature = inspect.signature(network.forward)
    except (TypeError, ValueError):  # of a forward in C++
        return ""
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        own = signature.parameters.values()
        several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        needed = [p.name for p in own if p.default is p.empty and p.kind not in several]
        names = ", ".join(needed)
        remedy = f"a tuple, X=({names})," if len(needed) > 1 else "one array,"
        given = f", got {', '.join(map(repr, kwargs))}" if kwargs else ""
        return (
            f"{type(network).__name__}.forward takes the inputs ({names}): {error}{given}. Give "
            f"{remedy} or a dict of inputs by their names."
        )
    return ""
