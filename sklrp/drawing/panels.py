"""What the panels of a relevance display show: single maps, or means over groups of samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from sklrp._checks import check_field_mask
from sklrp.drawing.fields import check_coordinate, find_vectorizer, unfold
from sklrp.drawing.forms import Form
from sklrp.geo.coordinates import is_field

KINDS = ("samples", "class_mean", "mean")
_NORMALIZE = (None, "l1")
_MOST_PANELS = 60


class Panel(NamedTuple):
    """The maps behind one panel, and the samples that they explain."""

    view: str  # the rule or estimator, empty if there is only one
    title: str
    maps: NDArray  # (n, *sample_shape); none for a group without a sample
    samples: NDArray | None

    @property
    def mean(self) -> NDArray:
        """The mean map; a cell that is missing in any of the maps is missing in it."""
        return self.maps.mean(axis=0)

    @property
    def mean_sample(self) -> NDArray | None:
        """The mean of the samples, None if they are not known."""
        return None if self.samples is None else self.samples.mean(axis=0)


class View(NamedTuple):
    """The maps of one rule or estimator."""

    name: str
    relevance: NDArray
    samples: NDArray | None
    labels: NDArray | None  # what samples are grouped by: the class predicted
    true: NDArray | None  # the class that each sample is of, if it is known
    prefix: str = ""  # before a class, where samples of another class may be among its own
    titles: list[str] | None = None  # of the maps, where they are no samples


def check_relevance(relevance: Any, name: str = "relevance") -> NDArray[np.float64]:
    """Return maps as floats, in which NaN marks missing cells."""
    maps = np.asarray(relevance)
    if maps.ndim < 2 or maps.size == 0:
        raise ValueError(
            f"{name} must be an array of shape (n_samples, ...) with at least one value, got the "
            f"shape {maps.shape}; of a single sample, pass {name}[np.newaxis]."
        )
    if maps.dtype.kind not in "buif":
        raise ValueError(f"{name} must hold real numbers, got dtype {maps.dtype}.")
    maps = maps.astype(np.float64)
    if np.isinf(maps).any():
        raise ValueError(f"{name} has infinite values: no colour shows them.")
    if np.isnan(maps).all():
        raise ValueError(f"{name} has no value but NaN: there is nothing to draw.")
    return maps


def scale_maps(maps: NDArray, normalize: str | None) -> NDArray:
    """Return maps as they are, or divided by their sum of absolute values."""
    if normalize not in _NORMALIZE:
        raise ValueError(f"normalize must be one of {_NORMALIZE}, got {normalize!r}.")
    if normalize is None:
        return maps
    axes = tuple(range(1, maps.ndim))
    total = np.nansum(np.abs(maps), axis=axes, keepdims=True)
    return maps / np.where(total > 0, total, 1.0)


def explain_views(
    estimator: Any, X: Any, y: Any, kind: str, rule: Any, target: Any, params: dict[str, Any]
) -> tuple[list[View], list[Any]]:
    """Explain samples by each rule, or by each estimator; return the views' classifiers too."""
    estimators, rules = name_several(estimator, "estimator"), name_several(rule, "rule")
    if len(estimators) > 1 and len(rules) > 1:
        raise ValueError(
            f"Of estimator and rule only one may be several, got {len(estimators)} estimators and "
            f"{len(rules)} rules: draw one display for each estimator."
        )
    n_samples = _count(next(iter(estimators.values())), X)
    check_kind(kind, n_samples, len(estimators) * len(rules))  # before what takes time
    views, classifiers = [], []
    for est_name, one in estimators.items():
        steps, last = take_apart(one)
        samples = X if steps is None else steps.transform(X)
        labels = np.asarray(last.predict(samples))
        if y is not None and np.shape(y) != labels.shape:
            raise ValueError(
                f"y must hold one label for each of {len(labels)} samples, got the shape "
                f"{np.shape(y)}."
            )
        for rule_name, its_rule in rules.items():
            relevance = last.explain(samples, target=target, rule=its_rule, **params)
            views.append(
                View(
                    est_name if len(estimators) > 1 else rule_name if len(rules) > 1 else "",
                    check_relevance(unfold(one, relevance)),
                    unfold(one, np.asarray(samples, dtype=np.float64)),
                    labels,
                    None if y is None else np.asarray(y),
                    "predicted " if y is None else "",
                )
            )
            classifiers.append(last)
    return views, classifiers


