"""The columns of a table that features came from: what an encoder made several of is one again.

`.views` sums relevance by it, behind a `ColumnTransformer` or an encoder.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import KBinsDiscretizer, OneHotEncoder

from sklrp._feature_groups import GroupSums
from sklrp._frame import Frame, make_frame
from sklrp._model_parts import Model
from sklrp.drawing.panels import View


def find_columns(model: Model, X: Any, frame: Frame, names: Any = None) -> list[str]:
    """Return the column of the model's input that each feature of the network came from.

    Parameters
    ----------
    model : Model
        The model.
    X : DataFrame or array-like of shape (n_samples, n_columns)
        The samples, as the model takes them.
    frame : Frame
        What enters the network.
    names : array-like of str or None, default=None
        The names of the columns. None (default): those that X has, or their numbers.

    Returns
    -------
    list of str
        A name for each feature.

    Raises
    ------
    ValueError
        If samples are no rows, or a step mixes columns.
    """
    if frame.layout != "table":
        raise ValueError(f"by_column=True is for tables, but this is {frame!r}: leave it out.")
    if names is None:
        names = getattr(X, "columns", None)
    if names is None:
        names = [f"column {i}" for i in range(np.shape(X)[1])]
    given = [str(name) for name in names]
    steps = [] if model.before is None else [step for _, step in model.before.steps]
    found = _pass_all(steps, given)
    if len(found) != frame.shape[0]:
        raise ValueError(
            f"by_column=True finds {len(found)} features in {type(X).__name__}, but "
            f"{frame.shape[0]} enter the network: leave it out."
        )
    return found


def _pass_all(steps: list[Any], sources: list[str]) -> list[str]:
    """Return the sources of what leaves steps, given those of what enters them."""
    for step in steps:
        sources = _pass(step, sources)
    return sources


def _pass(step: Any, sources: list[str]) -> list[str]:
    """Return the sources of what leaves a step."""
    if step in (None, "passthrough"):
        return sources
    if isinstance(step, Pipeline):
        return _pass_all([inner for _, inner in step.steps], sources)
    if isinstance(step, ColumnTransformer):
        return _pass_columns(step, sources)
    counts = _count_outputs(step)
    if counts is not None:
        return list(chain.from_iterable([s] * n for s, n in zip(sources, counts, strict=True)))
    places = [f"x{i}" for i in range(len(sources))]
    named = hasattr(step, "feature_names_in_")
    names = list(step.feature_names_in_) if named else places
    out = list(step.get_feature_names_out(names))
    if not set(out) <= set(names):
        raise ValueError(
            f"by_column=True: {type(step).__name__} makes features of several columns, so that "
            "their relevance is no one column's. Leave it out, or the step."
        )
    return [sources[names.index(name)] for name in out]


def _pass_columns(step: ColumnTransformer, sources: list[str]) -> list[str]:
    """Return the sources of what leaves a ColumnTransformer."""
    names = getattr(step, "feature_names_in_", np.arange(step.n_features_in_))
    found: list[tuple[int, list[str]]] = []
    for name, inner, columns in step.transformers_:
        place = step.output_indices_[name]
        if inner == "drop" or place.start == place.stop:
            continue
        taken = _find_columns_of(names, columns)
        passed = _pass(inner, [sources[i] for i in taken])
        found.append((place.start, passed))
    return list(chain.from_iterable(passed for _, passed in sorted(found)))


def _find_columns_of(names: Any, columns: Any) -> list[int]:
    """Return the places of columns, which are chosen by name, place, slice or mask."""
    known = list(names)
    if isinstance(columns, str):
        return [known.index(columns)]
    if isinstance(columns, slice) and any(
        isinstance(b, str) for b in (columns.start, columns.stop)
    ):
        first = 0 if columns.start is None else known.index(columns.start)
        last = len(known) - 1 if columns.stop is None else known.index(columns.stop)
        return list(range(first, last + 1))
    if not isinstance(columns, slice) and len(columns) and isinstance(columns[0], str):
        return [known.index(column) for column in columns]
    return np.atleast_1d(np.arange(len(known))[columns]).tolist()


def _count_outputs(step: Any) -> list[int] | None:
    """Return how many features an encoder makes of each column, None of any other step."""
    if isinstance(step, OneHotEncoder):
        rare = getattr(step, "infrequent_categories_", None) or [None] * len(step.categories_)
        dropped = [None] * len(rare) if step.drop_idx_ is None else step.drop_idx_
        return [
            len(known) - (0 if few is None else len(few) - 1) - (gone is not None)
            for known, few, gone in zip(step.categories_, rare, dropped, strict=True)
        ]
    if isinstance(step, KBinsDiscretizer):
        return [1] * len(step.n_bins_) if step.encode == "ordinal" else step.n_bins_.tolist()
    return None


def sum_columns(view: View, columns: list[str]) -> View:
    """Return a view of a table with the relevance of each column, in their order.

    Parameters
    ----------
    view : View
        The view, of a feature each.
    columns : list of str
        The column of each feature.

    Returns
    -------
    View
        The view.
    """
    names = list(dict.fromkeys(columns))
    places = np.array([names.index(column) for column in columns])
    maps: NDArray[np.float64] = view.maps.reshape(len(view.maps), -1)
    frame = make_frame((len(names),), layout="table", names=names)
    return view._replace(frame=frame, maps=GroupSums(places)(maps), samples=None)
