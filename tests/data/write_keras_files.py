"""Write the files of this folder: models that Keras on TensorFlow saved, and what they predict.

Run it from the root of the checkout, once in an environment with ``tensorflow-cpu==2.15.*`` (Keras
2) and once in one with ``tensorflow-cpu==2.21.*`` (Keras 3); neither is needed to read the files:

    python tests/data/write_keras_files.py
"""

import importlib.util
from pathlib import Path

import keras
import numpy as np

HERE = Path(__file__).parent
L = keras.layers

# Where Keras 2 differs from Keras 3, or Keras on torch from TensorFlow.
FILES = {
    "keras2.h5": [
        "dense hard_sigmoid", "GRU reset before", "LSTM hard gates", "batch norm axis 2",
        "embedding masked both ways", "models in models",
    ],
    "keras2.keras": [
        "conv2d even kernel same strided", "bidirectional LSTM sum", "separable 2d",
        "models in models",
    ],
    "keras2_alone.weights.h5": ["Average pooling 2d same size 3 strides 3", "models in models"],
    "keras3.keras": [
        "Average pooling 2d same size 3 strides 3", "Average pooling 1d same size 3 strides 1",
        "conv1d transposed kernel 3 strides 2 same", "conv1d causal strided", "masking",
    ],
}  # fmt: skip


def load_cases():
    """Return the module of cases by its path: the checkout need not be installed there."""
    place = HERE.parent / "helpers" / "keras_models.py"
    spec = importlib.util.spec_from_file_location("keras_models", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def models_in_models(L, Input):
    """Return the ends of a model with a model in it twice, and functions of TensorFlow."""
    inner = keras.Sequential(
        [Input((4,)), L.Dense(5, activation="tanh"), L.BatchNormalization(), L.Dense(4)]
    )
    inner.layers[0].trainable = False  # its arrays stand elsewhere in the older format then
    start = Input((4,))
    x = inner(inner(start)) + start
    return start, L.Dense(3)(2.0 * x[:, 1:] - 1.0)


def write(file, names):
    """Write one model, whose branches are cases, with samples and what it predicts of them."""
    helpers, path = load_cases(), HERE / file
    cases = {**helpers.CASES, "models in models": models_in_models}
    ends = [cases[name](L, keras.Input) for name in names]
    model = keras.Model([start for start, _ in ends], [end for _, end in ends])
    helpers.randomise(model)
    X = helpers.samples_of(model.inputs)
    arrays = {f"X{k:02d}": x for k, x in enumerate(X)}
    arrays |= {f"y{k:02d}": np.asarray(y) for k, y in enumerate(model(X))}
    np.savez_compressed(HERE / f"{file}.npz", **arrays)
    if "weights" in file:
        model.save_weights(path)
        (HERE / f"{file}.json").write_text(model.to_json(), encoding="utf-8")
    else:
        model.save(path)


def main():
    """Write the files of the version of Keras that is installed."""
    for file, names in FILES.items():
        if file.startswith(f"keras{keras.__version__[0]}"):
            write(file, names)


if __name__ == "__main__":
    main()
