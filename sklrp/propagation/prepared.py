"""One call of ``explain`` on one chunk: from its scores to the relevance of its inputs.

:mod:`sklrp.propagation.run` prepares the call and hands it the chunks, here or in workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklrp.propagation.inputs import Intake, is_finite
from sklrp.propagation.planning import Plan
from sklrp.propagation.tape import Layer
from sklrp.rules import Signal


@contextmanager
def plain_arithmetic(device: torch.device) -> Iterator[None]:
    """Compute without autograd and in the network's own precision, whatever the caller's modes."""
    autocast = torch.autocast(device.type, enabled=False)
    with torch.inference_mode(False), torch.no_grad(), autocast:
        yield


@dataclass(frozen=True)
class PreparedCall:
    """What all chunks of one call share; it travels to workers.

    Attributes
    ----------
    plan : Plan
        The compiled network.
    intake : Intake
        How it takes its inputs.
    contrast : bool
        Whether the largest of the other scores is subtracted.
    details : bool
        Whether to tell where relevance went.
    """

    plan: Plan
    intake: Intake
    contrast: bool
    details: bool

    def explain(
        self, chunk: Sequence[Any], target: np.ndarray | str | None
    ) -> tuple[list[Tensor], dict[str, Any] | None]:
        """Return the relevance of a chunk's inputs, targets first, and the details."""
        # Forward, all relevance on the scores of the targets, and back: the whole of LRP.
        signals, args, kwargs = self.intake.to_signals(chunk)
        tape = self.plan.run(signals, args, kwargs)
        _check_scores(tape.scores)
        targets = _targets(tape.scores, target)
        relevance, score = self._start(tape.scores, targets)
        arrived, layers = tape.pull(relevance, self.details)
        passed = self._fill(arrived, signals, len(targets))
        return passed, _to_arrays(score, targets, layers) if self.details else None

    def _start(self, scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the relevance of the outputs, and the explained scores."""
        scores = scores.expand(len(targets), *scores.shape)
        index = targets[..., None]
        score = scores.gather(2, index)
        relevance = torch.zeros_like(scores).scatter_(2, index, score)
        if self.contrast:  # the target's score less the best of the others
            others = scores.scatter(2, index, -torch.inf)
            best = others.argmax(2, keepdim=True)
            relevance.scatter_(2, best, -scores.gather(2, best))
            score = score - scores.gather(2, best)
        return relevance, score[..., 0]

    def _fill(
        self, arrived: Sequence[Tensor | None], signals: Sequence[Signal], n_targets: int
    ) -> list[Tensor]:
        """Return the relevance that arrived at the inputs, checked, zeros where none did."""
        if all(relevance is None for relevance in arrived):
            raise ValueError(
                "The network's output does not depend on X in any way that relevance can follow; "
                "there is nothing to explain."
            )
        own: Any = {"dtype": self.intake.dtype, "device": self.intake.device}
        passed = [
            torch.zeros(n_targets, *signal.x.shape, **own) if relevance is None else relevance
            for relevance, signal in zip(arrived, signals, strict=True)
        ]
        if not all(map(is_finite, passed)):
            raise ValueError(
                "Relevance is not finite: denominators vanish under this rule; use a larger "
                "epsilon, or compute in float64."
            )
        return passed


def _check_scores(scores: Tensor) -> None:
    if not is_finite(scores):
        bad = int((~scores.isfinite()).any(1).sum())
        raise ValueError(
            f"The network's output is NaN or infinite for {bad} of {len(scores)} samples; "
            "look for NaN in its weights, or scale X."
        )


def _targets(scores: Tensor, target: np.ndarray | str | None) -> Tensor:
    """Return the explained outputs, ``(n_targets, n_samples)``."""
    n_samples, n_outputs = scores.shape
    if target is None:
        return scores.argmax(1)[None]
    if isinstance(target, str):
        every = torch.arange(n_outputs, device=scores.device)
        return every[:, None].expand(n_outputs, n_samples)
    return torch.tensor(target, device=scores.device)[None]


def _to_arrays(score: Tensor, targets: Tensor, layers: Sequence[Layer | None]) -> dict[str, Any]:
    """Return the details of a chunk as arrays."""
    zeros = np.zeros(targets.shape)
    return {
        "score": score.cpu().numpy(),
        "target": targets.cpu().numpy(),
        "layers": [
            (zeros, {})
            if layer is None
            else (layer[0].cpu().numpy(), {k: v.cpu().numpy() for k, v in layer[1].items()})
            for layer in layers
        ],
    }
