"""Values that are of the right kind, but wrong where they are given.

Pairs that contradict each other, labels and columns of another order or model, degenerate data:
each is refused by the parameter's name with a remedy, before anything is trained or drawn.
"""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

import sklrp
from sklrp import MLPClassifier, MLPRegressor, geo
from sklrp.diagnostics import artifact_map, audit, diagnose, focus_curve, skill_map
from sklrp.metrics import pixel_flipping_curve, relevance_mass
from tests.helpers.fields import make_field

rng = np.random.default_rng(0)
Y = np.arange(24) % 2
X = rng.normal(size=(24, 6)) + Y[:, None]
TABLE = pd.DataFrame(X, columns=list("abcdef"))
FEW = {"n_permutations": 3, "max_samples": 10, "random_state": 0}


def network(**params):
    return MLPClassifier((4,), **{"max_epochs": 1, "random_state": 0, **params})


@pytest.fixture(scope="module")
def clf():
    return network().fit(X, Y)


@pytest.fixture(scope="module")
def of_table():
    return network().fit(TABLE, Y)


@pytest.fixture(scope="module")
def fields():
    return make_field(24).fillna(0.0)


@pytest.fixture(scope="module")
def pipeline(fields):
    return make_pipeline(geo.GridVectorizer(), network()).fit(fields, Y)


FITS = {
    "labels of two types": ({"y": np.array([1, "a"] * 12, object)}, {}, "labels of one type"),
    "a flag as weight": ({"sample_weight": True}, {}, "sample_weight must be None, or hold"),
    "a text as weight": ({"sample_weight": "a"}, {}, "sample_weight must be None, or hold"),
    "endless weights": ({"sample_weight": [10**400] * 24}, {}, "sample_weight must be an array"),
    "an argument of the optimizer": ({}, {"optimizer__betas": (2, 3)}, "optimizer__betas"),
    "a text for it": ({}, {"optimizer__betas": "a"}, "optimizer__betas"),
    "a huge integer": ({"X": [[10**400] * 6] * 24}, {}, "X must hold numbers of 64 bits"),
    "no samples at all": ({"X": None}, {}, "X must hold samples, got None"),
}


@pytest.mark.parametrize("name", FITS)
def test_fit(name):
    given, params, message = FITS[name]
    with pytest.raises((ValueError, TypeError), match=message):
        network(**params).fit(**{"X": X, "y": Y, **given})


@pytest.mark.parametrize(
    ("classes", "shown"), [([0, 1, np.nan], "nan"), ([[0, 1]], r"\(1, 2\)"), ("01", "'01'")]
)
def test_classes_of_parts(classes, shown):
    with pytest.raises(ValueError, match=f"classes must hold one label for each class.*{shown}"):
        network().partial_fit(X, Y, classes=classes)


