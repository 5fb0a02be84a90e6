"""Contributions of cells to the scores of a network, against draws of the training data.

`skill_map` tests them. They need nothing of the engine of relevance: any torch network that has a
gradient will do, and for a model without one `occlude` replaces groups of cells by turns.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.std import tqdm

from sklrp._devices import has_float64, keep_freed_memory
from sklrp._kept import Kept
from sklrp._stored import Pages, make_zeros, take_blocks
from sklrp._workers import run_on_workers

_CHUNK_VALUES = 2**18  # values of the input in one pass: what follows stays in a cache
_BLOCK_VALUES = 2**20  # that a worker goes through in one call, and that are kept as one
_STATES_VALUES = 2**22  # values of replaced samples in one call of a model
_FIRST_DRAWS, _MOST_DRAWS = 8, 256
_MOST_VALUES = 2**28  # of all draws of all samples: half a minute or so for a small CNN
_FEWEST_STEADIED = 4  # draws, of which a covariance is worth having
_MOST_BYTES = 2**32  # of contributions, of which the test makes a copy
_WATCHED_CELLS, _FEWEST_WATCHED, _WATCHED_VALUES = 1024, 16, 2**22
# The share of draws in the variance of contributions that is little, of gradients and of orders.
_LITTLE_NOISE, _LITTLE_NOISE_OF_ORDERS = 0.05, 0.1


class Contributions:
    r"""Expected gradients of combinations of a network's outputs.

    .. math:: \phi_i = \mathbb{E}_{b, a} \; (x_i - b_i) \,
              \frac{\partial f}{\partial x_i}(b + a (x - b)),

    b drawn from the baselines, a uniform on (0, 1). They sum to f(x) less the mean of f over the
    baselines, but for what few draws leave: the residual. Most of what draws of b leave is linear
    in b, and its mean is known, so that it is a control variate: with g the gradient,

    .. math:: \phi_i = (x_i - \mathbb{E} b_i) \, \mathbb{E} g_i - \mathrm{cov}(b_i, g_i),

    of which draws are asked for the mean gradient and the covariance only.

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


class TensorRows:
    """Samples in an array, of which tensors are made row by row as they are needed.

    Parameters
    ----------
    values : ndarray of shape (n_samples, ...)
        The samples.
    dtype : torch.dtype or None
        The dtype of the tensors; None is that of the array.
    device : torch.device
        Their device.
    """

    def __init__(self, values: NDArray, dtype: torch.dtype | None, device: torch.device) -> None:
        self._values, self._dtype, self.device = values, dtype, device
        self.shape = values.shape
        self.dtype = self[:1].dtype

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, rows: Any) -> Tensor:
        rows = rows.cpu().numpy() if isinstance(rows, Tensor) else rows
        tensor = torch.from_numpy(np.array(self._values[rows]))
        return (
            tensor.to(self.device) if self._dtype is None else tensor.to(self.device, self._dtype)
        )

    def mean(self, dim: int, dtype: torch.dtype) -> Tensor:
        """Return the mean over the samples."""
        total = torch.zeros(self.shape[1:], dtype=dtype, device=self.device)
        for rows, _ in take_blocks(self._values):
            total += self[rows].sum(dim=dim, dtype=dtype)
        return total / len(self)


