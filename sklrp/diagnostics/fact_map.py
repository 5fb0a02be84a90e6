"""Split the mean map, cell by cell, into what networks that learned nothing show and the rest.

`diagnose` shows it as a caution, and `ArtifactReport.plot` draws it; `artifact_map` is it alone.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import false_discovery_control, t

from sklrp._sklearn import Interval, StrOptions, validate_params
from sklrp.diagnostics.common_form import with_relevance
from sklrp.diagnostics.explained import CONSTRAINTS, Explained
from sklrp.diagnostics.findings import Finding
from sklrp.diagnostics.nulls import NULLS


@validate_params(
    {
        **CONSTRAINTS,
        "null": [StrOptions(set(NULLS))],
        "n_permutations": [Interval(Integral, 3, None, closed="left")],
        "alpha": [Interval(Real, 0, 1, closed="neither")],
    },
    prefer_skip_nested_validation=True,
)
def artifact_map(
    model: Any,
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
    grid: Any = None,
    **explain_params: Any,
) -> Finding:
    r"""Split the mean map into what exceeds the maps of null models and what does not.

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
    model : estimator, skorch net, nn.Module, Pipeline, search or FrozenEstimator
        The fitted model, as `sklrp.explain` takes it; the maps are of what enters its network.
    X : array-like of shape (n_samples, ...)
        The samples.
    y : array-like of shape (n_samples,) or None, default=None
        Their labels or values, needed by null models that are trained, such as ``"labels"``.
    null : str, default="network"
        What a null model has lost, as in `randomization_test`.
    alpha : float, default=0.05
        The expected share of cells in the fact map that do not belong there.
    target : None, label, int or array-like of shape (n_samples,), default=None
        What is explained: a label, or the index of an output. None (default): the predicted class
        of each sample, or the only output.
    n_permutations : int, default=50
        Number of null models, at least 3; few of them have little power.
    max_samples : int or None, default=100
        At most so many samples are explained, drawn at random. None: all.
    n_jobs : int or None, default=None
        Number of joblib's workers. None (default): one.
    random_state : int, RandomState instance or None, default=None
        Determines the null models.
    grid : GridVectorizer, DataArray, Bunch, (latitude, longitude) or None, default=None
        Where the cells of fields are. None (default): what the model or X says.
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
        model,
        X,
        y,
        target=target,
        grid=grid,
        max_samples=max_samples,
        random_state=random_state,
        n_jobs=n_jobs,
        **explain_params,
    )
    if NULLS[null].trains:
        explained.check_trainable(f"null={null!r}")
    return split_map(explained, null, n_permutations, alpha)


def split_map(explained: Explained, null: str, n_draws: int, alpha: float = 0.05) -> Finding:
    """Split the mean map into fact and artifact."""
    mean = explained.maps.mean(axis=0, dtype=np.float64)
    nulls = explained.null_maps(null, n_draws).mean(axis=1, dtype=np.float64)
    nulls = nulls[with_relevance(nulls)]
    if len(nulls) < 3:
        raise ValueError(
            f"only {len(nulls)} of n_permutations={n_draws} null models have any relevance, but 3 "
            "are needed for a distribution: raise n_permutations, or use another rule."
        )
    null_mean, z, p_value = _test_cells(mean, nulls)
    significant = p_value <= alpha
    fact = np.where(significant, mean - null_mean, 0.0)
    total = np.abs(mean).sum()

    def share_of(maps: NDArray) -> NDArray:
        return np.abs(np.where(significant, maps - null_mean, 0.0)).sum(
            axis=tuple(range(-mean.ndim, 0))
        ) / max(total, np.finfo(float).tiny)

    rows = explained.rng("map").integers(len(explained.X), size=(50, len(explained.X)))
    drawn = [share_of(explained.maps[r].mean(axis=0, dtype=np.float64)) for r in rows]
    statistic, half = float(share_of(mean)), 2 * float(np.std(drawn))  # noise only adds to |mean|
    interval = (statistic - half, statistic + half)
    return explained.finding(
        name="map",
        question="How much of the mean map exceeds the maps of networks that learned nothing?",
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
            "Little of the mean map differs from the maps of untrained networks: read the fact "
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


def _test_cells(mean: NDArray, nulls: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Return the mean null map, and z and the corrected p-value of each cell."""
    null_mean, spread = nulls.mean(axis=0), nulls.std(axis=0, ddof=1)
    spread *= np.sqrt(1 + 1 / len(nulls))
    resolution = 1e-7 * np.abs(mean).max()  # maps are kept in float32
    z = (mean - null_mean) / np.maximum(spread, max(resolution, np.finfo(float).tiny))
    p_value = 2 * t.sf(np.abs(z), len(nulls) - 1)
    p_value = false_discovery_control(p_value.ravel()).reshape(z.shape)
    return null_mean, z, p_value
