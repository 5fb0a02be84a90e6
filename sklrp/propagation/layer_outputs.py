"""The relevance that arrives at the outputs of named layers, while it is on its way to the input.

:mod:`.run` reads the names by :func:`read_layers`, and joins the chunks in :class:`LayerArrays`.
:mod:`.chunk` finds on the tape which values these layers returned by :func:`find_values`, and lets
a :class:`Listener` copy what arrives there. The recorder, and the plan of a chain, note on the
tape what a watched module returned.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sklrp._checks import check_representable, suggest
from sklrp._torch import get_children, unwrap_compiled
from sklrp._wording import say_value
from sklrp.propagation.registry import find_entry, is_plain_sequence
from sklrp.propagation.sample_rows import count_runs
from sklrp.propagation.tape import Record, Returned, Step, Tape

# A layer's name, which of its calls, from 1, and which of the tensors that it returns, from 0.
_FORM = re.compile(r"(?P<layer>.*?)(?:#(?P<call>\d+))?(?:\[(?P<part>\d+)\])?")
_MOST_NAMES = 60  # in an error
# Why what a module returns has no relevance of its own.
CONSTANT = Returned(None, "does not depend on X")
INTEGERS = Returned(None, "holds integers or booleans, to which no relevance goes")
PASSED_ON = Returned(None, "is its input as it is; ask for the layer before it")


class AskedLayer(NamedTuple):
    """A layer whose relevance is asked for."""

    name: str  # as it was given
    paths: tuple[str, ...]  # of the layer: its own, and that of its first place if it has several
    call: int | None
    part: int | None
    inside: str  # the layer that runs it out of sight, "" if there is none


def read_layers(layers: Any, network: nn.Module) -> tuple[AskedLayer, ...]:
    """Return the layers that are asked for, () for None.

    Parameters
    ----------
    layers : list of str or None
        Names of modules as in ``network.named_modules()``; ``"name#2"`` is the second call of one,
        ``"name[1]"`` the second tensor that it returns.
    network : nn.Module
        The network.

    Returns
    -------
    tuple of AskedLayer
        The layers, each name once.

    Raises
    ------
    ValueError
        If this is no list of names, or a name is unknown.
    """
    if layers is None:
        return ()
    is_list = isinstance(layers, list | tuple | set | frozenset)
    if not is_list or not all(isinstance(name, str) for name in layers):
        raise ValueError(
            "layers must be None or a list of the names of layers, such as ['conv1', 'conv2'], "
            f"got {say_value(layers)}."
        )
    modules, places = _list_modules(network)
    return tuple(_read_layer(name, modules, places) for name in dict.fromkeys(layers))


def _list_modules(network: nn.Module) -> tuple[dict[str, nn.Module], dict[int, str]]:
    """Return the modules by name, and the first name of each by its identity."""
    # `named_modules` leaves out what is there for the second time, and names wrappers.
    modules: dict[str, nn.Module] = {}
    places: dict[int, str] = {}

    def walk(module: Any, name: str, above: tuple[int, ...]) -> None:
        module = unwrap_compiled(module)
        if module is None or id(module) in above:
            return
        modules[name] = module
        places.setdefault(id(module), name)
        for own, child in get_children(module).items():
            walk(child, f"{name}.{own}" if name else own, (*above, id(module)))

    walk(network, "", ())
    return modules, places


def _read_layer(
    name: str, modules: dict[str, nn.Module], places: dict[int, str]
) -> AskedLayer:  # fmt: skip
    """Return the layer that a name is of."""
    found: Any = _FORM.fullmatch(name)
    path, call, part = (name, None, None) if name in modules else found.groups()
    if path not in modules:
        known = [known for known in modules if known]
        listed = ", ".join(map(repr, known[:_MOST_NAMES]))
        more = f" and {len(known) - _MOST_NAMES} more" if len(known) > _MOST_NAMES else ""
        raise ValueError(
            f"layers has the unknown name {name!r}.{suggest(path, known)} The layers of the "
            f"network are {listed}{more}."
        )
    above = [path.rsplit(".", k)[0] for k in range(path.count("."), 0, -1)]
    above = [""] * bool(path) + above  # from the network inwards
    return AskedLayer(
        name,
        tuple(dict.fromkeys([path, places[id(modules[path])]])),
        None if call is None else int(call),
        None if part is None else int(part),
        next((one for one in above if find_entry(modules[one]) is not None), ""),
    )


class Value(NamedTuple):
    """A value of the tape that stands under a name."""

    name: str
    number: int
    shape: torch.Size
    axis: int  # of the samples


def behind_head(head: str) -> Returned:
    """Say of an output that it is none of the network's scores."""
    return Returned(
        None,
        f"lies behind the {head} at the end, which is stepped over: relevance starts at the "
        "scores before it; ask for the layer before it",
    )


