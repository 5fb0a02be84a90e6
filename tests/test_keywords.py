"""Unknown keywords: a rule's parameters beside the rule, and what other libraries call them."""

import numpy as np
import pytest
import xarray as xr
from sklearn.pipeline import make_pipeline

import sklrp
from sklrp import ESNClassifier, MLPClassifier, MLPRegressor, RelevanceTransformer
from sklrp.diagnostics import (
    artifact_map,
    audit,
    bias_share,
    diagnose,
    randomization_test,
    skill_map,
)
from sklrp.geo import AnomalyTransformer, GridVectorizer
from sklrp.metrics import make_relevance_scorer, max_sensitivity
from sklrp.plotting import ArtifactDisplay, PixelFlippingDisplay, RelevanceDisplay
from sklrp.preprocessing import InputCapper, InputMasker

X = np.random.default_rng(0).normal(size=(30, 6))
Y = (X[:, 0] > 0).astype(int)
COMMON = {"max_epochs": 1, "random_state": 0}
FIELD = xr.DataArray(
    X.reshape(30, 2, 3),
    {"time": np.arange(30), "lat": [0.0, 1.0], "lon": [0.0, 1.0, 2.0]},
    ("time", "lat", "lon"),
)
CLF = MLPClassifier((4,), **COMMON).fit(X, Y)
REG = MLPRegressor((4,), **COMMON).fit(X, X[:, 0])
ESN = ESNClassifier(10, input_shape=(3, 2), random_state=0).fit(X, Y)
GEO = make_pipeline(GridVectorizer(), MLPClassifier((4,), **COMMON)).fit(FIELD, Y)
CALLS = {
    "explain": lambda **how: sklrp.explain(CLF, X, **how),
    "explain a module": lambda **how: sklrp.explain(CLF.module_, X, target=0, **how),
    "explain batches": lambda **how: sklrp.explain(CLF, iter([X]), **how),
    "plan": lambda **how: sklrp.plan(CLF, **how),
    "a classifier": lambda **how: CLF.explain(X, **how),
    "a regressor": lambda **how: REG.explain(X, **how),
    "a reservoir": lambda **how: ESN.explain(X, **how),
    "fields": lambda **how: sklrp.geo.explain(GEO, FIELD, **how),
    "a transformer": lambda **how: RelevanceTransformer(CLF, **how),
    "diagnose": lambda **how: diagnose(CLF, X, Y, **how),
    "audit": lambda **how: audit(CLF, X, Y, **how),
    "artifact_map": lambda **how: artifact_map(CLF, X, Y, **how),
    "bias_share": lambda **how: bias_share(CLF, X, **how),
    "randomization_test": lambda **how: randomization_test(CLF, X, **how),
    "max_sensitivity": lambda **how: max_sensitivity(CLF, X[:2], **how),
    "a scorer": lambda **how: make_relevance_scorer(max_sensitivity, **how)(CLF, X, Y),
    "maps": lambda **how: RelevanceDisplay.from_estimator(CLF, X[:2], **how),
    "curves": lambda **how: PixelFlippingDisplay.from_estimator(CLF, X, **how),
    "findings": lambda **how: ArtifactDisplay.from_estimator(CLF, X, Y, **how),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_parameter_of_a_rule_is_answered_with_the_rule(name):
    line = r"'gamma' is a parameter of a rule: rule=sklrp\.Gamma\(gamma=0\.1\)"
    with pytest.raises(TypeError, match=line):
        CALLS[name](rule="gamma", gamma=0.1)


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"gamma": 0.1}, sklrp.Gamma(0.1)),
        ({"alpha": 3, "beta": 2}, sklrp.AlphaBeta(3, 2)),
        ({"beta": 0}, sklrp.AlphaBeta(beta=0)),
        ({"low": -9.0, "high": 9.0}, sklrp.ZBox(-9.0, 9.0)),
        ({"bounds": (-9.0, 9.0)}, sklrp.ZBox(-9.0, 9.0)),
    ],
)
def test_the_line_of_the_answer_makes_the_rule(given, rule):
    with pytest.raises(TypeError, match="of a rule: rule=") as error:
        sklrp.explain(CLF, X, rule="gamma", **given)
    line = str(error.value).partition("rule: rule=")[2].rstrip(".")
    assert eval(line, {"sklrp": sklrp}) == rule


def test_all_parameters_of_the_rules_are_known():
    rules = [sklrp.check_rule(name).rules[0][1] for name in ("gamma", "alpha_beta", "z_box")]
    for parameter in {name for rule in rules for name in rule.get_params()}:
        with pytest.raises(TypeError, match=rf"'{parameter}' is .* rule=sklrp\.\w+\({parameter}="):
            sklrp.check_rule("auto", **{parameter: 1.0})


@pytest.mark.parametrize(
    ("given", "meant"),
    [("composite", "rule"), ("eps", "epsilon"), ("stabilizer", "epsilon"), ("targt", "target")],
)
def test_names_of_other_libraries_are_answered_with_ours(given, meant):
    for call in (lambda **how: sklrp.explain(CLF, X, **how), lambda **how: CLF.explain(X, **how)):
        with pytest.raises(TypeError, match=f"'{given}'.*Did you mean '{meant}'"):
            call(**{given: 1})


@pytest.mark.parametrize(
    ("made", "given", "meant"),
    [
        (AnomalyTransformer, "standardise", "standardize"),
        (GridVectorizer, "layouts", "layout"),
        (InputMasker, "maks", "mask"),
        (InputCapper, "lower", "low"),
        (sklrp.Gamma, "gama", "gamma"),
        (sklrp.AlphaBeta, "alfa", "alpha"),
        (sklrp.Composite, "rulse", "rules"),
    ],
)
def test_constructors_ask_what_is_meant(made, given, meant):
    line = rf"^{made.__name__}: .* '{given}'\. Did you mean '{meant}'\?$"
    with pytest.raises(TypeError, match=line):
        made(**{given: 1})


def test_what_explain_alone_takes_is_said():
    with pytest.raises(TypeError, match=r"'return_details' is a parameter of sklrp\.explain\("):
        sklrp.geo.explain(GEO, FIELD, return_details=True)


def test_a_dataset_of_labels_is_answered_with_its_variable():
    labels = xr.Dataset({"state": ("time", Y)})
    for call in (CLF.fit, lambda X, y: diagnose(CLF, X, y), lambda X, y: skill_map(CLF, X, y)):
        with pytest.raises(TypeError, match=r"got Dataset: take a variable of it, y\['state'\]"):
            call(X, labels)


def test_other_calls_fail_as_before():
    with pytest.raises(TypeError, match=r"explain: missing a required argument: 'X'\.$"):
        sklrp.explain(CLF)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'foo'\.$"):
        sklrp.explain(CLF, X, foo=1)
    with pytest.raises(TypeError, match=r"plot: .* 'gamma'\.$"):  # it knows no rule
        RelevanceDisplay.from_relevance(X[:2], gamma=1)
    with pytest.raises(TypeError, match="holds no values"):  # not one of keywords
        CLF.explain(_NoValues())


class _NoValues:
    def __array__(self, dtype=None, copy=None):
        raise TypeError("it holds no values")


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        (sklrp.Gamma, r"rule=sklrp\.Gamma\(\)"),
        (("gamma", 0.1), r"rule=sklrp\.Gamma\(0\.1\)"),
        (["epsilon", 0.01], r"rule=sklrp\.Epsilon\(0\.01\)"),
    ],
)
def test_classes_and_pairs_are_answered_with_a_rule(rule, line):
    with pytest.raises(TypeError, match=line):
        sklrp.check_rule(rule)
