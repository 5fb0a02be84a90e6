"""Values that cannot be data: masked where the field is known, refused elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from sklearn.pipeline import make_pipeline

import sklrp
from sklrp import MLPClassifier
from sklrp.datasets import load_enso
from sklrp.geo import AnomalyTransformer, GridVectorizer

N = 36
TIME = np.arange("2000-01", "2003-01", dtype="datetime64[M]").astype("datetime64[ns]")
SENTINELS = [-1000.0, -9999.0, -999.0, -99.99, 1e20, 9.969209968386869e36, 32767.0, 999.0]


def make_field(units="degC", offset=0.0):
    rng = np.random.default_rng(0)
    lat, lon = np.arange(-10.0, 11, 5), np.arange(180.0, 260, 10)
    season = 3 * np.sin(np.arange(N) * np.pi / 6)[:, None, None]
    values = 20 + season + rng.normal(size=(N, 5, 8)) + offset
    coords = {"time": TIME, "lat": lat, "lon": lon}
    return xr.DataArray(values, coords, name="sst", attrs={"units": units})


def with_ice(field, value):
    """Return a field in which a corner is marked in some winters."""
    return field.where(
        ~((field.lat == 10) & (field.lon == 250) & (field.time.dt.month < 4)), value
    )


@pytest.mark.sweep(6)
@pytest.mark.parametrize("units", ["degC", "K", "unknown"])
@pytest.mark.parametrize("value", [*SENTINELS, 327.67])
@pytest.mark.parametrize("lazy", [False, True])
def test_enso_masks_what_no_temperature_is(units, value, lazy):
    if units == "K" and value == 327.67:
        pytest.skip("a temperature in kelvins")
    field = make_field(units, 273.15 if units == "K" else 0.0)
    marked, gaps = with_ice(field, value), with_ice(field, np.nan)
    if lazy:
        marked = marked.chunk(time=6)
    found, right = (load_enso(f.to_dataset(), base_period=None) for f in (marked, gaps))
    xr.testing.assert_allclose(found.data.compute(), right.data)
    np.testing.assert_allclose(found.index, right.index)
    assert np.isnan(found.data.values[:, -1, -1]).any()
    assert float(abs(found.data).max()) < 5
    np.testing.assert_array_equal(found.target, right.target)


def test_enso_keeps_temperatures():
    field = make_field()
    field[0, 0, 0], field[1, 0, 0] = -1.8, -90.0  # sea ice, and the coldest place
    found = load_enso(field.to_dataset(), base_period=None, neutral=True).sst
    np.testing.assert_array_equal(found, field)


def test_enso_refuses_fahrenheit():
    with pytest.raises(ValueError, match="'sst' is in 'degF': convert it to degrees Celsius"):
        load_enso(make_field("degF").to_dataset())


def test_enso_refuses_times_twice():
    field = make_field()
    with pytest.raises(
        ValueError, match=r"1 times more than once, the first 2000-01-01.*drop_dup"
    ):
        load_enso(xr.concat([field, field[:1]], "time").to_dataset(), base_period=None)


@pytest.mark.sweep(10)
@pytest.mark.parametrize("units", ["degC", "K", "degrees_celsius", "Kelvin"])
@pytest.mark.parametrize("value", SENTINELS)
@pytest.mark.parametrize(
    "form", [lambda f: f, lambda f: f.to_dataset(), lambda f: f.chunk(time=6)]
)
def test_temperatures_are_checked(units, value, form):
    good, bad = form(make_field(units)), form(with_ice(make_field(units), value))
    match = r"'sst' has 9 values such as .* cannot be data.*data.where"
    if not isinstance(bad, xr.Dataset) and bad.chunks:
        match = r"'sst' has \d values such as .* cannot be data"
    for transformer in (AnomalyTransformer(cap=5), GridVectorizer()):
        with pytest.raises(ValueError, match=match):
            transformer.fit(bad)
        transformer.fit(good)
        with pytest.raises(ValueError, match=match):
            np.asarray(transformer.transform(bad))


@pytest.mark.parametrize("value", [1e20, 9.969209968386869e36, -1e30])
def test_fill_values_of_any_field(value):
    field = with_ice(make_field("m s-1"), value)
    for transformer, data in (
        (AnomalyTransformer(), field),
        (GridVectorizer(), field),
        (GridVectorizer(), field.values),
    ):
        with pytest.raises(ValueError, match=r"has 9 values such as .* be data in (any|m s)"):
            transformer.fit(data)
    big = make_field("Pa", 101325.0)  # no sentinel, whatever the number
    AnomalyTransformer().fit(big)


@pytest.mark.parametrize("values", [[np.inf], [-np.inf], [np.inf, -np.inf]])
@pytest.mark.parametrize("form", [lambda f: f, lambda f: f.to_dataset(), lambda f: f.chunk(6)])
def test_infinities_are_refused_before_anything_is_made_of_them(values, form):
    """NumPy would warn of their sums first, and anomalies would be NaN, as on land."""
    field = make_field("m s-1").astype(np.float32)
    marked = field.copy(deep=True)
    marked[3 : 3 + len(values), 2, 3] = values
    good, bad = form(field), form(marked)
    match = f"^'(sst|data)' has infinite values, {len(values)} of .*data.where"
    for transformer in (
        AnomalyTransformer(),
        AnomalyTransformer(climatology=None, standardize=True),
        AnomalyTransformer(detrend=True),
        GridVectorizer(),
        GridVectorizer(layout="grid", missing="fill"),
    ):
        with pytest.raises(ValueError, match=match):
            transformer.fit(bad)
        transformer.fit(good)
        with pytest.raises(ValueError, match=match):
            np.asarray(transformer.transform(bad))
    y = np.arange(N) % 2
    for steps in ([GridVectorizer()], [AnomalyTransformer(), GridVectorizer()]):
        model = make_pipeline(*steps, MLPClassifier((2,), max_epochs=1, random_state=0))
        model.fit(good, y)
        with pytest.raises(ValueError, match=match):
            sklrp.geo.explain(model, bad).compute()


@pytest.mark.parametrize("shape", [(9, 12), (9, 3, 4)])
def test_infinities_of_arrays_are_refused_without_a_warning(shape):
    X = np.zeros(shape)
    X[0], X[1] = np.inf, -np.inf
    with pytest.raises(ValueError, match="Input X contains infinity"):
        GridVectorizer().fit(X)
    with pytest.raises(ValueError, match="Input X contains infinity"):
        GridVectorizer().fit(np.zeros(shape)).transform(X)


def test_calendar_of_fit():
    pytest.importorskip("cftime")
    field = make_field()
    other = field.convert_calendar("noleap", use_cftime=True)
    days = field.convert_calendar("360_day", align_on="date", use_cftime=True)
    fitted = AnomalyTransformer().fit(field)
    for given, name in ((other, "noleap"), (days, "360_day")):
        with pytest.raises(ValueError, match=f"was 'proleptic_gregorian' in fit, got '{name}'"):
            fitted.transform(given)
        with pytest.raises(ValueError, match=r"convert_calendar\('proleptic_gregorian'\)"):
            fitted.inverse_transform(given)
    with pytest.raises(ValueError, match="was 'noleap' in fit"):
        AnomalyTransformer().fit(other).transform(field)
    standard = field.convert_calendar("standard", use_cftime=True)
    np.testing.assert_array_equal(fitted.transform(standard), fitted.transform(field))


@pytest.mark.parametrize("lazy", [False, True])
def test_enso_in_kelvins_whose_first_months_are_missing(lazy):
    field = make_field("K", 273.15)
    field = field.where(field.time >= field.time[2])
    field = field.chunk(time=6) if lazy else field
    with pytest.raises(ValueError, match=r"at 2000-01-01T\S+ \(and 1 other times\)"):
        load_enso(field.to_dataset())
    found = load_enso(field[2:].to_dataset(), base_period=None, neutral=True)
    assert np.isfinite(found.sst).all()


def test_potential_temperatures_of_the_stratosphere_are_data():
    field = make_field("K", 830.0).assign_attrs(long_name="Potential temperature")
    GridVectorizer().fit(field)
    with pytest.raises(ValueError, match="'sst' has 9 values such as 9999"):
        GridVectorizer().fit(with_ice(field, 9999.0).assign_attrs(field.attrs))
    for name in (None, "sea_water_potential_temperature"):
        with pytest.raises(ValueError, match="cannot be data in K"):
            GridVectorizer().fit(field.assign_attrs(long_name=name))


def test_infinite_anomalies_are_refused_on_the_way_back():
    field = make_field()
    transformer = AnomalyTransformer().fit(field)
    anomalies = transformer.transform(field).copy()
    anomalies[0, 0, 0] = np.inf
    with pytest.raises(ValueError, match="has infinite values, 1 of"):
        transformer.inverse_transform(anomalies)
