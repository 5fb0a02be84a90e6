"""Everything that takes a model takes its targets: regressors, and numbers made of a field.

A network whose only output is the number answers for itself: what is computed of the field and a
target must equal what is computed of that network.
"""

import functools

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from torch import nn

import sklrp
from sklrp import RelevanceTransformer
from sklrp.diagnostics import (
    artifact_map,
    bias_share,
    degeneracy,
    diagnose,
    equivariance_test,
    focus_curve,
    position_profile,
    randomization_test,
    skill_map,
)
from sklrp.metrics import (
    METRICS,
    class_sensitivity,
    faithfulness_correlation,
    make_relevance_scorer,
    max_sensitivity,
    pixel_flipping_curve,
    pixel_flipping_score,
    randomization_similarity,
    skill_mass,
)
from sklrp.plotting import (
    ArtifactDisplay,
    FocusCurveDisplay,
    PixelFlippingDisplay,
    RelevanceDisplay,
)

SHAPE = (4, 5)
REGION = np.zeros(SHAPE, dtype=bool)
REGION[1, 2:4] = True
WEIGHTS = np.where(REGION, 2.0, 0.0)
WEIGHTS[3, 0] = -1.0


class Field(nn.Module):
    """A small U-Net from two coarse fields to one that is cut to another shape."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.down = nn.Conv2d(4, 5, 2, stride=2)
        self.up = nn.ConvTranspose2d(5, 4, 2, stride=2)
        self.last = nn.Conv2d(8, 1, 1)

    def forward(self, x):
        skip = torch.relu(self.stem(x))
        deep = torch.relu(self.up(torch.relu(self.down(skip))))
        return self.last(torch.cat([skip, deep], dim=1))[:, 0, :4, :5]


class Number(nn.Module):
    """A network of one output, made of a field by a function."""

    def __init__(self, field, function):
        super().__init__()
        self.field, self.function = field, function

    def forward(self, x):
        return self.function(self.field(x))[:, None]


class Named(nn.Module):
    """A network that returns its field by name."""

    def __init__(self, field):
        super().__init__()
        self.field = field

    def forward(self, x):
        field = self.field(x)
        return {"total": field.sum((1, 2)), "field": field}


def _network():
    torch.manual_seed(0)
    return Field().double()


def _task():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(60, 2, 4, 8))
    with torch.no_grad():
        y = _network()(torch.from_numpy(X)).numpy()
    return X, y + 0.05 * y.std() * rng.normal(size=y.shape)


X, Y = _task()


def of_region(y):
    return y[:, 1, 2:4].sum(1)


# A target, what it makes of the field by hand, and whether the network returns it by name.
KINDS = {
    "cell": ((1, 2), lambda y: y[:, 1, 2], False),
    "mask": (REGION, of_region, False),
    "weights": (WEIGHTS, lambda y: 2 * of_region(y) - y[:, 3, 0], False),
    "function": (lambda y: y[:, 1, 2:4].amax(1), lambda y: y[:, 1, 2:4].amax(1), False),
    "cell by name": (("field", 1, 2), lambda y: y[:, 1, 2], True),
    "mask by name": (("field", REGION), of_region, True),
    "output by name": ("total", lambda y: y.sum((1, 2)), True),
}
SEED = {"random_state": 0}
FEW = {"n_permutations": 3, "max_samples": 16, "rule": "epsilon", **SEED}


def maps_of(model, target):
    return sklrp.explain(model, X, target=target, rule="epsilon")


def of_curve(curve):
    return np.stack([curve[order] for order in ("most", "least", "random")])


def of_report(report):
    """Return the statistics of the tests that draw nothing of a network's layers."""
    names = ("skilled", "used", "bias", "degeneracy")
    return np.array([report.tests[name].statistic for name in names])


def of_display(display):
    return np.concatenate([p.maps for view in display.panels for p in view])


