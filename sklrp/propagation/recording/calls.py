"""A call of a torch function: which function it is, what it takes, and what serves it.

A torch function reaches the recorder as a function, a method, an operator or an attribute, under
different names. :func:`name_of` gives them one name; handlers and translations to layers are found
by it. A function that is supported under another name costs one row in ``_SAME``. `.recorder`
makes a :class:`FunctionCall` of every function that a network calls, and asks it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sklrp._copies import find_all
from sklrp._torch import THRESHOLD
from sklrp.propagation.recording.signatures import rename_from_numpy
from sklrp.propagation.recording.tensors import Nodes
from sklrp.propagation.registry import HANDLERS, SOURCED, Entry, find_complex

# What a forward may ask of a tensor without computing with it, and tensors made in its likeness.
QUESTIONS = frozenset(
    """
    __format__ __len__ __repr__ _is_view _version data_ptr device dim dtype element_size get_device
    grad_fn has_names is_coalesced is_complex is_conj is_contiguous is_cpu is_cuda
    is_floating_point is_inference is_leaf is_meta is_mkldnn is_mps is_neg is_nested is_pinned
    is_quantized is_same_size is_shared is_signed is_sparse is_sparse_csr is_tensor is_xla is_xpu
    itemsize layout names nbytes ndim ndimension nelement numel output_nr requires_grad
    retains_grad result_type shape size storage_offset stride
    empty_like full_like new_empty new_empty_strided new_full new_ones new_zeros ones_like
    zeros_like
    """.split()  # noqa: SIM905
)
# What makes room for values that forward is to write.
_MAKES_ROOM = frozenset(
    ["empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided"]
)
# Random numbers would make relevance differ from run to run.
RANDOM = frozenset(
    """
    bernoulli bernoulli_ cauchy_ exponential_ geometric_ gumbel_softmax log_normal_ manual_seed
    multinomial normal normal_ poisson rand rand_like randint randint_like randn randn_like
    random_ randperm seed uniform_
    """.split()  # noqa: SIM905
)
# What takes values out of torch, where relevance cannot follow; of integers they are harmless.
READS = frozenset(
    """
    __array__ __bool__ __complex__ __contains__ __dlpack__ __float__ __index__ __int__ allclose
    equal is_nonzero item numpy tolist
    """.split()  # noqa: SIM905
)
# What makes its first argument alike to the second, whose values it does not use.
LIKENESSES = frozenset(["to", "type_as", "expand_as", "view_as", "reshape_as"])
# What changes the shape of its first argument in place, and none of its values.
RESHAPES = frozenset(
    ["transpose_", "t_", "squeeze_", "unsqueeze_", "swapaxes_", "swapdims_", "detach_"]
)
# What makes complex numbers of real ones, besides the Fourier transforms.
_MAKES_COMPLEX = frozenset(["complex", "view_as_complex", "cfloat", "cdouble", "stft", "polar"])
_COMPLEX_TYPES = (torch.complex32, torch.complex64, torch.complex128)
# What changes its first argument, besides the functions whose name ends with an underscore.
_SETTERS = frozenset(["__setitem__", "__set__", "__delete__"])
# Tensor.unfold is another function than F.unfold; torch calls the latter, and its adjoint, so.
_UNFOLDING = {F.unfold: "im2col", F.fold: "col2im"}
# Names of the same function: operators, aliases, and where torch has another name inside.
_SAME = {
    "__add__": "add", "__radd__": "add", "__iadd__": "add_", "__sub__": "sub", "__isub__": "sub_",
    "__rsub__": "rsub", "__mul__": "mul", "__rmul__": "mul", "__imul__": "mul_",
    "multiply": "mul", "multiply_": "mul_", "subtract": "sub", "subtract_": "sub_",
    "__truediv__": "div", "__itruediv__": "div_", "true_divide": "div", "divide": "div",
    "divide_": "div_", "true_divide_": "div_", "__rdiv__": "rdiv", "__rtruediv__": "rdiv",
    "__neg__": "neg", "negative": "neg", "__matmul__": "matmul", "__rmatmul__": "rmatmul",
    "log_sigmoid": "logsigmoid", THRESHOLD: "threshold", "concat": "cat", "concatenate": "cat",
    "__ifloordiv__": "floor_divide_", "__imod__": "remainder_", "__ipow__": "pow_",
    "clip": "clamp", "special_expit": "sigmoid", "mm": "matmul", "absolute": "abs",
    "__eq__": "eq", "__ne__": "ne", "__lt__": "lt", "__le__": "le", "__gt__": "gt", "__ge__": "ge",
    "__and__": "bitwise_and", "__rand__": "bitwise_and", "__iand__": "bitwise_and_",
    "__or__": "bitwise_or", "__ror__": "bitwise_or", "__ior__": "bitwise_or_",
    "__xor__": "bitwise_xor", "__rxor__": "bitwise_xor", "__ixor__": "bitwise_xor_",
    "__invert__": "bitwise_not",
    "arccos": "acos", "arcsin": "asin", "arctan": "atan", "arccosh": "acosh", "arcsinh": "asinh",
    "arctanh": "atanh", "special_erf": "erf", "special_erfc": "erfc", "special_erfinv": "erfinv",
    "special_exp2": "exp2", "special_expm1": "expm1", "special_log1p": "log1p",
    "special_sinc": "sinc", "special_gammaln": "lgamma", "special_digamma": "digamma",
    "special_psi": "digamma", "special_i0": "i0", "special_logit": "logit", "__pow__": "pow",
    "__abs__": "abs", "fmax": "maximum", "fmin": "minimum", "ger": "outer",
    "fft_fftshift": "fftshift", "fft_ifftshift": "ifftshift",
    "arctan2": "atan2", "fix": "trunc", "sgn": "sign", "special_round": "round",
    "__floordiv__": "floor_divide", "__mod__": "remainder", "narrow_copy": "narrow",
    "special_gammainc": "igamma", "special_gammaincc": "igammac",
    "special_log_softmax": "log_softmax", "special_logsumexp": "logsumexp",
    "special_xlogy": "xlogy", "row_stack": "vstack",
    "swapaxes": "transpose", "swapdims": "transpose", "moveaxis": "movedim",
}  # fmt: skip


class FunctionCall:
    """A torch function with its arguments.

    Parameters
    ----------
    func : callable
        The function, as torch shows it.
    args, kwargs : tuple and dict
        Its arguments.
    nodes : Nodes
        The tensors that depend on the network's input.

    Attributes
    ----------
    name : str
        The name of the function, such as ``relu_``.
    in_place : bool
        Whether the result is written into the first argument.
    base : str
        The name by which handlers and translations are found, such as ``relu``.
    tensors : list of Tensor
        The tensors among the arguments.
    inputs : list of Node
        What is known of those that depend on the network's input.
    is_complex : bool
        Whether it takes or makes complex numbers.
    is_done : bool
        Whether nothing is left to do.
    entry : Entry or None
        What is registered for the function, None if nothing that serves this call; known once the
        call is in form.
    """

    def __init__(self, func: Any, args: Any, kwargs: dict[str, Any], nodes: Nodes) -> None:
        if kwargs.get("out", self) is None:  # as functions in Python hand it on
            kwargs = {name: value for name, value in kwargs.items() if name != "out"}
        self.func, self.args, self.kwargs, self.nodes = func, args, kwargs, nodes
        self._as_called = func, args, kwargs
        self.name = name_of(func)
        self.in_place = is_change(self.name)
        base = self.name[:-1] if is_in_place(self.name) else self.name
        self.base = _SAME.get(base, base)
        self.tensors = find_all(Tensor, (args, kwargs))
        self.entry: Entry | None = None
        self.is_done = False
        self.is_complex = self._is_complex()
        self.find_inputs()

    def find_inputs(self) -> None:
        """Look up what is known of the tensors now."""
        self.inputs = self.nodes.of(self.tensors)

    @property
    def only_integers(self) -> bool:
        """Whether it depends on tokens, lengths or masks alone, to which no relevance goes."""
        return not any(node.active for node in self.inputs)

    def _is_complex(self) -> bool:
        """Return whether it takes or makes complex numbers."""
        numbers = [*self.args, *self.kwargs.values()]
        return (
            any(tensor.is_complex() for tensor in self.tensors)
            or any(isinstance(v, complex) or v in _COMPLEX_TYPES for v in numbers if is_plain(v))
            or self.base.startswith("fft_")
            or self.base in _MAKES_COMPLEX
        )

    def run(self) -> Any:
        """Run the function as it is; what stands in new room by chance is zero."""
        func, args, kwargs = self._as_called
        out = func(*args, **kwargs)
        if self.name in _MAKES_ROOM and "out" not in kwargs and out.layout == torch.strided:
            out.zero_()
        return out

    def bring_into_form(self) -> None:
        """Write the arguments as handlers and translations take them, and find the handler.

        Tensors are given by position. Two calls are what a layer does: the product with a constant
        matrix is a linear layer, and rows picked from a constant table are an embedding.
        """
        depend = self.nodes.depend
        args, self.kwargs = by_position(self.args, rename_from_numpy(self.func, self.kwargs))
        if self.is_complex:
            self.args, self.entry = args, find_complex(self.base)
            return
        if self.base == "matmul" and args[1].dim() == 2 and not depend(args[1]):
            self.base, self.func, args = "linear", F.linear, (args[0], args[1].t())
        elif self.base == "__getitem__" and _is_table(args[0]) and depend(args[1]):
            self.base, self.func, args = "embedding", F.embedding, (args[1], args[0])
        self.args = args
        entry = HANDLERS.get(self.base)
        if entry is not None and entry.handler in SOURCED and not (args and depend(args[0])):
            entry = None  # it would only look something up in a constant
        self.entry = entry


def is_plain(value: Any) -> bool:
    """Return whether an argument is a number or a type, and no tensor, sequence or text."""
    return isinstance(value, complex | torch.dtype)


def _is_table(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 2 and value.is_floating_point()


def name_of(func: Any) -> str:
    """Return the name of a torch function, the same for a method, a function and an operator."""
    if func in _UNFOLDING:
        return _UNFOLDING[func]
    name = getattr(func, "__name__", type(func).__name__)
    if name == "__get__":  # an attribute, such as Tensor.T
        name = func.__self__.__name__
    return _SAME.get(name, name)


def is_in_place(name: str) -> bool:
    """Return whether a function writes its result into its first argument, as ``relu_`` does."""
    return name.endswith("_") and not name.endswith("__")


def is_change(name: str) -> bool:
    """Return whether a function changes its first argument."""
    return is_in_place(name) or name in _SETTERS


def by_position(args: Any, kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return arguments with the tensors that torch's functions take by name among the first."""
    kwargs = dict(kwargs)
    for name in ("input", "tensors", "self", "other", "mat2"):
        if name in kwargs:
            args = (*args, kwargs.pop(name))
    return tuple(args), kwargs
