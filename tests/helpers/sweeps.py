"""Which cases of a test of many are run with the quick tests, and which with the slow ones.

A test with `@pytest.mark.sweep(n)` asks one thing of many cases, such as every rule on every
network. `tests/conftest.py` calls `mark_slow_cases`, which leaves n cases as they are and marks
the others slow. The n are drawn by the test's name, so that they mix the values of all its
parameters and are the same in every run and worker.
"""

import random
from collections import defaultdict

import pytest


def mark_slow_cases(items):
    """Mark the cases of each sweep slow, but for as many as the sweep says."""
    sweeps = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sweep"):
            sweeps[item.nodeid.partition("[")[0]].append(item)
    for name, cases in sweeps.items():
        (n_quick,) = cases[0].get_closest_marker("sweep").args
        n_slow = max(len(cases) - n_quick, 0)
        for case in random.Random(name).sample(cases, n_slow):
            case.add_marker(pytest.mark.slow)
