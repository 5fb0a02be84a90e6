"""The synthetic squares and the Pacific's sea-surface temperature."""

import inspect
import os
import subprocess
import sys
from importlib.machinery import ModuleSpec

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage

from sklrp import datasets
from sklrp.datasets import load_pacific_sst, make_squares

SIDES = ["left", "right", "top", "bottom"]


# --- make_squares -----------------------------------------------------------------------------


def test_squares_are_those_of_the_paper():
    X, y, mask = make_squares(noise=0.0, random_state=0)
    assert X.shape == (500, 100, 100)
    assert X.dtype == np.float64
    assert_array_equal(np.bincount(y), [250, 250])

    expected = np.zeros((100, 100))
    expected[20:30, 70:80] = 0.5
    expected[70:80, 70:80] = -0.5
    for label, value in [(0, -0.5), (1, 0.5)]:
        expected[45:55, 20:30] = value
        assert_array_equal(X[y == label], np.broadcast_to(expected, (250, 100, 100)))
    expected_mask = np.zeros((100, 100), dtype=bool)
    expected_mask[45:55, 20:30] = True
    assert mask.dtype == bool
    assert_array_equal(mask, expected_mask)


def test_squares_defaults():
    assert str(inspect.signature(make_squares)).startswith(
        "(n_per_class: 'int' = 250, *, size: 'int' = 100, noise: 'float' = 0.1,"
    )


def test_noise_is_uniform_and_tells_nothing():
    clean, _, _ = make_squares(100, size=40, noise=0.0, random_state=3)
    X, y, mask = make_squares(100, size=40, noise=0.2, random_state=3)
    noise = X - clean
    assert abs(noise).max() <= 0.2
    assert abs(noise.mean()) < 0.001
    assert noise.std() == pytest.approx(0.2 / np.sqrt(3), rel=0.01)
    difference = X[y == 1].mean(axis=0) - X[y == 0].mean(axis=0)
    assert_allclose(difference, mask.astype(float), atol=0.1)  # six standard errors


@pytest.mark.parametrize("size", [5, 6, 7, 8, 9, 10, 14, 15, 28, 33, 64, 101])
@pytest.mark.parametrize("side", SIDES)
def test_squares_are_distinct_at_every_size(size, side):
    X, y, mask = make_squares(1, size=size, noise=0.0, side=side, random_state=0)
    labels, n_squares = ndimage.label(X[0], structure=np.ones((3, 3)))
    assert n_squares == 3
    widths = {s.stop - s.start for square in ndimage.find_objects(labels) for s in square}
    assert widths == {(size + 5) // 10}
    assert_array_equal(X[y == 1][0] != X[y == 0][0], mask)


def test_sides_are_mirrored_and_transposed():
    images = {side: make_squares(3, size=20, side=side, random_state=7) for side in SIDES}
    for i in (0, 2):  # the images and the mask
        left = images["left"][i]
        assert_array_equal(images["right"][i], np.flip(left, -1))
        assert_array_equal(images["top"][i], np.swapaxes(left, -1, -2))
        assert_array_equal(images["bottom"][i], np.flip(np.swapaxes(left, -1, -2), -2))
    for side, (X, y, mask) in images.items():
        assert X.flags.c_contiguous
        assert_array_equal(y, images["left"][1])
        row, column = np.argwhere(mask).mean(axis=0)
        place = {"left": column, "right": 19 - column, "top": row, "bottom": 19 - row}
        assert min(place, key=place.get) == side


def test_squares_amplitude():
    X, y, mask = make_squares(2, size=20, noise=0.0, amplitude=3.0, random_state=0)
    assert set(np.unique(X)) == {-3.0, 0.0, 3.0}
    assert_array_equal(X[:, mask][:, 0], np.where(y == 1, 3.0, -3.0))


def test_squares_random_state():
    first = make_squares(20, size=10, random_state=1)
    again = make_squares(20, size=10, random_state=np.random.RandomState(1))
    other = make_squares(20, size=10, random_state=2)
    for a, b in zip(first, again, strict=True):
        assert_array_equal(a, b)
    assert (first[0] != other[0]).any()
    assert (first[1] != other[1]).any()
    assert (np.diff(first[1]) != 0).sum() > 1, "the samples must be shuffled"

    np.random.seed(0)  # noqa: NPY002  (the global generator is what must not be touched)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    make_squares(2, size=10, random_state=1)
    assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("n_per_class", 0),
        ("n_per_class", 2.0),
        ("size", 4),
        ("size", "large"),
        ("noise", -0.1),
        ("amplitude", 0.0),
        ("side", "middle"),
        ("random_state", "seed"),
    ],
)
@pytest.mark.parametrize("error", [ValueError, TypeError])
def test_squares_bad_parameters(parameter, value, error):
    message = f"(?s)The '{parameter}' parameter of make_squares must be .* Got {value!r} instead"
    with pytest.raises(error, match=message):
        make_squares(**{parameter: value})


# --- load_pacific_sst -------------------------------------------------------------------------


