"""Ask whether the network misses what the map names, more than what other maps name.

`diagnose` runs this test, which flips pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sklrp.diagnostics.explained import Explained
from sklrp.diagnostics.findings import Finding, bootstrap
from sklrp.metrics import pixel_flipping_score


def faithfulness(explained: Explained, n_draws: int) -> Finding:
    """Compare the pixel-flipping score with the null maps' score; mean values replace cells."""
    n_cells = int(np.prod(explained.X.shape[1:][-2:]))
    edge = max(1, round((n_cells / 300) ** 0.5)) if explained.X.ndim > 2 else None
    # Of a single output maps follow its value, which may be negative; of classes their score.
    sign = np.ones(len(explained.X))
    if explained.target is None:
        sign = np.where(explained.details.score < 0, -1.0, 1.0)

    def score(maps: NDArray) -> NDArray:
        return pixel_flipping_score(
            explained.outputs,
            explained.X,
            maps * sign.reshape(-1, *[1] * (maps.ndim - 1)),
            target=explained.columns,
            groups=edge,
            steps=10,
            baseline=explained.all_X.mean(axis=0),
            random_state=explained.seed("faithfulness"),
        )

    nulls = explained.null_maps("network", n_draws)[:5]  # each is flipped as often as the map
    size = max(float(np.abs(explained.details.score).mean()), np.finfo(float).tiny)
    null = np.stack([score(maps) for maps in nulls]) / size
    gain = score(explained.maps) / size - null.mean(axis=0)
    interval = bootstrap(gain, explained.rng("faithfulness interval"))
    low, high = interval
    verdict = "artifact" if high < 0.05 else "fact" if low > 0.05 else "undecided"
    return explained.finding(
        name="faithfulness",
        question=(
            "Does the score fall faster when cells are removed in the map's order than in an "
            "untrained map's?"
        ),
        statistic=float(gain.mean()),
        interval=interval,
        null=null.mean(axis=1) - null.mean(),
        verdict=verdict,
        reading=(
            "of the score falls, on average, when the map's order is followed instead of the "
            "order of untrained networks"
        ),
        advice=""
        if verdict == "fact"
        else (
            "The score does not depend on what the map names: centre the input, and choose a rule "
            "by make_relevance_scorer('pixel_flipping')."
        ),
        table={"gain": gain},
    )
