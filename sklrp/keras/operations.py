"""Operations on tensors in functional models of Keras 3, such as ``x + y`` and ``x[:, -1]``.

`.assembly` calls :func:`build_operation` where a file names one in place of a layer. An operation
becomes torch's of the same meaning, whose relevance the engine knows or refuses.
"""

from __future__ import annotations

import inspect
import itertools
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sklrp._checks import suggest
from sklrp.keras.blueprints import Blueprint, Part
from sklrp.keras.keras_graph import TENSORFLOW_OPERATIONS, Ref
from sklrp.keras.layer_config import LayerConfig


class Input(NamedTuple):
    """Which of the inputs stands in a place among the arguments of an operation."""

    number: int


def _pair(x1: Any, x2: Any) -> tuple[Tensor, Tensor]:
    like = x1 if isinstance(x1, Tensor) else x2
    one, other = (
        v if isinstance(v, Tensor) else torch.tensor(v, dtype=like.dtype, device=like.device)
        for v in (x1, x2)
    )
    return one, other


def larger_of(x1: Any, x2: Any) -> Tensor:
    """Return the larger of two values, place by place."""
    return torch.maximum(*_pair(x1, x2))


def smaller_of(x1: Any, x2: Any) -> Tensor:
    """Return the smaller of two values, place by place."""
    return torch.minimum(*_pair(x1, x2))


def choose(condition: Tensor, x1: Any, x2: Any) -> Tensor:
    """Return one value where a condition holds, else the other."""
    if not isinstance(x1, Tensor) and not isinstance(x2, Tensor):
        return torch.where(condition, float(x1), float(x2))
    return torch.where(condition, x1, x2)


