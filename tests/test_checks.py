"""Checks that every part of the package shares: names, numbers, optional libraries."""

import sys

import numpy as np
import pytest

from sklrp._checks import (
    check_flags,
    check_folds,
    check_jobs,
    check_number,
    import_optional,
    suggest,
)


def test_the_nearest_names_are_suggested():
    known = ["epsilon", "gamma", "gammas"]
    assert suggest("epsilom", known) == " Did you mean 'epsilon'?"
    assert suggest("gama", known, n=2) == " Did you mean 'gamma' or 'gammas'?"
    assert suggest("gama", known, inline=True) == "; did you mean 'gamma'?"
    assert suggest("w_square", known) == ""


def test_an_optional_library_that_is_missing_names_its_extra(monkeypatch):
    assert import_optional("math", extra="plot", user="nothing") is sys.modules["math"]
    for module in ("matplotlib", "matplotlib.pyplot"):
        monkeypatch.setitem(sys.modules, module, None)
    message = r"^RelevanceDisplay needs matplotlib: pip install 'sklrp\[plot\]'$"
    with pytest.raises(ImportError, match=message):
        import_optional("matplotlib.pyplot", extra="plot", user="RelevanceDisplay")


def test_a_library_that_lacks_one_of_its_own_says_so(monkeypatch, tmp_path):
    (tmp_path / "half_installed.py").write_text("import not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'not_there'"):
        import_optional("half_installed", extra="plot", user="nothing")


@pytest.mark.parametrize("value", [-1, np.nan, np.inf, True, "1", None, 0.5])
def test_numbers(value):
    check_number("size", 1, minimum=1, integral=True)
    check_number("size", np.float32(0.25), minimum=0.25)
    with pytest.raises(ValueError, match="size must be an integer of at least 1, got "):
        check_number("size", value, minimum=1, integral=True)
    if value != 0.5:
        with pytest.raises(ValueError, match="size must be a finite number of at least 0, got "):
            check_number("size", value, minimum=0)


def test_flags_and_jobs():
    check_flags(contrast=True, progress=np.False_)
    with pytest.raises(ValueError, match="progress must be True or False, got 1"):
        check_flags(contrast=True, progress=1)
    for good in (None, -1, np.int64(2)):
        check_jobs(good)
    for bad in (True, 1.5, "all"):
        with pytest.raises(ValueError, match="n_jobs must be None or an integer"):
            check_jobs(bad)


@pytest.mark.parametrize(
    ("cv", "said"),
    [
        (iter(()), "gives no fold.*used up"),
        (iter([(np.arange(5),)]), "pairs"),
        (iter([1, 2]), "pairs"),
        ([(np.arange(5), np.empty(0, int))], "neither"),
        ([(np.arange(50), np.arange(3))], "12 samples"),
        ([(np.arange(3) + 0.5, np.arange(3))], "indices"),
    ],
)
def test_folds_that_are_none(cv, said):
    with pytest.raises(ValueError, match=f"^cv.*{said}"):
        check_folds(cv, cv, 12)


def test_folds_by_numbers_and_by_masks():
    first = np.arange(12) < 6
    folds = [(np.arange(6), np.arange(6, 12)), (first, ~first), ([0, -1], [3])]
    assert len(check_folds(folds, folds, 12)) == 3
