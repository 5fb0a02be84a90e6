"""Where cells are: metrics by coordinates, and coordinates that are no degrees."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from sklrp import MLPClassifier, metrics
from sklrp.geo import (
    box_mask,
    box_mean,
    box_share,
    box_sum,
    cosine_weights,
    pattern_correlation,
    select_box,
)
from sklrp.geo.places import find_degrees, put_in_order, samples_first
from sklrp.metrics.similarity import compare_maps

LAT, LON = np.array([-30.0, 0.0, 30.0]), np.array([0.0, 90.0, 180.0, 270.0])


@pytest.fixture
def maps():
    values = np.random.default_rng(0).uniform(size=(5, 3, 4))
    coords = {"time": np.arange(5), "lat": LAT, "lon": LON}
    return xr.DataArray(values, coords, name="relevance")


@pytest.fixture
def mask(maps):
    return box_mask(maps, lat=(-40, 10), lon=(80, 190))


ORDERS = {
    "latitude reversed": lambda d: d.sortby("lat", ascending=False),
    "longitude from -180": lambda d: d.assign_coords(lon=(d.lon + 180) % 360 - 180).sortby("lon"),
    "turned": lambda d: d.transpose("lon", "lat", ...),
    "other names": lambda d: d.rename(lat="latitude", lon="longitude"),
    "float32": lambda d: d.assign_coords(lat=d.lat.astype(np.float32)).sortby(-d.lon),
    "all": lambda d: d.sortby("lat", ascending=False).sortby(-d.lon).transpose("lon", "lat", ...),
    "a dimension of length 1": lambda d: d.sortby(-d.lat).expand_dims("height"),
}


@pytest.mark.parametrize("order", ORDERS)
def test_masks_and_weights_are_put_in_place(maps, mask, order):
    area = np.broadcast_to(np.cos(np.radians(LAT))[:, None], (3, 4))
    inside = mask.values
    turn = ORDERS[order]
    weights = xr.DataArray(area, mask.coords, mask.dims)
    right = (maps.values * inside).sum((1, 2)) / maps.values.sum((1, 2))
    weighed = (maps.values * area * inside).sum((1, 2)) / (maps.values * area).sum((1, 2))
    np.testing.assert_allclose(metrics.relevance_mass(maps, turn(mask)), right)
    np.testing.assert_allclose(
        metrics.relevance_mass(maps, turn(mask), weights=turn(weights)), weighed
    )
    np.testing.assert_array_equal(
        metrics.relevance_rank(maps, turn(mask)), metrics.relevance_rank(maps.values, inside)
    )
    np.testing.assert_allclose(
        metrics.relevance_mass(turn(maps), mask),  # the maps in another order
        right,
    )


def test_the_issue(maps):
    relevance = xr.zeros_like(maps)
    relevance.loc[{"lat": 30.0}] = 1
    mask = box_mask(maps, lat=(20, 40)).sortby("lat", ascending=False)
    assert metrics.relevance_mass(relevance, mask).tolist() == [1.0] * 5


def test_weights_of_rows(maps, mask):
    area = np.cos(np.radians(LAT))[:, None]
    right = (maps.values * area * mask.values).sum((1, 2)) / (maps.values * area).sum((1, 2))
    rows = cosine_weights(maps.sortby("lat", ascending=False))
    np.testing.assert_allclose(metrics.relevance_mass(maps, mask, weights=rows), right)


def test_masks_of_each_sample(maps, mask):
    masks = mask.expand_dims(time=maps.time).copy()
    masks[1] = ~masks[1]
    right = (maps.values * masks.values).sum((1, 2)) / maps.values.sum((1, 2))
    for given in (masks[::-1], masks.transpose("lat", "time", "lon"), masks[::-1, ::-1, ::-1]):
        np.testing.assert_allclose(metrics.relevance_mass(maps, given), right)


def test_other_places_are_refused(maps, mask):
    for wrong, match in (
        (mask.assign_coords(lat=LAT + 1), "mask has other latitudes"),
        (mask.isel(lat=slice(2)), "mask has other latitudes"),
        (mask.drop_vars("lat").isel(lat=slice(2)), "2 positions along 'lat', the maps 3"),
        (mask.expand_dims(level=[1, 2]), r"mask has the dimensions \('level', 'lat', 'lon'\)"),
        (mask.drop_vars(["lat", "lon"]).rename(lat="row", lon="column"), "rename them"),
        (mask.expand_dims(time=[9, 8, 7, 6, 5]), "other coordinates along 'time'"),
    ):
        with pytest.raises(ValueError, match=match):
            metrics.relevance_mass(maps, wrong)


def test_without_coordinates(maps, mask):
    right = metrics.relevance_mass(maps.values, mask.values)
    for given in (mask.values, xr.DataArray(mask.values), mask.drop_vars("lat")):
        np.testing.assert_array_equal(metrics.relevance_mass(maps, given), right)
    np.testing.assert_array_equal(metrics.relevance_mass(maps.values, mask), right)
    turned = mask.drop_vars(["lat", "lon"]).transpose("lon", "lat")  # the names say the order
    np.testing.assert_array_equal(metrics.relevance_mass(maps, turned), right)


def test_samples_need_not_come_first(maps, mask):
    last = maps.transpose("lat", "lon", "time")
    np.testing.assert_array_equal(samples_first(last), maps)
    np.testing.assert_array_equal(metrics.sparseness(last), metrics.sparseness(maps))
    np.testing.assert_array_equal(
        metrics.relevance_mass(last, mask), metrics.relevance_mass(maps, mask)
    )
    score = maps.sum(["lat", "lon"])
    assert metrics.conservation_error(last, score[::-1]).max() < 1e-12


def test_other_metrics(maps):
    np.testing.assert_allclose(compare_maps(maps, maps[:, ::-1]), 1)
    assert put_in_order(maps[:, ::-1], maps, "x").identical(maps)
    clf = MLPClassifier((4,), max_epochs=2, random_state=0).fit(maps, [0, 1, 0, 1, 1])
    relevance = maps.copy(data=clf.explain(maps))
    for grade in (
        lambda r: metrics.pixel_flipping_score(clf, maps, r, random_state=0),
        lambda r: metrics.faithfulness_correlation(clf, maps, r, random_state=0),
    ):
        np.testing.assert_array_equal(grade(relevance[::-1, ::-1]), grade(relevance.values))


# Coordinates that are no degrees


def make_field(lat, lon, lat_attrs=None, lon_attrs=None):
    values = np.random.default_rng(1).uniform(size=(len(lat), len(lon)))
    coords = {"lat": ("lat", lat, lat_attrs or {}), "lon": ("lon", lon, lon_attrs or {})}
    return xr.DataArray(values, coords, ("lat", "lon"))


GLOBE = np.arange(-87.5, 90, 5.0), np.arange(2.5, 360, 5.0)
RADIANS = {"units": "radians"}


@pytest.mark.parametrize("units", ["radians", "radian", "rad"])
@pytest.mark.parametrize("marked", [True, False])
def test_radians_are_converted(units, marked):
    names = [{"standard_name": n} if marked else {} for n in ("latitude", "longitude")]
    attrs = [{"units": units, **name} for name in names]
    degrees = make_field(*GLOBE)
    field = make_field(*map(np.radians, GLOBE), *attrs)
    box = {"lat": (-5, 5), "lon": (190, 240)}
    np.testing.assert_array_equal(box_mask(field, **box), box_mask(degrees, **box))
    assert box_mask(degrees, **box).values.sum() == 20
    for function in (box_mean, box_sum, box_share):
        assert float(function(field, **box)) == pytest.approx(float(function(degrees, **box)))
    np.testing.assert_allclose(cosine_weights(field), cosine_weights(degrees))
    np.testing.assert_allclose(cosine_weights(field.lat), np.cos(np.radians(GLOBE[0])))
    part, right = (select_box(f, lon=(-20, 20)) for f in (field, degrees))
    np.testing.assert_array_equal(part, right)
    np.testing.assert_allclose(np.degrees(part.lon), right.lon)
    for found, known in zip(find_degrees(field), GLOBE, strict=True):
        np.testing.assert_allclose(found, known)


NOT_DEGREES = {
    "indices": (make_field(np.arange(18), np.arange(30)), "look like the numbers of cells"),
    "indices of floats": (make_field(np.arange(18.0), np.arange(30.0)), "numbers of cells"),
    "indices from 1": (make_field(np.arange(1, 19), np.arange(1, 31)), "numbers of cells"),
    "indices downward": (make_field(np.arange(18)[::-1], np.arange(30)), "numbers of cells"),
    "many indices": (make_field(np.arange(180), np.arange(360)), r"latitudes must be in \[-90"),
    "radians": (make_field(*map(np.radians, GLOBE)), "look like radians"),
    "radians of a Gaussian grid": (
        make_field(np.linspace(-1.5432, 1.5432, 64), np.linspace(0, 6.234, 128)),
        "look like radians",
    ),
    "metres": (make_field(np.arange(3) * 1e5, np.arange(4) * 1e5), "are they metres"),
    "metres of longitude": (make_field(LAT, np.arange(4) * 1e5), r"\[-720, 720\] degrees"),
    "metres that say so": (
        make_field(LAT, LON, {"standard_name": "latitude", "units": "m"}),
        "'lat' is in 'm', which is no latitude",
    ),
    "kilometres": (
        make_field(LAT, LON, None, {"standard_name": "longitude", "units": "km"}),
        "'lon' is in 'km', which is no longitude",
    ),
    "exchanged units": (
        make_field(LAT, LON, {"standard_name": "latitude", "units": "degrees_east"}),
        "'lat' is in 'degrees_east', which is no latitude",
    ),
    "NaN": (make_field([-30, np.nan, 30], LON), "got nan in 'lat'"),
}


@pytest.mark.parametrize("name", NOT_DEGREES)
def test_what_is_no_degrees_is_refused(name):
    field, match = NOT_DEGREES[name]
    for function in (box_mask, box_mean, box_sum, box_share, select_box):
        with pytest.raises(ValueError, match=match):
            function(field, lat=(0, 10), lon=(0, 10))
    with pytest.raises(ValueError, match=match):
        pattern_correlation(field, field)
    if ("lat" in match or "look like" in match) and "Gaussian" not in name:
        with pytest.raises(ValueError, match=match.split(" of ")[0].removeprefix("look like")):
            cosine_weights(field)


def test_what_says_that_it_is_degrees_is_believed():
    north, east = {"units": "degrees_north"}, {"units": "degrees_east"}
    field = make_field(np.arange(18), np.arange(30), north, east)
    assert box_mask(field, lat=(0, 5), lon=(0, 5)).values.sum() == 36
    assert cosine_weights(field).values[17] == pytest.approx(np.cos(np.radians(17)))
    small = make_field(np.linspace(-1, 1, 5), np.linspace(0, 6, 7))
    assert box_mask(small, lat=(0, 1), lon=(0, 6)).values.sum() == 21


def test_the_longitude_has_no_weights():
    lon = xr.DataArray(LON[:2], {"lon": LON[:2]}, name="lon")
    with pytest.raises(ValueError, match="'lon' is the longitude, but latitudes are needed"):
        cosine_weights(lon)


@pytest.mark.parametrize(
    ("lat", "looks"),
    [
        (np.radians(np.linspace(-87.5, 87.5, 36)), "radians"),
        (np.arange(36), "the numbers of cells"),
        (list(range(36, 0, -1)), "the numbers of cells"),
    ],
)
def test_latitudes_of_an_array_that_are_no_degrees_are_refused(lat, looks):
    with pytest.raises(ValueError, match=f"lat looks like {looks}"):
        cosine_weights(lat)


def test_latitudes_of_an_array_in_degrees():
    lat = np.linspace(-87.5, 87.5, 36)
    np.testing.assert_allclose(
        cosine_weights(np.degrees(np.radians(lat))), np.cos(np.radians(lat))
    )
    rows = xr.DataArray(np.arange(3.0), dims="lat", name="lat", attrs={"units": "degrees_north"})
    np.testing.assert_allclose(cosine_weights(rows), np.cos(np.radians([0.0, 1.0, 2.0])))
