"""Files of `sklrp.save`, changed as someone would who knows the format, checksum included."""

import hashlib
import json
from pathlib import Path

import safetensors.numpy
from safetensors import safe_open


def rewrite(path, change):
    """Change a saved file as someone would who knows the format, checksum included."""
    with safe_open(path, "np") as file:
        manifest = json.loads(file.metadata()["sklrp"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(manifest, arrays)
    write(path, json.dumps(manifest), arrays)


def write(path, text, arrays):
    """Write a file with a valid checksum."""
    digest = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        digest.update(repr((name, array.dtype.name, array.shape)).encode() + array.tobytes())
    metadata = {"sklrp": text, "sha256": digest.hexdigest()}
    Path(path).write_bytes(safetensors.numpy.save(arrays, metadata))
