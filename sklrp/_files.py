"""Files that are written whole or not at all.

Everything that writes a file of the user's calls it: `save`, reports, fields, the command line.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give the name of a file, or a folder, that takes the place of another once it is complete.

    Parameters
    ----------
    path : str or path-like
        The final name. What is there now stays until the block has ended without an error.

    Yields
    ------
    pathlib.Path
        A free name in the same folder. After an error nothing is left under it.

    Raises
    ------
    OSError
        If the file cannot take its place.
    """
    target = Path(os.path.realpath(path))  # what a link names; the link stays
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise OSError(f"{path} is a device or a pipe: choose another name for the file.")
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    old = part.with_name(f"{part.name}.old")
    try:
        yield part
        if target.is_file() and part.is_file():
            shutil.copymode(target, part)
        if target.is_dir() and part.is_dir():  # there is never half a folder under the name
            os.replace(target, old)
        os.replace(part, target)
    except BaseException as error:
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)
        if old.is_dir() and not target.exists():
            os.replace(old, target)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(part)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    shutil.rmtree(old, ignore_errors=True)
