"""
El Niño or La Niña: what three networks look at
===============================================

Real sea-surface-temperature (SST) anomalies of Pacific winters. Three networks tell El Niño from
La Niña: a multilayer perceptron (MLP), a convolutional network (CNN) and a long short-term memory
(LSTM) that reads the field column by column, from west to east. Cross-validation compares them
with a dummy and with logistic regression; layer-wise relevance propagation (LRP) shows which cells
of the grid their decisions rest on.

The label is made from the Niño 3.4 index, the mean over the 20 cells in the box that the maps
show, so we know what a sound map must point at.
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
from sklearn.model_selection import RepeatedStratifiedKFold
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
# Each network explains the test winters of each fold, which it has not seen. A map is kept where
# the prediction is right, and scaled so that its absolute values sum to one: a winter with a large
# logit counts no more than another.

networks = {
    "MLP": MLPClassifier((16,), max_epochs=50, random_state=0),
    "CNN": CNNClassifier((8, 16), input_shape=(1, n_lat, n_lon), max_epochs=50, random_state=0),
    "LSTM": LSTMClassifier(
        16, input_shape=(n_lat, n_lon), sweep="right", max_epochs=50, random_state=0
    ),
}
models = {
    "dummy": DummyClassifier(strategy="uniform", random_state=0),
    "logistic regression": LogisticRegression(C=0.01),
    **networks,
}
n_repeats = 3
cv = RepeatedStratifiedKFold(n_splits=5, n_repeats=n_repeats, random_state=0)
maps = {name: {c: [] for c in classes} for name in networks}

print(f"\nbalanced accuracy, {n_repeats} x 5-fold (mean ± standard deviation over repeats):")
for name, model in models.items():
    predicted = []
    for train, test in cv.split(X, y):
        pipeline = make_pipeline(StandardScaler(), clone(model)).fit(X[train], y[train])
        predicted.append(pipeline.predict(X[test]))
        if name in networks:
            right = predicted[-1] == y[test]
            relevance = pipeline[-1].explain(pipeline[:-1].transform(X[test][right]))
            relevance /= np.abs(relevance).sum(axis=1, keepdims=True)
            for c in classes:
                maps[name][c].extend(relevance[y[test][right] == c])
    tests = [test for _, test in cv.split(X, y)]
    scores = [
        balanced_accuracy_score(
            y[np.concatenate(tests[i : i + 5])], np.concatenate(predicted[i : i + 5])
        )
        for i in range(0, len(tests), 5)
    ]
    print(f"  {name:<20} {np.mean(scores):.3f} ± {np.std(scores):.3f}")

# %%
# Where the relevance is
# ----------------------
# How much of the positive relevance lies in the Niño 3.4 box, against its share of the ocean: a
# map that knows nothing would have the latter. Relevance on land would be an artifact; there is
# none under the default rules, as land holds zeros.

box, ocean = sst.nino34_mask.ravel(), ~sst.land_mask.ravel()
tropics = np.abs(sst.latitude) <= 10
east = np.outer(tropics, sst.longitude >= 160).ravel() & ocean
print("\nshare of the positive relevance:     Niño 3.4 box   10°S-10°N east of 160°E   on land")
print(f"  {'share of the ocean cells':<32} {box.sum() / ocean.sum():8.1%} "
      f"{east.sum() / ocean.sum():20.1%}")  # fmt: skip
for name in networks:
    for c in classes:
        mean = np.maximum(np.mean(maps[name][c], axis=0), 0)
        share = [mean[cells].sum() / mean.sum() for cells in (box, east, ~ocean)]
        print(f"  {f'{name}, {c}, {len(maps[name][c])} maps':<32} "
              f"{share[0]:8.1%} {share[1]:20.1%} {share[2]:18.1%}")  # fmt: skip

# %%
# Mean map of each class
# ----------------------
# Red cells speak for the class, blue cells against it. Each network has colours of its own limits,
# symmetric about zero; the box is Niño 3.4. All three find the tropical Pacific. What differs
# between them at the same accuracy is not in the ocean: the MLP's map is speckled, as nothing ties
# neighbouring weights together; the CNN's is smeared out over its receptive field; the LSTM's runs
# in stripes along the sweep.


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
    1 + len(networks), 2, figsize=(9, 10.5), sharex=True, sharey=True, layout="constrained"
)
composites = [X[y == c].mean(axis=0) for c in classes]
limit = max(np.abs(field).max() for field in composites)
for ax, c, field in zip(axes[0], classes, composites, strict=True):
    mesh = draw(ax, field, limit)
    ax.set_title(f"{c}: mean anomaly ({np.sum(y == c)} winters)")
fig.colorbar(mesh, ax=axes[0], label="SST anomaly (K)", shrink=0.9)
for row, name in zip(axes[1:], networks, strict=True):
    means = [100 * np.mean(maps[name][c], axis=0) for c in classes]
    limit = max(np.abs(field).max() for field in means)
    for ax, c, field in zip(row, classes, means, strict=True):
        mesh = draw(ax, field, limit)
        ax.set_title(f"{c}: mean relevance, {name}")
    fig.colorbar(mesh, ax=row, label="relevance (% of its map)", shrink=0.9)
fig.suptitle("El Niño and La Niña in the Pacific, November to March: what networks look at")
fig.savefig("enso_relevance.png", dpi=120)
print(f"\nwrote {Path('enso_relevance.png').resolve()}")
plt.show()
