"""Data files that lie or never end, as the command line reads them: one short line, at once."""

import contextlib
import io
import json
import os
import struct
import zipfile

import numpy as np
import pytest

import sklrp
from sklrp import MLPClassifier
from sklrp.cli import main
from tests.helpers.limits import bounded

rng = np.random.default_rng(0)
X = rng.normal(size=(30, 12))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model"
    sklrp.save(MLPClassifier((4,), max_epochs=1, random_state=0).fit(X, X[:, 0] > 0), path)
    return path


@pytest.fixture(scope="module", autouse=True)
def everything_is_imported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("warm")
    np.save(folder / "X.npy", X)
    assert ask(["explain", model, folder / "X.npy", "-o", folder / "out.npy"])[0] == 0


def ask(args):
    """Return the status and what is written to stderr."""
    said = io.StringIO()
    with (
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(io.StringIO()),
        pytest.raises(SystemExit) as caught,
    ):
        main([str(arg) for arg in args])
    return caught.value.code, said.getvalue()


def npy(shape, descr="<f8", data=b""):
    """Return a npy file of a header that may say anything."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    return _with_header(header.encode(), data)


def _with_header(header, data=b""):
    padded = header + b" " * (63 - (10 + len(header)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + data


def npz(members):
    """Return an archive of members by name."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target.getvalue()


def encrypted(content):
    """Return an archive whose members say that they are encrypted."""
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.index(mark) + at
        content = content[:place] + b"\x01\x00" + content[place + 2 :]
    return content


def by_method(content, method=99):
    """Return an archive whose members are packed in a way that nobody knows."""
    for mark, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        place = content.index(mark) + at
        content = content[:place] + struct.pack("<H", method) + content[place + 2 :]
    return content


GOOD = npy((30, 12), data=X.tobytes())
FILES = {
    "a huge shape.npy": npy((10**12, 12)),
    "a shape beyond any size.npy": npy((2**62, 2**62)),
    "no rows of a huge width.npy": npy((0, 2**62)),
    "rows of no width.npy": npy((2**40, 0)),
    "a negative shape.npy": npy((-1, 12), data=X.tobytes()),
    "objects.npy": npy((3,), "|O", b"\x80\x04."),
    "records with objects.npy": npy((3,), [("a", "<f8"), ("b", "|O")]),
    "a huge type.npy": npy((3,), "|V1000000000"),
    "wide text.npy": npy((1,), "<U500000000"),
    "an expression.npy": _with_header(b"{'descr': __import__('os').getcwd(), 'shape': (3,)}"),
    "a deep header.npy": _with_header(b"(" * 60000),
    "a header of 4 GB.npy": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"x",
    "no header.npy": b"\x93NUMPY",
    "a pickle.npy": b"\x80\x04\x95",
    "too wide.npy": npy((1, 10**7), data=bytes(8 * 10**7)),
    "a bomb.npz": npz({"a.npy": npy((1, 2 * 10**7), data=bytes(16 * 10**7))}),
    "a shape beyond the data.npz": npz({"a.npy": npy((10**12, 12))}),
    "a name with a path.npz": npz({"../../../evil.npy": b"x"}),
    "no array.npz": npz({"a.txt": b"x"}),
    "many members.npz": npz({f"a{i}.npy": b"" for i in range(5000)}),
    "signs in a name.npz": npz({"\u202e\x1b[2Ja.npy": b"x"}),
    "encrypted.npz": encrypted(npz({"a.npy": GOOD})),
    "packed by nobody.npz": by_method(npz({"a.npy": GOOD})),
    "cut.npz": npz({"a.npy": GOOD})[:-30],
    "NUL.csv": b"1,2\0,3\n",
    "UTF-16.csv": "1,2\n3,4\n".encode("utf-16"),
    "UTF-16 unmarked.csv": "1,2\n3,4\n".encode("utf-16-le"),
    "UTF-32.csv": "1,2\n".encode("utf-32"),
    "Latin.csv": "température\n1\n".encode("latin-1"),
    "an open quote.csv": b'"' + b"1,2\n" * 10**5,
    "beyond any float.csv": b"1e999," * 11 + b"1\n",
    "infinite.csv": b"inf," * 11 + b"1\n",
    "digits of another script.csv": "\uff11,".encode() * 11 + b"1\n",
    "an underscore.csv": b"1_0," * 11 + b"1\n",
    "a million digits.csv": b"9" * 10**6 + b",1\n",
    "many columns.csv": b"1," * 10**5 + b"1\n",
    "signs.csv": b"\x1b[2J,b\n1,2\n",
}  # fmt: skip


def assert_refused(args, path):
    with bounded():
        status, said = ask(args)
    assert status == 2, said
    assert said.count("\n") == 1, said
    assert said.strip().isprintable()
    assert len(said) < 800 + 2 * len(str(path))


@pytest.mark.parametrize("name", FILES)
def test_samples_are_refused(name, model, tmp_path):
    path = tmp_path / f"data.{name.rpartition('.')[2]}"
    path.write_bytes(FILES[name])
    assert_refused(["explain", model, path, "-o", tmp_path / f"out{path.suffix}"], path)


@pytest.mark.parametrize("start", [b"1,2", b"1,2\n", b"a,b\n1,2\n"])
def test_a_line_of_a_gigabyte(start, model, tmp_path):
    path = tmp_path / "data.csv"
    path.write_bytes(start)
    os.truncate(path, 10**9)  # sparse: it takes no place on the disk
    assert_refused(["explain", model, path, "-o", tmp_path / "out.csv"], path)


@pytest.mark.parametrize("suffix", [".txt", ".npy"])
def test_labels_without_end(suffix, model, tmp_path):
    np.save(tmp_path / "X.npy", X)
    path = tmp_path / f"labels{suffix}"
    path.write_bytes(b"True\n" * 40 if suffix == ".txt" else npy((10**8,), "|b1"))
    os.truncate(path, 10**9)
    page = tmp_path / "page.html"
    assert_refused(["diagnose", model, tmp_path / "X.npy", "--labels", path, "-o", page], path)


STORE = {
    "zarr_format": 3,
    "node_type": "array",
    "shape": [30, 12],
    "data_type": "float64",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [30, 12]}},
    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    "fill_value": 0.0,
    "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
    "attributes": {},
    "dimension_names": ["time", "f"],
}
STORES = {
    "a huge width": {"shape": [30, 10**12]},
    "a shape beyond any size": {"shape": [2**63, 2**63]},
    "a negative shape": {"shape": [-1, 12]},
    "a path for a separator": {
        "chunk_key_encoding": {
            "name": "default",
            "configuration": {"separator": "/../../../etc/passwd"},
        }
    },
    "code": {"codecs": [{"name": "pickle"}]},
    "a type of a gigabyte": {"data_type": "V1000000000"},
}


@pytest.mark.filterwarnings("ignore:Object at pickle:UserWarning")  # of older zarr
@pytest.mark.parametrize("name", STORES)
def test_stores_are_refused(name, model, tmp_path):
    pytest.importorskip("zarr")
    path = tmp_path / "data.zarr"
    (path / "x").mkdir(parents=True)
    group = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    (path / "zarr.json").write_text(json.dumps(group))
    (path / "x" / "zarr.json").write_text(json.dumps({**STORE, **STORES[name]}))
    assert_refused(["explain", model, path, "-o", tmp_path / "out.zarr"], path)
