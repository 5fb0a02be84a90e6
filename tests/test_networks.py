"""Networks with a forward of their own, as users write them; see `helpers/networks.py`."""

from __future__ import annotations

import collections
import copy
import pickle
import re
import threading
import types
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from joblib import delayed
from joblib.externals.loky.backend.reduction import dumps
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

import sklrp
from sklrp import AlphaBeta, Composite, Epsilon, Flat, Gamma, WSquare, ZBox, Zero, ZPlus, _workers
from sklrp.modules import StatePooling
from sklrp.propagation import register
from sklrp.propagation.registry import HANDLERS
from tests.helpers.comparing import assert_same_to_rounding
from tests.helpers.networks import NETWORKS, arrays_of, build, call, draw, on_each
from tests.helpers.parameters import randomised
from tests.helpers.unchanged import assert_unchanged, snapshot

pytestmark = pytest.mark.filterwarnings("ignore:The flat rule on the dense first layer")

CAUSES = ("bias", "epsilon", "padding", "initial_state", "dropped")
HEADS = {
    None: lambda scores: scores,
    "sigmoid": torch.sigmoid,
    "softmax": partial(torch.softmax, dim=1),
    "log_softmax": partial(torch.log_softmax, dim=1),
}
every_network = pytest.mark.parametrize("name", NETWORKS)
explain = partial(sklrp.explain, rule="epsilon")


def assert_same(actual, desired, tolerance):
    """Hold relevance of each input against other, relative to the largest of all."""
    actual, desired = arrays_of(actual), arrays_of(desired)
    scale = max(np.abs(one).max() for one in desired)
    assert scale > 0
    for one, other in zip(actual, desired, strict=True):
        assert one.shape == other.shape
        difference = np.abs(one - other).max() / scale
        assert difference <= tolerance, f"differs by {difference:.1e} of {scale:.1e}"


def total(relevance, n_axes):
    """Sum the relevance of all inputs over everything behind the first axes."""
    return sum(one.reshape(*one.shape[:n_axes], -1).sum(-1) for one in arrays_of(relevance))


def assert_accounted(relevance, details, tolerance=1e-9):
    """Relevance and what the layers kept sum to the score."""
    n_axes = np.ndim(details.score)
    found, size = total(relevance, n_axes), total(on_each(np.abs, relevance), n_axes)
    for layer in details.layers:
        for cause in CAUSES:
            found, size = found + layer[cause], size + np.abs(layer[cause])
    assert (np.abs(found - details.score) <= tolerance * (size + np.abs(details.score))).all()


# --- The reference: gradient x input of a pass made linear ----------------------------------


def through(activation, x):
    """Apply an activation as a factor, such that gradient x input is handed through."""
    y = activation(x)
    return x * torch.where(x == 0, 0.0, y / x).detach()


def standardised(x, dims, eps):
    variance, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    return (x - mean) / (variance + eps).sqrt().detach()


def layer_norm(x, shape, weight=None, bias=None, eps=1e-5, *_):
    x = standardised(x, tuple(range(-len(shape), 0)), eps)
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def group_norm(x, n_groups, weight=None, bias=None, eps=1e-5, *_):
    shape = (1, -1, *(1,) * (x.dim() - 2))
    x = standardised(x.unflatten(1, (n_groups, -1)), tuple(range(2, x.dim() + 1)), eps).flatten(
        1, 2
    )
    x = x if weight is None else x * weight.view(shape)
    return x if bias is None else x + bias.view(shape)


def glu(x, dim=-1):
    signal, gate = x.chunk(2, dim)
    return signal * gate.sigmoid().detach()


def lstm_cell(x, state, w_ih, w_hh, b_ih=None, b_hh=None):
    h, c = state
    i, f, g, o = (F.linear(x, w_ih, b_ih) + F.linear(h, w_hh, b_hh)).chunk(4, -1)
    i, f, o = (gate.sigmoid().detach() for gate in (i, f, o))
    c = f * c + i * through(torch.tanh, g)
    return o * through(torch.tanh, c), c


def gru_cell(x, state, w_ih, w_hh, b_ih=None, b_hh=None):
    r, u, n = F.linear(x, w_ih, b_ih).chunk(3, -1)
    r_h, u_h, n_h = F.linear(state[0], w_hh, b_hh).chunk(3, -1)
    r, u = ((a + b).sigmoid().detach() for a, b in ((r, r_h), (u, u_h)))
    return ((1 - u) * through(torch.tanh, n + r * n_h) + u * state[0],)


def rnn_cell(x, state, w_ih, w_hh, b_ih=None, b_hh=None):
    return (through(torch.tanh, F.linear(x, w_ih, b_ih) + F.linear(state[0], w_hh, b_hh)),)


def one_step(cell, x, state, *weights):
    """Run a recurrent cell as torch does, with one state for one state."""
    return cell(x, (state,), *weights)[0]


def recurrent(cell, x, states, weights, bias, n_layers, _p, _train, bidirectional, batch_first):
    x = x.transpose(0, 1) if batch_first else x
    size, last = 4 if bias else 2, []
    for layer in range(n_layers):
        outputs = []
        for direction in range(1 + bidirectional):
            k = layer * (1 + bidirectional) + direction
            state, hidden = tuple(start[k] for start in states), [None] * len(x)
            for t in reversed(range(len(x))) if direction else range(len(x)):
                state = cell(x[t], state, *weights[k * size : (k + 1) * size])
                hidden[t] = state[0]
            outputs.append(torch.stack(hidden))
            last.append(state)
        x = torch.cat(outputs, -1)
    x = x.transpose(0, 1) if batch_first else x
    return (x, *(torch.stack(states) for states in zip(*last, strict=True)))


def packed_or_not(cell, x, *options):
    """Run a recurrent layer on an array, or on packed sequences one after the other."""
    sizes = None
    if isinstance(options[0], torch.Tensor) and not options[0].is_floating_point():
        sizes, *options = options
    states, *options = options
    states = (states,) if isinstance(states, torch.Tensor) else states
    if sizes is None:
        return recurrent(cell, x, states, *options)
    starts = [0, *sizes.cumsum(0).tolist()]
    out, last = [None] * len(x), []
    for k in range(int(sizes[0])):
        rows = [start + k for start, size in zip(starts, sizes.tolist(), strict=False) if k < size]
        own = [state[:, k : k + 1] for state in states]
        steps, *final = recurrent(cell, x[rows][:, None], own, *options, False)
        last.append(final)
        for row, step in zip(rows, steps, strict=True):
            out[row] = step[0]
    return (torch.stack(out), *(torch.cat(state, 1) for state in zip(*last, strict=True)))


REWRITTEN = {
    "layer_norm": layer_norm,
    "group_norm": group_norm,
    "glu": glu,
    "lstm_cell": lstm_cell,
    "gru_cell": partial(one_step, gru_cell),
    "rnn_tanh_cell": partial(one_step, rnn_cell),
    "lstm": partial(packed_or_not, lstm_cell),
    "gru": partial(packed_or_not, gru_cell),
    "rnn_tanh": partial(packed_or_not, rnn_cell),
}
SMOOTH = {"tanh", "gelu", "silu", "softplus", "elu", "relu6", "hardtanh", "hardtanh_"}
GATES = {"sigmoid", "softmax"}


class Linear(TorchFunctionMode):
    """Run a forward pass that has its own gradient as weights.

    A gate is a constant factor, a smooth activation multiplies by its output over its input, a
    norm divides by a constant, and the head is left out. Rule zero is then gradient x input. On
    a network of ReLUs nothing is changed but for the head.
    """

    def __init__(self, head):
        super().__init__()
        self.head, self.changed, self.embedded = head, set(), []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name, kwargs = getattr(function, "__name__", ""), kwargs or {}
        if name == self.head:
            return args[0].clone()
        if name == "embedding":
            out = function(*args, **kwargs).detach().requires_grad_()
            words = next(arg for arg in args if not arg.is_floating_point())
            self.embedded.append((words, out))
            return out
        if name not in (*REWRITTEN, *SMOOTH, *GATES):
            return function(*args, **kwargs)
        self.changed.add(name)
        if name in REWRITTEN:
            return REWRITTEN[name](*args, **kwargs)
        if name in GATES:
            return function(*args, **kwargs).detach()
        x, *rest = args
        return through(lambda x: function(x.clone(), *rest, **kwargs), x)


def reference(model, X, head=None):
    """Return the relevance by rule zero for every output, the scores, and what was rewritten."""
    tensors = on_each(
        lambda x: torch.tensor(x, requires_grad=x.dtype.kind == "f").requires_grad_(
            x.dtype.kind == "f"
        ),
        X,
    )
    with Linear(head) as mode:
        scores = call(model, tensors)
    scores = scores[0] if isinstance(scores, tuple) else scores
    scores = scores.reshape(len(scores), -1)
    floats = [x for x in arrays_of(tensors) if x.requires_grad]
    outs = [out for _, out in mode.embedded]
    gradients = [
        torch.autograd.grad(column.sum(), [*floats, *outs], retain_graph=True)
        for column in scores.T
    ]

    def relevance_of(x):
        if x.requires_grad:
            place = next(k for k, one in enumerate(floats) if one is x)
            parts = [x * gradient[place] for gradient in gradients]
        else:
            parts = [torch.zeros(x.shape, dtype=torch.float64) for _ in gradients]
            for k, (words, out) in enumerate(mode.embedded, start=len(floats)):
                if words.untyped_storage().data_ptr() == x.untyped_storage().data_ptr():
                    places = torch.arange(x.numel()).as_strided(
                        words.shape, words.stride(), words.storage_offset()
                    )
                    for part, gradient in zip(parts, gradients, strict=True):
                        found = (out * gradient[k]).sum(-1)
                        part.view(-1).index_add_(0, places.flatten(), found.flatten())
        return torch.stack(parts, 1).detach().numpy()

    return on_each(relevance_of, tensors), scores.detach().numpy(), mode.changed


