"""Data with a known answer: suppressors, exclusive-or, watermarks, Lorenz-96, streamflow."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklrp.datasets import (
    make_lorenz96,
    make_rainfall_runoff,
    make_suppressor,
    make_watermark,
    make_xor,
)
from sklrp.datasets.lorenz96 import _integrate, _tendency
from sklrp.datasets.rainfall_runoff import _draw_weather, _run

IMAGES = [make_suppressor, make_watermark, make_xor]


def accuracy(X, y):
    """Return the held-out accuracy of a linear classifier."""
    rows = X.reshape(len(X), -1)
    half = len(rows) // 2
    return LogisticRegression(C=0.01).fit(rows[:half], y[:half]).score(rows[half:], y[half:])


@pytest.mark.parametrize("make", IMAGES)
@pytest.mark.parametrize("mechanism", ["linear", "multiplicative", "rotated"])
@pytest.mark.parametrize("background", ["white", "correlated"])
def test_images_have_their_background_and_a_seed(make, mechanism, background):
    settings = {"size": 16, "mechanism": mechanism, "background": background}
    X, y, mask = make(400, random_state=0, **settings)
    assert X.shape == (800, 16, 16)
    assert mask.shape == (16, 16)
    assert np.bincount(y).tolist() == [400, 400]
    elsewhere = X[:, ~(mask | mask[:, ::-1])]
    assert abs(elsewhere.mean()) < 0.05
    np.testing.assert_allclose(elsewhere.var(), 1.0, atol=0.05)
    neighbours = np.corrcoef(X[:, 0, 0], X[:, 0, 1])[0, 1]
    assert (neighbours > 0.4) == (background == "correlated")
    same, other = (make(400, random_state=seed, **settings)[0] for seed in (0, 1))
    np.testing.assert_array_equal(X, same)
    assert not np.allclose(X, other)


def test_suppressor_alone_is_chance_and_makes_the_signal_clear():
    X, y, mask = make_suppressor(1000, size=16, random_state=0)
    place = mask[:, ::-1]
    assert accuracy(X[:, place], y) < 0.56
    assert accuracy(X[:, mask], y) < accuracy(X[:, mask | place], y) - 0.1
    clear = X[:, mask] - X[:, place]
    sign = np.where(y == 1, 0.5, -0.5)[:, None]
    np.testing.assert_allclose((clear - sign).var(), 1.0, atol=0.05)  # the background alone


def test_neither_place_of_an_exclusive_or_tells_the_class():
    X, y, mask = make_xor(1000, size=16, random_state=0)
    assert accuracy(X, y) < 0.56
    left, right = (X[:, m].mean(axis=1) for m in (mask & (np.arange(16) < 8), mask[:, ::-1]))
    right = X[:, mask & (np.arange(16) >= 8)].mean(axis=1)
    assert ((left * right > 0) == (y == 1)).mean() > 0.99


def test_watermark_is_independent_of_the_class():
    X, y, mask = make_watermark(1000, size=16, share=0.3, random_state=0)
    place = mask[:, ::-1]
    bears = X[:, place].mean(axis=1) > 2.5
    assert abs(bears[y == 0].mean() - 0.3) < 0.05
    assert abs(bears[y == 1].mean() - 0.3) < 0.05
    assert accuracy(X[:, place], y) < 0.56
    assert accuracy(X[:, mask], y) > 0.9


def test_multiplicative_classes_differ_in_spread_alone():
    X, y, mask = make_watermark(1000, size=16, mechanism="multiplicative", random_state=0)
    assert abs(X[y == 1][:, mask].mean() - X[y == 0][:, mask].mean()) < 0.05
    ratio = X[y == 1][:, mask].std() / X[y == 0][:, mask].std()
    np.testing.assert_allclose(ratio, 1.5**2, rtol=0.05)


def test_tendency_of_lorenz_and_its_derivative():
    X, y, truth = make_lorenz96(50, site=2, random_state=0)
    k = 2
    expected = (X[:, k + 1] - X[:, k - 2]) * X[:, k - 1] - X[:, k] + 8
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    for cell in range(12):
        moved = X.copy()
        moved[:, cell] += 1e-6
        difference = (_tendency(moved, 8.0)[:, k] - y) / 1e-6
        np.testing.assert_allclose(truth[:, cell], difference, atol=1e-6)


def test_adjoint_of_lorenz_is_the_derivative_of_the_run():
    X, y, truth = make_lorenz96(20, lead=0.3, random_state=0)
    for cell in (0, 4, 7):
        moved = X.copy()
        moved[:, cell] += 1e-6
        difference = (_integrate(moved, 0.3, 8.0)[0][:, 5] - y) / 1e-6
        np.testing.assert_allclose(truth[:, cell], difference, atol=1e-4)


def test_one_run_of_lorenz_is_correlated_and_several_are_not():
    series = make_lorenz96(300, interval=0.05, random_state=0)[0][:, 0]
    assert np.corrcoef(series[1:], series[:-1])[0, 1] > 0.9
    single = make_lorenz96(300, random_state=0)[0][:, 0]
    assert abs(np.corrcoef(single[1:], single[:-1])[0, 1]) < 0.15


def test_a_linear_model_sees_little_of_lorenz_and_half_of_streamflow():
    X, y, _ = make_lorenz96(2000, random_state=0)
    assert 0.2 < RidgeCV().fit(X[:1500], y[:1500]).score(X[1500:], y[1500:]) < 0.4
    X, y, _ = make_rainfall_runoff(1000, random_state=0)
    rows = X.reshape(len(X), -1)
    ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 5, 10)))
    assert 0.4 < ridge.fit(rows[:800], y[:800]).score(rows[800:], y[800:]) < 0.75


def test_streamflow_depends_on_weather():
    _, y, truth = make_rainfall_runoff(30, n_days=60, random_state=0)
    assert (truth[..., 0] > -1e-6).all()  # more rain is never less flow
    again = make_rainfall_runoff(30, n_days=60, random_state=0)[1]
    np.testing.assert_array_equal(y, again)
    late, early = (np.abs(truth[:, days, 0]).mean() for days in (slice(-10, None), slice(10)))
    assert late > 2 * early > 0  # the memory fades, and does not end


@pytest.mark.parametrize("groundwater", [0.0, 0.6])
def test_adjoint_of_streamflow_is_the_derivative_of_the_run(groundwater):
    """The dataset's weather, drawn anew and changed by a little, day by day."""
    settings = groundwater, 100.0
    X, y, truth = make_rainfall_runoff(
        300, n_days=50, groundwater=groundwater, recession=100.0, random_state=3
    )
    weather = _draw_weather(np.random.RandomState(3), 300, 450)
    np.testing.assert_array_equal(weather[:, 400:], X)
    start = _run(np.zeros((3, 300)), weather[:, :400], *settings)[0][-1]
    np.testing.assert_allclose(_run(start, X, *settings)[1], y, rtol=1e-12)
    step, n_kinks = 1e-5, 0
    for day in (0, 13, 30, 48, 49):
        for variable in (0, 1):
            ends = []
            for sign in (-1, 1):
                moved = X.copy()
                moved[:, day, variable] += sign * step
                ends.append(_run(start, moved, *settings)[1])
            difference = (ends[1] - ends[0]) / (2 * step)
            found = truth[:, day, variable]
            # A dry day has no less rain: there the run is asked for more of it alone.
            dry = (variable == 0) & (X[:, day, 0] == 0)
            difference = np.where(dry, (ends[1] - y) / step, difference)
            close = np.abs(found - difference) <= 1e-6 + 1e-4 * np.abs(difference)
            n_kinks += (~close).sum()
    assert n_kinks == 0  # a store could run empty within the step; here none does
    assert np.abs(truth).max() > 0.01


