"""Torch's generators, lent to one purpose and put back afterwards.

Every training of a classifier runs inside a `RandomStream`, so that the user's generators are left
alone and a training can be resumed where it stopped. Null models are drawn inside one, too.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor


class RandomStream:
    """Let torch's generators of one device run from ``start``, and put them back on leaving.

    Streams of several threads wait for one another, as they share torch's generators. Inside, what
    is made without a device is made on the CPU, whatever ``torch.set_default_device`` says: on
    another device it would be drawn from a generator that is not the stream's.

    Parameters
    ----------
    device : torch.device
        The device whose generator is used beside the CPU's.
    start : int or dict
        A seed, or the ``state`` at which an earlier stream ended.

    Attributes
    ----------
    state : dict
        State of the generators at the end, by device type.
    """

    _lock = threading.RLock()

    def __init__(self, device: torch.device, start: int | dict[str, Tensor]) -> None:
        self.device = device
        self.state: dict[str, Tensor] = {}
        self._start = start
        self._saved: dict[str, Tensor] = {}
        self._on_cpu: Any = nullcontext()

    def __enter__(self) -> RandomStream:
        self._lock.acquire()
        if torch.get_default_device().type != "cpu":
            self._on_cpu = torch.device("cpu")
        self._on_cpu.__enter__()
        self._saved = self._get()
        if isinstance(self._start, dict):
            self._set(self._start)
        else:
            torch.default_generator.manual_seed(self._start)
            if self.device.type == "cuda":
                with torch.cuda.device(self.device):
                    torch.cuda.manual_seed(self._start)
            elif self.device.type != "cpu":
                getattr(torch, self.device.type).manual_seed(self._start)
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self.state = self._get()
            self._set(self._saved)
        finally:
            self._on_cpu.__exit__(*exc)
            self._lock.release()

    def _arguments(self) -> tuple[Any, ...]:
        return () if self.device.type == "mps" else (self.device,)

    def _get(self) -> dict[str, Tensor]:
        state = {"cpu": torch.get_rng_state()}
        if self.device.type != "cpu":
            module = getattr(torch, self.device.type)
            state[self.device.type] = module.get_rng_state(*self._arguments())
        return state

    def _set(self, state: Mapping[str, Tensor]) -> None:
        torch.set_rng_state(state["cpu"])
        if self.device.type in state and self.device.type != "cpu":
            module = getattr(torch, self.device.type)
            module.set_rng_state(state[self.device.type], *self._arguments())


def fit_state(state: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Return a state with the device's generator, which is seeded by the CPU's if it is new."""
    cpu = torch.Generator().set_state(state["cpu"])
    with RandomStream(device, cpu.initial_seed()) as stream:
        pass
    kept = {kind: state[kind] for kind in stream.state if kind in state}
    if device.type in kept:
        torch.Generator(device).set_state(kept[device.type])
    return {**stream.state, **kept}


def draw_seed(random_state: int | np.random.RandomState | None) -> int:
    """Return a seed for torch, without touching NumPy's global generator."""
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    return int(check_random_state(random_state).randint(2**31 - 1))
