"""
El Niño or La Niña: what three networks look at
===============================================

Real sea-surface-temperature (SST) anomalies of Pacific winters. Three networks tell El Niño from
La Niña: a multilayer perceptron (MLP), a convolutional network (CNN) and a long short-term memory
(LSTM) that reads the field column by column, from west to east. Cross-validation compares them
with a dummy and with logistic regression; layer-wise relevance propagation (LRP) shows which cells
of the grid their decisions rest on.

The label is made from the Niño 3.4 index, the mean over the 20 cells in the box that the maps
show, so we know what a sound map must point at. And we look at how far maps differ that come from
equally good networks: by architecture, by rule and by the seed of the training.
"""

# %%
# Data
# ----
# Land is missing in the file and comes as zeros, which mean "no anomaly". The anomalies are not
# centred: a scaler in a pipeline standardises each cell, within the training fold.

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklrp import CNNClassifier, LSTMClassifier, MLPClassifier
from sklrp.datasets import load_pacific_sst

sst = load_pacific_sst()
n_winters, n_lat, n_lon = sst.data.shape
X, y = sst.data.reshape(n_winters, -1), sst.target_names[sst.target]
classes = np.unique(y)
print(f"{n_winters} winters: " + ", ".join(f"{np.sum(y == c)} {c}" for c in classes))
print(f"{n_lat} x {n_lon} cells, {sst.land_mask.sum()} of them land")

# %%
# Five models, and the maps of three
# ----------------------------------
# Cross-validation is repeated five times, with other folds and another seed of the networks. Each
# network explains the test winters of its fold, which it has not seen, under the epsilon rule; the
# CNN also under its default, which has z-plus on the convolutions. A map is kept where the
# prediction is right, and scaled so that its absolute values sum to one: a winter with a large
# logit counts no more than another.

networks = {
    "MLP": MLPClassifier((16,), max_epochs=50),
    "CNN": CNNClassifier((8, 16), input_shape=(1, n_lat, n_lon), max_epochs=50),
    "LSTM": LSTMClassifier(16, input_shape=(n_lat, n_lon), sweep="right", max_epochs=50),
}
models = {
    "dummy": DummyClassifier(strategy="uniform"),
    "logistic regression": LogisticRegression(C=0.01),
    **networks,
}
views = [("MLP", "epsilon"), ("CNN", "epsilon"), ("CNN", "auto"), ("LSTM", "epsilon")]
seeds = range(5)
maps = {(view, seed, c): [] for view in views for seed in seeds for c in classes}

print(f"\nbalanced accuracy, 5-fold, mean ± standard deviation over {len(seeds)} seeds:")
for name, model in models.items():
    scores = []
    for seed in seeds:
        predicted = np.empty_like(y)
        cv = StratifiedKFold(n_splits=5, shuffle=True, random_state=seed)
        for train, test in cv.split(X, y):
            pipeline = make_pipeline(StandardScaler(), clone(model))
            pipeline[-1].set_params(random_state=seed)
            pipeline.fit(X[train], y[train])
            predicted[test] = pipeline.predict(X[test])
            right = test[predicted[test] == y[test]]
            for view in [view for view in views if view[0] == name]:
                relevance = pipeline[-1].explain(pipeline[:-1].transform(X[right]), rule=view[1])
                relevance /= np.abs(relevance).sum(axis=1, keepdims=True)
                for c in classes:
                    maps[view, seed, c].extend(relevance[y[right] == c])
        scores.append(balanced_accuracy_score(y, predicted))
    print(f"  {name:<20} {np.mean(scores):.3f} ± {np.std(scores):.3f}")

# %%
# Where the relevance is
# ----------------------
# How much of the positive relevance of the mean map lies in the Niño 3.4 box, against the box's
# share of the ocean, which is what a map that knows nothing would have. Then how alike the mean
# maps of two seeds are, as a correlation over the ocean: what changes with the seed is no property
# of the ocean. Land holds zeros and gets no relevance under these rules.

box, ocean = sst.nino34_mask.ravel(), ~sst.land_mask.ravel()


def mean_maps(view, c):
    """Return the mean map of a class for each seed, and assert that land has no relevance."""
    means = np.array([np.mean(maps[view, seed, c], axis=0) for seed in seeds])
    assert not means[:, ~ocean].any()
    return means


print(f"\nthe box has {box.sum() / ocean.sum():.1%} of the ocean cells")
print("                            share of positive relevance       correlation of the mean")
print("                            in the box, mean (range) over     maps of two seeds, mean")
print("                            seeds                             (range) over pairs")
for view in views:
    for c in classes:
        means = mean_maps(view, c)
        positive = np.maximum(means, 0)
        shares = positive[:, box].sum(axis=1) / positive.sum(axis=1)
        alike = np.corrcoef(means[:, ocean])[np.triu_indices(len(seeds), 1)]
        print(
            f"  {view[0] + ', ' + view[1]:<14} {c:<10} "
            f"{shares.mean():6.1%} ({shares.min():.1%} to {shares.max():.1%})"
            f"{alike.mean():16.2f} ({alike.min():.2f} to {alike.max():.2f})"
        )

# %%
# Mean map of each class
# ----------------------
# Red cells speak for the class, blue cells against it. Each row has colours of its own limits,
# symmetric about zero; the box is Niño 3.4. All find the tropical Pacific. The MLP's map is
# the most speckled, the CNN's is smooth, the LSTM's runs in stripes along its sweep. Such
# differences come from the architecture, the rule or the seed, and a map by itself does not say
# from which: only what survives a change of all three is worth a physical reading.


def draw(ax, field, limit, cmap="RdBu_r"):
    """Draw a field over the Pacific, land in grey, and return the coloured mesh."""
    ax.set_facecolor("0.75")
    mesh = ax.pcolormesh(
        sst.longitude,
        sst.latitude,
        np.ma.masked_where(sst.land_mask, field.reshape(n_lat, n_lon)),
        cmap=cmap,
        vmin=-limit,
        vmax=limit,
    )
    ax.add_patch(plt.Rectangle((190, -5), 50, 10, fill=False, lw=1.2))
    ax.set_xticks([120, 160, 200, 240], ["120°E", "160°E", "160°W", "120°W"])
    ax.set_yticks([-20, 0, 20, 40, 60], ["20°S", "0°", "20°N", "40°N", "60°N"])
    ax.set_aspect("equal")
    return mesh


fig, axes = plt.subplots(
    1 + len(views), 2, figsize=(9, 13), sharex=True, sharey=True, layout="constrained"
)
composites = [X[y == c].mean(axis=0) for c in classes]
limit = max(np.abs(field).max() for field in composites)
for ax, c, field in zip(axes[0], classes, composites, strict=True):
    mesh = draw(ax, field, limit)
    ax.set_title(f"{c}: mean anomaly ({np.sum(y == c)} winters)")
fig.colorbar(mesh, ax=axes[0], label="SST anomaly (K)", shrink=0.9)
for row, view in zip(axes[1:], views, strict=True):
    means = [100 * mean_maps(view, c).mean(axis=0) for c in classes]
    limit = max(np.abs(field).max() for field in means)
    for ax, c, field in zip(row, classes, means, strict=True):
        mesh = draw(ax, field, limit)
        ax.set_title(f"{c}: relevance, {view[0]}, {view[1]}")
    fig.colorbar(mesh, ax=row, label="relevance (% of its map)", shrink=0.9)
fig.suptitle("El Niño and La Niña, November to March: mean over five seeds")
fig.savefig("enso_relevance.png", dpi=110)
print(f"\nwrote {Path('enso_relevance.png').resolve()}")
plt.show()
