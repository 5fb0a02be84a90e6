"""Python's collector of circles, at rest while a chunk is explained.

A chunk makes thousands of small objects that live to its end, and none of them is in a circle:
each goes with its last holder. The collector would look through them again and again, and in the
end through all that the process has imported, which takes longer than the chunk does.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LOCK = threading.Lock()
_at_rest = 0  # how many threads are at it
_was_on = False


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """Let no circles be collected, of any thread; the last one out lets them be again."""
    global _at_rest, _was_on
    with _LOCK:
        if not _at_rest:
            _was_on = gc.isenabled()
            gc.disable()
        _at_rest += 1
    try:
        yield
    finally:
        with _LOCK:
            _at_rest -= 1
            if not _at_rest and _was_on:
                gc.enable()
