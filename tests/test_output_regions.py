"""Targets in coordinates of a network's own output grid, against masks made by hand."""

import re

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.pipeline import make_pipeline
from skorch import NeuralNet, NeuralNetRegressor
from torch import nn

import sklrp
from sklrp import MLPRegressor
from sklrp.geo import GridVectorizer, box_mask, explain

LAT, LON = np.linspace(8.75, -8.75, 8), 190 + 2.5 * np.arange(10)  # north first, as files have it
COARSE = {"lat": LAT[::2], "lon": LON[::2]}


class Finer(nn.Module):
    """From 4 x 5 coarse cells to two variables on 8 x 10 cells."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.fine = nn.Conv2d(4, 2, 3, padding=1, bias=False)

    def forward(self, x):
        h = torch.relu(self.wide(x.reshape(len(x), 1, 4, 5)))
        return self.fine(nn.functional.interpolate(h, scale_factor=2))


@pytest.fixture
def task():
    torch.manual_seed(0)
    values = np.random.default_rng(0).normal(size=(6, 4, 5))
    data = xr.DataArray(values, {"time": np.arange(6), **COARSE}, ("time", "lat", "lon"))
    grid = xr.DataArray(np.zeros((2, 8, 10)), {"variable": ["t", "q"], "lat": LAT, "lon": LON})
    return Finer().double(), data, GridVectorizer().fit(data), grid


@pytest.mark.sweep(3)
@pytest.mark.parametrize(
    ("target", "cells"),
    [
        ({"variable": "q", "lat": slice(5, -5), "lon": slice(195, 205)}, np.s_[1, 2:6, 2:7]),
        ({"variable": ["t"], "lat": 8.75, "lon": 212.5}, np.s_[0, 0, 9]),
        ({"variable": "t", "lat": slice(9.9, 6), "lon": slice(None, 191)}, np.s_[0, :2, 0]),
        ({"lat": -8.75}, np.s_[:, 7]),
        ({"lon": (LON >= 210) | (LON <= 192)}, np.s_[:, :, [0, 8, 9]]),
    ],
    ids=["region", "cell", "edge", "row", "flags"],
)
@pytest.mark.parametrize("form", ["array", "dataset", "samples", "dask"])
def test_regions_by_coordinates(task, target, cells, form):
    network, data, vectorizer, grid = task
    mask = np.zeros((2, 8, 10), dtype=bool)
    mask[cells] = True
    if form == "dataset":
        grid = grid.to_dataset("variable")
    elif form == "samples":
        grid = grid.expand_dims(time=3)
    elif form == "dask":
        data = data.chunk(time=2)
    found = explain(network, data, vectorizer=vectorizer, target=target, output=grid)
    expected = sklrp.explain(network, data.to_numpy().reshape(6, -1), target=mask)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found.to_numpy().reshape(6, -1), expected, atol=1e-12)
    assert found.attrs["target"].startswith("sum over ")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"lat": slice(-5, 5)}, r"marks nothing .*lat falls, so slice\(larger, smaller\)"),
        ({"lat": slice(30, -5)}, r"leaves the output's grid, 8\.75 to -8\.75: nothing is clipped"),
        ({"lon": slice(190, 240)}, r"leaves the output's grid, 190\.0 to 212\.5"),
        ({"lon": -170.0}, r"no value of the output's grid, 190\.0 to 212\.5"),
        ({"lon": -165.0}, r"counts longitudes from 190 to 212\.5: -165 is 195\."),
        ({"lon": slice(-165, -160)}, r"leaves the output's grid.*: -165 is 195\."),
        ({"lon": slice(210, 192)}, r"marks nothing.*\(lon >= 210\) \| \(lon <= 192\)"),
        ({"lat": "5N"}, r"lat=5N, which is no value"),
        ({"lat": (-5, 5)}, r"which is no value"),
        ({"lat": [[8.75]]}, r"which is no value"),
        ({"lat": [[8.75], [6.25, 3.75]]}, r"which is no value"),
        ({"lat": slice("a", None)}, r"the output's grid"),
        ({"lat": [True, False]}, r"which is no value.*a boolean for each"),
        ({"lat": []}, r"marks nothing"),
        ({"lon": 191.0}, r"no value of the output's grid"),
        ({"variable": "u"}, r"no value of the output's grid, t to q"),
        ({"lead": 3}, r"names 'lead', but output has coordinates along"),
        ({"lon": slice(191, 192)}, r"marks nothing"),
    ],
)
def test_targets_off_the_grid_are_refused(task, target, message):
    network, data, vectorizer, grid = task
    with pytest.raises(ValueError, match=message):
        explain(network, data, vectorizer=vectorizer, target=target, output=grid)


DAYS = np.datetime64("2001-01-16") + np.arange(8).astype("m8[D]") * 10
ALONG = {
    "dates": (DAYS, slice("2001-02", "2001-03"), slice(2, 8), slice("2001-02", "2002"), "1999"),
    "cftime": (
        xr.date_range("2001-01-16", periods=8, freq="10D", calendar="360_day", use_cftime=True),
        slice("2001-02", "2001-03"),
        slice(2, 8),
        slice("2001-02", "2002"),
        "1999",
    ),
    "leads": (
        np.arange(8).astype("m8[D]"),
        slice("3D", "5D"),
        slice(3, 6),
        slice("3D", "9D"),
        "9D",
    ),
    "names": (np.array(list("bcdefghi")), slice("d", "f"), slice(2, 5), slice("d", "x"), "a"),
    # Sums of decimals, and single precision: the ends are 0.3 and 0.7 but for rounding.
    "decimals": (np.arange(8) * 0.1, slice(0.3, 0.7), slice(3, 8), slice(0.3, 0.8), 0.35),
    "singles": (
        (np.arange(8) * 0.1).astype("f4").astype(float),
        slice(0.3, 0.6),
        slice(3, 7),
        slice(None, 0.8),
        0.35,
    ),
}


@pytest.mark.parametrize("kind", list(ALONG))
def test_regions_along_coordinates_of_any_type(task, kind):
    """Dates, times ahead, names and decimals: ends within the grid count, others are refused."""
    network, data, vectorizer, grid = task
    values, within, cells, beyond, unknown = ALONG[kind]
    grid = grid.rename(lat="along").assign_coords(along=values)
    ask = {"vectorizer": vectorizer, "output": grid}
    mask = np.zeros((2, 8, 10), dtype=bool)
    mask[:, cells] = True
    expected = sklrp.explain(network, data.to_numpy().reshape(6, -1), target=mask)
    found = explain(network, data, target={"along": within}, **ask)
    np.testing.assert_allclose(found.to_numpy().reshape(6, -1), expected, atol=1e-12)
    with pytest.raises(ValueError, match="leaves the output's grid"):
        explain(network, data, target={"along": beyond}, **ask)
    with pytest.raises(ValueError, match="no value of the output's grid"):
        explain(network, data, target={"along": unknown}, **ask)


@pytest.mark.parametrize(
    ("values", "labels", "cells"),
    [
        (np.arange(8) * 0.1, 0.3, [3]),
        (np.arange(8) * 0.1, [0.3, 0.7], [3, 7]),
        (1e9 + 0.125 * np.arange(8), 1e9 + 0.625, [5]),  # finer than single precision
        (1e9 + 0.125 * np.arange(8), slice(1e9 + 0.25, 1e9 + 0.3), [2]),
        (np.arange(8) - 3.0, slice(1e-5, None), [4, 5, 6, 7]),  # without the zero
    ],
)
def test_decimals_name_their_cell(task, values, labels, cells):
    network, data, vectorizer, grid = task
    grid = grid.assign_coords(lat=values)
    ask = {"vectorizer": vectorizer, "output": grid}
    mask = np.zeros((2, 8, 10), dtype=bool)
    mask[:, cells] = True
    expected = sklrp.explain(network, data.to_numpy().reshape(6, -1), target=mask)
    found = explain(network, data, target={"lat": labels}, **ask)
    np.testing.assert_allclose(found.to_numpy().reshape(6, -1), expected, atol=1e-12)


def test_land_in_the_target_is_told(task):
    """A field without values on land says that a region covers some of it."""
    network, data, vectorizer, grid = task
    land = grid.where((grid.lat > 0) | (grid.lon > 195))
    ask = {"vectorizer": vectorizer, "target": {"lat": slice(0, -9), "lon": slice(190, 200)}}
    with pytest.warns(UserWarning, match="no value in 24 of the 40 places that target marks"):
        partly = explain(network, data, output=land, **ask)
    xr.testing.assert_equal(partly, explain(network, data, output=grid, **ask))
    ask["target"] = {"lat": slice(9, 0)}
    explain(network, data, output=land, **ask)  # no land there, and no warning


def test_units_are_those_of_the_output(task):
    network, data, vectorizer, grid = task
    ask = {"vectorizer": vectorizer, "target": {"lat": 8.75}, "output": grid}
    for model in (network, NeuralNet(network, nn.MSELoss).initialize()):
        assert explain(model, data, **ask).attrs["units"] == "unit of the output"
    net = NeuralNetRegressor(network).initialize()
    assert explain(net, data, **ask).attrs["units"] == "unit of the prediction"


def test_columns_of_a_field_take_weights(task):
    """The error of a region names a line that works."""
    _, data, _, _ = task
    field = data.where((data.lat < 8) | (data.lon > 195)).rename("t")  # some land
    columns = GridVectorizer()
    y = columns.fit_transform(field)
    net = MLPRegressor((4,), max_epochs=2, random_state=0)
    model = make_pipeline(GridVectorizer(), net).fit(data, y)
    with pytest.raises(ValueError, match="predicts 18 columns") as error:
        explain(model, data, target={"lat": slice(6, -6), "lon": slice(192, 198)}, output=field)
    code = re.search(r"target=(grid\.transform.*?\[0\])", str(error.value)).group(1)
    inside = box_mask(field, lat=(-6, 6), lon=(192, 198))
    weights = eval(code, {"grid": columns, "field": field, "inside": inside})
    np.testing.assert_array_equal(
        weights, inside.values.ravel()[field[0].notnull().values.ravel()]
    )
    found = explain(model, data, target=weights)
    each = explain(model, data, target="all").values
    summed = np.tensordot(each, weights, (1, 0))
    np.testing.assert_allclose(found, summed, rtol=1e-5, atol=1e-6)


def test_the_whole_output(task):
    network, data, vectorizer, grid = task
    found = explain(network, data, vectorizer=vectorizer, target={}, output=grid)
    assert found.attrs["target"] == "sum over the whole output"
    with pytest.raises(ValueError, match="output has no sample along 'time'"):
        explain(
            network, data, vectorizer=vectorizer, target={},
            output=grid.expand_dims(time=2).isel(time=slice(0)),
        )  # fmt: skip


def test_the_output_grid_must_be_given_and_fit(task):
    network, data, vectorizer, grid = task
    ask = {"vectorizer": vectorizer, "target": {"lat": 8.75}}
    with pytest.raises(TypeError, match="give output, a DataArray or Dataset"):
        explain(network, data, **ask)
    with pytest.raises(ValueError, match=r"must have the output's shape \(2, 8, 10\)"):
        explain(network, data, **ask, output=grid.isel(variable=0))
    with pytest.raises(ValueError, match="leave output out"):
        explain(network, data, vectorizer=vectorizer, target=(0, 1, 2), output=grid)


def test_functions_and_masks_of_the_output(task):
    network, data, vectorizer, _ = task
    weights = np.random.default_rng(1).normal(size=(2, 8, 10))
    for target in (weights, (1, 2, 3), lambda y: y.amax((1, 2, 3))):
        for fields in (data, data.chunk(time=2)):
            found = explain(network, fields, vectorizer=vectorizer, target=target)
            expected = sklrp.explain(network, data.to_numpy().reshape(6, -1), target=target)
            np.testing.assert_allclose(found.to_numpy().reshape(6, -1), expected, atol=1e-12)


@pytest.mark.parametrize("kind", ["mask", "weights"])
def test_masks_with_coordinates_of_the_output(task, kind):
    """A mask is not of samples, though its dimensions are among those of the data."""
    network, data, vectorizer, grid = task
    mask = (grid.lat > 0) & (grid.lon < 200) & (grid == 0)
    target = mask if kind == "mask" else mask * np.cos(np.radians(grid.lat))
    target = target.isel(variable=0)
    alone = nn.Sequential(network, First())
    expected = sklrp.explain(alone, data.to_numpy().reshape(6, -1), target=target.to_numpy())
    for entry in (
        lambda t: explain(alone, data, vectorizer=vectorizer, target=t),
        lambda t: explain(alone, data.chunk(time=4), vectorizer=vectorizer, target=t),
        lambda t: sklrp.explain(make_pipeline(vectorizer, alone), data, target=t),
    ):
        np.testing.assert_allclose(np.asarray(entry(target)).reshape(6, -1), expected, atol=1e-12)


def test_masks_in_another_order_are_refused(task):
    network, data, vectorizer, _ = task
    mask = data[0] > 0
    for entry in (
        lambda: explain(network, data, vectorizer=vectorizer, target=mask[::-1]),
        lambda: sklrp.explain(make_pipeline(vectorizer, network), data, target=mask[::-1]),
    ):
        with pytest.raises(ValueError, match="target has the lat of X in another order"):
            entry()


def test_masks_with_axes_in_another_order_are_refused(task):
    _, data, _, _ = task
    square = data.isel(lat=slice(3), lon=slice(3))
    vectorizer = GridVectorizer().fit(square)
    network = nn.Sequential(nn.Linear(9, 9), nn.Unflatten(1, (3, 3))).double()
    mask = xr.zeros_like(square[0], dtype=bool)
    mask[0] = True
    expected = sklrp.explain(network, square.to_numpy().reshape(-1, 9), target=mask.to_numpy())
    for given in (mask, np.asarray(mask)):
        found = explain(network, square, vectorizer=vectorizer, target=given)
        np.testing.assert_allclose(found.to_numpy().reshape(-1, 9), expected, atol=1e-12)
    for fields in (square, square.to_dataset(name="t2m")):
        own = GridVectorizer().fit(fields)
        turned = mask.transpose("lon", "lat")
        with pytest.raises(ValueError, match=r"dimensions \('lon', 'lat'\).*position"):
            explain(network, fields, vectorizer=own, target=turned)
        with pytest.raises(ValueError, match=r"dimensions \('lon', 'lat'\).*position"):
            sklrp.explain(make_pipeline(own, network), fields, target=turned)


class First(nn.Module):
    """The first of the fields that enter."""

    def forward(self, x):
        return x[:, 0]


class Named(nn.Module):
    """A network that returns its field and its mean by name."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        field = self.network(x)
        return {"field": field, "mean": field.mean((1, 2, 3))}


