"""Contributions of cells to the scores of a network, against draws of the training data.

`skill_map` tests them. They need nothing of the engine of relevance: any torch network that has a
gradient will do, and for a model without one `occlude` replaces groups of cells by turns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray
from torch import Tensor, nn

_CHUNK_VALUES = 2**16  # values of the input in one pass: what follows stays in a cache
_STATES_VALUES = 2**22  # values of replaced samples in one call of a model
_FIRST_DRAWS, _MOST_DRAWS = 8, 256
_GOOD_ENOUGH = 0.1  # the share of the draws in the variance of contributions


class Contributions:
    r"""Expected gradients of combinations of a network's outputs.

    .. math:: \phi_i = \mathbb{E}_{b, a} \; (x_i - b_i) \,
              \frac{\partial f}{\partial x_i}(b + a (x - b)),

    b drawn from the baselines, a uniform on (0, 1). They sum to f(x) less the mean of f over the
    baselines, but for what few draws leave: the residual.

    Parameters
    ----------
    phi : list of ndarray of shape (n_samples, n_cells)
        The contributions, for each combination.
    completeness : float
        The mean absolute residual, as a share of the spread of the scores.
    noise : float
        The share of the variance of contributions, over samples, that comes from the draws.
    n_draws : int
        How many pairs of b and a each sample has.

    References
    ----------
    G. Erion et al., "Improving performance of deep learning models with axiomatic attribution
    priors and expected gradients", Nature Machine Intelligence 3, 2021, eq. 3.
    """

    def __init__(
        self, phi: list[NDArray], completeness: float, noise: float, n_draws: int
    ) -> None:
        self.phi = phi
        self.completeness = completeness
        self.noise = noise
        self.n_draws = n_draws


def expected_gradients(
    module: nn.Module,
    samples: Tensor,
    baselines: Tensor,
    combine: NDArray[np.float64],
    rng: np.random.Generator,
    n_draws: int | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
    n_jobs: int | None = None,
) -> Contributions:
    """Return the contributions of cells to linear combinations of a network's outputs.

    Parameters
    ----------
    module : nn.Module
        The network, in evaluation mode; it is not changed.
    samples : Tensor of shape (n_samples, ...)
        What enters it.
    baselines : Tensor of shape (n_baselines, ...)
        What samples are compared with.
    combine : ndarray of shape (n_combinations, n_outputs) or (1, n_samples, n_outputs)
        The combinations of outputs; or one combination, which each sample has its own of.
    rng : numpy.random.Generator
        What draws are made from.
    n_draws : int or None, default=None
        Draws for each sample, at least 2; None doubles them until they hardly add to the variance
        of contributions.
    transform : callable or None, default=None
        What makes scores, (n, n_outputs), of what the network returns; None flattens it.
    n_jobs : int or None, default=None
        Number of threads that share the samples; what is returned does not depend on it.

    Returns
    -------
    Contributions
        Contributions and their residual.
    """
    n, shape = len(samples), samples.shape[1:]
    n_cells = int(np.prod(shape)) or 1
    weights = torch.as_tensor(combine, dtype=samples.dtype, device=samples.device)
    own = _all_outputs(module, samples, transform)
    usual = _all_outputs(module, baselines, transform).mean(dim=0).expand_as(own)
    scores = _combined(own, weights)
    spread = scores.std(dim=0).clamp_min(torch.finfo(samples.dtype).tiny)
    # Two halves of the draws: how far they differ tells how much of the variance is the draws'.
    halves = [
        [torch.zeros(n, n_cells, dtype=samples.dtype, device=samples.device) for _ in combine]
        for _ in range(2)
    ]
    done, wanted = 0, n_draws or _FIRST_DRAWS
    while True:
        draws = _draw_pairs(rng, n, len(baselines), wanted - done)
        middle = (wanted - done) // 2
        for half, part in zip(halves, (slice(middle), slice(middle, None)), strict=True):
            chosen, places = draws[0][:, part], draws[1][:, part]
            _accumulate(
                module, samples, baselines, weights, chosen, places, half, transform, n_jobs
            )
        done = wanted
        noise = _share_of_draws(halves, done)
        if n_draws is not None or noise < _GOOD_ENOUGH or done >= _MOST_DRAWS:
            break
        wanted = 2 * done
    phi = [(one + other) / done for one, other in zip(*halves, strict=True)]
    sums = torch.stack([p.sum(dim=1) for p in phi], dim=1)
    residual = ((sums - _combined(own - usual, weights)).abs() / spread).mean().item()
    return Contributions([p.cpu().numpy() for p in phi], residual, noise, done)


def _share_of_draws(halves: list[list[Tensor]], n_draws: int) -> float:
    """Return which share of the variance over samples comes from the draws."""
    own = total = 0.0
    for one, other in zip(*halves, strict=True):
        n_one, n_other = n_draws // 2, (n_draws + 1) // 2
        own += ((one / n_one - other / n_other) ** 2).mean().item() / 4
        total += ((one + other) / n_draws).var(dim=0).mean().item()
    return own / total if total > 0 else 0.0


def _accumulate(
    module: nn.Module,
    samples: Tensor,
    baselines: Tensor,
    weights: Tensor,
    chosen: NDArray[np.intp],
    places: NDArray[np.float64],
    totals: list[Tensor],
    transform: Callable[[Tensor], Tensor] | None,
    n_jobs: int | None,
) -> None:
    """Add the contributions of more draws to the totals."""
    (n, n_draws), n_cells = chosen.shape, totals[0].shape[1]

    def add_rows(rows: slice) -> None:
        x = samples[rows].repeat_interleave(n_draws, dim=0)
        b = baselines[torch.as_tensor(chosen[rows].ravel(), device=samples.device)]
        a = torch.as_tensor(places[rows].ravel()).to(x).reshape(-1, *(1,) * (x.dim() - 1))
        way = x - b
        point = (b + a * way).requires_grad_()
        with torch.inference_mode(False), torch.enable_grad():
            outputs = _outputs(module(point), transform)
            for k, total in enumerate(totals):
                weight = weights[k]
                if weights.dim() == 3:
                    weight = weight[rows].repeat_interleave(n_draws, dim=0)
                (gradient,) = torch.autograd.grad(
                    (outputs * weight).sum(), point, retain_graph=k + 1 < len(totals)
                )
                total[rows] += (gradient * way).reshape(-1, n_draws, n_cells).sum(dim=1)

    per_chunk = max(1, _CHUNK_VALUES // (n_cells * n_draws))
    Parallel(n_jobs=n_jobs, require="sharedmem")(
        delayed(add_rows)(slice(first, first + per_chunk)) for first in range(0, n, per_chunk)
    )


def _draw_pairs(
    rng: np.random.Generator, n: int, n_baselines: int, n_draws: int
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return which baselines each sample meets, and at which place on the way, (n, n_draws)."""
    # Every sample meets as many different baselines, and its places on the way are spread evenly:
    # both make the mean of few draws a better one.
    chosen = np.stack([_spread_out(rng, n_baselines, n_draws) for _ in range(n)])
    order = np.stack([rng.permutation(n_draws) for _ in range(n)])
    return chosen, (order + rng.random((n, 1))) / n_draws


