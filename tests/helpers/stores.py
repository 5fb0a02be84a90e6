"""Arrays in files, opened as users do."""

import pytest


def open_by_path(path, **kwargs):
    """Return an array of dask over the path of a zarr store."""
    array = pytest.importorskip("dask.array")
    try:
        return array.from_zarr(str(path), **kwargs)
    except TypeError as error:  # of dask 2024.8
        pytest.skip(f"this dask opens no path by this zarr: {error}")
