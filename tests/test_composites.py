"""Composites: places, presets, names, and their ways as scikit-learn values."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from sklrp import MLPClassifier
from sklrp.composites import Composite, check_rule
from sklrp.modules import StatePooling
from sklrp.propagation import explain, plan
from sklrp.rules import AlphaBeta, Epsilon, Flat, Gamma, Rule, WSquare, ZBox, Zero, ZPlus
from tests.helpers.parameters import randomised
from tests.helpers.reference import assert_explained

# Distinct values, so that a layer's rule says which row it came from.
A, B, C, D = (Epsilon(epsilon=e) for e in (0.1, 0.2, 0.3, 0.4))


def is_dense_on_six(name, module):
    return isinstance(module, nn.Linear) and module.in_features == 6


def cnn():
    """Convolutions "body.0", "body.2", dense layers "4", "6"."""
    return randomised(
        nn.Sequential(
            nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU(), nn.Conv1d(2, 3, 3), nn.ReLU()),
            nn.Flatten(),
            nn.Sequential(nn.Linear(6, 4), nn.Tanh()),
            nn.Linear(4, 2),
        )
    )


CNN_LAYERS = ["0.0", "0.2", "2.0", "3"]


def rules_of(model, X, rule, **options):
    """Rule that each layer with weights got, by its name."""
    _, details = explain(model, X, rule=rule, return_details=True, **options)
    return {layer.name: layer.rule for layer in details.layers if layer.rule is not None}


def signals(seed=1):
    return np.random.default_rng(seed).normal(size=(2, 1, 6))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("a", A, "all")], [A, A, A, A]),
        ([("a", A, "first"), ("b", B, "all")], [A, B, B, B]),
        ([("a", A, "last"), ("b", B, "all")], [B, B, B, A]),
        ([("a", A, "conv"), ("b", B, "dense")], [A, A, B, B]),
        ([("a", A, "dense"), ("b", B, "all")], [B, B, A, A]),
        ([("a", A, nn.Conv1d), ("b", B, nn.Linear)], [A, A, B, B]),
        ([("a", A, nn.Module)], [A, A, A, A]),
        ([("a", A, "0.2"), ("b", B, "3"), ("c", C, "all")], [C, A, C, B]),
        ([("a", A, "0"), ("b", B, "2"), ("c", C, "all")], [A, A, B, C]),
        ([("a", A, is_dense_on_six), ("b", B, "all")], [B, B, A, B]),
        ([("a", A, lambda name, module: name.endswith(".0")), ("b", B, "all")], [A, B, A, B]),
        # the first row that matches wins
        ([("a", A, "all"), ("b", B, "first")], [A, A, A, A]),
        (
            [("a", A, "first"), ("b", B, "conv"), ("c", C, "last"), ("d", D, "all")],
            [A, B, D, C],
        ),
    ],
)
def test_places(rows, expected):
    given = rules_of(cnn(), signals(), Composite(rows))
    assert given == dict(zip(CNN_LAYERS, expected, strict=True))


def test_rows_act_where_they_say():
    """Not only the report: relevance is that of the rule of each layer."""
    expected = dict(zip(CNN_LAYERS, (A, B, D, C), strict=True))
    composite = Composite([("a", A, "first"), ("b", B, "conv"), ("c", C, "last"), ("d", D, "all")])
    assert_explained(cnn(), signals(), composite, lambda name, module: expected[name])


def test_first_is_by_execution_not_by_definition():
    class Backwards(nn.Sequential):
        def __init__(self):
            last = nn.Linear(2, 2)
            super().__init__()
            self.first = nn.Linear(2, 2)
            self.last = last

    composite = Composite([("a", A, "first"), ("b", B, "all")])
    assert rules_of(Backwards().double(), np.ones((1, 2)), composite) == {"first": A, "last": B}


def test_recurrent_place():
    model = nn.Sequential(nn.LSTM(2, 3, batch_first=True), StatePooling(), nn.Linear(3, 2))
    composite = Composite([("a", A, "recurrent"), ("b", B, "dense")])
    assert rules_of(model.double(), np.ones((1, 4, 2)), composite) == {"0": A, "2": B}


def test_unmatched_layer_is_an_error():
    with pytest.raises(ValueError, match=r"'2\.0'.*Linear"):
        explain(cnn(), signals(), rule=Composite([("a", A, "conv")]))


def test_place_that_names_no_layer_is_an_error():
    with pytest.raises(ValueError, match=r"convv.*Did you mean 'conv'"):
        explain(cnn(), signals(), rule=Composite([("a", A, "convv"), ("b", B, "all")]))


def test_names_are_not_prefixes_of_numbers():
    """Place "1" is layer "1" and what lies in it, not layer "10"."""
    layers = [nn.Linear(2, 2) for _ in range(11)]
    model = nn.Sequential(*layers).double()
    given = rules_of(model, np.ones((1, 2)), Composite([("a", A, "1"), ("b", B, "all")]))
    assert [name for name, rule in given.items() if rule == A] == ["1"]


# --- As values ------------------------------------------------------------------------------


def example():
    return Composite(
        [
            ("input", ZBox(low=-1.0, high=1.0), "first"),
            ("conv", Gamma(), "conv"),
            ("dense", Epsilon(), nn.Linear),
            ("rest", ZPlus(), is_dense_on_six),
        ]
    )


def test_composite_is_a_value():
    composite = example()
    for other in (clone(composite), pickle.loads(pickle.dumps(composite)), example()):
        assert other == composite
        assert hash(other) == hash(composite)
        assert other is not composite
    assert composite != Composite(composite.rules[:-1])
    assert composite != Composite([*composite.rules[1:], composite.rules[0]])
    assert Composite([("a", A, "all")]) != A
    assert len({example(), example(), Composite([("a", A, "all")])}) == 2


def test_repr_rebuilds():
    names = {"Composite": Composite, "Gamma": Gamma, "Epsilon": Epsilon, "torch": torch}
    composite = Composite([("conv", Gamma(0.5), "conv"), ("dense", Epsilon(0.1), nn.Linear)])
    assert eval(repr(composite), names) == composite


def test_nested_parameters():
    composite = example()
    params = composite.get_params()
    assert params["conv__gamma"] == 0.25
    assert params["input__high"] == 1.0
    assert params["dense"] == Epsilon()
    assert list(composite.get_params(deep=False)) == ["rules", "product", "attention"]
    assert composite.set_params(conv__gamma=0.5, dense__epsilon=0.1) is composite
    assert {row[0]: row[1] for row in composite.rules} == {
        "input": ZBox(low=-1.0, high=1.0),
        "conv": Gamma(gamma=0.5),
        "dense": Epsilon(epsilon=0.1),
        "rest": ZPlus(),
    }
    composite.set_params(conv=AlphaBeta())
    assert composite.get_params()["conv__alpha"] == 2.0
    composite.set_params(conv=Gamma(), conv__gamma=0.1)
    assert composite.get_params()["conv"] == Gamma(gamma=0.1)


def test_attention_is_a_parameter():
    rows = [("all", Epsilon(), "all")]
    composite = Composite(rows, attention="cp")
    assert composite != Composite(rows)
    assert hash(composite) == hash(Composite(rows, attention="cp"))
    assert eval(repr(composite)) == composite
    assert clone(composite) == pickle.loads(pickle.dumps(composite)) == composite
    assert check_rule(composite).attention == "cp"
    assert check_rule("epsilon").attention == Composite(rows).attention == "attnlrp"
    assert composite.set_params(attention="constant").get_params()["attention"] == "constant"
    with pytest.raises(ValueError, match=r"attention of Composite.*'cp'.*got 'cpp'"):
        check_rule(Composite(rows, attention="cpp"))
    with pytest.raises(ValueError, match=r"attention of Composite.*got None"):
        explain(cnn(), signals(), rule=Composite(rows, attention=None))
    with pytest.raises(ValueError, match="'attention'"):
        check_rule(Composite([("attention", Epsilon(), "all")]))


def test_set_params_on_a_clone_leaves_the_original():
    composite = example()
    clone(composite).set_params(conv__gamma=0.5)
    assert composite == example()


@pytest.mark.parametrize("name", ["conv__alpha", "nonsense", "nonsense__gamma"])
def test_unknown_parameters(name):
    with pytest.raises(ValueError, match=r"alpha|nonsense"):
        example().set_params(**{name: 1.0})


def test_explaining_changes_no_composite():
    composite = Composite([("input", ZBox(), "first"), ("rest", Epsilon(), "all")])
    filled = check_rule(composite, bounds=(-1.0, 1.0))
    assert composite.rules[0][1] == ZBox()
    assert filled.rules[0][1] == ZBox(low=-1.0, high=1.0)
    explain(cnn(), signals(), rule=filled)
    assert filled.rules[0][1] == ZBox(low=-1.0, high=1.0)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        None,
        "epsilon",
        [("a", A)],
        [("a", "epsilon", "all")],
        [("a", Epsilon, "all")],
        [("a", A, "all"), ("a", B, "all")],
        [("a__b", A, "all")],
        [(1, A, "all")],
        [("a", A, 3)],
        [("a", A, None)],
        [("a", AlphaBeta(alpha=3.0, beta=1.0), "all")],
    ],
    ids=repr,
)
def test_malformed_composites(rows):
    with pytest.raises((ValueError, TypeError), match=r"Composite|row|place|alpha"):
        check_rule(Composite(rows))


# --- Names and presets ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("zero", Zero()),
        ("epsilon", Epsilon()),
        ("gamma", Gamma()),
        ("alpha_beta", AlphaBeta()),
        ("z_plus", ZPlus()),
        ("w_square", WSquare()),
        ("flat", Flat()),
        ("z_box", ZBox(low=-1.0, high=1.0)),
    ],
)
def test_rule_names(name, rule):
    composite = check_rule(name, bounds=(-1.0, 1.0))
    assert isinstance(composite, Composite)
    assert [row[1:] for row in composite.rules] == [(rule, "all")]


PRESETS = {
    "auto": [ZPlus(), ZPlus(), Epsilon(), Epsilon()],
    "epsilon_plus": [ZPlus(), ZPlus(), Epsilon(), Epsilon()],
    "epsilon_plus_flat": [Flat(), ZPlus(), Epsilon(), Epsilon()],
    "epsilon_alpha2_beta1": [AlphaBeta(2, 1), AlphaBeta(2, 1), Epsilon(), Epsilon()],
    "epsilon_alpha2_beta1_flat": [Flat(), AlphaBeta(2, 1), Epsilon(), Epsilon()],
    "epsilon_gamma_box": [ZBox(low=-3.0, high=3.0), Gamma(0.25), Epsilon(), Epsilon()],
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name):
    """Presets by content, on a network and against the reference."""
    expected = dict(zip(CNN_LAYERS, PRESETS[name], strict=True))
    rule = check_rule(name, bounds=(-3.0, 3.0))
    assert rules_of(cnn(), signals(), rule) == expected
    assert_explained(cnn(), signals(), rule, lambda layer, module: expected[layer])


def test_auto_without_convolutions_is_epsilon():
    mlp = randomised(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    X = np.random.default_rng(0).normal(size=(3, 3))
    np.testing.assert_array_equal(explain(mlp, X), explain(mlp, X, rule="epsilon"))
    lstm = nn.Sequential(nn.LSTM(3, 2, batch_first=True), StatePooling(), nn.Linear(2, 2))
    assert set(rules_of(lstm.double(), X[None], "auto").values()) == {Epsilon()}


@pytest.mark.parametrize("rule", ["flat", "epsilon_plus_flat", Flat()])
def test_flat_on_a_dense_first_layer_warns(rule):
    """Every input gets the same relevance: a degenerate map."""
    mlp = randomised(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    with pytest.warns(UserWarning, match=r"flat.*same relevance") as warned:
        relevance = explain(mlp, np.ones((2, 3)), rule=rule)
    assert len(warned) == 1
    np.testing.assert_allclose(relevance, relevance[:, :1].repeat(3, axis=1))


def test_flat_on_a_convolution_or_above_does_not_warn():
    explain(cnn(), signals(), rule="epsilon_plus_flat")
    mlp = randomised(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    explain(mlp, np.ones((2, 3)), rule=Composite([("a", A, "first"), ("b", Flat(), "all")]))


@pytest.mark.parametrize("rule", ["z_box", "epsilon_gamma_box", ZBox(), ZBox(low=0.0)])
def test_bare_module_must_be_given_bounds(rule):
    with pytest.raises(ValueError, match=r"(?i)bounds|low"):
        explain(cnn(), signals(), rule=rule)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("epsilom", "epsilon"),
        ("Gamma", "gamma"),
        ("zplus", "z_plus"),
        ("epsilon_plus_flatt", "epsilon_plus_flat"),
        ("alphabeta", "alpha_beta"),
    ],
)
def test_unknown_names_suggest(word, meant):
    with pytest.raises(ValueError, match=rf"{word}.*Did you mean '{meant}'"):
        check_rule(word)


@pytest.mark.parametrize(
    "rule", [None, 3, Epsilon, ["epsilon"], ("epsilon", "all"), 0.1], ids=repr
)
def test_what_is_no_rule(rule):
    with pytest.raises(TypeError, match=r"rule must be"):
        check_rule(rule)
    with pytest.raises(TypeError, match=r"rule must be"):
        explain(cnn(), signals(), rule=rule)


def test_check_rule_accepts_all_forms():
    for rule in ("auto", "gamma", "epsilon_plus", Gamma(), Composite([("a", Gamma(), "all")])):
        checked = check_rule(rule)
        assert isinstance(checked, Composite)
        assert all(isinstance(row[1], Rule) for row in checked.rules)


def test_bounds_fill_only_what_is_missing():
    checked = check_rule(ZBox(high=5.0), bounds=(np.array([-1.0, 0.0]), np.array([1.0, 2.0])))
    box = checked.rules[0][1]
    np.testing.assert_array_equal(box.low, [-1.0, 0.0])
    assert box.high == 5.0
    with pytest.raises(ValueError, match=r"low"):
        check_rule(ZBox(low=3.0), bounds=(0.0, 1.0))


def test_warnings_point_to_the_line_that_asks():
    """Whatever way leads to the plan, the warning is of the caller's file."""
    X = np.random.default_rng(0).normal(size=(6, 3))
    clf = MLPClassifier((2,), max_epochs=1, random_state=0).fit(X, np.arange(6) % 2)
    for ask in (
        lambda: explain(clf.module_, X, rule="flat"),
        lambda: explain(clf, X, rule="flat"),
        lambda: clf.explain(X, rule="flat"),
        lambda: plan(clf, "flat"),
    ):
        with pytest.warns(UserWarning, match="The flat rule on the dense first layer") as caught:
            ask()
        assert {warning.filename for warning in caught} == {__file__}
