"""Parameters that steer what a network looks at: noise, penalties, biases, padding."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, ParameterGrid
from torch import nn

from sklrp import Composite, Epsilon, Flat, WSquare, explain, plan
from sklrp.classifiers import CNNClassifier, LSTMClassifier, MLPClassifier
from sklrp.modules import GaussianNoise, bound_biases, first_weights, make_cnn, make_lstm
from tests.helpers.comparing import assert_same_to_rounding

SMALL = {
    MLPClassifier: {"hidden_layer_sizes": (6,)},
    CNNClassifier: {"channels": (3, 2), "hidden_layer_sizes": (4,)},
    LSTMClassifier: {"hidden_size": 4, "num_layers": 2, "bidirectional": True},
}
EVERY = pytest.mark.parametrize("Classifier", list(SMALL))


def make(Classifier, **params):
    return Classifier(**{**SMALL[Classifier], "max_epochs": 2, "random_state": 0, **params})


@pytest.fixture(scope="module")
def images():
    """Digits 0, 1 and 2 as images of 8 x 8."""
    X, y = load_digits(n_class=3, return_X_y=True)
    return X[:60].reshape(-1, 8, 8) / 16, y[:60]


def parameters(clf):
    return torch.cat([p.detach().ravel() for p in clf.module_.parameters()])


def is_candidate(clf, name):
    """Return where the biases of an LSTM layer belong to the candidate, the third gate."""
    hidden = clf.hidden_size
    return slice(2 * hidden, 3 * hidden) if name.startswith("lstm.") else slice(None)


def test_noise_acts_in_training_alone():
    layer = GaussianNoise(0.5)
    x = torch.linspace(-3, 3, 60000)
    torch.manual_seed(0)
    noise = layer(x) - x
    assert abs(noise.mean()) < 0.01
    assert noise.std() == pytest.approx(0.5, rel=0.01)
    assert layer.eval()(x) is x
    assert repr(layer) == "GaussianNoise(std=0.5)"


@EVERY
@pytest.mark.parametrize("name", ["input_noise", "input_dropout"])
def test_disturbed_input(Classifier, name, images):
    X, y = images
    plain = make(Classifier).fit(X, y)
    disturbed = make(Classifier, **{name: 0.3})
    before = torch.get_rng_state()
    fits = [clone(disturbed).fit(X, y) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(parameters(fits[0]), parameters(fits[1]))
    assert not torch.equal(parameters(fits[0]), parameters(plain))
    layers = [layer for layer, _ in fits[0].module_.named_children()]
    assert layers == [name, *(layer for layer, _ in plain.module_.named_children())]
    parts = clone(disturbed)
    for _ in range(2):
        parts = pickle.loads(pickle.dumps(parts.partial_fit(X, y)))
    assert torch.equal(parameters(parts), parameters(fits[0]))
    with pytest.raises(ValueError, match=f"{name}=0.1 differs from {name}=0.3"):
        parts.set_params(**{name: 0.1}).partial_fit(X, y)


@EVERY
def test_disturbances_play_no_part_in_explanations(Classifier, images):
    X, y = images
    disturbed = make(Classifier, input_noise=0.3, input_dropout=0.3).fit(X, y)
    bare = nn.Sequential(*list(disturbed.module_.children())[2:])
    rule = Composite([("first", WSquare(), "first"), ("rest", Epsilon(), "all")])
    for module in (disturbed.module_, disturbed.module_.train()):
        relevance = explain(module, X.reshape(60, -1), rule=rule, target=0)
        assert_same_to_rounding(relevance, explain(bare, X.reshape(60, -1), rule=rule, target=0))
    steps = plan(disturbed.module_, rule).steps
    assert [step.name for step in steps if isinstance(step.rule, WSquare)] == [
        next(n for n, m in disturbed.module_.named_children() if any(True for _ in m.parameters()))
    ]


@EVERY
def test_penalties_of_the_first_layer_by_one_step(Classifier, images):
    """With plain gradient descent, a step differs by lr (l1 sign(w) + 2 l2 w) and there alone."""
    X, y = images
    lr, l1, l2 = 0.01, 0.3, 0.2
    step = {
        "optimizer": "sgd", "max_epochs": 1, "batch_size": 60, "lr": lr,
        "callbacks__gradient_clipping": None,
    }  # fmt: skip
    if Classifier is not LSTMClassifier:
        del step["callbacks__gradient_clipping"]
    start = make(Classifier, **{**step, "lr": 1e-30}).fit(X, y)
    plain = make(Classifier, **step).fit(X, y)
    penalised = make(Classifier, **step, l1_first=l1, l2_first=l2).fit(X, y)
    first = {id(weight) for weight in first_weights(start.module_)}
    assert len(first) == (2 if Classifier is LSTMClassifier else 1)
    n_found = 0
    for w, one, other in zip(
        *(clf.module_.parameters() for clf in (start, plain, penalised)), strict=True
    ):
        difference = -lr * (l1 * w.sign() + 2 * l2 * w) if id(w) in first else 0 * w
        n_found += id(w) in first
        torch.testing.assert_close(other - one, difference, rtol=1e-9, atol=1e-12)
    assert n_found == len(first)
    resumed = make(Classifier, **step, warm_start=True).fit(X, y)
    resumed.set_params(l1_first=1.0, l2_first=1.0).fit(X, y)
    assert resumed.net_.penalties == {"l1": 0.0, "l1_first": 1.0, "l2_first": 1.0}


def test_first_weights_are_those_of_the_input():
    lstm = make_lstm((3, 2), 2, hidden_size=4, num_layers=2, bidirectional=True, input_noise=1.0)
    names = {id(p): name for name, p in lstm.named_parameters()}
    found = [names[id(weight)] for weight in first_weights(lstm)]
    assert found == ["lstm.weight_ih_l0", "lstm.weight_ih_l0_reverse"]


@EVERY
def test_biases_are_kept_nonpositive(Classifier, images):
    X, y = images
    clf = make(Classifier, bias="nonpositive", lr=0.05, max_epochs=6, warm_start=True)

    def check(clf):
        positive = negative = 0
        for name, p in clf.module_.named_parameters():
            if "bias" in name:
                bounded = p[is_candidate(clf, name)] if Classifier is LSTMClassifier else p
                positive += int((bounded > 0).sum())
                negative += int((bounded < 0).sum())
        assert positive == 0
        assert negative > 0

    net = make(Classifier, bias="nonpositive", lr=1e-30, max_epochs=1).fit(X, y)
    check(net)  # as initialised
    check(clf.fit(X, y))
    check(clf.fit(X, y))
    check(pickle.loads(pickle.dumps(clf)).partial_fit(X, y))
    check(make(Classifier, bias="nonpositive", early_stopping=True, max_epochs=4).fit(X, y))
    free = make(Classifier, lr=0.05, max_epochs=6).fit(X, y)
    assert any((p > 0).any() for n, p in free.module_.named_parameters() if "bias" in n)
    with pytest.raises(ValueError, match="bias=True differs from bias='nonpositive'"):
        clf.set_params(bias=True).fit(X, y)


def test_gates_keep_their_biases():
    lstm = make_lstm((8, 8), 2, hidden_size=4, num_layers=2, bidirectional=True, forget_bias=2.0)
    before = {name: p.clone() for name, p in lstm.lstm.named_parameters()}
    bound_biases(lstm)
    for name, p in lstm.lstm.named_parameters():
        expected = before[name].clone()
        if name.startswith("bias"):
            expected[8:12] = expected[8:12].clamp(max=0)
        assert torch.equal(p, expected)
    assert (lstm.output.bias <= 0).all()


def test_nonpositive_biases_take_no_relevance_by_positive_contributions(images):
    X, y = images

    def share(bias):
        clf = make(MLPClassifier, bias=bias, lr=0.05, max_epochs=10).fit(X, y)
        details = clf.explain(X, rule="z_plus", return_details=True)[1]
        return sum(np.abs(layer.bias).sum() for layer in details.layers)

    assert share(True) > 0
    assert share("nonpositive") == share(False) == 0


def test_batch_normalisation_has_a_shift_of_its_own(images):
    with pytest.raises(ValueError, match="bias='nonpositive' does not bound the shift of a batch"):
        make(CNNClassifier, bias="nonpositive", batch_norm=True).fit(*images)


NUMPY_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def pad(x, modes, sides):
    """Pad the last axes of an array, each in its own mode."""
    for axis, (mode, side) in enumerate(zip(modes, sides, strict=True), start=-len(modes)):
        width = [(0, 0)] * x.ndim
        width[axis] = side
        x = np.pad(x, width, mode=NUMPY_MODES[mode])
    return x


@pytest.mark.parametrize(
    "modes",
    [
        ("zeros", "circular"),
        ("circular", "zeros"),
        ("reflect", "circular"),
        ("replicate", "zeros"),
    ],
)
@pytest.mark.parametrize(("kernel", "stride"), [((3, 3), 1), ((2, 4), 1), ((3, 5), 2)])
@pytest.mark.parametrize("rule", [Flat(), WSquare(), Epsilon()], ids=repr)
def test_padding_by_axis_against_loops(modes, kernel, stride, rule):
    height, width = 5, 6
    torch.manual_seed(0)
    network = make_cnn(
        (1, height, width), 2, channels=(2,), kernel_size=kernel, stride=stride, pooling=None,
        hidden_layer_sizes=(), activation="identity", padding_mode=modes,
    ).double()  # fmt: skip
    X = np.random.default_rng(0).normal(size=(3, height, width))
    sides = [((k - 1) // 2, k // 2) for k in kernel]
    weight, bias = (p.detach().numpy() for p in network.conv1.parameters())
    read = network.output.weight.detach().numpy()[0]
    cells = np.arange(1.0, height * width + 1).reshape(height, width)
    origin = pad(cells, modes, sides).astype(int) - 1  # -1: nowhere
    composite = Composite([("first", rule, "first"), ("rest", Epsilon(), "all")])
    found, details = explain(
        network, X.reshape(3, -1), rule=composite, epsilon=1e-9, target=0, return_details=True
    )
    for n, x in enumerate(pad(X, modes, sides)):
        windows = np.lib.stride_tricks.sliding_window_view(x, kernel)[::stride, ::stride]
        origins = np.lib.stride_tricks.sliding_window_view(origin, kernel)[::stride, ::stride]
        z = np.einsum("abij,oij->oab", windows, weight[:, 0]) + bias[:, None, None]
        score = (z.ravel() * read).sum() + network.output.bias[0].item()
        np.testing.assert_allclose(details.score[n], score, rtol=1e-10)
        R = (z.ravel() * read).reshape(z.shape) * score / (score + 1e-9 * np.sign(score))
        expected = np.zeros(height * width + 1)
        for o, a, b in np.ndindex(z.shape):
            real = origins[a, b] >= 0
            if isinstance(rule, Flat):
                share = real / real.sum()
            elif isinstance(rule, WSquare):
                share = weight[o, 0] ** 2 * real / (weight[o, 0] ** 2 * real).sum()
            else:
                z_j = z[o, a, b]
                share = windows[a, b] * weight[o, 0] / (z_j + 1e-9 * np.sign(z_j))
            np.add.at(expected, origins[a, b], share * R[o, a, b])
        np.testing.assert_allclose(found[n], expected[:-1], rtol=1e-8, atol=1e-12)


def test_equal_modes_are_one_mode():
    for mode in NUMPY_MODES:
        one, both = (make_cnn((1, 8, 9), 2, padding_mode=m) for m in (mode, (mode, mode)))
        assert repr(one) == repr(both)
    signal = make_cnn((1, 9), 2, padding_mode=("circular",))
    assert signal.conv1.padding_mode == "circular"


@pytest.mark.parametrize(
    ("Classifier", "params", "message"),
    [
        (CNNClassifier, {"padding_mode": ("zeros",)}, r"padding_mode=\('zeros',\) must be one of"),
        (CNNClassifier, {"padding_mode": ("zeros", "round")}, r"each of the 2 axes"),
        (CNNClassifier, {"padding_mode": "round"}, r"'padding_mode' parameter .* Got 'round'"),
        (
            CNNClassifier,
            {"padding_mode": ("zeros", "reflect"), "padding": 8},
            r"padding=8 with padding_mode='reflect' is larger than what reaches",
        ),
        (MLPClassifier, {"bias": "negative"}, r"'bias' parameter .* Got 'negative'"),
        (MLPClassifier, {"input_noise": -0.1}, r"'input_noise' parameter .* Got -0.1"),
        (LSTMClassifier, {"input_dropout": 1}, r"'input_dropout' parameter .* Got 1"),
        (CNNClassifier, {"l1_first": -1}, r"'l1_first' parameter .* Got -1"),
        (CNNClassifier, {"l2_first": "much"}, r"'l2_first' parameter .* Got 'much'"),
    ],
)
def test_bad_parameters(Classifier, params, message, images):
    with pytest.raises(ValueError, match=message):
        make(Classifier, **params).fit(*images)


COMMON = [
    {"bias": [True, False, "nonpositive"]},
    {"input_noise": [0.0, 0.1], "input_dropout": [0.0, 0.1]},
    {"l1": [0.01], "l1_first": [0.0, 0.01], "l2_first": [0.0, 0.01]},
]
GRIDS = {
    MLPClassifier: COMMON,
    CNNClassifier: [
        *COMMON,
        {"padding_mode": ["zeros", "reflect", ("zeros", "circular")]},
        {
            "channels": [(3,)],
            "stride": [1, (1, 2)],
            "kernel_size": [2, (3, 1)],
            "pooling": ["max", None],
        },
    ],
    LSTMClassifier: [
        *COMMON,
        {"pooling": ["last", "mean", "max"], "forget_bias": ["auto", None, 2.0]},
        {"bidirectional": [False, True], "sweep": ["down", "up", "right", "left"]},
    ],
}


@pytest.mark.sweep(1)
@EVERY
def test_all_are_searchable(Classifier, images):
    X, y = images
    estimator = make(Classifier, max_epochs=1, num_layers=1) if Classifier is LSTMClassifier else (
        make(Classifier, max_epochs=1)
    )  # fmt: skip
    search = GridSearchCV(estimator, GRIDS[Classifier], cv=2, error_score="raise").fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert len(search.cv_results_["params"]) == len(ParameterGrid(GRIDS[Classifier]))
    assert search.best_estimator_.explain(X).shape == X.shape