def forward(model, X):
    """Return what the network itself says, in evaluation mode."""
    with torch.no_grad():
        out = call(model, on_each(torch.tensor, X))
    return out[0] if isinstance(out, tuple) else out


@pytest.mark.sweep(20)
@every_network
@pytest.mark.parametrize("bias", [True, False])
def test_the_reference_computes_what_the_network_does(name, bias):
    model, X = build(name, bias), draw(name)
    out = forward(model, X)
    _, scores, changed = reference(model, X, NETWORKS[name].head)
    assert scores.shape == (3, NETWORKS[name].outputs)
    head = HEADS[NETWORKS[name].head](torch.tensor(scores)).reshape(out.shape)
    torch.testing.assert_close(head, out, rtol=1e-12, atol=1e-13)
    assert bool(changed) != NETWORKS[name].relu
    assert (np.abs(scores) > 1e-6).all()


def test_the_reference_by_formulas():
    """Two networks with gates, their forward written with the gates as constants."""
    model, X = build("Highway"), draw("Highway")
    x = start = torch.tensor(X, requires_grad=True)
    for plain, gate in zip(model.plain, model.gate, strict=True):
        t = 1 / (1 + torch.exp(-gate(x.detach())))
        x = t * F.relu(plain(x)) + x - t * x
    (gradient,) = torch.autograd.grad(model.out(x)[:, 1].sum(), start)
    assert_same(reference(model, X)[0][:, 1], (gradient * start).detach().numpy(), 1e-12)

    model, X = build("SqueezeExcite"), draw("SqueezeExcite")
    start = torch.tensor(X, requires_grad=True)
    x = F.relu(model.conv(start))
    gates = model.fc(x.detach().mean((2, 3)))
    (gradient,) = torch.autograd.grad(
        model.head((x * gates[..., None, None]).mean((2, 3)))[:, 1].sum(), start
    )
    expected = (gradient * start).detach().numpy()
    assert_same(reference(model, X)[0][:, 1], expected, 1e-12)


# --- Right answers --------------------------------------------------------------------------


# The gradient takes the weights of an attention as constants, as it takes all gates.
ZERO = Composite([("all", Zero(), "all")], attention="constant")


@pytest.mark.sweep(8)
@every_network
@pytest.mark.parametrize("bias", [True, False])
def test_zero_is_gradient_times_input(name, bias):
    model, X = build(name, bias), draw(name)
    expected, scores, _ = reference(model, X, NETWORKS[name].head)
    of_zero = partial(explain, model, X, rule=ZERO, epsilon=0.0)
    assert_same(of_zero(target="all"), expected, 1e-9)

    rows, best = np.arange(len(scores)), scores.argmax(1)
    assert_same(of_zero(), on_each(lambda one: one[rows, best], expected), 1e-9)
    last = NETWORKS[name].outputs - 1
    assert_same(of_zero(target=last), on_each(lambda one: one[:, last], expected), 1e-9)
    if last:
        others = np.where(np.arange(last + 1) == last, -np.inf, scores).argmax(1)
        contrast = on_each(lambda one: one[:, last] - one[rows, others], expected)
        assert_same(of_zero(target=last, contrast=True), contrast, 1e-9)


@pytest.mark.sweep(8)
@every_network
def test_relevance_is_conserved_without_biases(name):
    """Nothing but what is really kept is lost, by any rule."""
    model, X = build(name, bias=False), draw(name)
    relevance, details = explain(
        model, X, target="all", rule=ZERO, epsilon=0.0, return_details=True
    )
    size = total(on_each(np.abs, relevance), 2)
    assert (np.abs(total(relevance, 2) - details.score) <= 1e-9 * size).all()
    for layer in details.layers:
        np.testing.assert_array_equal(layer.bias, 0.0)


@pytest.mark.sweep(20)
@every_network
@pytest.mark.parametrize(
    "rule", [Epsilon(), Gamma(), AlphaBeta(), ZPlus(), WSquare(), Flat(), "auto"], ids=repr
)
def test_details_account_for_the_score(name, rule):
    model, X = build(name), draw(name)
    relevance, details = explain(model, X, target="all", rule=rule, return_details=True)
    assert_accounted(relevance, details)
    out, score = forward(model, X), torch.tensor(details.score)
    assert details.score.shape == (3, NETWORKS[name].outputs)
    assert details.head == NETWORKS[name].head
    np.testing.assert_array_equal(details.target, np.arange(score.shape[1]) + np.zeros((3, 1)))
    head = HEADS[details.head](score).reshape(out.shape)
    torch.testing.assert_close(head, out, rtol=1e-12, atol=1e-13)
    for one, x in zip(arrays_of(relevance), arrays_of(X), strict=True):
        assert one.shape == (3, NETWORKS[name].outputs, *x.shape[1:])
        assert one.dtype == np.float64
        assert np.isfinite(one).all()
    if NETWORKS[name].outputs > 1 and rule == "auto":
        assert_accounted(*explain(model, X, rule=rule, contrast=True, return_details=True))


@pytest.mark.sweep(4)
@every_network
def test_samples_do_not_see_each_other(name):
    model, X = build(name), draw(name, 7)
    of = partial(explain, model, target="all", rule="auto")
    everything = of(X)

    def rows(span):
        return on_each(lambda one: one[span], X), on_each(lambda one: one[span], everything)

    spans = [slice(0, 3), [5, 0, 0, 2]]
    for span in [*spans, slice(0, 1), slice(3, 4)]:
        some, expected = rows(span)
        assert_same(of(some), expected, 1e-10)
    assert_same(of(X, batch_size=2), everything, 1e-10)


@pytest.mark.sweep(3)
@every_network
def test_several_threads_on_one_module(name):
    model, X = build(name).train(), draw(name, 4)
    rules = ["epsilon", "z_plus"] * 2
    explain(model, X)  # what it finds serves the others, which then round alike
    expected = [explain(model, X, rule=rule) for rule in rules[:2]] * 2
    barrier = threading.Barrier(4)

    def work(rule):
        barrier.wait(30)
        return explain(model, X, rule=rule)

    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(work, rules), expected, strict=True):
            for one, other in zip(arrays_of(found), arrays_of(wanted), strict=True):
                np.testing.assert_array_equal(one, other)


# --- Nothing of the caller's is changed -----------------------------------------------------


@pytest.mark.sweep(8)
@every_network
def test_nothing_of_the_callers_is_changed(name):
    """Also not of a network in training mode, with one part of it frozen and gradients held."""
    model, X = build(name), draw(name)
    expected = explain(model, X, rule="auto")
    model.train()
    first = next(iter(model.children()), model)
    first.eval()
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)
    parameters[-1].grad = torch.ones_like(parameters[-1])
    before = snapshot(model, X)
    relevance = explain(model, X, rule="auto")
    explain(model, X, target="all", rule="zero", return_details=True)
    assert_unchanged(before, snapshot(model, X))
    assert_same(relevance, expected, 1e-13)


class Remembers(nn.Module):
    """A network that keeps what it saw, in some way or other."""

    def __init__(self, kept, keep):
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 2)
        self.register_buffer("calls", torch.zeros(1))
        self.kept, self.keep = kept, keep

    def forward(self, x):
        hidden = F.relu(self.first(x))
        self.keep(self, hidden)
        return self.second(hidden)


def keep_attribute(self, hidden):
    self.kept = hidden


def keep_in_dict(self, hidden):
    self.kept["hidden"] = hidden


def keep_buffer(self, hidden):
    self.calls = self.calls + 1
    self.register_buffer("last", hidden.detach())


def keep_in_array(self, hidden):
    self.kept += 1


def keep_in_namespace(self, hidden):
    self.kept.hidden = hidden


