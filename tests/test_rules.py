"""Every rule on every affine layer, against plain neurons; the rules as values."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

import sklrp
from sklrp import rules
from sklrp.composites import Composite, available_rules, check_rule
from sklrp.propagation import explain
from sklrp.rules import AlphaBeta, Epsilon, Flat, Gamma, WSquare, ZBox, Zero, ZPlus
from tests.helpers.affine_layers import LAYERS, RULES, build, on_first
from tests.helpers.comparing import assert_close
from tests.helpers.parameters import randomised
from tests.helpers.reference import (
    Neuron,
    affine_relevance,
    assert_explained,
    dense_matrix,
    neurons_of,
    operator_matrix,
)

pytestmark = [
    # what a user should hear of, but not a test of all rules on all layers
    pytest.mark.filterwarnings("ignore:The flat rule on the dense first layer"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),  # by torch
]


@pytest.mark.parametrize("name", LAYERS)
def test_reference_is_the_layer(name):
    """The reference's lists of neurons, as a matrix, are torch's operation."""
    layer, shape = build(name, bias=False)
    neurons, out_shape = neurons_of(layer, shape)
    matrix, torch_shape = operator_matrix(layer, shape)
    assert out_shape == torch_shape
    np.testing.assert_allclose(dense_matrix(neurons, matrix.shape[1]), matrix, atol=1e-14)


@pytest.mark.sweep(45)
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_rule_on_layer(rule, name):
    """Relevance and bookkeeping of one layer below a head, for all inputs and biases."""
    X = np.random.default_rng(2).normal(size=LAYERS[name][1])
    X = np.stack([X, np.abs(X)])  # signed and nonnegative
    composite, rule_of = on_first(rule)
    for bias in (True, False):
        layer, shape = build(name, bias)
        head = nn.Linear(operator_matrix(layer, shape)[0].shape[0], 2)
        model = nn.Sequential(layer, nn.Flatten(), randomised(head, seed=1))
        assert_explained(model, X, composite, rule_of, outputs=[1], epsilon=1e-3)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_rule_on_every_output_alone(rule):
    """One layer without a head: each output's relevance is one neuron's."""
    layer, shape = build("linear")
    X = np.random.default_rng(3).normal(size=(4, *shape))
    with np.errstate(all="raise"):
        assert_explained(
            nn.Sequential(layer), X, Composite([("all", rule, nn.Linear)]), lambda *_: rule
        )


def test_linear_on_the_last_of_several_axes():
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2))
    X = np.random.default_rng(4).normal(size=(3, 4, 3))
    for rule in RULES:
        composite = Composite([("all", rule, lambda name, layer: True)])
        assert_explained(randomised(model), X, composite, lambda *_, rule=rule: rule)


# One neuron with x = (1, -2, 3, 2), w = (3, 1, 1, -1) and, unless said otherwise, b = 2:
# z_i = (3, -2, 3, -2), their sum is 2, so z = 4, and the explained score R is z itself.
BY_HAND = [
    # z_i / z * R = z_i
    (Zero(), 2.0, (3.0, -2.0, 3.0, -2.0), {"bias": 2.0}),
    # z_i / (4 + 1) * 4 = 0.8 z_i; the bias takes 0.8 * 2, epsilon 1 / 5 * 4
    (Epsilon(epsilon=1.0), 2.0, (2.4, -1.6, 2.4, -1.6), {"bias": 1.6, "epsilon": 0.8}),
    # z > 0: w + w+ = (6, 2, 2, -1) for x > 0, w + w- = (3, 1, 1, -2) for x < 0; the numerators
    # are (6, -2, 6, -2), the bias 2 + 2 = 4, the denominator 12, and R / 12 = 1 / 3
    (
        Gamma(gamma=1.0, epsilon=0.0),
        2.0,
        (2.0, -2.0 / 3.0, 2.0, -2.0 / 3.0),
        {"bias": 4.0 / 3.0},
    ),
    # b = -4, z = R = -2 < 0, + and - change places: w + w- = (3, 1, 1, -2) for x > 0 and
    # w + w+ = (6, 2, 2, -1) for x < 0; the numerators are (3, -4, 3, -4), the bias -8,
    # the denominator -10, and R / -10 = 1 / 5
    (Gamma(gamma=1.0, epsilon=0.0), -4.0, (0.6, -0.8, 0.6, -0.8), {"bias": -1.6}),
    # the same with epsilon = 6: s(-10) = -16, R / -16 = 1 / 8; epsilon takes -6 / 8
    (
        Gamma(gamma=1.0, epsilon=6.0),
        -4.0,
        (0.375, -0.5, 0.375, -0.5),
        {"bias": -1.0, "epsilon": -0.75},
    ),
    # b = -2, z = 0: nothing passes, and there is no score to explain
    (Gamma(gamma=1.0, epsilon=0.5), -2.0, (0.0, 0.0, 0.0, 0.0), {}),
    # positive part (3, 0, 3, 0) with bias 2 over 8, times 3 * 4; negative part (0, -2, 0, -2)
    # over -4, times -2 * 4
    (
        AlphaBeta(alpha=3.0, beta=2.0, epsilon=0.0),
        2.0,
        (4.5, -4.0, 4.5, -4.0),
        {"bias": 3.0},
    ),
    # with epsilon = 4: positive part over 12, R * 3 / 12 = 1, the bias takes 2 and epsilon 4;
    # negative part over -8, -R * 2 / -8 = 1, epsilon takes -4
    (
        AlphaBeta(alpha=3.0, beta=2.0, epsilon=4.0),
        2.0,
        (3.0, -2.0, 3.0, -2.0),
        {"bias": 2.0, "epsilon": 0.0},
    ),
    # (3, 0, 3, 0) over 8, times 4
    (ZPlus(epsilon=0.0), 2.0, (1.5, 0.0, 1.5, 0.0), {"bias": 1.0}),
    # (9, 1, 1, 1) over 12, times 4
    (WSquare(), 2.0, (3.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0), {}),
    (Flat(), 2.0, (1.0, 1.0, 1.0, 1.0), {}),
    # z_i + 3 w+ - 4 w- = (3 + 9, -2 + 3, 3 + 3, -2 + 4) = (12, 1, 6, 2) over 21, times 4
    (
        ZBox(low=-3.0, high=4.0),
        2.0,
        (48.0 / 21.0, 4.0 / 21.0, 24.0 / 21.0, 8.0 / 21.0),
        {},
    ),
    # bounds of each input: z_i - l w+ - h w- = (3 - 0, -2 + 2, 3 - 3, -2 + 3) = (3, 0, 0, 1)
    (ZBox(low=[0, -2, 3, 1], high=[1, 0, 4, 3]), 2.0, (3.0, 0.0, 0.0, 1.0), {}),
]


@pytest.mark.parametrize(("rule", "bias", "relevance", "kept"), BY_HAND)
def test_rule_by_hand(rule, bias, relevance, kept):
    x, w = np.array([[1.0, -2.0, 3.0, 2.0]]), torch.tensor([[3.0, 1.0, 1.0, -1.0]])
    model = nn.Sequential(nn.Linear(4, 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(w)
        model[0].bias.fill_(bias)
    given, details = explain(
        model,
        x,
        rule=Composite([("all", rule, lambda name, layer: True)]),
        return_details=True,
    )
    np.testing.assert_allclose(given, [relevance], rtol=0, atol=1e-12)
    assert details.score.tolist() == [2.0 + bias]
    layer = details.layers[0]
    for cause in ("bias", "epsilon", "padding", "initial_state", "dropped"):
        assert layer[cause][0] == pytest.approx(kept.get(cause, 0.0), abs=1e-12)
    neurons = [Neuron(np.arange(4), w[0].double().numpy(), bias, 0)]
    limits = (
        (np.asarray(rule.low), np.asarray(rule.high)) if isinstance(rule, ZBox) else (None, None)
    )
    by_reference, _ = affine_relevance(rule, neurons, x[0], np.array([2.0 + bias]), 1e-6, *limits)
    assert_close(by_reference, relevance, 1e-12)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_nothing_to_share_is_dropped(rule):
    """With epsilon = 0, a neuron without any contribution keeps its relevance, without NaN."""
    model = randomised(nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 1)), seed=5)
    assert_explained(model, np.zeros((1, 3)), *on_first(rule, Flat()), epsilon=0.0)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_dead_weights_give_no_nan(rule):
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model[1].bias.fill_(1.0)
        model[1].weight.fill_(1.0)
    assert_explained(model, np.ones((1, 3)), *on_first(rule, Flat()), epsilon=0.0)


def test_renormalized_empty_parts():
    """Outputs with contributions of one sign alone give away R; others as usual."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2.0], [-1.0, -2.0], [1.0, -2.0]]))
        model[0].bias.zero_()
        model[1].weight.fill_(1.0)
        model[1].bias.fill_(5.0)
    X = np.array([[1.0, 1.0], [0.0, 0.0], [1.0, -1.0]])
    for epsilon in (0.0, 1e-6):
        rule = AlphaBeta(renormalize=True)
        assert_explained(model, X, *on_first(rule, Flat()), epsilon=epsilon)
        score = explain(model, X[:1], rule=on_first(rule, Flat())[0], epsilon=0.0).sum()
        assert score == pytest.approx(4.0)  # as each output gave away its third of 4


