"""What a model is: the one place that takes apart whatever a user calls a model.

Everything that takes a model (`explain`, the diagnostics, metrics, displays, `geo`, the
transformer, `save`, the command line) calls `unwrap` and goes on with the `Model` it returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted
from torch import nn

from sklrp._model_parts import Model, is_net
from sklrp._wording import say_value

_NO_STEP = (None, "passthrough")

# Where estimators that hold several networks, or change what one of them says, keep them.
_INSIDE = (
    "estimators_[0]",
    "calibrated_classifiers_[0].estimator",
    "estimator_",
    "regressor_",
    "best_estimator_",
    "estimator",
)


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


def _is_network(model: Any) -> bool:
    """Tell whether a model is a network: explains itself, is a module, or a net that holds one."""
    if isinstance(model, type):
        return False
    return isinstance(model, nn.Module) or hasattr(model, "explain") or is_net(model)


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
    is_class = isinstance(network, type)
    what = (
        f"the class {network.__name__} itself"
        if is_class
        else f"{say_value(network)} of type {kind}"
    )
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
