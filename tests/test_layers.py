"""Every layer without memory: its handler alone, against matrices, gradients and plain loops."""

from __future__ import annotations

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sklrp import Composite, Epsilon, Flat, ZBox
from sklrp.propagation import Kept, explain
from sklrp.propagation.bounds import follow
from sklrp.propagation.compilation import make_step
from sklrp.propagation.registry import find_entry
from sklrp.rules import Signal
from tests.helpers.affine_layers import RULES
from tests.helpers.comparing import assert_close, assert_same_to_rounding
from tests.helpers.layers import (
    ACTIVATIONS,
    CHANNEL_NORMS,
    CONTRIBUTING,
    COPYING,
    GATES,
    LAYERS,
    NORMS,
    TRANSPOSED,
    Written,
    build,
    draw,
)
from tests.helpers.parameters import randomised
from tests.helpers.reference import (
    KEPT,
    Neuron,
    affine_relevance,
    operator_matrix,
    share_by_contribution,
)

pytestmark = pytest.mark.filterwarnings("ignore:dropout[23]d. Received")  # by torch, in training
EPSILON = 1e-3


def step_of(layer, rule=None, epsilon=EPSILON, product="all"):
    """Return the step of a layer, with a rule if it takes one."""
    step = make_step("tested", layer, find_entry(layer), epsilon)
    step.product = product
    if step.kind is not None:
        step.rule = Epsilon() if rule is None else rule
        step.epsilon = step.rule.resolve_epsilon(epsilon)
    return step


def run(layer, signal, *args, **options):
    """Return the output of a layer and a function that pulls relevance and checks the account."""
    step = step_of(layer, **options)
    before = signal.x.clone()
    with torch.no_grad():
        out, pull = step.handler(step, signal, *args)
    assert torch.equal(signal.x, before)

    def checked(relevance):
        kept = Kept(len(signal.x))
        with torch.no_grad():
            passed = pull(relevance, kept)
            assert_same_to_rounding(pull(relevance, None), passed)
        assert passed.shape == (len(relevance), *signal.x.shape)
        amounts = [passed.flatten(2).sum(2), *kept.values()]
        size = relevance.abs().flatten(2).sum(2) + sum(a.abs() for a in amounts)
        assert ((relevance.flatten(2).sum(2) - sum(amounts)).abs() <= 1e-12 * size).all()
        return passed, kept

    return out, checked


def assert_as_reference(layer, signal, expected, **options):
    """Hold relevance and account of two targets against ``expected(x, relevance)`` of a sample."""
    out, pull = run(layer, signal, **options)
    relevance = draw(2, *out.x.shape, seed=5)
    passed, kept = pull(relevance)
    for k, i in np.ndindex(2, len(signal.x)):
        received, lost = expected(signal.x[i].numpy(), relevance[k, i].numpy())
        assert_close(passed[k, i], received)
        for cause in KEPT:
            amount = kept[cause][k, i] if cause in kept else 0.0
            assert_close(amount, getattr(lost, cause))


def signals(*shape):
    """Yield signed and nonnegative samples."""
    yield Signal(draw(2, *shape))
    yield Signal(draw(2, *shape).abs(), nonnegative=True)


@pytest.mark.parametrize("name", LAYERS)
def test_layer_is_itself_and_accounts_for_relevance(name):
    """The output is the layer's in evaluation mode, whatever its mode; nothing is changed."""
    layer, shape = build(name)
    for signal in signals(*shape):
        with torch.no_grad():
            expected = layer.eval()(signal.x.clone())
        state = copy.deepcopy(layer.state_dict())
        out, pull = run(layer.train(), signal)
        torch.testing.assert_close(out.x, expected, rtol=1e-12, atol=1e-12)
        pull(draw(3, *out.x.shape))
        assert not out.nonnegative or (out.x >= 0).all()
        assert layer.training
        assert all(torch.equal(state[key], value) for key, value in layer.state_dict().items())


@pytest.mark.sweep(25)
@pytest.mark.parametrize("name", LAYERS)
def test_layer_in_a_forward_is_as_in_a_sequential(name):
    layer, shape = build(name)
    X = draw(2, *shape)
    with torch.no_grad():
        width = layer(X.clone()).flatten(1).shape[1]
    head = randomised(nn.Linear(width, 2), seed=4)
    options = {"rule": "epsilon", "epsilon": EPSILON, "target": 1}
    expected = explain(nn.Sequential(layer, nn.Flatten(), head), X.numpy(), **options)
    found, details = explain(Written(layer, head), X.numpy(), return_details=True, **options)
    assert_close(found, expected)
    kept = sum(row[cause] for row in details.layers for cause in KEPT)
    assert_close(found.reshape(2, -1).sum(1) + kept, details.score)