# --- Rules as values ------------------------------------------------------------------------

ARRAY_BOX = ZBox(low=np.array([-1.0, -2.0]), high=np.array([1.0, 2.0]))


@pytest.mark.parametrize("rule", [*RULES, ZBox(), ARRAY_BOX], ids=repr)
def test_rule_is_a_value(rule):
    names = {"ZBox": ZBox, "np": np, "array": np.array}
    names.update({type(r).__name__: type(r) for r in RULES})
    for other in (
        clone(rule),
        pickle.loads(pickle.dumps(rule)),
        eval(repr(rule), names),
        type(rule)(**rule.get_params()),
        type(rule)().set_params(**rule.get_params()),
    ):
        assert other == rule
        assert hash(other) == hash(rule)
        assert repr(other) == repr(rule)
        assert type(other) is type(rule)
    assert rule != "epsilon"


def test_rules_differ_by_type_and_parameters():
    rules = [*RULES, ZBox(), ARRAY_BOX, Epsilon(epsilon=0.0), Gamma(gamma=0.1)]
    assert len(set(rules)) == len(rules)
    assert Gamma(0.25) == Gamma()
    assert Gamma(1) == Gamma(1.0)
    assert hash(Gamma(1)) == hash(Gamma(1.0))
    assert AlphaBeta(1.0, 0.0) != ZPlus()


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_set_params_refuses_unknown_names(rule):
    with pytest.raises(ValueError, match=r"nonsense"):
        clone(rule).set_params(nonsense=1)


