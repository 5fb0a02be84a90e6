"""Random networks against torch itself: views, changes in place, masks, casts, packed sequences.

``python -m tests.fuzz_networks --programs 5000 --seed 0`` counts how many programs were right,
wrong, refused by name, or stopped by another error, and prints the shortest form of each that was
wrong or stopped. The suite runs a few hundred of them (`tests/test_fuzz.py`).

A program is a list of instructions on registers, which hold the tensors of a forward. It is drawn
step by step, and each step is tried on samples; what torch itself refuses is left out. All
functions are piecewise linear, so rule zero is gradient times input. Where autograd cannot follow
a change in place, the gradient is taken by differences.
"""

from __future__ import annotations

import argparse
import collections
import random
import sys
import warnings
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import sklrp

N_SAMPLES, N_STEPS, N_FEATURES = 4, 5, 4
KINDS = ("right", "wrong", "refused", "stopped")


# What makes a layer of a size.
MAKERS: dict[str, Any] = {
    "linear": lambda n: nn.Linear(n, n),
    "conv": lambda n: nn.Conv1d(n, n, 3, padding=1, bias=n % 2 == 0),
    "norm": nn.BatchNorm1d,
    "rnn": lambda n: nn.RNN(n, n, batch_first=True, nonlinearity="relu", bias=n % 2 == 0),
    "relu": lambda n: nn.ReLU(inplace=True),
    "leaky": lambda n: nn.LeakyReLU(0.2),
    "leaky_in_place": lambda n: nn.LeakyReLU(0.3, inplace=True),
    "same": lambda n: (nn.Dropout(), nn.Identity(), nn.Flatten())[n],
    "pool": lambda n: (nn.MaxPool1d(2), nn.AvgPool1d(2))[n],
}


class Layers(nn.Module):
    """The layers that instructions call, made when they are first asked for, and a table."""

    def __init__(self) -> None:
        super().__init__()
        self.made = nn.ModuleDict()
        self.table = nn.Parameter(torch.randn(16, 16, dtype=torch.float64))

    def get(self, kind: str, n: int = 0) -> Any:
        if (name := f"{kind}_{n}") not in self.made:
            if n > 16:
                raise ValueError("too large")
            layer = MAKERS[kind](n).double().eval()
            for buffer in layer.buffers():
                if buffer.is_floating_point():
                    nn.init.uniform_(buffer, 0.5, 2.0)
            self.made[name] = layer
        return self.made[name]


class Program(nn.Module):
    """A network that runs instructions, and adds up linear functions of what is left."""

    def __init__(self, layers: Layers, code: list[Any], outputs: list[tuple[int, Any]]) -> None:
        super().__init__()
        self.layers, self.code, self.outputs = layers, code, outputs
        self.plain = False  # for autograd, which sees no detached tensors

    def forward(self, x: Any, m: Any, lengths: Any) -> Any:
        registers = [x, m, lengths]
        for name, arguments in self.code:
            registers += run(name, self, registers, arguments)
        return sum(
            registers[k].reshape(len(x), -1).double() @ weights for k, weights in self.outputs
        )


def run(name: str, program: Any, registers: list[Any], arguments: Any) -> list[Any]:
    """Run an instruction; return the tensors that it makes."""
    source, *rest = arguments
    made = INSTRUCTIONS[name](program, registers[source], registers, *rest)
    return list(made) if isinstance(made, tuple | list) else [made]


INSTRUCTIONS: dict[str, Any] = {}


def instruction(function: Any) -> Any:
    INSTRUCTIONS[function.__name__] = function
    return function


def quiet(function: Any) -> Any:
    """Register a change in place, whose result is not used."""

    def changed(*arguments: Any) -> list[Any]:
        function(*arguments)
        return []

    INSTRUCTIONS[function.__name__] = changed
    return function


# Instructions take the program, a register, all registers, and a random number generator's seed.


def pick(seed: int, *choices: Any) -> Any:
    return random.Random(seed).choice(choices)


def partner(h: Any, registers: list[Any], seed: int) -> Any:
    """Return a register of the same shape, perhaps the same."""
    # Not the integers, which are floats in the reference.
    floats = [registers[0], *registers[3:]]
    alike = [r for r in floats if r.shape == h.shape and r.dtype == h.dtype]
    return random.Random(seed).choice(alike)