ENTRIES = {
    "explain": lambda m, y, t: maps_of(m, t),
    "pixel_flipping_curve": lambda m, y, t: of_curve(
        pixel_flipping_curve(m, X, maps_of(m, t), target=t, steps=4, **SEED)
    ),
    "pixel_flipping_score": lambda m, y, t: pixel_flipping_score(
        m, X, maps_of(m, t), target=t, steps=4, reference="least", **SEED
    ),
    "faithfulness_correlation": lambda m, y, t: faithfulness_correlation(
        m, X, maps_of(m, t), target=t, n_subsets=8, **SEED
    ),
    "max_sensitivity": lambda m, y, t: max_sensitivity(
        m, X, target=t, n_draws=2, rule="epsilon", **SEED
    ),
    "randomization_similarity": lambda m, y, t: (
        randomization_similarity(m, X, target=t, rule="epsilon", **SEED).similarity
    ),
    "skill_mass": lambda m, y, t: skill_mass(
        m, X, y, target=t, rule="epsilon", n_networks=2, n_permutations=99, **SEED
    ),
    "skill_map": lambda m, y, t: (
        skill_map(m, X, y, target=t, n_permutations=99, n_draws=16, **SEED).z
    ),
    "diagnose": lambda m, y, t: of_report(diagnose(m, X, y, target=t, **FEW)),
    "artifact_map": lambda m, y, t: artifact_map(m, X, y, target=t, **FEW).mean,
    "bias_share": lambda m, y, t: bias_share(m, X, target=t, rule="epsilon").statistic,
    "degeneracy": lambda m, y, t: degeneracy(m, X, target=t, rule="epsilon").statistic,
    "position_profile": lambda m, y, t: position_profile(m, X, target=t, **FEW).statistic,
    "randomization_test": lambda m, y, t: randomization_test(m, X, target=t, **FEW).statistic,
    "equivariance_test": lambda m, y, t: (
        equivariance_test(m, X, target=t, refit=False, rule="epsilon", **SEED).similarity
    ),
    "PixelFlippingDisplay": lambda m, y, t: of_curve(
        PixelFlippingDisplay.from_estimator(m, X, target=t, steps=4, **SEED).curves["auto"]
    ),
    "RelevanceDisplay": lambda m, y, t: of_display(
        RelevanceDisplay.from_estimator(m, X[:2], target=t, layout="field")
    ),
    "ArtifactDisplay": lambda m, y, t: ArtifactDisplay.from_estimator(
        m, X, y, target=t, **FEW
    ).finding["mean"],
    **{
        f"scorer of {name}": functools.partial(
            lambda name, m, y, t: make_relevance_scorer(
                name,
                target=t,
                **{
                    "relevance_mass": {"mask": X[0] > 0},
                    "relevance_rank": {"mask": X[0] > 0},
                    "skill_mass": {"n_networks": 1, "n_permutations": 99, **SEED},
                    "max_sensitivity": {"n_draws": 1, **SEED},
                    "pixel_flipping": {"steps": 3, **SEED},
                    "faithfulness_correlation": {"n_subsets": 4, **SEED},
                    "randomization_similarity": SEED,
                }.get(name, {}),
            )(m, X, y),
            name,
        )
        for name in METRICS
        if name != "class_sensitivity"
    },
}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


@functools.cache
def expected(entry, kind):
    _, function, _ = KINDS[kind]
    y = function(torch.from_numpy(Y)).numpy()
    return ENTRIES[entry](Number(_network(), function), y, None)


# Of the others, which look at targets in the same places, a few kinds will do.
EVERY_KIND = (
    "explain",
    "pixel_flipping_curve",
    "max_sensitivity",
    "skill_map",
    "PixelFlippingDisplay",
)
FEW_KINDS = ("mask", "function", "cell by name")
PAIRS = [
    (entry, kind) for entry in ENTRIES for kind in (KINDS if entry in EVERY_KIND else FEW_KINDS)
]


@pytest.mark.sweep(8)
@pytest.mark.parametrize(("entry", "kind"), PAIRS)
def test_a_number_of_a_field_is_followed(entry, kind):
    target, function, by_name = KINDS[kind]
    model = Named(_network()) if by_name else _network()
    y = function(torch.from_numpy(Y)).numpy() if kind == "output by name" else Y
    found = ENTRIES[entry](model, y, target)
    # The stabiliser of the number's own sum is not there where weights say what is summed.
    np.testing.assert_allclose(found, expected(entry, kind), rtol=1e-3, atol=1e-5)


