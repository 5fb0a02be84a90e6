"""What the benchmarks share: interleaved medians, and how rows are written."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from threadpoolctl import threadpool_limits

Row = dict[str, Any]
LIMIT = 15.0


def median_times(functions: Mapping[str, Callable[[], Any]], n_repeats: int) -> dict[str, float]:
    """Return the median seconds of each function, called in turn after a warm-up.

    Where that takes longer than ``LIMIT`` seconds three repeats are enough.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    begin = time.perf_counter()
    for repeat in range(n_repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if repeat:  # the first is the warm-up
                times[name].append(time.perf_counter() - start)
        if repeat >= 3 and time.perf_counter() - begin > LIMIT:
            break
    return {name: statistics.median(values) for name, values in times.items()}


@contextlib.contextmanager
def threads(n_threads: int) -> Iterator[None]:
    """Give torch and the linear algebra that many threads, and put them back on leaving."""
    before = torch.get_num_threads()
    with threadpool_limits(n_threads):
        torch.set_num_threads(n_threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
