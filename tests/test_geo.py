"""Fields of xarray as samples and back, and their anomalies."""

import pickle
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklrp.geo import AnomalyTransformer, GridVectorizer, write
from tests.helpers.fields import LAND, LAT, LON, make_field, two_variables


@pytest.mark.slow
def test_importing_the_package_does_not_import_xarray():
    code = "import sys, sklrp; assert not {'xarray', 'dask', 'netCDF4', 'zarr'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- GridVectorizer ---------------------------------------------------------------------------


@parametrize_with_checks([GridVectorizer(), GridVectorizer(missing="fill")])
def test_estimator_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_features_are_the_valid_cells_and_come_back(dtype):
    field = make_field(dtype=dtype)
    vectorizer = GridVectorizer()
    X = vectorizer.fit_transform(field)
    assert X.dtype == dtype
    assert_array_equal(X, field.values[:, ~LAND])
    assert_array_equal(vectorizer.mask_, ~LAND)
    assert vectorizer.mask_.dims == ("lat", "lon")
    assert_array_equal(vectorizer.missing_share_, LAND)
    assert vectorizer.n_features_in_ == 12
    xr.testing.assert_identical(vectorizer.inverse_transform(X, like=field), field)

    bare = vectorizer.inverse_transform(X[:5])
    assert "time" not in bare.coords
    xr.testing.assert_identical(bare, field[:5].drop_vars("time"))


def test_names_tell_where():
    names = GridVectorizer().fit(make_field()).get_feature_names_out()
    expected = [
        f"sst[lat={LAT[i]},lon={LON[j]}]" for i in range(3) for j in range(4) if not LAND[i, j]
    ]
    assert names.tolist() == expected
    assert names[0] == "sst[lat=-5.0,lon=350.0]"
    unnamed = make_field().drop_vars(["lon", "lat"]).rename(None)
    assert GridVectorizer().fit(unnamed).get_feature_names_out()[-1] == "x[lat=2,lon=3]"
    two = GridVectorizer().fit(two_variables()).get_feature_names_out()
    assert len(two) == 9 + 12
    assert two[-1] == "ssh[lat=5.0,lon=5.0]"
    levels = make_field().expand_dims(depth=[5, 10])
    levels = GridVectorizer(channel_dim="depth").fit(levels).get_feature_names_out()
    assert levels[9] == "sst[depth=10,lat=-5.0,lon=350.0]"
    assert GridVectorizer().fit(np.ones((2, 2, 2))).get_feature_names_out()[1] == "x[0,1]"


def test_grid_layout_keeps_the_grid():
    field = make_field(dtype=np.float32)
    vectorizer = GridVectorizer(layout="grid", fill_value=-1.0)
    X = vectorizer.fit_transform(field)
    assert X.dtype == np.float32
    assert_array_equal(X, np.where(LAND, -1.0, field.values))
    xr.testing.assert_identical(vectorizer.inverse_transform(X, like=field), field)
    assert len(vectorizer.get_feature_names_out()) == 12

    levels = field.expand_dims(depth=[5, 10], axis=3)
    X = GridVectorizer(layout="grid", channel_dim="depth").fit_transform(levels)
    assert X.shape == (48, 2, 3, 4)
    assert_array_equal(X[:, 1], np.where(LAND, 0.0, field.values))


@pytest.mark.parametrize("layout", ["features", "grid"])
def test_variables_are_channels(layout):
    data = two_variables()
    vectorizer = GridVectorizer(layout=layout)
    X = vectorizer.fit_transform(data)
    stacked = np.stack([data.sst.values, data.ssh.transpose("time", "lat", "lon").values], 1)
    valid = np.stack([~LAND, np.ones_like(LAND)])
    if layout == "grid":
        assert_array_equal(X, np.where(valid, stacked, 0.0))
    else:
        assert_array_equal(X, stacked[:, valid])
    back = vectorizer.inverse_transform(X, like=data)
    assert back.ssh.dims == data.ssh.dims
    xr.testing.assert_allclose(back, data)
    assert back.attrs == data.attrs
    assert back.ssh.attrs == data.ssh.attrs
    reordered = data[["ssh", "sst"]].transpose("lat", "time", "lon")
    assert_array_equal(vectorizer.transform(reordered), X)


