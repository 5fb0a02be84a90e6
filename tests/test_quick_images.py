"""The quick way back to images of few channels, against torch's own in double precision."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sklrp
from sklrp import _quick_images
from sklrp._quick_images import (
    in_quick_order,
    is_of_few_channels,
    quicken,
    take_largest,
    to_few_channels,
)
from sklrp.classifiers import layer_runs
from tests.helpers.parameters import randomised

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch's own way is the quicker one"
)


@pytest.fixture(autouse=True)
def few_values_are_enough(monkeypatch):
    monkeypatch.setattr(_quick_images, "_FEW_VALUES", 1)


LAYERS = {
    "3 x 3": {"kernel_size": 3, "padding": 1},
    "no padding": {"kernel_size": (2, 5)},
    "dilated": {"kernel_size": (3, 2), "dilation": (2, 3), "padding": (1, 3)},
    "as wide as it may be": {"kernel_size": 3, "padding": 2},
}


def _make_layer(options, n_few=1, seed=0):
    torch.manual_seed(seed)
    return nn.Conv2d(n_few, 16, **options)


@pytest.mark.parametrize("n_few", [1, 2, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_it_is_the_transposed_convolution(name, n_few):
    layer = _make_layer(LAYERS[name], n_few)
    assert is_of_few_channels(layer, layer.weight)
    values = torch.randn(4, *layer(torch.zeros(2, n_few, 11, 14)).shape[1:])
    options = layer.padding, layer.dilation
    found = to_few_channels(values, layer.weight.detach(), *options)
    expected = F.conv_transpose2d(
        values.double(), layer.weight.detach().double(), None, 1, options[0], 0, 1, options[1]
    )
    assert found.shape == (4, n_few, 11, 14)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "other",
    [
        nn.Conv2d(1, 4, 3, stride=2),
        nn.Conv2d(4, 40, 3),
        nn.Conv2d(2, 8, 3),
        nn.Conv2d(3, 64, 7),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(1, 4, 3, padding="same"),
        nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(1, 4, 3, padding=3),
        nn.Conv2d(1, 4, 3).double(),
        nn.Conv1d(1, 4, 3),
    ],
    ids=repr,
)
def test_others_are_left_to_torch(other):
    assert not is_of_few_channels(other, other.weight)


@pytest.mark.parametrize("n_few", [1, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_the_same(name, n_few):
    net = nn.Sequential(
        _make_layer(LAYERS[name], n_few), nn.Tanh(), nn.Conv2d(16, 2, 2), nn.Flatten()
    )
    fast = copy.deepcopy(net)
    quicken(fast)
    assert type(fast[0]) is not nn.Conv2d
    assert type(fast[2]) is nn.Conv2d
    found = []
    for one, dtype in ((fast, torch.float32), (copy.deepcopy(net).double(), torch.float64)):
        torch.manual_seed(1)
        x = torch.randn(3, n_few, 9, 12).to(dtype).requires_grad_()
        out = one(x)
        weight = torch.arange(out.numel(), dtype=dtype).reshape(out.shape).cos()
        found.append(torch.autograd.grad((out * weight).sum(), x)[0].double().numpy())
    np.testing.assert_allclose(*found, rtol=0, atol=1e-5 * np.abs(found[1]).max())


@pytest.mark.parametrize(
    "options", [{}, {"padding": 1, "ceil_mode": True}, {"stride": 1}], ids=str
)
def test_a_maximum_before_a_relu_is_the_same_to_the_bit(options):
    net = nn.Sequential(nn.Identity(), nn.ReLU(), nn.MaxPool2d(3, **options), nn.Flatten())
    quick = nn.Sequential(*in_quick_order(net))
    assert [type(layer) for layer in quick[1:3]] == [nn.MaxPool2d, nn.ReLU]
    torch.manual_seed(0)
    x = torch.randint(-3, 3, (4, 2, 9, 12)).float()  # with ties, and windows without a positive
    found = []
    for one in (net, quick):
        point = x.clone().requires_grad_()
        out = one(point)
        weight = torch.arange(out.numel()).reshape(out.shape).cos()
        found.append((out, *torch.autograd.grad((out * weight).sum(), point)))
    for quickly, plainly in zip(*found, strict=True):
        assert torch.equal(quickly, plainly)


@pytest.mark.parametrize(
    "pair",
    [
        (nn.Tanh(), nn.MaxPool2d(2)),
        (nn.ReLU(), nn.AvgPool2d(2)),
        (nn.ReLU(), nn.MaxPool2d(2, return_indices=True)),
        (nn.MaxPool2d(2), nn.ReLU()),
    ],
    ids=str,
)
def test_other_layers_keep_their_places(pair):
    assert in_quick_order(nn.Sequential(*pair)) == list(pair)


def test_layers_with_hooks_keep_their_places():
    pair = nn.ReLU(), nn.MaxPool2d(2)
    pair[0].register_forward_hook(lambda layer, args, out: out + 1)
    assert in_quick_order(nn.Sequential(*pair)) == list(pair)


@pytest.mark.parametrize("rule", ["epsilon", "z_plus", "gamma"])
def test_relevance_is_that_of_double_precision(rule):
    body = _make_layer(LAYERS["3 x 3"]), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    net = randomised(nn.Sequential(*body, nn.Linear(16 * 5 * 6, 2)), 0, True).float()
    X = np.random.default_rng(0).normal(size=(5, 1, 10, 12))
    found, expected = (
        sklrp.explain(one, X.astype(dtype), rule=rule, target=1, epsilon=0.1)
        for one, dtype in ((net, "float32"), (copy.deepcopy(net).double(), "float64"))
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


class Tapping(nn.Module):
    """A forward that looks between layers, and one that asks a part of them."""

    def __init__(self, taps):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.readout = nn.Linear(64, 2)
        self.taps = taps

    def forward(self, x):
        """Return the scores."""
        level = 0.0
        if self.taps:
            hidden = self.features[:2](x)
            if hidden.shape[-1] != x.shape[-1]:
                raise ValueError("these are not the features of cells")
            level = hidden.mean((1, 2, 3)).detach()[:, None]
        return self.readout(self.features(x).flatten(1)) + level


@pytest.mark.parametrize("taps", [False, True])
def test_layers_inside_a_forward_of_the_users_stay_in_order(taps):
    network = Tapping(taps).eval()
    quick = copy.deepcopy(network)
    quicken(quick)
    assert all(map(isinstance, quick.features[1:], [nn.ReLU, nn.MaxPool2d]))
    x = torch.randn(3, 1, 8, 8)
    assert torch.allclose(quick(x), network(x), atol=1e-6)


def test_layers_with_a_forward_or_hooks_of_their_own_stay_in_order():
    for place in range(2):
        layers = [nn.ReLU(), nn.MaxPool2d(2)]
        layers[place].register_full_backward_hook(lambda *args: None)
        assert in_quick_order(nn.Sequential(*layers)) == layers
        layers = [nn.ReLU(), nn.MaxPool2d(2)]
        layers[place].forward = torch.neg
        assert in_quick_order(nn.Sequential(*layers)) == layers


@pytest.mark.parametrize("size", [(8, 12), (9, 11), (3, 4), (1, 9)])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 2},
        {"kernel_size": (3, 2)},
        {"kernel_size": (1, 3)},
        {"kernel_size": 1},
        {"kernel_size": (2,)},
        {"kernel_size": [2], "stride": (2,)},
        {"kernel_size": np.int64(2)},
        {"kernel_size": 3, "stride": 2},
        {"kernel_size": 2, "padding": 1},
        {"kernel_size": 2, "dilation": 2, "stride": 2},
        {"kernel_size": 2, "ceil_mode": True},
        {"kernel_size": 2, "return_indices": True},
    ],
    ids=str,
)
def test_the_largest_values_are_the_same_to_the_bit(options, size):
    torch.manual_seed(0)
    layer = nn.MaxPool2d(**options)
    x = torch.randn(3, 5, *size)
    x[0, 0, 0, 0], x[1, :, :, -1] = float("nan"), -float("inf")
    last = x.to(memory_format=torch.channels_last)
    integers = torch.randint(9, x.shape).to(memory_format=torch.channels_last)
    for values in (x, last, last.double(), last.bfloat16(), last.transpose(2, 3), last[:, :1],
                   last[:0], integers):  # fmt: skip
        try:
            expected = layer(values)
        except RuntimeError:
            with pytest.raises(RuntimeError):
                take_largest(layer, values)
            continue
        found = take_largest(layer, values)
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
        if not layer.return_indices and layer.kernel_size != 1 and len(values):
            assert found.data_ptr() != values.data_ptr()


def test_the_gradient_of_a_largest_value_is_torchs():
    layer = nn.MaxPool2d(2)
    x = torch.ones(2, 3, 4, 6).to(memory_format=torch.channels_last).requires_grad_()
    gradients = [
        torch.autograd.grad(f(x).sum(), x)[0] for f in (layer, lambda v: take_largest(layer, v))
    ]
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_a_quick_network_takes_the_largest_values_of_whole_rows(monkeypatch):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2)).eval()
    quick = copy.deepcopy(net).to(memory_format=torch.channels_last)
    quicken(quick)
    x = torch.randn(2, 1, 10, 12)
    with torch.no_grad():
        expected = net(x)
        monkeypatch.setattr(nn.MaxPool2d, "forward", None)
        torch.testing.assert_close(quick(x), expected)


def test_a_stride_that_is_none_is_that_of_the_windows():
    layer = nn.MaxPool2d(2)
    layer.stride = None
    x = torch.randn(2, 3, 4, 6).to(memory_format=torch.channels_last)
    torch.testing.assert_close(take_largest(layer, x), layer(x), rtol=0, atol=0)


def test_predictions_of_a_cnn_take_the_largest_values_of_whole_rows(monkeypatch):
    X, y = np.random.default_rng(0).normal(size=(12, 8, 8)).astype("f4"), np.arange(12) % 2
    clf = sklrp.CNNClassifier(max_epochs=1, random_state=0).fit(X, y)
    expected = clf.predict_proba(X)
    seen = []
    monkeypatch.setattr(layer_runs, "take_largest", lambda layer, x: seen.append(x) or layer(x))
    np.testing.assert_allclose(clf.predict_proba(X), expected, rtol=1e-6)
    assert seen
