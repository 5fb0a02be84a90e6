"""Relevance at the outputs of named layers: against gradients, sums, and what is refused.

Behind the cut the networks here have ReLUs, linear maps and poolings alone: with the epsilon rule
and epsilon 0 the relevance at a hidden layer is its value times the score's gradient, which
autograd gives by hooks, independently of the engine.
"""

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import sklrp
from sklrp import CNNClassifier, LSTMClassifier, MLPRegressor
from tests.helpers.comparing import assert_close, assert_same_to_rounding

EXACT = {"rule": "epsilon", "epsilon": 0.0}


class Residual(nn.Module):
    """A residual block with one activation for two places, in place or not."""

    def __init__(self, inplace):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        self.bn1, self.bn2 = (nn.BatchNorm2d(4) for _ in range(2))
        self.relu = nn.ReLU(inplace=inplace)

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.relu.inplace:
            out += x
        else:
            out = out + x
        return self.relu(out)


class ResNet(nn.Module):
    """Two residual blocks, a layer that is not called, and one whose output is not used."""

    def __init__(self, inplace=True):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(inplace=inplace))
        self.blocks = nn.ModuleList([Residual(inplace), Residual(inplace)])
        self.head = nn.Linear(4, 3)
        self.side = nn.Linear(4, 2)
        self.spare = nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        pooled = x.mean((2, 3))
        self.side(pooled)
        return self.head(pooled)


class Sequences(nn.Module):
    """An LSTM with time first; its sequence, and the last state, are used."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 5, num_layers=2)
        self.dense = nn.Linear(5, 4)
        self.last = nn.Linear(10, 2)

    def forward(self, x):
        out, (h, _) = self.lstm(x.transpose(0, 1))
        steps = self.dense(out.transpose(0, 1)).relu()
        return self.last(torch.cat([h[-1], steps.mean(1), steps[:, -1, :1]], dim=1))


class Gated(nn.Module):
    """Two inputs by name, of which one is an index."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.dense = nn.Linear(4, 3)
        self.out = nn.Linear(3, 2)

    def forward(self, x, word):
        return self.out(torch.relu(self.dense(x)) + self.embed(word))


def build(network, *args, **kwargs):
    """Return a network of drawn weights, with statistics of batch normalisation too."""
    torch.manual_seed(0)
    network = network(*args, **kwargs).double().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return network


def chain(inplace=True):
    """Return nested sequences with all that is folded, stepped over or done in place."""
    return nn.Sequential(
        nn.Sequential(
            nn.BatchNorm2d(2), nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=inplace),
            nn.Dropout(), nn.MaxPool2d(2),
        ),
        nn.Sequential(nn.Conv2d(4, 4, 2), nn.ReLU(inplace=inplace), nn.BatchNorm2d(4)),
        nn.Flatten(),
        nn.Sequential(nn.Linear(16, 6), nn.ReLU(inplace=inplace), nn.Linear(6, 3), nn.Dropout()),
    )  # fmt: skip


def samples(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape)


def value_times_gradient(network, arguments, names, score):
    """Return what hooks and autograd tell of the named modules, a list of their calls each."""
    held = {name: [] for name in names}

    def keep(name):
        def hook(module, args, output):
            first = output[0] if isinstance(output, tuple) else output
            first.retain_grad()
            held[name].append(first)

        return hook

    modules = dict(network.named_modules())
    handles = [modules[name].register_forward_hook(keep(name)) for name in names]
    score(network(*arguments)).sum().backward()
    for handle in handles:
        handle.remove()
    zeros = torch.zeros(())
    return {
        name: [(v * (zeros if v.grad is None else v.grad)).detach().numpy() for v in values]
        for name, values in held.items()
    }


# --- Against gradients ----------------------------------------------------------------------


@pytest.mark.slow
def test_residual_network_against_gradients():
    """Blocks, layers in them, activations in place and what is not used, in chunks of workers."""
    X = samples(7, 2, 8, 8)
    once = ["stem", "stem.1", "blocks.0", "blocks.1", "blocks.0.bn1", "blocks.1.bn2", "head"]
    calls = ["blocks.0.relu#1", "blocks.0.relu#2"]
    _, details = sklrp.explain(
        build(ResNet), X, target=1, batch_size=3, n_jobs=2, layers=[*once, "side", *calls], **EXACT
    )
    want = value_times_gradient(
        build(ResNet, inplace=False),
        [torch.from_numpy(X)],
        [*once, "side", "blocks.0.relu"],
        lambda y: y[:, 1],
    )
    found = details.layer_relevance
    assert list(found) == [*once, "side", *calls]
    for name in once:
        assert_close(found[name], want[name][0])
        assert np.abs(found[name]).max() > 1e-3
    for call, name in enumerate(calls):
        assert_close(found[name], want["blocks.0.relu"][call])
    np.testing.assert_array_equal(found["side"], np.zeros((7, 2)))
    assert details.layers["blocks.0"] is found["blocks.0"]