# Layers


def channels(h: Any) -> int:
    """Return the channels of (n_samples, n_channels, n_steps), of which torch also takes one."""
    if h.dim() != 3:
        raise ValueError("another number of axes")
    return h.shape[1]


@instruction
def linear(program, h, registers, seed):
    return program.layers.get("linear", h.shape[-1])(h)


@instruction
def conv(program, h, registers, seed):
    return program.layers.get("conv", channels(h))(h)


@instruction
def norm(program, h, registers, seed):
    return program.layers.get("norm", channels(h))(h)


@instruction
def recur(program, h, registers, seed):
    channels(h)
    states, last = program.layers.get("rnn", h.shape[2])(h)
    return [states, last[0]]


@instruction
def recur_packed(program, h, registers, seed):
    lengths = registers[2].clamp(max=h.shape[1])
    packed = pack_padded_sequence(h, lengths.cpu(), batch_first=True, enforce_sorted=False)
    packed, _ = program.layers.get("rnn", h.shape[2])(packed)
    filling = pick(seed, 0.0, -1.0, 0.5)
    length = pick(seed + 1, None, h.shape[1])
    states, _ = pad_packed_sequence(
        packed, batch_first=True, padding_value=filling, total_length=length
    )
    return [states.amax(1), states[:, 0]]


@instruction
def leaky(program, h, registers, seed):
    layer = program.layers.get("leaky")
    layer.negative_slope = pick(seed, 0.1, 0.4, 0.7)
    return layer(h)


@instruction
def same(program, h, registers, seed):
    return program.layers.get("same", pick(seed, 0, 1, 2))(h)


@instruction
def pool(program, h, registers, seed):
    channels(h)
    return program.layers.get("pool", pick(seed, 0, 1))(h)


@instruction
def pool_all(program, h, registers, seed):
    channels(h)
    function = pick(seed, F.max_pool1d, F.avg_pool1d)
    return function(h, h.size(2))


@instruction
def weights(program, h, registers, seed):
    size = h.shape[-1]
    return F.linear(h, program.layers.table[:size, :size] * pick(seed, 1.0, 0.5))


# Functions


@instruction
def activate(program, h, registers, seed):
    return pick(seed, F.relu, torch.neg, lambda v: F.leaky_relu(v, 0.05 * v.shape[-1]))(h)


@instruction
def scale(program, h, registers, seed):
    return pick(seed, lambda v: v * 2.0, lambda v: v - 0.5, lambda v: 1.0 - v, lambda v: v / 4)(h)


@instruction
def combine(program, h, registers, seed):
    function = pick(seed, torch.add, torch.sub, torch.maximum, torch.minimum)
    return function(h, partner(h, registers, seed))


@instruction
def choose(program, h, registers, seed):
    one, other = partner(h, registers, seed), partner(h, registers, seed + 1)
    return torch.where(h > 0.1, one, other)


@instruction
def join(program, h, registers, seed):
    parts = [h, partner(h, registers, seed)]
    return torch.stack(parts, 1) if pick(seed, True, False) else torch.cat(parts, -1)


@instruction
def reduce(program, h, registers, seed):
    return pick(seed, torch.sum, torch.mean, torch.amax)(h, pick(seed + 1, *range(1, h.dim())))


@instruction
def mask(program, h, registers, seed):
    return h * (partner(h, registers, seed) > 0)


@instruction
def cast(program, h, registers, seed):
    m = registers[1]
    if program.plain:  # it holds floats already
        return m.clone()
    return pick(seed, lambda: m.double(), lambda: m.to(h), lambda: m.type_as(h))()


@instruction
def constant(program, h, registers, seed):
    return pick(seed, torch.zeros_like, torch.ones_like)(h)


# Sums, orders, indices


def last_index(h, seed):
    """Return an index into the last axis, with places that come twice, and one for each value."""
    n = h.shape[-1]
    index = torch.tensor([random.Random(seed + k).randrange(n) for k in range(n)])
    return index, index.expand(h.shape)


@instruction
def run_along(program, h, registers, seed):
    axis = pick(seed, *range(1, h.dim()))
    return pick(seed + 1, lambda: h.cumsum(axis), lambda: h.diff(dim=axis), lambda: h.abs(),
                lambda: torch.trapezoid(h, dim=axis), lambda: h.cummax(axis)[0])()  # fmt: skip


