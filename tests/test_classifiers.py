"""The classifiers: data in every form, training, parameters, prediction, explanation, errors."""

import copy
import io
import pickle
import re
import threading

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_digits, make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.parallel import Parallel, delayed
from skorch import NeuralNetClassifier
from skorch.callbacks import (
    BatchScoring,
    Callback,
    EarlyStopping,
    EpochScoring,
    GradientNormClipping,
    LRScheduler,
    PrintLog,
)
from skorch.helper import predefined_split

import sklrp
from sklrp.classifiers import (
    CNNClassifier,
    ESNClassifier,
    LSTMClassifier,
    MLPClassifier,
    MLPRegressor,
    base,
    batches,
)
from sklrp.classifiers import net as net_module
from sklrp.classifiers.net import TrainingNet, WeightedCrossEntropy
from tests.helpers.comparing import assert_same_to_rounding

SMALL = {
    MLPClassifier: {"hidden_layer_sizes": (8,)},
    CNNClassifier: {"channels": (3,), "hidden_layer_sizes": (4,)},
    LSTMClassifier: {"hidden_size": 5},
    ESNClassifier: {"n_reservoir": 20},
}
FLAT = {"kernel_size": (1, 3), "pool_size": (1, 2)}  # of a CNN on images of a single row
EVERY = pytest.mark.parametrize("Classifier", list(SMALL))
TRAINED = pytest.mark.parametrize("Classifier", [MLPClassifier, CNNClassifier, LSTMClassifier])


def make(Classifier, **params):
    """Return a small classifier that trains for two epochs, or in closed form."""
    params = {**SMALL[Classifier], "max_epochs": 2, "random_state": 0, **params}
    if Classifier is ESNClassifier:
        params = {name: params[name] for name in params if name in Classifier().get_params()}
    return Classifier(**params)


@pytest.fixture(scope="module")
def blobs():
    """Three classes, 90 samples of 6 features."""
    return make_blobs(90, 6, centers=3, cluster_std=2.0, random_state=0)


@pytest.fixture(scope="module")
def images():
    """Digits 0, 1 and 2 as images of 8 x 8."""
    X, y = load_digits(n_class=3, return_X_y=True)
    return X[:120].reshape(-1, 8, 8) / 16, y[:120]


def parameters(clf):
    return torch.cat([p.detach().ravel() for p in clf.module_.parameters()])


# Data in every form


def test_composition(blobs):
    X, y = blobs
    clf = make(MLPClassifier).fit(X, y)
    assert not isinstance(clf, NeuralNetClassifier)
    assert isinstance(clf.net_, NeuralNetClassifier)
    assert clf.module_ is clf.net_.module_
    assert clf.history_ is clf.net_.history
    assert clf.n_iter_ == len(clf.history_) == 2
    assert isinstance(clf.module_, torch.nn.Sequential)
    assert clf.input_range_ == (X.min(), X.max())
    logits = clf.module_(torch.tensor(X)).detach().numpy()
    np.testing.assert_allclose(clf.decision_function(X), logits)
    np.testing.assert_allclose(clf.net_.predict_proba(X), clf.predict_proba(X))
    np.testing.assert_allclose(np.exp(clf.predict_log_proba(X)), clf.predict_proba(X))
    np.testing.assert_array_equal(clf.predict(X), logits.argmax(1))


@EVERY
@pytest.mark.parametrize(
    "labels", [[0, 1, 2], [-5, 7, 300], ["b", "a", "c"], [1.0, 2.0, -1.0], list("xyz")]
)
def test_labels_of_any_kind(Classifier, labels, blobs):
    X, y = blobs
    labels = np.array(labels, dtype=object if labels == list("xyz") else None)
    named = labels[y]
    clf = make(Classifier).fit(X, named)
    np.testing.assert_array_equal(clf.classes_, np.unique(labels))
    assert clf.predict(X).dtype == named.dtype
    assert set(clf.predict(X)) <= set(labels)
    assert clf.predict_proba(X).shape == (90, 3)
    assert clf.decision_function(X).shape == (90, 3)


@EVERY
def test_two_classes(Classifier, blobs):
    X, y = blobs
    clf = make(Classifier).fit(X, y == 1)
    logits = clf.module_(torch.tensor(X)).detach().numpy()
    assert logits.shape == (90, 2)
    np.testing.assert_allclose(clf.decision_function(X), logits[:, 1] - logits[:, 0])
    np.testing.assert_array_equal(clf.predict(X), clf.decision_function(X) > 0)


@pytest.mark.sweep(5)
@pytest.mark.parametrize(
    ("Classifier", "params", "form", "input_shape"),
    [
        (MLPClassifier, {}, (64,), (64,)),
        (MLPClassifier, {}, (8, 8), (8, 8)),
        (MLPClassifier, {}, (1, 4, 2, 8), (1, 4, 2, 8)),
        (CNNClassifier, {}, (64,), (1, 64)),
        (CNNClassifier, {}, (8, 8), (1, 8, 8)),
        (CNNClassifier, {}, (1, 8, 8), (1, 8, 8)),
        (CNNClassifier, {}, (4, 4, 4), (4, 4, 4)),
        (CNNClassifier, {"input_shape": (1, 8, 8)}, (64,), (1, 8, 8)),
        (CNNClassifier, {"input_shape": (1, 8, 8)}, (8, 8), (1, 8, 8)),
        (CNNClassifier, {"input_shape": [1, 8, 8]}, (1, 8, 8), (1, 8, 8)),
        (CNNClassifier, {"input_shape": (8, 8)}, (8, 8), (8, 8)),
        (CNNClassifier, {"input_shape": (1, 64)}, (1, 64), (1, 64)),
        (CNNClassifier, {"input_shape": (1, 1, 64), **FLAT}, (1, 64), (1, 1, 64)),
        (CNNClassifier, {"input_shape": (1, 1, 64), **FLAT}, (1, 1, 64), (1, 1, 64)),
        (CNNClassifier, {"input_shape": (8, 8)}, (1, 8, 8), (8, 8)),
        (CNNClassifier, {}, (1, 64), (1, 64)),
        (LSTMClassifier, {}, (64,), (64, 1)),
        (LSTMClassifier, {}, (8, 8), (8, 8)),
        (LSTMClassifier, {}, (1, 8, 8), (8, 8)),
        (LSTMClassifier, {"input_shape": (16, 4)}, (64,), (16, 4)),
        (ESNClassifier, {}, (64,), (64, 1)),
        (ESNClassifier, {}, (1, 8, 8), (8, 8)),
        (ESNClassifier, {"input_shape": (16, 4)}, (1, 16, 4), (16, 4)),
        (LSTMClassifier, {"input_shape": (16, 4)}, (16, 4), (16, 4)),
        (LSTMClassifier, {"input_shape": (16, 4)}, (1, 16, 4), (16, 4)),
    ],
)
def test_forms_of_X(Classifier, params, form, input_shape, images):
    X, y = images
    X = X.reshape(-1, *form)
    clf = make(Classifier, **params).fit(X, y)
    assert clf.input_shape_ == input_shape
    assert clf.n_features_in_ == 64
    expected = clf.predict_proba(X)
    assert_same_to_rounding(clf.predict_proba(X.reshape(-1, 64)), expected)
    assert_same_to_rounding(clf.predict_proba(X.reshape(-1, *input_shape)), expected)
    assert_same_to_rounding(clf.predict_proba(torch.tensor(X)), expected)
    assert_same_to_rounding(clf.predict_proba(X.tolist()), expected)
    flat = clone(clf).set_params(**({"input_shape": input_shape} if params else {}))
    if params or Classifier is MLPClassifier:
        flat.fit(X.reshape(-1, 64), y)
        assert_same_to_rounding(flat.predict_proba(X.reshape(-1, 64)), expected)


@EVERY
def test_arrays_of_any_memory_layout(Classifier, images):
    X, y = images
    clf = make(Classifier).fit(X, y)
    expected = clf.predict_proba(X[::-1]).copy(), clf.explain(X[::-1].copy())
    layouts = [X[::-1], X[::-1].copy()[:, ::-1].copy()[:, ::-1], np.asfortranarray(X[::-1])]
    for backwards in (*layouts, *(layout.reshape(120, 64) for layout in layouts)):
        assert_same_to_rounding(clf.predict_proba(backwards), expected[0])
        relevance = clf.explain(backwards).reshape(X.shape)
        assert_same_to_rounding(relevance, expected[1])
        assert np.isfinite(clf.decision_function(backwards)).all()
        if backwards.ndim == 3:
            again = make(Classifier).fit(backwards, y[::-1])
            copied = make(Classifier).fit(backwards.copy(), y[::-1].copy())
            assert_same_to_rounding(parameters(again), parameters(copied))


