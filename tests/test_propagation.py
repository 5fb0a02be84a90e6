"""Whole networks against the reference, and how `explain` treats its callers."""

from __future__ import annotations

import copy
import pickle
import re
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.special import gammainc
from sklearn.exceptions import NotFittedError
from skorch import NeuralNetClassifier
from torch import nn
from torch.nn import functional as F

import sklrp
from sklrp._torch import TorchDispatchMode
from sklrp.composites import Composite
from sklrp.modules import StatePooling
from sklrp.propagation import affine, explain, register
from sklrp.propagation.recording.as_layers import LAYERS, to_layer
from sklrp.rules import AlphaBeta, Epsilon, Flat, Gamma, WSquare, ZBox, Zero, ZPlus
from tests.helpers.comparing import assert_close, assert_same_to_rounding
from tests.helpers.parameters import randomised
from tests.helpers.reference import assert_explained, explain_sample, max_pool_shares
from tests.helpers.reference import explain as reference_explain

pytestmark = pytest.mark.filterwarnings("ignore:The flat rule on the dense first layer")

RULES = [
    Zero(),
    Epsilon(epsilon=0.1),
    Gamma(),
    AlphaBeta(),
    ZPlus(),
    WSquare(),
    Flat(),
    ZBox(low=-5.0, high=5.0),
]


def mlp(*activations, bias=True, seed=0):
    """Dense network on 4 features with 3 scores."""
    layers, width = [], 4
    for activation in activations or (nn.ReLU(),):
        layers += [nn.Linear(width, 5), activation]
        width = 5
    return randomised(nn.Sequential(*layers, nn.Linear(width, 3)), seed, bias)


def cnn2d(*layers, shape=(2, 6, 6), outputs=2, seed=0, bias=True):
    """Convolution, ReLU, `layers`, flatten and a dense head on images of `shape`."""
    body = nn.Sequential(nn.Conv2d(shape[0], 2, 3, padding=1), nn.ReLU(), *layers, nn.Flatten())
    with torch.no_grad():
        width = body.double().eval()(torch.zeros(2, *shape, dtype=torch.float64)).shape[1]
    return randomised(nn.Sequential(*body, nn.Linear(width, outputs)), seed, bias)


def cnn1d(*layers, shape=(1, 9), seed=0):
    body = nn.Sequential(nn.Conv1d(shape[0], 2, 2), nn.Tanh(), *layers, nn.Flatten())
    with torch.no_grad():
        width = body.double().eval()(torch.zeros(2, *shape, dtype=torch.float64)).shape[1]
    return randomised(nn.Sequential(*body, nn.Linear(width, 2)), seed)


def cnn3d(*layers, shape=(1, 4, 4, 4), seed=0):
    body = nn.Sequential(nn.Conv3d(shape[0], 2, 2), nn.Tanh(), *layers, nn.Flatten())
    with torch.no_grad():
        width = body.double().eval()(torch.zeros(2, *shape, dtype=torch.float64)).shape[1]
    return randomised(nn.Sequential(*body, nn.Linear(width, 2)), seed)


def samples(shape, n_samples=2, seed=1):
    shape = (shape,) if isinstance(shape, int) else shape
    return np.random.default_rng(seed).normal(size=(n_samples, *shape))


def everywhere(rule):
    return lambda name, module: rule


# --- Whole networks against the reference ---------------------------------------------------

ACTIVATIONS = [
    nn.ReLU(),
    nn.ReLU(inplace=True),
    nn.LeakyReLU(0.1),
    nn.LeakyReLU(0.1, inplace=True),
    nn.ELU(),
    nn.GELU(),
    nn.GELU("tanh"),
    nn.SiLU(),
    nn.Tanh(),
    nn.Sigmoid(),
    nn.Identity(),
]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_activations(activation):
    """Elementwise activations hand relevance on unchanged."""
    for rule in (Epsilon(), AlphaBeta()):
        assert_explained(mlp(activation, activation), samples(4), rule, everywhere(rule))


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("bias", [True, False])
def test_rules_on_a_dense_network(rule, bias):
    """Signed input, then inputs known to be nonnegative."""
    model = mlp(nn.ReLU(), nn.Sigmoid(), nn.Tanh(), bias=bias)
    assert_explained(model, samples(4), rule, everywhere(rule), epsilon=1e-4)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_rules_on_a_convolutional_network(rule):
    model = cnn2d(nn.MaxPool2d(2), nn.Conv2d(2, 2, 2), nn.ReLU(), shape=(1, 5, 6))
    assert_explained(model, samples((1, 5, 6)), rule, everywhere(rule), epsilon=1e-4)


POOLS_2D = [
    nn.MaxPool2d(2),
    nn.MaxPool2d(3, stride=1),
    nn.MaxPool2d(3, stride=2, padding=1),
    nn.MaxPool2d((3, 2), stride=(2, 1), padding=(1, 0), ceil_mode=True),
    nn.MaxPool2d(2, stride=3, ceil_mode=True),
    nn.MaxPool2d(2, dilation=2, stride=1),
    nn.AvgPool2d(2),
    nn.AvgPool2d(3, stride=1),
    nn.AvgPool2d(3, stride=2, padding=1),
    nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
    nn.AvgPool2d(4, stride=3, ceil_mode=True),
    nn.AvgPool2d(2, divisor_override=3),
    nn.AdaptiveMaxPool2d(1),
    nn.AdaptiveMaxPool2d((4, 5)),
    nn.AdaptiveMaxPool2d((None, 4)),
    nn.AdaptiveAvgPool2d(1),
    nn.AdaptiveAvgPool2d((4, 5)),
    nn.AdaptiveAvgPool2d((None, 4)),
]


@pytest.mark.parametrize("pool", POOLS_2D, ids=repr)
def test_pooling_2d(pool):
    """Overlapping, padded, dilated, rounded up and adaptive windows."""
    assert_explained(
        cnn2d(pool), samples((2, 6, 6)), Epsilon(), everywhere(Epsilon()), epsilon=1e-3
    )
    # over signed values, where averages may nearly cancel
    model = cnn2d(nn.Conv2d(2, 2, 1), pool)
    assert_explained(model, samples((2, 6, 6), 1), ZPlus(), everywhere(ZPlus()))


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool1d(3, stride=2, padding=1, ceil_mode=True),
        nn.MaxPool1d(3, stride=1, dilation=2),
        nn.AvgPool1d(3, stride=2, padding=1),
        nn.AdaptiveMaxPool1d(3),
        nn.AdaptiveAvgPool1d(3),
    ],
    ids=repr,
)
def test_pooling_1d(pool):
    assert_explained(cnn1d(pool), samples((1, 9)), Epsilon(), everywhere(Epsilon()))


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool3d(2, stride=1),
        nn.AvgPool3d(2, stride=1, padding=1),
        nn.AdaptiveMaxPool3d(2),
        nn.AdaptiveAvgPool3d((1, 2, 3)),
    ],
    ids=repr,
)
def test_pooling_3d(pool):
    assert_explained(cnn3d(pool), samples((1, 4, 4, 4), 1), Epsilon(), everywhere(Epsilon()))


@pytest.mark.parametrize("pool", [p for p in POOLS_2D if "Max" in repr(p)], ids=repr)
def test_equal_values_of_a_window_share(pool):
    """Which of them is the winner would depend on rounding."""
    model = nn.Sequential(pool, nn.Flatten())
    x = np.round(samples((2, 6, 6), 1)[0])  # many equal values
    _, shape = max_pool_shares(pool, x)
    head = nn.Linear(int(np.prod(shape)), 2)
    model = randomised(nn.Sequential(*model, head))
    for signal in (x, np.zeros_like(x), -np.ones_like(x)):
        assert_explained(model, signal[None], Epsilon(), everywhere(Epsilon()))


