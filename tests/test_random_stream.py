"""Random numbers of a training: the stream's own, whatever torch's global generators do."""

import random
import threading

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from sklrp import (
    CNNClassifier,
    ESNRegressor,
    LSTMClassifier,
    MLPClassifier,
    MLPRegressor,
    RelevanceTransformer,
)
from sklrp._models import unwrap
from sklrp._random_stream import RandomStream
from sklrp.diagnostics import randomization_test

CPU = torch.device("cpu")
ONES = torch.ones(40, 6, dtype=torch.float64)


def lstm():
    return nn.LSTM(6, 4, num_layers=3, dropout=0.5).double()(ONES[None])[0]


def packed():
    sequences = nn.utils.rnn.pack_sequence([ONES[:5], ONES[:3]])
    return nn.LSTM(6, 4, num_layers=2, dropout=0.5).double()(sequences)[0].data


def attention():
    return nn.MultiheadAttention(6, 2, dropout=0.5).double()(
        ONES[:, None], ONES[:, None], ONES[:, None]
    )[0]


def product():
    return F.scaled_dot_product_attention(ONES[None], ONES[None], ONES[None], dropout_p=0.5)


def shuffled():
    return torch.cat(list(DataLoader(torch.arange(40), batch_size=7, shuffle=True)))


DRAWS = {
    "uniform_": lambda: ONES.clone().uniform_(),
    "normal_": lambda: ONES.clone().normal_(),
    "trunc_normal_": lambda: nn.init.trunc_normal_(ONES.clone()),
    "orthogonal_": lambda: nn.init.orthogonal_(ONES.clone()),
    "rand": lambda: torch.rand(3, 5),
    "randn": lambda: torch.randn(5, dtype=torch.float64),
    "randint": lambda: torch.randint(2, 9, (8,)),
    "rand_like": lambda: torch.rand_like(ONES),
    "randn_like": lambda: torch.randn_like(ONES),
    "randint_like": lambda: torch.randint_like(ONES, 9),
    "randperm": lambda: torch.randperm(30),
    "normal": lambda: torch.normal(ONES, 2.0),
    "bernoulli": lambda: torch.bernoulli(ONES / 2),
    "multinomial": lambda: torch.multinomial(ONES, 3),
    "poisson": lambda: torch.poisson(ONES),
    "exponential_": lambda: ONES.clone().exponential_(),
    "dropout": lambda: F.dropout(ONES),
    "dropout2d": lambda: F.dropout2d(ONES[None, None]),
    "alpha_dropout": lambda: F.alpha_dropout(ONES, training=True),
    "rrelu": lambda: F.rrelu(-ONES, training=True),
    "gumbel_softmax": lambda: F.gumbel_softmax(ONES),
    "gamma": lambda: torch.distributions.Gamma(ONES, ONES).sample(),
    "LSTM": lstm,
    "packed LSTM": packed,
    "attention": attention,
    "product": product,
    "DataLoader": shuffled,
}


@pytest.mark.parametrize("name", DRAWS)
def test_numbers_are_those_of_the_seed(name):
    """The numbers are the global generator's of that seed, which itself is left alone."""
    torch.manual_seed(7)
    expected = [DRAWS[name](), DRAWS[name]()]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    stream = RandomStream(CPU, 7)
    with stream:
        first = DRAWS[name]()
    with RandomStream(CPU, stream.state):
        second = DRAWS[name]()
    assert torch.equal(first, expected[0])
    assert torch.equal(second, expected[1])
    assert torch.equal(torch.get_rng_state(), before)


class Drawing(threading.Thread):
    """Draw all the time, and keep what was drawn."""

    def __init__(self):
        super().__init__(daemon=True)
        self.drawn, self.ends = [], threading.Event()
        torch.manual_seed(3)
        self.start()
        while len(self.drawn) < 5:
            pass

    def run(self):
        while not self.ends.is_set():
            self.drawn.append(torch.rand(1).item())

    def check(self):
        """End, and hold the numbers against those that nothing has disturbed."""
        self.ends.set()
        self.join()
        torch.manual_seed(3)
        assert self.drawn == [torch.rand(1).item() for _ in self.drawn]


class Noisy(torch.optim.SGD):
    """An optimizer of a user's, which adds noise."""

    def step(self, closure=None):
        loss = super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter += 1e-3 * torch.randn_like(parameter)
        return loss


