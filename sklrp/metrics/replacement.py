"""Copies of samples with features replaced by a baseline, and the scores that they get.

`pixel_flipping_curve` replaces groups of features one after another, `faithfulness_correlation`
subsets of them. Copies of all samples go through the network together, in batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from numbers import Number
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklrp._checks import (
    as_samples,
    check_maps,
    check_reals,
    choose_batch_size,
    encode_labels,
    find_groups,
    like,
)
from sklrp._matching import match_target
from sklrp._missing import as_plain_array
from sklrp._numbers import is_real
from sklrp._wording import say_value
from sklrp.geo.places import put_in_order
from sklrp.metrics.subject import find_scores


class Replacement:
    """Samples, the relevance of their groups, and the scores of copies with replaced features."""

    def __init__(
        self,
        estimator: Any,
        X: Any,
        relevance: Any,
        target: Any,
        groups: Any,
        baseline: Any,
        response: str,
        batch_size: int | None,
    ) -> None:
        target = match_target(target, X)
        entered, self._scores_of, classes, followed, integers = find_scores(
            estimator, X, response, target
        )
        samples = as_samples(entered, integers=integers)
        maps = check_maps(put_in_order(relevance, entered, "relevance"))
        shape = samples.shape
        n_features = samples[0].size
        if maps.shape not in (shape, (len(samples), n_features)):
            raise ValueError(
                f"relevance has the shape {maps.shape}, but must have the shape of X, {shape}, or "
                f"be flat, {(len(samples), n_features)}: a value for each that enters the network."
            )
        self.codes, self.n_groups = find_groups(groups, shape[1:])
        self.samples = samples.reshape(len(samples), n_features)
        self.relevance = _sum_relevance(
            maps.reshape(self.samples.shape), self.codes, self.n_groups
        )
        self.batch_size = batch_size or choose_batch_size(n_features)
        self._restore = lambda rows: like(entered, rows.reshape(-1, *shape[1:]))
        self._choose_target(followed, classes)
        self.target = target if self.labels is None else self.labels
        self._pool = self._make_pool(baseline, samples)

    @property
    def draws(self) -> bool:
        """Whether the baseline is drawn from several samples."""
        return self._pool.ndim == 3

    def shuffle(self, rng: np.random.Generator, n_orders: int) -> NDArray[np.intp]:
        """Return ranks of the groups in random orders, (n_orders, n_groups)."""
        return rng.permuted(np.tile(np.arange(self.n_groups), (n_orders, 1)), axis=1)

    def draw_baseline(self, rng: np.random.Generator) -> NDArray:
        """Return the baseline of each sample, or a single row for all of them."""
        if not self.draws:
            return self._pool
        return self._pool[rng.integers(len(self._pool), size=len(self.samples)), 0]

    def follow(self, ranks: NDArray, n_flipped: NDArray, baseline: NDArray) -> NDArray:
        """Return the scores after replacing the first groups by rank, for several numbers."""
        (n_samples, n_features), n_points = self.samples.shape, len(n_flipped)
        baseline = np.broadcast_to(baseline, self.samples.shape)
        # points[i, g]: the first point of the curve at which group g of sample i is replaced; then
        # the same for each value. Ranks count from 0: rank r is among the first r + 1 groups.
        points = np.searchsorted(n_flipped, ranks, side="right").astype(
            np.min_scalar_type(n_points)
        )
        points = points[:, self.codes].ravel()
        # The values that change at all, in the order in which they do: between one point and the
        # next only a few are written into the copies.
        cells = np.flatnonzero((self.samples != baseline).ravel() & (points < n_points))
        cells = cells[np.argsort(points[cells], kind="stable")]
        put = baseline.ravel()[cells]
        ends = np.searchsorted(points[cells], np.arange(n_points), side="right")
        # A copy in which nothing has changed since the last point is not computed again.
        new = np.zeros((n_points, n_samples), dtype=bool)
        new[points[cells], cells // n_features] = True
        new[0] = True

        def blocks() -> Iterator[tuple[NDArray, NDArray]]:
            copies = self.samples.copy()
            start = 0
            for end, changed in zip(ends, new, strict=True):
                copies.ravel()[cells[start:end]] = put[start:end]
                start = end
                yield copies, np.flatnonzero(changed)

        scores = np.empty((n_points, n_samples))
        scores[new] = self._score(blocks(), int(new.sum()))
        # Where there is no new score, the latest one still holds.
        latest = np.maximum.accumulate(np.where(new, np.arange(n_points)[:, None], 0), axis=0)
        return np.take_along_axis(scores, latest, axis=0).T

    def replace(self, subsets: NDArray, baseline: NDArray) -> NDArray:
        """Return the scores with each subset of groups replaced, (n_samples, n_subsets)."""
        rows = np.arange(len(self.samples))
        blocks = (
            (np.where(subset[self.codes], baseline, self.samples), rows) for subset in subsets
        )
        return self._score(blocks, len(subsets) * len(rows)).reshape(len(subsets), len(rows)).T

    def _score(self, blocks: Iterable[tuple[NDArray, NDArray]], n_copies: int) -> NDArray:
        """Return the scores of the chosen rows of blocks of copies, in batches over all blocks."""
        size = min(self.batch_size, n_copies)
        batch = np.empty((size, self.samples.shape[1]), dtype=self.samples.dtype)
        owners = np.empty(size, dtype=np.intp)
        values = np.empty(n_copies)
        done = filled = 0
        for copies, rows in blocks:
            while len(rows):
                some, rows = rows[: size - filled], rows[size - filled :]
                batch[filled : filled + len(some)] = copies[some]
                owners[filled : filled + len(some)] = some
                filled += len(some)
                if filled == size or done + filled == n_copies:
                    outputs = self._compute(batch[:filled])
                    values[done : done + filled] = self._target_scores(outputs, owners[:filled])
                    done, filled = done + filled, 0
        return values

    def _compute(self, copies: NDArray) -> NDArray:
        """Return the outputs of samples, checked."""
        outputs = self._scores_of(self._restore(copies))
        if outputs.ndim not in (1, 2) or len(outputs) != len(copies):
            raise ValueError(
                f"estimator must return scores of shape ({len(copies)},) or ({len(copies)}, "
                f"n_outputs) for {len(copies)} samples, got the shape {outputs.shape}."
            )
        if not np.isfinite(outputs).all():
            raise ValueError(
                "estimator returned NaN or infinite scores: check X and the baseline, or use "
                "response='predict_proba'."
            )
        return outputs

    def _choose_target(self, target: Any, classes: NDArray | None) -> None:
        """Find out which output is followed, and the scores of the samples themselves."""
        n_samples = len(self.samples)
        if callable(target):
            raise ValueError(
                "target is a function of the output, which takes a network that sklrp.explain "
                "takes: pass as estimator a function of samples that returns its values."
            )
        rows = [
            self._compute(self.samples[first : first + self.batch_size])
            for first in range(0, n_samples, self.batch_size)
        ]
        outputs = np.concatenate(rows)
        self._codes: NDArray | None = None
        self.labels: NDArray | None = None
        if outputs.ndim == 2:
            labels = np.arange(outputs.shape[1]) if classes is None else classes
            if len(labels) != outputs.shape[1]:
                raise ValueError(
                    f"estimator has {len(labels)} classes_ but returns {outputs.shape[1]} scores."
                )
            if target is None:
                self._codes = outputs.argmax(axis=1)
            else:
                self._codes = encode_labels("target", target, labels, n_samples)
            self.labels = labels[self._codes]
        elif target is not None:
            raise ValueError(
                f"target={target!r} cannot be chosen: estimator returns a single score per "
                "sample. Leave target=None, or return one score per class."
            )
        self.start = self._target_scores(outputs, np.arange(n_samples))

    def _target_scores(self, outputs: NDArray, rows: NDArray) -> NDArray:
        """Return the score of each row's target."""
        if self._codes is None:
            return outputs
        return outputs[np.arange(len(outputs)), self._codes[rows]]

    def _make_pool(self, baseline: Any, samples: NDArray) -> NDArray:
        """Return baselines of shape (1 or n_samples, n_features), or of a pool (m, 1, n_features).

        A constant has a single value instead of features.
        """
        dtype = samples.dtype
        if isinstance(baseline, Number) and not is_real(baseline):
            raise TypeError(
                f"baseline must be a number, got {say_value(baseline)}: give 0.0 or 1.0."
            )
        if isinstance(baseline, str):
            pool = self.samples.mean(axis=0)[None] if baseline == "mean" else np.zeros((1, 1))
        elif is_real(baseline):
            pool = np.full((1, 1), float(baseline))
        elif callable(baseline):
            pool = as_plain_array(baseline(samples.copy()), "baseline")
            if pool.shape != samples.shape:
                raise ValueError(
                    f"baseline returned an array of shape {pool.shape}, but must return one of "
                    f"X's shape, {samples.shape}."
                )
            pool = pool.reshape(self.samples.shape)
        else:
            pool = check_reals(as_plain_array(baseline, "baseline"), "baseline")
            n_features = self.samples.shape[1]
            if pool.shape in (samples.shape[1:], (n_features,)):
                pool = pool.reshape(1, n_features)
            elif pool.size and pool.shape[1:] in (samples.shape[1:], (n_features,)):
                pool = pool.reshape(len(pool), 1, n_features)
            else:
                raise ValueError(
                    f"baseline has the shape {pool.shape}, but must have the shape of one sample, "
                    f"{samples.shape[1:]}, or of several, (n, *{samples.shape[1:]})."
                )
        if not np.isfinite(pool).all():
            raise ValueError("baseline has NaN or infinite values: give finite ones.")
        if dtype.kind in "iu" and (pool != pool.round()).any():
            raise ValueError(
                "baseline must hold integers, as X does: the network looks them up. Give the "
                "index that stands for nothing, such as the padding's."
            )
        return pool.astype(dtype)


def _sum_relevance(maps: NDArray, codes: NDArray, n_groups: int) -> NDArray:
    """Return the relevance of each group of features, (n_samples, n_groups)."""
    if n_groups == len(codes):
        return maps[:, np.argsort(codes)]
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(n_groups))
    return np.add.reduceat(maps[:, order], starts, axis=1)
