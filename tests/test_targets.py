"""Targets on outputs of any shape: the engine against gradients and sums, and what is refused.

Without biases and with epsilon 0 the epsilon rule on ReLU networks is gradient times input, which
autograd gives independently of the engine.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import pytest
import torch
from skorch import NeuralNetRegressor
from torch import nn

import sklrp

SHAPE = (2, 8, 8)


class UNet(nn.Module):
    """A U-Net with one skip connection, of its input's size or twice as fine."""

    def __init__(self, n_out=2, scale=1, bias=False):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=bias)
        self.down = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=bias)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2, bias=bias)
        self.fine = nn.Upsample(scale_factor=scale) if scale > 1 else nn.Identity()
        self.last = nn.Conv2d(8, n_out, 3, padding=1, bias=bias)

    def forward(self, x):
        skip = torch.relu(self.stem(x))
        deep = torch.relu(self.up(torch.relu(self.down(skip))))
        return self.last(self.fine(torch.cat([skip, deep], dim=1)))


class Downscaling(UNet):
    """From coarse fields of three variables to one field, twice as fine."""

    def __init__(self):
        super().__init__(n_out=1, scale=2)

    def forward(self, x):
        return super().forward(x)[:, 0]


class Segmentation(UNet):
    """A probability of each of two classes in each cell."""

    def forward(self, x):
        return super().forward(x).softmax(dim=1)


def build(network):
    """Return a network with the weights that its seed gives."""
    torch.manual_seed(0)
    for layer in network.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    return network.double()


def samples(n=5, shape=(3, 8, 8)):
    return np.random.default_rng(1).normal(size=(n, *shape))


def relevance_of(network, X, target, **params):
    options = {"rule": "epsilon", "epsilon": 0.0, "return_details": True, **params}
    return sklrp.explain(network, X, target=target, **options)


def gradient_times_input(network, X, function):
    """Return what autograd makes of a function of the output, and the function's values."""
    x = torch.tensor(X, requires_grad=True)
    values = function(network(x))
    return X * torch.autograd.grad(values.sum(), x)[0].numpy(), values.detach().numpy()


def region():
    mask = np.zeros(SHAPE, dtype=bool)
    mask[1, 2:4, 3:6] = True
    return mask


WEIGHTS = np.random.default_rng(2).normal(size=SHAPE)


@pytest.mark.sweep(3)
@pytest.mark.parametrize(
    ("target", "function"),
    [
        ((1, 2, 7), lambda y: y[:, 1, 2, 7]),
        ((np.int64(0), 0, 0), lambda y: y[:, 0, 0, 0]),
        (region(), lambda y: y[:, 1, 2:4, 3:6].sum((1, 2))),
        (torch.from_numpy(region()), lambda y: y[:, 1, 2:4, 3:6].sum((1, 2))),
        (region() / region().sum(), lambda y: y[:, 1, 2:4, 3:6].mean((1, 2))),
        (WEIGHTS, lambda y: (y * torch.from_numpy(WEIGHTS)).sum((1, 2, 3))),
        (region().astype(int), lambda y: y[:, 1, 2:4, 3:6].sum((1, 2))),
        (lambda y: y[:, 1].amax((1, 2)), lambda y: y[:, 1].amax((1, 2))),
        (lambda y: y[:, 0].relu().mean((1, 2)), lambda y: y[:, 0].relu().mean((1, 2))),
    ],
    ids=["cell", "corner", "mask", "tensor", "mean", "weights", "integers", "maximum", "relu"],
)
@pytest.mark.parametrize("batch_size", [None, 1])
def test_targets_of_a_unet(target, function, batch_size):
    network, X = build(UNet()), samples()
    relevance, details = relevance_of(network, X, target, batch_size=batch_size, check=True)
    expected, values = gradient_times_input(network, X, function)
    np.testing.assert_allclose(relevance, expected, atol=1e-12)
    np.testing.assert_allclose(details.score, values, atol=1e-12)
    np.testing.assert_allclose(relevance.sum((1, 2, 3)), values, atol=1e-12)
    np.testing.assert_allclose(details.rest, 0, atol=1e-12)
    assert details.target is target


