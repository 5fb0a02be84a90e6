"""Warnings at the line of the user's code.

Python names the line that warns by a count of calls, which changes with every decorator between,
of this package or of scikit-learn. :func:`warn_user`, which whatever warns here calls, looks for
the first call from outside.
"""

from __future__ import annotations

import inspect
import warnings

_PASSED_OVER = frozenset(
    {"sklrp", "sklearn", "skorch", "torch", "joblib", "contextlib", "functools"}
)


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line, outside of this package and what runs it, that called for it."""
    frame, level = inspect.currentframe(), 1
    while frame and frame.f_globals.get("__name__", "").split(".")[0] in _PASSED_OVER:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
