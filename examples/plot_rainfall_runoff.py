"""
Rain, snow and streamflow: which days carry the skill?
======================================================

A catchment in the hills stores snow in winter and water in its soil. Ninety days of precipitation
and temperature go in, and the streamflow of the last day comes out. This is the task on which
hydrologists use long short-term memory networks (LSTM), and a linear model sees half of it: the
same rain runs off from a full soil and vanishes in a dry one, and snow that fell two months ago is
nothing until the day when it melts.

The catchment is made of equations, so all answers are known: how the streamflow depends on every
day, and how well anybody can do who knows these ninety days and no more. What do relevance and
:func:`~sklrp.diagnostics.skill_map` say of a network that has learned it?
"""

# %%
# The catchment
# -------------
# Inputs are divided by their standard deviations and centred. The target is the logarithm of the
# streamflow; the regressors of this package standardise it themselves, and relevance is in its
# units.

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.base import clone
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from skorch.callbacks import GradientNormClipping, LRScheduler
from torch import nn

from sklrp import ESNRegressor, LSTMRegressor
from sklrp.datasets import make_rainfall_runoff
from sklrp.diagnostics import skill_map

n_days, n_train, n_test = 90, 3000, 400
X, y, truth = make_rainfall_runoff(n_train + n_test, n_days=n_days, random_state=0)
train, test = slice(n_train), slice(n_train, None)
centre, spread = X[train].mean(axis=(0, 1)), X[train].std(axis=(0, 1))
X_train, X_test = (((X[part] - centre) / spread).astype(np.float32) for part in (train, test))
y_train, y_test = y[train].astype(np.float32), y[test].astype(np.float32)

# %%
# Four models
# -----------
# The ridge regression sees a row of 180 numbers, the LSTM and the echo state network one day after
# the other. The fourth are the equations themselves, as a torch module. They need to know how much
# snow and soil water there was before the first day. Nobody does, so they get the same for all:
# what fits the training samples best. What they reach is the most that these ninety days can tell.


class Catchment(nn.Module):
    """The equations of `make_rainfall_runoff`, in the units of X and y."""

    def __init__(self, snow, water):
        super().__init__()
        self.snow, self.water = snow, water

    def forward(self, x):
        x = x * torch.tensor(spread, dtype=x.dtype) + torch.tensor(centre, dtype=x.dtype)
        snow, water = x.new_full((len(x),), self.snow), x.new_full((len(x),), self.water)
        for rain, temperature in x.permute(1, 2, 0):
            warm = temperature.clamp(min=0)
            frozen = ((1 - temperature) / 2).clamp(0, 1) * rain
            snow = snow + frozen
            melt = torch.minimum(snow, 3 * warm)
            snow = snow - melt
            water = (water + rain - frozen + melt - 0.12 * warm).clamp(min=0)
            runoff = torch.minimum(0.25 * water * (water / 150) ** 4, water)
            water = water - runoff
        return (runoff + 0.01).log()[:, None]


def predict(module, samples):
    """Return what a module says of samples."""
    with torch.no_grad():
        return module(torch.from_numpy(samples))[:, 0].numpy()


