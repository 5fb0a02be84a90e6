"""Ask whether the network predicts better than chance: else there is nothing to explain.

`diagnose` runs this test first, on samples that the network was not trained on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sklrp.diagnostics.explained import Explained
from sklrp.diagnostics.findings import Finding
from sklrp.metrics.similarity import correlate

_LEAST = 0.3  # of the way from chance to a perfect score


def skill(explained: Explained, n_draws: int = 999) -> Finding:
    """Compare balanced accuracy, or correlation with values, with the same on permuted labels."""
    truth, predicted = explained.truth, explained.predict()
    rng = explained.rng("skill")
    n = len(truth)
    shuffled = np.stack([rng.permutation(n) for _ in range(n_draws)])
    drawn = rng.integers(n, size=(1000, n))
    same = np.arange(n)[np.newaxis]
    if explained.classes is None:
        what = "correlation of predictions and values"

        def score(rows: NDArray, of: NDArray) -> NDArray[np.float64]:
            return correlate(predicted[rows].astype(float), truth[of].astype(float))

    else:
        what = "balanced accuracy"
        present, codes = np.unique(truth, return_inverse=True)

        def score(rows: NDArray, of: NDArray) -> NDArray[np.float64]:
            return _balanced(predicted[rows] == present[codes[of]], codes[of])

    statistic = float(score(same, same)[0])
    null = score(np.broadcast_to(same, shuffled.shape), shuffled)
    p_value = (1 + np.count_nonzero(null >= statistic)) / (1 + n_draws)
    low, high = np.nanquantile(score(drawn, drawn), [0.025, 0.975])
    chance = float(null.mean())
    # The whole interval must be on one side of a small skill: of few samples it is on neither.
    least = chance + _LEAST * (1 - chance)
    verdict = "artifact" if high < least else "fact" if low > least else "undecided"
    if verdict == "fact" and p_value > 0.05:
        verdict = "undecided"
    return explained.finding(
        name="skill",
        question="Does the network predict better than chance?",
        statistic=statistic,
        interval=(float(low), float(high)),
        null=null,
        verdict=verdict,
        reading=f"{what}; permuted labels give {chance:.2f}, p = {p_value:.3g}",
        advice=""
        if verdict == "fact"
        else (
            "A network that hardly predicts has nothing to explain: look at the labels, train "
            "longer or on more samples, and change the architecture (sweep, leak_rate, pooling)."
        ),
        p_value=p_value,
        table={"permuted": null},
    )


def _balanced(right: NDArray, codes: NDArray) -> NDArray[np.float64]:
    """Return the balanced accuracy of each row of predictions."""
    recalls = []
    for code in range(int(codes.max()) + 1):
        of_class = codes == code
        n = of_class.sum(axis=1)
        hits = (right & of_class).sum(axis=1)
        recalls.append(np.divide(hits, n, out=np.full(len(n), np.nan), where=n > 0))
    return np.nanmean(recalls, axis=0)
