"""Which samples are exchanged: what correlation in time is seen, and what is none."""

import math
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from scipy.signal import lfilter
from torch import nn

from sklrp.diagnostics import diagnose, skill_map
from sklrp.skill.exchanges import check_units, estimate_block
from sklrp.skill.permutations import ClassScores, Exchange, permutation_test

N_CELLS = 16


def series(rng, rho, n, k=1):
    """Return columns of unit variance and lag-1 correlation rho, without a start."""
    noise = rng.normal(size=(n + 200, k)) * np.sqrt(1 - rho**2)
    return lfilter([1.0], [1.0, -rho], noise, axis=0)[200:]


def linear(weights):
    net = nn.Linear(N_CELLS, 2, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(torch.from_numpy(np.stack([-weights, weights])))
    return net


def one_hot(y):
    return np.eye(y.max() + 1)[y]


def asks_for_blocks(y, contributions):
    return estimate_block(one_hot(y), contributions, y)[0] > 1


def bound(n_draws, rate, z=3.0):
    """Return a share that draws of this rate exceed about once in a thousand times."""
    return rate + z * np.sqrt(rate * (1 - rate) / n_draws)


@pytest.mark.parametrize("dated", [False, True])
def test_few_samples_that_seem_alike_are_not_called_exchangeable(dated):
    """An estimate that is large, and not told from chance, is no sign that there is none."""
    rng = np.random.default_rng(0)
    y = np.array([0, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 1])
    said = {}
    for name, X in (
        ("slow", series(rng, 0.95, 20, N_CELLS)),
        ("none", rng.normal(size=(200, 16))),
    ):
        labels = y if name == "slow" else rng.integers(0, 2, 200)
        if dated:
            X = xr.DataArray(X, {"time": pd.date_range("2000", periods=len(X))}, ("time", "cell"))
        found = skill_map(linear(np.ones(N_CELLS)), X, labels, random_state=0)
        (said[name],) = [s for s in found.assumptions if "from one to the next" in s]
    rho = float(re.search(r"estimate (\S+), the geometric mean", said["slow"]).group(1))
    assert rho > 0.2, said
    assert re.search(r"but 20 \w+ cannot exclude one: .*, give block_length", said["slow"])
    assert "cannot exclude" not in said["none"]
    assert not any(re.search("samples are exchangeable", words) for words in said.values())


@pytest.mark.sweep(3)
@pytest.mark.parametrize("n_cells", [1, 20])
@pytest.mark.parametrize("order", ["shuffled", "sorted", "files"])
def test_samples_in_no_order_of_time_are_hardly_ever_taken_for_a_series(order, n_cells):
    rng = np.random.default_rng(0)
    y = np.arange(240) * 3 // 240
    if order == "files":  # each of them sorted by class
        y = np.concatenate([y[::2], y[1::2]])
    found = []
    for _ in range(300):
        labels = rng.permutation(y) if order == "shuffled" else y
        signal = 2.0 * labels[:, None] * (np.arange(n_cells) < 5)
        found.append(asks_for_blocks(labels, signal + rng.normal(size=(240, n_cells))))
    assert np.mean(found) <= bound(300, 0.002 if order == "shuffled" else 0.015)


@pytest.mark.sweep(1)
@pytest.mark.parametrize("kind", ["once", "descending", "three classes", "seasons"])
def test_labels_sorted_in_time_are_permuted_in_blocks(kind):
    """A false cell in nearly every series, if single samples are permuted."""
    n, n_series = 400, 60
    t = np.arange(n)
    y = {
        "once": t * 2 // n,
        "descending": (n - 1 - t) * 2 // n,
        "three classes": t * 3 // n,
        "seasons": t // 50 % 2,
    }[kind]
    shares = np.bincount(y) / n
    wrong = {"single": 0, "blocks": 0}
    for seed in range(n_series):
        phi = series(np.random.default_rng(seed), 0.6, n, N_CELLS)
        psi = [share * (float(k == 1) - shares[1]) * phi for k, share in enumerate(shares)]
        length, rho = estimate_block(one_hot(y), phi, y)
        assert 0.5 < rho < 0.9
        for name, block in (("single", 1), ("blocks", length)):
            exchange, rng = Exchange(n, None, block), np.random.default_rng(seed)
            check_units(exchange, 0.05, is_estimated=True, in_time=True)
            test = permutation_test(ClassScores(y, psi), exchange, rng, 199)
            wrong[name] += int(test.p_value.min() <= 0.05)
    assert wrong["single"] > 0.7 * n_series
    assert wrong["blocks"] <= bound(n_series, 0.06) * n_series


def test_a_slow_change_under_noise_is_seen():
    """The correlation with the next sample is small, and that with the next twenty as well."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        y = (series(rng, 0.97, 600)[:, 0] + rng.normal(size=600) > 0).astype(int)
        phi = 0.6 * series(rng, 0.97, 600, 20) + rng.normal(size=(600, 20))
        length, rho = estimate_block(one_hot(y), phi, y)
        assert rho < 0.5  # blocks of 5, if it fell as that of an autoregression does
        assert length > 20


def test_one_slow_cell_among_many_is_seen():
    rng = np.random.default_rng(0)
    y = (series(rng, 0.95, 600)[:, 0] > 0).astype(int)
    phi = rng.normal(size=(600, 20))
    assert not asks_for_blocks(y, phi)
    phi[:, 3] = 0.5 * series(rng, 0.95, 600)[:, 0]
    length, rho = estimate_block(one_hot(y), phi, y)
    assert rho > 0.8
    assert length > 20


def test_both_orders_are_named_where_classes_come_in_runs():
    rng = np.random.default_rng(0)
    y = np.arange(200) * 2 // 200
    X = rng.normal(size=(200, N_CELLS)) + 1.0 * (np.arange(N_CELLS) == 3) * y[:, None]
    net = linear(1.0 * (np.arange(N_CELLS) < 6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = skill_map(net, X, y, n_permutations=199, random_state=0)
        shuffled = rng.permutation(200)
        other = skill_map(net, X[shuffled], y[shuffled], n_permutations=199, random_state=0)
    assert np.flatnonzero(found.true).tolist() == [3]
    said = " ".join(found.assumptions)
    for words in ("come in runs", "not of time", "In an order of time", "block_length or groups"):
        assert words in said
    assert "come in runs" not in " ".join(other.assumptions)


def test_a_report_says_that_blocks_were_permuted():
    rng = np.random.default_rng(1)
    y = np.arange(400) // 40 % 2
    X = series(rng, 0.5, 400, N_CELLS) + 1.5 * (np.arange(N_CELLS) == 3) * y[:, None]
    weights = 1.0 * (np.arange(N_CELLS) == 3)
    report = diagnose(linear(weights), X, y, n_permutations=3, max_samples=50, random_state=0)
    assert any("blocks of" in said and "correlated" in said for said in report.assumptions)
    assert "blocks of" in report.tests["skilled"].reading
    assert report.tests["skilled"].verdict == "fact"


@pytest.mark.parametrize("given", [1, 2])
def test_blocks_that_are_far_too_short_are_warned_of(given):
    rng = np.random.default_rng(0)
    X, y = series(rng, 0.9, 400, N_CELLS), np.arange(400) * 2 // 400
    with pytest.warns(UserWarning, match=f"block_length={given} is kept.*'auto' would permute"):
        found = skill_map(linear(np.ones(N_CELLS)), X, y, block_length=given, random_state=0)
    assert found.block_length == given
    (said,) = [said for said in found.assumptions if "'auto' would permute" in said]
    assert said.endswith("If the samples are in order of time, the p-values are far too small.")


def test_too_few_units_say_what_helps():
    rng = np.random.default_rng(0)
    net = linear(np.ones(N_CELLS))
    X, y = series(rng, 0.97, 100, N_CELLS), np.arange(100) * 2 // 100
    with pytest.raises(ValueError, match="too few units to permute, 1 block of all 100 samples"):
        skill_map(net, X, y, random_state=0)
    enough = "at least 400 samples, 4 such blocks, would be enough, or give groups"
    with pytest.raises(ValueError, match=enough) as error:
        skill_map(net, X, y, random_state=0)
    for wrong in ("shuffle", "block_length=1"):  # of samples that are like their neighbours
        assert wrong not in str(error.value)
    with pytest.raises(ValueError, match=r"2 blocks of 50 neighbouring.*a smaller block_length"):
        skill_map(net, X, y, block_length=50, random_state=0)
    with pytest.raises(ValueError, match=r"4 groups, whole.*equal size only.*4 of one size would"):
        skill_map(net, X, y, groups=np.repeat(np.arange(4), [10, 20, 30, 40]), random_state=0)


@pytest.mark.parametrize(
    ("exchange", "alpha", "in_time", "said"),
    [
        (Exchange(148, None, 50), 0.05, True, "about 200 samples, 4 such blocks, would be enough"),
        (Exchange(148, None, 50), 0.001, False, "about 350 samples, 7 such blocks, would be"),
        (Exchange(3), 0.05, False, "more samples: 4 samples would be enough."),
        (Exchange(20, None, 10), 0.05, False, "block_length=1 permutes them singly"),
    ],
)
def test_how_many_samples_would_be_enough(exchange, alpha, in_time, said):
    with pytest.raises(ValueError, match=said) as error:
        check_units(exchange, alpha, True, in_time)
    assert ("block_length=1" in str(error.value)) == (exchange.n_samples == 20)
    length = exchange.block_length
    n = next(n for n in range(2, 9) if math.factorial(n) >= 1 / alpha) * length
    check_units(Exchange(n, None, length), alpha, True, in_time)


def test_samples_of_a_time_are_never_to_be_shuffled():
    with pytest.raises(ValueError, match="By the coordinate of time they must be") as error:
        check_units(Exchange(20, None, 10), 0.05, True, True)
    for wrong in ("shuffle", "block_length"):
        assert wrong not in str(error.value)


@pytest.mark.parametrize(
    ("exchange", "words"),
    [
        (Exchange(200, None, 487), "1 block of all 200 samples"),
        (Exchange(200, None, 60), "4 blocks of up to 60 neighbouring samples"),
        (Exchange(200, None, 50), "4 blocks of 50 neighbouring samples"),
        (Exchange(200), "200 single samples"),
        (Exchange(3, np.zeros(3, int)), "1 group"),
        (Exchange(3, np.array([0, 1, 1])), "2 groups, whole"),
    ],
)
def test_units_in_words(exchange, words):
    assert exchange.words == words
