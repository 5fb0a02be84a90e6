"""What must not pass in silence: mixed samples, lost rows, weights that are no plain tensors."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import sklrp
from sklrp.propagation import affine, register
from sklrp.propagation.compilation import compile_plan
from sklrp.propagation.defence import Balance
from sklrp.propagation.inputs import Inputs, Intake
from sklrp.propagation.probing import Probe
from sklrp.propagation.registry import HANDLERS
from sklrp.propagation.run import plain_arithmetic
from tests.helpers.parameters import randomised


class Written(nn.Module):
    """A network whose forward is what a function does with its layers."""

    def __init__(self, run, **layers):
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *args, **kwargs):
        return self.run(self, *args, **kwargs)


def written(run, **layers):
    """Return a network in float64 with weights drawn at random."""
    return randomised(Written(run, **layers))


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# --- Samples that are mixed ------------------------------------------------------------------


def attend(self, x):  # (N, T, F)
    gates = torch.softmax(self.score(x), -1)  # (N, T, T)
    return self.head((gates @ self.value(x).unsqueeze(1)).mean((1, 2)))


def attend_from_the_right(self, x):
    gates = torch.softmax(self.score(x), -1)
    return self.head((self.value(x).unsqueeze(1) @ gates).mean((1, 2)))


def attend_by_bmm_and_broadcast(self, x):
    gates = torch.softmax(self.score(x), -1)
    return self.head(torch.matmul(gates.unsqueeze(1), self.value(x)).mean((1, 2)))


def gate_by_broadcast(self, x):
    return self.head((torch.sigmoid(self.value(x)).unsqueeze(1) * self.value(x)).mean((1, 2)))


def add_by_broadcast(self, x):
    return self.head((self.value(x).unsqueeze(1) + self.value(x)).mean((1, 2)))


@pytest.mark.parametrize(
    "run",
    [attend, attend_from_the_right, attend_by_bmm_and_broadcast, gate_by_broadcast,
     add_by_broadcast],
)  # fmt: skip
@pytest.mark.parametrize("n_samples", [1, 2, 3, 4])
def test_samples_mixed_by_broadcasting_are_refused(run, n_samples):
    square = 3  # as many steps as features: both sides of a product fit
    layers = {"score": nn.Linear(square, square), "value": nn.Linear(square, square)}
    model = written(run, **layers, head=nn.Linear(square, 2))
    with pytest.raises(TypeError, match="mixes"):
        sklrp.explain(model, numbers(n_samples, square, square), rule="epsilon")


def test_gates_of_each_sample_are_followed():
    def run(self, x):
        gates = torch.softmax(self.score(x), -1)
        return self.head((gates @ self.value(x)).mean(1))

    layers = {"score": nn.Linear(3, 3), "value": nn.Linear(3, 4), "head": nn.Linear(4, 2)}
    model, X = written(run, **layers), numbers(3, 3, 3)
    x = torch.from_numpy(X).requires_grad_()
    with torch.no_grad():
        gates = torch.softmax(model.score(x), -1)
    scores = model.head((gates @ model.value(x)).mean(1))[:, 1]
    expected = torch.autograd.grad(scores.sum(), x)[0] * x
    rule = sklrp.Composite([("all", sklrp.Zero(), "all")], attention="constant")
    relevance = sklrp.explain(model, X, target=1, rule=rule, epsilon=0.0)
    np.testing.assert_allclose(relevance, expected.detach().numpy(), rtol=1e-9, atol=1e-12)


# --- Rows that are lost ----------------------------------------------------------------------


def first_rows_of_output(self, x):
    return self.head(x)[:5]


def last_rows(self, x):
    return self.head(x[-4:])


def every_other(self, x):
    return self.head(F.relu(x)[::4])


def filled_up(self, x):
    hidden = F.relu(self.first(x))[:5]
    return self.head(F.pad(hidden, (0, 0, 0, len(x) - len(hidden))))


def row_by_row(self, x):  # (N, 2, 4): a row for each of two parts
    return self.head(torch.stack([x, 2 * x], 1).flatten(0, 1))


LOST = [first_rows_of_output, last_rows, every_other, filled_up, row_by_row]


@pytest.mark.parametrize("run", LOST)
def test_other_rows_than_samples_are_refused(run):
    model = written(run, first=nn.Linear(4, 4), head=nn.Linear(4, 2))
    with pytest.raises((TypeError, ValueError), match="samples"):
        sklrp.explain(model, numbers(10, 4), rule="epsilon")


def test_other_rows_than_samples_are_refused_in_a_chain():
    class Halve(nn.Module):
        def forward(self, x):
            return x[: len(x) // 2]

    @sklrp.propagation.register(Halve)
    def halve(step, signal):
        return signal.apply(step.layer.forward), lambda relevance, kept: relevance

    model = randomised(nn.Sequential(nn.Linear(4, 2), Halve()))
    try:
        with pytest.raises(ValueError, match=r"\(n_samples, \.\.\.\), got \(0, 2\)"):
            sklrp.explain(model, numbers(10, 4), rule="epsilon")
    finally:
        sklrp.propagation.registry.HANDLERS.pop(Halve)


# --- Tensors that do as they like ------------------------------------------------------------


class Doubled(torch.Tensor):
    """A tensor that acts as twice its values in layers and sums."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in (F.linear, torch.Tensor.add, F.batch_norm):
            args = [a.as_subclass(torch.Tensor) * 2 if isinstance(a, cls) else a for a in args]
        return super().__torch_function__(func, types, args, kwargs or {})


