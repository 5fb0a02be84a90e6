"""Changes in place, through views and of shapes: the score and the relevance of the network."""

from __future__ import annotations

import re
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sklrp
from sklrp.propagation import probing
from sklrp.propagation.compilation import make_step
from sklrp.propagation.inputs import Inputs, Intake
from sklrp.propagation.probing import Probe
from sklrp.propagation.recording.recorder import Recorder
from sklrp.propagation.recording.twin import Twins
from sklrp.propagation.registry import HANDLERS, NEW
from tests.helpers.gradients import by_differences
from tests.helpers.unchanged import assert_unchanged, snapshot


class Images(nn.Module):
    """A convolution, something done to it in place, and a linear layer on the mean over space."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.rnn = nn.RNN(4, 4, batch_first=True, bias=False, nonlinearity="relu")
        self.lin = nn.Linear(4, 4, bias=False)
        self.relu, self.leaky = nn.ReLU(inplace=True), nn.LeakyReLU(0.3, inplace=True)
        self.drop, self.flat, self.unflat = nn.Dropout(), nn.Flatten(), nn.Unflatten(1, (2, 2))
        self.transposed = nn.ConvTranspose2d(2, 4, 2, bias=False)
        self.max, self.mean = nn.MaxPool2d(2), nn.AvgPool2d(2)
        self.up = nn.Upsample(scale_factor=2)
        self.out = nn.Linear(4, 2, bias=False)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)
        self.double().eval()

    def forward(self, x):
        return self.out(self.function(self, x))

    def states(self, x):
        return self.rnn(self.conv(x).flatten(2).transpose(1, 2))


def explained(network, X, batch_size=None):
    return sklrp.explain(
        network, X, target=1, rule="zero", epsilon=0.0, batch_size=batch_size, return_details=True
    )


def assert_right(network, X, batch_size=None):
    """Hold against the network's own score, and its gradient by differences, times the input."""
    before = snapshot(network, X)
    relevance, details = explained(network, X, batch_size)
    assert_unchanged(before, snapshot(network, X))
    size = batch_size or len(X)
    parts = [by_differences(network, X[k : k + size]) for k in range(0, len(X), size)]
    scores = np.concatenate([score for _, score in parts])
    expected = np.concatenate([gradient for gradient, _ in parts]) * X
    np.testing.assert_allclose(details.score, scores, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(relevance, expected, atol=1e-7 * (1.0 + np.abs(expected).max()))
    kept = sum(
        layer[cause]
        for layer in details.layers
        for cause in ("bias", "epsilon", "padding", "initial_state", "dropped")
    )
    total = relevance.reshape(len(X), -1).sum(1) + kept
    np.testing.assert_allclose(total, scores, rtol=1e-8, atol=1e-10)


def images(n_samples=4):
    return np.random.default_rng(0).normal(size=(n_samples, 2, 4, 4))


# What is done to the output of a convolution, whose mean over space follows.
CHANGES = {
    "view": lambda self, h: h.view(len(h), -1).relu_(),
    "flatten": lambda self, h: h.flatten(1).relu_(),
    "reshape": lambda self, h: h.reshape(len(h), -1).relu_(),
    "unsqueeze": lambda self, h: h.unsqueeze(1).relu_(),
    "squeeze": lambda self, h: h.squeeze().relu_(),
    "detach": lambda self, h: h.detach().relu_(),
    "data": lambda self, h: h.data.relu_(),
    "slice": lambda self, h: h[:, 1:3].relu_(),
    "steps": lambda self, h: self.leaky(h[:, ::2]),
    "select": lambda self, h: h[:, 1].mul_(3.0),
    "transpose": lambda self, h: h.transpose(1, 2).relu_(),
    "copy by flatten": lambda self, h: h.transpose(1, 2).flatten(1).relu_(),
    "permute": lambda self, h: h.permute(0, 2, 3, 1).relu_(),
    "copy by contiguous": lambda self, h: h.permute(0, 2, 3, 1).contiguous().relu_(),
    "contiguous as it is": lambda self, h: h.contiguous().relu_(),
    "clone": lambda self, h: h.clone().relu_(),
    "channels last": lambda self, h: h.contiguous(memory_format=torch.channels_last).relu_(),
    "expand to the same": lambda self, h: h.expand_as(h).relu_(),
    "diagonal": lambda self, h: h.diagonal(dim1=2, dim2=3).relu_(),
    "chunk": lambda self, h: h.chunk(2, 1)[1].flatten(1).relu_(),
    "chunk of rows": lambda self, h: h.chunk(2, 2)[1].flatten(1).relu_(),
    "split": lambda self, h: [piece.relu_() for piece in h.split([1, 3], 1)],
    "unbind": lambda self, h: h.unbind(1)[2].relu_(),
    "function in place": lambda self, h: F.relu(h.view(len(h), -1), inplace=True),
    "layer in place": lambda self, h: self.relu(h.view(len(h), -1)),
    "flatten layer": lambda self, h: self.relu(self.flat(h)),
    "unflatten layer": lambda self, h: self.relu(self.unflat(h)),
    "dropout": lambda self, h: self.drop(h).relu_(),
    "dropout function": lambda self, h: F.dropout(h, 0.5, self.training).relu_(),
    "conversion to the same": lambda self, h: h.double().relu_(),
    "affine": lambda self, h: h.view(len(h), -1).add_(1.0).mul_(2.0),
    "set constant": lambda self, h: h.view(len(h), -1).__setitem__((slice(None), 3), 0.5),
    "set signal": lambda self, h: h[:, 1].__setitem__((slice(None), 0), h[:, 2, 0]),
    "set indices": lambda self, h: h.__setitem__((slice(None), [0, 3]), h[:, [3, 1]]),
    "set itself": lambda self, h: h.__setitem__(Ellipsis, h),
    "set mask": lambda self, h: h.__setitem__(h < 0, 0.25),
    "masked": lambda self, h: h[:, :2].masked_fill_(h[:, :2] < 0, 0.0),
    "copy": lambda self, h: h[:, :2].copy_(h[:, 2:]),
    "zero": lambda self, h: h[:, :, 1].zero_(),
    "fill": lambda self, h: h[:, :, 1].fill_(0.3),
    "view of a view": lambda self, h: h.view(len(h), -1)[:, 3:20].view(len(h), -1)[:, ::2].relu_(),
    "transpose in place": lambda self, h: h.transpose_(1, 2),
    "swapaxes in place": lambda self, h: h.swapaxes_(1, 2),
    "detach in place": lambda self, h: h.detach_(),
    "transpose another view": lambda self, h: h.view(h.shape).transpose_(1, 2)[:, 1].relu_(),
}


@pytest.mark.sweep(6)
@pytest.mark.parametrize("name", CHANGES)
def test_changes_of_a_convolution(name):
    def function(self, x):
        h = self.conv(x)
        CHANGES[name](self, h)
        return h.mean((2, 3))

    torch.manual_seed(0)
    network = Images(function)
    for n_samples, batch_size in ((4, None), (4, 2), (1, None)):
        assert_right(network, images(n_samples), batch_size)


def in_turns(self, x):
    h = self.conv(x)
    h.view(len(h), -1)[:, 3:20].relu_()
    h[:, 1].mul_(2.0)
    h.transpose(2, 3)[:, 2].neg_()
    return h.mean((2, 3))


def the_view_before_what_it_is_of(self, x):
    h = self.conv(x)
    view = h.view(len(h), -1)
    view.relu_()
    return h.mean((2, 3)) + view.view(h.shape).amax((2, 3))


def what_views_are_of(self, x):
    h = self.conv(x)
    one, other = h.view(len(h), -1), h.transpose(1, 2)
    h.relu_()
    one[:, 3:9].mul_(2.0)
    return other.transpose(1, 2).mean((2, 3)) + h[:, :, 1].sum(2)


def residual(self, x):
    h = self.conv(x)
    return (F.relu_(h.view(len(h), -1)).view(h.shape) + h).mean((2, 3))


def augmented(self, x):
    h = self.conv(x)
    h[:, 1:3] += h[:, :2].clone()
    h[:, 1] *= 2.0
    return h.mean((2, 3))


def pooled(self, x):
    h = self.max(self.conv(x))
    h.view(len(h), -1).relu_()
    k = self.mean(self.conv(x))
    k.flatten(2).relu_()
    return h.mean((2, 3)) + k.mean((2, 3))


def upsampled(self, x):
    h, k = self.up(self.conv(x)), self.transposed(x)
    h.flatten(2).relu_()
    k.flatten(2)[:, :, 3:].relu_()
    return h.mean((2, 3)) + k.mean((2, 3))


def normalised(self, x):
    h = self.norm(self.conv(x))
    h.flatten(2)[:, :, 3:].relu_()
    return h.mean((2, 3))


def last_state(self, x):
    states, last = self.states(x)
    last[0].neg_()
    states[:, -1].mul_(3.0)
    return states.sum(1) + last.squeeze(0)


def all_states(self, x):
    states, _ = self.states(x)
    states.transpose(0, 1).neg_()
    return states.sum(1) - states.reshape(len(x), -1)[:, :4]


def steps_of_a_linear_layer(self, x):
    h = self.lin(self.conv(x).flatten(2).transpose(1, 2))
    h.reshape(-1, 4).relu_()
    return h.sum(1)


def layout_of_an_activation(self, x):
    """It keeps the strides of what it is of, so `flatten` copies."""
    h = F.relu(self.conv(x).flatten(2).transpose(1, 2)) + 1.0
    h.flatten(1).mul_(2.0)
    return h.sum(1)


def own_input(self, x):
    x.view(len(x), -1)[:, 3:].relu_()
    return self.conv(x).mean((2, 3))


def shapes_in_place(self, x):
    h = self.conv(x).mean((2, 3))
    h.unsqueeze_(1)
    h.squeeze_(1)
    h.t_()
    return h.t()


def rows_of_zeros(self, x):
    out, h = torch.zeros(len(x), 4, dtype=x.dtype), self.conv(x)
    for k in range(4):
        out[:, k].add_(h[:, k].mean((1, 2)))
    return out


def zeros_through_a_view(self, x):
    h = self.conv(x)
    out = h.new_ones(h.shape)
    view, rows = out.view(len(x), -1), out[:, 1:3]
    view[:, 5:].copy_(h.flatten(1)[:, 5:])
    rows[:, 0] = 2.0
    return out.mean((2, 3))


def samples_on_another_axis(self, x):
    h = self.conv(x).flatten(2)
    out = torch.zeros(h.size(2), len(x), 4, dtype=x.dtype)
    out[:2].copy_(h.permute(2, 0, 1)[:2])
    out[3:5].fill_(1.0)
    return out.sum(0)


def constant_of_two_views_changed_later(self, x):
    scale = torch.ones(4, dtype=x.dtype)
    part, h = scale[:2], self.conv(x).mean((2, 3)) * scale
    part.add_(3.0)
    return h * scale


def mask_changed_later(self, x):
    h = self.conv(x).mean((2, 3))
    mask = h > 0
    first = h.masked_fill(mask, 0.0)
    mask.logical_not_()
    return 2.0 * first + h.masked_fill(mask, 0.0)


WHOLE = [
    in_turns, the_view_before_what_it_is_of, what_views_are_of, residual, augmented, pooled,
    upsampled, normalised, last_state, all_states, steps_of_a_linear_layer,
    layout_of_an_activation, own_input, shapes_in_place, rows_of_zeros, zeros_through_a_view,
    samples_on_another_axis, constant_of_two_views_changed_later, mask_changed_later,
]  # fmt: skip


@pytest.mark.sweep(5)
@pytest.mark.parametrize("function", WHOLE, ids=lambda function: function.__name__)
def test_changes_in_place(function):
    torch.manual_seed(0)
    network = Images(function)
    for n_samples, batch_size in ((4, None), (4, 2), (1, None)):
        assert_right(network, images(n_samples), batch_size)


@pytest.mark.parametrize(("n_channels", "width"), [(2, 1), (1, 3)])
def test_strides_that_are_read_in_two_ways(n_channels, width):
    """Kernels of 1 x 1 or of one channel are in order in memory, and have channels last, too."""

    def function(self, x):
        h = self.conv(x[:, :n_channels].contiguous())
        h.reshape(len(h), -1)[:, :9].zero_()  # a view or a copy, as the strides say
        return h.mean((2, 3))

    network = Images(function)
    conv = nn.Conv2d(n_channels, 4, width, bias=False).double()
    network.conv = conv.to(memory_format=torch.channels_last)
    assert network.conv.weight.is_contiguous()
    assert_right(network, images())


class Tripled(nn.Module):
    """The sum of x, and of x where its first value is 3 relu(x)."""

    def __init__(self):
        super().__init__()
        self.one, self.out = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
        nn.init.eye_(self.one.weight)
        nn.init.ones_(self.out.weight)

    def forward(self, x):
        h = self.one(x)
        before = h.clone()
        h.t()[:1].relu_().mul_(3.0)
        return self.out(h + before)


def test_a_change_by_hand():
    X = np.array([[2.0, -1.0], [-2.0, 4.0]])
    relevance = sklrp.explain(Tripled().double(), X, rule="zero", epsilon=0.0)
    np.testing.assert_array_equal(relevance, [[8.0, -2.0], [-2.0, 8.0]])


REFUSED = {
    "resize_": lambda self, h: h.resize_(len(h), 4, 2, 8),
    "as_strided_": lambda self, h: h.as_strided_((len(h), 4, 2, 8), (64, 16, 8, 1)),
    "set_": lambda self, h: h.set_(2.0 * h),
    "in place": lambda self, h: (
        h.expand(2, *h.shape)[0].unfold(3, 2, 1).masked_fill_(torch.tensor([True, False]), 0.0)
    ),
    "__setitem__": lambda self, h: h.__setitem__((slice(None), [0, 0]), h[:, 1:3]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    def function(self, x):
        h = self.conv(x)
        REFUSED[name](self, h)
        return h.mean((2, 3))

    network = Images(function)
    before = snapshot(network, images())
    with pytest.raises(TypeError, match=re.escape(repr(name))):
        explained(network, images())
    assert_unchanged(before, snapshot(network, images()))


def test_a_second_pass_only_where_it_is_needed():
    """Networks that change what is not used elsewhere are run once for each chunk."""

    def alone(self, x):
        h = F.relu_(self.norm(self.conv(x)))
        h += 1.0
        return self.leaky(h.view(len(x), -1)).view(h.shape).mean((2, 3))

    def shared(self, x):
        h = self.conv(x)
        h.view(len(x), -1).relu_()
        return h.mean((2, 3))

    def dropped(self, x):
        self.drop.inplace = True
        return self.drop(torch.flatten(self.conv(x).mean((2, 3), keepdim=True), 1))

    functions = alone, dropped, shared
    plans = [sklrp.plan(Images(function), "epsilon", images()) for function in functions]
    assert [plan.exact for plan in plans] == [False, False, True]


# By arguments under which an operation changes nothing: it might return what it was given.
CHANGING_NOTHING = {
    "add": lambda x: x + 0,
    "sub": lambda x: x - 0,
    "mul": lambda x: x * 1,
    "div": lambda x: x / 1,
    "matmul": lambda x: x @ torch.eye(6),
    "bmm": lambda x: x.bmm(torch.eye(6).expand(2, 6, 6)),
    "rmatmul": lambda x: torch.eye(6).expand(2, 6, 6).__rmatmul__(x),
}
ARGUMENTS = {
    "Linear": (6, 6), "LayerNorm": (6,), "GroupNorm": (2, 4), "Conv": (4, 4, 1), "BatchNorm": (4,),
    "AvgPool": (1,), "MaxPool": (1,), "AdaptiveAvgPool": (6,), "AdaptiveMaxPool": (6,),
}  # fmt: skip


@pytest.mark.parametrize("operation", [k for k, entry in HANDLERS.items() if entry.handler in NEW])
def test_what_is_said_to_return_new_memory_does(operation):
    x = torch.ones(2, 4, 6)
    if isinstance(operation, type):
        name, n_axes = re.fullmatch(r"(.*?)(?:(\d)d)?", operation.__name__).groups()
        x = torch.ones(2, 4, *[6] * int(n_axes or 1))
        run = operation(*ARGUMENTS.get(name, ())).eval()
    else:
        run = CHANGING_NOTHING.get(operation) or (lambda x: getattr(torch, operation)([x]))
    assert run(x).untyped_storage().data_ptr() != x.untyped_storage().data_ptr()


class Kernel(nn.Module):
    """A dense layer whose weights have another name, and lie the other way round."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 6))

    def forward(self, x):
        return x @ self.kernel


class WrittenBehind(nn.Module):
    """A layer, and a change of a part of what it returns."""

    def __init__(self):
        super().__init__()
        self.dense, self.out = Kernel(), nn.Linear(6, 2, bias=False)
        self.double().eval()

    def forward(self, x):
        h = self.dense(x)
        h[:, :3] *= 2
        return self.out(torch.relu(h))


def test_a_layer_of_ones_own_may_take_the_handler_of_a_dense_layer(monkeypatch):
    monkeypatch.setitem(HANDLERS, Kernel, None)
    handler = HANDLERS[nn.Linear].handler
    sklrp.propagation.register(
        Kernel, kind="dense", weights=lambda layer: (layer.kernel.t(), None)
    )(handler)
    network, X = WrittenBehind(), np.random.default_rng(0).normal(size=(5, 4))
    x = torch.from_numpy(X).requires_grad_()
    (gradient,) = torch.autograd.grad(network(x)[:, 1].sum(), x)
    found = sklrp.explain(network, X, target=1, rule="zero", epsilon=0.0)
    np.testing.assert_allclose(found, X * gradient.numpy(), atol=1e-12)


class Seen(Recorder):
    """A recorder that is noted, with what it found."""

    runs: ClassVar[list[tuple[bool, bool]]] = []

    def __init__(self, *args, exact=True, **options):
        super().__init__(*args, exact=exact, **options)
        self.exact = exact

    def run(self, *args):
        tape = super().run(*args)
        self.runs.append((self.exact, self.writer.needs_exact))
        return tape


def probed_once(network, monkeypatch):
    """Return the runs on which one probe decides: whether memory was shared, and has to be."""
    monkeypatch.setattr(probing, "Recorder", Seen)
    monkeypatch.setattr(Seen, "runs", [])
    inputs = Inputs(images())
    probe = Probe(inputs, Intake.of(network, inputs))
    probing.probe_once(Twins(network), partial(make_step, epsilon=0.0), probe)
    return Seen.runs


def same_memory(self, x):
    h = self.conv(x)
    g = h.contiguous()
    h.relu_()
    return g.mean((2, 3))


def behind_a_reshape(self, x):
    h = self.conv(x)
    g = h.reshape(len(x), 4, -1)
    self.relu(h)
    return g.mean(2)


def behind_dropout(self, x):
    h = self.conv(x)
    g = self.drop(h)
    h.add_(1.0)
    return g.mean((2, 3))


def a_part_of_the_input(self, x):
    h = x[:, :1]
    x += 1.0
    return self.conv(x).mean((2, 3)) + h.mean((2, 3))


SHARING = [same_memory, behind_a_reshape, behind_dropout, a_part_of_the_input]


@pytest.mark.sweep(5)
@pytest.mark.parametrize("function", [*WHOLE, *SHARING], ids=lambda function: function.__name__)
def test_one_probe_finds_where_memory_is_shared(function, monkeypatch):
    torch.manual_seed(0)
    network = Images(function)
    needs = sklrp.plan(network, "epsilon", images()).exact
    assert needs or function not in SHARING
    runs = probed_once(network, monkeypatch)
    assert runs[-1][1] == needs
    assert not needs or runs[-1][0]
    assert_right(network, images())


def test_one_probe_shares_no_memory_where_nothing_else_lies_in_it(monkeypatch):
    def function(self, x):
        h = self.relu(self.norm(self.conv(x)))
        h += self.relu(self.norm(self.conv(x)))
        return self.relu(torch.cat([F.relu_(h), h], 1)[:, :4].mean((2, 3)) + 1.0)

    assert probed_once(Images(function), monkeypatch) == [(False, False)]


# --- Room that forward makes, and fills ----------------------------------------------------------


def by_columns(out, h):
    for k in range(h.shape[1]):
        out[:, k] = h[:, k]
    return out


ROOM = {
    "empty_like": lambda h: by_columns(torch.empty_like(h), h),
    "empty": lambda h: torch.empty(len(h), 6, dtype=h.dtype).copy_(h),
    "new_empty": lambda h: by_columns(h.new_empty(h.shape), h),
    "empty_strided": lambda h: by_columns(
        torch.empty_strided(h.shape, (1, len(h)), dtype=h.dtype), h
    ),
    "new_empty_strided": lambda h: by_columns(h.new_empty_strided(h.shape, (1, len(h))), h),
    "empty_permuted": lambda h: by_columns(
        torch.empty_permuted(h.shape, (1, 0), dtype=h.dtype), h
    ),
}


class Filled(nn.Module):
    """Writes what its layer returns into room that holds anything."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.a, self.b = nn.Linear(4, 6, bias=False), nn.Linear(6, 2, bias=False)
        self.double().eval()

    def forward(self, x):
        return self.b(self.function(torch.relu(self.a(x))))


@pytest.mark.parametrize("n_samples", [1, 5, 40])
@pytest.mark.parametrize("name", ROOM)
def test_room_that_forward_fills_is_followed(name, n_samples):
    torch.full((n_samples, 6), float("nan"), dtype=torch.double)  # stands in what is freed
    network = Filled(ROOM[name])
    assert_right(network, np.random.default_rng(0).normal(size=(n_samples, 4)))
