"""The skill map: contributions, permutation tests, and what users meet.

The contributions are held against closed forms, the tests against plain loops and simulated nulls,
and the whole against data whose truth is known.
"""

import numpy as np
import pytest
import torch
from scipy.stats import beta
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklrp import CNNClassifier, ESNClassifier, LSTMClassifier, MLPClassifier
from sklrp.datasets import make_lorenz96, make_squares, make_suppressor, make_xor
from sklrp.diagnostics import skill_map
from sklrp.skill.contributions import expected_gradients, occluded
from sklrp.skill.permutations import (
    ClassScores,
    Exchange,
    ValueScores,
    estimate_block,
    permutation_test,
)


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
