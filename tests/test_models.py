"""What a model is: every kind holds the same network, and what is no model is refused."""

import copy
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from sklearn.ensemble import VotingClassifier
from torch import nn

from sklrp import MLPClassifier
from sklrp._models import unwrap
from sklrp.diagnostics import artifact_map, audit, diagnose, randomization_test, skill_map
from sklrp.metrics import make_relevance_scorer
from sklrp.metrics.catalogue import METRICS
from sklrp.propagation import explain, plan
from tests.helpers.models import MODELS, REFUSED, SINGLE, ExplainedNet, make, refused


@pytest.mark.sweep(12)
@pytest.mark.parametrize("name", [*MODELS, *SINGLE])
def test_the_network_of_every_kind_of_model(name):
    kind = make(name)
    model = unwrap(kind.model)
    entered = model.enter(kind.X)
    np.testing.assert_allclose(np.asarray(entered), kind.entered)
    outputs = kind.network(torch.from_numpy(kind.entered).double()).detach().numpy()
    np.testing.assert_allclose(model.outputs(entered), outputs, atol=1e-6)
    np.testing.assert_array_equal(model.classes_for(entered), kind.labels)
    assert model.feature_names(kind.X, 4) == kind.names
    if kind.labels is not None:
        assert model.predict(entered).tolist() == kind.labels[outputs.argmax(axis=1)].tolist()
    elif "binary" in name:
        assert model.predict(entered).tolist() == (outputs[:, 0] > 0).tolist()
    else:
        np.testing.assert_allclose(model.predict(entered), outputs[:, 0], atol=1e-6)
    relevance = explain(model.network, entered)
    expected = explain(kind.network, kind.entered.astype(np.float64))
    np.testing.assert_allclose(relevance, expected, atol=1e-5)


@pytest.mark.parametrize("name", [*MODELS, *SINGLE])
def test_every_kind_of_model_is_explained_and_planned(name):
    """Relevance is of what enters the network, labels are the model's own."""
    kind = make(name)
    options = {"target": "all", "rule": "gamma", "return_details": True}
    relevance, details = explain(kind.model, kind.X, **options)
    expected, same = explain(kind.network, kind.entered.astype(np.float64), **options)
    np.testing.assert_allclose(relevance, expected, atol=1e-5)
    assert [layer.name for layer in details.layers] == [layer.name for layer in same.layers]
    assert details.target.shape == same.target.shape
    labels = getattr(unwrap(kind.model).network, "classes_", None)
    if labels is not None and np.asarray(labels).dtype.kind not in "iufb":
        assert (details.target == np.asarray(labels)[same.target]).all()
        one = explain(kind.model, kind.X, target=labels[1], rule="gamma")
        np.testing.assert_allclose(one, expected[:, 1], atol=1e-5)
    assert repr(plan(kind.model, "gamma", kind.X)) == repr(plan(kind.network, "gamma"))


class Forward(nn.Linear):
    def forward(self, x):
        return super().forward(x).relu()


def test_a_net_that_explains_itself_is_planned_by_the_forward_of_its_module():
    """Its samples reach the module as they are, so a run of them shows the steps."""
    net = ExplainedNet(Forward(4, 2)).initialize()
    net.classes_inferred_ = np.arange(2)
    X = np.ones((2, 4), np.float32)
    assert repr(plan(net, X=X)) == repr(plan(net.module_, X=X))


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_model(name):
    _, error, message = REFUSED[name]
    for function in (unwrap, plan, lambda model: explain(model, np.ones((2, 4)))):
        with pytest.raises(error, match=message):
            function(refused(name))


def test_the_line_that_reaches_a_network_reaches_it():
    for name in ("voting", "bagging", "calibrated", "calibrated in a pipeline", "tuned threshold"):
        model = refused(name)
        with pytest.raises(TypeError, match="pass one network") as caught:
            unwrap(model)
        line = str(caught.value).rpartition("pass one network, ")[2].rstrip(".")
        assert unwrap(eval(line, {"model": model})).name == "MLPClassifier"