@pytest.mark.parametrize("rule", ["epsilon", "zero"])
def test_a_region_is_the_sum_of_its_cells(rule):
    """What no forward or gradient of the region as a whole is asked for."""
    network, X = build(Downscaling()), samples()
    mask = np.zeros((16, 16), dtype=bool)
    mask[5:8, 10:12] = True
    whole, details = relevance_of(network, X, mask, rule=rule)
    cells = [relevance_of(network, X, tuple(cell), rule=rule) for cell in np.argwhere(mask)]
    assert np.abs(whole).max() > 0.01
    np.testing.assert_allclose(whole, sum(r for r, _ in cells), atol=1e-12)
    np.testing.assert_allclose(details.score, sum(d.score for _, d in cells), atol=1e-12)


def test_with_biases_details_balance():
    network, X = build(UNet(bias=True)), samples()
    relevance, details = relevance_of(network, X, region(), rule="auto", check=True)
    kept = sum(
        layer[cause]
        for layer in details.layers
        for cause in ("bias", "epsilon", "padding", "initial_state", "dropped")
    )
    np.testing.assert_allclose(relevance.sum((1, 2, 3)) + kept, details.score, atol=1e-9)


def test_a_segmentation_is_explained_before_its_softmax():
    X = samples()
    target = (1, 4, 4)
    relevance, details = relevance_of(build(Segmentation()), X, target)
    expected, logits = gradient_times_input(build(UNet()), X, lambda y: y[:, 1, 4, 4])
    assert details.head == "softmax"
    np.testing.assert_allclose(relevance, expected, atol=1e-12)
    np.testing.assert_allclose(details.score, logits, atol=1e-12)


def test_targets_have_the_shape_that_is_returned():
    """Behind the sigmoid that is stepped over, the axis of a single channel is dropped."""

    class Ocean(UNet):
        def forward(self, x):
            return torch.sigmoid(super().forward(x)[:, :1]).squeeze(1)

    X, region = samples(), np.zeros((8, 8), dtype=bool)
    region[2:4, 5:] = True
    for target, function in (
        ((3, 6), lambda y: y[:, 0, 3, 6]),
        (region, lambda y: y[:, 0][:, region].sum(1)),
        (lambda y: y[:, 3].amax(1), lambda y: y[:, 0, 3].amax(1)),
    ):
        relevance, details = relevance_of(build(Ocean()), X, target)
        expected, logits = gradient_times_input(build(UNet()), X, function)
        np.testing.assert_allclose(relevance, expected, atol=1e-12)
        np.testing.assert_allclose(details.score, logits, atol=1e-12)
        assert details.head == "sigmoid"
    with pytest.raises(ValueError, match="a tuple of 2 indices"):
        relevance_of(build(Ocean()), X, (0, 3, 6))


@pytest.mark.parametrize("tail", [
    [nn.Sigmoid(), nn.Flatten(1, 2)],
    [nn.Softmax(1), nn.Dropout(0.5), nn.Flatten()],
    [nn.LogSoftmax(1), nn.Flatten(), nn.Unflatten(1, (2, 64))],
])  # fmt: skip
def test_a_chain_is_explained_as_the_network_around_it(tail):
    """Behind the head that is stepped over, layers lay the output out anew."""

    class Around(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x)

    body = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 2, 1)]
    logits, chain = build(nn.Sequential(*body)), nn.Sequential(*body, *tail).eval()
    X = samples()
    with torch.no_grad():
        shape = chain(torch.from_numpy(X)).shape[1:]
    weights = np.random.default_rng(2).normal(size=shape)
    flat = torch.from_numpy(weights.ravel())
    expected, score = gradient_times_input(logits, X, lambda y: y.flatten(1) @ flat)
    for network in (chain, Around(chain)):
        relevance, details = relevance_of(network, X, weights, check=True)
        np.testing.assert_allclose(relevance, expected, atol=1e-12)
        np.testing.assert_allclose(details.score, score, atol=1e-12)
    assert "stepped over" in repr(sklrp.plan(chain))