def test_a_perceptron_takes_samples_of_any_shape(images):
    X, y = images
    clf = make(MLPClassifier, warm_start=True).fit(X, y)
    expected = clf.predict_proba(X)
    for form in [(64,), (4, 16), (1, 8, 8), (2, 2, 4, 4)]:
        assert_same_to_rounding(clf.predict_proba(X.reshape(-1, *form)), expected)
        assert clf.explain(X.reshape(-1, *form)).shape == (120, *form)
    assert clf.fit(X.reshape(-1, 4, 16), y).partial_fit(X.reshape(-1, 64), y).n_iter_ == 5
    with pytest.raises(ValueError, match="X has 32 features, but MLPClassifier is expecting 64"):
        clf.predict(X[:, :4])


@pytest.mark.parametrize(
    ("Classifier", "params", "form"),
    [
        (CNNClassifier, {"input_shape": (1, 8, 8)}, (4, 16)),
        (CNNClassifier, {"input_shape": (1, 1, 64), **FLAT}, (1, 1, 1, 1, 64)),
        (CNNClassifier, {"input_shape": (64, 1), "kernel_size": 1, "pooling": None}, (1, 64)),
        (LSTMClassifier, {"input_shape": (8, 8)}, (4, 16)),
        (LSTMClassifier, {}, (1, 64)),
    ],
)
def test_other_shapes_are_refused(Classifier, params, form, images):
    X, y = images
    clf = make(Classifier, **params).fit(X.reshape(-1, 64), y)
    for method in (clf.predict, clf.explain):
        with pytest.raises(
            ValueError, match=r"X has shape \(n_samples, .*: (give samples|move its axes)"
        ):
            method(X.reshape(-1, *form))


@EVERY
def test_data_frames_keep_their_names(Classifier, blobs):
    X, y = blobs
    frame = pd.DataFrame(X, columns=list("abcdef"))
    clf = make(Classifier).fit(frame, pd.Series(y))
    assert clf.feature_names_in_.tolist() == list("abcdef")
    np.testing.assert_array_equal(clf.predict(frame), make(Classifier).fit(X, y).predict(X))
    with pytest.raises(ValueError, match="feature names"):
        clf.predict(frame[list("bacdef")])
    assert clf.explain(frame).shape == (90, 6)


@EVERY
@pytest.mark.parametrize(
    ("X_dtype", "dtype", "computed"),
    [
        ("float64", "auto", "float64"),
        ("float32", "auto", "float32"),
        ("int64", "auto", "float64"),
        ("float64", "float32", "float32"),
        ("float32", np.float64, "float64"),
        ("float32", torch.float64, "float64"),
    ],
)
def test_dtype(Classifier, X_dtype, dtype, computed, blobs):
    X, y = blobs
    X = X.astype(X_dtype)
    clf = make(Classifier, dtype=dtype, device="cpu").fit(X, y)
    assert next(clf.module_.parameters()).dtype == getattr(torch, computed)
    assert clf.predict_proba(X).dtype == computed
    kept = X_dtype if X_dtype.startswith("float") else computed
    assert clf.explain(X).dtype == kept
    assert clf.explain(X.astype("float16")).dtype == "float16"


def test_large_predictions_are_made_in_chunks(images):
    X, y = images
    clf = make(CNNClassifier).fit(X, y)
    many = np.tile(X, (20, 1, 1))
    np.testing.assert_allclose(
        clf.predict_proba(many), np.tile(clf.predict_proba(X), (20, 1)), rtol=1e-12
    )


@pytest.mark.parametrize(("given", "sizes"), [(7, [7, 7, 6]), (-1, [20])])
def test_the_size_of_chunks_may_be_given(given, sizes, blobs, monkeypatch):
    X, y = blobs
    clf = make(MLPClassifier, iterator_valid__batch_size=given).fit(X, y)
    seen, infer = [], TrainingNet.infer
    monkeypatch.setattr(TrainingNet, "infer", lambda net, x: seen.append(len(x)) or infer(net, x))
    clf.predict(X[:20])
    assert seen == sizes


@pytest.mark.parametrize("name", ["iterator_train__batch_size", "iterator_valid__batch_size"])
@pytest.mark.parametrize("given", [0, -2, "a", 2.5, True], ids=repr)
def test_wrong_sizes_of_chunks_are_refused(name, given, blobs):
    X, y = blobs
    clf = make(MLPClassifier).set_params(**{name: given})
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1, or -1 for"):
        clf.fit(X, y).predict(X)


def test_plain_arrays_take_a_short_way_through_the_checks(blobs, monkeypatch):
    X, y = blobs
    clf = make(MLPClassifier).fit(X, y)
    expected, asked, validate = clf.predict_proba(X.tolist()), [], base.validate_data
    monkeypatch.setattr(
        base, "validate_data", lambda *args, **kwargs: asked.append(1) or validate(*args, **kwargs)
    )
    np.testing.assert_array_equal(clf.predict_proba(X), expected)
    assert not asked
    others = [np.asfortranarray(X), X.astype(">f8"), X.astype(object), pd.DataFrame(X)]
    for other in others:
        np.testing.assert_array_equal(clf.predict_proba(other), expected)
    assert len(asked) == len(others)
    hole = X.copy()
    hole[3, 2] = np.nan
    for wrong, message in [
        (hole, "1 NaN"),
        (hole.astype("float32"), "1 NaN"),
        (X[:, :5].copy(), "expecting 6 features"),
        (X[:0], "0 sample"),
        (X[0], "single sample|1D array|2D array"),
        (sparse.csr_array(X), "[Ss]parse"),
    ]:
        with pytest.raises((ValueError, TypeError), match=message):
            clf.predict_proba(wrong)
    named = make(MLPClassifier).fit(pd.DataFrame(X, columns=list("abcdef")), y)
    with pytest.warns(UserWarning, match="feature names"):
        named.predict(X)


@pytest.mark.parametrize(
    "params", [{}, {"pooling": "avg"}, {"dropout": 0.3, "batch_norm": True}], ids=str
)
def test_the_quick_way_through_images_is_the_plain_one(params, images, monkeypatch):
    X, y = images[0].astype("float32"), images[1]
    params = {"optimizer": "sgd", "lr": 0.1, "device": "cpu", **params}
    quick = make(CNNClassifier, **params).fit(X, y)
    with monkeypatch.context() as patch:
        patch.setattr(net_module, "is_of_images", lambda *args: False)
        plain = make(CNNClassifier, **params).fit(X, y)
    torch.testing.assert_close(parameters(quick), parameters(plain), rtol=0, atol=1e-5)
    quick.module_.load_state_dict(plain.module_.state_dict())
    assert_same_to_rounding(quick.decision_function(X), plain.decision_function(X))
    layouts = []
    for clf in (quick, plain):
        clf.module_.conv1.register_forward_hook(
            lambda layer, args, out: layouts.append(out.is_contiguous())
        )
        clf.predict(X)
    assert layouts == [not torch.backends.mkldnn.is_available(), True]
    assert all(p.is_contiguous() for p in quick.module_.parameters())  # as optimizers expect


def test_read_only_memory(blobs, tmp_path):
    X, y = blobs
    joblib.dump(X, tmp_path / "X")
    mapped = joblib.load(tmp_path / "X", mmap_mode="r")
    clf = make(MLPClassifier).fit(mapped, y)
    assert_same_to_rounding(clf.predict_proba(mapped), clf.predict_proba(X))


# Training


@EVERY
def test_same_seed_same_network(Classifier, blobs):
    X, y = blobs
    params = {"dropout": 0.3, "early_stopping": True}
    first, second = (make(Classifier, **params).fit(X, y) for _ in range(2))
    assert torch.equal(parameters(first), parameters(second))
    other = make(Classifier, **params, random_state=1).fit(X, y)
    assert not torch.equal(parameters(first), parameters(other))
    draws = np.random.RandomState(3)
    one, two = (make(Classifier, random_state=draws).fit(X, y) for _ in range(2))
    assert not torch.equal(parameters(one), parameters(two))
    again = make(Classifier, random_state=np.random.RandomState(3)).fit(X, y)
    assert torch.equal(parameters(one), parameters(again))


@pytest.mark.parametrize("random_state", [None, 0])
def test_global_random_states_are_left_alone(random_state, blobs):
    X, y = blobs
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    clf = make(MLPClassifier, random_state=random_state, dropout=0.5, early_stopping=True)
    clf.fit(X, y).predict(X)
    with pytest.raises(ValueError, match="optimizer"):
        clf.set_params(optimizer="adaam").fit(X, y)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


