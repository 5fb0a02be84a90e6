"""Ask whether the model knows anything of samples that it never saw: else a map shows nothing.

`diagnose` runs this test first. Whether there is skill, a p-value says; how much, balanced
accuracy or correlation.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from sklrp.diagnostics.explained import Explained
from sklrp.diagnostics.findings import Finding
from sklrp.diagnostics.skill_at_start import skills_at_start
from sklrp.metrics.similarity import correlate
from sklrp.skill import Decomposition

# Of the way from chance to a perfect score: accuracy .65 of two classes. 100 held-out samples tell
# four of five networks that reach it from chance, so a test that excludes it had power.
_LEAST = 0.3
# p-values up to this, in the right direction, speak for a weak skill: one in ten networks without
# any has such a one, and is not convicted.
_HINT = 0.2
# One network in 400 without skill seems so clearly reversed; at .05 it would be one in 40.
_REVERSED = 0.005
_NOT_LEARNED = (
    "Networks that were never trained know as much of these samples, by luck: train longer or on "
    "more samples, or check that the trained parameters were loaded."
)
# Of the samples of other classes: predictions of so few others are of one class.
_NEARLY_NONE = 0.1
_AT_CHANCE = "its predictions are at chance"
_OF_VALUES = "Check the units of X and of y, and that X is prepared as in training."
_OF_CLASSES = (
    "Check that X is prepared as in training. If it is, another threshold, or training with "
    "class_weight='balanced', makes better predictions of these scores."
)
_POWER = 2.8  # standard errors: an effect that four of five tests at the level .05 find


def find_skilled(explained: Explained, n_draws: int = 20, alpha: float = 0.05) -> Finding:
    """Test the mean centred score of the truth against permuted labels and untrained networks."""
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
    verdict, by_luck = _judge_skill(found, alpha, high, chance), ""
    starts = skills_at_start(explained, n_draws) if verdict == "fact" else None
    if starts is not None:
        n_as_good = int((starts[1:] >= starts[0]).sum(axis=0).min())
        if n_as_good > max(0, math.floor(alpha * len(starts)) - 1):
            verdict = "undecided"
            by_luck = (
                f"; {n_as_good} of {len(starts) - 1} networks before any training have as much"
            )
    if by_luck:
        advice = _NOT_LEARNED
    elif verdict == "fact":
        advice = ""
    else:
        advice = _advise_on_skill(verdict, found, statistic, high, chance)
    caution = _say_at_chance(explained, predicted, truth, statistic, chance, verdict == "fact")
    if caution:
        remedy = _OF_VALUES if explained.classes is None else _OF_CLASSES
        caution = f"{caution} {advice or remedy}"
    least = 0.0 if explained.classes is not None else -1.0
    return explained.finding(
        name="skilled",
        question="Does the model know anything of samples that it never saw?",
        statistic=float(statistic),
        interval=(max(low, least), min(high, 1.0)),
        null=np.array([chance]),
        verdict=verdict,
        reading=(
            f"{what}, {chance:.2f} by chance; the answer rests on the mean score of the truth, "
            f"{found.total:.3g}, against permuted labels of {found.exchange.words}: "
            f"p = {found.p_value:.3g}{by_luck}"
        ),
        advice=advice,
        caution=caution,
        tested=f"mean score of the truth {found.total:.3g}, p = {found.p_value:.3g}",
        p_value=found.p_value,
        total=found.total,
        table={"bootstrap": np.array(drawn)},
    )


def _say_at_chance(
    explained: Explained,
    predicted: NDArray,
    truth: NDArray,
    statistic: float,
    chance: float,
    is_skilled: bool,
) -> str:
    """Say that predictions are at chance, whatever scores know; nothing if they are not."""
    n = len(truth)
    if explained.classes is None:
        errors = float(((truth - predicted.astype(float)) ** 2).mean())
        share = 1 - errors / float(np.var(truth)) if np.var(truth) > 0 else 1.0
        if share > 0 or not is_skilled:
            return ""
        return (
            f"Its R2 is {share:.3g}, no better than the mean of the values, whatever the "
            f"correlation ({statistic:.3g}): its predictions have another level or spread."
        )
    labels, counts = np.unique(predicted, return_counts=True)
    most, n_most = labels[counts.argmax()], int(counts.max())
    if n - n_most <= _NEARLY_NONE * np.count_nonzero(truth != most):
        who = f"all {n}" if n_most == n else f"{n_most} of {n}"
        ranks = "it ranks them, but " if is_skilled else ""
        return f"It predicts {most.item()!r} for {who} samples: {ranks}{_AT_CHANCE}."
    if statistic <= chance and is_skilled:
        return (
            f"Its balanced accuracy on {n} samples is {statistic:.3g}, where chance gives "
            f"{chance:.3g}: it ranks them, but {_AT_CHANCE}."
        )
    return ""


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


def _judge_skill(found: Decomposition, alpha: float, high: float, chance: float) -> str:
    """Return the verdict: a network that could not be told skilled is not convicted for it."""
    if found.p_value <= alpha and found.total > 0:
        return "fact"
    if _is_reversed(found, high, chance):
        return "artifact"
    if found.total > 0 and found.p_value <= _HINT:
        return "undecided"
    # That nothing was found says something only of a test that would have found it.
    return "artifact" if high < chance + _LEAST * (1 - chance) else "undecided"


def _is_reversed(found: Decomposition, high: float, chance: float) -> bool:
    """Tell whether the network predicts the reverse, beyond what chance makes of few samples."""
    return found.total < 0 and found.p_value <= _REVERSED and high < chance


def _advise_on_skill(
    verdict: str, found: Decomposition, statistic: float, high: float, chance: float
) -> str:
    """Return what to do about a model that was not told skilled."""
    if _is_reversed(found, high, chance):
        return "The model predicts the reverse of the labels: check which label is which output."
    if verdict == "artifact":
        return (
            "A model that does not predict has nothing to explain: look at the labels, train "
            "longer or on more samples, or take another architecture (for an LSTM or an ESN "
            "another sweep, leak_rate or pooling)."
        )
    n, units = len(found.rows), found.exchange.n_units
    what = "samples" if units == n else f"independent units ({found.exchange.words} now)"
    z = found.total / found.error if found.error > 0 else 0.0
    if z > 1:
        needed = math.ceil(units * max((_POWER / z) ** 2, 1.5))
        return (
            f"Too few samples to tell whether the model predicts at all: about {needed} held-out "
            f"{what} would, if its skill is as large as it looks."
        )
    gap = chance + _LEAST * (1 - chance) - statistic
    needed = math.ceil(units * max(((high - statistic) / gap) ** 2, 1.5)) if gap > 0 else 2 * units
    return (
        "Too few samples to tell whether the model predicts at all: hold out more, about "
        f"{needed} {what}."
    )