def test_chain_against_gradients():
    """In a chain too, with normalisations folded in from both sides, and pooling."""
    X = samples(5, 2, 8, 8)
    names = [name for name, _ in build(chain).named_modules()]
    kept = ["0", "0.2", "0.3", "0.4", "0.5", "1", "1.0", "1.1", "1.2", "2", "3", "3.0", "3.1"]
    kept += ["3.2", "3.3", ""]
    _, details = sklrp.explain(build(chain), X, target="all", layers=kept, **EXACT)
    for k in range(3):
        want = value_times_gradient(
            build(chain, inplace=False), [torch.from_numpy(X)], kept, lambda y, k=k: y[:, k]
        )
        for name in kept:
            assert_close(details.layer_relevance[name][:, k], want[name][0])
    for name in set(names) - set(kept):
        with pytest.raises(ValueError, match=f"'{name}', whose output has no relevance of its"):
            sklrp.explain(build(chain), X, layers=[name])
    with pytest.raises(ValueError, match=r"'0\.1' and '0\.2' are one layer; ask for '0\.2'"):
        sklrp.explain(build(chain), X, layers=["0.1"])


def test_recurrent_layer_with_time_first():
    """The sequence and the states of a layer have names of their own, samples come first."""
    X = samples(4, 6, 3)
    asked = {"layers": ["lstm", "dense"], "target": 0, "batch_size": 3}
    _, details = sklrp.explain(build(Sequences), X, **asked, **EXACT)
    found = details.layer_relevance
    assert list(found) == ["lstm", "lstm[1]", "lstm[2]", "dense"]
    network = build(Sequences)
    with torch.no_grad():
        out, (h, _) = network.lstm(torch.from_numpy(X).transpose(0, 1))
    out, h = (v.clone().requires_grad_() for v in (out, h))
    steps = network.dense(out.transpose(0, 1)).relu()
    score = network.last(torch.cat([h[-1], steps.mean(1), steps[:, -1, :1]], dim=1))[:, 0]
    for name, v in (("lstm", out), ("lstm[1]", h)):
        gradient = torch.autograd.grad(score.sum(), v, retain_graph=True)[0]
        assert_close(found[name], (v * gradient).detach().transpose(0, 1).numpy())
    assert found["dense"].shape == (4, 6, 4)
    np.testing.assert_array_equal(found["lstm[2]"], np.zeros((4, 2, 5)))
    one = sklrp.explain(build(Sequences), X, **{**asked, "layers": ["lstm[1]"]}, **EXACT)[1]
    assert list(one.layer_relevance) == ["lstm[1]"]


@pytest.mark.parametrize(
    ("target", "score"),
    [
        (None, lambda y: y.max(1).values),
        (np.array([True, False, True]), lambda y: y[:, 0] + y[:, 2]),
        (np.array([0.5, -2.0, 0.0]), lambda y: 0.5 * y[:, 0] - 2 * y[:, 1]),
        (lambda y: y[:, 2] - y[:, 0], lambda y: y[:, 2] - y[:, 0]),
    ],
)
def test_targets_of_any_form(target, score):
    X = samples(5, 2, 8, 8)
    _, details = sklrp.explain(build(chain), X, target=target, layers=["1"], check=True, **EXACT)
    want = value_times_gradient(build(chain, inplace=False), [torch.from_numpy(X)], ["1"], score)
    assert_close(details.layer_relevance["1"], want["1"][0])


def test_several_inputs_and_contrast():
    """Of two inputs by name; the branch of the index has a value of its own."""
    X = {"x": samples(4, 4), "word": np.array([0, 3, 1, 1])}
    network = build(Gated)
    layers = ["dense", "embed", "out"]
    _, details = sklrp.explain(network, X, target=1, contrast=True, layers=layers, **EXACT)
    inputs = [torch.from_numpy(X["x"]), torch.from_numpy(X["word"])]
    want = value_times_gradient(build(Gated), inputs, layers, lambda y: y[:, 1] - y[:, 0])
    for name in layers:
        assert_close(details.layer_relevance[name], want[name][0])