@instruction
def order(program, h, registers, seed):
    axis = pick(seed, *range(1, h.dim()))
    return pick(seed + 1, lambda: h.sort(axis)[0], lambda: h.topk(2, axis)[0],
                lambda: h.median(axis).values, lambda: h.quantile(0.3, axis, keepdim=True),
                lambda: h.gather(axis, h.argsort(axis)),
                lambda: h.kthvalue(2, axis)[0])()  # fmt: skip


@instruction
def add_at(program, h, registers, seed):
    other = partner(h, registers, seed)
    index, each = last_index(h, seed)
    # Not with include_self=False: torch's gradient of amax is then half of the true one where
    # what is written over equals what is written.
    target = pick(seed, h, torch.zeros_like(h), torch.ones_like(h))
    return pick(seed + 1, lambda: target.index_add(-1, index, other, alpha=0.5),
                lambda: target.scatter_add(-1, each, other),
                lambda: target.scatter_reduce(-1, each, other, "mean"),
                lambda: target.scatter_reduce(-1, each, other, "amax"),
                lambda: target.clone().index_add_(-1, index, other),
                lambda: target.index_copy(-1, index.unique(), other[..., : len(index.unique())]),
                lambda: torch.slice_scatter(target, other[..., 1:], -1, 1))()  # fmt: skip


@instruction
def contract(program, h, registers, seed):
    n = h.shape[-1]
    if n > 16:
        raise ValueError("too large")
    matrix = program.layers.table[:n, :n]
    return pick(seed, lambda: torch.einsum("...i,io->...o", h, matrix),
                lambda: torch.einsum("bi...,i->b...", h.movedim(-1, 1), matrix[0]),
                lambda: torch.einsum("b...i,i->bi...", h, matrix[1]),
                lambda: torch.einsum("b...i,io,i->b...io", h, matrix, matrix[0]),
                lambda: torch.tensordot(h, matrix, dims=([-1], [1])),
                lambda: torch.kron(h, matrix[:1, :2]) if h.dim() == 2 else h)()  # fmt: skip


@instruction
def transform(program, h, registers, seed):
    """Fourier transforms, with complex weights between."""
    n = h.shape[-1]
    if n > 8:
        raise ValueError("too large")
    table = program.layers.table[0]
    modes = pick(seed, torch.fft.rfft, torch.fft.fft)(h)
    weight = torch.complex(table[: modes.shape[-1]], table[-modes.shape[-1] :])

    def low():
        kept = torch.zeros_like(modes)
        kept[..., :2] = modes[..., :2] * weight[:2]
        return kept

    modes = pick(seed + 1, lambda: modes * weight, low, lambda: modes + 1j * weight.real,
                 lambda: modes.conj() * weight, lambda: modes.roll(1, -1))()  # fmt: skip
    return pick(seed + 2, lambda: torch.fft.irfft(modes, n=n), lambda: modes.real,
                lambda: modes.abs(), lambda: torch.view_as_real(modes))()  # fmt: skip


@instruction
def in_front(program, h, registers, seed):
    """Fold an axis, or another register, in front of the samples, and take it out again."""
    one = h if h.dim() > 2 else h.unsqueeze(1)
    n = one.shape[1]
    layer = program.layers.get("linear", one.shape[-1])
    if pick(seed, True, False):
        return F.relu(layer(one.transpose(0, 1).flatten(0, 1))).unflatten(0, (n, -1))[-1]
    return F.relu(layer(torch.cat([h, partner(h, registers, seed)]))).chunk(2)


@instruction
def unpool(program, h, registers, seed):
    channels(h)
    pooled, indices = F.max_pool1d(h, 2, return_indices=True)
    return F.max_unpool1d(F.relu(pooled), indices, 2, output_size=h.shape[2:])


# Views


@instruction
def flat(program, h, registers, seed):
    function = pick(seed, torch.flatten, lambda v, k: v.view(len(v), -1),
                    lambda v, k: v.reshape(len(v), -1))  # fmt: skip
    return function(h, 1)


@instruction
def fold(program, h, registers, seed):
    return h.unflatten(-1, (2, -1))


