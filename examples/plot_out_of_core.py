"""
Fields larger than memory
=========================

A large ensemble does not fit into memory, and neither do its relevance maps, which are as large.
They need not where xarray reads the fields lazily, through dask: `sklrp.geo.explain` then returns
lazy relevance, and ``to_zarr`` reads, explains and writes it in chunks of samples. Composites are
computed from what was stored in the same way.

What you learn here: the lines that do it, and what they take. The peak memory is measured at two
sizes, in processes of their own, beside that of explaining in memory. Needs the extra ``geo``;
runs on Linux and macOS, where a process can ask for its peak.
"""

# %%
# An ensemble in a file
# ---------------------
# The real anomalies of 50 Pacific winters (5 degrees, November to March, 1962 to 2011) are
# interpolated to 1 degree. A member of the ensemble is their sum with random normal weights: real
# patterns, in finer cells but without finer structure. Members beyond ±0.5 K in the Niño 3.4 index
# are El Niño or La Niña, those between are left out. The product of weights in chunks and patterns
# is lazy, so that the fields are never in memory as a whole.

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import joblib
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from eofs.examples import example_data_path
from sklearn.pipeline import make_pipeline

from sklrp import MLPClassifier
from sklrp.datasets import load_enso
from sklrp.geo import GridVectorizer, box_mask, box_mean, box_share, composites, explain
from sklrp.plotting import RelevanceDisplay

box = {"lat": (-5, 5), "lon": (190, 240)}
winters = load_enso(
    example_data_path("sst_ndjfm_anom.nc"), base_period=None, normalize=False, neutral=True
).data
fine = winters.interp(latitude=np.arange(-22.0, 63.0), longitude=np.arange(118.0, 263.0))
patterns = (fine / np.sqrt(len(winters))).astype(np.float32).drop_vars("time")

sizes, chunk = (500, 2000), 25
draws = np.random.default_rng(0).standard_normal((2 * sizes[-1], len(winters)), dtype=np.float32)
weights = xr.DataArray(draws, dims=("member", "time"))
index = box_mean(patterns, **box) @ weights
members = np.flatnonzero(abs(index) > 0.5)[: sizes[-1]]
weights = weights[members].assign_coords(member=np.arange(len(members)))
y = np.where(index[members] > 0, "El Niño", "La Niña")

folder = TemporaryDirectory()
root = Path(folder.name)
lazy = xr.dot(weights.chunk(member=chunk), patterns, dim="time").rename("sst")
lazy = lazy.chunk(latitude=-1, longitude=-1)
lazy.to_zarr(root / "sst.zarr", consolidated=False, encoding={"sst": {"compressors": None}})
print(f"{len(lazy)} members of {lazy[0].size} cells: {lazy.nbytes / 2**20:.0f} MiB")

# %%
# The ten lines
# -------------
# The classifier is trained on 400 members, which fit into memory. ``explain`` reads nothing yet,
# ``to_zarr`` does it all, and the mean maps of the classes are one more pass over the store.

fields = xr.open_zarr(root / "sst.zarr", consolidated=False).sst
pipeline = make_pipeline(
    GridVectorizer(layout="grid", sample_dim="member"),
    MLPClassifier((16,), max_epochs=10, random_state=0),
)
pipeline.fit(fields[:400].load(), y[:400])
relevance = explain(pipeline, fields, rule="epsilon", contrast=True).rename("relevance")
relevance.chunk(member=chunk).to_zarr(root / "relevance.zarr", consolidated=False)

stored = xr.open_zarr(root / "relevance.zarr", consolidated=False).relevance[400:]
predicted = np.concatenate(
    [pipeline.predict(fields[i : i + 400]) for i in range(400, sizes[-1], 400)]
)
means = composites(stored, y[400:], predicted, sample_dim="member").compute()
print(f"accuracy on the other {len(predicted)} members: {np.mean(predicted == y[400:]):.3f}")

first = fields[:100].load()
whole = explain(pipeline, first, rule="epsilon", contrast=True)
again = explain(pipeline, first.chunk(member=30, latitude=20), rule="epsilon", contrast=True)
difference = float(abs(again.compute() - whole).max() / abs(whole).max())
print(f"largest difference between chunks and memory, relative: {difference:.0e}")

