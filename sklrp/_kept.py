"""Results kept in a memory, as of an interrupted run, that the next one takes up.

The diagnostics and the skill map ask a `Kept` for whatever takes long: null models, refits,
contributions, tests. What a result depends on is hashed, and by that it is found again.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from skorch import NeuralNet
from skorch.history import History
from torch import Tensor, nn

from sklrp._memory import Hasher, Shelf, hash_each, warn_not_kept
from sklrp._streams import Streams
from sklrp._version import __version__

_LIBRARIES = ("numpy", "scipy", "sklearn", "skorch", "torch")
# What differs from one training to the next though the network is the same: times, and its mode.
_PASSING = ("training", "history", "history_", "callbacks", "callbacks_", "optimizer_")


class Kept:
    """Results that a memory keeps, by what they depend on.

    Parameters
    ----------
    memory : None, str, path or joblib.Memory
        Where results are kept; None keeps none.
    find_parts : callable or None, default=None
        Returns what all results depend on, a dict; it is called only if they are kept.

    Warns
    -----
    UserWarning
        If what results depend on cannot be hashed, so that none are kept.
    """

    def __init__(
        self, memory: Any = None, find_parts: Callable[[], dict[str, Any]] | None = None
    ) -> None:
        self._shelf = Shelf(memory, "results")
        self._key: str | None = None
        if find_parts is not None and self._shelf.keeps:
            try:
                self._key = hash_parts({"versions": _versions(), **find_parts()})
            except Exception as error:  # pickling runs the parts' own code
                memory = self._shelf.memory
                warn_not_kept(f"Nothing is kept in {memory}, as the data cannot be hashed", error)

    @property
    def keeps(self) -> bool:
        """Whether anything is kept: else there is no need to say what a result depends on."""
        return self._key is not None

    def streams(self, random_state: Any) -> Streams:
        """Return streams of random numbers; those of None are kept, and are the same next time."""
        if random_state is None and self._key is not None:
            random_state = self.get(["random_state"], lambda: np.random.SeedSequence().entropy)
        return Streams(random_state)

    def drawn_by(self, streams: Streams) -> Kept:
        """Return what keeps results that these streams have part in."""
        found = copy.copy(self)
        if self._key is not None:
            found._key = hash_parts({"all": self._key, "drawn": streams.entropy})
        return found

    def get(self, what: Sequence[Any], compute: Callable[[], Any]) -> Any:
        """Return a result, from the memory if it is there; else compute and keep it.

        Parameters
        ----------
        what : sequence
            What the result depends on, beside what all do.
        compute : callable
            Returns the result.

        Returns
        -------
        object
            The result.
        """
        if self._key is None:
            return compute()
        try:
            key = hash_parts({"all": self._key, **dict(enumerate(what))})
        except Exception as error:
            warn_not_kept("A result is not kept, as what it depends on cannot be hashed", error)
            return compute()
        return self._shelf.find_or_make(key, compute, "A result")


def _versions() -> dict[str, str]:
    found = {name: str(getattr(sys.modules.get(name), "__version__", "")) for name in _LIBRARIES}
    return {"sklrp": __version__, **found}


def hash_parts(parts: dict[Any, Any]) -> str:
    """Return a hash of parts, each of them by its value, wherever it comes from.

    Parameters
    ----------
    parts : dict
        Names, and arrays, numbers, texts, functions, networks and estimators.

    Returns
    -------
    str
        The hash; networks of equal weights have the same.
    """
    return hash_each(parts, _StateHasher)


class _StateHasher(Hasher):
    """A hash of fitted networks and estimators, by their weights and other state."""

    def reducer_override(self, obj: Any) -> Any:
        """Return the state of networks, tensors and estimators as a reduction."""
        if isinstance(obj, Tensor):
            values = obj.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            found = _StateHasher().hash(values)
            return tuple, ((str(obj.dtype), tuple(obj.shape), found),)
        if isinstance(obj, torch.optim.Optimizer | torch.Generator | History):
            return str, (type(obj).__name__,)
        if isinstance(obj, nn.Module | NeuralNet | BaseEstimator):
            # A net of skorch makes bytes of its weights; a recurrent layer has weak references.
            own = vars(obj) if isinstance(obj, NeuralNet) else obj.__getstate__()
            state = {name: v for name, v in own.items() if name not in _PASSING}
            return str, (hash_parts({**state, "": type(obj)}),)
        return super().reducer_override(obj)
