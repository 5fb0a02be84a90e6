"""What the benchmarks share: interleaved medians, what they ran on, and where figures go."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

Row = dict[str, Any]
LIMIT = 15.0
PACKAGES = ("torch", "numpy", "scikit-learn", "skorch", "zennit", "captum", "torchvision")


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


def machine(n_threads: int) -> str:
    """Describe the machine and the versions in one line."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    versions = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {package}")
    device = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    processor = models[0] if models else platform.processor() or platform.machine()
    count = f"{os.cpu_count()} cores, {n_threads} thread{'s' * (n_threads > 1)}"
    return ", ".join([processor, count, *device, platform.system(), *versions])


def find_place(path: Path, markers: tuple[str, str]) -> tuple[str, str]:
    """Return what a file says up to the first marker, and from the second on."""
    text = path.read_text(encoding="utf-8")
    start, end = (text.find(marker) for marker in markers)
    if not -1 < start < end:
        raise ValueError(f"{path} must hold the lines {markers[0]} and {markers[1]}, in order.")
    return text[: start + len(markers[0])], text[end:]


def write(path: Path, text: str, markers: tuple[str, str]) -> None:
    """Put text between the markers of a file, in place of what is there."""
    path.write_text(f"\n\n{text}\n\n".join(find_place(path, markers)), encoding="utf-8")
