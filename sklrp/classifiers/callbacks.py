"""What the training of a classifier does with skorch's callbacks.

`TrainingNet` puts the cheaper callbacks of this file in place of skorch's, and asks here whether
a callback follows the batches, and whether an interrupt is one of a callback or the user's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import Callback, EpochScoring, PrintLog


class StopTraining(KeyboardInterrupt):
    """A callback ends the training. Apart from it, an interrupt is the user's and is passed on."""


class QuietPrintLog(PrintLog):
    """Print a line per epoch, and do not even format it where nobody would see it."""

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """Print the line if the net is verbose or there is a sink of the user's."""
        if net.verbose or self.sink is not print:
            super().on_epoch_end(net, **kwargs)


def make_accuracy() -> EpochScoring:
    """Return a callback that scores the validation data, at less cost than skorch's."""
    return EpochScoring(_score_accuracy, name="valid_acc", lower_is_better=False)


def _score_accuracy(net: NeuralNet, X: Any, y: np.ndarray) -> float:
    """Return the share of right predictions, without checks that take longer than the count."""
    predictions = [logits.argmax(1) for logits in net.forward_iter(X)]
    return float((torch.cat(predictions).numpy() == y).mean())


def follows_batches(callback: Callback, training: bool) -> bool:
    """Tell whether a callback takes part in the batches of the training or the validation."""
    if isinstance(callback, EpochScoring) and callback.on_train != training:
        return False
    return any(
        getattr(type(callback), method) is not getattr(Callback, method)
        for method in ("on_batch_begin", "on_batch_end")
    )


def raised_by(callback: Callback, interrupt: KeyboardInterrupt) -> bool:
    """Tell whether one of the callback's own methods raised the interrupt to end the training."""
    # Ctrl-C arrives wherever Python happens to be, practically never in a callback's few lines.
    traceback = interrupt.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and traceback.tb_frame.f_locals.get("self") is callback
