"""Each call of a network is explained as it is: types, arguments and attributes of that call."""

from __future__ import annotations

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import sklrp
from tests.helpers.gradients import assert_is_gradient_times_input
from tests.helpers.unchanged import assert_unchanged, snapshot


class Numbers(nn.Module):
    """Two inputs, floats and integers, and something made of both."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 4)
        self.embed, self.conv, self.out = nn.Embedding(6, 3), nn.Conv1d(1, 4, 2), nn.Linear(4, 2)
        self.double().eval()

    def forward(self, x, m):
        return self.out(F.relu(self.function(self, x, m)))


# Integers that become numbers; the same functions take them as floats in the reference.
CASTS = {
    "double": lambda self, x, m: self.a(m.double()) + self.b(x),
    "to a type": lambda self, x, m: self.a(m.to(torch.float64)) + self.b(x),
    "to another": lambda self, x, m: self.a(m.to(x)) + self.b(x),
    "to by name": lambda self, x, m: self.a(m.to(dtype=torch.float64, copy=True)) + self.b(x),
    "type": lambda self, x, m: self.a(m.type(torch.float64)) + self.b(x),
    "type by name": lambda self, x, m: self.a(m.type("torch.DoubleTensor")) + self.b(x),
    "type_as": lambda self, x, m: self.a(m.type_as(self.a.weight)) + self.b(x),
    "slice": lambda self, x, m: self.a(m[:, [2, 1, 0]].double()) + self.b(x),
    "slice of floats": lambda self, x, m: self.a(m.double()[:, [2, 1, 0]]) + self.b(x),
    "join": lambda self, x, m: F.linear(
        torch.cat([m.double(), x], 1), torch.cat([self.a.weight, self.b.weight], 1)
    ),
    "stack": lambda self, x, m: self.a(torch.stack([m.double(), x], 1).sum(1)),
    "sum of both": lambda self, x, m: self.a(m + x),
    "difference": lambda self, x, m: self.a(x - m),
    "standardised": lambda self, x, m: self.a((m.double() - 1.5) / 2.0) + self.b(x),
    "activated": lambda self, x, m: self.a(F.relu(m.double())) + self.b(x),
    "convolved": lambda self, x, m: self.conv(m.double()[:, None]).sum(2) + self.b(x),
    "summed": lambda self, x, m: (
        m.sum(1, keepdim=True, dtype=x.dtype) * self.a.weight[:, 0] + self.b(x)
    ),
    "mean": lambda self, x, m: m.double().mean(1, keepdim=True) * self.a.weight[:, 0] + self.b(x),
    "matmul": lambda self, x, m: m.double() @ self.a.weight.t() + self.b(x),
    "chosen": lambda self, x, m: self.a(torch.where(x > 0, m.double(), x)) + self.b(x),
    "larger": lambda self, x, m: self.a(torch.maximum(m.double(), x)) + self.b(x),
    "reshaped": lambda self, x, m: self.a(m.unsqueeze(1).to(x.dtype).flatten(1)) + self.b(x),
    "negative": lambda self, x, m: self.a(-m.double()) + self.b(x),
    "padded": lambda self, x, m: self.a(F.pad(m[:, :2], (0, 1)).double()) + self.b(x),
}


@pytest.mark.sweep(15)
@pytest.mark.parametrize("name", CASTS)
@pytest.mark.parametrize("dtype", ["int64", "int16", "uint8", "bool"])
def test_integers_that_are_cast_get_what_floats_get(name, dtype):
    if (name, dtype) == ("difference", "bool"):
        pytest.skip("torch subtracts no bool")
    generator = np.random.default_rng(0)
    x, m = generator.normal(size=(4, 3)), generator.integers(0, 6, size=(4, 3)).astype(dtype)
    torch.manual_seed(0)
    assert_is_gradient_times_input(Numbers(CASTS[name]), x, m)


def test_integers_by_hand():
    """w = (1/2, -1/4) and m = (3, 5): 3/2 and -5/4, in a tuple and in a dict."""
    network = Numbers(lambda self, x, m: None).double()
    network.forward = lambda x, m: F.linear(m.double(), network.w) + F.linear(x, network.w)
    network.w = nn.Parameter(torch.tensor([[0.5, -0.25]], dtype=torch.float64))
    for dtype in ("uint8", "int32", "int64"):
        x, m = np.ones((1, 2)), np.array([[3, 5]], dtype=dtype)
        for X in ((x, m), {"x": x, "m": m}):
            found = sklrp.explain(network, X, rule="zero", epsilon=0.0)
            found = tuple(found.values()) if isinstance(found, dict) else found
            np.testing.assert_array_equal(found[0], [[0.5, -0.25]])
            np.testing.assert_array_equal(found[1], [[1.5, -1.25]])


# Of one-hot vectors, or of rows of a parameter: what a network without an embedding layer does.
INDEXED = {
    "one-hot": lambda self, t: self.table(F.one_hot(t, 9).to(self.table.weight.dtype).sum(1)),
    "rows": lambda self, t: self.table.weight.t()[t].sum(1),
    "function": lambda self, t: F.embedding(t, self.table.weight.t()).sum(1),
    "unit vectors": lambda self, t: self.table(torch.eye(9, dtype=torch.double)[t].sum(1)),
}


class Indexed(nn.Module):
    """A network whose only input is integers."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.table, self.out = nn.Linear(9, 3, bias=False), nn.Linear(3, 2, bias=False)

    def forward(self, t):
        return self.out(self.function(self, t))

    def weights(self, target):
        """The weights of the two layers together."""
        return (self.out.weight @ self.table.weight).detach().numpy()[target]