def of_neighbour(one: str, other: str) -> Returned:
    """Say of the output of a layer that it is another's, as the two are folded into one."""
    return Returned(
        None,
        f"has no relevance of its own: batch normalisation is folded in, so that {one!r} and "
        f"{other!r} are one layer; ask for {other!r}",
    )


def find_ends(
    network: nn.Module, steps: Sequence[Step], n_leaves: int, head: str | None
) -> dict[str, int | Returned]:
    """Return for each module of a chain the step whose outputs it returns, or why there is none.

    Parameters
    ----------
    network : nn.Module
        A nested ``nn.Sequential``.
    steps : list of Step
        Its steps; batch normalisations have none where they are folded into a neighbour.
    n_leaves : int
        How many of its layers are explained; what follows is stepped over.
    head : str or None
        The layer at the end that is stepped over; None if what follows passes its input on.

    Returns
    -------
    dict of str to int or Returned
        By path.
    """
    leaves: list[str] = []
    ends: dict[str, int | Returned] = {}
    positions = {step.output_of or step.name: k for k, step in enumerate(steps)}
    neighbours = {step.name: step.output_of for step in steps if step.output_of}

    def walk(module: nn.Module, path: str) -> None:
        if is_plain_sequence(module):
            for name, child in get_children(module).items():
                if child is not None:
                    walk(child, f"{path}.{name}" if path else name)
        else:
            leaves.append(path)
        n_before[path] = len(leaves)

    n_before: dict[str, int] = {}
    walk(network, "")
    for path, n in n_before.items():
        last = leaves[min(n, n_leaves) - 1]
        if n == 0:
            ends[path] = PASSED_ON
        elif n > n_leaves and head is not None:
            ends[path] = behind_head(head)
        elif last in positions:
            ends[path] = positions[last]
        else:  # a normalisation that is folded into the layer after it, or a layer before one
            after = neighbours.get(last) or leaves[leaves.index(last) + 1]
            ends[path] = of_neighbour(last, after)
    return ends


def find_values(asked: Sequence[AskedLayer], tape: Tape) -> list[Value]:
    """Return the values of a tape that the layers returned.

    Of a layer that returns several tensors the first has the layer's name, the others that name
    with its number in brackets.

    Parameters
    ----------
    asked : sequence of AskedLayer
        The layers.
    tape : Tape
        A run in which they were watched.

    Returns
    -------
    list of Value
        The values, in the order of the layers.

    Raises
    ------
    ValueError
        If the network does not call a layer, or calls it several times and the name does not say
        which is meant; or if relevance has no value for what it returns.
    """
    shapes = {
        number: (shape, axis)
        for record in tape.records
        for number, shape, axis in zip(
            record.outputs, record.shapes, record.output_axes, strict=True
        )
    }
    values = []
    for layer in asked:
        returned = _choose_call(layer, tape)
        if layer.part is not None:
            if layer.part >= len(returned):
                raise _refuse(layer, f"returns {_count(returned, 'tensor')}; they count from 0")
            returned = returned[layer.part : layer.part + 1]
        if not returned:
            raise _refuse(layer, "returns no tensor")
        if returned[0].number is None:
            raise ValueError(f"layers names {layer.name!r}, whose output {returned[0].why}.")
        for k, one in enumerate(returned):
            if one.number is not None:
                name = f"{layer.name}[{k}]" if k else layer.name
                values.append(Value(name, one.number, *shapes[one.number]))
    return values


