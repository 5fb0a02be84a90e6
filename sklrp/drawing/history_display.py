"""The picture of a training's history. `sklrp.plotting` makes it public."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sklrp import _models
from sklrp._checks import import_optional
from sklrp._constraints import constrained

_TRAIN, _VALID = "#0072B2", "#D55E00"  # of Okabe and Ito
_LOG_SPAN = 20  # a range of positive losses that spans more has a logarithmic axis


class HistoryDisplay:
    """The loss over the epochs of a training.

    Make it with `from_estimator` or `from_history`. A validation loss that rises while the
    training loss falls shows overfitting; one that still falls at the end asks for more epochs.

    Parameters
    ----------
    history : sequence of dict
        One entry for each epoch, with ``train_loss`` and, if there is one, ``valid_loss``.

    Attributes
    ----------
    history : sequence of dict
        The same.
    ax_ : matplotlib.axes.Axes
        The axes.
    figure_ : matplotlib.figure.Figure
        The figure.
    lines_ : dict of str to matplotlib.lines.Line2D
        ``"train"`` and, if there is one, ``"valid"``.
    best_ : matplotlib.lines.Line2D or None
        Marks the epoch of the smallest validation loss.
    """

    ax_: Any
    figure_: Any
    lines_: dict[str, Any]
    best_: Any

    @constrained({"history": [list, tuple]})
    def __init__(self, history: Sequence[dict[str, Any]]) -> None:
        self.history = history

    @classmethod
    @constrained()
    def from_estimator(cls, estimator: Any, *, ax: Any = None) -> HistoryDisplay:
        """Draw the training of a fitted model.

        Parameters
        ----------
        estimator : estimator, skorch net, pipeline or search
            A model that was trained by gradient descent, as `sklrp.explain` takes it.
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw. None (default) makes a figure.

        Returns
        -------
        HistoryDisplay
            The display, drawn.

        Raises
        ------
        TypeError
            If the model keeps no history: an echo state network, which is solved for, or a bare
            module.
        """
        model = _models.unwrap(estimator)
        history = getattr(model.network, "history_", getattr(model.network, "history", None))
        if history is None:
            raise TypeError(
                f"{model.name} has no history_: pass a fitted estimator or skorch net that was "
                "trained epoch by epoch."
            )
        return cls.from_history(history, ax=ax)

    @classmethod
    @constrained()
    def from_history(cls, history: Sequence[dict[str, Any]], *, ax: Any = None) -> HistoryDisplay:
        """Draw a history.

        Parameters
        ----------
        history : sequence of dict
            One entry for each epoch, with ``train_loss`` and, if there is one, ``valid_loss``.
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw. None (default) makes a figure.

        Returns
        -------
        HistoryDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If there is no epoch, or an epoch has no loss.
        """
        if not isinstance(history, list | tuple) or not all(
            isinstance(e, Mapping) for e in history
        ):
            raise TypeError(
                f"history must be a list of a dict for each epoch, got {type(history).__name__}."
            )
        if not len(history) or not all("train_loss" in epoch for epoch in history):
            raise ValueError(
                f"history must have a train_loss for each epoch, got {len(history)} epochs"
                f"{' with the keys ' + str(sorted(history[0])) if len(history) else ''}."
            )
        return cls(history).plot(ax=ax)

    @constrained()
    def plot(self, ax: Any = None) -> HistoryDisplay:
        """Draw the losses, on a logarithmic axis if they span more than a factor of 20.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw. None (default) makes a figure.

        Returns
        -------
        HistoryDisplay
            The display itself.
        """
        plt = import_optional("matplotlib.pyplot", extra="plot", user="HistoryDisplay")

        if ax is None:
            _, ax = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
        self.ax_, self.figure_ = ax, ax.figure
        self.lines_, self.best_ = {}, None
        epochs = np.arange(1, len(self.history) + 1)
        few = "o" if len(epochs) < 15 else None
        losses = {"train": [epoch["train_loss"] for epoch in self.history]}
        if all("valid_loss" in epoch for epoch in self.history):
            losses["valid"] = [epoch["valid_loss"] for epoch in self.history]
        for name, color, label in (("train", _TRAIN, "training"), ("valid", _VALID, "validation")):
            if name in losses:
                self.lines_[name] = ax.plot(
                    epochs, losses[name], color=color, label=label, marker=few, ms=3.5
                )[0]
        if "valid" in losses and np.isfinite(losses["valid"]).any():
            best = int(np.nanargmin(losses["valid"]))
            self.best_ = ax.axvline(
                epochs[best], color="0.35", ls=":", label=f"best validation: epoch {epochs[best]}"
            )
        values = np.concatenate(list(losses.values()))
        if values.min() > 0 and values.max() > _LOG_SPAN * values.min():
            ax.set_yscale("log")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_xlabel("epoch")
        ax.set_ylabel("loss")
        ax.legend(frameon=False, fontsize="small")
        return self
