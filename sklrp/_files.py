"""Files that are written whole or not at all, by one run at a time.

Everything that writes a file of the user's calls `replacing`: `save`, reports, fields, the command
line. The commands `claim` what they will write, so that two of them never write one file.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

_WORK, _LOCK, _OLD = ".sklrp-part", "lock", "old"
_LONGEST = 180  # bytes of a name that others are made of: a file system takes 255
_NEW_FOLDER = 60.0  # seconds in which the owner of a folder has locked it
_AT_FDCWD, _RENAME_EXCHANGE, _RENAME_SWAP = -100, 2, 2  # of Linux's fcntl.h and stdio.h, of macOS
_KEEP_SIZE = 1  # of Linux's falloc.h
_NODE = ("zarr.json", ".zgroup", ".zarray", ".zmetadata")  # what a folder of zarr has, or some
_METADATA = (*_NODE, ".zattrs")
_OF_SYSTEMS = (".DS_Store", "Thumbs.db", "desktop.ini")  # left by who looks at a folder
_CHUNK = re.compile(r"c|(c\.)?\d+(\.\d+)*")  # the names of chunks, and of their folders
_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM, errno.EXDEV)


def names_file(value: Any) -> bool:
    """Tell whether a value is a text or a path that can name a file."""
    if isinstance(value, type) or not isinstance(value, str | os.PathLike):
        return False
    try:
        name = os.fspath(value)
        os.fsencode(name)
    except Exception:  # of the value's own code, or half of a character
        return False
    return isinstance(name, str) and bool(name.strip()) and "\0" not in name


def check_regular(path: str | os.PathLike[str]) -> None:
    """Refuse a pipe, which would be waited for without end, and a device, which may have none.

    Parameters
    ----------
    path : str or path-like
        What is to be read; what is not there is left to the reader.

    Raises
    ------
    ValueError
        If it is there, and no file or folder of a disk.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError(
            f"{path} is no regular file, but a pipe, a socket or a device: write what it holds "
            "into a file, and give that."
        )


def check_replaceable(path: str | os.PathLike[str], *, is_store: bool) -> None:
    """Refuse to replace a folder of the user's, or a file by a folder.

    Parameters
    ----------
    path : str or path-like
        What is to be written; a link is followed.
    is_store : bool
        Whether that is a zarr store, which may take the place of another, or of an empty folder.

    Raises
    ------
    OSError
        If it is a folder, and none that may be replaced.
    ValueError
        If a file is there for a store, or a store for a file.
    """
    path = Path(path)
    if not path.exists():
        return
    is_folder = path.is_dir()
    names = {entry.name for entry in _list_entries(path)} if is_folder else set()
    if is_folder and names.isdisjoint(_NODE) and (names or not is_store):
        raise IsADirectoryError(f"{path} is a folder: choose another name, or remove it.")
    if is_folder != is_store:
        raise ValueError(f"{path} is there, as something else: choose another name, or remove it.")
    foreign = _find_foreign(os.fspath(path)) if names else None
    if foreign is not None:
        raise IsADirectoryError(
            f"{path} is a zarr store that holds {os.path.relpath(foreign, path)!r}, which is no "
            "part of it: move that, or choose another name."
        )


def _find_foreign(folder: str, in_array: bool = False) -> str | None:
    """Return a path in a zarr store that zarr did not put there, if there is one.

    Parameters
    ----------
    folder : str
        A group or an array of the store.
    in_array : bool, default=False
        Whether it is a folder of chunks instead.

    Returns
    -------
    str or None
        The first such file or folder.
    """
    entries = _list_entries(folder)
    names = {entry.name for entry in entries}
    if not in_array and names.isdisjoint(_NODE):
        return folder
    has_chunks = in_array or ".zarray" in names or _describes_array(Path(folder, "zarr.json"))
    for entry in entries:
        is_chunk = has_chunks and _CHUNK.fullmatch(entry.name) is not None
        foreign: str | None = entry.path
        if entry.is_dir(follow_symlinks=False):
            if is_chunk or not has_chunks:
                foreign = _find_foreign(entry.path, is_chunk)
        elif is_chunk or (entry.name in _METADATA and not in_array):
            foreign = None if entry.is_file(follow_symlinks=False) else entry.path
        if foreign is not None:
            return foreign
    return None


