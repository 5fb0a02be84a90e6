"""Files that ask for more than they hold: refused before memory or time goes into them."""

import json
import os
import struct

import numpy as np
import pytest
from safetensors import safe_open
from sklearn.frozen import FrozenEstimator

import sklrp
from sklrp import CNNClassifier, ESNClassifier, LSTMClassifier, MLPClassifier, RelevanceTransformer
from tests.fuzz_files import try_mutant
from tests.helpers import limits
from tests.helpers.forging import rewrite, write

rng = np.random.default_rng(0)
X = rng.normal(size=(30, 12))
Y = np.where(X[:, 0] > 0, "warm", "cold")


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """Return the bytes of a saved network of each kind, and of a transformer."""
    models = {
        "mlp": MLPClassifier((4,), max_epochs=1, random_state=0),
        "cnn": CNNClassifier((2,), max_epochs=1, random_state=0),
        "lstm": LSTMClassifier(3, max_epochs=1, random_state=0),
        "esn": ESNClassifier(5, random_state=0),
        "transformer": RelevanceTransformer(MLPClassifier((4,), max_epochs=1, random_state=0)),
    }
    found = {}
    for name, model in models.items():
        path = tmp_path_factory.mktemp("saved") / name
        sklrp.save(model.fit(X, Y), path)
        found[name] = path.read_bytes()
    return found


@pytest.fixture
def bounded():
    """Fail where a test takes 100 MB more than it had, or two seconds of the processor."""
    with limits.bounded(seconds=2):
        yield


def set_param(name, value):
    def change(manifest, arrays):
        manifest["estimator"]["params"][name] = value

    return change


def set_attribute(name, value):
    def change(manifest, arrays):
        manifest["estimator"]["attributes"][name] = value

    return change


def set_array(name, value):
    def change(manifest, arrays):
        arrays[name].flat[0] = value

    return change


def change_class(manifest, arrays):
    manifest["estimator"]["estimator"]["class"] = "LSTMClassifier"
    manifest["estimator"]["estimator"]["params"] = {}


FORGED = {
    "width of a text": (
        "mlp",
        set_attribute("classes_", {"texts": [f"str{32 * 2**28}", [2], ["cold", "warm"]]}),
    ),
    "many wide texts": (
        "mlp",
        set_attribute("classes_", {"texts": [f"str{32 * 31000}", [2], ["cold", "warm"]]}),
    ),
    "layers of an LSTM": ("lstm", set_param("num_layers", 10**6)),
    "hidden layers": ("mlp", set_param("hidden_layer_sizes", {"tuple": [4] * 10**5})),
    "hidden layers as a list": ("cnn", set_param("hidden_layer_sizes", [4] * 10**5)),
    "channels": ("cnn", set_param("channels", {"tuple": [2] * 10**5})),
    "units": ("mlp", set_param("hidden_layer_sizes", {"tuple": [10**9]})),
    "kernel": ("cnn", set_param("kernel_size", 10**9)),
    "units of an LSTM": ("lstm", set_param("hidden_size", 10**9)),
    "reservoir": ("esn", set_param("n_reservoir", 10**7)),
    "features": ("mlp", set_attribute("n_features_in_", 10**12)),
    "a NaN weight": ("mlp", set_array("module.dense1.weight", np.nan)),
    "an infinite weight": ("esn", set_array("module.reservoir.weight_res", np.inf)),
    "the range turned": ("mlp", set_attribute("input_range_", {"tuple": [5.0, -5.0]})),
    "workers": ("transformer", set_param("n_jobs", 10**5)),
    "another class": ("transformer", change_class),
    "a long name": ("mlp", set_attribute("a" * 10**6, 1)),
    "a long class": (
        "mlp",
        lambda manifest, _: manifest["estimator"].update({"class": "M" * 10**6}),
    ),
    "many unknown entries": (
        "mlp",
        lambda manifest, _: manifest.update({f"entry{i}": 1 for i in range(10**5)}),
    ),
}


@pytest.mark.sweep(4)
@pytest.mark.parametrize("name", FORGED)
def test_refused_in_short(name, contents, tmp_path, bounded):
    model, change = FORGED[name]
    path = tmp_path / "model"
    path.write_bytes(contents[model])
    rewrite(path, change)
    with pytest.raises(ValueError, match="model") as caught:
        sklrp.load(path)
    assert len(str(caught.value)) < 700 + len(str(path))


def deep(n):
    return "[" * n + "]" * n


