"""
Grading maps where the answer is known
======================================

Two benchmarks of the geosciences tell what each cell contributes, so that a map can be graded
without taking sides: a field of correlated anomalies whose target is a sum of one known function
per cell (arXiv 2103.10005), and images of square and round frames, where the class is the kind
with more area (arXiv 2202.03407). A network learns each task. The correlation r of map and truth
grades rules beside gradients, the input itself, and a map of nothing but noise.

What you learn here: no rule wins twice. Choose it for the network and the data at hand.
"""

# %%
# The ten lines
# -------------
# A field of ocean cells, correlated as the sea-surface temperature of the Pacific; a dense network
# for the sum; and r, the correlation over the cells of a sample, averaged over samples.

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from sklrp import CNNClassifier, Composite, Epsilon, Flat, MLPRegressor, ZPlus
from sklrp.datasets import load_pacific_sst, make_attribution_benchmark, make_frames


def correlate(maps, truth):
    """Return the correlation of map and truth for each sample, 0 for a map of zeros."""
    maps, truth = (a.reshape(len(a), -1) for a in (maps, truth))
    maps, truth = (a - a.mean(axis=1, keepdims=True) for a in (maps, truth))
    size = np.linalg.norm(maps, axis=1) * np.linalg.norm(truth, axis=1)
    # z-plus finds nothing where nothing speaks for a large value.
    return np.divide((maps * truth).sum(axis=1), size, out=np.zeros(len(size)), where=size > 0)


X, y, truth = make_attribution_benchmark(10_300, dtype=np.float32, random_state=0)
X, y, X_test, y_test, truth = X[:-300], y[:-300], X[-300:], y[-300:], truth[-300:]
reg = MLPRegressor((128, 64), max_epochs=12, batch_size=128, weight_decay=0.01, random_state=0)
reg.fit(X, y)
print(f"field: R² {reg.score(X_test, y_test):.2f} on {len(X_test)} samples it has not seen")
for rule in ("epsilon", "gamma", "z_plus"):
    maps = reg.explain(X_test, rule=rule)
    print(f"  {rule:<8} r = {correlate(maps, truth).mean():.2f}")

# %%
# More maps, with intervals
# -------------------------
# Integrated gradients are the input times the mean gradient on the way from zero to the input. The
# 95 % intervals are of a bootstrap that draws samples: they say how much the choice of the samples
# matters, and nothing of other networks or other tasks.

rng = np.random.default_rng(0)


