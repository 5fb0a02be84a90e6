"""The questions asked of a map, one by one: is the model skilled, is the map true, is it used?

Networks are linear, of given weights, and baselines one sample of zeros: what each cell
contributes to a score is then its weight times its value, exactly.
"""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

import sklrp
from sklrp.diagnostics import diagnose, skill_map, true_place
from sklrp.diagnostics.explained import Explained
from sklrp.diagnostics.skilled import find_skilled
from sklrp.diagnostics.true_place import Places, find_true
from sklrp.diagnostics.used import find_used
from sklrp.metrics import make_relevance_scorer

N_CELLS = 12
SIGNAL = np.arange(N_CELLS) < 3


def linear(weights):
    """Return a network of given weights, one row for each output."""
    net = nn.Linear(N_CELLS, len(weights), bias=False).double()
    with torch.no_grad():
        net.weight.copy_(torch.from_numpy(np.asarray(weights, dtype=np.float64)))
    return net


def asked(net, X, y=None, **entries):
    """Explain samples against a sample of zeros."""
    made = {} if "relevance" in entries else {"rule": "epsilon"}
    entries = {**made, "random_state": 0, **entries}
    return Explained(net, X, y, X_train=np.zeros((2, N_CELLS)), **entries)


def two_classes(n, shift=0.0, seed=0):
    """Return samples of two classes that differ by `shift` on the signal cells, and labels."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(n) % 2
    X = rng.normal(size=(n, N_CELLS)) + shift * np.where(y == 1, 1, -1)[:, None] * SIGNAL
    return X, y


TELLS = np.stack([-1.0 * SIGNAL, 1.0 * SIGNAL])  # scores of the classes


# Skilled


def test_skill_has_a_size_and_a_p_value():
    X, y = two_classes(200, 0.5)
    y[:120] = 1  # the mean of recalls, not of samples
    found = find_skilled(asked(linear(TELLS), X, y))
    said = (X[:, SIGNAL].sum(axis=1) > 0).astype(int)
    recalls = [(said == y)[y == label].mean() for label in (0, 1)]
    assert found.statistic == pytest.approx(np.mean(recalls))
    assert found.interval[0] < found.statistic < found.interval[1]
    assert found.null == 0.5
    # The mean score of the truth, less that of labels in any order.
    score = np.where(said == 1, 1, -1) * np.abs(X[:, SIGNAL].sum(axis=1))  # of class 1
    centred = ((y == 1) - (y == 1).mean()) * 2 * score
    assert found.total == pytest.approx(centred.mean(), rel=1e-5)
    rng = np.random.default_rng(0)
    drawn = [((z == 1) - (z == 1).mean()) @ (2 * score) for z in rng.permuted([y] * 999, axis=1)]
    expected = (1 + np.sum(drawn >= centred.sum())) / 1000
    assert found.p_value == pytest.approx(expected, abs=0.02)


def test_the_larger_class_alone_is_no_skill():
    X, y = two_classes(200)
    y[:100] = 0  # right for three in four
    net = linear(np.stack([np.eye(N_CELLS)[0], -np.eye(N_CELLS)[0]]))
    X[:, 0] = 5 + 0.1 * X[:, 0]
    found = find_skilled(asked(net, X, y))
    assert found.statistic == 0.5
    assert found.verdict == "artifact"


def test_modest_skill_is_skill():
    X, y = two_classes(400, 0.2)
    found = find_skilled(asked(linear(TELLS), X, y))
    assert 0.55 < found.statistic < 0.68
    assert found.verdict == "fact"
    assert found.advice == ""


def test_skill_of_an_untrained_network_is_luck():
    """Half of all networks follow a signal this strong, before they have learned anything."""
    X, y = two_classes(200, 2.0)
    lucky = np.where(SIGNAL, 0.1, 0.12 * np.resize([1, -1], N_CELLS))  # as large as at its start
    found = find_skilled(asked(linear([-lucky, lucky]), X, y))
    assert found.p_value <= 0.01
    assert found.verdict == "undecided"
    assert "networks before any training have as much" in found.reading
    assert "never trained" in found.advice
    assert find_skilled(asked(linear(TELLS), X, y)).verdict == "fact"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("n", "verdict"), [(200, "artifact"), (20, "undecided")])
def test_no_skill_convicts_if_it_would_have_been_seen(n, verdict, seed):
    X, y = two_classes(n, seed=seed)
    said = np.tile([0, 0, 1, 1], n // 4)
    y = np.tile([0, 1, 0, 1], n // 4)  # half of each class is right
    X *= np.where((X[:, SIGNAL].sum(axis=1) > 0) == said, 1, -1)[:, None]
    order = np.random.default_rng(seed).permutation(n)
    found = find_skilled(asked(linear(TELLS), X[order], y[order]))
    assert found.statistic == 0.5
    assert found.p_value > 0.05
    assert found.verdict == verdict
    assert ("hold out more" in found.advice) == (verdict == "undecided")


def test_the_reverse_of_the_labels_is_an_artifact():
    X, y = two_classes(100, 1.0)
    found = find_skilled(asked(linear(TELLS), X, 1 - y))
    assert found.verdict == "artifact"
    assert "reverse of the labels" in found.advice


def samples_right(n_right, n, seed=0):
    """Return samples that the network gets right in so many of n cases, half of each class."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    right = rng.permutation(n) < n_right
    size = rng.uniform(0.5, 1.5, n)
    X = np.zeros((n, N_CELLS))
    X[:, 0] = np.where((y == 1) == right, size, -size)
    return X, y


