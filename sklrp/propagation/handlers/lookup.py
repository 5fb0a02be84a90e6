"""Handlers of embeddings.

The relevance of a token is the sum over the axis of its vector. What positions look up that were
counted along a mask, as RoBERTa does to leave out padding, is constant for the sample: it keeps
its share, as a bias does, and as the positions of a table do. Importing this module registers the
handlers.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from sklrp.propagation.bounds import box, corners
from sklrp.propagation.handlers.operands import refuse_mask
from sklrp.propagation.registry import SOURCED, mark, register
from sklrp.propagation.sharing import contribute
from sklrp.propagation.tape import Kept, Pull, Step
from sklrp.rules import Signal


def _extremes(step: Step, tokens: Signal) -> Signal:
    """Bound the vectors by the smallest and largest of all tokens, whatever the token."""
    out, _ = step.handler(step, tokens)
    low, high = corners(out)
    weight = step.layer.weight.detach()
    return box(out, weight.amin(0).expand_as(low), weight.amax(0).expand_as(high))


@register(nn.Embedding, any_axis=True, bounds=_extremes)
def _embedding(step: Step, tokens: Signal) -> tuple[Signal, Pull]:
    vectors = _look_up(step, tokens)
    if not tokens.position:
        return vectors, lambda relevance, kept: relevance.sum(-1)

    def pull(relevance: Tensor, kept: Kept | None) -> None:
        if kept is not None:
            kept.add("bias", relevance)

    return vectors, pull


@register(nn.EmbeddingBag)
def _embedding_bag(
    step: Step, tokens: Signal, offsets: Tensor | None = None, factors: Tensor | None = None
) -> tuple[Signal, Pull]:
    """Sum or average the vectors of each row of tokens: they share by contribution."""
    layer: Any = step.layer
    problems = [
        (layer.mode == "max", "has mode='max'; use nn.Embedding and a pooling layer"),
        (
            offsets is not None or tokens.x.dim() != 2,
            "takes bags of unequal lengths; pass tokens of shape (n_samples, n_tokens), filled up "
            "with padding_idx",
        ),
        (
            isinstance(factors, Signal),
            "takes weights that depend on the input; use nn.Embedding and a product",
        ),
    ]
    for bad, what in problems:
        if bad:
            raise TypeError(
                f"Relevance through EmbeddingBag {step.name!r} is not supported: it {what}."
            )
    vectors = _look_up(step, tokens)
    share = vectors.x.new_ones(tokens.x.shape) if factors is None else factors
    if layer.padding_idx is not None:
        share = share * (tokens.x != layer.padding_idx)
    if layer.mode == "mean":
        share = share / share.sum(1, keepdim=True).clamp(min=1)
    share = share[..., None]
    z = F.embedding_bag(
        tokens.x,
        layer.weight,
        mode=layer.mode,
        per_sample_weights=factors,
        padding_idx=layer.padding_idx,
    )
    to_vectors = contribute(step, vectors.x, z, lambda ratio: ratio[:, :, None] * share)

    def pull(relevance: Tensor, kept: Kept | None) -> Tensor:
        return to_vectors(relevance, kept).sum(-1)

    return Signal(z), pull


@register("one_hot")
@mark(SOURCED)
def _one_hot(step: Step, tokens: Signal, num_classes: int = -1) -> tuple[Signal, Pull]:
    if num_classes < 0:
        raise TypeError("it reads the number of classes from the values; pass num_classes")
    x = F.one_hot(tokens.x, num_classes)
    samples = None if tokens.samples is None else tokens.samples[..., None].expand(x.shape)
    out = Signal(x, True, gate=True, mask=tokens.mask, samples=samples)
    if tokens.mask:
        return out, refuse_mask(step)
    return out, lambda relevance, kept: relevance.sum(-1)


def _look_up(step: Step, tokens: Signal) -> Signal:
    """Return the vectors of tokens."""
    layer: Any = step.layer
    if layer.max_norm is not None:
        raise TypeError(
            f"Relevance through {type(layer).__name__} {step.name!r} with max_norm="
            f"{layer.max_norm} is not supported: it changes its weights when it is called. Call "
            "it once on all tokens, and set max_norm=None."
        )
    return Signal(F.embedding(tokens.x, layer.weight.detach()), axis=tokens.axis)
