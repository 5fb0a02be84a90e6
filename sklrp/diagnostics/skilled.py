"""Ask whether the model knows anything of samples that it never saw: else a map shows nothing.

`diagnose` runs this test first. Whether there is skill, a p-value says; how much, balanced
accuracy or correlation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from sklrp.diagnostics.explained import Explained
from sklrp.diagnostics.findings import Finding
from sklrp.metrics.similarity import correlate

_LEAST = 0.3  # of the way from chance to a perfect score: what a test of power would have found


def find_skilled(explained: Explained, alpha: float = 0.05) -> Finding:
    """Test the mean centred score of the truth against permuted labels."""
    found = explained.decomposition
    truth, predicted = explained.truth[found.rows], explained.predict()[found.rows]
    score, chance, what = _effect(explained, truth)
    statistic = score(predicted, truth)
    n, rng = len(truth), explained.rng("skilled")
    drawn = [score(predicted[rows], truth[rows]) for rows in rng.integers(n, size=(500, n))]
    low, high = (float(v) for v in np.nanquantile(drawn, [0.025, 0.975]))
    units = found.exchange.n_units
    if units < n:  # samples of a unit are not so many
        wider = np.sqrt(n / units)
        low, high = statistic - wider * (statistic - low), statistic + wider * (high - statistic)
    if explained.classes is not None:  # of few samples the bootstrap is too sure
        hits = round(statistic * units)
        high = max(high, float(binomtest(hits, units).proportion_ci().high))
    significant = found.p_value <= alpha
    if significant:
        verdict = "fact" if found.total > 0 else "artifact"
    else:  # that nothing was found says something only of a test that would have found it
        verdict = "artifact" if high < chance + _LEAST * (1 - chance) else "undecided"
    return explained.finding(
        name="skilled",
        question="Does the model know anything of samples that it never saw?",
        statistic=float(statistic),
        interval=(low, high),
        null=np.array([chance]),
        verdict=verdict,
        reading=(
            f"{what}, {chance:.2f} by chance; the mean score of the truth against permuted labels "
            f"of {found.exchange.words}: p = {found.p_value:.3g}"
        ),
        advice="" if verdict == "fact" else _advise_on_skill(verdict, significant),
        p_value=found.p_value,
        total=found.total,
        table={"bootstrap": np.array(drawn)},
    )


def _effect(
    explained: Explained, truth: NDArray
) -> tuple[Callable[[NDArray, NDArray], float], float, str]:
    """Return the size of a skill, its value by chance, and what it is called."""
    if explained.classes is None:

        def correlation(predicted: NDArray, truth: NDArray) -> float:
            return float(correlate(predicted[np.newaxis].astype(float), truth[np.newaxis])[0])

        return correlation, 0.0, "correlation of predictions and values"

    def balanced(predicted: NDArray, truth: NDArray) -> float:
        hits = [np.mean(predicted[truth == label] == label) for label in np.unique(truth)]
        return float(np.mean(hits))

    return balanced, 1 / len(np.unique(truth)), "balanced accuracy"


def _advise_on_skill(verdict: str, reverse: bool) -> str:
    if reverse:
        return "The model predicts the reverse of the labels: check which label is which output."
    if verdict == "artifact":
        return (
            "A model that does not predict has nothing to explain: look at the labels, train "
            "longer or on more samples, and change the architecture (sweep, leak_rate, pooling)."
        )
    return "Too few samples to tell whether the model predicts at all: hold out more."