WEIGHTS = {
    "negative": (-np.ones(24), "Negative values"),
    "of zero": (np.zeros(24), "non-zero"),
    "infinite": (np.full(24, np.inf), "infinity"),
    "too few": (np.ones(23), r"\(23,\)"),
    "of a text": (["a"] * 24, "sample_weight must be an array of numbers"),
    "a flag": (True, "got True"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_score_takes_the_weights_that_fit_takes(name, clf):
    weight, message = WEIGHTS[name]
    reg = MLPRegressor((4,), max_epochs=1, random_state=0).fit(X, X[:, 0])
    calls = [
        lambda: clf.score(X, Y, sample_weight=weight),
        lambda: reg.score(X, X[:, 0], sample_weight=weight),
        lambda: network().fit(X, Y, sample_weight=weight),
    ]
    for call in calls:
        with pytest.raises((ValueError, TypeError), match=message):
            call()


@pytest.mark.parametrize("call", [skill_map, artifact_map, diagnose, audit])
def test_columns_in_another_order(call, of_table):
    params = {"n_permutations": 19} if call is skill_map else FEW
    params = {k: v for k, v in params.items() if call is not audit or k != "n_permutations"}
    turned = TABLE[list("fedcba")]
    message = r"the model was fitted on .* in another order: select those in their order"
    with pytest.raises(ValueError, match=f"X_train has the columns .*{message}"):
        call(of_table, TABLE, y=Y, X_train=turned, **params)
    with pytest.raises(ValueError, match=f"X has the columns .*{message}"):
        call(of_table, turned, y=Y, **params)


def test_columns_of_a_plain_model():
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression().fit(TABLE, Y)
    with pytest.raises(ValueError, match="X_train has the columns"):
        skill_map(model, TABLE, Y, X_train=TABLE[list("fedcba")], n_permutations=19)


def test_maps_of_fields_are_put_in_order(pipeline, fields):
    maps = geo.explain(pipeline, fields)
    found = [
        artifact_map(pipeline, fields, Y, relevance=given, **FEW)["mean"]
        for given in (maps, maps[:, ::-1], maps[::-1], maps.transpose("lon", "lat", "time"))
    ]
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
    turned = fields.transpose("lat", "lon", "time")  # a vectorizer finds the samples
    for given in (maps, geo.explain(pipeline, turned), maps.to_numpy()):
        other = artifact_map(pipeline, turned, Y, relevance=given, **FEW)["mean"]
        np.testing.assert_array_equal(other, found[0])
    strange = maps.assign_coords(lat=maps.lat + 1)
    with pytest.raises(ValueError, match="relevance has other latitudes"):
        diagnose(pipeline, fields, Y, relevance=strange, **FEW)
    later = maps.assign_coords(time=maps.time + np.timedelta64(400, "D"))
    with pytest.raises(ValueError, match="relevance has other coordinates along 'time'"):
        audit(pipeline, fields, later)


DEGENERATE = {
    "one class": ({"y": np.zeros(24, int)}, "y holds the class 0 only"),
    "one map": ({"max_samples": 1}, "greater max_samples than 1"),
    "the same sample": ({"X": np.ones((24, 6))}, "all 24 samples of X are the same"),
}


@pytest.mark.parametrize("call", [artifact_map, diagnose])
@pytest.mark.parametrize("name", DEGENERATE)
def test_nothing_to_be_told(name, call, clf):
    given, message = DEGENERATE[name]
    with pytest.raises(ValueError, match=message):
        call(clf, **{"X": X, "y": Y, **FEW, **given})


def test_weights_that_hide_the_mask():
    maps, mask = np.ones((3, 6)), np.arange(6) < 3
    assert relevance_mass(maps, mask, weights=np.arange(6.0)) == pytest.approx(3 / 15)
    with pytest.raises(ValueError, match="weights are 0 on all of the mask"):
        relevance_mass(maps, mask, weights=[0, 0, 0, 1, 1, 1])


@pytest.mark.parametrize("params", [{"a": 1}, {1: 2}])
def test_parameters_that_fit_does_not_take(params):
    with pytest.raises(ValueError, match=r"params has .* which fit of MLPClassifier does not"):
        focus_curve(network(), "weight_decay", [0.0], X, Y, params=params, cv=2)


def test_fields_of_no_numbers(fields):
    for odd in (fields.astype(str), fields + 0j):
        for call in (
            lambda odd=odd: geo.box_mean(odd),
            lambda odd=odd: geo.pattern_correlation(fields, odd),
            lambda odd=odd: geo.composites(odd, Y, Y),
            lambda odd=odd: geo.AnomalyTransformer().fit(odd),
        ):
            with pytest.raises(ValueError, match=r"must hold (real )?numbers.* dtype"):
                call()
    with pytest.raises(ValueError, match="rename those"):
        geo.pattern_correlation(fields, fields.rename(lat="latitude"))
    for step in (geo.AnomalyTransformer(), geo.GridVectorizer()):
        with pytest.raises(ValueError, match="no sample"):
            step.fit(fields[:0])
    with pytest.raises(ValueError, match="X has no samples"):
        geo.GridVectorizer().fit(fields).transform(fields[:0])


def test_errors_stay_short(clf):
    long = "a" * 100_000
    calls = [
        lambda: network(activation=long).fit(X, Y),
        lambda: network(device=long).fit(X, Y),
        lambda: sklrp.Gamma(long).validate(),
        lambda: geo.box_mean(xr.DataArray([1.0], {"lat": [0.0]}, ["lat"]), lat=long),
        lambda: sklrp.explain(clf, X, rule=long),
        lambda: pixel_flipping_curve(clf, X, np.ones((24, 6)), order=long),
        lambda: clf.predict_proba([long]),
    ]
    for call in calls:
        with pytest.raises((ValueError, TypeError)) as caught:
            call()
        assert len(str(caught.value)) <= 900


def test_one_weight_for_all(clf):
    one, each = (clone(clf).fit(X, Y, sample_weight=w) for w in (2.0, np.full(24, 2.0)))
    np.testing.assert_array_equal(one.decision_function(X), each.decision_function(X))


def test_labels_of_numpy_are_text_too(clf):
    labels = np.array(["a", np.str_("b")] * 12, dtype=object)
    assert clone(clf).fit(X, labels).classes_.tolist() == ["a", "b"]
