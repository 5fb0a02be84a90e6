"""Small fields of xarray, and how to compare fields: called by the tests of ``sklrp.geo``."""

import numpy as np
import xarray as xr

from tests.helpers.comparing import assert_same_to_rounding

LAT, LON = np.array([-5.0, 0.0, 5.0]), np.array([350.0, 355.0, 0.0, 5.0])
LAND = np.zeros((3, 4), dtype=bool)
LAND[1, 2] = LAND[2, :2] = True


def make_field(n=48, *, dtype=np.float64, calendar=None, seed=0):
    """Return monthly fields from 1980 on, with a season, a trend and land."""
    rng = np.random.default_rng(seed)
    kwargs = {"calendar": calendar, "use_cftime": True} if calendar else {}
    time = xr.date_range("1980-01-15", periods=n, freq="MS", **kwargs)
    values = rng.normal(size=(n, 3, 4))
    values += 10 * np.sin(np.arange(n) * np.pi / 6)[:, None, None] + 290
    values += np.arange(n)[:, None, None] * rng.normal(size=(3, 4)) / 60
    values[:, LAND] = np.nan
    return xr.DataArray(
        values.astype(dtype),
        {"time": time, "lat": ("lat", LAT, {"units": "degrees_north"}), "lon": LON, "level": 0.0},
        ["time", "lat", "lon"],
        name="sst",
        attrs={"units": "K", "standard_name": "sea_surface_temperature"},
    )


def two_variables():
    """Return a Dataset whose variables differ in dtype, mask and order of dimensions."""
    sst = make_field()
    ssh = make_field(dtype=np.float32, seed=1).fillna(1.0).rename("ssh").transpose("lon", ...)
    ssh.attrs = {"units": "m"}
    return xr.Dataset({"sst": sst, "ssh": ssh}, attrs={"title": "two"})


def assert_same_fields(found, expected):
    """Hold fields against each other: values to rounding; all that describes them equal."""
    same = found.copy(data=expected if isinstance(expected, xr.DataArray) else expected.data_vars)
    xr.testing.assert_identical(same, expected)
    pairs = [(found, expected)]
    if isinstance(expected, xr.Dataset):
        pairs = [(found[name], expected[name]) for name in expected]
    for one, other in pairs:
        assert_same_to_rounding(one, other)
