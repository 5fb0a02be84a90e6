"""Labels and masks that the commands are given as files.

The commands call it: labels are matched to the classes of the model, masks are checked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklrp.cli.samples import Samples, load_numpy


def read_labels(path: Path, classes: NDArray[Any], n_samples: int) -> NDArray[Any]:
    """Return labels from a npy file, or from a text file of one label per line.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    classes : ndarray of shape (n_classes,)
        The classes of the model.
    n_samples : int
        Number of labels that there should be; a text file may have a line above them.

    Returns
    -------
    ndarray of shape (n_samples,)
        The labels, as the model has them.
    """
    if path.suffix.lower() == ".npy":
        given = load_numpy(path).ravel().tolist()
    else:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is neither a .npy file nor a text file: {error}") from error
        given = [line.strip() for line in text.splitlines()]
        given = [line.strip("\"'") for line in given if line]
        if len(given) == n_samples + 1 and given[0] not in map(str, classes):
            del given[0]
    if len(given) != n_samples:
        raise ValueError(f"{path} holds {len(given)} labels, but there are {n_samples} samples.")
    return np.array([find_class(label, classes, str(path)) for label in given], classes.dtype)


def find_class(label: Any, classes: NDArray[Any], owner: str) -> Any:
    """Return the class that is a label, or is written as it.

    Parameters
    ----------
    label : object
        The label, or its text.
    classes : ndarray of shape (n_classes,)
        The classes of the model.
    owner : str
        Where the label comes from, for the error.

    Returns
    -------
    object
        The class.
    """
    known = classes.tolist()
    found = [c for c in known if c == label] or [c for c in known if str(c) == str(label)]
    if not found:
        raise ValueError(f"{owner}: {label!r} is none of the model's classes {known}.")
    return found[0]


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Return a mask in the shape of a sample, from a file of zeros and ones.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Returns
    -------
    ndarray of bool
        The mask.
    """
    with Samples(path) as file:
        mask = file.read()
    if not np.isin(mask, (0, 1)).all():
        raise ValueError(f"{path} must hold zeros and ones, or False and True, got other values.")
    return mask.astype(bool)
