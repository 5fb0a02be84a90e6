"""Steer what a network can look at: cap the input, or mask cells of it.

`InputCapper` and `InputMasker` keep the shape of X, which may have two, three or four dimensions.
They stand in a :class:`~sklearn.pipeline.Pipeline` before a classifier or a
:class:`~sklrp.RelevanceTransformer`. They are for arrays and tables. For fields of xarray,
:class:`~sklrp.geo.GridVectorizer` masks land and :class:`~sklrp.geo.AnomalyTransformer` caps.
"""

from __future__ import annotations

import math
import warnings
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from sklrp._checks import same_layout
from sklrp._constraints import Interval, ShortErrors, refine
from sklrp._devices import to_host
from sklrp._keywords import named
from sklrp._missing import as_gapped_array, forbid_masked, mask_to_nan
from sklrp._numbers import forbid_text
from sklrp._sklearn import StrOptions, fit_context, get_output_config

__all__ = ["InputCapper", "InputMasker"]

_FINITE = Interval(Real, None, None, closed="neither")


class _InputTransformer(ShortErrors, OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Base of transformers that take samples of any shape and return them in that shape."""

    sample_shape_: tuple[int, ...]

    def _check_samples(self, X: Any, *, reset: bool) -> NDArray[np.floating]:
        """Return validated samples as rows of features; NaN is missing, as is what is masked."""
        X = mask_to_nan(to_host(X))
        X = X if issparse(X) or hasattr(X, "columns") else as_gapped_array(X, "X")
        forbid_text(X)
        shape = _shaped(X)
        if shape is not None:
            X = np.asarray(X).reshape(shape[0], math.prod(shape[1:]))
        with np.errstate(invalid="ignore"):  # infinities of both signs, whose error comes next
            rows = validate_data(
                self, X, reset=reset, dtype=[np.float64, np.float32], ensure_all_finite="allow-nan"
            )
        sample_shape = rows.shape[1:] if shape is None else shape[1:]
        if reset:
            self.sample_shape_ = sample_shape
        elif not same_layout(sample_shape, self.sample_shape_):
            raise ValueError(
                f"X has samples of shape {sample_shape}, but {type(self).__name__} was fitted on "
                f"samples of shape {self.sample_shape_}: reshape X."
            )
        return rows

    def _shape(self, rows: NDArray[np.floating], X: Any) -> NDArray[np.floating]:
        """Return rows of features in the shape of X."""
        shape = _shaped(X)
        if shape is None:
            return rows
        container = get_output_config("transform", self)["dense"]
        if container != "default":
            raise ValueError(
                f"A sample of shape {shape[1:]} does not fit into a row of a {container} table: "
                "pass X as a table too, or use set_output(transform='default')."
            )
        return rows.reshape(shape)

    def __sklearn_tags__(self) -> Any:
        """Return the tags: NaN is allowed and floats keep their precision."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _shaped(X: Any) -> tuple[int, ...] | None:
    """Return the shape of X if it has more than two dimensions, else None: X is a table."""
    if issparse(X) or hasattr(X, "iloc"):
        return None
    shape = X.shape if hasattr(X, "shape") else np.asarray(X).shape
    return shape if len(shape) > 2 else None


class InputCapper(_InputTransformer):
    r"""Cap the values of the input.

    Use it where a few outlier cells, such as the edge of sea ice, draw a network's attention.
    They draw its relevance as well, since relevance by contribution grows with the value. The
    forerunner of this package capped anomalies of the sea-surface temperature at ±5 K. A value x
    becomes

    .. math:: \min(\max(x, low), high)

    with bounds that are given, or learned from the training data. NaN stays NaN.

    Parameters
    ----------
    low, high : float or None, default=None
        The bounds, in units of X. None (default): no cap on that side.
    quantile : float or None, default=None
        Instead of `low` and `high`: cap at this quantile of the training values and, below, at the
        quantile of ``1 - quantile``. Above 0.5 and at most 1; with 1 the bounds are the largest
        and the smallest training value. In a pipeline or a search only training folds count.
    symmetric : bool, default=False
        With `quantile`: cap at plus and minus the quantile of the absolute values instead, so that
        anomalies keep their zero in the middle.
    per_feature : bool, default=False
        With `quantile`: whether every feature, such as a grid cell, has bounds of its own. Bounds
        for all cells together cap the most variable cells, which may be those that matter.

    Attributes
    ----------
    low_, high_ : float or ndarray of the shape of a sample
        The bounds, infinite where there is none.
    n_features_in_ : int
        Number of values of a sample.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X is a DataFrame of named columns.
    sample_shape_ : tuple of int
        The shape of a sample in `fit`.

    References
    ----------
    M. Landt-Hayen, P. Kröger, M. Claus, W. Rath, "Layer-wise relevance propagation for echo state
    networks applied to Earth system variability", 2022, arXiv:2210.09958.

    Examples
    --------
    >>> from sklrp.preprocessing import InputCapper
    >>> print(InputCapper(-5, 5).fit_transform([[-7.0, 1.0], [2.0, 30.0]]))
    [[-5.  1.]
     [ 2.  5.]]
    >>> capper = InputCapper(quantile=0.75, symmetric=True).fit([[-4.0, 1.0], [2.0, 3.0]])
    >>> print(capper.low_, capper.high_)
    -3.25 3.25
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "low": [_FINITE, None],
        "high": [_FINITE, None],
        "quantile": [Interval(Real, 0.5, 1, closed="right"), None],
        "symmetric": ["boolean"],
        "per_feature": ["boolean"],
    }

    low_: Any
    high_: Any

    @named
    def __init__(
        self,
        low: float | None = None,
        high: float | None = None,
        *,
        quantile: float | None = None,
        symmetric: bool = False,
        per_feature: bool = False,
    ) -> None:
        self.low = low
        self.high = high
        self.quantile = quantile
        self.symmetric = symmetric
        self.per_feature = per_feature

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: Any = None) -> InputCapper:
        """Learn the bounds, if they are quantiles.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, *sample_shape)
            The training samples; NaN is left out.
        y : ignored
            Here for scikit-learn.

        Returns
        -------
        self : InputCapper
            The fitted transformer.

        Raises
        ------
        ValueError
            If the bounds contradict one another, or X is malformed.
        """
        if self.quantile is not None and not (self.low is None and self.high is None):
            raise ValueError(
                f"quantile={self.quantile} was given with low={self.low} and high={self.high}: "
                "cap either at quantiles or at fixed bounds, and set the others to None."
            )
        low = -np.inf if self.low is None else float(self.low)
        high = np.inf if self.high is None else float(self.high)
        if low > high:
            raise ValueError(f"low={self.low} is above high={self.high}: exchange them.")
        rows = self._check_samples(X, reset=True)
        if self.quantile is None:
            self.low_, self.high_ = low, high
        else:
            self.low_, self.high_ = self._find_quantiles(rows, self.quantile)
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.floating]:
        """Cap samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, *sample_shape)
            The samples.

        Returns
        -------
        ndarray of the shape of X
            The capped samples, in the floating dtype of X.

        Raises
        ------
        NotFittedError
            If the transformer is not fitted.
        ValueError
            If the samples are malformed or have another shape than in `fit`.
        """
        check_is_fitted(self)
        rows = self._check_samples(X, reset=False)
        low, high = (np.ravel(bound).astype(rows.dtype) for bound in (self.low_, self.high_))
        return self._shape(np.clip(rows, low, high), X)

    def _find_quantiles(self, rows: NDArray[np.floating], quantile: float) -> tuple[Any, Any]:
        """Return the bounds, for each feature or as one number."""
        axis: Any = 0 if self.per_feature else None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)
            if self.symmetric:
                high = np.nanquantile(np.abs(rows), quantile, axis=axis)
                low = -high
            else:
                low, high = np.nanquantile(rows, [1 - quantile, quantile], axis=axis)
        low, high = np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high)
        if self.per_feature:
            return low.reshape(self.sample_shape_), high.reshape(self.sample_shape_)
        return float(low), float(high)


class InputMasker(_InputTransformer):
    """Set cells of the input to a constant, so that a network cannot look at them.

    Use it for cells that hold no data, such as land, and to take a region away: what does a
    network rest on if the tropics are removed?

    A cell that holds 0 contributes nothing. Every rule that shares relevance by contribution
    (zero, epsilon, gamma, alpha-beta, z-plus) gives it a relevance of exactly 0. The rules
    ``"w_square"``, ``"flat"`` and ``"z_box"`` look at weights or bounds instead. On the first
    layer they put relevance on masked cells, which says nothing about the data. With another
    `fill_value`, so does every rule.

    Parameters
    ----------
    mask : array-like of bool or None, default=None
        True for the cells to keep, of the shape of a sample or flat. None (default): all cells but
        those that are NaN in every training sample.
    fill_value : float, default=0.0
        The value of masked cells. After standardisation 0 is the mean. A scaler of features behind
        this step leaves constant zeros as they are.
    partly_missing : {"error", "mask", "keep"}, default="error"
        What to do with kept cells that are NaN in some training samples, such as cells with sea
        ice in winter. ``"error"`` counts them in an error; ``"mask"`` masks them, as a network
        could tell samples apart by what is missing; ``"keep"`` leaves NaN to an imputer behind.

    Attributes
    ----------
    mask_ : ndarray of bool, of the shape of a sample
        True for the cells that are kept.
    n_features_in_ : int
        Number of values of a sample.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X is a DataFrame of named columns.
    sample_shape_ : tuple of int
        The shape of a sample in `fit`.

    Examples
    --------
    >>> import numpy as np
    >>> from sklrp.preprocessing import InputMasker
    >>> X = [[np.nan, 1.0, 2.0], [np.nan, 3.0, 4.0]]
    >>> print(InputMasker().fit_transform(X))
    [[0. 1. 2.]
     [0. 3. 4.]]
    >>> print(InputMasker([False, True, False]).fit_transform(X))
    [[0. 1. 0.]
     [0. 3. 0.]]
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = refine(
        {
            "mask": ["array-like", None],
            "fill_value": [_FINITE],
            "partly_missing": [StrOptions({"error", "mask", "keep"})],
        }
    )

    mask_: NDArray[np.bool_]

    @named
    def __init__(
        self,
        mask: ArrayLike | None = None,
        fill_value: float = 0.0,
        *,
        partly_missing: str = "error",
    ) -> None:
        self.mask = mask
        self.fill_value = fill_value
        self.partly_missing = partly_missing

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: Any = None) -> InputMasker:
        """Learn or check the mask.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, *sample_shape)
            The training samples.
        y : ignored
            Here for scikit-learn.

        Returns
        -------
        self : InputMasker
            The fitted transformer.

        Raises
        ------
        ValueError
            If the mask is malformed, no cell is kept, or cells that are kept have missing values
            and ``partly_missing="error"``.
        """
        rows = self._check_samples(X, reset=True)
        n_missing = np.isnan(rows).sum(axis=0)
        keep = n_missing < len(rows) if self.mask is None else self._given_mask()
        if self.partly_missing == "error":
            self._check_complete(keep, n_missing, len(rows))
        elif self.partly_missing == "mask":
            keep = keep & (n_missing == 0)
        if not keep.any():
            raise ValueError(
                f"No cell of X is kept: mask={'None' if self.mask is None else 'given'} and "
                f"partly_missing={self.partly_missing!r} mask all {len(keep)} of them. Mark the "
                "cells to keep as True."
            )
        self.mask_ = keep.reshape(self.sample_shape_)
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.floating]:
        """Fill the masked cells.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, *sample_shape)
            The samples.

        Returns
        -------
        ndarray of the shape of X
            The samples with `fill_value` in masked cells, in the floating dtype of X.

        Raises
        ------
        NotFittedError
            If the transformer is not fitted.
        ValueError
            If the samples are malformed or have another shape than in `fit`, or if kept cells have
            missing values, unless ``partly_missing="keep"``.
        """
        check_is_fitted(self)
        rows = self._check_samples(X, reset=False)
        keep = self.mask_.ravel()
        if self.partly_missing != "keep":
            self._check_complete(keep, np.isnan(rows).sum(axis=0), len(rows))
        return self._shape(np.where(keep, rows, rows.dtype.type(self.fill_value)), X)

    def __sklearn_tags__(self) -> Any:
        """Return the tags: NaN anywhere is allowed unless it is an error."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.partly_missing != "error"
        return tags

    def _given_mask(self) -> NDArray[np.bool_]:
        """Return the given mask as one boolean per feature."""
        remedy = "say whether they are kept; {name}.filled(False) masks them"
        mask = as_gapped_array(forbid_masked(to_host(self.mask), "mask", remedy), "mask")
        if mask.dtype != bool:
            raise ValueError(
                f"mask must hold booleans, True for the cells to keep, got dtype {mask.dtype}: "
                "pass a comparison such as mask == 1."
            )
        if not same_layout(mask.shape, self.sample_shape_):
            raise ValueError(
                f"mask has the shape {mask.shape}, but must have the shape of a sample, "
                f"{self.sample_shape_}, or be flat."
            )
        return mask.ravel()

    def _check_complete(
        self, keep: NDArray[np.bool_], n_missing: NDArray[np.intp], n_samples: int
    ) -> None:
        """Raise an error if cells that are kept have missing values."""
        bad = np.flatnonzero(keep & (n_missing > 0))
        if not bad.size:
            return
        place = np.unravel_index(bad[0], self.sample_shape_)
        raise ValueError(
            f"X has NaN in {bad.size} of the {np.count_nonzero(keep)} cells that are kept, the "
            f"first at {tuple(map(int, place))} in {n_missing[bad[0]]} of {n_samples} samples: "
            "mask these cells, with partly_missing='mask' if the training samples have them; or "
            "set partly_missing='keep' and let an imputer follow."
        )
