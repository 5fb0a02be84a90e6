"""Ask whether other networks, trained in the same way, have the same map.

`diagnose` runs this test with ``n_networks``. Clones are trained from other seeds on all training
samples, and from other seeds on two halves of them; the model itself is never trained. What all of
them show is any such network's, the rest of the map is this one's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control
from scipy.stats import t as student
from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit

from sklrp.diagnostics.explained import Explained
from sklrp.diagnostics.findings import Finding, bootstrap
from sklrp.diagnostics.other_networks import check_trainable, train_again

# The mean correlation of two networks' maps is the share of a map's variance that they have in
# common, the intraclass correlation.
_FACT_ABOVE = 0.5  # more is common to networks than is one's own
_ALPHA = 0.05  # the rate of false discoveries of cells that networks agree on
_FEWEST = 3  # of two networks a cell's spread has one degree of freedom, and nothing is told


def find_stable(explained: Explained, n_networks: int) -> Finding:
    """Compare the mean maps of networks from other seeds and from halves of the training data."""
    # It is a fact if more than half of the variance is common to networks from other seeds, and
    # to those from halves. It convicts no map: what is unstable may be true of each network.
    check_networks(explained, n_networks)
    halves = _draw_halves(explained, n_networks // 2)
    skill, maps, sizes = _refit(explained, _draw_seeds(explained, n_networks))
    half_skill, half_maps, _ = _refit(explained, halves)
    between = _correlate(maps)
    pairs = half_maps.reshape(-1, 2, *maps.shape[1:])
    of_halves = np.array([_correlate(pair)[0, 1] for pair in pairs])
    each = (between.sum(axis=1) - 1) / (n_networks - 1)
    statistic = float(each.mean())
    interval = _interval_of_pairs(each, explained.rng("stable interval"))
    is_fact = interval[0] > _FACT_ABOVE and of_halves.mean() > _FACT_ABOVE
    cells = compare_cells(explained.maps.mean(axis=0, dtype=np.float64), maps)
    return explained.finding(
        name="stable",
        question="Do networks from other seeds and other halves of the training data agree?",
        statistic=statistic,
        interval=interval,
        null=of_halves,
        verdict="fact" if is_fact else "undecided",
        reading=(
            f"correlation of the mean maps of {n_networks} networks from other seeds, "
            f"{of_halves.mean():.2f} from halves of the training data; {cells['share']:.0%} of "
            f"|this map| is any such network's{_say_skill(explained, skill, half_skill)}"
        ),
        advice=""
        if is_fact
        else (
            "Trust the cells that networks have in common, and show the mean map: train several "
            "networks, regularise them or give them more samples."
        ),
        **cells,
        maps=maps,
        sizes=sizes,
        correlation=between,
        halves=of_halves,
        skill=skill,
        half_skill=half_skill,
        table={"network": np.arange(n_networks), "correlation": each, "skill": skill},
    )


def compare_cells(this: NDArray, maps: NDArray) -> dict[str, Any]:
    """Tell for each cell whether networks agree on it.

    Parameters
    ----------
    this : ndarray of shape (...)
        The mean map of the network that is explained.
    maps : ndarray of shape (n_networks, ...)
        The mean maps of other networks.

    Returns
    -------
    dict
        ``mean``, ``spread`` (the standard deviation over networks), ``stability`` (the mean over
        its standard error, Student's t), ``agreement`` (the share of networks with the sign of
        the mean), all of the shape of a sample. ``common`` and ``own`` part the cells that have
        more than an even share of this network's map: ``common`` where networks agree, with a
        false discovery rate of 5 %, and this one has their sign; ``own`` elsewhere. ``share`` is
        how much of this map's absolute values is common.
    """
    n_networks = len(maps)
    mean, spread = maps.mean(axis=0), maps.std(axis=0, ddof=1)
    error = spread / np.sqrt(n_networks)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Networks that are equal, as of a convex loss, agree wherever they have relevance.
        stability = np.where(mean == 0, 0.0, mean / error)
    p = 2 * student.sf(np.abs(stability), n_networks - 1)
    agree = false_discovery_control(p.ravel()).reshape(p.shape) <= _ALPHA
    size = np.abs(this)
    marked = size > size.mean()
    common = marked & agree & (np.sign(this) == np.sign(mean))
    return {
        "mean": mean,
        "spread": spread,
        "stability": stability,
        "agreement": (np.sign(maps) == np.sign(mean)).mean(axis=0),
        "common": common,
        "own": marked & ~common,
        "share": float(size[common].sum() / size.sum()) if size.any() else 0.0,
    }


def check_networks(explained: Explained, n_networks: int) -> None:
    """Raise an error if other networks cannot be trained, explained or compared."""
    check_trainable(explained, "n_networks")
    if explained.is_given:
        raise ValueError(
            "relevance was made elsewhere: other networks cannot be explained in the same way."
        )
    if n_networks < _FEWEST:
        raise ValueError(f"n_networks={n_networks} is too few to compare: use at least {_FEWEST}.")


def _draw_seeds(explained: Explained, n: int) -> list[tuple[int, NDArray | None]]:
    """Return seeds, and all rows of the training data."""
    seeds = explained.rng("stable").integers(2**31 - 1, size=n).tolist()
    return [(seed, None) for seed in seeds]


def _draw_halves(explained: Explained, n: int) -> list[tuple[int, NDArray | None]]:
    """Return seeds and rows for pairs of networks, each trained on one half of the samples."""
    rng = explained.rng("stable halves")
    y = np.asarray(explained.y_train)
    splitter: Any = ShuffleSplit
    if explained.classes is not None:
        splitter = StratifiedShuffleSplit
        labels, counts = np.unique(y, return_counts=True)
        if counts.min() < 2:
            raise ValueError(
                f"y_train has one sample of the class {labels[counts.argmin()].item()!r}: "
                "n_networks trains networks on two halves, which need one each."
            )
    split = splitter(n, test_size=0.5, random_state=int(rng.integers(2**31 - 1)))
    seeds = rng.integers(2**31 - 1, size=(n, 2)).tolist()
    return [
        (seed, rows)
        for pair, halves in zip(seeds, split.split(np.zeros(len(y)), y), strict=True)
        for seed, rows in zip(pair, halves, strict=True)
    ]


def _refit(
    explained: Explained, settings: list[tuple[int, NDArray | None]]
) -> tuple[NDArray, NDArray, NDArray]:
    """Return the skill of clones, their mean maps, and the mean sizes of their maps."""
    found = explained.run(_train_and_explain, settings)
    shape = len(found), -1, *explained.X.shape[1:]
    arrays = found[:, 1:].reshape(shape)
    return found[:, 0], arrays[:, 0], arrays[:, 1:]


def _train_and_explain(explained: Explained, seed: int, rows: NDArray | None) -> NDArray:
    """Return the skill, the mean map and its `mean_sizes` of a clone, in one array."""
    network = train_again(explained, seed, rows=rows)
    maps = explained.maps_of(network)
    mean = maps.mean(axis=0, dtype=np.float64)
    return np.concatenate(
        [[explained.skill_of(network)], mean.ravel(), np.ravel(explained.mean_sizes(maps))]
    )


def _interval_of_pairs(each: NDArray, rng: np.random.Generator) -> tuple[float, float]:
    """Return the interval of the mean of all pairs, by the means of each network's pairs."""
    # A pair is of two networks: means of single networks' pairs vary half as much as the mean of
    # all does from one set of networks to the next. Pseudo-values of the jackknife do not.
    n = len(each)
    return bootstrap((2 * (n - 1) * each - n * each.mean()) / (n - 2), rng)


def _say_skill(explained: Explained, skill: NDArray, half_skill: NDArray) -> str:
    """Say how well the networks predict, so that one that did not train is seen."""
    if explained.all_y is None:
        return ""
    what = "accuracy" if explained.classes is not None else "correlation with the truth"
    own = explained.skill_of(explained.model.network)
    return (
        f"; their {what} is {skill.min():.2f} to {skill.max():.2f}, of halves "
        f"{half_skill.min():.2f} to {half_skill.max():.2f}, this one's {own:.2f}"
    )


def _correlate(maps: NDArray) -> NDArray[np.float64]:
    """Return the correlations of maps with one another; those of a constant map are 0."""
    flat = maps.reshape(len(maps), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    size = np.linalg.norm(flat, axis=1, keepdims=True)
    unit = np.divide(flat, size, out=np.zeros_like(flat), where=size > 0)
    found = unit @ unit.T
    np.fill_diagonal(found, 1.0)
    return found
