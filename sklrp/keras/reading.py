"""Networks of Keras, read without TensorFlow: :func:`from_keras`, which users call.

The config of the file becomes a graph (`.keras_graph`), the graph a network without values
(`.assembly`, with a builder for each class of layers), and its arrays are compared with those of
the file (`.stored_arrays`) before they are read.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch import nn

from sklrp._constraints import constrained
from sklrp.keras import (  # noqa: F401  (registers all builders)
    activation_layers,
    attention_layers,
    conv_layers,
    conv_recurrent_layers,
    dense_layers,
    merge_layers,
    norm_layers,
    pooling_layers,
    recurrent_layers,
    shape_layers,
    wrapper_layers,
)
from sklrp.keras.assembly import assemble
from sklrp.keras.keras_files import open_keras_file
from sklrp.keras.keras_graph import read_graph
from sklrp.keras.layer_config import read_layer
from sklrp.keras.stored_arrays import read_arrays

__all__ = ["from_keras"]


@constrained()
def from_keras(path: str | os.PathLike[str], config: Any = None) -> nn.Module:
    """Read a Keras model as a torch network, without Keras and TensorFlow.

    The network takes samples as the Keras model does, channels last, and predicts the same.
    :func:`sklrp.explain` returns relevance in that shape. Layers have their Keras names, by which
    a composite finds them. Sequential and functional models are read, with models in them and
    layers that are called several times, as Keras 2 and Keras 3 write them; of TensorFlow's
    padding, normalisations and recurrent layers nothing is approximated. What is not read is
    refused by the name of the layer, before anything is built.

    Parameters
    ----------
    path : str or path-like
        A ``.keras`` file, an ``.h5`` file of a whole model, or, with `config`, weights alone
        (``.weights.h5``).
    config : str, dict, path-like or None, default=None
        The model of weights alone: ``model.to_json()`` in Keras, or a file of it. None for files
        that hold the model.

    Returns
    -------
    nn.Module
        The network, in evaluation mode, in float32, or in float64 where the file is. Of several
        outputs it returns a named tuple, or a dict where the Keras model does.

    Raises
    ------
    ImportError
        If h5py is not installed: ``pip install 'sklrp[keras]'``.
    FileNotFoundError
        If there is no such file.
    TypeError
        If a layer, or an option of one, is not read; the error names both.
    ValueError
        If the file is none of Keras, is damaged, or holds other arrays than its config declares.

    Examples
    --------
    >>> import sklrp
    >>> net = sklrp.from_keras("model.keras")  # doctest: +SKIP
    >>> relevance = sklrp.explain(net, X)  # doctest: +SKIP
    """
    with open_keras_file(path, config) as file:
        try:
            model = read_layer(file.config, file.version, "the model")
            made = assemble(read_graph(model), file.version)
        except RecursionError as error:
            raise ValueError(f"path: the models in {path} are nested too deeply.") from error
        dtype = read_arrays(file.arrays, made.arrays)
    state = {name: _to_tensor(value, dtype) for name, value in made.fill().items()}
    made.network.load_state_dict(state, strict=True, assign=True)
    return made.network.eval()


def _to_tensor(value: np.ndarray, dtype: type[np.floating[Any]]) -> torch.Tensor:
    """Return an array as a tensor; floats in the dtype of the network."""
    kept = value if value.dtype.kind == "i" else value.astype(dtype, copy=False)
    return torch.from_numpy(np.ascontiguousarray(kept))