def test_a_wrapped_module_is_taken_out_of_its_wrapper():
    for name in ("module in parallel", "compiled module"):
        model = unwrap(make(name).model)
        assert type(model.module) is type(make(name).network)
        assert [*model.module.state_dict()] == [*make(name).network.state_dict()]


def test_a_module_keeps_its_mode():
    kind = make("module in training mode")
    unwrap(kind.model).outputs(kind.X)
    assert kind.model.training


def modes(module):
    return {name: part.training for name, part in module.named_modules()}


@pytest.mark.parametrize("name", [*MODELS, *SINGLE])
def test_every_part_keeps_its_mode(name):
    """Nets set the mode of their module when they predict; parts may differ, as frozen ones do."""
    model = unwrap(copy.deepcopy(make(name).model))
    entered = model.enter(make(name).X)
    expected = model.predict(entered)
    for mode in (True, False):
        for k, part in enumerate(model.module.modules()):
            part.training = (k % 2 == 0) == mode
        before = modes(model.module)
        np.testing.assert_array_equal(model.predict(entered), expected)
        model.outputs(entered)
        model.classes_for(entered)
        assert modes(model.module) == before


DIAGNOSTICS = {
    "skill_map": lambda model, X, y: skill_map(model, X, y, n_permutations=19),
    "artifact_map": lambda model, X, y: artifact_map(model, X, y, n_permutations=3),
    "diagnose": lambda model, X, y: diagnose(model, X, y, n_permutations=3),
    "randomization_test": lambda model, X, y: randomization_test(model, X, y, n_permutations=1),
    "audit": lambda model, X, y: audit(model, X),
    "scorer": lambda model, X, y: make_relevance_scorer("skill_mass")(model, X, y),
}


@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize("name", DIAGNOSTICS)
def test_diagnostics_leave_every_part_in_its_mode(name, wrong):
    rng = np.random.default_rng(0)
    y = np.arange(80) % 2
    X = rng.normal(size=(80, 6)) + 1.5 * y[:, None]
    clf = MLPClassifier((6,), dropout=0.5, max_epochs=5, random_state=0).fit(X[:40], y[:40])
    assert clf.module_.training  # as its training left it
    list(clf.module_)[-1].eval()
    before = modes(clf.module_)
    state = {name: value.clone() for name, value in clf.module_.state_dict().items()}
    X[40:][:, 0] = np.inf if wrong else X[40:, 0]
    with pytest.raises(ValueError, match="inf") if wrong else nullcontext():
        DIAGNOSTICS[name](clf, X[40:], y[40:])
    assert modes(clf.module_) == before
    assert all(torch.equal(state[name], value) for name, value in clf.module_.state_dict().items())


def test_an_interrupt_leaves_every_part_in_its_mode(monkeypatch):
    X = np.random.default_rng(0).normal(size=(80, 6))
    y = (X[:, 0] > 0).astype(int)
    clf = MLPClassifier((6,), dropout=0.5, max_epochs=5, random_state=0).fit(X[:40], y[:40])
    seen = []

    def interrupt(module, *args):
        seen.append(module.training)
        raise KeyboardInterrupt

    for part in clf.module_:
        part.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        diagnose(clf, X[40:], y[40:], n_permutations=3)
    assert seen == [False]  # it was interrupted amid a prediction
    assert all(modes(clf.module_).values())


def test_networks_inside_of_others_keep_their_modes():
    X = np.random.default_rng(0).normal(size=(80, 6))
    y = (X[:, 0] > 0).astype(int)
    clf = MLPClassifier((6,), max_epochs=5, random_state=0)
    votes = VotingClassifier([("one", clf)], voting="soft").fit(X[:40], y[:40])
    inside = votes.estimators_[0].module_
    assert inside.training
    skill_map(votes, X[40:], y[40:], n_permutations=19)
    assert all(modes(inside).values())