@pytest.mark.parametrize(
    ("kept", "keep"),
    [
        (None, keep_attribute),
        (None, keep_buffer),
        ([], lambda self, hidden: self.kept.append(hidden)),
        ([[]], lambda self, hidden: self.kept[0].append(hidden)),
        ({"seen": []}, lambda self, hidden: self.kept["seen"].append(hidden)),
        ({}, keep_in_dict),
        (set(), lambda self, hidden: self.kept.add(hidden)),
        (collections.defaultdict(list), keep_in_dict),
        (collections.OrderedDict(), keep_in_dict),
        (collections.deque(), lambda self, hidden: self.kept.append(hidden)),
        (types.SimpleNamespace(hidden=None), keep_in_namespace),
        (np.zeros(1), keep_in_array),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_what_a_forward_keeps_does_not_reach_the_callers_module(kept, keep):
    """The network may be refused, but the module is left as it was."""
    model = randomised(Remembers(kept, keep))
    X = np.random.default_rng(0).normal(size=(3, 4))
    before, shown = snapshot(model, X), repr(kept)
    plain = nn.Sequential(model.first, nn.ReLU(), model.second)
    try:
        relevance = explain(model, X)
    except TypeError as error:
        relevance, refusal = None, str(error)
    assert_unchanged(before, snapshot(model, X))
    assert repr(kept) == shown
    if relevance is None:
        assert "not supported" in refusal
    else:
        assert_same(relevance, explain(plain, X), 1e-12)


def test_forward_that_fails_leaves_nothing_behind():
    model, X = build("ResNet").train(), draw("ResNet")
    before = snapshot(model, X)
    with pytest.raises(ValueError, match="X"):
        explain(model, X[:, :2])
    assert_unchanged(before, snapshot(model, X))


# --- The same as layer after layer ----------------------------------------------------------


class Wrapped(nn.Module):
    """A network inside another module's forward."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)


def sequential_of(name, model):
    """Return the layers of a network of the zoo, which it shares."""
    if name == "LeNet":
        return nn.Sequential(
            model.conv1, nn.ReLU(), model.conv2, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            model.fc1, nn.ReLU(), model.fc2,
        )  # fmt: skip
    if name == "VGG":
        return nn.Sequential(*model.features, model.avgpool, nn.Flatten(), *model.classifier)
    if name == "VideoNet":
        return nn.Sequential(
            model.conv1, model.bn1, nn.ReLU(), nn.MaxPool3d((1, 2, 2)), model.conv2,
            nn.LeakyReLU(0.1), nn.AdaptiveAvgPool3d(1), nn.Flatten(), model.fc,
        )  # fmt: skip
    if name == "LastState":
        return nn.Sequential(model.lstm, StatePooling("last"), nn.Linear(4, 2))
    return model.net


class LastState(nn.Module):
    """An LSTM's last state, and its mean over time."""

    def __init__(self, pooling, bidirectional):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, 2, batch_first=True, bidirectional=bidirectional)
        self.fc = nn.Linear(8 if bidirectional else 4, 2)
        self.pooling = pooling

    def forward(self, x):
        output, (hidden, _) = self.lstm(x)
        if self.pooling == "mean":
            return self.fc(output.mean(1))
        if self.pooling == "max":
            return self.fc(torch.max(output, 1)[0])
        return self.fc(
            torch.cat((hidden[-2], hidden[-1]), -1) if self.lstm.bidirectional else hidden[-1]
        )


def pairs():
    """Yield networks and the equivalent Sequentials, with their input."""
    for name in ("LeNet", "VGG", "VideoNet"):
        model = build(name)
        yield name, model, sequential_of(name, model), draw(name)
    torch.manual_seed(0)
    for pooling in ("last", "mean", "max"):
        for bidirectional in (False, True):
            model = LastState(pooling, bidirectional).double()
            plain = nn.Sequential(model.lstm, StatePooling(pooling), model.fc)
            X = np.random.default_rng(0).normal(size=(3, 5, 3))
            yield f"LSTM-{pooling}-{bidirectional}", model, plain, X
    layers = [
        nn.BatchNorm1d(4), nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 5),
        nn.GELU(), nn.Linear(5, 3), nn.BatchNorm1d(3),
    ]  # fmt: skip
    plain = nn.Sequential(*layers).double().eval()
    for norm in (layers[0], layers[2], layers[7]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
    yield "MLP", Wrapped(plain), plain, np.random.default_rng(0).normal(size=(3, 4))


PAIRS = {name: rest for name, *rest in pairs()}
BOX = Composite(
    [("box", ZBox(-4.0, 4.0), "first"), ("conv", Gamma(), "conv"), ("rest", Epsilon(), "all")]
)
RULES = [r for r in sklrp.available_rules() if r not in ("z_box", "epsilon_gamma_box")]


@pytest.mark.sweep(12)
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("rule", [*RULES, BOX], ids=str)
def test_same_as_the_sequential(name, rule):
    model, plain, X = PAIRS[name]
    expected, told = explain(plain, X, target="all", rule=rule, return_details=True)
    relevance, details = explain(model, X, target="all", rule=rule, return_details=True)
    assert_same(relevance, expected, 1e-10)
    for cause in CAUSES:
        kept, wanted = (sum(layer[cause] for layer in d.layers) for d in (details, told))
        np.testing.assert_allclose(kept, wanted, rtol=1e-9, atol=1e-9 * np.abs(told.score).max())


# --- States of recurrent layers, used in any way --------------------------------------------


class Recurrent(nn.Module):
    """Recurrent layers, and a function that uses them."""

    def __init__(self, function):
        super().__init__()
        self.lstm = nn.LSTM(3, 3, batch_first=True)
        self.lstm2 = nn.LSTM(3, 3, 2, bidirectional=True)
        self.gru = nn.GRU(3, 3, batch_first=True)
        self.gru2 = nn.GRU(3, 3, bidirectional=True, batch_first=True)
        self.rnn = nn.RNN(3, 3, 2, batch_first=True)
        self.cells = nn.ModuleList([nn.LSTMCell(3, 3), nn.GRUCell(3, 3), nn.RNNCell(3, 3)])
        self.start = nn.Parameter(torch.randn(2, 1, 1, 3))
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def cells_in_turn(self, x):
    (h, c), h1, h2 = self.cells[0](x[:, 0]), x[:, 1], None
    for t in range(x.size(1)):
        h, c = self.cells[0](x[:, t], (h, c))
        h1 = self.cells[1](h, h1)
        h2 = self.cells[2](h1, h2)
    return h2 + c


def packed_mean(self, x):
    lengths = torch.arange(x.size(0)) % 4 + 1
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    states, _ = pad_packed_sequence(self.gru2(packed)[0], batch_first=True)
    return states.sum(1) / lengths.unsqueeze(1)


def packed_time_first(self, x):
    lengths = (4 - torch.arange(x.size(0)) % 4).sort(descending=True)[0]
    packed = pack_padded_sequence(x.transpose(0, 1), lengths)
    packed, (h, c) = self.lstm2(packed)
    states, lengths = pad_packed_sequence(packed, total_length=4)
    return states.max(0)[0] + torch.cat([h[0], c[3]], 1)


def encoder_decoder(self, x):
    _, state = self.lstm(x[:, :2])
    states, _ = self.lstm(x[:, 2:], state)
    return torch.cat([states[:, 0], states[:, 1] + state[0][0]], 1)


def started(self, x):
    h, c = self.start.expand(-1, -1, x.size(0), -1)
    return self.lstm(x, (h.contiguous(), c.contiguous()))[0].mean(1)


RECURRENT = {
    "all states": lambda self, x: self.lstm(x)[0].flatten(1),
    "cell": lambda self, x: self.lstm(x)[1][1][-1],
    "everything": lambda self, x: (
        (out := self.lstm(x))[0].sum(1) + out[1][0].squeeze(0) - 2 * out[1][1][0]
    ),
    "layers and directions": lambda self, x: torch.cat(
        [*self.lstm2(x.permute(1, 0, 2))[1][0].unbind(0), self.lstm2(x.transpose(0, 1))[0][1]], 1
    ),
    "directions added": lambda self, x: sum(self.gru2(x)[0].chunk(2, -1))[:, -1],
    "one upon the other": lambda self, x: self.rnn(self.gru(self.lstm(x)[0] + x)[0])[0][:, -1],
    "last state of a GRU": lambda self, x: self.gru2(x)[1].transpose(0, 1).reshape(len(x), -1),
    "started by parameters": started,
    "started by the input": lambda self, x: self.gru(x, x[:, :1].transpose(0, 1).contiguous())[0][
        :, -1
    ],
    "encoder and decoder": encoder_decoder,
    "cells": cells_in_turn,
    "packed": packed_mean,
    "packed, time first": packed_time_first,
    "backwards": lambda self, x: self.rnn(x.flip(1))[1].mean(0),
}


@pytest.mark.sweep(7)
@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize("n_samples", [5, 4, 1])
def test_states_are_used_in_any_way(name, n_samples):
    torch.manual_seed(0)
    model = Recurrent(RECURRENT[name]).double().eval()
    X = np.random.default_rng(0).normal(size=(n_samples, 4, 3))
    expected, scores, _ = reference(model, X)
    np.testing.assert_allclose(scores, forward(model, X).numpy(), rtol=1e-10)
    relevance, details = explain(
        model, X, target="all", rule="zero", epsilon=0.0, return_details=True
    )
    assert_same(relevance, expected, 1e-9)
    assert_accounted(relevance, details)
    np.testing.assert_allclose(details.score, scores, rtol=1e-10)
    assert_accounted(*explain(model, X, rule="alpha_beta", return_details=True))


# --- Worked by hand, and what is told -------------------------------------------------------


class Residual(nn.Module):
    """x + W x, then a sum."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 2, bias=False)
        self.inner.weight.data = torch.tensor([[1.0, 2.0], [0.0, -1.0]])

    def forward(self, x):
        return x + self.inner(x)


class Hand(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return self.block(x).sum(1, keepdim=True)


def test_residual_by_hand():
    # x = (3, 1): W x = (5, -1), y = x + W x = (8, 0), score 8. The sum shares 8 as (8, 0), the
    # addition as x: 3 and W x: 5 (at y_2 = 0 there is nothing to share), and 5 = 1 * 3 + 2 * 1 is
    # shared as 3 and 2: in all 6 for x_1 and 2 for x_2.
    model = Hand(Residual()).double()
    relevance, details = explain(model, np.array([[3.0, 1.0]]), epsilon=0.0, return_details=True)
    np.testing.assert_allclose(relevance, [[6.0, 2.0]], rtol=1e-12)
    assert details.score == 8.0
    names = [layer.name for layer in details.layers]
    assert "block.inner" in names
    assert "block.add" in names
    # With epsilon = 1 everywhere: the sum gives (8, 0) / 9 * 8 = 64/9 to y_1, the addition 64/81
    # of it to each unit of its summands 3 and 5, W gives 5/6 of 320/81 on.
    relevance, details = explain(model, np.array([[3.0, 1.0]]), epsilon=1.0, return_details=True)
    at_y = 8 * 8 / 9
    at_inner = at_y * 5 / 9
    np.testing.assert_allclose(
        relevance, [[at_y * 3 / 9 + at_inner * 3 / 6, at_inner * 2 / 6]], rtol=1e-12
    )
    assert_accounted(relevance, details, 1e-12)


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.signal, self.gate = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
        self.signal.weight.data = torch.tensor([[2.0, 4.0]])
        self.gate.weight.data = torch.tensor([[1.0, -1.0]])

    def forward(self, x):
        return self.signal(x) * torch.sigmoid(self.gate(x)) + 0.5


def test_gate_and_constant_by_hand():
    # x = (1, 1): the signal is 6, the gate sigmoid(0) = 1/2, the score 3 + 0.5. The constant keeps
    # its 0.5; 3 goes to the signal, as 1 and 2; nothing to the gate.
    relevance, details = explain(
        Gated().double(), np.ones((1, 2)), epsilon=0.0, return_details=True
    )
    np.testing.assert_allclose(relevance, [[1.0, 2.0]], rtol=1e-12)
    np.testing.assert_allclose(sum(layer.bias for layer in details.layers), 0.5, rtol=1e-12)


def test_layers_are_told_by_their_paths():
    _, details = explain(build("ResNet"), draw("ResNet"), return_details=True)
    names = [layer.name for layer in details.layers]
    assert [name for name in names if "conv" in name] == [
        "conv1",
        "layer1.0.conv1",
        "layer1.0.conv2",
        "layer1.1.conv1",
        "layer1.1.conv2",
        "layer2.0.conv1",
        "layer2.0.conv2",
    ]
    rules = {layer.name: layer.rule for layer in details.layers}
    assert rules["layer2.0.conv2"] == Epsilon()


def test_rules_by_place():
    """A composite reaches into a network by names, kinds and order of execution."""
    model, X = build("WideAndDeep"), draw("WideAndDeep")
    rule = Composite(
        [("deep", Gamma(), "deep"), ("wide", Flat(), "wide"), ("e", Epsilon(), "all")]
    )
    _, details = explain(model, X, rule=rule, return_details=True)
    rules = {layer.name: layer.rule for layer in details.layers}
    assert [rules[name] for name in ("deep.0", "deep.3", "wide")] == [Gamma(), Gamma(), Flat()]
    model, X = build("TextCNN"), draw("TextCNN")
    _, details = explain(model, X, rule="epsilon_plus", return_details=True)
    rules = {layer.name: layer.rule for layer in details.layers}
    assert [rules[name] for name in ("convs.0", "convs.2", "fc")] == [ZPlus(), ZPlus(), Epsilon()]


@pytest.mark.parametrize(
    ("head", "told"),
    [
        (nn.Softmax(dim=1), "softmax"),
        (nn.LogSoftmax(1), "log_softmax"),
        (nn.Sigmoid(), "sigmoid"),
        (nn.LogSigmoid(), "logsigmoid"),
        (lambda x: F.softmax(x, -1), "softmax"),
        (lambda x: x.log_softmax(1), "log_softmax"),
        (F.logsigmoid, "logsigmoid"),
        (torch.sigmoid, "sigmoid"),
        (nn.Identity(), None),
        (F.tanh, None),
    ],
)
def test_heads_are_stepped_over(head, told):
    class Net(nn.Module):
        def __init__(self, head):
            super().__init__()
            self.fc, self.head = nn.Linear(4, 3), head

        def forward(self, x):
            return self.head(self.fc(x))

    model, X = Net(head).double(), np.random.default_rng(0).normal(size=(3, 4))
    relevance, details = explain(model, X, target="all", return_details=True)
    assert details.head == told
    expected, plain = explain(nn.Sequential(model.fc), X, target="all", return_details=True)
    if told is not None or isinstance(head, nn.Identity):
        assert_same(relevance, expected, 1e-13)
        np.testing.assert_allclose(details.score, plain.score, rtol=1e-13)
    else:
        np.testing.assert_allclose(details.score, np.tanh(plain.score), rtol=1e-13)


def test_tensors_in_and_out():
    """In the structure and of the kinds of the input."""
    model, (image, table) = build("ImageAndTable"), draw("ImageAndTable")
    expected = explain(model, (image, table))
    found = explain(model, {"table": torch.tensor(table).float(), "image": image})
    assert list(found) == ["table", "image"]
    assert isinstance(found["table"], torch.Tensor)
    assert found["table"].dtype == torch.float32
    assert isinstance(found["image"], np.ndarray)
    np.testing.assert_allclose(found["image"], expected[0], atol=1e-5)
    np.testing.assert_allclose(found["table"].numpy(), expected[1], atol=1e-5)


class ChangesItsInput(nn.Module):
    """A careless network."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        x -= 1.0
        return self.fc(F.relu_(x))


def test_input_that_the_network_changes():
    X = np.random.default_rng(0).normal(size=(3, 4))
    model = ChangesItsInput().double()
    plain = nn.Sequential(nn.ReLU(), model.fc)
    expected = explain(plain, X - 1.0) * (X / (X - 1.0))
    for given in (X, torch.tensor(X)):
        before = copy.copy(given)
        relevance = explain(model, given, epsilon=0.0)
        assert (given == before).all()
        assert_same(np.asarray(relevance), expected, 1e-4)


def test_memory_of_the_input():
    """Views, other orders of memory, read-only arrays, lists, one array given twice."""
    model, X = build("Siamese"), np.random.default_rng(0).normal(size=(4, 5))
    both = explain(model, (X, np.asfortranarray(X[::-1])[::-1]))
    frozen = X.copy()
    frozen.flags.writeable = False
    for twice in ((X, X), (X.tolist(), frozen), (torch.tensor(X),) * 2):
        for found, expected in zip(explain(model, twice), both, strict=True):
            assert_same_to_rounding(found, expected)
    wide = np.random.default_rng(1).normal(size=(8, 10))[::2, ::-2]
    assert_same(explain(model, (wide, X)), explain(model, (wide.copy(), X)), 1e-12)


class Posted:
    """Run tasks here, but as if they had been sent to another process."""

    def __init__(self, require=None, **options):
        self.require = require

    def __call__(self, tasks):
        for task in tasks:
            if self.require != "sharedmem":
                task = pickle.loads(dumps(task))
            function, args, kwargs = task
            yield function(*args, **kwargs)


@pytest.mark.parametrize("name", ["PreActResNet", "TCN", "WideAndDeep", "PackedLSTM"])
def test_networks_can_be_sent_to_workers(name, monkeypatch):
    """Among them lambdas as attributes and parametrised layers."""
    model, X = build(name), draw(name, 4)
    expected, told = explain(model, X, batch_size=2, return_details=True)
    monkeypatch.setattr(_workers, "Parallel", Posted)
    monkeypatch.setattr(_workers, "delayed", delayed)
    found, details = explain(model, X, batch_size=2, n_jobs=2, return_details=True)
    assert_same(found, expected, 1e-12)
    assert_same_to_rounding(details.score, told.score)


class Masked(nn.Module):
    """A sequence with the mask of its steps, and an option."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x, mask=None, scale=2.0):
        if mask is not None:
            x = x * mask.unsqueeze(-1)
        return scale * self.fc(x.sum(1))


def test_masks_among_the_inputs():
    model, X = Masked().double(), np.random.default_rng(0).normal(size=(3, 4, 3))
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]], dtype=bool)
    expected = explain(model, X * mask[..., None])
    found = explain(model, {"x": X, "mask": mask})
    assert_same(found["x"], expected, 1e-13)
    np.testing.assert_array_equal(found["mask"], np.zeros((3, 4)))
    # Numbers are a signal, not a gate: the product is shared half each.
    of_x, of_mask = explain(model, (X, mask.astype(float)))
    assert_same(of_x, found["x"] / 2, 1e-13)
    assert_same(of_mask, found["x"].sum(-1) / 2, 1e-13)


def test_integers_to_a_float_network():
    model = build("ResidualMLP")
    X = np.random.default_rng(0).integers(-3, 4, size=(3, 6))
    relevance = explain(model, X)
    assert relevance.dtype == np.float64
    assert_same_to_rounding(relevance, explain(model, X.astype(float)))


def test_float32():
    for name in ("ResNet", "BiLSTM", "WideAndDeep"):
        model, X = build(name), draw(name)
        expected = explain(model, X)
        low = on_each(lambda x: x.astype(np.float32) if x.dtype.kind == "f" else x, X)
        relevance = explain(model.float(), low)
        assert {one.dtype for one in arrays_of(relevance)} == {np.dtype("float32")}
        assert_same(relevance, expected, 1e-4)


# --- skorch ---------------------------------------------------------------------------------


def fitted(estimator, name, y, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        X = on_each(
            lambda x: x.astype(np.float32) if x.dtype.kind == "f" else x, draw(name, len(y))
        )
        net = estimator(
            NETWORKS[name].constructor, max_epochs=1, train_split=None, verbose=0, **options
        )
        return net.fit(X, y), X


class LossOfFirst(nn.CrossEntropyLoss):
    """The loss of a network that returns a tuple."""

    def forward(self, outputs, y):
        return super().forward(outputs[0], y)


def test_skorch_classifiers():
    y = np.arange(8) % 3
    for name, criterion in (("LeNet", nn.NLLLoss), ("AttentionPooling", LossOfFirst)):
        net, X = fitted(NeuralNetClassifier, name, y, criterion=criterion)
        everything = explain(net.module_, X, target="all")
        assert_same(explain(net, X, target=y), everything[np.arange(8), y], 1e-5)
        relevance, details = explain(net, X, return_details=True)
        np.testing.assert_array_equal(details.target, net.predict(X))
        assert_same(relevance, everything[np.arange(8), net.predict(X)], 1e-5)


def test_skorch_binary_classifier():
    net, X = fitted(NeuralNetBinaryClassifier, "BinaryLogit", np.arange(8.0) % 2)
    relevance, details = explain(net, X, return_details=True)
    assert relevance.shape == X.shape
    np.testing.assert_allclose(details.score, net.forward(X).numpy(), rtol=1e-5)


def test_skorch_regressor():
    y = np.random.default_rng(0).normal(size=(8, 1)).astype(np.float32)
    net, X = fitted(NeuralNetRegressor, "TimeFirstLSTM", y)
    relevance, details = explain(net, X, return_details=True)
    assert relevance.shape == X.shape
    np.testing.assert_allclose(details.score, net.predict(X)[:, 0], rtol=1e-5)
    assert_accounted(relevance, details, 1e-5)


def test_skorch_with_several_inputs():
    y = np.random.default_rng(0).normal(size=(8, 1)).astype(np.float32)
    net, X = fitted(NeuralNetRegressor, "WideAndDeep", y)
    relevance, details = explain(net, X, return_details=True)
    assert on_each(np.shape, relevance) == {"numbers": (8, 3), "categories": (8, 2)}
    np.testing.assert_allclose(details.score, net.predict(X)[:, 0], rtol=1e-5)
    image, table = draw("ImageAndTable", 8)
    X = {"image": image.astype(np.float32), "table": table.astype(np.float32)}
    net = NeuralNetClassifier(
        NETWORKS["ImageAndTable"].constructor,
        criterion=nn.CrossEntropyLoss,
        classes=["high", "low", "mid"],
        train_split=None,
        verbose=0,
    ).initialize()
    relevance, details = explain(net, X, target=["low"] * 8, return_details=True)
    assert_same(relevance, explain(net.module_, X, target=1), 1e-6)
    np.testing.assert_array_equal(details.target, ["low"] * 8)


# --- Right or refused, never wrong ----------------------------------------------------------


class Operation(nn.Module):
    """A linear layer, one operation, and a linear layer on all that comes of it."""

    def __init__(self, function, shape=(4, 6)):
        super().__init__()
        self.function = function
        self.first = nn.Linear(3, 6)
        self.register_buffer("mask", torch.tensor([True, False, True, True, False, True]))
        self.register_buffer("order", torch.tensor([2, 0, 3]))
        self.matrix = nn.Parameter(torch.randn(6, 6))
        self.shift = nn.Parameter(torch.randn(6))
        self.scale = nn.Parameter(torch.randn(6))
        self.norm, self.norm2 = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm2.bias)
        self.inner = nn.Conv1d(4, 4, 1)
        with torch.no_grad():
            size = function(self, torch.zeros(2, 4, 6)).flatten(1).shape[1]
        self.last = nn.Linear(size, 2)

    def forward(self, x):
        return self.last(self.function(self, self.first(x)).flatten(1))


def set_row(self, x):
    x[:, 0] = 0.0
    return x


def copy_row(self, x):
    x[:, 1] = x[:, 2]
    return x


def through_view(self, x):
    x[:, 1].mul_(3.0)
    return x


def alias(self, x):
    y = x
    y *= 2.0
    return x + y


def relu_in_place_of_residual(self, x):
    return F.relu_(x) + x


def written_into(self, x):
    out = torch.zeros_like(x)
    out[:, :2] = x[:, 2:]
    return out


def iterated(self, x):
    return torch.stack([2.0 * row for row in x.transpose(0, 1)], 1)


def own_product(self, x):
    return torch.stack([F.linear(x[:, t], self.matrix * self.scale[t]) for t in range(4)], 1)


def written_through_a_view(self, x):
    out = torch.zeros_like(x)
    row = out[:, 0]
    row += x[:, 1]
    return out + x


def copied_through_a_view(self, x):
    out = torch.zeros_like(x)
    out[:, :2].copy_(x[:, 2:])
    return out + x


def sum_in_place(self, x):
    out = torch.ones(x.size(0), 6, dtype=x.dtype)
    for t in range(x.size(1)):
        out += F.relu(x[:, t])
    return out


def changed_later(self, x):
    constant = torch.ones(6, dtype=x.dtype)
    x = x + constant
    constant.mul_(5.0)
    return x


def both_halves(self, x):
    first, second = F.relu(torch.cat([x, -x], dim=0) @ self.matrix).chunk(2)
    return first + 2.0 * second


PIECEWISE_LINEAR = {
    "where": lambda self, x: torch.where(x > 0, x, 0.1 * x),
    "where method": lambda self, x: x.where(x > 0, torch.zeros_like(x)),
    "maximum": lambda self, x: torch.maximum(x[..., :3], x[..., 3:]),
    "minimum": lambda self, x: torch.min(x, x.flip(2) + 1.0),
    "abs": lambda self, x: x.abs(),
    "absolute difference": lambda self, x: torch.abs(x[:, :2] - x[:, 2:]),
    "clamp": lambda self, x: torch.clamp_min(x, 0.0),
    "masked": lambda self, x: x.masked_fill(x > 1.0, 0.0),
    "product with a mask": lambda self, x: x * (x > 0),
    "product with a buffer": lambda self, x: x * self.mask,
    "fancy index": lambda self, x: x[:, [2, 0, 3]],
    "boolean index": lambda self, x: x[..., self.mask],
    "index of an index": lambda self, x: x[:, 1:][:, :, ::2],
    "None index": lambda self, x: x[:, None, ..., 1],
    "index_select": lambda self, x: x.index_select(1, self.order),
    "gather": lambda self, x: x.gather(1, self.order[None, :, None].expand(x.size(0), -1, 6)),
    "take_along_dim": lambda self, x: torch.take_along_dim(x, self.order[None, :, None], 1),
    "roll": lambda self, x: torch.roll(x, 1, dims=1),
    "flip": lambda self, x: x.flip(1),
    "repeat": lambda self, x: x.repeat(1, 2, 1),
    "repeat_interleave": lambda self, x: x.repeat_interleave(2, dim=1),
    "expand": lambda self, x: x.unsqueeze(1).expand(-1, 2, -1, -1),
    "unfold": lambda self, x: x.unfold(1, 2, 1),
    "narrow": lambda self, x: x.narrow(1, 1, 2),
    "select": lambda self, x: x.select(1, -1),
    "diagonal": lambda self, x: x.diagonal(dim1=1, dim2=2),
    "tril": lambda self, x: torch.tril(x),
    "swapaxes": lambda self, x: x.swapaxes(1, 2).movedim(1, 2).mT,
    "samples last": lambda self, x: (x.permute(1, 2, 0) * 2.0).permute(2, 0, 1),
    "samples joined with time": lambda self, x: (x.reshape(-1, 6) * 2.0).reshape(x.shape),
    "samples joined with everything": lambda self, x: x.reshape(-1).mul(2.0).view_as(x),
    "flatten and unflatten": lambda self, x: x.flatten(0, 1).unflatten(0, (-1, 4)),
    "tensor_split": lambda self, x: torch.cat(torch.tensor_split(x, 3, dim=2)[::-1], 1),
    "split": lambda self, x: x.split([1, 3], dim=1)[1],
    "hstack": lambda self, x: torch.hstack([x, 2 * x]),
    "iterated": iterated,
    "alpha": lambda self, x: torch.add(x, x.flip(2), alpha=0.5),
    "sub with alpha": lambda self, x: torch.sub(x, x.flip(2), alpha=2),
    "constant minus": lambda self, x: 1.0 - x,
    "negative": lambda self, x: -x,
    "quotient": lambda self, x: x / self.scale,
    "centred": lambda self, x: x - x.mean(-1, keepdim=True),
    "lerp": lambda self, x: torch.lerp(x, x.flip(1), 0.3),
    "sum of a list": lambda self, x: sum([x, 2 * x, x.flip(1)]),
    "addcmul": lambda self, x: torch.addcmul(self.shift, x, self.scale),
    "affine by parameters": lambda self, x: self.scale * x + self.shift,
    "parameter first": lambda self, x: self.shift - x,
    "weights in a sum": lambda self, x: (x * self.scale).sum(-1),
    "token of parameters": lambda self, x: torch.cat([self.shift.expand(x.size(0), 1, -1), x], 1),
    "matrix": lambda self, x: x @ self.matrix,
    "matrix first": lambda self, x: self.matrix @ x.transpose(1, 2),
    "made weights": own_product,
    "einsum": lambda self, x: torch.einsum("nti,io->nto", x, self.matrix),
    "tensordot": lambda self, x: torch.tensordot(x, self.matrix, dims=([2], [0])),
    "bmm": lambda self, x: torch.bmm(x, self.matrix.expand(x.size(0), -1, -1)),
    "addmm": lambda self, x: torch.addmm(self.shift, x[:, 0], self.matrix, beta=0.5, alpha=2.0),
    "conv1d": lambda self, x: F.conv1d(x, self.matrix[:4, :4, None], padding=1),
    "batch_norm": lambda self, x: F.batch_norm(
        x.transpose(1, 2), self.shift.detach(), self.scale.detach() ** 2, self.scale, self.shift
    ),
    "reflected": lambda self, x: F.pad(x, (2, 1), mode="reflect"),
    "padded with ones": lambda self, x: F.pad(x, (1, 1), value=1.0),
    "avg_pool1d": lambda self, x: F.avg_pool1d(x, 3, 2, padding=1),
    "max_pool1d": lambda self, x: F.max_pool1d(x, 4, 4, ceil_mode=True),
    "adaptive_max_pool1d": lambda self, x: F.adaptive_max_pool1d(x, 4),
    "interpolate": lambda self, x: F.interpolate(x, size=9, mode="linear"),
    "pixel_shuffle": lambda self, x: F.pixel_shuffle(x.unsqueeze(-1), 2),
    "unfold of images": lambda self, x: F.unfold(x.unsqueeze(1), 2),
    "grid_sample": lambda self, x: F.grid_sample(
        x.unsqueeze(1),
        self.matrix.detach().tanh()[None, :, :2, None].expand(x.size(0), -1, -1, 2),
        align_corners=True,
    ),
    "dropout that is off": lambda self, x: F.dropout1d(F.alpha_dropout(x, 0.5), 0.5, False),
    "rrelu": lambda self, x: F.rrelu(x, 0.1, 0.3),
    "prelu": lambda self, x: F.prelu(x, self.scale[:4]),
    "threshold": lambda self, x: F.threshold(x, 0.0, 0.0),
    "set": set_row,
    "copied": copy_row,
    "in place through a view": through_view,
    "in place through another name": alias,
    "in place before a residual": relu_in_place_of_residual,
    "written into zeros": written_into,
    "in place": lambda self, x: x.mul_(2.0).add_(self.shift).neg_(),
    "largest": lambda self, x: x.amax(dim=(1, 2), keepdim=True),
    "smallest": lambda self, x: x.min(dim=1).values,
    "nan_to_num": lambda self, x: torch.nan_to_num(x),
    "written through a view": written_through_a_view,
    "copied through a view": copied_through_a_view,
    "samples twice": both_halves,
    "samples repeated": lambda self, x: x.repeat(2, 1, 1).view(2, -1, 4, 6).mean(0),
    "expanded in front": lambda self, x: x.expand(3, *x.shape).mean(0),
    "keywords": lambda self, x: torch.cat(
        tensors=[F.relu(input=x), torch.add(input=x, other=self.shift)], dim=1
    ),
    "more keywords": lambda self, x: F.linear(
        input=torch.flatten(input=x, start_dim=2), weight=self.matrix, bias=self.shift
    ),
    "pooled by keywords": lambda self, x: F.max_pool1d(input=x, kernel_size=2),
    "mean of time first": lambda self, x: x.transpose(0, 1).mean(0),
    "sums": lambda self, x: x.sum((-1, -2)).unsqueeze(1) + x.sum(axis=1),
    "means": lambda self, x: torch.mean(x, axis=(1,), keepdim=True) + x.mean(2, True),
    "pool with indices": lambda self, x: F.max_pool1d(x, 2, return_indices=True)[0],
    "norm beside": lambda self, x: self.norm(y := self.inner(x)) + y,
    "one layer, two norms": lambda self, x: self.norm(self.inner(x)) - self.norm2(self.inner(x)),
    "one norm, two layers": lambda self, x: self.norm(self.inner(x)) + self.norm(x),
    "norm before and after": lambda self, x: self.norm2(self.inner(self.norm(x))),
    "norm behind a sum": lambda self, x: self.norm(self.inner(x) + x),
    "norm with arguments in another order": lambda self, x: torch.batch_norm(
        x,
        self.norm.weight,
        self.norm.bias,
        self.norm.running_mean,
        self.norm.running_var,
        False,
        0.1,
        1e-5,
        False,
    ),
    "last step by index": lambda self, x: x[torch.arange(len(x)), torch.full((len(x),), 2)],
    "at the largest": lambda self, x: x.gather(1, x.argmax(1, keepdim=True)),
    "above the mean": lambda self, x: torch.where(x > x.mean(1, keepdim=True), x, 0.0),
    "median": lambda self, x: x.median(1).values,
    "zeros that become a sum": sum_in_place,
    "constant that is changed later": changed_later,
    "zeros and more": lambda self, x: torch.zeros(len(x), 2, 6).to(x) + x[:, 1:3],
}


def build_operation(function):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Operation(function).double().eval()


def operation_input(n_samples=3):
    return np.random.default_rng(0).normal(size=(n_samples, 4, 3))


def right_or_refused(model, plain, X):
    """Explain `model` as gradient x input of `plain`, unless it is refused by name."""
    x = torch.tensor(X, requires_grad=True)
    expected = []
    for k in range(2):
        (gradient,) = torch.autograd.grad(plain(x)[:, k].sum(), x)
        expected.append((x * gradient).detach().numpy())
    before = snapshot(model, X)
    try:
        relevance, details = explain(
            model, X, target="all", rule="zero", epsilon=0.0, return_details=True
        )
    except TypeError as error:
        refusal = str(error)
    else:
        refusal = None
    assert_unchanged(before, snapshot(model, X))
    if refusal is not None:
        assert "'" in refusal  # it names what it means
        return
    assert_same(relevance, np.stack(expected, 1), 1e-9)
    assert_accounted(relevance, details)
    np.testing.assert_allclose(details.score, plain(x).detach().numpy(), rtol=1e-12)


@pytest.mark.sweep(15)
@pytest.mark.parametrize("name", PIECEWISE_LINEAR)
def test_operations_are_right_or_refused(name):
    """Also with as many samples as there are steps, and with one."""
    model = build_operation(PIECEWISE_LINEAR[name])
    for n_samples in (3, 4, 1):
        right_or_refused(model, model, operation_input(n_samples))


class StraightThrough(torch.autograd.Function):
    """Doubles, and says that it does not."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return grad


def without_grad(self, x):
    with torch.no_grad():
        return x + 2 * F.relu(x)


def in_inference_mode(self, x):
    with torch.inference_mode():
        return x + 2 * F.relu(x)


def in_a_thread(function, x):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, x).result()


