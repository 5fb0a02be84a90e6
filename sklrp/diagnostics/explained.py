"""The samples that a diagnosis explains, their maps, and the maps of null models."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from sklrp._checks import as_samples, check_maps, encode_labels, like, make_rng
from sklrp.metrics.randomise import list_layers, randomise

NULLS = ("network", "readout", "labels")


class Explained:
    """A fitted estimator, samples, the classes explained, and maps in one common form.

    Maps are divided by their sum of absolute values and have the sign of the score that they
    explain, so that maps of networks with other scores can be compared: positive relevance speaks
    for what the network says, and a map tells how relevance is shared out.

    Parameters
    ----------
    estimator : estimator
        A fitted classifier with ``explain``, or a pipeline that ends in one; the pipeline's maps
        are of what enters the classifier.
    X : array-like of shape (n_samples, ...)
        The samples.
    y : array-like of shape (n_samples,) or None, default=None
        Their labels.
    target : None, label or array-like of shape (n_samples,), default=None
        The class explained: None the predicted class of each sample.
    max_samples : int or None, default=None
        At most so many samples are explained, drawn at random; None explains all.
    random_state : int, RandomState instance or None, default=None
        Determines all that is drawn.
    n_jobs : int or None, default=None
        Number of joblib's workers for null models.
    **params : dict
        Parameters of ``explain``.
    """

    def __init__(
        self,
        estimator: Any,
        X: Any,
        y: Any = None,
        *,
        target: Any = None,
        max_samples: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        n_jobs: int | None = None,
        **params: Any,
    ) -> None:
        check_is_fitted(estimator)
        if isinstance(estimator, Pipeline):
            X = estimator[:-1].transform(X) if len(estimator) > 1 else X
            estimator = estimator[-1]
        for name in ("explain", "predict", "classes_", "module_"):
            if not hasattr(estimator, name):
                raise TypeError(
                    f"{type(estimator).__name__} has no {name}: pass a fitted classifier of "
                    "sklrp, or a pipeline that ends in one."
                )
        self.estimator = estimator
        self._form = X[:1] if hasattr(X, "iloc") else None
        self.all_X = as_samples(X)
        self.all_y = None if y is None else _check_labels(y, len(self.all_X))
        self.rng = make_rng(random_state)
        self.n_jobs = n_jobs
        self.params = params
        rows = np.arange(len(self.all_X))
        if max_samples is not None and max_samples < len(rows):
            rows = np.sort(self.rng.choice(rows, max_samples, replace=False))
        self.X = self.all_X[rows]
        self.y = None if self.all_y is None else self.all_y[rows]
        if target is None:
            self.target = np.asarray(estimator.predict(self.given(self.X)))
        else:
            classes, n_samples = np.asarray(estimator.classes_), len(self.all_X)
            self.target = classes[encode_labels("target", target, classes, n_samples)][rows]
        self.relevance, self.details = self._explain(estimator, self.X)
        self.maps = as_shares(self.relevance, self.details.score)

    @property
    def grid_shape(self) -> tuple[int, ...]:
        """The shape of a sample as the network sees it, without axes of length 1."""
        shape = self.X.shape[1:]
        if len(shape) == 1:
            shape = getattr(self.estimator, "input_shape_", shape)
        return tuple(n for n in shape if n != 1) or (1,)

    @property
    def has_positions(self) -> bool:
        """Whether the features of a sample have neighbours: an image or a sequence."""
        shape = self.X.shape[1:]
        return len(shape) > 1 or len(getattr(self.estimator, "input_shape_", shape)) > 1

    @property
    def n_learned_layers(self) -> int:
        """How many layers of the network were learned."""
        return len(list_layers(self.estimator.module_))

    def on_grid(self, maps: NDArray) -> NDArray:
        """Return maps or samples, whose last axes are those of a sample, on the grid."""
        lead = maps.shape[: maps.ndim - (self.X.ndim - 1)]
        return maps.reshape(*lead, *self.grid_shape)

    def given(self, samples: NDArray) -> Any:
        """Return samples in the form of the estimator's: with column names, if X has them."""
        return samples if self._form is None else like(self._form, samples)

    def maps_of(self, estimator: Any, X: NDArray | None = None) -> NDArray:
        """Return the normalised maps of another estimator for the same classes."""
        relevance, details = self._explain(estimator, self.X if X is None else X)
        return as_shares(relevance, details.score)

    def _explain(self, estimator: Any, X: NDArray) -> tuple[NDArray, Any]:
        relevance, details = estimator.explain(
            self.given(X), target=self.target, return_details=True, **self.params
        )
        return check_maps(relevance), details

    @functools.cached_property
    def _null_maps(self) -> dict[tuple[str, int], NDArray]:
        return {}

    def null_maps(self, null: str, n_draws: int) -> NDArray:
        """Return the maps of null models, (n_draws, n_samples, ...), as float32.

        Parameters
        ----------
        null : {"network", "readout", "labels"}
            What a null model has lost: all that was learned, the last layer that was learned, or,
            trained anew, the labels' relation to the samples.
        n_draws : int
            Number of null models.

        Returns
        -------
        ndarray of shape (n_draws, n_samples, ...)
            Normalised maps; zero where a null model has no relevance at all.
        """
        if (null, n_draws) not in self._null_maps:
            seeds = self.rng.integers(2**31 - 1, size=n_draws)
            draw = _train_on_permuted if null == "labels" else _draw_parameters
            maps = self.run(_null_map, [(self, draw, null, int(seed)) for seed in seeds])
            for _ in range(3):  # networks whose units are all dead say nothing: draw others
                dead = np.flatnonzero(~maps.reshape(n_draws, -1).any(axis=1))
                if null != "network" or not len(dead):
                    break
                seeds = self.rng.integers(2**31 - 1, size=len(dead))
                maps[dead] = self.run(_null_map, [(self, draw, null, int(s)) for s in seeds])
            self._null_maps[null, n_draws] = maps
        return self._null_maps[null, n_draws]

    def run(self, function: Callable[..., NDArray], calls: Iterable[tuple]) -> NDArray:
        """Return the stacked results of calls, by joblib's workers."""
        return np.stack(Parallel(n_jobs=self.n_jobs)(delayed(function)(*call) for call in calls))

    def refit(self, seed: int, X: NDArray | None = None, y: NDArray | None = None) -> Any:
        """Return a clone trained on all samples, or on others."""
        if self.all_y is None:
            raise ValueError("y=None: training a null model needs the labels of X.")
        new = clone(self.estimator)
        if "random_state" in new.get_params():
            new.set_params(random_state=seed)
        if "warm_start" in new.get_params():
            new.set_params(warm_start=False)
        return new.fit(self.given(self.all_X if X is None else X), self.all_y if y is None else y)


