"""Rows of an array in a npz file, read as they come; whole only where columns come first.

`.samples` reads npz files by it. A member of the archive may be compressed, so rows are best asked
for in order; what lies before the ones asked for is read over.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

_SKIPPED_BYTES = 2**20  # at once
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class NpzRows:
    """An array in a npz file, by its rows.

    Parameters
    ----------
    archive : zipfile.ZipFile
        The file, open.
    name : str
        The array's name.
    path : pathlib.Path
        Where the file is, for errors.

    Attributes
    ----------
    shape : tuple of int
        The shape of the array.
    dtype : numpy.dtype
        Its dtype.

    Raises
    ------
    ValueError
        If the array is none of plain numbers or texts, or its data are not all there.
    """

    def __init__(self, archive: zipfile.ZipFile, name: str, path: Path) -> None:
        self._archive, self._member, self._path = archive, f"{name}.npy", path
        self._file: IO[bytes] | None = None
        self._whole: NDArray[Any] | None = None  # where rows do not lie together
        self._next = 0  # the row at which the file stands
        with self._open() as file:
            self.shape, self._is_fortran, self.dtype = self._read_header(file)
            left = archive.getinfo(self._member).file_size - file.tell()
        self._row_bytes = int(np.prod(self.shape[1:], dtype=object)) * self.dtype.itemsize
        if self.dtype.hasobject:
            raise ValueError(f"{path} is no readable npz file: {name!r} holds objects of Python")
        if not self.shape or left != self.shape[0] * self._row_bytes:
            raise ValueError(
                f"{path} is no readable npz file: {name!r} has the shape {self.shape} of "
                f"{self.dtype}, but {left} bytes"
            )

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise ValueError(f"rows of a npz file are read one after another, got {rows}.")
        if self._is_fortran and len(self.shape) > 1:  # whose rows do not lie together
            if self._whole is None:
                with self._open() as file:
                    self._whole = np.lib.format.read_array(file, allow_pickle=False)
            return self._whole[rows]
        if self._file is None or start < self._next:
            self.close()
            self._file = self._open()
            self._read_header(self._file)
            self._next = 0
        found = np.empty((max(0, stop - start), *self.shape[1:]), self.dtype)
        try:
            self._skip((start - self._next) * self._row_bytes)
            flat = found.reshape(-1).view(np.uint8)
            done = 0
            while done < len(flat):
                part = self._file.read(min(_SKIPPED_BYTES, len(flat) - done))
                if not part:
                    raise EOFError("the file ends too early")
                flat[done : done + len(part)] = np.frombuffer(part, np.uint8)
                done += len(part)
        except (zipfile.BadZipFile, EOFError, OSError) as error:
            raise ValueError(f"{self._path} is no readable npz file: {error}") from error
        self._next = max(start, stop)
        return found

    def close(self) -> None:
        """Close the member of the archive."""
        self._whole = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> IO[bytes]:
        """Return the member of the archive, open."""
        try:
            return self._archive.open(self._member)
        except (KeyError, NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:
            raise ValueError(f"{self._path} is no readable npz file: {error}") from error

    def _skip(self, n_bytes: int) -> None:
        assert self._file is not None
        while n_bytes > 0:
            read = len(self._file.read(min(_SKIPPED_BYTES, n_bytes)))
            if not read:
                raise EOFError("the file ends too early")
            n_bytes -= read

    def _read_header(self, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
        """Return the shape, whether columns come first, and the dtype, from the header alone."""
        try:
            version = np.lib.format.read_magic(file)
            if version not in _HEADERS:
                raise ValueError(f"the format {version} of its arrays is not known")
            return _HEADERS[version](file)
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{self._path} is no readable npz file: {error}") from error
