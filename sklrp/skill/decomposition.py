"""Decompose a model's skill on samples that it never saw over cells, and test every cell.

`skill_map` shows the outcome as a finding; `artifact_map`, `diagnose` and the scorer
``"skill_mass"`` grade maps of relevance against it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sklrp._checks import sort_values
from sklrp._devices import to_host
from sklrp._kept import Kept
from sklrp._matching import match_samples
from sklrp._missing import as_plain_array, find_missing
from sklrp._model_parts import Model
from sklrp._sample_times import SampleTimes, dates_along, find_times
from sklrp._stored import make_zeros, take_blocks
from sklrp._streams import Streams
from sklrp.skill.asked_models import (
    PlainModel,
    as_given,
    ask_outputs,
    check_repeats,
    code_groups,
    contributions_of,
    differs,
    is_asked_by_groups,
    take_samples,
)
from sklrp.skill.baselines import find_baselines, warn_of_neighbours
from sklrp.skill.clusters import ClusterTest, Neighbours
from sklrp.skill.contributions import Contributions
from sklrp.skill.exchanges import check_groups_and_blocks, check_units, find_exchange
from sklrp.skill.misleading import confirm_harm, most_candidates
from sklrp.skill.permutations import CellTest, Exchange, permutation_test
from sklrp.skill.questions import Question, check_truth, question_of

# min_share="auto": of many samples a cell of a thousandth of the skill is significant, and paths
# from a baseline lead over places where there are no data, which alone can make so much.
_OF_EVEN, _OF_LARGEST = 0.1, 0.05

_MUCH_IS_MISSING, _MUCH_NOISE = 0.5, 0.2
_FEW_OF_A_CLASS = 12  # of which the spread within it is badly known

_POWER = 0.84  # standard errors above the threshold where four of five such cells are found


@dataclass(frozen=True)
class Decomposition:
    """The skill of a model, cell by cell.

    Attributes
    ----------
    cells : dict of str to ndarray of shape ([n_outputs,] *sample_shape)
        ``skill``, ``z``, ``p_value``, ``q_value``, ``true``, ``misleading``, ``true_fdr``,
        ``detectable`` and ``use``, as `skill_map` documents them.
    total, error, p_value : float
        The skill as a whole, its standard error and its p-value; of several outputs the sum, the
        error as if they were independent, and the p-value of any, for the family of them.
    exchange : Exchange
        What was permuted.
    completeness : float
        The mean residual of contributions, as a share of the scores' spread.
    noise : float
        The share of the variance of contributions that comes from the draws.
    n_draws : int
        How many draws each sample had.
    assumptions : list of str
        What the test takes for granted.
    regions : dict of str to ndarray or None
        Names, skills, errors, z and p-values of regions, if any were given.
    clusters : dict of str to ndarray or None
        Labels, masses, sizes and p-values of clusters, where cells have neighbours.
    rows : ndarray of shape (n_unseen,)
        Which samples were used: those that are not among the training samples.
    with_data : ndarray of bool of shape (*sample_shape,)
        Where samples or baselines differ: not on land, nor where all is masked.
    weigh : callable
        Tests weighted sums of cells, whose weights, (n_cells, n_sums), know nothing of the labels.
    """

    cells: dict[str, NDArray]
    total: float
    error: float
    p_value: float
    exchange: Exchange
    completeness: float
    noise: float
    n_draws: int
    assumptions: list[str]
    regions: dict[str, NDArray] | None
    clusters: dict[str, NDArray] | None
    rows: NDArray[np.intp]
    with_data: NDArray[np.bool_]
    weigh: Callable[[NDArray], CellTest] = field(repr=False)


@torch.inference_mode(False)  # a caller's, whose tensors have no gradient
def decompose_skill(
    model: Model | PlainModel,
    X: Any,
    y: Any,
    streams: Streams,
    *,
    X_train: Any = None,
    baseline: Any = None,
    groups: Any = None,
    block_length: int | str = "auto",
    alpha: float = 0.05,
    n_permutations: int = 999,
    n_draws: int | str = "auto",
    min_share: float | str = "auto",
    regions: Any = None,
    target: Any = None,
    n_jobs: int | None = None,
    progress: bool = False,
    neighbours: Neighbours | None = None,
    kept: Kept | None = None,
) -> Decomposition:
    """Return the skill of every cell, with its tests.

    Parameters
    ----------
    model : Model or PlainModel
        The model, taken apart.
    X, y : array-like
        Held-out samples, as the model takes them, and their truth.
    streams : Streams
        What draws and permutations are made from.
    X_train, baseline, groups, block_length, alpha, n_permutations, n_draws, min_share : optional
        As in `skill_map`.
    regions, target, n_jobs, progress : optional
        As in `skill_map`.
    neighbours : Neighbours or None, default=None
        Which cells are neighbours; None tests no clusters.
    kept : Kept or None, default=None
        What keeps contributions and tests, so that they can be resumed. None: nothing does.

    Returns
    -------
    Decomposition
        Skills and tests, in the shape of what enters the network.
    """
    _check_alpha(alpha, n_permutations)
    kept = kept or Kept()
    assumptions: list[str] = []
    entering = model.enter(X)
    held = _hold_out(model, X, entering, y, X_train, baseline, groups, block_length, assumptions)
    samples = held.samples
    areas = None if regions is None else _take_regions(regions, samples.shape[1:])
    of_cell = None  # the group of each cell, where a model has no gradient
    if is_asked_by_groups(model, samples):
        of_cell = code_groups(model.name, samples, None if areas is None else areas.codes)
    one = as_given(model, entering, samples)
    question = question_of(model, one, held.labels, to_host(target))
    if question.said:
        assumptions.append(question.said)
    draws = None if n_draws == "auto" else int(n_draws)
    rng = streams.rng("skill_map draws")
    found = contributions_of(
        model, samples, held.pool, question, of_cell, rng, draws, n_jobs, progress, kept
    )
    _say_noise(found, assumptions)
    _say_rare(question, assumptions)
    times = None if groups is not None else _find_times(model, X, y, held.rows)
    exchange = find_exchange(held.groups, block_length, question, found.phi, assumptions, times)
    own, known = (dates_along(samples, model.sample_dim) for samples in (X, X_train))
    warn_of_neighbours(None if own is None else own[held.rows], known, exchange, assumptions)
    check_units(exchange, alpha, block_length == "auto", times is not None)
    test = _Test(question, found.phi, exchange, of_cell, streams, n_permutations)
    cells, near = _test_cells(test, neighbours, progress, kept)
    varies = differs(samples)
    with_data = varies | differs(held.pool)
    n_cells = math.prod(question.lead) * int(with_data.sum())
    arrays = {**_judge_cells(cells, varies, alpha, min_share, n_cells), "use": test.use()}
    arrays["misleading"] = _confirm(arrays, test, model, held, alpha, assumptions, kept)
    shape = (*question.lead, *samples.shape[1:])
    whole = test.weigh(np.ones((test.n_cells, 1)))
    return Decomposition(
        cells={name: values.reshape(shape) for name, values in arrays.items()},
        total=float(cells.skill.sum()),
        error=float(np.linalg.norm(whole.error)),
        p_value=float(whole.p_value.min()),
        exchange=exchange,
        completeness=found.completeness,
        noise=found.noise,
        n_draws=found.n_draws,
        assumptions=assumptions,
        regions=None if areas is None else _test_regions(test, areas),
        clusters=None if near is None else near.result(shape),
        rows=held.rows,
        with_data=with_data,
        weigh=test.weigh_cells,
    )


class _Held(NamedTuple):
    """Samples that were not trained on, and what goes with them."""

    samples: NDArray
    labels: NDArray
    groups: Any
    pool: NDArray  # the baselines
    rows: NDArray[np.intp]  # which samples of X they are


def _hold_out(
    model: Any,
    X: Any,
    entering: Any,
    y: Any,
    X_train: Any,
    baseline: Any,
    groups: Any,
    block_length: int | str,
    assumptions: list[str],
) -> _Held:
    """Return the samples that the model was not trained on."""
    samples = take_samples(model, entering)
    check_repeats(model, samples)
    pool, rows = find_baselines(model, samples, X_train, baseline, assumptions)
    labels = check_truth(match_samples(y, X, "y"), len(samples))
    groups = match_samples(groups, X, "groups")
    check_groups_and_blocks(groups, block_length, len(samples))
    if len(rows) < len(samples):
        samples, labels = _keep_rows(samples, rows), labels[rows]
        groups = None if groups is None else as_plain_array(groups, "groups")[rows]
    return _Held(samples, labels, groups, pool, rows)


def _find_times(model: Any, X: Any, y: Any, rows: NDArray[np.intp]) -> SampleTimes | None:
    """Return when samples were, if X or its labels say so."""
    found = find_times(X, model.sample_dim) or find_times(y)
    return None if found is None else found.take(rows)


def _keep_rows(samples: NDArray, rows: NDArray[np.intp]) -> NDArray:
    """Return some of the samples; many are put into a temporary file."""
    if samples.dtype == object:
        return samples[rows]
    found = make_zeros((len(rows), *samples.shape[1:]), samples.dtype)
    for place, _ in take_blocks(found):
        found[place] = samples[rows[place]]
    return found


@dataclass(frozen=True)
class _Test:
    """Contributions to a question, and the tests of cells and of sums of cells."""

    question: Question
    phi: list[NDArray]
    exchange: Exchange
    of_cell: NDArray[np.intp] | None
    streams: Streams
    n_permutations: int

    @property
    def n_cells(self) -> int:
        """The number of cells, or of groups of them, that contribute."""
        return self.phi[0].shape[1]

    def cells(self, near: ClusterTest | None, progress: bool) -> CellTest:
        """Test cells one by one."""
        test = self._permute(self.phi, near, progress)
        return test if self.of_cell is None else _spread_over_cells(test, self.of_cell)

    def weigh_cells(self, weights: NDArray) -> CellTest:
        """Test weighted sums of cells, whose weights, (n_cells, n_sums), know no labels."""
        if self.of_cell is not None:  # a cell has its share of its group's
            sizes = np.bincount(self.of_cell)
            weights = (np.eye(len(sizes))[self.of_cell] / sizes).T @ weights
        return self.weigh(weights)

    def weigh(self, weights: NDArray) -> CellTest:
        """Test weighted sums of what contributes, cells or groups of them."""
        return self._permute([phi @ weights.astype(phi.dtype) for phi in self.phi])

    def use(self) -> NDArray[np.float64]:
        """Return the mean size of each cell's contributions, flat."""
        use = np.stack([_mean_size(phi) for phi in self.phi])  # (n_combinations, n_cells)
        use = use if self.question.lead else use.mean(axis=0, keepdims=True)
        if self.of_cell is not None:  # what a group has, its cells share
            use = (use / np.bincount(self.of_cell))[:, self.of_cell]
        return use.ravel()

    def _permute(
        self, phi: list[NDArray], near: ClusterTest | None = None, progress: bool = False
    ) -> CellTest:
        # The same orders each time: what a sum shows and what its cells show belong together.
        rng = self.streams.rng("skill_map permutations")
        scores = self.question.scores(phi)
        return permutation_test(scores, self.exchange, rng, self.n_permutations, near, progress)


