"""Networks read from Keras files: predictions of every layer and option, relevance, refusals.

The files are written by Keras 3 on torch. Relevance is compared with that of networks written by
hand, channels first, with the same weights.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import contextlib
import copy
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import sklrp
from sklrp import Composite, Epsilon, Flat, Gamma, ZPlus
from tests.helpers.keras_models import CASES, randomise, samples_of

keras = pytest.importorskip("keras", reason="needs keras: pip install 'sklrp[test]'")
h5py = pytest.importorskip("h5py", reason="needs h5py: pip install 'sklrp[keras]'")
pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="Keras is set to another backend than torch"
)
L = keras.layers
DATA = Path(__file__).parent / "data"

# On torch, Keras repeats the border where an average's windows reach over it; TensorFlow, and this
# package, leave out what is not there; files of TensorFlow in tests/data say so.
NOT_AS_TENSORFLOW = {"Average pooling 2d same size 3 strides 3"}
NAMES = [name for name in CASES if name not in NOT_AS_TENSORFLOW]
GROUPS = {
    f"{NAMES[k]} to {NAMES[k : k + 34][-1]}": NAMES[k : k + 34] for k in range(0, len(NAMES), 34)
}


def as_list(value):
    return list(value) if isinstance(value, list | tuple) else [value]


def predict(network, X):
    with torch.no_grad():
        out = network(*(torch.tensor(x) for x in X))
    return [v.numpy() for v in as_list(out)]


def predict_in_keras(model, X):
    with torch.no_grad():
        values = [torch.tensor(x) for x in X]
        out = model(values if len(X) > 1 else values[0], training=False)
    return [v.numpy() for v in as_list(out)]


def save(model, path):
    """Save a model in the form of a suffix; return what from_keras takes beside the path."""
    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
        return {"config": model.to_json()}
    model.save(path)
    return {}


def read(model, path):
    """Return the network that is read from a model's file."""
    return sklrp.from_keras(path, **save(model, path))


def sequential(*layers, seed=0):
    model = keras.Sequential(layers)
    randomise(model, seed)
    return model


@pytest.fixture(scope="module", params=list(GROUPS))
def group(request):
    """Return cases as the branches of one model, its samples, and what Keras predicts."""
    inputs, outputs, owners = [], [], []
    for name in GROUPS[request.param]:
        start, end = CASES[name](L, keras.Input)
        inputs += as_list(start)
        outputs += as_list(end)
        owners += [name] * len(as_list(end))
    model = keras.Model(inputs, outputs)
    randomise(model)
    X = samples_of(model.inputs)
    return model, X, predict_in_keras(model, X), owners


@pytest.mark.sweep(2)
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_predictions_are_those_of_keras(group, suffix, tmp_path):
    model, X, wanted, owners = group
    network = read(model, tmp_path / f"model{suffix}")
    found = predict(network, X)
    assert len(found) == len(wanted)
    for name, one, other in zip(owners, found, wanted, strict=True):
        assert one.shape == other.shape, name
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "path", sorted(DATA.glob("*.*5")) + sorted(DATA.glob("*.keras")), ids=lambda path: path.name
)
def test_predictions_are_those_of_tensorflow(path):
    """Files that tests/data/write_keras_files.py wrote, with Keras 2 and Keras 3."""
    stored = np.load(DATA / f"{path.name}.npz")
    config = DATA / f"{path.name}.json"
    network = sklrp.from_keras(path, config=config if config.exists() else None)
    found = predict(network, [stored[name] for name in stored if name[0] == "X"])
    wanted = [stored[name] for name in stored if name[0] == "y"]
    for k, (one, other) in enumerate(zip(found, wanted, strict=True)):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5, err_msg=str(k))


def test_files_of_tensorflow_are_there():
    assert {p.name for p in DATA.glob("keras*") if p.suffix in (".h5", ".keras")} == {
        "keras2.h5", "keras2.keras", "keras2_alone.weights.h5", "keras3.keras",
    }  # fmt: skip


