"""Labels that know which samples they are of, in everything that takes labels."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sklearn.pipeline import make_pipeline

import sklrp
from sklrp import MLPClassifier, RelevanceTransformer, metrics
from sklrp._matching import check_same_samples, match_samples
from sklrp.diagnostics import diagnose, skill_map
from sklrp.geo import AnomalyTransformer, GridVectorizer, composites, explain
from sklrp.plotting import RelevanceDisplay

N = 24
TIME = pd.date_range("2000-01-01", periods=N, freq="MS")


@pytest.fixture(scope="module")
def field():
    values = np.random.default_rng(0).normal(size=(N, 2, 3))
    return xr.DataArray(
        values, {"time": TIME, "lat": [0.0, 5.0], "lon": [0.0, 5.0, 10.0]}, name="sst"
    )


@pytest.fixture(scope="module")
def y(field):
    return (field[:, 0, 1] > 0).astype(int).drop_vars(["lat", "lon"])


@pytest.fixture(scope="module")
def clf(field, y):
    return MLPClassifier((4,), max_epochs=3, random_state=0).fit(field.values, y.values)


def shuffled(labels):
    order = np.random.default_rng(1).permutation(N)
    return labels.isel(time=order)


def moved(labels):
    return labels.assign_coords(time=TIME + pd.DateOffset(years=1))


def test_order_of_the_samples(field, y):
    assert match_samples(y, field, "y") is y
    for X in (field, field.to_dataset(name="sst"), field.transpose("lat", "time", "lon")):
        xr.testing.assert_identical(match_samples(shuffled(y), X, "y"), y)
    series = y.to_series()
    table = pd.DataFrame(field.values.reshape(N, -1), index=TIME)
    for X in (field, table):
        pd.testing.assert_series_equal(match_samples(series[::-1], X, "y"), series)
    xr.testing.assert_identical(match_samples(y[::-1], table, "y"), y)
    monthly = series.set_axis(series.index.to_period("M"))
    assert match_samples(monthly[::-1], table, "y").tolist() == series.tolist()
    months = field.assign_coords(time=TIME.to_period("M"))
    pd.testing.assert_series_equal(match_samples(series[::-1], months, "y"), series)


@pytest.mark.parametrize("calendar", ["noleap", "360_day"])
def test_dates_of_other_calendars_in_pandas(field, y, calendar):
    cftime = pytest.importorskip("cftime")
    dates = [cftime.datetime(2000 + k // 12, k % 12 + 1, 16, calendar=calendar) for k in range(N)]
    X = field.assign_coords(time=dates)
    for index in (dates, xr.CFTimeIndex(dates)):
        series = pd.Series(y.values, index=index)
        assert match_samples(series[::-1], X, "y").tolist() == y.values.tolist()
        with pytest.raises(ValueError, match="is of other samples than X, by its dates"):
            match_samples(series[1:], X, "y")
    pipeline = make_pipeline(GridVectorizer(), MLPClassifier((2,), max_epochs=1))
    with pytest.raises(ValueError, match="is of other samples than X"):
        pipeline.fit(X, series[::-1])
    with pytest.raises(ValueError, match="0 it has 2000-01-01, X 2000-01-16"):
        match_samples(y.to_series(), X, "y")


@pytest.mark.parametrize(
    "as_index",
    [
        lambda: TIME.strftime("%Y-%m-%d"),
        lambda: TIME.date,
        lambda: pd.CategoricalIndex(TIME),
        lambda: pd.CategoricalIndex(TIME.strftime("%Y-%m-%d")),
    ],
)
def test_dates_as_text_or_objects_in_pandas(field, y, as_index):
    series = pd.Series(y.values, index=as_index())
    for X in (field, pd.DataFrame(field.values.reshape(N, -1), index=as_index())):
        assert match_samples(series[::-1], X, "y").tolist() == y.values.tolist()
    stations = pd.Series(y.values, index=[f"s{k}" for k in range(N)])
    assert match_samples(stations[::-1], field, "y").tolist() == y.values.tolist()[::-1]


@pytest.mark.parametrize(
    "index",
    [
        TIME.tz_localize("UTC"),
        TIME.to_period("M"),
        pd.interval_range(0, N),
        pd.MultiIndex.from_product([[2000, 2001], range(1, 13)], names=["year", "month"]),
    ],
)
def test_types_of_pandas(field, y, index):
    def mark(data, index):
        data = data.drop_vars("time")
        if index.nlevels > 1:
            return data.assign_coords(xr.Coordinates.from_pandas_multiindex(index, "time"))
        return data.assign_coords(time=index)

    labels, X = mark(y, index), mark(field, index)
    assert match_samples(labels[::-1], X, "y").values.tolist() == y.values.tolist()
    with pytest.raises(ValueError, match="is of other samples"):
        match_samples(labels[1:], X, "y")


def test_by_position(field, y):
    """Labels, or samples, that do not know are taken as they come."""
    plain = y.drop_vars("time")
    assert match_samples(plain, field, "y") is plain
    assert match_samples(y, field.values, "y") is y
    numbered = y.to_series().reset_index(drop=True)
    assert match_samples(numbered[::-1], field, "y").tolist() == numbered.tolist()[::-1]
    other = y.rename(time="member").assign_coords(member=np.arange(N))
    assert match_samples(other, field, "y") is other
    assert match_samples("all", field, "target") == "all"
    assert match_samples(None, field, "target") is None


def test_others_are_refused(field, y):
    with pytest.raises(ValueError, match=r"y is of other samples.*0 it has 2001-01-01, X 2000-01"):
        match_samples(moved(y), field, "y")
    with pytest.raises(ValueError, match=r"it has 23 of them, X 24.*y.sel\(time=X.time\)"):
        match_samples(y[1:], field, "y")
    doubled = y.assign_coords(time=TIME[[0, *range(N - 1)]])
    with pytest.raises(ValueError, match="other samples"):
        match_samples(doubled, field, "y")
    with pytest.raises(ValueError, match=r"other samples than X, by its dates"):
        match_samples(moved(y).to_series(), field, "y")
    with pytest.raises(ValueError, match="other samples"):
        check_same_samples(shuffled(y), field, "y")
    check_same_samples(y, field, "y")


def test_classifiers_align(field, y, clf):
    weight = xr.ones_like(y, dtype=float) + np.arange(N)
    right = MLPClassifier((4,), max_epochs=3, random_state=0).fit(field, y, weight.values)
    again = MLPClassifier((4,), max_epochs=3, random_state=0)
    again.fit(field, shuffled(y), shuffled(weight))
    np.testing.assert_array_equal(again.explain(field), right.explain(field))
    target = clf.explain(field, target=y.values)
    np.testing.assert_array_equal(clf.explain(field, target=shuffled(y)), target)
    np.testing.assert_array_equal(sklrp.explain(clf, field, target=shuffled(y)), target)
    np.testing.assert_array_equal(
        sklrp.explain(clf.module_, field.values.reshape(N, -1), target=y),
        target.reshape(N, -1),
    )


@pytest.mark.parametrize("first", [GridVectorizer(), AnomalyTransformer()])
def test_pipelines_refuse(field, y, first):
    steps = [first] if isinstance(first, GridVectorizer) else [first, GridVectorizer()]
    pipeline = make_pipeline(*steps, MLPClassifier((4,), max_epochs=1, random_state=0))
    pipeline.fit(field, y)
    for labels in (shuffled(y), moved(y), moved(y).to_series()):
        with pytest.raises(ValueError, match="y is of other samples than X"):
            pipeline.fit(field, labels)


def test_geo_aligns(field, y):
    pipeline = make_pipeline(GridVectorizer(), MLPClassifier((4,), max_epochs=1, random_state=0))
    pipeline.fit(field, y)
    maps = explain(pipeline, field, target=y.values)
    np.testing.assert_array_equal(explain(pipeline, field, target=shuffled(y)), maps)
    right = composites(maps, y.values, y.values)
    np.testing.assert_array_equal(composites(maps, shuffled(y), y)["mean"], right["mean"])
    for call in (
        lambda: explain(pipeline, field, target=moved(y)),
        lambda: composites(maps, moved(y), y),
        lambda: composites(maps, y, moved(y)),
    ):
        with pytest.raises(ValueError, match="is of other samples than X"):
            call()


def test_everything_else_refuses(field, y, clf):
    wrong = moved(y)
    for call in (
        lambda: clf.fit(field, wrong),
        lambda: clf.partial_fit(field, wrong),
        lambda: RelevanceTransformer(clf).fit(field, wrong),
        lambda: diagnose(clf, field, wrong),
        lambda: diagnose(clf, field, y, X_train=field, y_train=wrong),
        lambda: skill_map(clf, field, wrong),
        lambda: skill_map(clf, field, y, groups=wrong),
        lambda: metrics.skill_mass(clf, field, wrong),
        lambda: metrics.max_sensitivity(clf, field, target=wrong),
        lambda: metrics.pixel_flipping_score(clf, field, field, target=wrong),
        lambda: RelevanceDisplay.from_estimator(clf, field, wrong),
        lambda: metrics.conservation_error(field, wrong),
    ):
        with pytest.raises(ValueError, match="is of other samples than X"):
            call()


def test_marks_that_cannot_be_compared_are_refused(field, y):
    cftime = pytest.importorskip("cftime")
    noleap = [cftime.DatetimeNoLeap(2000 + k // 12, k % 12 + 1, 1) for k in range(N)]
    others = {
        "at position 0 it has 0, X 2000-01-01": y.assign_coords(time=np.arange(N)),
        "at position 0 it has s0, X 2000-01-01": y.assign_coords(time=[f"s{k}" for k in range(N)]),
        "it has them as DatetimeNoLeap, X as Timestamp": y.assign_coords(time=noleap),
        "it has 0 of them, X 24": y[:0],
    }
    for said, labels in others.items():
        with pytest.raises(ValueError, match=f"y is of other samples than X, by time: {said}"):
            match_samples(labels, field, "y")
    with pytest.raises(ValueError, match="by its dates: it has 0 of them, X 24"):
        match_samples(y[:0].to_series(), field, "y")


def test_times_that_are_missing_in_both_are_the_same(field, y):
    gapped = TIME.where(np.arange(N) != 3)
    labels, X = y.assign_coords(time=gapped), field.assign_coords(time=gapped)
    assert match_samples(labels, X, "y") is labels
    xr.testing.assert_identical(match_samples(shuffled(labels), X, "y"), labels)
