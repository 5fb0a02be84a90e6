"""The tasks with a known answer, and the Pacific's sea-surface temperature."""

import copy
import inspect
import os
import pickle
import subprocess
import sys
from importlib.machinery import ModuleSpec

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import linalg, ndimage, stats
from sklearn.model_selection import train_test_split
from sklearn.utils import shuffle

from sklrp import datasets
from sklrp.datasets import (
    load_pacific_sst,
    make_attribution_benchmark,
    make_frames,
    make_squares,
    pacific_sst,
)
from sklrp.datasets.regression_field import piecewise_linear

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


def test_pacific_sst_remembers_its_grid():
    sst = load_pacific_sst()
    X = sst.data
    kept = {
        "slice": X[3:],
        "positions": X[[0, 2]],
        "booleans": X[sst.target == 1],
        "all": X[()],
        "a channel": X[:, np.newaxis],
        "split": train_test_split(X, random_state=0)[0],
        "shuffled": shuffle(X, random_state=0),
        "pickled": pickle.loads(pickle.dumps(X)),
        "copied": X.copy(),
        "copied by Python": copy.copy(X),
        "copied deeply": copy.deepcopy({"X": X})["X"],
        "float32": X.astype(np.float32),
        "standardised": (X - X.mean(axis=0)) / (1 + X.std(axis=0)),
    }
    for name, array in kept.items():
        assert_array_equal(array.latitude, sst.latitude, name)
        assert_array_equal(array.longitude, sst.longitude, name)
        assert_array_equal(array.land_mask, sst.land_mask, name)
    lost = {
        "flipped": X[:, ::-1],
        "flipped by numpy": np.flip(X, axis=2),
        "rolled": np.roll(X, 1, axis=2),
        "a flipped sample": X[0][::-1],
        "turned": X.swapaxes(1, 2),
        "box": X[:, 2:5],
        "flipped by a matrix": X @ np.eye(30)[::-1],
        "sorted": np.sort(X, axis=2),
        "rows": X.reshape(len(X), -1),
        "ocean": X[:, ~sst.land_mask],
        "mean": X.mean(axis=1),
        "plain": np.asarray(X),
    }
    for name, array in lost.items():
        assert getattr(array, "latitude", None) is None, name
    assert type(np.asarray(X)) is np.ndarray
    assert type(X.mean()) is np.float64
    assert torch.from_numpy(X).shape == X.shape
    assert_array_equal(X, np.asarray(X))


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
    monkeypatch.setattr(pacific_sst, "find_spec", lambda name: spec)
    with pytest.raises(ImportError, match=rf"{problem}.*pip install 'sklrp\[examples\]'"):
        load_pacific_sst()


@pytest.mark.slow
def test_pacific_sst_stays_where_it_is():
    """It neither imports eofs, whose folder shadows xarray, nor changes the working folder."""
    code = (
        "import os, sys; here = os.getcwd(); import sklrp.datasets as d; "
        "assert d.load_pacific_sst().data.shape == (35, 18, 30); "
        "assert 'eofs' not in sys.modules; assert os.getcwd() == here"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)


# --- make_attribution_benchmark ---------------------------------------------------------------

PAIR = np.array([[1.0, 0.8], [0.8, 1.0]])
TRIPLE = np.array([[1.0, 0.6, -0.3], [0.6, 1.0, 0.2], [-0.3, 0.2, 1.0]])


def test_piecewise_linear_by_hand():
    breaks, slopes = np.array([[-1.0], [0.0], [2.0]]), np.array([[1.0], [2.0], [-1.0], [3.0]])
    x = np.array([[-3.0], [-1.0], [-0.5], [0.0], [1.0], [2.0], [4.0]])
    # From 0 to the left: -1 * 2 = -2 at -1, two more at slope 1. To the right: 2 * -1 = -2 at 2,
    # two more at slope 3.
    by_hand = [[-4.0], [-2.0], [-1.0], [0.0], [-1.0], [-2.0], [4.0]]
    assert_array_equal(piecewise_linear(x, breaks, slopes), by_hand)


