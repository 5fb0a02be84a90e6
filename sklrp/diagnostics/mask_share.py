"""Ask whether more relevance lies on a mask, where it belongs, than without learning.

`diagnose` runs this test if it is given a mask.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sklrp.diagnostics.common_form import with_relevance
from sklrp.diagnostics.explained import Explained
from sklrp.diagnostics.findings import Finding, bootstrap, judge
from sklrp.diagnostics.other_networks import null_maps, why_not_drawn
from sklrp.metrics import relevance_mass

_ENOUGH = 10  # null models, below which no p-value is less than 0.1


def on_mask(explained: Explained, mask: NDArray[np.bool_], n_draws: int) -> Finding:
    """Ask whether more relevance lies on a mask than in maps of untrained networks."""
    mass = relevance_mass(explained.maps, mask, part="absolute")
    own = relevance_mass(explained.X, mask, part="absolute")
    nulls = np.empty((0, *explained.maps.shape))
    why_no_nulls = why_not_drawn(explained)
    if not why_no_nulls:
        nulls = null_maps(explained, "network", n_draws)
        nulls = nulls[with_relevance(nulls)]
    null = np.array([relevance_mass(m, mask, part="absolute").mean() for m in nulls])
    interval = bootstrap(mass, explained.rng("mask"))
    p_value = (1 + np.count_nonzero(null >= mass.mean())) / (1 + len(null))
    untrained = float(np.median(null)) if len(null) else 0.0
    usual = max(untrained, float(own.mean()))
    prefers = interval[0] > 1.25 * usual
    if prefers and p_value < 0.1:
        verdict = "fact"
    else:
        verdict = judge((-interval[1], -interval[0]), artifact_above=-usual, fact_below=-np.inf)
    if verdict == "fact":
        advice = ""
    elif prefers and why_no_nulls:
        advice = why_no_nulls
    elif prefers and len(null) < _ENOUGH:
        advice = (
            f"{len(null)} untrained networks with relevance are too few to decide: set "
            f"n_permutations to at least {_ENOUGH}."
        )
    else:
        advice = (
            "Relevance does not prefer the place that matters: compare rules and architectures "
            "with make_relevance_scorer('relevance_mass'), and see focus_curve."
        )
    return explained.finding(
        name="mask",
        question="Does more relevance lie on the mask than without learning?",
        statistic=float(mass.mean()),
        interval=interval,
        null=null,
        verdict=verdict,
        reading=(
            f"of |relevance| on the mask, which has {mask.mean():.1%} of the cells, "
            f"{own.mean():.1%} of |input| and {untrained:.1%} of untrained maps"
        ),
        advice=advice,
        p_value=p_value,
        table={"mass": mass, "input": own},
    )
