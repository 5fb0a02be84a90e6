"""
A network of your own
=====================

Many who want relevance maps have a network already: a torch module written by hand, trained by
skorch, and as often a regression as a classification. Such a network stays as it is.
`sklrp.explain` follows its ``forward``, `sklrp.plan` says beforehand which rule acts where, and
what the engine does not know it refuses by name, until ten lines of yours say what to do.

The network below reads a winter's sea-surface temperature in the Pacific and predicts the
Niño 3.4 index in kelvin. The index is the mean of 20 cells of the field, so that a linear model is
right by construction: the task shows whether a map is right, and is no evidence of skill. The
linear model is ahead of the network here, and with the tropics removed, which is harder, too.
"""

# %%
# Data
# ----
# Real anomalies of 50 Pacific winters (November to March), 1962 to 2011, NaN on land. The target
# is the index itself, neutral winters included.

import copy
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from eofs.examples import example_data_path
from sklearn.base import clone
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier, NeuralNetRegressor
from torch import nn

import sklrp
from sklrp import RelevanceTransformer
from sklrp.datasets import load_enso
from sklrp.diagnostics import diagnose
from sklrp.geo import (
    AnomalyTransformer,
    GridVectorizer,
    box_mask,
    box_share,
    composites,
    pattern_correlation,
    relevance_to_xarray,
)
from sklrp.metrics import randomization_similarity
from sklrp.plotting import RelevanceDisplay
from sklrp.propagation import register

enso = load_enso(
    example_data_path("sst_ndjfm_anom.nc"), base_period=None, normalize=False, neutral=True
)
sst = enso.sst.astype(np.float32)
removed = sst.where(abs(sst.latitude) > 15)
index = enso.index.values.astype(np.float32)
phases = enso.target_names[enso.target]  # beyond ±0.5 K El Niño or La Niña, else neutral
print(f"{len(index)} winters, index {index.min():.2f} to {index.max():.2f} K")

# %%
# The module
# ----------
# It could not be an ``nn.Sequential``: a residual block, batch normalisation, an ocean mask that
# is multiplied in so that land stays zero, and three constant channels, that mask and the
# coordinates, as a convolution does not know where it is. ``top`` is for later.


