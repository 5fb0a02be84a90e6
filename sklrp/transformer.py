"""Relevance maps as features of a pipeline: `RelevanceTransformer`.

It trains the network through `sklrp._network_cache`, explains it as `sklrp.explain` does, and sums
and scales the maps.
"""

from __future__ import annotations

import inspect
from contextlib import suppress
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from joblib import Memory
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn import get_config
from sklearn.base import (
    BaseEstimator,
    MetaEstimatorMixin,
    TransformerMixin,
    clone,
    is_classifier,
)
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import check_cv
from sklearn.utils import Bunch, get_tags
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import (
    check_array,
    check_consistent_length,
    check_is_fitted,
    check_random_state,
    check_X_y,
    column_or_1d,
    validate_data,
)
from torch import nn

from sklrp._checks import check_folds, check_jobs, is_positive_integer, look_up
from sklrp._constraints import COMMON, JOBS, Interval, ShortErrors, constrained, refine
from sklrp._devices import to_host
from sklrp._feature_groups import GroupSums, group_features, join_names, name_labels
from sklrp._keywords import named
from sklrp._matching import match_samples
from sklrp._missing import as_plain_array, forbid_masked, forbid_missing, mask_to_nan
from sklrp._model_parts import Model, is_regression
from sklrp._models import unwrap
from sklrp._network_cache import train_network
from sklrp._numbers import forbid_text
from sklrp._outputs import asks_for_all, split_key
from sklrp._random_stream import RandomStream
from sklrp._rows import forbid_stream, is_stream, map_batches, take_rows
from sklrp._sklearn import (
    HasMethods,
    StrOptions,
    check_feature_names_in,
    check_method_params,
    check_own_params,
    get_feature_names,
    safe_indexing,
)
from sklrp._stored import as_stored, is_stored
from sklrp._wording import say_value
from sklrp.classifiers.base import undone_on_error
from sklrp.classifiers.diagram import nested_block
from sklrp.classifiers.regressor import check_in_range, decode_output
from sklrp.classifiers.saved import are_labels, is_shape
from sklrp.composites import check_rule
from sklrp.propagation import explain
from sklrp.propagation.readings import read_name
from sklrp.propagation.references import check_reference, read_reference

_AXES = ("channel", "row", "column", "time")


