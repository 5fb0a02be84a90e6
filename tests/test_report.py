"""The report: what convicts, what must be fact, what is said, and what is left on disk."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from sklrp.diagnostics import diagnose
from sklrp.diagnostics.findings import Finding
from sklrp.diagnostics.report import NEEDED, QUESTIONS, ArtifactReport
from sklrp.plotting import ArtifactDisplay

FACT = dict.fromkeys(NEEDED, "fact")


def finding(name, verdict, **entries):
    return Finding(
        name=name,
        question="?",
        statistic=0.5,
        interval=(0.4, 0.6),
        null=np.array([0.1]),
        verdict=verdict,
        reading="of <all>",
        advice="" if verdict == "fact" else f"Change {name}.",
        table={"a": np.arange(2)},
        **entries,
    )


def make_report(verdicts, confirmed=()):
    found = [finding(n, v, confirmed=n in confirmed) for n, v in verdicts.items()]
    return ArtifactReport(found, "x", ["Something was taken for granted."])


@pytest.mark.parametrize(
    ("changes", "expected", "reasons"),
    [
        ({}, "fact", []),
        *(({name: "undecided"}, "undecided", [name]) for name in NEEDED),
        *(({name: "artifact"}, "artifact", [name]) for name in NEEDED),
        ({"skilled": "undecided", "bias": "artifact"}, "artifact", ["bias"]),
        ({"degeneracy": "artifact", "mask": "artifact"}, "artifact", ["degeneracy", "mask"]),
        ({"bias": "undecided", "degeneracy": "undecided"}, "fact", []),
        # Names of causes.
        ({"readout": "artifact", "labels": "artifact", "fading": "artifact"}, "fact", []),
        ({"border": "artifact", "grid": "artifact", "outliers": "artifact"}, "fact", []),
    ],
)
def test_verdict_of_a_report(changes, expected, reasons):
    verdicts = {**FACT, **changes}
    report = make_report(verdicts)
    assert report.verdict == expected
    assert report.reasons == reasons
    assert report.cautions == [n for n in changes if changes[n] != "fact" and n not in reasons]
    assert list(report.to_frame().index) == list(verdicts)
    text = repr(report)
    assert text == f"{report.sentence}\n{text.partition(chr(10))[2]}"
    assert report.sentence.startswith(expected.capitalize())
    assert "Something was taken for granted." in text
    for name in reasons:
        assert f"Change {name}." in text


def test_confirmed_patterns_convict():
    patterns = {"border": "artifact", "grid": "artifact"}
    report = make_report(FACT | patterns, confirmed=["grid"])
    assert (report.verdict, report.reasons, report.cautions) == ("artifact", ["grid"], ["border"])
    assert report.sentence == "Artifact: Change grid."


@pytest.mark.parametrize("name", NEEDED)
def test_what_was_not_asked_is_no_fact(name):
    """Of maps made elsewhere no untrained network's are known; all else has to be asked."""
    report = make_report({other: "fact" for other in NEEDED if other != name})
    if name == "randomization":
        assert report.verdict == "fact"
        return
    assert report.verdict == "undecided"
    assert report.reasons == []
    assert report.sentence == f"Undecided: not told whether {NEEDED[name]}."
    assert repr(report).startswith(report.sentence)


def test_a_cause_that_was_not_found_is_no_fact():
    lines = repr(make_report({"skilled": "fact", "bias": "fact", "grid": "artifact"})).splitlines()
    said = {line.split()[0]: " ".join(line.split()[1:]) for line in lines if line.startswith("  ")}
    assert said["skilled"].startswith("fact 0.5")
    assert said["bias"].startswith("no sign of it 0.5")
    assert said["grid"].startswith("found 0.5")


