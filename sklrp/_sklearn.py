"""The private names of scikit-learn that this package uses, without their underscore.

No other file touches them, so a release of scikit-learn that moves one is mended here;
``tests/test_private_names.py`` tells which one has moved. Every module that validates parameters
or data as scikit-learn does imports from here.
"""

from __future__ import annotations

from typing import Any

# Checks the parameters before `fit`, and lets a nested `fit` skip the check. Without it an invalid
# parameter is found late, by whatever error it causes.
from sklearn.base import _fit_context as fit_context

# Indexes arrays, frames, lists and sparse matrices alike. Without it cross-fitting takes arrays
# alone.
from sklearn.utils import _safe_indexing as safe_indexing

# The vocabulary of `_parameter_constraints`, and the decorator that checks functions by it.
# Without them every parameter needs a check of its own.
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    InvalidParameterError,
    Options,
    StrOptions,
    validate_params,
)

# Tells whether `set_output` asks for a DataFrame. Without it transformers that build their own
# output cannot follow `set_output`.
from sklearn.utils._set_output import _get_output_config as get_output_config

# The names of the features that `get_feature_names_out` starts from. Without it they follow other
# rules than scikit-learn's own transformers.
from sklearn.utils.validation import _check_feature_names_in as check_feature_names_in

# What travels with the samples into a fold's `fit`, cut to the fold. Without it weights of
# samples have the wrong length.
from sklearn.utils.validation import _check_method_params as check_method_params

# Sample weights as `fit` takes them. Without it scikit-learn's estimator checks fail.
from sklearn.utils.validation import _check_sample_weight as check_sample_weight

# The names of a DataFrame's columns, of pandas, polars or another library. Without it only pandas
# is known.
from sklearn.utils.validation import _get_feature_names as get_feature_names

# The number of samples of anything that holds samples. Without it lists and frames need checks.
from sklearn.utils.validation import _num_samples as num_samples

__all__ = [
    "HOOKS",
    "OUTPUT_CONFIG",
    "HasMethods",
    "Interval",
    "InvalidParameterError",
    "Options",
    "StrOptions",
    "check_feature_names_in",
    "check_method_params",
    "check_own_params",
    "check_sample_weight",
    "fit_context",
    "get_feature_names",
    "get_output_config",
    "has_constraints",
    "make_visual_block",
    "num_samples",
    "param_names",
    "safe_indexing",
    "validate_params",
]

# What scikit-learn looks for on a class: the constraints of its parameters, and its block in the
# diagram of estimators. Classes define these names; nothing but this file reads them. Without them
# parameters go unchecked, and a diagram shows no network.
HOOKS = ("_parameter_constraints", "_sk_visual_block_")

# Where `set_output` keeps what it was told. Without it a saved transformer forgets it.
OUTPUT_CONFIG = "_sklearn_output_config"


def has_constraints(estimator: Any) -> bool:
    """Tell whether an estimator has constraints for `check_own_params`."""
    return hasattr(estimator, "_parameter_constraints")


def check_own_params(estimator: Any) -> None:
    """Check the parameters of an estimator by its constraints."""
    estimator._validate_params()


def param_names(cls: Any) -> list[str]:
    """Return the names of an estimator class's parameters, sorted."""
    return cls._get_param_names()


def make_visual_block(kind: str, estimators: Any, **kwargs: Any) -> Any:
    """Return a block of scikit-learn's diagram of estimators."""
    # Imported at the call: should it move, scikit-learn draws the estimator by itself.
    try:
        from sklearn.utils._repr_html.estimator import _VisualBlock
    except ImportError:  # before scikit-learn 1.7
        from sklearn.utils._estimator_html_repr import _VisualBlock

    return _VisualBlock(kind, estimators, **kwargs)
