"""Classifiers on neural networks, with skorch inside, that explain their predictions.

`base` holds what all classifiers have in common, `gradient` what those do that are trained by
gradient, `ridge` the fit of a readout in closed form, `training` the skorch net and its loop,
`shapes` the forms in which samples may come; a classifier's own module holds its parameters and
builds its network.
"""

from sklrp.classifiers.cnn import CNNClassifier
from sklrp.classifiers.esn import ESNClassifier
from sklrp.classifiers.lstm import LSTMClassifier
from sklrp.classifiers.mlp import MLPClassifier

__all__ = ["CNNClassifier", "ESNClassifier", "LSTMClassifier", "MLPClassifier"]