@pytest.mark.parametrize("name", INDEXED)
def test_a_single_input_of_tokens_without_an_embedding_layer(name):
    torch.manual_seed(0)
    network = Indexed(INDEXED[name]).double()
    tokens = np.array([[1, 2, 8], [0, 3, 3]])
    found = sklrp.explain(network, tokens, rule="zero", epsilon=0.0, target=1)
    expected = network.weights(1)[tokens]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_single_input_of_small_integers_is_computed_as_torch_does():
    """200 * 2 is 144 in a byte: the score of the network, not of the numbers."""
    torch.manual_seed(0)
    pixels = np.array([[200, 3, 1] * 3, [0, 5, 77] * 3], dtype=np.uint8)
    network = Indexed(lambda self, t: self.table((t * 2).double())).double()
    found, details = sklrp.explain(
        network, pixels, rule="zero", epsilon=0.0, target=0, return_details=True
    )
    expected = network.weights(0) * (pixels * np.uint8(2)).astype(float)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(details.score, expected.sum(1), rtol=1e-12)

    doubled = Indexed(lambda self, t: self.table((t + t).double())).double()
    with pytest.raises(TypeError, match=r"'add' .* is not supported"):  # 144 of twice 200
        sklrp.explain(doubled, pixels, rule="zero", target=0)


def test_integers_beside_tokens():
    """Numbers get relevance, and so do tokens, by the sum over their vectors."""
    torch.manual_seed(0)
    network = Numbers(lambda self, t, m: self.a(m.double()) + self.b(self.embed(t).sum(1)))
    tokens, numbers = np.array([[1, 2, 5], [0, 3, 3]]), np.array([[3, 1, 4], [1, 5, 9]])
    relevance = sklrp.explain(network, (tokens, numbers), rule="zero", epsilon=0.0, target=1)

    vectors = network.embed(torch.tensor(tokens)).detach().requires_grad_()
    m = torch.tensor(numbers).double().requires_grad_()
    score = network.out(F.relu(network.a(m) + network.b(vectors.sum(1))))[:, 1].sum()
    of_vectors, of_numbers = torch.autograd.grad(score, [vectors, m])
    expected = [(vectors * of_vectors).sum(-1), m * of_numbers]
    for found, own in zip(relevance, expected, strict=True):
        np.testing.assert_allclose(found, own.detach().numpy(), rtol=1e-9, atol=1e-12)


