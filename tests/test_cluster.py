"""Workers of a real cluster: the same results as here, also if one of them is killed.

One cluster of two processes serves the whole file. What dies, dies in a worker, once.
"""

import os
import signal
from collections import Counter
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn

import sklrp
from sklrp import MLPClassifier, RelevanceTransformer
from sklrp.datasets import make_squares
from sklrp.diagnostics import diagnose, focus_curve, skill_map
from tests.helpers.comparing import assert_same_to_rounding

distributed = pytest.importorskip("distributed")
xr = pytest.importorskip("xarray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL"),
    # distributed's own: sockets of workers that were killed.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
X, Y, MASK = make_squares(n_per_class=40, size=8, random_state=0)
FIT = {"max_epochs": 2, "random_state": 0}


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def clf():
    return MLPClassifier((8,), **FIT).fit(X[:40], Y[:40])


def die_once(flag):
    """End this process without a word, if it is the first that comes here and not the test's."""
    try:
        with open(flag, "x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return
    if os.getpid() == int(Path(f"{flag}.test").read_text()):
        Path(flag).unlink()
    else:
        os.kill(os.getpid(), signal.SIGKILL)


def set_flag(flag):
    os.environ["SKLRP_TEST_FLAG"] = flag


@pytest.fixture
def flag(tmp_path):
    (tmp_path / "died.test").write_text(str(os.getpid()))
    return str(tmp_path / "died")


class Mortal(MLPClassifier):
    """Kills the first worker that trains one."""

    def fit(self, X, y, sample_weight=None):
        if "SKLRP_TEST_FLAG" in os.environ:  # not in the worker that comes for one that died
            die_once(os.environ["SKLRP_TEST_FLAG"])
        return super().fit(X, y, sample_weight)


def search(clf):
    pipe = make_pipeline(RelevanceTransformer(MLPClassifier((4,), **FIT)), MLPClassifier(**FIT))
    grid = {"relevancetransformer__rule": ["epsilon", "z_plus"]}
    return GridSearchCV(pipe, grid, cv=2).fit(X, Y).cv_results_["mean_test_score"]


def calibrate(clf):
    calibrated = CalibratedClassifierCV(MLPClassifier((4,), **FIT), cv=2).fit(X, Y)
    return calibrated.predict_proba(X)


def map_skill(clf):
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).double()
    with torch.no_grad():
        module[1].weight.copy_(torch.linspace(-1, 1, 128).view(2, 64).sin())
    asked = {"n_permutations": 49, "random_state": 0}
    return skill_map(module, X[40:], Y[40:], **asked).skill


def ask_all(clf):
    report = diagnose(
        clf, X[40:], Y[40:], X_train=X[:40], y_train=Y[:40], n_permutations=3, n_networks=3,
        n_refits=1, max_samples=8, random_state=0,
    )  # fmt: skip
    return np.array([test.statistic for test in report.tests.values()])


CALLS = {
    "explain": lambda clf: clf.explain(X, batch_size=7),
    "search": search,
    "calibration": calibrate,
    "skill_map": map_skill,
    "diagnose": ask_all,
    "focus_curve": lambda clf: focus_curve(clf, "lr", [1e-3, 1e-2], X, Y, cv=2).test_scores,
}


@pytest.mark.parametrize("name", CALLS)
def test_a_cluster_gives_what_this_process_gives(name, clf, client):
    before = sum(client.run(count_tasks).values())
    with joblib.parallel_config("dask"):
        found = CALLS[name](clf)
    assert_same_to_rounding(found, CALLS[name](clf))
    assert sum(client.run(count_tasks).values()) > before


def count_tasks(dask_worker):
    """Return how many tasks a worker has done."""
    return len([story for story in dask_worker.state.log if "executing" in story])


FIELD = xr.DataArray(
    np.random.default_rng(0).normal(size=(24, 4, 6)),
    {"time": np.arange(24), "lat": np.arange(4.0), "lon": np.arange(6.0)},
    name="sst",
)


