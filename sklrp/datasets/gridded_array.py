"""Arrays of fields that remember their grid, so that their maps are drawn on it.

`load_pacific_sst` returns one; `sklrp.geo.places.read_grid` reads what it knows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_KNOWN = ("latitude", "longitude", "land_mask")


class GriddedArray(np.ndarray):  # numpydoc ignore=PR02
    """An array of fields, latitude by longitude on its last two axes, with their grid.

    The grid stays where samples are chosen along the first axis, such as ``X[train]`` or by
    `train_test_split`; in pickles, in ``X.copy()`` and ``X.astype(...)``; and in functions of each
    value, such as ``X - X.mean(axis=0)``. Whatever else may move or drop cells, such as
    ``X[:, ::-1]``, returns an array without a grid: its `latitude`, `longitude` and `land_mask`
    are None. ``np.asarray`` returns a plain array.

    Parameters
    ----------
    values : ndarray of shape (n_samples, ..., n_latitudes, n_longitudes)
        The fields.
    latitude : ndarray of shape (n_latitudes,)
        Latitude of the cells' centres in degrees north.
    longitude : ndarray of shape (n_longitudes,)
        Longitude of the cells' centres in degrees east.
    land_mask : ndarray of bool of shape (n_latitudes, n_longitudes)
        True on land.
    """

    latitude: NDArray | None
    longitude: NDArray | None
    land_mask: NDArray[np.bool_] | None

    def __new__(
        cls, values: NDArray, latitude: NDArray, longitude: NDArray, land_mask: NDArray[np.bool_]
    ) -> GriddedArray:
        """Return a view of the values with a grid."""
        array = np.asarray(values).view(cls)
        array.latitude, array.longitude, array.land_mask = latitude, longitude, land_mask
        return array

    def __array_finalize__(self, source: Any) -> None:
        """Start without a grid: NumPy calls this for results whose cells may have moved."""
        for name in _KNOWN:
            setattr(self, name, None)

    def __getitem__(self, key: Any) -> Any:
        """Return part of the array, with the grid if only samples are chosen."""
        chosen = super().__getitem__(key)
        if not isinstance(chosen, np.ndarray):
            return chosen
        first, *others = (*key, Ellipsis) if isinstance(key, tuple) else (key,)
        of_samples = first is None or np.ndim(first) < 2  # no mask over cells
        if self.ndim > 2 and of_samples and all(map(_keeps_cells, others)):
            return self._give_grid(chosen)
        return np.asarray(chosen)

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        """Return what a function gave, with the grid if it was one of each value."""
        result = np.asarray(array)
        if return_scalar or result.ndim == 0:  # before NumPy 2 it doesn't say so
            return result[()]
        # A function with a signature, such as matmul, mixes cells.
        is_elementwise = (
            context is not None and context[0].signature is None and result.shape == self.shape
        )
        return self._give_grid(result.view(type(self))) if is_elementwise else result

    def __reduce__(self) -> Any:
        """Pickle the values, and the grid beside them."""
        rebuild, arguments, state = tuple(super().__reduce__())
        return rebuild, arguments, (state, {name: getattr(self, name) for name in _KNOWN})

    def __setstate__(self, state: Any) -> None:
        """Restore what `__reduce__` gave."""
        values, grid = state
        super().__setstate__(values)
        for name, value in grid.items():
            setattr(self, name, value)

    def copy(self, order: Any = "C") -> Any:
        """Return a copy with the grid."""
        return self._give_grid(super().copy(order))

    def __copy__(self) -> Any:
        """Return a copy with the grid, for `copy.copy`."""
        return self.copy()

    def __deepcopy__(self, memo: Any) -> Any:
        """Return a copy with the grid, for `copy.deepcopy`."""
        return self.copy()

    def sort(self, *args: Any, **kwargs: Any) -> None:
        """Sort in place, and forget the grid, as cells are moved."""
        super().sort(*args, **kwargs)
        for name in _KNOWN:
            setattr(self, name, None)

    def astype(self, *args: Any, **kwargs: Any) -> Any:
        """Return the values in another type, with the grid."""
        return self._give_grid(super().astype(*args, **kwargs))

    def _give_grid(self, other: Any) -> Any:
        """Return another array with this one's grid, if it has the same last two axes."""
        if isinstance(other, GriddedArray) and other.shape[-2:] == self.shape[-2:]:
            for name in _KNOWN:
                setattr(other, name, getattr(self, name))
        return other


def _keeps_cells(key: Any) -> bool:
    """Tell whether an index of a later axis leaves all cells where they are."""
    return key is None or key is Ellipsis or (isinstance(key, slice) and key == slice(None))
