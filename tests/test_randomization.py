"""Maps beside those of networks that learned nothing, against plain rewrites."""

import pickle
import re

import numpy as np
import pytest
import skorch
import torch

import sklrp
from sklrp import MLPClassifier
from sklrp._models import unwrap
from sklrp._streams import Streams
from sklrp.diagnostics import randomization_test
from sklrp.diagnostics.nulls import NULLS
from sklrp.diagnostics.randomization import compare_with_null
from sklrp.metrics import randomization_similarity
from sklrp.metrics.randomise import copy_network
from tests.helpers import planted as planted_cases
from tests.helpers.drawn_maps import drawn


def test_randomization_is_the_cosine_with_random_networks():
    """A linear network under the epsilon rule: R = x * w, so that all is known in closed form."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 6)), np.repeat([0, 1], 20)
    clf = MLPClassifier((), bias=False, max_epochs=3, random_state=0).fit(X, y)
    found = randomization_test(clf, X, rule="zero", n_permutations=4, random_state=7)
    target = clf.predict(X)
    maps = X * clf.module_[-1].weight.detach().numpy()[target]
    seeds = Streams(7).seeds("null network", 4)
    for similarity, seed in zip(found.similarity, seeds, strict=True):
        generator = torch.Generator().manual_seed(int(seed))
        weight = torch.empty(2, 6, dtype=torch.float64)
        weight = weight.uniform_(-(6**-0.5), 6**-0.5, generator=generator).numpy()
        other = X * weight[target]
        size = np.linalg.norm(maps, axis=1) * np.linalg.norm(other, axis=1)
        np.testing.assert_allclose(
            similarity, np.abs((maps * other).sum(axis=1)) / size, rtol=1e-5
        )
    assert found.statistic == pytest.approx(found.similarity.mean())


@pytest.mark.parametrize("kind", ["estimator", "net", "module"])
def test_copies_are_asked_as_the_network_itself_and_have_no_optimizer(kind, mlp, squares):
    network = {"estimator": mlp, "net": mlp.net_, "module": mlp.module_}[kind]
    X, training = squares[0][:5].reshape(5, -1), mlp.net_.optimizer_
    wanted = sklrp.explain(network, X, target=0)
    made = copy_network(network)
    for fresh in (made, pickle.loads(pickle.dumps(made))):
        np.testing.assert_array_equal(sklrp.explain(fresh, X, target=0), wanted)
    with torch.no_grad():
        for parameter in unwrap(made).module.parameters():
            parameter.fill_(1.0)
    np.testing.assert_array_equal(sklrp.explain(network, X, target=0), wanted)
    if kind != "module":
        assert not hasattr(getattr(made, "net_", made), "optimizer_")
    assert mlp.net_.optimizer_ is training


class Keeping(torch.nn.Sequential):
    """What keeps a result of its last forward in training, with the graph behind it."""

    def forward(self, x):
        hidden = self[0](x)
        self.last, self.seen = hidden, {"all": [hidden.relu()]}
        return self[2](self.seen["all"][0])


@pytest.mark.parametrize("is_net", [False, True])
def test_networks_that_keep_results_are_drawn_anew(is_net):
    """Torch refuses to copy what a forward in training kept."""
    X = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    torch.manual_seed(0)
    layers = torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)
    found = []
    for network in (torch.nn.Sequential(*layers), Keeping(*layers)):
        network(torch.tensor(X))
        model = network
        if is_net:
            model = skorch.NeuralNetClassifier(network, lr=0.0, max_epochs=1, train_split=None)
            model.set_params(verbose=0, criterion=torch.nn.CrossEntropyLoss)
            model.fit(X, np.arange(8) % 2)
        found.append(randomization_similarity(model, X, target=0, random_state=0).similarity)
    np.testing.assert_array_equal(*found)
    assert not network.last.is_leaf  # the user's own is as it was


@pytest.mark.filterwarnings("ignore:.*flat")
def test_randomization_verdicts(mlp, squares):
    X = squares[2]
    assert randomization_test(mlp, X, rule="epsilon", random_state=0).verdict == "fact"
    flat = randomization_test(
        mlp, X, rule=planted_cases.FLAT_FIRST, null="readout", random_state=0
    )
    assert flat.verdict == "artifact"
    data = {"X_train": squares[0], "y_train": squares[1]}
    labels = randomization_test(mlp, X, null="labels", n_permutations=2, random_state=0, **data)
    alone = randomization_test(mlp, X, rule="epsilon", n_permutations=1, random_state=0)
    assert re.search(
        r"maps of 1 network before .*they explain \d+ % of the squared", alone.reading
    )
    assert labels.name == "labels"
    assert labels.verdict == "fact"


def test_randomization_of_labels_needs_training_data(mlp, squares):
    with pytest.raises(ValueError, match="X_train=None: null='labels' trains clones"):
        randomization_test(mlp, *squares[2:4], null="labels", n_permutations=1)
    with pytest.raises(ValueError, match="y_train=None: null='labels' trains clones"):
        randomization_test(mlp, squares[2], null="labels", X_train=squares[0], n_permutations=1)


def test_null_maps_without_relevance_are_left_out():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(10, 12))
    explained = drawn(maps, np.zeros_like(maps))
    found = compare_with_null(explained, NULLS["network"], 3)
    assert np.isnan(found.similarity).all()
    assert found.verdict == "undecided"
    assert "3 more had no relevance" in found.reading
