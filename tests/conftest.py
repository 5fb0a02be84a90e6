"""Settings of the whole test session, and the fixture that undoes registrations."""

import os

# One thread, in worker processes too: on busy cores two are six times slower than one.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["SCIPY_ARRAY_API"] = "1"  # else scikit-learn skips its checks of array-API input

import hypothesis
import pytest
import torch

from sklrp.propagation.registry import HANDLERS

pytest.register_assert_rewrite("tests.helpers")  # else its asserts fail without a word
torch.set_num_threads(1)
hypothesis.settings.register_profile("sklrp", deadline=None, derandomize=True)
hypothesis.settings.load_profile("sklrp")


@pytest.fixture
def handlers_restored():
    """Take away the handlers that the test registers."""
    known = dict(HANDLERS)
    yield
    HANDLERS.clear()
    HANDLERS.update(known)