class Twice(nn.Module):
    """One tensor as several operands of a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.a, self.b = nn.Linear(3, 4, bias=False), nn.Linear(3, 4, bias=False)
        self.register_buffer("m", torch.tensor([True, False, True, False]))
        self.rnn = nn.RNN(4, 4, batch_first=True, bias=False, nonlinearity="relu")
        self.cell = nn.RNNCell(4, 4, bias=False, nonlinearity="relu")
        self.double().eval()
        with torch.no_grad():
            size = self._hidden(torch.zeros(2, 3, dtype=torch.float64)).shape[1]
        self.out = nn.Linear(size, 2, bias=False).double()

    def _hidden(self, x):
        return self.function(self, self.a(x), self.b(x)).flatten(1)

    def forward(self, x):
        return self.out(self._hidden(x))


TWICE = {
    "where": lambda self, h, g: torch.where(self.m, h, h),
    "where of the input": lambda self, h, g: torch.where(h > g, h, h),
    "where as a method": lambda self, h, g: h.where(h > 0, h),
    "where of masks": lambda self, h, g: h * torch.where(h > 0, g > 0, h > 1),
    "where of masks as a method": lambda self, h, g: h * (h > 0).where(g > 0, h > 1),
    "maximum": lambda self, h, g: torch.maximum(h, h),
    "minimum": lambda self, h, g: torch.minimum(h, h),
    "maximum of opposites": lambda self, h, g: torch.maximum(h, -h),
    "cat": lambda self, h, g: torch.cat([h, g, h, h], 1),
    "stack": lambda self, h, g: torch.stack((h, h, g), 2),
    "hstack": lambda self, h, g: torch.hstack((h, h)),
    "column_stack": lambda self, h, g: torch.column_stack([h, h]),
    "add": lambda self, h, g: torch.add(h, h, alpha=0.3),
    "sub": lambda self, h, g: torch.sub(h, h, alpha=0.3),
    "rsub": lambda self, h, g: torch.rsub(h, h, alpha=0.3),
    "add in place": lambda self, h, g: h.add_(h, alpha=2),
    "mask of itself in place": lambda self, h, g: h.mul_(h > 0),
    "fill in place": lambda self, h, g: h.masked_fill_(h < 0, 0.0),
    "layer": lambda self, h, g: self.rnn(h[:, None], h[None])[0],
    "cell": lambda self, h, g: self.cell(h, h) + self.cell(h, self.cell(h, g)),
    "likeness": lambda self, h, g: h.expand_as(h) + h.view_as(h) + h.type_as(h),
    "sum of a list": lambda self, h, g: sum([h, h, h]),
}


@pytest.mark.parametrize("name", TWICE)
def test_one_tensor_twice(name):
    torch.manual_seed(0)
    X = np.random.default_rng(0).normal(size=(4, 3))
    assert_is_gradient_times_input(Twice(TWICE[name]), X)


class Sequences(nn.Module):
    """A recurrent layer over packed sequences, and what is made of its padded states."""

    def __init__(self, function, batch_first):
        super().__init__()
        self.function, self.batch_first = function, batch_first
        self.rnn = nn.RNN(3, 4, batch_first=batch_first, bias=False, nonlinearity="relu")
        self.lin, self.out = nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False)
        self.act, self.pool = nn.LeakyReLU(0.2), nn.MaxPool1d(2)
        self.by_steps = nn.Parameter(torch.randn(2, 9))
        self.norm = nn.BatchNorm1d(4)
        nn.init.normal_(self.norm.running_mean)
        nn.init.zeros_(self.norm.bias)
        self.double().eval()

    def states(self, x, lengths, **options):
        """Return (n_samples, n_steps, n_features)."""
        kind = {"batch_first": self.batch_first}
        x = x if self.batch_first else x.transpose(0, 1)
        packed = pack_padded_sequence(x, lengths.cpu(), enforce_sorted=False, **kind)
        h, _ = pad_packed_sequence(self.rnn(packed)[0], **kind, **options)
        return h if self.batch_first else h.transpose(0, 1)

    def forward(self, x, lengths):
        return self.function(self, x, lengths)


def without_a_layer(self, x, lengths):
    packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
    return self.out(self.rnn(pad_packed_sequence(packed, batch_first=True)[0])[0].sum(1))


def pool_by_attributes(self, x, lengths):
    h = self.states(x, lengths).transpose(1, 2)
    self.pool.kernel_size = self.pool.stride = h.size(2)
    return self.out(self.pool(h).squeeze(2))


def pool_by_arguments(self, x, lengths):
    h = self.states(x, lengths).transpose(1, 2)
    return self.out(F.max_pool1d(h, h.size(2)).squeeze(2))


def average_by_arguments(self, x, lengths):
    h = self.states(x, lengths).transpose(1, 2)
    return self.out(F.avg_pool1d(h, kernel_size=h.size(2)).flatten(1))


def slope_of_steps(self, x, lengths):
    h = self.lin(self.states(x, lengths))
    return self.out(F.leaky_relu(h, 0.05 * h.size(1)).sum(1))


def weights_of_steps(self, x, lengths):
    h = self.states(x, lengths).amax(2)
    return F.linear(h, self.by_steps[:, : h.size(1)])


def matrix_of_steps(self, x, lengths):
    h = self.states(x, lengths).amax(2)
    return h @ self.by_steps[:, : h.size(1)].t()


def two_slopes(self, x, lengths):
    h = self.lin(self.states(x, lengths))
    self.act.negative_slope = 0.5
    h = self.act(h)
    self.act.negative_slope = 0.1
    return self.out(self.act(self.lin(h)).sum(1))


PACKED = {
    "filled with less than all": lambda self, x, n: self.out(
        self.states(x, n, padding_value=-1e9).amax(1)
    ),
    "filled with ones": lambda self, x, n: self.out(self.states(x, n, padding_value=1.0).sum(1)),
    "total length": lambda self, x, n: self.out(
        self.states(x, n, total_length=9, padding_value=0.2).amin(1)
    ),
    "total length of the input": lambda self, x, n: self.out(
        self.states(x, n, total_length=x.size(1)).sum(1)
    ),
    "without a layer": without_a_layer,
    "pool": pool_by_arguments,
    "average": average_by_arguments,
    "pool by its attributes": pool_by_attributes,
    "slope": slope_of_steps,
    "weights": weights_of_steps,
    "matrix": matrix_of_steps,
    "two slopes": two_slopes,
}


@pytest.mark.sweep(6)
@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("batch_size", [None, 2, 1])
def test_sequences_of_unequal_lengths(name, batch_size):
    torch.manual_seed(0)
    X, lengths = np.random.default_rng(1).normal(size=(6, 5, 3)), np.array([3, 5, 2, 4, 1, 3])
    network = Sequences(PACKED[name], batch_first=name == "without a layer" or batch_size != 2)
    assert_is_gradient_times_input(network, X, lengths, batch_size=batch_size)


def test_padding_keeps_what_it_gets():
    network = Sequences(PACKED["filled with ones"], batch_first=True)
    X, lengths = np.random.default_rng(1).normal(size=(6, 5, 3)), np.array([3, 5, 2, 4, 1, 3])
    (relevance, _), details = sklrp.explain(
        network, (X, lengths), rule="zero", epsilon=0.0, target=1, return_details=True
    )
    padding = sum(layer.padding for layer in details.layers)
    own = network.out.weight.sum(1)[1].item() * (5 - lengths)  # ones at every step that is missing
    np.testing.assert_allclose(padding, own, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(relevance.sum((1, 2)) + padding, details.score, rtol=1e-9)


class Sets(nn.Module):
    """A forward that sets attributes of its layers, and puts them back."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.conv = nn.Conv1d(2, 4, 3, padding=1, bias=False)
        self.act, self.norm = nn.LeakyReLU(0.2), nn.BatchNorm1d(4)
        self.drop, self.pad, self.up = (
            nn.Dropout(0.5),
            nn.ZeroPad1d(1),
            nn.Upsample(scale_factor=2),
        )
        self.pool, self.prelu = nn.AvgPool1d(2), nn.PReLU(4)
        self.lin = nn.Linear(4, 4, bias=False)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)
        self.other = nn.Parameter(torch.randn(4, 4))
        self.out = nn.Linear(4, 2, bias=False)
        self.double().eval()

    def forward(self, x):
        return self.out(self.function(self, x).mean(2))


