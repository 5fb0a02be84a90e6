"""Samples that come repeatedly on one axis: siamese batches, and time folded in front of them.

A network that runs two branches, or all steps, as one batch is explained as one that runs them one
by one, by every rule; and what it leaves in details and at its layers is of the right samples.
"""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sklrp
from sklrp.propagation.sample_rows import Folded, number_rows, sort_rows
from tests.helpers.comparing import assert_close
from tests.test_functions import assert_right, build, draw


class Twins(nn.Module):
    """Two images through the same layers: as one batch, or one after the other."""

    def __init__(self, at_once):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.again, self.last = nn.Conv2d(3, 3, 2, padding=1), nn.Linear(6, 2)
        self.pool, self.at_once = nn.MaxPool2d(2), at_once
        self.norm.running_mean.uniform_(-0.3, 0.3)

    def encode(self, x):
        x = self.pool(F.relu(self.norm(self.conv(x))))
        return F.relu(self.again(x)).mean((2, 3))

    def forward(self, a, b):
        if self.at_once:
            a, b = self.encode(torch.cat([a, b])).chunk(2)
        else:
            a, b = self.encode(a), self.encode(b)
        return self.last(torch.cat([a, b], 1))


def twins(at_once):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Twins(at_once).double().eval()


PAIR = tuple(np.random.default_rng(k).normal(size=(5, 2, 4, 4)) for k in range(2))


@pytest.mark.sweep(5)
@pytest.mark.parametrize("rule", sklrp.available_rules())
@pytest.mark.parametrize("batch_size", [None, 2])
def test_twins_as_one_batch(rule, batch_size):
    # Bounds of each cell, which are followed through the joining of the two.
    low = -5.0 if rule == "z_box" else -4.0 - np.arange(32.0).reshape(2, 4, 4) / 10
    rule = sklrp.check_rule(rule, bounds=(low, -low))
    found = [
        sklrp.explain(
            twins(at_once), PAIR, target=1, rule=rule, batch_size=batch_size, return_details=True,
        )
        for at_once in (True, False)
    ]  # fmt: skip
    (relevance, details), (expected, known) = found
    for one, other in zip(relevance, expected, strict=True):
        assert_close(one, other)
    for cause in ("bias", "epsilon", "padding", "dropped"):
        kept = [sum(layer[cause] for layer in d.layers) for d in (details, known)]
        assert_close(*kept)


def test_relevance_at_the_layers_of_twins():
    """Both images of a sample stand together, in the order in which they came."""
    _, details = sklrp.explain(
        twins(True), PAIR, target=1, rule="epsilon", layers=["again"], batch_size=2,
        return_details=True,
    )  # fmt: skip
    _, known = sklrp.explain(
        twins(False), PAIR, target=1, rule="epsilon", layers=["again#1", "again#2"],
        return_details=True,
    )  # fmt: skip
    one_by_one = [known.layers[f"again#{k}"] for k in (1, 2)]
    assert_close(details.layers["again"], np.stack(one_by_one, 1))


def frames_in_front(self, x):
    """Steps in front of the samples, each through the same layer."""
    steps = x.transpose(0, 1).flatten(0, 1)
    return F.relu(steps @ self.matrix + self.shift).unflatten(0, (4, -1)).mean(0)


def both_ways_folded(self, x):
    """Steps in front of the samples, and parts of each step behind them."""
    parts = x.reshape(len(x), 4, 2, 3).transpose(0, 1).reshape(-1, 3)
    return F.relu(2 * parts - 0.1).view(4, len(x), 2, 3).transpose(0, 1)


def recurrent_over_parts(self, x):
    if not hasattr(self, "cell"):
        self.cell = nn.RNN(3, 5, batch_first=True, nonlinearity="relu").double()
    states, last = self.cell(x.reshape(len(x), 4, 2, 3).transpose(0, 1).reshape(-1, 2, 3))
    return (states[:, -1] + last[0]).view(4, -1, 5).transpose(0, 1)


FOLDED = {
    "frames in front": frames_in_front,
    "folded both ways": both_ways_folded,
    "recurrent": recurrent_over_parts,
    "three": lambda self, x: torch.cat(
        F.relu(self.conv(torch.cat([x, 2 * x, x.flip(1)]))).split(len(x)), 1
    ),
    "stacked": lambda self, x: F.relu(torch.stack([x, -x]).flatten(0, 1)).view(2, len(x), -1)[1],
    "padded": lambda self, x: F.pad(torch.cat([x, 2 * x]), (1, 1), value=1.0).chunk(2)[1],
    "shifted": lambda self, x: (torch.cat([x, 2 * x]) + self.shift).chunk(2)[0],
    "behind a layer": lambda self, x: F.relu(self.conv(x).view(2 * len(x), -1)).view(len(x), -1),
    "repeated": lambda self, x: x.repeat(3, 1, 1).mul(2).view(3, -1, 4, 6).mean(0),
}


@pytest.mark.parametrize("name", FOLDED)
@pytest.mark.parametrize("n_samples", [1, 3, 4])
def test_folded_samples_are_right(name, n_samples):
    assert_right(build(FOLDED[name]), draw(n_samples))


def test_rows_by_hand():
    assert number_rows(8, 2, 2).tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert number_rows(6, 2, 2) is None
    rows = torch.tensor([0, 1, 10, 11, 2, 3, 12, 13])
    assert sort_rows(rows, 2, 2).tolist() == [0, 1, 2, 3, 10, 11, 12, 13]
    assert sort_rows(sort_rows(rows, 2, 2), 2, 2, back=True).tolist() == rows.tolist()
    for one in (copy.deepcopy(Folded(1, 3)), pickle.loads(pickle.dumps(Folded(1, 3)))):
        assert one == 1
        assert one.n_runs == 3


class FramesOfTokens(nn.Module):
    """A transformer on each frame and an LSTM over frames, with the frames folded or in a loop."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.patch = nn.Conv1d(2, 8, 4, stride=4)
        self.place = nn.Parameter(torch.randn(1, 4, 8) / 10)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.lstm, self.last = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 2)

    def encode(self, x):
        tokens = self.patch(x).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1) + self.place
        return self.encoder(tokens)[:, 0]

    def forward(self, x):
        n_samples, n_steps = x.shape[:2]
        if self.way == "in front":
            frames = self.encode(x.transpose(0, 1).flatten(0, 1))
            frames = frames.view(n_steps, n_samples, -1).transpose(0, 1)
        elif self.way == "behind":
            frames = self.encode(x.flatten(0, 1)).view(n_samples, n_steps, -1)
        else:
            frames = torch.stack([self.encode(x[:, t]) for t in range(n_steps)], 1)
        return self.last(self.lstm(frames)[0][:, -1])


@pytest.mark.sweep(1)
@pytest.mark.parametrize("attention", ["attnlrp", "constant"])
def test_frames_of_tokens_folded_or_in_a_loop(attention):
    rule = sklrp.Composite([("all", sklrp.Epsilon(), "all")], attention=attention)
    X = np.random.default_rng(0).normal(size=(5, 3, 2, 12))
    found = []
    for way in ("in front", "behind", "loop"):
        torch.manual_seed(0)
        model = FramesOfTokens(way).double().eval()
        found.append(sklrp.explain(model, X, target=1, rule=rule, batch_size=3))
    assert_close(found[0], found[2])
    assert_close(found[1], found[2])
