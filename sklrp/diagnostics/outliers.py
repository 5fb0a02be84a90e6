"""Ask whether a few cells of large values hold the relevance, whatever was learned.

Rules that share by contribution follow large values, such as the edge of sea ice. `diagnose` runs
this test.
"""

from __future__ import annotations

import numpy as np

from sklrp.diagnostics.common_form import share_on
from sklrp.diagnostics.explained import Explained
from sklrp.diagnostics.findings import Finding, bootstrap, judge


def outlying_cells(explained: Explained, n_draws: int) -> Finding:
    """Ask whether a few cells of large values hold the relevance, whatever was learned."""
    samples = explained.all_X.reshape(len(explained.all_X), -1).astype(np.float64)
    size = np.sqrt((samples**2).mean(axis=0))
    typical = np.median(size[size > 0]) if size.any() else 1.0
    outlying = size > 10 * typical
    if outlying.mean() > 0.1:
        outlying[:] = False  # a tenth of the cells are no outliers
    share = share_on(explained.maps, outlying)
    null = np.array(
        [share_on(m, outlying).mean() for m in explained.null_maps("network", n_draws)]
    )
    interval = bootstrap(share, explained.rng("outliers"))
    verdict = judge(interval, artifact_above=0.5, fact_below=0.4)
    if np.median(null) < 0.5 * share.mean():
        verdict = "fact"
    return explained.finding(
        name="outliers",
        question="Do a few cells of large values hold the relevance?",
        statistic=float(share.mean()),
        interval=interval,
        null=null,
        verdict=verdict,
        reading=(
            f"of |relevance| on the {outlying.sum()} of {outlying.size} cells that are more than "
            f"ten times as large as the median cell; untrained {np.median(null):.2f}"
        ),
        advice=""
        if verdict == "fact"
        else (
            "Relevance goes where values are large, learned or not: cap the input "
            "(sklrp.preprocessing.InputCapper) or standardise each cell."
        ),
        cells=outlying.reshape(explained.X.shape[1:]),
        table={"share": share},
    )
