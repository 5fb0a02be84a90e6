r"""Handlers of torch functions that are linear in their signals: running sums, scattering.

A function that adds values up shares relevance by contribution, :math:`R_i = x_i \sum_j J_{ji} R_j
/ s(z_j)` with the function's matrix :math:`J`, which autograd applies; what constants add has its
share as a bias has. A function that only moves values hands each one's relevance back to where it
came from. Importing this module registers the handlers; the recorder finds them by the functions'
names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sklrp._copies import find_all
from sklrp.propagation.bounds import monotone
from sklrp.propagation.formula import Split, account, known
from sklrp.propagation.handlers.adjoints import pull_gradients
from sklrp.propagation.handlers.operands import follow_samples, is_nonnegative, standing, value_of
from sklrp.propagation.handlers.products import share_of_first
from sklrp.propagation.nested import swap_signals
from sklrp.propagation.registry import COMPLEX, FLOATING, mark, register
from sklrp.propagation.tape import Kept, Pull, Step
from sklrp.rules import Signal

# What a function makes of the values of its moving signals, in their order.
Function = Callable[[Sequence[Tensor]], Tensor]


class Linear:
    """A function at hand, as one of the signals that relevance can go to.

    Parameters
    ----------
    step : Step
        The step.
    args, kwargs : tuple and dict
        The arguments; signals of floats move, those of integers, such as indices, are fixed.
    fixed : sequence of Signal, default=()
        Further signals that take no relevance.

    Attributes
    ----------
    order : list of Signal
        All signals, in the order in which relevance is returned.
    moving : list of Signal
        Those that get some.
    """

    def __init__(self, step: Step, args: Any, kwargs: Any, fixed: Sequence[Signal] = ()) -> None:
        self.step, self.args, self.kwargs = step, args, kwargs
        self.order = find_all(Signal, (args, kwargs))
        held = set(map(id, fixed))
        moving = (s for s in self.order if takes_relevance(s) and id(s) not in held)
        self.moving = list({id(s): s for s in moving}.values())
        if not self.moving:
            raise TypeError("none of the values that it adds up or moves are of floats")

    def __call__(self, values: Sequence[Tensor]) -> Tensor:
        """Apply the function to other values of the moving signals."""
        given = dict(zip(map(id, self.moving), values, strict=True))
        args, kwargs = swap_signals(
            (self.args, self.kwargs), lambda signal: given.get(id(signal), signal.x)
        )
        out: Tensor = self.step.layer(*args, **kwargs)
        return out

    @property
    def values(self) -> list[Tensor]:
        """The values of the moving signals."""
        return [signal.x for signal in self.moving]

    def at_zero(self) -> Tensor:
        """Return what constants among the arguments make of zeros."""
        return self([torch.zeros_like(x) for x in self.values])

    def is_moved(self) -> Tensor:
        """Return where values come from signals, of a function that only moves values."""
        return self([torch.ones_like(x) for x in self.values]) != self.at_zero()

    def adjoint(self, relevance: Tensor) -> tuple[Tensor, ...]:
        """Pull ratios, or the relevance of values that only move, back to the moving signals."""
        with torch.enable_grad():  # the gradient of a linear map is its adjoint
            leaves = [x.detach().requires_grad_() for x in self.values]
            out = self(leaves)
        return pull_gradients(out, leaves, relevance)

    def in_order(self, parts: Sequence[Tensor]) -> Any:
        """Return the relevance of the moving signals as a handler's pull does."""
        given = dict(zip(map(id, self.moving), parts, strict=True))
        back = tuple(given.pop(id(signal), None) for signal in self.order)
        return back if len(back) > 1 else back[0]

    def signal(self, x: Tensor, nonnegative: bool = False) -> Signal:
        """Return the output as a signal."""
        samples = follow_samples(self, self.moving)
        return Signal(x, nonnegative, **standing(*self.moving), samples=samples)


def takes_relevance(signal: Signal) -> bool:
    """Return whether a signal is of numbers that are added up, and not of indices."""
    return signal.x.is_floating_point() or signal.x.is_complex()


