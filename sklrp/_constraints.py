"""What parameters may be, in the words of scikit-learn's parameter constraints.

Estimators, rules and functions take their constraints from here, so that one kind of parameter
means the same everywhere: no number is True, no count is endless, an error is short. What every
function calls alike, such as ``progress``, is constrained by its name alone, see `COMMON`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Set
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np

from sklrp._checks import MOST, MOST_JOBS, cut_error, forbid_unsaid
from sklrp._files import names_file
from sklrp._keywords import named
from sklrp._numbers import is_real
from sklrp._sklearn import HasMethods, validate_params
from sklrp._sklearn import Interval as SklearnInterval
from sklrp._warnings import each_once

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Interval(SklearnInterval):
    """A range of numbers. True and False are none, though they are integers to Python.

    Parameters
    ----------
    type : {Integral, Real}
        The kind of number.
    left : float or None
        The lower bound; None for none.
    right : float or None
        The upper bound; None for none, or the largest number of 32 bits for integers.
    closed : {"left", "right", "both", "neither"}
        Which bounds belong to the range.
    """

    def __init__(self, type: Any, left: Any, right: Any, *, closed: str) -> None:
        if type is Integral and right is None:
            right, closed = MOST - 1, "both" if closed == "left" else "right"
        super().__init__(type, left, right, closed=closed)

    def is_satisfied_by(self, val: Any) -> bool:
        """Tell whether a value is in the range."""
        return is_real(val) and bool(super().is_satisfied_by(val))


class _Values(HasMethods):
    """Arrays, and lists whose rows have one length. A dict or a set has no order."""

    def __init__(self) -> None:
        super().__init__("__len__")

    def is_satisfied_by(self, val: Any) -> bool:
        """Tell whether NumPy can make an array of a value, of at least one axis."""
        if isinstance(val, str | bytes | Mapping | Set) and not hasattr(val, "shape"):
            return False
        shape = getattr(val, "shape", None)
        if shape is not None:
            return bool(len(shape)) if isinstance(shape, tuple) else True
        if isinstance(val, list | tuple) and _rows_differ(val):
            return False
        return (hasattr(val, "__len__") or hasattr(val, "__array__")) and not np.isscalar(val)

    def __str__(self) -> str:
        return "an array-like, whose rows have one length"


class _Samples(HasMethods):
    """Samples in any form that a model may take: arrays, tables, several inputs, batches."""

    def __init__(self) -> None:
        super().__init__("__iter__")

    def is_satisfied_by(self, val: Any) -> bool:
        """Tell whether a value may hold samples."""
        shape = getattr(val, "shape", None)
        if isinstance(shape, tuple):
            return bool(shape)
        is_value = isinstance(val, str | bytes | Set | type) or np.isscalar(val)
        holds = hasattr(val, "__iter__") or hasattr(val, "__getitem__")
        return holds and not is_value

    def __str__(self) -> str:
        return "samples: an array, a table, fields of xarray, or several inputs"


class _Path(HasMethods):
    """Names of files. An empty one would be the folder that one happens to be in."""

    def __init__(self) -> None:
        super().__init__("__fspath__")

    def is_satisfied_by(self, val: Any) -> bool:
        """Tell whether a value names a file."""
        return names_file(val)

    def __str__(self) -> str:
        return "a str or a pathlib.Path that names a file"


class _Splits(HasMethods):
    """What says how a cross-validation splits the samples."""

    def __init__(self) -> None:
        super().__init__(["split", "get_n_splits"])
        self._number = Interval(Integral, 2, None, closed="left")

    def is_satisfied_by(self, val: Any) -> bool:
        """Tell whether a value is a number of folds, a splitter, or pairs of indices."""
        if val is None or self._number.is_satisfied_by(val):
            return True
        if not isinstance(val, type) and super().is_satisfied_by(val):
            return True
        if isinstance(val, list | tuple):
            return bool(val) and all(map(_is_pair, val))
        return hasattr(val, "__next__")

    def __str__(self) -> str:
        return "None, an int of at least 2, a splitter of scikit-learn, or pairs (train, test)"


class _Axes(HasMethods):
    """Axes of matplotlib, told by their methods, as it is not imported before it draws."""

    def __init__(self, *, several: bool = False) -> None:
        super().__init__(["get_figure", "plot", "set_title"])
        self._several = several

    def is_satisfied_by(self, val: Any) -> bool:
        """Tell whether a value is an Axes, or holds them alone."""
        if val is np.ma.masked:  # whose only entry is itself
            return False
        if self._several and isinstance(val, list | tuple | np.ndarray):
            entries = list(val.flat) if isinstance(val, np.ndarray) else val
            return len(entries) > 0 and all(map(self.is_satisfied_by, entries))
        return not isinstance(val, type) and super().is_satisfied_by(val)

    def __str__(self) -> str:
        return "a matplotlib Axes" + " or an array of them" * self._several


def _rows_differ(values: Any) -> bool:
    """Tell whether lists in a list differ in length."""
    try:
        np.shape(values)
    except ValueError:
        return True
    except (TypeError, RuntimeError):  # of tensors that NumPy cannot read: on a device, learned
        return False
    return False


def _is_pair(value: Any) -> bool:
    """Tell whether a value is a pair of arrays of indices."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(np.ndim(rows) == 1 and np.asarray(rows).dtype.kind in "iub" for rows in value)
    )


