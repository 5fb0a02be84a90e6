"""
With the tropics removed
========================

El Niño and La Niña are made out by the temperature of the tropical Pacific, and a network that
sees it can hardly go wrong. What if it must not see it? The cells within 15 degrees of the equator
are set missing, and with them the Niño 3.4 box that the labels are made from. What is left is
teleconnections: what the tropics do to the ocean elsewhere. Does a network find them, are its
maps of more than noise, and where do they point?

Fields are xarray's from the file to the map: land and tropics are NaN, `sklrp.geo.GridVectorizer`
leaves them out, and `sklrp.geo.explain` returns relevance with the coordinates of the data.
"""

# %%
# Data
# ----
# Real anomalies of 35 Pacific winters (November to March), 1962 to 2011. The index is taken from
# the whole field before the tropics go.

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from eofs.examples import example_data_path
from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklrp import MLPClassifier
from sklrp.datasets import load_enso
from sklrp.diagnostics import diagnose
from sklrp.geo import (
    GridVectorizer,
    box_mask,
    box_share,
    composites,
    explain,
    pattern_correlation,
)

enso = load_enso(example_data_path("sst_ndjfm_anom.nc"), base_period=None, normalize=False)
sst, y = enso.sst, enso.target_names[enso.target]
removed = sst.where(abs(sst.latitude) > 15)
classes = np.unique(y)
print(f"{len(y)} winters: " + ", ".join(f"{np.sum(y == c)} {c}" for c in classes))
print(f"{int(sst[0].count())} ocean cells, {int(removed[0].count())} with the tropics removed")

# %%
# Does it still tell?
# -------------------
# Balanced accuracy of five-fold cross-validation. The network runs with five seeds, each with
# folds of its own; its null is the same with 40 permutations of the labels.

network = make_pipeline(
    GridVectorizer(), StandardScaler(), MLPClassifier((16,), max_epochs=40, input_noise=0.5)
)
linear = make_pipeline(GridVectorizer(), StandardScaler(), LogisticRegression(C=0.01))
dummy = make_pipeline(GridVectorizer(), DummyClassifier(strategy="uniform"))


def cross_validate(model, fields, labels, seed):
    """Return the balanced accuracy, the predictions and the models of each fold."""
    predicted = np.empty_like(labels)
    fitted = []
    cv = StratifiedKFold(n_splits=5, shuffle=True, random_state=seed)
    for train, test in cv.split(fields, labels):
        fold = clone(model)
        if "random_state" in fold[-1].get_params():
            fold[-1].set_params(random_state=seed)
        predicted[test] = fold.fit(fields[train], labels[train]).predict(fields[test])
        fitted.append((fold, test))
    return balanced_accuracy_score(labels, predicted), predicted, fitted


seeds = range(5)
runs = {
    (name, where): [cross_validate(model, fields, y, seed) for seed in seeds]
    for name, model in [("dummy", dummy), ("logistic regression", linear), ("MLP", network)]
    for where, fields in [("all", sst), ("removed", removed)]
}
print("\nbalanced accuracy, mean ± standard deviation over five seeds:")
print(f"  {'':<20}  whole field    tropics removed")
for name in ("dummy", "logistic regression", "MLP"):
    cells = [np.array([run[0] for run in runs[name, where]]) for where in ("all", "removed")]
    print(f"  {name:<20}" + "".join(f"  {v.mean():.3f} ± {v.std():.3f}" for v in cells))
rng = np.random.default_rng(0)
null = np.array([cross_validate(network, removed, rng.permutation(y), i)[0] for i in range(40)])
score = min(run[0] for run in runs["MLP", "removed"])
p = (1 + np.sum(null >= score)) / (1 + len(null))
print(
    f"  MLP, tropics removed, permuted labels: {null.mean():.3f} ± {null.std():.3f}, "
    f"largest {null.max():.3f};\n"
    f"  the lowest of the five seeds, {score:.3f}, has p = {p:.3f}"
)

# %%
# Where is the evidence?
# ----------------------
# Each fold explains its test winters under the epsilon rule, as fields on the grid of the data. A
# map is divided by the sum of its absolute values, so that every winter counts the same, and
# `sklrp.geo.composites` averages over the winters that were predicted correctly.

