"""Networks of users' own on the device: each rule gives what it gives on the CPU in float64.

`tests/test_devices.py` runs this file, with float64 on the device and without.
"""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import sklrp
from tests.helpers import layers
from tests.helpers.networks import NETWORKS, arrays_of, build, draw, numbers, on_each
from tests.helpers.simulated_device import NAME, holds_float64

pytestmark = pytest.mark.filterwarnings("ignore:The flat rule on the dense first layer")

DTYPE = torch.float64 if holds_float64() else torch.float32
# Sums are rounded in another order, and in float32 some denominators are small.
TOLERANCE = 1e-10 if holds_float64() else 2e-3
# Each rule everywhere; presets but combine them, "auto" stands for these.
RULES = ["auto", "zero", "epsilon", "gamma", "alpha_beta", "z_plus", "w_square", "flat"]
if not holds_float64():  # each kind of arithmetic once
    RULES = ["auto", "gamma", "alpha_beta"]
BOX = sklrp.ZBox(-4.0, 4.0)


def there(model):
    """Return a copy of a network on the device."""
    return copy.deepcopy(model).to(NAME, DTYPE)


def moved(X, device=NAME):
    """Return tensors of an input on a device, the floating ones as the network has them."""

    def move(array):
        tensor = torch.as_tensor(array)
        return tensor.to(device, DTYPE if tensor.is_floating_point() else None)

    return on_each(move, X)


def assert_as_on_cpu(model, X, **params):
    expected = arrays_of(sklrp.explain(model, X, **params))
    found = arrays_of(sklrp.explain(there(model), X, **params))
    scale = max(np.abs(array).max() for array in expected)
    assert scale > 0
    for one, other in zip(found, expected, strict=True):
        assert np.abs(one - other).max() <= TOLERANCE * scale, params


# Complex numbers seen as pairs of real ones are a view, which the simulated device does not have.
ON_DEVICE = sorted(set(NETWORKS) - {"FourierOperator"})


@pytest.mark.parametrize("name", ON_DEVICE)
def test_networks(name):
    model, X = build(name), draw(name)
    for rule in RULES:
        assert_as_on_cpu(model, X, rule=rule)
    assert_as_on_cpu(model, X, rule="zero", epsilon=0.0, target="all")


@pytest.mark.parametrize("name", layers.LAYERS)
@pytest.mark.filterwarnings("ignore:dropout")  # of axes, where the layer itself is run
def test_layers(name):
    layer, shape = layers.build(name)
    x = layers.draw(3, *shape)
    model = layers.Written(layer, nn.LazyLinear(2)).double().eval()
    model(x.clone())
    for rule in ("zero", "gamma") if holds_float64() else ("gamma",):
        assert_as_on_cpu(model, x.numpy(), rule=rule)


class Sequences(nn.Module):
    """Sequences of several lengths, taken together in the way that a function says."""

    def __init__(self, together):
        super().__init__()
        self.together = together
        self.lstm, self.gru = nn.LSTM(4, 6, batch_first=True), nn.GRU(4, 6, batch_first=True)
        self.cell, self.flat, self.out = nn.GRUCell(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)
        self.register_buffer("mean", torch.randn(4))

    def forward(self, x, lengths):
        return self.out(self.together(self, x, lengths))


def packed(lengths_of):
    """Pack by lengths as a function takes them to the CPU, where torch wants them."""

    def together(self, x, lengths):
        sequences = pack_padded_sequence(
            x, lengths_of(lengths), batch_first=True, enforce_sorted=False
        )
        return self.lstm(sequences)[1][0][0]

    return together


def padded_again(self, x, lengths):
    sequences = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
    states, lengths = pad_packed_sequence(self.gru(sequences)[0], batch_first=True)
    return states.sum(1) / lengths.to(states.device).to(states.dtype)[:, None]


def last_step(self, x, lengths):
    rows = torch.arange(len(x), device=x.device)
    return self.lstm(x)[0][rows, lengths - 1]


def last_step_by_indices_of_the_cpu(self, x, lengths):
    return self.lstm(x)[0][torch.arange(len(x)), lengths.cpu() - 1]


def mean_under_mask(self, x, lengths):
    mask = torch.arange(x.shape[1], device=x.device)[None] < lengths[:, None]
    states = self.lstm(x)[0] * mask[..., None].to(x.dtype)
    return states.sum(1) / lengths[:, None].to(x.dtype)


def mean_under_mask_made_on_the_cpu(self, x, lengths):
    mask = torch.arange(x.shape[1])[None] < lengths.cpu()[:, None]
    return (self.lstm(x)[0] * mask[..., None].to(x)).sum(1)


def state_made_on_the_cpu(self, x, lengths):
    return self.gru(x, torch.zeros(1, len(x), 6).type_as(x))[1][0]


def cell_by_cell(self, x, lengths):
    state = torch.zeros(len(x), 6, device=x.device, dtype=x.dtype)
    for step in x.unbind(1):
        state = self.cell(step, state)
    return state


def by_way_of_the_cpu(self, x, lengths):
    hidden = F.relu(self.flat(x)).cpu()
    hidden = torch.cat([hidden, torch.zeros_like(hidden[:, :1])], 1)
    return F.pad(hidden, (0, 0, 1, 0)).mean(1).to(self.out.weight.device)