def pass_on(values, flag=None):
    if flag is not None:
        die_once(flag)
    return values


def model_of_fields(**kwargs):
    step = FunctionTransformer(pass_on, kw_args=kwargs, feature_names_out="one-to-one")
    pipeline = make_pipeline(sklrp.geo.GridVectorizer(), step, MLPClassifier((4,), **FIT))
    return pipeline.fit(FIELD, (FIELD[:, 0, 0] > 0).values.astype(int))


def test_netcdf_is_written_by_this_process(client, tmp_path):
    pipeline = model_of_fields()
    file = sklrp.geo.write(sklrp.geo.explain(pipeline, FIELD.chunk(time=3)), tmp_path / "r.nc")
    xr.testing.assert_allclose(xr.load_dataarray(file), sklrp.geo.explain(pipeline, FIELD))


class Tag:
    """Notes in which process it arrives; copies of a network there share it."""

    def __init__(self, log):
        self.log = str(log)

    def __setstate__(self, state):
        self.__dict__.update(state)
        with open(self.log, "a") as file:
            file.write(f"{os.getpid()}\n")

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self


def arrivals(log):
    """Return how often a network has arrived in each worker."""
    counts = Counter(Path(log).read_text().split())
    counts.pop(str(os.getpid()), None)
    return counts


@pytest.mark.parametrize("backend", ["dask", "loky"])
def test_the_network_travels_to_a_worker_once(backend, client, tmp_path):
    layer = nn.Linear(64, 2)
    layer.tag = Tag(tmp_path / "log")
    module = nn.Sequential(nn.Flatten(), layer).double()
    with joblib.parallel_config(backend):
        found = sklrp.explain(module, X, batch_size=2, n_jobs=2)
    assert_same_to_rounding(found, sklrp.explain(module, X))
    assert set(arrivals(layer.tag.log).values()) == {1}
    assert len(arrivals(layer.tag.log)) <= 2


def test_the_network_of_lazy_fields_travels_to_a_worker_once(client, tmp_path):
    layer = nn.Linear(24, 2)
    layer.tag = Tag(tmp_path / "log")
    vectorizer = sklrp.geo.GridVectorizer().fit(FIELD)
    layer.double()
    relevance = sklrp.geo.explain(layer, FIELD.chunk(time=1), vectorizer=vectorizer)
    found = relevance.compute()
    xr.testing.assert_allclose(found, sklrp.geo.explain(layer, FIELD, vectorizer=vectorizer))
    assert set(arrivals(layer.tag.log).values()) == {1}


def test_refits_go_on_where_a_worker_was_killed(client, flag, monkeypatch):
    monkeypatch.setenv("SKLRP_TEST_FLAG", flag)
    client.run(set_flag, flag)
    mortal = Mortal((8,), **FIT).fit(X[:40], Y[:40])
    expected = ask_all(mortal)
    assert not Path(flag).exists()
    with joblib.parallel_config("dask"):
        found = ask_all(mortal)
    assert int(Path(flag).read_text()) != os.getpid()  # that of the worker that died
    assert_same_to_rounding(found, expected)


def test_fields_are_written_by_workers_of_which_one_was_killed(client, flag, tmp_path):
    client.wait_for_workers(2, timeout=120)
    pipeline = model_of_fields(flag=flag)
    expected = sklrp.geo.explain(pipeline, FIELD)
    lazy = sklrp.geo.explain(pipeline, FIELD.chunk(time=3))
    assert not Path(flag).exists()
    store = sklrp.geo.write(lazy, tmp_path / "relevance.zarr")
    assert int(Path(flag).read_text()) != os.getpid()
    with xr.open_zarr(store) as written:
        xr.testing.assert_allclose(written.relevance, expected)
    assert not [file for file in os.listdir(tmp_path) if file.startswith(".")]
