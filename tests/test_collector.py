"""Tests of the collector of circles, which rests while a chunk is explained."""

import gc

import numpy as np
import pytest
from torch import nn

from sklrp import explain

_SEEN: list[bool] = []


class _Watching(nn.Module):
    """A network that notes whether circles would be collected."""

    def __init__(self):
        super().__init__()
        self.note = _SEEN.append
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        self.note(gc.isenabled())
        return self.layer(x)


@pytest.mark.parametrize("was_on", [True, False])
def test_the_collector_rests_while_chunks_are_explained_and_is_then_as_it_was(was_on):
    X = np.random.default_rng(0).normal(size=(30, 3))
    model = _Watching().double()
    _SEEN.clear()
    (gc.enable if was_on else gc.disable)()
    try:
        explain(model, X, batch_size=5)
        assert gc.isenabled() == was_on
        nn.init.constant_(model.layer.weight, np.inf)
        with pytest.raises(ValueError, match="NaN or infinite"):
            explain(model, X, batch_size=5)
        assert gc.isenabled() == was_on
    finally:
        gc.enable()
    assert len(_SEEN) > 8
    assert not any(_SEEN)
