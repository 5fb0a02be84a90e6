"""Estimators and steps as JSON and arrays, and built anew by their constructors.

`.estimators` calls it for what `save` is given and a file holds: an estimator of this package, a
`RelevanceTransformer` around one, a pipeline of known steps. Every value is checked before it is
set, and before it is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from torch import nn

from sklrp import classifiers
from sklrp._checks import is_positive_integer
from sklrp._models import is_search, unwrap
from sklrp._sklearn import OUTPUT_CONFIG, param_names
from sklrp._wording import say_value, shorten
from sklrp.classifiers.base import NetworkEstimator
from sklrp.persistence.compounds import (
    COMPOUNDS,
    build_compound,
    check_own_values,
    pack_compound,
    refuse_memory,
)
from sklrp.persistence.known_steps import KNOWN, Known, find_known
from sklrp.persistence.nets import pack_net, restore_net
from sklrp.persistence.values import Arrays, pack, pack_scalar, unpack
from sklrp.transformer import RelevanceTransformer

_NETWORKS: dict[str, Any] = {name: getattr(classifiers, name) for name in classifiers.__all__}
_ESTIMATORS = {
    **_NETWORKS,
    "RelevanceTransformer": RelevanceTransformer,
    "FrozenEstimator": FrozenEstimator,
}
_NAMES = ", ".join(sorted(_NETWORKS, reverse=True))
_CAN_BE_SAVED = f"{_NAMES}, a RelevanceTransformer around one, or a pipeline"
_KNOWN_STEPS = ", ".join(sorted({*KNOWN, *COMPOUNDS}))
_NAMED = ("device", "dtype")  # parameters that are saved by name
_PARTS = {"class", "params", "attributes", "net", "estimator", "estimator_"}
_STEP_PARTS = {"class", "params", "attributes", "inner"}


def _are_names(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype == object


# What a fitted estimator of any class may have.
_OPTIONAL: dict[str, Callable[[Any], bool]] = {
    "feature_names_in_": _are_names,
    OUTPUT_CONFIG: lambda value: isinstance(value, dict),
    "n_outputs_": is_positive_integer,  # of a transformer around a regressor
}


def pack_part(estimator: Any, prefix: str, arrays: Arrays) -> dict[str, Any]:
    """Return an estimator or a step as JSON, its arrays put among those of the file.

    Parameters
    ----------
    estimator : estimator
        The estimator.
    prefix : str
        Of the names of its arrays; empty for the estimator that a file is of.
    arrays : dict of str to ndarray
        The arrays of the file so far.

    Returns
    -------
    dict
        What `build_part` takes.

    Raises
    ------
    TypeError
        If the estimator, or one in it, is nothing that a file holds.
    ValueError
        If a parameter is invalid, or an attribute malformed.
    """
    is_inner = prefix != ""
    if isinstance(estimator, FrozenEstimator) and is_inner:
        inner = pack_part(estimator.estimator, f"{prefix}estimator.", arrays)
        return {"class": "FrozenEstimator", "estimator": inner}
    found = _open_model(estimator, is_inner)
    kind = type(found).__name__
    if (
        kind in COMPOUNDS
        and COMPOUNDS[kind][0] is type(found)
        and (is_inner or kind == "Pipeline")
    ):
        return pack_compound(found, prefix, arrays, lambda part, at: pack_part(part, at, arrays))
    step = find_known(kind) if is_inner else None
    if step is not None and step[0] is type(found):
        return _pack_known(found, step[1], prefix, arrays)
    if type(found) is not RelevanceTransformer:
        found = _take_network(estimator, prefix)
    return _pack_network(found, prefix, arrays)


def _open_model(estimator: Any, is_inner: bool) -> Any:
    """Return what a search has found; of a file's own estimator also what else is around it."""
    while True:
        if is_search(estimator):
            is_fitted = hasattr(estimator, "best_estimator_")
            estimator = estimator.best_estimator_ if is_fitted else estimator.estimator
        elif not is_inner and isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
        elif not is_inner and type(estimator) is Pipeline and _is_of_one(estimator):
            estimator = estimator.steps[-1][1]
        else:
            return estimator


