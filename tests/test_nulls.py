"""Null models: networks at their own start, what cannot be drawn anew, and permuted labels."""

import copy
import pickle
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from skorch import NeuralNetRegressor
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from sklrp import CNNClassifier, ESNClassifier, LSTMClassifier, MLPClassifier
from sklrp._models import unwrap
from sklrp.diagnostics import randomization_test
from sklrp.diagnostics.explained import Explained
from sklrp.diagnostics.nulls import NULLS
from sklrp.diagnostics.other_networks import check_trainable, train_again
from sklrp.metrics import randomization_similarity
from sklrp.metrics.randomise import draw_anew, list_layers

IMAGES = np.random.default_rng(0).normal(size=(40, 8, 8))
LABELS = np.repeat([0, 1], 20)


def draw(model, seed=0, null="network"):
    return unwrap(NULLS[null].draw(unwrap(model), seed, None)).module


def values_of(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def disturbed(module):
    """Return a network whose parameters are all far from any start."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(100.0)
    return module


@pytest.mark.sweep(1)
@pytest.mark.parametrize(
    "estimator",
    [
        MLPClassifier((64,)),
        MLPClassifier((64,), bias="nonpositive"),
        CNNClassifier((32,)),
        LSTMClassifier(32),
        LSTMClassifier(32, forget_bias=2.5, bidirectional=True, num_layers=2),
        LSTMClassifier(32, forget_bias=None),
        LSTMClassifier(32, bias="nonpositive", hidden_layer_sizes=(16,)),
    ],
    ids=str,
)
def test_a_null_has_the_law_of_an_untrained_estimator(estimator):
    estimator.set_params(max_epochs=1, lr=1e-300, dtype="float32")
    untrained = [
        clone(estimator).set_params(random_state=seed).fit(IMAGES, LABELS) for seed in range(12)
    ]
    trained = copy.deepcopy(untrained[0])
    disturbed(trained.module_)
    nulls = [draw(trained, seed) for seed in range(12)]
    for name in untrained[0].module_.state_dict():
        starts, drawn = (
            torch.stack([module.state_dict()[name] for module in modules]).flatten()
            for modules in ([clf.module_ for clf in untrained], nulls)
        )
        assert drawn.dtype == torch.float32
        assert ks_2samp(starts, drawn).pvalue > 1e-4, name
    if isinstance(estimator, LSTMClassifier) and estimator.forget_bias is not None:
        for null in nulls:
            gates = (null.lstm.bias_ih_l0 + null.lstm.bias_hh_l0).detach()
            if estimator.forget_bias == "auto":
                torch.testing.assert_close(gates[:32], -gates[32:64])
            else:
                np.testing.assert_allclose(gates[32:64], estimator.forget_bias, rtol=1e-6)
                assert abs(gates[:32].mean()) < 0.3


def test_draws_are_reproducible_and_touch_nothing():
    clf = LSTMClassifier(8, max_epochs=1, random_state=0).fit(IMAGES, LABELS)
    before, state = values_of(clf.module_).clone(), torch.get_rng_state()
    one, same, other = draw(clf, 3), draw(clf, 3), draw(clf, 4)
    assert torch.equal(values_of(one), values_of(same))
    assert (values_of(one) != values_of(other)).float().mean() > 0.9
    assert torch.equal(values_of(clf.module_), before)
    assert torch.equal(torch.get_rng_state(), state)


def test_draws_do_not_depend_on_the_dtype():
    module = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    double = draw(copy.deepcopy(module).double(), 7)
    assert values_of(double).dtype == torch.float64
    torch.testing.assert_close(
        values_of(draw(module, 7)).double(), values_of(double), atol=1e-7, rtol=0
    )


def test_the_readout_alone():
    clf = MLPClassifier((8, 8), max_epochs=2, random_state=0).fit(IMAGES, LABELS)
    null = draw(clf, 0, "readout")
    before = dict(clf.module_.named_parameters())
    changed = {name for name, p in null.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"output.weight", "output.bias"}


def test_the_reservoir_stays():
    clf = ESNClassifier(30, random_state=0).fit(IMAGES, LABELS)
    null, module = draw(clf), clf.module_
    assert torch.equal(null.reservoir.weight_res, module.reservoir.weight_res)
    assert torch.equal(null.reservoir.weight_in, module.reservoir.weight_in)
    assert (null.output.weight != module.output.weight).all()
    assert null.output.weight.abs().max() <= 30**-0.5


LAYERS = {
    "LayerNorm": lambda: nn.LayerNorm(4),
    "BatchNorm": lambda: nn.BatchNorm1d(4),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
    "RMSNorm": lambda: nn.RMSNorm(4),
    "PReLU": nn.PReLU,
    "GRU": lambda: nn.GRU(3, 4),
    "LSTMCell": lambda: nn.LSTMCell(3, 4),
    "Conv": lambda: nn.Conv1d(3, 4, 2),
    "ConvTranspose": lambda: nn.ConvTranspose1d(3, 4, 2),
    "Bilinear": lambda: nn.Bilinear(3, 3, 4),
    "Embedding": lambda: nn.Embedding(50, 4, padding_idx=3),
    "MultiheadAttention": lambda: nn.MultiheadAttention(8, 2),
    "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(8, 2, 16),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_draws_itself_as_its_constructor_does(name):
    layer = disturbed(LAYERS[name]())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        starts = [dict(LAYERS[name]().named_parameters()) for _ in range(20)]
    nulls = [dict(draw(layer, seed).named_parameters()) for seed in range(20)]
    for parameter in starts[0]:
        start, drawn = (torch.stack([m[parameter] for m in of]) for of in (starts, nulls))
        if start.std() == 0:
            assert torch.equal(start, drawn), parameter
        else:
            assert ks_2samp(start.detach().flatten(), drawn.detach().flatten()).pvalue > 1e-4


def test_layers_forget_what_they_counted():
    embedding = draw(disturbed(LAYERS["Embedding"]()))
    assert (embedding.weight[3] == 0).all()
    norm = nn.BatchNorm1d(3)
    norm(torch.ones(50, 3) * 5)
    assert torch.equal(draw(norm).running_mean, torch.zeros(3))
    assert norm.running_mean.min() > 0.1


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(400, 16)
        self.head = nn.Linear(16, 400, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x):
        return self.head(self.words(x).mean(1))


def test_shared_parameters_stay_shared():
    """The first layer that has them draws them: words are normal, not uniform within 1 / 4."""
    null = draw(disturbed(Tied()))
    assert null.head.weight is null.words.weight
    assert null.words.weight.std().item() == pytest.approx(1, rel=0.1)


def test_frozen_parameters_are_drawn_and_stay_frozen():
    module = disturbed(nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2)).requires_grad_(False))
    null = draw(module.eval())
    assert values_of(null).abs().max() <= 0.5
    assert not any(p.requires_grad for p in null.parameters())
    assert not null.training
    frozen = FrozenEstimator(
        MLPClassifier((4,), max_epochs=1, random_state=0).fit(*load_iris(return_X_y=True))
    )
    assert not torch.equal(values_of(draw(frozen)), values_of(unwrap(frozen).module))


class Doubled(nn.Module):
    """A parametrization without an inverse."""

    def forward(self, weight):
        return 2 * weight


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "orthogonal"])
def test_parametrized_weights(kind):
    layer = getattr(parametrizations, kind)(nn.Linear(6, 6))
    module = nn.Sequential(layer, nn.ReLU(), nn.Linear(6, 2)).eval()
    assert [name for name, _ in list_layers(module)] == ["0", "2"]
    disturbed(module) if kind != "orthogonal" else None
    before = module[0].weight.clone()
    one, same, other = (draw(module, seed)[0].weight for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)
    assert torch.equal(module[0].weight, before)
    if kind == "weight_norm":  # the weight itself is drawn, as before it was parametrized
        assert one.abs().max() <= 6**-0.5
        assert one.std().item() == pytest.approx((6 * 3) ** -0.5, rel=0.4)
    elif kind == "spectral_norm":
        assert torch.linalg.matrix_norm(one, 2).item() == pytest.approx(1, rel=0.02)
    else:
        torch.testing.assert_close(one @ one.T, torch.eye(6), atol=1e-5, rtol=0)


def test_parametrizations_without_an_inverse():
    layer = nn.Linear(400, 3)
    parametrize.register_parametrization(layer, "weight", Doubled())
    null = draw(disturbed(layer))
    assert null.bias.abs().max() <= 1 / 20
    assert 0.9 * 2 / 20 < null.weight.abs().max() <= 2 / 20
    assert (layer.weight == 200).all()


class WithToken(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(3))
        self.output = nn.Linear(3, 2)

    def forward(self, x):
        return self.output(x * self.token)


class WithStart(WithToken):
    def reset_parameters(self):
        nn.init.normal_(self.token, 7.0, 0.1)


def test_a_parameter_without_a_start_is_refused_by_name():
    with pytest.raises(TypeError, match=r"parameter 'token' of the network itself \(WithToken\)"):
        draw(WithToken())
    inside = nn.Sequential(nn.Linear(3, 3), WithToken())
    message = r"parameter 'token' of layer '1' \(WithToken\).*method reset_parameters\(\)"
    with pytest.raises(TypeError, match=message):
        draw(inside)
    with pytest.raises(TypeError, match=message):
        randomization_similarity(inside, np.ones((4, 3)), target=0, random_state=0)


def test_a_user_s_start_is_called():
    assert draw(WithStart()).token.mean().item() == pytest.approx(7, abs=0.3)

    class Around(nn.Module):
        """Draws the parameter of a module that has no start of its own."""

        def __init__(self):
            super().__init__()
            self.inside = WithToken()

        def reset_parameters(self):
            self.inside.token.data.fill_(5.0)

    null = draw(Around())
    assert (null.inside.token == 5).all()
    assert null.inside.output.weight.abs().max() < 1


def test_layers_are_given_the_start_that_all_get_together():
    """The cascade ends at the null model of the same draw."""
    module = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    seen = []

    def explain(network, X, target):
        seen.append(values_of(network).clone())
        return X

    X = np.ones((2, 5))
    for order in ("top_down", "bottom_up"):
        randomization_similarity(module, X, target=0, order=order, explain=explain, random_state=0)
    assert torch.equal(seen[2], seen[5])
    assert not torch.equal(seen[1], seen[4])
    fresh = draw_anew(unwrap(module), 3)
    assert torch.equal(values_of(draw(module, 3)).double(), values_of(fresh).float().double())


# Permuted labels, refitted


class Recorder(MLPClassifier):
    """Keeps what it is trained on."""

    fits: ClassVar[list] = []

    def fit(self, X, y):
        self.fits.append((np.asarray(X), np.asarray(y)))
        return super().fit(X, y)


DATA = {"X_train": IMAGES[:30], "y_train": np.tile(["b", "a", "c"], 10)}


def test_labels_are_permuted_on_the_training_data():
    X, y = DATA.values()
    scaler = FunctionTransformer(lambda X: X / 2)
    model = make_pipeline(scaler, Recorder((4,), max_epochs=1, random_state=0)).fit(X, y)
    model.predict(X)  # skorch turns to evaluation mode, and stays there
    Recorder.fits.clear()
    torch_state, before = torch.get_rng_state(), pickle.dumps(model[-1])
    found = randomization_test(
        model, IMAGES[30:], null="labels", n_permutations=3, random_state=0, **DATA
    )
    assert found.similarity.shape == (3, 10)
    assert len(Recorder.fits) == 3
    for samples, labels in Recorder.fits:
        np.testing.assert_array_equal(samples, X / 2)
        assert sorted(labels) == sorted(y)
        assert not np.array_equal(labels, y)
    assert not np.array_equal(Recorder.fits[0][1], Recorder.fits[1][1])
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert pickle.dumps(model[-1]) == before


@pytest.mark.parametrize("is_instance", [True, False])
def test_a_skorch_clone_starts_anew(is_instance):
    """A net that was given a module, not a class, trains it in place, and so does its clone."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 1)).double()
    net = NeuralNetRegressor(
        module if is_instance else (lambda: copy.deepcopy(module)), max_epochs=1, verbose=0
    )
    values = np.arange(30.0)
    net.fit(IMAGES[:30], values[:, np.newaxis])
    disturbed(net.module_)
    net.set_params(lr=0.0)
    explained = Explained(net, IMAGES[30:], X_train=IMAGES[:30], y_train=values)
    one, same, other = (train_again(explained, seed, True).module_ for seed in (3, 3, 4))
    assert torch.equal(values_of(one), values_of(same))
    assert values_of(one).abs().max() <= 1 / 8
    assert values_of(one).dtype == torch.float64
    if is_instance:  # the function returns the same start each time
        assert not torch.equal(values_of(one), values_of(other))
    assert (values_of(net.module_) == 100).all()


def test_training_data_are_checked():
    clf = MLPClassifier((4,), max_epochs=1, random_state=0).fit(*DATA.values())
    X, y = DATA.values()
    for data, message in [
        ({"y_train": y}, "y_train was given without X_train"),
        ({"X_train": X, "y_train": y[:5]}, "y_train must hold one label for each of 30 samples"),
        ({"X_train": X[:, 1:], "y_train": y}, r"samples of shape \(7, 8\), but X of shape"),
        ({"X_train": X, "y_train": np.tile(["a", "b"], 15)}, "y_train has no sample of.* 'c'"),
        ({"X_train": X, "y_train": np.tile(["a", "d"], 15)}, "y_train has the unknown labels"),
    ]:
        with pytest.raises(ValueError, match=message):
            Explained(clf, IMAGES, **data)
    for model, reason in [
        (FrozenEstimator(clf), "a FrozenEstimator is not trained again"),
        (clf.module_, "Sequential has no fit"),
    ]:
        explained = Explained(model, IMAGES.reshape(40, 64) if model is clf.module_ else IMAGES)
        with pytest.raises(TypeError, match=f"null='labels' trains clones.*{reason}"):
            check_trainable(explained, "null='labels'")
