"""The files of estimators, read with nothing believed before it is checked.

`.estimators` writes its JSON and arrays by it, and reads them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from sklrp._files import replacing
from sklrp.persistence.values import Arrays

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

    data = Path(path).read_bytes()
    try:
        views = deserialize(data)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a safetensors file, or was truncated or damaged: {error}"
        ) from None
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata = header.get("__metadata__") or {}
    if not {"sklrp", "sha256"} <= set(metadata):
        raise ValueError(
            f"{path} is a safetensors file, but none of sklrp.save: its metadata has no 'sklrp' "
            "with its 'sha256'."
        )
    odd = sorted({view["dtype"] for _, view in views} - set(_DTYPES))
    if odd:
        raise ValueError(f"{path} holds tensors of the dtypes {odd}, which sklrp.save never does.")
    arrays = {
        name: np.frombuffer(view["data"], _DTYPES[view["dtype"]]).reshape(view["shape"]).copy()
        for name, view in views
    }
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
        raise ValueError(f"{path} holds no valid JSON: {error}") from None
    return manifest, arrays


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