REFUSED = {
    "none": (None, "target=None, but the network returns 20 values"),
    "outside": ((4, 2), r"index 4 of axis 0 must lie in 0\.\.3"),
    "one index": ((1,), "target must be"),
    "shape": (REGION[:3], r"must have the output's shape \(4, 5\)"),
    "empty": (~REGION & REGION, "an empty region"),
    "missing": (np.full(SHAPE, np.nan), "must hold finite numbers alone"),
    "each sample": (np.arange(60) % 3, "target must be a tuple of 2 indices"),
    "every cell": ("all", "target='all'|one of 20 values"),
    "name": ("field", "must name an output of the network"),
    "all samples": (lambda y: y.sum(), "a number for each sample"),
}


@pytest.mark.sweep(30)
@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize(
    "entry",
    [e for e in ENTRIES if e != "skill_map" and ("scorer" not in e or "sparseness" in e)],
)
def test_targets_that_do_not_fit_a_field_are_refused(entry, kind):
    target, message = REFUSED[kind]
    if entry == "explain" and kind == "every cell":
        return  # each of up to 64 cells has a map
    # Maps are there already, so that what follows the score has to refuse it.
    follows = {
        "pixel_flipping_curve": pixel_flipping_curve,
        "pixel_flipping_score": pixel_flipping_score,
        "faithfulness_correlation": faithfulness_correlation,
    }.get(entry)
    if follows:
        with pytest.raises(ValueError, match=message):
            follows(_network(), X, X, target=target)
    else:
        with pytest.raises(ValueError, match=message):
            ENTRIES[entry](_network(), Y, target)


def test_what_skill_asks_of_a_field():
    def found(target, y=Y, model=_network):
        few = {"n_permutations": 99, "n_draws": 16, **SEED}
        return skill_map(model(), X, y, target=target, **few)

    whole = found(None)
    assert any("leading patterns" in said for said in whole.assumptions)
    by_name = found("field", model=lambda: Named(_network()))
    np.testing.assert_allclose(by_name.skill, whole.skill, rtol=1e-6)
    for target in ((1, 2), REGION, WEIGHTS):  # the truth of the number alone
        weights = np.zeros(SHAPE)
        weights[target if isinstance(target, tuple) else ...] = (
            1.0 if isinstance(target, tuple) else target
        )
        y = (Y * weights).sum((1, 2))
        np.testing.assert_allclose(found(target, y).skill, found(target).skill, rtol=1e-6)
        named = ("field", *target) if isinstance(target, tuple) else ("field", target)
        again = found(named, y, lambda: Named(_network()))
        np.testing.assert_allclose(again.skill, found(target).skill, rtol=1e-6)
    for target in ((4, 2), (1,), REGION[:3], REGION & ~REGION, "field", np.arange(60)):
        with pytest.raises(ValueError, match="target must be"):
            found(target)
    with pytest.raises(ValueError, match=r"must name an output.*'total', 'field'"):
        found("other", model=lambda: Named(_network()))


def test_maps_of_two_targets():
    params = {"rule": "epsilon", "similarity": "pearson"}
    net = _network()
    maps = {kind: maps_of(net, target) for kind, (target, _, named) in KINDS.items() if not named}
    for one, two in (("cell", "mask"), ("function", "cell"), ("mask", "weights")):
        target, other = KINDS[one][0], KINDS[two][0]
        found = class_sensitivity(net, X, target=target, other=other, **params)
        rows = zip(maps[one], maps[two], strict=True)
        expected = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in rows]
        np.testing.assert_allclose(found, expected, atol=1e-9)
        with pytest.raises(ValueError, match="other=None, but target="):
            class_sensitivity(net, X, target=target)
        with pytest.raises(ValueError, match="other is the target itself"):
            class_sensitivity(net, X, target=target, other=target)
    with pytest.raises(ValueError, match="other is the target itself"):
        class_sensitivity(net, X, target=REGION, other=REGION.copy())
    with pytest.raises(ValueError, match="index 9 of axis 1"):
        class_sensitivity(net, X, target=REGION, other=(1, 9))


