"""The command line: what it writes, what it says, and with what status it leaves."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from sklearn.base import clone

import sklrp
from sklrp import CNNClassifier, MLPClassifier, RelevanceTransformer
from sklrp.cli import main, runs
from sklrp.cli.call_checks import FORMS
from sklrp.cli.samples import Samples, read_labels, read_mask
from sklrp.cli.tables import read_csv
from sklrp.datasets import make_squares
from tests.helpers.comparing import assert_same_to_rounding

X, Y, MASK = make_squares(n_per_class=20, size=10, random_state=0)
LABELS = np.where(Y == 1, "up", "down")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(sklrp.__file__).parents[1])}


@pytest.fixture(scope="module")
def clf():
    return CNNClassifier((4,), max_epochs=5, random_state=0).fit(X, LABELS)


@pytest.fixture
def folder(clf, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sklrp.save(clf, "model.safetensors")
    np.save("samples.npy", X)
    np.save("mask.npy", MASK)
    Path("labels.txt").write_text("".join(f"{label}\n" for label in LABELS), encoding="utf-8")
    return tmp_path


EXPLAINED = ["explain", "model.safetensors", "samples.npy", "-o"]


def run(*args, status=0):
    """Run a command line in this process; return what it printed, or its line on stderr."""
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert result.exit_code == status, result.output
    if status == 0:
        return result.stdout
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("error: ")
    return result.stderr


def explain(*args, **kwargs):
    return run("explain", "model.safetensors", *args, **kwargs)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


# explain


@pytest.mark.parametrize("dtype", [np.float64, np.float32, ">f4", np.int16])
def test_npy(dtype, folder, clf):
    data = (10 * X).astype(dtype)
    np.save("samples.npy", data)
    explain("samples.npy", "-o", "out.npy")
    written = np.load("out.npy")
    assert_same_to_rounding(written, clf.explain(data))
    assert written.shape == X.shape
    assert files(folder) == [
        "labels.txt",
        "mask.npy",
        "model.safetensors",
        "out.npy",
        "samples.npy",
    ]


@pytest.mark.parametrize(
    ("options", "params"),
    [
        (
            ["--rule", "epsilon_plus", "--epsilon", "0.01"],
            {"rule": "epsilon_plus", "epsilon": 0.01},
        ),
        (["--target", "up", "--contrast"], {"target": "up", "contrast": True}),
        (["--target", "all"], {"target": "all"}),
        (["--batch-size", "7", "--device", "cpu"], {"batch_size": 7}),
    ],
)
def test_options(options, params, folder, clf):
    explain("samples.npy", "-o", "out.npy", *options)
    assert_same_to_rounding(np.load("out.npy"), clf.explain(X, **params))


def test_npz(folder, clf):
    np.savez("samples.npz", X=X)
    explain("samples.npz", "-o", "out.npz")
    with np.load("out.npz", allow_pickle=False) as written:
        assert written.files == ["X"]
        assert_same_to_rounding(written["X"], clf.explain(X))
    np.savez("samples.npz", first=X[:3], second=X)
    message = explain("samples.npz", "-o", "out.npz", status=2)
    assert "holds the arrays ['first', 'second']; choose one of them by --variable" in message
    assert "--variable third is not there" in explain(
        "samples.npz", "-o", "out.npz", "--variable", "third", status=2
    )
    explain("samples.npz", "-o", "out.npz", "--variable", "first")
    assert np.load("out.npz")["first"].shape == (3, 10, 10)


def test_csv(folder):
    names = [f"x{i}" for i in range(4)]
    frame = pd.DataFrame(X[:, 4, :4], columns=names)
    clf = MLPClassifier((3,), max_epochs=2, random_state=0).fit(frame, Y)
    sklrp.save(clf, "model.safetensors")
    shuffled = frame[names[::-1]].assign(station="Kiel")
    shuffled.to_csv("samples.csv", index=False)
    explain("samples.csv", "-o", "out.csv")
    assert Path("out.csv").read_text().startswith("x0,x1,x2,x3\n")
    written = np.loadtxt("out.csv", delimiter=",", skiprows=1)
    assert_same_to_rounding(written, clf.explain(frame))
    explain("samples.csv", "-o", "out.csv", "--target", "all")
    written = pd.read_csv("out.csv")
    assert list(written.columns) == [f"{label}_{name}" for label in (0, 1) for name in names]
    np.testing.assert_allclose(
        written.to_numpy().reshape(-1, 2, 4), clf.explain(frame, target="all"), rtol=1e-12
    )
    frame.to_csv("samples.csv", index=False, header=False)
    explain("samples.csv", "-o", "out.csv")
    assert_same_to_rounding(np.loadtxt("out.csv", delimiter=","), clf.explain(frame))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "samples.csv is empty"),
        ("x0,x1\n1,2\n", "lacks the columns ['x2'] that the model was trained on"),
        ("x0,x1,x2\n1,2\n", "line 2: 2 fields, but the first line has 3"),
        ("x0,x1,x2\n1,2,3\n1,b,3\n", "line 3, column 'x1': 'b' is no number"),
        ("1,2,3\n1,,3\n", "line 2, column 2: '' is no number; --fill"),
        ("x0,x1,x2\n1,NA,3\n", "line 2, column 'x1': 'NA' is no number; --fill"),
        ("1,2,nan\n", "line 1, column 3: 'nan' is no number; --fill"),
        ("1,2\n", "samples of shape (2,), 2 values each"),
        ("1,2,inf\n", "1 infinite"),
        ("x0,x1,x1,x2\n1,2,3,4\n", "has more than one of the columns ['x1']"),
        ("x0,x1,x2\n\udcff,2,3\n", "samples.csv is no readable CSV file"),
    ],
)
def test_malformed_csv(text, message, folder):
    frame = pd.DataFrame(X[:, 0, :3], columns=["x0", "x1", "x2"])
    sklrp.save(MLPClassifier(max_epochs=1).fit(frame, Y), "model.safetensors")
    Path("samples.csv").write_text(text, encoding="utf-8", errors="surrogateescape")
    assert message in explain("samples.csv", "-o", "out.csv", status=2)
    assert "out.csv" not in files(folder)


@pytest.mark.parametrize("text", ["1,,3\n4,5,NA\n", "x0, x1, x2\n1, , 3\n4, 5, NaN\n"])
def test_missing_values_of_csv(text, folder):
    frame = pd.DataFrame(X[:, 0, :3], columns=["x0", "x1", "x2"])
    clf = MLPClassifier(max_epochs=1).fit(frame, Y)
    sklrp.save(clf, "model.safetensors")
    Path("samples.csv").write_text(text, encoding="utf-8")
    explain("samples.csv", "-o", "out.csv", "--fill", "0")
    written = np.loadtxt("out.csv", delimiter=",", skiprows=int("x0" in text))
    filled = pd.DataFrame([[1.0, 0.0, 3.0], [4.0, 5.0, 0.0]], columns=frame.columns)
    assert_same_to_rounding(written, clf.explain(filled))


@pytest.mark.parametrize("target", [None, "up", "all"])
def test_land_of_fields_is_missing(folder, clf, target):
    """As in sklrp.geo.explain, cells that were filled have no relevance, not 0."""
    xr = pytest.importorskip("xarray")
    holes = X.copy()
    holes[:, :3, 4] = np.nan
    holes[7, 9, 9] = np.nan
    xr.Dataset({"sst": (("time", "lat", "lon"), holes)}).to_netcdf("samples.nc")
    options = [] if target is None else ["--target", target]
    explain("samples.nc", "-o", "out.nc", "--fill", "0", *options)
    expected = clf.explain(np.nan_to_num(holes), target=target)
    missing = np.isnan(holes)
    if target == "all":
        missing = np.broadcast_to(missing[:, np.newaxis], expected.shape)
    said = {None: "the predicted class of each sample", "up": "up", "all": "every class"}
    with xr.open_dataset("out.nc") as written:
        values = written["relevance"].to_numpy()
        assert written["relevance"].attrs["target"] == said[target]
    np.testing.assert_array_equal(np.isnan(values), missing)
    assert_same_to_rounding(values[~missing], expected[~missing])


@pytest.mark.parametrize("command", ["explain", "diagnose"])
@pytest.mark.slow
def test_samples_far_from_training_are_said(folder, command):
    """Raw fields have the shape of anomalies: only their values tell."""
    np.save("raw.npy", X + 290)
    np.save("near.npy", 1.2 * X)
    options = ["-o", "out.npy"]
    if command == "diagnose":
        options = ["-o", "out.html", "--labels", "labels.txt", "--n-permutations", "3"]
    for name, warns in (("raw", True), ("near", False), ("samples", False)):
        args = [command, "model.safetensors", f"{name}.npy", *options]
        result = CliRunner().invoke(main, args)
        assert result.exit_code == 0, result.output
        assert ("warning: 100% of the values in raw.npy" in result.stderr) == warns
        assert result.stderr.lower().count("warning:") == warns


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_xarray(suffix, folder, clf):
    xr = pytest.importorskip("xarray")
    pytest.importorskip("zarr" if suffix == ".zarr" else "netCDF4")
    dataset = xr.Dataset(
        {
            "sst": (("time", "lat", "lon"), X.astype(np.float32), {"units": "K"}),
            "time_bnds": (("time", "nv"), np.zeros((40, 2))),
            "area": ("lat", np.ones(10)),
        },
        {
            "time": ("time", pd.date_range("2000-01-01", periods=40), {"bounds": "time_bnds"}),
            "lat": ("lat", np.arange(10.0), {"units": "degrees_north"}),
            "lon": np.arange(10.0),
        },
    )
    dataset["time"].encoding["units"] = "days since 2000-01-01"
    options = {"consolidated": False} if suffix == ".zarr" else {}
    save = "to_zarr" if suffix == ".zarr" else "to_netcdf"
    getattr(dataset, save)(f"samples{suffix}", **options)
    more = dataset.assign(salt=dataset["sst"] + 1)
    getattr(more, save)(f"more{suffix}", **options)
    explain(f"samples{suffix}", "-o", f"out{suffix}")
    if options:
        options["engine"] = "zarr"
    with xr.open_dataset(f"out{suffix}", **options) as written:
        relevance = written["relevance"]
        assert_same_to_rounding(relevance, clf.explain(X.astype(np.float32)))
        assert relevance.dims == ("time", "lat", "lon")
        xr.testing.assert_identical(relevance["lat"], dataset["lat"])
        xr.testing.assert_equal(relevance["time"], dataset["time"])
        time_ = written["time"]
        assert "time_bnds" in (time_.attrs.get("bounds"), time_.encoding.get("bounds"))
        assert set(written) == {"relevance", "time_bnds"}
        said = [relevance.attrs[name] for name in ("rule", "units", "target")]
        assert said == ["auto", "logit", "the predicted class of each sample"]
    explain(f"samples{suffix}", "-o", f"out{suffix}", "--target", "all", "--variable", "sst")
    with xr.open_dataset(f"out{suffix}", **options) as written:
        assert written["relevance"].dims == ("time", "class", "lat", "lon")
        assert written["class"].to_numpy().tolist() == ["down", "up"]
    message = explain(f"more{suffix}", "-o", f"out{suffix}", status=2)
    assert "holds the arrays ['salt', 'sst']" in message


def test_classes_need_a_name_of_their_own(folder):
    """Said before anything is explained, as nothing could be written."""
    xr = pytest.importorskip("xarray")
    pytest.importorskip("netCDF4")
    for named in (xr.DataArray(X, dims=("time", "class", "lon"), name="sst"),
                  xr.DataArray(X, {"class": 3}, ("time", "lat", "lon"), "sst")):  # fmt: skip
        named.to_netcdf("named.nc")
        said = explain("named.nc", "-o", "out.nc", "--target", "all", status=2)
        assert "dimension or coordinate 'class', as --target all calls the axis" in said
        assert "out.nc.part" not in files(folder)
        explain("named.nc", "-o", "out.nc")


@pytest.mark.parametrize("version", [2, 3])
def test_zarr_of_either_format(version, folder):
    """Chunks and compression of the input, which the other format does not know, are not kept."""
    xr = pytest.importorskip("xarray")
    pytest.importorskip("zarr")
    time_ = pd.date_range("2000-01-01", periods=40)
    field = xr.DataArray(X, {"time": time_}, ("time", "lat", "lon"), "sst")
    options = {"consolidated": False, "zarr_format": version}
    field.to_dataset().to_zarr("first.zarr", **options)
    with xr.open_zarr("first.zarr", consolidated=False, chunks=None) as stored:
        stored.isel(time=slice(30)).to_zarr("samples.zarr", **options)
    explain("samples.zarr", "-o", "out.zarr")
    explain("samples.zarr", "-o", "out.zarr")  # in place of the first
    assert (Path("out.zarr") / ".zgroup").exists() == (version == 2)
    with xr.open_zarr("out.zarr", consolidated=False, chunks=None) as written:
        assert written["relevance"].shape == (30, 10, 10)
        np.testing.assert_array_equal(written["time"], time_[:30])
    assert not [name for name in files(folder) if name.startswith(".")]


def test_packed_coordinates(folder):
    xr = pytest.importorskip("xarray")
    pytest.importorskip("netCDF4")
    lat = np.arange(10) * 0.25
    dataset = xr.Dataset({"sst": (("time", "lat", "lon"), X)}, {"lat": lat})
    packing = {"dtype": "int16", "scale_factor": 0.25, "add_offset": 0.0, "_FillValue": -1}
    dataset["lat"].encoding = packing
    dataset.to_netcdf("samples.nc")
    explain("samples.nc", "-o", "out.nc")
    with xr.open_dataset("out.nc") as written:
        np.testing.assert_array_equal(written["lat"], lat)


def test_no_netcdf(folder):
    pytest.importorskip("xarray")
    Path("samples.nc").write_text("none", encoding="utf-8")
    assert "samples.nc is no readable NetCDF file" in explain(
        "samples.nc", "-o", "out.nc", status=2
    )


def test_without_xarray(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    Path("samples.nc").touch()
    message = explain("samples.nc", "-o", "out.nc", status=1)
    assert "ImportError: NetCDF or zarr needs xarray" in message
    assert "pip install 'sklrp[geo]'" in message


def test_missing_values(folder, clf, monkeypatch):
    holes = X.copy()
    holes[:, 0, :3] = np.nan
    np.save("samples.npy", holes)
    for command, *options in (
        ["explain", "-o", "out.npy"],
        ["diagnose", "-o", "report.html", "--labels", "labels.txt"],
    ):
        said = run(command, "model.safetensors", "samples.npy", *options, status=2)
        assert "samples.npy has 120 NaN of" in said
        assert "--fill 0 puts 0 in their place" in said
        assert "make_pipeline" not in said
    with monkeypatch.context() as patch:
        patch.setattr(runs, "CHUNK_BYTES", 8 * 100 * 9)  # of a part no more is said than of it
        said = explain("samples.npy", "-o", "out.npy", status=2)
    assert "samples.npy has 27 NaN of 900 values in 9 samples" in said
    assert "out.npy.part" not in files(folder)
    explain("samples.npy", "-o", "out.npy", "--fill", "0")
    assert_same_to_rounding(np.load("out.npy"), clf.explain(np.nan_to_num(holes)))


# What is wrong with a call


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nothing.npy", "-o", "out.npy"], "'nothing.npy' does not exist"),
        (["labels.txt", "-o", "out.npy"], "none of the suffixes .npy, .npz"),
        (["samples.npy", "-o", "out.nc"], "change its suffix to .npy"),
        (["samples.npy"], "Missing option '-o'"),
        (["samples.npy", "-o", "nowhere/out.npy"], "nowhere is no folder"),
        (["samples.npy", "-o", "samples.npy"], "samples.npy is an input too"),
        (["samples.npy", "-o", "folder.npy"], "folder.npy is a folder"),
        (["store.zarr", "-o", "file.zarr"], "file.zarr is there, as something else"),
        (["samples.npy", "-o", "store.npy"], "store.npy is there, as something else"),
        (["samples.npy", "-o", "out.npy", "--variable", "X"], "one array, which has no name"),
        (["samples.npy", "-o", "out.npy", "--rule", "epsilom"], "Did you mean 'epsilon'?"),
        (["samples.npy", "-o", "out.npy", "--epsilon", "-1"], "not in the range x>=0"),
        (["samples.npy", "-o", "out.npy", "--target", "left"], "not one of the model's classes"),
        (["samples.npy", "-o", "out.npy", "--target", "upp"], "Did you mean 'up'?"),
        (["samples.npy", "-o", "out.npy", "--fill", "nan"], "--fill nan: give a finite number"),
        (["samples.npy", "-o", "out.npy", "--device", "cuda:99"], "cannot be used"),
        (["samples.npy", "-o", "out.npy", "--bach-size", "3"], "--batch-size"),
        (["flat.npy", "-o", "out.npy"], "has the shape (3,)"),
        (["none.npy", "-o", "out.npy"], "has the shape (0, 3)"),
        (["other.npy", "-o", "out.npy"], "samples of shape (9,), 9 values each"),
        (["texts.npy", "-o", "out.npy"], "must hold numbers, got dtype <U1"),
        (["objects.npy", "-o", "out.npy"], "no readable npy file"),
        (["model.npz", "-o", "out.npz"], "no readable npz file"),
        (["nothing.npz", "-o", "out.npz"], "holds no array of samples"),
    ],
)
def test_bad_calls(args, message, folder):
    np.save("flat.npy", np.zeros(3))
    np.save("none.npy", np.zeros((0, 3)))
    np.save("other.npy", np.zeros((3, 9)))
    np.save("texts.npy", np.array([["a"]]))
    np.save("objects.npy", np.array([[{}]]), allow_pickle=True)
    Path("model.npz").write_bytes(b"PK\x03\x04 and no more")
    np.savez("nothing.npz")
    Path("folder.npy").mkdir()
    Path("store.zarr").mkdir()
    Path("file.zarr").touch()
    Path("store.npy").mkdir()
    Path("store.npy/zarr.json").touch()
    labels = ["--labels", "labels.txt", "-o", "out.pdf"]
    said = run("diagnose", "model.safetensors", "samples.npy", *labels, status=2)
    assert "--out out.pdf must end in .html" in said
    before = files(folder)
    assert message in explain(*args, status=2)
    assert files(folder) == before


def test_bad_models(folder):
    Path("broken.safetensors").write_bytes(b"none")
    message = run("explain", "broken.safetensors", "samples.npy", "-o", "out.npy", status=2)
    assert "not a safetensors file" in message
    for model in (MLPClassifier(), RelevanceTransformer(MLPClassifier())):
        sklrp.save(model, "model.safetensors")
        assert "must hold a fitted classifier" in explain("samples.npy", "-o", "o.npy", status=2)


def test_failures_of_our_own(folder, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("out of memory\non line two")

    monkeypatch.setattr(CNNClassifier, "explain", fail)
    message = explain("samples.npy", "-o", "out.npy", status=1)
    assert message == "error: RuntimeError: out of memory on line two\n"
    result = CliRunner().invoke(
        main, ["--debug", "explain", "model.safetensors", "samples.npy", "-o", "out.npy"]
    )
    assert result.exit_code == 1
    assert "Traceback" in result.stderr


@pytest.mark.filterwarnings("always")
def test_warnings_are_one_line(folder):
    sklrp.save(MLPClassifier((3,), max_epochs=1).fit(X, LABELS), "model.safetensors")
    args = ["explain", "model.safetensors", "samples.npy", "-o", "out.npy", "--rule", "flat"]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: The flat rule on the dense first layer")
    assert result.stderr.count("\n") == 1


def test_help():
    text = run("--help")
    for command in ("demo", "explain", "diagnose"):
        assert f"python -m sklrp {command}" in text
        assert f"python -m sklrp {command}" in run(command, "--help")
    assert run("--version") == f"sklrp, version {sklrp.__version__}\n"
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 2
    assert "Commands:" in result.stderr


# Interrupted runs


def interrupt_after(n_chunks, monkeypatch):
    """Let explaining be interrupted; return a list of the numbers of samples explained."""
    original, sizes = CNNClassifier.explain, []

    def explain(self, X, **kwargs):
        if len(sizes) == n_chunks:
            raise KeyboardInterrupt
        sizes.append(len(X))
        return original(self, X, **kwargs)

    monkeypatch.setattr(runs, "CHUNK_BYTES", 8 * 100 * 9)  # nine samples
    monkeypatch.setattr(CNNClassifier, "explain", explain)
    return sizes


@pytest.mark.parametrize("form", ["npy", "npz", "csv"])
def test_resumed_is_the_same(form, folder, clf, monkeypatch):
    if form == "npz":
        np.savez("samples.npz", X=X)
    if form == "csv":
        np.savetxt("samples.csv", X.reshape(40, 100), fmt="%.17g", delimiter=",")
    args = [f"samples.{form}", "-o", f"out.{form}", "--batch-size", "9"]
    with monkeypatch.context() as context:
        assert interrupt_after(-1, context) == []
        explain(*args)
    with Samples(Path(f"out.{form}")) as written:
        expected = written.read().reshape(X.shape)
    np.testing.assert_allclose(expected, clf.explain(X), atol=1e-12)
    Path(f"out.{form}").unlink()
    with monkeypatch.context() as context:
        interrupt_after(2, context)
        result = CliRunner().invoke(main, ["explain", "model.safetensors", *args])
        assert result.exit_code == 130
        assert result.stderr.splitlines()[0] == "18 of 40 samples are done; --resume goes on."
        assert result.stderr.splitlines()[-1] == "error: interrupted"
    assert {f"out.{form}.part", f"out.{form}.part.json"} < set(files(folder))
    assert f"out.{form}" not in files(folder)
    assert "--resume, or delete it" in explain(*args, status=2)
    sizes = interrupt_after(-1, monkeypatch)
    explain(*args, "--resume")
    assert sizes == [9, 9, 4]
    with Samples(Path(f"out.{form}")) as written:
        assert_same_to_rounding(written.read().reshape(X.shape), expected)
    assert not [name for name in files(folder) if "part" in name]


@pytest.fixture
def interrupted(folder, monkeypatch):
    with monkeypatch.context() as context:
        interrupt_after(2, context)
        CliRunner().invoke(main, ["explain", "model.safetensors", "samples.npy", "-o", "out.npy"])
    assert json.loads(Path("out.npy.part.json").read_text())["done"] == 18
    monkeypatch.setattr(runs, "CHUNK_BYTES", 8 * 100 * 9)
    return folder


def test_resuming_something_else(interrupted, clf):
    args = ["samples.npy", "-o", "out.npy", "--resume"]
    message = explain(*args, "--rule", "epsilon", "--contrast", status=2)
    assert "made with another rule and contrast" in message
    np.save("samples.npy", X[:30])
    assert "another shape of the data" in explain(*args, status=2)
    changed = X.copy()
    changed[3] += 1
    np.save("samples.npy", changed)
    assert "samples.npy is not what it was" in explain(*args, status=2)
    changed = X.copy()
    changed[30] += 1  # not explained yet
    np.save("samples.npy", changed)
    sklrp.save(MLPClassifier(max_epochs=1).fit(X, LABELS), "other.safetensors")
    message = run("explain", "other.safetensors", *args, status=2)
    assert "made with another model" in message
    explain(*args)
    np.testing.assert_allclose(np.load("out.npy"), clf.explain(changed), atol=1e-12)


def test_resuming_with_a_damaged_sidecar(interrupted):
    for content in ("", "[]", '{"done": 18}', '{"done": "x", "samples": "", "settings": {}}'):
        Path("out.npy.part.json").write_text(content, encoding="utf-8")
        message = explain("samples.npy", "-o", "out.npy", "--resume", status=2)
        assert "out.npy.part.json is damaged" in message
    Path("out.npy.part.json").unlink()
    explain("samples.npy", "-o", "out.npy", "--resume")  # from the beginning


def test_resuming_with_a_damaged_part(interrupted):
    content = Path("out.npy.part").read_bytes()
    for damaged in (b"", content[:200]):
        Path("out.npy.part").write_bytes(damaged)
        message = explain("samples.npy", "-o", "out.npy", "--resume", status=2)
        assert "out.npy.part is damaged" in message


def test_resuming_nothing(folder, clf):
    explain("samples.npy", "-o", "out.npy", "--resume")
    assert_same_to_rounding(np.load("out.npy"), clf.explain(X))


def test_a_full_disk(folder, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    before = files(folder)
    for name in ("reserve", "open_memmap"):
        with monkeypatch.context() as context:
            context.setattr(runs, name, fail)
            message = explain("samples.npy", "-o", "out.npy", status=1)
        assert "No space left on device: 'out.npy.part'" in message
        assert files(folder) == before


@pytest.mark.skipif(os.name == "nt", reason="there is no sh")
@pytest.mark.slow
def test_without_stderr(folder):
    command = 'exec "$@" 2>&-'
    args = ["explain", "model.safetensors", "samples.npy", "-o", "out.npy"]
    subprocess.run(
        ["sh", "-c", command, "sh", sys.executable, "-m", "sklrp", *args],
        env=ENVIRONMENT,
        check=True,
    )
    assert np.load("out.npy").shape == X.shape


def test_a_link_stays_one(folder):
    Path("there").mkdir()
    Path("out.npy").symlink_to("there/out.npy")
    explain("samples.npy", "-o", "out.npy")
    assert Path("out.npy").is_symlink()
    assert files(folder / "there") == ["out.npy"]


def test_memory_is_bounded(folder, monkeypatch):
    """Chunks of a file are never held together."""
    n_bytes = []
    original = Samples.read

    def read(self, rows=slice(None), **options):
        X = original(self, rows, **options)
        n_bytes.append(X.nbytes)
        return X

    monkeypatch.setattr(runs, "CHUNK_BYTES", 4000)
    monkeypatch.setattr(Samples, "read", read)
    explain("samples.npy", "-o", "out.npy")
    assert len(n_bytes) == 8
    assert max(n_bytes) <= 4000


# Each chunk takes a moment, so that the signal comes before the last.
IN_SMALL_CHUNKS = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
import sklrp.cli.runs as runs
runs.CHUNK_BYTES = 80_000
write = runs.PartialRun._write_sidecar
runs.PartialRun._write_sidecar = lambda *args: (write(*args), time.sleep(0.05))
import sklrp.cli
sklrp.cli.main()
"""


