"""The networks that an explained one is compared with: null models and clones, and their maps.

Tests ask here whether such networks can be made of an `Explained`, and for them. What a null model
is stands in `.nulls`, how a clone is trained in `.clones`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from sklrp._model_parts import Model
from sklrp._wording import shorten
from sklrp.diagnostics.clones import train_clone
from sklrp.diagnostics.common_form import with_relevance
from sklrp.diagnostics.explained import Explained
from sklrp.diagnostics.nulls import NULLS
from sklrp.metrics.randomise import list_layers, with_start

_REDRAWS = 3


def why_not_drawn(explained: Explained) -> str:
    """Say why the network cannot be drawn anew, with what helps; nothing if it can."""
    return explained.once("why_not_drawn", lambda: _try_to_draw(explained.model))


def why_not_trained(explained: Explained) -> str:
    """Say why no clone of the network can be trained; nothing if one can."""
    model = explained.model
    if model.can_train:
        starts_from_module = model.is_net and isinstance(model.network.module, nn.Module)
        if starts_from_module and why_not_drawn(explained):  # it is as trained as the net's own
            return "the module from which it starts cannot be drawn anew"
        return ""
    if model.is_frozen:
        return "a FrozenEstimator is not trained again"
    return f"{model.name} has no fit method to train a clone with"


def has_nulls(explained: Explained, null: str = "network") -> bool:
    """Tell whether there are null models, with whose maps these can be compared."""
    return not explained.is_given and (NULLS[null].trains or not why_not_drawn(explained))


def draw_null(explained: Explained, null: str, seed: int) -> Any:
    """Return a null model by its name: a network that has lost something."""
    return NULLS[null].draw(explained.model, seed, partial(train_again, explained))


def null_maps(explained: Explained, null: str, n_draws: int) -> NDArray:
    """Return the maps of null models, (n_draws, n_samples, ...), as float32.

    Parameters
    ----------
    explained : Explained
        What they are compared with.
    null : str
        Name of the null model, see `sklrp.diagnostics.nulls`.
    n_draws : int
        Number of null models.

    Returns
    -------
    ndarray of shape (n_draws, n_samples, ...)
        Maps in the common form; zero where a null model has no relevance at all.
    """
    return explained.once((null, n_draws), lambda: _draw_maps(explained, null, n_draws))


def check_trainable(explained: Explained, user: str) -> None:
    """Raise an error if clones cannot be trained, which `user` needs."""
    if why := why_not_trained(explained):
        raise TypeError(
            f"{user} trains clones of the network, but {why}: pass a fitted estimator or a skorch "
            "net."
        )
    if not explained.has_training_data:
        missing = "X_train" if explained.X_train is None else "y_train"
        raise ValueError(
            f"{missing}=None: {user} trains clones of the network; give X_train and y_train, "
            "what it was trained on. Clones trained on the explained samples would know them."
        )


def train_again(
    explained: Explained,
    seed: int,
    permuted: bool = False,
    *,
    X: NDArray | None = None,
    rows: NDArray | None = None,
) -> Any:
    """Return a clone of the network, trained on the training data.

    Parameters
    ----------
    explained : Explained
        Whose network it is.
    seed : int
        Determines the clone's start, the order of samples and the permutation.
    permuted : bool, default=False
        Whether labels are permuted, so that nothing true can be learned.
    X : ndarray of shape (n_train, ...) or None, default=None
        Training samples as they enter the network, such as moved ones. None: as given.
    rows : ndarray of int or None, default=None
        Which of the training samples are used. None: all.

    Returns
    -------
    estimator or skorch net
        The clone, fitted.
    """
    check_trainable(explained, "a clone")
    samples, y = explained.pool if X is None else X, np.asarray(explained.fitted_on)
    if rows is not None:
        samples, y = samples[rows], y[rows]
    if permuted:
        y = np.random.default_rng(seed).permutation(y)
    return train_clone(explained.model, explained.given(samples), y, seed)


def _try_to_draw(model: Any) -> str:
    """Say why a model's network cannot be drawn anew; nothing if it can."""
    if not isinstance(model, Model):
        return "The network cannot be drawn anew: there is none."
    try:
        if not list_layers(model.module):
            return "The network cannot be drawn anew: it has no layer with parameters."
        with_start(model, 0)
    except MemoryError:
        raise
    except Exception as error:  # whatever a copy or a layer's own start raises
        said = str(error)
        if said.startswith("The network cannot be drawn anew"):
            return said
        return (
            f"The network cannot be drawn anew: {type(error).__name__}: {shorten(said)}. See that "
            "copy.deepcopy() takes it, and that reset_parameters() of its layers does what "
            "__init__ does."
        )
    return ""


def _draw_maps(explained: Explained, null: str, n_draws: int) -> NDArray:
    rng = explained.rng(f"null {null}")

    def draw(n: int) -> NDArray:
        seeds = rng.integers(2**31 - 1, size=n)
        return explained.run(_null_map, [(null, int(seed)) for seed in seeds])

    maps = draw(n_draws)
    for _ in range(0 if NULLS[null].trains else _REDRAWS):
        # Networks whose units are all dead say nothing: draw others.
        dead = np.flatnonzero(~with_relevance(maps))
        if not len(dead):
            break
        maps[dead] = draw(len(dead))
    return maps


def _null_map(explained: Explained, null: str, seed: int) -> NDArray:
    return explained.maps_of(draw_null(explained, null, seed))
