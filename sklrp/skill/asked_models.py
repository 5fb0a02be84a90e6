"""The models that the skill map asks: networks by their gradient, any other by its predictions.

`skill_map` takes a model apart here, finds what it is compared with, and has the contributions of
its cells computed.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import is_classifier, is_regressor
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sklrp._checks import as_samples, like
from sklrp._models import Model, unwrap
from sklrp.skill.contributions import Contributions, expected_gradients, occluded
from sklrp.skill.questions import Question

_MOST_GROUPS = 64  # that are replaced one by one where there is no gradient


def find_baselines(
    model: Any, samples: NDArray, X_train: Any, baseline: Any, assumptions: list[str]
) -> NDArray:
    """Return what samples are compared with, in the shape of what enters the network."""
    pool = samples
    if X_train is not None:
        pool = as_samples(model.enter(X_train))
        if pool.shape[1:] != samples.shape[1:]:
            raise ValueError(
                f"X_train has samples of shape {pool.shape[1:]}, but X of {samples.shape[1:]}."
            )
        same = _count_equal(samples, pool)
        if same == len(samples):
            raise ValueError(
                "every sample of X is one of X_train: skill is of samples that the model has not "
                "seen. Hold some out before training."
            )
        if same:
            said = f"{same} of {len(samples)} samples of X are among X_train, and count as unseen"
            warnings.warn(f"{said}: leave them out.", stacklevel=4)
            assumptions.append(said)
    else:
        assumptions.append("X was taken for unseen: X_train was not given")
    if baseline is None:
        return pool
    if isinstance(baseline, str):
        if baseline != "mean":
            raise ValueError(f"baseline must be None, 'mean' or an array, got {baseline!r}.")
        return pool.mean(axis=0, keepdims=True).astype(samples.dtype)
    given = np.asarray(baseline, dtype=samples.dtype)
    if given.shape == samples.shape[1:]:
        given = given[np.newaxis]
    if given.shape[1:] != samples.shape[1:] or not len(given):
        raise ValueError(
            f"baseline has the shape {np.shape(baseline)}, but must have that of one sample that "
            f"enters the network, {samples.shape[1:]}, or of several."
        )
    if not np.isfinite(given).all():
        raise ValueError("baseline has NaN or infinite values: give finite ones.")
    return given


def _count_equal(samples: NDArray, pool: NDArray) -> int:
    """Return how many samples are among others, to the bit."""
    known = {row.tobytes() for row in np.ascontiguousarray(pool).astype(samples.dtype)}
    return sum(row.tobytes() in known for row in np.ascontiguousarray(samples))


class PlainModel:
    """A model without a network, by what it predicts: any classifier or regressor.

    Parameters
    ----------
    model : estimator
        The model, whole.
    X : DataFrame or array-like of shape (n_samples, ...)
        What it takes, for the names of columns.
    """

    def __init__(self, model: Any, X: Any) -> None:
        self.model = model
        self.network = model
        self.before = None
        self.has_explain = False
        self.name = type(model).__name__
        self._form = X[:1] if hasattr(X, "iloc") else None

    def enter(self, X: Any) -> Any:
        """Return samples as they are: the model is asked whole."""
        return X

    def feature_names(self, X: Any, n_features: int) -> list[str] | None:
        """Return the names of X's columns, None if it has none."""
        columns = getattr(X, "columns", ())
        return [str(name) for name in columns] if len(columns) == n_features else None

    def outputs(self, samples: NDArray) -> NDArray:
        """Return logarithms of probabilities, decision values, or predicted values."""
        given = samples if self._form is None else like(self._form, samples)
        if hasattr(self.model, "predict_proba"):
            probability = np.asarray(self.model.predict_proba(given), dtype=np.float64)
            return np.log(np.maximum(probability, 1e-6))  # trees say 0, of which there is no log
        if hasattr(self.model, "decision_function"):
            scores = np.asarray(self.model.decision_function(given), dtype=np.float64)
            return np.stack([-scores, scores], axis=1) / 2 if scores.ndim == 1 else scores
        values = np.asarray(self.model.predict(given), dtype=np.float64)
        return values.reshape(len(values), -1)

    def classes_for(self, samples: NDArray) -> NDArray | None:
        """Return the labels of a classifier, None of a regressor."""
        return np.asarray(self.model.classes_) if is_classifier(self.model) else None

    def codes(self, samples: NDArray, regions: NDArray | None) -> NDArray[np.intp]:
        """Return the group of each cell."""
        n_cells = math.prod(samples.shape[1:])
        if regions is not None:
            return np.unique(regions, return_inverse=True)[1].ravel()
        if n_cells > _MOST_GROUPS:
            raise ValueError(
                f"{self.name} has no gradient, and {n_cells} cells are too many to replace one by "
                "one: give regions, an array of labels of a sample's shape, or PCA's components."
            )
        return np.arange(n_cells)


