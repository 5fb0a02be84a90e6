"""
Choosing a rule by a score, and which score
===========================================

A search over rules needs a score of maps. Here :class:`~sklearn.model_selection.GridSearchCV`
searches the rules of a :class:`~sklrp.RelevanceTransformer` with four scores at once: whether the
network misses what a map names (pixel flipping), how much of the relevance lies where it belongs
(which only synthetic data tell), how few cells hold it (sparseness), and how well the map adds up
to the score (conservation). ``memory=`` trains each network once, whatever the number of rules.

The scores disagree. On the squares they have three favourites, and that of conservation is the
rule whose maps show the square least, less than the images themselves do. On the digits, where
nobody knows the truth, conservation chooses the same rule. So choose the score before the search,
by what the maps are for, and report others beside it.
"""

# %%
# Two tasks and a search
# ----------------------
# The squares of the paper's forerunner, whose one informative square is known, and scikit-learn's
# digits, for which nobody knows where relevance belongs.

from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import rankdata
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from sklrp import CNNClassifier, Composite, Epsilon, Flat, RelevanceTransformer, ZPlus
from sklrp.datasets import make_squares
from sklrp.metrics import make_relevance_scorer

flat_first = Composite(
    [("first", Flat(), "first"), ("conv", ZPlus(), "conv"), ("dense", Epsilon(), "all")]
)
rules = {
    "epsilon": "epsilon",
    "z-plus on conv., epsilon": "auto",
    "gamma": "gamma",
    "alpha 2, beta 1 on conv., epsilon": "epsilon_alpha2_beta1",
    "z-plus everywhere": "z_plus",
    "flat, z-plus, epsilon": flat_first,
    "w_square": "w_square",
}
cv = StratifiedKFold(n_splits=3, shuffle=True, random_state=0)


def search(network, X, y, scoring, refit):
    """Return the mean and the spread over folds of each score, and the search."""
    with TemporaryDirectory() as cache:
        found = GridSearchCV(
            RelevanceTransformer(network, memory=cache),
            {"rule": list(rules.values())},
            scoring={**scoring, "accuracy": RelevanceTransformer.score},
            refit=refit,
            cv=cv,
            error_score="raise",
        ).fit(X, y)
        n_trained = len(list(Path(cache).rglob("output.pkl")))
    print(f"{len(rules)} rules x {cv.n_splits} folds + 1 refit: {n_trained} networks trained")
    return found


def write_table(found, scoring):
    """Print the scores of all rules, the best of each marked."""
    results = found.cv_results_
    accuracy = results["mean_test_accuracy"][0]
    print(f"  accuracy on the folds left out {accuracy:.3f}; of the maps there, mean ± standard")
    print("  deviation over folds, * best:\n")
    print(f"  {'':<35}" + "".join(f"{name:>20}" for name in scoring))
    best = {name: np.argmax(results[f"mean_test_{name}"]) for name in scoring}
    for i, rule in enumerate(rules):
        row = f"  {rule:<35}"
        for name in scoring:
            mean, std = (results[f"{kind}_test_{name}"][i] for kind in ("mean", "std"))
            row += f"{f'{mean:z.3f} ± {std:.3f}':>18}" + (" *" if best[name] == i else "  ")
        print(row)


# %%
# Squares
# -------
# Pixel flipping counts how far the class's score falls, on average, while patches are replaced by
# the mean image, most relevant first, less how far it falls in a random order. Conservation is
# what is missing from the map's sum, with a minus: a scorer's greater is always better.

