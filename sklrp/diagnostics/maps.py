"""Fact map and artifact map: what a map shows beyond those of untrained networks."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import false_discovery_control, t

from sklrp._checks import check_mask
from sklrp._sklearn import Interval, StrOptions, validate_params
from sklrp.diagnostics.explained import NULLS, Explained
from sklrp.diagnostics.findings import Finding, bootstrap, judge
from sklrp.diagnostics.randomization import COMMON
from sklrp.metrics import pixel_flipping_score, relevance_mass


@validate_params(
    {
        **COMMON,
        "null": [StrOptions(set(NULLS))],
        "n_permutations": [Interval(Integral, 3, None, closed="left")],
        "alpha": [Interval(Real, 0, 1, closed="neither")],
    },
    prefer_skip_nested_validation=True,
)
def artifact_map(
    estimator: Any,
    X: ArrayLike,
    y: ArrayLike | None = None,
    *,
    null: str = "network",
    alpha: float = 0.05,
    target: Any = None,
    n_permutations: int = 50,
    max_samples: int | None = 100,
    n_jobs: int | None = None,
    random_state: int | np.random.RandomState | None = None,
    **explain_params: Any,
) -> Finding:
    r"""Split the mean map into what exceeds that of null models and what does not.

    Maps are divided by their sum of absolute values, take the sign of the explained score, and are
    averaged over samples. Per cell, the mean map T is compared with the mean maps of K null models
    on the same samples, of mean m and standard deviation s,

    .. math:: z = \frac{T - m}{s \sqrt{1 + 1/K}},

    which Student's t distribution with K - 1 degrees of freedom turns into a two-sided p-value.
    The false discovery rate over cells is held at `alpha` (Benjamini-Hochberg). The *fact map* is
    T - m where that is significant and 0 elsewhere; the *artifact map* is the rest, T less the
    fact map: what the null already shows, or what cannot be told from it. To see a class, pass its
    samples alone.

    Parameters
    ----------
    estimator : estimator
        A fitted classifier with ``explain``, or a pipeline that ends in one.
    X : array-like of shape (n_samples, ...)
        The samples.
    y : array-like of shape (n_samples,) or None, default=None
        Their labels, needed by ``null="labels"`` alone.
    null : {"network", "readout", "labels"}, default="network"
        What a null model has lost, as in `randomization_test`.
    alpha : float, default=0.05
        The expected share of cells in the fact map that do not belong there.
    target : None, label or array-like of shape (n_samples,), default=None
        The class explained: None the predicted class of each sample.
    n_permutations : int, default=50
        Number of null models, at least 3; few of them have little power.
    max_samples : int or None, default=100
        At most so many samples are explained, drawn at random; None explains all.
    n_jobs : int or None, default=None
        Number of joblib's workers; None is one.
    random_state : int, RandomState instance or None, default=None
        Determines the null models.
    **explain_params : dict
        Parameters of ``explain``, such as ``rule``.

    Returns
    -------
    Finding
        With arrays of a sample's shape: ``mean``, ``fact``, ``artifact``, ``null_mean``, ``z``,
        ``p_value`` (corrected for the false discovery rate) and ``significant``. The statistic is
        the fact map's share of the mean map's absolute values; the verdict is fact above a
        quarter, artifact below a twentieth.

    Raises
    ------
    ValueError
        If fewer than 3 null models have any relevance, or a parameter is out of range.

    References
    ----------
    Y. Benjamini, Y. Hochberg, "Controlling the false discovery rate", J. R. Stat. Soc. B 57, 1995;
    D. S. Wilks, "The stippling shows statistically significant grid points", Bull. Am. Meteorol.
    Soc. 97, 2016, for fields of dependent cells.

    Examples
    --------
    >>> from sklrp import MLPClassifier
    >>> from sklrp.datasets import make_squares
    >>> from sklrp.diagnostics import artifact_map
    >>> X, y, mask = make_squares(n_per_class=50, size=20, random_state=0)
    >>> clf = MLPClassifier(max_epochs=10, random_state=0).fit(X, y)
    >>> found = artifact_map(clf, X, random_state=0)
    >>> bool(found.significant[mask].mean() > 0.9), bool(found.significant[~mask].mean() < 0.1)
    (True, True)
    """
    explained = Explained(
        estimator,
        X,
        y,
        target=target,
        max_samples=max_samples,
        random_state=random_state,
        n_jobs=n_jobs,
        **explain_params,
    )
    return split_map(explained, null, n_permutations, alpha)


def split_map(explained: Explained, null: str, n_draws: int, alpha: float = 0.05) -> Finding:
    """Split the mean map into fact and artifact."""
    mean = explained.maps.mean(axis=0, dtype=np.float64)
    nulls = explained.null_maps(null, n_draws).mean(axis=1, dtype=np.float64)
    nulls = nulls[nulls.any(axis=tuple(range(1, nulls.ndim)))]
    if len(nulls) < 3:
        raise ValueError(
            f"only {len(nulls)} of n_permutations={n_draws} null models have any relevance, but 3 "
            "are needed for a distribution: raise n_permutations, or use another rule."
        )
    null_mean, spread = nulls.mean(axis=0), nulls.std(axis=0, ddof=1)
    spread *= np.sqrt(1 + 1 / len(nulls))
    resolution = 1e-7 * np.abs(mean).max()  # maps are kept in float32
    z = (mean - null_mean) / np.maximum(spread, max(resolution, np.finfo(float).tiny))
    p_value = 2 * t.sf(np.abs(z), len(nulls) - 1)
    p_value = false_discovery_control(p_value.ravel()).reshape(z.shape)
    significant = p_value <= alpha
    fact = np.where(significant, mean - null_mean, 0.0)
    total = np.abs(mean).sum()

    def share_of(maps: NDArray) -> NDArray:
        return np.abs(np.where(significant, maps - null_mean, 0.0)).sum(
            axis=tuple(range(-mean.ndim, 0))
        ) / max(total, np.finfo(float).tiny)

    rows = explained.rng.integers(len(explained.X), size=(50, len(explained.X)))
    drawn = [share_of(explained.maps[r].mean(axis=0, dtype=np.float64)) for r in rows]
    statistic, half = float(share_of(mean)), 2 * float(np.std(drawn))  # noise only adds to |mean|
    interval = (statistic - half, statistic + half)
    return Finding(
        name="map",
        question="How much of the mean map exceeds that of networks that learned nothing?",
        statistic=statistic,
        interval=interval,
        null=np.array([share_of(m) for m in nulls]),
        verdict=("fact" if statistic > 0.25 else "artifact" if statistic < 0.05 else "undecided"),
        reading=(
            f"of |mean map| is in the fact map, on {significant.sum()} of {significant.size} cells"
        ),
        advice=""
        if statistic > 0.25
        else (
            "Little of the mean map can be told from that of untrained networks: read the fact "
            "map instead of the map, explain more samples, or choose another rule."
        ),
        mean=mean,
        fact=fact,
        artifact=mean - fact,
        null_mean=null_mean,
        z=z,
        p_value=p_value,
        significant=significant,
        table={"z": z.ravel(), "p_value": p_value.ravel(), "fact": fact.ravel()},
    )


def faithfulness(explained: Explained, n_draws: int) -> Finding:
    """Compare the pixel-flipping score with that of null maps; mean values replace cells."""
    shape = explained.X.shape[1:]
    n_cells = int(np.prod(shape[-2:]))
    edge = max(1, round((n_cells / 300) ** 0.5)) if len(shape) > 1 else None
    settings: dict[str, Any] = {
        "target": explained.target,
        "groups": edge,
        "steps": 10,
        "baseline": explained.all_X.mean(axis=0),
        "random_state": 0,
    }

    samples = explained.given(explained.X)

    def score(maps: NDArray) -> NDArray:
        return pixel_flipping_score(explained.estimator, samples, maps, **settings)

    nulls = explained.null_maps("network", n_draws)[:5]  # each is flipped as often as the map
    size = max(float(np.abs(explained.details.score).mean()), np.finfo(float).tiny)
    null = np.stack([score(maps) for maps in nulls]) / size
    gain = score(explained.maps) / size - null.mean(axis=0)
    interval = bootstrap(gain, np.random.default_rng(0))
    low, high = interval
    verdict = "artifact" if high < 0.05 else "fact" if low > 0.05 else "undecided"
    return Finding(
        name="faithfulness",
        question="Does the network miss what the map names, more than what any map names?",
        statistic=float(gain.mean()),
        interval=interval,
        null=null.mean(axis=1) - null.mean(),
        verdict=verdict,
        reading=(
            "of the score falls, on average, when the map's order is followed instead of that of "
            "untrained networks"
        ),
        advice=""
        if verdict == "fact"
        else (
            "The score does not depend on what the map names: centre the input, and choose a rule "
            "by make_relevance_scorer('pixel_flipping')."
        ),
        table={"gain": gain},
    )


def on_mask(explained: Explained, mask: ArrayLike, n_draws: int) -> Finding:
    """Ask whether more relevance lies on a mask than in maps of untrained networks."""
    mass = relevance_mass(explained.maps, mask, part="absolute")
    own = relevance_mass(explained.X, mask, part="absolute")
    nulls = explained.null_maps("network", n_draws)
    nulls = nulls[nulls.any(axis=tuple(range(1, nulls.ndim)))]
    null = np.array([relevance_mass(m, mask, part="absolute").mean() for m in nulls])
    interval = bootstrap(mass, np.random.default_rng(0))
    p_value = (1 + np.count_nonzero(null >= mass.mean())) / (1 + len(null))
    usual = max(float(np.median(null)) if len(null) else 0.0, float(own.mean()))
    if interval[0] > 1.25 * usual and p_value < 0.1:
        verdict = "fact"
    else:
        verdict = judge((-interval[1], -interval[0]), artifact_above=-usual, fact_below=-np.inf)
    n_cells = check_mask(mask, explained.X.shape).mean()
    return Finding(
        name="mask",
        question="Does more relevance lie on the mask than without learning?",
        statistic=float(mass.mean()),
        interval=interval,
        null=null,
        verdict=verdict,
        reading=(
            f"of |relevance| on the mask, which has {n_cells:.1%} of the cells, {own.mean():.1%} "
            f"of |input| and {np.median(null) if len(null) else 0.0:.1%} of untrained maps"
        ),
        advice=""
        if verdict == "fact"
        else (
            "Relevance does not prefer the place that matters: compare rules and architectures "
            "with make_relevance_scorer('relevance_mass'), and see focus_curve."
        ),
        p_value=p_value,
        table={"mass": mass, "input": own},
    )
