"""The skill map: contributions, permutation tests, and what users meet.

The contributions are held against closed forms, the tests against plain loops and simulated nulls,
and the whole against data whose truth is known.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import ndimage
from scipy.stats import beta, norm
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.exceptions import DataConversionWarning
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from sklrp import CNNClassifier, ESNClassifier, LSTMClassifier, MLPClassifier
from sklrp._frame import make_frame
from sklrp._models import unwrap
from sklrp._streams import Streams
from sklrp.datasets import make_lorenz96, make_squares, make_suppressor, make_xor
from sklrp.diagnostics import diagnose, skill_map
from sklrp.diagnostics.skill_map import neighbours_of
from sklrp.geo import GridVectorizer
from sklrp.skill import decompose_skill
from sklrp.skill.clusters import ClusterTest, Neighbours
from sklrp.skill.contributions import expected_gradients, occluded
from sklrp.skill.exchanges import estimate_block
from sklrp.skill.permutations import (
    ClassScores,
    Exchange,
    JointScores,
    ValueScores,
    permutation_test,
)
from sklrp.skill.questions import Question


def upper_bound(n_hits, n_draws):
    """Return the upper 95 % bound of a rate (Clopper and Pearson)."""
    return beta.ppf(0.95, n_hits + 1, n_draws - n_hits) if n_hits < n_draws else 1.0


# Contributions


def test_contributions_of_a_linear_network_are_weights_times_differences():
    rng = np.random.default_rng(0)
    net = torch.nn.Linear(5, 3).double()
    x, b = torch.randn(7, 5).double(), torch.randn(4, 5).double()
    combine = np.array([[1.0, 0.0, 0.0], [0.5, -1.0, 0.5]])
    found = expected_gradients(net, x, b, combine, rng, n_draws=4)
    weight = torch.as_tensor(combine) @ net.weight.detach()
    for k, phi in enumerate(found.phi):  # each of the four baselines is drawn once
        expected = (x - b.mean(0)) * weight[k]
        np.testing.assert_allclose(phi, expected.numpy(), rtol=0, atol=1e-12)
    assert found.completeness < 1e-12


def test_contributions_sum_to_the_score_where_draws_are_many():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
    net = net.double().requires_grad_(False)
    x, b = torch.randn(20, 6).double(), torch.randn(50, 6).double()
    rng = np.random.default_rng(0)
    few, many = (expected_gradients(net, x, b, np.eye(2), rng, n) for n in (4, 400))
    assert many.completeness < 0.05 < few.completeness
    np.testing.assert_allclose(
        many.phi[0].sum(1), (net(x) - net(b).mean(0))[:, 0].numpy(), atol=0.1
    )


def test_few_draws_leave_nothing_linear():
    rng = np.random.default_rng(0)
    net = torch.nn.Linear(6, 1).double()
    x, b = (torch.as_tensor(rng.normal(size=(n, 6))) for n in (5, 40))
    found = expected_gradients(net, x, b, np.eye(1), rng, n_draws=8)
    expected = (x - b.mean(0)) * net.weight.detach()
    np.testing.assert_allclose(found.phi[0], expected.numpy(), rtol=0, atol=1e-12)
    assert found.noise < 1e-20
    automatic = expected_gradients(net, x, b, np.eye(1), rng)
    assert automatic.n_draws == 8


class _Square(torch.nn.Module):
    """A quadratic form of the input, whose gradient is linear."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = torch.as_tensor(matrix)

    def forward(self, x):
        return torch.einsum("ni,ij,nj->n", x, self.matrix, x)[:, None]


@pytest.mark.parametrize(("n_draws", "n_baselines"), [(2, 6), (8, 5), (8, 6), (11, 3), (8, 40)])
def test_few_draws_are_right_in_the_mean(n_draws, n_baselines):
    # Of many copies of one sample, each with draws of its own: also where a half of the draws is
    # over some of the baselines twice, or over hardly more than it leaves out.
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(3, 3))
    matrix += matrix.T
    sample, b = rng.normal(size=3), rng.normal(size=(n_baselines, 3))
    x = torch.as_tensor(np.tile(sample, (8000, 1)))
    found = expected_gradients(_Square(matrix), x, torch.as_tensor(b), np.eye(1), rng, n_draws)
    # The mean of the gradient over the way is its value halfway.
    expected = ((sample - b) * ((sample + b) @ matrix)).mean(axis=0)
    error = found.phi[0].std(axis=0) / np.sqrt(len(x))
    assert (np.abs(found.phi[0].mean(axis=0) - expected) < 4 * error).all()


def test_occlusion_of_an_additive_model_is_exact():
    rng = np.random.default_rng(0)
    X, b = rng.normal(size=(6, 4)), rng.normal(size=(1, 4))
    codes = np.array([0, 1, 1, 2])

    def scores(rows):
        return (np.sin(rows) * [1.0, 2.0, 3.0, 4.0]).sum(1, keepdims=True)

    found = occluded(scores, X, b, np.eye(1), codes, rng, n_draws=3)
    cells = (np.sin(X) - np.sin(b)) * [1.0, 2.0, 3.0, 4.0]
    expected = np.stack([cells[:, codes == k].sum(1) for k in range(3)], axis=1)
    np.testing.assert_allclose(found.phi[0], expected, rtol=0, atol=1e-12)
    assert found.completeness < 1e-12


# Permutation tests


def plain_statistics(phi, codes, shares):
    """Return T and its Welch error by loops; phi is (n_samples, n_classes, n_cells)."""
    n_classes = phi.shape[1]
    centred = phi - np.einsum("c,nci->ni", shares, phi)[:, None]
    total = np.mean([centred[i, c] for i, c in enumerate(codes)], axis=0)
    variance = 0.0
    for k in range(n_classes):
        psi = shares[k] * centred[codes == k, k]
        variance = variance + psi.var(axis=0, ddof=1) / len(psi)
    return total, variance


