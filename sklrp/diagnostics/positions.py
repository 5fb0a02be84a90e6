"""Does the architecture put relevance in its places? Fading memory, borders and grids.

`diagnose` runs these tests on images and sequences; `position_profile` is them alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklrp._sklearn import validate_params
from sklrp.diagnostics.common_form import with_relevance
from sklrp.diagnostics.explained import CONSTRAINTS, Explained
from sklrp.diagnostics.findings import Finding
from sklrp.diagnostics.judging import bootstrap, judge
from sklrp.diagnostics.profiles import axis_profiles

_SHORTEST_AXIS = 8  # that has a profile
_SHORTEST_GRID = 16  # that has borders apart from its middle, and a spectrum
EDGE = 2  # cells at either end of an axis
_LONGEST_PERIOD = 8
_PROMINENT = 30.0  # a peak of a profile's spectrum over the frequencies around it


@validate_params(CONSTRAINTS, prefer_skip_nested_validation=True)
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
    r"""Test whether the place of relevance is that of the architecture.

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
        At most so many samples are explained, drawn at random; None explains all.
    n_jobs : int or None, default=None
        Number of joblib's workers; None is one.
    random_state : int, RandomState instance or None, default=None
        Determines what is drawn.
    grid : GridVectorizer, DataArray, Bunch, (latitude, longitude) or None, default=None
        Where the cells of fields are. None (default): what the model or X says.
    **explain_params : dict
        Parameters of ``explain``, such as ``rule``.

    Returns
    -------
    Finding
        That of the most suspicious pattern, with ``parts``, the findings ``fading``, ``border``
        and ``grid``, and ``profiles``, ``input_profiles`` and ``null_profiles``, tuples with an
        array per axis.

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
    """Look for fading memory, borders and grids."""
    maps = explained.on_axes(explained.maps)
    samples = explained.on_axes(explained.X)
    nulls = explained.on_axes(explained.null_maps("network", n_draws))
    nulls = nulls[with_relevance(nulls)]
    if not len(nulls):  # nothing to compare with
        return []
    axes = [i for i, n in enumerate(explained.frame.axes) if n >= _SHORTEST_AXIS]
    shared = {
        "profiles": axis_profiles(maps),
        "input_profiles": axis_profiles(samples),
        "null_profiles": tuple(
            np.mean(p, axis=0) for p in zip(*map(axis_profiles, nulls), strict=True)
        ),
    }
    found = [_fading(maps, samples, nulls, axes, explained.rng("fading"))]
    axes = [i for i in axes if explained.frame.axes[i] >= _SHORTEST_GRID]
    if axes:
        found += [
            _border(maps, samples, nulls, axes, explained.rng("border")),
            _grid(maps, samples, nulls, axes, explained.rng("grid")),
        ]
    return [explained.finding(**entries, **shared) for entries in found]


def _profiles(maps: NDArray, axis: int) -> NDArray[np.float64]:
    """Return each sample's profile along an axis of a sample, (n_samples, n_positions)."""
    other = tuple(i + 1 for i in range(maps.ndim - 1) if i != axis)
    sums = np.abs(maps).sum(axis=other, dtype=np.float64)
    total = sums.sum(axis=1, keepdims=True)
    return np.divide(sums, total, out=np.zeros_like(sums), where=total > 0)