def expected_gradients(
    module: nn.Module,
    samples: Any,
    baselines: Any,
    combine: NDArray[np.float64],
    rng: np.random.Generator,
    n_draws: int | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
    n_jobs: int | None = None,
    progress: bool = False,
    kept: Kept | None = None,
) -> Contributions:
    """Return the contributions of cells to linear combinations of a network's outputs.

    Parameters
    ----------
    module : nn.Module
        The network, in evaluation mode; it is not changed.
    samples : Tensor or TensorRows of shape (n_samples, ...)
        What enters it.
    baselines : Tensor or TensorRows of shape (n_baselines, ...)
        What samples are compared with.
    combine : ndarray of shape (n_combinations, n_outputs) or (1, n_samples, n_outputs)
        The combinations of outputs; or one combination, which each sample has its own of.
    rng : numpy.random.Generator
        What draws are made from.
    n_draws : int or None, default=None
        Draws for each sample, at least 2; None adds to them until they hardly add to the variance
        of contributions, or would take long.
    transform : callable or None, default=None
        What makes scores, (n, n_outputs), of what the network returns; None flattens it.
    n_jobs : int or None, default=None
        Number of joblib's workers that share the samples, threads unless `joblib.parallel_config`
        says otherwise; what is returned does not depend on it.
    progress : bool, default=False
        Whether to show a progress bar.
    kept : Kept or None, default=None
        What keeps contributions, so that they can be resumed. None: nothing does.

    Returns
    -------
    Contributions
        Contributions and their residual.
    """
    n, n_cells = len(samples), max(1, math.prod(samples.shape[1:]))
    dtype = _summed_in(samples)
    weights = torch.as_tensor(combine, dtype=dtype, device=samples.device)
    own = all_outputs(module, samples, transform)
    usual = all_outputs(module, baselines, transform).mean(dim=0).expand_as(own)
    if not (torch.isfinite(own).all() and torch.isfinite(usual).all()):
        raise ValueError(
            "the network gives NaN or infinite scores of these samples: look for values that are "
            "far from what it was trained on, or train it again."
        )
    scores = _combined(own, weights)
    _check_memory(n * n_cells * len(combine) * dtype.itemsize, len(combine))
    wide = torch.float64 if has_float64(baselines.device) else dtype
    centre = baselines.mean(dim=0, dtype=wide).to(dtype)
    spread = scores.std(dim=0).clamp_min(torch.finfo(dtype).tiny)
    places = [_make_place(n, n_cells, dtype, samples.device) for _ in combine]
    phi = [tensor for tensor, _ in places]
    # Two halves of the draws: how far they differ tells how much of the variance is the draws'.
    # A thousand cells tell it, fewer of many samples: halves of all take twice the memory.
    watched = min(_WATCHED_CELLS, max(_FEWEST_WATCHED, _WATCHED_VALUES // n))
    some = slice(None, None, max(1, n_cells // watched))
    halves = [[torch.zeros_like(p[:, some]) for p in phi] for _ in range(2)]
    asked = _Asked(module, samples, baselines, centre, weights, transform, kept or Kept())
    done, wanted = 0, n_draws or _FIRST_DRAWS
    most = _most_draws(n * n_cells, len(phi))
    with tqdm(total=n * wanted, unit="draw", desc="skill_map", disable=not progress) as bar:
        while True:
            pairs = _draw_pairs(rng, n, len(baselines), wanted - done)
            for half, draws in zip(halves, pairs, strict=True):
                before = [p[:, some].clone() for p in phi]
                _accumulate(asked, draws, places, n_jobs, bar)
                for mine, p, old in zip(half, phi, before, strict=True):
                    mine += p[:, some] - old
            done = wanted
            noise = _share_of_draws(halves, done)
            if n_draws is not None or noise < _LITTLE_NOISE or done >= most:
                break
            wanted = min(_next_draws(done, noise, _LITTLE_NOISE), most)
            bar.total = n * wanted
    pages = _pages_of(places)
    for p in phi:
        p /= done
        pages.let_go()
    sums = torch.stack([p.sum(dim=1) for p in phi], dim=1)
    residual = ((sums - _combined(own - usual, weights)).abs() / spread).mean().item()
    found = [tensor.cpu().numpy() if array is None else array for tensor, array in places]
    return Contributions(found, residual, noise, done)


def _make_place(
    n: int, n_cells: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, NDArray | None]:
    """Return a tensor of zeros, and the array below it: on the CPU a large one is in a file."""
    if device.type != "cpu":
        return torch.zeros(n, n_cells, dtype=dtype, device=device), None
    array = make_zeros((n, n_cells), np.float64 if dtype == torch.float64 else np.float32)
    return torch.from_numpy(array), array


def _pages_of(places: list[tuple[Tensor, NDArray | None]]) -> Pages:
    """Return the pages of contributions, where they are in files."""
    return Pages(*(array for _, array in places if array is not None))


def _check_memory(n_bytes: int, n_combinations: int) -> None:
    """Raise an error if contributions take more memory than they should."""
    if n_bytes > _MOST_BYTES:
        raise ValueError(
            f"the contributions to {n_combinations} outputs would take {n_bytes / 2**30:.1f} GiB: "
            "give target, one class or output, or fewer samples."
        )


def _summed_in(samples: Any) -> torch.dtype:
    """Return the dtype of sums: half precision is too coarse for them."""
    return torch.promote_types(samples.dtype, torch.float32)


def _most_draws(n_values: int, n_combinations: int) -> int:
    """Return how many draws a sample may have, for the time that they take."""
    # A pass forward takes about as long as one back, of which each combination has its own.
    affordable = _MOST_VALUES // ((1 + n_combinations) * n_values) * 2  # two halves
    return min(max(affordable, _FIRST_DRAWS), _MOST_DRAWS)


def _next_draws(done: int, noise: float, little: float) -> int:
    """Return how many draws will do, from what so many have left: at most twice as many."""
    needed = done * noise * (1 - little) / (little * max(1 - noise, little))
    return min(2 * done, 2 * math.ceil(0.55 * needed) + 2)


def _share_of_draws(halves: list[list[Tensor]], n_draws: int) -> float:
    """Return which share of the variance over samples comes from the draws."""
    own = total = 0.0
    for one, other in zip(*halves, strict=True):
        n_one, n_other = n_draws // 2, (n_draws + 1) // 2
        own += ((one / n_one - other / n_other) ** 2).mean().item() / 4
        total += ((one + other) / n_draws).var(dim=0).mean().item()
    return own / total if total > 0 else 0.0


@dataclass(frozen=True)
class _Draws:
    """Draws of each sample, (n, n_draws), and the share of a covariance that they have."""

    baselines: NDArray[np.intp]
    places: NDArray[np.float64]
    share: float

    def of(self, rows: slice) -> _Draws:
        """Return the draws of some samples."""
        return _Draws(self.baselines[rows], self.places[rows], self.share)


@dataclass(frozen=True)
class _Asked:
    """What all blocks of samples have in common, which travels to workers once."""

    module: nn.Module
    samples: Any
    baselines: Any
    centre: Tensor
    weights: Tensor
    transform: Callable[[Tensor], Tensor] | None
    kept: Kept

    @property
    def n_cells(self) -> int:
        """How many cells a sample has."""
        return max(1, math.prod(self.samples.shape[1:]))


def _accumulate(
    asked: _Asked,
    draws: _Draws,
    places: list[tuple[Tensor, NDArray | None]],
    n_jobs: int | None,
    bar: tqdm,
) -> None:
    """Add the contributions of more draws to the totals."""
    n, n_draws = draws.baselines.shape
    per_chunk = max(1, _CHUNK_VALUES // asked.n_cells // n_draws)
    # Blocks do not depend on the number of workers, so that another number finds them too.
    per_block = per_chunk * max(1, _BLOCK_VALUES // _CHUNK_VALUES)
    blocks = [slice(first, min(first + per_block, n)) for first in range(0, n, per_block)]
    calls = ((rows, draws.of(rows), per_chunk) for rows in blocks)
    done = run_on_workers(_block_or_recall, asked, calls, n_jobs, prefer="threads")
    pages = _pages_of(places)
    for rows, parts in zip(blocks, done, strict=True):
        for (total, _), part in zip(places, parts, strict=True):
            total[rows] += torch.from_numpy(part).to(total)
            pages.note(part.nbytes)
        bar.update((rows.stop - rows.start) * n_draws)


def _block_or_recall(
    asked: _Asked, rows: slice, draws: _Draws, per_chunk: int
) -> list[NDArray[np.floating]]:
    """Return the contributions of a block of samples, kept if any are."""
    if not asked.kept.keeps:
        return _contribute(asked, rows, draws, per_chunk)
    weights = asked.weights if asked.weights.dim() == 2 else asked.weights[:, rows]
    what = [asked.samples[rows], weights, draws.baselines, draws.places, draws.share]
    return asked.kept.get(
        ["contributions", *what], lambda: _contribute(asked, rows, draws, per_chunk)
    )


def _contribute(
    asked: _Asked, rows: slice, draws: _Draws, per_chunk: int
) -> list[NDArray[np.floating]]:
    """Return the contributions of a block of samples, summed over their draws, chunk by chunk."""
    if asked.samples.device.type == "cpu":
        keep_freed_memory()
    chunks = []
    for first in range(rows.start, rows.stop, per_chunk):
        chunk = slice(first, min(first + per_chunk, rows.stop))
        own = draws.of(slice(chunk.start - rows.start, chunk.stop - rows.start))
        chunks.append(_contribute_chunk(asked, chunk, own))
    return [torch.cat(parts).cpu().numpy() for parts in zip(*chunks, strict=True)]


def _contribute_chunk(asked: _Asked, rows: slice, draws: _Draws) -> list[Tensor]:
    """Return the contributions of some samples, for each combination of outputs."""
    n_draws = draws.baselines.shape[1]
    most = max(1, _CHUNK_VALUES // asked.n_cells)  # draws of a sample in one pass
    n_together = math.ceil(n_draws / math.ceil(n_draws / most))  # the last pass may have fewer
    parts = [
        _sum_draws(asked, rows, draws, slice(first, first + n_together))
        for first in range(0, n_draws, n_together)
    ]
    way = sum(part[0] for part in parts) / n_draws
    dtype = _summed_in(asked.samples)
    away = asked.samples[rows].reshape(-1, asked.n_cells).to(dtype) - asked.centre.reshape(-1)
    found = []
    for k in range(len(parts[0][1])):
        added = sum(part[1][k] for part in parts)
        if n_draws >= _FEWEST_STEADIED:
            slope = sum(part[2][k] for part in parts)
            added = away * slope - (way * slope - added) / draws.share
        found.append(torch.as_tensor(added))
    return found


def _sum_draws(
    asked: _Asked, rows: slice, draws: _Draws, part: slice
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return the ways to baselines, gradients along them and gradients, summed over draws."""
    b = draws.baselines[:, part]
    count = b.shape[1]
    samples, weights = asked.samples, asked.weights
    x = samples[rows].repeat_interleave(count, dim=0)
    base = asked.baselines[torch.as_tensor(b.ravel(), device=samples.device)]
    a = torch.as_tensor(draws.places[:, part].ravel()).to(x)
    way = x - base
    point = (base + a.reshape(-1, *(1,) * (x.dim() - 1)) * way).requires_grad_()

    def add_up(values: Tensor) -> Tensor:
        return values.reshape(-1, count, asked.n_cells).sum(dim=1, dtype=_summed_in(samples))

    slopes, added = [], []
    with torch.inference_mode(False), torch.enable_grad():
        outputs = _outputs(asked.module(point.clone()), asked.transform)  # some write into it
        for k in range(len(weights)):
            weight = weights[k]
            if weights.dim() == 3:
                weight = weight[rows].repeat_interleave(count, dim=0)
            (gradient,) = torch.autograd.grad(
                (outputs * weight).sum(), point, retain_graph=k + 1 < len(weights)
            )
            added.append(add_up(gradient * way))
            if draws.baselines.shape[1] >= _FEWEST_STEADIED:
                slopes.append(add_up(gradient))
    return add_up(way), added, slopes


def _draw_pairs(rng: np.random.Generator, n: int, n_baselines: int, n_draws: int) -> list[_Draws]:
    """Return two halves of draws: baselines that each sample meets, and places on the way."""
    # Every sample meets as many different baselines, and its places on the way are spread evenly:
    # both make the mean of few draws a better one.
    chosen = np.stack([_spread_out(rng, n_baselines, n_draws) for _ in range(n)])
    order = np.stack([rng.permutation(n_draws) for _ in range(n)])
    places = (order + rng.random((n, 1))) / n_draws
    ends = [0, n_draws // 2, n_draws]
    return [
        _Draws(chosen[:, i:j], places[:, i:j], _share_of_covariance(n_baselines, i, j))
        for i, j in itertools.pairwise(ends)
    ]


def _share_of_covariance(n_baselines: int, first: int, last: int) -> float:
    """Return the mean covariance of those draws, as a share of it over all baselines."""
    # The mean of m of N without replacement has the variance (N - m) / (N - 1) / m; one that was
    # over all N has none. What lies between two turns over all is drawn without replacement.
    ends = [first, *range((first // n_baselines + 1) * n_baselines, last, n_baselines), last]
    pieces = np.diff(ends)
    varied = (pieces * (n_baselines - pieces)).sum() / max(n_baselines - 1, 1)
    return float(1 - varied / (last - first) ** 2)


def _spread_out(rng: np.random.Generator, n_baselines: int, n_draws: int) -> NDArray[np.intp]:
    """Return numbers of baselines, none of them twice before all were there once."""
    turns = -(-n_draws // n_baselines)
    if turns == 1:
        return rng.choice(n_baselines, n_draws, replace=False)
    return np.concatenate([rng.permutation(n_baselines) for _ in range(turns)])[:n_draws]


def all_outputs(
    module: nn.Module, samples: Any, transform: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Return a network's scores, (n_samples, n_outputs), in as many passes as memory wants."""
    per_chunk = max(1, _CHUNK_VALUES // max(1, math.prod(samples.shape[1:])))
    dtype = _summed_in(samples)
    with torch.inference_mode(False), torch.no_grad():
        parts = [
            _outputs(module(samples[first : first + per_chunk].clone()), transform).to(dtype)
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
    progress: bool = False,
    n_jobs: int | None = None,
    kept: Kept | None = None,
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
    progress : bool, default=False
        Whether to show a progress bar.
    n_jobs, kept : optional
        As in `expected_gradients`.

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

    asked = _AskedByGroups(scores, samples, combine, codes, kept or Kept())
    own, usual = asked.compute(flat), asked.compute(pool).mean(axis=0)
    halves = np.zeros((2, len(combine), n, n_groups))
    done, wanted = 0, n_draws or _FIRST_DRAWS
    with tqdm(total=wanted, unit="draw", desc="skill_map", disable=not progress) as bar:
        while True:
            calls = (
                (
                    pool[rng.integers(len(pool), size=n)],
                    rng.permuted(np.tile(np.arange(n_groups), (n, 1)), axis=1),
                    own,
                )
                for _ in range(done, wanted)
            )
            turns = run_on_workers(_occlude_or_recall, asked, calls, n_jobs, prefer="threads")
            for draw, lost in zip(range(done, wanted), turns, strict=True):
                halves[(draw + 1) % 2] += lost
                bar.update()
            done = wanted
            tensors = [[torch.from_numpy(part) for part in half] for half in halves]
            noise = _share_of_draws(tensors, done)
            if n_draws is not None or noise < _LITTLE_NOISE_OF_ORDERS or done >= _MOST_DRAWS:
                break
            wanted = min(_next_draws(done, noise, _LITTLE_NOISE_OF_ORDERS), _MOST_DRAWS)
            bar.total = wanted
    phi = list(halves.sum(axis=0) / done)
    sums = np.stack([p.sum(axis=1) for p in phi], axis=1)
    spread = np.maximum(own.std(axis=0), np.finfo(float).tiny)
    residual = float((np.abs(sums - (own - usual)) / spread).mean())
    return Contributions(phi, residual, noise, done)


@dataclass(frozen=True)
class _AskedByGroups:
    """What all draws of orders have in common, which travels to workers once."""

    scores: Callable[[NDArray], NDArray]
    samples: NDArray
    combine: NDArray[np.float64]
    codes: NDArray[np.intp]
    kept: Kept

    def compute(self, rows: NDArray) -> NDArray:
        """Return the combinations of scores of samples whose cells stand in a row."""
        return self.scores(rows.reshape(-1, *self.samples.shape[1:])) @ self.combine.T


def _occlude_or_recall(
    asked: _AskedByGroups, b: NDArray, orders: NDArray[np.intp], own: NDArray
) -> NDArray[np.float64]:
    """Return what one draw of orders gives, kept if anything is."""
    what = [asked.samples, asked.combine, asked.codes, b, orders]
    return asked.kept.get(["occluded", *what], lambda: _occlude(asked, b, orders, own))


def _occlude(
    asked: _AskedByGroups, b: NDArray, orders: NDArray[np.intp], own: NDArray
) -> NDArray[np.float64]:
    """Return what scores lose as groups take values of `b`, (n_combinations, n, n_groups)."""
    n, n_groups = orders.shape
    flat = asked.samples.reshape(n, -1)
    n_chunks = min(n_groups, -(-flat.size * n_groups // _STATES_VALUES))  # several turns in a call
    found = np.zeros((len(asked.combine), n, n_groups))
    ranks = np.argsort(orders, axis=1)[:, asked.codes]
    before = own
    for turns in np.array_split(np.arange(n_groups), n_chunks):
        states = np.where(ranks[None] <= turns[:, None, None], b, flat)
        after = asked.compute(states.reshape(-1, flat.shape[1])).reshape(len(turns), n, -1)
        lost = np.concatenate([before[None], after[:-1]]) - after
        for turn, loss in zip(turns, lost, strict=True):
            found[:, np.arange(n), orders[:, turn]] = loss.T
        before = after[-1]
    return found