def test_threads_train_the_same_networks(blobs):
    X, y = blobs
    clf = make(MLPClassifier, dropout=0.3, max_epochs=5)
    state = torch.get_rng_state()
    fits = Parallel(n_jobs=4, backend="threading")(delayed(clone(clf).fit)(X, y) for _ in range(8))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(parameters(fit), parameters(fits[0])) for fit in fits)


@TRAINED
def test_warm_start_and_partial_fit_continue(Classifier, blobs):
    X, y = blobs
    whole = make(Classifier, max_epochs=4, dropout=0.2).fit(X, y)
    halves = make(Classifier, max_epochs=2, warm_start=True, dropout=0.2).fit(X, y).fit(X, y)
    parts = make(Classifier, dropout=0.2)
    for _ in range(2):
        parts.partial_fit(X, y)
    parts = pickle.loads(pickle.dumps(parts))
    for _ in range(2):
        parts.partial_fit(X, y)
    assert halves.n_iter_ == parts.n_iter_ == whole.n_iter_ == 4
    assert torch.equal(parameters(halves), parameters(whole))
    assert torch.equal(parameters(parts), parameters(whole))
    assert make(Classifier).fit(X, y).fit(X, y).n_iter_ == 2  # without warm_start: anew


def test_warm_start_keeps_the_dtype_and_takes_new_parameters(blobs):
    X, y = blobs
    clf = make(MLPClassifier, warm_start=True).fit(X.astype("float32"), y)
    clf.set_params(lr=0.5, l1=0.1, batch_size=45).fit(X, y)
    assert next(clf.module_.parameters()).dtype == torch.float32
    assert clf.net_.optimizer_.param_groups[0]["lr"] == 0.5
    assert clf.history_[-1, "train_batch_count"] == 2
    clf.set_params(class_weight="balanced", validation_fraction=0.5, random_state=9, callbacks=[])
    clf.set_params(max_epochs=1, verbose=0).fit(X, y).partial_fit(X, y)
    assert clf.n_iter_ == 6
    with pytest.raises(ValueError, match=r"y has the unknown labels 7; the classes .*\[0, 1, 2\]"):
        clf.fit(X, np.where(y == 2, 7, y))


@pytest.mark.parametrize(
    ("Classifier", "params", "message"),
    [
        (MLPClassifier, {"hidden_layer_sizes": (9,)}, "hidden_layer_sizes=(9,) differs from hidd"),
        (MLPClassifier, {"optimizer": "sgd"}, "optimizer='sgd' differs from optimizer='adam' of"),
        (MLPClassifier, {"weight_decay": 0.5}, "weight_decay=0.5 differs from weight_decay=0.0"),
        (MLPClassifier, {"optimizer__betas": (0, 0)}, "optimizer__betas=(0, 0) differs from opti"),
        (MLPClassifier, {"optimizer__beta": 1}, "differs from optimizer__beta=(not given) of the"),
        (MLPClassifier, {"patience": 3}, "patience=3 differs from patience=10 of the training"),
        (MLPClassifier, {"dropout": 0.5}, "dropout=0.5 differs from dropout=0.0 of the training"),
        (MLPClassifier, {"dtype": torch.float32}, "dtype=torch.float32 differs from dtype=auto"),
        (MLPClassifier, {"device": torch.device("cpu")}, "device=cpu differs from device=auto of"),
        (LSTMClassifier, {"forget_bias": 1.0}, "forget_bias=1.0 differs from forget_bias='auto'"),
        (LSTMClassifier, {"gradient_clip_value": 9.0}, "differs from gradient_clip_value=1.0 of"),
        (CNNClassifier, {"input_shape": (1, 3, 2)}, "input_shape=(1, 3, 2) differs from input_"),
    ],
)
def test_training_goes_on_only_with_the_same_network(Classifier, params, message, blobs):
    X, y = blobs
    clf = make(Classifier, warm_start=True, optimizer__betas=(0.8, 0.9)).fit(X, y)
    former = {name: clf.get_params().get(name) for name in params}
    before = parameters(clf).clone()
    clf.set_params(**params)
    for train in (clf.fit, clf.partial_fit):
        with pytest.raises(ValueError, match=re.escape(message)) as error:
            train(X, y)
        assert "set it back, or fit anew with warm_start=False" in str(error.value)
    assert torch.equal(parameters(clf), before)
    if None not in former.values():
        assert clf.set_params(**former).fit(X, y).n_iter_ == 4


def test_early_stopping_may_not_begin_later(blobs):
    clf = make(MLPClassifier, warm_start=True).fit(*blobs).set_params(early_stopping=True)
    with pytest.raises(ValueError, match="early_stopping=True differs from early_stopping=False"):
        clf.fit(*blobs)


def half(epoch):
    return 0.5**epoch


class Halving:
    """A schedule whose repr holds its address."""

    def __call__(self, epoch):
        return half(epoch)


def test_unpickled_classifiers_go_on(blobs):
    params = {"callbacks": [("s", LRScheduler("LambdaLR", lr_lambda=half))], "warm_start": True}
    clf = make(MLPClassifier, **params, callbacks__s__lr_lambda=Halving()).fit(*blobs)
    other = pickle.loads(pickle.dumps(clf))
    assert torch.equal(parameters(other.fit(*blobs)), parameters(clf.fit(*blobs)))


def test_partial_fit_checks_its_parameters_every_time(blobs):
    clf = make(MLPClassifier).partial_fit(*blobs).set_params(lr=-1.0)
    with pytest.raises(ValueError, match="'lr' parameter"):
        clf.partial_fit(*blobs)


def test_partial_fit_of_classes_to_come(blobs):
    X, y = blobs
    clf = make(MLPClassifier, lr=0.01)
    for _ in range(100):
        for label in range(3):
            clf.partial_fit(X[y == label], y[y == label], classes=[2, 0, 1])
    assert clf.classes_.tolist() == [0, 1, 2]
    assert clf.score(X, y) > 0.8
    with pytest.raises(ValueError, match=r"classes=\[0, 1\] differ .* \[0, 1, 2\]"):
        clf.partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match="at least 2 classes, got 1 class"):
        make(MLPClassifier).partial_fit(X[y == 0], y[y == 0])
    stopping = make(MLPClassifier, early_stopping=True)
    assert not hasattr(stopping, "partial_fit")
    with pytest.raises(AttributeError, match="has no attribute 'partial_fit'") as error:
        stopping.partial_fit(X, y)
    assert "set early_stopping=False" in str(error.value.__cause__)