def as_shares(relevance: NDArray, score: NDArray) -> NDArray[np.float32]:
    """Return maps with the sign of their score, divided by their sum of absolute values."""
    axes = tuple(range(1, relevance.ndim))
    largest = np.abs(relevance).max(axis=axes, keepdims=True)
    maps = relevance / np.where(largest == 0, 1.0, largest)  # sums neither over- nor underflow
    size = np.abs(maps).sum(axis=axes, keepdims=True)
    sign = np.where(np.reshape(score, size.shape) < 0, -1.0, 1.0)
    return (sign * maps / np.where(size == 0, 1.0, size)).astype(np.float32)


def _null_map(explained: Explained, draw: Callable[..., Any], null: str, seed: int) -> NDArray:
    return explained.maps_of(draw(explained, null, seed))


def _draw_parameters(explained: Explained, null: str, seed: int) -> Any:
    """Return a copy whose network, or its readout, is drawn anew."""
    random = copy.deepcopy(explained.estimator)
    generator = torch.Generator().manual_seed(seed)
    layers = list_layers(random.module_)
    for _, layer in layers[-1:] if null == "readout" else layers:
        randomise(layer, generator)
    return random


def _train_on_permuted(explained: Explained, null: str, seed: int) -> Any:
    """Return a clone trained on labels that are permuted among the samples."""
    y = explained.all_y
    permuted = None if y is None else np.random.default_rng(seed).permutation(y)
    return explained.refit(seed, y=permuted)


def cosines(one: NDArray, other: NDArray) -> NDArray[np.float64]:
    """Return the cosine of flat maps, (..., n_features), NaN where one of them is zero."""
    dot = np.einsum("...i,...i->...", one, other, dtype=np.float64)
    size = np.sqrt(
        np.einsum("...i,...i->...", one, one, dtype=np.float64)
        * np.einsum("...i,...i->...", other, other, dtype=np.float64)
    )
    return np.divide(dot, size, out=np.full(dot.shape, math.nan), where=size > 0)


def _check_labels(y: Any, n_samples: int) -> NDArray:
    """Return one label for each sample."""
    labels = np.asarray(y)
    if labels.shape != (n_samples,):
        raise ValueError(
            f"y must hold one label for each of {n_samples} samples, got the shape {labels.shape}."
        )
    return labels
