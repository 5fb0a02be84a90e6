"""What a training minimises: the weighted cross-entropy, and penalties on the weights.

`TrainingNet` calls both for every batch.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sklrp.modules import first_weights


class WeightedCrossEntropy(nn.CrossEntropyLoss):
    """Cross-entropy, averaged over a batch with each sample's weight.

    Parameters
    ----------
    label_smoothing : float, default=0.0
        Share of each label that is spread over all classes.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__(label_smoothing=label_smoothing)

    def forward(
        self, logits: Tensor, labels: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Return the mean of the samples' losses, each times its weight if there are weights."""
        if sample_weight is None:
            return super().forward(logits, labels)
        smoothing = self.label_smoothing
        losses = cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        return (losses * sample_weight).mean()


def add_penalties(
    loss: Tensor, network: nn.Module, *, l1: float, l1_first: float, l2_first: float
) -> Tensor:
    """Return the loss plus the penalties of all weights and of the first layer's, no biases."""
    if l1:
        weights = (p for p in network.parameters() if p.ndim > 1)
        loss = loss + l1 * sum(weight.abs().sum() for weight in weights)
    if l1_first or l2_first:
        for weight in first_weights(network):
            loss = loss + l1_first * weight.abs().sum()
            loss = loss + l2_first * weight.square().sum()
    return loss
