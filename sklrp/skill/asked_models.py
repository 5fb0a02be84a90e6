"""The models that the skill map asks: networks by their gradient, any other by its predictions.

`decompose_skill` takes a model apart here, brings samples into the form that it takes, and has the
contributions of its cells computed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import is_classifier, is_regressor
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from sklrp._checks import as_samples, like, sort_values
from sklrp._copies import copy_to_ask
from sklrp._kept import Kept
from sklrp._missing import as_plain_array
from sklrp._model_parts import Model, check_columns
from sklrp._models import holds_network, unwrap
from sklrp._quick_images import quicken
from sklrp._stored import MEMORY_BYTES, in_array, is_stored, take_blocks
from sklrp._wording import shorten
from sklrp.skill.contributions import (
    Contributions,
    TensorRows,
    all_outputs,
    expected_gradients,
    occluded,
)
from sklrp.skill.questions import Question

_MOST_GROUPS = 64  # that are replaced one by one where there is no gradient


def take_samples(model: Any, entering: Any, name: str = "X") -> NDArray:
    """Return samples that enter a model as an array; categories stay what they are."""
    if isinstance(entering, tuple | Mapping):
        raise TypeError(
            f"{name} holds several inputs, and cells are those of one: wrap the network in a "
            "module that takes one array and cuts it up."
        )
    if isinstance(model, PlainModel):
        found = as_plain_array(entering, name)
        if found.ndim == 2 and found.size and found.dtype.kind in "OUS":
            return found.astype(object)
        return as_samples(found, name=name)
    found = as_samples(in_array(entering), name=name, integers=model.takes_integers)
    if found.dtype.kind == "f":
        n_bad = sum(
            np.count_nonzero(~np.isfinite(part.reshape(len(part), -1).sum(axis=1, dtype=float)))
            for _, part in take_blocks(found)
        )
        if n_bad:
            raise ValueError(
                f"{name} has NaN or infinite values in {n_bad} of {len(found)} samples: leave "
                "them out, or fill them as in training."
            )
    return found


def differs(samples: NDArray) -> NDArray[np.bool_]:
    """Return where samples are not all the same, in the shape of a sample."""
    found = np.zeros(samples.shape[1:], dtype=bool)
    for _, part in take_blocks(samples):
        found |= (part != samples[:1]).any(axis=0)
    return found


def as_given(model: Any, entering: Any, samples: NDArray) -> Any:
    """Return samples with the names of columns with which they enter a network, if any."""
    is_plain = isinstance(model, PlainModel) or is_stored(entering)
    return samples if is_plain else like(entering, samples)


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
        # Networks inside set their mode when they predict: the user's keep theirs.
        self.model = copy.deepcopy(model) if holds_network(model) else model
        self.network = model
        self.before = self.sample_dim = None
        self.has_explain = self.takes_integers = self.is_net = False
        self.is_frozen = self.can_train = False
        self.classes = np.asarray(model.classes_) if is_classifier(model) else None
        self.name = type(model).__name__
        self._form = X[:1] if hasattr(X, "iloc") else None

    def enter(self, X: Any, name: str = "X") -> Any:
        """Return samples as they are: the model is asked whole."""
        check_columns(X, None if self._form is None else self._form.columns, name)
        return X

    def feature_names(self, X: Any, n_features: int) -> list[str] | None:
        """Return the names of X's columns, None if it has none."""
        columns = getattr(X, "columns", ())
        return [str(name) for name in columns] if len(columns) == n_features else None

    def outputs(self, samples: Any) -> NDArray:
        """Return logarithms of probabilities, decision values, votes, or predicted values."""
        given = samples
        if self._form is not None and not hasattr(samples, "iloc"):
            given = like(self._form, samples)
            if samples.dtype.kind == "O":
                given = given.astype(self._form.dtypes.to_dict())
        if hasattr(self.model, "predict_proba"):
            probability = np.asarray(self.model.predict_proba(given), dtype=np.float64)
            return np.log(np.maximum(probability, 1e-6))  # trees say 0, of which there is no log
        if hasattr(self.model, "decision_function"):
            scores = np.asarray(self.model.decision_function(given), dtype=np.float64)
            return np.stack([-scores, scores], axis=1) / 2 if scores.ndim == 1 else scores
        values = np.asarray(self.model.predict(given))
        if is_classifier(self.model):  # which has no scores: one for what it votes for
            values = values[:, None] == np.asarray(self.model.classes_)
        return values.astype(np.float64).reshape(len(values), -1)

    def output_shape(self, samples: NDArray) -> tuple[int, ...]:
        """Return the shape of a sample's outputs."""
        return self.outputs(samples[:1]).shape[1:]

    def classes_for(self, samples: NDArray) -> NDArray | None:
        """Return the labels of a classifier, None of a regressor."""
        return self.classes

    def predict(self, samples: NDArray) -> NDArray:
        """Return what the model predicts: labels or values."""
        if self.classes is not None:
            return self.classes[self.outputs(samples).argmax(axis=1)]
        return self.outputs(samples)


