"""The views of a relevance display: the maps of one rule, of one model, or of one given array.

`explain_views` explains samples, `given_views` takes maps that are there already. Both bring maps
and samples into the form that their frame draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklrp import _models
from sklrp._frame import frame_of, make_frame
from sklrp._matching import match_samples
from sklrp._missing import as_gapped_array, as_plain_array, forbid_missing
from sklrp._model_parts import Model
from sklrp._rows import count_samples
from sklrp._wording import say_value
from sklrp.drawing.panels import View, check_kind, say_class
from sklrp.drawing.sample_names import name_samples
from sklrp.drawing.source_columns import find_columns, sum_columns
from sklrp.geo.coordinates import is_dataset, is_field
from sklrp.geo.places import Grid, find_degrees, find_places, move_grid, read_grid, take_degrees
from sklrp.geo.relevance_fields import TARGET, explained_class, is_of_outputs
from sklrp.propagation import explain
from sklrp.propagation.readings import read_target

_NORMALIZE = (None, "l1")
_PALE = 0.1  # of the relevance of another class, below which a class's maps show nothing


def explain_views(
    models: Any,
    X: Any,
    y: Any,
    *,
    kind: str,
    rule: Any,
    normalize: str | None,
    place: dict[str, Any],
    params: dict[str, Any],
    each_channel: bool = False,
    by_column: bool = False,
) -> list[View]:
    """Explain samples by each rule, or by each model.

    Parameters
    ----------
    models : model, or list or dict of them
        What `sklrp.explain` takes.
    X : array-like of shape (n_samples, ...)
        The samples.
    y : array-like of shape (n_samples,) or None
        The classes that they are of.
    kind : {"samples", "class_mean", "mean"}
        The kind of panels, which limits how many there may be.
    rule : str, Rule, Composite, or list or dict of them
        The rules.
    normalize : {None, "l1"}
        Whether each map is divided by its sum of absolute values.
    place : dict
        Parameters of `frame_of`.
    params : dict
        Parameters of `sklrp.explain`.
    each_channel : bool
        Whether the channels of fields have a view each.
    by_column : bool
        Whether the relevance of features is summed over the column that they came from.

    Returns
    -------
    list of View
        A view for each model or rule, or for each channel of it.
    """
    models, rules = name_several(models, "estimator"), name_several(rule, "rule")
    if len(models) > 1 and len(rules) > 1:
        raise ValueError(
            f"Of estimator and rule only one may be several, got {len(models)} estimators and "
            f"{len(rules)} rules: draw one display for each estimator."
        )
    views = []
    for model_name, given in models.items():
        model = _models.unwrap(
            given, name=f"estimator[{model_name!r}]" if model_name else "estimator"
        )
        entering = model.enter(X)
        named = place["feature_names"]
        if each_channel and named is None:
            named = _name_channels(model, X)
        inner = {**place, "feature_names": None} if each_channel or by_column else place
        frame = frame_of(model, X, entering, **inner)
        columns = find_columns(model, X, frame, named) if by_column else None
        n_samples = count_samples(entering)
        check_kind(kind, n_samples, len(models) * len(rules))  # before what takes time
        labels = _predict_classes(model, entering, params["target"], n_samples)
        true = _check_true(match_samples(y, X, "y"), labels, n_samples)
        dates = name_samples(X, n_samples, model.sample_dim)
        for rule_name, its_rule in rules.items():
            maps = explain(model.network, entering, rule=its_rule, **params)
            view = View(
                name=model_name if len(models) > 1 else rule_name if len(rules) > 1 else "",
                frame=frame,
                maps=check_relevance(maps),
                samples=as_gapped_array(entering, "X", np.float64),
                labels=labels,
                true=true,
                prefix="predicted " if y is None else "",
                dates=dates,
                rule=_name_rule(its_rule, model),
                whose=_say_one_class(params["target"], labels),
                units=_name_units(model, labels, normalize),
            )
            if columns is not None:
                view = sum_columns(view, columns)
            views += _bring(view, normalize, each_channel, named)
    return views


def _name_channels(model: Model, X: Any) -> list[str] | None:
    """Return the names of the variables of fields, None if they have none."""
    steps = [] if model.before is None else model.before.named_steps.values()
    templates = [getattr(getattr(step, "grid_", None), "template", None) for step in steps]
    for fields in (*templates, X):
        if is_dataset(fields):
            return [str(name) for name in fields.data_vars]
    return None


def _name_rule(rule: Any, model: Model) -> str:
    """Return a rule in a word; of "auto" also what it stands for."""
    if not (isinstance(rule, str) and rule == "auto"):
        return rule if isinstance(rule, str) else say_value(rule, 40)
    if not model.has_module:
        return rule
    convolves = any(
        hasattr(m, "kernel_size") and hasattr(m, "weight") for m in model.module.modules()
    )
    return "auto (z⁺, ε)" if convolves else "auto (ε)"


def _say_one_class(target: Any, labels: NDArray | None) -> str | None:
    """Return what is explained if it is one class; None if it is the class predicted."""
    if target is None:
        return None
    if labels is None or np.ndim(target) or is_of_outputs(target):
        return ""
    return f"for {say_class(target)}"


def _name_units(model: Model, labels: NDArray | None, normalize: str | None) -> str:
    """Return the units of relevance, "" where they are shares or not known."""
    if normalize is not None:
        return ""
    return "logits" if labels is not None else ""


def hint_at_contrast(views: list[View], contrast: bool) -> str:
    """Return what to say if the maps of one class hold nearly all relevance."""
    found = [view for view in views if view.labels is not None and view.whose is None]
    if contrast or not found:
        return ""
    for view in found:
        size = np.nansum(np.abs(view.maps), axis=tuple(range(1, view.maps.ndim)))
        assert view.labels is not None
        means = {c: size[view.labels == c].mean() for c in np.unique(view.labels)}
        largest = max(means, key=lambda c: means[c])
        others = [mean for c, mean in means.items() if c != largest]
        if others and max(others) < _PALE * means[largest]:
            return (
                f"the logit of {say_class(largest)} carries nearly all: contrast=True explains "
                "the difference of logits"
            )
    return ""


def _check_named(X: Any, names: list[Any] | None) -> None:
    """Refuse samples by name where relevance is one array, or has names that they lack."""
    if not isinstance(X, Mapping):
        return
    if names is None:
        raise ValueError(
            f"X is a {type(X).__name__}, but relevance is one array: give one array of samples."
        )
    missing = [name for name in names if name not in X]
    if missing:
        raise ValueError(
            f"X has no samples for the maps {missing[0]!r}, only {list(X)}: give one array for "
            "all maps, or one for each by its name."
        )


def given_views(
    relevance: Any,
    X: Any,
    labels: Any,
    *,
    normalize: str | None,
    grid: Any,
    lat: Any,
    lon: Any,
    each_channel: bool = False,
    **place: Any,
) -> list[View]:
    """Take maps that have been computed, one view for each entry of a dict or Dataset.

    Parameters
    ----------
    relevance : array-like of shape (n_samples, ...), or dict of them
        The maps.
    X : array-like of relevance's shape, dict of them or None
        The samples.
    labels : array-like of shape (n_samples,) or None
        The class of each sample.
    normalize : {None, "l1"}
        Whether each map is divided by its sum of absolute values.
    grid : object or None
        What `read_grid` takes.
    lat, lon : array-like or None
        Latitudes and longitudes instead of what the grid says.
    each_channel : bool
        Whether the channels of fields have a view each.
    **place : dict
        Parameters of `make_frame`.

    Returns
    -------
    list of View
        A view for each entry.
    """
    several = isinstance(relevance, Mapping) and not is_composite(relevance)
    named = relevance if several else {"": relevance}
    if not named:
        raise ValueError("relevance is empty: pass at least one array of maps.")
    _check_named(X, list(named) if several else None)
    channels = place["names"]
    if each_channel:
        place["names"] = None
    known, strict = _find_grid(list(named.values()), X, grid)
    views = []
    samples = None
    for name, given in named.items():
        about = _read_about(given)
        given, titles = _name_maps(given)
        if find_degrees(given) and given.ndim == 2 and name_samples(given, 1) is None:
            titles = [""]  # a mean over time is no sample
        its_samples = X.get(name) if isinstance(X, Mapping) else X
        maps = check_relevance(_take_values(given, known, str(name) or "relevance"))
        if isinstance(X, Mapping) or (X is not None and samples is None):
            samples = _take_values(X[name] if isinstance(X, Mapping) else X, known, "X")
            samples = as_gapped_array(samples, "X", np.float64)
        if samples is not None and samples.shape != maps.shape:
            raise ValueError(
                f"X must have the shape of relevance, {maps.shape}, got {samples.shape}."
            )
        frame = make_frame(
            maps.shape[1:], grid=move_grid(known, lat, lon), strict=strict or lat is not None,
            **place,
        )  # fmt: skip
        view = View(
            name=str(name),
            frame=frame,
            maps=maps,
            samples=samples,
            labels=_check_labels(match_samples(labels, given, "labels"), len(maps)),
            titles=titles if labels is None else None,
            dates=name_samples(given, len(maps)) or name_samples(its_samples, len(maps)),
            **about,
        )
        views += _bring(view, normalize, each_channel, channels)
    return views


def check_alike(views: list[View]) -> None:
    """Raise an error unless views can be drawn side by side, each field at its own places."""
    kinds = sorted({(view.frame.layout, view.frame.shape) for view in views})
    if len(kinds) > 1:
        raise ValueError(
            f"samples of different forms cannot be drawn side by side: {kinds}. Give shape, the "
            "shape that rows have as samples."
        )
    frames = [view.frame for view in views if view.frame.has_degrees]
    for name, centres in zip(
        ("latitudes", "longitudes"), zip(*(f.centres for f in frames), strict=True), strict=False
    ):
        known: Any = centres[0]
        for other in centres[1:]:
            if not np.allclose(known, other, rtol=0, atol=1e-3):
                raise ValueError(
                    f"samples of different {name} cannot be drawn side by side, {known[:3]}... "
                    f"and {other[:3]}...: draw one display for each grid."
                )


def name_several(several: Any, what: str) -> dict[str, Any]:
    """Return one or several models or rules by name."""
    if isinstance(several, Mapping):
        named = {str(name): one for name, one in several.items()}
    elif isinstance(several, (list, tuple)):
        named = {}
        for one in several:
            name = one if isinstance(one, str) else _name_one(one, what)
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


def check_relevance(relevance: Any) -> NDArray[np.float64]:
    """Return maps as floats, in which NaN marks missing cells."""
    maps = as_gapped_array(relevance, "relevance")
    if maps.ndim < 2 or maps.size == 0:
        raise ValueError(
            "relevance must be an array of shape (n_samples, ...) with at least one value, got "
            f"the shape {maps.shape}; of a single sample, pass relevance[np.newaxis], of xarray "
            "relevance.expand_dims('sample')."
        )
    if maps.dtype.kind not in "buif":
        raise ValueError(f"relevance must hold real numbers, got dtype {maps.dtype}.")
    maps = maps.astype(np.float64)
    if np.isinf(maps).any():
        raise ValueError("relevance has infinite values: no colour shows them.")
    if np.isnan(maps).all():
        raise ValueError("relevance has no value but NaN: there is nothing to draw.")
    return maps


def _read_about(maps: Any) -> dict[str, Any]:
    """Return what the attributes of fields say, as `sklrp.geo.explain` writes them."""
    maps = maps["mean"] if is_composite(maps) else maps
    attrs = getattr(maps, "attrs", {}) if is_field(maps) and not is_dataset(maps) else {}
    if "relevance" not in str(attrs.get("long_name")):
        return {}
    whose = explained_class(maps)
    known = {"logit": "logits", "unit of the prediction": ""}
    units = str(attrs.get("units", ""))
    return {
        "rule": str(attrs.get("rule", "")),
        "whose": f"for {whose}" if whose else "",
        "units": known.get(units, units),
    }


def _bring(view: View, normalize: str | None, each_channel: bool, names: Any) -> list[View]:
    """Return a view with its maps and samples in the form that is drawn, or each channel's."""
    frame, maps = view.frame, _share_out(view.maps, normalize)
    if normalize is not None:
        view = view._replace(units="")  # shares have none
    if each_channel:
        return _part_channels(view._replace(maps=maps), names)
    drawn = frame.bring(maps)
    if frame.layout == "table" and np.isnan(drawn).any():
        raise ValueError("relevance of a table has NaN: only cells of fields can be missing.")
    samples = None if view.samples is None else frame.bring(view.samples, "mean")
    return [view._replace(maps=drawn, samples=samples, hidden=frame.share_on_land(maps))]


