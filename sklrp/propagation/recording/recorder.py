"""Recording a network whose ``forward`` is written by hand, by intercepting what it calls.

A network is run as its author wrote it, on a *twin*: modules of the same types with attributes of
their own, which share the parameters, are in evaluation mode, and tell the :class:`Recorder` where
``forward`` is. Torch's function mode shows the recorder each torch function that is called in this
thread. Layers with a registered handler and functions on tensors that depend on the input become
the steps of a tape; all else is refused by name. Of the alternatives, ``torch.fx`` patches modules
for all threads and stops at Python control flow, ``torch.export`` freezes sizes and takes seconds,
hooks miss functions; this one sees every call, in order, with the values of the chunk at hand.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from sklrp._torch import PACK, PAD_PACKED, THRESHOLD
from sklrp.propagation.nested import find_signals, find_tensors, rebuild, swap_signals
from sklrp.propagation.recording.as_layers import LAYERS
from sklrp.propagation.recording.twin import make_twin
from sklrp.propagation.registry import (
    HANDLERS,
    NUMERIC,
    PASSING,
    SOURCED,
    Entry,
    find_entry,
    find_head,
)
from sklrp.propagation.tape import Pull, Record, Step, Tape
from sklrp.rules import Signal

# What a forward may ask of a tensor without computing with it, and tensors made in its likeness.
_QUESTIONS = frozenset(
    """
    __format__ __len__ __repr__ _is_view _version data_ptr device dim dtype element_size get_device
    grad_fn has_names is_coalesced is_complex is_conj is_contiguous is_cpu is_cuda
    is_floating_point is_inference is_leaf is_meta is_mkldnn is_mps is_neg is_nested is_pinned
    is_quantized is_same_size is_shared is_signed is_sparse is_sparse_csr is_tensor is_xla is_xpu
    itemsize layout names nbytes ndim ndimension nelement numel output_nr requires_grad
    retains_grad result_type shape size storage_offset stride
    empty_like full_like new_empty new_full new_ones new_zeros ones_like zeros_like
    """.split()  # noqa: SIM905
)
_RANDOM = frozenset(
    """
    bernoulli bernoulli_ cauchy_ exponential_ geometric_ gumbel_softmax log_normal_ manual_seed
    multinomial normal normal_ poisson rand rand_like randint randint_like randn randn_like
    random_ randperm seed uniform_
    """.split()  # noqa: SIM905
)
_READS = frozenset(
    """
    __array__ __bool__ __complex__ __contains__ __dlpack__ __float__ __index__ __int__ allclose
    equal is_nonzero item numpy tolist
    """.split()  # noqa: SIM905
)
_UNFOLDING = {F.unfold: "im2col", F.fold: "col2im"}
_LIKE = frozenset(["to", "type_as", "expand_as", "view_as", "reshape_as"])  # ask the second
_OPERATORS = {
    "__add__": "add", "__radd__": "add", "__iadd__": "add_", "__sub__": "sub", "__isub__": "sub_",
    "__rsub__": "rsub", "__mul__": "mul", "__rmul__": "mul", "__imul__": "mul_",
    "multiply": "mul", "multiply_": "mul_", "subtract": "sub", "subtract_": "sub_",
    "__truediv__": "div", "__itruediv__": "div_", "true_divide": "div", "divide": "div",
    "divide_": "div_", "true_divide_": "div_", "__rdiv__": "rdiv", "__rtruediv__": "rdiv",
    "__neg__": "neg", "negative": "neg", "__matmul__": "matmul", "__rmatmul__": "rmatmul",
    "log_sigmoid": "logsigmoid", THRESHOLD: "threshold", "concat": "cat", "concatenate": "cat",
    "clip": "clamp", "special_expit": "sigmoid",
    "swapaxes": "transpose", "swapdims": "transpose", "moveaxis": "movedim",
}  # fmt: skip


class Node(NamedTuple):
    """A tensor that depends on the network's input."""

    number: int
    signal: Signal  # in the network's own layout, the samples on ``signal.axis``
    order: Tensor | None = None  # the network's own tensor has its samples permuted like this
    active: bool = True  # whether it depends on activations, and not on tokens or lengths alone


