"""How near two results must be: called wherever a test holds one computation against another.

``np.testing.assert_array_equal`` is for what is copied, counted or done twice in the same way.
The same number by another way (all targets or one, a batch or a sample, a pipeline or its parts)
is rounded in another way on some processor: that is `assert_same_to_rounding`. `assert_close`
holds the package against a plain rewrite, which adds up in another order.
"""

from __future__ import annotations

import numpy as np
import torch

ROUNDING = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-2}


def as_array(values):
    return np.asarray(values.detach() if isinstance(values, torch.Tensor) else values)


def assert_same_to_rounding(actual, desired, tolerance=None):
    """Hold arrays against each other: shape, dtype and missing values equal, numbers nearly.

    `tolerance` is relative to the largest value; by default it is that of the dtype, and
    integers are equal.
    """
    actual, desired = as_array(actual), as_array(desired)
    assert actual.shape == desired.shape
    assert actual.dtype.name == desired.dtype.name  # in any order of bytes
    tolerance = ROUNDING.get(actual.dtype.name, 0) if tolerance is None else tolerance
    scale = float(np.abs(desired[np.isfinite(desired)]).max(initial=0.0))
    np.testing.assert_allclose(actual, desired, rtol=0, atol=tolerance * scale)


def assert_close(actual, desired, tolerance=1e-9):
    """Hold arrays against each other, relative to the largest entry; return the difference."""
    actual, desired = np.asarray(actual, dtype=float), np.asarray(desired, dtype=float)
    assert actual.shape == desired.shape
    assert np.isfinite(actual).all()
    scale = max(1.0, float(np.abs(desired).max(initial=0.0)))
    difference = float(np.abs(actual - desired).max(initial=0.0)) / scale
    assert difference <= tolerance, f"differs by {difference:.2e} of the scale {scale:.2e}"
    return difference