def _list_entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """Return what is in a folder, but for the files that systems leave there."""
    with os.scandir(folder) as found:
        return [
            entry
            for entry in found
            if entry.name not in _OF_SYSTEMS or not entry.is_file(follow_symlinks=False)
        ]


def _describes_array(path: Path) -> bool:
    """Tell whether a file is what zarr notes of an array in format 3."""
    try:
        return bool(json.loads(path.read_bytes())["node_type"] == "array")
    except (OSError, ValueError, TypeError, KeyError):  # of a group in format 2, or damaged
        return False


@contextmanager
def replacing(path: str | os.PathLike[str], *, is_store: bool = False) -> Iterator[Path]:
    """Give the name of a file, or a folder, that takes the place of another once it is complete.

    Parameters
    ----------
    path : str or path-like
        The final name. What is there now stays until the block has ended without an error, and
        there is no moment without it.
    is_store : bool, default=False
        Whether a zarr store is written, and not a file.

    Yields
    ------
    pathlib.Path
        A free name in a folder beside it. After an error nothing is left under it; after the
        death of the process the next one that writes the same file clears it.

    Raises
    ------
    OSError
        If the file cannot take its place.
    ValueError
        If something else is there, see `check_replaceable`.
    """
    target = Path(os.path.realpath(path))  # what a link names; the link stays
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise OSError(f"{path} is a device or a pipe: choose another name for the file.")
    check_replaceable(path, is_store=is_store)
    part = None
    try:
        _clear_dead(target)
        with _work_folder(target) as folder:
            part = folder / target.name
            yield part
            if target.is_file() and part.is_file():
                shutil.copymode(target, part)
            if not (target.is_dir() and part.is_dir()):
                os.replace(part, target)
            elif not _swap_folders(part, target):
                _replace_folder(part, target, folder / _OLD)
    except OSError as error:
        if error.errno and (part is None or error.filename in (None, str(part))):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextmanager
def claim(path: str | os.PathLike[str]) -> Iterator[None]:
    """Write a file in no other process for a while.

    The system frees the claim of a process that dies. A file system without locks knows no claims.

    Parameters
    ----------
    path : str or path-like
        The file or folder, which need not be there.

    Yields
    ------
    None
        While no other can claim it.

    Raises
    ------
    ValueError
        If another process, or another thread, has claimed it.
    """
    target = Path(os.path.realpath(path))
    name = target.with_name(f"{_prefix(target)}.sklrp-lock")
    check_own(name)
    with ExitStack() as stack:
        try:
            stack.enter_context(make_lock(name).acquire(timeout=0))
        except (Timeout, PermissionError):  # the lock of another user cannot be opened
            if not name.exists():
                raise
            raise ValueError(
                f"{path} is being written by another run: wait until that has ended, or choose "
                f"another name. If there is no such run, remove {name}."
            ) from None
        except OSError as error:
            if error.errno in _NO_LOCKS:  # else it is another's, and may be held
                with suppress(OSError):
                    name.unlink(missing_ok=True)
        else:
            # While it is held: who opened it before finds it gone, and makes another.
            stack.callback(name.unlink, missing_ok=True)
        yield


def make_lock(path: Path) -> FileLock:
    """Return a lock, which the system frees when the process dies that holds it.

    Parameters
    ----------
    path : pathlib.Path
        The file of the lock, which is made if it is not there.

    Returns
    -------
    FileLock
        The lock. Acquiring it is an `OSError` where a file system has no locks.
    """
    # Marks in place of locks, which filelock would make there, stay after a death, and other
    # machines wait for them for ever.
    return FileLock(path, fallback_to_soft=False)


