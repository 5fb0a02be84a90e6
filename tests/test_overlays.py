"""Marks over maps, and the pictures of the skill map and the artifact map that need them."""

import matplotlib as mpl
import numpy as np
import pytest

from sklrp._frame import make_frame
from sklrp.diagnostics.findings import Finding
from sklrp.diagnostics.graded_maps import say_grades, say_skill
from sklrp.drawing.overlays import MOST_DOTS, Overlay, draw_overlays, thin
from sklrp.drawing.picture import draw_map
from sklrp.geo import composites
from sklrp.geo.places import Grid
from sklrp.plotting import ArtifactDisplay, RelevanceDisplay

mpl.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")
ndimage = pytest.importorskip("scipy.ndimage")
LAT, LON = np.array([-10.0, 0.0, 10.0]), np.array([170.0, 180.0, 190.0, 200.0])
MASK = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=bool)
PLACES = {(170, -10), (200, -10), (180, 10)}  # longitude and latitude of its cells


@pytest.fixture(autouse=True)
def closed_figures():
    """Draw and close the figures of a test."""
    yield
    for number in plt.get_fignums():
        plt.figure(number).draw_without_rendering()  # what cannot be drawn shows here
    plt.close("all")


@pytest.fixture(scope="module")
def maps():
    return np.random.default_rng(0).normal(size=(2, 3, 4))


def places(dots):
    return {(x % 360, y) for x, y in zip(dots.get_xdata(), dots.get_ydata(), strict=True)}


def middles(lines):
    """Return the places of the cells that lines cross from corner to corner."""
    found = [segment.mean(axis=0) for segment in lines.get_segments()]
    return {(x % 360, y) for x, y in found}


def blobs(shape, seed=0, above=1.0):
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 3)
    return field > above * field.std()


def overlay(style, mask=MASK, label="as given"):
    return Overlay(style, mask, label)


# Thinning


def test_small_grids_keep_every_dot():
    mask = blobs((20, 20), above=0)
    np.testing.assert_array_equal(thin(mask), mask)


@pytest.mark.parametrize("shape", [(89, 180), (361, 720), (1, 4000)])
def test_large_grids_are_thinned_regularly(shape):
    full = np.ones(shape, dtype=bool)
    kept = thin(full)
    assert (40 if shape[0] == 1 else 800) < kept.sum() <= MOST_DOTS
    columns = np.unique(np.nonzero(kept)[1])
    assert len(set(np.diff(columns))) == 1
    assert np.diff(columns)[0] >= shape[1] / 64
    mask = blobs(shape) if shape[0] > 1 else full
    assert not (thin(mask) & ~mask).any()


def test_density_of_dots_says_how_many_cells_are_meant():
    mask = np.random.default_rng(0).random((89, 180)) < 0.6  # one patch, with few beside it
    assert thin(mask).sum() == pytest.approx(mask.sum() / 9, rel=0.1)


def test_no_patch_is_lost():
    mask = blobs((89, 180), above=2)
    alone = [(0, 0), (88, 179), (1, 90), (45, 3)]
    for cell in alone:
        mask[cell] = True
    patches, n = ndimage.label(mask, np.ones((3, 3)))
    kept = thin(mask)
    assert set(np.unique(patches[kept])) == set(range(1, n + 1))
    assert kept.sum() < mask.sum() / 4


def test_many_patches_stay_within_the_bound():
    mask = np.zeros((200, 200), dtype=bool)
    mask[::2, ::2] = True  # ten thousand patches
    assert thin(mask).sum() <= MOST_DOTS


# Where marks are


@pytest.mark.sweep(1)
@pytest.mark.parametrize("rows", [slice(None), slice(None, None, -1)], ids=["rising", "falling"])
def test_dots_are_in_degrees_and_north_is_up(maps, rows):
    display = RelevanceDisplay.from_relevance(
        maps[:, rows], lat=LAT[rows], lon=LON, stipple=MASK[rows], hatch=MASK[rows]
    )
    for ax, artists in zip(display.axes_.ravel(), display.artists_, strict=True):
        marks = artists["marks"]
        assert places(marks["stipple"]) == PLACES
        assert ax.get_ylim() == (-15, 15)
        assert middles(marks["hatch"]) == PLACES
    assert display.notes_ == ["dots: as given; hatched: as given"]