def _part_channels(view: View, names: Any) -> list[View]:
    """Return a view for each channel of fields, side by side."""
    frame = view.frame
    if not frame.is_field or frame.n_channels < 2:
        raise ValueError(
            f"each_channel=True draws the channels of fields, but this is {frame!r}: leave it out."
        )
    names = (
        [f"channel {k}" for k in range(frame.n_channels)] if names is None else [*map(str, names)]
    )
    if len(names) != frame.n_channels:
        raise ValueError(
            f"feature_names has {len(names)} names, but there are {frame.n_channels} channels."
        )
    maps = frame.bring(view.maps, "keep")
    samples = None if view.samples is None else frame.bring(view.samples, "keep")
    hidden = frame.share_on_land(view.maps)
    return [
        view._replace(
            name=f"{view.name}: {name}" if view.name else name,
            maps=maps[:, k],
            samples=None if samples is None else samples[:, k],
            hidden=hidden,
        )
        for k, name in enumerate(names)
    ]


def _share_out(maps: NDArray, normalize: str | None) -> NDArray:
    """Return maps as they are, or divided by their sum of absolute values."""
    if not (normalize is None or isinstance(normalize, str)) or normalize not in _NORMALIZE:
        raise ValueError(f"normalize must be one of {_NORMALIZE}, got {say_value(normalize)}.")
    if normalize is None:
        return maps
    axes = tuple(range(1, maps.ndim))
    total = np.nansum(np.abs(maps), axis=axes, keepdims=True)
    return maps / np.where(total > 0, total, 1.0)


