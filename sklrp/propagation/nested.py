"""Nested arguments: other values in place of the signals in tuples, lists and dicts.

Arguments and results of layers and torch functions may be nested. The recorder and the handlers of
torch functions replace what is in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sklrp.rules import Signal


def swap_signals(value: Any, pick: Callable[[Signal], Any]) -> Any:
    """Return nested arguments with ``pick(signal)`` in place of each signal."""
    if isinstance(value, Signal):
        return pick(value)
    if isinstance(value, (tuple, list)):
        return rebuild(value, (swap_signals(v, pick) for v in value))
    if isinstance(value, dict):
        return {k: swap_signals(v, pick) for k, v in value.items()}
    return value


def rebuild(like: Any, values: Iterable[Any]) -> Any:
    """Return values in a tuple, a named tuple or a list, as ``like`` is."""
    return type(like)(*values) if hasattr(like, "_fields") else type(like)(values)
