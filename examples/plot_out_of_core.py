"""
Fields larger than memory
=========================

A large ensemble does not fit into memory, and neither do its relevance maps, which are as large.
They need not where xarray reads the fields lazily, through dask: `sklrp.geo.explain` then returns
lazy relevance, and ``to_zarr`` reads, explains and writes it in chunks of samples. Composites and
shares of regions are computed from what was stored in the same way.

Here the peak memory of that is measured at two sizes, in processes of their own, beside that of
explaining in memory. Needs the extra ``geo``; runs on Linux and macOS, where a process can ask for
its peak.
"""

# %%
# An ensemble with the covariance of real winters
# -----------------------------------------------
# The real anomalies of 50 Pacific winters (5 degrees, November to March, 1962 to 2011) are
# interpolated to 1 degree. A member of the ensemble is their sum with random normal weights, and
# thus a draw from the normal distribution that has their covariance: real patterns, in finer cells
# but without finer structure. Members beyond ±0.5 K in the Niño 3.4 index are El Niño or La Niña,
# those between are left out.

import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import joblib
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from eofs.examples import example_data_path
from sklearn.base import clone
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline

import sklrp
from sklrp import MLPClassifier
from sklrp.datasets import load_enso
from sklrp.geo import GridVectorizer, box_mask, box_mean, box_share, composites, explain
from sklrp.plotting import RelevanceDisplay

n_few, n_many = 750, 3000
box = {"lat": (-5, 5), "lon": (190, 240)}
winters = load_enso(
    example_data_path("sst_ndjfm_anom.nc"), base_period=None, normalize=False, neutral=True
).data
fine = winters.interp(latitude=np.arange(-22.0, 63.0), longitude=np.arange(118.0, 263.0))
patterns = (fine / np.sqrt(len(winters))).astype(np.float32).drop_vars("time")

rng = np.random.default_rng(0)
draws = rng.standard_normal((2 * n_many, len(winters)), dtype=np.float32)
weights = xr.DataArray(draws, dims=("member", "time"))
index = box_mean(patterns, **box) @ weights
members = np.flatnonzero(abs(index) > 0.5)[:n_many]
weights = weights[members].assign_coords(member=np.arange(len(members)))
y = np.where(index[members] > 0, "El Niño", "La Niña")
classes = np.unique(y)

# %%
# The fields are never in memory as a whole either: the product of weights in chunks and patterns
# is lazy, and ``to_zarr`` computes and writes it chunk by chunk. One store has a quarter of
# the members, the other all.

CHUNK = 25
folder = TemporaryDirectory()
root = Path(folder.name)
sizes = {n_few: root / "few.zarr", n_many: root / "many.zarr"}
for n, store in sizes.items():
    lazy = xr.dot(weights[:n].chunk(member=CHUNK), patterns, dim="time").rename("sst")
    lazy = lazy.chunk(latitude=-1, longitude=-1)
    lazy.to_zarr(store, consolidated=False, encoding={"sst": {"compressors": None}})
    print(f"{n} members of {lazy[0].size} cells: {lazy.nbytes / 2**20:.0f} MiB")

# %%
# A classifier
# ------------
# It is trained on 400 members. ``predict`` loads what it is given, and is given slices. The label
# is the sign of a mean over the 561 cells of the Niño 3.4 box: the accuracy says that the task is
# solved, and no more.

fields = xr.open_zarr(sizes[n_many], consolidated=False).sst
pipeline = make_pipeline(
    GridVectorizer(layout="grid", sample_dim="member"),
    MLPClassifier((16,), max_epochs=10, random_state=0),
)
train = slice(0, 400)
pipeline.fit(fields[train].load(), y[train])
slices = [slice(i, i + 400) for i in range(0, len(y), 400)]
predicted = np.concatenate([pipeline.predict(fields[part]) for part in slices])
accuracy = balanced_accuracy_score(y[400:], predicted[400:])
print(f"\nbalanced accuracy on the other {len(y) - 400} members: {accuracy:.3f} (chance: 0.5)")

