"""
El Niño a winter ahead
======================

From the sea-surface temperature of one winter to the Niño 3.4 index of the next, in kelvin: a
regression with a lead time. Persistence is no help, as a warm winter says nothing of the next.
What can be known lies in the field, and there are 49 pairs of winters to learn it from.

Three questions, in this order. Does the network know anything a winter ahead, and more than a
ridge regression does? Where does its relevance lie, before a warm winter and before a cold one?
And which part of that map is fact?
"""

# %%
# Fields, and the index a winter later
# ------------------------------------
# Anomalies of 50 Pacific winters (November to March), 1962/63 to 2011/12, on 450 cells of ocean.

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sklrp
from sklrp import MLPRegressor
from sklrp.datasets import load_pacific_sst
from sklrp.diagnostics import skill_map
from sklrp.plotting import RelevanceDisplay

sst = load_pacific_sst(neutral=True)
ocean = ~sst.land_mask
now, ahead = np.asarray(sst.data)[:-1, ocean], sst.index[1:]

# %%
# The core
# --------
# Seven folds of seven winters in a row. Each network predicts, and explains, the winters that it
# has not seen. Relevance is in kelvin: with what biases keep, it sums to the prediction less the
# mean of the training data.


def cross_validate(model):
    """Return predictions and maps of the winters left out."""
    predicted, maps = np.empty_like(ahead), np.empty_like(now)
    for train, test in KFold(7).split(now):
        fold = clone(model).fit(now[train], ahead[train])
        predicted[test] = fold.predict(now[test])
        if isinstance(fold[-1], Ridge):
            maps[test] = fold[0].transform(now[test]) * fold[-1].coef_
        else:
            maps[test] = sklrp.explain(fold, now[test], rule="epsilon")
    return predicted, maps


network = MLPRegressor((16,), lr=0.003, max_epochs=60, batch_size=16, random_state=0)
models = {
    **{f"ridge, alpha {a}": make_pipeline(StandardScaler(), Ridge(a)) for a in (100, 1000, 3000)},
    **{
        f"network, weight decay {w}": make_pipeline(
            StandardScaler(), clone(network).set_params(weight_decay=w)
        )
        for w in (0.01, 0.1, 1.0)
    },
}
runs = {name: cross_validate(model) for name, model in models.items()}

# %%
# Skill
# -----
# No penalty was chosen by these folds: all that were tried are shown. With a weak one both models
# are worse than the mean of all winters; with a strong one they know a sixth of the variance, the
# network no more of it than the ridge regression.

print("the index a winter ahead          r     R²")
persistence = {"persistence": sst.index[:-1]}
for name, predicted in {**persistence, **{name: run[0] for name, run in runs.items()}}.items():
    r = np.corrcoef(predicted, ahead)[0, 1]
    print(f"  {name:<28}{r:>6.2f} {r2_score(ahead, predicted):>6.2f}")

# %%
# Fact
# ----
# `skill_map` needs one network and samples that it never saw: trained on the first 30 pairs, asked
# about the last 19. Their skill as a whole is told from none, and half of it is north of 10°N. No
# band and no cell is told from none by itself: nineteen winters are few, and what a map of single
# cells shows is more than they can say.

held_out = slice(30, None)
fitted = clone(models["network, weight decay 1.0"]).fit(now[:30], ahead[:30])
latitude = np.broadcast_to(sst.latitude[:, None], ocean.shape)[ocean]
bands = np.select([latitude > 10, latitude < -10], ["north of 10°N", "south of 10°S"], "tropics")
found = skill_map(
    fitted,
    now[held_out],
    ahead[held_out],
    X_train=now[:30],
    regions=bands,
    block_length=1,
    random_state=0,
)
print(f"\nheld-out skill of the network: p = {found.p_skill:.3f}")
for name, share, p in zip(
    found.regions["name"], found.regions["skill"], found.regions["p_value"], strict=True
):
    print(f"  {name:<14} {share / found.skill.sum():4.0%} of it, p = {p:.3f}")
print(f"  single cells: {found.true.sum()} of {found.true.size}")

# %%
# In pictures
# -----------
# Means over the winters before which each model expects the warmest and the coldest third; the
# anomalies are those of the network's winters. Red raises the index that is expected for the next
# winter, blue lowers it, in K, as are the sums. All four maps of relevance share one limit: the
# network's are stronger, as what it expects is further from the mean. The box is Niño 3.4, grey is
# land.
#
# Both models look at the North Pacific at 40°N, warm before a warm winter and cold before a cold
# one. They also look at the subtropics near the date line and at the seas from the Philippines to
# Australia, where it is the other way round: cooler before a warm winter than before a cold one.
# The box itself, where the index will be taken, has hardly more of the maps than its share of the
# cells. Single dark cells at the coasts, where the network has them alone, are no finding: no cell
# is told from none by itself. That the models agree is no proof either, as they learned from the
# same 49 pairs.

names = ["ridge, alpha 1000", "network, weight decay 1.0"]


def before(predicted):
    """Tell before which winters a model expects warmth and cold."""
    low, high = np.quantile(predicted, [1 / 3, 2 / 3])
    return np.select([predicted > high, predicted < low], ["warm", "cold"], "neither")


def mean_maps(values, label):
    """Return the mean before winters expected to be warm, and before those to be cold."""
    return np.stack([values[label == which].mean(axis=0) for which in ("warm", "cold")])


labels = {name: before(runs[name][0]) for name in names}
display = RelevanceDisplay.from_relevance(
    {name: mean_maps(runs[name][1], labels[name]) for name in names},
    X=mean_maps(now, labels[names[1]]),
    grid=sst,
    outline=sst.nino34_mask,
    show_input=True,
    clip=0.005,
)
for (row, column), ax in np.ndenumerate(display.axes_):
    what = ["anomaly", *names][column]
    ax.set_title(f"{what}\nbefore a {['warm', 'cold'][row]} winter", fontsize="medium")
for bar, what in zip(display.colorbars_, ["relevance", "anomaly"], strict=True):
    bar.set_label(f"{what} in K", fontsize="small")
display.figure_.savefig("enso_ahead.png", dpi=110)
print(f"\nwrote {Path('enso_ahead.png').resolve()}")
plt.show()