def _choose_call(layer: AskedLayer, tape: Tape) -> Sequence[Returned]:
    """Return what a layer returned at the call that is meant."""
    noted = tape.calls or {}
    calls = next((noted[path] for path in layer.paths if path in noted), [])
    if not calls and layer.inside:
        raise _refuse(
            layer, f"is a part of {layer.inside!r}, which is one layer to relevance; ask for that"
        )
    if not calls:
        raise _refuse(
            layer,
            "the network's forward does not call; ask for layers in it, or the one around it",
        )
    if layer.call is None and len(calls) > 1:
        names = ", ".join(repr(f"{layer.name}#{k}") for k in range(1, len(calls) + 1))
        raise _refuse(layer, f"is called {_count(calls, 'time')}; say which is meant, of {names}")
    call = 1 if layer.call is None else layer.call
    if not 1 <= call <= len(calls):
        raise _refuse(layer, f"is called {_count(calls, 'time')}; calls count from 1")
    return calls[call - 1]


def _count(things: Sequence[Any], name: str) -> str:
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"


def _refuse(layer: AskedLayer, why: str) -> ValueError:
    return ValueError(f"layers names {layer.name!r}, which {why}.")


class Listener:
    """What copies the relevance that arrives at values, chunk by chunk.

    Parameters
    ----------
    values : list of Value
        The values.
    n_targets, n_samples : int
        The number of targets, and of samples of the chunk.
    """

    def __init__(self, values: Sequence[Value], n_targets: int, n_samples: int) -> None:
        self.values, self.n_targets, self.n_samples = values, n_targets, n_samples
        self._axes = {value.number: value.axis for value in values}
        self._found: dict[int, NDArray] = {}

    def note(self, record: Record, arrived: Sequence[Any], passed: Any, kept: Any) -> None:
        """Copy what arrived at a record's outputs: pulls may compute on in its place."""
        for number, relevance in zip(record.outputs, arrived, strict=True):
            if relevance is not None and number in self._axes:
                found = self._samples_first(relevance, self._axes[number])
                self._found[number] = np.array(found.cpu().numpy())

    def arrays(self) -> dict[str, NDArray]:
        """Return the relevance by name, targets and samples first; zeros where none arrived."""
        return {value.name: self._array_of(value) for value in self.values}

    def _array_of(self, value: Value) -> NDArray:
        if value.number in self._found:
            return self._found[value.number]
        nothing = torch.zeros(()).expand(self.n_targets, *value.shape)
        return np.zeros(self._samples_first(nothing, value.axis).shape)

    def _samples_first(self, relevance: Tensor, axis: int) -> Tensor:
        if relevance.dim() > 1:
            relevance = relevance.movedim(axis + 1, 1)
        rest = relevance.shape[2:]
        # The axis of the samples may be longer, with the parts of a sample side by side.
        n_parts = relevance[:1].numel() // (self.n_samples * max(1, rest.numel()))
        if count_runs(axis) > 1:  # or all samples come repeatedly
            runs = relevance.unflatten(1, (count_runs(axis), self.n_samples, -1))
            relevance = runs.transpose(1, 2)
        parts = () if n_parts == 1 else (n_parts,)
        return relevance.reshape(len(relevance), self.n_samples, *parts, *rest)


class LayerArrays:
    """The relevance of all samples at the outputs of layers, filled in chunk by chunk.

    Parameters
    ----------
    n_samples : int
        The number of all samples.
    every : bool
        Whether every output is explained, which adds an axis after the first.
    dtype : dtype
        The dtype of the arrays.
    """

    def __init__(self, n_samples: int, every: bool, dtype: Any) -> None:
        self.n_samples, self.every, self.dtype = n_samples, every, np.dtype(dtype)
        self.by_name: dict[str, NDArray] = {}

    def put(self, span: slice, arrays: dict[str, NDArray]) -> None:
        """Write the relevance of a chunk where it belongs."""
        for name, found in arrays.items():
            found = np.moveaxis(found, 0, 1) if self.every else found[0]
            if self.dtype == np.float16:
                check_representable(found, self.dtype, float(np.finfo(self.dtype).max))
            if name not in self.by_name:
                self.by_name[name] = np.empty((self.n_samples, *found.shape[1:]), self.dtype)
            if self.by_name[name].shape[1:] != found.shape[1:]:
                raise ValueError(
                    f"layers names {name!r}, whose output has the shape {found.shape[1:]} for one "
                    f"batch and {self.by_name[name].shape[1:]} for another; explain all at once, "
                    "batch_size=len(X), or ask for a layer before what depends on the batch."
                )
            self.by_name[name][span] = found