NORM_NETWORKS = {
    "conv-bn": (cnn2d(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.ReLU()), (2, 6, 6)),
    "conv-no-bias-bn-not-affine": (
        cnn2d(nn.Conv2d(2, 3, 2, bias=False), nn.BatchNorm2d(3, affine=False)),
        (2, 6, 6),
    ),
    "bn-conv": (cnn2d(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3, stride=2), nn.ReLU()), (2, 6, 6)),
    "bn-conv-bn": (
        cnn2d(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 2, bias=False), nn.BatchNorm2d(3)),
        (2, 6, 6),
    ),
    "bn-padded-conv": (cnn2d(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3, padding=1)), (2, 6, 6)),
    "bn-same-conv": (cnn2d(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3, padding="same")), (2, 6, 6)),
    "bn-grouped-conv": (cnn2d(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3, groups=2)), (2, 6, 6)),
    "bn-circular-conv": (
        cnn2d(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")),
        (2, 6, 6),
    ),
    "bn-flatten": (cnn2d(nn.BatchNorm2d(2)), (2, 6, 6)),
    "pool-bn-relu": (cnn2d(nn.MaxPool2d(2), nn.BatchNorm2d(2), nn.ReLU()), (2, 6, 6)),
    "two-bn": (cnn2d(nn.Conv2d(2, 2, 2), nn.BatchNorm2d(2), nn.BatchNorm2d(2)), (2, 6, 6)),
    "conv1d-bn": (cnn1d(nn.Conv1d(2, 3, 2), nn.BatchNorm1d(3)), (1, 9)),
    "conv3d-bn": (cnn3d(nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3)), (1, 4, 4, 4)),
    "linear-bn": (
        randomised(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))),
        (4,),
    ),
    "linear-relu-bn-linear": (
        randomised(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.BatchNorm1d(5), nn.Linear(5, 2))),
        (4,),
    ),
    "bn-first": (
        randomised(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 5), nn.Linear(5, 2))),
        (4,),
    ),
    "bn-last": (randomised(nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))), (4,)),
    "nested": (
        randomised(
            nn.Sequential(
                nn.Sequential(nn.Linear(4, 5)),
                nn.Sequential(nn.BatchNorm1d(5), nn.ReLU()),
                nn.Sequential(nn.BatchNorm1d(5)),
                nn.Sequential(nn.Linear(5, 2)),
            )
        ),
        (4,),
    ),
}


@pytest.mark.sweep(6)
@pytest.mark.parametrize("name", NORM_NETWORKS)
def test_batch_normalisation(name):
    """Merged into the layer before, else into the one after, else on its own."""
    model, shape = NORM_NETWORKS[name]
    for rule in (Epsilon(), AlphaBeta(epsilon=0.01), WSquare()):
        assert_explained(model, samples(shape, 1), rule, everywhere(rule))
    model.train()  # explained by the running statistics all the same
    state = copy.deepcopy(model.state_dict())
    relevance = explain(model, samples(shape))
    assert model.training
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key])
    assert_same_to_rounding(relevance, explain(model.eval(), samples(shape)))


def test_padding_layers():
    """Relevance on padded values that no input made is kept as padding."""
    for pad in (nn.ZeroPad2d(1), nn.ConstantPad2d((1, 0, 2, 1), -0.5), nn.ReflectionPad2d(2)):
        model = cnn2d(pad, nn.Conv2d(2, 2, 3))
        assert_explained(model, samples((2, 6, 6), 1), Epsilon(), everywhere(Epsilon()))


@pytest.mark.parametrize("rule", [Flat(), WSquare(), Epsilon(), ZBox(-3.0, 4.0)])
@pytest.mark.parametrize(
    ("pad", "mode"),
    [(nn.ZeroPad2d, "zeros"), (nn.ReflectionPad2d, "reflect"), (nn.CircularPad2d, "circular")],
)
def test_padding_layer_is_padding_of_the_convolution(rule, pad, mode):
    """No rule counts padding as an input, wherever it is done."""
    conv = nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode)
    rest = [nn.ReLU(), nn.Flatten(), nn.Linear(75, 2)]
    within = randomised(nn.Sequential(conv, *rest))
    bare = nn.Conv2d(2, 3, 3).double()
    bare.load_state_dict(conv.state_dict())
    before = nn.Sequential(pad(1), bare, *rest)
    X = samples((2, 5, 5), 3)
    composite = Composite([("first", rule, "first"), ("rest", Epsilon(), "all")])
    found = explain(before, X, rule=composite, target="all", return_details=True)
    expected = explain(within, X, rule=composite, target="all")
    assert_close(found[0], expected)
    np.testing.assert_allclose(found[1].layers[0].padding, 0, atol=1e-12)


def test_nested_shared_and_dropped():
    """Nested blocks, one activation used twice, dropout in training mode, empty blocks."""
    relu = nn.ReLU()
    model = randomised(
        nn.Sequential(
            nn.Sequential(nn.Linear(4, 5), relu, nn.Dropout(0.9)),
            nn.Sequential(),
            nn.Sequential(nn.Sequential(nn.Linear(5, 5), relu), nn.Dropout(0.9)),
            nn.Identity(),
            nn.Linear(5, 3),
        )
    )
    for mode in (True, False):
        assert_explained(model.train(mode), samples(4), Gamma(), everywhere(Gamma()))


def test_one_layer_used_twice():
    layer = nn.Linear(4, 4)
    model = randomised(nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(4, 2)))
    X = samples(4)
    relevance = explain(model, X, target=1, rule="epsilon")
    assert_close(relevance, reference_explain(model, X, 1, Epsilon()))


