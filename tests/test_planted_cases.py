"""The planted cases are what they claim to be, and the suite counts its verdicts rightly."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from sklrp import explain
from tests import planted
from tests.helpers.planted import CASES

# What verdicts are known to fail at; each needs a case. Sound and artifact where both can be.
KINDS = {
    ("no power on real fields", "fact"),
    ("no skill", "artifact"),
    ("correlated samples", "artifact"),
    ("correlated samples", "fact"),
    ("signs of a given target", "fact"),
    ("a border of zeros", "fact"),
    ("modest skill", "fact"),
    ("large signals", "fact"),
    ("a signal at an ESN's end", "fact"),
    ("a leaked pixel", "fact"),
    ("suppressor", "artifact"),
    ("an epsilon that keeps all", "artifact"),
    ("steps that do nothing", "artifact"),
    ("a mean everywhere", "artifact"),
    ("map of another sample", "artifact"),
    ("ESN stripes", "artifact"),
    ("watermark", "fact"),
    ("exclusive-or", "fact"),
    ("fill value", "artifact"),
    ("flipped sweep", "artifact"),
    ("wrong class", "artifact"),
    ("best of many", "artifact"),
    ("training samples", "artifact"),
    ("unequal classes", "fact"),
    ("unequal classes", "artifact"),
    ("regression", "fact"),
    ("gridded target", "fact"),
    ("several outputs", "fact"),
    ("models of others", "fact"),
    ("map made elsewhere", "fact"),
    ("map made elsewhere", "artifact"),
    ("table", "fact"),
}
SKILLED = [
    "MLP epsilon",
    "one pixel leaks the class",
    "modest skill",
    "table with noise columns",
    "XOR, MLP",
    "watermark, linear",
    "members of cases",
    "series, ESN",
    "bare module",
]
NOISE = ["MLP, noise", "LSTM, noise", "ESN, noise", "table of noise", "series, LSTM on noise"]


def predict(case):
    """Return the class that a model predicts of each sample."""
    if hasattr(case.model, "predict"):
        return case.model.predict(case.X)
    with torch.no_grad():
        return case.model(torch.from_numpy(case.X)).argmax(1).numpy()


def p_value(case):
    """Return how likely a network that knows the shares of classes is to be right as often."""
    right = predict(case) == case.y
    share = np.bincount(case.y).max() / len(case.y)
    return binomtest(int(right.sum()), len(right), share, alternative="greater").pvalue


def masses(case):
    """Return the shares of map and input that lie on the true cells."""
    maps = case.relevance
    if maps is None:
        maps = explain(case.model, case.X, rule=case.rule, target=case.target)
    sizes = [np.abs(values).reshape(len(values), -1) for values in (maps, case.X)]
    return [float((a[:, case.true_cells.ravel()].sum(1) / a.sum(1)).mean()) for a in sizes]


def test_half_of_the_cases_are_sound():
    sound = sum(case.truth == "fact" for case in CASES.values())
    assert len(CASES) >= 60
    assert 0.45 <= sound / len(CASES) <= 0.55


def test_every_way_to_fail_has_a_case():
    assert not KINDS - {(case.kind, case.truth) for case in CASES.values()}


@pytest.mark.sweep(2)
@pytest.mark.parametrize("name", SKILLED)
def test_sound_networks_have_skill(name):
    case = CASES[name](0)
    assert p_value(case) < 0.05
    of_map, of_input = masses(case)
    assert of_map > 2 * of_input
    assert case.true_cells.shape == case.X.shape[1:]
    assert not {x.tobytes() for x in case.X} & {x.tobytes() for x in case.X_train}


@pytest.mark.sweep(2)
@pytest.mark.parametrize("name", NOISE)
def test_networks_trained_on_noise_have_none(name):
    case = CASES[name](0)
    assert not case.true_cells.any()
    assert p_value(case) > 0.001
    # By construction: no cell differs between the classes, in the training samples either.
    X = np.concatenate([case.X_train, case.X]).reshape(len(case.X) * 2, -1)
    y = np.r_[case.y_train, case.y]
    z = (X[y == 1].mean(0) - X[y == 0].mean(0)) / X.std(0) / np.sqrt(4 / len(X))
    assert np.abs(z).max() < 5


def test_gradients_sum_to_the_score():
    """Integrated gradients: f(x) - f(0), of the class that is predicted."""
    case = CASES["integrated gradients, MLP"](0)
    with torch.no_grad():
        rows = torch.from_numpy(case.X.reshape(len(case.X), -1))
        scores = case.model.module_(rows) - case.model.module_(torch.zeros_like(rows))
    scores = scores.numpy()[np.arange(len(case.X)), predict(case)]
    np.testing.assert_allclose(case.relevance.sum(axis=(1, 2)), scores, rtol=0.1)


@pytest.mark.sweep(1)
@pytest.mark.parametrize(
    "name", ["random map", "size of the input", "mirrored maps", "size of the input, watermark"]
)
def test_bad_maps_are_not_on_the_true_cells(name):
    of_map, of_input = masses(CASES[name](0))
    assert of_map < 1.1 * of_input


def test_dead_steps_have_most_of_the_map():
    case = CASES["LSTM mean, 20 steps that do nothing"](0)
    maps = np.abs(case.model.explain(case.X, rule="epsilon"))
    assert p_value(case) < 0.05
    assert maps[:, :20].sum() > 0.5 * maps.sum()
    assert not case.true_cells[:20].any()


# The suite


def result(name, seed, verdict, **entries):
    entries = {"reasons": [], "tests": {}, "s_train": 1.0, "s_diagnose": 2.0, **entries}
    return {"name": name, "seed": seed, "verdict": verdict, **entries}


def test_tables():
    """Right verdicts and false alarms are counted apart for the seeds that were held out."""
    found = [
        result("random map", 5, "artifact", reasons=["true"]),
        result("random map", 6, "fact"),
        result("MLP epsilon", 5, "artifact", reasons=["grid"]),
        result("MLP epsilon", 6, "undecided"),
        result("best of 50 seeds", 5, "undecided"),
        result("MLP epsilon", 0, "fact"),
    ]
    page = planted.write(found)
    assert "| planted artifact | 1 | 1 | 1 |\n| sound map | 1 | 1 | 0 |" in page
    assert "Right: 2 of 5 (40.0%), of which 1 honest" in page
    assert "sound maps called artifacts 1 of 2 (50%, at most 97%)" in page
    assert "artifacts called facts 1 of 3 (33%, at most 86%); undecided without need 1." in page
    assert "Right: 1 of 1 (100.0%)" in page
    assert "| map made elsewhere | artifact | 1 | 1 of 2 | fact 1 |" in page
    assert "| MLP epsilon | fact | artifact 1, undecided 1, fact 1 | grid 1 |" in page


def test_cells_are_counted():
    name = "MLP epsilon"
    found = [
        result(name, 0, "fact", cells={"true": 20, "found": 10, "wrong": 0}),
        result(name, 1, "fact", cells={"true": 20, "found": 20, "wrong": 2}),
    ]
    page = "\n".join(planted.cells(found))
    assert "1 of 2 (50%, at most 97%)" in page
    assert "75% were found" in page
    assert f"| {name} | 20 | 15 | 1.0 |" in page


def test_upper_bounds():
    """None of 59 is the least with which 5 % can be excluded, as 0.95 ** 59 < 0.05."""
    assert planted.rate(0, 59) == "0 of 59 (0%, at most 5%)"
    assert planted.rate(2, 2) == "2 of 2 (100%, at most 100%)"


def test_a_run_goes_on(tmp_path, monkeypatch, capsys):
    asked = []

    def grade(name, seed, with_cells):
        asked.append((name, seed))
        return result(name, seed, "fact")

    monkeypatch.setattr(planted, "grade", grade)
    keep = tmp_path / "results.jsonl"
    planted.run([0], ["MLP epsilon"], keep=keep)
    found = planted.run([0, 1], ["MLP epsilon", "CNN auto"], keep=keep)
    assert asked == [("MLP epsilon", 0), ("MLP epsilon", 1), ("CNN auto", 0), ("CNN auto", 1)]
    assert [(r["name"], r["seed"]) for r in found] == asked
    assert len(list(map(json.loads, keep.read_text().splitlines()))) == 4
    assert capsys.readouterr().out.count("MLP epsilon") == 2


def test_choice_of_cases():
    assert planted.choose(None) == list(CASES)
    assert planted.choose(["ESN stripes"]) == ["ESN stripes"]
    assert set(planted.choose(["suppressor"])) == {n for n in CASES if "suppressor" in n}
    artifacts = planted.choose(["artifact"])
    assert artifacts
    assert {CASES[name].truth for name in artifacts} == {"artifact"}