# What stands for a batch normalisation that is folded into its neighbour.
_IDENTITY = HANDLERS[nn.Identity].handler
_FOREIGN = (
    "forward changes a tensor that is not its own (a parameter, a buffer, the input) in place"
)


class _Refusal(Exception):
    """What is not supported. No TypeError: Python's operators would turn one into another."""


MakeStep = Callable[[str, Any, Entry], Step]


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
    """

    def __init__(
        self,
        network: nn.Module,
        n_samples: int,
        steps: Sequence[Step] | None = None,
        make_step: MakeStep | None = None,
    ) -> None:
        super().__init__()
        self.n_samples = n_samples
        self.steps = steps
        self.make_step = make_step
        self.records: list[Record] = []
        self.constants: list[tuple[str, Any]] = []
        self.before_heads: dict[int, Node] = {}
        self.refusal: str | None = None
        self.largest = 0
        self.n_values = 0
        self.nodes = WeakIdKeyDictionary()
        self.own: set[int] = set()  # storages made in this run
        self.used: set[int] = set()  # storages of constants that steps refer to
        self.stale: dict[int, Tensor] = {}  # storages whose values were changed in place
        self.owners = {_storage(p): name for name, p in network.named_parameters()}
        self.place: list[tuple[str, nn.Module]] = []
        self.twin = make_twin(network, "", self, {})

    # Running

    def run(self, inputs: Sequence[Signal], args: Any, kwargs: dict[str, Any]) -> Tape:
        """Run the network on ``forward(*args, **kwargs)``, in which signals stand for inputs."""
        starts = []
        tensors = {}
        for signal in inputs:
            tensor = tensors[id(signal)] = signal.x.detach()
            if self.steps is None:
                signal = replace(signal, samples=self._samples("X", tensor, 0))
            node = self._node(tensor, signal, tensor.is_floating_point())
            starts.append(node.number)
        args, kwargs = swap_signals((args, kwargs), lambda signal: tensors[id(signal)])
        try:
            with self:
                output = self.twin(*args, **kwargs)
        except Exception:
            if self.refusal is None:
                raise
        if self.refusal is not None:  # also if the network's own code caught it
            raise TypeError(self.refusal)
        if isinstance(output, tuple | list) and output:
            output = output[0]  # as skorch does
        if not isinstance(output, Tensor):
            raise TypeError(
                "The network must return a tensor of scores, (n_samples, n_outputs), or a tuple "
                f"that begins with it, got {type(output).__name__}."
            )
        node = self.nodes.get(output)
        if node is None or node.signal.x.dtype == torch.bool:
            raise ValueError(
                "The network's output does not depend on its input in any way that relevance can "
                "follow; there is nothing to explain."
            )
        if self.steps is not None and len(self.records) != len(self.steps):
            raise TypeError(str(self.other_way()))
        before, head = self._before_head(node)
        x = before.signal.x
        n_axes = (0, 1, 2) if self.n_samples == 1 else (1, 2)  # one sample may be squeezed
        if node.signal.axis or node.signal.x.dim() not in n_axes or x.numel() % self.n_samples:
            raise ValueError(
                "The network must return scores of shape (n_samples, n_outputs), got "
                f"{tuple(output.shape)} for {self.n_samples} samples; pool or flatten its output."
            )
        scores = x.reshape(self.n_samples, -1)
        try:
            self._check_stale("return", [output])
        except _Refusal as refusal:
            raise TypeError(str(refusal)) from None
        records, self.records = self.records, []
        self.nodes.clear()  # the twin and the recorder know each other: let go of all tensors
        self.before_heads.clear()
        return Tape(records, tuple(starts), before.number, x.shape, scores, head, self.largest)

    def _before_head(self, node: Node) -> tuple[Node, str | None]:
        """Return what enters a softmax or sigmoid at the end, and what is stepped over."""
        makers = {record.outputs[0]: record for record in self.records}
        record = makers.get(node.number)
        while record is not None and record.step.handler in PASSING:
            record = makers.get(record.inputs[0])
        head = None if record is None else find_head(record.step.layer)
        if record is None or head is None:
            return node, None
        before = self.before_heads[record.inputs[0]]
        same = before.signal.axis == 0 and before.signal.x.numel() == node.signal.x.numel()
        return (before, head) if same else (node, None)

    @contextmanager
    def at(self, path: str, module: nn.Module) -> Iterator[None]:
        """Note that the forward of a module is being run."""
        self.place.append((path, module))
        try:
            yield
        finally:
            self.place.pop()

    def depends(self, *values: Any) -> bool:
        """Return whether a tensor among nested values depends on the network's input."""
        return any(self.nodes.get(tensor) is not None for tensor in find_tensors(values))

    def layer(self, path: str, layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """Record a layer that has a handler, and return what its forward would."""
        entry = find_entry(layer)
        if entry is None:
            raise self._refusal(type(layer).__name__)
        if kwargs:  # handlers take the arguments by position
            bound = inspect.signature(type(layer).forward).bind(layer, *args, **kwargs)
            args = bound.args[1:]
        self._check_stale(path, list(find_tensors(args)))
        packed = args[0] if args and isinstance(args[0], PackedSequence) else None
        if packed is not None:
            args = (packed.data, *args[1:])
        out = self._apply(
            path, layer, entry, args, {}, is_layer=True, sequences=entry.kind == "recurrent"
        )
        if getattr(layer, "inplace", False):
            return self._write_back(args[0], out)
        return out if packed is None else self._pack_again(packed, out)

    # Torch's function mode

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Record a torch function, or run it as it is if it does not depend on the input."""
        kwargs = kwargs or {}
        name = _name_of(func)
        tensors = list(find_tensors((args, kwargs)))
        nodes = [node for tensor in tensors if (node := self.nodes.get(tensor)) is not None]
        if name not in _QUESTIONS:
            self._check_stale(name, tensors)
        if not nodes or name in _QUESTIONS:
            return self._plainly(func, name, tensors, args, kwargs)
        only_indices = not any(node.active for node in nodes)
        if name in _READS:
            if only_indices:
                return func(*args, **kwargs)
            raise self._refusal(
                name, "forward reads values of activations, which relevance cannot follow"
            )
        if any(node.order is not None or node.signal.lengths is not None for node in nodes):
            return self._on_sequences(func, name, args, kwargs)
        if name == "index_select" or name == "__getitem__":
            reordered = self._reorder(func, args, kwargs)
            if reordered is not None:
                return reordered
        if name == PACK:
            return self._on_sequences(func, name, args, kwargs)
        base = name.removesuffix("_") if _is_in_place(name) else name
        if "out" in kwargs:
            raise self._refusal(name, "it writes to a tensor given as out; assign its result")
        args, kwargs = _by_position(args, kwargs)
        if base in ("matmul", "mm") and args[1].dim() == 2 and not self.depends(args[1]):
            base, args = "linear", (args[0], args[1].t())
        if base == "__getitem__" and _is_table(args[0]) and self.depends(args[1]):
            base, args = "embedding", (args[1], args[0])  # rows of a table, looked up
        if base in LAYERS:
            return self._as_layer(base, name, args, kwargs)
        if base in _LIKE and not self.depends(args[0]):
            return self._plainly(func, name, tensors, args, kwargs)
        entry = HANDLERS.get(base)
        if entry is not None and entry.handler in SOURCED and not self.depends(args[:1]):
            entry = None  # it would only look something up in a constant
        if only_indices:
            if entry is not None and not _is_in_place(name):
                try:
                    return self._apply(self._path(base), func, entry, args, kwargs)
                except _Refusal:  # no relevance passes here: any function will do
                    self.refusal = None
            return self._on_indices(func, name, tensors, args, kwargs)
        if entry is None:
            raise self._refusal(name)
        if _is_in_place(name):
            target = args[0]
            if self.nodes.get(target) is None and not self._is_own(target):
                raise self._refusal(name, _FOREIGN)
            function = getattr(torch.Tensor, base)
            out = self._apply(self._path(base), function, entry, args, kwargs)
            return self._write_back(target, out)
        return self._apply(self._path(base), func, entry, args, kwargs)

    def _plainly(
        self, func: Any, name: str, tensors: list[Tensor], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        """Run a function that does not depend on the input, if it has no effect elsewhere."""
        if name.endswith("dropout"):
            return args[0] if args else kwargs["input"]
        if name in _RANDOM:
            raise self._refusal(name, "forward draws random numbers, also in evaluation mode")
        target = kwargs.get("out", tensors[0] if tensors else None)
        changes = _is_in_place(name) or name in ("__setitem__", "__set__", "__delete__")
        if (changes or "out" in kwargs) and target is not None and not self._is_own(target):
            raise self._refusal(name, _FOREIGN)
        if changes and target is not None and _storage(target) in self.used:
            fresh = target.detach().clone()  # steps keep the values that they were given
            self.stale[_storage(target)] = target.detach()
            target.data = fresh
            self.own.add(_storage(fresh))
        out = func(*args, **kwargs)
        self._claim(out, tensors)
        return out

    def _as_layer(self, base: str, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """Record a function that does what a layer does, as that layer."""
        try:
            layer, layer_args = LAYERS[base](*args, **kwargs)
        except TypeError as error:
            raise self._refusal(name, str(error)) from error
        if _is_in_place(name):
            vars(layer)["inplace"] = True
        weights = [v for v in vars(layer).values() if isinstance(v, Tensor)]
        if self.depends(weights):
            raise self._refusal(name, "its weights are computed from the network's input")
        owners = [self.owners[key] for w in weights if (key := _storage(w)) in self.owners]
        path = owners[0].removesuffix(".weight") if owners else self._path(base)
        vars(layer).update(
            {k: v.detach() for k, v in vars(layer).items() if isinstance(v, Tensor)}
        )
        self._note(path, weights)
        self.used |= set(map(_storage, weights))
        return self.layer(path, layer, layer_args, {})

    def _apply(
        self,
        name: str,
        layer: Any,
        entry: Entry,
        args: Any,
        kwargs: dict[str, Any],
        is_layer: bool = False,
        sequences: bool = False,
    ) -> Any:
        """Run a handler on the signals of the arguments, and record it as a step."""
        nodes: list[Node] = []

        def pick(value: Any) -> Any:
            if isinstance(value, Tensor):
                node = self.nodes.get(value)
                if node is None:
                    self._note(name, value)
                    self.used.add(_storage(value))
                    return value.detach()
                if not sequences and (node.order is not None or node.signal.lengths is not None):
                    raise self._refusal(name, "of a packed sequence; unpack it before")
                nodes.append(node)
                return self._first(name, layer, node.signal, entry) if is_layer else node.signal
            if isinstance(value, tuple | list):
                return rebuild(value, map(pick, value))
            if isinstance(value, dict):
                return {k: pick(v) for k, v in value.items()}
            if isinstance(value, int | float) and entry.handler in NUMERIC:
                self._note(name, torch.tensor(float(value)))
            return value

        args, kwargs = [pick(v) for v in args], {k: pick(v) for k, v in kwargs.items()}
        step = self._next_step(name, layer, entry)
        try:
            handler = _IDENTITY if step.merged else entry.handler
            outputs, pull = handler(step, *args, **kwargs)
        except (RuntimeError, IndexError) as error:
            shapes = [tuple(node.signal.x.shape) for node in nodes]
            raise ValueError(
                f"X does not fit {name!r} ({_label(layer)}), which got shapes {shapes}: {error}"
            ) from error
        except TypeError as error:
            if is_layer:
                raise
            raise self._refusal(name.rpartition(".")[2], str(error)) from error
        return self._emit(step, pull, nodes, outputs, is_layer)

    def _first(self, name: str, layer: Any, signal: Signal, entry: Entry) -> Signal:
        """Return a signal with the samples on the first axis, as handlers of layers take it."""
        if isinstance(layer, nn.Linear) and signal.axis == signal.x.dim() - 1:
            raise self._refusal(name, "it acts along the axis of the samples")
        signal = replace(signal, samples=None)
        if signal.axis == 0:
            return signal
        if not entry.any_axis and entry.kind != "recurrent":
            raise self._refusal(name, "the samples are not on the first axis; permute its input")
        return _moved(signal, signal.axis, 0)

    def _next_step(self, name: str, layer: Any, entry: Entry) -> Step:
        if self.steps is None:
            assert self.make_step is not None
            return self.make_step(name, layer, entry)
        position = len(self.records)
        if position >= len(self.steps):
            raise self.other_way()
        step = self.steps[position]
        if step.name != name or step.handler is not entry.handler:
            raise self.other_way()
        if step.layer is None:  # a function, which is not sent to another process
            step.layer = layer
        return step

    def _emit(
        self, step: Step, pull: Pull, nodes: list[Node], outputs: Any, is_layer: bool
    ) -> Any:
        """Record a step that was run, and return its outputs as the network is to see them."""
        signals = find_signals(outputs)
        input_axes = tuple(node.signal.axis for node in nodes)
        if self.steps is None:
            if is_layer:
                moved = input_axes[0] if len(signals) == 1 and len(set(input_axes)) == 1 else 0
                step.axes = tuple(signal.axis or moved for signal in signals)
            else:
                step.axes = tuple(self._find_axis(step.name, signal) for signal in signals)
        records, tensors = [], {}
        for signal, axis in zip(signals, step.axes, strict=True):
            out = _moved(replace(signal, axis=axis), 0, axis) if is_layer else signal
            if self.steps is None and (is_layer or out.samples is not None):
                out = replace(out, samples=self._samples(step.name, out.x, axis))
            tensor = out.x.detach()
            active = is_layer or any(source.active for source in nodes)
            node = self._node(tensor, replace(out, axis=axis), active)
            tensors[id(signal)] = tensor
            records.append(node.number)
        if is_layer and (any(input_axes) or any(step.axes)):
            pull = _move_pull(pull, input_axes, step.axes)
        if find_head(step.layer) is not None:
            self.before_heads[nodes[0].number] = nodes[0]
        self.records.append(
            Record(
                step,
                pull,
                tuple(node.number for node in nodes),
                tuple(records),
                input_axes,
                0 if is_layer else step.axes[0],
            )
        )
        named = getattr(torch.return_types, step.name.rpartition(".")[2], None)
        result = swap_signals(outputs, lambda signal: tensors[id(signal)])
        return named(result) if named is not None and isinstance(result, tuple) else result

    def _node(self, tensor: Tensor, signal: Signal, active: bool) -> Node:
        node = Node(self.n_values, signal, None, active)
        self.n_values += 1
        self.nodes[tensor] = node
        self.largest = max(self.largest, tensor.numel())
        return node

    # Axes of the samples

    def _samples(self, name: str, x: Tensor, axis: int) -> Tensor:
        """Return the sample that each value of ``x`` belongs to."""
        if x.shape[axis] % self.n_samples:
            raise self._refusal(name, "its output has no axis of the samples")
        one = torch.arange(self.n_samples, device=x.device, dtype=torch.double)
        one = one.repeat_interleave(x.shape[axis] // self.n_samples)
        return one.reshape(-1, *(1,) * (x.dim() - axis - 1)).expand(x.shape).contiguous()

    def _find_axis(self, name: str, signal: Signal) -> int:
        """Return the axis of the samples in the output of a function, while probing."""
        samples = signal.samples
        if samples is None:
            return signal.axis
        for axis, n in enumerate(samples.shape):
            if n and n % self.n_samples == 0:
                expected = self._samples(name, signal.x, axis)
                if bool(((samples == expected) | (samples < 0)).all()):
                    return axis
        raise self._refusal(name, "it mixes or reorders samples")

    # Packed and reordered sequences

    def _reorder(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Permute the samples, as the packing of unsorted sequences does; None if it is not that.

        The signal keeps its order; only the network's own tensor is permuted.
        """
        if func.__name__ != "index_select" or kwargs or len(args) != 3:
            return None
        source, dim, index = args
        node = self.nodes.get(source)
        if node is None or dim != node.signal.axis or len(index) != self.n_samples:
            return None
        if not torch.equal(index.sort().values, torch.arange(len(index), device=index.device)):
            return None
        order = index if node.order is None else node.order[index]
        if torch.equal(order, torch.arange(len(order), device=order.device)):
            order = None
        out = func(source, dim, index)
        self.nodes[out] = node._replace(order=order)
        return out

    def _on_sequences(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """Pack, pad or reorder sequences of unequal lengths."""
        if name == "index_select":
            out = self._reorder(func, args, kwargs)
            if out is not None:
                return out
        elif name == PACK:
            data, sizes = func(*args, **kwargs)
            source, lengths, batch_first = args
            node = self.nodes[source]
            if node.signal.axis != (0 if batch_first else 1):
                raise self._refusal(name, "the axis of the samples is not where batch_first says")
            if node.order is not None:
                given = torch.empty_like(lengths)
                given[node.order.to(lengths.device)] = lengths
                lengths = given
            self.nodes[data] = node._replace(signal=replace(node.signal, lengths=lengths))
            self.nodes[sizes] = Node(-1, Signal(sizes, True, gate=True), None, False)
            return data, sizes
        elif name == PAD_PACKED:
            padded, lengths = func(*args, **kwargs)
            data, _, batch_first = args[:3]
            node = self.nodes[data]
            axis = 0 if batch_first else 1
            self.nodes[data] = node._replace(signal=replace(node.signal, lengths=None), order=None)
            out = self._apply(
                self._path(name), None, HANDLERS[name], (data, padded.shape[1 - axis], axis), {}
            )
            self.nodes[data] = node
            if node.order is None:
                return out, lengths
            self.nodes[padded] = self.nodes[out]._replace(order=node.order)
            return padded, lengths
        raise self._refusal(name, "of a packed sequence; unpack it by pad_packed_sequence before")

    def _pack_again(self, packed: PackedSequence, out: Any) -> Any:
        """Return the output of a recurrent layer on a packed sequence."""
        states, last = out
        node = self.nodes[states]
        x, lengths = node.signal.x.movedim(node.signal.axis, 0), node.signal.lengths
        assert lengths is not None
        order = packed.sorted_indices
        if order is not None:
            x, lengths = x.index_select(0, order), lengths.to(order.device)[order]
        data = pack_padded_sequence(x, lengths.cpu(), batch_first=True).data
        self.nodes[data] = node._replace(order=order)
        return PackedSequence(data, packed.batch_sizes, order, packed.unsorted_indices), last

    # Changes in place

    def _check_stale(self, name: str, tensors: Sequence[Tensor]) -> None:
        """Refuse tensors that were changed through another view of their memory."""
        if self.stale and any(_storage(tensor) in self.stale for tensor in tensors):
            raise self._refusal(
                name, "a tensor that it uses was changed in place through a view of it"
            )

    def _claim(self, out: Any, tensors: Sequence[Tensor]) -> None:
        """Note what a function made, in memory other than that of the tensors it was given."""
        made = {_storage(tensor) for tensor in find_tensors(out)}
        if made:
            self.own |= made - {_storage(tensor) for tensor in tensors}

    def _is_own(self, tensor: Tensor) -> bool:
        return self.nodes.get(tensor) is not None or _storage(tensor) in self.own

    def _write_back(self, target: Tensor, out: Tensor) -> Tensor:
        """Let the network's own tensor hold what was computed in place of changing it."""
        if _storage(target) == _storage(out):
            return out
        node, storage = self.nodes[out], _storage(target)
        if target.shape != out.shape or target.dtype != out.dtype:
            raise self._refusal("in place", "it changes the shape or the type of a tensor")
        self.stale[storage] = target.detach()  # kept, so that its place in memory is not reused
        target.data = out
        self.nodes[target] = node
        return target

    def _on_indices(
        self, func: Any, name: str, tensors: list[Tensor], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        """Run a function of integer inputs (tokens, lengths, masks): it passes no relevance."""
        if _is_in_place(name) and not self._is_own(tensors[0]):
            raise self._refusal(name, _FOREIGN)
        out = func(*args, **kwargs)
        self._claim(out, tensors)
        for tensor in find_tensors(out):
            self.nodes[tensor] = Node(-1, Signal(tensor, gate=True), None, False)
        return out

    # Errors

    def _note(self, name: str, value: Any) -> None:
        """Remember a constant of the network, while probing: it must not depend on the input."""
        if self.steps is None:
            for tensor in find_tensors(value):
                if _storage(tensor) not in self.owners:
                    self.constants.append((name, tensor.detach().clone()))

    def _path(self, name: str) -> str:
        path = self.place[-1][0] if self.place else ""
        return f"{path}.{name}" if path else name

    def _refusal(self, name: str, why: str = "") -> _Refusal:
        path, module = self.place[-1] if self.place else ("", self.twin)
        name = name.removeprefix(f"{path}.")
        kind = type(module).__name__
        where = f"layer {path!r} ({kind})" if path else f"the network ({kind})"
        self.refusal = (
            f"Relevance through {name!r}, which the forward of {where} calls, is not supported"
            f"{': ' + why.rstrip('.') if why else ''}. Use a supported layer or function in its "
            "place (sklrp.propagation.supported() lists them), or register a handler for it with "
            "sklrp.propagation.register."
        )
        return _Refusal(self.refusal)

    def training_mode(self, path: str, module: nn.Module) -> _Refusal:
        """Return the refusal of a network that sets its own parts to training mode."""
        self.refusal = (
            f"Relevance through layer {path!r} ({type(module).__name__}) is not supported: the "
            "network's forward sets it to training mode, and layers are explained as in "
            "evaluation mode. Leave the mode to train() and eval()."
        )
        return _Refusal(self.refusal)

    def other_way(self) -> _Refusal:
        """Return the refusal of a network whose steps differ from run to run."""
        self.refusal = (
            "The network's forward takes another way for these samples than for the first: a "
            "branch or a loop in it depends on the values or the number of the samples, and "
            "relevance would not be comparable. Write it without."
        )
        return _Refusal(self.refusal)


def _name_of(func: Any) -> str:
    """Return the name of a torch function, the same for a method, a function and an operator."""
    if func in _UNFOLDING:  # Tensor.unfold is another function of the same name
        return _UNFOLDING[func]
    name = getattr(func, "__name__", type(func).__name__)
    if name == "__get__":
        name = func.__self__.__name__
    return _OPERATORS.get(name, name)


def _by_position(args: Any, kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return arguments with the tensors that torch's functions take by name among the first."""
    kwargs = dict(kwargs)
    for name in ("input", "tensors", "self", "other", "mat2"):
        if name in kwargs:
            args = (*args, kwargs.pop(name))
    return tuple(args), kwargs


def _is_table(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 2 and value.is_floating_point()


def _is_in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


def _storage(tensor: Tensor) -> int:
    """Return where the values of a tensor lie."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # of torch.vmap, sparse or quantized
        return -id(tensor)


def _moved(signal: Signal, source: int, destination: int) -> Signal:
    """Return a signal with an axis moved, where ``axis`` stays what it was."""
    if source == destination:
        return signal

    def move(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.movedim(source, destination)

    return replace(
        signal,
        x=signal.x.movedim(source, destination),
        low=move(signal.low),
        high=move(signal.high),
        seen=move(signal.seen),
    )


def _move_pull(pull: Pull, input_axes: tuple[int, ...], output_axes: tuple[int, ...]) -> Pull:
    """Let a pull of a layer, with samples first, act in the network's own layout."""

    def move(relevance: Any, axes: tuple[int, ...], inwards: bool) -> Any:
        parts = relevance if isinstance(relevance, tuple) else (relevance,)
        moved = tuple(
            r
            if r is None or not axis
            else r.movedim(*((axis + 1, 1) if inwards else (1, axis + 1)))
            for r, axis in zip(parts, axes, strict=True)
        )
        return moved if len(moved) > 1 else moved[0]

    def moved_pull(relevance: Any, kept: Any) -> Any:
        passed = pull(move(relevance, output_axes, True), kept)
        return move(passed, input_axes, False)

    return moved_pull


def _label(layer: Any) -> str:
    return str(layer) if isinstance(layer, nn.Module) else "a function"
