"""The echo state network, as an estimator.

Its reservoir is drawn by `sklrp.modules.make_esn` and never trained; `LeastSquares` fits the
readout.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from sklrp._constraints import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, Interval
from sklrp._random_stream import RandomStream, draw_seed
from sklrp._sklearn import StrOptions, fit_context
from sklrp.classifiers.base import NetworkEstimator, undone_on_error
from sklrp.classifiers.batches import make_dataset
from sklrp.classifiers.classifier import NetworkClassifier
from sklrp.classifiers.net import TrainingNet
from sklrp.classifiers.parameters import param
from sklrp.classifiers.regressor import NetworkRegressor
from sklrp.classifiers.ridge import LeastSquares
from sklrp.classifiers.sample_shapes import find_sequence_shape
from sklrp.classifiers.saved import are_sums, is_penalty
from sklrp.classifiers.settings import check_device, check_dtype
from sklrp.modules import (
    LEAK_SPLITS,
    STATE_POOLINGS,
    SWEEPS,
    TargetUnits,
    in_target_units,
    make_esn,
)


class ESNNetwork(NetworkEstimator):  # numpydoc ignore=PR02
    r"""Architecture of the echo state networks, and their training.

    Parameters
    ----------
    n_reservoir : int, default=300
        Number of units of the reservoir.
    leak_rate : float, default=0.1
        How much of its state a unit renews in a step, in (0, 1]. What a step leaves in the state
        fades as ``(1 - leak_rate) ** n_steps``, apart from what the recurrent weights carry on.
    spectral_radius : float, default=0.8
        Largest absolute eigenvalue of the recurrent weights, at least 0.
    density : float, default=0.3
        Share of the units that each unit is connected to, in (0, 1], and at least one of them.
    input_scale : float, default=0.1
        Input weights are uniform in ``[-input_scale, input_scale)``.
    bias_scale : float, default=0.1
        The units' biases are uniform in ``[-bias_scale, bias_scale)``; 0 for none. Biases keep
        relevance.
    ridge : float or "auto", default=1e-6
        L2 penalty of the readout, at least 0, in the units of `alpha` in
        `sklearn.linear_model.Ridge`. ``"auto"`` chooses it by generalised cross-validation,
        in which a sample counts once whatever it weighs; with a given penalty a weight of two is
        the same as giving a sample twice. With fewer samples than units, cross-validation may
        choose almost no penalty: check `ridge_`, and compare with given ones in a search.
    fit_intercept : bool, default=True
        Whether the readout has a bias, which is not penalised.
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
    washout : int, default=0
        Number of first states that are left out of the pooling, less than there are steps.
    leak_first_step : bool, default=True
        Whether the first step starts from a state of zero like any other; otherwise the first
        state is the whole activation, which a small leak rate keeps to the end.
    leak_split : {"contribution", "leak_rate"}, default="contribution"
        How the relevance of a state is split between the state before and the activation: in
        proportion to what they contribute, or as ``1 - leak_rate`` to ``leak_rate`` [2]_.
        Predictions do not depend on it.

    Attributes
    ----------
    ridge_ : float
        The penalty of the readout.

    References
    ----------
    .. [1] H. Jaeger, "The 'echo state' approach to analysing and training recurrent neural
       networks", GMD report 148, 2001.
    .. [2] M. Landt-Hayen, P. Kröger, M. Claus, W. Rath, "Layer-wise relevance propagation for echo
       state networks applied to Earth system variability", arXiv 2210.09958, 2022.
    """

    n_reservoir: int = param(default=300, allowed=[COUNT], kw_only=False)
    leak_rate: float = param(default=0.1, allowed=[SHARE])
    spectral_radius: float = param(default=0.8, allowed=[NOT_NEGATIVE])
    density: float = param(default=0.3, allowed=[SHARE])
    input_scale: float = param(default=0.1, allowed=[POSITIVE])
    bias_scale: float = param(default=0.1, allowed=[NOT_NEGATIVE])
    ridge: float | str = param(default=1e-6, allowed=[NOT_NEGATIVE, StrOptions({"auto"})])
    fit_intercept: bool = param(default=True, allowed=["boolean"])
    input_shape: Sequence[int] | None = param(default=None, allowed=["array-like", None])
    sweep: str = param(default="down", allowed=[StrOptions(set(SWEEPS))])
    pooling: str = param(default="last", allowed=[StrOptions(set(STATE_POOLINGS))])
    washout: int = param(default=0, allowed=[Interval(Integral, 0, None, closed="left")])
    leak_first_step: bool = param(default=True, allowed=["boolean"])
    leak_split: str = param(default="contribution", allowed=[StrOptions(set(LEAK_SPLITS))])

    _kept: ClassVar[Mapping[str, Callable[[Any], bool]]] = {
        "ridge_": is_penalty,
        "_sums": are_sums,
    }

    @abstractmethod
    def _fitted_values(self, targets: NDArray) -> NDArray[np.float64]:
        """Return what the readout is fitted to, of shape ``(n_samples, n_outputs)``."""

    def _find_input_shape(self, sample_shape: tuple[int, ...]) -> tuple[int, ...]:
        return find_sequence_shape(self.input_shape, sample_shape, type(self).__name__)

    def _train(
        self,
        X: NDArray,
        targets: NDArray,
        weight: NDArray | None,
        *,
        resume: bool,
        epochs: int | None = None,
    ) -> ESNNetwork:
        """Draw the reservoir and fit the readout of its states."""
        if resume:
            net, sums = self.net_, LeastSquares.from_state(self._sums)
        else:
            net, sums = self._make_net(X.dtype), LeastSquares(self.n_reservoir, self._n_outputs)
            with RandomStream(torch.device(net.device), draw_seed(self.random_state)):
                net.initialize()
        *reservoir, readout = (m for m in net.module_ if not isinstance(m, TargetUnits))
        done = 0
        with torch.no_grad():
            for x, _ in net.get_iterator(make_dataset(X, targets, dtype=net.dtype)):
                state = x.to(net.device, net.dtype)
                for layer in reservoir:
                    state = layer(state)
                part = slice(done, done + len(x))
                sums.add(
                    state.cpu().double().numpy(),
                    self._fitted_values(targets[part]),
                    None if weight is None else weight[part],
                )
                done = part.stop
            if not sums.n_samples:
                raise ValueError("sample_weight must hold a positive weight, got zeros alone.")
            if epochs:
                self._find_units_of(sums)
            units = self._units()
            coef, intercept, self.ridge_ = sums.solve(self.ridge, self.fit_intercept, units)
            # The network changes in place, so only when nothing can fail any more.
            if epochs:
                self._give_units(net)
            readout.weight.copy_(torch.from_numpy(coef))
            if readout.bias is not None:
                readout.bias.copy_(torch.from_numpy(intercept))
        self._sums: dict[str, Any] = sums.state
        self._keep(net, X, resume=resume)
        return self

    def _units(self) -> tuple[NDArray, NDArray] | None:
        """Return the mean and the scale of the targets, None of labels."""
        return None

    def _find_units_of(self, sums: LeastSquares) -> None:
        """Find the units of the targets so far, if they have any."""

    def _give_units(self, net: TrainingNet) -> None:
        """Give the network the units of the targets, if they have any."""

    def _network(self, n_outputs: int) -> Callable[[], nn.Module]:
        return functools.partial(
            make_esn,
            self.input_shape_,
            n_outputs,
            n_reservoir=self.n_reservoir,
            leak_rate=self.leak_rate,
            spectral_radius=self.spectral_radius,
            density=self.density,
            input_scale=self.input_scale,
            bias_scale=self.bias_scale,
            sweep=self.sweep,
            pooling=self.pooling,
            washout=self.washout,
            leak_first_step=self.leak_first_step,
            leak_split=self.leak_split,
            bias=self.fit_intercept,
        )

    def _check_unchanged(self) -> None:
        fitted: Any = self.net_.module
        if fitted.func is in_target_units:
            fitted = fitted.args[0]
        network: Any = self._network(self._n_outputs)
        now, before = network.keywords, fitted.keywords
        name = next((name for name in now if now[name] != before[name]), None)
        if name is not None:
            parameter = "fit_intercept" if name == "bias" else name
            raise ValueError(
                f"{parameter} was changed after the training, from {before[name]!r} to "
                f"{now[name]!r}: set it back, or fit anew."
            )

    def _make_net(self, X_dtype: np.dtype) -> TrainingNet:
        """Return a new net, not initialised."""
        device = check_device(self.device)
        dtype = check_dtype(self.dtype, X_dtype, device)
        return self._net(dtype=dtype, device=str(device))


class ESNClassifier(ESNNetwork, NetworkClassifier):  # numpydoc ignore=PR01
    r"""Echo state network that explains its predictions.

    Use it for sequences, and for images read as a sequence of rows or columns, where a fixed
    random memory is enough: only a linear readout of the reservoir's states is fitted, in closed
    form. How long the reservoir remembers is set by `leak_rate`, and shows in every explanation.

    The reservoir is

    .. math::
        x_t = (1 - \alpha) x_{t-1} + \alpha
        \tanh(W_\mathrm{in} u_t + W_\mathrm{res} x_{t-1} + b)

    The readout is fitted to targets of 1 for the class of a sample and 0 for the others: a logit,
    and so the relevance, is in units of a probability, which it estimates by least squares, and
    the logits of a sample sum to 1 if there is an intercept. Of two classes `decision_function` is
    the fit to targets of ±1. `predict_proba` is the softmax of the logits, as in all classifiers:
    in the right order, but less confident than it should be; see
    `sklearn.calibration.CalibratedClassifierCV`.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklrp import ESNClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = ESNClassifier(100, input_shape=(8, 8), sweep="right", random_state=0)
    >>> clf.fit(X / 16, y).explain(X[:3] / 16).shape
    (3, 64)
    """

    def _fitted_values(self, targets: NDArray) -> NDArray[np.float64]:
        return np.eye(self._n_outputs)[targets]

    @fit_context(prefer_skip_nested_validation=True)
    @undone_on_error
    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> ESNClassifier:
        """Fit the readout to the given samples and to all that it was fitted to before.

        Use it for data that arrive in parts, or do not fit into memory. Whatever the parts are,
        the readout is that of `fit` on all of them at once, to rounding: their sums add up. The
        first call draws the reservoir.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, *input_shape)
            Training samples.
        y : array-like of shape (n_samples,)
            Their class labels.
        classes : array-like of shape (n_classes,) or None, default=None
            All labels that will ever occur, needed in the first call if `y` lacks some.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weights of the samples, not negative.

        Returns
        -------
        self : estimator
            The fitted estimator.

        Raises
        ------
        ValueError
            If the data or a parameter is malformed; or with ``class_weight="balanced"``, which
            one part does not know of the others.
        """
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' needs the labels of all samples, and partial_fit sees "
                "one part of them: give the weights as a dict, such as those of "
                "sklearn.utils.class_weight.compute_class_weight."
            )
        return self._fit_part(X, y, classes, sample_weight, resume=self._goes_on())


class ESNRegressor(ESNNetwork, NetworkRegressor):  # numpydoc ignore=PR01,PR02
    """Echo state network for regression that explains its predictions.

    Use it for sequences, and for images read as a sequence of rows or columns, where a fixed
    random memory is enough: only a linear readout of the reservoir's states is fitted, in closed
    form. How long the reservoir remembers is set by `leak_rate`, and shows in every explanation.
    Targets, one or several, are standardised inside; predictions and relevance are in their units.

    The readout is the ridge regression of the targets less their mean, so that the mean is
    predicted also with ``fit_intercept=False``.

    Parameters
    ----------
    leak_rate : float, default=0.4
        How much of its state a unit renews in a step, in (0, 1]. What a step leaves in the state
        fades as ``(1 - leak_rate) ** n_steps``, apart from what the recurrent weights carry on.

    Examples
    --------
    >>> import numpy as np
    >>> from sklrp import ESNRegressor
    >>> X = np.random.default_rng(0).normal(size=(60, 10, 2))
    >>> reg = ESNRegressor(50, random_state=0).fit(X, X[:, -3:, 0].sum(axis=1))
    >>> reg.explain(X[:3]).shape
    (3, 10, 2)
    """

    leak_rate: float = param(default=0.4)

    def _fitted_values(self, targets: NDArray) -> NDArray[np.float64]:
        return targets

    def _units(self) -> tuple[NDArray, NDArray] | None:
        return self.target_mean_, self.target_scale_

    def _find_units_of(self, sums: LeastSquares) -> None:
        self._set_units(*sums.units())

    def _give_units(self, net: TrainingNet) -> None:
        units = net.module_[-1]
        units.mean.copy_(torch.from_numpy(self.target_mean_))
        units.scale.copy_(torch.from_numpy(self.target_scale_))
        network: Any = net.module
        net.module = functools.partial(
            network.func, *network.args, mean=self.target_mean_, scale=self.target_scale_
        )

    @fit_context(prefer_skip_nested_validation=True)
    @undone_on_error
    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> ESNRegressor:
        """Fit the readout to the given samples and to all that it was fitted to before.

        Use it for data that arrive in parts, or do not fit into memory. Whatever the parts are,
        the readout is that of `fit` on all of them at once, to rounding: their sums add up, and
        the mean and the scale of the targets are those of all parts. The first call draws the
        reservoir.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, *input_shape)
            Training samples.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Their targets.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weights of the samples, not negative.

        Returns
        -------
        self : estimator
            The fitted estimator.

        Raises
        ------
        ValueError
            If the data or a parameter is malformed.
        """
        return self._fit_part(X, y, sample_weight, resume=self._goes_on(), epochs=1)
