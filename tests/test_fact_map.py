"""Graded maps: the grades of cells where the answer is known, and the grades by hand."""

import re

import numpy as np
import pytest

from sklrp import CNNClassifier, ESNClassifier, MLPClassifier
from sklrp.datasets import load_pacific_sst, make_squares, make_suppressor
from sklrp.diagnostics import artifact_map, diagnose, skill_map
from sklrp.diagnostics.explained import Explained
from sklrp.diagnostics.fact_map import has_enough_nulls
from sklrp.diagnostics.other_networks import null_maps, train_again
from sklrp.diagnostics.stability import find_stable

GRADES = ("fact", "missed", "unsupported", "misleading", "background")


def check_grades(found):
    """Each cell has one grade, and the numbers beside them are those of the grades."""
    counts = sum(found[grade].astype(int) for grade in GRADES)
    np.testing.assert_array_equal(counts, np.ones(found.mean.shape))
    assert 0 <= found.power <= 1
    assert found.statistic == found.mass
    assert found.interval[0] <= found.mass <= found.interval[1]
    np.testing.assert_array_equal(found.null, found.null_mass)
    true = found.fact | found.missed
    for cells in found.causes.values():
        assert cells.any()
        assert not (cells & true).any()
    table = found.to_frame()
    assert set(GRADES) <= set(table.columns)
    assert len(table) == found.mean.size


# Grades


@pytest.fixture(scope="module")
def larger():
    """Images with a square of 16 cells, and a network for each rule."""
    X, y, mask = make_squares(n_per_class=125, size=40, random_state=0)
    data = {"X": X[150:], "y": y[150:], "X_train": X[:150], "random_state": 0}
    esn = ESNClassifier(100, sweep="right", leak_rate=0.02, random_state=0)
    return X[:150], y[:150], data, mask, esn.fit(X[:150], y[:150])


def test_the_square_is_fact_and_little_else(larger):
    X, y, data, mask, _ = larger
    clf = MLPClassifier((32,), max_epochs=20, random_state=0).fit(X, y)
    found = artifact_map(clf, rule="epsilon", **data)
    check_grades(found)
    assert found.verdict == "fact"
    np.testing.assert_array_equal(found.fact, mask)
    assert found.unsupported.mean() < 0.05
    assert not found.misleading.any()
    assert found.mass > 1.5 * max(found.input_mass, found.null_mass.max())
    assert found.power > 0.9
    assert found.detectable.min() > 0
    maps = clf.explain(data["X"], rule="epsilon")
    on_square = np.abs(maps)[:, mask].sum(axis=1) / np.abs(maps).sum(axis=(1, 2))
    assert found.mass == pytest.approx(on_square.mean(), rel=1e-5)


@pytest.mark.slow
def test_a_rule_that_forgets_what_was_learned_misses_it(larger):
    _, _, data, mask, esn = larger
    blind = artifact_map(esn, rule="z_plus", **data)
    check_grades(blind)
    assert blind.verdict == "artifact"
    np.testing.assert_array_equal(blind.missed, mask)
    assert not (blind.fact | blind.unsupported).any()
    assert blind.mass < blind.input_mass
    seeing = artifact_map(esn, rule="epsilon", **data)
    np.testing.assert_array_equal(seeing.fact, mask)
    np.testing.assert_array_equal(seeing.skill, blind.skill)  # whatever the rule


def test_alpha_is_the_level_of_what_is_true_too():
    """Cells of which few samples tell little are true at a level that lets many be."""
    X, y, _ = make_squares(n_per_class=60, size=16, noise=0.8, random_state=0)
    clf = MLPClassifier((16,), max_epochs=5, random_state=0).fit(X[:60], y[:60])
    data = {"X": X[60:100], "y": y[60:100], "X_train": X[:60], "random_state": 0}
    counts = []
    for alpha in (0.0005, 0.4):  # the first needs more permutations than are usual
        found = artifact_map(clf, rule="epsilon", alpha=alpha, n_permutations=5, **data)
        skilled = skill_map(
            clf, alpha=alpha, n_permutations=max(999, round(1 / alpha) - 1), **data
        )
        np.testing.assert_array_equal(found.fact | found.missed, skilled.true)
        counts.append(int(skilled.true.sum()))
    assert counts[0] < counts[1]


