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
    return shorten(" ".join(repr(value).split()), length)
