"""The recursion of relevance back in time, and the operations on single steps that it takes.

:mod:`.recurrent_run` prepares what does not depend on the step behind, for several steps at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sklrp.propagation.fast import merge
from sklrp.propagation.formula import Split

_MANY_ROWS = 1024
_HAS_CONVOLUTIONS = torch.backends.mkldnn.is_available()


class Flow(NamedTuple):
    """Where the relevance of a cell's state goes at every step.

    ``z`` are the pre-activations that get relevance, those of the gates in ``rows`` of the
    weights, and ``bias`` is their bias. ``new`` is the share of each, (n_steps, n_samples,
    n_gates, n_units), and ``prev`` that of the state before.
    """

    rows: slice
    z: Tensor
    bias: Tensor | None
    new: Tensor
    prev: Tensor | None = None
    keep: Tensor | None = None  # what an LSTM's output gate, the last one, leaves to the cell
    reset: Tensor | None = None  # a GRU's reset gate, which scales the candidate's recurrent part
    reset_share: Any = None  # and what it takes of the relevance of that part


class Relevance(NamedTuple):
    """The relevance of the states, of the outputs of cells, of cells, and of what they start as.

    Some of them may be the same tensor; see ``Run._arrived`` in :mod:`.recurrent_run`.
    """

    hidden: Tensor
    units: Tensor
    cells: Tensor
    starts: Sequence[Tensor]


class _Views(NamedTuple):
    """What the recursion takes at each step, as :class:`Kernels` take it.

    ``c[t + 1]``, ``u[t + 1]`` and ``h[t + 1]`` are the relevance of cells, outputs and states
    behind step ``t``, ``c[0]`` and ``h[0]`` that of the initial ones.
    """

    h: Sequence[Any]
    u: Sequence[Any]
    c: Sequence[Any]
    prev: Sequence[Any] | None
    keep: Sequence[Any] | None
    parts: Sequence[tuple[Any, Sequence[tuple[Any, Tensor]]]]  # coefficients, maps and weights


def recur(
    flow: Flow,
    splits: Sequence[Split],
    coefficients: Sequence[Tensor],
    relevance: Relevance,
    project: Callable[[int, Tensor], Tensor] | None,
) -> None:
    """Run back in time, to all relevance that states get; that from outside is overwritten."""
    n_steps, n_targets, n_samples, size = relevance.cells.shape
    cells, n_states = relevance.cells, relevance.hidden.shape[-1]
    n_gates = flow.new.shape[-2]
    # Small operations start fastest on tensors of one shape: axes of length one are left out.
    targets = (n_targets,) if n_targets > 1 else ()
    gates, gate = ((n_gates,), (1,)) if n_gates > 1 else ((), ())
    state = (*targets, n_samples, *gate, n_states)
    ratio = cells.new_empty(n_targets * n_samples, n_gates * size)
    product = cells.new_empty(n_targets * n_samples, n_states)
    of_cell = Kernels(cells.new_empty(*targets, n_samples, *gate, size))
    kernels = Kernels(product.view(state))
    (ratio_view,) = kernels.steps(ratio.view(1, *targets, n_samples, *gates, size))
    (product_view,) = kernels.steps(product.view(1, *state))
    shapes = (*targets, n_samples, *gate), (n_samples, *gates, size)
    h, u, c, prev, keep, parts = _views(kernels, shapes, flow, splits, coefficients, relevance)
    with np.errstate(all="ignore"):
        for t in range(n_steps - 1, -1, -1):
            cell = c[t + 1]
            if project is not None:
                relevance.units[t] += project(t, relevance.hidden[t])
            if keep is not None:  # R_c += keep * R_u; without it they are one tensor
                of_cell.add_product(cell, keep[t], u[t + 1], out=cell)
            if prev is not None:  # R_c_prev += prev * R_c
                of_cell.add_product(c[t], prev[t], cell, out=c[t])
            for coefficient, terms in parts:
                if keep is None:  # ratio = coefficient * R_c, at all gates
                    kernels.multiply(coefficient[t], cell, out=ratio_view)
                else:  # the output gate, the last one, gets from R_u
                    kernels.multiply(coefficient[t][:, :-1], cell, out=ratio_view[..., :-1, :])
                    kernels.multiply(coefficient[t][:, -1:], u[t + 1], out=ratio_view[..., -1:, :])
                for v, weight in terms:  # R_h_prev += map(h_prev) * (ratio @ map(w))
                    torch.mm(ratio, weight, out=product)
                    kernels.add_product(h[t], v[t], product_view, out=h[t])


def _views(
    kernels: Kernels,
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    flow: Flow,
    splits: Sequence[Split],
    coefficients: Sequence[Tensor],
    relevance: Relevance,
) -> _Views:
    """Cut all tensors into steps; ``shapes`` are a state's without its units, and all gates'."""
    before, ratio = shapes
    hidden, units, cells, starts = relevance
    n_steps, _, n_samples, _ = cells.shape
    gate = (1,) if len(ratio) > 2 else ()

    def states(v: Tensor, start: Tensor) -> list[Any]:
        both = start.view(1, *before, -1), v.view(n_steps, *before, -1)
        return [one for tensor in both for one in kernels.steps(tensor)]

    def shares(v: Tensor) -> Sequence[Any]:
        wide = v.expand(n_steps, n_samples, v.shape[-1])
        return kernels.steps(wide.reshape(n_steps, n_samples, *gate, v.shape[-1]))

    c = states(cells, starts[-1])
    if hidden is cells:
        h = [*kernels.steps(starts[0].view(1, *before, -1)), *c[1:]]
    else:
        h = states(hidden, starts[0])
    u = h if units is hidden else c
    if units is not hidden and units is not cells:
        u = states(units, torch.zeros_like(units[0]))
    prev, keep = (None if v is None else shares(v) for v in (flow.prev, flow.keep))
    parts = [
        (
            kernels.steps(coefficient.view(n_steps, *ratio)),
            [(shares(v), weight) for v, weight in terms],
        )
        for coefficient, terms in merge(splits, coefficients, 1)
    ]
    return _Views(h, u, c, prev, keep, parts)


class Kernels:
    """Operations on a state at one step, for recursions over steps.

    On a CPU they are NumPy's, on torch's memory: those start in a third of the time.

    Parameters
    ----------
    state : Tensor
        A state, whose shape those have that are added to.
    """

    def __init__(self, state: Tensor) -> None:
        self.on_cpu = on_cpu(state)
        library: Any = np if self.on_cpu else torch
        self.multiply: Callable[..., Any] = library.multiply
        self.tanh: Callable[..., Any] = library.tanh
        self.scratch = torch.empty_like(state).numpy() if self.on_cpu else None

    def steps(self, v: Tensor) -> Sequence[Any]:
        """Return the steps of a tensor as the operations take them."""
        return list(v.numpy()) if self.on_cpu else v.unbind()

    def add_product(self, base: Any, a: Any, b: Any, out: Any) -> None:
        """Write ``base + a * b`` to ``out``."""
        if self.on_cpu:
            np.add(base, np.multiply(a, b, self.scratch), out)
        else:
            torch.addcmul(base, a, b, out=out)


def start_states(start: Tensor, n_steps: int) -> Tensor:
    """Return room for the states of all steps behind the initial one."""
    states = start.new_empty(n_steps + 1, *start.shape)
    states[0] = start
    return states


def tanh(z: Tensor) -> Tensor:
    """Return the hyperbolic tangent; NumPy's is faster than torch's on a CPU."""
    return torch.from_numpy(np.tanh(z.numpy())) if on_cpu(z) else z.tanh()


def on_cpu(v: Tensor) -> bool:
    """Return whether NumPy can compute on the memory of a tensor."""
    return v.device.type == "cpu"


def linear_of_steps(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``F.linear`` of (n_steps, n_samples, n_inputs), on a CPU as a convolution."""
    if bias is not None and bias.dim() > 1:  # a GRU's depends on its reset gate
        return linear_of_steps(x, weight).add_(bias)
    # oneDNN, which does those, is faster for many rows than what torch takes for F.linear.
    few = x.shape[:2].numel() < _MANY_ROWS
    if few or x.dtype != torch.float32 or not on_cpu(x) or not _HAS_CONVOLUTIONS:
        return F.linear(x, weight, bias)
    x = x.unsqueeze(2).permute(0, 3, 1, 2)  # channels last
    return F.conv2d(x, weight[:, :, None, None], bias).permute(0, 2, 3, 1).squeeze(2)


def adjoint_of_steps(ratio: Tensor, weight: Tensor) -> Tensor:
    """Return the adjoint of that map, for (n_targets, n_steps, n_samples, n_outputs)."""
    return linear_of_steps(ratio.flatten(0, 1), weight.t()).unflatten(0, ratio.shape[:2])