@instruction
def transpose(program, h, registers, seed):
    axes = random.Random(seed).sample(range(1, h.dim()), 2)
    return pick(seed, torch.transpose, torch.swapaxes)(h, *axes)


@instruction
def reorder(program, h, registers, seed):
    axes = list(range(1, h.dim()))
    random.Random(seed).shuffle(axes)
    return h.permute(0, *axes)


@instruction
def cut(program, h, registers, seed):
    axis, n = pick(seed, *range(1, h.dim())), None
    n = h.shape[axis]
    index = pick(seed + 1, slice(1, None), slice(0, n - 1), slice(None, None, 2), 0, n - 1)
    return h[(slice(None),) * axis + (index,)]


@instruction
def pieces(program, h, registers, seed):
    axis = pick(seed, *range(1, h.dim()))
    return pick(seed + 1, lambda: h.chunk(2, axis), lambda: h.split(2, axis),
                lambda: h.unbind(axis)[:2])()  # fmt: skip


@instruction
def axis_more(program, h, registers, seed):
    return h.unsqueeze(pick(seed, *range(1, h.dim() + 1)))


@instruction
def axis_less(program, h, registers, seed):
    return h.squeeze(pick(seed, *range(1, h.dim())))


@instruction
def widen(program, h, registers, seed):
    return h.unsqueeze(1).expand(-1, pick(seed, 1, 2), *h.shape[1:])


@instruction
def alias(program, h, registers, seed):
    if program.plain:
        return h.view_as(h)
    return pick(seed, lambda: h.detach(), lambda: h.data, lambda: h.view_as(h))()


@instruction
def copied(program, h, registers, seed):
    return pick(seed, lambda: h.contiguous(), lambda: h.clone(), lambda: h.double())()


# Changes in place


@quiet
def change(program, h, registers, seed):
    layer = pick(seed, "relu", "leaky_in_place")
    pick(seed, lambda: h.relu_(), lambda: F.leaky_relu_(h, 0.3), lambda: h.mul_(2.0),
         lambda: h.neg_(), lambda: h.add_(0.5), lambda: F.relu(h, inplace=True),
         lambda: program.layers.get(layer)(h))()  # fmt: skip


@quiet
def change_a_view(program, h, registers, seed):
    view = flat(program, h, registers, seed)
    change(program, view[:, 1:], registers, seed + 1)


@quiet
def add_in_place(program, h, registers, seed):
    pick(seed, h.add_, h.sub_)(partner(h, registers, seed))


@quiet
def mask_in_place(program, h, registers, seed):
    other = partner(h, registers, seed)
    pick(seed, lambda: h.masked_fill_(other < 0, 0.25), lambda: h.mul_(other > 0),
         lambda: h.__setitem__(other < 0, 0.0))()  # fmt: skip


@quiet
def write(program, h, registers, seed):
    n = h.shape[-1]
    pick(seed, lambda: h.__setitem__((slice(None), 0), 0.5),
         lambda: h.__setitem__((Ellipsis, 0), h[..., n - 1]),
         lambda: h.__setitem__((Ellipsis, [0, n - 1]), h[..., [n - 1, 0]]),
         lambda: h[:, 1:].zero_(), lambda: h[..., 0].fill_(1.5),
         lambda: h[..., 1:].copy_(h[..., :1]))()  # fmt: skip


@quiet
def write_other(program, h, registers, seed):
    other = partner(h, registers, seed)
    pick(seed, lambda: h.copy_(other), lambda: h.__setitem__(Ellipsis, other),
         lambda: h[:, :1].copy_(other[:, :1]),
         lambda: h.__setitem__((Ellipsis, slice(1, None)), other[..., 1:]))()  # fmt: skip


@quiet
def augment(program, h, registers, seed):
    if pick(seed, True, False):
        h[:, 1:] += partner(h, registers, seed)[:, 1:]
    else:
        h[..., 0] *= 3.0


@quiet
def turn(program, h, registers, seed):
    axes = random.Random(seed).sample(range(1, h.dim()), 2)
    pick(seed, lambda: h.transpose_(*axes), lambda: h.unsqueeze_(1), lambda: h.squeeze_(1),
         lambda: h.swapaxes_(*axes))()  # fmt: skip