def test_unflatten():
    model = randomised(
        nn.Sequential(
            nn.Unflatten(1, (1, 3, 4)),
            nn.Conv2d(1, 2, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(12, 2),
        )
    )
    assert_explained(model, samples(12), Gamma(), everywhere(Gamma()))


def test_bounds_in_the_shape_of_a_sample():
    """z-box: bounds of every value, also where the network reshapes its input, and read-only."""
    conv = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    conv = randomised(conv)
    flat = nn.Sequential(nn.Unflatten(1, (1, 3, 4)), *conv)
    X = samples(12)
    low = X.min(0) - np.linspace(0.1, 1.0, 12)
    high = X.max(0) + 0.5
    shaped = (low.reshape(1, 3, 4), high.reshape(1, 3, 4))
    low.flags.writeable = high.flags.writeable = False
    images = X.reshape(2, 1, 3, 4)
    first = Composite([("first", ZBox(*shaped), "first"), ("rest", Epsilon(), "all")])
    assert_explained(
        conv,
        images,
        first,
        lambda name, layer: ZBox(*shaped) if name == "0" else Epsilon(),
    )
    flat_first = Composite([("first", ZBox(low, high), "first"), ("rest", Epsilon(), "all")])
    assert_same_to_rounding(
        explain(flat, X, rule=flat_first, target="all").reshape(2, 2, 1, 3, 4),
        explain(conv, images, rule=first, target="all"),
    )
    with pytest.raises(ValueError, match=r"ZBox.*shape"):
        explain(flat, X, rule=Composite([("a", ZBox(low[:5], high[:5]), "all")]))


@pytest.mark.parametrize("head", [nn.Softmax(dim=1), nn.LogSoftmax(dim=-1)], ids=repr)
def test_softmax_at_the_end_is_stepped_over(head):
    model, X = mlp(), samples(4)
    expected, details = explain(model, X, return_details=True)
    for layers in ((head,), (nn.Sequential(nn.Identity(), head),), (head, nn.Identity())):
        relevance, stepped = explain(nn.Sequential(*model, *layers), X, return_details=True)
        assert_same_to_rounding(relevance, expected)
        assert_same_to_rounding(stepped.score, details.score)


def test_dead_relus():
    """A dead ReLU gets nothing from epsilon above it, but from w-square: it is kept in place."""
    model = mlp()
    with torch.no_grad():
        model[0].bias.fill_(-20.0)
    X = samples(4)
    above = Composite([("below", Epsilon(), "first"), ("above", WSquare(), "all")])
    assert_explained(model, X, above, lambda name, module: Epsilon() if name == "0" else WSquare())
    assert np.abs(explain(model, X, rule=above)).max() > 1e-6
    assert not np.abs(explain(model, X, rule="epsilon")).max()


@pytest.mark.parametrize("rule", [r for r in RULES if not isinstance(r, ZBox)], ids=repr)
def test_black_pixels_without_bias(rule):
    """0 / 0 passes nothing: no NaN with epsilon 0."""
    model = cnn2d(nn.AvgPool2d(2), bias=False)
    X = samples((2, 6, 6))
    X[0] = 0.0
    X[1, :, :4] = 0.0
    assert_explained(model, X, rule, everywhere(rule), epsilon=0.0)


def test_gradient_times_input():
    """With epsilon 0, piecewise linear networks are explained by gradient times input."""
    models = {
        "mlp": (mlp(nn.ReLU(), nn.LeakyReLU(0.2), nn.ReLU()), 4),
        "mlp-no-bias": (mlp(nn.ReLU(), nn.ReLU(), bias=False), 4),
        "cnn": (
            cnn2d(nn.MaxPool2d(2), nn.BatchNorm2d(2), nn.Conv2d(2, 3, 2), nn.AvgPool2d(2)),
            (2, 6, 6),
        ),
    }
    for model, shape in models.values():
        X = torch.from_numpy(samples(shape, 5)).requires_grad_()
        for target in range(2):
            (gradient,) = torch.autograd.grad(model(X)[:, target].sum(), X)
            expected = (gradient * X).detach().numpy()
            for rule in ("zero", "epsilon"):
                given = explain(model, X.detach().numpy(), target=target, rule=rule, epsilon=0.0)
                assert_close(given, expected)


def test_contrast():
    """The target's score minus the best other's, for every form of target."""
    model, X = mlp(nn.Tanh()), samples(4, 6)
    scores = model(torch.from_numpy(X)).detach().numpy()
    for t in range(3):
        others = np.delete(scores, t, axis=1).max(1)
        relevance, details = explain(
            model, X, target=t, contrast=True, rule="gamma", return_details=True
        )
        assert_close(details.score, scores[:, t] - others)
        for x, r in zip(X, relevance, strict=True):
            assert_close(r, explain_sample(model, x, t, Gamma(), contrast=True).relevance)
    everything = explain(model, X, target="all", contrast=True, rule="gamma")
    assert_close(everything[:, 2], relevance)
    assert_explained(model, X, Gamma(), everywhere(Gamma()), contrast=True)
    with pytest.raises(ValueError, match=r"contrast.*two outputs"):
        explain(mlp_of_one_score(), X, contrast=True)


# --- Targets, shapes, dtypes ----------------------------------------------------------------


def mlp_of_one_score():
    return randomised(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 1)))


def test_forms_of_target():
    model, X = mlp(), samples(4, 7)
    scores = model(torch.from_numpy(X)).detach().numpy()
    everything, details = explain(model, X, target="all", return_details=True)
    assert everything.shape == (7, 3, 4)
    np.testing.assert_array_equal(details.target, np.tile(np.arange(3), (7, 1)))
    assert_close(details.score, scores, 1e-12)

    predicted, details = explain(model, X, return_details=True)
    best = scores.argmax(1)
    np.testing.assert_array_equal(details.target, best)
    assert_close(details.score, scores.max(1), 1e-12)
    assert_close(predicted, everything[np.arange(7), best], 1e-13)

    for t in (2, np.int64(2), np.array(2), torch.tensor(2)):
        assert_close(explain(model, X, target=t), everything[:, 2], 1e-13)

    mixed = np.array([0, 1, 2, 2, 1, 0, 1])
    for targets in (mixed, mixed.tolist(), mixed.astype(np.int32), torch.from_numpy(mixed)):
        relevance, details = explain(model, X, target=targets, return_details=True)
        assert_close(relevance, everything[np.arange(7), mixed], 1e-13)
        np.testing.assert_array_equal(details.target, mixed)
        assert details.target.dtype.kind == "i"
    mixed.flags.writeable = False
    assert_close(explain(model, X, target=mixed), everything[np.arange(7), mixed], 1e-13)


def test_the_only_output():
    model, X = mlp_of_one_score(), samples(4, 3)
    relevance = explain(model, X)
    assert relevance.shape == X.shape
    assert_close(relevance, reference_explain(model, X, 0, Epsilon()))
    assert explain(model, X, target="all").shape == (3, 1, 4)


@pytest.mark.parametrize(
    "target",
    [3, -1, 1.0, "one", [0, 1], [0, 1, 3], [[0, 1, 2]], [0.0, 1.0, 2.0], True, [None] * 3, {}],
    ids=repr,
)
def test_bad_targets(target):
    with pytest.raises((ValueError, TypeError), match=r"target must"):
        explain(mlp(), samples(4, 3), target=target)


@pytest.mark.parametrize("of_module", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("of_input", "expected"),
    [
        (np.float64, np.float64),
        (np.float32, np.float32),
        (np.float16, np.float16),
        (np.int64, None),
        (np.bool_, None),
    ],
)
def test_dtypes(of_module, of_input, expected):
    """Relevance has X's floating dtype, else the module's."""
    model = mlp().to(of_module)
    X = (10.0 * samples(4, 3)).astype(of_input)
    relevance = explain(model, X)
    if expected is None:
        expected = np.float32 if of_module == torch.float32 else np.float64
    assert relevance.dtype == expected
    reference = reference_explain(
        mlp(), X, explain(model, X, return_details=True)[1].target, Epsilon()
    )
    assert_close(relevance, reference, 1e-5 if expected != np.float16 else 1e-2)


def test_single_precision():
    """float32 loses no more than its rounding."""
    model, X = cnn2d(nn.BatchNorm2d(2), nn.Conv2d(2, 4, 3), nn.ReLU()), samples((2, 6, 6), 20)
    for rule in ("epsilon", "z_plus", "gamma", "alpha_beta", "w_square", "flat"):
        double = explain(model, X, rule=rule, target=1)
        single = explain(copy.deepcopy(model).float(), X.astype(np.float32), rule=rule, target=1)
        errors = np.linalg.norm((single - double).reshape(20, -1), axis=1)
        assert np.median(errors / np.linalg.norm(double.reshape(20, -1), axis=1)) < 1e-5


def test_tensors():
    """A tensor gives a tensor, also one that requires a gradient."""
    model, X = mlp(), samples(4, 3)
    expected = explain(model, X, target="all")
    for x in (torch.from_numpy(X), torch.from_numpy(X).requires_grad_()):
        relevance = explain(model, x, target="all")
        assert isinstance(relevance, torch.Tensor)
        assert not relevance.requires_grad
        assert_same_to_rounding(relevance.numpy(), expected)
    assert explain(model.float(), torch.ones(2, 4)).dtype == torch.float32


