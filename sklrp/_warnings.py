"""Warnings at the line of the user's code.

Python names the line that warns by a count of calls, which changes with every decorator between,
of this package or of scikit-learn. :func:`warn_user`, which whatever warns here calls, looks for
the first call from outside.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_PASSED_OVER = frozenset(
    {"sklrp", "sklearn", "skorch", "torch", "joblib", "contextlib", "functools"}
)

_Warning = tuple[str, type[Warning]]
_held: ContextVar[list[_Warning] | None] = ContextVar("held", default=None)
_said: ContextVar[set[_Warning] | None] = ContextVar("said", default=None)


@contextmanager
def hold_warnings() -> Iterator[list[_Warning]]:
    """Hold this package's warnings back, of work that may be done once more in another way.

    Yields
    ------
    list of (str, type)
        The arguments of :func:`warn_user` so far, for whoever keeps the work to repeat.
    """
    found: list[_Warning] = []
    token = _held.set(found)
    try:
        yield found
    finally:
        _held.reset(token)


@contextmanager
def each_once() -> Iterator[None]:
    """Give each warning once, however often what a call asks for comes upon its cause."""
    if _said.get() is not None:  # the call from outside knows what was said
        yield
        return
    token = _said.set(set())
    try:
        yield
    finally:
        _said.reset(token)


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line, outside of this package and what runs it, that called for it."""
    held = _held.get()
    if held is not None:
        held.append((message, category))
        return
    said = _said.get()
    if said is not None:
        if (message, category) in said:
            return
        said.add((message, category))
    frame, level = inspect.currentframe(), 1
    while frame and frame.f_globals.get("__name__", "").split(".")[0] in _PASSED_OVER:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