def by_storage(self, x):
    return x + torch.empty(0, dtype=x.dtype).set_(x.detach().untyped_storage()).view(x.shape)


def matrix_changed_later(self, x):
    matrix = self.matrix.clone()
    x = x @ matrix
    matrix.zero_()
    return x


def index_changed_later(self, x):
    index = torch.tensor([0, 1])
    x = x[:, index]
    index += 1
    return x


def relu_of(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecated, but in use
    scripted_relu = torch.jit.script(relu_of)
    scripted_layers = torch.jit.script(nn.Sequential(nn.Linear(6, 6), nn.ReLU()).double())


# What autograd does not see, beside the same for autograd.
OUT_OF_SIGHT = {
    "detach": (lambda self, x: x.detach() * 2, lambda self, x: x * 2),
    "data": (lambda self, x: x.data * 2, lambda self, x: x * 2),
    "no_grad": (without_grad, lambda self, x: x + 2 * F.relu(x)),
    "inference_mode": (in_inference_mode, lambda self, x: x + 2 * F.relu(x)),
    "autograd function": (lambda self, x: x + StraightThrough.apply(x), lambda self, x: x + 2 * x),
    "operator": (lambda self, x: x + torch.ops.aten.relu(x), lambda self, x: x + x.relu()),
    "vmap": (lambda self, x: x + torch.vmap(F.relu)(x), lambda self, x: x + x.relu()),
    "thread": (lambda self, x: x + in_a_thread(F.relu, x), lambda self, x: x + x.relu()),
    "scripted function": (lambda self, x: x + scripted_relu(x), lambda self, x: x + x.relu()),
    "parameter": (lambda self, x: x + nn.Parameter(x), lambda self, x: x + x),
    "deepcopy": (lambda self, x: x + copy.deepcopy(x), lambda self, x: x + x),
    "copy": (lambda self, x: x + copy.copy(x), lambda self, x: x + x),
    "as_tensor": (lambda self, x: x + torch.as_tensor(x), lambda self, x: x + x),
    "dlpack": (lambda self, x: x + torch.from_dlpack(x.detach()), lambda self, x: x + x),
    "numpy": (lambda self, x: x + torch.tensor(np.asarray(x.detach())), lambda self, x: x + x),
    "storage": (by_storage, lambda self, x: x + x),
    "checkpoint": (
        lambda self, x: checkpoint(lambda v: F.relu(v @ self.matrix), x, use_reentrant=False),
        lambda self, x: F.relu(x @ self.matrix),
    ),
    "matrix changed later": (matrix_changed_later, lambda self, x: x @ self.matrix),
    "index changed later": (index_changed_later, lambda self, x: x[:, [0, 1]]),
    "out": (
        lambda self, x: torch.mul(x, 2.0, out=torch.empty_like(x)),
        lambda self, x: x * 2,
    ),
}


@pytest.mark.parametrize("name", OUT_OF_SIGHT)
def test_what_autograd_does_not_see(name):
    model, plain = map(build_operation, OUT_OF_SIGHT[name])
    right_or_refused(model, plain, operation_input())


@pytest.mark.sweep(20)
@pytest.mark.parametrize("name", PIECEWISE_LINEAR)
def test_what_is_known_of_a_signal_is_true(name):
    """Alpha-beta behind an operation: it leaves out products where it knows that x >= 0."""
    model, x = build_operation(PIECEWISE_LINEAR[name]), operation_input()
    x = torch.tensor(x, requires_grad=True)
    hidden = model.function(model, model.first(x)).flatten(1)
    at_hidden = explain(
        nn.Sequential(model.last), hidden.detach().numpy(), rule=AlphaBeta(), target=1
    )
    factors = torch.where(hidden == 0, 0.0, torch.tensor(at_hidden) / hidden).detach()
    (gradient,) = torch.autograd.grad((factors * hidden).sum(), x)
    rule = Composite([("last", AlphaBeta(epsilon=1e-6), "last"), ("rest", Epsilon(), "all")])
    try:
        relevance = explain(model, x.detach().numpy(), rule=rule, target=1, epsilon=0.0)
    except TypeError:
        return  # refused by name, as the test of all operations sees to
    assert_same(relevance, (gradient * x).detach().numpy(), 1e-9)


SAMPLES = {
    "divided by their number": lambda self, x: x / x.size(0),
    "times their number": lambda self, x: x * len(x),
    "plus their number": lambda self, x: x + torch.full((x.size(0), 1, 1), len(x) / 2).to(x),
    "weights by place": lambda self, x: x * torch.linspace(0, 1, len(x)).to(x)[:, None, None],
}


@pytest.mark.parametrize("name", SAMPLES)
def test_scores_that_depend_on_the_number_of_samples(name):
    """They would depend on the chunks."""
    with pytest.raises(TypeError, match="'"):
        explain(build_operation(SAMPLES[name]), operation_input(7), batch_size=3)


class Words(nn.Module):
    """Something made of tokens, a sum over them, and a linear layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.embed, self.place = nn.Embedding(6, 5), nn.Embedding(4, 5)
        self.register_buffer("renamed", torch.tensor([0, 2, 1, 4, 3, 5]))
        self.last = nn.Linear(5, 2)

    def forward(self, tokens):
        x = self.function(self, tokens)
        return self.last(x if x.dim() == 2 else x.sum(1))


def mean_of_words(self, tokens):
    there = (tokens != 0).unsqueeze(-1).to(self.last.weight.dtype)
    return torch.sum(self.embed(tokens) * there, 1) / torch.clamp(there.sum(1), min=1e-9)


def number_of_words(self, tokens):
    return self.embed(tokens).mean(1) + (tokens != 0).sum(1, keepdim=True).to(self.last.weight)


# Functions of tokens, beside the same with every vector looked up by torch's embedding.
WORDS = {
    "mean of what is there": (mean_of_words,) * 2,
    "max of what is there": (
        lambda self, t: self.embed(t).masked_fill((t == 0).unsqueeze(-1), -torch.inf).max(1)[0],
        # Words that come twice share, as in torch's gradient of amax.
        lambda self, t: self.embed(t).masked_fill((t == 0).unsqueeze(-1), -torch.inf).amax(1),
    ),
    "last that is there": (
        lambda self, t: self.embed(t)[torch.arange(len(t)), (t != 0).sum(1) - 1],
    )
    * 2,
    "places": (lambda self, t: F.relu(self.embed(t) + self.place(torch.arange(t.size(1)))),) * 2,
    "places of a table": (lambda self, t: self.embed(t) + self.place.weight[: t.size(1)],) * 2,
    "columns": (lambda self, t: torch.stack([self.embed(t[:, i]) for i in range(4)], 1),) * 2,
    "up to the longest": (lambda self, t: self.embed(t)[:, : int((t != 0).sum(1).max())],) * 2,
    "table": (
        lambda self, t: self.embed(t) + self.place.weight[t.clamp(max=3)],
        lambda self, t: self.embed(t) + F.embedding(t, self.place.weight[[0, 1, 2, 3, 3, 3]]),
    ),
    "table by index_select": (
        lambda self, t: self.embed.weight.index_select(0, t.flatten()).view(*t.shape, 5),
        lambda self, t: self.embed(t),
    ),
    "one hot": (
        lambda self, t: F.one_hot(t, 6).to(self.embed.weight.dtype) @ self.embed.weight,
        lambda self, t: self.embed(t),
    ),
    "backwards": (
        lambda self, t: F.relu(self.embed(t.flip(1)))[:, 0],
        lambda self, t: F.relu(self.embed(t))[:, -1],
    ),
    "renamed": (
        lambda self, t: self.embed(self.renamed[t]),
        lambda self, t: F.embedding(t, self.embed.weight[self.renamed]),
    ),
    "number of words": (number_of_words, None),
    "first word as a number": (lambda self, t: self.embed(t) * float(t[0, 0]), None),
    "scripted": (
        lambda self, t: self.embed(t) + scripted_relu(self.embed(t)),
        lambda self, t: self.embed(t) + F.relu(self.embed(t)),
    ),
    "by NumPy": (
        lambda self, t: self.embed(t) + self.embed(torch.tensor(np.asarray(t))),
        lambda self, t: 2.0 * self.embed(t),
    ),
}


@pytest.mark.parametrize("name", WORDS)
def test_functions_of_tokens_are_right_or_refused(name):
    function, plain = WORDS[name]
    torch.manual_seed(0)
    model = Words(function).double()
    X = np.array([[1, 2, 3, 0], [4, 1, 1, 2], [5, 0, 0, 0], [3, 3, 2, 1]])
    try:
        relevance, details = explain(
            model, X, target="all", rule="zero", epsilon=0.0, return_details=True
        )
    except (TypeError, ValueError) as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert re.search("'|not depend", refusal)
        return
    assert plain is not None, "must be refused"
    assert_accounted(relevance, details)
    model.function = plain
    assert_same(relevance, reference(model, X)[0], 1e-9)


def positions_of_what_is_there(self, t):
    """As RoBERTa counts them: padding has the first position of the table."""
    there = t.ne(0).int()
    return ((torch.cumsum(there, dim=1).type_as(there) + 0) * there).long()


def test_positions_counted_along_a_mask_are_constant():
    """They keep the share of a bias, as those of a table do, and so does what they look up."""

    def by_counting(self, t):
        places = positions_of_what_is_there(self, t).clamp(max=3)
        kinds = torch.gather(self.kinds.expand(len(t), -1), 1, places).expand(len(t), t.size(1))
        return self.embed(t) + self.place(places) + self.place(kinds)

    torch.manual_seed(0)
    model = Words(by_counting).double()
    model.register_buffer("kinds", torch.tensor([[0, 1, 1, 2]]))
    X = np.array([[1, 2, 3, 0], [4, 1, 1, 2], [5, 0, 0, 0], [3, 3, 2, 1]])
    relevance, details = explain(model, X, target=1, rule="zero", epsilon=0.0, return_details=True)
    with torch.no_grad():
        vectors = model.embed(torch.tensor(X)) * model.last.weight[1]
    assert_same(relevance, vectors.sum(-1).numpy(), 1e-9)
    assert_accounted(relevance, details)


def test_other_numbers_made_of_masks_are_refused():
    """Classes of tokens that a comparison makes say something of the token."""
    torch.manual_seed(0)
    model = Words(lambda self, t: self.embed(t) + self.place(t.gt(2).long())).double()
    with pytest.raises(TypeError, match="comparison 'gt'"):
        explain(model, np.array([[1, 2, 3, 0]] * 3), target=1)


def test_scripted_modules_are_right_or_refused():
    model = build_operation(lambda self, x: x)
    model.function, model.script = lambda self, x: self.script(x), scripted_layers
    right_or_refused(model, model, operation_input())


# --- What is refused ------------------------------------------------------------------------


class Host(nn.Module):
    """A block between two linear layers; its steps, if it has any, are averaged."""

    def __init__(self, block):
        super().__init__()
        self.first, self.block, self.last = nn.Linear(4, 4), block, nn.Linear(4, 2)

    def forward(self, x):
        x = self.block(self.first(x))
        return self.last(x if x.dim() == 2 else x.mean(1))


class Calls(nn.Module):
    """Call a function, with whatever state it needs."""

    def __init__(self, function, **state):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.register_buffer("steps", torch.zeros(4))
        for name, value in state.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.function(self, x)


def in_place_on_a_parameter(self, x):
    with torch.no_grad():
        self.weight.mul_(0.9)
    return F.linear(x, self.weight)


def in_place_on_a_buffer(self, x):
    self.steps += 1
    return x + self.steps


def in_place_on_statistics(self, x):
    self.steps.copy_(x.detach().flatten(0, -2).mean(0))
    return x - self.steps


def in_training_mode(self, x):
    self.drop.train()
    return self.drop(x)


def by_item(self, x):
    return x if x.mean().item() > 0 else 2 * x


def by_bool(self, x):
    if (x > 0).any():
        return 2 * x
    return x


def by_numpy(self, x):
    return torch.from_numpy(2 * x.detach().numpy())


def by_list(self, x):
    return torch.tensor(x.tolist(), dtype=x.dtype)


CALLS = {
    "prod": lambda self, x: x * x.prod(),
    "logsumexp": lambda self, x: torch.logsumexp(x, 0, keepdim=True) + x,
    "cumprod": lambda self, x: x.cumprod(0),
    "linalg_det": lambda self, x: torch.linalg.det(x[:, :, None] * x[:, None]),
    "item|mean": by_item,
    "bool|any": by_bool,
    "float|item|sum": lambda self, x: x * float(x.sum()),
    "numpy": by_numpy,
    "tolist": by_list,
    "rand": lambda self, x: x + torch.rand(x.shape, dtype=x.dtype),
    "rand_like": lambda self, x: x * torch.rand_like(x),
    "randn|normal_": lambda self, x: x + torch.empty(4, dtype=x.dtype).normal_(),
    "dropout": lambda self, x: F.dropout(x, 0.5),
    "train|training|drop": in_training_mode,
    "weight|parameter": in_place_on_a_parameter,
    "steps|buffer": in_place_on_a_buffer,
    "steps|buffer|copy_|mean": in_place_on_statistics,
    "mean": lambda self, x: x - x.mean(0, keepdim=True),
    "sum": lambda self, x: x + x.sum(0),
    "max": lambda self, x: x - x.max(),
    "softmax": lambda self, x: x * torch.softmax(x.mean(1), 0)[:, None],
    "__getitem__|sum": lambda self, x: x + x[x > 0].sum(),
    "cat|__getitem__": lambda self, x: torch.cat([x, x[:1]])[1:],
    "flip": lambda self, x: x + x.flip(0),
}


@pytest.mark.parametrize("operation", CALLS)
def test_operations_are_refused_by_name(operation):
    model, X = (
        Host(Calls(CALLS[operation], drop=nn.Dropout())).double().eval(),
        np.random.default_rng(0).normal(size=(3, 4, 4)),
    )
    before = snapshot(model, X)
    with pytest.raises(TypeError, match=rf"(?s)(?=.*\bblock\b).*\b({operation})\b"):
        explain(model, X)
    assert_unchanged(before, snapshot(model, X))


class Untraceable(nn.Module):
    """Leaves torch inside: the sum over the steps, made in NumPy on the memory itself."""

    def forward(self, x):
        return torch.from_numpy(np.asarray(x.detach().cpu()).cumsum(1))


class OverSamples(nn.Module):
    """Forgets that torch's LSTM has the time axis first: it runs over the samples."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 4)

    def forward(self, x):
        return self.lstm(x)[0]


class Transposed(nn.Module):
    """Batch normalisation of steps by the batch's own statistics."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4, track_running_stats=False)

    def forward(self, x):
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (Untraceable, r"numpy|Untraceable"),
        (OverSamples, r"block\.lstm"),
        (Transposed, r"block\.norm.*running|running.*block\.norm"),
    ],
)
def test_modules_are_refused_by_name(block, message):
    model, X = Host(block()).double().eval(), np.random.default_rng(0).normal(size=(3, 4, 4))
    before = snapshot(model, X)
    with pytest.raises(TypeError, match=rf"(?s)(?=.*\bblock\b).*({message})"):
        explain(model, X)
    assert_unchanged(before, snapshot(model, X))


class Catches(nn.Module):
    """Falls back on its input where the block fails."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        try:
            return self.block(x)
        except Exception:
            return x


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (Calls(lambda self, x: x.nextafter(2 * x)), "nextafter"),
        (Calls(lambda self, x: self.pool(x), pool=nn.LPPool1d(np.inf, 1)), "LPPool1d"),
    ],
)
def test_what_forward_catches_is_refused_all_the_same(block, message):
    model, X = (
        Host(Catches(block)).double().eval(),
        np.random.default_rng(0).normal(size=(3, 4, 4)),
    )
    with pytest.raises(TypeError, match=message):
        explain(model, X)


