"""Surrogates keep what their spectrum says, to rounding, and lose the pattern."""

import numpy as np
import pytest
import xarray as xr
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.pipeline import make_pipeline
from sklearn.utils import Bunch

from sklrp import MLPClassifier
from sklrp._frame import make_frame
from sklrp.datasets import make_squares
from sklrp.diagnostics.explained import Explained
from sklrp.diagnostics.surrogates import draw_surrogates, find_coherent
from sklrp.geo import GridVectorizer

FRAMES = {
    "field": make_frame((7, 10), layout="field"),
    "field, even": make_frame((8, 6), layout="field"),
    "channels first": make_frame((3, 6, 9), layout="field"),
    "channels last": make_frame((6, 9, 2), layout="field", channels="last"),
    "series": make_frame((31,), layout="sequence"),
    "variables": make_frame((30, 4), layout="sequence", channels="last"),
}


def draw(samples, frame, seed=0, **options):
    return draw_surrogates(samples, frame, np.random.default_rng(seed), **options)


def correlated(frame, n=20):
    """Return samples whose neighbours and channels are alike."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, *frame.entering))
    for axis in range(1, x.ndim):
        x = x + 0.8 * np.roll(x, 1, axis=axis)
    return x + rng.normal(size=frame.entering)


@pytest.mark.parametrize("name", FRAMES)
def test_spectra_stay(name):
    """The whole complex transform, not the half that is used; around a mean that stays."""
    frame = FRAMES[name]
    x = correlated(frame)
    drawn = draw(x, frame)
    assert drawn.shape == x.shape
    assert drawn.dtype == np.float64
    mean = x.mean(axis=0)
    channel = frame.channel_axis
    axes = [1 + i for i in range(len(frame.laid)) if i != channel]
    before, after = (np.fft.fftn(v - mean, axes=axes) for v in (x, drawn))
    scale = np.abs(before).max()
    np.testing.assert_allclose(np.abs(after), np.abs(before), atol=1e-12 * scale)
    inner = (slice(None),) + (0,) * len(axes)
    waves = [np.moveaxis(v, axes, range(1, 1 + len(axes)))[inner] for v in (before, after)]
    np.testing.assert_allclose(waves[1], waves[0], atol=1e-12 * scale)  # each sample's mean
    if channel is not None:
        one, other = (np.moveaxis(v, 1 + channel, 0) for v in (before, after))
        for i in range(len(one) - 1):
            np.testing.assert_allclose(
                other[i] * other[i + 1].conj(),
                one[i] * one[i + 1].conj(),
                atol=1e-12 * scale**2,
            )
    correlation = np.corrcoef((x - mean).ravel(), (drawn - mean).ravel())[0, 1]
    assert abs(correlation) < 0.3
    assert not np.allclose(draw(x, frame, 1), drawn)
    np.testing.assert_array_equal(draw(x, frame), drawn)


def test_correlations_at_every_lag_stay():
    """Circular cross-correlations of two variables, by their definition."""
    frame = FRAMES["variables"]
    x = correlated(frame)
    x -= x.mean(axis=0)
    drawn = draw(x, frame, pool=np.concatenate([x, -x]))
    for lag in range(30):
        expected, found = (
            (v[:, :, 0] * np.roll(v[:, :, 3], lag, axis=1)).sum(axis=1) for v in (x, drawn)
        )
        np.testing.assert_allclose(found, expected, atol=1e-10)


def test_land_stays_and_the_spectrum_nearly():
    frame = FRAMES["field, even"]
    x = correlated(frame, 200)
    x[:, :2, :3] = -99.0
    drawn = draw(x, frame)
    assert (drawn[:, :2, :3] == -99).all()
    spread = [np.delete(v.reshape(200, -1), [0, 1, 2, 6, 7, 8], axis=1).std() for v in (x, drawn)]
    assert spread[1] == pytest.approx(spread[0], rel=0.15)
    np.testing.assert_allclose(drawn.mean(axis=0), x.mean(axis=0), atol=1)


def test_cells_without_land_are_put_in_their_places():
    """Rows of the cells that a vectorizer keeps are transformed as the field that they are."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30, 6, 8)) + np.sin(np.arange(8))
    values[:, 2:4, 3:6] = np.nan
    data = xr.DataArray(
        values,
        dims=("time", "latitude", "longitude"),
        coords={"latitude": np.arange(6.0), "longitude": np.arange(8.0)},
    )
    clf = MLPClassifier((4,), max_epochs=1, random_state=0)
    explained = Explained(make_pipeline(GridVectorizer(), clf).fit(data, np.arange(30) % 2), data)
    assert explained.X.shape == (30, 42)
    drawn = draw(explained.X, explained.frame)
    field = draw(np.nan_to_num(values), make_frame((6, 8), layout="field"))
    there = ~np.isnan(values[0])
    np.testing.assert_allclose(
        explained.frame.bring(drawn)[0][there], field[0][there], rtol=1e-4, atol=1e-4
    )