# Few draws, as many models are graded. Cosines, as the ranks of nearly equal values are others in
# single precision.
COSINE = {"similarity": "cosine", "random_state": 0}
SETTINGS = {
    "class_sensitivity": COSINE,
    "faithfulness_correlation": {"n_subsets": 5, "random_state": 0},
    "max_sensitivity": {"n_draws": 2, "random_state": 0},
    "pixel_flipping": {"steps": 3, "random_state": 0},
    "randomization_similarity": COSINE,
    "relevance_mass": {"mask": [1, 1, 0, 0]},
    "relevance_rank": {"mask": [1, 1, 0, 0]},
    "skill_mass": {"n_networks": 2, "n_permutations": 99, "random_state": 0},
}
OF_MODELS = [name for name, metric in METRICS.items() if "model" in metric.takes]


def truth(kind, labels):
    """Return what samples of a kind are, in the labels of a model, or a value for each."""
    return kind.entered[:, 0] if labels is None else np.asarray(labels)[np.arange(60) % 3]


def grade(name, model, X, y, **params):
    """Return the values of a metric that takes a model, and its maps where it takes them too."""
    metric = METRICS[name]
    if metric.takes == "model and truth":
        params["y"] = y
    if metric.takes == "model and maps":
        params["relevance"] = explain(unwrap(model).network, unwrap(model).enter(X))
    values = metric.function(model, X, **SETTINGS[name], **params)
    return values if metric.entry is None else values[metric.entry]


@pytest.mark.sweep(3)
@pytest.mark.parametrize("name", MODELS)
def test_metrics_of_every_kind_of_model(name):
    kind = make(name)
    network, entered = kind.network, kind.entered.astype(np.float64)
    for metric in OF_MODELS:
        for target, index in ((None, None), (kind.labels[1], 1)):
            y = truth(kind, kind.labels)
            found = grade(metric, kind.model, kind.X, y, target=target)
            expected = grade(metric, network, entered, np.arange(60) % 3, target=index)
            np.testing.assert_allclose(found, expected, atol=1e-3, err_msg=metric)


@pytest.mark.parametrize("name", SINGLE)
def test_metrics_of_a_single_output(name):
    kind = make(name)
    y = truth(kind, None)
    for metric in OF_MODELS:
        if metric == "class_sensitivity":
            with pytest.raises(ValueError, match="has a single output: there is no other"):
                grade(metric, kind.model, kind.X, y)
        else:
            found = grade(metric, kind.model, kind.X, y)
            expected = grade(metric, kind.network, kind.entered, y)
            np.testing.assert_allclose(found, expected, atol=1e-3, err_msg=metric)


@pytest.mark.parametrize("name", REFUSED)
def test_metrics_and_scorers_refuse_what_is_no_model(name):
    model, X = refused(name), make("estimator").X
    _, error, message = REFUSED[name]
    for metric in OF_MODELS:
        takes = METRICS[metric].takes
        kwargs = {"model and maps": {"relevance": X}, "model and truth": {"y": X}}.get(takes, {})
        if takes != "model and maps" or "another estimator" not in name:  # whose scores are enough
            with pytest.raises(error, match=message):
                METRICS[metric].function(model, X, **kwargs)
    for metric in METRICS:
        with pytest.raises(error, match=message):
            make_relevance_scorer(metric, **SETTINGS.get(metric, {}))(model, X)


@pytest.mark.sweep(3)
@pytest.mark.parametrize("name", [*MODELS, *SINGLE])
def test_scorers_grade_every_kind_of_model(name):
    kind = make(name)
    network, entered = kind.network, kind.entered.astype(np.float64)
    for metric in METRICS:
        if metric != "class_sensitivity" or kind.labels is not None:
            scorer = make_relevance_scorer(metric, **SETTINGS.get(metric, {}))
            codes = None if kind.labels is None else np.arange(3)
            expected = scorer(network, entered, truth(kind, codes))
            score = scorer(kind.model, kind.X, truth(kind, kind.labels))
            assert score == pytest.approx(expected, abs=1e-3), metric


def test_names_of_features_travel_into_a_network():
    kind = make("pipeline of tables")
    for metric in OF_MODELS:  # a network that was fitted on a table warns where names are lost
        grade(metric, kind.model, kind.X, truth(kind, kind.labels))
    with pytest.raises(ValueError, match="feature names"):
        grade("max_sensitivity", kind.model, kind.X.rename(columns={"sst": "ice"}), None)
