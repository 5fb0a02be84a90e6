"""The networks: shapes, sweeps, forget gates, and the errors of windows that do not fit."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from sklrp import explain
from sklrp.modules import (
    ACTIVATIONS,
    PADDING_MODES,
    SWEEPS,
    StatePooling,
    Sweep,
    make_cnn,
    make_lstm,
    make_mlp,
    widest_activation,
)

IMAGE = torch.arange(6.0).reshape(1, 2, 3)  # [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("sweep", "steps"),
    [
        ("down", [[0, 1, 2], [3, 4, 5]]),
        ("up", [[3, 4, 5], [0, 1, 2]]),
        ("right", [[0, 3], [1, 4], [2, 5]]),
        ("left", [[2, 5], [1, 4], [0, 3]]),
    ],
)
def test_sweep(sweep, steps):
    layer = Sweep(sweep)
    assert layer(IMAGE)[0].tolist() == steps
    assert torch.equal(layer.inverse(layer(IMAGE)), IMAGE)


def test_state_pooling():
    torch.manual_seed(0)
    lstm = nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True)
    output, state = lstm(torch.randn(5, 6, 3))
    last = StatePooling("last")((output, state))
    assert torch.equal(last, torch.cat([output[:, -1, :4], output[:, 0, 4:]], 1))
    assert torch.equal(StatePooling("mean")((output, state)), output.mean(1))
    assert torch.equal(StatePooling("max")((output, state)), output.amax(1))


def test_unknown_sweep_and_pooling_raise():
    with pytest.raises(ValueError, match=r"sweep must be one of .*'down'.*, got 'diagonal'"):
        Sweep("diagonal")
    with pytest.raises(ValueError, match=r"pooling must be one of .*'last'.*, got 'sum'"):
        StatePooling("sum")


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("hidden", [(), (4,), (5, 3)])
def test_mlp(hidden, activation):
    network = make_mlp(7, 3, hidden_layer_sizes=hidden, activation=activation, dropout=0.5)
    assert network(torch.zeros(2, 7)).shape == (2, 3)
    assert sum(isinstance(layer, nn.Linear) for layer in network) == len(hidden) + 1
    assert sum(isinstance(layer, nn.Dropout) for layer in network) == len(hidden)
    assert sum(isinstance(layer, ACTIVATIONS[activation]) for layer in network) == len(hidden)


def shapes(network, n_features):
    """Return the shape of one sample at the output of each named layer."""
    x, sizes = torch.zeros(1, n_features), {}
    for name, layer in network.eval().named_children():
        x = layer(x)
        sizes[name] = tuple(x.shape[1:])
    return sizes


@pytest.mark.parametrize(
    ("params", "sizes"),
    [
        (
            {},
            {"conv1": (16, 8, 10), "pool1": (16, 4, 5), "conv2": (32, 4, 5), "pool2": (32, 2, 2)},
        ),
        ({"padding": "valid", "channels": (16,)}, {"conv1": (16, 6, 8), "pool1": (16, 3, 4)}),
        ({"padding": 2}, {"conv1": (16, 10, 12), "pool2": (32, 3, 4)}),
        ({"padding": (0, 1), "channels": (16,)}, {"conv1": (16, 6, 10)}),
        ({"stride": 2, "pooling": None}, {"conv1": (16, 4, 5), "conv2": (32, 2, 3)}),
        (
            {"kernel_size": (5, 1), "pool_size": (1, 3)},
            {"conv1": (16, 8, 10), "pool1": (16, 8, 3)},
        ),
        ({"kernel_size": 7}, {"conv2": (32, 4, 5)}),
        ({"pooling": None}, {"conv2": (32, 8, 10), "flatten": (2560,)}),
        ({"pooling": "avg"}, {"pool2": (32, 2, 2)}),
        ({"padding_mode": "circular", "batch_norm": True}, {"norm2": (32, 4, 5)}),
        ({"padding_mode": "reflect", "dropout": 0.5}, {"dropout2": (32, 2, 2)}),
    ],
)
def test_cnn_shapes(params, sizes):
    found = shapes(make_cnn((1, 8, 10), 3, **params), 80)
    assert {name: found[name] for name in sizes} == sizes
    assert found["output"] == (3,)


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("input_shape", [(2, 9), (2, 9, 8)])
def test_cnn_pads_even_kernels_as_torch_does(input_shape, stride, padding_mode):
    sides = {"kernel_size": 4, "stride": stride, "padding_mode": padding_mode, "pooling": None}
    network = make_cnn(input_shape, 3, channels=(2,), hidden_layer_sizes=(), **sides)
    conv = {2: nn.Conv1d, 3: nn.Conv2d}[len(input_shape)](
        2, 2, 4, padding="same", padding_mode=padding_mode
    )
    conv.load_state_dict(network.conv1.state_dict())
    x = torch.randn(3, *input_shape, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that even kernels cost a copy
        expected = conv(x)[(..., *(slice(None, None, stride) for _ in input_shape[1:]))]
    torch.testing.assert_close(network[:3](x.flatten(1)), expected)
    X = x.flatten(1).numpy()
    relevance, details = explain(network, X, rule="flat", target=0, return_details=True)
    kept = sum(layer[cause] for layer in details.layers for cause in ("bias", "padding"))
    np.testing.assert_allclose(relevance.sum(1) + kept, details.score, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 7])
def test_cnn_takes_signals_of_any_length_when_clipped(length):
    network = make_cnn((1, length), 2, clip=True)
    assert network(torch.zeros(3, length)).shape == (3, 2)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"kernel_size": 9}, r"kernel_size=9 is larger than the image, \(8, 8\).* at most 8"),
        ({"kernel_size": (3, 9)}, r"kernel_size=\(3, 9\) is larger"),
        (
            {"channels": (2, 2, 2, 2)},
            r"pool_size=2 is larger than what reaches pooling 4, \(1, 1\)",
        ),
        ({"pool_size": 9}, r"pool_size=9 is larger than what reaches pooling 1, \(8, 8\)"),
        (
            {"padding": "valid", "kernel_size": 5, "pooling": None},
            r"kernel_size=5 is larger than what reaches convolution 2, \(4, 4\)",
        ),
        ({"kernel_size": (3, 3, 3)}, r"kernel_size=\(3, 3, 3\) must be .* each of the 2 axes"),
        ({"padding": 8, "padding_mode": "reflect"}, "padding=8 with padding_mode='reflect'"),
        ({"padding": 9, "padding_mode": "circular"}, "padding=9 with padding_mode='circular'"),
    ],
)
def test_cnn_windows_that_do_not_fit_raise(params, message):
    with pytest.raises(ValueError, match=message):
        make_cnn((1, 8, 8), 3, **params)


def test_series_that_look_like_narrow_images_are_answered_with_their_shape():
    line = r"Series of 30 steps and 2 variables take {}input_shape=\(2, 30\)\.$"
    with pytest.raises(ValueError, match=line.format(r"X\.swapaxes\(1, 2\) and ")):
        make_cnn((1, 30, 2), 3)
    with pytest.raises(ValueError, match=line.format("")):
        make_cnn((1, 2, 30), 3)
    with pytest.raises(ValueError, match=r"input_shape=\(1, 8, 8\)\.$"):
        make_cnn((1, 8, 8), 3, kernel_size=9)


@pytest.mark.parametrize("sweep", SWEEPS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_lstm(sweep, bidirectional):
    network = make_lstm(
        (4, 6), 3, hidden_size=5, num_layers=2, bidirectional=bidirectional, sweep=sweep,
        hidden_layer_sizes=(7,), dropout=0.25,
    )  # fmt: skip
    assert network(torch.zeros(2, 24)).shape == (2, 3)
    assert network.lstm.input_size == (4 if sweep in ("right", "left") else 6)
    assert network.lstm.dropout == 0.25


def test_forget_bias_is_the_sum_of_both_biases():
    lstm = make_lstm(
        (4, 6), 3, hidden_size=5, num_layers=2, bidirectional=True, forget_bias=3
    ).lstm
    for suffix in ("l0", "l0_reverse", "l1", "l1_reverse"):
        bias = getattr(lstm, f"bias_ih_{suffix}") + getattr(lstm, f"bias_hh_{suffix}")
        np.testing.assert_allclose(bias[5:10].detach(), 3)
        assert not np.isclose(bias[:5].detach(), 3).any()
    assert make_lstm((4, 6), 3, bias=False, forget_bias=3).lstm.bias is False


def test_widest_activation():
    assert widest_activation(make_mlp(7, 3, hidden_layer_sizes=(20,)), 7) == 20
    assert widest_activation(make_cnn((1, 8, 8), 3).eval(), 64) == 16 * 64
    assert widest_activation(make_lstm((10, 2), 3, hidden_size=6), 20) == 60
