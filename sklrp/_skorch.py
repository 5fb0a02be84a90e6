"""The private names of skorch that this package uses.

No other file touches them, so a release of skorch that moves one is mended here;
``tests/test_private_names.py`` tells which one has moved. The nets of the classifiers import from
here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from skorch import NeuralNet


def named_callbacks(net: NeuralNet) -> Iterator[tuple[str, Any]]:
    """Yield the callbacks of a net that is not initialised, by the names it will give them."""
    # Without it a misspelt `callbacks__<name>` is refused late, and without a suggestion.
    return net._uniquely_named_callbacks()


class LazyModes(NeuralNet):  # numpydoc ignore=PR01
    """A net that sets its module's mode, training or evaluation, only where it changes.

    Walking through the modules for every batch costs more than a small layer. If skorch no longer
    calls this method, nets are slower and no less right.
    """

    def _set_training(self, training: bool = True) -> None:
        if self.module_.training != training:
            super()._set_training(training)

    def set_evaluating(self) -> None:
        """Put the net's modules into evaluation mode."""
        self._set_training(False)
