"""Skill: a network that has learned nothing has maps of nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sklrp.diagnostics.explained import Explained
from sklrp.diagnostics.findings import Finding


def skill(explained: Explained, n_draws: int = 999) -> Finding:
    """Compare balanced accuracy with that on permuted labels."""
    y = explained.all_y
    predicted = np.asarray(explained.estimator.predict(explained.given(explained.all_X)))
    present, codes = np.unique(np.asarray(y), return_inverse=True)
    right = predicted == y
    rng = np.random.default_rng(0)
    statistic = _balanced(right[None], codes[None])[0]
    shuffled = np.stack([rng.permutation(len(codes)) for _ in range(n_draws)])
    null = _balanced(predicted[None] == present[codes[shuffled]], codes[shuffled])
    p_value = (1 + np.count_nonzero(null >= statistic)) / (1 + n_draws)
    rows = rng.integers(len(codes), size=(1000, len(codes)))
    low, high = np.nanquantile(_balanced(right[rows], codes[rows]), [0.025, 0.975])
    chance = float(null.mean())
    # The whole interval must be on one side of a small skill: of few samples it is on neither.
    least = chance + 0.3 * (1 - chance)
    verdict = "artifact" if high < least else "fact" if low > least else "undecided"
    if verdict == "fact" and p_value > 0.05:
        verdict = "undecided"
    return Finding(
        name="skill",
        question="Does the network predict the labels better than chance?",
        statistic=float(statistic),
        interval=(float(low), float(high)),
        null=null,
        verdict=verdict,
        reading=f"balanced accuracy; permuted labels give {chance:.2f}, p = {p_value:.3g}",
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