@pytest.mark.sweep(1)
def test_every_layer_is_explained(group, tmp_path):
    """All branches at once: what relevance does not reach an input is accounted for."""
    model, X, wanted, _ = group
    ends = [L.Reshape((-1,))(end) for end in as_list(model.outputs)]
    joined = keras.Model(model.inputs, L.Concatenate()(ends))
    weights = np.random.default_rng(3).normal(size=sum(y[0].size for y in wanted))
    network = read(joined, tmp_path / "joined.keras").double()
    X = tuple((x.astype(np.float64) if x.dtype.kind == "f" else x)[:2] for x in X)
    relevance, details = sklrp.explain(network, X, target=weights, return_details=True)
    assert all(
        r.shape == x.shape and np.isfinite(r).all() for r, x in zip(relevance, X, strict=True)
    )
    assert sum(not r.any() for r in relevance) <= 1  # a shrink cuts off all of so few values
    total = sum(r.reshape(len(r), -1).sum(1) for r in relevance)
    kept = sum(layer[cause] for layer in details.layers for cause in CAUSES)
    np.testing.assert_allclose(total + kept, details.score, rtol=1e-6)


def cnn():
    return sequential(
        keras.Input((8, 9, 3)),
        L.Conv2D(4, 3, padding="same", name="stem"),
        L.BatchNormalization(name="norm"),
        L.ReLU(),
        L.MaxPooling2D(),
        L.Conv2D(5, 3, activation="relu", name="second"),
        L.Flatten(),
        L.Dense(6, activation="tanh", name="hidden"),
        L.Dense(3, activation="softmax", name="head"),
    )


class HandWritten(nn.Module):
    """The same as `cnn`, as one writes it in torch: channels first, flattened so."""

    def __init__(self, weights):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4, eps=1e-3)
        self.second = nn.Conv2d(4, 5, 3)
        self.hidden = nn.Linear(20, 6)
        self.head = nn.Linear(6, 3)
        w = [torch.tensor(v) for v in weights]
        # Keras flattens rows, columns, channels; torch channels, rows, columns.
        hidden = w[8].reshape(2, 2, 5, 6).permute(3, 2, 0, 1).flatten(1)
        self.load_state_dict(
            {
                "stem.weight": w[0].permute(3, 2, 0, 1), "stem.bias": w[1], "norm.weight": w[2],
                "norm.bias": w[3], "norm.running_mean": w[4], "norm.running_var": w[5],
                "norm.num_batches_tracked": torch.tensor(0),
                "second.weight": w[6].permute(3, 2, 0, 1), "second.bias": w[7],
                "hidden.weight": hidden, "hidden.bias": w[9], "head.weight": w[10].T,
                "head.bias": w[11],
            }
        )  # fmt: skip

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.second(nn.functional.max_pool2d(x, 2)))
        return torch.softmax(self.head(torch.tanh(self.hidden(x.flatten(1)))), 1)


CAUSES = ("bias", "epsilon", "padding", "initial_state", "dropped")
COMPOSITES = {
    "auto": "auto",
    "epsilon": "epsilon",
    "kinds": Composite([("conv", Gamma(0.3), "conv"), ("rest", Epsilon(1e-3), "all")]),
    "names": Composite(
        [("a", Flat(), "stem"), ("b", ZPlus(), "hidden"), ("rest", Epsilon(0.1), "all")]
    ),
}


@pytest.mark.parametrize("rule", list(COMPOSITES))
def test_relevance_is_that_of_a_network_written_by_hand(rule, tmp_path):
    model = cnn()
    network = read(model, tmp_path / "cnn.keras").double()
    by_hand = HandWritten(model.get_weights()).double().eval()
    X = np.random.default_rng(2).normal(size=(5, 8, 9, 3))
    found, details = sklrp.explain(network, X, rule=COMPOSITES[rule], return_details=True)
    wanted = sklrp.explain(by_hand, X.transpose(0, 3, 1, 2), rule=COMPOSITES[rule])
    assert details.head == "softmax"
    assert np.abs(wanted).max() > 1e-3
    np.testing.assert_allclose(found, wanted.transpose(0, 2, 3, 1), rtol=1e-9, atol=1e-12)