def reserve(descriptor: int, start: int, n_bytes: int) -> None:
    """Set room aside on the disk for a part of a file, where the system can.

    A full disk is an `OSError` then; at a write to the file's mapping it is a signal, which ends
    the process without a word. What is in the file stays.

    Parameters
    ----------
    descriptor : int
        The file, open for writing.
    start, n_bytes : int
        The part.

    Raises
    ------
    OSError
        If the disk is full.
    """
    if not sys.platform.startswith("linux") or n_bytes < 1:
        return
    allocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate64", None)
    if allocate is None:
        return
    numbers = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    # Not posix_fallocate: where the file system cannot, that reads the whole file instead.
    arguments = (descriptor, _KEEP_SIZE, start, n_bytes)
    if not allocate(*(kind(value) for kind, value in zip(numbers, arguments, strict=True))):
        return
    number = ctypes.get_errno()
    if number in _IS_FULL:
        raise OSError(number, os.strerror(number))


def check_own(path: Path) -> None:
    """Raise an error if there is something under a name that this package did not put there."""
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_file() or path.stat().st_nlink > 1:
        raise ValueError(
            f"{path} is a link, or no file: it is not what an earlier run has left. Remove it, or "
            "choose another name for the output."
        )


def _prefix(target: Path) -> str:
    """Return how names beside a file begin that belong to it."""
    name = target.name
    if len(os.fsencode(name)) > _LONGEST:
        name = hashlib.blake2b(os.fsencode(name), digest_size=16).hexdigest()
    return f".{name}"


@contextmanager
def _work_folder(target: Path) -> Iterator[Path]:
    """Give a folder of one's own beside a file, locked so that others leave it alone."""
    folder = Path(tempfile.mkdtemp(_WORK, f"{_prefix(target)}.", target.parent))
    try:
        with _locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of a work folder, if no one else does; tell whether it is held."""
    with ExitStack() as stack:
        try:
            stack.enter_context(make_lock(folder / _LOCK).acquire(timeout=0))
        except (Timeout, OSError):
            yield False
        else:
            yield True


def _clear_dead(target: Path) -> None:
    """Remove the work folders that processes left which died while they wrote a file."""
    prefix = f"{_prefix(target)}."
    with os.scandir(target.parent) as entries:
        named = [e for e in entries if e.name.startswith(prefix) and e.name.endswith(_WORK)]
    for entry in named:
        folder = Path(entry.path)
        with suppress(OSError):
            is_new = time.time() - entry.stat(follow_symlinks=False).st_mtime < _NEW_FOLDER
            has_lock = (folder / _LOCK).is_file()
            if not entry.is_dir(follow_symlinks=False) or (is_new and not has_lock):
                continue
            with _locked(folder) as is_dead:
                if not is_dead:
                    continue
                if (folder / _OLD).exists() and not target.exists():
                    os.replace(folder / _OLD, target)
                shutil.rmtree(folder)


def _swap_folders(one: Path, other: Path) -> bool:
    """Swap two folders' names in one step, where the system can; tell whether it was done."""
    if not sys.platform.startswith(("linux", "darwin")):
        return False
    library = ctypes.CDLL(None, use_errno=True)
    paths = os.fsencode(one), os.fsencode(other)
    if sys.platform == "darwin":
        swap = getattr(library, "renamex_np", None)
        failed = swap is None or swap(*paths, _RENAME_SWAP)
    else:
        swap = getattr(library, "renameat2", None)
        failed = swap is None or swap(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE)
    if not failed:
        return True
    number = ctypes.get_errno()
    if swap is None or number in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(one))


def _replace_folder(part: Path, target: Path, old: Path) -> None:
    """Put a folder in another's place in two steps, between which a reader finds neither."""
    # Of file systems without an exchange, such as NFS. After a death in between `_clear_dead`
    # puts the old one back.
    os.replace(target, old)
    try:
        os.replace(part, target)
    except BaseException:
        os.replace(old, target)
        raise