@pytest.mark.parametrize("n_classes", [2, 4])
def test_statistics_are_those_of_plain_loops(n_classes):
    rng = np.random.default_rng(n_classes)
    codes = np.repeat(np.arange(n_classes), np.arange(n_classes) + 5)
    phi = rng.normal(size=(len(codes), n_classes, 6)) * rng.uniform(0.1, 3, 6) + 5
    shares = np.bincount(codes) / len(codes)
    psi = [shares[k] * (phi[:, k] - np.einsum("c,nci->ni", shares, phi)) for k in range(n_classes)]
    rows = np.stack([np.arange(len(codes)), rng.permutation(len(codes))])
    total, variance = ClassScores(codes, psi)(rows)
    for i, row in enumerate(rows):
        expected = plain_statistics(phi, codes[row], shares)
        np.testing.assert_allclose(total[i], expected[0], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(variance[i], expected[1], rtol=1e-10, atol=1e-12)


def test_p_values_are_those_of_a_plain_step_down():
    rng = np.random.default_rng(1)
    codes = np.repeat([0, 1], 12)
    phi = rng.normal(size=(24, 5))
    phi[codes == 1, 0] += 3
    scores = ClassScores(codes, [-phi, phi])
    test = permutation_test(scores, Exchange(24), np.random.default_rng(2), 199)
    rows = Exchange(24).draw(np.random.default_rng(2), 199)
    total, variance = scores(rows)
    null = np.abs(total / np.sqrt(variance))
    order = np.argsort(-np.abs(test.z))
    expected, running = np.empty(5), 0.0
    for step, cell in enumerate(order):
        rest = null[:, order[step:]].max(axis=1)
        running = max(running, (1 + (rest >= abs(test.z[cell])).sum()) / 200)
        expected[cell] = running
    np.testing.assert_allclose(test.p_value, expected, rtol=1e-12)
    assert test.p_value[0] == 1 / 200
    assert test.p_value[1:].min() > 0.05


@pytest.mark.parametrize("kind", ["classes", "values"])
def test_no_cell_is_found_where_labels_are_independent(kind):
    """Correlated cells, few samples of one class, and gates that spread in that class only."""
    hits = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        n = 60
        phi = rng.normal(size=(n, 1)) + rng.normal(size=(n, 30))
        codes = (np.arange(n) < 12).astype(int)
        phi[codes == 1, :10] *= 3.0  # the spread depends on the class, the mean does not
        if kind == "classes":
            scores = ClassScores(codes, [-phi, phi])
        else:
            scores = ValueScores(rng.normal(size=n), phi)
        test = permutation_test(scores, Exchange(n), rng, 99)
        hits += bool((test.p_value <= 0.05).any())
    assert upper_bound(hits, 200) < 0.11  # 15 or fewer; 10 are expected at most


def test_false_discoveries_keep_to_their_rate():
    shares = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        phi = rng.normal(size=(80, 200)) + rng.normal(size=(80, 1))
        codes = rng.permutation(np.repeat([0, 1], 40))
        phi[codes == 1, :60] += 2.0
        test = permutation_test(ClassScores(codes, [-phi, phi]), Exchange(80), rng, 99)
        found = test.q_value <= 0.05
        shares.append(found[60:].sum() / max(found.sum(), 1))
        assert found[:60].mean() > 0.5
    assert np.mean(shares) < 0.07


def test_groups_and_blocks_move_as_a_whole():
    rng = np.random.default_rng(0)
    groups = np.array([0, 0, 1, 1, 2, 2, 2, 3, 3, 3])
    for row in Exchange(10, groups).draw(rng, 50):
        assert sorted(row) == list(range(10))
        for unit in range(4):
            taken = groups[row[groups == unit]]
            assert len(set(taken)) == 1
            assert (groups == taken[0]).sum() == (groups == unit).sum()
    blocks = Exchange(10, None, 3)
    assert blocks.n_units == 4
    for row in blocks.draw(rng, 50):
        assert sorted(row) == list(range(10))
        assert (np.diff(row) % 10 == 1).sum() >= 5  # three cuts, and where the series is cut open


def test_blocks_are_estimated_from_the_correlation_in_time():
    rng = np.random.default_rng(0)

    def series(rho, n=400, k=1):
        x = np.zeros((n, k))
        for t in range(1, n):
            x[t] = rho * x[t - 1] + rng.normal(size=k)
        return x

    length, rho = estimate_block(series(0.85), series(0.85, k=20))
    assert 0.75 < rho < 0.92
    # What blocks of this length keep of the variance of a sum of products, by plain sums.
    kept = 1 + 2 * sum(rho ** (2 * k) * (1 - k / length) for k in range(1, length))
    assert 0.94 < kept / (1 + 2 * sum(rho ** (2 * k) for k in range(1, 400))) < 0.96
    assert estimate_block(rng.normal(size=400), series(0.9, k=20))[0] == 1
    assert estimate_block(series(0.9), rng.normal(size=(400, 20)))[0] == 1


# The whole


@pytest.fixture(scope="module")
def squares():
    X, y, mask = make_squares(n_per_class=150, size=20, random_state=0)
    return X.astype(np.float32), y, mask


@pytest.fixture(scope="module")
def mlp(squares):
    X, y, _ = squares
    return MLPClassifier((16,), max_epochs=30, random_state=0).fit(X[:200], y[:200])


@pytest.mark.slow
def test_every_architecture_knows_the_square_alone(squares):
    X, y, mask = squares
    for clf in (
        MLPClassifier((16,), max_epochs=30, random_state=0),
        CNNClassifier((8,), input_shape=(1, 20, 20), max_epochs=20, random_state=0),
        LSTMClassifier(16, input_shape=(20, 20), sweep="right", max_epochs=30, random_state=0),
        ESNClassifier(100, input_shape=(20, 20), sweep="right", random_state=0),
    ):
        clf.fit(X[:200], y[:200])
        found = skill_map(clf, X[200:], y[200:], X_train=X[:200], random_state=0)
        assert found.true[mask].all()
        assert found.true[~mask].sum() <= 1
        assert found.verdict == "fact"
        assert found.skill.shape == (20, 20)
        assert found.p_skill == 0.001


def test_skill_is_the_mean_centred_score_of_the_truth(squares, mlp):
    X, y, _ = squares
    found = skill_map(mlp, X[200:], y[200:], X_train=X[:200], n_draws=200, random_state=0)
    logits = np.asarray(mlp.module_(torch.tensor(X[200:].reshape(100, -1))).detach())
    shares = np.bincount(y[200:]) / 100
    centred = logits[np.arange(100), y[200:]] - logits @ shares
    assert found.completeness < 0.1
    # What few draws leave has no part in it on average.
    np.testing.assert_allclose(found.statistic, centred.mean(), rtol=0.03)
    np.testing.assert_allclose(found.skill.sum(), found.statistic, rtol=1e-6)


def test_a_seed_determines_all_and_workers_nothing(squares, mlp):
    X, y, _ = squares
    one, same, other = (
        skill_map(mlp, X[200:], y[200:], n_permutations=99, n_jobs=n, random_state=seed)
        for seed, n in ((0, None), (0, 2), (1, None))
    )
    np.testing.assert_allclose(one.skill, same.skill, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(one.p_value, same.p_value)
    assert not np.array_equal(one.skill, other.skill)
    np.testing.assert_array_equal(one.true, other.true)


def test_a_model_is_whatever_explain_takes(squares, mlp):
    X, y, mask = squares
    rows = X.reshape(len(X), -1)
    expected = skill_map(mlp, rows[200:], y[200:], X_train=rows[:200], random_state=0)
    module = skill_map(mlp.module_, rows[200:], y[200:], X_train=rows[:200], random_state=0)
    net = skill_map(mlp.net_, rows[200:], y[200:], X_train=rows[:200], random_state=0)
    for found in (module, net):
        np.testing.assert_allclose(found.skill, expected.skill, rtol=1e-5, atol=1e-7)
    pipeline = make_pipeline(StandardScaler(), MLPClassifier((16,), max_epochs=30, random_state=0))
    search = GridSearchCV(pipeline, {"mlpclassifier__lr": [0.001, 0.002]}, cv=2)
    search.fit(rows[:200], y[:200])
    found = skill_map(search, rows[200:], y[200:], X_train=rows[:200], random_state=0)
    assert found.true[mask.ravel()].all()


def test_suppressor_is_used_and_says_nothing():
    X, y, mask = make_suppressor(400, size=16, random_state=0)
    clf = MLPClassifier((16,), max_epochs=40, random_state=0).fit(X[:500], y[:500])
    assert clf.score(X[500:], y[500:]) > 0.8
    found = skill_map(clf, X[500:], y[500:], X_train=X[:500], random_state=0)
    assert found.true[mask].mean() > 0.3
    assert not found.true[mask[:, ::-1]].any()


def test_both_places_of_an_exclusive_or_are_true():
    X, y, mask = make_xor(500, size=16, random_state=0)
    clf = MLPClassifier((32,), max_epochs=40, random_state=0).fit(X[:700], y[:700])
    assert clf.score(X[700:], y[700:]) > 0.9
    found = skill_map(clf, X[700:], y[700:], X_train=X[:700], random_state=0)
    assert found.true[mask].mean() > 0.95
    assert found.true[~mask].sum() <= 1


def test_nothing_is_found_in_labels_without_relation(squares):
    X, _, _ = squares
    y = np.random.default_rng(0).permutation(np.repeat([0, 1], 150))
    clf = MLPClassifier((16,), max_epochs=30, random_state=0).fit(X[:200], y[:200])
    found = skill_map(clf, X[200:], y[200:], X_train=X[:200], random_state=0)
    assert found.verdict == "undecided"
    assert not found.true.any()
    assert "no skill" in found.advice
    assert (found.detectable > 0).sum() == 400


@pytest.mark.slow
def test_values_of_a_regression():
    X, y, _ = make_lorenz96(1500, random_state=0)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(12, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.003)
    inputs, values = torch.tensor(X[:1000]).float(), torch.tensor(y[:1000, None]).float()
    for _ in range(150):
        for rows in torch.randperm(1000).split(100):
            optimizer.zero_grad()
            ((net(inputs[rows]) - values[rows]) ** 2).mean().backward()
            optimizer.step()
    found = skill_map(net, X[1000:], y[1000:], X_train=X[:1000], random_state=0)
    assert set(np.flatnonzero(found.true)) == {3, 4, 6}  # site 5 does not covary with the target
    assert not found.misleading.any()
    noise = np.random.default_rng(0).normal(size=len(y))
    both = torch.nn.Sequential(net, torch.nn.Linear(1, 2))
    with torch.no_grad():
        both[1].weight[:] = torch.tensor([[0.0], [1.0]])
    found = skill_map(both, X[1000:], np.stack([noise, y], 1)[1000:], random_state=0)
    assert not found.true[0].any()
    assert set(np.flatnonzero(found.true[1])) == {3, 4, 6}
    assert found.p_skill == 0.001  # of any output
    two = torch.nn.Linear(12, 2)
    found = skill_map(two, X[1000:], np.stack([y, -y], 1)[1000:], random_state=0)
    assert found.skill.shape == (2, 12)


def test_a_model_without_gradient_is_asked_by_replacing_groups():
    X, y, mask = make_squares(n_per_class=100, size=10, random_state=0)
    rows = X.reshape(200, -1)
    forest = RandomForestClassifier(30, random_state=0).fit(rows[:100], y[:100])
    with pytest.raises(ValueError, match="give regions"):
        skill_map(forest, rows[100:], y[100:])
    regions = np.arange(100) // 10  # rows of the image
    found = skill_map(forest, rows[100:], y[100:], regions=regions, n_draws=4, random_state=0)
    is_true = found.true.reshape(10, 10)
    assert (is_true.all(axis=1) == is_true.any(axis=1)).all()
    assert is_true[mask.any(axis=1)].all()
    assert found.regions["skill"].shape == (10,)
    codes = Ridge().fit(rows[:100], y[:100])  # values, though there are two of them
    found = skill_map(codes, rows[100:], y[100:], regions=regions, n_draws=4, random_state=0)
    assert found.true.reshape(10, 10)[mask.any(axis=1)].all()
    ridge = Ridge().fit(rows[:100, :5], rows[:100, 0])
    found = skill_map(ridge, rows[100:, :5], rows[100:, 0], n_draws=4, random_state=0)
    assert found.true.tolist() == [True, False, False, False, False]


def test_each_name_has_the_skill_of_its_own_cells():
    """Also where there are as many regions as cells, in another order, or cells in none."""
    rng = np.random.default_rng(0)
    y = rng.permutation(300) % 2
    X = rng.normal(size=(300, 4))
    X[:, 0] += 2 * y
    forest = RandomForestClassifier(30, random_state=0).fit(X[:150], y[:150])
    network = MLPClassifier(max_epochs=10, random_state=0).fit(X[:150], y[:150])
    for model in (forest, network):
        found = skill_map(model, X[150:], y[150:], regions=list("dcba"), random_state=0)
        assert found.regions["name"].tolist() == list("abcd")
        np.testing.assert_allclose(found.regions["skill"], found.skill[::-1], rtol=1e-6)
        for regions in (["s", "s", None, "n"], [7.0, 7.0, np.nan, 3.0]):
            found = skill_map(model, X[150:], y[150:], regions=regions, random_state=0)
            assert found.regions["name"].tolist() == sorted({regions[0], regions[3]})
            both = [found.skill[3], found.skill[:2].sum()]
            np.testing.assert_allclose(found.regions["skill"], both, rtol=1e-6)
    with pytest.raises(ValueError, match="regions names no cell"):
        skill_map(network, X[150:], y[150:], regions=[None] * 4)


def test_land_has_no_part_in_the_even_share():
    """A cell of 0.8 % of the skill matters among 40 cells, and not among the 10 with data."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 10))
    weight = torch.ones(1, 40).double()
    weight[0, 9] = 0.29
    y = X @ weight[0, :10].numpy()
    net = torch.nn.Linear(40, 1, bias=False).double()
    net.weight = torch.nn.Parameter(weight)
    wide = np.concatenate([X, np.zeros((3000, 30))], axis=1)
    found = skill_map(net, wide, y, n_permutations=199, random_state=0)
    assert 0.1 / 40 < found.skill[9] / found.skill.sum() < 0.1 / 10
    assert found.p_value[9] < 0.05
    assert set(np.flatnonzero(found.true)) == set(range(9))
    noisy = wide.copy()
    noisy[:, 10:] = 1e-9 * rng.normal(size=(3000, 30))
    found = skill_map(net, noisy, y, n_permutations=199, random_state=0)
    assert found.true[9]


def test_a_column_of_labels_is_flat_with_a_warning(squares, mlp):
    X, y, _ = squares
    few = {"n_permutations": 99, "random_state": 0}
    plain = skill_map(mlp, X, y, n_draws=8, **few)
    with pytest.warns(DataConversionWarning, match=r"y is a column, .*y\.ravel\(\)"):
        found = skill_map(mlp, X, y[:, None], n_draws=8, **few)
    np.testing.assert_array_equal(found.skill, plain.skill)
    report = diagnose(mlp, X, y, n_permutations=3, random_state=0)
    with pytest.warns(DataConversionWarning, match="y is a column"):
        again = diagnose(mlp, X, y[:, None], n_permutations=3, random_state=0)
    assert repr(again) == repr(report)


def test_regions_are_tested_beside_cells(squares, mlp):
    X, y, mask = squares
    regions = np.where(mask, "square", "rest")
    found = skill_map(mlp, X[200:], y[200:], regions=regions, random_state=0)
    assert found.regions["name"].tolist() == ["rest", "square"]
    np.testing.assert_allclose(found.regions["skill"][1], found.skill[mask].sum(), rtol=1e-4)
    assert found.regions["p_value"][1] == 0.001


def test_bad_input_is_refused(squares, mlp):
    X, y, _ = squares
    held, truth = X[200:], y[200:]

    def fails(match, **changes):
        given = {"X": held, "y": truth, "random_state": 0, **changes}
        with pytest.raises(ValueError, match=match):
            skill_map(mlp, given.pop("X"), given.pop("y"), **given)

    fails("every sample of X is one of X_train", X_train=held)
    fails("class 0 only", y=np.zeros(100, int))
    fails("unknown labels '7'|unknown labels 7", y=np.where(truth == 1, 7, 0))
    fails("truth of each of 100 samples", y=truth[:50])
    fails("groups must hold", groups=np.arange(50))
    fails("too few units", groups=np.repeat(np.arange(2), 50))
    years = np.repeat(np.arange(2000.0, 2010), 10)
    years[20:30] = np.nan
    named = years.astype(object)
    named[20:30] = None
    for groups in (years, named):
        fails("no value for 10 of 100 samples, the first at position 20", groups=groups)
    fails("fewer than two blocks", block_length=60)
    fails("go together in no test", groups=np.arange(100), block_length=3)
    fails("baseline has the shape", baseline=np.zeros((3, 5)))
    fails("X_train has samples of shape", X_train=np.zeros((5, 10, 10)))
    fails("regions has the shape", regions=np.zeros(3))
    fails("not one of the classes", target=5)
    with pytest.warns(UserWarning, match="10 of 100 samples"):
        found = skill_map(mlp, held, truth, X_train=X[:210], random_state=0)
    assert any("10 of 100" in said for said in found.assumptions)
    with pytest.raises(TypeError, match="model must be"):
        skill_map(StandardScaler().fit(held.reshape(100, -1)), held, truth)


def test_a_model_that_draws_is_refused(squares):
    class Noisy(torch.nn.Module):
        def forward(self, x):
            return x[:, :2] + torch.rand(len(x), 2)

    X, y, _ = squares
    rows = X.reshape(len(X), -1)
    with pytest.raises(ValueError, match="other scores for the same samples"):
        skill_map(Noisy(), rows[200:], y[200:])


def test_each_sample_may_ask_for_an_output_of_its_own():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)
    ).double()
    X = torch.randn(7, 5, dtype=torch.float64)
    columns = np.array([0, 1, 2, 2, 1, 0, 1])
    all_outputs = expected_gradients(net, X, X, np.eye(3), np.random.default_rng(0), 8)
    own = np.eye(3)[columns][None]
    found = expected_gradients(net, X, X, own, np.random.default_rng(0), 8)
    expected = np.stack([all_outputs.phi[c][n] for n, c in enumerate(columns)])
    np.testing.assert_allclose(found.phi[0], expected, rtol=1e-12)
    assert found.completeness < 1


# Fields of outputs


class _Field(torch.nn.Module):
    """A linear network from a row of numbers to a field."""

    def __init__(self, weight, shape):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.as_tensor(weight))
        self.shape = shape

    def forward(self, x):
        return (x @ self.weight.T).reshape(-1, *self.shape)


@pytest.fixture(scope="module")
def field():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(6, 8)) * (np.arange(8) < 5)  # three inputs without effect
    X = rng.normal(size=(120, 8))
    y = (X @ weight.T + rng.normal(size=(120, 6))).reshape(120, 2, 3)
    return _Field(weight, (2, 3)), X, y, weight


def test_regions_of_a_grid_are_put_in_place():
    """Behind steps that leave land out, in any order, and for all variables."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(90, 4, 5))
    values[:, 0, :2] = np.nan
    places = {"lat": [0.0, 5.0, 10.0, 15.0], "lon": np.arange(5.0)}
    field = xr.DataArray(values, places, ("time", "lat", "lon"))
    labels = np.array(["n", "s"] * 10).reshape(4, 5)
    basins = xr.DataArray(labels, places, ("lat", "lon"))
    y = np.where(field[:, 2].mean("lon") > 0, "up", "down")
    network = MLPClassifier((4,), max_epochs=10, random_state=0)
    for data in (field, xr.Dataset({"a": field, "b": 2 * field})):
        model = make_pipeline(GridVectorizer(), network).fit(data.isel(time=slice(60)), y[:60])
        n_variables = len(data) if isinstance(data, xr.Dataset) else 1
        own = np.tile(basins.values[np.isfinite(values[0])], n_variables)
        for regions in (basins, basins[::-1, ::-1].T, basins.values):
            found = skill_map(
                model, data.isel(time=slice(60, None)), y[60:], regions=regions,
                n_permutations=19, alpha=0.1, random_state=0,
            )  # fmt: skip
            assert found.regions["name"].tolist() == ["n", "s"]
            sums = [found.skill[own == name].sum() for name in "ns"]
            np.testing.assert_allclose(found.regions["skill"], sums, rtol=1e-6)


def test_a_field_is_explained_together_by_leading_patterns(field):
    net, X, y, weight = field
    found = skill_map(net, X, y, baseline="mean", random_state=0)
    assert found.skill.shape == (8,)
    assert set(np.flatnonzero(found.true)) <= set(range(5))
    assert found.true.sum() >= 3
    (said,) = (s for s in found.assumptions if "leading patterns" in s)
    predicted = X @ weight.T
    patterns = np.linalg.svd(predicted - predicted.mean(0), full_matrices=False)[2]
    n = int(said.split("by the ")[1].split()[0])
    truth = y.reshape(120, 6) @ patterns[:n].T
    contributions = (X - X.mean(0))[:, None] * (patterns[:n] @ weight)
    expected = np.mean((truth - truth.mean(0))[..., None] * contributions, axis=0).sum(axis=0)
    np.testing.assert_allclose(found.skill, expected, rtol=1e-9, atol=1e-12)
    land = y.copy()
    land[:, 0, 0] = np.nan  # no value there, in any sample
    assert skill_map(net, X, land, random_state=0).true[:5].any()


def test_one_output_a_box_or_weights_of_a_field(field):
    net, X, y, weight = field

    def skill(target, truth=y):
        return skill_map(net, X, truth, target=target, baseline="mean", random_state=0).skill

    def expected(w):
        truth = (y.reshape(120, 6) * w).sum(1)
        phi = (X - X.mean(0)) * (w @ weight)
        return ((truth - truth.mean())[:, None] * phi).mean(0)

    box = np.array([[0, 1, 1], [0, 0, 1]], dtype=bool)
    signed = np.array([[1.0, 0, -1], [0, 0, 0]])
    for target, w in (
        ((1, 2), np.eye(6)[5]),
        (5, np.eye(6)[5]),
        (box, box.ravel() * 1.0),
        (box / 3, box.ravel() / 3),
        (signed, signed.ravel()),
    ):
        np.testing.assert_allclose(skill(target), expected(w), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(skill(5, y.reshape(120, 6)), skill((1, 2)), rtol=1e-12)
    for target in ((2, 0), (1,), 6, "a", np.ones(4), np.zeros((2, 3))):
        with pytest.raises(ValueError, match="target must be"):
            skill(target)


def test_joint_statistics_are_those_of_plain_loops():
    rng = np.random.default_rng(0)
    y, phi = rng.normal(size=(30, 3)), rng.normal(size=(3, 30, 5)) + 4
    rows = np.stack([np.arange(30), rng.permutation(30)])
    total, variance = JointScores(y, list(phi))(rows)
    for i, row in enumerate(rows):
        terms = 0.0
        for k in range(3):
            terms = terms + (y[row, k] - y[:, k].mean())[:, None] * (phi[k] - phi[k].mean(0))
        np.testing.assert_allclose(total[i], terms.mean(0), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(variance[i], terms.var(0) / 29, rtol=1e-10, atol=1e-12)


def test_use_is_the_mean_size_of_contributions(field):
    net, X, y, weight = field
    found = skill_map(net, X, y, target=(0, 1), baseline="mean", random_state=0)
    expected = np.abs((X - X.mean(0)) * weight[1]).mean(0)
    np.testing.assert_allclose(found.use, expected, rtol=1e-9, atol=1e-12)
    each = skill_map(net, X, y.reshape(120, 6), baseline="mean", random_state=0)
    np.testing.assert_allclose(each.use[1], expected, rtol=1e-9, atol=1e-12)


# Clusters


def test_clusters_are_those_of_plain_labels():
    rng = np.random.default_rng(0)
    test = ClusterTest(Neighbours((2, 9, 12), None, channel_axis=0), 216)
    z = ndimage.gaussian_filter(rng.normal(size=(21, 2, 9, 12)), (0, 0, 1, 1)) * 12
    test(z[:1].reshape(1, -1))
    test(z[1:8].reshape(7, -1))
    test(z[8:].reshape(13, -1))

    def masses(field):
        found = []
        for sign in (1, -1):
            for channel in field * sign:
                labels, n = ndimage.label(channel > norm.isf(0.005), np.ones((3, 3)))
                found += [channel[labels == k].sum() for k in range(1, n + 1)]
        return sorted(found, reverse=True)

    found = test.result((2, 9, 12))
    np.testing.assert_allclose(found["mass"], masses(z[0]), rtol=1e-12)
    largest = np.array([max(masses(f), default=0) for f in z[1:]])
    expected = [(1 + (largest >= mass).sum()) / 21 for mass in found["mass"]]
    np.testing.assert_allclose(found["p_value"], expected)
    for k, mass in enumerate(found["mass"]):
        place = found["labels"] == k + 1
        assert place.sum() == found["size"][k]
        np.testing.assert_allclose(np.abs(z[0][place]).sum(), mass)


def test_a_cluster_goes_around_the_globe_and_not_over_land():
    latitude, longitude = np.linspace(-40, 40, 5), np.arange(0, 360, 30.0)
    z = np.zeros((5, 12))
    z[2, [0, 1, 10, 11]] = 4
    for lon, n in ((longitude, 1), (longitude / 2, 2)):
        frame = replace(make_frame((5, 12), layout="field"), latitude=latitude, longitude=lon)
        test = ClusterTest(neighbours_of(frame), 60)
        for values in (z, np.zeros((5, 12))):
            test(values.reshape(1, -1))
        assert len(test.result((5, 12))["mass"]) == n
    ocean = np.ones((5, 12), dtype=bool)
    ocean[:, 3] = False
    test = ClusterTest(Neighbours((5, 12), ocean), 55)
    z[:] = 0
    z[1, [2, 4]] = z[3, [5, 6]] = 4
    for values in (z, np.zeros((5, 12))):
        test(values[ocean][np.newaxis])
    assert test.result((55,))["size"].tolist() == [2, 1, 1]


def test_a_region_is_found_where_no_cell_is(squares):
    X, y, mask = squares
    clf = MLPClassifier((16,), max_epochs=30, random_state=0).fit(X[:200], y[:200])
    found = skill_map(clf, X[200:], y[200:], X_train=X[:200], random_state=0)
    clusters = found.clusters
    assert clusters["labels"].shape == (20, 20)
    assert clusters["p_value"][0] == 0.001
    assert (clusters["labels"][mask] == 1).mean() > 0.9
    assert (clusters["p_value"][1:] > 0.01).all()
    rows = skill_map(Ridge().fit(X[:200, 0], y[:200]), X[200:, 0], y[200:], random_state=0)
    assert "clusters" not in rows  # the columns of a table have no neighbours


# Misleading cells


class _Hump(torch.nn.Module):
    """Two scores, x0 times a function of x1 that is 1 wherever there are data."""

    def forward(self, x):
        score = x[:, 0] * (1 + 2 * torch.exp(-(x[:, 1] ** 2)))
        return torch.stack([-score, score], dim=1)


def test_a_cell_that_does_no_harm_is_not_misleading():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400)
    X = np.stack([2 * y - 1 + rng.normal(size=400), rng.choice([-3.0, 3.0], 400)], axis=1)
    found = skill_map(_Hump(), X, y, n_draws=64, random_state=0)
    # Paths between the two values of the second cell lead over the hump.
    assert found.skill[1] < -0.05 * found.skill[0]
    assert found.p_value[1] < 0.01
    assert not found.misleading.any()


def test_a_relation_that_is_reversed_is_misleading():
    X, y, _ = make_squares(n_per_class=200, size=12, random_state=0)
    X = X.astype(np.float32)
    X[:, 0, 0] += 2 * y
    held = X[200:].copy()
    held[:, 0, 0] -= 4 * y[200:]
    clf = MLPClassifier((16,), max_epochs=30, random_state=0).fit(X[:200], y[:200])
    found = skill_map(clf, held, y[200:], X_train=X[:200], random_state=0)
    assert np.argwhere(found.misleading).tolist() == [[0, 0]]
    one = skill_map(clf, held, y[200:], X_train=X[:200], target=1, random_state=0)
    assert np.argwhere(one.misleading).tolist() == [[0, 0]]


def test_losses_of_classes_and_values():
    rng = np.random.default_rng(0)
    scores, codes = rng.normal(size=(7, 3)), rng.integers(0, 3, 7)
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    question = Question(np.eye(3), codes, np.ones(3) / 3, columns=codes)
    np.testing.assert_allclose(question.losses(scores)[:, 0], -np.log(p[np.arange(7), codes]))
    question = replace(question, one=1)
    expected = -np.log(np.where(codes == 1, p[:, 1], 1 - p[:, 1]))
    np.testing.assert_allclose(question.losses(scores)[:, 0], expected)
    values = Question(np.eye(3)[:2], scores[:, :2] + [1, 2], None)
    np.testing.assert_allclose(values.losses(scores), np.tile([1.0, 4.0], (7, 1)))
    joint = replace(values, is_joint=True)
    np.testing.assert_allclose(joint.losses(scores), np.full((7, 1), 5.0))


# What users meet: odd networks, tables, bad input


class _Odd(torch.nn.Module):
    """A linear layer of 16 columns, and something odd before or after it."""

    def __init__(self, before=None, after=None):
        super().__init__()
        self.linear = torch.nn.Linear(16, 2)
        self.before, self.after = before, after
        with torch.no_grad():
            self.linear.weight[0] = 0
            self.linear.weight[1] = (torch.arange(16) == 3) * 1.0

    def forward(self, x):
        x = x if self.before is None else self.before(x)
        x = self.linear(x)
        return x if self.after is None else self.after(x)


def _add_in_place(x):
    x += 1
    return x


class _NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        raise NotImplementedError


@pytest.fixture(scope="module")
def columns():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 100)
    X = rng.normal(size=(100, 16))
    X[:, 3] += 2 * y
    return X, y


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, lambda out: (out, None)),
        (None, lambda out: out.softmax(1)),
        (_add_in_place, None),
        (torch.round, None),  # no slope
        (lambda x: torch.from_numpy(x.detach().numpy().copy()), None),  # no gradient
        (_NoBackward.apply, None),
    ],
    ids=["tuple", "softmax", "in place", "round", "numpy", "no backward"],
)
def test_odd_networks_are_asked(columns, before, after):
    X, y = columns
    found = skill_map(_Odd(before, after), X, y, n_permutations=99, random_state=0)
    assert np.flatnonzero(found.true).tolist() == [3]


