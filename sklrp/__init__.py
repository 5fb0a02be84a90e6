"""Layer-wise relevance propagation (LRP) through scikit-learn's API."""

from sklrp.composites import Composite, available_rules, check_rule
from sklrp.propagation import explain
from sklrp.rules import AlphaBeta, Epsilon, Flat, Gamma, Rule, WSquare, ZBox, Zero, ZPlus

__version__ = "0.1.0.dev0"

__all__ = [
    "AlphaBeta",
    "Composite",
    "Epsilon",
    "Flat",
    "Gamma",
    "Rule",
    "WSquare",
    "ZBox",
    "ZPlus",
    "Zero",
    "__version__",
    "available_rules",
    "check_rule",
    "explain",
]
