"""Maps made elsewhere: what is taken, what is refused, and which are of something else.

They are relevance of a small network, disturbed on purpose. Outliers in the input are here, too.
"""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.compose import make_column_transformer
from sklearn.exceptions import DataConversionWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import nn

import sklrp
from sklrp import Epsilon, MLPClassifier
from sklrp.datasets import make_squares
from sklrp.diagnostics import artifact_map, audit, degeneracy, diagnose, skill_map
from sklrp.diagnostics.outliers import find_outlying


@pytest.fixture(scope="module")
def held_out(squares):
    """Return the held-out samples, their labels, and the training samples."""
    X_train, _, X, y, _ = squares
    return {"X": X, "y": y, "X_train": X_train, "random_state": 0}


@pytest.fixture(scope="module")
def maps(mlp, squares):
    return sklrp.explain(mlp, squares[2], rule="epsilon")


FEW = {"n_permutations": 3, "max_samples": 20}


# What is refused


@pytest.mark.parametrize("ask", [diagnose, artifact_map])
@pytest.mark.parametrize("given", [{"rule": "epsilon"}, {"rule": Epsilon(0.1)}, {"epsilon": 0.1}])
def test_parameters_of_explain_are_refused_beside_maps(mlp, held_out, maps, ask, given):
    name, value = next(iter(given.items()))
    said = f"{name}={value!r} has no effect on maps that relevance holds: leave {name} out"
    with pytest.raises(ValueError, match=re.escape(said)):
        ask(mlp, relevance=maps, **given, **held_out)


def test_maps_of_a_contrast(mlp, held_out):
    """What maps are of is no way to make them: of two classes the contrast is twice the score."""
    made = sklrp.explain(mlp, held_out["X"], rule="epsilon", contrast=True)
    report = diagnose(mlp, relevance=made, contrast=True, **held_out)
    assert report.verdict == "fact", report
    assert "used" in diagnose(mlp, relevance=-made, contrast=True, **held_out).reasons


@pytest.mark.parametrize("ask", [artifact_map, degeneracy])
def test_unknown_parameters_of_explain(mlp, held_out, ask):
    data = held_out if ask is artifact_map else {"X": held_out["X"]}
    with pytest.raises(TypeError, match=r"ruel='zero' is no parameter.*Did you mean 'rule'"):
        ask(mlp, ruel="zero", **data)
    with pytest.raises(TypeError, match="return_details=True is no parameter"):
        ask(mlp, return_details=True, **data)


@pytest.mark.parametrize("ask", [diagnose, artifact_map, audit])
def test_complex_maps_are_refused(mlp, held_out, maps, ask):
    with pytest.raises(ValueError, match=r"relevance holds complex numbers \(complex128\)"):
        ask(mlp, relevance=maps.astype(complex), **held_out)
    with pytest.raises(ValueError, match=r"X holds complex numbers"):
        ask(mlp, **{**held_out, "X": held_out["X"].astype(complex)})


@pytest.mark.parametrize("ask", [diagnose, artifact_map, audit])
def test_maps_may_be_flat(mlp, held_out, maps, ask):
    few = {} if ask is audit else FEW
    flat = ask(mlp, relevance=maps.reshape(len(maps), -1), **few, **held_out)
    assert repr(flat) == repr(ask(mlp, relevance=maps, **few, **held_out))


@pytest.mark.sweep(1)
@pytest.mark.parametrize("ask", [diagnose, artifact_map, audit])
def test_labels_in_columns(mlp, held_out, ask):
    y = held_out["y"]
    data = {**held_out, "y": np.eye(2)[y]}
    with pytest.raises(ValueError, match=r"y is one-hot, of shape \(60, 2\).*y.argmax\(axis=1\)"):
        ask(mlp, **data)
    few = {} if ask is audit else FEW
    with pytest.warns(DataConversionWarning, match=r"shape \(60, 1\).*taken as y.ravel\(\)"):
        column = ask(mlp, **few, **{**held_out, "y": y[:, np.newaxis]})
    assert repr(column) == repr(ask(mlp, **few, **held_out))
    with pytest.raises(ValueError, match=r"one label for each of 60 samples.*\(60, 2\)"):
        ask(mlp, **{**held_out, "y": 0.1 + 0.8 * np.eye(2)[y]})  # which are no values of outputs


