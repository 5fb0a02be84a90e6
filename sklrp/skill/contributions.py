from sklrp._devices import has_float64
"""Contributions of cells to the scores of a network, against draws of the training data.
from sklrp._devices import has_float64

from sklrp._devices import has_float64
`skill_map` tests them. They need nothing of the engine of relevance: any torch network that has a
from sklrp._devices import has_float64
gradient will do, and for a model without one `occlude` replaces groups of cells by turns.
from sklrp._devices import has_float64
"""
from sklrp._devices import has_float64

from sklrp._devices import has_float64
from __future__ import annotations
from sklrp._devices import has_float64

from sklrp._devices import has_float64
import itertools
from sklrp._devices import has_float64
import math
from sklrp._devices import has_float64
from collections.abc import Callable
from sklrp._devices import has_float64
from dataclasses import dataclass
from sklrp._devices import has_float64
from typing import Any
from sklrp._devices import has_float64

from sklrp._devices import has_float64
import numpy as np
from sklrp._devices import has_float64
import torch
from sklrp._devices import has_float64
from joblib import Parallel, delayed
from sklrp._devices import has_float64
from numpy.typing import NDArray
from sklrp._devices import has_float64
from torch import Tensor, nn
from sklrp._devices import has_float64
from tqdm.std import tqdm
from sklrp._devices import has_float64

from sklrp._devices import has_float64
_CHUNK_VALUES = 2**17  # values of the input in one pass: what follows stays in a cache
from sklrp._devices import has_float64
_STATES_VALUES = 2**22  # values of replaced samples in one call of a model
from sklrp._devices import has_float64
_FIRST_DRAWS, _MOST_DRAWS = 8, 256
from sklrp._devices import has_float64
_MOST_VALUES = 2**28  # of all draws of all samples: half a minute or so for a small CNN
from sklrp._devices import has_float64
_FEWEST_STEADIED = 4  # draws, of which a covariance is worth having
from sklrp._devices import has_float64
_MOST_BYTES = 2**32  # of contributions, of which the test makes a copy
from sklrp._devices import has_float64
_WATCHED_CELLS = 1024
from sklrp._devices import has_float64
# The share of draws in the variance of contributions that is little, of gradients and of orders.
from sklrp._devices import has_float64
_LITTLE_NOISE, _LITTLE_NOISE_OF_ORDERS = 0.05, 0.1
from sklrp._devices import has_float64

from sklrp._devices import has_float64

from sklrp._devices import has_float64
class Contributions:
from sklrp._devices import has_float64
    r"""Expected gradients of combinations of a network's outputs.
from sklrp._devices import has_float64

from sklrp._devices import has_float64
    .. math:: \phi_i = \mathbb{E}_{b, a} \; (x_i - b_i) \,
from sklrp._devices import has_float64
              \frac{\partial f}{\partial x_i}(b + a (x - b)),
from sklrp._devices import has_float64

from sklrp._devices import has_float64
    b drawn from the baselines, a uniform on (0, 1). They sum to f(x) less the mean of f over the
from sklrp._devices import has_float64
    baselines, but for what few draws leave: the residual. Most of what draws of b leave is linear
from sklrp._devices import has_float64
    in b, and its mean is known, so that it is a control variate: with g the gradient,
from sklrp._devices import has_float64

from sklrp._devices import has_float64
    .. math:: \phi_i = (x_i - \mathbb{E} b_i) \, \mathbb{E} g_i - \mathrm{cov}(b_i, g_i),
from sklrp._devices import has_float64

from sklrp._devices import has_float64
    of which draws are asked for the mean gradient and the covariance only.
from sklrp._devices import has_float64

from sklrp._devices import has_float64
    Parameters
from sklrp._devices import has_float64
    ----------
from sklrp._devices import has_float64
    phi : list of ndarray of shape (n_samples, n_cells)
from sklrp._devices import has_float64
        The contributions, for each combination.
from sklrp._devices import has_float64
    completeness : float
from sklrp._devices import has_float64
        The mean absolute residual, as a share of the spread of the scores.
from sklrp._devices import has_float64
    noise : float
from sklrp._devices import has_float64
        The share of the variance of contributions, over samples, that comes from the draws.
from sklrp._devices import has_float64
    n_draws : int
from sklrp._devices import has_float64
        How many pairs of b and a each sample has.
from sklrp._devices import has_float64

from sklrp._devices import has_float64
    References
from sklrp._devices import has_float64
    ----------
from sklrp._devices import has_float64
    G. Erion et al., "Improving performance of deep learning models with axiomatic attribution
from sklrp._devices import has_float64
    priors and expected gradients", Nature Machine Intelligence 3, 2021, eq. 3.
from sklrp._devices import has_float64
    """
