"""
Which rule and which architecture find the place that matters?
==============================================================

The synthetic task of the paper's forerunner (arXiv 2210.09958): images of 100 x 100 pixels hold
two distractors, which are the same in both classes, and one square whose sign is the class. The
answer is known, so a relevance map can be graded: how much of it lies on that square?

Four networks solve the task. Their maps differ all the same, by architecture, by rule and, as the
ranges over three seeds show, by chance. Relevance off the square may be what a network really uses
(it may lean on noise) or an artifact of its architecture or of the rule; in either case it says
nothing about what tells the classes apart.
"""

# %%
# Data
# ----

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle
from sklearn.model_selection import train_test_split

from sklrp import CNNClassifier, LSTMClassifier, MLPClassifier
from sklrp.datasets import make_squares

X, y, mask = make_squares(n_per_class=250, size=100, random_state=0)
X_train, X_test, y_train, y_test = train_test_split(
    X.astype(np.float32), y, test_size=0.2, stratify=y, random_state=0
)


def share(maps):
    """Return the mean share of a map's absolute values that lies on the square."""
    maps = np.abs(maps)
    return np.mean(maps[:, mask].sum(axis=1) / maps.sum(axis=(1, 2)))


print(f"{len(X_train)} training and {len(X_test)} test images of {X.shape[1]} x {X.shape[2]}")
print(f"the square has {mask.mean():.1%} of the pixels and {share(X_test):.1%} of the input")

# %%
# Four networks, three seeds
# --------------------------
# The LSTM reads the columns from left to right, so that it meets the square early and has to
# remember it for 70 steps, or from right to left, so that it meets the square late.

shape = X.shape[1:]
networks = {
    "MLP": MLPClassifier((8, 8), max_epochs=10),
    "CNN": CNNClassifier((8, 16), input_shape=(1, *shape), max_epochs=4),
    "LSTM, left to right": LSTMClassifier(32, input_shape=shape, sweep="right", max_epochs=8),
    "LSTM, right to left": LSTMClassifier(32, input_shape=shape, sweep="left", max_epochs=8),
}
rules = ["auto", "epsilon", "gamma", "z_plus", "alpha_beta", "w_square"]
seeds = range(3)

print("\nshare of |relevance| on the square, means over 50 test images;")
print(f"mean (smallest-largest) over {len(seeds)} seeds:")
print(f"  {'':<20} accuracy " + "".join(f"{rule:>18}" for rule in rules))
mean_maps, sample_maps = {}, {}
for name, network in networks.items():
    accuracies, shares = [], []
    for seed in seeds:
        network.set_params(random_state=seed).fit(X_train, y_train)
        accuracies.append(network.score(X_test, y_test))
        maps = {rule: network.explain(X_test[:50], rule=rule) for rule in rules}
        shares.append([share(maps[rule]) for rule in rules])
        if seed == 0:
            sample_maps[name] = {rule: maps[rule][0] for rule in rules}
    columns = zip(*shares, strict=True)
    cells = (f"{np.mean(c):6.1%} ({min(c):.1%}-{max(c):.1%})" for c in columns)
    print(f"  {name:<20} {np.mean(accuracies):8.2f} " + "".join(f"{cell:>18}" for cell in cells))

# %%
# One image, every map
# --------------------
# The solid box is the square that tells the classes apart, the dashed ones are the distractors.
# Each map has limits of its own, symmetric about zero, at its largest absolute value but for the
# outermost 0.1 %, which are clipped.


def outline(ax):
    """Draw the square and the distractors."""
    for column, row, style in ((20, 45, "-"), (70, 20, ":"), (70, 70, ":")):
        box = Rectangle((column - 0.5, row - 0.5), 10, 10, fill=False, ls=style, lw=0.9)
        ax.add_patch(box)
    ax.set_xticks([])
    ax.set_yticks([])


fig, axes = plt.subplots(
    len(networks), 1 + len(rules), figsize=(13, 8), layout="constrained", sharex=True, sharey=True
)
for row, name in zip(axes, networks, strict=True):
    row[0].imshow(X_test[0], cmap="RdBu_r", vmin=-0.6, vmax=0.6)
    row[0].set_ylabel(name)
    for ax, rule in zip(row[1:], rules, strict=True):
        relevance = sample_maps[name][rule]
        limit = np.quantile(np.abs(relevance), 0.999)
        ax.imshow(relevance, cmap="RdBu_r", vmin=-limit, vmax=limit)
    for ax in row:
        outline(ax)
for ax, title in zip(axes[0], ["input", *rules], strict=True):
    ax.set_title(title)
fig.suptitle(
    f"Relevance for the predicted class {y_test[0]}: red for it, blue against it; "
    "all four networks are right"
)
fig.savefig("squares_relevance.png", dpi=110)
print(f"\nwrote {Path('squares_relevance.png').resolve()}")
plt.show()
