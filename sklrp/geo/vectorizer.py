"""Gridded fields as samples of features, and back.

`GridVectorizer` is the step of a pipeline that turns fields into what enters a network. The frame
of a sample reads its grid, and `sklrp.geo.explain` puts relevance back by it.
"""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from sklrp._constraints import Interval, ShortErrors
from sklrp._keywords import named
from sklrp._matching import check_same_samples
from sklrp._missing import as_gapped_array
from sklrp._numbers import forbid_text
from sklrp._sklearn import StrOptions, check_feature_names_in, fit_context
from sklrp._warnings import warn_user
from sklrp.geo.coordinates import is_dataset, is_field
from sklrp.geo.fill_values import check_filled, without_sentinels
from sklrp.geo.grid import ArrayGrid, FieldGrid, warn_of_other_fields

if TYPE_CHECKING:
    from xarray import DataArray

_FORMAT: dict[str, Any] = {"dtype": [np.float64, np.float32], "ensure_all_finite": "allow-nan"}


class GridVectorizer(ShortErrors, TransformerMixin, BaseEstimator):
    """Turn gridded fields with missing cells into samples for an estimator, and back.

    ``fit`` learns the grid and which of its cells are valid: those on the ocean, say, where land
    is NaN. ``transform`` gives the valid cells as the features of a table or, for networks that
    want images, the whole grid with `fill_value` elsewhere. ``inverse_transform`` puts features,
    such as relevance, back on the grid, with its dimensions, coordinates and attributes.

    A field on another grid, or with other cells missing, is refused: features would silently be
    other places.

    Parameters
    ----------
    layout : {"features", "grid"}, default="features"
        What ``transform`` returns. ``"features"``: the valid cells, ``(n_samples, n_valid)``, for
        :class:`~sklrp.MLPClassifier` and scikit-learn's estimators. ``"grid"``: all cells,
        ``(n_samples, *grid)`` or with channels ``(n_samples, n_channels, *grid)``, for
        :class:`~sklrp.CNNClassifier` and :class:`~sklrp.LSTMClassifier`.
    missing : {"raise", "drop", "fill"}, default="raise"
        What to do with cells that are missing in some of the samples of ``fit`` and there in
        others. ``"raise"``: raise an error that says where and how many. ``"drop"``: leave them
        out, as if always missing. ``"fill"``: keep them, with `fill_value` where missing.
    fill_value : float, default=0.0
        The value at missing cells, in units of the data: in every cell that is not valid with
        ``layout="grid"``, and where a valid cell is missing with ``missing="fill"``. Of anomalies
        0 is "as usual"; rules that share by contribution give a cell of 0 no relevance.
    sample_dim : str or None, default=None
        The dimension of a DataArray or Dataset that counts the samples. None (default): time,
        found by its CF attributes, dates or name. For an array it is the first axis.
    channel_dim : str or None, default=None
        The dimension of a DataArray whose positions are variables; it comes first in every
        sample. The channels of a Dataset are its variables, in their order. None: there are none.

    Attributes
    ----------
    mask_ : DataArray or ndarray of bool, of the shape of a sample
        True where cells are valid. Of a Dataset with a first dimension ``"variable"``.
    missing_share_ : DataArray or ndarray of float, of the shape of a sample
        In which share of the samples of ``fit`` each cell is missing: 0 in cells that never are,
        1 in those that always are.
    grid_ : object
        The grid seen in ``fit``.
    n_features_in_ : int
        Number of cells of a sample, over all channels.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if X is a DataFrame of named columns.

    See Also
    --------
    sklrp.geo.AnomalyTransformer : Anomalies of fields, the step before.
    sklrp.geo.explain : Relevance of a pipeline with this step, as fields.

    Notes
    -----
    Data in dask is reduced chunk by chunk in ``fit``, and loaded by ``transform``.

    Cross-validation takes samples by position from the first axis: transpose a DataArray such
    that `sample_dim` comes first. A Dataset has no first axis; there, use
    ``dataset.to_dataarray("variable").transpose("time", ...)`` and ``channel_dim="variable"``.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from sklrp.geo import GridVectorizer
    >>> sst = xr.DataArray(
    ...     [[[1.0, 2.0], [3.0, np.nan]], [[5.0, 6.0], [7.0, np.nan]]],
    ...     {"time": [0, 1], "lat": [-2.5, 2.5], "lon": [190.0, 195.0]},
    ...     name="sst",
    ... )
    >>> vectorizer = GridVectorizer()
    >>> X = vectorizer.fit_transform(sst)
    >>> print(X)
    [[1. 2. 3.]
     [5. 6. 7.]]
    >>> print(vectorizer.get_feature_names_out())
    ['sst[lat=-2.5,lon=190.0]' 'sst[lat=-2.5,lon=195.0]' 'sst[lat=2.5,lon=190.0]']
    >>> vectorizer.inverse_transform(X, like=sst).identical(sst)
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "layout": [StrOptions({"features", "grid"})],
        "missing": [StrOptions({"raise", "drop", "fill"})],
        "fill_value": [Interval(Real, None, None, closed="neither")],
        "sample_dim": [str, None],
        "channel_dim": [str, None],
    }

    @named
    def __init__(
        self,
        *,
        layout: str = "features",
        missing: str = "raise",
        fill_value: float = 0.0,
        sample_dim: str | None = None,
        channel_dim: str | None = None,
    ) -> None:
        self.layout = layout
        self.missing = missing
        self.fill_value = fill_value
        self.sample_dim = sample_dim
        self.channel_dim = channel_dim

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing != "raise"  # else where all samples are NaN
        return tags

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> GridVectorizer:
        """Learn the grid and which of its cells are valid.

        Parameters
        ----------
        X : DataArray, Dataset or array-like of shape (n_samples, ...)
            Fields, NaN where missing. One with several variables is a Dataset, or has a
            `channel_dim`.
        y : None
            Ignored; present for pipelines.

        Returns
        -------
        self : GridVectorizer
            The fitted transformer.

        Raises
        ------
        ValueError
            If cells are missing in some samples only and ``missing="raise"``; if all are missing;
            if a value is infinite; or if it is open what the dimensions are.
        """
        check_same_samples(y, X, "y")
        if is_field(X):
            X = without_sentinels(X)
            grid: Any = FieldGrid(X, self.sample_dim, self.channel_dim)
            stacked = grid.stack(X)
            share: Any = _share_missing(stacked)
            self.__dict__.pop("feature_names_in_", None)
        else:
            stacked = self._check_array(X, reset=True)
            grid = ArrayGrid(stacked.shape[1:])
            share = np.isnan(stacked).mean(axis=0)
        shares = np.asarray(share)
        if self.missing == "raise" and ((shares > 0) & (shares < 1)).any():
            raise ValueError(_say_partial(grid, stacked, shares))
        valid = shares < 1 if self.missing == "fill" else shares == 0
        if not valid.any():
            when = "every sample" if (shares == 1).all() else "at least one sample"
            raise ValueError(
                f"X: no cell is valid: all {valid.size} are missing in {when}. "
                "Look at how the data marks missing values, and at samples that are missing as a "
                "whole."
            )
        self.grid_ = grid
        self.n_features_in_ = shares.size
        self.missing_share_ = share
        self.mask_ = share.copy(data=valid) if is_field(share) else valid
        return self

    def transform(self, X: Any) -> NDArray[np.floating]:
        """Return the valid cells of each sample, or the whole grid without missing values.

        Parameters
        ----------
        X : DataArray, Dataset or array-like of shape (n_samples, ...)
            Fields in the form of those in ``fit`` and on their grid; dimensions and variables may
            be in another order.

        Returns
        -------
        ndarray of shape (n_samples, n_valid) or (n_samples, [n_channels,] *grid)
            The features or, with ``layout="grid"``, the grid; in the floating dtype of X.

        Raises
        ------
        ValueError
            If the grid, or which of its cells are missing, differs from that in ``fit``; the
            message says where.

        Warns
        -----
        UserWarning
            If the fields say that they are of another variable, or in other units, than in
            ``fit``.
        """
        check_is_fitted(self)
        if is_field(X) != isinstance(self.grid_, FieldGrid):
            raise ValueError(
                f"X is a {type(X).__name__}, but fit has seen "
                f"{'an array' if is_field(X) else 'fields of xarray'}: whether it is on the same "
                "grid cannot be told. Pass the same kind of data as in fit."
            )
        X = without_sentinels(X) if is_field(X) else self._check_array(X, reset=False)
        stacked = self.grid_.stack(X)
        if not len(stacked):
            raise ValueError(
                f"X has no samples, got the shape {stacked.shape}: give at least one."
            )
        if is_field(X):
            warn_of_other_fields(self.grid_.template, X)
        values = np.asarray(stacked).reshape(len(stacked), -1)
        missing = np.isnan(values)
        self._check_missing(stacked, missing)
        valid = np.asarray(self.mask_).ravel()
        if self.layout == "features":
            values, missing = values[:, valid], missing[:, valid]
        else:
            missing |= ~valid
        if missing.any():
            values = np.where(missing, values.dtype.type(self.fill_value), values)
        return values if self.layout == "features" else values.reshape(stacked.shape)

    def inverse_transform(self, X: Any, like: Any = None, *, name: str | None = None) -> Any:
        """Put features back on the grid.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_valid) or (n_samples, [n_channels,] *grid)
            What ``transform`` returned, or anything in its layout, such as relevance. A single
            map, such as the skill of each cell, has no axis of samples.
        like : DataArray, Dataset or None, default=None
            Fields whose samples X belongs to, for the coordinates of the samples; without it
            they have none. Ignored after ``fit`` on an array.
        name : str or None, default=None
            What X is, where it is no longer the data of ``fit``, such as ``"skill"``: a DataArray
            gets this name, and no field the units and other attributes of the data. The variables
            of a Dataset keep their names. None (default): X is data, and called so.

        Returns
        -------
        DataArray, Dataset or ndarray of shape (n_samples, ...)
            Fields in the form of those in ``fit``, NaN in cells that are not valid. Where cells
            were filled they keep `fill_value`. Of a single map there is no axis of samples.

        Raises
        ------
        ValueError
            If X has another number of features, or `like` another grid or number of samples.
        TypeError
            If `name` is no text.
        """
        check_is_fitted(self)
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a text, such as 'skill', or None, got {name!r}.")
        values = as_gapped_array(X, "X")
        valid = np.asarray(self.mask_)
        alone = values.shape == (
            (np.count_nonzero(valid),) if self.layout == "features" else valid.shape
        )
        if alone and like is not None:
            raise ValueError(
                f"X is a single map, of shape {values.shape}, and belongs to no sample of like: "
                "leave like out, or pass X[np.newaxis] for one sample."
            )
        fields = put_features(self, values[np.newaxis] if alone else values, like)
        if not is_field(fields):
            return fields[0] if alone else fields
        if alone:
            fields = fields.isel({self.grid_.sample_dim: 0}, drop=True)
        if name is None:
            return fields
        fields = fields.drop_attrs(deep=False)
        if is_dataset(fields):
            bare = {key: one.drop_attrs(deep=False) for key, one in fields.data_vars.items()}
            return fields.assign(bare)
        return fields.rename(name)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Return the names of the features, by their coordinates.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Names of the columns of a table, as of any transformer; for fields and arrays of more
            axes ignored, as their coordinates name them.

        Returns
        -------
        ndarray of shape (n_valid,) or, with layout="grid", (n_features_in_,)
            Names such as ``"sst[lat=2.5,lon=190.0]"``, for arrays ``"x[2,3]"``.
        """
        check_is_fitted(self)
        if isinstance(self.grid_, ArrayGrid) and len(self.grid_.shape) == 1:
            names = check_feature_names_in(self, input_features)
        else:
            names = np.array(self.grid_.names(), dtype=object)
        return names[np.asarray(self.mask_).ravel()] if self.layout == "features" else names

    def _check_array(self, X: Any, *, reset: bool) -> NDArray[np.floating]:
        """Return an array of samples, of floats that are not infinite."""
        if X is None:
            raise TypeError("X must be fields of xarray or an array of samples, got None.")
        array = X if issparse(X) or hasattr(X, "iloc") else as_gapped_array(X, "X")
        forbid_text(array)
        shape = array.shape[1:]
        if len(shape) > 1:
            array = array.reshape(len(array), -1)
        with np.errstate(invalid="ignore"):  # infinities of both signs, whose error comes next
            array = validate_data(self, array, reset=reset, **_FORMAT)
        array = check_filled(array, "X")
        return array.reshape(len(array), *shape) if len(shape) > 1 else array

    def _check_missing(self, stacked: Any, missing: NDArray[np.bool_]) -> None:
        """Raise an error if other cells are missing than in fit."""
        share = np.asarray(self.missing_share_).ravel()
        lost = missing & (share == 0) if self.missing != "fill" else np.zeros_like(missing)
        found = ~missing & (share == 1) if self.missing != "drop" else np.zeros_like(missing)
        for changed, now, before, remedy in (
            (lost, "missing (NaN)", "there", "'fill' puts fill_value there"),
            (found, "there", "missing", "'drop' leaves it out"),
        ):
            if changed.any():
                i, cell = np.argwhere(changed)[0]
                raise ValueError(
                    f"the mask changed: {self.grid_.names()[cell]} is {now} in "
                    f"{self.grid_.name_sample(stacked, i)}, but was always {before} in fit; "
                    f"{changed.any(axis=0).sum()} of {len(share)} cells have changed. Mask all "
                    f"fields alike; missing={remedy}."
                )

    @property
    def _n_features_out(self) -> int:
        """Return the number of features of `get_feature_names_out`."""
        valid = np.asarray(self.mask_)
        return int(np.count_nonzero(valid)) if self.layout == "features" else valid.size


