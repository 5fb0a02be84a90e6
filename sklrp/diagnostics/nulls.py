"""Null models: networks that have lost something that the explained network has.

A null model is one class: its name, how it is drawn, what it has lost, from which likeness on the
map of the explained network is an artifact, and what to do then. `randomization_test`,
`artifact_map` and `diagnose` read all of this here; another null model is another class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from sklrp._model_parts import Model
from sklrp.metrics.randomise import list_layers, with_start

# Trains a clone of the network with a seed, on permuted labels or on the labels as they are.
Train = Callable[[int, bool], Any]


class NullModel(ABC):
    """What is common to null models.

    Attributes
    ----------
    name : str
        The value of the parameter ``null``.
    finding : str
        Name of the finding of `randomization_test`.
    lost : str
        What such networks have lost, in words that follow "networks".
    advice : str
        What to change where the map is such a network's.
    artifact_above, fact_below : float
        The map is an artifact where its likeness to theirs, the mean absolute cosine, is above
        the first, and a fact where it is below the second.
    convicts : bool
        Whether a map is an artifact for this alone; else the finding is a caution.
    trains : bool
        Whether a draw trains a clone, which needs labels and takes time.
    by_layer : bool
        Whether the test also shows how the map changes as layer after layer is lost.
    """

    name: ClassVar[str]
    finding: ClassVar[str]
    lost: ClassVar[str]
    advice: ClassVar[str]
    # Of 167 sound maps of the planted suite 95 of 100 are below .44 and the most is .78; maps that
    # forget what was learned have .94 to 1.
    artifact_above: ClassVar[float] = 0.9
    fact_below: ClassVar[float] = 0.6
    convicts: ClassVar[bool] = False
    trains: ClassVar[bool] = False
    by_layer: ClassVar[bool] = False

    @abstractmethod
    def draw(self, model: Model, seed: int, train: Train) -> Any:
        """Return a network that has lost what this null model is about.

        Parameters
        ----------
        model : Model
            The explained network, which is left as it is.
        seed : int
            Determines all that is drawn.
        train : callable
            ``train(seed, permuted)`` returns a clone that is trained on the training data, whose
            labels are permuted if so asked.

        Returns
        -------
        estimator, skorch net or nn.Module
            The network.
        """

    def fits(self, model: Model) -> bool:
        """Tell whether the null model says anything about a network that other ones do not.

        Parameters
        ----------
        model : Model
            The explained network.

        Returns
        -------
        bool
            The answer.
        """
        return True


class Network(NullModel):
    """All that was learned: every layer is as its own `reset_parameters` draws it."""

    # Of an echo state network that is the readout: its reservoir is no parameter.
    name = "network"
    finding = "randomization"
    lost = "before any training"
    advice = (
        "The architecture and the input alone give this map: choose a rule that keeps the sign of "
        "contributions, such as rule='epsilon', and compare its map with the null."
    )
    convicts = True
    by_layer = True

    def draw(self, model: Model, seed: int, train: Train) -> Any:
        """Give all layers their start."""
        return with_start(model, seed)


class Readout(NullModel):
    """The last layer that was learned."""

    name = "readout"
    finding = "readout"
    lost = "with the last layer as before training"
    advice = (
        "The map shows what the hidden layers see, whatever the readout makes of it: explain with "
        "a rule that keeps the sign of contributions, at least on the dense layers."
    )
    # Hidden layers that have learned the task give similar maps under any readout; how similar,
    # is a convention.
    artifact_above = 0.97
    fact_below = 0.95

    def draw(self, model: Model, seed: int, train: Train) -> Any:
        """Give the last layer its start."""
        return with_start(model, seed, slice(-1, None))

    def fits(self, model: Model) -> bool:
        """Tell whether the readout is less than all that was learned."""
        return len(list_layers(model.module)) > 1


class Labels(NullModel):
    """The relation of labels and samples, by training a clone on permuted labels."""

    name = "labels"
    finding = "labels"
    lost = "trained on permuted labels"
    advice = (
        "A network that has learned nothing true gives this map: check the labels, train on more "
        "samples or regularise, and choose another rule."
    )
    trains = True

    def draw(self, model: Model, seed: int, train: Train) -> Any:
        """Train a clone on permuted labels."""
        return train(seed, True)


NULLS: dict[str, NullModel] = {null.name: null() for null in NullModel.__subclasses__()}
