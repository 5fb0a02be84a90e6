"""Focus curves: against plain loops, on every form of estimator, and what is refused."""

import copy
import pickle

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, StratifiedKFold, validation_curve
from sklearn.pipeline import make_pipeline

from sklrp import CNNClassifier, LSTMClassifier, MLPClassifier
from sklrp.diagnostics import focus_curve
from sklrp.diagnostics.profiles import axis_profiles
from sklrp.preprocessing import InputCapper, InputMasker
from tests.helpers.comparing import assert_same_to_rounding

CV = StratifiedKFold(3)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(45, 4, 5))
    mask = np.zeros((4, 5), dtype=bool)
    mask[1:3, 2] = True
    return X, np.where(X[:, mask].sum(1) > 0, "warm", "cold"), mask


def make_mlp(**params):
    return MLPClassifier(
        (4,), **{"activation": "tanh", "max_epochs": 3, "random_state": 0, **params}
    )


def check_equal(one, other):
    for name in ("test_scores", "train_scores", "mass"):
        assert_same_to_rounding(one[name], other[name])
    for a, b in zip(one.profiles, other.profiles, strict=True):
        assert_same_to_rounding(a, b)


def test_profiles_of_worked_maps():
    maps = np.array([[[3, -1], [0, 0]], [[0, 0], [0, 2]], [[0, 0], [0, 0]]])
    rows, columns = axis_profiles(maps)  # the third map has no shares, and is left out
    np.testing.assert_allclose(rows, [0.5, 0.5])
    np.testing.assert_allclose(columns, [0.375, 0.625])
    (flat,) = axis_profiles(maps.reshape(3, 4))
    np.testing.assert_allclose(flat, [0.375, 0.125, 0, 0.5])


def test_profiles_sum_to_one_or_to_zero():
    maps = np.random.default_rng(0).normal(size=(7, 2, 3, 4)) * 1e300
    profiles = axis_profiles(maps)
    assert [len(profile) for profile in profiles] == [2, 3, 4]
    np.testing.assert_allclose([profile.sum() for profile in profiles], 1)
    assert [profile.sum() for profile in axis_profiles(np.zeros((3, 2, 2)))] == [0, 0]
    with pytest.raises(ValueError, match="relevance has NaN"):
        axis_profiles(np.full((2, 3), np.nan))


def test_against_plain_loops(data):
    X, y, mask = data
    values = [0.001, 0.1]
    curve = focus_curve(
        make_mlp(), "lr", values, X, y, mask=mask, cv=CV, rule="gamma", target="warm"
    )
    chance = []
    for i, value in enumerate(values):
        for j, (train, test) in enumerate(CV.split(X, y)):
            clf = make_mlp(lr=value).fit(X[train], y[train])
            size = np.abs(clf.explain(X[test], rule="gamma", target="warm"))
            share = size / size.sum((1, 2), keepdims=True)
            assert curve.test_scores[i, j] == clf.score(X[test], y[test])
            assert curve.train_scores[i, j] == clf.score(X[train], y[train])
            mass = sum(s[mask].sum() for s in share) / len(test)
            assert curve.mass[i, j] == pytest.approx(mass, rel=1e-12)
            np.testing.assert_allclose(curve.profiles[0][i, j], share.sum(2).mean(0), rtol=1e-12)
            np.testing.assert_allclose(curve.profiles[1][i, j], share.sum(1).mean(0), rtol=1e-12)
            inputs = np.abs(X[test]) / np.abs(X[test]).sum((1, 2), keepdims=True)
            chance.append(inputs[:, mask].sum(1).mean())
    assert curve.mass_chance.cells == 2 / 20
    assert curve.mass_chance.input == pytest.approx(np.mean(chance), rel=1e-12)
    assert curve.param_range == values
    train_scores, test_scores = validation_curve(
        make_mlp(), X.reshape(45, -1), y, param_name="lr", param_range=values, cv=CV
    )
    np.testing.assert_array_equal(curve.test_scores, test_scores)
    np.testing.assert_array_equal(curve.train_scores, train_scores)


@pytest.mark.slow
def test_only_clones_are_trained_and_jobs_change_nothing(data):
    X, y, mask = data
    estimator = make_mlp()
    before = copy.deepcopy(estimator.get_params())
    kwargs = {"mask": mask, "cv": CV}
    one = focus_curve(estimator, "dropout", (0.0, 0.5), X, y, **kwargs)
    assert estimator.get_params() == before
    assert not hasattr(estimator, "net_")
    check_equal(one, focus_curve(estimator, "dropout", [0.0, 0.5], X, y, n_jobs=2, **kwargs))
    check_equal(one, pickle.loads(pickle.dumps(one)))


