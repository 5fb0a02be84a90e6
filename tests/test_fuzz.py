"""Random networks against torch itself: a bounded part of `tests/fuzz_networks.py`."""

from __future__ import annotations

import collections

import pytest

from tests.fuzz_networks import INSTRUCTIONS, draw_case, try_program

pytestmark = pytest.mark.filterwarnings("ignore:Use of .* on expanded tensors")


@pytest.mark.parametrize("block", range(4))
@pytest.mark.slow
def test_random_networks_are_right_or_refused(block):
    counts = collections.Counter()
    for seed in range(75 * block, 75 * (block + 1)):
        kind, text, program, _, batch_size = try_program(seed)
        assert kind in ("right", "refused"), f"seed {seed}, {batch_size}: {text} {program.code}"
        counts[kind] += 1
    assert counts["right"] >= 64  # they are not all refused


def test_every_instruction_is_drawn():
    drawn = {name for seed in range(60) for name, _ in draw_case(seed)[0].code}
    assert drawn >= set(INSTRUCTIONS) - {"recur", "pool", "norm"}