from sklrp._devices import has_float64

from sklrp._devices import has_float64
    def __init__(
from sklrp._devices import has_float64
        self, phi: list[NDArray], completeness: float, noise: float, n_draws: int
from sklrp._devices import has_float64
    ) -> None:
from sklrp._devices import has_float64
        self.phi = phi
from sklrp._devices import has_float64
        self.completeness = completeness
from sklrp._devices import has_float64
        self.noise = noise
from sklrp._devices import has_float64
        self.n_draws = n_draws
from sklrp._devices import has_float64

from sklrp._devices import has_float64

from sklrp._devices import has_float64
def expected_gradients(
from sklrp._devices import has_float64
    module: nn.Module,
from sklrp._devices import has_float64
    samples: Tensor,
from sklrp._devices import has_float64
    baselines: Tensor,
from sklrp._devices import has_float64
    combine: NDArray[np.float64],
from sklrp._devices import has_float64
    rng: np.random.Generator,
from sklrp._devices import has_float64
    n_draws: int | None = None,
from sklrp._devices import has_float64
    transform: Callable[[Tensor], Tensor] | None = None,
from sklrp._devices import has_float64
    n_jobs: int | None = None,
from sklrp._devices import has_float64
    progress: bool = False,
from sklrp._devices import has_float64
) -> Contributions:
from sklrp._devices import has_float64
    """Return the contributions of cells to linear combinations of a network's outputs.
from sklrp._devices import has_float64

from sklrp._devices import has_float64
    Parameters
from sklrp._devices import has_float64
    ----------
from sklrp._devices import has_float64
    module : nn.Module
from sklrp._devices import has_float64
        The network, in evaluation mode; it is not changed.
from sklrp._devices import has_float64
    samples : Tensor of shape (n_samples, ...)
from sklrp._devices import has_float64
        What enters it.
from sklrp._devices import has_float64
    baselines : Tensor of shape (n_baselines, ...)
from sklrp._devices import has_float64
        What samples are compared with.
from sklrp._devices import has_float64
    combine : ndarray of shape (n_combinations, n_outputs) or (1, n_samples, n_outputs)
from sklrp._devices import has_float64
        The combinations of outputs; or one combination, which each sample has its own of.
from sklrp._devices import has_float64
    rng : numpy.random.Generator
from sklrp._devices import has_float64
        What draws are made from.
from sklrp._devices import has_float64
    n_draws : int or None, default=None
from sklrp._devices import has_float64
        Draws for each sample, at least 2; None adds to them until they hardly add to the variance
from sklrp._devices import has_float64
        of contributions, or would take long.
from sklrp._devices import has_float64
    transform : callable or None, default=None
from sklrp._devices import has_float64
        What makes scores, (n, n_outputs), of what the network returns; None flattens it.
from sklrp._devices import has_float64
    n_jobs : int or None, default=None
from sklrp._devices import has_float64
        Number of threads that share the samples; what is returned does not depend on it.
from sklrp._devices import has_float64
    progress : bool, default=False
from sklrp._devices import has_float64
        Whether to show a progress bar.
from sklrp._devices import has_float64

from sklrp._devices import has_float64
    Returns
from sklrp._devices import has_float64
    -------
from sklrp._devices import has_float64
    Contributions
from sklrp._devices import has_float64
        Contributions and their residual.
from sklrp._devices import has_float64
    """
from sklrp._devices import has_float64
    n, n_cells = len(samples), max(1, samples[0].numel())