def test_arrays_with_missing_cells():
    values = make_field().values
    vectorizer = GridVectorizer().fit(values)
    X = vectorizer.transform(values)
    assert_array_equal(X, values[:, ~LAND])
    assert_array_equal(vectorizer.inverse_transform(X), values)
    with pytest.raises(ValueError, match=r"had the shape \(3, 4\) in fit, got \(4, 3\)"):
        vectorizer.transform(values.reshape(-1, 4, 3))
    with pytest.raises(ValueError, match="X is a DataArray, but fit has seen an array"):
        vectorizer.transform(make_field())
    with pytest.raises(ValueError, match="X is a ndarray, but fit has seen fields"):
        GridVectorizer().fit(make_field()).transform(values)


def test_cells_missing_at_times():
    field = make_field()
    field[3:5, 0, 1] = np.nan
    field[7, 2, 2] = np.nan
    message = (
        r"2 of 12 cells are missing \(NaN\) in some samples only \(of 48 samples, "
        r"sst\[lat=-5.0,lon=355.0\] in 2, sst\[lat=5.0,lon=0.0\] in 1\): set missing='drop'"
    )
    with pytest.raises(ValueError, match=message):
        GridVectorizer().fit(field)

    dropped = GridVectorizer(missing="drop").fit(field)
    always = ~np.isnan(field.values).any(axis=0)
    assert_array_equal(dropped.mask_, always)
    assert_array_equal(dropped.transform(field), field.values[:, always])
    assert dropped.missing_share_.values[0, 1] == 2 / 48

    filled = GridVectorizer(missing="fill", fill_value=9.0).fit(field)
    assert_array_equal(filled.mask_, ~LAND)
    X = filled.transform(field)
    assert_array_equal(X, np.nan_to_num(field.values[:, ~LAND], nan=9.0))
    assert (X == 9.0).sum() == 3

    empty = make_field()
    empty[2] = np.nan
    with pytest.raises(ValueError, match=r"sample 2 \(time=1980-04-01.*\) is missing everywhere"):
        GridVectorizer().fit(empty)


def test_a_mask_that_changed_is_refused():
    vectorizer = GridVectorizer().fit(make_field())
    for cell, value, now, before in [
        ((4, 0, 0), np.nan, "missing", "there"),
        ((4, 1, 2), 1.0, "there", "missing"),
    ]:
        changed = make_field()
        changed[cell] = value
        where = rf"lat={LAT[cell[1]]},lon={LON[cell[2]]}\] is {now}.* in sample 4 \(time=1980-06"
        with pytest.raises(ValueError, match=rf"the mask changed: sst\[{where}.*always {before}"):
            vectorizer.transform(changed)
        assert clone(vectorizer).set_params(missing="drop").fit(changed) is not None
    lost = make_field()
    lost[4, 0, 0] = np.nan
    X = GridVectorizer(missing="fill").fit(make_field()).transform(lost)
    assert X[4, 0] == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.sortby("lat", ascending=False), r"lat\[0\] is 5.0, was -5.0 .*another order"),
        (
            lambda d: d.assign_coords(lon=[350.0, 355.0, 1.0, 6.0]),
            r"lon\[2\] is 1.0, was 0.0 in fit",
        ),
        (lambda d: d.isel(lon=slice(3)), "'lon' had 4 values in fit, got 3.*first 3 values"),
        (lambda d: d.drop_vars("lat"), "the coordinate 'lat' is missing"),
        (lambda d: d.rename(lat="y"), r"dimensions differ: fitted on \('time', 'lat', 'lon'\)"),
        (lambda d: d.to_dataset(), "fitted on a DataArray, got a Dataset"),
        (lambda d: d[0], r"got \('lat', 'lon'\). Keep \['time'\] by selecting with a list"),
        (
            lambda d: d.assign_coords(lon=[-10.0, -5.0, 0.0, 5.0]),
            r"same meridians in another convention: data.assign_coords\(lon=data.lon % 360\)",
        ),
    ],
)
def test_another_grid_is_refused(change, message):
    vectorizer = GridVectorizer(sample_dim="time").fit(make_field())
    with pytest.raises(ValueError, match=message):
        vectorizer.transform(change(make_field()))


