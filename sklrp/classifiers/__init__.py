"""Estimators on neural networks, with skorch inside, that explain their predictions.

Users import the classes from `sklrp`. `base` holds what all of them have in common, `classifier`
what `y` means to some, and `gradient` the training by gradient; a network's own module declares
its parameters and names what builds it. `__all__` is the list of the estimators: `sklrp.save`
reads it.
"""

from sklrp.classifiers.cnn import CNNClassifier
from sklrp.classifiers.esn import ESNClassifier
from sklrp.classifiers.lstm import LSTMClassifier
from sklrp.classifiers.mlp import MLPClassifier

__all__ = ["CNNClassifier", "ESNClassifier", "LSTMClassifier", "MLPClassifier"]
