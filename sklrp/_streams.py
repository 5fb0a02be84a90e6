"""Random numbers from a `random_state`, with NumPy's global generator left as it is.

What draws for one purpose, as a metric does, takes a generator from `make_rng`. What draws for
several, as the diagnostics do, asks `Streams` for each by the name of its purpose: what is drawn
for one then depends on the seed and the name alone, neither on what else is drawn nor on the
order. The made-up data sets take theirs from `make_legacy_rng`, whose numbers stay as they were.
"""

from __future__ import annotations

import hashlib

import numpy as np
from sklearn.utils import check_random_state

_LARGEST = 2**31 - 1  # of a seed that scikit-learn, torch and old NumPy take


def make_rng(random_state: int | np.random.RandomState | None) -> np.random.Generator:
    """Return a generator of its own, by the rules of `Streams` for a `random_state`."""
    return np.random.default_rng(_take_seed(random_state))


def make_legacy_rng(random_state: int | np.random.RandomState | None) -> np.random.RandomState:
    """Return a generator of NumPy's older kind; None seeds one of its own, not the global one."""
    return np.random.RandomState() if random_state is None else check_random_state(random_state)


class Streams:
    """Streams of random numbers, one for each name.

    Parameters
    ----------
    random_state : int, RandomState instance or None, default=None
        Determines all streams. A RandomState gives one seed, by which it moves on; None takes a
        seed of the operating system. NumPy's global generator is left as it is.

    Attributes
    ----------
    entropy : int
        What all streams come from.
    """

    def __init__(self, random_state: int | np.random.RandomState | None = None) -> None:
        self.entropy = np.random.SeedSequence(_take_seed(random_state)).entropy

    def rng(self, name: str) -> np.random.Generator:
        """Return the stream of a name, from its beginning.

        Parameters
        ----------
        name : str
            What is drawn.

        Returns
        -------
        numpy.random.Generator
            A new generator; the same name gives the same numbers.
        """
        # Python's own hash of a string differs from run to run.
        key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())
        return np.random.default_rng(np.random.SeedSequence(self.entropy, spawn_key=(key,)))

    def seeds(self, name: str, n: int) -> list[int]:
        """Return seeds for n models or workers, the first of a name's stream.

        Parameters
        ----------
        name : str
            What is drawn.
        n : int
            How many.

        Returns
        -------
        list of int
            The seeds; fewer of the same name are the first of these.
        """
        return [int(seed) for seed in self.rng(name).integers(_LARGEST, size=n)]


def _take_seed(random_state: int | np.random.RandomState | None) -> int | None:
    if isinstance(random_state, np.random.RandomState):
        return random_state.randint(_LARGEST)
    return random_state
