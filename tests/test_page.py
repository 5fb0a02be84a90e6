"""The page of a report: what it says, and in which order."""

import re
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest

from sklrp._frame import make_frame
from sklrp.diagnostics.findings import Finding
from sklrp.diagnostics.page import render

mpl.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")


def finding(name, verdict="fact", **entries):
    entries = {
        "question": f"Is it {name}?", "statistic": 0.5, "interval": (0.4, 0.6), "null": [0.1],
        "reading": f"share of <{name}>", "advice": "" if verdict == "fact" else f"Mend {name}.",
        **entries,
    }  # fmt: skip
    return Finding(name=name, verdict=verdict, **entries)


@pytest.fixture
def report():
    masks = {n: np.zeros((4, 5), bool) for n in ("fact", "missed", "unsupported", "misleading")}
    masks["fact"][1, 1] = True
    mean = np.arange(20.0).reshape(4, 5)
    picture = finding(
        "artifact_map", mean=mean, skill=mean, mass=0.5, input_mass=0.1, null_mass=np.array([0.1]),
        power=0.5, causes={}, frame=make_frame((4, 5)), **masks,
    )  # fmt: skip
    tests = [
        finding("skilled"),
        finding("randomization", "artifact"),
        finding("used", "undecided", null=[]),
        finding("fading", "artifact"),
        finding("border"),
    ]
    tests = {test.name: test for test in tests}
    return SimpleNamespace(
        sentence="Artifact: it is <not> learned.",
        verdict="artifact",
        subject="MLP, 10 samples",
        tests=tests,
        questions={
            "skilled": tests["skilled"], "learned": tests["randomization"], "used": tests["used"],
        },
        reasons=["randomization"],
        cautions=["used", "fading"],
        assumptions=["samples are exchangeable"],
        picture=picture,
    )  # fmt: skip


def plain(html):
    """Return the text of a page, without its styles."""
    text = re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text)).strip()


def test_the_answer_leads(report):
    shown = plt.get_fignums()  # by other tests
    html = render(report, page=True)
    said = plain(html)
    parts = [
        "Artifact: it is &lt;not&gt; learned.",
        "MLP, 10 samples",
        "The mean map by its grades",
        "What to do learned : Mend randomization.",
        "To keep in mind used : Mend used. fading : Mend fading.",
        "What was asked",
        "Tests for causes",
        "samples are exchangeable",
        "How to read it",
    ]
    places = [said.index(part) for part in parts]
    assert places == sorted(places)
    assert html.index("<img") < html.index("What to do")
    assert html.startswith("<!doctype html>")
    assert "<script" not in html
    assert "http" not in html
    assert not render(report, page=False).startswith("<!doctype")
    assert plt.get_fignums() == shown


def test_every_question_has_an_answer(report):
    said = plain(render(report, page=False))
    assert re.search(r"skilled Is it skilled\? yes 0.5 \[0.4, 0.6\] 0.1 share of", said)
    assert re.search(r"learned Is it randomization\? no 0.5", said)
    assert re.search(r"used Is it used\? not told 0.5 \[0.4, 0.6\] –", said)
    for name in ("true", "stable", "placed", "coherent"):
        assert re.search(rf"{name} [^?]+\? not asked", said), name
    assert "share of &lt;used&gt;" in said
    causes = said[said.index("Tests for causes") :]
    assert re.search(r"fading Is it fading\? found 0.5", causes)
    assert re.search(r"border Is it border\? no sign of it 0.5", causes)
    assert "randomization" not in causes  # it answers a question


def test_numbers_are_explained(report):
    said = plain(render(report, page=False))
    legend = said[said.index("How to read it") :]
    for word in ("skilled", "learned", "used", "number [95 %]", "null", "dots, outline", "mass"):
        assert word in legend
    assert "another random state" not in legend
    assert "stable" not in legend  # was not asked


def test_without_labels_or_reasons(report):
    report.picture, report.reasons, report.cautions = None, [], []
    html = render(report, page=False)
    assert "<img" not in html
    assert "give y" in html
    assert "What to do" not in html


def test_profiles_and_layers_are_drawn(report):
    profiles = (np.ones(4) / 4, np.ones(5) / 5)
    report.tests["fading"].update(
        profiles=profiles, input_profiles=profiles, null_profiles=profiles,
        frame=make_frame((4, 5)), axis=0,
    )  # fmt: skip
    report.tests["randomization"].update(layers=["head"], layer_similarity=[0.5])
    html = render(report, page=False)
    assert html.count("<img") == 3
    assert "along the axes" in html
    assert "layers are drawn at random" in html
