"""`save`: estimators as JSON and arrays in one file.

Users call it as `sklrp.save`. It takes a model to the network inside, writes that down part by
part, and hands JSON and arrays to `sklrp.persistence.container`.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from torch import nn

from sklrp._models import unwrap
from sklrp._sklearn import param_names
from sklrp._version import __version__
from sklrp.persistence.container import write_container
from sklrp.persistence.contents import (
    CAN_BE_SAVED,
    ESTIMATORS,
    FORMAT,
    OPTIONAL,
    check_parameters,
    check_params,
)
from sklrp.persistence.nets import pack_net
from sklrp.persistence.values import Arrays, pack
from sklrp.transformer import RelevanceTransformer

_NAMED = ("device", "dtype")  # parameters that are saved by name


def save(estimator: Any, path: str | os.PathLike[str]) -> None:
    """Save an estimator as one file that runs no code when it is loaded.

    Use it to hand a network on, or to keep it: unlike a pickle, the file can be loaded from a
    source that is not trusted. It is a safetensors file: the network's parameters are tensors
    under their own names, ``module.<name>``; all else is JSON in the metadata. It holds the state
    of the optimizer and of the random numbers too, so that `load` resumes the training.

    Parameters
    ----------
    estimator : estimator, search, FrozenEstimator or RelevanceTransformer
        A classifier of this package, such as `MLPClassifier`, or a `RelevanceTransformer` around
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
        "format": FORMAT,
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
    if ESTIMATORS.get(kind) is not type(estimator):
        raise TypeError(
            f"{prefix and prefix[:-1] + '='}{estimator!r} cannot be saved: a file holds an "
            f"{CAN_BE_SAVED}."
        )
    packed: dict[str, Any] = {"class": kind}
    if isinstance(estimator, RelevanceTransformer):
        packed["estimator"] = _pack_estimator(estimator.estimator, f"{prefix}estimator.", arrays)
    check_params(estimator)
    packed["params"] = {
        name: pack(_name(value) if name in _NAMED else value, f"{prefix}{name}", arrays)
        for name, value in estimator.get_params(deep=False).items()
        if name != "estimator"
    }
    check_parameters(type(estimator), packed["params"])
    return {**packed, **_pack_fitted(estimator, prefix, arrays)}


def _pack_fitted(estimator: Any, prefix: str, arrays: Arrays) -> dict[str, Any]:
    """Return what fitting has added to an estimator as JSON."""
    kind = type(estimator).__name__
    apart = {*param_names(type(estimator)), "_skorch_params", "_fixed_params"}
    attributes = {k: v for k, v in vars(estimator).items() if k not in apart}
    net, network = attributes.pop("net_", None), attributes.pop("estimator_", None)
    if unknown := set(attributes) - {*estimator._saved, *OPTIONAL}:
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
            f"{name} is a {model.name}, of which sklrp does not know how to build it anew: save "
            f"its tensors, safetensors.torch.save_model({module}, path), whose counterpart "
            "load_model(module, path) reads them into a module that your own code has made."
        )
    return model.network


def _name(value: Any) -> str:
    """Return a device or a dtype by its name."""
    if isinstance(value, (str, torch.device, torch.dtype)):
        return str(value).removeprefix("torch.")
    return np.dtype(value).name
