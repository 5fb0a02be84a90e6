"""
Hidden layers: which channels carry El Niño?
============================================

The channels of a convolutional network are its own concepts: this one answers to a warm equator,
that one to a cold coast. Relevance passes through them on its way from the score to the input,
and `layers=` keeps what arrives at a layer. Summed over latitude and longitude it says what each
channel contributes to the score; before it is summed it is a map of each channel.

What you learn here: how to read the relevance of a hidden layer, and how to test that the channels
it names are the ones that matter.
"""

# %%
# The ten lines
# -------------
# Anomalies of sea-surface temperature, El Niño or La Niña; every other winter is for the test. At
# the output of the first convolution the grid is still the one of the input.

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from sklrp import CNNClassifier
from sklrp.datasets import load_pacific_sst
from sklrp.plotting import RelevanceDisplay

sst = load_pacific_sst()
X, y = sst.data, sst.target_names[sst.target]
clf = CNNClassifier((8, 16), max_epochs=30, random_state=0).fit(X[::2], y[::2])
X_test, y_test = X[1::2], y[1::2]
relevance, details = clf.explain(X_test, target=y_test, rule="epsilon", layers=["conv1"])
hidden = details.layer_relevance["conv1"]  # winters, channels, latitudes, longitudes
carried = hidden.sum(axis=(2, 3))  # winters, channels
classes = np.unique(y)
means = {c: carried[y_test == c].mean(axis=0) for c in classes}
print(f"accuracy on {len(X_test)} winters: {clf.score(X_test, y_test):.2f}")
for c, values in means.items():
    print(f"{c}: relevance of each channel in logits {np.round(values, 2)}")

# %%
# Does the network agree?
# -----------------------
# Relevance is a claim about the network, and the network can be asked. Set one channel to zero and
# see what is lost of the score of the true class minus that of the other.


def margin(channels=()):
    """Return the mean score of the true class minus the other, with channels of conv1 at zero."""
    channels = torch.tensor(channels, dtype=torch.long)
    hook = clf.module_.conv1.register_forward_hook(
        lambda layer, args, out: out.index_fill(1, channels, 0.0)
    )
    try:
        return np.mean(clf.decision_function(X_test) * np.where(y_test == classes[1], 1, -1))
    finally:
        hook.remove()


lost = np.array([margin() - margin([channel]) for channel in range(8)])
order = np.argsort(-carried.mean(axis=0))
print("\nchannel, relevance of the true class, and what the margin loses without the channel:")
for channel in order:
    print(f"  {channel}   {carried[:, channel].mean():6.2f} {lost[channel]:6.2f}")
r = np.corrcoef(carried.mean(axis=0), lost)[0, 1]
print(f"correlation over the channels: {r:.2f}")

# %%
# It does: the channels that relevance names are those whose loss hurts. (The margin loses more
# than the relevance, as it also counts what channels say against the other class.) One channel
# carries El Niño, two share La Niña, and two of the eight do next to nothing.
#
# The picture
# -----------
# Left what each channel carries. Right the maps of the two channels that carry most, for the class
# that they carry: the mean relevance at the output of the convolution, on the grid. Red raises the
# score, blue lowers it, grey is land, and the box is Niño 3.4.

fig, axes = plt.subplots(1, 3, figsize=(14, 3.4), width_ratios=(1, 1.3, 1.3), layout="constrained")
for c, shift, color in zip(classes, (-0.2, 0.2), ("tab:red", "tab:blue"), strict=True):
    axes[0].bar(np.arange(8) + shift, means[c], width=0.4, color=color, label=c)
axes[0].axhline(0, color="black", lw=0.8)
axes[0].set(xlabel="channel of conv1", ylabel="mean relevance (logits)", xticks=range(8))
axes[0].set_title("which channels carry the score")
axes[0].legend(frameon=False)
chosen = {c: int(np.argmax(means[c])) for c in classes}
maps = [hidden[y_test == c, channel].mean(axis=0) for c, channel in chosen.items()]
RelevanceDisplay.from_relevance(
    np.stack(maps),
    grid=sst,
    outline=sst.nino34_mask,
    unit="mean relevance (logits)",
    ax=axes[1:],
)
for ax, (c, channel) in zip(axes[1:], chosen.items(), strict=True):
    ax.set(title=f"channel {channel}, {c}", xlabel="")
fig.savefig("hidden_layers.png", dpi=100)
print(f"\nwrote {Path('hidden_layers.png').resolve()}")
plt.show()
