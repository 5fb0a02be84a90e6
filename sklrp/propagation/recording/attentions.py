"""Attention as torch's functions compute it, in terms of matrix products and a softmax.

The recorder runs these in place of ``F.scaled_dot_product_attention``, whose kernels are hidden,
and of ``F.multi_head_attention_forward``, which every ``nn.MultiheadAttention`` calls: so the
attention of a Transformer is explained as one written by hand. `.rewritten` looks them up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from sklrp.propagation.registry import are_built_in

_DROPS = "it drops also in evaluation mode; pass {} if self.training else 0.0"


def attend(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """Return the values weighed by the softmax of queries times keys, as torch documents it."""
    if dropout_p:
        raise TypeError(_DROPS.format("dropout_p=self.p"))
    if enable_gqa:
        n_heads = query.size(-3)
        key = key.repeat_interleave(n_heads // key.size(-3), -3)
        value = value.repeat_interleave(n_heads // value.size(-3), -3)
    scores = _score(query, key, scale)
    if is_causal:
        seen = _before(scores)
        attn_mask = seen if attn_mask is None else seen & attn_mask
    if attn_mask is None:
        return softmax_matmul(scores, value)
    if attn_mask.dtype != torch.bool:
        return softmax_matmul(scores + attn_mask, value)
    # A query that may see nothing gets zeros.
    blind = ~attn_mask.any(-1, keepdim=True)
    scores = scores.masked_fill(~(attn_mask | blind), -math.inf)
    return torch.matmul(torch.softmax(scores, -1).masked_fill(blind, 0.0), value)


def attend_by_heads(
    query: Tensor, key: Tensor, value: Tensor, embed_dim_to_check: int, num_heads: int,
    in_proj_weight: Tensor | None, in_proj_bias: Tensor | None, bias_k: Tensor | None,
    bias_v: Tensor | None, add_zero_attn: bool, dropout_p: float, out_proj_weight: Tensor,
    out_proj_bias: Tensor | None, training: bool = True, key_padding_mask: Tensor | None = None,
    need_weights: bool = True, attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False, q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None, v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None, static_v: Tensor | None = None,
    average_attn_weights: bool = True, is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Return the output of all heads, (n_steps, n_samples, n_features), and their weights."""
    if training and dropout_p:
        raise TypeError(_DROPS.format("dropout_p=self.dropout"))
    if query.dim() != 3:
        raise TypeError(
            f"it takes (n_steps, n_samples, n_features), or with batch_first=True (n_samples, "
            f"n_steps, n_features), got {query.dim()} axes: it would attend from one sample to "
            "another"
        )
    if static_k is not None or static_v is not None:
        raise TypeError("static_k and static_v are not supported")
    matrices: Any = (q_proj_weight, k_proj_weight, v_proj_weight)
    if not use_separate_proj_weight:
        assert in_proj_weight is not None
        matrices = in_proj_weight.chunk(3)
    shifts: Any = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    q, k, v = (
        F.linear(x.transpose(0, 1), weight, bias)
        for x, weight, bias in zip((query, key, value), matrices, shifts, strict=True)
    )
    if bias_k is not None and bias_v is not None:
        k, v = (
            torch.cat([x, row.expand(len(q), -1, -1)], 1) for x, row in ((k, bias_k), (v, bias_v))
        )
    # (n_samples, n_heads, n_steps, n_features)
    q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, k, v))
    if add_zero_attn:
        k, v = (F.pad(x, (0, 0, 0, 1)) for x in (k, v))
    scores = _score(q, k)
    if is_causal and key_padding_mask is None and not need_weights:
        attn_mask = ~_before(scores)  # torch takes the hint for the mask
    scores = _hide(scores, [attn_mask, key_padding_mask])
    if need_weights:
        weights = torch.softmax(scores, -1)
        out = torch.matmul(weights, v)
    else:
        weights, out = None, softmax_matmul(scores, v)
    out = F.linear(out.transpose(1, 2).flatten(2), out_proj_weight, out_proj_bias)
    if weights is not None and average_attn_weights:
        weights = weights.mean(1)
    return out.transpose(0, 1), weights


def encode(
    encoder: Any, src: Tensor, mask: Tensor | None = None,
    src_key_padding_mask: Tensor | None = None, is_causal: bool | None = None,
) -> Tensor:  # fmt: skip
    """Return the output of an ``nn.TransformerEncoder`` as its fast path computes it."""
    # In evaluation mode and without gradients torch leaves steps out that are padding at the ends
    # of sequences, and returns zeros for them.
    out = src
    for layer in encoder.layers:
        out = layer(
            out, src_mask=mask, is_causal=bool(is_causal),
            src_key_padding_mask=src_key_padding_mask,
        )  # fmt: skip
    is_fast = encoder.use_nested_tensor and torch.backends.mha.get_fastpath_enabled()
    if src_key_padding_mask is not None and mask is None and is_fast:
        padding = src_key_padding_mask
        padding = padding if padding.dtype == torch.bool else padding.isinf()
        if encoder.mask_check:  # unless all padding is at the ends, none is left out
            padding = padding & (padding.int().diff(dim=1) >= 0).all()
        out = out.masked_fill(padding.unsqueeze(-1), 0.0)
    return out if encoder.norm is None else encoder.norm(out)


def _score(query: Tensor, key: Tensor, scale: float | None = None) -> Tensor:
    """Return queries times keys, times a scale that is that of their length by default."""
    scale = 1 / math.sqrt(query.size(-1)) if scale is None else scale
    keys = key.transpose(-2, -1)
    if isinstance(scale, float | int) and scale > 0:
        return scaled_matmul(query, keys, scale)
    return torch.matmul(query, keys) * scale


def scaled_matmul(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Return a product of matrices times a number; function modes see it as one function."""
    if has_torch_function((a, b)) and are_built_in("matmul", "mul"):
        out: Tensor = handle_torch_function(scaled_matmul, (a, b), a, b, scale)
        return out
    return torch.matmul(a, b) * scale


def softmax_matmul(scores: Tensor, value: Tensor) -> Tensor:
    """Return values weighed by the softmax of scores; function modes see it as one function."""
    # A step has its samples on one axis: that of scores with fewer axes is another one.
    is_one = scores.dim() >= value.dim() and are_built_in(nn.Softmax, "matmul")
    if is_one and has_torch_function((scores, value)):
        out: Tensor = handle_torch_function(softmax_matmul, (scores, value), scores, value)
        return out
    return torch.matmul(torch.softmax(scores, -1), value)


def _before(scores: Tensor) -> Tensor:
    """Return which keys a query may see that sees none behind it."""
    return torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()


def _hide(scores: Tensor, masks: Sequence[Tensor | None]) -> Tensor:
    """Hide keys by masks that are true for them, or are added: of attention, and of padding."""
    n_samples, n_heads, _, n_keys = scores.shape
    for mask, shape in zip(masks, ((n_samples, n_heads, -1), (n_samples, 1, 1)), strict=True):
        if mask is None:
            continue
        if mask.size(-1) < n_keys:  # keys that the layer itself has added are seen
            mask = F.pad(mask, (0, n_keys - mask.size(-1)))
        if mask.dim() == 3 or shape[-1] == 1:
            mask = mask.reshape(*shape, n_keys)
        hides = mask.dtype == torch.bool
        scores = scores.masked_fill(mask, -math.inf) if hides else scores + mask
    return scores
