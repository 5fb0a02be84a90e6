"""Gates: what they take in products of matrices, and cells written by hand against torch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import sklrp
from sklrp import Composite, Epsilon, Zero
from tests.helpers.comparing import assert_close

PRODUCTS = ("all", "prop", "abs", "half")
CAUSES = ("bias", "epsilon", "padding", "initial_state", "dropped")


def rule_of(product, rule=None):
    return Composite([("all", rule or Zero(), "all")], product=product)


def shares(product, gate, signal):
    """Return what a gate takes of its product with a signal; Arras et al. 2019, section 3."""
    if product == "prop":
        return gate / (gate + signal)
    if product == "abs":
        return np.abs(gate) / (np.abs(gate) + np.abs(signal))
    return np.full(np.broadcast_shapes(gate.shape, signal.shape), 0.5 * (product == "half"))


# --- A gate in a product of matrices --------------------------------------------------------


class Mixing(nn.Module):
    """Weights that a sigmoid computes mix the steps of a sequence."""

    def __init__(self, multiply):
        super().__init__()
        self.multiply = multiply
        self.gate, self.value = nn.Linear(3, 4, bias=False), nn.Linear(3, 2, bias=False)
        self.double()

    def forward(self, x):
        return self.multiply(torch.sigmoid(self.gate(x)), self.value(x)).sum(1)


MULTIPLY = {
    "matmul": lambda gate, value: torch.matmul(gate, value),
    "operator": lambda gate, value: gate @ value,
    "bmm": lambda gate, value: torch.bmm(gate, value),
    "gate on the right": lambda gate, value: (value.mT @ gate.mT).mT,
    "linalg": lambda gate, value: torch.linalg.matmul(gate, value),
    "element by element": lambda gate, value: (gate.unsqueeze(-1) * value.unsqueeze(1)).sum(2),
}


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("name", MULTIPLY)
def test_gates_that_enter_by_matrices(name, product):
    """Each product of a sum is shared by its own factors: term by term, in NumPy."""
    torch.manual_seed(0)
    model = Mixing(MULTIPLY[name])
    x = np.random.default_rng(0).normal(size=(5, 4, 3))
    relevance, details = sklrp.explain(
        model, x, target="all", rule=rule_of(product), epsilon=0.0, return_details=True
    )
    w_gate, w_value = (layer.weight.detach().numpy() for layer in (model.gate, model.value))
    z = x @ w_gate.T  # (n, j, i)
    gate, value = 1 / (1 + np.exp(-z)), x @ w_value.T  # (n, j, i), (n, i, k)
    terms = gate[..., None] * value[:, None]  # (n, j, i, k), whose sum over j and i is the score
    to_gate = terms * shares(product, gate[..., None], value[:, None])
    for k in range(2):
        of_z = to_gate[..., k].copy()
        of_value = (terms - to_gate)[..., k].sum(1)
        expected = x * ((of_value / value[..., k])[..., None] * w_value[k])
        expected += x * np.einsum("nji,if->njf", of_z / z, w_gate)
        assert_close(relevance[:, k], expected)
    assert_close(details.score, terms.sum((1, 2)))


@pytest.mark.parametrize("product", PRODUCTS)
def test_masks_in_products_of_matrices_take_nothing(product):
    torch.manual_seed(0)
    model = Mixing(lambda gate, value: (gate > 0.5).to(value.dtype) @ value)
    x = np.random.default_rng(0).normal(size=(5, 4, 3))
    relevance = sklrp.explain(model, x, target=0, rule=rule_of(product), epsilon=0.0)
    expected = sklrp.explain(model, x, target=0, rule="zero", epsilon=0.0)
    assert_close(relevance, expected)


# --- Cells by hand --------------------------------------------------------------------------


class ByHand(nn.Module):
    """A recurrent network over a cell, or over the same cell written out."""

    def __init__(self, cell, by_hand, start):
        super().__init__()
        self.cell = {"GRU": nn.GRUCell, "LSTM": nn.LSTMCell}[cell](3, 4)
        self.fc, self.by_hand, self.start = nn.Linear(4, 2), by_hand, start
        self.first = nn.Parameter(torch.randn(2, 4))
        self.double()

    def starts(self, x):
        if self.start == "zeros":
            return torch.zeros(x.size(0), 4, dtype=x.dtype), x.new_zeros(len(x), 4)
        return self.first[0].expand(len(x), -1), self.first[1].repeat(len(x), 1)

    def forward(self, x):
        h, c = self.starts(x)
        for t in range(x.size(1)):
            if isinstance(self.cell, nn.GRUCell):
                h = self.by_hand(self, x[:, t], h) if self.by_hand else self.cell(x[:, t], h)
            else:
                step = self.by_hand or (lambda self, x, h, c: self.cell(x, (h, c)))
                h, c = step(self, x[:, t], h, c)
        return self.fc(h)


def gates_of(self, x, h):
    cell = self.cell
    return (
        torch.nn.functional.linear(x, cell.weight_ih, cell.bias_ih),
        torch.nn.functional.linear(h, cell.weight_hh, cell.bias_hh),
    )


def gru(self, x, h):
    of_x, of_h = gates_of(self, x, h)
    (r_x, z_x, n_x), (r_h, z_h, n_h) = of_x.chunk(3, 1), of_h.chunk(3, 1)
    r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
    n = torch.tanh(n_x + r * n_h)
    return (1 - z) * n + z * h


def gru_by_matrices(self, x, h):
    """With products of matrices, the reset gate on the right, and lerp."""
    cell, rows = self.cell, [slice(k * 4, k * 4 + 4) for k in range(3)]
    r, z = (
        (
            x @ cell.weight_ih[k].T + cell.bias_ih[k] + (h @ cell.weight_hh[k].T + cell.bias_hh[k])
        ).sigmoid()
        for k in rows[:2]
    )
    k = rows[2]
    n_h = h @ cell.weight_hh[k].T + cell.bias_hh[k]
    n = (x @ cell.weight_ih[k].T + cell.bias_ih[k] + n_h * r).tanh()
    return torch.lerp(n, h, z)


def lstm(self, x, h, c):
    of_x, of_h = gates_of(self, x, h)
    i, f, g, o = (of_x + of_h).chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


CELLS = {"GRU": ("GRU", gru), "GRU by matrices": ("GRU", gru_by_matrices), "LSTM": ("LSTM", lstm)}


@pytest.mark.sweep(3)
@pytest.mark.parametrize("start", ["zeros", "learned"])
@pytest.mark.parametrize("n_steps", [1, 2, 4])
@pytest.mark.parametrize("name", CELLS)
def test_cells_by_hand_are_explained_as_cells(name, n_steps, start):
    """An initial state is a signal in its products with gates, though it is a constant."""
    kind, by_hand = CELLS[name]
    torch.manual_seed(0)
    written, whole = ByHand(kind, by_hand, start), ByHand(kind, None, start)
    whole.load_state_dict(written.state_dict())
    X = np.random.default_rng(0).normal(size=(3, n_steps, 3))
    for n_samples in (1, 3):
        options = {"target": "all", "rule": "zero", "epsilon": 0.0, "return_details": True}
        relevance, details = sklrp.explain(written, X[:n_samples], **options)
        expected, of_cell = sklrp.explain(whole, X[:n_samples], **options)
        assert_close(details.score, of_cell.score)
        assert_close(relevance, expected)
        kept = sum(layer[cause] for layer in details.layers for cause in CAUSES)
        assert_close(relevance.sum((2, 3)) + kept, details.score)


@pytest.mark.sweep(2)
@pytest.mark.parametrize("product", PRODUCTS[1:])
@pytest.mark.parametrize("name", CELLS)
def test_cells_by_hand_honour_the_product(name, product):
    kind, by_hand = CELLS[name]
    torch.manual_seed(0)
    written, whole = ByHand(kind, by_hand, "zeros"), ByHand(kind, None, "zeros")
    if kind == "GRU":  # what the reset gate shares with in a cell is the state, without its bias
        nn.init.zeros_(written.cell.bias_hh)
    whole.load_state_dict(written.state_dict())
    X = np.random.default_rng(0).normal(size=(3, 3, 3))
    options = {"target": 1, "rule": rule_of(product, Epsilon(1e-9)), "epsilon": 1e-9}
    assert_close(sklrp.explain(written, X, **options), sklrp.explain(whole, X, **options), 1e-6)


def test_a_complement_passes_all_on():
    """1 - sigmoid(z) is sigmoid(-z)."""

    class Output(nn.Module):
        def __init__(self, complement):
            super().__init__()
            self.fc, self.complement = nn.Linear(3, 2).double(), complement

        def forward(self, x):
            z = self.fc(x)
            return 3.0 * (1 - torch.sigmoid(z) if self.complement else torch.sigmoid(-z))

    torch.manual_seed(0)
    one, other = Output(True), Output(False)
    other.load_state_dict(one.state_dict())
    X = np.random.default_rng(0).normal(size=(4, 3))
    found, expected = (sklrp.explain(net, X, target=1, rule="zero") for net in (one, other))
    assert_close(found, expected)


def test_a_complement_of_a_function_of_a_gate_shares_by_contribution():
    """1 - sigmoid(z)**2 is no gate's complement: the 1 keeps its share, as a bias does."""

    class Squared(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2, bias=False).double()

        def forward(self, x):
            return 3.0 * (1 - torch.sigmoid(self.fc(x)) ** 2)

    torch.manual_seed(0)
    model, X = Squared(), np.random.default_rng(0).normal(size=(4, 3))
    relevance, details = sklrp.explain(
        model, X, target=1, rule="zero", epsilon=0.0, return_details=True
    )
    contributions = X * model.fc.weight[1].detach().numpy()
    z = contributions.sum(1, keepdims=True)
    squared = (1 + np.exp(-z)) ** -2.0
    assert_close(relevance, -3 * squared * contributions / z)
    assert_close(sum(layer.bias for layer in details.layers), np.full(4, 3.0))


