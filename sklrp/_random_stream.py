"""Random numbers of torch for one purpose, from generators that nobody else draws from.

Every training of a classifier draws inside a `RandomStream`, so that torch's global generators are
neither read nor changed, and a training can be resumed where it stopped. Null models are drawn
inside one, too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor

from sklrp._torch import TorchDispatchMode, get_arguments

_DRAWS = torch.Tag.nondeterministic_seeded  # on every operation that takes random numbers
# How an empty tensor is filled by what makes one like another: before torch 2.10 these took no
# generator.
_LIKE: dict[Any, Callable[..., Tensor]] = {
    torch.ops.aten.rand_like: Tensor.uniform_,
    torch.ops.aten.randn_like: Tensor.normal_,
    torch.ops.aten.randint_like: Tensor.random_,
}


class RandomStream(TorchDispatchMode):
    """Let what draws inside take its numbers from generators of the stream's own.

    Torch hands every operation of the thread inside to the stream, those of its compiled
    layers too, and the stream gives a generator to the ones that draw. Other threads neither see
    the stream nor are seen by it. The numbers are those that torch's global generator would give
    from the same seed.

    On an accelerator, attention in one kernel takes no generator: only while such a kernel with
    dropout runs, the device's global generator is exchanged. cuDNN's recurrent layers keep their
    dropout in a state of their own, which is seeded by the stream.

    Inside, what is made without a device is made on the CPU, whatever
    ``torch.set_default_device`` says: a seed gives the same network everywhere.

    Parameters
    ----------
    device : torch.device
        The device whose generator is used beside the CPU's.
    start : int or dict
        A seed, or the ``state`` at which an earlier stream ended.
    """

    def __init__(self, device: torch.device, start: int | dict[str, Tensor]) -> None:
        super().__init__()
        self.device = device
        self._on_cpu: list[Any] = []
        self._generators: dict[str, torch.Generator] = {}
        for kind in dict.fromkeys(("cpu", device.type)):
            generator = torch.Generator("cpu" if kind == "cpu" else device)
            if isinstance(start, int):
                generator.manual_seed(start)
            elif kind in start:
                generator.set_state(start[kind])
            self._generators[kind] = generator

    @property
    def state(self) -> dict[str, Tensor]:
        """The state of the generators, by device type."""
        return {kind: generator.get_state() for kind, generator in self._generators.items()}

    def drop(self, x: Tensor, p: float) -> Tensor:
        """Return what dropout makes of values in training; the same as inside, at less cost."""
        generator = self._generators[x.device.type]
        # In one order whatever the layout: a seed means the same network.
        kept = torch.empty_like(x, memory_format=torch.contiguous_format)
        kept.bernoulli_(1 - p, generator=generator)
        return x * kept.div_(1 - p)

    def normal_like(self, x: Tensor) -> Tensor:
        """Return normal numbers of the form of others; the same as inside, at less cost."""
        return torch.empty_like(x).normal_(generator=self._generators[x.device.type])

    def __enter__(self) -> RandomStream:
        is_cpu = torch.get_default_device().type == "cpu"
        self._on_cpu.append(nullcontext() if is_cpu else torch.device("cpu"))
        self._on_cpu[-1].__enter__()
        super().__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)
        self._on_cpu.pop().__exit__(*exc)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation, with a generator if it draws."""
        kwargs = kwargs or {}
        if _DRAWS not in func.tags:
            return func(*args, **kwargs)
        device = _device_of(func, args, kwargs)
        generator = self._generators.get(device.type)
        if generator is None or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        if func is torch.ops.aten.native_dropout.default:
            return _drop(*args, generator=generator)
        own = _with_generator(func)
        if own is not None:
            return own(*args, **{**kwargs, "generator": generator})
        if func.overloadpacket in _LIKE:
            return _draw_like(func.overloadpacket, *args, generator=generator, **kwargs)
        if device.type == "cpu":  # no operation of the CPU draws without one
            return func(*args, **kwargs)
        with _lent(device, generator):
            return func(*args, **kwargs)


@functools.cache
def _with_generator(operation: Any) -> Any:
    """Return the operation that takes a generator beside the arguments of another, if any."""
    arguments = get_arguments(operation)
    packet = operation.overloadpacket
    others = [getattr(packet, name) for name in packet.overloads()]
    for other in [operation, *others]:
        given = get_arguments(other)
        more = {name for name, _ in given - arguments}
        takes_one = "generator" in {name for name, _ in given}
        if arguments <= given and takes_one and more <= {"generator"}:
            return other
    return None


def _device_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device:
    """Return the device on which an operation draws: its tensors' or the one that is named."""
    found = next((a.device for a in args if isinstance(a, Tensor)), kwargs.get("device"))
    out = kwargs.get("out")
    if isinstance(out, Tensor):
        found = out.device
    return torch.device("cpu" if found is None else found)


def _draw_like(
    what: Any, x: Tensor, *bounds: int, generator: torch.Generator, **form: Any
) -> Tensor:
    """Return what `torch.rand_like` and its kind return, by a generator."""
    if len(bounds) == 1:  # the upper one
        bounds = (0, *bounds)
    return _LIKE[what](torch.empty_like(x, **form), *bounds, generator=generator)


def _drop(
    x: Tensor, p: float, train: bool | None, *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return what `torch.native_dropout` returns, by a generator."""
    mask = torch.ones_like(x, dtype=torch.bool)
    if train is False or p == 0:
        return x.clone(), mask
    mask.bernoulli_(1 - p, generator=generator)
    return x * mask * (1 / (1 - p) if p < 1 else 0.0), mask


@contextmanager
def _lent(device: torch.device, generator: torch.Generator) -> Iterator[None]:
    """Let a device's global generator go on where another stands, and put it back."""
    module = getattr(torch, device.type)
    arguments = () if device.type == "mps" else (device,)
    saved = module.get_rng_state(*arguments)
    module.set_rng_state(generator.get_state(), *arguments)
    try:
        yield
        generator.set_state(module.get_rng_state(*arguments))
    finally:
        module.set_rng_state(saved, *arguments)


def fit_state(state: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Return a state with the device's generator, which is seeded by the CPU's if it is new."""
    cpu = torch.Generator().set_state(state["cpu"])
    fresh = RandomStream(device, cpu.initial_seed()).state
    return RandomStream(device, {kind: state.get(kind, own) for kind, own in fresh.items()}).state


def draw_seed(random_state: int | np.random.RandomState | None) -> int:
    """Return a seed for torch, without touching NumPy's global generator."""
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    return int(check_random_state(random_state).randint(2**31 - 1))