def test_relevance_of_recurrent_layers(tmp_path):
    model = sequential(
        keras.Input((7, 3)),
        L.Bidirectional(L.LSTM(4, return_sequences=True), name="both"),
        L.GRU(5, name="gru"),
        L.Dense(2, name="head"),
    )
    network = read(model, tmp_path / "series.keras").double()

    class ByHand(nn.Module):
        def __init__(self):
            super().__init__()
            self.both = nn.LSTM(3, 4, batch_first=True, bidirectional=True)
            self.gru = nn.GRU(8, 5, batch_first=True)
            self.head = nn.Linear(5, 2)

        def forward(self, x):
            return self.head(self.gru(self.both(x)[0])[0][:, -1])

    by_hand = ByHand()
    w = [torch.tensor(v) for v in model.get_weights()]
    order = torch.cat([torch.arange(5, 10), torch.arange(5), torch.arange(10, 15)])  # z, r, h
    by_hand.load_state_dict(
        {
            "both.weight_ih_l0": w[0].T, "both.weight_hh_l0": w[1].T, "both.bias_ih_l0": w[2],
            "both.bias_hh_l0": 0 * w[2], "both.weight_ih_l0_reverse": w[3].T,
            "both.weight_hh_l0_reverse": w[4].T, "both.bias_ih_l0_reverse": w[5],
            "both.bias_hh_l0_reverse": 0 * w[5], "gru.weight_ih_l0": w[6].T[order],
            "gru.weight_hh_l0": w[7].T[order], "gru.bias_ih_l0": w[8][0, order],
            "gru.bias_hh_l0": w[8][1, order], "head.weight": w[9].T, "head.bias": w[10],
        }
    )  # fmt: skip
    X = np.random.default_rng(2).normal(size=(4, 7, 3))
    found, wanted = (sklrp.explain(n, X, target=1) for n in (network, by_hand.double().eval()))
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


def test_relevance_of_loops_is_that_of_torchs_layers(tmp_path):
    """Masks that mask nothing change nothing: the loop is the layer."""
    layers = [L.LSTM(4, return_sequences=True), L.GRU(3), L.Dense(2)]
    plain = sequential(keras.Input((7, 3)), *layers)
    masked = keras.Sequential([keras.Input((7, 3)), L.Masking(-999.0), *layers])
    X = np.random.default_rng(2).normal(size=(4, 7, 3))
    one, other = (
        sklrp.explain(read(m, tmp_path / f"{k}.keras").double(), X, target=0, epsilon=1e-12)
        for k, m in enumerate((plain, masked))
    )
    np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-12)


@pytest.mark.sweep(1)
@pytest.mark.parametrize(
    "layer", [L.GRU(3, reset_after=False), L.LSTM(3, activation="relu"), L.SimpleRNN(3)]
)
def test_loops_are_of_the_kind_of_recurrent_layers(layer, tmp_path):
    model = keras.Sequential([keras.Input((4, 3)), L.Masking(), layer, L.Dense(2)])
    network = read(model, tmp_path / "loop.keras")
    X = np.random.default_rng(0).normal(size=(3, 4, 3)).astype("float32")
    rules = Composite([("loop", Gamma(), "recurrent"), ("head", Epsilon(), "dense")])
    plan = str(sklrp.plan(network, rules, X))
    lines = [line.split() for line in plan.splitlines() if "()" in line]
    assert {line[2] for line in lines if line[0].startswith(layer.name)} == {"Gamma()"}
    assert lines[-1][1:] == ["Linear", "Epsilon()"]


def test_relevance_of_attention_is_that_of_torchs_layer(tmp_path):
    start = keras.Input((7, 6))
    x = L.MultiHeadAttention(2, 3)(start, start)
    model = keras.Model(start, L.Dense(2)(L.Flatten()(x)))
    randomise(model)
    network = read(model, tmp_path / "model.keras").double()

    class ByHand(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.head = (
                nn.MultiheadAttention(6, 2, batch_first=True),
                nn.Linear(42, 2),
            )

        def forward(self, x):
            return self.head(self.attention(x, x, x, need_weights=False)[0].flatten(1))

    by_hand = ByHand()
    w = [torch.tensor(v) for v in model.get_weights()]
    by_hand.load_state_dict(
        {
            "attention.in_proj_weight": torch.cat([w[k].flatten(1).T for k in (0, 2, 4)]),
            "attention.in_proj_bias": torch.cat([w[k].flatten() for k in (1, 3, 5)]),
            "attention.out_proj.weight": w[6].flatten(0, 1).T, "attention.out_proj.bias": w[7],
            "head.weight": w[8].T, "head.bias": w[9],
        }
    )  # fmt: skip
    X = np.random.default_rng(2).normal(size=(4, 7, 6))
    found, wanted = (sklrp.explain(n, X, target=1) for n in (network, by_hand.double().eval()))
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9)


