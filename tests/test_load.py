"""Many calls at once and one after the other: the same maps, and no growth."""

import gc
import multiprocessing
import threading
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import sklrp
from sklrp import CNNClassifier, LSTMClassifier, MLPClassifier
from sklrp.datasets import make_squares

X, Y, _ = make_squares(n_per_class=20, size=8, random_state=0)
N_THREADS, N_PROCESSES, N_CALLS = 8, 4, 300


@pytest.fixture(scope="module")
def models():
    """Networks of each kind, which the threads share, and what they say of X alone."""
    made = [MLPClassifier((8,)), CNNClassifier((4,)), LSTMClassifier(4, sweep="right")]
    return [m.set_params(max_epochs=1, random_state=0).fit(X, Y) for m in made]


@pytest.mark.slow
def test_eight_threads_share_networks(models):
    """Other targets, rules and samples at the same time change nothing."""
    jobs = [
        (model, rule, target, first)
        for model in models
        for rule in ("epsilon", "z_plus", "gamma")
        for target in (None, 0, "all")
        for first in (0, 7)
    ]

    def run(job):
        model, rule, target, first = job
        return model.explain(X[first : first + 20], rule=rule, target=target, batch_size=6)

    expected = [run(job) for job in jobs]
    modes = [m.training for model in models for m in model.module_.modules()]
    before = threading.active_count()
    with ThreadPoolExecutor(N_THREADS) as pool:
        for _ in range(3):
            for found, alone in zip(pool.map(run, jobs), expected, strict=True):
                np.testing.assert_allclose(found, alone, rtol=1e-9, atol=1e-12)
    assert threading.active_count() == before
    assert modes == [m.training for model in models for m in model.module_.modules()]


def test_threads_explain_while_others_train(models):
    """Whoever trains draws from generators of its own."""
    expected = models[0].explain(X)
    alone = MLPClassifier((4,), max_epochs=3, random_state=1).fit(X, Y).explain(X)

    def train(_):
        return MLPClassifier((4,), max_epochs=3, random_state=1).fit(X, Y).explain(X)

    with ThreadPoolExecutor(N_THREADS) as pool:
        trained = [pool.submit(train, k) for k in range(8)]
        explained = [pool.submit(models[0].explain, X) for _ in range(40)]
        for job in explained:
            np.testing.assert_allclose(job.result(), expected, rtol=1e-9, atol=1e-12)
        for job in trained:
            np.testing.assert_allclose(job.result(), alone, rtol=1e-9, atol=1e-12)


def explain_in_child(model):
    return model.explain(X)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork")
def test_four_processes_that_were_forked(models):
    with warnings.catch_warnings():  # Python's own, of threads in a process that forks
        warnings.simplefilter("ignore", DeprecationWarning)
        with multiprocessing.get_context("fork").Pool(N_PROCESSES) as pool:
            found = pool.map(explain_in_child, models * 4)
    for maps, model in zip(found, models * 4, strict=True):
        np.testing.assert_allclose(maps, model.explain(X), rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_hundreds_of_calls_leave_nothing_behind():
    """The memory of Python's objects does not grow once they are all there."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    samples = np.linspace(-1, 1, 8).reshape(2, 4)
    expected = sklrp.explain(net, samples)

    def call(n):
        for _ in range(n):
            found = sklrp.explain(net, samples)
        gc.collect()
        return found

    call(50)
    tracemalloc.start()
    try:
        call(2 * N_CALLS)  # what is allocated anew, as in caches, grows by ever less
        before, _ = tracemalloc.get_traced_memory()
        found = call(N_CALLS // 2)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 100 * N_CALLS // 2  # bytes: less than one small object for each call
    np.testing.assert_array_equal(found, expected)