@pytest.mark.parametrize("first", [0, 1])
def test_the_advice_on_longitudes_is_right(first):
    lon = np.arange(0.0, 360.0, 30.0)
    values = np.random.default_rng(0).normal(size=(5, 12))
    east = xr.DataArray(values, {"time": np.arange(5), "lon": lon}, name="sst")
    west = east.assign_coords(lon=(east.lon + 180) % 360 - 180).sortby("lon")
    fitted, data = (east, west)[first], (west, east)[first]
    vectorizer = GridVectorizer().fit(fitted)
    with pytest.raises(ValueError, match="same meridians in another convention") as error:
        vectorizer.transform(data)
    advice = str(error.value).split("convention: ")[1].rstrip(".")
    turned = eval(advice, {"data": data, "fitted": fitted})
    assert_array_equal(vectorizer.transform(turned), vectorizer.transform(fitted))


def test_other_variables_are_refused():
    vectorizer = GridVectorizer().fit(two_variables())
    with pytest.raises(ValueError, match=r"the variables differ: fitted on \['sst', 'ssh'\]"):
        vectorizer.transform(two_variables().rename(ssh="ice"))
    flat = two_variables().assign(nino=("time", np.zeros(48)))
    with pytest.raises(ValueError, match=r"'nino' has the dimensions \('time',\)"):
        GridVectorizer().fit(flat)


def test_the_last_digits_of_float32_are_no_other_grid():
    lon = np.arange(12) * 0.1
    field = xr.DataArray(np.ones((2, 12)), {"time": [0, 1], "lon": lon}, ["time", "lon"])
    vectorizer = GridVectorizer().fit(field)
    vectorizer.transform(field.assign_coords(lon=lon.astype(np.float32)))


@pytest.mark.parametrize(
    ("data", "params", "message"),
    [
        (make_field().rename(time="run").drop_vars("run"), {}, "ambiguous dimension: none of"),
        (make_field(), {"sample_dim": "member"}, "sample_dim='member' is no dimension"),
        (make_field(), {"channel_dim": "time"}, "channel_dim='time' must be a dimension beside"),
        (two_variables(), {"channel_dim": "lat"}, "is for a DataArray"),
        (make_field() * np.nan, {}, "no cell is valid: all 12 are missing in every sample"),
        (make_field().where(False, np.inf), {}, "'sst' has infinite values, 576 of 576"),
        (make_field().isel(time=slice(0)), {}, "there is no sample"),
        (make_field().astype(str), {}, "'sst' must hold numbers"),
        (make_field()[:, 0, 0], {}, "needs one of cells"),
    ],
)
def test_bad_fields(data, params, message):
    with pytest.raises(ValueError, match=message):
        GridVectorizer(**params).fit(data)


def test_inverse_transform_refuses_other_shapes():
    field = make_field()
    vectorizer = GridVectorizer().fit(field)
    with pytest.raises(ValueError, match=r"layout='features' gives is \(n_samples, 9\)"):
        vectorizer.inverse_transform(np.zeros((2, 12)))
    with pytest.raises(ValueError, match="like has 48 samples along 'time', but there are 2"):
        vectorizer.inverse_transform(np.zeros((2, 9)), like=field)


@pytest.mark.parametrize("layout", ["features", "grid"])
def test_a_single_map_comes_back_by_a_name_of_its_own(layout):
    """Skill is no temperature: it has neither the name and units of the data nor its samples."""
    field = make_field().assign_attrs(units="degC", long_name="SST")
    vectorizer = GridVectorizer(layout=layout).fit(field)
    skill = vectorizer.transform(field)[0]
    found = vectorizer.inverse_transform(skill, name="skill")
    assert found.name == "skill"
    assert found.dims == ("lat", "lon")
    assert not found.attrs
    assert found.lat.attrs == field.lat.attrs
    assert_array_equal(found, field[0])
    as_data = vectorizer.inverse_transform(skill)
    assert as_data.dims == ("lat", "lon")
    assert as_data.attrs == field.attrs
    several = vectorizer.inverse_transform(skill[np.newaxis], like=field[:1], name="skill")
    assert several.dims == field.dims
    assert not several.attrs
    with pytest.raises(ValueError, match=r"no sample of like: leave like out, or pass X\[np"):
        vectorizer.inverse_transform(skill, like=field[:1])