@pytest.mark.parametrize(
    ("lat", "flip"), [(LAT, False), (LAT[::-1], False), (None, False), (LAT, True)]
)
def test_hatching_rises_and_joins(lat, flip):
    grid = None if lat is None else Grid((3, 4), lat, LON[::-1] if flip else LON)
    frame, ax = make_frame((3, 4), grid=grid), plt.figure().subplots()
    full = np.ones((1, 3, 4))
    drawn = draw_map(ax, frame, full, limit=1, overlays=[overlay("hatch", full[0] > 0)])
    lines = drawn["marks"]["hatch"].get_segments()
    ends = [ax.transData.transform(line) for line in lines]
    assert len(lines) == 2 * 12  # ink, and light below it
    for (x0, y0), (x1, y1) in ends:
        assert (x1 - x0) * (y1 - y0) > 0
        assert abs(x1 - x0) == pytest.approx(abs(y1 - y0), rel=0.01)  # a cell, corner to corner
    crossed = draw_overlays(ax, frame, [overlay("crosshatch", full[0] > 0)])["crosshatch"]
    assert len(crossed.get_segments()) == 2 * 2 * 12


def test_limits_of_axes_stay(maps):
    frame, ax = make_frame((3, 4)), plt.figure().subplots()
    draw_map(ax, frame, maps[:1], limit=1)
    before = ax.get_xlim(), ax.get_ylim()
    marks = [overlay(style) for style in ("stipple", "hatch", "crosshatch", "outline")]
    drawn = draw_overlays(ax, frame, marks)
    assert (ax.get_xlim(), ax.get_ylim()) == before
    assert set(drawn) == {"stipple", "hatch", "crosshatch", "outline"}
    assert draw_overlays(ax, frame, [overlay("stipple", np.zeros((3, 4), bool))]) == {}


def test_steps_and_bars_are_marked():
    mask = np.arange(6) >= 4
    ax = plt.figure().subplots()
    frame = make_frame((6, 1), layout="sequence", steps=np.arange(6) * 10.0)
    drawn = draw_map(
        ax,
        frame,
        np.arange(6.0)[np.newaxis],
        limit=5,
        overlays=[overlay(style, mask) for style in ("stipple", "hatch", "outline")],
    )["marks"]
    np.testing.assert_array_equal(drawn["stipple"].get_xdata(), [40, 50])
    x = np.concatenate(drawn["hatch"].get_segments())[:, 0]
    assert (x.min(), x.max()) == (35, 55)
    x = np.concatenate(drawn["outline"].get_segments())[:, 0]
    assert (x.min(), x.max()) == (35, 55)
    ax = plt.figure().subplots()
    frame = make_frame((6,), layout="table", names=list("abcdef"))
    relevance = np.array([[1.0, -2, 3, -4, -5, 6]])
    marks = [overlay("stipple", mask), overlay("hatch", ~mask), overlay("outline", mask)]
    drawn = draw_map(ax, frame, relevance, limit=6, overlays=marks)
    assert [label.get_text() for label in ax.get_yticklabels()] == list("fedcba")
    assert [star.xy for star in drawn["marks"]["stipple"]] == [(6, 0.0), (-5, 1.0)]
    assert [star.get_ha() for star in drawn["marks"]["stipple"]] == ["left", "right"]
    assert [bar.get_hatch() for bar in drawn["bars"]] == [None, None, *["////"] * 4]


# Masks and findings given to RelevanceDisplay


def test_land_and_channels():
    land = np.zeros((3, 4), dtype=bool)
    land[0, 0] = True
    relevance = np.ones((1, 2, 3, 4))
    mask = np.zeros((2, 3, 4), dtype=bool)
    mask[0, 0, 0] = mask[1, 2, 1] = True  # on land; in the second channel only
    display = RelevanceDisplay.from_relevance(relevance, lat=LAT, lon=LON, land=land, stipple=mask)
    assert places(display.artists_[0]["marks"]["stipple"]) == {(180, 10)}


def test_masks_for_each_panel_and_view(maps):
    masks = np.stack([MASK, ~MASK])
    display = RelevanceDisplay.from_relevance(maps, stipple=masks)
    counts = [len(a["marks"]["stipple"].get_xdata()) for a in display.artists_]
    assert counts == [3, 9]
    display = RelevanceDisplay.from_relevance(
        {"one": maps, "other": maps}, stipple={"one": MASK, "other": ~MASK}
    )
    counts = [len(a["marks"]["stipple"].get_xdata()) for a in display.artists_]
    assert counts == [3, 9, 3, 9]


