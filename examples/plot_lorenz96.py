"""
Lorenz-96: a site that the network uses, and that alone says nothing
====================================================================

Where does a neural network earn its keep? Not where a linear model does as well. Here is a small
atmosphere in which it does: the model of Lorenz (1996), a circle of twelve sites in which products
of neighbours carry waves around. The target is the tendency of one site, or its value some time
ahead. A linear model explains a quarter of the tendency, a network nearly all of it.

And the answer is known. The tendency depends on four sites and no other. For the value ahead, the
model itself can be differentiated: its adjoint tells what every site does. So relevance can be
compared with the truth, and so can the answer of :func:`~sklrp.diagnostics.skill_map` to another
question: which sites carry what the network knows? The two differ at one site, for a reason that
is physics.
"""

# %%
# States, targets, and two models
# -------------------------------
# Time has the unit of the model; 0.2 of it are about one day of weather. Every state comes from a
# run of its own, so the samples are independent. Inputs and targets are divided by their standard
# deviations; the input is centred, so that relevance asks what a site does beyond its mean.

from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Patch
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from skorch import NeuralNetRegressor
from skorch.callbacks import LRScheduler
from torch import nn

from sklrp import explain
from sklrp.datasets import make_lorenz96
from sklrp.diagnostics import skill_map

site, n_train, n_test = 5, 6000, 500
leads = {"tendency": 0.0, "0.2 ahead (1 day)": 0.2, "0.4 ahead (2 days)": 0.4}
n_epochs, batch_size = 40, 100


