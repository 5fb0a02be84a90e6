"""Images of square and round frames, whose areas decide the class.

`sklrp.datasets` makes `make_frames` public.
"""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np

from sklrp._constraints import Interval, constrained
from sklrp._sklearn import Options
from sklrp._streams import make_legacy_rng

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

__all__ = ["make_frames"]

_SIZE = 65  # height and width of the images
_SIDES = 12, 22  # of the squares; a circle of "side" s has the radius s / sqrt(pi)
_LEAST_HOLE, _LEAST_EXCESS = 7, 4  # side of a hole, and how much smaller it is than its frame
_CENTRES = 12, 52  # wherever they lie in here, the largest shapes are inside of the image
_PAIRS = np.array([(a, b) for a in range(3) for b in range(3) if a != b])  # numbers of frames
_BLOCK = 1024  # images that are drawn at a time: bounds the memory beyond X and truth


def _in_square(side: NDArray, centre: NDArray) -> NDArray[np.bool_]:
    """Return the pixels, on two last axes, of squares with `side` and `centre` (row, column)."""
    offset = np.arange(_SIZE) - centre[..., None] + side[..., None, None] // 2
    inside = (offset >= 0) & (offset < side[..., None, None])
    return inside[..., 0, :, None] & inside[..., 1, None, :]


def _in_circle(side: NDArray, centre: NDArray) -> NDArray[np.bool_]:
    """Return the pixels, on two last axes, of circles of the area of a square with `side`."""
    squared = (np.arange(_SIZE) - centre[..., None]) ** 2
    distance = squared[..., 0, :, None] + squared[..., 1, None, :]
    return distance <= (side**2 / np.pi)[..., None, None]