def test_groundwater_remembers_what_a_summer_lets_the_soil_forget():
    shares = []
    for groundwater in (0.0, 0.8):
        truth = make_rainfall_runoff(100, n_days=365, groundwater=groundwater, random_state=0)[2]
        rain = truth[..., 0]
        shares.append(rain[:, :90].sum() / rain.sum())
    assert shares[0] < 0.005
    assert shares[1] > 0.05


@pytest.mark.parametrize("groundwater", [0.0, 0.7])
def test_water_is_neither_made_nor_lost(groundwater):
    rng = np.random.default_rng(0)
    rain = rng.gamma(1.0, 3.0, (5, 40))
    frost = np.stack([rain, np.full((5, 40), -5.0)], axis=-1)
    stores, _ = _run(np.zeros((3, 5)), frost, groundwater)
    np.testing.assert_allclose(stores[-1][0], rain.sum(axis=1))  # all of it is snow
    assert (stores[-1][1:] == 0).all()
    mild = np.stack([rain, np.zeros((5, 40))], axis=-1)  # half of it is snow, nothing evaporates
    before = np.zeros((3, 5))
    balance = []
    for day in range(40):
        stores, flow = _run(before, mild[:, day : day + 1], groundwater)
        balance.append(before.sum(axis=0) + rain[:, day] - stores[-1].sum(axis=0) - np.exp(flow))
        before = stores[-1]
    np.testing.assert_allclose(balance, -0.01, atol=1e-12)  # what a dry bed's logarithm takes


def test_bad_parameters_are_refused():
    with pytest.raises(ValueError, match="site=12 must be below n_sites=12"):
        make_lorenz96(10, site=12)
    with pytest.raises(ValueError, match="'mechanism' parameter"):
        make_xor(10, mechanism="cubic")
    with pytest.raises(ValueError, match="'size' parameter"):
        make_suppressor(10, size=4)
