"""Saved estimators: the same to the bit, and nothing that runs on loading."""

import contextlib
import os
import pickle
import re
import tempfile
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from sklearn.ensemble import BaggingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier
from skorch.callbacks import EarlyStopping
from torch import nn

import sklrp
from sklrp import (
    AlphaBeta,
    CNNClassifier,
    Composite,
    Epsilon,
    ESNClassifier,
    Gamma,
    LSTMClassifier,
    MLPClassifier,
    RelevanceTransformer,
    Rule,
    WSquare,
    ZBox,
)
from sklrp._files import replacing
from sklrp.classifiers.settings import OPTIMIZERS
from tests.helpers.forging import rewrite, write

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 12))
Y = np.where(X[:, 0] > 0, "warm", "cold")
GRADIENT = {
    "mlp": MLPClassifier((8,), dropout=0.2, max_epochs=2, random_state=0),
    "cnn": CNNClassifier((4,), batch_norm=True, max_epochs=2, random_state=0),
    "lstm": LSTMClassifier(4, input_shape=(4, 3), num_layers=2, dropout=0.3, max_epochs=2),
    "weights": MLPClassifier(
        (), class_weight={"warm": 2.0, "cold": 0.5}, weight_decay=0.1, l1=1e-3, max_epochs=2
    ),
    "skorch": MLPClassifier(
        (8,),
        optimizer="sgd",
        optimizer__momentum=0.9,
        optimizer__nesterov=True,
        iterator_train__shuffle=False,
        criterion__label_smoothing=0.1,
        callbacks__print_log=None,
        max_epochs=2,
    ),
    "groups": MLPClassifier(
        (8,), optimizer__param_groups=[("output.*", {"lr": 0.1})], max_epochs=2
    ),
    "focus": MLPClassifier(
        (8,), bias="nonpositive", input_noise=0.1, input_dropout=0.1, l1_first=0.01, max_epochs=2
    ),
    "lbfgs": MLPClassifier((8,), optimizer="lbfgs", max_epochs=2, random_state=0),
    "class": MLPClassifier((8,), optimizer=torch.optim.NAdam, dtype=np.float32, max_epochs=2),
    "numpy": CNNClassifier(np.array([4]), lr=np.float32(0.01), max_epochs=np.int64(2)),
}
ESN = ESNClassifier(10, input_shape=(4, 3), ridge="auto", random_state=0)


def same(a, b):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


def through_file(estimator, tmp_path, **kwargs):
    sklrp.save(estimator, tmp_path / "model.safetensors")
    return sklrp.load(tmp_path / "model.safetensors", **kwargs)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "saved.safetensors"
    sklrp.save(MLPClassifier((4,), max_epochs=2, random_state=0).fit(X, Y), path)
    return path


# The same estimator


@pytest.mark.sweep(5)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", [*GRADIENT, "esn"])
def test_loaded_is_the_same_to_the_bit(name, dtype, tmp_path):
    estimator = pickle.loads(pickle.dumps({**GRADIENT, "esn": ESN}[name]))
    estimator.fit(X.astype(dtype), Y)
    loaded = through_file(estimator, tmp_path)
    assert type(loaded) is type(estimator)
    assert set(vars(loaded)) == set(vars(estimator))
    same(loaded.classes_, estimator.classes_)
    for method in ("predict", "predict_proba", "decision_function", "explain"):
        same(getattr(loaded, method)(X.astype(dtype)), getattr(estimator, method)(X.astype(dtype)))
    same(loaded.explain(X, rule="z_box"), estimator.explain(X, rule="z_box"))
    if name in GRADIENT:
        assert loaded.history_ == estimator.history_
        assert loaded.n_iter_ == estimator.n_iter_
    for key, value in estimator.get_params().items():
        if key not in ("dtype", "channels"):
            assert loaded.get_params()[key] == value, key