class Segmentation(nn.Module):
    """A probability of each of two classes in each cell, of a network that gives logits."""

    def __init__(self, field):
        super().__init__()
        self.field = field

    def forward(self, x):
        field = self.field(x)
        return torch.stack([-field, field], dim=1).softmax(dim=1)


class Stacked(Segmentation):
    """The logits themselves."""

    def forward(self, x):
        field = self.field(x)
        return torch.stack([-field, field], dim=1)


@pytest.mark.parametrize(
    "target", [(1, 1, 2), np.stack([~REGION, REGION]), lambda y: y[:, 1].amax((1, 2))]
)
def test_what_is_followed_stands_before_a_softmax(target):
    net, logits = Segmentation(_network()), Stacked(_network())
    maps, details = sklrp.explain(net, X, target=target, rule="epsilon", return_details=True)
    assert details.head == "softmax"
    found, expected = (
        pixel_flipping_curve(model, X, maps, target=target, steps=3, **SEED)
        for model in (net, logits)
    )
    np.testing.assert_allclose(found.most[:, 0], details.score, rtol=1e-9)
    np.testing.assert_allclose(of_curve(found), of_curve(expected), rtol=1e-9)


class Logits(nn.Module):
    """A classifier that returns its logits by name."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return {"hidden": x * 1.0, "logits": self.network(x)}


def test_classes_of_an_output_by_name():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    rows = np.random.default_rng(0).normal(size=(60, 5))
    with torch.no_grad():
        y = plain(torch.from_numpy(rows)).argmax(1).numpy()
    named = Logits(plain)
    for target in (None, 1, y):
        asked = "logits" if target is None else ("logits", target)
        maps = sklrp.explain(plain, rows, target=target, rule="epsilon")
        params = {"steps": 3, **SEED}
        curves = [
            pixel_flipping_curve(model, rows, maps, target=t, **params)
            for model, t in ((plain, target), (named, asked))
        ]
        np.testing.assert_allclose(*map(of_curve, curves))
        np.testing.assert_array_equal(curves[0].target, curves[1].target)
        for metric in (max_sensitivity, class_sensitivity):
            found, expected = (
                metric(model, rows, target=t, rule="epsilon", **SEED)
                for model, t in ((named, asked), (plain, target))
            )
            np.testing.assert_allclose(found, expected, rtol=1e-6)
        if np.ndim(target) == 0:
            found, expected = (
                skill_map(model, rows, y, target=t, n_permutations=99, n_draws=8, **SEED).z
                for model, t in ((named, asked), (plain, target))
            )
            np.testing.assert_allclose(found, expected, rtol=1e-6)
        found, expected = (
            of_report(diagnose(model, rows, y, target=t, **FEW))
            for model, t in ((named, asked), (plain, target))
        )
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_labels_are_no_truth_of_a_function_of_logits():
    rng = np.random.default_rng(0)
    rows, y = rng.normal(size=(60, 4)), rng.integers(3, size=60)
    for model, labels in (
        (nn.Linear(4, 3).double(), y),
        (sklrp.MLPClassifier((4,), max_epochs=2, **SEED).fit(rows, y), y),
        (sklrp.MLPClassifier((4,), max_epochs=2, **SEED).fit(rows, y * 1.0), y * 1.0),
    ):
        for ask in (skill_map, skill_mass, diagnose):
            with pytest.raises(ValueError, match="y holds labels of classes, but target makes"):
                ask(model, rows, labels, target=lambda z: z[:, 1] - z[:, 0])


# Regressors


REGRESSORS = {
    "mlp": sklrp.MLPRegressor((8,), max_epochs=10, lr=0.02, **SEED),
    "cnn": sklrp.CNNRegressor((4,), hidden_layer_sizes=(8,), max_epochs=5, lr=0.02, **SEED),
    "lstm": sklrp.LSTMRegressor(6, max_epochs=20, lr=0.02, **SEED),
    "esn": sklrp.ESNRegressor(30, ridge=0.1, **SEED),
}
ROWS = np.random.default_rng(2).normal(size=(60, 9))
VALUES = np.stack([3 * ROWS[:, 0] + 50, 1e-3 * (ROWS[:, 1] - ROWS[:, 8])], axis=1)
# A target of two values, and the weights that make the same number.
OF_TWO = {
    "index": (1, [0.0, 1.0]),
    "mask": ([True, True], [1.0, 1.0]),
    "weights": ([0.5, -200.0], [0.5, -200.0]),
    "each": (np.arange(60) % 2, None),
}


@functools.cache
def regressor(name):
    from sklearn.base import clone

    return clone(REGRESSORS[name]).fit(ROWS, VALUES)


def predicted(reg, kind):
    """Return what predicts the number of each sample, of copies of samples too."""
    _, weights = OF_TWO[kind]
    return lambda rows: reg.predict(rows) @ np.array(weights)


@pytest.mark.sweep(3)
@pytest.mark.parametrize("kind", OF_TWO)
@pytest.mark.parametrize("name", REGRESSORS)
def test_metrics_of_regressors(name, kind):
    """Against metrics of functions: of what is predicted, and of maps whose target is fixed."""
    reg, (target, weights) = regressor(name), OF_TWO[kind]
    maps = reg.explain(ROWS, target=target, rule="epsilon")
    few = {"steps": 4, **SEED}
    curve = pixel_flipping_curve(reg, ROWS, maps, target=target, **few)
    if weights is None:
        outputs = reg.predict(ROWS)
        np.testing.assert_allclose(curve.most[:, 0], outputs[np.arange(60), target])
    else:
        expected = pixel_flipping_curve(predicted(reg, kind), ROWS, maps, **few)
        np.testing.assert_allclose(of_curve(curve), of_curve(expected), rtol=1e-6)
        found = faithfulness_correlation(reg, ROWS, maps, target=target, n_subsets=8, **SEED)
        expected = faithfulness_correlation(predicted(reg, kind), ROWS, maps, n_subsets=8, **SEED)
        np.testing.assert_allclose(found, expected, atol=1e-9)
        found = max_sensitivity(reg, ROWS, target=target, n_draws=2, rule="epsilon", **SEED)
        fixed = functools.partial(reg.explain, target=target, rule="epsilon")
        np.testing.assert_allclose(
            found, max_sensitivity(fixed, ROWS, n_draws=2, **SEED), rtol=1e-6
        )
        found = randomization_similarity(reg, ROWS, target=target, rule="epsilon", **SEED)
        again = randomization_similarity(
            reg, ROWS, target=0, explain=lambda net, rows, **_: net.explain(
                rows, target=target, rule="epsilon"
            ), **SEED,
        )  # fmt: skip
        np.testing.assert_allclose(found.similarity, again.similarity, atol=1e-9)
    score = make_relevance_scorer("conservation_error", target=target, relative=False)
    given, details = reg.explain(ROWS, target=target, return_details=True)
    missing = np.abs(details.score - given.reshape(60, -1).sum(1)).mean()
    assert score(reg, ROWS) == pytest.approx(-missing)


@pytest.mark.parametrize("name", REGRESSORS)
def test_scorers_of_transformers_of_regressors(name):
    """The transformer's target and reference are graded, whose share no cell has."""
    reg = FrozenEstimator(regressor(name))
    for target, reference in ((1, None), ([0.5, -200.0], "mean"), (0, "zero")):
        transformer = RelevanceTransformer(reg, target=target, reference=reference)
        transformer.fit(ROWS, VALUES)
        asked = {} if reference is None else {"reference": reference}
        maps, details = regressor(name).explain(ROWS, target=target, return_details=True, **asked)
        missing = np.abs(details.score - maps.reshape(60, -1).sum(1)).mean()
        score = make_relevance_scorer("conservation_error", relative=False)(transformer, ROWS)
        assert score == pytest.approx(-missing)
        score = make_relevance_scorer("pixel_flipping", steps=3, **SEED)(transformer, ROWS)
        flipped = pixel_flipping_score(regressor(name), ROWS, maps, target=target, steps=3, **SEED)
        assert score == pytest.approx(flipped.mean())