def test_rows_are_laid_out_as_the_network_takes_them(data):
    X, y, mask = data
    for estimator in (
        CNNClassifier((2,), input_shape=(1, 4, 5), max_epochs=1, random_state=0),
        LSTMClassifier(3, input_shape=(4, 5), max_epochs=1, random_state=0),
    ):
        kwargs = {"mask": mask, "cv": CV}
        shaped = focus_curve(estimator, "lr", [0.01], X, y, **kwargs)
        flat = focus_curve(estimator, "lr", [0.01], X.reshape(45, -1), y, **kwargs)
        check_equal(shaped, flat)
        assert [profile.shape for profile in flat.profiles] == [(1, 3, 4), (1, 3, 5)]
        assert [len(profile) for profile in flat.input_profiles] == [4, 5]


def test_a_mask_for_each_sample(data):
    X, y, mask = data
    masks = np.array([mask if label == "warm" else mask[::-1] for label in y])
    curve = focus_curve(make_mlp(), "lr", [0.01], X, y, mask=masks, cv=CV, part="positive")
    for j, (train, test) in enumerate(CV.split(X, y)):
        size = np.maximum(make_mlp(lr=0.01).fit(X[train], y[train]).explain(X[test]), 0)
        mass = (size * masks[test]).sum((1, 2)) / size.sum((1, 2))
        assert curve.mass[0, j] == pytest.approx(mass.mean(), rel=1e-12)
    assert focus_curve(make_mlp(), "lr", [0.01], X, y, cv=CV).mass is None


def test_pipelines_show_what_enters_the_last_step(data):
    X, y, mask = data
    removed = ~mask
    pipeline = make_pipeline(InputCapper(), InputMasker(removed), make_mlp())
    curve = focus_curve(pipeline, "inputcapper__high", [None, 0.5], X, y, mask=mask, cv=CV)
    assert not curve.mass.any()  # the mask's cells are filled with zeros
    assert curve.mass_chance.input == 0
    curve = focus_curve(pipeline, "inputmasker__mask", [removed, mask], X, y, mask=mask, cv=CV)
    np.testing.assert_allclose(curve.mass, [[0] * 3, [1] * 3])
    reduced = make_pipeline(PCA(3), make_mlp())
    rows = X.reshape(45, -1)
    curve = focus_curve(reduced, "mlpclassifier__lr", [0.01], rows, y, mask=[1, 0, 0], cv=CV)
    assert curve.mass_chance.cells == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match=r"different shapes, \(2,\), \(3,\), for different"):
        focus_curve(reduced, "pca__n_components", [2, 3], rows, y, cv=CV)


def test_fit_parameters_groups_and_scoring(data):
    X, y, _ = data
    weight = np.random.default_rng(1).uniform(size=45)
    groups = np.arange(45) % 4
    splitter = GroupKFold(4)
    curve = focus_curve(
        make_mlp(), "lr", [0.1], X, y, groups=groups, cv=splitter,
        scoring="neg_log_loss", params={"sample_weight": weight},
    )  # fmt: skip
    assert curve.score_name == "neg_log_loss"
    for j, (train, test) in enumerate(splitter.split(X, y, groups)):
        clf = make_mlp(lr=0.1).fit(X[train], y[train], sample_weight=weight[train])
        loss = -np.log(clf.predict_proba(X[test])[np.arange(len(test)), (y[test] == "warm") * 1])
        assert curve.test_scores[0, j] == pytest.approx(-loss.mean(), rel=1e-6)


def test_tables(data):
    pandas = pytest.importorskip("pandas")
    X, y, mask = data
    curve = focus_curve(make_mlp(), "lr", [0.01, 0.1], X, y, mask=mask, cv=CV)
    frame = curve.to_frame()
    assert list(frame.columns) == ["lr", "fold", "test_score", "train_score", "mass"]
    assert len(frame) == 6
    row = frame[(frame.lr == 0.1) & (frame.fold == 2)].iloc[0]
    assert (row.test_score, row.mass) == (curve.test_scores[1, 2], curve.mass[1, 2])
    lines = repr(curve).splitlines()
    assert lines[0] == "MLPClassifier, 3 folds: mean (smallest-largest)"
    assert lines[1].split() == ["lr", "test", "score", "train", "score", "on", "the", "mask"]
    assert lines[2].startswith(f"0.01  {curve.test_scores[0].mean():.3f} (")
    assert lines[4].startswith("The mask has 0.100 of the cells and 0.")
    table = pandas.DataFrame(X.reshape(45, -1), columns=[f"cell{i}" for i in range(20)])
    of_table = focus_curve(make_mlp(), "lr", [0.01, 0.1], table, y, mask=mask.ravel(), cv=CV)
    assert_same_to_rounding(curve.mass, of_table.mass)
    assert [profile.shape for profile in of_table.profiles] == [(2, 3, 20)]


