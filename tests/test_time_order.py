"""Samples whose coordinates say when they were: their order, what stays together, and errors."""

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from scipy.signal import lfilter
from torch import nn

from sklrp._sample_times import SampleTimes, find_times
from sklrp.diagnostics import artifact_map, diagnose, skill_map
from sklrp.metrics import skill_mass
from sklrp.skill.block_lengths import estimate_block, estimate_in_time
from sklrp.skill.exchanges import check_units, find_exchange
from sklrp.skill.permutations import Exchange, permutation_test
from sklrp.skill.questions import Question
from sklrp.skill.time_order import order_by_time

N_CELLS = 12


def series(rng, rho, n, k=1):
    noise = rng.normal(size=(n + 200, k)) * np.sqrt(1 - rho**2)
    return lfilter([1.0], [1.0, -rho], noise, axis=0)[200:]


def times_of(values, member=None):
    values = np.asarray(values, dtype=float)
    member = np.zeros(len(values), dtype=int) if member is None else np.asarray(member)
    return SampleTimes("time", values, member)


def linear(n_outputs=2):
    net = nn.Linear(N_CELLS, n_outputs, bias=False).double()
    weights = torch.linspace(-1, 1, N_CELLS, dtype=torch.float64)
    with torch.no_grad():
        net.weight.copy_(torch.stack([-weights, weights][-n_outputs:]))
    return net


def field(times, dim="time", coordinate="time"):
    X = np.zeros((len(times), N_CELLS))
    return xr.DataArray(X, dims=(dim, "cell"), coords={coordinate: (dim, times)})


def table(index):
    return pd.DataFrame(np.zeros((len(index), 3)), index=pd.Index(index, dtype=object))


DATES = pd.date_range("1999-11", periods=6, freq="MS")
DAYS = [0, 30, 61, 92, 121, 152]


def noleap():
    cftime = pytest.importorskip("cftime")
    return [cftime.DatetimeNoLeap(2000, k + 1, 1) for k in range(6)]


KINDS = {
    "dates": (lambda: field(DATES), DAYS),
    "dates to the day": (lambda: field(DATES.to_numpy().astype("M8[D]")), DAYS),
    "another name of the dimension": (lambda: field(DATES, "case", "when"), DAYS),
    "dates of no leap year": (lambda: field(noleap()), [0, 31, 59, 90, 120, 151]),
    "tenths of a second": (
        lambda: field(np.arange(6).astype("m8[ms]") * 100 + np.datetime64("2000-01-01", "ms")),
        np.arange(6) / 864000,
    ),
    "numbers called time": (lambda: field([5, 3, 4, 0, 1, 2]), [5, 3, 4, 0, 1, 2]),
    "years": (lambda: field([1990, 1991, 1993, 1, 2, 3], "year", "year"), None),
    "numbers in days since": (
        lambda: field(np.arange(6), "n", "n").assign_coords(
            n=("n", np.arange(6), {"standard_name": "time"})
        ),
        np.arange(6),
    ),
    "periods": (
        lambda: pd.DataFrame(
            np.zeros((6, 3)), index=pd.period_range("1999-11", periods=6, freq="M")
        ),
        DAYS,
    ),
    "dates of a table": (lambda: pd.DataFrame(np.zeros((6, 3)), index=DATES), DAYS),
    "dates in a zone": (lambda: pd.Series(np.zeros(6), index=DATES.tz_localize("UTC")), DAYS),
    "days of Python": (lambda: table([d.date() for d in DATES]), DAYS),
    "moments of Python in a zone": (
        lambda: table([d.tz_localize("Asia/Tokyo").to_pydatetime() for d in DATES]),
        DAYS,
    ),
    "Timestamps as objects": (lambda: table(list(DATES)), DAYS),
    "dates of no leap year of a table": (
        lambda: pd.DataFrame(np.zeros((6, 3)), index=xr.CFTimeIndex(noleap())),
        [0, 31, 59, 90, 120, 151],
    ),
    "categories of dates": (
        lambda: pd.DataFrame(np.zeros((6, 3)), index=pd.CategoricalIndex(DATES)),
        DAYS,
    ),
    "dates as text": (lambda: table(DATES.strftime("%Y-%m-%d")), DAYS),
    "months as text": (lambda: field(DATES.strftime("%Y-%m").to_numpy().astype("U")), DAYS),
    "a Dataset": (lambda: field(DATES).to_dataset(name="sst"), DAYS),
}


