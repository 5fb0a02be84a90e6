"""
Fact or artifact: two maps of El Niño
=====================================

Two networks tell El Niño from La Niña without an error on winters that they never saw. Both come
with a smooth map in warm colours over the ocean. One of the two shows what its network learned.
The other was there before training: the same network with random weights draws it too.

What you learn here: how :func:`~sklrp.diagnostics.diagnose` tells the two apart, and how to draw
a map with dots where it is backed by skill. The data are real sea-surface-temperature anomalies.
"""

# %%
# The ten lines
# -------------
# Every other winter is for training, the winters between are for the test. A convolutional
# network (CNN) is explained by the rule epsilon. An echo state network (ESN) reads the field from
# west to east and is explained by z-plus, the rule that was first published for it.

import copy
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from sklrp import CNNClassifier, ESNClassifier
from sklrp.datasets import load_pacific_sst
from sklrp.diagnostics import diagnose
from sklrp.plotting import RelevanceDisplay

sst = load_pacific_sst()
X, y = sst.data, sst.target_names[sst.target]
X_train, y_train, X_test, y_test = X[::2], y[::2], X[1::2], y[1::2]
networks = {
    "CNN": CNNClassifier((8, 16), max_epochs=50, random_state=0),
    "ESN": ESNClassifier(300, leak_rate=0.03, ridge="auto", sweep="right", random_state=0),
}
rules = {"CNN": "epsilon", "ESN": "z_plus"}
reports = {}
for name, clf in networks.items():
    clf.fit(X_train, y_train)
    reports[name] = diagnose(
        clf, X_test, y_test, X_train=X_train, rule=rules[name], random_state=0
    )
    print(f"{name}, accuracy {clf.score(X_test, y_test):.2f}: {reports[name].verdict}")

# %%
# Why?
# ----
# *Learned* asks whether networks before training have the same map; the number is a cosine. *True*
# asks whether relevance lies where the skill is, more than in the input and in untrained
# networks: 1 is as well as the network's own contributions do, 0 no better. The cosine of
# *learned* is a mean over single winters and 20 untrained networks; that in the picture below is
# of the two *mean* maps drawn there, with one untrained network.

for name, report in reports.items():
    for question in ("learned", "true"):
        finding = report.questions[question]
        print(f"{name}, {question}: {finding.statistic:.2f}, {finding.verdict}")

# %%
# The picture
# -----------
# The mean map of the El Niño winters in the test, for the trained network and for the same network
# with its weights drawn anew. Each map is scaled by its sum of absolute values, and its sign is
# such that red raises the score of what its network says. Dots are facts: the cell carries skill
# on winters that were held out, and it stands out in the map. The box is Niño 3.4, from which the
# label was made, so that a sound map must point at it.


def untrain(clf):
    """Return a copy of a classifier whose network is as before training."""
    clf = copy.deepcopy(clf)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for layer in clf.module_.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
    return clf


def mean_map(clf, rule):
    """Return the mean map of the El Niño winters in percent of its absolute sum."""
    relevance, details = clf.explain(
        X_test[y_test == "El Niño"], target="El Niño", rule=rule, return_details=True
    )
    mean = np.mean(np.asarray(relevance) * np.sign(details.score)[:, None, None], axis=0)
    return 100 * mean / np.abs(mean).sum()


maps = {
    "trained": [mean_map(clf, rules[name]) for name, clf in networks.items()],
    "never trained": [mean_map(untrain(clf), rules[name]) for name, clf in networks.items()],
}
alike = [
    abs(np.vdot(a, b)) / np.sqrt(np.vdot(a, a) * np.vdot(b, b))
    for a, b in zip(*maps.values(), strict=True)
]
fact = [reports[name].picture.fact for name in networks]
fig, axes = plt.subplots(2, 2, figsize=(9, 5.4), sharex=True, sharey=True, layout="constrained")
display = RelevanceDisplay.from_relevance(
    maps,
    labels=list(networks),
    kind="class_mean",
    grid=sst,
    outline=sst.nino34_mask,
    stipple={"trained": np.stack(fact), "never trained": np.zeros_like(fact)},
    limits=0.8,
    ax=axes,
)
display.colorbars_[0].set_label("mean relevance for El Niño (% of the map); dots: fact")
for row, name in enumerate(networks):
    verdict = reports[name].verdict
    axes[row, 0].set_title(f"{name}, trained: {verdict}", fontweight="bold")
    for ax in axes[row]:
        ax.set_xlabel("")  # a sum over cells means little in a map that is scaled
    axes[row, 1].text(215, 6, "Niño 3.4", ha="center", va="bottom", fontsize="small")
    axes[row, 1].set_title(f"the same {name}, never trained: |cosine| {alike[row]:.2f}")
fig.suptitle("Both networks are right on every held-out winter. Only one map shows why.")
fig.savefig("two_maps.png", dpi=110)
print(f"\nwrote {Path('two_maps.png').resolve()}")
plt.show()
