"""
A network read from a Keras file
================================

Somebody trained a network in Keras, perhaps years ago, and sent you the file. `sklrp.from_keras`
reads it without Keras and without TensorFlow, and from then on it is a network like any other: it
is explained, drawn and tested.

What you learn here: the lines that do it, and the two checks to make first, that its scores are
those of Keras and that its map tells more than a network with random weights would.

Needs the extra ``keras``, and Keras itself for the first part, which makes the file.
"""

# %%
# The file
# --------
# A convolutional network of Keras tells El Niño winters from La Niña winters by the anomalies of
# sea-surface temperature. Every other winter is for the test. The file could as well come from
# TensorFlow; here Keras runs on torch.

import os
import warnings

os.environ["KERAS_BACKEND"] = "torch"
from pathlib import Path
from tempfile import TemporaryDirectory

import keras
import matplotlib.pyplot as plt
import numpy as np
import torch

import sklrp
from sklrp.datasets import load_pacific_sst
from sklrp.diagnostics import diagnose
from sklrp.plotting import RelevanceDisplay

sst = load_pacific_sst()
X = np.nan_to_num(sst.data)[..., np.newaxis].astype("float32")  # winters, latitudes, longitudes, 1
y = sst.target
keras.utils.set_random_seed(0)
layers = keras.layers
model = keras.Sequential(
    [
        keras.Input(X.shape[1:]),
        layers.Conv2D(8, 3, padding="same", activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(16, activation="relu"),
        layers.Dense(2, activation="softmax"),
    ]
)
model.compile(keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy")
model.fit(X[::2], y[::2], epochs=15, verbose=0)
folder = TemporaryDirectory()
path = Path(folder.name, "enso.keras")
warnings.filterwarnings("ignore", "__array__ implementation")  # of Keras and NumPy 2
model.save(path)

# %%
# The ten lines
# -------------
# The map has the shape of the winters, channels last, as Keras has them. A softmax at the end is
# stepped over: the relevance is of the logit of each winter's class, less that of the other.

network = sklrp.from_keras(path)
X_test, y_test = X[1::2], y[1::2]
relevance, details = sklrp.explain(
    network, X_test, target=y_test, contrast=True, rule="epsilon", return_details=True
)
print(sklrp.plan(network, "epsilon", X_test))

# %%
# Is it the same network?
# -----------------------

scores = network(torch.from_numpy(X_test)).detach().numpy()
difference = np.abs(scores - model.predict(X_test, verbose=0)).max()
print(
    f"\naccuracy {np.mean(scores.argmax(axis=1) == y_test):.2f} on {len(y_test)} winters;", end=" "
)
print(f"largest difference from what Keras predicts: {difference:.0e}")

# %%
# Does the map tell of what was learned?
# --------------------------------------
# :func:`~sklrp.diagnostics.diagnose` takes the network as it is. Of its five questions four are
# answered with fact. With 17 winters one stays open, whether the map lies where the skill is, and
# so does the verdict.

report = diagnose(
    network, X_test, y_test, X_train=X[::2], rule="epsilon", contrast=True, random_state=0
)
print(f"\n{report.verdict}")
for question, finding in report.questions.items():
    print(f"  {question}: {finding.verdict}")

# %%
# The picture
# -----------
# Mean maps of the winters of each kind in the test: red raises the score of their class over the
# other, blue lowers it, grey is land, and the box is Niño 3.4.

fig, axes = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
RelevanceDisplay.from_relevance(
    relevance[..., 0],
    labels=sst.target_names[y_test],
    kind="class_mean",
    grid=sst,
    outline=sst.nino34_mask,
    unit="mean relevance (logits)",
    ax=axes,
)
fig.savefig("keras.png", dpi=100)
folder.cleanup()
print(f"\nwrote {Path('keras.png').resolve()}")
plt.show()