def _share_missing(stacked: Any) -> DataArray:
    """Return in which share of the samples each cell is missing."""
    sample_dim = stacked.dims[0]
    if not len(stacked):
        raise ValueError(f"there is no sample: {sample_dim!r} has the length 0.")
    return stacked.isnull().mean(sample_dim).compute()


def _say_partial(grid: Any, stacked: Any, shares: NDArray) -> str:
    """Say which cells are missing in some samples only."""
    partial = np.flatnonzero((shares > 0) & (shares < 1))
    missing = np.isnan(np.asarray(stacked)).reshape(len(stacked), -1)
    empty = np.flatnonzero(missing.all(axis=1))
    if empty.size:
        return (
            f"{grid.name_sample(stacked, empty[0])} is missing everywhere, as are "
            f"{empty.size} of {len(stacked)} samples in all: leave them out."
        )
    cells = grid.names()
    worst = partial[:3]
    named = ", ".join(f"{cells[i]} in {missing[:, i].sum()}" for i in worst)
    return (
        f"X: {partial.size} of {shares.size} cells are missing (NaN) in some samples only (of "
        f"{len(stacked)} samples, {named}{', ...' * (partial.size > len(worst))}): set "
        "missing='drop' to leave these cells out, missing='fill' to put fill_value where they "
        "are missing, or interpolate first."
    )


