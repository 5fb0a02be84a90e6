"""The convolutional network, as an estimator.

`CNNNetwork` declares the parameters of the network; `sklrp.modules.make_cnn` builds it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from numbers import Integral

from torch import nn

from sklrp._checks import check_sizes
from sklrp._constraints import COUNT, Interval
from sklrp._sklearn import StrOptions
from sklrp.classifiers.classifier import GradientClassifier
from sklrp.classifiers.gradient import GradientEstimator
from sklrp.classifiers.parameters import param
from sklrp.classifiers.regressor import GradientRegressor
from sklrp.classifiers.sample_shapes import find_image_shape
from sklrp.modules import CONV_POOLINGS, PADDING_MODES, make_cnn


class CNNNetwork(GradientEstimator):  # numpydoc ignore=PR02
    """Architecture of the convolutional networks.

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
    padding_mode : {"zeros", "reflect", "replicate", "circular"} or tuple, default="zeros"
        What the padding holds, along every axis or one for each: ``("zeros", "circular")`` closes
        the longitudes of a globe but not its latitudes.
    batch_norm : bool, default=False
        Whether each convolution is followed by batch normalisation.
    hidden_layer_sizes : int or sequence of int, default=(64,)
        Units of each dense layer between the convolutions and the output.
    activation : str, default="relu"
        ``"relu"``, ``"leaky_relu"``, ``"elu"``, ``"gelu"``, ``"silu"``, ``"tanh"``,
        ``"sigmoid"`` or ``"identity"``.
    bias : bool or "nonpositive", default=True
        Whether the layers have a bias. Without biases, the z-plus rule conserves relevance;
        ``"nonpositive"`` ones, which are kept at most 0 after every step of the optimizer, can
        absorb but not create it [1]_.
    dropout : float, default=0.0
        Probability with which a unit is dropped in training, after pooling and in dense layers.

    References
    ----------
    .. [1] G. Montavon et al., "Explaining nonlinear classification decisions with deep Taylor
       decomposition", Pattern Recognition 65, 2017.
    """

    channels: int | Sequence[int] = param(
        default=(16, 32), allowed=["array-like", COUNT], kw_only=False
    )
    input_shape: Sequence[int] | None = param(default=None, allowed=["array-like", None])
    kernel_size: int | Sequence[int] = param(default=3, allowed=[COUNT, "array-like"])
    stride: int | Sequence[int] = param(default=1, allowed=[COUNT, "array-like"])
    padding: str | int | Sequence[int] = param(
        default="same",
        allowed=[
            StrOptions({"same", "valid"}),
            Interval(Integral, 0, None, closed="left"),
            "array-like",
        ],
    )
    pooling: str | None = param(default="max", allowed=[StrOptions(set(CONV_POOLINGS)), None])
    pool_size: int | Sequence[int] = param(default=2, allowed=[COUNT, "array-like"])
    padding_mode: str | Sequence[str] = param(
        default="zeros", allowed=[StrOptions(set(PADDING_MODES)), "array-like"]
    )
    batch_norm: bool = param(default=False, allowed=["boolean"])
    hidden_layer_sizes: int | Sequence[int] = param(default=(64,))

    def _find_input_shape(self, sample_shape: tuple[int, ...]) -> tuple[int, ...]:
        return find_image_shape(self.input_shape, sample_shape, type(self).__name__)

    def _architecture(self, n_outputs: int) -> functools.partial[nn.Sequential]:
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
            clip=self.input_shape is None and len(self.input_shape_) == 2,
        )


class CNNClassifier(CNNNetwork, GradientClassifier):  # numpydoc ignore=PR01
    """Convolutional network that explains its predictions.

    Use it for images and signals whose patterns may lie anywhere. Each convolution is followed by
    the activation and a pooling, and the last one by dense layers.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklrp import CNNClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = CNNClassifier(channels=(8,), input_shape=(1, 8, 8), max_epochs=2, random_state=0)
    >>> clf.fit(X / 16, y).explain(X[:3].reshape(3, 8, 8) / 16).shape
    (3, 8, 8)
    """


class CNNRegressor(CNNNetwork, GradientRegressor):  # numpydoc ignore=PR01
    """Convolutional network for regression that explains its predictions.

    Use it for images and signals whose patterns may lie anywhere. Each convolution is followed by
    the activation and a pooling, and the last one by dense layers. Targets, one or several, are
    standardised inside; predictions and relevance are in their units.

    Examples
    --------
    >>> import numpy as np
    >>> from sklrp import CNNRegressor
    >>> X = np.random.default_rng(0).normal(size=(60, 8, 8))
    >>> reg = CNNRegressor((4,), max_epochs=2, random_state=0).fit(X, X[:, 2:4, 2:4].sum((1, 2)))
    >>> reg.explain(X[:3]).shape
    (3, 8, 8)
    """
