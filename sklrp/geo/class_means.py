"""Mean relevance maps of classes, with their spread and their count.

`sklrp.geo` makes `composites` public; `RelevanceDisplay` draws what it returns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklrp._checks import import_optional
from sklrp._constraints import constrained
from sklrp._matching import match_samples
from sklrp._missing import as_plain_array
from sklrp._wording import say_value
from sklrp.geo.coordinates import check_field, check_numbers, find_sample_dim, is_dataset
from sklrp.geo.relevance_fields import TARGET, explained_class

if TYPE_CHECKING:
    from xarray import DataArray, Dataset


@constrained({"sample_dim": [str, None]})
def composites(
    relevance: DataArray | Dataset,
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    classes: ArrayLike | None = None,
    sample_dim: str | None = None,
) -> Dataset:
    """Return the mean map of each class over its correctly predicted samples.

    A map of a sample that the network got wrong says what misled it, and blurs the mean. The
    count and the spread are part of the answer: a mean of few or of unlike maps stands for none.
    `RelevanceDisplay.from_relevance` draws the means, and stipples them where a finding of
    `skill_map` or `artifact_map` says so.

    If all maps explain one class (``target`` in their attributes, as `sklrp.geo.explain` writes
    it), the means of other classes' samples say what speaks for that one, and are named so.

    Parameters
    ----------
    relevance : DataArray or Dataset
        The maps, one for each sample; dask-backed ones stay lazy. The variables of a Dataset
        become a dimension ``"variable"``.
    y_true : array-like of shape (n_samples,)
        The true labels.
    y_pred : array-like of shape (n_samples,)
        The predicted labels.
    classes : array-like of shape (n_classes,) or None, default=None
        The classes, in the order of the result. None (default): all of `y_true`, sorted.
    sample_dim : str or None, default=None
        The dimension that counts the samples. None (default): time.

    Returns
    -------
    Dataset
        With a first dimension ``"target"`` of the classes: ``mean`` and ``std`` (with n - 1 as
        its divisor) of the maps in units of the relevance, and ``count`` of shape (n_classes,),
        how many samples of the class were predicted correctly. Of no sample the mean is NaN, of
        fewer than two the spread. A cell that is missing in some maps has those of the others.

    Raises
    ------
    ValueError
        If labels and samples differ in number, `y_true` holds values instead of classes, or a
        class is not among `y_true`.

    Examples
    --------
    >>> import xarray as xr
    >>> from sklrp.geo import composites
    >>> maps = xr.DataArray([[1.0, 0.0], [3.0, 0.0], [9.0, 9.0]], dims=("time", "lon"))
    >>> mean = composites(maps, [1, 1, 0], [1, 1, 1])
    >>> mean["count"].values, mean["mean"].sel(target=1).values
    (array([0, 2]), array([2., 0.]))
    """
    xr = import_optional("xarray", extra="geo", user="sklrp.geo")

    check_field(relevance, "composites", "relevance")
    check_numbers(relevance, "relevance")
    sample_dim = find_sample_dim(relevance, sample_dim)
    maps: Any = relevance
    if is_dataset(relevance):
        attrs = _find_common([field.attrs for field in maps.data_vars.values()])
        maps = maps.to_dataarray("variable").assign_attrs(attrs)
    if TARGET in maps.dims:
        raise ValueError(
            f"relevance has the dimension {TARGET!r}, a map of every class for each sample: "
            "explain the predicted class (target=None), or select one, "
            f"relevance.sel({TARGET}=...)."
        )
    y_true = match_samples(y_true, relevance, "y_true")
    y_pred = match_samples(y_pred, relevance, "y_pred")
    one = explained_class(maps)
    maps = maps.drop_vars(TARGET, errors="ignore")  # a single one, which was selected
    true, predicted = as_plain_array(y_true, "y_true"), as_plain_array(y_pred, "y_pred")
    if not true.shape == predicted.shape == (maps.sizes[sample_dim],):
        raise ValueError(
            f"relevance has {maps.sizes[sample_dim]} samples along {sample_dim!r}, but y_true the "
            f"shape {true.shape} and y_pred {predicted.shape}: give one label for each."
        )
    _check_classes(true)
    known = np.unique(true)
    labels = known if classes is None else as_plain_array(classes, "classes")
    if labels.ndim != 1 or not labels.size:
        raise ValueError(f"classes must be a list of labels, got {say_value(classes)}.")
    unknown = [label for label in labels.tolist() if label not in known.tolist()]
    if unknown:
        raise ValueError(f"classes has {unknown}, which y_true has not; it has {known.tolist()}.")
    correct = [np.flatnonzero((true == label) & (predicted == label)) for label in labels]
    dtype = np.result_type(maps.dtype, np.float32)
    means, spreads = [], []
    for found in correct:
        part = maps.isel({sample_dim: found})
        count = part.notnull().sum(sample_dim)
        # In one pass, so that of lazy maps few are in memory at once. The mean of the first few is
        # taken off before: sums of squares far from zero would cancel.
        few = part.isel({sample_dim: slice(10)})
        near = (few.sum(sample_dim) / few.notnull().sum(sample_dim).clip(min=1)).astype(np.float64)
        moved = part - near
        total, squares = moved.sum(sample_dim), (moved**2).sum(sample_dim)
        shift = total / count.where(count > 0)
        variance = (squares - total * shift).clip(min=0) / (count - 1).where(count > 1)
        means.append((near + shift).astype(dtype))
        spreads.append((variance**0.5).astype(dtype))
    target = xr.DataArray(labels, dims=TARGET, name=TARGET)
    how: Any = {"coords": "minimal", "compat": "override", "join": "override"}
    counts = np.array([len(found) for found in correct])
    result = xr.Dataset(
        {
            "mean": xr.concat(means, target, **how).assign_attrs(maps.attrs),
            "std": xr.concat(spreads, target, **how).assign_attrs(maps.attrs),
            "count": (TARGET, counts, {"units": "1"}),
        }
    )
    of = f" for {one}" if one else ""
    for name, what in (("mean", "mean relevance"), ("std", "standard deviation of relevance")):
        result[name].attrs["long_name"] = f"{what}{of} over correctly predicted samples"
        if one:
            result[name].attrs["target"] = one
    result["count"].attrs["long_name"] = "number of correctly predicted samples"
    return result


def _check_classes(true: NDArray) -> None:
    """Raise an error for values, each of which would be a class of its own."""
    if true.dtype.kind != "f":
        return
    values = true[true != np.round(true)]
    if values.size:
        raise ValueError(
            f"y_true holds values, such as {values[0]:g}, but a composite is the mean of a class. "
            "Make classes of the truth and of the prediction alike, "
            "np.where(y > np.median(y_true), 'high', 'low')."
        )


def _find_common(several: list[dict[Any, Any]]) -> dict[Any, Any]:
    """Return the attributes that all variables share, such as units and rule."""
    first, *others = several
    return {
        name: value
        for name, value in first.items()
        if all(name in attrs and np.array_equal(attrs[name], value) for attrs in others)
    }
