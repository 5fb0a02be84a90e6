"""The command line with pipelines: raw fields and tables in, what `geo.explain` returns out."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler

import sklrp
from sklrp import MLPClassifier, MLPRegressor, geo
from sklrp.cli import loaded_models, main, runs, samples
from tests.helpers.comparing import assert_same_to_rounding

RNG = np.random.default_rng(0)
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(sklrp.__file__).parents[1])}
NET = MLPClassifier((4,), max_epochs=2, random_state=0)
Y = np.where(RNG.normal(size=48) > 0, "warm", "cold")


def run(*args, status=0):
    """Run a command line in this process; return what it printed on stderr."""
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert result.exit_code == status, result.output
    return result.stderr


def make_sst(order=("time", "lat", "lon")):
    """Return four years of a field in kelvins, with a season and with land."""
    time = xr.date_range("1980-01-01", periods=48, freq="MS")
    season = 10 * np.sin(np.arange(48) * np.pi / 6)[:, None, None]
    values = 290 + season + np.random.default_rng(1).normal(size=(48, 4, 5))
    values[:, 0, 0] = np.nan
    field = xr.DataArray(
        values,
        {
            "time": time,
            "lat": ("lat", [-5.0, 0, 5, 10], {"units": "degrees_north", "bounds": "lat_bnds"}),
            "lon": ("lon", [0.0, 5, 10, 15, 20], {"units": "degrees_east"}),
        },
        ("time", "lat", "lon"),
        "sst",
        {"units": "K"},
    )
    return field.transpose(*order)


def write_raw(field, name):
    """Write fields as a provider does: with bounds of the cells and another variable."""
    dataset = field.to_dataset() if isinstance(field, xr.DataArray) else field
    edges = xr.DataArray(np.zeros((4, 2)), dims=("lat", "bnds"))
    dataset = dataset.assign(lat_bnds=edges, mixed_layer=2 * dataset["sst"])
    if name.endswith(".zarr"):
        dataset.to_zarr(name, zarr_format=2, consolidated=False)
    else:
        dataset.to_netcdf(name)


@pytest.fixture
def pipeline():
    anomalies = geo.AnomalyTransformer(standardize=True)
    model = make_pipeline(anomalies, geo.GridVectorizer(), StandardScaler(), NET)
    return model.fit(make_sst(), Y)


@pytest.fixture
def folder(pipeline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sklrp.save(pipeline, "model.safetensors")
    return tmp_path


@pytest.mark.sweep(3)
@pytest.mark.parametrize("suffix", ["nc", "zarr"])
@pytest.mark.parametrize(
    ("options", "how"),
    [
        ([], {}),
        (["--target", "all", "--rule", "epsilon"], {"target": "all", "rule": "epsilon"}),
        (["--target", "warm", "--contrast"], {"target": "warm", "contrast": True}),
    ],
    ids=["predicted", "all", "contrast"],
)
def test_raw_fields_give_what_geo_explain_gives(suffix, options, how, folder, pipeline):
    pytest.importorskip("zarr" if suffix == "zarr" else "netCDF4")
    sst = make_sst(("lat", "time", "lon"))
    write_raw(sst, f"raw.{suffix}")
    run("explain", "model.safetensors", f"raw.{suffix}", "-o", f"out.{suffix}", *options)
    expected = geo.explain(pipeline, sst, **how)
    engine = {"engine": "zarr", "consolidated": False} if suffix == "zarr" else {}
    with xr.open_dataset(f"out.{suffix}", **engine) as written:
        assert set(written.data_vars) == {"relevance", "lat_bnds"}
        found = written["relevance"].load()
    xr.testing.assert_equal(found, expected.astype(found.dtype))
    assert found.dims == expected.dims
    assert found.attrs == expected.attrs
    assert {"rule", "target", "units", "sklrp_version", "estimator"} <= set(found.attrs)
    np.testing.assert_array_equal(np.isnan(found.sel(lat=-5, lon=0)), True)
    assert int(np.isnan(found).sum()) == found.size // 20
    assert sorted(os.listdir()) == sorted(["model.safetensors", f"raw.{suffix}", f"out.{suffix}"])


def test_several_variables(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sst = make_sst()
    fields = xr.Dataset({"ssh": sst / 100, "sst": sst})
    regressor = MLPRegressor((3,), max_epochs=2, random_state=0)
    model = make_pipeline(geo.AnomalyTransformer(), geo.GridVectorizer(), regressor)
    model.fit(fields, np.arange(48.0))
    sklrp.save(model, "model.safetensors")
    write_raw(fields, "raw.nc")
    run("explain", "model.safetensors", "raw.nc", "-o", "out.nc", "--reference", "zero")
    expected = geo.explain(model, fields, reference="zero")
    with xr.open_dataset("out.nc") as written:
        xr.testing.assert_equal(written[["ssh", "sst"]].load(), expected)
        assert written["ssh"].attrs == expected["ssh"].attrs
    assert "takes the variables ['ssh', 'sst']" in run(
        *("explain", "model.safetensors", "raw.nc", "-o", "new.nc", "--variable", "sst"), status=2
    )
    sst.to_netcdf("one.nc")
    assert "one.nc lacks the variables ['ssh']" in run(
        "explain", "model.safetensors", "one.nc", "-o", "new.nc", status=2
    )


def test_an_interrupted_run_goes_on(folder, pipeline, monkeypatch):
    write_raw(make_sst(), "raw.nc")
    monkeypatch.setattr(runs, "CHUNK_BYTES", 8 * 20 * 10)  # ten samples
    original, calls = geo.explain, []

    def explain(*args, **kwargs):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(args[1].sizes["time"])
        return original(*args, **kwargs)

    monkeypatch.setattr(geo, "explain", explain)
    call = ["explain", "model.safetensors", "raw.nc", "-o", "out.nc"]
    assert "20 of 48 samples are done; --resume goes on." in run(*call, status=130)
    assert calls == [10, 10]
    monkeypatch.setattr(geo, "explain", original)
    changed = make_sst()
    changed[3, 1, 1] += 1
    write_raw(changed, "raw.nc")
    assert "raw.nc is not what it was" in run(*call, "--resume", status=2)
    write_raw(make_sst(), "raw.nc")
    run(*call, "--resume")
    with xr.open_dataset("out.nc") as written, xr.open_dataset("raw.nc") as raw:
        expected = geo.explain(pipeline, raw["sst"].load()).values
        found = written["relevance"].values
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    assert_same_to_rounding(np.nan_to_num(found), np.nan_to_num(expected))


def test_fields_far_from_training_are_said(folder):
    sst = make_sst()
    write_raw(sst, "raw.nc")
    write_raw(sst - 273.15, "celsius.nc")
    call = ["explain", "model.safetensors"]
    assert run(*call, "raw.nc", "-o", "out.nc") == ""
    said = run(*call, "celsius.nc", "-o", "cold.nc")
    assert said.startswith("warning: 100% of the values that the model's steps make of celsius.nc")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda f: f.isel(lat=slice(1, None)), [], "the grid differs: 'lat' had 4 values"),
        (lambda f: f.where(f.lat > -5), [], "the mask changed: sst[lat=-5.0,lon=5.0] is missing"),
        (lambda f: f.rename(time="month"), [], "rename that dimension"),
        (lambda f: f, ["--fill", "0"], "--fill 0.0: leave it out"),
        (lambda f: f, ["--variable", "ice"], "--variable ice is not there"),
        (lambda f: f.isel(time=slice(0)), [], "holds no sample along 'time'"),
    ],
    ids=["grid", "mask", "dimension", "fill", "variable", "none"],
)
def test_other_fields_are_refused(change, options, message, folder):
    change(make_sst()).drop_attrs().to_netcdf("raw.nc")
    said = run("explain", "model.safetensors", "raw.nc", "-o", "out.nc", *options, status=2)
    assert message in said
    assert said.count("\n") == 1
    assert not Path("out.nc").exists()


def test_arrays_have_no_grid(folder):
    np.save("raw.npy", make_sst().values)
    said = run("explain", "model.safetensors", "raw.npy", "-o", "out.npy", status=2)
    assert "raw.npy holds no coordinates, but the model has a GridVectorizer" in said


@pytest.mark.slow
def test_a_pipeline_is_diagnosed(folder):
    write_raw(make_sst(), "raw.nc")
    Path("labels.txt").write_text("\n".join(Y), encoding="utf-8")
    run(
        *("diagnose", "model.safetensors", "raw.nc", "--labels", "labels.txt", "-o", "out.html"),
        *("--n-permutations", "3"),
    )
    assert "verdict" in Path("out.html").read_text(encoding="utf-8").lower()


# Arrays and tables


def test_arrays_behind_steps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X = RNG.normal(size=(48, 6))
    X[3, 2] = np.nan
    model = make_pipeline(SimpleImputer(), StandardScaler(), PCA(3), NET).fit(X, Y)
    sklrp.save(model, "model.safetensors")
    np.save("samples.npy", X)
    run("explain", "model.safetensors", "samples.npy", "-o", "out.npy", "--target", "all")
    np.testing.assert_array_equal(np.load("out.npy"), sklrp.explain(model, X, target="all"))
    xr.DataArray(X, dims=("time", "x"), name="sst").to_netcdf("samples.nc")
    said = run("explain", "model.safetensors", "samples.nc", "-o", "out.nc", status=2)
    assert "the model's steps make samples of shape (3,) of those in samples.nc" in said


def test_tables_with_texts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame({"a": RNG.normal(size=48), "kind": RNG.choice(["u", "v", "w"], 48)})
    frame["number"], frame["flag"] = np.arange(48) % 2, frame["a"] > 0
    rows = [("number", StandardScaler(), ["a"])]
    rows += [("kinds", OneHotEncoder(drop="if_binary"), ["kind", "number", "flag"])]
    model = make_pipeline(ColumnTransformer(rows), NET).fit(frame, Y)
    sklrp.save(model, "model.safetensors")
    frame.assign(more=1.0)[[*frame][::-1]].to_csv("samples.csv", index=False)
    run("explain", "model.safetensors", "samples.csv", "-o", "out.csv")
    written = pd.read_csv("out.csv")
    names = ["kind_u", "kind_v", "kind_w", "number_1", "flag_True"]
    assert list(written) == ["number__a", *(f"kinds__{name}" for name in names)]
    assert_same_to_rounding(written.to_numpy(), sklrp.explain(model, frame))
    frame[["a"]].to_csv("samples.csv", index=False)
    said = run("explain", "model.safetensors", "samples.csv", "-o", "new.csv", status=2)
    assert "samples.csv lacks the columns ['kind', 'number', 'flag']" in said


def test_names_of_a_run_that_was_done_but_not_written(tmp_path, monkeypatch):
    """No sample is explained any more, and the names are those of what entered the network."""
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame({"a": RNG.normal(size=48), "kind": RNG.choice(["u", "v", "w"], 48)})
    rows = [("kinds", OneHotEncoder(sparse_output=False), ["kind"])]
    model = make_pipeline(ColumnTransformer(rows, remainder="passthrough"), NET).fit(frame, Y)
    sklrp.save(model, "model.safetensors")
    frame.to_csv("samples.csv", index=False)
    call = ["explain", "model.safetensors", "samples.csv", "-o", "out.csv"]
    with monkeypatch.context() as broken:
        broken.setattr(samples.Samples, "write", lambda *args: 1 / 0)
        run(*call, status=1)
    with monkeypatch.context() as done:
        done.setattr(sklrp, "explain", lambda *args, **kwargs: pytest.fail("explained again"))
        run(*call, "--resume")
    written = pd.read_csv("out.csv")
    assert list(written) == ["kinds__kind_u", "kinds__kind_v", "kinds__kind_w", "remainder__a"]
    assert_same_to_rounding(written.to_numpy(), sklrp.explain(model, frame))


def test_features_without_names_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame(RNG.normal(size=(48, 2)), columns=["a", "b"])
    model = make_pipeline(PolynomialFeatures(include_bias=False), NET).fit(frame, Y)
    sklrp.save(model, "model.safetensors")
    frame.to_csv("samples.csv", index=False)
    monkeypatch.setattr(loaded_models.Model, "feature_names", lambda *args: None)
    run("explain", "model.safetensors", "samples.csv", "-o", "out.csv")
    assert list(pd.read_csv("out.csv")) == [f"x{i}" for i in range(5)]


# What takes no time


def test_help_imports_nothing_that_takes_time():
    slow = "('torch', 'sklearn', 'numpy', 'pandas', 'xarray', 'matplotlib')"
    code = "import sys; from sklrp.cli import main; sys.argv[0] = 'sklrp'\ntry: main()\n"
    code += f"finally: print([m for m in {slow} if m in sys.modules])"
    for command in ([], ["explain"], ["diagnose"], ["demo"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *command, "--help"],
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
        )
        assert done.stdout.endswith("\n[]\n"), done.stdout + done.stderr


def test_what_the_help_of_a_rule_names_is_there():
    help_text = CliRunner().invoke(main, ["explain", "--help"]).stdout
    for rule in ("epsilon", "gamma", "z_plus", "epsilon_plus"):
        assert rule in help_text
        sklrp.check_rule(rule)
    with pytest.raises(ValueError, match=r"alpha_beta.*flat|flat.*alpha_beta"):
        sklrp.check_rule("nonsense")


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize("command", ["explain", "diagnose"])
def test_a_warning_is_written_once(pipeline, tmp_path, monkeypatch, command):
    """Anomalies and vectorizer both look at the units, and `diagnose` at each test."""
    monkeypatch.chdir(tmp_path)
    sklrp.save(pipeline, "model.safetensors")
    write_raw(make_sst().assign_attrs(units="fathom"), "raw.nc")
    Path("labels.txt").write_text("".join(f"{label}\n" for label in Y), encoding="utf-8")
    out, how = "out.nc", ()
    if command == "diagnose":
        out, how = "out.html", ("--labels", "labels.txt", "--n-permutations", 3)
    said = run(command, "model.safetensors", "raw.nc", "--variable", "sst", "-o", out, *how)
    assert said.count("sst is in 'fathom', but in 'K' in fit") == 1
