"""Where relevance starts: how much of it each output has, so that together it is the score.

:mod:`.chunk` asks :func:`start` once per chunk, before relevance is pulled back. An output that is
explained starts with its own value, a weighted sum with each weighted value, and a function of the
output with value times gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sklrp.propagation.targets import Function, Target, WeightedSum, evaluate_target

_TOLERANCE = 1e-4  # of the score: more than rounding does in float32


class Start(NamedTuple):
    """The relevance of the outputs, and what it is a part of.

    Attributes
    ----------
    relevance : Tensor of shape (n_targets, n_samples, n_outputs)
        The relevance of each output.
    score : Tensor of shape (n_targets, n_samples)
        The explained scores.
    target : Tensor of shape (n_targets, n_samples) or None
        The indices of the explained outputs; None if several make one score.
    rest : Tensor of shape (n_targets, n_samples)
        What of the scores is not relevance of an output: 0, but for functions of the output.
    """

    relevance: Tensor
    score: Tensor
    target: Tensor | None
    rest: Tensor


def start(scores: Tensor, target: Target, contrast: bool) -> Start:
    """Return where relevance starts.

    Parameters
    ----------
    scores : Tensor of shape (n_samples, n_outputs)
        The outputs of a chunk.
    target : None, "all", ndarray of shape (n_samples,), WeightedSum or Function
        What is explained of them.
    contrast : bool
        Whether the largest of the other scores is subtracted.

    Returns
    -------
    Start
        The relevance of the outputs.
    """
    if isinstance(target, Function):
        return _start_at_function(scores, target)
    if isinstance(target, WeightedSum):
        weights = torch.from_numpy(target.weights).to(scores)
        relevance = (scores * weights)[None]
        score = relevance.sum(2)
        return Start(relevance, score, None, torch.zeros_like(score))
    return _start_at_outputs(scores, _choose(scores, target), contrast)


def _choose(scores: Tensor, target: np.ndarray | str | None) -> Tensor:
    """Return the explained outputs, ``(n_targets, n_samples)``."""
    n_samples, n_outputs = scores.shape
    if target is None:
        return scores.argmax(1)[None]
    if isinstance(target, str):
        every = torch.arange(n_outputs, device=scores.device)
        return every[:, None].expand(n_outputs, n_samples)
    return torch.tensor(target, device=scores.device)[None]


def _start_at_outputs(scores: Tensor, targets: Tensor, contrast: bool) -> Start:
    """Return where relevance of single outputs starts."""
    scores = scores.expand(len(targets), *scores.shape)
    index = targets[..., None]
    score = scores.gather(2, index)
    relevance = torch.zeros_like(scores).scatter_(2, index, score)
    if contrast:  # the target's score less the best of the others
        others = scores.scatter(2, index, -torch.inf)
        best = others.argmax(2, keepdim=True)
        relevance.scatter_(2, best, -scores.gather(2, best))
        score = score - scores.gather(2, best)
    return Start(relevance, score[..., 0], targets, torch.zeros_like(score[..., 0]))


def _start_at_function(scores: Tensor, target: Function) -> Start:
    """Return output times gradient: all of a function f with f(c x) = c f(x), as a maximum is."""
    outputs = scores.detach().clone().requires_grad_()
    with torch.enable_grad():
        score = evaluate_target(outputs, target)
        # Samples do not mix, so the gradient of the sum holds each sample's own.
        gradient = (
            torch.autograd.grad(score.sum(), outputs, allow_unused=True)[0]
            if score.requires_grad
            else None
        )
    if gradient is None:
        raise ValueError(
            "target, a function of the output, does not depend on the output by functions of "
            "torch with a gradient: relevance cannot start there."
        )
    score = score.detach()
    _check_alone(target, scores, score)
    relevance = scores * gradient
    if not bool(relevance.isfinite().all() and score.isfinite().all()):
        raise ValueError(
            "target, a function of the output, or its gradient is NaN or infinite for some "
            "samples; look for a root or a logarithm at zero."
        )
    return Start(relevance[None], score[None], None, (score - relevance.sum(1))[None])


def _check_alone(target: Function, scores: Tensor, score: Tensor) -> None:
    """Refuse a function that mixes samples: maps would depend on how samples are shared out."""
    beside = torch.cat([scores[:1], 0.75 * scores[:1]])
    alone = evaluate_target(beside, target)[0]
    if not bool((alone - score[0]).abs() <= _TOLERANCE * score[0].abs() + 1e-30):
        raise ValueError(
            "target, a function of the output, mixes samples: its value for one sample depends on "
            "the others. Let it reduce all axes but the first."
        )