def _count(estimator: Any, X: Any) -> int:
    """Return the number of samples, 0 where their axis is not the first and not known."""
    if not is_field(X):
        return len(X)
    grid = getattr(find_vectorizer(estimator), "grid_", None)
    return int(X.sizes.get(getattr(grid, "sample_dim", None), 0))


def prepare(
    views: list[View],
    forms: list[Form],
    kind: str,
    missing: NDArray[np.bool_] | None,
    *,
    unit: str,
    score: str,
    names: Any = None,
    normalize: str | None = None,
    lat: Any = None,
    lon: Any = None,
    outline: Any = None,
    steps: Any = None,
) -> dict[str, Any]:
    """Bring all views into one form, check what else is given, and return what a display keeps."""
    brought, hidden = [], []
    for view, form in zip(views, forms, strict=True):
        maps = form.bring(scale_maps(view.relevance, normalize))
        samples = None if view.samples is None else form.bring(view.samples, mean=True)
        if missing is not None:
            maps, samples, share = _hide(missing, maps, samples, form.layout)
            hidden.append(share)
        brought.append(view._replace(relevance=maps, samples=samples))
    kinds = {(form.layout, v.relevance.shape[1:]) for form, v in zip(forms, brought, strict=True)}
    if len(kinds) > 1:
        raise ValueError(
            f"samples of different forms cannot be drawn side by side: {sorted(kinds)}. Give "
            "shape, the shape that rows have as samples."
        )
    ((layout, sample_shape),) = kinds
    if layout != "field" and not all(v is None for v in (lat, lon, outline, missing)):
        raise ValueError(
            f"lat, lon, land and outline are of fields, but samples are drawn as a {layout}: give "
            "shape or layout='field'."
        )
    if (lat is None) != (lon is None):
        raise ValueError("lat and lon go together: give both or none.")
    if layout != "sequence" and steps is not None:
        raise ValueError(f"steps are of sequences, but samples are drawn as a {layout}.")
    if layout == "table" and any(np.isnan(view.relevance).any() for view in brought):
        raise ValueError("relevance of a table has NaN: only cells of fields can be missing.")
    if normalize is None:
        unit += f" ({score})" if score else ""
    else:
        unit += ", share of its map's sum of absolute values"
    if layout == "field" and forms[0].n_channels > 1:
        unit += f", summed over {forms[0].n_channels} channels"
    box = check_field_mask(outline, "outline")
    if box is not None and box.shape != sample_shape:
        raise ValueError(f"outline has the shape {box.shape}, but fields have {sample_shape}.")
    return {
        "panels": make_panels(brought, kind),
        "layout": layout,
        "unit": unit,
        "lat": check_coordinate(lat, "lat", sample_shape[0]),
        "lon": check_coordinate(lon, "lon", sample_shape[-1]),
        "outline": box,
        "names": _check_names(names, layout, sample_shape),
        "steps": None if steps is None else _check_steps(steps, sample_shape[-1]),
        "hidden": hidden or None,
    }


def find_names(X: Any, classifier: Any, n_features: int) -> Any:
    """Return the names of the features that enter a classifier, None if they have none."""
    for names in (getattr(classifier, "feature_names_in_", None), getattr(X, "columns", None)):
        if names is not None and len(names) == n_features:
            return names
    return None


def _hide(
    missing: NDArray[np.bool_], maps: NDArray, samples: NDArray | None, layout: str
) -> tuple[NDArray, NDArray | None, float]:
    """Remove values on land, and return the share of absolute relevance that was there."""
    if layout != "field" or maps.shape[1:] != missing.shape:
        raise ValueError(
            f"land has the shape {missing.shape}, but samples are of {maps.shape[1:]} ({layout})."
        )
    size = np.abs(maps)
    total = np.nansum(size)
    share = float(np.nansum(size[:, missing]) / total) if total > 0 else 0.0
    if samples is not None:
        samples = np.where(missing, np.nan, samples)
    return np.where(missing, np.nan, maps), samples, share


def _check_names(names: Any, layout: str, sample_shape: tuple[int, ...]) -> list[str] | None:
    """Return a name for each feature of a table, or variable of a sequence, if these have any."""
    if names is None or layout == "field" or (layout == "sequence" and len(sample_shape) == 1):
        return None
    if len(names) != sample_shape[0]:
        raise ValueError(f"feature_names must hold {sample_shape[0]} names, got {len(names)}.")
    return [str(name) for name in names]


def _check_steps(steps: Any, n_steps: int) -> NDArray:
    """Return where the steps are, rising."""
    found = np.asarray(steps)
    if found.shape != (n_steps,) or not (found[1:] > found[:-1]).all():
        raise ValueError(
            f"steps must hold {n_steps} rising values, one for each step, got an array of shape "
            f"{found.shape}."
        )
    return found