def _spread_out(rng: np.random.Generator, n_baselines: int, n_draws: int) -> NDArray[np.intp]:
    """Return numbers of baselines, none of them twice before all were there once."""
    turns = -(-n_draws // n_baselines)
    if turns == 1:
        return rng.choice(n_baselines, n_draws, replace=False)
    return np.concatenate([rng.permutation(n_baselines) for _ in range(turns)])[:n_draws]


def _all_outputs(
    module: nn.Module, samples: Tensor, transform: Callable[[Tensor], Tensor] | None
) -> Tensor:
    per_chunk = max(1, _CHUNK_VALUES // max(1, samples[0].numel()))
    with torch.inference_mode(False), torch.no_grad():
        parts = [
            _outputs(module(samples[first : first + per_chunk]), transform)
            for first in range(0, len(samples), per_chunk)
        ]
    return torch.cat(parts)


def _combined(outputs: Tensor, weights: Tensor) -> Tensor:
    """Return combinations of outputs, (n_samples, n_combinations)."""
    if weights.dim() == 2:
        return outputs @ weights.T
    return (outputs * weights).sum(dim=2).T


def _outputs(out: Any, transform: Callable[[Tensor], Tensor] | None) -> Tensor:
    out = out[0] if isinstance(out, tuple | list) else out
    out = out if transform is None else transform(out)
    return out.reshape(len(out), -1)


def occluded(
    scores: Callable[[NDArray], NDArray],
    samples: NDArray,
    baselines: NDArray,
    combine: NDArray[np.float64],
    codes: NDArray[np.intp],
    rng: np.random.Generator,
    n_draws: int | None = None,
) -> Contributions:
    r"""Return the contributions of groups of cells by replacing one group after the other.

    For a model that has no gradient: Shapley values by sampled orders. On the way from a sample to
    a baseline the groups take their values of the baseline one by one, in random order; what the
    score loses at its turn is a group's contribution. They sum to f(x) - f(b) for every pair.

    Parameters
    ----------
    scores : callable
        Returns the scores, (n, n_outputs), of samples.
    samples, baselines : ndarray of shape (n, ...)
        The samples, and what they are compared with.
    combine : ndarray of shape (n_combinations, n_outputs)
        The combinations of outputs.
    codes : ndarray of shape (n_cells,)
        The group of each cell, from 0.
    rng : numpy.random.Generator
        What draws are made from.
    n_draws : int or None, default=None
        Orders for each sample, at least 2; None as in `expected_gradients`.

    Returns
    -------
    Contributions
        Contributions of groups, (n_samples, n_groups), for each combination.

    References
    ----------
    E. Strumbelj, I. Kononenko, "Explaining prediction models and individual predictions with
    feature contributions", Knowl. Inf. Syst. 41, 2014, algorithm 1.
    """
    n, n_groups = len(samples), int(codes.max()) + 1
    flat, pool = samples.reshape(n, -1), baselines.reshape(len(baselines), -1)

    def compute(rows: NDArray) -> NDArray:
        return scores(rows.reshape(-1, *samples.shape[1:])) @ combine.T

    own = compute(flat)
    usual = compute(pool).mean(axis=0)
    n_chunks = min(n_groups, -(-flat.size * n_groups // _STATES_VALUES))  # several turns in a call
    halves = np.zeros((2, len(combine), n, n_groups))
    done, wanted = 0, n_draws or _FIRST_DRAWS
    while True:
        for draw in range(done, wanted):
            b = pool[rng.integers(len(pool), size=n)]
            orders = rng.permuted(np.tile(np.arange(n_groups), (n, 1)), axis=1)
            ranks = np.argsort(orders, axis=1)[:, codes]
            before = own
            for turns in np.array_split(np.arange(n_groups), n_chunks):
                states = np.where(ranks[None] <= turns[:, None, None], b, flat)
                after = compute(states.reshape(-1, flat.shape[1])).reshape(len(turns), n, -1)
                lost = np.concatenate([before[None], after[:-1]]) - after
                for turn, loss in zip(turns, lost, strict=True):
                    halves[(draw + 1) % 2][:, np.arange(n), orders[:, turn]] += loss.T
                before = after[-1]
        done = wanted
        tensors = [[torch.from_numpy(part) for part in half] for half in halves]
        noise = _share_of_draws(tensors, done)
        if n_draws is not None or noise < _GOOD_ENOUGH or done >= _MOST_DRAWS:
            break
        wanted = 2 * done
    phi = list(halves.sum(axis=0) / done)
    sums = np.stack([p.sum(axis=1) for p in phi], axis=1)
    spread = np.maximum(own.std(axis=0), np.finfo(float).tiny)
    residual = float((np.abs(sums - (own - usual)) / spread).mean())
    return Contributions(phi, residual, noise, done)
