"""What pictures say of themselves: class, rule, sum and units; channels, columns, coasts."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from matplotlib import cbook
from matplotlib.text import Text
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.utils import Bunch

import sklrp
from sklrp import CNNClassifier, ESNClassifier, LSTMClassifier, MLPClassifier, MLPRegressor
from sklrp.diagnostics import skill_map
from sklrp.drawing import captions
from sklrp.geo import GridVectorizer, composites
from sklrp.plotting import PixelFlippingDisplay, RelevanceDisplay

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 2, 6, 5))
Y = np.where(X[:, 0, 2, 2] > 0, "warm", "cold")
TABLE = pd.DataFrame(
    {
        "temp": RNG.normal(size=40),
        "soil": RNG.choice(["clay", "sand", "loam"], 40),
        "soil_2": RNG.choice(["clay", "sand"], 40),
        "rain": RNG.normal(size=40),
    }
)


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def clf():
    return CNNClassifier((3,), input_shape=(2, 6, 5), max_epochs=30, lr=0.01, random_state=0).fit(
        X, Y
    )


def below(display, row=0, column=0):
    return display.axes_[row, column].get_xlabel().replace("\n", " ").replace("−", "-")


def sum_in(text):
    return float(re.search(r"sum (\S+)", text)[1])


def test_a_line_says_class_rule_sum_and_units(clf):
    display = RelevanceDisplay.from_estimator(clf, X[:3])
    maps = clf.explain(X[:3])
    for i, label in enumerate(clf.predict(X[:3])):
        said = below(display, i)
        assert re.fullmatch(rf"for {label}, rule auto \(z⁺, ε\), sum \S+ logits", said)
        assert sum_in(said) == pytest.approx(maps[i].sum(), rel=6e-3)
        assert len(said) < 60


def test_means_one_target_and_several_rules_say_theirs(clf):
    display = RelevanceDisplay.from_estimator(
        clf, X, kind="mean", target="cold", rule=["epsilon", "flat"]
    )
    for column, rule in enumerate(("epsilon", "flat")):
        said = below(display, 0, column)
        assert said.startswith(f"for cold, rule {rule}, mean sum ")
        maps = clf.explain(X, target="cold", rule=rule)
        assert sum_in(said) == pytest.approx(maps.sum() / 40, rel=6e-3)
    assert {*clf.predict(X)} == {"cold", "warm"}
    mixed = RelevanceDisplay.from_estimator(clf, X, kind="mean")
    assert below(mixed).startswith("rule auto")  # of both classes: no one's


def test_sequences_tables_and_regressions_say_it_too():
    series = RNG.normal(size=(30, 12, 2))
    lstm = LSTMClassifier(3, input_shape=(12, 2), max_epochs=2, random_state=0)
    lstm.fit(series, np.arange(30) % 2)
    said = below(RelevanceDisplay.from_estimator(lstm, series[:1]))
    assert re.fullmatch(r"step for class [01], rule auto \(ε\), sum \S+ logits", said)
    rows = TABLE[["temp", "rain"]].to_numpy()
    mlp = MLPRegressor((3,), max_epochs=2, random_state=0).fit(rows, rows[:, 0])
    said = below(RelevanceDisplay.from_estimator(mlp, rows[:1]))
    assert said.startswith(
        "relevance for the output (unit of the prediction); rule auto (ε), sum "
    )
    assert sum_in(said) == pytest.approx(mlp.explain(rows[:1]).sum(), rel=6e-3)


def test_fields_say_what_their_attributes_say():
    values = RNG.normal(size=(2, 3, 4))
    coords = {"time": [0, 1], "lat": [-5.0, 0, 5], "lon": [0.0, 5, 10, 15]}
    attrs = {"long_name": "relevance", "units": "logit", "rule": "gamma", "target": "warm"}
    field = xr.DataArray(values, coords, ("time", "lat", "lon"), attrs=attrs)
    said = below(RelevanceDisplay.from_relevance(field))
    assert said == f"for warm, rule gamma, sum {values[0].sum():.3g} logits"
    bare = below(RelevanceDisplay.from_relevance(values))
    assert bare == f"sum {values[0].sum():.3g}"


def test_contrast_is_offered_where_one_logit_carries_nearly_all():
    class OneLogit(torch.nn.Module):
        def __init__(self, share):
            super().__init__()
            self.dense = torch.nn.Linear(3, 2, bias=False)
            self.dense.weight.data = torch.tensor([[1.0, 0, 0], [-share, 0, 0]])

        def forward(self, x):
            return self.dense(x)

    samples = np.array([[2.0, 1, 1], [-2, 1, 1], [3, 0, 1], [-1, 1, 0]], np.float32)
    for share, contrast, offered in ((0.01, False, True), (0.01, True, False), (1, False, False)):
        display = RelevanceDisplay.from_estimator(OneLogit(share), samples, contrast=contrast)
        hint = "the logit of class 0 carries nearly all: contrast=True explains the difference"
        assert (hint in "; ".join(display.notes_)) == offered
        assert bool(display.hint) == offered


def test_channels_side_by_side(clf):
    both = RelevanceDisplay.from_estimator(clf, X[:2])
    display = RelevanceDisplay.from_estimator(
        clf, X[:2], each_channel=True, feature_names=["sst", "ssh"], show_input=True
    )
    maps = clf.explain(X[:2])
    for row, column in np.ndindex(2, 2):
        panel = display.panels[column][row]
        np.testing.assert_array_equal(panel.mean, maps[row, column])
        assert panel.view == ["sst", "ssh"][column]
        np.testing.assert_array_equal(panel.mean_sample, X[row, column])
    np.testing.assert_allclose(both.panels[0][0].mean, maps[0].sum(axis=0))
    assert "summed over 2 channels" in both.unit
    assert "summed" not in display.unit
    given = RelevanceDisplay.from_relevance(maps, each_channel=True)
    assert [panels[0].view for panels in given.panels] == ["channel 0", "channel 1"]
    with pytest.raises(ValueError, match="feature_names has 3 names, but there are 2 channels"):
        RelevanceDisplay.from_relevance(maps, each_channel=True, feature_names=["a", "b", "c"])
    with pytest.raises(ValueError, match="each_channel=True draws the channels of fields"):
        RelevanceDisplay.from_relevance(maps[:, 0], each_channel=True)


def test_variables_of_a_dataset_have_their_names():
    coords = {"time": np.arange(20), "lat": [-5.0, 0, 5], "lon": [0.0, 5, 10, 15]}
    sst = xr.DataArray(RNG.normal(size=(20, 3, 4)), coords, ("time", "lat", "lon"))
    fields = xr.Dataset({"sst": sst, "ssh": -sst}).where(sst.lat > -5)
    net = MLPClassifier((3,), max_epochs=2, random_state=0)
    model = make_pipeline(sklrp.geo.GridVectorizer(), net).fit(fields, np.arange(20) % 2)
    first = fields.isel(time=[0])
    display = RelevanceDisplay.from_estimator(model, first, each_channel=True)
    expected = sklrp.geo.explain(model, first)
    assert [panels[0].view for panels in display.panels] == ["sst", "ssh"]
    for panels, name in zip(display.panels, expected.data_vars, strict=True):
        np.testing.assert_array_equal(panels[0].mean, expected[name].values[0])


def by_column(model, table):
    """Return what is drawn of each column, and the relevance of each feature."""
    display = RelevanceDisplay.from_estimator(model, table, kind="mean", by_column=True)
    drawn = dict(zip(display.frame.names, display.panels[0][0].mean, strict=True))
    return drawn, sklrp.explain(model, table).mean(axis=0)


def test_relevance_of_what_came_from_one_column_is_summed():
    encode = OneHotEncoder(drop="if_binary", min_frequency=5, handle_unknown="infrequent_if_exist")
    rows = [
        ("kinds", encode, ["soil_2", "soil"]),
        ("bins", KBinsDiscretizer(3, strategy="uniform"), ["rain"]),
        ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["temp", "rain"]),
    ]
    y = (TABLE["temp"] > 0).to_numpy()
    net = MLPClassifier((4,), max_epochs=5, random_state=0)
    model = make_pipeline(ColumnTransformer(rows, sparse_threshold=0), net).fit(TABLE, y)
    names = list(model[0].get_feature_names_out())
    drawn, relevance = by_column(model, TABLE)
    assert list(drawn) == ["soil_2", "soil", "rain", "temp"]
    expected = dict.fromkeys(drawn, 0.0)
    for name, value in zip(names, relevance, strict=True):
        column = name.split("__")[1]
        column = next(c for c in ("soil_2", "soil", "rain", "temp") if column.startswith(c))
        expected[column] += value
    assert sum(name.startswith("kinds__soil_2") for name in names) == 1
    assert drawn == pytest.approx(expected)


def test_columns_that_are_chosen_or_moved_are_followed():
    rows = [("numbers", StandardScaler(), slice("rain", "rain")), ("kinds", OrdinalEncoder(), [1])]
    steps = ColumnTransformer(rows, remainder="passthrough")
    table = TABLE.assign(soil_2=RNG.normal(size=40))
    y = (TABLE["temp"] > 0).to_numpy()
    net = MLPClassifier((4,), max_epochs=2, random_state=0)
    model = make_pipeline(steps, SelectKBest(k=3), net).fit(table, y)
    drawn, relevance = by_column(model, table)
    order = np.array(["rain", "soil", "temp", "soil_2"])[model[1].get_support()]
    assert drawn == pytest.approx(dict(zip(order, relevance, strict=True)))
    rows = table[["temp", "rain"]].to_numpy()
    plain = make_pipeline(StandardScaler(), net).fit(rows, y)
    assert list(by_column(plain, rows)[0]) == ["column 0", "column 1"]
    mixed = make_pipeline(PCA(2), net).fit(rows, y)
    with pytest.raises(ValueError, match="PCA makes features of several columns"):
        by_column(mixed, rows)


def test_by_column_is_for_tables(clf):
    with pytest.raises(ValueError, match="by_column=True is for tables, but this is <Frame: f"):
        RelevanceDisplay.from_estimator(clf, X[:1], by_column=True)


@pytest.mark.filterwarnings("ignore")  # cartopy tells of what it downloads, or cannot
def test_coasts_and_degrees_on_a_globe():
    crs = pytest.importorskip("cartopy.crs")
    maps = RNG.normal(size=(1, 4, 5))
    places = {"lat": np.linspace(-30, 30, 4), "lon": np.linspace(150, 250, 5)}
    display = RelevanceDisplay.from_relevance(maps, projection=crs.Robinson(180), **places)
    assert isinstance(display.axes_[0, 0].projection, crs.Robinson)


@pytest.mark.parametrize("options", [{"lat": None}, {"ax": True}])
def test_a_projection_needs_degrees_and_makes_its_axes(options):
    places = {"lat": [0, 1], "lon": [0, 1]} if "ax" in options else {}
    ax = plt.subplots()[1] if "ax" in options else None
    with pytest.raises(ValueError, match="projection makes axes for fields in degrees"):
        RelevanceDisplay.from_relevance(np.ones((1, 2, 2)), projection=object(), ax=ax, **places)


# Notebooks


def test_a_plan_in_a_notebook_is_a_table_on_the_left(clf):
    html = sklrp.plan(clf)._repr_html_()
    assert html.count("text-align:left") == html.count("<th") + html.count("<td")
    assert "max-height" in html
    cells = re.findall(r"<t[hd][^>]*>([^<]*)", html)
    assert cells[:3] == ["layer", "type", "rule"]
    assert [cell.split()[0] for cell in cells[3::3]] == [
        line.split()[0] for line in repr(sklrp.plan(clf)).splitlines()[1:]
    ]


def test_dollars_in_names_are_text():
    """Between two of them matplotlib would read mathematics, or fail on what is none."""
    rng = np.random.default_rng(0)
    names = [f"a${i}$^_{{" for i in range(5)]
    X = pd.DataFrame(rng.normal(size=(40, 5)), columns=names)
    y = np.where(X.iloc[:, 0] > 0, "$warm$_^", "$cold$")
    clf = MLPClassifier((4,), max_epochs=2, random_state=0).fit(X, y)
    curves = {
        f"rule ${name}$": Bunch(
            fraction=np.linspace(0, 1, 3),
            most=rng.normal(size=(4, 3)),
            least=rng.normal(size=(4, 3)),
        )
        for name in "ab"
    }
    displays = (
        RelevanceDisplay.from_estimator(clf, X, target=y),
        skill_map(clf, X, y, n_permutations=19, random_state=0).plot(),
        PixelFlippingDisplay(curves, score_name="score of $y$").plot(),
    )
    for display in displays:
        texts = [text.get_text() for text in display.figure_.findobj(Text)]
        with_dollars = [text for text in texts if "$" in text]
        assert with_dollars, type(display)
        assert not any(cbook.is_math_text(text) for text in with_dollars)
        display.figure_.canvas.draw()
        plt.close(display.figure_)


def test_each_channel_has_land_of_its_own():
    """Sea-surface temperature has land, the wind above it has none; summed, no cell is missing."""
    lat, lon = np.linspace(-30.0, 30.0, 6), np.linspace(150.0, 250.0, 5)
    dims, places = ("time", "lat", "lon"), {"lat": lat, "lon": lon}
    two = xr.Dataset({"sst": (dims, X[:, 0].copy()), "wind": (dims, X[:, 1])}, places)
    two["sst"][:, :2, 3:] = np.nan
    for data in (two, two.transpose("time", "lon", "lat")):
        pipeline = make_pipeline(
            GridVectorizer(layout="grid"), CNNClassifier((3,), max_epochs=3, random_state=0)
        ).fit(data, Y)
        apart = RelevanceDisplay.from_estimator(pipeline, data[{"time": [0]}], each_channel=True)
        sst, wind = (np.ma.getmaskarray(ax.collections[0].get_array()) for ax in apart.axes_.flat)
        np.testing.assert_array_equal(sst, two["sst"][0].isnull())
        assert not wind.any()
        summed = RelevanceDisplay.from_estimator(pipeline, data[{"time": [0]}])
        assert not np.ma.getmaskarray(summed.axes_[0, 0].collections[0].get_array()).any()


@pytest.mark.parametrize("several", [False, True])
def test_composites_say_rule_and_units(several):
    about = {"long_name": "relevance", "units": "logit", "rule": "epsilon"}
    field = xr.DataArray(X[:, 0], dims=("time", "lat", "lon"), attrs=about)
    maps = xr.Dataset({"sst": field, "wind": 2 * field.assign_attrs(about)}) if several else field
    for name in maps if several else ():
        maps[name].attrs = about
    display = RelevanceDisplay.from_relevance(composites(maps, Y, Y))
    assert below(display).startswith("rule epsilon, sum ")
    assert below(display).endswith(" logits")
    mean = (3 if several else 1) * field.values[Y == "cold"].mean(axis=0).sum()
    assert sum_in(below(display)) == pytest.approx(mean, rel=5e-3)


def test_names_of_variables_make_a_sequence():
    """Twenty steps of six variables could be an image, but images have no names of columns."""
    series = RNG.normal(size=(30, 20, 6))
    esn = ESNClassifier(20, random_state=0).fit(series, np.arange(30) % 2)
    names = [f"station {i}" for i in range(6)]
    display = RelevanceDisplay.from_estimator(esn, series[:1], feature_names=names)
    assert display.layout == "sequence"
    assert [label.get_text() for label in display.axes_[0, 0].get_yticklabels()] == names
    assert all(float(tick).is_integer() for tick in display.axes_[0, 0].get_xticks())
    assert RelevanceDisplay.from_estimator(esn, series[:1]).layout == "field"


@pytest.mark.parametrize("width", [120.0, 200.0, 360.0])
def test_longitudes_are_parts_of_a_circle(width):
    field = xr.DataArray(
        X[:, 0, :, :],
        dims=("time", "lat", "lon"),
        coords={"lat": np.linspace(-30, 30, 6), "lon": np.linspace(0, width * 0.8, 5)},
    )
    ticks = RelevanceDisplay.from_relevance(field[:1]).axes_[0, 0].get_xticks()
    assert np.all(np.diff(ticks) % 6 == 0)


def test_labels_of_skill_maps_stay_inside_the_figure():
    """The colour bar's ticks must not change after the layout has made room for its label."""
    lat, lon = np.arange(60.0, -61.0, -7.5), np.arange(0.0, 360.0, 15.0)
    values = np.random.default_rng(5).normal(size=(60, 17, 24))
    field = xr.DataArray(values, {"time": range(60), "lat": lat, "lon": lon}, name="sst")
    y = 4 * values[:, 7:10, 12:16].mean(axis=(1, 2))
    pipeline = make_pipeline(GridVectorizer(), MLPRegressor((4,), max_epochs=5, random_state=0))
    options = {"block_length": 1, "n_permutations": 19, "random_state": 0}
    figure = skill_map(pipeline.fit(field, y), field, y, **options).plot().figure_
    figure.canvas.draw()
    bar = figure.axes[0].child_axes[0]
    assert bar.yaxis.label.get_window_extent().x1 <= figure.bbox.width


def test_grey_cells_are_land_where_it_is_known():
    maps = np.ones((2, 3, 4))
    land = np.zeros((3, 4), dtype=bool)
    land[0] = True
    assert captions.say_grey([maps], None) == captions.say_grey([maps], ~np.ones_like(land)) == ""
    maps[:, 0] = np.nan
    assert captions.say_grey([maps], land) == "grey:\u00a0land"
    assert captions.say_grey([maps[:1]], None) == "grey:\u00a0missing"
    maps[1, 2, 2] = np.nan
    both = "grey:\u00a0land or missing in at least one map"
    assert captions.say_grey([maps[:1], maps], land) == both
