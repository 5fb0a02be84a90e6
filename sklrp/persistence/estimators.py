"""`save` and `load`: estimators as JSON and arrays, and built anew without running any code.

Users call them, and so does the command line. A file holds classes of this package alone: each
estimator of it, which says itself what is kept of it, and a `RelevanceTransformer` around one.
They are built by their constructors, and every value is checked before it is set.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from torch import nn

from sklrp import classifiers
from sklrp._checks import shorten
from sklrp._models import unwrap
from sklrp._sklearn import OUTPUT_CONFIG, check_own_params, param_names
from sklrp._version import __version__
from sklrp.classifiers.base import NetworkEstimator
from sklrp.classifiers.sample_shapes import is_positive_integer
from sklrp.persistence.container import read_container, write_container
from sklrp.persistence.nets import pack_net, restore_net
from sklrp.persistence.values import Arrays, pack, unpack
from sklrp.transformer import RelevanceTransformer

_FORMAT = 1
_NETWORKS: dict[str, Any] = {name: getattr(classifiers, name) for name in classifiers.__all__}
_ESTIMATORS = {
    **_NETWORKS,
    "RelevanceTransformer": RelevanceTransformer,
    "FrozenEstimator": FrozenEstimator,
}
_NAMES = ", ".join(sorted(_NETWORKS, reverse=True))
_CAN_BE_SAVED = f"{_NAMES}, or a RelevanceTransformer around one of them"
_NAMED = ("device", "dtype")  # parameters that are saved by name
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


def _are_names(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype == object


# What a fitted estimator of any class may have.
_OPTIONAL: dict[str, Callable[[Any], bool]] = {
    "feature_names_in_": _are_names,
    OUTPUT_CONFIG: lambda value: isinstance(value, dict),
    "n_outputs_": is_positive_integer,  # of a transformer around a regressor
}


def save(estimator: Any, path: str | os.PathLike[str]) -> None:
    """Save an estimator as one file that runs no code when it is loaded.

    Use it to hand a network on, or to keep it: unlike a pickle, the file can be loaded from a
    source that is not trusted. It is a safetensors file: the network's parameters are tensors
    under their own names, ``module.<name>``; all else is JSON in the metadata. It holds the state
    of the optimizer and of the random numbers too, so that `load` resumes the training.

    Parameters
    ----------
    estimator : estimator, search, FrozenEstimator or RelevanceTransformer
        An estimator of this package, such as `MLPClassifier`, or a `RelevanceTransformer` around
        one, fitted or not. Of a search or a `FrozenEstimator` the network inside is saved, and of
        a pipeline of that one step. Other pipelines are not supported: save their last step.
    path : str or path-like
        The file, by custom ``*.safetensors``; it is replaced only when the new one is complete.

    Raises
    ------
    TypeError
        If the estimator, or one of its parameters, is nothing that such a file can hold, such as
        a pipeline, a skorch net, a callback, a function or a `RandomState`.
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
        "versions": {"sklrp": __version__, "torch": torch.__version__, "numpy": np.__version__},
        "estimator": _pack_estimator(estimator, "", arrays),
    }
    write_container(path, manifest, arrays)


def _pack_estimator(estimator: Any, prefix: str, arrays: Arrays) -> dict[str, Any]:
    """Return an estimator as JSON, its arrays put among those of the file."""
    is_inner = prefix != ""
    if isinstance(estimator, FrozenEstimator) and is_inner:
        inner = _pack_estimator(estimator.estimator, f"{prefix}estimator.", arrays)
        return {"class": "FrozenEstimator", "estimator": inner}
    if not isinstance(estimator, RelevanceTransformer) or is_inner:
        estimator = _take_network(estimator, prefix[:-1] or "estimator")
    kind = type(estimator).__name__
    if _ESTIMATORS.get(kind) is not type(estimator):
        raise TypeError(
            f"{prefix and prefix[:-1] + '='}{estimator!r} cannot be saved: a file holds an "
            f"{_CAN_BE_SAVED}."
        )
    packed: dict[str, Any] = {"class": kind}
    if isinstance(estimator, RelevanceTransformer):
        packed["estimator"] = _pack_estimator(estimator.estimator, f"{prefix}estimator.", arrays)
    _check_values(estimator)
    packed["params"] = {
        name: pack(_name(value) if name in _NAMED else value, f"{prefix}{name}", arrays)
        for name, value in estimator.get_params(deep=False).items()
        if name != "estimator"
    }
    _check_names(type(estimator), packed["params"])
    return {**packed, **_pack_fitted(estimator, prefix, arrays)}


