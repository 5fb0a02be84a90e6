"""
What a downscaling network looks at
===================================

A U-Net makes a field on a fine grid from one on a coarse grid. Its output is 540 numbers, and a
map of relevance is of one: of a cell, or of a region, by its latitude and longitude on the
output's own grid, which is not that of the input.

The fields are real, the coarse ones are means of the fine ones: sea-surface temperature of the
Pacific on 15 degrees and on 5. A perfect network would look at a cell and at its neighbours, as
what is not in the mean of a cell shows in the gradient around it.
"""

# %%
# Fields
# ------
# Anomalies of 50 winters, 38 for training and 12 held out. A coarse cell is the mean over its
# cells of ocean, and 0 where there are none.

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from eofs.examples import example_data_path
from scipy import ndimage
from sklearn.linear_model import Ridge
from torch import nn

from sklrp.datasets import load_enso
from sklrp.geo import GridVectorizer, explain

fine = load_enso(
    example_data_path("sst_ndjfm_anom.nc"), base_period=None, normalize=False, neutral=True
).sst.astype(np.float32)
coarse = fine.coarsen(latitude=3, longitude=3).mean().fillna(0)
ocean = fine[0].notnull().values
order = np.random.default_rng(0).permutation(50)
train, test = order[:38], order[38:]

# %%
# The U-Net
# ---------
# It adds to the interpolated field what interpolation misses: down to the coarse grid and up
# again, with a skip connection, and with the ocean as a second channel.


class UNet(nn.Module):
    """From rows of 6 x 10 coarse cells to fields of 18 x 30."""

    def __init__(self, channels=16):
        super().__init__()
        self.register_buffer("ocean", torch.from_numpy(ocean).float()[None, None])
        self.stem = nn.Conv2d(2, channels, 3, padding=1)
        self.down = nn.Conv2d(channels, 2 * channels, 3, stride=3)
        self.deep = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1)
        self.up = nn.ConvTranspose2d(2 * channels, channels, 3, stride=3)
        self.last = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.out = nn.Conv2d(channels, 1, 1)

    def forward(self, rows):
        smooth = F.interpolate(rows.reshape(-1, 1, 6, 10), scale_factor=3, mode="bilinear")
        skip = F.relu(self.stem(torch.cat([smooth, self.ocean.expand_as(smooth)], dim=1)))
        deep = F.relu(self.up(F.relu(self.deep(F.relu(self.down(skip))))))
        rest = self.out(F.relu(self.last(torch.cat([skip, deep], dim=1))))
        return ((smooth + rest) * self.ocean)[:, 0]


vectorizer = GridVectorizer().fit(coarse)
X, y = vectorizer.transform(coarse), fine.fillna(0).values
torch.manual_seed(0)
net = UNet()
optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1.0)
inputs, wanted = torch.from_numpy(X[train]), torch.from_numpy(y[train])
for _ in range(150):
    optimizer.zero_grad()
    (net(inputs) - wanted)[:, ocean].square().mean().backward()
    optimizer.step()

with torch.no_grad():
    downscaled = net.eval()(torch.from_numpy(X[test])).numpy()
    smooth = F.interpolate(
        torch.from_numpy(X[test]).reshape(-1, 1, 6, 10), scale_factor=3, mode="bilinear"
    )[:, 0].numpy()
ridge = Ridge(1.0).fit(X[train], y[train].reshape(38, -1))
print("error (RMS) over the ocean in 12 winters that were held out, in K")
for name, field in {
    "coarse cells": np.kron(X[test].reshape(-1, 6, 10), np.ones((3, 3))),
    "interpolation": smooth,
    "ridge regression": ridge.predict(X[test]).reshape(-1, 18, 30),
    "U-Net": downscaled,
}.items():
    errors = np.sqrt(((field - y[test])[:, ocean] ** 2).mean(axis=1))
    print(f"  {name:<18} {np.sqrt((errors**2).mean()):.3f}  (winters {np.ptp(errors):.2f} apart)")

# %%
# The core: one cell and one region
# ---------------------------------
# A cell at the northern edge of a coarse cell, and the Niño 3.4 box. The relevance of a region is
# of the sum over its cells; divided by their number it is of the mean, in K. A target outside the
# grid is refused, and nothing is clipped.