def bare(n_outputs, bias=0.0):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(400, 8), nn.ReLU(), nn.Linear(8, n_outputs))
    with torch.no_grad():
        net[1].bias.add_(bias)
    return net.double()


@pytest.mark.sweep(1)
@pytest.mark.parametrize("ask", [diagnose, artifact_map, skill_map])
def test_values_of_one_output_of_a_bare_network(squares, ask):
    X, small = squares[2], bare(3)
    values = X[:, :3, 0] @ np.array([[1.0, 0.5, 0], [0, 1, 0], [0, 0, 1]])
    said = r"y holds values such as .* give y the values of all outputs, of shape \(60, 3\)"
    with pytest.raises(ValueError, match=said):
        ask(bare(3), X, values[:, 1], target=1)
    assert ask(small, X, values, target=1, random_state=0).verdict
    with pytest.raises(ValueError, match=r"y is one-hot, of shape \(60, 3\)"):
        ask(bare(3), X, np.eye(3)[np.arange(60) % 3])


@pytest.mark.parametrize("ask", [diagnose, artifact_map, skill_map])
def test_a_dead_network_is_called_dead(squares, ask):
    X, y = squares[2:4]
    with pytest.raises(ValueError, match=r"Sequential is dead: its output is .* for all 60"):
        ask(bare(2, bias=-100.0), X, y)


def test_a_network_of_steps_is_not_dead(squares):
    class Steps(nn.Module):
        def forward(self, x):
            steps = (40 * x[:, :, 8]).round().sum(dim=1)
            return torch.stack([-steps, steps], dim=1)

    X, y = squares[2:4]
    with pytest.raises(ValueError, match="Steps has no gradient, and 400 cells are too many"):
        skill_map(Steps(), X, y)


# Maps without signs

UNSIGNED = {
    "absolute values": np.abs,
    "squares": np.square,
    "roots": lambda maps: np.sqrt(np.abs(maps)),
    "rounding below 0": lambda maps: np.abs(maps) - 1e-9 * np.abs(maps).max() * (maps == 0),
}


@pytest.mark.sweep(1)
@pytest.mark.parametrize("form", UNSIGNED)
def test_maps_without_signs_have_no_direction(mlp, held_out, maps, form):
    report = diagnose(mlp, relevance=UNSIGNED[form](maps), **held_out)
    if form in ("absolute values", "rounding below 0"):  # others shift what is large
        assert report.verdict == "fact", report
        assert "no negative values" in report.sentence
    used = report.tests["used"]
    assert used.question == "Do the cells that the map names move the score?"
    assert "as maps have no direction" in used.reading
    assert "sign_lost" in report.tests["audit"].audit.names
    signed = diagnose(mlp, relevance=maps, **held_out)
    assert "in the direction it says" in signed.tests["used"].question
    assert "no negative values" not in signed.sentence


def test_the_sign_of_the_score_is_no_direction(squares, held_out):
    """|R| with the sign of its score is as blind as |R|: of a single output, and of classes."""
    X = squares[2]
    values = 10 * (X[:, 0, 1] - X[:, 14, 0])
    net = nn.Sequential(nn.Flatten(), nn.Linear(400, 1)).double()
    with torch.no_grad():
        net[1].weight.zero_()
        net[1].bias.zero_()
        net[1].weight[0, [1, 280]] = torch.tensor([10.0, -10.0], dtype=torch.float64)
    blind = np.abs(sklrp.explain(net, X)) * np.sign(values)[:, np.newaxis, np.newaxis]
    report = diagnose(net, X, values, relevance=blind, random_state=0)
    assert "direction" not in report.tests["used"].question
    assert "sign_lost" in report.tests["audit"].audit.names


def test_unsigned_maps_that_show_nothing_are_not_told_to_turn_their_sign(mlp, held_out):
    drawn = np.random.default_rng(0).random(held_out["X"].shape)
    report = diagnose(mlp, relevance=drawn, **held_out)
    assert report.verdict == "artifact"
    assert "reverse" not in report.tests["used"].advice
    assert "keep negative relevance" in report.tests["used"].advice


