"""What the first chunk confirms: warnings come once, and the last sample is looked at before."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import sklrp
from sklrp.propagation import contribute
from sklrp.propagation.registry import HANDLERS, register
from sklrp.rules import Signal


class ByHand(nn.Module):
    """Layers with a forward of their own."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        """Return the scores."""
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.fixture
def layers():
    torch.manual_seed(0)
    return nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)


X = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)


@pytest.mark.parametrize("batch_size", [None, 1, 2, 3, 40])
@pytest.mark.parametrize("kind", [nn.Sequential, ByHand])
def test_warnings_come_once(kind, batch_size, layers):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sklrp.explain(kind(*layers), X, rule="flat", batch_size=batch_size)
    assert [str(w.message)[:30] for w in caught] == ["The flat rule on the dense fir"]
    assert caught[0].filename == __file__
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ValueError, match="target"):
            sklrp.explain(kind(*layers), X, rule="flat", target=17, batch_size=batch_size)
    assert len(caught) == 1


class Scaled(nn.Module):
    def forward(self, x):
        return x * 1.0


@pytest.fixture
def loses_large_values():
    """A handler whose pull loses half of what comes to large values."""

    @register(Scaled)
    def handler(step, signal):
        lost = (signal.x.abs() > 50).any(1, keepdim=True)
        return Signal(signal.x), lambda relevance, kept: relevance * (1 - 0.5 * lost)

    yield
    del HANDLERS[Scaled]


@pytest.mark.usefixtures("loses_large_values")
@pytest.mark.parametrize("options", [{}, {"check": False}, {"target": "all"}, {"batch_size": 16}])
@pytest.mark.parametrize("n", [3, 16, 17, 40])
@pytest.mark.parametrize("is_known", [False, True])
def test_relevance_lost_in_the_last_sample_is_found_beforehand(is_known, n, options, layers):
    samples, network = X[:n].copy(), ByHand(Scaled(), *layers)
    if is_known:  # of small values nothing was lost
        sklrp.explain(network, samples, **options)
    samples[-1] = 100.0
    shape = (n, 2, 4) if options.get("target") == "all" else (n, 4)
    out = np.zeros(shape, np.float32)
    with pytest.raises(TypeError, match="is not what it got"):
        sklrp.explain(network, samples, out=out, **options)
    assert not out.any()


def test_a_pull_that_changes_relevance_in_place_is_the_one_that_is_named(layers):
    @register(Scaled)
    def handler(step, signal):
        return Signal(signal.x), lambda relevance, kept: relevance.mul_(0.5)

    try:
        for n in (3, 40):
            with pytest.raises(TypeError, match=r"'1' \(Scaled\)"):
                sklrp.explain(nn.Sequential(layers[0], Scaled(), layers[2]), X[:n])
    finally:
        del HANDLERS[Scaled]


@pytest.mark.parametrize("check", ["auto", True])
def test_a_pull_that_shares_what_it_has_changed_in_place_is_found(layers, check):
    @register(Scaled)
    def handler(step, signal):
        z = step.layer(signal.x)
        pull = contribute(replace(step, epsilon=1e-3), signal.x, z, lambda ratio: ratio)
        return Signal(z), lambda relevance, kept: pull(relevance.mul_(2.0), kept)

    try:
        for n in (3, 40):
            with pytest.raises(TypeError, match="is not what it got"):
                sklrp.explain(ByHand(layers[0], Scaled(), layers[2]), X[:n], check=check)
    finally:
        del HANDLERS[Scaled]


def _turned(x):
    """Return the places of samples, all but the first of them turned around."""
    return torch.cat([torch.zeros(1, dtype=torch.long), torch.arange(1, len(x)).flip(0)])


def _gated(layers, x, gate):
    hidden = layers[0](x).relu()
    return layers[2](torch.where(gate[:, :1] > 0, hidden, 2 * hidden))


# Values of other samples are gates alone, which carry no relevance; of two samples some mix
# nothing.
MIXING = {
    "two places on": lambda f, x: _gated(f, x, x - x.roll(2, 0)),
    "two places back": lambda f, x: _gated(f, x, x.roll(len(x) - 2, 0)),
    "its sign": lambda f, x: f[2](f[0](x).relu() * x.roll(2, 0)[:, :1].sign()),
    "out of the graph": lambda f, x: _gated(f, x, x.data.roll(2, 0)),
    "by index": lambda f, x: _gated(f, x, x[_turned(x)]),
    "gathered": lambda f, x: _gated(f, x, x.gather(0, _turned(x)[:, None].expand(-1, 4))),
    "taken": lambda f, x: _gated(f, x, torch.take_along_dim(x, _turned(x)[:, None], 0)),
    "even and odd": lambda f, x: f[2](f[0](x).relu() + (len(x) % 2)),
}


class Mixing(nn.Module):
    def __init__(self, function, layers):
        super().__init__()
        self.layers, self.function = nn.ModuleList(layers), function

    def forward(self, x):
        return self.function(self.layers, x)


@pytest.mark.parametrize("options", [{}, {"check": False}, {"batch_size": 4}, {"target": "all"}])
@pytest.mark.parametrize("name", MIXING)
def test_what_mixes_three_samples_or_more_is_refused(name, options, layers):
    for n in (3, 4, 5, 8, 16, 17, 40):
        samples = np.random.default_rng(n).normal(size=(n, 4)).astype(np.float32)
        with pytest.raises(TypeError):
            sklrp.explain(Mixing(MIXING[name], layers), samples, rule="epsilon", **options)
