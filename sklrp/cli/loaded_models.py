"""The model of a file, what is asked of it, and how far samples are from its training.

`.explain_command` and `.diagnose_command` call it before anything takes time.
"""

from __future__ import annotations

import math
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_regressor
from sklearn.exceptions import NotFittedError

import sklrp
from sklrp._model_parts import Model
from sklrp._models import unwrap
from sklrp._value_range import range_in_training, say_far
from sklrp.cli.field_samples import FieldSamples
from sklrp.cli.samples import Samples, find_class
from sklrp.geo.relevance_fields import describe_target
from sklrp.geo.vectorizer import GridVectorizer

# What is said of samples far outside of training, where `RangeWarning` names their file.
_OF_X = r"\d+% of the values (in|that the model's steps make of) (X|data) "


def shows_progress() -> bool:
    """Tell whether a person looks at stderr."""
    return sys.stderr is not None and sys.stderr.isatty()


class Loaded(NamedTuple):  # numpydoc ignore=PR02
    """A fitted model that came out of a file.

    Parameters
    ----------
    estimator : estimator or Pipeline
        All of it.
    parts : Model
        The same, taken apart.
    classes : ndarray of shape (n_outputs,)
        Its classes, or the numbers of its outputs.
    """

    estimator: Any
    parts: Model
    classes: NDArray

    @property
    def network(self) -> Any:
        """The network, without the steps before it."""
        return self.parts.network

    @property
    def vectorizer(self) -> GridVectorizer | None:
        """The step that takes fields of xarray, None if the model takes arrays."""
        steps = [] if self.parts.before is None else self.parts.before.named_steps.values()
        found = [step for step in steps if isinstance(step, GridVectorizer)]
        is_gridded = found and hasattr(found[0].grid_, "sample_dim")
        return found[0] if is_gridded else None

    def open(self, path: Path, variable: str | None, fill: float | None) -> Samples | FieldSamples:
        """Return the samples of a file, as fields if the model takes these.

        Parameters
        ----------
        path : pathlib.Path
            The file.
        variable : str or None
            Which array of it, where it holds several.
        fill : float or None
            What to put in place of missing values.

        Returns
        -------
        Samples or FieldSamples
            The samples, open.
        """
        if fill is not None and not math.isfinite(fill):
            raise ValueError(f"--fill {fill}: give a finite number, such as 0.")
        if self.vectorizer is not None:
            if fill is not None:
                raise ValueError(
                    f"--fill {fill}: leave it out, the model's GridVectorizer knows the land."
                )
            return FieldSamples(path, self.vectorizer, variable)
        columns = getattr(self.estimator, "feature_names_in_", None)
        as_table = columns is not None and self.parts.before is not None
        samples = Samples(path, variable, columns, fill, as_table=as_table)
        if len(samples.shape) < 2 or not all(samples.shape):
            raise ValueError(
                f"{path} has the shape {samples.shape}, but must hold samples along the first "
                "axis and their values along others."
            )
        known = getattr(self.estimator, "n_features_in_", None)
        n_values = math.prod(samples.shape[1:])
        if known is not None and n_values != known:  # before any of them is read
            raise ValueError(
                f"{path} holds samples of shape {samples.shape[1:]}, {n_values} values each, but "
                f"the model takes {known}: give samples as it was trained on."
            )
        return samples


def load_model(path: Path, device: str | None) -> Loaded:
    """Return the fitted model of a file.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    device : str or None
        Where its network is to be.

    Returns
    -------
    Loaded
        The model.

    Raises
    ------
    ValueError
        If there is no fitted network at its end.
    """
    # Its features need no names: the columns of a file are taken by name already.
    loaded = sklrp.load(path, device)
    try:
        parts = unwrap(loaded)
        is_fitted = parts.has_explain
    except (TypeError, NotFittedError):
        is_fitted = False
    if not is_fitted:
        raise ValueError(
            f"{path} holds {type(loaded).__name__}, but must hold a fitted classifier or "
            "regressor, or a pipeline that ends in one; of a RelevanceTransformer, save its "
            "estimator_."
        )
    classes = parts.classes
    if classes is None:
        classes = np.arange(parts.network.n_outputs_)
    warnings.filterwarnings("ignore", "X does not have valid feature names")
    warnings.filterwarnings("ignore", _OF_X)
    return Loaded(loaded, parts, classes)


def parse_target(text: str | None, network: Any, classes: NDArray) -> tuple[Any, str]:
    """Return what is explained, as `sklrp.explain` takes it, and in words.

    Parameters
    ----------
    text : str or None
        The value of ``--target``.
    network : estimator
        The fitted classifier or regressor.
    classes : ndarray of shape (n_outputs,)
        Its classes, or the numbers of its outputs.

    Returns
    -------
    target : object
        None, ``"all"``, a label, an index or a mask over the outputs, for their sum.
    said : str
        The same in words.

    Raises
    ------
    ValueError
        If there is no such class or output, or none is named of several.
    """
    if not is_regressor(network):
        label = text if text in (None, "all") else find_class(text, classes, "--target")
        return label, describe_target(label)
    n_outputs = len(classes)
    if text is None and n_outputs > 1:
        raise ValueError(
            f"--target is needed, as the model predicts {n_outputs} values: give the index of "
            f"one, 0 to {n_outputs - 1}, several for their sum, such as 0,1, or all."
        )
    if text in (None, "all"):
        return text, describe_target(text, regression=True)
    mask = np.zeros(n_outputs, dtype=bool)
    for part in text.split(","):
        ends = 0, 0
        if found := re.fullmatch(r"\s*([0-9]{1,9})(:([0-9]{1,9}))?\s*", part):
            first, _, behind = found.groups()
            ends = int(first), int(first) + 1 if behind is None else int(behind)
        if not 0 <= ends[0] < ends[1] <= n_outputs:
            raise ValueError(
                f"--target {text}: {part!r} is no output of the model, which predicts {n_outputs} "
                f"values: give the index of one, 0 to {n_outputs - 1}, several such as 0,1, or a "
                f"range such as 0:{n_outputs}, whose end is left out."
            )
        mask[slice(*ends)] = True
    if mask.sum() == 1:
        return int(mask.argmax()), f"output {mask.argmax()}"
    return mask, f"sum of the outputs {text}"


class RangeWarning:
    """Says once that samples are far from what a network was trained on.

    Fields as downloaded and a model of their anomalies have the same shape, so that nothing else
    would tell them apart.

    Parameters
    ----------
    loaded : Loaded
        The model. Its network's ``input_range_`` is the range of all values in ``fit``; of a
        network that has none nothing is said.
    path : pathlib.Path
        Where the samples are from.
    """

    def __init__(self, loaded: Loaded, path: Path) -> None:
        self._range = range_in_training(loaded.parts)
        self._path = path
        self._behind_steps = loaded.parts.before is not None

    def __call__(self, enter: Callable[[], Any]) -> None:
        """Look at what enters the network, until there was something to say."""
        if self._range is None:
            return
        if said := say_far(enter(), self._range, str(self._path), self._behind_steps):
            self._range = None
            click.echo(f"warning: {said}", err=True)