def test_the_cause_of_a_refusal_stays_attached():
    """What went wrong inside a handler can be traced."""

    class Doubled(nn.Module):
        def forward(self, x):
            return 2 * x

    @register(Doubled)
    def handler(step, signal):
        return len(signal.x.dim())

    try:
        with pytest.raises(TypeError, match="has no len") as caught:
            explain(Host(Doubled()).double().eval(), np.zeros((3, 4, 4)))
    finally:
        del HANDLERS[Doubled]
    assert isinstance(caught.value.__cause__, TypeError)
    assert caught.value.__cause__.__traceback__ is not None


@pytest.mark.parametrize(
    "add",
    [
        lambda module: module.register_forward_hook(lambda m, args, out: 2 * out),
        lambda module: module.register_forward_pre_hook(lambda m, args: (2 * args[0],)),
    ],
)
def test_hooks_are_refused(add):
    model, X = build("ResNet"), draw("ResNet")
    add(model.layer1[0].conv2)
    before = snapshot(model, X)
    with pytest.raises(TypeError, match=r"(?s)layer1\.0\.conv2.*hook"):
        explain(model, X)
    assert_unchanged(before, snapshot(model, X))
    model = build("ResNet")
    model.fc.register_full_backward_hook(lambda *args: None)  # says nothing about the output
    assert_same(explain(model, X), explain(build("ResNet"), X), 1e-12)


