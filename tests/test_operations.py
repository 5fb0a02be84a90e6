"""Every function of torch that takes one tensor: explained exactly, or refused by name.

The functions are found by looking through torch's modules, so one that a release adds is tried
too. Each runs between two linear layers, under rule zero. The reference is torch's own Jacobian in
float64: a function of single values passes all relevance, one that is linear at its values shares
it by contribution, and for any other there is no general answer, so it has to be refused or to be
in the list of those that have a rule.
"""

from __future__ import annotations

import functools
import inspect
import re
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sklrp
from tests.helpers.comparing import assert_close
from tests.test_functions import assert_right, build
from tests.test_functions import draw as some_samples

CAUSES = ("bias", "epsilon", "padding", "initial_state", "dropped")
MODULES = {
    "torch": torch, "Tensor": Tensor, "special": torch.special, "fft": torch.fft,
    "functional": F, "linalg": torch.linalg,
}  # fmt: skip
INDEX = torch.tensor([2, 0, 3])
EDGES = torch.tensor([0, 0, 1, 3])


def along(x, index):
    """Return an index for each value along the axis of the steps."""
    return index[None, :, None].expand(len(x), -1, x.shape[2])


# Further arguments to try, with what is explained, of shape (n_samples, 4, 6).
ARGUMENTS = (
    lambda x: (),
    lambda x: (1,),
    lambda x: (2, 1),
    lambda x: (1, INDEX),
    lambda x: (1, along(x, INDEX)),
    lambda x: (1, EDGES, x),
    lambda x: (1, along(x, EDGES), x),
    lambda x: (1, along(x, EDGES), x, "mean"),
    lambda x: (1, INDEX, 0.5),
    lambda x: (x[:, :2], 1, 1, 3),
    lambda x: (x[:, 0], 1, 2),
    lambda x: (0.3, 1),
    lambda x: (0.7,),
    lambda x: (torch.linspace(0.5, 1.5, 6, dtype=x.dtype),),
    lambda x: (torch.linspace(0.5, 1.5, 36, dtype=x.dtype).reshape(6, 6),),
    lambda x: (torch.linspace(0.5, 1.5, 6, dtype=x.dtype), 0.3),
    lambda x: ((x > 0), 0.5),
    lambda x: ((1, 2),),
    lambda x: ((2, 1), (1, 2)),
    lambda x: (-0.2, 0.0),
    lambda x: (1, 1, 2),
    lambda x: (1, 1, 2, 1),
)
# Functions with a rule of their own, which other tests are about: gates, statistics, softmaxes.
OWN_RULE = {
    "softmax", "softmin", "log_softmax", "logsumexp", "glu", "normalize", "layer_norm", "rms_norm",
    "group_norm", "instance_norm", "batch_norm", "var", "std", "norm", "vector_norm", "var_mean",
    "std_mean", "cdist",
    "reciprocal", "rsqrt", "renorm", "local_response_norm", "lp_pool1d", "div", "divide",
    "prod", "cumprod", "logaddexp", "logaddexp2", "logcumsumexp",
    "true_divide", "special_softmax", "special_log_softmax", "rdiv", "__rdiv__",
    "__rtruediv__", "matrix_norm", "cosine_similarity", "dist", "pairwise_distance",
}  # fmt: skip
# Functions of single values that are no activations: constants that are added have a share.
SHARING = {
    "add", "sub", "subtract", "rsub", "lerp", "maximum", "minimum", "fmax", "fmin", "max", "min",
    "masked_fill", "where", "index_fill", "addcmul", "hypot",
}  # fmt: skip
# Functions whose derivative torch does not know, so that there is no reference here.
NO_DERIVATIVE = {"floor_divide", "igamma", "igammac", "gammainc", "gammaincc"}
# What is not of this test: what draws numbers, what makes tensors, reads or changes them.
LEFT_OUT = {
    "as_strided", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout",
    "requires_grad", "feature_dropout", "feature_alpha_dropout", "rrelu", "bernoulli",
    "multinomial", "normal",
    "poisson", "gumbel_softmax", "fractional_max_pool2d", "rand_like", "randn_like", "save",
    "randint_like", "compile", "vmap", "set_printoptions", "set_default_dtype", "get_device",
    "register_hook", "backward", "map", "apply", "share_memory", "to_sparse", "to_mkldnn",
    "resize", "resize_as", "cond", "while_loop", "set_default_device", "manual_seed", "to_dense",
    "set_default_tensor_type", "use_deterministic_algorithms", "set_warn_always", "cuda", "xpu",
    "ipu", "hpu", "mtia", "set_flush_denormal", "set_num_threads", "set_num_interop_threads",
    "retain_grad", "from_dlpack", "asarray", "as_tensor", "tensor", "sym_int", "sym_float",
    "scalar_tensor", "typename", "set_float32_matmul_precision", "set_deterministic_debug_mode",
    "detach", "data", "from_numpy", "module_load", "rename", "refine_names", "names", "align_to",
    "empty_like", "is_shared", "quantize_per_tensor", "native_dropout", "sparse_mask",
}  # fmt: skip


