"""The mass on true cells: against plain loops, and against masks where the truth is known."""

import functools
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from skorch import NeuralNetRegressor
from torch import nn

import sklrp
from sklrp import (
    CNNClassifier,
    ESNClassifier,
    LSTMClassifier,
    MLPClassifier,
    RelevanceTransformer,
)
from sklrp._models import unwrap
from sklrp._streams import Streams
from sklrp.datasets import make_squares
from sklrp.diagnostics import skill_map
from sklrp.metrics import make_relevance_scorer, relevance_mass, skill_mass
from sklrp.metrics.randomise import with_start

RULES = ["w_square", "z_plus", "epsilon"]
NETWORKS = {
    "MLP": MLPClassifier((8,), max_epochs=20, lr=0.02, random_state=0),
    "CNN": CNNClassifier((4,), max_epochs=10, lr=0.01, random_state=0),
    "LSTM": LSTMClassifier(16, max_epochs=20, lr=0.01, random_state=0),
    "ESN": ESNClassifier(60, random_state=0),
}
FAST = {"n_permutations": 99, "n_draws": 8, "random_state": 0}


@functools.cache
def squares():
    """Return images, labels and the one informative cell."""
    return make_squares(n_per_class=100, size=10, random_state=1)


@functools.cache
def fitted(name):
    X, y, _ = squares()
    return clone(NETWORKS[name]).fit(X[:100], y[:100])


def mean_mass(maps, weights, part):
    """Return the weighted mass of each map, by loops over samples and cells."""
    values = []
    for one, row in zip(np.asarray(maps, dtype=np.float64), weights, strict=True):
        sizes = [abs(r) if part == "absolute" else max(r, 0.0) for r in one.ravel().tolist()]
        total = sum(sizes)
        inside = sum(s * w for s, w in zip(sizes, row.ravel().tolist(), strict=True))
        values.append(inside / total if total else 0.0)
    return np.array(values)


def weights_by_loops(model, X, y, **params):
    """Return the weight of each cell, by what the skill map finds."""
    found = skill_map(model, X, y, **params)
    weights = np.zeros(found.skill.shape).reshape(-1, X[0].size)
    skill, true = (a.reshape(weights.shape) for a in (found.skill, found.true_fdr))
    for k in range(len(weights)):
        largest = max([s for s, t in zip(skill[k], true[k], strict=True) if t], default=1.0)
        weights[k, true[k]] = skill[k, true[k]] / largest
    assert weights.any()
    return weights


def untrained(model, n_networks, random_state=0):
    seeds = Streams(random_state).seeds("skill_mass networks", n_networks)
    return [with_start(unwrap(model), seed) for seed in seeds]


# The definition


@pytest.mark.sweep(2)
@pytest.mark.parametrize("part", ["auto", "positive", "absolute"])
@pytest.mark.parametrize("rule", ["epsilon", "z_plus"])
def test_classes_by_loops(part, rule):
    rng = np.random.default_rng(0)
    y = np.arange(150) % 3
    X = rng.normal(size=(150, 2, 4))
    X[np.arange(150), 0, y] += np.array([1.0, 2.0, 3.0])[y]
    clf = MLPClassifier((6,), max_epochs=30, lr=0.02, random_state=0).fit(X[:75], y[:75])
    X, y = X[75:], y[75:]
    weights = weights_by_loops(clf, X, y, **FAST)
    assert len({w for w in weights.ravel().tolist() if w}) > 1  # they are no mask
    labels = clf.predict(X)
    own = "absolute" if part == "absolute" else "positive"
    expected = mean_mass(clf.explain(X, rule=rule), np.tile(weights, (75, 1)), own)
    for network in untrained(clf, 3):
        maps = network.explain(X, rule=rule, target=labels)
        expected -= mean_mass(maps, np.tile(weights, (75, 1)), "absolute") / 3
    found = skill_mass(clf, X, y, part=part, rule=rule, n_networks=3, **FAST)
    assert found.shape == (75,)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    maps = clf.explain(X, rule=rule)
    given = skill_mass(clf, X, y, part=part, relevance=maps, rule=rule, n_networks=3, **FAST)
    np.testing.assert_array_equal(given, found)