def _is_of_one(pipeline: Pipeline) -> bool:
    """Tell whether a pipeline is no more than its last step."""
    return all(step in (None, "passthrough") for _, step in pipeline.steps[:-1])


def _pack_network(estimator: Any, prefix: str, arrays: Arrays) -> dict[str, Any]:
    """Return an estimator of this package as JSON."""
    kind = type(estimator).__name__
    if _ESTIMATORS.get(kind) is not type(estimator):
        raise TypeError(
            f"{prefix and prefix[:-1] + '='}{estimator!r} cannot be saved: a file holds an "
            f"{_CAN_BE_SAVED}."
        )
    packed: dict[str, Any] = {"class": kind}
    if isinstance(estimator, RelevanceTransformer):
        packed["estimator"] = pack_part(estimator.estimator, f"{prefix}estimator.", arrays)
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
        raise TypeError(_say_unknown(kind, unknown))
    packed: dict[str, Any] = {
        "attributes": {k: pack(v, f"{prefix}{k}", arrays) for k, v in attributes.items()}
    }
    if net is not None:
        packed["net"] = pack_net(estimator, prefix, arrays)
    if network is not None and network is not estimator.estimator:
        packed["estimator_"] = pack_part(network, f"{prefix}estimator_.", arrays)
    return packed


def _say_unknown(kind: str, names: Iterable[str]) -> str:
    return (
        f"{kind} has the attribute {min(names)!r}, which a file does not hold: delete it, and set "
        "it anew after loading."
    )


def _pack_known(step: Any, known: Known, prefix: str, arrays: Arrays) -> dict[str, Any]:
    """Return a known step of a pipeline as JSON."""
    check_own_values(step)
    params = step.get_params(deep=False)
    attributes = {name: value for name, value in vars(step).items() if name not in params}
    if unknown := set(attributes) - {*known.needed, *known.possible, *_OPTIONAL}:
        raise TypeError(_say_unknown(type(step).__name__, unknown))
    _check_known(step, known, attributes)
    inner = {name: attributes.pop(name) for name in known.inner if name in attributes}
    if known.as_plain is not None:
        attributes = known.as_plain(attributes)
    packed = {
        "class": type(step).__name__,
        "params": {k: pack(v, f"{prefix}{k}", arrays) for k, v in params.items()},
        "attributes": {k: pack_scalar(v, f"{prefix}{k}", arrays) for k, v in attributes.items()},
    }
    if inner:
        packed["inner"] = {
            name: None if part is None else pack_part(part, f"{prefix}{name}.", arrays)
            for name, part in inner.items()
        }
    return packed


def _check_known(step: Any, known: Known, attributes: dict[str, Any]) -> None:
    """Raise an error unless a step is unfitted, or has all attributes in their forms."""
    kind = type(step).__name__
    if not set(attributes) - {OUTPUT_CONFIG}:
        return
    forms = {**known.needed, **known.possible}
    for problem, names in (
        ("lacks the", set(known.needed) - set(attributes)),
        ("has the unknown", set(attributes) - {*forms, *_OPTIONAL}),
    ):
        if names:
            raise ValueError(f"{kind} {problem} attributes {shorten(str(sorted(names)))}")
    sizes: dict[str, int] = {}
    malformed = [n for n in forms if n in attributes and not forms[n](attributes[n], sizes)]
    malformed += [n for n in _OPTIONAL if n in attributes and not _OPTIONAL[n](attributes[n])]
    if malformed:
        value = shorten(str(attributes[malformed[0]]), 80)
        raise ValueError(f"{malformed[0]} of {kind} is malformed: {value}")
    names_in = attributes.get("feature_names_in_")
    if names_in is not None and len(names_in) != sizes.get("features"):
        raise ValueError(f"feature_names_in_ of {kind} does not go with n_features_in_")
    if known.check is not None:
        try:
            known.check(step, attributes)
        except ValueError as error:
            raise ValueError(f"{kind} is malformed: {shorten(str(error))}") from error


