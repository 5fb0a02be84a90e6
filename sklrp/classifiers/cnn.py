"""The convolutional network."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from sklrp._sklearn import Interval, StrOptions
from sklrp.classifiers.gradient import GradientClassifier
from sklrp.classifiers.sample_shapes import check_input_shape, check_sizes, write_shape
from sklrp.modules import CONV_POOLINGS, PADDING_MODES, make_cnn


class CNNClassifier(GradientClassifier):  # numpydoc ignore=PR01
    """Convolutional network that explains its predictions.

    Use it for images and signals whose patterns may lie anywhere. Each convolution is followed by
    the activation and a pooling, and the last one by dense layers.

    Parameters
    ----------
    channels : int or sequence of int, default=(16, 32)
        Output channels of each convolution.
    input_shape : tuple of int or None, default=None
        ``(n_channels, length)`` of a signal or ``(n_channels, height, width)`` of an image.
        None takes the rows of a two-dimensional X as one-channel signals, a three-dimensional X as
        one-channel images ``(n_samples, height, width)``, or as one-channel signals if it is
        ``(n_samples, 1, length)``, and a four-dimensional X as images
        ``(n_samples, n_channels, height, width)``.
    kernel_size : int or tuple of int, default=3
        Extent of the kernels along every axis, or one for each. It may not exceed the image.
    stride : int or tuple of int, default=1
        Step of the kernels.
    padding : {"same", "valid"}, int or tuple of int, default="same"
        Elements that are added at each side. ``"same"`` keeps the extent, or divides it by the
        stride (an even kernel gets one element more behind than before); ``"valid"`` adds none.
    pooling : {"max", "avg"} or None, default="max"
        Pooling after each convolution.
    pool_size : int or tuple of int, default=2
        Extent of the pooling windows, which do not overlap. Rows of features that are taken as
        signals are no longer pooled where less than a window is left of them.
    hidden_layer_sizes : int or sequence of int, default=(64,)
        Units of each dense layer between the convolutions and the logits.
    activation : str, default="relu"
        ``"relu"``, ``"leaky_relu"``, ``"elu"``, ``"gelu"``, ``"silu"``, ``"tanh"``,
        ``"sigmoid"`` or ``"identity"``.
    bias : bool or "nonpositive", default=True
        Whether the layers have a bias. Without biases, the z-plus rule conserves relevance;
        ``"nonpositive"`` ones, which are kept at most 0 after every step of the optimizer, can
        absorb but not create it [1]_.
    dropout : float, default=0.0
        Probability with which a unit is dropped in training, after pooling and in dense layers.
    padding_mode : {"zeros", "reflect", "replicate", "circular"} or tuple, default="zeros"
        What the padding holds, along every axis or one for each: ``("zeros", "circular")`` closes
        the longitudes of a globe but not its latitudes.
    batch_norm : bool, default=False
        Whether each convolution is followed by batch normalisation.
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
    >>> from sklearn.datasets import load_digits
    >>> from sklrp import CNNClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = CNNClassifier(channels=(8,), input_shape=(1, 8, 8), max_epochs=2, random_state=0)
    >>> clf.fit(X / 16, y).explain(X[:3].reshape(3, 8, 8) / 16).shape
    (3, 8, 8)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **GradientClassifier._parameter_constraints,
        "channels": ["array-like", Interval(Integral, 1, None, closed="left")],
        "input_shape": ["array-like", None],
        "kernel_size": [Interval(Integral, 1, None, closed="left"), "array-like"],
        "stride": [Interval(Integral, 1, None, closed="left"), "array-like"],
        "padding": [
            StrOptions({"same", "valid"}),
            Interval(Integral, 0, None, closed="left"),
            "array-like",
        ],
        "pooling": [StrOptions(set(CONV_POOLINGS)), None],
        "pool_size": [Interval(Integral, 1, None, closed="left"), "array-like"],
        "padding_mode": [StrOptions(set(PADDING_MODES)), "array-like"],
        "batch_norm": ["boolean"],
    }

    def __init__(
        self,
        channels: int | Sequence[int] = (16, 32),
        *,
        input_shape: Sequence[int] | None = None,
        kernel_size: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 1,
        padding: str | int | Sequence[int] = "same",
        pooling: str | None = "max",
        pool_size: int | Sequence[int] = 2,
        hidden_layer_sizes: int | Sequence[int] = (64,),
        activation: str = "relu",
        bias: bool | str = True,
        dropout: float = 0.0,
        padding_mode: str | Sequence[str] = "zeros",
        batch_norm: bool = False,
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
        self.channels = channels
        self.input_shape = input_shape
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.pooling = pooling
        self.pool_size = pool_size
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.bias = bias
        self.dropout = dropout
        self.padding_mode = padding_mode
        self.batch_norm = batch_norm

    def _find_input_shape(self, sample_shape: tuple[int, ...]) -> tuple[int, ...]:
        if self.input_shape is not None:
            return check_input_shape(self.input_shape, "(C, L) or (C, H, W)", n_axes=(2, 3))
        if len(sample_shape) > 3:
            raise ValueError(
                f"X has shape {write_shape(('n_samples', *sample_shape))}, but CNNClassifier "
                "takes signals or images, of at most 4 dimensions: reshape X and name its "
                "input_shape."
            )
        is_signal = len(sample_shape) == 2 and sample_shape[0] == 1
        return sample_shape if is_signal or len(sample_shape) == 3 else (1, *sample_shape)

    def _network(self, n_outputs: int) -> Callable[[], nn.Module]:
        if self.batch_norm and self.bias == "nonpositive":
            raise ValueError(
                "bias='nonpositive' does not bound the shift of a batch normalisation: set "
                "batch_norm=False."
            )
        return functools.partial(
            make_cnn,
            self.input_shape_,
            n_outputs,
            channels=check_sizes("channels", self.channels, some=True),
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            padding_mode=self.padding_mode,
            pooling=self.pooling,
            pool_size=self.pool_size,
            batch_norm=self.batch_norm,
            hidden_layer_sizes=check_sizes("hidden_layer_sizes", self.hidden_layer_sizes),
            activation=self.activation,
            bias=bool(self.bias),
            dropout=self.dropout,
            input_noise=self.input_noise,
            input_dropout=self.input_dropout,
            clip=self.input_shape is None and len(self.input_shape_) == 2,
        )
