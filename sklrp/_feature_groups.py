"""Groups of features: over what relevance is summed, and what the sums are called.

`RelevanceTransformer` calls it for its parameter `aggregate`, and pictures sum columns by it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklrp._missing import as_plain_array
from sklrp._sample_axes import name_axes


def group_features(
    aggregate: Any, network: Any, sample_shape: tuple[int, ...]
) -> tuple[NDArray[np.intp], list[str]]:
    """Return the group of each feature, by number, and the names of the groups."""
    # ``aggregate`` is the name of an axis, or an array of labels in the shape of a sample or
    # flat; ``sample_shape`` is the shape of what enters the network.
    shape, axes = name_axes(network, sample_shape)
    if isinstance(aggregate, str):
        return _group_by_axis(aggregate, network, shape, axes)
    n_features = int(np.prod(sample_shape))
    regions = as_plain_array(aggregate, "aggregate")
    if regions.shape not in ((n_features,), sample_shape, shape):
        raise ValueError(
            f"aggregate must hold one label per feature, in the shape {sample_shape} of a sample "
            f"or flat, ({n_features},); got the shape {regions.shape}."
        )
    try:
        labels, codes = np.unique(regions.ravel(), return_inverse=True)
        missing = bool(np.any(labels != labels))
    except TypeError:
        missing = True
    if missing:
        raise ValueError(
            "aggregate must hold labels that can be ordered, all strings or all numbers and none "
            "of them missing; give what is in no region its own label, such as 'rest'."
        )
    return codes, name_labels(labels, "region")


class GroupSums:
    """What sums relevance by group along the last axis.

    Parameters
    ----------
    codes : ndarray of shape (n_features,)
        The group of each feature, from 0, none of them empty.
    """

    def __init__(self, codes: NDArray[np.intp]) -> None:
        self.n_groups = int(codes.max()) + 1
        self._order = np.argsort(codes, kind="stable")
        self._starts = np.searchsorted(codes[self._order], np.arange(self.n_groups))

    def __call__(self, relevance: NDArray) -> NDArray:
        """Return the sums."""
        return np.add.reduceat(relevance[..., self._order], self._starts, axis=-1)


def name_labels(labels: NDArray, prefix: str) -> list[str]:
    """Return labels as names: strings as they are, others behind a prefix."""
    return [label if isinstance(label, str) else f"{prefix}{label}" for label in labels.tolist()]


def join_names(classes: list[str], names: Iterable[Any]) -> list[str]:
    """Return the names of all pairs of a class and a feature, which must differ."""
    pairs = [(label, str(name)) for label in classes for name in names]
    joined = [f"{label}_{name}" for label, name in pairs]
    if len({*joined}) < len({*pairs}):
        clash = Counter(joined).most_common(1)[0][0]
        same = [pair for pair, name in zip(pairs, joined, strict=True) if name == clash]
        raise ValueError(
            f"With target='all' the name {clash!r} would stand for the features {same}, each "
            "given as (class, feature). Rename the classes or the features."
        )
    return joined


def _group_by_axis(
    axis: str, network: Any, shape: tuple[int, ...], axes: dict[str, int]
) -> tuple[NDArray[np.intp], list[str]]:
    """Return a group for each position along an axis."""
    if axis not in axes:
        setting = "set input_shape in the estimator, "
        raise ValueError(
            f"aggregate={axis!r} needs samples with such an axis; these have the shape {shape} "
            f"with the axes {list(axes)}. Pass X of shape (n_samples, height, width), "
            f"{setting if hasattr(network, 'input_shape') else ''}or give region labels."
        )
    codes = np.indices(shape, sparse=True)[axes[axis]]
    names = [f"{axis}{i}" for i in range(shape[axes[axis]])]
    return np.broadcast_to(codes, shape).ravel(), names