@pytest.mark.sweep(1)
@pytest.mark.parametrize("name", REGRESSORS)
def test_skill_of_regressors(name):
    reg = regressor(name)
    few = {"n_permutations": 99, "n_draws": 16, **SEED}
    each = skill_map(reg, ROWS, VALUES, **few)
    assert each.skill.shape == (2, 9)
    for kind, (target, weights) in OF_TWO.items():
        if weights is None:
            with pytest.raises(ValueError, match="target must be the number of an output"):
                skill_map(reg, ROWS, VALUES, target=target, **few)
            with pytest.raises(ValueError, match="one index"):
                diagnose(reg, ROWS, VALUES, target=target, **FEW)
            continue
        truth = VALUES @ np.array(weights)
        if kind == "weights":  # takes a while
            report = diagnose(reg, ROWS, VALUES, target=target, **FEW)
            correlation = np.corrcoef(predicted(reg, kind)(ROWS), truth)[0, 1]
            assert report.tests["skilled"].statistic == pytest.approx(correlation)
            own = diagnose(reg, ROWS, truth, target=target, **FEW)
            np.testing.assert_allclose(of_report(own), of_report(report), rtol=1e-6)
        # Contributions are linear in what is asked.
        found = skill_map(reg, ROWS, VALUES, target=target, **few)
        asked = skill_map(
            reg, ROWS, truth, target=lambda y, w=weights: y @ torch.tensor(w, dtype=y.dtype), **few
        )
        np.testing.assert_allclose(found.z, asked.z, rtol=1e-5)
        np.testing.assert_allclose(found.skill, asked.skill, rtol=1e-5)
        mass = skill_mass(reg, ROWS, VALUES, target=target, n_networks=1, rule="epsilon", **SEED)
        assert mass.shape == (60,)