class Given(ClassifierMixin, BaseEstimator):
    """Explains by a function of the samples."""

    classes_ = np.array([0, 1])

    def __init__(self, explains, table=False):
        self.explains, self.is_fitted_ = explains, True
        self.table = table

    def fit(self, X, y):
        return self

    def predict(self, X):
        return (X.reshape(len(X), -1)[:, 0] > 0).astype(int)

    def explain(self, X, *, target=None, return_details=False, **params):
        return self.explains(X), Bunch(score=np.ones(len(X)))


@pytest.fixture(scope="module")
def fields():
    """A pattern, the same in all samples of a class, in noise of its spectrum."""
    rng = np.random.default_rng(0)
    sign = np.where(np.arange(60) % 2, 1.0, -1.0)
    pattern = correlated(FRAMES["field"], 1)[0]
    pattern -= pattern.mean()
    again = np.repeat(pattern[np.newaxis], 60, axis=0)
    noise = draw(again, FRAMES["field"], 3, pool=np.stack([pattern, -pattern]))
    X = sign[:, None, None] * pattern + 0.5 * noise + 0.1 * rng.normal(size=(60, 7, 10))
    X[:, 0, 0] = np.abs(X[:, 0, 0]) * sign
    return X


@pytest.mark.parametrize(
    ("explains", "verdict"),
    [
        (lambda X: X, "fact"),
        (lambda X: X * np.linspace(-1, 2, 10), "fact"),
        (lambda X: np.ones_like(X), "undecided"),
        (lambda X: X + 20 * np.linspace(0, 1, 10), "undecided"),
        (lambda X: np.cos(1e6 * X), "undecided"),
    ],
    ids=["input", "gradient times input", "flat", "offset", "noise"],
)
def test_find_coherent(fields, explains, verdict):
    explained = Explained(Given(explains), fields, random_state=0)
    found = find_coherent(explained, 10)
    assert found.name == "coherent"
    assert found.verdict == verdict, found
    assert found.similarity.shape == (10, 2)
    assert found.surrogates.shape == (7, 10)
    assert found.interval[0] <= found.statistic <= found.interval[1]
    assert bool(found.advice) == (verdict != "fact")
    again = find_coherent(Explained(Given(explains), fields, random_state=0), 10)
    np.testing.assert_array_equal(again.similarity, found.similarity)


def test_halves_of_one_sample_tell_nothing(fields):
    """What no other half of the samples gives again is not told from noise."""
    found = find_coherent(
        Explained(Given(lambda X: X), fields[:1], X_train=fields, random_state=0), 5
    )
    assert np.isnan(found.null).all()
    assert found.interval[1] < 0.6
    assert found.verdict == "undecided"


def test_columns_of_a_table_are_permuted():
    seen = []

    def explains(X):
        seen.append(X)
        return X

    X = np.random.default_rng(0).normal(size=(40, 5))
    found = find_coherent(Explained(Given(explains), X, random_state=0), 2)
    assert "values of each feature" in found.question
    assert len(seen) == 3
    np.testing.assert_array_equal(np.sort(seen[1], axis=0), np.sort(X, axis=0))
    assert abs(np.corrcoef(seen[1].ravel(), X.ravel())[0, 1]) < 0.3


def test_squares_are_coherent_and_foreign_maps_refused():
    X, y, _ = make_squares(n_per_class=60, size=20, random_state=0)
    clf = MLPClassifier((32,), max_epochs=20, random_state=0).fit(X[:80], y[:80])
    explained = Explained(clf, X[80:], X_train=X[:80], rule="epsilon", random_state=0)
    assert find_coherent(explained, 5).verdict == "fact"
    given = Explained(clf, X[80:], relevance=X[80:])
    with pytest.raises(ValueError, match="relevance was made elsewhere"):
        find_coherent(given, 5)
