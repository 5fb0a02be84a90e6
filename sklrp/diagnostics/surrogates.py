r"""Ask whether the map needs the pattern, or comes from any samples of the same spectrum.

`diagnose` runs this test. A surrogate has the amplitudes of a sample at all wave numbers and
random phases, so neighbours are as alike as before, but nothing is where it was:

.. math:: x' = F^{-1}\left( F(x - \bar x) \, e^{i \varphi} \right) + \bar x

The phases :math:`\varphi` are those of white noise, which makes :math:`x'` real, and 0 for the
mean. All channels of a field and all variables of a series get the same ones, so that
cross-spectra, and with them the cross-correlations at every lag, stay as well [1]_. Features of a
table have no neighbours: each column is permuted over the samples, which keeps its values and
loses their relation to others.

References
----------
.. [1] D. Prichard and J. Theiler, "Generating surrogate data for time series with several
   simultaneously measured variables", Physical Review Letters 73, 1994.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from sklrp._frame import Frame
from sklrp.diagnostics.common_form import cosines
from sklrp.diagnostics.explained import Explained
from sklrp.diagnostics.findings import Finding, bootstrap

_FACT_BELOW = 0.6  # of the cosine, as for null models: 36 % of the squared map; a convention
_HALVES = 20  # halvings, whose median is what maps of surrogates are held against


def draw_surrogates(
    samples: NDArray, frame: Frame, rng: np.random.Generator, pool: NDArray | None = None
) -> NDArray:
    """Return fields or series whose spectrum stays and whose pattern is lost.

    Each sample gets phases of its own, as if opposite edges met. Cells that are the same in all
    samples, such as land, stay as they are; next to them the spectrum is kept only approximately.

    Parameters
    ----------
    samples : ndarray of shape (n_samples, ...)
        The samples, as they enter the network.
    frame : Frame
        Which of their axes are positions.
    rng : numpy.random.Generator
        What phases or permutations are drawn from.
    pool : ndarray of shape (n_pool, ...) or None, default=None
        Samples of which the mean is kept, and which tell the cells that are the same. None: the
        samples themselves.

    Returns
    -------
    ndarray of shape (n_samples, ...)
        The surrogates.
    """
    flat = samples.reshape(len(samples), -1)
    pool = (samples if pool is None else pool).reshape(-1, flat.shape[1])
    mean = pool.mean(axis=0, dtype=np.float64)
    is_same = np.ptp(pool, axis=0) == 0
    there = np.ones(frame.laid, dtype=bool) if frame.valid is None else frame.valid
    laid = np.zeros((len(flat), *frame.laid))
    laid[:, there] = np.where(is_same, 0.0, flat - mean)
    axes = [1 + i for i in range(len(frame.laid)) if i != frame.channel_axis]
    drawn = _turn_phases(laid, axes, rng)[:, there] + mean
    return np.where(is_same, flat, drawn).astype(samples.dtype).reshape(samples.shape)


def find_coherent(explained: Explained, n_draws: int) -> Finding:
    """Compare the mean map of each class with the mean maps of its samples' surrogates."""
    # It is a fact where surrogates do not give the map again, though another half of the samples
    # does. Else it may come from what surrogates keep: the mean sample, the spectrum, the biases
    # or the architecture, of which some is sound. So it convicts no map.
    if explained.is_given:
        raise ValueError(
            "relevance was made elsewhere: surrogates cannot be explained in the same way."
        )
    groups = _rows_by_class(explained)
    means = np.stack([explained.maps[rows].mean(axis=0, dtype=np.float64) for rows in groups])
    seeds = explained.rng("coherent").integers(2**31 - 1, size=n_draws).tolist()
    others = explained.run(_explain_surrogates, [(groups, seed) for seed in seeds])
    similarity = np.abs(cosines(_flat(means, 1), _flat(others, 2)))
    halves = _compare_halves(explained, groups)
    draws = np.nanmean(similarity, axis=1) if np.isfinite(similarity).any() else np.empty(0)
    statistic, interval = float("nan"), (0.0, 1.0)
    if len(draws):
        statistic = float(draws.mean())
        interval = bootstrap(draws, explained.rng("coherent interval"))
    usual = float(np.nanmedian(halves)) if np.isfinite(halves).any() else float("nan")
    # Halves of a sample alone cannot be compared: what no half gives again is not told.
    is_fact = interval[1] < _FACT_BELOW and interval[1] < usual
    kept = "values of each feature" if _has_no_spectrum(explained) else "spectrum"
    return explained.finding(
        name="coherent",
        question=f"Is it the pattern, or do any samples with the same {kept} give this map?",
        statistic=statistic,
        interval=interval,
        null=halves,
        verdict="fact" if is_fact else "undecided",
        reading=(
            f"|cosine| of the mean map with that of {n_draws} surrogates of each sample; two "
            f"halves of the samples have {usual:.2f}"
        ),
        advice=""
        if is_fact
        else (
            "Samples without the pattern give a similar map, or there are too few to tell: "
            "subtract the mean of the training data, or explain more samples."
        ),
        similarity=similarity,
        surrogates=others.mean(axis=(0, 1)),
        table={"draw": np.arange(n_draws), "similarity": np.nan_to_num(similarity).mean(axis=1)},
    )


