"""`save` and `load`: estimators as JSON and arrays, and built anew without running any code.

Users call them, and so does the command line. A file holds classes of this package, which say
themselves what is kept of them, and pipelines of steps of scikit-learn that `.known_steps` lists.
Here is what is around an estimator: the format, the versions, the errors of a file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import sklearn
import torch

from sklrp._constraints import constrained
from sklrp._version import __version__
from sklrp._warnings import warn_user
from sklrp._wording import shorten
from sklrp.persistence.compounds import COMPOUNDS
from sklrp.persistence.container import read_container, write_container
from sklrp.persistence.known_steps import KNOWN
from sklrp.persistence.parts import build_part, pack_part
from sklrp.persistence.values import Arrays

_FORMAT = 1
_MANIFEST = {"format", "versions", "estimator"}
# What a malformed manifest makes constructors and checks raise, beside ValueError.
_MALFORMED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
)


@constrained()
def save(estimator: Any, path: str | os.PathLike[str]) -> None:
    """Save an estimator as one file that runs no code when it is loaded.

    Use it to hand a network on, or to keep it: unlike a pickle, the file can be loaded from a
    source that is not trusted. It is a safetensors file: the network's parameters are tensors
    under their own names, ``module.<name>``; all else is JSON in the metadata. It holds the state
    of the optimizer and of the random numbers too, so that `load` resumes the training. Of a
    pipeline it holds all steps: scalers, encoders, a climatology, a grid with its mask.

    Parameters
    ----------
    estimator : estimator, Pipeline, search, FrozenEstimator or RelevanceTransformer
        An estimator of this package, such as `MLPClassifier`, a `RelevanceTransformer` around
        one, or a pipeline of these, of the steps of `sklrp.geo` and `sklrp.preprocessing` and of
        scikit-learn's own steps, fitted or not. Of a search or a `FrozenEstimator` the model
        inside is saved, and of a pipeline of one step that step.
    path : str or path-like
        The file, by custom ``*.safetensors``; it is replaced only when the new one is complete.

    Raises
    ------
    TypeError
        If the estimator, or one of its parameters, is nothing that such a file can hold, such as
        a step that is not known, a skorch net, a callback, a function or a `RandomState`.
    ValueError
        If a parameter is invalid, or was changed after the training.
    OSError
        If the file cannot be written.

    See Also
    --------
    load : The way back.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> import sklrp
    >>> X, y, _ = sklrp.datasets.make_squares(n_per_class=20, size=10, random_state=0)
    >>> clf = sklrp.CNNClassifier(max_epochs=2, random_state=0).fit(X, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sklrp.save(clf, os.path.join(folder, "squares.safetensors"))
    ...     same = sklrp.load(os.path.join(folder, "squares.safetensors"))
    >>> np.array_equal(same.explain(X), clf.explain(X))
    True
    """
    arrays: Arrays = {}
    manifest = {
        "format": _FORMAT,
        "versions": {
            "sklrp": __version__,
            "scikit-learn": sklearn.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "estimator": pack_part(estimator, "", arrays),
    }
    write_container(path, manifest, arrays)


@constrained()
def load(path: str | os.PathLike[str], device: str | torch.device | None = None) -> Any:
    """Load an estimator that `save` has written, without running any code of the file.

    On the same kind of device and with the same versions of the libraries it predicts and explains
    to the bit as the one that was saved did, and `partial_fit`, or `fit` with ``warm_start=True``,
    go on as if it had never been saved. Steps of another version of scikit-learn are loaded with a
    warning, if this version has the same attributes.

    Parameters
    ----------
    path : str or path-like
        The file.
    device : str, torch.device or None, default=None
        Where the network is to be, whatever the parameter `device` was; None leaves that. The
        floating dtype stays that of the training.

    Returns
    -------
    estimator
        The estimator, of the class that was saved.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not one of `save`, is of a newer format, was truncated, damaged or changed,
        holds an unknown class or parameter, lacks a tensor or has one of another shape or dtype;
        or if there is no such device here.

    See Also
    --------
    save : Save an estimator, with an example.
    """
    manifest, arrays = read_container(path)
    note = ""
    try:
        _check_manifest(manifest)
        note = _compare_versions(manifest)
        estimator = build_part(manifest["estimator"], "", arrays, device)
        if arrays:
            raise ValueError(f"it has the extra tensors {shorten(str(sorted(arrays)))}")
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be loaded: {shorten(str(error).removesuffix('.'), 400)}.{note}"
        ) from error
    except _MALFORMED as error:
        raise ValueError(
            f"{path} cannot be loaded: its content is malformed ({type(error).__name__}: "
            f"{shorten(str(error))}).{note}"
        ) from error
    if note:
        warn_user(f"{path}:{note} Compare what it predicts.")
    return estimator


def _compare_versions(manifest: dict[str, Any]) -> str:
    """Return what to say if a file has steps of another scikit-learn than is here."""
    known = {*COMPOUNDS, *KNOWN}
    if known.isdisjoint(_walk_classes(manifest["estimator"])):
        return ""
    written = manifest["versions"].get("scikit-learn")
    if not isinstance(written, str):
        raise ValueError("its versions do not say by what scikit-learn its steps were fitted")
    if written == sklearn.__version__:
        return ""
    return (
        f" Its steps were fitted by scikit-learn {shorten(written, 40)}, but here is "
        f"{sklearn.__version__}: install that, or fit and save anew."
    )


def _walk_classes(packed: Any) -> Iterator[str]:
    """Yield the names of all classes in what is packed."""
    if isinstance(packed, dict):
        if isinstance(packed.get("class"), str):
            yield packed["class"]
        packed = list(packed.values())
    if isinstance(packed, list):
        for part in packed:
            yield from _walk_classes(part)


def _check_manifest(manifest: dict[str, Any]) -> None:
    """Raise an error unless all that is around the estimator is as `save` writes it."""
    number, versions = manifest["format"], manifest["versions"]
    if type(number) is not int or number < 1:
        raise ValueError(f"its format is {number!r}, but should be a positive integer")
    if not isinstance(versions.get("sklrp"), str):
        raise ValueError("its versions do not say by what sklrp it was written")
    if number > _FORMAT:
        raise ValueError(
            f"it is of format {number}, written by sklrp {versions['sklrp']}, but sklrp "
            f"{__version__} reads formats up to {_FORMAT}: install a newer sklrp"
        )
    if unknown := set(manifest) - _MANIFEST:
        raise ValueError(f"it has the unknown entries {sorted(unknown)}")
