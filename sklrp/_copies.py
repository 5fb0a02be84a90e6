"""Copies of networks, also of those whose forward has kept a result in the module.

torch copies no tensor that has a graph behind it, and a network may hold one: an activation that
forward noted for a picture, or a hidden state. Whatever asks a network on a copy makes it here.
"""

from __future__ import annotations

import copy
import itertools
from typing import Any, TypeVar

from torch import Tensor, nn

Found = TypeVar("Found")

_NESTED = (tuple, list, dict)
_OF_TORCH = ("_parameters", "_buffers", "_modules")  # of a module, which copies them itself


def copy_module(module: nn.Module) -> Any:
    """Return a deep copy of a module, in which kept results are plain tensors."""
    return copy.deepcopy(module, results_in(module))


def copy_to_ask(module: nn.Module) -> Any:
    """Return a copy that is asked, never changed: it shares what nothing can copy, as a lock."""
    try:
        return copy_module(module)
    except Exception:
        known = results_in(module)
        for part in module.modules():
            others = (value for name, value in vars(part).items() if name not in _OF_TORCH)
            known |= {id(value): value for value in others if not _can_copy(value, known)}
        return copy.deepcopy(module, known)


def _can_copy(value: Any, known: dict[int, Any]) -> bool:
    try:
        copy.deepcopy(value, dict(known))
    except Exception:
        return False
    return True


def results_in(module: nn.Module) -> dict[int, Any]:
    """Return copies, by identity, of what forward has kept, which torch refuses to copy."""
    held = (find_all(Tensor, vars(part)) for part in module.modules())
    results = (t for t in itertools.chain.from_iterable(held) if not t.is_leaf)
    return {id(result): result.detach().clone() for result in results}


def find_all(kind: type[Found], value: Any) -> list[Found]:
    """Return the values of a type in nested tuples, lists and dicts, in order."""
    # Of each function that a network calls all is looked through: leaves are told without a call.
    if isinstance(value, kind):
        return [value]
    found: list[Found] = []
    if not isinstance(value, _NESTED):
        return found
    for v in value.values() if isinstance(value, dict) else value:
        if isinstance(v, kind):
            found.append(v)
        elif isinstance(v, _NESTED):
            found += find_all(kind, v)
    return found