def test_a_single_map_of_variables_and_of_arrays():
    data = make_field().assign_attrs(units="degC").to_dataset().assign_attrs(title="a file")
    data["ssh"] = (2 * data.sst).assign_attrs(units="m")
    vectorizer = GridVectorizer().fit(data)
    found = vectorizer.inverse_transform(vectorizer.transform(data)[0] > 0, name="fact")
    assert list(found) == ["sst", "ssh"]
    assert found.ssh.dims == ("lat", "lon")
    assert not found.attrs
    assert not found.ssh.attrs
    assert_array_equal(found.sst.isnull(), LAND)
    of_array = GridVectorizer().fit(make_field().values)
    assert of_array.inverse_transform(np.ones(9), name="fact").shape == (3, 4)


def test_write_says_how_to_write_what_skill_map_found(tmp_path):
    found = SimpleNamespace(skill=np.ones(9))
    with pytest.raises(TypeError, match=r"inverse_transform\(found.skill, name='skill'\)"):
        write(found, tmp_path / "skill.nc")


def test_dask_gives_the_same():
    data = two_variables()
    eager, lazy = (GridVectorizer().fit(d) for d in (data, data.chunk(time=10, lat=2)))
    assert_array_equal(lazy.transform(data.chunk(time=7)), eager.transform(data))
    assert lazy.mask_.chunks is None


def test_survives_pickle_and_cross_validation():
    field = make_field()
    y = (field[:, 0, 0] > field[:, 0, 0].mean()).values
    pipeline = make_pipeline(AnomalyTransformer(), GridVectorizer(), LogisticRegression())
    assert len(cross_val_score(pipeline, field, y, cv=3)) == 3
    pipeline.fit(field, y)
    copy = pickle.loads(pickle.dumps(pipeline))
    assert_array_equal(copy.predict_proba(field), pipeline.predict_proba(field))


# --- AnomalyTransformer -----------------------------------------------------------------------


def plain_anomalies(train, test, month, month_test, *, ref, detrend, standardize, cap, t, t_test):
    """Rewrite the anomalies cell by cell, the trend by least squares on months and time."""
    result = np.full(test.shape, np.nan)
    for i, j in np.ndindex(test.shape[1:]):
        x, slope = train[:, i, j], 0.0
        if np.isnan(x).all():
            continue
        if detrend:
            ok = ~np.isnan(x)
            design = np.column_stack([month[ok, None] == np.unique(month), t[ok]])
            slope = np.linalg.lstsq(design, x[ok], rcond=None)[0][-1]
        middle = t[ref].mean()
        flat = x - slope * (t - middle)
        for k in range(len(test)):
            group = flat[ref & (month == month_test[k])]
            value = test[k, i, j] - slope * (t_test[k] - middle) - np.nanmean(group)
            result[k, i, j] = value / np.nanstd(group) if standardize else value
    return result if cap is None else np.clip(result, -cap, cap)


