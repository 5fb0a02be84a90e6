"""What must not pass in silence: mixed samples, lost rows, weights that are no plain tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sklrp
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
    relevance = sklrp.explain(model, X, target=1, rule="zero", epsilon=0.0)
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
        with pytest.raises(ValueError, match="n_samples, n_outputs"):
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