starts = [(snow, water) for snow in (0.0, 5.0, 20.0) for water in (30.0, 50.0, 70.0)]
fits = [r2_score(y_train, predict(Catchment(*start), X_train)) for start in starts]
catchment = Catchment(*starts[np.argmax(fits)])
n_epochs, batch_size = 25, 100
schedule = LRScheduler(
    torch.optim.lr_scheduler.OneCycleLR,
    max_lr=2e-2,
    total_steps=n_epochs * (n_train // batch_size),
    step_every="batch",
)
lstm = LSTMRegressor(
    16,
    max_epochs=n_epochs,
    batch_size=batch_size,
    callbacks=[schedule, GradientNormClipping(1.0)],
    random_state=0,
).fit(X_train, y_train)
reservoir = ESNRegressor(300, leak_rate=0.1, ridge=1.0, random_state=0).fit(X_train, y_train)
rows_train, rows_test = X_train.reshape(n_train, -1), X_test.reshape(n_test, -1)
ridge = RidgeCV(np.logspace(0, 5, 11)).fit(rows_train, y_train)
print(f"R² on {n_test} series that no model has seen, and RMSE")
for name, predicted in {
    "ridge regression": ridge.predict(rows_test),
    "echo state network": reservoir.predict(X_test),
    "LSTM": lstm.predict(X_test),
    "the equations": predict(catchment, X_test),
}.items():
    rmse = np.sqrt(np.mean((predicted - y_test) ** 2))
    print(f"  {name:<20} {r2_score(y_test, predicted):.2f}  {rmse:.2f}")

# %%
# What the streamflow depends on, and what relevance shows
# --------------------------------------------------------
# The truth is the derivative of the target with respect to a day's precipitation or temperature
# (the adjoint of the equations); its mean absolute value, as a share of the sum. Beside it stand
# shares of the mean absolute relevance, by three rules, and the same for an LSTM that was not
# trained. The oldest and the latest eighteen days:

variables = ("precipitation", "temperature")


def share(values):
    """Return values as shares of their sum."""
    return values / values.sum()


untrained = clone(lstm).set_params(callbacks=None, max_epochs=1, lr=1e-12, random_state=1)
untrained.fit(X_train, y_train)  # at a rate at which nothing moves
rules = ("epsilon", "gamma", "z_plus")
depends = share(np.abs(truth[test] * spread).mean(axis=0))
maps = {rule: share(np.abs(lstm.explain(X_test, rule=rule)).mean(axis=0)) for rule in rules}
maps["untrained, epsilon"] = share(np.abs(untrained.explain(X_test, rule="epsilon")).mean(0))
print(f"\n{'share of':<20} {'precipitation':>16} {'temperature':>16}   r with the truth")
print(f"{'days':<20} {'89-72':>8} {'17-0':>7} {'89-72':>8} {'17-0':>7}")
for name, of in {"truth": depends, **maps}.items():
    parts = (f"{of[days, k].sum():8.3f}" for k in (0, 1) for days in (slice(18), slice(-18, None)))
    print(f"{name:<20} {''.join(parts)} {np.corrcoef(of.ravel(), depends.ravel())[0, 1]:10.2f}")

# %%
# What carries the skill
# ----------------------
# `skill_map` decomposes the covariance of prediction and target over days and variables, and tests
# each of the 180. The truth is the same decomposition of the equations, which to the function are
# one more network. Periods of nine days are tested as well (`regions`).

periods = (n_days - 1 - np.arange(n_days)) // 9
regions = np.stack([periods, periods + 10], axis=1)
skills = {
    name: skill_map(
        model,
        X_test,
        y_test,
        X_train=X_train,
        regions=regions,
        block_length=1,
        n_draws=32,
        random_state=0,
    )
    for name, model in {"LSTM": lstm, "equations": catchment}.items()
}
for name, found in skills.items():
    of = share(found.skill)
    print(f"\n{name}: {found.true[:, 0].sum()} days of precipitation are true,", end=" ")
    print(f"{found.true[:, 1].sum()} of temperature; {found.misleading.sum()} are misleading")
    for k, variable in enumerate(variables):
        parts = (f"{of[periods == period, k].sum():6.3f}" for period in range(9, -1, -1))
        tested = found.regions["p_value"][10 * k : 10 * (k + 1)][::-1]
        print(f"  {variable:<14}" + "".join(parts))
        print(f"  {'  p':<14}" + "".join(f"{p:6.3f}" for p in tested))
both = [found.skill.ravel() for found in skills.values()]
print(f"correlation of both over the 180 values: {np.corrcoef(both)[0, 1]:.3f}")

# %%
# In pictures
# -----------
# Relevance falls off towards the past as the dependence does, but more slowly; most so with the
# epsilon rule. Of an untrained LSTM it has its weight on the oldest days, where the sweep begins:
# what is left there of the trained one's is no evidence (:doc:`plot_first_of_365_days`).
#
# The streamflow depends on precipitation more than on temperature, and yet temperature carries
# half of the skill, on nearly all days, in the equations as in the LSTM. What fell on a single day
# two months ago says next to nothing; each cool or warm day says something of the season. That is
# no error of either map: relevance shows what was used in one series, skill what goes with the
# truth over many. Filled dots are days that the test calls true, at a family-wise error of 5 %.

days = n_days - 1 - np.arange(n_days)  # 0 is the day of the streamflow
blue, orange, green = "#0072B2", "#E69F00", "#009E73"
fig, axes = plt.subplots(2, 2, figsize=(11, 6.6), layout="constrained", sharex=True)
for k, (variable, (left, right)) in enumerate(zip(variables, axes, strict=True)):
    left.plot(days, depends[:, k], color="black", lw=2, label="truth: adjoint of the equations")
    left.plot(days, maps["epsilon"][:, k], color=orange, label="LSTM: LRP, epsilon rule")
    left.plot(days, maps["gamma"][:, k], color=green, ls="--", label="LSTM: LRP, gamma rule")
    left.plot(
        days,
        maps["untrained, epsilon"][:, k],
        color="0.6",
        ls=":",
        label="untrained LSTM: LRP, epsilon rule",
    )
    left.set(title=f"{variable}: dependence and relevance", ylabel="share of a day", yscale="log")
    left.set_ylim(2e-4, 0.4)
    true, of = skills["LSTM"].true[:, k], share(skills["LSTM"].skill)[:, k]
    right.axhline(0, color="0.5", lw=0.8)
    right.plot(
        days, share(skills["equations"].skill)[:, k], color="black", lw=1, label="equations"
    )
    right.plot(
        days[~true],
        of[~true],
        "o",
        color=blue,
        mfc="white",
        ms=4,
        label="LSTM, not told from none",
    )
    right.plot(days[true], of[true], "o", color=blue, ms=4, label="LSTM, true day")
    right.set(title=f"{variable}: held-out skill", ylabel="share of a day")
    right.set_ylim(-0.005, 0.045)
for ax in axes[1]:
    ax.set_xlabel("days before the streamflow")
axes[0, 0].set(xlim=(n_days, -1), xticks=(80, 60, 40, 20, 0))
axes[0, 0].legend(fontsize=8, loc="upper left")
axes[0, 1].legend(fontsize=8, loc="upper left")
fig.suptitle(
    "Rain matters on the last days; temperature says something of the season on every day"
)
fig.savefig("rainfall_runoff.png", dpi=110)
print(f"\nwrote {Path('rainfall_runoff.png').resolve()}")
plt.show()
