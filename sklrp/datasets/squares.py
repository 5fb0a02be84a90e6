"""Images of two classes that differ in one known square.

`sklrp.datasets` makes `make_squares` public; most tests of maps use it.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING

import numpy as np

from sklrp._constraints import Interval, constrained
from sklrp._sklearn import StrOptions
from sklrp._streams import make_legacy_rng

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["make_squares"]


def _orient(images: NDArray, side: str) -> NDArray:
    """Turn square images of ``side="left"`` (the last two axes) so that left becomes `side`."""
    if side in ("top", "bottom"):
        images = images.swapaxes(-2, -1)
    if side == "right":
        images = images[..., ::-1]
    if side == "bottom":
        images = images[..., ::-1, :]
    return np.ascontiguousarray(images)


@constrained(
    {
        "n_per_class": [Interval(Integral, 1, None, closed="left")],
        "size": [Interval(Integral, 5, None, closed="left")],
        "noise": [Interval(Real, 0, None, closed="left")],
        "amplitude": [Interval(Real, 0, None, closed="neither")],
        "side": [StrOptions({"left", "right", "top", "bottom"})],
    }
)
def make_squares(
    n_per_class: int = 250,
    *,
    size: int = 100,
    noise: float = 0.1,
    amplitude: float = 0.5,
    side: str = "left",
    random_state: int | np.random.RandomState | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Make noisy images of two classes that differ in one known square.

    Use it to grade relevance maps: whatever a map shows outside of the returned mask comes from
    the network, not from the data. Every image holds two distractors, the same in both classes: a
    square of ``+amplitude`` at the upper and one of ``-amplitude`` at the lower end of one edge.
    A third square at the middle of the opposite edge, the only place that tells the classes apart,
    is ``+amplitude`` in class 1 and ``-amplitude`` in class 0. Uniform noise is added everywhere.
    At the default size this is the synthetic task of [1]_: squares at rows 20-30 and 70-80 of
    columns 70-80, and at rows 45-55 of columns 20-30.

    Parameters
    ----------
    n_per_class : int, default=250
        Number of images of each class.
    size : int, default=100
        Height and width of the images in pixels, at least 5. The squares keep their relative
        place and are ``size / 10`` pixels wide, rounded.
    noise : float, default=0.1
        The noise is uniform in ``[-noise, noise)``, in the units of `amplitude`; 0 for none.
    amplitude : float, default=0.5
        Absolute value of the squares.
    side : {"left", "right", "top", "bottom"}, default="left"
        The edge near which the discriminating square lies, the distractors being at the opposite
        one. A network that reads the image as a sequence sees the square early or late: for
        ``sweep="right"`` the square at the ``"left"`` comes first, for ``sweep="down"`` the one at
        the ``"top"``. The same `random_state` gives the same images, mirrored or transposed.
    random_state : int, RandomState instance or None, default=None
        Determines the noise and the order of the samples. Pass an int for reproducible output.

    Returns
    -------
    X : ndarray of shape (2 * n_per_class, size, size)
        The images, in random order.
    y : ndarray of shape (2 * n_per_class,)
        The classes, 0 and 1.
    mask : ndarray of shape (size, size), dtype=bool
        True on the discriminating square.

    Raises
    ------
    ValueError
        If a parameter is out of its range.
    TypeError
        If a parameter is of a wrong type.

    References
    ----------
    .. [1] M. Landt-Hayen, P. Kröger, M. Claus, W. Rath, "Layer-wise relevance propagation for
       echo state networks applied to Earth system variability", 2022, arXiv:2210.09958.

    Examples
    --------
    >>> from sklrp.datasets import make_squares
    >>> X, y, mask = make_squares(n_per_class=10, size=20, random_state=0)
    >>> X.shape, y.shape, mask.shape
    ((20, 20, 20), (20,), (20, 20))
    >>> print(f"{X[y == 0][:, mask].mean():+.1f} {X[y == 1][:, mask].mean():+.1f}")
    -0.5 +0.5
    """
    rng = make_legacy_rng(random_state)
    X = rng.uniform(-noise, noise, size=(2 * n_per_class, size, size))
    y = rng.permutation(np.repeat([0, 1], n_per_class))

    def span(percent: int) -> slice:
        start = (percent * size + 50) // 100
        return slice(start, start + (size + 5) // 10)

    low, middle, high = span(20), span(45), span(70)
    mask = np.zeros((size, size), dtype=bool)
    mask[middle, low] = True
    X[:, mask] += np.where(y == 1, amplitude, -amplitude)[:, None]
    X[:, low, high] += amplitude
    X[:, high, high] -= amplitude
    return _orient(X, side), y, _orient(mask, side)
