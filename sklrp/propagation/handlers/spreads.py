r"""Handlers of what tells the spread of values: deviations, variances and norms of vectors.

Where such a number scales a signal, as in a normalisation written by hand, it is held constant and
takes nothing, whatever the composite's ``product``: the rule of Ali et al. 2022 for the layers, in
`.norms`. Elsewhere, as a feature beside the mean, it shares by contribution to itself. It is
homogeneous of a degree :math:`k`, 2 for a variance and 1 for the others, so by Euler's theorem
:math:`f(x) = \frac{1}{k} \sum_i x_i\, \partial f / \partial x_i`, and

.. math:: R_i = \frac{x_i}{k} \frac{\partial f}{\partial x_i} \frac{R}{s(f(x))} .

Importing this module registers the handlers; the recorder finds them by the functions' names.

References
----------
.. [Ali2022e] Ali et al., "XAI for Transformers: better explanations through conservative
   propagation", ICML 2022: section 4, layer normalisation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sklrp.propagation.handlers.adjoints import pull_gradients
from sklrp.propagation.handlers.reductions import axes_of, reduced_samples
from sklrp.propagation.registry import SOURCED, mark, register
from sklrp.propagation.sharing import contribute
from sklrp.propagation.tape import Pull, Step
from sklrp.rules import Signal


@register("var", "std")
@mark(SOURCED)
def _deviation(step: Step, source: Signal, *args: Any, **kwargs: Any) -> tuple[Signal, Pull]:
    over, degree = _of_deviation(*args, **kwargs), 2 if step.function == "var" else 1
    return _spread(step, source, lambda x: step.layer(x, *args, **kwargs), over, degree)


@register("norm", "linalg_vector_norm", "linalg_norm", "linalg_matrix_norm")
@mark(SOURCED)
def _norm(step: Step, source: Signal, *args: Any, **kwargs: Any) -> tuple[Signal, Pull]:
    p, dim, keepdim, dtype = _of_norm(*args, **kwargs)
    if step.function == "linalg_matrix_norm" and dim is None:
        dim = (-2, -1)
    if p == 0:
        raise TypeError("with p=0 it counts; compare the values with 0 in its place")
    if dtype is not None:
        raise TypeError("leave out dtype; convert its input")
    return _spread(step, source, lambda x: step.layer(x, *args, **kwargs), (dim, keepdim), 1)


def _spread(
    step: Step, source: Signal, function: Callable[[Tensor], Tensor], over: tuple[Any, bool],
    degree: int,
) -> tuple[Signal, Pull]:  # fmt: skip
    """Return a number that tells the spread, and what shares by contribution to it."""
    x, dim = source.x, over[0]
    samples = reduced_samples(source, axes_of(source, dim), over[1])

    def adjoint(ratio: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            out = function(leaf)
        # Where nothing is spread the gradient is none: 0 / 0.
        return (pull_gradients(out, leaf, ratio)[0] / degree).nan_to_num(0.0, 0.0, 0.0)

    z = function(x)
    out = Signal(z, nonnegative=True, gate=True, held=True, samples=samples)
    return out, contribute(step, x, z, adjoint)


def _of_deviation(*args: Any, **kwargs: Any) -> tuple[Any, bool]:
    """Return the axes that a deviation is over, and whether they are kept."""
    names = ("unbiased",) if args and isinstance(args[0], bool) else ("dim", "unbiased", "keepdim")
    given = {**kwargs, **dict(zip(names, args, strict=False))}
    return given.get("dim"), given.get("keepdim", False)


def _of_norm(
    p: Any = "fro", dim: Any = None, keepdim: bool = False, *, dtype: Any = None, ord: Any = None
) -> tuple[Any, Any, bool, Any]:
    """Return the arguments of a norm, which torch's functions give two names."""
    return p if ord is None else ord, dim, keepdim, dtype
