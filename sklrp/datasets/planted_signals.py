"""Images in which a network looks at more than what tells the classes apart.

Suppressors, exclusive-or and watermarks: the cases in which a relevance map is right about the
network and wrong as a sign of a relation. The diagnostics and their calibration use them, and so
does everyone who grades a method of explanation.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter

from sklrp._constraints import Interval, constrained
from sklrp._sklearn import StrOptions
from sklrp._streams import make_legacy_rng

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["make_suppressor", "make_watermark", "make_xor"]

_SHARED = {
    "n_per_class": [Interval(Integral, 1, None, closed="left")],
    "size": [Interval(Integral, 8, None, closed="left")],
    "strength": [Interval(Real, 0, None, closed="neither")],
    "mechanism": [StrOptions({"linear", "multiplicative", "rotated"})],
    "background": [StrOptions({"white", "correlated"})],
}


@constrained({**_SHARED, "noise": [Interval(Real, 0, None, closed="neither")]})
def make_suppressor(
    n_per_class: int = 250,
    *,
    size: int = 32,
    strength: float = 0.5,
    noise: float = 2.0,
    mechanism: str = "linear",
    background: str = "white",
    random_state: int | np.random.RandomState | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    r"""Make images whose best classifier must look at a place that says nothing by itself.

    On the left is a patch that tells the classes apart, under strong noise. On the right is a
    patch of the same noise, cell by cell, and nothing else: it is independent of the class, but to
    subtract it makes the left one clear. Such a place is a *suppressor* [1]_. A relevance map
    that shows it is right about the network, and wrong where it is read as "here the classes
    differ".

    .. math:: x_{left} = \pm strength + noise \cdot e, \qquad x_{right} = noise \cdot e

    Parameters
    ----------
    n_per_class : int, default=250
        Number of images of each of the two classes.
    size : int, default=32
        Edge of the images, at least 8. Patches are a quarter of it.
    strength : float, default=0.5
        What the class adds to the patch, in standard deviations of the background; see
        `mechanism`.
    noise : float, default=2.0
        Standard deviation of the noise that both patches share.
    mechanism : {"linear", "multiplicative", "rotated"}, default="linear"
        How the class enters: added to the patch with its sign; as a factor, by which the
        background there is larger in class 1 and smaller in class 0, so that the mean says
        nothing; or added to one half of the patch, which is another half in every image.
    background : {"white", "correlated"}, default="white"
        Independent normal noise in every cell, or smooth noise with a length scale of a sixteenth
        of the edge; both with mean 0 and variance 1.
    random_state : int, RandomState instance or None, default=None
        Determines the images. Pass an int for reproducible output.

    Returns
    -------
    X : ndarray of shape (2 * n_per_class, size, size)
        The images, in random order of the classes.
    y : ndarray of shape (2 * n_per_class,)
        The classes, 0 and 1.
    mask : ndarray of shape (size, size), dtype=bool
        True where the classes differ: on the left patch. The suppressor is at ``mask[:, ::-1]``.

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    References
    ----------
    .. [1] S. Haufe et al., "On the interpretation of weight vectors of linear models in
       multivariate neuroimaging", NeuroImage 87, 2014; R. Wilming et al., "Theoretical behavior of
       XAI methods in the presence of suppressor variables", ICML 2023.

    Examples
    --------
    >>> from sklrp.datasets import make_suppressor
    >>> X, y, mask = make_suppressor(n_per_class=500, random_state=0)
    >>> left, right = X[:, mask].mean(axis=1), X[:, mask[:, ::-1]].mean(axis=1)
    >>> bool(abs(right[y == 1].mean() - right[y == 0].mean()) < 0.1)
    True
    >>> bool((left - right)[y == 1].mean() > 0.4)
    True
    """
    rng = make_legacy_rng(random_state)
    X, y = _draw_images(rng, n_per_class, size, background)
    mask = _patch(size)
    shared = noise * _background(rng, len(X), size, background)[:, mask]
    X[:, mask] = _signal(rng, X[:, mask], y, strength, mechanism) + shared
    X[:, mask[:, ::-1]] = shared
    return X, y, mask


@constrained(_SHARED)
def make_xor(
    n_per_class: int = 250,
    *,
    size: int = 32,
    strength: float = 1.0,
    mechanism: str = "linear",
    background: str = "white",
    random_state: int | np.random.RandomState | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Make images of two classes in which no place alone tells the class, but two together do.

    A patch on the left and one on the right are each positive or negative at random. In class 1
    both have the same sign, in class 0 opposite ones. No mean map of the data shows either patch,
    and no linear classifier does better than chance.

    Parameters
    ----------
    n_per_class : int, default=250
        Number of images of each of the two classes.
    size : int, default=32
        Edge of the images, at least 8. Patches are a quarter of it.
    strength : float, default=1.0
        What is added to a patch, in standard deviations of the background; see `mechanism`.
    mechanism : {"linear", "multiplicative", "rotated"}, default="linear"
        As in `make_suppressor`, for both patches.
    background : {"white", "correlated"}, default="white"
        As in `make_suppressor`.
    random_state : int, RandomState instance or None, default=None
        Determines the images. Pass an int for reproducible output.

    Returns
    -------
    X : ndarray of shape (2 * n_per_class, size, size)
        The images, in random order of the classes.
    y : ndarray of shape (2 * n_per_class,)
        The classes, 0 and 1.
    mask : ndarray of shape (size, size), dtype=bool
        True on both patches.

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    References
    ----------
    B. Clark, R. Wilming, S. Haufe, "XAI-TRIS: non-linear image benchmarks to quantify false
    positive post-hoc attribution of feature importance", Machine Learning 113, 2024.

    Examples
    --------
    >>> from sklrp.datasets import make_xor
    >>> X, y, mask = make_xor(n_per_class=500, random_state=0)
    >>> bool(abs(X[y == 1].mean(axis=0) - X[y == 0].mean(axis=0))[mask].mean() < 0.2)
    True
    """
    rng = make_legacy_rng(random_state)
    X, y = _draw_images(rng, n_per_class, size, background)
    left = _patch(size)
    one = rng.randint(2, size=len(y))
    other = np.where(y == 1, one, 1 - one)
    for mask, sign in ((left, one), (left[:, ::-1], other)):
        X[:, mask] = _signal(rng, X[:, mask], sign, strength, mechanism)
    return X, y, left | left[:, ::-1]