@pytest.mark.parametrize("kind", KINDS)
def test_times_are_read(kind):
    make, expected = KINDS[kind]
    data = make()
    found = find_times(data)
    expected = [1990, 1991, 1993, 1, 2, 3] if expected is None else expected
    np.testing.assert_allclose(found.values - found.values.min(), expected - np.min(expected))


@pytest.mark.parametrize(
    "data",
    [
        np.zeros((6, 3)),
        pd.DataFrame(np.zeros((6, 3))),
        pd.DataFrame(np.zeros((6, 3)), index=[4, 2, 0, 1, 3, 5]),
        table(list("abcdef")),
        table(["2000-02-31"] * 6),
        table([None] * 6),
        pd.DataFrame(np.zeros((6, 3)), index=pd.CategoricalIndex(list("abcabc"))),
        field([3, 1, 2, 0, 5, 4], "station", "station"),
        xr.DataArray(np.zeros((6, 3)), dims=("time", "cell")),
        field(list("abcdef")),
        None,
    ],
)
def test_what_has_no_times(data):
    assert find_times(data) is None


def test_missing_times_are_refused():
    dates = DATES.to_numpy().copy()
    dates[[2, 4]] = np.datetime64("NaT", "ns")
    with pytest.raises(ValueError, match=r"2 of 6 samples have no time in 'time'.*position 2"):
        find_times(field(dates))
    for missing in (None, pd.NaT, np.nan, pd.NA):
        for some in (noleap(), list(DATES), list(DATES.strftime("%Y-%m"))):
            index = [missing, *some[1:]]
            with pytest.raises(ValueError, match=r"1 of 6 samples have no time.*position 0"):
                find_times(table(index))


def test_names_of_samples_are_no_times():
    """pandas before 3, and read_csv of mixed text, keep names as objects."""
    X = np.random.default_rng(0).normal(size=(60, N_CELLS))
    y = (X[:, -1] > 0).astype(int)
    named = pd.DataFrame(X, index=pd.Index([f"case {k}" for k in range(60)], dtype=object))
    expected = skill_map(linear(), X, y, n_permutations=99, random_state=0)
    found = skill_map(linear(), named, y, n_permutations=99, random_state=0)
    np.testing.assert_array_equal(found.p_value, expected.p_value)
    assert found.true[-1]


def test_members_of_a_stack():
    whole = xr.DataArray(
        np.zeros((3, 6, N_CELLS)),
        dims=("member", "time", "cell"),
        coords={"member": ["b", "a", "c"], "time": DATES},
    )
    stacked = whole.stack(sample=("member", "time")).transpose("sample", "cell")
    shuffled = stacked[np.random.default_rng(0).permutation(18)]
    for data in (stacked, shuffled, shuffled.reset_index("sample")):
        order = order_by_time(find_times(data, "sample"))
        assert order.slots.shape == (6, 3)
        assert order.knows_members
        for t, row in enumerate(order.slots):
            assert (data.time.values[row] == DATES[t]).all()
            assert data.member.values[row].tolist() == ["a", "b", "c"]
    table = pd.DataFrame(
        np.zeros((18, 2)), index=pd.MultiIndex.from_product([["x", "y", "z"], DATES])
    )
    assert order_by_time(find_times(table)).slots.shape == (6, 3)


def test_order_of_samples_makes_no_difference():
    """Draws for draws: blocks are of the same samples, whatever the order they came in."""
    rng = np.random.default_rng(0)
    phi, y = series(rng, 0.8, 200, 5), series(rng, 0.8, 200)[:, 0]
    mixed = rng.permutation(200)
    question = Question(np.eye(1), y[:, None], None)
    plain = find_exchange(None, "auto", question, [phi], [])
    said = []
    other = find_exchange(
        None, "auto", Question(np.eye(1), y[mixed, None], None), [phi[mixed]], said,
        times_of(mixed),
    )  # fmt: skip
    assert other.block_length == plain.block_length > 1
    back = np.argsort(mixed)
    one = plain.draw(np.random.default_rng(1), 20)
    two = other.draw(np.random.default_rng(1), 20)
    np.testing.assert_array_equal(mixed[two[:, back]], one)
    assert "put into the order of 'time'" in said[0]
    np.testing.assert_array_equal(plain.units, other.units[back])
    # 30-day months or not: steps are even.
    dates = times_of(np.cumsum(np.tile([31, 28, 31, 30], 50))[mixed])
    again = find_exchange(
        None, "auto", Question(np.eye(1), y[mixed, None], None), [phi[mixed]], [], dates
    )
    assert again.block_length == plain.block_length