def _pack_fitted(estimator: Any, prefix: str, arrays: Arrays) -> dict[str, Any]:
    """Return what fitting has added to an estimator as JSON."""
    kind = type(estimator).__name__
    apart = {*param_names(type(estimator)), "_skorch_params", "_fixed_params"}
    attributes = {k: v for k, v in vars(estimator).items() if k not in apart}
    net, network = attributes.pop("net_", None), attributes.pop("estimator_", None)
    if unknown := set(attributes) - {*estimator._saved, *_OPTIONAL}:
        raise TypeError(
            f"{kind} has the attribute {min(unknown)!r}, which a file does not hold: delete it, "
            "and set it anew after loading."
        )
    packed: dict[str, Any] = {
        "attributes": {k: pack(v, f"{prefix}{k}", arrays) for k, v in attributes.items()}
    }
    if net is not None:
        packed["net"] = pack_net(estimator, prefix, arrays)
    if network is not None and network is not estimator.estimator:
        packed["estimator_"] = _pack_estimator(network, f"{prefix}estimator_.", arrays)
    return packed


def _take_network(estimator: Any, name: str) -> Any:
    """Return the network of a model that is passed as ``name``, if a file can hold all of it."""
    model = unwrap(estimator, fitted=False, name=name)
    if model.before is not None:
        raise TypeError(
            f"{name} has steps before its network, which the file cannot hold: save the network "
            f"alone, sklrp.save({model.path}, path), and keep the steps by other means."
        )
    if isinstance(model.network, nn.Module) or not model.has_explain:
        is_module = isinstance(model.network, nn.Module)
        module = model.path if is_module else f"{model.path}.module_"
        raise TypeError(
            f"{name} is a {model.name}, which sklrp cannot rebuild from a file: save "
            f"its tensors, safetensors.torch.save_model({module}, path), whose counterpart "
            "load_model(module, path) reads them into a module that your own code has made."
        )
    return model.network


def _name(value: Any) -> str:
    """Return a device or a dtype by its name."""
    if isinstance(value, (str, torch.device, torch.dtype)):
        return str(value).removeprefix("torch.")
    return np.dtype(value).name


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
        If the file is not one of `save`, is of a newer format, was truncated, damaged or changed,
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
            raise ValueError(f"it has the extra tensors {shorten(str(sorted(arrays)))}")
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be loaded: {shorten(str(error).removesuffix('.'), 400)}."
        ) from error
    except _MALFORMED as error:
        raise ValueError(
            f"{path} cannot be loaded: its content is malformed ({type(error).__name__}: "
            f"{shorten(str(error))})."
        ) from error
    return estimator


