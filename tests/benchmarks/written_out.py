"""Rule epsilon, written out in torch: ``python -m tests.benchmarks.written_out``.

For a few networks, with nothing but what the formula asks for: no checks, no other layers or
rules, no account of what was kept. Its time over the yardstick's stands beside that of `explain`.
``--write docs/benchmarks.md`` puts the table between its markers in that file.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sklrp import explain
from sklrp._quick_images import is_of_few_channels, to_few_channels

from .engine import gradient, make_cases, make_lstm_cases, make_yardstick, quiet
from .measure import find_place, machine, median_times, threads, write

MARKERS = ("<!-- written out -->", "<!-- /written out -->")
EPSILON = 1e-6


def stable(z: Tensor) -> Tensor:
    """Return what relevance is divided by."""
    return torch.copysign(z.new_tensor(EPSILON), z).add_(z)


@torch.no_grad()
def explain_layers(model: nn.Sequential, X: np.ndarray) -> np.ndarray:
    """Return the relevance of a perceptron's or a CNN's input, for the largest score."""
    found = np.empty_like(X)
    rows = np.array_split(np.arange(len(X)), -(-len(X) // find_chunk(model, X)))
    for chunk in (slice(part[0], part[-1] + 1) for part in rows):
        x = torch.from_numpy(X[chunk])
        x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
        values, indices = [x], {}
        for k, layer in enumerate(model):
            match layer:
                case nn.ReLU():  # where it writes zeros no relevance comes
                    x = torch.relu_(x)
                case nn.MaxPool2d():
                    x, indices[k] = F.max_pool2d(x, layer.kernel_size, return_indices=True)
                case _:
                    x = layer(x)
            values.append(x)
        r = torch.zeros_like(x).scatter_(1, x.argmax(1, True), x.amax(1, True))
        for k in range(len(model) - 1, -1, -1):
            r = pull(model[k], values[k], values[k + 1], r, indices.get(k))
        found[chunk] = r.numpy()
    return found


def find_chunk(model: nn.Sequential, X: np.ndarray) -> int:
    """Return how many samples have 8 MiB of the largest values: the package's first bound."""
    x, largest = torch.from_numpy(X[:1]), X[0].nbytes
    for layer in model:
        x = layer(x)
        largest = max(largest, x.numel() * x.element_size())
    return max(1, 8 * 2**20 // largest)


def pull(layer: Any, x: Tensor, z: Tensor, r: Tensor, indices: Tensor | None) -> Tensor:
    """Return the relevance of a layer's input ``x`` from that of its output ``z``."""
    match layer:
        case nn.Linear():
            return torch.mm(r.div_(stable(z)), layer.weight).mul_(x)
        case nn.Conv2d():
            ratio = r.div_(stable(z))
            if is_of_few_channels(layer, layer.weight):
                way = layer.padding, layer.dilation
                return to_few_channels(ratio, layer.weight, *way).mul_(x)
            return F.conv_transpose2d(ratio, layer.weight, None, 1, layer.padding).mul_(x)
        case nn.MaxPool2d():
            return F.max_unpool2d(r, indices, layer.kernel_size, output_size=x.shape[2:])
    return r.view(x.shape) if isinstance(layer, nn.Flatten) else r


@torch.no_grad()
def run_lstm(lstm: nn.LSTM, x: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Return states and cells, the initial ones first, and all gates of each step."""
    n_units, (n_samples, n_steps, n_inputs) = lstm.hidden_size, x.shape
    bias = lstm.bias_ih_l0 + lstm.bias_hh_l0
    flat = x.transpose(0, 1).reshape(-1, n_inputs)
    z = torch.addmm(bias, flat, lstm.weight_ih_l0.t()).view(n_steps, n_samples, -1)
    h, c = [x.new_zeros(n_samples, n_units)], [x.new_zeros(n_samples, n_units)]
    gates = torch.empty_like(z).view(n_steps, n_samples, 4, n_units)
    for t in range(n_steps):
        z[t].addmm_(h[-1], lstm.weight_hh_l0.t())
        of_step = z[t].view(n_samples, 4, n_units)
        torch.sigmoid(of_step, out=gates[t])
        torch.tanh(of_step[:, 2], out=gates[t, :, 2])
        i, f, g, o = gates[t].unbind(1)
        c.append((f * c[-1]).addcmul_(i, g))
        h.append(c[-1].tanh().mul_(o))
    return h, c, gates


@torch.no_grad()
def explain_lstm(model: nn.Sequential, X: np.ndarray) -> np.ndarray:
    """Return the relevance of an LSTM's input, for the largest score, which the last state has."""
    lstm, dense = model[0], model[-1]
    x = torch.from_numpy(X)
    n_units = lstm.hidden_size
    h, c, gates = run_lstm(lstm, x)
    scores = dense(h[-1])
    r = torch.zeros_like(scores).scatter_(1, scores.argmax(1, True), scores.amax(1, True))
    r_cell = r.div_(stable(scores)).mm(dense.weight).mul_(h[-1])
    rows = slice(2 * n_units, 3 * n_units)  # of the candidate; the gates get nothing
    of_input, of_state = lstm.weight_ih_l0[rows], lstm.weight_hh_l0[rows]
    bias = (lstm.bias_ih_l0 + lstm.bias_hh_l0)[rows]
    states, cells, before = torch.stack(h[:-1]), torch.stack(c[1:]), torch.stack(c[:-1])
    z = states @ of_state.t() + x.transpose(0, 1) @ of_input.t() + bias
    share = stable(cells).reciprocal_()
    new = (gates[:, :, 0] * gates[:, :, 2]).mul_(share).div_(stable(z))
    kept = (gates[:, :, 1] * before).mul_(share)
    ratios = torch.empty_like(z)
    for t in range(len(z) - 1, -1, -1):
        torch.mul(new[t], r_cell, out=ratios[t])
        r_cell = (kept[t] * r_cell).addcmul_(ratios[t] @ of_state, states[t])
    return (x * (ratios @ of_input).transpose(0, 1)).numpy()


Row = tuple[str, str, Callable[..., Any], nn.Module, np.ndarray, Callable[[], Any]]


def make_rows(quick: bool) -> Iterator[Row]:
    """Yield case, what to reach, what is written out, its network and data, the yardstick."""
    for case in make_cases(quick):
        model = case.model.eval().requires_grad_(False)
        yardstick = make_yardstick(case)
        yield case.name, case.reach["epsilon"], explain_layers, model, case.X, yardstick
    for name, reach, lstm, X in make_lstm_cases(quick):
        yield name, reach, explain_lstm, lstm, X, partial(gradient, lstm, X)


def main() -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.written_out", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="does it run? no figures")
    parser.add_argument("--write", type=Path, metavar="FILE", help="a file with the two markers")
    options = parser.parse_args()
    if options.write and options.quick:
        parser.error("--quick gives no figures to write")
    if options.write:
        find_place(options.write, MARKERS)
    head = "| case | reach | written out | explain |"
    lines = [f"{machine(1)}:", "", head, "|---" * 4 + "|"]
    print("\n".join(lines), flush=True)
    with threads(1), quiet():
        for case, reach, by_hand, model, X, yardstick in make_rows(options.quick):
            ours = partial(explain, model, X, rule="epsilon")
            functions = {"written out": partial(by_hand, model, X), "ours": ours}
            t = median_times({**functions, "yardstick": yardstick}, 1 if options.quick else 15)
            cells = (f"{t[name] / t['yardstick']:.2f}" for name in functions)
            lines.append(f"| {case} | {reach} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    if options.write:
        write(options.write, "\n".join(lines), MARKERS)


if __name__ == "__main__":
    main()
