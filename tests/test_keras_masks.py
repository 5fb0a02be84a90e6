"""Masks of steps in networks read from Keras files: merges of masked inputs, and models in models.

Predictions are compared with those of Keras 3, and relevance with that of the same layers in one
model. What Keras 2 does with masks is held against its rules, written down here.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np
import pytest
import torch

import sklrp
from sklrp import Composite, Epsilon
from sklrp.keras.assembly import build
from sklrp.keras.layer_config import LayerConfig
from tests.helpers.keras_models import randomise

keras = pytest.importorskip("keras", reason="needs keras: pip install 'sklrp[test]'")
pytest.importorskip("h5py", reason="needs h5py: pip install 'sklrp[keras]'")
pytestmark = [
    pytest.mark.skipif(
        keras.backend.backend() != "torch", reason="Keras is set to another backend than torch"
    ),
    pytest.mark.filterwarnings("ignore:.*does not support masking"),
]
L = keras.layers
SHAPE = (4, 3)
MERGES = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate")


def series(n_inputs, seed=0):
    """Return samples of several inputs, in which a third of all steps is masked."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_inputs, 4, *SHAPE)).astype(np.float32)
    X[rng.random(X.shape[:3]) < 1 / 3] = 0.0
    X[:, 0, 1] = 0.0  # and one of them in all inputs
    return list(X)


def as_list(value):
    return list(value) if isinstance(value, list | tuple) else [value]


def read(model, path):
    model.save(path)
    return sklrp.from_keras(path)


def assert_predicts_as_keras(model, X, path):
    """Read a model from its file; hold its outputs against those of Keras."""
    network = read(model, path)
    values = [torch.tensor(x) for x in X]
    with torch.no_grad():
        wanted = as_list(model(values if len(X) > 1 else values[0], training=False))
        found = as_list(network(*values))
    assert len(found) == len(wanted)
    for name, one, other in zip(network.output_names, found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5, err_msg=name)
    return network


def merged(name, masked, **options):
    """Return a merge of inputs, some masked, and what shows its values and its mask."""
    inputs = [keras.Input(SHAPE) for _ in masked]
    given = [L.Masking()(x) if m else x for x, m in zip(inputs, masked, strict=True)]
    y = getattr(L, name)(**options)(given)
    return inputs, [L.GRU(2)(y), L.GlobalAveragePooling1D()(y), L.Dense(2)(y)]


@pytest.mark.sweep(2)
@pytest.mark.parametrize(
    ("masked", "suffix"),
    [((1, 1), ".keras"), ((1, 0), ".h5"), ((0, 1), ".keras"), ((1, 0, 1), ".keras"),
     ((1, 1, 1), ".h5")],
)  # fmt: skip
def test_merges_of_masked_steps(masked, suffix, tmp_path):
    X, inputs, outputs = [], [], []
    cases = [(name, {}) for name in MERGES if name != "Subtract" or len(masked) == 2]
    for name, options in [*cases, ("Concatenate", {"axis": 1})]:
        start, end = merged(name, masked, **options)
        inputs, outputs, X = inputs + start, outputs + end, X + series(len(masked), seed=3)
    model = keras.Model(inputs, outputs)
    randomise(model)
    network = assert_predicts_as_keras(model, X, tmp_path / f"model{suffix}")
    target = (network.output_names[0], 0)
    relevance = sklrp.explain(network, tuple(X), target=target)
    assert np.abs(relevance[0]).max() > 1e-4
    if all(masked):  # of a step that all inputs mask, nothing is known
        hidden = np.logical_and.reduce([(x == 0).all(-1) for x in X[: len(masked)]])
        assert hidden.any()
        assert not any(r[hidden].any() for r in relevance[: len(masked)])


@pytest.mark.parametrize("name", [n for n in MERGES if n != "Concatenate"])
def test_keras_2_joins_the_masks_that_are_there(name):
    rng = np.random.default_rng(0)
    n = 2 if name == "Subtract" else 3
    x = [torch.tensor(rng.normal(size=(2, *SHAPE))) for _ in range(n)]
    masks = [torch.tensor(rng.random((2, SHAPE[0])) < 0.6) for _ in range(2)]
    layer = LayerConfig(name, {"name": "merge"}, version=2)
    layer.mask_axes = (2, 2) if n == 2 else (2, 0, 2)
    blueprint = build(layer, [tuple(v.shape) for v in x])
    assert torch.equal(blueprint.mask(*x, *masks), masks[0] & masks[1])
    plain = {"Add": sum(x), "Multiply": torch.stack(x).prod(0), "Average": sum(x) / n,
             "Subtract": x[0] - x[1], "Maximum": torch.stack(x).amax(0),
             "Minimum": torch.stack(x).amin(0)}[name]  # fmt: skip
    (part,) = blueprint.parts
    assert blueprint.masks == "join"
    torch.testing.assert_close(part.module(*x), plain)  # values do not depend on masks


