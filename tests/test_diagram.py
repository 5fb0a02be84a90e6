"""The HTML diagram of estimators: the network and the rules that it resolves to."""

import html
import re

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_html_repr

import sklrp
from sklrp import (
    CNNClassifier,
    Composite,
    ESNClassifier,
    Flat,
    Gamma,
    LSTMClassifier,
    MLPClassifier,
    RelevanceTransformer,
    ZPlus,
)

TITLE = "Network and rules"


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(20, 6, 8)).astype(np.float32), np.arange(20) % 2


def read(estimator):
    """Return the text of the boxes that hold a network."""
    parts = estimator_html_repr(estimator).split(TITLE)[1:]
    return [html.unescape(re.search(r"<pre>(.*?)</pre>", part, re.S)[1]) for part in parts]


def without_spaces(text):
    return " ".join(str(text).split())


@pytest.mark.parametrize(
    "classifier",
    [
        MLPClassifier((4,), max_epochs=1),
        CNNClassifier((2, 3), max_epochs=1),
        LSTMClassifier(4, max_epochs=1, sweep="left"),
        ESNClassifier(10),
    ],
    ids=lambda classifier: type(classifier).__name__,
)
def test_a_fitted_classifier_shows_its_plan(classifier, data):
    assert read(classifier) == []
    fitted = clone(classifier).fit(*data)
    before = dict(vars(fitted))
    (text,) = read(fitted)
    assert repr(sklrp.plan(fitted)) in text
    n_parameters = sum(p.numel() for p in fitted.module_.parameters())
    assert f"{n_parameters:,} parameters, rule='auto', epsilon=1e-06" in text
    assert vars(fitted) == before


def test_a_transformer_shows_the_plan_of_its_rule(data):
    transformer = RelevanceTransformer(CNNClassifier((2,), max_epochs=1))
    assert read(transformer) == []
    transformer.fit(*data)
    gamma = Composite([("conv", Gamma(0.5), "conv"), ("rest", ZPlus(), "all")])
    for rule in ("gamma", gamma):
        (text,) = read(transformer.set_params(rule=rule, epsilon=0.25))
        assert repr(sklrp.plan(transformer.estimator_, rule)) in text
        assert without_spaces(f"rule={rule!r}, epsilon=0.25") in without_spaces(text)
    assert "_sk_visual_block_" not in vars(transformer.estimator_)


def test_the_network_is_found_inside_pipelines_searches_and_frozen_estimators(data):
    X, y = data
    X = X.reshape(20, -1)
    classifier = MLPClassifier((4,), max_epochs=1)
    relevance = RelevanceTransformer(classifier, rule="z_plus")
    pipeline = make_pipeline(relevance, LogisticRegression())
    frozen = RelevanceTransformer(FrozenEstimator(clone(classifier).fit(X, y)), rule="z_plus")
    search = GridSearchCV(clone(relevance), {"rule": ["z_plus"]}, cv=2)
    assert read(pipeline) == read(search) == []
    assert len(read(frozen)) == 1  # it is fitted already
    for outer in (pipeline, frozen, search):
        (text,) = read(outer.fit(X, y))
        assert "dense1 Linear ZPlus()" in without_spaces(text)


def test_what_cannot_be_followed_stands_in_the_box(data):
    transformer = RelevanceTransformer(MLPClassifier((4,), max_epochs=1)).fit(*data)
    (text,) = read(transformer.set_params(rule=Flat()))  # warns of nothing, see filterwarnings
    assert "Warning: The flat rule on the dense first layer 'dense1'" in without_spaces(text)
    (text,) = read(transformer.set_params(rule="epsilom"))
    assert "ValueError: " in text
    assert "epsilom" in text
    (text,) = read(transformer.set_params(rule="auto", epsilon="much"))
    assert "epsilon" in text