TEXTS = {
    "JSON of 10 000 levels": lambda t: t[:-1] + f', "x": {deep(10**4)}}}',
    "a key that comes twice": lambda t: t[:-1] + ', "format": 1}',
    "a parameter that comes twice": lambda t: t.replace('"l1":', '"l1": 0.5, "l1":', 1),
    "beyond any float": lambda t: t.replace('"l1": 0.0', '"l1": 1e999'),
    "below any float": lambda t: t.replace('"l1": 0.0', '"l1": -1e999'),
    "an integer of 4 000 digits": lambda t: t.replace('"l1": 0.0', '"l1": ' + "9" * 4000),
    "an integer of a million digits": lambda t: t.replace('"l1": 0.0', '"l1": ' + "9" * 10**6),
    "NaN": lambda t: t.replace('"l1": 0.0', '"l1": NaN'),
    "minus Infinity": lambda t: t.replace('"l1": 0.0', '"l1": -Infinity'),
    "half a surrogate": lambda t: t.replace('"adam"', r'"\ud800adam"'),
    "a class of half a surrogate": lambda t: t.replace('"MLPClassifier"', r'"\udfffMLP"'),
    "a class that clears the screen": lambda t: t.replace('"MLPClassifier"', r'"\u001b[2J\n"'),
    "a class with a path": lambda t: t.replace('"MLPClassifier"', '"../../MLPClassifier"'),
    "a class of Python": lambda t: t.replace('"MLPClassifier"', '"__class__"'),
    "a mark before JSON": lambda t: "\ufeff" + t,
    "more behind JSON": lambda t: t + " {}",
    "a flag for a number": lambda t: t.replace('"format": 1', '"format": true'),
    "null": lambda t: "null",
    "a list": lambda t: "[]",
    "nothing": lambda t: " ",
}


@pytest.mark.parametrize("name", TEXTS)
def test_refused_by_the_text(name, contents, tmp_path, bounded):
    path = tmp_path / "model"
    path.write_bytes(contents["mlp"])
    with safe_open(path, "np") as file:
        text = file.metadata()["sklrp"]
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    changed = TEXTS[name](text)
    assert changed != text
    write(path, changed, arrays)
    with pytest.raises(ValueError, match="model") as caught:
        sklrp.load(path)
    assert len(str(caught.value)) < 700 + len(str(path))
    assert str(caught.value).isprintable()


_FINE = {"refused", "predicts"}


def test_random_mutants_are_refused_or_predict(tmp_path):
    answers = [try_mutant(seed, tmp_path / "mutant") for seed in range(150)]
    poor = {seed: told for seed, told in enumerate(answers) if told[1] not in _FINE}
    assert not poor
    assert {told[1] for told in answers} == _FINE


def _header(content, change):
    """Return a file with a changed header, which keeps to nothing else."""
    n_header = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + n_header])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + n_header :]


def _long_length(header):
    header[next(key for key in header if key != "__metadata__")]["shape"] = ["9" * 10**6]


def _huge_tensor(header):
    name = next(key for key in header if key != "__metadata__")
    header[name]["shape"] = [10**12]
    header[name]["data_offsets"][1] = 10**13


def _tensors(header):
    return [entry for key, entry in header.items() if key != "__metadata__"]


def _change_first(**entries):
    return lambda header: _tensors(header)[0].update(entries)


def _overlap(header):
    first, second = _tensors(header)[:2]
    second["data_offsets"] = first["data_offsets"]


def _text_header(change):
    """Return a file with another text for its header."""

    def forge(content):
        n_header = struct.unpack("<Q", content[:8])[0]
        text = change(content[8 : 8 + n_header])
        return struct.pack("<Q", len(text)) + text + content[8 + n_header :]

    return forge


