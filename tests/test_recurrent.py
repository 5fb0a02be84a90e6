"""Relevance through LSTM, GRU and RNN layers and cells, against rewrites in plain loops.

The rewrites explain one sequence at a time, step by step and unit by unit, from the formulas of
Arras et al. 2017 and 2019 (LSTM, products of gate and signal) and their transfer to the GRU. The
handlers are called directly, on all outputs at once: states, last states, cell states.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from sklrp.propagation.handlers import recurrent_run, recurrent_steps
from sklrp.propagation.registry import HANDLERS
from sklrp.propagation.tape import CAUSES, Step
from sklrp.propagation.tape import Kept as StepKept
from sklrp.rules import AlphaBeta, Epsilon, Flat, Gamma, Signal, WSquare, ZBox, Zero, ZPlus
from tests.helpers.comparing import assert_close, assert_same_to_rounding
from tests.helpers.parameters import randomised
from tests.helpers.reference import (
    Kept,
    neuron_relevance,
    numpy,
    rule_epsilon,
    share_out,
    sigmoid,
    stabilised,
)

RULES = [
    Zero(),
    Epsilon(),
    Epsilon(epsilon=0.1),
    Gamma(epsilon=0.01),
    AlphaBeta(),
    AlphaBeta(alpha=3.0, beta=2.0, epsilon=0.0, renormalize=True),
    ZPlus(),
    WSquare(),
    Flat(),
    ZBox(low=-4.0, high=4.0),
]
KINDS = ["LSTM", "GRU", "tanh", "relu"]
PRODUCTS = ["all", "prop", "abs", "half"]
# layers, bidirectional, bias, lengths, initial states
NETWORKS = list(itertools.product((1, 2), *[(False, True)] * 4))
EPSILON = 1e-3
TOLERANCE = 1e-9


# --- The rewrite ----------------------------------------------------------------------------


def gate_share(product, gate, signal, eps):
    """Share of a gate in the relevance of its product with a signal."""
    if product in ("all", "half"):
        return {"all": 0.0, "half": 0.5}[product]
    if product == "abs":
        gate, signal = abs(gate), abs(signal)
    denominator = stabilised(gate + signal, eps)
    return 0.0 if denominator == 0 else gate / denominator


class Plain:
    """One direction of one layer on one sequence, ``x`` of shape (n_steps, n_inputs).

    `limits` are the bounds of ``x`` for z-box.
    """

    def __init__(self, layer, kind, suffix, x, starts, limits):
        self.kind, self.x, self.limits = kind, x, limits
        self.n = layer.hidden_size
        self.w_x, self.w_h = (numpy(getattr(layer, f"weight_{k}{suffix}")) for k in ("ih", "hh"))
        self.b_x, self.b_h = (
            numpy(getattr(layer, f"bias_{k}{suffix}")) if layer.bias else np.zeros(len(self.w_x))
            for k in ("ih", "hh")
        )
        self.start = [start.copy() for start in starts]
        self.order = range(len(x) - 1, -1, -1) if suffix.endswith("_reverse") else range(len(x))
        self.h, self.steps = np.zeros((len(x), self.n)), {}
        state = self.start
        for t in self.order:
            self.steps[t], state = self.forward_step(x[t], state)
            self.h[t] = state[0]
        self.end = state

    def forward_step(self, x, state):
        n, h = self.n, state[0]
        from_x, from_h = self.w_x @ x + self.b_x, self.w_h @ h + self.b_h
        a = from_x + from_h
        memory = {"h_prev": h}
        if self.kind == "LSTM":
            i, f, o = (sigmoid(a[k * n : k * n + n]) for k in (0, 1, 3))
            g, c_prev = np.tanh(a[2 * n : 3 * n]), state[1]
            c = f * c_prev + i * g
            memory |= {"i": i, "f": f, "g": g, "o": o, "c_prev": c_prev, "c": c}
            return memory, [o * np.tanh(c), c]
        if self.kind == "GRU":
            r, z = sigmoid(a[:n]), sigmoid(a[n : 2 * n])
            u = self.w_h[2 * n :] @ h
            new = np.tanh(from_x[2 * n :] + r * from_h[2 * n :])
            memory |= {"r": r, "z": z, "u": u, "new": new}
            return memory, [(1.0 - z) * new + z * h]
        return memory, [np.tanh(a) if self.kind == "tanh" else np.maximum(a, 0.0)]

    def neuron(self, t, row, relevance, reset=1.0):
        """Share the relevance of one pre-activation among x and h_prev of step t."""
        h = self.steps[t]["h_prev"]
        w_h = self.w_h[row]
        if type(self.rule).__name__ not in ("WSquare", "Flat"):
            w_h = reset * w_h
        low = high = None
        if self.limits is not None:
            box = np.maximum(1.0, np.abs(self.start[0]))
            low, high = (
                np.concatenate([np.broadcast_to(limit, self.x.shape)[t], sign * box])
                for limit, sign in zip(self.limits, (-1.0, 1.0), strict=True)
            )
        received, kept = neuron_relevance(
            self.rule,
            np.concatenate([self.x[t], h]),
            np.concatenate([self.w_x[row], w_h]),
            self.b_x[row] + reset * self.b_h[row],
            relevance,
            self.epsilon,
            low,
            high,
        )
        self.kept.add(kept)
        return received[: len(self.x[t])], received[len(self.x[t]) :]

    def split(self, relevance, new, prev):
        """Share the relevance of a sum of two terms by contribution."""
        shares, kept = share_out(relevance, np.array([new, prev]), 0.0, self.eps)
        self.kept.add(kept)
        return shares

    def relevance(self, r_out, r_end, rule, product, epsilon):
        """Relevance of x and of the initial states, and what was kept."""
        self.rule, self.product, self.epsilon = rule, product, epsilon
        self.eps, self.kept = rule_epsilon(rule, epsilon), Kept()
        r_x, r_state = np.zeros_like(self.x), [r.copy() for r in r_end]
        pull = {"LSTM": self.pull_lstm, "GRU": self.pull_gru}.get(self.kind, self.pull_rnn)
        for t in reversed(self.order):
            r_state[0] = r_state[0] + r_out[t]
            r_x[t], r_state = pull(t, r_state)
        return r_x, r_state, self.kept

    def pull_lstm(self, t, r_state):
        n, step, product = self.n, self.steps[t], self.product
        r_x, r_h, r_c = np.zeros_like(self.x[t]), np.zeros(n), np.zeros(n)
        for j in range(n):
            i, f, g, o, c_prev, c = (step[k][j] for k in ("i", "f", "g", "o", "c_prev", "c"))
            to_o = gate_share(product, o, np.tanh(c), self.eps) * r_state[0][j]
            new, prev = self.split(r_state[1][j] + r_state[0][j] - to_o, i * g, f * c_prev)
            to_i = gate_share(product, i, g, self.eps) * new
            to_f = gate_share(product, f, c_prev, self.eps) * prev
            r_c[j] = prev - to_f
            for k, relevance in enumerate((to_i, to_f, new - to_i, to_o)):
                if product == "all" and k != 2:
                    continue
                part_x, part_h = self.neuron(t, k * n + j, relevance)
                r_x, r_h = r_x + part_x, r_h + part_h
        return r_x, [r_h, r_c]

    def pull_gru(self, t, r_state):
        n, step, product = self.n, self.steps[t], self.product
        r_x, r_h = np.zeros_like(self.x[t]), np.zeros(n)
        for j in range(n):
            r, z, u, new = (step[k][j] for k in ("r", "z", "u", "new"))
            h = step["h_prev"][j]
            r_new, r_prev = self.split(r_state[0][j], (1.0 - z) * new, z * h)
            to_z = gate_share(product, 1.0 - z, new, self.eps) * r_new
            r_new = r_new - to_z
            of_prev = gate_share(product, z, h, self.eps) * r_prev
            r_h[j] += r_prev - of_prev
            to_z += of_prev
            part_x, part_h = self.neuron(t, 2 * n + j, r_new, reset=r)
            share = gate_share(product, r, u, self.eps)
            r_x, r_h = r_x + part_x, r_h + (1.0 - share) * part_h
            for row, relevance in ((j, share * part_h.sum()), (n + j, to_z)):
                if product != "all":
                    part_x, part_h = self.neuron(t, row, relevance)
                    r_x, r_h = r_x + part_x, r_h + part_h
        return r_x, [r_h]

    def pull_rnn(self, t, r_state):
        r_x, r_h = np.zeros_like(self.x[t]), np.zeros(self.n)
        for j in range(self.n):
            part_x, part_h = self.neuron(t, j, r_state[0][j])
            r_x, r_h = r_x + part_x, r_h + part_h
        return r_x, [r_h]


class PlainLayers:
    """All layers and directions on one sequence; `starts` are (n_runs, n_units) arrays."""

    def __init__(self, layer, kind, x, starts, limits):
        cell = isinstance(layer, nn.RNNCellBase)
        ways = ("", "_reverse") if not cell and layer.bidirectional else ("",)
        self.levels, self.layer = [], layer
        for k in range(1 if cell else layer.num_layers):
            level = []
            for d, way in enumerate(ways):
                own = [start[k * len(ways) + d] for start in starts]
                suffix = "" if cell else f"_l{k}{way}"
                level.append(Plain(layer, kind, suffix, x, own, limits))
            self.levels.append(level)
            if limits is not None:
                bounds = [np.maximum(1.0, np.abs(run.start[0])) for run in level]
                limits = (-np.concatenate(bounds), np.concatenate(bounds))
            x = np.hstack([run.h for run in level])
        self.out = x
        ends = [run.end for level in self.levels for run in level]
        self.ends = [np.stack(s) for s in zip(*ends, strict=True)]

    def relevance(self, r_out, r_ends, rule, product, epsilon):
        n, kept, r_starts = self.layer.hidden_size, Kept(), []
        position = sum(map(len, self.levels))
        for level in reversed(self.levels):
            received = 0.0
            for d, run in reversed(list(enumerate(level))):
                position -= 1
                own = r_out[:, d * n : d * n + n]
                r_x, r_start, lost = run.relevance(
                    own, [r[position] for r in r_ends], rule, product, epsilon
                )
                received = received + r_x
                r_starts.append(r_start)
                kept.add(lost)
            r_out = received
        return r_out, [np.stack(kind[::-1]) for kind in zip(*r_starts, strict=True)], kept


# --- The handlers ---------------------------------------------------------------------------

LAYERS = {"LSTM": nn.LSTM, "GRU": nn.GRU, "tanh": nn.RNN, "relu": nn.RNN}
CELLS = {"LSTM": nn.LSTMCell, "GRU": nn.GRUCell, "tanh": nn.RNNCell, "relu": nn.RNNCell}


def make_layer(kind, seed=0, cell=False, n_inputs=2, size=3, **options):
    if kind in ("tanh", "relu"):
        options["nonlinearity"] = kind
    if not cell:
        options = {"batch_first": True, **options}
    bias = options.get("bias", True)
    return randomised((CELLS if cell else LAYERS)[kind](n_inputs, size, **options), seed, bias)


def make_step(layer, rule, product="all", epsilon=EPSILON, **options):
    handler = HANDLERS[type(layer)].handler
    own = rule.resolve_epsilon(epsilon)
    step = Step("core", layer, handler, "recurrent", rule, own, product=product, **options)
    return step, handler


def normal(seed, *shape):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array))


def flat(nested):
    return [v for s in nested for v in flat(s)] if isinstance(nested, tuple) else [nested]


def run_handler(layer, x, lengths=None, starts=(), rule=None, relevance=None, **options):
    """Run a handler; `relevance` are those of all outputs, by samples, each may be None."""
    step, handler = make_step(layer, rule or Epsilon(), **options)
    cell = isinstance(layer, nn.RNNCellBase)
    axis = 0 if cell or layer.batch_first else 1
    signal = Signal(tensor(x), axis=axis, lengths=None if lengths is None else tensor(lengths))
    hx = [Signal(tensor(s), axis=int(not cell)) for s in starts]
    hx = None if not hx else tuple(hx) if len(hx) > 1 else hx[0]
    with torch.no_grad():
        outputs, pull = handler(step, signal, hx)
        outputs = flat(outputs)
        if relevance is None:
            return outputs, None, None
        kept = StepKept(len(x))
        given = tuple(None if r is None else tensor(r) for r in relevance)
        passed = pull(given if len(given) > 1 else given[0], kept)
    passed = passed if isinstance(passed, tuple) else (passed,)
    total = sum(r.flatten(2).sum(2) for r in given if r is not None)
    back = sum(r.flatten(2).sum(2) for r in passed) + sum(kept.values())
    scale = sum(float(r.abs().sum()) for r in (*passed, *kept.values()))
    assert torch.allclose(back, total, rtol=0, atol=1e-12 * (1.0 + scale))  # nothing is lost
    return outputs, [r.numpy() for r in passed], {k: v.numpy() for k, v in kept.items()}


def hold(layer, kind, x, lengths, starts, rule, product, seed=0):
    """Hold a handler against the rewrite, sample by sample; return the largest difference."""
    n_samples, (n_steps, size) = len(x), (x.shape[1], layer.hidden_size)
    n_states = 2 if kind == "LSTM" else 1
    n_ways = 1 + layer.bidirectional
    shapes = [(n_steps, n_ways * size)] + n_states * [(layer.num_layers * n_ways, size)]
    given = [normal(seed + k, 2, n_samples, *shape) for k, shape in enumerate(shapes)]
    _, passed, kept = run_handler(layer, x, lengths, starts, rule, given, product=product)
    limits = (rule.low, rule.high) if isinstance(rule, ZBox) else None
    worst = 0.0
    for b in range(n_samples):
        n = n_steps if lengths is None else int(lengths[b])
        own = [s[b] for s in starts] or [np.zeros(shapes[1])] * n_states
        plain = PlainLayers(layer, kind, x[b, :n], own, limits)
        for target in range(2):
            r_out, *r_ends = (r[target, b] for r in given)
            r_x, r_starts, lost = plain.relevance(r_out[:n], r_ends, rule, product, EPSILON)
            lost.padding += r_out[n:].sum()
            if not starts:
                lost.initial_state += sum(r.sum() for r in r_starts)
                r_starts = []
            expected = [np.vstack([r_x, np.zeros((n_steps - n, 2))]), *r_starts]
            expected.append(np.array([getattr(lost, cause) for cause in CAUSES]))
            actual = [r[target, b] for r in passed]
            actual.append([kept[c][target, b] if c in kept else 0.0 for c in CAUSES])
            scale = max(np.abs(r).max() for r in expected)
            for mine, theirs in zip(actual, expected, strict=True):
                worst = max(
                    worst, assert_close(np.asarray(mine) / scale, theirs / scale, TOLERANCE)
                )
    return worst


def hold_network(kind, rule, product, layers, bidirectional, bias, unequal, given, seed=0):
    layer = make_layer(kind, seed, num_layers=layers, bidirectional=bidirectional, bias=bias)
    x = normal(seed, 2, 3, 2)
    n_runs = layers * (1 + bidirectional)
    starts = [normal(seed + k, 2, n_runs, 3) for k in range((1 + (kind == "LSTM")) * given)]
    lengths = np.array([3, 2]) if unequal else None
    return hold(layer, kind, x, lengths, starts, rule, product, seed)


CASES = [
    (kind, product, rule)
    for kind in KINDS
    for product in (PRODUCTS if kind in ("LSTM", "GRU") else ["all"])
    for rule in RULES
    if not (kind == "relu" and isinstance(rule, ZBox))
]


@pytest.mark.parametrize("kind", KINDS)
def test_rewrite_is_torch(kind):
    """The rewrite's forward: order of gates, directions, both biases."""
    layer = make_layer(kind, 13, num_layers=2, bidirectional=True)
    x, starts = normal(0, 2, 4, 2), [normal(k, 2, 4, 3) for k in range(1 + (kind == "LSTM"))]
    hx = tuple(tensor(s.swapaxes(0, 1)) for s in starts)
    with torch.no_grad():
        out, state = layer(tensor(x), hx if kind == "LSTM" else hx[0])
    for b in range(2):
        plain = PlainLayers(layer, kind, x[b], [s[b] for s in starts], None)
        assert_close(plain.out, out[b], 1e-12)
        for mine, theirs in zip(plain.ends, flat(state), strict=True):
            assert_close(mine, theirs[:, b], 1e-12)


