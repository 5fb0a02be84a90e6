"""Recording a network whose ``forward`` is written by hand, by intercepting what it calls.

A network is run as its author wrote it, on a *twin*: modules of the same types with attributes of
their own, which share the parameters, are in evaluation mode, and tell the :class:`Recorder` where
``forward`` is. Torch's function mode shows the recorder each torch function that is called in this
thread. Layers with a registered handler and functions on tensors that depend on the input become
the steps of a tape; all else is refused by name. The plan runs a recorder twice to probe a
network, and once for every chunk.

Of the alternatives, ``torch.fx`` patches modules for all threads and stops at Python control flow,
``torch.export`` freezes sizes and takes seconds, hooks miss functions; this one sees every call,
in order, with the values of the chunk at hand.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

from sklrp._torch import is_autocast_on, overrides_functions
from sklrp.propagation.nested import find_all, swap_signals
from sklrp.propagation.recording.as_layers import LAYERS, to_layer
from sklrp.propagation.recording.calls import (
    LIKENESSES,
    QUESTIONS,
    RANDOM,
    READS,
    FunctionCall,
    is_change,
)
from sklrp.propagation.recording.packed import concerns_packed, pack_again, run_on_packed
from sklrp.propagation.recording.refusals import (
    AUTOCAST,
    FOREIGN,
    OVERRIDES,
    REMEDIES,
    Refusal,
    Refusals,
)
from sklrp.propagation.recording.rewritten import find_rewritten
from sklrp.propagation.recording.tape_writer import MakeStep, Operation, TapeWriter
from sklrp.propagation.recording.tensors import storage_of
from sklrp.propagation.recording.twin import make_twin
from sklrp.propagation.registry import find_entry
from sklrp.propagation.tape import Call, Step, Tape
from sklrp.rules import Signal


class Recorder(TorchFunctionMode):
    """Record the steps of one run of a network on one chunk.

    Parameters
    ----------
    network : nn.Module
        The network; it is not changed.
    n_samples : int
        The number of samples of the chunk.
    steps : sequence of Step or None, default=None
        The steps of the compiled network, which the run must follow; None while it is probed.
    make_step : callable or None, default=None
        While probing, what makes a step from its name, its layer and its entry.
    call : callable or None, default=None
        What runs a step in place of its handler alone, to find bounds.
    """

    def __init__(
        self,
        network: nn.Module,
        n_samples: int,
        steps: Sequence[Step] | None = None,
        make_step: MakeStep | None = None,
        call: Call | None = None,
    ) -> None:
        super().__init__()
        self.twin = make_twin(network, self)
        self.refusals = Refusals(self.twin)
        self.writer = TapeWriter(network, n_samples, self.refusals, steps, make_step, call)
        self.constants = self.writer.constants

    def run(self, inputs: Sequence[Signal], args: Any, kwargs: dict[str, Any]) -> Tape:
        """Run the network on ``forward(*args, **kwargs)``, in which signals stand for inputs."""
        tensors = {id(signal): self.writer.start(signal) for signal in inputs}
        args, kwargs = swap_signals((args, kwargs), lambda signal: tensors[id(signal)])
        output = self._run_forward(args, kwargs)
        if not isinstance(output, Tensor):
            raise TypeError(
                "The network must return a tensor of scores, (n_samples, n_outputs), or a tuple "
                f"that begins with it, got {type(output).__name__}{_find_scores(output)}."
            )
        return self.writer.finish(output)

    def _run_forward(self, args: Any, kwargs: dict[str, Any]) -> Any:
        """Return what the network returns, the first of several; raise what was refused."""
        try:
            with self:
                output = self.twin(*args, **kwargs)
            if isinstance(output, tuple | list) and output:
                output = output[0]  # as skorch does
            self._check_fresh("return", find_all(Tensor, output))
        except Exception as error:
            if self.refusals.first is None:
                if self.writer.is_probing and isinstance(error, RuntimeError | AssertionError):
                    told = str(error).rstrip(".")
                    raise ValueError(
                        f"The network's forward fails: {told}. {self.writer.probe_note}"
                    ) from error
                raise
        refusal = self.refusals.first
        if refusal is not None:  # also if the network's own code caught it
            raise TypeError(str(refusal)) from refusal.__cause__
        return output

    # What the twin asks

    def depends(self, *values: Any) -> bool:
        """Return whether a tensor among nested values depends on the network's input."""
        return self.writer.nodes.depend(values)

    def layer(self, path: str, layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """Record a layer that has a handler, and return what its forward would."""
        entry = find_entry(layer)
        if entry is None:
            raise self.refusals.unsupported(type(layer).__name__)
        if kwargs:  # handlers take the arguments by position
            bound = inspect.signature(type(layer).forward).bind(layer, *args, **kwargs)
            args = bound.args[1:]
        self._check_fresh(path, find_all(Tensor, args))
        if _is_autocast_on(find_all(Tensor, args)):
            raise self.refusals.unsupported(path, AUTOCAST)
        packed = args[0] if args and isinstance(args[0], PackedSequence) else None
        if packed is not None:
            args = (packed.data, *args[1:])
        out = self.writer.apply(Operation(path, layer, entry), args)
        if getattr(layer, "inplace", False):
            return self._write_back(args[0], out)
        return out if packed is None else pack_again(packed, out, self.writer)

    # Torch's function mode

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do with a torch function what the first case says that applies."""
        call = FunctionCall(func, args, kwargs or {}, self.writer.nodes)
        odd = next(filter(overrides_functions, types), None)
        if odd is not None:
            raise self.refusals.unsupported(call.name, OVERRIDES.format(odd.__name__))
        if call.name not in QUESTIONS:
            self._check_fresh(call.name, call.tensors)
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
            raise self.refusals.unsupported(
                call.name, "forward draws random numbers, also in evaluation mode"
            )
        changes = is_change(call.name)
        first = call.tensors[0] if call.tensors else None
        target = call.kwargs.get("out", first)
        if target is not None and (changes or "out" in call.kwargs):
            if not self._is_own(target):
                raise self.refusals.unsupported(call.name, FOREIGN)
            if changes:
                self.writer.memory.prepare_change(target)
        out = call.run()
        self.writer.memory.claim(out, call.tensors)
        return out

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
        if self.depends(weights):
            raise self.refusals.unsupported(
                call.name, "its weights are computed from the network's input"
            )
        owners = self.writer.owners
        names = [owners[key] for v in weights.values() if (key := storage_of(v)) in owners]
        # A layer is told by the path of its weights: composites may name it.
        path = names[0].removesuffix(".weight") if names else self.refusals.path_of(call.base)
        vars(layer).update({k: v.detach() for k, v in weights.items()})
        if call.in_place:
            vars(layer)["inplace"] = True
        self.writer.note(path, weights)
        self.writer.memory.use(*weights.values())
        return self.layer(path, layer, args, {})

    def _run_on_integers(self, call: FunctionCall) -> Any:
        """Run a function of tokens, lengths or masks: by its handler if there is one, or plainly.

        No relevance passes unless a handler leads it back to an input, so any function will do.
        """
        if call.entry is not None and not call.in_place:
            try:
                return self._run_handler(call)
            except Refusal as refusal:
                self.refusals.withdraw(refusal)
        if call.in_place and not self._is_own(call.tensors[0]):
            raise self.refusals.unsupported(call.name, FOREIGN)
        out = call.run()
        self.writer.memory.claim(out, call.tensors)
        for tensor in find_all(Tensor, out):
            self.writer.nodes.add_integers(tensor)
        return out

    def _run_in_place(self, call: FunctionCall) -> Any:
        """Compute what a function would write, and let the network's own tensor hold it."""
        target = call.args[0]
        if not self._is_own(target):
            raise self.refusals.unsupported(call.name, FOREIGN)
        return self._write_back(target, self._run_handler(call, getattr(Tensor, call.base)))

    def _run_handler(self, call: FunctionCall, function: Any = None) -> Any:
        """Record a function as a step; ``function`` is what its handler calls in its place."""
        assert call.entry is not None
        path = self.refusals.path_of(call.base)
        operation = Operation(path, function or call.func, call.entry, is_layer=False)
        return self.writer.apply(operation, call.args, call.kwargs)

    def _refuse(self, call: FunctionCall, why: str = "") -> Any:
        raise self.refusals.unsupported(call.name, why or REMEDIES.get(call.base, ""))

    def _refuse_out(self, call: FunctionCall) -> Any:
        raise self.refusals.unsupported(
            call.name, "it writes to a tensor given as out; assign its result"
        )

    # Changes in place

    def _check_fresh(self, name: str, tensors: Iterable[Tensor]) -> None:
        """Refuse tensors that were changed through another view of their memory."""
        if self.writer.memory.is_stale(tensors):
            raise self.refusals.unsupported(
                name, "a tensor that it uses was changed in place through a view of it"
            )

    def _is_own(self, tensor: Tensor) -> bool:
        """Return whether forward may change a tensor in place."""
        return self.writer.nodes.depend(tensor) or self.writer.memory.is_own(tensor)

    def _write_back(self, target: Tensor, out: Tensor) -> Tensor:
        """Let the network's own tensor hold what was computed in place of changing it."""
        if storage_of(target) == storage_of(out):
            return out
        if target.shape != out.shape or target.dtype != out.dtype:
            raise self.refusals.unsupported(
                "in place", "it changes the shape or the type of a tensor"
            )
        node = self.writer.nodes[out]
        self.writer.memory.move(target, out)
        self.writer.nodes[target] = node
        return target


def _find_scores(output: Any) -> str:
    """Return how to take the scores out of what a network returns, as an advice; "" if unknown."""
    if isinstance(output, Mapping):
        names = [name for name, value in output.items() if isinstance(value, Tensor)]
        ways = [f"[{name!r}]" for name in names]
        ways = [f".{name}" if hasattr(output, str(name)) else f"[{name!r}]" for name in names]
    else:
        own = vars(output) if hasattr(output, "__dict__") else {}
        names = [name for name, value in own.items() if isinstance(value, Tensor)]
        ways = [f".{name}" for name in names]
    # The usual names first; of others, the first tensor.
    usual = [ways[names.index(name)] for name in ("logits", "scores", "out") if name in names]
    return f"; return {(usual + ways)[0]} of it, in a module around it" if ways else ""


class Case(NamedTuple):
    """A kind of call: when it is at hand, and what is done."""

    applies: Callable[[Recorder, FunctionCall], bool]
    act: Callable[[Recorder, FunctionCall], Any]


def _is_constant(recorder: Recorder, call: FunctionCall) -> bool:
    # Nothing to record: it does not depend on the input, or asks for a shape or a type alone.
    return not call.inputs or call.name in QUESTIONS


def _is_autocast(recorder: Recorder, call: FunctionCall) -> bool:
    # Values of few digits, of types that change from function to function.
    return _is_autocast_on(call.tensors)


def _is_autocast_on(tensors: Sequence[Tensor]) -> bool:
    return any(map(is_autocast_on, {tensor.device.type for tensor in tensors}))


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
    return call.base in LAYERS


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
    Case(_is_constant, Recorder._run_plainly),
    Case(_is_autocast, lambda recorder, call: recorder._refuse(call, AUTOCAST)),
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
    Case(_is_unknown, Recorder._refuse),
    Case(_is_in_place, Recorder._run_in_place),
)