@pytest.mark.skipif(os.name == "nt", reason="there are no signals")
@pytest.mark.slow
def test_a_real_interrupt(folder, clf):
    """Ctrl-C in a process of its own, and going on in another."""
    many = np.tile(X, (100, 1, 1))
    np.save("samples.npy", many)
    command = [
        sys.executable,
        "-c",
        IN_SMALL_CHUNKS,
        "explain",
        "model.safetensors",
        "samples.npy",
    ]
    process = subprocess.Popen(
        [*command, "-o", "out.npy"], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    deadline = time.monotonic() + 60
    while not Path("out.npy.part.json").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "--resume goes on" in stderr
    assert "Traceback" not in stderr
    assert not Path("out.npy").exists()
    done = subprocess.run(
        [*command, "-o", "out.npy", "--resume"], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    np.testing.assert_allclose(np.load("out.npy"), clf.explain(many), atol=1e-12)


# diagnose


@pytest.mark.slow
def test_diagnose(folder):
    call = [
        "diagnose", "model.safetensors", "samples.npy", "--labels", "labels.txt",
        "--mask", "mask.npy", "-o", "report.html", "--n-permutations", "3",
    ]  # fmt: skip
    out = run(*call)
    assert out.split(":")[0] in ("Fact", "Artifact", "Undecided")
    tests = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
    assert {"skilled", "true", "learned", "used", "mask"} <= set(tests)
    assert "X_train was not given" in out
    page = Path("report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert run(*call) == out


def test_diagnose_with_training_data(folder):
    samples = np.load("samples.npy")
    labels = Path("labels.txt").read_text(encoding="utf-8").splitlines()
    np.save("held_out.npy", samples[20:])
    np.save("train.npy", samples[:20])
    Path("held_out.txt").write_text("\n".join(labels[20:]), encoding="utf-8")
    Path("train.txt").write_text("\n".join(labels[:20]), encoding="utf-8")
    out = run(
        "diagnose", "model.safetensors", "held_out.npy", "--labels", "held_out.txt",
        "--train", "train.npy", "--train-labels", "train.txt", "--n-refits", "1",
        "-o", "report.html", "--n-permutations", "3",
    )  # fmt: skip
    tests = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
    assert {"labels", "placed"} <= set(tests)
    assert "X_train was not given" not in out


@pytest.mark.slow
def test_diagnose_for_a_reader_that_is_gone(folder):
    """As ``| head`` is, which ends before the table is printed."""
    command = [sys.executable, "-m", "sklrp", "diagnose", "model.safetensors", "samples.npy"]
    options = ["--labels", "labels.txt", "--n-permutations", "3"]
    with subprocess.Popen(
        [*command, *options, "-o", "report.html"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
    assert Path("report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--labels", "few.txt"], "few.txt holds 2 labels, but there are 40 samples"),
        (["--labels", "other.npy"], "'left' is not one of the model's classes ['down', 'up']"),
        (["--labels", "one.npy"], "samples of at least 2 classes"),
        (
            ["--labels", "labels.txt", "--n-refits", "1"],
            "trains clones: give --train",
        ),
        (["--labels", "labels.txt", "--train-labels", "few.txt"], "belong to --train"),
        (["--labels", "labels.txt", "--train", "small.npy"], "samples of shape (10,), 10 values"),
        (
            ["--labels", "labels.txt", "--train", "samples.npy", "--train-labels", "few.txt"],
            "few.txt holds 2 labels, but there are 40 samples",
        ),
        (
            ["--labels", "labels.txt", "--train", "samples.npy"],
            "every sample of X is one of",
        ),
        (["--labels", "labels.txt", "--train", "mask.npy", "-o", "mask.npy"], "is an input too"),
        (["--labels", "labels.txt", "--mask", "samples.npy"], "must hold zeros and ones"),
        (["--labels", "labels.txt", "--mask", "small.npy"], "mask"),
        (["--labels", "labels.txt", "--n-permutations", "2"], "x>=3"),
        (["--labels", "labels.txt", "-o", "labels.txt"], "labels.txt is an input too"),
        (["--labels", "labels.txt", "--mask", "mask.npy", "-o", "mask.npy"], "is an input too"),
        (["--labels", "model.safetensors"], "neither a .npy file nor a text file"),
        ([], "Missing option '--labels'"),
    ],
)
def test_bad_diagnoses(args, message, folder):
    Path("few.txt").write_text("up\ndown\n", encoding="utf-8")
    np.save("other.npy", np.repeat(["left", "up"], 20))
    np.save("one.npy", np.repeat("up", 40))
    np.save("small.npy", MASK[:5])
    call = ["diagnose", "model.safetensors", "samples.npy", "-o", "report.html", *args]
    assert message in run(*call, status=2)
    assert "report.html" not in files(folder)


# Regressors, in every command

VALUES = np.stack([X[:, 2].sum(1), 100 + X[:, :, 5].sum(1), X[:, 7, 7]], axis=1)
REGRESSORS = [
    sklrp.MLPRegressor((8,), max_epochs=8, random_state=0),
    sklrp.CNNRegressor((4,), max_epochs=3, random_state=0),
    sklrp.LSTMRegressor(6, max_epochs=3, random_state=0),
    sklrp.ESNRegressor(30, ridge=1.0, random_state=0),
]


@pytest.mark.parametrize("regressor", REGRESSORS, ids=lambda reg: type(reg).__name__)
@pytest.mark.slow
def test_regressors_in_every_command(regressor, folder):
    reg = clone(regressor).fit(X, VALUES)
    sklrp.save(reg, "model.safetensors")
    for text, target in {
        "1": 1,
        "all": "all",
        "0,2": [True, False, True],
        "1:3": [False, True, True],
        "0:1,2": [True, False, True],
        "2:3": 2,
    }.items():
        explain("samples.npy", "-o", "out.npy", "--target", text)
        assert_same_to_rounding(np.load("out.npy"), reg.explain(X, target=target))
    np.save("values.npy", VALUES)
    options = ["--labels", "values.npy", "--target", "0,1", "-o", "report.html"]
    out = run("diagnose", "model.safetensors", "samples.npy", *options, "--n-permutations", "3")
    report = sklrp.diagnostics.diagnose(
        reg, X, VALUES, target=[True, True, False], n_permutations=3, random_state=0
    )
    assert out == f"{report!r}\n"


def test_values_in_files(folder):
    np.save("values.npy", VALUES)
    rows = [",".join(map(repr, row)) for row in VALUES.tolist()]
    Path("values.csv").write_text("\n".join(["a,b,c", *rows]), encoding="utf-8")
    Path("spaces.txt").write_text("\n".join(row.replace(",", " ") for row in rows), "utf-8")
    for file in ("values.npy", "values.csv", "spaces.txt"):
        np.testing.assert_array_equal(read_labels(Path(file), None, 40), VALUES)
    np.save("values.npy", VALUES[:, :1])
    Path("values.csv").write_text("\n".join(["a", *map(repr, VALUES[:, 0].tolist())]), "utf-8")
    for file in ("values.npy", "values.csv"):
        np.testing.assert_array_equal(read_labels(Path(file), None, 40), VALUES[:, 0])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, "--target is needed, as the model predicts 3 values"),
        ("3", "'3' is no output of the model, which predicts 3 values"),
        ("-1", "'-1' is no output"),
        ("0,up", "'up' is no output"),
        ("2:1", "'2:1' is no output"),
        ("1:", "'1:' is no output"),
        ("0_1", "'0_1' is no output"),
        ("\uff11", "is no output"),  # a digit of full width
    ],
)
def test_outputs_of_a_regressor_that_are_not_there(target, message, folder):
    sklrp.save(clone(REGRESSORS[0]).fit(X, VALUES), "model.safetensors")
    np.save("values.npy", VALUES)
    options = [] if target is None else [f"--target={target}"]
    assert message in explain("samples.npy", "-o", "out.npy", *options, status=2)
    diagnosis = ["diagnose", "model.safetensors", "samples.npy", "--labels", "values.npy"]
    assert message in run(*diagnosis, "-o", "report.html", *options, status=2)
    assert not {"out.npy", "out.npy.part", "report.html"} & set(files(folder))


