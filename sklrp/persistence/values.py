"""Values as JSON and back: numbers, texts, containers, arrays and rules, and nothing that runs.

What JSON has is written as it is. Anything else is an object of one key, which says what it is:
``{"tuple": [...]}``, ``{"dict": [[key, value], ...]}``, ``{"float": "inf"}``, arrays and tensors
by their name among those of the file, arrays of texts by their dtype, shape and values, rules by
their class and parameters. Dates and fields of xarray are left to `.field_values`.
"""

from __future__ import annotations

import math
import re
from collections import UserList
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sklrp.classifiers.settings import OPTIMIZERS
from sklrp.composites import Composite
from sklrp.modules import EchoState
from sklrp.persistence.field_values import pack_foreign, unpack_foreign
from sklrp.rules import RULES

Arrays = dict[str, NDArray[Any]]

_REMEDIES = {
    "callbacks": (
        "set_params(callbacks=None) saves the estimator without its callbacks, and without them "
        "goes all further training"
    ),
    "cv": "give the number of folds as an integer",
    "func": "a function is code: apply it to the data before the pipeline",
    "inverse_func": "a function is code: apply it to the data after the pipeline",
    "memory": "it is a place on this machine: set_params(memory=None), and set it after loading",
    "random_state": "give an integer",
    "rule": (
        "rules of your own cannot be stored, nor places that are functions or layers of your own; "
        "give these as names of layers, and the rule in each call of explain"
    ),
}
_TEXTS = r"object|str\d{1,6}"  # names of dtypes
_WIDEST = 256  # letters of an array of texts, if none of its texts is longer
_FIELDS = (
    "a file holds numbers, texts, dates, None, arrays, fields of xarray, lists, tuples and dicts "
    "of these, and the rules of sklrp"
)


def pack(value: Any, name: str, arrays: Arrays) -> Any:
    """Return a value as JSON has it, its arrays put among those of the file.

    Parameters
    ----------
    value : object
        The value. Scalars of NumPy become those of Python.
    name : str
        What it is, for the errors, and the name of its arrays.
    arrays : dict of str to ndarray
        The arrays of the file so far.

    Returns
    -------
    object
        What `unpack` takes.

    Raises
    ------
    TypeError
        If the value, or one in it, is of a type that a file does not hold.
    """
    if isinstance(value, np.generic) and value.dtype.kind not in "mM":
        value = value.item()
    elif isinstance(value, UserList):  # columns of a remainder in scikit-learn 1.6, which warns
        value = value.data
    packer = _PACKERS.get(type(value), _pack_other)
    packed = packer(value, name, arrays)
    if packed is None and value is not None:
        parameter = next((part for part in _REMEDIES if part in re.split(r"\W|__", name)), None)
        remedy = "" if parameter is None else f"; {_REMEDIES[parameter]}"
        raise TypeError(f"{name}={value!r} cannot be saved: {_FIELDS}{remedy}.")
    return packed


def _pack_as_it_is(value: Any, name: str, arrays: Arrays) -> Any:
    return value


def _pack_float(value: float, name: str, arrays: Arrays) -> Any:
    return value if math.isfinite(value) else {"float": repr(value)}  # JSON has no inf and nan


def _pack_list(value: list[Any], name: str, arrays: Arrays) -> Any:
    return [pack(item, f"{name}.{i}", arrays) for i, item in enumerate(value)]


def _pack_tuple(value: tuple[Any, ...], name: str, arrays: Arrays) -> Any:
    return {"tuple": _pack_list(list(value), name, arrays)}


def _pack_dict(value: dict[Any, Any], name: str, arrays: Arrays) -> Any:
    items = [[pack(k, name, arrays), pack(v, f"{name}.{k}", arrays)] for k, v in value.items()]
    return {"dict": items}


def _pack_array(value: NDArray, name: str, arrays: Arrays) -> Any:
    """Return an array of numbers by its name, one of texts by its values, None of any other."""
    if value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
        # The order in memory is kept too: matrix products round by it.
        tag = "columns" if _is_by_columns(value) else "array"
        return {tag: _put(value, name, arrays)}
    if value.dtype.kind in "OU":
        value = _narrow(value)
        foreign = _pack_foreign(value, name, arrays)
        if foreign is not None:
            return foreign
        texts = [pack(item, name, arrays) for item in value.ravel().tolist()]
        return {"texts": [value.dtype.name, list(value.shape), texts]}
    return _pack_foreign(value, name, arrays)


def _is_by_columns(value: NDArray) -> bool:
    """Tell whether the first axis is the one whose entries are next to each other."""
    return value.ndim == 2 and not value.flags.c_contiguous and value.strides[0] < value.strides[1]


def _pack_foreign(value: Any, name: str, arrays: Arrays) -> Any:
    return pack_foreign(
        value,
        lambda part, where: pack(part, f"{name}.{where}", arrays),
        lambda array: _put(array, name, arrays),
    )


def pack_scalar(value: Any, name: str, arrays: Arrays) -> Any:
    """Return a value as `pack` does, but a scalar of NumPy with its dtype."""
    if isinstance(value, np.number | np.bool_):
        return {"scalar": [value.dtype.name, pack(value, name, arrays)]}
    return pack(value, name, arrays)