def take_model(model: Any, X: Any) -> Any:
    """Return a model taken apart, or whole if there is no network in it but it predicts."""
    try:
        return unwrap(model)
    except TypeError:
        if (
            isinstance(model, type)
            or not hasattr(model, "predict")
            or not (is_classifier(model) or is_regressor(model))
        ):
            raise
    check_is_fitted(model)
    return PlainModel(model, X)


def is_asked_by_groups(model: Any, samples: NDArray) -> bool:
    """Tell whether a model has no gradient, so that groups of cells are replaced by turns."""
    if isinstance(model, PlainModel) or samples.dtype.kind in "iu":
        return True
    inputs, _ = _to_tensors(model, samples[:8], samples[:1])
    with torch.inference_mode(False), torch.enable_grad():
        inputs.requires_grad_()
        try:
            out = _first(model.quiet_module(inputs.clone()), model.name)
            (gradient,) = torch.autograd.grad((out * _uneven(out)).sum(), inputs)
        except RuntimeError:  # an operation without a derivative, or one that forgets the input
            return True
    if bool(gradient.any()):
        return False
    _check_alive(model, samples)
    return True  # a step without a slope, such as rounding


def _check_alive(model: Any, samples: NDArray) -> None:
    """Raise an error if a network whose slope is 0 answers the same whatever the sample is."""
    outputs = model.outputs(samples)
    if len(samples) > 1 and (outputs == outputs[:1]).all() and differs(samples).any():
        raise ValueError(
            f"{model.name} is dead: its output is {np.round(outputs[0, :3], 3).tolist()} for all "
            f"{len(samples)} samples and its gradient is 0, as where no ReLU is active. "
            "There is nothing to explain: train it again, from another seed, with a lower "
            "learning rate or with LeakyReLU, and look for weights that are 0 or NaN."
        )


def _uneven(out: Tensor) -> Tensor:
    """Return weights of outputs, of which no sum is constant as that of probabilities is."""
    return torch.linspace(1.0, 2.0, out.numel()).to(out).cos().reshape(out.shape)


def code_groups(name: str, samples: NDArray, regions: NDArray | None) -> NDArray[np.intp]:
    """Return the group of each cell, for a model that has no gradient."""
    n_cells = math.prod(samples.shape[1:])
    if regions is not None:
        return sort_values(regions, "regions")[1].ravel()
    if n_cells > _MOST_GROUPS:
        raise ValueError(
            f"{name} has no gradient, and {n_cells} cells are too many to replace one by one: "
            f"give regions, at most {_MOST_GROUPS} labels in an array of a sample's shape, or "
            "PCA's components."
        )
    return np.arange(n_cells)


def contributions_of(
    model: Any,
    samples: NDArray,
    pool: NDArray,
    question: Question,
    groups: NDArray[np.intp] | None,
    rng: np.random.Generator,
    n_draws: int | None,
    n_jobs: int | None,
    progress: bool,
    kept: Kept,
) -> Contributions:
    """Return the contributions of cells, by gradients; or of groups, by replacing them."""
    if groups is not None:
        return occluded(
            model.outputs, samples, pool, question.combine, groups, rng, n_draws, progress,
            n_jobs, kept,
        )  # fmt: skip
    inputs, baselines = _to_tensors(model, samples, pool)
    module, transform = _prepare_module(model, inputs, question)
    return expected_gradients(
        module, inputs, baselines, question.combine, rng, n_draws, transform, n_jobs, progress,
        kept,
    )  # fmt: skip