def set_slope(self, x):
    self.act.negative_slope = 0.5
    return self.act(self.conv(x))


def set_slope_between(self, x):
    self.act.negative_slope = 0.5
    h = self.act(self.conv(x))
    self.act.negative_slope = 0.1
    return self.act(-h)


def set_dropout(self, x):
    self.drop.p = 0.9
    return self.drop(self.conv(x))


def set_padding(self, x):
    self.conv.padding = (0,)
    h = self.conv(x)
    self.conv.padding, self.conv.stride = (2,), (3,)
    return F.relu(torch.cat([h, self.conv(x)], 2))


def set_eps(self, x):
    self.norm.eps = 0.7
    return self.norm(self.conv(x))


def set_eps_between(self, x):
    self.norm.eps = 0.7
    h = F.relu(self.norm(self.conv(x)))
    self.norm.eps = 0.1
    return self.norm(h)


def set_stride(self, x):
    self.pool.stride = (1,)
    self.pad.padding = (3, 0)
    self.up.scale_factor = 3.0
    return self.up(self.pool(self.pad(self.conv(x))))


def set_weights(self, x):
    h = self.conv(x).transpose(1, 2)
    first = self.lin(h)
    self.lin.weight = self.other
    return F.relu(first + self.lin(h)).transpose(1, 2)


def set_slopes(self, x):
    h = self.prelu(self.conv(x))
    self.prelu.weight = nn.Parameter(torch.full((1,), 0.7, dtype=x.dtype))
    return self.prelu(-h)


