"""Sums of products by the letters of their axes (einsum), in the forms that handlers know.

``torch.einsum`` of a signal and constants is a linear layer, of two signals a product of
matrices. `.rewritten` asks :func:`find_einsum` what to run in its place; where a signal shares an
axis of the output with its weights, such as one matrix for each frequency, that is
:func:`contract`, which `.as_layers` translates to a layer of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from sklrp.propagation.recording.calls import FunctionCall

# Letters for the axes of an ellipsis.
_SPARE = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def find_einsum(call: FunctionCall) -> Callable[..., Any]:
    """Return what to run in place of an einsum."""
    return partial(_einsum, call.nodes.depend)


def contract(input: Tensor, weight: Tensor, equation: str) -> Tensor:
    """Sum products of a signal and its weights; function modes see it as one function."""
    if has_torch_function((input, weight)):
        out: Tensor = handle_torch_function(
            contract, (input, weight), input, weight, equation=equation
        )
        return out
    return torch.einsum(equation, input, weight)


def parse(equation: str, operands: Sequence[Tensor]) -> tuple[list[str], str]:
    """Return the letters of each operand and of the output, ellipses spelt out."""
    equation = equation.replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    free = [c for c in _SPARE if c not in equation]
    wide = max(
        (v.dim() - len(t.replace("...", "")) for t, v in zip(terms, operands, strict=True)
         if "..." in t), default=0,
    )  # fmt: skip
    dots = "".join(free[:wide])
    spelt = []
    for term, operand in zip(terms, operands, strict=True):
        n = operand.dim() - len(term.replace("...", ""))
        spelt.append(term.replace("...", dots[wide - n :] if n else ""))
    if not arrow:  # letters that occur once, in order, behind the ellipsis
        letters = left.replace(",", "").replace("...", "")
        right = ("..." if "..." in left else "") + "".join(
            sorted(c for c in set(letters) if letters.count(c) == 1)
        )
    return spelt, right.replace("...", dots)


def _einsum(depends: Callable[[Any], bool], equation: Any, *operands: Any) -> Tensor:
    """Sum products by letters: constants first, then one signal after the other."""
    if not isinstance(equation, str):
        raise TypeError("write its axes as letters, as in torch.einsum('bi,io->bo', x, weight)")
    if len(operands) == 1 and not isinstance(operands[0], Tensor):
        operands = tuple(operands[0])
    letters, out = parse(equation, operands)
    parts = [_diagonals(term, v) for term, v in zip(letters, operands, strict=True)]
    for k in range(len(parts)):
        parts[k] = _without_copies(parts[k], parts[:k] + parts[k + 1 :], depends)
    signals = [(term, v) for term, v in parts if depends(v)]
    constants = [(term, v) for term, v in parts if not depends(v)]
    if any(v.is_complex() for _, v in parts):
        raise TypeError("it multiplies complex numbers")
    if constants:
        needed = set(out).union(*(term for term, _ in signals))
        known = set("".join(term for term, _ in constants))
        kept = "".join(sorted(needed & known))
        joint = ",".join(term for term, _ in constants)
        constant = kept, torch.einsum(f"{joint}->{kept}", *(v for _, v in constants))
        signals = [*signals, constant]
    (term, value), *others = signals
    for k, (other, factor) in enumerate(others):
        later = set(out).union(*(t for t, _ in others[k + 1 :]))
        term, value = _contract(term, value, other, factor, later, depends(factor))
    value = _sum_away(term, value, out)
    term = "".join(c for c in term if c in out)
    return value.permute([term.index(c) for c in out])


def _diagonals(term: str, value: Tensor) -> tuple[str, Tensor]:
    """Return an operand none of whose letters is twice there: its diagonals."""
    for c in dict.fromkeys(term):
        while term.count(c) > 1:
            i = term.index(c)
            j = term.index(c, i + 1)
            value = value.diagonal(dim1=i, dim2=j)
            term = term[:i] + term[i + 1 : j] + term[j + 1 :] + c
    return term, value


def _without_copies(
    part: tuple[str, Tensor], others: Sequence[tuple[str, Tensor]], depends: Callable[[Any], bool]
) -> tuple[str, Tensor]:
    """Return an operand without axes of one value that meets all values of another's axis."""
    term, value = part
    for c in term:
        # A constant's one value meets a single sample too: what is run does not tell how many.
        meets = any(
            v.shape[t.index(c)] > 1 or (depends(v) and not depends(value))
            for t, v in others
            if c in t
        )
        if meets and value.shape[term.index(c)] == 1:
            value, term = value.squeeze(term.index(c)), term.replace(c, "")
    return term, value


def _sum_away(term: str, value: Tensor, needed: Any) -> Tensor:
    """Sum over the axes of letters that are not needed."""
    dims = [i for i, c in enumerate(term) if c not in needed]
    return value.sum(dims) if dims else value


def _contract(
    term: str, value: Tensor, other: str, factor: Tensor, later: set[str], is_product: bool
) -> tuple[str, Tensor]:
    """Multiply a signal by a constant, or by another signal, and sum over what is done with."""
    value, factor = (
        _sum_away(one, v, later | set(two))
        for one, two, v in ((term, other, value), (other, term, factor))
    )
    term = "".join(c for c in term if c in later or c in other)
    other = "".join(c for c in other if c in later or c in term)
    shared = [c for c in term if c in other and c in later]
    summed = [c for c in term if c in other and c not in later]
    left = [c for c in term if c not in other]
    right = [c for c in other if c not in term]
    sizes = dict(zip(term + other, (*value.shape, *factor.shape), strict=True))
    shape = [[sizes[c] for c in group] for group in (shared, left, right, summed)]
    if not is_product and not summed and not right:  # a product with a constant, elementwise
        places = [term.index(c) for c in term if c in other]
        ordered = factor.permute([other.index(term[i]) for i in places])
        return term, value * ordered.reshape([sizes[c] if c in other else 1 for c in term])
    if is_product:
        rows = value.permute([term.index(c) for c in (*shared, *left, *summed)])
        columns = factor.permute([other.index(c) for c in (*shared, *summed, *right)])
        rows = rows.reshape(*shape[0], prod(shape[1]), prod(shape[3]))
        columns = columns.reshape(*shape[0], prod(shape[3]), prod(shape[2]))
        out = torch.matmul(rows, columns).reshape([n for group in shape[:3] for n in group])
        return "".join([*shared, *left, *right]), out
    if shared:
        order = "".join([*left, *shared, *summed]), "".join([*shared, *right, *summed])
        value = value.permute([term.index(c) for c in order[0]])
        factor = factor.permute([other.index(c) for c in order[1]])
        out_term = "".join([*left, *shared, *right])
        return out_term, contract(value, factor, f"{order[0]},{order[1]}->{out_term}")
    rows = value.permute([term.index(c) for c in (*left, *summed)])
    weight = factor.permute([other.index(c) for c in (*right, *summed)])
    rows = rows.reshape(*shape[1], prod(shape[3]))
    out = F.linear(rows, weight.reshape(prod(shape[2]), prod(shape[3])))
    return "".join([*left, *right]), out.reshape(*shape[1], *shape[2])