def _turn_phases(values: NDArray, axes: list[int], rng: np.random.Generator) -> NDArray:
    """Return values, (n_samples, ...), with the same amplitudes along axes and random phases."""
    noise_shape = [n if i == 0 or i in axes else 1 for i, n in enumerate(values.shape)]
    noise = rng.standard_normal(noise_shape)
    # As the mean of the noise is positive, its phase is 0 and the sample's mean stays.
    noise += np.abs(noise.mean(axis=tuple(axes), keepdims=True)) * 2
    turned = fft.rfftn(noise, axes=axes)
    turned /= np.abs(turned)
    return fft.irfftn(
        fft.rfftn(values, axes=axes) * turned, s=[values.shape[i] for i in axes], axes=axes
    )


def _has_no_spectrum(explained: Explained) -> bool:
    """Tell whether samples have no neighbouring values that could be written as waves."""
    return explained.frame.layout == "table" or explained.model.takes_integers


def _rows_by_class(explained: Explained) -> list[NDArray[np.intp]]:
    """Return the rows of each explained class; all rows of a single output or a regression."""
    if explained.classes is None:
        return [np.arange(len(explained.X))]
    return explained.rows_by_target


def _explain_surrogates(explained: Explained, groups: list[NDArray], seed: int) -> NDArray:
    """Return the mean map of the surrogates of each group of samples."""
    rng = np.random.default_rng(seed)
    if _has_no_spectrum(explained):
        X = rng.permuted(explained.X, axis=0)
    else:
        X = draw_surrogates(explained.X, explained.frame, rng, explained.pool)
    maps = explained.maps_of(explained.model.network, X)
    return np.stack([maps[rows].mean(axis=0, dtype=np.float64) for rows in groups])


def _compare_halves(explained: Explained, groups: list[NDArray]) -> NDArray[np.float64]:
    """Return how alike the mean maps of two halves of the samples are, for several halvings."""
    rng = explained.rng("coherent halves")
    maps = _flat(explained.maps, 1)
    found = np.full(_HALVES, np.nan)
    for k in range(_HALVES):
        pairs = [np.array_split(rng.permutation(rows), 2) for rows in groups if len(rows) > 1]
        if pairs:
            one, other = (
                np.stack([maps[pair[i]].mean(axis=0, dtype=np.float64) for pair in pairs])
                for i in (0, 1)
            )
            found[k] = np.nanmean(np.abs(cosines(one, other)))
    return found


def _flat(values: NDArray, n_lead: int) -> NDArray:
    return values.reshape(*values.shape[:n_lead], -1)
