"""The steps of pipelines that a file can hold, and the form of what each keeps when it is fitted.

`.parts` writes and reads steps by this list. A class that is not in it is refused by name: what
its attributes must look like is not known. skops would serve instead of the list, but it asks the
user which classes to trust, then sets whatever the file says, of any shape, and embeds pickles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix
from sklearn import (
    decomposition,
    feature_selection,
    impute,
    linear_model,
    preprocessing,
    random_projection,
)
from sklearn.base import clone

from sklrp.classifiers.saved import are_labels
from sklrp.geo.anomalies import AnomalyTransformer
from sklrp.geo.coordinates import is_dataset, is_field
from sklrp.geo.grid import ArrayGrid, FieldGrid
from sklrp.geo.vectorizer import GridVectorizer
from sklrp.persistence.attribute_forms import (
    Form,
    anything,
    each,
    either,
    flags,
    maybe,
    number,
    numbers,
    one_of,
    size,
    texts,
)
from sklrp.preprocessing import InputCapper, InputMasker

_HIGHEST_DEGREE = 64  # of polynomials, whose number of terms is counted
_NONE: Mapping[str, Any] = MappingProxyType({})


class Known(NamedTuple):  # numpydoc ignore=PR02
    """What a file keeps of a fitted step.

    Parameters
    ----------
    home : type or module
        The class, or the module of scikit-learn that it is in.
    needed : mapping of str to Form
        The attributes of a fitted step.
    possible : mapping of str to Form
        Those that it may have.
    inner : mapping of str to str
        Those of all these that are steps themselves, or None, and the name of their class.
    check : callable or None
        Raises an error if the attributes contradict each other or the parameters.
    as_plain, from_plain : callable or None
        Take apart, and make again, attributes that are objects of this package.
    """

    home: Any
    needed: Mapping[str, Form] = _NONE
    possible: Mapping[str, Form] = _NONE
    inner: Mapping[str, str] = _NONE
    check: Callable[[Any, dict[str, Any]], None] | None = None
    as_plain: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    from_plain: Callable[[dict[str, Any]], dict[str, Any]] | None = None


def find_known(name: str) -> tuple[type, Known] | None:
    """Return a class and what is kept of it, by the name of the class.

    Parameters
    ----------
    name : str
        The name.

    Returns
    -------
    cls, known : type, Known
        Both; None if there is no such step.
    """
    known = KNOWN.get(name)
    if known is None:
        return None
    if isinstance(known.home, type):
        return known.home, known
    return getattr(known.home, name), known


# Attributes that contradict each other


def _check_encoder(encoder: Any, attributes: dict[str, Any]) -> None:
    """Raise an error unless the categories, what is dropped and what is joined go together."""
    lengths = [len(found) for found in attributes["categories_"]]
    joined = attributes.get("_infrequent_indices")
    if attributes["_infrequent_enabled"] != (joined is not None):
        raise ValueError("_infrequent_enabled does not go with _infrequent_indices")
    n_out = list(lengths)
    for i, rare in enumerate(joined or []):
        mapping = attributes["_default_to_infrequent_mappings"][i]
        if (rare is None) != (mapping is None):
            raise ValueError("_infrequent_indices do not go with their mappings")
        if rare is not None:
            n_out[i] += 1 - len(rare)
            is_of_length = len(mapping) == lengths[i]
            if max(rare) >= lengths[i] or not is_of_length or max(mapping) >= n_out[i]:
                raise ValueError(f"the infrequent categories of feature {i} are out of bounds")
    if "_n_features_outs" in attributes:
        _check_dropped(attributes, lengths, n_out)
    for feature, place in attributes.get("_missing_indices", {}).items():
        if not 0 <= feature < len(lengths) or not 0 <= place < lengths[feature]:
            raise ValueError("_missing_indices are out of bounds")


def _check_dropped(attributes: dict[str, Any], lengths: list[int], n_out: list[int]) -> None:
    """Raise an error unless a one-hot encoder drops categories that there are."""
    for name, limits in (("drop_idx_", lengths), ("_drop_idx_after_grouping", n_out)):
        dropped = attributes[name]
        if dropped is None:
            continue
        for place, limit in zip(dropped, limits, strict=True):
            if place is not None and not 0 <= place < limit:
                raise ValueError(f"{name} is out of bounds")
    dropped = attributes["_drop_idx_after_grouping"]
    gone = [False] * len(n_out) if dropped is None else [place is not None for place in dropped]
    if [n - lost for n, lost in zip(n_out, gone, strict=True)] != attributes["_n_features_outs"]:
        raise ValueError("_n_features_outs does not go with the categories")


def _check_polynomial(step: Any, attributes: dict[str, Any]) -> None:
    """Raise an error unless the number of terms is what another fit counts."""
    degrees = step.degree if isinstance(step.degree, tuple | list) else [step.degree]
    if max(degrees) > _HIGHEST_DEGREE:
        raise ValueError(f"degree={step.degree!r} is above {_HIGHEST_DEGREE}")
    fitted = clone(step).fit(csr_matrix((1, attributes["n_features_in_"])))
    for name, value in attributes.items():
        if name != "feature_names_in_" and vars(fitted).get(name) != value:
            raise ValueError(f"{name} does not go with the degree and the number of features")


def _check_logistic(step: Any, attributes: dict[str, Any]) -> None:
    """Raise an error unless there is a row of weights for each class, or one for two."""
    n_classes, n_rows = len(attributes["classes_"]), len(attributes["coef_"])
    if n_rows != (1 if n_classes == 2 else n_classes):
        raise ValueError(f"{n_classes} classes_ do not go with coef_ of length {n_rows}")


def _check_bins(step: Any, attributes: dict[str, Any]) -> None:
    """Raise an error unless there is an edge more than there are bins, of each feature."""
    edges = [len(found) for found in attributes["bin_edges_"]]
    if edges != (attributes["n_bins_"] + 1).tolist():
        raise ValueError("bin_edges_ do not go with n_bins_")
    encoder = attributes.get("_encoder")
    if (encoder is None) != (step.encode == "ordinal"):
        raise ValueError(f"encode={step.encode!r} does not go with its encoder")
    if encoder is not None:
        found = [len(categories) for categories in encoder.categories_]
        if found != attributes["n_bins_"].tolist():
            raise ValueError("its encoder does not go with n_bins_")


def _check_imputer(step: Any, attributes: dict[str, Any]) -> None:
    indicator = attributes["indicator_"]
    if (indicator is not None) != step.add_indicator:
        raise ValueError(f"add_indicator={step.add_indicator} does not go with its indicator")
    if indicator is not None and indicator.n_features_in_ != attributes["n_features_in_"]:
        raise ValueError("its indicator is of another number of features")


def _check_indicator(step: Any, attributes: dict[str, Any]) -> None:
    found, n_features = attributes["features_"], attributes["n_features_in_"]
    is_sorted = bool((found[1:] > found[:-1]).all())
    if not is_sorted or found.max(initial=0) >= n_features:
        raise ValueError("features_ are out of bounds")
    if attributes["_n_features"] != n_features:
        raise ValueError("_n_features does not go with n_features_in_")


def _check_power(step: Any, attributes: dict[str, Any]) -> None:
    scaler = attributes.get("_scaler")
    if (scaler is not None) != step.standardize:
        raise ValueError(f"standardize={step.standardize} does not go with its scaler")
    if scaler is not None and scaler.n_features_in_ != attributes["n_features_in_"]:
        raise ValueError("its scaler is of another number of features")


def _check_grid_like(name: str, value: Any, shape: tuple[int, ...], dims: Any) -> None:
    """Raise an error unless what belongs to the cells lies on the grid."""
    if np.shape(value) != shape or (dims is not None and tuple(value.dims) != dims):
        raise ValueError(f"{name} does not lie on the grid of shape {shape}")


def _check_vectorizer(step: Any, attributes: dict[str, Any]) -> None:
    """Raise an error unless mask and shares lie on the grid."""
    grid, mask, share = (attributes[name] for name in ("grid_", "mask_", "missing_share_"))
    is_gridded = isinstance(grid, FieldGrid)
    if {is_field(mask), is_field(share)} != {is_gridded} or is_dataset(mask) or is_dataset(share):
        raise ValueError("its mask is of another kind than its grid")
    for name, value in (("mask_", mask), ("missing_share_", share)):
        _check_grid_like(name, value, grid.shape, grid.dims if is_gridded else None)
    shares, cells = np.asarray(share), np.asarray(mask)
    if shares.dtype.kind != "f" or not ((shares >= 0) & (shares <= 1)).all():
        raise ValueError("missing_share_ holds no shares")
    if cells.dtype != bool or not cells.any():
        raise ValueError("mask_ marks no cell")
    if attributes["n_features_in_"] != cells.size:
        raise ValueError("n_features_in_ does not go with the grid")


def _take_grid(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of a vectorizer with its grid as what it is made of."""
    grid = attributes.get("grid_")
    if grid is None:
        return attributes
    if isinstance(grid, ArrayGrid):
        return {**attributes, "grid_": tuple(grid.shape)}
    return {**attributes, "grid_": [grid.template, grid.sample_dim, grid.channel_dim]}