def test_relevance_of_a_convolutional_lstm_of_one_cell_is_that_of_an_lstm(tmp_path):
    fields = sequential(keras.Input((5, 1, 1, 3)), L.ConvLSTM2D(4, 1), L.Flatten(), L.Dense(2))
    plain = keras.Sequential([keras.Input((5, 3)), L.LSTM(4), L.Dense(2)])
    plain.set_weights([w[0, 0] if w.ndim == 4 else w for w in fields.get_weights()])
    X = np.random.default_rng(2).normal(size=(4, 5, 3))
    found, wanted = (
        sklrp.explain(
            read(m, tmp_path / f"{k}.keras").double(), x, target=0, rule="epsilon", epsilon=1e-12
        )
        for k, (m, x) in enumerate(((fields, X[:, :, None, None]), (plain, X)))
    )
    np.testing.assert_allclose(found[:, :, 0, 0], wanted, rtol=1e-6, atol=1e-12)


def test_masked_steps_get_no_relevance(tmp_path):
    model = sequential(keras.Input((6, 3)), L.Masking(0.0), L.LSTM(4), L.Dense(2))
    X = np.random.default_rng(2).normal(size=(3, 6, 3)).astype(np.float32)
    X[0, 4:] = X[1, :2] = 0.0
    network = read(model, tmp_path / "masked.keras")
    relevance = sklrp.explain(network, X, target=0)
    assert not relevance[0, 4:].any()
    assert not relevance[1, :2].any()
    assert np.abs(relevance[0, :4]).min() > 0


@pytest.mark.filterwarnings("ignore:.*does not support masking")
def test_a_mask_that_keras_forgets_is_forgotten(tmp_path):
    x = L.Masking(0.0)(start := keras.Input((6, 3)))
    model = keras.Model(start, L.GRU(4)(L.RMSNormalization()(x)))
    randomise(model)
    X = np.random.default_rng(1).normal(size=(3, 6, 3)).astype(np.float32)
    X[:, -2:] = 0.0
    wanted = predict_in_keras(model, [X])
    found = predict(read(model, tmp_path / "model.keras"), [X])
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_several_inputs_and_outputs_by_name(tmp_path):
    start, end = CASES["several outputs"](L, keras.Input)
    model = keras.Model(start, end)
    randomise(model)
    network = read(model, tmp_path / "model.keras")
    X = samples_of(model.inputs)
    names = dict(zip(("field", "index"), X, strict=True))
    by_place = sklrp.explain(network, tuple(X), target=("centre", 1))
    by_name = sklrp.explain(network, names, target=("centre", 1))
    assert by_place[0].shape == X[0].shape
    assert all(np.array_equal(by_place[k], by_name[name]) for k, name in enumerate(names))
    out = network(*map(torch.tensor, X))
    assert out._fields == ("centre", "spread")
    assert torch.equal(out[1], out.spread)
    assert not np.array_equal(sklrp.explain(network, tuple(X), target="spread")[0], by_place[0])
    with pytest.raises(ValueError, match="must hold the inputs"):
        network(torch.tensor(X[0]))
    with pytest.raises(ValueError, match=r"takes \(9, 8, 3\)"):
        network(torch.tensor(X[0]).movedim(-1, 1), torch.tensor(X[1]))


def test_outputs_in_a_dict(tmp_path):
    start = keras.Input((6,), name="x")
    ends = {"b": L.Dense(2)(start), "a": L.Dense(3)(start)}
    model = keras.Model({"x": start}, ends)
    X = samples_of([start])[0]
    network = read(model, tmp_path / "model.keras")
    found = network(x=torch.tensor(X))
    wanted = model({"x": torch.tensor(X)})
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in wanted.items()}
    torch.testing.assert_close(found["a"], wanted["a"].detach())


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".weights.h5"])
def test_models_in_models(suffix, tmp_path):
    inner = keras.Sequential([keras.Input((4,)), L.Dense(5, activation="tanh"),
                              L.BatchNormalization(), L.Dense(4)], name="inner")  # fmt: skip
    a, b = keras.Input((4,)), keras.Input((4,))
    two = keras.Model([a, b], [L.Add()([inner(a), b]), L.Dense(3)(b)], name="two")
    start = keras.Input((4,))
    x, y = two([L.Dense(4)(start), start])
    x, z = two([x, L.Dense(4)(x)])
    model = keras.Model(start, L.Concatenate()([x, y, z]))
    randomise(model)
    X = samples_of(model.inputs)
    network = read(model, tmp_path / f"model{suffix}")
    torch.testing.assert_close(
        torch.tensor(predict(network, X)[0]), torch.tensor(predict_in_keras(model, X)[0])
    )
    assert "two.inner" in dict(network.named_modules())
    assert sklrp.explain(network, X[0], target=2).shape == X[0].shape


