"""Streams of random numbers: by the seed and the name alone."""

import subprocess
import sys

import numpy as np
import pytest

from sklrp._streams import Streams


def draw(random_state, name):
    return Streams(random_state).rng(name).random(4)


def test_a_stream_depends_on_the_seed_and_the_name_alone():
    streams = Streams(3)
    streams.rng("other").random(100)
    expected = draw(3, "one")
    np.testing.assert_array_equal(streams.rng("one").random(4), expected)
    np.testing.assert_array_equal(streams.rng("one").random(4), expected)  # from its beginning
    assert not np.isin(draw(3, "other"), expected).any()
    assert not np.isin(draw(4, "one"), expected).any()


def test_streams_are_the_same_in_every_run():
    code = "from sklrp._streams import Streams; print(Streams(0).seeds('null', 3))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(Streams(0).seeds("null", 3))


def test_fewer_seeds_are_the_first():
    assert Streams(0).seeds("a", 2) == Streams(0).seeds("a", 5)[:2]


@pytest.mark.parametrize("random_state", [None, 0, np.int64(7), np.random.RandomState(0)])
def test_the_global_generator_is_left_as_it_is(random_state):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    Streams(random_state).rng("x").random()
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_random_states():
    state = np.random.RandomState(5)
    one, other = draw(state, "x"), draw(state, "x")  # it moves on, as everywhere in scikit-learn
    assert not np.isin(one, other).any()
    np.testing.assert_array_equal(one, draw(np.random.RandomState(5), "x"))
    assert not np.isin(draw(None, "x"), draw(None, "x")).any()