# Functions that add values up, all of whose weights are positive where their constants are.
_POSITIVE = frozenset(["cumsum", "scatter_add", "index_add", "trace"])


@register("cumsum", "scatter_add", bounds=monotone)
@register(
    "index_add", "diff", "trapezoid", "trapz", "cumulative_trapezoid", "trace", "nansum", "cross",
    "linalg_cross", "kron", "dot", "vdot", "bilinear", "grid_sample", "linalg_solve",
    "linalg_solve_triangular", "cholesky_solve",
)  # fmt: skip
@mark(FLOATING)
def add_up(step: Step, *args: Any, **kwargs: Any) -> tuple[Signal, Pull]:
    """Share by contribution to a sum of values, whose weights are constants."""
    function = Linear(step, args, kwargs)
    name = step.function
    if name == "grid_sample" and find_all(Signal, (args[1:], kwargs)):
        raise TypeError("the places that it takes values from depend on the network's input")
    if name in _SYSTEMS and find_all(Signal, (args[_SYSTEMS[name]], kwargs)):
        raise TypeError("the matrix that it solves with depends on the network's input")
    shares = [1.0] * len(function.moving)
    if len(function.moving) > 1 and name in _PRODUCTS:
        shares = _shares_of_two(step, function.moving)
    if name in _PRODUCTS and len(function.moving) < len(function.order):
        raise TypeError("it multiplies a signal and integers of the input")
    z, constant = function(function.values), function.at_zero()

    def pull(relevance: Tensor, kept: Kept | None) -> Any:
        split = Split(1.0, known(z), step.epsilon, constant)
        ratio = split.ratio(relevance)
        if kept is not None:
            account(kept, relevance, [split], [ratio])
        back = function.adjoint(ratio)
        values = function.values
        if name == "nansum":  # what is missing shares in nothing
            values = [x.masked_fill(x.isnan(), 0.0) for x in values]
        parts = [share * x * r for share, x, r in zip(shares, values, back, strict=True)]
        return function.in_order(parts)

    operands = [v for v in (*args, *kwargs.values()) if isinstance(v, Signal | Tensor)]
    nonnegative = name in _POSITIVE and all(map(is_nonnegative, operands))
    nonnegative = nonnegative and kwargs.get("alpha", 1) >= 0
    return function.signal(z, nonnegative), pull


# Where linear systems have their matrix.
_SYSTEMS = {"linalg_solve": 0, "linalg_solve_triangular": 0, "cholesky_solve": 1}
_PRODUCTS = frozenset(["cross", "linalg_cross", "kron", "dot", "vdot", "bilinear", "grid_sample"])


def _shares_of_two(step: Step, signals: Sequence[Signal]) -> list[float]:
    """Return what each of two factors gets of its contributions to their product."""
    share = share_of_first(step, *signals)
    if share is None:
        raise TypeError(
            f"under product={step.product!r} a sum of products has no shares; use product='all' "
            "or 'half'"
        )
    return [share, 1.0 - share]


@register(
    "scatter", "index_copy", "index_fill", "masked_scatter", "slice_scatter", "select_scatter",
    "diagonal_scatter", "diag_embed", "block_diag",
)  # fmt: skip
@mark(FLOATING, COMPLEX)
def move(step: Step, *args: Any, **kwargs: Any) -> tuple[Signal, Pull]:
    """Hand back the relevance of values that were moved, each to where it came from."""
    if kwargs.pop("reduce", None) is not None:
        raise TypeError("use scatter_add or scatter_reduce in place of scatter(reduce=...)")
    function = Linear(step, args, kwargs)
    x = function(function.values)
    is_probed = any(signal.samples is not None for signal in function.moving)
    if is_probed or len(function.moving) < len(function.order):  # places may be of the input
        n_used = sum(part.sum() for part in function.adjoint(torch.ones_like(x)[None]))
        if n_used != function.is_moved().sum():
            raise TypeError("it writes several values into one place")

    def pull(relevance: Tensor, kept: Kept | None) -> Any:
        if kept is not None:
            kept.add("dropped", relevance * ~function.is_moved())
        return function.in_order(function.adjoint(relevance))

    operands = [v for v in (*args, *kwargs.values()) if isinstance(v, Signal | Tensor)]
    numbers = [v for v in (*args, *kwargs.values()) if isinstance(v, float)]
    nonnegative = all(map(is_nonnegative, [*operands, *numbers]))
    return function.signal(x, nonnegative), pull


