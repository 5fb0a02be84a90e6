"""What all tests of maps share: the common form of maps, intervals and verdicts."""

import numpy as np
import pytest

from sklrp.diagnostics.common_form import as_shares, cosines
from sklrp.diagnostics.findings import bootstrap, judge


def test_maps_are_normalised():
    maps = np.array([[1.0, -3.0], [0.0, 0.0], [1e300, 1e300]])
    expected = [[-0.25, 0.75], [0, 0], [0.5, 0.5]]
    np.testing.assert_allclose(as_shares(maps, [-1.0, 1.0, 2.0]), expected, rtol=1e-6)


def test_cosines():
    one = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    other = np.array([[0.0, 2.0], [3.0, 3.0], [1.0, 0.0]])
    np.testing.assert_allclose(cosines(one, other), [0, 1, np.nan])


def test_bootstrap_covers_the_mean():
    values = np.random.default_rng(0).normal(3.0, 2.0, size=400)
    low, high = bootstrap(values, np.random.default_rng(1))
    half = 1.96 * values.std() / 20
    np.testing.assert_allclose([low, high], values.mean() + np.array([-half, half]), atol=0.04)


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((0.91, 0.95), "artifact"), ((0.1, 0.5), "fact"), ((0.5, 0.95), "undecided")],
)
def test_judge(interval, verdict):
    assert judge(interval, artifact_above=0.9, fact_below=0.6) == verdict
