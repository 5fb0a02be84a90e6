"""Displays: what their artists show."""

import numpy as np
import pytest

from sklrp import MLPClassifier
from sklrp.diagnostics import focus_curve
from sklrp.plotting import FocusCurveDisplay

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def data():
    X = np.random.default_rng(0).normal(size=(30, 3, 4))
    mask = np.zeros((3, 4), dtype=bool)
    mask[1, 1:3] = True
    return X, (X[:, mask].sum(1) > 0).astype(int), mask


def make_curve(data, name="lr", values=(0.1, 0.001, 0.01), with_mask=True):
    X, y, mask = data
    estimator = MLPClassifier((3,), max_epochs=2, random_state=0)
    return focus_curve(estimator, name, values, X, y, mask=mask if with_mask else None, cv=2)


def test_focus_lines_bands_and_image(data):
    curve = make_curve(data)
    display = FocusCurveDisplay.from_curve(curve, profile=1)
    order = np.argsort(curve.param_range)
    for name, values in (
        ("test", curve.test_scores),
        ("train", curve.train_scores),
        ("mass", curve.mass),
    ):
        x, y = display.lines_[name].get_data()
        np.testing.assert_array_equal(x, [0.001, 0.01, 0.1])
        np.testing.assert_allclose(y, values.mean(1)[order])
        corners = display.bands_[name].get_paths()[0].vertices
        assert corners[:, 1].min() == pytest.approx(values.min())
        assert corners[:, 1].max() == pytest.approx(values.max())
    assert set(display.lines_["cells"].get_ydata()) == {2 / 12}
    assert set(display.lines_["input"].get_ydata()) == {curve.mass_chance.input}
    image = np.asarray(display.image_.get_array())
    assert image.shape == (4, 4)  # four columns of a sample; the input and three values
    np.testing.assert_allclose(image[:, 0], curve.input_profiles[1])
    np.testing.assert_allclose(image[:, 1:].T, curve.profiles[1].mean(1))
    n_beyond = (image > display.image_.get_clim()[1]).sum()
    label = display.image_.colorbar.ax.get_ylabel()
    assert f"{n_beyond} of {image.size} values beyond are clipped" in label
    assert len(display.axes_) == 3
    assert display.axes_[0].get_xscale() == display.axes_[1].get_xscale() == "log"
    labels = [label.get_text() for label in display.axes_[1].get_xticklabels()]
    assert labels == ["0.001", "0.01", "0.1"]
    assert display.axes_[0].get_ylabel() == "accuracy"
    assert display.axes_[1].get_xlabel() == "lr"
    assert display.axes_[2].get_ylabel().startswith("column")
    display.figure_.canvas.draw()


@pytest.mark.parametrize(
    ("name", "values", "scale"),
    [("lr", [0.01, 0.1], "linear"), ("weight_decay", [0.0, 1.0], "linear")],
)
def test_focus_axis_is_logarithmic_only_for_a_wide_positive_range(name, values, scale, data):
    assert FocusCurveDisplay(make_curve(data, name, values)).plot().axes_[0].get_xscale() == scale


@pytest.mark.parametrize(
    ("name", "values"),
    [("activation", ["tanh", "relu"]), ("bias", [True, False]), ("class_weight", [None, {0: 2}])],
)
def test_focus_of_values_that_are_no_numbers(name, values, data):
    display = FocusCurveDisplay.from_curve(make_curve(data, name, values))
    labels = [label.get_text() for label in display.axes_[1].get_xticklabels()]
    assert labels == [str(value) for value in values]
    np.testing.assert_array_equal(display.lines_["mass"].get_xdata(), [0, 1])
    assert display.lines_["mass"].get_linestyle() == "None"  # there is nothing between them
    assert display.image_ is None


def test_focus_on_given_axes(data):
    curve = make_curve(data)
    figure, ax = plt.subplots()
    display = FocusCurveDisplay.from_curve(curve, ax=ax)
    assert display.figure_ is figure
    assert len(display.axes_) == 2
    assert not ax.axison
    _, axes = plt.subplots(3)
    display = FocusCurveDisplay.from_curve(curve, ax=axes, profile=0)
    assert list(display.axes_) == list(axes)
    alone = make_curve(data, with_mask=False)
    _, ax = plt.subplots()
    assert list(FocusCurveDisplay.from_curve(alone, ax=ax).axes_) == [ax]
    assert list(FocusCurveDisplay.from_curve(alone).lines_) == ["train", "test"]
    with pytest.raises(
        ValueError, match=r"array of 2, one for each .* \['score', 'mass'\], got 3"
    ):
        FocusCurveDisplay.from_curve(curve, ax=axes)
    for profile in (2, -1, "row"):
        with pytest.raises(ValueError, match=f"profile must be .* 0 to 1, got {profile!r}"):
            FocusCurveDisplay.from_curve(curve, profile=profile)


def test_focus_from_estimator(data):
    X, y, mask = data
    estimator = MLPClassifier((3,), max_epochs=2, random_state=0)
    display = FocusCurveDisplay.from_estimator(
        estimator, "lr", [0.1, 0.001, 0.01], X, y, mask=mask, cv=2, profile=0
    )
    np.testing.assert_array_equal(display.curve.mass, make_curve(data).mass)
    assert display.image_ is not None
