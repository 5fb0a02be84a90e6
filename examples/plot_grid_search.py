"""
Relevance as features, and a grid search over LRP settings
==========================================================

A :class:`~sklrp.RelevanceTransformer` turns each sample into the relevance map of a network's
decision, so that a map can feed any other estimator, and the rule and its stabiliser epsilon are
parameters like others: :class:`~sklearn.model_selection.GridSearchCV` searches them. With
``memory=`` the search over all settings trains one network per fold, and a last one, whatever the
number of settings.

Here a logistic regression reads the maps of a convolutional network on scikit-learn's digits. It
is compared with the network itself and with a logistic regression on the pixels. The comparison
favours the maps: theirs is the best of all settings, on the very folds that chose it. The score of
a search on samples that took no part in it, as in nested cross-validation, has no such advantage.

The maps of the training samples come from a network that has seen these samples, those of the
test samples from one that has not. With ``cv=`` the transformer gives out-of-fold maps of the
training samples, alike to those of the test samples, for the price of more trainings: ``cv=5``
needs five networks beside each, here 24 in all instead of 4.
"""

# %%
# The pipeline
# ------------

from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from sklrp import CNNClassifier, RelevanceTransformer

X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
cv = StratifiedKFold(n_splits=3, shuffle=True, random_state=0)

network = CNNClassifier(
    (8, 16),
    input_shape=(1, 8, 8),
    max_epochs=30,
    random_state=0,
)

# %%
# The search
# ----------

rules = ["epsilon", "epsilon_plus", "epsilon_alpha2_beta1", "gamma", "z_plus", "alpha_beta"]
epsilons = [1e-6, 1e-2, 1.0]

with TemporaryDirectory() as cache:
    pipeline = Pipeline(
        [
            ("relevance", RelevanceTransformer(network, normalize="l1", memory=cache)),
            ("scale", StandardScaler()),
            ("classify", LogisticRegression(tol=1e-3, max_iter=300)),
        ]
    )
    grid = {"relevance__rule": rules, "relevance__epsilon": epsilons}
    search = GridSearchCV(pipeline, grid, cv=cv).fit(X, y)
    n_trained = len(list(Path(cache).rglob("output.pkl")))

n_settings = len(search.cv_results_["params"])
print(f"{n_settings} settings x {cv.n_splits} folds + 1 refit: {n_trained} networks trained")
print(f"best: {search.best_params_}")

pixels = Pipeline(
    [("scale", StandardScaler()), ("classify", LogisticRegression(tol=1e-3, max_iter=300))]
)
best = search.best_index_
accuracy = {
    "logistic regression on pixels": cross_val_score(pixels, X, y, cv=cv),
    "the network itself": cross_val_score(network, X, y, cv=cv),
    f"logistic regression on relevance (best of {n_settings} settings, so optimistic)": np.array(
        [search.cv_results_[f"split{k}_test_score"][best] for k in range(cv.n_splits)]
    ),
}
print("\naccuracy, 3-fold (mean ± standard deviation over folds):")
for name, scores in accuracy.items():
    print(f"  {scores.mean():.3f} ± {scores.std():.3f}  {name}")

# %%
# A better score is not a better map
# ----------------------------------
# The cosine of the maps with the images says how much a map merely repeats its input. A rule whose
# maps look like the digits, as those of z-plus do, hands the pixels through to the logistic
# regression. All scores are within .015 of each other and of the pixels' own. They say which
# features are easy to read, and nothing about whether the maps show what the network uses.

transformer = search.best_estimator_["relevance"]
print("\nmean cosine of map and image:")
for rule in rules:
    relevance = transformer.estimator_.explain(X, rule=rule)
    norms = np.linalg.norm(relevance, axis=1) * np.linalg.norm(X, axis=1)
    print(f"  {rule:<22} {np.mean(np.sum(relevance * X, axis=1) / norms):.2f}")

# %%
# What the search saw
# -------------------
# Left: accuracy by rule and epsilon. Right: the maps of one digit, drawn with limits of their own,
# symmetric about zero.

table = search.cv_results_["mean_test_score"].reshape(len(epsilons), len(rules)).T
fig = plt.figure(figsize=(11, 4.2), layout="constrained")
left, right = fig.subfigures(1, 2, width_ratios=(1, 1.35))
ax = left.subplots()
image = ax.imshow(table, cmap="viridis", aspect="auto")
ax.set_xticks(range(len(epsilons)), [f"{e:g}" for e in epsilons])
ax.set_yticks(range(len(rules)), rules)
ax.set_xlabel("epsilon")
middle = (table.min() + table.max()) / 2
for (i, j), value in np.ndenumerate(table):
    color = "black" if value > middle else "white"
    ax.text(j, i, f"{value:.3f}", ha="center", va="center", color=color)
ax.set_title("accuracy on relevance features")

digit = X[:1]
axes = right.subplots(2, 4)
for ax in axes.flat:
    ax.set_axis_off()
axes[0, 0].imshow(digit.reshape(8, 8), cmap="gray_r")
axes[0, 0].set_title("input", fontsize=9)
for ax, rule in zip(axes.flat[1:], rules, strict=False):
    relevance = transformer.estimator_.explain(digit, rule=rule).reshape(8, 8)
    limit = np.abs(relevance).max()
    ax.imshow(relevance, cmap="RdBu_r", vmin=-limit, vmax=limit)
    ax.set_title(rule, fontsize=9)
right.suptitle(f"relevance for class {transformer.estimator_.predict(digit)[0]}")
fig.savefig("grid_search.png", dpi=110)
print(f"\nwrote {Path('grid_search.png').resolve()}")
plt.show()