# --- Drawing, running and judging programs ---------------------------------------------------


def draw_inputs(generator: random.Random) -> tuple[Any, Any, Any]:
    own = np.random.default_rng(generator.getrandbits(32))
    x = own.normal(size=(N_SAMPLES, N_STEPS, N_FEATURES))
    dtype = generator.choice(["int64", "uint8", "int32"])
    # No two alike in a sample, as a maximum of equals has no gradient, and none that a constant
    # takes to 0 exactly, of which no relevance comes back.
    m = own.permuted(np.tile([3, 5, 6, 7], (N_SAMPLES, 1)), axis=1).astype(dtype)
    lengths = own.integers(1, N_STEPS + 1, size=N_SAMPLES)
    lengths[generator.randrange(N_SAMPLES)] = N_STEPS
    return x, m, lengths


def draw_program(layers: Layers, inputs: Any, generator: random.Random, n_steps: int) -> Program:
    """Draw instructions that torch runs, and functions of the registers they leave."""
    code: list[Any] = []
    names = list(INSTRUCTIONS)
    with torch.no_grad():
        while len(code) < n_steps:
            registers = trace(layers, code, inputs)
            floats = [k for k, r in enumerate(registers) if r.is_floating_point()]
            weights = [1 + 3 * (k == max(floats)) for k in floats]
            source = generator.choices(floats, weights)[0]
            step = generator.choice(names), (source, generator.getrandbits(16))
            try:
                registers = trace(layers, [*code, step], inputs)
            except (RuntimeError, ValueError, IndexError, KeyError, TypeError):
                continue
            sizes = [r.numel() for r in registers if r.is_floating_point()]
            if (
                min(sizes) > 0
                and max(sizes) <= 400 * N_SAMPLES
                and all(len(r) == N_SAMPLES for r in registers)
            ):
                code.append(step)
    registers = trace(layers, code, inputs)
    floats = [k for k, r in enumerate(registers) if r.is_floating_point() and k > 2]
    chosen = sorted({*generator.sample(floats, min(2, len(floats))), *floats[-1:]}) or [0]
    own = torch.Generator().manual_seed(generator.getrandbits(32))
    outputs = [
        (k, torch.randn(registers[k][0].numel(), 2, generator=own, dtype=torch.float64))
        for k in chosen
    ]
    return Program(layers, code, outputs)


def trace(layers: Layers, code: list[Any], inputs: Any) -> list[Any]:
    """Return the registers that instructions leave."""
    registers = [torch.tensor(one) for one in inputs]
    program = Program(layers, code, [])
    with torch.no_grad():
        for name, arguments in code:
            registers += run(name, program, registers, arguments)
    return registers


def find_expected(program: Program, inputs: Any) -> tuple[Any, Any, Any]:
    """Return gradient times input of both inputs, and the scores, by torch alone."""
    x, m, lengths = (torch.tensor(one) for one in inputs)
    with torch.no_grad():
        scores = program(x.clone(), m.clone(), lengths)[:, 1].numpy()
    program = Program(program.layers, program.code, program.outputs)
    program.plain = True
    sources = [x.requires_grad_(), m.double().requires_grad_()]
    try:
        out = program(x.clone(), sources[1].clone(), lengths)[:, 1].sum()
        found = torch.autograd.grad(out, sources, allow_unused=True)
        gradients = [
            torch.zeros_like(s) if g is None else g for s, g in zip(sources, found, strict=True)
        ]
    except RuntimeError:  # autograd needs what was changed in place
        gradients = [differences(program, sources, lengths, k) for k in range(2)]
    parts = [(s * g).detach().numpy() for s, g in zip(sources, gradients, strict=True)]
    return parts[0], parts[1], scores


def differences(program: Program, sources: Any, lengths: Any, k: int) -> Any:
    """Return the gradient by differences, exact to rounding but at a kink."""
    gradient, step = torch.zeros_like(sources[k]), 1e-6
    with torch.no_grad():
        for place in np.ndindex(*sources[k].shape[1:]):
            ends = []
            for sign in (1.0, -1.0):
                moved = [s.detach().clone() for s in sources]
                moved[k][(slice(None), *place)] += sign * step
                ends.append(program(*moved, lengths)[:, 1])
            gradient[(slice(None), *place)] = (ends[0] - ends[1]) / (2 * step)
    return gradient


