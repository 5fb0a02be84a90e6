"""Functions that a forward calls: explained rightly, whatever the name and the form of the call.

`test_networks.py` lets a function be right or refused; these must be right. The reference is
torch's own score, and gradient x input of the network, which is piecewise linear.
"""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

import sklrp
from sklrp import Composite, Epsilon
from tests.helpers.comparing import assert_close

CAUSES = ("bias", "epsilon", "padding", "initial_state", "dropped")


class Calls(nn.Module):
    """A linear layer, a function of (n_samples, 4, 6), and a linear layer on what comes of it."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.first = nn.Linear(3, 6)
        self.matrix, self.vector = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(6))
        self.shift, self.norm = nn.Parameter(torch.randn(6)), nn.BatchNorm1d(4)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2.0)
        self.conv = nn.Conv1d(4, 5, 1)
        self.double().eval()
        with torch.no_grad():
            size = (
                function(self, self.first(torch.zeros(2, 4, 3).double())).reshape(2, -1).shape[1]
            )
        self.last = nn.Linear(size, 2).double()

    def forward(self, x):
        return self.last(self.function(self, self.first(x)).reshape(len(x), -1))


def build(function):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Calls(function)


def draw(n_samples, dtype=float):
    return np.random.default_rng(n_samples).normal(size=(n_samples, 4, 3)).astype(dtype)


def assert_right(model, X, tolerance=1e-9, rule="zero"):
    """Hold relevance and scores against gradient x input and scores by torch."""
    x = torch.tensor(X, requires_grad=True)
    scores = model(x).reshape(len(x), -1)
    expected = [
        (x * torch.autograd.grad(scores[:, k].sum(), x, retain_graph=True)[0]).detach()
        for k in range(scores.shape[1])
    ]
    relevance, details = sklrp.explain(
        model, X, target="all", rule=rule, epsilon=0.0, return_details=True
    )
    assert_close(details.score, scores.detach(), tolerance)
    assert_close(relevance, torch.stack(expected, 1), tolerance)
    kept = sum(layer[cause] for layer in details.layers for cause in CAUSES)
    assert_close(
        relevance.reshape(*details.score.shape, -1).sum(-1) + kept, details.score, tolerance
    )


def statistics_of(norm):
    return norm.weight, norm.bias, norm.running_mean, norm.running_var


def masked_in_place(self, x):
    mask = x > 0
    mask &= x < 1
    return x * mask


def one_squeezed_and_back(self, x):
    """As people mend what squeezes the axis of a single sample away."""
    pooled = F.relu(self.conv(x)).mean(2, keepdim=True).squeeze()
    return pooled.unsqueeze(0) if pooled.dim() == 1 else pooled


RIGHT = {
    # arguments in another order than in torch.nn.functional
    "torch.batch_norm": lambda self, x: torch.batch_norm(
        x, *statistics_of(self.norm), False, 0.1, 1e-5, True
    ),
    "torch.batch_norm by keywords": lambda self, x: torch.batch_norm(
        x, *statistics_of(self.norm), training=False, momentum=0.1, eps=0.1, cudnn_enabled=False
    ),
    "torch.instance_norm": lambda self, x: torch.instance_norm(
        x, *statistics_of(self.norm), False, 0.1, 1e-5, False
    ),
    "torch.dropout": lambda self, x: torch.dropout(x, 0.5, False),
    "torch.rrelu": lambda self, x: torch.rrelu(x, 0.1, 0.3),
    "Tensor.prelu": lambda self, x: x.prelu(self.shift[:4]),
    "relu6": lambda self, x: F.relu6(3 * x),
    "relu6 in place": lambda self, x: F.relu6(3 * x, inplace=True),
    # NumPy's names, out=None
    "axis and keepdims": lambda self, x: x - x.mean(axis=1, keepdims=True),
    "amax by axis": lambda self, x: x.amax(axis=2),
    "squeeze by axis": lambda self, x: x[:, :1].squeeze(axis=1),
    "out": lambda self, x: torch.add(torch.mul(x, 2.0, out=None), self.shift, out=None),
    "matmul with out": lambda self, x: torch.matmul(x, self.matrix, out=None),
    # written in terms of others
    "vector": lambda self, x: x @ self.vector,
    "rows times a vector": lambda self, x: x[:, 0] @ self.vector,
    "vector first": lambda self, x: self.vector[:4] @ x,
    "matmul by name": lambda self, x: torch.matmul(input=x, other=self.vector),
    "mv": lambda self, x: torch.mv(x[:, 0], self.vector),
    "addmv": lambda self, x: torch.addmv(
        self.shift[:1], x[:, 0], self.vector, beta=0.5, alpha=2.0
    ),
    "addmm": lambda self, x: torch.addmm(self.shift, x[:, 0], self.matrix, beta=0.5, alpha=2.0),
    "addmm of activations": lambda self, x: torch.addmm(x[:, 1], x[:, 0], self.matrix),
    "baddbmm": lambda self, x: torch.baddbmm(x, x, self.matrix.expand(len(x), -1, -1)),
    "inner": lambda self, x: torch.inner(x, self.matrix) + torch.inner(x, self.vector)[..., None],
    "vecdot": lambda self, x: torch.linalg.vecdot(x, self.vector),
    "linalg.matmul": lambda self, x: torch.linalg.matmul(x, self.matrix),
    "multi_dot": lambda self, x: torch.linalg.multi_dot([x[:, 0], self.matrix, self.matrix]),
    "addcmul": lambda self, x: torch.addcmul(self.shift, x, self.vector, value=0.5),
    "addcdiv": lambda self, x: torch.addcdiv(x, x, self.vector, value=0.5),
    "tensordot": lambda self, x: torch.tensordot(x, self.matrix, dims=([2], [0])),
    "tensordot of one axis": lambda self, x: torch.tensordot(x, self.matrix.t(), dims=1),
    "tensordot of two axes": lambda self, x: torch.tensordot(
        x, self.matrix[:4].reshape(4, 6, 1) * self.shift[:3], dims=([1, -1], [0, 1])
    ),
    "tensordot from the left": lambda self, x: torch.tensordot(
        x, self.matrix[:4], dims=([1], [0])
    ),
    "sum in another dtype": lambda self, x: x.sum(1, dtype=torch.float64),
    # masks
    "equal": lambda self, x: x * (F.relu(x) == 0),
    "both": lambda self, x: x * ((x > 0) & (x < 1)),
    "either": lambda self, x: x * ((x > 1) | (x < -1)),
    "one of two": lambda self, x: x * ((x > 0) ^ (x < 1)),
    "not": lambda self, x: x * ~(x > 0),
    "in place": masked_in_place,
    "logical": lambda self, x: x
    * torch.logical_or(torch.logical_not(x > 0), x.logical_and(x > 1)),
    "bitwise": lambda self, x: x * torch.bitwise_and(x > 0, torch.bitwise_not(x > 1)),
    "any": lambda self, x: x * (x > 1).any(1, keepdim=True),
    "all": lambda self, x: x * torch.all(x > -1, dim=2, keepdim=True),
    "all of several axes": lambda self, x: x * (x > -2).all((1, 2), keepdim=True),
    "isclose": lambda self, x: x * torch.isclose(x, torch.zeros_like(x), atol=0.5),
    "where by keywords": lambda self, x: torch.where(condition=x > 0, input=x, other=0.1 * x),
    "where as a method by keywords": lambda self, x: x.where(condition=x > 0, other=-x),
    "where with its mask by name": lambda self, x: torch.where(x > 0, input=-x, other=2 * x),
    "masked_fill by keywords": lambda self, x: x.masked_fill(mask=x > 1, value=0.5),
    "bool": lambda self, x: x * F.relu(x).bool(),
    "where any": lambda self, x: torch.where((x > 1).any(2, keepdim=True), x, -x),
    "number of": lambda self, x: x / (x > 0).count_nonzero(2).unsqueeze(2).clamp(min=1),
    "one hot of the largest": lambda self, x: x * F.one_hot(x.argmax(2), 6),
    "place of the largest": lambda self, x: x
    * (x.argmax(2, keepdim=True) == torch.arange(6)),
    "at the largest": lambda self, x: x.gather(1, x.argmax(1, keepdim=True)),
    "at the least": lambda self, x: torch.take_along_dim(x, x.argmin(2, keepdim=True), 2),
    "masked mean": lambda self, x: (x * (x > 0)).sum(1) / (x > 0).sum(1).clamp(min=1),
    # triangles, types
    "tril": lambda self, x: torch.tril(x),
    "triu": lambda self, x: x.triu(diagonal=1) + x.tril(-1),
    "integers among floats": lambda self, x: torch.cat(
        [x, torch.arange(6).expand(len(x), 1, 6), torch.ones(len(x), 1, 6, dtype=torch.bool)], 1
    ),
    "type_as": lambda self, x: x.double().type_as(x) + torch.relu(x).type_as(self.shift),
    "autocast that is off": lambda self, x: F.relu(
        autocast(x @ self.matrix, False)
    ),
    # a single sample
    "squeeze": lambda self, x: F.adaptive_avg_pool1d(F.relu(self.conv(x)), 1).squeeze(),
    "torch.squeeze": lambda self, x: torch.squeeze(F.relu(self.conv(x)).amax(2, keepdim=True)),
    "squeeze in place": lambda self, x: F.relu(self.conv(x)).mean(2, keepdim=True).squeeze_(),
    "squeeze of the first axis": lambda self, x: F.relu(self.conv(x)).squeeze(0),
    "squeeze of several axes": lambda self, x: F.relu(x[:, :1, :1]).squeeze((0, 1)),
    "squeeze and back": one_squeezed_and_back,
}  # fmt: skip


def autocast(x, enabled=True):
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
        return 2 * x


@pytest.mark.sweep(40)
@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("n_samples", [1, 3, 4])
def test_functions_are_right(name, n_samples):
    assert_right(build(RIGHT[name]), draw(n_samples))


@pytest.mark.parametrize("name", ["squeeze", "type_as", "relu6", "integers among floats"])
def test_functions_are_right_in_single_precision(name):
    assert_right(build(RIGHT[name]).float(), draw(1, "float32"), 1e-5)


def test_lists_in_place_of_tuples():
    """As converters write them: sizes that torch takes in either form."""

    class Listed(nn.Module):
        def __init__(self, form):
            super().__init__()
            torch.manual_seed(0)
            self.form, self.head = form, nn.Linear(20, 2)
            self.pool = nn.MaxPool2d(form([2, 3]), form([1, 2]), form([1, 1]))

        def forward(self, x):
            x = F.interpolate(self.pool(x), scale_factor=self.form([2.0, 1.0]))
            x = F.max_pool2d(x, self.form([3, 2]), self.form([2, 1]))
            return self.head(x.flatten(1))

    x = np.random.default_rng(0).normal(size=(3, 2, 5, 6))
    one, other = (sklrp.explain(Listed(form), x, target=1) for form in (list, tuple))
    assert other.any()
    assert np.array_equal(one, other)


def test_chunks_of_single_images():
    """Large images are explained one by one: what forward squeezes is then a single sample."""
    model, X = build(RIGHT["squeeze"]), draw(5)
    one_by_one = sklrp.explain(model, X, batch_size=1, target=0)
    assert_close(one_by_one, sklrp.explain(model, X, batch_size=5, target=0))


def test_scores_without_an_axis_of_outputs():
    class Regression(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(12, 1).double()

        def forward(self, x):
            return self.fc(x.flatten(1)).squeeze()

    model = Regression()
    for n_samples in (1, 4):
        assert_right(model, draw(n_samples))


def test_softmin_is_a_gate():
    model = build(lambda self, x: x * F.softmin(x, dim=1, dtype=torch.float64))
    same = build(lambda self, x: x * torch.softmax(-x, 1))
    X = draw(3)
    assert_close(sklrp.explain(model, X, target=1), sklrp.explain(same, X, target=1))


@pytest.mark.parametrize("product", ["prop", "abs", "half"])
@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: x * (x > 0),
        lambda self, x: (x > 0).double() * x,
        lambda self, x: x * ((x > 0) & (x < 2)),
        lambda self, x: x * (1 - (x > 0).double()),
        lambda self, x: (x * (x > 0)).sum(1) / (x > 0).sum(1).clamp(min=1),
        lambda self, x: x * F.one_hot(x.argmax(2), 6).to(x.dtype),
    ],
)
def test_masks_take_no_relevance(product, function):
    """A mask selects: whatever the composite says of gates, the signal takes all."""
    rule = Composite([("all", Epsilon(0.0), "all")], product=product)
    assert_right(build(function), draw(3), rule=rule)


def test_masks_and_gates_share_with_a_signal():
    """Of x * sigmoid(y) * mask, the sigmoid gets what it would get without the mask."""
    rule = Composite([("all", Epsilon(0.0), "all")], product="abs")
    model = build(lambda self, x: x * (torch.sigmoid(x) * (x > 0)))
    x = torch.tensor(draw(3))
    relevance, details = sklrp.explain(
        model, x, target=0, rule=rule, epsilon=0.0, return_details=True
    )
    h = model.first(x).detach()
    at_product = h * torch.sigmoid(h) * (h > 0) * model.last.weight[0].detach().reshape(4, 6)
    weight = model.first.weight.detach()
    # All of it reaches h, from both sides, and is shared by contribution to h.
    expected = x * ((at_product / h) @ weight)
    assert_close(relevance, expected)
    assert_close(details.score, model(x)[:, 0].detach())


def test_boolean_inputs_are_masks():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 2, bias=False).double()

        def forward(self, x, mask):
            return self.fc(x * mask)

    model, rng = Masked(), np.random.default_rng(0)
    X, mask = rng.normal(size=(5, 4)), rng.uniform(size=(5, 4)) > 0.5
    rule = Composite([("all", Epsilon(0.0), "all")], product="abs")
    relevance, of_mask = sklrp.explain(model, (X, mask), target=1, rule=rule, epsilon=0.0)
    assert_close(relevance, X * mask * model.fc.weight[1].detach().numpy())
    assert not of_mask.any()


def test_tokens_as_one_hot_vectors():
    """The relevance of a token is what the rows of the matrix get: as of an embedding."""

    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.embed = nn.Linear(6, 2, bias=False).double(), nn.Embedding(6, 2)
            self.embed.weight = nn.Parameter(self.fc.weight.detach().t())
            self.is_hot = True

        def forward(self, tokens):
            x = F.one_hot(tokens, 6) if self.is_hot else None
            return (self.embed(tokens) if x is None else self.fc(x.double())).sum(1)

    model, tokens = Words(), np.random.default_rng(0).integers(0, 6, size=(5, 3))
    hot = sklrp.explain(model, tokens, target=0, rule="zero", epsilon=0.0)
    model.is_hot = False
    assert np.abs(hot).min() > 0
    looked_up = [model.embed(torch.tensor(tokens))[..., 0].detach()]
    assert_close(hot, looked_up[0])


# --- What is refused, and how ---------------------------------------------------------------

REFUSED = {
    "half": (lambda self, x: x.half().double(), "'half'.*in float16 shares.*too coarse"),
    "bfloat16": (
        lambda self, x: x.to(torch.bfloat16).to(x.dtype),
        "'to'.*in bfloat16.*leave the values in float64",
    ),
    "autocast": (lambda self, x: autocast(x), r"'mul'.*torch\.autocast.*enabled=False"),
    "layer under autocast": (
        lambda self, x: F.relu(under_autocast(self.conv, x)).double(),
        r"torch\.autocast.*enabled=False",
    ),
    "adaptive_max_pool1d": (
        lambda self, x: torch.adaptive_max_pool1d(x, 2)[0],
        r"'adaptive_max_pool1d'.*2 tensors.*torch\.nn\.functional",
    ),
    "tril of samples": (lambda self, x: x[:, 0].tril(), "'tril'.*axis of the samples"),
    "comparison": (lambda self, x: x + (x > 0), "comparison 'gt'"),
    "mask among values": (lambda self, x: torch.cat([x, x > 0], 1), "comparison 'gt'"),
    "place": (lambda self, x: x + x.argmax(2, keepdim=True), "comparison 'argmax'"),
    "any sample": (lambda self, x: x * (x > 0).any(0), "'any'.*axis of the samples"),
    "largest of all": (lambda self, x: x * x.argmax(), "'argmax'.*axis of the samples"),
    "one hot of unknown width": (
        lambda self, x: x * F.one_hot(x.argmax(2)).sum(-1, keepdim=True),
        "'one_hot'.*pass num_classes",
    ),
    "determinant": (lambda self, x: torch.linalg.det(x[:, :, :4]), "'linalg_det'.*constants"),
    "counted values": (
        lambda self, x: x * torch.histc(x.detach(), 3).sum(), "'histc'.*topk and gather",
    ),
    "grid of values": (
        lambda self, x: torch.meshgrid(x[:, 0, 0], self.shift, indexing="ij")[0],
        "'meshgrid'.*unsqueeze and expand",
    ),
    "loss": (
        lambda self, x: F.mse_loss(x, x * 0, reduction="none"), "'mse_loss'.*what the network",
    ),
    "angle of two": (
        lambda self, x: torch.atan2(x[:, :2], x[:, 2:]),
        r"'atan2'.*only one.*torch\.atan\(y / x\)",
    ),
    "power of two": (
        lambda self, x: x[:, :2] ** x[:, 2:].relu(), r"'pow'.*torch\.exp\(exponent",
    ),
    "sparse weights": (
        lambda self, x: (self.matrix.to_sparse() @ x[:, 0].T).T, r"'matmul'.*to_dense\(\)",
    ),
    "system of a signal": (
        lambda self, x: torch.linalg.solve(x[:, :, :4] + torch.eye(4).double(), x),
        "'linalg_solve'.*depends on the network's input",
    ),
    "sorted samples": (lambda self, x: x.cumprod(0), "'cumprod'.*axis of the samples"),
    "samples in order": (lambda self, x: x.sort(0)[0], "'sort'.*orders the samples"),
    "running maximum of samples": (
        lambda self, x: torch.cummax(x, dim=-3).values, "'cummax'.*orders the samples",
    ),
    "largest of folded samples": (
        lambda self, x: x.repeat(2, 1, 1).sort(0).values[: len(x)], "'sort'.*orders the samples",
    ),
    "inner samples": (lambda self, x: x * inner_weight(x), "'mul' changes with"),
    "product of all": (lambda self, x: x * x.prod(), "'prod'.*pass dim"),
    "mask of values": (
        lambda self, x: x.masked_select(x == x).reshape(x.shape), "'masked_select'.*where",
    ),
    "random choice": (lambda self, x: F.gumbel_softmax(x), "'gumbel_softmax'.*random"),
    "dtype by position": (lambda self, x: x * torch.softmax(x, 1, torch.float64), "'softmax'"),
}  # fmt: skip


def under_autocast(layer, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return layer(x)


def inner_weight(x):
    """Return weights that tell samples apart by their places, from the third sample on."""
    weight = torch.ones(len(x), 1, 1).double()
    weight[1:-1] = 2
    return weight


@pytest.mark.parametrize("name", REFUSED)
def test_functions_are_refused_by_name(name):
    function, message = REFUSED[name]
    with pytest.raises(TypeError, match=f"(?s){message}"):
        sklrp.explain(build(function), draw(3), target=0)


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: x.view(3, -1),
        lambda self, x: x + torch.zeros(3, 4, 6).to(x),
        lambda self, x: torch.cat([x, torch.zeros(3, 1, 6).to(x)], 1),
        lambda self, x: x.reshape(3, 2, 12).sum(1),
        lambda self, x: check_batch(x),
    ],
)
def test_a_fixed_number_of_samples_is_told(function):
    """Forward is probed with others than X has."""
    model = Calls.__new__(Calls)
    model.__dict__.update(build(lambda self, x: x).__dict__)
    model.function = function
    with pytest.raises((TypeError, ValueError), match=r"run on \d samples.*len\(x\)"):
        sklrp.explain(model, draw(3), target=0)


def check_batch(x):
    assert len(x) == 3
    return x


class Returning(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.fc, self.function = nn.Linear(3, 2).double(), function

    def forward(self, x):
        return self.function(self.fc(x))


class Output(dict):
    """As the outputs of some libraries: a dict with attributes."""

    __getattr__ = dict.__getitem__


@dataclasses.dataclass
class Data:
    logits: torch.Tensor


@pytest.mark.parametrize(
    ("function", "advice"),
    [
        (lambda x: {"loss": None, "logits": x}, r"got dict of 'logits': .*target='logits'"),
        (lambda x: {"first": x}, r"target=\('first', index\)"),
        (lambda x: Output(hidden=x, logits=x), r"got Output of .*target='logits'"),
        (lambda x: Data(x), r"target='logits'"),
        (lambda x: types.SimpleNamespace(out=x), r"target='out'"),
        (lambda x: "scores", r"got str\."),
    ],
)
def test_outputs_that_hold_the_scores(function, advice):
    with pytest.raises(TypeError, match=advice):
        sklrp.explain(Returning(function), np.zeros((4, 3)))


class Logger:
    def __call__(self, *args):
        return None


def pruned():
    layer = nn.Linear(3, 2)
    prune.l1_unstructured(layer, "weight", 2)
    return layer


def logged():
    layer = nn.Linear(3, 2)
    layer.register_forward_hook(Logger())
    return layer


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        (logged, TypeError, r"Layer 0 \(Linear\) has forward hooks, .*Logger.*handle\.remove"),
        (pruned, TypeError, r"L1Unstructured.*prune\.remove"),
        (lambda: nn.LazyLinear(2), ValueError, r"Layer 0 \(LazyLinear\) is lazy.*once"),
        (lambda: nn.LazyBatchNorm1d(), ValueError, "LazyBatchNorm1d.*is lazy"),
    ],
)
def test_what_is_at_a_layer_is_named(layer, error, message):
    for model in (nn.Sequential(layer(), nn.Linear(2, 2)), Returning(nn.Sequential(layer()))):
        with pytest.raises(error, match=message.replace("Layer 0", r"Layer '\S*0'")):
            sklrp.explain(model.double(), np.zeros((4, 3)))


def test_counters_of_operations_are_named():
    with FlopCounterMode(display=False), pytest.raises(TypeError, match=r"FlopCounterMode.*with"):
        sklrp.explain(nn.Sequential(nn.Linear(3, 2)).double(), np.zeros((4, 3)))


class Samples(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, i):
        return torch.zeros(3), i


T = torch.zeros(2, 3)
NOT_ARRAYS = {
    "sparse": (T.to_sparse, TypeError, r"pass X\.to_dense\(\)"),
    "sparse rows": (T.to_sparse_csr, TypeError, r"pass X\.to_dense\(\)"),
    "quantized": (
        lambda: torch.quantize_per_tensor(T, 0.1, 0, torch.qint8),
        TypeError,
        r"pass X\.dequantize\(\)",
    ),
    "nested": (
        lambda: torch.nested.nested_tensor([T, T[:1]]), TypeError, r"pass X\.to_padded_tensor",
    ),
    "nested in one block": (
        lambda: torch.nested.nested_tensor([T, T[:1]], layout=torch.jagged),
        TypeError,
        r"pass X\.to_padded_tensor",
    ),
    "data set": (lambda: TensorDataset(T), TypeError, r"TensorDataset.*X\.tensors\[0\]"),
    "subset": (lambda: Subset(TensorDataset(T), [0]), TypeError, r"Subset.*DataLoader\(X"),
    "own data set": (Samples, TypeError, r"Samples.*batch by batch"),
    "loader": (lambda: DataLoader(Samples()), TypeError, r"DataLoader.*batch by batch"),
    "packed": (
        lambda: pack_sequence([T, T[:1]]), TypeError, r"PackedSequence.*pad_packed_sequence",
    ),
    "generator": (lambda: (row for row in T), TypeError, r"generator.*np\.stack"),
    "ragged lists": (lambda: [[1.0, 2.0], [1.0]], ValueError, r"unequal lengths.*pad_sequence"),
    "ragged tensors": (lambda: [T[0], T[1, :2]], ValueError, r"unequal lengths.*pad_sequence"),
    "ragged objects": (
        lambda: np.array([np.ones(2), np.ones(3)], dtype=object), ValueError, "unequal lengths",
    ),
    "ragged among several": (
        lambda: {"x": [[1.0, 2.0], [1.0]]}, ValueError, r"X\['x'\].*unequal",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*(beta state|quantize|prototype|deprecated)")
@pytest.mark.parametrize("name", NOT_ARRAYS)
def test_what_is_no_array_is_told_with_a_remedy(name):
    make, error, message = NOT_ARRAYS[name]
    with pytest.raises(error, match=message):
        sklrp.explain(Returning(lambda x: x), make())
