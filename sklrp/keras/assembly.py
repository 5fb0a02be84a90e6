"""From the graph of a Keras model to a torch network: what is called, with what, in which layout.

:func:`assemble` builds everything on torch's meta device, which has shapes and no values, so that
a file which declares more than it holds costs nothing. `.reading` compares the arrays of the file
with it, and puts them in place.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sklrp._checks import suggest
from sklrp.keras.blueprints import BUILDERS, Arrays, Blueprint, Part, Shape, builds
from sklrp.keras.keras_graph import (
    MODELS,
    TENSORFLOW_OPERATIONS,
    Call,
    Graph,
    Ref,
    find_refs,
    read_graph,
)
from sklrp.keras.keras_network import (
    KerasNetwork,
    Operation,
    channels_first,
    channels_last,
    run_part,
)
from sklrp.keras.layer_config import LayerConfig
from sklrp.keras.operations import OPERATIONS, build_operation, is_operation

_N_SAMPLES = 2
_ANY_SIZE = 128  # what stands for an axis of any size while shapes are followed
_LARGEST = 2**31  # values of one sample in one tensor
_MOST_CALLS = 100_000  # of a model with all models in it
# Arguments of calls that change nothing where the network is explained.
_IDLE_ARGUMENTS = ("training", "mask")
# Layers to which Keras 3 hands no mask where they are given initial states.
_WITH_STATES = ("Bidirectional", "GRU", "LSTM", "SimpleRNN")
# Where Keras's classes come from; files of the older format do not say it.
_MODULES = ("", "keras", "tf_keras", "tensorflow")


@dataclass(frozen=True)
class Value:
    """A tensor of the network: its number, its shape on the meta device, and its layout."""

    index: int
    meta: Tensor
    moved: bool = False
    mask: int | None = None  # the number of the mask of its steps

    @property
    def shape(self) -> Shape:
        """The shape as Keras has it."""
        shape = tuple(self.meta.shape)
        return (shape[0], *shape[2:], shape[1]) if self.moved else shape


class Built(NamedTuple):
    """A layer that was built: the names of its modules, and the masks that it was built for."""

    blueprint: Blueprint
    names: list[str]
    mask_axes: tuple[int, ...]
    mask_name: str | None


@dataclass
class Assembler:
    """The network while it is built."""

    network: KerasNetwork
    program: list[Operation] = field(default_factory=list)
    values: dict[Ref, Value] = field(default_factory=dict)
    converted: dict[int, Value] = field(default_factory=dict)
    built: dict[str, Built] = field(default_factory=dict)
    masks: dict[int, Value] = field(default_factory=dict)
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    n_values: int = 0

    def new_value(self, meta: Tensor, moved: bool = False, mask: int | None = None) -> Value:
        """Return a value with the next number."""
        self.n_values += 1
        return Value(self.n_values - 1, meta, moved, mask)

    def convert(self, value: Value, layout: str) -> Value:
        """Return a value in the layout that is asked for."""
        moved = layout == "moved" and value.meta.dim() > 2
        if layout == "any" or value.moved == moved:
            return value
        if value.index not in self.converted:
            function = channels_last if value.moved else channels_first
            other = self.new_value(function(value.meta), moved, value.mask)
            self.program.append(Operation(None, (value.index,), (other.index,), function))
            self.converted[value.index] = other
            self.converted[other.index] = value
        return self.converted[value.index]

    def run(
        self, layer: LayerConfig, name: str | None, part: Part, inputs: list[Value]
    ) -> list[Value]:
        """Add what a part of a layer does; return its outputs."""
        layouts = {value.moved for value in inputs if value.meta.dim() > 2}
        layout = part.layout
        if layout == "any":
            level = len({value.meta.dim() for value in inputs}) == 1
            layout = "moved" if level and layouts == {True} else "keras"
        inputs = [self.convert(value, layout) for value in inputs]
        moved = any(value.moved for value in inputs)
        metas = [value.meta for value in inputs]
        try:
            with torch.no_grad():
                out = run_part(part.module, metas, part.before, part.after)
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
            shapes = " and ".join(str(value.shape[1:]) for value in inputs)
            raise ValueError(
                f"The config of Keras {layer} is malformed: it does not take samples of shape "
                f"{shapes} ({_ANY_SIZE} stands for any size): {error}"
            ) from error
        for meta in out:
            if math.prod(meta.shape[1:]) > _LARGEST:
                raise ValueError(
                    f"The config of Keras {layer} is malformed: a sample of its output would have "
                    f"the shape {tuple(meta.shape[1:])}, more than {_LARGEST} values."
                )
        values = [self.new_value(meta, moved and meta.dim() > 2) for meta in out]
        self.program.append(
            Operation(
                name,
                tuple(value.index for value in inputs),
                tuple(value.index for value in values),
                part.before,
                part.after,
            )
        )
        if len(self.program) > _MOST_CALLS:
            raise ValueError(f"The file is malformed: it has more than {_MOST_CALLS} calls.")
        return values


@dataclass
class Assembled:
    """A network on the meta device, what the file must hold of it, and how it is filled."""

    network: KerasNetwork
    arrays: Arrays
    fill: Callable[[], dict[str, np.ndarray]]
    masked: tuple[bool, ...]  # which outputs have masked steps
    is_blind: bool  # whether no layer of it makes, takes or joins masks


def assemble(
    graph: Graph, version: int, is_part: bool = False, mask_axes: Sequence[int] = ()
) -> Assembled:
    """Return the network of a graph.

    Parameters
    ----------
    graph : Graph
        The graph of a model.
    version : int
        The major version of the Keras that wrote it.
    is_part : bool, default=False
        Whether the model is a layer of another.
    mask_axes : sequence of int, default=()
        The number of axes of the mask that each input brings, 0 for none.

    Returns
    -------
    Assembled
        The network, without values.

    Raises
    ------
    TypeError
        If a layer, or an option of one, is not read; the error names it.
    ValueError
        If the config is malformed.
    """
    for layer in graph.layers.values():
        if layer.kind != "InputLayer" and not is_read(layer):
            layer.refuse(f"it is none of the layers that are read.{suggest(layer.kind, BUILDERS)}")
    work = Assembler(_make_network(graph, is_part, mask_axes))
    sizes = {}
    for name in graph.inputs:
        size = [_ANY_SIZE if n is None else n for n in graph.shapes[name]]
        if math.prod(size) > _LARGEST:
            graph.layers[name].malformed(
                f"its shape {tuple(size)} has more than {_LARGEST} values."
            )
        sizes[name] = size
        meta = torch.empty(_N_SAMPLES, *size, device="meta")
        work.values[Ref(name, 0, 0)] = work.new_value(meta)
    for name, n_axes in zip(graph.inputs, mask_axes, strict=False):
        if n_axes:  # a mask stands behind the inputs
            shape = _N_SAMPLES, *sizes[name][: n_axes - 1]
            mask = work.new_value(torch.empty(shape, dtype=torch.bool, device="meta"))
            ref = Ref(name, 0, 0)
            work.masks[mask.index] = mask
            work.values[ref] = replace(work.values[ref], mask=mask.index)
    for (name, node), call in _in_order(graph):
        outputs = _add_call(work, graph.layers[name], call)
        work.values.update({Ref(name, node, k): value for k, value in enumerate(outputs)})
    missing = [ref for ref in graph.outputs if ref not in work.values]
    if missing:
        graph.layers[missing[0].layer].malformed(f"output {missing[0].tensor} of it is taken.")
    returned = [work.convert(work.values[ref], "keras") for ref in graph.outputs]
    given = [value.index for value in returned]
    if is_part:  # to the model that it is a layer of, with the masks behind the outputs
        given += [value.mask for value in returned if value.mask is not None]
    work.network.program = _prune(work.program, set(given))
    work.network.returned = tuple(given)
    built = list(work.built.values())

    def fill() -> dict[str, np.ndarray]:
        return {
            f"{made.names[0]}.{path}": value
            for made in built
            if made.blueprint.fill is not None
            for path, value in made.blueprint.fill().items()
        }

    masked = tuple(value.mask is not None for value in returned)
    is_blind = all(made.blueprint.is_blind_to_masks for made in work.built.values())
    return Assembled(work.network.eval(), _gather_arrays(graph, work), fill, masked, is_blind)


def _prune(program: list[Operation], wanted: set[int]) -> tuple[Operation, ...]:
    """Leave out what no output needs, such as masks that no layer takes."""
    kept: list[Operation] = []
    for step in reversed(program):
        if wanted & set(step.outputs):
            kept.append(step)
            wanted |= set(step.inputs)
    return tuple(reversed(kept))


def is_read(layer: LayerConfig) -> bool:
    """Return whether a layer is one that is read: of Keras, and of a class with a builder."""
    if is_operation(layer):
        return layer.kind in (*OPERATIONS, *TENSORFLOW_OPERATIONS)
    return layer.kind in BUILDERS and layer.module.split(".")[0] in _MODULES


def _make_network(graph: Graph, is_part: bool, mask_axes: Sequence[int]) -> KerasNetwork:
    """Return the network without layers; masks are inputs of their own."""
    names: list[str] = []
    for k, ref in enumerate(graph.outputs):
        name = graph.output_keys[k] if graph.output_keys else ref.layer
        while name in names:  # an output that is returned twice, or the second of a layer
            name += "_"
        names.append(name)
    form = "one" if len(graph.outputs) == 1 else "tuple"
    form = "dict" if graph.output_keys else form
    shapes = [graph.shapes[name] for name in graph.inputs]
    inputs = list(graph.input_keys or graph.inputs)
    for name, n_axes in zip(graph.inputs, mask_axes, strict=False):
        if n_axes:
            shapes.append(graph.shapes[name][: n_axes - 1])
            inputs.append(f"mask {len(inputs)} of {name}")
    return KerasNetwork(inputs, shapes, names, "parts" if is_part else form)


def _in_order(graph: Graph) -> list[tuple[tuple[str, int], Call]]:
    """Return the calls, each behind those whose outputs it takes."""
    waiting = dict(graph.calls)
    done = {(name, 0) for name in graph.inputs}
    order = []
    while waiting:
        ready = [
            key for key, call in waiting.items()
            if all((ref.layer, ref.node) in done for ref in find_refs(call))
        ]  # fmt: skip
        if not ready:
            name = next(iter(waiting))[0]
            graph.layers[name].malformed("its calls wait for one another.")
        for key in ready:
            order.append((key, waiting.pop(key)))
        done.update(ready)
    return order


def _add_call(work: Assembler, layer: LayerConfig, call: Call) -> list[Value]:
    """Add a call of a layer, which is built at the first; return its outputs."""
    inputs = _take_given_masks(work, layer, call, _take_inputs(work, layer, call))
    has_states = layer.kind in _WITH_STATES and len(inputs) > 1
    takes = layer.version < 3 or not has_states or isinstance(call.others.get("mask"), Ref)
    axes = tuple(
        0 if value.mask is None or not takes else work.masks[value.mask].meta.dim()
        for value in inputs
    )
    key = layer.name
    if is_operation(layer):  # of which each call has constants of its own
        key = f"{layer.name}:{len(work.built)}"
    if key not in work.built:
        layer.mask_axes = axes
        work.built[key] = _build_call(work, layer, call, inputs)
    built = work.built[key]
    blueprint, way = built.blueprint, built.blueprint.masks
    masks = [work.masks[value.mask] for value in inputs if value.mask is not None]
    if masks and (way == "refuse" or (inputs[0].mask is None and way.startswith(("use", "keep")))):
        layer.refuse("its input has masked steps (Masking, or an Embedding with mask_zero).")
    if axes != built.mask_axes and way.startswith(("use", "all", "join")):
        layer.refuse(
            "it is called with masked steps and without; call it with both alike, or build a "
            "second layer with its weights."
        )
    values = [*inputs, *masks] if any(axes) and way.startswith(("use", "all")) else inputs
    for name, part in zip(built.names, blueprint.parts, strict=True):
        values = work.run(layer, name, part, values)
    if blueprint.returns is not None:  # masks stand behind the outputs
        n = len(blueprint.returns)
        found = iter(values[n:])
        return [
            _with_mask(work, value, next(found) if masked else None)
            for value, masked in zip(values[:n], blueprint.returns, strict=True)
        ]
    made = masks[0] if way.endswith("keep") and masks else None
    if built.mask_name is not None and blueprint.mask is not None:
        taken = [*inputs, *masks] if way in ("all", "join") else inputs[:1]
        (made,) = work.run(layer, built.mask_name, Part(blueprint.mask), taken)
    n = len(values) if blueprint.n_masked is None else blueprint.n_masked
    return [_with_mask(work, v, made if k < n else None) for k, v in enumerate(values)]


def _with_mask(work: Assembler, value: Value, mask: Value | None) -> Value:
    """Return a value with a mask of its steps, or with none."""
    if mask is not None:
        work.masks[mask.index] = mask
    return replace(value, mask=None if mask is None else mask.index)


def _take_given_masks(
    work: Assembler, layer: LayerConfig, call: Call, inputs: list[Value]
) -> list[Value]:
    """Return inputs with the masks that a call names, as Keras 3 writes them down."""
    given = call.others.get("mask")
    refs = given if isinstance(given, list) and len(given) == len(inputs) else [given]
    inputs = list(inputs)
    for k, ref in enumerate(refs):
        if isinstance(ref, Ref):
            value = work.values.get(ref)
            if value is None or value.shape != inputs[k].shape[: len(value.shape)]:
                layer.refuse(f"its mask, {ref.layer!r}, is none of steps.")
            inputs[k] = _with_mask(work, inputs[k], value)
    return inputs


def _build_call(work: Assembler, layer: LayerConfig, call: Call, inputs: list[Value]) -> Built:
    """Build a layer at its first call, or a call of an operation."""
    if is_operation(layer):
        blueprint = build_operation(layer, call.args, call.others)
    else:
        blueprint = build(layer, [value.shape for value in inputs])
    if layer.call_options:
        layer.refuse(f"it is called with {layer.call_options}.")
    put = work.network.put
    names = [put(f"{layer.name}{part.suffix}", part.module) for part in blueprint.parts]
    mask = None if blueprint.mask is None else put(f"{layer.name}_mask", blueprint.mask)
    return Built(blueprint, names, layer.mask_axes, mask)


def _take_inputs(work: Assembler, layer: LayerConfig, call: Call) -> list[Value]:
    """Return the values that a call takes."""
    if is_operation(layer):
        given = [value for value in call.inputs if isinstance(value, Ref)]
        others: dict[str, Any] = {}
    else:
        given, others = [value for value in call.inputs if value is not None], call.others
    # The inputs of an attention, in its own order: a file has them in that of the call.
    named = [name for name in ("query", "value", "key") if isinstance(others.get(name), Ref)]
    given += [others[name] for name in named]
    options = {}
    for name, value in others.items():
        if name in named:
            continue
        if name == "initial_state" and value is not None:
            given += value if isinstance(value, list) else [value]
        elif name not in _IDLE_ARGUMENTS and value is not None and value is not False:
            options[name] = value
    if layer.name in work.built and options != work.options[layer.name]:
        layer.refuse(f"it is called in two ways, with {work.options[layer.name]} and {options}.")
    work.options[layer.name], layer.call_options = options, dict(options)
    for value in given:
        if not isinstance(value, Ref):
            layer.refuse(f"it is called with {value!r}, which is no output of a layer.")
        if value not in work.values:
            layer.malformed(f"it takes output {value.tensor} of {value.layer!r}, not there.")
    if not given:
        layer.malformed("a call of it takes nothing.")
    return [work.values[value] for value in given]


def build(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    """Return the blueprint of a layer, on the meta device.

    Parameters
    ----------
    layer : LayerConfig
        Its config.
    shapes : list of tuple of int
        The shapes of its inputs, as Keras has them.

    Returns
    -------
    Blueprint
        What it becomes.
    """
    with torch.device("meta"):
        blueprint = BUILDERS[layer.kind](layer, shapes)
    layer.finish()
    return blueprint


@builds(*MODELS)
def _build_model(layer: LayerConfig, shapes: list[Shape]) -> Blueprint:
    """A model in a model."""
    graph = read_graph(layer)
    if len(graph.inputs) != len(shapes):
        layer.malformed(f"it has {len(graph.inputs)} inputs, and {len(shapes)} are given.")
    made = assemble(graph, layer.version, is_part=True, mask_axes=layer.mask_axes)
    layer.ignore(*layer.options)
    return Blueprint([Part(made.network)], made.arrays, made.fill, "all", returns=made.masked)


def _gather_arrays(graph: Graph, work: Assembler) -> Arrays:
    """Return the arrays of the layers, by the names of the groups in which Keras 3 keeps them."""
    used: Counter[str] = Counter()
    children = {}
    for layer in graph.layers.values():
        if is_operation(layer):
            continue  # an operation, which is none of the model's layers
        name = group_name(layer.kind)
        used[name] += 1
        name = name if used[name] == 1 else f"{name}_{used[name] - 1}"
        built = work.built.get(layer.name)
        arrays = Arrays() if built is None else built.blueprint.arrays
        arrays.name, arrays.twin = layer.name, layer.twin
        arrays.trainable = layer.options.get("trainable") is not False
        children[f"layers/{name}"] = arrays
    return Arrays((), children)


def group_name(kind: str) -> str:
    """Return the name that Keras gives to the group of a layer of a class."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", kind))
    name = re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
    return "functional" if name == "model" else name
