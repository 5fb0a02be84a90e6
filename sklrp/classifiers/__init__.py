"""Estimators on neural networks, with skorch inside, that explain their predictions.

Users import the classes from `sklrp`. `base` holds what all of them have in common, `classifier`
and `regressor` what `y` is, `gradient` the training by gradient; a network's own module declares
its parameters and names what builds it. `__all__` is the list of the estimators: `sklrp.save`
reads it.
"""

from sklrp.classifiers.cnn import CNNClassifier, CNNRegressor
from sklrp.classifiers.esn import ESNClassifier, ESNRegressor
from sklrp.classifiers.lstm import LSTMClassifier, LSTMRegressor
from sklrp.classifiers.mlp import MLPClassifier, MLPRegressor

__all__ = [
    "CNNClassifier",
    "CNNRegressor",
    "ESNClassifier",
    "ESNRegressor",
    "LSTMClassifier",
    "LSTMRegressor",
    "MLPClassifier",
    "MLPRegressor",
]