@constrained(
    {
        **_SHARED,
        "brightness": [Interval(Real, 0, None, closed="neither")],
        "share": [Interval(Real, 0, 1, closed="right")],
    }
)
def make_watermark(
    n_per_class: int = 250,
    *,
    size: int = 32,
    strength: float = 0.5,
    brightness: float = 5.0,
    share: float = 0.5,
    mechanism: str = "linear",
    background: str = "white",
    random_state: int | np.random.RandomState | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Make images with a bright patch that has nothing to do with their class.

    A patch on the left tells the classes apart. On the right some images of either class bear a
    bright patch. A map of the input times anything shows it; whoever sees relevance there must not
    take it for a relation.

    Parameters
    ----------
    n_per_class : int, default=250
        Number of images of each of the two classes.
    size : int, default=32
        Edge of the images, at least 8. Patches are a quarter of it.
    strength : float, default=0.5
        What the class adds to its patch, in standard deviations of the background; see
        `mechanism`.
    brightness : float, default=5.0
        What is added to the watermark, in the same units.
    share : float, default=0.5
        With which probability an image bears it, of either class; 1 makes it a constant offset.
    mechanism : {"linear", "multiplicative", "rotated"}, default="linear"
        As in `make_suppressor`.
    background : {"white", "correlated"}, default="white"
        As in `make_suppressor`.
    random_state : int, RandomState instance or None, default=None
        Determines the images. Pass an int for reproducible output.

    Returns
    -------
    X : ndarray of shape (2 * n_per_class, size, size)
        The images, in random order of the classes.
    y : ndarray of shape (2 * n_per_class,)
        The classes, 0 and 1.
    mask : ndarray of shape (size, size), dtype=bool
        True where the classes differ: on the left patch. The watermark is at ``mask[:, ::-1]``.

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    Examples
    --------
    >>> from sklrp.datasets import make_watermark
    >>> X, y, mask = make_watermark(n_per_class=100, random_state=0)
    >>> bears = X[:, mask[:, ::-1]].mean(axis=1) > 2.5
    >>> bool(abs(bears[y == 0].mean() - bears[y == 1].mean()) < 0.2)
    True
    """
    rng = make_legacy_rng(random_state)
    X, y = _draw_images(rng, n_per_class, size, background)
    mask = _patch(size)
    X[:, mask] = _signal(rng, X[:, mask], y, strength, mechanism)
    # Drawn for each image: equal counts in both classes would be unequal in the halves of a split.
    bears = rng.uniform(size=len(y)) < share
    X[np.ix_(bears, *(mask[:, ::-1].any(axis=1 - axis) for axis in (0, 1)))] += brightness
    return X, y, mask


def _draw_images(
    rng: np.random.RandomState, n_per_class: int, size: int, background: str
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return backgrounds and as many labels of each class, in random order."""
    y = rng.permutation(np.repeat(np.array([0, 1]), n_per_class))
    return _background(rng, len(y), size, background), y


def _background(
    rng: np.random.RandomState, n_images: int, size: int, background: str
) -> NDArray[np.float64]:
    """Return noise of mean 0 and variance 1."""
    noise = rng.standard_normal((n_images, size, size))
    if background == "white":
        return noise
    smooth = gaussian_filter(noise, (0, size / 16, size / 16), mode="wrap")
    # Wrapped around, every cell has the same variance: that of a single bright cell, smoothed.
    impulse = np.zeros((size, size))
    impulse[0, 0] = 1.0
    return smooth / np.linalg.norm(gaussian_filter(impulse, size / 16, mode="wrap"))


def _patch(size: int) -> NDArray[np.bool_]:
    """Return the left patch: a square of a quarter of the edge, in the middle of the rows."""
    edge = size // 4
    mask = np.zeros((size, size), dtype=bool)
    first = (size - edge) // 2
    mask[first : first + edge, size // 8 : size // 8 + edge] = True
    return mask


def _signal(
    rng: np.random.RandomState,
    values: NDArray[np.float64],
    label: NDArray,
    strength: float,
    mechanism: str,
) -> NDArray[np.float64]:
    """Return the values of a patch, (n_images, n_cells), with the class of each image in them."""
    sign = np.where(label == 1, 1.0, -1.0)[:, None]
    if mechanism == "linear":
        return values + strength * sign
    if mechanism == "multiplicative":
        return values * (1 + strength) ** sign
    edge = round(values.shape[1] ** 0.5)
    half = np.zeros((edge, edge))
    half[: edge // 2] = 1.0
    turned = np.stack([np.rot90(half, k).ravel() for k in range(4)])
    return values + strength * sign * turned[rng.randint(4, size=len(values))]