def test_land_that_a_network_returns_as_nan():
    class Ocean(UNet):
        def forward(self, x):
            fields = super().forward(x)
            land = torch.zeros(8, 8, dtype=torch.bool)
            land[:, 0] = True
            return fields.masked_fill(land, torch.nan)

    with pytest.raises(ValueError, match=r"16 of its 128 values are NaN in all samples.*zeros"):
        relevance_of(build(Ocean()), samples(), (1, 4, 4))


def test_rest_of_a_function_that_is_not_homogeneous():
    """Of f(y) = y² + 3 output times gradient is 2 y²: the rest is 3 - y²."""
    network, X = build(UNet()), samples()
    relevance, details = relevance_of(network, X, lambda y: y[:, 0, 1, 1] ** 2 + 3)
    _, cell = gradient_times_input(network, X, lambda y: y[:, 0, 1, 1])
    np.testing.assert_allclose(details.score, cell**2 + 3, atol=1e-12)
    np.testing.assert_allclose(relevance.sum((1, 2, 3)), 2 * cell**2, atol=1e-12)
    np.testing.assert_allclose(details.rest, 3 - cell**2, atol=1e-12)


def test_how_samples_are_shared_out_changes_nothing():
    network, X = build(Downscaling()), samples(6)
    weights = np.random.default_rng(3).normal(size=(16, 16))
    for target in (weights, lambda y: y.amax((1, 2))):
        whole, _ = relevance_of(network, X, target, batch_size=6)
        shared, _ = relevance_of(network, X, target, batch_size=2, n_jobs=2)
        np.testing.assert_allclose(shared, whole, atol=1e-13)


def test_all_of_a_small_grid():
    network = build(nn.Sequential(nn.Linear(5, 6, bias=False), nn.Unflatten(1, (2, 3))))
    X = samples(4, (5,))
    every, details = relevance_of(network, X, "all")
    cells = [relevance_of(network, X, (i, j))[0] for i in range(2) for j in range(3)]
    assert every.shape == (4, 6, 5)
    assert details.target.tolist()[0] == list(range(6))
    np.testing.assert_allclose(every, np.stack(cells, axis=1), atol=1e-14)


@pytest.mark.parametrize("target", [[0.5, 2.0, -1.0], np.array([True, False, True])], ids=repr)
def test_weights_and_masks_over_classes(target):
    network, X = build(nn.Linear(5, 3, bias=False)), samples(4, (5,))
    relevance, _ = relevance_of(network, X, target)
    weights = network.weight.detach().numpy().T @ np.asarray(target, dtype=float)
    np.testing.assert_allclose(relevance, X * weights, atol=1e-14)


def test_a_function_of_a_classifiers_logits():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4))
    model = sklrp.MLPClassifier((8,), random_state=0, max_epochs=3)
    model.fit(X, np.array(["a", "b", "c"])[rng.integers(3, size=60)])
    relevance = model.explain(X, target=lambda y: y[:, 1] - y[:, 0], epsilon=0.0)
    each = [model.explain(X, target=label, epsilon=0.0) for label in "ab"]
    np.testing.assert_allclose(relevance, each[1] - each[0], atol=1e-5)


# Several outputs by name


class Pair(NamedTuple):
    mean: torch.Tensor
    field: torch.Tensor


@dataclasses.dataclass
class Data:
    mean: torch.Tensor
    field: torch.Tensor