@pytest.mark.parametrize("axis", [1, -1])
def test_keras_2_concatenates_masks(axis):
    rng = np.random.default_rng(1)
    x = [torch.tensor(rng.normal(size=(2, *SHAPE))) for _ in range(2)]
    masks = [torch.tensor(rng.random((2, SHAPE[0])) < 0.6) for _ in range(2)]
    layer = LayerConfig("Concatenate", {"name": "merge", "axis": axis}, version=2)
    layer.mask_axes = (2, 2)
    found = build(layer, [tuple(v.shape) for v in x]).mask(*x, *masks)
    assert torch.equal(found, torch.cat(masks, 1) if axis == 1 else masks[0] & masks[1])
    layer = LayerConfig("Concatenate", {"name": "merge", "axis": 1}, version=2)
    layer.mask_axes = (2, 0)
    with pytest.raises(TypeError, match=r"'merge'.*does not join"):
        build(layer, [tuple(v.shape) for v in x])


def stack(nested, shape, *layers):
    """Return layers one after the other: a model of its own, or calls in the whole."""
    if nested:
        return keras.Sequential([keras.Input(shape), *layers])

    def call(x):
        for layer in layers:
            x = layer(x)
        return x

    return call


def mask_within():
    layers = [L.Masking(), L.Dense(4, activation="relu"), L.LSTM(3), L.Dense(2)]

    def case(nested):
        start = keras.Input(SHAPE)
        return start, stack(nested, (None, 3), *layers)(start)

    return case


def mask_handed_in():
    layers, end = [L.Dense(4, activation="relu"), L.LSTM(3)], L.Dense(2)

    def case(nested):
        start = keras.Input(SHAPE)
        return start, end(stack(nested, SHAPE, *layers)(L.Masking(name="mask")(start)))

    return case


def mask_handed_out():
    layers = [L.Masking(), L.Dense(4, activation="relu")]
    ends = [L.LSTM(3), L.GlobalAveragePooling1D(), L.Flatten()]

    def case(nested):
        start = keras.Input(SHAPE)
        x = stack(nested, SHAPE, *layers)(start)
        return start, [end(x) for end in ends]

    return case


def three_levels():
    layers = [L.Masking(), L.Dense(4, activation="relu")]
    middle, rest = L.LSTM(4, return_sequences=True), [L.GRU(3), L.Dense(2)]

    def case(nested):
        start = keras.Input(SHAPE)
        inner = stack(nested, SHAPE, *layers)
        return start, stack(nested, SHAPE, stack(nested, SHAPE, inner, middle), *rest)(start)

    return case


def shared_twice():
    layers = [L.Masking(), L.Dense(4, activation="relu"), L.GRU(3)]
    ends = [L.Maximum(), L.Dense(2)]

    def case(nested):
        inner = stack(nested, SHAPE, *layers)
        inputs = keras.Input(SHAPE), keras.Input(SHAPE)
        return list(inputs), ends[1](ends[0]([inner(x) for x in inputs]))

    return case


def several_ends():
    """A functional model of two inputs, one of them masked, and its outputs in another order."""
    rnn, dense, add, end = L.LSTM(3, return_sequences=True), L.Dense(3), L.Add(), L.GRU(2)

    def inner(a, b):
        y = rnn(a)
        return add([y, b]), y, dense(b)

    def case(nested):
        inputs = keras.Input(SHAPE), keras.Input(SHAPE)
        given = L.Masking(name="mask")(inputs[0]), inputs[1]
        if nested:
            own = [keras.Input(SHAPE), keras.Input(SHAPE)]
            found = keras.Model(own, list(inner(*own)))(list(given))
        else:
            found = inner(*given)
        return list(inputs), [end(found[1]), end(found[1]), found[0], found[2]]

    return case


def states_handed_out():
    rnn, other = L.LSTM(3, return_sequences=True, return_state=True), L.LSTM(2)

    def case(nested):
        start = keras.Input(SHAPE)
        if nested:
            own = keras.Input(SHAPE)
            y, h, c = keras.Model(own, rnn(L.Masking(name="mask")(own)))(start)
        else:
            y, h, c = rnn(L.Masking(name="mask")(start))
        return start, [other(y), h, c]

    return case


NESTED = [
    mask_within, mask_handed_in, mask_handed_out, three_levels, shared_twice, several_ends,
    states_handed_out,
]  # fmt: skip


@pytest.mark.sweep(5)
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("make", NESTED)
def test_models_in_models_are_as_one(make, suffix, tmp_path):
    case = make()
    model = keras.Model(*case(nested=True))
    randomise(model)
    flat = keras.Model(*case(nested=False))
    X = series(len(model.inputs))
    network = assert_predicts_as_keras(model, X, tmp_path / f"nested{suffix}").double()
    if suffix == ".h5":  # which is the same network
        return
    twin = read(flat, tmp_path / "flat.keras").double()
    rule = Composite([("all", Epsilon(1e-6), "all")])
    X = tuple(x.astype(np.float64) for x in X)
    with torch.no_grad():
        ends = as_list(network(*map(torch.tensor, X)))
    for name, other, end in zip(network.output_names, twin.output_names, ends, strict=True):
        largest = np.unravel_index(int(end.abs().sum(0).argmax()), end.shape[1:])
        place = tuple(map(int, largest)) if len(largest) > 1 else int(largest[0])
        found, wanted = (
            sklrp.explain(m, X, rule=rule, target=(key, place) if len(ends) > 1 else place)
            for m, key in ((network, name), (twin, other))
        )
        for one, two in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-12)
        assert max(np.abs(r).max() for r in found) > 1e-4


