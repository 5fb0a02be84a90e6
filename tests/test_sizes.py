"""What a call needs to know before the first chunk: sizes without a run, X scanned once."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from sklrp import MLPClassifier, explain, plan
from sklrp.modules import EchoState, GaussianNoise, StatePooling, Sweep
from sklrp.propagation import inputs as engine_inputs
from sklrp.propagation import plans, preparing
from sklrp.propagation.sizes import Sizes, find_sizes, fit_batch_size, measure
from sklrp.rules import Signal

KNOWN = {
    "dense": (nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 2)), (4,)),
    "several axes": (nn.Sequential(nn.Linear(3, 5), nn.Flatten(), nn.Linear(10, 1)), (2, 3)),
    "images": (
        nn.Sequential(
            *(nn.Conv2d(1, 3, 3, padding=1), nn.GELU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(3, 2, (3, 2), stride=(2, 1), dilation=(1, 2)), nn.AvgPool2d(2, 1, 1)),
            *(nn.Flatten(), nn.Dropout(), nn.LazyLinear(3)),
        ),
        (1, 12, 11),
    ),
    "same padding": (
        nn.Sequential(nn.Conv1d(2, 3, 3, padding="same"), nn.Flatten(), nn.LazyLinear(2)),
        (2, 7),
    ),
    "valid, dilated pool": (
        nn.Sequential(
            nn.Unflatten(1, (1, 12)), nn.Conv1d(1, 3, 2, padding="valid"),
            nn.MaxPool1d(3, 2, 1, dilation=2), nn.Flatten(), nn.LazyLinear(2),
        ),
        (12,),
    ),
    "volumes": (
        nn.Sequential(nn.Conv3d(1, 2, 2, stride=2), nn.Flatten(), nn.LazyLinear(2)),
        (1, 5, 4, 4),
    ),
    "recurrent": (
        nn.Sequential(nn.LSTM(2, 3, batch_first=True), StatePooling("last"), nn.Linear(3, 2)),
        (4, 2),
    ),
    "recurrent, all at once": (
        nn.Sequential(
            Sweep("left"), GaussianNoise(1.0),
            nn.LSTM(4, 5, 2, batch_first=True, proj_size=3, bidirectional=True),
            StatePooling("mean"), nn.Linear(6, 2),
        ),
        (4, 7),
    ),
    "gated": (
        nn.Sequential(nn.GRU(2, 3, 2, batch_first=True), StatePooling("max"), nn.Linear(3, 20)),
        (4, 2),
    ),
    "plain recurrent": (
        nn.Sequential(nn.RNN(9, 3, batch_first=True), StatePooling("last"), nn.Linear(3, 1)),
        (4, 9),
    ),
    "echo states": (
        nn.Sequential(
            nn.Unflatten(1, (4, 5)), Sweep("up"), EchoState(5, 8, washout=2, density=1.0),
            StatePooling("mean"), nn.Linear(8, 2),
        ),
        (20,),
    ),
}  # fmt: skip
UNKNOWN = {
    "more layers than steps": (
        nn.Sequential(nn.LSTM(2, 9, 5, batch_first=True), StatePooling("last"), nn.Linear(9, 2)),
        (2, 2),
    ),
    "rounded up": (
        nn.Sequential(nn.Conv1d(1, 1, 1), nn.MaxPool1d(2, ceil_mode=True), nn.Flatten()),
        (1, 5),
    ),
}


def built(name):
    model, shape = (KNOWN | UNKNOWN)[name]
    model = model.double().eval()
    model(torch.zeros(2, *shape).double())  # lazy layers take their shape
    return model, shape


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_steps_of_other_features_do_not_fit(kind):
    recurrent = kind(3, 17, 2, batch_first=True)
    net = nn.Sequential(recurrent, StatePooling("mean"), nn.Linear(17, 2))
    for n_features in (2, 4):
        with pytest.raises(
            ValueError, match=r"does not fit layer '0'.*a step has 3 features, got"
        ):
            explain(net, np.ones((3, 1, n_features), "float32"), target=0)


@pytest.mark.parametrize("name", KNOWN)
def test_sizes_are_those_of_a_run(name):
    model, shape = built(name)
    steps = plan(model, "epsilon")
    with torch.no_grad():
        signals = [Signal(torch.zeros(1, *shape).double())]
        tape = steps.run(signals, tuple(signals), {})
    found, run = find_sizes(steps.steps, shape), measure(tape)
    assert found[:2] == run[:2]
    if not any(step.kind == "recurrent" for step in steps.steps):  # these return last states too
        assert found == run


@pytest.mark.parametrize("name", UNKNOWN)
def test_other_sizes_take_a_run(name):
    model, shape = built(name)
    assert find_sizes(plan(model, "epsilon").steps, shape) is None
    assert explain(model, np.ones((3, *shape))).shape == (3, *shape)


@pytest.mark.parametrize("name", ["dense", "images"])
def test_what_does_not_fit_is_said_by_a_run(name):
    model, _ = built(name)
    wrong = (3, 5, 5)
    assert find_sizes(plan(model, "epsilon").steps, wrong) is None
    with pytest.raises(ValueError, match="does not fit layer '0'"):
        explain(model, np.ones((2, *wrong)))


def layers(n, activation, width=100):
    """`n` times a dense layer and its activation."""
    pairs = ((nn.Linear(width, width), activation()) for _ in range(n))
    return [layer for pair in pairs for layer in pair]


class ByHand(nn.Module):
    """A forward of its own, of which the recorder sees each function."""

    def __init__(self, *layers):
        super().__init__()
        self.net = nn.ModuleList(layers)

    def forward(self, x):
        for layer in self.net:
            x = layer(x)
        return x


def few_layers():
    return [nn.Linear(1000, 1000), nn.ReLU(), nn.Linear(1000, 10)]


def deep_and_large():
    return [*[nn.Tanh() for _ in range(20)], nn.Linear(75_000, 2)]


def wide_input():
    return [nn.Linear(1000, 125), nn.ReLU(), nn.Linear(125, 10)]


def wide_and_small():
    return [nn.Linear(8, 4096), nn.Linear(4096, 8), *layers(150, nn.Tanh, 8)]


# Samples of a chunk on a CPU. A tensor may have 8 MiB, what is held 48, or 7 / 16 for each step.
CHUNKS = {
    # 8 MiB / 4000; of double precision half, of ten targets 12 MiB / 40000.
    "a tensor fits the caches": (few_layers, "chain", 1000, "float32", 0, 2097),
    "as it is recorded": (few_layers, "by hand", 1000, "float32", 0, 2097),
    "of double precision": (few_layers, "chain", 1000, "float64", 0, 1048),
    "of all targets": (few_layers, "chain", 1000, "float32", "all", 314),
    # 12 MiB / 4000, as the layers make an eighth of what they are given, and so with ten targets.
    "a wide input": (wide_input, "chain", 1000, "float32", 0, 3145),
    "a wide input, recorded": (wide_input, "by hand", 1000, "float32", 0, 3145),
    "a wide input, all": (wide_input, "chain", 1000, "float32", "all", 314),
    # 48 MiB / (80 * 400 + 2 * 400), where caches have room for 20971.
    "what is held": (lambda: layers(40, nn.Tanh), "chain", 100, "float32", 0, 1534),
    "what is recorded": (lambda: layers(40, nn.Tanh), "by hand", 100, "float32", 0, 1534),
    "of all, what is held": (lambda: layers(40, nn.Tanh), "chain", 100, "float64", 0, 767),
    # Relevance of 100 targets: 12 MiB / (100 * 400), where 48 hold 449,
    # but 35 MiB of 80 steps are 327.
    "way back of all": (lambda: layers(40, nn.Tanh), "chain", 100, "float32", "all", 327),
    # ReLUs that write over their input make nothing, but the last: 48 MiB / (41 * 400 + 2 * 400).
    "shared memory": (lambda: layers(40, nn.ReLU), "chain", 100, "float32", 0, 2926),
    # 302 * 7 / 16 MiB / (4 * (4096 + 301 * 8) + 2 * 4 * 4096), where caches have room for 512.
    "many small steps": (wide_and_small, "by hand", 8, "float32", 0, 2356),
    "many, in double": (wide_and_small, "by hand", 8, "float64", 0, 1178),
    # 8 MiB / 2 / 300000, where 48 MiB hold 7 of 22 * 300000 and a step costs less.
    "few that hold much": (deep_and_large, "chain", 75_000, "float32", 0, 13),
    # A sample of more than 12 MiB; the first chunk of a recorded network has three.
    "large": (lambda: [nn.Linear(2**22 + 1, 2)], "chain", 2**22 + 1, "float32", 0, 1),
    "large, recorded": (lambda: [nn.Linear(2**22 + 1, 2)], "by hand", 2**22 + 1, "float32", 0, 3),
    "large, all": (lambda: [nn.Linear(2**22 + 1, 2)], "by hand", 2**22 + 1, "float32", "all", 1),
}


@pytest.mark.parametrize("name", CHUNKS)
def test_chunks_hold_so_many_samples(monkeypatch, name):
    make, form, n_features, dtype, target, expected = CHUNKS[name]
    torch.manual_seed(0)
    model = (nn.Sequential if form == "chain" else ByHand)(*make()).eval()
    X = np.random.default_rng(0).normal(size=(5, n_features)).astype(dtype)
    chosen, choose = [], preparing.fit_batch_size
    monkeypatch.setattr(
        preparing, "fit_batch_size", lambda *args: chosen.append(choose(*args)) or chosen[-1]
    )
    explain(model.to(getattr(torch, dtype)), X, target=target)
    assert set(chosen) == {expected}


@pytest.mark.parametrize("kind", ["dense", "recurrent"])
def test_there_is_room_for_a_first_chunk_in_any_case(kind):
    steps = [types.SimpleNamespace(kind=kind, merged=False, in_place=False, handler=None)]
    intake = types.SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32)
    large = Sizes((2,), 2**28, (2**28,))
    assert [fit_batch_size(large, steps, intake, 1, fewest) for fewest in (1, 3)] == [1, 3]


def test_what_only_looks_at_memory_makes_nothing():
    net = nn.Sequential(
        nn.Unflatten(1, (2, 6)), nn.Dropout(), nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.ReLU(),
        nn.Flatten(), nn.Linear(12, 2),
    ).eval()  # fmt: skip
    assert [  # the convolution, the ReLU unless it writes over it, the last layer
        find_sizes(plan(net, rule).steps, (12,)).count_held(plan(net, rule).steps)
        for rule in ("epsilon", "flat")
    ] == [12 + 2, 12 + 12 + 2]


@pytest.mark.parametrize("name", KNOWN)
def test_a_chain_is_run_once_for_each_chunk(monkeypatch, name):
    model, shape = built(name)
    runs = []
    run = plans.Plan.run
    monkeypatch.setattr(plans.Plan, "run", lambda *args: runs.append(args) or run(*args))
    explain(model, np.ones((6, *shape)), batch_size=2)
    assert len(runs) == 3


def test_estimators_scan_their_samples_once(monkeypatch):
    X = np.random.default_rng(0).normal(size=(8, 3))
    clf = MLPClassifier((2,), max_epochs=1, random_state=0).fit(X, np.arange(8) % 2)
    scanned = []
    monkeypatch.setattr(engine_inputs, "is_finite", lambda v: scanned.append(v) or True)
    clf.explain(X)
    assert not scanned
    explain(clf.module_, X)
    assert len(scanned) == 1


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="its memory is not glibc's")
def test_chunks_take_the_memory_that_others_freed():
    """In a process of its own: fresh pages would take longer than the work on them."""
    code = """
import resource, torch, numpy as np, sklrp
torch.set_num_threads(1)
model = torch.nn.Sequential(
    torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(),
    torch.nn.Linear(8192, 2),
)
X = np.ones((256, 1, 32, 32), np.float32)
found = []
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    sklrp.explain(model, X, rule="z_plus")
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(found))
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=True
    )
    assert int(done.stdout) < 256  # pages; a tensor of a chunk has a thousand