def _test_cells(
    test: _Test, neighbours: Neighbours | None, progress: bool, kept: Kept
) -> tuple[CellTest, ClusterTest | None]:
    """Test cells one by one, and clusters of neighbours, or take what is kept of them."""
    near = None
    if neighbours is not None and test.of_cell is None:
        near = ClusterTest(neighbours, test.n_cells)
    what = ["permutations", test.n_permutations, test.exchange, near, *test.phi]
    found: tuple[CellTest, ClusterTest | None]
    found = kept.get(what, lambda: (test.cells(near, progress), near))
    return found


def _mean_size(phi: NDArray) -> NDArray[np.float64]:
    """Return the mean absolute contribution of each cell, with no copy of all of them."""
    total = np.zeros(phi.shape[1])
    for _, part in take_blocks(phi):
        total += np.abs(part).sum(axis=0, dtype=np.float64)
    return total / len(phi)


def _say_noise(found: Contributions, assumptions: list[str]) -> None:
    """Say what few draws cost, where it is much: the test stays right, but finds less."""
    if found.noise > _MUCH_NOISE:
        assumptions.append(
            f"{found.n_draws} draws make {found.noise:.0%} of the variance of contributions, so "
            "that cells are harder to find: a larger n_draws finds more"
        )
    if found.completeness > _MUCH_IS_MISSING:
        assumptions.append(
            f"contributions miss the scores by {found.completeness:.0%} of their spread: raise "
            "n_draws, unless a step of the network has no slope"
        )


