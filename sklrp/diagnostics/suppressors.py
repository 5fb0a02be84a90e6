"""Look for suppressors: cells that say nothing by themselves, but take noise away from others.

`diagnose` and `artifact_map` run this test. A network rightly uses a suppressor, and every rule
that follows the network shows it; read as "here is the signal", such a map is wrong.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sklrp.diagnostics.common_form import share_on
from sklrp.diagnostics.explained import Explained
from sklrp.diagnostics.findings import Finding, bootstrap

_USED = 2.0  # times the mean contribution: cells of noise that was fitted have up to the mean
_MOST_SKILL = 2.0  # standard errors, the usual two: a cell that may carry skill is no suppressor
# The correlation with what all other cells add: half of the variance, .7 squared, is taken away.
_AGAINST = -0.7
_FEWEST_SAMPLES = 10  # of ten independent ones one in eighty correlates so by chance
# Times the spread of what all other cells add: what takes away half of a variance has .7 of its
# spread, less what the network does not take away.
_AS_MUCH = 0.6
# Of the relevance. In smooth fields the neighbours of a signal correct it a bit: of 184 sound maps
# of the planted suite 99 of 100 have .03 or less on such cells, and one .18; planted suppressors
# have .35 to .69.
_SHARE = 0.22


def find_suppressors(explained: Explained, information: NDArray | None) -> Finding:
    r"""Ask whether much relevance lies on cells without skill that work against the others.

    Suppressors S are used, have neither skill nor, by themselves, information on the labels, and
    what they add to the score runs against what all other cells add, from sample to sample of a
    class: the correlation of :math:`\sum_{i \in S} \phi_{ni}` and :math:`\sum_{i \notin S}
    \phi_{ni}` is below -0.7, and they spread as much (Haufe et al. 2014).

    Parameters
    ----------
    explained : Explained
        What is explained, with labels.
    information : ndarray or None
        What single cells tell about the labels, of `find_information`.

    Returns
    -------
    Finding
        With ``cells``, a mask of suppressors, and ``against``, the correlation.
    """
    cells = explained.decomposition.cells
    parts = explained.contributions.reshape(len(explained.X), -1).astype(np.float64)
    for rows in explained.rows_by_target:
        parts[rows] -= parts[rows].mean(axis=0)
    use = np.abs(parts).mean(axis=0)
    mute = ~cells["true_fdr"].ravel() & (cells["z"].ravel() < _MOST_SKILL)
    if information is not None:
        mute &= information.ravel() <= 0
    chosen = mute & (use > _USED * use.mean())
    against, ratio = float("nan"), 0.0
    if chosen.any() and not chosen.all() and len(parts) >= _FEWEST_SAMPLES:
        sums = np.stack([parts[:, chosen].sum(axis=1), parts[:, ~chosen].sum(axis=1)])
        if (np.ptp(sums, axis=1) > 0).all():
            against = float(np.corrcoef(sums)[0, 1])
        ratio = float(sums[0].std() / max(sums[1].std(), np.finfo(float).tiny))
    if not (against < _AGAINST and ratio > _AS_MUCH):
        chosen = np.zeros_like(chosen)
    share = share_on(explained.maps, chosen)
    interval = bootstrap(share, explained.rng("suppressor"))
    verdict = "artifact" if interval[0] > _SHARE else "undecided" if chosen.any() else "fact"
    return explained.finding(
        name="suppressor",
        question="Does relevance lie on cells that only take noise away from others?",
        statistic=float(share.mean()),
        interval=interval,
        null=np.zeros(1),
        verdict=verdict,
        reading=(
            f"of |relevance| on {chosen.sum()} cells without skill whose contributions correlate "
            f"with those of the others at {against:.2f}"
            if chosen.any()
            else "of |relevance|: no group of cells works against the others"
        ),
        advice=""
        if verdict == "fact"
        else (
            "These cells are used and say nothing by themselves: read them as what corrects "
            "others, not as signal."
        ),
        cells=chosen.reshape(explained.X.shape[1:]),
        against=against,
        table={"share": share},
    )
