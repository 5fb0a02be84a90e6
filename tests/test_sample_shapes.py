"""Shapes that are likely mistakes, said or refused; callbacks, backends and half precision."""

from __future__ import annotations

import threading

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from sklearn.pipeline import make_pipeline
from skorch.callbacks import Checkpoint, EarlyStopping, LRScheduler
from torch.optim.lr_scheduler import ReduceLROnPlateau

import sklrp
from sklrp import CNNClassifier, ESNClassifier, LSTMClassifier, MLPClassifier, MLPRegressor
from sklrp.geo import GridVectorizer, explain
from sklrp.plotting import RelevanceDisplay

N = 24


def make_samples(*shape):
    X = np.random.default_rng(0).normal(size=(N, *shape))
    return X, np.arange(N) % 2


def networks(cls, **params):
    if cls is ESNClassifier:
        return ESNClassifier(10, random_state=0, **params)
    return cls(**{CNNClassifier: {"channels": (4,)}, LSTMClassifier: {"hidden_size": 5}}[cls],
               max_epochs=1, random_state=0, **params)  # fmt: skip


def test_two_axes_that_look_like_a_field_are_said_to_be_a_series():
    X, y = make_samples(18, 30)
    for samples in (X, X.reshape(N, -1)):
        with pytest.warns(
            UserWarning, match=r"18 channels of a series.*input_shape=\(1, 18, 30\)"
        ):
            networks(CNNClassifier, input_shape=(18, 30)).fit(samples, y)
        # Whatever a series or a field is by its axes alone is no news.
        assert networks(CNNClassifier, input_shape=(1, 18, 30)).fit(samples, y)
    for shape in ((6, 100), (3, 8), (1, 50), (18, 72)):
        networks(CNNClassifier, input_shape=shape).fit(*make_samples(*shape))


@pytest.mark.parametrize("make", [pd.Series, np.asarray, list])
def test_a_table_of_series_is_answered_with_the_line_that_works(make):
    series, y = make_samples(9, 2)
    X = pd.DataFrame({f"dim_{k}": [make(one[:, k]) for one in series] for k in (0, 1)})
    with pytest.raises(ValueError, match=r"a series in each cell, \['dim_0', 'dim_1'\]") as error:
        networks(LSTMClassifier).fit(X, y)
    line = str(error.value).partition("an ESN: ")[2].rstrip(".")
    np.testing.assert_array_equal(eval(line, {"np": np, "X": X}), series)


@pytest.mark.parametrize("n_channels", [1, 3, 4])
def test_channels_last_are_refused(n_channels):
    X, y = make_samples(16, 12, n_channels)
    match = rf"take for 16 channels of 12 x {n_channels}: .*np.moveaxis\(X, -1, 1\).*input_shape="
    with pytest.raises(ValueError, match=match):
        networks(CNNClassifier).fit(X, y)
    first = np.moveaxis(X, -1, 1)
    clf = networks(CNNClassifier).fit(first, y)
    assert clf.input_shape_ == (n_channels, 12 + 4, 12)
    with pytest.raises(ValueError, match=r"move its axes, np.moveaxis\(X, -1, 1\)"):
        networks(CNNClassifier, input_shape=(n_channels, 16, 12)).fit(X, y)
    with pytest.raises(ValueError, match=r"move its axes, np.moveaxis\(X, -1, 1\)"):
        clf.explain(X)


def test_channels_that_are_meant():
    X, y = make_samples(16, 12, 3)
    clf = networks(CNNClassifier, input_shape=(16, 12, 3)).fit(X, y)
    assert clf.explain(X).shape == X.shape
    few = networks(CNNClassifier).fit(*make_samples(3, 4, 4))  # nothing tells
    assert few.input_shape_ == (3, 4, 4)
    with pytest.raises(ValueError, match="transpose X; reshape would mix"):
        clf.predict(np.zeros((N, 3, 12, 16)))


