"""The files of estimators, read with nothing believed before it is checked.

`.estimators` writes its JSON and arrays by it, and reads them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from typing import Any, BinaryIO

import numpy as np

from sklrp._files import check_regular, replacing
from sklrp._wording import shorten
from sklrp.persistence.values import Arrays

_LONGEST_HEADER = 100_000_000  # bytes, as safetensors has it
_DTYPES = {
    "BOOL": np.bool_,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
    "I8": np.int8,
    "I16": np.int16,
    "I32": np.int32,
    "I64": np.int64,
    "U8": np.uint8,
    "U16": np.uint16,
    "U32": np.uint32,
    "U64": np.uint64,
}


def write_container(
    path: str | os.PathLike[str], manifest: dict[str, Any], arrays: Arrays
) -> None:
    """Write a manifest and arrays as one safetensors file, with a checksum over both.

    Parameters
    ----------
    path : str or path-like
        The file; it is replaced only when the new one is complete.
    manifest : dict
        What JSON can hold.
    arrays : dict of str to ndarray
        The arrays.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    from safetensors.numpy import save

    text = json.dumps(manifest, allow_nan=False)
    data = save(arrays, {"sklrp": text, "sha256": _digest(text, arrays)})
    with replacing(path) as part, open(part, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read_container(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Arrays]:
    """Read what `write_container` has written.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    manifest : dict
        The manifest.
    arrays : dict of str to ndarray
        The arrays.

    Raises
    ------
    OSError
        If there is no such file, or it cannot be read.
    ValueError
        If it is not one of `write_container`, or not as `write_container` left it.
    """
    from safetensors import SafetensorError, deserialize

    check_regular(path)
    with open(path, "rb") as file:
        n_bytes = os.fstat(file.fileno()).st_size
        metadata = _read_metadata(path, file, n_bytes)
        file.seek(0)
        data = file.read(n_bytes)
    try:
        views = deserialize(data)
    except SafetensorError as error:
        raise ValueError(_damaged(path, shorten(str(error)))) from None
    odd = sorted({view["dtype"] for _, view in views} - set(_DTYPES))
    if odd:
        raise ValueError(f"{path} holds tensors of the dtypes {odd}, which sklrp.save never does.")
    try:
        arrays = {
            name: np.frombuffer(view["data"], _DTYPES[view["dtype"]]).reshape(view["shape"]).copy()
            for name, view in views
        }
    except ValueError as error:  # no values in a shape beyond any size, or of too many axes
        raise ValueError(_damaged(path, shorten(str(error)))) from None
    if _digest(metadata["sklrp"], arrays) != metadata["sha256"]:
        raise ValueError(
            f"{path} does not match its checksum: it was damaged or changed after it was saved. "
            "Save the estimator anew, or copy the file again."
        )
    try:
        manifest = json.loads(
            metadata["sklrp"], object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} holds no valid JSON: {shorten(str(error))}") from None
    return manifest, arrays


def _read_metadata(path: Any, file: BinaryIO, n_bytes: int) -> dict[str, str]:
    """Return the metadata of a file, of which no more is read than its header says."""
    start = file.read(8)
    n_header = int.from_bytes(start, "little")
    if not 2 <= n_header <= min(n_bytes - 8, _LONGEST_HEADER):
        for first, what in _OF_OTHERS:
            if start.startswith(first):
                raise ValueError(
                    f"{path} is no safetensors file, but {what.format(path=str(path))}"
                )
        raise ValueError(_damaged(path, f"its header has {n_header} of {n_bytes} bytes"))
    try:
        header = json.loads(file.read(n_header))
        metadata = header.pop("__metadata__", None) or {}
        ends = [entry["data_offsets"][1] for entry in header.values()]
        n_expected = 8 + n_header + max(ends, default=0)
        is_ours = {"sklrp", "sha256"} <= set(metadata)
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(_damaged(path, shorten(str(error)))) from None
    if not is_ours:
        raise ValueError(
            f"{path} is a safetensors file, but none of sklrp.save: its metadata has no 'sklrp' "
            "with its 'sha256'."
        )
    if n_expected != n_bytes:
        raise ValueError(_damaged(path, f"it has {n_bytes} bytes, its header says {n_expected}"))
    return metadata


_FROM_KERAS = (
    "Of a Keras model: network = sklrp.from_keras({path!r}); relevance = sklrp.explain(network, "
    "X), in Python."
)
# What files of others start with, and what to do with them.
_OF_OTHERS = (
    (b"\x89HDF\r\n", f"HDF5, as older versions of Keras write. {_FROM_KERAS}"),
    (
        b"PK\x03\x04",
        f"a zip archive, as Keras and torch write. {_FROM_KERAS} Build a torch network by its own "
        "code, load its state_dict, and pass it to sklrp.explain.",
    ),
    (
        b"\x80",
        "a pickle, which may run any code and is never read here. Load it where it was written, "
        "and save the estimator by sklrp.save.",
    ),
)


def _damaged(path: Any, why: str) -> str:
    return f"{path} is not a safetensors file, or was truncated or damaged: {why}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; a key that comes twice would say two things."""
    content = dict(pairs)
    if len(content) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"a key comes twice: {[key for key, n in counts.items() if n > 1]}")
    return content


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not one of JSON's numbers")


def _digest(text: str, arrays: Arrays) -> str:
    """Return the checksum of a manifest and arrays."""
    digest = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        digest.update(repr((name, array.dtype.name, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