def test_defaults():
    assert Epsilon().get_params() == {"epsilon": None}
    assert Gamma().get_params() == {"gamma": 0.25, "epsilon": None}
    assert AlphaBeta().get_params() == {
        "alpha": 2.0,
        "beta": 1.0,
        "epsilon": None,
        "renormalize": False,
    }
    assert ZPlus().get_params() == {"epsilon": None}
    assert ZBox().get_params() == {"low": None, "high": None}
    for rule in (Zero(), WSquare(), Flat()):
        assert rule.get_params() == {}


def test_constructors_only_store():
    """Validation waits until a rule is used, so that clone and grids work as in scikit-learn."""
    assert AlphaBeta(alpha=5.0, beta=1.0).beta == 1.0
    bounds = [1.0]
    assert ZBox(bounds, bounds).low is bounds


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (AlphaBeta(alpha=2.0, beta=2.0), "alpha"),
        (AlphaBeta(alpha=0.5, beta=-0.5), "alpha|beta"),
        (AlphaBeta(alpha=np.nan, beta=1.0), "alpha"),
        (AlphaBeta(alpha=np.inf, beta=np.inf), "alpha|beta"),
        (AlphaBeta(alpha="2", beta=1.0), "alpha"),
        (AlphaBeta(epsilon=-1e-9), "epsilon"),
        (Gamma(gamma=-0.1), "gamma"),
        (Gamma(gamma=np.nan), "gamma"),
        (Gamma(gamma=np.inf), "gamma"),
        (Gamma(gamma=None), "gamma"),
        (Gamma(epsilon=np.nan), "epsilon"),
        (Epsilon(epsilon=-1.0), "epsilon"),
        (Epsilon(epsilon=np.nan), "epsilon"),
        (Epsilon(epsilon=np.inf), "epsilon"),
        (Epsilon(epsilon="small"), "epsilon"),
        (ZPlus(epsilon=-1.0), "epsilon"),
        (ZBox(low=1.0, high=0.0), "low"),
        (ZBox(low=1.0, high=1.0), "low"),
        (ZBox(low=np.nan, high=1.0), "low"),
        (ZBox(low=0.0, high=np.inf), "high"),
        (ZBox(low="a", high=1.0), "low"),
        (ZBox(low=[0.0, 2.0], high=[1.0, 1.0]), "low"),
        (ZBox(low=[0.0, 2.0], high=[1.0, 1.0, 3.0]), "shape"),
    ],
    ids=repr,
)
def test_bad_parameters(rule, message):
    """Both the check and `explain` refuse a rule out of range, naming the parameter."""
    model = nn.Sequential(nn.Linear(2, 2)).double()
    with pytest.raises((ValueError, TypeError), match=message):
        check_rule(rule)
    with pytest.raises((ValueError, TypeError), match=message):
        explain(model, np.ones((1, 2)), rule=rule)
    with pytest.raises((ValueError, TypeError), match=message):
        explain(model, np.ones((1, 2)), rule=Composite([("all", rule, "all")]))


