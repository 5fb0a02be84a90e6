"""Rows of npz files: those of the array, in memory of a few rows, and faults told by name."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sklrp.cli.npz_rows import NpzRows
from sklrp.cli.samples import Samples

X = np.random.default_rng(0).normal(size=(50, 3, 4)).astype(np.float32)


def open_rows(path, name="X"):
    return NpzRows(zipfile.ZipFile(path), name, path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("array", [X, np.asfortranarray(X), X[:, 0, 0], X.astype(">f8"), X[:0]])
def test_rows_are_those_of_the_array(save, array, tmp_path):
    save(tmp_path / "X.npz", other=np.ones(3), X=array)
    rows = open_rows(tmp_path / "X.npz")
    assert (rows.shape, rows.dtype, rows.ndim) == (array.shape, array.dtype, array.ndim)
    for part in (slice(0, 7), slice(7, 9), slice(20, 30), slice(3, 5), slice(45, 99), slice(None)):
        assert np.array_equal(rows[part], array[part])
    with pytest.raises(ValueError, match="one after another"):
        rows[::2]


def test_memory_is_that_of_the_rows(tmp_path):
    np.savez_compressed(tmp_path / "X.npz", X=np.zeros((2000, 1000)))
    tracemalloc.start()
    with Samples(tmp_path / "X.npz") as samples:
        for start in range(0, 2000, 100):
            assert samples.read(slice(start, start + 100)).shape == (100, 1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20  # of 15 MiB


def write_member(path, content):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("X.npy", content)


def header(shape, descr="<f8"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"shape": shape, "fortran_order": False, "descr": descr}
    )
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no array", "no readable npz file"),
        (header((10**6, 10**6)) + bytes(80), r"has the shape \(1000000, 1000000\).* but 80 bytes"),
        (header((2, 5)) + bytes(72), "but 72 bytes"),
        (header((2, 5), "<U250000000") + bytes(80), "but 80 bytes"),
        (header((2,), "|O") + bytes(16), "objects of Python"),
        (b"\x93NUMPY\x09\x00" + bytes(80), r"the format \(9, 0\)"),
    ],
    ids=["text", "huge", "short", "wide", "objects", "format"],
)
def test_faults_are_told_from_the_header(content, message, tmp_path):
    path = Path(tmp_path / "X.npz")
    write_member(path, content)
    with pytest.raises(ValueError, match=message):
        open_rows(path)