@pytest.mark.parametrize("cls", [CNNClassifier, LSTMClassifier, ESNClassifier])
def test_other_numbers_of_steps(cls):
    X, y = make_samples(12, 2)
    clf = networks(cls, **({"kernel_size": 2} if cls is CNNClassifier else {})).fit(X, y)
    for call in (clf.predict, clf.explain, clf.decision_function, lambda X: sklrp.explain(clf, X)):
        with pytest.raises(ValueError, match=r"X has shape \(n_samples, 10, 2\), but.*, 12, 2\)"):
            call(X[:, :10])
    if hasattr(clf, "partial_fit"):
        with pytest.raises(ValueError, match=r"X has shape \(n_samples, 10, 2\)"):
            clf.partial_fit(X[:, :10], y)


@pytest.mark.parametrize("cls", [LSTMClassifier, ESNClassifier])
def test_two_variables_of_fields(cls):
    """The recipe: all channels of a column at a step, and maps for each variable."""
    X, y = make_samples(2, 4, 5)
    with pytest.raises(ValueError, match=r"input_shape=\(8, 5\) and sweep='right' or 'left'"):
        networks(cls).fit(X, y)
    clf = networks(cls, input_shape=(8, 5), sweep="right").fit(X, y)
    relevance = clf.explain(X)
    again = networks(cls, input_shape=(8, 5), sweep="right").fit(X.reshape(N, 8, 5), y)
    np.testing.assert_array_equal(relevance.reshape(N, 8, 5), again.explain(X.reshape(N, 8, 5)))

    coords = {"time": pd.date_range("2000", periods=N), "lat": np.arange(4) * 5.0 - 7}
    coords["lon"] = np.arange(5) * 5.0
    names = ("sst", "ssh")
    data = xr.Dataset({n: (tuple(coords), X[:, i]) for i, n in enumerate(names)}, coords)
    model = make_pipeline(
        GridVectorizer(layout="grid"), networks(cls, input_shape=(8, 5), sweep="right")
    ).fit(data, y)
    maps = explain(model, data)
    for i, name in enumerate(names):
        np.testing.assert_array_equal(maps[name], relevance[:, i])
    drawn = RelevanceDisplay.from_estimator(model, data.isel(time=slice(2)), kind="samples")
    image = drawn.artists_[0]["image"].get_array()
    np.testing.assert_allclose(np.asarray(image), relevance[0].sum(0), rtol=1e-6)


def test_members_are_no_cells():
    values = np.random.default_rng(0).normal(size=(3, 8, 2, 4))
    coords = {"member": [1, 2, 3], "time": np.arange(8), "lat": [0.0, 5], "lon": [0.0, 5, 9, 13]}
    field = xr.DataArray(values, coords, name="sst")
    with pytest.raises(ValueError, match=r"3 positions along 'member' would become cells.*stack"):
        GridVectorizer().fit(field)
    with pytest.raises(ValueError, match="along 'member' would become cells"):
        GridVectorizer().fit(field.to_dataset())
    stacked = field.stack(sample=("member", "time")).transpose("sample", ...)
    X = GridVectorizer(sample_dim="sample").fit_transform(stacked)
    np.testing.assert_array_equal(X, values.reshape(24, 8))
    assert GridVectorizer().fit_transform(field.isel(member=0)).shape == (8, 8)
    assert GridVectorizer(channel_dim="member").fit_transform(field).shape == (8, 24)
    model = make_pipeline(
        GridVectorizer(sample_dim="sample"), MLPClassifier((3,), max_epochs=1, random_state=0)
    ).fit(stacked, np.arange(24) % 2)
    maps = explain(model, stacked).unstack("sample").transpose(*field.dims)
    assert maps.sel(member=2).shape == (8, 2, 4)


# Callbacks