@pytest.mark.parametrize("name", REGRESSORS)
def test_maps_of_two_outputs(name):
    reg = regressor(name)
    maps = reg.explain(ROWS, target="all", rule="epsilon").reshape(60, 2, -1)
    expected = [np.corrcoef(*pair)[0, 1] for pair in maps]
    params = {"similarity": "pearson", "rule": "epsilon", **SEED}
    for more in ({"target": 1}, {"target": 0, "other": 1}, {"target": [False, True], "other": 0}):
        np.testing.assert_allclose(class_sensitivity(reg, ROWS, **more, **params), expected)
    with pytest.raises(ValueError, match="a regression of 2 outputs: choose one"):
        class_sensitivity(reg, ROWS)
    with pytest.raises(ValueError, match="other=1 is the target of 60 samples"):
        class_sensitivity(reg, ROWS, target=1, other=1)


def test_what_is_found_does_not_depend_on_the_reference():
    """The map is the same for all, and the share of the reference is told beside it."""
    reg, params = regressor("mlp"), {"target": 0, **FEW, "max_samples": None}
    plain = diagnose(reg, ROWS, VALUES, **params)
    mean = VALUES[:, 0].mean()
    score = reg.predict(ROWS)[:, 0] - mean
    for reference, value in (("zero", 0.0), (48.0, 48.0), ([49.0, 0.0], 49.0)):
        found = diagnose(reg, ROWS, VALUES, reference=reference, **params)
        np.testing.assert_allclose(of_report(found), of_report(plain), rtol=1e-6)
        for name, test in found.tests.items():
            assert test.verdict == plain.tests[name].verdict
        share = np.median(np.abs(mean - value) / np.abs(score))
        assert f"has {share:.2g} times as much" in found.tests["bias"].reading
    assert "reference" not in plain.tests["bias"].reading
    with pytest.raises(ValueError, match="lies outside the targets of the training data"):
        diagnose(reg, ROWS, VALUES, reference=500.0, **params)
    with pytest.raises(ValueError, match=r"reference=48\.0 has no effect on maps that"):
        diagnose(reg, ROWS, VALUES, target=0, relevance=ROWS, reference=48.0, **SEED)


