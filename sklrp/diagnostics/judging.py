"""From a statistic to a verdict: the interval of a statistic, and which side of a limit it is on.

Every test of a map calls these two functions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def judge(interval: tuple[float, float], *, artifact_above: float, fact_below: float) -> str:
    """Return the verdict on a statistic that is large where a map is an artifact."""
    low, high = interval
    if low >= artifact_above:
        return "artifact"
    return "fact" if high <= fact_below else "undecided"


def bootstrap(
    values: NDArray,
    rng: np.random.Generator,
    statistic: Callable[..., NDArray] = np.mean,
    n_draws: int = 1000,
) -> tuple[float, float]:
    """Return the 95 % percentile interval of a statistic of values, resampled along axis 0."""
    rows = rng.integers(len(values), size=(n_draws, len(values)))
    drawn = statistic(values[rows], axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)