def _say_rare(question: Question, assumptions: list[str]) -> None:
    """Say where a rare class has too few samples to know how much contributions spread in it."""
    if question.shares is None:
        return
    counts = np.bincount(question.truth)
    least = counts[counts > 0].min()
    # Among classes of one size permuted labels have the right spread, however few they are.
    if least <= _FEW_OF_A_CLASS and counts.max() >= 2 * least:
        assumptions.append(
            f"contributions spread alike in all classes: {least} samples of the rarest tell "
            "little of their spread, and p-values are too small where theirs is larger"
        )


def _confirm(
    arrays: dict[str, NDArray],
    test: _Test,
    model: Any,
    held: _Held,
    alpha: float,
    assumptions: list[str],
    kept: Kept,
) -> NDArray[np.bool_]:
    """Return which of the cells that speak against the truth do harm, flat."""
    samples, units = held.samples, test.exchange.units
    n_cells = math.prod(samples.shape[1:])
    own = np.arange(n_cells) if test.of_cell is None else test.of_cell
    against = np.flatnonzero(arrays["misleading"])
    against = against[np.argsort(arrays["skill"][against], kind="stable")]
    pairs = dict.fromkeys((int(k // n_cells), int(own[k % n_cells])) for k in against)
    candidates = [(which, np.flatnonzero(own == group)) for which, group in pairs]
    harm = kept.get(
        ["harm", samples, units, alpha, *map(np.asarray, pairs)],
        lambda: confirm_harm(
            candidates,
            ask_outputs(model, samples, test.question),
            samples,
            held.pool,
            test.question,
            units,
            alpha,
            test.streams.rng("skill_map replacement"),
        ),
    )
    most = most_candidates(samples)
    if len(candidates) > most:
        assumptions.append(
            f"of {len(candidates)} cells that speak against the truth the {most} largest were "
            "asked whether they do harm; the others are not called misleading"
        )
    found = np.zeros((len(arrays["skill"]) // n_cells, n_cells), dtype=bool)
    for (which, cells), is_harm in zip(candidates, harm, strict=True):
        found[which, cells] = is_harm
    return found.ravel()


def _judge_cells(
    cells: CellTest,
    varies: NDArray[np.bool_],
    alpha: float,
    min_share: float | str,
    n_cells: int,
) -> dict[str, NDArray]:
    """Return what is said of each cell, by its p-values and its share of the skill."""
    # A cell of one value in all samples says nothing: what it adds is read through other cells.
    speaks = np.resize(varies.ravel(), cells.skill.shape)
    # `n_cells` is the number of those with data: land has no part in the even share.
    size = np.abs(cells.skill)
    total = max(abs(cells.skill.sum()), np.finfo(float).tiny)
    if min_share == "auto":
        enough = max(_OF_EVEN / max(n_cells, 1) * total, _OF_LARGEST * size.max())
    else:
        enough = float(min_share) * total
    by_p = speaks & (cells.p_value <= alpha) & (size >= enough)
    by_q = speaks & (cells.q_value <= alpha) & (size >= enough)
    threshold = float(np.quantile(cells.largest, 1 - alpha))
    return {
        "skill": cells.skill,
        "z": cells.z,
        "p_value": cells.p_value,
        "q_value": cells.q_value,
        "true": by_p & (cells.skill > 0),
        "misleading": by_p & (cells.skill < 0),
        "true_fdr": by_q & (cells.skill > 0),
        "detectable": (threshold + _POWER) * cells.error,
    }


def _check_alpha(alpha: float, n_permutations: int) -> None:
    if alpha * (1 + n_permutations) < 1 - 1e-9:
        raise ValueError(
            f"alpha={alpha:g} is below the smallest p-value of n_permutations={n_permutations}, "
            f"{1 / (1 + n_permutations):.2g}: give n_permutations={math.ceil(1 / alpha) - 1} or "
            "more."
        )


def _spread_over_cells(test: CellTest, codes: NDArray[np.intp]) -> CellTest:
    """Return the test of groups as one of cells: a group's skill is shared by its cells."""
    sizes = np.bincount(codes)
    lead = len(test.skill) // len(sizes)

    def spread(values: NDArray) -> NDArray:
        return values.reshape(lead, -1)[:, codes].ravel()

    share = np.tile(sizes, lead)
    return CellTest(
        spread(test.skill / share),
        spread(test.error / share),
        spread(test.z),
        spread(test.p_value),
        spread(test.q_value),
        test.largest,
    )


class _Regions(NamedTuple):
    """Names of regions, and the region of each cell; the last number is that of cells in none."""

    names: NDArray
    codes: NDArray[np.intp]


def _take_regions(regions: Any, sample_shape: tuple[int, ...]) -> _Regions:
    """Return the region of each cell: None and NaN are cells of no region, such as land."""
    labels = as_plain_array(regions, "regions")
    if labels.shape != sample_shape and labels.shape != (math.prod(sample_shape),):
        raise ValueError(
            f"regions has the shape {labels.shape}, but must have that of a sample that enters "
            f"the network, {sample_shape}."
        )
    known = ~find_missing(labels.ravel())
    if not known.any():
        raise ValueError("regions names no cell: all of its values are missing.")
    names, own = sort_values(labels.ravel()[known], "regions")
    codes = np.full(len(known), len(names), dtype=np.intp)
    codes[known] = own.ravel()
    return _Regions(names, codes)


def _test_regions(test: _Test, areas: _Regions) -> dict[str, NDArray]:
    """Test the skill of regions, the sums of their cells."""
    names, codes = areas
    if test.of_cell is not None:  # they are what was asked, one by one
        codes = np.arange(test.n_cells)
    named = codes < len(names)
    member = np.zeros((test.n_cells, len(names)))
    member[np.flatnonzero(named), codes[named]] = 1
    found = test.weigh(member)
    return {
        "name": np.tile(names, max(1, math.prod(test.question.lead))),
        "skill": found.skill,
        "error": found.error,
        "z": found.z,
        "p_value": found.p_value,
    }