from sklrp._devices import has_float64
    dtype = _summed_in(samples)
from sklrp._devices import has_float64
    weights = torch.as_tensor(combine, dtype=dtype, device=samples.device)
from sklrp._devices import has_float64
    own = all_outputs(module, samples, transform)
from sklrp._devices import has_float64
    usual = all_outputs(module, baselines, transform).mean(dim=0).expand_as(own)
from sklrp._devices import has_float64
    if not (torch.isfinite(own).all() and torch.isfinite(usual).all()):
from sklrp._devices import has_float64
        raise ValueError(
from sklrp._devices import has_float64
            "the network gives NaN or infinite scores of these samples: look for values that are "
from sklrp._devices import has_float64
            "far from what it was trained on, or train it again."
from sklrp._devices import has_float64
        )
from sklrp._devices import has_float64
    scores = _combined(own, weights)
from sklrp._devices import has_float64
    _check_memory(n * n_cells * len(combine) * dtype.itemsize, len(combine))
from sklrp._devices import has_float64
    wide = torch.float64 if has_float64(baselines.device) else dtype
from sklrp._devices import has_float64
    centre = baselines.mean(dim=0, dtype=wide).to(dtype)
from sklrp._devices import has_float64
    spread = scores.std(dim=0).clamp_min(torch.finfo(dtype).tiny)
from sklrp._devices import has_float64
    phi = [torch.zeros(n, n_cells, dtype=dtype, device=samples.device) for _ in combine]
from sklrp._devices import has_float64
    # Two halves of the draws: how far they differ tells how much of the variance is the draws'.
from sklrp._devices import has_float64
    # A thousand cells tell it, and halves of all would take twice the memory.
