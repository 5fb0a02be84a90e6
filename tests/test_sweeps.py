"""Sweeps: of many cases so many are quick, always the same ones, and none is lost."""

import pytest

from tests.helpers.sweeps import mark_slow_cases


class Case:
    """What `mark_slow_cases` uses of a test that pytest has collected."""

    def __init__(self, name, *marks):
        self.nodeid, self.marks = name, {mark.name: mark.mark for mark in marks}

    def get_closest_marker(self, name):
        return self.marks.get(name)

    def add_marker(self, mark):
        self.marks[mark.name] = mark.mark


def quick_cases(n_quick, *, n_cases=40, test="test_a.py::test"):
    """Return the names of the quick cases of a sweep."""
    cases = [Case(f"{test}[{k}]", pytest.mark.sweep(n_quick)) for k in range(n_cases)]
    mark_slow_cases(cases)
    return [case.nodeid for case in cases if "slow" not in case.marks]


@pytest.mark.parametrize(("n_quick", "found"), [(0, 0), (1, 1), (12, 12), (40, 40), (99, 40)])
def test_so_many_are_quick_and_the_others_slow(n_quick, found):
    assert len(quick_cases(n_quick)) == found


def test_they_are_the_same_in_every_run_and_others_for_another_test():
    assert quick_cases(12) == quick_cases(12)
    others = quick_cases(12, test="test_b.py::test")
    assert [name.partition("[")[2] for name in others] != [
        name.partition("[")[2] for name in quick_cases(12)
    ]


def test_they_mix_the_values_of_all_parameters():
    """Of 8 values times 5, in any order, 12 cases drawn at random have most values of both."""
    numbers = [int(name.partition("[")[2][:-1]) for name in quick_cases(12)]
    assert len({number // 5 for number in numbers}) >= 5
    assert len({number % 5 for number in numbers}) >= 4


def test_other_tests_are_left_alone():
    alone = [Case("test_a.py::test"), Case("test_a.py::test_slow", pytest.mark.slow)]
    before = [dict(case.marks) for case in alone]
    mark_slow_cases(alone)
    assert [case.marks for case in alone] == before
