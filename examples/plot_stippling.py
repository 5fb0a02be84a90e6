"""
Stippling: which part of a composite is backed by skill
=======================================================

In climate science a mean map has dots where it is significant. A composite of relevance can have
them too: where the cells carry what the network knows of winters that it never saw. Beside it
belongs how far the maps of equally good networks differ, which were trained with another seed.

Real sea-surface-temperature (SST) anomalies of Pacific winters, El Niño or La Niña, as in
:doc:`plot_enso`; a network that is trained on two of three winters, and explained on the others.
"""

# %%
# Data and network
# ----------------
# A third of the winters is held out, with as many of each class as in the rest. They are taken for
# exchangeable: most of them are no neighbours in time.

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklrp import MLPClassifier
from sklrp.datasets import load_pacific_sst
from sklrp.diagnostics import skill_map
from sklrp.plotting import RelevanceDisplay

sst = load_pacific_sst()
X, y = sst.data.reshape(len(sst.data), -1), sst.target_names[sst.target]
X_train, X_test, y_train, y_test = train_test_split(
    X, y, test_size=1 / 3, stratify=y, random_state=0
)

network = make_pipeline(StandardScaler(), MLPClassifier((16,), max_epochs=50))
networks = [
    clone(network).set_params(mlpclassifier__random_state=seed).fit(X_train, y_train)
    for seed in range(10)
]
scores = [fitted.score(X_test, y_test) for fitted in networks]
print(f"{len(X_train)} winters for training, {len(X_test)} held out")
print(f"accuracy of 10 networks: {np.mean(scores):.2f} ({min(scores):.2f} to {max(scores):.2f})")

# %%
# Which cells carry the skill?
# ----------------------------
# :func:`~sklrp.diagnostics.skill_map` shares the skill on held-out winters out among the cells of
# one network, and tests them by permuting the winters' labels. With twelve winters there is
# little power: the label on the colour bar says how much skill a cell needed to be found.

found = skill_map(
    networks[0], X_test, y_test, X_train=X_train, grid=sst, block_length=1, random_state=0
)
print(found)
box = sst.nino34_mask.ravel()
n_dots = found.true_fdr.ravel()[box].sum()
print(f"of the {box.sum()} cells in the Niño 3.4 box, {n_dots} have dots")
found.plot()

# %%
# The composite
# -------------
# The mean maps of ten networks, under the epsilon rule, over the held-out winters of each class.
# Dots are cells that carry skill; on the right is how far the ten networks differ. A cell of much
# relevance without a dot may be a chance of these winters, and one where the spread is as large as
# the relevance is a property of the seed.

maps = np.array(
    [
        fitted[-1].explain(fitted[:-1].transform(X_test), rule="epsilon", target=y_test)
        for fitted in networks
    ]
)
classes = np.unique(y_test)
spread = np.stack([maps[:, y_test == c].mean(axis=1).std(axis=0, ddof=1) for c in classes])
display = RelevanceDisplay.from_relevance(
    maps.mean(axis=0),
    labels=y_test,
    kind="class_mean",
    grid=sst,
    outline=sst.nino34_mask,
    stipple=found,
    spread=spread,
    unit="relevance for the class of the winter (logits)",
)
display.figure_.savefig("stippling.png", dpi=110)
print(f"\nwrote {Path('stippling.png').resolve()}")

means = np.stack([maps[:, y_test == c].mean(axis=1) for c in classes])
steady = np.abs(means.mean(axis=1)) > 2 * spread
dotted = found.true_fdr.ravel()
for c, cells in zip(classes, steady, strict=True):
    print(f"{c}: steady over seeds in {cells[dotted].mean():.0%} of the cells with dots, ", end="")
    print(f"{cells[~dotted].mean():.0%} of the others")
plt.show()