def to_a_parameter(self, x, lengths):
    x = (x.to(self.flat.weight.device) - self.mean) / (self.mean.abs() + 1)
    return self.flat(x.to(self.mean)).sum(1)


def with_numbers_of_the_cpu(self, x, lengths):
    return self.flat(torch.tensor(2.0) * x + torch.tensor(0.5)).sum(1)


TOGETHER = {
    "cpu": packed(lambda lengths: lengths.cpu()),
    "to-cpu": packed(lambda lengths: lengths.to("cpu")),
    "cpu-long": packed(lambda lengths: lengths.detach().cpu().long()),
    "to-cpu-and-dtype": packed(lambda lengths: lengths.to(device="cpu", dtype=torch.int64)),
    "tolist": packed(lambda lengths: lengths.tolist()),
    **{
        function.__name__: function
        for function in (
            padded_again, last_step, last_step_by_indices_of_the_cpu, mean_under_mask,
            mean_under_mask_made_on_the_cpu, state_made_on_the_cpu, cell_by_cell,
            by_way_of_the_cpu, to_a_parameter, with_numbers_of_the_cpu,
        )
    },
}  # fmt: skip


def sequences(together=mean_under_mask, n=4):
    """Return a network of sequences and its inputs."""
    torch.manual_seed(0)
    X = numbers(5, 4)(np.random.default_rng(0), n), np.array([3, 5, 2, 4] * n)[:n]
    return Sequences(together).double().eval(), X


@pytest.mark.parametrize("name", TOGETHER)
def test_what_forward_moves(name):
    model, X = sequences(TOGETHER[name])
    for rule in ("zero", "gamma", "epsilon_plus_flat"):
        assert_as_on_cpu(model, X, rule=rule)
    assert_as_on_cpu(model, X, rule=BOX)


@pytest.mark.parametrize("places", [*itertools.product(["array", "cpu", NAME], repeat=2)])
@pytest.mark.parametrize("network", ["cpu", NAME])
def test_relevance_is_where_the_input_is(network, places):
    model, X = sequences()
    expected = sklrp.explain(model, X, target=1)[0]
    given = tuple(
        array.astype(array.dtype if array.dtype.kind == "i" else str(DTYPE)[6:])
        if place == "array"
        else moved(array, place)
        for array, place in zip(X, places, strict=True)
    )
    relevance = sklrp.explain(model.to(network, DTYPE), given, target=1)
    for one, place in zip(relevance, places, strict=True):
        where = "array" if isinstance(one, np.ndarray) else one.device.type
        assert where == place
        assert str(one.dtype).removeprefix("torch.") == str(DTYPE)[6:]
    found = relevance[0] if isinstance(relevance[0], np.ndarray) else relevance[0].cpu().numpy()
    np.testing.assert_allclose(found, expected, atol=TOLERANCE * np.abs(expected).max())


def test_integers_there_and_a_network_in_float64_here():
    model, X = build("LeNet"), np.arange(2 * 144).reshape(2, 1, 12, 12) % 7
    found = sklrp.explain(model, torch.as_tensor(X).to(NAME))
    assert found.device.type == NAME
    assert found.dtype == DTYPE
    expected = sklrp.explain(model, X)
    np.testing.assert_allclose(found.cpu(), expected, atol=1e-6 * np.abs(expected).max())


def test_a_network_of_buffers_alone():
    """It has no parameter that would say where it is."""

    class Buffers(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weight", torch.randn(3, 4, dtype=torch.float64))

        def forward(self, x):
            return F.linear(x, self.weight)

    assert_as_on_cpu(Buffers(), numbers(4)(np.random.default_rng(0), 5), rule="zero")


@pytest.mark.parametrize("name", ["PackedLSTM", "by_way_of_the_cpu"])
def test_details(name):
    if name in TOGETHER:
        model, X = sequences(TOGETHER[name])
    else:
        model, X = build(name), draw(name)
    _, expected = sklrp.explain(model, X, target="all", return_details=True)
    _, found = sklrp.explain(there(model), X, target="all", return_details=True)
    np.testing.assert_array_equal(found.target, expected.target)
    np.testing.assert_allclose(found.score, expected.score, rtol=1e-4)
    for one, other in zip(found.layers, expected.layers, strict=True):
        for kept in ("relevance", "bias", "epsilon", "padding", "initial_state", "dropped"):
            scale = max(1.0, np.abs(other[kept]).max())
            assert np.abs(one[kept] - other[kept]).max() <= TOLERANCE * scale


def test_modes_of_the_caller():
    """Neither autocast on the device nor a default device changes what is computed."""
    model, X = sequences()
    expected = sklrp.explain(there(model), X)[0]
    model_there = there(model)
    with torch.autocast(NAME, torch.float16), torch.inference_mode():  # no function works there
        np.testing.assert_array_equal(sklrp.explain(model_there, X)[0], expected)
    with torch.device(NAME):
        np.testing.assert_array_equal(sklrp.explain(model_there, X)[0], expected)
        of_cpu = sklrp.explain(model, X)[0]
    np.testing.assert_array_equal(of_cpu, sklrp.explain(model, X)[0])


def test_a_layer_left_behind_is_refused():
    model = there(build("LeNet"))
    model.fc2.cpu()
    with pytest.raises(ValueError, match=r"must be on one device, got \['cpu', 'simulated:0'\]"):
        sklrp.explain(model, draw("LeNet"))