def test_values_that_do_not_fit(folder):
    sklrp.save(clone(REGRESSORS[0]).fit(X, VALUES), "model.safetensors")
    Path("uneven.txt").write_text("1 2\n" * 39 + "1\n", encoding="utf-8")
    Path("more.txt").write_text("1.5\n" * 41, encoding="utf-8")
    Path("words.txt").write_text("up\n" * 40, encoding="utf-8")
    np.save("two.npy", VALUES[:, :2])
    np.save("whole.npy", VALUES)
    np.save("complex.npy", VALUES + 1j)
    call = ["diagnose", "model.safetensors", "samples.npy", "-o", "report.html", "--labels"]
    for file, target, message in (
        ("uneven.txt", "0", "holds 1 values on one line and 2 on another"),
        ("more.txt", "0", "holds 41 labels, but there are 40 samples"),
        ("words.txt", "0", "must hold numbers, as the model is a regressor"),
        ("complex.npy", "0", "must hold numbers, as the model is a regressor: got dtype complex"),
        ("two.npy", "0", "one value for each of 40 samples"),
        ("whole.npy", "all", "--target all makes a map of each output"),
    ):
        assert message in run(*call, file, "--target", target, status=2)


@pytest.mark.slow
def test_one_class_is_diagnosed(folder):
    call = ["diagnose", "model.safetensors", "samples.npy", "--labels", "labels.txt"]
    options = ["-o", "report.html", "--n-permutations", "3"]
    assert run(*call, *options, "--target", "up") != run(*call, *options, "--target", "down")
    message = run(*call, *options, "--target", "left", status=2)
    assert "'left' is not one of the model's classes" in message