@pytest.mark.sweep(2)
@pytest.mark.parametrize("name", GRADIENT)
def test_training_goes_on_to_the_bit(name, tmp_path):
    estimator = pickle.loads(pickle.dumps(GRADIENT[name])).fit(X, Y)
    state = torch.get_rng_state()
    loaded = through_file(estimator, tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    for one in (estimator, loaded):
        one.partial_fit(X, Y)
        one.set_params(warm_start=True, lr=0.02).fit(X[::-1], Y[::-1])
    assert loaded.history_[:, "train_loss"] == estimator.history_[:, "train_loss"]
    same(loaded.predict_proba(X), estimator.predict_proba(X))


@pytest.mark.sweep(4)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_goes_on_with_every_optimizer(optimizer, tmp_path):
    estimator = MLPClassifier((4,), optimizer=optimizer, max_epochs=2, random_state=0).fit(X, Y)
    loaded = through_file(estimator, tmp_path)
    for one in (estimator, loaded):
        one.partial_fit(X, Y).partial_fit(X, Y)
    same(loaded.predict_proba(X), estimator.predict_proba(X))


def test_training_with_early_stopping_goes_on(tmp_path):
    estimator = MLPClassifier((8,), early_stopping=True, max_epochs=6, patience=2, random_state=0)
    estimator.fit(X, Y)
    loaded = through_file(estimator, tmp_path)
    for one in (estimator, loaded):
        one.set_params(warm_start=True).fit(X, Y)
    assert loaded.history_[:, "valid_loss"] == estimator.history_[:, "valid_loss"]
    assert loaded.history_[:, "valid_loss_best"] == estimator.history_[:, "valid_loss_best"]
    same(loaded.predict_proba(X), estimator.predict_proba(X))


def test_a_changed_learning_rate_holds_from_the_next_training(tmp_path):
    estimator = MLPClassifier((8,), max_epochs=2, random_state=0).fit(X, Y).set_params(lr=0.5)
    loaded = through_file(estimator, tmp_path)
    for one in (estimator, loaded):
        one.partial_fit(X, Y)
    same(loaded.predict_proba(X), estimator.predict_proba(X))


def test_saving_a_loaded_estimator_gives_the_same_content(saved, tmp_path):
    sklrp.save(sklrp.load(saved), tmp_path / "again.safetensors")
    files = [safe_open(path, "np") for path in (saved, tmp_path / "again.safetensors")]
    assert files[0].metadata() == files[1].metadata()
    assert "module.dense1.weight" in files[0].keys()  # noqa: SIM118


@pytest.mark.parametrize(
    "labels",
    [
        np.array([3, 5, 9]),
        np.array([1.0, -2.0, 0.0]),
        np.array(["a", "ü", "a longer one"], dtype=object),
        np.array(["a", "ü", "a longer one"]),
        np.array([True, False]),
        np.array([0, 1], dtype=np.uint8),
    ],
)
def test_labels_of_any_kind(labels, tmp_path):
    estimator = MLPClassifier((), max_epochs=1).fit(X, labels[np.arange(60) % len(labels)])
    loaded = through_file(estimator, tmp_path)
    same(loaded.classes_, estimator.classes_)
    same(loaded.predict(X), estimator.predict(X))


def test_names_of_features(tmp_path):
    frame = pd.DataFrame(X, columns=[f"cell {i}" for i in range(12)])
    loaded = through_file(MLPClassifier(max_epochs=1).fit(frame, Y), tmp_path)
    same(loaded.feature_names_in_, frame.columns.to_numpy(dtype=object))
    with pytest.raises(ValueError, match="feature names"):
        loaded.predict(frame[frame.columns[::-1]])


@pytest.mark.parametrize("estimator", [GRADIENT["cnn"], RelevanceTransformer(GRADIENT["mlp"])])
def test_unfitted(estimator, tmp_path):
    loaded = through_file(sklrp.MLPClassifier(lr=0.5), tmp_path)
    assert loaded.lr == 0.5
    loaded = through_file(pickle.loads(pickle.dumps(estimator)), tmp_path)
    assert repr(loaded) == repr(estimator)
    with pytest.raises(Exception, match="not fitted"):
        loaded.transform(X) if hasattr(loaded, "transform") else loaded.predict(X)


RULES = [
    "epsilon_gamma_box",
    AlphaBeta(alpha=np.float64(2.5), beta=1.5),
    Composite([("a", ZBox(X.min(0), X.max()), "first"), ("b", Epsilon(), "all")]),
    Composite([("a", ZBox(-1, (2.0,) * 12), "first"), ("b", Gamma(0.5), nn.Linear)], "half"),
    Composite([("a", WSquare(), "dense1"), ("b", Epsilon(1e-3), "all")]),
]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_transformer(rule, tmp_path):
    transformer = RelevanceTransformer(
        MLPClassifier((8,), max_epochs=2, random_state=0),
        rule=rule,
        target="warm",
        aggregate=np.repeat(["north", "south", "rest"], 4),
        normalize="l1",
        cv=3,
    )
    transformer.set_output(transform="pandas").fit(X, Y)
    loaded = through_file(transformer, tmp_path)
    assert loaded.rule == rule
    pd.testing.assert_frame_equal(loaded.transform(X), transformer.transform(X))
    assert loaded.score(X, Y) == transformer.score(X, Y)


def test_transformer_of_a_frozen_network(tmp_path):
    transformer = RelevanceTransformer(FrozenEstimator(pickle.loads(pickle.dumps(ESN)).fit(X, Y)))
    transformer.fit(X.reshape(60, 4, 3))
    loaded = through_file(transformer, tmp_path)
    assert loaded.estimator_ is loaded.estimator
    same(loaded.transform(X), transformer.transform(X))


def test_device(tmp_path):
    estimator = MLPClassifier(max_epochs=1, device=torch.device("cpu"), dtype="float32")
    estimator.set_params(iterator_train__device="cpu").fit(X, Y)
    loaded = through_file(estimator, tmp_path, device="cpu")
    assert loaded.device == "cpu"
    same(loaded.predict_proba(X), estimator.predict_proba(X))
    loaded.partial_fit(X, Y)
    with pytest.raises(ValueError, match=r"cannot be loaded: device='cuda:99' cannot be used"):
        through_file(estimator, tmp_path, device="cuda:99")

    def move(manifest, arrays):
        manifest["estimator"]["params"]["device"] = "cuda:99"

    rewrite(tmp_path / "model.safetensors", move)
    with pytest.raises(ValueError, match=r"load takes it as device=\.\.\."):
        sklrp.load(tmp_path / "model.safetensors")
    same(
        sklrp.load(tmp_path / "model.safetensors", device="cpu").predict_proba(X),
        estimator.predict_proba(X),
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("name", [*GRADIENT, "esn"])
def test_across_devices(name, tmp_path):
    estimator = pickle.loads(pickle.dumps({**GRADIENT, "esn": ESN}[name]))
    estimator.set_params(device="cuda").fit(X, Y)
    loaded = through_file(estimator, tmp_path)
    same(loaded.predict_proba(X), estimator.predict_proba(X))
    on_cpu = through_file(estimator, tmp_path, device="cpu")
    np.testing.assert_allclose(on_cpu.predict_proba(X), estimator.predict_proba(X), rtol=1e-4)
    if name in GRADIENT:
        for one in (estimator, loaded, on_cpu):
            one.partial_fit(X, Y)
        same(loaded.predict_proba(X), estimator.predict_proba(X))
    on_gpu = through_file(on_cpu, tmp_path, device="cuda")
    np.testing.assert_allclose(on_gpu.predict_proba(X), on_cpu.predict_proba(X), rtol=1e-4)
    if name in GRADIENT:
        on_gpu.partial_fit(X, Y)


def test_pickle_and_joblib_still_work(tmp_path):
    estimator = MLPClassifier(max_epochs=1).fit(X, Y)
    joblib.dump(estimator, tmp_path / "model.joblib")
    for copy in (
        pickle.loads(pickle.dumps(estimator)),
        joblib.load(tmp_path / "model.joblib"),
        pickle.loads(pickle.dumps(through_file(estimator, tmp_path))),
    ):
        same(copy.predict_proba(X), estimator.predict_proba(X))


# What a file does not hold


class Halved(Rule):
    pass


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"callbacks": [EarlyStopping()]}, r"callbacks\.0=.*set_params\(callbacks=None\)"),
        ({"random_state": np.random.RandomState(0)}, "random_state=.*give an integer"),
        ({"callbacks__print_log__sink": print}, "callbacks__print_log__sink=<built-in function"),
        ({"optimizer": type("Mine", (torch.optim.SGD,), {})}, "optimizer=.*cannot be saved"),
        ({"class_weight": {"warm": 1 + 2j}}, r"class_weight\.warm=.*cannot be saved"),
        ({"lr": -1.0}, "'lr' parameter"),
        ({"criterion": nn.NLLLoss}, r"MLPClassifier has no parameters \['criterion'\]"),
    ],
)
def test_parameters_that_cannot_be_saved(params, message, tmp_path):
    kind = ValueError if {"lr", "criterion"} & set(params) else TypeError
    with pytest.raises(kind, match=message):
        sklrp.save(MLPClassifier(**params), tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"rule": Composite([("a", Epsilon(), lambda name, layer: True)])}, "functions or layers"),
        ({"rule": Composite([("a", Epsilon(), type("Mine", (nn.Linear,), {}))])}, "of your own"),
        ({"rule": Halved()}, r"rule=Halved\(\) cannot be saved.*rules of your own"),
        ({"cv": StratifiedKFold(3)}, "cv=.*number of folds"),
        ({"memory": "cache"}, r"memory='cache'.*set_params\(memory=None\)"),
        ({"estimator": NeuralNetClassifier(nn.Linear)}, r"save_model\(estimator\.module_, path\)"),
    ],
)
def test_transformers_that_cannot_be_saved(params, message, tmp_path):
    transformer = RelevanceTransformer(MLPClassifier()).set_params(**params)
    with pytest.raises(TypeError, match=message):
        sklrp.save(transformer, tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (
            type("Pipeline", (Pipeline,), {})([("a", StandardScaler()), ("b", MLPClassifier())]),
            r"steps before its network.*sklrp\.save\(estimator\[-1\], path\)",
        ),
        (StandardScaler(), "estimator must be an estimator of sklrp"),
        (nn.Linear(2, 2), r"safetensors\.torch\.save_model\(estimator, path\)"),
        (NeuralNetClassifier(nn.Linear), r"save_model\(estimator\.module_, path\)"),
        (
            BaggingClassifier(MLPClassifier(max_epochs=1), 2).fit(X, Y),
            r"pass one network, estimator\.estimators_\[0\]",
        ),
        (type("MLPClassifier", (MLPClassifier,), {})(), "a file holds an MLPRegressor, "),
    ],
    ids=lambda e: type(e).__name__,
)
def test_what_cannot_be_saved(estimator, message, tmp_path):
    with pytest.raises(TypeError, match=message):
        sklrp.save(estimator, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_what_holds_one_network_is_saved_as_that(tmp_path):
    network = MLPClassifier((4,), max_epochs=2, random_state=0)
    alone = pickle.loads(pickle.dumps(network)).fit(X, Y)
    search = GridSearchCV(network, {"lr": [network.lr]}, cv=2)
    for model in (
        search.fit(X, Y),
        FrozenEstimator(alone),
        make_pipeline(network).fit(X, Y),
        FrozenEstimator(make_pipeline(None, search)),
    ):
        loaded = through_file(model, tmp_path)
        assert type(loaded) is MLPClassifier
        same(loaded.explain(X), alone.explain(X))
    transformer = RelevanceTransformer(search).fit(X, Y)
    loaded = through_file(transformer, tmp_path)
    assert type(loaded.estimator_) is MLPClassifier
    same(loaded.transform(X), transformer.transform(X))
    unfitted = through_file(GridSearchCV(network, {}), tmp_path)
    assert repr(unfitted) == repr(network)


def test_the_line_for_other_networks_works(tmp_path):
    module, again = nn.Linear(3, 2), nn.Linear(3, 2)
    safetensors.torch.save_model(module, tmp_path / "module.safetensors")
    safetensors.torch.load_model(again, tmp_path / "module.safetensors")
    assert torch.equal(again.weight, module.weight)


def test_changed_after_the_training(tmp_path):
    mlp = MLPClassifier((4,), max_epochs=1).fit(X, Y).set_params(hidden_layer_sizes=(5,))
    with pytest.raises(ValueError, match=r"hidden_layer_sizes=\(5,\) differs from"):
        sklrp.save(mlp, tmp_path / "model.safetensors")
    esn = ESNClassifier(5).fit(X, Y).set_params(leak_rate=0.5)
    with pytest.raises(ValueError, match=r"leak_rate was changed after the training, from 0\.1"):
        sklrp.save(esn, tmp_path / "model.safetensors")
    esn.set_params(leak_rate=0.1).extra = 1
    with pytest.raises(TypeError, match="attribute 'extra'"):
        sklrp.save(esn, tmp_path / "model.safetensors")


# Files


def test_saving_is_all_or_nothing(saved, monkeypatch):
    before = saved.read_bytes()
    with pytest.raises(TypeError):
        sklrp.save(MLPClassifier(callbacks=[EarlyStopping()]), saved)

    def fail(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        sklrp.save(MLPClassifier(), saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_replacing_a_folder(tmp_path):
    target = tmp_path / "store"
    for content in ("old", "new"):
        with replacing(target, is_store=True) as part:
            part.mkdir()
            (part / ".zarray").touch()
            (part / "0").write_text(content)
    with contextlib.suppress(RuntimeError), replacing(target, is_store=True) as part:
        part.mkdir()
        raise RuntimeError
    assert (target / "0").read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    target = tmp_path / "store"
    target.mkdir()
    (target / ".zarray").touch()
    (target / "0").write_text("old")
    original = os.replace

    def fail(source, destination):
        if Path(destination) == target and Path(source).name != "old":
            raise PermissionError(13, "Permission denied", str(source))
        original(source, destination)

    monkeypatch.setattr("sklrp._files._swap_folders", lambda one, other: False)
    monkeypatch.setattr("os.replace", fail)
    with (
        pytest.raises(PermissionError, match=f"denied: '{target}'"),
        replacing(target, is_store=True) as part,
    ):
        part.mkdir()
    assert (target / "0").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(os.name == "nt", reason="there are no pipes, and links need privileges")
def test_what_is_there_stays_what_it_is(tmp_path):
    model, link, pipe = tmp_path / "model", tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(model)
    sklrp.save(MLPClassifier(), link)
    model.chmod(0o640)
    sklrp.save(MLPClassifier(lr=0.5), link)
    assert link.is_symlink()
    assert sklrp.load(model).lr == 0.5
    assert model.stat().st_mode & 0o777 == 0o640
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="pipe is a device or a pipe"):
        sklrp.save(MLPClassifier(), pipe)
    assert pipe.is_fifo()
    with pytest.raises(IsADirectoryError, match=f"{tmp_path} is a folder: choose"):
        sklrp.save(MLPClassifier(), tmp_path)


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        sklrp.load(tmp_path / "nothing.safetensors")
    path = tmp_path / "nowhere" / "model.safetensors"
    with pytest.raises(FileNotFoundError, match=f"'{path}'"):
        sklrp.save(MLPClassifier(), path)


def test_loading_runs_no_pickle(saved, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("a pickle is loaded")

    for name in ("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load", "joblib.load"):
        monkeypatch.setattr(name, fail)
    assert sklrp.load(saved).predict(X).shape == (60,)
    folder = Path(sklrp.__file__).parent / "persistence"
    code = "".join(file.read_text(encoding="utf-8") for file in folder.glob("*.py"))
    assert not re.search(r"torch\.load|import pickle|joblib|\beval\(|\bexec\(|import_module", code)


# Damage and forgery


def test_other_files(saved, tmp_path):
    other = tmp_path / "other"
    damaged = "not a safetensors file, or was truncated or damaged"
    for content, said in {
        b"": damaged,
        saved.read_bytes()[:-1]: damaged,
        b"PK\x03\x04": r"zip archive, as Keras and torch write.*sklrp\.from_keras",
        b"\x89HDF\r\n\x1a\n": r"HDF5.*sklrp\.from_keras",
        pickle.dumps(1, protocol=4): r"a pickle, which may run any code.*sklrp\.save",
    }.items():
        other.write_bytes(content)
        with pytest.raises(ValueError, match=said):
            sklrp.load(other)
    other.write_bytes(safetensors.numpy.save({"a": np.zeros(3)}))
    with pytest.raises(ValueError, match=r"a safetensors file, but none of sklrp\.save"):
        sklrp.load(other)


def test_truncated_anywhere(saved):
    content = saved.read_bytes()
    for n_bytes in np.random.default_rng(1).integers(len(content), size=100):
        saved.write_bytes(content[:n_bytes])
        with pytest.raises(ValueError, match="truncated"):
            sklrp.load(saved)


def test_flipped_bytes_are_noticed_or_do_no_harm(saved):
    content = saved.read_bytes()
    expected = sklrp.load(saved).predict_proba(X)
    rng = np.random.default_rng(2)
    n_header = 8 + int.from_bytes(content[:8], "little")
    places = np.r_[:16, rng.integers(n_header, size=300), rng.integers(len(content), size=300)]
    noticed = 0
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= int(rng.integers(1, 256))
        saved.write_bytes(flipped)
        try:
            loaded = sklrp.load(saved)
        except ValueError:
            noticed += 1
        else:
            same(loaded.predict_proba(X), expected)
    assert noticed > 0.95 * len(places)


def change_path(tree, rng, value):
    """Replace, or remove, what is at a random place of a tree of lists and dicts."""
    while True:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        key = keys[rng.integers(len(keys))]
        inside = tree[key]
        if not isinstance(inside, (dict, list)) or not inside or rng.random() < 0.1:
            break
        tree = inside
    if value is None:
        del tree[key]
    else:
        tree[key] = value


@pytest.mark.sweep(1)
@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**31),
    value=st.one_of(
        st.none(),
        st.sampled_from([{}, [], "x", -1, 0, 1, 2**70, 0.5, "auto", True, {"dict": []}]),
        st.sampled_from([{"tuple": [0]}, {"tensor": "classes_"}, {"rule": ["Gamma", {}]}]),
        st.sampled_from([{"texts": ["str32", [1], [[]]]}, {"array": "no"}, {"layer": "Linear"}]),
    ),
)
@pytest.mark.parametrize("kind", ["network", "transformer"])
def test_forged_content_never_raises_anything_else(kind, seed, value, tmp_path_factory):
    path = tmp_path_factory.mktemp("forged") / "model.safetensors"
    path.write_bytes(FORGED[kind])
    rewrite(
        path, lambda manifest, arrays: change_path(manifest, np.random.default_rng(seed), value)
    )
    with contextlib.suppress(ValueError):
        assert type(sklrp.load(path)) in (MLPClassifier, RelevanceTransformer)


def _saved_bytes(estimator):
    with tempfile.TemporaryDirectory() as folder:
        sklrp.save(estimator, Path(folder, "model"))
        return Path(folder, "model").read_bytes()


_SMALL = MLPClassifier((3,), max_epochs=1, random_state=0, class_weight={"warm": 2.0})
FORGED = {
    "network": _saved_bytes(pickle.loads(pickle.dumps(_SMALL)).fit(X, Y)),
    "transformer": _saved_bytes(
        RelevanceTransformer(_SMALL, rule=RULES[2], aggregate=np.repeat([1, 2], 6)).fit(X, Y)
    ),
}


def forge_class(manifest, arrays):
    manifest["estimator"]["class"] = "Popen"


def forge_parameter(manifest, arrays):
    manifest["estimator"]["params"]["shell"] = True


def forge_format(manifest, arrays):
    manifest["format"] = 2


def forge_format_zero(manifest, arrays):
    manifest["format"] = 0


def forge_format_bool(manifest, arrays):
    manifest["format"] = True


def forge_versions(manifest, arrays):
    manifest["versions"] = {}


def forge_entry(manifest, arrays):
    manifest["more"] = 1


def forge_entry_of_estimator(manifest, arrays):
    manifest["estimator"]["more"] = 1


def forge_entry_of_net(manifest, arrays):
    manifest["estimator"]["net"]["more"] = 1


def forge_size(manifest, arrays):
    manifest["estimator"]["params"]["hidden_layer_sizes"] = {"tuple": [10**6, 10**6]}


def forge_attribute(manifest, arrays):
    manifest["estimator"]["attributes"]["predict"] = 1


def forge_classes(manifest, arrays):
    manifest["estimator"]["attributes"]["classes_"] = {"texts": ["str32", [3], ["a", "b", "c"]]}


def forge_features(manifest, arrays):
    manifest["estimator"]["attributes"]["n_features_in_"] = 13


def forge_shape(manifest, arrays):
    arrays["module.dense1.weight"] = np.zeros((4, 11))


def forge_dtype(manifest, arrays):
    arrays["module.dense1.weight"] = arrays["module.dense1.weight"].astype(np.float32)


def forge_missing(manifest, arrays):
    del arrays["module.output.bias"]


def forge_extra(manifest, arrays):
    arrays["module.more"] = np.zeros(3)


def forge_unnamed(manifest, arrays):
    manifest["estimator"]["net"]["module"]["dict"].pop()


def forge_optimizer(manifest, arrays):
    arrays["optimizer.0.exp_avg"] = np.zeros((4, 11))


def forge_group(manifest, arrays):
    manifest["estimator"]["net"]["groups"][0]["dict"][0][1] = "fast"


def forge_history(manifest, arrays):
    manifest["estimator"]["net"]["history"] = [1]


def forge_rule(manifest, arrays):
    manifest["estimator"]["params"]["lr"] = {"rule": ["Gamma", {"dict": [["gamma", -1.0]]}]}


def forge_depth(manifest, arrays):
    deep = manifest["estimator"]["params"]["lr"] = []
    for _ in range(900):
        deep.append([])
        deep = deep[0]


def forge_stream(manifest, arrays):
    arrays["_random_stream_state.cpu"] = np.zeros(5056, dtype=np.uint8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (forge_class, "unknown class 'Popen', but can hold an MLPRegressor"),
        (forge_parameter, r"MLPClassifier has no parameters \['shell'\]"),
        (forge_format, "it is of format 2, written by sklrp .* install a newer sklrp"),
        (forge_format_zero, "its format is 0, but should be a positive integer"),
        (forge_format_bool, "its format is True, but should be a positive integer"),
        (forge_versions, "its versions do not say by what sklrp it was written"),
        (forge_entry, r"it has the unknown entries \['more'\]"),
        (forge_entry_of_estimator, r"MLPClassifier has the unknown entries \['more'\]"),
        (forge_entry_of_net, r"its net has the unknown entries \['more'\]"),
        (forge_size, r"its module lacks tensors \['dense2\.bias', 'dense2\.weight'\]"),
        (forge_attribute, r"has the unknown attributes \['predict'\]"),
        (forge_classes, r"output\.weight is \(2, 4\) of torch\.float64, but should be \(3, 4\)"),
        (forge_features, "input_shape_ of MLPClassifier does not go with n_features_in_=13"),
        (forge_shape, r"module\.dense1\.weight is \(4, 11\) .* should be \(4, 12\)"),
        (
            forge_dtype,
            r"is \(4, 12\) of torch\.float32, but should be \(4, 12\) of torch\.float64",
        ),
        (forge_missing, r"tensor 'module\.output\.bias' of module\.output\.bias is missing"),
        (forge_extra, r"it has the extra tensors \['module\.more'\]"),
        (forge_unnamed, r"its module lacks tensors \['output\.bias'\]"),
        (forge_optimizer, r"optimizer\.0\.exp_avg is \(4, 11\)"),
        (forge_group, "the options of its optimizer are not those of the class"),
        (forge_history, "the history of its training is malformed"),
        (forge_rule, "gamma"),
        (forge_depth, "malformed|'lr'"),
        (forge_stream, "mt19937|RNG state|malformed"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_forged(change, message, saved):
    rewrite(saved, change)
    with pytest.raises(ValueError, match=message) as caught:
        sklrp.load(saved)
    assert str(caught.value).startswith(f"{saved} cannot be loaded: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "[" * 100_000, "holds no valid JSON"),
        (
            lambda text: text.replace('"lr"', '"lr": 9.0, "lr"'),
            r"a key comes twice: \['lr'\]",
        ),
        (
            lambda text: text.replace('"lr": 0.003', '"lr": NaN'),
            "NaN is not one of JSON's numbers",
        ),
    ],
    ids=["depth", "twice", "nan"],
)
def test_json_that_is_none(change, message, saved):
    with safe_open(saved, "np") as file:
        text = file.metadata()["sklrp"]
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert change(text) != text
    write(saved, change(text), arrays)
    with pytest.raises(ValueError, match=message):
        sklrp.load(saved)


def test_rewriting_alone_does_no_harm(saved):
    expected = sklrp.load(saved).predict_proba(X)
    rewrite(saved, lambda manifest, arrays: None)
    same(sklrp.load(saved).predict_proba(X), expected)


def test_a_reservoir_is_loaded_without_its_eigenvalues(tmp_path, monkeypatch):
    eigvals = torch.linalg.eigvals
    computed = []

    def note(weight):
        if not weight.is_meta:  # of shapes alone, nothing is computed
            computed.append(weight)
        return eigvals(weight)

    monkeypatch.setattr(torch.linalg, "eigvals", note)
    sklrp.save(ESN.fit(X, Y), tmp_path / "esn.safetensors")
    assert len(computed) == 1
    sklrp.load(tmp_path / "esn.safetensors")
    assert len(computed) == 1
