"""Equal values share what a maximum passes on, whatever the size of the batch rounds them to."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

import sklrp
from sklrp.modules import EchoState, StatePooling
from sklrp.propagation.registry import find_entry
from sklrp.propagation.tape import Step
from sklrp.rules import Signal, ZBox
from tests.helpers.comparing import assert_close

RULES = ("zero", "epsilon", "gamma", "alpha_beta", "z_plus", "w_square", "flat", "auto")

POOLS = {
    "plain": nn.MaxPool2d(2),
    "one axis": nn.MaxPool1d(3, 2),
    "three axes": nn.MaxPool3d(2, 1),
    "overlapping": nn.MaxPool2d(3, 1),
    "padded": nn.MaxPool2d(3, 2, padding=1),
    "dilated": nn.MaxPool2d((2, 3), 1, dilation=(2, 1)),
    "ceil": nn.MaxPool2d(2, 2, ceil_mode=True),
    "padded ceil": nn.MaxPool2d(3, (2, 3), padding=(1, 0), ceil_mode=True),
    "wide and dilated": nn.MaxPool2d((4, 3), 3, padding=(2, 1), dilation=(2, 3)),
    "all": nn.MaxPool2d((7, 6)),
    "more padding than windows": nn.MaxPool1d(6, 2, padding=3),
    "adaptive": nn.AdaptiveMaxPool2d((3, 2)),
    "uneven": nn.AdaptiveMaxPool2d((5, 3)),
    "more than there are": nn.AdaptiveMaxPool1d(11),
    "to one": nn.AdaptiveMaxPool3d(1),
}


def _share_by_hand(layer, x, relevance):
    """Share among the equal values of each window, which is found by probing single cells."""
    back = np.zeros(x.shape)
    out = layer(x)
    cells = list(product(*map(range, x.shape[2:])))
    for channel in range(x.shape[1]):
        window = {}  # cell -> windows that see it
        for cell in cells:
            probe = torch.zeros_like(x[:1, :1])
            probe[(0, 0, *cell)] = 1
            window[cell] = layer(probe)[0, 0] > 0
        for sample in range(len(x)):
            for place in product(*map(range, out.shape[2:])):
                seen = [c for c in cells if window[c][place]]
                best = out[(sample, channel, *place)]
                equal = [c for c in seen if x[(sample, channel, *c)] == best]
                for cell in equal:
                    part = relevance[(sample, channel, *place)] / len(equal)
                    back[(sample, channel, *cell)] += part
    return back


@pytest.mark.parametrize("name", POOLS)
def test_equal_values_of_a_window_share(name):
    layer = POOLS[name]
    n_axes = int(type(layer).__name__[-2])
    rng = np.random.default_rng(0)
    # Few levels, so that most windows have ties; no zeros, which would pass nothing on.
    x = torch.tensor(rng.integers(1, 3, (2, 2, *(7, 6, 4)[:n_axes])).astype(float))
    head = nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(1, bias=False)).double()
    head(x)
    relevance = (head[:2](x) * head[2].weight).detach().reshape(layer(x).shape)
    found = sklrp.explain(head, x.numpy(), rule="zero", target=0)
    assert_close(found, _share_by_hand(layer, x, relevance))


class _Along(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.linear = nn.Linear(2, 1, bias=False)
        nn.init.constant_(self.linear.weight, 1.0)

    def forward(self, x):
        return self.linear(self.function(x))


EXTREMES = {
    "amax": lambda x: x.amax(2),
    "max": lambda x: x.max(2).values,
    "amin": lambda x: -(-x).amin(2),
    "maximum": lambda x: torch.maximum(torch.maximum(x[..., 0], x[..., 1]), x[..., 2]),
}


@pytest.mark.parametrize("name", EXTREMES)
def test_equal_values_share_in_functions(name):
    x = torch.tensor([[[1.0, 3, 3], [2, 2, 2]]], dtype=torch.float64)
    found = sklrp.explain(_Along(EXTREMES[name]).double(), x.numpy(), rule="zero", target=0)
    # Of three in two steps the first two share the half that is theirs.
    thirds = [0.5, 0.5, 1] if name == "maximum" else [2 / 3] * 3
    assert_close(found, np.array([[[0, 1.5, 1.5], thirds]]))


ORDERS = {
    "sort": (lambda x: x.sort(2).values[..., 1:], [0.5, 1, 0.5], [2 / 3] * 3),
    "sort, largest first": (
        lambda x: x.sort(2, descending=True)[0][..., :2], [0.5, 1, 0.5], [2 / 3] * 3,
    ),
    "topk": (lambda x: x.topk(1, 2).values, [0, 1, 0], [1 / 3] * 3),
    "topk of two": (lambda x: x.topk(2, 2, sorted=False)[0], [0.5, 1, 0.5], [2 / 3] * 3),
    "median": (lambda x: x.median(2, keepdim=True)[0], [0.5, 0, 0.5], [1 / 3] * 3),
    "kthvalue": (lambda x: x.kthvalue(1, 2, keepdim=True)[0], [0.5, 0, 0.5], [1 / 3] * 3),
    "quantile": (lambda x: x.quantile(0.5, 2, keepdim=True), [0.5, 0, 0.5], [1 / 3] * 3),
    "cummax": (lambda x: x.cummax(2).values[..., 1:2], [0, 1, 0], [0, 1, 0]),
}  # fmt: skip


@pytest.mark.parametrize("name", ORDERS)
def test_equal_values_share_in_orders(name):
    """Three values of two steps, in the first of which two are equal, in the second all."""
    function, *parts = ORDERS[name]
    x = torch.tensor([[[2.0, 3, 2], [4, 4, 4]]], dtype=torch.float64)
    x[0, 0, 2] += 1e-15  # equal to rounding
    model = _Along(lambda x: function(x).expand(-1, -1, 2)).double()
    total = sklrp.explain(
        model, x.numpy(), rule="zero", target=lambda y: y.sum((1, 2)), epsilon=0.0
    )
    repeats = 2 // function(x).shape[-1]
    assert_close(total, np.array([parts]) * repeats * x.numpy())


def test_equal_states_share():
    net = nn.Sequential(nn.RNN(1, 3, batch_first=True), StatePooling("max"), nn.Linear(3, 2))
    net.double()[0].weight_hh_l0.data.zero_()  # without memory every step is alike
    X = np.full((2, 5, 1), 0.7)
    found = sklrp.explain(net, X, target=0)
    assert np.abs(found).min() > 0
    assert_close(found, np.repeat(found.mean(1, keepdims=True), 5, 1))


def _fields(kind):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(24, 1, 28, 28)).astype(np.float32)
    if kind == "capped":
        X = np.minimum(X + 1, 1.0)
    elif kind == "constant":
        X[:] = rng.uniform(0.5, 2, size=(24, 1, 1, 1))
    X[..., :9] = 0.7  # land
    return X


@pytest.mark.sweep(3)
@pytest.mark.parametrize("kind", ["capped", "constant"])
@pytest.mark.parametrize("rule", RULES)
def test_one_by_one_equals_in_a_batch(kind, rule):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 49, 3),
    ).eval()  # fmt: skip
    X = _fields(kind)
    together = sklrp.explain(net, X, rule=rule, target=1, batch_size=24)
    for batch_size in (1, 5):
        alone = sklrp.explain(net, X, rule=rule, target=1, batch_size=batch_size)
        size = np.abs(together).max((1, 2, 3), keepdims=True)
        # A rule that divides by sums which cancel makes more of a rounding; a winner that took all
        # would move the largest value itself.
        assert (np.abs(alone - together) / size).max() < 2e-3


@pytest.mark.parametrize("noise", [1e-3, 1e-5, 1e-6])
@pytest.mark.parametrize(("dtype", "most"), [("float64", 1e-12), ("float32", 0.1)])
def test_fields_that_are_nearly_constant_move_within_bounds(dtype, most, noise):
    """Where values are nearly equal, rounding moves shares: docs/networks.md gives the bound."""
    rng = np.random.default_rng(0)
    X = (1 + noise * rng.normal(size=(20, 20, 20))).astype(np.float32)
    clf = sklrp.CNNClassifier((8, 16), max_epochs=2, dtype=dtype, random_state=0)
    clf.fit(X, np.arange(20) % 2)
    options = {"target": 1, "rule": "epsilon"}
    beside = clf.explain(X, **options)
    alone = np.concatenate([clf.explain(x[None], **options) for x in X])
    gap = np.abs(beside - alone).max(axis=(1, 2)) / np.abs(beside).max(axis=(1, 2))
    assert gap.max() <= most


class Attending(nn.Module):
    """A layer of a transformer, on sequences."""

    def __init__(self):
        super().__init__()
        self.enter, self.output = nn.Linear(6, 8), nn.Linear(8, 3)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)

    def forward(self, x):
        return self.output(self.layer(self.enter(x)).mean(1))


SEQUENCES = {
    "dense": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(72, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 3)
    ),
    "lstm": lambda: nn.Sequential(
        nn.LSTM(6, 24, batch_first=True), StatePooling("last"), nn.Linear(24, 3)
    ),
    "reservoir": lambda: nn.Sequential(
        EchoState(6, 60, leak_rate=0.4), StatePooling("last"), nn.Linear(60, 3)
    ),
    "attention": Attending,
}


@pytest.mark.sweep(4)
@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.filterwarnings("ignore:The flat rule on the dense first layer")
@pytest.mark.parametrize("rule", [*RULES, ZBox(low=-5.0, high=5.0)], ids=repr)
def test_maps_are_the_same_in_any_company(rule, name):
    """To rounding, which rules that divide by sums near zero make more of.

    What remains is so small in double precision that no winner, sign or formula differs; in single
    precision it is of the size by which maps differ from those in double precision.
    """
    torch.manual_seed(0)
    net = SEQUENCES[name]().eval()
    X = np.random.default_rng(0).normal(size=(12, 12, 6)).astype(np.float32)
    X[4:8] = np.minimum(X[4:8] + 1, 1.0)
    X[8:] = X[8:, :1, :1]
    for dtype, allowed in ((np.float64, 1e-5), (np.float32, 0.1)):
        net.to(torch.from_numpy(np.zeros(1, dtype)).dtype)
        together = sklrp.explain(net, X.astype(dtype), rule=rule, target=1, batch_size=12)
        size = np.abs(together).max((1, 2), keepdims=True)
        for batch_size in (1, 5):
            alone = sklrp.explain(net, X.astype(dtype), rule=rule, target=1, batch_size=batch_size)
            assert (np.abs(alone - together) / size).max() < allowed


def _pool(layer, x, nonnegative, rectified=False):
    """Return what the handler of a pooling returns: its output, and the pull."""
    handler = find_entry(layer).handler
    step = Step("pool", layer, handler, rectified=rectified)
    return handler(step, Signal(x, nonnegative=nonnegative))


LAYOUTS = {"first": torch.contiguous_format, "last": torch.channels_last}


@pytest.mark.parametrize("channels", LAYOUTS)
@pytest.mark.parametrize("shape", [(7, 9), (6, 10)])  # with rows left over, and without
@pytest.mark.parametrize(
    "layer",
    [
        *(nn.MaxPool2d(kernel) for kernel in (1, 2, (3, 2), 5)),
        *(nn.MaxPool2d(2, padding=1), nn.MaxPool2d(3, 2, padding=1), nn.MaxPool2d(2, dilation=2)),
        *(nn.MaxPool2d(3, 2, ceil_mode=True), nn.MaxPool2d((1, 3), padding=(0, 1))),
        *(nn.AdaptiveMaxPool2d(3), nn.AdaptiveMaxPool2d((1, None))),
    ],
    ids=str,
)
def test_windows_share_as_by_hand(layer, shape, channels):
    rng = np.random.default_rng(0)
    # Signed values, and positive ones.
    for low, n_targets in ((-2, 1), (1, 2)):
        x = torch.tensor(rng.integers(low, 4, (2, 2, *shape)).astype(float))
        relevance = torch.tensor(rng.normal(size=(n_targets, *layer(x).shape)))
        laid = x.clone(memory_format=LAYOUTS[channels])
        out, pull = _pool(layer, laid, low > 0)
        assert_close(out.x.numpy(), layer(x).numpy())
        if 1 not in out.x.shape:
            assert out.x.is_contiguous(memory_format=LAYOUTS[channels])
        passed = pull(relevance, None)
        for target in range(n_targets):
            assert_close(passed[target].numpy(), _share_by_hand(layer, x, relevance[target]))
        assert torch.equal(laid, x)


def _weigh_by_hand(values, size, zeros_share):
    """Weigh the values of windows, along the last axis, beside the largest of each."""
    largest, rounding = values.max(-1, keepdims=True), size * 2.0**-52
    with np.errstate(invalid="ignore"):  # of two that are infinite
        smaller = np.maximum(largest - 64 * rounding, -np.inf if zeros_share else 0.0)
        weights = np.clip((values - smaller) / (48 * rounding), 0, 1)
    return np.where(np.isinf(size), values == largest, weights)


TILES = {
    "rows and columns": (nn.MaxPool2d((3, 2)), (2, 3, 9, 8)),
    "left over": (nn.MaxPool2d((2, 3)), (2, 3, 5, 10)),
    "columns": (nn.MaxPool2d((1, 2)), (2, 3, 2, 6)),
    "rows": (nn.MaxPool2d((2, 1)), (2, 3, 4, 3)),
    "one axis": (nn.MaxPool1d(4), (2, 3, 16)),
    "three axes": (nn.MaxPool3d((2, 3, 2)), (2, 3, 4, 9, 6)),
}


@pytest.mark.parametrize("kind", ["signed", "rectified", "infinite"])
@pytest.mark.parametrize("is_last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("name", TILES)
def test_what_is_nearly_equal_shares_in_part(name, is_last, kind):
    layer, shape = TILES[name]
    rectified = kind == "rectified"
    rng = np.random.default_rng(0)
    # Few levels, and of each value some roundings less; two sizes, whose thresholds are exact.
    x = rng.integers(0 if rectified else -2, 3, shape) * (
        1 - rng.integers(0, 90, shape) * 2.0**-52
    )
    x[:, 0].reshape(2, -1)[:, 0] = 2.0
    x[:, 1] *= 2.0**-50
    x[1] *= 64
    if kind == "infinite":
        x[0, 0].flat[[0, 1]] = np.inf
    kernel = np.atleast_1d(layer.kernel_size)
    n_windows = [n // k for n, k in zip(shape[2:], kernel, strict=True)]
    relevance = rng.normal(size=(2, 2, 3, *n_windows))
    relevance *= layer(torch.from_numpy(x)).numpy() != 0  # none comes to a window of zeros

    expected = np.zeros((2, *shape))
    size = np.abs(x).reshape(2, 1, -1).max(-1, keepdims=True)
    for window in np.ndindex(*n_windows):
        here = (..., *(slice(i * k, i * k + k) for i, k in zip(window, kernel, strict=True)))
        weights = _weigh_by_hand(x[here].reshape(2, 3, -1), size, not rectified)
        shares = weights / np.maximum(weights.sum(-1, keepdims=True), 1e-300)
        parts = relevance[(..., *window)][..., None] * shares
        expected[here] = parts.reshape(expected[here].shape)

    laid = torch.from_numpy(x)
    if is_last:
        laid = laid.movedim(1, -1).contiguous().movedim(-1, 1)
    for samples in (slice(2), slice(1), slice(1, 2)):  # in a batch, and one by one
        _, pull = _pool(layer, laid[samples], rectified, rectified=rectified)
        for n_targets in (1, 2):
            passed = pull(torch.from_numpy(relevance[:n_targets, samples]), None)
            assert_close(passed.numpy(), expected[:n_targets, samples])
            assert passed[0].stride()[1:] == laid.stride()[1:]


@pytest.mark.parametrize("channels", LAYOUTS)
def test_the_largest_value_may_lie_beside_all_windows(channels):
    # What rounds alike is told by the largest value of the sample, wherever that is.
    x = torch.ones(1, 1, 5, 5)
    x[0, 0, 0, 0] -= 1e-4
    layer, relevance = nn.MaxPool2d(2), torch.ones(1, 1, 1, 2, 2)
    laid = x.repeat(1, 4, 1, 1).contiguous(memory_format=LAYOUTS[channels])
    for corner, equal in ((1.0, False), (1e4, True)):
        laid[..., 4, 4] = corner
        _, pull = _pool(layer, laid, True)
        assert (pull(relevance.expand(1, 1, 4, 2, 2), None)[..., 0, 0].max() > 0) == equal