def doubled(tensor):
    return nn.Parameter(tensor.detach().as_subclass(Doubled), requires_grad=False)


def with_doubled_weights(model):
    layer = next(m for m in model.modules() if isinstance(m, nn.Linear))
    layer.weight = doubled(layer.weight)
    return model


@pytest.mark.parametrize("rule", ["epsilon", "gamma"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: with_doubled_weights(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))),
        lambda: with_doubled_weights(
            Written(
                lambda self, x: self.b(F.relu(self.a(x))), a=nn.Linear(4, 3), b=nn.Linear(3, 2)
            )
        ),
        lambda: with_doubled_weights(
            Written(lambda self, x: F.linear(x, self.a.weight), a=nn.Linear(4, 3))
        ),
    ],
    ids=["chain", "layers", "function"],
)
def test_weights_with_functions_of_their_own_are_refused(make, rule):
    model = make().double()
    with pytest.raises(TypeError, match="Doubled"):
        sklrp.explain(model, numbers(3, 4), rule=rule)


def test_a_constant_with_functions_of_its_own_is_refused():
    constant = torch.ones(3, dtype=torch.float64).as_subclass(Doubled)
    model = written(lambda self, x: self.a(x) + constant, a=nn.Linear(4, 3))
    with pytest.raises(TypeError, match="Doubled"):
        sklrp.explain(model, numbers(3, 4), rule="epsilon")


def test_buffers_of_a_type_of_their_own_are_refused():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)).double().eval()
    model[0].running_mean = model[0].running_mean.as_subclass(Doubled)
    with pytest.raises(TypeError, match=r"'0\.running_mean'.*Doubled"):
        sklrp.explain(model, numbers(3, 4), rule="epsilon")


@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors")
def test_a_masked_tensor_is_refused():
    X = torch.masked.masked_tensor(torch.ones(2, 4), torch.eye(2, 4).bool())
    with pytest.raises(TypeError, match="to_tensor"):
        sklrp.explain(randomised(nn.Sequential(nn.Linear(4, 2))), X)


def test_an_input_of_a_type_of_its_own_is_taken_as_its_values():
    model, X = randomised(nn.Sequential(nn.Linear(4, 2))), torch.from_numpy(numbers(3, 4))
    assert torch.equal(sklrp.explain(model, X.as_subclass(Doubled)), sklrp.explain(model, X))


# --- Constants that depend on the input out of sight -----------------------------------------


def gelu_of(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1.0 + torch.tanh(0.79788456 * (x + 0.044715 * x * x * x)))


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecated, but in use
    scripted_gelu = torch.jit.script(gelu_of)
    traced_gelu = torch.jit.trace(gelu_of, torch.zeros(2, 3, dtype=torch.float64))


def by_numpy_table(tokens):
    table = np.arange(12.0).reshape(4, 3)
    return torch.from_numpy(table[tokens.numpy() % 4])


def by_list(tokens):
    return torch.tensor([[float(len(set(row))) for row in tokens.tolist()]]).mT.double()