def test_memory_layouts():
    """Lists, read-only, Fortran-ordered, strided, reversed and byte-swapped input."""
    model, X = mlp(), samples(4, 6)
    expected = explain(model, X)
    frozen = X.copy()
    frozen.flags.writeable = False
    wide = np.repeat(X, 2, axis=1)
    for x in (
        X.tolist(),
        frozen,
        np.asfortranarray(X),
        wide[:, ::2],
        X[::-1].copy()[::-1],
        X.astype(X.dtype.newbyteorder()),
    ):
        assert_same_to_rounding(explain(model, x), expected)


class Layouts(TorchDispatchMode):
    """Count convolutions of several channels that have them last, and all others."""

    def __init__(self):
        super().__init__()
        self.last = self.all = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution.default and args[0].shape[1] > 1:
            self.last += args[0].is_contiguous(memory_format=torch.channels_last)
            self.all += 1
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("rule", ["epsilon", "gamma", "alpha_beta", "z_plus"])
def test_convolutions_have_channels_last(rule):
    """With channels first they take up to six times as long."""
    # Of one input channel, and of each group's, the order of axes is lost when weights are mapped;
    # and a row that windows leave over is filled in. Back to two channels leads a product.
    net = cnn2d(
        nn.MaxPool2d(2), nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4),
        shape=(1, 9, 10),
    ).float()  # fmt: skip
    X = samples((1, 9, 10), 3).astype(np.float32)
    with Layouts() as own, torch.no_grad():
        net(torch.from_numpy(X))
    with Layouts() as found:
        explain(net, X, rule=rule, target=0, check=False, return_details=True)
    assert found.last > 3
    assert found.all - found.last <= own.all == 2  # as the network itself runs for the defence


def test_input_is_not_written_to():
    model, X = mlp(nn.ReLU(inplace=True), nn.LeakyReLU(inplace=True)), samples(4, 6)
    first_in_place = nn.Sequential(nn.ReLU(inplace=True), *model)
    before = X.copy()
    for net in (model, first_in_place):
        explain(net, X)
        explain(net, torch.from_numpy(X))
        np.testing.assert_array_equal(X, before)


# --- Batches, workers, threads --------------------------------------------------------------


def test_batches():
    """A sample's relevance does not depend on its batch."""
    model, X = cnn2d(nn.MaxPool2d(2)), samples((2, 6, 6), 7)
    expected, details = explain(model, X, target="all", return_details=True)
    for batch_size in (1, 2, 3, 7, 100):
        relevance, again = explain(
            model, X, target="all", batch_size=batch_size, return_details=True
        )
        assert_close(relevance, expected, 1e-12)
        for given, wanted in zip(again.layers, details.layers, strict=True):
            for cause in ("relevance", "bias", "epsilon"):
                assert_close(given[cause], wanted[cause], 1e-12)
    order = np.random.default_rng(2).permutation(7)
    assert_close(explain(model, X[order], target="all"), expected[order], 1e-12)
    targets = np.arange(7) % 2
    assert_close(
        explain(model, X, target=targets, batch_size=2), expected[np.arange(7), targets], 1e-12
    )


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, "many", True])
def test_bad_batch_size(batch_size):
    with pytest.raises((ValueError, TypeError), match="batch_size"):
        explain(mlp(), samples(4), batch_size=batch_size)


@pytest.mark.parametrize("epsilon", [-1.0, np.nan, np.inf, None, "small"])
def test_bad_epsilon(epsilon):
    with pytest.raises((ValueError, TypeError), match="epsilon"):
        explain(mlp(), samples(4), epsilon=epsilon)


def test_workers():
    model, X = cnn2d(nn.MaxPool2d(2)), samples((2, 6, 6), 5)
    targets = np.array([0, 1, 1, 0, 1])
    expected, details = explain(
        model, X, target=targets, return_details=True, batch_size=2, rule="epsilon_plus"
    )
    n_threads = torch.get_num_threads()
    relevance, again = explain(
        model,
        X,
        target=targets,
        return_details=True,
        batch_size=2,
        n_jobs=2,
        rule="epsilon_plus",
    )
    assert torch.get_num_threads() == n_threads
    assert_same_to_rounding(relevance, expected)
    assert_same_to_rounding(again.score, details.score)


def test_threads_give_the_same_answer():
    """Several threads on one module, also with one in another grad mode."""
    model, X = cnn2d(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 2), nn.MaxPool2d(2)), samples((2, 6, 6), 4)
    rules = ["epsilon", "z_plus", "gamma", "w_square"] * 4
    expected = [explain(model, X, target="all", rule=rule) for rule in rules]
    barrier = threading.Barrier(4)

    def work(rule):
        barrier.wait(30)
        return explain(model, X, target="all", rule=rule)

    with ThreadPoolExecutor(4) as pool:
        for given, wanted in zip(pool.map(work, rules), expected, strict=True):
            np.testing.assert_array_equal(given, wanted)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_grad_modes_of_the_caller(mode):
    model, X = cnn2d(nn.AvgPool2d(2)), samples((2, 6, 6), 2)
    expected = explain(model, X)
    with mode():
        was = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        assert_same_to_rounding(explain(model, X), expected)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == was


def test_nothing_of_the_callers_is_changed():
    """Module, modes, gradients, hooks, random states and thread count stay as they are."""
    model = randomised(
        nn.Sequential(
            nn.Unflatten(1, (1, 4, 5)),
            nn.Conv2d(1, 2, 2),
            nn.BatchNorm2d(2),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Flatten(2),
            nn.LSTM(12, 3, 2, batch_first=True, dropout=0.3, bidirectional=True),
            StatePooling("mean"),
            nn.Linear(6, 3),
            nn.Softmax(dim=1),
        )
    )
    model.train()
    model[3].eval()
    model[1].weight.requires_grad_(False)
    model[8].weight.grad = torch.ones_like(model[8].weight)
    modules = dict(model.named_modules())
    attributes = {name: set(vars(module)) for name, module in modules.items()}
    training = {name: module.training for name, module in modules.items()}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    pointers = {name: value.data_ptr() for name, value in model.state_dict().items()}
    flags = {n: (p.requires_grad, p.grad is None) for n, p in model.named_parameters()}
    versions = {n: p._version for n, p in model.named_parameters()}
    random = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    threads, precision = torch.get_num_threads(), torch.get_default_dtype()

    X = samples(20, 3)
    explain(model, X, target="all", rule="epsilon_plus", return_details=True)
    explain(model, X, rule="gamma", contrast=True, batch_size=1)

    assert dict(model.named_modules()) == modules
    assert {name: set(vars(m)) for name, m in modules.items()} == attributes
    assert {name: m.training for name, m in modules.items()} == training
    assert {n: v.data_ptr() for n, v in model.state_dict().items()} == pointers
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])
    assert {n: (p.requires_grad, p.grad is None) for n, p in model.named_parameters()} == flags
    assert {n: p._version for n, p in model.named_parameters()} == versions
    for module in modules.values():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks
    assert torch.equal(torch.get_rng_state(), random[0])
    np.testing.assert_array_equal(np.random.get_state()[1], random[1])  # noqa: NPY002
    assert torch.get_num_threads() == threads
    assert torch.get_default_dtype() == precision


# --- Details --------------------------------------------------------------------------------


