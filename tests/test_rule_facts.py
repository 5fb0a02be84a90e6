"""The page of rules and facts counts what `diagnose` found."""

import pytest

from tests import rule_facts


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*flat")
def test_rows_are_those_of_the_report():
    rows = rule_facts.grade("squares", rules=("epsilon", "flat"), names=("MLP",), n_permutations=8)
    sound, flat = rows
    assert (sound["verdict"], flat["verdict"]) == ("fact", "artifact")
    assert sound["known"] == sound["true"] == 25
    assert sound["map"] > 2 * max(sound["input"], sound["untrained"][1])
    assert flat["map"] < sound["input"]
    lines = rule_facts.tabulate(rows, rule_facts.take_task("squares")[-1])
    assert lines[0].startswith("| network | held-out accuracy | true cells (of the 25 known)")
    assert lines[2].startswith("| MLP | 1.00 | 25 (25) | epsilon |")
    assert lines[2].endswith("| fact |")
    assert lines[3].startswith("| | | | flat |")
    assert "artifact: true" in lines[3]