def test_model_in_a_model_at_the_end(tmp_path):
    inner_start = keras.Input((4,))
    inner = keras.Model(inner_start, L.Dense(2)(inner_start))
    start = keras.Input((4,))
    model = keras.Model(start, [inner(start), inner(L.Dense(4)(start))])
    randomise(model)
    X = samples_of(model.inputs)
    for one, other in zip(
        predict(read(model, tmp_path / "m.keras"), X), predict_in_keras(model, X), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_float64(tmp_path):
    model = sequential(keras.Input((5,), dtype="float64"), L.Dense(3, dtype="float64"))
    network = read(model, tmp_path / "model.keras")
    assert {p.dtype for p in network.parameters()} == {torch.float64}
    mixed = sequential(keras.Input((5,)), L.Dense(3, dtype="float64"), L.Dense(2))
    with pytest.raises(ValueError, match="float64 beside smaller ones"):
        read(mixed, tmp_path / "mixed.keras")


def test_names_that_modules_have_themselves(tmp_path):
    path = saved(tmp_path, keras.Input((5,)), L.Dense(3, name="half"), L.Dense(2))

    def change(config):
        config["config"]["layers"][2]["config"]["name"] = "a.b"

    network = sklrp.from_keras(with_config(path, change))
    assert {"half_", "a_b"} <= set(dict(network.named_modules()))


def test_networks_are_copied_and_pickled(tmp_path):
    network = read(cnn(), tmp_path / "cnn.keras")
    X = samples_of([keras.Input((8, 9, 3))])[0]
    wanted = sklrp.explain(network, X)
    again = torch.load(_saved(network, tmp_path / "net.pt"), weights_only=False)
    for other in (copy.deepcopy(network), again):
        assert np.array_equal(sklrp.explain(other, X), wanted)


def _saved(network, path):
    torch.save(network, path)
    return path


# What is refused


def saved(tmp_path, *layers):
    path = tmp_path / "model.keras"
    keras.Sequential(layers).save(path)
    return path


def with_config(path, change, target=None):
    """Return a copy of a .keras file whose config was changed."""
    target = target or path.with_name("changed.keras")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename == "config.json":
                found = json.loads(data)
                data = json.dumps(change(found) or found).encode()
            new.writestr(info, data)
    return target


@pytest.fixture
def small(tmp_path):
    return saved(tmp_path, keras.Input((5,)), L.Dense(3, name="one"), L.Dense(2, name="two"))


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([keras.Input((4, 4, 3)), L.RandomCrop(3, 3, name="crop")], "'crop' .RandomCrop."),
        ([keras.Input((5, 4)), L.LSTM(3, stateful=False, name="a"),
          L.UnitNormalization(name="unit")], "'unit' .UnitNormalization."),
        ([keras.Input((4, 4, 3)), L.UpSampling2D(interpolation="bicubic", name="up")],
         "'up' .UpSampling2D.*interpolation.*'bicubic'"),
        ([keras.Input((5, 4)), L.Masking(), L.Softmax(name="soft")], "'soft' .Softmax.*masked"),
        ([keras.Input((4, 4)), L.LayerNormalization(axis=1, name="norm")], "'norm'.*axis"),
        ([keras.Input((5, 4)), L.SpectralNormalization(L.Dense(3), name="s")], "'s' .Spectral"),
    ],
)  # fmt: skip
def test_layers_and_options_are_refused_by_name(layers, said, tmp_path):
    with pytest.raises(TypeError, match=said):
        sklrp.from_keras(saved(tmp_path, *layers))