def test_details_fit_on_a_screen():
    """What is printed has a line for a layer, with what it keeps, however many samples."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    X = np.random.default_rng(0).normal(size=(500, 3))
    _, details = explain(model, X, return_details=True)
    lines = repr(details).splitlines()
    assert lines[0].startswith("Details of 500 samples: score ")
    assert len(lines) == 4
    assert lines[1].split()[1:3] == ["Linear", "Epsilon()"]
    bias = np.abs(details.layers[0].bias).mean() / np.abs(details.score).mean()
    assert f"bias {bias:.2g}" in lines[1]
    assert repr(details.layers[1]).startswith("1 ReLU -")
    deep = nn.Sequential(*(nn.Linear(3, 3) for _ in range(90))).double()
    assert len(repr(explain(deep, X, return_details=True)[1]).splitlines()) < 45
    copied = pickle.loads(pickle.dumps(details))
    np.testing.assert_array_equal(copied.layers[0].relevance, details.layers[0].relevance)


@pytest.mark.parametrize("rule", [r for r in RULES if not isinstance(r, ZBox)], ids=repr)
@pytest.mark.parametrize("contrast", [False, True])
def test_details_account_for_the_score(rule, contrast):
    model, X = cnn2d(nn.AvgPool2d(2), nn.BatchNorm2d(2), nn.ReLU()), samples((2, 6, 6), 5)
    causes = ("bias", "epsilon", "padding", "initial_state", "dropped")
    for target in (None, 1, "all"):
        relevance, details = explain(
            model, X, target=target, rule=rule, contrast=contrast, return_details=True
        )
        plain = explain(model, X, target=target, rule=rule, contrast=contrast)
        assert_same_to_rounding(plain, relevance)
        total = relevance.sum((-3, -2, -1))
        assert_close(details.layers[0].relevance, total)
        for layer in details.layers:
            assert layer.relevance.shape == details.score.shape
            for cause in causes:
                total = total + layer[cause]
        assert_close(total, details.score)


def test_details_are_in_execution_order():
    model = cnn2d(nn.MaxPool2d(2))
    _, details = explain(model, samples((2, 6, 6)), rule="epsilon_plus", return_details=True)
    assert [(layer.name, layer.layer) for layer in details.layers] == [
        ("0", "Conv2d"),
        ("1", "ReLU"),
        ("2", "MaxPool2d"),
        ("3", "Flatten"),
        ("4", "Linear"),
    ]
    assert [layer.rule for layer in details.layers] == [ZPlus(), None, None, None, Epsilon()]


def test_progress_bar_only_on_request(capsys):
    explain(mlp(), samples(4), batch_size=1)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
    explain(mlp(), samples(4), batch_size=1, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "2/2" in captured.err


# --- What is refused ------------------------------------------------------------------------


class Functional(nn.Module):
    """A layer that calls what has no handler."""

    def __init__(self, function):
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.function = function

    def forward(self, x):
        return self.function(self.layer(x))


class Named(nn.Linear):
    """A subclass that changes nothing of the layer's work."""

    def extra_repr(self):
        return "named"


@pytest.mark.parametrize(
    ("layers", "path", "name"),
    [
        (
            [
                nn.Linear(4, 4),
                nn.Sequential(nn.Linear(4, 4), Functional(lambda x: x.renorm(2, 0, 1.0))),
            ],
            "1.1",
            "renorm",
        ),
        ([nn.Linear(4, 4), Functional(lambda x: torch.nextafter(x, x + 1))], "1", "nextafter"),
        ([nn.Linear(4, 4), Functional(lambda x: torch.special.zeta(x, x))], "1", "zeta"),
        ([nn.Linear(4, 4), Functional(lambda x: torch.remainder(x, x + 1))], "1", "remainder"),
    ],
)
def test_what_is_not_supported_is_named(layers, path, name):
    model = nn.Sequential(*layers).double()
    with pytest.raises((TypeError, ValueError), match=rf"(?s){name}.*'{path}'|'{path}'.*{name}"):
        explain(model, samples(4))


def test_subclass_that_changes_nothing_is_supported():
    model = randomised(nn.Sequential(Named(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    assert_explained(model, samples(4), Gamma(), everywhere(Gamma()))


def test_module_with_a_forward_of_its_own():
    model = Functional(torch.relu).double()
    chain = nn.Sequential(model.layer, nn.ReLU())
    X = samples(4)
    assert_close(explain(model, X, target=0), explain(chain, X, target=0), 1e-12)


def test_forward_of_an_instance_is_what_runs():
    model, X = mlp(), samples(4)
    doubled = copy.deepcopy(model)
    with torch.no_grad():
        doubled[0].weight.mul_(2.0)
        doubled[0].bias.zero_()
    model[0].forward = lambda x: 2.0 * nn.functional.linear(x, model[0].weight)
    assert_close(
        explain(model, X, rule="zero", target=0), explain(doubled, X, rule="zero", target=0), 1e-12
    )


def test_hooks_that_change_a_layer_are_refused():
    model = mlp()
    model[0].register_forward_hook(lambda module, args, output: 2.0 * output)
    with pytest.raises(TypeError, match=r"0.*hook"):
        explain(model, samples(4))


def test_parametrised_layers():
    """Weight normalisation as a parametrisation: the weights are those that the layer uses."""
    model = mlp(nn.Tanh())
    X = samples(4)
    expected = explain(model, X)
    nn.utils.parametrizations.weight_norm(model[0])
    assert_close(explain(model, X), expected, 1e-12)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.BatchNorm2d(2, track_running_stats=False), "running"),
        (nn.Flatten(0), "samples"),
    ],
)
def test_unsupported_settings(layer, message):
    model = nn.Sequential(nn.Conv2d(2, 2, 3), layer, nn.Flatten(), nn.Linear(8, 2)).double()
    with pytest.raises(TypeError, match=rf"'1'.*{message}|{message}.*'1'"):
        explain(model, samples((2, 6, 6)))


def test_network_without_weights():
    with pytest.raises(TypeError, match="weights"):
        explain(nn.Sequential(nn.ReLU()), samples(4))


def test_of_a_grid_something_must_be_asked():
    model = nn.Sequential(nn.Conv1d(1, 2, 2)).double()
    with pytest.raises(ValueError, match=r"6 values of shape \(2, 3\).*a tuple of 2 indices"):
        explain(model, samples((1, 4)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64])
def test_modules_of_other_precision(dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch on complex modules
        model = mlp().to(dtype)
    with pytest.raises(TypeError, match="float32 or float64"):
        explain(model, samples(4))


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (np.full((2, 4), np.nan), ValueError, "NaN"),
        (np.array([[0.0, 1.0, np.inf, 2.0]]), ValueError, "infinite"),
        (torch.full((2, 4), torch.nan), ValueError, "NaN"),
        (np.ones((2, 5)), ValueError, "shape"),
        (np.ones((0, 4)), ValueError, "at least one sample"),
        (np.ones(4), ValueError, "shape"),
        (1.0, ValueError, "shape"),
        (np.ones((2, 4)) + 1j, ValueError, "real"),
        (np.array([["a"] * 4]), ValueError, "real numbers|dtype"),
        (np.array([[None] * 4]), ValueError, "real numbers|dtype"),
        (sparse.csr_array(np.ones((2, 4))), TypeError, "sparse"),
    ],
)
def test_bad_input(X, error, message):
    with pytest.raises(error, match=rf"X.*({message})"):
        explain(mlp(), X)


def test_nan_in_weights():
    for where in (0, 2):
        model = mlp()
        with torch.no_grad():
            model[where].weight[0, 0] = torch.nan
        with pytest.raises(ValueError, match="NaN"):
            explain(model, samples(4), target=1)


class Stretch(nn.Module):
    def forward(self, x):
        return torch.igamma(x.abs() + 1, x.abs())