@pytest.mark.parametrize(
    ("calendar", "climatology", "reference", "detrend", "standardize", "cap"),
    [
        (None, "month", None, False, False, None),
        (None, "month", ("1981", "1983-12"), True, False, None),
        (None, "month", ("1981", "1983-12"), True, True, 1.0),
        (None, "month", None, True, True, None),
        (None, None, ("1981", "1983-12"), True, True, None),
        (None, None, None, False, True, 0.5),
        ("noleap", "month", ("1981", "1983-12"), True, True, None),
        ("360_day", None, None, True, False, None),
    ],
)
def test_anomalies_as_rewritten(calendar, climatology, detrend, standardize, cap, reference):
    field = make_field(72, calendar=calendar)
    field[7, 0, 0] = field[20, 2, 2] = np.nan
    train, test = field[:60], field[50:]
    transformer = AnomalyTransformer(
        climatology=climatology,
        reference=reference,
        detrend=detrend,
        standardize=standardize,
        cap=cap,
    ).fit(train)
    found = transformer.transform(test)

    times = [(d.year, d.month) for d in field.indexes["time"]]
    month = np.array([m if climatology else 0 for _, m in times])
    year = np.array([y for y, _ in times])
    t = field.indexes["time"]
    t = np.array([(d - t[0]).total_seconds() for d in t]) / 86400
    inside = (year[:60] >= 1981) & (year[:60] <= 1983)
    ref = inside if reference else np.ones(60, dtype=bool)
    expected = plain_anomalies(
        train.values,
        test.values,
        month[:60],
        month[50:],
        ref=ref,
        detrend=detrend,
        standardize=standardize,
        cap=cap,
        t=t[:60],
        t_test=t[50:],
    )
    assert_allclose(found.values, expected, rtol=0, atol=1e-9)
    assert found.dims == test.dims
    assert found.attrs == {**test.attrs, "units": "1" if standardize else "K"}
    assert test.attrs["units"] == "K"
    if cap is None:
        xr.testing.assert_allclose(transformer.inverse_transform(found), test, rtol=1e-12)
        assert transformer.inverse_transform(found).attrs == test.attrs


def test_variables_in_another_order_get_their_own_attributes_back():
    time = xr.date_range("1999-01-01", periods=24, freq="MS")
    values = np.random.default_rng(0).normal(size=(2, 24))
    fields = xr.Dataset(
        {
            "t2m": ("time", values[0], {"units": "K"}),
            "pr": ("time", values[1], {"units": "mm"}),
        },
        {"time": time},
    )
    transformer = AnomalyTransformer().fit(fields)
    back = transformer.inverse_transform(transformer.transform(fields)[["pr", "t2m"]])
    assert list(back) == ["pr", "t2m"]
    assert back["t2m"].attrs == {"units": "K"}
    assert back["pr"].attrs == {"units": "mm"}
    xr.testing.assert_allclose(back, fields)


def test_days_of_the_year_with_leap_years():
    time = xr.date_range("1999-01-01", "2004-12-31", freq="D")
    values = np.random.default_rng(0).normal(size=time.size)
    series = xr.DataArray(values, {"time": time}, name="x")
    found = AnomalyTransformer(climatology="dayofyear").fit_transform(series)
    day = np.array(["02-28" if d == "02-29" else d for d in time.strftime("%m-%d")])
    expected = values.copy()
    for one in np.unique(day):
        expected[day == one] -= values[day == one].mean()
    assert_allclose(found, expected, atol=1e-12)
    assert (day == "02-28").sum() == 8


def test_anomalies_in_dask_stay_lazy():
    data = two_variables().astype(np.float32)
    params = {"detrend": True, "standardize": True, "cap": 2.0}
    eager, lazy = AnomalyTransformer(**params), AnomalyTransformer(**params)
    chunked = data.chunk(time=7, lat=2)
    expected, found = eager.fit_transform(data), lazy.fit_transform(chunked)
    assert lazy.mean_.chunks == {}
    assert found.chunks
    assert found.sst.chunks == chunked.sst.chunks
    assert found.ssh.dtype == np.float32
    assert found.ssh.dims == data.ssh.dims
    xr.testing.assert_allclose(found.compute(), expected, rtol=1e-5)


def test_a_constant_cell_is_divided_by_one():
    field = make_field()
    field[:, 0, 0] = 271.35
    found = AnomalyTransformer(standardize=True, detrend=True).fit_transform(field)
    assert_allclose(found[:, 0, 0], 0, atol=1e-9)


def test_what_is_learnt_is_that_of_fit():
    field = make_field(60)
    transformer = AnomalyTransformer().fit(field[:48])
    shifted = transformer.transform(field[48:] + 3)
    assert_allclose(
        shifted - transformer.transform(field[48:]),
        np.where(LAND, np.nan, 3)[None] * np.ones((12, 1, 1)),
    )