@pytest.mark.parametrize("kind", [MLPClassifier, CNNClassifier])
@pytest.mark.slow
def test_suppressors_are_used_and_say_nothing(kind):
    X, y, mask = make_suppressor(n_per_class=700, size=16, random_state=0)
    widths = (16,) if kind is MLPClassifier else (8, 8)
    clf = kind(widths, max_epochs=20, weight_decay=1e-2, random_state=0).fit(X[:1000], y[:1000])
    assert clf.score(X[1000:], y[1000:]) > 0.9
    found = artifact_map(clf, X[1000:], y[1000:], X_train=X[:1000], rule="epsilon", random_state=0)
    check_grades(found)
    suppressor = mask[:, ::-1]
    named = found.causes["suppressor"]
    assert named[suppressor].mean() > 0.8
    assert named[~suppressor].mean() < 0.02
    assert found.unsupported[suppressor].mean() > 0.8
    assert found.fact[mask].mean() > 0.75
    assert not found.fact[~mask & ~suppressor].any()
    # Also where a map hardly shows them.
    faint = np.abs(clf.explain(X[1000:], rule="epsilon")) * np.where(suppressor, 0.01, 1.0)
    given = artifact_map(
        clf, X[1000:], y[1000:], X_train=X[:1000], relevance=faint, random_state=0
    )
    np.testing.assert_array_equal(given.causes["suppressor"], named)
    assert given.unsupported[named].all()


@pytest.mark.slow
def test_no_suppressor_where_the_classes_differ(larger):
    X, y, data, _, esn = larger
    clf = MLPClassifier((32,), max_epochs=20, random_state=0).fit(X, y)
    for model in (esn, clf):
        assert "suppressor" not in artifact_map(model, rule="epsilon", **data).causes


@pytest.mark.slow
def test_what_speaks_against_the_truth_is_misleading(larger):
    """Half of the square has the other sign in samples of another time."""
    X, y, data, mask, _ = larger
    clf = MLPClassifier((32,), max_epochs=20, random_state=0).fit(X, y)
    turned = mask & (np.cumsum(mask).reshape(mask.shape) <= 4)
    moved = np.where(turned, -data["X"], data["X"])
    found = artifact_map(clf, rule="epsilon", **{**data, "X": moved})
    check_grades(found)
    np.testing.assert_array_equal(found.misleading, turned)
    np.testing.assert_array_equal(found.fact | found.missed, mask & ~turned)


@pytest.mark.slow
def test_an_untrained_network_names_nothing(squares):
    """Its maps are one more draw of the null."""
    X, y, X_test, y_test, _ = squares
    shares = []
    for seed in range(6):
        clf = MLPClassifier((32,), max_epochs=1, lr=1e-9, random_state=seed).fit(X, y)
        found = artifact_map(clf, X_test, y_test, X_train=X, n_permutations=30, random_state=0)
        shares.append(found.unsupported.mean())
    assert np.median(shares) == 0
    assert max(shares) < 0.05