def put_features(
    vectorizer: GridVectorizer,
    X: Any,
    like: Any,
    extra: tuple[str, Any] | None = None,
    *,
    name: str = "X",
) -> Any:
    """Put features back on the grid; `extra` names their second axis, if they have one."""
    check_is_fitted(vectorizer)
    values = as_gapped_array(X, name)
    if like is not None and not is_field(like):
        raise TypeError(
            "like must be None, or the DataArray or Dataset whose samples these are, got "
            f"{type(like).__name__}."
        )
    if values.dtype.kind != "f":
        values = as_gapped_array(values, name, np.float64)
    valid = np.asarray(vectorizer.mask_)
    sample = (np.count_nonzero(valid),) if vectorizer.layout == "features" else valid.shape
    n_head = 1 if extra is None else 2
    if values.shape[n_head:] != sample:
        axes = ("n_samples", "n_classes")[:n_head]
        raise ValueError(
            f"{name} has the shape {values.shape}, but what layout={vectorizer.layout!r} gives is "
            f"({', '.join(map(str, (*axes, *sample)))}): pass values of that shape."
        )
    full = np.full((*values.shape[:n_head], *valid.shape), np.nan, dtype=values.dtype)
    full[..., valid] = values if vectorizer.layout == "features" else values[..., valid]
    return vectorizer.grid_.unstack(full, like, extra)


def warn_of_listed_cells(vectorizer: GridVectorizer, network: Any) -> None:
    """Warn of a network that reads the list of a field's cells as if it were a series."""
    # These have `input_shape`, which says how a row is folded; an MLP has no need of it.
    reads_places = getattr(network, "input_shape", "none") is None
    n_axes = sum(n > 1 for n in vectorizer.grid_.shape)
    if vectorizer.layout == "features" and reads_places and n_axes > 1:
        name = type(network).__name__
        warn_user(
            f"{name} reads neighbours or steps, but GridVectorizer() makes a list of the cells, "
            "in which rows of the grid follow one another: make_pipeline("
            f"GridVectorizer(layout='grid'), {name}(...)). For lists of cells take an MLP."
        )


def moves_features(vectorizer: GridVectorizer, step: Any) -> bool | None:
    """Tell whether a step after a vectorizer moves features; None if it does not name them."""
    names = vectorizer.get_feature_names_out()
    try:
        return not np.array_equal(step.get_feature_names_out(names), names)
    except (AttributeError, ValueError):
        return None