def random_box(*shape):
    """Return a box, and samples within it, corners among them."""
    low, high = draw(2, 1, *shape, seed=7).mul(1.5).sort(0).values
    share = torch.from_numpy(np.random.default_rng(8).uniform(-0.1, 1.1, size=(500, *shape)))
    return torch.cat([low, high]), low + (high - low) * share.clamp(0, 1)


def box_behind(layer, corners):
    """Return the bounds behind a layer, None where they are unknown."""
    step = step_of(layer)
    with torch.no_grad():
        out, _ = follow(step, step.handler, (Signal(corners),), {})
    assert out.low is None
    return None if out.x.isnan().any() else out.x.chunk(2)


@pytest.mark.parametrize("name", LAYERS)
def test_bounds_hold_the_output(name):
    layer, shape = build(name)
    corners, x = random_box(*shape)
    found = box_behind(layer, corners)
    rises = isinstance(layer, nn.Threshold) and layer.value > layer.threshold
    if rises or getattr(layer, "mode", None) == "bicubic":
        assert found is None
        return
    out, _ = run(layer, Signal(x))
    low, high = found
    assert low.shape[0] == high.shape[0] == 1
    assert (out.x >= low - 1e-12).all()
    assert (out.x <= high + 1e-12).all()
    assert out.low is None  # a pass of their own finds them


@pytest.mark.parametrize("name", LAYERS)
def test_no_bounds_follow_from_unknown_ones(name):
    """But behind a normalisation of the sample, which has bounds whatever its input is."""
    layer, shape = build(name)
    found = box_behind(layer, torch.full((2, *shape), torch.nan, dtype=torch.float64))
    assert (found is None) == (name not in NORMS)


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=repr)
def test_bounds_of_activations_are_reached(layer):
    corners, _ = random_box(30)
    low, high = corners.chunk(2)
    grid = torch.linspace(0, 1, 3001, dtype=torch.float64)[:, None]
    grid = low + (high - low) * grid
    layer = copy.deepcopy(layer).double().eval()
    found = box_behind(layer, corners)
    if found is None:
        return
    with torch.no_grad():
        values = layer(grid.clone())
    torch.testing.assert_close(found[0][0], values.amin(0), rtol=0, atol=1e-3)
    torch.testing.assert_close(found[1][0], values.amax(0), rtol=0, atol=1e-3)


AFFINE = {
    "linear": (nn.Linear(5, 3), (5,)),
    "conv": (nn.Conv2d(2, 3, 3, padding=1, stride=2, groups=1), (2, 5, 4)),
    "conv-circular": (nn.Conv1d(2, 2, 3, padding=2, padding_mode="circular"), (2, 5)),
}


@pytest.mark.parametrize("name", AFFINE)
def test_bounds_of_affine_layers_are_reached(name):
    """By the corner of the box that the signs of an output's weights point to."""
    layer, shape = AFFINE[name]
    layer = randomised(copy.deepcopy(layer), seed=1).double()
    corners, x = random_box(*shape)
    low, high = box_behind(layer, corners)
    out, _ = run(layer, Signal(x), rule=Epsilon())
    assert (out.x >= low - 1e-12).all()
    assert (out.x <= high + 1e-12).all()
    k = 1
    leaf = corners[:1].clone().requires_grad_()
    (weight,) = torch.autograd.grad(layer(leaf).flatten()[k], leaf)
    best = torch.where(weight > 0, corners[1:], corners[:1])
    with torch.no_grad():
        torch.testing.assert_close(high.flatten()[k], layer(best).flatten()[k])


# --- What the handlers read -----------------------------------------------------------------

