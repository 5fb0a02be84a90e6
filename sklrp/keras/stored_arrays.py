"""The arrays in a Keras file, found and compared with what the layers want before they are read.

`.reading` calls :func:`read_arrays` with what `.assembly` expects. Keras 3 keeps arrays by the
path of the layer and their number, the older format by the layer's name and a list of their names.
An array is read only if it has the shape that the config says, and if the file has its bytes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from sklrp.keras.blueprints import Arrays, Variable

_DEEPEST, _MOST = 100, 1_000_000  # groups in groups, and objects
# What optimisers, metrics and random numbers keep beside the layers' weights.
_BESIDE = ("seed_generator", "random_generator", "optimizer")
# Keras does not always write which layers are one, and cannot load such a file either.
_ONCE = (
    " Keras writes the arrays of a layer that stands in several models once: save such a model as "
    ".h5."
)
_TOLD_APART = ("gamma", "beta", "moving_mean", "moving_variance")  # of one shape


def read_arrays(file: Any, wanted: Arrays) -> type[np.floating[Any]]:
    """Read the values of all variables of a model.

    Parameters
    ----------
    file : h5py.File
        The file.
    wanted : Arrays
        The variables of the model; their values are set.

    Returns
    -------
    type
        The dtype of all: float64, or float32 of what is smaller.

    Raises
    ------
    ValueError
        If the file does not hold what the config of the model declares.
    """
    found = dict(_find_datasets(file))
    root = "model_weights/" if "model_weights" in file else ""
    place = file[root.rstrip("/")] if root else file
    if "layer_names" in place.attrs or "layer_names0" in place.attrs:
        pairs = list(_match_by_name(place, root, found, wanted))
    else:
        pairs = list(_match_by_path(found, wanted))
    for path, variable in pairs:
        _check_dataset(path, found[path], variable)
    doubles = {found[path].dtype.itemsize == 8 for path, v in pairs if v.name != "count"}
    if len(doubles) > 1:
        raise ValueError(
            "The file holds arrays of float64 beside smaller ones; a network is read whose layers "
            "have one dtype."
        )
    dtype = np.float64 if True in doubles else np.float32
    for path, variable in pairs:
        variable.value = np.asarray(found[path][()], dtype)
    return dtype


def _find_datasets(file: Any) -> Iterator[tuple[str, Any]]:
    """Yield the path of each array in the file, and the array; refuse links to elsewhere."""
    import h5py

    seen: set[Any] = set()

    def walk(group: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
        for name in group:
            link, where = group.get(name, getlink=True), f"{path}{name}"
            if not isinstance(link, h5py.HardLink):
                raise ValueError(f"The file is not one of Keras: {where!r} is a link.")
            item = group[name]
            if isinstance(item, h5py.Dataset):
                yield where, item
                continue
            address = h5py.h5o.get_info(item.id).addr
            if address in seen or depth > _DEEPEST or len(seen) > _MOST:
                raise ValueError(
                    f"The file is not one of Keras: the group {where!r} is in itself."
                )
            seen.add(address)
            if isinstance(item, h5py.Group):
                yield from walk(item, f"{where}/", depth + 1)

    yield from walk(file, "", 0)


def _match_by_path(found: dict[str, Any], wanted: Arrays) -> Iterator[tuple[str, Variable]]:
    """Yield the path of each variable, in the format of Keras 3."""
    layers = "layers/"
    if any(path.startswith("_layer_checkpoint_dependencies/") for path in found):  # Keras 2.13
        layers = "_layer_checkpoint_dependencies/"
    taken = set()
    nodes = [(place.replace("layers/", layers), node, twin)
             for place, node, twin in _nodes(wanted, "", None)]  # fmt: skip
    counts = Counter(path.rpartition("/")[0] + "/" for path in found)
    prefixes = [f"{place}/vars/" if place else "vars/" for place, _, _ in nodes]
    homes = {
        twin: prefix
        for prefix, (_, _, twin) in zip(prefixes, nodes, strict=True)
        if twin is not None and counts[prefix]
    }
    for prefix, (_, node, twin) in zip(prefixes, nodes, strict=True):
        if not counts[prefix] and node.own and twin in homes:  # the file has them once
            prefix = homes[twin]
        n_there = counts[prefix]
        paths = [f"{prefix}{k}" for k in range(n_there)]
        if n_there != len(node.own) or not set(paths) <= found.keys():
            raise ValueError(
                f"The file holds {n_there} arrays in {prefix!r}, but the config of the model "
                f"declares {[v.name for v in node.own]} of shapes {[v.shape for v in node.own]}."
                f"{'' if n_there else _ONCE}"
            )
        taken.update(paths)
        yield from zip(paths, node.own, strict=True)
    left = [
        path for path in found.keys() - taken
        if path.startswith(layers) and not any(part in _BESIDE for part in path.split("/"))
    ]  # fmt: skip
    if left:
        raise ValueError(f"The file holds arrays that no layer of its config has: {sorted(left)}.")


def _nodes(
    arrays: Arrays, path: str, twin: tuple[int, str] | None
) -> Iterator[tuple[str, Arrays, tuple[int, str] | None]]:
    """Yield the place of each layer, its arrays, and what is the same for all its twins."""
    twin = twin if arrays.twin is None else (arrays.twin, "")
    yield path, arrays, twin
    for name, child in arrays.children.items():
        own = None if twin is None else (twin[0], f"{twin[1]}/{name}")
        yield from _nodes(child, f"{path}/{name}" if path else name, own)


def _match_by_name(
    place: Any, root: str, found: dict[str, Any], wanted: Arrays
) -> Iterator[tuple[str, Variable]]:
    """Yield the path of each variable, in the format of Keras 2 and of ``.h5`` files since."""
    stored = {}
    for layer in _names(place, "layer_names"):
        names = _names(place[layer], "weight_names") if layer in place else []
        if names:
            stored[layer] = [f"{root}{layer}/{name}" for name in names]
    layers = {child.name: _in_old_order(child) for child in wanted.children.values()}
    layers = {name: variables for name, variables in layers.items() if variables}
    if len(stored) != len(layers):
        raise ValueError(
            f"The file holds arrays of the layers {list(stored)}, but the config declares some of "
            f"{list(layers)}."
        )
    if stored.keys() != layers.keys():  # by order, as Keras does
        layers = dict(zip(stored, layers.values(), strict=True))
    for layer, variables in layers.items():
        paths = stored[layer]
        if len(paths) != len(variables):
            raise ValueError(
                f"The file holds {len(paths)} arrays of layer {layer!r}, but the config declares "
                f"{[v.name for v in variables]}."
            )
        for path, variable in zip(paths, variables, strict=True):
            name = path.rpartition("/")[2].partition(":")[0]
            if path not in found:
                raise ValueError(f"The file has no array {path!r}, which it lists.")
            if {name, variable.name} <= set(_TOLD_APART) and name != variable.name:
                raise ValueError(f"The array {path!r} stands where {variable.name} is expected.")
            yield path, variable


def _in_old_order(arrays: Arrays) -> list[Variable]:
    """Return the variables in the order of the older format: first those that are trained."""
    found = list(arrays.walk())
    return [v for v, trained in found if trained] + [v for v, trained in found if not trained]


def _names(group: Any, attribute: str) -> list[str]:
    """Return a list of names, which long ones are stored in pieces."""
    pieces: list[Any] = []
    if attribute in group.attrs:
        pieces = [group.attrs[attribute]]
    while f"{attribute}{len(pieces)}" in group.attrs:
        pieces.append(group.attrs[f"{attribute}{len(pieces)}"])
    values = [value for piece in pieces for value in np.ravel(piece).tolist()]
    return [v.decode("utf8") if isinstance(v, bytes) else str(v) for v in values]


def _check_dataset(path: str, data: Any, variable: Variable) -> None:
    """Refuse an array that is not what the config declares, or that is not all in the file."""
    if tuple(data.shape) != variable.shape:
        raise ValueError(
            f"The file holds an array of shape {tuple(data.shape)} in {path!r}, but the config of "
            f"the model declares {variable.name} of shape {variable.shape}."
        )
    if data.dtype.kind != "f" and variable.name != "count":
        raise ValueError(f"The array {path!r} has the dtype {data.dtype}; floats are read.")
    n_bytes = math.prod(data.shape) * data.dtype.itemsize
    if data.is_virtual or data.external or data.id.get_storage_size() < n_bytes:
        raise ValueError(
            f"The array {path!r} declares {n_bytes} bytes, of which the file holds "
            f"{data.id.get_storage_size()}: it is compressed, or lies elsewhere. Save the model "
            "again with Keras, which compresses nothing."
        )
