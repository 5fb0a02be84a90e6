"""Random numbers by name: one seed, and a stream of its own for everything that is drawn.

Who draws for several purposes (the diagnostics, the metrics) asks for each stream by the name of
its purpose. What is drawn for one purpose then depends on the seed and the name alone, neither on
what else is drawn nor on the order.
"""

from __future__ import annotations

import hashlib

import numpy as np

_LARGEST = 2**31 - 1  # of a seed that scikit-learn, torch and old NumPy take


class Streams:
    """Streams of random numbers, one for each name.

    Parameters
    ----------
    random_state : int, RandomState instance or None, default=None
        Determines all streams. A RandomState gives one seed, by which it moves on; None takes a
        seed of the operating system. NumPy's global generator is left as it is.
    """

    def __init__(self, random_state: int | np.random.RandomState | None = None) -> None:
        if isinstance(random_state, np.random.RandomState):
            random_state = random_state.randint(_LARGEST)
        self._entropy = np.random.SeedSequence(random_state).entropy

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
        return np.random.default_rng(np.random.SeedSequence(self._entropy, spawn_key=(key,)))

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