def test_flipping_draws_a_line_at_the_reference():
    reg = regressor("mlp")
    for reference, value in ((None, None), ("mean", VALUES[:, 1].mean()), (2e-4, 2e-4)):
        display = PixelFlippingDisplay.from_estimator(
            reg, ROWS[:9], target=1, reference=reference, **SEED
        )
        assert display.reference == (value if value is None else pytest.approx(value))
        lines = [line for line in display.ax_.lines if line.get_label() == "reference"]
        assert [line.get_ydata()[0] for line in lines] == ([] if value is None else [value])
    with pytest.raises(ValueError, match="'mean', 'zero' or a number, got 'median'"):
        PixelFlippingDisplay.from_estimator(reg, ROWS[:9], target=1, reference="median")


@pytest.mark.sweep(1)
@pytest.mark.parametrize("name", REGRESSORS)
def test_pictures_of_regressors(name):
    reg = regressor(name)
    for target, said in ((1, "output 1"), ([0.5, -200.0], "a weighted sum of outputs")):
        display = RelevanceDisplay.from_estimator(reg, ROWS[:2], target=target)
        maps = reg.explain(ROWS[:2], target=target)
        np.testing.assert_allclose(of_display(display).ravel(), maps.ravel(), rtol=1e-6)
        assert display.unit == f"relevance for {said} (unit of the prediction)"
        display = PixelFlippingDisplay.from_estimator(reg, ROWS, target=target, steps=3, **SEED)
        assert display.ax_.get_ylabel() == "prediction, in its own units"
        maps = reg.explain(ROWS, target=target)
        curve = pixel_flipping_curve(reg, ROWS, maps, target=target, steps=3, **SEED)
        np.testing.assert_allclose(display.curves["auto"].most, curve.most)
        ArtifactDisplay.from_estimator(reg, ROWS, VALUES, target=target, **FEW)


@pytest.mark.parametrize("reference", ["mean", "zero", "given"])
@pytest.mark.parametrize("name", REGRESSORS)
def test_functions_of_predictions(name, reference):
    """A function's map is the sum of the outputs' maps by its derivatives at the predictions."""
    reg = regressor(name)
    asked = {"rule": "epsilon", "epsilon": 1e-12}
    at = {"mean": reg.target_mean_, "zero": np.zeros(2)}.get(reference, reg.target_range_[:, 0])
    found, details = reg.explain(
        ROWS,
        target=lambda values: (values**2).sum(1),
        reference=at if reference == "given" else reference,
        return_details=True,
        **asked,
    )
    predicted = reg.predict(ROWS)
    of_outputs = np.stack([reg.explain(ROWS, target=k, **asked) for k in range(2)])
    expected = np.einsum("nk,kn...->n...", 2 * predicted, of_outputs)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    shift = (reg.target_mean_**2 - at**2).sum()
    rest = predicted**2 - reg.target_mean_**2 - 2 * predicted * (predicted - reg.target_mean_)
    size = (predicted**2).sum(1).max()
    np.testing.assert_allclose(details.score, (predicted**2 - at**2).sum(1), atol=1e-5 * size)
    np.testing.assert_allclose(details.rest, rest.sum(1), atol=1e-5 * size)
    np.testing.assert_allclose(details.reference_share, shift, atol=1e-5 * size)


@pytest.mark.parametrize("name", REGRESSORS)
def test_regressors_are_asked_for_what_they_know(name):
    reg = regressor(name)
    entries = {
        "explain": lambda t: reg.explain(ROWS, target=t),
        "flipping": lambda t: pixel_flipping_score(reg, ROWS, ROWS, target=t),
        "faithfulness": lambda t: faithfulness_correlation(reg, ROWS, ROWS, target=t),
        "max_sensitivity": lambda t: max_sensitivity(reg, ROWS, target=t),
        "randomization": lambda t: randomization_similarity(reg, ROWS, target=t),
        "class": lambda t: class_sensitivity(reg, ROWS, target=t),
        "mass": lambda t: skill_mass(reg, ROWS, VALUES, target=t),
        "diagnose": lambda t: diagnose(reg, ROWS, VALUES, target=t, **FEW),
        "scorer": lambda t: make_relevance_scorer("sparseness", target=t)(reg, ROWS),
        "transformer": lambda t: RelevanceTransformer(reg, target=t).fit_transform(ROWS, VALUES),
        "display": lambda t: RelevanceDisplay.from_estimator(reg, ROWS[:2], target=t),
    }
    for entry, ask in entries.items():
        for target in (None, 2, "warm", [1.0, 2.0, 3.0], [False, False]):
            with pytest.raises(ValueError, match=r"target|outputs"):
                print(entry, target, ask(target))


