"""Results kept in a memory: an interrupted run goes on, and does only what is missing."""

import pickle
import subprocess
import sys

import joblib
import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.linear_model import LogisticRegression
from torch import nn

from sklrp import MLPClassifier
from sklrp._kept import Kept, hash_parts
from sklrp._streams import Streams
from sklrp.datasets import make_squares
from sklrp.diagnostics import (
    artifact_map,
    diagnose,
    equivariance_test,
    focus_curve,
    randomization_test,
    skill_map,
)
from sklrp.skill import contributions
from tests.test_cli import ENVIRONMENT

X, Y, MASK = make_squares(n_per_class=40, size=8, random_state=0)
DATA = {"X": X[40:], "y": Y[40:]}
TRAIN = {"X_train": X[:40], "y_train": Y[:40]}


class Counting(MLPClassifier):
    """Counts trainings and explanations, and stops at one of them as Ctrl-C does."""

    left = np.inf
    done = 0

    @classmethod
    def count(cls):
        if cls.left <= 0:
            raise KeyboardInterrupt
        cls.left -= 1
        cls.done += 1

    def fit(self, X, y, sample_weight=None):
        self.count()
        return super().fit(X, y, sample_weight)

    def explain(self, X, **params):
        self.count()
        return super().explain(X, **params)


@pytest.fixture(scope="module")
def clf():
    return Counting((8,), max_epochs=3, random_state=0).fit(X[:40], Y[:40])


def counted(call, left=np.inf):
    """Call; return what it returns, and how often networks were trained and explained."""
    Counting.left, Counting.done = left, 0
    try:
        return call(), Counting.done
    except KeyboardInterrupt:
        return None, Counting.done
    finally:
        Counting.left = np.inf