def test_samples_of_one_time_move_together():
    rng = np.random.default_rng(0)
    member, time = (x.ravel() for x in np.meshgrid(np.arange(4), np.arange(30), indexing="ij"))
    keep = np.setdiff1d(np.arange(120), [7, 50])  # two members lack a month
    keep = rng.permutation(keep)
    order = order_by_time(times_of(time[keep], member[keep]))
    exchange = Exchange(len(keep), None, 1, order.moved, "time")
    assert exchange.words == "30 times, whole, of 118 samples"
    assert Exchange(len(keep), None, 7, order.moved, "time").words == (
        "5 blocks of up to 7 neighbouring times"
    )
    for row in exchange.draw(rng, 20):
        assert sorted(row) == list(range(118))
        source, own = time[keep][row], time[keep]
        strays = 0
        for t in range(30):
            come = source[own == t]
            same = member[keep][row][own == t] == member[keep][own == t]
            strays += (~same | (come != np.bincount(come).argmax())).sum()
        assert strays <= 2  # those whose member was missing


def test_labels_are_exchanged_by_whole_winters():
    """Three months of each year, the first winter without its December, one without February."""
    month = np.array([m for year in range(20) for m in (12 * year, 12 * year + 1, 12 * year + 2)])
    month = np.delete(month, [0, 32])
    order = order_by_time(times_of(month))
    assert order.runs.shape == (20, 3)
    np.testing.assert_array_equal(order.runs[0], [-1, 0, 1])
    assert order.runs[10].tolist() == [29, 30, -1]
    rng = np.random.default_rng(3)
    phi, y = series(rng, 0.7, 240, 5)[month], series(rng, 0.7, 240)[month]
    found = estimate_in_time(y, phi, None, order)
    assert found.in_runs
    assert found.length <= 2
    said = []
    exchange = find_exchange(
        None, "auto", Question(np.eye(1), y, None), [phi], said, times_of(month)
    )
    assert "runs between gaps" in said[0]
    row = exchange.draw(rng, 1)[0]
    kept = [tuple(row[run]) for run in order.runs[1:10]]
    assert np.mean([(np.diff(run) == 1).all() for run in kept]) > 0.8


def dense(order, of_labels, of_cells, length):
    """Return the loss of blocks of one place and the widening, by loops over pairs."""
    t, n = order.steps, order.n_times
    true = kept = 1.0
    crossed = 0.0
    for i in range(n):
        for j in range(n):
            if i != j:
                product = (of_labels * of_cells) ** abs(t[i] - t[j])
                true += product / n
                crossed += product * abs(i - j) / n
    for k in range(1, n):
        y = np.mean([of_labels ** (t[i + k] - t[i]) for i in range(n - k)])
        phi = np.mean([of_cells ** (t[i + k] - t[i]) for i in range(n - k)])
        kept += 2 / n * (n - k) * y * phi * max(1 - k / length, 0)
    return crossed / true, np.sqrt(true / kept)


def test_uneven_steps_count_as_they_are():
    rng = np.random.default_rng(0)
    order = order_by_time(times_of(np.sort(rng.choice(300, 60, replace=False))))
    lost, wider = dense(order, 0.8, 0.7, 12)
    np.testing.assert_allclose(order.lost(0.8 * 0.7, np.arange(60)), lost, rtol=1e-3)
    np.testing.assert_allclose(order.widening(0.8, 0.7, 12), wider, rtol=1e-3)
    even = order_by_time(times_of(np.arange(60)))
    assert even.widening(0.8, 0.7, 12) == 1.0


def test_widened_errors_make_p_values_larger():
    rng = np.random.default_rng(0)
    phi, y = rng.normal(size=(80, 5)), rng.normal(size=(80, 1))
    y += 0.5 * phi[:, :1]
    scores = Question(np.eye(1), y, None).scores([phi])
    plain, wide = (
        permutation_test(scores, Exchange(80, widening=w), np.random.default_rng(1), 199)
        for w in (1.0, 1.3)
    )
    np.testing.assert_allclose(wide.largest, 1.3 * plain.largest)
    assert (wide.p_value >= plain.p_value).all()
    np.testing.assert_array_equal(wide.z, plain.z)


