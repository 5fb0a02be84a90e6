"""Nothing of the caller's changes, whatever the layer: a property over all handlers."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sklrp.modules import EchoState, GaussianNoise, StatePooling, Sweep, TargetUnits
from sklrp.propagation import explain, supported
from sklrp.propagation.contraction import Contraction
from sklrp.rules import ZBox
from tests.helpers.layers import LAYERS, Written, build, draw
from tests.helpers.parameters import randomised
from tests.helpers.unchanged import assert_unchanged, snapshot

# Layers that other tests build: named here with the shape of a sample.
MORE = {
    "linear": (nn.Linear(5, 4), (3, 5)),
    "conv1d": (nn.Conv1d(2, 3, 2), (2, 5)),
    "conv2d": (nn.Conv2d(2, 3, 2, padding=1, padding_mode="circular"), (2, 4, 5)),
    "conv3d": (nn.Conv3d(2, 3, 2), (2, 3, 3, 3)),
    "batch-norm-1d": (nn.BatchNorm1d(2), (2, 5)),
    "batch-norm-2d": (nn.BatchNorm2d(2), (2, 4, 5)),
    "batch-norm-3d": (nn.BatchNorm3d(2), (2, 2, 3, 2)),
    "sweep": (Sweep("left"), (4, 5)),
    "noise": (GaussianNoise(), (4, 5)),
    "target-units": (TargetUnits(np.array([1.0, -2.0, 0.5]), np.array([2.0, 0.5, 3.0])), (3,)),
}
MORE["contraction"] = (Contraction(nn.Parameter(torch.ones(3, 2, 4)), "bix,xoi->bxo"), (4, 3))
MORE["response-norm"] = (nn.LocalResponseNorm(2), (3, 4))
MORE["cross-map-response-norm"] = (nn.CrossMapLRN2d(2), (3, 4, 4))
for n in (1, 2, 3):
    shape = (2, 4, 5, 4)[: n + 1]
    MORE[f"LPPool{n}d"] = (getattr(nn, f"LPPool{n}d")(2, 2), shape)
    for kind in ("AdaptiveAvgPool", "AdaptiveMaxPool", "AvgPool", "MaxPool"):
        MORE[f"{kind}{n}d"] = (getattr(nn, f"{kind}{n}d")(2), shape)
    for kind in ("Zero", "Reflection", "Replication", "Circular"):
        MORE[f"{kind}Pad{n}d"] = (getattr(nn, f"{kind}Pad{n}d")(1), shape)
    MORE[f"ConstantPad{n}d"] = (getattr(nn, f"ConstantPad{n}d")(1, 0.5), shape)
    MORE[f"Dropout{n}d"] = (getattr(nn, f"Dropout{n}d")(0.5), shape)
RECURRENT = {
    f"{kind.__name__}-{2 if both else 1}": (kind, both)
    for kind in (nn.LSTM, nn.GRU, nn.RNN)
    for both in (False, True)
}


RULES = ["auto", "zero", "epsilon", "gamma", "alpha_beta", "z_plus", "w_square", ZBox(-9.0, 9.0)]


class Echoing(nn.Module):
    """A reservoir in a forward of its own."""

    def __init__(self):
        super().__init__()
        self.layer = EchoState(3, 4, leak_first_step=False, washout=1)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        out, last = self.layer(x)
        return self.head(out.mean(1)) + self.head(last[0])


class Recurrent(nn.Module):
    """A recurrent layer and its cell, in a forward of their own."""

    def __init__(self, kind, both):
        super().__init__()
        cell = {nn.LSTM: nn.LSTMCell, nn.GRU: nn.GRUCell, nn.RNN: nn.RNNCell}[kind]
        self.layer = kind(3, 4, num_layers=2, bidirectional=both, batch_first=True, dropout=0.5)
        self.cell = cell(3, 4)
        self.head = nn.Linear(8 if both else 4, 2)

    def forward(self, x):
        out, _ = self.layer(x)
        state = self.cell(x[:, 0])
        state = state[0] if isinstance(state, tuple) else state
        return self.head(out.mean(1)) + state[:, :2]


def build_any(name):
    """Return a network around the layer, and samples for it."""
    if name == "echo-state":
        return randomised(Echoing(), seed=1).double(), draw(2, 5, 3).numpy()
    if name in RECURRENT:
        return randomised(Recurrent(*RECURRENT[name]), seed=1).double(), draw(2, 5, 3).numpy()
    if name in MORE:
        layer, shape = MORE[name]
        layer = randomised(layer, seed=1).double().eval()
    else:
        layer, shape = build(name)
    X = draw(2, *shape)
    with torch.no_grad():
        width = layer(X.clone()).flatten(1).shape[1]
    return Written(layer, randomised(nn.Linear(width, 2), seed=4)), X.numpy()


@pytest.mark.slow
@settings(max_examples=250)
@given(
    name=st.sampled_from(sorted([*LAYERS, *MORE, *RECURRENT, "echo-state"])),
    rule=st.sampled_from(RULES),
    training=st.booleans(),
    frozen=st.booleans(),
    chain=st.booleans(),
)
def test_nothing_changes(name, rule, training, frozen, chain):
    net, X = build_any(name)
    if chain and isinstance(net, Written):
        net = nn.Sequential(net.layer, nn.Flatten(), net.head)
    net.train(training).requires_grad_(not frozen)
    first = next(net.parameters())
    first.grad = torch.full_like(first, 0.5)
    before = snapshot(net, X)
    try:
        found = explain(net, X, target=1, rule=rule)
    except ValueError as refused:  # of some layers no bounds are known
        if not isinstance(rule, ZBox) or "needs bounds" not in str(refused):
            raise
        assert_unchanged(before, snapshot(net, X))
        return
    assert_unchanged(before, snapshot(net, X))
    np.testing.assert_array_equal(found, explain(net.eval(), X, target=1, rule=rule))


def test_every_handler_of_a_layer_is_among_them():
    known = {type(layer) for layer, _ in (*LAYERS.values(), *MORE.values())}
    known |= {nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell, EchoState}
    elsewhere = {StatePooling, nn.Embedding, nn.EmbeddingBag, nn.Softmax, nn.Softmax2d}
    elsewhere |= {nn.LogSoftmax, nn.Softmin}  # take no relevance, or integers
    elsewhere |= {nn.MaxUnpool1d, nn.MaxUnpool2d, nn.MaxUnpool3d}  # take two signals
    layers = {name for name in supported() if name[0].isupper()} - {"T"}  # a tensor has that
    missing = layers - {layer.__name__ for layer in known | elsewhere}
    assert not missing


pytestmark = pytest.mark.filterwarnings("ignore:dropout[23]d")


@pytest.mark.parametrize("batch_size", [1, 2, None])
def test_memory_that_torch_does_not_take_is_copied(batch_size):
    records = np.zeros(5, [("mark", "u1"), ("values", "f4", (4,))])
    records["values"] = np.random.default_rng(0).normal(size=(5, 4))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    plain = np.ascontiguousarray(records["values"])
    wanted = explain(net, plain)
    views = {"packed": records["values"], "big-endian": plain.astype(">f4")}
    views |= {"Fortran": np.asfortranarray(plain), "double": plain.astype(float)}
    for name, X in views.items():
        found = explain(net, X, batch_size=batch_size)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7, err_msg=name)
    backwards = explain(net, plain[::-1], batch_size=batch_size)
    np.testing.assert_allclose(backwards[::-1], wanted, rtol=1e-5, atol=1e-7)
    plain.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = explain(net, plain, batch_size=batch_size)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)