def assert_same(one, other):
    """Compare all that two results hold, bit by bit."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            if name != "frame":
                assert_same(one[name], other[name])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    elif isinstance(one, np.ndarray | float):
        np.testing.assert_array_equal(one, other)
    elif hasattr(one, "tests"):
        assert repr(one) == repr(other)
        assert_same(dict(one.tests), dict(other.tests))
        assert_same(one.picture, other.picture)
    elif hasattr(one, "__dict__"):
        assert_same(vars(one), vars(other))
    else:
        assert one == other


def explain_nulls(clf, **params):
    return randomization_test(clf, **DATA, n_permutations=4, max_samples=10, **params)


CALLS = {
    "diagnose": lambda clf, **params: diagnose(
        clf, **DATA, **TRAIN, n_permutations=3, n_networks=3, n_refits=2, max_samples=8, **params
    ),
    "artifact_map": lambda clf, **params: artifact_map(
        clf, **DATA, **TRAIN, n_permutations=3, n_networks=3, max_samples=8, **params
    ),
    "nulls": explain_nulls,
    "labels": lambda clf, **params: explain_nulls(clf, null="labels", **TRAIN, **params),
    "equivariance": lambda clf, **params: equivariance_test(
        clf, **DATA, **TRAIN, n_refits=3, max_samples=8, **params
    ),
    "focus": lambda clf, **params: focus_curve(
        clf, "lr", [1e-3, 1e-2], *DATA.values(), cv=3, mask=MASK,
        **{name: value for name, value in params.items() if name != "random_state"},
    ),
}  # fmt: skip


@pytest.mark.sweep(1)
@pytest.mark.parametrize("name", CALLS)
def test_an_interrupted_call_does_only_what_is_missing(name, clf, tmp_path):
    call = CALLS[name]
    expected, total = counted(lambda: call(clf, random_state=0))
    _, once = counted(lambda: call(clf, random_state=0, memory=tmp_path / "whole"))
    assert once == total
    stop = total // 2
    nothing, before = counted(lambda: call(clf, random_state=0, memory=tmp_path), left=stop)
    assert nothing is None
    assert before == stop
    # The maps that are tested, and what was under way, are made again.
    found, after = counted(lambda: call(clf, random_state=0, memory=str(tmp_path)))
    assert before + after <= total + 3
    assert_same(found, expected)
    again, rest = counted(
        lambda: call(clf, random_state=0, memory=joblib.Memory(str(tmp_path), verbose=0))
    )
    assert rest <= 2
    assert_same(again, expected)


class Passing(nn.Module):
    """Counts the samples that pass it."""

    left = np.inf
    done = 0

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 2)

    def forward(self, x):
        if Passing.left < 0:
            raise KeyboardInterrupt
        Passing.left -= len(x)
        Passing.done += len(x)
        return self.layer(torch.tanh(x.flatten(1)))


def passed(call, left=np.inf):
    Passing.left, Passing.done = left, 0
    try:
        return call(), Passing.done
    except KeyboardInterrupt:
        return None, Passing.done
    finally:
        Passing.left = np.inf


def test_an_interrupted_skill_map_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(contributions, "_CHUNK_VALUES", 64 * 8)
    monkeypatch.setattr(contributions, "_BLOCK_VALUES", 64 * 16)
    torch.manual_seed(0)
    net = Passing().double()

    def call(**params):
        return skill_map(net, **DATA, n_permutations=49, n_draws=16, random_state=0, **params)

    expected, total = passed(call)
    assert total > 16 * 40
    nothing, _ = passed(lambda: call(memory=tmp_path), left=total // 2)
    assert nothing is None
    found, after = passed(lambda: call(memory=tmp_path))
    assert after < 0.75 * total
    assert_same(found, expected)
    again, rest = passed(lambda: call(memory=tmp_path))
    assert rest < total - 16 * 40  # no draw is made again
    assert_same(again, expected)


def test_a_model_without_a_gradient_goes_on_too(tmp_path, monkeypatch):
    calls = []
    flat = X.reshape(len(X), -1)[:, ::8]
    model = LogisticRegression().fit(flat[:40], Y[:40])
    original = LogisticRegression.predict_proba
    monkeypatch.setattr(
        LogisticRegression,
        "predict_proba",
        lambda self, X: (calls.append(1), original(self, X))[1],
    )

    def call(**params):
        return skill_map(model, flat[40:], Y[40:], n_permutations=49, random_state=0, **params)

    expected, total = call(), len(calls)
    assert_same(call(memory=tmp_path), expected)
    calls.clear()
    assert_same(call(memory=tmp_path), expected)
    assert len(calls) < total / 2


def test_without_a_random_state_the_seed_is_kept(clf, tmp_path):
    one, other = (explain_nulls(clf, memory=tmp_path) for _ in range(2))
    assert_same(one, other)
    assert one.statistic != explain_nulls(clf).statistic


@pytest.mark.sweep(2)
@pytest.mark.parametrize(
    "changed",
    [
        {"X": X[39:-1]},
        {"y": 1 - Y[40:]},
        {"rule": "z_plus"},
        {"epsilon": 0.1},
        {"random_state": 1},
        {"target": 0},
        {"n_permutations": 5},
        {"max_samples": 9},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_differs_is_not_taken_for_the_same(changed, clf, tmp_path):
    common = {**DATA, "n_permutations": 4, "max_samples": 10, "random_state": 0}
    randomization_test(clf, **common, memory=tmp_path)
    found = randomization_test(clf, **{**common, **changed}, memory=tmp_path)
    assert_same(found, randomization_test(clf, **{**common, **changed}))


def test_another_network_is_not_taken_for_the_same(clf, tmp_path):
    explain_nulls(clf, random_state=0, memory=tmp_path)
    other = Counting((8,), max_epochs=4, random_state=0).fit(X[:40], Y[:40])
    found = explain_nulls(other, random_state=0, memory=tmp_path)
    assert_same(found, explain_nulls(other, random_state=0))


def test_a_damaged_result_is_computed_again(tmp_path):
    kept = Kept(tmp_path, lambda: {"a": 1})
    assert kept.get(["b"], lambda: 2) == 2
    assert kept.get(["b"], lambda: 3) == 2
    for file in tmp_path.rglob("output.pkl"):
        joblib.dump(b"no pickle", file)
    with pytest.warns(UserWarning, match="cannot be read"):
        assert kept.get(["b"], lambda: 3) == 3
    assert kept.get(["b"], lambda: 4) == 3


def test_what_cannot_be_hashed_or_pickled_is_computed_each_time(tmp_path):
    with pytest.warns(UserWarning, match="cannot be hashed"):
        kept = Kept(tmp_path, lambda: {"a": (n for n in range(2))})
    assert kept.get(["b"], lambda: 2) == 2
    assert kept.get(["b"], lambda: 3) == 3
    kept = Kept(tmp_path, lambda: {"a": 1})
    with pytest.warns(UserWarning, match="cannot be kept"):
        assert kept.get(["c"], lambda: (n for n in range(2)))
    with pytest.raises(ValueError, match="memory"):
        Kept(3)


def test_nothing_is_kept_without_a_folder(clf):
    for memory in (None, joblib.Memory(None)):
        assert Kept(memory, lambda: {"a": 1}).get(["b"], lambda: 2) == 2
        assert Kept(memory, lambda: {"a": 1}).get(["b"], lambda: 3) == 3


class OtherMemory:
    """A memory of another library, as scikit-learn takes it."""

    def __init__(self):
        self.known = {}

    def cache(self, function):
        def call(key):
            if key not in self.known:
                self.known[key] = function(key)
            return self.known[key]

        return call


def test_other_memories():
    memory = OtherMemory()
    assert Kept(memory, lambda: {"a": 1}).get(["b"], lambda: 2) == 2
    assert Kept(memory, lambda: {"a": 1}).get(["b"], lambda: 3) == 2
    assert Kept(memory, lambda: {"a": 2}).get(["b"], lambda: 3) == 3


HASHING = """
import torch
from sklrp import LSTMClassifier, MLPClassifier
from sklrp._kept import hash_parts
from sklrp.datasets import make_squares
X, y, _ = make_squares(n_per_class=10, size=8, random_state=0)
for make in (LSTMClassifier, MLPClassifier):
    print(hash_parts({"network": make(4, max_epochs=2, random_state=0).fit(X, y)}))
