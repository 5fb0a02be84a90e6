"""Missing values of NumPy's masked arrays, which ``np.asarray`` would take for data.

netCDF4 returns masked arrays, and below their mask stands the file's fill value. What has a notion
of missing calls `mask_to_nan`; what has none calls `forbid_masked`, which says how to go on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from sklrp._devices import to_host
from sklrp._wording import say_error, say_value

_DEEPEST = 64  # axes of an array, at most; a list that holds itself has no end
_REMEDY = (
    "fill them, np.ma.filled({name}.astype(float), ...), leave such cells out, or mark them NaN "
    "and let sklrp.geo.GridVectorizer or sklrp.preprocessing.InputMasker mask them"
)


def forbid_masked(values: Any, name: str, remedy: str = _REMEDY) -> Any:
    """Return values without their mask, or raise an error if one of them is masked.

    Parameters
    ----------
    values : object
        Whatever was passed. Only masked arrays, lists of them and arrays in dask change.
    name : str
        What errors call it.
    remedy : str, default="fill them, ..."
        What to do about masked values; ``{name}`` stands for the name.

    Returns
    -------
    object
        The values; a masked array that masks nothing as a plain array.

    Raises
    ------
    ValueError
        If a value is masked.
    """
    if getattr(values, "is_meta", False):
        raise ValueError(
            f"{name} must hold data, got a tensor of shape {tuple(values.shape)} on the meta "
            "device, which has none."
        )
    values = _in_memory(values)
    found = _find_masked(values)
    if found is None:
        return values
    n_masked = int(np.ma.count_masked(found))
    if n_masked:
        raise ValueError(
            f"{name} is a masked array with {n_masked} of {found.size} values masked, which are "
            f"missing and no data: {remedy.format(name=name)}."
        )
    return found.data


def mask_to_nan(values: Any) -> Any:
    """Return values with NaN where they are masked.

    Parameters
    ----------
    values : object
        Whatever was passed. Only masked arrays, lists of them and arrays in dask change.

    Returns
    -------
    object
        The values; a masked array as a plain one, in its own floating dtype if it has one.
    """
    values = _in_memory(values)
    found = _find_masked(values)
    if found is None:
        return values
    if not np.ma.count_masked(found):
        return found.data
    floats: Any = found if found.dtype.kind == "f" else found.astype(np.float64)
    return floats.filled(np.nan)


def as_plain_array(values: Any, name: str, dtype: Any = None) -> NDArray:
    """Return values as an array, or raise an error if one of them is masked.

    Parameters
    ----------
    values : array-like
        The values; a tensor may lie on any device.
    name : str
        What errors call them.
    dtype : dtype or None, default=None
        The dtype of the array. None (default): the values' own.

    Returns
    -------
    ndarray
        The values.

    Raises
    ------
    TypeError
        If the values are nothing that an array is made of, such as a dict.
    ValueError
        If a value is masked, the rows differ in length, or a value has not the dtype.
    """
    return _to_array(forbid_masked(to_host(values), name), name, dtype)


def as_gapped_array(values: Any, name: str = "values", dtype: Any = None) -> NDArray:
    """Return values as an array with NaN where they are masked.

    Parameters
    ----------
    values : array-like
        The values; a tensor may lie on any device.
    name : str, default="values"
        What errors call them.
    dtype : dtype or None, default=None
        The dtype of the array. None (default): the values' own.

    Returns
    -------
    ndarray
        The values.

    Raises
    ------
    TypeError
        If the values are nothing that an array is made of, such as a dict.
    ValueError
        If the rows differ in length, or a value has not the dtype.
    """
    return _to_array(mask_to_nan(to_host(values)), name, dtype)


def find_missing(values: NDArray) -> NDArray[np.bool_]:
    """Return which values are missing.

    Parameters
    ----------
    values : ndarray
        Values of any dtype, objects among them.

    Returns
    -------
    ndarray of bool of the same shape
        Whether each is None, NaN, NaT or pandas' NA.
    """
    if values.dtype.kind in "biuSU":
        return np.zeros(values.shape, dtype=bool)
    if values.dtype.kind != "O":
        return np.asarray(values != values)
    found = [_is_no_value(value) for value in values.ravel()]
    return np.array(found, dtype=bool).reshape(values.shape)


def forbid_missing(values: Any, name: str = "y") -> None:
    """Raise an error if samples have None, NaN, NaT or pandas' NA instead of a label or a value.

    Parameters
    ----------
    values : array-like
        Labels or targets.
    name : str, default="y"
        What errors call them.

    Raises
    ------
    ValueError
        If one is missing.
    """
    found = _to_array(to_host(values), name, None)
    if found.dtype.kind == "V":
        raise ValueError(
            f"{name} must hold a label or a value for each sample, got records of {found.dtype}: "
            f"pass a field of them, {name}[...]."
        )
    is_missing = find_missing(found)
    missing = found[is_missing]
    if missing.size:
        raise ValueError(
            f"Input {name} contains {str(missing[0]).replace('nan', 'NaN')} ({missing.size} of "
            f"{found.size} values): "
            + _say_what_to_leave_out(is_missing, name, hasattr(values, "iloc"))
        )


def _say_what_to_leave_out(missing: NDArray[np.bool_], name: str, is_table: bool) -> str:
    """Return how to go on where targets are missing: without samples, columns or both."""
    if missing.ndim == 1:
        keep = f"~pd.isna({name})"
        return f"leave samples without a target out, keep = {keep}, X[keep], {name}[keep]."
    columns = missing.reshape(len(missing), -1)
    always = columns.all(axis=0)
    left = columns[:, ~always].any(axis=1)
    axes = "1" if missing.ndim == 2 else str(tuple(range(1, missing.ndim)))
    keep = f"keep = ~pd.isna({name}).any(axis={axes}), X[keep], {name}[keep]"
    without = f"{name}[:, ~np.isnan({name}).all(axis=0)]"
    if is_table:
        without = f"{name}.dropna(axis=1, how='all')"
    if always.all():
        return "no sample has a target."
    parts = []
    if always.any():
        parts.append(
            f"leave out the {always.sum()} of {columns.shape[1]} columns without a target in any "
            f"sample, such as land, {without}, or of fields GridVectorizer().fit_transform({name})"
        )
    if left.all():
        which = "others" if parts else "missing values"
        parts.append(f"fill or impute the {which}: no sample has a target in all of its columns")
    elif left.any():
        which = "that lack others" if parts else "without a target"
        parts.append(f"leave samples {which} out, {keep}")
    return "; then ".join(parts) + "."


def _is_no_value(value: Any) -> bool:
    """Tell whether a value is missing: all of these but None differ from themselves."""
    try:
        return value is None or bool(value != value)
    except TypeError:  # NA is neither equal to anything nor unequal
        return True
    except Exception:  # an array or a sparse matrix, which is no single value; a signalling NaN
        return False


def _to_array(values: Any, name: str, dtype: Any) -> NDArray:
    """Return values as an array, or raise an error that names them."""
    is_other = isinstance(values, Mapping | Set | Iterator | bytes | bytearray)
    if is_other and not hasattr(values, "shape"):
        variables = list(getattr(values, "data_vars", []))  # of a Dataset
        remedy = f": take a variable of it, {name}[{variables[0]!r}]" if variables else ""
        raise TypeError(f"{name} must be an array or a list, got {type(values).__name__}{remedy}.")
    if issparse(values):
        raise TypeError(
            f"{name} must be an array, got a sparse one, {type(values).__name__} of shape "
            f"{values.shape}: pass {name}.toarray()."
        )
    try:
        found = np.asarray(values, dtype=dtype)
        if found.dtype.kind == "U" and isinstance(values, list | tuple) and dtype is None:
            # Beside text NumPy makes a label "nan" of what is missing.
            plain = np.asarray(values, dtype=object)
            return plain if find_missing(plain).any() else found
        return found
    except MemoryError:
        raise
    except Exception as error:  # whatever a value says of itself
        own = TypeError if isinstance(error, TypeError) else ValueError
        kind = "an array" if dtype is None else "an array of numbers"
        raise own(
            f"{name} must be {kind}, or lists whose rows have one length, got "
            f"{type(values).__name__} {say_value(values)}: {say_error(error)}"
        ) from error


def _find_masked(values: Any) -> np.ma.MaskedArray | None:
    """Return values as a masked array if they are one or hold one, else None."""
    if isinstance(values, np.ma.MaskedArray):
        return values
    if isinstance(values, list | tuple) and _has_masked(values, 0):
        parts = [np.ma.asarray(v) if (f := _find_masked(v)) is None else f for v in values]
        return np.ma.stack(parts)
    return None


def _in_memory(values: Any) -> Any:
    """Return an array in dask as one of NumPy: its chunks alone know whether they are masked."""
    is_array = hasattr(values, "dask") and hasattr(values, "dtype") and not hasattr(values, "iloc")
    return values.compute() if is_array and not hasattr(values, "dims") else values


def _has_masked(values: list[Any] | tuple[Any, ...], depth: int) -> bool:
    """Tell whether a list, or a list in it, holds a masked array or ``np.ma.masked``."""
    if depth == _DEEPEST:
        return False
    return any(
        isinstance(v, np.ma.MaskedArray)
        or (isinstance(v, list | tuple) and _has_masked(v, depth + 1))
        for v in values
    )