X = np.random.default_rng(0).normal(size=(60, 12)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)
QUICK = {"max_epochs": 15, "random_state": 0}
FITS = {
    "mlp": lambda: MLPClassifier((8,), dropout=0.2, input_noise=0.1, **QUICK),
    "early": lambda: MLPClassifier((8,), early_stopping=True, **QUICK),
    "regressor": lambda: MLPRegressor((8,), input_dropout=0.2, **QUICK),
    "cnn": lambda: CNNClassifier((4,), dropout=0.2, max_epochs=5, random_state=0),
    "lstm": lambda: LSTMClassifier(4, num_layers=2, dropout=0.2, max_epochs=3, random_state=0),
    "esn": lambda: ESNRegressor(40, random_state=0),
    "noisy": lambda: MLPClassifier((8,), optimizer=Noisy, **QUICK),
    "net": lambda: RelevanceTransformer(NET, random_state=0),
    "net in folds": lambda: Folds(NET, cv=2, random_state=0),
    "net in a pipeline": lambda: RelevanceTransformer(
        make_pipeline(StandardScaler(), NET), random_state=0
    ),
}  # fmt: skip


class Dropping(nn.Module):
    """A module of a user's, which draws when it is made and when it is trained."""

    def __init__(self):
        super().__init__()
        self.hidden, self.output = nn.Linear(12, 6), nn.Linear(6, 2)
        self.scale = nn.Parameter(torch.rand(6) + 0.5)

    def forward(self, x):
        x = F.dropout(torch.relu(self.hidden(x)), 0.3, self.training)
        return self.output(x * self.scale)


class Folds(RelevanceTransformer):
    """Networks of folds are trained too."""

    def fit(self, X, y):
        self.fit_transform(X, y)
        return self


NET = NeuralNetClassifier(
    Dropping, criterion=nn.CrossEntropyLoss, max_epochs=3, train_split=None, verbose=0,
    iterator_train__shuffle=True,
)  # fmt: skip


def weights(model):
    if hasattr(model, "estimator_"):
        model = unwrap(model.estimator_).network
    return [parameter.detach().clone() for parameter in model.module_.parameters()]


@pytest.mark.sweep(2)
@pytest.mark.parametrize("kind", FITS)
def test_a_thread_that_draws_and_a_fit_leave_each_other_alone(kind):
    expected = weights(FITS[kind]().fit(X, Y))
    thread = Drawing()
    found = weights(FITS[kind]().fit(X, Y))
    thread.check()
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_null_models_and_a_thread_that_draws():
    clf = FITS["mlp"]().fit(X, Y)

    def run():
        return randomization_test(clf, X, n_permutations=3, random_state=0).statistic

    expected = run()
    thread = Drawing()
    found = run()
    thread.check()
    assert found == expected


@pytest.mark.parametrize("kind", FITS)
def test_no_global_generator_is_touched(kind):
    FITS[kind]().fit(X, Y)  # imports may draw
    before = torch.get_rng_state(), pickle_of_numpy(), random.getstate()
    FITS[kind]().fit(X, Y)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (pickle_of_numpy(), random.getstate()) == before[1:]


def pickle_of_numpy():
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return name, keys.tobytes(), rest


@pytest.mark.parametrize("memory", [False, True])
def test_the_random_state_of_a_transformer_determines_what_a_net_draws(memory, tmp_path):
    def fit(seed):
        transformer = RelevanceTransformer(
            NET, random_state=seed, memory=str(tmp_path) if memory else None
        )
        return weights(transformer.fit(X, Y))

    for seed, same in ((1, True), (2, False)):
        found = zip(fit(seed), fit(1), strict=True)
        assert all(torch.equal(one, other) for one, other in found) == same


def test_fits_in_threads_draw_for_themselves():
    expected = [weights(FITS["mlp"]().set_params(random_state=k).fit(X, Y)) for k in range(4)]
    found = [None] * 4

    def fit(k):
        found[k] = weights(FITS["mlp"]().set_params(random_state=k).fit(X, Y))

    threads = [threading.Thread(target=fit, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_stream_has_shortcuts_that_draw_the_same():
    x = torch.randn(7, 5)
    with RandomStream(CPU, 4):
        expected = F.dropout(x, 0.3), torch.randn_like(x)
    stream = RandomStream(CPU, 4)
    assert torch.equal(stream.drop(x, 0.3), expected[0])
    assert torch.equal(stream.normal_like(x), expected[1])