def mean_over(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Return the mean over axes."""
    return x.mean(dim=_as_axes(axis), keepdim=keepdims)


def sum_over(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Return the sum over axes."""
    return x.sum(dim=_as_axes(axis), keepdim=keepdims)


def largest_over(
    x: Tensor, axis: Any = None, keepdims: bool = False, initial: Any = None
) -> Tensor:
    """Return the largest value over axes."""
    if axis is None or initial is not None:
        raise ValueError("a maximum over all values, the samples too, or with a start")
    return x.amax(dim=_as_axes(axis), keepdim=keepdims)


def smallest_over(
    x: Tensor, axis: Any = None, keepdims: bool = False, initial: Any = None
) -> Tensor:
    """Return the smallest value over axes."""
    if axis is None or initial is not None:
        raise ValueError("a minimum over all values, the samples too, or with a start")
    return x.amin(dim=_as_axes(axis), keepdim=keepdims)


def any_over(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Return whether any value over an axis is true."""
    if not isinstance(axis, int):
        raise ValueError("any over several axes")
    return x.any(dim=axis, keepdim=keepdims)


def _as_axes(axis: Any) -> Any:
    return tuple(axis) if isinstance(axis, list) else axis


def join(xs: list[Tensor], axis: int = -1) -> Tensor:
    """Join tensors along an axis."""
    return torch.cat(xs, axis)


def pile(x: list[Tensor], axis: int = 0) -> Tensor:
    """Join tensors along a new axis."""
    return torch.stack(x, axis)


def give_shape(x: Tensor, newshape: list[int]) -> Tensor:
    """Give a tensor a shape, that of the samples too."""
    return x.reshape(len(x), *newshape[1:])


def reorder(x: Tensor, axes: list[int] | None = None) -> Tensor:
    """Reorder the axes."""
    return x.permute(tuple(range(x.dim()))[::-1] if axes is None else tuple(axes))


def add_axis(x: Tensor, axis: int) -> Tensor:
    """Add an axis."""
    return x.unsqueeze(axis)


def drop_axis(x: Tensor, axis: int) -> Tensor:
    """Drop an axis of one value."""
    return x.squeeze(axis)


def select(x: Tensor, key: Any) -> Tensor:
    """Return x[key]."""
    return x[tuple(key) if isinstance(key, list) else key]


def convert_to(x: Tensor, dtype: str) -> Tensor:
    """Convert to numbers of a kind."""
    return x.to(getattr(torch, dtype))


def ones_for(x: Tensor, dtype: str | None = None) -> Tensor:
    """Return ones in the shape of a tensor."""
    return torch.ones_like(x, dtype=None if dtype is None else getattr(torch, dtype))


def zeros_for(x: Tensor, dtype: str | None = None) -> Tensor:
    """Return zeros in the shape of a tensor."""
    return torch.zeros_like(x, dtype=None if dtype is None else getattr(torch, dtype))


def softmax_over(x: Tensor, axis: int = -1) -> Tensor:
    """Return the softmax over an axis."""
    return torch.softmax(x, axis)


# The names of Keras's operations; a row of its own for each.
OPERATIONS: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs,
    "Absolute": torch.abs,
    "Add": operator.add,
    "Any": any_over,
    "Cast": convert_to,
    "Concatenate": join,
    "Cos": torch.cos,
    "Divide": operator.truediv,
    "Elu": F.elu,
    "Equal": operator.eq,
    "Exp": torch.exp,
    "ExpandDims": add_axis,
    "GetItem": select,
    "Greater": operator.gt,
    "GreaterEqual": operator.ge,
    "Less": operator.lt,
    "LessEqual": operator.le,
    "Log": torch.log,
    "Log1p": torch.log1p,
    "LogicalAnd": torch.logical_and,
    "LogicalNot": torch.logical_not,
    "LogicalOr": torch.logical_or,
    "Matmul": torch.matmul,
    "Max": largest_over,
    "Maximum": larger_of,
    "Mean": mean_over,
    "Min": smallest_over,
    "Minimum": smaller_of,
    "Multiply": operator.mul,
    "Negative": operator.neg,
    "NotEqual": operator.ne,
    "OnesLike": ones_for,
    "Power": operator.pow,
    "Relu": torch.relu,
    "Relu6": F.relu6,
    "Reshape": give_shape,
    "Sigmoid": torch.sigmoid,
    "Silu": F.silu,
    "Sin": torch.sin,
    "Softmax": softmax_over,
    "Softplus": F.softplus,
    "Sqrt": torch.sqrt,
    "Square": torch.square,
    "Squeeze": drop_axis,
    "Stack": pile,
    "Subtract": operator.sub,
    "Sum": sum_over,
    "Tanh": torch.tanh,
    "Transpose": reorder,
    "TrueDivide": operator.truediv,
    "Where": choose,
    "ZerosLike": zeros_for,
}
# The same by the names of TensorFlow's functions, which Keras 2 writes down.
_OF_TENSORFLOW = {
    "__operators__.add": "Add",
    "__operators__.getitem": "GetItem",
    "compat.v1.squeeze": "Squeeze",
    "compat.v1.transpose": "Transpose",
    "concat": "Concatenate",
    "expand_dims": "ExpandDims",
    "math.abs": "Abs",
    "math.add": "Add",
    "math.divide": "Divide",
    "math.exp": "Exp",
    "math.log": "Log",
    "math.maximum": "Maximum",
    "math.minimum": "Minimum",
    "math.multiply": "Multiply",
    "math.negative": "Negative",
    "math.pow": "Power",
    "math.reduce_max": "Max",
    "math.reduce_mean": "Mean",
    "math.reduce_min": "Min",
    "math.reduce_sum": "Sum",
    "math.sigmoid": "Sigmoid",
    "math.sqrt": "Sqrt",
    "math.square": "Square",
    "math.subtract": "Subtract",
    "math.tanh": "Tanh",
    "math.truediv": "TrueDivide",
    "nn.relu": "Relu",
    "nn.sigmoid": "Sigmoid",
    "nn.softmax": "Softmax",
    "nn.softplus": "Softplus",
    "nn.tanh": "Tanh",
    "reshape": "Reshape",
    "squeeze": "Squeeze",
    "stack": "Stack",
    "transpose": "Transpose",
}
_OPTIONS_OF_TENSORFLOW = {"perm": "axes", "shape": "newshape"}
_WITH_DTYPE = ("Cast", "OnesLike", "ZerosLike")  # which is an option, and no policy
_ARITHMETIC = ("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Negative")


def is_operation(layer: LayerConfig) -> bool:
    """Return whether a file has an operation in place of a layer."""
    if layer.kind in TENSORFLOW_OPERATIONS:
        return True
    if layer.module or layer.kind not in OPERATIONS:
        return ".ops" in layer.module
    own = {"trainable"} if layer.kind in _WITH_DTYPE else {"trainable", "dtype"}
    return not own & layer.options.keys()  # .h5 files name no modules


class OperationCall(nn.Module):
    """A call of an operation, with what it takes beside its inputs.

    Parameters
    ----------
    function : callable
        What is called.
    args : list
        Its arguments, in which an ``Input`` stands for each input.
    options : dict
        Its keyword arguments.
    """

    def __init__(
        self, function: Callable[..., Any], args: list[Any], options: dict[str, Any]
    ) -> None:
        super().__init__()
        self.function = function
        self.args = args
        self.options = options

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*_fill_in(self.args, inputs), **self.options)

    def extra_repr(self) -> str:
        return self.function.__name__


def _fill_in(value: Any, inputs: tuple[Tensor, ...]) -> Any:
    """Return arguments with inputs in their places, and arrays as tensors."""
    if isinstance(value, Input):
        return inputs[value.number]
    if isinstance(value, list):
        return [_fill_in(v, inputs) for v in value]
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value).to(inputs[0])
    return value


def build_operation(layer: LayerConfig, args: list[Any], others: Mapping[str, Any]) -> Blueprint:
    """Return the blueprint of a call of an operation.

    Parameters
    ----------
    layer : LayerConfig
        The operation.
    args, others : list and mapping
        Its arguments, with a ``Ref`` for each tensor.

    Returns
    -------
    Blueprint
        What it becomes.
    """
    kind, own = layer.kind, dict(layer.options)
    if kind in TENSORFLOW_OPERATIONS:
        kind = _OF_TENSORFLOW.get(str(own.pop("function", None)), kind)
        others = {_OPTIONS_OF_TENSORFLOW.get(name, name): v for name, v in others.items()}
        own = {}
    function = OPERATIONS.get(kind)
    if function is None:
        hint = suggest(kind, OPERATIONS)
        layer.refuse(
            f"it is none of the operations that are read ({layer.options.get('function', kind)})."
            f"{hint}"
        )
    if kind not in _WITH_DTYPE:
        own.pop("dtype", None)
    options = {name: v for name, v in {**own, **others}.items() if not _is_neutral(name, v)}
    count = itertools.count()
    placed = [_place(layer, value, count) for value in args]
    if any(isinstance(v, Ref) for v in others.values()) or next(count) == 0:
        layer.refuse("its tensors are given by name, or there are none.")
    known = _parameters(function)
    if not options.keys() <= known:
        layer.refuse(f"its options {sorted(options.keys() - known)} are not read.")
    layer.ignore(*layer.options)
    numbers = all(isinstance(v, Input | int | float) for v in placed)
    layout = "any" if kind in _ARITHMETIC and numbers else "keras"
    # Operations are no layers: what they return has no mask.
    return Blueprint([Part(OperationCall(function, placed, options), layout)])


def _is_neutral(name: str, value: Any) -> bool:
    """Return whether an option is what it is by default, and asks for nothing."""
    neutral = {"negative_slope": 0.0, "initial": None, "sparse": False, "conjugate": False}
    return name in ("name", "trainable") or (name in neutral and value == neutral[name])


def _parameters(function: Callable[..., Any]) -> set[str]:
    """Return the names of a function's parameters; none of those of C."""
    try:
        return set(inspect.signature(function).parameters)
    except ValueError:
        return set()


def _place(layer: LayerConfig, value: Any, count: Any) -> Any:
    """Return an argument with an ``Input`` for each tensor, constants as they are."""
    if isinstance(value, Ref):
        return Input(next(count))
    if isinstance(value, list):
        return [_place(layer, v, count) for v in value]
    if isinstance(value, Mapping):
        found = value if value.keys() == {"start", "stop", "step"} else value.get("config")
        is_slice = found is value or value.get("class_name") == "__slice__"
        if is_slice and isinstance(found, Mapping):
            return slice(found.get("start"), found.get("stop"), found.get("step"))
        if value.get("class_name") == "__ellipsis__":
            return Ellipsis
        if value.get("class_name") in ("__numpy__", "__tensor__") and isinstance(found, Mapping):
            return np.asarray(found.get("value"), np.float64)
        layer.refuse(f"it takes {value!r}.")
    if value is None or isinstance(value, int | float | str):
        return value
    layer.refuse(f"it takes {value!r}.")
