"""Clones of a network, trained again on what it was trained on or on something else.

`.other_networks` trains them for null models, for networks of other seeds, and for moved samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from torch import nn

from sklrp._model_parts import Model, is_regression
from sklrp._models import unwrap
from sklrp._random_stream import RandomStream
from sklrp.metrics.randomise import restart


@torch.inference_mode(False)  # a caller's, in which nothing can be trained
def train_clone(model: Model, samples: Any, y: NDArray, seed: int) -> Any:
    """Return a clone of a model's network, trained on samples as they enter it.

    Parameters
    ----------
    model : Model
        The model, whose network is an estimator or a skorch net.
    samples : array-like of shape (n_samples, ...)
        The samples.
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Their labels or values.
    seed : int
        Determines the clone's start and the order of samples.

    Returns
    -------
    estimator or skorch net
        The clone, fitted.
    """
    new = clone(model.network)
    known = new.get_params()
    settings = {"random_state": seed, "warm_start": False}
    if model.is_net:  # it prints each epoch
        settings["verbose"] = 0
    new.set_params(**{name: v for name, v in settings.items() if name in known})
    if not model.is_net:
        return new.fit(samples, y)
    if isinstance(new.module, nn.Module):  # a copy, as trained as the net's own
        restart(unwrap(new.module), seed)
    samples = model.typed(samples)
    if is_regression(model.network):
        y = model.typed(y.astype(np.float64))
        y = y[:, np.newaxis] if y.ndim == 1 else y
    # What a net draws would come from torch's global generators.
    with RandomStream(model.dtype_and_device[1], seed):
        return new.fit(samples, y)
