"""Rows of samples in whatever form: arrays, tables, tuples and dicts of arrays, and batches.

What takes samples as they come counts and takes them by these; what is given an iterator takes its
batches one by one, or refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeGuard

from sklrp._stored import naming_place
from sklrp._wording import say_value


def take_rows(samples: Any, rows: Any) -> Any:
    """Return rows of samples: an array, a table, a tuple or a dict of arrays."""
    if isinstance(samples, Mapping):
        return {name: value[rows] for name, value in samples.items()}
    if isinstance(samples, tuple):
        return tuple(value[rows] for value in samples)
    return samples.iloc[rows] if hasattr(samples, "iloc") else samples[rows]


def count_samples(samples: Any) -> int:
    """Return the number of samples of an array, a table, a tuple or a dict of arrays."""
    first = samples
    if isinstance(samples, Mapping | tuple):
        first = next(iter(samples.values() if isinstance(samples, Mapping) else samples), None)
    shape = getattr(first, "shape", None)  # an array of zarr has no len
    if shape == () or (shape is None and not hasattr(first, "__len__")):
        raise TypeError(
            "X must be an array of samples, a table, or a tuple or a dict of arrays, got "
            f"{say_value(samples, 80)}."
        )
    return int(shape[0]) if shape else len(first)


def is_stream(X: Any) -> TypeGuard[Iterator[Any]]:
    """Tell whether samples come as batches of an iterator, such as a generator."""
    return isinstance(X, Iterator)


def forbid_stream(X: Any, name: str = "X") -> None:
    """Raise an error if samples come as batches, where all of them are needed more than once."""
    if is_stream(X):
        raise TypeError(
            f"{name} is a {type(X).__name__}, which yields its samples once, but they are needed "
            "several times: write its batches into a file, np.lib.format.open_memmap, and pass "
            "that."
        )


def map_batches(function: Callable[[Any], Any], X: Iterator[Any]) -> Iterator[Any]:
    """Yield what a function returns for the batches of an iterator that hold samples.

    Parameters
    ----------
    function : callable
        Takes a batch.
    X : iterator
        The batches, of which one at least must hold samples.

    Yields
    ------
    object
        What it returns.

    Raises
    ------
    ValueError, TypeError
        If there is none, or an error of the function, which says what batch it is of. Errors of
        the iterator itself stay what they are, with that in a note.
    """
    done = number = 0
    while True:
        number += 1
        try:
            batch = next(X)
        except StopIteration:
            break
        except Exception as error:
            error.add_note(f"batch {number} of X, after {done} samples, could not be read")
            raise
        where = f"batch {number} of X, after {done} samples"
        with naming_place(where):
            n_samples = _count_in_batch(batch, X)
            found = function(batch) if n_samples else None
        done += n_samples
        if n_samples:
            yield found
    if not done:
        raise ValueError(
            f"X is an iterator, a {type(X).__name__}, that yields no batch with samples: give an "
            "iterator that has not been used yet."
        )


def _count_in_batch(batch: Any, X: Iterator[Any]) -> int:
    if getattr(batch, "ndim", 2) < 2:
        raise TypeError(
            f"X is a {type(X).__name__} of arrays of shape {tuple(batch.shape)}, but must be "
            "one of batches of samples: yield batches, or pass np.stack(list(X))."
        )
    return count_samples(batch)
