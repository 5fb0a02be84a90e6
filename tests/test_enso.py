"""El Niño and La Niña in files of sea-surface temperature."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal

from sklrp.datasets import load_enso, load_pacific_sst
from tests.helpers.comparing import assert_same_to_rounding

LAT, LON = np.arange(-28.0, 29.0, 4.0), np.arange(0.0, 360.0, 10.0)
# The Oceanic Niño Index of NOAA, mean of December to February of 1962/63 to 2011/12, in K.
ONI = [
    -0.40, 1.07, -0.59, 1.37, -0.41, -0.64, 1.13, 0.51, -1.36, -0.71, 1.84, -1.84, -0.54,
    -1.56, 0.71, 0.69, 0.03, 0.59, -0.26, -0.05, 2.18, -0.60, -1.04, -0.49, 1.23, 0.81,
    -1.69, 0.14, 0.41, 1.71, 0.09, 0.06, 0.96, -0.90, -0.50, 2.24, -1.55, -1.66, -0.68,
    -0.15, 0.92, 0.37, 0.64, -0.85, 0.66, -1.64, -0.85, 1.50, -1.41, -0.87,
]  # fmt: skip


def make_sst(n=240):
    """Return 20 years of a sea like that of ERSST v5 as plain arrays: months and temperatures."""
    rng = np.random.default_rng(0)
    month = np.arange(n) % 12
    nino = np.convolve(rng.normal(size=n + 11), np.hanning(12), mode="valid")
    pattern = np.exp(-((LAT / 10) ** 2))[:, None] * np.exp(-(((LON - 215) / 40) ** 2))
    sst = 20 + 3 * np.sin(month * np.pi / 6)[:, None, None] * np.sign(LAT)[:, None]
    sst = sst + nino[:, None, None] * pattern + rng.normal(size=(n, len(LAT), len(LON)))
    sst[5, 0, 0] += 40  # an outlier, such as at the edge of sea ice
    sst[:, 3:6, 10:13] = np.nan
    return month, sst.astype(np.float32)


def plain_enso(month, sst, base, threshold=0.5, cap=5.0):
    """Return anomalies, the normalised index and the events by the recipe, in plain NumPy."""
    sst = sst.astype(np.float64)
    anomalies, index = np.empty_like(sst), np.empty(len(sst))
    box = np.ix_(abs(LAT) <= 5, (LON >= 190) & (LON <= 240))
    weight = np.cos(np.radians(LAT))[abs(LAT) <= 5]
    raw = np.array([np.average(field[box].mean(axis=1), weights=weight) for field in sst])
    for m in range(12):
        at, ref = month == m, (month == m) & base
        anomalies[at] = np.clip(sst[at] - sst[ref].mean(axis=0), -cap, cap)
        index[at] = raw[at] - raw[ref].mean()
    index /= index[base].std()
    return anomalies, index, np.where(index > threshold, 1, np.where(index < -threshold, -1, 0))


def as_dataset(sst):
    """Return fields as ERSST v5 has them, with the bounds of time and with a level."""
    time = xr.date_range("1980-01-01", periods=len(sst), freq="MS")
    coords = {
        "time": ("time", time, {"standard_name": "time", "axis": "T"}),
        "lat": ("lat", LAT, {"units": "degrees_north", "standard_name": "latitude", "axis": "Y"}),
        "lon": ("lon", LON, {"units": "degrees_east", "standard_name": "longitude", "axis": "X"}),
    }
    data = xr.Dataset({"sst": (("time", "lat", "lon"), sst, {"units": "degC"})}, coords)
    bounds = xr.concat([data.time, data.time + np.timedelta64(28, "D")], "nbnds", coords="minimal")
    return data.assign(time_bnds=bounds.drop_vars("time", errors="ignore").transpose("time", ...))


def turn(data, lon="lon"):
    """Return fields with longitudes from -180 to 180."""
    moved = (data[lon] + 180) % 360 - 180
    return data.assign_coords({lon: moved.assign_attrs(data[lon].attrs)}).sortby(lon)


SHAPES = {
    "as is": lambda d: d,
    "-180 to 180": turn,
    "north first": lambda d: d.sortby("lat", ascending=False),
    "long names": lambda d: d.rename(lat="latitude", lon="longitude", sst="analysed_sst"),
    "other names": lambda d: d.rename(lat="j", lon="i", time="month", sst="v"),
    "names alone": lambda d: d.drop_attrs(),
    "level": lambda d: d.assign(sst=d.sst.expand_dims(lev=[0.0], axis=1)),
    "standard name": lambda d: d.assign(
        ice=d.sst * 0, warm=d.sst.assign_attrs(standard_name="sea_surface_temperature")
    ).drop_vars("sst"),
    "anomaly too": lambda d: d.assign(
        sst=d.sst.assign_attrs(standard_name="sea_surface_temperature"),
        ssta=(d.sst * 0).assign_attrs(standard_name="sea_surface_temperature_anomaly"),
    ),
    "time last": lambda d: d.transpose("lon", "lat", "time", ...),
    "noleap": lambda d: d.drop_vars("time_bnds").convert_calendar("noleap", use_cftime=True),
    "float32": lambda d: d.assign_coords(
        lat=d.lat.astype(np.float32).assign_attrs(d.lat.attrs),
        lon=d.lon.astype(np.float32).assign_attrs(d.lon.attrs),
    ),
}


@pytest.mark.sweep(4)
@pytest.mark.parametrize("suffix", ["nc", "zarr"])
@pytest.mark.parametrize("shape", SHAPES)
def test_files_of_every_shape(tmp_path, shape, suffix):
    month, sst = make_sst()
    data = SHAPES[shape](as_dataset(sst))
    path = tmp_path / f"sst.{suffix}"
    if suffix == "nc":
        data.to_netcdf(path)
    else:
        data.to_zarr(path, zarr_format=2)
    chunks = {} if shape == "as is" else None
    enso = load_enso(path, base_period=("1985", "1994"), chunks=chunks)

    base = (np.arange(240) >= 60) & (np.arange(240) < 180)
    anomalies, index, event = plain_enso(month, sst, base)
    keep = event != 0
    assert_allclose(enso.index, index[keep], atol=2e-5)
    assert_array_equal(enso.target, event[keep] > 0)
    assert enso.target_names.tolist() == ["La Niña", "El Niño"]
    assert (enso.data.chunks is not None) == (chunks is not None)

    found = enso.data.rename(dict(zip(enso.data.dims, ["time", "lat", "lon"], strict=True)))
    assert found.shape == (keep.sum(), 15, 36)
    order = found.assign_coords(lon=found.lon % 360).sortby(["lat", "lon"])
    assert_allclose(order, anomalies[keep], atol=2e-5)
    assert abs(found).max() <= 5
    assert_array_equal(enso.land_mask, np.isnan(found).all("time"))
    assert_array_equal(enso.latitude, found.lat)
    assert_array_equal(enso.longitude, found.lon)
    inside = found.isel(time=0, drop=True).copy(data=enso.nino34_mask)
    assert inside.sum() == 3 * 6
    assert set(inside.lon[inside.any("lat")].values % 360) == set(range(190, 250, 10))
    assert enso.data.attrs["units"] == "K"
    assert enso.filename == str(path)
    assert f"{keep.sum()} fields" in enso.DESCR


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_stores_whose_metadata_is_not_consolidated(tmp_path, zarr_format):
    data = as_dataset(make_sst()[1])
    data.to_zarr(tmp_path / "sst.zarr", zarr_format=zarr_format, consolidated=False)
    found = load_enso(tmp_path / "sst.zarr", base_period=None)
    assert_same_to_rounding(found.data, load_enso(data, base_period=None).data)


def test_settings():
    month, sst = make_sst()
    data = as_dataset(sst)
    base = np.ones(240, dtype=bool)
    anomalies, index, event = plain_enso(month, sst, base, threshold=1.0, cap=np.inf)
    enso = load_enso(data, base_period=None, threshold=1.0, cap=None, neutral=True)
    assert_allclose(enso.data, anomalies, atol=2e-5)
    assert_array_equal(enso.target, event + 1)
    assert enso.target_names.tolist() == ["La Niña", "neutral", "El Niño"]
    assert enso.filename is None
    assert np.nanmax(abs(enso.data)) > 30
    assert_array_equal(enso.sst, sst)

    winter = load_enso(data, base_period=None, threshold=1.0, months=[12, 1, 2], neutral=True)
    assert_array_equal(winter.target, (event + 1)[np.isin(month, [11, 0, 1])])
    kelvin = load_enso(data, base_period=None, normalize=False, neutral=True)
    assert kelvin.index.attrs["units"] == "K"
    assert np.corrcoef(kelvin.index, index)[0, 1] > 1 - 1e-8
    assert kelvin.index.std() != pytest.approx(1)
    part = load_enso(turn(data), base_period=None, region={"lat": (-10, 10), "lon": (150, 280)})
    assert part.longitude.tolist() == list(range(150, 290, 10))
    assert part.data.shape[1:] == part.land_mask.shape == (5, 14)
    assert part.nino34_mask.sum() == 18


def test_the_fields_of_eofs_agree_with_the_official_index():
    path = Path(find_spec("eofs").submodule_search_locations[0])
    path = path / "examples" / "example_data" / "sst_ndjfm_anom.nc"
    enso = load_enso(path, base_period=None, normalize=False, neutral=True)
    other = load_pacific_sst(neutral=True)
    assert_allclose(enso.index, other.index - other.index.mean(), atol=1e-12)
    assert_array_equal(enso.target, other.target)
    assert_array_equal(enso.land_mask, other.land_mask)
    assert_array_equal(enso.nino34_mask, other.nino34_mask)
    oni = np.array(ONI)
    official = np.where(oni > 0.5, 2, np.where(oni < -0.5, 0, 1))
    assert np.corrcoef(enso.index, oni)[0, 1] > 0.985
    assert (enso.target == official).sum() >= 47


def test_ostia():
    spec = find_spec("iris_sample_data")
    if spec is None:
        pytest.skip("needs iris-sample-data")
    path = Path(spec.submodule_search_locations[0], "sample_data", "ostia_monthly.nc")
    enso = load_enso(path, base_period=None)
    assert enso.data.shape[1:] == (18, 432)
    assert enso.land_mask.mean() == pytest.approx(0.264, abs=0.001)
    event = dict(zip(np.datetime_as_string(enso.data.time, "M"), enso.target, strict=True))
    assert event["2007-12"] == event["2010-08"] == 0
    assert event["2006-12"] == event["2009-12"] == 1


@pytest.mark.parametrize(
    ("change", "params", "message"),
    [
        (lambda d: d.assign_coords(time=np.arange(240)), {}, "has no calendar"),
        (lambda d: d.drop_vars("lat"), {}, "The dimension 'lat' has no coordinate"),
        (lambda d: d.rename(lat="a").drop_attrs(), {}, "data has no latitude coordinate"),
        (lambda d: d.assign(ice=d.sst).rename(sst="a"), {}, r"set variable to \['a', 'ice'\]"),
        (lambda d: d, {"variable": "tos"}, r"variable='tos' is not in the file, which has \['sst"),
        (lambda d: d.drop_vars("sst"), {}, "no field over time, latitude and longitude"),
        (lambda d: d.assign(sst=d.sst.expand_dims(lev=[0, 5])), {}, "ambiguous dimension: 'sst'"),
        (lambda d: d, {"base_period": ("1950", "1960")}, "no sample lies in base_period"),
        (lambda d: d.isel(lon=slice(10)), {}, "the box has no cell: no value of 'lon'"),
        (lambda d: d.assign(sst=d.sst.where(d.lon < 100)), {}, "no value in the Niño 3.4 box at"),
        (lambda d: d, {"months": [0, 1]}, r"calendar months, 1 to 12, got \[0, 1\]"),
        (lambda d: d, {"threshold": 99}, "no field is left"),
        (lambda d: d, {"region": {"latitude": (0, 1)}}, "region must have the keys"),
        (lambda d: d * 0 + 1, {}, "the index does not vary"),
    ],
)
def test_bad_files(change, params, message):
    data = as_dataset(make_sst()[1])
    with pytest.raises(ValueError, match=message):
        load_enso(change(data[["sst"]]), **{"base_period": None, **params})


def test_no_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*sst.nc"):
        load_enso(tmp_path / "sst.nc")
    (tmp_path / "sst.nc").write_text("no data")
    with pytest.raises(ValueError, match=r"sst.nc' cannot be read as a NetCDF file or zarr"):
        load_enso(str(tmp_path / "sst.nc"))
    (tmp_path / "sst.zarr").mkdir()
    with pytest.raises(ValueError, match=r"sst.zarr' cannot be read as a NetCDF file or zarr"):
        load_enso(tmp_path / "sst.zarr")
    with pytest.raises(ValueError, match=r"path must be a file, got the address 'https"):
        load_enso("https://a.org/sst.nc")
    as_dataset(make_sst()[1]).to_zarr(tmp_path / "damaged.zarr", zarr_format=2)
    for chunk in (tmp_path / "damaged.zarr" / "sst").glob("*.*.*"):
        chunk.write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"'sst' of .*damaged.zarr' cannot be read"):
        load_enso(tmp_path / "damaged.zarr")
    with pytest.raises(TypeError, match="path must be a str, a Path or a Dataset, got int"):
        load_enso(3)