POOLING = ("kernel_size", "stride", "padding", "ceil_mode")
ATTRIBUTES = {
    nn.modules.conv._ConvTransposeNd: (
        "weight", "bias", "kernel_size", "stride", "padding", "output_padding", "dilation",
        "groups",
    ),
    nn.AvgPool1d: (*POOLING, "count_include_pad"),
    nn.AvgPool2d: (*POOLING, "count_include_pad", "divisor_override"),
    nn.AvgPool3d: (*POOLING, "count_include_pad", "divisor_override"),
    nn.modules.pooling._MaxPoolNd: (*POOLING, "dilation", "return_indices"),
    nn.modules.pooling._AdaptiveAvgPoolNd: ("output_size",),
    nn.modules.pooling._AdaptiveMaxPoolNd: ("output_size", "return_indices"),
    nn.Upsample: ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor"),
    nn.Fold: ("output_size", "kernel_size", "dilation", "padding", "stride"),
    nn.Unfold: ("kernel_size", "dilation", "padding", "stride"),
    nn.Flatten: ("start_dim", "end_dim"),
    nn.Unflatten: ("dim", "unflattened_size"),
    nn.PixelShuffle: ("upscale_factor",),
    nn.PixelUnshuffle: ("downscale_factor",),
    nn.ChannelShuffle: ("groups",),
    nn.modules.padding._ConstantPadNd: ("padding", "value"),
    nn.modules.padding._ReflectionPadNd: ("padding",),
    nn.modules.padding._ReplicationPadNd: ("padding",),
    nn.modules.padding._CircularPadNd: ("padding",),
    nn.LayerNorm: ("normalized_shape", "weight", "bias", "eps"),
    nn.GroupNorm: ("num_groups", "weight", "bias", "eps"),
    nn.modules.instancenorm._InstanceNorm: (
        "track_running_stats", "running_mean", "running_var", "weight", "bias", "eps",
    ),
    nn.modules.batchnorm._BatchNorm: ("running_mean", "running_var", "weight", "bias", "eps"),
    nn.ReLU: ("inplace",),
    nn.Hardtanh: ("min_val", "max_val", "inplace"),
    nn.Softplus: ("beta", "threshold"),
    nn.CELU: ("alpha", "inplace"),
    nn.ELU: ("alpha", "inplace"),
    nn.GELU: ("approximate",),
    nn.Hardshrink: ("lambd",),
    nn.Softshrink: ("lambd",),
    nn.Hardswish: ("inplace",),
    nn.Hardsigmoid: ("inplace",),
    nn.LeakyReLU: ("negative_slope", "inplace"),
    nn.Mish: ("inplace",),
    nn.SELU: ("inplace",),
    nn.SiLU: ("inplace",),
    nn.PReLU: ("weight",),
    nn.RReLU: ("lower", "upper"),
    nn.Threshold: ("threshold", "value", "inplace"),
    nn.GLU: ("dim",),
}  # fmt: skip
if hasattr(nn, "RMSNorm"):
    ATTRIBUTES[nn.RMSNorm] = ("normalized_shape", "weight", "eps")


@pytest.mark.parametrize("name", LAYERS)
def test_handlers_read_documented_attributes_alone(name):
    """A functional call is explained by a layer of which nothing but these is known."""
    layer, shape = build(name)
    names = next((n for kind, n in ATTRIBUTES.items() if isinstance(layer, kind)), ())
    bare = type(layer).__new__(type(layer))
    nn.Module.__init__(bare)
    for attribute in names:
        if hasattr(layer, attribute):  # zero padding has no value
            value = getattr(layer, attribute)
            vars(bare)[attribute] = value.detach() if isinstance(value, torch.Tensor) else value
    signal = Signal(draw(2, *shape))
    (out, pull), (expected, pull_expected) = run(bare, signal), run(layer, signal)
    assert_same_to_rounding(out.x, expected.x)
    relevance = draw(2, *out.x.shape)
    assert_same_to_rounding(pull(relevance)[0], pull_expected(relevance)[0])


# --- Transposed convolutions ----------------------------------------------------------------