from sklrp._devices import has_float64
    some = slice(None, None, max(1, n_cells // _WATCHED_CELLS))
from sklrp._devices import has_float64
    halves = [[torch.zeros_like(p[:, some]) for p in phi] for _ in range(2)]
from sklrp._devices import has_float64
    done, wanted = 0, n_draws or _FIRST_DRAWS
from sklrp._devices import has_float64
    most = _most_draws(n * n_cells, len(phi))
from sklrp._devices import has_float64
    with tqdm(total=n * wanted, unit="draw", desc="skill_map", disable=not progress) as bar:
from sklrp._devices import has_float64
        while True:
from sklrp._devices import has_float64
            pairs = _draw_pairs(rng, n, len(baselines), wanted - done)
from sklrp._devices import has_float64
            for half, draws in zip(halves, pairs, strict=True):
from sklrp._devices import has_float64
                before = [p[:, some].clone() for p in phi]
from sklrp._devices import has_float64
                _accumulate(
from sklrp._devices import has_float64
                    module, samples, baselines, centre, weights, draws, phi, transform, n_jobs, bar
from sklrp._devices import has_float64
                )
from sklrp._devices import has_float64
                for mine, p, old in zip(half, phi, before, strict=True):
from sklrp._devices import has_float64
                    mine += p[:, some] - old
from sklrp._devices import has_float64
            done = wanted
from sklrp._devices import has_float64
            noise = _share_of_draws(halves, done)
from sklrp._devices import has_float64
            if n_draws is not None or noise < _LITTLE_NOISE or done >= most:
from sklrp._devices import has_float64
                break
from sklrp._devices import has_float64
            wanted = min(_next_draws(done, noise, _LITTLE_NOISE), most)
from sklrp._devices import has_float64
            bar.total = n * wanted
from sklrp._devices import has_float64
    for p in phi:
from sklrp._devices import has_float64
        p /= done
from sklrp._devices import has_float64
    sums = torch.stack([p.sum(dim=1) for p in phi], dim=1)
from sklrp._devices import has_float64
    residual = ((sums - _combined(own - usual, weights)).abs() / spread).mean().item()
from sklrp._devices import has_float64
    return Contributions([p.cpu().numpy() for p in phi], residual, noise, done)
from sklrp._devices import has_float64

from sklrp._devices import has_float64

from sklrp._devices import has_float64
def _check_memory(n_bytes: int, n_combinations: int) -> None:
from sklrp._devices import has_float64
    """Raise an error if contributions take more memory than they should."""
from sklrp._devices import has_float64
    if n_bytes > _MOST_BYTES:
from sklrp._devices import has_float64
        raise ValueError(
from sklrp._devices import has_float64
            f"the contributions to {n_combinations} outputs would take {n_bytes / 2**30:.1f} GiB: "
from sklrp._devices import has_float64
            "give target, one class or output, or fewer samples."
from sklrp._devices import has_float64
        )
from sklrp._devices import has_float64

from sklrp._devices import has_float64

from sklrp._devices import has_float64
def _summed_in(samples: Tensor) -> torch.dtype:
from sklrp._devices import has_float64
    """Return the dtype of sums: half precision is too coarse for them."""
from sklrp._devices import has_float64
    return torch.promote_types(samples.dtype, torch.float32)
from sklrp._devices import has_float64

from sklrp._devices import has_float64

from sklrp._devices import has_float64
def _most_draws(n_values: int, n_combinations: int) -> int:
from sklrp._devices import has_float64
    """Return how many draws a sample may have, for the time that they take."""
from sklrp._devices import has_float64
    # A pass forward takes about as long as one back, of which each combination has its own.
from sklrp._devices import has_float64
    affordable = _MOST_VALUES // ((1 + n_combinations) * n_values) * 2  # two halves
from sklrp._devices import has_float64
    return min(max(affordable, _FIRST_DRAWS), _MOST_DRAWS)
from sklrp._devices import has_float64

from sklrp._devices import has_float64

from sklrp._devices import has_float64
def _next_draws(done: int, noise: float, little: float) -> int:
from sklrp._devices import has_float64
    """Return how many draws will do, from what so many have left: at most twice as many."""
from sklrp._devices import has_float64
    needed = done * noise * (1 - little) / (little * max(1 - noise, little))
from sklrp._devices import has_float64
    return min(2 * done, 2 * math.ceil(0.55 * needed) + 2)
from sklrp._devices import has_float64

from sklrp._devices import has_float64

from sklrp._devices import has_float64
def _share_of_draws(halves: list[list[Tensor]], n_draws: int) -> float:
from sklrp._devices import has_float64
    """Return which share of the variance over samples comes from the draws."""
from sklrp._devices import has_float64
    own = total = 0.0
from sklrp._devices import has_float64
    for one, other in zip(*halves, strict=True):
from sklrp._devices import has_float64
        n_one, n_other = n_draws // 2, (n_draws + 1) // 2
from sklrp._devices import has_float64
        own += ((one / n_one - other / n_other) ** 2).mean().item() / 4
from sklrp._devices import has_float64
        total += ((one + other) / n_draws).var(dim=0).mean().item()
from sklrp._devices import has_float64
    return own / total if total > 0 else 0.0
from sklrp._devices import has_float64

from sklrp._devices import has_float64

from sklrp._devices import has_float64
@dataclass(frozen=True)
from sklrp._devices import has_float64
class _Draws:
from sklrp._devices import has_float64
    """Draws of each sample, (n, n_draws), and the share of a covariance that they have."""
from sklrp._devices import has_float64

from sklrp._devices import has_float64
    baselines: NDArray[np.intp]
from sklrp._devices import has_float64
    places: NDArray[np.float64]
from sklrp._devices import has_float64
    share: float
from sklrp._devices import has_float64

from sklrp._devices import has_float64

from sklrp._devices import has_float64
def _accumulate(
from sklrp._devices import has_float64
    module: nn.Module,
from sklrp._devices import has_float64
    samples: Tensor,
from sklrp._devices import has_float64
    baselines: Tensor,
from sklrp._devices import has_float64
    centre: Tensor,
from sklrp._devices import has_float64
    weights: Tensor,
from sklrp._devices import has_float64
    draws: _Draws,
from sklrp._devices import has_float64
    totals: list[Tensor],
from sklrp._devices import has_float64
    transform: Callable[[Tensor], Tensor] | None,
from sklrp._devices import has_float64
    n_jobs: int | None,
from sklrp._devices import has_float64
    bar: tqdm,
from sklrp._devices import has_float64
) -> None:
from sklrp._devices import has_float64
    """Add the contributions of more draws to the totals."""
from sklrp._devices import has_float64
    (n, n_draws), n_cells = draws.baselines.shape, totals[0].shape[1]
from sklrp._devices import has_float64
    per_pass = max(1, _CHUNK_VALUES // n_cells)
from sklrp._devices import has_float64
    n_together = min(n_draws, per_pass)  # draws of a sample in one pass
from sklrp._devices import has_float64
    dtype = totals[0].dtype
from sklrp._devices import has_float64
    is_steadied = n_draws >= _FEWEST_STEADIED
from sklrp._devices import has_float64

from sklrp._devices import has_float64
    def sums(rows: slice, part: slice) -> tuple[Tensor, list[Tensor], list[Tensor]]:
from sklrp._devices import has_float64
        b = draws.baselines[rows, part]
from sklrp._devices import has_float64
        count = b.shape[1]
from sklrp._devices import has_float64
        x = samples[rows].repeat_interleave(count, dim=0)
from sklrp._devices import has_float64
        base = baselines[torch.as_tensor(b.ravel(), device=samples.device)]
from sklrp._devices import has_float64
        a = torch.as_tensor(draws.places[rows, part].ravel()).to(x)
from sklrp._devices import has_float64
        way = x - base
from sklrp._devices import has_float64
        point = (base + a.reshape(-1, *(1,) * (x.dim() - 1)) * way).requires_grad_()
from sklrp._devices import has_float64

from sklrp._devices import has_float64
        def add_up(values: Tensor) -> Tensor:
from sklrp._devices import has_float64
            return values.reshape(-1, count, n_cells).sum(dim=1, dtype=dtype)
from sklrp._devices import has_float64

from sklrp._devices import has_float64
        slopes, added = [], []
from sklrp._devices import has_float64
        with torch.inference_mode(False), torch.enable_grad():
from sklrp._devices import has_float64
            outputs = _outputs(module(point.clone()), transform)  # some write into it
from sklrp._devices import has_float64
            for k in range(len(totals)):
from sklrp._devices import has_float64
                weight = weights[k]
from sklrp._devices import has_float64
                if weights.dim() == 3:
from sklrp._devices import has_float64
                    weight = weight[rows].repeat_interleave(count, dim=0)
from sklrp._devices import has_float64
                (gradient,) = torch.autograd.grad(
from sklrp._devices import has_float64
                    (outputs * weight).sum(), point, retain_graph=k + 1 < len(totals)
from sklrp._devices import has_float64
                )
from sklrp._devices import has_float64
                added.append(add_up(gradient * way))
from sklrp._devices import has_float64
                if is_steadied:
from sklrp._devices import has_float64
                    slopes.append(add_up(gradient))
from sklrp._devices import has_float64
        return add_up(way), added, slopes
from sklrp._devices import has_float64

from sklrp._devices import has_float64
    def add_rows(rows: slice) -> int:
from sklrp._devices import has_float64
        parts = [
from sklrp._devices import has_float64
            sums(rows, slice(first, first + n_together)) for first in range(0, n_draws, n_together)
from sklrp._devices import has_float64
        ]
from sklrp._devices import has_float64
        way = sum(part[0] for part in parts) / n_draws
from sklrp._devices import has_float64
        away = samples[rows].reshape(-1, n_cells).to(dtype) - centre.reshape(-1)
from sklrp._devices import has_float64
        for k, total in enumerate(totals):
from sklrp._devices import has_float64
            added = sum(part[1][k] for part in parts)
from sklrp._devices import has_float64
            if is_steadied:
from sklrp._devices import has_float64
                slope = sum(part[2][k] for part in parts)
from sklrp._devices import has_float64
                added = away * slope - (way * slope - added) / draws.share
from sklrp._devices import has_float64
            total[rows] += added
from sklrp._devices import has_float64
        return len(range(n)[rows]) * n_draws
from sklrp._devices import has_float64

from sklrp._devices import has_float64
    per_chunk = max(1, per_pass // n_draws)
from sklrp._devices import has_float64
    done = Parallel(n_jobs=n_jobs, require="sharedmem", return_as="generator")(
from sklrp._devices import has_float64
        delayed(add_rows)(slice(first, first + per_chunk)) for first in range(0, n, per_chunk)
from sklrp._devices import has_float64
    )
from sklrp._devices import has_float64
    for count in done:
from sklrp._devices import has_float64
        bar.update(count)
from sklrp._devices import has_float64

from sklrp._devices import has_float64

from sklrp._devices import has_float64
def _draw_pairs(rng: np.random.Generator, n: int, n_baselines: int, n_draws: int) -> list[_Draws]:
from sklrp._devices import has_float64
    """Return two halves of draws: baselines that each sample meets, and places on the way."""
from sklrp._devices import has_float64
    # Every sample meets as many different baselines, and its places on the way are spread evenly:
from sklrp._devices import has_float64
    # both make the mean of few draws a better one.
from sklrp._devices import has_float64
    chosen = np.stack([_spread_out(rng, n_baselines, n_draws) for _ in range(n)])
from sklrp._devices import has_float64
    order = np.stack([rng.permutation(n_draws) for _ in range(n)])
from sklrp._devices import has_float64
    places = (order + rng.random((n, 1))) / n_draws
from sklrp._devices import has_float64
    ends = [0, n_draws // 2, n_draws]
from sklrp._devices import has_float64
    return [
from sklrp._devices import has_float64
        _Draws(chosen[:, i:j], places[:, i:j], _share_of_covariance(n_baselines, i, j))
from sklrp._devices import has_float64
        for i, j in itertools.pairwise(ends)
from sklrp._devices import has_float64
    ]
from sklrp._devices import has_float64

from sklrp._devices import has_float64

from sklrp._devices import has_float64
def _share_of_covariance(n_baselines: int, first: int, last: int) -> float:
from sklrp._devices import has_float64
    """Return the mean covariance of those draws, as a share of it over all baselines."""
from sklrp._devices import has_float64
    # The mean of m of N without replacement has the variance (N - m) / (N - 1) / m; one that was
from sklrp._devices import has_float64
    # over all N has none. What lies between two turns over all is drawn without replacement.
from sklrp._devices import has_float64
    ends = [first, *range((first // n_baselines + 1) * n_baselines, last, n_baselines), last]
from sklrp._devices import has_float64
    pieces = np.diff(ends)
from sklrp._devices import has_float64
    varied = (pieces * (n_baselines - pieces)).sum() / max(n_baselines - 1, 1)
from sklrp._devices import has_float64
    return float(1 - varied / (last - first) ** 2)
from sklrp._devices import has_float64

from sklrp._devices import has_float64

from sklrp._devices import has_float64
def _spread_out(rng: np.random.Generator, n_baselines: int, n_draws: int) -> NDArray[np.intp]:
from sklrp._devices import has_float64
    """Return numbers of baselines, none of them twice before all were there once."""
from sklrp._devices import has_float64
    turns = -(-n_draws // n_baselines)
from sklrp._devices import has_float64
    if turns == 1:
from sklrp._devices import has_float64
        return rng.choice(n_baselines, n_draws, replace=False)
from sklrp._devices import has_float64
    return np.concatenate([rng.permutation(n_baselines) for _ in range(turns)])[:n_draws]
from sklrp._devices import has_float64

from sklrp._devices import has_float64

from sklrp._devices import has_float64
def all_outputs(
from sklrp._devices import has_float64
    module: nn.Module, samples: Tensor, transform: Callable[[Tensor], Tensor] | None = None
from sklrp._devices import has_float64
) -> Tensor:
from sklrp._devices import has_float64
    """Return a network's scores, (n_samples, n_outputs), in as many passes as memory wants."""
from sklrp._devices import has_float64
    per_chunk = max(1, _CHUNK_VALUES // max(1, samples[0].numel()))
from sklrp._devices import has_float64
    dtype = _summed_in(samples)
from sklrp._devices import has_float64
    with torch.inference_mode(False), torch.no_grad():
from sklrp._devices import has_float64
        parts = [
from sklrp._devices import has_float64
            _outputs(module(samples[first : first + per_chunk].clone()), transform).to(dtype)
from sklrp._devices import has_float64
            for first in range(0, len(samples), per_chunk)
from sklrp._devices import has_float64
        ]
from sklrp._devices import has_float64
    return torch.cat(parts)
from sklrp._devices import has_float64

from sklrp._devices import has_float64

from sklrp._devices import has_float64
def _combined(outputs: Tensor, weights: Tensor) -> Tensor:
from sklrp._devices import has_float64
    """Return combinations of outputs, (n_samples, n_combinations)."""
from sklrp._devices import has_float64
    if weights.dim() == 2:
from sklrp._devices import has_float64
        return outputs @ weights.T
from sklrp._devices import has_float64
    return (outputs * weights).sum(dim=2).T
from sklrp._devices import has_float64

from sklrp._devices import has_float64

from sklrp._devices import has_float64
def _outputs(out: Any, transform: Callable[[Tensor], Tensor] | None) -> Tensor:
from sklrp._devices import has_float64
    out = out[0] if isinstance(out, tuple | list) else out
from sklrp._devices import has_float64
    out = out if transform is None else transform(out)
from sklrp._devices import has_float64
    return out.reshape(len(out), -1)
from sklrp._devices import has_float64

from sklrp._devices import has_float64

from sklrp._devices import has_float64
def occluded(
from sklrp._devices import has_float64
    scores: Callable[[NDArray], NDArray],
from sklrp._devices import has_float64
    samples: NDArray,
from sklrp._devices import has_float64
    baselines: NDArray,
from sklrp._devices import has_float64
    combine: NDArray[np.float64],
from sklrp._devices import has_float64
    codes: NDArray[np.intp],
from sklrp._devices import has_float64
    rng: np.random.Generator,
from sklrp._devices import has_float64
    n_draws: int | None = None,
from sklrp._devices import has_float64
    progress: bool = False,
from sklrp._devices import has_float64
) -> Contributions:
from sklrp._devices import has_float64
    r"""Return the contributions of groups of cells by replacing one group after the other.
from sklrp._devices import has_float64

from sklrp._devices import has_float64
    For a model that has no gradient: Shapley values by sampled orders. On the way from a sample to
from sklrp._devices import has_float64
    a baseline the groups take their values of the baseline one by one, in random order; what the
from sklrp._devices import has_float64
    score loses at its turn is a group's contribution. They sum to f(x) - f(b) for every pair.
from sklrp._devices import has_float64

from sklrp._devices import has_float64
    Parameters
from sklrp._devices import has_float64
    ----------
from sklrp._devices import has_float64
    scores : callable
from sklrp._devices import has_float64
        Returns the scores, (n, n_outputs), of samples.
from sklrp._devices import has_float64
    samples, baselines : ndarray of shape (n, ...)
from sklrp._devices import has_float64
        The samples, and what they are compared with.
from sklrp._devices import has_float64
    combine : ndarray of shape (n_combinations, n_outputs)
from sklrp._devices import has_float64
        The combinations of outputs.
from sklrp._devices import has_float64
    codes : ndarray of shape (n_cells,)
from sklrp._devices import has_float64
        The group of each cell, from 0.
from sklrp._devices import has_float64
    rng : numpy.random.Generator
from sklrp._devices import has_float64
        What draws are made from.
from sklrp._devices import has_float64
    n_draws : int or None, default=None
from sklrp._devices import has_float64
        Orders for each sample, at least 2; None as in `expected_gradients`.
from sklrp._devices import has_float64
    progress : bool, default=False
from sklrp._devices import has_float64
        Whether to show a progress bar.
from sklrp._devices import has_float64

from sklrp._devices import has_float64
    Returns
from sklrp._devices import has_float64
    -------
from sklrp._devices import has_float64
    Contributions
from sklrp._devices import has_float64
        Contributions of groups, (n_samples, n_groups), for each combination.
from sklrp._devices import has_float64

from sklrp._devices import has_float64
    References
from sklrp._devices import has_float64
    ----------
from sklrp._devices import has_float64
    E. Strumbelj, I. Kononenko, "Explaining prediction models and individual predictions with
from sklrp._devices import has_float64
    feature contributions", Knowl. Inf. Syst. 41, 2014, algorithm 1.
from sklrp._devices import has_float64
    """
from sklrp._devices import has_float64
    n, n_groups = len(samples), int(codes.max()) + 1
from sklrp._devices import has_float64
    flat, pool = samples.reshape(n, -1), baselines.reshape(len(baselines), -1)
from sklrp._devices import has_float64

from sklrp._devices import has_float64
    def compute(rows: NDArray) -> NDArray:
from sklrp._devices import has_float64
        return scores(rows.reshape(-1, *samples.shape[1:])) @ combine.T
from sklrp._devices import has_float64

from sklrp._devices import has_float64
    own = compute(flat)
from sklrp._devices import has_float64
    usual = compute(pool).mean(axis=0)
from sklrp._devices import has_float64
    n_chunks = min(n_groups, -(-flat.size * n_groups // _STATES_VALUES))  # several turns in a call
from sklrp._devices import has_float64
    halves = np.zeros((2, len(combine), n, n_groups))
from sklrp._devices import has_float64
    done, wanted = 0, n_draws or _FIRST_DRAWS
from sklrp._devices import has_float64
    with tqdm(total=wanted, unit="draw", desc="skill_map", disable=not progress) as bar:
from sklrp._devices import has_float64
        while True:
from sklrp._devices import has_float64
            for draw in range(done, wanted):
from sklrp._devices import has_float64
                b = pool[rng.integers(len(pool), size=n)]
from sklrp._devices import has_float64
                orders = rng.permuted(np.tile(np.arange(n_groups), (n, 1)), axis=1)
from sklrp._devices import has_float64
                ranks = np.argsort(orders, axis=1)[:, codes]
from sklrp._devices import has_float64
                before = own
from sklrp._devices import has_float64
                for turns in np.array_split(np.arange(n_groups), n_chunks):
from sklrp._devices import has_float64
                    states = np.where(ranks[None] <= turns[:, None, None], b, flat)
from sklrp._devices import has_float64
                    after = compute(states.reshape(-1, flat.shape[1])).reshape(len(turns), n, -1)
from sklrp._devices import has_float64
                    lost = np.concatenate([before[None], after[:-1]]) - after
from sklrp._devices import has_float64
                    for turn, loss in zip(turns, lost, strict=True):
from sklrp._devices import has_float64
                        halves[(draw + 1) % 2][:, np.arange(n), orders[:, turn]] += loss.T
from sklrp._devices import has_float64
                    before = after[-1]
from sklrp._devices import has_float64
                bar.update()
from sklrp._devices import has_float64
            done = wanted
from sklrp._devices import has_float64
            tensors = [[torch.from_numpy(part) for part in half] for half in halves]
from sklrp._devices import has_float64
            noise = _share_of_draws(tensors, done)
from sklrp._devices import has_float64
            if n_draws is not None or noise < _LITTLE_NOISE_OF_ORDERS or done >= _MOST_DRAWS:
from sklrp._devices import has_float64
                break
from sklrp._devices import has_float64
            wanted = min(_next_draws(done, noise, _LITTLE_NOISE_OF_ORDERS), _MOST_DRAWS)
from sklrp._devices import has_float64
            bar.total = wanted
from sklrp._devices import has_float64
    phi = list(halves.sum(axis=0) / done)
from sklrp._devices import has_float64
    sums = np.stack([p.sum(axis=1) for p in phi], axis=1)
from sklrp._devices import has_float64
    spread = np.maximum(own.std(axis=0), np.finfo(float).tiny)
from sklrp._devices import has_float64
    residual = float((np.abs(sums - (own - usual)) / spread).mean())
from sklrp._devices import has_float64
    return Contributions(phi, residual, noise, done)