X, y, square = make_squares(n_per_class=100, size=40, random_state=0)
X = X.astype(np.float32)
scoring = {
    "pixel_flipping": make_relevance_scorer(
        "pixel_flipping", reference="random", groups=2, steps=10, baseline="mean", random_state=0
    ),
    "relevance_mass": make_relevance_scorer("relevance_mass", mask=square, part="absolute"),
    "sparseness": make_relevance_scorer("sparseness"),
    "conservation": make_relevance_scorer("conservation_error"),
}
network = CNNClassifier((8, 16), input_shape=(1, 40, 40), max_epochs=10, random_state=0)
squares = search(network, X, y, scoring, "relevance_mass")
own = np.abs(X)[:, square].sum() / np.abs(X).sum()
print(f"squares: the square has {square.mean():.1%} of the cells and {own:.1%} of |input|")
write_table(squares, scoring)

# %%
# Digits
# ------
# Without a known place, pixel flipping, sparseness and conservation remain. Half of the digits are
# enough to tell the rules apart.

X_digits, y_digits = (values[:900] for values in load_digits(return_X_y=True))
X_digits = (X_digits / 16).astype(np.float32)
scoring_digits = {
    "pixel_flipping": make_relevance_scorer(
        "pixel_flipping", reference="random", steps=8, baseline="mean", random_state=0
    ),
    "sparseness": scoring["sparseness"],
    "conservation": scoring["conservation"],
}
network = CNNClassifier((8, 16), input_shape=(1, 8, 8), max_epochs=20, random_state=0)
digits = search(network, X_digits, y_digits, scoring_digits, "pixel_flipping")
print("digits:")
write_table(digits, scoring_digits)

# %%
# What to make of it
# ------------------
# Squares: the share on the square tells rules apart by much more than the folds' spread, pixel
# flipping by less; but as the folds are the same for all rules, differences between rules vary
# less than each does. Conservation turns the order upside down: squared weights and flat first
# layers lose nothing to biases, and hardly see the input. Digits: sparseness likes gamma, and
# pixel flipping puts the rule that conserves least of all beside the one that conserves best.
#
# Below, colours are ranks within a column, the best in yellow, and numbers are means over folds.
# The maps are of one image, each divided by its largest absolute value; the box is the square.

columns = [("squares", squares, name) for name in scoring]
columns += [("digits", digits, name) for name in scoring_digits]
values = np.transpose([found.cv_results_[f"mean_test_{name}"] for _, found, name in columns])
ranks = rankdata(-values, axis=0)

fig = plt.figure(figsize=(13, 5.2), layout="constrained")
left, right = fig.subfigures(1, 2, width_ratios=(1.7, 1))
ax = left.subplots()
ax.imshow(ranks, cmap="viridis_r", aspect="auto")
for (i, j), value in np.ndenumerate(values):
    color = "black" if ranks[i, j] < 4 else "white"
    ax.text(j, i, f"{value:z.2f}", ha="center", va="center", color=color)
ax.axvline(len(scoring) - 0.5, color="white", lw=4)
labels = ["\n".join([task, *name.split("_")]) for task, _, name in columns]
ax.set_xticks(range(len(columns)), labels, fontsize=8)
ax.set_yticks(range(len(rules)), rules, fontsize=9)
ax.set_title("scores of the same maps (greater is better)", fontsize=10)

image = X[y == 1][:1]
chosen = {"input": image}
for name in ("epsilon", "z-plus on conv., epsilon", "w_square"):
    chosen[name] = squares.best_estimator_.estimator_.explain(image, rule=rules[name])
rows, cells = np.flatnonzero(square.any(axis=1)), np.flatnonzero(square.any(axis=0))
for ax, (name, shown) in zip(right.subplots(2, 2).flat, chosen.items(), strict=True):
    limit = np.abs(shown).max()
    ax.imshow(shown[0], cmap="RdBu_r", vmin=-limit, vmax=limit)
    corner = cells[0] - 0.5, rows[0] - 0.5
    ax.add_patch(plt.Rectangle(corner, len(cells), len(rows), fill=False, lw=1.2))
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title(name, fontsize=9)
right.suptitle("the choices of flipping, mass and conservation", fontsize=10)
fig.savefig("choose_rule.png", dpi=110)
print(f"\nwrote {Path('choose_rule.png').resolve()}")
plt.show()
