"""What a model consists of: the steps before its network, the network, what it returns and names.

`sklrp._models.unwrap` makes a `Model` of whatever a user passes, and everything that takes a model
goes on with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import is_classifier, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from sklrp._checks import import_optional
from sklrp._copies import copy_to_ask
from sklrp._devices import to_host
from sklrp._missing import forbid_masked, mask_to_nan
from sklrp._rows import count_samples, forbid_stream, take_rows
from sklrp._stored import Stored, as_stored, is_stored
from sklrp._torch import is_compiled, unwrap_compiled
from sklrp._wording import shorten

_ROWS = 256  # samples in one forward pass of a bare module


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
        return is_net(self.network)

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

    def enter(self, X: Any, name: str = "X") -> Any:
        """Return what enters the network for samples, a parameter of a name."""
        # Names of features that the steps before know travel along where the network was
        # fitted on names.
        forbid_stream(X, name)
        if is_stored(X):
            return self._enter_stored(X)
        if self.before is None:
            check_columns(X, getattr(self.network, "feature_names_in_", None), name)
            return X if isinstance(X, tuple | Mapping) else forbid_masked(X, name)
        return self.before.transform(mask_to_nan(to_host(X)))  # missing, for steps that fill gaps

    def _enter_stored(self, X: Any) -> Stored:
        """Return what enters the network for samples that are read part by part."""
        if self.before is None:
            return as_stored(X)
        # Steps before a network take rows one by one once they are fitted, and fields by the name
        # of the samples' dimension.
        transform = self.before.transform
        return as_stored(X, self.sample_dim).map(
            lambda rows: to_host(transform(mask_to_nan(rows)))
        )

    @property
    def sample_dim(self) -> str | None:
        """The dimension of the samples of fields, as the step before that takes fields has it."""
        steps = [] if self.before is None else [step for _, step in self.before.steps]
        grids: list[Any] = [getattr(step, "grid_", None) for step in steps]
        return next((grid.sample_dim for grid in grids if hasattr(grid, "sample_dim")), None)

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
        module = copy_to_ask(self.module).eval().requires_grad_(False)
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


def check_columns(X: Any, known: Any, name: str) -> None:
    """Raise an error unless the columns of a table are those that a model knows, in their order.

    Parameters
    ----------
    X : object
        Samples; only of a table the columns have names.
    known : sequence of str or None
        The columns that the model knows, None if it knows none.
    name : str
        What errors call the samples.

    Raises
    ------
    ValueError
        If they are others, or in another order.
    """
    columns = getattr(X, "columns", None)
    if known is None or columns is None:
        return
    its, wanted = [[str(column) for column in names] for names in (columns, known)]
    if its != wanted:
        order = " in another order" if sorted(its) == sorted(wanted) else ""
        raise ValueError(
            f"{name} has the columns {shorten(str(its))}, but the model was fitted on "
            f"{shorten(str(wanted))}{order}: select those in their order, {name}[[...]]."
        )


def is_regression(network: Any) -> bool:
    """Tell whether a network is a regressor by its own word; bare modules say nothing."""
    return _says(is_regressor, network)


def is_net(model: Any) -> bool:
    """Tell whether a model is a net of skorch, by what every net has."""
    return all(hasattr(model, name) for name in ("module", "criterion", "initialize", "infer"))


def without_wrapper(module: nn.Module) -> nn.Module:
    """Return the network that ``torch.compile`` or ``nn.DataParallel`` wraps."""
    wrapped: Any = module
    while isinstance(wrapped, nn.DataParallel) or is_compiled(wrapped):
        is_parallel = isinstance(wrapped, nn.DataParallel)
        wrapped = wrapped.module if is_parallel else unwrap_compiled(wrapped)
    return wrapped


def has_embeddings(module: nn.Module) -> bool:
    """Tell whether a network looks vectors up, so that integers stay indices."""
    return any(isinstance(m, nn.Embedding | nn.EmbeddingBag) for m in module.modules())


def list_weights(module: nn.Module) -> list[Tensor]:
    """Return what says where a network is: its parameters, or floating buffers if it has none."""
    return list(module.parameters()) or [b for b in module.buffers() if b.is_floating_point()]


def _says(is_kind: Callable[[Any], bool], network: Any) -> bool:
    return hasattr(network, "__sklearn_tags__") and is_kind(network)


def _shallow_copy(value: Any) -> Any:
    """Return a copy that shares its parts; `copy.copy` would pickle a net."""
    copied = object.__new__(type(value))
    vars(copied).update(vars(value))
    return copied


def _batches(samples: Any) -> Iterator[Any]:
    for first in range(0, count_samples(samples), _ROWS):
        yield take_rows(samples, slice(first, first + _ROWS))


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