@pytest.mark.parametrize("target", ["mean", ("mean",), ("field", 1, 2, 3)])
def test_outputs_by_name(task, target):
    network, data, vectorizer, _ = task
    found = explain(Named(network), data, vectorizer=vectorizer, target=target)
    rows = data.to_numpy().reshape(6, -1)
    expected = sklrp.explain(Named(network), rows, target=target)
    np.testing.assert_allclose(found.to_numpy().reshape(6, -1), expected, atol=1e-12)
    said = "output 'mean'" if "mean" in target else "output 'field', (1, 2, 3)"
    assert found.attrs["target"] == said
    with pytest.raises(ValueError, match=r"must name an output .*'field', 'mean'"):
        explain(Named(network), data, vectorizer=vectorizer, target="median")


@pytest.mark.parametrize("lazy", [False, True])
def test_regions_and_labels_of_outputs_by_name(task, lazy):
    """Coordinates, and an index for each sample, of the output that a name says."""
    network, data, vectorizer, grid = task
    rows = data.to_numpy().reshape(6, -1)
    mask = np.zeros((2, 8, 10), dtype=bool)
    mask[1, :4] = True

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            field = self.network(x)
            return {"field": field, "mean": field.mean((2, 3))}

    given = data.chunk(time=4) if lazy else data
    each = [0, 1, 1, 0, 1, 0]
    for target, plain, said in (
        (("field", {"variable": "q", "lat": slice(9, 0)}), ("field", mask), "sum over variable=q"),
        (("mean", each), ("mean", each), "output 'mean'"),
    ):
        output = grid if isinstance(target[1], dict) else None
        found = explain(Both(), given, vectorizer=vectorizer, target=target, output=output)
        expected = sklrp.explain(Both(), rows, target=plain)
        np.testing.assert_allclose(found.to_numpy().reshape(6, -1), expected, atol=1e-12)
        assert said in found.attrs["target"]
    every = explain(Both(), given, vectorizer=vectorizer, target=("mean", "all"))
    assert every.dims == ("time", "target", "lat", "lon")
    expected = sklrp.explain(Both(), rows, target=("mean", "all"))
    np.testing.assert_allclose(every.to_numpy().reshape(expected.shape), expected, atol=1e-12)
    assert every.attrs["target"] == "output 'mean', every output"
    with pytest.raises(ValueError, match=r"5 labels for 6 samples|6 indices"):
        explain(Both(), given, vectorizer=vectorizer, target=("mean", each[:5]))


@pytest.mark.parametrize("lazy", [False, True])
def test_weights_over_the_outputs_of_a_regressor(lazy):
    data = xr.DataArray(
        np.random.default_rng(2).normal(size=(30, 3, 2)),
        {"time": np.arange(30), "lat": [0.0, 2, 4], "lon": [0.0, 2]},
    )
    values = data.to_numpy().reshape(30, -1)
    reg = sklrp.MLPRegressor((4,), max_epochs=3, random_state=0).fit(values, values[:, :3])
    vectorizer = GridVectorizer().fit(data)
    given = data.chunk(time=12) if lazy else data
    for target, said in (
        ([0.5, -2.0, 0.0], "a weighted sum of outputs"),
        ([True, False, True], "sum of the outputs [0, 2]"),
        (np.arange(30) % 3, "an output given for each sample"),
    ):
        found = explain(reg, given, vectorizer=vectorizer, target=target)
        expected = reg.explain(values, target=target)
        np.testing.assert_allclose(found.to_numpy().reshape(30, -1), expected, atol=1e-12)
        assert found.attrs["target"] == said
    with pytest.raises(ValueError, match=r"must have the output's shape|each sample"):
        explain(reg, given, vectorizer=vectorizer, target=[0.5, -2.0])
