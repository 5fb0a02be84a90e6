"""What users import: classifiers, `explain` and `plan`, rules and composites, `save` and `load`.

The package, `sklrp`, takes all names from here when one of them is first asked for.
"""

from sklrp import classifiers, datasets, diagnostics, geo, metrics, plotting, preprocessing, rules
from sklrp._version import __version__
from sklrp.classifiers import *  # noqa: F403  (every classifier, as its package lists them)
from sklrp.composites import Composite, available_rules, check_rule
from sklrp.keras import from_keras
from sklrp.persistence import load, save
from sklrp.propagation import explain, plan
from sklrp.rules import *  # noqa: F403  (every rule: a new one is exported by its class alone)
from sklrp.rules import Rule
from sklrp.transformer import RelevanceTransformer

__all__ = [
    "Composite",
    "RelevanceTransformer",
    "Rule",
    "__version__",
    "available_rules",
    "check_rule",
    "datasets",
    "diagnostics",
    "explain",
    "from_keras",
    "geo",
    "load",
    "metrics",
    "plan",
    "plotting",
    "preprocessing",
    "save",
    *classifiers.__all__,
    *(rule.__name__ for rule in rules.RULES.values()),
]
