"""What a network returns: one tensor, or several, of which one is meant.

The engine, what it is compared with, and `Model.outputs` take the output of a network's forward
here, so that all of them speak of the same tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def split_key(target: Any) -> tuple[str | None, Any]:
    """Return the name of the output that a target begins with, None without one, and the rest.

    Parameters
    ----------
    target : object
        The target of a network whose outputs have no labels: ``"name"``, ``("name", ...)``, or
        one without a name. ``"all"`` is no name.

    Returns
    -------
    key : str or None
        The name.
    rest : object
        What is explained of the tensor of that name.
    """
    if isinstance(target, str):
        return (None, target) if target == "all" else (target, None)
    if isinstance(target, tuple) and target and isinstance(target[0], str):
        key, *rest = target
        return key, (rest[0] if len(rest) == 1 else tuple(rest) or None)
    return None, target


def asks_for_all(target: Any) -> bool:
    """Tell whether a target is every output, ``"all"``, also of an output by name."""
    rest = split_key(target)[1]
    return isinstance(rest, str) and rest == "all"


def pick_output(output: Any, key: str | None) -> Tensor:
    """Return the tensor that is meant of what a network returns.

    Parameters
    ----------
    output : object
        What its forward returns: a tensor, a tuple, whose first element counts, or several by
        name, as a dict, a named tuple or a dataclass.
    key : str or None
        The name of the tensor.

    Returns
    -------
    Tensor
        The tensor.

    Raises
    ------
    TypeError
        If there is none to be taken without a name.
    ValueError
        If there is none of that name.
    """
    named = _named_tensors(output)
    if key is not None:
        if key not in named:
            known = ", ".join(map(repr, named)) or f"a {type(output).__name__}, no names"
            raise ValueError(
                f"target must name an output of the network if it is a string, got {key!r}; the "
                f"network returns {known}."
            )
        return named[key]
    if isinstance(output, tuple | list) and output:
        output = output[0]  # as skorch does
    if not isinstance(output, Tensor):
        raise TypeError(
            "The network must return a tensor, (n_samples, ...), or a tuple that begins with it, "
            f"got {type(output).__name__}{_say_names(named)}."
        )
    return output


def _named_tensors(output: Any) -> dict[str, Tensor]:
    """Return the tensors that an output holds by name."""
    if isinstance(output, Mapping):
        found = dict(output)
    elif hasattr(output, "_fields"):
        found = output._asdict()
    else:
        found = {} if isinstance(output, Tensor) else getattr(output, "__dict__", {})
    return {str(name): value for name, value in found.items() if isinstance(value, Tensor)}


def _say_names(named: dict[str, Tensor]) -> str:
    """Return how to name the output that is meant; the usual names first."""
    if not named:
        return ""
    usual = [name for name in ("logits", "scores", "out") if name in named]
    one = (usual + list(named))[0]
    return (
        f" of {', '.join(map(repr, named))}: begin target with a name, target={one!r} or "
        f"target=({one!r}, index)"
    )
