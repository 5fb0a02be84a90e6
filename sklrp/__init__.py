"""Layer-wise relevance propagation (LRP) through scikit-learn's API."""

from sklrp import datasets, diagnostics, geo, metrics, plotting, preprocessing
from sklrp._version import __version__
from sklrp.classifiers import CNNClassifier, ESNClassifier, LSTMClassifier, MLPClassifier
from sklrp.composites import Composite, available_rules, check_rule
from sklrp.persistence import load, save
from sklrp.propagation import explain, plan
from sklrp.rules import AlphaBeta, Epsilon, Flat, Gamma, Rule, WSquare, ZBox, Zero, ZPlus
from sklrp.transformer import RelevanceTransformer

__all__ = [
    "AlphaBeta",
    "CNNClassifier",
    "Composite",
    "ESNClassifier",
    "Epsilon",
    "Flat",
    "Gamma",
    "LSTMClassifier",
    "MLPClassifier",
    "RelevanceTransformer",
    "Rule",
    "WSquare",
    "ZBox",
    "ZPlus",
    "Zero",
    "__version__",
    "available_rules",
    "check_rule",
    "datasets",
    "diagnostics",
    "explain",
    "geo",
    "load",
    "metrics",
    "plan",
    "plotting",
    "preprocessing",
    "save",
]