def contribution(x, breaks, slopes):
    """Walk from 0 to x, over the break points, and add up slope times distance."""
    total, here, step = 0.0, 0.0, 1 if x > 0 else -1
    for there in sorted([b for b in breaks if 0 < b * step < x * step] + [x], key=abs):
        slope = slopes[sum(b < (here + there) / 2 for b in breaks)]
        total += slope * (there - here)
        here = there
    return total


@pytest.mark.parametrize("n_breaks", [1, 2, 5])
def test_field_is_the_recipe(n_breaks):
    X, y, truth = make_attribution_benchmark(
        50, correlation=TRIPLE, n_breaks=n_breaks, random_state=4
    )
    rng, root = np.random.RandomState(4), linalg.sqrtm(TRIPLE)
    slopes = rng.standard_normal((n_breaks + 1, 3)) @ root
    breaks = rng.standard_normal((n_breaks - 1, 3)) @ root
    fields = rng.standard_normal((50, 3)) @ root
    assert_allclose(X, fields, atol=1e-13)
    for i in range(50):
        terms = [
            contribution(fields[i, j], sorted([0.0, *breaks[:, j]]), slopes[:, j])
            for j in range(3)
        ]
        assert_allclose(truth[i], terms, atol=1e-12)
        assert y[i] == pytest.approx(sum(terms) / 3, abs=1e-12)


@pytest.mark.parametrize("correlation", ["pacific_sst", "smooth"])
def test_field_seen_from_outside(correlation):
    """Every cell has six slopes and, between them, five breaks, one of them at the origin."""
    X, y, truth = make_attribution_benchmark(6000, correlation=correlation, random_state=0)
    assert X.shape == truth.shape == (6000, 450)
    assert X.dtype == truth.dtype == y.dtype == np.float64
    assert_allclose(truth.mean(axis=1), y, rtol=1e-12, atol=1e-14)
    n_slopes, through_zero = [], []
    for x, c in zip(X.T, truth.T, strict=True):
        order = np.argsort(x)
        x, c = x[order], c[order]
        slope = np.diff(c) / np.diff(x)
        straight = np.abs(np.diff(slope)) < 1e-6
        n_slopes.append(1 + (np.diff(np.sort(slope[1:][straight])) > 1e-5).sum())
        zero = np.searchsorted(x, 0.0)
        for i in (zero - 2, zero):  # the last two points before 0 and the first two after it
            through_zero.append(abs(c[i] - slope[i] * x[i]) < 1e-9)
    assert max(n_slopes) == 6
    # But for breaks beyond the data, too close to each other, or too close to 0.
    assert np.mean(np.array(n_slopes) == 6) > 0.8
    assert np.mean(through_zero) > 0.97


def test_field_has_the_correlation_of_the_ocean():
    sst = load_pacific_sst(neutral=True)
    ocean = sst.data[:, ~sst.land_mask]
    standard = (ocean - ocean.mean(axis=0)) / ocean.std(axis=0)
    expected = standard.T @ standard / len(ocean)
    X, _, _ = make_attribution_benchmark(8000, random_state=1)
    assert_allclose(X.T @ X / len(X), expected, atol=6 * np.sqrt(2 / 8000))
    assert_allclose(X.mean(axis=0), 0, atol=6 / np.sqrt(8000))
    assert np.linalg.matrix_rank(X, tol=1e-6 * len(X)) == 49


def test_smooth_field():
    X, _, _ = make_attribution_benchmark(8000, correlation="smooth", random_state=1)
    grid = X.reshape(-1, 15, 30)
    for rows, columns in [(1, 0), (0, 1), (3, 4), (0, 12)]:
        scaled = np.sqrt(3) * np.hypot(rows, columns) / 6
        expected = (1 + scaled) * np.exp(-scaled)
        here, there = grid[:, : 15 - rows, : 30 - columns], grid[:, rows:, columns:]
        assert_allclose((here * there).mean(axis=0), expected, atol=6 * np.sqrt(2 / 8000))
    assert np.linalg.matrix_rank(X) == 450


