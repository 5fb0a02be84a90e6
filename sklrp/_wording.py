"""Texts and values as messages quote them: short, and on one line.

It stands below everything else, so that whatever raises an error can ask.
"""

from __future__ import annotations

from typing import Any


def shorten(text: str, length: int = 200) -> str:
    """Return a text that a message quotes, cut where it is long."""
    return text if len(text) <= length else f"{text[: length - 4]} ..."


def say_value(value: Any, length: int = 60) -> str:
    """Return a value on one short line."""
    try:
        text = repr(value)
    except Exception:  # of the value's own code, or of an integer that is too long for Python
        text = f"a value of type {type(value).__name__}, whose repr fails"
    return shorten(" ".join(text.split()), length)


def say_error(error: Exception) -> str:
    """Return the first line of an error; "" of one that says nothing."""
    return shorten(str(error).partition("\n")[0])
