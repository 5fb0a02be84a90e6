"""Relevance maps as features of a pipeline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from joblib import Memory
from numpy.typing import ArrayLike, NDArray
from sklearn import get_config
from sklearn.base import BaseEstimator, MetaEstimatorMixin, TransformerMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import check_cv
from sklearn.utils import Bunch, get_tags
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import (
    check_array,
    check_is_fitted,
    check_random_state,
    check_X_y,
    validate_data,
)

from sklrp._network_cache import train_network
from sklrp._sklearn import (
    HasMethods,
    Interval,
    StrOptions,
    check_feature_names_in,
    check_method_params,
    check_own_params,
    get_feature_names,
    safe_indexing,
)
from sklrp.classifiers.diagram import nested_block
from sklrp.classifiers.sample_shapes import is_positive_integer
from sklrp.classifiers.saved import are_labels, is_shape
from sklrp.composites import check_rule

_AXES = ("channel", "row", "column", "time")


class RelevanceTransformer(TransformerMixin, MetaEstimatorMixin, BaseEstimator):
    r"""Turn samples into the relevance that a network gives to their features.

    Use it as a step of a :class:`~sklearn.pipeline.Pipeline` to feed relevance maps to another
    estimator, and in a search to choose how relevance is propagated. ``fit`` trains a clone of
    ``estimator``; ``transform`` explains it: feature :math:`i` of a sample becomes :math:`R_i`,
    its share of the explained score. The rule and its settings play no part in training: after
    ``fit`` they may be changed with ``set_params`` and hold for the next ``transform``.

    Parameters
    ----------
    estimator : estimator object
        A classifier with ``explain``, such as :class:`~sklrp.MLPClassifier`. It is cloned, not
        changed. In a :class:`~sklearn.frozen.FrozenEstimator` a fitted one is explained as it is
        and nothing is trained; that is right only for a network that was trained on other data.
    target : None, class label or "all", default=None
        The class to explain: ``None`` the predicted class of each sample, a label that class for
        every sample, ``"all"`` every class in turn, which gives ``n_classes`` times the features,
        also where a class has that name.
    rule : str, Rule or Composite, default="auto"
        How relevance is propagated, see :func:`sklrp.check_rule`. Given as an object, its
        parameters are searchable: ``rule__gamma`` of ``Gamma()``, ``rule__conv__gamma`` of the row
        ``"conv"`` of a :class:`~sklrp.Composite`.
    epsilon : float, default=1e-6
        The stabiliser of rules that have none of their own, at least 0, in units of the layers'
        pre-activations.
    contrast : bool, default=False
        Whether to explain the target's score minus that of the best other class.
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
        a new integer for each network. ``None`` leaves those of ``estimator``.

    Attributes
    ----------
    estimator_ : estimator object
        The network trained on all samples, or ``estimator`` itself where frozen.
    classes_ : ndarray of shape (n_classes,)
        The class labels.
    n_features_in_ : int
        Number of values per sample seen in ``fit``, over all axes of a shaped sample.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, only where ``X`` had names that are all strings.
    sample_shape_ : tuple of int
        The shape of one sample of ``X`` in ``fit``.

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
        "classes_": are_labels,
        "n_features_in_": is_positive_integer,
        "sample_shape_": is_shape,
    }
    _parameter_constraints: ClassVar[dict[str, list[Any] | str]] = {
        "estimator": [HasMethods(["fit"])],
        "target": "no_validation",
        "rule": "no_validation",
        "epsilon": [Interval(Real, 0, np.inf, closed="left")],
        "contrast": ["boolean"],
        "aggregate": [StrOptions(set(_AXES)), "array-like", None],
        "normalize": [StrOptions({"l1", "max", "score"}), None],
        "cv": ["cv_object"],
        "memory": [str, Path, HasMethods(["cache"]), None],
        "batch_size": [Interval(Integral, 1, None, closed="left"), None],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        estimator: Any,
        *,
        target: Any = None,
        rule: Any = "auto",
        epsilon: float = 1e-6,
        contrast: bool = False,
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
        self.aggregate = aggregate
        self.normalize = normalize
        self.cv = cv
        self.memory = memory
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(
        self, X: ArrayLike, y: ArrayLike | None = None, **fit_params: Any
    ) -> RelevanceTransformer:
        """Train the network on all samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, *sample_shape)
            The samples.
        y : array-like of shape (n_samples,)
            The class labels; may be left out where ``estimator`` is frozen.
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
            If ``estimator`` cannot explain or ``rule`` is none; before anything is trained.
        """
        with self._all_or_nothing():
            self._fit(X, y, self._route("fit", fit_params).estimator.fit)
        return self

    def fit_transform(
        self, X: ArrayLike, y: ArrayLike | None = None, **fit_params: Any
    ) -> NDArray[np.floating]:
        """Train the network on all samples and explain them, out-of-fold with ``cv``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, *sample_shape)
            The samples.
        y : array-like of shape (n_samples,)
            The class labels; may be left out where ``estimator`` is frozen.
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
        with self._all_or_nothing():
            X, y, folds = self._fit(X, y, routed.estimator.fit, split_params)
            if folds is None:
                return self._explain(self.estimator_, X)
            blocks = Parallel(n_jobs=self.n_jobs)(
                delayed(self._explain_fold)(
                    self._make_network(), X, y, routed.estimator.fit, *fold
                )
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
            The samples.

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
        self._check_target(np.asarray(self.classes_))
        return self._explain(self.estimator_, self._check_data(X, reset=False))

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
        """
        check_is_fitted(self)
        routed = self._route("score", score_params)
        unknown = {*np.ravel(y).tolist()} - {*np.asarray(self.classes_).tolist()}
        if unknown:
            raise ValueError(
                f"y has the labels {sorted(unknown, key=repr)}, which are not among the classes "
                f"{np.asarray(self.classes_).tolist()} that {type(self).__name__} was fitted on. "
                "In a cross-validation or a search, pass stratified folds: "
                "cv=StratifiedKFold(...)."
            )
        return self.estimator_.score(self._check_data(X, reset=False), y, **routed.estimator.score)

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
        names = check_feature_names_in(self, input_features)
        if self.aggregate is not None:
            names = self._find_groups(self.estimator_)[1]
        if self._explains_all():
            names = _join_names(_name_labels(self.classes_, "class"), names)
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
        tags.target_tags.required = not isinstance(self.estimator, FrozenEstimator)
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

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Leave all attributes as they were if fitting fails."""
        before = dict(vars(self))
        try:
            yield
        except BaseException:
            self.__dict__ = before
            raise

    def _fit(
        self,
        X: Any,
        y: Any,
        fit_params: dict[str, Any],
        split_params: dict[str, Any] | None = None,
    ) -> tuple[Any, NDArray[Any], list[tuple[NDArray[Any], NDArray[Any]]] | None]:
        """Check everything, then train; return the data and, given ``split_params``, the folds."""
        self._check_params()
        frozen = isinstance(self.estimator, FrozenEstimator)
        if frozen and y is None:
            X = self._check_data(X)
        else:
            X, y = self._check_data(X, y)
        if frozen:
            check_is_fitted(self.estimator)
            self._check_frozen(X)
        else:
            check_classification_targets(y)
        classes = np.asarray(self.estimator.classes_) if frozen else np.unique(y)
        self._check_target(classes)
        self._find_groups(self.estimator)
        folds = None
        if self.cv is not None and split_params is not None and not frozen:
            folds = self._split(X, y, split_params)
        self.estimator_ = train_network(self._make_network(), X, y, fit_params, self.memory)
        self.classes_ = self.estimator_.classes_
        self._find_groups(self.estimator_)
        return X, y, folds

    def _check_params(self) -> None:
        """Raise if a parameter is invalid, as far as that can be known without data."""
        check_own_params(self)
        is_class = isinstance(self.estimator, type)
        if is_class or not hasattr(self.estimator, "explain"):
            cls = self.estimator if is_class else type(self.estimator)
            raise TypeError(
                f"estimator of {type(self).__name__} must be an object with the methods fit and "
                "explain, such as MLPClassifier(), CNNClassifier() or LSTMClassifier(), or one of "
                f"them in a FrozenEstimator; got {'the class' if is_class else 'an object of'} "
                f"{cls.__name__}. Other steps, such as a scaler, go before the "
                f"{type(self).__name__} into the Pipeline; a skorch classifier gets the method by "
                "def explain(self, X, **params): return sklrp.explain(self.module_, X, **params)."
            )
        check_rule(self.rule)

    def _check_data(self, X: Any, y: Any = "no_validation", *, reset: bool = True) -> Any:
        """Return ``X`` as the network shall see it, with its column names if any, and ``y``."""
        validate_data(self, X, y, reset=reset, skip_check_array=True, ensure_2d=False)
        if isinstance(y, str):
            array, y = check_array(X, allow_nd=True, estimator=self, input_name="X"), None
        else:
            array, y = check_X_y(X, y, allow_nd=True, estimator=self)
        shape = array.shape[1:]
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
        X = array if get_feature_names(X) is None else X
        return X if y is None else (X, y)

    def _check_frozen(self, X: Any) -> None:
        """Raise if the frozen estimator was fitted on samples of another size."""
        n_features = getattr(self.estimator, "n_features_in_", self.n_features_in_)
        if n_features != self.n_features_in_:
            raise ValueError(
                f"X has {self.n_features_in_} features, but the frozen estimator is expecting "
                f"{n_features} features as input."
            )

    def _check_target(self, classes: NDArray[Any]) -> None:
        """Raise if ``target`` is neither None, nor "all", nor one of the classes."""
        if self.target is None or self._explains_all():
            return
        if not np.isscalar(self.target) or self.target not in classes.tolist():
            raise ValueError(
                f"target of {type(self).__name__} must be None (the predicted class), 'all' or "
                f"one of the class labels {classes.tolist()}, got {self.target!r}."
            )

    def _explains_all(self) -> bool:
        return isinstance(self.target, str) and self.target == "all"

    def _split(
        self, X: Any, y: NDArray[Any], split_params: dict[str, Any]
    ) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """Return the folds of ``cv``, each sample in one test fold and each class in all
        others."""
        folds = list(check_cv(self.cv, y, classifier=True).split(X, y, **split_params))
        tested = np.sort(np.concatenate([test for _, test in folds]))
        if not np.array_equal(tested, np.arange(len(y))):
            raise ValueError(
                f"cv must put each sample into exactly one test fold, which {self.cv!r} does not; "
                "use one that partitions, such as StratifiedKFold or GroupKFold."
            )
        for i, (seen, _) in enumerate(folds):
            missing = np.setdiff1d(y, y[seen])
            if missing.size:
                raise ValueError(
                    f"cv={self.cv!r} leaves no training sample of the classes {missing.tolist()} "
                    f"in fold {i}; use fewer or stratified folds, or more samples of them."
                )
        return folds

    def _make_network(self) -> Any:
        """Return an unfitted clone of the estimator that has the random state handed on."""
        network = clone(self.estimator)
        if self.random_state is None:
            return network
        seed = self.random_state
        if not isinstance(seed, Integral):
            seed = check_random_state(seed).randint(np.iinfo(np.int32).max)
        names = [
            n for n in network.get_params() if n == "random_state" or n.endswith("__random_state")
        ]
        return network.set_params(**dict.fromkeys(names, seed)) if names else network

    def _explain_fold(
        self,
        network: Any,
        X: Any,
        y: NDArray[Any],
        fit_params: dict[str, Any],
        train: NDArray[Any],
        test: NDArray[Any],
    ) -> NDArray[np.floating]:
        """Train a network on one part of the samples and explain another."""
        params = check_method_params(X, fit_params, train)
        network = train_network(network, safe_indexing(X, train), y[train], params, self.memory)
        return self._explain(network, safe_indexing(X, test))

    def _explain(self, network: Any, X: Any) -> NDArray[np.floating]:
        """Return the features of samples: explained, summed by group, normalised and flat."""
        by_score = self.normalize == "score"
        result = network.explain(
            X,
            target=self.target,
            rule=self.rule,
            epsilon=self.epsilon,
            contrast=self.contrast,
            batch_size=self.batch_size,
            n_jobs=self.n_jobs,
            return_details=by_score,
        )
        relevance, details = result if by_score else (result, None)
        n_maps = len(network.classes_) if self._explains_all() else 1
        relevance = np.asarray(relevance).reshape(len(X), n_maps, self.n_features_in_)
        codes, _ = self._find_groups(network)
        if codes is not None:
            order = np.argsort(codes, kind="stable")
            starts = np.searchsorted(codes[order], np.arange(codes.max() + 1))
            relevance = np.add.reduceat(relevance[..., order], starts, axis=-1)
        if self.normalize is not None:
            if details is not None:
                size = np.asarray(details["score"])
            elif self.normalize == "l1":
                size = np.abs(relevance).sum(axis=-1)
            else:
                size = np.abs(relevance).max(axis=-1)
            size = size.reshape(len(X), n_maps, 1).astype(relevance.dtype, copy=False)
            relevance = relevance / np.where(size == 0, 1, size)
        return relevance.reshape(len(X), -1)

    def _find_groups(self, estimator: Any) -> tuple[NDArray[np.intp] | None, list[str]]:
        """Return the group of each input feature, by number, and the names of the groups."""
        if self.aggregate is None:
            return None, []
        shape, axes = _axes_by_name(estimator, self.sample_shape_)
        if isinstance(self.aggregate, str):
            if self.aggregate not in axes:
                setting = "set input_shape in the estimator, "
                raise ValueError(
                    f"aggregate={self.aggregate!r} needs samples with such an axis; these have "
                    f"the shape {shape} with the axes {list(axes)}. Pass X of shape (n_samples, "
                    f"height, width), {setting if hasattr(estimator, 'input_shape') else ''}or "
                    "give region labels."
                )
            axis = axes[self.aggregate]
            codes = np.indices(shape, sparse=True)[axis]
            names = [f"{self.aggregate}{i}" for i in range(shape[axis])]
            return np.broadcast_to(codes, shape).ravel(), names
        regions = np.asarray(self.aggregate)
        if regions.shape not in ((self.n_features_in_,), self.sample_shape_, shape):
            raise ValueError(
                f"aggregate must hold one label per feature, in the shape {self.sample_shape_} of "
                f"a sample or flat, ({self.n_features_in_},); got the shape {regions.shape}."
            )
        try:
            labels, codes = np.unique(regions.ravel(), return_inverse=True)
            missing = bool(np.any(labels != labels))
        except TypeError:
            missing = True
        if missing:
            raise ValueError(
                "aggregate must hold labels that can be ordered, all strings or all numbers and "
                "none of them missing; give what is in no region its own label, such as 'rest'."
            )
        return codes, _name_labels(labels, "region")


def _axes_by_name(
    estimator: Any, sample_shape: tuple[int, ...]
) -> tuple[tuple[int, ...], dict[str, int]]:
    """Return the shape in which an estimator takes samples, and its axes by name.

    An estimator with ``input_shape`` is recurrent if it has a ``sweep`` and else convolutional.
    """
    shaped, recurrent = hasattr(estimator, "input_shape"), hasattr(estimator, "sweep")
    shape = getattr(estimator, "input_shape_", None)
    if shape is None:
        shape = getattr(estimator, "input_shape", None)
    n_features = int(np.prod(sample_shape))
    if shape is None and recurrent and len(sample_shape) == 1:
        shape = (n_features, 1)
    elif shape is None and recurrent and sample_shape[0] == 1:
        shape = sample_shape[1:]
    elif shape is None and shaped and len(sample_shape) < 3:
        shape = (1, *sample_shape)
    if shape is None or len(shape) < 2 or int(np.prod(shape)) != n_features:
        shape = sample_shape
    names: dict[int, dict[str, int]] = {
        2: {"row": 0, "time": 0, "column": 1, "channel": 1},
        3: {"channel": 0, "row": 1, "column": 2},
        4: {"channel": 0, "time": 1, "row": 2, "column": 3},
    }
    if shaped and not recurrent:
        names[2] = {"channel": 0, "time": 1}
    elif getattr(estimator, "sweep", None) in ("right", "left"):
        names[2] = {"row": 0, "channel": 0, "column": 1, "time": 1}
    return tuple(shape), names.get(len(shape), {})


def _name_labels(labels: NDArray[Any], prefix: str) -> list[str]:
    """Return labels as names: strings as they are, others behind a prefix."""
    return [label if isinstance(label, str) else f"{prefix}{label}" for label in labels.tolist()]


def _join_names(classes: list[str], names: Any) -> list[str]:
    """Return the names of all pairs of a class and a feature, if these are as many."""
    joined = [f"{label}_{name}" for label in classes for name in names]
    if len({*joined}) < len(classes) * len({*names}):
        clash = Counter(joined).most_common(1)[0][0]
        pairs = [(label, str(name)) for label in classes for name in names]
        pairs = [pair for pair, name in zip(pairs, joined, strict=True) if name == clash]
        raise ValueError(
            f"With target='all' the name {clash!r} would stand for the features {pairs}, each "
            "given as (class, feature). Rename the classes or the features."
        )
    return joined