@pytest.mark.sweep(1)
@pytest.mark.parametrize("kind", ["shuffled", "chosen at random", "members", "nobody says which"])
def test_nothing_is_found_in_shuffled_series(kind):
    """The short form of docs/calibration.md: false cells nearly always if permuted singly."""
    n, n_series = 300, 60
    rho = 0.8 if kind == "chosen at random" else 0.7
    wrong = {"plain": 0, "by time": 0}
    told = 0
    for seed in range(n_series):
        rng = np.random.default_rng(seed)
        member = np.zeros(n, dtype=int)
        if kind in ("shuffled", "chosen at random"):
            whole = n if kind == "shuffled" else 3 * n
            time = rng.choice(whole, n, replace=False)
            phi, y = series(rng, rho, whole, 16)[time], series(rng, rho, whole)[time, 0]
        else:
            parts = [(series(rng, rho, n, 16), series(rng, rho, n)[:, 0]) for _ in range(3)]
            phi, y = (np.concatenate(each) for each in zip(*parts, strict=True))
            mixed = rng.permutation(3 * n)
            phi, y = phi[mixed], y[mixed]
            time, member = mixed % n, mixed // n * (kind == "members")
        question = Question(np.eye(1), y[:, None], None)
        for name, times in (("plain", None), ("by time", times_of(time, member))):
            exchange = find_exchange(None, "auto", question, [phi], [], times)
            test = permutation_test(question.scores([phi]), exchange, rng, 99)
            wrong[name] += int(test.p_value.min() <= 0.05)
        check_units(exchange, 0.05, is_estimated=True, in_time=True)
        told += exchange.block_length > 1
    assert told == n_series
    assert wrong["plain"] >= 0.3 * n_series
    assert wrong["by time"] <= (0.06 + 3 * np.sqrt(0.06 * 0.94 / n_series)) * n_series


def test_independent_samples_with_times_are_permuted_singly():
    found = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        phi, y = rng.normal(size=(100, 10)), rng.normal(size=(100, 1))
        time = rng.choice(250, 100, replace=False)
        exchange = find_exchange(
            None, "auto", Question(np.eye(1), y, None), [phi], [], times_of(time)
        )
        found += exchange.block_length > 1
    assert found <= 4


@pytest.fixture(scope="module")
def months():
    rng = np.random.default_rng(0)
    n = 240
    values, y = series(rng, 0.8, n, N_CELLS), (series(rng, 0.8, n)[:, 0] > 0).astype(int)
    values += 1.5 * (np.arange(N_CELLS) > 9) * (2 * y[:, None] - 1)
    time = pd.date_range("1990-01", periods=n, freq="MS")
    X = xr.DataArray(values, dims=("time", "cell"), coords={"time": time})
    mixed = rng.permutation(n)
    return X[mixed], xr.DataArray(y, dims="time", coords={"time": time})[mixed]


def test_samples_between_training_samples_are_said(months):
    X, y = months
    month = (12 * X.time.dt.year + X.time.dt.month).values.tolist()
    beside = sum({m - 1, m + 1} & set(month[1::2]) != set() for m in month[::2])
    for form in (lambda data: data, lambda data: data.to_pandas()):
        with pytest.warns(UserWarning, match=f"{beside} of 120 samples of X are next in time"):
            found = skill_map(
                linear(), form(X[::2]), y[::2].values, X_train=form(X[1::2]), random_state=0
            )
        assert any(f"{beside} of 120" in said for said in found.assumptions)


def test_neighbours_of_other_calendars_are_said(months):
    pytest.importorskip("cftime")
    X, y = (data.sortby("time") for data in months)
    noleap = xr.date_range("1990-01", periods=240, freq="MS", calendar="noleap", use_cftime=True)
    X = X.assign_coords(time=noleap)
    with pytest.warns(UserWarning, match="120 of 120 samples of X are next in time"):
        skill_map(linear(), X[::2], y[::2].values, X_train=X[1::2], random_state=0)
    held = skill_map(linear(), X[120:], y[120:].values, X_train=X[:120], random_state=0)
    assert not any("next in time" in said for said in held.assumptions)


def test_training_samples_and_members_are_no_neighbours(months):
    X, y = (data.sortby("time") for data in months)
    with pytest.warns(UserWarning, match="120 of 240 samples of X are among X_train"):
        found = skill_map(linear(), X, y, X_train=X[:120], random_state=0)
    assert not any("next in time" in said for said in found.assumptions)
    member = X.copy(data=X.values + 1e-3)
    found = skill_map(linear(), member, y, X_train=X, random_state=0)
    assert not any("next in time" in said for said in found.assumptions)