def test_field_is_symmetric_and_its_functions_are_correlated():
    fields = [
        make_attribution_benchmark(200, correlation=PAIR, random_state=seed) for seed in range(800)
    ]
    truth = np.array([truth[0] for _, _, truth in fields])
    assert np.all(np.abs((truth > 0).mean(axis=0) - 0.5) < 6 * 0.5 / np.sqrt(800))
    # The law of a term is that of its negative: the same share on either side of any size.
    for sizes in truth.T:
        assert stats.ks_2samp(sizes, -sizes).pvalue > 1e-3

    def leftmost_slopes(X, truth):
        first, second = np.argsort(X, axis=0)[:2]
        cells = np.arange(2)
        rise = truth[second, cells] - truth[first, cells]
        return rise / (X[second, cells] - X[first, cells])

    slopes = np.array([leftmost_slopes(X, truth) for X, _, truth in fields])
    assert np.corrcoef(slopes.T)[0, 1] == pytest.approx(0.8, abs=0.1)
    assert slopes.std(axis=0) == pytest.approx([1, 1], abs=0.15)


@pytest.mark.parametrize("n_classes", [2, 3, 7])
def test_field_classes_are_quantiles_of_the_target(n_classes):
    arguments = {"n_samples": 500, "correlation": "smooth", "random_state": 2}
    X, target, truth = make_attribution_benchmark(**arguments)
    X_again, y, truth_again = make_attribution_benchmark(**arguments, n_classes=n_classes)
    assert_array_equal(X, X_again)
    assert_array_equal(truth, truth_again)
    assert y.dtype == np.int64
    counts = np.bincount(y)
    assert len(counts) == n_classes
    assert np.ptp(counts) <= 1
    assert_array_equal(np.sort(y), y[np.argsort(target)])


def test_field_functions_do_not_depend_on_the_number_of_samples():
    few = make_attribution_benchmark(10, correlation=TRIPLE, random_state=0)
    many = make_attribution_benchmark(10_000, correlation=TRIPLE, random_state=0)  # three blocks
    for a, b in zip(few, many, strict=True):
        assert_allclose(a, b[:10], atol=1e-13)
    X, y, truth = many
    assert len(np.unique(X[:, 0])) == 10_000
    assert_allclose(truth.mean(axis=1), y, rtol=1e-12, atol=1e-14)


def test_field_dtype_and_a_matrix_in_single_precision():
    arguments = {"n_samples": 20, "correlation": TRIPLE, "random_state": 0}
    X, y, truth = make_attribution_benchmark(**arguments)
    X32, y32, truth32 = make_attribution_benchmark(**arguments, dtype=np.float32)
    assert X32.dtype == truth32.dtype == np.float32
    assert_array_equal(X32, X.astype(np.float32))
    assert_array_equal(truth32, truth.astype(np.float32))
    assert_array_equal(y32, y)
    rng = np.random.default_rng(0)
    singular = np.corrcoef(rng.standard_normal((4, 30)), rowvar=False).astype(np.float32)
    X, _, _ = make_attribution_benchmark(20, correlation=singular.tolist(), random_state=0)
    assert np.linalg.matrix_rank(X, tol=0.02) == 3


@pytest.mark.parametrize(
    "make",
    [
        lambda state: make_attribution_benchmark(20, correlation=TRIPLE, random_state=state),
        lambda state: make_frames(20, random_state=state),
    ],
)
def test_random_state(make):
    first, again, other = make(1), make(np.random.RandomState(1)), make(2)
    for a, b, c in zip(first, again, other, strict=True):
        assert_array_equal(a, b)
        assert (a != c).any()
    np.random.seed(0)  # noqa: NPY002  (the global generator is what must not be touched)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    make(1)
    assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_field_leaves_the_correlation_as_it_is():
    matrix = TRIPLE.copy()
    make_attribution_benchmark(5, correlation=matrix, random_state=0)
    assert_array_equal(matrix, TRIPLE)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("n_samples", 0),
        ("n_samples", 10.0),
        ("correlation", "sst"),
        ("correlation", None),
        ("n_breaks", 0),
        ("n_classes", 1),
        ("dtype", np.int64),
        ("random_state", "seed"),
    ],
)
@pytest.mark.parametrize("error", [ValueError, TypeError])
def test_field_bad_parameters(parameter, value, error):
    message = f"(?s)The '{parameter}' parameter of make_attribution_benchmark must be .* Got "
    with pytest.raises(error, match=message):
        make_attribution_benchmark(**{parameter: value})