class Wrapped(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.first, self.second = layers

    def forward(self, x):
        return self.second(self.first(x) + 1)


@pytest.mark.usefixtures("handlers_restored")
def test_a_handler_can_be_registered():
    model, X = mlp(nn.Tanh()), samples(4)
    stretched = nn.Sequential(*model, Stretch())
    with pytest.raises(TypeError, match=r"(?s)igamma.*'3'.*Stretch.*register"):
        explain(stretched, X)
    register(Stretch)(
        lambda step, signal: (signal.apply(step.layer.forward), lambda relevance, kept: relevance)
    )
    relevance, details = explain(stretched, X, target=1, return_details=True)
    size = np.abs(explain(model, X, target=1, return_details=True)[1].score)
    score = gammainc(size + 1, size)
    np.testing.assert_allclose(details.score, score, rtol=1e-12)
    assert relevance.shape == X.shape


@pytest.mark.usefixtures("handlers_restored")
@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"kind": "conv2d"}, ValueError, r"kind must be one of .*'conv'.* got 'conv2d'"),
        ({"kind": "densee"}, ValueError, r"got 'densee'. Did you mean 'dense'\?"),
        ({"fold": "row"}, ValueError, r"fold must be one of .*'rows'.* got 'row'"),
        ({"bounds": "monotone"}, TypeError, "bounds must be a function or None, got 'monotone'"),
        ({"weights": "weight"}, TypeError, "weights must be a function or None, got 'weight'"),
        (
            {"weights": lambda layer: layer.weight},
            TypeError,
            r"layer '0' \(Plain\) must return \(weight, bias\).*got Parameter",
        ),
        (
            {"kind": "dense"},
            TypeError,
            r"Layer '0' has no weights that are known: register\(Plain, weights=",
        ),
    ],
)
def test_what_is_registered_is_checked(params, error, message):
    class Plain(nn.Linear):
        def forward(self, x):
            return F.linear(x, self.weight)

    def handler(step, signal):
        return affine(step, signal, F.linear, torch.matmul)

    def use():
        register(Plain, **params)(handler)
        return explain(nn.Sequential(Plain(3, 2)), samples(4, 3).astype(np.float32))

    with pytest.raises(error, match=message):
        use()


@pytest.mark.usefixtures("handlers_restored")
@pytest.mark.parametrize("wrap", [nn.Sequential, Wrapped])
@pytest.mark.parametrize(
    ("result", "given"),
    [(lambda out: out, "Signal"), (lambda out: (out, None), "(Signal, NoneType)")],
)
def test_a_handler_must_return_its_pull(wrap, result, given):
    register(Stretch)(lambda step, signal: result(signal.apply(torch.sinh)))
    message = rf"layer '\w+' \(Stretch\) must return \(output, pull\), got {re.escape(given)}:"
    with pytest.raises(TypeError, match=message):
        explain(wrap(nn.Linear(3, 2), Stretch()), np.ones((4, 3), dtype=np.float32))


@pytest.mark.parametrize("parts", [[], (), None, [1.0]])
def test_a_rule_must_have_parts(parts):
    class Nothing(sklrp.rules.Rule):
        def parts(self):
            return parts

    message = (
        rf"parts\(\) of Nothing.*layer '0' \(Linear\).*at least one.*got {re.escape(repr(parts))}"
    )
    with pytest.raises(TypeError, match=message):
        explain(mlp(nn.Tanh()), samples(4), rule=Nothing())


def test_layers_that_cannot_be_planned_are_named():
    message = r"layer '1' \(Stretch\), layer '2.0' \(Stretch\)\. Pass X.* register a handler"
    with pytest.raises(ValueError, match=message):
        sklrp.plan(nn.Sequential(nn.Linear(3, 2), Stretch(), nn.Sequential(Stretch(), nn.ReLU())))
    with pytest.raises(ValueError, match=r"the network itself \(Stretch\)\. Pass X"):
        sklrp.plan(Stretch())


# --- Models that are no modules -------------------------------------------------------------


def test_skorch_net():
    """A skorch net is explained as its module; targets are its labels."""
    net = NeuralNetClassifier(mlp, train_split=None, verbose=0, classes=["a", "b", "c"])
    X = samples(4, 5)
    with pytest.raises(NotFittedError, match=r"(?i)not fitted"):
        explain(net, X)
    net.initialize()
    everything = explain(net.module_, X, target="all")
    assert_close(explain(net, X, target="all"), everything, 1e-12)
    assert_close(explain(net, X, target="b"), everything[:, 1], 1e-12)
    labels = np.array(["a", "c", "b", "b", "a"])
    relevance, details = explain(net, X, target=labels, return_details=True)
    assert_close(relevance, everything[np.arange(5), [0, 2, 1, 1, 0]], 1e-12)
    np.testing.assert_array_equal(details.target, labels)
    with pytest.raises(ValueError, match="unknown label 'd'"):
        explain(net, X, target="d")


def test_model_with_explain_is_asked_itself():
    class Model:
        def explain(self, X, **options):
            return options

    options = explain(Model(), samples(4), target="all", rule="gamma", batch_size=3)
    assert options == {
        "target": "all",
        "rule": "gamma",
        "epsilon": 1e-6,
        "contrast": False,
        "batch_size": 3,
        "n_jobs": None,
        "progress": False,
        "return_details": False,
        "check": "auto",
    }


def test_a_model_with_explain_may_take_fewer_options():
    class Model:
        def explain(self, X, *, target=None, rule="auto"):
            return target, rule

    assert explain(Model(), samples(4), rule="gamma") == (None, "gamma")
    with pytest.raises(TypeError, match="contrast"):
        explain(Model(), samples(4), contrast=True)


def test_what_is_no_model():
    with pytest.raises(TypeError, match="model must be"):
        explain("network", samples(4))


def test_public_name():
    assert sklrp.explain is explain


@pytest.mark.parametrize("scale", [0.7, -0.7])
def test_box_bounds_pass_through_a_batch_norm_that_stays_alone(scale):
    norm, conv = nn.BatchNorm2d(1), nn.Conv2d(1, 3, 3, padding=1)
    nn.init.constant_(norm.weight, scale)
    nn.init.constant_(norm.bias, 0.3)
    norm.running_mean.fill_(0.2)
    net = nn.Sequential(norm, conv, nn.ReLU(), nn.Flatten(), nn.Linear(60, 2)).double().eval()
    X = np.random.default_rng(0).uniform(-1, 2, size=(3, 1, 4, 5))
    rule = Composite([("box", ZBox(-1.0, 2.0), "first"), ("rest", Epsilon(), "all")])
    _, behind = explain(net, X, rule=rule, target=0, return_details=True)
    with torch.no_grad():
        normed = norm(torch.tensor(X)).numpy()
        bounds = sorted(float(norm(torch.full((1, 1, 1, 1), b).double())) for b in (-1.0, 2.0))
    rule = Composite([("box", ZBox(*bounds), "first"), ("rest", Epsilon(), "all")])
    _, alone = explain(net[1:], normed, rule=rule, target=0, return_details=True)
    np.testing.assert_allclose(behind.layers[1].relevance, alone.layers[0].relevance, rtol=1e-9)