@register("index_put")
@mark(FLOATING)
def _index_put(
    step: Step, memory: Any, indices: Any, values: Any, accumulate: bool = False
) -> tuple[Signal, Pull]:
    """Write values into places, or add them to what is there."""
    if accumulate:
        return add_up(step, memory, indices, values, True)
    return move(step, memory, indices, values)


@register("scatter_reduce", "index_reduce")
@mark(FLOATING)
def _reduce_into(
    step: Step, memory: Any, dim: int, index: Any, source: Any, reduce: str, *,
    include_self: bool = True,
) -> tuple[Signal, Pull]:  # fmt: skip
    """Add values up in their places, average them, or let the largest or smallest take all."""
    arguments = step, memory, dim, index, source, reduce
    if reduce in ("sum", "mean"):
        return add_up(*arguments, include_self=include_self)
    if reduce == "prod":
        raise TypeError("with reduce='prod' it multiplies signals; use 'sum', 'mean' or 'amax'")
    function = Linear(step, arguments[1:], {"include_self": include_self})
    x = function(function.values)
    largest = _Largest(dim, value_of(index), value_of(memory), value_of(source), x, include_self)

    def pull(relevance: Tensor, kept: Kept | None) -> Any:
        back: dict[int, Tensor] = {}
        for value, part in zip((memory, source), largest.share(relevance), strict=True):
            if isinstance(value, Signal):  # one signal may be both
                back[id(value)] = back[id(value)] + part if id(value) in back else part
            elif kept is not None:
                kept.add("dropped", part)
        passed = tuple(back.pop(id(signal), None) for signal in function.order)
        return passed if len(passed) > 1 else passed[0]

    # It depends on the same samples as an average does, which is linear.
    average = Linear(step, (*function.args[:4], "mean"), function.kwargs)
    samples = follow_samples(average, function.moving)
    nonnegative = all(map(is_nonnegative, (memory, source)))
    return Signal(x, nonnegative, **standing(*function.moving), samples=samples), pull


class _Largest:
    """Which values are the largest, or smallest, of those that are written into one place."""

    def __init__(
        self, dim: int, index: Tensor, memory: Tensor, source: Tensor, x: Tensor,
        include_self: bool,
    ) -> None:  # fmt: skip
        dim = range(x.dim())[dim]
        if index.dim() < source.dim():  # of index_reduce: the same for all other axes
            shape = [-1 if k == dim else 1 for k in range(source.dim())]
            index = index.reshape(shape).expand(source.shape)
        self.dim, self.index, self.source = dim + 1, index, source
        self.used = tuple(slice(n) for n in index.shape)  # values beyond the index stay out
        self.wins = x.gather(dim, index) == source[self.used]
        hits = torch.zeros_like(x)
        n_hits = hits.scatter_add(dim, index, torch.ones_like(source[self.used]))
        self.stays = memory == x if include_self else n_hits == 0
        n_wins = hits.scatter_add(dim, index, self.wins.to(x))
        self.n_equal = n_wins + self.stays

    def share(self, relevance: Tensor) -> tuple[Tensor, Tensor]:
        """Return the relevance of what was there before, and of what was written."""
        each = relevance / self.n_equal
        index = self.index.expand(len(relevance), *self.index.shape)
        written = torch.zeros_like(self.source.expand(len(relevance), *self.source.shape))
        written[(slice(None), *self.used)] = each.gather(self.dim, index) * self.wins
        return each * self.stays, written