def test_a_regression_by_skorch_does_not_choose_for_itself():
    from skorch import NeuralNetRegressor

    net = NeuralNetRegressor(nn.Linear(9, 2).double(), verbose=0).initialize()
    with pytest.raises(ValueError, match="target=None, but NeuralNetRegressor is a regression"):
        sklrp.explain(net, ROWS)
    with pytest.raises(ValueError, match="contrast=True compares classes"):
        sklrp.explain(net, ROWS, target=0, contrast=True)


# Curves of a parameter


def _curve(estimator, param, target, y=VALUES, **params):
    more = {"cv": 2, "mask": np.arange(9) < 3, **params}
    return focus_curve(estimator, param, [0.01, 0.1], ROWS, y, target=target, **more)


@pytest.mark.sweep(1)
@pytest.mark.parametrize("name", REGRESSORS)
def test_focus_of_regressors(name):
    from sklearn.base import clone
    from sklearn.model_selection import KFold

    param = "ridge" if name == "esn" else "lr"
    for kind in ("index", "mask", "weights"):
        target = OF_TWO[kind][0]
        curve = _curve(REGRESSORS[name], param, target)
        assert curve.score_name == "R²"
        train, test = next(iter(KFold(2).split(ROWS)))
        reg = clone(REGRESSORS[name]).set_params(**{param: 0.1}).fit(ROWS[train], VALUES[train])
        maps = np.abs(reg.explain(ROWS[test], target=target))
        expected = (maps[:, :3].sum(1) / maps.sum(1)).mean()
        assert curve.mass[1, 0] == pytest.approx(expected)
        assert curve.test_scores[1, 0] == pytest.approx(reg.score(ROWS[test], VALUES[test]))
        display = FocusCurveDisplay.from_curve(curve)
        assert "R²" in [ax.get_ylabel() for ax in display.figure_.axes]
    assert _curve(REGRESSORS[name], param, None, VALUES[:, 0]).mass.shape == (2, 2)


def test_focus_on_a_cell_of_a_field():
    from skorch import NeuralNetRegressor

    def fit(target):
        torch.manual_seed(0)
        net = NeuralNetRegressor(Field().double(), max_epochs=2, verbose=0)
        mask = np.zeros((2, 4, 8), dtype=bool)
        mask[0] = True
        return focus_curve(
            net, "lr", [0.01, 0.1], X, Y, target=target, mask=mask, cv=2,
            scoring=lambda model, X, y: -float(((model.predict(X) - y) ** 2).mean()),
        )  # fmt: skip

    cells = np.zeros(SHAPE, dtype=bool)
    cells[1, 2] = True
    np.testing.assert_allclose(fit((1, 2)).mass, fit(cells).mass, rtol=1e-6)
    for target, message in ((None, "values of 20 outputs"), ((1, 5), "index 5 of axis 1")):
        with pytest.raises(ValueError, match=message):
            fit(target)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, "y has values of 2 outputs"),
        (2, r"must lie in 0\.\.1"),
        ("all", "target='all' makes a map of every"),
        ("x", "the index of an output, a boolean mask"),
        (np.arange(60) % 2, "the index of an output, a boolean mask"),
        ([False, False], "an empty region"),
        (lambda y: y[:, 0], "a function of the output"),
    ],
)
def test_targets_of_curves_are_refused_before_training(target, message, monkeypatch):
    monkeypatch.setattr("sklrp.diagnostics.focus._grade", lambda *_: pytest.fail("trained"))
    with pytest.raises(ValueError, match=message):
        _curve(REGRESSORS["mlp"], "lr", target)
    with pytest.raises(ValueError, match=r"scoring=None .* shape \(60, 4, 5\)"):
        _curve(REGRESSORS["mlp"], "lr", (1, 2), Y)