def _build(packed: dict[str, Any], prefix: str, arrays: Arrays, device: Any) -> Any:
    """Return the estimator, taking its arrays out of those of the file."""
    kind = packed["class"]
    if kind not in _ESTIMATORS or (kind == "FrozenEstimator" and not prefix):
        raise ValueError(f"it holds the unknown class {kind!r}, but can hold an {_CAN_BE_SAVED}")
    if unknown := set(packed) - _PARTS:
        raise ValueError(f"{kind} has the unknown entries {sorted(unknown)}")
    inner = {}
    if "estimator" in packed:
        inner = {"estimator": _build(packed["estimator"], f"{prefix}estimator.", arrays, device)}
    if kind == "FrozenEstimator":
        return FrozenEstimator(**inner)
    estimator = _build_unfitted(_ESTIMATORS[kind], packed, inner, prefix, arrays)
    if device is not None and isinstance(estimator, NetworkEstimator):
        _move(estimator, device)
    _check_values(estimator)
    attributes = {k: unpack(v, f"{prefix}{k}", arrays) for k, v in packed["attributes"].items()}
    fitted = not {"net", "estimator_"}.isdisjoint(packed) or "classes_" in attributes
    _check_attributes(attributes, estimator, fitted=fitted)
    vars(estimator).update(attributes)
    if not fitted:
        return estimator
    if isinstance(estimator, NetworkEstimator):
        restore_net(estimator, packed["net"], prefix, arrays)
    elif "estimator_" in packed or not isinstance(estimator.estimator, FrozenEstimator):
        network = _build(packed["estimator_"], f"{prefix}estimator_.", arrays, device)
        _check_same_class(estimator.estimator, network)
        estimator.estimator_ = network
    else:
        estimator.estimator_ = estimator.estimator
    return estimator


def _check_same_class(given: Any, fitted: Any) -> None:
    """Refuse a transformer whose fitted network is of another class than the one it is to fit."""
    while isinstance(given, FrozenEstimator):
        given = given.estimator
    if type(given) is not type(fitted):
        raise ValueError(
            f"its estimator is a {type(given).__name__}, but what was fitted a "
            f"{type(fitted).__name__}"
        )


def _build_unfitted(
    cls: Any, packed: dict[str, Any], inner: dict[str, Any], prefix: str, arrays: Arrays
) -> Any:
    """Return an estimator of a class, with its parameters."""
    params = {k: unpack(v, f"{prefix}{k}", arrays) for k, v in packed["params"].items()}
    _check_names(cls, params)
    return cls(**inner, **params)


def _move(estimator: NetworkEstimator, device: Any) -> None:
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
    if number > _FORMAT:
        raise ValueError(
            f"it is of format {number}, written by sklrp {versions['sklrp']}, but sklrp "
            f"{__version__} reads formats up to {_FORMAT}: install a newer sklrp"
        )
    if unknown := set(manifest) - _MANIFEST:
        raise ValueError(f"it has the unknown entries {sorted(unknown)}")


def _check_attributes(attributes: dict[str, Any], estimator: Any, *, fitted: bool) -> None:
    """Raise an error if fitted attributes are missing, unknown, malformed or contradictory."""
    kind, needed = type(estimator).__name__, estimator._saved if fitted else {}
    for problem, names in (
        ("lacks", set(needed) - set(attributes)),
        ("has the unknown", set(attributes) - {*needed, *_OPTIONAL}),
    ):
        if names:
            raise ValueError(f"{kind} {problem} attributes {sorted(names)}")
    for name, value in attributes.items():
        if not {**needed, **_OPTIONAL}[name](value):
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


def _check_names(cls: Any, names: Iterable[str]) -> None:
    """Raise an error if there are parameters that a class does not have."""
    own = param_names(cls)
    takes_more = hasattr(cls, "_keep_kwargs")  # skorch's double-underscore parameters
    if unknown := [n for n in names if n not in own and not (takes_more and "__" in n)]:
        raise ValueError(f"{cls.__name__} has no parameters {unknown}")


def _check_values(estimator: Any) -> None:
    """Raise an error if a parameter is invalid, or is not one for a file."""
    if isinstance(estimator, RelevanceTransformer):
        estimator._check_params()
        if estimator.memory is not None:
            raise TypeError(
                f"memory={estimator.memory!r} cannot be saved, as it is a place on this machine: "
                "set_params(memory=None), and set it anew after loading."
            )
    else:
        check_own_params(estimator)
