"""What a fitted attribute must look like in a file.

A class lists in ``_saved`` the attributes that `sklrp.save` keeps when it is fitted, each with one
of these tests; `sklrp.load` refuses a file whose values fail them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sklrp._checks import is_positive_integer


def is_shape(value: Any) -> bool:
    """Tell whether a value is the shape of a sample."""
    return isinstance(value, tuple) and all(map(is_positive_integer, value))


def is_range(value: Any) -> bool:
    """Tell whether a value is a pair of finite numbers, the lower first."""
    is_pair = isinstance(value, tuple) and len(value) == 2 and all(map(math.isfinite, value))
    return is_pair and value[0] <= value[1]


def are_labels(value: Any) -> bool:
    """Tell whether a value is an array of two or more labels, sorted."""
    is_vector = isinstance(value, np.ndarray) and value.ndim == 1 and len(value) > 1
    return is_vector and np.array_equal(np.unique(value), value)


def are_numbers(value: Any) -> bool:
    """Tell whether a value is an array of finite numbers, one for each output."""
    is_vector = isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype == np.float64
    return is_vector and len(value) > 0 and bool(np.isfinite(value).all())


def are_positive(value: Any) -> bool:
    """Tell whether a value is an array of positive numbers, one for each output."""
    return are_numbers(value) and bool((value > 0).all())


def are_ranges(value: Any) -> bool:
    """Tell whether a value is an array of pairs of finite numbers, the lower first."""
    is_table = isinstance(value, np.ndarray) and value.ndim == 2 and value.shape[1] == 2
    if not is_table or value.dtype != np.float64 or not np.isfinite(value).all():
        return False
    return bool((value[:, 0] <= value[:, 1]).all())


def is_flag(value: Any) -> bool:
    """Tell whether a value is True or False."""
    return isinstance(value, bool)


def is_random_state(value: Any) -> bool:
    """Tell whether a value may be the state of torch's generators, by device."""
    return isinstance(value, dict) and "cpu" in value


def is_penalty(value: Any) -> bool:
    """Tell whether a value is a float of at least 0."""
    return isinstance(value, float) and value >= 0


def are_sums(value: Any) -> bool:
    """Tell whether a value is a state of `LeastSquares`."""
    if not isinstance(value, dict) or set(value) != {
        "n_features", "n_samples", "triangle", "shift"
    }:  # fmt: skip
        return False
    triangle, shift = value["triangle"], value["shift"]
    arrays = [v for v in (triangle, shift) if isinstance(v, np.ndarray) and v.dtype == np.float64]
    if len(arrays) < 2 or triangle.ndim != 2 or shift.shape != (triangle.shape[1] - 1,):
        return False
    numbers = is_positive_integer(value["n_features"]) and is_positive_integer(value["n_samples"])
    fits = numbers and value["n_features"] < len(shift) and 0 < len(triangle) <= len(shift) + 1
    return bool(fits and all(np.isfinite(v).all() for v in arrays))