class Returns(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.fc, self.function = nn.Linear(4, 3), function

    def forward(self, x):
        return self.function(self.fc(x))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[:, :, None],
        lambda x: {"logits": x},
        lambda x: None,
        lambda x: (),
        lambda x: 1.0,
        lambda x: x.sum(),
        lambda x: x[:1],
        lambda x: x.T,
        lambda x: x > 0,
        lambda x: x.argmax(1),
        lambda x: torch.zeros(len(x), 2, dtype=x.dtype),
        lambda x: torch.zeros_like(x),
        lambda x: x.new_ones(x.shape[0], 2),
    ],
)
def test_outputs_that_are_no_scores(function):
    model, X = Returns(function).double(), np.random.default_rng(0).normal(size=(5, 4))
    with pytest.raises((TypeError, ValueError), match=r"(?i)output|score|return"):
        explain(model, X, target=0)


# --- Bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda image, table: (image, table[:2]), ValueError, "samples"),
        (lambda image, table: (image[:0], table[:0]), ValueError, "at least one sample"),
        (lambda image, table: {"image": image, "table": table[:2]}, ValueError, "samples"),
        (lambda image, table: (image,), (TypeError, ValueError), "table"),
        (lambda image, table: image, (TypeError, ValueError), "table"),
        (lambda image, table: (image, table, table), (TypeError, ValueError), "argument|inputs"),
        (lambda image, table: {"image": image, "row": table}, (TypeError, ValueError), "row"),
        (lambda image, table: (image, table * np.nan), ValueError, "NaN"),
        (lambda image, table: (image, table + 1j), ValueError, "real"),
        (lambda image, table: (image, table.astype(str)), ValueError, "real|dtype"),
        (lambda image, table: (table, image), ValueError, "fit|shape"),
        (lambda image, table: (image, table[:, :3]), ValueError, "fit|shape"),
        (lambda image, table: (), ValueError, "X"),
        (lambda image, table: {}, ValueError, "X"),
        (lambda image, table: (image, None), (TypeError, ValueError), "X|real|dtype"),
        (lambda image, table: (image, torch.ones(3, 4, device="meta")), ValueError, "meta|device"),
    ],
)
def test_bad_input(change, error, message):
    model, X = build("ImageAndTable"), draw("ImageAndTable")
    with pytest.raises(error, match=message):
        explain(model, change(*X))


