"""Coordinates of pandas' types and of several levels, and chunks of several kinds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sklearn.pipeline import make_pipeline

from sklrp import MLPClassifier
from sklrp.geo import AnomalyTransformer, GridVectorizer, box_mask, composites, explain, write

N = 24
DATES = pd.date_range("2000-01-01", periods=N, freq="MS")
SPACE = {
    "interval": pd.interval_range(0, 15, 3),
    "period": pd.period_range("2000", periods=3, freq="Y"),
    "categorical": pd.CategoricalIndex(["a", "b", "c"]),
    "time zone": pd.date_range("2000", periods=3, tz="UTC"),
    "nullable": pd.Index(pd.array([1, 2, 3], dtype="Int64")),
}
TIMES = {
    "interval": pd.interval_range(0, N),
    "period": pd.period_range("2000-01", periods=N, freq="M"),
    "categorical": pd.CategoricalIndex([str(i) for i in range(N)]),
    "time zone": DATES.tz_localize("UTC"),
    "levels": pd.MultiIndex.from_product([[2000, 2001], range(1, 13)], names=["year", "month"]),
}


def make_field(**coords):
    values = np.random.default_rng(0).normal(size=(N, 3, 4))
    known = {"time": DATES, "lat": [0.0, 5, 10], "lon": [0.0, 5, 10, 15], **coords}
    field = xr.DataArray(values, {k: v for k, v in known.items() if k not in coords},
                         ("time", "lat", "lon"), name="sst")  # fmt: skip
    for dim, index in coords.items():
        if isinstance(index, pd.MultiIndex):
            field = field.assign_coords(xr.Coordinates.from_pandas_multiindex(index, dim))
        else:
            field = field.assign_coords({dim: index})
    return field


def explain_all(field, lazy=None):
    model = make_pipeline(GridVectorizer(), MLPClassifier((3,), max_epochs=1, random_state=0))
    model.fit(field, np.arange(N) % 2)
    return explain(model, field if lazy is None else lazy)


RIGHT = explain_all(make_field())


@pytest.mark.sweep(4)
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    ("dim", "index"), [*(("lat", k) for k in SPACE), *(("time", k) for k in TIMES)]
)
def test_types_of_pandas(dim, index, lazy):
    field = make_field(**{dim: (SPACE if dim == "lat" else TIMES)[index]})
    relevance = explain_all(field, field.chunk(time=6) if lazy else None)
    np.testing.assert_allclose(relevance.values, RIGHT.values, rtol=1e-12, atol=1e-15)
    assert relevance.indexes[dim].equals(field.indexes[dim])
    mean = composites(relevance, np.arange(N) % 2, np.arange(N) % 2)["mean"]
    np.testing.assert_allclose(mean[1].values, RIGHT.values[1::2].mean(0), rtol=1e-12)


@pytest.mark.parametrize("index", SPACE)
def test_anomalies_with_types_of_pandas(index):
    found = AnomalyTransformer().fit_transform(make_field(lat=SPACE[index]))
    right = AnomalyTransformer().fit_transform(make_field())
    np.testing.assert_array_equal(found.values, right.values)
    with pytest.raises(ValueError, match=r"'lat' must hold numbers of degrees.*centres of cells"):
        box_mask(make_field(lat=SPACE[index]), lat=(0, 5))


def test_dates_of_pandas_types():
    for index, remedy in (
        ("period", "to_timestamp"),
        ("time zone", "tz_localize"),
        ("interval", ""),
    ):
        with pytest.raises(ValueError, match=f"of pandas' type .*plain dates.*{remedy}"):
            AnomalyTransformer().fit(make_field(time=TIMES[index]))


def test_bins():
    bins = make_field().groupby_bins("lat", [-1, 3, 7, 11]).mean()
    assert GridVectorizer().fit_transform(bins).shape == (N, 12)
    np.testing.assert_allclose(explain_all(bins.transpose("time", ...)).values, RIGHT.values)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("lazy", [False, True])
def test_cells_of_several_levels(lazy, both):
    field = make_field()
    right = explain_all(field.stack(cell=("lat", "lon")).drop_vars(["cell", "lat", "lon"]))
    levels = make_field(time=TIMES["levels"]) if both else field
    stacked = levels.stack(cell=("lat", "lon"))
    relevance = explain_all(stacked, stacked.chunk(time=5, cell=7) if lazy else None)
    np.testing.assert_allclose(relevance.values, right.values, rtol=1e-12)
    assert relevance.indexes["cell"].equals(stacked.indexes["cell"])
    assert relevance.indexes["time"].equals(stacked.indexes["time"])
    one_class = relevance.sel(lat=5.0)
    np.testing.assert_allclose(one_class.values, RIGHT.values[:, 1], rtol=1e-12)


CHUNKS = {
    "several": lambda f: xr.Dataset({"a": f.chunk(time=6), "b": -f.chunk(time=8, lat=2)}),
    "one in memory": lambda f: xr.Dataset({"a": f.chunk(time=6), "b": -f}),
}


@pytest.mark.parametrize("kind", CHUNKS)
def test_chunks_of_several_kinds(kind, tmp_path):
    field = make_field()
    lazy, whole = CHUNKS[kind](field), xr.Dataset({"a": field, "b": -field})
    for transformer in (
        AnomalyTransformer(detrend=True, standardize=True),
        AnomalyTransformer(climatology=None),
    ):
        found = transformer.fit(lazy).transform(lazy)
        xr.testing.assert_allclose(found.compute(), transformer.fit(whole).transform(whole))
    relevance = explain_all(whole, lazy)
    assert relevance["a"].chunks
    xr.testing.assert_allclose(relevance.compute(), explain_all(whole))
    write(lazy, tmp_path / "fields.nc")
    xr.testing.assert_allclose(xr.load_dataset(tmp_path / "fields.nc"), whole)
