"""What the recorder knows of torch functions by name: which are harmless, and which are one.

A torch function reaches the recorder as a function, a method, an operator or an attribute, under
different names. :func:`name_of` gives them one name; handlers and translations to layers are found
by it. A function that is supported under another name costs one row in ``_SAME``.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F

from sklrp._torch import THRESHOLD

# What a forward may ask of a tensor without computing with it, and tensors made in its likeness.
QUESTIONS = frozenset(
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
    "clip": "clamp", "special_expit": "sigmoid",
    "swapaxes": "transpose", "swapdims": "transpose", "moveaxis": "movedim",
}  # fmt: skip


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