def test_scores_that_sum_to_one_are_no_probabilities(columns):
    """A readout by least squares has such scores; of the first samples none is negative here."""
    X, y = columns

    def share_out(out):
        return torch.stack([1 - out[:, 1], out[:, 1]], dim=1)

    net = _Odd()
    torch.nn.init.zeros_(net.linear.bias)
    outputs = share_out(net(torch.from_numpy(X).float())).detach().numpy()
    is_fraction = (outputs >= 0).all(axis=1)
    assert 8 <= is_fraction.sum() < 100
    order = np.argsort(~is_fraction, kind="stable")
    found = []
    for after in (share_out, lambda out: share_out(out) + 5.0):
        net.after = after
        found.append(
            skill_map(net, X[order], y[order], block_length=1, n_permutations=99, random_state=0)
        )
    one, other = found
    np.testing.assert_allclose(one.skill, other.skill, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_networks_of_half_precision(columns, dtype):
    X, y = columns
    found = skill_map(_Odd().to(dtype), X, y, n_permutations=99, random_state=0)
    assert np.flatnonzero(found.true).tolist() == [3]
    assert found.completeness < 0.5


class _Recurrent(torch.nn.Module):
    def __init__(self, kind):
        super().__init__()
        layers = {
            "gru": lambda: torch.nn.GRU(4, 8, batch_first=True),
            "attention": lambda: torch.nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
        }
        self.layer = layers[kind]()
        self.output = torch.nn.LazyLinear(2)
        self(torch.zeros(1, 6, 4))

    def forward(self, x):
        out = self.layer(x)
        return self.output((out[0] if isinstance(out, tuple) else out).flatten(1))


@pytest.mark.parametrize("kind", ["gru", "attention"])
def test_layers_that_the_engine_may_not_know(kind):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    X = rng.normal(size=(200, 6, 4)).astype(np.float32)
    X[:, 2, 1] += 3 * y
    net = _Recurrent(kind)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(
            net(torch.from_numpy(X[:100])), torch.from_numpy(y[:100])
        )
        loss.backward()
        optimizer.step()
    found = skill_map(net, X[100:], y[100:], X_train=X[:100], random_state=0)
    assert found.true[2, 1]
    assert found.true.sum() <= 2


def test_words_are_replaced_by_turns():
    class Words(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.look_up = torch.nn.Embedding(5, 2)
            with torch.no_grad():
                self.look_up.weight[:] = 0
                self.look_up.weight[4, 1] = 1

        def forward(self, x):
            return self.look_up(x)[:, 1]

    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 100)
    X = rng.integers(0, 4, (100, 6))
    X[y == 1, 1] = 4
    found = skill_map(Words(), X, y, n_permutations=99, random_state=0)
    assert np.flatnonzero(found.true).tolist() == [1]
    with pytest.raises(ValueError, match="no gradient, and 100 cells"):
        skill_map(Words(), rng.integers(0, 4, (100, 100)), y)


def test_images_with_channels_last_are_the_same(squares):
    X, y, _ = squares

    class Net(torch.nn.Module):
        def __init__(self, flatten):
            super().__init__()
            torch.manual_seed(0)
            self.conv = torch.nn.Conv2d(1, 4, 3)
            self.output = torch.nn.Linear(4 * 18 * 18, 2)
            self.flatten = flatten

        def forward(self, x):
            return self.output(self.flatten(self.conv(x).relu()))

    one = skill_map(Net(lambda x: x.flatten(1)), X[200:, None], y[200:], random_state=0)
    # A view of what is no longer in one piece cannot be taken: its channels stay first.
    other = skill_map(Net(lambda x: x.view(len(x), -1)), X[200:, None], y[200:], random_state=0)
    np.testing.assert_allclose(one.skill, other.skill, rtol=1e-3, atol=1e-6)


def test_a_table_with_categories():
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"t": rng.normal(size=300), "city": rng.choice(list("abc"), 300), "n": range(300)}
    )
    signal = table["t"] + 2 * (table["city"] == "b") + rng.normal(size=300)
    y = np.where(signal > 0.7, "yes", "no")
    encode = make_column_transformer(
        (OneHotEncoder(), ["city"]),
        (FunctionTransformer(np.arctan), ["t"]),  # asks for numbers as numbers
        remainder="passthrough",
    )
    for model in (
        RandomForestClassifier(20, random_state=0),
        VotingClassifier([("tree", DecisionTreeClassifier(max_depth=3))]),
    ):
        pipeline = make_pipeline(encode, model).fit(table[:150], y[:150])
        found = skill_map(
            pipeline, table[150:], y[150:], X_train=table[:150], n_permutations=99, random_state=0
        )
        assert found.true.tolist() == [True, True, False]
        assert found.frame.names == ["t", "city", "n"]
    kinds = table.astype({"city": "category"})
    trees = HistGradientBoostingClassifier(max_iter=30, categorical_features="from_dtype")
    trees.fit(kinds[:150], y[:150])
    found = skill_map(trees, kinds[150:], y[150:], n_permutations=99, random_state=0)
    assert found.true.tolist() == [True, True, False]
    with pytest.raises(ValueError, match="baseline='mean' is of numbers"):
        skill_map(pipeline, table[150:], y[150:], baseline="mean")
    with pytest.raises(ValueError, match="every sample of X is one of X_train"):
        skill_map(pipeline, table[150:], y[150:], X_train=table)