@pytest.mark.parametrize(
    "scale",
    [
        lambda self, gate: 3.0 * gate,
        lambda self, gate: gate * self.scale,
        lambda self, gate: self.low + (self.high - self.low) * gate,
        lambda self, gate: gate / self.scale,
    ],
)
def test_constants_that_all_samples_share_scale_a_gate(scale):
    """An output within bounds, low + (high - low) * sigmoid(z): its relevance goes on to z."""

    class Bounded(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)
            self.register_buffer("low", torch.tensor([-1.0, 2.0]))
            self.register_buffer("high", torch.tensor([4.0, 3.0]))
            self.scale = nn.Parameter(torch.tensor([2.0, -3.0]))
            self.double()

        def forward(self, x):
            return scale(self, torch.sigmoid(self.fc(x)))

    model, X = Bounded(), np.random.default_rng(0).normal(size=(4, 3))
    x = torch.tensor(X)
    z = model.fc(x).detach()
    part = scale(model, torch.sigmoid(z)) - scale(model, torch.zeros_like(z))
    share = (part / z).detach()
    for n_samples in (1, 4):
        found = sklrp.explain(model, X[:n_samples], target=0, rule="zero", epsilon=0.0)
        expected = x * share[:, :1] * model.fc.weight[0].detach()
        assert_close(found, expected[:n_samples])
