"""Check what a diagnosis is asked, before anything is computed.

`Explained` calls each function once: whether training data hold samples, whether columns can be
held against maps, and whether the parameters of ``explain`` that a test hands on are known.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Set
from typing import Any

import numpy as np

from sklrp._devices import to_host
from sklrp._keywords import say_keyword, say_rule
from sklrp.propagation import explain

# The parameters of ``explain`` that tests hand on to it, and those that they give themselves.
_MAKES_MAPS = ("rule", "epsilon", "contrast", "reference", "batch_size", "progress")
_TAKEN = ("return_details",)


def holds_samples(X: Any) -> bool:
    """Tell whether training data are an array, fields, a table, or several of them."""
    if isinstance(X, Mapping) and not hasattr(X, "dims"):
        return bool(X) and all(np.ndim(to_host(values)) > 0 for values in X.values())
    if isinstance(X, Set | str | bytes | type) or not hasattr(X, "__len__"):
        return False
    return hasattr(X, "shape") or isinstance(X, Mapping) or len(X) > 0


def check_text_columns(entering: Any) -> None:
    """Raise an error if columns of a table hold text, which has no size to hold maps against."""
    if not hasattr(entering, "columns") or not hasattr(entering, "iloc"):
        return
    text = [
        name
        for k, (name, dtype) in enumerate(zip(entering.columns, entering.dtypes, strict=True))
        if getattr(dtype, "kind", "O") == "O"
        and any(isinstance(value, str) for value in entering.iloc[:, k])
    ]
    if text:
        raise TypeError(
            f"X has columns of text, {', '.join(map(repr, text))}: maps are held against numbers. "
            "Encode them first, and pass the encoded table, the model behind the encoder and its "
            "maps; sklrp.diagnostics.skill_map takes text as it is."
        )


def check_params(params: dict[str, Any], model: Any, is_given: bool) -> None:
    """Raise an error if a parameter of ``explain`` is unknown, or has nothing to make."""
    known = {n: p.default for n, p in inspect.signature(explain).parameters.items()}
    known = {n: v for n, v in known.items() if n in _MAKES_MAPS}
    own = {}
    if getattr(model, "has_explain", False):  # a user's estimator may have more of them
        own = dict(inspect.signature(model.network.explain).parameters)
    takes_all = any(p.kind is p.VAR_KEYWORD for p in own.values())
    for name, value in params.items():
        if (name not in known and not takes_all and name not in own) or name in _TAKEN:
            others = {n: v for n, v in params.items() if n not in known}
            raise TypeError(
                f"{name}={value!r} is no parameter of explain that is taken here; these are "
                f"{', '.join(known)}.{say_rule(others) or say_keyword(name, known)}"
            )
        if is_given and name != "contrast" and not _is_default(value, known.get(name)):
            raise ValueError(
                f"{name}={value!r} has no effect on maps that relevance holds: leave {name} out, "
                f"or leave relevance out, so that maps are made by {name}. To tell by which rule "
                "maps were made elsewhere, use audit."
            )


def _is_default(value: Any, default: Any) -> bool:
    return value is default or (isinstance(value, str | float | int) and value == default)
