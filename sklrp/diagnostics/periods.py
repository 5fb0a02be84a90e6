"""Ask whether relevance has a period that the input has not, as by strides and pooling.

`positions` runs this test. What untrained networks have as well is the architecture's doing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sklrp.diagnostics.findings import judge
from sklrp.diagnostics.profiles import AlongAxes

_LONGEST_PERIOD = 8
_PROMINENT = 30.0  # a peak of a profile's spectrum over its neighbours: a convention


class _Peak(NamedTuple):
    """How much a profile's spectrum has of a period."""

    axis: int
    period: int
    value: float  # the map's prominence, in units of the input's
    null: NDArray  # the same of untrained networks
    usual: float  # the prominence in the input


def find_periods(along: AlongAxes, axes: list[int], rng: np.random.Generator) -> dict[str, Any]:
    """Ask whether relevance has a period that the input has not."""
    peaks = {peak[:2]: peak for i in axes for peak in _list_peaks(along, i)}
    axis, period = _most_prominent(peaks)
    _, _, statistic, null, usual = peaks[axis, period]
    profiles = along.of_maps(axis)
    rows = rng.integers(len(profiles), size=(200, len(profiles)))
    drawn = [find_prominence(profiles[r].mean(axis=0))[period] / usual for r in rows]
    interval = (float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975)))
    verdict = judge(interval, artifact_above=_PROMINENT, fact_below=_PROMINENT)
    if np.median(null) < _PROMINENT:
        verdict = "fact"
    return {
        "name": "grid",
        "question": "Does relevance have a period that the input lacks?",
        "statistic": float(statistic),
        "interval": interval,
        "null": null,
        "verdict": verdict,
        "reading": (
            f"times the power of neighbouring frequencies at a period of {period} along axis "
            f"{axis}; untrained {np.median(null):.1f}"
        ),
        "advice": ""
        if verdict == "fact"
        else (
            f"Windows that step by {period} see some cells more often than others: choose a "
            "kernel_size that is a multiple of the stride, or average maps over shifts."
        ),
        "axis": axis,
        "period": period,
        "table": {
            "axis": np.array([peak.axis for peak in peaks.values()]),
            "period": np.array([peak.period for peak in peaks.values()]),
            "prominence": np.array([peak.value for peak in peaks.values()]),
            "null": np.array([np.median(peak.null) for peak in peaks.values()]),
        },
    }


def _list_peaks(along: AlongAxes, axis: int) -> list[_Peak]:
    """Return how prominent each period is along an axis."""
    own = find_prominence(along.of_input(axis))
    found = find_prominence(along.of_maps(axis).mean(axis=0))
    untrained = [find_prominence(profile) for profile in along.of_nulls(axis)]
    peaks = []
    for period, value in found.items():
        usual = max(1.0, own[period])
        null = np.array([prominence[period] for prominence in untrained]) / usual
        peaks.append(_Peak(axis, period, value / usual, null, usual))
    return peaks


def _most_prominent(peaks: dict[tuple[int, int], _Peak]) -> tuple[int, int]:
    """Return the axis and the period that maps and untrained networks both have most of."""

    # A period counts as much as maps and untrained networks both have it.
    def shared(peak: _Peak) -> float:
        return min(peak.value, float(np.median(peak.null)))

    first = max(peaks.values(), key=shared)
    least = min(shared(first), _PROMINENT)
    # A comb of period 4 has the power of period 2 as well.
    period = max(
        peak.period
        for peak in peaks.values()
        if peak.axis == first.axis and peak.period % first.period == 0 and shared(peak) >= least
    )
    return first.axis, period


def find_prominence(profile: NDArray) -> dict[int, float]:
    """Return, for each period, the power there over the median of the frequencies around it."""
    n = len(profile)
    smooth = np.convolve(np.pad(profile, 4, mode="edge"), np.full(9, 1 / 9), mode="valid")
    found = {}
    for period in range(2, min(_LONGEST_PERIOD, n // 4) + 1):
        whole = n - n % period  # an integer number of periods, so that power does not leak
        spectrum = np.abs(np.fft.rfft((profile - smooth)[:whole])) ** 2
        at = whole // period
        around = np.r_[spectrum[max(1, at - 6) : max(1, at - 1)], spectrum[at + 2 : at + 7]]
        floor = float(np.median(around)) if len(around) else 0.0
        size = float(np.square(profile).sum())
        found[period] = float(spectrum[at] / max(floor, 1e-12 * size, np.finfo(float).tiny))
    return found
