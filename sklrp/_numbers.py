"""What is a number, and errors about samples that hold none.

The checks of parameters ask `is_real`; whatever takes samples calls `forbid_text` before NumPy
or scikit-learn look at them, whose errors name neither the samples nor what to do.
"""

from __future__ import annotations

from numbers import Integral, Rational, Real
from typing import Any, TypeGuard

import numpy as np
from scipy.sparse import issparse

from sklrp._wording import say_value

_FLAGS_AND_SPANS = bool | np.bool_ | np.timedelta64  # which Python and NumPy count as integers
_MANY = 100  # cells of a column that are looked at


def is_real(value: Any, kind: Any = Real) -> TypeGuard[Any]:
    """Tell whether a value is a number of 64 bits, as torch takes them.

    Parameters
    ----------
    value : object
        Whatever was passed.
    kind : {Real, Integral}, default=Real
        The kind of number.

    Returns
    -------
    bool
        False for flags, spans of time, fractions, long doubles, and integers beyond 64 bits.
    """
    if not isinstance(value, kind) or isinstance(value, _FLAGS_AND_SPANS):
        return False
    if isinstance(value, Integral):
        return abs(int(value)) < 2**63
    return not isinstance(value, Rational) and getattr(value, "itemsize", 0) <= 8


def is_readable(value: Any) -> bool:
    """Tell whether Python makes a float of a value, such as a decimal or a text of digits."""
    try:
        float(value)
    except Exception:  # of the value's own code too
        return False
    return True


def forbid_text(X: Any, name: str = "X") -> None:
    """Raise an error if samples hold what is no number yet: text, dates, endless integers.

    Parameters
    ----------
    X : table, sparse matrix or array-like
        The samples.
    name : str, default="X"
        What errors call them.

    Raises
    ------
    ValueError
        If there are such values, or columns of one name.
    """
    is_table = hasattr(X, "iloc") and X.ndim == 2
    if is_table:
        _forbid_columns(X, name)
    if is_table or issparse(X):
        return
    array = np.asarray(X)
    if array.dtype.kind in "USmMV":
        raise ValueError(
            f"{name} must hold numbers, got dtype {array.dtype}: encode text and dates as numbers "
            "first."
        )
    if array.dtype.kind != "O":
        return
    try:
        array.astype(np.float64)
    except OverflowError as error:
        shown = say_value(array.ravel().tolist())
        raise ValueError(f"{name} must hold numbers of 64 bits, got {shown}: {error}.") from None
    except ValueError:
        shown = say_value(next(filter(_is_text, array.ravel().tolist()), array))
        raise ValueError(
            f"{name} must hold numbers, got {shown}: encode text as numbers first."
        ) from None
    except TypeError:  # of which scikit-learn tells
        pass


def _forbid_columns(X: Any, name: str) -> None:
    """Raise an error if columns of a DataFrame hold no numbers yet, or cannot be told apart."""
    twice = X.columns[X.columns.duplicated()].unique().tolist()
    if twice:
        raise ValueError(
            f"{name} has several columns of one name, {twice[:5]}: rename or drop them, or pass "
            f"{name}.to_numpy()."
        )
    dates = X.select_dtypes(include=["datetime", "datetimetz", "timedelta"]).columns.tolist()
    if dates:
        raise ValueError(
            f"{name} has columns of dates, {dates[:5]}: give what matters of them as numbers, "
            f"such as {name}[{dates[0]!r}].dt.dayofyear or the days since the first, and drop the "
            f"rest, {name}.drop(columns={dates[:5]})."
        )
    others = X.select_dtypes(exclude="number")
    nested = [key for key, column in others.items() if any(map(_is_series, column.iloc[:_MANY]))]
    if nested:
        raise ValueError(
            f"{name} has columns with a series in each cell, {nested[:5]}: give an array of "
            "numbers, (n_samples, n_steps, n_variables) for an LSTM or an ESN: np.stack([np.stack("
            f"list({name}[key])) for key in {name}], axis=2)."
        )
    text = [key for key, column in others.items() if any(map(_is_text, column.iloc[:_MANY]))]
    if text:
        raise ValueError(
            f"{name} has columns of text, {text[:5]}: encode them before the network, "
            f"make_pipeline(make_column_transformer((OneHotEncoder(sparse_output=False), "
            f"{text[:5]}), remainder=StandardScaler()), network)."
        )


def _is_series(value: Any) -> bool:
    """Tell whether a cell of a table holds several values."""
    return isinstance(value, list | tuple) or getattr(value, "ndim", 0) > 0


def _is_text(value: Any) -> bool:
    """Tell whether a value is text that no number can be read from."""
    return isinstance(value, str | bytes) and not is_readable(value)