@pytest.mark.parametrize(
    ("matrix", "problem"),
    [
        (np.ones((2, 3)), r"got one of shape \(2, 3\)"),
        ([[1, 0.5], [0.4, 1]], "got one that is not symmetric"),
        ([[1, 0.5], [0.5, 2]], "got one with 1 to 2 on its diagonal"),
        ([[1, 1.5], [1.5, 1]], "got one with the negative eigenvalue -0.5"),
        ([[1, np.nan], [np.nan, 1]], "Input correlation contains NaN"),
        ([1.0, 2.0], "Expected 2D array"),
    ],
)
def test_field_bad_matrices(matrix, problem):
    with pytest.raises(ValueError, match=problem):
        make_attribution_benchmark(5, correlation=matrix)


def test_field_more_classes_than_samples():
    with pytest.raises(ValueError, match="at most n_samples, got n_classes=4 and n_samples=3"):
        make_attribution_benchmark(3, correlation="smooth", n_classes=4)


def test_field_without_eofs(monkeypatch):
    monkeypatch.setattr(pacific_sst, "find_spec", lambda name: None)
    message = r"(?s)correlation='pacific_sst' .*pip install .* correlation='smooth'"
    with pytest.raises(ImportError, match=message):
        make_attribution_benchmark(5)
    make_attribution_benchmark(5, correlation="smooth")


# --- make_frames ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def frames():
    """Give images, classes, truth and, per image, the frames: mask, +1 (square) or -1, side."""
    X, y, truth = make_frames(1500, random_state=0)
    found = []
    for image, label, relevance in zip(X, y, truth, strict=True):
        parts, n_parts = ndimage.label(image, structure=np.ones((3, 3)))
        masks = [parts == i + 1 for i in range(n_parts)]
        signed = relevance if label else -relevance
        found.append([(mask, np.unique(signed[mask]).item()) for mask in masks])
    return X, y, truth, found


def discs():
    """Give the pixels of each disc about the middle of a 65 x 65 image, by the formula."""
    rows, columns = np.mgrid[-32:33, -32:33]
    return {s: np.pi * (rows**2 + columns**2) <= s**2 for s in range(7, 23)}


def test_frames_have_the_shapes_of_the_recipe(frames):
    *_, found = frames
    disc = discs()
    outer_sides, hole_sides = {1: [], -1: []}, []
    for mask, kind in (frame for image in found for frame in image):
        filled = ndimage.binary_fill_holes(mask)
        rows, columns = ndimage.find_objects(filled.astype(int))[0]
        hole = filled & ~mask
        hole_rows, hole_columns = ndimage.find_objects(hole.astype(int))[0]
        if kind == 1:
            side, hole_side = rows.stop - rows.start, hole_rows.stop - hole_rows.start
            assert columns.stop - columns.start == side
            assert hole_columns.stop - hole_columns.start == hole_side
            assert filled.sum() == side**2
            assert hole.sum() == hole_side**2
            for axis, hole_axis in ((rows, hole_rows), (columns, hole_columns)):
                assert abs((axis.start + axis.stop) - (hole_axis.start + hole_axis.stop)) <= 1
                assert hole_axis.start - axis.start >= 2
                assert axis.stop - hole_axis.stop >= 2
        else:
            centre = [(axis.start + axis.stop - 1) // 2 for axis in (rows, columns)]
            moved = {
                s: np.roll(pixels, np.subtract(centre, 32), (0, 1)) for s, pixels in disc.items()
            }
            side = next(s for s, pixels in moved.items() if (pixels == filled).all())
            hole_side = next(s for s, pixels in moved.items() if (pixels == hole).all())
        assert 7 <= hole_side <= side - 4
        outer_sides[kind].append(side)
        hole_sides.append(hole_side)
    for sides in outer_sides.values():
        assert sorted(set(sides)) == list(range(12, 23))
    assert sorted(set(hole_sides)) == list(range(7, 19))


def test_frames_are_apart_and_of_six_combinations(frames):
    *_, found = frames
    numbers = []
    for image in found:
        kinds = [kind for _, kind in image]
        numbers.append((kinds.count(1), kinds.count(-1)))
        for i, (mask, _) in enumerate(image[:-1]):
            distance = ndimage.distance_transform_edt(~mask)
            assert all(distance[other].min() > 2 for other, _ in image[i + 1 :])
    combinations, counts = np.unique(numbers, axis=0, return_counts=True)
    assert combinations.tolist() == [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]]
    assert stats.chisquare(counts).pvalue > 1e-3