def take_model(model: Any, X: Any) -> Any:
    """Return a model taken apart, or whole if there is no network in it but it predicts."""
    try:
        return unwrap(model)
    except TypeError:
        if isinstance(model, type) or not (is_classifier(model) or is_regressor(model)):
            raise
    check_is_fitted(model)
    return PlainModel(model, X)


def contributions_of(
    model: Any,
    samples: NDArray,
    pool: NDArray,
    question: Question,
    regions: NDArray | None,
    rng: np.random.Generator,
    n_draws: int | None,
    n_jobs: int | None,
) -> Contributions:
    """Return the contributions of cells, by gradients; or of groups, by replacing them."""
    if isinstance(model, PlainModel):
        codes = model.codes(samples, regions)
        return occluded(model.outputs, samples, pool, question.combine, codes, rng, n_draws)
    inputs, baselines = _to_tensors(model, samples, pool)
    module = model.quiet_module
    _check_repeats(module, inputs[:8], model.name)
    transform = _as_scores(question, module, inputs[:8])
    return expected_gradients(
        module, inputs, baselines, question.combine, rng, n_draws, transform, n_jobs
    )


def contributions_to_outputs(
    model: Model,
    samples: NDArray,
    pool: NDArray,
    columns: NDArray[np.intp],
    rng: np.random.Generator,
    n_draws: int | None = None,
    n_jobs: int | None = None,
) -> Contributions:
    """Return the contributions of cells to one output of each sample.

    Parameters
    ----------
    model : Model
        The network, taken apart.
    samples, pool : ndarray of shape (n, ...)
        What enters it, and what samples are compared with.
    columns : ndarray of shape (n_samples,)
        The output of each sample.
    rng : numpy.random.Generator
        What draws are made from.
    n_draws : int or None, default=None
        As in `expected_gradients`.
    n_jobs : int or None, default=None
        Number of threads.

    Returns
    -------
    Contributions
        Contributions in one combination.
    """
    inputs, baselines = _to_tensors(model, samples, pool)
    module = model.quiet_module
    _check_repeats(module, inputs[:8], model.name)
    with torch.inference_mode(False), torch.no_grad():
        n_outputs = _first(module(inputs[:1])).numel()
    own = np.eye(n_outputs)[columns][np.newaxis]
    return expected_gradients(module, inputs, baselines, own, rng, n_draws, n_jobs=n_jobs)


def _check_repeats(module: Any, inputs: Tensor, name: str) -> None:
    """Raise an error if a network answers the same samples differently."""
    with torch.inference_mode(False), torch.no_grad():
        one, other = (_first(module(inputs)) for _ in range(2))
    if not torch.equal(one, other):
        raise ValueError(
            f"{name} gives other scores for the same samples each time, in evaluation mode too: "
            "its contributions would be noise. Fix what it draws."
        )


def _first(out: Any) -> Tensor:
    return out[0] if isinstance(out, tuple | list) else out


def _to_tensors(model: Model, samples: NDArray, pool: NDArray) -> tuple[Tensor, Tensor]:
    """Return samples and baselines as the module takes them."""
    dtype, device = model.dtype_and_device

    def convert(values: NDArray) -> Tensor:
        if model.has_explain:  # the modules of estimators take rows
            values = values.reshape(len(values), -1)
        return torch.from_numpy(np.array(values)).to(device, dtype)

    return convert(samples), convert(pool)


def _as_scores(question: Question, module: Any, inputs: Tensor) -> Any:
    """Return what makes scores of probabilities, None where the network gives scores."""
    if question.shares is None or question.combine.shape[1] < 2:
        return None
    with torch.inference_mode(False), torch.no_grad():
        out = _first(module(inputs))
    if (
        out.dim() == 2
        and bool((out >= 0).all())
        and torch.allclose(out.sum(1), torch.ones_like(out[:, 0]))
    ):
        tiny = torch.finfo(out.dtype).tiny
        return lambda probability: probability.clamp_min(tiny).log()
    return None
