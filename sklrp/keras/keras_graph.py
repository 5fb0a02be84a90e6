"""The graph of a Keras model, as its file has it: layers, their calls, inputs and outputs.

:func:`read_graph` reads a sequential or a functional model, in the forms that Keras 2 and Keras 3
write; `.assembly` makes a network of it. Nothing of a config is believed before it is checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sklrp._checks import suggest
from sklrp.keras.layer_config import LayerConfig, known_shape, read_layer

MODELS = ("Sequential", "Functional", "Model")
TENSORFLOW_OPERATIONS = ("TFOpLambda", "SlicingOpLambda")  # as Keras 2 writes x + y and x[:, 0]
JOINS = ("concat", "stack")
_LARGEST = 100_000  # layers and calls, of a model


class Ref(NamedTuple):
    """An output of a call of a layer."""

    layer: str
    node: int
    tensor: int


@dataclass
class Call:
    """A call of a layer: its arguments by position and by name, a Ref for each tensor."""

    layer: str
    args: list[Any]
    others: dict[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> list[Any]:
        """The arguments by position, without the lists around them."""
        return list(_flat_values(self.args))


@dataclass
class Graph:
    """A model: its layers and calls in order, the names of its inputs, and its outputs."""

    name: str
    layers: dict[str, LayerConfig]
    calls: dict[tuple[str, int], Call]
    inputs: list[str]
    outputs: list[Ref]
    shapes: dict[str, tuple[int | None, ...]]
    output_keys: list[str] | None = None
    input_keys: list[str] | None = None


def read_graph(model: LayerConfig) -> Graph:
    """Return the graph of a model from its config.

    Parameters
    ----------
    model : LayerConfig
        The config of a sequential or functional model.

    Returns
    -------
    Graph
        The graph.

    Raises
    ------
    TypeError
        If it is a model of another kind.
    ValueError
        If the config is malformed.
    """
    if model.kind not in MODELS or not isinstance(model.options.get("layers"), list):
        raise TypeError(
            f"Keras model {model.name!r} of class {model.kind} is not supported: a sequential or "
            "functional model is read, whose file says what its layers are; a subclass of Model "
            "keeps that in its code. Build the same layers with keras.Sequential or "
            "keras.Model(inputs, outputs) and save that."
        )
    found = model.options["layers"]
    if not 0 < len(found) <= _LARGEST:
        model.malformed(f"it has {len(found)} layers.")
    layers = [read_layer(v, model.version, f"a layer of {model}") for v in found]
    names = [layer.name for layer in layers]
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        model.malformed(f"it has two layers of the name {double!r}.")
    if model.kind == "Sequential":
        return _read_sequential(model, layers)
    return _read_functional(model, layers, found)


def _read_sequential(model: LayerConfig, layers: list[LayerConfig]) -> Graph:
    first = layers[0]
    given = first.options.get("batch_shape", first.options.get("batch_input_shape"))
    if given is None and first.kind != "InputLayer":
        given = model.options.get("build_input_shape")
    if given is None and first.kind in MODELS:
        inner = read_graph(first)
        given = None if len(inner.inputs) != 1 else [None, *inner.shapes[inner.inputs[0]]]
    shape = known_shape(given) if isinstance(given, list | tuple) else None
    if shape is None:
        raise ValueError(
            f"Keras model {model.name!r} does not say the shape of its input ({given!r}); build "
            "it before it is saved, with keras.Input(shape) as its first layer."
        )
    if first.kind == "InputLayer":
        start, rest = first, layers[1:]
    else:
        name = "input"
        while any(layer.name == name for layer in layers):
            name += "_"
        start, rest = LayerConfig("InputLayer", {"name": name}, version=model.version), layers
    ref = Ref(start.name, 0, 0)
    calls = {}
    for layer in rest:
        calls[layer.name, 0] = Call(layer.name, [ref])
        ref = Ref(layer.name, 0, 0)
    return Graph(
        model.name, {layer.name: layer for layer in [start, *rest]}, calls, [start.name], [ref],
        {start.name: shape[1:]},
    )  # fmt: skip


def _read_functional(model: LayerConfig, layers: list[LayerConfig], found: list[Any]) -> Graph:
    by_name = {layer.name: layer for layer in layers}
    calls: dict[tuple[str, int], Call] = {}
    shapes = {}
    for layer, value in zip(layers, found, strict=True):
        if layer.kind == "InputLayer":
            given = layer.options.get("batch_shape", layer.options.get("batch_input_shape"))
            shape = known_shape(given) if isinstance(given, list | tuple) else None
            if shape is None:
                layer.malformed(f"its shape is {given!r}.")
            shapes[layer.name] = shape[1:]
        nodes = value.get("inbound_nodes")
        if not isinstance(nodes, list) or len(nodes) > _LARGEST:
            layer.malformed("inbound_nodes must be a list of its calls.")
        for k, node in enumerate(nodes):
            calls[layer.name, k] = _read_node(layer, node)
    inputs, input_keys = _read_ends(model, "input_layers")
    outputs, output_keys = _read_ends(model, "output_layers")
    new = any(isinstance(n, Mapping) and "args" in n for v in found for n in v["inbound_nodes"])
    outputs = _count_from_zero(layers, calls, outputs, new)
    graph = Graph(
        model.name, by_name, calls, [ref.layer for ref in inputs], outputs, shapes, output_keys,
        input_keys,
    )  # fmt: skip
    for ref in [*outputs, *inputs, *(ref for call in calls.values() for ref in find_refs(call))]:
        is_input = ref.layer in shapes and ref.node == 0
        if not is_input and (ref.layer, ref.node) not in calls:
            model.malformed(
                f"call {ref.node} of layer {ref.layer!r} is taken, but not there."
                f"{suggest(ref.layer, by_name)}"
            )
    if not set(graph.inputs) <= set(shapes) or not inputs or not outputs:
        model.malformed("input_layers and output_layers must name its inputs and outputs.")
    return graph


def _read_node(layer: LayerConfig, node: Any) -> Call:
    """Return a call, in the form of Keras 3 (arguments) or of Keras 2 (a list of tensors)."""
    if isinstance(node, Mapping) and isinstance(node.get("args"), list):
        named = node.get("kwargs", {})
        if not isinstance(named, Mapping):
            layer.malformed("the arguments of its call.")
        args = [_take_refs(value) for value in node["args"]]
        more = {name: _take_refs(value) for name, value in named.items()}
        return Call(layer.name, args, more)
    if not isinstance(node, list | Mapping):
        layer.malformed("inbound_nodes must hold lists of tensors.")
    tensors = node if isinstance(node, list) else [node[key] for key in sorted(node)]
    if tensors and isinstance(tensors[0], str):  # one tensor without a list around it
        tensors = [tensors]
    inputs: list[Any] = []
    others: dict[str, Any] = {}
    for value in tensors:
        if isinstance(value, list) and len(value) > 2 and value[0] == "_CONSTANT_VALUE":
            inputs.append(value[2])
        elif (ref := _as_ref(value)) is not None:
            inputs.append(ref)
        else:
            layer.malformed(f"its call takes {value!r}.")
        if len(value) > 3 and isinstance(value[3], Mapping):
            others |= {name: _take_legacy_refs(v) for name, v in value[3].items()}
    if layer.kind in TENSORFLOW_OPERATIONS:  # their other operand has a name
        args = [inputs] if tensors is node and layer.options.get("function") in JOINS else inputs
        args += [others.pop(name) for name in ("y", "slice_spec") if name in others]
        return Call(layer.name, args, others)
    return Call(layer.name, inputs, others)


def _as_ref(value: Any) -> Ref | None:
    """Return the output that [layer, node, tensor] names, None for another value."""
    if (
        isinstance(value, list | tuple)
        and 3 <= len(value) <= 4
        and isinstance(value[0], str)
        and all(type(v) is int and v >= 0 for v in value[1:3])
    ):
        return Ref(value[0], value[1], value[2])
    return None


def _take_refs(value: Any) -> Any:
    """Return the arguments of a call with a Ref in place of each tensor, as Keras 3 has them."""
    if isinstance(value, Mapping):
        found = value.get("config")
        if value.get("class_name") == "__keras_tensor__" and isinstance(found, Mapping):
            ref = _as_ref(found.get("keras_history"))
            if ref is None:
                raise ValueError(f"The file is malformed: a call takes {found!r}.")
            return ref
        if value.get("class_name") in ("__tuple__", "__list__"):
            return _take_refs(value.get("items", found))
        return {key: _take_refs(v) for key, v in value.items()}
    if isinstance(value, list | tuple) and not isinstance(value, Ref):
        return [_take_refs(v) for v in value]
    return value


def _take_legacy_refs(value: Any) -> Any:
    """Return an argument of a call of Keras 2, where a list may name a tensor."""
    ref = _as_ref(value)
    if ref is not None:
        return ref
    return [_take_legacy_refs(v) for v in value] if isinstance(value, list) else value


def _flat_values(value: Any) -> Iterator[Any]:
    """Yield the values in nested lists and dicts of tensors."""
    if isinstance(value, Sequence) and not isinstance(value, str | Ref):
        for v in value:
            yield from _flat_values(v)
    elif isinstance(value, Mapping) and any(isinstance(v, Ref) for v in value.values()):
        for key in sorted(value):
            yield from _flat_values(value[key])
    else:
        yield value


def _count_from_zero(
    layers: list[LayerConfig], calls: dict[tuple[str, int], Call], outputs: list[Ref], new: bool
) -> list[Ref]:
    """Count the calls of models in a model from 0; return the outputs, counted so.

    Keras 2 counts from 1 where a model was made with its input, as that was a call too. Keras 3
    counts from 0, but from 1 where an output of a functional model is one of the whole.
    """
    taken: dict[str, set[int]] = {}
    for ref in [*outputs, *(ref for call in calls.values() for ref in find_refs(call))]:
        taken.setdefault(ref.layer, set()).add(ref.node)

    def is_late(layer: LayerConfig) -> bool:
        if new:
            return layer.kind != "Sequential"
        return layer.name in taken and (layer.name, max(taken[layer.name])) not in calls

    late = {layer.name for layer in layers if layer.kind in MODELS and is_late(layer)}

    def shift(value: Any) -> Any:
        if isinstance(value, Ref):
            return value._replace(node=value.node - 1) if value.layer in late else value
        return [shift(v) for v in value] if isinstance(value, list) else value

    for call in () if new else calls.values():
        call.args = shift(call.args)
        call.others = {name: shift(value) for name, value in call.others.items()}
    return [shift(ref) for ref in outputs]


def find_refs(call: Call) -> Iterator[Ref]:
    """Yield the outputs of layers that a call takes."""
    for value in [call.args, *call.others.values()]:
        yield from (v for v in _flat_values(value) if isinstance(v, Ref))


def _read_ends(model: LayerConfig, option: str) -> tuple[list[Ref], list[str] | None]:
    """Return the inputs or the outputs of a model, and their keys if it has a dict of them."""
    value = model.options.get(option)
    keys = None
    if isinstance(value, Mapping):
        keys = sorted(value)
        value = [value[key] for key in keys]
    if _as_ref(value) is not None:
        value = [value]
    refs = [_as_ref(v) for v in value] if isinstance(value, list) else [None]
    if None in refs:
        raise TypeError(
            f"Keras model {model.name!r} is not supported: its {option} are nested, {value!r}; a "
            "list or a dict of them is read."
        )
    return [ref for ref in refs if ref is not None], keys
