"""Settings of the whole test session, and fixtures that many tests share."""

import os
import random

# One thread, in worker processes too: on busy cores two are six times slower than one.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["SCIPY_ARRAY_API"] = "1"  # else scikit-learn skips its checks of array-API input

import hypothesis
import numpy as np
import pytest
import torch

from sklrp import MLPClassifier
from sklrp.datasets import make_squares
from sklrp.propagation.registry import HANDLERS

collect_ignore = ["data/write_keras_files.py"]  # a script for other environments, no module
pytest.register_assert_rewrite("tests.helpers")  # else its asserts fail without a word
torch.set_num_threads(1)
hypothesis.settings.register_profile("sklrp", deadline=None, derandomize=True)
hypothesis.settings.load_profile("sklrp")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Tell which cases of a sweep are slow, before pytest leaves out what `-m` says."""
    from tests.helpers.sweeps import mark_slow_cases  # after its asserts were registered

    mark_slow_cases(items)


@pytest.fixture(autouse=True)
def _seeds_by_name(request, monkeypatch):
    """Let a random_state of None mean the same in every run: its seed comes from the test's name.

    NumPy asks the operating system for such a seed. A test that passes for 99 of 100 seeds would
    then fail in one run of a hundred. SKLRP_TEST_SEED asks for other seeds, to find such tests.
    """
    salt = os.environ.get("SKLRP_TEST_SEED", "")
    seeds = random.Random(f"{salt}{request.node.nodeid}")
    monkeypatch.setattr(np.random.bit_generator, "randbits", seeds.getrandbits)
    np.random.seed(seeds.getrandbits(32))  # noqa: NPY002
    torch.manual_seed(seeds.getrandbits(32))


@pytest.fixture
def handlers_restored():
    """Take away the handlers that the test registers."""
    known = dict(HANDLERS)
    yield
    HANDLERS.clear()
    HANDLERS.update(known)


@pytest.fixture(scope="session")
def squares():
    """Images of which one square tells the classes apart, in two halves, and where it is."""
    X, y, mask = make_squares(n_per_class=60, size=20, random_state=0)
    return X[:60], y[:60], X[60:], y[60:], mask


@pytest.fixture(scope="session")
def mlp(squares):
    """A network that has learned the square."""
    clf = MLPClassifier((32,), max_epochs=20, random_state=0).fit(*squares[:2])
    clf.predict(squares[0][:1])  # skorch turns to evaluation mode at the first prediction
    return clf