def test_batches_are_those_of_a_plain_loop(blobs):
    """The quiet loop, the loop of skorch and a loop by hand train the same network."""
    X, y = blobs
    params = {"max_epochs": 3, "batch_size": 20, "iterator_train__shuffle": False}
    params |= {"optimizer": "sgd", "lr": 0.05}
    quiet = make(MLPClassifier, **params).fit(X, y)
    loud = make(MLPClassifier, **params, callbacks=[Listener()]).fit(X, y)
    network = make(MLPClassifier, **{**params, "lr": 1e-300}).fit(X, y).module_  # as initialised
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    Xt, yt, losses = torch.tensor(X), torch.tensor(y), []
    for _ in range(3):
        total = 0.0
        for rows in torch.arange(90).split(20):
            loss = torch.nn.functional.cross_entropy(network(Xt[rows]), yt[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        losses.append(total / 90)
    assert_same_to_rounding(parameters(quiet), parameters(loud))
    expected = torch.cat([p.detach().ravel() for p in network.parameters()])
    torch.testing.assert_close(parameters(quiet), expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(quiet.history_[:, "train_loss"], losses, rtol=1e-12)
    np.testing.assert_allclose(loud.history_[:, "train_loss"], losses, rtol=1e-12)
    assert len(quiet.history_[-1, "batches"]) == 1
    assert len(loud.history_[-1, "batches"]) == 5


class Orders(list):
    """A sampler that goes through the samples in another given order each time."""

    def __iter__(self):
        return iter(self.pop(0))


@pytest.mark.sweep(2)
@pytest.mark.parametrize("shuffle", [False, True])
@TRAINED
def test_learning_curves_are_those_of_skorch(Classifier, shuffle, blobs, monkeypatch):
    """From the same start, in the same order, skorch's own loader and loop learn the same."""
    X, y = blobs
    params = {"max_epochs": 5, "batch_size": 20, "iterator_train__shuffle": shuffle, "lr": 0.01}
    params |= {"early_stopping": True, "validation_fraction": 0.3, "dtype": "float64"}
    initial = make(Classifier, **{**params, "lr": 1e-300}).fit(X, y).module_
    train, randperm, orders, data = TrainingNet.train, torch.randperm, Orders(), {}

    def keep_data(net, dataset, epochs, valid):
        data.update(train=dataset, valid=valid)
        return train(net, dataset, epochs, valid)

    def keep_order(n):
        order = randperm(n)
        orders.append(order.tolist())
        return order

    with monkeypatch.context() as patch:
        patch.setattr(TrainingNet, "train", keep_data)
        patch.setattr(torch, "randperm", keep_order)
        ours = make(Classifier, **params).fit(X, y).history_
    assert len(orders) == (5 if shuffle else 0)
    net = NeuralNetClassifier(
        initial,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=0.01,
        max_epochs=5,
        batch_size=20,
        train_split=predefined_split(data["valid"]),
        callbacks=[GradientNormClipping(1.0)] if Classifier is LSTMClassifier else None,
        verbose=0,
    )
    if shuffle:
        net.set_params(iterator_train__sampler=orders)
    theirs = net.fit(data["train"], y=None).history
    for score in ("train_loss", "valid_loss", "valid_acc"):
        np.testing.assert_allclose(ours[:, score], theirs[:, score], rtol=1e-10)
        assert ours[:, f"{score}_best"] == theirs[:, f"{score}_best"]


def test_data_is_moved_to_the_device_once(blobs, monkeypatch):
    """The meta device stands in for an accelerator: it holds shapes."""
    X, y = blobs
    net = make(MLPClassifier).fit(X, y).net_
    data = batches.make_dataset(X, y, np.ones(90), dtype=torch.float64)
    here, there = torch.device("cpu"), torch.device("meta")

    def places(iterator):
        given = [[Xi["X"], Xi["sample_weight"], yi] for Xi, yi in iterator]
        assert [[len(part) for part in batch] for batch in given] == [[90] * 3]
        return {part.device for part in (*iterator.X.values(), iterator.y, *given[0])}

    assert batches.find_home(data, there) is None  # torch does not tell its free memory
    n_bytes = 90 * (6 + 1 + 1) * 8
    for free, home in ((2 * n_bytes, there), (2 * n_bytes - 1, None)):
        monkeypatch.setattr(batches, "free_memory", lambda device, free=free: free)
        assert batches.find_home(data, there) == home
    monkeypatch.setattr(net_module, "find_home", lambda dataset, device: there)
    net.batch_size = 90
    assert places(net.get_iterator(data, training=True)) == {there}
    assert places(net.get_iterator(data)) == {here}  # a prediction
    net.train_split = predefined_split(data)
    assert places(net.get_iterator(data)) == {there}  # a validation after every epoch
    net.iterator_train__device = "cpu"
    assert places(net.get_iterator(data, training=True)) == {here}
    assert {part.device for part in data.X.values()} == {here}


def test_no_line_is_made_that_nobody_sees(blobs, monkeypatch):
    X, y = blobs
    lines = []
    make(MLPClassifier, callbacks__print_log__sink=lines.append).fit(X, y)
    assert len(lines) == 4  # a header of two and two epochs
    monkeypatch.setattr(PrintLog, "table", None)
    make(MLPClassifier).fit(X, y)
    with pytest.raises(TypeError, match="not callable"):
        make(MLPClassifier, verbose=1).fit(X, y)


class Listener(Callback):
    """Count the batches."""

    def __init__(self):
        self.count_ = 0

    def on_batch_end(self, net, **kwargs):
        self.count_ += 1


def test_weights_act_as_repetitions(blobs):
    X, y = blobs
    weight = np.random.default_rng(0).integers(0, 4, 90)
    params = {"max_epochs": 5, "batch_size": 1000}
    repeated = make(MLPClassifier, **params).fit(X.repeat(weight, 0), y.repeat(weight))
    weighted = make(MLPClassifier, **params).fit(X, y, sample_weight=weight * 7.0)
    np.testing.assert_allclose(weighted.decision_function(X), repeated.decision_function(X))
    half = make(MLPClassifier, **params, class_weight={1: 2}).fit(X, y)
    twice = make(MLPClassifier, **params).fit(np.r_[X, X[y == 1]], np.r_[y, y[y == 1]])
    np.testing.assert_allclose(half.decision_function(X), twice.decision_function(X))


def test_balanced_class_weights(blobs):
    X, y = blobs
    keep = (y != 0) | (np.arange(90) % 10 == 0)
    X, y = X[keep], y[keep]
    balanced = make(MLPClassifier, class_weight="balanced", batch_size=1000).fit(X, y)
    counts = np.bincount(y)
    by_hand = make(MLPClassifier, batch_size=1000).fit(X, y, sample_weight=1 / counts[y])
    np.testing.assert_allclose(balanced.decision_function(X), by_hand.decision_function(X))


def test_weighted_cross_entropy():
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    weight = torch.arange(6.0)
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(
        WeightedCrossEntropy()(logits, labels, weight), (losses * weight).sum() / 6
    )
    smooth = WeightedCrossEntropy(label_smoothing=0.1)
    torch.testing.assert_close(smooth(logits, labels), smooth(logits, labels, torch.ones(6)))


@pytest.mark.sweep(1)
@TRAINED
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_penalties_shrink_weights(Classifier, dropout, blobs):
    X, y = blobs

    def size(**params):
        clf = make(Classifier, max_epochs=30, lr=0.01, dropout=dropout, **params).fit(X, y)
        return sum(p.abs().sum().item() for p in clf.module_.parameters() if p.ndim > 1)

    plain = size()
    assert size(l1=0.05) < 0.7 * plain
    assert size(weight_decay=0.5) < 0.7 * plain


def test_early_stopping_restores_the_best_epoch(blobs):
    X, y = blobs
    params = {"early_stopping": True, "validation_fraction": 0.3, "patience": 4, "lr": 0.2}
    clf = make(MLPClassifier, **params, max_epochs=200).fit(X, y)
    losses = clf.history_[:, "valid_loss"]
    assert clf.n_iter_ < 200
    assert len(losses) - 1 - int(np.argmin(losses)) >= 4
    best = int(np.argmin(losses)) + 1
    stopped = make(MLPClassifier, **{**params, "patience": 500}, max_epochs=best).fit(X, y)
    np.testing.assert_allclose(clf.predict_proba(X), stopped.predict_proba(X))
    assert "valid_acc" in clf.history_[-1]
    assert len(pickle.dumps(clf)) < 2 * len(pickle.dumps(make(MLPClassifier).fit(X, y)))


def test_early_stopping_with_tiny_classes(blobs):
    X, y = blobs
    y = y.copy()
    y[0] = 9
    assert make(MLPClassifier, early_stopping=True).fit(X, y).classes_.tolist() == [0, 1, 2, 9]
    with pytest.raises(ValueError, match=r"validation_fraction=0.9 leaves none of the 4 samples"):
        make(MLPClassifier, early_stopping=True, validation_fraction=0.9).fit(X[:4], y[:4])


@pytest.mark.parametrize("n_weighted", [90, 60, 30])
def test_samples_without_weight_are_not_held_out(n_weighted, blobs, monkeypatch):
    X, y = blobs
    weight = np.random.default_rng(0).permutation(90) < n_weighted
    held_out, taught = [], []
    train = TrainingNet.train

    def spy(net, dataset, epochs, valid):
        taught.append(dataset.X["sample_weight"])
        held_out.append(valid.X["sample_weight"])
        return train(net, dataset, epochs, valid)

    monkeypatch.setattr(TrainingNet, "train", spy)
    make(MLPClassifier, early_stopping=True, validation_fraction=0.2).fit(X, y, weight)
    assert len(held_out[0]) == 0.2 * n_weighted
    assert (held_out[0] > 0).all()
    assert len(taught[0]) == 90 - 0.2 * n_weighted
    assert (taught[0] == 0).sum() == 90 - n_weighted


def test_no_validation_split_by_default(blobs):
    clf = make(MLPClassifier).fit(*blobs)
    assert "valid_loss" not in clf.history_[-1]
    assert clf.history_[-1]["batches"][0]["train_batch_size"] == 90


def test_callbacks_are_copied_and_hear_of_the_training(blobs):
    X, y = blobs
    listener = Listener()
    scoring = EpochScoring("accuracy", on_train=True, lower_is_better=False, name="train_acc")
    callbacks = [listener, ("scoring", scoring), BatchScoring("accuracy", on_train=True, name="b")]
    clf = make(MLPClassifier, callbacks=callbacks, batch_size=30).fit(X, y, np.ones(90) + (y == 1))
    assert listener.count_ == 0
    assert clf.callbacks is callbacks
    heard = dict(clf.net_.callbacks_)
    assert heard["Listener"].count_ == 6
    assert not hasattr(scoring, "best_score_")
    assert 0 <= clf.history_[-1, "train_acc"] <= 1
    assert 0 <= clf.history_[-1, "b"] <= 1
    with_validation = make(
        MLPClassifier, early_stopping=True, callbacks=[EpochScoring("roc_auc_ovr", name="auc")]
    )
    assert 0 <= with_validation.fit(X, y).history_[-1, "auc"] <= 1


def test_a_callback_may_end_the_training(blobs):
    stopper = EarlyStopping(monitor="train_loss", patience=2, threshold=10.0)
    clf = make(MLPClassifier, max_epochs=50, callbacks=[stopper]).fit(*blobs)
    assert clf.n_iter_ == 3


class Interrupted(Callback):
    """An interrupt by the user while a callback is at work somewhere deep below."""

    def on_epoch_end(self, net, **kwargs):
        int_handler()


def int_handler():
    raise KeyboardInterrupt


def test_ctrl_c_is_passed_on(blobs, monkeypatch):
    X, y = blobs
    for method in ("fit", "partial_fit"):
        with pytest.raises(KeyboardInterrupt):
            getattr(make(MLPClassifier, callbacks=[Interrupted]), method)(X, y)
    clf = make(MLPClassifier)
    monkeypatch.setattr(torch.nn.ReLU, "forward", lambda self, x: int_handler())
    with pytest.raises(KeyboardInterrupt):
        GridSearchCV(clf, {"lr": [0.1, 0.2]}, cv=2).fit(X, y)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, y)
    assert not hasattr(clf, "net_")


def test_divergence_is_an_error(blobs):
    X, y = blobs
    with pytest.raises(ValueError, match=r"training diverged.*smaller lr \(now 100000.0\)"):
        make(MLPClassifier, optimizer="sgd", lr=1e5).fit(X * 1e200, y)


def test_a_loss_that_is_not_finite_is_divergence():
    """Adam then makes steps of 0, which leave all parameters finite, and never learns again."""
    X = np.random.default_rng(0).normal(size=(40, 3))
    reg = MLPRegressor((4,), max_epochs=2, random_state=0).fit(X, X[:, 0])
    before = state(reg)[1:3]
    with pytest.raises(ValueError, match=r"training diverged: after 3 epochs its loss is not"):
        reg.partial_fit(X, X[:, 0] * 1e200)
    assert state(reg)[1:3] == before


def state(clf):
    """Return all that a classifier holds, in a form that can be compared."""
    public = {name: repr(value) for name, value in vars(clf).items() if name != "net_"}
    optimizer = repr(clf.net_.optimizer_.state_dict()["state"])
    return public, parameters(clf).tolist(), optimizer, len(clf.history_)


@TRAINED
@pytest.mark.parametrize("warm_start", [False, True])
def test_a_failed_training_changes_nothing(Classifier, warm_start, blobs, monkeypatch):
    X, y = blobs
    clf = make(Classifier, batch_size=30).fit(X, y).set_params(warm_start=warm_start)
    before = copy.deepcopy(state(clf)), clf.predict_proba(X)
    many = np.tile(X, (1, 2))
    failures = [
        (clf.fit, many, y * 0, None, ValueError),  # one class
        (clf.fit, many, y, -np.ones(90), ValueError),
        (clf.fit, X * np.nan, y, None, ValueError),
        (clf.fit, X, y, np.full(90, np.nan), ValueError),
        (clf.partial_fit, X, y + 5, None, ValueError),
    ]
    for train, X_bad, y_bad, weight, error in failures:
        with pytest.raises(error):
            train(X_bad, y_bad, sample_weight=weight)
        assert state(clf) == before[0]
    steps = 0

    def diverge(net, *args, **kwargs):
        nonlocal steps
        steps += 1
        if steps == 5:
            with torch.no_grad():
                next(net.module_.parameters()).fill_(np.nan)
        return train_step(net, *args, **kwargs)

    def interrupt(net, *args, **kwargs):
        diverge(net, *args, **kwargs)
        if steps == 5:
            raise KeyboardInterrupt
        return train_step(net, *args, **kwargs)

    train_step = TrainingNet.train_step_single
    for failing, error in ((diverge, ValueError), (interrupt, KeyboardInterrupt)):
        steps = 0
        monkeypatch.setattr(TrainingNet, "train_step_single", failing)
        with pytest.raises(error):
            clf.fit(X, y)
        assert state(clf) == before[0]
        np.testing.assert_array_equal(clf.predict_proba(X), before[1])
    monkeypatch.undo()
    assert clf.fit(X, y).n_iter_ == 4 if warm_start else 2


@EVERY
def test_a_failed_first_training_leaves_nothing(Classifier, blobs):
    X, y = blobs
    clf = make(Classifier)
    for fit in (clf.fit, getattr(clf, "partial_fit", clf.fit)):
        with pytest.raises(ValueError, match="at least 2 classes"):
            fit(X, y * 0)
        assert not hasattr(clf, "n_features_in_")
        assert not hasattr(clf, "input_shape_")


@pytest.mark.parametrize("optimizer", [*sorted(sklrp.classifiers.settings.OPTIMIZERS), "class"])
def test_optimizers(optimizer, blobs):
    X, y = blobs
    optimizer = torch.optim.Rprop if optimizer == "class" else optimizer
    clf = make(MLPClassifier, optimizer=optimizer).fit(X, y)
    assert np.isfinite(clf.history_[:, "train_loss"]).all()


def test_adam_is_fused_unless_told_otherwise(blobs):
    def group(**params):
        return make(MLPClassifier, **params).fit(*blobs).net_.optimizer_.param_groups[0]

    assert group()["fused"] is True
    assert group(optimizer__foreach=True)["fused"] is None
    assert group(optimizer__fused=False)["fused"] is False
    assert group(weight_decay=0.1)["weight_decay"] == 0.1
    assert group(weight_decay=0.1, optimizer__weight_decay=0.2)["weight_decay"] == 0.2
    assert group(lr=0.1, optimizer__betas=(0.5, 0.6))["betas"] == (0.5, 0.6)


def test_gradient_clipping(blobs):
    X, y = blobs
    params = {"optimizer": "sgd", "lr": 1.0, "max_epochs": 1, "batch_size": 90}
    start = parameters(make(LSTMClassifier, **{**params, "lr": 1e-300}).fit(X, y))
    clipped = make(LSTMClassifier, **params, gradient_clip_value=1e-3).fit(X, y)
    assert torch.linalg.norm(parameters(clipped) - start).item() == pytest.approx(1e-3, rel=1e-3)
    free = make(LSTMClassifier, **params, gradient_clip_value=None).fit(X, y)
    assert torch.linalg.norm(parameters(free) - start).item() > 1e-2


def test_forget_bias(images):
    X, y = images
    network = make(LSTMClassifier, lr=1e-300).fit(X, y).module_
    forget = network.lstm.bias_ih_l0[5:10] + network.lstm.bias_hh_l0[5:10]
    np.testing.assert_array_less(-1e-6, forget.detach())
    np.testing.assert_array_less(forget.detach(), np.log(7) + 1e-6)
    network = make(LSTMClassifier, lr=1e-300, forget_bias=2.5).fit(X, y).module_
    forget = network.lstm.bias_ih_l0[5:10] + network.lstm.bias_hh_l0[5:10]
    np.testing.assert_allclose(forget.detach(), 2.5)
    network = make(LSTMClassifier, lr=1e-300, bias=False).fit(X, y).module_
    assert not network.lstm.bias


def test_lstm_remembers_by_default():
    """The label is in the first of 60 steps, and the last state must know it."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 60, 2)) * 0.1
    y = rng.integers(0, 2, 200)
    X[:, 0] += 2 * y[:, None] - 1
    clf = LSTMClassifier(16, max_epochs=20, lr=0.01, random_state=0).fit(X[:150], y[:150])
    assert clf.score(X[150:], y[150:]) > 0.95


@EVERY
def test_defaults_learn(Classifier, images):
    X, y = images
    assert Classifier(random_state=0).fit(X[:80], y[:80]).score(X[80:], y[80:]) >= 0.9


def test_verbose(blobs, capsys):
    make(MLPClassifier).fit(*blobs)
    assert capsys.readouterr().out == ""
    make(MLPClassifier, verbose=1).fit(*blobs)
    assert "train_loss" in capsys.readouterr().out


# Parameters


@EVERY
def test_every_parameter_is_documented(Classifier):
    trained = Classifier is not ESNClassifier
    for name in [*Classifier().get_params(), *(["**kwargs"] if trained else [])]:
        assert f"\n{name} : " in Classifier.__doc__
    assert Classifier.__doc__.count("**kwargs : ") == trained
    assert set(Classifier().get_params()) == set(Classifier._parameter_constraints) - (
        {"activation", "bias", "dropout", "hidden_layer_sizes"} - set(Classifier().get_params())
    )


def test_double_underscore_parameters():
    clf = MLPClassifier(optimizer__betas=(0.5, 0.9), callbacks__print_log=None, max_epochs=3)
    params = clf.get_params()
    assert params["optimizer__betas"] == (0.5, 0.9)
    assert clone(clf).get_params() == params
    assert "optimizer__betas=(0.5, 0.9)" in repr(clf)
    clf.set_params(optimizer__betas=(0.1, 0.2), iterator_train__drop_last=True, lr=0.1)
    assert clf.get_params()["optimizer__betas"] == (0.1, 0.2)
    assert clf.get_params()["iterator_train__drop_last"] is True
    assert clf.lr == 0.1
    assert params["optimizer__betas"] == (0.5, 0.9)
    with pytest.raises(ValueError, match="Invalid parameter 'max_epoch'"):
        clf.set_params(max_epoch=3)


def test_representations(blobs):
    clf = make(MLPClassifier, optimizer__eps=1e-7)
    assert "optimizer__eps=1e-07" in repr(clf)
    for estimator in (clf, clf.fit(*blobs)):
        assert "optimizer__eps" in estimator._repr_html_()


def test_parameters_reach_skorch(blobs):
    clf = make(
        MLPClassifier,
        callbacks=[("scheduler", LRScheduler("StepLR", step_size=1, gamma=1.0))],
        callbacks__scheduler__gamma=0.5,
        callbacks__print_log=None,
        iterator_train__batch_size=40,
        iterator_train__drop_last=True,
        iterator_train__device="cpu",
        iterator_valid__batch_size=7,
        criterion__label_smoothing=0.1,
        early_stopping=True,
        callbacks__early_stopping__threshold=0.5,
    ).fit(*blobs)
    callbacks = dict(clf.net_.callbacks_)
    assert "print_log" not in callbacks
    assert callbacks["early_stopping"].threshold == 0.5
    assert clf.history_[-1, "train_batch_count"] == 2
    assert clf.net_.iterator_train__device == torch.device("cpu")
    assert clf.history_[-1, "valid_batch_count"] == 2
    assert clf.net_.criterion_.label_smoothing == 0.1
    assert clf.net_.optimizer_.param_groups[0]["lr"] == pytest.approx(0.003 * 0.25)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"max_epoch": 3}, "unexpected parameter 'max_epoch'; did you mean 'max_epochs'?"),
        ({"hidden": 3}, "unexpected parameter 'hidden'; did you mean 'hidden_layer_sizes'?"),
        ({"learning_rate": 1}, "unexpected parameter 'learning_rate'; did you mean 'lr'?"),
        ({"iterator_train_shuffle": 1}, "did you mean 'iterator_train__shuffle'?"),
        ({"optimizer__beta": 3}, "'optimizer__beta'; did you mean 'optimizer__betas'?"),
        ({"optimiser__betas": 3}, "'optimiser__betas'; did you mean 'optimizer__betas'?"),
        ({"iterator_valid__shuffle": True}, "unexpected parameter 'iterator_valid__shuffle'"),
        ({"callbacks__print_lug": None}, "did you mean 'callbacks__print_log'?"),
        ({"callbacks__print_log__sunk": 1}, "did you mean 'callbacks__print_log__sink'?"),
        ({"module__num_units": 3}, "unexpected parameter 'module__num_units'"),
    ],
)
def test_typos_are_refused_by_fit(params, message, blobs):
    clf = clone(make(MLPClassifier, **params))
    with pytest.raises(ValueError, match=re.escape(message)):
        clf.fit(*blobs)


def test_grid_search(blobs):
    grid = {"optimizer__betas": [(0.9, 0.99), (0.5, 0.5)], "callbacks__s__gamma": [1.0, 1e-9]}
    clf = make(
        MLPClassifier,
        lr=0.02,
        max_epochs=15,
        callbacks=[("s", LRScheduler("StepLR", step_size=1, gamma=1.0))],
    )
    search = GridSearchCV(clf, grid, cv=2).fit(*blobs)
    assert search.best_params_["callbacks__s__gamma"] == 1.0
    assert search.best_estimator_.net_.optimizer__betas == search.best_params_["optimizer__betas"]
    pipeline = make_pipeline(StandardScaler(), make(MLPClassifier))
    search = GridSearchCV(pipeline, {"mlpclassifier__optimizer__eps": [1e-8, 1e-3]}, cv=2)
    assert search.fit(*blobs).best_score_ > 0


def test_metadata_routing(blobs):
    X, y = blobs
    weight = np.where(y == 2, 0.0, 1.0)
    with config_context(enable_metadata_routing=True):
        clf = make(MLPClassifier, max_epochs=20, lr=0.02).set_fit_request(sample_weight=True)
        clf.set_score_request(sample_weight=False)
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        pipeline = make_pipeline(scaler, clf).fit(X, y, sample_weight=weight)
        assert 2 not in pipeline.predict(X)
        scores = cross_val_score(clf, X, y, params={"sample_weight": weight}, cv=2)
    assert scores.mean() < 0.7


@EVERY
def test_copies(Classifier, blobs):
    X, y = blobs
    clf = make(Classifier, callbacks=[Listener()]).fit(X, y)
    buffer = io.BytesIO()
    joblib.dump(clf, buffer)
    buffer.seek(0)
    for other in (pickle.loads(pickle.dumps(clf)), joblib.load(buffer), copy.deepcopy(clf)):
        np.testing.assert_array_equal(other.predict_proba(X), clf.predict_proba(X))
        assert other.module_ is other.net_.module_
        np.testing.assert_array_equal(other.explain(X), clf.explain(X))
    with pytest.raises(NotFittedError):
        clone(clf).predict(X)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@EVERY
def test_cuda(Classifier, blobs):
    X, y = blobs
    clf = make(Classifier, dropout=0.2, early_stopping=True, max_epochs=10).fit(X, y)
    assert next(clf.module_.parameters()).device.type == "cuda"
    assert next(clf.module_.parameters()).dtype == torch.float32
    state = torch.cuda.get_rng_state()
    again = clone(clf).fit(X, y)
    np.testing.assert_allclose(again.predict_proba(X), clf.predict_proba(X), rtol=1e-4)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    batches_moved = clone(clf).set_params(iterator_train__device="cpu").fit(X, y)
    np.testing.assert_allclose(
        batches_moved.history_[:, "train_loss"], clf.history_[:, "train_loss"], rtol=1e-4
    )
    assert clf.explain(X).shape == X.shape
    np.testing.assert_allclose(pickle.loads(pickle.dumps(clf)).predict(X), clf.predict(X))


# Explanation


@pytest.mark.parametrize(
    ("Classifier", "params", "form"),
    [
        (MLPClassifier, {}, (8, 8)),
        (CNNClassifier, {"padding": "valid"}, (1, 8, 8)),
        (CNNClassifier, {"pooling": "avg", "padding_mode": "circular", "stride": 1}, (8, 8)),
        (CNNClassifier, {}, (64,)),
        *(
            (LSTMClassifier, {"sweep": sweep}, (4, 16))
            for sweep in ("down", "up", "right", "left")
        ),
    ],
)
def test_relevance_is_conserved_and_laid_out_as_X(Classifier, params, form, images):
    X, y = images
    X = X.reshape(-1, *form)[:20]
    clf = make(Classifier, bias=False, **params).fit(X, y[:20])
    scores = clf.module_(torch.tensor(X.reshape(20, 64))).detach().numpy()
    relevance, details = clf.explain(
        X, target="all", rule="zero", epsilon=0.0, return_details=True
    )
    assert relevance.shape == (20, 3, *form)
    np.testing.assert_allclose(details.score, scores)
    kept = sum(layer.initial_state + layer.dropped for layer in details.layers)
    np.testing.assert_allclose(relevance.reshape(20, 3, -1).sum(2) + kept, scores, atol=1e-10)
    assert details.target.tolist() == [[0, 1, 2]] * 20
    flat = clf.explain(X.reshape(20, 64), target="all", rule="zero", epsilon=0.0)
    assert_same_to_rounding(flat.reshape(relevance.shape), relevance)
    assert (relevance[np.broadcast_to(X[:, None] == 0, relevance.shape)] == 0).all()


@pytest.mark.parametrize("sweep", ["down", "up", "right", "left"])
def test_a_sweep_is_undone(sweep):
    """Only one cell of the image differs from zero, so only it can have relevance."""
    X = np.zeros((4, 3, 5))
    X[np.arange(4), [0, 1, 2, 2], [4, 0, 1, 3]] = 1.0
    clf = make(LSTMClassifier, sweep=sweep).fit(X, [0, 1, 0, 1])
    assert clf.module_.lstm.input_size == (3 if sweep in ("right", "left") else 5)
    relevance = clf.explain(X)
    assert (relevance != 0).sum() == 4
    assert ((relevance != 0) == (X != 0)).all()


@EVERY
def test_targets(Classifier, blobs):
    X, y = blobs
    names = np.array(["low", "mid", "top"])
    clf = make(Classifier, max_epochs=10).fit(X, names[y])
    every = clf.explain(X, target="all")
    assert every.shape == (90, 3, 6)
    np.testing.assert_allclose(clf.explain(X, target="mid"), every[:, 1], atol=1e-12)
    rows = np.arange(90)
    np.testing.assert_allclose(clf.explain(X, target=names[y]), every[rows, y], atol=1e-12)
    predicted = np.searchsorted(names, clf.predict(X))
    relevance, details = clf.explain(X, return_details=True)
    np.testing.assert_allclose(relevance, every[rows, predicted], atol=1e-12)
    np.testing.assert_array_equal(details.target, clf.predict(X))
    np.testing.assert_allclose(details.score, clf.decision_function(X).max(1))
    logits = np.sort(clf.decision_function(X))
    contrast = clf.explain(X, contrast=True, return_details=True)[1].score
    np.testing.assert_allclose(contrast, logits[:, -1] - logits[:, -2], atol=1e-12)
    np.testing.assert_allclose(sklrp.explain(clf, X, target="low"), every[:, 0], atol=1e-12)


def test_explain_hands_its_options_on(blobs, capsys):
    X, y = blobs
    clf = make(MLPClassifier).fit(X, y)
    expected = clf.explain(X, epsilon=0.5)
    assert not np.allclose(clf.explain(X), expected)
    np.testing.assert_allclose(clf.explain(X, rule=sklrp.Epsilon(0.5)), expected)
    np.testing.assert_allclose(clf.explain(X, epsilon=0.5, batch_size=7), expected)
    np.testing.assert_allclose(clf.explain(X, epsilon=0.5, progress=True), expected)
    assert "90/90" in capsys.readouterr().err
    low, high = X.min(), X.max()
    first, bounded = (
        sklrp.Composite([("first", z_box, "first"), ("rest", sklrp.Epsilon(), "all")])
        for z_box in (sklrp.ZBox(), sklrp.ZBox(low, high))
    )
    assert_same_to_rounding(clf.explain(X, rule=first), clf.explain(X, rule=bounded))
    assert np.isfinite(clf.explain(X, rule="z_box")).all()
    assert not np.allclose(clf.explain(X, rule="z_box"), clf.explain(X, rule=bounded))


def test_explain_leaves_the_classifier_as_it_was(blobs):
    X, y = blobs
    clf = make(MLPClassifier, dropout=0.5).fit(X, y)
    before = parameters(clf).clone(), clf.predict_proba(X)
    clf.module_.train()
    first = clf.explain(X)
    threads = [threading.Thread(target=clf.explain, args=(X,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(clf.explain(X), first)
    assert torch.equal(parameters(clf), before[0])
    np.testing.assert_array_equal(clf.predict_proba(X), before[1])


# Errors, all of them before any training

NAN = np.full((90, 6), np.nan)
NUMBERS = np.arange(540.0).reshape(90, 6)
LABELS = np.arange(90) % 3


@pytest.mark.parametrize(
    ("Classifier", "params", "data", "error", "message"),
    [
        # data
        (MLPClassifier, {}, {"X": NAN}, ValueError, "X contains NaN"),
        (CNNClassifier, {}, {"X": NAN.reshape(90, 2, 3)}, ValueError, "X contains NaN"),
        (
            MLPClassifier,
            {},
            {"X": np.where(NUMBERS > 9, np.inf, 0)},
            ValueError,
            r"NaN or infinity \(0 NaN and 530 infinite of 540 values\): impute .* constant",
        ),
        (
            MLPClassifier,
            {},
            {"X": np.where(NUMBERS > 9, [np.inf, -np.inf, np.nan] * 2, 0)},
            ValueError,
            r"X contains NaN or infinity \(177 NaN and 353 infinite of 540 values\)",
        ),
        (MLPClassifier, {}, {"X": sparse.csr_array(NUMBERS)}, TypeError, "[Ss]parse.*toarray"),
        (
            MLPClassifier,
            {},
            {"X": NUMBERS.astype(str)},
            ValueError,
            "must hold numbers, got dtype",
        ),
        (MLPClassifier, {}, {"X": NUMBERS.astype("M8[D]")}, ValueError, "must hold numbers"),
        (MLPClassifier, {}, {"X": np.full((90, 2), "a", object)}, ValueError, "must hold numbers"),
        (
            MLPClassifier,
            {},
            {"X": NUMBERS * 1j},
            ValueError,
            "Complex data not supported.*X has dtype complex128.*X.real",
        ),
        (MLPClassifier, {}, {"X": np.empty((0, 6)), "y": []}, ValueError, r"0 sample\(s\)"),
        (CNNClassifier, {}, {"X": np.empty((0, 3, 2)), "y": []}, ValueError, r"0 sample\(s\)"),
        (MLPClassifier, {}, {"X": np.empty((90, 0))}, ValueError, r"0 feature\(s\)"),
        (MLPClassifier, {}, {"X": NUMBERS[0]}, ValueError, "Expected 2D array, got 1D"),
        (
            MLPClassifier,
            {},
            {"y": LABELS * 0},
            ValueError,
            r"at least 2 classes.* got 1 class in y, \[0\]: add",
        ),
        (MLPClassifier, {}, {"y": LABELS[:-1]}, ValueError, "inconsistent numbers of samples"),
        (MLPClassifier, {}, {"y": LABELS + 0.5}, ValueError, "Unknown label type"),
        (MLPClassifier, {}, {"y": None}, ValueError, "requires y to be passed"),
        (MLPClassifier, {}, {"w": -np.ones(90)}, ValueError, "Negative values.*sample_weight"),
        (
            MLPClassifier,
            {},
            {"w": np.zeros(90)},
            ValueError,
            "(weights must contain .* non-zero|with a positive weight)",
        ),
        (MLPClassifier, {}, {"w": np.ones(3)}, ValueError, r"sample_weight.shape == \(3,\)"),
        (MLPClassifier, {}, {"w": LABELS == 1}, ValueError, "positive weight, got 1 class"),
        # shapes
        (CNNClassifier, {"input_shape": (1, 3, 3)}, {}, ValueError, r"X has shape .*\(1, 3, 3\)"),
        (CNNClassifier, {"input_shape": (6,)}, {}, ValueError, r"input_shape must be \(C, L\) or"),
        (CNNClassifier, {"input_shape": (1, 0, 6)}, {}, ValueError, "input_shape must be"),
        (CNNClassifier, {}, {"X": np.ones((90, 1, 1, 1, 6))}, ValueError, "at most 4 dimensions"),
        (LSTMClassifier, {"input_shape": (2, 4)}, {}, ValueError, r"X has shape .*\(2, 4\)"),
        (LSTMClassifier, {"input_shape": (1, 2, 3)}, {}, ValueError, r"\(T, F\) or \(H, W\)"),
        (
            LSTMClassifier,
            {},
            {"X": np.ones((90, 2, 2, 2))},
            ValueError,
            "LSTMClassifier takes seq",
        ),
        # networks
        (
            CNNClassifier,
            {"input_shape": (1, 2, 3), "kernel_size": 5},
            {},
            ValueError,
            r"kernel_size=5 is larger than the image, \(2, 3\): use a kernel_size of at most 2",
        ),
        (
            CNNClassifier,
            {"kernel_size": 9, "padding": "valid"},
            {},
            ValueError,
            "kernel_size=9 is larger than what reaches convolution 1",
        ),
        (
            CNNClassifier,
            {"channels": ()},
            {},
            ValueError,
            "channels must hold one or more integers",
        ),
        (CNNClassifier, {"channels": (4, 0)}, {}, ValueError, r"channels must hold .* \(4, 0\)"),
        (
            CNNClassifier,
            {"kernel_size": (3, -1)},
            {"X": np.ones((90, 3, 2))},
            ValueError,
            r"kernel_size=\(3, -1\) must be one integer of at least 1",
        ),
        (CNNClassifier, {"padding": "some"}, {}, ValueError, "'padding' parameter .* 'some'"),
        (CNNClassifier, {"pooling": "sum"}, {}, ValueError, "'pooling' parameter .* 'sum'"),
        (MLPClassifier, {"hidden_layer_sizes": (3, -1)}, {}, ValueError, r"got \(3, -1\)"),
        (MLPClassifier, {"hidden_layer_sizes": (3, 1.5)}, {}, ValueError, r"got \(3, 1.5\)"),
        (MLPClassifier, {"activation": "swish"}, {}, ValueError, "'activation' .* 'swish'"),
        (MLPClassifier, {"dropout": 1.0}, {}, ValueError, "'dropout' parameter .* Got 1.0"),
        (LSTMClassifier, {"hidden_size": 0}, {}, ValueError, "'hidden_size' parameter .* Got 0"),
        (LSTMClassifier, {"sweep": "diagonal"}, {}, ValueError, "'sweep' .* 'diagonal'"),
        (LSTMClassifier, {"pooling": "sum"}, {}, ValueError, "'pooling' parameter .* 'sum'"),
        (LSTMClassifier, {"forget_bias": "big"}, {}, ValueError, "'forget_bias' parameter"),
        (LSTMClassifier, {"gradient_clip_value": 0}, {}, ValueError, "'gradient_clip_value'"),
        # training
        (MLPClassifier, {"lr": -1}, {}, ValueError, "'lr' parameter .* Got -1"),
        (MLPClassifier, {"max_epochs": 0}, {}, ValueError, "'max_epochs' parameter .* Got 0"),
        (MLPClassifier, {"batch_size": 0}, {}, ValueError, "'batch_size' parameter .* Got 0"),
        (MLPClassifier, {"l1": -0.1}, {}, ValueError, "'l1' parameter .* Got -0.1"),
        (MLPClassifier, {"weight_decay": -1}, {}, ValueError, "'weight_decay' .* Got -1"),
        (MLPClassifier, {"patience": 0}, {}, ValueError, "'patience' parameter .* Got 0"),
        (MLPClassifier, {"validation_fraction": 1}, {}, ValueError, "'validation_fraction'"),
        (
            MLPClassifier,
            {"optimizer": "adaam"},
            {},
            ValueError,
            r"optimizer='adaam' is unknown; did you mean 'adam'\? Use one of",
        ),
        (MLPClassifier, {"optimizer": dict}, {}, TypeError, "optimizer must be one of"),
        (
            MLPClassifier,
            {"optimizer": "lbfgs", "weight_decay": 1.0},
            {},
            ValueError,
            "weight_decay=1.0 is not supported by LBFGS",
        ),
        (MLPClassifier, {"device": "gpu"}, {}, ValueError, "device='gpu' cannot be used.*'cpu'"),
        (MLPClassifier, {"device": "cuda:99"}, {}, ValueError, "device='cuda:99' cannot be used"),
        (MLPClassifier, {"device": "meta"}, {}, ValueError, "device='meta' cannot be used"),
        (
            MLPClassifier,
            {"iterator_train__device": "gpu"},
            {},
            ValueError,
            "iterator_train__device='gpu' cannot be used.*'cpu'",
        ),
        (MLPClassifier, {"dtype": "float16"}, {}, ValueError, "dtype must be .*'float16'"),
        (MLPClassifier, {"callbacks": [print]}, {}, TypeError, "callbacks must be a list"),
        (MLPClassifier, {"class_weight": {7: 1}}, {}, ValueError, r"class_weight names \[7\]"),
        (
            MLPClassifier,
            {"class_weight": {0: 0, 1: 0}},
            {},
            ValueError,
            r"positive weight, got 1 class in y, \[2\]: .*class_weight",
        ),
        (MLPClassifier, {"class_weight": {1: -1}}, {}, ValueError, "class_weight must hold"),
        (MLPClassifier, {"class_weight": "even"}, {}, ValueError, "'class_weight' .* 'even'"),
        (MLPClassifier, {"random_state": "x"}, {}, ValueError, "'random_state' parameter"),
    ],
)
def test_errors_of_fit(Classifier, params, data, error, message, monkeypatch):
    monkeypatch.setattr(
        "sklrp.classifiers.net.TrainingNet.fit_loop", lambda *_, **__: pytest.fail("trained")
    )
    clf = make(Classifier, **params)
    with pytest.raises(error, match=f"(?s){message}"):
        clf.fit(data.get("X", NUMBERS), data.get("y", LABELS), data.get("w"))
    with pytest.raises(NotFittedError):
        clf.predict(NUMBERS)


@pytest.mark.parametrize("method", ["predict", "predict_proba", "decision_function", "explain"])
@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (NUMBERS[:, :5], ValueError, "X has 5 features, but MLPClassifier is expecting 6"),
        (NAN, ValueError, "X contains NaN"),
        (sparse.csr_array(NUMBERS), TypeError, "[Ss]parse"),
        (NUMBERS.astype(str), ValueError, "must hold numbers"),
        (NUMBERS * 1j, ValueError, "Complex data not supported"),
        (NUMBERS[:0], ValueError, r"0 sample\(s\)"),
        (NUMBERS.reshape(45, 4, 3), ValueError, "X has 12 features, but MLPClassifier is exp"),
    ],
)
def test_errors_of_prediction(method, X, error, message, blobs):
    with pytest.raises(NotFittedError, match="not fitted"):
        getattr(MLPClassifier(), method)(X)
    with pytest.raises(error, match=message):
        getattr(make(MLPClassifier).fit(*blobs), method)(X)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"target": 7}, ValueError, r"unknown label 7; the classes are \[0, 1, 2\]"),
        ({"target": "mid"}, ValueError, "unknown label 'mid'"),
        ({"target": [0, 1]}, ValueError, "90 labels, one per sample"),
        ({"target": np.zeros((90, 1))}, ValueError, "one per sample"),
        ({"rule": "epsilom"}, ValueError, "'epsilom'"),
        ({"rule": 3}, TypeError, "rule must be"),
        ({"rule": sklrp.AlphaBeta(2, 2)}, ValueError, "alpha"),
        ({"rule": sklrp.ZBox(1.0, -1.0)}, ValueError, "low"),
        ({"epsilon": -1}, ValueError, "epsilon must be"),
        ({"batch_size": 0}, ValueError, "batch_size must be"),
    ],
)
def test_errors_of_explain(options, error, message, blobs):
    clf = make(MLPClassifier).fit(*blobs)
    with pytest.raises(error, match=message):
        clf.explain(blobs[0], **options)


@pytest.mark.parametrize("call", ["fit", "predict", "explain", "decision_function"])
def test_samples_of_unequal_lengths_are_refused(call):
    X = np.random.default_rng(0).normal(size=(8, 2))
    y = np.tile([0, 1], 4)
    clf = MLPClassifier((2,), max_epochs=1, random_state=0).fit(X, y)
    ragged = [[1.0, 2.0], [3.0]] * 4
    for form in (ragged, np.array(ragged, dtype=object)):
        args = (form, y) if call == "fit" else (form,)
        with pytest.raises(ValueError, match=r"^X holds samples of unequal lengths.*Pad"):
            getattr(clf, call)(*args)


@pytest.mark.slow
@pytest.mark.parametrize("copied", [lambda c: pickle.loads(pickle.dumps(c)), copy.deepcopy])
def test_lbfgs_goes_on_after_a_copy(copied):
    """As its training would have gone on, step by step."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3))
    y = (X[:, 0] > 0).astype(int)
    params = {"optimizer": "lbfgs", "lr": 0.1, "max_epochs": 2, "random_state": 0}
    clf = MLPClassifier((3,), warm_start=True, **params).fit(X, y)
    other = copied(clf)
    for model in (clf, other):
        model.partial_fit(X, y).fit(X, y)
    np.testing.assert_array_equal(parameters(clf), parameters(other))


def test_learning_rates_without_bounds_are_refused():
    X, y = np.zeros((4, 2)), [0, 1, 0, 1]
    with pytest.raises(ValueError, match=r"'lr'.*1000000"):
        MLPClassifier(lr=1e30).fit(X, y)


@pytest.mark.parametrize("kind", ["forward", "hook"])
def test_networks_of_images_run_as_the_user_changed_them(kind):
    X = np.random.default_rng(0).normal(size=(40, 1, 8, 8)).astype(np.float32)
    clf = CNNClassifier(channels=(4,), max_epochs=1, device="cpu", random_state=0)
    clf.fit(X, np.arange(40) % 2)
    network, seen = clf.module_, []
    before = clf.predict_proba(X)
    if kind == "hook":
        network.register_full_backward_hook(lambda *args: seen.append(1))
        samples = torch.from_numpy(X.reshape(40, -1)).requires_grad_()
        clf.net_.infer(samples).sum().backward()
        assert seen
        return
    own = network.forward
    network.forward = lambda x: own(x) * 0 + 7
    after = clf.predict_proba(X)
    assert not np.allclose(before, after)
    np.testing.assert_allclose(after, 0.5, atol=1e-6)