class Named(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.unet = kind, UNet(bias=False)

    def forward(self, x):
        field = self.unet(x)
        return self.kind(mean=field.mean((2, 3)), field=field)


@pytest.mark.parametrize("kind", [dict, Pair, Data])
@pytest.mark.parametrize(
    ("target", "function"),
    [
        (("field", 1, 2, 3), lambda out: out[:, 1, 2, 3]),
        (("field", (1, 2, 3)), lambda out: out[:, 1, 2, 3]),
        (("field", region()), lambda out: out[:, 1, 2:4, 3:6].sum((1, 2))),
        (("mean", 1), lambda out: out[:, 1].mean((1, 2))),
        ("mean", lambda out: out.mean((2, 3)).amax(1)),
        (("mean", lambda m: m.sum(1)), lambda out: out.mean((2, 3)).sum(1)),
    ],
    ids=["field", "nested", "mask", "index", "name", "function"],
)
def test_outputs_by_name(kind, target, function):
    network, X = build(Named(kind)), samples()
    relevance, details = relevance_of(network, X, target, check=True)
    expected, values = gradient_times_input(network.unet, X, function)
    np.testing.assert_allclose(relevance, expected, atol=1e-12)
    np.testing.assert_allclose(details.score, values, atol=1e-12)
    is_index = target in ("mean", ("mean", 1)) if not isinstance(target[1], np.ndarray) else False
    assert details.target.tolist() == [1] * 5 if is_index else details.target is target


def test_plans_of_outputs_by_name():
    network, X = build(Named(dict)), samples(2)
    with pytest.raises(TypeError, match="begin target with a name"):
        sklrp.plan(network, "epsilon", X)
    of_field = sklrp.plan(network, "epsilon", X, target=("field", 0, 0, 0))
    assert "unet.last" in repr(of_field)


# What is refused


NAN = np.full(SHAPE, np.nan)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, r"target=None, but the network returns 128 values of shape \(2, 8, 8\)"),
        ("all", r"a map of each of 128 outputs"),
        (3, r"must be a tuple of 3 indices"),
        ([1, 2, 3, 4, 5], r"must be a tuple of 3 indices"),
        ((1, 8, 0), r"outside the output.*index 8 of axis 1 must lie in 0\.\.7"),
        ((1, 0, -1), r"index -1 of axis 2 must lie in 0\.\.7"),
        ((1, 2), r"a tuple of 3 indices"),
        ((1, 2, True), r"a tuple of 3 indices"),
        ((1, 2, 0.0), r"a tuple of 3 indices"),
        (region()[0], r"output's shape \(2, 8, 8\) as a boolean mask over it, got the shape \(8"),
        (np.ones((8, 8, 2)), r"output's shape \(2, 8, 8\) as weights"),
        (region() & False, r"False everywhere, an empty region"),
        (np.zeros(SHAPE), r"0 everywhere"),
        (NAN, r"finite numbers alone"),
        ("field", r"name an output.*'field'; the network returns a Tensor, no names"),
        (lambda y: y.sum(), r"return one of shape \(5,\), a number for each sample; got \(\)"),
        (lambda y: y.sum((2, 3)), r"got \(5, 2\)"),
        (lambda y: y.detach().numpy().sum((1, 2, 3)), r"got ndarray"),
        (
            lambda y: y[:, 2].sum((1, 2)),
            r"failed with IndexError: .* It takes a tensor of",
        ),
        (lambda y: np.asarray(y)[:, 0, 0, 0], r"failed with RuntimeError: .* in torch's operat"),
        (lambda y: y.field.sum((1, 2, 3)), r"failed with AttributeError"),
        (lambda y: y.detach().sum((1, 2, 3)), r"does not depend on the output"),
        (lambda y: (y - y.mean(0)).abs().sum((1, 2, 3)), r"mixes samples"),
        (lambda y: (y * 0).sqrt().sum((1, 2, 3)), r"NaN or infinite"),
    ],
)
def test_bad_targets_of_a_grid(target, message):
    with pytest.raises(ValueError, match=message):
        relevance_of(build(UNet()), samples(), target)


def test_functions_that_fail_are_told_once():
    """Of a regressor the function is inside another."""
    X = samples(6, (4,))
    reg = sklrp.MLPRegressor((3,), max_epochs=1, random_state=0).fit(X, X[:, :2])
    for function, message in ((lambda y: y[:, 5], "failed with"), (lambda y: y, "must return")):
        with pytest.raises(ValueError, match=message) as found:
            reg.explain(X, target=function)
        assert str(found.value).count("a function of the output") == 1


def test_an_index_for_each_sample_of_batches_by_name():
    """Batches of a generator take their own part of the indices."""
    network, X, each = build(Named(dict)), samples(7), np.arange(7) % 2
    batches = (X[i : i + 3] for i in range(0, 7, 3))
    expected = relevance_of(network, X, ("mean", each))[0]
    np.testing.assert_array_equal(relevance_of(network, batches, ("mean", each))[0], expected)
    assert np.abs(expected - relevance_of(network, X, ("mean", 0))[0]).max() > 1e-6
    with pytest.raises(ValueError, match="target has the length 6"):
        relevance_of(network, (X[i : i + 3] for i in range(0, 7, 3)), ("mean", each[:6]))