def ask_outputs(model: Any, samples: NDArray, question: Question) -> Callable[[NDArray], NDArray]:
    """Return what asks a model for the scores, (n, n_outputs), of samples like these."""
    if isinstance(model, PlainModel) or samples.dtype.kind in "iu":
        return model.outputs
    inputs, _ = _to_tensors(model, samples, samples[:1])
    module, transform = _prepare_module(model, inputs, question)

    def ask(rows: NDArray) -> NDArray:
        tensor, _ = _to_tensors(model, rows, rows[:1])
        return all_outputs(module, tensor, transform).cpu().numpy().astype(np.float64)

    return ask


def _prepare_module(model: Model, inputs: Any, question: Question) -> tuple[nn.Module, Any]:
    """Return a network's module as gradients are fastest, and what makes scores of its outputs."""
    module = model.quiet_module
    # The modules of this package's estimators give scores, whatever these look like.
    gives_scores = model.has_explain and not model.is_net
    transform = None if gives_scores else _as_scores(question, module, inputs)
    return _in_fast_format(module, inputs[:2]), transform


def _in_fast_format(module: nn.Module, inputs: Tensor) -> nn.Module:
    """Return a copy of an image network with its channels last, if it works and says the same."""
    # A third of the time of gradients on a CPU.
    if inputs.device.type != "cpu" or not any(isinstance(m, nn.Conv2d) for m in module.modules()):
        return module
    fast = copy_to_ask(module).to(memory_format=torch.channels_last)
    quicken(fast)
    with torch.inference_mode(False), torch.enable_grad():
        found = []
        for one in (module, fast):
            point = inputs.clone().requires_grad_()
            try:
                out = _first(one(point.clone()))
                gradient = torch.autograd.grad((out * _uneven(out)).sum(), point)[0]
                with torch.no_grad():
                    plain = _first(one(inputs.clone()))
            except Exception:  # such as of a view of what is no longer in one piece
                return module
            found.append((out.detach(), gradient, plain))
    pairs = zip(*found, strict=True)
    errors = [(one - other).norm() / one.norm().clamp_min(1e-30) for one, other in pairs]
    return fast if max(errors) < 1e-3 else module


@torch.inference_mode(False)  # a caller's, whose tensors have no gradient
def contributions_to_outputs(
    model: Any,
    samples: NDArray,
    pool: NDArray,
    columns: NDArray[np.intp],
    rng: np.random.Generator,
    n_draws: int | None = None,
    regions: NDArray | None = None,
    n_jobs: int | None = None,
    others: NDArray[np.intp] | None = None,
    kept: Kept | None = None,
) -> Contributions:
    """Return the contributions of cells to one output of each sample, or to a difference of two.

    Parameters
    ----------
    model : Model or PlainModel
        The model, taken apart.
    samples, pool : ndarray of shape (n, ...)
        What enters it, and what samples are compared with.
    columns : ndarray of shape (n_samples,)
        The output of each sample.
    rng : numpy.random.Generator
        What draws are made from.
    n_draws : int or None, default=None
        As in `expected_gradients`.
    regions : ndarray or None, default=None
        The groups of cells that are replaced at once in a model without a gradient, whose cells
        share what their group adds.
    n_jobs : int or None, default=None
        Number of joblib's workers.
    others : ndarray of shape (n_samples,) or None, default=None
        The output that is subtracted of each sample. None (default): none is.
    kept : Kept or None, default=None
        What keeps contributions, so that they can be resumed.

    Returns
    -------
    Contributions
        Contributions in one combination.
    """
    if is_asked_by_groups(model, samples):
        groups = code_groups(model.name, samples, regions)
        every = np.eye(model.outputs(samples[:1]).shape[1])
        found = occluded(
            model.outputs, samples, pool, every, groups, rng, n_draws, n_jobs=n_jobs, kept=kept
        )
        rows, phi = np.arange(len(samples)), np.stack(found.phi)
        own = phi[columns, rows] - (0 if others is None else phi[others, rows])
        found.phi = [(own / np.bincount(groups))[:, groups]]
        return found
    inputs, baselines = _to_tensors(model, samples, pool)
    check_repeats(model, samples)
    module = _in_fast_format(model.quiet_module, inputs[:2])
    with torch.inference_mode(False), torch.no_grad():
        n_outputs = _first(module(inputs[:1].clone())).numel()
    own = np.eye(n_outputs)[columns] - (0 if others is None else np.eye(n_outputs)[others])
    return expected_gradients(
        module, inputs, baselines, own[np.newaxis], rng, n_draws, n_jobs=n_jobs, kept=kept
    )