targets = {
    "one cell": {"latitude": 2.5, "longitude": 212.5},
    "Niño 3.4": {"latitude": slice(-5, 5), "longitude": slice(190, 240)},
}
options = {"vectorizer": vectorizer, "output": fine, "rule": "epsilon"}
maps = {name: explain(net, coarse[test], target=t, **options) for name, t in targets.items()}
untrained = explain(UNet().eval(), coarse[test], target=targets["Niño 3.4"], **options)
try:
    explain(net, coarse[test], target={"latitude": 72.5}, **options)
except ValueError as error:
    print(f"\nValueError: {error}")

# %%
# How far it looks
# ----------------
# Most relevance lies on the coarse cells that hold the target, and little beyond their neighbours.
# That is the architecture, as an untrained U-Net interpolates too: it is no proof of anything
# learned. What training adds lies on the neighbours.

rows, columns = np.indices((6, 10))
print("\nshare of absolute relevance      own cells  neighbours  beyond")
inside = {
    "one cell": (rows == 1) & (columns == 6),
    "Niño 3.4": (rows == 1) & (columns >= 5) & (columns <= 8),
}
for name, found in {**maps, "Niño 3.4, untrained": untrained}.items():
    own = inside[name.removesuffix(", untrained")]
    near = ndimage.binary_dilation(own, np.ones((3, 3))) & ~own
    size = np.abs(found.values).sum(axis=0)
    shares = [size[part].sum() / size.sum() for part in (own, near, ~own & ~near)]
    print(f"  {name:<30}" + "".join(f"{share:>10.1%}" for share in shares))

# %%
# In pictures
# -----------
# The held-out winter of the warmest box. Black lines are the targets, on the fine grid; relevance
# is on the coarse one. Grey is land.

winter = int(fine[test].sel(targets["Niño 3.4"]).mean(("latitude", "longitude")).values.argmax())
year = int(fine.time.dt.year[test[winter]])
edges = [np.append(v - 2.5, v[-1] + 2.5) for v in (fine.longitude.values, fine.latitude.values)]
anomalies = {
    "input, 15°": np.kron(X[test[winter]].reshape(6, 10), np.ones((3, 3))),
    "U-Net, 5°": np.where(ocean, downscaled[winter], np.nan),
    "truth, 5°": fine[test[winter]].values,
}
relevances = {
    "relevance for one cell": maps["one cell"][winter],
    "for the mean over Niño 3.4": maps["Niño 3.4"][winter] / 20,
    "the same, untrained U-Net": untrained[winter] / 20,
}
fig, axes = plt.subplots(2, 3, figsize=(12, 5.4), layout="constrained", sharex=True, sharey=True)
blocks = {name: np.kron(field, np.ones((3, 3))) for name, field in relevances.items()}
for row, panels, limit, colors, what in (
    (axes[0], anomalies, 3.0, "PuOr_r", "anomaly in K"),
    (axes[1], blocks, 1.5, "RdBu_r", "relevance in K"),
):
    for ax, (title, field) in zip(row, panels.items(), strict=True):
        mesh = ax.pcolormesh(*edges, field, cmap=colors, vmin=-limit, vmax=limit)
        ax.set(title=title, facecolor="0.7", aspect="equal")
        corner, width, height = ((210, 0), 5, 5) if "cell" in title else ((190, -5), 50, 10)
        ax.add_patch(plt.Rectangle(corner, width, height, fill=False, lw=1.2))
    fig.colorbar(mesh, ax=row, label=what, extend="both", pad=0.01)
for ax in axes[1]:
    ax.set_xticks([120, 180, 240], ["120°E", "180°", "120°W"])
for ax in axes[:, 0]:
    ax.set_yticks([-20, 0, 20, 40, 60], ["20°S", "0°", "20°N", "40°N", "60°N"])
fig.suptitle(f"The winter of {year - 1}/{year % 100:02}, from 15 degrees to 5")
fig.savefig("downscaling.png", dpi=110)
print(f"\nwrote {Path('downscaling.png').resolve()}")
plt.show()
