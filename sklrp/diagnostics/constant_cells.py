"""Ask whether relevance lies on cells that hardly differ, such as land or fill values.

Such cells tell no classes apart. `diagnose` runs this test.
"""

from __future__ import annotations

import numpy as np

from sklrp.diagnostics.common_form import share_on
from sklrp.diagnostics.explained import Explained
from sklrp.diagnostics.findings import Finding, bootstrap, judge

_MOSTLY = 0.8  # of its mean square: a cell whose mean is twice its spread
# Shares of the relevance. Cells of one value tell nothing, so that any share is a fault: a
# twentieth is what may come of rounding and of rules that spread over zeros. An offset shows
# nothing by itself if it earns three quarters: sound maps of the planted suite have up to .68 (19
# of 20 have .64), such of inputs that are not centred .81 to 1. Facts keep a fifth away from it.
_LIMITS = {"fixed": 0.05, "offset": 0.75}
_CLEAR = 0.8  # times the limit


def fixed_cells(explained: Explained) -> Finding:
    """Ask how much relevance lies on cells that hold one value, or nearly, in all samples."""
    samples = explained.some_X.reshape(len(explained.some_X), -1).astype(np.float64)
    mean, spread = np.abs(samples.mean(axis=0)), samples.std(axis=0)
    fixed = spread <= 1e-6 * mean
    # A cell that varies in training is one value by chance only.
    pool = explained.some_pool.reshape(len(explained.some_pool), -1).astype(np.float64)
    fixed &= pool.std(axis=0) <= 1e-6 * np.abs(pool.mean(axis=0))
    # How much of a cell's mean square its mean makes: what an offset adds to relevance.
    size = mean**2 + spread**2
    offset = np.divide(mean**2, size, out=np.zeros_like(size), where=(size > 0) & ~fixed)
    weights = {"fixed": fixed.astype(float), "offset": offset}
    shares = {kind: share_on(explained.maps, weight) for kind, weight in weights.items()}
    kind = max(weights, key=lambda k: float(shares[k].mean()) / _LIMITS[k])
    share, own = shares[kind], share_on(explained.X, weights[kind])
    cells = fixed if kind == "fixed" else offset > _MOSTLY
    interval = bootstrap(share, explained.rng("constant"))
    limit = _LIMITS[kind]
    verdict = judge(interval, artifact_above=limit, fact_below=_CLEAR * limit)
    which = {
        "fixed": f"on {cells.sum()} of {cells.size} cells of one value",
        "offset": f"earned by the mean of cells, above twice the spread in {cells.sum()}",
    }[kind]
    return explained.finding(
        name="constant",
        question="Does relevance lie on cells that hardly differ between samples?",
        statistic=float(share.mean()),
        interval=interval,
        null=own,
        verdict=verdict,
        reading=(f"of |relevance| {which}, as is {own.mean():.0%} of |input|"),
        advice=""
        if verdict == "fact"
        else (
            "Cells that are the same in all samples tell no classes apart: subtract the mean of "
            "the training data, so that offsets and fill values become 0, or mask them "
            "(sklrp.preprocessing.InputMasker)."
        ),
        kind=kind,
        cells=cells.reshape(explained.X.shape[1:]),
        table={"share": share, "input": own},
    )
