"""Patterns of data and architectures, in maps that were made to show them."""

import numpy as np
import pytest

from sklrp import MLPClassifier
from sklrp.diagnostics import position_profile
from sklrp.diagnostics.constant_cells import fixed_cells
from sklrp.diagnostics.outliers import outlying_cells
from sklrp.diagnostics.positions import positions
from tests.helpers.drawn_maps import drawn


def test_relevance_on_fixed_cells():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 10))
    X[:, 0] = -5.0
    maps = np.ones_like(X)
    found = fixed_cells(drawn(maps, X=X))
    assert found.statistic == pytest.approx(0.1)
    assert found.verdict == "artifact"
    np.testing.assert_array_equal(found.cells, np.arange(10) == 0)
    maps[:, 0] = 0
    assert fixed_cells(drawn(maps, X=X)).verdict == "fact"
    X[:, 0] = 0
    assert fixed_cells(drawn(maps, X=X)).verdict == "fact"
    assert fixed_cells(drawn(np.ones_like(X), X=X)).verdict == "artifact"  # as flat rules do


def test_relevance_on_outliers():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 100))
    X[:, 7] *= 1000
    maps = X * rng.normal(size=100)
    assert outlying_cells(drawn(maps, maps, X=X), 3).verdict == "artifact"
    elsewhere = np.delete(maps, 7, axis=1)
    elsewhere = np.insert(elsewhere, 7, 0, axis=1)
    assert outlying_cells(drawn(maps, elsewhere, X=X), 3).verdict == "fact"  # it was learned


# Positions


def find_positions(maps, nulls, X=None):
    X = np.ones_like(maps) if X is None else X
    return {f.name: f for f in positions(drawn(maps, nulls, X=X), 4)}


def test_fading_memory_is_found():
    rng = np.random.default_rng(0)
    faded = 0.8 ** np.arange(30)[::-1] * rng.uniform(0.5, 1.5, size=(40, 20, 30))
    spread = rng.uniform(0.5, 1.5, size=(40, 20, 30))
    found = find_positions(faded, 1.01 * faded)["fading"]
    assert found.verdict == "artifact"
    assert found.axis == 1
    assert found.statistic == pytest.approx(1, abs=0.02)
    assert find_positions(spread, faded)["fading"].statistic == pytest.approx(0, abs=0.02)
    assert find_positions(spread, faded)["fading"].verdict == "fact"
    assert find_positions(faded, spread)["fading"].verdict == "fact"  # it was learned


def test_borders_are_found():
    rng = np.random.default_rng(0)
    plain = rng.uniform(0.5, 1.5, size=(40, 20, 30))
    edge, starved = plain.copy(), plain.copy()
    edge[:, :, [0, 1, -2, -1]] *= 3
    starved[:, :2] *= 0.2
    starved[:, -2:] *= 0.2
    assert find_positions(edge, edge * 1.01)["border"].verdict == "artifact"
    assert find_positions(starved, starved * 1.01)["border"].verdict == "artifact"
    assert find_positions(edge, plain)["border"].verdict == "fact"
    assert find_positions(plain, edge)["border"].verdict == "fact"
    assert find_positions(plain, plain * 1.01)["border"].verdict == "fact"


@pytest.mark.parametrize("period", [2, 3, 4])
def test_grids_are_found(period):
    rng = np.random.default_rng(0)
    plain = rng.uniform(0.5, 1.5, size=(40, 25, 31))
    comb = plain.copy()
    comb[:, ::period] *= 2
    found = find_positions(comb, comb * 1.01)["grid"]
    assert (found.verdict, found.axis, found.period) == ("artifact", 0, period)
    assert find_positions(plain, plain * 1.01)["grid"].verdict == "fact"
    assert find_positions(comb, plain)["grid"].verdict == "fact"
    assert find_positions(comb, comb * 1.01, X=comb)["grid"].verdict == "fact"  # so is the input


def test_positions_need_neighbours(mlp, squares):
    flat = squares[2].reshape(-1, 400)
    clf = MLPClassifier((4,), max_epochs=1, random_state=0).fit(flat, squares[3])
    with pytest.raises(ValueError, match="no axis of at least 8"):
        position_profile(clf, flat)
    found = position_profile(mlp, squares[2], n_permutations=3)
    assert [part.name for part in found.parts] == ["fading", "border", "grid"]
    assert [len(profile) for profile in found.profiles] == [20, 20]
