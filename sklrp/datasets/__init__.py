"""Data for examples and tests: tasks with a known answer, and real fields of the ocean.

The functions know nothing of the other modules of the package: they return plain arrays.
"""

from sklrp.datasets.frames import make_frames
from sklrp.datasets.pacific_sst import load_pacific_sst
from sklrp.datasets.regression_field import make_attribution_benchmark
from sklrp.datasets.squares import make_squares

__all__ = ["load_pacific_sst", "make_attribution_benchmark", "make_frames", "make_squares"]