@pytest.mark.parametrize("target", [3, -1, 1.0, "b", [0, 1], [0, 1, 3], np.zeros((3, 1), int)])
def test_bad_target(target):
    with pytest.raises(ValueError, match="target"):
        explain(build("ImageAndTable"), draw("ImageAndTable"), target=target)


def test_bad_words():
    model, X = build("BagOfWords"), draw("BagOfWords")
    for word in (-1, 10):
        with pytest.raises(ValueError, match=r"(?i)X.*embed|embed.*index|index.*range"):
            explain(model, np.where(X[:1, :1] == X, word, X))


def test_nan_in_weights():
    for name in ("ResNet", "BiLSTM", "SqueezeExcite"):
        model = build(name)
        with torch.no_grad():
            next(model.parameters()).view(-1)[0] = torch.nan
        model.embedding = model.embedding if name == "BiLSTM" else None
        X = draw(name) if name != "BiLSTM" else np.zeros((2, 4), int)
        with pytest.raises(ValueError, match="NaN"):
            explain(model, X, target=1)


def test_mixed_types_and_devices():
    model, X = build("ResNet"), draw("ResNet")
    model.fc.float()
    with pytest.raises(TypeError, match="float32 or float64"):
        explain(model, X)
    model = build("ResNet")
    model.fc.to("meta")
    with pytest.raises(ValueError, match="one device"):
        explain(model, X)
    model = build("ResNet").half()
    with pytest.raises(TypeError, match="float32 or float64"):
        explain(model, X)