def test_findings_are_put_in_place(maps):
    xr = pytest.importorskip("xarray")
    coords = {"time": [0, 1], "lat": LAT, "lon": LON}
    field = xr.DataArray(maps, coords, dims=("time", "lat", "lon"))
    # A finding on rows of the ocean cells, north first.
    ocean = np.ones((3, 4), dtype=bool)
    ocean[0, 2] = False
    frame = make_frame((11,), grid=Grid((3, 4), LAT[::-1], LON, ~ocean, ocean))
    true = MASK[::-1][ocean]
    finding = Finding(name="skill_map", frame=frame, true_fdr=true, misleading=~true)
    display = RelevanceDisplay.from_relevance(field, stipple=finding, hatch=finding, kind="mean")
    assert places(display.artists_[0]["marks"]["stipple"]) == PLACES
    assert display.notes_ == ["dots: carries skill (false discovery rate); hatched: misleading"]
    display = RelevanceDisplay.from_relevance(composites(field, [0, 1], [0, 1]), stipple=finding)
    assert [places(a["marks"]["stipple"]) for a in display.artists_] == [PLACES, PLACES]
    together = ", of all maps together"  # a class has no cells of its own
    assert f"dots: carries skill (false discovery rate){together}" in display.notes_[0]
    grades = Finding(name="artifact_map", frame=frame, fact=true, unsupported=~true & False)
    display = RelevanceDisplay.from_relevance(field, stipple=grades, hatch=grades)
    assert display.notes_ == [f"dots: fact{together}"]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"stipple": MASK.T}, r"stipple has the shape \(4, 3\)"),
        ({"hatch": MASK * 2.5}, "hatch"),
        ({"stipple": np.stack([MASK] * 3)}, "stipple has 3 masks, but there are 2 panels"),
        (
            {"stipple": {"a": MASK}},
            r"stipple has entries for \['a'\] in a dict, but the panels are of",
        ),
        ({"stipple": Finding(name="fading")}, "takes a finding that has fact or true_fdr.*fading"),
        ({"spread": MASK[0]}, r"spread has the shape \(4,\), but must have \(3, 4\)"),
        ({"spread": -MASK.astype(float)}, "spread has negative values"),
    ],
)
def test_malformed_marks(maps, params, message):
    with pytest.raises(ValueError, match=message):
        RelevanceDisplay.from_relevance(maps, **params)


def test_findings_of_other_samples_are_refused(maps):
    finding = Finding(name="artifact_map", frame=make_frame((2, 2)), fact=MASK[:2, :2])
    with pytest.raises(ValueError, match=r"about samples of shape \(2, 2\), but maps of \(3, 4\)"):
        RelevanceDisplay.from_relevance(maps, stipple=finding)
    with pytest.raises(ValueError, match="spread is drawn of fields"):
        RelevanceDisplay.from_relevance(maps[:, 0], spread=np.ones(4))


def test_spread_has_a_column_on_the_right(maps):
    spread = np.stack([np.full((3, 4), 2.0), np.full((3, 4), 4.0)])
    display = RelevanceDisplay.from_relevance(maps, maps, spread=spread, show_input=True)
    assert display.axes_.shape == (2, 3)
    images = [artists["image"] for artists in display.artists_]
    np.testing.assert_array_equal(images[1].get_array(), maps[0])
    np.testing.assert_array_equal(images[2].get_array(), spread[0])
    np.testing.assert_array_equal(images[5].get_array(), spread[1])
    assert images[2].get_clim() == images[5].get_clim() == (0, 4)
    assert display.axes_[1, 2].get_title().startswith("spread over seeds")
    assert display.colorbars_[-2].ax.get_ylabel() == "input"


# Pictures of findings


def skill_finding(skill, true, frame, **entries):
    entries = {
        "true_fdr": true, "misleading": np.zeros_like(true), "alpha": 0.05, "p_skill": 0.001,
        "detectable": np.full(skill.shape, 0.1), **entries,
    }  # fmt: skip
    return Finding(
        name="skill_map", verdict="fact", skill=skill, true=true, frame=frame, **entries
    )


def test_skill_map_is_drawn(maps):
    land = np.zeros((3, 4), dtype=bool)
    land[1, 1] = True
    frame = make_frame((3, 4), grid=Grid((3, 4), LAT, LON, land))
    misleading = np.zeros((3, 4), dtype=bool)
    misleading[1, 2] = True
    found = skill_finding(maps[0], MASK, frame, misleading=misleading)
    display = found.plot()
    (ax,), artists = display.axes_, display.artists_
    assert ax.get_title() == "3 of 11 cells carry the skill (family-wise p\u00a0≤\u00a0.05)"
    limit = np.abs(maps[0][~land]).max()
    assert artists["skill"].get_clim() == (-limit, limit)
    assert places(artists["marks"]["stipple"]) == PLACES
    assert middles(artists["marks"]["crosshatch"]) == {(190, 0)}
    assert [t.get_text() for t in display.figure_.legends[0].get_texts()] == [
        "carries skill (false discoveries ≤ 5%) (3)",
        "carries skill (family-wise p\u00a0≤\u00a0.05) (3)",
        "misleading: speaks against the truth (1)",
    ]
    axes = plt.figure().subplots()
    assert found.plot(ax=axes).axes_[0] is axes
    assert axes.get_legend() is not None


