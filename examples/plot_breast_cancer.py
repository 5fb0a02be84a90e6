"""
Which features of a table count: relevance, permutation, coefficients
=====================================================================

For a table there are established ways to ask which features count: the coefficients of a linear
model, and how much accuracy is lost when a column is shuffled. Layer-wise relevance propagation
(LRP) answers another question, per sample: what this row's features contributed to this row's
score. Here its means per class stand beside the other two, over ten folds, on a table of 30
features of which many say the same (radius, perimeter and area of cell nuclei, say).
"""

# %%
# Three answers, over ten folds
# -----------------------------
# Scaler and network are in one pipeline and learn from the training fold. The test samples of each
# fold are explained under the epsilon rule, the logit of "malignant" minus that of "benign":
# positive relevance raises that of malignant. Permutation importance is how much the network's log
# loss grows on the same test samples, which is finer than a loss of accuracy; the coefficients are
# those of a logistic regression on the same training samples.

from itertools import combinations
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import spearmanr
from sklearn.datasets import load_breast_cancer
from sklearn.dummy import DummyClassifier
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklrp import MLPClassifier

table = load_breast_cancer()
X, y = table.data, table.target_names[table.target]
names = table.feature_names
classes = np.unique(y)
print(f"{len(X)} samples: " + ", ".join(f"{np.sum(y == c)} {c}" for c in classes))

scores = {"dummy": [], "logistic regression": [], "MLP": []}
relevance = {c: [] for c in classes}  # mean over the test samples of a fold
importance = {"relevance": [], "permutation": [], "coefficients": []}
for fold, (train, test) in enumerate(
    StratifiedKFold(n_splits=10, shuffle=True, random_state=0).split(X, y)
):
    dummy = DummyClassifier(strategy="uniform", random_state=fold)
    linear = make_pipeline(StandardScaler(), LogisticRegression())
    network = make_pipeline(
        StandardScaler(), MLPClassifier((16,), weight_decay=1e-3, random_state=fold)
    )
    for name, model in zip(scores, (dummy, linear, network), strict=True):
        predicted = model.fit(X[train], y[train]).predict(X[test])
        scores[name].append(balanced_accuracy_score(y[test], predicted))
    scaled = network[:-1].transform(X[test])
    maps = network[-1].explain(scaled, target="malignant", rule="epsilon", contrast=True)
    for c in classes:
        relevance[c].append(maps[y[test] == c].mean(axis=0))
    permuted = permutation_importance(
        network, X[test], y[test], scoring="neg_log_loss", n_repeats=5, random_state=fold
    )
    importance["relevance"].append(np.abs(maps).mean(axis=0))
    importance["permutation"].append(permuted.importances_mean)
    importance["coefficients"].append(linear[-1].coef_[0])

print("\nbalanced accuracy, mean ± standard deviation over 10 folds:")
for name, values in scores.items():
    print(f"  {name:<20} {np.mean(values):.3f} ± {np.std(values):.3f}")

# %%
# Do they agree?
# --------------
# Spearman's rank correlation over the 30 features, fold by fold, and of each answer with itself in
# another fold, which is the most that one can expect. Relevance ranks by its mean absolute value,
# a coefficient by its absolute value.

print("\nrank correlation over features, mean ± standard deviation over folds or pairs of folds:")
importance = {name: np.array(values) for name, values in importance.items()}
ranked = {**importance, "coefficients": np.abs(importance["coefficients"])}
pairs = np.triu_indices(10, 1)
for first in ranked:
    rho = spearmanr(ranked[first], axis=1).statistic[pairs]
    print(f"  {first + ', two folds':<30} {rho.mean():5.2f} ± {rho.std():.2f}")
for first, second in combinations(ranked, 2):
    rho = [spearmanr(*both).statistic for both in zip(ranked[first], ranked[second], strict=True)]
    print(f"  {first + ' and ' + second:<30} {np.mean(rho):5.2f} ± {np.std(rho):.2f}")

# %%
# The bars
# --------
# A feature whose large values mean malignant has relevance of either sign: positive in
# malignant samples, where it is large, negative in benign ones. Relevance and coefficients nearly
# agree, as a network that is no better than a linear model should. Permutation hardly agrees with
# itself in another fold, as of features that say the same one stands in for the other while it is
# shuffled. That makes none of the three a truth about tumours: they say what two models use, and a
# model may share its evidence between like features in many ways.

order = np.argsort(importance["relevance"].mean(axis=0))
rows = np.arange(len(order))
fig, axes = plt.subplots(1, 3, figsize=(12, 9), sharey=True, layout="constrained")
for c, color, shift in zip(classes, ("tab:blue", "tab:orange"), (-0.2, 0.2), strict=True):
    means = np.array(relevance[c])[:, order]
    axes[0].barh(
        rows + shift, means.mean(axis=0), 0.4, xerr=means.std(axis=0), color=color, label=c
    )
axes[0].set(xlabel="relevance for “malignant”\n(logits)", yticks=rows, yticklabels=names[order])
axes[0].legend(title="samples that are", loc="lower right")
axes[0].set_title("Relevance, mean per class")
for ax, name, label in [
    (axes[1], "permutation", "growth of the log loss"),
    (axes[2], "coefficients", "coefficient for “malignant”\n(per standard deviation)"),
]:
    values = importance[name][:, order]
    ax.barh(rows, values.mean(axis=0), 0.6, xerr=values.std(axis=0), color="0.6")
    ax.set(xlabel=label, title=name.capitalize())
for ax in axes:
    ax.axvline(0, color="black", lw=0.8)
    ax.set_ylim(-0.7, len(order) - 0.3)
fig.suptitle("Breast cancer: mean over ten folds, whiskers one standard deviation over folds")
fig.savefig("breast_cancer.png", dpi=100)
print(f"\nwrote {Path('breast_cancer.png').resolve()}")
plt.show()