def _predict_classes(model: Model, entering: Any, target: Any, n_samples: int) -> NDArray | None:
    """Return the class that a model predicts for each sample, None of a regression."""
    found = read_target(model, entering, target, n_samples)
    number = found.number
    if number is None:
        model = found.model
    elif number.key is not None or len(number.shape) > 1:
        return None  # cells of a field are no classes
    if model.classes_for(entering) is None:
        return None
    return np.asarray(model.predict(entering))


def _check_true(y: Any, labels: NDArray | None, n_samples: int) -> NDArray | None:
    """Return the classes that samples are of, None if they are not given."""
    if y is None:
        return None
    if labels is None:
        raise ValueError(
            "y tells which samples are predicted correctly, but the network has no classes: pass "
            "y=None."
        )
    if np.shape(y) != labels.shape:
        raise ValueError(
            f"y must hold one label for each of {n_samples} samples, got the shape {np.shape(y)}."
        )
    forbid_missing(y)
    return as_plain_array(y, "y")


def _check_labels(labels: Any, n_samples: int) -> NDArray | None:
    """Return labels that are given along with maps."""
    if labels is None:
        return None
    forbid_missing(labels, "labels")
    classes = as_plain_array(labels, "labels")
    if classes.shape != (n_samples,):
        raise ValueError(
            f"labels must hold one label for each of {n_samples} samples, got the shape "
            f"{classes.shape}."
        )
    return classes