def test_sentences_of_skill(maps):
    frame, none = make_frame((3, 4)), np.zeros((3, 4), dtype=bool)
    held = skill_finding(maps[0], none, frame)
    assert say_skill(held, frame).startswith("The skill is real, but none of 12 cells is told")
    void = skill_finding(maps[0], none, frame, p_skill=0.42)
    assert say_skill(void, frame) == (
        "No skill beyond that of permuted labels (p = .42): none of 12 cells is told from none"
    )


def test_outputs_have_a_panel_each(maps):
    frame = make_frame((3, 4))
    skill, true = np.arange(8.0)[:, None, None] * maps[:1], np.stack([MASK] * 8)
    display = skill_finding(skill, true, frame).plot()
    assert len(display.axes_) == 6
    np.testing.assert_array_equal(display.artists_["skill5"].get_array(), skill[5])
    assert display.axes_[5].get_title().replace("\n", " ").startswith("output 5: 3 of 12 cells")
    assert display.figure_.get_suptitle() == "The first 6 of 8 outputs"


def graded(mean, skill, frame=None, **entries):
    none = np.zeros(mean.shape, dtype=bool)
    names = ("fact", "missed", "unsupported", "misleading")
    masks = {name: none.copy() for name in names}
    for k, name in enumerate(names):
        masks[name].flat[k :: len(names) + 1] = True
    background = ~np.any(list(masks.values()), axis=0)
    entries = {
        "verdict": "fact", "mass": 0.6, "input_mass": 0.1, "null_mass": np.array([0.05, 0.09]),
        "way": 0.8, "rival": "input", "power": 0.9, "causes": {}, **masks, **entries,
    }  # fmt: skip
    if frame is not None:
        entries["frame"] = frame
    return Finding(name="artifact_map", mean=mean, skill=skill, background=background, **entries)


def test_artifact_map_is_drawn(maps):
    frame = make_frame((3, 4), grid=Grid((3, 4), LAT, LON))
    found = graded(maps[0], maps[1], frame)
    display = ArtifactDisplay.from_finding(found)
    shown, skill, mass = display.axes_
    artists, marks = display.artists_, display.artists_["marks"]
    np.testing.assert_array_equal(artists["mean"].get_array(), maps[0])
    np.testing.assert_array_equal(artists["skill"].get_array(), maps[1])
    assert shown.get_ylim() == skill.get_ylim() == (-15, 15)

    def cells(mask):
        return {(LON[j], LAT[i]) for i, j in np.argwhere(mask)}

    assert places(marks["stipple"]) == cells(found.fact)
    for style, mask in (("hatch", found.unsupported), ("crosshatch", found.misleading)):
        assert middles(marks[style]) == cells(mask)
    np.testing.assert_array_equal(artists["mass"].get_xdata(), [0.6])
    np.testing.assert_array_equal(artists["input_mass"].get_xdata(), [0.1])
    np.testing.assert_array_equal(artists["null_mass"].get_xdata(), [0.05, 0.09])
    assert mass.get_xlim()[0] == 0
    assert mass.get_xlim()[1] > 0.6
    said = display.figure_.get_suptitle().replace("\n", " ")
    assert said == (
        "All cells weighed by skill, the map is 0.80 of the way from the input to the "
        "network's contributions (true: fact). 3 of 6 cells found to carry skill stand out "
        "in the map. The 6 hold 60\u00a0% of the map, 10\u00a0% of the input and 5.0\u00a0% to "
        "9.0\u00a0% of untrained networks' maps"
    )
    adds = np.maximum(maps[1], 0)  # what takes from the skill has no part in the share
    share = 100 * adds[found.fact | found.missed].sum() / adds.sum()
    assert f"{share:.0f}\u00a0% of positive skill outlined" in skill.get_title().replace("\n", " ")
    axes = plt.figure().subplots(1, 3)
    assert ArtifactDisplay.from_finding(found, ax=axes).axes_[2] is axes[2]
    with pytest.raises(ValueError, match="ax must hold 3 Axes, one for each panel, got 2"):
        ArtifactDisplay.from_finding(found, ax=axes[:2])


