"""Samples that are read part by part: what is explained and predicted is as of arrays."""

from __future__ import annotations

import io
import os
import tempfile
import tracemalloc

import numpy as np
import pytest
import torch
from joblib import parallel_config
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from skorch import NeuralNetClassifier
from skorch.dataset import Dataset
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sklrp
from sklrp import (
    CNNClassifier,
    ESNClassifier,
    LSTMClassifier,
    MLPClassifier,
    MLPRegressor,
    RelevanceTransformer,
    _overlaps,
)
from sklrp._stored import Stored, as_stored, find_mapping, is_stored, make_zeros, release
from sklrp.classifiers.batches import BatchIterator
from sklrp.diagnostics import diagnose, skill_map
from sklrp.diagnostics.explained import Explained
from sklrp.propagation.sizes import _Budget
from tests.helpers.stores import open_by_path

N, SHAPE = 150, (4, 6)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Make blocks so small that samples of a test have many."""
    for module in ("sklrp._stored", "sklrp.propagation.results"):
        monkeypatch.setattr(f"{module}.BLOCK_BYTES", 2**11)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, *SHAPE)).astype(np.float32)
    return X, (X[:, 0, 0] + X[:, 1, 2] > 0).astype(int)


def write(kind, X, tmp_path):
    """Return samples as a kind of file or lazy array holds them."""
    tmp_path.mkdir(exist_ok=True)
    if kind == "memmap":
        np.save(tmp_path / "X.npy", X)
        return np.load(tmp_path / "X.npy", mmap_mode="r")
    if kind == "view":
        np.save(tmp_path / "X.npy", np.concatenate([X[:7], X]))
        return np.asarray(np.load(tmp_path / "X.npy", mmap_mode="r"))[7:]
    if kind == "zarr":
        zarr = pytest.importorskip("zarr")
        array = zarr.create_array(
            str(tmp_path / "X.zarr"), shape=X.shape, chunks=(16, *X.shape[1:]), dtype=X.dtype
        )
        array[:] = X
        return array
    if kind == "h5py":
        h5py = pytest.importorskip("h5py")
        file = h5py.File(tmp_path / "X.h5", "w")
        return file.create_dataset("X", data=X, chunks=(16, *X.shape[1:]))
    da = pytest.importorskip("dask.array")
    lazy = da.from_array(X, chunks=((40, 1, len(X) - 41), *((n,) for n in X.shape[1:])))
    if kind == "dask":
        return lazy
    xr = pytest.importorskip("xarray")
    return xr.DataArray(lazy, dims=("time", "lat", "lon")[: X.ndim])


KINDS = ["memmap", "view", "zarr", "h5py", "dask", "DataArray"]


def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 3))


MODELS = {
    "MLP": MLPClassifier((8,), max_epochs=3, random_state=0),
    "CNN": CNNClassifier((2,), max_epochs=2, random_state=0),
    "LSTM": LSTMClassifier(4, max_epochs=2, random_state=0),
    "ESN": ESNClassifier(12, random_state=0),
    "regressor": MLPRegressor((8,), max_epochs=3, random_state=0),
}


@pytest.fixture(scope="module")
def fitted(data):
    X, y = data
    return {name: model.fit(X, y) for name, model in MODELS.items()}


@pytest.mark.sweep(5)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_estimators_read_part_by_part(kind, name, fitted, data, tmp_path):
    model, (X, _) = fitted[name], data
    stored = write(kind, X, tmp_path)
    assert is_stored(stored)
    every = {"target": "all"} if name == "MLP" else {}
    wanted, known = model.explain(X, return_details=True, **every)
    found, details = model.explain(stored, return_details=True, **every)
    assert np.array_equal(found, wanted)
    assert np.array_equal(details.score, known.score)
    assert np.array_equal(model.predict(stored), model.predict(X))
    if hasattr(model, "predict_proba"):
        assert np.array_equal(model.predict_proba(stored), model.predict_proba(X))
        assert np.array_equal(model.decision_function(stored), model.decision_function(X))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_jobs", [None, 2])
def test_modules_read_part_by_part(kind, n_jobs, data, tmp_path):
    X, labels = data[0], np.arange(N) % 3
    net = module()
    wanted = sklrp.explain(net, X, target=labels, batch_size=16)
    stored = write(kind, X, tmp_path)
    with parallel_config("threading"):
        found = sklrp.explain(net, stored, target=labels, batch_size=16, n_jobs=n_jobs)
    assert np.array_equal(found, wanted)
    assert found.dtype == X.dtype


@pytest.mark.parametrize("kind", KINDS)
def test_pipelines_and_nets_read_part_by_part(kind, data, tmp_path):
    X, y = data
    X = X.reshape(N, -1)
    pipeline = make_pipeline(StandardScaler(), MLPClassifier((8,), max_epochs=2, random_state=0))
    pipeline.fit(X, y)
    stored = write(kind, X, tmp_path)
    assert np.array_equal(sklrp.explain(pipeline, stored), sklrp.explain(pipeline, X))
    net = NeuralNetClassifier(module(), max_epochs=1, verbose=0).fit(X, y.astype(np.int64))
    assert np.array_equal(sklrp.explain(net, stored), sklrp.explain(net, X))


def test_several_inputs_and_integers(data, tmp_path):
    X = data[0].reshape(N, -1)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(24, 3), nn.Embedding(5, 3)

        def forward(self, x, k):
            return self.a(x) + self.b(k)

    torch.manual_seed(0)
    net, k = Two(), np.arange(N) % 5
    stored = (write("zarr", X, tmp_path), write("memmap", k, tmp_path))
    for found, wanted in zip(sklrp.explain(net, stored), sklrp.explain(net, (X, k)), strict=True):
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize("kind", ["memmap", "zarr", "h5py", "numpy"])
def test_out_is_written(kind, fitted, data, tmp_path):
    X = data[0]
    wanted = fitted["MLP"].explain(X, target="all")
    if kind == "numpy":
        out = np.full(wanted.shape, np.nan)
    elif kind == "memmap":
        out = np.lib.format.open_memmap(tmp_path / "R.npy", "w+", np.float32, wanted.shape)
    elif kind == "zarr":
        zarr = pytest.importorskip("zarr")
        out = zarr.create_array(
            str(tmp_path / "R.zarr"), shape=wanted.shape, chunks=(40, 1, 4, 6), dtype="f4"
        )
    else:
        h5py = pytest.importorskip("h5py")
        out = h5py.File(tmp_path / "R.h5", "w").create_dataset(
            "R", wanted.shape, "f4", chunks=(40, 1, 4, 6)
        )
    for model in (fitted["MLP"].explain, lambda X, **k: sklrp.explain(fitted["MLP"], X, **k)):
        out[:] = np.nan
        found, details = model(X, target="all", out=out, return_details=True, batch_size=7)
        assert found is out
        np.testing.assert_allclose(out[:], wanted, rtol=1e-4, atol=1e-6)
        assert details.score.shape == (N, 2)
    if kind == "memmap":
        del out, found
        np.testing.assert_allclose(np.load(tmp_path / "R.npy"), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["MLP", "regressor", "module"])
def test_batches_of_a_generator(name, fitted, data):
    X, labels = data[0], np.arange(N) % 2
    model = module() if name == "module" else fitted[name]
    target = None if name == "regressor" else labels

    def batches():
        yield from (X[i : i + 40] for i in range(0, N, 40))

    options = {"return_details": True, "layers": []}
    wanted, known = sklrp.explain(model, X, target=target, **options)
    found, details = sklrp.explain(model, batches(), target=target, **options)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(details.score, known.score, rtol=1e-4, atol=1e-6)
    assert np.array_equal(details.target, known.target)
    for one, other in zip(details.layers, known.layers, strict=True):
        np.testing.assert_allclose(one.bias, other.bias, rtol=1e-4, atol=1e-5)
    out = np.empty(X.shape)
    assert sklrp.explain(model, batches(), target=target, out=out) is out
    np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=1e-6)
    if name != "module":
        np.testing.assert_allclose(model.predict(batches()), model.predict(X), rtol=1e-4)


def cut(X, tmp_path, sizes=(0, 40, 1, 0, 109, 0)):
    """Yield batches of odd lengths, also of none, in memory and as arrays of zarr."""
    tmp_path.mkdir(exist_ok=True)
    start = 0
    for k, size in enumerate(sizes):
        part = X[start : start + size]
        start += size
        yield write("zarr", part, tmp_path / str(k)) if size == 40 else part


@pytest.mark.parametrize("kind", ["numpy", "zarr", "h5py"])
def test_odd_batches_into_any_place(kind, fitted, data, tmp_path):
    X, model = data[0], fitted["MLP"]
    place = np.zeros_like(X)
    out = place if kind == "numpy" else write(kind, place, tmp_path / "out")
    assert sklrp.explain(model, cut(X, tmp_path), target=0, out=out) is out
    np.testing.assert_allclose(out[:], model.explain(X, target=0), rtol=1e-4, atol=1e-6)


def test_batches_without_samples_are_passed_over(fitted, data, tmp_path):
    X, model = data[0], fitted["MLP"]
    found, wanted = model.decision_function(cut(X, tmp_path / "a")), model.decision_function(X)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    table = RelevanceTransformer(FrozenEstimator(model), target=0).fit(X, data[1])
    found, wanted = table.transform(cut(X, tmp_path / "b")), table.transform(X)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="yields no batch with samples"):
        model.predict(iter([X[:0], X[:0]]))


@pytest.mark.parametrize("given", ["mask", "weights", "function"])
def test_batches_of_as_many_samples_as_outputs(given, data):
    """What is explained of the outputs is no label of each sample, whatever its length."""
    X, net = data[0][:6].reshape(6, -1), nn.Linear(24, 3)
    target = {
        "mask": np.array([True, False, True]),
        "weights": np.array([0.5, 0.2, 0.3]),
        "function": lambda output: output.sum(1),
    }[given]
    options = {"target": target, "return_details": True}
    found, details = sklrp.explain(net, iter([X[:3], X[3:]]), **options)
    wanted, known = sklrp.explain(net, X, **options)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    assert details.target is known.target is target


def spoil(batches, number, fault):
    """Yield batches of which one is faulty."""
    for k, batch in enumerate(batches):
        if k + 1 == number and fault == "cannot be read":
            raise OSError(5, "Input/output error", "third.nc")
        if k + 1 == number and fault == "NaN":
            batch = np.where(np.arange(batch.size).reshape(batch.shape) % 7, batch, np.nan)
        yield batch[:, 1:] if k + 1 == number and fault == "another shape" else batch


@pytest.mark.parametrize("fault", ["NaN", "another shape", "cannot be read"])
@pytest.mark.parametrize("call", ["explain", "out", "predict", "transform", "module"])
def test_errors_say_which_batch_they_are_of(call, fault, fitted, data):
    """What was explained before is in its place; a note says it in errors of the iterator."""
    X, model, out = data[0], fitted["MLP"], np.full((N, *SHAPE), 7.0)
    calls = {
        "explain": model.explain,
        "out": lambda X: model.explain(X, out=out),
        "predict": model.predict,
        "transform": RelevanceTransformer(FrozenEstimator(model), target=0).fit(*data).transform,
        "module": lambda X: sklrp.explain(nn.Sequential(nn.Linear(6, 1), Sum()), X),
    }
    batches = spoil((X[i : i + 40] for i in range(0, N, 40)), 3, fault)
    where = "batch 3 of X, after 80 samples"
    if fault == "cannot be read":
        with pytest.raises(OSError, match=r"Input/output error: 'third\.nc'") as caught:
            calls[call](batches)
        assert caught.value.__notes__ == [f"{where}, could not be read"]
    else:
        with pytest.raises(ValueError, match=rf"\(In {where}\.\)$"):
            calls[call](batches)
    if call == "out":
        np.testing.assert_allclose(out[:80], model.explain(X[:80]), rtol=1e-4, atol=1e-6)
        assert (out[80:] == 7).all()


class Sum(nn.Module):
    """A score of each sample, whatever its shape."""

    def forward(self, x):
        return x.sum(dim=(1, 2))[:, None]


class Source:
    """Samples of which some come otherwise than announced, as of a file that is cut short."""

    def __init__(self, X, change):
        self.X, self.change = X, change
        self.shape, self.dtype, self.ndim, self.chunks = X.shape, X.dtype, X.ndim, (40, *SHAPE)

    def __len__(self):
        return len(self.X)

    def __getitem__(self, rows):
        return self.change(self.X[rows]) if rows.stop > 80 else self.X[rows]


@pytest.mark.parametrize("call", ["explain", "predict", "fit", "module", "skill_map"])
@pytest.mark.parametrize("change", ["short", "text", "flat", "raises"])
def test_rows_that_are_not_what_was_announced_are_refused(call, change, fitted, data):
    X, y = data[0].astype("float32"), data[1]

    def fail(rows):
        raise RuntimeError("a chunk is broken")

    changes = {
        "short": lambda rows: rows[:-1],
        "text": lambda rows: rows.astype(str),
        "flat": lambda rows: rows.reshape(len(rows), -1),
        "raises": fail,
    }
    calls = {
        "explain": fitted["MLP"].explain,
        "predict": fitted["MLP"].predict,
        "fit": lambda X: MLPClassifier((4,), max_epochs=1, random_state=0).fit(X, y),
        "module": lambda X: sklrp.explain(module(), X, target=0),
        "skill_map": lambda X: skill_map(fitted["MLP"], X, y, n_permutations=19, random_state=0),
    }
    source = Source(X, changes[change])
    if change == "raises":
        with pytest.raises(RuntimeError, match="a chunk is broken") as caught:
            calls[call](source)
        assert "of X could not be read" in caught.value.__notes__[0]
    else:
        with pytest.raises(
            ValueError, match=r"rows .* of X came in the shape .* is damaged, or was"
        ):
            calls[call](source)


def test_batches_that_do_not_fit_are_refused(fitted, data):
    X = data[0]
    with pytest.raises(ValueError, match="out has the length 40, but the batches of X hold at le"):
        sklrp.explain(module(), iter([X[:30], X[30:60]]), out=np.empty((40, *SHAPE)))
    with pytest.raises(ValueError, match="target has the length 70, but the batches of X hold 60"):
        sklrp.explain(module(), iter([X[:30], X[30:60]]), target=np.zeros(70, int))
    with pytest.raises(ValueError, match="yields no batch"):
        fitted["MLP"].predict(iter([]))


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (np.empty((N, 24)), ValueError, r"out has the shape \(150, 24\), but the relevance"),
        (np.empty((N, *SHAPE), int), ValueError, "out must have a floating dtype, got int64"),
        ([0.0], TypeError, "out must be an array that rows can be written to"),
        (np.broadcast_to(0.0, (N, *SHAPE)), ValueError, "out is read-only"),
        ((np.empty((N, *SHAPE)),), TypeError, "out must be an array"),
    ],
)
def test_places_that_do_not_fit_are_refused(out, error, message, fitted, data):
    for model in (module(), fitted["MLP"]):
        with pytest.raises(error, match=message):
            sklrp.explain(model, data[0], out=out)


def test_samples_are_not_written_over(data):
    X = data[0].copy()
    with pytest.raises(ValueError, match="out lies in the memory of X"):
        sklrp.explain(module(), X, out=X)


def test_samples_are_not_written_over_by_another_kind_of_array(data):
    X = data[0].copy()
    for given, out in [
        (torch.from_numpy(X), X),
        (X, torch.from_numpy(X)),
        (torch.from_numpy(X)[:-5], torch.from_numpy(X)[5:]),
    ]:
        with pytest.raises(ValueError, match="out lies in the memory of X"):
            sklrp.explain(module(), given, out=out)
    xr = pytest.importorskip("xarray")
    field = xr.DataArray(X)
    with pytest.raises(ValueError, match="out lies in the memory of X"):
        sklrp.explain(module(), field, out=field)


@pytest.mark.parametrize("kind", ["arrays", "tensors", "file"])
def test_relevance_may_lie_between_samples(kind, data, tmp_path):
    X = data[0]
    expected = sklrp.explain(module(), X)
    both = np.stack([X, X], axis=1)
    if kind == "file":
        np.save(tmp_path / "both.npy", both)
        both = np.load(tmp_path / "both.npy", mmap_mode="r+")
        given = np.load(tmp_path / "both.npy", mmap_mode="r")[:, 0]
    else:
        both = torch.from_numpy(both) if kind == "tensors" else both
        given = both[:, 0]
    sklrp.explain(module(), given, out=both[:, 1])
    np.testing.assert_array_equal(given, X)
    np.testing.assert_allclose(both[:, 1], expected)
    for other in (both[:, :1].squeeze(1), both[:, 0, :, ::1]):
        with pytest.raises(ValueError, match="out lies in the"):
            sklrp.explain(module(), given, out=other)


def open_twice(kind, X, tmp_path):
    """Return samples and a place for relevance: two handles on one array in a file."""
    path = tmp_path / "X.npy"
    if kind in ("memmap", "private", "link"):
        np.save(path, X)
        given, there = np.load(path, mmap_mode="c" if kind == "private" else "r"), path
        if kind == "link":
            there = tmp_path / "other.npy"
            there.symlink_to(path)
        return given, np.load(there, mmap_mode="r+")
    if kind == "views":
        np.save(path, np.concatenate([X, X[:1]]))
        out = np.asarray(np.load(path, mmap_mode="r+"))
        return np.asarray(np.load(path, mmap_mode="r"))[:-1], out[1:]
    if kind in ("h5py", "dask of h5py"):
        dataset = write("h5py", X, tmp_path)
        if kind == "h5py":
            return dataset, dataset.file["X"]
        return pytest.importorskip("dask.array").from_array(dataset), dataset
    array = write("zarr", X, tmp_path)
    if kind == "zarr":
        return array, pytest.importorskip("zarr").open_array(str(tmp_path / "X.zarr"), mode="r+")
    if kind == "dask":
        return pytest.importorskip("dask.array").from_zarr(array), array
    if kind == "memory":
        zarr = pytest.importorskip("zarr")
        group = zarr.group(zarr.storage.MemoryStore())
        group["X"] = X
        return group["X"], group["X"]
    xr = pytest.importorskip("xarray")
    xr.DataArray(X, dims=("time", "a", "b"), name="x").to_zarr(
        tmp_path / "store.zarr", zarr_format=2
    )
    zarr = pytest.importorskip("zarr")
    out = zarr.open_group(str(tmp_path / "store.zarr"))["x"]
    return xr.open_zarr(tmp_path / "store.zarr").x.chunk(time=50), out


@pytest.mark.parametrize(
    "kind",
    [
        *("memmap", "private", "link", "views", "zarr", "h5py", "dask", "dask of h5py", "memory"),
        "DataArray",
    ],
)
@pytest.mark.parametrize("is_small", [False, True])
def test_the_file_of_the_samples_is_not_written_over(kind, is_small, fitted, data, tmp_path):
    given = data[0][:20] if is_small else data[0]
    X, out = open_twice(kind, given, tmp_path)
    for model in (module(), fitted["MLP"]):
        with pytest.raises(ValueError, match=r"out lies in the file of X.*another file"):
            sklrp.explain(model, X, out=out)
    is_read = kind in ("zarr", "h5py", "memory")  # rows of it are in memory, from nowhere known
    for explain in (
        ()
        if is_read
        else (fitted["MLP"].explain, lambda X, out: sklrp.explain(module(), X, out=out))
    ):
        with pytest.raises(ValueError, match="out lies in the file of X"):
            explain(iter([X[:15], X[15:]]), out=out)
    flat = FunctionTransformer(lambda X: np.asarray(X) * 1.0)
    pipeline = make_pipeline(flat, fitted["MLP"])
    with pytest.raises(ValueError, match="out lies in the file of X"):
        sklrp.explain(pipeline, X, out=out)
    np.testing.assert_array_equal(np.asarray(X[:]), given)


def needs_mappings():
    if not os.path.exists(_overlaps._MAPPINGS):
        pytest.skip("the system does not tell which files lie in memory")


def hold_otherwise(kind, X, tmp_path):
    """Return samples and a place for relevance, on one file or memory, held in different ways."""
    path = tmp_path / "X.npy"
    np.save(path, X)
    mapped = [np.load(path, mmap_mode=mode) for mode in ("r", "r+")]
    if kind == "tensor of a memmap":
        return torch.from_numpy(np.load(path, mmap_mode="r+")), mapped[1]
    if kind == "into a tensor of a memmap":
        return mapped[0], torch.from_numpy(mapped[1])
    if kind == "tensors of files":
        X.tofile(tmp_path / "X.bin")
        return [
            torch.from_file(
                str(tmp_path / "X.bin"), shared=True, size=X.size, dtype=torch.from_numpy(X).dtype
            ).reshape(X.shape)
            for _ in range(2)
        ]
    if kind == "renamed":
        path.rename(tmp_path / "other.npy")
        return mapped[0], np.load(tmp_path / "other.npy", mmap_mode="r+")
    if kind == "no name":
        with tempfile.TemporaryFile() as file:
            file.write(X.tobytes())
            return [np.memmap(file, X.dtype, mode, shape=X.shape) for mode in ("r", "r+")]
    if kind == "rows":
        return list(mapped[0]), mapped[1]
    if kind in ("rows in memory", "rows of a tensor"):
        out = X.copy() if kind == "rows in memory" else torch.from_numpy(X.copy())
        return list(out), out
    if kind == "npy stack":
        array = pytest.importorskip("dask.array")
        array.to_npy_stack(tmp_path / "stack", array.from_array(X, chunks=(len(X), -1, -1)))
        out = np.load(tmp_path / "stack" / "0.npy", mmap_mode="r+")
        return array.from_npy_stack(tmp_path / "stack"), out
    if kind == "wrapper":
        wrapper = Rows(X.copy())
        return wrapper, wrapper
    if kind.startswith("bytes"):
        dataset = write("h5py", X, tmp_path).file.create_dataset("in one piece", data=X)
        dataset.file.flush()
        file, offset = dataset.file.filename, dataset.id.get_offset()
        there = np.memmap(file, X.dtype, "r+", offset, X.shape)
        return (there, dataset) if kind == "bytes of h5py" else (dataset, there)
    if kind == "HDF5 in memory":
        h5py = pytest.importorskip("h5py")
        dataset = h5py.File(io.BytesIO(), "w").create_dataset("X", data=X)
        return dataset, dataset.file["X"]
    if kind == "virtual":
        h5py = pytest.importorskip("h5py")
        dataset = write("h5py", X, tmp_path)
        layout = h5py.VirtualLayout(X.shape, X.dtype)
        layout[:] = h5py.VirtualSource(dataset)
        return dataset.file.create_virtual_dataset("V", layout), dataset
    zarr = pytest.importorskip("zarr")
    if kind == "memory in dask":
        group = zarr.group(zarr.storage.MemoryStore())
        group["X"] = X
        return pytest.importorskip("dask.array").from_zarr(group["X"]), group["X"]
    if kind == "zip":
        array = zarr.create_array(zarr.storage.ZipStore(tmp_path / "X.zip", mode="w"), data=X)
        return array, array
    array = write("zarr", X, tmp_path)
    if kind == "path in dask":
        return open_by_path(tmp_path / "X.zarr"), array
    pytest.importorskip("fsspec")
    store = zarr.storage.FsspecStore.from_url(f"file://{tmp_path}")
    out = zarr.open_array(store, path="X.zarr", mode="r+")
    return (array, out) if kind == "store of fsspec" else (out, array)


@pytest.mark.parametrize(
    "kind",
    [
        *("tensor of a memmap", "into a tensor of a memmap", "tensors of files", "renamed"),
        *("no name", "rows", "rows in memory", "rows of a tensor", "npy stack", "wrapper"),
        *("bytes of h5py", "bytes over h5py", "virtual", "memory in dask", "path in dask"),
        *("store of fsspec", "from fsspec", "HDF5 in memory", "zip"),
    ],
)
def test_samples_are_found_however_they_are_held(kind, data, tmp_path):
    X, out = hold_otherwise(kind, data[0], tmp_path)
    if ("tensor" in kind and "rows" not in kind) or kind in ("renamed", "no name"):
        needs_mappings()
    with pytest.raises(ValueError, match=r"out (lies in the|is what X is read from)"):
        sklrp.explain(module(), X, out=out)
    if kind == "tensor of a memmap":
        with pytest.raises(ValueError, match="out lies in the file of X"):
            sklrp.explain(module(), (X[k : k + 15] for k in range(0, len(X), 15)), out=out)


class Rows:
    """An array of a kind that no one knows."""

    def __init__(self, values):
        self.values, self.shape, self.dtype = values, values.shape, values.dtype
        self.ndim = values.ndim

    def __len__(self):
        return len(self.values)

    def __getitem__(self, rows):
        return self.values[rows]

    def __setitem__(self, rows, values):
        self.values[rows] = values

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype)


def test_arrays_that_hold_each_other_are_looked_through_once(data):
    X, twin = Rows(data[0].copy()), Rows(data[0].copy())
    X.twin, twin.twin = twin, X
    out = np.empty_like(data[0])
    sklrp.explain(module(), X, out=out)
    np.testing.assert_allclose(out, sklrp.explain(module(), data[0]))
    for rows in (X, twin):
        with pytest.raises(ValueError, match="out lies in the memory of X"):
            sklrp.explain(module(), X, out=rows.values)


@pytest.mark.parametrize("kind", ["memmap", "private", "link", "views"])
def test_mapped_files_are_known_by_name_where_the_system_does_not_tell(
    kind, data, tmp_path, monkeypatch
):
    monkeypatch.setattr(_overlaps, "_MAPPINGS", str(tmp_path / "nothing"))
    X, out = open_twice(kind, data[0], tmp_path)
    with pytest.raises(ValueError, match=r"out lies in the file of X.*another file"):
        sklrp.explain(module(), X, out=out)


def test_what_is_another_file_by_now_is_written(data, tmp_path):
    needs_mappings()
    path = tmp_path / "X.npy"
    np.save(path, data[0])
    X = np.load(path, mmap_mode="r")
    path.unlink()
    np.save(path, data[0])
    out = np.load(path, mmap_mode="r+")
    sklrp.explain(module(), X, out=out)
    np.testing.assert_allclose(out, sklrp.explain(module(), data[0]))
    np.testing.assert_array_equal(X, data[0])


def test_coordinates_may_be_shared(data):
    xr = pytest.importorskip("xarray")
    X = xr.DataArray(data[0], dims=("time", "a", "b"), coords={"time": np.arange(len(data[0]))})
    out = xr.zeros_like(X)
    sklrp.explain(module(), X, out=out)
    np.testing.assert_allclose(out, sklrp.explain(module(), data[0]))


def test_another_part_of_a_file_is_written(data, tmp_path):
    X = data[0]
    expected = sklrp.explain(module(), X)
    np.save(tmp_path / "X.npy", np.stack([X, X]))
    both = np.load(tmp_path / "X.npy", mmap_mode="r+")
    given = np.load(tmp_path / "X.npy", mmap_mode="r")[0]
    np.testing.assert_allclose(sklrp.explain(module(), given, out=both[1]), expected)
    np.testing.assert_array_equal(given, X)
    private = np.load(tmp_path / "X.npy", mmap_mode="c")
    np.testing.assert_allclose(sklrp.explain(module(), given, out=private[0]), expected)
    np.testing.assert_array_equal(given, X)
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "X.h5", "w") as file:
        file["X"], out = X, file.create_dataset("out", X.shape, X.dtype)
        np.testing.assert_allclose(sklrp.explain(module(), file["X"], out=out)[:], expected)
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(tmp_path / "X.zarr"), mode="w")
    group["X"] = X
    out = group.create_array("out", shape=X.shape, dtype=X.dtype)
    np.testing.assert_allclose(sklrp.explain(module(), group["X"], out=out)[:], expected)


@pytest.mark.parametrize("name", ["MLP", "regressor"])
def test_tensors_are_filled_as_arrays_are(name, fitted, data):
    X = data[0]
    for target in (None, "all"):
        expected = fitted[name].explain(X, target=target)
        out = torch.empty(expected.shape)
        assert fitted[name].explain(X, target=target, out=out) is out
        np.testing.assert_array_equal(out.numpy(), expected)
    with pytest.raises(
        ValueError, match=r"out has the shape \(150, 24\), but the relevance \(150,"
    ):
        fitted[name].explain(X, out=torch.empty(N, 24))


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (torch.empty(N, *SHAPE, device="meta"), "out must be a dense tensor that holds values"),
        (
            torch.zeros(N, *SHAPE).to_sparse(),
            r"dense tensor .*make it by torch\.empty\(150, 4, 6\)",
        ),
        (torch.empty(N, 1, 6).expand(N, *SHAPE), r"out is expanded, .*pass out\.clone\(\)"),
        (torch.empty(N, 24), r"out has the shape \(150, 24\), but the relevance"),
    ],
)
def test_tensors_that_cannot_be_filled_are_refused(out, message, fitted, data):
    for model in (module(), fitted["MLP"]):
        with pytest.raises(ValueError, match=message):
            sklrp.explain(model, data[0], out=out)


@pytest.mark.parametrize("kind", KINDS)
def test_faults_are_told_when_they_are_read(kind, fitted, data, tmp_path):
    X = data[0].copy()
    X[130, 0, 0] = np.nan
    stored = write(kind, X, tmp_path)
    with pytest.raises(ValueError, match="X contains NaN"):
        fitted["MLP"].explain(stored)
    with pytest.raises(ValueError, match="X contains NaN"):
        fitted["MLP"].predict(stored)
    with pytest.raises(ValueError, match="samples that were read together, has 1 values that"):
        sklrp.explain(module(), stored)
    with pytest.raises(ValueError, match="X has 20 features, but"):
        fitted["MLP"].explain(write(kind, X[..., 1:], tmp_path / "other"))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_the_array(kind, data, tmp_path):
    X = data[0]
    stored = as_stored(write(kind, X, tmp_path))
    assert isinstance(stored, Stored)
    assert len(stored.edges) > 3
    assert (stored.shape, stored.dtype, stored.ndim) == (X.shape, X.dtype, X.ndim)
    rng = np.random.default_rng(0)
    mask = rng.random(N) < 0.3
    rows = [
        slice(None), slice(3, 140), slice(-5, None), slice(90, 10), slice(5, 100, 7), 0, -1,
        [0, -1, 0, 0], rng.permutation(N), mask, torch.tensor([3, 149, 3]), range(2, 9), [],
    ]  # fmt: skip
    for one in rows:
        known = X[np.asarray(one, int)] if isinstance(one, range | list) else X[one]
        assert np.array_equal(stored[one], known)
    double = stored.map(lambda rows: 2.0 * np.asarray(rows).reshape(len(rows), -1))
    assert np.array_equal(np.asarray(double), 2 * X.reshape(N, -1))
    assert np.array_equal(np.concatenate([b for _, b in stored.blocks()]), X)
    assert (stored.max(), stored.min()) == (X.max(), X.min())


def test_what_is_small_or_in_memory_is_an_array(data, tmp_path, monkeypatch):
    X = data[0]
    assert not any(map(is_stored, [X, torch.from_numpy(X), X.tolist(), np.float32(0), None]))
    assert find_mapping(X) is None
    stored = write("memmap", X, tmp_path)
    assert find_mapping(stored[3:].T) is not None
    monkeypatch.setattr("sklrp._stored.BLOCK_BYTES", X.nbytes)
    assert not is_stored(stored)


@pytest.mark.sweep(5)
@pytest.mark.parametrize("kind", [*KINDS, "generator"])
@pytest.mark.parametrize(
    "options",
    [
        {"aggregate": "row", "normalize": "l1"},
        {"aggregate": "column", "normalize": "score", "target": "all"},
        {"normalize": "max", "target": 1},
        {},
    ],
)
def test_transform_reads_part_by_part(kind, options, fitted, data, tmp_path):
    X, y = data
    relevance = RelevanceTransformer(FrozenEstimator(fitted["CNN"]), **options).fit(X, y)
    wanted = relevance.transform(X)
    if kind == "generator":
        found = relevance.transform(X[i : i + 64] for i in range(0, N, 64))
    else:
        found = relevance.transform(write(kind, X, tmp_path))
    np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=1e-6)
    assert found.dtype == wanted.dtype


def fit_both(model, stored, X, y, **options):
    return [clone(model).fit(samples, y, **options) for samples in (stored, X)]


@pytest.mark.sweep(5)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_fit_reads_part_by_part(kind, name, data, tmp_path):
    X, y = data
    weight = np.linspace(0.5, 2.0, N) if kind in ("memmap", "zarr") else None
    stored = write(kind, X, tmp_path)
    found, known = fit_both(MODELS[name], stored, X, y, sample_weight=weight)
    assert np.array_equal(found.predict(X), known.predict(X))
    assert np.array_equal(found.explain(X), known.explain(X))
    assert found.input_range_ == known.input_range_


@pytest.mark.parametrize("kind", ["memmap", "zarr"])
def test_early_stopping_and_parts(kind, data, tmp_path):
    X, y = data
    stored = write(kind, X, tmp_path)
    model = MLPClassifier((8,), max_epochs=4, early_stopping=True, random_state=0)
    found, known = fit_both(model, stored, X, y)
    assert np.array_equal(found.history_[:, "valid_loss"], known.history_[:, "valid_loss"])
    parts = [clone(MODELS["MLP"]).partial_fit(samples, y) for samples in (stored, X)]
    assert np.array_equal(parts[0].explain(X), parts[1].explain(X))


@pytest.mark.parametrize("kind", ["zarr", "dask"])
def test_samples_are_mixed_in_windows(kind, data, tmp_path, monkeypatch):
    monkeypatch.setattr("sklrp.classifiers.batches._WINDOW_BYTES", 2**12)
    stored = as_stored(write(kind, data[0].reshape(N, -1), tmp_path))
    order = np.arange(N)
    torch.manual_seed(0)
    iterator = BatchIterator(Dataset(stored, torch.from_numpy(order)), 20, shuffle=True)
    seen = []
    for _ in range(2):
        batches = list(iterator)
        assert [len(y) for _, y in batches] == [20] * 7 + [10]
        for X, y in batches:
            assert np.array_equal(X.numpy(), stored[y])
        seen.append(torch.cat([y for _, y in batches]).numpy())
        assert np.array_equal(np.sort(seen[-1]), order)
    assert not np.array_equal(*seen)
    assert np.mean(np.abs(np.diff(seen[0])) == 1) < 0.2  # mixed within windows too


class Pairs(torch.utils.data.Dataset):
    def __init__(self, X, y=None):
        self.X, self.y = X, y

    def __len__(self):
        return len(self.X)

    def __getitem__(self, row):
        x = torch.from_numpy(self.X[row].copy())
        return x if self.y is None else (x, self.y[row])


@pytest.mark.parametrize("kind", ["tensors", "skorch", "items", "items without y"])
@pytest.mark.parametrize("name", ["MLP", "regressor", "ESN"])
def test_fit_takes_data_sets(kind, name, data):
    X, y = data
    sets = {
        "tensors": (TensorDataset(torch.from_numpy(X), torch.from_numpy(y)), None),
        "skorch": (Dataset(X, y), None),
        "items": (Pairs(X, y), None),
        "items without y": (Pairs(X), y),
    }
    samples, targets = sets[kind]
    found = clone(MODELS[name]).fit(samples, targets)
    assert np.array_equal(found.explain(X), clone(MODELS[name]).fit(X, y).explain(X))


class Lines(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield from ()


@pytest.mark.parametrize(
    ("samples", "error", "message"),
    [
        (DataLoader(Pairs(np.ones((4, 2)))), TypeError, "pass X.dataset"),
        (iter([1]), TypeError, "call partial_fit"),
        (Lines(), TypeError, "X is a Lines, which yields its batches once"),
        (Pairs(np.ones((4, 2))), ValueError, "items have no target, and y is None"),
        (Pairs(np.ones((0, 2))), ValueError, "no samples"),
    ],
)
def test_data_sets_that_cannot_be_used_are_refused(samples, error, message):
    with pytest.raises(error, match=message):
        MLPClassifier().fit(samples)


def test_faults_are_told_before_anything_is_trained(data, tmp_path, monkeypatch):
    X, y = data[0].copy(), data[1]
    X[-1, -1, -1] = np.inf
    stored = write("memmap", X, tmp_path)
    monkeypatch.setattr("sklrp.classifiers.net.TrainingNet.train", pytest.fail)
    for model in (MODELS["MLP"], MODELS["regressor"]):
        with pytest.raises(ValueError, match="X contains NaN or infinity"):
            clone(model).fit(stored, y)
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            clone(model).fit(stored, y[1:])


def test_cross_fitting_reads_part_by_part(data, tmp_path):
    X, y = data
    relevance = RelevanceTransformer(MODELS["MLP"], cv=2, aggregate="row", random_state=0)
    relevance.set_params(estimator__max_epochs=1)
    found = relevance.fit_transform(write("memmap", X, tmp_path), y)
    np.testing.assert_allclose(found, relevance.fit_transform(X, y), rtol=1e-5)


@pytest.fixture
def in_files(monkeypatch):
    """Let contributions and what is made of them lie in files, however small they are."""
    for name in ("_stored", "skill.permutations", "skill.block_lengths", "skill.asked_models"):
        monkeypatch.setattr(f"sklrp.{name}.MEMORY_BYTES", 2**10)


def regression(X):
    return np.stack([X[:, 0, 0] + X[:, 1, 2], X[:, 2, 2]], axis=1)


@pytest.mark.sweep(3)
@pytest.mark.parametrize("kind", ["memmap", "zarr", "DataArray", "array"])
@pytest.mark.parametrize("name", ["MLP", "three classes", "regressor", "joint"])
def test_skill_map_reads_part_by_part(kind, name, data, tmp_path, request):
    X, y = data
    if name == "regressor":
        y, model = regression(X), clone(MODELS["regressor"])
    elif name == "joint":
        y, model = regression(X)[:, None], module()
    else:
        y = y if name == "MLP" else y + (X[:, 2, 2] > 1)
        model = clone(MODELS["MLP"])
    if name == "joint":
        model = nn.Sequential(nn.Flatten(), nn.Linear(24, 2), nn.Unflatten(1, (1, 2)))
    else:
        model.set_params(max_epochs=10).fit(X[100:], y[100:])
    options = {"X_train": X[90:], "n_permutations": 99, "n_draws": 8, "random_state": 0}
    with pytest.warns(UserWarning, match="10 of 100 samples of X are among X_train"):
        wanted = skill_map(model, X[:100], y[:100], **options)
    request.getfixturevalue("in_files")
    stored = X[:100] if kind == "array" else write(kind, X[:100], tmp_path)
    with pytest.warns(UserWarning, match="10 of 100 samples of X are among X_train"):
        found = skill_map(model, stored, y[:100], **options)
    scale = np.abs(wanted.skill).max()
    np.testing.assert_allclose(found.skill, wanted.skill, atol=1e-4 * scale)
    np.testing.assert_allclose(found.z, wanted.z, atol=1e-3)
    np.testing.assert_allclose(found.p_value, wanted.p_value, atol=0.03)
    assert found.exchange == wanted.exchange


@pytest.mark.sweep(1)
@pytest.mark.parametrize("kind", ["memmap", "zarr"])
def test_diagnose_reads_part_by_part(kind, data, tmp_path, request):
    X, y = data
    model = clone(MODELS["MLP"]).set_params(max_epochs=20).fit(X[:50], y[:50])
    options = {"X_train": X[:50], "max_samples": 40, "n_permutations": 3, "random_state": 0}
    wanted = diagnose(model, X[50:], y[50:], **options)
    request.getfixturevalue("in_files")
    found = diagnose(model, write(kind, X[50:], tmp_path), y[50:], **options)
    assert found.verdict == wanted.verdict
    assert list(found.tests) == list(wanted.tests)
    for name, test in found.tests.items():
        other = wanted.tests[name]
        np.testing.assert_allclose(test.statistic, other.statistic, rtol=1e-2, atol=1e-3)


def test_an_even_choice_of_many_samples_holds_those_explained(data, monkeypatch):
    monkeypatch.setattr("sklrp.diagnostics.explained._BYTES_AT_ONCE", 0)
    monkeypatch.setattr("sklrp.diagnostics.explained._FEWEST_AT_ONCE", 30)
    X, y = data
    model = clone(MODELS["MLP"]).fit(X, y)
    explained = Explained(model, X, y, max_samples=20, random_state=0)
    assert 30 <= len(explained.some_X) <= 50
    assert np.array_equal(explained.some_X[explained.places], explained.X)
    assert len(explained.some_pool) == 30
    report = diagnose(model, X, y, max_samples=20, n_permutations=3, random_state=0)
    assert {"constant", "outliers"} <= set(report.tests)
    assert any("of 150 samples, at even distances" in said for said in report.assumptions)


def test_large_arrays_lie_in_files(monkeypatch):
    monkeypatch.setattr("sklrp._stored.MEMORY_BYTES", 2**10)
    small, large = make_zeros((4, 4), np.float32), make_zeros((64, 64), np.float32)
    assert find_mapping(small) is None
    assert find_mapping(large) is not None
    assert large.shape == (64, 64)
    assert not large.any()
    large[5] = 1.0
    release(large)
    assert large.sum() == 64


@pytest.fixture(scope="module")
def long_samples(tmp_path_factory):
    """Samples of 32 MiB in a file, two classes, and a network that knows a few of them."""
    path = tmp_path_factory.mktemp("long") / "X.npy"
    X = np.lib.format.open_memmap(path, "w+", np.float32, (8192, 1024))
    rng = np.random.default_rng(0)
    for first in range(0, len(X), 1024):
        X[first : first + 1024] = rng.normal(size=(1024, 1024))
    y = np.array(X[:, 0] > 0).astype(int)
    del X
    X = np.load(path, mmap_mode="r")
    return X, y, MLPClassifier((8,), max_epochs=2, random_state=0).fit(X[:200], y[:200])


REGIONS = np.arange(1024) // 512
ENTRIES = {
    "explain": lambda clf, X, y, out: clf.explain(X, out=out),
    "generator": lambda clf, X, y, out: clf.explain(
        (np.array(X[i : i + 64]) for i in range(0, len(X), 64)), out=out
    ),
    "predict": lambda clf, X, y, out: clf.predict(X),
    "transform": lambda clf, X, y, out: (
        RelevanceTransformer(FrozenEstimator(clf), aggregate=REGIONS).fit(X[:9]).transform(X)
    ),
    "fit": lambda clf, X, y, out: MLPClassifier((8,), max_epochs=1, random_state=0).fit(X, y),
    "ESN": lambda clf, X, y, out: ESNClassifier(9, input_shape=(4, 256), random_state=0).fit(X, y),
    "skill_map": lambda clf, X, y, out: skill_map(
        clf, X[:4096], y[:4096], n_draws=2, n_permutations=19, random_state=0
    ),
}


@pytest.mark.sweep(1)
@pytest.mark.parametrize("entry", ENTRIES)
def test_memory_does_not_grow_with_the_file(entry, long_samples, tmp_path, monkeypatch):
    X, y, clf = long_samples
    for name in ("_stored.BLOCK", "propagation.results.BLOCK"):
        monkeypatch.setattr(f"sklrp.{name}_BYTES", 2**20)
    for name in ("_stored", "skill.permutations", "skill.block_lengths", "skill.asked_models"):
        monkeypatch.setattr(f"sklrp.{name}.MEMORY_BYTES", 2**20)
    # A chunk may take more than the file, which is small.
    budgets = {"cpu": _Budget(2**20, 2**23, 2**16)}
    monkeypatch.setattr("sklrp.propagation.sizes._BUDGETS", budgets)
    out = np.lib.format.open_memmap(tmp_path / "R.npy", "w+", np.float32, X.shape)
    tracemalloc.start()
    ENTRIES[entry](clf, X, y, out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The samples take 32 MiB, and half of them in skill_map, whose table of 1024 cells by 1024
    # cells takes 8 MiB whatever the number of samples.
    assert peak < (32 if entry == "skill_map" else 16) * 2**20


def test_batches_are_refused_where_samples_are_needed_twice(fitted, data):
    X, y = data
    for ask in (
        lambda: skill_map(fitted["MLP"], iter([X]), y),
        lambda: diagnose(fitted["MLP"], X, y, X_train=iter([X])),
        lambda: RelevanceTransformer(fitted["MLP"]).fit(iter([X]), y),
        lambda: sklrp.plan(module(), X=iter([X])),
    ):
        with pytest.raises(TypeError, match="a list_iterator, which yields its samples once"):
            ask()


def test_early_stopping_reads_a_block_once_for_each_pass(data, monkeypatch):
    """Whatever the order is in which a splitter gives the rows of a part."""
    monkeypatch.setattr("sklrp.classifiers.batches._WINDOW_BYTES", 2**12)
    X, y = data
    passed = []

    def read(start, stop):
        passed.append((start, stop))
        return X[start:stop]

    edges = as_stored(Stored(read, np.arange(0, N + 1, 10), X.shape, X.dtype)).edges
    stored = Stored(read, edges, X.shape, X.dtype)
    model = MLPClassifier((8,), max_epochs=3, early_stopping=True, random_state=0)
    model.fit(stored, y)
    assert len(passed) < 8 * (len(edges) - 1)  # 83, and 238 in the order of a splitter


def test_samples_are_traced_only_where_relevance_is_written(monkeypatch, data, fitted):
    def trace(X):
        raise AssertionError("X was looked through")

    monkeypatch.setattr("sklrp._overlaps._list_held", trace)
    X, _ = data
    fitted["MLP"].explain(X[:3])
    sklrp.explain(fitted["MLP"], X[:3])
    with pytest.raises(AssertionError, match="looked through"):
        fitted["MLP"].explain(X[:3], out=np.empty_like(X[:3]))