def test_embeddings_hand_their_mask_out(tmp_path):
    start = keras.Input((6,), dtype="int32")
    inner = keras.Sequential([keras.Input((6,), dtype="int32"), L.Embedding(5, 3, mask_zero=True)])
    model = keras.Model(start, L.LSTM(3)(inner(start)))
    randomise(model)
    X = np.random.default_rng(0).integers(0, 5, size=(4, 6)).astype(np.int32)
    assert_predicts_as_keras(model, [X], tmp_path / "model.keras")


def test_operations_and_dots_forget_masks(tmp_path):
    start, other = keras.Input(SHAPE), keras.Input(SHAPE)
    x = L.Masking()(start)
    ends = [L.LSTM(2)(x + 2 * x), L.LSTM(2)(x[:, 1:]), L.Dot(axes=2)([other, x])]
    model = keras.Model([start, other], ends)
    randomise(model)
    assert_predicts_as_keras(model, series(2), tmp_path / "model.keras")


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_layer_in_two_models(suffix, tmp_path):
    """Of which Keras writes the arrays once."""
    shared, own = L.Dense(4, activation="relu"), keras.Input(SHAPE)
    inner = keras.Model(own, L.Flatten()(shared(own)))
    start = keras.Input(SHAPE)
    model = keras.Model(start, L.Add()([inner(start), L.Flatten()(shared(start))]))
    randomise(model)
    assert_predicts_as_keras(model, series(1), tmp_path / f"model{suffix}")


def test_a_layer_that_keras_does_not_find_again(tmp_path):
    """Of the deeper of two models Keras writes no number, and cannot load the file itself."""
    shared = keras.Sequential([keras.Input(SHAPE), L.Dense(4)])
    start = keras.Input(SHAPE)
    parts = []
    for end in (L.Flatten(), L.GlobalAveragePooling1D()):
        own = keras.Input(SHAPE)
        parts.append(keras.Model(own, L.Dense(2)(end(shared(own)))))
    model = keras.Model(start, L.Add()([part(start) for part in parts]))
    model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"several models once: save such a model as \.h5"):
        sklrp.from_keras(tmp_path / "model.keras")
    assert_predicts_as_keras(model, series(1), tmp_path / "model.h5")


def test_a_model_called_with_masks_and_without(tmp_path):
    start = keras.Input(SHAPE)
    inner = keras.Sequential([keras.Input(SHAPE), L.LSTM(3)], name="inner")
    model = keras.Model(start, L.Add()([inner(L.Masking()(start)), inner(start)]))
    model.save(tmp_path / "model.keras")
    with pytest.raises(TypeError, match=r"'inner'.*masked steps and without; call it with both"):
        sklrp.from_keras(tmp_path / "model.keras")


@pytest.mark.parametrize("size", [2, 5, 8])
@pytest.mark.parametrize("strides", [1, 2, None])
def test_averages_of_windows_larger_than_the_field(size, strides, tmp_path):
    """Window by window, of the cells that are there; relevance of a linear network."""
    shape = (4, 3, 2)
    start = keras.Input((*shape, 2))
    pool = L.AveragePooling3D(size, strides, padding="same")
    model = keras.Model(start, L.Dense(1, use_bias=False)(L.Flatten()(pool(start))))
    randomise(model)
    X = np.random.default_rng(0).normal(size=(3, *shape, 2))
    step = strides or size
    n_out = [-(-n // step) for n in shape]
    share = np.zeros((*n_out, *shape))
    for window in np.ndindex(*n_out):
        cells = []
        for k, n, m in zip(window, shape, n_out, strict=True):
            first = k * step - max((m - 1) * step + size - n, 0) // 2
            cells.append(slice(max(first, 0), first + size))
        share[window][tuple(cells)] = 1 / share[window][tuple(cells)].size
    weights = model.get_weights()[0].astype(np.float64).reshape(*n_out, 2)
    effect = np.einsum("abcxyz,abck->xyzk", share, weights)
    model.save(tmp_path / "model.keras")
    network = sklrp.from_keras(tmp_path / "model.keras").double()
    with torch.no_grad():
        found = network(torch.tensor(X))[:, 0].numpy()
    np.testing.assert_allclose(found, (X * effect).sum((1, 2, 3, 4)), rtol=1e-9)
    rule = Composite([("all", Epsilon(0.0), "all")])
    relevance = sklrp.explain(network, X, rule=rule, epsilon=0.0)
    np.testing.assert_allclose(relevance, X * effect, rtol=1e-8, atol=1e-12)
