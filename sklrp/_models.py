"""What a model is: the one place that takes apart whatever a user calls a model.

Everything that takes a model (`explain`, the diagnostics, metrics, displays, `geo`, the
transformer, `save`, the command line) calls `unwrap` and goes on with the `Model` it returns: what
comes before the network, the network, its outputs and the names of its features.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from sklrp._checks import import_optional
from sklrp._devices import to_host
from sklrp._missing import forbid_masked, mask_to_nan
from sklrp._rows import count_samples, forbid_stream, take_rows
from sklrp._stored import Stored, as_stored, is_stored
from sklrp._torch import is_compiled, unwrap_compiled

_NO_STEP = (None, "passthrough")
_ROWS = 256  # samples in one forward pass of a bare module

# Where estimators that hold several networks, or change what one of them says, keep them.
_INSIDE = (
    "estimators_[0]",
    "calibrated_classifiers_[0].estimator",
    "estimator_",
    "regressor_",
    "best_estimator_",
    "estimator",
)


@dataclass(frozen=True)
class Model:  # numpydoc ignore=PR02
    """A model taken apart.

    Parameters
    ----------
    before : Pipeline or None
        The fitted steps through which samples go before they enter the network.
    network : estimator, skorch net or nn.Module
        The network: an estimator with ``explain``, a skorch net, or a bare module.
    is_frozen : bool, default=False
        Whether the network was in a `FrozenEstimator`, so that it must not be trained anew.
    path : str, default="model"
        The expression that reaches the network, for errors: ``model[-1]`` in a pipeline.
    reading : callable or None, default=None
        What makes the outputs, ``(n_samples, n_outputs)``, of what a module returns, and tells
        a sample's ``output_shape``. None (default): all values, of a tuple the first element's.
    """

    before: Pipeline | None
    network: Any
    is_frozen: bool = False
    path: str = "model"
    reading: Any = None

    @property
    def name(self) -> str:
        """The type of the network."""
        return type(self.network).__name__

    @property
    def has_explain(self) -> bool:
        """Whether the network explains itself, as this package's estimators do."""
        return not isinstance(self.network, nn.Module) and hasattr(self.network, "explain")

    @property
    def is_net(self) -> bool:
        """Whether the network is a net of skorch, also one that explains itself."""
        return _is_net(self.network)

    @property
    def takes_integers(self) -> bool:
        """Whether samples may be indices, such as those of words, that a module looks up."""
        return self.takes_tensors and has_embeddings(self.module)

    @property
    def has_module(self) -> bool:
        """Whether there is a torch module, which an explainer of the user's need not have."""
        network = self.network
        return isinstance(network, nn.Module) or isinstance(
            getattr(network, "module_", None), nn.Module
        )

    @property
    def takes_tensors(self) -> bool:
        """Whether samples reach the torch module as they are, with no estimator's checks."""
        return isinstance(self.network, nn.Module) or self.is_net

    @property
    def can_train(self) -> bool:
        """Whether a clone of the network can be trained: not if it is frozen or a bare module."""
        return (
            not self.is_frozen
            and not isinstance(self.network, nn.Module)
            and all(hasattr(self.network, name) for name in ("fit", "get_params"))
        )

    @property
    def module(self) -> nn.Module:
        """The network's torch module, without a wrapper; `NotFittedError` if there is none yet."""
        module = self.network
        if not isinstance(module, nn.Module):
            module = getattr(module, "module_", None)
        if not isinstance(module, nn.Module):
            if self.has_explain:
                check_is_fitted(self.network)
                raise TypeError(f"{self.name} has no torch module as module_.")
            raise NotFittedError(f"This {self.name} is not fitted yet; call fit, or initialize.")
        return without_wrapper(module)

    @cached_property
    def classes(self) -> NDArray | None:
        """The labels in the order of the outputs, None where the model does not name them."""
        # A regression has none. The labels of a bare module, and of a skorch net whose
        # classes are numbers, are the indices of its outputs, as skorch hands labels to
        # the loss as they are; how many outputs there are, only samples tell, see
        # `classes_for`.
        is_module = isinstance(self.network, nn.Module)
        if is_module or self.reading is not None or is_regression(self.network):
            return None
        classes = np.asarray(getattr(self.network, "classes_", ()))
        numbers = not self.has_explain and classes.dtype.kind in "iufb"
        return None if numbers or not classes.size else classes

    def classes_for(self, samples: Any) -> NDArray | None:
        """Return the labels of the outputs for given samples, None of a single output."""
        if is_regression(self.network) or (self.has_explain and self.classes is not None):
            return self.classes
        n_outputs = self.outputs(take_rows(samples, slice(1))).shape[1]
        if n_outputs == 1:
            return None
        return np.arange(n_outputs) if self.classes is None else self.classes

    def enter(self, X: Any) -> Any:
        """Return what enters the network for samples as the model takes them."""
        # Names of features that the steps before know travel along where the network was
        # fitted on names.
        forbid_stream(X)
        if is_stored(X):
            return self._enter_stored(X)
        if self.before is None:
            return X if isinstance(X, tuple | Mapping) else forbid_masked(X, "X")
        return self.before.transform(mask_to_nan(to_host(X)))  # missing, for steps that fill gaps

    def _enter_stored(self, X: Any) -> Stored:
        """Return what enters the network for samples that are read part by part."""
        if self.before is None:
            return as_stored(X)
        # Steps before a network take rows one by one once they are fitted, and fields by the name
        # of the samples' dimension.
        grids: list[Any] = [getattr(step, "grid_", None) for _, step in self.before.steps]
        dims = [grid.sample_dim for grid in grids if hasattr(grid, "sample_dim")]
        transform = self.before.transform
        return as_stored(X, next(iter(dims), None)).map(
            lambda rows: to_host(transform(mask_to_nan(rows)))
        )

    def feature_names(self, X: Any, n_features: int) -> list[str] | None:
        """Return the names of the features that enter the network, None if they have none."""
        found: list[Any] = [getattr(self.network, "feature_names_in_", None)]
        if self.before is not None:
            found.append(_names_behind(self.before))
        else:
            found.append(getattr(X, "columns", None))
        for names in found:
            if names is not None and len(names) == n_features:
                return [str(name) for name in names]
        return None

    def output_shape(self, samples: Any) -> tuple[int, ...]:
        """Return the shape of a sample's output."""
        one = take_rows(samples, slice(1))
        if self.reading is not None:
            return self.reading.output_shape
        if self.takes_tensors:
            return tuple(self.read(self.returned(one)).shape[1:])
        return self.outputs(one).shape[1:]

    def check_one_output(self, samples: Any) -> None:
        """Raise an error if no target is needed to tell which value of a regression is meant."""
        if not is_regression(self.network):
            return
        n_outputs = self.outputs(take_rows(samples, slice(1))).shape[1]
        if n_outputs > 1:
            raise ValueError(
                f"target=None, but {self.name} is a regression of {n_outputs} outputs: choose one "
                "by its index."
            )

    def predict(self, samples: Any) -> NDArray:
        """Return what the network predicts for samples that enter it: labels, or values."""
        is_read = self.reading is not None
        if self.has_explain and not is_read:
            return np.asarray(self._quiet_network.predict(self.typed(samples)))
        outputs = self.outputs(samples)
        if outputs.shape[1] == 1:
            # Of two classes, a threshold tells them apart.
            if _says(is_classifier, self.network) and not is_read:
                return np.asarray(self._quiet_network.predict(self.typed(samples)))
            return outputs[:, 0]
        if is_regression(self.network):
            return outputs
        codes = outputs.argmax(axis=1)
        return codes if self.classes is None else self.classes[codes]

    def outputs(self, samples: Any) -> NDArray:
        """Return the scores, ``(n_samples, n_outputs)``, of samples that enter the network."""
        if not self.takes_tensors and self.reading is None:
            methods = ("decision_function", "predict_proba", "predict")
            method = next(name for name in methods if hasattr(self.network, name))
            scores = np.asarray(getattr(self._quiet_network, method)(self._named(samples)))
            if scores.ndim == 1 and method == "decision_function":
                return np.stack([-scores, scores], axis=1)
            return scores.reshape(len(scores), -1)
        parts = [self._forward(part) for part in _batches(samples)]
        outputs = np.concatenate(parts)
        return outputs.reshape(len(outputs), -1)

    def _named(self, samples: Any) -> Any:
        """Return rows as a table with the names that the network was fitted on, if it was."""
        names = getattr(self.network, "feature_names_in_", None)
        if names is None or hasattr(samples, "columns") or np.ndim(samples) != 2:
            return samples
        if isinstance(samples, Stored):
            return samples
        try:
            pd = import_optional("pandas", extra="plot", user="Names of features")
        except ImportError:  # scikit-learn warns of names that are missing, no more
            return samples
        return pd.DataFrame(samples, columns=names)

    def typed(self, samples: Any) -> Any:
        """Return samples in the floating dtype of a skorch net, which takes no other."""
        if not self.takes_tensors:
            return samples
        dtype = {torch.float32: np.float32, torch.float64: np.float64}.get(
            _dtype_and_device(self.module)[0]
        )
        if hasattr(samples, "iloc"):
            samples = samples.to_numpy()
        if isinstance(samples, Stored):
            return samples.map(self.typed)
        is_float = hasattr(samples, "dtype") and np.asarray(samples).dtype.kind == "f"
        return np.asarray(samples, dtype=dtype) if is_float and dtype else samples

    @cached_property
    @torch.inference_mode(False)  # whose tensors have no gradient later on
    def quiet_module(self) -> nn.Module:
        """A copy of the module in evaluation mode, and read; the user's own keeps its mode."""
        module = copy.deepcopy(self.module).eval().requires_grad_(False)
        return module if self.reading is None else _Read(module, self.reading)

    @cached_property
    def _quiet_network(self) -> Any:
        """The network around its quiet module: to predict, nets set the mode of their module."""
        network = _shallow_copy(self.network)
        net = network
        if hasattr(network, "net_"):
            net = network.net_ = _shallow_copy(network.net_)
        if isinstance(vars(net).get("module_"), nn.Module):
            vars(net)["module_"] = self.quiet_module
        return network

    @property
    def dtype_and_device(self) -> tuple[torch.dtype, torch.device]:
        """The floating dtype and the device of the module's parameters."""
        return _dtype_and_device(self.module)

    def returned(self, samples: Any) -> Any:
        """Return what the module returns for samples, in one pass."""
        dtype, device = _dtype_and_device(self.module)

        def tensor(values: Any) -> Tensor:
            t = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
            return t.to(device, dtype) if t.is_floating_point() else t.to(device)

        if not self.takes_tensors:  # the modules of estimators take rows
            samples = np.asarray(samples).reshape(count_samples(samples), -1)
        with torch.inference_mode(False), torch.no_grad():
            if isinstance(samples, Mapping):
                return self.quiet_module(**{name: tensor(v) for name, v in samples.items()})
            if isinstance(samples, tuple):
                return self.quiet_module(*map(tensor, samples))
            t = tensor(samples)
            return self.quiet_module(t if has_embeddings(self.module) else t.to(dtype))

    def read(self, returned: Any) -> Tensor:
        """Return the outputs in what the network's own module returns."""
        if self.reading is not None:
            return self.reading(returned)
        return returned[0] if isinstance(returned, tuple | list) else returned

    def _forward(self, samples: Any) -> NDArray:
        out = self.returned(samples)
        out = out[0] if isinstance(out, tuple | list) else out
        # NumPy has no bfloat16.
        out = out.float() if out.dtype == torch.bfloat16 else out
        return out.detach().cpu().numpy()