def test_contrast_needs_two_outputs():
    with pytest.raises(ValueError, match="contrast"):
        explain(build("Discriminator"), draw("Discriminator"), contrast=True)


@pytest.mark.parametrize(
    ("network", "X", "rule", "message"),
    [
        (nn.Linear(5, 2), np.ones((3, 6)), "epsilon", r"does not fit the network itself \(Linear"),
        (nn.LazyLinear(2), np.ones((3, 6)), "epsilon", r"^The network itself \(LazyLinear\) is"),
        (nn.Conv2d(1, 2, 3), np.ones((3, 8, 8)), "epsilon", r"^The network itself \(Conv2d\)"),
        (nn.Linear(6, 2), np.ones((3, 6)), "z_box", "z-box rule on the network itself needs"),
        (nn.LSTM(6, 2), np.ones((3, 1, 6)), "epsilon", r"recurrent layer \(the network itself\)"),
        (
            nn.Linear(6, 2),
            np.ones((3, 6)),
            Composite([("conv", Epsilon(), "conv")]),
            r"matches the network itself \(Linear\)",
        ),
    ],
)
def test_a_network_of_one_layer_is_called_the_network_itself(network, X, rule, message):
    with pytest.raises((TypeError, ValueError), match=message) as error:
        sklrp.explain(network, X.astype(np.float32), target=0, rule=rule)
    assert "''" not in str(error.value)


class _Sum(nn.Module):
    """A linear layer of two inputs' sum."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x, z):
        return self.layer(x) + self.layer(z)


class _Placed(nn.Module):
    """Steps with a position of their own each."""

    def __init__(self):
        super().__init__()
        self.layer, self.position = nn.Linear(4, 2), nn.Parameter(torch.zeros(10, 2))

    def forward(self, x):
        return (self.layer(x) + self.position).mean(1)


def test_too_few_or_too_many_inputs_are_answered_with_a_tuple():
    X = np.ones((3, 4), dtype=np.float32)
    line = r"_Sum\.forward takes the inputs \(x, z\): .* Give a tuple, X=\(x, z\), or a dict"
    for given in (X, (X, X, X)):
        with pytest.raises(TypeError, match=line):
            sklrp.explain(_Sum(), given)
    assert len(sklrp.explain(_Sum(), (X, X))) == 2


def test_a_single_sample_is_answered_with_its_axis():
    X = np.ones((3, 10, 4), dtype=np.float32)
    assert sklrp.explain(_Placed(), X).shape == X.shape
    with pytest.raises(ValueError, match=r"samples of shape \(4,\), .* pass X\[np\.newaxis\]"):
        sklrp.explain(_Placed(), X[0])