@pytest.mark.sweep(1)
@pytest.mark.parametrize("n", [100, 200, 400])
def test_a_hint_of_skill_is_no_conviction(n):
    """p-values from .05 to .2 in the right direction: what would settle it is said."""
    hints = []
    for n_right in range(n // 2, int(0.65 * n), n // 100):
        found = find_skilled(asked(linear(TELLS), *samples_right(n_right, n)))
        if 0.05 < found.p_value <= 0.2 and found.total > 0:
            assert found.verdict == "undecided", found
            assert "held-out samples would" in found.advice
            needed = int(found.advice.partition("about ")[2].split()[0])
            assert 1.5 * n <= needed < 6 * n
            hints.append(found)
    assert hints
    assert find_skilled(asked(linear(TELLS), *samples_right(n // 2, n))).verdict == "artifact"


@pytest.mark.parametrize(("n_right", "n"), [(3, 10), (2, 8), (10, 30), (80, 200)])
def test_the_reverse_is_not_said_of_what_chance_gives(n_right, n):
    for seed in range(5):
        found = find_skilled(asked(linear(TELLS), *samples_right(n_right, n, seed)))
        assert found.total < 0
        assert found.verdict != "fact"
        if found.p_value > 0.005:
            assert "reverse" not in found.advice


def test_few_samples_say_how_many_would_do():
    found = find_skilled(asked(linear(TELLS), *samples_right(10, 20)))
    assert found.verdict == "undecided"
    assert "hold out more, about" in found.advice


def test_skill_of_values_is_their_correlation():
    X, _ = two_classes(100)
    noise = np.random.default_rng(1).normal(size=100)
    values = X[:, SIGNAL].sum(axis=1) + noise
    found = find_skilled(asked(linear(TELLS[1:]), X, values))
    expected = np.corrcoef(X[:, SIGNAL].sum(axis=1), values)[0, 1]
    assert found.statistic == pytest.approx(expected)
    assert found.verdict == "fact"
    assert find_skilled(asked(linear(TELLS[1:]), X, noise)).verdict == "artifact"


# True


def shares(values):
    sizes = np.abs(values)
    return (sizes / sizes.sum(axis=1, keepdims=True)).mean(axis=0)


@pytest.fixture(scope="module")
def regression():
    """A network that uses six cells, of which three carry the skill."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, N_CELLS))
    weights = np.where(SIGNAL, 1.0, 0.0) + np.where(np.arange(N_CELLS) > 8, 0.4, 0.0)
    return linear([weights]), X, X[:, SIGNAL].sum(axis=1) + 0.5 * rng.normal(size=150), weights


def test_true_is_the_skill_at_the_place_of_the_map(regression):
    net, X, y, weights = regression
    maps = X**2 * (0.3 + SIGNAL)
    found = find_true(asked(net, X, y, relevance=maps), 3)
    phi = X * weights
    skill = ((y - y.mean())[:, None] * phi).mean(axis=0)
    own, rival, use = (shares(values) @ skill for values in (maps, X, phi))
    assert found.statistic == pytest.approx((own - rival) / (use - rival), rel=1e-5)
    assert found.mass == pytest.approx((np.abs(maps)[:, SIGNAL].sum(1) / maps.sum(1)).mean())
    assert found.input_mass == pytest.approx(shares(X)[SIGNAL].sum(), rel=1e-5)
    assert found.null_mass.size == 0


@pytest.mark.parametrize(
    ("place", "verdict"),
    [(SIGNAL, "fact"), (np.ones(N_CELLS), "artifact"), (~SIGNAL, "artifact")],
    ids=["signal", "everywhere", "elsewhere"],
)
def test_maps_are_true_where_the_skill_is(regression, place, verdict):
    net, X, y, _ = regression
    found = find_true(asked(net, X, y, relevance=np.abs(X) * place), 3)
    assert found.verdict == verdict, found
    assert bool(found.advice) == (verdict != "fact")


def test_untrained_networks_are_rivals_too(regression):
    net, X, y, _ = regression
    found = find_true(asked(net, X, y), 10)
    assert found.verdict == "fact"
    assert list(found.table["rival"]) == ["input", "untrained networks"]
    assert len(found.null_mass) == 10
    blind = find_true(asked(net, X, y, rule="z_plus"), 10)
    assert found.mass > blind.mass


def test_what_contributions_lose_too_is_no_fault_of_the_map(regression, monkeypatch):
    """Untrained networks have their relevance where the skill is largest, whatever they do."""
    net, X, y, weights = regression
    phi = X * weights
    skill = ((y - y.mean())[:, None] * phi).mean(axis=0)
    best = 1.0 * (np.arange(N_CELLS) == skill.argmax())
    own = shares(phi)
    for of_map, is_wrong in ((own, False), (1.0 * ~SIGNAL / 9, True)):
        places = Places(of_map, shares(X), own, np.tile(best, (5, 1)))
        monkeypatch.setattr(true_place, "share_places", lambda *_, places=places: places)
        found = find_true(asked(net, X, y), 5)
        assert found.table["possible"][1] == pytest.approx((own - best) @ skill, rel=1e-5)
        assert found.table["possible"][1] < -0.1 * (best @ skill)
        assert found.table["gain"][1] == pytest.approx((of_map - best) @ skill, rel=1e-5)
        assert found.table["p_value"][1] < 0.05
        assert (found.verdict == "artifact") == is_wrong


@pytest.mark.parametrize(("elsewhere", "disagrees"), [(1.6, True), (0.1, False)])
def test_a_fact_that_the_mass_does_not_show_says_so(elsewhere, disagrees):
    """Away from what speaks against the truth a map is true, with no more on true cells."""
    rng = np.random.default_rng(0)
    against = 1.0 * (np.arange(N_CELLS) > 8)
    X = rng.normal(size=(150, N_CELLS))
    y = X @ (SIGNAL - against)
    maps = np.abs(X) * np.where(SIGNAL, 1.0, elsewhere * (against == 0))
    found = find_true(asked(linear([SIGNAL + 0.8 * against]), X, y, relevance=maps), 3)
    assert (found.verdict, found.rival, found.by_mass) == ("fact", "input", False)
    assert (found.mass <= found.input_mass) == disagrees
    assert ("caution" in found) == disagrees
    if disagrees:
        said = f"3 cells found to carry skill hold {100 * found.mass:.2g} % of the map"
        assert said in found.caution
        assert f"no more than of others: {100 * found.input_mass:.2g} % of the input" in repr(
            found
        )


def test_no_skill_has_no_place(regression):
    net, X, y, _ = regression
    noise = np.random.default_rng(5).permutation(y)
    found = find_true(asked(net, X, noise, relevance=X * SIGNAL), 3)
    assert found.verdict == "undecided"
    assert np.isnan(found.statistic)


# Used


def test_used_is_the_cosine_with_contributions(regression):
    net, X, _, weights = regression
    maps = X * np.linspace(0, 1, N_CELLS)
    found = find_used(asked(net, X, relevance=maps), 3)
    phi = X * weights
    cosines = (maps * phi).sum(1) / np.linalg.norm(maps, axis=1) / np.linalg.norm(phi, axis=1)
    np.testing.assert_allclose(found.table["cosine"], cosines, atol=1e-5)
    assert found.statistic == pytest.approx(cosines.mean(), abs=1e-5)


def test_maps_of_negative_scores_keep_their_sign(regression):
    """What is explained is the score, negative or not: relevance against it is against it."""
    net, X, _, weights = regression
    found = find_used(asked(net, X), 5)
    scores = X @ weights
    assert 40 < np.count_nonzero(scores < 0) < 110
    assert found.statistic == pytest.approx(1, abs=1e-4)
    assert find_used(asked(net, X, relevance=X * weights), 5).verdict == "fact"
    turned = X * weights * np.where(scores < 0, -1, 1)[:, None]
    wrong = find_used(asked(net, X, relevance=turned), 5)
    assert wrong.verdict == "artifact"
    assert wrong.reversed_classes == ["negative"]


def test_offsets_reverse_the_map_of_a_class():
    """Of an input of one sign, a weight against a class is relevance against it in its samples."""
    rng = np.random.default_rng(0)
    y = rng.permutation(100) % 2
    X = 5 + 0.3 * rng.normal(size=(100, N_CELLS))
    X[:, SIGNAL] += np.where(y == 1, 1.0, -1.0)[:, None]
    weights = np.stack([-1.0 * SIGNAL, 1.0 * SIGNAL])
    net = nn.Linear(N_CELLS, 2).double()
    with torch.no_grad():
        net.weight.copy_(torch.from_numpy(weights))
        net.bias.copy_(torch.tensor([15.0, -15.0]))  # the threshold
    entries = {"X_train": X[:50], "rule": "epsilon", "random_state": 0}
    found = find_used(Explained(net, X[50:], y[50:], **entries), 5)
    assert found.verdict == "artifact"
    assert found.reversed_classes == [0]
    assert "centre the input" in found.advice
    entries["X_train"] = X[:50] - 5
    with torch.no_grad():
        net.bias.zero_()
    centred = find_used(Explained(net, X[50:] - 5, y[50:], **entries), 5)
    assert (centred.verdict, centred.reversed_classes) == ("fact", [])


def test_contrasts_are_compared_with_contrasts():
    """What all scores have in common is in no contrast, and earns no contribution to it."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, N_CELLS))
    weights = rng.normal(size=(3, N_CELLS)) + np.linspace(3, 0, N_CELLS)
    explained = asked(linear(weights), X, contrast=True)
    scores = X @ weights.T
    first, second = np.argsort(-scores, axis=1)[:, :2].T
    expected = X * (weights[first] - weights[second])
    np.testing.assert_allclose(explained.contributions, expected, atol=1e-5)
    found = find_used(explained, 5)
    assert found.statistic == pytest.approx(1, abs=1e-4)


def test_maps_of_other_samples_are_no_maps_of_these(regression):
    net, X, _, weights = regression
    X = X + 1.2  # what samples have in common makes any map fit in part
    maps = X * weights
    moved = np.empty_like(maps)
    for kind in (X @ weights > 0, X @ weights < 0):  # maps of the same sign
        moved[kind] = np.roll(maps[kind], 1, axis=0)
    found = find_used(asked(net, X, relevance=moved), 5)
    assert found.interval[0] > 0.4
    assert found.verdict == "artifact"
    assert "of another sample" in found.advice
    assert find_used(asked(net, X, relevance=maps), 5).verdict == "fact"


def test_maps_without_signs(regression):
    net, X, _, weights = regression
    found = find_used(asked(net, X, relevance=np.abs(X * weights)), 5)
    assert found.verdict == "fact"
    assert found.statistic == pytest.approx(1, abs=1e-5)
    assert "without sign" in found.reading
    size = find_used(asked(net, X, relevance=np.abs(X)), 5)  # the best rival itself
    assert size.statistic == pytest.approx(float(size.null[0]), abs=1e-5)
    assert size.verdict != "fact"


WHOLE = np.ones((2, 3), dtype=bool)
TEXT = {
    "text": np.array(["no", "yes"])[np.arange(40) % 2],
    "numbers as text": np.arange(40).astype(str),
    "objects": np.array([1.0, "a"] * 20, dtype=object),
    "dates": np.arange(40).astype("M8[D]"),
}


@pytest.mark.parametrize("kind", TEXT)
def test_text_is_no_value_wherever_values_are_asked(kind):
    """The same error of a regressor's fit and score, of skill and of a diagnosis; unread: none."""
    y, X = TEXT[kind], np.random.default_rng(0).normal(size=(40, 4))
    reg = sklrp.MLPRegressor((4,), max_epochs=2, random_state=0).fit(X, X[:, 0])
    net = nn.Linear(4, 1).double()
    field = nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3))).double()
    few = {"n_permutations": 19, "random_state": 0}
    asked = [
        lambda: clone(reg).fit(X, y),
        lambda: reg.score(X, y),
        *(lambda m=m: skill_map(m, X, y, **few) for m in (reg, net)),
        *(lambda m=m: diagnose(m, X, y, **few) for m in (reg, net)),
        *(lambda t=t: skill_map(field, X, y, target=t, **few) for t in ((1, 2), WHOLE)),
        lambda: diagnose(field, X, y, target=WHOLE, **few),
        lambda: make_relevance_scorer("skill_mass", n_networks=1)(reg, X, y),
    ]
    for ask in asked:
        with pytest.raises(ValueError, match=r"^y (holds|must hold)"):
            ask()
    # These grade maps alone.
    for metric, seed in (("conservation_error", {}), ("pixel_flipping", {"random_state": 0})):
        scorer = make_relevance_scorer(metric, **seed)
        assert scorer(reg, X, y) == scorer(reg, X, X[:, 0])
