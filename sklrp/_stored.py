"""Samples that lie in a file or in chunks, read part by part: memmap, zarr, HDF5, dask, xarray.

Whatever takes samples asks `is_stored` before it makes an array of them, and goes on with a
`Stored`, which looks like an array and never holds more than a few blocks of it.
"""

from __future__ import annotations

import itertools
import mmap
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from torch import Tensor

from sklrp._files import reserve

BLOCK_BYTES = 16 * 2**20  # read at once; what is smaller as a whole is read as a whole
MEMORY_BYTES = 2**26  # of an array that is made on the way; larger ones are in temporary files
_KEPT_BLOCKS = 2  # what is asked of the first and the last sample alternates between them
_PAGES_BYTES = 2**16  # of a mapped file, that a look at one row brings in


class Stored:
    """Samples that are read in blocks of rows, with what is made of each block.

    It has ``shape``, ``dtype``, ``len`` and rows by index as arrays have them; rows come as arrays
    in memory.

    Parameters
    ----------
    read : callable
        Returns rows of the source in memory, ``read(start, stop)``, in whatever type it has.
    edges : ndarray of shape (n_blocks + 1,)
        Where blocks begin, and the number of all samples.
    shape : tuple of int
        The shape of all samples.
    dtype : dtype
        Their dtype.
    pick : callable or None, default=None
        Returns rows of the source by their indices, where that takes no more than these rows.
    function : callable or None, default=None
        What is made of rows; None leaves them.
    array : ndarray or None, default=None
        The samples, where they are mapped as they are.
    """

    def __init__(
        self,
        read: Callable[[int, int], Any],
        edges: NDArray[np.intp],
        shape: tuple[int, ...],
        dtype: Any,
        pick: Callable[[NDArray[np.intp]], Any] | None = None,
        function: Callable[[Any], Any] | None = None,
        array: NDArray | None = None,
    ) -> None:
        self.array = array
        self.shape, self.dtype, self.edges = shape, np.dtype(dtype), edges
        self._read, self._pick, self._function = read, pick, function
        self._kept: OrderedDict[int, NDArray] = OrderedDict()
        self._lock = threading.RLock()

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """How much memory all samples would take."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    @property
    def is_picked(self) -> bool:
        """Whether single rows in any order cost little, as those of a mapped file."""
        return self._pick is not None

    def __len__(self) -> int:
        return self.shape[0]

    def map(self, function: Callable[[Any], Any]) -> Stored:
        """Return what a function makes of rows, of each row alone, when they are read.

        Parameters
        ----------
        function : callable
            Takes rows and returns as many, as an array.

        Returns
        -------
        Stored
            The same samples, changed; its shape and dtype are those of the first sample.
        """
        before = self._function
        made = function if before is None else lambda rows: function(before(rows))
        first = np.asarray(made(self._read(0, 1)))
        shape = (len(self), *first.shape[1:])
        return Stored(self._read, self.edges, shape, first.dtype, self._pick, made)

    def take(self, rows: NDArray[np.intp]) -> Stored:
        """Return some of the samples, in any order, which are still read part by part."""
        rows = np.asarray(rows, dtype=np.intp)
        shape = (len(rows), *self.shape[1:])
        edges = split_into_blocks(shape, self.dtype, None)

        def read(start: int, stop: int) -> NDArray:
            return self[rows[start:stop]]

        def pick(chosen: NDArray[np.intp]) -> NDArray:
            return self[rows[chosen]]

        return Stored(read, edges, shape, self.dtype, pick if self.is_picked else None)

    def __getitem__(self, rows: Any) -> NDArray:
        if isinstance(rows, int | np.integer):
            return self[[rows]][0]
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1:
                return self._read_rows(start, max(start, stop))
            rows = np.arange(start, stop, step)
        rows = np.asarray(rows.numpy() if isinstance(rows, Tensor) else rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.intp)
        return self._pick_rows(np.where(rows < 0, rows + len(self), rows))

    def blocks(self) -> Iterator[tuple[slice, NDArray]]:
        """Yield all samples block by block, with their places."""
        for k in range(len(self.edges) - 1):
            yield slice(int(self.edges[k]), int(self.edges[k + 1])), self._block(k)

    @cached_property
    def _range(self) -> tuple[Any, Any]:
        ends = [(block.min(), block.max()) for _, block in self.blocks()]
        return min(low for low, _ in ends), max(high for _, high in ends)

    def max(self) -> Any:
        """Return the largest value."""
        return self._range[1]

    def min(self) -> Any:
        """Return the smallest value."""
        return self._range[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray:
        found = np.empty(self.shape, self.dtype if dtype is None else dtype)
        for rows, block in self.blocks():
            found[rows] = block
        return found

    def _block(self, number: int) -> NDArray:
        """Return a block, from those that were read last if it is among them."""
        with self._lock:
            if number in self._kept:
                self._kept.move_to_end(number)
                return self._kept[number]
            while len(self._kept) >= _KEPT_BLOCKS:
                self._kept.popitem(last=False)
            start, stop = int(self.edges[number]), int(self.edges[number + 1])
            rows = self._read(start, stop)
            with naming_place(f"rows {start} to {stop} of X"):
                found = self._make(rows)
            self._kept[number] = found
            return found

    def _read_rows(self, start: int, stop: int) -> NDArray:
        """Return rows that follow one another."""
        if start == stop:
            return np.empty((0, *self.shape[1:]), self.dtype)
        first, last = np.searchsorted(self.edges, [start, stop - 1], side="right") - 1
        parts = []
        for k in range(first, last + 1):
            begin = int(self.edges[k])
            parts.append(self._block(k)[max(start - begin, 0) : stop - begin])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _pick_rows(self, rows: NDArray[np.intp]) -> NDArray:
        """Return rows in any order."""
        if self._pick is not None:
            return self._make(self._pick(rows))
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        number = np.searchsorted(self.edges, rows, side="right") - 1
        for k in np.unique(number):
            its = number == k
            found[its] = self._block(k)[rows[its] - self.edges[k]]
        return found

    def _make(self, rows: Any) -> NDArray:
        return np.asarray(rows if self._function is None else self._function(rows))


def is_stored(X: Any) -> bool:
    """Tell whether samples are to be read part by part: in a file or in chunks, and not small.

    Parameters
    ----------
    X : object
        Whatever was passed as samples.

    Returns
    -------
    bool
        True of a `Stored`; and of a memmap, an array of zarr, h5py or dask, a chunked DataArray
        and whatever else has a shape, a dtype and rows, if it is larger than one block.
    """
    if isinstance(X, Stored):
        return True
    if isinstance(X, np.ndarray) and not isinstance(X, np.ma.MaskedArray):
        return X.nbytes > BLOCK_BYTES and X.ndim > 0 and find_mapping(X) is not None
    if isinstance(X, Tensor | np.generic | np.ma.MaskedArray) or hasattr(X, "iloc"):
        return False
    has_rows = all(hasattr(X, name) for name in ("shape", "dtype", "ndim", "__getitem__"))
    if scipy.sparse.issparse(X) or not has_rows or X.ndim == 0:
        return False
    if hasattr(X, "isel") and X.chunks is None:  # in xarray, and in memory
        return False
    try:
        n_bytes = int(np.prod(X.shape, dtype=np.float64)) * np.dtype(X.dtype).itemsize
    except (TypeError, ValueError):  # a dtype of another library, or a length that is not known
        return False
    return n_bytes > BLOCK_BYTES


def as_stored(X: Any, dim: str | None = None) -> Stored:
    """Return samples that are read part by part.

    Parameters
    ----------
    X : object
        What `is_stored`.
    dim : str or None, default=None
        The dimension of the samples of a DataArray. None (default): the first.

    Returns
    -------
    Stored
        The samples.
    """
    if isinstance(X, Stored):
        return X
    shape, chunks = tuple(map(int, X.shape)), getattr(X, "chunks", None)
    if hasattr(X, "dims") and hasattr(X, "isel"):
        along = X.dims[0] if dim is None else dim
        axis = X.dims.index(along)
        shape = (shape[axis], *shape[:axis], *shape[axis + 1 :])
        edges = split_into_blocks(shape, X.dtype, None if chunks is None else chunks[axis])
        return Stored(
            _checked(lambda rows: X.isel({along: rows}).compute(), shape, X.dtype, axis),
            edges,
            shape,
            X.dtype,
        )
    if isinstance(X, np.ndarray):
        mapped = _Mapped(X)
        edges = split_into_blocks(shape, X.dtype, None)
        return Stored(mapped.read, edges, shape, X.dtype, mapped.pick, array=X)
    whole = getattr(X, "shards", None) or chunks  # several chunks of zarr in a file
    edges = split_into_blocks(shape, X.dtype, whole[0] if whole else None)
    read = _checked(lambda rows: _compute_rows(X[rows]), shape, X.dtype)
    return Stored(read, edges, shape, X.dtype)


def _checked(
    read: Callable[[slice], Any], shape: tuple[int, ...], dtype: Any, axis: int = 0
) -> Callable[[int, int], Any]:
    """Return what reads rows, and raises an error unless they are what was announced.

    A file may be written anew or be cut short while it is read, and a chunk may be damaged.
    """

    def read_checked(start: int, stop: int) -> Any:
        where = f"rows {start} to {stop} of X"
        try:
            found = read(slice(start, stop))
        except Exception as error:
            error.add_note(f"{where} could not be read")
            raise
        got = (found.shape[axis], *found.shape[:axis], *found.shape[axis + 1 :])
        kinds = [np.dtype(one).kind in "biuf" for one in (found.dtype, dtype)]
        if got != (stop - start, *shape[1:]) or kinds == [False, True]:
            raise ValueError(
                f"{where} came in the shape {got} and dtype {found.dtype}, but X has the shape "
                f"{shape} and dtype {dtype}: it is damaged, or was changed meanwhile."
            )
        return found

    return read_checked


def take_blocks(X: Any) -> Iterator[tuple[slice, Any]]:
    """Yield samples block by block, with their places; those in memory in blocks of their own."""
    if isinstance(X, Stored):
        yield from X.blocks()
        return
    n_rows = max(1, BLOCK_BYTES * len(X) // max(1, X.nbytes))
    for start in range(0, len(X), n_rows):
        rows = slice(start, min(start + n_rows, len(X)))
        yield rows, X[rows]
        release(X)


def make_zeros(shape: tuple[int, ...], dtype: Any) -> NDArray:
    """Return an array of zeros; a large one in a temporary file, which goes with the array."""
    if int(np.prod(shape)) * np.dtype(dtype).itemsize <= MEMORY_BYTES:
        return np.zeros(shape, dtype)
    with tempfile.TemporaryFile() as file:
        made = np.memmap(file, dtype, "w+", shape=shape)
        try:
            reserve(file.fileno(), 0, made.nbytes)
        except OSError as error:
            raise OSError(error.errno, error.strerror, tempfile.gettempdir()) from error
        return made


def in_array(X: Any) -> Any:
    """Return samples that are read part by part as an array; a large one in a temporary file."""
    if not isinstance(X, Stored):
        return X
    if X.array is not None:
        return np.asarray(X.array)
    found = make_zeros(X.shape, X.dtype)
    for rows, block in X.blocks():
        found[rows] = block
        release(found)
    return found


def find_mapping(X: Any) -> mmap.mmap | None:
    """Return the mapping of a file that an array is a view of, None if it is of none."""
    while X is not None and not isinstance(X, mmap.mmap):
        X = getattr(X, "base", None) if not isinstance(X, memoryview) else X.obj
    return X


def find_memmap(X: Any) -> Any:
    """Return the memmap that an array is, or is a view of, None if it is of none."""
    while X is not None and not isinstance(X, np.memmap):
        X = getattr(X, "base", None)
    return X


def offset_in_file(X: NDArray) -> int:
    """Return where in its file the first value of a view of a memmap lies."""
    owner: Any = find_memmap(X)
    mapping: Any = find_mapping(X)
    begins = owner.offset - owner.offset % mmap.ALLOCATIONGRANULARITY
    return begins + X.ctypes.data - np.frombuffer(mapping, np.uint8).ctypes.data


def release(X: NDArray) -> None:
    """Take the pages of a mapped file out of memory; they are read again where they are used."""
    # Of a private mapping ("c") that would undo what was changed.
    owner, mapping = find_memmap(X), find_mapping(X)
    if mapping is None or owner is None or owner.mode == "c" or not hasattr(mmap, "MADV_DONTNEED"):
        return
    mapping.madvise(mmap.MADV_DONTNEED)


def reserve_room(X: NDArray) -> None:
    """Have the disk set room aside for an array in a mapped file, which will be written.

    Parameters
    ----------
    X : ndarray
        The array; nothing is done for one in memory.

    Raises
    ------
    OSError
        If the disk is full.
    """
    owner, mapping = find_memmap(X), find_mapping(X)
    is_file = owner is not None and owner.filename is not None and owner.mode in ("r+", "w+")
    if mapping is None or not is_file or not X.flags.c_contiguous:
        return
    try:
        descriptor = os.open(owner.filename, os.O_RDWR)
    except OSError:  # its name may be another's by now: the mapping can be written all the same
        return
    try:
        reserve(descriptor, offset_in_file(X), X.nbytes)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(owner.filename)) from error
    finally:
        os.close(descriptor)


class Pages:
    """Pages of arrays, which go to their files once so many bytes were read or written.

    Parameters
    ----------
    *arrays : ndarray
        The arrays; those in memory stay there.
    """

    def __init__(self, *arrays: NDArray) -> None:
        self._mapped = [array for array in arrays if find_mapping(array) is not None]
        self._n_bytes = 0

    def note(self, n_bytes: int) -> None:
        """Count bytes of the arrays, and let the pages go if they are many."""
        self._n_bytes += n_bytes
        if self._n_bytes > BLOCK_BYTES:
            self.let_go()

    def let_go(self) -> None:
        """Let the pages go."""
        self._n_bytes = 0
        for array in self._mapped:
            release(array)


@contextmanager
def naming_place(where: str) -> Iterator[None]:
    """Say in errors where the samples are that they are about.

    Parameters
    ----------
    where : str
        Which samples these are.

    Yields
    ------
    None
        While they are worked on. Errors of other libraries say it in a note.
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        if type(error) not in (ValueError, TypeError):  # has arguments of its own
            error.add_note(f"in {where}")
            raise
        raise type(error)(f"{error} (In {where}.)") from error
    except Exception as error:
        error.add_note(f"in {where}")
        raise


