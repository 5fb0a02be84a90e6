"""Tests of the collector of circles, which rests while a chunk is explained."""

import gc

import numpy as np
import pytest
from torch import nn

from sklrp import explain


class _Watching(nn.Module):
    """A network that notes whether circles would be collected."""

    seen: list[bool] = []

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        self.seen.append(gc.isenabled())
        return self.layer(x)


@pytest.mark.parametrize("was_on", [True, False])
def test_the_collector_rests_while_chunks_are_explained_and_is_then_as_it_was(was_on):
    X = np.random.default_rng(0).normal(size=(30, 3))
    model = _Watching().double()
    model.seen.clear()
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
    assert len(model.seen) > 8 and not any(model.seen)