def check_repeats(model: Any, samples: NDArray) -> None:
    """Raise an error unless a model gives each sample a score of its own, the same each time."""
    if isinstance(model, PlainModel):
        one, other = (torch.as_tensor(model.outputs(samples[:8])) for _ in range(2))
        alone = one[:1]
    else:
        inputs, _ = _to_tensors(model, samples[:8], samples[:1])
        one, other = (_ask_once(model, inputs) for _ in range(2))
        alone = _ask_once(model, inputs[:1])
    if not torch.isfinite(one).all():
        raise ValueError(
            f"{model.name} gives NaN or infinite scores: train it again, or look for a division "
            "by 0 in it."
        )
    if not torch.equal(one, other):
        raise ValueError(
            f"{model.name} gives other scores for the same samples each time, in evaluation mode "
            "too: its contributions would be noise. Fix what it draws."
        )
    if (one[:1] - alone).abs().max() > 0.01 * one.abs().max():
        raise ValueError(
            f"{model.name} gives a sample another score beside other samples, so that no cell of "
            "it can be held responsible: take means over training samples, as BatchNorm does."
        )


def _ask_once(model: Model, inputs: Tensor) -> Tensor:
    """Return a network's scores, or raise an error that says what it was given."""
    with torch.inference_mode(False), torch.no_grad():
        try:
            out = model.quiet_module(inputs.clone())  # which may write into it
        except Exception as error:
            raise ValueError(
                f"X: {model.name} does not take an array of shape {tuple(inputs.shape)}, which "
                f"enters it: {shorten(str(error))}"
            ) from error
    return _first(out, model.name)


def _first(out: Any, name: str = "the network") -> Tensor:
    out = out[0] if isinstance(out, tuple | list) else out
    if not isinstance(out, Tensor) or not out.is_floating_point():
        kind = f"{out.dtype} numbers" if isinstance(out, Tensor) else f"a {type(out).__name__}"
        raise TypeError(
            f"{name} returns {kind}, not real scores: wrap it in a module whose forward returns "
            "the tensor of scores alone."
        )
    return out


def _to_tensors(model: Model, samples: NDArray, pool: NDArray) -> tuple[Any, Any]:
    """Return samples and baselines as the module takes them; large ones stay where they are."""
    dtype, device = model.dtype_and_device

    def convert(values: NDArray) -> Any:
        if model.has_explain:  # the modules of estimators take rows
            values = values.reshape(len(values), -1)
        own = None if values.dtype.kind in "iu" else dtype
        rows = TensorRows(values, own, device)
        return rows if values.nbytes > MEMORY_BYTES else rows[:]

    return convert(samples), convert(pool)


def _as_scores(question: Question, module: Any, inputs: Any) -> Any:
    """Return what makes scores of probabilities, None where the network gives scores."""
    if question.shares is None or question.combine.shape[1] < 2:
        return None
    # All samples are asked: a readout by least squares has outputs that sum to 1, and of a few
    # samples none may be negative.
    out = all_outputs(module, inputs)
    if bool((out >= 0).all()) and torch.allclose(out.sum(1), torch.ones_like(out[:, 0])):
        return lambda p: p.clamp_min(torch.finfo(p.dtype).tiny).log()
    return None