def _fading(
    maps: NDArray,
    samples: NDArray,
    nulls: NDArray,
    axes: list[int],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Ask whether the profile is the architecture's instead of the input's."""
    found = []
    for axis in axes:
        own = _profiles(samples, axis).mean(axis=0)
        null = np.stack([_profiles(m, axis).mean(axis=0) for m in nulls])
        away = null.mean(axis=0) - own
        imprint = np.abs(away).sum() / 2
        found.append((imprint, axis, own, null, away))
    imprint, axis, own, null, away = max(found, key=lambda entry: entry[0])
    along = ((_profiles(maps, axis) - own) @ away / max(away @ away, 1e-30)).clip(0, 1)
    interval = bootstrap(along, rng)
    reading = (
        f"of the untrained profile's way from the input's along axis {axis}, on which it departs "
        f"by {imprint:.2f}"
    )
    if imprint < 0.25:
        verdict, reading = "fact", reading + ": no imprint of the architecture"
    else:
        verdict = judge(interval, artifact_above=0.7, fact_below=0.4)
    return {
        "name": "fading",
        "question": "Does relevance lie where the architecture puts it?",
        "statistic": float(along.mean()),
        "interval": interval,
        "null": ((null - own) @ away / max(away @ away, 1e-30)).clip(0, 1),
        "verdict": verdict,
        "reading": reading,
        "advice": ""
        if verdict == "fact"
        else (
            "Relevance gathers where an untrained network has it too: sweep from the other side, "
            "pool over all states, lower leak_rate or raise forget_bias, and see focus_curve."
        ),
        "axis": axis,
        "imprint": float(imprint),
        "table": {
            "position": np.arange(len(own)),
            "map": _profiles(maps, axis).mean(axis=0),
            "input": own,
            "null": null.mean(axis=0),
        },
    }


def _border(
    maps: NDArray,
    samples: NDArray,
    nulls: NDArray,
    axes: list[int],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Ask whether both ends of an axis have far more, or far less, than their share of the input.

    The architecture's doing is what untrained networks have as well.
    """
    found = []
    for axis in axes:
        nulls_at = [[values.mean() for values in _ends(m, samples, axis)] for m in nulls]
        for kind, values in enumerate(_ends(maps, samples, axis)):
            null = np.array([at[kind] for at in nulls_at])
            low, high = bootstrap(values, rng)
            usual = float(np.median(null))
            if kind == 0:  # more than its share even at the weaker end
                far, shown = values.mean() / 1.5, usual > 1.3
                verdict = judge((low, high), artifact_above=1.5, fact_below=1.3)
            else:  # less than its share at both ends together
                far, shown = 0.6 / max(values.mean(), 1e-9), usual < 0.75 and high > usual / 2
                verdict = judge((-high, -low), artifact_above=-0.6, fact_below=-0.7)
            verdict = verdict if shown else "fact"
            rank = {"artifact": 2, "undecided": 1, "fact": 0}[verdict]
            found.append((rank, far, axis, values, null, (low, high), verdict))
    _, _, axis, values, null, interval, verdict = max(found, key=lambda entry: entry[:2])
    return {
        "name": "border",
        "question": "Do both ends of an axis have far from their share of relevance?",
        "statistic": float(values.mean()),
        "interval": interval,
        "null": null,
        "verdict": verdict,
        "reading": (
            f"times their share of the input have the ends of axis {axis}; untrained "
            f"{np.median(null):.2f}"
        ),
        "advice": ""
        if verdict == "fact"
        else (
            "Windows at the border see padding or see its cells less often: do not read relevance "
            "there, or use padding_mode='circular' or 'reflect' and a smaller kernel_size."
        ),
        "axis": axis,
        "table": {
            "axis": np.array([entry[2] for entry in found]),
            "ratio": np.array([entry[3].mean() for entry in found]),
            "null": np.array([np.median(entry[4]) for entry in found]),
        },
    }


def _ends(maps: NDArray, samples: NDArray, axis: int) -> tuple[NDArray, NDArray]:
    """Return each sample's share of relevance over that of the input: weaker end, both ends."""
    profile, own = _profiles(maps, axis), _profiles(samples, axis).mean(axis=0)
    ends = [slice(None, EDGE), slice(-EDGE, None)]
    tiny = np.finfo(float).tiny
    ratios = [profile[:, end].sum(axis=1) / max(own[end].sum(), tiny) for end in ends]
    both = sum(profile[:, end].sum(axis=1) for end in ends)
    return min(ratios, key=np.mean), both / max(sum(own[end].sum() for end in ends), tiny)


def _grid(
    maps: NDArray,
    samples: NDArray,
    nulls: NDArray,
    axes: list[int],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Ask whether relevance has a period that the input has not.

    A period counts as much as the map and the untrained networks both have it.
    """
    peaks: dict[tuple[int, int], tuple[float, float, NDArray]] = {}
    for axis in axes:
        own = _prominence(_profiles(samples, axis).mean(axis=0))
        found = _prominence(_profiles(maps, axis).mean(axis=0))
        untrained = [_prominence(_profiles(m, axis).mean(axis=0)) for m in nulls]
        for period in found:
            usual = max(1.0, own[period])
            null = np.array([prominence[period] for prominence in untrained]) / usual
            value = found[period] / usual
            peaks[axis, period] = min(value, float(np.median(null))), value, null
    axis, shortest = max(peaks, key=lambda place: peaks[place][0])
    least = min(peaks[axis, shortest][0], _PROMINENT)
    period = max(  # a comb of period 4 has the power of period 2 as well
        p for a, p in peaks if (a, p % shortest) == (axis, 0) and peaks[a, p][0] >= least
    )
    _, statistic, null = peaks[axis, period]
    usual = max(1.0, _prominence(_profiles(samples, axis).mean(axis=0))[period])
    profiles = _profiles(maps, axis)
    rows = rng.integers(len(profiles), size=(200, len(profiles)))
    drawn = [_prominence(profiles[r].mean(axis=0))[period] / usual for r in rows]
    interval = (float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975)))
    verdict = judge(interval, artifact_above=_PROMINENT, fact_below=_PROMINENT)
    if np.median(null) < _PROMINENT:
        verdict = "fact"
    return {
        "name": "grid",
        "question": "Has relevance a period that the input has not?",
        "statistic": float(statistic),
        "interval": interval,
        "null": null,
        "verdict": verdict,
        "reading": (
            f"times the power of neighbouring frequencies at a period of {period} along axis "
            f"{axis}; untrained {np.median(null):.1f}"
        ),
        "advice": ""
        if verdict == "fact"
        else (
            f"Windows that step by {period} see some cells more often than others: choose a "
            "kernel_size that is a multiple of the stride, or average maps over shifts."
        ),
        "axis": axis,
        "period": period,
        "table": {
            "axis": np.array([a for a, _ in peaks]),
            "period": np.array([p for _, p in peaks]),
            "prominence": np.array([value for _, value, _ in peaks.values()]),
            "null": np.array([np.median(null) for _, _, null in peaks.values()]),
        },
    }


def _prominence(profile: NDArray) -> dict[int, float]:
    """Return, for each period, the power there over the median of the frequencies around it."""
    n = len(profile)
    smooth = np.convolve(np.pad(profile, 4, mode="edge"), np.full(9, 1 / 9), mode="valid")
    found = {}
    for period in range(2, min(_LONGEST_PERIOD, n // 4) + 1):
        whole = n - n % period  # an integer number of periods, so that power does not leak
        spectrum = np.abs(np.fft.rfft((profile - smooth)[:whole])) ** 2
        at = whole // period
        around = np.r_[spectrum[max(1, at - 6) : max(1, at - 1)], spectrum[at + 2 : at + 7]]
        floor = float(np.median(around)) if len(around) else 0.0
        size = float(np.square(profile).sum())
        found[period] = float(spectrum[at] / max(floor, 1e-12 * size, np.finfo(float).tiny))
    return found
