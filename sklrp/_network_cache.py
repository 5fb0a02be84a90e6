"""Training with a memory: no network twice, in however many processes.

`RelevanceTransformer` calls `train_network`. Here is what makes two trainings the same one, by
which a network is kept and found again.
"""

from __future__ import annotations

import io
import pickle
import sys
import types
from typing import IO, Any

import torch
from numpy.typing import NDArray

from sklrp._memory import Hasher, Shelf, hash_each, is_importable, warn_not_kept
from sklrp._models import unwrap
from sklrp._random_stream import RandomStream
from sklrp._sklearn import get_feature_names


def train_network(
    network: Any,
    X: Any,
    y: NDArray[Any],
    fit_params: dict[str, Any],
    memory: Any,
    seed: int | None = None,
) -> Any:
    """Return the trained network, from ``memory`` if it holds it, which else it will.

    Parameters
    ----------
    network : estimator object
        The unfitted network; it may be the one that is trained.
    X : array-like of shape (n_samples, n_features) or (n_samples, *sample_shape)
        The samples, validated.
    y : ndarray of shape (n_samples,)
        The class labels, validated.
    fit_params : dict
        What else ``fit`` of the network is called with.
    memory : None, str, path or joblib.Memory
        Where to keep networks.
    seed : int or None, default=None
        Determines what a skorch net draws, which has no `random_state` of its own; None leaves it
        to torch's global generators, as skorch does.

    Returns
    -------
    estimator object
        The trained network.
    """
    net = unwrap(network, fitted=False)

    def train() -> Any:
        if not net.is_net or seed is None:
            return network.fit(X, y, **fit_params)
        # What a net draws would come from torch's global generators.
        with RandomStream(torch.device(net.network.device or "cpu"), seed):
            return network.fit(X, y, **fit_params)

    shelf = Shelf(memory, "networks")
    if not shelf.keeps:
        return train()
    name = type(network).__name__
    try:
        drawn = {"seed of the net": seed} if net.is_net and seed is not None else {}
        key = identify(network, X, y, {**fit_params, **drawn})
        _, own_code = _dump(network)
    except Exception as error:  # pickling runs the parameters' own code, which may raise anything
        warn_not_kept(
            f"The {name} is trained without the cache of memory, because its parameters, its "
            "data or its fit parameters cannot be hashed",
            error,
        )
        return train()

    def load(content: bytes) -> Any:
        return _Unpickler(io.BytesIO(content), own_code).load()

    def dump(trained: Any) -> bytes:
        content, code = _dump(trained)
        if code.keys() - own_code.keys():
            names = [code[name].__qualname__ for name in code.keys() - own_code.keys()]
            raise pickle.PicklingError(f"no other process can import {names}")
        return content

    return shelf.find_or_make(key, train, f"The trained {name}", load=load, dump=dump)


def identify(network: Any, X: Any, y: NDArray[Any], fit_params: dict[str, Any]) -> str:
    """Return a hash of all that a trained network depends on.

    The columns' names count where they are feature names, all strings.

    Parameters
    ----------
    network : estimator
        The network before its training.
    X, y : array-like
        What it is trained on.
    fit_params : dict
        What else its `fit` gets.

    Returns
    -------
    str
        The hash.
    """
    inside = type(unwrap(network, fitted=False).network)
    packages = {base.__module__.partition(".")[0] for base in type(network).__mro__}
    packages |= {base.__module__.partition(".")[0] for base in inside.__mro__}
    packages |= {"numpy", "sklearn", "skorch", "torch"}
    parts = {
        "class": type(network),
        "versions": {
            name: str(getattr(sys.modules.get(name), "__version__", None)) for name in packages
        },
        "columns": None if (names := get_feature_names(X)) is None else names.tolist(),
        "X": X,
        "y": y,
        **{f"parameter {name}": value for name, value in network.get_params(deep=False).items()},
        **{f"fit parameter {name}": value for name, value in fit_params.items()},
    }
    return hash_each(parts, Hasher)


class _Pickler(pickle.Pickler):
    """A pickler that leaves out functions and classes that cannot be imported, by their hash."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.code: dict[str, Any] = {}

    def persistent_id(self, obj: Any) -> str | None:
        if not isinstance(obj, type | types.FunctionType) or is_importable(obj):
            return None
        name = Hasher().hash(obj)
        self.code[name] = obj
        return name


class _Unpickler(pickle.Unpickler):
    """Its counterpart, which puts in those of this process."""

    def __init__(self, file: IO[bytes], code: dict[str, Any]) -> None:
        super().__init__(file)
        self.code = code

    def persistent_load(self, name: str) -> Any:
        return self.code[name]


def _dump(network: Any) -> tuple[bytes, dict[str, Any]]:
    """Return a network as bytes, and what of its code they leave out, by hash."""
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(network)
    return file.getvalue(), pickler.code