@pytest.fixture(scope="module")
def noise():
    """A network that was trained on noise, and more of it."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 20, 20)), rng.permutation(200) % 2
    clf = MLPClassifier((32,), max_epochs=20, random_state=0).fit(X[:100], y[:100])
    return clf, X[100:], y[100:], X[:100]


@pytest.mark.slow
def test_cells_of_a_network_of_noise(noise):
    clf, X, y, X_train = noise
    found = artifact_map(clf, X, y, X_train=X_train, rule="epsilon", random_state=0)
    check_grades(found)
    assert not (found.fact | found.missed).any()
    assert found.verdict == "undecided"
    assert found.power == 0


@pytest.fixture(scope="module")
def pacific():
    """Sea surface temperatures of El Niño and La Niña, and a network that tells them apart."""
    pytest.importorskip("eofs")
    sst = load_pacific_sst()
    clf = MLPClassifier((16,), max_epochs=50, random_state=0).fit(sst.data[::2], sst.target[::2])
    return clf, sst.data[1::2], sst.target[1::2], sst.data[::2], sst.nino34_mask


def test_fields_are_not_without_power(pacific):
    clf, X, y, X_train, box = pacific
    found = artifact_map(clf, X, y, X_train=X_train, rule="epsilon", random_state=0)
    check_grades(found)
    assert (found.fact | found.missed)[box].mean() > 0.9
    assert found.fact[box].mean() > 0.5


def test_causes_of_relevance(squares):
    X, y, X_test, y_test, mask = squares
    land = np.zeros(mask.shape, dtype=bool)
    land[:, 9:11] = True
    filled = [np.where(land, -3.0, samples) for samples in (X, X_test)]
    clf = MLPClassifier((16,), max_epochs=20, random_state=0).fit(filled[0], y)
    found = artifact_map(clf, filled[1], y_test, X_train=filled[0], rule="epsilon", random_state=0)
    np.testing.assert_array_equal(found.causes["constant"], land)


# By hand


def test_named_cells_by_hand(noise):
    """Against networks that learned nothing, by a plain rewrite in double precision."""
    clf, X, y, X_train = noise
    data = {"X_train": X_train, "rule": "epsilon", "random_state": 3}
    found = artifact_map(clf, X, y, n_permutations=12, **data)
    explained = Explained(clf, X, y, **data)
    own = np.abs(explained.maps.astype(float)).mean(axis=0).ravel()
    drawn = np.abs(null_maps(explained, "network", 12).astype(float)).mean(axis=1).reshape(12, -1)
    ratio = own / np.sqrt((drawn**2).mean(axis=0))
    left_out = [np.delete(drawn, k, axis=0) for k in range(12)]
    null = np.array(
        [
            draw / np.sqrt((rest**2).mean(axis=0))
            for draw, rest in zip(drawn, left_out, strict=True)
        ]
    )
    expected = set()
    for threshold in ratio:  # the most cells, of which at most a twentieth a null has as well
        above = np.flatnonzero(ratio >= threshold)
        if (null >= threshold).sum() / 12 <= 0.05 * len(above) and len(above) > len(expected):
            expected = set(above)
    assert set(np.flatnonzero(found.unsupported.ravel())) == expected
    assert 0 < len(expected) < 200


def test_true_cells_are_shown_if_they_exceed_the_nulls(pacific):
    clf, X, y, X_train, _ = pacific
    data = {"X_train": X_train, "rule": "epsilon", "random_state": 3}
    found = artifact_map(clf, X, y, n_permutations=12, **data)
    explained = Explained(clf, X, y, **data)
    maps, nulls = (m.astype(float) for m in (explained.maps, null_maps(explained, "network", 12)))

    def sizes(maps):
        classes = [maps[explained.target == label] for label in clf.classes_]
        means = sum(len(m) / len(maps) * m.mean(axis=0) ** 2 for m in classes)
        return np.array([np.abs(maps).mean(axis=0), np.sqrt(means)])

    usual = np.sqrt(np.mean([sizes(null) ** 2 for null in nulls], axis=0))
    true = found.fact | found.missed
    assert found.fact.sum() > 5
    assert found.missed.sum() > 5
    np.testing.assert_array_equal(found.fact, true & (sizes(maps) > usual).any(axis=0))


@pytest.mark.slow
def test_several_networks_by_hand(noise):
    """The map is the mean of the clones; means of sizes are held against means of null models."""
    clf, X, y, X_train = noise
    y_train = np.random.default_rng(0).permutation(np.resize(clf.classes_, len(X_train)))
    data = {"X_train": X_train, "y_train": y_train, "rule": "epsilon", "random_state": 3}
    found = artifact_map(clf, X, y, n_permutations=12, n_networks=4, **data)
    check_grades(found)
    explained = Explained(clf, X, y, **data)
    stable = find_stable(explained, 4)
    for name in ("mean", "spread", "stability", "common", "own"):
        np.testing.assert_array_equal(found[name], stable[name])
    np.testing.assert_allclose(found.mean, stable.maps.mean(axis=0))
    seeds = explained.rng("stable").integers(2**31 - 1, size=4)
    sizes = [np.abs(explained.maps.astype(float)).mean(axis=0)]
    for seed in seeds:
        maps = explained.maps_of(train_again(explained, int(seed)))
        sizes.append(np.abs(maps.astype(float)).mean(axis=0))
    drawn = np.abs(null_maps(explained, "network", 12).astype(float)).mean(axis=1)
    ratio = np.mean(sizes, axis=0) / np.sqrt((drawn**2).mean(axis=0))
    # More than every null model at every other cell: no set of means of five reaches that.
    largest = (drawn / np.sqrt((drawn**2).mean(axis=0))).max()
    assert found.unsupported[(ratio > 2 * largest) & ~found.fact].all()
    alone = artifact_map(clf, X, y, n_permutations=12, **data)
    assert found.unsupported.sum() > alone.unsupported.sum()  # five networks have more power


@pytest.mark.slow
def test_networks_that_learned_nothing_name_no_more_together(squares):
    """Means of several are compared with means of as many: power, not false alarms."""
    X, y, X_test, y_test, _ = squares
    n_named = []
    for seed in range(16):
        clf = MLPClassifier((16,), max_epochs=1, lr=1e-9, random_state=seed).fit(X, y)
        found = artifact_map(
            clf, X_test, y_test, X_train=X, y_train=y, rule="epsilon", n_networks=4,
            n_permutations=20, random_state=seed,
        )  # fmt: skip
        n_named.append(found.unsupported.sum())
    assert np.count_nonzero(n_named) <= 5  # a level of .05, with luck
    assert np.mean(n_named) < 1  # of 400


def test_networks_that_cannot_be_trained_are_refused(mlp, squares):
    X_test, y_test = squares[2:4]
    with pytest.raises(ValueError, match="X_train=None: n_networks"):
        artifact_map(mlp, X_test, y_test, n_networks=3)
    with pytest.raises(ValueError, match="n_networks=2 is too few"):
        artifact_map(
            mlp, X_test, y_test, X_train=squares[0], y_train=squares[1], n_networks=2
        )  # fmt: skip


def test_maps_made_elsewhere_name_more_than_an_even_share(mlp, squares):
    X, _, X_test, y_test, mask = squares
    above = ~mask & (np.indices(mask.shape)[0] < 2)
    sizes = np.where(mask, 5.0, np.where(above, 0.2, 0.1))  # 0.16 is an even share
    maps = sizes * np.sign(mlp.explain(X_test, rule="epsilon"))
    found = artifact_map(
        mlp, X_test, y_test, relevance=maps, X_train=X, null="network", random_state=0
    )
    check_grades(found)
    assert found.null_mass.size == 0
    np.testing.assert_array_equal(found.fact | found.unsupported, mask | above)


def test_grades_need_three_nulls(mlp, squares):
    X_test, y_test = squares[2:4]
    with pytest.raises(ValueError, match="n_permutations"):
        artifact_map(mlp, X_test, y_test, n_permutations=2)
    explained = Explained(mlp, X_test, y_test, random_state=0)
    explained.once(("network", 4), lambda: np.zeros((4, *X_test.shape), dtype=np.float32))
    assert not has_enough_nulls(explained, 4)


def test_printed_counts_are_of_cells_with_data():
    """Of 540 cells 90 are land, which no finding counts; arrays cover them all the same."""
    sst = load_pacific_sst()
    data = {"X_train": sst.data[::2], "random_state": 0, "grid": sst}
    X, y = sst.data[1::2], sst.target[1::2]
    clf = MLPClassifier(max_epochs=30, random_state=0).fit(sst.data[::2], sst.target[::2])
    land = sst.land_mask
    assert (land.size, land.sum()) == (540, 90)
    skill = skill_map(clf, X, y, **data)
    assert f"{skill.true.sum()} of 450 cells are true" in skill.reading
    found = artifact_map(clf, X, y, n_permutations=3, **data)
    counted = [int(word) for word in re.findall(r"(\d+) [a-z]", found.reading.partition(";")[2])]
    assert sum(counted) == 450
    assert found.background[land].all()
    assert f"{(found.background & ~land).sum()} background" in found.reading
    report = diagnose(clf, X, y, n_permutations=3, **data)
    assert "true of 450 cells" in report.tests["true"].reading