def test_unknown_options_are_refused(small):
    def change(config):
        config["config"]["layers"][2]["config"]["twist"] = 3

    with pytest.raises(TypeError, match=r"'two' \(Dense\).*twist=3 is not known"):
        sklrp.from_keras(with_config(small, change))


def test_operations_of_what_does_not_fit_are_named(tmp_path):
    start = keras.Input((5, 4))
    path = tmp_path / "model.keras"
    keras.Model(start, start[:, 0]).save(path)

    def change(config):
        config["config"]["layers"][1]["inbound_nodes"][0]["args"][1] = "first"

    with pytest.raises(ValueError, match=r"'get_item.*does not take samples of shape .5, 4."):
        sklrp.from_keras(with_config(path, change))


def test_classes_of_others_are_refused(small):
    def change(config):
        config["config"]["layers"][1]["module"] = "mine"

    with pytest.raises(TypeError, match=r"'one' \(Dense\) is not supported"):
        sklrp.from_keras(with_config(small, change))


def test_subclasses_of_models_are_refused(small):
    def change(config):
        return {"class_name": "MyModel", "module": "mine", "config": {"name": "m"}}

    with pytest.raises(TypeError, match="MyModel is not supported"):
        sklrp.from_keras(with_config(small, change))


def test_sizes_are_compared_before_anything_is_built(small):
    def huge(config):
        config["config"]["layers"][1]["config"]["units"] = 2**30

    with pytest.raises(ValueError, match=r"shape \(5, 3\).*declares kernel of shape \(5, 1073"):
        sklrp.from_keras(with_config(small, huge))

    def endless(config):
        config["config"]["layers"][0]["config"]["batch_shape"] = [None, 10**8, 5]
        config["config"]["layers"][1] = {
            "module": "keras.layers", "class_name": "LSTM", "config": {"name": "one", "units": 3},
        }  # fmt: skip

    with pytest.raises(ValueError, match="'layers/lstm/cell/vars/'"):
        sklrp.from_keras(with_config(small, endless))

    def huge_output(config):
        config["config"]["layers"][2] = {
            "module": "keras.layers", "class_name": "RepeatVector",
            "config": {"name": "again", "n": 2**31 - 1},
        }  # fmt: skip

    with pytest.raises(ValueError, match=r"'again'.*more than"):
        sklrp.from_keras(with_config(small, huge_output))


def test_arrays_that_are_not_there_or_too_many(small):
    def more(config):
        config["config"]["layers"].append(
            {"module": "keras.layers", "class_name": "Dense",
             "config": {"name": "three", "units": 2}}
        )  # fmt: skip

    with pytest.raises(ValueError, match="holds 0 arrays in 'layers/dense_2/vars/'"):
        sklrp.from_keras(with_config(small, more))

    def fewer(config):
        del config["config"]["layers"][2]

    with pytest.raises(ValueError, match="holds arrays that no layer of its config has"):
        sklrp.from_keras(with_config(small, fewer))


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_the_command_line_says_how_to_read_them(suffix, tmp_path):
    from click.testing import CliRunner

    from sklrp.cli import main

    path, data = tmp_path / f"model.{suffix}", tmp_path / "X.npy"
    save(keras.Sequential([keras.Input((3,)), L.Dense(2)]), path)
    np.save(data, np.zeros((2, 3)))
    result = CliRunner().invoke(
        main, ["explain", str(path), str(data), "-o", str(tmp_path / "out.npy")]
    )
    assert result.exit_code != 0
    assert f"network = sklrp.from_keras({str(path)!r})" in result.output
    with pytest.raises(ValueError, match=r"from_keras\("):
        sklrp.load(path)


def test_files_that_are_none(tmp_path, small):
    text = tmp_path / "text.keras"
    text.write_text("no model")
    with pytest.raises(ValueError, match=r"must be a file of Keras.*neither"):
        sklrp.from_keras(text)
    with pytest.raises(FileNotFoundError):
        sklrp.from_keras(tmp_path / "missing.keras")
    with pytest.raises(ValueError, match="folder"):
        sklrp.from_keras(tmp_path)
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("a.txt", "b")
    with pytest.raises(ValueError, match="zip archive without"):
        sklrp.from_keras(other)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["x"] = np.zeros(3)
    with pytest.raises(ValueError, match="weights and no model"):
        sklrp.from_keras(tmp_path / "data.h5")
    with pytest.raises(ValueError, match="config must be None"):
        sklrp.from_keras(small, config="{}")