class ShortErrors:
    """An estimator whose errors about its parameters are short, whatever values they quote."""

    def _validate_params(self) -> None:
        try:
            super()._validate_params()  # type: ignore[misc]
        except Exception as error:
            forbid_unsaid(self.get_params(deep=False), error)  # type: ignore[attr-defined]
            cut_error(error)
            raise


COUNT = Interval(Integral, 1, None, closed="left")
POSITIVE = Interval(Real, 0, None, closed="neither")
NOT_NEGATIVE = Interval(Real, 0, None, closed="left")
PROBABILITY = Interval(Real, 0, 1, closed="left")  # of dropping, so never 1
FINITE = Interval(Real, None, None, closed="neither")
SHARE = Interval(Real, 0, 1, closed="right")
RANDOM_STATE = [Interval(Integral, 0, 2**32 - 1, closed="both"), np.random.RandomState, None]
JOBS = [
    Interval(Integral, 1, MOST_JOBS, closed="both"),
    Interval(Integral, -MOST_JOBS, -1, closed="both"),
    None,
]
ONE_AXES = [_Axes(), None]
AXES = [_Axes(several=True), None]
PATH = [_Path()]

# What words of scikit-learn's stand for here.
_OWN: dict[str, list[Any]] = {
    "array-like": [_Values()],
    "cv_object": [_Splits()],
    "samples": [_Samples()],
    "random_state": RANDOM_STATE,
    "verbose": ["boolean", Interval(Integral, 0, None, closed="left")],
}
# Parameters that mean the same wherever they occur.
COMMON: dict[str, list[Any]] = {
    "absolute": ["boolean"],
    "alpha": [Interval(Real, 0, 1, closed="neither")],
    "ax": ONE_AXES,
    "batch_size": [COUNT, None],
    "bias": ["boolean"],
    "bidirectional": ["boolean"],
    "by_column": ["boolean"],
    "contrast": ["boolean"],
    "cv": ["cv_object"],
    "dropout": [PROBABILITY],
    "each_channel": ["boolean"],
    "epsilon": [NOT_NEGATIVE],
    "hidden_size": [COUNT],
    "input_dropout": [PROBABILITY],
    "input_noise": [NOT_NEGATIVE],
    "input_size": [COUNT],
    "mask": ["array-like"],
    "max_samples": [COUNT, None],
    "memory": [_Path(), HasMethods(["cache"]), None],
    "n_jobs": JOBS,
    "n_networks": [COUNT],
    "n_outputs": [COUNT],
    "n_reservoir": [COUNT],
    "num_layers": [COUNT],
    "path": PATH,
    "progress": ["boolean"],
    "random_state": RANDOM_STATE,
    "return_details": ["boolean"],
}


def refine(constraints: Mapping[str, Any]) -> dict[str, Any]:
    """Return constraints of parameters with this package's meaning of scikit-learn's words.

    Parameters
    ----------
    constraints : mapping of str to list or "no_validation"
        The constraints by parameter, as scikit-learn has them.

    Returns
    -------
    dict
        The constraints.
    """
    return {name: _refine(words) for name, words in constraints.items()}


def _refine(words: Any) -> Any:
    if isinstance(words, str):
        return words
    return [own for w in words for own in (_OWN.get(w, [w]) if isinstance(w, str) else [w])]


def constrained(
    own: Mapping[str, Any] | None = None, *, skip_nested: bool = True
) -> Callable[[_Function], _Function]:
    """Decorate a function: its parameters are checked first, and it warns of a thing once.

    A parameter of `COMMON` may also be None where that is its default. Numbers and flags of NumPy
    become Python's: torch takes no others, and small integers of NumPy overflow.

    Parameters
    ----------
    own : mapping of str to list or "no_validation", or None, default=None
        The constraints by parameter, beyond or instead of those in `COMMON`.
    skip_nested : bool, default=True
        Whether functions inside are not checked again. False for one that hands on whatever
        keywords it is given.

    Returns
    -------
    callable
        The decorator.
    """

    def decorate(function: _Function) -> _Function:
        names = inspect.signature(function).parameters
        common = {
            name: _common(name, one.default) for name, one in names.items() if name in COMMON
        }
        constraints = refine({**common, **(own or {})})
        scalars = {name for name, words in constraints.items() if any(map(_is_of_scalars, words))}
        places = [name in scalars for name in names]
        check = validate_params(constraints, prefer_skip_nested_validation=skip_nested)
        checked = named(check(function))

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            args = (
                *(_as_python(a) if one else a for a, one in zip(args, places, strict=False)),
                *args[len(places) :],
            )
            kwargs = {k: _as_python(v) if k in scalars else v for k, v in kwargs.items()}
            with each_once():
                return checked(*args, **kwargs)

        return wrapper  # type: ignore[return-value]

    return decorate


def _common(name: str, default: Any) -> list[Any]:
    """Return the constraints that a parameter has everywhere."""
    words = COMMON[name]
    return [*words, None] if default is None and None not in words else words


def _is_of_scalars(word: Any) -> bool:
    """Tell whether a constraint is of numbers or flags."""
    return isinstance(word, SklearnInterval) or word == "boolean"


def _as_python(value: Any) -> Any:
    is_other = isinstance(value, np.datetime64 | np.timedelta64 | np.longdouble)
    return value.item() if isinstance(value, np.generic) and not is_other else value
