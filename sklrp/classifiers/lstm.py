"""The long short-term memory network, as an estimator.

`LSTMNetwork` declares the parameters of the network; `sklrp.modules.make_lstm` builds it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from numbers import Real
from typing import Any

from skorch.callbacks import GradientNormClipping
from torch import nn

from sklrp._constraints import COUNT, POSITIVE, Interval
from sklrp._sklearn import StrOptions
from sklrp.classifiers.classifier import GradientClassifier
from sklrp.classifiers.gradient import GradientEstimator
from sklrp.classifiers.parameters import param
from sklrp.classifiers.regressor import GradientRegressor
from sklrp.classifiers.sample_shapes import find_sequence_shape
from sklrp.modules import STATE_POOLINGS, SWEEPS, make_lstm


class LSTMNetwork(GradientEstimator):  # numpydoc ignore=PR02
    """Architecture of the long short-term memory networks.

    Parameters
    ----------
    hidden_size : int, default=64
        Units of the recurrent state, per layer and direction.
    num_layers : int, default=1
        Number of recurrent layers.
    bidirectional : bool, default=False
        Whether the sequence is also read backwards.
    input_shape : tuple of int or None, default=None
        ``(n_steps, n_step_features)`` of a sequence or ``(height, width)`` of an image. None
        takes the rows of a two-dimensional X as univariate sequences, and a three-dimensional X
        unchanged.
    sweep : {"down", "up", "right", "left"}, default="down"
        What the steps are: ``"down"`` goes along the first axis (the time of a sequence, the rows
        of an image), ``"up"`` the same backwards, ``"right"`` along the second axis (the columns
        of an image from left to right), ``"left"`` the same backwards.
    pooling : {"last", "mean", "max"}, default="last"
        Whether the output is read from the last state or from the mean or largest of all states.
    forget_bias : float, "auto" or None, default="auto"
        Bias from which every forget gate starts. A bias b remembers for about exp(b) steps;
        ``"auto"`` draws units of every memory, from one step to the whole sequence, so that the
        first step can still be seen after the last [2]_, and input weights of a size for
        standardised X; see `sklrp.modules.RememberingLSTM`. None: torch's own start, about 0,
        which forgets in two steps. Networks with ``bias=False`` have no such bias.
    gradient_clip_value : float or None, default=1.0
        Largest norm of the gradient in a step. None: no limit.
    hidden_layer_sizes : int or sequence of int, default=()
        Units of each dense layer between the state and the output.
    activation : str, default="relu"
        Activation of the dense layers: ``"relu"``, ``"leaky_relu"``, ``"elu"``, ``"gelu"``,
        ``"silu"``, ``"tanh"``, ``"sigmoid"`` or ``"identity"``.
    bias : bool or "nonpositive", default=True
        Whether the layers have a bias. With ``"nonpositive"`` the biases of the candidate and of
        the dense layers are kept at most 0 after every step of the optimizer [1]_. The gates keep
        theirs of any sign: they receive no relevance, and the forget gate's is what remembers.
    dropout : float, default=0.0
        Probability with which a unit is dropped in training: between recurrent layers, of the
        pooled state and of dense layers.
    lr : float, default=0.005
        Learning rate of the optimizer.

    References
    ----------
    .. [1] G. Montavon et al., "Explaining nonlinear classification decisions with deep Taylor
       decomposition", Pattern Recognition 65, 2017.
    .. [2] C. Tallec and Y. Ollivier, "Can recurrent neural networks warp time?", ICLR 2018: gate
       biases as logarithms of the times to remember.
    """

    hidden_size: int = param(default=64, allowed=[COUNT], kw_only=False)
    num_layers: int = param(default=1, allowed=[COUNT])
    bidirectional: bool = param(default=False, allowed=["boolean"])
    input_shape: Sequence[int] | None = param(default=None, allowed=["array-like", None])
    sweep: str = param(default="down", allowed=[StrOptions(set(SWEEPS))])
    pooling: str = param(default="last", allowed=[StrOptions(set(STATE_POOLINGS))])
    forget_bias: float | str | None = param(
        default="auto",
        allowed=[Interval(Real, None, None, closed="neither"), StrOptions({"auto"}), None],
    )
    gradient_clip_value: float | None = param(default=1.0, allowed=[POSITIVE, None])
    lr: float = param(default=0.005)

    def _own_callbacks(self) -> list[tuple[str, Any]]:
        callbacks = super()._own_callbacks()
        if self.gradient_clip_value is not None:
            clipping = GradientNormClipping(self.gradient_clip_value)
            callbacks.append(("gradient_clipping", clipping))
        return callbacks

    def _find_input_shape(self, sample_shape: tuple[int, ...]) -> tuple[int, ...]:
        return find_sequence_shape(self.input_shape, sample_shape, type(self).__name__)

    def _architecture(self, n_outputs: int) -> functools.partial[nn.Sequential]:
        return functools.partial(
            make_lstm,
            self.input_shape_,
            n_outputs,
            hidden_size=self.hidden_size,
            num_layers=self.num_layers,
            bidirectional=self.bidirectional,
            sweep=self.sweep,
            pooling=self.pooling,
            forget_bias=self.forget_bias,
        )


class LSTMClassifier(LSTMNetwork, GradientClassifier):  # numpydoc ignore=PR01
    """Long short-term memory network that explains its predictions.

    Use it for sequences, and for images read as a sequence of rows or columns.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklrp import LSTMClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = LSTMClassifier(16, input_shape=(8, 8), sweep="right", max_epochs=2, random_state=0)
    >>> clf.fit(X / 16, y).explain(X[:3] / 16).shape
    (3, 64)
    """


class LSTMRegressor(LSTMNetwork, GradientRegressor):  # numpydoc ignore=PR01,PR02
    """Long short-term memory network for regression that explains its predictions.

    Use it for sequences, and for images read as a sequence of rows or columns. Targets, one or
    several, are standardised inside; predictions and relevance are in their units.

    Parameters
    ----------
    lr : float, default=0.002
        Learning rate of the optimizer.

    Examples
    --------
    >>> import numpy as np
    >>> from sklrp import LSTMRegressor
    >>> X = np.random.default_rng(0).normal(size=(60, 10, 2))
    >>> reg = LSTMRegressor(8, max_epochs=2, random_state=0).fit(X, X.mean(axis=1))
    >>> reg.explain(X[:3], target=1).shape
    (3, 10, 2)
    """

    lr: float = param(default=0.002)