@pytest.mark.parametrize(
    ("net", "error", "match"),
    [
        (_Odd(None, lambda out: {"logits": out}), TypeError, "returns a dict.*wrap it"),
        (_Odd(None, lambda out: out.argmax(1)), TypeError, "int64 numbers, not real scores"),
        (_Odd(None, torch.fft.fft), TypeError, "complex64 numbers, not real"),
        (_Odd(None, lambda out: out / 0), ValueError, "NaN or infinite scores"),
        (_Odd(lambda x: x - x.mean(0)), ValueError, "another score beside other samples"),
        (torch.nn.Linear(7, 2), ValueError, r"does not take an array of shape \(8, 16\)"),
    ],
    ids=["dict", "labels", "complex", "nan", "batch", "shape"],
)
def test_networks_that_cannot_be_asked(columns, net, error, match):
    with pytest.raises(error, match=match):
        skill_map(net, *columns)


def test_bad_numbers_are_refused(columns):
    X, y = columns
    net = _Odd()
    values = X @ np.ones((16, 2))

    def fails(match, X=X, y=y, model=net, **params):
        with pytest.raises(ValueError, match=match):
            skill_map(model, X, y, **params)

    holes = X.copy()
    holes[:3, 5] = np.nan
    fails("X has NaN or infinite values in 3 of 100", X=holes)
    fails("X_train has NaN or infinite values in 3 of 100", X_train=holes)
    fails("at least one value per sample", X=X[:0], y=y[:0])
    fails("unknown labels nan", y=np.where(y == 1, np.nan, y))
    late = np.where(np.arange(100)[:, None] < 2, np.nan, values)
    fails("y has NaN or infinite values in 2 of", y=late)
    fails("y is constant.*target", y=values * [1, 0])
    fails("a value for each of 2 outputs", y=np.zeros((100, 3)))
    fails("n_permutations=999 or more", alpha=0.001, n_permutations=99)
    fails("baseline has NaN", baseline=holes[0])
    fails("every sample of X is one of X_train", X=X.astype(np.float32), X_train=X)
    fails("not one of the classes", target=[0, 1])
    fails("a single sample of the class 1: two", y=np.eye(100, dtype=int)[3])
    far, wide = np.where(np.arange(100)[:, None] == 90, 3e38, X), torch.nn.Linear(16, 2)
    torch.nn.init.constant_(wide.weight, 2.0)
    fails("NaN or infinite scores of these samples", X=far, model=wide)
    fails("NaN or infinite scores of these samples", X_train=1 + far, model=wide)
    fails("is dead: its output is", y=values[:, :, None],
          model=_Odd(lambda x: x.round() * 0))  # fmt: skip
    with pytest.raises(ValueError, match="n_draws"):
        skill_map(net, X, y, n_draws=1)