def set_in_place(self, x):
    self.act.inplace = True
    h = self.conv(x)
    self.act(h)
    return h


SETTERS = [
    set_slope, set_slope_between, set_dropout, set_padding, set_eps, set_eps_between, set_stride,
    set_weights, set_slopes, set_in_place,
]  # fmt: skip


@pytest.mark.parametrize("function", SETTERS, ids=lambda function: function.__name__)
def test_attributes_at_the_call(function):
    torch.manual_seed(0)
    network = Sets(function)
    make_biasless(network.norm)
    X = np.random.default_rng(0).normal(size=(4, 2, 6))
    before = snapshot(network, X)
    assert_is_gradient_times_input(network, X, batch_size=2)
    assert_unchanged(before, snapshot(network, X))


def make_biasless(*norms):
    """Let norms only scale, so that no relevance goes to a bias."""
    for norm in norms:
        nn.init.zeros_(norm.running_mean)
        nn.init.zeros_(norm.bias)


@pytest.mark.parametrize("by_sample", [False, True])
def test_integers_are_no_gates_of_a_cell(by_sample):
    """What holds for sigmoids, 1 - z and z times an initial state, does not for numbers."""

    def function(self, x, m):
        m = m.double()
        state = torch.full((len(m), 1), 2.0, dtype=x.dtype)
        return self.a(m * state if by_sample else 1.0 - m) + self.b(x)

    torch.manual_seed(0)
    x, m = np.random.default_rng(0).normal(size=(4, 3)), 2 + np.arange(12).reshape(4, 3)
    assert_is_gradient_times_input(Numbers(function), x, m)


def gelu_of(x):
    return x * 0.5 * (1 + torch.erf(x / 1.4142135623730951))


def test_an_output_behind_scripted_code_is_refused_with_what_hides_it():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which kind it is differs
        scripted_gelu = torch.jit.script(gelu_of)
    network = Numbers(lambda self, x, m: scripted_gelu(self.b(x)))
    with pytest.raises(ValueError, match=r"What scripted code \(torch.jit\), NumPy or another"):
        sklrp.explain(network, (np.ones((2, 3)), np.ones((2, 3))))


def test_a_product_with_a_matrix_of_integers_is_refused():
    network = Indexed(lambda self, t: self.table((t @ torch.eye(9, dtype=torch.long)).double()))
    with pytest.raises(TypeError, match="its weights are integers"):
        sklrp.explain(network.double(), np.full((2, 9), 3))


class Helped(nn.Module):
    """Two layers, and a function between them that may be compiled."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.b(self.function(self.a(x)))


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="torch knows no stance")
def test_compiled_functions_within_a_forward_run_as_written():
    compiled_for = []

    def backend(graph, inputs):
        compiled_for.append(len(inputs))
        return graph.forward

    function = torch.compile(lambda h: torch.relu(h) * 2, backend=backend)
    meeting = threading.Barrier(2)

    def meet(h):
        with suppress(threading.BrokenBarrierError):
            meeting.wait(10)  # both threads are inside
        return function(h)

    torch.manual_seed(0)
    network = Helped(lambda h: torch.relu(h) * 2).eval()
    X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    expected = sklrp.explain(network, X, target=1)
    others = [Helped(meet).eval() for _ in range(2)]
    for other in others:
        other.load_state_dict(network.state_dict())
    with ThreadPoolExecutor(2) as pool:
        maps = list(pool.map(lambda other: sklrp.explain(other, X, target=1), others))
    for found in maps:
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert not compiled_for
    function(torch.ones(2, 6))
    assert compiled_for  # elsewhere it is compiled as before


@pytest.mark.parametrize("make", [lambda: nn.Linear(4, 3), lambda: nn.Sequential(nn.Linear(4, 3))])
def test_a_chain_takes_one_input(make):
    net, X = make().eval(), np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    expected = sklrp.explain(net, X)
    np.testing.assert_array_equal(sklrp.explain(net, {"input": X})["input"], expected)
    np.testing.assert_array_equal(sklrp.explain(net, (X,))[0], expected)
    for several in ({"x": X}, (X, X), {"input": X, "x": X}):
        with pytest.raises(TypeError, match=r"X must be one array.*got X\["):
            sklrp.explain(net, several)
    pairs = ((X, np.zeros(5)) for _ in range(2))
    with pytest.raises(TypeError, match=r"of batches with labels pass the samples alone"):
        sklrp.explain(net, pairs)