@pytest.mark.sweep(1)
@pytest.mark.parametrize("layout", ["sequence", "table", "image", "2 degrees"])
def test_grades_of_every_layout(layout):
    shape = {"sequence": (30, 1), "table": (30,), "image": (8, 8), "2 degrees": (89, 180)}[layout]
    values = np.random.default_rng(0).normal(size=shape)
    found = graded(values, values**2, null_mass=np.array([]))
    display = ArtifactDisplay.from_finding(found)
    assert "null_mass" not in display.artists_
    marks = display.artists_["marks"]
    assert set(marks) == {"stipple", "hatch", "outline", "crosshatch"}
    if layout == "table":
        shown = np.argsort(-np.abs(values), kind="stable")[:20]
        assert len(marks["stipple"]) == found.fact[shown].sum()
        assert display.artists_["skill"][0].get_width() == values[shown[0]] ** 2
    if layout == "2 degrees":
        assert len(marks["stipple"].get_xdata()) <= MOST_DOTS


def test_sentences_of_grades():
    frame, values = make_frame((3, 4)), np.ones((3, 4))
    none = np.zeros((3, 4), dtype=bool)
    found = graded(values, values, frame, fact=none, missed=none)
    assert say_grades(found, frame).endswith("so the map cannot be graded")
    found = graded(values, values, frame, null_mass=[], mass=0.996)
    assert "hold 100\u00a0% of the map and 10\u00a0% of the input" in say_grades(found, frame)
    assert "untrained networks" not in say_grades(found, frame)
    assert "way" not in say_grades(graded(values, values, frame, by_mass=True), frame)
    assert "way" not in say_grades(graded(values, values, frame, way=np.nan), frame)


def test_causes_are_counted(maps):
    found = graded(maps[0], maps[1])
    found["causes"] = {"suppressor": ~found.fact, "border": found.fact}  # of other cells too
    texts = [t.get_text() for t in found.plot().figure_.legends[0].get_texts()]
    n = found.unsupported.sum()
    assert f"used, alone it says nothing ({n}): {n} suppressor" in texts


@pytest.mark.sweep(1)
@pytest.mark.parametrize("layout", ["field", "sequence", "table"])
def test_stability_has_its_spread_in_a_second_panel(layout):
    shape = {"field": (3, 4), "sequence": (12, 1), "table": (12,)}[layout]
    frame = make_frame(shape, grid=Grid((3, 4), LAT, LON) if layout == "field" else None)
    networks = np.random.default_rng(0).normal(size=(5, *shape))
    mean, spread = networks.mean(axis=0), networks.std(axis=0, ddof=1)
    common = MASK.reshape(shape)
    found = Finding(
        name="stable", frame=frame, maps=networks, mean=mean, spread=spread, stability=mean,
        common=common, own=np.roll(common, 1), share=0.4, skill=np.ones(5),
    )  # fmt: skip
    display = found.plot()
    assert len(display.axes_) == 2
    titles = [ax.get_title().replace("\n", " ") for ax in display.axes_]
    assert titles == [
        "Mean of 5 networks: 40\u00a0% of this map is common",
        "Spread over 5 networks",
    ]
    if layout == "table":
        first = display.axes_[0].get_yticklabels()[0].get_text()
        assert display.artists_["spread"][0].get_width() == spread[int(first.split()[1])]
        return
    np.testing.assert_array_equal(display.artists_["mean"].get_array().ravel(), mean.ravel())
    np.testing.assert_array_equal(display.artists_["spread"].get_array().ravel(), spread.ravel())
    assert display.artists_["spread"].get_clim() == (0, spread.max())
    assert len(display.artists_["marks"]["stipple"].get_xdata()) == 3


@pytest.mark.parametrize(("null", "n_rows"), [(np.linspace(10, 11, 30), 2), ([10.5], 2), ([], 1)])
def test_a_statistic_is_beside_its_null(null, n_rows):
    finding = Finding(
        name="readout", verdict="undecided", statistic=12.0, interval=(11.0, 13.0), null=null,
        reading="is what it is",
    )  # fmt: skip
    display = finding.plot()
    (ax,) = display.axes_
    np.testing.assert_array_equal(display.artists_["statistic"].get_xdata(), [12])
    if len(null):
        np.testing.assert_array_equal(display.artists_["null"].get_xdata(), null)
    low, high = ax.get_xlim()
    assert 9 < low < min([*null, 11])
    assert 13 < high < 14
    assert len(ax.get_yticklabels()) == n_rows
    assert ax.get_xlabel() == "12 [11, 13]: is what it is"
