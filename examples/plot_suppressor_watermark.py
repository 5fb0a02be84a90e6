"""
Suppressor, watermark, exclusive or: three ways to misread a map
================================================================

A map of relevance shows what a network uses. It is read as "here the classes differ". Where do the
two part? Three sets of images in which they do, each with the truth:

- A **suppressor**: on the left a patch tells the classes apart under strong noise. On the right
  stands the same noise and nothing else. The network subtracts it, so that the map shows both.
- A **watermark**: on the right some images bear a bright patch, whatever their class.
- **Exclusive or**: the class is whether two patches have the same sign. Neither says anything
  alone, and no difference of class means shows either.

:func:`~sklrp.diagnostics.skill_map` asks which cells carry what the network knows of images that
it never saw. Beside it stand the t test on the images, which is the geoscientist's first tool,
and the maps.
"""

# %%
# Four answers for each cell
# --------------------------

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle
from scipy.stats import false_discovery_control, ttest_ind

from sklrp import MLPClassifier
from sklrp.datasets import make_suppressor, make_watermark, make_xor
from sklrp.diagnostics import skill_map

size, n_train = 24, 1400
tasks = {
    "suppressor": make_suppressor(1000, size=size, random_state=0),
    "watermark": make_watermark(1000, size=size, random_state=0),
    "exclusive or": make_xor(1000, size=size, random_state=0),
}
left = tasks["suppressor"][2]
places = {"left": left, "right": left[:, ::-1], "elsewhere": ~(left | left[:, ::-1])}
truths = {"suppressor": left, "watermark": left, "exclusive or": left | left[:, ::-1]}

found = {}
for name, (X, y, _) in tasks.items():
    X = X.astype(np.float32)
    X_train, X_test, y_train, y_test = X[:n_train], X[n_train:], y[:n_train], y[n_train:]
    clf = MLPClassifier((64,), max_epochs=40, weight_decay=1e-3, random_state=0)
    clf.fit(X_train, y_train)
    p = ttest_ind(X_test[y_test == 0], X_test[y_test == 1]).pvalue
    differs = false_discovery_control(p.ravel(), method="bh").reshape(p.shape) <= 0.05
    skill = skill_map(clf, X_test, y_test, X_train=X_train, random_state=0)
    maps = {
        "input": np.abs(X_test).mean(axis=0),
        "relevance": np.abs(clf.explain(X_test, rule="epsilon")).mean(axis=0),
        "skill": np.maximum(skill.skill, 0),
    }
    found[name] = maps, differs, skill
    print(f"\n{name}: accuracy {clf.score(X_test, y_test):.2f} on {len(X_test)} images")
    print(f"  {'':<24}" + "".join(f"{place:>12}" for place in places))
    sizes = "".join(f"{where.sum():12d}" for where in places.values())
    print(f"  {'cells':<24}{sizes}")
    for what, values in maps.items():
        parts = (values[where].sum() / values.sum() for where in places.values())
        print(f"  {'share of ' + what:<24}" + "".join(f"{part:12.2f}" for part in parts))
    for what, mask in [
        ("cells by t test (FDR)", differs),
        ("true cells", skill.true),
        ("misleading cells", skill.misleading),
    ]:
        print(f"  {what:<24}" + "".join(f"{mask[of].sum():12d}" for of in places.values()))

# %%
# What the table says
# -------------------
# **Suppressor.** The map puts a quarter of its weight on the right patch, where by construction no
# cell says anything of the class. That is right of the network, which subtracts the noise, and
# wrong of the classes. The skill map and the t test find the left patch alone.
#
# **Watermark.** Both again find the left patch. The skill map finds cells of the watermark
# *misleading*, with some per cent of the skill. Take the word as said of this network: it is surer
# of itself where the watermark is, and so what these cells contribute depends on the class, by way
# of the left patch, though they themselves do not. A cell's *contributions* are tested, not the
# cell. None is called true.
#
# **Exclusive or.** The t test finds nothing, as there is nothing to find in single cells. The map
# and the skill map find both patches: what the network knows needs both, and each contributes.

# %%
# In pictures
# -----------
# Boxes: solid where the class is decided, dotted where another thing is that the class does not
# depend on. Black dots are cells by the t test (left) and true cells (right).

columns = (
    ("difference of class means", "in std. deviations of the noise"),
    ("mean |relevance|, epsilon rule", "logits"),
    ("held-out skill", "logits"),
)
fig, axes = plt.subplots(3, 3, figsize=(10.5, 9), layout="constrained")
for (name, (maps, differs, skill)), row in zip(found.items(), axes, strict=True):
    X, y, _ = tasks[name]
    difference = X[n_train:][y[n_train:] == 1].mean(axis=0) - X[n_train:][y[n_train:] == 0].mean(
        axis=0
    )
    panels = (difference, differs), (maps["relevance"], None), (skill.skill, skill.true)
    for ax, (values, dots), (title, unit) in zip(row, panels, columns, strict=True):
        limit = np.abs(values).max()
        style = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
        if dots is None:
            style = {"cmap": "cividis", "vmin": 0, "vmax": limit}
        image = ax.imshow(values, interpolation="nearest", **style)
        fig.colorbar(image, ax=ax, label=unit, shrink=0.85)
        if dots is not None:
            i, j = np.nonzero(dots)
            ax.plot(j, i, "k.", ms=3)
        for mask in (left, left[:, ::-1]):
            (i, j), edge = np.argwhere(mask).min(axis=0), size // 4
            decides = truths[name][mask].all()
            color = "white" if dots is None else "black"
            box = Rectangle(
                (j - 0.5, i - 0.5),
                edge,
                edge,
                fill=False,
                ls="-" if decides else ":",
                lw=1.4,
                ec=color,
            )
            ax.add_patch(box)
        ax.set_xticks([])
        ax.set_yticks([])
        if name == "suppressor":
            ax.set_title(title)
    row[0].set_ylabel(name, fontsize=12)
fig.suptitle(
    "A map shows what is used (middle); whether it says something of the class, a test shows.\n"
    "The t test (left) sees single cells, the skill map (right) what the network makes of them"
)
fig.savefig("suppressor_watermark.png", dpi=100)
print(f"\nwrote {Path('suppressor_watermark.png').resolve()}")
plt.show()