def test_more_memory_than_there_may_be_is_refused(columns, monkeypatch):
    monkeypatch.setattr("sklrp.skill.contributions._MOST_BYTES", 100 * 16 * 4 - 1)
    with pytest.raises(ValueError, match=r"contributions to 1 outputs .* GiB: give target"):
        skill_map(_Odd(), *columns)


def test_a_series_in_order_is_not_permuted_singly_in_silence():
    rng = np.random.default_rng(0)
    series = np.zeros((200, 17))
    for t in range(1, 200):
        series[t] = 0.9 * series[t - 1] + rng.normal(size=17)
    X, y = series[:, :16], (series[:, 16] > 0).astype(int)
    with pytest.warns(UserWarning, match="block_length=1 is kept.*blocks of"):
        found = skill_map(_Odd(), X, y, block_length=1, random_state=0)
    assert found.block_length == 1
    assert skill_map(_Odd(), X, y, alpha=0.3, random_state=0).block_length > 5


def test_samples_sorted_by_label_are_in_no_order_of_time(columns):
    X, y = columns
    order = np.argsort(y, kind="stable")
    found = skill_map(_Odd(), X[order], y[order], n_permutations=99, random_state=0)
    assert found.block_length == 1
    assert any("that of y" in said for said in found.assumptions)
    assert found.true[3]