# %%
# The label is the sign of a mean over the Niño 3.4 box: the accuracy says that the task is solved,
# and no more. The share of the positive relevance in the box stands beside the box's share of the
# cells.

ocean = patterns[0].notnull()
cells = float((ocean & box_mask(patterns, **box)).sum() / ocean.sum())
share = float(np.median(box_share(stored, **box).compute()))
print(f"the Niño 3.4 box has {cells:.1%} of the cells and {share:.1%} of the relevance (median)")

# %%
# Peak memory, lazily and in memory
# ---------------------------------
# Each way has a fresh process that explains ten members to have everything ready, notes its peak
# so far, and then explains the store, a quarter of it first. ``.load()`` is the only difference
# between the two. dask holds about as many chunks as it has workers: here two, on any machine.

WORK = """
import resource, sys, dask, joblib, xarray as xr
from sklrp.geo import explain

def peak():  # in MiB
    try:
        with open("/proc/self/status") as status:  # Linux
            return next(int(s.split()[1]) / 2**10 for s in status if s.startswith("VmHWM"))
    except FileNotFoundError:  # macOS, in bytes; on Linux a child may be told its parent's peak
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

store, out, pipeline, way, chunk, *sizes = sys.argv[1:]
pipeline = joblib.load(pipeline)

def explain_members(n):
    fields = xr.open_zarr(store, consolidated=False).sst[:n]
    if way == "in memory":
        fields = fields.load()
    relevance = explain(pipeline, fields, rule="epsilon", contrast=True).rename("relevance")
    relevance.chunk(member=int(chunk)).to_zarr(f"{out} {n}.zarr", consolidated=False)

explain_members(10)
idle = peak()
with dask.config.set(scheduler="threads", num_workers=2):
    for n in map(int, sizes):
        explain_members(n)
        print(peak() - idle)
"""
joblib.dump(pipeline, root / "pipeline.joblib")
above = {}
print("\npeak memory above that of the idle process, MiB:")
for way in ("lazily", "in memory"):
    call = [root / "sst.zarr", root / way, root / "pipeline.joblib", way, chunk, *sizes]
    command = [sys.executable, "-c", WORK, *map(str, call)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    above[way] = [float(line) for line in done.stdout.splitlines()]
    few, many = above[way]
    print(f"  {way:<10}{few:>6.0f} for {sizes[0]} members, {many:>5.0f} for {sizes[1]}")

# %%
# The picture
# -----------
# Left: the mean maps of El Niño and La Niña, each divided by its sum of absolute values. Red
# raises the score of the class, blue lowers it, and grey is land; the box is Niño 3.4. Right: what
# explaining takes at its peak, and the size of what is read and written.

shares = 100 * means["mean"] / abs(means["mean"]).sum(("latitude", "longitude"))
fig, axes = plt.subplots(
    1, 3, figsize=(13, 3.4), layout="constrained", gridspec_kw={"width_ratios": (1.2, 1.2, 1)}
)
RelevanceDisplay.from_relevance(
    shares.drop_attrs(),
    labels=np.unique(y),
    unit="% of the map",
    outline=box_mask(patterns, **box),
    land=~ocean,
    ax=axes[:2],
)
for ax, c in zip(axes, np.unique(y), strict=False):
    ax.set_title(f"{c}, mean of {int(means['count'].sel(target=c))} members", fontsize="medium")
ax = axes[2]
both = [2 * n * lazy[0].nbytes / 2**20 for n in sizes]
for way, marker in (("in memory", "s"), ("lazily", "o")):
    ax.plot(sizes, above[way], marker=marker, label=f"peak, {way}")
ax.plot(sizes, both, color="0.5", ls="--", label="fields and relevance")
ax.set_xticks(sizes)
ax.set(xlim=(0, None), ylim=(0, None), xlabel="members", ylabel="MiB", title="memory")
ax.legend(frameon=False)
fig.savefig("out_of_core.png", dpi=110)
folder.cleanup()
print(f"\nwrote {Path('out_of_core.png').resolve()}")
plt.show()