def take_apart(estimator: Any) -> tuple[Any, Any]:
    """Return what transforms the samples, None if nothing does, and the classifier."""
    steps, estimator = unwrap(estimator)
    if not hasattr(estimator, "explain"):
        raise TypeError(
            f"{type(estimator).__name__} has no explain: pass a fitted classifier of sklrp, a "
            "pipeline or a search that ends in one, or draw a map with from_relevance."
        )
    return steps, estimator


def unwrap(estimator: Any) -> tuple[Any, Any]:
    """Return the steps before the last of a pipeline, if there are any, and the last one."""
    estimator = getattr(estimator, "best_estimator_", estimator)
    if isinstance(estimator, Pipeline):
        return estimator[:-1] if len(estimator) > 1 else None, estimator[-1]
    return None, estimator


def name_several(several: Any, what: str) -> dict[str, Any]:
    """Return one or several estimators or rules by name."""
    if isinstance(several, Mapping):
        named = {str(name): one for name, one in several.items()}
    elif isinstance(several, (list, tuple)):
        named = {}
        for one in several:
            name = one if isinstance(one, str) else _describe(one, what)
            if name in named:
                raise ValueError(
                    f"{what} holds {name!r} twice: pass a dict of names to tell them apart."
                )
            named[name] = one
    else:
        named = {"": several}
    if not named:
        raise ValueError(f"{what} is empty: pass at least one.")
    return named


def _describe(one: Any, what: str) -> str:
    return repr(one) if what == "rule" else type(take_apart(one)[1]).__name__


def check_kind(kind: str, n_samples: int, n_views: int) -> None:
    """Raise an error if there is no such kind of panels, or there were too many of them."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}.")
    if kind == "samples" and n_samples * n_views > _MOST_PANELS:
        raise ValueError(
            f"{n_samples * n_views} panels are too many to see: pass fewer samples, for at most "
            f"{_MOST_PANELS} panels, or kind='class_mean' or 'mean'."
        )


def make_panels(views: list[View], kind: str) -> list[list[Panel]]:
    """Return the panels of each view: a list for each view, all of one length."""
    check_kind(kind, len(views[0].relevance), len(views))
    numbers = [len(view.relevance) for view in views]
    if len(set(numbers)) > 1:
        raise ValueError(f"maps side by side must be of the same samples, got {numbers} of them.")
    if kind == "class_mean":
        if any(view.labels is None for view in views):
            raise ValueError(
                "kind='class_mean' needs to know the class of each sample: pass labels, or use "
                "kind='mean'."
            )
        classes = np.unique(
            np.concatenate(
                [v for view in views for v in (view.labels, view.true) if v is not None]
            )
        )
    made = []
    for view in views:
        right = np.full(len(view.relevance), True)
        if view.true is not None:
            right &= view.labels == view.true
        if kind == "samples":
            groups = [
                (_say_sample(view, i), np.arange(len(right)) == i) for i in range(len(right))
            ]
        elif kind == "mean":
            groups = [(_say_count("mean", right, view), right)]
        else:
            groups = [
                (_say_count(view.prefix + say_class(c), rows, view), rows)
                for c in classes
                for rows in [right & (view.labels == c)]
            ]
        made.append(
            [
                Panel(
                    view.name,
                    title,
                    view.relevance[rows],
                    None if view.samples is None else view.samples[rows],
                )
                for title, rows in groups
            ]
        )
    if not any(len(panel.maps) for panels in made for panel in panels):
        raise ValueError(
            "no sample is predicted correctly, so that no mean can be drawn: look at kind="
            "'samples', or pass y=None to draw the maps of wrong predictions too."
        )
    return made


def _say_sample(view: View, i: int) -> str:
    if view.titles is not None:
        return view.titles[i]
    if view.labels is None:
        return f"sample {i}"
    said = f"sample {i}: {say_class(view.labels[i])}"
    if view.true is not None and view.true[i] != view.labels[i]:
        said += f" (wrong, is {say_class(view.true[i])})"
    return said


def say_class(label: Any) -> str:
    """Name a class in a title."""
    return label if isinstance(label, str) else f"class {label}"


def _say_count(name: str, rows: NDArray, view: View) -> str:
    """Name a group, and say how many of which samples its mean is over."""
    which = " correct" if view.true is not None else ""
    return f"{name} (n = {rows.sum()}{which})"
