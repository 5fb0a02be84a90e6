"""What a report says beside its verdict: predictions at chance, mistakes, samples far away."""

import warnings

import numpy as np
import pytest
import xarray as xr
from sklearn.pipeline import make_pipeline

from sklrp import MLPClassifier, MLPRegressor
from sklrp.diagnostics import artifact_map, diagnose, skill_map
from sklrp.geo import GridVectorizer

FEW = {"n_permutations": 5, "max_samples": 50, "random_state": 0}


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 12)).astype(np.float32)
    y = np.where(X[:, 0] + 0.5 * rng.normal(size=400) > 0, "warm", "cold")
    return MLPClassifier((8,), max_epochs=20, random_state=0).fit(X[:200], y[:200]), X, y


def diagnosed(table, shift=0.0):
    clf, X, y = table
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = diagnose(clf, X[200:] + shift, y[200:], X_train=X[:200], **FEW)
    return report, [str(w.message) for w in caught]


@pytest.fixture(scope="module")
def shifted(table):
    return diagnosed(table, 40.0)


def test_predictions_of_one_class_are_said(table, shifted):
    clf, X, _ = table
    report, _ = shifted
    only = np.unique(clf.predict(X[200:] + 40.0))
    assert len(only) == 1
    skilled = report.questions["skilled"]
    assert (skilled.verdict, skilled.statistic) == ("fact", 0.5)
    said = f"It predicts {only.item()!r} for all 200 samples: it ranks them, but its predictions "
    assert skilled.caution.startswith(f"{said}are at chance.")
    assert "skilled" in report.cautions
    assert "skilled" not in report.reasons
    assert f"  skilled: {skilled.caution}" in repr(report).splitlines()
    assert "for all 200 samples" in report._repr_html_()
    assert skilled.caution in repr(skilled)


def test_what_is_tested_stands_beside_the_effect(shifted):
    report, _ = shifted
    skilled = report.questions["skilled"]
    (line,) = [line for line in repr(report).splitlines() if line.startswith("  skilled  ")]
    p = f"{skilled.p_value:.3g}"
    assert line.endswith(f"(tested: mean score of the truth {skilled.total:.3g}, p = {p})")
    assert f"the mean score of the truth, {skilled.total:.3g}, against" in skilled.reading


def test_a_good_network_has_no_such_caution(table):
    report, said = diagnosed(table)
    assert report.questions["skilled"].caution == ""
    assert "skilled" not in report.cautions
    assert "audit" not in report.cautions
    assert said == []


def test_what_the_audit_found_is_said_in_words(shifted):
    report, _ = shifted
    (found,) = report.tests["audit"].audit.mistakes
    assert found.name == "preprocessing"
    (line,) = [line for line in repr(report).splitlines() if line.startswith("  audit: ")]
    assert line == (
        f"  audit: X is scaled otherwise than the training samples: {found.seen}. {found.remedy}"
    )
    assert found.seen in report._repr_html_()


def test_nearly_all_are_of_one_class(table):
    clf, X, _ = table
    rows = np.flatnonzero((np.arange(400) >= 200) & (clf.predict(X) == "cold"))
    rows = np.append(rows, np.flatnonzero((np.arange(400) >= 200) & (clf.predict(X) == "warm"))[0])
    flipped = np.where(X[rows, 0] > np.median(X[rows, 0]), "warm", "cold")
    report = diagnose(clf, X[rows], flipped, X_train=X[:200], **FEW)
    skilled = report.questions["skilled"]
    assert skilled.verdict == "fact"
    assert f"for {len(rows) - 1} of {len(rows)} samples" in skilled.caution


def test_values_of_another_level_are_said():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 8)).astype(np.float32)
    reg = MLPRegressor((8,), max_epochs=20, random_state=0).fit(X[:150], X[:150, 0])
    report = diagnose(reg, X[150:], X[150:, 0] + 273.15, X_train=X[:150], **FEW)
    skilled = report.questions["skilled"]
    assert skilled.verdict == "fact"
    assert skilled.caution.startswith("Its R2 is -")
    assert "units" in skilled.caution
    report = diagnose(reg, X[150:], X[150:, 0], X_train=X[:150], **FEW)
    assert report.questions["skilled"].caution == ""


def test_samples_far_from_training_are_warned_of_once(table, shifted):
    clf, X, y = table
    (said,) = shifted[1]
    assert said.startswith("100% of the values in X (")
    for ask in (skill_map, artifact_map):
        with pytest.warns(UserWarning, match="far outside those that the model was") as caught:
            ask(clf, X[200:] + 40, y[200:], X_train=X[:200], n_permutations=19, random_state=0)
        assert len(caught) == 1


def test_other_units_are_warned_of_once_in_a_call():
    rng = np.random.default_rng(0)
    sst = xr.DataArray(
        rng.normal(size=(120, 3, 4)), dims=("time", "lat", "lon"),
        coords={"lat": [-1.0, 0, 1], "lon": [0.0, 1, 2, 3]}, name="sst", attrs={"units": "K"},
    )  # fmt: skip
    y = sst.values[:, 0, 0] > 0
    model = make_pipeline(GridVectorizer(), MLPClassifier((4,), max_epochs=3, random_state=0))
    model.fit(sst[:60], y[:60])
    other = sst.assign_attrs(units="degC")
    for ask, more in ((diagnose, {"n_permutations": 3}), (skill_map, {"n_permutations": 19})):
        with pytest.warns(UserWarning, match="sst") as caught:
            ask(model, other[60:], y[60:], X_train=other[:60], random_state=0, **more)
        assert [str(w.message).partition(":")[0] for w in caught] == [
            "sst is in 'degC', but in 'K' in fit"
        ]


@pytest.mark.parametrize("ask", [skill_map, diagnose])
def test_codes_in_place_of_text_have_a_remedy(table, ask):
    clf, X, y = table
    remedy = (
        r"the classes of the model are \['cold', 'warm'\].*np.array\(\['cold', 'warm'\]\)\[y\]"
    )
    with pytest.raises(ValueError, match=remedy):
        ask(clf, X[200:], (y[200:] == "warm").astype(int))
    with pytest.raises(ValueError, match="unknown labels 7") as error:
        ask(clf, X[200:], np.full(200, 7))
    assert "np.array" not in str(error.value)


def test_intervals_of_accuracies_end_where_they_do():
    """Blocks of neighbours widen an interval, which would end beyond 1."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(20) % 2, 8)
    X = rng.normal(size=(160, 6)).astype(np.float32)
    X[:, 0] = 4 * y - 2 + 0.9 * X[:, 0]
    clf = MLPClassifier((4,), max_epochs=30, random_state=0).fit(X[:80], y[:80])
    report = diagnose(clf, X[80:], y[80:], block_length=8, **FEW)
    low, high = report.questions["skilled"].interval
    assert 0 <= low <= report.questions["skilled"].statistic <= high <= 1


def test_what_could_not_be_told_is_a_dash(table):
    """A network whose skill is told apart nowhere has no place to compare with."""
    clf, X, y = table
    shuffled = np.random.default_rng(0).permutation(y[200:])
    report = diagnose(clf, X[200:], shuffled, X_train=X[:200], **FEW)
    assert np.isnan(report.questions["true"].statistic)
    assert "  true          undecided            –  null 0" in repr(report).splitlines()
    assert "nan" not in repr(report) + repr(report.questions["true"])
    assert ">nan" not in report._repr_html_()
