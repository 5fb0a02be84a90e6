"""The multilayer perceptron, as an estimator.

`MLPNetwork` declares the parameters of the network; `sklrp.modules.make_mlp` builds it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from torch import nn

from sklrp.classifiers.classifier import GradientClassifier
from sklrp.classifiers.gradient import GradientEstimator
from sklrp.classifiers.parameters import param
from sklrp.classifiers.regressor import GradientRegressor
from sklrp.modules import make_mlp


class MLPNetwork(GradientEstimator):  # numpydoc ignore=PR02
    """Architecture of the multilayer perceptrons.

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

    References
    ----------
    .. [1] G. Montavon et al., "Explaining nonlinear classification decisions with deep Taylor
       decomposition", Pattern Recognition 65, 2017.
    """

    hidden_layer_sizes: int | Sequence[int] = param(default=(100,), kw_only=False)

    def _find_input_shape(self, sample_shape: tuple[int, ...]) -> tuple[int, ...]:
        return sample_shape

    def _check_sample_shape(self, sample_shape: tuple[int, ...]) -> None:
        """Take any shape, as the number of values has been checked."""

    def _architecture(self, n_outputs: int) -> functools.partial[nn.Sequential]:
        return functools.partial(make_mlp, math.prod(self.input_shape_), n_outputs)


class MLPClassifier(MLPNetwork, GradientClassifier):  # numpydoc ignore=PR01
    """Multilayer perceptron that explains its predictions.

    Use it for features without an order, and as the baseline that knows nothing of neighbourhood.
    Samples of any shape are flattened, so that only their number of values counts.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklrp import MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(random_state=0).fit(X, y)
    >>> clf.explain(X[:3]).shape
    (3, 4)
    """


class MLPRegressor(MLPNetwork, GradientRegressor):  # numpydoc ignore=PR01
    """Multilayer perceptron for regression that explains its predictions.

    Use it for features without an order, and as the baseline that knows nothing of neighbourhood.
    Samples of any shape are flattened, so that only their number of values counts. Targets, one or
    several, are standardised inside; predictions and relevance are in their units.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklrp import MLPRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> reg = MLPRegressor(max_epochs=5, random_state=0).fit(X * 20, y)
    >>> relevance, details = reg.explain(X[:3] * 20, reference="mean", return_details=True)
    >>> bool(abs(details.score - (reg.predict(X[:3] * 20) - y.mean())).max() < 1e-9)
    True
    """
