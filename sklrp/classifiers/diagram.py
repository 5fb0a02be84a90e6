"""What scikit-learn's diagram of estimators shows of a network: its layers and their rules.

Estimators call it for themselves, `RelevanceTransformer` for the classifier inside it.
"""

from __future__ import annotations

import textwrap
import warnings
from copy import copy
from typing import Any

from sklrp._sklearn import make_visual_block
from sklrp.propagation.explaining import plan


def network_block(estimator: Any, rule: Any = "auto", epsilon: float = 1e-6) -> Any:
    """Return the diagram's block of an estimator: below it a box that opens to the plan.

    Parameters
    ----------
    estimator : estimator object
        A fitted estimator that `sklrp.plan` takes.
    rule : str, Rule or Composite, default="auto"
        The rule that is resolved.
    epsilon : float, default=1e-6
        The stabiliser of rules that have none of their own.

    Returns
    -------
    object
        What scikit-learn expects of ``_sk_visual_block_``.
    """
    n_parameters = sum(p.numel() for p in estimator.module_.parameters())
    notes = [f"{n_parameters:,} parameters, rule={rule!r}, epsilon={epsilon!r}"]
    table = ""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            table = repr(plan(estimator, rule, epsilon=epsilon))
        notes += [f"Warning: {warning.message}" for warning in caught]
    except (TypeError, ValueError) as error:  # a diagram is drawn whatever the parameters are
        notes.append(f"{type(error).__name__}: {error}")
    details = "\n\n".join([*map(textwrap.fill, notes), table])
    network = make_visual_block("single", None, names="Network and rules", name_details=details)
    return make_visual_block("serial", [network])


def nested_block(estimator: Any, rule: Any, epsilon: float) -> Any:
    """Return the diagram's block of what explains an estimator by a rule of its own.

    Parameters
    ----------
    estimator : estimator object
        The estimator; one that is not fitted is drawn without its network.
    rule : str, Rule or Composite
        The rule that is resolved.
    epsilon : float
        The stabiliser of rules that have none of their own.

    Returns
    -------
    object
        What scikit-learn expects of ``_sk_visual_block_``.
    """
    shown = copy(estimator)
    if hasattr(shown, "module_"):
        shown._sk_visual_block_ = lambda: network_block(shown, rule, epsilon)
    name = f"estimator: {type(shown).__name__}"
    return make_visual_block("parallel", [shown], names=[name], name_details=[str(shown)])