def transposed_neurons(layer, shape):
    """Neurons of a transposed convolution, from its matrix and the places of its weights."""
    seen = copy.deepcopy(layer)
    nn.init.ones_(seen.weight)
    matrices = []
    for one in (layer, seen):
        constant = torch.zeros(1, *shape, dtype=torch.float64)
        matrix, out_shape = operator_matrix(lambda x, f=one, c=constant: f(x) - f(c), shape)
        matrices.append(matrix)
    bias = np.zeros(out_shape[0]) if layer.bias is None else layer.bias.detach().numpy()
    n_behind = math.prod(out_shape[1:])
    return [
        Neuron(np.flatnonzero(places), row[places != 0], float(bias[j // n_behind]), j // n_behind)
        for j, (row, places) in enumerate(zip(*matrices, strict=True))
    ]


@pytest.mark.sweep(15)
@pytest.mark.parametrize("name", TRANSPOSED)
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_rules_on_transposed_convolutions(rule, name):
    make, shape = TRANSPOSED[name]
    limits = (rule.low, rule.high) if isinstance(rule, ZBox) else (None, None)
    for bias in (True, False):
        layer = randomised(make(bias), seed=3)
        neurons = transposed_neurons(layer, shape)
        for signal in signals(*shape):

            def expected(x, relevance, neurons=neurons):
                return affine_relevance(rule, neurons, x, relevance, EPSILON, *limits)

            assert_as_reference(layer, signal, expected, rule=rule)


def test_flat_counts_the_inputs_that_a_transposed_convolution_sees():
    """Kernel 3, stride 2, no padding: outputs 0 and 1 see input 0, output 2 sees 0 and 1, ..."""
    layer = nn.ConvTranspose1d(1, 1, 3, stride=2).double()
    _, pull = run(layer, Signal(draw(1, 1, 3)), rule=Flat())
    passed, kept = pull(torch.ones(1, 1, 1, 7, dtype=torch.float64))
    assert passed.flatten().tolist() == [2.5, 2.0, 2.5]
    assert not sum(kept.values())


@pytest.mark.parametrize("output_size", [(8, 10), (1, 2, 9, 13)])
def test_output_size_of_transposed_convolutions(output_size):
    layer = randomised(nn.ConvTranspose2d(1, 2, 2, stride=(3, 4)))
    x = draw(1, 1, 3, 3)
    out, pull = run(layer, Signal(x), output_size, epsilon=0.0)
    leaf = x.clone().requires_grad_()
    z = layer(leaf, output_size=output_size)
    assert_same_to_rounding(out.x, z)
    g = draw(*z.shape)
    (grad,) = torch.autograd.grad(z, leaf, g)
    assert_close(pull((g * z).detach()[None])[0][0], x * grad)


def test_batch_normalisation_behind_a_transposed_convolution_is_folded():
    """Explained as a transposed convolution with scaled weights, groups and biases told apart."""
    for bias, groups in ((True, 1), (False, 2)):
        conv = nn.ConvTranspose2d(4, 6, 2, stride=2, groups=groups, bias=bias)
        rest = [nn.ReLU(), nn.Flatten(), nn.Linear(96, 2)]
        model = randomised(nn.Sequential(conv, nn.BatchNorm2d(6), *rest))
        norm = model[1]
        plain = nn.ConvTranspose2d(4, 6, 2, stride=2, groups=groups).double()
        with torch.no_grad():
            for c in range(6):
                scale = norm.weight[c] / (norm.running_var[c] + norm.eps).sqrt()
                group, k = divmod(c, 6 // groups)
                inputs = slice(group * 4 // groups, (group + 1) * 4 // groups)
                plain.weight[inputs, k] = conv.weight[inputs, k] * scale
                old = conv.bias[c] if bias else 0.0
                plain.bias[c] = (old - norm.running_mean[c]) * scale + norm.bias[c]
        X = draw(3, 4, 2, 2).numpy()
        for rule in ("epsilon_plus", "epsilon_alpha2_beta1_flat", "w_square"):
            found, details = explain(model, X, rule=rule, return_details=True)
            assert_close(found, explain(nn.Sequential(plain, *rest), X, rule=rule))
            assert [layer.name for layer in details.layers] == ["0", "2", "3", "4"]


def test_batch_normalisation_before_a_transposed_convolution_stays():
    """Its shift does not reach the border as often: relevance is still gradient times input."""
    body = [nn.BatchNorm1d(2), nn.ConvTranspose1d(2, 3, 3, stride=2)]
    model = randomised(nn.Sequential(*body, nn.Flatten(), nn.Linear(27, 2)))
    x = draw(3, 2, 4).requires_grad_()
    (grad,) = torch.autograd.grad(model(x)[:, 1].sum(), x)
    found = explain(model, x.detach(), target=1, rule="zero", epsilon=0.0)
    assert_close(found, (x * grad).detach())


# --- Linear layers without weights ----------------------------------------------------------


@pytest.mark.parametrize("name", CONTRIBUTING)
def test_shared_by_contribution(name):
    layer, shape = build(name)
    matrix, _ = operator_matrix(layer, shape)
    for signal in signals(*shape):
        assert_as_reference(
            layer,
            signal,
            lambda x, r: share_by_contribution(matrix, np.zeros(len(matrix)), x, r, EPSILON),
        )


@pytest.mark.parametrize("name", COPYING)
def test_copies_go_back(name):
    """Relevance of a copy goes to what was copied, that of constants is kept as padding."""
    layer, shape = build(name)
    with torch.no_grad():
        constant = layer(torch.zeros(1, *shape, dtype=torch.float64))
    matrix, _ = operator_matrix(lambda x: layer(x) - constant, shape)
    assert set(matrix.ravel()) <= {0.0, 1.0}
    signal = replace_seen(Signal(draw(2, *shape), gate=True))
    out, pull = run(layer, signal)
    assert out.gate
    relevance = draw(2, *out.x.shape)
    passed, kept = pull(relevance)
    assert_close(passed.flatten(2), relevance.flatten(2).numpy() @ matrix)
    lost = relevance.flatten(2).numpy() @ (1.0 - matrix.sum(1))
    assert_close(kept.get("padding", torch.zeros(2, 2)), lost)
    assert set(kept) <= {"padding"}
    assert_close(out.seen.flatten(), matrix @ signal.seen.flatten().numpy())
    seen = run(layer, Signal(signal.x))[0].seen  # None where nothing is padding
    assert_close(np.ones(len(matrix)) if seen is None else seen.flatten(), matrix.sum(1))


def replace_seen(signal):
    """Return a signal of which some values are padding."""
    seen = (draw(1, *signal.x.shape[1:], seed=9) > 0).double()
    return Signal(signal.x, gate=signal.gate, seen=seen)


def test_padding_behind_an_activation_is_padding():
    """The flat rule counts what a convolution sees of the input, wherever padding was done."""
    rows = [nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(10, 2)]
    model = randomised(nn.Sequential(nn.ZeroPad1d(1), nn.Tanh(), *rows))
    conv = nn.Conv1d(1, 2, 3, padding=1).double()
    conv.load_state_dict(rows[0].state_dict())
    plain = nn.Sequential(nn.Tanh(), conv, *rows[1:])
    X = draw(3, 1, 5).numpy()
    rule = "epsilon_plus_flat"
    assert_close(explain(model, X, rule=rule), explain(plain, X, rule=rule))


# --- Normalisations -------------------------------------------------------------------------


def norm_matrix(layer, x):
    """Matrix and shift of a normalisation of one sample, its deviations taken as constants."""
    size, index = x.size, np.arange(x.size)
    if hasattr(layer, "normalized_shape"):
        groups = index.reshape(-1, math.prod(layer.normalized_shape))
        spread = partial(np.tile, reps=len(groups))
    else:
        groups = index.reshape(getattr(layer, "num_groups", len(x)), -1)
        spread = partial(np.repeat, repeats=size // len(x))
    centred = type(layer).__name__ != "RMSNorm"
    weight, bias = (
        np.full(size, default) if given is None else spread(given.detach().numpy().ravel())
        for default, given in ((1.0, layer.weight), (0.0, getattr(layer, "bias", None)))
    )
    eps = np.finfo(float).eps if layer.eps is None else layer.eps
    matrix = np.zeros((size, size))
    for group in groups:
        values = x.ravel()[group]
        centre = values.mean() if centred else 0.0
        deviation = np.sqrt(((values - centre) ** 2).mean() + eps)
        for j in group:
            matrix[j, j] = weight[j] / deviation
            if centred:
                matrix[j, group] -= weight[j] / deviation / len(group)
    return matrix, bias


@pytest.mark.parametrize("name", NORMS)
def test_normalisation(name):
    """By contribution to the centred and scaled values, their deviation held fixed."""
    layer, shape = build(name)
    for signal in signals(*shape):

        def expected(x, relevance):
            matrix, bias = norm_matrix(layer, x)
            return share_by_contribution(matrix, bias, x, relevance, EPSILON)

        assert_as_reference(layer, signal, expected)
        for x in signal.x:  # the matrix is that of the layer
            matrix, bias = norm_matrix(layer, x.numpy())
            with torch.no_grad():
                assert_close(matrix @ x.numpy().ravel() + bias, layer(x[None]).flatten())


def test_normalisation_by_hand():
    """x = (1, 3): mean 2, deviation 1, so y = (x_1 - x_2, x_2 - x_1) / 2 = (-1, 1).

    Relevance 1 of y_2 = 1: x_1 contributed -1/2, x_2 3/2. With weight 2 and bias 2, y_2 = 4, of
    which the bias is a half.
    """
    layer, x = nn.LayerNorm(2, eps=0.0).double(), torch.tensor([[1.0, 3.0]]).double()
    relevance = torch.tensor([[[0.0, 1.0]]]).double()
    passed, _ = run(layer, Signal(x), epsilon=0.0)[1](relevance)
    assert passed.tolist() == [[[-0.5, 1.5]]]
    nn.init.constant_(layer.weight, 2.0)
    nn.init.constant_(layer.bias, 2.0)
    passed, kept = run(layer, Signal(x), epsilon=0.0)[1](relevance)
    assert passed.tolist() == [[[-0.25, 0.75]]]
    assert kept["bias"].item() == 0.5


@pytest.mark.parametrize("name", CHANNEL_NORMS)
def test_normalisation_by_running_statistics(name):
    layer, shape = build(name)
    scale = 1.0 / np.sqrt(layer.running_var.numpy() + layer.eps)
    shift = -layer.running_mean.numpy() * scale
    if layer.weight is not None:
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        scale, shift = scale * weight, shift * weight + bias
    scale, shift = (np.repeat(v, math.prod(shape[1:])) for v in (scale, shift))
    for signal in signals(*shape):
        assert_as_reference(
            layer,
            signal,
            lambda x, r: share_by_contribution(np.diag(scale), shift, x, r, EPSILON),
        )


# --- Gradient times input -------------------------------------------------------------------


def with_deviations_fixed(layer, x):
    """Apply a normalisation of samples such that its gradient takes deviations as constants."""
    y = layer(x)
    shape, weight, bias = x.shape, getattr(layer, "weight", None), getattr(layer, "bias", None)
    if hasattr(layer, "normalized_shape"):
        dims = tuple(range(-len(layer.normalized_shape), 0))
    else:
        n_groups = getattr(layer, "num_groups", shape[1])
        x, dims = x.reshape(shape[0], n_groups, -1), (2,)
        weight, bias = (
            None if v is None else v.reshape(-1, *(1,) * (len(shape) - 2)) for v in (weight, bias)
        )
    if type(layer).__name__ != "RMSNorm":
        x = x - x.mean(dims, keepdim=True)
    x = (x / x.square().mean(dims, keepdim=True).add(layer.eps or 0).sqrt().detach()).view(shape)
    x = x if weight is None else x * weight
    x = x if bias is None else x + bias
    torch.testing.assert_close(x, y)
    return x


DIFFERENTIABLE = [name for name in LAYERS if name.islower() and "lu" not in name]


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_zero_epsilon_is_gradient_times_input(name):
    """Relevance g z of the outputs z comes to x times the gradient of g z."""
    layer, shape = build(name)
    x = draw(2, *shape)
    leaf = x.clone().requires_grad_()
    z = with_deviations_fixed(layer, leaf) if name in NORMS else layer(leaf)
    g = draw(2, *z.shape)
    grads = torch.stack([torch.autograd.grad(z, leaf, one, retain_graph=True)[0] for one in g])
    out, pull = run(layer, Signal(x), epsilon=0.0)
    assert_close(pull(g * out.x)[0], x * grads)


# --- Activations ----------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [*ACTIVATIONS, nn.PReLU(5)], ids=repr)
def test_activations_pass_all_on(layer):
    """Anywhere, to the same place; a gate stays one, and only sigmoids make gates."""
    layer = copy.deepcopy(layer).double()
    for gate in (False, True):
        signal = Signal(draw(3, 5), gate=gate, seen=torch.ones(1, 5))
        out, pull = run(layer, signal)
        relevance = draw(2, 3, 5)
        assert torch.equal(pull(relevance)[0], relevance)
        assert out.gate == (gate or isinstance(layer, nn.Sigmoid | nn.Hardsigmoid))
        assert out.seen is signal.seen
    assert find_entry(layer).any_axis


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([nn.ReLU(), nn.ReLU6(), nn.Softplus(), nn.Hardtanh(0.5, 2.0), *GATES], (True, True)),
        ([nn.Threshold(0.5, 0.2), nn.Threshold(0.0, 0.0)], (True, True)),
        ([nn.Tanh(), nn.GELU(), nn.PReLU(), nn.Hardtanh(), nn.Identity()], (False, True)),
        ([nn.LeakyReLU(-0.3), nn.CELU(-0.5), nn.Threshold(-0.5, 0.2)], (False, True)),
        ([nn.LogSigmoid(), nn.Softplus(-2.0), nn.Hardtanh(-2.0, -1.0)], (False, False)),
        ([nn.Threshold(0.5, -0.1)], (False, False)),
    ],
)
def test_activations_that_are_nowhere_negative_are_known(layers, expected):
    """Of a signed and a nonnegative input; what is told of them holds elsewhere."""
    for layer in layers:
        outs = [run(layer.double(), signal)[0] for signal in signals(9)]
        assert tuple(out.nonnegative for out in outs) == expected


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_glu_shares_as_the_variant_says(epsilon):
    """Of z = a sigmoid(b) the signal a takes all, or b what the variant gives the gate."""
    x = draw(3, 2, 4)
    a, gate = x[..., :2], x[..., 2:].sigmoid()
    relevance = draw(2, 3, 2, 2)

    def share(one, other):
        total = one + other
        return one / (total + epsilon * total.sign())

    shares = {
        "all": 0.0,
        "prop": share(gate, a),
        "abs": share(gate, a.abs()),
        "half": 0.5,
    }
    for product, to_gate in shares.items():
        out, pull = run(nn.GLU(), Signal(x), product=product, epsilon=epsilon)
        assert_close(out.x, a * gate)
        assert not out.gate
        passed, kept = pull(relevance)
        assert_close(passed[..., 2:], relevance * to_gate)
        assert_close(passed[..., :2], relevance * (1.0 - to_gate))
        assert not kept
    with pytest.raises(RuntimeError, match="must be even"):
        run(nn.GLU(), Signal(draw(2, 3)))


SOFTMAX = [nn.Softmax(-1), nn.Softmax2d(), nn.Softmin(1), nn.Softmax(None)]


@pytest.mark.parametrize("attention", ["constant", "cp"])
@pytest.mark.parametrize("layer", SOFTMAX, ids=repr)
def test_softmax_held_constant_takes_no_relevance(layer, attention):
    x = draw(2, 3, 2, 2)
    step = step_of(layer)
    step.attention = attention
    out, pull = step.handler(step, Signal(x))
    assert_same_to_rounding(out.x, torch.stack([softmax_of(layer, one) for one in x]))
    assert (out.gate, out.held, out.mask) == (True, True, False)
    kept = Kept(2)
    assert pull(torch.ones(1, 2, 3, 2, 2), kept) is None
    assert_close(kept["bias"], torch.full((1, 2), 12.0))


@pytest.mark.parametrize("layer", [*SOFTMAX, nn.LogSoftmax(2), nn.LogSoftmax(None)], ids=repr)
def test_softmax_by_its_taylor_decomposition(layer):
    """The expansion at x, by autograd's Jacobian: what its bias takes is kept."""
    x = draw(2, 3, 2, 2)
    out, pull = run(layer, Signal(x), epsilon=0.0)
    assert not out.gate
    relevance = draw(2, 2, 3, 2, 2, seed=5)
    passed, kept = pull(relevance)
    for n in range(2):
        jacobian = torch.autograd.functional.jacobian(lambda v: softmax_of(layer, v), x[n])
        for t in range(2):
            ratio = relevance[t, n] / out.x[n]
            expected = x[n] * torch.einsum("abc,abcijk->ijk", ratio, jacobian)
            assert_close(passed[t, n], expected)
            assert_close(kept["bias"][t, n], relevance[t, n].sum() - expected.sum())


def softmax_of(layer, x):
    """Return what a layer makes of one sample; without an axis torch takes that of channels."""
    if isinstance(layer, nn.Softmax2d) or layer.dim is not None:
        return layer(x[None])[0]
    return (F.log_softmax if isinstance(layer, nn.LogSoftmax) else F.softmax)(x, 0)


# --- Samples on another axis ----------------------------------------------------------------

AXES = [
    nn.GLU(0), nn.GLU(-1), nn.Softmax(0), nn.Softmax(-1), nn.LogSoftmax(2), nn.LayerNorm(4),
    nn.PReLU(), nn.Tanh(), nn.Identity(),
]  # fmt: skip
ACROSS = [nn.GLU(1), nn.Softmax(-2), nn.LayerNorm((2, 4)), nn.PReLU(2)]
if hasattr(nn, "RMSNorm"):
    AXES.append(nn.RMSNorm(4))
    ACROSS.append(nn.RMSNorm((2, 4)))


@pytest.mark.parametrize("layer", AXES, ids=repr)
def test_samples_on_the_second_axis(layer):
    """A network that has (n_steps, n_samples, n_features) tells so; handlers see samples first."""
    layer, x = copy.deepcopy(layer).double(), draw(6, 2, 4)
    out, _ = run(layer, Signal(x.movedim(1, 0), axis=1))
    assert find_entry(layer).any_axis
    assert_close(out.x.movedim(0, 1), layer(x).detach())


@pytest.mark.parametrize("layer", ACROSS, ids=repr)
def test_layers_that_act_along_the_samples_are_refused(layer):
    signal = Signal(draw(2, 6, 4), axis=1)
    with pytest.raises(TypeError, match=rf"through {type(layer).__name__} 'tested'.*samples"):
        run(layer.double(), signal)


@pytest.mark.parametrize("layer", [nn.Softmax(0), nn.GLU(0), nn.LayerNorm((2, 4))], ids=repr)
def test_first_axis_is_that_of_the_samples(layer):
    with pytest.raises(TypeError, match="samples"):
        run(layer.double(), Signal(draw(2, 4)))


# --- Embeddings -----------------------------------------------------------------------------

TOKENS = torch.tensor([[1, 0, 3, 3], [2, 4, 0, 0], [0, 0, 0, 0]])


def test_embedding_gives_each_token_the_sum_over_its_vector():
    layer = nn.Embedding(5, 3, padding_idx=0).double()
    out, pull = run(layer, Signal(TOKENS))
    assert torch.equal(out.x, layer(TOKENS))
    low, high = box_behind(layer, TOKENS[:2])
    assert (out.x >= low).all()
    assert (out.x <= high).all()
    relevance = draw(2, *out.x.shape)
    passed, kept = pull(relevance)
    assert_close(passed, relevance.sum(3))  # the vector of padding counts as it is
    assert not kept


def test_relevance_of_tokens_is_that_of_their_vectors():
    """Explained by indices, and by vectors: the sum over each vector."""
    embedding = nn.Embedding(5, 3, padding_idx=0)
    rest = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2))
    model = randomised(nn.Sequential(embedding, *rest))
    vectors = embedding(TOKENS).detach()
    for rule in ("epsilon", "w_square"):
        found, details = explain(model, TOKENS.numpy(), rule=rule, return_details=True)
        assert_close(found, explain(rest, vectors.numpy(), rule=rule).sum(2))
        kept = sum(layer[cause] for layer in details.layers for cause in KEPT)
        assert_close(found.sum(1) + kept, details.score)


@pytest.mark.parametrize("mode", ["sum", "mean", "weighted"])
@pytest.mark.parametrize("padding_idx", [None, 0])
def test_embedding_bag_shares_by_contribution(mode, padding_idx):
    weighted = mode == "weighted"
    layer = nn.EmbeddingBag(
        5, 3, mode="sum" if weighted else mode, padding_idx=padding_idx
    ).double()
    factors = (draw(3, 4),) if weighted else ()
    args = (None, *factors) if weighted else ()
    out, pull = run(layer, Signal(TOKENS), *args)
    assert_same_to_rounding(out.x, layer(TOKENS, *args))
    relevance = draw(2, *out.x.shape)
    passed, kept = pull(relevance)
    for i, tokens in enumerate(TOKENS.numpy()):
        share = (tokens != padding_idx).astype(float)
        if mode == "mean":
            share /= max(share.sum(), 1.0)
        elif weighted:
            share *= factors[0][i].numpy()
        matrix = share[None, :, None] * np.eye(3)[:, None]
        x = layer.weight.detach().numpy()[tokens]
        for k in range(2):
            expected, lost = share_by_contribution(
                matrix.reshape(3, 12), np.zeros(3), x, relevance[k, i].numpy(), EPSILON
            )
            assert_close(passed[k, i], expected.sum(1))
            assert_close(kept["epsilon"][k, i], lost.epsilon)


# --- What is refused ------------------------------------------------------------------------

REFUSED = [
    (nn.Embedding(5, 2, max_norm=1.0), (Signal(TOKENS),), "max_norm=1.0 .* set max_norm=None"),
    (nn.EmbeddingBag(5, 2, mode="max"), (Signal(TOKENS),), "use nn.Embedding and a pooling"),
    (nn.EmbeddingBag(5, 2), (Signal(TOKENS[0]), TOKENS[0]), "bags of unequal lengths"),
    (nn.EmbeddingBag(5, 2, max_norm=1.0), (Signal(TOKENS),), "max_norm=1.0"),
    (
        nn.EmbeddingBag(5, 2, mode="sum"),
        (Signal(TOKENS), None, Signal(draw(3, 4))),
        "weights that depend on the input",
    ),
    (nn.LPPool1d(math.inf, 2), (Signal(draw(1, 2, 4)),), "LPPool1d.*norm_type=inf.* use MaxPool"),
    (nn.FractionalMaxPool2d(2, 2), (Signal(draw(1, 2, 4, 4)),), "draws its windows at random"),
    (nn.FractionalMaxPool3d(2, 2), (Signal(draw(1, 2, 4, 4, 4)),), "draws its windows"),
]


@pytest.mark.parametrize(("layer", "args", "message"), REFUSED)
def test_layers_are_refused_by_name(layer, args, message):
    with pytest.raises(TypeError, match=message) as error:
        run(layer, *args)
    assert "'tested'" in str(error.value)


def test_refused_layers_are_named_in_networks():
    model = nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (2, 2)), nn.LPPool1d(math.inf, 2))
    with pytest.raises(TypeError, match=r"LPPool1d '2' .*is not supported: .* use MaxPool"):
        explain(nn.Sequential(*model, nn.Flatten()), draw(2, 4).float().numpy())


