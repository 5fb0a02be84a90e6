"""Walking through nested arguments: the signals and tensors in tuples, lists and dicts.

Arguments and results of layers and torch functions may be nested. The tape, the recorder and the
handlers of torch functions use these helpers to find what is in them and to replace it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from sklrp.rules import Signal


def find_signals(value: Any) -> list[Signal]:
    """Return the signals in nested tuples, lists and dicts, in order."""
    if isinstance(value, Signal):
        return [value]
    if isinstance(value, tuple | list):
        return [signal for v in value for signal in find_signals(v)]
    if isinstance(value, dict):
        return [signal for v in value.values() for signal in find_signals(v)]
    return []


def swap_signals(value: Any, pick: Callable[[Signal], Any]) -> Any:
    """Return nested arguments with ``pick(signal)`` in place of each signal."""
    if isinstance(value, Signal):
        return pick(value)
    if isinstance(value, tuple | list):
        return rebuild(value, (swap_signals(v, pick) for v in value))
    if isinstance(value, dict):
        return {k: swap_signals(v, pick) for k, v in value.items()}
    return value


def find_tensors(value: Any) -> list[Tensor]:
    """Return the tensors in nested tuples, lists and dicts, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple | list):
        return [tensor for v in value for tensor in find_tensors(v)]
    if isinstance(value, dict):
        return [tensor for v in value.values() for tensor in find_tensors(v)]
    return []


def rebuild(like: Any, values: Iterable[Any]) -> Any:
    """Return values in a tuple, a named tuple or a list, as ``like`` is."""
    return type(like)(*values) if hasattr(like, "_fields") else type(like)(values)