# --- One place for a rule -------------------------------------------------------------------


def test_every_rule_of_the_package_has_a_row():
    assert {type(rule) for rule in RULES} == set(rules.RULES.values())
    assert {cls.__name__ for cls in rules.RULES.values()} <= set(sklrp.__all__)


def test_a_class_among_the_rules_is_named_and_saved(tmp_path):
    """Its class alone makes `rule="half_flat"` work, and a file hold it."""
    source = (
        "class HalfFlat(Rule):\n"
        "    def parts(self):\n"
        "        return (Part(0.5, ((x_one, lambda v: v.abs() + 1),), stabilize=False),)\n"
    )
    try:
        exec(source, vars(rules))
        rule = vars(rules)["HalfFlat"]()
        assert "half_flat" in available_rules()
        assert "HalfFlat" in rules.__all__  # wherever in the file it stands
        assert check_rule("half_flat") == Composite([("all", rule, "all")])
        clf = sklrp.MLPClassifier((2,), max_epochs=1, random_state=0)
        X = np.random.default_rng(0).normal(size=(8, 3))
        transformer = sklrp.RelevanceTransformer(clf, rule=rule).fit(X, np.arange(8) % 2)
        sklrp.save(transformer, tmp_path / "file")
        assert sklrp.load(tmp_path / "file").rule == rule
    finally:
        rules.RULES.pop("half_flat")
        rules.__all__.remove("HalfFlat")
        del vars(rules)["HalfFlat"]


def test_parameters_are_stored_under_their_names():
    class Scaled(rules.Epsilon):
        def __init__(self, scale=2.0):
            self.factor = scale

    for use in (repr, hash, check_rule, clone, lambda rule: rule == Scaled()):
        with pytest.raises(TypeError, match=r"Scaled must store.*'scale': set self.scale = scale"):
            use(Scaled())


def test_rules_of_users_take_no_names():
    class Gamma(rules.Gamma):
        pass

    assert rules.RULES["gamma"] is rules.Gamma
    assert check_rule("gamma").rules[0][1] == rules.Gamma()
    assert check_rule(Gamma()).rules[0][1] == Gamma()