@pytest.mark.parametrize("layer", [nn.InstanceNorm1d(2), nn.PixelShuffle(1), nn.ZeroPad1d(1)])
def test_samples_without_channels_are_refused(layer):
    with pytest.raises(ValueError, match="channels"):
        run(layer, Signal(draw(2, 3)))


@pytest.mark.parametrize("layer", [nn.Linear(3, 2), nn.ConvTranspose1d(3, 2, 2)], ids=repr)
def test_box_without_bounds_is_refused(layer):
    """Of a term without bounds nothing must be left out in silence."""
    signal = Signal(draw(2, 3, 3))
    for rule in (ZBox(), ZBox(low=-1.0), ZBox(high=1.0)):
        with pytest.raises(ValueError, match="z-box rule on layer 'tested' needs bounds"):
            run(layer.double(), signal, rule=rule)


def test_box_behind_layers_without_bounds_is_refused():
    """A bicubic interpolation leaves the box of its input, so that no bounds follow."""
    layers = [nn.Upsample(scale_factor=2, mode="bicubic"), nn.Conv2d(1, 1, 2), nn.Flatten()]
    model = nn.Sequential(nn.Conv2d(1, 1, 1), *layers).double()
    rule = Composite([("first", ZBox(-1.0, 1.0), "first"), ("rest", ZBox(), "all")])
    with pytest.raises(ValueError, match=r"z-box rule on layer '2' needs bounds.*ZBox\(low="):
        explain(model, draw(2, 1, 3, 3).numpy(), rule=rule)