# Maps that are none of their samples

NONE_OF_SAMPLES = {
    "same_map": lambda maps, X: np.tile(maps.mean(axis=0), (len(maps), 1, 1)),
    "input_as_map": lambda maps, X: -2.5 * X,
}


@pytest.mark.parametrize("name", NONE_OF_SAMPLES)
def test_maps_that_are_none_of_their_samples(mlp, held_out, maps, name):
    given = NONE_OF_SAMPLES[name](maps, held_out["X"])
    report = diagnose(mlp, relevance=given, **held_out)
    assert "audit" in report.reasons
    assert report.tests["audit"].audit.names == [name]
    skipped = report.tests["audit"].audit.skipped
    assert "none of their samples" in skipped["norm_divided"]
    assert "none of their samples" in skipped["other_samples"]


def test_gradients_that_samples_share_are_no_mistake(held_out):
    """Of a linear model every sample has the same gradient: that is so, and said."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(400, 1)).double()
    same = np.tile(net[1].weight.detach().numpy(), (60, 1))
    found = audit(net, held_out["X"], same, random_state=0)
    assert found.names == []
    assert any("maps are gradients" in note for note in found.notes)


# Maps of which a part has changed places


def a_third_in_reverse(maps):
    return np.concatenate([maps[19::-1], maps[20:]])


def two_cells_exchanged(maps):
    other = maps.copy()
    other[:, 4, 5], other[:, 12, 3] = maps[:, 12, 3], maps[:, 4, 5]
    return other


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("move", "name"),
    [(a_third_in_reverse, "other_samples"), (two_cells_exchanged, "other_cells")],
)
def test_parts_that_changed_places_convict(mlp, held_out, maps, move, name, seed):
    report = diagnose(mlp, relevance=move(maps), **{**held_out, "random_state": seed})
    assert report.verdict == "artifact"
    assert report.tests["audit"].audit.names == [name]


@pytest.mark.sweep(2)
@pytest.mark.parametrize("seed", range(10))
def test_sound_maps_are_sound_for_every_random_state(mlp, held_out, maps, seed):
    few = {"n_permutations": 3, "max_samples": 40}
    report = diagnose(mlp, relevance=maps, **few, **{**held_out, "random_state": seed})
    assert (report.verdict, report.tests["audit"].audit.names) == ("fact", []), report


# Gradients that the caller switched off


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("kind", ["estimator", "bare module"])
@pytest.mark.slow
def test_gradients_may_be_off(mlp, squares, held_out, maps, off, kind):
    model = mlp if kind == "estimator" else bare(2)
    asked = {
        diagnose: [FEW, {**FEW, "relevance": maps}],
        artifact_map: [FEW],
        skill_map: [{}],
    }
    if kind == "estimator":
        training = {"y_train": squares[1], "n_refits": 1, "n_networks": 3}
        asked[diagnose].append({**FEW, **training})
    for ask, several in asked.items():
        for params in several:
            usual = repr(ask(model, **params, **held_out))
            with off():
                assert repr(ask(model, **params, **held_out)) == usual
    with off():  # parameters that never have a gradient
        net = bare(2)
        assert repr(skill_map(net, **held_out)) == repr(skill_map(bare(2), **held_out))


# Outliers are named before what they bring about


def with_outliers(kind, seed):
    """Return samples with pixels of +-60, that tell the class or nothing, and a network."""
    rng = np.random.default_rng(seed)
    X, y, _ = make_squares(n_per_class=150, size=20, random_state=seed)
    n = len(X)
    if kind == "of the class":
        X[:, 3, 5] = 60.0 * (2 * y - 1)
    elif kind == "here and there":
        X.reshape(n, -1)[np.arange(n), rng.integers(400, size=n)] = 60.0 * rng.choice([-1, 1], n)
    elif kind == "ignored":
        X[:, 3, 5] = 60.0 * rng.choice([-1, 1], n)
    clf = MLPClassifier(max_epochs=20, random_state=seed).fit(X[:150], y[:150])
    return clf, {"X": X[150:], "y": y[150:], "X_train": X[:150], "random_state": seed}


@pytest.mark.sweep(1)
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", ["of the class", "here and there"])
def test_outliers_are_named_before_what_they_bring_about(kind, seed):
    clf, data = with_outliers(kind, seed)
    report = diagnose(clf, **data)
    assert report.verdict == "artifact"
    assert report.reasons[0] == "outliers", report
    assert "cap the input" in report.sentence
    assert {"learned", "degeneracy"} <= set(report.reasons)


@pytest.mark.sweep(1)
@pytest.mark.parametrize("seed", [0, 1])
def test_outliers_that_the_map_passes_over_convict_no_map(seed):
    clf, data = with_outliers("ignored", seed)
    report = diagnose(clf, **data)
    assert report.verdict == "fact", report
    assert report.tests["outliers"].verdict == "fact"


def test_a_long_tail_is_no_outlier():
    rain = np.random.default_rng(0).lognormal(sigma=1.5, size=(300, 400))
    assert not find_outlying(rain).any()
    assert not find_outlying(np.random.default_rng(0).normal(size=(300, 400))).any()
    rain[:, 7] *= 100
    assert np.array_equal(np.flatnonzero(find_outlying(rain).any(axis=0)), [7])


@pytest.mark.parametrize("of_values", [False, True])
@pytest.mark.parametrize("ask", [diagnose, artifact_map])
def test_maps_of_a_model_of_tables_may_come_with_a_table(ask, of_values):
    """A model without a network, and its columns by name: as from an array."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 4))
    value = X @ [2.0, 0.0, -1.0, 0.0]
    y = value if of_values else value > 0
    model = Ridge() if of_values else LogisticRegression()
    maps = X * [2.0, 0.0, -1.0, 0.0] * (1 if of_values else np.where(value > 0, 1, -1)[:, None])
    reports = []
    for table in (X, pd.DataFrame(X, columns=list("abcd"))):
        pipeline = make_pipeline(StandardScaler(), model).fit(table[:60], y[:60])
        asked = {"relevance": maps[60:], "X_train": table[:60], "random_state": 0}
        reports.append(ask(pipeline, table[60:], y[60:], **asked))
    if ask is diagnose:
        assert [report.verdict for report in reports] == ["fact", "fact"]
        reports = [report.picture for report in reports]
    plain, named = reports
    np.testing.assert_array_equal(plain.fact.ravel(), named.fact.ravel())
    assert named.fact.ravel()[0]