def by_sum(tokens):
    return torch.tensor(float(sum(map(sum, tokens.tolist()))), dtype=torch.float64)


def in_thread(function, *args):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args).result()


# What a network of words computes out of sight, of words or of their vectors h (N, T, F).
UNSEEN = {
    "scripted": lambda self, tokens, h: scripted_gelu(h),
    "traced": lambda self, tokens, h: traced_gelu(h),
    "in a thread": lambda self, tokens, h: in_thread(F.gelu, h),
    "table in NumPy": lambda self, tokens, h: by_numpy_table(tokens),
    "distinct words": lambda self, tokens, h: h * by_list(tokens)[..., None],
    "number": lambda self, tokens, h: h * by_sum(tokens),
    "Python's number": lambda self, tokens, h: h * float(tokens[0, 0]),
    "half of it": lambda self, tokens, h: torch.cat([h[:, :2], scripted_gelu(h[:, 2:])], 1),
}
SENTENCES = {
    "one": [[5, 3, 2, 7]],
    "one of unknown words": [[1, 1, 1, 1]],
    "one of padding": [[0, 0, 0, 0]],
    "all the same": [[5, 3, 2, 0]] * 4,
    "first as last": [[5, 3, 2, 0], [1, 2, 3, 4], [5, 3, 2, 0]],
    "at the end of the vocabulary": [[8, 8, 8, 8]],
}


@pytest.mark.parametrize("sentences", SENTENCES)
@pytest.mark.parametrize("name", UNSEEN)
def test_what_depends_on_words_out_of_sight_is_refused(name, sentences):
    def run(self, tokens):
        h = self.words(tokens)
        return self.head((h + UNSEEN[name](self, tokens, h)).mean(1))

    model = written(run, words=nn.Embedding(9, 3), head=nn.Linear(3, 2))
    with pytest.raises(TypeError, match="changes with"):
        sklrp.explain(model, np.array(SENTENCES[sentences]), rule="epsilon")


FIXED_POINTS = {
    "zeros": np.zeros((3, 4)),
    "halves": np.full((3, 4), 0.5),
    "ones": np.ones((1, 4)),
    "one sample": numbers(1, 4),
    "all the same": np.repeat(numbers(1, 4), 3, 0),
    "first as last": numbers(3, 4)[[0, 1, 0]],
    "zeros and ones": np.eye(4),
    "integers": np.arange(12).reshape(3, 4) % 2,
    "equal integers": np.ones((3, 4), dtype=np.int64),
    "bytes": np.zeros((2, 4), dtype=np.uint8),
    "masks": np.ones((2, 4), dtype=bool),
}
HIDDEN = {
    "scripted": lambda x: scripted_gelu(x),
    "ratio": lambda x: in_thread(lambda: x / (1 + x.abs().sum())),
    "centred": lambda x: in_thread(lambda: x - x.mean()),
}


@pytest.mark.parametrize("values", FIXED_POINTS)
@pytest.mark.parametrize("name", HIDDEN)
def test_what_depends_on_numbers_out_of_sight_is_refused(name, values):
    model = written(lambda self, x: self.a(x + HIDDEN[name](x)), a=nn.Linear(4, 2))
    with pytest.raises(TypeError, match="changes with"):
        sklrp.explain(model, FIXED_POINTS[values], rule="epsilon")


def once(model, X):
    """Return the plan of a network that was probed once, and its input."""
    inputs = Inputs(X)
    intake = Intake.of(model, inputs)
    with plain_arithmetic(intake.device):
        probe = Probe(inputs, intake, once=True, recalls=True)
        plan = compile_plan(model, "epsilon", 1e-6, None, probe)
    return plan, intake.to_signals(inputs.arrays)


@pytest.mark.parametrize("name", HIDDEN)
def test_the_first_chunk_tells_what_is_computed_out_of_sight(name):
    model = written(lambda self, x: self.a(x + HIDDEN[name](x)), a=nn.Linear(4, 2))
    plan, chunk = once(model, numbers(5, 4))
    with torch.no_grad(), pytest.raises(TypeError, match="changes with"):
        plan.run_first(*chunk)