@pytest.mark.parametrize("target", [{"lat": 3}, ("mean", {"lat": 3})])
def test_coordinates_are_for_fields(target):
    with pytest.raises(TypeError, match=r"for sklrp\.geo\.explain.*give a mask"):
        relevance_of(build(Named(dict)) if "mean" in target else build(UNet()), samples(), target)


def test_a_single_sample_does_not_hide_that_samples_mix():
    with pytest.raises(ValueError, match="mixes samples"):
        relevance_of(build(UNet()), samples(1), lambda y: y.sum((1, 2, 3)) - y.mean())


@pytest.mark.parametrize(("target", "message"), [
    ("hidden", r"got 'hidden'; the network returns 'mean', 'field'"),
    (("mean", 2), r"must lie in 0\.\.1"),
    ("field", r"128 values"),
])  # fmt: skip
def test_bad_names(target, message):
    with pytest.raises(ValueError, match=message):
        relevance_of(build(Named(dict)), samples(), target)


@pytest.mark.parametrize("target", [(1, 2, 3), region(), lambda y: y.sum((1, 2, 3))])
def test_no_contrast_without_rivals(target):
    with pytest.raises(ValueError, match="contrast=True subtracts the largest"):
        relevance_of(build(UNet()), samples(), target, contrast=True)


def test_whole_floats_that_may_be_indices_are_refused():
    network, X = build(nn.Linear(5, 3, bias=False)), samples(3, (5,))
    with pytest.raises(ValueError, match="target must be"):
        relevance_of(network, X, [0.0, 1.0, 2.0])


def test_samples_must_come_first():
    class Turned(UNet):
        def forward(self, x):
            return super().forward(x).transpose(0, 1)

    with pytest.raises(ValueError, match="permute its output"):
        relevance_of(build(Turned()), samples(), (1, 2, 3))


def test_relevance_features_of_a_region():
    """A net with a field as output is trained, and a region of it gives the features."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3, 8, 8)).astype(np.float32)
    net = NeuralNetRegressor(
        Downscaling(), max_epochs=1, lr=1e-3, verbose=0, train_split=None, criterion=nn.MSELoss
    )
    mask = np.zeros((16, 16), dtype=bool)
    mask[5:8, 10:12] = True
    transformer = sklrp.RelevanceTransformer(net, target=mask, rule="epsilon")
    features = transformer.fit_transform(X, rng.normal(size=(40, 16, 16)).astype(np.float32))
    expected = sklrp.explain(transformer.estimator_, X, target=mask, rule="epsilon")
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(features, expected.reshape(40, -1), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("target", ["mean", ("mean", 1), ("field", 1, 2, 3), ("mean", "all")])
def test_relevance_features_of_outputs_by_name(target):
    network, X = build(Named(dict)), samples(6)
    transformer = sklrp.RelevanceTransformer(network, target=target)
    found = transformer.fit(X).transform(X)
    expected = sklrp.explain(network, X, target=target)
    np.testing.assert_array_equal(found, expected.reshape(6, -1))
    names = transformer.get_feature_names_out()
    assert len(names) == found.shape[1] == len(set(names))
    if "all" in target:
        assert (names[0], names[-1]) == ("output0_x0", "output1_x191")
        with pytest.raises(ValueError, match="a map for each class: draw one class at a time"):
            sklrp.plotting.RelevanceDisplay.from_estimator(network, X, target=target)


def test_errors_show_few_of_many_labels():
    """An index outside the output is told once, and not for each of many samples."""
    network = nn.Sequential(nn.Linear(4, 3)).double()
    with pytest.raises(ValueError, match=r"got 50 values, 7, 1\.$"):
        sklrp.explain(network, samples(50, (4,)), target=[7, 1] * 25)
    with pytest.raises(ValueError, match=r"got 7\.$"):
        sklrp.explain(network, samples(50, (4,)), target=7)