def _n_pixels(shape: int) -> NDArray[np.int64]:
    """Return the number of pixels of a square (0) or circle (1) for every side from 0."""
    sides = np.arange(_SIDES[1] + 1)
    centre = np.full((len(sides), 2), _SIZE // 2)
    return (_in_square, _in_circle)[shape](sides, centre).sum(axis=(1, 2))


def _overlap(side: NDArray, centre: NDArray, present: NDArray) -> NDArray[np.bool_]:
    """Return which images have two shapes that meet when each is grown by a pixel to all sides.

    The last axes of `side` and `present` are kind (square, circle) and number of the frame.
    """
    low = centre - side[..., None] // 2 - 1
    high = low + side[..., None] + 1
    radius = side / np.sqrt(np.pi) + 1
    squares = ((low[:, 0, 0] <= high[:, 0, 1]) & (low[:, 0, 1] <= high[:, 0, 0])).all(axis=-1)
    gap = np.linalg.norm(centre[:, 1, 0] - centre[:, 1, 1], axis=-1)
    circles = gap <= radius[:, 1].sum(axis=-1)
    overlap = squares & present[:, 0].all(axis=-1) | circles & present[:, 1].all(axis=-1)
    for i in range(2):
        for j in range(2):
            nearest = np.clip(centre[:, 1, j], low[:, 0, i], high[:, 0, i])
            gap = np.linalg.norm(centre[:, 1, j] - nearest, axis=-1)
            overlap |= (gap <= radius[:, 1, j]) & present[:, 0, i] & present[:, 1, j]
    return overlap


@constrained(
    {
        "n_samples": [Interval(Integral, 1, None, closed="left")],
        "dtype": [Options(type, {np.float32, np.float64})],
    }
)
def make_frames(
    n_samples: int = 1000,
    *,
    dtype: DTypeLike = np.float64,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[NDArray[np.floating], NDArray[np.int64], NDArray[np.floating]]:
    """Make binary images of square and round frames, and what each pixel says of their class.

    Use it to grade relevance maps of convolutional networks. The class is the kind of frame, round
    (0) or square (1), that covers more pixels; so every pixel of the larger kind is evidence for
    the class of its image, every pixel of the other kind is evidence against it, and the empty
    ones are neither. This is the recipe of [1]_:

    - images of 65 x 65 pixels hold 0, 1 or 2 squares and another number of circles, each of the
      six combinations with the same probability;
    - the sides of squares are integers s of 12 to 22 and the radii of circles are s / sqrt(pi),
      such that both have about the same area; all lie wholly inside of the image;
    - each becomes a frame by a hole of its own shape in its centre, of s from 7 to the frame's s
      less 4;
    - the pixels of two frames are more than two pixels apart; layouts without this space are drawn
      anew, and so are those in which both kinds cover the same number of pixels.

    In two thirds of the images one kind is alone, and the image itself is the truth; so grade the
    others, ``(truth < 0).any(axis=(1, 2))``, by themselves as well.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of images. [1]_ has half a million; a small network learns the task from a few
        thousand.
    dtype : {numpy.float64, numpy.float32}, default=numpy.float64
        The type of `X` and `truth`.
    random_state : int, RandomState instance or None, default=None
        Determines number, sizes and places of the frames. Pass an int for reproducible output.

    Returns
    -------
    X : ndarray of shape (n_samples, 65, 65)
        The images, 1 on frames and 0 elsewhere.
    y : ndarray of shape (n_samples,)
        The classes: 1 where squares cover more pixels, 0 where circles do.
    truth : ndarray of shape (n_samples, 65, 65)
        1 on the frames of the kind that covers more, -1 on those of the other kind, 0 elsewhere.

    Raises
    ------
    ValueError
        If a parameter is out of its range.
    TypeError
        If a parameter is of a wrong type.

    References
    ----------
    .. [1] A. Mamalakis, E. A. Barnes, I. Ebert-Uphoff, "Investigating the fidelity of explainable
       artificial intelligence methods for applications of convolutional neural networks in
       geoscience", Artificial Intelligence for the Earth Systems 1(4), 2022, arXiv:2202.03407.

    Examples
    --------
    >>> from sklrp.datasets import make_frames
    >>> X, y, truth = make_frames(100, random_state=0)
    >>> X.shape, y.shape, truth.shape
    ((100, 65, 65), (100,), (100, 65, 65))
    >>> bool((abs(truth) == X).all() and (truth.sum(axis=(1, 2)) > 0).all())
    True
    """
    rng = make_legacy_rng(random_state)
    # Axes of the layout: image, kind (square, circle), number of the frame, and (row, column).
    counts = _PAIRS[rng.randint(len(_PAIRS), size=n_samples)]
    present = np.arange(2) < counts[:, :, None]
    side, hole = np.empty((2, n_samples, 2, 2), dtype=int)
    centre = np.empty((n_samples, 2, 2, 2), dtype=int)
    excess = np.empty(n_samples, dtype=int)
    n_pixels = np.stack([_n_pixels(0), _n_pixels(1)])
    kind = np.arange(2)[:, None]
    todo = np.arange(n_samples)
    while len(todo):
        shape = len(todo), 2, 2
        drawn = rng.randint(_SIDES[0], _SIDES[1] + 1, size=shape)
        cut = rng.randint(_LEAST_HOLE, drawn - _LEAST_EXCESS + 1)
        place = rng.randint(_CENTRES[0], _CENTRES[1] + 1, size=(*shape, 2))
        area = ((n_pixels[kind, drawn] - n_pixels[kind, cut]) * present[todo]).sum(axis=2)
        side[todo], hole[todo], centre[todo] = drawn, cut, place
        excess[todo] = area[:, 0] - area[:, 1]
        todo = todo[_overlap(drawn, place, present[todo]) | (excess[todo] == 0)]

    X = np.empty((n_samples, _SIZE, _SIZE), dtype)
    truth = np.empty((n_samples, _SIZE, _SIZE), dtype)
    larger = np.sign(excess)[:, None, None]
    for start in range(0, n_samples, _BLOCK):
        block = slice(start, start + _BLOCK)
        squares, circles = (
            (
                inside(side[block, i], centre[block, i])
                & ~inside(hole[block, i], centre[block, i])
                & present[block, i, :, None, None]
            ).any(axis=1)
            for i, inside in enumerate((_in_square, _in_circle))
        )
        X[block] = squares | circles
        truth[block] = (squares.astype(np.int8) - circles) * larger[block]
    return X, (excess > 0).astype(np.int64), truth
