"""What regressors have in common: targets in their own units, and references of relevance.

`ESNRegressor` derives from `NetworkRegressor`, the regressors that are trained by gradient from
`GradientRegressor`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from sklearn.model_selection import ShuffleSplit
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sklrp._checks import as_values, is_positive_integer
from sklrp._devices import to_host
from sklrp._keywords import named
from sklrp._matching import match_samples, match_target
from sklrp._missing import as_plain_array, find_missing
from sklrp._numbers import is_readable
from sklrp._rows import is_stream
from sklrp._sklearn import fit_context
from sklrp._wording import say_value
from sklrp.classifiers.base import NetworkEstimator, as_weights, undone_on_error
from sklrp.classifiers.gradient import GradientEstimator, makes_single_epochs
from sklrp.classifiers.net import RegressorNet
from sklrp.classifiers.saved import are_numbers, are_positive, are_ranges, is_flag
from sklrp.composites import Composite
from sklrp.modules import in_target_units
from sklrp.propagation.piecemeal import explain_piecemeal
from sklrp.propagation.references import find_at_target, read_reference
from sklrp.propagation.targets import Function, WeightedSum, decode_target, evaluate_target
from sklrp.rules import Rule


class NetworkRegressor(RegressorMixin, NetworkEstimator):  # numpydoc ignore=PR02
    """Base of the regressors: standardised targets, prediction and explanation.

    Attributes
    ----------
    n_outputs_ : int
        The number of targets.
    target_mean_ : ndarray of shape (n_outputs_,)
        The weighted mean of each target in the training data.
    target_scale_ : ndarray of shape (n_outputs_,)
        Its weighted standard deviation; 1 for a constant target.
    target_range_ : ndarray of shape (n_outputs_, 2)
        Its smallest and largest value.
    net_ : skorch.NeuralNetRegressor
        The trained net.
    module_ : torch.nn.Sequential
        Its network: takes ``(n_samples, n_features_in_)``, returns predictions
        ``(n_samples, n_outputs_)`` in the targets' units. Its last layer, ``units``, makes them
        of standardised ones.
    """

    _kept: ClassVar[Mapping[str, Callable[[Any], bool]]] = {
        "n_outputs_": is_positive_integer,
        "target_mean_": are_numbers,
        "target_scale_": are_positive,
        "target_range_": are_ranges,
        "_is_vector": is_flag,
    }
    _targets: ClassVar[Mapping[str, Any]] = {"multi_output": True, "y_numeric": True}

    def __sklearn_tags__(self) -> Any:
        """Return the tags: y may hold several targets."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    @property
    def _n_outputs(self) -> int:
        return self.n_outputs_

    def _net(self, **params: Any) -> RegressorNet:
        network = self._network(self.n_outputs_)
        units = {"mean": self.target_mean_, "scale": self.target_scale_}
        return RegressorNet(functools.partial(in_target_units, network, **units), **params)

    def _check_targets(self, y: Any) -> None:
        """Raise an error if y holds classes, or anything but numbers."""
        values = as_plain_array(y, "y")
        if values.ndim > 2:
            raise ValueError(
                f"y has the shape {values.shape}, but must have a column for each output, "
                "(n_samples, n_outputs): of an array y.reshape(len(y), -1); of fields of xarray "
                "grid.fit_transform(y) with grid = sklrp.geo.GridVectorizer(), whose "
                "inverse_transform puts predictions back on the grid."
            )
        kind = values.dtype.kind
        if kind == "O":
            there = values[~find_missing(values)].ravel()
            others = [v for v in there if isinstance(v, str | bytes | bool) or not is_readable(v)]
        else:
            others = [] if kind in "iuf" else values.ravel()[:1].tolist()
        if others:
            name = type(self).__name__
            raise ValueError(
                f"y must hold the numbers that {name} is to predict, got "
                f"{say_value(others[0])}: for "
                f"classes use {name.removesuffix('Regressor')}Classifier; for numbers of another "
                "type give y.astype(float)."
            )

    @fit_context(prefer_skip_nested_validation=True)
    @undone_on_error
    def fit(
        self, X: ArrayLike, y: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> NetworkRegressor:
        """Train the network.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, *input_shape)
            The training samples. Those in a file or in chunks, see `sklrp.explain`, are read when
            they are used; so are the items of a data set of torch or skorch.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs) or None, default=None
            Their targets, in any units: they are standardised inside. None (default): those of
            the data set.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weights of the samples, not negative. None (default): all samples weigh the same.

        Returns
        -------
        self : estimator
            The fitted estimator.

        Raises
        ------
        ValueError
            If the data or a parameter is malformed, before any training; or if it diverges.
        """
        return self._fit_part(X, y, sample_weight, resume=self._resumes())

    def _fit_part(
        self, X: Any, y: Any, sample_weight: Any, *, resume: bool, epochs: int | None = None
    ) -> Any:
        """Train on samples, anew or beside those before."""
        X, targets, weight = self._take_targets(X, y, sample_weight, resume=resume)
        return self._train(X, targets, weight, resume=resume, epochs=epochs)

    def _take_targets(
        self, X: Any, y: Any, sample_weight: Any, *, resume: bool
    ) -> tuple[NDArray, NDArray[np.float64], NDArray | None]:
        """Return validated samples, targets in two dimensions and weights; remember the units."""
        X, y, weight = self._check_training_data(X, y, sample_weight, reset=not resume)
        targets = np.asarray(y, dtype=np.float64).reshape(len(y), -1)
        if weight is not None and not weight.any():
            raise ValueError("sample_weight must hold a positive weight, got zeros alone.")
        if not resume:
            self._find_units(targets, weight, is_vector=np.ndim(y) == 1)
        elif targets.shape[1] != self.n_outputs_:
            raise ValueError(
                f"y has {targets.shape[1]} targets, but the training so far had "
                f"{self.n_outputs_}: give as many, or fit anew with warm_start=False."
            )
        self._widen_range(targets if weight is None else targets[weight > 0])
        return X, targets, weight

    def _find_units(
        self, targets: NDArray[np.float64], weight: NDArray | None, *, is_vector: bool
    ) -> None:
        """Remember the mean and the deviation by which targets are standardised."""
        with np.errstate(over="ignore", invalid="ignore"):  # `_set_units` tells of it
            mean = np.average(targets, axis=0, weights=weight)
            deviation = np.sqrt(np.average((targets - mean) ** 2, axis=0, weights=weight))
        self.n_outputs_: int = targets.shape[1]
        self._set_units(mean, deviation)
        self.target_range_: NDArray[np.float64] = np.tile([np.inf, -np.inf], (len(mean), 1))
        self._is_vector = is_vector

    def _set_units(self, mean: NDArray[np.float64], deviation: NDArray[np.float64]) -> None:
        if not np.isfinite([mean, deviation]).all():
            raise ValueError(
                "y holds numbers whose squares are not finite: give it in another unit, such as "
                "y / np.abs(y).max()."
            )
        varies = deviation > 1e-12 * np.abs(mean)  # by more than the rounding of the mean
        self.target_mean_: NDArray[np.float64] = mean
        self.target_scale_: NDArray[np.float64] = np.where(varies, deviation, 1.0)

    def _widen_range(self, targets: NDArray[np.float64]) -> None:
        """Remember the smallest and largest value of each target so far."""
        low, high = self.target_range_.T
        low, high = np.minimum(low, targets.min(axis=0)), np.maximum(high, targets.max(axis=0))
        self.target_range_ = np.stack([low, high], axis=1)

    def predict(self, X: ArrayLike) -> NDArray[np.floating]:
        """Predict the targets of each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, *input_shape)
            The samples.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs_)
            The predictions, in the targets' units, with as many axes as y had in `fit`.
        """
        outputs = self._outputs(X).numpy()
        return outputs[:, 0] if self._is_vector else outputs

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Return the coefficient of determination, R².

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, *input_shape)
            The samples.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs_)
            Their targets.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weights of the samples. None (default): all samples weigh the same.

        Returns
        -------
        float
            R², with several targets the mean over them.
        """
        y = match_samples(to_host(y), X, "y")
        as_values("y", as_plain_array(y, "y"))
        return super().score(X, y, as_weights(sample_weight, X, y))

    @named
    def explain(
        self,
        X: ArrayLike,
        *,
        target: Any = None,
        reference: str | float | ArrayLike = "mean",
        rule: str | Rule | Composite = "auto",
        epsilon: float = 1e-6,
        batch_size: int | None = None,
        n_jobs: int | None = None,
        progress: bool = False,
        return_details: bool = False,
        check: bool | str = "auto",
        layers: list[str] | None = None,
        out: Any = None,
    ) -> Any:
        r"""Return the relevance of each value of X for a prediction, by layer-wise propagation.

        The relevance of a sample is in the target's units. With what the layers keep, and the
        share of the reference, it sums to the prediction less the reference. It is laid out as X
        is: reshaping and sweeping are undone.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, *input_shape)
            The samples.
        target : None, int, array-like, "all" or callable, default=None
            The output that is explained: its index, from 0, one index for each sample, or every
            output; a boolean mask or weights (floats) over the outputs, for their sum; or a
            function of the predictions, a tensor of shape ``(n_samples, n_outputs_)``, in torch's
            operations, as `sklrp.explain` takes it. None (default): the only output; with several
            an error.
        reference : {"mean", "zero"}, float or array-like of shape (n_outputs_,), default="mean"
            The value from which the prediction is explained, in the target's units: the mean of
            the training data (a map of zeros says "as in the mean"), zero, or a value within the
            range of the training data, one for all outputs or one for each.
        rule : str, Rule or Composite, default="auto"
            How relevance is passed on. ``"auto"`` is the z-plus rule on convolutions and the
            epsilon rule on other layers; see `sklrp.available_rules` for the other names.
        epsilon : float, default=1e-6
            Stabiliser of the rules that have none of their own, at least 0, in units of
            pre-activations; the last layer's are standardised targets.
        batch_size : int or None, default=None
            Number of samples that are explained at once; None takes what keeps memory low.
        n_jobs : int or None, default=None
            Number of joblib's workers. None (default): one.
        progress : bool, default=False
            Whether to show a progress bar.
        return_details : bool, default=False
            Whether to return how much relevance each layer received and kept.
        check : bool or "auto", default="auto"
            How much is compared with the network's own forward: "auto" a few samples, True all,
            with the relevance of each layer; False the fewest. See `sklrp.explain`.
        layers : list of str or None, default=None
            Names of layers of `module_`, as in its ``named_modules()``: the relevance at their
            outputs is returned in the details, which are then returned in any case.
        out : array or None, default=None
            Where relevance is written, of its shape and any floating dtype: an array of NumPy or
            zarr, or a file, `numpy.lib.format.open_memmap`; it is returned. None (default): a new
            array.

        Returns
        -------
        relevance : ndarray of the shape and floating dtype of X
            The relevance. With ``target="all"`` of shape ``(n_samples, n_outputs_, ...)``.
        details : Bunch
            Only with ``return_details`` or ``layers``: ``score``, the prediction less the
            reference, ``reference``, ``reference_share``, the part of the score that no input has,
            as the reference is not the mean, each of shape ``(n_samples,)`` or
            ``(n_samples, n_outputs_)``; ``target``, and ``layers`` and ``layer_relevance``, see
            `sklrp.explain`, in the target's units.

        Raises
        ------
        ValueError
            If X, the target, the reference, the rule or another parameter is malformed.
        NotFittedError
            If the regressor is not fitted.

        Notes
        -----
        The network computes standardised targets :math:`z`, so a prediction is
        :math:`\bar y + s z`, and relevance starts at :math:`s z`: the difference from the mean.
        Another reference :math:`r` shifts what is explained by the constant :math:`\bar y - r`.
        No input has part in a constant, as in a bias. It is ``reference_share``, and the maps of
        all references are alike [1]_.

        References
        ----------
        .. [1] S. Letzgus et al., "Toward explainable artificial intelligence for regression
           models: a methodological perspective", IEEE Signal Processing Magazine 39(4), 2022.
        """
        check_is_fitted(self)
        values = read_reference(reference, (self.n_outputs_,), self.target_mean_)
        target = match_target(target, X)
        options = {
            "rule": rule,
            "epsilon": epsilon,
            "batch_size": batch_size,
            "n_jobs": n_jobs,
            "progress": progress,
            "return_details": return_details,
            "check": check,
            "layers": layers,
            "out": out,
        }
        if is_stream(X):
            options["reference"] = reference
            return explain_piecemeal(self.explain, X, target=target, has_labels=False, **options)
        decoded: list[NDArray | WeightedSum | Function | str] = []

        def decode(n_samples: int) -> tuple[Any, NDArray | None]:
            outputs = decode_output(target, n_samples, self.n_outputs_, type(self).__name__)
            check_in_range(reference, values, self.target_range_, outputs)
            decoded.append(outputs)
            scale = self.target_scale_
            if isinstance(outputs, Function):
                return functools.partial(self._less_than_at_mean, outputs), None
            if isinstance(outputs, WeightedSum):
                return outputs.weights * scale, None
            return outputs, scale[None] if isinstance(outputs, str) else scale[outputs]

        relevance, details = self._explain(
            self.module_[:-1],
            X,
            decode,
            contrast=False,
            **options,
        )
        if details is None:
            return relevance
        at_reference, at_mean = (
            find_at_target(v, decoded[0], len(details.score)) for v in (values, self.target_mean_)
        )
        details.refer_to(at_reference, at_mean - at_reference)
        if callable(target) or (np.ndim(target) and np.asarray(target).dtype.kind in "bf"):
            details.target = target  # not as one of standardised outputs
        return relevance, details

    def _less_than_at_mean(self, target: Function, standardised: Tensor) -> Tensor:
        """Return a function of the predictions, less its value where they are the mean."""
        mean, scale = (
            torch.as_tensor(v).to(standardised) for v in (self.target_mean_, self.target_scale_)
        )
        predictions = mean + scale * standardised
        at_mean = evaluate_target(mean[None].expand(len(standardised), -1), target)
        return evaluate_target(predictions, target) - at_mean


def decode_output(
    target: Any, n_samples: int, n_outputs: int, name: str
) -> NDArray | WeightedSum | Function | str:
    """Return what is explained of a regressor's outputs.

    Parameters
    ----------
    target : object
        The target, as ``explain`` takes it.
    n_samples, n_outputs : int
        The number of samples and of outputs.
    name : str
        The name of the regressor, for errors.

    Returns
    -------
    ndarray of shape (n_samples,), "all", WeightedSum or Function
        One index of an output per sample, every output, weights over them, or a function of them.

    Raises
    ------
    ValueError
        If the target is none of these, or does not say which of several outputs is meant.
    """
    if target is None:
        if n_outputs > 1:
            raise ValueError(
                f"target=None does not say which of the {n_outputs} outputs to explain: give an "
                f"index, 0..{n_outputs - 1}, or 'all'."
            )
        target = 0
    decoded = decode_target(target, None, n_samples, (n_outputs,))
    if decoded is None:
        raise ValueError(
            f"target of {name} must be an index, 'all', a mask or weights over the {n_outputs} "
            f"outputs, or a function of them, got {say_value(target)}."
        )
    return decoded


def check_in_range(
    reference: Any,
    values: NDArray[np.float64],
    ranges: NDArray,
    outputs: NDArray | WeightedSum | Function | str,
) -> None:
    """Raise an error if a reference is no value that an explained output has ever had.

    Parameters
    ----------
    reference : object
        The reference as it was given; a name is in range.
    values : ndarray of shape (n_outputs,)
        The reference of each output; 0 is in range.
    ranges : ndarray of shape (n_outputs, 2)
        The smallest and the largest target in training.
    outputs : ndarray of shape (n_samples,), "all", WeightedSum or Function
        What is explained, see `decode_output`.

    Raises
    ------
    ValueError
        If one is out of range.
    """
    if isinstance(reference, str):
        return
    if isinstance(outputs, WeightedSum):
        explained = np.flatnonzero(outputs.weights)
    elif isinstance(outputs, np.ndarray):
        explained = np.unique(outputs)
    else:
        explained = np.arange(len(values))
    for i in explained:
        low, high = ranges[i]
        rounding = 1e-6 * max(abs(low), abs(high))  # of a value in single precision
        if values[i] != 0 and not low - rounding <= values[i] <= high + rounding:
            raise ValueError(
                f"reference={reference!r} lies outside the targets of the training data, "
                f"{low:.6g} to {high:.6g} of output {i}, so the network knows nothing like it: "
                "give a value among them (in the target's units), 'mean' or 'zero'."
            )


class GradientRegressor(GradientEstimator, NetworkRegressor):  # numpydoc ignore=PR02
    """Base of the regressors that are trained by gradient.

    Parameters
    ----------
    callbacks : list or None, default=None
        Callbacks of skorch, or tuples ``(name, callback)``; `fit` copies them. They see targets
        and predictions in the targets' units, of shape ``(n_samples, n_outputs)``. Their arguments
        are parameters ``callbacks__<name>__<argument>``. None (default): no callbacks.
    warm_start : bool, default=False
        Whether another `fit` goes on with the network, the optimizer's state and the callbacks of
        the one before. It takes the present `lr`, `batch_size`, `max_epochs`, `l1`, `l1_first`,
        `l2_first`, `validation_fraction` and `verbose`, draws only the validation split from
        `random_state`, keeps the mean and the scale of the targets, and ignores `callbacks`. Any
        other parameter that has changed is an error, as in `partial_fit`.
    **kwargs : dict
        Double-underscore parameters of skorch: ``optimizer__<name>``, ``callbacks__<name>``,
        ``callbacks__<name>__<argument>``, ``iterator_train__batch_size``,
        ``iterator_train__shuffle``, ``iterator_train__drop_last``, ``iterator_train__device``,
        ``iterator_valid__batch_size``. They are parameters like any other, also in
        `GridSearchCV`.

    Notes
    -----
    The loss is the squared error of standardised targets, so that all targets count alike
    whatever their units. It is averaged over a batch and the targets, with the samples' weights,
    which `fit` scales to a mean of one. With a single batch per epoch, a weight of two is the same
    as giving a sample twice; with several it is so on average only, as the batches differ.

    The training data is moved to a CUDA device once, if it takes at most half of the free memory
    there, and else batch by batch, as with ``iterator_train__device="cpu"``.
    """

    @available_if(makes_single_epochs)
    @fit_context(prefer_skip_nested_validation=True)
    @undone_on_error
    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> GradientRegressor:
        """Go on training for one epoch over the given samples.

        Use it for data that arrives in parts; it is not available with ``early_stopping=True``.
        On an estimator that is not fitted yet it starts the training; n calls with the same
        samples train as ``fit`` with ``max_epochs=n`` does. The first part sets the mean and the
        scale by which the targets are standardised, so it should be like the others.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, *input_shape)
            Training samples.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Their targets.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weights of the samples, not negative. Unlike in `fit` they are not scaled, as one part
            does not know the weights of the others.

        Returns
        -------
        self : estimator
            The fitted estimator.

        Raises
        ------
        ValueError
            If the data or a parameter is malformed, before any training; or if it diverges.
        """
        return self._fit_part(X, y, sample_weight, resume=self._goes_on(), epochs=1)

    def _make_splitter(self, targets: NDArray, n_held_out: int, seed: int) -> Any:
        return ShuffleSplit(n_splits=1, test_size=n_held_out, random_state=seed)
