"""scikit-learn's own checks, all of them, at the defaults and away from them."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks
from skorch.callbacks import EpochScoring, LRScheduler

from sklrp.classifiers import (
    CNNClassifier,
    CNNRegressor,
    ESNClassifier,
    ESNRegressor,
    LSTMClassifier,
    LSTMRegressor,
    MLPClassifier,
    MLPRegressor,
)

# Callbacks as classes, as the repr of an instance, part of a test's name, changes with every run.
ACCURACY = {
    "callbacks": [("accuracy", EpochScoring)],
    "callbacks__accuracy__scoring": "accuracy",
    "callbacks__accuracy__lower_is_better": False,
    "callbacks__accuracy__on_train": True,
}
SCHEDULER = {
    "callbacks": [("scheduler", LRScheduler)],
    "callbacks__scheduler__policy": "StepLR",
    "callbacks__scheduler__step_size": 15,
}


SETTINGS = [
    MLPClassifier(
        (16,),
        activation="tanh",
        lr=0.02,
        max_epochs=20,
        optimizer="adamw",
        weight_decay=1e-4,
        class_weight="balanced",
        **SCHEDULER,
    ),
    CNNClassifier(
        (4,),
        hidden_layer_sizes=(8,),
        pooling="avg",
        lr=0.1,
        max_epochs=15,
        optimizer="sgd",
        optimizer__momentum=0.9,
        optimizer__nesterov=True,
        class_weight="balanced",
        **ACCURACY,
    ),
    ESNClassifier(
        40,
        leak_rate=0.5,
        spectral_radius=1.2,
        density=0.1,
        ridge=0.01,
        bias_scale=0.0,
        pooling="mean",
        leak_first_step=False,
        leak_split="leak_rate",
    ),
    LSTMClassifier(
        8,
        pooling="mean",
        hidden_layer_sizes=(8,),
        lr=0.02,
        max_epochs=12,
        optimizer="rmsprop",
        optimizer__momentum=0.5,
        class_weight="balanced",
        **ACCURACY,
    ),
    # No noise or dropout: drawn for each sample, it differs if one is repeated, not weighted.
    MLPClassifier(
        (16,),
        lr=0.02,
        max_epochs=20,
        bias="nonpositive",
        l1_first=1e-4,
        l2_first=1e-4,
    ),
]


@pytest.mark.sweep(50)
@pytest.mark.filterwarnings("ignore:Can't check dok sparse matrix:UserWarning")
@parametrize_with_checks([ESNClassifier(), ESNRegressor(), SETTINGS[0]])
def test_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.sweep(20)
@pytest.mark.filterwarnings("ignore:Can't check dok sparse matrix:UserWarning")
@parametrize_with_checks(SETTINGS[1:])
def test_scikit_learn_at_other_settings(estimator, check):
    check(estimator)


@pytest.mark.sweep(6)  # these train for long
@pytest.mark.filterwarnings("ignore:Can't check dok sparse matrix:UserWarning")
@parametrize_with_checks(
    [
        MLPClassifier(),
        CNNClassifier(),
        LSTMClassifier(),
        MLPRegressor(),
        CNNRegressor(),
        LSTMRegressor(),
    ]
)
def test_scikit_learn_at_the_defaults(estimator, check):
    check(estimator)