def _name_one(one: Any, what: str) -> str:
    return repr(one) if what == "rule" else _models.unwrap(one, fitted=False, name=what).name


def is_composite(maps: Any) -> bool:
    """Tell whether data is what `sklrp.geo.composites` returns."""
    return is_dataset(maps) and {"mean", "std", "count"} <= set(maps.data_vars)


def _name_maps(maps: Any) -> tuple[Any, list[str] | None]:
    """Return maps and, where each is a class's, a title for each."""
    counts = None
    if is_composite(maps):
        maps, counts = maps["mean"], maps["count"].values.tolist()
    if not is_field(maps) or not maps.dims or maps.dims[0] != TARGET or TARGET not in maps.coords:
        return maps, None
    titles = [say_class(group) for group in maps[TARGET].values.tolist()]
    one = explained_class(maps)
    if one:
        titles = [f"samples of {t}, for {one}" for t in titles]
    if counts is not None:
        titles = [f"{t} (n = {n} correct)" for t, n in zip(titles, counts, strict=True)]
    return maps, titles


def _find_grid(views: list[Any], X: Any, grid: Any) -> tuple[Grid | None, bool]:
    """Return the grid that maps are on, and whether it must fit them.

    A grid that is given comes first, then the first of the maps in degrees, then the samples.
    """
    degrees = next(filter(None, (find_degrees(_name_maps(maps)[0]) for maps in views)), None)
    given = None if grid is None else read_grid(grid)
    if degrees is not None and given is None:
        return Grid((len(degrees[0]), len(degrees[1])), *degrees), True
    if degrees is not None and given is not None:  # maps are turned to latitude by longitude
        cells = given.cells[::-1] if given.turned else given.cells
        given = given._replace(cells=cells, valid=None, turned=False)
    if given is not None:
        return given, True
    one = next(iter(X.values()), None) if isinstance(X, Mapping) else X
    return (None if isinstance(one, tuple) else read_grid(one)), False


def _take_values(field: Any, grid: Grid | None, name: str) -> Any:
    """Return maps or samples as an array, their cells in the order of the grid."""
    if is_field(field) and TARGET in field.dims[1:]:
        raise ValueError(
            f"relevance has the dimension {TARGET!r}, a map of every class for each sample: draw "
            f"one class at a time, relevance.sel({TARGET}=...)."
        )
    values, latitude, longitude = take_degrees(field)
    if latitude is None or longitude is None:
        return values
    if values.ndim == 2:
        values = values[np.newaxis]
    if grid is None or grid.latitude is None or grid.longitude is None:
        return values
    rows = find_places(latitude, grid.latitude, name, "latitudes")
    columns = find_places(longitude, grid.longitude, name, "longitudes")
    values = values[..., rows[:, np.newaxis], columns]
    return values.swapaxes(-1, -2) if grid.turned else values