@pytest.mark.parametrize(
    ("callback", "remedy"),
    [
        (EarlyStopping(), "train_loss"),
        (EarlyStopping, "train_loss"),
        (("stop", EarlyStopping()), "train_loss"),
        (Checkpoint(), "train_loss_best"),
        (Checkpoint, "train_loss_best"),
        (LRScheduler(ReduceLROnPlateau, monitor="valid_loss"), "train_loss"),
    ],
)
def test_callbacks_that_need_validation(callback, remedy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where Checkpoint writes
    X, y = make_samples(6)
    clf = MLPClassifier((4,), max_epochs=2, callbacks=[callback], random_state=0)
    for fit in (clf.fit, clf.partial_fit):
        with pytest.raises(ValueError, match=rf"set early_stopping=True.*monitor='{remedy}'"):
            fit(X, y)
    clf.set_params(early_stopping=True).fit(X, y)
    name = callback[0] if isinstance(callback, tuple) else getattr(
        callback, "__name__", type(callback).__name__)  # fmt: skip
    clf.set_params(early_stopping=False, **{f"callbacks__{name}__monitor": remedy}).fit(X, y)


def test_callbacks_that_cannot_be_copied():
    class Logger(EarlyStopping):
        def __init__(self):
            super().__init__(monitor="train_loss")
            self.lock = threading.Lock()

    X, y = make_samples(6)
    match = r"Logger object.* cannot be copied \(TypeError: .*lock.*on_train_begin.*pass its class"
    with pytest.raises(TypeError, match=match):
        MLPClassifier((4,), callbacks=[Logger()]).fit(X, y)
    MLPClassifier((4,), max_epochs=1, callbacks=[Logger]).fit(X, y)


# Workers and precision


@pytest.mark.sweep(1)
@pytest.mark.parametrize("backend", ["multiprocessing", "threading", "loky"])
def test_backends(backend):
    X, y = make_samples(6)
    clf = MLPClassifier((4,), max_epochs=1, random_state=0).fit(X, y)
    with joblib.parallel_config(backend):
        relevance = clf.explain(X, n_jobs=2, batch_size=4)
    np.testing.assert_allclose(relevance, clf.explain(X), rtol=1e-12)


def test_half_precision():
    X, y = make_samples(6)
    half = X.astype(np.float16)
    network = torch.nn.Sequential(torch.nn.Linear(6, 2, bias=False)).double()
    right = sklrp.explain(network, half.astype(np.float64))
    found = sklrp.explain(network, half)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, right, rtol=1e-3, atol=1e-6)
    with torch.no_grad():
        network[0].weight.mul_(1e6)
    for given in (half, torch.from_numpy(half)):
        with pytest.raises(ValueError, match=r"too large for .*float16.*65504: give X as float32"):
            sklrp.explain(network, given)
    assert np.isfinite(sklrp.explain(network, half.astype(np.float32))).all()
    clf = MLPClassifier((4,), max_epochs=1, random_state=0).fit(half, y)
    assert clf.explain(half).dtype == np.float16
    with torch.no_grad():
        for parameter in clf.module_.parameters():
            parameter.mul_(1e4)
    with pytest.raises(ValueError, match="too large for float16"):
        clf.explain(half)


def test_dates_in_a_table_are_refused_by_name():
    table = pd.DataFrame({"a": range(4), "day": pd.date_range("2000", periods=4)})
    with pytest.raises(ValueError, match=r"\['day'\].*X\['day'\]\.dt\.dayofyear.*X\.drop\("):
        MLPClassifier().fit(table, [0, 1, 0, 1])


@pytest.mark.parametrize(
    ("labels", "dtype", "said"),
    [
        (["a", "b", np.nan, "a"], object, "NaN"),
        (["a", "b", None, "a"], object, "None"),
        (["a", "b", pd.NA, "a"], object, "<NA>"),
        ([0.0, 1.0, np.nan, 1.0], float, "NaN"),
        ([0.0, 1.0, None, 1.0], object, "None"),
    ],
)
def test_missing_targets_are_counted(labels, dtype, said):
    y = pd.Series(labels, dtype=dtype)
    for estimator in [MLPClassifier()] + [MLPRegressor()] * (labels[0] != "a"):
        with pytest.raises(ValueError, match=rf"y contains {said} \(1 of 4 values\).*X\[keep\]"):
            estimator.fit(np.ones((4, 2)), y)


@pytest.mark.parametrize("n", [1, 2])
def test_arrays_in_reverse_order(n):
    """NumPy calls a single row of them contiguous, though its stride is negative."""
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    weights = np.array([0.2, 0.3, 0.5])
    options = {"target": weights[::-1], "reference": np.zeros(3)[::-1]}
    found = sklrp.explain(net, X[::-1][:n], **options)
    expected = sklrp.explain(net, X[::-1][:n].copy(), target=weights[::-1].copy(), reference=0.0)
    np.testing.assert_array_equal(found, expected)
