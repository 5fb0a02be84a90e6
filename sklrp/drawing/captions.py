"""What pictures of relevance say: for what it is, its unit, what colours and marks mean.

`RelevanceDisplay` writes it at its colour bars and below its bars.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklrp import _models
from sklrp._model_parts import is_regression
from sklrp.drawing.overlays import Overlay
from sklrp.drawing.views import is_composite, name_several
from sklrp.geo.relevance_fields import EVERY, EVERY_OUTPUT, describe_target, is_of_outputs


def say_unit(
    estimator: Any,
    target: Any,
    reference: Any,
    *,
    has_classes: bool,
    contrast: bool,
    is_share: bool,
    by_column: bool,
) -> str:
    """Say what the relevance is that models, one or several, have for a target."""
    models = [_models.unwrap(one) for one in name_several(estimator, "estimator").values()]
    has_labels = any(model.classes is not None for model in models)
    unit = _say_whose(target, has_classes, has_labels) + _say_from(reference)
    if has_classes and not is_share:
        unit += " (difference of logits)" if contrast else " (logits)"
    elif not is_share and all(m.has_explain and is_regression(m.network) for m in models):
        unit += " (unit of the prediction)"
    return unit + (", summed over the features of a column" if by_column else "")


def read_unit(relevance: Any) -> str:
    """Say what fields hold, by the attributes that `sklrp.geo.explain` writes."""
    if is_composite(relevance):
        relevance = relevance["mean"]
    fields = relevance.values() if isinstance(relevance, Mapping) else [relevance]
    attrs = [getattr(field, "attrs", {}) for field in fields]
    said = {(a.get("long_name"), a.get("units"), a.get("target")) for a in attrs}
    if len(said) != 1:
        return "relevance"
    name, units, target = map(str, said.pop())
    if units == "None" or "relevance" not in name:
        return "relevance"
    whose = (
        ""
        if target in ("None", EVERY, EVERY_OUTPUT) or f" for {target}" in name
        else f" for {target}"
    )
    return f"{name}{whose} ({units})"


def say_grey(maps: list[NDArray], land: NDArray[np.bool_] | None) -> str:
    """Say what the cells are that are grey in the means of maps: land where it is known.

    Parameters
    ----------
    maps : list of ndarray of shape (n_maps, ...)
        The maps of each panel, NaN where nothing is drawn.
    land : ndarray of bool or None
        True at cells of land; None where no land is known.

    Returns
    -------
    str
        "grey: land", "grey: missing" or both; empty if no cell is grey.
    """
    known = False if land is None else land
    missing = [np.isnan(of) & ~np.asarray(known) for of in maps]
    said = ["land"] if np.any(known) else []
    if any(of.any() for of in missing):
        of_means = any(len(of) > 1 for of in missing)
        said.append(f"missing{' in at least one map' if of_means else ''}")
    return f"grey:\u00a0{' or '.join(said)}" if said else ""


def say_hidden(shares: list[float]) -> str:
    """Say how much of the relevance of each view land hides, if it is not next to nothing."""
    share = max(shares, default=0.0)
    if share < 0.0005:
        return ""
    most = "up to " if len(shares) > 1 else ""
    return f"{most}{100 * share:.2g}\u00a0% of |relevance| on land, not shown"


def say_marks(marks: list[Overlay], layout: str) -> str:
    """Say what marks mean."""
    words = {"stipple": "star" if layout == "table" else "dots", "hatch": "hatched"}
    said = [f"{words[mark.style]}: {mark.label}" for mark in marks if mark.n_cells]
    return "; ".join(dict.fromkeys(said))


def _say_whose(target: Any, has_classes: bool, has_labels: bool) -> str:
    """Say for what the relevance is; classes without labels are the indices of outputs."""
    if target is None:
        return f"relevance for the {'predicted class' if has_classes else 'output'}"
    labels_each = has_labels and np.ndim(target) == 1 and not isinstance(target, tuple)
    if is_of_outputs(target) and not labels_each:
        tuples = "output " if isinstance(target, tuple) and not isinstance(target[0], str) else ""
        return f"relevance for {tuples}{describe_target(target)}"
    if np.ndim(target):
        return f"relevance for the {'classes' if has_classes else 'outputs'} given as target"
    return f"relevance for {'class' if has_classes else 'output'} {target}"


def _say_from(reference: Any) -> str:
    """Say from which value an output is explained, if it is said."""
    if reference is None:
        return ""
    if np.ndim(reference):
        return ", each from its reference"
    return f", from {'the mean' if reference == 'mean' else reference}"
