"""Relevance at epsilon 0 as gradient times input of a forward pass whose gradients are changed.

`reference` runs any network of torch in a function mode that halves the gradient at products of
two signals, takes statistics, denominators and gates as constants, and lets activations pass a
gradient of output over input: what the rules of attention are at epsilon 0, by autograd alone
(Achtibat et al. 2024, appendix). `test_attention` holds explanations against it.
"""

from __future__ import annotations

import copy
import math
from types import FunctionType

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

SMOOTH = {
    "gelu", "silu", "tanh", "elu", "softplus", "mish", "hardswish", "exp", "pow", "square", "sqrt",
    "relu6", "hardtanh", "quick_gelu", "selu", "__pow__", "log1p", "abs",
}  # fmt: skip
PRODUCTS = {"matmul", "__matmul__", "bmm", "mul", "__mul__", "multiply", "mm"}
QUOTIENTS = {"div", "__truediv__", "true_divide"}
VIEWS = {
    "__getitem__", "unsqueeze", "squeeze", "transpose", "permute", "reshape", "view", "flatten",
    "unflatten", "expand", "contiguous", "to", "float", "double", "chunk", "split", "unbind",
}  # fmt: skip
HELD = {"rsqrt", "reciprocal", "__rtruediv__", "__rdiv__", "var", "std", "norm",
        "linalg_vector_norm", "linalg_norm"}  # fmt: skip


def body_of(function):
    """Return a function of torch written in Python, without the question to function modes."""
    asks = {n: lambda *_: False for n in function.__globals__ if n.startswith("has_torch_func")}
    body = FunctionType(
        function.__code__, {**function.__globals__, **asks}, function.__name__,
        function.__defaults__, function.__closure__,
    )  # fmt: skip
    body.__kwdefaults__ = function.__kwdefaults__
    return body


def is_active(value):
    return isinstance(value, torch.Tensor) and value.requires_grad


def halved(x):
    return x / 2 + (x / 2).detach() if is_active(x) else x


def through(function, x):
    """Pass a gradient of output over input."""
    y = function(x)
    return x * torch.where(x == 0, 0.0, y / x).detach()


def attend(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    if enable_gqa:
        k, v = (x.repeat_interleave(q.size(-3) // x.size(-3), -3) for x in (k, v))
    scores = q @ k.mT * (q.size(-1) ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return torch.softmax(scores, -1) @ v


def layer_norm(x, shape, weight=None, bias=None, eps=1e-5, *_):
    dims = tuple(range(-len(shape), 0))
    centred = x - x.mean(dims, keepdim=True)
    x = centred / (centred.square().mean(dims, keepdim=True) + eps).sqrt().detach()
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def group_norm(x, n_groups, weight=None, bias=None, eps=1e-5, *_):
    shape = (1, -1, *(1,) * (x.dim() - 2))
    out = layer_norm(x.reshape(*x.shape[:1], n_groups, -1), (x[0].numel() // n_groups,), eps=eps)
    out = out.reshape(x.shape)
    out = out if weight is None else out * weight.view(shape)
    return out if bias is None else out + bias.view(shape)


def rms_norm(x, shape, weight=None, eps=None):
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    dims = tuple(range(-len(shape), 0))
    x = x * torch.rsqrt(x.square().mean(dims, keepdim=True) + eps).detach()
    return x if weight is None else x * weight


REWRITTEN = {
    "scaled_dot_product_attention": attend,
    "layer_norm": layer_norm,
    "group_norm": group_norm,
    "rms_norm": rms_norm,
    "normalize": body_of(F.normalize),
    "multi_head_attention_forward": body_of(F.multi_head_attention_forward),
}


class Halves(TorchFunctionMode):
    """Run a forward pass whose gradient times input is relevance at epsilon 0."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention
        self.activated = {}  # outputs of activations by identity, kept alive

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name, kwargs = getattr(function, "__name__", ""), kwargs or {}
        if name in REWRITTEN:
            with self:
                return REWRITTEN[name](*args, **kwargs)
        if name in PRODUCTS:
            return self.multiply(function, args, kwargs)
        if name == "baddbmm" and is_active(args[1]) and is_active(args[2]):
            return function(args[0], *map(halved, args[1:]), **kwargs)
        if name == "einsum":
            alone = sum(map(is_active, args[1:])) < 2
            return function(args[0], *(args[1:] if alone else map(halved, args[1:])))
        if name in QUOTIENTS and is_active(args[0]) and is_active(args[1]):
            return function(args[0], args[1].detach(), *args[2:], **kwargs)
        if name in SMOOTH and is_active(args[0]):
            out = through(lambda x: function(x.clone(), *args[1:], **kwargs), args[0])
            self.activated[id(out)] = out
            return out
        out = function(*args, **kwargs)
        looks = name in VIEWS and id(args[0]) in self.activated
        if looks or name.removesuffix("_") in ("relu", "leaky_relu"):
            self.activated |= {id(v): v for v in (out if isinstance(out, tuple) else [out])}
        if name in HELD or name.removesuffix("_") in ("sigmoid", "hardsigmoid"):
            return out.detach()
        if name == "softmax" and self.attention != "attnlrp":
            return out.detach()
        return out

    def multiply(self, function, args, kwargs):
        a, b, *rest = args
        if is_active(a) and is_active(b):
            one, other = (self.attention == "cp" and id(v) in self.activated for v in (a, b))
            if one != other:
                a, b = (a.detach(), b) if one else (a, b.detach())
            else:
                a, b = halved(a), halved(b)
        return function(a, b, *rest, **kwargs)


def reference(model, x, attention="attnlrp", more=(), pick=lambda out: out):
    """Return relevance (n_samples, n_outputs, ...) and scores of a network on floats.

    `more` are its other inputs, which get no relevance; `pick` takes the output that is explained.
    """
    start = torch.as_tensor(x).clone().requires_grad_()
    model = copy.deepcopy(model).requires_grad_(False)
    with Halves(attention):
        out = pick(model(start, *more))
    out = out.reshape(len(start), -1)
    rows = [torch.autograd.grad(column.sum(), start, retain_graph=True)[0] for column in out.T]
    return torch.stack([start * row for row in rows], 1).detach().numpy(), out.detach().numpy()
