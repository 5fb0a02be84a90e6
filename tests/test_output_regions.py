"""Targets in coordinates of a network's own output grid, against masks made by hand."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import sklrp
from sklrp.geo import GridVectorizer, explain

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
    ],
    ids=["region", "cell", "edge", "row"],
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
