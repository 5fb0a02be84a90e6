"""How much memory and time something takes: refusals must take next to none.

`tests/test_hostile_files.py`, `tests/test_hostile_data.py` and `tests/fuzz_files.py` ask here.
"""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MEGABYTES, SECONDS = 100, 1.0


class Spent:
    """What has been spent inside a block of `spending`, once it has ended."""

    megabytes: float = 0.0
    seconds: float = 0.0


@contextmanager
def spending() -> Iterator[Spent]:
    """Measure how far memory grows at its peak, and the time of the processor."""
    spent, before, start = Spent(), _reset_peak(), time.process_time()
    try:
        yield spent
    finally:
        spent.seconds = time.process_time() - start
        spent.megabytes = (read_peak() - before) / 1000


@contextmanager
def bounded(megabytes: float = MEGABYTES, seconds: float = SECONDS) -> Iterator[None]:
    """Fail where something takes more memory or time than it may."""
    with spending() as spent:
        yield
    assert spent.megabytes < megabytes, f"took {spent.megabytes:.0f} MB"
    assert spent.seconds < seconds, f"took {spent.seconds:.1f} s"


def _reset_peak() -> float:
    """Let the peak of memory begin anew where the system can, and return it, in kilobytes."""
    with suppress(OSError):  # no Linux, or not allowed: the peak of the process so far
        _RESET.write_text("5")
    return read_peak()


def read_peak() -> float:
    """Return the peak of this process's memory, in kilobytes."""
    # Linux counts into ru_maxrss what the process was forked from.
    if not _STATUS.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return float(lines["VmHWM"].split()[0])
