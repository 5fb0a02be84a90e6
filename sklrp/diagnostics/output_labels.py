"""Which outputs a model can be explained for, and whether labels or values are of them.

`Explained` asks here what its target, its labels and those of the training samples mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklrp._checks import as_values, check_not_one_hot, encode_labels, flatten_column, look_up
from sklrp._missing import as_plain_array
from sklrp.geo.coordinates import is_dataset


@dataclass(frozen=True)
class OutputLabels:  # numpydoc ignore=PR02
    """The outputs of a model, and what they are called.

    Parameters
    ----------
    model : Model or PlainModel
        The model, taken apart.
    classes : ndarray of shape (n_outputs,) or None
        The labels of the outputs; None of a regression or a single output.
    n_outputs : int
        How many outputs there are to choose from.
    """

    model: Any
    classes: NDArray | None
    n_outputs: int

    def choose(self, target: Any, n_samples: int, samples: Callable[[], Any]) -> NDArray | None:
        """Return the label, or the index of the output, explained of each of all samples."""
        known = np.arange(self.n_outputs) if self.classes is None else self.classes
        codes = None if target is None else encode_labels("target", target, known, n_samples)
        if self.n_outputs == 1:
            return None
        if codes is not None:
            return known[codes]
        if self.classes is None:
            raise ValueError(
                f"target=None, but {self.model.name} is a regression of {self.n_outputs} "
                "outputs: choose one by its index."
            )
        return np.asarray(self.model.predict(samples()))

    def check(self, name: str, y: ArrayLike, n_samples: int) -> NDArray:
        """Return one label for each sample, or the values of a regression."""
        labels = as_plain_array(y, name)
        if self.classes is not None:
            labels = flatten_column(name, labels)
        if self.classes is None and labels.shape in ((n_samples, 1), (n_samples, self.n_outputs)):
            return as_values(name, labels)
        if labels.shape != (n_samples,):
            what = "label" if self.classes is not None else "value"
            raise ValueError(
                f"{name} must hold one {what} for each of {n_samples} samples, got the shape "
                f"{labels.shape}."
            )
        return labels if self.classes is not None else as_values(name, labels)

    def check_training(self, y_train: ArrayLike, n_samples: int) -> NDArray:
        """Return the labels or values of the training samples, of all classes."""
        labels = self.check("y_train", y_train, n_samples)
        if self.classes is None:
            return labels
        if unknown := look_up(labels, self.classes)[1]:
            raise ValueError(
                f"y_train has the unknown labels {unknown}; the classes of the model are "
                f"{self.classes.tolist()}."
            )
        absent = np.setdiff1d(self.classes, labels)
        if len(absent) and self.model.has_explain:  # a clone would have fewer outputs
            raise ValueError(
                f"y_train has no sample of the class {absent.tolist()[0]!r}, which the model "
                "knows: give all that it was trained on."
            )
        return labels


def find_labels(model: Any, one: Any, y: Any, n_samples: int) -> tuple[OutputLabels, Any]:
    """Return what a model's outputs are called, and labels with an axis of outputs at most."""
    classes = model.classes_for(one)
    n_outputs = _count_choices(model, classes, one)
    if is_dataset(y):
        as_plain_array(y, "y")  # which refuses it by a line that works
    if np.ndim(y) > 2 and np.size(y) == n_samples * n_outputs:  # fields of values
        y = np.reshape(y, (n_samples, n_outputs))
    if classes is not None and y is not None:
        check_not_one_hot("y", y, len(classes))
    is_of_outputs = np.shape(y) == (n_samples, n_outputs) != (n_samples, 1)
    if is_of_outputs and model.classes is None:
        classes = None  # a value for each output, of a network that does not say so
    return OutputLabels(model, classes, n_outputs), y


def _count_choices(model: Any, classes: NDArray | None, one: Any) -> int:
    """Return how many outputs there are to choose from."""
    if model.has_explain and model.reading is None:
        own: int = getattr(model.network, "n_outputs_", 1)  # of a regressor
        return own if classes is None else len(classes)
    return int(model.outputs(one).shape[1])