def test_the_first_chunk_tells_that_forward_takes_another_way():
    def run(self, x):
        return self.a(x if len(x) == 2 else x.relu())

    plan, chunk = once(written(run, a=nn.Linear(4, 2)), numbers(5, 4))
    with torch.no_grad(), pytest.raises(TypeError, match="another way"):
        plan.run_first(*chunk)


@pytest.mark.parametrize(
    ("n_samples", "of"), [(1, 1), *((n, of) for n in (1, 2, 3, 5, 40) for of in (2, 3)), (40, 7)]
)
def test_layers_take_the_same_values_in_every_run(n_samples, of):
    """Names alone don't tell that a layer comes first for some numbers of samples."""

    def run(self, x):
        h = self.a(x).relu()
        return self.c(self.b(x if len(x) == of else h).relu())

    layers = {name: nn.Linear(4, 4) for name in "abc"}
    with pytest.raises(TypeError, match="another way"):
        sklrp.explain(written(run, **layers), numbers(n_samples, 4), batch_size=8)


def test_the_same_value_is_explained_in_every_run():
    def run(self, x):
        h = self.a(x)
        g = self.b(h)
        return h if len(x) == 3 else g

    model = written(run, a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    with pytest.raises(TypeError, match="another way"):
        sklrp.explain(model, numbers(20, 4), check=False)


def test_layers_are_of_one_type_in_every_run():
    def run(self, x):
        self.act = nn.ReLU() if len(x) == 2 else nn.Softplus()
        return self.c(self.act(self.a(x)))

    model = written(run, a=nn.Linear(4, 4), c=nn.Linear(4, 2), act=nn.ReLU())
    with pytest.raises(TypeError, match="another way"):
        sklrp.explain(model, numbers(20, 4), check=False)


RETURNED_AS_THEY_WERE = {
    "dropped beside": lambda self, h: (self.drop(h), h)[1],
    "contiguous": lambda self, h: (h.contiguous(), h)[1],
    "both": lambda self, h: self.drop(h) + h,
    "once copied": lambda self, h: _of_steps(h.unflatten(1, (2, 2)).transpose(0, 1)),
}


def _of_steps(t):
    g = t.contiguous()
    g = g + t
    return (g * t).sum(0)


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("n_samples", [1, 2, 3, 5, 40])
@pytest.mark.parametrize("name", RETURNED_AS_THEY_WERE)
def test_what_torch_returns_as_it_was_is_no_other_way(name, n_samples, changed):
    def run(self, x):
        h = self.a(x).relu()
        if changed:
            h[:, 1:] += 1.0
        return RETURNED_AS_THEY_WERE[name](self, h)

    model = written(run, a=nn.Linear(4, 4), drop=nn.Dropout())
    X = numbers(n_samples, 4)
    at_once, one_by_one = (sklrp.explain(model, X, target=0, batch_size=n) for n in (None, 1))
    np.testing.assert_allclose(at_once, one_by_one, rtol=1e-9, atol=1e-12)


class Writes(nn.Linear):
    """A layer that writes over its input without a word, and returns it."""

    def forward(self, x):
        return x.copy_(F.linear(x, self.weight))


def test_a_layer_that_writes_over_its_input_leaves_another_value():
    @register(Writes, kind="dense", weights=lambda layer: (layer.weight, None))
    def handler(step, signal):
        return affine(step, signal, F.linear, torch.matmul)

    def run(self, x):
        return self.c(self.a(self.w(x)).relu())

    try:
        model = written(run, w=Writes(4, 4), a=nn.Linear(4, 4), c=nn.Linear(4, 2))
        X, rule = numbers(40, 4), "epsilon_alpha2_beta1_flat"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # flat on a dense layer says little
            found = [sklrp.explain(model, X, rule=rule, batch_size=n) for n in (None, 1, 2)]
        np.testing.assert_allclose(found[1], found[0], rtol=1e-9)
        np.testing.assert_allclose(found[2], found[0], rtol=1e-9)
    finally:
        del HANDLERS[Writes]


def test_the_first_chunk_agrees_on_constants_of_each_sample():
    def run(self, x):
        return self.a(x + torch.arange(4.0).double().expand(len(x), 4))

    plan, chunk = once(written(run, a=nn.Linear(4, 2)), numbers(5, 4))
    with torch.no_grad():
        plan.run_first(*chunk)
    assert not plan.varies


# Mixed as two samples are not.
MIXED = {
    "rolled": lambda x: x.roll(2, 0),
    "mean": lambda x: x - x.mean(0, keepdim=True),
    "largest": lambda x: x - x.amax(0, keepdim=True),
    "by one": lambda x: x + 0.1 * x.roll(1, 0),
    "back by one": lambda x: x + 0.1 * x.roll(-1, 0),
    "flipped": lambda x: x + 0.1 * x.flip(0),
}


@pytest.mark.parametrize("n_samples", [2, 3, 4, 30])
@pytest.mark.parametrize("name", MIXED)
def test_samples_mixed_in_any_way_are_refused(name, n_samples):
    if name == "rolled" and n_samples == 2:
        return  # each stays in its place
    model = written(lambda self, x: self.a(MIXED[name](x)), a=nn.Linear(4, 2))
    with pytest.raises(TypeError, match=r"mixes|reorders|axis of the samples"):
        sklrp.explain(model, numbers(n_samples, 4), rule="epsilon")


def test_integers_beside_numbers_are_changed_too():
    def run(self, x, category):
        return self.a(x) + in_thread(F.embedding, category, self.kinds.weight)

    model = written(run, a=nn.Linear(4, 2), kinds=nn.Embedding(3, 2))
    for category in (0, 1, 2):
        X = numbers(1, 4), np.array([category])
        with pytest.raises(TypeError, match="changes with"):
            sklrp.explain(model, X, rule="epsilon")


def test_lengths_that_take_no_other_value_do_not_hide_words():
    """Lengths of one step can be no shorter and no longer; the words are still changed."""

    def run(self, tokens, lengths):
        packed = pack_padded_sequence(self.words(tokens), lengths.cpu(), batch_first=True)
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        return self.head(states[:, 0] + scripted_gelu(states)[:, 0])

    layers = {"words": nn.Embedding(9, 3), "lstm": nn.LSTM(3, 3, batch_first=True)}
    model = written(run, **layers, head=nn.Linear(3, 2))
    with pytest.raises(TypeError, match="changes with"):
        sklrp.explain(model, (np.array([[4]]), np.array([1])), rule="epsilon")


class Picky(nn.Module):
    """A network that takes one sentence only, and looks something up out of sight."""

    def __init__(self, look_up):
        super().__init__()
        self.words, self.head, self.look_up = nn.Embedding(9, 3), nn.Linear(3, 2), look_up

    def forward(self, tokens):
        if not bool((tokens == torch.tensor([2, 7])).all()):
            raise ValueError("unknown sentence")
        h = self.words(tokens)
        return self.head((h + self.look_up(h)).mean(1))


def test_what_cannot_be_told_is_refused():
    X = np.array([[2, 7]])
    with pytest.raises(TypeError, match=r"cannot be told.*Pass samples"):
        sklrp.explain(randomised(Picky(scripted_gelu)), X, rule="epsilon")
    relevance = sklrp.explain(randomised(Picky(torch.relu)), X, rule="epsilon")
    assert relevance.shape == X.shape


def test_lengths_of_one_sentence_are_taken():
    def run(self, tokens, lengths):
        h = self.words(tokens)
        mask = torch.arange(tokens.shape[1]) < lengths[:, None]
        causal = torch.ones(int(lengths.max()), 1, dtype=h.dtype)
        packed = pack_padded_sequence(h, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        return self.head((states * causal).sum(1) + (h * mask[..., None]).sum(1))

    layers = {"words": nn.Embedding(9, 3), "lstm": nn.LSTM(3, 3, batch_first=True)}
    model = written(run, **layers, head=nn.Linear(3, 2))
    tokens, lengths = np.array([[4, 2, 8, 0], [4, 2, 8, 1]]), np.array([3, 4])
    both = sklrp.explain(model, (tokens, lengths), target=0, rule="epsilon")[0]
    one = sklrp.explain(model, (tokens[:1], lengths[:1]), target=0, rule="epsilon")[0]
    np.testing.assert_allclose(one, both[:1], rtol=1e-10, atol=1e-13)


def test_layers_of_a_chain_that_count_stay_as_they_were(monkeypatch):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.n_calls = 0

        def forward(self, x):
            self.n_calls += 1
            return 2 * x

    monkeypatch.setitem(HANDLERS, Counting, None)  # is taken out again when the test is over
    sklrp.propagation.register(Counting)(
        lambda step, signal: (replace(signal, x=2 * signal.x), lambda relevance, kept: relevance)
    )
    model = randomised(nn.Sequential(nn.Linear(3, 4), Counting(), nn.Linear(4, 2))).eval()
    for check in ("auto", True):
        sklrp.explain(model, numbers(5, 3), check=check)
    assert model[1].n_calls == 0


class Centred(nn.Module):
    """A layer that subtracts half of the mean of all samples."""

    def forward(self, x):
        return x - 0.5 * x.mean(0)


@pytest.mark.parametrize("n_samples", [1, 2, 16, 17])
def test_a_registered_layer_of_a_chain_that_mixes_samples_is_refused(n_samples, monkeypatch):
    monkeypatch.setitem(HANDLERS, Centred, None)  # is taken out again when the test is over
    sklrp.propagation.register(Centred)(
        lambda step, signal: (signal.apply(step.layer.forward), lambda relevance, kept: relevance)
    )
    model = randomised(nn.Sequential(nn.Linear(3, 4), Centred(), nn.Linear(4, 2))).eval()
    with pytest.raises(TypeError, match="mixes samples"):
        sklrp.explain(model, numbers(n_samples, 3), target=0)


# --- What a step keeps, in sum ---------------------------------------------------------------


def keeps_in_many_ways(self, x):
    h = torch.relu(self.norm(self.conv(x) + 0.5))
    h = self.behind(h * torch.sigmoid(self.gate(h))) - 0.25
    return self.head(torch.layer_norm(h.flatten(1), (8,)))


class Overflown(nn.Module):
    """Returns an infinite first value, which its handler doesn't."""

    def forward(self, x):
        return torch.cat([x[:, :1] / 0.0, x[:, 1:]], 1)


@pytest.mark.parametrize("check", ["auto", True])
@pytest.mark.parametrize("n_samples", [1, 2, 5])
def test_infinite_scores_of_the_network_agree_with_no_finite_ones(n_samples, check, monkeypatch):
    monkeypatch.setitem(HANDLERS, Overflown, HANDLERS[nn.Identity])
    network = randomised(nn.Sequential(nn.Linear(4, 3), Overflown()))
    with pytest.raises(TypeError, match="through layer '1' is not supported"):
        sklrp.explain(network, numbers(n_samples, 4), target=1, check=check)


@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("rule", ["epsilon", "gamma", "alpha_beta", "z_plus", "flat", "w_square"])
def test_what_is_kept_in_sum_is_the_sum_over_all_causes(rule, epsilon, batch_size):
    network = written(
        keeps_in_many_ways, conv=nn.Conv2d(2, 3, 3, padding=1), norm=nn.GroupNorm(1, 3),
        gate=nn.Conv2d(3, 3, 1), behind=nn.Conv2d(3, 2, 3, stride=2), head=nn.Linear(8, 3),
    )  # fmt: skip
    X = numbers(batch_size, 2, 6, 6)
    inputs = Inputs(X)
    intake = Intake.of(network, inputs)

    def pull(in_sum):
        tape = plan.run(*intake.to_signals([X]))
        relevance = torch.eye(3).double()[:, None] * tape.scores
        balance, found = Balance(len(X)), []
        notes = [balance.note, lambda record, arrived, passed, kept: found.append(dict(kept))]
        if in_sum:
            passed, _ = tape.pull(relevance, False, notes, balance.keep)
        else:
            passed, _ = tape.pull(relevance, True, notes)
        balance.settle()
        return passed[0], found

    with plain_arithmetic(intake.device):
        plan = compile_plan(network, rule, epsilon, probe=Probe(inputs, intake))
        (whole, kept), (alone, sums) = pull(False), pull(True)
    torch.testing.assert_close(alone, whole, rtol=0, atol=0)
    assert any(len(each) > 1 for each in kept)
    for causes, rest in zip(kept, sums, strict=True):
        assert bool(causes) == bool(rest)
        if rest:
            size = max(float(amount.abs().max()) for amount in causes.values())
            torch.testing.assert_close(
                sum(rest.values()), sum(causes.values()), rtol=0, atol=1e-9 * (1.0 + size)
            )