def _take_network(estimator: Any, prefix: str) -> Any:
    """Return the network of a model, if a file can hold all of it."""
    name = prefix[:-1] or "estimator"
    try:
        model = unwrap(estimator, fitted=False, name=name)
    except TypeError as error:
        if prefix and hasattr(estimator, "get_params"):
            raise TypeError(
                f"{name}={say_value(estimator, 200)} cannot be saved: beside estimators of sklrp "
                f"a pipeline in a file holds {_KNOWN_STEPS}. Apply {type(estimator).__name__} to "
                "the data before the pipeline, and keep it by other means."
            ) from error
        raise
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


def build_part(packed: dict[str, Any], prefix: str, arrays: Arrays, device: Any) -> Any:
    """Return the estimator that was packed, taking its arrays out of those of the file.

    Parameters
    ----------
    packed : dict
        What `pack_part` returned.
    prefix : str
        Of the names of its arrays; empty for the estimator that a file is of.
    arrays : dict of str to ndarray
        The arrays of the file that nothing has taken yet.
    device : str, torch.device or None
        Where networks are to be; None leaves that.

    Returns
    -------
    estimator
        The estimator.

    Raises
    ------
    ValueError
        If a class, a parameter or an attribute is unknown, missing or malformed.
    """
    kind = packed["class"]
    if kind in COMPOUNDS and (prefix or kind == "Pipeline"):
        return build_compound(
            packed, prefix, arrays, lambda part, at: build_part(part, at, arrays, device)
        )
    step = find_known(kind) if prefix else None
    if step is not None:
        return _build_known(step, packed, prefix, arrays, device)
    if kind not in _ESTIMATORS or (kind == "FrozenEstimator" and not prefix):
        wanted = f"{_KNOWN_STEPS}" if prefix else f"an {_CAN_BE_SAVED}"
        raise ValueError(f"it holds the unknown class {kind!r}, but can hold {wanted}")
    if unknown := set(packed) - _PARTS:
        raise ValueError(f"{kind} has the unknown entries {sorted(unknown)}")
    inner = {}
    if "estimator" in packed:
        inner = {
            "estimator": build_part(packed["estimator"], f"{prefix}estimator.", arrays, device)
        }
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
        network = build_part(packed["estimator_"], f"{prefix}estimator_.", arrays, device)
        _check_same_class(estimator.estimator, network)
        estimator.estimator_ = network
    else:
        estimator.estimator_ = estimator.estimator
    if isinstance(estimator, RelevanceTransformer):
        _check_map_shape(estimator)
    return estimator


def _build_known(
    step: tuple[Any, Known], packed: dict[str, Any], prefix: str, arrays: Arrays, device: Any
) -> Any:
    """Return a known step of a pipeline."""
    cls, known = step
    if unknown := set(packed) - _STEP_PARTS:
        raise ValueError(f"{cls.__name__} has the unknown entries {sorted(unknown)}")
    built = _build_unfitted(cls, packed, {}, prefix, arrays)
    check_own_values(built)
    attributes = {k: unpack(v, f"{prefix}{k}", arrays) for k, v in packed["attributes"].items()}
    if known.from_plain is not None:
        attributes = known.from_plain(attributes)
    inner = packed.get("inner", {})
    if unknown := (set(inner) - set(known.inner)) | (set(attributes) & set(known.inner)):
        raise ValueError(f"{cls.__name__} has the unknown steps {sorted(unknown)}")
    for name, part in inner.items():
        found = None if part is None else build_part(part, f"{prefix}{name}.", arrays, device)
        if type(found).__name__ not in (known.inner[name], "NoneType"):
            raise ValueError(f"{name} of {cls.__name__} is a {type(found).__name__}")
        attributes[name] = found
    _check_known(built, known, attributes)
    vars(built).update(attributes)
    return built


def _check_map_shape(transformer: RelevanceTransformer) -> None:
    """Refuse maps of another size than what enters the network, behind the steps before it."""
    n_features = unwrap(transformer.estimator_).network.n_features_in_
    if math.prod(transformer.map_shape_) != n_features:
        raise ValueError(
            "map_shape_ of RelevanceTransformer does not go with its network's "
            f"n_features_in_={n_features}"
        )


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
        refuse_memory(estimator.memory)
    else:
        check_own_values(estimator)
