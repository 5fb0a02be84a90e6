"""Signals that end the command line: one line on stderr, and the status that shells expect.

`sklrp.__main__` takes them before anything is imported that takes time, and `sklrp.cli.reporting`
says which one came. Other programs that import the package keep their signals.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False  # typing's own takes time, in which no signal is taken yet
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

WORDS = {
    number: word
    for name, word in (("SIGINT", "interrupted"), ("SIGTERM", "terminated"), ("SIGHUP", "hung up"))
    if (number := getattr(signal, name, None)) is not None
}
_came: list[int] = []  # what came while it raises


class Stopped(KeyboardInterrupt):
    """A signal came, which ends what is done as Ctrl-C does.

    Parameters
    ----------
    number : int
        The signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def leave_at_signals() -> None:
    """From now on leave at once when a signal comes: there is nothing to put in order."""
    _take(_leave)


def raise_at_signals() -> None:
    """From now on raise `Stopped` when a signal comes; leave at once when a second does."""
    _came.clear()
    _take(_stop)


def status_of(number: int) -> int:
    """Return the status with which a process ends that a signal has ended."""
    return 128 + number


def came() -> int | None:
    """Return the signal that came, None if none did; also if what it raised was swallowed."""
    return _came[0] if _came else None


def _take(handler: Callable[[int, FrameType | None], Any]) -> None:
    for number in WORDS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup, or of a shell's jobs
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    if _came:
        _leave(number, frame)
    _came.append(number)
    raise Stopped(number)


def _leave(number: int, frame: FrameType | None) -> None:
    try:
        os.write(2, f"error: {WORDS[signal.Signals(number)]}\n".encode())
    finally:  # whether there is a stderr or not
        os._exit(status_of(number))
