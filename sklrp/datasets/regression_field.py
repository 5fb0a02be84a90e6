"""Fields whose target is a sum of one known function per cell.

`sklrp.datasets` makes `make_attribution_benchmark` public.
"""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np
from sklearn.utils import check_array

from sklrp._constraints import Interval, constrained
from sklrp._sklearn import Options, StrOptions
from sklrp._streams import make_legacy_rng
from sklrp.datasets.pacific_sst import load_pacific_sst

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = ["make_attribution_benchmark"]

_SMOOTH_SHAPE, _SMOOTH_LENGTH = (15, 30), 6.0  # in cells
_BLOCK = 4096  # samples that are drawn at a time: bounds the memory beyond X and truth


def _pacific_sst_correlation() -> NDArray[np.float64]:
    try:
        sst = load_pacific_sst(neutral=True)
    except ImportError as error:
        raise ImportError(
            f"correlation='pacific_sst' reads real anomalies: {error}. Or pass "
            "correlation='smooth', which needs no other package, or a matrix of your own."
        ) from error
    return np.corrcoef(sst.data[:, ~sst.land_mask], rowvar=False)


def _smooth_correlation() -> NDArray[np.float64]:
    """Return the Matérn correlation of smoothness 3/2 between the cells of a grid."""
    cells = np.indices(_SMOOTH_SHAPE).reshape(2, -1)
    distance = np.hypot(*(cells[:, :, None] - cells[:, None, :]))
    scaled = np.sqrt(3) * distance / _SMOOTH_LENGTH
    return (1 + scaled) * np.exp(-scaled)


def _symmetric_root(correlation: ArrayLike) -> NDArray[np.float64]:
    """Return R with R @ R = `correlation`; being unique, R is the same on every machine."""
    matrix = check_array(correlation, dtype=np.float64, input_name="correlation")
    problem = ""
    if matrix.shape[0] != matrix.shape[1]:
        problem = f"one of shape {matrix.shape}"
    elif not np.allclose(matrix, matrix.T, atol=1e-6):
        problem = "one that is not symmetric"
    elif not np.allclose(matrix.diagonal(), 1, atol=1e-6):
        low, high = matrix.diagonal().min(), matrix.diagonal().max()
        problem = f"one with {low:g} to {high:g} on its diagonal"
    else:
        values, vectors = np.linalg.eigh(matrix)
        if values[0] < -1e-6 * values[-1]:
            problem = f"one with the negative eigenvalue {values[0]:.3g}"
    if problem:
        raise ValueError(
            "The matrix 'correlation' of make_attribution_benchmark must be symmetric and "
            "positive semidefinite, of shape (n_cells, n_cells) with ones on its diagonal, got "
            f"{problem}. numpy.corrcoef(fields, rowvar=False) returns such a matrix."
        )
    values[values < 1e-12 * values[-1]] = 0  # rounding errors, which the root would blow up
    return (vectors * np.sqrt(values)) @ vectors.T


def piecewise_linear(x: NDArray, breaks: NDArray, slopes: NDArray) -> NDArray[np.float64]:
    """Evaluate per cell, the last axis, a function through (0, 0) as a sum of hinges.

    From left to right the function has the rows of `slopes`, with a row of `breaks` between each
    two. Every term vanishes at 0.

    Parameters
    ----------
    x : ndarray of shape (n_samples, n_cells)
        Where to evaluate the functions.
    breaks : ndarray of shape (n_pieces - 1, n_cells)
        Where the pieces of the functions meet.
    slopes : ndarray of shape (n_pieces, n_cells)
        The slopes of the pieces.

    Returns
    -------
    ndarray of shape (n_samples, n_cells)
        The values of the functions.
    """
    y = slopes[0] * x
    for position, bend in zip(breaks, np.diff(slopes, axis=0), strict=True):
        y += bend * (np.maximum(x - position, 0) - np.maximum(-position, 0))
    return y


