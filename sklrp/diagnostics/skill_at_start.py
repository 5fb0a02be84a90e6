"""Compare a network's skill with that of networks before any training.

`sklrp.diagnostics.skilled` asks here. Scores of a network that was never trained can follow a
strong signal by luck: permuted labels tell them from chance, and its maps lie where that luck is.
Were the network one of those before training, its rank among them would be uniform, whatever is
ranked. Two things are: the mean score, which training makes larger, and the mean in its standard
errors, whatever the scale of the outputs (a readout by ridge is scaled unlike one drawn).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sklrp._devices import to_host
from sklrp.diagnostics.explained import Explained
from sklrp.diagnostics.nulls import NULLS
from sklrp.diagnostics.other_networks import draw_null, why_not_drawn
from sklrp.skill import question_of

_ENOUGH = 20  # networks: a rank above all of them has a probability of 1 in 21


def skills_at_start(explained: Explained, n_draws: int) -> NDArray[np.float64] | None:
    """Return the skill of a network and of others before any training.

    Parameters
    ----------
    explained : Explained
        What is explained, with labels.
    n_draws : int
        Number of networks whose maps are compared. At most 20 of them are asked.

    Returns
    -------
    ndarray of shape (1 + n_networks, 2) or None
        The mean centred score of the truth, and this over its standard error; first the network's
        own. None of a model that has no start.
    """
    null = NULLS["network"]
    if why_not_drawn(explained) or not null.fits(explained.model):
        return None
    seeds = explained.rng("null network").integers(2**31 - 1, size=min(n_draws, _ENOUGH))
    others = explained.run(_skill_at_start, [(int(seed),) for seed in seeds])
    return np.stack([_skill(explained, explained.model.network), *others])


def _skill_at_start(explained: Explained, seed: int) -> NDArray[np.float64]:
    """Return the skill of a network before any training."""
    return _skill(explained, draw_null(explained, "network", seed))


def _skill(explained: Explained, network: object) -> NDArray[np.float64]:
    """Return the mean centred score of the truth, as it is and in standard errors."""
    rows = explained.decomposition.rows
    samples, truth = explained.given(explained.all_X[rows]), np.asarray(explained.all_y)[rows]
    question = question_of(explained.model, samples, truth, to_host(explained.asked_target))
    outputs = replace(explained.model, network=network).outputs(samples).astype(np.float64)
    if question.combine.ndim == 3:  # each sample has its own
        scores = [(question.combine[0] * outputs).sum(axis=1)]
    else:
        scores = [outputs @ weights for weights in question.combine]
    score_of = question.scores([score[:, np.newaxis] for score in scores])
    total, variance = score_of(np.arange(len(rows))[np.newaxis])
    error = np.sqrt(variance.sum())
    return np.array([total.sum(), total.sum() / error if error > 0 else 0.0])