def test_frames_lie_everywhere_and_have_any_side(frames):
    *_, found = frames
    for kind in (1, -1):
        alone = [image[0][0] for image in found if len(image) == 1 and image[0][1] == kind]
        boxes = [ndimage.find_objects(mask.astype(int))[0] for mask in alone]
        middle = np.array([[(axis.start + axis.stop) / 2 for axis in box] for box in boxes])
        # Centres are the pixels 12 to 52, so that the middle of a box is at 12 to 52.5.
        assert stats.kstest(middle.ravel(), stats.uniform(11.75, 41).cdf).pvalue > 1e-3
        counts = np.bincount([box[0].stop - box[0].start for box in boxes])[12:23]
        assert kind == -1 or stats.chisquare(counts).pvalue > 1e-3  # several sides, one width


def test_frames_class_and_truth(frames):
    X, y, truth, found = frames
    assert X.shape == truth.shape == (1500, 65, 65)
    assert X.dtype == truth.dtype == np.float64
    assert y.dtype == np.int64
    assert set(np.unique(X)) == {0.0, 1.0}
    assert_array_equal(X, abs(truth))
    for i, image in enumerate(found):
        area = {kind: sum(mask.sum() for mask, k in image if k == kind) for kind in (1, -1)}
        assert area[1] != area[-1]
        assert y[i] == (area[1] > area[-1])
        assert truth[i].sum() == abs(area[1] - area[-1])
    assert abs(y.mean() - 0.5) < 6 * 0.5 / np.sqrt(1500)


def test_frames_dtype_and_blocks():
    X, y, truth = make_frames(2100, random_state=1)  # three blocks
    X32, y32, truth32 = make_frames(2100, dtype=np.float32, random_state=1)
    assert X32.dtype == truth32.dtype == np.float32
    for a, b in [(X, X32), (y, y32), (truth, truth32)]:
        assert_array_equal(a, b)
    assert len({image.tobytes() for image in X32}) > 2080  # single frames may coincide


@pytest.mark.parametrize(
    ("parameter", "value"),
    [("n_samples", 0), ("n_samples", "many"), ("dtype", np.uint8), ("random_state", "seed")],
)
@pytest.mark.parametrize("error", [ValueError, TypeError])
def test_frames_bad_parameters(parameter, value, error):
    with pytest.raises(error, match=f"(?s)The '{parameter}' parameter of make_frames must be "):
        make_frames(**{parameter: value})


@pytest.mark.parametrize("name", [n for n in datasets.__all__ if n.startswith("make_")])
def test_no_global_generator_is_used(name):
    """Neither read, so that a seed of it means nothing here, nor moved on."""
    make = getattr(datasets, name)
    sizes = {"n_samples": 20, "n_per_class": 10, "n_features": 4}
    options = {k: v for k, v in sizes.items() if k in inspect.signature(make).parameters}
    before = np.random.get_state()  # noqa: NPY002
    one, other = make(**options)[0], make(**options)[0]
    assert all(map(np.array_equal, before, np.random.get_state()))  # noqa: NPY002
    assert not np.array_equal(one, other)