@pytest.mark.parametrize("classes", [[0, 1], [True, False], ["a b", "c"], [1.0, 2.0]])
def test_labels(classes, tmp_path):
    classes = np.unique(classes)
    expected = classes[[0, 1, 1]]
    np.save(tmp_path / "labels.npy", expected)
    np.save(tmp_path / "texts.npy", expected.astype(str))
    text = "".join(f"{label}\n" for label in expected)
    (tmp_path / "labels.txt").write_text(text, encoding="utf-8")
    (tmp_path / "labels.csv").write_text(f"label\n{text}", encoding="utf-8")
    for path in tmp_path.iterdir():
        labels = read_labels(path, classes, 3)
        np.testing.assert_array_equal(labels, expected)
        assert labels.dtype == classes.dtype


def test_mask_as_text(tmp_path):
    np.savetxt(tmp_path / "mask.csv", MASK, fmt="%d", delimiter=",")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.csv"), MASK)


# demo


@pytest.mark.slow
def test_demo(folder, monkeypatch):
    out = run("demo", "--out", "demo")
    assert "accuracy in 5-fold cross-validation: 1.000" in out or "cross-validation: 0.9" in out
    assert "El Niño" in out
    assert "In demo: labels.txt, mask.npy, " in out
    assert files(folder / "demo") == [
        "labels.txt", "mask.npy", "model.safetensors", "relevance.png", "samples.npy",
        "train.npy", "train_labels.txt",
    ]  # fmt: skip
    for command in ("explain", "diagnose"):
        line = next(line for line in out.splitlines() if f" {command} " in line)
        said = run(*line.split()[3:])
    assert "X_train was not given" not in said
    sst = sklrp.datasets.load_pacific_sst()
    np.testing.assert_array_equal(np.load("demo/train.npy"), sst.data[::2])
    np.testing.assert_array_equal(np.load("demo/samples.npy"), sst.data[1::2])
    assert np.load("demo/relevance.npy").shape == sst.data[1::2].shape
    clf = sklrp.load("demo/model.safetensors")
    labels = Path("demo/labels.txt").read_text(encoding="utf-8").splitlines()
    assert (clf.predict(sst.data[1::2]) == labels).mean() > 0.8


