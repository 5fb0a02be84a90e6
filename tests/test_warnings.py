"""Warnings name the user's line, whatever decorators and libraries lie between."""

import warnings

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklrp import MLPClassifier, MLPRegressor, RelevanceTransformer, explain
from sklrp._warnings import warn_user
from sklrp.diagnostics import skill_map

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 2))
Y = X[:, 0] > 0
TRAINED = MLPClassifier((4,), max_epochs=3, random_state=0).fit(X[:60], Y[:60])
STUCK = MLPRegressor((4,), lr=1e-7, max_epochs=15, random_state=0)
IN_ORDER = np.sort(X, axis=0)

ASKED = {
    "fit": lambda: STUCK.fit(X, X[:, 0]),
    "fit of a pipeline": lambda: make_pipeline(StandardScaler(), STUCK).fit(X, X[:, 0]),
    "a column of labels": lambda: skill_map(
        TRAINED, X, Y[:, None], n_permutations=99, random_state=0
    ),
    "flat rule": lambda: explain(TRAINED, X, rule="flat"),
    "flat rule in a transformer": lambda: (
        RelevanceTransformer(TRAINED, rule="flat").fit(X, Y).transform(X)
    ),
    "seen samples": lambda: skill_map(
        TRAINED, X, Y, X_train=X[:60], n_permutations=99, random_state=0
    ),
    "short blocks": lambda: skill_map(
        TRAINED, IN_ORDER, IN_ORDER[:, 0] > 0, block_length=1, n_permutations=99, random_state=0
    ),
}


@pytest.mark.parametrize("what", ASKED)
def test_the_users_line_is_named(what):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ASKED[what]()
    assert {warning.filename for warning in caught} == {__file__}


def test_a_category_is_kept():
    with pytest.warns(RuntimeWarning, match="so") as caught:
        warn_user("so", RuntimeWarning)
    assert caught[0].filename == __file__