class Between(nn.Module):
    """A function between two linear layers."""

    def __init__(self, function, size, low):
        super().__init__()
        self.function, self.first = function, nn.Linear(3, 6).double()
        with torch.no_grad():  # what the function takes is between low and low + 0.8
            self.first.weight.mul_(0.3)
            self.first.bias.mul_(0.1).add_(low + 0.4)
        self.last = nn.Linear(size, 2).double()

    def forward(self, x):
        return self.last(self.function(self.first(x)).reshape(len(x), -1))


def first_tensor(found):
    return found[0] if isinstance(found, tuple | list) and found else found


def call(function, arguments, x):
    x = x.clone()  # some change it in place
    return first_tensor(function(x, *arguments(x)))


def draw_hidden():
    own = torch.Generator().manual_seed(0)
    return 0.8 * torch.rand(3, 4, 6, dtype=torch.float64, generator=own)


def find_calls():
    """Return the ways in which each function can be called on samples, by its name."""
    found, names = {}, set()
    x = draw_hidden()
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        for place, module in MODULES.items():
            for name in sorted(dir(module)):
                function = getattr(module, name)
                if name.strip("_") in LEFT_OUT or not callable(function) or name.endswith("_"):
                    continue
                if name.startswith(("_", "is_", "sym_", "set_", "cudnn", "mkldnn", "miopen")):
                    continue
                if any(f"{other}.{name}" in names for other in MODULES):
                    continue  # the method of a function
                if inspect.isclass(function) or not (place == "Tensor" or name.islower()):
                    continue
                for k, arguments in enumerate(ARGUMENTS):
                    # Logarithms and roots take positive numbers alone.
                    low = next(
                        (a for a in (-0.4, 0.1) if is_of_samples(function, arguments, a + x)), None
                    )
                    if low is not None:
                        names.add(f"{place}.{name}")
                        found[f"{place}.{name}-{k}"] = function, arguments, low
                        break
    return found


def is_of_samples(function, arguments, x):
    """Return whether a function computes numbers of each sample from its values, and no mask."""
    try:
        out = call(function, arguments, x)
        again = call(function, arguments, x)
    except Exception:  # whatever torch raises for what it does not take
        return False
    if not isinstance(out, Tensor) or out.layout != torch.strided:
        return False
    if out.dtype != torch.float64 or not out.dim():
        return False
    if len(out) != len(x) or not out.isfinite().all() or not torch.equal(out, again):
        return False
    other = call(function, arguments, x * 0.9)
    alone = call(function, arguments, x[:2])
    same = out.shape[1:] == alone.shape[1:] and len(alone) == 2
    return same and torch.allclose(out[:2], alone) and not torch.equal(out, other)


CALLS = find_calls()


def reference(model, X, shares):
    """Return the relevance of the input by rule zero, None where there is no general answer."""
    x = torch.tensor(X)
    relevance = []
    for one in x:
        hidden = model.first(one).detach()[None]
        z = model.function(hidden).detach().reshape(-1)
        jacobian = torch.autograd.functional.jacobian(
            lambda h: model.function(h).reshape(-1), hidden
        ).reshape(z.numel(), -1)
        at_z = z * model.last.weight[1].detach()
        flat = hidden.reshape(-1)
        is_of_single_values = z.numel() == flat.numel() and is_diagonal(jacobian)
        if is_of_single_values and not shares:
            at_hidden = at_z
        else:
            moved = model.function(1.5 * hidden).detach().reshape(-1)
            at_zero = z - jacobian @ flat
            same = torch.allclose(moved, 1.5 * jacobian @ flat + at_zero, atol=1e-9)
            if not same and not is_of_single_values:
                return None
            at_hidden = flat * (model.last.weight[1].detach() @ jacobian)
        ratio = (at_hidden / flat).reshape(hidden.shape)
        relevance.append(one * (ratio @ model.first.weight.detach())[0])
    return torch.stack(relevance)


def is_diagonal(matrix):
    return not (matrix - matrix.diag().diag()).any()


def explain(model, X):
    relevance, details = sklrp.explain(
        model, X, target=1, rule="zero", epsilon=0.0, return_details=True
    )
    kept = sum(layer[cause] for layer in details.layers for cause in CAUSES)
    with torch.no_grad():
        assert_close(details.score, model(torch.tensor(X))[:, 1])
    assert_close(relevance.sum((1, 2)) + kept, details.score)
    return relevance


@functools.cache
def draw():
    return np.random.default_rng(1).uniform(-1, 1, size=(3, 4, 3))


