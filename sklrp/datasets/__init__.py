"""Data for examples and tests: tasks with a known answer, and real fields of the ocean.

The functions know nothing of the networks. All return arrays, those of `load_pacific_sst` with
their grid, but `load_enso`, whose fields are of xarray.
"""

from sklrp.datasets.enso import load_enso
from sklrp.datasets.frames import make_frames
from sklrp.datasets.pacific_sst import load_pacific_sst
from sklrp.datasets.regression_field import make_attribution_benchmark
from sklrp.datasets.squares import make_squares

__all__ = [
    "load_enso",
    "load_pacific_sst",
    "make_attribution_benchmark",
    "make_frames",
    "make_squares",
]