@pytest.mark.parametrize(
    ("data", "params", "message"),
    [
        (make_field().assign_coords(time=np.arange(48.0)), {}, "has no calendar: .*decode_cf"),
        (make_field().drop_vars("time"), {}, "The dimension 'time' has no coordinate"),
        (make_field().rename(time="run").drop_vars("run"), {}, "data has no time coordinate"),
        (make_field(), {"reference": ("1950", "1960")}, "runs from 1980-02-01 to 1984-01-01"),
        (make_field(), {"reference": 1980}, "reference must be None or a pair"),
        (make_field(), {"reference": ("x", "y")}, "cannot be compared"),
        (make_field(12), {"standardize": True}, "at least 2 samples of each month"),
        (make_field().astype(str), {}, "must hold numbers over 'time'.* none of them does"),
        (
            two_variables().assign(bounds=("lat", LAT)),
            {},
            r"'bounds' must hold numbers.*data\[\['sst', 'ssh'\]\]",
        ),
        (make_field()[0], {}, "'time' is a single value.* select with a list"),
        (make_field(12), {"detrend": True}, "at least 2 samples of some month"),
        (
            make_field().assign_coords(
                time=make_field().time.where(np.arange(48) != 3, np.datetime64("NaT", "ns"))
            ),
            {},
            r"has no date \(NaT\) at the position 3, one of 1: leave",
        ),
        (
            make_field()
            .rename(time="run")
            .drop_vars("run")
            .assign_coords(date=("run", make_field().time.values)),
            {},
            r"'date' lies along 'run' .*: make it one, data.swap_dims\(run='date'\)",
        ),
        (
            make_field().stack(sample=["time"]),
            {},
            "'time' lies along 'sample' .*: stack with create_index=False and make it one",
        ),
    ],
)
def test_bad_times(data, params, message):
    with pytest.raises(ValueError, match=message):
        AnomalyTransformer(**params).fit(data)


def test_anomalies_of_what_was_not_fitted():
    field = make_field()
    transformer = AnomalyTransformer(detrend=True).fit(field[field.time.dt.month != 1])
    with pytest.raises(ValueError, match="month 1 was not in the reference period"):
        transformer.transform(make_field()[11:])
    with pytest.raises(ValueError, match=r"the calendar of 'time' was .* got 'noleap'"):
        transformer.transform(make_field(11, calendar="noleap"))
    with pytest.raises(ValueError, match="the grid differs: lat"):
        transformer.transform(make_field().sortby("lat", ascending=False))
    with pytest.raises(TypeError, match="needs an xarray"):
        AnomalyTransformer().fit(np.zeros((3, 4)))


def test_a_pipeline_with_anomalies_has_names_and_pandas_output():
    field = make_field()
    pipeline = make_pipeline(AnomalyTransformer(), GridVectorizer(), StandardScaler())
    found = pipeline.set_output(transform="pandas").fit_transform(field)
    names = GridVectorizer().fit(field).get_feature_names_out().tolist()
    assert found.columns.tolist() == names
    assert pipeline.get_feature_names_out().tolist() == names
    assert pipeline[0].get_feature_names_out().tolist() == ["sst"]
    assert isinstance(pipeline[0].transform(field), xr.DataArray)
    both = AnomalyTransformer().fit(two_variables()).get_feature_names_out()
    assert both.tolist() == ["sst", "ssh"]


def test_years_of_a_reference_are_numbers_too():
    expected = AnomalyTransformer(reference=("1981", "1982")).fit(make_field())
    for years in ((1981, 1982), tuple(np.arange(1981, 1983))):
        found = AnomalyTransformer(reference=years).fit(make_field())
        xr.testing.assert_identical(found.mean_, expected.mean_)


def test_times_of_a_shuffled_fold():
    field = make_field()
    order = np.random.default_rng(0).permutation(48)
    params = {"reference": ("1981", "1982"), "detrend": True}
    straight, shuffled = AnomalyTransformer(**params), AnomalyTransformer(**params)
    expected = straight.fit(field).transform(field)
    found = shuffled.fit(field[order]).transform(field)
    xr.testing.assert_allclose(found, expected)