class _Mapped:
    """Rows of a mapped file, copied, with no more of it in memory than a few blocks."""

    def __init__(self, X: NDArray) -> None:
        self.X, self._pages = X, Pages(X)

    def read(self, start: int, stop: int) -> NDArray:
        """Return rows that follow one another."""
        found = np.array(self.X[start:stop])
        self._pages.note(found.nbytes)
        return found

    def pick(self, rows: NDArray[np.intp]) -> NDArray:
        """Return rows in any order."""
        found = np.asarray(self.X[rows])
        self._pages.note(found.nbytes + len(rows) * _PAGES_BYTES)
        return found


def _compute_rows(rows: Any) -> Any:
    """Return rows in memory: those of dask are computed."""
    return rows.compute() if hasattr(rows, "compute") else rows


def split_into_blocks(shape: tuple[int, ...], dtype: Any, chunks: Any) -> NDArray[np.intp]:
    """Return where blocks begin: of so many bytes at most, or a chunk of the samples."""
    n_samples = shape[0]
    row_bytes = max(1, int(np.prod(shape[1:])) * np.dtype(dtype).itemsize)
    n_rows = max(1, BLOCK_BYTES // row_bytes)
    if isinstance(chunks, tuple):  # of dask, each of its own length
        ends = np.cumsum(chunks)
        starts = [0]
        for begin, end in itertools.pairwise(ends):
            if end - starts[-1] > n_rows:
                starts.append(int(begin))
        return np.array([*starts, n_samples], dtype=np.intp)
    if chunks:
        n_rows = max(1, n_rows // int(chunks)) * int(chunks)
    return np.array([*range(0, n_samples, n_rows), n_samples], dtype=np.intp)
