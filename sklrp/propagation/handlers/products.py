r"""Handlers of products and quotients: elementwise, and of matrices.

What a factor takes depends on what it is. A signal takes before a gate, a gate before what is held
constant or only selects. Two of a kind, such as queries and keys, share half each, the uniform
rule of AttnLRP: elementwise :math:`R/2`, and in a sum of products :math:`z = \sum_p a_p b_p`

.. math:: R_{a_p} = R_{b_p} = a_p b_p \frac{R}{s(2 z)} .

A denominator is held constant, as the statistics of a normalisation are. :func:`share_bilinear`
serves any other map that is linear in each of two factors. Importing this module registers the
handlers; the recorder finds them by the functions' names.

References
----------
.. [Achtibat2024b] Achtibat et al., "AttnLRP: attention-aware layer-wise relevance propagation for
   Transformers", ICML 2024: propositions 3.2 (products) and 3.3 (products of matrices).
.. [Arras2019b] Arras et al., "Explaining and interpreting LSTMs", LNCS 11700, 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sklrp._copies import find_all
from sklrp.propagation.bounds import box, corners, is_known, monotone, unknown
from sklrp.propagation.formula import Split, account, known
from sklrp.propagation.handlers.operands import (
    broadcast_samples,
    is_nonnegative,
    standing,
    sum_to,
    value_of,
)
from sklrp.propagation.registry import INNER, NEW, NUMERIC, SOURCED, mark, register
from sklrp.propagation.sample_rows import without_repeats
from sklrp.propagation.sharing import contribute, share_product
from sklrp.propagation.tape import Kept, Pull, Step
from sklrp.rules import Signal

# Two factors of one product of a sum, each in a shape that broadcasts to the sum's.
Term = tuple[Tensor, Tensor]


def share_of_first(step: Step, a: Signal, b: Signal) -> float | None:
    """Return what the first of two factors takes of their product: 0, 1/2 or 1.

    Parameters
    ----------
    step : Step
        The step, with the composite's ``product`` and ``attention``.
    a, b : Signal
        The factors.

    Returns
    -------
    float or None
        The share; None where it depends on the values, under ``product="prop"`` and ``"abs"``.
    """
    one, other = _reluctance(step, a, b), _reluctance(step, b, a)
    if one != other and (step.product == "all" or max(one, other) > _GATE):
        return float(one < other)
    return 0.5 if step.product in ("all", "half") else None


_GATE = 1


def _reluctance(step: Step, factor: Signal, other: Signal) -> int:
    """Return how little a factor takes: 0 for a signal, 1 for a gate, 2 for what is constant."""
    if factor.gate:
        return _GATE + (factor.mask or factor.held)
    # CP-LRP holds the activation of a gated layer constant: silu(x) * y.
    is_weight = step.attention == "cp" and factor.activated and not (other.activated or other.gate)
    return 2 * is_weight


def share_bilinear(
    step: Step,
    a: Signal,
    b: Signal,
    z: Tensor,
    to_a: Callable[[Tensor], Tensor],
    to_b: Callable[[Tensor], Tensor],
    terms: Iterable[Term] | None = None,
) -> Pull:
    r"""Share a sum of products of two signals: what a handler of a bilinear map pulls by.

    Parameters
    ----------
    step : Step
        The step.
    a, b : Signal
        The factors.
    z : Tensor
        The map of both, linear in each.
    to_a, to_b : callable
        The adjoints of the map in either factor at the value of the other one: they take
        ``(n_targets, *z.shape)`` to ``(n_targets, *a.x.shape)`` and ``(n_targets, *b.x.shape)``,
        tensors of their own.
    terms : iterable of (Tensor, Tensor) or None, default=None
        For ``product="prop"`` and ``"abs"``: one product of each sum at a time, as two factors
        that broadcast to z's shape, in the order of the last axis of ``a`` and of the last but
        one of ``b``. None: these are refused.

    Returns
    -------
    callable
        What pulls relevance back to both, None for a factor that takes nothing.

    Raises
    ------
    TypeError
        If the composite shares by values, and the map gives no terms.
    """
    share = share_of_first(step, a, b)
    if share is None and terms is None:
        raise TypeError(
            f"under product={step.product!r} each product of a sum is shared by its own factors, "
            "which is known of products of matrices alone; use product='all' or 'half'"
        )
    if share in (0.0, 1.0):
        pull_all = contribute(step, *((a.x, z, to_a) if share else (b.x, z, to_b)))

        def to_one(relevance: Tensor, kept: Kept | None) -> Any:
            passed = pull_all(relevance, kept)
            return (passed, None) if share else (None, passed)

        return to_one
    # Two of a kind: R / s(2 z), AttnLRP's own form. A gate's half is half of R / s(z).
    alike = a.gate == b.gate and share is not None

    def to_both(relevance: Tensor, kept: Kept | None) -> Any:
        split = Split(1.0, known(z), step.epsilon, times=2.0 if alike else 1.0)
        ratio = split.ratio(relevance, last=kept is None)
        if kept is not None:
            account(kept, relevance, [split], [ratio])
        if share is None:
            assert terms is not None
            return _share_terms(step, a, b, ratio, terms)
        if not alike:
            ratio = 0.5 * ratio
        return to_a(ratio).mul_(a.x), to_b(ratio).mul_(b.x)

    return to_both


def _share_terms(
    step: Step, a: Signal, b: Signal, ratio: Tensor, terms: Iterable[Term]
) -> tuple[Tensor, Tensor]:
    """Share each product among its factors by their values."""
    to_a, to_b = [], []
    for one, other in terms:  # one product of each sum at a time: all would not fit
        total = ratio * (one * other)
        to_one = total * _share_by_values(step, a, b, one, other)
        to_a.append(to_one.sum(-1))
        to_b.append((total - to_one).sum(-2))
    return (
        sum_to(torch.stack(to_a, -1), a.x.shape),
        sum_to(torch.stack(to_b, -2), b.x.shape),
    )


def _share_by_values(step: Step, a: Signal, b: Signal, x: Tensor, y: Tensor) -> Tensor | float:
    """Return the share of the first of two factors with the values x and y."""
    if b.gate and not a.gate:  # what epsilon leaves over is the signal's
        return 1.0 - share_product(step, y, x)
    return share_product(step, x, y)


# Elementwise


def _scaled_bounds(step: Step, a: Any, b: Any, **kwargs: Any) -> Signal:
    """Bound what is scaled by constants or masked; other products of signals are not bounded."""
    if isinstance(a, Signal) and isinstance(b, Signal):
        source = b if a.mask else a
        if step.function == "mul" and a.mask != b.mask and is_known(source):
            out, (low, high) = step.handler(step, a, b)[0], corners(source, source.axis)
            if out.x.shape == source.x.shape:
                return box(out, low.clamp(max=0), high.clamp(min=0), source.axis)
        return unknown(step.handler(step, a, b, **kwargs)[0])
    if step.function == "div" and isinstance(b, Signal):  # it falls on either side of zero
        return unknown(step.handler(step, a, b, **kwargs)[0])
    return monotone(step, a, b, **kwargs)


@register("mul", bounds=_scaled_bounds)
@mark(NEW, NUMERIC)
def _mul(step: Step, a: Any, b: Any) -> tuple[Signal, Pull]:
    if not isinstance(a, Signal) or not isinstance(b, Signal):
        source, factor = (a, b) if isinstance(a, Signal) else (b, a)
        if source.sigmoid and _is_state(step, source, factor):
            return _weigh_state(step, source, factor)
        return _scaled(source, lambda x: x * factor, is_nonnegative(factor))
    return _product(step, a, b, a.x * b.x, (a.x, b.x))


@register("div", bounds=_scaled_bounds)
@mark(NEW, NUMERIC)
def _div(step: Step, a: Any, b: Any, *, rounding_mode: str | None = None) -> tuple[Signal, Pull]:
    if rounding_mode is not None:  # in place; else it is written out
        raise TypeError("write a division that rounds in place as torch.floor(a / b)")
    if not isinstance(b, Signal):
        return _scaled(a, lambda x: x / b, bool(torch.as_tensor(b).min() > 0))
    if not isinstance(a, Signal):
        return _inverse(b, lambda x: a / x)
    z = a.x / b.x
    if b.gate and not (b.held or b.mask) and not a.gate:
        return _product(step, a, b, z, (a.x, b.x.to(a.x).reciprocal()))

    # The denominator is held constant, as the deviation of a normalisation is.
    def pull(relevance: Tensor, kept: Kept | None) -> tuple[Tensor, None]:
        return sum_to(relevance, a.x.shape), None

    nonnegative = a.nonnegative and b.nonnegative
    samples = broadcast_samples(z.shape, a, b)
    return Signal(z, nonnegative, **standing(a), samples=samples), pull


@register("rdiv")
@mark(NUMERIC)
def _rdiv(step: Step, b: Signal, a: Any) -> tuple[Signal, Pull]:
    return _inverse(b, lambda x: a / x)


@register("reciprocal", "rsqrt")
@mark(SOURCED)
def _reciprocal(step: Step, source: Signal) -> tuple[Signal, Pull]:
    return _inverse(source, step.layer)


def _inverse(source: Signal, function: Callable[[Tensor], Tensor]) -> tuple[Signal, Pull]:
    """Return an inverse, which scales a signal as a constant does: x * rsqrt(v) is x / sqrt(v)."""
    x, shape = function(source.x), source.x.shape
    known: Any = {"gate": True, "held": True, "samples": broadcast_samples(x.shape, source)}
    nonnegative = source.nonnegative and bool((x >= 0).all())
    return Signal(x, nonnegative, **known), lambda relevance, kept: sum_to(relevance, shape)


@register("neg", bounds=monotone)
@mark(SOURCED)
def _neg(step: Step, source: Signal) -> tuple[Signal, Pull]:
    return _scaled(source, torch.neg, False)


def _scaled(source: Signal, function: Callable[[Tensor], Tensor], increasing: bool) -> Any:
    """Scale by constants, which passes all relevance."""
    x, shape = function(source.x), source.x.shape
    out = Signal(
        x,
        source.nonnegative and increasing,
        **standing(source),
        samples=broadcast_samples(x.shape, source),
    )
    return out, lambda relevance, kept: sum_to(relevance, shape)


def _is_state(step: Step, gate: Signal, factor: Any) -> bool:
    """Return whether a constant has values of its own for each sample, as the probe tells."""
    if gate.samples is not None and isinstance(factor, Tensor):
        n_axes = max(gate.x.dim(), factor.dim())
        axis = n_axes - gate.x.dim() + gate.axis
        own = axis - (n_axes - factor.dim())
        step.has_state = own >= 0 and factor.shape[own] > 1
    return step.has_state


def _weigh_state(step: Step, gate: Signal, state: Tensor) -> tuple[Signal, Pull]:
    """Multiply a gate and an initial state, which takes what a signal would, and keeps it."""
    z = gate.x * state
    takes_all = step.product == "all" or gate.held

    def pull(relevance: Tensor, kept: Kept | None) -> Tensor | None:
        share = 0.0 if takes_all else share_product(step, gate.x, state)
        to_gate = relevance * share
        if kept is not None:
            kept.add("bias", relevance - to_gate)
        return None if takes_all else sum_to(to_gate, gate.x.shape)

    return Signal(z, is_nonnegative(state), samples=broadcast_samples(z.shape, gate)), pull


def _product(
    step: Step, a: Signal, b: Signal, z: Tensor, values: tuple[Tensor, Tensor]
) -> tuple[Signal, Pull]:
    """Multiply two signals element by element."""
    share = share_of_first(step, a, b)

    def pull(relevance: Tensor, kept: Kept | None) -> Any:
        back: list[Tensor | None] = [None, None]
        if share in (0.0, 1.0):
            back[int(share == 0.0)] = relevance
        else:
            x, y = (v.to(z) for v in values)
            to_a = relevance * (_share_by_values(step, a, b, x, y) if share is None else share)
            back = [to_a, relevance - to_a]
        return tuple(
            None if r is None else sum_to(r, v.x.shape) for r, v in zip(back, (a, b), strict=True)
        )

    samples = broadcast_samples(z.shape, a, b)
    return Signal(z, a.nonnegative and b.nonnegative, **standing(a, b), samples=samples), pull


# Matrices


@register("matmul", "bmm", "rmatmul")
@mark(NEW)
def _matmul(step: Step, a: Any, b: Any) -> tuple[Signal, Pull]:
    if step.function != "rmatmul":
        return multiply_matrices(step, a, b)
    out, shared = multiply_matrices(step, b, a)

    def pull(relevance: Tensor, kept: Kept | None) -> Any:
        back = shared(relevance, kept)
        return back[::-1] if isinstance(back, tuple) else back

    return out, pull


def multiply_matrices(
    step: Step, left: Any, right: Any, z: Tensor | None = None
) -> tuple[Signal, Pull]:
    """Multiply matrices, at least one of which is a signal.

    Parameters
    ----------
    step : Step
        The step.
    left, right : Signal or Tensor
        The factors, or vectors.
    z : Tensor or None, default=None
        The product, if it is known.

    Returns
    -------
    out : Signal
        The product.
    pull : callable
        What pulls relevance back to the factors that are signals.
    """
    x, y = value_of(left), value_of(right)
    z = torch.matmul(x, y) if z is None else z
    # A vector is a matrix of one row or of one column.
    rows, columns = (x[None] if x.dim() == 1 else x), (y[:, None] if y.dim() == 1 else y)
    whole = torch.broadcast_shapes(rows.shape[:-2], columns.shape[:-2])
    whole = (*whole, rows.shape[-2], columns.shape[-1])

    def to_left(ratio: Tensor) -> Tensor:
        back = torch.matmul(ratio.reshape(-1, *whole), columns.mT)
        return sum_to(back, rows.shape).reshape(-1, *x.shape)

    def to_right(ratio: Tensor) -> Tensor:
        back = torch.matmul(rows.mT, ratio.reshape(-1, *whole))
        return sum_to(back, columns.shape).reshape(-1, *y.shape)

    signals = find_all(Signal, (left, right))
    if len(signals) == 1:
        source, adjoint = (left, to_left) if isinstance(left, Signal) else (right, to_right)
        pull = contribute(step, source.x, z, adjoint)
    else:
        terms = _Terms(x, y) if min(x.dim(), y.dim()) > 1 else None
        pull = share_bilinear(step, left, right, z, to_left, to_right, terms)
    samples = _samples_of_product(left, right, z.shape)
    return Signal(z, **standing(*signals), samples=samples), pull


@register("scaled_matmul")
@mark(INNER)
def _scaled_matmul(step: Step, a: Any, b: Any, scale: float) -> tuple[Signal, Pull]:
    """Multiply matrices, and by a number above zero, which passes all relevance."""
    signals = find_all(Signal, (a, b))
    if len(signals) == 2 and share_of_first(step, *signals) is None:
        z, pull = multiply_matrices(step, a, b)  # the factors' own values share
        return z.but(x=z.x * scale), pull
    # The first factor takes the scale, and so does epsilon, which is that of the bare product:
    # R / s(z) is the same, and the bare product need not be held.
    scaled = a.but(x=a.x * scale) if isinstance(a, Signal) else a * scale
    return multiply_matrices(replace(step, epsilon=step.epsilon * scale), scaled, b)


class _Terms:
    """The products that a product of matrices sums, one of each sum at a time."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __iter__(self) -> Any:
        for i in range(self.x.shape[-1]):
            yield self.x[..., :, i, None], self.y[..., i, None, :]


def _samples_of_product(left: Any, right: Any, shape: torch.Size) -> Tensor | None:
    """Return the samples of a product of matrices, while probing; refuse to sum over them."""
    found = []
    for factor, other, axis in ((left, right, -1), (right, left, -2)):
        if isinstance(factor, Signal) and factor.samples is not None:
            axis = max(axis, -factor.x.dim())  # a vector has but one
            is_matrix = value_of(other).dim() > 1
            found.append(_samples_along(without_repeats(factor.samples), axis, is_matrix))
    if not found:
        return None
    one, two = found[0], found[-1]
    if bool(((one >= 0) & (two >= 0) & (one != two)).any()):
        raise TypeError("it mixes samples: their axes do not match")
    return torch.maximum(one, two).expand(shape)


def _samples_along(samples: Tensor, axis: int, keepdim: bool) -> Tensor:
    """Return the one sample that all values along an axis belong to; -1 for constants alone."""
    most = samples.amax(axis, keepdim=True)
    if bool(((samples >= 0) & (samples != most)).any()):
        raise TypeError("it mixes samples: it sums over their axis")
    return most if keepdim else most.squeeze(axis)
