"""Ask whether maps say anything: constant ones, or equal for all samples, do not.

`diagnose` runs this test; `degeneracy` is it alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklrp._constraints import constrained
from sklrp.diagnostics.common_form import FEWEST_CELLS, cosines
from sklrp.diagnostics.explained import CONSTRAINTS, Explained
from sklrp.diagnostics.findings import Finding, bootstrap, judge

_SAME = 0.99  # the cosine of maps that are taken for equal: a convention


@constrained(CONSTRAINTS)
def degeneracy(
    model: Any,
    X: ArrayLike,
    *,
    target: Any = None,
    max_samples: int | None = 100,
    random_state: int | np.random.RandomState | None = None,
    grid: Any = None,
    **explain_params: Any,
) -> Finding:
    """Test whether maps say anything: constant ones, or equal for all samples, do not.

    The statistic is the largest of four shares of the samples: those whose map is zero; constant;
    nearly (cosine above 0.99) the map of the next sample of the same class while the samples
    themselves differ more; nearly the input or its absolute values; and, of three or more classes,
    nearly the map of the next class. The verdict is artifact above one half and fact below a
    quarter: among few features some maps are alike by chance.

    Parameters
    ----------
    model : estimator, skorch net, nn.Module, Pipeline, search or FrozenEstimator
        The fitted model, as `sklrp.explain` takes it; the maps are of what enters its network.
    X : array-like of shape (n_samples, ...)
        The samples.
    target : None, label, int or array-like of shape (n_samples,), default=None
        What is explained: a label, or the index of an output. None (default): the predicted class
        of each sample, or the only output.
    max_samples : int or None, default=100
        At most so many samples are explained, drawn at random. None: all.
    random_state : int, RandomState instance or None, default=None
        Determines which.
    grid : GridVectorizer, DataArray, Bunch, (latitude, longitude) or None, default=None
        Where the cells of fields are. None (default): what the model or X says.
    **explain_params : dict
        Parameters of ``explain``, such as ``rule``.

    Returns
    -------
    Finding
        With ``shares``, a dict of the shares by their kind.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    arXiv 2302.12317; L. Sixt, M. Granz, T. Landgraf, "When explanations lie", ICML 2020: rules
    whose maps converge to one.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklrp import MLPClassifier
    >>> from sklrp.diagnostics import degeneracy
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(max_epochs=5, random_state=0).fit(X, y)
    >>> import warnings
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")  # flat warns by itself
    ...     degeneracy(clf, X, rule="flat").shares["constant"]
    1.0
    """
    return find_degenerate(
        Explained(
            model,
            X,
            target=target,
            grid=grid,
            max_samples=max_samples,
            random_state=random_state,
            **explain_params,
        )
    )


def find_degenerate(explained: Explained) -> Finding:
    """Look for maps that say nothing."""
    maps = explained.maps.reshape(len(explained.X), -1)
    samples = explained.X.reshape(maps.shape)
    size = np.abs(maps).max(axis=1)
    kinds = {
        "zero": size == 0,
        "constant": (np.ptp(maps, axis=1) <= 1e-4 * size) & (maps.shape[1] > 1),
        "the input": np.maximum(
            _absent(cosines(maps, samples)), _absent(cosines(np.abs(maps), np.abs(samples)))
        )
        > _SAME,
        "equal for all samples": _equal_samples(explained, maps, samples),
        "equal for all classes": _equal_classes(explained),
    }
    if maps.shape[1] < FEWEST_CELLS:
        kinds = {"zero": kinds["zero"]}
    shares = {kind: float(np.mean(found)) for kind, found in kinds.items()}
    worst = max(shares, key=lambda kind: shares[kind])
    interval = bootstrap(kinds[worst].astype(float), explained.rng("degeneracy"))
    verdict = judge(interval, artifact_above=0.5, fact_below=0.25)
    return explained.finding(
        name="degeneracy",
        question="Do maps differ between samples and classes?",
        statistic=shares[worst],
        interval=interval,
        null=np.empty(0),
        verdict=verdict,
        reading=f"of the maps are {worst}" if shares[worst] else "no map is degenerate",
        advice=""
        if verdict == "fact"
        else (
            f"{100 * shares[worst]:.0f} % of the maps are {worst}: choose a rule that uses the "
            "input and the sign of the weights, such as rule='epsilon' (a flat or w_square rule "
            "on a dense layer does not)."
        ),
        shares=shares,
        table={"kind": np.array(list(shares)), "share": np.array(list(shares.values()))},
    )


def _absent(values: NDArray) -> NDArray:
    return np.nan_to_num(values, nan=0.0)


def _equal_samples(explained: Explained, maps: NDArray, samples: NDArray) -> NDArray[np.bool_]:
    """Tell which maps equal the next sample's of the class, though the samples differ."""
    same = np.zeros(len(maps), dtype=bool)
    for rows in explained.rows_by_target:
        if len(rows) > 1:
            after = np.roll(rows, 1)
            like = _absent(cosines(maps[rows], maps[after]))
            own = _absent(cosines(samples[rows], samples[after]))
            same[rows] = (like > _SAME) & (1 - like < 0.1 * (1 - own))
    return same


def _equal_classes(explained: Explained) -> NDArray[np.bool_]:
    """Tell which maps equal, but for their sign, the map of another of three or more classes."""
    classes, n = explained.classes, len(explained.X)
    if classes is None or len(classes) < 3 or explained.target is None:
        return np.zeros(n, dtype=bool)
    code = np.searchsorted(classes, explained.target)
    maps = explained.relevance_for(classes[(code + 1) % len(classes)])
    same = _absent(cosines(maps.reshape(n, -1), explained.relevance.reshape(n, -1)))
    # The contrast of one class with another is the negative of theirs: that is no artifact.
    return (same if explained.params.get("contrast") else np.abs(same)) > _SAME