@pytest.mark.sweep(15)
@pytest.mark.parametrize(("kind", "product", "rule"), CASES)
def test_rewrite(kind, product, rule):
    """Every cell, rule and product; the 32 networks take turns, so that all of them come up."""
    number = CASES.index((kind, product, rule))
    for network in NETWORKS[number % 16 :: 16]:
        hold_network(kind, rule, product, *network, seed=number)


@pytest.mark.sweep(2)
@pytest.mark.parametrize("kind", KINDS)
def test_torch_kernels(kind, monkeypatch):
    """What runs on a GPU in place of NumPy's kernels does the same."""
    for module in (recurrent_run, recurrent_steps):
        monkeypatch.setattr(module, "on_cpu", lambda v: False)
    for product in PRODUCTS if kind in ("LSTM", "GRU") else ["all"]:
        for rule in (Epsilon(), Gamma(epsilon=0.01), Flat()):
            hold_network(kind, rule, product, 2, True, True, True, True)


@pytest.mark.sweep(4)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_bytes", [1, 300])
def test_blocks_of_steps(kind, n_bytes, monkeypatch):
    """Relevance is the same where few steps are looked back at a time, and states the same."""
    monkeypatch.setattr(recurrent_run, "_BLOCK_BYTES", n_bytes)
    monkeypatch.setattr(recurrent_run, "_MANY", 0)  # an LSTM is followed step by step
    for product in PRODUCTS if kind in ("LSTM", "GRU") else ["all"]:
        for rule in (Epsilon(), AlphaBeta(), WSquare()):
            for lengths in (False, True):
                hold_network(kind, rule, product, 2, True, True, lengths, True)
    layer, x = make_layer(kind, 5, num_layers=2, bidirectional=True), normal(5, 2, 7, 2)
    with torch.no_grad():
        expected = flat(layer(tensor(x)))
    actual, _, _ = run_handler(layer, x)
    for mine, theirs in zip(actual, expected, strict=True):
        theirs = theirs if theirs is expected[0] else theirs.transpose(0, 1)
        assert_close(numpy(mine.x), numpy(theirs), 1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [False, True])