maps, means = {}, {}
for where, fields in [("all", sst), ("removed", removed)]:
    for seed, (_, predicted, fitted) in zip(seeds, runs["MLP", where], strict=True):
        parts = [explain(fold, fields[test], rule="epsilon") for fold, test in fitted]
        relevance = xr.concat(parts, "time").sortby("time")
        relevance = relevance / abs(relevance).sum(("latitude", "longitude"))
        means[where, seed] = composites(relevance, y, predicted)["mean"]
    maps[where] = xr.concat([means[where, seed] for seed in seeds], "seed")

# %%
# The share of the positive relevance in a region, beside the region's share of the cells that the
# network sees, which is what a map that knows nothing would have.

regions = {
    "Kuroshio and its extension": {"lat": (25, 45), "lon": (120, 175)},
    "central North Pacific": {"lat": (25, 45), "lon": (175, 220)},
    "coast of North America": {"lat": (25, 60), "lon": (220, 260)},
    "northern subtropics": {"lat": (15, 25), "lon": (120, 260)},
    "southern subtropics": {"lat": (-25, -15), "lon": (140, 265)},
}
n_cells = removed[0].notnull().sum()
print("\nshare of the positive relevance, tropics removed, mean (range) over five seeds:")
print(f"  {'':<28}{'cells':>6}" + "".join(f"{c:>26}" for c in classes))
for name, box in regions.items():
    cells = (removed[0].notnull() & box_mask(removed, **box)).sum() / n_cells
    line = f"  {name:<28}{float(cells):6.1%}"
    for c in classes:
        share = box_share(maps["removed"].sel(target=c), **box).values
        line += f"{share.mean():10.1%} ({share.min():.1%}–{share.max():.1%})"
    print(line)
others = maps["removed"].rename(seed="other")
alike = pattern_correlation(maps["removed"], others, weights=None)
pairs = np.triu_indices(len(seeds), 1)
print("\ncorrelation of the mean maps of two seeds, mean (range) over pairs:")
for c in classes:
    r = alike.sel(target=c).values[pairs]
    print(f"  {c:<10} {r.mean():.2f} ({r.min():.2f} to {r.max():.2f})")

# %%
# Fact or artifact?
# -----------------
# `diagnose` on winters that one network has not seen: it is trained on every other winter. Cells
# move the score as the map says (*used*), and untrained networks have other maps. But 17 winters
# are too few to tell the place of the skill, so that the map cannot be called *true*.

fitted = clone(network).set_params(mlpclassifier__random_state=0).fit(removed[::2], y[::2])
report = diagnose(
    fitted, removed[1::2], y[1::2], X_train=removed[::2], rule="epsilon", random_state=0
)
print(f"\n{report}")

# %%
# The maps
# --------
# Means over five seeds of the winters that were predicted correctly. Red raises the score of
# the class, blue lowers it; grey cells are land or were removed. All panels share their limits.

titles = {"all": "whole field", "removed": "tropics removed"}
limit = max(float(abs(fields.mean("seed")).max()) for fields in maps.values())
fig, axes = plt.subplots(2, 2, figsize=(11, 5.6), layout="constrained", sharex=True, sharey=True)
for row, c in zip(axes, classes, strict=True):
    for ax, (where, title) in zip(row, titles.items(), strict=True):
        field = maps[where].sel(target=c).mean("seed")
        mesh = ax.pcolormesh(
            field.longitude, field.latitude, field, cmap="RdBu_r", vmin=-limit, vmax=limit
        )
        ax.set_facecolor("0.8")
        ax.set_title(f"{c}, {title}")
        ax.set_yticks([-20, 0, 20, 40, 60], ["20°S", "0°", "20°N", "40°N", "60°N"])
        ax.set_xticks([120, 150, 180, 210, 240], ["120°E", "150°E", "180°", "150°W", "120°W"])
bar = fig.colorbar(mesh, ax=axes)
bar.set_label("mean share of a map's |relevance|")
fig.savefig("tropics_removed.png", dpi=110)
print(f"\nwrote {Path('tropics_removed.png').resolve()}")
plt.show()