def test_pacific_sst():
    sst = load_pacific_sst()
    assert sst.data.shape == (35, 18, 30)
    assert sst.data.dtype == np.float64
    assert sst.data.dtype.isnative
    assert sst.target_names.tolist() == ["La Niña", "El Niño"]
    assert_array_equal(np.bincount(sst.target), [18, 17])
    assert_array_equal(sst.target == 1, sst.index > 0.5)
    assert_array_equal(sst.target == 0, sst.index < -0.5)

    assert_array_equal(sst.latitude, np.arange(-22.5, 63, 5))
    assert_array_equal(sst.longitude, np.arange(117.5, 263, 5))
    assert sst.land_mask.shape == (18, 30)
    assert sst.land_mask.sum() == 90
    assert (sst.data[:, sst.land_mask] == 0).all()
    assert (sst.data[:, ~sst.land_mask] != 0).mean() > 0.99
    assert abs(sst.data).max() < 10, "the file's missing value has been taken for data"
    assert sst.nino34_mask.sum() == 20
    assert not (sst.nino34_mask & sst.land_mask).any()
    # On land: central Australia and California; at sea: the middle of the ocean.
    land = dict(zip(sst.feature_names, sst.land_mask.ravel(), strict=True))
    assert land["22.5S 132.5E"]
    assert land["37.5N 242.5E"]
    assert not land["2.5N 202.5E"]
    assert "eofs" in sst.DESCR
    assert os.path.isfile(sst.filename)


def test_pacific_sst_with_neutral_winters():
    sst = load_pacific_sst(neutral=True)
    assert sst.data.shape == (50, 18, 30)
    assert sst.target_names.tolist() == ["La Niña", "neutral", "El Niño"]
    assert_array_equal(np.bincount(sst.target), [18, 15, 17])
    assert (abs(sst.index[sst.target == 1]) <= 0.5).all()
    assert_array_equal(sst.year, np.arange(1962, 2012))

    events = load_pacific_sst()
    keep = sst.target != 1
    for name in ("data", "index", "year"):
        assert_array_equal(events[name], sst[name][keep])
    assert_array_equal(events.target_names[events.target], sst.target_names[sst.target[keep]])


def test_pacific_sst_labels_are_history():
    sst = load_pacific_sst(neutral=True)
    name = dict(zip(sst.year.tolist(), sst.target_names[sst.target], strict=True))
    assert {name[year] for year in (1965, 1972, 1982, 1991, 1997, 2009)} == {"El Niño"}
    assert {name[year] for year in (1973, 1975, 1988, 1998, 1999, 2007, 2010)} == {"La Niña"}
    assert {name[year] for year in (1978, 1989, 1993, 2001)} == {"neutral"}


def test_pacific_sst_index_is_the_weighted_mean_of_the_box():
    sst = load_pacific_sst(neutral=True)
    # The box has two rows, 2.5S and 2.5N, of one weight: the weighted mean is the plain one.
    rows, columns = abs(sst.latitude) < 5, (sst.longitude > 190) & (sst.longitude < 240)
    box = sst.data[:, rows][:, :, columns]
    assert box.shape == (50, 2, 10)
    assert_allclose(sst.index, box.mean(axis=(1, 2)), atol=1e-12)


def test_pacific_sst_fill_land_and_return_X_y():
    missing = load_pacific_sst(fill_land=np.nan)
    assert_array_equal(
        np.isnan(missing.data), np.broadcast_to(missing.land_mask, missing.data.shape)
    )
    assert np.isfinite(missing.index).all()
    X, y = load_pacific_sst(fill_land=-9.0, neutral=True, return_X_y=True)
    assert X.shape == (50, 18, 30)
    assert y.shape == (50,)
    assert (X[:, missing.land_mask] == -9.0).all()


@pytest.mark.parametrize(
    ("parameter", "value"),
    [("neutral", "yes"), ("fill_land", "zero"), ("fill_land", None), ("return_X_y", 1.5)],
)
@pytest.mark.parametrize("error", [ValueError, TypeError])
def test_pacific_sst_bad_parameters(parameter, value, error):
    message = f"The '{parameter}' parameter of load_pacific_sst must be .* Got {value!r} instead"
    with pytest.raises(error, match=message):
        load_pacific_sst(**{parameter: value})


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (None, "which is not installed"),
        (ModuleSpec("eofs", None, is_package=True), "which has no 'examples/example_data/"),
    ],
)
def test_pacific_sst_needs_eofs(monkeypatch, spec, problem):
    monkeypatch.setattr(datasets, "find_spec", lambda name: spec)
    with pytest.raises(ImportError, match=rf"{problem}.*pip install 'sklrp\[examples\]'"):
        load_pacific_sst()


def test_pacific_sst_stays_where_it_is():
    """It neither imports eofs, whose folder shadows xarray, nor changes the working folder."""
    code = (
        "import os, sys; here = os.getcwd(); import sklrp.datasets as d; "
        "assert d.load_pacific_sst().data.shape == (35, 18, 30); "
        "assert 'eofs' not in sys.modules; assert os.getcwd() == here"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)