def test_cells(kind, bias):
    """A cell is a layer of one step: the same outputs, the same relevance."""
    layer, cell = make_layer(kind, 1, bias=bias), make_layer(kind, 1, cell=True, bias=bias)
    x, n_states = normal(0, 2, 1, 2), 1 + (kind == "LSTM")
    assert_close(numpy(cell.weight_hh), numpy(layer.weight_hh_l0), 0.0)
    for starts in ([], [normal(k, 2, 1, 3) for k in range(n_states)]):
        for product in PRODUCTS if n_states > 1 or kind == "GRU" else ["all"]:
            for rule in (Epsilon(), AlphaBeta(), ZBox(low=-4.0, high=4.0)):
                if kind == "relu" and isinstance(rule, ZBox):
                    continue
                given = [normal(k, 2, 2, 1, 3) for k in range(n_states)]
                options = {"rule": rule, "product": product}
                expected = run_handler(layer, x, None, starts, relevance=[None, *given], **options)
                outputs, passed, kept = run_handler(
                    cell, x[:, 0], None, [v[:, 0] for v in starts],
                    relevance=[r[:, :, 0] for r in given], **options,
                )  # fmt: skip
                for mine, theirs in zip(outputs, expected[0][1:], strict=True):
                    assert mine.axis == 0
                    assert_close(mine.x, theirs.x[:, 0], 1e-12)
                for mine, theirs in zip(passed, expected[1], strict=True):
                    assert_close(mine, theirs[:, :, 0], 1e-12)
                assert kept.keys() == expected[2].keys()
                for cause, amount in kept.items():
                    assert_close(amount, expected[2][cause], 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_cells_step_by_step(kind):
    """Cells in a loop pass on what a layer does, with their states as signals."""
    layer, cell = make_layer(kind, 2), make_layer(kind, 2, cell=True)
    x, n_states = normal(0, 2, 4, 2), 1 + (kind == "LSTM")
    given = normal(1, 1, 2, 4, 3)
    starts = [normal(k, 2, 1, 3) for k in range(n_states)]
    _, expected, kept = run_handler(layer, x, None, starts, relevance=[given, *[None] * n_states])
    step, handler = make_step(cell, Epsilon())
    with torch.no_grad():
        state, pulls = tuple(Signal(tensor(v[:, 0])) for v in starts), []
        for t in range(4):
            out, pull = handler(step, Signal(tensor(x[:, t])), state if n_states > 1 else state[0])
            state = out if n_states > 1 else (out,)
            pulls.append(pull)
        lost = StepKept(2)
        r_state = [torch.zeros(1, 2, 3, dtype=torch.float64)] * n_states
        for t in reversed(range(4)):
            r_state[0] = r_state[0] + tensor(given[:, :, t])
            r_x, *r_state = pulls[t](tuple(r_state) if n_states > 1 else r_state[0], lost)
            assert_close(r_x, expected[0][:, :, t], 1e-12)
    for mine, theirs in zip(r_state, expected[1:], strict=True):
        assert_close(mine, theirs[:, :, 0], 1e-12)
    for cause in kept:
        assert_close(lost[cause], kept[cause], 1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_outputs_are_those_of_torch(kind, batch_first):
    """Outputs and last states are torch's, of packed sequences of unequal lengths too."""
    layer = make_layer(kind, 3, num_layers=2, bidirectional=True, batch_first=batch_first)
    x, lengths = normal(0, 3, 4, 2), np.array([2, 4, 1])
    starts = [normal(k, 3, 4, 3) for k in range(1 + (kind == "LSTM"))]
    hx = tuple(tensor(s.swapaxes(0, 1)) for s in starts)
    axis = int(not batch_first)
    for given in (None, lengths):
        sequences = tensor(x.swapaxes(0, axis))
        with torch.no_grad():
            if given is not None:
                sequences = pack_padded_sequence(
                    sequences, tensor(given), batch_first, enforce_sorted=False
                )
            out, state = layer(sequences, hx if kind == "LSTM" else hx[0])
            if given is not None:
                out, _ = pad_packed_sequence(out, batch_first)
        out = (out.transpose(0, axis), *(v.transpose(0, 1) for v in flat(state)))
        signals, _, _ = run_handler(layer, x, given, starts)
        assert [signal.axis for signal in signals] == [axis, *[1] * len(starts)]
        assert (signals[0].lengths is None) == (given is None)
        assert signals[0].nonnegative == (kind == "relu")
        for signal, expected in zip(signals, out, strict=True):
            assert_close(signal.x, expected, 1e-12)
            if signal.low is not None:
                assert (signal.low <= signal.x).all()
                assert (signal.x <= signal.high).all()


@pytest.mark.parametrize("kind", KINDS)
def test_padding_is_not_seen(kind):
    """A padded sequence is explained as it is alone, whatever the padding holds."""
    layer = make_layer(kind, 4, num_layers=2, bidirectional=True)
    x, lengths = normal(0, 3, 4, 2), np.array([2, 4, 3])
    noisy = x.copy()
    n_states = 1 + (kind == "LSTM")
    given = [normal(k, 1, 3, *shape) for k, shape in enumerate([(4, 6), *[(4, 3)] * n_states])]
    for b, n in enumerate(lengths):
        noisy[b, n:] = 1e3
    for rule in (Epsilon(), Flat(), AlphaBeta()):
        _, (padded,), kept = run_handler(layer, x, lengths, rule=rule, relevance=given)
        _, (other,), _ = run_handler(layer, noisy, lengths, rule=rule, relevance=given)
        assert_same_to_rounding(padded, other)
        for b, n in enumerate(lengths):
            own = [given[0][:, b : b + 1, :n], *(r[:, b : b + 1] for r in given[1:])]
            _, (alone,), lost = run_handler(layer, x[b : b + 1, :n], rule=rule, relevance=own)
            assert_close(padded[:, b, :n], alone[:, 0], 1e-13)
            assert not padded[:, b, n:].any()
            assert_close(kept["padding"][:, b], given[0][:, b, n:].sum((1, 2)), 1e-13)
            assert_close(kept["bias"][:, b] if "bias" in kept else 0.0,
                         lost["bias"][:, 0] if "bias" in lost else 0.0, 1e-12)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_time_first(kind):
    """The layout of the layer changes nothing: handlers have the samples first."""
    first, last = (make_layer(kind, 5, batch_first=b, bidirectional=True) for b in (True, False))
    x, given = normal(0, 2, 3, 2), [normal(1, 1, 2, 3, 6), *[None] * (1 + (kind == "LSTM"))]
    one, other = (run_handler(layer, x, relevance=given)[1][0] for layer in (first, last))
    assert_same_to_rounding(one, other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_constants_keep_their_relevance(kind, batch_first):
    """Initial states, or sequences, that do not depend on the input."""
    layer = make_layer(kind, 6, num_layers=2, batch_first=batch_first)
    x, n_states = normal(0, 2, 3, 2), 1 + (kind == "LSTM")
    starts = [normal(k, 2, 2, 3) for k in range(n_states)]
    given = [normal(1, 1, 2, 3, 3), *[None] * n_states]
    _, expected, kept = run_handler(layer, x, None, starts, relevance=given)
    assert "initial_state" not in kept
    step, handler = make_step(layer, Epsilon())
    axis = int(not batch_first)
    sequence = Signal(tensor(x), axis=axis)
    constant = tensor(x.swapaxes(0, axis))
    hx = tuple(tensor(s.swapaxes(0, 1)) for s in starts)
    signals = tuple(Signal(tensor(s), axis=1) for s in starts)
    relevance = tuple(None if r is None else tensor(r) for r in given)
    with torch.no_grad():
        lost = StepKept(2)
        _, pull = handler(step, sequence, hx if n_states > 1 else hx[0])
        assert_close(pull(relevance, lost), expected[0], 1e-13)
        initial = sum(r.sum((2, 3)) for r in expected[1:])
        assert_close(lost["initial_state"], initial, 1e-13)
        lost = StepKept(2)
        _, pull = handler(step, constant, signals if n_states > 1 else signals[0])
        passed = pull(relevance, lost)
        for mine, theirs in zip(flat(passed), expected[1:], strict=True):
            assert_close(mine, theirs, 1e-13)
        assert_close(lost["bias"], kept["bias"] + expected[0].sum((2, 3)), 1e-12)
        if kind == "LSTM":  # one of the states is a signal
            lost = StepKept(2)
            _, pull = handler(step, sequence, (hx[0], signals[1]))
            _, cells = pull(relevance, lost)
            assert_close(cells, expected[2], 1e-13)
            assert_close(lost["initial_state"], expected[1].sum((2, 3)), 1e-13)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "tanh"])
def test_box_of_a_constant(kind):
    """A constant sequence lies in a box without extent: the states take all."""
    layer = make_layer(kind, 14)
    starts = tuple(Signal(tensor(normal(k, 2, 1, 3)), axis=1) for k in range(1 + (kind == "LSTM")))
    step, handler = make_step(layer, ZBox())
    with torch.no_grad():
        lost = StepKept(2)
        _, pull = handler(
            step, tensor(normal(0, 2, 3, 2)), starts if kind == "LSTM" else starts[0]
        )
        pull((tensor(normal(1, 1, 2, 3, 3)), *[None] * len(starts)), lost)
    assert_close(lost["bias"], np.zeros((1, 2)), 1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_unseen_inputs(kind):
    """Under flat, values that are padding get nothing, whatever the direction."""
    layer = make_layer(kind, 15, bidirectional=True)
    step, handler = make_step(layer, Flat())
    x, seen = tensor(normal(0, 2, 4, 2)), torch.ones(1, 4, 2, dtype=torch.float64)
    seen[0, 0], seen[0, 1, 1] = 0.0, 0.0
    with torch.no_grad():
        _, pull = handler(step, Signal(x, seen=seen))
        given = tensor(normal(1, 1, 2, 4, 6))
        r_x = pull((given, *[None] * (1 + (kind == "LSTM"))), StepKept(2))
    assert not r_x[:, :, seen[0] == 0].any()
    assert r_x[:, :, seen[0] == 1].abs().min() > 1e-6


def test_outputs_without_relevance():
    """None is the same as zeros, for each output."""
    layer = make_layer("LSTM", 7, num_layers=2, bidirectional=True)
    x = normal(0, 2, 3, 2)
    shapes = [(3, 6), (4, 3), (4, 3)]
    for some in itertools.product([False, True], repeat=3):
        if any(some):
            given = [normal(k, 2, 2, *shapes[k]) * on for k, on in enumerate(some)]
            sparse = [r if on else None for r, on in zip(given, some, strict=True)]
            for product in ("all", "abs"):
                one, other = (
                    run_handler(layer, x, relevance=r, product=product)[1][0]
                    for r in (given, sparse)
                )
                assert_close(one, other, 1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", [Zero(), Gamma(epsilon=0.0), WSquare(), Flat()], ids=repr)
def test_conservation(kind, rule):
    """Without bias, or under a rule without it, all relevance arrives at input and states."""
    for product in PRODUCTS if kind in ("LSTM", "GRU") else ["all"]:
        layer = make_layer(
            kind,
            8,
            size=4,
            num_layers=2,
            bidirectional=True,
            bias=isinstance(rule, WSquare | Flat),
        )
        x, n_states = normal(0, 3, 4, 2), 1 + (kind == "LSTM")
        starts = [normal(k, 3, 4, 4) for k in range(n_states)]
        outputs, _, _ = run_handler(layer, x, None, starts)
        given = [signal.x.numpy()[None] for signal in outputs[:2]] + [None] * (n_states - 1)
        _, passed, kept = run_handler(
            layer, x, None, starts, rule, given, product=product, epsilon=0.0
        )
        total = sum(r.sum((2, 3)) for r in given if r is not None)
        scale = sum(np.abs(r).sum((2, 3)) for r in passed)
        back = sum(r.sum((2, 3)) for r in passed)
        assert_close((back - total) / scale, 0.0 * total, 1e-12)
        for amount in kept.values():
            assert_close(amount / scale, 0.0 * total, 1e-12)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("given_start", [False, True])
def test_gradient_times_input(bidirectional, given_start):
    """LRP-0 on an RNN of ReLUs is gradient times input, biases or not."""
    layer = make_layer("relu", 9, num_layers=2, bidirectional=bidirectional, size=5)
    n_runs = 2 * (1 + bidirectional)
    x = tensor(normal(0, 3, 4, 2)).requires_grad_()
    start = tensor(np.abs(normal(1, 3, n_runs, 5))).requires_grad_()
    v, w = tensor(normal(2, 4, 5 * (1 + bidirectional))), tensor(normal(3, n_runs, 5))
    out, h = layer(x, start.transpose(0, 1)) if given_start else layer(x)
    ((out * v).sum() + (h.transpose(0, 1) * w).sum()).backward()
    relevance = [(out * v)[None].detach().numpy(), (h.transpose(0, 1) * w)[None].detach().numpy()]
    starts = [start.detach().numpy()] if given_start else []
    _, passed, _ = run_handler(
        layer, x.detach().numpy(), None, starts, Zero(), relevance, epsilon=0.0
    )
    for mine, source in zip(passed, (x, start), strict=False):
        assert_close(mine[0], (source * source.grad).detach(), 1e-12)


# --- Numbers worked by hand -----------------------------------------------------------------


def constant_layer(kind, **values):
    """One unit on two features; all parameters zero but those given as (row, numbers)."""
    layer = make_layer(kind, n_inputs=2, size=1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        for name, (row, numbers) in values.items():
            getattr(layer, name)[row] = torch.tensor(numbers, dtype=torch.float64)
    return layer


def test_gru_by_hand():
    """One unit, one step, r = z = 1/2, h_0 = 2, x = (1, 1).

    Candidate: z_n = 2 x_1 - x_2 + r (3 h_0 + 1) + 1/2 = 2 - 1 + 3 + 1/2 + 1/2 = 5, contributions
    2, -1, 3, bias 1. n = tanh 5, h = n / 2 + 1. Of R_h = h the past takes 1, the candidate n / 2,
    shared as (2, -1, 3) / 5, the bias 1 / 5. Flat: a third each, r is not seen.
    """
    layer = constant_layer(
        "GRU", weight_ih_l0=(2, [2.0, -1.0]), weight_hh_l0=(2, [3.0]),
        bias_ih_l0=(2, 0.5), bias_hh_l0=(2, 1.0),
    )  # fmt: skip
    x, start, n = np.ones((1, 1, 2)), np.full((1, 1, 1), 2.0), np.tanh(5.0) / 2.0
    relevance = [np.full((1, 1, 1, 1), n + 1.0), None]
    _, (r_x, r_start), kept = run_handler(layer, x, None, [start], Zero(), relevance)
    assert_close(r_x.ravel(), [0.4 * n, -0.2 * n], 1e-12)
    assert_close(r_start.ravel(), [1.0 + 0.6 * n], 1e-12)
    assert_close(kept["bias"], [[0.2 * n]], 1e-12)
    _, (r_x, r_start), _ = run_handler(layer, x, None, [start], Flat(), relevance, epsilon=0.0)
    assert_close(r_x.ravel(), [n / 3.0] * 2, 1e-12)
    assert_close(r_start.ravel(), [1.0 + n / 3.0], 1e-12)
    # half: r takes half of what the candidate gives h_0, and z half of n and half of the past,
    # but their pre-activations are 0: dropped at epsilon 0.
    _, (r_x, r_start), kept = run_handler(
        layer, x, None, [start], Zero(), relevance, product="half"
    )
    assert_close(r_x.ravel(), [0.2 * n, -0.1 * n], 1e-12)
    assert_close(r_start.ravel(), [0.5 + 0.15 * n], 1e-12)
    assert_close(kept["dropped"], [[0.5 + 0.5 * n + 0.15 * n]], 1e-12)


def test_lstm_products_by_hand():
    """One unit, one step; z_i = x_1 = 1 and z_g = x_2 = 1, the other gates are 1/2.

    c = i g, h = tanh(c) / 2. R_h = 1. Under half the output gate takes 1/2 (dropped, z_o = 0),
    c gets 1/2, all of it for i * g, half of that each: x_1 gets 1/4 through i, x_2 1/4 through g.
    Under abs i takes i / (i + g) of what o leaves, tanh(c) / (1/2 + tanh(c)).
    """
    layer = constant_layer("LSTM", weight_ih_l0=([0, 2], [[1.0, 0.0], [0.0, 1.0]]))
    x, relevance = np.ones((1, 1, 2)), [np.ones((1, 1, 1, 1)), None, None]
    _, (r_x,), kept = run_handler(layer, x, None, (), Zero(), relevance, product="half")
    assert_close(r_x.ravel(), [0.25, 0.25], 1e-12)
    assert_close(kept["dropped"], [[0.5]], 1e-12)
    i, g = sigmoid(1.0), np.tanh(1.0)
    to_cell = np.tanh(i * g) / (0.5 + np.tanh(i * g))
    for product in ("abs", "prop"):  # all values are positive: the same
        _, (r_x,), _ = run_handler(layer, x, None, (), Zero(), relevance, product=product)
        assert_close(r_x.ravel(), [to_cell * i / (i + g), to_cell * g / (i + g)], 1e-12)
    _, (r_x,), _ = run_handler(layer, x, None, (), Zero(), relevance, product="all")
    assert_close(r_x.ravel(), [0.0, 1.0], 1e-12)


def test_rnn_by_hand():
    """Two steps of one unit: h_1 = tanh(x_1), h_2 = tanh(x_2 + 2 h_1); shares x_2 : 2 h_1."""
    layer = constant_layer("tanh", weight_ih_l0=(0, [1.0, 0.0]), weight_hh_l0=(0, [2.0]))
    x = np.array([[[0.5, 9.0], [1.0, 9.0]]])
    past = 2.0 * np.tanh(0.5)
    _, (r_x,), _ = run_handler(layer, x, None, (), Zero(), [None, np.ones((1, 1, 1, 1))])
    assert_close(r_x[0, 0], [[past / (1.0 + past), 0.0], [1.0 / (1.0 + past), 0.0]], 1e-12)


# --- What else must hold --------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_samples_and_targets_do_not_see_each_other(kind):
    layer = make_layer(kind, 10, num_layers=2, bidirectional=True, size=6)
    x, given = normal(0, 5, 4, 2), [normal(1, 3, 5, 4, 12), *[None] * (1 + (kind == "LSTM"))]
    for rule in (Epsilon(), Gamma()):
        _, (together,), _ = run_handler(layer, x, rule=rule, relevance=given)
        for b, t in itertools.product(range(5), range(3)):
            own = [given[0][t : t + 1, b : b + 1], *given[1:]]
            _, (alone,), _ = run_handler(layer, x[b : b + 1], rule=rule, relevance=own)
            assert_close(together[t, b], alone[0, 0], 1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_changed(kind):
    """Not the layer in training mode with dropout, nor the input, nor the relevance."""
    layer = make_layer(kind, 11, num_layers=2, dropout=0.5).train()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    x, starts = normal(0, 2, 3, 2), [normal(k, 2, 2, 3) for k in range(1 + (kind == "LSTM"))]
    given = [normal(1, 1, 2, 3, 3), *(normal(k, 1, 2, 2, 3) for k in range(len(starts)))]
    copies = [v.copy() for v in (x, *starts, *given)]
    state = torch.get_rng_state()
    _, first, _ = run_handler(layer, x, None, starts, relevance=given)
    _, second, _ = run_handler(layer.eval(), x, None, starts, relevance=given)
    for mine, theirs in zip(first, second, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert torch.equal(torch.get_rng_state(), state)
    for mine, theirs in zip((x, *starts, *given), copies, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.grad_fn is None


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision(kind):
    """float32, with its own products, agrees with float64; 20 steps, so that they come up."""
    layer = make_layer(kind, 12, n_inputs=5, size=8, bidirectional=True)
    x, given = normal(0, 4, 20, 5), normal(1, 1, 4, 20, 16)
    relevance = [given, *[None] * (1 + (kind == "LSTM"))]
    for rule in (Epsilon(), Gamma(), ZPlus()):
        _, (expected,), _ = run_handler(layer.double(), x, rule=rule, relevance=relevance)
        step, handler = make_step(layer.float(), rule)
        with torch.no_grad():
            _, pull = handler(step, Signal(tensor(x).float()))
            actual = pull((tensor(given).float(), *relevance[1:]), None)
        assert actual.dtype == torch.float32
        assert np.linalg.norm(actual.numpy() - expected) < 1e-3 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("layer", "shape", "axis", "message"),
    [
        (nn.LSTM(2, 3), (2, 3, 2), 0, "on axis 1, but .* axis 0; set batch_first=True"),
        (nn.GRU(2, 3, batch_first=True), (2, 3, 2), 1, "axis 0, but .* set batch_first=False"),
        (nn.RNN(2, 3, batch_first=True), (3, 2), 0, "RNN 'core'.*2 axes.*n_steps, n_features"),
        (nn.GRUCell(2, 3), (2,), 0, "GRUCell.*1 axes; batch it, as .n_samples, n_features."),
        (nn.LSTMCell(2, 3), (2, 2), 1, "LSTMCell.*samples on axis 0, but they are on axis 1"),
    ],
)
def test_refusals(layer, shape, axis, message):
    step, handler = make_step(layer, Epsilon())
    with pytest.raises(TypeError, match=message):
        handler(step, Signal(torch.zeros(shape), axis=axis))


def test_refused_initial_states():
    step, handler = make_step(make_layer("GRU"), Epsilon())
    x = Signal(tensor(normal(0, 2, 3, 2)))
    with pytest.raises(TypeError, match=r"samples on axis 1, but they are on axis 0"):
        handler(step, x, Signal(tensor(normal(1, 2, 1, 3))))
    with pytest.raises(TypeError, match=r"GRU 'core'.*2 axes"):
        handler(step, x, tensor(normal(1, 2, 3)))


def test_box_of_relu_states_is_refused():
    """The states of an RNN of ReLUs have no bounds."""
    layer = make_layer("relu")
    with pytest.raises(TypeError, match=r"z-box rule on layer 'core'.*another rule"):
        run_handler(
            layer,
            normal(0, 2, 3, 2),
            rule=ZBox(-4.0, 4.0),
            relevance=[normal(1, 1, 2, 3, 3), None],
        )