# --- What passes a cut is conserved ----------------------------------------------------------


class Block(nn.Module):
    """A block of a transformer, with one head of attention."""

    def __init__(self, n=8):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(n), nn.LayerNorm(n)
        self.query, self.key, self.value = (nn.Linear(n, n) for _ in range(3))
        self.mlp = nn.Sequential(nn.Linear(n, 2 * n), nn.GELU(), nn.Linear(2 * n, n))

    def forward(self, x):
        h = self.norm1(x)
        weights = (self.query(h) @ self.key(h).transpose(1, 2) / 8**0.5).softmax(dim=-1)
        x = x + weights @ self.value(h)
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Two blocks on tokens made of patches."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Linear(3, 8)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.tokens(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


@pytest.mark.parametrize("rule", ["auto", "gamma", "z_plus", "alpha_beta"])
@pytest.mark.parametrize(
    ("network", "shape", "cuts"),
    [
        (chain, (2, 8, 8), ["0", "1", "2", "3.1"]),
        (ResNet, (2, 8, 8), ["stem", "blocks.0", "blocks.1"]),
        (Transformer, (5, 3), ["tokens", "blocks.0", "blocks.1"]),
    ],
)
def test_relevance_through_a_cut_is_conserved(network, shape, cuts, rule):
    """All paths pass the cut: what is there is the score less what later layers kept."""
    X = samples(4, *shape)
    _, details = sklrp.explain(
        build(network), X, rule=rule, epsilon=1e-3, target="all", layers=cuts, check=True
    )
    names = [layer.name for layer in details.layers]
    for cut in cuts:
        last = max(k for k, name in enumerate(names) if f"{name}.".startswith(f"{cut}."))
        kept = sum(
            layer[cause]
            for layer in details.layers[last + 1 :]
            for cause in ("bias", "epsilon", "padding", "initial_state", "dropped")
        )
        there = details.layer_relevance[cut]
        assert there.shape[:2] == (4, 3)
        assert_close(there.reshape(4, 3, -1).sum(2), details.score - kept, 1e-11)


# --- Estimators -----------------------------------------------------------------------------


def test_classifier_in_a_pipeline_and_a_net():
    """The names are those of `module_`; the arrays have the network's axes and X's dtype."""
    X = samples(40, 36).astype(np.float32)
    y = np.where(X[:, 0] > 0, "b", "a")
    cnn = CNNClassifier((3, 5), input_shape=(1, 6, 6), max_epochs=1, random_state=0)
    pipeline = make_pipeline(StandardScaler(), cnn).fit(X, y)
    names = [name for name, _ in pipeline[-1].module_.named_modules() if "conv" in name]
    relevance, details = sklrp.explain(pipeline, X, layers=names, target="a")
    assert relevance.shape == X.shape
    assert len(names) > 1
    inside = pipeline[:-1].transform(X)
    for name in names:
        found = details.layer_relevance[name]
        assert found.dtype == np.float32
        assert found.shape[2:] in ((6, 6), (3, 3))
        own = pipeline[-1].explain(inside, layers=[name], target="a")[1]
        np.testing.assert_array_equal(own.layer_relevance[name], found)
        bare = sklrp.explain(pipeline[-1].module_, inside, layers=[name], target=0)[1]
        np.testing.assert_array_equal(bare.layer_relevance[name], found)


def test_regressor_in_units_of_its_targets():
    X = samples(60, 4)
    y = np.stack([100 * X[:, 0] + 7, X[:, 1]], axis=1)
    regressor = MLPRegressor((6,), max_epochs=2, random_state=0).fit(X, y)
    hidden = "dense_activation1"
    for target in ("all", 0, np.array([True, True])):
        _, details = regressor.explain(X, target=target, layers=[hidden], epsilon=0.0)
        kept = details.layers[-1].bias + details.reference_share
        found = details.layers[hidden]
        assert found.shape == (*np.shape(details.score), 6)
        assert_close(found.sum(-1), details.score - kept, 1e-10)


def test_lstm_estimator_names_its_sequence():
    X = samples(30, 5, 2)
    lstm = LSTMClassifier(4, input_shape=(5, 2), max_epochs=1, random_state=0)
    lstm.fit(X, X[:, 0, 0] > 0)
    name = next(n for n, m in lstm.module_.named_modules() if isinstance(m, nn.LSTM))
    _, details = lstm.explain(X, layers=[name])
    assert details.layer_relevance[name].shape == (30, 5, 4)