def _pack_other(value: Any, name: str, arrays: Arrays) -> Any:
    """Return a tensor, an array of a subclass, a rule or a class; None of anything else."""
    if isinstance(value, Tensor):
        return {"tensor": _put(value.detach().cpu().numpy(), name, arrays)}
    if isinstance(value, np.ndarray):
        return _pack_array(value, name, arrays)
    kind = type(value)
    if _find_rule(kind.__name__) is kind:
        return {"rule": [kind.__name__, pack(value.get_params(deep=False), name, arrays)]}
    for tag, find in _CLASSES.items():
        if isinstance(value, type) and find(_name_class(value, tag)) is value:
            return {tag: _name_class(value, tag)}
    return _pack_foreign(value, name, arrays)


# How a value is packed, by its own type: a subclass may hold more than its base.
_PACKERS: dict[type, Callable[[Any, str, Arrays], Any]] = {
    **dict.fromkeys((type(None), bool, int, str), _pack_as_it_is),
    float: _pack_float,
    list: _pack_list,
    tuple: _pack_tuple,
    dict: _pack_dict,
}


def unpack(packed: Any, name: str, arrays: Arrays) -> Any:
    """Return the value that `pack` was given, taking its arrays out of those of the file.

    Parameters
    ----------
    packed : object
        What `pack` returned.
    name : str
        What it is, for the errors.
    arrays : dict of str to ndarray
        The arrays of the file that nothing has taken yet.

    Returns
    -------
    object
        The value.

    Raises
    ------
    ValueError
        If it is nothing that `pack` returns, or an array is missing.
    """
    if packed is None or type(packed) in (bool, int, float, str):
        return packed
    if isinstance(packed, list):
        return [unpack(item, name, arrays) for item in packed]
    single = isinstance(packed, dict) and len(packed) == 1
    tag, content = next(iter(packed.items())) if single else (None, None)
    match tag, content:
        case "tuple", list(items):
            return tuple(unpack(item, name, arrays) for item in items)
        case "dict", list(items):
            return {unpack(k, name, arrays): unpack(v, f"{name}.{k}", arrays) for k, v in items}
        case "float", "inf" | "-inf" | "nan":
            return float(content)
        case "tensor", str(key):
            return torch.from_numpy(_pop_array(key, name, arrays))
        case "array", str(key):
            return _pop_array(key, name, arrays)
        case "columns", str(key):
            return np.asfortranarray(_pop_array(key, name, arrays))
        case "texts", [str(dtype), list(shape), list(texts)] if re.fullmatch(_TEXTS, dtype):
            items = [unpack(text, name, arrays) for text in texts]
            return _texts_of(dtype, shape, items, name)
        case "rule", [str(kind), params] if (cls := _find_rule(kind)) is not None:
            rule = cls(**unpack(params, name, arrays))
            rule.validate()
            return rule
        case "scalar", [str(dtype), number] if np.dtype(dtype).kind in "biuf":
            return np.dtype(dtype).type(unpack(number, name, arrays))
        case "layer" | "optimizer", str(known) if _CLASSES[tag](known) is not None:
            return _CLASSES[tag](known)
    found = unpack_foreign(
        tag,
        content,
        lambda part, where: unpack(part, f"{name}.{where}", arrays),
        lambda key: _pop_array(key, name, arrays),
    )
    if found is not NotImplemented:
        return found
    raise ValueError(f"{name} holds {str(packed)[:80]!r}, which is nothing that sklrp.save writes")


def _narrow(texts: NDArray) -> NDArray:
    """Return texts in a dtype that is no wider than what a file may declare."""
    if texts.dtype.kind == "U" and texts.dtype.itemsize > 4 * _WIDEST:
        longest = max(map(len, texts.ravel().tolist()), default=0)
        return texts.astype(f"U{max(longest, _WIDEST)}")
    return texts


def _texts_of(dtype: str, shape: list[Any], items: list[Any], name: str) -> NDArray:
    """Return an array of texts; its width takes memory that the file has not."""
    if dtype == "object":
        array = np.empty(len(items), dtype=object)  # whose items may be arrays
        for i, item in enumerate(items):
            array[i] = item
        return array.reshape(shape)
    width = int(dtype[3:]) // 32  # 32 bits a letter
    longest = max((len(item) for item in items if isinstance(item, str)), default=0)
    if width > max(longest, _WIDEST):
        raise ValueError(
            f"{name} has the width of {width} letters, but its longest text has {longest}"
        )
    return np.array(items, dtype=f"U{width}").reshape(shape)


def _put(array: NDArray, name: str, arrays: Arrays) -> str:
    """Keep an array under a name that is not taken yet, and return the name."""
    while name in arrays:
        name += "'"
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    arrays[name] = native if native.flags.c_contiguous else native.copy(order="C")
    return name


def _pop_array(key: str, name: str, arrays: Arrays) -> NDArray:
    if key not in arrays:
        raise ValueError(f"the tensor {key!r} of {name} is missing")
    return arrays.pop(key)


def _find_rule(name: str) -> Any:
    """Return the rule of this package, or `Composite`, by the name of its class."""
    if name == Composite.__name__:
        return Composite
    return next((cls for cls in RULES.values() if cls.__name__ == name), None)


def _find_layer(name: str) -> type | None:
    cls = EchoState if name == "EchoState" else vars(nn).get(name)
    return cls if isinstance(cls, type) and issubclass(cls, nn.Module) else None


# Classes that are values: types of layers, for places in a Composite, and optimizers of torch.
_CLASSES: dict[str, Callable[[str], type | None]] = {
    "layer": _find_layer,
    "optimizer": OPTIMIZERS.get,
}


def _name_class(cls: type, tag: str) -> str:
    return cls.__name__.lower() if tag == "optimizer" else cls.__name__
