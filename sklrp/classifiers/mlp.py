"""The multilayer perceptron."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from sklrp.classifiers.gradient import GradientClassifier
from sklrp.classifiers.sample_shapes import check_sizes
from sklrp.modules import make_mlp


class MLPClassifier(GradientClassifier):  # numpydoc ignore=PR01
    """Multilayer perceptron that explains its predictions.

    Use it for features without an order, and as the baseline that knows nothing of neighbourhood.
    Samples of any shape are flattened, so that only their number of values counts.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default=(100,)
        Units of each hidden layer; empty for a linear model.
    activation : str, default="relu"
        ``"relu"``, ``"leaky_relu"``, ``"elu"``, ``"gelu"``, ``"silu"``, ``"tanh"``,
        ``"sigmoid"`` or ``"identity"``.
    bias : bool or "nonpositive", default=True
        Whether the layers have a bias. Without biases, the epsilon rule conserves relevance;
        ``"nonpositive"`` ones, which are kept at most 0 after every step of the optimizer, can
        absorb but not create it [1]_.
    dropout : float, default=0.0
        Probability with which a hidden unit is dropped in training.
    lr : float, default=0.003
        Learning rate of the optimizer.
    **kwargs : dict
        The parameters that all classifiers share.

    References
    ----------
    .. [1] G. Montavon et al., "Explaining nonlinear classification decisions with deep Taylor
       decomposition", Pattern Recognition 65, 2017.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklrp import MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(random_state=0).fit(X, y)
    >>> clf.explain(X[:3]).shape
    (3, 4)
    """

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        *,
        activation: str = "relu",
        bias: bool | str = True,
        dropout: float = 0.0,
        lr: float = 0.003,
        max_epochs: int = 50,
        batch_size: int | str = "auto",
        optimizer: str | type[torch.optim.Optimizer] = "adam",
        weight_decay: float = 0.0,
        l1: float = 0.0,
        l1_first: float = 0.0,
        l2_first: float = 0.0,
        input_noise: float = 0.0,
        input_dropout: float = 0.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        patience: int = 10,
        callbacks: Sequence[Any] | None = None,
        warm_start: bool = False,
        class_weight: Mapping[Any, float] | str | None = None,
        device: str | torch.device = "auto",
        dtype: Any = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            lr=lr,
            max_epochs=max_epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            weight_decay=weight_decay,
            l1=l1,
            l1_first=l1_first,
            l2_first=l2_first,
            input_noise=input_noise,
            input_dropout=input_dropout,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            patience=patience,
            callbacks=callbacks,
            warm_start=warm_start,
            class_weight=class_weight,
            device=device,
            dtype=dtype,
            random_state=random_state,
            verbose=verbose,
            skorch_params=kwargs,
        )
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.bias = bias
        self.dropout = dropout

    def _find_input_shape(self, sample_shape: tuple[int, ...]) -> tuple[int, ...]:
        return sample_shape

    def _check_sample_shape(self, sample_shape: tuple[int, ...]) -> None:
        """Take any shape, as the number of values has been checked."""

    def _network(self, n_outputs: int) -> Callable[[], nn.Module]:
        return functools.partial(
            make_mlp,
            math.prod(self.input_shape_),
            n_outputs,
            hidden_layer_sizes=check_sizes("hidden_layer_sizes", self.hidden_layer_sizes),
            activation=self.activation,
            bias=bool(self.bias),
            dropout=self.dropout,
            input_noise=self.input_noise,
            input_dropout=self.input_dropout,
        )
