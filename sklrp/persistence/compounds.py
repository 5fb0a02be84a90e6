"""Steps made of steps, `Pipeline`, `FeatureUnion` and `ColumnTransformer`, as JSON and back.

`.parts` calls it for them, and is called back for what is in them.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion, Pipeline

from sklrp._numbers import is_real
from sklrp._sklearn import (
    OUTPUT_CONFIG,
    InvalidParameterError,
    check_own_params,
    has_constraints,
    param_names,
)
from sklrp._wording import say_value, shorten
from sklrp.persistence.values import Arrays, pack, unpack

# Each by its name: the class, and the parameter that lists its steps.
COMPOUNDS: dict[str, tuple[Any, str]] = {
    "Pipeline": (Pipeline, "steps"),
    "FeatureUnion": (FeatureUnion, "transformer_list"),
    "ColumnTransformer": (ColumnTransformer, "transformers"),
}
ENTRIES = {"class", "params", "attributes", "steps", "fitted", "remainder"}
_WORDS = (None, "passthrough", "drop")  # in place of a step
_REST = "_remainder"  # of a fitted ColumnTransformer, made of its remainder and columns
_NAMES_OUT = "_transformers_feature_names_out"  # of one that returns tables
_PackPart = Callable[[Any, str], dict[str, Any]]
_BuildPart = Callable[[Any, str], Any]


def pack_compound(
    estimator: Any, prefix: str, arrays: Arrays, pack_part: _PackPart
) -> dict[str, Any]:
    """Return a compound as JSON.

    Parameters
    ----------
    estimator : Pipeline, FeatureUnion or ColumnTransformer
        The compound.
    prefix : str
        Of the names of its arrays.
    arrays : dict of str to ndarray
        The arrays of the file so far.
    pack_part : callable
        Packs a step, given the prefix of its arrays.

    Returns
    -------
    dict
        What `build_compound` takes.

    Raises
    ------
    TypeError
        If a parameter, or a step, is nothing that a file holds.
    """
    kind = type(estimator).__name__
    _, listed = COMPOUNDS[kind]
    check_own_values(estimator)
    _check_steps(kind, getattr(estimator, listed))
    params = estimator.get_params(deep=False)
    params.pop(listed)
    refuse_memory(params.get("memory"))
    attributes = {k: v for k, v in vars(estimator).items() if k not in {*params, listed}}
    packed: dict[str, Any] = {"class": kind}

    def pack_steps(rows: Any, within: str) -> list[Any]:
        return [
            [row[0], _pack_step(row[1], f"{within}{row[0]}.", pack_part)]
            + [pack(columns, f"{within}{row[0]}", arrays) for columns in row[2:]]
            for row in rows
        ]

    packed["steps"] = pack_steps(getattr(estimator, listed), prefix)
    if kind == "ColumnTransformer":
        remainder = params.pop("remainder")
        packed["remainder"] = _pack_step(remainder, f"{prefix}remainder.", pack_part)
        fitted = attributes.pop("transformers_", None)
        if fitted is not None:
            packed["fitted"] = pack_steps(fitted, f"{prefix}fitted.")
            attributes[_REST] = attributes[_REST][2]
    packed["params"] = {k: pack(v, f"{prefix}{k}", arrays) for k, v in params.items()}
    packed["attributes"] = {k: pack(v, f"{prefix}{k}", arrays) for k, v in attributes.items()}
    if unknown := set(attributes) - set(_FORMS[kind]):
        raise TypeError(
            f"{kind} has the attribute {min(unknown)!r}, which a file does not hold: delete it, "
            "and set it anew after loading."
        )
    return packed


def check_own_values(estimator: Any) -> None:
    """Raise an error if a parameter is invalid, in words that stay as they are."""
    if isinstance(estimator, FeatureUnion):
        _check_union(estimator)
    if not has_constraints(estimator):
        return
    try:
        check_own_params(estimator)
    except InvalidParameterError as error:  # which becomes one of `save` in what calls this
        raise ValueError(str(error)) from None


def _check_union(union: FeatureUnion) -> None:
    """Raise an error if a parameter of a FeatureUnion is malformed: it checks none itself."""
    weights, n_jobs = union.transformer_weights, union.n_jobs
    names = [row[0] for row in union.transformer_list]
    if weights is not None and not (
        isinstance(weights, dict)
        and all(name in names and is_real(weight) for name, weight in weights.items())
    ):
        raise ValueError(
            "transformer_weights of FeatureUnion must be numbers by the names of its steps, "
            f"{shorten(str(names))}, got {say_value(weights, 80)}"
        )
    if n_jobs is not None and not is_real(n_jobs, Integral):
        raise ValueError(f"n_jobs of FeatureUnion must be an integer, got {say_value(n_jobs, 80)}")


def refuse_memory(memory: Any) -> None:
    """Raise an error if something is cached, at a place on one machine."""
    if memory is not None:
        raise TypeError(
            f"memory={memory!r} cannot be saved, as it is a place on this machine: "
            "set_params(memory=None), and set it anew after loading."
        )


def _pack_step(step: Any, prefix: str, pack_part: _PackPart) -> Any:
    return step if step is None or isinstance(step, str) else pack_part(step, prefix)


def build_compound(
    packed: dict[str, Any], prefix: str, arrays: Arrays, build_part: _BuildPart
) -> Any:
    """Return the compound that was packed.

    Parameters
    ----------
    packed : dict
        What `pack_compound` returned.
    prefix : str
        Of the names of its arrays.
    arrays : dict of str to ndarray
        The arrays of the file that nothing has taken yet.
    build_part : callable
        Builds a step, given the prefix of its arrays.

    Returns
    -------
    Pipeline, FeatureUnion or ColumnTransformer
        The compound.

    Raises
    ------
    ValueError
        If a parameter or an attribute is unknown, missing or malformed.
    """
    kind = packed["class"]
    cls, listed = COMPOUNDS[kind]
    if unknown := set(packed) - ENTRIES:
        raise ValueError(f"{kind} has the unknown entries {sorted(unknown)}")
    params = {k: unpack(v, f"{prefix}{k}", arrays) for k, v in packed["params"].items()}
    if unknown := set(params) - {*param_names(cls)}:
        raise ValueError(f"{kind} has no parameters {sorted(unknown)}")

    def build_steps(rows: Any, within: str) -> list[Any]:
        return [
            (
                row[0],
                _build_step(row[1], f"{within}{row[0]}.", build_part),
                *(unpack(columns, f"{within}{row[0]}", arrays) for columns in row[2:]),
            )
            for row in rows
        ]

    steps = build_steps(packed["steps"], prefix)
    _check_steps(kind, steps)
    params[listed] = steps
    if kind == "ColumnTransformer":
        params["remainder"] = _build_step(packed["remainder"], f"{prefix}remainder.", build_part)
    compound = cls(**params)
    check_own_values(compound)
    refuse_memory(params.get("memory"))
    attributes = {k: unpack(v, f"{prefix}{k}", arrays) for k, v in packed["attributes"].items()}
    if "fitted" in packed:
        attributes["transformers_"] = build_steps(packed["fitted"], f"{prefix}fitted.")
    _check_fitted_columns(compound, attributes)
    if _REST in attributes:
        attributes[_REST] = ("remainder", compound.remainder, attributes[_REST])
    vars(compound).update(attributes)
    return compound


def _build_step(packed: Any, prefix: str, build_part: _BuildPart) -> Any:
    return packed if packed is None or isinstance(packed, str) else build_part(packed, prefix)


def _check_steps(kind: str, steps: Any) -> None:
    """Raise an error unless steps have names of their own, and are steps or say what to do."""
    length = 3 if kind == "ColumnTransformer" else 2
    if not steps or any(len(row) != length for row in steps):
        raise ValueError(f"{kind} must hold steps, each with {length} entries")
    names = [row[0] for row in steps]
    if not all(isinstance(name, str) and "__" not in name for name in names):
        raise ValueError(f"the names of the steps of {kind} are malformed: {shorten(str(names))}")
    if len(set(names)) < len(names):
        raise ValueError(f"two steps of {kind} have one name: {shorten(str(names))}")
    words = [row[1] for row in steps if row[1] is None or isinstance(row[1], str)]
    if odd := [word for word in words if word not in _WORDS]:
        raise ValueError(f"{kind} has the step {say_value(odd[0], 80)}, which is none")


def _are_columns(value: Any) -> bool:
    """Tell whether a value chooses columns: a name, a place, several, or a slice or mask."""
    if isinstance(value, str | int | slice):
        return True
    if isinstance(value, np.ndarray):
        return value.ndim == 1 and value.dtype.kind in "biuOU"
    return isinstance(value, list) and all(isinstance(one, str | int) for one in value)


def _are_places(value: Any, length: int) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < length for n in value)


# The attributes of each, whose form `_check_fitted_columns` looks at.
_FORMS: dict[str, set[str]] = {
    "Pipeline": set(),
    "FeatureUnion": {OUTPUT_CONFIG, "feature_names_in_"},
    "ColumnTransformer": {
        *(OUTPUT_CONFIG, "feature_names_in_", "n_features_in_", "_columns", _REST),
        *("_transformer_to_input_indices", "sparse_output_", "output_indices_", _NAMES_OUT),
    },
}


def _check_fitted_columns(compound: Any, attributes: dict[str, Any]) -> None:
    """Raise an error unless what fitting has found of columns goes with the steps."""
    kind = type(compound).__name__
    known = _FORMS[kind] | ({"transformers_"} if kind == "ColumnTransformer" else set())
    if unknown := set(attributes) - known:
        raise ValueError(f"{kind} has the unknown attributes {shorten(str(sorted(unknown)))}")
    if not isinstance(attributes.get(OUTPUT_CONFIG, {}), dict):
        raise ValueError(f"{kind} does not say what it returns")
    if kind != "ColumnTransformer" or "transformers_" not in attributes:
        if set(attributes) - {OUTPUT_CONFIG, "feature_names_in_"}:
            raise ValueError(f"{kind} is fitted in part")
        return
    needed = known - {OUTPUT_CONFIG, "feature_names_in_", _NAMES_OUT}
    if missing := needed - set(attributes):
        raise ValueError(f"{kind} lacks the attributes {sorted(missing)}")
    _check_columns(compound, attributes)


def _check_columns(compound: Any, attributes: dict[str, Any]) -> None:
    """Raise an error unless the columns of a fitted ColumnTransformer are within bounds."""
    n_features = attributes["n_features_in_"]
    names = attributes.get("feature_names_in_")
    if type(n_features) is not int or n_features < 1:
        raise ValueError(f"n_features_in_={str(n_features)[:80]} of ColumnTransformer")
    if names is not None and (not isinstance(names, np.ndarray) or names.shape != (n_features,)):
        raise ValueError("feature_names_in_ does not go with n_features_in_")
    fitted, given = attributes["transformers_"], [row[0] for row in compound.transformers]
    _check_steps("ColumnTransformer", fitted)
    found = [row[0] for row in fitted]
    if found not in (given, [*given, "remainder"]):
        raise ValueError(f"the fitted steps are {shorten(str(found))}, but should be {given}")
    columns = [*attributes["_columns"], *(row[2] for row in fitted)]
    if len(attributes["_columns"]) != len(given) or not all(map(_are_columns, columns)):
        raise ValueError("the columns of a step are malformed")
    inputs, outputs = attributes["_transformer_to_input_indices"], attributes["output_indices_"]
    if not _are_columns(attributes[_REST]) or not all(
        isinstance(name, str) and _are_places(places, n_features)
        for name, places in inputs.items()
    ):
        raise ValueError("the columns of a step are out of bounds")
    if set(inputs) != {*given, "remainder"} or set(outputs) != {*given, "remainder"}:
        raise ValueError("the steps and their columns have other names")
    if not all(isinstance(place, slice) for place in outputs.values()):
        raise ValueError("output_indices_ holds no slices")
    if not isinstance(attributes["sparse_output_"], bool):
        raise ValueError("sparse_output_ is neither True nor False")
    names_out = attributes.get(_NAMES_OUT, np.empty(0, dtype=object))
    if not isinstance(names_out, np.ndarray) or names_out.dtype.kind not in "OU":
        raise ValueError("the names of what leaves the steps are malformed")
