"""Caps and masks: worked numbers, shapes, pipelines, and relevance of exactly zero."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklrp import CNNClassifier, LSTMClassifier, MLPClassifier, RelevanceTransformer
from sklrp.preprocessing import InputCapper, InputMasker
from tests.helpers.comparing import assert_same_to_rounding

TRANSFORMERS = [
    InputCapper(),
    InputCapper(-1, 2),
    InputCapper(quantile=0.9, symmetric=True),
    InputCapper(quantile=0.9, per_feature=True),
    InputMasker(),
    InputMasker(fill_value=-1.5, partly_missing="keep"),
]
SHAPES = [(40, 12), (40, 3, 4), (40, 2, 2, 3)]


# Not with partly_missing="mask": a check strews NaN over all features, and all masked is refused.
@parametrize_with_checks(TRANSFORMERS)
def test_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture
def X():
    X = np.random.default_rng(0).normal(size=(40, 12))
    X[:, [2, 7]] = np.nan
    return X


@pytest.mark.parametrize("transformer", TRANSFORMERS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shape_and_dtype_are_kept(transformer, shape, dtype, X):
    X = X.astype(dtype).reshape(shape)
    before = X.copy()
    fitted = clone(transformer).fit(X)
    out = fitted.transform(X)
    assert out.shape == shape
    assert out.dtype == dtype
    np.testing.assert_array_equal(X, before)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).transform(X), out)
    flat = clone(transformer).fit_transform(X.reshape(40, -1))
    assert_same_to_rounding(out.reshape(40, -1), flat)
    assert_same_to_rounding(fitted.transform(X.reshape(40, -1)), flat)  # of the same cells
    assert list(fitted.get_feature_names_out()[:2]) == ["x0", "x1"]


def test_capper_learns_from_training_data_alone(X):
    capper = InputCapper(quantile=0.9).fit(X)
    present = X[~np.isnan(X)]
    assert capper.low_ == pytest.approx(np.quantile(present, 0.1), rel=1e-12)
    assert capper.high_ == pytest.approx(np.quantile(present, 0.9), rel=1e-12)
    out = capper.transform(100 * X)
    assert np.nanmin(out) == capper.low_
    assert np.nanmax(out) == capper.high_
    np.testing.assert_array_equal(np.isnan(out), np.isnan(X))


def test_capper_by_feature(X):
    out = InputCapper(quantile=0.75, symmetric=True, per_feature=True).fit_transform(X)
    for j in {*range(12)} - {2, 7}:
        bound = np.quantile(np.abs(X[:, j]), 0.75)
        np.testing.assert_allclose(out[:, j], np.clip(X[:, j], -bound, bound), rtol=1e-12)
    assert np.isnan(out[:, [2, 7]]).all()
    capper = InputCapper(quantile=1, per_feature=True).fit(X.reshape(40, 3, 4))
    assert capper.low_.shape == capper.high_.shape == (3, 4)
    assert capper.high_[0, 2] == -capper.low_[0, 2] == np.inf  # nothing known of missing cells
    np.testing.assert_array_equal(capper.transform(X), X)  # the range of the training itself


def test_capper_one_side_and_none():
    X = [[-9.0, 9.0], [0.0, 1.0]]
    np.testing.assert_array_equal(InputCapper(high=2).fit_transform(X), [[-9, 2], [0, 1]])
    np.testing.assert_array_equal(InputCapper().fit_transform(X), X)


def test_masker_learns_cells_that_are_always_missing(X):
    masker = InputMasker(fill_value=3.0).fit(X.reshape(40, 3, 4))
    assert masker.mask_.shape == (3, 4)
    np.testing.assert_array_equal(np.flatnonzero(~masker.mask_), [2, 7])
    new = np.arange(12.0).reshape(1, 12)  # there is a value now: masked all the same
    expected = np.arange(12.0)
    expected[[2, 7]] = 3.0
    np.testing.assert_array_equal(masker.transform(new)[0], expected)


def test_masker_of_given_cells():
    X = np.arange(1.0, 13.0).reshape(2, 2, 3)
    mask = np.array([[True, False, True], [False, True, False]])
    out = InputMasker(mask).fit_transform(X)
    np.testing.assert_array_equal(out, X * mask)
    np.testing.assert_array_equal(InputMasker(mask.ravel()).fit_transform(X), out)
    masked = np.where(mask, X, np.nan)  # what is missing there is nobody's business
    np.testing.assert_array_equal(InputMasker(mask).fit_transform(masked), out)


def test_cells_that_are_missing_only_sometimes(X):
    X[3:7, 5] = np.nan
    images = X.reshape(40, 3, 4)
    message = r"NaN in 1 of the 10 cells that are kept, the first at \(1, 1\) in 4 of 40 samples"
    with pytest.raises(ValueError, match=message):
        InputMasker().fit(images)
    masker = InputMasker(partly_missing="mask").fit(images)
    np.testing.assert_array_equal(np.flatnonzero(~masker.mask_), [2, 5, 7])
    assert not masker.transform(images)[:, 1, 1].any()
    kept = InputMasker(partly_missing="keep").fit_transform(X)
    np.testing.assert_array_equal(np.isnan(kept).sum(axis=0), [0, 0, 0, 0, 0, 4] + [0] * 6)
    with pytest.raises(ValueError, match=r"NaN in 3 of the 12 cells .* \(2,\) in 40 of 40"):
        InputMasker(np.ones(12, dtype=bool)).fit(X)  # a mask may keep what is always missing


def test_cells_that_go_missing_after_training(X):
    X[:, [2, 7]] = 0.0
    masker = InputMasker().fit(X)
    X[0, 4] = np.nan
    with pytest.raises(ValueError, match=r"NaN in 1 of the 12 cells.*\(4,\) in 1 of 40 samples"):
        masker.transform(X)


@pytest.mark.parametrize(
    ("transformer", "message"),
    [
        (InputCapper(2, -2), r"low=2 is above high=-2"),
        (InputCapper(high=1, quantile=0.9), r"quantile=0.9 was given with low=None and high=1"),
        (InputCapper(quantile=0.5), r"'quantile' parameter of InputCapper must be .* Got 0.5"),
        (InputCapper(low="cold"), r"'low' parameter of InputCapper must be"),
        (InputCapper(np.nan), r"'low' parameter of InputCapper must be"),
        (InputMasker(np.ones(11, dtype=bool)), r"mask has the shape \(11,\).*\(3, 4\)"),
        (InputMasker(np.ones((4, 3), dtype=bool)), r"mask has the shape \(4, 3\).*\(3, 4\)"),
        (InputMasker(np.ones((3, 4))), r"mask must hold booleans.*float64"),
        (InputMasker(np.zeros((3, 4), dtype=bool)), r"No cell of X is kept: mask=given"),
        (InputMasker(fill_value=np.nan), r"'fill_value' parameter of InputMasker must be"),
        (InputMasker(partly_missing="drop"), r"'partly_missing' parameter of InputMasker must be"),
    ],
    ids=str,
)
def test_bad_parameters(transformer, message):
    with pytest.raises(ValueError, match=message):
        transformer.fit(np.ones((5, 3, 4)))


def test_bad_samples(X):
    with pytest.raises(ValueError, match=r"No cell of X is kept: mask=None"):
        InputMasker().fit(np.full((3, 2), np.nan))
    capper = InputCapper(-1, 1).fit(X.reshape(40, 3, 4))
    with pytest.raises(ValueError, match=r"samples of shape \(4, 3\), .* fitted on .* \(3, 4\)"):
        capper.transform(X.reshape(40, 4, 3))
    for infinite in (np.full((1, 12), np.inf), np.array([[np.inf, -np.inf] * 6])):
        with pytest.raises(ValueError, match="infinity"):  # and no warning
            capper.transform(infinite)


def test_tables_keep_their_names():
    pandas = pytest.importorskip("pandas")
    X = pandas.DataFrame({"a": [1.0, np.nan], "b": [3.0, 9.0]})
    for transformer in (InputCapper(high=5), InputMasker(partly_missing="mask")):
        out = transformer.set_output(transform="pandas").fit_transform(X)
        assert list(out.columns) == ["a", "b"]
        with pytest.raises(
            ValueError, match=r"shape \(1, 2\) does not fit into a row of a pandas"
        ):
            transformer.fit_transform(np.ones((4, 1, 2)))


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(60, 6, 8))
    y = (X[:, 2:4, 2:5].mean((1, 2)) > 0).astype(int)
    X[:, 0, :3] = np.nan
    return X, y


@pytest.mark.parametrize(
    "network",
    [
        MLPClassifier((8,), max_epochs=3, random_state=0),
        CNNClassifier((4,), hidden_layer_sizes=(8,), max_epochs=3, random_state=0),
        LSTMClassifier(6, sweep="right", max_epochs=3, random_state=0),
    ],
    ids=lambda network: type(network).__name__,
)
def test_masked_cells_get_no_relevance_by_contribution(network, images):
    X, y = images
    pipeline = make_pipeline(InputCapper(-2, 2), InputMasker(), network).fit(X, y)
    masked, network = ~pipeline[1].mask_, pipeline[-1]
    entering = pipeline[:-1].transform(X)
    for rule in ("auto", "zero", "epsilon", "gamma", "alpha_beta", "z_plus"):
        relevance = network.explain(entering, rule=rule)
        assert not relevance[:, masked].any()
        assert relevance[:, ~masked].any()
    for rule in ("w_square", "z_box"):
        assert network.explain(entering, rule=rule)[:, masked].any()


def test_pipelines_and_searches(images):
    X, y = images
    relevance = RelevanceTransformer(MLPClassifier((8,), max_epochs=3, random_state=0))
    pipeline = Pipeline(
        [
            ("cap", InputCapper()),
            ("mask", InputMasker()),
            ("relevance", relevance),
            ("clf", LogisticRegression()),
        ]
    )
    grid = {"cap__high": [None, 1.0], "mask__fill_value": [0.0, 1.0]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_an_imputer_may_follow():
    X = np.array([[np.nan, 1.0, np.nan], [np.nan, 2.0, 4.0]])
    pipeline = make_pipeline(InputMasker(partly_missing="keep"), SimpleImputer())
    np.testing.assert_array_equal(pipeline.fit_transform(X), [[0, 1, 4], [0, 2, 4]])
