"""Checks that every part of the package shares: names, numbers, optional libraries."""

import sys
from fractions import Fraction
from numbers import Integral

import numpy as np
import pytest
from torch import nn

import sklrp
from sklrp._checks import (
    check_flags,
    check_folds,
    check_jobs,
    check_number,
    check_option,
    import_optional,
    suggest,
)
from sklrp._missing import as_plain_array
from sklrp._numbers import is_real
from sklrp._wording import say_value
from sklrp.propagation import register


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


@pytest.mark.parametrize(
    "value", [-1, np.nan, np.inf, True, "1", None, 0.5, np.timedelta64(1, "D")]
)
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


class Hostile:
    """A value that no error can quote."""

    def __repr__(self):
        raise RuntimeError("of its own")


def test_a_value_without_a_repr_is_named_by_its_type():
    with pytest.raises(ValueError, match=r"^epsilon must .*type Hostile, whose repr fails"):
        sklrp.plan(nn.Linear(2, 1), epsilon=Hostile())
    with pytest.raises(TypeError, match=r"^epsilon must .*type Hostile"):
        sklrp.Epsilon(Hostile()).validate()
    assert say_value([Hostile()]) == "a value of type list, whose repr fails"


def test_short_words_are_suggested_too():
    with pytest.raises(ValueError, match=r"got 'ab'\. Did you mean 'abs'"):
        sklrp.Composite([("all", sklrp.Epsilon(), "any")], product="ab").validate()
    with pytest.raises(ValueError, match=r"got 'li'\. Did you mean 'lin'"):
        check_option("form", "li", ("lin", "log"))


class Mute:
    """A value of which neither it nor its errors say anything."""

    def __str__(self):
        raise RuntimeError

    def __array__(self, *args, **kwargs):
        raise RuntimeError


def test_values_that_say_nothing_are_named_by_their_type():
    with pytest.raises(ValueError, match=r"^y must be an array, .*got Mute"):
        as_plain_array(Mute(), "y")
    with pytest.raises(ValueError, match=r"^kind must be one of .*Mute object"):
        register(nn.Linear, kind=Mute())


@pytest.mark.parametrize("value", [True, np.timedelta64(1, "D"), Fraction(1, 2), 2**63, "1", 1j])
def test_what_is_no_number_of_64_bits(value):
    assert not is_real(value)
    assert is_real(np.float32(1))
    assert is_real(np.int8(1), Integral)
    assert not is_real(1.0, Integral)