def test_steps_of_sequences_are_no_times_of_samples():
    rng = np.random.default_rng(0)
    y = (series(rng, 0.8, 120)[:, 0] > 0).astype(int)
    values = series(rng, 0.8, 120, N_CELLS) + 1.5 * (2 * y[:, None] - 1)
    steps = pd.date_range("1990-01", periods=N_CELLS, freq="MS")
    X = xr.DataArray(values, dims=("sample", "time"), coords={"time": steps})
    found = skill_map(linear(), X[::2], y[::2], X_train=X[1::2], random_state=0)
    assert not any("next in time" in said for said in found.assumptions)


def test_blocks_of_time_are_held_out_without_a_word(months, recwarn):
    X, y = months
    X, y = X.sortby("time"), y.sortby("time")
    parts = {
        "the last ten years": (slice(120, None), slice(120)),
        "years": (X.time.dt.year % 2 == 0, X.time.dt.year % 2 == 1),
    }
    for held, known in parts.values():
        skill_map(linear(), X[held], y[held], X_train=X[known], random_state=0)
    # Neighbours that are no more alike than others say nothing of each other.
    alone = X.copy(data=np.random.default_rng(0).normal(size=X.shape))
    labels = np.random.default_rng(1).permutation(240) % 2
    skill_map(linear(), alone[::2], labels[::2], X_train=alone[1::2], random_state=0)
    assert not [said for said in recwarn if "next in time" in str(said.message)]


def test_every_entry_point_takes_the_order_of_times(months):
    X, y = months
    net = linear()
    found = skill_map(net, X, y, n_permutations=99, random_state=0)
    assert "neighbouring samples" in found.exchange
    assert any("put into the order of 'time'" in said for said in found.assumptions)
    plain = skill_map(net, X.values, y.values, n_permutations=99, random_state=0)
    assert "240 single samples" in plain.exchange
    # The labels' own times do where the samples have none.
    other = skill_map(net, X.values, y.to_series(), n_permutations=99, random_state=0)
    assert other.exchange == found.exchange
    mapped = artifact_map(net, X, y, n_permutations=3, random_state=0)
    report = diagnose(net, X, y, n_permutations=3, max_samples=50, random_state=0)
    for assumptions in (mapped.assumptions, report.assumptions):
        assert any("put into the order of 'time'" in said for said in assumptions)
    few = np.argsort(X.time.values)[:30][np.random.default_rng(0).permutation(30)]
    assert np.isfinite(skill_mass(net, X.values[few], y.values[few], random_state=0)).all()
    with pytest.raises(ValueError, match="By the coordinate of time they must be permuted in"):
        skill_mass(net, X[few], y[few], random_state=0)


def test_what_is_given_goes_before_the_times(months):
    X, y = months
    net = linear()
    with pytest.warns(UserWarning, match="follow one another in 'time' are alike, so the"):
        found = skill_map(net, X, y, block_length=1, n_permutations=99, random_state=0)
    assert found.exchange == "240 single samples"
    assert any(said.endswith("the p-values are far too small.") for said in found.assumptions)
    found = skill_map(net, X, y, block_length=40, n_permutations=99, random_state=0)
    assert found.exchange == "6 blocks of 40 neighbouring samples"
    years = X.time.dt.year.values
    found = skill_map(net, X, y, groups=years, n_permutations=99, random_state=0)
    assert found.exchange == "20 groups, whole"


def test_estimates_of_even_steps_are_those_of_plain_series():
    rng = np.random.default_rng(0)
    phi, y = series(rng, 0.8, 300, 20), series(rng, 0.8, 300)
    found = estimate_in_time(y, phi, None, order_by_time(times_of(np.arange(300))))
    assert (found.length, found.rho) == estimate_block(y, phi)
    assert found.widening == 1.0


def test_too_few_units_in_time_say_what_helps():
    rng = np.random.default_rng(0)
    values, y = series(rng, 0.95, 12, N_CELLS), np.repeat([0, 1], 6)
    X = xr.DataArray(values, dims=("time", "cell"), coords={"time": np.zeros(12, int)})
    with pytest.raises(ValueError, match=r"1 time, whole, of 12.*independent.*block_length=1"):
        skill_map(linear(), X, y, random_state=0)
