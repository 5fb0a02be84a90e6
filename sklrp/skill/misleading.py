"""Whether cells that speak against the truth do harm: their loss without what they say.

Paths from a baseline to a sample lead over places without data, so that a cell of two values can
seem to speak against the truth. `decompose_skill` therefore replaces such cells by those of other
samples, and calls misleading only where the model then loses less.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ttest_1samp

from sklrp._stored import take_blocks
from sklrp.skill.questions import Question

_MOST_CANDIDATES, _FEWEST_CANDIDATES = 64, 8
_MOST_VALUES = 2**28  # of replaced samples
_MOST_DRAWS = 8


def confirm_harm(
    candidates: list[tuple[int, NDArray]],
    ask: Callable[[NDArray], NDArray],
    samples: NDArray,
    pool: NDArray,
    question: Question,
    units: NDArray[np.intp],
    alpha: float,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Tell for each candidate whether a model loses less where other samples' values replace it.

    Parameters
    ----------
    candidates : list of (int, ndarray)
        Which of the questions, and which cells; the largest first. As many are asked as time
        allows, 8 to 64; the others count as harmless.
    ask : callable
        Returns the scores, (n, n_outputs), of samples.
    samples, pool : ndarray of shape (n, ...)
        Held-out samples, and those whose values replace theirs.
    question : Question
        What is asked, and so what is lost.
    units : ndarray of shape (n_samples,)
        The unit of each sample; losses are compared over the means of units.
    alpha : float
        The probability of a false one, with Holm's correction.
    rng : numpy.random.Generator
        Draws the samples that replace.

    Returns
    -------
    ndarray of shape (n_candidates,)
        True where the model loses less.

    References
    ----------
    S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Stat. 6, 1979;
    L. Breiman, "Random forests", Mach. Learn. 45, 2001 (replacement by values of other samples).
    """
    confirmed = np.zeros(len(candidates), dtype=bool)
    asked = candidates[: most_candidates(samples)]
    if not asked:
        return confirmed
    n_draws = min(max(_MOST_VALUES // (samples.size * len(asked)), 1), _MOST_DRAWS)
    before = question.losses(ask(samples))
    chosen = rng.integers(len(pool), size=(n_draws, len(samples)))
    gains = np.stack([
        _gain(ask, samples, chosen, pool, question, cells, k, before[:, k]) for k, cells in asked
    ])  # fmt: skip
    sizes = np.bincount(units)
    means = np.stack([np.bincount(units, gain) / sizes for gain in gains])
    p_values = ttest_1samp(means, 0.0, axis=1, alternative="greater").pvalue
    p_values = np.where(np.isfinite(p_values), p_values, 1.0)
    order = np.argsort(p_values)
    adjusted = np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1))
    confirmed[order] = adjusted <= alpha
    return confirmed


def most_candidates(samples: NDArray) -> int:
    """Return how many candidates are asked for their harm."""
    return min(max(_MOST_VALUES // samples.size, _FEWEST_CANDIDATES), _MOST_CANDIDATES)


def _gain(
    ask: Callable[[NDArray], NDArray],
    samples: NDArray,
    chosen: NDArray[np.intp],
    pool: NDArray,
    question: Question,
    cells: NDArray,
    which: int,
    before: NDArray,
) -> NDArray[np.float64]:
    """Return how much less each sample loses in the mean over what replaces its cells."""
    others = np.array(pool.reshape(len(pool), -1)[:, cells])
    gain = np.zeros(len(samples))
    for rows in chosen:
        outputs = []
        for place, part in take_blocks(samples):
            changed = np.array(part).reshape(len(part), -1)
            changed[:, cells] = others[rows[place]]
            outputs.append(ask(changed.reshape(part.shape)))
        after = question.losses(np.concatenate(outputs))
        gain += before - after[:, which]
    return gain / len(chosen)