_EMPTY = {"dtype": "F64", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}
HEADERS = {
    "tensors that overlap": lambda c: _header(c, _overlap),
    "no values in a huge shape": lambda c: _header(c, lambda h: h.update(x=_EMPTY)),
    "a shape beyond any size": lambda c: _header(c, _change_first(shape=[2**32, 2**32])),
    "a negative shape": lambda c: _header(c, _change_first(shape=[-4, -12])),
    "100 000 axes": lambda c: _header(c, _change_first(shape=[1] * 10**5)),
    "another dtype": lambda c: _header(c, _change_first(dtype="I8")),
    "a dtype that nobody knows": lambda c: _header(c, _change_first(dtype="X" * 10**6)),
    "an end before the start": lambda c: _header(c, _change_first(data_offsets=[8, 0])),
    "a negative start": lambda c: _header(c, _change_first(data_offsets=[-8, 0])),
    "an end beyond any size": lambda c: _header(c, _change_first(data_offsets=[0, 2**63])),
    "metadata that comes twice": _text_header(
        lambda t: t.rstrip()[:-1] + b', "__metadata__": {}}'
    ),
    "a header of 100 000 levels": _text_header(lambda t: b'{"a":' * 10**5 + b"1" + b"}" * 10**5),
    "a header in UTF-16": _text_header(lambda t: t.decode().encode("utf-16")),
    "a mark before the header": _text_header(lambda t: b"\xef\xbb\xbf" + t),
    "NUL behind the header": _text_header(lambda t: t + b"\0\0"),
    "an integer of 5 000 digits": _text_header(
        lambda t: t.rstrip()[:-1] + b', "x": %s}' % (b"9" * 5000)
    ),
    "a length of one less": lambda c: struct.pack("<Q", struct.unpack("<Q", c[:8])[0] - 1) + c[8:],
    "the file twice": lambda c: c + c,
    "a header longer than the file": lambda c: struct.pack("<Q", 2**62) + c[8:],
    "an empty file": lambda c: b"",
    "eight bytes": lambda c: c[:8],
    "a header that is none": lambda c: struct.pack("<Q", 100) + b"[" * 100 + c,
    "a header without entries": lambda c: struct.pack("<Q", 2) + b"[]",
    "entries of another kind": lambda c: _header(c, lambda h: h.update(x=3)),
    "metadata of another kind": lambda c: _header(c, lambda h: h.update(__metadata__=[1])),
    "a long text for a length": lambda c: _header(c, _long_length),
    "a tensor beyond the end": lambda c: _header(c, _huge_tensor),
    "more behind the end": lambda c: c + b"0" * 1000,
}


@pytest.mark.parametrize("name", HEADERS)
def test_refused_by_the_header(name, contents, tmp_path, bounded):
    path = tmp_path / "model"
    path.write_bytes(HEADERS[name](contents["mlp"]))
    with pytest.raises(ValueError, match="safetensors") as caught:
        sklrp.load(path)
    assert len(str(caught.value)) < 700 + len(str(path))


def test_a_file_of_a_terabyte_is_not_read(contents, tmp_path, bounded):
    path = tmp_path / "model"
    path.write_bytes(contents["mlp"])
    os.truncate(path, 2**40)  # sparse: it takes no place on the disk
    with pytest.raises(ValueError, match="its header says"):
        sklrp.load(path)


def test_pipes_and_devices_are_refused(tmp_path, bounded):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ValueError, match="no regular file"):
            sklrp.load(path)


def test_long_labels_come_back(tmp_path):
    labels = np.where(Y == "warm", "w" * 1000, "c").astype("U5000")
    clf = MLPClassifier((4,), max_epochs=1, random_state=0).fit(X, labels)
    sklrp.save(clf, tmp_path / "model")
    assert list(sklrp.load(tmp_path / "model").classes_) == ["c", "w" * 1000]


def test_a_transformer_of_a_frozen_network_comes_back(tmp_path):
    clf = MLPClassifier((4,), max_epochs=1, random_state=0).fit(X, Y)
    sklrp.save(RelevanceTransformer(FrozenEstimator(clf)).fit(X, Y), tmp_path / "model")
    assert sklrp.load(tmp_path / "model").transform(X).shape == X.shape


def test_networks_of_nan_do_not_predict():
    clf = MLPClassifier((4,), max_epochs=1, random_state=0).fit(X, Y)
    clf.module_[0].weight.data[0] = np.nan
    for method in (clf.predict, clf.predict_proba, clf.decision_function):
        with pytest.raises(ValueError, match="NaN or infinite for 30 of 30 samples"):
            method(X)


@pytest.mark.parametrize("n_jobs", [0, 10**5, -(10**5), True, 1.5, "2"])
def test_numbers_of_workers(n_jobs):
    clf = MLPClassifier((4,), max_epochs=1, random_state=0).fit(X, Y)
    with pytest.raises(ValueError, match="n_jobs"):
        clf.explain(X, n_jobs=n_jobs)


def test_loading_computes_no_eigenvalues(contents, tmp_path, monkeypatch):
    (tmp_path / "model").write_bytes(contents["esn"])
    monkeypatch.setattr("torch.linalg.eigvals", _on_meta_alone)
    assert sklrp.load(tmp_path / "model").predict(X).shape == Y.shape


def _on_meta_alone(weight):
    assert weight.device.type == "meta"
    return weight[0].to(complex)
