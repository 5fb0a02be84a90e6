"""How near two results must be: called wherever a test holds one computation against another."""

from __future__ import annotations

import numpy as np


def assert_close(actual, desired, tolerance=1e-9):
    """Hold arrays against each other, relative to the largest entry; return the difference."""
    actual, desired = np.asarray(actual, dtype=float), np.asarray(desired, dtype=float)
    assert actual.shape == desired.shape
    assert np.isfinite(actual).all()
    scale = max(1.0, float(np.abs(desired).max(initial=0.0)))
    difference = float(np.abs(actual - desired).max(initial=0.0)) / scale
    assert difference <= tolerance, f"differs by {difference:.2e} of the scale {scale:.2e}"
    return difference
