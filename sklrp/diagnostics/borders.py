"""Ask whether both ends of an axis have much more or less than their share, as by padding.

`positions` runs this test. What untrained networks have as well is the architecture's doing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklrp.diagnostics.findings import bootstrap, judge
from sklrp.diagnostics.profiles import AlongAxes

EDGE = 2  # cells at either end of an axis
_LEAST = 0.01  # of an even share of the input: an end of less is a frame of fill values


def has_ends(along: AlongAxes, axis: int) -> bool:
    """Tell whether the input has values at both ends of an axis, to hold relevance against."""
    own = along.of_input(axis)
    return bool(min(own[:EDGE].sum(), own[-EDGE:].sum()) >= _LEAST * EDGE / len(own))


def find_borders(along: AlongAxes, axes: list[int], rng: np.random.Generator) -> dict[str, Any]:
    """Ask whether both ends of an axis have far more, or less, than their share of the input."""
    found = []
    for axis in axes:
        own = along.of_input(axis)
        untrained = [_ends(profile[np.newaxis], own) for profile in along.of_nulls(axis)]
        for kind, values in enumerate(_ends(along.of_maps(axis), own)):
            null = np.array([at[kind].item() for at in untrained])
            low, high = bootstrap(values, rng)
            usual = float(np.median(null))
            if kind == 0:  # more than its share even at the weaker end
                far, shown = values.mean() / 1.5, usual > 1.3
                verdict = judge((low, high), artifact_above=1.5, fact_below=1.3)
            else:  # less than its share at both ends together
                far, shown = 0.6 / max(values.mean(), 1e-9), usual < 0.75 and high > usual / 2
                verdict = judge((-high, -low), artifact_above=-0.6, fact_below=-0.7)
            verdict = verdict if shown else "fact"
            rank = {"artifact": 2, "undecided": 1, "fact": 0}[verdict]
            found.append((rank, far, axis, values, null, (low, high), verdict, kind))
    _, _, axis, values, null, interval, verdict, kind = max(found, key=lambda entry: entry[:2])
    return {
        "name": "border",
        "question": (
            "Do both ends of an axis have much more or less than their share of relevance?"
        ),
        "statistic": float(values.mean()),
        "interval": interval,
        "null": null,
        "verdict": verdict,
        "reading": (
            f"times their share of the input have the ends of axis {axis}; untrained "
            f"{np.median(null):.2f}"
        ),
        "advice": ""
        if verdict == "fact"
        else (
            "Windows at the border see padding or see its cells less often: do not read relevance "
            "there, or use padding_mode='circular' or 'reflect' and a smaller kernel_size."
        ),
        "axis": axis,
        "kind": "less" if kind else "more",
        "table": {
            "axis": np.array([entry[2] for entry in found]),
            "ratio": np.array([entry[3].mean() for entry in found]),
            "null": np.array([np.median(entry[4]) for entry in found]),
        },
    }


def _ends(profiles: NDArray, own: NDArray) -> tuple[NDArray, NDArray]:
    """Return the share of relevance over the input's of the weaker end, and of both ends."""
    ends = [slice(None, EDGE), slice(-EDGE, None)]
    tiny = np.finfo(float).tiny
    ratios = [profiles[:, end].sum(axis=1) / max(own[end].sum(), tiny) for end in ends]
    both = sum(profiles[:, end].sum(axis=1) for end in ends)
    return min(ratios, key=np.mean), both / max(sum(own[end].sum() for end in ends), tiny)