@constrained(
    {
        "n_samples": [Interval(Integral, 1, None, closed="left")],
        "correlation": [StrOptions({"pacific_sst", "smooth"}), "array-like"],
        "n_breaks": [Interval(Integral, 1, None, closed="left")],
        "n_classes": [Interval(Integral, 2, None, closed="left"), None],
        "dtype": [Options(type, {np.float32, np.float64})],
    }
)
def make_attribution_benchmark(
    n_samples: int = 10_000,
    *,
    correlation: str | ArrayLike = "pacific_sst",
    n_breaks: int = 5,
    n_classes: int | None = None,
    dtype: DTypeLike = np.float64,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[NDArray[np.floating], NDArray, NDArray[np.floating]]:
    """Make random fields, a nonlinear target, and what each cell contributes to it.

    Use it to grade relevance maps of signed, spatially correlated fields, such as anomalies of a
    climate variable, for regression (or for classification with `n_classes`): the target is a mean
    over cells, so that a cell's true relevance is known, up to the factor ``1 / n_cells``. This is
    the recipe of [1]_:

    - a field is a draw from the normal distribution of mean 0 and covariance S, the `correlation`
      of the cells;
    - each cell has a continuous piecewise-linear function through (0, 0). Its break points are 0
      and ``n_breaks - 1`` draws from N(0, S), its ``n_breaks + 1`` slopes are draws from N(0, S),
      so that both vary smoothly over the grid;
    - the target is the mean over cells of these functions' values, which are the truth.

    A network can reach a perfect score on correlated cells with other functions than these, which
    no explanation of that network will show. The more so where S is singular: that of the Pacific
    comes from 50 winters and has rank 49. So grade maps against each other rather than against a
    correlation with the truth of 1.

    Parameters
    ----------
    n_samples : int, default=10_000
        Number of fields. The functions of the cells do not depend on it. [1]_ has a million; a
        network needs tens of thousands to come close to the target.
    correlation : {"pacific_sst", "smooth"} or array-like of shape (n_cells, n_cells), \
default="pacific_sst"
        The correlation of the cells.

        - ``"pacific_sst"``: that of the 450 ocean cells of :func:`load_pacific_sst` over its 50
          winters, which needs the package `eofs`. They are the cells of ``~land_mask``.
        - ``"smooth"``: a Matérn correlation of smoothness 3/2 and a length scale of 6 cells, on a
          grid of 15 x 30 cells, which is ``X.reshape(-1, 15, 30)``; of full rank.
        - A matrix, symmetric, positive semidefinite and with ones on its diagonal.
    n_breaks : int, default=5
        Number of break points of each function, 0 included; at least 1.
    n_classes : int or None, default=None
        None for regression. Otherwise `y` is cut at its quantiles into so many classes of equal
        size, in ascending order of the target, which is ``truth.mean(axis=1)``. Positive truth
        speaks for the highest class: explain ``target=n_classes - 1``.
    dtype : {numpy.float64, numpy.float32}, default=numpy.float64
        The type of `X` and `truth`, which are computed in double precision in either case.
    random_state : int, RandomState instance or None, default=None
        Determines the functions and the fields. Pass an int for reproducible output.

    Returns
    -------
    X : ndarray of shape (n_samples, n_cells)
        The fields. Each cell has mean 0 and variance 1.
    y : ndarray of shape (n_samples,)
        The target as float64, the mean of `truth` over the cells; or the classes, 0 to
        ``n_classes - 1``.
    truth : ndarray of shape (n_samples, n_cells)
        The value of each cell's function, 0 where the field is 0. Divided by the number of cells
        it sums to the target, as relevance without losses sums to the output.

    Raises
    ------
    ValueError
        If a parameter is out of its range.
    TypeError
        If a parameter is of a wrong type.
    ImportError
        If ``correlation="pacific_sst"`` and the package `eofs` is not installed.

    References
    ----------
    .. [1] A. Mamalakis, I. Ebert-Uphoff, E. A. Barnes, "Neural network attribution methods for
       problems in geoscience: A novel synthetic benchmark dataset", Environmental Data Science 1,
       2022, arXiv:2103.10005.

    Examples
    --------
    >>> import numpy as np
    >>> from sklrp.datasets import make_attribution_benchmark
    >>> X, y, truth = make_attribution_benchmark(1000, correlation="smooth", random_state=0)
    >>> X.shape, y.shape, truth.shape
    ((1000, 450), (1000,), (1000, 450))
    >>> bool(np.allclose(truth.mean(axis=1), y))
    True
    """
    if n_classes is not None and n_classes > n_samples:
        raise ValueError(
            "n_classes of make_attribution_benchmark must be at most n_samples, got "
            f"n_classes={n_classes} and n_samples={n_samples}."
        )
    if isinstance(correlation, str):
        smooth = correlation == "smooth"
        correlation = _smooth_correlation() if smooth else _pacific_sst_correlation()
    root = _symmetric_root(correlation)
    n_cells = len(root)
    rng = make_legacy_rng(random_state)

    def draw(n_fields: int) -> NDArray[np.float64]:
        return rng.standard_normal((n_fields, n_cells)) @ root

    # In [1] a break point is the quantile of the cell's values at the probability Phi(l), l a
    # draw from N(0, S). The values being standard normal, that is l.
    slopes = draw(n_breaks + 1)
    breaks = np.sort(np.vstack([np.zeros(n_cells), draw(n_breaks - 1)]), axis=0)

    X = np.empty((n_samples, n_cells), dtype)
    truth = np.empty((n_samples, n_cells), dtype)
    y = np.empty(n_samples)
    for start in range(0, n_samples, _BLOCK):
        block = slice(start, start + _BLOCK)
        X[block] = fields = draw(len(y[block]))
        truth[block] = values = piecewise_linear(fields, breaks, slopes)
        y[block] = values.mean(axis=1)
    if n_classes is None:
        return X, y, truth
    inner_edges = np.quantile(y, np.arange(1, n_classes) / n_classes)
    return X, np.searchsorted(inner_edges, y, side="right"), truth