@pytest.mark.parametrize("ask", [diagnose, artifact_map])
def test_columns_of_text_are_named(ask):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"rain": rng.normal(size=60), "basin": rng.choice(["n", "s"], 60)})
    encode = make_column_transformer((OneHotEncoder(), ["basin"]), remainder="passthrough")
    pipeline = make_pipeline(encode, LogisticRegression()).fit(table[:30], table.rain[:30] > 0)
    with pytest.raises(TypeError, match=r"columns of text, 'basin'.*Encode.*skill_map"):
        ask(pipeline, table[30:], table.rain[30:] > 0, relevance=np.ones((30, 2)))


def test_an_explanation_of_shap_is_answered_with_its_array(mlp, held_out):
    class Explanation:  # its own length is that of its last axis
        values, base_values = np.ones((len(held_out["X"]), 400, 2)), np.zeros(2)

    with pytest.raises(
        TypeError, match=r"relevance is an Explanation of SHAP: .*relevance\.values"
    ):
        diagnose(mlp, relevance=Explanation(), **held_out)


def test_columns_that_are_no_text():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    # Two of one name, and numbers that are objects.
    table = pd.DataFrame(X.astype(object), columns=["a", "a", "b"])
    model = nn.Linear(3, 1)
    weight = torch.tensor([[1.0, 0.0, 0.0]])
    model.load_state_dict({"weight": weight, "bias": torch.zeros(1)})
    maps = X[30:] * weight.numpy()
    reports = [
        diagnose(model, held, X[30:, 0], relevance=maps, random_state=0)
        for held in (X[30:], table[30:])
    ]
    plain, named = (report.picture for report in reports)
    np.testing.assert_array_equal(plain.fact.ravel(), named.fact.ravel())
    with pytest.raises(ValueError, match=r"got the shape \(30,\)"):
        diagnose(model, table["b"][30:], X[30:, 0], relevance=maps, random_state=0)
