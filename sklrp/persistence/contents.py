"""What a file of an estimator may hold, checked by `save` and by `load`.

A classifier is known by being among the classifiers of the package, and says itself what is saved
of it; nothing here names one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from sklearn.frozen import FrozenEstimator

from sklrp import classifiers
from sklrp._sklearn import OUTPUT_CONFIG, check_own_params, param_names
from sklrp.transformer import RelevanceTransformer

FORMAT = 1
_CLASSIFIERS: dict[str, Any] = {name: getattr(classifiers, name) for name in classifiers.__all__}
ESTIMATORS = {
    **_CLASSIFIERS,
    "RelevanceTransformer": RelevanceTransformer,
    "FrozenEstimator": FrozenEstimator,
}
_NAMES = ", ".join(sorted(_CLASSIFIERS, reverse=True))
CAN_BE_SAVED = f"{_NAMES}, or a RelevanceTransformer around one of them"


def check_parameters(cls: Any, names: Iterable[str]) -> None:
    """Raise an error if there are parameters that a class does not have."""
    own = param_names(cls)
    takes_more = hasattr(cls, "_keep_kwargs")  # skorch's double-underscore parameters
    if unknown := [n for n in names if n not in own and not (takes_more and "__" in n)]:
        raise ValueError(f"{cls.__name__} has no parameters {unknown}")


def check_params(estimator: Any) -> None:
    """Raise an error if a parameter is invalid, or is none for a file."""
    if isinstance(estimator, RelevanceTransformer):
        estimator._check_params()
        if estimator.memory is not None:
            raise TypeError(
                f"memory={estimator.memory!r} cannot be saved, as it is a place on this machine: "
                "set_params(memory=None), and set it anew after loading."
            )
    else:
        check_own_params(estimator)


def _are_names(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype == object


# What a fitted estimator of any class may have.
OPTIONAL: dict[str, Callable[[Any], bool]] = {
    "feature_names_in_": _are_names,
    OUTPUT_CONFIG: lambda value: isinstance(value, dict),
}
