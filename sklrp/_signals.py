"""Signals that end the command line: one line on stderr, and the status that shells expect.

`sklrp.__main__` takes them before anything is imported that takes time, the commands of
`sklrp.cli` have them raise once there is something to put in order, and `sklrp.cli.reporting` says
which one came. Other programs that import the package keep their signals.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys

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
_taken: list[int] = []  # the signals of this process that are taken
_SOON = 0.02  # seconds until it is tried again to raise


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
    if not _taken:
        _taken.extend(n for n in WORDS if signal.getsignal(n) is not signal.SIG_IGN)
        atexit.register(_ignore)  # the first, so that it is called last
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)
    _handle(_leave)


def raise_at_signals() -> None:
    """From now on raise `Stopped` when a signal comes; leave at once when a second does.

    Nothing changes in a program whose signals were not taken by `leave_at_signals`.
    """
    if not _taken:
        return
    _came.clear()
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, lambda number, frame: _raise(frame) if _came else None)
        sys.unraisablehook = _raise_again
    _handle(_stop)


def status_of(number: int) -> int:
    """Return the status with which a process ends that a signal has ended."""
    return 128 + number


def came() -> int | None:
    """Return the signal that came, None if none did; also if what it raised was swallowed."""
    return _came[0] if _came else None


def _handle(handler: Callable[[int, FrameType | None], Any] | signal.Handlers) -> None:
    for number in _taken:  # none that was ignored before, as under nohup or of a shell's jobs
        signal.signal(number, handler)


def _ignore() -> None:
    """Let the process end: its handlers are taken away before it does, and a signal kills it."""
    _handle(signal.SIG_IGN)


def _stop(number: int, frame: FrameType | None) -> None:
    if _came:
        _leave(number, frame)
    _came.append(number)
    _raise(frame)


def _raise(frame: FrameType | None) -> None:
    """Raise what came; while something is imported, a little later."""
    # Libraries call Python from C++ while they are imported, which aborts at an exception.
    if hasattr(signal, "setitimer") and _is_importing(frame):
        signal.setitimer(signal.ITIMER_REAL, _SOON)
    else:
        raise Stopped(_came[0])


def _raise_again(unraisable: Any) -> None:
    """Raise later what was raised where Python only reports it, as in a destructor."""
    if isinstance(unraisable.exc_value, Stopped):
        signal.setitimer(signal.ITIMER_REAL, _SOON)
    else:
        sys.__unraisablehook__(unraisable)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _leave(number: int, frame: FrameType | None) -> None:
    try:
        os.write(2, f"error: {WORDS[signal.Signals(number)]}\n".encode())
    finally:  # whether there is a stderr or not
        os._exit(status_of(number))