def test_skorch_net_and_wrapped_module():
    """A net's names are those of its module, and so are those of what wraps a module."""
    net = NeuralNetClassifier(ResNet, train_split=None, verbose=0).initialize()
    X = samples(3, 2, 8, 8).astype(np.float32)
    found = sklrp.explain(net, X, target=1, layers=["blocks.1"])[1].layer_relevance
    bare = sklrp.explain(net.module_, X, target=1, layers=["blocks.1"])[1].layer_relevance
    wrapped = sklrp.explain(
        nn.DataParallel(net.module_), X, target=1, layers=["blocks.1"], return_details=True
    )[1].layer_relevance
    np.testing.assert_array_equal(found["blocks.1"], bare["blocks.1"])
    np.testing.assert_array_equal(wrapped["blocks.1"], bare["blocks.1"])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_arrays_have_the_dtype_of_X(dtype):
    X = samples(3, 2, 8, 8).astype(dtype)
    found = sklrp.explain(build(ResNet), X, layers=["stem"])[1].layer_relevance["stem"]
    tensor = sklrp.explain(build(ResNet), torch.from_numpy(X), layers=["stem"])[1]
    assert isinstance(found, np.ndarray)
    assert found.dtype == dtype
    assert_same_to_rounding(tensor.layer_relevance["stem"], found)
    integers = sklrp.explain(build(ResNet).float(), X.astype(int), layers=["stem"])[1]
    assert integers.layer_relevance["stem"].dtype == np.float32


# --- Networks written by hand ---------------------------------------------------------------


class Odd(nn.Module):
    """What modules may return: their input, constants, integers, a dict, views, their parts."""

    def __init__(self):
        super().__init__()
        self.dense, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
        self.shortcut, self.positions = nn.Sequential(), nn.Embedding(4, 4)
        self.flag, self.named = Flag(), Named()
        self.normed = weight_norm(nn.Linear(4, 4))
        self.again = self.last
        self.probabilities = nn.Softmax(dim=-1)

    def forward(self, x):
        h = self.shortcut(self.dense(x))
        h = h + self.positions(torch.arange(h.shape[1]))
        self.flag(h)
        h = self.named(1.5 * h)["value"]
        h = self.normed(h).mean(1)
        return self.probabilities(self.again(h))


class Flag(nn.Module):
    def forward(self, x):
        return x > 0


class Named(nn.Module):
    def forward(self, x):
        x.view(-1).relu_()  # through a view of what it returns
        return {"value": x, "other": 2 * x}


class Windows(nn.Module):
    """Steps as samples of their own, and back."""

    def __init__(self):
        super().__init__()
        self.each, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        each = self.each(x.flatten(0, 1)).relu()
        return self.last(each.unflatten(0, x.shape[:2]).mean(1))


def test_parts_of_a_sample_side_by_side():
    """Where forward takes the steps as samples, they are an axis of their own in the array."""
    X = samples(4, 5, 3)
    _, details = sklrp.explain(build(Windows), X, target=1, layers=["each"], **EXACT)
    want = value_times_gradient(build(Windows), [torch.from_numpy(X)], ["each"], lambda y: y[:, 1])
    assert_close(details.layer_relevance["each"], want["each"][0].reshape(4, 5, 4))


def test_values_changed_through_views():
    """The dict's values are what the module returned, after the change through a view."""
    X = samples(3, 4, 3)
    _, details = sklrp.explain(build(Odd), X, target=1, layers=["named", "normed"], **EXACT)
    found = details.layer_relevance
    assert list(found) == ["named", "named[1]", "normed"]
    assert found["named"].shape == (3, 4, 4)
    assert not found["named[1]"].any()
    network, held = build(Odd), []
    network.named.register_forward_hook(lambda module, args, out: held.append(out["value"]))
    with torch.no_grad():
        network(torch.from_numpy(X))
    np.testing.assert_array_equal(found["named"][held[0].numpy() == 0], 0.0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shortcut", "is its input as it is; ask for the layer before"),
        ("positions", "does not depend on X"),
        ("flag", "holds integers or booleans"),
        ("probabilities", "lies behind the softmax at the end"),
        ("", "lies behind the softmax at the end"),
        ("normed.parametrizations.weight", "is a part of 'normed', which is one layer"),
        ("dense#2", "is called 1 time; calls count from 1"),
        ("dense#0", "calls count from 1"),
        ("dense[1]", "returns 1 tensor; they count from 0"),
    ],
)
def test_what_has_no_relevance_is_refused_by_name(name, message):
    with pytest.raises(ValueError, match=message) as error:
        sklrp.explain(build(Odd), samples(3, 4, 3), layers=[name])
    assert str(error.value).startswith(f"layers names '{name}', ")