class Block(nn.Module):
    """Two convolutions beside a shortcut, zero on land."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x, ocean):
        out = F.relu(self.norm1(self.conv1(x))) * ocean
        return F.relu(x + self.norm2(self.conv2(out)) * ocean)


class TopMean(nn.Module):
    """Pooling over the map: the mean of the k largest values of each channel."""

    def __init__(self, k):
        super().__init__()
        self.k = k

    def forward(self, x):
        return x.flatten(2).topk(self.k, dim=2).values.mean(dim=2)


class OceanNet(nn.Module):
    """From fields (n_samples, n_latitudes, n_longitudes) to (n_samples, n_outputs)."""

    def __init__(self, constants, top=None, n_outputs=1):
        super().__init__()
        self.register_buffer("constants", torch.tensor(constants))  # mask, latitude, longitude
        self.register_buffer("share", F.avg_pool2d(self.constants[:1], 2))
        self.stem = nn.Conv2d(4, 8, 3, padding=1)
        self.block = Block(8)
        self.top = None if top is None else TopMean(top)
        self.head = nn.Linear(8, n_outputs)

    def forward(self, sst):
        constants = self.constants.expand(len(sst), -1, -1, -1)
        x = torch.cat([sst.unsqueeze(1), constants], dim=1)
        x = F.avg_pool2d(F.relu(self.stem(x)) * self.constants[0], 2)
        x = self.block(x, self.share)
        return self.head(x.mean(dim=(2, 3)) if self.top is None else self.top(x))


# %%
# In a pipeline and a search
# --------------------------
# skorch makes the module an estimator. Before it, each cell is centred and scaled and land becomes
# 0, all learned in ``fit``. :class:`~sklearn.model_selection.GridSearchCV` searches the module's
# own parameters as any others: here how it pools, over the whole map or over its k largest values.
# The three are as good as each other within the spread over folds.


def make_network(fields, kind=NeuralNetRegressor, **params):
    """Return an unfitted skorch net for fields."""
    ocean = fields[0].notnull().values
    lat, lon = (
        (v - v.mean()) / v.std() for v in (fields.latitude.values, fields.longitude.values)
    )
    constants = np.stack([ocean, *(ocean * np.meshgrid(lat, lon, indexing="ij"))])
    return kind(
        OceanNet,
        module__constants=constants.astype(np.float32),
        optimizer=torch.optim.AdamW,
        lr=0.02,
        max_epochs=60,
        batch_size=-1,
        train_split=None,
        verbose=0,
        **params,
    )


def make_steps(layout="grid"):
    """Return the steps before a model: anomalies, then arrays."""
    return AnomalyTransformer(climatology=None, standardize=True), GridVectorizer(layout=layout)


target = index[:, None]  # skorch wants a column
pipeline = make_pipeline(*make_steps(), make_network(sst))
torch.manual_seed(0)
search = GridSearchCV(
    pipeline,
    {"neuralnetregressor__module__top": [None, 40, 10]},
    cv=KFold(3, shuffle=True, random_state=0),
    refit=False,
).fit(sst, target)
print("\npooling: R², mean ± standard deviation over three folds")
results = search.cv_results_
for params, mean, std in zip(
    results["params"], results["mean_test_score"], results["std_test_score"], strict=True
):
    k = params["neuralnetregressor__module__top"]
    name = "mean of all" if k is None else f"mean of the {k} largest"
    print(f"  {name:<23} {mean:.2f} ± {std:.2f}")

# %%
# Which rule acts where
# ---------------------
# The plan names every step that relevance takes, in the order of the ``forward``. Under
# ``rule="epsilon"`` both batch normalisations are folded into the convolutions before them.

torch.manual_seed(0)
pipeline.fit(sst, target)
net = pipeline[-1]
X = pipeline[:-1].transform(sst)
predicted = net.predict(X)[:, 0]
before = copy.deepcopy(net.module_.state_dict())
modes = [m.training for m in net.module_.modules()]
print(f"\n{sklrp.plan(net, 'epsilon', X)}")

# %%
# ``return_details`` tells what the map leaves out, and the two add up to the prediction. What the
# constant channels take is booked as padding. It may be more than the map itself, as in the
# warmest winter here: the temperature is only a part of the story of a network that is told where
# it is, and the sum of its map says little.

relevance, details = sklrp.explain(net, X, rule="epsilon", return_details=True)
kept = {
    cause: sum(layer[cause] for layer in details.layers)
    for cause in ("bias", "epsilon", "padding", "dropped")
}
sums = relevance.sum(axis=(1, 2))
assert np.allclose(details.score, predicted, atol=1e-4)
assert np.allclose(sums + sum(kept.values()), details.score, atol=1e-3)
print("\nwhere relevance goes, in K:")
print(f"  {'winter':<10}{'prediction':>11}{'map':>8}" + "".join(f"{c:>9}" for c in kept))
for i in (int(index.argmax()), int(index.argmin())):
    print(
        f"  {str(sst.time.values[i])[:4]:<10}{details.score[i]:>11.2f}{sums[i]:>8.2f}"
        + "".join(f"{float(amount[i]):>z9.2f}" for amount in kept.values())
    )

# %%
# Nothing of the module has changed: parameters, buffers, mode, and no hook was left behind.

after = net.module_.state_dict()
assert list(after) == list(before)
assert all(torch.equal(after[name], before[name]) for name in before)
assert [m.training for m in net.module_.modules()] == modes
assert not any(m._forward_hooks or m._backward_hooks for m in net.module_.modules())
print("\nthe module is as it was")

# %%
# What the engine does not know
# -----------------------------
# The same network with ``TopMean``, as the search had it. Torch's ``topk`` is not among
# ``sklrp.propagation.supported()``, and a guess would be a wrong map that looks like any other.

torch.manual_seed(0)
top_net = make_network(sst, module__top=10).fit(X, target)
try:
    sklrp.explain(top_net, X)
except TypeError as error:
    print(f"\nTypeError: {error}")

# %%
# A handler runs the layer forward and returns how relevance is pulled back. Here the k largest
# cells share it by their values, and the others get none. :doc:`/adding_a_layer` has the details.


@register(TopMean)
def top_mean(step, signal):
    out = signal.apply(step.layer.forward)
    values, cells = signal.x.flatten(2).topk(step.layer.k, dim=2)
    total = values.sum(dim=2, keepdim=True)
    share = values / total.where(total != 0, 1.0)

    def pull(relevance, kept):
        passed = relevance.new_zeros(*relevance.shape, signal.x[0, 0].numel())
        cells_of_all = cells.expand(len(relevance), *cells.shape)
        passed.scatter_(3, cells_of_all, share * relevance[..., None])
        return passed.reshape(len(relevance), *signal.x.shape)

    return out, pull


# %%
# The test of a handler: a network that is piecewise linear has, under the rule zero, relevance
# equal to gradient times input. In double precision the two differ by rounding alone.

double = copy.deepcopy(top_net.module_).double().eval()
inputs = torch.from_numpy(X).double().requires_grad_()
(gradient,) = torch.autograd.grad(double(inputs).sum(), inputs)
expected = (gradient * inputs).detach()
found = sklrp.explain(double, inputs.detach(), rule="zero", epsilon=0.0)
difference = float((found - expected).abs().max() / expected.abs().max())
print(f"\nlargest difference from gradient times input, relative: {difference:.0e}")
assert difference < 1e-10

# %%
# Skill and maps over two seeds
# -----------------------------
# Five-fold cross-validation with two seeds, each with folds of its own. Each fold explains the
# winters that it has not seen; `sklrp.geo.relevance_to_xarray` puts the maps back on the grid. The
# map of the linear model is coefficient times value, for which no rule is needed.

seeds = range(2)
models = {
    "mean predictor": make_pipeline(*make_steps("features"), DummyRegressor()),
    "ridge regression": make_pipeline(
        *make_steps("features"), RidgeCV(alphas=np.logspace(-2, 5, 15))
    ),
    "network": pipeline,
}


def explain_fold(fold, fields):
    """Return the relevance of fields in K, on their grid."""
    values = fold[:-1].transform(fields)
    if isinstance(fold[-1], RidgeCV):
        maps = values * fold[-1].coef_
    else:
        maps = sklrp.explain(fold[-1], values, rule="epsilon")
    return relevance_to_xarray(maps, fold[1], like=fields, attrs={"units": "K"})


def cross_validate(model, fields, seed, explained=False):
    """Return the predictions of the winters left out and, if asked for, their maps."""
    predicted, maps = np.empty_like(index), []
    torch.manual_seed(seed)
    for train, test in KFold(n_splits=5, shuffle=True, random_state=seed).split(index):
        fold = clone(model).fit(fields[train], target[train])
        predicted[test] = np.ravel(fold.predict(fields[test]))
        if explained:
            maps.append(explain_fold(fold, fields[test]))
    return predicted, xr.concat(maps, "time").sortby("time") if explained else None


print("\nR² of the index, mean ± standard deviation over two seeds:")
print(f"  {'':<18}  whole field    tropics removed")
runs = {}
for name, model in models.items():
    line = f"  {name:<18}"
    for where, fields in [("all", sst), ("removed", removed)]:
        if name == "network":
            model = make_pipeline(*make_steps(), make_network(fields))
        explained = where == "all" and name != "mean predictor"
        runs[name, where] = [cross_validate(model, fields, seed, explained) for seed in seeds]
        r2 = np.array([r2_score(index, predicted) for predicted, _ in runs[name, where]])
        line += f"{r2.mean():>z9.2f} ± {r2.std():.2f}"
    print(line)

# %%
# `sklrp.geo.composites` averages the maps of El Niño winters that were predicted as such (beyond
# 0.5 K), and of La Niña winters likewise. What speaks for the prediction is positive relevance in
# the one and negative in the other; its share in the Niño 3.4 box stands beside the box's share
# of the cells, which a map that knows nothing would have, and that of the mean anomaly itself. Of
# El Niño the network's maps prefer the box more than the anomaly does, of La Niña they do not.

box = {"lat": (-5, 5), "lon": (190, 240)}
classes = ["El Niño", "La Niña"]
signs = xr.DataArray([1.0, -1.0], {"target": classes})


def mean_maps(maps, predicted):
    """Return the mean map of each class over the winters predicted as such."""
    called = np.where(np.abs(predicted) <= 0.5, "neutral", np.where(predicted > 0, *classes))
    return composites(maps, phases, called, classes=classes)["mean"]


means = {
    name: xr.concat([mean_maps(maps, p) for p, maps in runs[name, "all"]], "seed")
    for name in ("ridge regression", "network")
}
anomaly = composites(sst, phases, phases, classes=classes)["mean"]
ocean = sst[0].notnull()
cells = float((ocean & box_mask(sst, **box)).sum() / ocean.sum())
print("\nshare in the Niño 3.4 box of what speaks for the prediction, mean (range) over seeds:")
print(f"  {'':<18}" + "".join(f"{c:>22}" for c in classes))
print(f"  {'cells':<18}" + f"{cells:>22.1%}" * 2)
inputs_share = box_share(anomaly * signs, **box).values
print(f"  {'mean anomaly':<18}" + "".join(f"{share:>22.1%}" for share in inputs_share))
for name, maps in means.items():
    shares = box_share(maps * signs, **box).transpose("target", "seed").values
    text = [f"{s.mean():.1%} ({s.min():.1%}–{s.max():.1%})" for s in shares]
    print(f"  {name:<18}" + "".join(f"{t:>22}" for t in text))
print("correlation of the network's mean maps of the two seeds:")
for c in classes:
    maps = means["network"].sel(target=c)
    r = pattern_correlation(maps.isel(seed=0), maps.isel(seed=1), weights=None)
    print(f"  {c:<10} {float(r):.2f}")

# %%
# Is it learned?
# --------------
# The test against networks that lost what they learned: `sklrp.metrics.randomization_similarity`
# draws parameters anew, layer by layer from the last, on copies. 1 is the same map as before; here
# the last layer alone hardly changes it, and the last convolution does.
# `sklrp.diagnostics.diagnose` runs this and other tests, as below.

found = randomization_similarity(
    net, X, target=0, explain=sklrp.explain, similarity="cosine", rule="epsilon", random_state=0
)
print("\nmean |cosine| with the trained network's maps, as layers are drawn at random:")
for name, similarity in zip(found.layers, np.abs(found.similarity), strict=True):
    print(f"  {name:<12} {similarity.mean():.2f}")

# %%
# As a classifier
# ---------------
# A skorch net goes into `sklrp.RelevanceTransformer`, searches over rules,
# `sklrp.diagnostics.diagnose` and `sklrp.plotting.RelevanceDisplay` as it is. The classes are
# numbers, the outputs of the module: 1 is a winter warmer than usual in the box.

warm = (index > 0).astype(np.int64)
majority = max(warm.mean(), 1 - warm.mean())
classifier = make_network(
    sst, NeuralNetClassifier, module__n_outputs=2, criterion=nn.CrossEntropyLoss
)
cv = StratifiedKFold(n_splits=3, shuffle=True, random_state=0)
with TemporaryDirectory() as cache:
    torch.manual_seed(0)
    search = GridSearchCV(
        make_pipeline(
            *make_steps(),
            RelevanceTransformer(classifier, aggregate="row", memory=cache),
            StandardScaler(),
            LogisticRegression(),
        ),
        {"relevancetransformer__rule": ["epsilon", "gamma", "z_plus"]},
        cv=cv,
    ).fit(sst, warm)
print("\nrelevance by latitude as features, accuracy, mean ± standard deviation over folds:")
print(f"  the larger class alone {majority:.2f}")
results = search.cv_results_
for rule, mean, std in zip(
    results["param_relevancetransformer__rule"],
    results["mean_test_score"],
    results["std_test_score"],
    strict=True,
):
    print(f"  {rule:<8} {mean:.2f} ± {std:.2f}")

# %%
# Trained on every second winter and diagnosed on the others. The network has skill, its map lies
# more where the skill is than the input does, and cells move the score as the map says: the
# verdict is fact. But the map is a third of the way to the network's own contributions (*true*),
# and two rows are to be kept in mind. The box has not clearly more of the map than of the input
# or of random networks' maps (``mask``). And more than the whole score is missing from the map's
# sum (``bias``): biases and constant channels have it, as above.

steps = make_pipeline(*make_steps()).fit(sst[::2])
torch.manual_seed(0)
fitted = clone(classifier).fit(steps.transform(sst[::2]), warm[::2])
report = diagnose(
    fitted,
    steps.transform(sst[1::2]),
    warm[1::2],
    X_train=steps.transform(sst[::2]),
    rule="epsilon",
    mask=enso.nino34_mask,
    random_state=0,
)
print(f"\n{report}")

# %%
# The maps
# --------
# Means over two seeds of the winters that were predicted as such. Red raises the predicted
# index, blue lowers it. All four maps of relevance share one limit, so that a colour is the same
# amount in each of them. The box is Niño 3.4, grey is land.

display = RelevanceDisplay.from_relevance(
    {name: maps.mean("seed") for name, maps in means.items()},
    X=anomaly,
    labels=classes,
    outline=enso.nino34_mask,
    land=~ocean,
    show_input=True,
)
for (row, column), ax in np.ndenumerate(display.axes_):
    ax.set_title(f"{['mean anomaly', *means][column]}\n{classes[row]}", fontsize="medium")
for bar, label in zip(display.colorbars_, ["relevance", "anomaly"], strict=True):
    bar.set_label(f"{label} in K", fontsize="small")
display.figure_.savefig("own_network.png", dpi=110)
print(f"\nwrote {Path('own_network.png').resolve()}")
plt.show()