def test_damaged_files(small, tmp_path):
    data = small.read_bytes()
    for k, part in enumerate((data[: len(data) // 2], data[:-30])):
        path = tmp_path / f"cut{k}.keras"
        path.write_bytes(part)
        with pytest.raises(ValueError, match=r"damaged|neither"):
            sklrp.from_keras(path)
    rng = np.random.default_rng(0)
    for k in range(30):
        changed = np.frombuffer(data, np.uint8).copy()
        changed[rng.integers(0, len(changed), size=200)] = rng.integers(0, 256, 200)
        path = tmp_path / f"noise{k}.keras"
        path.write_bytes(changed.tobytes())
        with pytest.raises((ValueError, TypeError)):
            sklrp.from_keras(path)


@pytest.mark.parametrize("option", ["units", "use_bias", "activation", "unknown"])
@pytest.mark.parametrize("value", ["x" * 10**5, [1] * 10**5, {"class_name": "x" * 10**5}])
def test_errors_of_long_options_are_short(option, value, small):
    def change(config):
        config["config"]["layers"][1]["config"][option] = value

    with pytest.raises((TypeError, ValueError)) as caught:
        sklrp.from_keras(with_config(small, change))
    assert len(str(caught.value)) < 2000


def test_damaged_arrays(small, tmp_path):
    """The archive is whole, so that damage is met where HDF5 opens an array."""
    rng = np.random.default_rng(0)
    path = tmp_path / "noise.keras"
    for _ in range(60):
        with zipfile.ZipFile(small) as old, zipfile.ZipFile(path, "w") as new:
            for info in old.infolist():
                data = np.frombuffer(old.read(info), np.uint8).copy()
                if info.filename == "model.weights.h5":
                    data[rng.integers(0, len(data), 40)] = rng.integers(0, 256, 40)
                new.writestr(info.filename, data.tobytes())
        with contextlib.suppress(ValueError, TypeError):  # padding may be damaged, to no effect
            sklrp.from_keras(path)


def test_bombs(small, tmp_path):
    bomb = tmp_path / "bomb.keras"
    with zipfile.ZipFile(small) as old, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            filler = bytes(2**26) if info.filename == "model.weights.h5" else b""
            new.writestr(info.filename, old.read(info) + filler)
    with pytest.raises(ValueError, match="would be unpacked to"):
        sklrp.from_keras(bomb)
    path = tmp_path / "empty.h5"
    model = keras.Sequential([keras.Input((1000,)), L.Dense(1000, name="d")])
    with h5py.File(path, "w") as file:  # declared, and never written
        group = file.create_group("layers/dense/vars")
        group.create_dataset("0", (1000, 1000), "f4", chunks=(100, 100))
        group["1"] = np.zeros(1000, np.float32)
    with pytest.raises(ValueError, match="declares 4000000 bytes, of which the file holds 0"):
        sklrp.from_keras(path, config=model.to_json())
    with h5py.File(path, "w") as file:
        file["layers/dense/vars/0"] = h5py.ExternalLink("elsewhere.h5", "/x")
    with pytest.raises(ValueError, match="is a link"):
        sklrp.from_keras(path, config=model.to_json())


@pytest.mark.parametrize("n_levels", [400, 20_000])  # too many for the reader; for JSON, too
def test_models_nested_too_deeply(small, n_levels):
    leaf = {"class_name": "InputLayer", "config": {"name": "x", "batch_shape": [1, 2]}}
    head = '{{"class_name": "Sequential", "config": {{"name": "m{}", "layers": ['
    heads = "".join(head.format(k) for k in range(n_levels))
    text = heads + json.dumps(leaf) + "]}}" * n_levels
    with zipfile.ZipFile(small) as old, zipfile.ZipFile(small.with_name("deep.keras"), "w") as new:
        new.writestr("config.json", text)
        new.writestr("model.weights.h5", old.read("model.weights.h5"))
    with pytest.raises(ValueError, match="too deeply"):
        sklrp.from_keras(small.with_name("deep.keras"))


def test_without_h5py(small, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ImportError, match=r"from_keras needs h5py: pip install 'sklrp\[keras\]'"):
        sklrp.from_keras(small)