class Untrained(ClassifierMixin, BaseEstimator):
    """An estimator of another package that explains; it is not to be trained."""

    def __init__(self, knob=0):
        self.knob = knob

    def fit(self, X, y):
        raise AssertionError("trained before everything was checked")

    def explain(self, X, **params):
        return X


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"param_name": "nob"}, ValueError, r"param_name='nob' is no .*; did you mean 'knob'\?"),
        ({"param_name": "zzz"}, ValueError, r"'zzz' is no parameter of Untrained; use one of"),
        ({"param_range": []}, ValueError, r"param_range is empty"),
        ({"param_range": "ab"}, ValueError, r"param_range must be a list of values, got 'ab'"),
        ({"param_range": 3}, ValueError, r"param_range must be a list of values, got 3"),
        ({"mask": np.ones((5, 4), dtype=bool)}, ValueError, r"mask has the shape \(5, 4\)"),
        ({"mask": np.zeros((4, 5), dtype=bool)}, ValueError, r"mask is empty"),
        ({"mask": np.ones((4, 5), dtype=bool)}, ValueError, r"mask marks every cell"),
        ({"mask": np.full((4, 5), 0.5)}, ValueError, r"mask must hold booleans"),
        ({"rule": "epsilom"}, ValueError, r"rule must be one of.*Did you mean 'epsilon'\?"),
        ({"rule": 3}, TypeError, r"rule must be one of"),
        ({"epsilon": -1.0}, ValueError, r"'epsilon' parameter of focus_curve must be"),
        ({"target": "hot"}, ValueError, r"target must be None.*\['cold', 'warm'\], got 'hot'"),
        ({"target": ["warm"] * 45}, ValueError, r"target must be None"),
        ({"part": "all"}, ValueError, r"'part' parameter of focus_curve must be"),
        ({"n_jobs": 1.5}, ValueError, r"'n_jobs' parameter of focus_curve must be"),
        ({"estimator": LogisticRegression(), "param_name": "C"}, TypeError, r"LogisticRegression"),
        ({"y": np.ones(3)}, ValueError, r"inconsistent numbers of samples"),
        ({"scoring": "acuracy"}, ValueError, r"'acuracy' is not a valid scoring value"),
    ],
    ids=lambda case: str(case)[:40] if isinstance(case, dict) else "",
)
def test_refused_before_anything_is_trained(changes, error, message, data):
    X, y, _ = data
    arguments = {
        "estimator": Untrained(), "param_name": "knob", "param_range": [1], "X": X, "y": y,
    }  # fmt: skip
    with pytest.raises(error, match=message):
        focus_curve(**{**arguments, **changes})


def test_values_are_checked_before_anything_is_trained(data):
    X, y, _ = data
    pipeline = make_pipeline(InputCapper(), make_mlp())
    message = r"'dropout' parameter of MLPClassifier must be .* Got 2"
    with pytest.raises(ValueError, match=message):
        focus_curve(pipeline, "mlpclassifier__dropout", [0, 2], X, y)
    with pytest.raises(ValueError, match=r"did you mean 'mlpclassifier__dropout'"):
        focus_curve(pipeline, "mlpclassifier__dropuot", [0], X, y)
    with pytest.raises(ValueError, match=r"unexpected parameter 'optimizer__beta'; did you mean"):
        focus_curve(make_mlp(), "optimizer__beta", [0], X, y)
    curve = focus_curve(make_mlp(), "optimizer__betas", [(0.5, 0.9), (0.9, 0.99)], X, y, cv=CV)
    assert curve.test_scores.shape == (2, 3)


def test_an_interrupt_leaves_the_estimator_as_it_was(data, monkeypatch):
    X, y, mask = data
    estimator = make_mlp().fit(X, y)
    maps = estimator.explain(X)

    def interrupt(self, X, **params):
        raise KeyboardInterrupt

    monkeypatch.setattr(MLPClassifier, "explain", interrupt)
    with pytest.raises(KeyboardInterrupt):
        focus_curve(estimator, "lr", [0.5], X, y, mask=mask)
    monkeypatch.undo()
    assert estimator.lr == clone(estimator).lr == 0.003
    np.testing.assert_array_equal(estimator.explain(X), maps)


def test_progress_is_shown_on_request_only(data, capsys):
    X, y, _ = data
    focus_curve(make_mlp(), "l1", [0, 1e-3], X, y, cv=CV)
    assert capsys.readouterr() == ("", "")
    focus_curve(make_mlp(), "l1", [0, 1e-3], X, y, cv=CV, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "6/6" in captured.err
