"""The calibration in short: error rates of `skill_map` on networks that need no training.

Networks are fixed, so that draws are cheap and the truth is exact. Limits are such that a test
which keeps to 5 % breaks them with a probability below 1e-4; beside each stands what a wrong test
makes of the same draws. ``python -m tests.calibration`` is the long form.
"""

import json

import numpy as np
import pytest
import torch
from scipy.stats import beta, binom, ttest_ind

from sklrp.diagnostics import skill_map
from tests import calibration
from tests.helpers import calibrating
from tests.helpers.calibrating import Case, along_time, in_time, largest_t, patch, planted
from tests.helpers.calibration_tables import TITLES, Counts, Rate, best_level, write_tables
from tests.helpers.pages import put_tables

N_DRAWS = 60
MOST = int(binom.isf(1e-4, N_DRAWS, 0.05))  # hits of a test that keeps to 5 %


def linear(signal, rng):
    """Return a network of two logits that adds up its input, mostly where the signal is."""
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(signal.size, 2))
    weight = signal.ravel() + 0.5 * rng.standard_normal(signal.size)
    with torch.no_grad():
        net[1].weight[:] = torch.as_tensor(np.stack([-weight, weight]))
        net[1].bias.zero_()
    return net


def is_false(found, case):
    """Return whether any cell without signal is called true or misleading."""
    return bool((found.true | found.misleading)[~case.signal].any())


def ask(net, case, seed, **settings):
    """Return the skill map by p-values alone: a share of the skill is not asked for."""
    shared = {"n_permutations": 99, "n_draws": 4, "min_share": 0, "random_state": seed}
    settings = {**shared, **settings}
    return skill_map(net, *case.held_out, X_train=case.train[0], **settings)


@pytest.mark.sweep(1)
@pytest.mark.parametrize("length", [0, 4])
def test_error_rates_on_correlated_fields(length):
    false, power, shares = [], [], []
    for seed in range(N_DRAWS):
        rng = np.random.default_rng([seed, length])
        case = planted(rng, length, n_train=60, n_test=60, strength=0.6, size=8)
        found = ask(linear(case.signal, rng), case, seed)
        false.append(is_false(found, case))
        power.append(found.true[case.signal].mean())
        true_fdr = found.true_fdr
        shares.append(true_fdr[~case.signal].sum() / max(true_fdr.sum(), 1))
    assert sum(false) <= MOST
    assert np.mean(power) > 0.5
    # A share is at most 1: its mean over draws is below .05 but for 4 standard errors.
    assert np.mean(shares) < 0.05 + 4 * np.std(shares) / N_DRAWS**0.5


@pytest.mark.filterwarnings("ignore:block_length=1")  # that it is wrong is what is shown
@pytest.mark.slow
def test_error_rates_of_series():
    """Months that are permuted singly make discoveries of nothing; blocks and groups do not."""
    false, n_draws = dict.fromkeys(("single", "auto", "24", "groups"), 0), 30
    most = binom.isf(1e-4, n_draws, 0.05)
    for seed in range(n_draws):
        rng = np.random.default_rng(seed)
        for n_runs, rules in ((1, ("single", "auto", "24")), (20, ("groups",))):
            case = in_time(rng, 0.85, n_runs=n_runs, n_steps=200, size=8)
            net, groups = linear(case.signal, rng), np.arange(200) // 10
            settings = {
                "single": {"block_length": 1},
                "auto": {},
                "24": {"block_length": 24},
                "groups": {"groups": groups},
            }
            for rule in rules:
                false[rule] += is_false(ask(net, case, seed, **settings[rule]), case)
    assert max(false["auto"], false["24"], false["groups"]) <= most
    assert false["single"] > 2 * most


class Gate(torch.nn.Module):
    """Cells that the first one lets through: they spread by class, and say nothing of it."""

    def forward(self, x):
        score = 6 * x[:, 0] + x[:, 1:].sum(dim=1) * torch.sigmoid(x[:, 0])
        return torch.stack([-score, score], dim=1)


def plain_differences(X, y, rng):
    """Return whether differences of means, as they are, exceed those of permuted labels."""
    phi = X[:, 1:] / (1 + np.exp(-X[:, :1]))
    orders = np.stack([y, *(rng.permutation(y) for _ in range(199))])
    means = orders @ phi / y.sum() - (1 - orders) @ phi / (1 - y).sum()
    largest = np.abs(means).max(axis=1)
    return largest[0] > np.quantile(largest[1:], 0.95)


@pytest.mark.slow
def test_error_rates_with_few_samples_of_a_class_that_spreads():
    false = wrong = 0
    for seed in range(N_DRAWS):
        rng = np.random.default_rng(seed)
        y = np.concatenate([rng.permutation(np.arange(n) < 0.15 * n) for n in (1000, 200)])
        X = rng.standard_normal((1200, 40)).astype(np.float32)
        X[:, 0] += np.where(y, 1.5, -1.5)
        case = Case(X, y.astype(int), 1000, np.arange(40) == 0)
        found = ask(Gate(), case, seed, n_draws=16)
        assert found.true[0]
        false += is_false(found, case)
        wrong += plain_differences(*case.held_out, rng)
    assert false <= MOST < wrong