def regression(n_outputs):
    """Return a fitted net of values that depend on other cells each, and held-out samples."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(200, 6)).astype(np.float32)
    y = np.stack([X[:, 0] + 0.5 * X[:, 1], 2 * X[:, 4]], axis=1)[:, :n_outputs]
    torch.manual_seed(0)
    net = NeuralNetRegressor(
        nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, n_outputs)),
        max_epochs=60,
        lr=0.1,
        batch_size=20,
        train_split=None,
        verbose=0,
    ).fit(X[:100], y[:100])
    return net, X[100:], y[100:]


@pytest.mark.parametrize("target", [None, "one", "each"])
def test_values_by_loops(target):
    net, X, y = regression(1 if target is None else 2)
    target = {None: None, "one": 1, "each": np.arange(100) % 2}[target]
    params = {**FAST, "target": target} if np.ndim(target) == 0 else FAST
    weights = weights_by_loops(net, X, y, **params)
    weights = weights[np.zeros(100, int) if len(weights) == 1 else target]
    explain = functools.partial(sklrp.explain, rule="gamma", target=target)
    expected = mean_mass(explain(net, X), weights, "absolute")
    expected -= mean_mass(explain(untrained(net, 1)[0], X), weights, "absolute")
    found = skill_mass(net, X, y, target=target, rule="gamma", n_networks=1, **FAST)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.mean() > 0.1
    if target is not None:  # the module says nothing of classes, but its truth does
        module = skill_mass(net.module_, X, y, target=target, rule="gamma", n_networks=1, **FAST)
        np.testing.assert_allclose(module, found, atol=1e-6)


def test_one_class_against_the_others_is_held_against_its_own_skill():
    """Of three classes, each with a cell of its own, one has its own."""
    rng = np.random.default_rng(0)
    y = np.array(["a", "b", "c"])[np.arange(180) % 3]
    X = rng.normal(scale=0.5, size=(180, 5))
    X[y == "a", 0] += 2
    X[y == "b", 1] += 2
    clf = MLPClassifier((8,), max_epochs=30, lr=0.02, random_state=0).fit(X[:90], y[:90])

    def explain(network, X, target, cell):
        return np.eye(5)[np.full(len(X), cell)]

    for label, best in (("a", 0), ("b", 1)):
        masses = [
            mean_mass(explain(clf, X[90:], label, cell), weights, "positive").mean()
            for cell in range(5)
            for weights in [
                np.tile(weights_by_loops(clf, X[90:], y[90:], target=label, **FAST), (90, 1))
            ]
        ]
        assert int(np.argmax(masses)) == best
        # Untrained networks have the same map here, so that nothing is left.
        for cell in range(5):
            found = skill_mass(
                clf, X[90:], y[90:], target=label, explain=explain, cell=cell, **FAST
            )
            np.testing.assert_allclose(found, 0, atol=1e-12)
        given = skill_mass(
            clf,
            X[90:],
            y[90:],
            target=label,
            relevance=explain(clf, X[90:], label, best),
            explain=explain,
            cell=4,
            **FAST,
        )
        np.testing.assert_allclose(given, masses[best] - masses[4])
        assert masses[best] == 1


# The answer is known


@pytest.mark.sweep(1)
@pytest.mark.parametrize("name", NETWORKS)
def test_it_orders_rules_as_the_mask_does(name):
    X, y, mask = squares()
    X, y, clf = X[100:], y[100:], fitted(name)
    labels = clf.predict(X)
    by_skill, by_mask = [], []
    for rule in RULES:
        by_skill.append(skill_mass(clf, X, y, rule=rule, random_state=0).mean())
        mass = relevance_mass(clf.explain(X, rule=rule), mask).mean()
        for network in untrained(clf, 5):
            maps = network.explain(X, rule=rule, target=labels)
            mass -= relevance_mass(maps, mask, part="absolute").mean() / 5
        by_mask.append(mass)
    # One cell is informative and is all that is found, so that weights are the mask.
    np.testing.assert_allclose(by_skill, by_mask, atol=1e-6)
    assert int(np.argmax(by_skill)) == RULES.index("epsilon")
    assert by_skill[2] > by_skill[1] + 0.05
    assert by_skill[2] > by_skill[0] + 0.05


def test_a_rule_that_needs_no_training_has_no_mass_of_its_own():
    """In an echo state network z-plus maps are those of any readout."""
    X, y, mask = squares()
    clf = fitted("ESN")
    assert relevance_mass(clf.explain(X[100:], rule="z_plus"), mask).mean() > 2 * mask.mean()
    assert abs(skill_mass(clf, X[100:], y[100:], rule="z_plus", random_state=0).mean()) < 0.005


@pytest.mark.sweep(1)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_search_picks_the_rule_without_a_mask(name, tmp_path):
    X, y, mask = squares()
    search = GridSearchCV(
        RelevanceTransformer(NETWORKS[name], memory=str(tmp_path)),
        {"rule": RULES},
        scoring={
            "skill": make_relevance_scorer("skill_mass", random_state=0),
            "mask": make_relevance_scorer("relevance_mass", mask=mask),
        },
        refit="skill",
        cv=StratifiedKFold(2, shuffle=True, random_state=0),
        error_score="raise",
    ).fit(X, y)
    assert search.best_params_ == {"rule": "epsilon"}
    found, known = (search.cv_results_[f"mean_test_{key}"] for key in ("skill", "mask"))
    assert pearsonr(found, known).statistic > 0.95


@pytest.mark.slow
def test_real_weights_agree_with_a_mask_of_several_cells():
    X, y, mask = make_squares(n_per_class=100, size=20, random_state=0)
    clf = CNNClassifier((4,), max_epochs=10, lr=0.01, random_state=0).fit(X[:100], y[:100])
    skill, mass = [], []
    for rule in RULES:
        skill.append(skill_mass(clf, X[100:], y[100:], rule=rule, random_state=0).mean())
        mass.append(relevance_mass(clf.explain(X[100:], rule=rule), mask).mean())
    assert np.argsort(skill).tolist() == np.argsort(mass).tolist() == [0, 1, 2]


# In scikit-learn


def test_a_pipeline_and_its_training_samples():
    """Samples enter the network behind the steps, and so do training samples."""
    X, y, _ = squares()
    flat = X.reshape(len(X), -1)
    clf = fitted("MLP")
    model = make_pipeline(FunctionTransformer(lambda rows: rows.reshape(-1, 10, 10) - 1.0), clf)
    model[0].fit(flat)
    raw, train = flat[100:] + 1.0, flat[:100] + 1.0
    for more, inside in (({}, {}), ({"X_train": train}, {"X_train": X[:100]})):
        found = skill_mass(model, raw, y[100:], **more, **FAST)
        expected = skill_mass(clf, X[100:], y[100:], **inside, **FAST)
        np.testing.assert_allclose(found, expected, atol=1e-9)
        score = make_relevance_scorer("skill_mass", **more, **FAST)(model, raw, y[100:])
        assert score == pytest.approx(expected.mean())
    relevance = RelevanceTransformer(model, rule="z_plus", target=1).fit(train, y[:100])
    score = make_relevance_scorer("skill_mass", **FAST)(relevance, raw, y[100:])
    one = skill_mass(relevance.estimator_, raw, y[100:], target=1, rule="z_plus", **FAST)
    assert score == pytest.approx(one.mean())


def test_groups_are_routed_fold_by_fold():
    X, y, _ = squares()
    groups = np.arange(200) // 4
    with config_context(enable_metadata_routing=True):
        scorer = make_relevance_scorer("skill_mass", **FAST).set_score_request(groups=True)
        folds = GroupKFold(2)
        result = cross_validate(
            NETWORKS["MLP"],
            X,
            y,
            cv=folds,
            scoring=scorer,
            params={"groups": groups},
            error_score="raise",
        )
    for fold, (train, test) in enumerate(folds.split(X, y, groups)):
        clf = clone(NETWORKS["MLP"]).fit(X[train], y[train])
        expected = skill_mass(clf, X[test], y[test], groups=groups[test], **FAST)
        assert result["test_score"][fold] == pytest.approx(expected.mean())


def test_random_state_determines_it_and_nothing_is_changed():
    X, y, _ = squares()
    clf = fitted("MLP")
    before = [p.clone() for p in clf.module_.parameters()]

    def grade(state):
        return skill_mass(clf, X[100:], y[100:], n_permutations=99, random_state=state)

    np.testing.assert_array_equal(grade(0), grade(0))
    generator = np.random.RandomState(3)
    first = grade(generator)
    np.testing.assert_array_equal(first, grade(np.random.RandomState(3)))
    assert not np.array_equal(first, grade(generator))
    assert not np.array_equal(grade(0), grade(1))
    after = clf.module_.parameters()
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


# Bad input


def test_without_skill_it_is_0_and_says_so():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(120, 6)), np.arange(120) % 2
    clf = MLPClassifier((4,), max_epochs=5, random_state=0).fit(X[:60], y[:60])
    with pytest.warns(UserWarning, match=r"these 60 samples .* hold out more samples \(fewer fol"):
        found = skill_mass(clf, X[60:], rng.permutation(y[60:]), block_length=1, random_state=0)
    np.testing.assert_array_equal(found, np.zeros(60))


@pytest.mark.parametrize("own", [False, True])
def test_parameters_that_explain_lacks_are_refused_without_skill_too(own):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(120, 6)), np.arange(120) % 2
    clf = MLPClassifier((4,), max_epochs=5, random_state=0).fit(X[:60], y[:60])
    given = {"explain": lambda network, X, target: np.ones(X.shape)} if own else {}
    with pytest.raises(TypeError, match="ruel"):
        skill_mass(clf, X[60:], rng.permutation(y[60:]), random_state=0, ruel="zero", **given)


def test_maps_without_relevance_have_no_mass():
    X, y, _ = squares()
    clf = fitted("MLP")

    def explain(network, X, target):
        return np.zeros(X.shape)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = skill_mass(clf, X[100:], y[100:], explain=explain, **FAST)
    np.testing.assert_array_equal(found, np.zeros(100))


class Explained(NeuralNetRegressor):
    """A regressor of several values that explains their sum if it is not told which."""

    def explain(self, X, target=None):
        return np.ones(X.shape)


def test_bad_input():
    X, y, _ = squares()
    X, y, clf = X[100:], y[100:], fitted("MLP")
    scorer = make_relevance_scorer("skill_mass", **FAST)
    with pytest.raises(ValueError, match=r"'skill_mass'.* the truth: pass y, as scorer\(estimat"):
        scorer(clf, X)
    with pytest.raises(TypeError, match="skill_mass has no parameter 'y'"):
        make_relevance_scorer("skill_mass", y=y)
    with pytest.raises(TypeError, match="skill_mass has no parameter 'mask'"):
        make_relevance_scorer("skill_mass", mask=X[0])
    with pytest.raises(ValueError, match=r"y must hold the truth of each of 100 samples.*\(99,\)"):
        skill_mass(clf, X, y[1:])
    with pytest.raises(ValueError, match="y holds the class 1 only"):
        skill_mass(clf, X[y == 1], y[y == 1])
    with pytest.raises(ValueError, match="too few units to permute"):
        skill_mass(clf, X[:4], [0, 0, 1, 1], groups=[0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"relevance has the shape \(100, 100\), but .*10, 1"):
        skill_mass(clf, X, y, relevance=X.reshape(100, 100))
    made = clf.explain(X, rule="gamma")
    for more, said in (({}, "by default"), ({"rule": "w_square"}, "with rule='w_square'")):
        with pytest.raises(ValueError, match=f"relevance holds other maps .* {said}"):
            skill_mass(clf, X, y, relevance=made, **more, **FAST)
    with pytest.raises(TypeError, match="estimator is a function, which has no network to draw"):
        skill_mass(lambda X: X, X, y)
    for name, value in (("n_networks", 0), ("part", "signed"), ("n_permutations", 9)):
        with pytest.raises(ValueError, match=f"'{name}' parameter"):
            skill_mass(clf, X, y, **{name: value})
    net, X, y = regression(2)
    net = Explained(net.module_, train_split=None, verbose=0).initialize()
    with pytest.raises(ValueError, match="predicts 2 values: give target, the number of"):
        skill_mass(net, X, y, **FAST)