class RelevanceTransformer(ShortErrors, TransformerMixin, MetaEstimatorMixin, BaseEstimator):
    r"""Turn samples into the relevance that a network gives to their features.

    Use it as a step of a :class:`~sklearn.pipeline.Pipeline` to feed relevance maps to another
    estimator, and in a search to choose how relevance is propagated. ``fit`` trains a clone of
    ``estimator``; ``transform`` explains it: feature :math:`i` of a sample becomes :math:`R_i`,
    its share of the explained score. The rule and its settings play no part in training: after
    ``fit`` they may be changed with ``set_params`` and hold for the next ``transform``.

    Parameters
    ----------
    estimator : estimator, skorch net, nn.Module, Pipeline, search or FrozenEstimator
        What :func:`sklrp.explain` takes, such as :class:`~sklrp.MLPClassifier`. It is cloned and
        trained, not changed. A pipeline gives the relevance of what enters its network; a search
        is run, and its best network explained; a skorch net gets ``X`` in its own dtype. In a
        :class:`~sklearn.frozen.FrozenEstimator` a fitted one is explained as it is and nothing is
        trained; that is right only for a network that was trained on other data. A bare module
        cannot be trained here, so it is always taken as it is.
    target : None, class label, "all", tuple, array-like or callable, default=None
        The class to explain: ``None`` the predicted class of each sample, a label that class for
        every sample, ``"all"`` every class in turn, which gives ``n_classes`` times the features,
        also where a class has that name. Of a regressor the index of an output, or a mask or
        weights over the outputs; of a module what :func:`sklrp.explain` takes.
    rule : str, Rule or Composite, default="auto"
        How relevance is propagated, see :func:`sklrp.check_rule`. Given as an object, its
        parameters are searchable: ``rule__gamma`` of ``Gamma()``, ``rule__conv__gamma`` of the row
        ``"conv"`` of a :class:`~sklrp.Composite`.
    epsilon : float, default=1e-6
        The stabiliser of rules that have none of their own, at least 0, in units of the layers'
        pre-activations.
    contrast : bool, default=False
        Whether to explain the target's score minus that of the best other class.
    reference : None, "mean", "zero", float or array-like, default=None
        The value from which an output is explained, see :func:`sklrp.explain`. The maps are the
        same for all; with ``normalize="score"`` they are shares of the score less the reference.
        None (default): the mean of the targets for regressors of this package, else zero.
    aggregate : None, "channel", "row", "column", "time" or array-like, default=None
        What to sum relevance over. ``None``: nothing, one feature per input feature. A name: one
        feature per position along that axis, summed over all others. An array of labels, of the
        shape of a sample or flat: one feature per label, in the order of ``np.unique``.

        The axes of a sample are ``(channel, time)`` or ``(channel, row, column)`` where
        ``estimator`` is convolutional; where it is recurrent, or takes shaped samples without
        saying what their axes are, two axes are ``(row, column)`` of an image or, the same,
        ``(time, channel)`` of a sequence, three are ``(channel, row, column)`` and four
        ``(channel, time, row, column)``. Where the ``sweep`` of ``estimator`` is ``"right"`` or
        ``"left"``, its time steps are the columns: two axes are then ``(channel, time)``, and
        ``(row, column)`` as ever. A flat ``X`` has the axes of the ``input_shape`` of
        ``estimator``.
    normalize : None, "l1", "max" or "score", default=None
        What to divide each map by, that is, the features of one sample and one explained class:
        the sum or the maximum of their absolute values, or the explained score, which makes them
        shares of it. A map whose divisor is 0 stays as it is.
    cv : int, cross-validation generator, iterable or None, default=None
        Whether, and over which folds, ``fit_transform`` is out-of-fold: each sample is then
        explained by a network that has not seen it, so that what follows learns from maps like
        those it will meet. ``None``: the network trained on all samples explains them. An integer
        makes stratified folds. ``fit`` followed by ``transform`` always uses the network trained
        on all samples.
    memory : None, str, path or joblib.Memory, default=None
        Where to keep trained networks, as in :class:`~sklearn.pipeline.Pipeline`; ``None``:
        nowhere. A network is trained once for each set of its own parameters, ``X``, ``y`` and fit
        parameters, whatever the relevance settings; workers that need the same one wait for the
        first. With ``random_state=None`` on both sides, what the first training gave is kept too.
    batch_size : int or None, default=None
        Samples explained at once; ``None`` lets the estimator choose.
    n_jobs : int or None, default=None
        Jobs over batches of samples in ``transform``, over folds in ``fit_transform`` with ``cv``;
        ``None`` means 1 unless in a :obj:`joblib.parallel_config` context, -1 all cores.
    random_state : int, RandomState instance or None, default=None
        Handed on to every ``random_state`` of ``estimator``: an integer as it is, from an instance
        a new integer for each network. It determines what a skorch net draws, too, and torch's
        global generators are neither read nor changed. ``None`` leaves those of ``estimator``; a
        skorch net then draws from torch's global generators, as it does by itself.

    Attributes
    ----------
    estimator_ : estimator object
        The estimator trained on all samples, or ``estimator`` itself where nothing is trained.
    classes_ : ndarray of shape (n_classes,) or None
        The class labels: those of a module are the indices of its outputs, and a network of a
        single output, or a regressor, has none.
    n_features_in_ : int
        Number of values per sample seen in ``fit``, over all axes of a shaped sample.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, only where ``X`` had names that are all strings.
    sample_shape_ : tuple of int
        The shape of one sample of ``X`` in ``fit``.
    map_shape_ : tuple of int
        The shape of what enters the network for one sample: that of its relevance map. It differs
        from ``sample_shape_`` where the steps of a pipeline come before the network.
    n_outputs_ : int
        The number of outputs, only where there are no classes.

    See Also
    --------
    sklrp.MLPClassifier.explain : The explanation itself, with its details.
    sklearn.feature_selection.SelectFromModel : Select features instead of weighing them.

    Notes
    -----
    Fit parameters reach ``estimator``: ``fit(X, y, sample_weight=w)`` or, with scikit-learn's
    metadata routing enabled, what ``estimator.set_fit_request`` asks for. ``groups`` for the
    splitter of ``cv`` goes to ``fit_transform``.

    For scikit-learn a transformer is no classifier: searching over or cross-validating a
    ``RelevanceTransformer`` itself, an integer ``cv`` makes folds that are not stratified, which
    leave out whole classes where ``y`` is sorted. Pass ``cv=StratifiedKFold(...)`` to
    :func:`~sklearn.model_selection.cross_val_score` and its like. A pipeline that ends in a
    classifier gets stratified folds.

    A ``fit`` that fails changes nothing: the transformer stays as fitted, or unfitted, as it was.

    The cache identifies functions and classes of modules by name. Those of a script or a notebook
    it identifies by their code, so that editing them trains anew. What cannot be identified or
    stored is trained without the cache, with a warning. Networks are kept apart by the versions of
    torch, skorch, NumPy and the packages that the class of ``estimator`` comes from. The version
    of a development install stays the same while its code changes: clear the cache after a change.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklearn.pipeline import Pipeline
    >>> from sklrp import MLPClassifier, RelevanceTransformer
    >>> X, y = load_iris(return_X_y=True)
    >>> relevance = RelevanceTransformer(MLPClassifier(max_epochs=5, random_state=0))
    >>> relevance.fit(X, y).transform(X).shape
    (150, 4)
    >>> pipeline = Pipeline([("relevance", relevance), ("clf", LogisticRegression())])
    >>> search = GridSearchCV(pipeline, {"relevance__rule": ["epsilon", "z_plus"]}, cv=2)
    >>> sorted(search.fit(X, y).best_params_)
    ['relevance__rule']
    """

    # What `sklrp.save` keeps of a fitted transformer beside its network, and the form of each.
    _saved: ClassVar[dict[str, Any]] = {
        "classes_": lambda value: value is None or are_labels(value),
        "n_features_in_": is_positive_integer,
        "sample_shape_": is_shape,
        "map_shape_": is_shape,
    }
    _parameter_constraints: ClassVar[dict[str, list[Any] | str]] = refine(
        {
            "estimator": [HasMethods(["fit"]), nn.Module],
            "epsilon": [Interval(Real, 0, np.inf, closed="left")],
            "contrast": ["boolean"],
            "reference": "no_validation",
            "aggregate": [StrOptions(set(_AXES)), "array-like", None],
            "normalize": [StrOptions({"l1", "max", "score"}), None],
            "cv": ["cv_object"],
            "memory": COMMON["memory"],
            "batch_size": [Interval(Integral, 1, None, closed="left"), None],
            "n_jobs": JOBS,
            "random_state": ["random_state"],
        }
    )

    @named
    def __init__(
        self,
        estimator: Any,
        *,
        target: Any = None,
        rule: Any = "auto",
        epsilon: float = 1e-6,
        contrast: bool = False,
        reference: Any = None,
        aggregate: str | ArrayLike | None = None,
        normalize: str | None = None,
        cv: Any = None,
        memory: str | Path | Memory | None = None,
        batch_size: int | None = None,
        n_jobs: int | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.estimator = estimator
        self.target = target
        self.rule = rule
        self.epsilon = epsilon
        self.contrast = contrast
        self.reference = reference
        self.aggregate = aggregate
        self.normalize = normalize
        self.cv = cv
        self.memory = memory
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.random_state = random_state

    @undone_on_error
    def fit(
        self, X: ArrayLike, y: ArrayLike | None = None, **fit_params: Any
    ) -> RelevanceTransformer:
        """Train the network on all samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, *sample_shape)
            The samples.
        y : array-like of shape (n_samples,)
            The class labels, or what else the network is trained on; may be left out where
            nothing is trained.
        **fit_params : dict
            What ``estimator.fit`` takes besides, such as ``sample_weight``; arrays have one entry
            per sample.

        Returns
        -------
        RelevanceTransformer
            The fitted transformer.

        Raises
        ------
        ValueError
            If a parameter or the data are invalid; before anything is trained.
        TypeError
            If there is no network in ``estimator``, or several, or ``rule`` is not a rule; before
            anything is trained.
        """
        self._fit(X, y, self._route("fit", fit_params).estimator.fit)
        return self

    @undone_on_error
    def fit_transform(
        self, X: ArrayLike, y: ArrayLike | None = None, **fit_params: Any
    ) -> NDArray[np.floating]:
        """Train the network on all samples and explain them, out-of-fold with ``cv``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, *sample_shape)
            The samples.
        y : array-like of shape (n_samples,)
            As in ``fit``.
        **fit_params : dict
            As in ``fit``, and ``groups`` for the splitter of ``cv``.

        Returns
        -------
        ndarray of shape (n_samples, n_features_out)
            The relevance, in units of the explained score unless normalised.

        Raises
        ------
        ValueError
            As in ``fit``; and if the folds of ``cv`` leave out a sample, or leave a class without
            training samples.
        TypeError
            As in ``fit``.
        """
        routed = self._route("fit_transform", fit_params)
        split_params = routed.splitter.split if self.cv is not None else {}
        X, y, folds = self._fit(X, y, routed.estimator.fit, split_params)
        if folds is None:
            return self._explain(self.estimator_, X)
        blocks = Parallel(n_jobs=self.n_jobs)(
            delayed(self._explain_fold)(self._make_network(), X, y, routed.estimator.fit, *fold)
            for fold in folds
        )
        relevance = np.empty((len(y), blocks[0].shape[1]), dtype=blocks[0].dtype)
        for (_, test), block in zip(folds, blocks, strict=True):
            relevance[test] = block
        return relevance

    def transform(self, X: ArrayLike) -> NDArray[np.floating]:
        """Explain samples by the network trained on all samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, *sample_shape)
            The samples. Those in a file or in chunks, see :func:`sklrp.explain`, are read part by
            part, and maps are summed as they are made: ``aggregate`` takes the memory of its sums.

        Returns
        -------
        ndarray of shape (n_samples, n_features_out)
            The relevance, in units of the explained score unless normalised. Floats of the
            precision of ``X``.

        Raises
        ------
        NotFittedError
            If the transformer is not fitted.
        ValueError
            If ``X`` or a parameter is invalid.
        """
        check_is_fitted(self)
        self._check_params()
        model = unwrap(self.estimator_)
        self._check_target(model.classes)

        def explain(X: Any) -> NDArray[np.floating]:
            samples = self._check_data(X, model=model, reset=False)
            return self._explain(self.estimator_, samples)

        return np.concatenate(list(map_batches(explain, X))) if is_stream(X) else explain(X)

    def score(self, X: ArrayLike, y: ArrayLike, **score_params: Any) -> float:
        """Return the score of the network, for a classifier its accuracy.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, *sample_shape)
            The samples.
        y : array-like of shape (n_samples,)
            The class labels.
        **score_params : dict
            What ``estimator.score`` takes besides, such as ``sample_weight``.

        Returns
        -------
        float
            The score.

        Raises
        ------
        NotFittedError
            If the transformer is not fitted.
        ValueError
            If ``X`` is invalid, or ``y`` holds labels that were not in that of ``fit``.
        TypeError
            If the network has no score, as a bare module has none.
        """
        check_is_fitted(self)
        routed = self._route("score", score_params)
        if not hasattr(self.estimator_, "score"):
            raise TypeError(
                f"{type(self).__name__} has no score, as {type(self.estimator_).__name__} has "
                "none: grade its maps with scoring=sklrp.metrics.make_relevance_scorer(...)."
            )
        model = unwrap(self.estimator_)
        known = None if self.classes_ is None else self.classes_.tolist()
        labels = as_plain_array(y, "y")
        if known is not None and (unknown := look_up(labels, np.asarray(known))[1]):
            raise ValueError(
                f"y has the labels [{unknown}], which are not among the classes "
                f"{known} that {type(self).__name__} was fitted on. In a cross-validation or a "
                "search, pass stratified folds: cv=StratifiedKFold(...)."
            )
        X = _take_dtype(self.estimator_, self._check_data(X, model=model, reset=False))
        return self.estimator_.score(X, y, **routed.estimator.score)

    @constrained({"input_features": ["array-like", None]})
    def get_feature_names_out(
        self, input_features: ArrayLike | None = None
    ) -> NDArray[np.object_]:
        """Return the names of the features that ``transform`` gives.

        They are those of the input features or, with ``aggregate``, the axis and the position
        (``"row0"``) or the label of the region; with ``target="all"`` behind the class
        (``"warm_x0"``). Labels that are not strings are written ``"region1"`` and ``"class1"``.

        Parameters
        ----------
        input_features : array-like of str of shape (n_features_in_,) or None, default=None
            The names of the input features; ``None``: those seen in ``fit``, else ``"x0"``,
            ``"x1"``, in the order of the flattened sample.

        Returns
        -------
        ndarray of str of shape (n_features_out,)
            The names.

        Raises
        ------
        NotFittedError
            If the transformer is not fitted.
        ValueError
            If ``input_features`` are not those seen in ``fit``, or if with ``target="all"`` two
            features would have one name.
        """
        check_is_fitted(self)
        if input_features is not None:
            input_features = as_plain_array(input_features, "input_features")
        names: Any = check_feature_names_in(self, input_features)
        model = unwrap(self.estimator_)
        if model.before is not None:
            n_features = int(np.prod(self.map_shape_))
            names = model.feature_names(None, n_features) or [f"x{i}" for i in range(n_features)]
        if self.aggregate is not None:
            names = group_features(self.aggregate, model.network, self.map_shape_)[1]
        if self._explains_all():
            if self.classes_ is None:
                labels = [f"output{i}" for i in range(self.n_outputs_)]
            else:
                labels = name_labels(self.classes_, "class")
            names = join_names(labels, names)
        return np.asarray(names, dtype=object)

    def set_params(self, **params: Any) -> RelevanceTransformer:
        """Set parameters, those of the estimator and of the rule included.

        ``estimator__lr`` is the estimator's ``lr``, ``rule__gamma`` the rule's ``gamma``.

        Parameters
        ----------
        **params : dict
            Parameters and their values.

        Returns
        -------
        RelevanceTransformer
            The transformer itself.

        Raises
        ------
        ValueError
            If a parameter is unknown, or one of a rule is set where ``rule`` is only a name.
        """
        rule = params.get("rule", self.rule)
        nested = [name for name in params if name.startswith("rule__")]
        if nested and not hasattr(rule, "set_params"):
            raise ValueError(
                f"{nested[0]!r} cannot be set: rule={rule!r} is a name and has no parameters. "
                "Give the rule as an object, such as rule=Gamma() for rule__gamma, or "
                "rule=Composite([('conv', Gamma(), 'conv'), ...]) for rule__conv__gamma."
            )
        return super().set_params(**params)

    def get_metadata_routing(self) -> MetadataRouter:
        """Return what metadata goes where: to ``estimator`` and to the splitter of ``cv``.

        Returns
        -------
        MetadataRouter
            The routing.
        """
        mapping = MethodMapping().add(caller="fit", callee="fit")
        mapping.add(caller="fit_transform", callee="fit").add(caller="score", callee="score")
        router = MetadataRouter(owner=self).add(estimator=self.estimator, method_mapping=mapping)
        if self.cv is not None:
            splitting = MethodMapping().add(caller="fit_transform", callee="split")
            router.add(splitter=check_cv(self.cv, classifier=True), method_mapping=splitting)
        return router

    def __sklearn_tags__(self) -> Any:
        """Return the tags: ``y`` is required to train, floats keep their precision."""
        tags = super().__sklearn_tags__()
        with suppress(TypeError):  # of what is no network, which fit tells
            model = unwrap(self.estimator, fitted=False)
            tags.target_tags.required = not _is_frozen(self.estimator, model)
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        if hasattr(self.estimator, "__sklearn_tags__"):
            tags.non_deterministic = get_tags(self.estimator).non_deterministic
        return tags

    def _sk_visual_block_(self) -> Any:
        """Return what scikit-learn's diagram shows: once fitted, the network under the rule."""
        estimator = getattr(self, "estimator_", self.estimator)
        return nested_block(estimator, self.rule, self.epsilon)

    @property
    def _n_features_out(self) -> int:
        return len(self.get_feature_names_out())

    def _route(self, method: str, params: dict[str, Any]) -> Bunch:
        """Return the metadata of a call, by receiver and method."""
        if get_config()["enable_metadata_routing"]:
            return process_routing(self, method, **params)
        params = dict(params)
        split = {}
        if method == "fit_transform" and self.cv is not None and "groups" in params:
            split["groups"] = params.pop("groups")
        return Bunch(estimator=Bunch(fit=params, score=params), splitter=Bunch(split=split))

    def _fit(
        self,
        X: Any,
        y: Any,
        fit_params: dict[str, Any],
        split_params: dict[str, Any] | None = None,
    ) -> tuple[Any, NDArray[Any], list[tuple[NDArray[Any], NDArray[Any]]] | None]:
        """Check everything, then train; return the data and, given ``split_params``, the folds."""
        model = self._check_params()
        frozen = _is_frozen(self.estimator, model)
        if frozen and y is None:
            X = self._check_data(X, model=model)
        else:
            X, y = self._check_data(X, y, model=model)
        self._check_before_training(model, X, y, frozen)
        folds = None
        if self.cv is not None and split_params is not None and not frozen:
            folds = self._split(X, y, split_params, _has_classes(model))
        if frozen:
            self.estimator_ = self.estimator
        else:
            self.estimator_ = self._train(self._make_network(), X, y, fit_params)
        self._read_network(X)
        return X, y, folds

    def _check_before_training(self, model: Model, X: Any, y: Any, frozen: bool) -> None:
        """Raise if the data or a parameter that depends on them is invalid, as far as known."""
        classes = model.classes
        if frozen:
            self._check_frozen(X)
        elif _has_classes(model):
            check_classification_targets(y)
            classes = np.unique(y)
        self._check_target(classes if model.has_explain or np.isscalar(self.target) else None)
        if not frozen and model.has_explain and is_regression(model.network):
            self._check_outputs(model, y)
        if model.before is None and self.aggregate is not None:
            group_features(self.aggregate, model.network, self.sample_shape_)

    def _read_network(self, X: Any) -> None:
        """Set what the trained network tells of its maps, and raise if they cannot be made."""
        model = unwrap(self.estimator_)
        entered = model.enter(take_rows(X, slice(1)))
        self.map_shape_ = tuple(np.shape(entered)[1:])
        key = split_key(self.target)[0] if model.takes_tensors and model.classes is None else None
        if key is not None:
            model = replace(model, reading=read_name(model, entered, key))
        self.classes_ = None if key is not None else model.classes_for(entered)
        if self.classes_ is None:
            self.n_outputs_ = model.outputs(entered).shape[1]
        self._check_target(model.classes)
        if self.aggregate is not None:
            group_features(self.aggregate, model.network, self.map_shape_)
        if model.is_frozen or not model.has_explain:
            # What its outputs are was not known before: one sample tells whether all fits.
            self._explain(self.estimator_, take_rows(X, slice(1)))

    def _check_params(self) -> Model:
        """Take the estimator apart; raise if a parameter is invalid, as far as is known yet."""
        check_own_params(self)
        check_jobs(self.n_jobs)
        check_rule(self.rule)
        model = unwrap(self.estimator, fitted=False, name="estimator")
        if self.reference is not None:
            has_mean = model.has_explain and is_regression(model.network)
            check_reference(self.reference, has_mean=has_mean)
        return model

    def _check_data(
        self, X: Any, y: Any = "no_validation", *, model: Model, reset: bool = True
    ) -> Any:
        """Return ``X`` as the model shall see it, with its column names if any, and ``y``."""
        forbid_stream(X)
        has_y = not (isinstance(y, str) and y == "no_validation")
        if has_y and isinstance(y, str | bytes):
            raise TypeError(f"y must hold a value for each sample, got {say_value(y)}.")
        X = to_host(X)
        if not is_stored(X):  # parts of which are checked when they are read
            X = forbid_masked(X, "X") if model.before is None else mask_to_nan(X)
            if model.before is None:
                is_of_its_own = issparse(X) or hasattr(X, "columns")
                forbid_text(X if is_of_its_own else as_plain_array(X, "X"))  # y may match X yet
        validate_data(self, X, y, reset=reset, skip_check_array=True, ensure_2d=False)
        y = as_plain_array(match_samples(y, X, "y"), "y") if has_y else y
        has_labels = has_y and _has_classes(model)
        if has_labels:
            forbid_missing(y)
        if is_stored(X):
            array = X
            y = column_or_1d(y, warn=True) if has_labels else y
        elif model.before is not None:  # whose steps check the samples, maybe texts or with gaps
            array = _take_raw(X)
            y = column_or_1d(y) if has_labels else y
        else:
            with np.errstate(invalid="ignore"):  # infinities of both signs, whose error comes next
                if has_labels:
                    array, y = check_X_y(X, y, allow_nd=True, estimator=self)
                else:
                    array = check_array(X, allow_nd=True, estimator=self, input_name="X")
        if has_y:
            y = np.asarray(y)
            check_consistent_length(array, y)
        shape = tuple(array.shape[1:])
        n_features = int(np.prod(shape))
        if reset:
            self.sample_shape_ = shape
            self.n_features_in_ = n_features
        elif n_features != self.n_features_in_:
            raise ValueError(
                f"X has {n_features} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input; samples of shape {shape}, fitted on "
                f"{self.sample_shape_}."
            )
        takes_names = model.has_explain or model.before is not None
        if get_feature_names(X) is None or not takes_names:
            X = array
        return (X, y) if has_y else X

    def _check_frozen(self, X: Any) -> None:
        """Raise if the frozen estimator was fitted on samples of another size."""
        n_features = getattr(self.estimator, "n_features_in_", self.n_features_in_)
        if n_features != self.n_features_in_:
            raise ValueError(
                f"X has {self.n_features_in_} features, but the frozen estimator is expecting "
                f"{n_features} features as input."
            )

    def _check_target(self, classes: NDArray[Any] | None) -> None:
        """Raise if ``target`` is neither None, nor "all", nor one of the classes, if any."""
        if self.target is None or self._explains_all() or classes is None:
            return
        asked = as_plain_array(self.target, "target")
        if asked.ndim or look_up(asked, classes, exact=True)[1]:
            raise ValueError(
                f"target of {type(self).__name__} must be None (the predicted class), 'all' or "
                f"one of the class labels {classes.tolist()}, got {say_value(self.target)}."
            )

    def _check_outputs(self, model: Model, y: NDArray[Any]) -> None:
        """Raise if ``target`` or ``reference`` do not fit what a regressor is to be trained on."""
        if y.dtype.kind not in "iuf":  # which the training refuses
            return
        values = y.reshape(len(y), -1)
        n_outputs = values.shape[1]
        outputs = decode_output(self.target, len(y), n_outputs, model.name)
        if self.reference is not None:
            reference = read_reference(self.reference, (n_outputs,), values.mean(axis=0))
            ranges = np.stack([values.min(axis=0), values.max(axis=0)], axis=1)
            check_in_range(self.reference, reference, ranges, outputs)

    def _explains_all(self) -> bool:
        return asks_for_all(self.target)

    def _split(
        self, X: Any, y: NDArray[Any], split_params: dict[str, Any], known: bool
    ) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """Return the folds of ``cv``: each sample is in one test fold, each class in all others.

        ``known`` says whether ``y`` holds classes.
        """
        splits = check_cv(self.cv, y, classifier=known).split(X, y, **split_params)
        folds = check_folds(splits, self.cv, len(y))
        tested = np.sort(np.concatenate([test for _, test in folds]))
        if not np.array_equal(tested, np.arange(len(y))):
            raise ValueError(
                f"cv must put each sample into exactly one test fold, which {self.cv!r} does not; "
                "use one that partitions, such as StratifiedKFold or GroupKFold."
            )
        for i, (seen, _) in enumerate(folds if known else []):
            missing = np.setdiff1d(y, y[seen])
            if missing.size:
                raise ValueError(
                    f"cv={self.cv!r} leaves no training sample of the classes {missing.tolist()} "
                    f"in fold {i}; use fewer or stratified folds, or more samples of them."
                )
        return folds

    def _make_network(self) -> tuple[Any, int | None]:
        """Return an unfitted clone that has the random state handed on, and the seed."""
        network = clone(self.estimator)
        if self.random_state is None:
            return network, None
        seed = self.random_state
        if not isinstance(seed, Integral):
            seed = check_random_state(seed).randint(np.iinfo(np.int32).max)
        names = [
            n for n in network.get_params() if n == "random_state" or n.endswith("__random_state")
        ]
        return network.set_params(**dict.fromkeys(names, seed)) if names else network, int(seed)

    def _explain_fold(
        self,
        made: tuple[Any, int | None],
        X: Any,
        y: NDArray[Any],
        fit_params: dict[str, Any],
        train: NDArray[Any],
        test: NDArray[Any],
    ) -> NDArray[np.floating]:
        """Train a network on one part of the samples and explain another."""
        params = check_method_params(X, fit_params, train)
        network = self._train(made, _part_of_samples(X, train), y[train], params)
        return self._explain(network, _part_of_samples(X, test))

    def _train(
        self, made: tuple[Any, int | None], X: Any, y: NDArray[Any], fit_params: dict[str, Any]
    ) -> Any:
        network, seed = made
        return train_network(network, _take_dtype(network, X), y, fit_params, self.memory, seed)

    def _explain(self, network: Any, X: Any) -> NDArray[np.floating]:
        """Return the features of samples: explained, summed by group, normalised and flat."""
        by_score = self.normalize == "score"
        model = unwrap(network)
        entering = model.enter(X)
        features = self._make_features(model, entering)
        # Maps are summed chunk by chunk, as they are made: all of them may not fit into memory.
        result = explain(
            model.network,
            entering,
            target=self.target,
            rule=self.rule,
            epsilon=self.epsilon,
            contrast=self.contrast,
            reference=self.reference,
            batch_size=self.batch_size,
            n_jobs=self.n_jobs,
            return_details=by_score,
            out=features if _takes_out(model) else None,
        )
        relevance, details = result if by_score else (result, None)
        if relevance is not features:
            features[:] = np.asarray(relevance)
        if details is not None:
            features.divide(np.asarray(details["score"]))
        return features.values.reshape(len(features.values), -1)

    def _make_features(self, model: Model, entering: Any) -> _Features:
        """Return where the features of samples are put, map by map."""
        n_maps = 1
        if self._explains_all():
            n_maps = self.n_outputs_ if self.classes_ is None else len(self.classes_)
        shape = (len(entering), *((n_maps,) if self._explains_all() else ()), *entering.shape[1:])
        codes = None
        if self.aggregate is not None:
            codes, _ = group_features(self.aggregate, model.network, self.map_shape_)
        return _Features(shape, n_maps, _floating_dtype(model, entering), codes, self.normalize)


class _Features:
    """Features made of maps as these are written to it: summed by group, and normalised.

    Parameters
    ----------
    shape : tuple of int
        The shape of all maps.
    n_maps : int
        How many of them a sample has.
    dtype : dtype
        Their dtype.
    codes : ndarray of shape (n_features,) or None
        The group of each value of a map; None sums nothing.
    normalize : {"l1", "max", "score"} or None
        What features are divided by; "score" leaves it to `divide`.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        n_maps: int,
        dtype: Any,
        codes: NDArray[np.intp] | None,
        normalize: str | None,
    ) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.n_maps, self.normalize = n_maps, normalize
        self._sums = None if codes is None else GroupSums(codes)
        n_features = int(np.prod(shape)) // (shape[0] * n_maps)
        n_groups = n_features if self._sums is None else self._sums.n_groups
        self.values = np.empty((shape[0], n_maps, n_groups), self.dtype)

    def __setitem__(self, rows: slice, maps: NDArray) -> None:
        maps = maps.reshape(len(maps), self.n_maps, -1)
        found = maps if self._sums is None else self._sums(maps)
        if self.normalize in ("l1", "max"):
            size = np.abs(found)
            size = size.sum(axis=-1) if self.normalize == "l1" else size.max(axis=-1)
            found = found / _divisor(size, found)
        self.values[rows] = found

    def divide(self, size: NDArray) -> None:
        """Divide the features of each map by a number, unless that is zero."""
        self.values /= _divisor(size, self.values)


def _divisor(size: NDArray, features: NDArray) -> NDArray:
    """Return what features of samples and maps are divided by: one in place of zero."""
    size = size.reshape(*features.shape[:2], 1).astype(features.dtype, copy=False)
    return np.where(size == 0, 1, size)


def _floating_dtype(model: Model, entering: Any) -> Any:
    """Return the dtype of the relevance of what enters a network."""
    if hasattr(entering, "iloc"):
        single = all(dtype == np.float32 for dtype in entering.dtypes)
        return np.float32 if single else np.float64
    if entering.dtype.kind == "f":
        return entering.dtype
    is_single = not model.has_explain and model.dtype_and_device[0] == torch.float32
    return np.float32 if is_single else np.float64


def _takes_out(model: Model) -> bool:
    """Tell whether relevance can be written where it is to be, also by a user's ``explain``."""
    if not model.has_explain:
        return True
    return "out" in inspect.signature(model.network.explain).parameters


def _part_of_samples(X: Any, rows: NDArray[np.intp]) -> Any:
    """Return some of the samples; of those in a file or in chunks they are read when needed."""
    return as_stored(X).take(rows) if is_stored(X) else safe_indexing(X, rows)


def _take_raw(X: Any) -> Any:
    """Return samples that the steps before a network check, if rows can be taken of them."""
    if hasattr(X, "data_vars"):
        raise TypeError(
            "X is an xarray.Dataset, which has no axis of samples: pass its variables as "
            "channels, X.to_dataarray('variable').transpose('time', ...), to a GridVectorizer("
            "channel_dim='variable')."
        )
    array = X if hasattr(X, "shape") else np.asarray(X)
    if not array.shape[0]:
        raise ValueError(f"X must hold at least one sample, got the shape {tuple(array.shape)}.")
    return array


def _is_frozen(estimator: Any, model: Model) -> bool:
    """Tell whether an estimator is taken as it is: at the user's word, or as it cannot train."""
    return isinstance(estimator, FrozenEstimator) or isinstance(model.network, nn.Module)


def _has_classes(model: Model) -> bool:
    """Tell whether a network is trained on the labels of classes."""
    network = model.network
    if isinstance(network, nn.Module) or is_regression(network):
        return False
    return model.has_explain or is_classifier(network)


def _take_dtype(estimator: Any, X: Any) -> Any:
    """Return samples in the dtype of a skorch net, which takes no other in training."""
    model = unwrap(estimator, fitted=False)
    if model.has_explain or isinstance(model.network, nn.Module):
        return X
    if model.before is not None and not isinstance(X, np.ndarray):
        return X
    net = model.network
    if not isinstance(getattr(net, "module_", None), nn.Module):
        with RandomStream(torch.device("cpu"), 0):  # the training draws what it would have drawn
            net = clone(net).initialize()
    return Model(None, net).typed(X)