def test_a_fact_says_where_its_mass_does_not_show_it():
    found = [finding(name, "fact") for name in NEEDED]
    said = ArtifactReport(found, "x").sentence
    assert said.endswith("more than the input does.")
    true = next(test for test in found if test.name == "true")
    true["caution"] = "3 cells hold 5 % of the map, no more than of the input."
    report = ArtifactReport(found, "x")
    assert report.verdict == "fact"
    assert "though the cells found one by one do not show it" in report.sentence
    assert f"  true: {true.caution}" in repr(report).splitlines()


def test_questions_are_answered_by_tests():
    report = make_report({"skilled": "fact", "randomization": "artifact", "fading": "fact"})
    assert list(report.questions) == ["skilled", "learned"]
    assert report.questions["learned"] is report.tests["randomization"]
    assert "  learned       artifact  " in repr(report)
    assert set(NEEDED) <= set(QUESTIONS.values())


def test_a_question_is_among_the_tests():
    tests = make_report({"randomization": "fact"}).tests
    assert "randomization" in tests
    assert "learned" in tests
    assert tests["learned"] is tests.get("learned") is tests["randomization"]
    assert "placed" not in tests
    assert tests.get("placed") is None
    with pytest.raises(KeyError, match="placed"):
        tests["placed"]


def test_reasons_are_named_as_they_are_printed():
    verdicts = FACT | {
        "randomization": "artifact",
        "equivariance": "undecided",
        "grid": "artifact",
    }
    report = make_report(verdicts)
    assert report.reasons == ["learned"]
    assert report.cautions == ["placed", "grid"]
    lines = repr(report).splitlines()
    assert "learned: Change randomization." in lines
    assert "To keep in mind: placed, grid" in lines
    table = report.to_frame()
    assert list(table.index) == [*FACT, "learned", "placed", "grid"]
    assert list(table.index[table["caution"]]) == report.cautions
    for name, test in (("learned", "randomization"), ("placed", "equivariance"), ("grid", "grid")):
        assert report.tests[name] is report.tests[test]
    with pytest.raises(KeyError, match="stable"):
        report.tests["stable"]


def test_reports_are_not_left_half_written(tmp_path, monkeypatch):
    report = make_report(FACT)
    target = tmp_path / "report.html"
    target.write_text("before")
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        report.to_html(target)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert target.read_text() == "before"
    with pytest.raises(FileNotFoundError):
        report.to_html(tmp_path / "nowhere" / "report.html")


@pytest.fixture(scope="module")
def report(mlp, squares):
    X_train, _, X, y, _ = squares
    return diagnose(mlp, X, y, X_train=X_train, rule="epsilon", random_state=0)


def test_displays_show_what_was_found(report, mlp, squares):
    display = report.plot()
    assert display.finding is report.picture
    for name in ("mean", "skill"):
        image = display.artists_[name]
        np.testing.assert_array_equal(image.get_array(), report.picture[name])
        low, high = image.get_clim()
        assert low == -high == -np.abs(report.picture[name]).max()  # symmetric about zero
    profile = report.tests["fading"].plot()
    np.testing.assert_array_equal(
        profile.artists_["map1"].get_ydata(), report.tests["fading"].profiles[1]
    )
    layers = report.tests["randomization"].plot()
    np.testing.assert_array_equal(
        layers.artists_["similarity"].get_ydata()[1:],
        report.tests["randomization"].layer_similarity,
    )
    statistic = report.tests["skilled"].plot().artists_["statistic"]
    assert statistic.get_xdata()[0] == report.tests["skilled"].statistic
    one = ArtifactDisplay.from_estimator(mlp, *squares[2:4], random_state=0, n_permutations=5)
    assert one.finding.name == "artifact_map"
    with pytest.raises(ValueError, match="3 Axes"):
        report.plot(ax=one.axes_[:2])
    plt.close("all")


def test_without_labels_there_is_no_picture(mlp, squares):
    report = diagnose(mlp, squares[2], n_permutations=3, random_state=0)
    with pytest.raises(ValueError, match="no graded map without labels"):
        report.plot()
