"""`load`: estimators built anew from JSON and arrays, with everything checked and no code run.

Users call it as `sklrp.load`, and the command line for its MODEL. Only classes of this package are
built, by their constructors, and every value is checked before it is set.
"""

from __future__ import annotations

import math
import os
from typing import Any

import torch
from sklearn.frozen import FrozenEstimator

from sklrp._version import __version__
from sklrp.classifiers.base import NetworkClassifier
from sklrp.persistence.container import read_container
from sklrp.persistence.contents import (
    CAN_BE_SAVED,
    ESTIMATORS,
    FORMAT,
    OPTIONAL,
    check_parameters,
    check_params,
)
from sklrp.persistence.nets import restore_net
from sklrp.persistence.values import Arrays, unpack

_MANIFEST = {"format", "versions", "estimator"}
_PARTS = {"class", "params", "attributes", "net", "estimator", "estimator_"}
# What a malformed manifest makes constructors and checks raise, beside ValueError.
_MALFORMED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
)


def load(path: str | os.PathLike[str], device: str | torch.device | None = None) -> Any:
    """Load an estimator that `save` has written, without running any code of the file.

    On the same kind of device and with the same versions of the libraries it predicts and explains
    to the bit as the one that was saved did, and `partial_fit`, or `fit` with ``warm_start=True``,
    go on as if it had never been saved.

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
        If the file is none of `save`, is of a newer format, was truncated, damaged or changed,
        holds an unknown class or parameter, lacks a tensor or has one of another shape or dtype;
        or if there is no such device here.

    See Also
    --------
    save : Save an estimator, with an example.
    """
    manifest, arrays = read_container(path)
    try:
        _check_manifest(manifest)
        estimator = _build(manifest["estimator"], "", arrays, device)
        if arrays:
            raise ValueError(f"it has the extra tensors {sorted(arrays)}")
    except ValueError as error:
        raise ValueError(f"{path} cannot be loaded: {str(error).removesuffix('.')}.") from error
    except _MALFORMED as error:
        raise ValueError(
            f"{path} cannot be loaded: its content is malformed ({type(error).__name__}: {error})."
        ) from error
    return estimator


def _build(packed: dict[str, Any], prefix: str, arrays: Arrays, device: Any) -> Any:
    """Return the estimator, taking its arrays out of those of the file."""
    kind = packed["class"]
    if kind not in ESTIMATORS or (kind == "FrozenEstimator" and not prefix):
        raise ValueError(f"it holds the unknown class {kind!r}, but can hold an {CAN_BE_SAVED}")
    if unknown := set(packed) - _PARTS:
        raise ValueError(f"{kind} has the unknown entries {sorted(unknown)}")
    inner = {}
    if "estimator" in packed:
        inner = {"estimator": _build(packed["estimator"], f"{prefix}estimator.", arrays, device)}
    if kind == "FrozenEstimator":
        return FrozenEstimator(**inner)
    estimator = _build_unfitted(ESTIMATORS[kind], packed, inner, prefix, arrays)
    if device is not None and isinstance(estimator, NetworkClassifier):
        _move(estimator, device)
    check_params(estimator)
    attributes = {k: unpack(v, f"{prefix}{k}", arrays) for k, v in packed["attributes"].items()}
    fitted = not {"net", "estimator_"}.isdisjoint(packed) or "classes_" in attributes
    _check_attributes(attributes, estimator, fitted=fitted)
    vars(estimator).update(attributes)
    if not fitted:
        return estimator
    if isinstance(estimator, NetworkClassifier):
        restore_net(estimator, packed["net"], prefix, arrays)
    elif "estimator_" in packed or not isinstance(estimator.estimator, FrozenEstimator):
        network = _build(packed["estimator_"], f"{prefix}estimator_.", arrays, device)
        estimator.estimator_ = network
    else:
        estimator.estimator_ = estimator.estimator
    return estimator


def _build_unfitted(
    cls: Any, packed: dict[str, Any], inner: dict[str, Any], prefix: str, arrays: Arrays
) -> Any:
    """Return an estimator of a class, with its parameters."""
    params = {k: unpack(v, f"{prefix}{k}", arrays) for k, v in packed["params"].items()}
    check_parameters(cls, params)
    return cls(**inner, **params)


def _move(estimator: NetworkClassifier, device: Any) -> None:
    """Put the network on another device than the parameter `device` says."""
    estimator.device = str(device)
    if "iterator_train__device" in estimator.get_params():
        estimator.set_params(iterator_train__device="auto")


def _check_manifest(manifest: dict[str, Any]) -> None:
    """Raise an error unless all that is around the estimator is as `save` writes it."""
    number, versions = manifest["format"], manifest["versions"]
    if type(number) is not int or number < 1:
        raise ValueError(f"its format is {number!r}, but should be a positive integer")
    if not isinstance(versions.get("sklrp"), str):
        raise ValueError("its versions do not say by what sklrp it was written")
    if number > FORMAT:
        raise ValueError(
            f"it is of format {number}, written by sklrp {versions['sklrp']}, but sklrp "
            f"{__version__} reads formats up to {FORMAT}: install a newer sklrp"
        )
    if unknown := set(manifest) - _MANIFEST:
        raise ValueError(f"it has the unknown entries {sorted(unknown)}")


def _check_attributes(attributes: dict[str, Any], estimator: Any, *, fitted: bool) -> None:
    """Raise an error if fitted attributes are missing, unknown, malformed or contradictory."""
    kind, needed = type(estimator).__name__, estimator._saved if fitted else {}
    for problem, names in (
        ("lacks", set(needed) - set(attributes)),
        ("has the unknown", set(attributes) - {*needed, *OPTIONAL}),
    ):
        if names:
            raise ValueError(f"{kind} {problem} attributes {sorted(names)}")
    for name, value in attributes.items():
        if not {**needed, **OPTIONAL}[name](value):
            raise ValueError(f"{name} of {kind} is malformed: {str(value)[:80]}")
    n_features = attributes.get("n_features_in_")
    for name, size in (
        ("input_shape_", math.prod),
        ("sample_shape_", math.prod),
        ("map_shape_", math.prod),
        ("feature_names_in_", len),
    ):
        if name in attributes and size(attributes[name]) != n_features:
            raise ValueError(f"{name} of {kind} does not go with n_features_in_={n_features}")