@pytest.mark.sweep(55)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLS)
def test_functions_are_exact_or_refused_by_name(name):
    function, arguments, low = CALLS[name]
    base = name.partition(".")[2].partition("-")[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        run = functools.partial(call, function, arguments)
        size = run(draw_hidden()[:2] + low).reshape(2, -1).shape[1]
        model = Between(run, size, low)
    relevance, refusal = None, ""
    try:
        relevance = explain(model, draw())
    except (TypeError, ValueError) as error:
        refusal = str(error)
    if relevance is None:
        assert re.search("'.*not supported|takes samples of", refusal, re.DOTALL), refusal
        return
    if base in OWN_RULE | NO_DERIVATIVE:
        return
    expected = reference(model, draw(), base in SHARING)
    assert expected is not None, "it has no general rule, and must be refused"
    assert_close(relevance, expected)


# More forms of the calls, each against gradient times input.
RIGHT = {
    "einsum": lambda self, x: torch.einsum("nti,io->nto", x, self.matrix),
    "einsum, axes in another order": lambda self, x: torch.einsum("nti,oi->not", x, self.matrix),
    "einsum, a matrix for each step": lambda self, x: torch.einsum(
        "bti,tio->bto", x, self.matrix[:4].reshape(4, 6, 1) * self.shift
    ),
    "einsum with an ellipsis": lambda self, x: torch.einsum("...i,io->...o", x, self.matrix),
    "einsum over steps": lambda self, x: torch.einsum("bti,t->bi", x, self.shift[:4]),
    "einsum that permutes": lambda self, x: torch.einsum("bti->bit", x),
    "einsum that sums": lambda self, x: torch.einsum("bti->b", x)[:, None],
    "einsum that scales": lambda self, x: torch.einsum("bti,i->bti", x, self.shift),
    "einsum, samples second": lambda self, x: torch.einsum(
        "tbi,tio->tbo", x.transpose(0, 1), self.matrix[:4].reshape(4, 6, 1) * self.shift
    ).transpose(0, 1),
    "einsum of two matrices": lambda self, x: torch.einsum(
        "bti,ij,jk->btk", x, self.matrix, self.matrix
    ),
    "einsum without output": lambda self, x: torch.einsum("bti,io", x, self.matrix),
    "einsum of a diagonal": lambda self, x: torch.einsum("bii->bi", x[:, :4, :4]),
    "einsum, weights first": lambda self, x: torch.einsum(
        "tio,tbi->bot", self.matrix[:4].reshape(4, 6, 1) * self.shift, x.transpose(0, 1)
    ),
    "einsum without a sum": lambda self, x: torch.einsum("bti,o->btio", x, self.shift),
    "einsum, one weight for all steps": lambda self, x: torch.einsum(
        "bti,ti->bt", x, self.shift[None]
    ),
    "einsum, one weight for all features": lambda self, x: torch.einsum(
        "bti,ti->bt", x, self.shift[:4, None]
    ),
    "einsum, one step for all weights": lambda self, x: torch.einsum(
        "bti,ti->bt", x[:, :1], self.matrix[:4]
    ),
    "einsum, one matrix for all samples": lambda self, x: torch.einsum(
        "bti,bio->bto", x, self.matrix[None]
    ),
    "sum of what is there": lambda self, x: torch.where(x > 0.3, torch.nan, x).nansum(1),
    "mean of what is there": lambda self, x: x.masked_fill(x > 0.3, torch.nan).nanmean(
        (1, 2), keepdim=True
    ),
    "zeros for what is missing": lambda self, x: torch.nan_to_num(
        torch.where(self.shift > 0, x, torch.full_like(x, torch.nan))
    ),
    "cumsum": lambda self, x: x.cumsum(-1),
    "diff": lambda self, x: x.diff(dim=1),
    "diff behind a constant": lambda self, x: torch.diff(
        x, dim=1, prepend=torch.ones(len(x), 1, 6).double()
    ),
    "scatter_add": lambda self, x: torch.zeros_like(x).scatter_add(
        1, torch.tensor([0, 0, 1, 2])[None, :, None].expand(len(x), 4, 6), x
    ),
    "scatter_add_": lambda self, x: torch.zeros_like(x).scatter_add_(
        1, torch.tensor([0, 0, 1, 2])[None, :, None].expand(len(x), 4, 6), x
    ),
    "index_add": lambda self, x: torch.zeros_like(x).index_add(
        1, torch.tensor([0, 0, 1, 2]), x, alpha=2.0
    ),
    "index_add_": lambda self, x: x.clone().index_add_(1, torch.tensor([0, 0, 1, 2]), x.flip(2)),
    "scatter": lambda self, x: torch.scatter(
        x, 1, torch.tensor([0, 2])[None, :, None].expand(len(x), 2, 6), x[:, 2:]
    ),
    "scatter of a number": lambda self, x: torch.scatter(
        x, 1, torch.tensor([0, 2])[None, :, None].expand(len(x), 2, 6), 1.5
    ),
    "index_copy": lambda self, x: x.index_copy(1, torch.tensor([0, 3]), 2 * x[:, :2]),
    "index_fill": lambda self, x: x.index_fill(1, torch.tensor([0, 3]), 2.0),
    "masked_scatter": lambda self, x: x.masked_scatter(
        torch.tensor([True, False, False, True])[:, None].expand(len(x), 4, 6), 2 * x[:, :2]
    ),
    "slice_scatter": lambda self, x: torch.slice_scatter(x, x[:, :2] * 2, 1, 1, 3),
    "index_put": lambda self, x: x.index_put(
        (torch.arange(len(x)), torch.full((len(x),), 2)), x[:, 0]
    ),
    "index_put of steps": lambda self, x: (
        x.transpose(0, 1)
        .index_put((torch.tensor([0, 1]),), 2 * x.transpose(0, 1)[2:])
        .transpose(0, 1)
    ),
    "index_put that adds": lambda self, x: (
        x.transpose(0, 1)
        .index_put((torch.tensor([0, 1, 1]),), 2 * x.transpose(0, 1)[1:], accumulate=True)
        .transpose(0, 1)
    ),
    "index_put_ that adds": lambda self, x: (
        x.transpose(0, 1)
        .clone()
        .index_put_((torch.tensor([0, 1, 1]),), 2 * x.transpose(0, 1)[1:], accumulate=True)
        .transpose(0, 1)
    ),
    "sort": lambda self, x: x.sort(1)[0],
    "sort, largest first": lambda self, x: torch.sort(x, descending=True).values,
    "topk": lambda self, x: x.topk(2, dim=1)[0],
    "topk of the last axis": lambda self, x: x.topk(3).values,
    "median": lambda self, x: x.median(1).values,
    "kthvalue": lambda self, x: x.kthvalue(2, 1)[0],
    "kthvalue that keeps its axis": lambda self, x: x.kthvalue(2, 1, keepdim=True)[0],
    "quantile": lambda self, x: x.quantile(0.3, 1),
    "cummax": lambda self, x: x.cummax(1)[0],
    "in order": lambda self, x: x.gather(1, x.argsort(1)),
    "places of the largest": lambda self, x: torch.gather(x, 1, x.topk(2, 1)[1]),
    "index in order": lambda self, x: x[torch.arange(len(x))[:, None], x[:, :, 0].argsort(1)],
    "max of two": lambda self, x: torch.max(x[..., :3], x[..., 3:]),
    "min of two by keywords": lambda self, x: torch.min(input=x[..., :3], other=x[..., 3:]),
    "fmax": lambda self, x: torch.fmax(x[..., :3], x[..., 3:]),
    "abs": lambda self, x: x.abs(),
    "abs by Python": lambda self, x: abs(x),
    "nan_to_num": lambda self, x: torch.nan_to_num(x),
    "outer": lambda self, x: torch.outer(x[:, 0, 0], self.shift),
    "trapezoid": lambda self, x: torch.trapezoid(x, dim=1),
    "grid_sample": lambda self, x: F.grid_sample(
        x.unsqueeze(1),
        self.matrix.detach().tanh()[None, :, :2, None].expand(x.size(0), -1, -1, 2),
        align_corners=True,
    ),
    "gradient": lambda self, x: torch.gradient(x, dim=2)[0],
    "gradient over both axes": lambda self, x: torch.cat(
        torch.gradient(x, spacing=(0.5, 2.0), dim=(1, 2)), 1
    ),
    "clamp by a signal": lambda self, x: x[..., :3].clamp(max=x[..., 3:]),
    "clamp between signals": lambda self, x: torch.clamp(
        x[..., :2], min=x[..., 2:4], max=x[..., 4:]
    ),
    "clip by a signal": lambda self, x: x[..., :3].clip(min=x[..., 3:] - 0.1),
    "aminmax": lambda self, x: torch.cat([*torch.aminmax(x, dim=1)], 1),
    "aminmax by name": lambda self, x: x.aminmax(dim=2, keepdim=True).max,
    "nanmean": lambda self, x: x.nanmean(1),
    "linalg.diagonal": lambda self, x: torch.linalg.diagonal(x),
    "masked_select": lambda self, x: x.masked_select(self.shift > 0).reshape(len(x), -1),
    "narrow_copy": lambda self, x: torch.narrow_copy(x, 1, 1, 2),
    "row_stack": lambda self, x: torch.vstack(list(x.unsqueeze(0))),
    "ldexp": lambda self, x: torch.ldexp(x, torch.tensor(2)),
    "chain_matmul": lambda self, x: torch.linalg.multi_dot([x[:, 0], self.matrix, self.matrix]),
    "addr": lambda self, x: torch.addr(x[:, 1], x[:, 0, 0], self.shift, beta=0.5, alpha=2.0),
    "solve": lambda self, x: torch.linalg.solve(self.matrix, x.mT),
    "solve_triangular": lambda self, x: torch.linalg.solve_triangular(
        self.matrix.tril(), x.mT, upper=False
    ),
    "cholesky_solve": lambda self, x: torch.cholesky_solve(
        x.mT, (self.matrix.tril() + 5 * torch.eye(6).double()).expand(len(x), 6, 6)
    ),
    "diag_embed": lambda self, x: x.diag_embed(),
    "select_scatter": lambda self, x: x.select_scatter(2 * x[:, 0], 1, 2),
    "scatter_reduce, mean": lambda self, x: torch.zeros_like(x).scatter_reduce(
        1,
        torch.tensor([0, 0, 1, 2])[None, :, None].expand(len(x), 4, 6),
        x,
        "mean",
        include_self=False,
    ),
    "scatter_reduce, amax": lambda self, x: torch.zeros_like(x).scatter_reduce(
        1,
        torch.tensor([0, 0, 1, 2])[None, :, None].expand(len(x), 4, 6),
        x,
        "amax",
        include_self=False,
    ),
    "scatter_reduce_, amin": lambda self, x: torch.zeros_like(x).scatter_reduce_(
        1, torch.tensor([0, 0, 1, 2])[None, :, None].expand(len(x), 4, 6), x, "amin"
    ),
    "scatter_reduce, sum": lambda self, x: (2 * x).scatter_reduce(
        1, torch.tensor([0, 0, 1, 2])[None, :, None].expand(len(x), 4, 6), x, reduce="sum"
    ),
    "index_reduce, amax": lambda self, x: (2 * x).index_reduce(
        1, torch.tensor([0, 0, 1, 2]), x, reduce="amax"
    ),
}


@pytest.mark.sweep(13)
@pytest.mark.filterwarnings("ignore:index_reduce")
@pytest.mark.parametrize("name", RIGHT)
def test_forms_of_calls_are_right(name):
    model = build(RIGHT[name])
    for n_samples in (1, 3, 4):
        assert_right(model, some_samples(n_samples))


class Columns(nn.Module):
    """A table of floats, one column of which holds categories."""

    def __init__(self, look_up):
        super().__init__()
        self.embed, self.fc = nn.Embedding(5, 3), nn.Linear(5, 2)
        self.look_up = look_up
        self.double()

    def forward(self, x):
        return self.fc(torch.cat([self.look_up(self, x[:, 0]), x[:, 1:]], 1))


@pytest.mark.parametrize(
    "look_up",
    [
        lambda self, c: self.embed(c.long()),
        lambda self, c: self.embed(c.to(torch.int64)),
        lambda self, c: self.embed.weight[c.int()],
        lambda self, c: self.embed(torch.round(c).long()),
        lambda self, c: self.embed((c // 1).long()),
        lambda self, c: self.embed(torch.bucketize(c.contiguous(), torch.arange(4) + 0.5)),
        lambda self, c: self.embed(torch.searchsorted(torch.arange(4) + 0.5, c.contiguous())),
        lambda self, c: F.one_hot(c.type(torch.long), 5).double() @ self.embed.weight,
    ],
)
def test_categories_among_floats_get_what_their_row_gets(look_up):
    torch.manual_seed(0)
    model = Columns(look_up)
    X = np.column_stack([np.arange(6) % 5, np.random.default_rng(0).normal(size=(6, 2))])
    relevance = sklrp.explain(model, X, target=1, rule="zero", epsilon=0.0)
    rows = model.embed.weight.detach()[X[:, 0].astype(int)]
    joined = torch.cat([rows, torch.tensor(X[:, 1:])], 1) * model.fc.weight[1].detach()
    expected = np.column_stack([joined[:, :3].sum(1), joined[:, 3:]])
    assert_close(relevance, expected)


# --- Functions with a rule of their own, against formulas -----------------------------------

EDGE = torch.linspace(0.3, 2.0, 6).double()
PASSED = {
    "lgamma": lambda self, x: torch.lgamma(x),
    "gammaln": lambda self, x: torch.special.gammaln(x),
    "digamma": lambda self, x: x.digamma(),
    "polygamma": lambda self, x: torch.polygamma(1, x),
    "polygamma by method": lambda self, x: x.polygamma(2),
    "mvlgamma": lambda self, x: torch.mvlgamma(x.exp().exp(), 2),
    "bessel_j0": lambda self, x: torch.special.bessel_j0(x),
    "airy_ai": lambda self, x: torch.special.airy_ai(x),
    "zeta": lambda self, x: torch.special.zeta(x.exp().exp(), 1.5),
    "igamma": lambda self, x: torch.special.gammainc(EDGE, x.abs()),
    "igamma of the other": lambda self, x: torch.igammac(x.abs(), EDGE),
    "chebyshev": lambda self, x: torch.special.chebyshev_polynomial_t(x, 3),
    "round": lambda self, x: x.round(),
    "round to tenths": lambda self, x: torch.round(x, decimals=1),
    "round in place": lambda self, x: (2 * x).round_() / 2,
    "special.round": lambda self, x: torch.special.round(x),
    "floor": lambda self, x: torch.floor(x),
    "ceil": lambda self, x: x.ceil(),
    "trunc": lambda self, x: x.trunc(),
    "fix": lambda self, x: torch.fix(x),
    "frac": lambda self, x: x.frac(),
    "sign": lambda self, x: x.sign(),
    "sgn": lambda self, x: torch.sgn(x),
    "heaviside": lambda self, x: torch.heaviside(x, EDGE),
    "floor_divide": lambda self, x: x // 0.5,
    "floor_divide of a constant": lambda self, x: 4 // x,
    "remainder of a constant": lambda self, x: 4 % x,
    "div that rounds": lambda self, x: torch.div(x, EDGE, rounding_mode="floor"),
    "div that truncates": lambda self, x: x.divide(0.4, rounding_mode="trunc"),
    "remainder": lambda self, x: x % 0.5,
    "fmod": lambda self, x: torch.fmod(x, EDGE),
    "fake_quantize": lambda self, x: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127),
    "straight through": lambda self, x: x + (x.round() - x).detach(),
    "atan2": lambda self, x: torch.atan2(x, EDGE),
    "arctan2 of a constant": lambda self, x: torch.arctan2(EDGE, x),
    "copysign": lambda self, x: torch.copysign(x, -EDGE),
    "bins": lambda self, x: torch.bucketize(x, EDGE).double(),
}  # fmt: skip


def at_hidden(model, X, rule="zero"):
    """Return what the function is of, what it makes, and the relevance at both, the latter's by
    the last layer's weights and the former's from the map of the input."""
    with torch.no_grad():
        hidden = model.first(torch.tensor(X))
        z = model.function(model, hidden)
        relevance = (z.reshape(len(X), -1) * model.last.weight[1]).reshape(z.shape)
    return hidden, z, relevance


def assert_at_hidden(model, X, expected, rule="zero"):
    """Hold the map of the input against relevance at the hidden values, shared by the weights."""
    found, details = sklrp.explain(model, X, target=1, rule=rule, epsilon=0.0, return_details=True)
    with torch.no_grad():
        hidden = model.first(torch.tensor(X))
        ratio = torch.where(hidden == 0, 0.0, expected / hidden)
        assert_close(found, torch.tensor(X) * (ratio @ model.first.weight))
    kept = sum(layer[cause] for layer in details.layers for cause in CAUSES)
    assert_close(found.sum((1, 2)) + kept, details.score)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PASSED)
def test_functions_of_single_values_pass_all(name):
    model, X = build(PASSED[name]), some_samples(3)
    _, z, relevance = at_hidden(model, X)
    assert z.isfinite().all()
    assert z.any()
    assert_at_hidden(model, X, relevance)


def test_constants_that_repeat_a_value_hand_back_what_each_copy_got():
    grid = torch.linspace(0.5, 2.0, 5).double()[:, None]
    model = build(lambda self, x: torch.atan2(x[:, :1], grid) + x[:, :1] ** grid.round())
    X = some_samples(3)
    hidden, _, _ = at_hidden(model, X)
    parts = torch.atan2(hidden[:, :1], grid) + hidden[:, :1] ** grid.round()
    expected = torch.zeros_like(hidden)
    expected[:, :1] = (parts * model.last.weight[1].reshape(5, 6)).sum(1, keepdim=True)
    assert_at_hidden(model, X, expected.detach())


@pytest.mark.parametrize("step", [torch.sign, lambda x: torch.heaviside(x, EDGE)])
def test_a_step_is_a_gate(step):
    """In a product with a signal the signal takes all, as beside a sigmoid."""
    model, X = build(lambda self, x: x[:, :1] * step(x[:, 1:2])), some_samples(3)
    hidden, _, relevance = at_hidden(model, X)
    expected = torch.zeros_like(hidden)
    expected[:, :1] = relevance
    assert_at_hidden(model, X, expected)


FACTORS = {
    "prod": (lambda self, x: x.prod(1), False),
    "prod that keeps its axis": (lambda self, x: torch.prod(x, dim=1, keepdim=True), False),
    "prod in another dtype": (lambda self, x: x.prod(1, dtype=torch.float64), False),
    "cumprod": (lambda self, x: x.cumprod(1), True),
    "cumprod by keyword": (lambda self, x: torch.cumprod(x, dim=1), True),
}


@pytest.mark.parametrize("product", ["all", "half", "abs", "prop"])
@pytest.mark.parametrize("name", FACTORS)
def test_many_factors_share_as_two_do(name, product):
    function, runs = FACTORS[name]
    model, X = build(function), some_samples(3)
    hidden, _, relevance = at_hidden(model, X)
    value = {"prop": hidden, "abs": hidden.abs()}.get(product, torch.ones_like(hidden))
    expected = torch.zeros_like(hidden)
    for last in range(4):
        if runs or last == 3:
            arrived = relevance[:, last] if runs else relevance.reshape(len(X), 6)
            total = value[:, : last + 1].sum(1)
            expected[:, : last + 1] += value[:, : last + 1] * (arrived / total)[:, None]
    rule = sklrp.Composite([("all", sklrp.Zero(), "all")], product=product)
    assert_at_hidden(model, X, expected, rule)


def test_factors_that_are_gates_make_a_gate():
    """What is left of light behind layers of clouds, times a signal: the signal takes all."""
    model, X = build(lambda self, x: x * (1 - x.sigmoid()).cumprod(1)), some_samples(3)
    _, _, relevance = at_hidden(model, X)
    assert_at_hidden(model, X, relevance)


SOFT = {
    "logsumexp": lambda self, x: x.logsumexp(1),
    "logsumexp over two axes": lambda self, x: torch.logsumexp(x, (1, 2), keepdim=True),
    "special.logsumexp": lambda self, x: torch.special.logsumexp(x, dim=1),
    "logcumsumexp": lambda self, x: x.logcumsumexp(1),
    "logaddexp": lambda self, x: torch.logaddexp(x[:, :2], x[:, 2:]),
    "logaddexp2": lambda self, x: torch.logaddexp2(x[:, :2], x[:, 2:]),
}


@pytest.mark.parametrize("name", SOFT)
def test_soft_maxima_share_by_their_weights(name):
    model, X = build(SOFT[name]), some_samples(3)
    hidden, z, relevance = at_hidden(model, X)
    exp = torch.exp2(hidden) if name == "logaddexp2" else torch.exp(hidden)
    if name == "logcumsumexp":
        expected = torch.zeros_like(hidden)
        for last in range(4):
            part = exp[:, : last + 1] / exp[:, : last + 1].sum(1, keepdim=True)
            expected[:, : last + 1] += part * relevance[:, last : last + 1]
    elif name.startswith("logaddexp"):
        total = exp[:, :2] + exp[:, 2:]
        expected = torch.cat([exp[:, :2] / total * relevance, exp[:, 2:] / total * relevance], 1)
    else:
        axes = (1, 2) if "two axes" in name else 1
        expected = exp / exp.sum(axes, keepdim=True) * relevance.reshape(len(X), -1, z.shape[-1])
    assert_at_hidden(model, X, expected)


def test_the_share_of_a_constant_in_a_soft_maximum_is_dropped():
    model, X = build(lambda self, x: torch.logaddexp(x, EDGE)), some_samples(3)
    hidden, _, relevance = at_hidden(model, X)
    share = hidden.exp() / (hidden.exp() + EDGE.exp())
    assert_at_hidden(model, X, share * relevance)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda a, b: torch.hypot(a, b), lambda a, b: (a**2 + b**2).sqrt()),
        (lambda a, b: torch.xlogy(a, b**2), lambda a, b: a * torch.log(b**2)),
        (lambda a, b: torch.special.xlogy(2.5, b**2), lambda a, b: 2.5 * torch.log(b**2)),
        (lambda a, b: torch.special.xlog1py(a, b**2), lambda a, b: a * torch.log1p(b**2)),
        (
            lambda a, b: torch.linalg.matrix_power((a * b).unsqueeze(-1) * a.unsqueeze(-2), 2),
            lambda a, b: (m := (a * b).unsqueeze(-1) * a.unsqueeze(-2)) @ m,
        ),
    ],
)  # fmt: skip
def test_functions_are_explained_as_they_are_written_out(one, other):
    maps = []
    for function in (one, other):
        model = build(lambda self, x, function=function: function(x[:, :2], x[:, 2:]))
        maps.append(sklrp.explain(model, some_samples(3), target=1))
    assert np.abs(maps[0]).max() > 1e-3
    assert_close(*maps)