@pytest.mark.slow
def test_demo_without_extras(folder, monkeypatch):
    def missing():
        raise ImportError("load_pacific_sst needs the package eofs.")

    monkeypatch.setattr(sklrp.datasets, "load_pacific_sst", missing)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = CliRunner().invoke(main, ["demo", "--out", "demo"])
    assert result.exit_code == 0
    assert "Made-up squares in place of the Pacific: load_pacific_sst needs" in result.stderr
    assert "No picture: A picture needs matplotlib: pip install 'sklrp[plot]'" in result.stderr
    assert "relevance.png" not in files(folder / "demo")


# The package


def test_wrong_paths_and_options_are_refused_before_anything_takes_time(folder):
    """In a process of its own: nothing that takes seconds to import was there when it was said."""
    Path("notes.txt").touch()
    diagnosis = ["diagnose", "model.safetensors", "samples.npy", "--labels", "labels.txt", "-o"]
    calls = {
        "File 'none' does not exist": ["explain", "none", "samples.npy", "-o", "out.npy"],
        "Path 'none.npy' does not exist": [*diagnosis[:2], "none.npy", *diagnosis[3:], "r.html"],
        "OUT must have the form of DATA, npy": [*EXPLAINED, "out.nc"],
        "out.png has none of the suffixes": [*EXPLAINED, "out.png"],
        "none is no folder": [*EXPLAINED, "none/out.npy"],
        "samples.npy is an input too": [*EXPLAINED, "samples.npy"],
        "report.pdf must end in .html": [*diagnosis, "report.pdf"],
        "notes.txt has none of the suffixes": [*diagnosis, "report.html", "--train", "notes.txt"],
        "--n-refits 2 trains clones": [*diagnosis, "report.html", "--n-refits", "2"],
        "--target all makes a map of each": [*diagnosis, "report.html", "--target", "all"],
        "--reference must be mean, zero": [*EXPLAINED, "out.npy", "--reference", "inf"],
    }
    code = """
import sys
from sklrp.cli import main
for call in {calls}:
    try:
        main(call)
    except SystemExit as stop:
        print(stop.code, sorted({{"numpy", "sklearn", "torch"}} & {{*sys.modules}}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code.format(calls=list(calls.values()))],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=True,
    )
    for message, said in zip(calls, done.stderr.splitlines(), strict=True):
        assert message in said
    assert done.stdout.splitlines() == ["2 []"] * len(calls)


@pytest.mark.slow
def test_importing_the_package_imports_no_optional_library():
    """Only what skorch imports by itself, which is pandas where it is installed."""
    code = "import sys, skorch; before = {*sys.modules}; import sklrp; "
    code += "few = {*sys.modules} - before; sklrp.MLPClassifier; "
    code += "print(sorted(few), "
    code += "[m for m in ('click', 'safetensors', 'pandas', 'matplotlib', 'xarray', 'dask', "
    code += "'zarr', 'sklrp.cli') if m in {*sys.modules} - before])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=True
    )
    assert done.stdout == "['sklrp'] []\n"


def test_every_form_has_a_suffix():
    assert set(FORMS.values()) == {"npy", "npz", "NetCDF", "zarr", "CSV"}
    assert torch.get_num_threads() >= 1


@pytest.mark.parametrize("text", ["1_0", "\uff11", "\u0663", "0x10", "1.0f", "1 000"])
def test_numbers_that_only_python_reads_are_none(text, tmp_path):
    """In a line of numbers such a field makes no header of it either."""
    path = tmp_path / "table.csv"
    for lines, place in (
        (f"a,b\n{text},2\n", "line 2, column 'a'"),
        (f"{text},2\n3,4\n", "line 1, column 1"),
    ):
        path.write_text(lines, encoding="utf-8")
        with pytest.raises(ValueError, match=rf"{place}: {re.escape(repr(text))} is no number"):
            read_csv(path, None, None)


def test_names_that_begin_with_digits_are_names(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("2m_temperature,850,500\n1,2,3\n")
    table, header = read_csv(path, ["2m_temperature", "850"], None)
    assert header == ["2m_temperature", "850"]
    assert table.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("suffix", ["npy", "npz", "nc", "csv", "zarr"])
def test_pipes_and_devices_do_not_hang(suffix, tmp_path):
    pipe, device = tmp_path / f"pipe.{suffix}", tmp_path / f"device.{suffix}"
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    for path in (pipe, device):
        with pytest.raises(ValueError, match=f"{path.name} is no regular file.*into a file"):
            Samples(path)
        with pytest.raises(ValueError, match="no regular file"):
            read_labels(path, np.array([0, 1]), 3)
        for read in (sklrp.from_keras, sklrp.datasets.load_enso, sklrp.load):
            with pytest.raises(ValueError, match="no regular file"):
                read(path)


def test_labels_of_a_command_are_read(tmp_path):
    """As the shell hands them over: <(cut -f 3 table)."""
    reader, writer = os.pipe()
    os.write(writer, b"0\n1\n1\n")
    os.close(writer)
    labels = read_labels(Path(f"/dev/fd/{reader}"), np.array([0, 1]), 3)
    os.close(reader)
    assert labels.tolist() == [0, 1, 1]