"""


@pytest.mark.slow
def test_networks_of_equal_weights_have_one_hash_in_every_process():
    """Trainings take other times, and leave the network in another mode."""
    from sklrp import LSTMClassifier

    data = make_squares(n_per_class=10, size=8, random_state=0)[:2]
    done = subprocess.run(
        [sys.executable, "-c", HASHING],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=True,
    )
    nets = [
        make(4, max_epochs=2, random_state=0).fit(*data)
        for make in (LSTMClassifier, MLPClassifier)
    ]
    for net in nets:
        net.predict(data[0])
    assert done.stdout.split() == [hash_parts({"network": net}) for net in nets]
    assert hash_parts({"a": pickle.loads(pickle.dumps(nets[1]))}) == hash_parts({"a": nets[1]})
    with torch.no_grad():
        next(nets[1].module_.parameters()).view(-1)[0] += 1e-6
    assert done.stdout.split()[1] != hash_parts({"network": nets[1]})


def test_streams_say_what_they_come_from():
    assert Streams(Streams(3).entropy).rng("a").random() == Streams(3).rng("a").random()


def make_field(values=0.0, *, longitude=0.0, month=0, name="sst", units="K", dims=("time", "lon")):
    """Return a field whose values say nothing of where and when they are."""
    data = np.random.default_rng(0).normal(size=(24, 4)) + values
    months = np.datetime64("1980-01") + np.arange(month, month + 24).astype("m8[M]")
    places = months.astype("datetime64[ns]"), 90.0 * np.arange(4) + longitude
    coords = dict(zip(dims, places, strict=True))
    return xr.DataArray(data, coords, dims, name, {"units": units})


def make_series(month=0):
    return make_field(month=month)[:, 0].to_series()


@pytest.mark.parametrize(
    ("make", "changed"),
    [
        (make_field, {"values": 1.0}),
        (make_field, {"longitude": 180.0}),
        (make_field, {"month": 3}),
        (make_field, {"name": "ssh"}),
        (make_field, {"units": "degC"}),
        (make_field, {"dims": ("time", "lat")}),
        (make_series, {"month": 3}),
        (lambda **changed: make_field(**changed).to_dataset(), {"longitude": 180.0}),
        (lambda mask=0: np.ma.masked_equal([0, 1, 2], mask), {"mask": 1}),
    ],
)
def test_data_are_known_by_their_values_and_places(make, changed):
    same = hash_parts({"X": make()})
    assert hash_parts({"X": make()}) == same
    assert hash_parts({"X": pickle.loads(pickle.dumps(make()))}) == same
    assert hash_parts({"X": make(**changed)}) != same


def test_a_verdict_is_of_the_times_that_are_given(clf, tmp_path):
    """Samples of one time are permuted as a whole."""
    found = []
    for day in (np.arange(40), np.arange(40) // 2):
        time = np.datetime64("2000-01-01", "ns") + day * np.timedelta64(1, "D")
        field = xr.DataArray(X[40:], {"time": time}, ("time", "lat", "lon"))
        options = {"X_train": X[:40], "n_permutations": 3, "random_state": 0}
        report = diagnose(clf, field, Y[40:], memory=tmp_path, **options)
        alone = diagnose(clf, field, Y[40:], **options)
        assert report.to_frame().equals(alone.to_frame())
        found.append(alone.tests["skilled"].reading)
    assert found[0] != found[1]


def test_a_finding_lies_on_the_grid_that_is_given(clf, tmp_path):
    """Values of a field that was given other coordinates since are the same."""
    for latitude in (np.arange(8.0), np.arange(8.0) + 40):
        field = xr.DataArray(
            X[40:], {"lat": latitude, "lon": np.arange(8.0)}, ("time", "lat", "lon")
        )
        report = diagnose(
            clf, field, Y[40:], X_train=X[:40], n_permutations=3, memory=tmp_path, random_state=0
        )
        for finding in report.tests.values():
            np.testing.assert_array_equal(finding.frame.latitude, latitude)
