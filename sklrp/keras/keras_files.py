"""Keras's files, opened: the config of the model, the version of Keras, and the arrays.

`.reading` opens files by :func:`open_keras_file`. A ``.keras`` file is a zip archive, ``.h5``
files are HDF5; which it is, its first bytes say. Sizes are compared with those of the file before
anything is unpacked.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sklrp._checks import import_optional
from sklrp._files import check_regular, names_file
from sklrp._wording import say_value, shorten

_CONFIG, _ARRAYS, _METADATA = "config.json", "model.weights.h5", "metadata.json"
_LARGEST_CONFIG = 64 * 2**20  # bytes
_OF_DAMAGE = (OSError, EOFError, RuntimeError, KeyError)  # the last where h5py opens no object
_LARGEST_RATIO = 100  # of a member of an archive to what it takes there; weights hardly shrink


class KerasFile(NamedTuple):
    """An open file: the config, the major version of the Keras that wrote it, the HDF5 file."""

    config: dict[str, Any]
    version: int
    arrays: Any


@contextmanager
def open_keras_file(path: str | os.PathLike[str], config: Any = None) -> Iterator[KerasFile]:
    """Open a file of Keras.

    Parameters
    ----------
    path : str or path-like
        The file.
    config : dict, str, path-like or None, default=None
        The config of the model, of files that hold weights alone.

    Yields
    ------
    KerasFile
        What is in it.

    Raises
    ------
    ImportError
        If h5py is not installed.
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no file of Keras, or a damaged one.
    """
    h5py = import_optional("h5py", extra="keras", user="from_keras")
    where = Path(path)
    if where.is_dir():
        raise ValueError(
            f"path must be a file of Keras (.keras or .h5), got the folder {where}: a SavedModel "
            "of TensorFlow? Load it there and save it as .keras."
        )
    check_regular(where)
    with open(where, "rb") as file:  # FileNotFoundError says which
        is_archive = zipfile.is_zipfile(file)
    given = None if config is None else _read_config(config)
    try:
        if is_archive:
            with zipfile.ZipFile(where) as archive:
                text, metadata, data = _unpack_archive(archive, where)
            if given is not None:
                raise ValueError(_say_own_config(where, config))
            found = _decode(text, where.name)
            version = _major(_decode(metadata, _METADATA).get("keras_version"), 3)
            with h5py.File(io.BytesIO(data), "r") as arrays:
                yield KerasFile(found, version, arrays)
        elif h5py.is_hdf5(where):
            with h5py.File(where, "r") as arrays:
                yield _read_hdf5(arrays, where, given)
        else:
            raise ValueError(
                f"path must be a file of Keras, .keras (a zip archive) or .h5 (HDF5), got {where}"
                ", which is neither."
            )
    except (*_OF_DAMAGE, zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"path: the file {where} is damaged: {shorten(str(error))}") from error


def _unpack_archive(archive: zipfile.ZipFile, where: Path) -> tuple[bytes, bytes, bytes]:
    """Return the config, the metadata and the arrays of an archive."""
    members = {info.filename: info for info in archive.infolist()}
    if _CONFIG not in members or _ARRAYS not in members:
        raise ValueError(
            f"path: {where} is a zip archive without {_CONFIG} and {_ARRAYS}, as Keras has them; "
            f"it holds {sorted(members)[:9]}. Models saved in parts, or with weights as .npz, are "
            "not read."
        )

    def unpack(name: str) -> bytes:
        info = members[name]
        if info.file_size > _LARGEST_RATIO * max(info.compress_size, 2**16):
            raise ValueError(
                f"path: {where} is not read: {name} takes {info.compress_size} bytes in it and "
                f"would be unpacked to {info.file_size}, which no model of Keras is."
            )
        return archive.read(info)

    if members[_CONFIG].file_size > _LARGEST_CONFIG:
        raise ValueError(f"path: {where} has a {_CONFIG} of more than {_LARGEST_CONFIG} bytes.")
    metadata = unpack(_METADATA) if _METADATA in members else b"{}"
    return unpack(_CONFIG), metadata, unpack(_ARRAYS)


def _read_hdf5(arrays: Any, where: Path, given: dict[str, Any] | None) -> KerasFile:
    """Return what an HDF5 file holds, or arrays alone with the config that was given."""
    stored = arrays.attrs.get("model_config")
    if stored is None and given is None:
        raise ValueError(
            f"path: {where} holds weights and no model. Pass that too, config=model.to_json() in "
            "Keras, or save it whole, model.save('model.keras')."
        )
    if stored is not None and given is not None:
        raise ValueError(_say_own_config(where, given))
    found = _decode(stored, where.name) if given is None else given
    place = arrays.get("model_weights", arrays)
    told = arrays.attrs.get("keras_version", place.attrs.get("keras_version"))
    return KerasFile(found, _major(told, _major(found.get("keras_version"), 3)), arrays)


def _say_own_config(where: Path, config: Any) -> str:
    given = say_value(config)
    return f"config must be None for {where.name}, which holds its own, got {given}."


def _read_config(config: Any) -> dict[str, Any]:
    """Return a config as a dict, given as one, as JSON, or as a file of JSON."""
    if isinstance(config, Mapping):
        try:
            text: Any = json.dumps(config)
        except (TypeError, ValueError, RecursionError) as error:
            raise TypeError(
                f"config is a dict that JSON cannot hold: {error}. Pass what model.to_json() or "
                "model.get_config() returns."
            ) from None
    elif isinstance(config, str) and config.lstrip().startswith("{"):
        text = config
    elif names_file(config):
        check_regular(config)
        text = Path(config).read_bytes()
    else:
        raise TypeError(
            "config must be the config of a Keras model, as model.to_json() returns it (a string, "
            f"a dict or a file of it), got {say_value(config)} of {type(config).__name__}."
        )
    found = _decode(text, "config")
    if "class_name" not in found and "layers" in found:  # of model.get_config()
        kind = "Functional" if "input_layers" in found else "Sequential"
        return {"class_name": kind, "config": found}
    return found


def _decode(text: Any, name: str) -> dict[str, Any]:
    """Return what JSON says, tuples as lists."""
    try:
        found = json.loads(text, object_hook=_as_list)
    except RecursionError as error:
        raise ValueError(f"{name} holds JSON that is nested too deeply.") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} holds no valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{name} must hold an object of JSON, got {type(found).__name__}.")
    return found


def _as_list(value: dict[str, Any]) -> Any:
    """Return a tuple or a shape, as Keras writes them, as a list."""
    if value.get("class_name") in ("__tuple__", "TensorShape", "__list__"):
        inner = value.get("items", value.get("config"))
        inner = inner.get("value") if isinstance(inner, dict) else inner
        return inner if isinstance(inner, list) else value
    return value


def _major(version: Any, default: int) -> int:
    """Return the major version of Keras, as 3 of "3.15.1"."""
    version = version.decode("utf8", "replace") if isinstance(version, bytes) else version
    head = str(version).partition(".")[0]
    return int(head) if head.isdecimal() and len(head) < 4 else default