def test_second_name_of_a_layer():
    """A layer with two names is found by both."""
    _, details = sklrp.explain(build(Odd), samples(3, 4, 3), layers=["again", "last"])
    found = details.layer_relevance
    np.testing.assert_array_equal(found["again"], found["last"])
    shared = nn.Linear(3, 3)
    network = nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(3, 2)).double()
    found = sklrp.explain(network, samples(4, 3), layers=["0", "2"])[1].layer_relevance
    assert np.abs(found["0"] - found["2"]).max() > 1e-6


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("stem", r"list of the names of layers, such as \['conv1', 'conv2'\], got 'stem'"),
        ([0], r"list of the names of layers"),
        (nn.ReLU(), r"list of the names of layers"),
        (["block.0"], r"unknown name 'block\.0'\. Did you mean 'blocks\.0'\? The layers of the"),
        (["blocks.7#2"], r"unknown name 'blocks\.7#2'"),
        (["blocks"], r"'blocks', which the network's forward does not call"),
        (["spare"], r"'spare', which the network's forward does not call"),
        (["blocks.0.relu"], r"called 2 times; say which.* 'blocks\.0\.relu#1'"),
    ],
)
def test_bad_names_are_refused_before_anything_is_explained(layers, message, monkeypatch):
    monkeypatch.setattr("sklrp.propagation.tape.Tape.pull", lambda *args: pytest.fail("it ran"))
    with pytest.raises(ValueError, match=message):
        sklrp.explain(build(ResNet), samples(3, 2, 8, 8), layers=layers)


def test_no_names_and_no_details():
    """No names give an empty dict; without layers nothing is kept."""
    X = samples(3, 2, 8, 8)
    relevance, details = sklrp.explain(build(ResNet), X, layers=[])
    assert details.layer_relevance == {}
    np.testing.assert_array_equal(sklrp.explain(build(ResNet), X), relevance)


class Lengths(nn.Module):
    """Sequences, padded by zeros, cut to the longest of the batch."""

    def __init__(self):
        super().__init__()
        self.each, self.last = nn.Linear(1, 4), nn.Linear(4, 2)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(
            x, lengths, batch_first=True, enforce_sorted=False
        )
        padded, _ = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)
        return self.last(self.each(padded).relu().sum(1))


def test_shape_that_depends_on_the_batch_is_refused():
    X = samples(4, 6, 1), np.array([2, 3, 5, 6])
    with pytest.raises(ValueError, match=r"'each', whose output has the shape .* batch_size=len"):
        sklrp.explain(build(Lengths), X, layers=["each"], batch_size=2, target=0)
    found = sklrp.explain(build(Lengths), X, layers=["each"], batch_size=4, target=0)[1]
    assert found.layer_relevance["each"].shape == (4, 6, 4)


def test_fields_of_xarray():
    """The arrays of layers lie along the samples and the targets, with their coordinates."""
    xr = pytest.importorskip("xarray")
    pytest.importorskip("dask")
    axes = {"time": np.arange(10) + 2000, "lat": [0.0, 2, 4], "lon": [0.0, 2]}
    data = xr.DataArray(samples(10, 3, 2), axes, list(axes)).assign_coords(
        season=("time", [1] * 10)
    )
    model = make_pipeline(
        sklrp.geo.GridVectorizer(),
        CNNClassifier((4,), input_shape=(1, 3, 2), kernel_size=1, max_epochs=1),
    ).fit(data, ["dry", "wet"] * 5)
    for target in ("wet", "all"):
        fields, found = sklrp.geo.explain(model, data, target=target, layers=["conv1"])
        xr.testing.assert_identical(fields, sklrp.geo.explain(model, data, target=target))
        want = model[-1].explain(model[:-1].transform(data), target=target, layers=["conv1"])[1]
        np.testing.assert_array_equal(found["conv1"].values, want.layer_relevance["conv1"])
        own = ("axis1", "axis2", "axis3")
        assert found["conv1"].dims == ("time", *(["target"] * (target == "all")), *own)
        assert found["conv1"]["season"].dims == ("time",)
        assert found["conv1"].attrs["long_name"] == "relevance at the output of 'conv1'"
    assert found["conv1"]["target"].values.tolist() == ["dry", "wet"]
    with pytest.raises(ValueError, match=r"of dask input: load"):
        sklrp.geo.explain(model, data.chunk({"time": 5}), layers=["conv1"])