def _make_grid(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of a vectorizer with the grid made anew."""
    made = attributes.get("grid_")
    if isinstance(made, tuple) and made and all(type(n) is int and n > 0 for n in made):
        return {**attributes, "grid_": ArrayGrid(made)}
    if isinstance(made, list) and len(made) == 3 and is_field(made[0]):
        template, sample_dim, channel_dim = made
        if not isinstance(sample_dim, str) or not isinstance(channel_dim, str | None):
            raise ValueError("its grid has no dimension of samples")
        return {**attributes, "grid_": FieldGrid(template, sample_dim, channel_dim)}
    if made is not None:
        raise ValueError(f"its grid is malformed: {str(made)[:80]}")
    return attributes


def _check_anomalies(step: Any, attributes: dict[str, Any]) -> None:
    """Raise an error unless the climatology, the deviations and the trend lie on the grid."""
    template, groups = attributes["_template"], attributes["groups_"]
    for name, wanted in (("std_", step.standardize), ("slope_", step.detrend)):
        if (name in attributes) != wanted:
            raise ValueError(f"{name} does not go with the parameters")
    if not is_field(template) or attributes["time_"] not in template.dims:
        raise ValueError("it has no grid")
    if not bool((groups[1:] > groups[:-1]).all()):
        raise ValueError("groups_ are not sorted")
    for name in ("mean_", "std_", "slope_"):
        if name in attributes:
            _check_climate(name, attributes[name], template, attributes["time_"], groups)
    origin, middle = attributes["_middle"]
    is_date = isinstance(origin, np.datetime64) or hasattr(origin, "calendar")
    if not is_date or not np.isfinite(middle):
        raise ValueError("_middle is no date and number")


def _check_climate(name: str, value: Any, template: Any, time: str, groups: Any) -> None:
    """Raise an error unless a mean, deviation or slope has the form of the fields."""
    if not is_field(value) or is_dataset(value) != is_dataset(template):
        raise ValueError(f"{name} is of another kind than the fields")
    names = list(template.data_vars) if is_dataset(template) else [None]
    if is_dataset(template) and list(value.data_vars) != names:
        raise ValueError(f"{name} is of other variables than the fields")
    for one in names:
        field, form = (data if one is None else data[one] for data in (value, template))
        dims = tuple(dim for dim in form.dims if dim != time)
        shape = tuple(form.sizes[dim] for dim in dims)
        if name != "slope_":
            dims, shape = ("group", *dims), (len(groups), *shape)
        _check_grid_like(name, field, shape, dims)
        values = field.values
        if values.dtype.kind != "f" or np.isinf(values).any():
            raise ValueError(f"{name} holds no finite numbers")
        if name == "std_" and (values <= 0).any():
            raise ValueError("std_ holds a deviation that is not positive")


# The list

_FEATURES = size("features")
_N: Mapping[str, Form] = {"n_features_in_": _FEATURES}
_SEEN = either(number(low=0), numbers("features", kind="iuf", low=0))
_CATEGORIES = either(
    numbers("categories", kind="iufb", gaps=True, rises=True),
    texts("categories"),
)
_PLACES = maybe(numbers("categories", kind="iu", low=0))
_JOINED: Mapping[str, Form] = {
    "_infrequent_indices": each("features", form=_PLACES),
    "_default_to_infrequent_mappings": each("features", form=_PLACES),
}
_DROPPED = maybe(each("features", of_array=True, form=maybe(number(low=0, integral=True))))
_RANKED = Known(
    feature_selection,
    {
        **_N,
        "scores_": numbers("features", gaps=True),
        "pvalues_": maybe(numbers("features", gaps=True)),
    },
)
_REDUCED = {
    **_N,
    "components_": numbers("components", "features"),
    "explained_variance_": numbers("components"),
    "explained_variance_ratio_": numbers("components", gaps=True),
    "singular_values_": numbers("components", low=0),
}
_COUNT = number(low=0, integral=True)
_LINEAR = {
    **_N,
    "coef_": either(numbers("features"), numbers("outputs", "features")),
    "intercept_": either(number(), numbers("outputs"), numbers(1)),
}
_BOUND = either(
    lambda value, sizes: isinstance(value, float) and not np.isnan(value),
    lambda value, sizes: (
        isinstance(value, np.ndarray) and value.dtype.kind == "f" and not np.isnan(value).any()
    ),
)


def _is_sample_shape(value: Any, sizes: dict[str, int]) -> bool:
    """Tell whether a value is the shape of samples of so many features."""
    if not isinstance(value, tuple) or not all(type(n) is int and n > 0 for n in value):
        return False
    return int(np.prod(value, dtype=object)) == sizes["features"]


def _check_shapes(step: Any, attributes: dict[str, Any]) -> None:
    """Raise an error unless bounds and masks have the shape of a sample."""
    for name in ("low_", "high_", "mask_"):
        value = attributes.get(name)
        if isinstance(value, np.ndarray) and value.shape != attributes["sample_shape_"]:
            raise ValueError(f"{name} has not the shape of a sample")


KNOWN: dict[str, Known] = {
    "StandardScaler": Known(
        preprocessing,
        {
            **_N,
            "n_samples_seen_": _SEEN,
            "mean_": maybe(numbers("features")),
            "var_": maybe(numbers("features", low=0)),
            "scale_": maybe(numbers("features", above=0)),
        },
    ),
    "MinMaxScaler": Known(
        preprocessing,
        {
            **_N,
            "n_samples_seen_": _COUNT,
            "scale_": numbers("features", above=0),
            "min_": numbers("features"),
            "data_min_": numbers("features"),
            "data_max_": numbers("features"),
            "data_range_": numbers("features", low=0),
        },
    ),
    "MaxAbsScaler": Known(
        preprocessing,
        {
            **_N,
            "n_samples_seen_": _COUNT,
            "max_abs_": numbers("features", low=0),
            "scale_": numbers("features", above=0),
        },
    ),
    "RobustScaler": Known(
        preprocessing,
        {
            **_N,
            "center_": maybe(numbers("features")),
            "scale_": maybe(numbers("features", above=0)),
        },
    ),
    "QuantileTransformer": Known(
        preprocessing,
        {
            **_N,
            "n_quantiles_": size("quantiles"),
            "references_": numbers("quantiles", low=0, rises=True),
            "quantiles_": numbers("quantiles", "features", rises=True),
        },
    ),
    "PowerTransformer": Known(
        preprocessing,
        {**_N, "lambdas_": numbers("features")},
        {"_scaler": anything},
        {"_scaler": "StandardScaler"},
        _check_power,
    ),
    **dict.fromkeys(("Normalizer", "Binarizer", "FunctionTransformer"), Known(preprocessing, _N)),
    "PolynomialFeatures": Known(
        preprocessing,
        {
            **_N,
            "n_output_features_": size("outputs"),
            "_min_degree": _COUNT,
            "_max_degree": _COUNT,
            "_n_out_full": _COUNT,
        },
        check=_check_polynomial,
    ),
    "KBinsDiscretizer": Known(
        preprocessing,
        {
            **_N,
            "n_bins_": numbers("features", kind="iu", low=1),
            "bin_edges_": each("features", of_array=True, form=numbers("edges", rises=True)),
        },
        {"_encoder": anything},
        {"_encoder": "OneHotEncoder"},
        _check_bins,
    ),
    "OneHotEncoder": Known(
        preprocessing,
        {
            **_N,
            "categories_": each("features", form=_CATEGORIES),
            "_infrequent_enabled": one_of(True, False),
            "drop_idx_": _DROPPED,
            "_drop_idx_after_grouping": _DROPPED,
            "_n_features_outs": each("features", form=_COUNT),
        },
        _JOINED,
        check=_check_encoder,
    ),
    "OrdinalEncoder": Known(
        preprocessing,
        {
            **_N,
            "categories_": each("features", form=_CATEGORIES),
            "_infrequent_enabled": one_of(True, False),
            "_missing_indices": lambda value, sizes: (
                isinstance(value, dict)
                and all(type(n) is int for n in chain(value, value.values()))
            ),
        },
        _JOINED,
        check=_check_encoder,
    ),
    "PCA": Known(
        decomposition,
        {
            "n_components_": size("components"),
            **_REDUCED,
            "mean_": numbers("features"),
            "noise_variance_": number(),
            "n_samples_": _COUNT,
            "_fit_svd_solver": one_of("full", "arpack", "randomized", "covariance_eigh"),
        },
    ),
    "IncrementalPCA": Known(
        decomposition,
        {
            "n_components_": size("components"),
            **_REDUCED,
            "mean_": numbers("features"),
            "var_": numbers("features", low=0),
            "noise_variance_": number(),
            "n_samples_seen_": number(low=0),
            "batch_size_": _COUNT,
        },
    ),
    "TruncatedSVD": Known(decomposition, _REDUCED),
    "GaussianRandomProjection": Known(
        random_projection,
        {
            **_N,
            "n_components_": size("components"),
            "components_": numbers("components", "features"),
            "_n_features_out": size("components"),
        },
    ),
    "SimpleImputer": Known(
        impute,
        {
            **_N,
            "statistics_": either(
                numbers("features", kind="iuf", gaps=True),
                texts("features"),
            ),
            "_fit_dtype": lambda value, sizes: isinstance(value, np.dtype),
            "indicator_": anything,
        },
        {"_fill_dtype": lambda value, sizes: isinstance(value, np.dtype)},
        {"indicator_": "MissingIndicator"},
        _check_imputer,
    ),
    "MissingIndicator": Known(
        impute,
        {
            **_N,
            "features_": numbers("missing", kind="iu", low=0),
            "_n_features": size("features"),
            "_precomputed": one_of(True, False),
        },
        check=_check_indicator,
    ),
    "KNNImputer": Known(
        impute,
        {
            **_N,
            "_fit_X": numbers("samples", "features", gaps=True),
            "_mask_fit_X": flags("samples", "features"),
            "_valid_mask": flags("features"),
            "indicator_": anything,
        },
        inner={"indicator_": "MissingIndicator"},
        check=_check_imputer,
    ),
    "VarianceThreshold": Known(
        feature_selection, {**_N, "variances_": numbers("features", low=0, gaps=True)}
    ),
    **dict.fromkeys(
        (
            *("SelectKBest", "SelectPercentile", "SelectFpr", "SelectFdr", "SelectFwe"),
            "GenericUnivariateSelect",
        ),
        _RANKED,
    ),
    "LogisticRegression": Known(
        linear_model,
        {
            **_N,
            "classes_": lambda value, sizes: are_labels(value),
            "coef_": numbers("outputs", "features"),
            "intercept_": numbers("outputs"),
            "n_iter_": numbers("runs", kind="iu"),
        },
        check=_check_logistic,
    ),
    "LinearRegression": Known(
        linear_model,
        _LINEAR,
        {"rank_": anything, "singular_": numbers("singular", low=0)},
    ),
    "Ridge": Known(
        linear_model,
        _LINEAR,
        {
            "n_iter_": maybe(numbers("outputs", kind="iu")),
            "solver_": one_of(*("cholesky", "svd", "lsqr", "sparse_cg", "sag", "saga", "lbfgs")),
        },
    ),
    "InputCapper": Known(
        InputCapper,
        {**_N, "sample_shape_": _is_sample_shape, "low_": _BOUND, "high_": _BOUND},
        check=_check_shapes,
    ),
    "InputMasker": Known(
        InputMasker,
        {
            **_N,
            "sample_shape_": _is_sample_shape,
            "mask_": lambda value, sizes: (
                isinstance(value, np.ndarray) and value.dtype == bool and bool(value.any())
            ),
        },
        check=_check_shapes,
    ),
    "GridVectorizer": Known(
        GridVectorizer,
        {**_N, "grid_": anything, "mask_": anything, "missing_share_": anything},
        check=_check_vectorizer,
        as_plain=_take_grid,
        from_plain=_make_grid,
    ),
    "AnomalyTransformer": Known(
        AnomalyTransformer,
        {
            "time_": lambda value, sizes: isinstance(value, str),
            "groups_": numbers("groups", kind="i", low=0),
            "mean_": anything,
            "_middle": lambda value, sizes: isinstance(value, tuple) and len(value) == 2,
            "_calendar": lambda value, sizes: isinstance(value, str),
            "_template": anything,
        },
        {"std_": anything, "slope_": anything},
        check=_check_anomalies,
    ),
}