@pytest.mark.parametrize(
    "layer", [nn.GELU(), nn.SiLU(), nn.Mish(), nn.Hardswish(), nn.PReLU(init=-0.3), nn.Tanh()]
)
@pytest.mark.usefixtures("handlers_restored")
def test_bounds_of_deeper_boxes_follow_from_those_of_the_input(layer):
    """z-box without bounds on a hidden layer: no value leaves the box that it is given."""
    torch.manual_seed(0)
    X = np.random.default_rng(0).uniform(-1, 2, size=(200, 1, 4, 4))
    found, boxes = {}, {}

    def remember(step, signal):
        found[step.name] = signal.x.chunk(2)
        return signal

    def watch(step, signal, pull=lambda relevance, kept: relevance):
        low, high = found[step.name]
        inside = (signal.x >= low - 1e-12) & (signal.x <= high + 1e-12)
        boxes[step.name] = bool(inside.all())
        return signal, pull

    class Watch(nn.Identity):
        def forward(self, x):
            return x

    register(Watch, bounds=remember)(watch)
    conv = [nn.Conv2d(1, 3, 3, padding=1), Watch(), nn.BatchNorm2d(3), layer, Watch()]
    dense = [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 12), Watch(), layer, Watch()]
    lstm = [nn.Unflatten(1, (6, 2)), nn.LSTM(2, 4, batch_first=True), StatePooling("mean")]
    net = nn.Sequential(*conv, *dense, *lstm, Watch(), nn.Linear(4, 2))
    rule = Composite([("first", ZBox(-1.0, 2.0), "first"), ("rest", ZBox(), "all")])
    relevance, details = explain(net.double().eval(), X, rule=rule, return_details=True)
    assert len(boxes) == 5
    assert all(boxes.values())
    kept = sum(layer.epsilon + layer.initial_state for layer in details.layers)
    np.testing.assert_allclose(relevance.sum((1, 2, 3)) + kept, details.score, rtol=1e-9)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("contrast", "no"),
        ("return_details", 1),
        ("progress", None),
        ("n_jobs", "2"),
        ("n_jobs", 1.5),
    ],
)
def test_flags_are_checked(flag, value):
    with pytest.raises(ValueError, match=flag):
        explain(mlp(), samples(4), **{flag: value})


def test_labels_of_skorch_nets_are_outputs():
    X, y = samples(4, 30), np.arange(30) % 2 * 2  # no sample of class 1
    net = NeuralNetClassifier(
        mlp, criterion=nn.CrossEntropyLoss, train_split=None, verbose=0, max_epochs=1
    ).fit(X, y)
    everything = explain(net.module_, X, target="all")
    assert_close(explain(net, X, target=2), everything[:, 2], 1e-12)
    assert explain(net, X).shape == X.shape


def test_hooks_on_all_modules_are_refused():
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, out: 2 * out)
    try:
        with pytest.raises(TypeError, match="hooks on all modules"):
            explain(mlp(), samples(4))
    finally:
        handle.remove()


def test_norms_of_another_rank_are_not_folded():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm1d(2), nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(ValueError, match="BatchNorm1d"):
        explain(net.double().eval(), np.ones((2, 1, 4, 4)))


def test_single_output_without_its_axis():
    net = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)).double()
    X = samples(4, 5)
    assert_close(explain(net, X, rule="zero"), explain(net[:1], X, rule="zero"), 1e-12)


def test_layers_that_override_how_they_run():
    """What a subclass changes is seen: its own code runs, not the handler of its base."""

    class Scaled(nn.Conv1d):
        def _conv_forward(self, x, weight, bias):
            return 2 * super()._conv_forward(x, weight, bias)

    class Doubled(nn.Sequential):
        def __call__(self, x):
            return 2 * super().__call__(x)

    conv = nn.Sequential(Scaled(1, 2, 3), nn.Flatten(), nn.Linear(4, 2)).double()
    for net, X in ((conv, samples((1, 4))), (Doubled(nn.Linear(4, 2)).double(), samples(4))):
        x = torch.tensor(X, requires_grad=True)
        (gradient,) = torch.autograd.grad(net(x)[:, 0].sum(), x)
        expected = gradient.numpy() * X
        assert_close(explain(net, X, rule="zero", target=0), expected, 1e-12)


def test_spectral_norm_in_training_mode_is_not_updated():
    net = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 2))).double()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    X = np.random.default_rng(0).normal(size=(3, 4))
    relevance = explain(net.train(), X, rule="zero", target=0)
    assert net.training
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    np.testing.assert_array_equal(relevance, explain(net.eval(), X, rule="zero", target=0))


@pytest.mark.parametrize("layer", [nn.MaxPool1d(2), nn.AvgPool1d(2), nn.Conv1d(3, 3, 2)])
def test_samples_without_channels_are_refused(layer):
    net = nn.Sequential(layer, nn.Flatten(), nn.Linear(3, 2)).double()
    with pytest.raises(ValueError, match="takes samples of 2 axes, channels first, got 1"):
        explain(net, np.ones((3, 6)))


def test_details_where_relevance_does_not_arrive_in_every_chunk():
    """A sample whose hidden units are dead is a chunk of its own, before and behind a live one."""
    net = mlp(nn.ReLU())
    with torch.no_grad():
        net[0].weight.abs_()
    X = np.stack([np.full(4, -50.0), np.full(4, 1.0)])
    for rows in (X, X[::-1]):
        options = {"rule": "gamma", "target": 0, "return_details": True}
        together = explain(net, rows, **options)[1]
        relevance, apart = explain(net, rows, batch_size=1, **options)
        causes = ("bias", "epsilon", "dropped")
        for one, other in zip(apart.layers, together.layers, strict=True):
            for cause in causes:
                np.testing.assert_allclose(one[cause], other[cause], rtol=1e-12, atol=1e-12)
        kept = sum(layer[cause] for layer in apart.layers for cause in causes)
        np.testing.assert_allclose(relevance.sum(1) + kept, apart.score, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("gelu", {"approximate": "tanh"}),
        ("softplus", (2.0, 0.5)),
        ("hardshrink", (0.1,)),
        ("softshrink", (0.1,)),
        ("leaky_relu", (0.3,)),
        ("hardtanh", (-0.3, 0.2)),
        ("threshold", (0.1, 0.7)),
        ("glu", (1,)),
        ("softmax", (1,)),
        ("max_pool1d", (2, 1, 1, 1, True)),
        ("avg_pool1d", (3, 2, 1, True, False)),
        ("adaptive_max_pool1d", (4,)),
        ("adaptive_avg_pool1d", (4,)),
        ("interpolate", {"scale_factor": 2, "mode": "linear"}),
    ],
)
def test_layers_compute_what_their_functions_do(name, arguments):
    x = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    positional = arguments if isinstance(arguments, tuple) else ()
    named = arguments if isinstance(arguments, dict) else {}
    function = getattr(nn.functional, name)
    layer, inputs = to_layer(name, function, (x, *positional), named)
    expected = function(x, *positional, **named)
    torch.testing.assert_close(layer(*inputs), expected, rtol=0.0, atol=0.0)