# What the long form counts with


def test_largest_t_is_that_of_a_plain_loop():
    rng = np.random.default_rng(0)
    y = (np.arange(40) < 12).astype(int)
    rows = rng.normal(size=(40, 15))
    rows[:, :5] += np.linspace(0.5, 3, 5) * y[:, None]
    orders = np.random.default_rng(1).permuted(np.tile(np.arange(40), (199, 1)), axis=1)

    def welch(labels):
        return np.abs(ttest_ind(rows[labels == 1], rows[labels == 0], equal_var=False).statistic)

    limit = sorted(max(welch(y[order])) for order in orders)[int(np.ceil(0.95 * 198))]
    expected = welch(y) >= limit
    assert 0 < expected.sum() < 5
    np.testing.assert_array_equal(largest_t(rows, y, np.random.default_rng(1)), expected)


def test_series_and_fields_have_the_correlation_that_is_said():
    rng = np.random.default_rng(0)
    series = along_time(rng, rng.standard_normal((4000, 5)), 0.85)
    np.testing.assert_allclose(series.var(axis=0), 1, atol=0.2)
    lag1 = (series[1:] * series[:-1]).mean() / series.var()
    assert abs(lag1 - 0.85) < 0.02
    X = calibrating.smooth_fields(rng, 2000, 4)
    np.testing.assert_allclose(X.var(axis=0), 1, atol=0.15)
    for distance in (2, 4):
        found = (X * np.roll(X, distance, axis=2)).mean()
        assert abs(found - np.exp(-((distance / 4) ** 2))) < 0.02
    case = planted(rng, 0, n_train=2000, n_test=2000)
    difference = case.X[case.y == 1].mean(axis=0) - case.X[case.y == 0].mean(axis=0)
    np.testing.assert_allclose(difference, 1.0 * patch(), atol=0.15)


def test_rates_and_their_bounds():
    none = Rate(np.zeros(200, dtype=bool))
    np.testing.assert_allclose(none.upper, 1 - 0.05 ** (1 / 200), rtol=1e-6)  # 1 - .05^(1/n)
    some = Rate(np.arange(200) < 10)
    np.testing.assert_allclose(binom.cdf(10, 200, some.upper), 0.05, rtol=1e-6)
    np.testing.assert_allclose(some.upper, beta.ppf(0.95, 11, 190))
    shares = np.tile([0.0, 0.2], 50)
    np.testing.assert_allclose(Rate(shares).upper, 0.1 + 1.645 * shares.std(ddof=1) / 10)
    counts = Counts([[4, 0], [2, 2], [0, 0]], 4)
    assert counts.power == 0.5
    np.testing.assert_allclose(counts.discoveries.mean, 0.5 / 3)
    np.testing.assert_allclose(counts.family_wise.mean, 1 / 3)
    # Of three thresholds the middle one has the best 2 hits / (signal + found).
    levels = [[[4, 4, 1], [20, 1, 0]], [[4, 3, 0], [25, 0, 0]]]
    best = best_level([{"levels": found, "n_signal": 4} for found in levels])
    assert best.hits.tolist() == [4, 3]
    assert best.false.tolist() == [1, 0]


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch):
    made = []

    def draw_row(rng):
        made.append(rng.random())
        return {"": {"value": made[-1]}}

    monkeypatch.setattr(calibration, "ROWS", {"planted/a": draw_row})
    monkeypatch.setattr(calibrating, "ROWS", {"planted/a": draw_row})
    path = tmp_path / "results.jsonl"
    calibration.run(["planted/a"], 3, path, 1)
    whole = path.read_text()
    path.write_text(whole[:-20])  # cut in the middle of a line
    calibration.run(["planted/a"], 5, path, 1)
    found = calibration.read(path)
    assert sorted(found) == [("planted/a", n) for n in range(5)]
    assert len(made) == 6  # the third was made again, to the same end
    assert made[2] == made[3] == found["planted/a", 2][""]["value"]


def test_every_table_is_written(tmp_path):
    """Two draws of the cheapest row, which lend their counts to the rows of other tables."""
    found = {}
    for number in range(2):
        record = json.loads(json.dumps(calibrating.draw("planted/0/ESN", number)))[""]
        assert record["n_signal"] == 16
        for row, variants in {
            "planted/0/ESN": [""],
            "none/0/ESN": [""],
            "kinds/watermark, white": [""],
            "series/0.5": ["plain", "auto"],
            "sizes/ESN": ["20", "300"],
            "states/ESN": ["0", "1"],
            "used/0/ESN": ["100", "1000"],
        }.items():
            found[row, number] = dict.fromkeys(variants, record)
    tables = write_tables(found)
    assert tables.count("### ") == len(TITLES) + 1
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- tables -->\nstale\n<!-- /tables -->\nafter\n")
    put_tables(page, tables)
    assert "stale" not in page.read_text()
    assert page.read_text().startswith("before")
    assert page.read_text().endswith("after\n")
