"""Ask whether relevance lies where the architecture puts it, such as at the end of a sweep.

Memory that fades leads the profile of maps away from the input's, towards the untrained one.
`positions` runs this test.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sklrp.diagnostics.findings import bootstrap, judge
from sklrp.diagnostics.profiles import AlongAxes


def find_fading(along: AlongAxes, axes: list[int], rng: np.random.Generator) -> dict[str, Any]:
    """Ask whether the profile is the architecture's instead of the input's."""
    found = []
    for axis in axes:
        own, null = along.of_input(axis), along.of_nulls(axis)
        away = null.mean(axis=0) - own
        imprint = np.abs(away).sum() / 2
        found.append((imprint, axis, own, null, away))
    imprint, axis, own, null, away = max(found, key=lambda entry: entry[0])
    profiles, length = along.of_maps(axis), max(away @ away, 1e-30)
    way = ((profiles - own) @ away / length).clip(0, 1)
    interval = bootstrap(way, rng)
    reading = (
        f"of the untrained profile's way from the input's along axis {axis}, on which it departs "
        f"by {imprint:.2f}"
    )
    if imprint < 0.25:
        verdict, reading = "fact", reading + ": no imprint of the architecture"
    else:
        verdict = judge(interval, artifact_above=0.7, fact_below=0.4)
    return {
        "name": "fading",
        "question": "Does relevance lie where the architecture puts it?",
        "statistic": float(way.mean()),
        "interval": interval,
        "null": ((null - own) @ away / length).clip(0, 1),
        "verdict": verdict,
        "reading": reading,
        "advice": ""
        if verdict == "fact"
        else (
            "Relevance gathers where an untrained network has it too: sweep from the other side, "
            "pool over all states, lower leak_rate or raise forget_bias, and see focus_curve."
        ),
        "axis": axis,
        "imprint": float(imprint),
        "table": {
            "position": np.arange(len(own)),
            "map": profiles.mean(axis=0),
            "input": own,
            "null": null.mean(axis=0),
        },
    }