# %%
# Peak memory, lazily and in memory
# ---------------------------------
# Each measurement is a fresh process that loads the pipeline, explains ten members to have
# everything ready, notes its peak so far, and then explains the store: under the epsilon rule, the
# logit of the predicted class minus that of the other. ``.load()`` is the only difference between
# the two ways. dask holds about as many chunks as it has workers: here two, on any machine.

WORK = """
import resource, sys, dask, joblib, xarray as xr
from sklrp.geo import explain

def peak():  # in MiB
    try:
        with open("/proc/self/status") as status:  # Linux
            return next(int(s.split()[1]) / 2**10 for s in status if s.startswith("VmHWM"))
    except FileNotFoundError:  # macOS, in bytes; on Linux a child may be told its parent's peak
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

store, out, pipeline, way, chunk = sys.argv[1:]
pipeline = joblib.load(pipeline)
fields = xr.open_zarr(store, consolidated=False).sst
explain(pipeline, fields[:10].load(), rule="epsilon", contrast=True)
idle = peak()
with dask.config.set(scheduler="threads", num_workers=2):
    if way == "in memory":
        fields = fields.load()
    relevance = explain(pipeline, fields, rule="epsilon", contrast=True)
    relevance = relevance.rename("relevance")
    relevance.chunk(member=int(chunk)).to_zarr(out, consolidated=False)
print(peak() - idle)
"""
joblib.dump(pipeline, root / "pipeline.joblib")
above, stored = {}, {}
print("\npeak memory above that of the idle process, MiB:")
for way in ("lazily", "in memory"):
    for n, store in sizes.items():
        stored[way, n] = root / f"{way} {n}.zarr"
        call = [store, stored[way, n], root / "pipeline.joblib", way, CHUNK]
        command = [sys.executable, "-c", WORK, *map(str, call)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        above[way, n] = float(done.stdout)
    few, many = (above[way, n] for n in sizes)
    print(f"  {way:<10}{few:>6.0f} for {n_few} members, {many:>5.0f} for {n_many}")

# %%
# The same numbers
# ----------------
# Both ways give the same relevance, and the chunks are no part of it: the first 100 members are
# explained once more in chunks of other sizes, also of parts of the grid, which are merged first.
# Differences are relative to the largest relevance.

relevance = xr.open_zarr(stored["lazily", n_many], consolidated=False).relevance
few = xr.open_zarr(stored["lazily", n_few], consolidated=False).relevance
in_memory = xr.open_zarr(stored["in memory", n_few], consolidated=False).relevance
largest = float(abs(few).max())
print(f"\nlargest difference from in memory: {float(abs(few - in_memory).max()) / largest:.0e}")
first = fields[:100].load()
settings = {"rule": "epsilon", "contrast": True}
whole = explain(pipeline, first, **settings)
for chunks in ({"member": 1}, {"member": 30}, {"member": 100}, {"latitude": 20}):
    other = explain(pipeline, first.chunk(chunks), **settings).compute()
    difference = float(abs(other - whole).max()) / largest
    print(f"  in chunks of {chunks}: {difference:.0e}")

# %%
# From the command line
# ---------------------
# ``python -m sklrp explain`` does the same for a saved classifier. It knows no vectorizer, so that
# ``--fill 0`` says what to put on land, as the vectorizer did. Here the process is killed on its
# way, as by the time limit of a batch system, and goes on with ``--resume``.

sklrp.save(pipeline[-1], root / "model.safetensors")
command = [sys.executable, "-m", "sklrp", "explain", "model.safetensors", "many.zarr"]
command += ["-o", "relevance.zarr", "--rule", "epsilon", "--contrast", "--fill", "0"]
progress = root / "relevance.zarr.part.json"
with subprocess.Popen(command, cwd=root) as process:
    while process.poll() is None and not progress.exists():
        time.sleep(0.01)
    process.kill()
n_done = json.loads(progress.read_text(encoding="utf-8"))["done"] if progress.exists() else len(y)
subprocess.run([*command, "--resume"], cwd=root, check=True)
print(f"\n$ {' '.join(['python', *command[1:]])}")
print(f"killed when {n_done} of {len(y)} members were done; then the same with --resume")
with xr.open_dataset(root / "relevance.zarr", engine="zarr", consolidated=False) as dataset:
    differences = [abs(dataset.relevance[p].load() - relevance[p]).max() for p in slices]
print(f"largest difference from sklrp.geo.explain: {float(max(differences)) / largest:.0e}")

# %%
# What the stored maps say
# ------------------------
# `sklrp.geo.composites` and `sklrp.geo.box_share` stay lazy until ``compute``, and need one pass
# over the store. The share of the positive relevance in the Niño 3.4 box stands beside the box's
# share of the cells, and beside that of the anomalies that speak for the class.

others = slice(400, None)
means = composites(relevance[others], y[others], predicted[others], sample_dim="member")
means = means.compute()
shares = box_share(relevance[others], **box).compute()
signs = xr.DataArray(np.where(y == "El Niño", 1, -1), dims="member")
own = box_share((fields * signs)[others], **box).compute()
ocean = patterns[0].notnull()
cells = float((ocean & box_mask(patterns, **box)).sum() / ocean.sum())
print(f"\nshare of the Niño 3.4 box: {cells:.1%} of the cells; median (5 % to 95 % of members):")
for c in classes:
    chosen = (y == c)[others]
    text = [
        "{1:.1%} ({0:.1%}–{2:.1%})".format(*np.quantile(values[chosen], (0.05, 0.5, 0.95)))
        for values in (own, shares)
    ]
    print(f"  {c}, {int(means['count'].sel(target=c))} members: anomaly {text[0]}, map {text[1]}")

# %%
# Both have about three times the box's share of the cells, but the maps have less of it than the
# anomalies themselves: they are no sharper than the fields. All this is one network. Five, trained
# from other seeds on the same members, agree on the share, but not on which class has the larger
# maps.

part = slice(400, 600)
medians, ratios = [], []
for seed in range(5):
    network = clone(pipeline).set_params(mlpclassifier__random_state=seed)
    network.fit(fields[train].load(), y[train])
    maps = explain(network, fields[part].load(), **settings)
    sums = maps.sum(("latitude", "longitude")).values
    medians.append(float(np.median(box_share(maps, **box))))
    ratios.append(sums[y[part] == "El Niño"].mean() / sums[y[part] == "La Niña"].mean())
print("\nof 200 members, mean (range) over five seeds:")
for what, values, form in [
    ("median share of the box", medians, ".1%"),
    ("mean sum of an El Niño map over that of a La Niña map", ratios, ".2f"),
]:
    print(f"  {what} {np.mean(values):{form}} ({min(values):{form}} to {max(values):{form}})")

# %%
# The picture
# -----------
# Left: the composites of El Niño and La Niña, each divided by its sum of absolute values. Red
# speaks for the class, blue against it, and grey is land. Right: what explaining takes at its
# peak, and the size of what is read and written.

fig, axes = plt.subplots(
    1, 3, figsize=(13, 3.4), layout="constrained", gridspec_kw={"width_ratios": (1.2, 1.2, 1)}
)
display = RelevanceDisplay.from_relevance(
    means["mean"],
    labels=classes,
    normalize="l1",
    outline=box_mask(patterns, **box),
    ax=axes[:2],
)
for ax, c in zip(axes, classes, strict=False):
    ax.set_title(f"{c}, mean of {int(means['count'].sel(target=c))} members", fontsize="medium")
ax = axes[2]
both = [2 * xr.open_zarr(store, consolidated=False).sst.nbytes / 2**20 for store in sizes.values()]
for way, marker in (("in memory", "s"), ("lazily", "o")):
    ax.plot(list(sizes), [above[way, n] for n in sizes], marker=marker, label=f"peak, {way}")
ax.plot(list(sizes), both, color="0.5", ls="--", label="fields and relevance")
ax.set_xticks(list(sizes))
ax.set_xlim(0, None)
ax.set_ylim(0, None)
ax.set_xlabel("members")
ax.set_ylabel("MiB")
ax.legend(frameon=False)
fig.savefig("out_of_core.png", dpi=110)
folder.cleanup()
print(f"\nwrote {Path('out_of_core.png').resolve()}")
plt.show()