def fit_network(X, y):
    """Return a network of two hidden layers, trained."""
    torch.manual_seed(0)
    layers = []
    for before, after in pairwise((X.shape[1], 64, 64)):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return NeuralNetRegressor(
        nn.Sequential(*layers, nn.Linear(64, 1)),
        max_epochs=n_epochs,
        batch_size=batch_size,
        optimizer=torch.optim.Adam,
        train_split=None,
        iterator_train__shuffle=True,
        callbacks=[
            LRScheduler(
                torch.optim.lr_scheduler.OneCycleLR,
                max_lr=1e-2,
                total_steps=n_epochs * (n_train // batch_size),
                step_every="batch",
            )
        ],
        verbose=0,
    ).fit(X, y)


class Equations(nn.Module):
    """The Lorenz-96 model as a network that has nothing to learn, in the units of X and y."""

    def __init__(self, lead, centre, spread, mean, scale):
        super().__init__()
        self.lead, self.mean, self.scale = lead, mean, scale
        self.centre, self.spread = (torch.tensor(a, dtype=torch.float32) for a in (centre, spread))

    def tendency(self, x):
        return (x.roll(-1, 1) - x.roll(2, 1)) * x.roll(1, 1) - x + 8

    def forward(self, X):
        x, h = self.centre + self.spread * X, 0.05
        if self.lead == 0:
            target = self.tendency(x)[:, site]
        else:
            for _ in range(round(self.lead / h)):  # Runge-Kutta of fourth order
                k1 = self.tendency(x)
                k2 = self.tendency(x + h / 2 * k1)
                k3 = self.tendency(x + h / 2 * k2)
                k4 = self.tendency(x + h * k3)
                x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            target = x[:, site]
        return ((target - self.mean) / self.scale)[:, None]


tasks = {}
print(f"R² on {n_test} states that no model has seen")
for name, lead in leads.items():
    X, y, truth = make_lorenz96(n_train + n_test, site=site, lead=lead, random_state=0)
    centre, spread, mean, scale = X.mean(axis=0), X.std(axis=0), y.mean(), y.std()
    X = ((X - centre) / spread).astype(np.float32)
    y = ((y - mean) / scale).astype(np.float32)
    truth = truth * spread / scale  # in the units of X and y
    train, test = slice(n_train), slice(n_train, None)
    ridge = RidgeCV(np.logspace(-3, 3, 7)).fit(X[train], y[train])
    net = fit_network(X[train], y[train, None])
    equations = Equations(lead, centre, spread, mean, scale)
    print(
        f"  {name:<20} ridge {r2_score(y[test], ridge.predict(X[test])):.2f}   "
        f"network {r2_score(y[test], net.predict(X[test])):.3f}"
    )
    tasks[name] = net, equations, X[train], X[test], y[test], truth[test]

# %%
# Two questions, each with its truth
# ----------------------------------
# *What does the target depend on?* The truth is the derivative of the target with respect to a
# site, its root mean square over states. Beside it stands the mean absolute relevance, by the
# epsilon rule. Both are divided by their sum over sites.
#
# *What carries the skill?* :func:`~sklrp.diagnostics.skill_map` decomposes the covariance of
# prediction and target over sites, and tests each of them against permuted targets. The truth is
# the same decomposition of the equations themselves: to the function, they are one more network.


def share(values):
    """Return values as shares of their sum."""
    return values / values.sum()


found = {}
for name, (net, equations, X_train, X_test, y_test, truth) in tasks.items():
    depends = share(np.sqrt((truth**2).mean(axis=0)))
    relevance = share(np.abs(explain(net, X_test, rule="epsilon")).mean(axis=0))
    skill, own = (
        skill_map(model, X_test, y_test, X_train=X_train, random_state=0)
        for model in (net, equations)
    )
    shares = share(skill.skill), share(own.skill)
    found[name] = depends, relevance, *shares, skill.true
    print(f"\n{name}\nsite  depends relevance   skill: equations, network      z      p")
    for k in range(X_test.shape[1]):
        print(
            f"{k:>4} {depends[k]:8.2f} {relevance[k]:9.2f} {shares[1][k]:18.3f} "
            f"{shares[0][k]:8.3f} {skill.z[k]:6.1f} {skill.p_value[k]:6.3f}"
            f"{'  true' if skill.true[k] else ''}"
        )
    for what, of in [("relevance and truth", (depends, relevance)), ("both skills", shares)]:
        print(f"  correlation over sites of {what}: {np.corrcoef(of)[0, 1]:.3f}")

# %%
# What the tables say
# -------------------
# Of the tendency, relevance finds the four sites that it depends on, and leaves the other eight
# dark. The skill map finds three of them: sites 3, 4 and 6. Site 5, the predicted one itself, has
# relevance but no skill, in the network as in the equations. It is used: the term :math:`-x_5` is
# a damping, without which the prediction would be worse. But alone it says nothing of the
# tendency. On an attractor the mean of :math:`x_5 \, dx_5 / dt` is zero: it is the mean tendency
# of :math:`x_5^2 / 2`, which neither grows nor shrinks for ever. A site with relevance and without
# skill is no error of the map. It is a site that says nothing unless others are known.
#
# Some of the eight other sites have a p-value just under .05, and a thousandth of the skill,
# against the truth: small errors of the network, which are real. So the mask asks for a share of
# the skill as well (`min_share`), and none of them is called misleading.
#
# With the lead, the dependence spreads over the circle, and so do relevance and skill. A day ahead
# the site's own state says most. Two days ahead it is the sites before it: waves come from there.

# %%
# In pictures
# -----------
# Above, what the target depends on, and the relevance of sites. Below, the skill: filled bars are
# sites that the test calls true, at a family-wise error of 5 %; dots are the equations' own.

sites, (blue, orange) = np.arange(12), ("#0072B2", "#E69F00")
fig, axes = plt.subplots(2, 3, figsize=(12, 6.4), layout="constrained", sharex=True, sharey="row")
for (name, (depends, relevance, skill, own, true)), (above, below) in zip(
    found.items(), axes.T, strict=True
):
    above.bar(sites - 0.2, depends, 0.4, color="0.25", label="truth: adjoint of the equations")
    above.bar(sites + 0.2, relevance, 0.4, color=orange, label="network: LRP, epsilon rule")
    above.set_title(f"{name}" if name == "tendency" else f"value {name}")
    face = [blue if yes else "white" for yes in true]
    below.bar(sites, skill, 0.7, color=face, edgecolor=blue)
    below.plot(sites, own, "o", color="black", ms=4, label="truth: skill of the equations")
    below.axhline(0, color="0.5", lw=0.8)
    below.set_xlabel(f"site (site {site} is predicted)")
    below.set_xticks(sites)
handles, _ = below.get_legend_handles_labels()
for face, label in ((blue, "network: true site"), ("white", "network: not told from none")):
    handles.append(Patch(facecolor=face, edgecolor=blue, label=label))
axes[0, 0].set_ylabel("share of the dependence")
axes[1, 0].set(ylabel="share of the held-out skill", ylim=(-0.02, 0.53))
axes[0, 2].legend(fontsize=9, loc="upper right")
axes[1, 2].legend(handles=handles, fontsize=9, loc="upper right")
axes[1, 0].annotate(
    "used, but alone it says nothing",
    (site, 0.01),
    (site, 0.47),
    ha="center",
    fontsize=9,
    arrowprops={"arrowstyle": "->"},
)
fig.suptitle(
    "Lorenz-96: relevance finds what is used, the skill map what says something by itself"
)
fig.savefig("lorenz96.png", dpi=110)
print(f"\nwrote {Path('lorenz96.png').resolve()}")
plt.show()