def gradient(module, X, column):
    """Return the gradient of one output for each sample."""
    parts = []
    for rows in np.array_split(np.arange(len(X)), -(-len(X) // 50)):  # few at once are faster
        x = torch.tensor(X[rows].reshape(len(rows), -1), dtype=torch.float32, requires_grad=True)
        scores = module(x).reshape(len(x), -1)
        score = scores[torch.arange(len(x)), torch.as_tensor(column[rows])].sum()
        parts.append(torch.autograd.grad(score, x)[0].numpy())
    return np.concatenate(parts).reshape(X.shape)


def integrated_gradients(module, X, column, n_steps=16):
    """Return the input times the mean gradient on the way from zero to the input."""
    steps = (np.arange(n_steps) + 0.5) / n_steps
    return X * np.mean([gradient(module, step * X, column) for step in steps], axis=0)


def grade(title, maps, truth):
    """Print and return the mean correlation of maps and truth, and its interval."""
    grades = {}
    for name, values in maps.items():
        r = correlate(values, truth)
        drawn = r[rng.integers(len(r), size=(1000, len(r)))].mean(axis=1)
        grades[name] = r.mean(), *np.quantile(drawn, [0.025, 0.975])
    print(f"\n{title}: mean r (95 % interval over samples)")
    for name, (r, low, high) in sorted(grades.items(), key=lambda item: -item[1][0]):
        print(f"  {name:<36}{r:6.2f} ({low:.2f} to {high:.2f})")
    return grades


first = np.zeros(len(X_test), dtype=int)
field = {
    "noise": rng.normal(size=X_test.shape),
    "the input": X_test,
    "gradient": gradient(reg.module_, X_test, first),
    "integrated gradients": integrated_gradients(reg.module_, X_test, first),
    "zero = gradient x input": reg.explain(X_test, rule="zero"),
    "epsilon": reg.explain(X_test, rule="epsilon"),
    "gamma": reg.explain(X_test, rule="gamma"),
    "z-plus": reg.explain(X_test, rule="z_plus"),
}
field_grades = grade("field", field, truth)

# %%
# Frames, and a convolutional network
# -----------------------------------
# Where one kind of frame is alone, the image itself is the truth, and beats every rule though it
# knows nothing of the classes. So only images that hold both kinds are graded, and of them those
# that the network gets right.

X, y, frames_truth = make_frames(5500, dtype=np.float32, random_state=0)
clf = CNNClassifier((32, 32), kernel_size=5, stride=2, max_epochs=6, batch_size=64, random_state=0)
clf.fit(X[:4000], y[:4000])
X, y, frames_truth = X[4000:], y[4000:], frames_truth[4000:]
right, both = clf.predict(X) == y, (frames_truth < 0).any(axis=(1, 2))
print(f"\nframes: accuracy {right.mean():.2f}, of images with both kinds {right[both].mean():.2f}")

X, y, frames_truth = (values[right & both] for values in (X, y, frames_truth))
flat_first = Composite(
    [("first", Flat(), "first"), ("conv", ZPlus(), "conv"), ("dense", Epsilon(), "all")]
)
frames = {
    "noise": rng.normal(size=X.shape),
    "the input": X,
    "gradient": gradient(clf.module_, X, y),
    "integrated gradients": integrated_gradients(clf.module_, X, y),
    "zero = gradient x input": clf.explain(X, rule="zero"),
    "epsilon": clf.explain(X, rule="epsilon"),
    "gamma": clf.explain(X, rule="gamma"),
    "z-plus": clf.explain(X, rule="z_plus"),
    "z-plus on conv., epsilon on dense": clf.explain(X, rule="epsilon_plus"),
    "the same, first layer flat": clf.explain(X, rule=flat_first),
}
frames_grades = grade(f"frames, {len(X)} images with both kinds", frames, frames_truth)

# %%
# On the dense network for signed anomalies, rules that share by contribution lead (zero, epsilon,
# gamma), level with integrated gradients, and z-plus falls far behind: it cannot say that a cell
# lowers the sum. On the convolutional network for empty and full pixels it is the other way round.
# z-plus on the convolutions, with epsilon on the dense layers, is best by far, and a map of
# gradient times input says less of these images than the images themselves.
#
# The picture
# -----------
# Left the grades, right one sample of each task: the truth and the maps of two rules. Each map is
# divided by its largest absolute value, but for the outermost 1 %, which are clipped; red raises
# the output or the score of the class, blue lowers it, and land is grey.

sst = load_pacific_sst(neutral=True)


def draw_grades(ax, grades, title):
    """Draw mean correlations with their intervals, best on top."""
    names = sorted(grades, key=lambda name: grades[name][0])
    r, low, high = np.transpose([grades[name] for name in names])
    colors = ["tab:red" if "z-plus" in name else "0.35" for name in names]
    ax.barh(range(len(names)), r, color=colors, height=0.6)
    ax.errorbar(r, range(len(names)), xerr=(r - low, high - r), fmt="none", color="black", lw=1)
    ax.set_yticks(range(len(names)), names)
    ax.axvline(0, color="black", lw=0.8)
    ax.set(xlabel="correlation of map and truth", title=title, xlim=(-0.3, 1))


def draw_map(ax, values, title):
    """Draw a map of the ocean's cells or an image."""
    values = values.ravel() / np.quantile(np.abs(values), 0.99)
    style = {"cmap": "RdBu_r", "vmin": -1, "vmax": 1}
    if len(values) == np.sum(~sst.land_mask):
        grid = np.ma.masked_all(sst.land_mask.shape)
        grid[~sst.land_mask] = values
        ax.set_facecolor("0.75")
        ax.pcolormesh(sst.longitude, sst.latitude, grid, **style)
        ax.set_aspect("equal")
        ax.set_xticks([150, 200, 250], ["150°E", "160°W", "110°W"])
        ax.set_yticks([0, 40], ["0°", "40°N"])
    else:
        ax.imshow(values.reshape(65, 65), **style)
        ax.set_xticks([])
        ax.set_yticks([])
    ax.set_title(title.replace("conv., ", "conv.,\n"))


fig, axes = plt.subplots(2, 4, figsize=(14, 6), width_ratios=(1.2, 1, 1, 1), layout="constrained")
draw_grades(axes[0, 0], field_grades, "a sum over a field, dense network")
draw_grades(axes[1, 0], frames_grades, "frames, convolutional network")
for ax, name in zip(axes[0, 1:], ("truth", "epsilon", "z-plus"), strict=True):
    draw_map(ax, {"truth": truth, **field}[name][0], name)
shown = ("truth", "epsilon", "z-plus on conv., epsilon on dense")
for ax, name in zip(axes[1, 1:], shown, strict=True):
    draw_map(ax, {"truth": frames_truth, **frames}[name][0], name)
fig.suptitle("Maps against the truth: no rule is best for both tasks")
fig.savefig("known_answer.png", dpi=100)
print(f"\nwrote {Path('known_answer.png').resolve()}")
plt.show()
