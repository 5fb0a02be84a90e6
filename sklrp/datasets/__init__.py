"""Data for examples and tests: tasks with a known answer, and real fields of the ocean.

The functions know nothing of the networks. All return arrays, those of `load_pacific_sst` with
their grid, but `load_enso`, whose fields are of xarray.
"""

from sklrp.datasets.enso import load_enso
from sklrp.datasets.frames import make_frames
from sklrp.datasets.lorenz96 import make_lorenz96
from sklrp.datasets.pacific_sst import load_pacific_sst
from sklrp.datasets.planted_signals import make_suppressor, make_watermark, make_xor
from sklrp.datasets.rainfall_runoff import make_rainfall_runoff
from sklrp.datasets.regression_field import make_attribution_benchmark
from sklrp.datasets.squares import make_squares

__all__ = [
    "load_enso",
    "load_pacific_sst",
    "make_attribution_benchmark",
    "make_frames",
    "make_lorenz96",
    "make_rainfall_runoff",
    "make_squares",
    "make_suppressor",
    "make_watermark",
    "make_xor",
]
