"""Ask whether the architecture puts relevance in its places: memory, borders and periods.

`diagnose` runs these tests on images and sequences, and `position_profile` runs them alone. Each
has a file of its own: fading, borders and periods.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sklrp._constraints import constrained
from sklrp.diagnostics.borders import find_borders, has_ends
from sklrp.diagnostics.common_form import with_relevance
from sklrp.diagnostics.explained import CONSTRAINTS, Explained
from sklrp.diagnostics.fading import find_fading
from sklrp.diagnostics.findings import Finding
from sklrp.diagnostics.other_networks import null_maps
from sklrp.diagnostics.outliers import find_outlying
from sklrp.diagnostics.periods import find_periods
from sklrp.diagnostics.profiles import AlongAxes, axis_profiles

_SHORTEST_AXIS = 8  # that has a profile
_SHORTEST_GRID = 16  # that has borders apart from its middle, and a spectrum


@constrained(CONSTRAINTS)
def position_profile(
    model: Any,
    X: ArrayLike,
    *,
    target: Any = None,
    n_permutations: int = 20,
    max_samples: int | None = 100,
    n_jobs: int | None = None,
    random_state: int | np.random.RandomState | None = None,
    grid: Any = None,
    **explain_params: Any,
) -> Finding:
    r"""Test whether relevance lies where the architecture puts it.

    The profile of maps along an axis, the rows, columns or time steps of a sample, is the share of
    their absolute values at each position. Beside it stand the profile p_x of the input itself and
    the profile p_0 of networks that have learned nothing, which shows what the architecture does
    with such an input. Three patterns are looked for:

    - *fading*: how far a network leads away from the input's profile towards the untrained one,

      .. math:: a = \frac{(p - p_x) \cdot (p_0 - p_x)}{\|p_0 - p_x\|^2},

      along the axis on which the untrained profile departs most from the input's. Memory that
      fades along a sweep gives 1. If it departs by a total variation of less than 0.25, the
      architecture leaves no imprint, and the test is passed;
    - *border*: how many times its share of the input the outermost two cells hold, at the less
      relevant end of an axis (zero padding shows at both);
    - *grid*: how many times the power of neighbouring frequencies the profile's spectrum has at a
      period of 2 to 8 cells, minus what the input's spectrum has there (strides, pooling).

    The last two are artifacts only if untrained networks show them too.

    Parameters
    ----------
    model : estimator, skorch net, nn.Module, Pipeline, search or FrozenEstimator
        The fitted model, as `sklrp.explain` takes it; the maps are of what enters its network.
    X : array-like of shape (n_samples, ...)
        Samples: images, sequences, or rows that the network takes as such.
    target : None, label, int or array-like of shape (n_samples,), default=None
        What is explained: a label, or the index of an output. None (default): the predicted class
        of each sample, or the only output.
    n_permutations : int, default=20
        Number of networks that have learned nothing.
    max_samples : int or None, default=100
        At most so many samples are explained, drawn at random. None: all.
    n_jobs : int or None, default=None
        Number of joblib's workers. None (default): one.
    random_state : int, RandomState instance or None, default=None
        Determines what is drawn.
    grid : GridVectorizer, DataArray, Bunch, (latitude, longitude) or None, default=None
        Where the cells of fields are. None (default): what the model or X says.
    **explain_params : dict
        Parameters of ``explain``, such as ``rule``.

    Returns
    -------
    Finding
        The finding on the most suspicious pattern, with ``parts``, the findings ``fading``,
        ``border`` and ``grid``, and ``profiles``, ``input_profiles`` and ``null_profiles``, tuples
        with an array per axis.

    Raises
    ------
    ValueError
        If samples have no axis of at least 8 positions, or a parameter is out of range.

    References
    ----------
    arXiv 2302.12317 and 2210.09958: fading memory as a "radar sweep". A. Odena, V. Dumoulin,
    C. Olah, "Deconvolution and checkerboard artifacts", Distill 2016.

    Examples
    --------
    >>> from sklrp import CNNClassifier
    >>> from sklrp.datasets import make_squares
    >>> from sklrp.diagnostics import position_profile
    >>> X, y, _ = make_squares(n_per_class=50, size=20, random_state=0)
    >>> clf = CNNClassifier((8,), input_shape=(1, 20, 20), max_epochs=5, random_state=0).fit(X, y)
    >>> position_profile(clf, X, random_state=0).verdict
    'fact'
    """
    explained = Explained(
        model,
        X,
        target=target,
        grid=grid,
        max_samples=max_samples,
        random_state=random_state,
        n_jobs=n_jobs,
        **explain_params,
    )
    if not has_profile(explained):
        raise ValueError(
            f"samples of shape {explained.X.shape[1:]} have no axis of at least {_SHORTEST_AXIS} "
            "neighbouring positions: position_profile is for images and sequences."
        )
    parts = positions(explained, n_permutations)
    order = {"artifact": 0, "undecided": 1, "fact": 2}
    worst = min(parts, key=lambda finding: order[finding.verdict])
    return Finding(**{**worst, "parts": parts})


def has_profile(explained: Explained) -> bool:
    """Tell whether a sample has an axis along which a profile says something."""
    return explained.frame.has_positions and max(explained.frame.axes) >= _SHORTEST_AXIS


def positions(explained: Explained, n_draws: int) -> list[Finding]:
    """Look for fading memory, borders and periods."""
    nulls = explained.on_axes(null_maps(explained, "network", n_draws))
    nulls = nulls[with_relevance(nulls)]
    if not len(nulls):  # nothing to compare with
        return []
    # Profiles are without outliers: beside such a value no other place has any share.
    usual = explained.on_axes(~find_outlying(explained.some_X)[explained.places])
    maps, samples = explained.on_axes(explained.maps), explained.on_axes(explained.X)
    along = AlongAxes(maps * usual, samples * usual, nulls * usual)
    shared = {
        "profiles": axis_profiles(along.maps),
        "input_profiles": axis_profiles(along.samples),
        "null_profiles": tuple(
            np.mean(p, axis=0) for p in zip(*map(axis_profiles, nulls), strict=True)
        ),
    }
    lengths = explained.frame.axes
    axes = [i for i, n in enumerate(lengths) if n >= _SHORTEST_AXIS]
    found = [find_fading(along, axes, explained.rng("fading"))]
    axes = [i for i in axes if lengths[i] >= _SHORTEST_GRID]
    if axes:
        edged = [axis for axis in axes if has_ends(along, axis)]
        if edged:
            found.append(find_borders(along, edged, explained.rng("border")))
        found.append(find_periods(along, axes, explained.rng("grid")))
    return [explained.finding(**entries, **shared) for entries in found]