class _Read(nn.Module):
    """A module, and what is made of its output."""

    def __init__(self, module: nn.Module, reading: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.module, self.reading = module, reading

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the outputs."""
        return self.reading(self.module(*args, **kwargs))


def unwrap(model: Any, *, fitted: bool = True, name: str = "model") -> Model:
    """Take a model apart.

    Parameters
    ----------
    model : estimator, skorch net, nn.Module, Pipeline, search or FrozenEstimator
        An estimator of this package (or any other with ``explain``), a skorch net (classifier,
        regressor or any ``NeuralNet``) or a torch module; or a pipeline that ends in one of them,
        a search over one of them, or a `FrozenEstimator` around one, nested in any way.
    fitted : bool, default=True
        Whether the model must be fitted. If not, the steps of a pipeline may be unfitted too, and
        a search is taken for the estimator that it would fit.
    name : str, default="model"
        What errors call it: the parameter that the model was passed as.

    Returns
    -------
    Model
        The parts.

    Raises
    ------
    TypeError
        If there is no network in it, or several; the error says by which line to reach one.
    NotFittedError
        If it must be fitted and is not.
    """
    steps: list[tuple[str, Any]] = []
    network, path, is_frozen = model, name, False
    while (inside := _one_deeper(network)) is not None:
        if isinstance(network, Pipeline):
            if inside[0] is None or isinstance(inside[0], str):
                raise TypeError(
                    f"{name} is a Pipeline that does not end in a network: its last step is "
                    f"{inside[0]!r}."
                )
            steps += _single_steps(network.steps[:-1], fitted)
        elif isinstance(network, FrozenEstimator):
            is_frozen = True
        elif fitted:
            _check_search(network)
        network, path = inside[0], path + inside[1]
    if not _is_network(network):
        raise TypeError(_say_no_network(model, network, name, path))
    if fitted and not isinstance(network, nn.Module):
        _check_fitted(network)
    named = [(f"{i}-{step_name}", step) for i, (step_name, step) in enumerate(steps)]
    return Model(Pipeline(named) if named else None, network, is_frozen, path)


def _shallow_copy(value: Any) -> Any:
    """Return a copy that shares its parts; `copy.copy` would pickle a net."""
    copied = object.__new__(type(value))
    vars(copied).update(vars(value))
    return copied


def _single_steps(steps: Iterable[tuple[str, Any]], fitted: bool) -> Iterator[tuple[str, Any]]:
    """Yield steps before a network one by one, also those of a pipeline that is a step itself."""
    # Who looks for the step that knows the grid finds it wherever it is. What is yet to be fitted
    # stays frozen where it is.
    for name, step in steps:
        while fitted and isinstance(step, FrozenEstimator):
            step = step.estimator
        if isinstance(step, Pipeline):
            yield from _single_steps(step.steps, fitted)
        elif step not in _NO_STEP:
            yield name, step


def _check_fitted(network: Any) -> None:
    """Raise an error unless an estimator or a net is fitted, or has nothing to fit."""
    if hasattr(network, "explain"):
        if hasattr(network, "fit"):  # what only explains has nothing to fit
            check_is_fitted(network)
    elif not isinstance(getattr(network, "module_", None), nn.Module):
        raise NotFittedError(
            f"This {type(network).__name__} is not fitted yet; call fit, or initialize."
        )


def holds_network(model: Any) -> bool:
    """Tell whether a model is a network or holds one: `unwrap` opens it, or says where it is."""
    try:
        unwrap(model, fitted=False)
    except TypeError:
        last = model
        while (inside := _one_deeper(last)) is not None:
            last = inside[0]
        return _network_inside(last) is not None
    return True


def without_wrapper(module: nn.Module) -> nn.Module:
    """Return the network that ``torch.compile`` or ``nn.DataParallel`` wraps."""
    wrapped: Any = module
    while isinstance(wrapped, nn.DataParallel) or is_compiled(wrapped):
        is_parallel = isinstance(wrapped, nn.DataParallel)
        wrapped = wrapped.module if is_parallel else unwrap_compiled(wrapped)
    return wrapped


def is_regression(network: Any) -> bool:
    """Tell whether a network is a regressor by its own word; bare modules say nothing."""
    return _says(is_regressor, network)


def _says(is_kind: Callable[[Any], bool], network: Any) -> bool:
    return hasattr(network, "__sklearn_tags__") and is_kind(network)


def _batches(samples: Any) -> Iterator[Any]:
    for first in range(0, count_samples(samples), _ROWS):
        yield take_rows(samples, slice(first, first + _ROWS))


def _is_network(model: Any) -> bool:
    """Tell whether a model is a network: explains itself, is a module, or a net that holds one."""
    if isinstance(model, type):
        return False
    return isinstance(model, nn.Module) or hasattr(model, "explain") or _is_net(model)


def _is_net(model: Any) -> bool:
    """Tell whether a model is a net of skorch, by what every net has."""
    return all(hasattr(model, name) for name in ("module", "criterion", "initialize", "infer"))


def is_search(model: Any) -> bool:
    """Tell whether a model is a search over parameters, of scikit-learn or in its manner."""
    parameters = ("estimator", "scoring", "refit", "error_score")  # of all searches, of no other
    return hasattr(model, "best_estimator_") or all(hasattr(model, name) for name in parameters)


def _check_search(search: Any) -> None:
    """Raise an error unless a search holds the estimator that it has found."""
    if hasattr(search, "best_estimator_"):
        return
    if hasattr(search, "cv_results_"):
        raise TypeError(
            f"{type(search).__name__} was fitted with refit=False and holds no network: fit "
            "it with refit=True, or fit an estimator with best_params_."
        )
    raise NotFittedError(f"This {type(search).__name__} is not fitted yet; call fit.")


def _say_no_network(model: Any, network: Any, name: str, path: str) -> str:
    """Say what a model must be, and by which line a network in it is reached."""
    kind = type(network).__name__
    inside = _network_inside(network)
    if inside is not None:
        return (
            f"{kind} holds its network inside, or several of them, and what it predicts is not "
            f"the score of one: pass one network, {path}.{inside}."
        )
    what = f"the class {network.__name__} itself" if isinstance(network, type) else kind
    wanted = (
        "an estimator of sklrp, a skorch net, a torch.nn.Module, or a pipeline, search or "
        "FrozenEstimator with one of them inside"
    )
    if isinstance(model, Pipeline) and isinstance(network, BaseEstimator):
        return (
            f"The last step of the Pipeline does not explain itself: {kind} has no method "
            f"explain. {name} must be {wanted}."
        )
    if isinstance(network, BaseEstimator):
        return (
            f"{kind} does not explain itself: {name} must be {wanted}. Which cells carry its "
            "skill, sklrp.diagnostics.skill_map(model, X_test, y_test, X_train=X_train) says."
        )
    return f"{name} must be {wanted}, got {what}."


def _one_deeper(model: Any) -> tuple[Any, str] | None:
    """Return what a pipeline, search or frozen estimator ends in, and how it is reached."""
    if isinstance(model, FrozenEstimator):
        return model.estimator, ".estimator"
    if isinstance(model, Pipeline):
        return (model.steps[-1][1] if model.steps else None), "[-1]"
    if is_search(model):
        where = "best_estimator_" if hasattr(model, "best_estimator_") else "estimator"
        return getattr(model, where), f".{where}"
    return None


def _network_inside(model: Any) -> str | None:
    """Return the expression, behind the model's own, that reaches a network inside it."""
    for where in _INSIDE:
        found = model
        try:
            for part in where.replace("[0]", ".0").split("."):
                found = found[0] if part == "0" else getattr(found, part)
        except (AttributeError, IndexError, KeyError, TypeError):
            continue
        try:
            unwrap(found, fitted=False)
        except TypeError:
            deeper = _network_inside(found) if found is not model else None
            if deeper is not None:
                return f"{where}.{deeper}"
            continue
        return where
    return None


def _names_behind(before: Pipeline) -> Any:
    """Return the names of what leaves the steps before a network, None if they do not know."""
    try:
        names = before.get_feature_names_out()
    except (AttributeError, ValueError, NotFittedError):
        return None
    # Steps that were fitted on an array make up x0, x1, ..., which say no more than a number.
    return None if list(names) == [f"x{i}" for i in range(len(names))] else names


def _dtype_and_device(module: nn.Module) -> tuple[torch.dtype, torch.device]:
    first = next((p for p in list_weights(module) if p.is_floating_point()), None)
    if first is None:
        return torch.float64, torch.device("cpu")
    return first.dtype, first.device


def list_weights(module: nn.Module) -> list[Tensor]:
    """Return what says where a network is: its parameters, or floating buffers if it has none."""
    return list(module.parameters()) or [b for b in module.buffers() if b.is_floating_point()]


def has_embeddings(module: nn.Module) -> bool:
    """Tell whether a network looks vectors up, so that integers stay indices."""
    return any(isinstance(m, nn.Embedding | nn.EmbeddingBag) for m in module.modules())