def judge(program: Program, inputs: Any, batch_size: int | None) -> tuple[str, str]:
    """Return one of ``KINDS``, and what was found."""
    size = batch_size or N_SAMPLES
    chunks = [[one[k : k + size] for one in inputs] for k in range(0, N_SAMPLES, size)]
    parts = [find_expected(program, chunk) for chunk in chunks]
    expected = [np.concatenate(part) for part in zip(*parts, strict=True)]
    try:
        relevance, details = sklrp.explain(
            program, inputs, target=1, rule="zero", epsilon=0.0, batch_size=batch_size,
            return_details=True,
        )  # fmt: skip
    except TypeError as error:
        return ("refused" if "'" in str(error) else "stopped"), str(error)
    except ValueError as error:
        known = "does not depend" in str(error) or "no layer with weights" in str(error)
        return ("refused" if known else "stopped"), f"ValueError: {error}"
    except Exception as error:  # whatever else is a fault
        return "stopped", f"{type(error).__name__}: {error}"
    found = [relevance[0], relevance[1], details.score]
    for name, one, other in zip(("x", "m", "score"), found, expected, strict=True):
        scale = np.abs(other).max() + 1.0
        if not np.abs(one - other).max() <= 1e-6 * scale:
            return "wrong", f"{name} differs by {np.abs(one - other).max():.1e} of {scale:.1e}"
    return "right", ""


def shorten(program: Program, inputs: Any, batch_size: int | None, kind: str) -> Program:
    """Return the program without instructions that its fault does not need."""
    for k in reversed(range(len(program.code))):
        made = len(trace(program.layers, program.code[: k + 1], inputs))
        first = len(trace(program.layers, program.code[:k], inputs))
        rest = program.code[k + 1 :]
        used = [a[0] for _, a in rest] + [n for n, _ in program.outputs]
        if any(first <= source < made for source in used):
            continue
        shift = made - first
        moved = [(n, (a[0] - shift * (a[0] >= made), *a[1:])) for n, a in rest]
        outputs = [(n - shift * (n >= made), w) for n, w in program.outputs]
        shorter = Program(program.layers, program.code[:k] + moved, outputs)
        try:
            if judge(shorter, inputs, batch_size)[0] == kind:
                program = shorter
        except (RuntimeError, ValueError, IndexError, KeyError, TypeError):
            continue
    return program


def draw_case(seed: int, n_steps: int = 8) -> tuple[Program, Any, int | None]:
    """Draw a program, its inputs and the size of a batch."""
    generator = random.Random(seed)
    torch.manual_seed(seed)
    layers = Layers()
    inputs = draw_inputs(generator)
    program = draw_program(layers, inputs, generator, generator.randint(2, n_steps)).eval()
    batch_size = generator.choice([None, None, 2, 1])
    return program, inputs, batch_size


def try_program(seed: int, n_steps: int = 8) -> tuple[str, str, Program, Any, int | None]:
    """Draw and judge one program."""
    program, inputs, batch_size = draw_case(seed, n_steps)
    return *judge(program, inputs, batch_size), program, inputs, batch_size


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=10, help="how many faults to print")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", "Use of .* on expanded tensors")
    counts, reasons = collections.Counter(), collections.Counter()
    for k in range(options.programs):
        kind, text, program, inputs, batch_size = try_program(options.seed * 1_000_000 + k)
        counts[kind] += 1
        if kind == "refused":
            reasons[text[:110]] += 1
        if kind in ("wrong", "stopped") and counts["wrong"] + counts["stopped"] <= options.show:
            program = shorten(program, inputs, batch_size, kind)
            print(f"{kind}: seed {k}, batch_size {batch_size}, {inputs[1].dtype}: {text}")
            for step in program.code:
                print("   ", *step)
            print("    ->", [n for n, _ in program.outputs], judge(program, inputs, batch_size))
    print(f"programs {options.programs}:", *(f"{k} {counts[k]}" for k in KINDS))
    for reason, n in reasons.most_common(12):
        print(f"{n:6d}  {reason}")
    return counts["wrong"] + counts["stopped"]


if __name__ == "__main__":
    sys.exit(bool(main()))
