"""
A transformer: relevance beside attention weights
=================================================

Pictures of attention weights are often shown as explanations. They say where a transformer looks,
not what it takes from there, nor whether that raises or lowers the score. Relevance passes through
the whole network, attention and all.

Here a small transformer reads a series of 30 steps with two events. A large one at a random place
tells nothing, and a smaller one tells the class by its sign. Both places are known, so that maps
can be graded.

What you learn here: how to explain a network of `torch` with attention, and how to choose its rule
of attention.
"""

# %%
# A transformer, as torch has it
# ------------------------------

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

import sklrp

rng = np.random.default_rng(0)
n, n_steps = 2400, 30
y = rng.integers(2, size=n)
X = rng.normal(scale=0.3, size=(n, n_steps)).astype(np.float32)
signal = rng.integers(n_steps, size=n)
distractor = (signal + rng.integers(3, n_steps - 2, size=n)) % n_steps
X[np.arange(n), signal] += np.where(y == 1, 2, -2)
X[np.arange(n), distractor] += 5


class Transformer(nn.Module):
    """One layer of an encoder over the steps of a series, read out by their mean."""

    def __init__(self, width=16):
        super().__init__()
        self.embed = nn.Linear(1, width)
        self.place = nn.Parameter(0.02 * torch.randn(n_steps, width))
        self.block = nn.TransformerEncoderLayer(width, 2, 32, dropout=0.0, batch_first=True)
        self.read = nn.Linear(width, 2)

    def forward(self, x):
        return self.read(self.block(self.embed(x[..., None]) + self.place).mean(dim=1))


torch.manual_seed(0)
model = Transformer()
optimizer = torch.optim.AdamW(model.parameters(), lr=0.005)
inputs, classes = torch.from_numpy(X), torch.from_numpy(y)
train, test = slice(0, 2000), slice(2000, None)
for _ in range(12):
    for rows in torch.randperm(2000).split(50):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[rows]), classes[rows]).backward()
        optimizer.step()
model.eval()
with torch.no_grad():
    accuracy = (model(inputs[test]).argmax(dim=1) == classes[test]).float().mean()
print(f"accuracy on {n - 2000} series it has not seen: {accuracy:.3f}")

# %%
# The ten lines
# -------------
# A `Composite` says which rule of attention it takes. ``"attnlrp"`` lets queries and keys have
# relevance, ``"constant"`` takes attention weights for constants. Relevance is of the logit of the
# true class minus the other.

X_test, y_test = X[test], y[test]
maps = {}
for attention in ("attnlrp", "constant"):
    rule = sklrp.Composite([("all", sklrp.Epsilon(), "all")], attention=attention)
    name = f"relevance, {attention}"
    maps[name] = sklrp.explain(model, X_test, target=y_test, contrast=True, rule=rule)

with torch.no_grad():
    tokens = model.embed(inputs[test][..., None]) + model.place
    weights = model.block.self_attn(tokens, tokens, tokens)[1]  # means over the heads
maps["attention weights"] = weights.mean(dim=1).numpy()
maps["|input|"] = np.abs(X_test)

rows = np.arange(len(X_test))
print("share of the map (absolute values) on the event that tells, and on the one that does not:")
for name, values in maps.items():
    shares = np.abs(values) / np.abs(values).sum(axis=1, keepdims=True)
    tells, tells_not = shares[rows, signal[test]].mean(), shares[rows, distractor[test]].mean()
    print(f"  {name:<22}{tells:6.1%}{tells_not:8.1%}")
for attention in ("attnlrp", "constant"):
    raises = np.mean(maps[f"relevance, {attention}"][rows, signal[test]] > 0)
    print(f"{attention}: the event that tells speaks for the true class in {raises:.0%} of series")

# %%
# The two rules of attention are close here, and put nearly half of the map on the one step that
# tells. The attention weights find it too, with less contrast: they have no sign and know of no
# class. Which rule to take? ``"attnlrp"`` if it matters why a step is looked at, ``"constant"`` if
# it matters what is taken from where; :doc:`/networks` has more.
#
# The picture
# -----------
# One series of the test, its relevance by ``"attnlrp"``, and the attention that its steps get, as
# means over heads and over the steps that look.

one = int(np.argmax(np.abs(X_test[rows, distractor[test]])))
colors = np.full(n_steps, "0.7", dtype=object)
colors[signal[test][one]], colors[distractor[test][one]] = "tab:red", "tab:blue"
fig, axes = plt.subplots(3, 1, figsize=(8, 6), sharex=True, layout="constrained")
axes[0].bar(range(n_steps), X_test[one], color=colors)
axes[0].set(title="the series: red tells the class, blue is a distraction", ylabel="input")
axes[1].bar(range(n_steps), maps["relevance, attnlrp"][one], color=colors)
axes[1].set(title="relevance for the true class minus the other", ylabel="logits")
axes[2].bar(range(n_steps), maps["attention weights"][one], color=colors)
axes[2].set(title="attention weights", ylabel="weight", xlabel="step")
for ax in axes:
    ax.axhline(0, color="black", lw=0.8)
fig.savefig("transformer.png", dpi=100)
print(f"\nwrote {Path('transformer.png').resolve()}")
plt.show()