def test_a_trend_is_an_order_of_time():
    """Years and cells that drift are correlated, whatever one has to do with the other."""
    rng = np.random.default_rng(0)
    X = np.cumsum(rng.normal(size=(140, 16)), axis=0)
    with pytest.raises(ValueError, match=r"too few units to permute, .* blocks of"):
        skill_map(torch.nn.Linear(16, 1).double(), X, np.arange(140.0), random_state=0)


def test_an_interrupt_leaves_the_network_as_it_was(columns):
    X, y = columns
    calls = []

    def interrupt(out):
        calls.append(None)
        if len(calls) > 8:
            raise KeyboardInterrupt
        return out

    net = _Odd(None, interrupt).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        skill_map(net, X, y, random_state=0)
    assert net.training
    assert torch.equal(torch.get_rng_state(), random)
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None
        assert parameter.requires_grad


def test_progress_is_shown_if_asked(columns, capsys):
    X, y = columns
    skill_map(_Odd(), X, y, n_permutations=99, random_state=0)
    assert capsys.readouterr().err == ""
    skill_map(_Odd(), X, y, n_permutations=99, progress=True, random_state=0)
    shown = capsys.readouterr().err
    assert "99/99" in shown
    assert "draw" in shown


def test_few_draws_are_said():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 60)
    X = rng.normal(size=(60, 16))
    found = skill_map(_Odd(torch.sin), 3 * X, y, n_draws=2, n_permutations=99, random_state=0)
    assert found.noise > 0.2
    assert any("2 draws make" in said for said in found.assumptions)