class OwnLayers(nn.Module):
    """A layer of torch's between two linear ones, on (n_samples, 4, 6)."""

    def __init__(self, layer):
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(3, 6), layer, nn.LazyLinear(2)

    def forward(self, x):
        return self.last(self.apply_layer(self.first(x)).flatten(1))

    def apply_layer(self, x):
        return self.layer(x)


class Unpooled(OwnLayers):
    """Values put back where a pooling found them, as in SegNet."""

    def apply_layer(self, x):
        pooled, indices = self.layer[0](x)
        return self.layer[1](F.relu(2 * pooled + 0.1), indices, output_size=x.shape)


class OfImages(OwnLayers):
    def apply_layer(self, x):
        return self.layer(x.unsqueeze(1))


LAYERS = {
    "LPPool1d": lambda: OwnLayers(nn.LPPool1d(4, 3, 2, ceil_mode=True)),
    "LPPool2d": lambda: OfImages(nn.LPPool2d(2, (2, 3))),
    "MaxUnpool1d": lambda: Unpooled(
        nn.ModuleList([nn.MaxPool1d(2, return_indices=True), nn.MaxUnpool1d(2)])
    ),
    "LocalResponseNorm without effect": lambda: OwnLayers(nn.LocalResponseNorm(3, alpha=0.0)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_right(name):
    torch.manual_seed(0)
    model = LAYERS[name]().double()
    model(torch.zeros(1, 4, 3).double())
    for n_samples in (1, 4):
        assert_right(model, some_samples(n_samples))


@pytest.mark.parametrize("layer", [nn.LocalResponseNorm(3, 0.5), nn.CrossMapLRN2d(3, 0.5)])
def test_activity_of_neighbours_counts_as_constant(layer):
    """As if each value were scaled by what the layer scales it by."""
    torch.manual_seed(0)
    model = OfImages(layer) if isinstance(layer, nn.CrossMapLRN2d) else OwnLayers(layer)
    model.double()(torch.zeros(1, 4, 3).double())
    X = some_samples(3)
    relevance = sklrp.explain(model, X, target=1, rule="zero", epsilon=0.0)
    hidden = model.first(torch.tensor(X)).detach()
    factor = model.apply_layer(hidden).reshape(hidden.shape) / hidden
    weight = model.last.weight[1].detach().reshape(4, 6)
    assert (factor < 0.99).any()
    assert_close(relevance, X * ((factor * weight) @ model.first.weight).detach().numpy())


@pytest.mark.parametrize("as_function", [False, True])
def test_both_factors_of_a_bilinear_layer_get_half_of_their_contributions(as_function):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair, self.last = nn.Bilinear(3, 4, 2), nn.Linear(2, 2)
            self.double()

        def forward(self, a, b):
            if as_function:
                return self.last(F.bilinear(a, b, self.pair.weight, self.pair.bias))
            return self.last(self.pair(a, b))

    torch.manual_seed(0)
    model, rng = Pair(), np.random.default_rng(0)
    a, b = rng.normal(size=(5, 3)), rng.normal(size=(5, 4))
    (of_a, of_b), details = sklrp.explain(
        model, (a, b), target=1, rule="zero", epsilon=0.0, return_details=True
    )
    weight, bias, last = (
        v.detach().numpy() for v in (model.pair.weight, model.pair.bias, model.last.weight[1])
    )
    products = np.einsum("k,ni,kij,nj->nij", last, a, weight, b)
    assert_close(of_a, products.sum(2) / 2)
    assert_close(of_b, products.sum(1) / 2)
    assert_close(details.layers[0].bias, np.full(5, bias @ last))
    rule = sklrp.Composite([("all", sklrp.Epsilon(), "all")], product="prop")
    with pytest.raises(TypeError, match=r"'bilinear'.*product='prop'"):
        sklrp.explain(model, (a, b), target=1, rule=rule)


def test_two_signals_of_which_one_has_one_step_share_half_each():
    model = build(lambda self, x: torch.einsum("bti,bti->bt", x, 2 * x[:, :1]))
    plain = build(lambda self, x: (x * (2 * x[:, :1])).sum(-1))
    for n_samples in (1, 3):
        X = some_samples(n_samples)
        maps = [sklrp.explain(m, X, target=1, rule="zero", epsilon=0.0) for m in (model, plain)]
        assert_close(*maps)


@pytest.mark.parametrize("rule", ["z_plus", "alpha_beta", "gamma"])
def test_an_integral_over_falling_places_is_negative(rule):
    """As over pressure, from the ground up: all that enters the next layer is below zero."""
    places = torch.tensor([5.0, 3.0, 2.0, 1.5]).double()

    def integral(self, x):
        return torch.trapezoid(F.relu(x), places, dim=1)

    def written_out(self, x):
        h = F.relu(x)
        return ((h[:, 1:] + h[:, :-1]) / 2 * places.diff()[:, None]).sum(1)

    X = some_samples(4)
    maps = [
        sklrp.explain(build(run), X, target=1, rule=rule, epsilon=1e-12)
        for run in (integral, written_out)
    ]
    assert np.abs(maps[1]).max() > 0.01
    np.testing.assert_allclose(*maps, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "write",
    [
        lambda x, k: torch.zeros_like(x).scatter(1, k[..., None].expand_as(x), x),
        lambda x, k: torch.zeros_like(x).index_put((torch.arange(len(x))[:, None], k), x),
    ],
)
def test_places_of_the_input_that_meet_are_refused_in_any_sample(write):
    """The first samples, on which the network is tried, write each value to its own place."""

    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(12, 2, bias=False).double()

        def forward(self, x, k):
            return self.last(write(x, k).flatten(1))

    torch.manual_seed(0)
    model, X = Written(), some_samples(40)
    places = np.tile([3, 0, 2, 1], (40, 1))
    relevance = sklrp.explain(model, (X, places), target=1, rule="zero", epsilon=0.0)[0]
    weight = model.last.weight[1].detach().numpy().reshape(4, 3)
    assert_close(relevance, X * weight[places[0]])
    places[20] = [0, 0, 1, 2]
    with pytest.raises(TypeError, match="writes several values into one place"):
        sklrp.explain(model, (X, places), target=1)


def test_places_that_depend_on_the_input_are_refused():
    def sampled(self, x):
        return F.grid_sample(x.unsqueeze(1), x[..., :2].unsqueeze(2).tanh(), align_corners=True)

    model = build(sampled)
    with pytest.raises(TypeError, match=r"'grid_sample'.*places"):
        sklrp.explain(model, some_samples(3), target=0)


def test_messages_that_are_equal_share():
    """Of messages of 0 none wins over the zeros that they are written into, by any rule."""

    def messages(self, x):
        index = torch.tensor([0, 0, 1, 2])[None, :, None].expand(len(x), 4, 6)
        out = torch.zeros_like(x)
        return out.scatter_reduce(1, index, F.relu(x), "amax", include_self=False)

    model, X = build(messages), some_samples(5)
    rule = sklrp.Composite([("last", sklrp.Flat(), "last"), ("rest", sklrp.Epsilon(), "all")])
    relevance, details = sklrp.explain(model, X, target=1, rule=rule, return_details=True)
    kept = sum(layer[cause] for layer in details.layers for cause in CAUSES)
    assert_close(relevance.sum((1, 2)) + kept, details.score)
    dropped = next(layer for layer in details.layers if layer.name == "scatter_reduce").dropped
    assert_close(dropped, details.score / 4)  # the place that no message goes to
