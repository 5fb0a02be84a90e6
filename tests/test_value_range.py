"""Warnings of samples far from those that a network was trained on."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from sklrp import MLPClassifier
from sklrp._models import unwrap
from sklrp._value_range import warn_if_far


@pytest.fixture(scope="module")
def known():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 12))
    y = np.where(X[:, 0] > 0, "warm", "cold")
    return MLPClassifier((4,), max_epochs=2, random_state=0).fit(X, y), X, y


def said_of(*args, **kwargs):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_if_far(*args, **kwargs)
    return [str(warning.message) for warning in caught]


def test_it_warns_of_other_units_and_of_nothing_else(known):
    clf, X, _ = known
    assert said_of(unwrap(clf), X) == []
    assert said_of(unwrap(clf), 1.4 * X) == []
    (said,) = said_of(unwrap(clf), X + 273.15, name="data")
    assert said.startswith("100% of the values in data (")
    assert f"trained on ({X.min():.4g} to {X.max():.4g}): give it what it was" in said
    one_cell = X.copy()
    one_cell[0, 0] = 1e6
    assert said_of(unwrap(clf), one_cell) == []


def test_behind_steps_it_names_them(known):
    _, X, y = known
    pipeline = make_pipeline(StandardScaler(), MLPClassifier((4,), max_epochs=2)).fit(X, y)
    model = unwrap(pipeline)
    (said,) = said_of(model, model.enter(X + 273.15))
    assert said.startswith("100% of the values that the model's steps make of X (")
    assert said.endswith("give it data in the units and of the kind that it was fitted on.")


def test_a_bare_module_is_held_against_training_samples(known):
    _, X, _ = known
    model = unwrap(nn.Sequential(nn.Linear(12, 2)))
    assert said_of(model, X + 100) == []
    assert said_of(model, X + 100, lambda: X)
    assert said_of(model, X[:30], lambda: X[30:]) == []


def test_it_says_nothing_of_what_it_cannot_compare(known):
    clf, X, _ = known
    model = unwrap(nn.Sequential(nn.Linear(12, 2)))
    for given in ((X + 100, X), {"one": X + 100}, X[:0], pd.DataFrame({"text": ["a", "b"]})):
        assert said_of(model, given, lambda: X) == []
    assert said_of(unwrap(clf), np.full((3, 12), np.nan)) == []
    assert said_of(model, X, lambda: np.full((3, 12), np.nan)) == []
    assert said_of(unwrap(clf), np.full((3, 12), np.inf)) == []


def test_of_samples_in_a_file_some_are_read(known, tmp_path):
    clf, X, _ = known
    np.save(tmp_path / "x.npy", np.tile(X + 100, (50, 1)))
    stored = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert said_of(unwrap(clf), stored)


def test_fields_in_other_units_are_warned_of_once():
    xr = pytest.importorskip("xarray")
    from sklrp import geo

    rng = np.random.default_rng(0)
    coords = {"lat": np.arange(4.0), "lon": np.arange(5.0)}
    fields = xr.DataArray(rng.normal(size=(40, 4, 5)), coords, ("time", "lat", "lon"))
    y = np.where(fields[:, 0, 0] > 0, "warm", "cold")
    pipeline = make_pipeline(geo.GridVectorizer(), MLPClassifier((4,), max_epochs=2))
    pipeline.fit(fields, y)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        geo.explain(pipeline, fields)
        assert not caught
        geo.explain(pipeline, fields + 273.15)
    assert len(caught) == 1
    assert "that the model's steps make of data" in str(caught[0].message)
