"""What the commands share: options, and checks of what is read and where is written.

`.explain_command` and `.diagnose_command` put their options together from here.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_regressor
from sklearn.exceptions import NotFittedError

import sklrp
from sklrp._models import unwrap
from sklrp.cli.samples import Samples, find_class
from sklrp.geo.relevance_fields import describe_target


def file_path(**kwargs: Any) -> click.Path:
    """Return the type of an argument that names a file."""
    return click.Path(path_type=Path, **kwargs)


EXISTING = file_path(exists=True, dir_okay=False)
SAMPLES = file_path(exists=True)  # a zarr store is a folder
RULE = click.option(
    "--rule",
    default="auto",
    show_default=True,
    metavar="NAME",
    help=f"How relevance is passed on: {', '.join(sklrp.available_rules())}.",
)
EPSILON = click.option(
    "--epsilon",
    type=click.FloatRange(min=0),
    default=1e-6,
    show_default=True,
    help="Stabiliser of the rules that have none of their own, in units of pre-activations.",
)
TARGET = click.option(
    "--target",
    metavar="LABEL",
    help="What is explained: a class; of a regressor the index of an output, or several for their "
    "sum, such as 0,2 or 3:6; all, where an axis for them is made. By default the predicted class "
    "of each sample, or the only output.",
)
CONTRAST = click.option(
    "--contrast", is_flag=True, help="Explain the logit minus the largest of the other classes."
)
VARIABLE = click.option(
    "--variable", metavar="NAME", help="Which array of DATA, where it holds several."
)
FILL = click.option(
    "--fill",
    type=float,
    metavar="NUMBER",
    help="What to put in place of missing values, such as 0 on land; they are an error by "
    "default.",
)
DEVICE = click.option(
    "--device", metavar="NAME", help="cpu, cuda, cuda:1, ...; that of the model by default."
)


_MOST_OUTSIDE = 0.01  # of all values


def shows_progress() -> bool:
    """Tell whether a person looks at stderr."""
    return sys.stderr is not None and sys.stderr.isatty()


def load_model(path: Path, device: str | None) -> tuple[Any, NDArray]:
    """Return the fitted estimator of a file, and its classes, or the numbers of its outputs."""
    # Its features need no names: the columns of a file are taken by name already.
    loaded = sklrp.load(path, device)
    try:
        model = unwrap(loaded)
        is_fitted = model.has_explain
    except (TypeError, NotFittedError):
        is_fitted = False
    if not is_fitted:
        raise ValueError(
            f"{path} holds {type(loaded).__name__}, but must hold a fitted classifier or "
            "regressor; of a RelevanceTransformer, save its estimator_."
        )
    classes = model.classes
    if classes is None:
        classes = np.arange(model.network.n_outputs_)
    warnings.filterwarnings("ignore", "X does not have valid feature names")
    return model.network, classes


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
        return text, "the only output" if text is None else describe_target(text)
    mask = np.zeros(n_outputs, dtype=bool)
    for part in text.split(","):
        first, colon, behind = part.partition(":")
        try:
            ends = int(first), int(behind) if colon else int(first) + 1
        except ValueError:
            ends = 0, 0
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


def check_samples(samples: Samples) -> None:
    """Refuse samples without an entry, naming what was read."""
    if len(samples.shape) < 2 or not all(samples.shape):
        raise ValueError(
            f"{samples.path} has the shape {samples.shape}, but must hold samples along the first "
            "axis and their values along others."
        )


class RangeWarning:
    """Says once that samples are far from what a model was trained on.

    Fields as downloaded and a model of their anomalies have the same shape, so that nothing else
    would tell them apart.

    Parameters
    ----------
    model : estimator
        The fitted classifier. Its ``input_range_`` is the range of all values in ``fit``; of a
        model that has none nothing is said.
    samples : Samples
        Where the samples are from.
    """

    def __init__(self, model: Any, samples: Samples) -> None:
        self._range = getattr(model, "input_range_", None)
        self._path = samples.path

    def __call__(self, X: NDArray) -> None:
        """Look at samples, until there was something to say."""
        if self._range is None or not X.size:
            return
        low, high = self._range
        # New samples reach a little further than those in training: half as far again is far.
        margin = (high - low) / 2
        share = float(((low - margin > X) | (high + margin < X)).mean())
        if share > _MOST_OUTSIDE:
            self._range = None
            click.echo(
                f"Warning: {share:.0%} of the values in {self._path} ({np.nanmin(X):.4g} to "
                f"{np.nanmax(X):.4g}) lie far outside those that the model was trained on "
                f"({low:.4g} to {high:.4g}): give it what it was trained on, such as anomalies "
                "or scaled values.",
                err=True,
            )


def check_out(out: Path, *inputs: Path) -> None:
    """Raise an error, before anything takes time, if a file cannot be written or must not be."""
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out.parent} is no folder: make it, or choose another for {out}")
    if not os.access(out.parent, os.W_OK):
        raise PermissionError(f"{out.parent} cannot be written to: choose another for {out}")
    if out.resolve() in [path.resolve() for path in inputs]:
        raise ValueError(f"{out} is an input too: choose another name for what is written.")
    is_store = any((out / name).is_file() for name in ("zarr.json", ".zgroup"))
    if out.is_dir() and not is_store:
        raise IsADirectoryError(f"{out} is a folder: choose another name, or remove it.")
    if out.exists() and (is_store or not out.is_file()) != (out.suffix.lower() == ".zarr"):
        raise ValueError(f"{out} is there, as something else: choose another name, or remove it.")
