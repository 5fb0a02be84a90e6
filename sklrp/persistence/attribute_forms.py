"""Forms of fitted attributes: the type, shape and bounds that each must have in a file.

`.known_steps` says by them what a fitted step keeps; `.parts` checks it before a file is written
and after one was read. A form is called with a value and the sizes that earlier attributes of the
same step have named, such as ``{"features": 12}``, and names the sizes that it meets first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Sizes = dict[str, int]
Form = Callable[[Any, Sizes], bool]


def size(name: str) -> Form:
    """Return the form of a positive integer that names a size."""

    def fits(value: Any, sizes: Sizes) -> bool:
        if not _is_integer(value) or value < 1:
            return False
        return sizes.setdefault(name, int(value)) == value

    return fits


def number(*, low: float = -np.inf, integral: bool = False) -> Form:
    """Return the form of one finite number of at least `low`."""

    def fits(value: Any, sizes: Sizes) -> bool:
        is_real = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        return is_real and np.isfinite(value) and value >= low and (not integral or value % 1 == 0)

    return fits


def numbers(
    *axes: str | int,
    low: float = -np.inf,
    above: float = -np.inf,
    kind: str = "f",
    gaps: bool = False,
    rises: bool = False,
) -> Form:
    """Return the form of an array of numbers.

    Parameters
    ----------
    *axes : str or int
        The length of each axis, or the name of a size.
    low, above : float
        The smallest value, and one that all values are above.
    kind : str
        The kinds of dtype that are allowed, as NumPy abbreviates them.
    gaps : bool
        Whether values may be NaN.
    rises : bool
        Whether values never fall along the first axis.

    Returns
    -------
    callable
        The form.
    """

    def fits(value: Any, sizes: Sizes) -> bool:
        if not isinstance(value, np.ndarray) or value.dtype.kind not in kind:
            return False
        if not _agrees(value.shape, axes, sizes):
            return False
        finite = np.isfinite(value) | (np.isnan(value) & gaps) if value.dtype.kind == "f" else True
        inside = ~((value < low) | (value <= above)) if value.dtype.kind != "b" else True
        return bool(np.all(finite) and np.all(inside)) and (not rises or _rises(value))

    return fits


def _rises(value: Any) -> bool:
    return not bool((value[1:] < value[:-1]).any())


def flags(*axes: str | int) -> Form:
    """Return the form of an array of True and False."""
    return numbers(*axes, kind="b")


def texts(*axes: str | int) -> Form:
    """Return the form of an array of texts, or of objects such as texts and numbers."""

    def fits(value: Any, sizes: Sizes) -> bool:
        is_array = isinstance(value, np.ndarray) and value.dtype.kind in "OU"
        return is_array and _agrees(value.shape, axes, sizes) and all(map(_is_plain, value.flat))

    return fits


def one_of(*allowed: Any) -> Form:
    """Return the form of one of some values, of the same type."""
    return lambda value, sizes: any(type(value) is type(a) and value == a for a in allowed)


def either(*forms: Form) -> Form:
    """Return the form of what has one of several forms."""

    def fits(value: Any, sizes: Sizes) -> bool:
        for form in forms:
            tried = dict(sizes)
            if form(value, tried):
                sizes.update(tried)
                return True
        return False

    return fits


def maybe(form: Form) -> Form:
    """Return the form of what may be None."""
    return either(one_of(None), form)


def each(axis: str, *, form: Form, of_array: bool = False) -> Form:
    """Return the form of a list, or an array of objects, whose items have a form each."""

    def fits(value: Any, sizes: Sizes) -> bool:
        is_array = isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind == "O"
        if not (is_array if of_array else isinstance(value, list)):
            return False
        return _agrees((len(value),), (axis,), sizes) and all(form(v, dict(sizes)) for v in value)

    return fits


def anything(value: Any, sizes: Sizes) -> bool:
    """Accept what a check of the whole step looks at."""
    return True


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _agrees(shape: tuple[int, ...], axes: tuple[str | int, ...], sizes: Sizes) -> bool:
    """Tell whether a shape has the named sizes, and name those that are new."""
    if len(shape) != len(axes):
        return False
    for length, axis in zip(shape, axes, strict=True):
        if length != (axis if isinstance(axis, int) else sizes.setdefault(axis, length)):
            return False
    return True