def draw_tensor(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


X3, X4, X5 = draw_tensor(2, 4, 6), draw_tensor(2, 4, 6, 6), draw_tensor(2, 4, 6, 6, 6)
WORDS, TABLE = torch.tensor([[0, 3, 1], [4, 4, 2]]), draw_tensor(5, 4)
STATISTICS = (draw_tensor(4, 1)[:, 0], draw_tensor(4, 2)[:, 0].exp())
WEIGHTS = (draw_tensor(4, 3)[:, 0], draw_tensor(4, 4)[:, 0])
KERNEL = draw_tensor(4, 4, 3)

# What to call functions with, other than an input and nothing more, by their names.


def _pooled(x, d):
    """Return what max unpooling takes: values, their places, and the windows."""
    return (*getattr(nn.functional, f"max_pool{d}d")(x, 2, return_indices=True), 2)


CALLED_WITH = {
    "linear": (X3, draw_tensor(3, 6), draw_tensor(3, 1)[:, 0]),
    "conv1d": (X3, KERNEL, None, 2, 1, 2),
    "conv2d": (X4, KERNEL[..., None], None, (2, 1), (1, 0), 1),
    "conv3d": (X5, KERNEL[..., None, None], WEIGHTS[0], 2),
    "conv_transpose1d": (X3, KERNEL, None, 3, 1, 2, 1, 2),
    "conv_transpose2d": (X4, KERNEL[..., None], WEIGHTS[0], 2, 1, 1),
    "conv_transpose3d": (X5, KERNEL[..., None, None], None, 2),
    "prelu": (X3, WEIGHTS[0]),
    "threshold": (X3, 0.1, -0.2),
    "celu": (X3, 0.3),
    "elu": (X3, 0.3),
    "leaky_relu": (X3, 0.3),
    "rrelu": (X3, 0.1, 0.3),
    "hardtanh": (X3, -0.3, 0.4),
    "softplus": (X3, 2.0, 0.5),
    "layer_norm": (X3, (6,), draw_tensor(6, 1)[:, 0], draw_tensor(6, 2)[:, 0], 0.1),
    "rms_norm": (X3, (6,), draw_tensor(6, 1)[:, 0], 0.1),
    "group_norm": (X3, 2, *WEIGHTS, 0.1),
    "F.batch_norm": (X3, *STATISTICS, *WEIGHTS, False, 0.2, 0.1),
    "torch.batch_norm": (X3, *WEIGHTS, *STATISTICS, False, 0.2, 0.1, False),
    "F.instance_norm": (X3, *STATISTICS, *WEIGHTS, False, 0.2, 0.1),
    "torch.instance_norm": (X3, *WEIGHTS, *STATISTICS, False, 0.2, 0.1, False),
    "F.embedding": (WORDS, TABLE, 1),
    "torch.embedding": (TABLE, WORDS, 1),
    "F.embedding_bag": (WORDS, TABLE),
    "torch.embedding_bag": (TABLE, WORDS.flatten(), torch.tensor([0, 3])),
    "im2col": (X4, 2, 1, 1, 2),
    "col2im": (X3, (1, 2), 2, 1, 1, 1),
    "softmax": (X3, 1),
    "log_softmax": (X3, 1),
    "glu": (X3, 1),
    "interpolate": (X3, None, 2),
    "upsample": (X3, None, 2),
    "local_response_norm": (X3, 2, 0.3, 0.6, 1.2),
    "lp_pool1d": (X3, 2.0, 2),
    "lp_pool2d": (X4, 2.0, 2),
    "lp_pool3d": (X5, 2.0, 2),
    **{f"max_unpool{d}d": _pooled(x, d) for d, x in ((1, X3), (2, X4), (3, X5))},
}


def homes_of(name):
    """Return a function under all its names, with the arguments that it takes there."""
    name = {"im2col": "unfold", "col2im": "fold"}.get(name, name)
    found = {}
    for home, prefix in ((nn.functional, "F"), (torch, "torch"), (torch.Tensor, "Tensor")):
        for suffix in ("", "_"):
            function = getattr(home, f"{name}{suffix}", None)
            # Tensor.unfold is another function, of windows of one axis.
            if function is not None and (prefix, name) != ("Tensor", "unfold"):
                found[f"{prefix}.{name}{suffix}"] = function
    return found


FUNCTIONS = [(name, home) for name in sorted(LAYERS) for home in homes_of(name)]


def arguments_of(name, home):
    drops, pools = name.endswith("dropout") or "dropout" in name, "pool" in name
    default = ((X5 if "3d" in name else X4 if "2d" in name else X3), *(
        (0.5, False) if drops else (2,) if pools else ()
    ))  # fmt: skip
    args = CALLED_WITH.get(home.removesuffix("_"), CALLED_WITH.get(name, default))
    return tuple(a.clone() if isinstance(a, torch.Tensor) else a for a in args)


@pytest.mark.filterwarnings("ignore:.*(dropout2d|upsample|1-D spatial)")
@pytest.mark.parametrize(("name", "home"), FUNCTIONS)
def test_functions_of_every_name_take_their_own_arguments(name, home):
    """F.batch_norm and torch.batch_norm have them in other orders; all that torch has is tried."""
    function = homes_of(name)[home]
    expected = function(*arguments_of(name, home))
    if home.startswith("F.") and name.endswith("_with_indices"):
        found = to_layer(name, function, arguments_of(name, home), {"return_indices": True})
        layer, inputs = found
        assert [*map(torch.equal, layer(*inputs), expected)] == [True, True]
        return
    if isinstance(expected, tuple):  # torch.adaptive_max_pool1d returns indices too
        with pytest.raises(TypeError, match=r"returns \d tensors"):
            to_layer(name, function, arguments_of(name, home), {})
        return
    layer, inputs = to_layer(name, function, arguments_of(name, home), {})
    torch.testing.assert_close(layer(*inputs), expected)
    assert repr(layer).startswith(type(layer).__name__)  # as errors print it


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "message"),
    [
        (torch.rrelu, (X3,), {"training": True}, "draws its slopes"),
        (nn.functional.elu_, (X3, 1.0, 2.0), {}, "leave out scale"),
        (nn.functional.interpolate, (X4,), {"size": 3, "antialias": True}, "antialias=False"),
        (torch.softmax, (X3, 1, torch.float64), {}, "leave out dtype"),
        (torch.dropout, (X3, 0.5, True), {}, "training=self.training"),
        (torch.embedding, (TABLE,), {}, "missing"),
    ],
)
def test_what_no_layer_does_is_refused(function, args, kwargs, message):
    with pytest.raises(TypeError, match=message):
        to_layer(function.__name__.removesuffix("_"), function, args, kwargs)


def test_keywords_of_functions_in_cpp():
    """NumPy's names too."""
    given = {"x": X3, "weight": WEIGHTS[0], "bias": None, "running_mean": STATISTICS[0],
             "running_var": STATISTICS[1], "training": False, "momentum": 0.1, "eps": 0.1,
             "cudnn_enabled": True}  # fmt: skip
    layer, (x,) = to_layer("batch_norm", torch.batch_norm, (), given)
    given["input"] = given.pop("x")
    torch.testing.assert_close(layer(x), torch.batch_norm(**given))


def test_function_that_x_does_not_fit():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.linear = nn.BatchNorm1d(3), nn.Linear(4, 2)

        def forward(self, x):
            mean, var = self.norm.running_mean, self.norm.running_var
            return self.linear(nn.functional.batch_norm(x, mean, var))

    with pytest.raises(ValueError, match=r"does not fit 'batch_norm' \(BatchNorm1d\(4, eps"):
        explain(Normed().double(), samples(4))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rule", ["epsilon", "gamma", "alpha_beta", "w_square"])
def test_pointwise_convolutions_equal_dense_layers_at_each_place(rule, bias):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 5, 1, bias=bias).double()
    dense = nn.Linear(4, 5, bias=bias).double()
    dense.load_state_dict({k: v.flatten(1) if v.dim() > 1 else v for k, v in
                           conv.state_dict().items()})  # fmt: skip
    head = nn.Linear(5 * 6, 2).double()
    X = np.random.default_rng(0).normal(size=(3, 4, 2, 3))
    as_conv = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), head)
    last = nn.Linear(5 * 6, 2).double()  # behind channels that come last
    weight = head.weight.detach().unflatten(1, (5, 6)).transpose(1, 2).flatten(1)
    last.load_state_dict({"weight": weight, "bias": head.bias.detach()})
    as_dense = nn.Sequential(dense, nn.ReLU(), nn.Flatten(), last)
    by_conv = explain(as_conv, X, rule=rule)
    by_dense = explain(as_dense, X.transpose(0, 2, 3, 1).reshape(3, 6, 4), rule=rule)
    assert_close(by_conv.reshape(3, 4, 6), by_dense.transpose(0, 2, 1))