@pytest.mark.parametrize(
    ("counts", "is_said"), [((40, 8), True), ((40, 20), False), ((8, 8), False)]
)
def test_a_rare_class_is_said(counts, is_said):
    y = np.repeat([0, 1], counts)
    X = np.random.default_rng(0).normal(size=(len(y), 5))
    net = torch.nn.Linear(5, 2).double()
    each = np.arange(len(y))
    found = skill_map(net, X, y, groups=each, n_permutations=39, n_draws=2, random_state=0)
    said = [text for text in found.assumptions if "contributions spread alike" in text]
    assert len(said) == is_said
    assert not is_said or f"{counts[1]} samples of the rarest" in said[0]


def test_a_cell_of_one_value_is_never_true():
    # The cell opens a gate for another one: its contributions follow the class, its value cannot.
    class Gate(torch.nn.Module):
        def forward(self, x):
            score = x[:, 0] * x[:, 1]
            return torch.stack([-score, score], dim=1)

    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    X = np.stack([2.0 * y - 1 + 0.3 * rng.normal(size=200), np.ones(200)], axis=1)
    X_train = np.stack([rng.normal(size=200), rng.normal(size=200)], axis=1)
    found = skill_map(Gate(), X, y, X_train=X_train, block_length=1, random_state=0)
    assert found.p_value[1] <= 0.05
    assert found.true.tolist() == [True, False]
    assert not found.true_fdr[1]


def test_samples_go_through_the_steps_before_a_network_once():
    X, y, _ = make_squares(n_per_class=40, size=6, random_state=0)
    passed = []

    def note(rows):
        passed.append(len(rows))
        return rows

    model = make_pipeline(
        FunctionTransformer(note), MLPClassifier((4,), max_epochs=2, random_state=0)
    ).fit(X[:30], y[:30])
    passed.clear()
    opened = unwrap(model)
    decompose_skill(
        opened, X[30:], y[30:], Streams(0), X_train=X[:30], n_permutations=19, n_draws=2
    )
    assert passed == [50, 30]


@pytest.mark.parametrize("size", [2, (2,), [2], np.int64(2)], ids=repr)
def test_pooling_of_any_size_that_torch_takes(size):
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        *(torch.nn.Conv2d(1, 3, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(size)),
        *(torch.nn.Flatten(), torch.nn.Linear(27, 2)),
    ).eval()
    X = np.random.default_rng(0).normal(size=(60, 1, 8, 8)).astype(np.float32)
    y = (X[:, 0, 3, 3] > 0).astype(int)
    found = skill_map(network, X[:40], y[:40], X_train=X[40:], n_permutations=19, random_state=0)
    assert np.isfinite(found.skill).all()
