"""Ask whether relevance lies on cells that hardly differ, such as land or fill values.

Such cells tell no classes apart. `diagnose` runs this test.
"""

from __future__ import annotations

import numpy as np

from sklrp.diagnostics.common_form import share_on
from sklrp.diagnostics.explained import Explained
from sklrp.diagnostics.findings import Finding, bootstrap, judge


def fixed_cells(explained: Explained) -> Finding:
    """Ask how much relevance lies on cells that hold one value, or nearly, in all samples."""
    samples = explained.all_X.reshape(len(explained.all_X), -1).astype(np.float64)
    mean, spread = np.abs(samples.mean(axis=0)), samples.std(axis=0)
    kinds = {"fixed": spread <= 1e-6 * mean, "offset": mean > 5 * spread}
    limits = {"fixed": 0.05, "offset": 0.5}
    shares = {kind: share_on(explained.maps, cells) for kind, cells in kinds.items()}
    kind = max(kinds, key=lambda k: float(shares[k].mean()) / limits[k])
    share, own = shares[kind], share_on(explained.X, kinds[kind])
    interval = bootstrap(share, explained.rng("constant"))
    limit = limits[kind]
    verdict = judge(interval, artifact_above=limit, fact_below=0.8 * limit)
    which = {"fixed": "of one value", "offset": "of a mean above five times their spread"}[kind]
    return explained.finding(
        name="constant",
        question="Does relevance lie on cells that hardly differ between samples?",
        statistic=float(share.mean()),
        interval=interval,
        null=own,
        verdict=verdict,
        reading=(
            f"of |relevance| on {kinds[kind].sum()} of {kinds[kind].size} cells {which}, which "
            f"hold {own.mean():.0%} of |input|"
        ),
        advice=""
        if verdict == "fact"
        else (
            "Cells that are the same in all samples tell no classes apart: subtract the mean of "
            "the training data, so that offsets and fill values become 0, or mask them "
            "(sklrp.preprocessing.InputMasker)."
        ),
        kind=kind,
        cells=kinds[kind].reshape(explained.X.shape[1:]),
        table={"share": share, "input": own},
    )
